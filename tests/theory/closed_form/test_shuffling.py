"""Shuffled epochs: the closed forms against block Lyapunov equations, extended precision and the published numbers."""

import mpmath
import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from theory.closed_form.shuffling import epoch_shuffling_factor, shuffled_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError


def _step(optimizer: MomentumSGD, hessian, weights, buffer, noise):
    """One update, written out."""
    gradient = hessian @ weights + optimizer.weight_decay * weights + noise
    kept = (1 - optimizer.dampening) * gradient
    if optimizer.form == "position":
        buffer = optimizer.momentum * buffer - optimizer.learning_rate * kept
        return weights + buffer, buffer
    buffer = optimizer.momentum * buffer + kept
    direction = gradient + optimizer.momentum * buffer if optimizer.nesterov else buffer
    return weights - optimizer.learning_rate * direction, buffer


def _epoch_law(problem: Quadratic, optimizer: MomentumSGD, batches: int, correlation: float):
    """Covariances of w after t = 0 … M steps: the whole epoch as one linear map of the state and M noises."""
    size, hessian = problem.dimension, problem.dense_hessian()
    inputs = np.eye(2 * size + batches * size)
    weights, buffer, states = inputs[:size], inputs[size : 2 * size], []
    for step in range(batches + 1):
        states.append(np.concatenate([weights, buffer]))
        if step < batches:
            noise = inputs[(2 + step) * size : (3 + step) * size]
            weights, buffer = _step(optimizer, hessian, weights, buffer, noise)
    shared = (1 - correlation) * np.eye(batches) + correlation
    noise_cov = np.kron(shared, problem.dense_noise_cov())
    through, driven = states[-1][:, : 2 * size], states[-1][:, 2 * size :]
    start = solve_discrete_lyapunov(through, driven @ noise_cov @ driven.T)
    laws = []
    for state in states:
        a, b = state[:size, : 2 * size], state[:size, 2 * size :]
        laws.append(a @ start @ a.T + b @ noise_cov @ b.T)
    return laws


OPTIMIZERS = [
    MomentumSGD(0.1),
    MomentumSGD(0.1, 0.9),
    MomentumSGD(0.1, 0.9, nesterov=True),
    MomentumSGD(0.1, 0.8, form="position", weight_decay=0.05),
    MomentumSGD(0.2, 0.5, dampening=0.3),
]


def _problem() -> Quadratic:
    rng = np.random.default_rng(5)
    matrices = []
    for spectrum in ((0.2, 1.0, 4.0), (0.3, 1.0, 2.0)):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        matrix = (turn * np.array(spectrum)) @ turn.T
        matrices.append(0.5 * (matrix + matrix.T))
    return Quadratic(*matrices)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("correlation", [None, -0.05, 0.0, 0.3])
def test_every_phase_solves_the_epoch_as_one_linear_map(optimizer, correlation):
    problem, batches = _problem(), 7
    used = -1 / 6 if correlation is None else correlation
    laws = _epoch_law(problem, optimizer, batches, used)
    for phase, index in [("end", 0), ("end", 7), (0, 0), (1, 1), (4, 4), (7, 7)]:
        found = shuffled_covariance(
            problem, optimizer, batches_per_epoch=batches, phase=phase, within_epoch_correlation=correlation
        )
        np.testing.assert_allclose(found, laws[index], rtol=1e-9, atol=1e-11 * np.abs(laws[index]).max())
    found = shuffled_covariance(
        problem, optimizer, batches_per_epoch=batches, phase="mean", within_epoch_correlation=correlation
    )
    np.testing.assert_allclose(found, np.mean(laws[:-1], axis=0), rtol=1e-9, atol=1e-12)


def test_without_correlation_shuffling_changes_nothing():
    problem, optimizer = _problem(), MomentumSGD(0.1, 0.9)
    white = stationary_covariance(problem, optimizer).require()
    for phase in ("end", 3, "mean"):
        found = shuffled_covariance(problem, optimizer, batches_per_epoch=9, phase=phase, within_epoch_correlation=0.0)
        np.testing.assert_allclose(found, white, rtol=1e-11)


def test_the_reference_numbers():
    """docs/mathematics.md (N2) and the measured reference values."""
    assert epoch_shuffling_factor(0.01, 0.9, 0.01, 391) == pytest.approx(0.0155, abs=5e-5)
    assert epoch_shuffling_factor(0.01, 0.9, 0.01, 391, "mean") == pytest.approx(0.1117, abs=5e-5)
    assert epoch_shuffling_factor(0.01, 0.9, 0.01, 391, 195) == pytest.approx(0.166, abs=5e-4)
    assert epoch_shuffling_factor(0.1, 0.5, 0.1, 10, "mean") == pytest.approx(0.0501, abs=5e-5)
    table = {(0.1, 0.001): 0.11, (0.1, 0.01): 0.61, (0.1, 0.1): 0.95, (0.001, 0.1): 0.11, (0.001, 1.0): 0.61}
    for (learning_rate, curvature), factor in table.items():
        assert epoch_shuffling_factor(learning_rate, 0.9, curvature, 391, "mean") == pytest.approx(factor, abs=6e-3)


def test_the_autocorrelation_sum_is_the_phase_average_of_the_cycle():
    for learning_rate, momentum, curvature, batches in [(0.1, 0.9, 0.3, 11), (0.5, 0.0, 1.0, 4), (0.2, 0.5, 14.0, 6)]:
        phases = [epoch_shuffling_factor(learning_rate, momentum, curvature, batches, step) for step in range(batches)]
        mean = epoch_shuffling_factor(learning_rate, momentum, curvature, batches, "mean")
        assert np.mean(phases) == pytest.approx(float(mean), rel=1e-11)


@pytest.mark.parametrize("scaled", [1e-12, 1e-8, 1e-4, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_small_steps_keep_their_digits(scaled, momentum):
    """The phase average in 60-digit arithmetic: the naive 1 + 2 Σ c_h ρ_h would lose log10(1/a) digits."""
    batches = 50
    with mpmath.workdps(60):
        mu, a = mpmath.mpf(momentum), mpmath.mpf(scaled)
        before, now = mpmath.mpf(1), (1 + mu - a) / (1 + mu)
        total = mpmath.mpf(1)
        for lag in range(1, batches):
            total -= 2 * mpmath.mpf(batches - lag) / (batches * (batches - 1)) * now
            before, now = now, (1 + mu - a) * now - mu * before
        exact = float(total)
    assert epoch_shuffling_factor(1.0, momentum, scaled, batches, "mean") == pytest.approx(exact, rel=1e-12)
    phases = [epoch_shuffling_factor(1.0, momentum, scaled, batches, step) for step in range(batches)]
    assert np.mean(phases) == pytest.approx(exact, rel=1e-9)


def test_a_number_gives_a_number_and_an_array_its_shape():
    assert isinstance(epoch_shuffling_factor(0.01, 0.9, 0.01, 391), float)
    curvature = np.array([[0.01, 0.1], [1.0, 10.0]])
    found = epoch_shuffling_factor(0.01, 0.9, curvature, 391, "mean")
    assert found.shape == (2, 2) and found[0, 0] == epoch_shuffling_factor(0.01, 0.9, 0.01, 391, "mean")
    shares = epoch_shuffling_factor(0.01, 0.9, np.array([0.01, 0.01]), 391, repeated_share=np.array([1.0, 0.5]))
    assert shares[1] == 1 - 0.5 * (1 - shares[0])
    with pytest.raises(ValueError, match="repeated_share"):
        epoch_shuffling_factor(0.01, 0.9, np.array([0.01, 0.01]), 391, repeated_share=np.ones(3))


def test_fresh_noise_moves_the_factor_towards_one():
    full = epoch_shuffling_factor(0.01, 0.9, np.array([0.01, 1.0]), 391)
    half = epoch_shuffling_factor(0.01, 0.9, np.array([0.01, 1.0]), 391, repeated_share=0.5)
    np.testing.assert_allclose(half, 1 - 0.5 * (1 - full))
    np.testing.assert_allclose(epoch_shuffling_factor(0.01, 0.9, np.array([0.01, 1.0]), 391, repeated_share=0.0), 1.0)


def test_stiff_directions_forget_the_epoch():
    assert epoch_shuffling_factor(1.0, 0.0, 1.0, 100_000, "mean") == pytest.approx(1.0, abs=2e-5)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((0.1, 0.9, 0.1, 1), "batches_per_epoch"),
        ((0.1, 0.9, 0.1, 2.5), "batches_per_epoch"),
        ((0.1, 0.9, 0.1, 10, 11), "phase"),
        ((0.1, 0.9, 0.1, 10, "middle"), "phase"),
        ((0.1, 0.9, 0.1, 10, -1), "phase"),
        ((0.1, 0.9, 0.1, 10, "end", 1.5), "repeated_share"),
        ((-0.1, 0.9, 0.1, 10), "learning_rate"),
        ((0.1, 1.0, 0.1, 10), "momentum"),
        ((0.1, 0.9, -0.1, 10), "weight_decay.*not pulled back"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        epoch_shuffling_factor(*arguments)


def test_unstable_input_is_refused():
    with pytest.raises(UnstableError):
        epoch_shuffling_factor(1.0, 0.9, 3.9, 10)
    with pytest.raises(ValueError, match="within_epoch_correlation"):
        shuffled_covariance(_problem(), MomentumSGD(0.1), batches_per_epoch=5, within_epoch_correlation=-0.3)
