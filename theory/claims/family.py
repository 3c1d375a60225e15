r"""Exact claims about momentum SGD's relatives: quasi-hyperbolic momentum, samplers, second-order methods, averages.

Every oracle here runs or iterates the update as it is written down, in extended precision, and knows no law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.closed_form.averaging import averaged_covariance
from theory.closed_form.correlation_time import integrated_autocorrelation_time, variance_correlation_time
from theory.closed_form.divergence import gaussian_kl
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.langevin import (
    exact_langevin_noise,
    langevin_covariance,
    optimal_diagonal_preconditioner,
    optimal_learning_rate,
    optimal_preconditioner,
    target_divergence,
    target_preconditioner,
)
from theory.closed_form.preconditioned import (
    damped_newton_covariance,
    natural_gradient_covariance,
    preconditioned_covariance,
)
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import (
    fluctuation_dissipation_constant,
    increment_covariance,
    stationary_covariance,
)
from theory.judge.claim import Claim, Experiment
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.dense import (
    autocovariance_sum,
    averaged,
    divergence,
    log_volume,
    preconditioned_transition,
    settled,
    solved,
    stable_limit,
)
from theory.oracle.real_batches import batch_noise, law_of_batches, sandwich
from theory.oracle.transition import transition
from theory.oracle.update import momentum_update

ASSUMED = ("quadratic loss", "noise of mean 0 and covariance C, independent over time")
PAPER_SG_MCMC = "Wang, Ding and Huggins (arXiv 2606.00293) ask for it with error bounds"


@keyword_setting
class Relatives(Setting):
    """What the family's laws are judged on.

    Args:
        problem: H and C, not commuting.
        optimizers: the recursions.
        temperature: T of a target N(0, T A⁻¹).
        damping: ε of damped Newton.
        cycle: learning rates of one cycle, shape ``(L,)``.
        samples: number of cycles averaged.
    """

    problem: Quadratic
    optimizers: tuple[MomentumSGD, ...]
    temperature: float = 1.0
    damping: float = 0.0
    cycle: NDArray[np.float64] | None = None
    samples: int = 1


PROBLEM = Quadratic(
    np.array([[2.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 0.5]]),
    np.array([[0.8, -0.5, 0.1], [-0.5, 1.2, 0.3], [0.1, 0.3, 0.4]]),
)


def _decayed(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """H + weight decay."""
    return problem.dense_hessian() + optimizer.weight_decay * np.eye(problem.dimension)


def _by_recursion(setting: Relatives, optimizer: MomentumSGD, matrix: NDArray) -> NDArray:
    step, inflow = preconditioned_transition(setting.problem, optimizer, matrix)
    m = setting.problem.dimension
    return settled(step, inflow @ setting.problem.dense_noise_cov() @ inflow.T)[:m, :m]


# ---------------------------------------------------------------------------------------------------------------------
# Quasi-hyperbolic momentum

QUASI_HYPERBOLIC = Relatives(
    problem=PROBLEM,
    optimizers=tuple(MomentumSGD(0.3, 0.9, dampening=0.9, discount=discount) for discount in (1.0, 0.9, 0.7, 0.3, 0.0)),
)


def _literal(problem: Quadratic, optimizer: MomentumSGD) -> tuple[NDArray, NDArray]:
    """F and G, read off the written update applied to unit states and unit noises."""
    m = problem.dimension
    states = np.eye(2 * m)
    w, v = states[:, :m], states[:, m:]
    moved = momentum_update(optimizer, w, v, w @ problem.dense_hessian())
    kicked = momentum_update(optimizer, np.zeros((m, m)), np.zeros((m, m)), np.eye(m))
    step, inflow = np.hstack(moved).T, np.hstack(kicked).T
    return step.astype(np.longdouble), inflow.astype(np.longdouble)


def _quasi_hyperbolic_oracle(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    problem = setting.problem
    m = problem.dimension
    step, inflow = _literal(problem, optimizer)
    state = settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)
    lagged = (step @ state)[:m, :m]
    weights = state[:m, :m]
    return {
        "state": state,
        "increments": 2 * weights - lagged - lagged.T,
        "edge": np.array([stable_limit(problem, optimizer)]),
    }


def _quasi_hyperbolic(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    return {
        "state": stationary_covariance(setting.problem, optimizer).state(),
        "increments": increment_covariance(setting.problem, optimizer),
        "edge": np.array([largest_stable_learning_rate(_sharpest(setting.problem), optimizer)]),
    }


def _by_dissipation(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """Increments from the weights through k_ij, as the fluctuation–dissipation relation has them."""
    frame = eigenbasis(setting.problem)
    weights = frame.inward(stationary_covariance(setting.problem, optimizer).require())
    kept = (1 - optimizer.discount) * (1 - optimizer.momentum) + optimizer.discount * (1 - optimizer.dampening)
    a = kept * optimizer.learning_rate * frame.curvatures
    constant = fluctuation_dissipation_constant(frame.curvatures, optimizer)
    return {"increments": frame.outward((a[:, None] + a) * weights / constant)}


def _sharpest(problem: Quadratic) -> float:
    return float(np.linalg.eigvalsh(problem.dense_hessian())[-1])


def _seen_as(change: Callable[[MomentumSGD], MomentumSGD]) -> Callable[[Relatives], Answers]:
    """Weights and edge under another optimizer's law."""

    def wrong(setting: Relatives, optimizer: MomentumSGD) -> Answers:
        other = _quasi_hyperbolic(setting, change(optimizer))
        return {key: other[key] for key in ("increments", "edge")}

    return each(wrong)


def _heavy_ball_constant(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """The fluctuation–dissipation constant 1 + μ of heavy ball."""
    frame = eigenbasis(setting.problem)
    weights = frame.inward(stationary_covariance(setting.problem, optimizer).require())
    a = (1 - optimizer.momentum) * optimizer.learning_rate * frame.curvatures
    return {"increments": frame.outward((a[:, None] + a) * weights / (1 + optimizer.momentum))}


# ---------------------------------------------------------------------------------------------------------------------
# Samplers

SAMPLERS = Relatives(
    problem=PROBLEM,
    optimizers=(MomentumSGD(0.3), MomentumSGD(0.1, 0.9, form="position"), MomentumSGD(0.1, 0.9, weight_decay=0.2)),
    temperature=0.5,
)


def _thermostat(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """d₊ = μ d − η (A w + ξ) + √(2(1−μ)ηT) ζ, w₊ = w + d₊, whatever the form of the optimizer."""
    problem, mu, eta = setting.problem, optimizer.momentum, np.longdouble(optimizer.learning_rate)
    eye = np.eye(problem.dimension, dtype=np.longdouble)
    pull = -eta * _decayed(problem, optimizer)
    step = np.block([[eye + pull, mu * eye], [pull, mu * eye]])
    thrown = np.vstack([eye, eye])
    noise = eta * eta * problem.dense_noise_cov() + 2 * (1 - np.longdouble(mu)) * eta * setting.temperature * eye
    m = problem.dimension
    return {"law": settled(step, thrown @ noise @ thrown.T)[:m, :m]}


def _langevin(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    return {"law": langevin_covariance(setting.problem, optimizer, setting.temperature).require()}


def _langevin_small_step(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """The target plus what mini-batch noise adds in continuous time."""
    curvature = _decayed(setting.problem, optimizer)
    values, basis = np.linalg.eigh(curvature)
    noise = basis.T @ setting.problem.dense_noise_cov() @ basis
    added = optimizer.learning_rate / (1 - optimizer.momentum) * noise / (values[:, None] + values)
    return {"law": basis @ (np.diag(setting.temperature / values) + added) @ basis.T}


def _langevin_without_friction(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """Noise of variance 2T/η on the gradient, the friction 1 − μ forgotten."""
    heat = setting.temperature / (1 - optimizer.momentum)
    return {"law": langevin_covariance(setting.problem, optimizer, heat).require()}


TARGETS = Relatives(
    problem=PROBLEM,
    optimizers=(
        MomentumSGD(0.1),
        MomentumSGD(0.1, 0.9),
        MomentumSGD(0.1, 0.5, weight_decay=0.2),
        MomentumSGD(0.1, 0.8, nesterov=True),
    ),
    temperature=0.4,
)


def _best_rate(setting: Relatives, optimizer: MomentumSGD) -> float:
    """Where tr(AΣ)/T − ln det Σ of the dense law is flat in ln η: fourth-order differences, bisected."""
    problem = setting.problem
    curvature = _decayed(problem, optimizer).astype(np.longdouble)
    m = problem.dimension

    def cost(log_rate: np.longdouble) -> np.longdouble:
        step, inflow = transition(problem, replace(optimizer, learning_rate=1.0), np.longdouble)
        # The PyTorch form's rate scales the rows of w alone; in this way it is never rounded to float64.
        rate = np.exp(log_rate)
        scale = np.concatenate([np.full(m, rate), np.ones(m)]).astype(np.longdouble)
        step = np.eye(2 * m) * np.concatenate([np.ones(m), np.zeros(m)]) + scale[:, None] * (
            step - np.eye(2 * m) * np.concatenate([np.ones(m), np.zeros(m)])
        )
        inflow = scale[:, None] * inflow
        law = settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)[:m, :m]
        return np.trace(curvature @ law) / setting.temperature - log_volume(law)

    def slope(log_rate: float) -> float:
        at, h = np.longdouble(log_rate), np.longdouble(2.0**-9)
        near, far = cost(at + h) - cost(at - h), cost(at + 2 * h) - cost(at - 2 * h)
        further = cost(at + 3 * h) - cost(at - 3 * h)
        return float((45 * near - 9 * far + further) / (60 * h))

    low, high = np.log(1e-3), np.log(stable_limit(problem, optimizer)) - 0.02
    return float(np.exp(optimize.root_scalar(slope, bracket=(low, high), method="brentq", xtol=1e-14, rtol=1e-14).root))


def _best_matrix(setting: Relatives, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """The P under which the dense law is T A⁻¹: P⁻¹ raised where the law is too wide, lowered where it is too narrow.

    It starts far inside the stable region, at steps of a hundredth; a root search over the entries ends it.
    """
    curvature = _decayed(setting.problem, optimizer)
    eye = np.eye(len(curvature))
    upper = np.triu_indices(len(curvature))

    def excess(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
        law = _by_recursion(setting, optimizer, np.linalg.inv(inverse))
        gap = ((curvature / np.longdouble(setting.temperature)) @ law - eye) @ inverse
        return (gap + gap.T).astype(np.float64)

    def full(entries: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros_like(curvature)
        found[upper] = entries
        return found + np.triu(found, 1).T

    inverse = 100.0 * optimizer.learning_rate * eye
    for _ in range(100):
        inverse = inverse + 0.1 * excess(inverse)
    found = optimize.root(lambda entries: excess(full(entries))[upper], inverse[upper], options={"xtol": 1e-15})
    return np.asarray(np.linalg.inv(full(found.x)), dtype=np.float64)


def _targets_oracle(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    problem, m = setting.problem, setting.problem.dimension
    step, inflow = transition(problem, optimizer, np.longdouble)
    # The weights' covariance is linear in the noise's: solve for the noise whose law is the target.
    upper = np.triu_indices(m)
    columns = []
    for i, j in zip(*upper, strict=True):
        unit = np.zeros((m, m))
        unit[i, j] = unit[j, i] = 1.0
        columns.append(settled(step, inflow @ unit @ inflow.T)[:m, :m][upper])
    hot = 20.0 * setting.temperature * np.linalg.inv(_decayed(problem, optimizer))
    needed = np.zeros((m, m))
    needed[upper] = np.linalg.solve(np.array(columns, dtype=np.float64).T, hot[upper])
    needed += np.triu(needed, 1).T
    law = settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)[:m, :m]
    return {
        "rate": np.array([_best_rate(setting, optimizer)]),
        **({} if optimizer.direction[0] else {"preconditioner": _best_matrix(setting, optimizer)}),
        "noise": needed - problem.dense_noise_cov(),
        "divergence": np.array([_missed(setting, law, optimizer.weight_decay)]),
        **({} if optimizer.momentum else {"diagonal": np.array([_least_missed(setting, optimizer)])}),
    }


def _missed(setting: Relatives, law: NDArray, decay: float = 0.0) -> float:
    """KL of N(0, law) from the target."""
    problem = setting.problem
    curvature = problem.dense_hessian() + decay * np.eye(problem.dimension)
    return float(divergence(law, setting.temperature * solved(curvature, np.eye(problem.dimension))))


def _least_missed(setting: Relatives, optimizer: MomentumSGD) -> float:
    """The least KL of any diagonal P: a simplex search over ln P, which needs no slopes."""
    start = np.log(0.5 / optimizer.learning_rate / np.linalg.norm(_decayed(setting.problem, optimizer), axis=1))

    def missed(log_diagonal: NDArray) -> float:
        law = _by_recursion(setting, optimizer, np.diag(np.exp(log_diagonal)))
        return _missed(setting, law, optimizer.weight_decay)

    options = {"xatol": 1e-9, "fatol": 1e-16, "maxiter": 2000}
    return float(optimize.minimize(missed, start, method="Nelder-Mead", options=options).fun)


def _targets(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    problem, heat = setting.problem, setting.temperature
    return {
        "rate": np.array([optimal_learning_rate(problem, optimizer, heat).learning_rate]),
        **({} if optimizer.direction[0] else {"preconditioner": optimal_preconditioner(problem, optimizer, heat)}),
        "noise": exact_langevin_noise(problem, optimizer, 20.0 * heat),
        "divergence": np.array([target_divergence(problem, optimizer, heat)]),
        **({} if optimizer.momentum else {"diagonal": _reached_by(setting, optimizer, heat)}),
    }


def _reached_by(setting: Relatives, optimizer: MomentumSGD, heat: float) -> NDArray[np.float64]:
    """The KL that the best diagonal P for a temperature reaches at the setting's."""
    diagonal = optimal_diagonal_preconditioner(setting.problem, optimizer, heat)
    law = preconditioned_covariance(setting.problem, optimizer, diagonal)
    return np.array([gaussian_kl(law, setting.temperature * np.linalg.inv(_decayed(setting.problem, optimizer)))])


def _diagonal_of_best(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """The diagonal of the best full P, for the best diagonal one."""
    if optimizer.momentum:
        return {}
    diagonal = np.diag(optimal_preconditioner(setting.problem, optimizer, setting.temperature))
    law = preconditioned_covariance(setting.problem, optimizer, diagonal)
    target = setting.temperature * np.linalg.inv(_decayed(setting.problem, optimizer))
    return {"diagonal": np.array([gaussian_kl(law, target)])}


def _divergence_of_small_steps(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """KL of the law of continuous time."""
    law = _langevin_small_step(replace(setting, temperature=0.0), optimizer)["law"]
    target = setting.temperature * np.linalg.inv(_decayed(setting.problem, optimizer))
    return {"divergence": np.array([gaussian_kl(law, target)])}


def _continuous_rate(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """Mandt, Hoffman and Blei's rate, 2(1−μ) m T / tr C."""
    return {"rate": np.array([optimal_learning_rate(setting.problem, optimizer, setting.temperature).small_step_rate])}


def _continuous_matrix(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """Their preconditioner, 2(1−μ) T C⁻¹."""
    if optimizer.direction[0]:
        return {}
    scale = 2 * (1 - optimizer.momentum) * setting.temperature / optimizer.learning_rate
    return {"preconditioner": scale * np.linalg.inv(setting.problem.dense_noise_cov())}


def _continuous_noise(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """2(1−μ)T/η in every direction, less the mini-batch noise."""
    heat = 40.0 * (1 - optimizer.momentum) * setting.temperature / optimizer.learning_rate
    return {"noise": heat * np.eye(setting.problem.dimension) - setting.problem.dense_noise_cov()}


# ---------------------------------------------------------------------------------------------------------------------
# The sandwich covariance of a misspecified regression


@keyword_setting
class Misspecified(Setting):
    """Least squares on a curve with noise that grows: real batches, drawn with replacement.

    Args:
        rows: number N of samples.
        dimension: m.
        batch_sizes: S of the batches.
        seed: of the data.
    """

    rows: int
    dimension: int
    batch_sizes: tuple[int, ...]
    seed: int

    def data(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Inputs ``(N, m)``, and the residuals at the least-squares optimum ``(N,)``."""
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((self.rows, self.dimension)) * np.linspace(0.5, 1.5, self.dimension)
        x[:, 1] += 0.6 * x[:, 0]
        y = x[:, 0] + 0.7 * x[:, 1] ** 2 + (1.0 + np.abs(x[:, 2])) * rng.standard_normal(self.rows)
        return x, y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


def _sandwich_target(setting: Misspecified) -> Answers:
    target = sandwich(*setting.data())[2]
    return {f"batches of {size}": target for size in setting.batch_sizes}


Rule = Callable[[NDArray, NDArray, NDArray, NDArray, int], NDArray]


def _met_by(rule: Rule) -> Callable[[Misspecified], Answers]:
    """The law of real batches under a rule's preconditioner P(H, V, C(Q), Q, S)."""

    def answers(setting: Misspecified) -> Answers:
        x, residuals = setting.data()
        hessian, outer, target = sandwich(x, residuals)
        laws = {}
        for size in setting.batch_sizes:
            noise = batch_noise(x, residuals, target, size)
            matrix = rule(hessian, outer, noise, target, size)
            laws[f"batches of {size}"] = law_of_batches(x, residuals, size, matrix)
        return laws

    return answers


def _exact_rule(hessian: NDArray, outer: NDArray, noise: NDArray, target: NDArray, size: int) -> NDArray:
    del outer, size
    return target_preconditioner(Quadratic(hessian, noise), MomentumSGD(1.0), target)


def _commuting_rule(hessian: NDArray, outer: NDArray, noise: NDArray, target: NDArray, size: int) -> NDArray:
    """(HQ + QH)(C + HQH)⁻¹, right where the three commute."""
    del outer, size
    return (hessian @ target + target @ hessian) @ np.linalg.inv(noise + hessian @ target @ hessian)


def _continuous_time_rule(hessian: NDArray, outer: NDArray, noise: NDArray, target: NDArray, size: int) -> NDArray:
    """(2S/N) H⁻¹, which meets the sandwich as S/N → 0."""
    scale = 2.0 * size * np.trace(hessian @ target @ hessian) / np.trace(outer)  # 2S/N
    del noise
    return scale * np.linalg.inv(hessian)


def _constant_noise_rule(hessian: NDArray, outer: NDArray, noise: NDArray, target: NDArray, size: int) -> NDArray:
    """(6) with the noise at the optimum, V/S."""
    del noise
    return target_preconditioner(Quadratic(hessian, outer / size), MomentumSGD(1.0), target)


MISSPECIFIED = Misspecified(rows=300, dimension=5, batch_sizes=(4, 16, 50), seed=8)

# ---------------------------------------------------------------------------------------------------------------------
# Second-order methods

SECOND_ORDER = Relatives(
    problem=PROBLEM,
    optimizers=(MomentumSGD(0.1), MomentumSGD(0.1, 0.8), MomentumSGD(0.05, 0.9, weight_decay=0.2)),
    damping=0.3,
)


def _second_order_oracle(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    noise, curvature = setting.problem.dense_noise_cov(), _decayed(setting.problem, optimizer)
    m = setting.problem.dimension
    law = np.eye(m)
    for _ in range(500):  # the Fisher matrix is estimated, used, and estimated again
        fisher = noise + curvature @ law @ curvature
        again = _by_recursion(setting, optimizer, np.linalg.inv(fisher)).astype(np.float64)
        settling = np.abs(again - law).max()
        law = 0.5 * (law + again)
        if settling <= 1e-14 * np.abs(law).max():
            break
    return {
        "newton": _by_recursion(setting, optimizer, np.linalg.inv(curvature)),
        "damped newton": _by_recursion(setting, optimizer, np.linalg.inv(curvature + setting.damping * np.eye(m))),
        "natural, noise": _by_recursion(setting, optimizer, np.linalg.inv(noise)),
        "natural, gradients": law,
    }


def _second_order(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    problem = setting.problem
    return {
        "newton": damped_newton_covariance(problem, optimizer),
        "damped newton": damped_newton_covariance(problem, optimizer, setting.damping),
        "natural, noise": natural_gradient_covariance(problem, optimizer, "noise"),
        "natural, gradients": natural_gradient_covariance(problem, optimizer, "gradients"),
    }


def _undamped(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    return {"damped newton": damped_newton_covariance(setting.problem, optimizer)}


def _newton_small_step(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """η/(2(1−μ)) A⁻¹CA⁻¹."""
    inverse = np.linalg.inv(_decayed(setting.problem, optimizer))
    scale = optimizer.learning_rate / (2 * (1 - optimizer.momentum))
    return {"newton": scale * inverse @ setting.problem.dense_noise_cov() @ inverse}


def _one_fisher(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """The gradients' second moment taken for the noise's covariance."""
    return {"natural, gradients": natural_gradient_covariance(setting.problem, optimizer, "noise")}


def _natural_small_step(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """η/(2(1−μ)) A⁻¹ with momentum too."""
    scale = optimizer.learning_rate / (2 * (1 - optimizer.momentum))
    return {"natural, gradients": scale * np.linalg.inv(_decayed(setting.problem, optimizer))}


# ---------------------------------------------------------------------------------------------------------------------
# Averages

AVERAGES = Relatives(
    problem=PROBLEM,
    optimizers=(
        MomentumSGD(0.1),
        MomentumSGD(0.1, 0.9),
        MomentumSGD(0.1, 0.9, form="position"),
        MomentumSGD(0.5, 0.9, dampening=0.9, discount=0.7, weight_decay=0.1),
    ),
    cycle=np.linspace(0.1, 0.01, 20),
    samples=12,
)


def _averages_oracle(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    problem, m = setting.problem, setting.problem.dimension
    noise = problem.dense_noise_cov()
    step, inflow = transition(problem, optimizer, np.longdouble)
    state = settled(step, inflow @ noise @ inflow.T)
    assert setting.cycle is not None
    rates = [replace(optimizer, learning_rate=float(rate)) for rate in setting.cycle]
    steps = [transition(problem, one, np.longdouble) for one in rates]
    through, thrown = np.eye(2 * m, dtype=np.longdouble), np.zeros((2 * m, 2 * m), dtype=np.longdouble)
    for move, kick in steps:
        through, thrown = move @ through, move @ thrown @ move.T + kick @ noise @ kick.T
    summed = autocovariance_sum(step, state, 3000)[:m, :m]
    _, basis = np.linalg.eigh(problem.dense_hessian())
    along, carried, squares = np.diag(basis.T @ state[:m, :m] @ basis), state, np.zeros(m, dtype=np.longdouble)
    for lag in range(3000):
        squares += (1 if lag == 0 else 2) * (np.diag(basis.T @ carried[:m, :m] @ basis) / along) ** 2
        carried = step @ carried
    return {
        "tail": averaged([(step, inflow)], noise, state, setting.samples, m),
        "cycles": averaged(steps, noise, settled(through, thrown), setting.samples, m),
        "autocorrelation time": np.diag(summed) / np.diag(state[:m, :m]),
        "autocorrelation time of squares": squares,
    }


def _averages(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    problem = setting.problem
    return {
        "tail": averaged_covariance(problem, optimizer, setting.samples),
        "cycles": averaged_covariance(problem, optimizer, setting.samples, cycle=setting.cycle),
        "autocorrelation time": integrated_autocorrelation_time(problem, optimizer),
        "autocorrelation time of squares": variance_correlation_time(eigenbasis(problem).curvatures, optimizer),
    }


def _independent_cycles(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """Cycle ends as independent draws."""
    law = averaged_covariance(setting.problem, optimizer, 1, cycle=setting.cycle)
    return {"cycles": law / setting.samples}


def _last_rate(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """Cycle ends as draws from the stationary law of the last rate, correlated as that rate has them."""
    assert setting.cycle is not None
    rates = np.full(len(setting.cycle), setting.cycle[-1])
    return {"cycles": averaged_covariance(setting.problem, optimizer, setting.samples, cycle=rates)}


def _long_run(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """A⁻¹CA⁻¹/n, the limit of a long average."""
    inverse = np.linalg.inv(_decayed(setting.problem, optimizer))
    return {"tail": inverse @ setting.problem.dense_noise_cov() @ inverse / setting.samples}


def _continuous_time(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """The autocorrelation time without its discrete part: A⁻¹CA⁻¹ over the small-step law."""
    small = replace(optimizer, learning_rate=1e-9)
    return {
        "autocorrelation time": integrated_autocorrelation_time(setting.problem, small)
        * (small.learning_rate / optimizer.learning_rate)
    }


def _squares_as_means(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """τ of the mean along each eigenvector of H for τ of the square."""
    frame = eigenbasis(setting.problem)
    inside = Quadratic(frame.curvatures, frame.noise)
    return {"autocorrelation time of squares": integrated_autocorrelation_time(inside, optimizer)}


LITERAL = exact_experiment(
    "quasi-hyperbolic-literal",
    "the written update of quasi-hyperbolic momentum, from heavy ball over Nesterov to plain SGD",
    QUASI_HYPERBOLIC,
    each(_quasi_hyperbolic_oracle),
)
THERMOSTAT = exact_experiment(
    "langevin-literal", "SGLD with its noise written out, without and with momentum", SAMPLERS, each(_thermostat)
)
SEARCHES = exact_experiment(
    "sampling-searches",
    "searches over the rate, the preconditioner and the added noise for the law closest to a posterior",
    TARGETS,
    each(_targets_oracle),
)
PRECONDITIONED = exact_experiment(
    "second-order-literal",
    "Newton and natural-gradient recursions settled in extended precision",
    SECOND_ORDER,
    each(_second_order_oracle),
)
SUMS = exact_experiment(
    "averages-literal",
    "state and sum carried together through every step, autocovariances summed lag by lag",
    AVERAGES,
    each(_averages_oracle),
)
SANDWICH = exact_experiment(
    "sandwich-target",
    "the sandwich covariance of a misspecified regression, to be met by batches of its own rows",
    MISSPECIFIED,
    _sandwich_target,
)
EXPERIMENTS: tuple[Experiment, ...] = (LITERAL, THERMOSTAT, SEARCHES, SANDWICH, PRECONDITIONED, SUMS)

CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="quasi-hyperbolic",
        statement="Σ_ij = η²K²C̃_ij [e_i + e_j − e_i e_j + φ(1+φ)D_ij]/R_ij with K = (1−ν)(1−μ) + ν(1−d), φ = (1−ν)μ/K; "
        "stable iff Kη λ < 2(1+μ)/(1+2φ).",
        source="own derivation; method: Ma and Yarats (arXiv 1810.06801), edge: Gitman et al. (arXiv 1910.13962)",
        experiment=LITERAL,
        predict=each(_quasi_hyperbolic),
        decoys={
            "heavy ball, the discount forgotten": _seen_as(lambda one: replace(one, discount=1.0)),
            "Nesterov": _seen_as(
                lambda one: MomentumSGD((1 - one.momentum) * one.learning_rate, one.momentum, nesterov=True)
            ),
            "plain SGD at η": _seen_as(lambda one: MomentumSGD(one.learning_rate)),
        },
        assumptions=ASSUMED,
        num_tests=15,
    ),
    exact_claim(
        name="quasi-hyperbolic-dissipation",
        statement="(a_i + a_j) Σ_ij = k_ij Cov(Δw)_ij with k_ij of the two modes, 1 + μ for heavy ball alone.",
        source="own derivation; Yaida (arXiv 1810.00004) for heavy ball",
        experiment=LITERAL,
        predict=each(_by_dissipation),
        decoys={"1 + μ for every discount": each(_heavy_ball_constant)},
        assumptions=ASSUMED,
        num_tests=5,
    ),
    exact_claim(
        name="langevin-law",
        statement="SGLD: Σ of (S2) with C + 2(1−μ)T/(Kη) I; without batch noise T/(λ(1 − a/(2(1+μ)))).",
        source="own derivation; Welling and Teh 2011, Chen, Fox and Guestrin 2014 for the methods",
        experiment=THERMOSTAT,
        predict=each(_langevin),
        decoys={
            "continuous time": each(_langevin_small_step),
            "friction forgotten": each(_langevin_without_friction),
        },
        assumptions=ASSUMED,
        num_tests=3,
    ),
    exact_claim(
        name="optimal-sampling",
        statement="KL(η) is least where tr(AΣ')/T = tr(Σ⁻¹Σ'); P* = 2(1−μ)T[C + (1−μ)/(1+μ) T A]⁻¹ and noise of "
        "T e u w/(K²η²Nλ) meet N(0, T A⁻¹) exactly; the best diagonal P, and the law's KL from the target.",
        source="own derivation; small steps: Mandt, Hoffman and Blei (arXiv 1704.04289)",
        experiment=SEARCHES,
        predict=each(_targets),
        decoys={
            "rate of continuous time": each(_continuous_rate),
            "preconditioner of continuous time": each(_continuous_matrix),
            "noise of continuous time": each(_continuous_noise),
            "KL of continuous time": each(_divergence_of_small_steps),
            "diagonal of the best matrix": each(_diagonal_of_best),
        },
        assumptions=(*ASSUMED, "C positive definite"),
        num_tests=16,
    ),
    exact_claim(
        name="sandwich-sampling",
        statement="P = Y⁻¹ with AQY + YQA = C(Q) + AQA: SGD on real batches has the sandwich covariance Q exactly.",
        source="own derivation; the aim and the rule for commuting matrices: Wang, Ding and Huggins (arXiv 2606.00293)",
        experiment=SANDWICH,
        predict=_met_by(_exact_rule),
        decoys={
            "rule for commuting matrices": _met_by(_commuting_rule),
            "continuous time, (2S/N) H⁻¹": _met_by(_continuous_time_rule),
            "noise at the optimum": _met_by(_constant_noise_rule),
        },
        assumptions=("least squares", "batches drawn with replacement", "constant P"),
        num_tests=3,
    ),
    exact_claim(
        name="second-order-laws",
        statement="P g for g: Σ = P^{1/2} Σ(P^{1/2}AP^{1/2}, P^{1/2}CP^{1/2}) P^{1/2}; Newton η(1+μ)/((1−μ)(2(1+μ)−η)) "
        "A⁻¹CA⁻¹; natural gradient 2(1−μ²)s² + (1−μ)(2(1+μ)c − η)s = η(1+μ)c.",
        source="own derivation; the methods: Liu, Ziyin and Ueda (arXiv 2012.03636)",
        experiment=PRECONDITIONED,
        predict=each(_second_order),
        decoys={
            "damping forgotten": each(_undamped),
            "Newton in continuous time": each(_newton_small_step),
            "one Fisher matrix for the other": each(_one_fisher),
            "η/(2(1−μ)) A⁻¹ with momentum": each(_natural_small_step),
        },
        assumptions=(*ASSUMED, "C positive definite", "the preconditioner fixed, or settled at its own law"),
        num_tests=12,
    ),
    exact_claim(
        name="cycle-averages",
        statement="The mean of n iterates or of n cycle ends, by doubling the map of a cycle and its sum; "
        "Σ_k Cov(w_{t+k}, w_t) = A⁻¹CA⁻¹ gives τ = (A⁻¹CA⁻¹)_ii/Σ_ii; Σ_k ρ_k² beside it.",
        source="own derivation; " + PAPER_SG_MCMC + "; SWA: Izmailov et al. (arXiv 1803.05407)",
        experiment=SUMS,
        predict=each(_averages),
        decoys={
            "cycle ends independent": each(_independent_cycles),
            "cycle ends at their last rate's law": each(_last_rate),
            "A⁻¹CA⁻¹/n at finite n": each(_long_run),
            "autocorrelation time of continuous time": each(_continuous_time),
            "squares as long as means": each(_squares_as_means),
        },
        assumptions=ASSUMED,
        num_tests=16,
    ),
)
