r"""Stationary law of momentum SGD on a noisy quadratic: covariance of the full state, for any H and C.

Model     In H's eigenbasis mode i obeys the two-step recursion driven by ξ with Cov ξ = C̃ = UᵀCU. With
          z² − s z + q the characteristic polynomial of mode i, write
              e = 1 − q,   u = 1 − s + q,   w = 1 + s + q.
          With the step w ← w − η (k g + ℓ v) and v ← μ v + (1−d) g, put
              K = k(1−μ) + ℓ(1−d),   φ = kμ/K,   a = K η (λ + weight decay);   then
              q = μ − φa,   e = 1 − μ + φa,   u = a,   w = 2(1+μ) − (1+2φ)a.
          Heavy ball: K = 1−d, φ = 0.   Nesterov: K = 1, φ = μ.   Quasi-hyperbolic (d = μ): K = 1−μ, φ = (1−ν)μ/(1−μ),
          where ν = 0 is plain SGD: a root and a zero at μ cancel.
          The mode is stable iff u > 0, w > 0 and 0 < e < 2, that is a < 2(1+μ)/(1+2φ). Weights are
          w_t = −ηK ((1+φ) x_t − φ x_{t−1}) with x the pure two-step process, and v_t = (1−d)(x_t − x_{t−1}).
Result    R_ij = e_i e_j (u_i w_j + u_j w_i)/2 + (q_i − q_j)² + (s_i − s_j)(q_j s_i − q_i s_j), the product of 1 − r r'
          over the roots of modes i and j. Its last two terms are (μ − φ(1−μ)) (a_i − a_j)²; μ − φ(1−μ) is μ for heavy
          ball, μ² for Nesterov and νμ for quasi-hyperbolic momentum, so every term of
              Σ_ij        = η²K² C̃_ij [e_i + e_j − e_i e_j + φ(1+φ) D_ij] / R_ij                       (S2)
              Cov(v)_ij   = (1−d)² C̃_ij D_ij / R_ij,       D_ij = u_i e_j + u_j e_i
              Cov(Δw)_ij  = η²K² C̃_ij [D_ij + φ(1+φ) N_ij] / R_ij
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
    """The two-step recursions of all modes: μ, K, φ, a, e, u, w of the module's docstring."""

    momentum: float
    gain: float  # K
    ahead: float  # φ
    effective_rate: NDArray[np.float64]  # a = K η (λ + weight decay)
    contraction: NDArray[np.float64]  # e = 1 − q
    at_plus_one: NDArray[np.float64]  # u = characteristic polynomial at z = 1
    at_minus_one: NDArray[np.float64]  # w = characteristic polynomial at z = −1

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
    on_gradient, on_buffer = optimizer.direction
    gain = on_gradient * (1.0 - mu) + on_buffer * (1.0 - optimizer.dampening)
    ahead = on_gradient * mu / gain
    a = gain * optimizer.learning_rate * (curvatures + optimizer.weight_decay)
    return Modes(mu, gain, ahead, a, (1.0 - mu) + ahead * a, a, 2.0 * (1.0 + mu) - (1.0 + 2.0 * ahead) * a)


def largest_stable_learning_rate(largest_curvature: float, optimizer: MomentumSGD) -> float:
    """Supremum of the learning rates that keep a mode of that curvature stable.

    2(1+μ) / ((1+2φ)K(λ+δ)), δ the weight decay: heavy ball (1+2φ)K = 1−d, Nesterov 1+2μ, quasi-hyperbolic with d = μ
    1 + μ − 2νμ (as in Gitman, Lang, Zhang and Xiao, NeurIPS 2019, arXiv 1910.13962).
    """
    mu = optimizer.momentum
    on_gradient, on_buffer = optimizer.direction
    reach = on_gradient * (1.0 + mu) + on_buffer * (1.0 - optimizer.dampening)  # (1+2φ)K
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
    keep, step, ahead = 1.0 - optimizer.dampening, eta * mode.gain, mode.ahead
    e, u = mode.contraction, mode.at_plus_one
    driven = frame.noise / root_product(mode)
    crossed = np.multiply.outer(u, e)
    crossed += crossed.T  # D_ij
    weights = (step * step) * driven * (e[:, None] + e - np.multiply.outer(e, e) + ahead * (1.0 + ahead) * crossed)
    velocity = (keep * keep) * driven * crossed
    lead = _decrement(mode)
    cross = -step * keep * driven * ((1.0 + ahead) * lead + ahead * lead.T)
    if optimizer.form == "position":
        velocity, cross = eta * eta * velocity, -eta * cross
    radius = float(mode.spectral_radius.max())
    return Solution(
        value=_symmetric(frame.outward(weights)),
        velocity=_symmetric(frame.outward(velocity)),
        cross=frame.outward(cross),
        status=Status.OK,
        method="stationary_covariance",
        relative_residual=_residual(weights, velocity, cross, frame.noise, optimizer, mode),
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
    numerator = (1.0 + mode.momentum) + mode.ahead * (1.0 + 2.0 * mode.ahead) * u
    return (optimizer.learning_rate * mode.gain) ** 2 * noise * numerator / (e * u * w)


def lag_one_covariance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """E w_t w_{t−1}ᵀ under the stationary law, shape ``(m, m)``.

    For heavy ball and along an eigenvector of H it is σᵢ² (1 + μ − aᵢ)/(1 + μ).

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    b0, b1 = 1.0 + mode.ahead, -mode.ahead
    s, e = mode.total, mode.contraction
    driven = mode.gain**2 * frame.noise / root_product(mode)
    same = e[:, None] + e - np.multiply.outer(e, e)  # E x_i(t) x_j(t) · R_ij
    once = same - _decrement(mode)  # E x_i(t) x_j(t−1) · R_ij
    lag = (b0 * b0 + b1 * b1 + b0 * b1 * s[:, None]) * once + b0 * b1 * e[:, None] * same
    return frame.outward(optimizer.learning_rate**2 * driven * lag)


def increment_covariance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Cov(w_t − w_{t−1}) under the stationary law, shape ``(m, m)``.

    For heavy ball it is η (HΣ + ΣH)/(1 + μ), dampening and weight decay included in η and H
    (`fluctuation_dissipation_constant` has the others').

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    driven = mode.gain**2 * frame.noise / root_product(mode)
    _, increments = _level_and_increment(mode)
    return _symmetric(frame.outward(optimizer.learning_rate**2 * driven * increments))


def fluctuation_dissipation_constant(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """k_ij = (a_i + a_j) Σ_ij / Cov(Δw)_ij in H's eigenbasis, shape ``(m, m)``; it does not depend on C.

    1 + μ for heavy ball, whatever H. Otherwise it depends on the modes; on the diagonal it is
    (1 + μ + φ(1+2φ)a) / (1 + 2φ(1+φ)(1−μ) + φ(1+φ)(1+2φ)a).

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    mode = stable_modes(np.asarray(curvatures, dtype=np.float64), optimizer)
    levels, increments = _level_and_increment(mode)
    a = mode.effective_rate
    return (a[:, None] + a) * levels / increments


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
    # q_j s_i − q_i s_j = (μ − φ)(a_j − a_i), and φ² + (1+φ)(μ − φ) = μ − φ(1−μ) >= 0 with equality for plain SGD.
    apart = max(mode.momentum - mode.ahead * (1.0 - mode.momentum), 0.0)
    return 0.5 * np.multiply.outer(e, e) * (half + half.T) + apart * difference * difference


def level(mode: Modes) -> NDArray[np.float64]:
    """N_ij = Σ_ij R_ij / (η²K² C̃_ij), shape ``(m, m)``."""
    e = mode.contraction
    crossed = np.multiply.outer(mode.at_plus_one, e)
    return e[:, None] + e - np.multiply.outer(e, e) + mode.ahead * (1.0 + mode.ahead) * (crossed + crossed.T)


def weight_covariance(mode: Modes, noise: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Σ of (S2) alone, in the eigenbasis in which C̃ = `noise` is given; stability is not checked."""
    return (optimizer.learning_rate * mode.gain) ** 2 * noise * level(mode) / root_product(mode)


def _level_and_increment(mode: Modes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ_ij R_ij and Cov(Δw)_ij R_ij over η²K² C̃_ij."""
    e, u = mode.contraction, mode.at_plus_one
    mixed = mode.ahead * (1.0 + mode.ahead)
    crossed = np.multiply.outer(u, e)
    crossed = crossed + crossed.T
    curved = np.multiply.outer(u, e * e)
    second = (
        curved
        + curved.T
        + np.multiply.outer(e, e) * (u[:, None] + u)
        + np.multiply.outer(u, u) * (e[:, None] + e)
        + np.subtract.outer(u, u) ** 2
    )  # N_ij: second differences of x
    return level(mode), crossed + mixed * second


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
    mu, eta, push = optimizer.momentum, optimizer.learning_rate, 1.0 - optimizer.dampening
    curvature = mode.effective_rate / (eta * mode.gain)  # λ+δ
    if optimizer.form == "position":
        push, vv = -eta * push, mu
        vw, kick = push * curvature, push
        ww, wv = 1.0 + vw, np.full_like(vw, vv)
    else:
        on_gradient, on_buffer = optimizer.direction
        vw, vv, kick = push * curvature, mu, -eta * (on_gradient + on_buffer * push)
        ww, wv = 1.0 + kick * curvature, np.full_like(curvature, -eta * on_buffer * mu)
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
