"""Σ from one run: unbiased, with an error that is the spread over runs, and honest about runs that are too short."""

from __future__ import annotations

import numpy as np
import pytest

from theory.closed_form.correlation_time import variance_correlation_time
from theory.closed_form.stationary import stationary_covariance
from theory.judge.trajectory import RunStatus, trajectory_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.simulate import Segment, Simulation, trajectory

OPTIMIZER = MomentumSGD(0.1, 0.9)
PROBLEM = Quadratic.from_spectra([1.0, 3.0, 10.0], [1.0, 0.3, 2.0], rotation=0.7)


def runs(count, steps, seed=3):
    setting = Simulation(
        problem=PROBLEM,
        segments=(Segment(optimizer=OPTIMIZER, steps=200 + steps),),
        replicas=count,
        record_times=(1,),
    )
    return trajectory(setting, seed=seed, engine="numpy").weights[201:].transpose(1, 0, 2)


@pytest.fixture(scope="module")
def estimates():
    paths = runs(128, 4000)
    return [trajectory_covariance(path) for path in paths], [trajectory_covariance(p, np.zeros(3)) for p in paths]


@pytest.mark.parametrize("which", [0, 1], ids=["own mean", "known centre"])
def test_a_run_is_unbiased_and_states_the_spread_over_runs(estimates, which):
    found = np.array([estimate.value for estimate in estimates[which]])
    stated = np.array([estimate.standard_error for estimate in estimates[which]])
    truth = stationary_covariance(PROBLEM, OPTIMIZER).value
    spread = found.std(axis=0, ddof=1)
    z = (found.mean(axis=0) - truth) / (spread / np.sqrt(len(found)))
    assert np.abs(z).max() < 5  # nine entries, chance 5e-6
    # A spread over 128 runs is known to 6 %; 5 of those.
    np.testing.assert_allclose(np.sqrt(np.mean(stated**2, axis=0)), spread, rtol=0.32)


def test_a_run_knows_its_correlation_time(estimates):
    expected = variance_correlation_time(PROBLEM.hessian, OPTIMIZER)
    times = np.array([estimate.correlation_time for estimate in estimates[1]])
    np.testing.assert_allclose(times.mean(axis=0), expected, rtol=0.05)
    one = estimates[1][0]
    np.testing.assert_array_equal(one.effective_size, one.length / one.correlation_time)
    assert one.status is RunStatus.OK and one.length == 4000


def test_white_noise_is_worth_its_length():
    white = np.random.default_rng(1).standard_normal((20_000, 2)) * [1.0, 1e6]
    found = trajectory_covariance(white)
    np.testing.assert_allclose(found.correlation_time, 1.0, atol=0.02)
    np.testing.assert_allclose(np.diag(found.standard_error), np.sqrt(2 / 20_000) * np.array([1.0, 1e12]), rtol=0.05)


def test_a_short_run_says_so():
    path = runs(1, 300)[0]
    assert trajectory_covariance(path).status is RunStatus.SHORT
    assert "not known" in RunStatus.SHORT


def test_an_oscillating_covariance_between_directions_has_its_own_error():
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((400, 3000))
    products = []
    for row in noise:
        delayed = np.stack([row[:-3], row[3:]], axis=1)  # uncorrelated at lag 0, identical at lag 3
        products.append(trajectory_covariance(delayed, np.zeros(2)))
    found = np.array([item.value[0, 1] for item in products])
    stated = np.mean([item.standard_error[0, 1] for item in products])
    assert stated == pytest.approx(found.std(), rel=0.18)


def test_one_direction_may_be_given_as_a_list():
    path = runs(1, 2000)[0][:, 0]
    assert trajectory_covariance(path).value.shape == (1, 1)


@pytest.mark.parametrize(
    ("weights", "center", "reason"),
    [
        (np.ones((3, 2)), None, r"must have shape \(T >= 8, m\); got \(3, 2\)"),
        (np.ones((9, 2, 2)), None, "must have shape"),
        (np.ones((9, 2)), None, "must vary in every direction; direction 0 is constant"),
        (np.full((9, 2), np.nan), None, "must be finite; got 18 bad entries"),
        (np.eye(9), np.zeros(2), r"must be 9 finite numbers; got shape \(2,\)"),
    ],
)
def test_bad_runs_are_refused_by_name(weights, center, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        trajectory_covariance(weights, center)
    assert "\n" not in str(caught.value)
