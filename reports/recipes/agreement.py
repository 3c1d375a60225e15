"""Measurement against prediction: the 1:1 line, the declared margin, and below them the ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from reports.palette import COLORS
from reports.recipes.canvas import Scale, grid, numbers, set_scale
from reports.recipes.curves import draw_curve
from reports.recipes.looks import Looks
from theory.judge.results import Agreement, Curve


def scales(charts: Sequence[Agreement]) -> tuple[Scale, Scale]:
    """One scale for both axes."""
    points = [numbers(*(part for curve in chart.curves for part in (curve.x, curve.y))) for chart in charts]
    log = Scale.of(points).log
    ends = [numbers(*(part for curve in chart.curves for part in (curve.low, curve.high))) for chart in charts]
    # The end of an interval at or below zero must not turn a logarithmic axis into a linear one.
    families = [own + [end for end in given if end > 0 or not log] for own, given in zip(points, ends, strict=True)]
    scale = Scale.of(families, linear=not log)
    return scale, scale


def heights(chart: Agreement, y: Scale) -> tuple[float, ...]:
    """Decades hide a tenth: with a logarithmic axis the ratio is drawn too."""
    return (3.0, 1.3) if y.log else (1.0,)


def draw(stack: Sequence[Axes], chart: Agreement, looks: Looks, x: Scale, y: Scale, *, small: bool = False) -> None:
    """Into one axes, or two with the ratios below."""
    main = stack[0]
    ends = np.array([x.low, x.high])
    for axes in stack:
        axes.margins(x=0.02, y=0.06)
        set_scale(axes, "x", x, ticks=4 if small else 6, small=small)
        grid(axes)
    set_scale(main, "y", y, ticks=4 if small else 6, small=small)
    main.plot(ends, ends, color=COLORS["ink"], linewidth=0.9, zorder=1.8)
    for factor in chart.within or ():
        main.plot(ends, factor * ends, color=COLORS["faint"], linewidth=0.9, dashes=(3, 2), zorder=1.7)
    for curve in chart.curves:
        draw_curve(main, curve, looks.of(curve), small=small, dense=False)
    if len(stack) > 1:
        below = stack[1]
        below.axhline(1, color=COLORS["ink"], linewidth=0.9, zorder=1.8)
        for factor in chart.within or ():
            below.axhline(factor, color=COLORS["faint"], linewidth=0.9, dashes=(3, 2), zorder=1.7)
        for curve in chart.curves:
            draw_curve(below, _ratio(curve), looks.of(curve), small=small, dense=False)
        below.locator_params(axis="y", nbins=4)


def _ratio(curve: Curve) -> Curve:
    x = np.asarray(curve.x)
    parts = {
        name: np.asarray(getattr(curve, name)) / x for name in ("y", "low", "high") if getattr(curve, name) is not None
    }
    return replace(curve, **parts)
