r"""Kullback–Leibler divergences that PAC-Bayes bounds are made of: Gaussian, Bernoulli, its inverse, and ξ(n); and W₂.

Model     KL(N(m, Σ) ‖ N(m_P, Σ_P)) = ½ [ Σ_i (x_i − 1 − ln x_i) + (m − m_P)ᵀ Σ_P⁻¹ (m − m_P) ],  x_i the eigenvalues
          of Σ_P⁻¹ Σ;   kl(r ‖ R) = r ln(r/R) + (1−r) ln((1−r)/(1−R)).                                       (D1), (D2)
Accuracy  Every term of (D1) and (D2) can be written through φ(t) = t − ln(1+t) ≥ 0, whose terms do not cancel:
          x − 1 − ln x = φ(x − 1), and kl(r ‖ r+d) = r φ(d/r) + (1−r) φ(−d/(1−r)) because the linear parts of the two
          logarithms are equal and opposite. φ itself is summed as a series in t/(2+t) where t − log1p(t) would cancel.
Limits    Σ = Σ_P: 0.   r = 0: kl = −ln(1−R), inverse 1 − e^{−c}.   c = 0: inverse r.   ξ(n) → √(πn/2) + 2/3.
          W₂² = ‖m − m_P‖² + min_U ‖Σ^{1/2} − Σ_P^{1/2} U‖²_F over orthogonal U, least at the polar factor of
          Σ_P^{1/2} Σ^{1/2}: what the two share never enters, as it would tr Σ + tr Σ_P − 2 tr(…).               (1)
Cost      Spectra: O(m) time, O(1) extra memory (blocks), logarithms of variances and never their product.
Source    (D1) textbook. (D2) Seeger (2002), Langford (2005). ξ(n): Maurer (2004), "A note on the PAC Bayesian theorem".
          (1) Gelbrich (1990).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special

#: Block length of the O(m) loops: temporaries of a block stay in the second-level cache.
_BLOCK = 1 << 14
#: |t| below which φ is summed as a series; above it t − log1p(t) loses at most a few units in the last place.
_SERIES_RADIUS = 0.25
#: 1/3 + z/5 + z²/7 + …: for |t| ≤ ¼, z = (t/(2+t))² ≤ 0.0205, and the first term left out is below 1e-17 of φ.
_SERIES = tuple(1.0 / (2 * k + 3) for k in range(9))
#: Most Newton steps of the inverse kl; quadratic convergence from a bound needs 4 to 7.
_NEWTON_STEPS = 60
#: Risks and complexities below this count as 0 in kl: gap/r would overflow, and r ln(gap/r) is below 1e-287.
_TINY = 1e-290


def log_excess(t: ArrayLike) -> NDArray[np.float64]:
    """φ(t) = t − ln(1 + t) for t > −1, to full relative precision also near 0, where φ ≈ t²/2.

    Raises:
        ValueError: if some t ≤ −1 or is not a number.
    """
    t = np.asarray(t, dtype=np.float64)
    if not (t > -1).all():
        raise ValueError(f"`log_excess(t=...)` must be > -1; got a smallest value of {np.min(t)}.")
    flat = t.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, len(flat), _BLOCK):
        result[start : start + _BLOCK] = _log_excess(flat[start : start + _BLOCK])
    return result.reshape(t.shape)


def _log_excess(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """φ on one block, unchecked; −1 gives +inf."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        result = np.log1p(t)
        np.subtract(t, result, out=result)
        # ln(1+t) = 2 artanh(s), s = t/(2+t), and t = 2s/(1−s): φ = 2s²/(1−s) − 2s³ (1/3 + s²/5 + s⁴/7 + …).
        # The series is summed everywhere: sorting out where it holds costs more than the few products.
        s = t / (2.0 + t)
        z = s * s
        tail = z * _SERIES[-1]
        for coefficient in _SERIES[-2:0:-1]:
            tail += coefficient
            tail *= z
        tail += _SERIES[0]
        tail *= s
        np.subtract(1.0, s, out=s)
        np.divide(1.0, s, out=s)
        s -= tail
        z *= 2.0
        z *= s
        np.copyto(result, z, where=np.abs(t) <= _SERIES_RADIUS)
    return result


def gaussian_kl(
    covariance: ArrayLike,
    prior_covariance: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    prior_mean: ArrayLike | None = None,
) -> float:
    """KL(N(mean, covariance) ‖ N(prior_mean, prior_covariance)) in nats, equation (D1).

    Args:
        covariance: of the posterior: shape ``(m, m)``, or its diagonal ``(m,)``.
        prior_covariance: ``(m, m)``, a diagonal ``(m,)``, or one variance (isotropic prior).
        mean: shape ``(m,)``; None for 0.
        prior_mean: shape ``(m,)``; None for 0.

    Returns:
        The divergence, ≥ 0. Between diagonals: O(m), with a relative error of a few units in the last place of every
        term. Between matrices: O(m³), with an absolute error of about u · m · cond(prior) (1 + KL).

    Raises:
        ValueError: if a covariance is not finite, symmetric and positive definite, a dimension differs from that of
            the posterior, or the divergence is beyond the largest float64.
    """
    posterior = _covariance(covariance, "covariance")
    if posterior.ndim == 0:
        raise ValueError("`gaussian_kl(covariance=...)` must have shape (m, m) or (m,); got a scalar.")
    prior = _covariance(prior_covariance, "prior_covariance")
    size = len(posterior)
    if prior.ndim and len(prior) != size:
        raise ValueError(
            f"`gaussian_kl(prior_covariance=...)` must have the posterior's dimension {size}; got {len(prior)}."
        )
    shift = _vector(mean, "mean", size) - _vector(prior_mean, "prior_mean", size)
    with np.errstate(over="ignore", invalid="ignore"):
        if posterior.ndim == 1 and prior.ndim <= 1:
            result = _diagonal_kl(posterior, prior, shift)
        else:
            result = _dense_kl(posterior, prior, shift)
    if not math.isfinite(result):
        raise ValueError("`gaussian_kl` must be representable: the divergence exceeds the largest float64.")
    return result


def gaussian_wasserstein(
    covariance: ArrayLike,
    other: ArrayLike,
    *,
    mean: ArrayLike | None = None,
    other_mean: ArrayLike | None = None,
) -> float:
    """W₂ between N(mean, covariance) and N(other_mean, other), equation (1), in units of the variables.

    Args:
        covariance: symmetric positive semi-definite, shape ``(m, m)``.
        other: the same of the second law.
        mean: shape ``(m,)``; None for 0.
        other_mean: shape ``(m,)``; None for 0.

    Returns:
        The distance; absolute error about 1e-15 (tr covariance)^½, where no variance is far below the others' rounding.

    Raises:
        ValueError: if a covariance is not finite, square, symmetric and positive semi-definite, or dimensions differ.
    """
    roots = []
    for name, matrix in (("covariance", covariance), ("other", other)):
        array = np.asarray(matrix, dtype=np.float64)
        where = f"gaussian_wasserstein({name}=...)"
        if array.ndim != 2 or array.shape[0] != array.shape[1] or (roots and array.shape != roots[0].shape):
            raise ValueError(f"`{where}` must be (m, m), the same m for both; got {array.shape}.")
        if not np.isfinite(array).all() or np.abs(array - array.T).max() > 1e-10 * np.abs(array).max():
            raise ValueError(f"`{where}` must be finite and symmetric.")
        values, basis = np.linalg.eigh(0.5 * (array + array.T))
        if values[0] < -1e-12 * values[-1]:
            raise ValueError(f"`{where}` must be positive semi-definite; got an eigenvalue of {values[0]:.6g}.")
        roots.append((basis * np.sqrt(np.maximum(values, 0.0))) @ basis.T)
    first, second = roots
    left, _, right = np.linalg.svd(second @ first)
    shift = _vector(mean, "mean", len(first)) - _vector(other_mean, "other_mean", len(first))
    return math.hypot(float(np.linalg.norm(first - second @ (left @ right))), float(np.linalg.norm(shift)))


def _diagonal_kl(variance: NDArray[np.float64], prior: NDArray[np.float64], shift: NDArray[np.float64]) -> float:
    moved = bool(shift.any())
    prior = np.broadcast_to(prior, variance.shape)
    shift = np.broadcast_to(shift, variance.shape)
    parts = []
    for start in range(0, len(variance), _BLOCK):
        block = slice(start, start + _BLOCK)
        parts.append(float(np.sum(variance_excess(variance[block], prior[block]))))
        if moved:
            parts.append(float(np.sum(np.square(shift[block] / np.sqrt(prior[block])))))
    return 0.5 * math.fsum(parts) if all(map(math.isfinite, parts)) else math.inf


def variance_excess(variance: NDArray[np.float64], prior_variance: ArrayLike) -> NDArray[np.float64]:
    """Twice a direction's share of the KL: x − 1 − ln x, x = variance/prior_variance, for any positive input."""
    variance, prior_variance = np.broadcast_arrays(variance, np.asarray(prior_variance, dtype=np.float64))
    with np.errstate(over="ignore"):
        t = (variance - prior_variance) / prior_variance
    result = _log_excess(t)
    result[np.isinf(t)] = np.inf
    # x below ½: 1 + t rounds, so the logarithm comes from the variances (x may be below the smallest float64).
    tiny = t < -0.5
    if tiny.any():
        result[tiny] = t[tiny] - (np.log(variance[tiny]) - np.log(prior_variance[tiny]))
    return result


def _dense_kl(posterior: NDArray[np.float64], prior: NDArray[np.float64], shift: NDArray[np.float64]) -> float:
    size = len(posterior)
    posterior = np.diag(posterior) if posterior.ndim == 1 else posterior
    prior = prior * np.eye(size) if prior.ndim == 0 else np.diag(prior) if prior.ndim == 1 else prior
    factor = _cholesky(prior, "prior_covariance")
    own_factor = _cholesky(posterior, "covariance")
    whitened = linalg.solve_triangular(factor, posterior - prior, lower=True)
    whitened = linalg.solve_triangular(factor, whitened.T, lower=True)
    excess = np.asarray(np.linalg.eigvalsh(0.5 * (whitened + whitened.T)), dtype=np.float64)
    if np.abs(excess).max() <= 0.5:
        spread = float(np.sum(_log_excess(excess)))
    else:
        # Far from the prior the trace and the two determinants do not cancel, and Cholesky's diagonal resolves
        # variances that 1 + t would have rounded away.
        logarithms = 2.0 * (np.log(np.diag(own_factor)) - np.log(np.diag(factor)))
        spread = math.fsum(np.concatenate([np.diag(whitened), -logarithms]))
    if shift.any():
        scaled = linalg.solve_triangular(factor, np.broadcast_to(shift, (size,)), lower=True)
        spread += float(scaled @ scaled)
    return 0.5 * max(spread, 0.0)


def binary_kl(risk: ArrayLike, other: ArrayLike) -> NDArray[np.float64] | float:
    """kl(r ‖ R) in nats, equation (D2), for r in [0, 1] and R in (0, 1); broadcasts.

    Raises:
        ValueError: if r is outside [0, 1] or R outside (0, 1).
    """
    r, big = np.broadcast_arrays(np.asarray(risk, dtype=np.float64), np.asarray(other, dtype=np.float64))
    _in_unit(r, "binary_kl(risk=...)")
    if not ((big > 0) & (big < 1)).all():
        raise ValueError(f"`binary_kl(other=...)` must be in (0, 1); got {_offender(big, (big > 0) & (big < 1))}.")
    result = _binary_kl(np.atleast_1d(r), np.atleast_1d(big - r), np.atleast_1d(1 - big))
    return float(result[0]) if r.ndim == 0 else result.reshape(r.shape)


def _binary_kl(r: NDArray[np.float64], gap: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    """kl(r ‖ r + gap), `left` = 1 − r − gap > 0. r = 0 and r = 1 take their limits."""
    rest = 1.0 - r
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low = np.where(r > _TINY, r * _log_excess(gap / r), gap)
        high = rest * _log_excess(-gap / rest)
        # Where the complement shrinks a lot, 1 − gap/(1−r) has rounded: use the complement itself.
        far = left < 0.25 * rest
        if far.any():
            high = np.where(far, -gap - rest * (np.log(left) - np.log(rest)), high)
        high = np.where(rest > 0, high, -gap)
    return low + high


def kl_inverse(risk: ArrayLike, complexity: ArrayLike) -> NDArray[np.float64] | float:
    """kl⁻¹(r, c) = max {R : kl(r ‖ R) ≤ c}, the largest risk compatible with an observed one; broadcasts.

    Newton's method in −ln(1 − R), where kl is convex in R's upper range: started from the smallest of three upper
    bounds it falls monotonically and converges quadratically. Good to about 1e-15 of R.

    Args:
        risk: r in [0, 1], any shape.
        complexity: c ≥ 0, nats; infinity gives 1.

    Returns:
        R in [r, 1], a float for scalars; 1.0 where 1 − R is below half a unit in the last place.

    Raises:
        ValueError: if r is outside [0, 1] or c is negative or not a number.
    """
    r, c = np.broadcast_arrays(np.asarray(risk, dtype=np.float64), np.asarray(complexity, dtype=np.float64))
    _in_unit(r, "kl_inverse(risk=...)")
    if not (c >= 0).all():
        raise ValueError(f"`kl_inverse(complexity=...)` must be >= 0; got {_offender(c, c >= 0)}.")
    flat_r, flat_c = r.reshape(-1), c.reshape(-1)
    result = np.empty(r.size)
    for start in range(0, r.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        result[block] = _kl_inverse(flat_r[block], flat_c[block])
    return float(result[0]) if r.ndim == 0 else result.reshape(r.shape)


def _kl_inverse(r: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.ones_like(r)
    rest = 1.0 - r
    flat = c < _TINY  # R − r ≤ c + √(c(c + 2r)), too small for the iteration, is added as it is
    result[flat] = np.minimum(1.0, r[flat] + c[flat] + np.sqrt(c[flat]) * np.sqrt(c[flat] + 2.0 * r[flat]))
    # 1 − R ≤ (1−r) e^{−c/(1−r)}: where that is below 2⁻⁵⁴ the answer is the float 1, and nothing may underflow.
    with np.errstate(divide="ignore", invalid="ignore"):
        open_ = ~flat & (rest > 0) & (c < rest * (37.5 + np.log(rest)))
    index = np.flatnonzero(open_)
    if index.size == 0:
        return result
    r, c, rest = r[index], c[index], rest[index]
    first = r
    entropy = -special.xlogy(r, r) - special.xlogy(rest, rest)
    least_left = np.exp(-(c + entropy) / rest)  # kl ≥ −entropy − (1−r) ln(1−R)
    # Two more upper bounds on R − r: Pinsker's, and the one from kl(r ‖ R) ≥ (R − r)²/(2R).
    gap = np.minimum(np.sqrt(0.5 * c), c + np.sqrt(c) * np.sqrt(c + 2.0 * r))
    left = rest - gap
    use_entropy = left < least_left
    left = np.where(use_entropy, least_left, left)
    gap = np.where(use_entropy, rest - least_left, gap)
    gaps = np.empty_like(r)
    active = np.arange(r.size)
    for _ in range(_NEWTON_STEPS):
        excess = _binary_kl(r, gap, left) - c
        # d kl / d(−ln(1−R)) = (R − r)/R: a step multiplies 1 − R by exp(excess R/(R−r)).
        growth = np.expm1(excess * (r + gap) / gap)
        # Beyond the root only rounding pushes; half the gap is below any Newton step taken from above.
        new_gap = np.maximum(gap - left * growth, 0.5 * gap)
        # Near R = 1 the complement carries the digits, elsewhere the gap does.
        left = np.where(left < 0.5 * rest, left * (1.0 + growth), rest - new_gap)
        done = (np.abs(new_gap - gap) <= 1e-15 * gap) | (excess <= 4e-16 * c)
        gap = new_gap
        if done.any():
            gaps[active[done]] = gap[done]
            keep = ~done
            active = active[keep]
            if active.size == 0:
                break
            r, c, rest, gap, left = r[keep], c[keep], rest[keep], gap[keep], left[keep]
    if active.size:
        gaps[active] = gap
    result[index] = np.minimum(first + gaps, 1.0)
    return result


def maurer_moment(num_samples: ArrayLike) -> NDArray[np.float64] | float:
    """ξ(n) = Σ_k C(n,k) (k/n)^k (1−k/n)^{n−k}, the largest E exp(n kl(r̂ ‖ R)) over losses in [0, 1] (Maurer 2004).

    Evaluated as ξ(n) = (n! eⁿ/nⁿ) Q(n+1, n), Q the regularised upper incomplete gamma function (the sum is
    n!/nⁿ Σ_{k≤n} n^k/k!, Schenker's sum). √n ≤ ξ(n) for all n and ξ(n) ≤ 2√n for n ≥ 8.

    Raises:
        ValueError: if n < 1 or not whole.
    """
    n = np.asarray(num_samples, dtype=np.float64)
    good = (n >= 1) & (n == np.floor(n)) & np.isfinite(n)
    if not good.all():
        raise ValueError(f"`maurer_moment(num_samples=...)` must be a whole number >= 1; got {_offender(n, good)}.")
    result = np.exp(_log_stirling_ratio(n)) * special.gammaincc(n + 1.0, n)
    return float(result) if n.ndim == 0 else result


def _log_stirling_ratio(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(n! eⁿ/nⁿ): Stirling's series where it is exact to rounding, direct below."""
    large = np.maximum(n, 16.0)
    inverse = 1.0 / large
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    direct = special.gammaln(n + 1.0) - n * np.log(n) + n
    return np.where(n >= 16, 0.5 * np.log(2.0 * np.pi * large) + series, direct)


def _covariance(value: ArrayLike, name: str) -> NDArray[np.float64]:
    where = f"`gaussian_kl({name}=...)`"
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 2 or array.size == 0 or (array.ndim == 2 and array.shape[0] != array.shape[1]):
        raise ValueError(f"{where} must have shape (m, m) or (m,); got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{where} must be finite; got {int((~np.isfinite(array)).sum())} NaN or infinite entries.")
    if array.ndim < 2:
        if not (array > 0).all():
            raise ValueError(f"{where} must be positive definite; got a smallest variance of {array.min():.6g}.")
        return array
    if np.linalg.norm(array - array.T) > 1e-8 * np.linalg.norm(array):
        raise ValueError(f"{where} must be symmetric; got ‖M − Mᵀ‖ = {np.linalg.norm(array - array.T):.3g}.")
    return 0.5 * (array + array.T)


def _vector(value: ArrayLike | None, name: str, size: int) -> NDArray[np.float64]:
    if value is None:
        return np.zeros(1)
    array = np.asarray(value, dtype=np.float64)
    if array.shape != (size,):
        raise ValueError(f"`gaussian_kl({name}=...)` must have shape ({size},); got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`gaussian_kl({name}=...)` must be finite; got NaN or infinite entries.")
    return array


def _cholesky(matrix: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix)[0]
        raise ValueError(
            f"`gaussian_kl({name}=...)` must be positive definite; got a smallest eigenvalue of {smallest:.6g}."
        ) from None


def _in_unit(values: NDArray[np.float64], where: str) -> None:
    good = (values >= 0) & (values <= 1)
    if not good.all():
        raise ValueError(f"`{where}` must be in [0, 1]; got {_offender(values, good)}.")


def _offender(values: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    """The first value that breaks the rule, for the message."""
    return float(values[~good].flat[0])
