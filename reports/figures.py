"""Figures as SVG, drawn with matplotlib from the data that travels in a verdict.

Text is drawn as outlines of the fonts matplotlib brings, so that Greek and mathematics look alike everywhere. The same
data gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullLocator

from reports.formatting import number
from reports.palette import COLORS, WHITE, Look, legend_of, looks_of
from reports.svg import Drawing
from theory.judge.figure import Figure, Heatmap, Series

_MANY_POINTS = 1500
_STYLE = {
    "font.family": ["DejaVu Sans", "STIXGeneral"],
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.edgecolor": COLORS["faint"],
    "axes.labelcolor": COLORS["ink"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["faint"],
    "ytick.color": COLORS["faint"],
    "xtick.labelcolor": COLORS["ink"],
    "ytick.labelcolor": COLORS["ink"],
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 2.0,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.0,
    "path.simplify": True,
    "path.simplify_threshold": 0.25,
    "svg.fonttype": "path",
    "svg.hashsalt": "spikeshrink",
    "image.composite_image": False,
}


def draw(figure: Figure, *, width: float = 5.4, height: float = 3.5) -> Drawing:
    """One figure, `width` × `height` inches, taller if its legend needs the room."""
    with _style():
        styles = looks_of([figure])
        legend = legend_of([figure])
        columns = _legend_columns(legend, width)
        rows = math.ceil(len(legend) / columns) if len(legend) > 1 else 0
        canvas = Canvas(figsize=(width, height + 0.17 * rows), layout="constrained")
        axes = canvas.add_subplot()
        _draw_axes(axes, figure, styles)
        axes.set_xlabel(_wrapped(figure.x_label, 66))
        axes.set_ylabel(_wrapped(figure.y_label, 44))
        if figure.heatmap is not None:
            _draw_colorbar(canvas, axes, figure.heatmap)
        _draw_legend(canvas, legend, columns)
        return _finished(canvas, describe(figure))


def draw_grid(
    panels: Sequence[tuple[str, Figure]],
    *,
    family: Sequence[Figure] = (),
    width: float = 10.8,
    columns: int = 4,
) -> Drawing:
    """Small multiples: a named panel for each figure, on common axes wherever the data allow it.

    Args:
        panels: name and figure of each panel, all with the same axis labels.
        family: all figures of which the panels are a part, on whose common axes they are drawn; default the panels.
        width: inches.
        columns: at most so many panels side by side.
    """
    figures = list(family) or [figure for _, figure in panels]
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    first = panels[0][1]
    with _style(**{"lines.linewidth": 1.1, "xtick.labelsize": 6.8, "ytick.labelsize": 6.8}):
        styles = looks_of(figures)
        legend = legend_of(figures)
        legend_columns = _legend_columns(legend, width)
        legend_rows = math.ceil(len(legend) / legend_columns) if len(legend) > 1 else 0
        above, below, height = 0.3 + 0.17 * legend_rows, 0.5, 1.75
        total = height * rows + above + below
        canvas = Canvas(figsize=(width, total))
        shared: dict[str, Any] = {f"share{axis}": _commensurable(figures, axis) for axis in ("x", "y")}
        grid = canvas.subplots(rows, columns, squeeze=False, **shared)
        right = 1.1 if first.heatmap is not None else 0.1
        panel = (width - 0.75 - right) / columns
        # Placed by hand: solving for the layout of a hundred panels takes longer than drawing them.
        canvas.subplots_adjust(
            left=0.75 / width,
            right=1 - right / width,
            bottom=below / total,
            top=1 - above / total,
            wspace=(0.18 if shared["sharey"] else 0.5) / (panel - 0.3),
            hspace=(0.34 if shared["sharex"] else 0.5) / 1.3,
        )
        cells = list(grid.flat)
        for axes, (name, figure) in zip(cells, panels, strict=False):
            _draw_axes(axes, figure, styles, ticks=4, small=True)
            axes.set_title(_wrapped(name, 40), fontsize=7.4, loc="left", pad=3)
        for index, axes in enumerate(cells):
            if index >= len(panels):
                axes.set_visible(False)
            elif shared["sharex"]:
                axes.tick_params(labelbottom=index + columns >= len(panels))
        for axis, common in (("x", shared["sharex"]), ("y", shared["sharey"])):
            ends = _extent(figures, axis)
            if common and ends is not None and family:
                getattr(cells[0], f"set_{axis}lim")(*ends)
        if first.heatmap is not None:
            place = canvas.add_axes(
                (1 - (right - 0.25) / width, below / total, 0.12 / width, 1 - (above + below) / total)
            )
            _draw_colorbar(canvas, None, first.heatmap, place)
        canvas.text(0.5, 0.08 / total, _wrapped(first.x_label, 120), ha="center", va="bottom")
        canvas.text(0.08 / width, 0.5, _wrapped(first.y_label, 60), rotation=90, ha="left", va="center")
        _draw_legend(canvas, legend, legend_columns, loc="upper left")
        names = ", ".join(name for name, _ in panels)
        return _finished(canvas, f"{len(panels)} panels ({names}). Each: {describe(first)}")


def describe(figure: Figure) -> str:
    """The figure in words: title, axes, and what each series runs from and to."""
    log = {"x": " (logarithmic)" if figure.x_scale == "log" else "", "y": ""}
    log["y"] = " (logarithmic)" if figure.y_scale == "log" else ""
    parts = [f"{figure.title}. {figure.y_label}{log['y']} against {figure.x_label}{log['x']}."]
    kinds = {"points": "points", "line": "line", "dashed": "dashed line", "band": "band"}
    for series in figure.series:
        if not series.x:
            continue
        bars = " with intervals" if series.low is not None and series.style == "points" else ""
        ends = f"from {number(series.y[0], 3)} at {number(series.x[0], 3)} to {number(series.y[-1], 3)} at "
        parts.append(f"{series.label}: {kinds[series.style]}{bars}, {ends}{number(series.x[-1], 3)}.")
    if figure.heatmap is not None:
        given = _given(figure.heatmap)
        extent = f"values from {number(min(given), 3)} to {number(max(given), 3)}" if given else "no values"
        level = figure.heatmap.contour
        contour = f", contour at {number(level, 3)}" if level is not None else ""
        parts.append(f"Map of {figure.heatmap.label}: {extent}{contour}.")
    if figure.marks:
        parts.append(f"Vertical marks at {', '.join(number(mark, 3) for mark in figure.marks)}.")
    return " ".join(parts)


class _PlainLog(LogFormatterSciNotation):
    """Labels the ticks that a logarithmic axis of few decades labels, but as 0.6 and not as 6 × 10⁻¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return number(x) if super().__call__(x, pos) else ""


@contextlib.contextmanager
def _style(**changes: Any) -> Iterator[None]:
    """Matplotlib with the settings of this module, whatever the user's own are."""
    settings: Any = {**mpl.rcParamsDefault, **_STYLE, **changes, "backend": mpl.rcParams["backend"]}
    with warnings.catch_warnings(), mpl.rc_context(settings):
        # A run may carry a name in a script that the fonts lack: a box is drawn, the build goes on.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _draw_axes(axes: Axes, figure: Figure, looks: dict[str, Look], *, ticks: int = 6, small: bool = False) -> None:
    axes.margins(x=0.03, y=0.06)
    for name, scale in (("x", figure.x_scale), ("y", figure.y_scale)):
        if scale == "log" and any(value > 0 for value in _coordinates(figure, name)):
            getattr(axes, f"set_{name}scale")("log")
            axis = getattr(axes, f"{name}axis")
            axis.set_major_locator(LogLocator(numticks=ticks + 1))
            positive = [value for value in _coordinates(figure, name) if value > 0]
            if min(positive) > 1e-3 and max(positive) < min(1e4, 90 * min(positive)):
                axis.set_major_formatter(_PlainLog())
                axis.set_minor_formatter(_PlainLog())
            if small or max(positive) > 1e4 * min(positive):
                axis.set_minor_locator(NullLocator())
        else:
            getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    if figure.heatmap is not None:
        _draw_heatmap(axes, figure)
    else:
        axes.grid(visible=True, which="major")
        axes.set_axisbelow(True)
    for mark in figure.marks:
        axes.axvline(mark, color=COLORS["faint"], linewidth=0.8, dashes=(2, 2), zorder=1.5)
    for series in figure.series:
        if series.x:
            _draw_series(axes, series, looks[series.label], small=small)


def _draw_series(axes: Axes, series: Series, look: Look, *, small: bool) -> None:
    x = np.asarray(series.x)
    y = np.asarray(series.y)
    low = None if series.low is None else np.asarray(series.low)
    high = None if series.high is None else np.asarray(series.high)
    if axes.get_yscale() == "log" and low is not None and high is not None:
        # The end of an interval at or below zero lies below every decade: it is drawn down to the axis.
        positive = np.concatenate([y[y > 0], high[high > 0]])
        low = np.maximum(low, 1e-3 * positive.min() if positive.size else np.finfo(float).tiny)
    if series.style == "points":
        many = len(x) > _MANY_POINTS
        size = 1.6 if many else (2.4 if small or len(x) > 300 else 3.8 if len(x) < 60 else 3.2)
        if low is not None and high is not None:
            gaps = np.full_like(x, np.nan)
            bars = np.column_stack([low, high, gaps]).ravel()
            axes.plot(
                np.repeat(x, 3),
                bars,
                color=look.color,
                linewidth=0.7 if small or len(x) > 40 else 1.1,
                alpha=0.4 if len(x) > 40 else 0.75,
                zorder=2.5,
                solid_capstyle="butt",
                rasterized=many,
            )
        axes.plot(
            x,
            y,
            linestyle="none",
            marker=look.marker,
            markersize=size,
            color=look.color,
            markeredgewidth=0.5 if size > 3 else 0.0,
            markeredgecolor=COLORS["ground"],
            zorder=3,
            rasterized=many,
        )
        return
    if low is not None and high is not None:
        axes.fill_between(x, low, high, color=look.color, alpha=0.2, linewidth=0, zorder=2)
    if series.style == "band" and low is not None:
        return
    (line,) = axes.plot(x, y, color=look.color, zorder=2.8)
    if look.dashes is not None:
        line.set_dashes(look.dashes)
    elif len(x) == 1:
        line.set_marker(look.marker)


def _draw_heatmap(axes: Axes, figure: Figure) -> None:
    heatmap = figure.heatmap
    assert heatmap is not None
    values = np.array([[np.nan if value is None else value for value in row] for row in heatmap.values], dtype=float)
    x = _edges(np.asarray(heatmap.x, dtype=float), log=axes.get_xscale() == "log")
    y = _edges(np.asarray(heatmap.y, dtype=float), log=axes.get_yscale() == "log")
    axes.set_facecolor(COLORS["empty"])
    mapping = _color_mapping(heatmap)
    axes.pcolormesh(
        x, y, np.ma.masked_invalid(values), norm=mapping.norm, cmap=mapping.cmap, rasterized=True, shading="flat"
    )
    level = heatmap.contour
    given = _given(heatmap)
    if level is not None and min(values.shape) >= 2 and given and min(given) < level < max(given):
        ground = np.ma.masked_invalid(values)
        # A white edge below the dark line: seen on both ends of the color map.
        axes.contour(heatmap.x, heatmap.y, ground, levels=[level], colors=WHITE, linewidths=2.6)
        axes.contour(heatmap.x, heatmap.y, ground, levels=[level], colors="#000000", linewidths=1.1)
    for spine in axes.spines.values():
        spine.set_visible(True)


def _draw_colorbar(canvas: Canvas, axes: Axes | None, heatmap: Heatmap, place: Axes | None = None) -> None:
    bar = canvas.colorbar(_color_mapping(heatmap), ax=axes, cax=place, pad=0.02, aspect=28, fraction=0.05)
    bar.outline.set_linewidth(0.6)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    level = heatmap.contour
    low, high = bar.norm.vmin, bar.norm.vmax
    if level is not None and low is not None and high is not None and low < level < high:
        bar.ax.axhline(level, color=WHITE, linewidth=2.6)
        bar.ax.axhline(level, color="#000000", linewidth=1.1)
    contour = f"\n(line: {number(level, 3)})" if level is not None else ""
    bar.set_label(_wrapped(heatmap.label, 44) + contour)


def _color_mapping(heatmap: Heatmap) -> Any:
    given = _given(heatmap)
    low = heatmap.low if heatmap.low is not None else min(given, default=0.0)
    high = heatmap.high if heatmap.high is not None else max(given, default=1.0)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    if low < 0 < high and min(-low, high) > 0.25 * max(-low, high):
        most = max(-low, high)
        return ScalarMappable(Normalize(-most, most), "PuOr_r")  # white is zero
    if low > 0 and high > 300 * low:
        return ScalarMappable(LogNorm(low, high), "cividis")
    return ScalarMappable(Normalize(low, high), "cividis")


def _edges(centers: np.ndarray, *, log: bool) -> np.ndarray:
    """Cell edges halfway between neighbouring centers, on the axis as drawn."""
    if log and (centers > 0).all():
        return np.exp(_edges(np.log(centers), log=False))
    if len(centers) == 1:
        return np.array([centers[0] - 0.5, centers[0] + 0.5])
    middle = 0.5 * (centers[1:] + centers[:-1])
    return np.concatenate([[2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]])


def _draw_legend(canvas: Canvas, looks: dict[str, Look], columns: int, loc: Any = "outside upper left") -> None:
    if len(looks) < 2:
        return  # one series is named by the axis
    handles = [_handle(look) for look in looks.values()]
    labels = [_wrapped(label, 78) for label in looks]
    canvas.legend(handles, labels, loc=loc, ncols=columns, handler_map={tuple: HandlerTuple(ndivide=1)})


def _handle(look: Look) -> Any:
    if look.style == "subject":
        return Line2D([], [], color=look.color, linewidth=2.4, marker=look.marker, markersize=4.5, markeredgewidth=0)
    if look.style == "band":
        return Patch(facecolor=look.color, alpha=0.3, linewidth=0)
    if look.style == "points":
        dot = Line2D([], [], linestyle="none", marker=look.marker, markersize=3.8, color=look.color, markeredgewidth=0)
        bar = Line2D([], [], marker="|", markersize=8, color=look.color, linestyle="none", alpha=0.75)
        return (bar, dot) if look.bars else dot
    line = Line2D([], [], color=look.color)
    if look.dashes is not None:
        line.set_dashes(look.dashes)
    return (Patch(facecolor=look.color, alpha=0.2, linewidth=0), line) if look.bars else line


def _legend_columns(looks: dict[str, Look], width: float) -> int:
    """As many columns as the widest label leaves room for: letters are some 0.066 inch wide at 8 points."""
    if len(looks) < 2:
        return 1
    widest = 0.42 + 0.066 * min(max(len(label) for label in looks), 78)
    most = max(1, min(len(looks), int((width - 0.3) / widest)))
    return math.ceil(len(looks) / math.ceil(len(looks) / most))  # rows of one length


def _commensurable(figures: Sequence[Figure], name: str) -> bool:
    """Whether every panel fills a good part of the common axis, so that sharing it hides nothing."""
    spans = [span for figure in figures if (span := _span([figure], name)) is not None]
    whole = _span(figures, name)
    return whole is None or all(high - low >= 0.2 * (whole[1] - whole[0]) for low, high in spans)


def _span(figures: Sequence[Figure], name: str) -> tuple[float, float] | None:
    """Smallest and largest coordinate, in logarithms on a logarithmic axis."""
    values = []
    for figure in figures:
        found = _coordinates(figure, name)
        log = getattr(figure, f"{name}_scale") == "log"
        values.extend([math.log(value) for value in found if value > 0] if log else found)
    return (min(values), max(values)) if values else None


def _extent(figures: Sequence[Figure], name: str) -> tuple[float, float] | None:
    """Ends of the common axis of a family, with a margin."""
    span = _span(figures, name)
    if span is None or not span[0] < span[1]:
        return None
    margin = 0.0 if figures[0].heatmap is not None else 0.04 * (span[1] - span[0])
    low, high = span[0] - margin, span[1] + margin
    return (math.exp(low), math.exp(high)) if getattr(figures[0], f"{name}_scale") == "log" else (low, high)


def _coordinates(figure: Figure, name: str) -> list[float]:
    values = [value for series in figure.series for value in getattr(series, name)]
    if name == "y":
        values.extend(value for series in figure.series for value in (*(series.low or ()), *(series.high or ())))
    if figure.heatmap is not None:
        values.extend(getattr(figure.heatmap, name))
    return [float(value) for value in values]


def _given(heatmap: Heatmap) -> list[float]:
    return [value for row in heatmap.values for value in row if value is not None]


def _finished(canvas: Canvas, description: str) -> Drawing:
    canvas.patch.set_facecolor(COLORS["ground"])
    stream = io.StringIO()
    FigureCanvasSVG(canvas).print_svg(stream, metadata={"Date": None, "Creator": None, "Title": description})
    width, height = canvas.get_size_inches()
    return Drawing(svg=stream.getvalue(), description=description, width=96 * width, height=96 * height)


def _wrapped(text: str, columns: int) -> str:
    """`text` over as many lines as it needs; a dollar sign is one, and opens no formula."""
    return ("\n".join(textwrap.wrap(text, columns)) or text).replace("$", r"\$")
