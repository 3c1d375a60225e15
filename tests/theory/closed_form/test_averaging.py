"""Iterate averaging: closed forms against Lyapunov equations with the average in the state, and their limits."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from tests.oracles import relative
from theory.closed_form.averaging import averaged_covariance, ema_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.dense import averaged, settled
from theory.oracle.transition import transition
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


def _cycle_oracle(problem, optimizer, rates):
    steps = [transition(problem, replace(optimizer, learning_rate=float(rate)), np.longdouble) for rate in rates]
    n = 2 * problem.dimension
    through, thrown = np.eye(n, dtype=np.longdouble), np.zeros((n, n), dtype=np.longdouble)
    for step, inflow in steps:
        through, thrown = step @ through, step @ thrown @ step.T + inflow @ problem.dense_noise_cov() @ inflow.T
    return steps, through, thrown


@pytest.mark.parametrize("samples", [1, 2, 7, 40])
@pytest.mark.parametrize("cycle", [[0.1], [0.05, 0.04, 0.03], list(np.linspace(0.05, 0.005, 25))])
@pytest.mark.parametrize(
    "optimizer",
    [
        MomentumSGD(0.1, 0.9),
        MomentumSGD(0.1, 0.9, form="position"),
        MomentumSGD(0.1, 0.9, dampening=0.9, discount=0.7, weight_decay=0.1),
        MomentumSGD(0.1),
    ],
    ids=repr,
)
def test_averages_over_cycles_agree_with_the_dense_recursion(optimizer, cycle, samples):
    problem = Quadratic.from_spectra([0.1, 0.7, 4.0], [1.0, 0.3, 2.0], rotation=0.5)
    steps, through, thrown = _cycle_oracle(problem, optimizer, cycle)
    burnt_in = settled(0.5 * through, thrown).astype(float)  # any law will do
    starts = {"stationary": settled(through, thrown), "optimum": np.zeros((6, 6)), "given": burnt_in}
    for name, start in starts.items():
        found = averaged_covariance(
            problem, optimizer, samples, cycle=cycle, start=burnt_in if name == "given" else name
        )
        assert relative(found, averaged(steps, problem.dense_noise_cov(), start, samples, 3)) < 1e-12


def test_a_cycle_of_one_step_is_the_mean_of_all_iterates():
    problem = Quadratic.from_spectra([0.1, 4.0], [1.0, 2.0], rotation=0.5)
    optimizer = MomentumSGD(0.1, 0.9)
    assert relative(
        averaged_covariance(problem, optimizer, 30, cycle=[0.1]), averaged_covariance(problem, optimizer, 30)
    ) < 1e-13  # fmt: skip


def test_samples_of_long_cycles_average_like_independent_draws():
    problem = Quadratic.from_spectra([1.0, 4.0], [1.0, 2.0], rotation=0.5)
    optimizer = MomentumSGD(0.05, 0.5)
    law = stationary_covariance(problem, optimizer).value
    assert relative(averaged_covariance(problem, optimizer, 5, cycle=[0.05] * 2000), law / 5) < 1e-12


def test_a_cycle_of_stable_rates_may_be_unstable():
    """Parametric resonance: restarts in step with a direction's oscillation pump it, in either form of momentum."""
    problem, optimizer = Quadratic(np.array([5.0]), np.array([1.0])), MomentumSGD(0.08, 0.9)
    cycle = np.linspace(0.08, 0.01, 7)
    _, through, _ = _cycle_oracle(problem, optimizer, cycle)
    assert np.abs(np.linalg.eigvals(through.astype(float))).max() > 1
    for form in ("pytorch", "position"):
        with pytest.raises(UnstableError, match="a cycle"):
            averaged_covariance(problem, replace(optimizer, form=form), 3, cycle=cycle)
        assert averaged_covariance(problem, replace(optimizer, form=form), 3, cycle=np.full(7, 0.08))[0, 0] > 0


def test_a_cycle_must_be_made_of_rates():
    with pytest.raises(ValueError, match="learning rates > 0"):
        averaged_covariance(Quadratic([1.0], [1.0]), MomentumSGD(0.1), 3, cycle=[0.1, -0.1])
    with pytest.raises(ValueError, match="must have shape"):
        averaged_covariance(Quadratic([1.0], [1.0]), MomentumSGD(0.1), 3, start=np.eye(3))
