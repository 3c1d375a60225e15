r"""Second-order methods in discrete time: a fixed matrix in front of the gradient.

Model     Momentum SGD with P g in place of g, P symmetric positive definite, A = H + weight decay.
Result    u = P^{−1/2} w runs the same recursion without P, on P^{1/2} A P^{1/2} and P^{1/2} C P^{1/2}, so that
              Cov w = P^{1/2} Σ(P^{1/2} A P^{1/2}, P^{1/2} C P^{1/2}) P^{1/2},   Σ of (S2).                  (1)
          Damped Newton   P = (A + εI)⁻¹; ε = 0 makes every direction alike, Σ = c A⁻¹CA⁻¹ with, for heavy ball,
              c = η(1+μ)/((1−μ)(2(1+μ) − η)).                                                                (2)
          Natural gradient   P⁻¹ = F, the Fisher matrix of the gradients seen: their covariance C ("noise"), or their
          second moment C + AΣA ("gradients"), which depends on the law it makes. Both are covariant under w = T y, and
          T = A^{−1/2} V with V the eigenvectors of A^{−1/2}CA^{−1/2} = V diag(c) Vᵀ decouples them without commutation:
          Σ = T diag(s) Tᵀ with
              "noise"       s = η(1+μ) / ((1−μ)(2(1+μ) − η/c)),     stable iff η < 2(1+μ) min c,             (3)
              "gradients"   2(1−μ²) s² + (1−μ)(2(1+μ)c − η) s = η(1+μ) c,     always stable.                 (4)
Limits    μ = 0 in (4): s = η/2, hence Σ = (η/2) A⁻¹ whatever C and however large η. η → 0: both give η/(2(1−μ)) A⁻¹.
Oracle    The dense recursion with P written out, settled by doubling; for (4) the fixed point iterated with it.
Source    The methods are those of Liu, Ziyin and Ueda (ICML 2021, arXiv 2012.03636), who treat them without momentum or
          with commuting matrices; (1)–(4) are derived here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.stability import modes, one_group, stable_pull
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError

Fisher = Literal["noise", "gradients"]


def preconditioned_covariance(
    problem: Quadratic, optimizer: MomentumSGD, preconditioner: ArrayLike
) -> NDArray[np.float64]:
    """Stationary Cov(w) of momentum SGD with P g in place of g, equation (1), shape ``(m, m)``.

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention; weight decay is part of the gradient and preconditioned with it.
        preconditioner: P, symmetric positive definite ``(m, m)``, or its diagonal ``(m,)``.

    Raises:
        ValueError: if P has another shape, is not finite, not symmetric or not positive definite.
        UnstableError: if some direction has no stationary law.
    """
    one_group(optimizer)
    root = _square_root(_checked(preconditioner, problem.dimension))
    decayed = problem.dense_hessian() + optimizer.weight_decay * np.eye(problem.dimension)
    moved = Quadratic(_symmetric(root @ decayed @ root), _symmetric(root @ problem.dense_noise_cov() @ root))
    law = stationary_covariance(moved, replace(optimizer, weight_decay=0.0)).require()
    return _symmetric(root @ law @ root)


def damped_newton_covariance(problem: Quadratic, optimizer: MomentumSGD, damping: float = 0.0) -> NDArray[np.float64]:
    """Stationary Cov(w) with P = (A + εI)⁻¹, shape ``(m, m)``; ε = 0 is Newton's method, equation (2).

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention; its learning rate has no unit here.
        damping: ε ≥ 0 (Levenberg's), in units of curvature.

    Raises:
        ValueError: if ε is negative or not finite.
        UnstableError: if some direction has no stationary law.
    """
    epsilon = float(damping)
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise ValueError(f"`damped_newton_covariance(damping=...)` must be >= 0 and finite; got {damping}.")
    frame = eigenbasis(problem)
    stable_pull(frame.curvatures, optimizer)
    curvatures = frame.curvatures + optimizer.weight_decay
    root = np.sqrt(1.0 / (curvatures + epsilon))
    scale = np.multiply.outer(root, root)
    moved = Quadratic(curvatures / (curvatures + epsilon), scale * frame.noise)
    law = stationary_covariance(moved, replace(optimizer, weight_decay=0.0)).require()
    return _symmetric(frame.outward(scale * law))


def natural_gradient_covariance(
    problem: Quadratic, optimizer: MomentumSGD, fisher: Fisher = "gradients"
) -> NDArray[np.float64]:
    """Stationary Cov(w) of natural-gradient descent, equations (3) and (4), shape ``(m, m)``.

    Args:
        problem: H and C, C positive definite.
        optimizer: momentum SGD; heavy ball where `fisher` is ``"gradients"``.
        fisher: ``"gradients"``, P⁻¹ = C + AΣA as an average of g gᵀ over the run estimates it; ``"noise"``, P⁻¹ = C.

    Raises:
        ValueError: if `fisher` is unknown, C is singular, or ``"gradients"`` meets another step than heavy ball's.
        UnstableError: if some direction has no stationary law.
    """
    where = "natural_gradient_covariance"
    if fisher not in ("noise", "gradients"):
        raise ValueError(f"`{where}(fisher=...)` must be 'noise' or 'gradients'; got {fisher!r}.")
    decayed = problem.dense_hessian() + optimizer.weight_decay * np.eye(problem.dimension)
    curvatures, basis = np.linalg.eigh(decayed)
    stable_pull(curvatures, replace(optimizer, weight_decay=0.0))
    inverse_root = (basis / np.sqrt(curvatures)) @ basis.T
    strengths, turn = np.linalg.eigh(_symmetric(inverse_root @ problem.dense_noise_cov() @ inverse_root))
    if not strengths[0] > 1e-14 * strengths[-1]:
        raise ValueError(f"`{where}(problem=...)` must have a positive definite C; got a direction without noise.")
    if fisher == "noise":
        undecayed = replace(optimizer, weight_decay=0.0)
        try:
            spread = stationary_variance(Quadratic(1.0 / strengths, np.ones(len(strengths))), undecayed) / strengths
        except UnstableError as error:
            raise UnstableError(f"`{where}(fisher='noise')`: {error}") from None
    else:
        if optimizer.direction[0]:
            raise ValueError(f"`{where}(fisher='gradients')` needs heavy ball; got a step that reads g beside v.")
        mu = optimizer.momentum
        rate = modes(np.ones(1), optimizer).gain * optimizer.learning_rate
        half = 0.25 * (rate / (1 + mu) - 2.0 * strengths)
        product = 0.5 * rate * strengths / (1 - mu)
        # The positive root of s² − 2 half s = product; for half < 0 in the form that does not cancel.
        root = np.hypot(half, np.sqrt(product))
        spread = np.where(half > 0, half + root, product / (root - half))
    carried = inverse_root @ turn
    return _symmetric((carried * spread) @ carried.T)


def _checked(preconditioner: ArrayLike, dimension: int) -> NDArray[np.float64]:
    where = "`preconditioned_covariance(preconditioner=...)`"
    matrix = np.asarray(preconditioner, dtype=np.float64)
    if matrix.shape not in ((dimension,), (dimension, dimension)):
        raise ValueError(f"{where} must have shape {(dimension, dimension)} or {(dimension,)}; got {matrix.shape}.")
    matrix = np.diag(matrix) if matrix.ndim == 1 else matrix
    if not np.isfinite(matrix).all():
        raise ValueError(f"{where} must be finite; got {int((~np.isfinite(matrix)).sum())} bad entries.")
    if np.abs(matrix - matrix.T).max() > 1e-8 * np.abs(matrix).max():
        raise ValueError(f"{where} must be symmetric; got an asymmetry of {np.abs(matrix - matrix.T).max():.3g}.")
    return _symmetric(matrix)


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    if not values[0] > 0:
        raise ValueError(
            "`preconditioned_covariance(preconditioner=...)` must be positive definite; "
            f"got smallest eigenvalue {values[0]:.6g}."
        )
    return (vectors * np.sqrt(values)) @ vectors.T


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (matrix + matrix.T)
