r"""Contrasts and their intervals: a number, its standard error, and the degrees of freedom of that error.

Student   estimate ± t_ν SE; ν = ∞ is the normal law. Parts of an error that are independent add their variances, with
          Satterthwaite's degrees (Σ vᵢ)²/Σ(vᵢ²/νᵢ) (Satterthwaite 1946).
Influence  of sample n on an estimate: Var ≈ Σ (IF_n − mean)²/(N (N − 1)), the infinitesimal jackknife.
Meta      k runs with estimates yᵢ and standard errors sᵢ: y = Σ wᵢyᵢ/Σwᵢ, wᵢ = 1/(sᵢ² + τ²), τ² the moment estimate of
          DerSimonian and Laird 1986; Var y = max(1, q)/Σwᵢ, q = Σ wᵢ(yᵢ − y)²/(k − 1), with t_{k−1}: Hartung and Knapp
          2001, never narrower than the errors themselves imply (Röver, Knapp and Friede 2015).
Ranks     Fisher's z of a rank correlation has the variance (1 + ρ²/2)/(n − 3) (Bonett and Wright 2000).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

__all__ = [
    "Contrast",
    "combined",
    "from_influences",
    "mean_of",
    "of_interval",
    "of_magnitude",
    "random_effects",
    "rank_correlation_interval",
    "skewed",
]

#: A correlation closer to ±1 than this has no Fisher z to speak of.
LARGEST_CORRELATION = 0.999999


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """An estimate with its standard error and the degrees of freedom of that error (infinite: known)."""

    estimate: float
    standard_error: float
    degrees: float = math.inf

    def interval(self, alpha: float) -> tuple[float, float]:
        """Two-sided Student interval at level 1 − α."""
        reach = float(cast(Any, stats).t.ppf(1 - alpha / 2, self.degrees)) * self.standard_error
        return self.estimate - reach, self.estimate + reach

    def scaled(self, unit: float) -> Contrast:
        """The same contrast in units of `unit`."""
        return Contrast(
            estimate=self.estimate / unit, standard_error=self.standard_error / abs(unit), degrees=self.degrees
        )

    def of(self, sign: float) -> Contrast:
        """The contrast times `sign`, ±1."""
        return Contrast(estimate=sign * self.estimate, standard_error=self.standard_error, degrees=self.degrees)


def combined(estimate: float, parts: Sequence[tuple[float, float]]) -> Contrast:
    """A contrast whose error has independent parts.

    Args:
        estimate: the number.
        parts: (variance, degrees of freedom) of each.

    Raises:
        ValueError: if there is no part.
    """
    if not parts:
        raise ValueError("`combined(parts=...)` must hold at least one part of the error; got none.")
    total = sum(variance for variance, _ in parts)
    weight = sum(variance * variance / degrees for variance, degrees in parts)
    degrees = total * total / weight if weight > 0 else parts[0][1]
    return Contrast(estimate=estimate, standard_error=math.sqrt(total), degrees=degrees)


def mean_of(values: ArrayLike) -> Contrast:
    """The mean of independent numbers, its error from their own spread.

    Raises:
        ValueError: if there are fewer than two numbers.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ValueError(f"`mean_of(values=...)` must hold at least 2 numbers; got shape {numbers.shape}.")
    return from_influences(float(numbers.mean()), numbers)


def random_effects(runs: Sequence[Contrast]) -> Contrast:
    """The mean over a population of runs, of which these are some, each known with its own error.

    Raises:
        ValueError: if there are fewer than two runs, or an error is not positive.
    """
    values = np.array([run.estimate for run in runs])
    variances = np.array([run.standard_error for run in runs]) ** 2
    if len(runs) < 2:
        raise ValueError(f"`random_effects(runs=...)` must hold at least 2 runs; got {len(runs)}.")
    if not (variances > 0).all():
        raise ValueError("`random_effects(runs=...)` must have positive standard errors; got 0.")
    fixed = 1 / variances
    scatter = float(fixed @ (values - fixed @ values / fixed.sum()) ** 2)
    between = max(scatter - (len(runs) - 1), 0.0) / float(fixed.sum() - fixed @ fixed / fixed.sum())
    weights = 1 / (variances + between)
    mean = float(weights @ values / weights.sum())
    spread = float(weights @ (values - mean) ** 2) / (len(runs) - 1)
    error = math.sqrt(max(1.0, spread) / float(weights.sum()))
    return Contrast(estimate=mean, standard_error=error, degrees=len(runs) - 1.0)


def from_influences(estimate: float, influences: NDArray[np.float64]) -> Contrast:
    """An estimate with the error that the influence of each of N samples on it implies."""
    count = len(influences)
    error = float(np.std(influences, ddof=1)) / math.sqrt(count)
    return Contrast(estimate=estimate, standard_error=error, degrees=count - 1.0)


def skewed(estimate: float, influences: NDArray[np.float64], alpha: float) -> tuple[float, float]:
    """Student's interval from the samples' influences, its quantiles corrected for their skewness.

    With few or heavy-tailed samples the plain interval misses on one side. A monotone cubic of the studentised mean has
    no skewness to first order, and its inverse maps the quantiles back.

    Args:
        estimate: the number.
        influences: of each of N samples on it, shape ``(N,)``.
        alpha: 1 − nominal coverage.

    Source: Hall (1992), J. R. Statist. Soc. B 54, 221.
    """
    found = from_influences(estimate, influences)
    error, count = found.standard_error, len(influences)
    if error == 0:
        return estimate, estimate
    quantile = float(cast(Any, stats).t.ppf(1 - alpha / 2, count - 1))
    unit = float(cast(Any, stats).skew(influences)) / math.sqrt(count)
    if abs(unit) < 1e-6:
        return estimate - quantile * error, estimate + quantile * error

    def pivot(value: float) -> float:
        return 3.0 / unit * (float(np.cbrt(1.0 + unit * (value - unit / 6.0))) - 1.0)

    return estimate - error * pivot(quantile), estimate - error * pivot(-quantile)


def of_interval(estimate: float, interval: tuple[float, float], alpha: float) -> Contrast:
    """The contrast whose normal interval at level 1 − α is as wide as this one."""
    width = interval[1] - interval[0]
    return Contrast(estimate=estimate, standard_error=width / (2 * float(cast(Any, stats).norm.ppf(1 - alpha / 2))))


def of_magnitude(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval of |x|, given that of x."""
    low, high = sorted(interval)
    inner = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return inner, max(abs(low), abs(high))


def rank_correlation_interval(correlation: float, count: int, alpha: float) -> tuple[float, float]:
    """Interval of a rank correlation of `count` pairs at level 1 − α.

    Raises:
        ValueError: if there are fewer than 4 pairs.
    """
    if count < 4:
        raise ValueError(f"`rank_correlation_interval(count=...)` must be >= 4; got {count}.")
    bounded = max(min(correlation, LARGEST_CORRELATION), -LARGEST_CORRELATION)
    z = Contrast(estimate=math.atanh(bounded), standard_error=math.sqrt((1 + bounded**2 / 2) / (count - 3)))
    low, high = z.interval(alpha)
    return math.tanh(low), math.tanh(high)
