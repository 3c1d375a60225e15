"""Quasi-hyperbolic momentum: one law, of which heavy ball, Nesterov and plain SGD are points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles import relative, unrolled_covariance
from theory.closed_form.attribution import attribution
from theory.closed_form.pac_bayes import variance_elasticities
from theory.closed_form.propagate import propagate
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import (
    fluctuation_dissipation_constant,
    increment_covariance,
    lag_one_covariance,
    stationary_covariance,
    stationary_variance,
)
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.simulate import Segment, Simulation, impulse_response
from theory.oracle.transition import transition
from theory.oracle.update import momentum_update
from theory.solution import UnstableError

MU = 0.9
PROBLEM = Quadratic.from_spectra([0.05, 0.4, 3.0, 9.0], [1.0, 0.2, 3.0, 0.5], rotation=0.6)
SHAPES = [(0.9, 0.7), (0.9, 0.3), (0.5, 1.0), (0.99, 0.9), (0.9, 0.0)]


def qhm(learning_rate, discount, momentum=MU, **others):
    """Ma and Yarats's form: the buffer is an average."""
    return MomentumSGD(learning_rate, momentum, dampening=momentum, discount=discount, **others)


def states(problem, optimizer):
    return stationary_covariance(problem, optimizer).value


@pytest.mark.parametrize(("momentum", "discount"), SHAPES)
def test_the_law_agrees_with_the_dense_recursion(momentum, discount):
    optimizer = qhm(0.1, discount, momentum, weight_decay=0.02)
    found, oracle = stationary_covariance(PROBLEM, optimizer), lyapunov_covariance(PROBLEM, optimizer, "doubling")
    for block in ("value", "velocity", "cross"):
        assert relative(getattr(found, block), getattr(oracle, block)) < 1e-12
    assert found.relative_residual < 1e-13
    assert relative(stationary_variance(PROBLEM, optimizer), np.diag(oracle.value)) < 1e-12
    step, _ = transition(PROBLEM, optimizer)
    lagged = (step @ oracle.state())[:4, :4]
    assert relative(lag_one_covariance(PROBLEM, optimizer), lagged) < 1e-12
    increments = 2 * oracle.value - lagged - lagged.T
    assert relative(increment_covariance(PROBLEM, optimizer), increments) < 1e-10


def test_all_of_the_buffer_is_heavy_ball():
    assert np.array_equal(states(PROBLEM, qhm(0.1, 1.0)), states(PROBLEM, MomentumSGD(0.1, MU, dampening=MU)))
    assert relative(states(PROBLEM, qhm(0.1, 1.0)), states(PROBLEM, MomentumSGD(0.1 * (1 - MU), MU))) < 1e-14


def test_a_discount_equal_to_the_momentum_is_nesterov():
    nesterov = MomentumSGD((1 - MU) * 0.1, MU, nesterov=True)
    assert relative(states(PROBLEM, qhm(0.1, MU)), states(PROBLEM, nesterov)) < 1e-13


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.999])
def test_none_of_the_buffer_is_plain_sgd(momentum):
    assert relative(states(PROBLEM, qhm(0.1, 0.0, momentum)), states(PROBLEM, MomentumSGD(0.1))) < 1e-12


@pytest.mark.parametrize(("momentum", "discount"), SHAPES)
def test_the_edge_is_where_the_dense_recursion_turns(momentum, discount):
    optimizer = qhm(1.0, discount, momentum)
    limit = largest_stable_learning_rate(9.0, optimizer)
    assert limit == pytest.approx(2 * (1 + momentum) / (9.0 * (1 + momentum * (1 - 2 * discount))), rel=1e-14)
    radii = [
        np.abs(np.linalg.eigvals(transition(PROBLEM, replace(optimizer, learning_rate=eta))[0])).max()
        for eta in (limit * (1 - 1e-6), limit * (1 + 1e-6))
    ]
    assert radii[0] < 1 < radii[1]
    with pytest.raises(UnstableError, match="mode 3"):
        stationary_covariance(PROBLEM, replace(optimizer, learning_rate=limit * (1 + 1e-9)))


@pytest.mark.parametrize(("momentum", "discount"), SHAPES)
def test_the_fluctuation_dissipation_constant_is_that_of_the_dense_state(momentum, discount):
    optimizer = qhm(0.1, discount, momentum)
    state = lyapunov_covariance(PROBLEM, optimizer, "doubling").state()
    lagged = (transition(PROBLEM, optimizer)[0] @ state)[:4, :4]
    increments = 2 * state[:4, :4] - lagged - lagged.T
    gain = (1 - discount) * (1 - momentum) + discount * (1 - momentum)
    a = gain * 0.1 * PROBLEM.hessian
    constant = fluctuation_dissipation_constant(PROBLEM.hessian, optimizer)
    assert relative(constant, (a[:, None] + a) * state[:4, :4] / increments) < 1e-10
    ahead = (1 - discount) * momentum / gain
    spread = ahead * (1 + ahead)
    diagonal = (1 + momentum + ahead * (1 + 2 * ahead) * a) / (
        1 + 2 * spread * (1 - momentum) + spread * (1 + 2 * ahead) * a
    )
    assert np.allclose(np.diag(constant), diagonal, rtol=1e-12)


def test_transients_means_and_schedules_follow_the_literal_recursion():
    before, after = qhm(0.1, 0.7), qhm(0.02, 0.7)
    step, inflow = transition(PROBLEM, after, np.longdouble)
    forcing = inflow @ PROBLEM.noise_cov @ inflow.T
    state = lyapunov_covariance(PROBLEM, before, "doubling").state()
    power = np.linalg.matrix_power(step, 7)
    expected = power @ state @ power.T + unrolled_covariance(step, forcing, 7)
    assert relative(transient_covariance(PROBLEM, before, after, [7]).state()[0], expected) < 1e-12
    start = np.arange(8.0)
    assert relative(mean_path(PROBLEM, after, start, [7])[0], power @ start) < 1e-12
    rates = np.linspace(0.1, 0.01, 12)
    state = np.zeros((8, 8))
    for rate in rates:
        move, inflow = transition(PROBLEM, replace(after, learning_rate=float(rate)), np.longdouble)
        state = move @ state @ move.T + inflow @ PROBLEM.noise_cov @ inflow.T
    found = propagate(PROBLEM, after, Schedule.table(rates), 12, np.zeros((8, 8)))
    assert relative(found.value[-1], state[:4, :4]) < 1e-12


def test_the_simulator_and_the_written_update_take_the_same_step():
    optimizer = qhm(0.1, 0.7, weight_decay=0.1)
    setting = Simulation(
        problem=PROBLEM, segments=(Segment(optimizer=optimizer, steps=1),), replicas=1, record_times=(1,)
    )
    response = impulse_response(setting)
    step, inflow = transition(PROBLEM, optimizer)
    assert np.allclose(response.transition, step, atol=1e-14) and np.allclose(
        response.noise_input @ response.noise_input.T, inflow @ PROBLEM.noise_cov @ inflow.T, atol=1e-14
    )
    w, v = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.3, 0.1, -1.0, 2.0])
    moved = np.concatenate(momentum_update(optimizer, w, v, PROBLEM.hessian * w))
    assert np.allclose(moved, step @ np.concatenate([w, v]), atol=1e-14)


def test_elasticities_and_attribution_follow_the_variance():
    optimizer = qhm(0.1, 0.7, weight_decay=0.05)
    found = variance_elasticities(PROBLEM, optimizer)
    assert relative(found.variances, stationary_variance(PROBLEM, optimizer)) < 1e-13

    def log_variance(rate):
        return np.log(stationary_variance(PROBLEM, replace(optimizer, learning_rate=rate)))

    slope = (log_variance(0.1 * np.exp(1e-5)) - log_variance(0.1 * np.exp(-1e-5))) / 2e-5
    assert np.allclose(found.learning_rate, slope, rtol=1e-8)
    after = qhm(0.01, 0.4, 0.8, weight_decay=0.05)
    split = attribution(PROBLEM, optimizer, after)
    assert np.allclose(split.total, np.log(
        stationary_variance(PROBLEM, after) / stationary_variance(PROBLEM, optimizer)
    ), rtol=1e-11)  # fmt: skip


@pytest.mark.parametrize(
    ("others", "rule"),
    [
        ({"discount": 1.5}, "in \\[0, 1\\]"),
        ({"discount": 0.5, "form": "position"}, "needs form='pytorch'"),
        ({"discount": 0.5, "nesterov": True}, "nesterov=False"),
    ],
)
def test_what_a_discount_cannot_be(others, rule):
    with pytest.raises(ValueError, match=rule):
        MomentumSGD(0.1, 0.9, **others)
