"""Adaptive optimizers: the frozen law against a Lyapunov equation, the fixed point against its definition."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from theory.closed_form.adaptive import (
    adaptive_covariance,
    bias_corrected_rates,
    frozen_adaptive_covariance,
    preconditioned_problem,
)
from theory.closed_form.stationary import stationary_covariance
from theory.model.adaptive import Adam, RMSprop
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError

SCALE = np.array([2.0, 0.7, 0.3])
OPTIMIZERS = [
    Adam(learning_rate=0.2),
    Adam(learning_rate=0.2, weight_decay=0.3),
    Adam(learning_rate=0.2, weight_decay=0.3, decoupled_weight_decay=True),
    Adam(learning_rate=0.2, beta1=0.0),
    RMSprop(learning_rate=0.1),
    RMSprop(learning_rate=0.1, momentum=0.8, weight_decay=0.2),
]


def _problem() -> Quadratic:
    rng = np.random.default_rng(4)
    matrices = []
    for spectrum in ((0.2, 1.0, 3.0), (0.3, 1.0, 2.0)):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        matrix = (turn * np.array(spectrum)) @ turn.T
        matrices.append(0.5 * (matrix + matrix.T))
    return Quadratic(*matrices)


def _linear_update(optimizer, problem, scale, weights, buffer, noise):
    """One step with the preconditioner frozen, on arrays whose columns are inputs."""
    gradient = problem.dense_hessian() @ weights + noise
    if isinstance(optimizer, RMSprop):
        gradient = gradient + optimizer.weight_decay * weights
        buffer = optimizer.momentum * buffer + scale[:, None] * gradient
        return weights - optimizer.learning_rate * buffer, buffer
    if optimizer.decoupled_weight_decay:
        weights = weights * (1 - optimizer.learning_rate * optimizer.weight_decay)
    else:
        gradient = gradient + optimizer.weight_decay * weights
    buffer = optimizer.beta1 * buffer + (1 - optimizer.beta1) * gradient
    return weights - optimizer.learning_rate * scale[:, None] * buffer, buffer


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_the_frozen_law_solves_the_lyapunov_equation_of_the_update(optimizer):
    problem, inputs = _problem(), np.eye(9)
    weights, buffer = _linear_update(optimizer, problem, SCALE, inputs[:3], inputs[3:6], inputs[6:])
    state = np.concatenate([weights, buffer])
    move, push = state[:, :6], state[:, 6:]
    exact = solve_discrete_lyapunov(move, push @ problem.dense_noise_cov() @ push.T)[:3, :3]
    np.testing.assert_allclose(frozen_adaptive_covariance(problem, optimizer, SCALE), exact, rtol=1e-10)


def test_a_unit_preconditioner_is_momentum_sgd():
    problem = _problem()
    found = frozen_adaptive_covariance(problem, RMSprop(learning_rate=0.1, momentum=0.8), np.ones(3))
    np.testing.assert_allclose(found, stationary_covariance(problem, MomentumSGD(0.1, 0.8)).require(), rtol=1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("optimum", [None, np.array([1.0, -2.0, 0.5])])
def test_the_fixed_point_is_the_second_moment_of_its_own_gradient(optimizer, optimum):
    problem = _problem()
    law = adaptive_covariance(replace(problem, optimum=optimum), optimizer)
    hessian, target = problem.dense_hessian(), np.zeros(3) if optimum is None else optimum
    decay = optimizer.weight_decay
    decoupled = isinstance(optimizer, Adam) and optimizer.decoupled_weight_decay
    scale = 1 / (np.sqrt(law.second_moment) + optimizer.epsilon)
    np.testing.assert_allclose(scale, law.preconditioner, rtol=1e-12)
    # the mean does not move
    gradient = hessian @ (law.mean - target) + (0 if decoupled else decay * law.mean)
    moved = scale * gradient + (decay * law.mean if decoupled else 0)
    np.testing.assert_allclose(moved, 0, atol=1e-12)
    seen = hessian if decoupled else hessian + decay * np.eye(3)
    inputs = np.eye(9)
    weights, buffer = _linear_update(optimizer, problem, scale, inputs[:3], inputs[3:6], inputs[6:])
    state = np.concatenate([weights, buffer])
    move, push = state[:, :6], state[:, 6:]
    cov = solve_discrete_lyapunov(move, push @ problem.dense_noise_cov() @ push.T)[:3, :3]
    second = np.diag(seen @ cov @ seen) + np.diag(problem.dense_noise_cov()) + gradient**2
    np.testing.assert_allclose(law.second_moment, second, rtol=1e-10)


def test_a_fixed_point_is_found_where_the_noise_alone_would_be_unstable():
    """Little noise makes D large; the weights' own motion then fills g² until the recursion is stable."""
    problem = Quadratic(np.array([1.0]), np.array([1e-6]))
    optimizer = RMSprop(learning_rate=0.01)
    with pytest.raises(UnstableError):
        frozen_adaptive_covariance(problem, optimizer, 1 / np.sqrt(problem.noise_cov))
    law = adaptive_covariance(problem, optimizer)
    assert law.spectral_radius < 1 and law.residual <= 1e-12
    assert law.second_moment[0] == pytest.approx(law.covariance[0, 0] + 1e-6, rel=1e-10)


def test_adam_is_invariant_to_the_scale_of_the_loss():
    problem = _problem()
    optimizer = Adam(learning_rate=0.1, epsilon=0.0)
    scaled = Quadratic(100 * problem.hessian, 10**4 * problem.noise_cov)
    np.testing.assert_allclose(
        adaptive_covariance(scaled, optimizer).covariance,
        adaptive_covariance(problem, optimizer).covariance,
        rtol=1e-10,
    )


def test_bias_correction_is_a_learning_rate_path():
    rates = bias_corrected_rates(Adam(beta1=0.9), np.full(200, 0.01))
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.01, rel=1e-8)
    np.testing.assert_array_equal(bias_corrected_rates(Adam(beta1=0.0), np.full(3, 0.01)), np.full(3, 0.01))


def test_decoupled_decay_is_heavy_ball_with_less_momentum():
    _, sgd = preconditioned_problem(_problem(), OPTIMIZERS[2], SCALE)
    assert sgd.momentum == pytest.approx(0.9 * (1 - 0.2 * 0.3)) and sgd.learning_rate == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Adam(learning_rate=0.0), "learning_rate"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=-0.1), "beta2"),
        (lambda: Adam(epsilon=-1.0), "epsilon"),
        (lambda: Adam(learning_rate=1.0, weight_decay=1.0, decoupled_weight_decay=True), "weight_decay"),
        (lambda: RMSprop(smoothing=1.0), "smoothing"),
        (lambda: frozen_adaptive_covariance(_problem(), Adam(), np.array([1.0, -1.0, 1.0])), "preconditioner"),
        (lambda: frozen_adaptive_covariance(_problem(), Adam(), np.ones(2)), "preconditioner"),
        (lambda: adaptive_covariance(Quadratic(np.ones(2), np.array([1.0, 0.0])), Adam()), "noise along every axis"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()
