"""What all recipes share: one style, scales that follow from the numbers, legends, and SVG of equal bytes.

An axis is logarithmic where all its numbers are positive and span a factor of `DECADES`. Text is drawn as outlines of
the fonts matplotlib brings, so that Greek and mathematics look alike everywhere.
"""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullLocator

from reports.formatting import number
from reports.palette import COLORS
from reports.recipes.looks import Look
from reports.svg import Drawing
from theory.judge.results import Role

#: Factor between the largest and the smallest number of an axis from which on it is logarithmic.
DECADES = 30.0
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


@dataclass(frozen=True)
class Scale:
    """How the numbers of an axis are laid out, for one chart or for all panels of a family."""

    log: bool
    low: float
    high: float
    fixed: bool = False  # whether the ends are those of the axis: panels share them, or something lies beyond
    common: bool = False  # whether panels share the ends

    @classmethod
    def of(cls, families: Sequence[Sequence[float]], *, linear: bool = False, margin: float = 0.04) -> Scale:
        """From the numbers of each panel; the ends are common where every panel fills a good part of them."""
        values = [value for family in families for value in family]
        low, high = min(values), max(values)
        log = not linear and low > 0 and high >= DECADES * low

        def place(value: float) -> float:
            return math.log(value) if log else value

        whole = place(high) - place(low)
        whole = place(high) - place(low)
        common = (len(families) > 1 and whole > 0) and all(
            place(max(family)) - place(min(family)) >= 0.2 * whole for family in families if family
        )
        room = margin * whole if whole > 0 else 0.5 * (abs(low) or 1.0)
        if log:
            return cls(True, math.exp(place(low) - room), math.exp(place(high) + room), common, common)
        return cls(False, low - room, high + room, common, common)


def set_scale(axes: Axes, name: str, scale: Scale, *, ticks: int = 6, small: bool = False) -> None:
    """Lay out the axis `name`, ``"x"`` or ``"y"``."""
    axis = getattr(axes, f"{name}axis")
    if scale.log:
        getattr(axes, f"set_{name}scale")("log")
        axis.set_major_locator(LogLocator(numticks=ticks + 1))
        if scale.low > 1e-3 and scale.high < min(1e4, 90 * scale.low):
            axis.set_major_formatter(_PlainLog())
            axis.set_minor_formatter(_PlainLog())
        if small or scale.high > 1e4 * scale.low:
            axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    if scale.fixed:
        getattr(axes, f"set_{name}lim")(scale.low, scale.high)


class _PlainLog(LogFormatterSciNotation):
    """Labels the ticks that a logarithmic axis of few decades labels, but as 0.6 and not as 6 × 10⁻¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return number(x) if super().__call__(x, pos) else ""


@contextlib.contextmanager
def styled(**changes: Any) -> Iterator[None]:
    """Matplotlib with the settings of this module, whatever the user's own are."""
    settings: Any = {**mpl.rcParamsDefault, **_STYLE, **changes, "backend": mpl.rcParams["backend"]}
    with warnings.catch_warnings(), mpl.rc_context(settings):
        # A run may carry a name in a script that the fonts lack: a box is drawn, the build goes on.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def grid(axes: Axes) -> None:
    """Faint lines below everything."""
    axes.grid(visible=True, which="major")
    axes.set_axisbelow(True)


class Legend:
    """The lines of a legend, as many columns as the widest leaves room for."""

    def __init__(self, lines: Sequence[tuple[str, Look]], width: float) -> None:
        self._lines = lines
        self.columns, self.rows = 1, 0
        if lines:
            # Letters are some 0.066 inch wide at 8 points.
            widest = 0.42 + 0.066 * min(max(len(text) for text, _ in lines), 78)
            most = max(1, min(len(lines), int((width - 0.3) / widest)))
            self.rows = math.ceil(len(lines) / most)
            self.columns = math.ceil(len(lines) / self.rows)  # rows of one length

    def draw(self, canvas: Canvas, loc: Any = "outside upper left") -> None:
        """Above the charts."""
        if self._lines:
            canvas.legend(
                [_handle(look) for _, look in self._lines],
                [wrapped(text, 78) for text, _ in self._lines],
                loc=loc,
                ncols=self.columns,
                handler_map={tuple: HandlerTuple(ndivide=1)},
            )


def _handle(look: Look) -> Any:
    if look.role is None:
        return Line2D([], [], color=look.color, linewidth=2.4, marker=look.marker, markersize=4.5, markeredgewidth=0)
    shade = Patch(facecolor=look.color, alpha=0.2, linewidth=0)
    if look.role is Role.MEASURED:
        dot = Line2D([], [], linestyle="none", marker=look.marker, markersize=3.8, color=look.color, markeredgewidth=0)
        if look.band is None:
            return dot
        bar = Line2D([], [], marker="|", markersize=8, color=look.color, linestyle="none", alpha=0.75)
        return (shade if look.shaded else bar, dot)
    line = Line2D([], [], color=look.color)
    if look.dashes is not None:
        line.set_dashes(look.dashes)
    return (shade, line) if look.band is not None else line


def finished(canvas: Canvas, description: str) -> Drawing:
    """The drawing, the same bytes for the same data."""
    canvas.patch.set_facecolor(COLORS["ground"])
    stream = io.StringIO()
    FigureCanvasSVG(canvas).print_svg(stream, metadata={"Date": None, "Creator": None, "Title": description})
    width, height = canvas.get_size_inches()
    return Drawing(svg=stream.getvalue(), description=description, width=96 * width, height=96 * height)


def wrapped(text: str, columns: int) -> str:
    """`text` over as many lines as it needs; a dollar sign is one, and opens no formula."""
    return ("\n".join(textwrap.wrap(text, columns)) or text).replace("$", r"\$")


def numbers(*parts: Iterable[float] | None) -> list[float]:
    """All numbers of several sequences, absent ones left out."""
    return [float(value) for part in parts if part is not None for value in part]
