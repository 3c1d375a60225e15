"""(T3): the recursion unrolled over a path, the constant path, the quasi-stationary limit, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import relative
from tests.theory.strategies import optimizers, problems
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.transition import transition
from theory.solution import Status, UnstableError

PROBLEM = Quadratic.from_spectra([0.1, 1.0, 10.0], [1.0, 0.3, 2.0], rotation=0.7)
OPTIMIZER = MomentumSGD(0.1, 0.9)


def unrolled(problem, optimizer, rates, covariance, mean, noise_factors, curvature_factors):
    """Covariances and means after every step, straight from the definition, in extended precision."""
    states, means = [covariance.astype(np.longdouble)], [mean.astype(np.longdouble)]
    noise = problem.dense_noise_cov().astype(np.longdouble)
    for t, rate in enumerate(rates):
        scaled = Quadratic(curvature_factors[t] * problem.dense_hessian(), problem.dense_noise_cov())
        move, kick = transition(scaled, replace(optimizer, learning_rate=float(rate)), np.longdouble)
        states.append(move @ states[-1] @ move.T + noise_factors[t] * (kick @ noise @ kick.T))
        means.append(move @ means[-1])
    return np.array(states, dtype=float), np.array(means, dtype=float)


@st.composite
def paths(draw):
    optimizer = draw(optimizers(largest_momentum=0.95))
    problem = draw(problems(optimizer, max_dimension=3, max_condition=1e2))
    length = draw(st.integers(1, 600))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    # Stable at rate 1 and factor 1 by construction; rates and factors stay below.
    rates = rng.uniform(0.02, 1.0, length)
    factors = [rng.uniform(0.3, 3.0, length), rng.uniform(0.3, 1.0, length)]
    return problem, optimizer, rates, factors


@settings(deadline=None, max_examples=40)
@given(path=paths())
def test_any_path_agrees_with_the_recursion_unrolled(path):
    problem, optimizer, rates, (noise, curvature) = path
    m = problem.dimension
    steps = sorted({0, 1, len(rates) // 2, len(rates)})
    covariance, mean = np.diag(np.linspace(1, 2, 2 * m)), np.linspace(1, -1, 2 * m)
    found = propagate(
        problem,
        optimizer,
        Schedule.table(rates),
        steps,
        covariance,
        mean,
        noise_factors=noise,
        curvature_factors=curvature,
    )
    states, means = unrolled(problem, optimizer, rates, covariance, mean, noise, curvature)
    for index, k in enumerate(steps):
        assert relative(found.state()[index], states[k]) <= 1e-11
        assert np.linalg.norm(found.mean[index] - means[k]) <= 1e-11 * max(1.0, np.linalg.norm(means[k]))


@pytest.mark.parametrize("form", ["pytorch", "position"])
def test_a_constant_path_is_the_transient(form):
    before = replace(OPTIMIZER, form=form)
    steps = [0, 1, 255, 256, 257, 1000]
    along = propagate(PROBLEM, before, Schedule.constant(0.01), steps)
    after = replace(before, learning_rate=0.01)
    assert relative(along.state(), transient_covariance(PROBLEM, before, after, steps).state()) <= 1e-12
    start = np.array([1.0, -1.0, 0.5])
    along = propagate(PROBLEM, before, Schedule.constant(0.01), steps, initial_mean=start)
    assert relative(along.mean, mean_path(PROBLEM, after, start, steps)) <= 1e-12


def test_the_choice_of_recorded_steps_does_not_matter():
    schedule = Schedule.cosine(0.1, 1200)
    few = propagate(PROBLEM, OPTIMIZER, schedule, [700, 1000])
    many = propagate(PROBLEM, OPTIMIZER, schedule, list(range(1, 1001)))
    assert relative(many.state()[[699, 999]], few.state()) <= 1e-12


def test_the_quasi_stationary_approximation_is_reported_with_its_exact_error():
    schedule = Schedule.cosine(0.1, 4000, end=0.01)
    path = propagate(PROBLEM, OPTIMIZER, schedule, [0, 10, 2000, 4000])
    rates = schedule.rates(4000)
    for index, k in enumerate(path.steps):
        rate = OPTIMIZER.learning_rate if k == 0 else rates[k - 1]
        assert path.learning_rates[index] == rate
        settled = stationary_covariance(PROBLEM, replace(OPTIMIZER, learning_rate=float(rate))).value
        assert relative(path.quasi_stationary[index], settled) <= 1e-13
        exact = path.value[index]
        assert path.quasi_stationary_error[index] == pytest.approx(relative(settled, exact), abs=1e-12)
        worst = np.abs(np.diag(settled) / np.diag(exact) - 1).max()  # H is diagonal: its axes are the eigenvectors
        assert path.worst_mode_error[index] == pytest.approx(worst, abs=1e-12)
    assert path.quasi_stationary_error[0] <= 1e-13


def test_ten_times_slower_is_ten_times_nearer_to_quasi_stationary():
    errors = [
        propagate(PROBLEM, OPTIMIZER, Schedule.linear(0.1, 0.05, length), length // 2).worst_mode_error[0]
        for length in (20_000, 200_000)
    ]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.05)


def test_from_rest_the_approximation_is_wholly_wrong_and_says_so():
    path = propagate(PROBLEM, OPTIMIZER, Schedule.constant(0.1), [0, 1], np.zeros((6, 6)))
    assert path.quasi_stationary_error[0] == 1.0 and path.worst_mode_error[0] == 1.0
    assert np.isfinite(path.quasi_stationary_error).all()


def test_unstable_stretches_are_run_through_and_named():
    table = Schedule.table([0.1, 0.2, 0.37, 0.39, 0.5, 0.01, 0.4, 0.1])
    path = propagate(PROBLEM, OPTIMIZER, table, [3, 5, 8])
    assert path.status is Status.UNSETTLED and path.unstable_stretches == ((3, 4), (6, 6))
    assert path.has_stationary_law.tolist() == [True, False, True]
    assert np.isnan(path.quasi_stationary[1]).all() and np.isnan(path.quasi_stationary_error[1])
    assert np.isfinite(path.quasi_stationary[[0, 2]]).all()
    start = stationary_covariance(PROBLEM, OPTIMIZER).state()
    ones = np.ones(8)
    states, _ = unrolled(PROBLEM, OPTIMIZER, table.rates(8), start, np.zeros(6), ones, ones)
    assert max(relative(path.state()[i], states[k]) for i, k in enumerate((3, 5, 8))) <= 1e-12
    sharper = propagate(PROBLEM, OPTIMIZER, Schedule.constant(0.1), 2, curvature_factors=[1.0, 5.0])
    assert sharper.unstable_stretches == ((1, 1),)
    assert propagate(PROBLEM, OPTIMIZER, table, 3).status is Status.OK
    with pytest.raises(UnstableError, match=r"must be < 0\.38 for this Hessian"):  # no stationary law to start from
        propagate(PROBLEM, replace(OPTIMIZER, learning_rate=0.5), table, 3)
    with pytest.raises(UnstableError, match=r"float range; it overflows before iteration \d+"):
        propagate(PROBLEM, OPTIMIZER, Schedule.constant(0.5), 10_000)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (dict(schedule=Schedule.cosine(0.1, 10), steps=20), "got 0 at iteration 10 of 20"),
        (dict(schedule=Schedule.table([0.1] * 5), steps=20), "must be at most 5, where the table ends"),
        (dict(steps=[5, 3]), "must rise"),
        (dict(steps=-3), "must be in"),
        (dict(initial=np.eye(4)), r"`propagate\(initial=\.\.\.\)` must have shape"),
        (dict(initial_mean=np.ones(4)), r"`propagate\(initial_mean=\.\.\.\)` must have shape \(6,\)"),
        (dict(noise_factors=[1.0, 2.0]), r"noise_factors=\.\.\.\)` must have one entry an iteration, shape \(4,\)"),
        (dict(noise_factors=[1.0, 2.0, -1.0, 1.0]), "got -1 at iteration 2"),
        (dict(curvature_factors=[1.0, np.nan, 1.0, 1.0]), "got nan at iteration 1"),
    ],
)
def test_bad_paths_are_refused_by_name(call, reason):
    arguments = {"schedule": Schedule.constant(0.1), "steps": 4, **call}
    with pytest.raises(ValueError, match=reason) as caught:
        propagate(PROBLEM, OPTIMIZER, **arguments)
    assert "\n" not in str(caught.value)
