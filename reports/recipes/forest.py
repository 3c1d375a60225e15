"""Estimates with their intervals, a line a category, against the margins that decide.

On a logarithmic axis what is a hundred times beyond everything it is held against would flatten all the rest: it stands
at the edge as an arrow, with its number, or those of a line with their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from reports.formatting import number
from reports.palette import COLORS
from reports.recipes.canvas import Scale, numbers, set_scale, wrapped
from reports.recipes.looks import Looks
from theory.judge.results import Forest, Role

#: Roles that are drawn as a tick across the line of their category.
_TICKS = (Role.PREDICTED, Role.BOUND, Role.REFERENCE)
#: Factor beyond the bounds and margins from which on an estimate stands at the edge.
_BEYOND = 100.0
#: Lines from which on they are too close for names of two lines.
_MANY = 20


def scales(charts: Sequence[Forest]) -> tuple[Scale, Scale]:
    """Of what is estimated; lines are counted from the top."""
    families = [
        numbers(
            *((one.value, *(end for end in (one.low, one.high) if end is not None)) for one in chart.estimates),
            chart.margins,
            () if chart.null is None else (chart.null,),
        )
        for chart in charts
    ]
    lines = max(len(categories(chart)) for chart in charts)
    return _cut(Scale.of(families), charts), Scale(False, -0.6, lines - 0.4)


def _cut(scale: Scale, charts: Sequence[Forest]) -> Scale:
    """Without what is far beyond all margins, bounds and nulls, where there are some."""
    held = [
        value
        for chart in charts
        for value in numbers(
            chart.margins,
            () if chart.null is None else (chart.null,),
            (one.value for one in chart.estimates if one.role in _TICKS),
        )
    ]
    if not scale.log or not held:
        return scale
    low, high = max(scale.low, min(held) / _BEYOND), min(scale.high, max(held) * _BEYOND)
    return scale if (low, high) == (scale.low, scale.high) else replace(scale, low=low, high=high, fixed=True)


def categories(chart: Forest) -> tuple[str, ...]:
    """In the order of reading."""
    return tuple(dict.fromkeys(one.category for one in chart.estimates))


def heights(chart: Forest, y: Scale) -> tuple[float, ...]:
    """One axes."""
    del chart, y
    return (1.0,)


def draw(stack: Sequence[Axes], chart: Forest, looks: Looks, x: Scale, y: Scale, *, small: bool = False) -> None:
    """Into one axes."""
    del y
    (axes,) = stack
    names = categories(chart)
    axes.margins(x=0.04)
    set_scale(axes, "x", x, ticks=4 if small else 6, small=small)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    if len(chart.margins) == 2:
        axes.axvspan(*chart.margins, color=COLORS["grid"], alpha=0.6, linewidth=0, zorder=1)
    for margin in chart.margins:
        axes.axvline(margin, color=COLORS["faint"], linewidth=0.9, dashes=(3, 2), zorder=1.6)
    if chart.null is not None:
        axes.axvline(chart.null, color=COLORS["ink"], linewidth=0.8, zorder=1.5)
    for row, name in enumerate(names):
        members = [one for one in chart.estimates if one.category == name]
        ranged = [one for one in members if one.role not in _TICKS]
        beyond: dict[bool, list[float]] = {}
        for one in members:
            look = looks.of(one)
            place = ranged.index(one) if one in ranged else 0.5 * (len(ranged) - 1)
            at = row + 0.5 * ((place + 0.5) / max(len(ranged), 1) - 0.5)
            if one.low is not None and one.high is not None:
                axes.plot(
                    (one.low, one.high), (at, at), color=look.color, linewidth=1.4, solid_capstyle="butt", zorder=2.5
                )
            if x.fixed and not x.low <= one.value <= x.high:
                above = one.value > x.high
                axes.plot(
                    (x.high if above else x.low,), (at,), linestyle="none", marker=">" if above else "<", markersize=5,
                    color=look.color, markeredgewidth=0, clip_on=False, zorder=2.6,
                )  # fmt: skip
                beyond.setdefault(above, []).append(one.value)
                continue
            marker, size, edge = ("|", 13, 1.3) if one.role in _TICKS else (look.marker, 4, 0)
            axes.plot(
                (one.value,), (at,), linestyle="none", marker=marker, markersize=size, color=look.color,
                markeredgewidth=edge, zorder=2.6,
            )  # fmt: skip
        for above, values in beyond.items():
            ends = dict.fromkeys(number(value, 2) for value in (min(values), max(values)))
            axes.annotate(
                " to ".join(ends), (x.high if above else x.low, row), xytext=(-6 if above else 6, 0),
                textcoords="offset points", ha="right" if above else "left", va="center", fontsize=6.5,
                color=COLORS["faint"],
            )  # fmt: skip
    axes.set_yticks(range(len(names)), [wrapped(name, 30 if len(names) < _MANY else 60) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
