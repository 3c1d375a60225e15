r"""Is this run stationary? The two fluctuation–dissipation relations as tests on what a training run can log.

Model     w₊ = w − η d with a constant η and any direction d. In every stationary state E|w₊|² = E|w|² and, L quadratic
          with Hessian H, E L(w₊) = E L(w):
              first     E w·d = (η/2) E|d|²,             whatever the loss and the noise;                    (1)
              second    E ∇L·d = (η/2) E dᵀHd,           exact for a quadratic loss.                         (2)
          For heavy ball in PyTorch's form (1) reads, with the gradient g and the buffer v₊ after it,
              (1−d̂) E w·g = (1+μ)(η/2) E|v₊|²,           d̂ the dampening.                                    (3)
Estimate  Along a run (1) telescopes: 2η (½η|d|² − w·d) is the increment of |w|², so that its average over the run is
          the difference of the two ends, of size 1/T whatever the run did. That average tells little, and batch means
          give it an error √B too large. What tells is the level of |w|²: with U_t the sum of the first t increments,
              D = (mean of U over the second half) − (mean over the first),
          which is the discrepancy of (1) averaged with a tent-shaped window. D is held against the scatter of the means
          of B = 8 batches about a straight line in each half, as Student's t with 2(B − 2) degrees of freedom.
          (2) does not telescope when ∇L is measured on a batch of its own; its average over 2B batches is Student's t
          with 2B − 1 degrees. Where ∇L is exact that test is conservative.
Warning   A batch shorter than 10 correlation times τ₂ of the detrended U is no independent draw: the status then says
          that the run is too short to tell. A run within its slowest direction's memory is not shown to be stationary.
Source    Yaida (ICLR 2019, arXiv 1810.00004), FDR1 and FDR2 and their form with momentum. The telescoping, the window
          and the errors are derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from theory.judge.trajectory import trajectory_covariance

#: Batches in each half of a run.
BATCHES = 8
#: Length of a batch in correlation times from which its mean counts as an independent draw.
SHORTEST_BATCH = 10.0


class FluctuationStatus(StrEnum):
    """What a run can bear; every word is literally true."""

    OK = "every batch is at least 10 correlation times long"
    SHORT = "a batch is shorter than 10 correlation times: the run is too short to tell"


@dataclass(frozen=True, kw_only=True)
class FluctuationDissipation:
    """A relation as measured along one run.

    Args:
        left: windowed average of the dissipation, w·d or ∇L·d.
        right: windowed average of the fluctuation, (η/2)|d|² or (η/2) dᵀHd.
        ratio: left / right, 1 in a stationary state.
        standard_error: of the ratio.
        statistic: Student's t of left = right.
        degrees: its degrees of freedom.
        p_value: two-sided; small where the run is not stationary (or, for the second relation, L not quadratic).
        correlation_time: τ₂ in steps of what was averaged.
        length: number of steps used.
        status: whether the run is long enough for its errors.
    """

    left: float
    right: float
    ratio: float
    standard_error: float
    statistic: float
    degrees: int
    p_value: float
    correlation_time: float
    length: int
    status: FluctuationStatus


def first_fluctuation_dissipation(
    overlap: ArrayLike,
    squared: ArrayLike,
    learning_rate: float,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
) -> FluctuationDissipation:
    """Test relation (3) on one run at a constant learning rate; discard the burn-in first.

    Args:
        overlap: w_t · g_t at every step, shape ``(T,)``: weights before the step with the gradient that the optimizer
            uses there, weight decay included. The origin of w may be any fixed point.
        squared: |v_{t+1}|² of the buffer after that gradient, shape ``(T,)``; without momentum |g_t|².
        learning_rate: η of all steps.
        momentum: μ of heavy ball in PyTorch's form. For any other optimizer leave 0 and give w·d and |d|² with
            d = (w_t − w_{t+1})/η: that is relation (1).
        dampening: share of the gradient kept out of the buffer; without momentum it has no effect.

    Raises:
        ValueError: if the arrays differ in length, hold fewer than 64 steps, are not finite, or do not vary; or if η, μ
            or the dampening is out of range.
    """
    where = "first_fluctuation_dissipation"
    eta = _positive(learning_rate, f"{where}(learning_rate=...)")
    for name, value in (("momentum", momentum), ("dampening", dampening)):
        if not 0 <= value < 1:
            raise ValueError(f"`{where}({name}=...)` must be in [0, 1); got {value}.")
    left, right = _pair(overlap, squared, where, "overlap", "squared")
    kept = 1.0 - dampening if momentum else 1.0
    left, right = kept * left, 0.5 * (1.0 + momentum) * eta * right
    half = len(left) // 2
    level = np.cumsum(right - left)
    first, second = (_batch_means(part) for part in (level[:half], level[half:]))
    rise = float(second.mean() - first.mean())
    # What a half lost in its straight line is drift, not scatter: it must not hide the drift between the halves.
    scatter = sum(float(np.sum(_detrended(means) ** 2)) for means in (first, second)) / (BATCHES - 2)
    spread = scatter / BATCHES
    window = np.concatenate([np.arange(half), half - np.arange(half)]) / half**2
    return _result(
        left=float(window @ left),
        right=float(window @ right),
        # The windowed mean of right − left is the rise of U over the number of steps between the halves' centres.
        difference=-rise / half,
        error=math.sqrt(spread) / half,
        degrees=2 * (BATCHES - 2),
        time=_correlation_time(level),
        length=len(left),
    )


def second_fluctuation_dissipation(
    overlap: ArrayLike, curvature: ArrayLike, learning_rate: float
) -> FluctuationDissipation:
    """Test relation (2) on one run at a constant learning rate; discard the burn-in first.

    Args:
        overlap: ∇L(w_t) · d_t at every step, shape ``(T,)``, d = (w_t − w_{t+1})/η (without momentum the gradient g_t);
            ∇L of all data, or without bias from a batch independent of the one in d.
        curvature: d_tᵀ H d_t, shape ``(T,)``, H of all data or of a batch independent of d's.
        learning_rate: η of all steps.

    Raises:
        ValueError: if the arrays differ in length, hold fewer than 64 steps, are not finite, or do not vary; or if η is
            not > 0.
    """
    where = "second_fluctuation_dissipation"
    eta = _positive(learning_rate, f"{where}(learning_rate=...)")
    left, right = _pair(overlap, curvature, where, "overlap", "curvature")
    right = 0.5 * eta * right
    half = len(left) // 2
    gap = left - right
    means = np.concatenate([_batch_means(gap[:half]), _batch_means(gap[half:])])
    return _result(
        left=float(left.mean()),
        right=float(right.mean()),
        difference=float(means.mean()),
        error=float(means.std(ddof=1)) / math.sqrt(2 * BATCHES),
        degrees=2 * BATCHES - 1,
        time=_correlation_time(gap),
        length=len(left),
    )


def _result(
    *, left: float, right: float, difference: float, error: float, degrees: int, time: float, length: int
) -> FluctuationDissipation:
    statistic = difference / error
    return FluctuationDissipation(
        left=left,
        right=right,
        ratio=left / right,
        standard_error=error / abs(right),
        statistic=statistic,
        degrees=degrees,
        p_value=float(2.0 * special.stdtr(degrees, -abs(statistic))),
        correlation_time=time,
        length=length,
        status=FluctuationStatus.OK if length >= 2 * BATCHES * SHORTEST_BATCH * time else FluctuationStatus.SHORT,
    )


def _batch_means(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of `BATCHES` batches of equal length; what is left over at the front is dropped."""
    size = len(part) // BATCHES
    return part[len(part) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1)


def _correlation_time(path: NDArray[np.float64]) -> float:
    """τ₂ of a path of which each half has lost its straight line, so that a trend does not pass for memory."""
    half = len(path) // 2
    rest = np.concatenate([_detrended(path[:half]), _detrended(path[half:])])
    return float(trajectory_covariance(rest, center=np.zeros(1)).correlation_time[0])


def _detrended(part: NDArray[np.float64]) -> NDArray[np.float64]:
    at = np.arange(len(part)) - 0.5 * (len(part) - 1)
    return part - part.mean() - at * (float(at @ part) / float(at @ at))


def _pair(
    first: ArrayLike, second: ArrayLike, where: str, first_name: str, second_name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as equal numbers of steps, an even number of them."""
    left, right = (np.asarray(values, dtype=np.float64) for values in (first, second))
    for name, values in ((first_name, left), (second_name, right)):
        if values.ndim != 1 or len(values) < 8 * BATCHES:
            raise ValueError(f"`{where}({name}=...)` must have shape (T >= {8 * BATCHES},); got {values.shape}.")
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(f"`{where}({name}=...)` must be finite; got {bad} bad entries.")
    if len(left) != len(right):
        raise ValueError(
            f"`{where}({second_name}=...)` must have the {len(left)} steps of the other; got {len(right)}."
        )
    if not (left.std() > 0 and right.std() > 0):
        raise ValueError(f"`{where}({first_name}=...)` and `{second_name}` must vary; got a constant.")
    start = len(left) % 2
    return left[start:], right[start:]


def _positive(value: float, where: str) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{where}` must be > 0 and finite; got {value}.")
    return float(value)
