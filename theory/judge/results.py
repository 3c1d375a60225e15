"""Results as data: what a claim hands over beside its verdict, for a report to draw.

A claim says what was measured, predicted or assumed (`Role`), of what (the subject), in which units, from how many
samples. It says nothing of colors, markers, scales or sizes: those follow from role and subject, in `reports`. A report
in turn computes no new number from what it is handed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from theory.judge.reading import is_sequence

Numbers: TypeAlias = Sequence[float] | NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


class Role(StrEnum):
    """How a number was had."""

    MEASURED = "measured"  # from simulation or training
    PREDICTED = "predicted"  # by the formula under test
    DECOY = "decoy"  # by a formula that the evidence should refute
    BOUND = "bound"  # what must not be exceeded
    MARGIN = "margin"  # what an error or an effect is held against
    REFERENCE = "reference"  # a level to read others by


class Band(StrEnum):
    """What lies between `low` and `high`."""

    FAMILY = "simultaneous interval"  # at the level of one test of the register's family
    INTERVAL = "95 % interval"
    STANDARD_ERROR = "± standard error"
    BRACKET = "bracket"
    RANGE = "min–max"
    QUARTILES = "quartiles"

    @property
    def is_error(self) -> bool:
        """Whether it says how uncertain a number is, and not how widely its members spread."""
        return self not in (Band.RANGE, Band.QUARTILES)


@dataclass(frozen=True)
class Axis:
    """What is read along an axis: its name, and its unit; a pure number has none."""

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Sample:
    """How many of what the numbers rest on; no count where nothing was sampled.

    Raises:
        ValueError: if the count is below 1, or it isn't said of what.
    """

    n: int | None
    of: str

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(f"`Sample(n=...)` must be ≥ 1; got {self.n}.")
        if not self.of:
            raise ValueError("`Sample(of=...)` must say what was counted; got ''.")

    def __str__(self) -> str:
        if self.n is None:
            return self.of
        shown = f"{self.n:,}".replace(",", "\u202f") if self.n >= 10_000 else str(self.n)
        return f"n = {shown} {self.of}"


#: Numbers that were computed, not sampled.
EXACT = Sample(None, "computed, not sampled")


@dataclass(frozen=True)
class Mark:
    """A place on the x axis, and what is there."""

    at: float
    what: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Numbers of one role about one subject; kept as tuples of floats, whatever sequence they came in.

    Args:
        role: how they were had.
        subject: what they are of, where a chart has several: a mode, a run, a method.
        x: coordinates; those of a prediction may be finer than those of a measurement.
        y: values.
        low: lower ends.
        high: upper ends.
        band: what lies between the ends.
        over: what a range or quartiles run over, such as ``"seeds"``.
        by: more exactly how they were had, where the role leaves it open: ``"as if H and C commuted"``.

    Raises:
        ValueError: if lengths differ, a number is not finite, or ends come without saying what they are.
    """

    role: Role
    x: Numbers
    y: Numbers
    subject: str = ""
    low: Numbers | None = None
    high: Numbers | None = None
    band: Band | None = None
    over: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        where = f"`Curve({self.role.value!r}, {self.subject!r})`"
        for name in ("x", "y", "low", "high"):
            value: Numbers | None = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(_finite(item, f"{where} {name}") for item in value))
        ends = (self.low, self.high)
        if len({end is None for end in ends}) > 1 or (self.low is None) != (self.band is None):
            raise ValueError(f"{where} needs low, high and band together, or none of them.")
        lengths = {len(item) for item in (self.x, self.y, *ends) if item is not None}
        if len(lengths) != 1:
            raise ValueError(f"{where} needs x, y, low, high of one length; got {sorted(lengths)}.")


@dataclass(frozen=True, kw_only=True)
class _Titled:
    title: str
    sample: Sample
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class TimeCourse(_Titled):
    """Curves over steps or epochs.

    Args:
        x: time.
        y: what is followed.
        curves: at least one.
        decays: where the learning rate dropped.
        marks: other times worth seeing.
    """

    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    decays: tuple[float, ...] = ()
    marks: tuple[Mark, ...] = ()
    kind: str = field(default="time course", init=False)

    def __post_init__(self) -> None:
        _need(self.curves, self.title)


@dataclass(frozen=True, kw_only=True)
class Profile(_Titled):
    """Curves over a setting, or a property of a direction."""

    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...] = ()
    kind: str = field(default="profile", init=False)

    def __post_init__(self) -> None:
        _need(self.curves, self.title)


@dataclass(frozen=True, kw_only=True)
class Agreement(_Titled):
    """Measurements against predictions of one quantity.

    Args:
        quantity: what was predicted (x of every curve) and measured (its y).
        curves: the points, subject by subject.
        within: smallest and largest measured / predicted that counts as agreement, if declared.
    """

    quantity: Axis
    curves: tuple[Curve, ...]
    within: tuple[float, float] | None = None
    kind: str = field(default="agreement", init=False)

    def __post_init__(self) -> None:
        _need(self.curves, self.title)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number about one category, with its interval."""

    category: str
    value: float
    low: float | None = None
    high: float | None = None
    band: Band | None = None
    role: Role = Role.MEASURED
    subject: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        where = f"`Estimate({self.category!r})`"
        for name in ("value", "low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _finite(getattr(self, name), f"{where} {name}"))
        if len({end is None for end in (self.low, self.high, self.band)}) > 1:
            raise ValueError(f"{where} needs low, high and band together, or none of them.")


@dataclass(frozen=True, kw_only=True)
class Forest(_Titled):
    """Estimates, category by category, against what they are held against.

    Args:
        x: what is estimated.
        estimates: in the order of reading; those of one category share a line.
        margins: the ends of the region that decides.
        null: the value of no effect.
    """

    x: Axis
    estimates: tuple[Estimate, ...]
    margins: tuple[float, ...] = ()
    null: float | None = None
    kind: str = field(default="forest", init=False)

    def __post_init__(self) -> None:
        _need(self.estimates, self.title)


@dataclass(frozen=True, kw_only=True)
class Stack(Forest):
    """A forest whose estimates of one category are parts of a whole: drawn end to end, what is negative to the left.

    Raises:
        ValueError: if an estimate has no subject, or one stands twice in a category.
    """

    kind: str = field(default="stack", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = [(one.category, one.subject) for one in self.estimates]
        if not all(subject for _, subject in parts) or len(set(parts)) < len(parts):
            raise ValueError(f"`Stack({self.title!r})` needs parts with names of their own in each category.")


@dataclass(frozen=True, kw_only=True)
class HeatMap(_Titled):
    """Values over a grid.

    Args:
        x: of the columns.
        y: of the rows.
        value: what is mapped.
        columns: a number or a name for each column.
        rows: likewise for each row.
        cells: ``cells[row][column]``; None where there is no value.
        center: where a value means nothing happened, for signed values; None for magnitudes.
        contour: a level worth a line.
    """

    x: Axis
    y: Axis
    value: Axis
    columns: tuple[float, ...] | tuple[str, ...]
    rows: tuple[float, ...] | tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    center: float | None = None
    contour: float | None = None
    kind: str = field(default="heat map", init=False)

    def __post_init__(self) -> None:
        where = f"`HeatMap({self.title!r})`"
        cells = tuple(
            tuple(None if cell is None else _finite(cell, f"{where} cells") for cell in row) for row in self.cells
        )
        object.__setattr__(self, "cells", cells)
        shape = (len(self.rows), len(self.columns))
        if 0 in shape or len(cells) != shape[0] or any(len(row) != shape[1] for row in cells):
            raise ValueError(f"{where} needs {shape[0]} × {shape[1]} cells, at least one.")


Chart: TypeAlias = TimeCourse | Profile | Agreement | Forest | HeatMap


@dataclass(frozen=True, kw_only=True)
class SmallMultiples(_Titled):
    """Charts of one kind with the same axes side by side, each under its name.

    Raises:
        ValueError: if there is no panel, or names and panels differ in number.
    """

    names: tuple[str, ...]
    panels: tuple[Chart, ...]
    kind: str = field(default="small multiples", init=False)

    def __post_init__(self) -> None:
        _need(self.panels, self.title)
        if len(self.names) != len(self.panels) or len({type(panel) for panel in self.panels}) > 1:
            raise ValueError(f"`SmallMultiples({self.title!r})` needs a name for each panel, and panels of one kind.")


#: Title of the table that says, condition by condition, whether a law may be judged on what was measured.
CONDITIONS = "May a law be judged here?"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under column heads; a cell is a number or a string."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""
    sample: Sample | None = None
    kind: str = field(default="table", init=False)

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"`Table({self.title!r})` needs rows of {len(self.columns)} cells; got rows of {wrong}.")


Result: TypeAlias = Chart | SmallMultiples | Table


def read_result(fields: Mapping[str, Any]) -> Result:
    """The result whose fields `dataclasses.asdict` gave.

    Raises:
        ValueError: if the kind is unknown or numbers are wrong.
        KeyError: if a field is missing.
        TypeError: if a field is unknown or of another type.
    """
    rest = dict(fields)
    kind = rest.pop("kind")
    if kind not in _KINDS:
        raise ValueError(f"`read_result(kind=...)` must be one of {sorted(_KINDS)}; got {kind!r}.")
    made = _KINDS[kind]
    return made(**{name: _READERS[name](value) if value is not None else None for name, value in rest.items()})


def _read_curve(item: Mapping[str, Any]) -> Curve:
    return Curve(**_with_role_and_band(item))


def _read_estimate(item: Mapping[str, Any]) -> Estimate:
    return Estimate(**_with_role_and_band(item))


def _with_role_and_band(item: Mapping[str, Any]) -> dict[str, Any]:
    return {**item, "role": Role(item["role"]), "band": None if item["band"] is None else Band(item["band"])}


def _read_panel(item: Mapping[str, Any]) -> Chart:
    panel = read_result(item)
    if isinstance(panel, (SmallMultiples, Table)):
        raise ValueError(f"`SmallMultiples(panels=...)` must hold charts; got a {panel.kind}.")
    return panel


def _tuples(value: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(row) for row in value)


def _each(read: Callable[[Any], Any]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    return lambda items: tuple(read(item) for item in items)


def _read_rows(value: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(row) if is_sequence(row) else row for row in value)


def _read_axis(item: Mapping[str, Any]) -> Axis:
    return Axis(**item)


def _read_sample(item: Mapping[str, Any]) -> Sample:
    return Sample(**item)


def _read_mark(item: Mapping[str, Any]) -> Mark:
    return Mark(**item)


_KINDS: Mapping[str, Callable[..., Result]] = {
    "time course": TimeCourse,
    "profile": Profile,
    "agreement": Agreement,
    "forest": Forest,
    "stack": Stack,
    "heat map": HeatMap,
    "small multiples": SmallMultiples,
    "table": Table,
}
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "title": str,
    "caption": str,
    "sample": _read_sample,
    "x": _read_axis,
    "y": _read_axis,
    "value": _read_axis,
    "quantity": _read_axis,
    "curves": _each(_read_curve),
    "estimates": _each(_read_estimate),
    "marks": _each(_read_mark),
    "decays": tuple,
    "within": tuple,
    "margins": tuple,
    "null": float,
    "columns": tuple,
    "rows": _read_rows,
    "cells": _tuples,
    "center": float,
    "contour": float,
    "names": tuple,
    "panels": _each(_read_panel),
}


def _finite(value: Any, where: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{where} must be finite; got {value}.")
    return number


def _need(items: Sequence[object], title: str) -> None:
    if not items:
        raise ValueError(f"the result {title!r} must show something; it is empty.")
