r"""Momentum SGD as a sampler of N(0, T A⁻¹): added noise, temperature, and the best constant step, in discrete time.

Model     A = H + weight decay; the target exp(−L/T) is N(0, T A⁻¹), T = 1/N for the posterior of N samples under the
          mean loss L, weight decay being its Gaussian prior. Langevin dynamics (SGLD: Welling and Teh 2011; with
          momentum Chen, Fox and Guestrin 2014) adds to every gradient a normal vector of covariance
              J = 2(1−μ)T/(Kη) · I,                                                                          (1)
          K the gain of `stationary`; for μ = 0 that is √(2ηT) ζ on the weights, and in the position form noise of
          variance 2(1−μ)ηT on the displacement.
Result    Cov w = Σ(A, C + J) of (S2). Without mini-batch noise, heavy ball,
              Σ = T A⁻¹ (1 − KηA/(2(1+μ)))⁻¹ :   too hot by a/(2(1+μ) − a) in a direction of step a.            (2)
          The noise that makes the law exact at a finite step has, along an eigenvector of A,
              j = T e u w / (K²η² N λ),   heavy ball   2(1−μ)T/(Kη) · (1 − a/(2(1+μ))),                      (3)
          and what must be added is diag(j) − C where that is positive semi-definite.
          Constant SGD (no added noise): the divergence from the target is KL(η) = ½[tr(AΣ)/T − m − ln det(AΣ/T)]; its
          minimum over η is the root of tr(AΣ')/T = tr(Σ⁻¹Σ'), Σ' = dΣ/d ln η of (S2).                            (4)
          As η → 0, Kη* = 2(1−μ) m T / tr C, Mandt, Hoffman and Blei's constant rate (their N tr BBᵀ/S is tr C/T).
          With heavy ball and P g in place of g (η = K = 1) the target is met exactly, KL = 0, by
              P* = 2(1−μ)T [C + (1−μ)/(1+μ) T A]⁻¹,                                                          (5)
          always stable; as T → 0 it is their 2(1−μ)T C⁻¹, which leaves out the second term.
          Without momentum any covariance Q can be met exactly: P* = Y⁻¹ (η = 1), with Y the solution of
              A Q Y + Y Q A = C + A Q A,                                                                     (6)
          positive definite and stable by Lyapunov's theorem, for AQ has a positive spectrum. Q = A⁻¹CA⁻¹ S/N, S the
          batch size, is the sandwich covariance of a misspecified model. Noise that depends on the weights is C(Q).
          A diagonal P (μ = 0) cannot in general meet a posterior. With Y = P⁻¹ and the self-adjoint map
          𝓛(Σ) = AΣY + YΣA − AΣA, Σ = 𝓛⁻¹(C) and ∂KL/∂Y_kk = −(ZAΣ)_kk, Z = 𝓛⁻¹(A/T − Σ⁻¹): the best one is
          searched with exact gradients. Mandt et al.'s 2T/C_kk is its limit for small T and diagonal A and C.       (7)
Reading   The corrections are of relative size T(1−μ)/(1+μ) · A against C: they matter where noise is weak against
          curvature (large batches, hot targets), where the small-step optimum can even be unstable.
Oracle    The dense recursion in extended precision with the noise written out, and a search over η that knows no law.
Source    Mandt, Hoffman, Blei (JMLR 2017, arXiv 1704.04289), for the limits of (4) and (5). The rest is derived here.
          Wang, Ding and Huggins (arXiv 2606.00293, code of 2026) meet Q by P = (AQ + QA)(C + AQA)⁻¹, which solves (6)
          where A, Q and C commute and misses Q otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_continuous_lyapunov
from scipy.optimize import minimize, root_scalar

from theory.closed_form.divergence import gaussian_kl
from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.stability import Modes, largest_stable_learning_rate, modes, stable_modes, stable_pull
from theory.closed_form.stationary import level, root_product, stationary_covariance, weight_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import NumericalError, Solution

#: Searches that the best diagonal preconditioner may take.
_RESTARTS = 20
#: Points of the grid that finds the basin of the best rate.
_GRID = 200


@dataclass(frozen=True, kw_only=True)
class OptimalRate:
    """The constant rate that samples a target best, and what the small-step formula would have cost.

    Args:
        learning_rate: η* of equation (4).
        divergence: KL from the target at η*, in nats.
        small_step_rate: 2(1−μ) m T / (K tr C).
        small_step_divergence: the exact KL there; None where that rate is unstable.
    """

    learning_rate: float
    divergence: float
    small_step_rate: float
    small_step_divergence: float | None


def langevin_problem(problem: Quadratic, optimizer: MomentumSGD, temperature: float) -> Quadratic:
    """The problem as SGLD sees it: C with the noise (1) added; every law of SGD on it is one of SGLD at a finite step.

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention, at the learning rate that it will run with.
        temperature: T ≥ 0, in units of the loss; 0 adds nothing.

    Raises:
        ValueError: if T is negative or not finite.
    """
    T = _temperature(temperature, "langevin_problem", least=0.0)
    gain = modes(np.ones(1), optimizer).gain
    added = 2.0 * (1.0 - optimizer.momentum) * T / (gain * optimizer.learning_rate)
    noise = problem.noise_cov
    heated = noise + added if noise.ndim == 1 else noise + added * np.eye(len(noise))
    return replace(problem, noise_cov=heated)


def langevin_covariance(problem: Quadratic, optimizer: MomentumSGD, temperature: float) -> Solution:
    """Stationary law of SGLD at a finite step: `stationary_covariance` of the `langevin_problem`.

    Raises:
        ValueError: if T is negative or not finite.
        UnstableError: if some direction has no stationary law.
    """
    return stationary_covariance(langevin_problem(problem, optimizer, temperature), optimizer)


def exact_langevin_noise(problem: Quadratic, optimizer: MomentumSGD, temperature: float) -> NDArray[np.float64]:
    """Covariance of the noise to add to every gradient so that Cov w = T A⁻¹ exactly, equation (3), shape ``(m, m)``.

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention.
        temperature: T > 0.

    Raises:
        ValueError: if T is not > 0, or the mini-batch noise alone is hotter than T in some direction.
        UnstableError: if some direction has no stationary law.
    """
    where = "exact_langevin_noise"
    T = _temperature(temperature, where)
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    variance_per_noise = np.diag(weight_covariance(mode, np.eye(problem.dimension), optimizer))
    needed = T / ((frame.curvatures + optimizer.weight_decay) * variance_per_noise)
    added = np.diag(needed) - frame.noise
    smallest = float(np.linalg.eigvalsh(added)[0])
    if smallest < -1e-12 * float(needed.max()):
        raise ValueError(
            f"`{where}(temperature=...)` must be above that of the mini-batch noise; at T = {T:.6g} the noise to add "
            f"has eigenvalue {smallest:.6g}."
        )
    value = frame.outward(added)
    return 0.5 * (value + value.T)


def target_divergence(problem: Quadratic, optimizer: MomentumSGD, temperature: float) -> float:
    """KL of the stationary law of SGD from N(0, T A⁻¹), in nats.

    Raises:
        ValueError: if T is not > 0, or C is singular (the law then has no density).
        UnstableError: if some direction has no stationary law.
    """
    T = _temperature(temperature, "target_divergence")
    frame = eigenbasis(problem)
    mode = stable_modes(frame.curvatures, optimizer)
    return _divergence(frame, weight_covariance(mode, frame.noise, optimizer), optimizer, T)


def optimal_learning_rate(problem: Quadratic, optimizer: MomentumSGD, temperature: float) -> OptimalRate:
    """The constant learning rate whose stationary law is closest to N(0, T A⁻¹) in KL, equation (4).

    Args:
        problem: H and C, C positive definite.
        optimizer: momentum SGD in any convention; its own learning rate plays no part.
        temperature: T > 0: 1/N for the posterior of N samples.

    Returns:
        `OptimalRate`, η* to about 1e-12 relative; with several local minima, the lowest on a grid of 200 rates.

    Raises:
        ValueError: if T is not > 0, or C is singular.
    """
    T = _temperature(temperature, "optimal_learning_rate")
    frame = eigenbasis(problem)
    stable_pull(frame.curvatures, optimizer)
    limit = largest_stable_learning_rate(float(frame.curvatures.max()), optimizer)
    gain = modes(np.ones(1), optimizer).gain
    small_step = 2.0 * (1.0 - optimizer.momentum) * problem.dimension * T / (gain * float(np.trace(frame.noise)))

    def at(rate: float) -> tuple[NDArray[np.float64], Modes]:
        chosen = replace(optimizer, learning_rate=rate)
        mode = modes(frame.curvatures, chosen)
        return weight_covariance(mode, frame.noise, chosen), mode

    def divergence(rate: float) -> float:
        return _divergence(frame, at(rate)[0], optimizer, T)

    def slope(log_rate: float) -> float:
        law, mode = at(math.exp(log_rate))
        change = _law_slope(law, mode)
        curvatures = frame.curvatures + optimizer.weight_decay
        return float(curvatures @ np.diag(change)) / T - float(np.trace(np.linalg.solve(law, change)))

    # Towards 0 the determinant, towards the edge the trace drives KL to infinity: the minimum is inside.
    # Close to the edge the grid is geometric in the distance from it.
    low = math.log(1e-3 * min(small_step, limit))
    grid = np.concatenate([
        np.linspace(low, math.log(0.5 * limit), _GRID // 2, endpoint=False),
        math.log(limit) + np.log1p(-np.geomspace(0.5, 1e-10, _GRID // 2)),
    ])  # fmt: skip
    best = int(np.argmin([divergence(math.exp(x)) for x in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    rate = math.exp(root_scalar(slope, bracket=bracket, method="brentq", xtol=1e-15, rtol=1e-14).root)
    return OptimalRate(
        learning_rate=rate,
        divergence=divergence(rate),
        small_step_rate=small_step,
        small_step_divergence=divergence(small_step) if small_step < limit else None,
    )


def optimal_preconditioner(problem: Quadratic, optimizer: MomentumSGD, temperature: float) -> NDArray[np.float64]:
    """P with which the stationary law is N(0, T A⁻¹) exactly, equation (5), shape ``(m, m)``.

    The step is w ← w − η v with P g in place of g: P is P*/(Kη), so that only the momentum of `optimizer` matters.

    Args:
        problem: H and C.
        optimizer: heavy ball, either form.
        temperature: T > 0.

    Raises:
        ValueError: if T is not > 0, or the optimizer's step reads g beside v.
        UnstableError: if A is not positive definite: nothing then is the target.
    """
    where = "optimal_preconditioner"
    T = _temperature(temperature, where)
    if optimizer.direction[0]:
        raise ValueError(f"`{where}(optimizer=...)` must be heavy ball; got a step that reads g beside v.")
    mu = optimizer.momentum
    stable_pull(eigenbasis(problem).curvatures, optimizer)
    decayed = problem.dense_hessian() + optimizer.weight_decay * np.eye(problem.dimension)
    inner = problem.dense_noise_cov() + T * (1.0 - mu) / (1.0 + mu) * decayed
    gain = modes(np.ones(1), optimizer).gain
    value = 2.0 * (1.0 - mu) * T / (gain * optimizer.learning_rate) * np.linalg.inv(inner)
    return 0.5 * (value + value.T)


def optimal_diagonal_preconditioner(
    problem: Quadratic, optimizer: MomentumSGD, temperature: float
) -> NDArray[np.float64]:
    """The diagonal P under which plain SGD's law is closest to N(0, T A⁻¹) in KL, shape ``(m,)``; see (7).

    Args:
        problem: H and C, C positive definite.
        optimizer: plain SGD, μ = 0; P multiplies its gradient, so that its learning rate divides P.
        temperature: T > 0.

    Returns:
        A local minimum, to about 1e-6 relative, searched from a P that is stable by diagonal dominance.

    Raises:
        ValueError: if T is not > 0, the optimizer has momentum, or C is singular.
        UnstableError: if A is not positive definite.
        NumericalError: if the search does not settle.
    """
    where = "optimal_diagonal_preconditioner"
    T = _temperature(temperature, where)
    if optimizer.momentum != 0:
        raise ValueError(f"`{where}(optimizer=...)` must have no momentum; got {optimizer.momentum}.")
    frame = eigenbasis(problem)
    stable_pull(frame.curvatures, optimizer)
    curvature = problem.dense_hessian() + optimizer.weight_decay * np.eye(problem.dimension)
    noise = problem.dense_noise_cov()
    if not np.linalg.eigvalsh(noise)[0] > 0:
        raise ValueError(f"`{where}(problem=...)` must have a positive definite C; got a direction without noise.")

    def cost(log_inverse: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        root = np.exp(-0.5 * log_inverse)  # P^{1/2}
        steps, turn = np.linalg.eigh(root[:, None] * curvature * root)
        if not steps[-1] < 2.0:
            return math.inf, np.zeros_like(root)
        there = root[:, None] * turn
        divisor = steps[:, None] + steps - np.multiply.outer(steps, steps)

        def solved(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
            return there @ ((there.T @ matrix @ there) / divisor) @ there.T

        law = solved(noise)
        dual = solved(curvature / T - np.linalg.inv(law))
        value = 0.5 * (float(np.sum(curvature * law)) / T - float(np.linalg.slogdet(law)[1]))
        return value, -np.einsum("ki,ij,jk->k", dual, curvature, law) * np.exp(log_inverse)

    small_step = (np.diag(noise) + T * np.diag(curvature)) / (2.0 * T)
    point = np.log(np.maximum(small_step, np.abs(curvature).sum(axis=1)))
    slope = math.inf
    for _ in range(_RESTARTS):  # a line search that meets the edge of stability ends early: begin again from there
        point = minimize(cost, point, jac=True, method="BFGS", options={"gtol": 1e-11}).x
        slope = float(np.abs(cost(point)[1]).max())
        if slope <= 1e-8:
            break
    if not slope <= 1e-5:  # what rounding leaves where KL is steep on all sides
        raise NumericalError(f"`{where}` must end where KL is flat; got a slope of {slope:.3g} nats per unit of ln P.")
    return np.exp(-point) / (modes(np.ones(1), optimizer).gain * optimizer.learning_rate)


def target_preconditioner(problem: Quadratic, optimizer: MomentumSGD, target: ArrayLike) -> NDArray[np.float64]:
    """P with which plain SGD's stationary law has the covariance Q exactly, equation (6), shape ``(m, m)``.

    Args:
        problem: H, and C at the target where the noise depends on the weights.
        optimizer: plain SGD, μ = 0; P is Y⁻¹/η.
        target: Q, symmetric positive definite ``(m, m)``: a sandwich covariance, or any other.

    Raises:
        ValueError: if Q has another shape, is not symmetric or not positive definite, or the optimizer has momentum.
        UnstableError: if H + weight decay is not positive definite.
    """
    where = "target_preconditioner"
    if optimizer.momentum != 0:
        raise ValueError(f"`{where}(optimizer=...)` must have no momentum; got {optimizer.momentum}.")
    wanted = np.asarray(target, dtype=np.float64)
    m = problem.dimension
    if wanted.shape != (m, m) or not np.isfinite(wanted).all():
        raise ValueError(f"`{where}(target=...)` must be finite of shape {(m, m)}; got shape {wanted.shape}.")
    if np.abs(wanted - wanted.T).max() > 1e-8 * np.abs(wanted).max() or not np.linalg.eigvalsh(wanted)[0] > 0:
        raise ValueError(
            f"`{where}(target=...)` must be symmetric positive definite; got smallest eigenvalue "
            f"{np.linalg.eigvalsh(wanted)[0]:.6g}."
        )
    stable_pull(eigenbasis(problem).curvatures, optimizer)
    decayed = problem.dense_hessian() + optimizer.weight_decay * np.eye(m)
    pull = decayed @ wanted
    inverse = solve_continuous_lyapunov(pull, problem.dense_noise_cov() + pull @ decayed)
    value = np.linalg.inv(0.5 * (inverse + inverse.T)) / (modes(np.ones(1), optimizer).gain * optimizer.learning_rate)
    return 0.5 * (value + value.T)


def _law_slope(law: NDArray[np.float64], mode: Modes) -> NDArray[np.float64]:
    """DΣ/d ln η of (S2): Σ (2 + N'/N − R'/R), with a' = a for every mode."""
    a, e, u, w = mode.effective_rate, mode.contraction, mode.at_plus_one, mode.at_minus_one
    de, dw = mode.ahead * a, -(1.0 + 2.0 * mode.ahead) * a
    outer = np.multiply.outer
    spread = mode.ahead * (1.0 + mode.ahead)
    crossed = outer(u, e + de)  # (u e)' = u e + u e'
    level_slope = de[:, None] + de - outer(de, e) - outer(e, de) + spread * (crossed + crossed.T)
    pull = outer(u, w)
    pull_slope = outer(u, w + dw)
    turned = 0.5 * (pull + pull.T)
    product = root_product(mode)
    apart = product - outer(e, e) * turned  # ∝ (a_i − a_j)², whose slope is twice itself
    slope = (outer(de, e) + outer(e, de)) * turned + outer(e, e) * 0.5 * (pull_slope + pull_slope.T) + 2.0 * apart
    return law * (2.0 + level_slope / level(mode) - slope / product)


def _divergence(frame: Eigenbasis, law: NDArray[np.float64], optimizer: MomentumSGD, temperature: float) -> float:
    root = np.sqrt((frame.curvatures + optimizer.weight_decay) / temperature)
    whitened = np.multiply.outer(root, root) * law
    try:
        return gaussian_kl(0.5 * (whitened + whitened.T), np.ones(len(root)))
    except ValueError:
        raise ValueError(
            "`target_divergence(problem=...)` must have a positive definite C: a law without density is infinitely far."
        ) from None


def _temperature(temperature: float, where: str, least: float | None = None) -> float:
    value = float(temperature)
    if not math.isfinite(value) or value < 0 or (least is None and value == 0):
        rule = "> 0" if least is None else ">= 0"
        raise ValueError(f"`{where}(temperature=...)` must be {rule} and finite; got {temperature}.")
    return value
