r"""How many steps of one run are worth one independent draw, when a variance or a mean is estimated from it.

Model     Stationary w along an eigenvector of H, with autocorrelation ρ_k = Cov(w_{t+k}, w_t)/σ².
Result    The average of w² over T steps has relative variance 2 τ₂/T to first order in τ₂/T, with τ₂ = Σ_{k∈ℤ} ρ_k².
          The lagged covariance is (Fᵏ r)₁ with r the first column of the stationary state, so that Σ_{k≥0} (Fᵏ r)₁² is
          an entry of X = F X Fᵀ + r rᵀ, a 4×4 linear system for each mode.
          For means: whatever the optimizer, Σ_{k∈ℤ} Cov(w_{t+k}, w_t) = A⁻¹CA⁻¹, A = H + weight decay, because the
          increments of a stationary run sum to nothing and leave A Σw_t = −Σξ_t. The integrated autocorrelation time of
          direction x is therefore τ = xᵀA⁻¹CA⁻¹x / xᵀΣx; along an eigenvector (1−μ)(2(1+μ) − a)/((1+μ)a), heavy ball.
Limits    Means, a → 0: 2(1−μ)/a.
          Variances, μ = 0: (1+ρ²)/(1−ρ²), ρ = 1−ηλ.   Deep underdamped: (1+μ)/(2(1−μ)): 9.5 at μ = .9.
Oracle    The sum over lags taken literally; the spread over simulated runs.
Source    Bartlett's formula (Priestley 1981, §5.3.3), Isserlis' theorem; the long-run covariance is that of Polyak and
          Juditsky (1992).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.powers import companion, power
from theory.closed_form.stability import one_group, stable_modes
from theory.closed_form.stationary import stationary_covariance, stationary_state
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic


def variance_correlation_time(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """τ₂ = Σ_k ρ_k² of each mode in steps, shape ``(m,)``; T steps carry T/τ₂ independent draws of w².

    Args:
        curvatures: λ, shape ``(m,)``.
        optimizer: the recursion.

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    lam = np.asarray(curvatures, dtype=np.float64)
    stable_modes(lam, optimizer)
    mode = companion(lam, optimizer)
    step = mode.sign * power(mode, 1).matrix
    inner = np.einsum("abii->abi", stationary_state(mode, np.eye(len(lam))))
    # Cov(s_t, w_t) with s = (x, y) and w = o·s, and w_{t+k} = o·Fᵏ s_t + (noise to come).
    out = mode.outward[0]
    start = np.einsum("abi,bi->ai", inner, out)
    moves = step.transpose(2, 0, 1)
    system = np.eye(4) - np.einsum("iac,ibd->iabcd", moves, moves).reshape(-1, 4, 4)
    forcing = np.einsum("ai,bi->iab", start, start).reshape(-1, 4, 1)
    summed = np.linalg.solve(system, forcing).reshape(-1, 2, 2)
    squares = np.einsum("ai,iab,bi->i", out, summed, out)
    variance = np.einsum("ai,ai->i", out, start)
    return 2.0 * squares / variance**2 - 1.0


def integrated_autocorrelation_time(
    problem: Quadratic, optimizer: MomentumSGD, directions: ArrayLike | None = None
) -> NDArray[np.float64]:
    """τ = Σ_k ρ_k of the weights in steps: the mean of T ≫ τ iterates has T/τ times less variance than one iterate.

    It may be below 1: underdamped and alternating directions average faster than independent draws.

    Args:
        problem: H and C; they need not commute.
        optimizer: momentum SGD in any convention.
        directions: columns x, shape ``(m, k)``, or one, ``(m,)``; None for the coordinates.

    Returns:
        Shape ``(k,)``; ``(m,)`` for the coordinates.

    Raises:
        ValueError: if the directions have another length, are not finite, or see no noise.
        UnstableError: if some mode has no stationary law.
    """
    where = "`integrated_autocorrelation_time(directions=...)`"
    one_group(optimizer)
    m = problem.dimension
    seen = np.eye(m) if directions is None else np.asarray(directions, dtype=np.float64)
    seen = seen[:, None] if seen.ndim == 1 else seen
    if seen.ndim != 2 or len(seen) != m or not np.isfinite(seen).all():
        raise ValueError(f"{where} must be finite columns of {m} numbers; got shape {seen.shape}.")
    variance = np.einsum("ik,ij,jk->k", seen, stationary_covariance(problem, optimizer).require(), seen)
    if not (variance > 0).all():
        raise ValueError(f"{where} must move; got a direction of variance {variance.min():.3g}.")
    decayed = problem.dense_hessian() + optimizer.weight_decay * np.eye(m)
    pulled = np.linalg.solve(decayed, seen)
    return np.einsum("ik,ij,jk->k", pulled, problem.dense_noise_cov(), pulled) / variance
