"""Figures and tables as data: they travel inside a verdict, and the report draws them without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from theory.judge.results import Table

__all__ = ["Figure", "Heatmap", "Series", "Table"]

Scale = Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One labelled set of points: a line, points with error bars from `low` to `high`, or a band between them.

    Numbers are kept as tuples of floats, whatever sequence they came in.

    Raises:
        ValueError: if the lengths differ.
    """

    label: str
    x: Sequence[float] | NDArray[np.floating[Any]]
    y: Sequence[float] | NDArray[np.floating[Any]]
    low: Sequence[float] | NDArray[np.floating[Any]] | None = None
    high: Sequence[float] | NDArray[np.floating[Any]] | None = None
    style: Literal["line", "points", "band", "dashed"] = "line"

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(float(item) for item in value))
        lengths = {len(item) for item in (self.x, self.y, self.low, self.high) if item is not None}
        if len(lengths) != 1:
            raise ValueError(f"`Series({self.label!r})` needs x, y, low, high of one length; got {sorted(lengths)}.")


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """Values over a grid, `values[row][column]` at `(x[column], y[row])`; None marks a cell without a value."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]
    label: str
    low: float | None = None
    high: float | None = None
    contour: float | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Series, or a heatmap, with axes and a caption that says what a reader should see."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = ()
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    caption: str = ""
    heatmap: Heatmap | None = None
    marks: tuple[float, ...] = ()  # vertical lines, e.g. learning-rate decays
