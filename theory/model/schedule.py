r"""Learning-rate paths: the rate of every iteration, written down once and validated at birth.

Every kind agrees with its namesake in `torch.optim.lr_scheduler`, stepped once an iteration (`hold` = 1) or once every
`hold` iterations (an epoch, say), as far as its horizon reaches; t counts those steps from 0.
    constant        η_t = η
    step            η_t = η · factor^(number of milestones ≤ t)
    linear          η_t = η + (end − η) min(t/steps, 1)
    cosine          η_t = end + ½ (η − end)(1 + cos(π min(t/steps, 1)))        (Loshchilov and Hutter 2017, eq. 5)
    cyclic          triangle from η to peak in `up` steps and back in `down`, for ever        (Smith 2017)
    warm restarts   cosine over periods of length period, period·growth, period·growth², …    (Loshchilov, Hutter 2017)
    one-cycle       start to peak, then to end, over `steps` in all                              (Smith and Topin 2019)
    table           a rate for each iteration, also read from a CSV file
A rate of 0 freezes the weights and has no stationary law: a path that reaches 0 within the steps asked for is refused.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.model.setting import Setting, is_integer, setting

#: Longest path that is written out, in iterations.
MAX_STEPS = 10**8
#: Column names that are read as learning rates, in this order of preference.
RATE_COLUMNS = ("learning_rate", "lr", "rate")


class Schedule(Setting):
    """A learning-rate path. Make one with a class method; `rates(steps)` writes it out."""

    hold: int

    def rates(self, steps: int) -> NDArray[np.float64]:
        """Learning rates of iterations 0 … steps − 1, shape ``(steps,)``.

        Raises:
            ValueError: if `steps` is not an integer in [1, 10⁸] or beyond a table's end, or a rate is not positive and
                finite (the message says at which iteration).
        """
        path = self.values(steps)
        bad = np.flatnonzero(~(np.isfinite(path) & (path > 0)))
        if len(bad):
            raise ValueError(
                f"`{type(self).__name__}.rates(steps=...)` must be > 0 and finite throughout; "
                f"got {path[bad[0]]:g} at iteration {int(bad[0])} of {steps}."
            )
        return path

    def values(self, steps: int) -> NDArray[np.float64]:
        """The same without a rule on the sign: a path of momenta or weight decays, whose user says what it may hold.

        Raises:
            ValueError: if `steps` is not an integer in [1, 10⁸] or beyond a table's end.
        """
        if not is_integer(steps) or not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"`Schedule.rates(steps=...)` must be an integer in [1, {MAX_STEPS}]; got {steps!r}.")
        ticks = -(-int(steps) // self.hold)
        return np.repeat(np.asarray(self._path(ticks), dtype=np.float64), self.hold)[: int(steps)]

    def _path(self, ticks: int) -> NDArray[np.float64]:
        raise NotImplementedError

    @staticmethod
    def constant(rate: float, *, hold: int = 1) -> ConstantSchedule:
        """The same rate for ever."""
        return ConstantSchedule(rate=rate, hold=hold)

    @staticmethod
    def step(rate: float, milestones: tuple[int, ...], factor: float = 0.1, *, hold: int = 1) -> StepSchedule:
        """Multiply by `factor` at each milestone; milestones count in units of `hold` iterations."""
        return StepSchedule(rate=rate, milestones=tuple(milestones), factor=factor, hold=hold)

    @staticmethod
    def linear(rate: float, end: float, steps: int, *, hold: int = 1) -> LinearSchedule:
        """From `rate` to `end` in equal differences over `steps`, then `end`."""
        return LinearSchedule(rate=rate, end=end, steps=steps, hold=hold)

    @staticmethod
    def cosine(rate: float, steps: int, end: float = 0.0, *, hold: int = 1) -> CosineSchedule:
        """Half a cosine from `rate` to `end` over `steps`, then `end`."""
        return CosineSchedule(rate=rate, steps=steps, end=end, hold=hold)

    @staticmethod
    def cyclic(rate: float, peak: float, up: int, down: int | None = None, *, hold: int = 1) -> CyclicSchedule:
        """Triangles from `rate` to `peak` and back; `down` defaults to `up`."""
        return CyclicSchedule(rate=rate, peak=peak, up=up, down=up if down is None else down, hold=hold)

    @staticmethod
    def warm_restarts(
        rate: float, period: int, growth: int = 1, end: float = 0.0, *, hold: int = 1
    ) -> WarmRestartsSchedule:
        """Cosines from `rate` towards `end`, each period `growth` times the one before."""
        return WarmRestartsSchedule(rate=rate, period=period, growth=growth, end=end, hold=hold)

    @staticmethod
    def one_cycle(
        start: float, peak: float, end: float, steps: int, *, rising: float = 0.3, linear: bool = False, hold: int = 1
    ) -> OneCycleSchedule:
        """From `start` to `peak` over the share `rising` of the steps, then to `end`; half cosines, or straight lines.

        torch's OneCycleLR at `max_lr` is (max_lr/25, max_lr, max_lr/250000) for the rate, and (0.95, 0.85, 0.95) for
        the momentum that it cycles the other way.
        """
        return OneCycleSchedule(start=start, peak=peak, end=end, steps=steps, rising=rising, linear=linear, hold=hold)

    @staticmethod
    def table(rates: ArrayLike, *, hold: int = 1) -> TableSchedule:
        """One rate for each iteration (or for each `hold` of them)."""
        return TableSchedule(table=np.asarray(rates), hold=hold)

    @staticmethod
    def from_csv(path: str | Path, column: str | None = None, *, hold: int = 1) -> TableSchedule:
        """A table read from a CSV file with a header, one row a rate.

        Args:
            path: the file.
            column: header of the rates; by default the first of `RATE_COLUMNS`, or the only column there is.
            hold: iterations each row stands for: 1 for a log by iteration, the epoch's length for one by epoch.

        Raises:
            ValueError: if the file is missing, empty or without such a column, or a row holds no positive number (the
                message says which line).
        """
        return TableSchedule(table=_read_rates(Path(path), column), hold=hold)


@setting
class ConstantSchedule(Schedule):
    """η_t = rate."""

    rate: float
    hold: int = 1

    def __post_init__(self) -> None:
        _check_rates(self, "rate")
        _check_counts(self, "hold")

    def _path(self, ticks: int) -> NDArray[np.float64]:
        return np.full(ticks, self.rate)


@setting
class StepSchedule(Schedule):
    """η_t = rate · factor^(milestones passed)."""

    rate: float
    milestones: tuple[int, ...]
    factor: float = 0.1
    hold: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        _check_rates(self, "rate", "factor")
        _check_counts(self, "hold")
        for milestone in self.milestones:
            if not is_integer(milestone) or milestone < 0:
                raise ValueError(f"`StepSchedule(milestones=...)` must be integers >= 0; got {milestone!r}.")
        if any(b <= a for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"`StepSchedule(milestones=...)` must rise; got {self.milestones}.")

    def _path(self, ticks: int) -> NDArray[np.float64]:
        passed = np.searchsorted(np.asarray(self.milestones, dtype=np.int64), np.arange(ticks), side="right")
        return np.asarray(self.rate * np.power(self.factor, passed), dtype=np.float64)


@setting
class LinearSchedule(Schedule):
    """η_t = rate + (end − rate) min(t/steps, 1)."""

    rate: float
    end: float
    steps: int
    hold: int = 1

    def __post_init__(self) -> None:
        _check_rates(self, "rate")
        _check_rates(self, "end", zero=True)
        _check_counts(self, "steps", "hold")

    def _path(self, ticks: int) -> NDArray[np.float64]:
        done = np.minimum(np.arange(ticks) / self.steps, 1.0)
        return self.rate * (1.0 - done) + self.end * done


@setting
class CosineSchedule(Schedule):
    """η_t = end + ½ (rate − end)(1 + cos(π min(t/steps, 1)))."""

    rate: float
    steps: int
    end: float = 0.0
    hold: int = 1

    def __post_init__(self) -> None:
        _check_rates(self, "rate")
        _check_rates(self, "end", zero=True)
        _check_counts(self, "steps", "hold")

    def _path(self, ticks: int) -> NDArray[np.float64]:
        return _half_cosine(self.rate, self.end, np.minimum(np.arange(ticks) / self.steps, 1.0))


@setting
class CyclicSchedule(Schedule):
    """Triangles: `rate` up to `peak` in `up` steps, back in `down`."""

    rate: float
    peak: float
    up: int
    down: int
    hold: int = 1

    def __post_init__(self) -> None:
        _check_rates(self, "rate", "peak")
        _check_counts(self, "up", "down", "hold")
        if not self.peak >= self.rate:
            raise ValueError(f"`CyclicSchedule(peak=...)` must be >= rate {self.rate:g}; got {self.peak:g}.")

    def _path(self, ticks: int) -> NDArray[np.float64]:
        phase = np.arange(ticks) % (self.up + self.down)
        height = np.where(phase <= self.up, phase / self.up, (self.up + self.down - phase) / self.down)
        return self.rate + (self.peak - self.rate) * height


@setting
class WarmRestartsSchedule(Schedule):
    """Cosines from `rate` towards `end` over periods that grow by the integer `growth`."""

    rate: float
    period: int
    growth: int = 1
    end: float = 0.0
    hold: int = 1

    def __post_init__(self) -> None:
        _check_rates(self, "rate")
        _check_rates(self, "end", zero=True)
        _check_counts(self, "period", "growth", "hold")

    def _path(self, ticks: int) -> NDArray[np.float64]:
        done = np.empty(ticks)
        start, length = 0, self.period
        while start < ticks:
            stop = min(start + length, ticks)
            done[start:stop] = np.arange(stop - start) / length
            start, length = start + length, length * self.growth
        return _half_cosine(self.rate, self.end, done)


@setting
class OneCycleSchedule(Schedule):
    """One rise (or fall) to `peak` and one way on to `end`, which is reached at the last of `steps`."""

    start: float
    peak: float
    end: float
    steps: int
    rising: float = 0.3
    linear: bool = False  # pyright: ignore[reportIncompatibleMethodOverride]  (a field, where the base has a maker)
    hold: int = 1

    def __post_init__(self) -> None:
        _check_rates(self, "start", "peak")
        _check_rates(self, "end", zero=True)
        _check_counts(self, "steps", "hold")
        if not 0 < self.rising < 1:
            raise ValueError(f"`OneCycleSchedule(rising=...)` must be in (0, 1); got {self.rising}.")
        if not (self.rising * self.steps > 1 and self.steps >= 2):
            raise ValueError(
                f"`OneCycleSchedule(steps=...)` must leave more than one step to the rise; got {self.steps} · "
                f"{self.rising:g}."
            )

    def _path(self, ticks: int) -> NDArray[np.float64]:
        if ticks > self.steps:
            raise ValueError(
                f"`OneCycleSchedule.rates(steps=...)` must be at most {self.steps * self.hold}, where the cycle ends; "
                f"got more than {(ticks - 1) * self.hold}."
            )
        top, now = self.rising * self.steps - 1.0, np.arange(ticks)  # torch's: the top may lie between two steps
        up, down = now / top, (now - top) / (self.steps - 1.0 - top)
        if self.linear:
            first, second = (np.clip(done, 0.0, 1.0) for done in (up, down))
            return np.where(
                now <= top, self.start + (self.peak - self.start) * first, self.peak + (self.end - self.peak) * second
            )
        return np.where(
            now <= top,
            _half_cosine(self.start, self.peak, np.clip(up, 0.0, 1.0)),
            _half_cosine(self.peak, self.end, np.clip(down, 0.0, 1.0)),
        )


@setting
class TableSchedule(Schedule):
    """One rate an iteration, shape ``(n,)``."""

    table: NDArray[np.float64]  # pyright: ignore[reportIncompatibleMethodOverride]  (a field; the base has a maker)
    hold: int = 1

    def __post_init__(self) -> None:
        _check_counts(self, "hold")
        table = np.asarray(self.table)
        if table.dtype.kind not in "fiu" or table.ndim != 1 or table.size == 0:
            raise ValueError(
                "`Schedule.table(rates=...)` must be a list of numbers, shape (n,); "
                f"got shape {table.shape}, dtype {table.dtype}."
            )
        table = np.array(table, dtype=np.float64)
        bad = np.flatnonzero(~(np.isfinite(table) & (table > 0)))
        if len(bad):
            raise ValueError(
                f"`Schedule.table(rates=...)` must be > 0 and finite; got {table[bad[0]]:g} at entry {int(bad[0])}."
            )
        table.flags.writeable = False
        object.__setattr__(self, "table", table)

    def _path(self, ticks: int) -> NDArray[np.float64]:
        if ticks > len(self.table):
            raise ValueError(
                f"`TableSchedule.rates(steps=...)` must be at most {len(self.table) * self.hold}, where the table "
                f"ends; got more than {(ticks - 1) * self.hold}."
            )
        return self.table[:ticks]


def _half_cosine(rate: float, end: float, done: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    # cos²(x/2) instead of (1 + cos x)/2: no cancellation as the rate runs out.
    return np.where(done < 1.0, end + (rate - end) * np.cos(0.5 * math.pi * done) ** 2, end)


def _check_rates(schedule: Schedule, *names: str, zero: bool = False) -> None:
    for name in names:
        value = getattr(schedule, name)
        where = f"`{type(schedule).__name__}({name}=...)`"
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{where} must be a number; got {value!r}.") from None
        if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
            raise ValueError(f"{where} must be {'>=' if zero else '>'} 0 and finite; got {number}.")
        object.__setattr__(schedule, name, number)


def _check_counts(schedule: Schedule, *names: str) -> None:
    for name in names:
        value = getattr(schedule, name)
        if not is_integer(value) or value < 1:
            raise ValueError(f"`{type(schedule).__name__}({name}=...)` must be an integer >= 1; got {value!r}.")
        object.__setattr__(schedule, name, int(value))


def _read_rates(path: Path, column: str | None) -> NDArray[np.float64]:
    where = f"`Schedule.from_csv(path={str(path)!r})`"
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ValueError(f"{where} must be a readable CSV file; {reason}.") from None
    if not rows:
        raise ValueError(f"{where} must hold a header and at least one rate; the file is empty.")
    header = [name.strip() for name in rows[0]]
    wanted = [column] if column is not None else [*RATE_COLUMNS, *(header if len(header) == 1 else [])]
    found = next((header.index(name) for name in wanted if name in header), None)
    if found is None or not header[found]:
        asked = f"a column {column!r}" if column is not None else f"a column named one of {RATE_COLUMNS}"
        raise ValueError(f"{where} must have {asked}; got {header}.")
    rates: list[float] = []
    for line, row in enumerate(rows[1:], start=2):
        if not row or not any(cell.strip() for cell in row):
            continue  # a blank line, often the last
        cell = row[found].strip() if found < len(row) else ""
        try:
            rate = float(cell)
        except ValueError:
            raise ValueError(
                f"{where} must hold a number in column {header[found]!r}; line {line}: {cell!r}."
            ) from None
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"{where} must hold rates > 0 and finite; line {line}: {cell}.")
        rates.append(rate)
    if not rates:
        raise ValueError(f"{where} must hold at least one rate below its header; got none.")
    return np.array(rates)
