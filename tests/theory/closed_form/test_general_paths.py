"""General problems: landscapes that change along a path, schedules of every setting, parameter groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import relative
from tests.theory.strategies import optimizers, problems, rotation
from theory.closed_form.attribution import attribution
from theory.closed_form.averaging import ema_covariance
from theory.closed_form.correlation_time import integrated_autocorrelation_time
from theory.closed_form.langevin import langevin_covariance
from theory.closed_form.pac_bayes import pac_bayes_path
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import (
    increment_covariance,
    lag_one_covariance,
    stationary_covariance,
    stationary_mean,
    stationary_variance,
)
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD, ParameterGroups
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.transition import transition


def unrolled(problems_at, optimizers_at, covariance, mean):
    """Covariances and means after every step in extended precision, problem and optimizer of each step written out."""
    states, means = [covariance.astype(np.longdouble)], [mean.astype(np.longdouble)]
    for problem, optimizer in zip(problems_at, optimizers_at, strict=True):
        move, kick = transition(problem, optimizer, np.longdouble)
        noise = problem.dense_noise_cov().astype(np.longdouble)
        force = problem.dense_hessian().astype(np.longdouble) @ problem.optimum.astype(np.longdouble)
        states.append(move @ states[-1] @ move.T + kick @ noise @ kick.T)
        means.append(move @ means[-1] - kick @ force)
    return np.array(states, dtype=float), np.array(means, dtype=float)


def dense(spectrum, seed):
    turn = rotation(len(spectrum), seed)
    matrix = (turn * np.asarray(spectrum)) @ turn.T
    return 0.5 * (matrix + matrix.T)


GROUPS = ParameterGroups(rate_factors=[1.0, 0.3, 2.0], decay_factors=[1.0, 0.0, 0.5])
LANDSCAPES = [
    Quadratic(dense([0.1, 1.0, 3.0], 1), dense([1.0, 0.3, 2.0], 2), np.array([1.0, -1.0, 0.5])),
    Quadratic(dense([0.3, 0.9, 5.0], 3), dense([2.0, 0.1, 1.0], 4), np.array([1.5, -1.0, 0.0])),
    Quadratic(np.array([-0.6, 0.0, 2.0]), dense([1.0, 1.0, 0.2], 5), np.array([1.5, -2.0, 0.0])),
]


@pytest.mark.parametrize("kind", ["pytorch", "position", "nesterov", "quasi-hyperbolic"])
@pytest.mark.parametrize("groups", [None, GROUPS], ids=["one group", "groups"])
def test_everything_may_change_at_once(kind, groups):
    extra = {
        "pytorch": {"dampening": 0.2},
        "position": {"form": "position", "dampening": 0.1},
        "nesterov": {"nesterov": True},
        "quasi-hyperbolic": {"discount": 0.7, "dampening": 0.3},
    }[kind]
    optimizer = MomentumSGD(0.05, 0.8, weight_decay=0.1, groups=groups, **extra)
    length = 40
    rng = np.random.default_rng(3)
    rates, momenta = rng.uniform(0.01, 0.1, length), rng.uniform(0.3, 0.95, length)
    momenta[7] = 0.0 if kind != "nesterov" else 0.5
    decays = np.repeat(rng.uniform(0.0, 0.3, 8), 5)
    louder, sharper = rng.uniform(0.5, 2.0, length), np.repeat(rng.uniform(0.7, 1.3, 10), 4)
    changes = {0: LANDSCAPES[0], 11: LANDSCAPES[1], 12: LANDSCAPES[2], 30: LANDSCAPES[0]}
    start, mean = np.diag(np.linspace(0.5, 2.0, 6)), np.linspace(1.0, -1.0, 6)
    steps = [0, 1, 11, 12, 13, 29, 30, 40]
    found = propagate(
        LANDSCAPES[1],
        optimizer,
        Schedule.table(rates),
        steps,
        start,
        mean,
        momentum=momenta,
        weight_decay=decays,
        noise_factors=louder,
        curvature_factors=sharper,
        changes=changes,
    )
    problems_at, optimizers_at = [], []
    for t in range(length):
        problem = changes[max(at for at in changes if at <= t)]
        problems_at.append(
            replace(problem, hessian=sharper[t] * problem.hessian, noise_cov=louder[t] * problem.noise_cov)
        )
        settings_now = {"learning_rate": rates[t], "momentum": momenta[t], "weight_decay": decays[t]}
        optimizers_at.append(replace(optimizer, **settings_now))
    states, means = unrolled(problems_at, optimizers_at, start, mean)
    for index, k in enumerate(steps):
        assert relative(found.state()[index], states[k]) <= 1e-11, k
        assert relative(found.mean[index], means[k]) <= 1e-11, k
    # Quasi-stationary: the stationary law of the settings of the last iteration.
    last = stationary_covariance(problems_at[-1], optimizers_at[-1]).value
    assert relative(found.quasi_stationary[-1], last) <= 1e-11
    assert not found.has_stationary_law[5] and found.unstable_stretches[0][0] >= 12


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 999))
def test_groups_agree_with_the_dense_recursion_in_every_form(data, seed):
    optimizer = data.draw(optimizers(largest_momentum=0.9, weight_decay=False))
    problem = data.draw(problems(optimizer, max_dimension=4, max_condition=1e2))
    optimizer = replace(optimizer, weight_decay=0.02)
    m, rng = problem.dimension, np.random.default_rng(seed)
    groups = ParameterGroups(rate_factors=rng.uniform(0.2, 0.9, m), decay_factors=rng.integers(0, 2, m).astype(float))
    problem = replace(problem, optimum=rng.standard_normal(m))
    grouped = replace(optimizer, groups=groups)
    oracle = lyapunov_covariance(problem, grouped)
    law = stationary_covariance(problem, grouped)
    assert relative(law.state(), oracle.state()) <= 10 * (law.error_bound + oracle.error_bound)
    assert law.relative_residual <= 1e-12
    step, inflow = transition(problem, grouped)
    lagged = (step @ oracle.state())[:m, :m]
    assert relative(lag_one_covariance(problem, grouped), lagged) <= 1e-8
    increments = 2 * oracle.value - lagged - lagged.T
    assert relative(increment_covariance(problem, grouped), increments) <= 1e-7
    # The mean settles where the update's gradient vanishes.
    rest = stationary_mean(problem, grouped)
    pull = problem.dense_hessian() @ (rest - problem.optimum) + 0.02 * groups.decays() * rest
    assert np.abs(pull).max() <= 1e-10
    start = np.linspace(1.0, -1.0, 2 * m)
    force = inflow @ (problem.dense_hessian() @ problem.optimum)
    mean, power = start.copy(), np.eye(2 * m)
    for _ in range(9):
        mean, power = step @ mean - force, step @ power
    assert relative(mean_path(problem, grouped, start, 9)[0], mean) <= 1e-10
    state = oracle.state()
    moved = transient_covariance(problem, grouped, grouped, [0, 9]).state()
    assert relative(moved[0], state) <= 1e-7 and relative(moved[1], state) <= 1e-7


def test_factors_of_one_are_one_group_and_uniform_factors_scale_the_settings():
    problem, optimizer = LANDSCAPES[0], MomentumSGD(0.05, 0.8, weight_decay=0.1)
    ones = replace(optimizer, groups=ParameterGroups(rate_factors=np.ones(3), decay_factors=np.ones(3)))
    assert (
        relative(stationary_covariance(problem, ones).state(), stationary_covariance(problem, optimizer).state())
        < 1e-13
    )
    half = replace(optimizer, groups=ParameterGroups(rate_factors=np.full(3, 0.5), decay_factors=np.full(3, 3.0)))
    plain = MomentumSGD(0.025, 0.8, weight_decay=0.3)
    assert relative(stationary_covariance(problem, half).state(), stationary_covariance(problem, plain).state()) < 1e-12
    assert relative(stationary_mean(problem, half), stationary_mean(problem, plain)) < 1e-12


def test_the_standard_case_no_decay_on_norms_and_biases_reaches_the_risk():
    problem = Quadratic(np.array([1.0, 0.05]), np.full(2, 0.01), np.ones(2))
    groups = ParameterGroups(decay_factors=[1.0, 0.0])
    before = MomentumSGD(0.1, 0.9, weight_decay=0.05, groups=groups)
    path = pac_bayes_path(problem, before, replace(before, learning_rate=0.01), 5_000, prior=1.0)
    np.testing.assert_allclose(path.means[0], [1 / 1.05, 1.0], rtol=1e-12)


def test_formulas_about_curvatures_refuse_groups_by_name():
    grouped = MomentumSGD(0.05, 0.8, groups=GROUPS)
    for call in (
        lambda: stationary_variance(LANDSCAPES[0], grouped),
        lambda: attribution(LANDSCAPES[0], grouped, grouped),
        lambda: ema_covariance(LANDSCAPES[0], grouped, 0.9),
        lambda: langevin_covariance(LANDSCAPES[0], grouped, 0.1),
        lambda: integrated_autocorrelation_time(LANDSCAPES[0], grouped),
    ):
        with pytest.raises(ValueError, match=r"`MomentumSGD\(groups=...\)` has no modes along H's eigenvectors"):
            call()
    with pytest.raises(ValueError, match="must have one factor a coordinate, 2; got 3"):
        stationary_covariance(Quadratic(np.ones(2), np.ones(2)), grouped)


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (
            dict(schedule=[0.1, 0.05]),
            TypeError,
            r"schedule=...\)` must be a Schedule \(`Schedule.table\(\[...\]\)`.*got list",
        ),
        (dict(problem=np.eye(3)), TypeError, r"problem=...\)` must be a Quadratic; got ndarray"),
        (dict(optimizer=0.1), TypeError, r"optimizer=...\)` must be a MomentumSGD; got float"),
        (
            dict(changes=[LANDSCAPES[1]]),
            TypeError,
            r"changes=...\)` must be a Mapping \(iteration to Quadratic\); got list",
        ),
        (dict(changes={2: np.eye(3)}), TypeError, r"changes=\{2: ...\}\)` must be a Quadratic; got ndarray"),
        (dict(changes={-1: LANDSCAPES[1]}), ValueError, "iterations >= 0 as keys; got -1"),
        (
            dict(changes={1: Quadratic(np.ones(2), np.ones(2))}),
            ValueError,
            "must have the dimension of `problem`; got 2",
        ),
        (dict(momentum=[0.5, 1.0, 0.5, 0.5]), ValueError, r"momentum=...\)` must be in \[0, 1\); got 1 at iteration 1"),
        (
            dict(weight_decay=[0.1]),
            ValueError,
            r"weight_decay=...\)` must be a Schedule or have one entry an iteration",
        ),
        (dict(weight_decay=[0.0, 0.0, -1.0, 0.0]), ValueError, "must be >= 0 and finite; got -1 at iteration 2"),
        (dict(undampened_first_step=True), ValueError, "needs an initial state of w alone"),
    ],
)
def test_wrong_arguments_are_named(call, kind, reason):
    arguments = {
        "problem": LANDSCAPES[0],
        "optimizer": MomentumSGD(0.05, 0.8),
        "schedule": Schedule.constant(0.1),
        "steps": 4,
        **call,
    }
    with pytest.raises(
        kind, match=r"`propagate\(" + reason if reason[0].islower() and "=..." in reason else reason
    ) as caught:
        propagate(**arguments)
    assert "\n" not in str(caught.value)


def test_results_speak_in_one_line():
    law = stationary_covariance(LANDSCAPES[0], MomentumSGD(0.05, 0.8))
    path = propagate(LANDSCAPES[0], MomentumSGD(0.05, 0.8), Schedule.constant(0.05), [0, 5])
    moved = transient_covariance(LANDSCAPES[0], MomentumSGD(0.05, 0.8), MomentumSGD(0.01, 0.8), [0, 5])
    for result, shape in ((law, (3, 3)), (path, (2, 3, 3)), (moved, (2, 3, 3))):
        assert result.covariance is result.value and result.covariance.shape == shape
        assert "\n" not in repr(result) and len(repr(result)) < 160 and str(shape) in repr(result)
    assert repr(law).startswith("Solution(covariance (3, 3), OK, spectral radius 0.971704, error bound")
