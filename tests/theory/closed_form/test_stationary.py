"""(S1), (S2), (S3) against other algorithms, the defining equation, symmetries and limits."""

from __future__ import annotations

from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import relative, stationary_pair_mp
from tests.theory.strategies import edge, optimizers, problems, rotation
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.stability import largest_stable_learning_rate, modes
from theory.closed_form.stationary import (
    fluctuation_dissipation_constant,
    increment_covariance,
    lag_one_covariance,
    stationary_covariance,
    stationary_variance,
)
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.transition import transition
from theory.solution import Status, UnstableError

UNIT = np.finfo(float).eps / 2


@st.composite
def cases(draw, **kinds):
    optimizer = draw(optimizers())
    return draw(problems(optimizer, **kinds)), optimizer


@pytest.mark.parametrize("method", ["direct", "bilinear", "slycot", "doubling"])
@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_the_state_covariance_agrees_with_every_oracle(method, case):
    if method == "slycot":
        pytest.importorskip("slycot")
    problem, optimizer = case
    found = stationary_covariance(problem, optimizer)
    oracle = lyapunov_covariance(problem, optimizer, method)
    if oracle.status is Status.FAILED:  # reported, not hidden: SLICOT refuses reciprocal eigenvalues
        assert method == "slycot" and oracle.value is None
        return
    allowed = found.error_bound + oracle.error_bound
    scale = np.sqrt(np.outer(np.diag(oracle.state()), np.diag(oracle.state())))
    assert relative(found.state(), oracle.state()) <= allowed
    assert np.all(np.abs(found.state() - oracle.state()) <= np.sqrt(allowed) * scale + allowed * scale.max())


@settings(deadline=None, max_examples=100)
@given(case=cases(closest=1e-6, max_condition=1e2, max_dimension=4))
def test_near_the_edge_the_error_obeys_its_bound(case):
    problem, optimizer = case
    found = stationary_covariance(problem, optimizer)
    oracle = lyapunov_covariance(problem, optimizer, "doubling")
    assert found.error_bound <= 1e-7 / 1e-6 * 1e-3, "the bound itself must stay useful"
    assert relative(found.state(), oracle.state()) <= found.error_bound + oracle.error_bound


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_it_solves_the_defining_equation_and_is_a_covariance(case):
    problem, optimizer = case
    hessian, noise_cov = problem.dense_hessian(), problem.dense_noise_cov()
    solution = stationary_covariance(problem, optimizer)
    state = solution.state()
    step, inflow = transition(problem, optimizer)
    residual = step @ state @ step.T + inflow @ noise_cov @ inflow.T - state
    spectrum = np.linalg.eigvalsh(hessian)
    assert np.linalg.norm(residual) <= 1e3 * UNIT * np.linalg.norm(state) * spectrum[-1] / spectrum[0]
    assert np.array_equal(solution.value, solution.value.T)
    assert np.linalg.eigvalsh(state)[0] >= -solution.error_bound * np.linalg.norm(state)
    assert solution.relative_residual <= 1e-13
    assert np.array_equal(problem.dense_hessian(), hessian) and np.array_equal(problem.dense_noise_cov(), noise_cov)
    again = stationary_covariance(problem, optimizer)
    assert np.array_equal(again.state(), state)


@settings(deadline=None, max_examples=100)
@given(case=cases(dense=False), scale=st.sampled_from([2.0**-20, 0.5, 4096.0]))
def test_scaling_laws(case, scale):
    problem, optimizer = case
    base = stationary_covariance(problem, optimizer).value
    louder = stationary_covariance(Quadratic(problem.hessian, scale * problem.noise_cov), optimizer).value
    rounding = 1e-13 * np.abs(base).max()  # a degenerate eigenspace is resolved anew, to rounding
    assert np.allclose(louder / scale, base, rtol=1e-12, atol=rounding)
    # Σ(η, H, C) with η → η/s, H → sH is Σ(η, H, C)/s²: only ηH and ηξ matter.
    slower = replace(
        optimizer, learning_rate=optimizer.learning_rate / scale, weight_decay=optimizer.weight_decay * scale
    )
    moved = stationary_covariance(Quadratic(scale * problem.hessian, problem.noise_cov), slower).value
    assert np.allclose(moved * scale**2, base, rtol=1e-12, atol=rounding)


@settings(deadline=None, max_examples=60)
@given(case=cases(), seed=st.integers(0, 999))
def test_it_turns_with_the_coordinates(case, seed):
    problem, optimizer = case
    turn = rotation(problem.dimension, seed)

    def turned(matrix):
        matrix = turn @ matrix @ turn.T
        return 0.5 * (matrix + matrix.T)

    base = stationary_covariance(problem, optimizer)
    other = Quadratic(turned(problem.dense_hessian()), turned(problem.dense_noise_cov()))
    found = stationary_covariance(other, optimizer)
    assert relative(found.value, turn @ base.value @ turn.T) <= 2 * base.error_bound


@settings(deadline=None, max_examples=60)
@given(case=cases(dense=False), data=st.data())
def test_it_permutes_with_the_weights(case, data):
    problem, optimizer = case
    order = np.array(data.draw(st.permutations(range(problem.dimension))))
    base = stationary_covariance(problem, optimizer).value
    other = Quadratic(problem.hessian[order], problem.noise_cov[np.ix_(order, order)])
    found = stationary_covariance(other, optimizer).value
    assert np.allclose(found, base[np.ix_(order, order)], rtol=1e-9, atol=1e-9 * np.abs(base).max())


@settings(deadline=None, max_examples=100)
@given(case=cases(dense=False))
def test_the_diagonal_obeys_s1_without_commutation(case):
    problem, optimizer = case
    frame = eigenbasis(problem)
    inside = np.diag(frame.inward(stationary_covariance(problem, optimizer).value))
    assert np.allclose(stationary_variance(problem, optimizer), inside, rtol=1e-10, atol=1e-10 * inside.max())


def test_s1_is_the_papers_formula_for_heavy_ball():
    eta, mu = 0.1, 0.9
    curvatures, gamma = np.array([0.3, 4.0, 30.0]), np.array([2.0, 0.5, 7.0])
    expected = eta * gamma * (1 + mu) / (curvatures * (1 - mu) * (2 * (1 + mu) - eta * curvatures))
    found = stationary_variance(Quadratic(curvatures, gamma), MomentumSGD(eta, mu))
    assert np.allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("rates", "optimizer"),
    [
        ((1e-8, 3e-8), MomentumSGD(1.0, 0.9)),
        ((1e-8, 1.7), MomentumSGD(1.0, 1 - 1e-6)),
        ((0.3, 0.300001), MomentumSGD(1.0, 1 - 1e-6)),
        ((1e-3, 2.0), MomentumSGD(1.0, 1 - 2**-20, form="position")),
        ((1e-8, 1.1), MomentumSGD(1.0, 0.9, nesterov=True)),
        ((1e-4, 0.9), MomentumSGD(1.0, 1 - 1e-6, nesterov=True)),
        ((0.5, 0.5), MomentumSGD(1.0, 0.0)),
        ((1e-6, 3.0), MomentumSGD(1.0, 0.5, dampening=0.25)),
    ],
)
def test_spectral_input_is_exact_to_1e_13_against_fifty_digits(rates, optimizer):
    noise = np.array([[1.0, 0.6], [0.6, 2.0]])
    solution = stationary_covariance(Quadratic(np.array(rates), noise), optimizer)
    for i in range(2):
        for j in range(2):
            exact = stationary_pair_mp((rates[i], rates[j]), noise[i, j], optimizer)
            blocks = (solution.value, solution.cross, solution.cross.T, solution.velocity)
            for block, (a, b) in zip(blocks, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
                assert abs(mpmath.mpf(block[i, j]) / exact[a, b] - 1) < 1e-13, (i, j, a, b)


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_lag_one_and_increments_follow_from_the_transition(case):
    problem, optimizer = case
    m = problem.dimension
    solution = stationary_covariance(problem, optimizer)
    step, _ = transition(problem, optimizer)
    lag = (step @ solution.state())[:m, :m]
    size = np.linalg.norm(solution.value)
    allowed = solution.error_bound * size
    assert np.linalg.norm(lag_one_covariance(problem, optimizer) - lag) <= allowed
    increments = increment_covariance(problem, optimizer)
    assert np.linalg.norm(increments - (2 * solution.value - lag - lag.T)) <= 4 * allowed


@settings(deadline=None, max_examples=100)
@given(case=cases(dense=False))
def test_fluctuation_balances_dissipation(case):
    problem, optimizer = case
    frame = eigenbasis(problem)
    a = modes(frame.curvatures, optimizer).effective_rate
    weights = frame.inward(stationary_covariance(problem, optimizer).value)
    increments = frame.inward(increment_covariance(problem, optimizer))
    constant = fluctuation_dissipation_constant(frame.curvatures, optimizer)
    gap = (a[:, None] + a) * weights - constant * increments
    assert np.abs(gap).max() <= 1e-10 * np.abs(constant * increments).max()
    if optimizer.direction[0] == 0:
        assert np.allclose(constant, 1 + optimizer.momentum, rtol=1e-12)
    elif optimizer.nesterov:
        mu = optimizer.momentum
        expected = (1 + mu + a * mu * (1 + 2 * mu)) / (1 + 2 * mu - 2 * mu**3 + a * mu * (1 + mu) * (1 + 2 * mu))
        assert np.allclose(np.diag(constant), expected, rtol=1e-10)


def test_limits_without_momentum_and_at_small_steps_and_without_noise():
    hessian = rotation(4, 1) @ np.diag([0.2, 0.5, 1.0, 1.5]) @ rotation(4, 1).T
    hessian = 0.5 * (hessian + hessian.T)
    noise = np.diag([1.0, 2.0, 0.5, 3.0])
    problem = Quadratic(hessian, noise)
    plain = stationary_covariance(problem, MomentumSGD(0.7)).value
    balance = hessian @ plain + plain @ hessian - 0.7 * hessian @ plain @ hessian
    assert np.allclose(balance, 0.7 * noise, atol=1e-13)
    eta = 1e-9
    small = stationary_covariance(problem, MomentumSGD(eta, 0.9)).value
    assert np.allclose(hessian @ small + small @ hessian, eta / (1 - 0.9) * noise, rtol=1e-6, atol=1e-15)
    silent = stationary_covariance(Quadratic(hessian, np.zeros((4, 4))), MomentumSGD(0.1, 0.9))
    assert not silent.value.any() and silent.relative_residual == 0


def test_degenerate_curvature_is_resolved_by_the_noise():
    noise = rotation(3, 5) @ np.diag([1.0, 2.0, 3.0]) @ rotation(3, 5).T
    frame = eigenbasis(Quadratic(np.eye(3), 0.5 * (noise + noise.T)))
    assert np.allclose(frame.noise, np.diag([1.0, 2.0, 3.0]), atol=1e-13)
    assert np.allclose(frame.basis.T @ frame.basis, np.eye(3), atol=1e-14)


@pytest.mark.parametrize(
    "optimizer",
    [
        MomentumSGD(1.0, 0.9),
        MomentumSGD(1.0, 0.9, nesterov=True),
        MomentumSGD(1.0, 0.5, dampening=0.5, weight_decay=0.25),
        MomentumSGD(1.0, 0.0),
    ],
)
def test_instability_is_refused_by_name_with_the_limit(optimizer):
    limit = edge(optimizer) - optimizer.weight_decay
    assert largest_stable_learning_rate(limit, optimizer) == pytest.approx(1.0, rel=1e-12)
    stable = Quadratic(np.array([0.1, limit * (1 - 1e-6)]), np.ones(2))
    assert stationary_covariance(stable, optimizer).spectral_radius < 1
    assert lyapunov_covariance(stable, optimizer, "direct").spectral_radius < 1
    broken = Quadratic(np.array([0.1, limit * (1 + 1e-6)]), np.ones(2))
    with pytest.raises(UnstableError, match=r"learning_rate=.*mode 1 .*spectral radius 1\."):
        stationary_covariance(broken, optimizer)
    assert lyapunov_covariance(broken, optimizer, "direct").status is Status.UNSTABLE
