"""Noise that remembers: the dense augmented recursion, limits, and bad input; and how many draws a run is worth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import relative, unrolled_covariance
from theory.closed_form.correlated import correlated_transient, still_start
from theory.closed_form.correlation_time import variance_correlation_time
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.transition import transition

PROBLEM = Quadratic.from_spectra([0.1, 1.0, 10.0], [1.0, 0.3, 2.0], rotation=0.7)
OPTIMIZERS = [
    MomentumSGD(0.1, 0.9),
    MomentumSGD(0.1, 0.9, form="position", dampening=0.2),
    MomentumSGD(0.05, 0.8, nesterov=True, weight_decay=0.1),
    MomentumSGD(0.1),
]


def augmented(problem, optimizer, phi):
    """Dense F and Q of (w, v, ξ)."""
    move, kick = transition(problem, optimizer, np.longdouble)
    m = problem.dimension
    step = np.block([[move, phi * kick], [np.zeros((m, 2 * m)), phi * np.eye(m)]])
    enters = np.vstack([kick, np.eye(m)])
    return step, (1 - phi**2) * enters @ problem.dense_noise_cov() @ enters.T


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("phi", [0.7, -0.6])
def test_transients_from_rest_are_the_dense_recursion(optimizer, phi):
    found = correlated_transient(PROBLEM, None, optimizer, [0, 1, 2, 33, 300], phi, still_start(PROBLEM))
    step, forcing = augmented(PROBLEM, optimizer, phi)
    for state, k in zip(found.augmented, found.steps, strict=True):
        power = np.linalg.matrix_power(step, int(k))
        expected = power @ still_start(PROBLEM) @ power.T + unrolled_covariance(step, forcing, int(k))
        assert relative(state, expected.astype(float)) <= 1e-13


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("phi", [0.7, -0.6])
def test_the_stationary_law_solves_the_dense_lyapunov_equation(optimizer, phi):
    found = correlated_transient(PROBLEM, optimizer, optimizer, [0, 77], phi)
    step, forcing = augmented(PROBLEM, optimizer, phi)
    expected = scipy.linalg.solve_discrete_lyapunov(step.astype(float), forcing.astype(float), method="bilinear")
    for state in found.augmented:
        assert relative(state, expected) <= 1e-10


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_memory_it_is_the_plain_transient(optimizer):
    after = MomentumSGD(0.02, 0.5, form=optimizer.form)
    found = correlated_transient(PROBLEM, optimizer, after, [0, 5, 50], 0.0)
    assert relative(found.state(), transient_covariance(PROBLEM, optimizer, after, [0, 5, 50]).state()) <= 1e-12


@settings(deadline=None, max_examples=30)
@given(phi=st.floats(-0.95, 0.95))
def test_flat_directions_see_the_spectrum_at_frequency_zero(phi):
    problem, optimizer = Quadratic(np.array([1e-7]), np.ones(1)), MomentumSGD(0.1, 0.5)
    found = correlated_transient(problem, optimizer, optimizer, 0, phi).value[0, 0, 0]
    white = stationary_covariance(problem, optimizer).value[0, 0]
    assert found / white == pytest.approx((1 + phi) / (1 - phi), rel=1e-4)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (dict(autocorrelation=1.0), r"must be in \(−1, 1\); got 1\.0"),
        (dict(autocorrelation=float("nan")), r"must be in \(−1, 1\)"),
        (dict(before=None), "must be an optimizer unless `initial` is given"),
        (dict(initial=np.eye(6)), r"must be finite, shape \(9, 9\); got \(6, 6\)"),
        (dict(after=MomentumSGD(0.1, 0.9, form="position")), "must have the form of `before`"),
        (dict(before=MomentumSGD(0.4, 0.9)), r"must be < 0\.38"),
        (dict(steps=[2, 1]), "must rise"),
    ],
)
def test_bad_input_is_refused_by_name(call, reason):
    arguments = dict(
        problem=PROBLEM, before=OPTIMIZERS[0], after=OPTIMIZERS[0], steps=[1], autocorrelation=0.5, initial=None
    )
    with pytest.raises(ValueError, match=reason):
        correlated_transient(**{**arguments, **call})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_correlation_time_is_the_sum_over_lags(optimizer):
    curvatures = np.array([0.02, 0.2, 1.0, 7.0])
    expected = []
    for curvature in curvatures:
        problem = Quadratic(np.array([curvature]), np.ones(1))
        step, _ = transition(problem, optimizer)
        lagged, total = stationary_covariance(problem, optimizer).state()[:, 0], 0.0
        variance = lagged[0]
        for lag in range(40_000):
            total += (1 if lag == 0 else 2) * (lagged[0] / variance) ** 2
            lagged = step @ lagged
        expected.append(total)
    np.testing.assert_allclose(variance_correlation_time(curvatures, optimizer), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("rate", "momentum", "expected"), [(1.0, 0.9, 9.5), (1.0, 0.99, 99.5), (1e-3, 0.9, 109), (1e-3, 0.0, 1000)]
)
def test_the_known_correlation_times(rate, momentum, expected):
    found = variance_correlation_time(np.array([rate]), MomentumSGD(1.0, momentum))
    assert found[0] == pytest.approx(expected, rel=0.006)


def test_without_momentum_the_correlation_time_is_that_of_a_first_order_recursion():
    rates = np.array([1e-5, 0.3, 1.0, 1.7])
    rho = 1 - rates
    np.testing.assert_allclose(
        variance_correlation_time(rates, MomentumSGD(1.0)), (1 + rho**2) / (1 - rho**2), rtol=1e-9
    )
