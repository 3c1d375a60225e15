"""A chart in words, for those who don't see it. Needs no matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

from reports.formatting import number
from reports.recipes.looks import words_of
from theory.judge.results import Agreement, Chart, Curve, Estimate, Forest, HeatMap, Profile, TimeCourse


def describe(chart: Chart) -> str:
    """Title, axes, and where each curve begins and ends; the numbers are in the file beside it."""
    match chart:
        case TimeCourse() | Profile():
            parts = [f"{chart.y} against {chart.x}.", *map(_curve, chart.curves)]
            if isinstance(chart, TimeCourse) and chart.decays:
                parts.append(f"Learning-rate decays at {_listed(chart.decays)}.")
            parts.extend(f"{mark.what} at {number(mark.at, 3)}." for mark in chart.marks)
        case Agreement():
            parts = [f"{chart.quantity}, measured against predicted.", *map(_agreement, chart.curves)]
            if chart.within is not None:
                parts.append(f"Agreement: measured / predicted from {_listed(chart.within, ' to ')}.")
        case Forest():
            parts = [f"{chart.x} by category.", *map(_estimate, chart.estimates)]
            if chart.margins:
                parts.append(f"Held against {_listed(chart.margins)}.")
        case HeatMap():
            given = [cell for row in chart.cells for cell in row if cell is not None]
            ends = f"from {number(min(given), 3)} to {number(max(given), 3)}" if given else "nowhere known"
            level = "" if chart.contour is None else f", line at {number(chart.contour, 3)}"
            parts = [f"{chart.value} over {chart.x} and {chart.y}: {ends}{level}."]
    return " ".join([f"{chart.title}.", *parts, f"{chart.sample}."])


def axis_names(chart: Chart) -> tuple[str, str]:
    """What is read along x and y."""
    match chart:
        case TimeCourse() | Profile() | HeatMap():
            return str(chart.x), str(chart.y)
        case Agreement():
            return f"predicted {chart.quantity}", f"measured {chart.quantity}"
        case Forest():
            return str(chart.x), ""


def _curve(curve: Curve) -> str:
    ends = f"from {number(curve.y[0], 3)} at {number(curve.x[0], 3)}" if len(curve.x) else "empty"
    if len(curve.x) > 1:
        ends += f" to {number(curve.y[-1], 3)} at {number(curve.x[-1], 3)}"
    return f"{_named(curve)}: {ends}."


def _agreement(curve: Curve) -> str:
    ratios = [y / x for x, y in zip(curve.x, curve.y, strict=True) if x]
    ends = f", measured / predicted {number(min(ratios), 3)} to {number(max(ratios), 3)}" if ratios else ""
    return f"{_named(curve)}: {len(curve.x)} points{ends}."


def _estimate(estimate: Estimate) -> str:
    ends = "" if estimate.low is None else f" [{number(estimate.low, 3)}, {number(estimate.high, 3)}]"
    return f"{estimate.category}, {_named(estimate)}: {number(estimate.value, 3)}{ends}."


def _named(entry: Curve | Estimate) -> str:
    return f"{entry.subject}, {words_of(entry)}" if entry.subject else words_of(entry)


def _listed(values: Sequence[float], between: str = ", ") -> str:
    return between.join(number(value, 3) for value in values)
