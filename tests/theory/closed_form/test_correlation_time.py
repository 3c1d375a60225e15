"""The integrated autocorrelation time against the sum over lags taken literally, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles import relative
from theory.closed_form.averaging import averaged_covariance
from theory.closed_form.correlation_time import integrated_autocorrelation_time
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.dense import autocovariance_sum, settled
from theory.oracle.transition import transition

PROBLEM = Quadratic.from_spectra([0.3, 1.0, 4.0], [1.0, 0.3, 2.0], rotation=0.5)
OPTIMIZERS = [
    MomentumSGD(0.1),
    MomentumSGD(0.1, 0.9, weight_decay=0.2),
    MomentumSGD(0.1, 0.9, form="position"),
    MomentumSGD(0.1, 0.8, nesterov=True),
    MomentumSGD(0.1, 0.9, dampening=0.9, discount=0.7),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_it_is_the_sum_over_lags(optimizer):
    step, inflow = transition(PROBLEM, optimizer, np.longdouble)
    state = settled(step, inflow @ PROBLEM.noise_cov @ inflow.T)
    summed = autocovariance_sum(step, state, 3000)[:3, :3]
    found = integrated_autocorrelation_time(PROBLEM, optimizer)
    assert np.allclose(found, np.diag(summed / state[:3, :3]).astype(float), rtol=1e-12)
    seen = np.array([1.0, -2.0, 0.5])
    (one,) = integrated_autocorrelation_time(PROBLEM, optimizer, seen)
    assert one == pytest.approx(float(seen @ summed @ seen / (seen @ state[:3, :3] @ seen)), rel=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_it_says_what_the_mean_of_a_long_run_is_worth(optimizer):
    length = 10**7
    worth = integrated_autocorrelation_time(PROBLEM, optimizer)
    law = stationary_covariance(PROBLEM, optimizer).value
    mean = averaged_covariance(PROBLEM, optimizer, length)
    assert relative(np.diag(mean), np.diag(law) * worth / length) < 1e-4


def test_along_eigenvectors_it_has_one_line():
    problem, mu = Quadratic(np.array([1e-6, 0.5, 35.0]), np.ones(3)), 0.9
    a = 0.1 * problem.hessian
    found = integrated_autocorrelation_time(problem, MomentumSGD(0.1, mu))
    assert np.allclose(found, (1 - mu) * (2 * (1 + mu) - a) / ((1 + mu) * a), rtol=1e-12)
    assert found[0] == pytest.approx(2 * (1 - mu) / a[0], rel=1e-6)
    assert found[2] < 1, "an alternating direction averages faster than independent draws"


@pytest.mark.parametrize(
    ("directions", "rule"), [(np.eye(2), "3 numbers"), (np.zeros(3), "must move"), (np.full(3, np.nan), "finite")]
)
def test_what_is_refused_is_named(directions, rule):
    with pytest.raises(ValueError, match=rule):
        integrated_autocorrelation_time(PROBLEM, OPTIMIZERS[0], directions)
