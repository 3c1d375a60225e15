"""Charts as SVG, alone or side by side, drawn with matplotlib. The same data gives the same bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reports.palette import COLORS
from reports.recipes import agreement, curves, forest, heat_map, stacked
from reports.recipes.canvas import Legend, Scale, finished, styled, wrapped
from reports.recipes.looks import MOST, Entry, Looks, subjects_of
from reports.recipes.words import axis_names, describe
from reports.svg import Drawing
from theory.judge.results import Agreement, Chart, Forest, HeatMap, Profile, Stack, TimeCourse

#: Ratio of the ends from which on a panel of a logarithmic family is logarithmic itself.
_DECADE = 8.0
_RECIPES: dict[type, ModuleType] = {
    TimeCourse: curves,
    Profile: curves,
    Agreement: agreement,
    Forest: forest,
    Stack: stacked,
    HeatMap: heat_map,
}


def draw(chart: Chart, *, width: float = 5.4) -> Drawing:
    """One chart, `width` inches wide; one with more subjects than colors is drawn subject by subject."""
    if len(subjects_of(entries(chart))) > MOST and not isinstance(chart, Forest):
        return draw_grid(by_subject(chart), width=2 * width, title=chart.title)
    recipe = _RECIPES[type(chart)]
    with styled():
        looks = Looks(entries(chart))
        legend = Legend(looks.legend(), width)
        x, y = recipe.scales([chart])
        heights = recipe.heights(chart, y)
        canvas = Canvas(figsize=(width, _height(chart, heights) + 0.17 * legend.rows), layout="constrained")
        stack = _stack(canvas, canvas.add_gridspec(1, 1)[0], heights)
        recipe.draw(stack, chart, looks, x, y)
        _label(stack, chart)
        if isinstance(chart, HeatMap):
            heat_map.color_bar(canvas, [chart], stack[0])
        stack[0].set_title(wrapped(str(chart.sample), 60), fontsize=6.8, loc="right", pad=3, color=COLORS["faint"])
        legend.draw(canvas)
        return finished(canvas, describe(chart))


def draw_grid(
    panels: Sequence[tuple[str, Chart]],
    *,
    family: Sequence[Chart] = (),
    width: float = 10.8,
    title: str = "",
) -> Drawing:
    """A named panel for each chart, on common axes wherever the numbers allow it.

    Args:
        panels: name and chart of each panel, all of one kind and with the same axes.
        family: all charts of which the panels are a part, whose colors and axes they share; default the panels.
        width: inches.
        title: of them all, for the description.
    """
    names, charts = [name for name, _ in panels], [chart for _, chart in panels]
    together = list(family) or charts
    first = charts[0]
    recipe = _RECIPES[type(first)]
    columns = _columns(len(charts))
    rows = math.ceil(len(panels) / columns)
    with styled(**{"lines.linewidth": 1.1, "xtick.labelsize": 6.8, "ytick.labelsize": 6.8}):
        looks = Looks([entry for chart in together for entry in entries(chart)])
        legend = Legend(looks.legend(), width)
        x, y = recipe.scales(together)
        stacks = [recipe.heights(chart, y) for chart in charts]
        deep = max(len(heights) for heights in stacks)
        height = max(_height(chart, (1.0,)) for chart in charts) if isinstance(first, Forest) else 1.75
        height += 0.7 * (deep - 1)
        above, below = 0.3 + 0.17 * legend.rows, 0.55
        total = height * rows + above + below
        canvas = Canvas(figsize=(width, total))
        left = 1.9 if isinstance(first, Forest) else 0.75 + 0.2 * (deep - 1)
        right = 1.1 if isinstance(first, HeatMap) else 0.1
        panel = (width - left - right) / columns
        # Placed by hand: solving for the layout of a hundred panels takes longer than drawing them.
        grid = canvas.add_gridspec(
            rows,
            columns,
            left=left / width,
            right=1 - right / width,
            bottom=below / total,
            top=1 - above / total,
            wspace=(1.7 if isinstance(first, Forest) else 0.18 if y.common else 0.5) / (panel - 0.3),
            hspace=(0.34 if x.common else 0.5) / 1.3,
        )
        lower: list[Axes] = []
        samples = {str(chart.sample) for chart in charts}
        for index, (name, chart) in enumerate(panels):
            stack = _stack(canvas, grid[index // columns, index % columns], stacks[index])
            # What a mark stands for is said once where all panels have the same.
            same = recipe is curves and index > 0 and _marked(chart) == _marked(charts[0])
            # Panels of different quantities, or ranges, are read one by one.
            own = _own(chart, y) if isinstance(chart, (TimeCourse, Profile)) and not y.common else y
            recipe.draw(stack, chart, looks, x, own, small=True, **({"named": not same} if recipe is curves else {}))
            shown = name if len(samples) == 1 else f"{name}; {chart.sample}"
            stack[0].set_title(wrapped(shown, 46), fontsize=7.2, loc="left", pad=3)
            if x.common:
                stack[-1].tick_params(labelbottom=index + columns >= len(panels))
            if y.common and index % columns and not isinstance(first, Forest):
                stack[0].tick_params(labelleft=False)
            lower.extend(stack[1:])
            if len(stack) > 1 and index % columns == 0:
                stack[1].set_ylabel(_below(chart), fontsize=6.2, labelpad=2)
        if lower:
            ends = [axes.get_ylim() for axes in lower]
            for axes in lower:
                axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
                axes.tick_params(labelleft=axes.get_ylabel() != "")
        if isinstance(first, HeatMap):
            place = canvas.add_axes(
                (1 - (right - 0.25) / width, below / total, 0.12 / width, 1 - (above + below) / total)
            )
            heat_map.color_bar(canvas, [one for one in together if isinstance(one, HeatMap)], None, place)
        x_label, y_label = axis_names(first)
        canvas.text(0.5, 0.1 / total, wrapped(x_label, 120), ha="center", va="bottom")
        canvas.text(0.08 / width, 0.5, wrapped(y_label, 60), rotation=90, ha="left", va="center")
        if len(samples) == 1:
            canvas.text(
                1 - 0.08 / width, 0.1 / total, wrapped(samples.pop(), 60), ha="right", va="bottom", fontsize=6.8,
                color=COLORS["faint"],
            )  # fmt: skip
        legend.draw(canvas, loc="upper left")
        head = f"{title}. " if title else ""
        return finished(canvas, f"{head}{len(panels)} panels ({', '.join(names)}). Each: {describe(first)}")


def entries(chart: Chart) -> tuple[Entry, ...]:
    """What has a role and a subject in a chart."""
    match chart:
        case TimeCourse() | Profile() | Agreement():
            return chart.curves
        case Forest():
            return chart.estimates
        case HeatMap():
            return ()


def by_subject(chart: Chart) -> tuple[tuple[str, Chart], ...]:
    """A panel for each subject, in which color is free to tell how numbers were had; levels are drawn in all."""
    assert isinstance(chart, (TimeCourse, Profile, Agreement))
    subjects = subjects_of(chart.curves)
    return tuple(
        (
            subject,
            dataclasses.replace(
                chart,
                curves=tuple(
                    dataclasses.replace(curve, subject="")
                    for curve in chart.curves
                    if curve.subject == subject or curve.subject not in subjects
                ),
            ),
        )
        for subject in subjects
    )


def _own(chart: TimeCourse | Profile, family: Scale) -> Scale:
    """The scale of one panel, logarithmic with its family where its numbers span a good part of a decade."""
    own = curves.scales([chart])[1]
    if family.log and not own.log and own.low > 0 and own.high > _DECADE * own.low:
        return dataclasses.replace(own, log=True)
    return own


def _marked(chart: Chart) -> list[str]:
    return [mark.what for mark in chart.marks] if isinstance(chart, (TimeCourse, Profile)) else []


def _columns(panels: int) -> int:
    return panels if panels < 4 else 2 if panels == 4 else 3 if panels <= 9 else 4


def _height(chart: Chart, heights: Sequence[float]) -> float:
    if isinstance(chart, Forest):
        lines = len(forest.categories(chart))
        return 0.8 + (0.3 if lines < 20 else 0.2) * lines
    if isinstance(chart, Agreement):
        return 4.2 if len(heights) == 1 else 5.2
    return 3.5 if len(heights) == 1 else 4.4


def _stack(canvas: Canvas, place: Any, heights: Sequence[float]) -> list[Axes]:
    if len(heights) == 1:
        return [canvas.add_subplot(place)]
    inner = place.subgridspec(len(heights), 1, height_ratios=heights, hspace=0.08)
    stack = [canvas.add_subplot(inner[row, 0]) for row in range(len(heights))]
    for axes in stack[:-1]:
        axes.tick_params(labelbottom=False)
    return stack


def _label(stack: Sequence[Axes], chart: Chart) -> None:
    x_label, y_label = axis_names(chart)
    stack[-1].set_xlabel(wrapped(x_label, 66))
    stack[0].set_ylabel(wrapped(y_label, 44))
    if len(stack) > 1:
        stack[1].set_ylabel(_below(chart))


def _below(chart: Chart) -> str:
    return "measured /\npredicted" if isinstance(chart, Agreement) else "measured /\npredicted − 1 (%)"
