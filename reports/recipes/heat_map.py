"""Maps: two-sided colors where values have a sign, one-sided where they are magnitudes; categories by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from reports.formatting import number
from reports.palette import COLORS, WHITE
from reports.recipes.canvas import DECADES, Scale, set_scale, wrapped
from reports.recipes.looks import Looks
from theory.judge.results import HeatMap

#: Cells up to which the numbers are written into them.
_FEW = 60
#: Columns or rows up to which uneven ones get cells of one size, each with its number on the axis.
_SEVERAL = 12


def scales(charts: Sequence[HeatMap]) -> tuple[Scale, Scale]:
    """Of the columns and of the rows."""
    return _scale([chart.columns for chart in charts]), _scale([chart.rows for chart in charts])


def _scale(families: Sequence[Sequence[float | str]]) -> Scale:
    scale = Scale.of([_places(values) for values in families], margin=0.0)
    return replace(scale, log=all(_spacing(values) == "log" for values in families))


def _spacing(values: Sequence[float | str]) -> str:
    """``"linear"`` or ``"log"`` where neighbours are even or many, else ``"named"``: cells of one size."""
    if any(isinstance(value, str) for value in values):
        return "named"
    given = np.asarray(values, dtype=float)
    if len(given) < 3 or _even(given):
        return "linear"
    if (given > 0).all() and (_even(np.log(given)) or (len(given) > _SEVERAL and given.max() >= DECADES * given.min())):
        return "log"
    return "linear" if len(given) > _SEVERAL else "named"


def _even(places: NDArray) -> bool:
    gaps = np.diff(places)
    return bool(gaps.max() <= 1.25 * gaps.min())


def _places(values: Sequence[float | str]) -> list[float]:
    named = _spacing(values) == "named"
    return [float(place) if named else float(value) for place, value in enumerate(values)]


def heights(chart: HeatMap, y: Scale) -> tuple[float, ...]:
    """One axes."""
    del chart, y
    return (1.0,)


def draw(stack: Sequence[Axes], chart: HeatMap, looks: Looks, x: Scale, y: Scale, *, small: bool = False) -> None:
    """Into one axes; the color bar is drawn by `color_bar`."""
    del looks
    (axes,) = stack
    places = {"x": _places(chart.columns), "y": _places(chart.rows)}
    edges = {}
    for name, scale, given in (("x", x, chart.columns), ("y", y, chart.rows)):
        named = _spacing(given) == "named"
        fitted = replace(scale, log=scale.log and not named, fixed=False)
        set_scale(axes, name, fitted, ticks=4 if small else 6, small=small)
        edges[name] = _edges(np.asarray(places[name]), log=fitted.log)
        if named:
            getattr(axes, f"set_{name}ticks")(places[name], [_name(value) for value in given])
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in chart.cells], dtype=float)
    mapping = color_mapping([chart])
    axes.set_facecolor(COLORS["empty"])
    ground = np.ma.masked_invalid(values)
    axes.pcolormesh(
        edges["x"], edges["y"], ground, norm=mapping.norm, cmap=mapping.cmap, rasterized=values.size > 400,
        shading="flat", linewidth=0, edgecolors="face",
    )  # fmt: skip
    level, given_values = chart.contour, values[np.isfinite(values)]
    inside = level is not None and given_values.size and given_values.min() < level < given_values.max()
    if inside and min(values.shape) >= 2:
        # A white edge below the dark line: seen on both ends of the color map.
        axes.contour(places["x"], places["y"], ground, levels=[level], colors=WHITE, linewidths=2.6)
        axes.contour(places["x"], places["y"], ground, levels=[level], colors="#000000", linewidths=1.1)
    if values.size <= _FEW and not small:
        for row, line in enumerate(chart.cells):
            for column, cell in enumerate(line):
                if cell is not None:
                    red, green, blue, _ = mapping.to_rgba(cell)
                    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                    axes.text(
                        places["x"][column], places["y"][row], number(cell, 2), ha="center", va="center", fontsize=6.5,
                        color=WHITE if dark else "#000000",
                    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(True)


def _name(value: float | str) -> str:
    return wrapped(value, 18) if isinstance(value, str) else number(value, 3)


def color_bar(canvas: Canvas, charts: Sequence[HeatMap], axes: Axes | None, place: Axes | None = None) -> None:
    """One for all maps of a family."""
    mapping = color_mapping(charts)
    bar = canvas.colorbar(
        mapping, ax=axes, cax=place, pad=0.02, aspect=28, fraction=0.05, extend=_extend(charts, mapping)
    )
    bar.outline.set_linewidth(0.6)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    chart = charts[0]
    level, low, high = chart.contour, bar.norm.vmin, bar.norm.vmax
    if level is not None and low is not None and high is not None and low < level < high:
        bar.ax.axhline(level, color=WHITE, linewidth=2.6)
        bar.ax.axhline(level, color="#000000", linewidth=1.1)
    contour = f"\n(line: {number(level, 3)})" if level is not None else ""
    bar.set_label(wrapped(str(chart.value), 44) + contour)


def color_mapping(charts: Sequence[HeatMap]) -> Any:
    """Two-sided about the center where there is one; logarithmic where magnitudes span decades."""
    given = [cell for chart in charts for row in chart.cells for cell in row if cell is not None]
    low, high = min(given, default=0.0), max(given, default=1.0)
    center, contour = charts[0].center, charts[0].contour
    if center is not None:
        if center > 0 and low > 0:  # ratios: as far up as down by factor
            most = max(high / center, center / low, 1.01)
            return ScalarMappable(LogNorm(center / most, center * most), "PuOr_r")
        most = max(high - center, center - low) or 1.0
        return ScalarMappable(Normalize(center - most, center + most), "PuOr_r")  # white is the center
    if low >= 0 and contour is not None and contour > 0 and high > 20 * contour:
        return ScalarMappable(LogNorm(contour / 100, min(contour * 100, high), clip=True), "cividis")
    if low > 0 and high > 300 * low:
        return ScalarMappable(LogNorm(low, high), "cividis")
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return ScalarMappable(Normalize(low, high), "cividis")


def _extend(charts: Sequence[HeatMap], mapping: Any) -> str:
    given = [cell for chart in charts for row in chart.cells for cell in row if cell is not None]
    below = min(given, default=0.0) < mapping.norm.vmin
    above = max(given, default=0.0) > mapping.norm.vmax * (1 + 1e-9)
    return "both" if below and above else "min" if below else "max" if above else "neither"


def _edges(centers: NDArray, *, log: bool) -> NDArray:
    """Cell edges halfway between neighbouring centers, on the axis as drawn."""
    if log and (centers > 0).all():
        return np.exp(_edges(np.log(centers), log=False))
    if len(centers) == 1:
        return np.array([centers[0] - 0.5, centers[0] + 0.5])
    middle = 0.5 * (centers[1:] + centers[:-1])
    return np.concatenate([[2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]])
