r"""Stationary law of momentum SGD on a noisy quadratic: covariance of the full state, for any H and C.

Model     In H's eigenbasis mode i obeys the two-step recursion driven by ξ with Cov ξ = C̃ = UᵀCU. With
          z² − s z + q the characteristic polynomial of mode i, write
              e = 1 − q,   u = 1 − s + q,   w = 1 + s + q.
          Heavy ball   q = μ,        e = 1 − μ,       u = a,  w = 2(1+μ) − a          with a = ηλ
          Nesterov     q = μ(1−a),   e = 1 − μ + μa,  u = a,  w = 2(1+μ) − (1+2μ)a
          The mode is stable iff u > 0, w > 0 and 0 < e < 2. Weights are w_t = −η (b₀ x_t + b₁ x_{t−1}) with x the pure
          two-step process; b = (1, 0) for heavy ball and (1+μ, −μ) for Nesterov. Either way v_t = x_t − x_{t−1}.
          Dampening d scales a by (1−d) and C by (1−d)²; weight decay adds to every λ.
Result    R_ij = e_i e_j (u_i w_j + u_j w_i)/2 + (q_i − q_j)² + (s_i − s_j)(q_j s_i − q_i s_j), the product of 1 − r r'
          over the roots of modes i and j. Its last two terms are μ (a_i − a_j)² for heavy ball and μ² (a_i − a_j)² for
          Nesterov, so every term of
              Σ_ij        = η² C̃_ij [(b₀+b₁)² (e_i + e_j − e_i e_j) + |b₀b₁| D_ij] / R_ij              (S2)
              Cov(v)_ij   = C̃_ij D_ij / R_ij,              D_ij = u_i e_j + u_j e_i
              Cov(Δw)_ij  = η² C̃_ij [(b₀+b₁)² D_ij + |b₀b₁| N_ij] / R_ij
          is non-negative up to the sign of C̃_ij: nothing cancels. Heavy ball: D = (1−μ)(a_i + a_j), whence
          η (HΣ + ΣH) = (1+μ) Cov(Δw), the fluctuation–dissipation identity.
          Diagonal, commuting or not: σᵢ² = η γᵢ (1+μ) / (λᵢ (1−μ)(2(1+μ) − ηλᵢ)), γᵢ = uᵢᵀCuᵢ                 (S1, S3)
Limits    μ = 0: HΣ + ΣH − η HΣH = η C.   η → 0: λ_i Σ_ij + Σ_ij λ_j = η C̃_ij / (1−μ).
Accuracy  Given spectra: a few units in the last place, however near μ = 1 or a = 0. Near a = 2(1+μ) what remains is the
          rounding of a itself, u·a/w, which is u·a/((1−μ)(1−ρ)). Dense H: the eigendecomposition costs about u·cond(H)
          in the flattest modes.
Oracle    `theory.oracle.lyapunov`, which builds the transition matrix and knows none of this.
Source    Own derivation from the two-step recursion; agrees with Liu, Ziyin and Ueda (ICML 2021, arXiv 2012.03636),
          whose expanded form loses 11 digits at μ = 1 − 2·10⁻⁶, and for commuting matrices with Xu and Zhang
          (arXiv 2410.07719). The two-step variance is textbook (Hamilton 1994, §3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import Solution, Status, UnstableError

#: Unit roundoff of float64.
ROUNDOFF = float(np.finfo(np.float64).eps) / 2
#: c of the error bound c·u·(1 + max a / min w + [dense] max a / min a); the largest factor seen in tests is below 20.
ERROR_CONSTANT = 40.0


@dataclass(frozen=True)
class Modes:
    """The two-step recursions of all modes: e, u, w of the module's docstring, and the noise filter (b₀, b₁)."""

    effective_rate: NDArray[np.float64]  # a = (1−d) η (λ + weight decay)
    contraction: NDArray[np.float64]  # e = 1 − q
    at_plus_one: NDArray[np.float64]  # u = characteristic polynomial at z = 1
    at_minus_one: NDArray[np.float64]  # w = characteristic polynomial at z = −1
    filter: tuple[float, float]

    @property
    def product(self) -> NDArray[np.float64]:
        """q, the product of the two roots."""
        return 1.0 - self.contraction

    @property
    def total(self) -> NDArray[np.float64]:
        """s, the sum of the two roots."""
        return 2.0 - self.contraction - self.at_plus_one

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Which modes forget their past."""
        return (self.at_plus_one > 0) & (self.at_minus_one > 0) & (self.contraction > 0) & (self.contraction < 2)

    @property
    def spectral_radius(self) -> NDArray[np.float64]:
        """Modulus of the larger root, mode by mode."""
        s, q = self.total, self.product
        discriminant = s * s - 4 * q
        real = 0.5 * (np.abs(s) + np.sqrt(np.maximum(discriminant, 0.0)))
        return np.where(discriminant < 0, np.sqrt(np.maximum(q, 0.0)), real)


def modes(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> Modes:
    """The recursion of each mode with curvature λ, shape ``(m,)``; stability is not checked."""
    mu = optimizer.momentum
    a = (1.0 - optimizer.dampening) * optimizer.learning_rate * (curvatures + optimizer.weight_decay)
    if optimizer.nesterov:
        return Modes(a, (1.0 - mu) + mu * a, a, 2.0 * (1.0 + mu) - (1.0 + 2.0 * mu) * a, (1.0 + mu, -mu))
    return Modes(a, np.full_like(a, 1.0 - mu), a, 2.0 * (1.0 + mu) - a, (1.0, 0.0))


def largest_stable_learning_rate(largest_curvature: float, optimizer: MomentumSGD) -> float:
    """Supremum of the learning rates that keep a mode of that curvature stable.

    Heavy ball 2(1+μ) / ((1−d)(λ+δ)), Nesterov 2(1+μ) / ((1+2μ)(λ+δ)), δ the weight decay.
    """
    mu = optimizer.momentum
    reach = 1.0 + 2.0 * mu if optimizer.nesterov else 1.0 - optimizer.dampening
    return 2.0 * (1.0 + mu) / (reach * (largest_curvature + optimizer.weight_decay))


def stationary_covariance(problem: Quadratic, optimizer: MomentumSGD) -> Solution:
    """Exact covariance of (w, v) under the stationary law, equation (S2); needs no commutation.

    Args:
        problem: H and C, dimension m.
        optimizer: η, μ, dampening, Nesterov, weight decay, form. The form decides what v is.

    Returns:
        `Solution` with `value` Cov(w), `velocity` Cov(v), `cross` E w vᵀ, each ``(m, m)`` float64, in the coordinates
        of `problem`; `error_bound` is c·u·(1 + max a / min w) for spectra, to which dense H adds c·u·cond(H), c = 40.

    Raises:
        UnstableError: naming the mode of the largest a that is not stable, and the largest stable learning rate.
    """
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    eta = optimizer.learning_rate
    noise = (1.0 - optimizer.dampening) ** 2 * frame.noise
    e, u = mode.contraction, mode.at_plus_one
    b0, b1 = mode.filter
    driven = noise / root_product(mode)
    crossed = np.multiply.outer(u, e)
    crossed += crossed.T  # D_ij
    weights = (
        (eta * eta) * driven * ((b0 + b1) ** 2 * (e[:, None] + e - np.multiply.outer(e, e)) + abs(b0 * b1) * crossed)
    )
    velocity = driven * crossed
    lead = _decrement(mode)
    cross = -eta * driven * (b0 * lead - b1 * lead.T)
    if optimizer.form == "position":
        velocity, cross = eta * eta * velocity, -eta * cross
    radius = float(mode.spectral_radius.max())
    return Solution(
        value=_symmetric(frame.outward(weights)),
        velocity=_symmetric(frame.outward(velocity)),
        cross=frame.outward(cross),
        status=Status.OK,
        method="stationary_covariance",
        relative_residual=_residual(weights, velocity, cross, noise, optimizer, mode),
        spectral_radius=radius,
        error_bound=_error_bound(frame, mode),
    )


def stationary_variance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Variance along each eigenvector of H, equation (S1); exact without commutation (S3).

    σᵢ² = η γᵢ (1+μ) / (λᵢ (1−μ)(2(1+μ) − ηλᵢ)) for heavy ball, with γᵢ = uᵢᵀCuᵢ.

    Returns:
        Shape ``(m,)``, in the order of `eigenbasis(problem).curvatures`.

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    if problem.is_diagonal:  # O(m): spectra may have millions of directions
        curvatures, noise = problem.hessian, problem.noise_cov
    else:
        frame = eigenbasis(problem)
        curvatures, noise = frame.curvatures, np.diag(frame.noise)
    mode = stable_modes(curvatures, optimizer)
    e, u, w = mode.contraction, mode.at_plus_one, mode.at_minus_one
    b0, b1 = mode.filter
    numerator = (b0 + b1) ** 2 * (2.0 - e) + 2.0 * abs(b0 * b1) * u
    gamma = (1.0 - optimizer.dampening) ** 2 * noise
    return optimizer.learning_rate**2 * gamma * numerator / (e * u * w)


def lag_one_covariance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """E w_t w_{t−1}ᵀ under the stationary law, shape ``(m, m)``.

    For heavy ball and along an eigenvector of H it is σᵢ² (1 + μ − aᵢ)/(1 + μ).

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    b0, b1 = mode.filter
    s, e = mode.total, mode.contraction
    driven = (1.0 - optimizer.dampening) ** 2 * frame.noise / root_product(mode)
    level = e[:, None] + e - np.multiply.outer(e, e)  # E x_i(t) x_j(t) · R_ij
    once = level - _decrement(mode)  # E x_i(t) x_j(t−1) · R_ij
    lag = (b0 * b0 + b1 * b1 + b0 * b1 * s[:, None]) * once + b0 * b1 * e[:, None] * level
    return frame.outward(optimizer.learning_rate**2 * driven * lag)


def increment_covariance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Cov(w_t − w_{t−1}) under the stationary law, shape ``(m, m)``.

    For heavy ball it is η (HΣ + ΣH)/(1 + μ), dampening and weight decay included in η and H
    (`fluctuation_dissipation_constant` has Nesterov's).

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    driven = (1.0 - optimizer.dampening) ** 2 * frame.noise / root_product(mode)
    _, increments = _level_and_increment(mode)
    return _symmetric(frame.outward(optimizer.learning_rate**2 * driven * increments))


def fluctuation_dissipation_constant(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """k_ij = (a_i + a_j) Σ_ij / Cov(Δw)_ij in H's eigenbasis, shape ``(m, m)``; it does not depend on C.

    1 + μ for heavy ball, whatever H. For Nesterov it depends on the modes; on the diagonal it is
    (1 + μ + aμ(1+2μ)) / (1 + 2μ − 2μ³ + aμ(1+μ)(1+2μ)).

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    mode = stable_modes(np.asarray(curvatures, dtype=np.float64), optimizer)
    level, increments = _level_and_increment(mode)
    a = mode.effective_rate
    return (a[:, None] + a) * level / increments


def stable_modes(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> Modes:
    """`modes`, or `UnstableError` naming the worst mode and the largest stable learning rate."""
    mode = modes(curvatures, optimizer)
    if mode.stable.all():
        return mode
    worst = int(np.argmax(np.where(mode.stable, -np.inf, mode.effective_rate)))
    limit = largest_stable_learning_rate(float(curvatures.max()), optimizer)
    raise UnstableError(
        f"`MomentumSGD(learning_rate=...)` must be < {limit:.6g} for this Hessian; got {optimizer.learning_rate:.6g}, "
        f"at which mode {worst} (curvature {curvatures[worst]:.6g}) has spectral radius "
        f"{float(mode.spectral_radius[worst]):.6g}."
    )


def root_product(mode: Modes) -> NDArray[np.float64]:
    """R_ij = Π (1 − r r') over the roots r of mode i and r' of mode j, shape ``(m, m)``, without cancellation."""
    e, u, w = mode.contraction, mode.at_plus_one, mode.at_minus_one
    half = np.multiply.outer(u, w)
    difference = np.subtract.outer(mode.effective_rate, mode.effective_rate)
    # (q_i − q_j)² + (s_i − s_j)(q_j s_i − q_i s_j): for Nesterov q_j s_i = q_i s_j and q_i − q_j = μ (a_j − a_i);
    # for heavy ball q is common and s_i − s_j = a_j − a_i, which leaves μ (a_i − a_j)².
    mu = -mode.filter[1] if mode.filter[1] else 1.0 - e[0]
    apart = mu * mu if mode.filter[1] else mu
    return 0.5 * np.multiply.outer(e, e) * (half + half.T) + apart * difference * difference


def _level_and_increment(mode: Modes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ_ij R_ij and Cov(Δw)_ij R_ij over η² C̃_ij."""
    e, u = mode.contraction, mode.at_plus_one
    b0, b1 = mode.filter
    plain, mixed = (b0 + b1) ** 2, abs(b0 * b1)
    crossed = np.multiply.outer(u, e)
    crossed = crossed + crossed.T
    level = plain * (e[:, None] + e - np.multiply.outer(e, e)) + mixed * crossed
    curved = np.multiply.outer(u, e * e)
    second = (
        curved
        + curved.T
        + np.multiply.outer(e, e) * (u[:, None] + u)
        + np.multiply.outer(u, u) * (e[:, None] + e)
        + np.subtract.outer(u, u) ** 2
    )  # N_ij: second differences of x
    return level, plain * crossed + mixed * second


def _decrement(mode: Modes) -> NDArray[np.float64]:
    """(E x_i(t) x_j(t) − E x_i(t) x_j(t−1)) R_ij = u_i − q_i u_j, as (u_i − u_j) + e_i u_j: exact at i = j, μ → 1."""
    u = mode.at_plus_one
    return np.subtract.outer(u, u) + np.multiply.outer(mode.contraction, u)


def _residual(
    weights: NDArray[np.float64],
    velocity: NDArray[np.float64],
    cross: NDArray[np.float64],
    noise: NDArray[np.float64],
    optimizer: MomentumSGD,
    mode: Modes,
) -> float:
    """‖F M Fᵀ − M + Q‖_F / ‖M‖_F, mode pair by mode pair: a check of the equation, not of the formula."""
    mu, eta = optimizer.momentum, optimizer.learning_rate
    curvature = mode.effective_rate / eta  # (1−d)(λ+δ)
    if optimizer.form == "position":
        vw, vv, push = -eta * curvature, mu, -eta
        ww, wv, kick = 1.0 + vw, np.full_like(vw, vv), -eta
    else:
        vw, vv, push = curvature, mu, 1.0
        lead = 1.0 + mu if optimizer.nesterov else 1.0
        tail = mu * mu if optimizer.nesterov else mu
        ww, wv, kick = 1.0 - eta * lead * curvature, np.full_like(curvature, -eta * tail), -eta * lead
    rows = ((ww, wv, kick), (vw, np.full_like(vw, vv), push))
    squared, size = 0.0, 0.0
    for p, r, block, count in ((0, 0, weights, 1), (0, 1, cross, 2), (1, 1, velocity, 1)):  # (1, 0) mirrors (0, 1)
        (pw, pv, pk), (rw, rv, rk) = rows[p], rows[r]
        gap = pw[:, None] * (weights * rw + cross * rv)
        gap += pv[:, None] * (cross.T * rw + velocity * rv)
        gap += (pk * rk) * noise
        gap -= block
        squared += count * float(np.vdot(gap, gap))
        size += count * float(np.vdot(block, block))
    return float(np.sqrt(squared / size)) if size > 0 else 0.0


def _error_bound(frame: Eigenbasis, mode: Modes) -> float:
    """First order: a is known to u·a (spectra) or u·max a (dense), and enters through the smallest a and w."""
    a, w = mode.effective_rate, mode.at_minus_one
    to_edge = float(a.max() / w.min())
    to_zero = 1.0 if frame.basis is None else float(a.max() / a.min())
    return ERROR_CONSTANT * ROUNDOFF * (1.0 + to_edge + to_zero)


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (matrix + matrix.T)
