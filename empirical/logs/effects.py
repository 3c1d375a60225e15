"""The quantities that the log claims are about, each a linear contrast of a measured curve.

Units     Effects are in units of σ, the epoch-to-epoch noise of the curve itself (`resampling`), so that one margin
          holds for data sets whose losses differ by a factor of three. Gaps between runs are in nats.
Windows   Fixed beforehand, in epochs: `BEFORE` ahead of a decay, `AFTER` behind it, `EARLY` after the first decay,
          `LATE` at the end. Where a run evaluates every few epochs they count its evaluations. A minimum is never
          used: every noisy curve rises after its own minimum.
Start     A window after a decay starts where the curves are estimated to change (`decays.locate`), not where the
          schedule says.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from empirical.logs.decays import Decay, Location, change_points, find_decays, locate
from empirical.logs.evidence import log_of
from empirical.logs.resampling import FEWEST, STRETCH, EpochNoise, contrast, epoch_noise, window_weights
from empirical.records import Record
from empirical.records.log import Log, TrainColumns
from theory.judge.claim import NotApplicableError
from theory.judge.intervals import Contrast

#: Epochs of the window ahead of a decay, and of the window behind it: the published fall is over within 5 epochs.
BEFORE, AFTER = 10, 5
#: Epochs of the early window after the first decay and of the late window (Rice et al. average the last epochs).
EARLY, LATE = 10, 10
#: Epochs on either side of a decay to which straight lines are fitted for the jump of a decay.
LINE = 20


@dataclass(frozen=True, eq=False)
class Run:
    """A training log ready for the claims: the epochs at which the needed curves were measured.

    Args:
        log: the run as its log shows it.
        epochs: their numbers, shape ``(rows,)``.
        rates: the learning rate that the log prints for each.
        test: test robust loss, in nats.
        train: training robust loss, in nats.
        decays: learning-rate decays, by row.
        locations: for each decay where the curves change, or None if too few epochs surround it.
    """

    log: Log
    epochs: NDArray[np.float64]
    rates: NDArray[np.float64]
    test: NDArray[np.float64]
    train: NDArray[np.float64]
    decays: tuple[Decay, ...]
    locations: tuple[Location | None, ...]

    @property
    def label(self) -> str:
        """How readers know it."""
        return self.log.label

    @property
    def data_order(self) -> str | None:
        """What runs that saw the data in the same order share."""
        return self.log.data_order

    @property
    def train_columns(self) -> TrainColumns:
        """Where the training loss was measured."""
        return self.log.train_columns

    @property
    def length(self) -> int:
        """Epochs in it."""
        return len(self.epochs)

    def epoch(self, row: int) -> int:
        """Epoch number of a row."""
        return int(self.epochs[row])

    def change(self, index: int) -> int:
        """First row of the new regime after decay `index`."""
        location = self.locations[index]
        return self.decays[index].row if location is None else location.row

    def stretch_before(self, index: int) -> tuple[int, int]:
        """Rows of constant rate ahead of a decay, at most `STRETCH`; of a run's first stretch the last two thirds."""
        decay = self.decays[index]
        end = min(decay.row, self.change(index))
        start = decay.start if index == 0 else max(decay.start, self.change(index - 1))
        if index == 0:
            start += (end - start) // 3
        return max(start, end - STRETCH), end

    def stretch_after(self, index: int) -> tuple[int, int]:
        """Rows after a decay up to the next one, at most `STRETCH`."""
        end = self.decays[index].stop if index + 1 < len(self.decays) else self.length
        return self.change(index), min(end, self.change(index) + STRETCH)

    def last_stretch(self) -> tuple[int, int]:
        """Rows at the end of the run, at most `STRETCH`, all after the last decay."""
        start = self.change(len(self.decays) - 1)
        return max(start, self.length - STRETCH), self.length


@functools.lru_cache(maxsize=512)
def run_of(record: Record) -> Run:
    """The run behind a record.

    Raises:
        NotApplicableError: if it is no run, it diverged, or a curve that the claims need was not measured.
    """
    log = log_of(record)
    if log is None:
        raise NotApplicableError(f"evidence of {record.experiment!r} is no training log")
    if log.diverged is not None:
        raise NotApplicableError(f"the run diverged: from epoch {log.diverged} on its losses are not finite")
    test, train = log.columns.test_robust_loss, log.columns.train_robust_loss
    if test is None or train is None:
        missing = [
            name for name, values in (("test_robust_loss", test), ("train_robust_loss", train)) if values is None
        ]
        raise NotApplicableError(f"the log has no column {', '.join(missing)}")
    measured = np.isfinite(test) & np.isfinite(train)
    epochs, rates = log.columns.epoch[measured], log.columns.learning_rate[measured]
    test, train = test[measured], train[measured]
    decays = find_decays(epochs, rates)
    curves = {"test robust loss": test, "training robust loss": train}
    return Run(
        log=log,
        epochs=epochs,
        rates=rates,
        test=test,
        train=train,
        decays=decays,
        locations=tuple(locate(curves, decay) for decay in decays),
    )


def noise_of(values: NDArray[np.float64], stretch: tuple[int, int], what: str, *, degree: int = 2) -> EpochNoise:
    """Epoch noise of a stretch around a trend of this degree.

    Raises:
        NotApplicableError: if the stretch is too short.
    """
    first, last = stretch
    if last - first < FEWEST:
        raise NotApplicableError(f"{what} has {max(last - first, 0)} epochs; at least {FEWEST} are needed")
    return epoch_noise(values, first, last, degree=degree)


# --- the response to a decay -------------------------------------------------------------------------------------


def need_decay(run: Run, index: int) -> Decay:
    """Decay `index` of the run.

    Raises:
        NotApplicableError: if there is none.
    """
    if index >= len(run.decays):
        raise NotApplicableError("the learning rate of this log has no step decay")
    return run.decays[index]


def decay_windows(run: Run, index: int) -> tuple[int, int]:
    """Epochs of the windows before and after a decay; shorter where the stretches are short."""
    (a, b), (c, d) = run.stretch_before(index), run.stretch_after(index)
    return max(min(BEFORE, (b - a) // 2), 1), max(min(AFTER, (d - c) // 2), 1)


@dataclass(frozen=True)
class Starts:
    """First rows of the window after the change, and of those that it is held against (none: against nothing)."""

    at: tuple[int, ...]
    against: tuple[int, ...] = ()


def fall(run: Run, index: int, starts: Starts) -> tuple[Contrast, float]:
    """How far the test robust loss falls, in nats, and σ of the stretch before the decay.

    Effect: mean over starts s of [mean of the BEFORE epochs ahead of s − mean of the AFTER epochs from s on], less the
    same over the starts it is held against: a difference in differences. The epochs between the scheduled drop and the
    estimated change belong to neither window, and as many are left out at placebo decays.

    Args:
        run: which.
        index: of the decay.
        starts: the decay's own start, or those of placebo decays.

    Raises:
        NotApplicableError: if a stretch is too short for its noise, or windows hold epochs that are not successive.
    """
    values = run.test
    before = noise_of(values, run.stretch_before(index), "the stretch of constant rate before the decay")
    after = noise_of(values, run.stretch_after(index), "the stretch after the decay")
    windows = []
    for rows, sign in ((starts.at, 1.0), (starts.against, -1.0)):
        for start in rows:
            (a, b), (c, d) = _windows(run, index, start)
            if not (_successive(run, a, b) and _successive(run, c, d)):
                raise NotApplicableError(
                    f"robust loss was not evaluated every epoch between epochs {run.epoch(a)} and {run.epoch(d - 1)}"
                )
            windows += [(a, b, sign / len(rows)), (c, d, -sign / len(rows))]
    found = contrast(values, window_weights(run.length, windows), (before, after))
    return found, before.standard_deviation


def _windows(run: Run, index: int, start: int) -> tuple[tuple[int, int], tuple[int, int]]:
    num_before, num_after = decay_windows(run, index)
    ahead = start - _unsettled(run, index)
    return (ahead - num_before, ahead), (start, start + num_after)


def _unsettled(run: Run, index: int) -> int:
    """Epochs between the scheduled drop and the change of the curves."""
    return run.change(index) - run.stretch_before(index)[1]


def _successive(run: Run, first: int, last: int) -> bool:
    return bool((np.diff(run.epochs[first:last]) == 1).all())


def at_the_decay(run: Run, index: int) -> Starts:
    """Where the curves change, against every placebo decay."""
    return Starts(at=(run.change(index),), against=placebo_decays(run, index))


def at_placebo_decays(run: Run, index: int) -> Starts:
    """A decoy's: every other block of placebo decays, AFTER of them where there are enough, against the rest.

    Raises:
        NotApplicableError: if there are fewer than two.
    """
    rows = placebo_decays(run, index)
    if len(rows) < 2:
        raise NotApplicableError("the stretch before the decay holds one placebo decay; a decoy needs two")
    size = max(1, min(AFTER, len(rows) // 4))
    blocks = [rows[first : first + size] for first in range(0, len(rows), size)]
    return Starts(at=tuple(chain(*blocks[1::2])), against=tuple(chain(*blocks[::2])))


def placebo_decays(run: Run, index: int) -> tuple[int, ...]:
    """Every row of the stretch before a decay at which both windows fit into it, of successive epochs: nothing
    happened there.

    Raises:
        NotApplicableError: if none fits.
    """
    first, last = run.stretch_before(index)
    num_before, num_after = decay_windows(run, index)
    ahead = num_before + _unsettled(run, index)
    rows = tuple(
        row for row in range(first + ahead, last - num_after + 1) if _successive(run, row - ahead, row + num_after)
    )
    if not rows:
        raise NotApplicableError(
            f"no placebo decay fits into the stretch before the decay, epochs {run.epoch(first)} to "
            f"{run.epoch(last - 1)}: {num_before} and {num_after} epochs evaluated one after the other are needed"
        )
    return rows


def later_rise(run: Run, index: int) -> Contrast:
    """Rise from the AFTER epochs behind a decay to as many at the end of the stretch that follows, in nats."""
    values, (first, last) = run.test, run.stretch_after(index)
    noise = noise_of(values, (first, last), "the stretch after the decay")
    windows = [(last - AFTER, last, 1.0), (first, first + AFTER, -1.0)]
    return contrast(values, window_weights(run.length, windows), (noise,))


# --- robust overfitting ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """Two sets of rows, and the direction in which the training loss is said to move between them (−1 falls)."""

    early: tuple[int, ...]
    late: tuple[int, ...]
    train: int


def overfitting_pattern(run: Run) -> Pattern:
    """The claim's: from the EARLY epochs after the first decay to the LATE epochs of the run, training loss falls.

    Raises:
        NotApplicableError: without a decay, or if the windows would overlap.
    """
    need_decay(run, 0)
    start = run.change(0)
    if run.length - start < EARLY + LATE:
        raise NotApplicableError(
            f"the run ends {run.length - start} epochs after its first decay; the windows need {EARLY + LATE}"
        )
    early = tuple(range(start, start + EARLY))
    return Pattern(early=early, late=tuple(range(run.length - LATE, run.length)), train=-1)


def interleaved_pattern(run: Run) -> Pattern:
    """A decoy's: the epochs after the first decay, every other one, so that time orders nothing."""
    honest = overfitting_pattern(run)
    rows = range(honest.early[0], run.length)
    return Pattern(early=tuple(rows[::2]), late=tuple(rows[1::2]), train=-1)


def divergence_pattern(run: Run) -> Pattern:
    """A decoy's: the whole loss drifts up, training loss included."""
    honest = overfitting_pattern(run)
    return Pattern(early=honest.early, late=honest.late, train=1)


def moves(run: Run, pattern: Pattern) -> tuple[Contrast, Contrast, float]:
    """(rise of the test loss, move of the training loss in the pattern's direction), in σ; and the rise in nats."""
    weights = np.zeros(run.length)
    weights[list(pattern.late)] += 1 / len(pattern.late)
    weights[list(pattern.early)] -= 1 / len(pattern.early)
    found = []
    for values, sign in ((run.test, 1), (run.train, pattern.train)):
        noises = (
            noise_of(values, run.stretch_after(0), "the stretch after the first decay"),
            noise_of(values, run.last_stretch(), "the stretch after the last decay"),
        )
        unit = max(noise.standard_deviation for noise in noises)
        found.append(contrast(values, sign * weights, noises).scaled(unit))
    nats = float(weights @ run.test)
    return found[0], found[1], nats


# --- the gap between methods -------------------------------------------------------------------------------------


def late_rows(run: Run) -> tuple[int, int]:
    """The LATE epochs at the end."""
    return run.length - LATE, run.length


def early_rows(run: Run) -> tuple[int, int]:
    """Epochs LATE to 2·LATE from the start: a decoy's window, in which little is memorised.

    Raises:
        NotApplicableError: if the window meets the late one.
    """
    if run.length < 3 * LATE:
        raise NotApplicableError(f"the run has {run.length} epochs; the windows need {3 * LATE}")
    return LATE, 2 * LATE


def gap_difference(baseline: Run, other: Run, windows: tuple[tuple[int, int], tuple[int, int]]) -> tuple[Contrast, str]:
    """Robust gap of the baseline minus the largest robust gap that the other run can have, in nats.

    The gap is test − train robust loss at the same weights. Where a log measured its training loss at perturbed weights
    or not at all comparably, its loss at the weights themselves is unknown, but not below 0: the gap is at most the
    test loss. The runs of a pair are subtracted epoch by epoch: what they share through their data order cancels.

    Args:
        baseline: the run without the method.
        other: the run with it.
        windows: (first row, row after the last) in each run.

    Returns:
        The contrast, and how the other run's gap was read.
    """
    exact = other.train_columns == "fixed" == baseline.train_columns
    (a, b), (c, d) = windows
    if not np.array_equal(baseline.epochs[a:b], other.epochs[c:d]):
        raise NotApplicableError("the windows of the two runs are not the same epochs")
    reach = min(STRETCH, b, d)
    lower = baseline.test[b - reach : b] - baseline.train[b - reach : b]
    upper = other.test[d - reach : d] - (other.train[d - reach : d] if exact else 0.0)
    series = lower - upper
    start = max(reach - STRETCH, reach - _quiet(baseline, b), reach - _quiet(other, d), 0)
    noise = noise_of(series, (start, reach), "the stretch that the pair shares")
    width = b - a
    found = contrast(series, window_weights(reach, [(reach - width, reach, 1.0)]), (noise,))
    return found, "gap at fixed weights" if exact else "the most it can be: its test loss"


def _quiet(run: Run, end: int) -> int:
    """Rows without a decay that lead up to row `end`."""
    starts = [run.change(index) for index in range(len(run.decays)) if run.change(index) < end]
    return end - max(starts) if starts else end - end // 3


# --- size of the decay -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SizeResponse:
    """What a decay of size x = ln(η₁/η₂) did, in nats: jump down, and later rise in 10 epochs; σ before it."""

    size: float
    jump: Contrast
    rise: Contrast
    unit: float

    def scaled(self, unit: float) -> SizeResponse:
        """The same in units of `unit`."""
        return SizeResponse(
            size=self.size, jump=self.jump.scaled(unit), rise=self.rise.scaled(unit), unit=self.unit / unit
        )


def size_response(run: Run) -> SizeResponse:
    """Jump and later slope of the test robust loss at the first decay.

    Two straight lines over at most LINE epochs either side are compared where the curve changes; the later slope is
    that of a straight line from AFTER epochs behind the change to the end of the stretch.
    """
    need_decay(run, 0)
    return _response(run, run.stretch_before(0), run.stretch_after(0))


def placebo_size_response(run: Run) -> SizeResponse:
    """The same, half-way through the stretch before the decay, which cannot know how large the decay will be."""
    need_decay(run, 0)
    first, last = run.stretch_before(0)
    middle = (first + last) // 2
    return _response(run, (first, middle), (middle, last))


def _response(run: Run, left: tuple[int, int], right: tuple[int, int]) -> SizeResponse:
    decay, values, start = run.decays[0], run.test, right[0]
    noises = [noise_of(values, run.stretch_before(0), "the stretch before the decay")]
    noises.append(noise_of(values, run.stretch_after(0), "the stretch after the decay"))
    if min(left[1] - left[0], right[1] - right[0] - AFTER) < 3:
        raise NotApplicableError("the stretches around the decay are too short for straight lines")
    jump = _line(run.length, (max(left[0], left[1] - LINE), left[1]), start)
    jump -= _line(run.length, (right[0], min(right[1], right[0] + LINE)), start)
    later = (right[0] + AFTER, right[1])
    slope = 10 * (_line(run.length, later, later[0] + 1) - _line(run.length, later, later[0]))
    return SizeResponse(
        size=-math.log(decay.ratio),
        jump=contrast(values, jump, noises),
        rise=contrast(values, slope, noises),
        unit=noises[0].standard_deviation,
    )


def _line(length: int, rows: tuple[int, int], at: float) -> NDArray[np.float64]:
    """Weights of the value at row `at` of the least-squares line through `rows`."""
    t = np.arange(*rows, dtype=np.float64)
    centred = t - t.mean()
    weights = np.zeros(length)
    weights[rows[0] : rows[1]] = 1 / len(t) + (at - t.mean()) * centred / (centred @ centred)
    return weights


def unprompted_changes(run: Run) -> tuple[int, ...] | None:
    """Epochs at which the test robust loss changes its course, found without the schedule; None without ruptures."""
    if importlib.util.find_spec("ruptures") is None:
        return None
    return tuple(run.epoch(row) for row in change_points(run.test))
