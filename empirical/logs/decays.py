"""Learning-rate decays as the log shows them, and the epochs at which the measured curves change.

Two questions are kept apart. *When did the learning rate drop?* is read from the learning-rate column, which in the
public logs is off by one: the rate is set inside the epoch, so the last of 391 iterations of epoch 99 runs at the new
rate and the log prints it for the whole epoch. *When did the curves change?* is estimated: near a decay as the split of
two straight lines (`locate`), and over the whole curve without being told where decays are (`change_points`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from empirical.logs.resampling import FEWEST, block_bootstrap

#: A drop of the rate below this share of the old one is a decay; a cosine falls by less from epoch to epoch.
LARGEST_RATIO = 0.7
#: Epochs of constant rate that must lie before a decay.
STEADY = 5
#: How far from the drop in the log's learning-rate column the change of the curves is looked for, in epochs.
REACH = 4
#: Epochs on either side of it that the two lines are fitted to.
SIDE = 10


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A drop of the learning rate.

    Args:
        row: first row that shows the new rate.
        epoch: its epoch number.
        before: the rate before.
        after: the rate after.
        start: first row of the stretch of constant rate before it.
        stop: row after the last of the stretch that follows (the next decay's `row`, or the end).
    """

    row: int
    epoch: int
    before: float
    after: float
    start: int
    stop: int

    @property
    def ratio(self) -> float:
        """η₂/η₁ < 1."""
        return self.after / self.before


@dataclass(frozen=True, kw_only=True)
class Location:
    """Estimated first row after the change, with a block-bootstrap interval; `series` are the curves used."""

    row: int
    interval: tuple[int, int]
    series: tuple[str, ...]


def find_decays(epoch: NDArray[np.float64], rate: NDArray[np.float64]) -> tuple[Decay, ...]:
    """The step decays in the learning-rate column; drops in successive rows are one decay.

    Args:
        epoch: epoch numbers of a log, shape ``(epochs,)``.
        rate: the learning rates beside them, same shape.
    """
    falls = np.flatnonzero(rate[1:] < LARGEST_RATIO * rate[:-1]) + 1
    found: list[tuple[int, int]] = []  # first row of the new rate, last row of the drop
    for row in (int(item) for item in falls):
        if found and row - found[-1][1] <= 1:
            found[-1] = (found[-1][0], row)
        else:
            found.append((row, row))
    decays: list[Decay] = []
    for index, (row, settled) in enumerate(found):
        start = found[index - 1][1] if index else 0
        steady = rate[max(start, row - STEADY) : row]
        if row - start < STEADY or np.ptp(steady) > 0.01 * steady.max():
            continue  # the end of a cosine or a warm-up, not a step
        stop = found[index + 1][0] if index + 1 < len(found) else len(rate)
        while start < row and rate[start] != rate[row - 1]:
            start += 1  # a warm-up ahead of the stretch does not belong to it
        decays.append(
            Decay(
                row=row,
                epoch=int(epoch[row]),
                before=float(rate[row - 1]),
                after=float(rate[settled]),
                start=start,
                stop=stop,
            )
        )
    return tuple(decays)


def locate(
    series: Mapping[str, NDArray[np.float64]], decay: Decay, *, replicates: int = 200, seed: int = 0
) -> Location | None:
    """Where the curves change near a decay: the split of two straight lines that fits all curves best.

    The split minimises Σ ln RSS over the curves (Gaussian noise, each curve with a variance of its own), so that a
    quiet curve, such as the training loss, says more than a restless one. The interval holds the middle 95 % of the
    splits of `replicates` sets of curves made from the fit and blocks of its residuals, the same blocks for all curves:
    epoch noise is shared by the columns of a run.

    Args:
        series: curves of one run.
        decay: which.
        replicates: bootstrap sets.
        seed: of the bootstrap.

    Returns:
        None if fewer than `FEWEST` epochs lie on either side, or no curve is measured at all of them.
    """
    first, last = max(decay.start, decay.row - SIDE), min(decay.stop, decay.row + SIDE + 1)
    if decay.row - first < FEWEST or last - decay.row < FEWEST:
        return None
    names = tuple(name for name, values in series.items() if np.isfinite(values[first:last]).all())
    if not names:
        return None
    splits = np.arange(decay.row - REACH, decay.row + REACH + 1)
    removals = _two_lines(last - first, tuple(int(split) - first for split in splits))
    curves = np.stack([series[name][first:last] for name in names])
    best = int(np.argmin(_misfit(removals, curves[:, None])[0]))
    residuals = curves @ removals[best]
    copies = np.stack(
        [
            curve - rest + block_bootstrap(rest, replicates, rng=np.random.default_rng(seed))
            for curve, rest in zip(curves, residuals, strict=True)
        ]
    )
    again = splits[np.argmin(_misfit(removals, copies), axis=1)]
    low, high = np.quantile(again, [0.025, 0.975], method="inverted_cdf")
    return Location(row=int(splits[best]), interval=(int(low), int(high)), series=names)


def _misfit(removals: NDArray[np.float64], curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ over curves of ln RSS; `curves` of shape ``(curves, sets, rows)``, result ``(sets, splits)``."""
    squares = np.sum((curves[:, :, None, None, :] @ removals)[..., 0, :] ** 2, axis=-1)
    floor = 1e-24 * np.maximum(np.max(np.abs(curves), axis=(1, 2)), 1e-300) ** 2  # an exact fit is not −∞
    return np.sum(np.log(np.maximum(squares, floor[:, None, None])), axis=0)


@functools.lru_cache(maxsize=64)
def _two_lines(length: int, splits: tuple[int, ...]) -> NDArray[np.float64]:
    """For each split the projection that removes a straight line on either side, shape ``(splits, length, length)``."""
    t = np.arange(length, dtype=np.float64)
    removals = []
    for split in splits:
        after = t >= split
        basis, _ = np.linalg.qr(np.stack([~after, ~after * t, after, after * t], axis=1).astype(np.float64))
        removals.append(np.eye(length) - basis @ basis.T)
    return np.stack(removals)


def change_points(values: NDArray[np.float64], *, skip: int = 10, shortest: int = 8) -> tuple[int, ...]:
    """First rows of new regimes of a curve, found without knowledge of the schedule.

    Binary segmentation (ruptures) into straight lines with a noise level of their own: cost n ln(RSS/n) a segment, and
    4 ln n for each change (two coefficients, a variance, a position: the Bayesian information criterion).

    Args:
        values: the curve, shape ``(epochs,)``.
        skip: epochs at the start that are left out, where every curve changes all the time.
        shortest: fewest epochs of a regime.

    Raises:
        ModuleNotFoundError: if ruptures is not installed.
    """
    rows = np.flatnonzero(np.isfinite(values))
    rows = rows[rows >= skip]
    if len(rows) < 2 * shortest:
        return ()
    import ruptures

    curve = np.asarray(values, dtype=np.float64)[rows]
    search = ruptures.Binseg(custom_cost=_straight_lines(shortest), min_size=shortest, jump=1)
    ends = search.fit(curve[:, None]).predict(pen=4 * np.log(len(curve)))
    return tuple(int(rows[end]) for end in ends[:-1])


def _straight_lines(shortest: int):
    """A cost for ruptures in O(1) a segment, from running sums."""
    from ruptures.base import BaseCost

    class StraightLine(BaseCost):
        model = "straight-line"  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]  (a property in the base class; the names of its arguments are its own)
        min_size = shortest

        def fit(self, signal: NDArray[np.float64]) -> StraightLine:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.signal = signal
            y = signal[:, 0] - signal[:, 0].mean()
            t = np.arange(len(y)) - 0.5 * (len(y) - 1)
            columns = np.stack([np.ones_like(y), t, t * t, y, t * y, y * y])
            self.sums = np.concatenate([np.zeros((6, 1)), np.cumsum(columns, axis=1)], axis=1)
            self.floor = 1e-12 * max(float(y @ y), 1e-300)
            return self

        def error(self, start: int, end: int) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
            n, st, stt, sy, sty, syy = (self.sums[:, end] - self.sums[:, start]).tolist()
            slope_part = (sty - st * sy / n) ** 2 / (stt - st * st / n)
            square = syy - sy * sy / n - slope_part
            return n * float(np.log(max(square, self.floor) / n))

    return StraightLine()
