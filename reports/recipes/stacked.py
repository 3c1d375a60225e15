"""Parts of a whole, a bar a category: what adds to the right of zero, what takes away to the left, and the sum."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from reports.palette import COLORS
from reports.recipes.canvas import Scale, numbers, set_scale, wrapped
from reports.recipes.forest import categories, heights
from reports.recipes.looks import Looks
from theory.judge.results import Estimate, Stack

__all__ = ["draw", "heights", "scales", "segments"]


def segments(chart: Stack, category: str) -> list[tuple[Estimate, float]]:
    """The parts of a category, each with the place where its bar begins."""
    ends = {True: 0.0, False: 0.0}
    found: list[tuple[Estimate, float]] = []
    for one in chart.estimates:
        if one.category == category:
            side = one.value >= 0
            found.append((one, ends[side]))
            ends[side] += one.value
    return found


def scales(charts: Sequence[Stack]) -> tuple[Scale, Scale]:
    """Of the sums; lines are counted from the top."""
    families = [
        numbers(
            *((start, start + one.value) for name in categories(chart) for one, start in segments(chart, name)),
            chart.margins,
        )
        for chart in charts
    ]
    lines = max(len(categories(chart)) for chart in charts)
    return Scale.of(families, linear=True), Scale(False, -0.6, lines - 0.4)


def draw(stack: Sequence[Axes], chart: Stack, looks: Looks, x: Scale, y: Scale, *, small: bool = False) -> None:
    """Into one axes."""
    del y
    (axes,) = stack
    names = categories(chart)
    set_scale(axes, "x", x, ticks=4 if small else 6, small=small)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    if len(chart.margins) == 2:
        axes.axvspan(*chart.margins, color=COLORS["grid"], alpha=0.6, linewidth=0, zorder=1)
    axes.axvline(0.0, color=COLORS["ink"], linewidth=0.8, zorder=1.5)
    for row, name in enumerate(names):
        parts = segments(chart, name)
        for one, start in parts:
            axes.barh(row, one.value, left=start, height=0.42, color=looks.of(one).color, linewidth=0, zorder=2)
        total = sum(one.value for one, _ in parts)
        axes.plot(
            (total,), (row,), linestyle="none", marker="|", markersize=20, color=COLORS["ink"], markeredgewidth=1.6,
            zorder=2.6,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [wrapped(name, 30) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
