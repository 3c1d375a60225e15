r"""The dip of test robust loss at a decay as a fitted curve: how deep, how soon, and on which time scale.

Model     u = epochs since the drop (u = 1 is the first epoch that ended at the new rate), e epoch noise,
              y(u) = c + s u + e                              u ≤ 0
              y(u) = c − A (1 − exp(−u/τ)) + b u + e          u > 0                                              (D)
          A relaxation of size A on the time scale τ, and a drift b that goes on: robust overfitting, or progress.
Dip       c − min over 0 ≤ u ≤ `WINDOW` of (D): of the fitted curve, never of the noisy one, whose lowest epoch lies
          below its mean wherever there is noise. The time to the minimum is the u at which (D) is lowest: for b > 0
          τ ln(A/(bτ)), else the end of the window, which says that the loss still falls there.
Curvature  One mode of curvature λ whose mean relaxes under momentum SGD at a small rate does so in (1−μ)/(ηλ) steps, so
          λ = (1−μ)/(η τ N), N steps an epoch, η the rate after the drop. A loss that is quadratic in what relaxes
          does so twice as fast; then the curvature is half of it.
Fit       Least squares, linear in c, s, A, b for each τ of a grid; the two sides are weighed by their residuals, once.
Interval  Middle 95 % over fits to the curve plus blocks of residuals, each side's own (`resampling.block_bootstrap`).
          A τ beyond half the window looks like a straight line, one below a twentieth of an epoch like a step: at
          either end of the grid it is not resolved, and the interval ends there.
Source    Linear response of momentum SGD: Polyak 1964. Künsch 1989 for the bootstrap.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.logs.effects import AFTER, Run, need_decay, noise_of
from empirical.logs.prediction import facts_of
from empirical.logs.resampling import FEWEST, EpochNoise, block_bootstrap, epoch_noise
from theory.closed_form.edge import sharpness_limits
from theory.judge.claim import HYPOTHESIS_ALPHA, NotApplicableError
from theory.model.optimizer import MomentumSGD

#: Epochs on either side of the drop that the curve is fitted to, and within which its minimum is looked for.
WINDOW = 20
#: Time scales looked for, in epochs.
TIME_SCALES = np.geomspace(0.05, WINDOW / 2, 128)
#: Factor on the noise of the bootstrap. Blocks of 50 residuals hold less slow noise than epochs do: without it 86 to
#: 96 % of intervals hold the truth, with it 89 to 99 % (tuned on curves of known truth, ρ from 0.1 to 0.3).
WIDER = 1.2
#: Curves of the bootstrap.
REPLICATES = 400


@dataclass(frozen=True)
class Fitted:
    """A number of the fit, and the same of each curve of the bootstrap, shape ``(REPLICATES,)``."""

    estimate: float
    draws: NDArray[np.float64]

    @property
    def interval(self) -> tuple[float, float]:
        """Middle 95 % of the bootstrap, widened where need be to hold the estimate."""
        low, high = np.quantile(self.draws, [HYPOTHESIS_ALPHA / 2, 1 - HYPOTHESIS_ALPHA / 2])
        return min(float(low), self.estimate), max(float(high), self.estimate)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dip:
    """Equation (D) fitted to one decay of one run.

    Args:
        depth: c − the lowest value of the fitted curve, in nats; 0 where it only rises.
        time: epochs from the drop to the lowest value of the fitted curve, at most `until`.
        time_scale: τ, in epochs.
        size: A, in nats; negative where the loss rises.
        drift: b, in nats an epoch.
        until: epochs after the drop that were fitted.
        noise: standard deviation of the residuals before the drop, in nats.
        epochs: where `curve` is given, finer than the log.
        curve: the fitted curve, in nats.
    """

    depth: Fitted
    time: Fitted
    time_scale: Fitted
    size: Fitted
    drift: Fitted
    until: int
    noise: float
    epochs: NDArray[np.float64]
    curve: NDArray[np.float64]

    @property
    def found(self) -> bool:
        """Whether the loss relaxes downwards, beyond its interval."""
        return self.size.interval[0] > 0 and self.depth.interval[0] > 0


@functools.lru_cache(maxsize=512)
def fit_dip(run: Run, index: int) -> Dip:
    """The dip at decay `index`, counted from 0.

    Raises:
        NotApplicableError: if there is no such decay, or too few epochs in succession lie on either side of it.
    """
    need_decay(run, index)
    (a, b), (c, d) = run.stretch_before(index), run.stretch_after(index)
    first, last = max(a, b - WINDOW), min(d, c + WINDOW)
    if b - first < FEWEST or last - c < FEWEST:
        raise NotApplicableError(
            f"a dip is fitted to {FEWEST} epochs or more on either side of the decay; here are "
            f"{b - first} and {last - c}"
        )
    drop = run.epochs[c] - 1.0
    rows = np.r_[first:b, c:last]
    u = run.epochs[rows] - drop
    if (np.diff(u[: b - first]) != 1).any() or (np.diff(u[b - first :]) != 1).any():
        raise NotApplicableError(
            f"robust loss was not evaluated every epoch between epochs {run.epoch(first)} and {run.epoch(last - 1)}"
        )
    noises = (
        noise_of(run.test, (a, b), "the stretch of constant rate before the decay"),
        # Of degree 4: what is left of a slow relaxation is no noise.
        noise_of(run.test, (c + AFTER, d), "the stretch after the dip", degree=4),
    )
    return _fit(u, run.test[rows], noises, drop)


def implied_curvature(run: Run, index: int, dip: Dip) -> Fitted:
    """λ = (1−μ)/(η τ N) with the rate after the decay; μ and N as the log states them, else as `prediction` assumes."""
    facts = facts_of(run.log)
    scale = (1 - facts.momentum) / (run.decays[index].after * facts.iterations)
    return Fitted(scale / dip.time_scale.estimate, scale / dip.time_scale.draws)


def small_batch_edge(run: Run, index: int) -> float:
    """2(1−μ)/η of the rate before the decay: the largest batch sharpness that training could hold there."""
    limit, _ = sharpness_limits(MomentumSGD(run.decays[index].before, facts_of(run.log).momentum))
    return limit


def _fit(
    u: NDArray[np.float64], y: NDArray[np.float64], noises: tuple[EpochNoise, EpochNoise], drop: float = 0.0
) -> Dip:
    """The fit to values `y` at `u` epochs since the drop; `noises` of the side before and of the side after it."""
    sizes = (int(np.sum(u <= 0)), int(np.sum(u > 0)))
    weights = np.repeat([1 / noise.standard_deviation for noise in noises], sizes)
    best, coefficients = _solve(u, y[None], weights)
    curve = _design(u, float(TIME_SCALES[best[0]])) @ coefficients[0]
    rng = np.random.default_rng(0)
    blocks = [_blocks(noise, size, rng) for noise, size in zip(noises, sizes, strict=True)]
    copies = curve + np.concatenate(blocks, axis=1)
    again, others = _solve(u, copies, weights)
    until = int(u[-1])
    scales = TIME_SCALES[np.r_[best, again]]
    found = np.concatenate([coefficients, others])
    depth, time = _lowest(scales, found, until)

    def split(values: NDArray[np.float64]) -> Fitted:
        return Fitted(float(values[0]), values[1:])

    fine = np.r_[np.arange(u[0], 0.5), np.linspace(0.05, until, 20 * until)]
    return Dip(
        depth=split(depth),
        time=split(time),
        time_scale=split(scales),
        size=split(found[:, 2]),
        drift=split(found[:, 3]),
        until=until,
        noise=noises[0].standard_deviation,
        epochs=fine + drop,
        curve=_design(fine, scales[0]) @ found[0],
    )


def _blocks(noise: EpochNoise, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Curves of epoch noise, shape ``(REPLICATES, size)``: blocks of a stretch's residuals.

    Residuals lie closer to their trend than the noise does: they are scaled to σ, and by Student's quantile over the
    normal one, for σ is estimated; `WIDER` makes up for the slow noise that blocks lack.
    """
    residuals = noise.residuals - noise.residuals.mean()
    wide = float(stats.t.ppf(1 - HYPOTHESIS_ALPHA / 2, noise.degrees) / stats.norm.ppf(1 - HYPOTHESIS_ALPHA / 2))
    scale = WIDER * wide * noise.standard_deviation / max(float(residuals.std()), 1e-300)
    return scale * block_bootstrap(residuals, REPLICATES, rng=rng, size=size, lost=0)


def _design(u: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Columns of c, s, A, b in (D), shape ``(rows, 4)``."""
    after = np.maximum(u, 0.0)
    return np.stack([np.ones_like(u), np.minimum(u, 0.0), np.expm1(-after / scale), after], axis=1)


def _solve(
    u: NDArray[np.float64], curves: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Index of the best time scale and (c, s, A, b) of each curve, shapes ``(curves,)`` and ``(curves, 4)``."""
    weighed = curves * weights
    parts = [np.linalg.qr(_design(u, scale) * weights[:, None]) for scale in TIME_SCALES]
    # Not |y|² − |Qᵀy|², whose digits are lost where the fit is close.
    left = np.stack([np.sum((weighed - weighed @ basis @ basis.T) ** 2, axis=1) for basis, _ in parts])
    best = np.argmin(left, axis=0)
    found = np.empty((len(curves), 4))
    for index in np.unique(best):
        basis, triangle = parts[index]
        found[best == index] = np.linalg.solve(triangle, (weighed[best == index] @ basis).T).T
    return best, found


def _lowest(
    scales: NDArray[np.float64], coefficients: NDArray[np.float64], until: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Depth and time of the lowest value of (D) over [0, until].

    A curve of one bend is lowest where its slope −(A/τ) e^{−u/τ} + b vanishes, or at an end.
    """
    size, drift = coefficients[:, 2], coefficients[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = scales * np.log(size / (drift * scales))
    bend = np.clip(np.where(np.isfinite(bend), bend, 0.0), 0.0, until)
    times = np.stack([np.zeros_like(bend), bend, np.full_like(bend, until)])
    falls = 0.0 - size * np.expm1(-times / scales) - drift * times
    best = np.argmax(falls, axis=0)
    rows = np.arange(len(bend))
    return falls[best, rows], times[best, rows]


# --- slopes of a pair ----------------------------------------------------------------------------------------------


def rise_difference(baseline: Run, other: Run, stretches: tuple[tuple[int, int], tuple[int, int]]) -> Fitted:
    """How much faster the baseline's test robust loss rises than the other's, in nats an epoch.

    The slope of the straight line through the difference of the two curves, epoch by epoch: what a pair shares through
    its data order cancels before the line is fitted.

    Args:
        baseline: the run without the method.
        other: the run with it.
        stretches: (first row, row after the last) in each.

    Raises:
        NotApplicableError: if the rows are not the same epochs, or are fewer than `FEWEST`.
    """
    (a, b), (c, d) = stretches
    if b - a < FEWEST or not np.array_equal(baseline.epochs[a:b], other.epochs[c:d]):
        raise NotApplicableError(
            f"slopes are compared over {FEWEST} epochs or more that both runs measured; the stretches hold {b - a} and "
            f"{d - c}, of which {len(np.intersect1d(baseline.epochs[a:b], other.epochs[c:d]))} are shared"
        )
    t = baseline.epochs[a:b] - baseline.epochs[a:b].mean()
    values = baseline.test[a:b] - other.test[c:d]
    weights = t / float(t @ t)
    slope = float(weights @ values)
    noise = epoch_noise(values, 0, b - a, degree=1)
    return Fitted(slope, slope + _blocks(noise, b - a, np.random.default_rng(0)) @ weights)


def settled_rows(run: Run) -> tuple[int, int]:
    """From `AFTER` epochs behind the first change to the end of its stretch.

    Raises:
        NotApplicableError: without a decay.
    """
    need_decay(run, 0)
    first, last = run.stretch_after(0)
    return first + AFTER, last


def rows_before(run: Run) -> tuple[int, int]:
    """A decoy's: the stretch of constant rate before the first decay.

    Raises:
        NotApplicableError: without a decay.
    """
    need_decay(run, 0)
    return run.stretch_before(0)
