"""Rows as a parser read them, and the checks that make a `TrainingLog` of them.

A parser reports what the bytes say: rows with their line numbers, the run's arguments, remarks about lines that hold no
row, and faults it met. `check` then asks of the rows together what no parser can know alone: every epoch once and none
missing, values within their ranges, a learning rate. It mends one thing only, because the training script itself did
it: after a *restart* (a repeated header) the epochs that were trained again replace the earlier ones, and are counted.
A run that *diverged*, whose losses are not finite from some epoch to its end, is a run with an outcome, and no fault.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.logs.columns import COLUMNS, broken_rule

#: Faults named in full before the rest is only counted.
MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong, and where. `line` is 1-based; 0 speaks of the file as a whole."""

    line: int
    text: str

    def located(self, source: str) -> str:
        """``file:line: text``, or ``file: text``."""
        return f"{source}:{self.line}: {self.text}" if self.line else f"{source}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One epoch's values under canonical names, and the line they came from."""

    line: int
    values: Mapping[str, float]


@dataclass(kw_only=True)
class Parsed:
    """What a parser read.

    Args:
        format: ``"text"``, ``"csv"``, ``"tsv"``, ``"json-lines"`` or ``"tensorboard"``.
        rows: in the order of the file.
        arguments: the run's own account of its settings.
        restarts: indices into `rows` of the first row after a repeated header.
        remarks: lines that hold no row and are no fault: notices of the script, warnings of its libraries.
        faults: lines that should hold a row and do not.
        unread_columns: columns whose names say nothing to `canonical_name`.
        sparse: whether a column may be absent from some rows (formats that name every value may leave values out).
    """

    format: str
    rows: list[Row] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    restarts: list[int] = field(default_factory=list)
    remarks: list[Fault] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unread_columns: tuple[str, ...] = ()
    sparse: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """A checked log: every epoch once, in order, every value in its range.

    Args:
        format: see `Parsed`.
        columns: canonical name to values over the epochs, shape ``(epochs,)``, float64. NaN stands for "not measured
            at this epoch" or, from `diverged` on, "not finite"; ``epoch`` and ``learning_rate`` have none.
        diverged: first epoch from which on a loss was never finite again; None if there is none.
        arguments: see `Parsed`.
        remarks: see `Parsed`.
        restarts: epochs at which the run was taken up again.
        superseded: lines of epochs that a restart trained again.
        unread_columns: see `Parsed`.
    """

    format: str
    columns: Mapping[str, NDArray[np.float64]]
    diverged: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[Fault, ...] = ()
    restarts: tuple[int, ...] = ()
    superseded: tuple[int, ...] = ()
    unread_columns: tuple[str, ...] = ()

    @property
    def epochs(self) -> NDArray[np.float64]:
        """Epoch numbers as the log writes them, shape ``(epochs,)``."""
        return self.columns["epoch"]


class LogError(ValueError):
    """A log that cannot be evidence; the message has one line for each fault that is named."""

    def __init__(self, source: str, faults: Sequence[Fault]):
        self.source = source
        self.faults = tuple(faults)
        lines = [fault.located(source) for fault in self.faults[:MAX_NAMED]]
        if len(self.faults) > MAX_NAMED:
            rest = ", ".join(str(fault.line) for fault in self.faults[MAX_NAMED : MAX_NAMED + 20])
            more = len(self.faults) - MAX_NAMED
            lines.append(
                f"{source}: and {more} more, on line{'s' if more > 1 else ''} {rest}{' …' if more > 20 else ''}"
            )
        super().__init__("\n".join(lines))


def clashes(line: int, meanings: Iterable[tuple[str, str | None]]) -> list[Fault]:
    """A fault for every canonical column that several names of the file mean.

    Args:
        line: where the names stand.
        meanings: (name in the file, canonical name or None).
    """
    names: dict[str, list[str]] = {}
    for name, column in meanings:
        if column is not None:
            names.setdefault(column, []).append(name)
    return [
        Fault(line=line, text=f"`{column}` must be one column; the names {found} all mean it")
        for column, found in names.items()
        if len(found) > 1
    ]


def check(source: str, parsed: Parsed) -> TrainingLog:
    """The checked log.

    Args:
        source: name for messages.
        parsed: what the parser read.

    Raises:
        LogError: naming file, line, rule and value of whatever is wrong.
    """
    faults = list(parsed.faults)
    if not parsed.rows and not faults:
        faults.append(Fault(line=0, text="holds no epoch: no line could be read as a row of a training log"))
    present = [name for name in COLUMNS if any(name in row.values for row in parsed.rows)]
    rows, superseded, restarts = _apply_restarts(parsed)
    lost = _lost_losses(rows)
    faults += _value_faults(parsed, present, rows, lost)
    faults += _epoch_faults(rows)
    if parsed.rows and "learning_rate" not in present:
        head = ", ".join(present)
        faults.append(
            Fault(line=parsed.rows[0].line, text=f"a log must have a learning-rate column; got the columns {head}")
        )
    if parsed.rows and not any(name.endswith("_loss") for name in present):
        faults.append(Fault(line=parsed.rows[0].line, text="a log must have a loss column; name it with --column"))
    if faults:
        raise LogError(source, sorted(faults, key=lambda fault: fault.line))
    columns = {name: np.array([row.values.get(name, np.nan) for row in rows], dtype=np.float64) for name in present}
    for column in columns.values():
        column[np.isinf(column)] = np.nan
        column.setflags(write=False)
    return TrainingLog(
        format=parsed.format,
        columns=columns,
        diverged=min((int(rows[first].values["epoch"]) for first in lost.values()), default=None),
        arguments=parsed.arguments,
        remarks=tuple(parsed.remarks),
        restarts=restarts,
        superseded=superseded,
        unread_columns=parsed.unread_columns,
    )


def _apply_restarts(parsed: Parsed) -> tuple[list[Row], tuple[int, ...], tuple[int, ...]]:
    """Rows that count, lines of those a restart replaced, and the epochs restarted from."""
    kept: list[Row] = []
    superseded: list[int] = []
    restarts: list[int] = []
    starts = set(parsed.restarts)
    for index, row in enumerate(parsed.rows):
        epoch = row.values.get("epoch")
        if index in starts and epoch is not None:
            again = [old for old in kept if old.values.get("epoch", -1.0) >= epoch]
            kept = [old for old in kept if old not in again]
            superseded += [old.line for old in again]
            restarts.append(int(epoch))
        kept.append(row)
    return kept, tuple(superseded), tuple(restarts)


def _lost_losses(rows: Sequence[Row]) -> dict[str, int]:
    """Loss columns that stop being finite for good, and the first row of each from which on that is so.

    Such a run diverged: weights that are not finite stay so. A loss that is finite again later, or that never was while
    another one always is, tells of no divergence: its values are faults.
    """
    lost: dict[str, int] = {}
    whole = False
    for column in sorted({name for row in rows for name in row.values if name.endswith("_loss")}):
        given = [index for index, row in enumerate(rows) if column in row.values]
        finite = [index for index in given if math.isfinite(rows[index].values[column])]
        after = [index for index in given if not finite or index > finite[-1]]
        if after:
            lost[column] = after[0]
        whole = whole or len(finite) == len(given)
    if whole:
        lost = {column: first for column, first in lost.items() if first > 0}
    return lost


def _value_faults(parsed: Parsed, present: Iterable[str], kept: Sequence[Row], lost: Mapping[str, int]) -> list[Fault]:
    """Faults of single values; `kept` are the rows that count, `lost` as of `_lost_losses`."""
    faults = []
    place = {id(row): index for index, row in enumerate(kept)}
    for row in parsed.rows:
        for column, value in row.values.items():
            # Of a run that diverged: for good, or until it was taken up again from an earlier epoch.
            at = place.get(id(row))
            if column.endswith("_loss") and not math.isfinite(value) and (at is None or at >= lost.get(column, at + 1)):
                continue
            rule = broken_rule(column, value)
            if rule:
                faults.append(Fault(line=row.line, text=f"`{column}` must be {rule}; got {value:g}"))
        needed = ("epoch", "learning_rate") if parsed.sparse else present
        for column in needed:
            if column in present and column not in row.values:
                faults.append(Fault(line=row.line, text=f"`{column}` must be given in every row; it is missing here"))
    return faults


def _epoch_faults(rows: Sequence[Row]) -> list[Fault]:
    """Epochs that come twice, go back, or are left out. A steady stride (evaluation every k epochs) is no gap."""
    numbered = [(row.line, int(row.values["epoch"])) for row in rows if _is_whole(row.values.get("epoch"))]
    if not numbered:
        return []
    faults = []
    seen: dict[int, int] = {}
    for line, epoch in numbered:
        if epoch in seen:
            faults.append(
                Fault(
                    line=line, text=f"epoch {epoch} comes twice (first on line {seen[epoch]}) without a restart header"
                )
            )
        elif seen and epoch < max(seen):
            faults.append(Fault(line=line, text=f"epochs must rise; epoch {epoch} follows epoch {max(seen)}"))
        seen.setdefault(epoch, line)
    epochs = sorted(seen)
    stride = min((after - before for before, after in itertools.pairwise(epochs)), default=1)
    if epochs[0] > stride:
        faults.append(
            Fault(line=seen[epochs[0]], text=f"epochs 0 to {epochs[0] - 1} are missing: the log starts at {epochs[0]}")
        )
    for before, after in itertools.pairwise(epochs):
        if after - before > stride:
            lost = f"epoch {before + 1} is" if after - before == 2 else f"epochs {before + 1} to {after - 1} are"
            faults.append(Fault(line=seen[after], text=f"{lost} missing before epoch {after}"))
    return faults


def _is_whole(value: float | None) -> bool:
    return value is not None and value == value and abs(value) < 1e15 and value == int(value)
