r"""Stationary law of momentum SGD on a noisy quadratic: covariance of the full state, for any H and C.

Model     In H's eigenbasis mode i obeys the two-step recursion of `stability` (its e, u, w, s, q, K, φ and a), driven
          by ξ with Cov ξ = C̃ = UᵀCU. Weights are w_t = −ηK ((1+φ) x_t − φ x_{t−1}) with x the pure two-step process,
          and v_t = (1−d)(x_t − x_{t−1}). The mean is (H + δ)⁻¹ H w*: weight decay moves it, and nothing else.
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
Accuracy  Given spectra: a few units in the last place, however near μ = 1 or either edge. Dense H: the
          eigendecomposition costs about u·cond(H) in the flattest modes, and u·a/w near a = 2(1+μ).
Oracle    `theory.oracle.lyapunov`, which builds the transition matrix and knows none of this.
Source    Own derivation from the two-step recursion; agrees with Liu, Ziyin and Ueda (ICML 2021, arXiv 2012.03636),
          whose expanded form loses 11 digits at μ = 1 − 2·10⁻⁶, and for commuting matrices with Xu and Zhang
          (arXiv 2410.07719). The two-step variance is textbook (Hamilton 1994, §3.4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.eigenbasis import Frame, eigenbasis, frame
from theory.closed_form.powers import Companion
from theory.closed_form.stability import Modes, stable_modes
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import require_type
from theory.solution import Rest, Solution, Status

#: Unit roundoff of float64.
ROUNDOFF = float(np.finfo(np.float64).eps) / 2
#: c of the error bound: 2c·u for spectra, c·u·(1 + max a (1/min w + 1/min a)) for dense H; the largest factor seen in
#: tests is below 20.
ERROR_CONSTANT = 40.0


def stationary_covariance(problem: Quadratic, optimizer: MomentumSGD) -> Solution:
    """Exact covariance of (w, v) under the stationary law, equation (S2); needs no commutation.

    Σ costs one eigendecomposition and four products; the other blocks, and the residual that needs them, are made when
    they are first asked for.

    Args:
        problem: H and C, dimension m.
        optimizer: η, μ, dampening, Nesterov, weight decay, form, parameter groups. The form decides what v is.

    Returns:
        `Solution` with `value` Cov(w), `velocity` Cov(v), `cross` E w vᵀ, each ``(m, m)`` float64, in the coordinates
        of `problem` (the mean is `stationary_mean`); `error_bound` is 40u(1 + 1[dense] max a / min a).

    Raises:
        UnstableError: naming the worst mode, and the largest stable learning rate where there is one.
        TypeError: if an argument is of another type.
        ValueError: if parameter groups do not fit the problem.
    """
    seen = _frame(problem, optimizer, "stationary_covariance")
    mode = stable_modes(seen.curvatures, seen.optimizer)
    weights = weight_covariance(mode, seen.noise, seen.optimizer)

    def rest() -> Rest:
        state = stationary_blocks(seen)
        return Rest(
            velocity=_symmetric(seen.block(state[1, 1], 1, 1)),
            cross=seen.block(state[0, 1], 0, 1),
            relative_residual=_residual(weights, state[1, 1], state[0, 1], seen, mode),
        )

    return Solution(
        value=seen.block_of_symmetric(weights),
        rest=rest,
        status=Status.OK,
        method="stationary_covariance",
        spectral_radius=float(mode.spectral_radius.max()),
        error_bound=_error_bound(seen, mode),
    )


def level(mode: Modes) -> NDArray[np.float64]:
    """N_ij = Σ_ij R_ij / (η²K² C̃_ij), shape ``(m, m)``."""
    e = mode.contraction
    crossed = np.multiply.outer(mode.at_plus_one, e)
    return e[:, None] + e - np.multiply.outer(e, e) + mode.ahead * (1.0 + mode.ahead) * (crossed + crossed.T)


def weight_covariance(mode: Modes, noise: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Σ of (S2) alone, in the eigenbasis in which C̃ = `noise` is given; stability is not checked."""
    scale = (optimizer.learning_rate * mode.gain) ** 2
    result = root_product(mode)
    np.divide(noise, result, out=result)
    if mode.ahead:
        result *= scale * level(mode)
    else:  # all modes contract alike: N = (1−μ)(1+μ) is a number
        contraction = float(mode.contraction[0])
        result *= scale * contraction * (2.0 - contraction)
    return result


def stationary_mean(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Where SGD settles: the shifted optimum (H + δ)⁻¹ H w*, shape ``(m,)``; w* itself without weight decay.

    Along an eigenvector of H it is λ/(λ+δ) of w*: weight decay pulls towards the origin.

    Raises:
        UnstableError: if some mode has no stationary law.
        TypeError: if an argument is of another type.
        ValueError: if parameter groups do not fit the problem.
    """
    seen = _frame(problem, optimizer, "stationary_mean")
    stable_modes(seen.curvatures, seen.optimizer)
    if not problem.optimum.any() or (seen.scale is None and not optimizer.weight_decay):
        return problem.optimum.copy()
    share = seen.curvatures / (seen.curvatures + seen.optimizer.weight_decay)
    return seen.outward_mean(np.stack([share * seen.optimum, np.zeros(len(share))]))[0]


def stationary_blocks(seen: Frame) -> NDArray[np.float64]:
    """Stationary covariance of (w, v) between the modes of a frame, as blocks ``(2, 2, m, m)``.

    Raises:
        UnstableError: naming the worst mode, and the largest stable learning rate where there is one.
    """
    optimizer = seen.optimizer
    mode = stable_modes(seen.curvatures, optimizer)
    eta, keep, ahead = optimizer.learning_rate, optimizer.gradient_share, mode.ahead
    driven = seen.noise / root_product(mode)
    drift = np.multiply.outer(mode.at_plus_one, mode.contraction)
    velocity = (keep * keep) * driven * (drift + drift.T)
    lead = _lead(mode)
    cross = -eta * mode.gain * keep * driven * ((1.0 + ahead) * lead + ahead * lead.T)
    if optimizer.form == "position":
        velocity, cross = eta * eta * velocity, -eta * cross
    return np.array([[weight_covariance(mode, seen.noise, optimizer), cross], [cross.T, velocity]])


def stationary_state(pair: Companion, forcing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stationary covariance of (x, y), y = x − s x₋ with s = ±1 the sign of each mode (`powers`), ``(2, 2, m, m)``.

    With p the characteristic polynomial at z = s, a pair of modes of the same sign has
        R_ij M_xx = (1 − q_i q_j) E_ij,   R_ij M_xy = (p_i − q_i p_j) E_ij,   R_ij M_yy = (e_j p_i + e_i p_j) E_ij:
    no cancellation. For opposite signs no root product comes near 1, and plain differences serve.

    Args:
        pair: stable modes; s is 1 where the slow root is near 1, −1 where it is near −1.
        forcing: E_ij, covariance of the noise that enters x, ``(m, m)``.
    """
    outer = np.multiply.outer
    mode, sign = pair.modes, pair.sign
    e, q, total = mode.contraction, mode.product, mode.total
    p = np.where(sign > 0, mode.at_plus_one, mode.at_minus_one)
    driven = forcing / root_product(mode)
    plain = e[:, None] + e - outer(e, e)
    same = sign[:, None] == sign
    lead = _lead(mode, sign)
    drift = outer(p, e)
    drift = drift + drift.T
    # Opposite signs: E x_i x_j₋ = (s_i − q_i s_j) E / R.
    lag = total[:, None] - outer(q, total)
    xy = np.where(same, lead, plain - sign * lag)
    yy = np.where(same, drift, plain * (1.0 + outer(sign, sign)) - sign * lag - sign[:, None] * lag.T)
    cross = driven * xy
    return np.array([[driven * plain, cross], [cross.T, driven * yy]])


def stationary_variance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Variance along each eigenvector of H, equation (S1); exact without commutation (S3).

    σᵢ² = η γᵢ (1+μ) / (λᵢ (1−μ)(2(1+μ) − ηλᵢ)) for heavy ball, with γᵢ = uᵢᵀCuᵢ.

    Returns:
        Shape ``(m,)``, in the order of `eigenbasis(problem).curvatures`.

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    require_type(problem, Quadratic, "stationary_variance(problem=...)")
    if problem.is_diagonal:  # O(m): spectra may have millions of directions
        curvatures, noise = problem.hessian, problem.noise_cov
    else:
        basis = eigenbasis(problem)
        curvatures, noise = basis.curvatures, np.diag(basis.noise)
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
    seen = _frame(problem, optimizer, "lag_one_covariance")
    mode = stable_modes(seen.curvatures, seen.optimizer)
    b0, b1 = 1.0 + mode.ahead, -mode.ahead
    s, e = mode.total, mode.contraction
    driven = mode.gain**2 * seen.noise / root_product(mode)
    same = e[:, None] + e - np.multiply.outer(e, e)  # E x_i(t) x_j(t) · R_ij
    once = same - _lead(mode)  # E x_i(t) x_j(t−1) · R_ij
    lag = (b0 * b0 + b1 * b1 + b0 * b1 * s[:, None]) * once + b0 * b1 * e[:, None] * same
    return seen.block(optimizer.learning_rate**2 * driven * lag)


def increment_covariance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Cov(w_t − w_{t−1}) under the stationary law, shape ``(m, m)``.

    For heavy ball it is η (HΣ + ΣH)/(1 + μ), dampening and weight decay included in η and H
    (`fluctuation_dissipation_constant` has the others').

    Raises:
        UnstableError: if some mode has no stationary law.
    """
    seen = _frame(problem, optimizer, "increment_covariance")
    mode = stable_modes(seen.curvatures, seen.optimizer)
    driven = mode.gain**2 * seen.noise / root_product(mode)
    _, increments = _level_and_increment(mode)
    return _symmetric(seen.block(optimizer.learning_rate**2 * driven * increments))


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


def root_product(mode: Modes) -> NDArray[np.float64]:
    """R_ij = Π (1 − r r') over the roots r of mode i and r' of mode j, shape ``(m, m)``, without cancellation."""
    e, u, w = mode.contraction, mode.at_plus_one, mode.at_minus_one
    difference = _differences(mode)
    # q_j s_i − q_i s_j = (μ − φ)(a_j − a_i), and φ² + (1+φ)(μ − φ) = μ − φ(1−μ) >= 0 with equality for plain SGD.
    apart = max(mode.momentum - mode.ahead * (1.0 - mode.momentum), 0.0)
    difference *= difference
    difference *= apart
    # ½ e_i e_j (u_i w_j + u_j w_i), a product of rank two.
    left, right = np.stack([e * u, e * w], axis=1), np.stack([0.5 * e * w, 0.5 * e * u])
    difference += left @ right
    return difference


def _differences(mode: Modes) -> NDArray[np.float64]:
    """a_i − a_j, shape ``(m, m)``, to the last digit also where the two are nearly equal."""
    result = np.subtract.outer(mode.effective_rate, mode.effective_rate)
    if mode.rate_low.any():
        result += np.subtract.outer(mode.rate_low, mode.rate_low)
    return result


def _frame(problem: Quadratic, optimizer: MomentumSGD, caller: str) -> Frame:
    require_type(problem, Quadratic, f"{caller}(problem=...)")
    require_type(optimizer, MomentumSGD, f"{caller}(optimizer=...)")
    return frame(problem, optimizer)


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


def _lead(mode: Modes, sign: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """p_i − q_i p_j as (p_i − p_j) + e_i p_j, exact at i = j and as μ → 1; p is u, or w for modes of sign −1.

    With p = u it is (E x_i(t) x_j(t) − E x_i(t) x_j(t−1)) R_ij. Only pairs of one sign are meant to use it.
    """
    apart, p = _differences(mode), mode.at_plus_one
    if sign is not None and (sign < 0).any():
        # w_i − w_j = −(1+2φ)(a_i − a_j).
        apart = apart * np.where(sign > 0, 1.0, -1.0 - 2.0 * mode.ahead)
        p = np.where(sign > 0, p, mode.at_minus_one)
    return apart + np.multiply.outer(mode.contraction, p)


def _residual(
    weights: NDArray[np.float64],
    velocity: NDArray[np.float64],
    cross: NDArray[np.float64],
    seen: Frame,
    mode: Modes,
) -> float:
    """‖F M Fᵀ − M + Q‖_F / ‖M‖_F, mode pair by mode pair: a check of the equation, not of the formula."""
    optimizer, noise = seen.optimizer, seen.noise
    mu, eta, push = optimizer.momentum, optimizer.learning_rate, optimizer.gradient_share
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


def _error_bound(seen: Frame, mode: Modes) -> float:
    """First order: a dense H knows its curvatures to u·max a, which enters through the smallest a and w."""
    if seen.modes.basis is None:
        return 2.0 * ERROR_CONSTANT * ROUNDOFF
    a, w = mode.effective_rate, mode.at_minus_one
    scale = float(np.abs(seen.curvatures).max()) * seen.optimizer.learning_rate * mode.gain
    return (
        ERROR_CONSTANT * ROUNDOFF * (1.0 + max(scale, float(a.max())) * (1.0 / float(w.min()) + 1.0 / float(a.min())))
    )


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (matrix + matrix.T)
