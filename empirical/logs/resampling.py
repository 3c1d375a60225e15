r"""Contrasts between windows of epochs, with intervals that know that epochs are autocorrelated.

Model     Within a stretch of constant learning rate the curve is a smooth trend plus epoch noise,
              y_t = trend(t) + e_t,   e_t = ρ e_{t−1} + u_t,   Var e = σ²                                   (N)
          trend: a quadratic over the at most `STRETCH` epochs next to a decay; (ρ, σ) one pair a stretch.
Estimate  With M the projection that removes the trend and R_ρ the AR(1) correlation matrix,
              E eᵀMe = σ² tr(M R_ρ),   E (Me)ᵀS(Me) = σ² tr(M S M R_ρ),   S the lag-one average,
          so ρ solves tr(M S M R_ρ)/tr(M R_ρ) = observed ratio (which removes the bias of about −(3 + 5ρ)/n that
          detrending causes) and σ² = RSS / tr(M R_ρ). ρ < 0 is taken as 0: a negative estimate may only narrow.
Contrast  θ = Σ w_t E y_t, estimated by Σ w_t y_t; variance Σ w_s w_t σ_s σ_t ρ^{|s−t|}, stretches independent;
          Student's t with Satterthwaite's degrees tr(MR)²/tr((MR)²), combined over stretches.
Limits    White noise, two windows of n and m: σ √(1/n + 1/m).
Source    The epoch noise of public runs is nearly white around a quadratic (|ρ| < 0.25 in 30 of 31 stretches of the
          11 published logs this was tuned on). Satterthwaite 1946; Kunsch 1989 for `block_bootstrap`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.judge.intervals import Contrast, combined

#: Epochs next to a decay over which the trend is taken as quadratic and the noise as stationary.
STRETCH = 50
#: Fewest epochs from which noise is estimated: 3 coefficients of the trend leave 5 degrees of freedom.
FEWEST = 8
_GRID = np.linspace(0.0, 0.95, 96)


@dataclass(frozen=True, kw_only=True)
class EpochNoise:
    """Noise of a stretch of epochs, equation (N).

    Args:
        first: first row of the stretch.
        last: row after its end.
        standard_deviation: σ, in units of the series.
        lag_one: ρ in [0, 0.95].
        degrees: effective degrees of freedom of σ².
        residuals: y − trend over the rows, shape ``(last − first,)``.
        trend: the fitted trend, same shape.
    """

    first: int
    last: int
    standard_deviation: float
    lag_one: float
    degrees: float
    residuals: NDArray[np.float64]
    trend: NDArray[np.float64]


@dataclass(frozen=True)
class _Moments:
    """Trace terms of (N) for one length of stretch, over the grid of ρ."""

    removal: NDArray[np.float64]  # M
    ratio: NDArray[np.float64]  # tr(M S M R) / tr(M R)
    scale: NDArray[np.float64]  # tr(M R)
    degrees: NDArray[np.float64]  # tr(M R)² / tr((M R)²)


@functools.lru_cache(maxsize=256)
def _moments(length: int, degree: int) -> _Moments:
    t = np.linspace(-1.0, 1.0, length)
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(t, degree))
    removal = np.eye(length) - basis @ basis.T
    shift = 0.5 * (np.eye(length, k=1) + np.eye(length, k=-1))
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    lagged = removal @ shift @ removal
    rows = []
    for rho in _GRID:
        seen = removal @ rho**lags
        scale = np.trace(seen)
        rows.append((np.sum(lagged * rho**lags) / scale, scale, scale**2 / np.sum(seen * seen.T)))
    ratio, scales, degrees = (np.array(column) for column in zip(*rows, strict=True))
    return _Moments(removal, np.maximum.accumulate(ratio), scales, degrees)


def epoch_noise(values: NDArray[np.float64], first: int, last: int, *, degree: int = 2) -> EpochNoise:
    """Noise of the rows ``first ≤ t < last`` around a polynomial trend.

    Args:
        values: the series, shape ``(epochs,)``.
        first: first row.
        last: row after the last.
        degree: of the trend.

    Raises:
        ValueError: if the stretch has fewer than `FEWEST` rows, or holds a value that is not finite.
    """
    part = np.asarray(values, dtype=np.float64)[first:last]
    if len(part) < FEWEST or not np.isfinite(part).all():
        raise ValueError(f"`epoch_noise` needs at least {FEWEST} finite values in a stretch; got {len(part)}.")
    moments = _moments(len(part), degree)
    residuals = moments.removal @ part
    square = float(residuals @ residuals)
    # A curve that is its own trend (a test's ramp, a constant) has noise at rounding level, not zero.
    floor = (1e-12 * max(1.0, float(np.abs(part).max()))) ** 2 * len(part)
    if square <= floor:
        rho, square = 0.0, floor
    else:
        rho = float(np.interp(residuals[1:] @ residuals[:-1] / square, moments.ratio, _GRID))
    scale = float(np.interp(rho, _GRID, moments.scale))
    return EpochNoise(
        first=first,
        last=last,
        standard_deviation=math.sqrt(square / scale),
        lag_one=rho,
        degrees=float(np.interp(rho, _GRID, moments.degrees)),
        residuals=residuals,
        trend=part - residuals,
    )


def contrast(values: NDArray[np.float64], weights: NDArray[np.float64], stretches: Sequence[EpochNoise]) -> Contrast:
    """Σ w_t y_t with its standard error.

    Args:
        values: the series, shape ``(epochs,)``.
        weights: w, shape ``(epochs,)``; every row with a weight must lie in one of the stretches' neighbourhoods: a row
            outside takes the noise of the nearest stretch.
        stretches: at least one.

    Raises:
        ValueError: if no row has a weight, or there is no stretch.
    """
    rows = np.flatnonzero(weights)
    if not len(rows) or not stretches:
        raise ValueError(f"`contrast` needs weights and noise; got {len(rows)} weights and {len(stretches)} stretches.")
    owner = _nearest(rows, stretches)
    parts = []
    for index, noise in enumerate(stretches):
        mine = rows[owner == index]
        if not len(mine):
            continue
        weight = weights[mine] * noise.standard_deviation
        lags = np.abs(np.subtract.outer(mine, mine))
        parts.append((float(weight @ noise.lag_one**lags @ weight), noise.degrees))
    return combined(float(weights[rows] @ np.asarray(values)[rows]), parts)


def _nearest(rows: NDArray[np.intp], stretches: Sequence[EpochNoise]) -> NDArray[np.intp]:
    """Index of the stretch that each row lies in, or closest to."""
    first = np.array([noise.first for noise in stretches])[:, None]
    last = np.array([noise.last - 1 for noise in stretches])[:, None]
    return np.argmin(np.maximum(np.maximum(first - rows, rows - last), 0), axis=0)


def window_weights(length: int, windows: Sequence[tuple[int, int, float]]) -> NDArray[np.float64]:
    """Weights of a sum of window means.

    Args:
        length: rows of the series.
        windows: (first row, row after the last, coefficient of the window's mean).
    """
    weights = np.zeros(length)
    for first, last, coefficient in windows:
        weights[first:last] += coefficient / (last - first)
    return weights


def block_bootstrap(
    residuals: NDArray[np.float64],
    replicates: int,
    *,
    rng: np.random.Generator,
    length: int | None = None,
    size: int | None = None,
    lost: int = 3,
) -> NDArray[np.float64]:
    """Circular blocks of residuals, shape ``(replicates, size)``, scaled up for the trend's lost degrees of freedom.

    Args:
        residuals: shape ``(n,)``, taken about their mean.
        replicates: number of series.
        rng: source of the blocks.
        length: of a block; ⌈n^{1/3}⌉ + 1 by default, the optimal order for weak dependence (Künsch 1989).
        size: of a series; n by default.
        lost: degrees of freedom that the trend took.
    """
    count = len(residuals)
    size = size or count
    length = length or min(count, math.ceil(count ** (1 / 3)) + 1)
    blocks = -(-size // length)
    starts = rng.integers(0, count, size=(replicates, blocks))
    index = (starts[:, :, None] + np.arange(length)).reshape(replicates, -1)[:, :size] % count
    centred = residuals - residuals.mean()
    return centred[index] * math.sqrt(count / max(count - lost, 1))
