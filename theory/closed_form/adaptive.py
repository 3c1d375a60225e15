r"""Adaptive optimizers: stationary covariance of Adam, AdamW and RMSprop on a noisy quadratic.

Frozen    With the preconditioner D = diag(1/(√s+ε)) held fixed, substitute w = D^{1/2} u. Then u sees the curvature
          H_u = D^{1/2} H D^{1/2} and the noise C_u = D^{1/2} C D^{1/2}, and obeys momentum SGD exactly:
              Adam, coupled decay   η, momentum β₁, dampening β₁, H + κI in place of H
              AdamW                 learning rate η(1−β₁), momentum β₁(1−ηκ), curvature H_u + κI         (1)
              RMSprop               η, momentum μ, H + κI in place of H
          so that Σ = D^{1/2} Σ_u D^{1/2} with Σ_u from (S2). (AdamW: u_{t+1} = (1−ηκ)u_t − ηm_{t+1} is a two-step
          recursion with product of roots β₁(1−ηκ) and value (1−β₁)η(λ+κ) at z = 1, which is heavy ball's.)
Fixed     In the stationary state E s = E g² whatever β₂, and g = H'(w−w̄) + ḡ + ξ, so s solves
point         s = diag(H' Σ(s) H') + diag C + ḡ²,    H' = H (+κI if coupled), ḡ = 0 (AdamW: H(w̄−w*)).     (2)
          It is an approximation of first order in 1−β₂: E 1/(√s+ε) is taken as 1/(√E s+ε), and the correlation of s
          with the g of the same step is dropped.
Mean      Coupled decay: (H+κI) w̄ = H w*. AdamW: (κI + DH) w̄ = DH w*. Decay pulls towards 0.
Transient With s settled, a schedule η_t acts as on momentum SGD in u; Adam's first bias correction is the learning-rate
          path η_t/(1−β₁ᵗ), and the second one makes ŝ unbiased from the start.
Oracle    `theory.oracle.adaptive` runs the real updates.
Source    Derived here. RMSprop and Adam without momentum coupling appear in Liu, Ziyin and Ueda, arXiv:2012.03636.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import scaled
from theory.closed_form.stationary import stationary_covariance
from theory.model.adaptive import Adam, Adaptive, RMSprop
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import Solution, Status, UnstableError

#: Largest relative change of s at which the fixed point counts as reached.
FIXED_POINT_TOLERANCE = 1e-13


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AdaptiveLaw(Solution):
    """Stationary law of an adaptive optimizer; its spectral radius is that of the recursion of u.

    Args:
        mean: E w, shape ``(m,)``; w* without decay.
        second_moment: s = E g², shape ``(m,)``, in units of g².
        preconditioner: 1/(√s + ε), shape ``(m,)``.
        residual: largest relative violation of equation (2).
    """

    mean: NDArray[np.float64]
    second_moment: NDArray[np.float64]
    preconditioner: NDArray[np.float64]
    residual: float


def preconditioned_problem(
    problem: Quadratic, optimizer: Adaptive, preconditioner: ArrayLike
) -> tuple[Quadratic, MomentumSGD]:
    """The momentum SGD that u = D^{−1/2} w obeys while the preconditioner is frozen, equation (1).

    Args:
        problem: H and C.
        optimizer: Adam or RMSprop.
        preconditioner: diagonal of D, > 0, shape ``(m,)``, in units of 1/g.

    Raises:
        ValueError: if the preconditioner is not positive and finite, or of the wrong shape.
    """
    diagonal = _checked_preconditioner(preconditioner, problem.dimension)
    hessian, noise, decay = problem.hessian, problem.noise_cov, optimizer.weight_decay
    decoupled = isinstance(optimizer, Adam) and optimizer.decoupled_weight_decay
    if decay and not decoupled:
        hessian = hessian + (decay if hessian.ndim == 1 else decay * np.eye(len(hessian)))
    hessian, noise = (scaled(matrix, np.sqrt(diagonal)) for matrix in (hessian, noise))
    if isinstance(optimizer, RMSprop):
        return Quadratic(hessian, noise), MomentumSGD(optimizer.learning_rate, optimizer.momentum)
    if decay and decoupled:
        hessian = hessian + (decay if hessian.ndim == 1 else decay * np.eye(len(hessian)))
        share = 1.0 - optimizer.beta1
        momentum = optimizer.beta1 * (1.0 - optimizer.learning_rate * decay)
        return Quadratic(hessian, noise), MomentumSGD(optimizer.learning_rate * share, momentum)
    sgd = MomentumSGD(optimizer.learning_rate, optimizer.beta1, dampening=optimizer.beta1)
    return Quadratic(hessian, noise), sgd


def frozen_adaptive_covariance(
    problem: Quadratic, optimizer: Adaptive, preconditioner: ArrayLike
) -> NDArray[np.float64]:
    """Exact Cov w with the preconditioner frozen, shape ``(m, m)``.

    Raises:
        ValueError: if the preconditioner is not positive and finite, or of the wrong shape.
        UnstableError: if the preconditioned recursion is unstable.
    """
    diagonal = _checked_preconditioner(preconditioner, problem.dimension)
    law = stationary_covariance(*preconditioned_problem(problem, optimizer, diagonal))
    return scaled(law.require(), np.sqrt(diagonal))


def adaptive_covariance(problem: Quadratic, optimizer: Adaptive, max_rounds: int = 2000) -> AdaptiveLaw:
    """Stationary covariance of Adam, AdamW or RMSprop by the fixed point of s = E g², equation (2).

    Args:
        problem: H, C and w*; some gradient noise is needed along every axis, or s would fall to 0.
        optimizer: the optimizer.
        max_rounds: rounds of the damped iteration.

    Returns:
        `AdaptiveLaw`; its `residual` says how well (2) is met (at most 1e-11).

    Raises:
        ValueError: if an axis has no gradient noise.
        UnstableError: if no stable fixed point is found.
    """
    coupled = 0.0 if isinstance(optimizer, Adam) and optimizer.decoupled_weight_decay else optimizer.weight_decay
    if not np.linalg.eigvalsh(problem.dense_hessian())[0] + coupled > 0:
        raise UnstableError(
            "`adaptive_covariance(problem=...)` must have curvature + coupled weight decay > 0 in every direction."
        )
    hessian, floor = problem.dense_hessian(), np.diag(problem.dense_noise_cov()).copy()
    if not np.all(floor > 0):
        raise ValueError("`adaptive_covariance(problem=...)` must have noise along every axis; got a variance of 0.")
    target = problem.optimum
    decay = optimizer.weight_decay
    decoupled = isinstance(optimizer, Adam) and optimizer.decoupled_weight_decay
    seen = hessian if decoupled else hessian + decay * np.eye(len(hessian))

    def image(second: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray, float]:
        scale = 1.0 / (np.sqrt(second) + optimizer.epsilon)
        law = stationary_covariance(*preconditioned_problem(problem, optimizer, scale))
        cov = scaled(law.require(), np.sqrt(scale))
        if decoupled:
            pulled = scale[:, None] * hessian
            mean = np.linalg.solve(decay * np.eye(len(hessian)) + pulled, pulled @ target)
            drift = hessian @ (mean - target)
        else:
            mean, drift = np.linalg.solve(seen, hessian @ target), np.zeros(len(hessian))
        return np.einsum("ij,jk,ki->i", seen, cov, seen) + floor + drift**2, cov, mean, float(law.spectral_radius)

    second, damping, before = floor.copy(), 1.0, np.inf
    for _ in range(max_rounds):
        try:
            new, cov, mean, radius = image(second)
        except UnstableError:
            # A larger s means smaller steps: noise that the unstable recursion would have built up itself.
            second, before = 2.0 * second, np.inf
            continue
        change = np.log(new / second)
        residual = float(np.max(np.abs(change)))
        if residual <= FIXED_POINT_TOLERANCE:
            break
        if residual > 0.9 * before:  # oscillating around a steep fixed point: smaller steps
            damping = max(0.5 * damping, 1e-3)
        second, before = second * np.exp(np.clip(damping * change, -1.0, 1.0)), residual
    else:
        raise UnstableError(
            f"`adaptive_covariance` found no stable fixed point of s = E g² in {max_rounds} rounds; "
            f"η = {optimizer.learning_rate:.6g}."
        )
    return AdaptiveLaw(
        value=cov,
        status=Status.OK,
        method="adaptive_covariance",
        mean=mean,
        second_moment=second,
        preconditioner=1.0 / (np.sqrt(second) + optimizer.epsilon),
        spectral_radius=radius,
        residual=residual,
    )


def bias_corrected_rates(optimizer: Adam, learning_rates: ArrayLike) -> NDArray[np.float64]:
    """Learning rates η_t/(1−β₁ᵗ), t = 1, 2, …: Adam's first bias correction as a learning-rate path.

    Args:
        optimizer: for β₁.
        learning_rates: the schedule η_1, η_2, …, shape ``(T,)``, without the correction.
    """
    rates = np.asarray(learning_rates, dtype=np.float64)
    if optimizer.beta1 == 0:
        return rates.copy()
    return rates / -np.expm1(np.arange(1, len(rates) + 1) * np.log(optimizer.beta1))


def _checked_preconditioner(preconditioner: ArrayLike, dimension: int) -> NDArray[np.float64]:
    diagonal = np.asarray(preconditioner, dtype=np.float64)
    if diagonal.shape != (dimension,):
        raise ValueError(f"`preconditioner` must have shape {(dimension,)}; got {diagonal.shape}.")
    if not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
        raise ValueError(f"`preconditioner` must be > 0 and finite; got {diagonal}.")
    return diagonal
