"""Iterate averaging: closed forms against Lyapunov equations with the average in the state, and their limits."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from theory.closed_form.averaging import averaged_covariance, ema_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError

OPTIMIZERS = [
    MomentumSGD(0.1),
    MomentumSGD(0.1, 0.9),
    MomentumSGD(0.1, 0.8, nesterov=True),
    MomentumSGD(0.1, 0.8, form="position", weight_decay=0.1),
    MomentumSGD(0.2, 0.5, dampening=0.4),
]


def _problem() -> Quadratic:
    rng = np.random.default_rng(8)
    matrices = []
    for spectrum in ((0.2, 1.0, 4.0), (0.3, 1.0, 2.0)):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        matrix = (turn * np.array(spectrum)) @ turn.T
        matrices.append(0.5 * (matrix + matrix.T))
    return Quadratic(*matrices)


def _matrices(problem: Quadratic, optimizer: MomentumSGD):
    """Dense transition of (w, v) and noise input, by the update written on block matrices."""
    size = problem.dimension
    one, zero = np.eye(size), np.zeros((size, size))
    hessian = problem.dense_hessian() + optimizer.weight_decay * one
    eta, mu, kept = optimizer.learning_rate, optimizer.momentum, 1 - optimizer.dampening
    if optimizer.form == "position":
        v = np.hstack([-kept * eta * hessian, mu * one]), -kept * eta * one
        w = np.hstack([one, zero]) + v[0], v[1]
    else:
        v = np.hstack([kept * hessian, mu * one]), kept * one
        step = v
        if optimizer.nesterov:
            step = np.hstack([hessian, zero]) + mu * v[0], one + mu * v[1]
        w = np.hstack([one, zero]) - eta * step[0], -eta * step[1]
    return np.vstack([w[0], v[0]]), np.vstack([w[1], v[1]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_exponential_average_solves_the_augmented_lyapunov_equation(optimizer, decay):
    problem = _problem()
    move, push = _matrices(problem, optimizer)
    bigger = np.zeros((9, 9))
    bigger[:6, :6], bigger[6:, :6], bigger[6:, 6:] = move, (1 - decay) * move[:3], decay * np.eye(3)
    drive = np.vstack([push, (1 - decay) * push[:3]])
    exact = solve_discrete_lyapunov(bigger, drive @ problem.dense_noise_cov() @ drive.T)[6:, 6:]
    np.testing.assert_allclose(ema_covariance(problem, optimizer, decay), exact, rtol=1e-10, atol=1e-13)
    settled = ema_covariance(problem, optimizer, decay, steps=20_000, start="optimum")
    np.testing.assert_allclose(settled, exact, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
@pytest.mark.parametrize("start", ["stationary", "optimum"])
def test_averages_equal_the_recursion_step_by_step(optimizer, steps, start):
    problem = _problem()
    move, push = _matrices(problem, optimizer)
    noise = push @ problem.dense_noise_cov() @ push.T
    state = solve_discrete_lyapunov(move, noise) if start == "stationary" else np.zeros((6, 6))
    for keep, gain, found in (
        (1.0, 1.0, steps**2 * averaged_covariance(problem, optimizer, steps, start=start)),
        (0.7, 0.3, ema_covariance(problem, optimizer, 0.7, steps=steps, start=start)),
    ):
        bigger = np.zeros((9, 9))
        bigger[:6, :6], bigger[6:, :6], bigger[6:, 6:] = move, gain * move[:3], keep * np.eye(3)
        drive = np.vstack([push, gain * push[:3]])
        law = np.zeros((9, 9))
        law[:6, :6] = state
        if keep < 1:
            law[6:, :6], law[:6, 6:], law[6:, 6:] = state[:3], state[:, :3], state[:3, :3]
        for _ in range(steps):
            law = bigger @ law @ bigger.T + drive @ problem.dense_noise_cov() @ drive.T
        np.testing.assert_allclose(found, law[6:, 6:], rtol=1e-10, atol=1e-12)


def test_one_mode_is_the_generating_function_of_its_autocorrelations():
    eta, mu, beta, lam = 0.1, 0.8, 0.9, 0.7
    variance = eta * (1 + mu) / (lam * (1 - mu) * (2 * (1 + mu) - eta * lam))
    phi = 1 + mu - eta * lam
    rho = [1.0, phi / (1 + mu)]
    while len(rho) < 3000:
        rho.append(phi * rho[-1] - mu * rho[-2])
    total = 1 + 2 * sum(beta**h * r for h, r in enumerate(rho) if h)
    found = ema_covariance(Quadratic(np.array([lam]), np.ones(1)), MomentumSGD(eta, mu), beta)
    assert found[0, 0] == pytest.approx(variance * (1 - beta) / (1 + beta) * total, rel=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_long_averages_reach_polyak_and_juditsky_whatever_the_optimizer(optimizer):
    problem, steps = _problem(), 10**9
    inverse = np.linalg.inv(problem.dense_hessian() + optimizer.weight_decay * np.eye(3))
    limit = inverse @ problem.dense_noise_cov() @ inverse
    found = steps * averaged_covariance(problem, optimizer, steps)
    np.testing.assert_allclose(found, limit, atol=1e-6 * np.abs(limit).max())  # what is left is O(1/T)


def test_no_average_is_no_change():
    problem, optimizer = _problem(), MomentumSGD(0.1, 0.9)
    law = stationary_covariance(problem, optimizer).require()
    np.testing.assert_allclose(ema_covariance(problem, optimizer, 0.0), law, rtol=1e-12)
    np.testing.assert_allclose(averaged_covariance(problem, optimizer, 1), law, rtol=1e-12)


def test_bad_arguments_are_named():
    problem, optimizer = _problem(), MomentumSGD(0.1)
    with pytest.raises(ValueError, match="decay"):
        ema_covariance(problem, optimizer, 1.0)
    with pytest.raises(ValueError, match="steps"):
        averaged_covariance(problem, optimizer, 0)
    with pytest.raises(ValueError, match="start"):
        averaged_covariance(problem, optimizer, 3, start="anywhere")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnstableError):
        ema_covariance(problem, MomentumSGD(1.0), 0.5)
