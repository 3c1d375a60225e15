r"""Statistics of the judge: tests with known nulls, the sample sizes that give them power, and honest intervals.

Scale     A covariance entry is estimated by averaging products of two directions over replicas and over times. Its
          error is carried as an *effective number of degrees of freedom* ν: Var(V̂) = 2 V²/ν, the ν of a χ² law with
          the same relative variance (Satterthwaite 1946).
Null      V̂ ν / V ~ χ²(ν): exact for one time per replica and Gaussian data, matched in two moments otherwise.
Power     `required_degrees` is the ν at which the two-sided test at level α misses a relative error r with a chance of
          at most β. At α = β = 1e-6 and r = 1 % it is 1.88e6.
Peeking   `confidence_sequence` holds at all sample sizes at once (Ville 1939; gamma mixture of likelihood ratios,
          Robbins 1970), so that a run may stop when it is decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats  # pyright: ignore[reportMissingTypeStubs]


def variance_p_value(ratio: ArrayLike, degrees: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-value of V̂/V = `ratio` under χ²(ν)/ν.

    Args:
        ratio: measured over predicted variance, any shape, ≥ 0.
        degrees: effective degrees of freedom ν > 0, broadcastable.

    Raises:
        ValueError: if a ratio is negative or not finite, or ν is not positive.
    """
    ratio, degrees = np.asarray(ratio, dtype=np.float64), np.asarray(degrees, dtype=np.float64)
    if not (np.isfinite(ratio).all() and (ratio >= 0).all()):
        raise ValueError(f"`variance_p_value(ratio=...)` must be finite and >= 0; got {ratio}.")
    if not (np.isfinite(degrees).all() and (degrees > 0).all()):
        raise ValueError(f"`variance_p_value(degrees=...)` must be finite and > 0; got {degrees}.")
    half = 0.5 * degrees
    tails = np.minimum(special.gammainc(half, half * ratio), special.gammaincc(half, half * ratio))
    return np.minimum(1.0, 2.0 * tails)


def normal_p_value(z: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-value of a standard normal score."""
    return np.asarray(special.erfc(np.abs(np.asarray(z, dtype=np.float64)) / math.sqrt(2.0)))


def variance_interval(
    ratio: ArrayLike, degrees: ArrayLike, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval at level 1 − α for V/V_predicted, given measured/predicted and ν: χ² inverted."""
    ratio, half = np.asarray(ratio, dtype=np.float64), 0.5 * np.asarray(degrees, dtype=np.float64)
    low = ratio * half / special.gammainccinv(half, 0.5 * alpha)
    high = ratio * half / special.gammaincinv(half, 0.5 * alpha)
    return low, high


def normal_quantile(alpha: float) -> float:
    """The two-sided critical value z with P(|Z| > z) = α."""
    return float(-special.ndtri(0.5 * alpha))


def miss_chance(detects: float, degrees: float, alpha: float) -> float:
    """Chance that the two-sided test at level α and ν = `degrees` misses a relative error of `detects`.

    The larger of those for a true variance of (1 + r) and of 1/(1 + r) times the predicted one, from the exact χ² law;
    rejection in the other tail is not counted.
    """
    half = 0.5 * degrees
    above = special.gammainccinv(half, 0.5 * alpha) / (1 + detects)
    below = special.gammaincinv(half, 0.5 * alpha) * (1 + detects)
    return max(float(special.gammainc(half, above)), float(special.gammaincc(half, below)))


def required_degrees(detects: float, alpha: float, miss: float) -> float:
    """Smallest ν at which a variance wrong by the relative error `detects` is rejected with chance ≥ 1 − miss.

    The ν at which `miss_chance` is `miss`; `alpha` is the two-sided level of one test.

    Raises:
        ValueError: if an argument lies outside (0, 1).
    """
    for name, value in (("detects", detects), ("alpha", alpha), ("miss", miss)):
        if not 0 < value < 1:
            raise ValueError(f"`required_degrees({name}=...)` must be in (0, 1); got {value}.")

    def shortfall(log_degrees: float) -> float:
        return math.log(max(miss_chance(detects, math.exp(log_degrees), alpha), 1e-300)) - math.log(miss)

    guess = 2 * ((normal_quantile(alpha) - special.ndtri(miss)) / math.log1p(detects)) ** 2
    centre = math.log(max(guess, 4.0))
    return math.exp(_root(shortfall, centre - 2.5, centre + 2.5, xtol=1e-12))


def _root(function: Callable[[float], float], low: float, high: float, *, xtol: float) -> float:
    return float(cast(Any, optimize).brentq(function, low, high, xtol=xtol))  # SciPy has no types


def pooled_moment_variance(lagged: NDArray[np.float64], num_times: int, replicas: int) -> NDArray[np.float64]:
    """Variance of the pooled second moment of a stationary Gaussian process, entry by entry.

    Model: S_ij = (R T)⁻¹ Σ_r Σ_t z_i(t) z_j(t), z of mean 0. By Isserlis' theorem
    Var S_ij = (R T²)⁻¹ Σ_h (T − |h|) (Γ_ii(h) Γ_jj(h) + Γ_ij(h) Γ_ji(h)).

    Args:
        lagged: Γ(h) = E z(t+h) z(t)ᵀ at lags of h recorded times, shape ``(L, n, n)``, h = 0 … L − 1; lags beyond L
            are taken as 0.
        num_times: T, recorded times a replica.
        replicas: R.

    Returns:
        Shape ``(n, n)``.
    """
    lags = np.arange(min(len(lagged), num_times))
    weight = np.where(lags == 0, 1.0, 2.0) * (num_times - lags) / (replicas * float(num_times) ** 2)
    diagonal = np.einsum("hii->hi", lagged[: len(lags)])
    variance = np.einsum("h,hi,hj->ij", weight, diagonal, diagonal)
    return variance + np.einsum("h,hij,hji->ij", weight, lagged[: len(lags)], lagged[: len(lags)])


def pooled_kurtosis_variance(
    response: NDArray[np.float64], times: NDArray[np.int_], replicas: int, excess_kurtosis: float
) -> NDArray[np.float64]:
    """What non-Gaussian noise adds to `pooled_moment_variance`.

    Model: z(t) = Σ_{s<t} Φ_{t−1−s} x(s), the entries of x independent with excess kurtosis κ. The fourth cumulants add
    κ (R T²)⁻¹ Σ_s Σ_a (Σ_{t recorded, t>s} Φ_{t−1−s, ia} Φ_{t−1−s, ja})².

    Args:
        response: Φ_k, shape ``(K, n, q)``; responses beyond K are taken as 0.
        times: recorded times (steps done), equally spaced and rising, shape ``(T,)``.
        replicas: R.
        excess_kurtosis: κ.
    """
    size = response.shape[1]
    if excess_kurtosis == 0:
        return np.zeros((size, size))
    stride = int(times[1] - times[0]) if len(times) > 1 else int(times[0])
    first, last = int(times[0]), int(times[-1])
    products = np.einsum("kia,kja->kija", response, response)
    total = np.zeros((size, size))
    for residue in range(stride):
        # Noise at step s is seen with delays t − 1 − s over the recorded t: one residue class modulo the stride.
        running = np.cumsum(products[residue::stride], axis=0)
        if not len(running):
            continue
        sources = np.arange(last - 1 - residue, -1, -stride)
        newest = np.minimum((last - 1 - sources) // stride, len(running) - 1)
        # Sources before the first recorded time miss the delays shorter than first − 1 − s.
        skipped = np.where(sources < first, -(-(first - 1 - sources - residue) // stride) - 1, -1)
        skipped = np.minimum(skipped, len(running) - 1)
        block = running[newest] - np.where(skipped[:, None, None, None] >= 0, running[skipped], 0.0)
        total += np.einsum("sija,sija->ij", block, block)
    return excess_kurtosis * total / (replicas * float(len(times)) ** 2)


def confidence_sequence(sum_of_squares: float, count: float, alpha: float, mixture: float = 1e4) -> tuple[float, float]:
    """Interval for θ that holds for all n at once, from n independent N(0, θ) draws seen so far.

    E_n(θ) = k^k Γ(k + n/2) e^{S/2θ} / (Γ(k) (k + S/2θ)^{k + n/2}) is a martingale of mean 1 under θ (a gamma mixture
    of shape and rate k over the precision). The sequence keeps every θ with E_n(θ) < 1/α; by Ville's inequality the
    truth is ever lost with a chance of at most α.

    Args:
        sum_of_squares: S = Σ z² ≥ 0.
        count: n ≥ 1.
        alpha: level in (0, 1).
        mixture: k; larger is tighter for θ near 1 at large n ("tuned on" 1 % errors: k = 1e4 stops earliest).
    """
    if not (count >= 1 and sum_of_squares > 0 and 0 < alpha < 1):
        raise ValueError(
            "`confidence_sequence` needs sum_of_squares > 0, count >= 1 and alpha in (0, 1); "
            f"got {sum_of_squares}, {count} and {alpha}."
        )
    half, k = 0.5 * count, mixture
    constant = k * math.log(k) + math.lgamma(k + half) - math.lgamma(k) + math.log(alpha)

    def excess(log_theta: float) -> float:
        scaled = 0.5 * sum_of_squares * math.exp(-log_theta)
        return constant + scaled - (k + half) * math.log(k + scaled)

    bottom = math.log(sum_of_squares / count)  # E_n is smallest where S/θ = n
    if excess(bottom) >= 0:
        return math.exp(bottom), math.exp(bottom)
    ends: list[float] = []
    for direction in (-1.0, 1.0):
        reach = 1e-3
        while excess(bottom + direction * reach) < 0 and reach < 600:
            reach *= 2
        if excess(bottom + direction * reach) < 0:
            ends.append(math.inf if direction > 0 else 0.0)
            continue
        a, b = sorted((bottom, bottom + direction * reach))
        ends.append(math.exp(_root(excess, a, b, xtol=1e-14)))
    return ends[0], ends[1]


def binomial_interval(successes: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Clopper–Pearson interval at level 1 − α for a rate (Clopper and Pearson 1934)."""
    if not (trials >= 1 and 0 <= successes <= trials):
        raise ValueError(f"`binomial_interval` needs 0 <= successes <= trials, trials >= 1; got {successes}, {trials}.")
    quantile = cast(Any, stats).beta.ppf
    low = 0.0 if successes == 0 else float(quantile(alpha / 2, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(quantile(1 - alpha / 2, successes + 1, trials - successes))
    return low, high


def pooled_moment_covariance(
    lagged: NDArray[np.float64],
    num_times: int,
    replicas: int,
    first: tuple[NDArray[np.int_], NDArray[np.int_]],
    second: tuple[NDArray[np.int_], NDArray[np.int_]],
) -> NDArray[np.float64]:
    """Covariance of two entries of the pooled second moment, for many pairs of entries at once.

    Model as in `pooled_moment_variance`: Cov(S_pq, S_rs) = (R T²)⁻¹ Σ_{t,t'} (Γ_pr Γ_qs + Γ_ps Γ_qr)(t − t'), where
    Γ(−h) = Γ(h)ᵀ.

    Args:
        lagged: Γ(h), shape ``(L, n, n)``.
        num_times: T.
        replicas: R.
        first: index arrays (p, q), each of shape ``(k,)``.
        second: index arrays (r, s).
    """
    (p, q), (r, s) = first, second
    lags = np.arange(min(len(lagged), num_times))
    weight = (num_times - lags) / (replicas * float(num_times) ** 2)
    gamma = lagged[: len(lags)]
    forward = gamma[:, p, r] * gamma[:, q, s] + gamma[:, p, s] * gamma[:, q, r]
    backward = gamma[:, r, p] * gamma[:, s, q] + gamma[:, s, p] * gamma[:, r, q]
    return weight @ forward + weight[1:] @ backward[1:]
