r"""Σ from one run: what a real training run offers, with the number of independent draws it is worth.

Model     w_t stationary with autocovariances Γ_ij(h). The average of w_i w_j over T recorded steps scatters, for
          Gaussian w, with variance (1/T) Σ_h (Γ_ii(h) Γ_jj(h) + Γ_ij(h) Γ_ji(h)); on the diagonal 2 σᵢ⁴ τ₂ᵢ/T with
          τ₂ = Σ_h ρ_h². The run is worth T/τ₂ independent draws of that variance.
Estimate  Γ by FFT; sums over |h| ≤ W, with W the first lag ≥ 5 τ̂₂(W) of the slowest direction (Sokal's rule, for
          squares). A squared noisy correlation is too large by its variance ≈ τ₂/T, which is taken off. Subtracting the
          run's own mean costs σ² τ₁/T, τ₁ = Σ_h ρ_h, which is put back.
Warning   A run shorter than 50 τ₂ does not know its own τ₂: its status says so.
Source    Sokal, "Monte Carlo methods in statistical mechanics" (1997), §3; Priestley 1981, §5.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import next_fast_len  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

#: Length of a run, in correlation times, below which its own estimate of them is not to be trusted.
SHORTEST_RUN = 50.0
#: Window of the autocorrelation sums in units of τ₂ (Sokal's c; e^{-10} of an exponential's squares is left out).
WINDOW = 5.0


class RunStatus(StrEnum):
    """What a single run can bear; every word is literally true."""

    OK = "the run is at least 50 correlation times long in every direction"
    SHORT = "the run is shorter than 50 correlation times in some direction: its errors are not known"


@dataclass(frozen=True, kw_only=True)
class TrajectoryCovariance:
    """Covariance of the weights over one run.

    Args:
        value: estimate of Σ, shape ``(m, m)``, in units of w².
        standard_error: of each entry, shape ``(m, m)``.
        mean: average of w, or the centre that was given, shape ``(m,)``.
        correlation_time: τ₂ of each direction in recorded steps, shape ``(m,)``.
        effective_size: T/τ₂: independent draws each variance is worth, shape ``(m,)``.
        length: T.
        status: whether the errors are to be trusted.
    """

    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    mean: NDArray[np.float64]
    correlation_time: NDArray[np.float64]
    effective_size: NDArray[np.float64]
    length: int
    status: RunStatus


def trajectory_covariance(weights: ArrayLike, center: ArrayLike | None = None) -> TrajectoryCovariance:
    """Estimate Σ from one long stationary run, with its effective sample size.

    Args:
        weights: w_t at equally spaced steps, shape ``(T, m)``, or ``(T,)`` for one direction; discard the burn-in
            first. For a large network give projections on a few directions: cost and memory are O(m² T).
        center: the optimum, if it is known, shape ``(m,)``; None subtracts the run's mean.

    Raises:
        ValueError: if there are fewer than 8 steps, a weight is not finite, a direction never moves, or the centre has
            another shape.
    """
    path = np.asarray(weights, dtype=np.float64)
    path = path[:, None] if path.ndim == 1 else path
    if path.ndim != 2 or len(path) < 8 or path.shape[1] == 0:
        raise ValueError(f"`trajectory_covariance(weights=...)` must have shape (T >= 8, m); got {path.shape}.")
    if not np.isfinite(path).all():
        raise ValueError(
            f"`trajectory_covariance(weights=...)` must be finite; got {int((~np.isfinite(path)).sum())} bad entries."
        )
    length, m = path.shape
    middle = path.mean(axis=0) if center is None else np.asarray(center, dtype=np.float64)
    if middle.shape != (m,) or not np.isfinite(middle).all():
        raise ValueError(f"`trajectory_covariance(center=...)` must be {m} finite numbers; got shape {middle.shape}.")
    deviation = path - middle
    scale = np.sqrt(np.mean(deviation**2, axis=0))
    if not (scale > 0).all():
        raise ValueError(
            "`trajectory_covariance(weights=...)` must vary in every direction; "
            f"direction {int(np.argmin(scale))} is constant."
        )
    spectrum: NDArray[np.complex128] = np.fft.rfft(deviation / scale, n=next_fast_len(2 * length, True), axis=0)
    own = _lagged(np.abs(spectrum) ** 2, length)  # ρ_h, (T, m)
    times, window = _correlation_times(own)
    lags = np.arange(window + 1)
    weight = np.where(lags == 0, 1.0, 2.0)
    variance = np.empty((m, m))
    for i in range(m):
        for j in range(i, m):
            if i == j:
                variance[i, i] = 2.0 * times[i] / length
                continue
            crossed = _lagged(spectrum[:, i] * spectrum[:, j].conj(), length, window, both=True)
            forward, backward = crossed
            sums = weight @ (own[: window + 1, i] * own[: window + 1, j] + forward * backward)
            # Directions out of step can cancel to below one draw's worth; noise can take the sum below 0.
            variance[i, j] = variance[j, i] = max(float(sums), 2.0 * window / length) / length
    value = deviation.T @ deviation / length
    if center is None:
        # Σ_h ρ_h within the window, never below 0: what the mean of the run took off.
        first = np.maximum(weight @ own[: window + 1], 0.0)
        value = value / (1.0 - np.sqrt(np.multiply.outer(first, first)) / length).clip(0.5)
    enough = length >= SHORTEST_RUN * float(times.max())
    return TrajectoryCovariance(
        value=0.5 * (value + value.T),
        standard_error=np.sqrt(variance) * np.multiply.outer(scale, scale),
        mean=middle,
        correlation_time=times,
        effective_size=length / times,
        length=length,
        status=RunStatus.OK if enough else RunStatus.SHORT,
    )


def _lagged(
    spectrum: NDArray[np.complex128], length: int, window: int | None = None, both: bool = False
) -> NDArray[np.float64]:
    """Correlations at lags 0 … from a spectrum, unbiased for a known mean; with `both`, also at negative lags."""
    circular: NDArray[np.float64] = np.fft.irfft(spectrum, n=next_fast_len(2 * length, True), axis=0)
    keep = length if window is None else window + 1
    pairs = length - np.arange(keep)
    shape = (-1,) + (1,) * (circular.ndim - 1)
    forward = circular[:keep] / pairs.reshape(shape)
    if not both:
        return forward
    backward = np.concatenate([circular[:1], circular[:-keep:-1]]) / pairs.reshape(shape)
    return np.stack([forward, backward])


def _correlation_times(own: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """τ₂ of each direction, and the widest window used."""
    length, m = own.shape
    times = np.empty(m)
    widest = 0
    longest = int(length) // 2
    lags = np.arange(1, longest + 1)
    for i in range(m):
        running = 1.0 + 2.0 * np.cumsum(own[1 : longest + 1, i] ** 2)
        closed = np.flatnonzero(lags >= WINDOW * running)
        window = int(lags[closed[0]]) if len(closed) else longest
        raw = float(running[window - 1])
        # Each of the 2W squares carries the variance of its ρ̂, about τ₂/T.
        times[i] = max(raw / (1.0 + 2.0 * window / length), 1e-12)
        widest = max(widest, window)
    return times, widest
