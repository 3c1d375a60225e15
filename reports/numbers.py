"""The numbers that the figures of a section draw, as CSV: one line a point."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from reports.outline import Section
from theory.judge.results import Agreement, Chart, Forest, HeatMap, Profile, TimeCourse

COLUMNS = ("figure", "panel", "role", "by", "subject", "x", "y", "value", "low", "high", "band", "sample")


def drawn_numbers(part: Section) -> str:
    """``data/<claim>.csv``; empty where a section draws nothing.

    A curve has x, y and the ends of its band; an estimate its category as x; a map x, y and value.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    lines = 0
    for found in part.charts():
        for panel, chart in found.panels:
            for line in _points(chart):
                writer.writerow([_safe(item) for item in (found.title, panel, *line, str(chart.sample))])
                lines += 1
    return stream.getvalue() if lines else ""


def _points(chart: Chart) -> Iterator[tuple[Any, ...]]:
    match chart:
        case TimeCourse() | Profile() | Agreement():
            for curve in chart.curves:
                low, high = curve.low or [None] * len(curve.x), curve.high or [None] * len(curve.x)
                what = (curve.role.value, curve.by, curve.subject)
                for x, y, lower, upper in zip(curve.x, curve.y, low, high, strict=True):
                    yield (*what, x, y, None, lower, upper, curve.band)
        case Forest():
            for one in chart.estimates:
                what = (one.role.value, one.by, one.subject)
                yield (*what, one.category, None, one.value, one.low, one.high, one.band)
        case HeatMap():
            for y, row in zip(chart.rows, chart.cells, strict=True):
                for x, value in zip(chart.columns, row, strict=True):
                    yield ("", str(chart.value), "", x, y, value, None, None, None)


def _safe(value: Any) -> Any:
    """A word that a spreadsheet would take for a formula is quoted."""
    text = isinstance(value, str) and value[:1] in "=+-@\t"
    return f"'{value}" if text else value
