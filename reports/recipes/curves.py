"""Time courses and profiles: what is measured as points with intervals, what is predicted as lines on their own grid.

Under a logarithmic axis a tenth is not seen: where measurement and prediction of a subject meet on one, their relative
difference is drawn below, at the places that both have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from reports.palette import COLORS
from reports.recipes.canvas import Scale, grid, numbers, set_scale
from reports.recipes.looks import Look, Looks
from theory.judge.results import Curve, Profile, Role, TimeCourse

_MANY_POINTS = 1500
#: Points from which on a measured time course is a line.
_DENSE = 60


def scales(charts: Sequence[TimeCourse | Profile]) -> tuple[Scale, Scale]:
    """Of x and y, for all panels of a family."""
    x = [numbers(*(curve.x for curve in chart.curves)) for chart in charts]
    values = [numbers(*(curve.y for curve in chart.curves if curve.role is not Role.DECOY)) for chart in charts]
    values = [own or numbers(*(curve.y for curve in chart.curves)) for own, chart in zip(values, charts, strict=True)]
    # A level to read others by says nothing of how far they lie apart.
    read = [numbers(*(curve.y for curve in chart.curves if curve.role is not Role.REFERENCE)) for chart in charts]
    apart = Scale.of(values).log and not Scale.of([own or every for own, every in zip(read, values, strict=True)]).log
    log = Scale.of(values).log and not apart
    y, beyond = [], False
    for chart, own in zip(charts, values, strict=True):
        ends = numbers(*(end for curve in chart.curves for end in (curve.low, curve.high)))
        # The end of an interval at or below zero must not turn a logarithmic axis into a linear one.
        own = own + [end for end in ends if end > 0 or not log]
        decoys = numbers(*(curve.y for curve in chart.curves if curve.role is Role.DECOY))
        kept = [value for value in decoys if _within(value, min(own), max(own), log=log)]
        beyond = beyond or len(kept) < len(decoys)
        y.append(own + kept)
    scale = Scale.of(y, linear=apart)
    return Scale.of(x, linear=isinstance(charts[0], TimeCourse)), replace(scale, fixed=scale.fixed or beyond)


def _within(value: float, low: float, high: float, *, log: bool) -> bool:
    """Whether a decoy is off by no more than half the range of all else: one further off would flatten it."""
    if log:
        room = (high / low) ** 0.5
        return value > 0 and low / room <= value <= high * room
    return low - 0.5 * (high - low) <= value <= high + 0.5 * (high - low)


def heights(chart: TimeCourse | Profile, y: Scale) -> tuple[float, ...]:
    """Of the stacked axes: with a residual panel, or without."""
    return (3.0, 1.1) if y.log and residuals(chart) else (1.0,)


def residuals(chart: TimeCourse | Profile) -> tuple[Curve, ...]:
    """measured / predicted − 1 in percent, where a subject has both at one place."""
    found = []
    for curve in chart.curves:
        if curve.role is not Role.MEASURED or curve.band is None or not curve.band.is_error:
            continue  # without its error a difference cannot be read
        mates = [one for one in chart.curves if one.role is Role.PREDICTED and one.subject == curve.subject]
        if len(mates) != 1:
            continue
        known = dict(zip(mates[0].x, mates[0].y, strict=True))
        places = [place for place, x in enumerate(curve.x) if known.get(x, 0.0) > 0]
        if len(places) < 2:
            continue
        x = np.asarray(curve.x)[places]
        predicted = np.array([known[at] for at in x])
        parts = {
            name: 100 * (np.asarray(getattr(curve, name))[places] / predicted - 1)
            for name in ("y", "low", "high")
            if getattr(curve, name) is not None
        }
        found.append(replace(curve, x=x, **parts))
    return tuple(found)


def draw(
    stack: Sequence[Axes],
    chart: TimeCourse | Profile,
    looks: Looks,
    x: Scale,
    y: Scale,
    *,
    small: bool = False,
    named: bool = True,
) -> None:
    """Into one axes, or two with the residuals below; `named`: whether marks are named beside their lines."""
    main = stack[0]
    ticks = 4 if small else 6
    for axes in stack:
        axes.margins(x=0.03, y=0.06)
        set_scale(axes, "x", x, ticks=ticks, small=small)
        grid(axes)
        for place in chart.decays if isinstance(chart, TimeCourse) else ():
            axes.axvline(place, color=COLORS["faint"], linewidth=0.8, dashes=(2, 2), zorder=1.5)
        for mark in chart.marks:
            axes.axvline(mark.at, color=COLORS["faint"], linewidth=0.8, dashes=(1, 1.5), zorder=1.5)
    set_scale(main, "y", y, ticks=ticks, small=small)
    for mark in chart.marks if named else ():
        main.annotate(
            mark.what.replace("$", r"\$"), (mark.at, 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
            textcoords="offset points", fontsize=6.5, color=COLORS["faint"], va="top",
        )  # fmt: skip
    dense = isinstance(chart, TimeCourse)
    for curve in chart.curves:
        draw_curve(main, curve, looks.of(curve), small=small, dense=dense)
    if len(stack) > 1:
        below = stack[1]
        below.axhline(0, color=COLORS["ink"], linewidth=0.8, zorder=1.6)
        for curve in residuals(chart):
            draw_curve(below, curve, looks.of(curve), small=small, dense=False)
        below.locator_params(axis="y", nbins=3 if small else 4)


def draw_curve(axes: Axes, curve: Curve, look: Look, *, small: bool, dense: bool) -> None:
    """One curve, as its role wants it."""
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    low, high = _ends(axes, curve)
    if curve.role is Role.MEASURED and not (dense and len(x) > _DENSE):
        many = len(x) > _MANY_POINTS
        if low is not None and high is not None:
            if not look.shaded:
                _bars(axes, x, low, high, look, thin=small or len(x) > 40, rasterized=many)
            else:
                axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=2)
        size = 1.6 if many else (2.4 if small or len(x) > 300 else 3.8 if len(x) < 60 else 3.2)
        axes.plot(
            x, y, linestyle="none", marker=look.marker, markersize=size, color=look.color, markeredgewidth=0,
            zorder=2.6, rasterized=many,
        )  # fmt: skip
        return
    if low is not None and high is not None:
        axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=2)
    thin = curve.role in (Role.REFERENCE, Role.MARGIN)
    (line,) = axes.plot(x, y, color=look.color, linewidth=0.9 if thin else None, zorder=1.8 if thin else 2.8)
    if len(x) == 1:
        line.set_marker(look.marker)
    elif look.dashes is not None:
        line.set_dashes(look.dashes)


def _ends(axes: Axes, curve: Curve) -> tuple[NDArray | None, NDArray | None]:
    if curve.low is None or curve.high is None:
        return None, None
    low, high = np.asarray(curve.low), np.asarray(curve.high)
    if axes.get_yscale() == "log":
        # The end of an interval at or below zero lies below every decade: it is drawn down to the axis.
        positive = [value for value in (*curve.y, *curve.high) if value > 0]
        low = np.maximum(low, 1e-3 * min(positive) if positive else np.finfo(float).tiny)
    return low, high


def _bars(axes: Axes, x: NDArray, low: NDArray, high: NDArray, look: Look, *, thin: bool, rasterized: bool) -> None:
    gaps = np.full_like(x, np.nan)
    axes.plot(
        np.repeat(x, 3), np.column_stack([low, high, gaps]).ravel(), color=look.color,
        linewidth=0.7 if thin else 1.1, alpha=0.4 if thin else 0.75, zorder=2.5, solid_capstyle="butt",
        rasterized=rasterized,
    )  # fmt: skip
