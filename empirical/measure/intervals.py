r"""Intervals for variances of heavy-tailed per-sample quantities.

Problem   γᵢ = Var(uᵢ·g_n) is estimated from N samples whose fourth moment dominates its error: gradients of a trained
          network have a kurtosis of 12-49 along the top eigenvectors, because few samples are still misfit. The
          plug-in interval γ̂ ± 1.96 SE then covers 88-92 % at N = 1,000, and misses on one side.
Method    bootstrap-t on the logarithm: resample, studentize ln γ̂* by its own kurtosis standard error, and invert the
          quantiles of that pivot (Efron and Tibshirani 1993, ch. 12). Second-order accurate and range-preserving.
Level     At N = 1,000 the pivot still covers 93 % where it should cover 95 % (Student t₅, lognormal scale mixtures,
          sparse betas, skewed gammas), so the quantiles are taken at 1 − 0.7 (1 − level): *tuned* on those five laws.
          On nine directions of three networks it then covers 94.7-97.8 % up to a kurtosis of 134, 91 % at 183.
Source    SE: Var(s²) = (κ − 1) σ⁴/N for kurtosis κ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from empirical.records.parts import VarianceEstimates

#: Share of the nominal error probability left to the bootstrap-t quantiles; see the module's *Level*.
ERROR_SHARE = 0.7


def variance_estimates(
    samples: NDArray[np.float64], *, level: float = 0.95, resamples: int = 999, rng: np.random.Generator
) -> VarianceEstimates:
    """Variances of the columns of ``samples`` ``(N, k)`` with bootstrap-t intervals.

    Args:
        samples: independent rows, N ≥ 8.
        level: coverage wanted of each interval, in (0, 1).
        resamples: bootstrap resamples.
        rng: source of the resamples.

    Raises:
        ValueError: if there are too few samples, or a column is constant or not finite.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if samples.ndim != 2 or len(samples) < 8:
        raise ValueError(f"`variance_estimates(samples=...)` must have shape (N >= 8, k); got {samples.shape}.")
    if not 0 < level < 1:
        raise ValueError(f"`variance_estimates(level=...)` must lie in (0, 1); got {level}.")
    count, width = samples.shape
    centered = samples - samples.mean(axis=0)
    scale = np.sqrt((centered**2).mean(axis=0))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("`variance_estimates(samples=...)` must be finite and vary in every column; some do not.")
    unit = centered / scale  # powers of unit-scale numbers: no overflow, no underflow
    log_error = np.sqrt(((unit**4).mean(axis=0) - 1.0) / count)
    powers = np.concatenate([unit**p for p in (1, 2, 3, 4)], axis=1)
    tail = 0.5 * ERROR_SHARE * (1 - level)
    pivots = np.empty((resamples, width))
    for start in range(0, resamples, 256):  # the weights of 256 resamples at a time bound the memory
        block = min(256, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1.0 / count), size=block) / count
        m1, m2, m3, m4 = np.split(weights @ powers, 4, axis=1)
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        error = np.sqrt(np.maximum(fourth / variance**2 - 1.0, 1e-12) / count)
        pivots[start : start + block] = np.log(variance) / error
    lower, upper = np.quantile(pivots, [tail, 1 - tail], axis=0)
    values = scale**2 * count / (count - 1)
    return VarianceEstimates(
        values=values,
        standard_errors=values * log_error,
        kurtosis=(unit**4).mean(axis=0),
        low=values * np.exp(-upper * log_error),
        high=values * np.exp(-lower * log_error),
        num_samples=count,
        level=level,
    )
