"""SGLD and constant SGD as samplers, against dense recursions with the noise written out and searches over rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from tests.oracles import relative
from tests.theory.strategies import rotation
from theory.closed_form.averaging import averaged_covariance
from theory.closed_form.correlation_time import integrated_autocorrelation_time
from theory.closed_form.langevin import (
    exact_langevin_noise,
    langevin_covariance,
    langevin_problem,
    optimal_diagonal_preconditioner,
    optimal_learning_rate,
    optimal_preconditioner,
    target_divergence,
    target_preconditioner,
)
from theory.closed_form.preconditioned import preconditioned_covariance
from theory.closed_form.stability import largest_stable_learning_rate
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.dense import autocovariance_sum, averaged, preconditioned_transition, settled
from theory.oracle.transition import transition
from theory.solution import UnstableError

OPTIMIZERS = [
    MomentumSGD(0.05),
    MomentumSGD(0.05, 0.9, weight_decay=0.1),
    MomentumSGD(0.05, 0.9, form="position"),
    MomentumSGD(0.05, 0.8, nesterov=True),
    MomentumSGD(0.05, 0.9, dampening=0.9, discount=0.7),
]


def dense(spectrum, seed):
    turn = rotation(len(spectrum), seed)
    matrix = (turn * np.array(spectrum)) @ turn.T
    return 0.5 * (matrix + matrix.T)


PROBLEM = Quadratic(dense([0.3, 1.0, 2.0, 5.0], 1), dense([0.2, 1.0, 0.5, 3.0], 2))
T = 0.3


def decayed(optimizer):
    return PROBLEM.hessian + optimizer.weight_decay * np.eye(4)


def law(optimizer, noise):
    step, inflow = transition(PROBLEM, optimizer, np.longdouble)
    return settled(step, inflow @ noise @ inflow.T)[:4, :4].astype(float)


def divergence(covariance, optimizer, temperature=T):
    """KL from N(0, T A⁻¹), from its definition."""
    whitened = decayed(optimizer) @ covariance / temperature
    return 0.5 * (np.trace(whitened) - len(covariance) - np.linalg.slogdet(whitened)[1])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_langevin_dynamics_is_the_written_one(momentum):
    """w₊ = w + d₊, d₊ = μ d − η (H w + ξ) + √(2(1−μ)ηT) ζ, ζ and ξ independent."""
    eta, eye = 0.05, np.eye(4)
    step = np.block([
        [eye - eta * PROBLEM.hessian, momentum * eye],
        [-eta * PROBLEM.hessian, momentum * eye],
    ])  # fmt: skip
    thrown = np.vstack([eye, eye])
    forcing = thrown @ (eta**2 * PROBLEM.noise_cov + 2 * (1 - momentum) * eta * T * eye) @ thrown.T
    expected = settled(step, forcing)[:4, :4]
    for form in ("pytorch", "position"):
        found = langevin_covariance(PROBLEM, MomentumSGD(eta, momentum, form=form), T)
        assert relative(found.value, expected) < 1e-13


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:3], ids=repr)
def test_averages_and_memory_of_langevin_dynamics_are_those_of_its_problem(optimizer):
    """Mean of 50 samples and the integrated autocorrelation time, from the recursion with its noise written out."""
    heat = 2 * (1 - optimizer.momentum) * T / optimizer.learning_rate * np.eye(4)
    step, inflow = transition(PROBLEM, optimizer, np.longdouble)
    noise = PROBLEM.noise_cov + heat
    state = settled(step, inflow @ noise @ inflow.T)
    seen = langevin_problem(PROBLEM, optimizer, T)
    expected = averaged([(step, inflow)], noise, state, 50, 4)
    assert relative(averaged_covariance(seen, optimizer, 50), expected) < 1e-12
    times = np.diag(autocovariance_sum(step, state, 4000)[:4, :4] / state[:4, :4]).astype(float)
    assert relative(integrated_autocorrelation_time(seen, optimizer), times) < 1e-12


def test_at_a_finite_step_langevin_dynamics_is_too_hot():
    quiet = Quadratic(np.array([0.5, 2.0, 30.0]), np.zeros(3))
    optimizer = MomentumSGD(0.1, 0.9)
    a = 0.1 * quiet.hessian
    expected = T / quiet.hessian / (1 - a / (2 * 1.9))
    assert np.allclose(np.diag(langevin_covariance(quiet, optimizer, T).value), expected, rtol=1e-13)
    small = langevin_covariance(quiet, replace(optimizer, learning_rate=1e-7), T).value
    assert np.allclose(np.diag(small), T / quiet.hessian, rtol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_the_exact_noise_meets_the_target_at_a_finite_step(optimizer):
    hot = 20.0
    added = exact_langevin_noise(PROBLEM, optimizer, hot)
    assert relative(law(optimizer, PROBLEM.noise_cov + added), hot * np.linalg.inv(decayed(optimizer))) < 1e-13


def test_noise_that_is_already_too_hot_cannot_be_completed():
    with pytest.raises(ValueError, match="above that of the mini-batch noise"):
        exact_langevin_noise(PROBLEM, MomentumSGD(0.05, 0.9), 1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_the_divergence_is_that_of_the_dense_law(optimizer):
    expected = divergence(law(optimizer, PROBLEM.noise_cov), optimizer)
    assert target_divergence(PROBLEM, optimizer, T) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("temperature", [1e-4, 0.3, 100.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_no_rate_that_a_search_finds_is_better(optimizer, temperature):
    best = optimal_learning_rate(PROBLEM, optimizer, temperature)
    sharpest = float(np.linalg.eigvalsh(PROBLEM.hessian)[-1])
    limit = largest_stable_learning_rate(sharpest, optimizer)

    def cost(log_rate):
        chosen = replace(optimizer, learning_rate=float(np.exp(log_rate)))
        return divergence(law(chosen, PROBLEM.noise_cov), chosen, temperature)

    grid = np.log(limit) + np.concatenate([np.linspace(-14, -0.1, 60), -np.geomspace(0.05, 1e-6, 20)])
    lowest = int(np.argmin([cost(x) for x in grid]))
    found = minimize_scalar(
        cost, bounds=(grid[lowest - 1], grid[lowest + 1]), method="bounded", options={"xatol": 1e-9}
    )
    assert best.divergence <= found.fun + 1e-12 * (1 + found.fun)
    assert best.learning_rate == pytest.approx(np.exp(found.x), rel=2e-5)
    assert best.divergence == pytest.approx(found.fun, rel=1e-9)


def test_at_low_temperature_the_best_rate_is_that_of_continuous_time():
    optimizer = MomentumSGD(1.0, 0.9)
    cold = optimal_learning_rate(PROBLEM, optimizer, 1e-7)
    assert cold.small_step_rate == pytest.approx(2 * 0.1 * 4 * 1e-7 / np.trace(PROBLEM.noise_cov))
    assert cold.learning_rate == pytest.approx(cold.small_step_rate, rel=1e-5)
    assert cold.small_step_divergence == pytest.approx(cold.divergence, rel=1e-8)


def test_where_noise_is_weak_the_continuous_time_rate_is_unstable():
    hot = optimal_learning_rate(PROBLEM, MomentumSGD(1.0, 0.5), 100.0)
    assert hot.small_step_divergence is None and hot.small_step_rate > largest_stable_learning_rate(
        5.0, MomentumSGD(1.0, 0.5)
    )
    target_divergence(PROBLEM, MomentumSGD(hot.learning_rate, 0.5), 100.0)  # the exact one is stable


@pytest.mark.parametrize("temperature", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS[:3], ids=repr)
def test_the_best_preconditioner_meets_the_target_exactly(optimizer, temperature):
    matrix = optimal_preconditioner(PROBLEM, optimizer, temperature)
    step, inflow = preconditioned_transition(PROBLEM, optimizer, matrix)
    found = settled(step, inflow @ PROBLEM.noise_cov @ inflow.T)[:4, :4]
    assert relative(found, temperature * np.linalg.inv(decayed(optimizer))) < 1e-12


def test_a_search_over_preconditioners_ends_at_the_best_one():
    optimizer = MomentumSGD(0.05, 0.5)
    problem = Quadratic(dense([0.5, 2.0], 1), dense([0.3, 1.0], 2))
    best = optimal_preconditioner(problem, optimizer, T)

    def cost(entries):
        factor = np.array([[entries[0], 0.0], [entries[1], entries[2]]])
        try:
            covariance = preconditioned_covariance(problem, optimizer, factor @ factor.T)
        except (UnstableError, ValueError):
            return 1e6
        whitened = problem.hessian @ covariance / T
        return 0.5 * (np.trace(whitened) - 2 - np.linalg.slogdet(whitened)[1])

    found = minimize(cost, [2.0, 0.1, 2.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15})
    factor = np.array([[found.x[0], 0.0], [found.x[1], found.x[2]]])
    assert found.fun < 1e-12 and relative(factor @ factor.T, best) < 1e-5


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: langevin_covariance(PROBLEM, OPTIMIZERS[0], -1.0), ">= 0"),
        (lambda: optimal_learning_rate(PROBLEM, OPTIMIZERS[0], 0.0), "> 0"),
        (lambda: optimal_learning_rate(Quadratic([1.0, 2.0], [1.0, 0.0]), OPTIMIZERS[0], 1.0), "positive definite C"),
        (lambda: optimal_preconditioner(PROBLEM, OPTIMIZERS[3], 1.0), "heavy ball"),
        (lambda: target_divergence(PROBLEM, OPTIMIZERS[0], float("nan")), "finite"),
    ],
)
def test_what_is_refused_is_named(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


def test_a_direction_that_nothing_pulls_back_has_no_target():
    saddle = Quadratic(np.array([-0.1, 2.0]), np.ones(2))
    for call in (optimal_learning_rate, optimal_preconditioner, exact_langevin_noise, target_divergence):
        with pytest.raises(UnstableError, match="not pulled back"):
            call(saddle, MomentumSGD(0.1, 0.9), 1.0)
    assert optimal_learning_rate(saddle, MomentumSGD(0.1, 0.9, weight_decay=0.2), 1.0).divergence > 0


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_any_covariance_can_be_met_without_momentum(decay):
    optimizer = MomentumSGD(0.05, weight_decay=decay)
    target = dense([0.1, 0.4, 2.0, 30.0], 5)
    matrix = target_preconditioner(PROBLEM, optimizer, target)
    step, inflow = preconditioned_transition(PROBLEM, optimizer, matrix)
    assert relative(settled(step, inflow @ PROBLEM.noise_cov @ inflow.T)[:4, :4], target) < 1e-11


def test_for_a_posterior_both_preconditioners_are_one():
    optimizer = MomentumSGD(0.05, weight_decay=0.1)
    target = T * np.linalg.inv(decayed(optimizer))
    assert relative(
        target_preconditioner(PROBLEM, optimizer, target), optimal_preconditioner(PROBLEM, optimizer, T)
    ) < 1e-13  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "target", "rule"),
    [
        (MomentumSGD(0.1, 0.5), np.eye(4), "no momentum"),
        (MomentumSGD(0.1), np.eye(3), "of shape"),
        (MomentumSGD(0.1), -np.eye(4), "positive definite"),
        (MomentumSGD(0.1), np.eye(4) + np.eye(4, k=1), "symmetric"),
    ],
)
def test_a_target_must_be_a_covariance(optimizer, target, rule):
    with pytest.raises(ValueError, match=rule):
        target_preconditioner(PROBLEM, optimizer, target)


@pytest.mark.parametrize("temperature", [1e-3, 0.3, 3.0, 100.0])
def test_no_diagonal_preconditioner_that_a_search_finds_is_better(temperature):
    optimizer = MomentumSGD(0.05, weight_decay=0.1)
    best = optimal_diagonal_preconditioner(PROBLEM, optimizer, temperature)

    def cost(diagonal):
        try:
            step, inflow = preconditioned_transition(PROBLEM, optimizer, np.diag(diagonal))
            covariance = settled(step, inflow @ PROBLEM.noise_cov @ inflow.T)[:4, :4].astype(float)
        except OverflowError:
            return 1e6
        return divergence(covariance, optimizer, temperature)

    found = cost(best)
    for k in range(4):  # the parabola through three points has its bottom within 5e-6
        change = np.ones(4)
        change[k] = 1 + 1e-4
        up, down = cost(best * change), cost(best / change)
        assert up > found and down > found
        assert abs(up - down) < 0.1 * (up + down - 2 * found)
    simplex = minimize(lambda x: cost(np.exp(x)), np.log(best) + 0.2, method="Nelder-Mead",
                       options={"xatol": 1e-5, "fatol": 1e-10, "maxfev": 4000})  # fmt: skip
    assert found <= simplex.fun + 1e-9
    exact = optimal_preconditioner(PROBLEM, optimizer, temperature)
    assert found > 1e-3, "H and C do not commute: no diagonal matrix meets the target"
    assert relative(np.diag(exact), best) > 1e-3


def test_where_everything_is_diagonal_the_diagonal_preconditioner_is_the_best_of_all():
    problem, optimizer = Quadratic([0.3, 1.0, 5.0], [2.0, 0.5, 1.0]), MomentumSGD(0.05)
    found = optimal_diagonal_preconditioner(problem, optimizer, T)
    assert relative(np.diag(found), optimal_preconditioner(problem, optimizer, T)) < 1e-6
    cold = optimal_diagonal_preconditioner(problem, optimizer, 1e-7)
    assert relative(cold, 2e-7 / (0.05 * problem.noise_cov)) < 1e-5


@pytest.mark.parametrize(
    ("problem", "optimizer", "rule"),
    [
        (PROBLEM, MomentumSGD(0.1, 0.5), "no momentum"),
        (Quadratic([1.0, 2.0], [1.0, 0.0]), MomentumSGD(0.1), "definite C"),
    ],
)
def test_what_a_diagonal_search_refuses(problem, optimizer, rule):
    with pytest.raises(ValueError, match=rule):
        optimal_diagonal_preconditioner(problem, optimizer, 1.0)
