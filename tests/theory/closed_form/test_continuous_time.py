"""The continuous-time law: its error is linear in the step, its distance has the stated order and keeps its bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_continuous_lyapunov, sqrtm

from tests.oracles import relative
from tests.theory.strategies import rotation
from theory.closed_form.continuous_time import continuous_time_law
from theory.closed_form.divergence import gaussian_wasserstein
from theory.closed_form.langevin import langevin_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError


def dense(spectrum, seed):
    turn = rotation(len(spectrum), seed)
    matrix = (turn * np.array(spectrum)) @ turn.T
    return 0.5 * (matrix + matrix.T)


PROBLEM = Quadratic(dense([0.3, 1.0, 2.0, 5.0], 1), dense([0.2, 1.0, 0.5, 3.0], 2))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_law_is_the_drift_s_and_its_error_is_linear_in_the_step(momentum):
    shares = []
    for rate in (0.001, 0.01, 0.1, 0.3):
        optimizer = MomentumSGD(rate, momentum, weight_decay=0.1)
        found = continuous_time_law(PROBLEM, optimizer)
        decayed = PROBLEM.hessian + 0.1 * np.eye(4)
        expected = solve_continuous_lyapunov(decayed, rate / (1 - momentum) * PROBLEM.noise_cov)
        assert relative(found.covariance, expected) < 1e-13
        basis = np.linalg.eigh(PROBLEM.hessian)[1]
        exact = basis.T @ stationary_covariance(PROBLEM, optimizer).require() @ basis
        missed = (exact - basis.T @ expected @ basis) / exact
        np.testing.assert_allclose(found.relative_error, missed, atol=1e-11 * np.abs(missed).max())
        shares.append(found.relative_error / rate)
    for share in shares[1:]:
        np.testing.assert_allclose(share, shares[0], rtol=1e-12)
    variances = np.diag(shares[0])
    np.testing.assert_allclose(variances, (np.array([0.3, 1, 2, 5]) + 0.1) / (2 * (1 + momentum)), rtol=1e-12)


def test_correlations_of_unlike_directions_come_out_too_large_with_momentum():
    assert (continuous_time_law(PROBLEM, MomentumSGD(0.01)).relative_error > 0).all()
    error = continuous_time_law(PROBLEM, MomentumSGD(0.01, 0.9)).relative_error
    # (λᵢ−λⱼ)² against (1−μ)²λᵢλⱼ/μ: every pair here is unlike enough.
    assert (error[~np.eye(4, dtype=bool)] < 0).all() and (np.diag(error) > 0).all()
    near = Quadratic(np.diag([1.0, 1.05]), dense([1.0, 2.0], 3))
    assert (continuous_time_law(near, MomentumSGD(0.01, 0.9)).relative_error > 0).all()


def test_the_distance_is_the_textbook_formula_and_a_metric():
    first, second = dense([0.2, 1.0, 3.0], 4), dense([0.5, 0.7, 2.0], 5)
    root = sqrtm(first)
    expected = np.trace(first) + np.trace(second) - 2 * np.trace(sqrtm(root @ second @ root)).real
    assert gaussian_wasserstein(first, second) == pytest.approx(np.sqrt(expected), rel=1e-12)
    assert gaussian_wasserstein(second, first) == pytest.approx(gaussian_wasserstein(first, second), rel=1e-12)
    shift = np.array([3.0, 0.0, 4.0])
    assert gaussian_wasserstein(first, first, mean=shift) == pytest.approx(5.0, rel=1e-14)
    assert gaussian_wasserstein(first, first) < 1e-14
    assert gaussian_wasserstein(np.diag([4.0, 0.0]), np.diag([0.0, 9.0])) == pytest.approx(np.sqrt(13.0), rel=1e-14)
    third = dense([0.1, 0.4, 5.0], 6)
    there = gaussian_wasserstein(first, third)
    assert there <= gaussian_wasserstein(first, second) + gaussian_wasserstein(second, third)
    # Close laws: what tr + tr − 2 tr would lose.
    near = gaussian_wasserstein(first, (1 + 1e-6) * first)
    assert near == pytest.approx((np.sqrt(1 + 1e-6) - 1) * np.sqrt(np.trace(first)), rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    momentum=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    share=st.floats(1e-4, 0.9),
    heat=st.sampled_from([0.0, 0.3]),
)
def test_the_distance_stays_below_its_bound(seed, momentum, share, heat):
    rng = np.random.default_rng(seed)
    problem = Quadratic(dense(rng.uniform(0.1, 3.0, 3), seed), dense(rng.uniform(0.1, 3.0, 3), seed + 1))
    rate = share * 2 * (1 + momentum) / np.linalg.eigvalsh(problem.hessian)[-1]
    optimizer = MomentumSGD(rate, momentum)
    found = continuous_time_law(problem, optimizer, heat)
    law = langevin_covariance(problem, optimizer, heat).require()
    assert found.distance == pytest.approx(gaussian_wasserstein(law, found.covariance), rel=1e-6, abs=1e-13)
    assert found.distance <= found.distance_bound * (1 + 1e-9)


@pytest.mark.parametrize(("heat", "power"), [(0.0, 1.5), (0.3, 1.0)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_distance_has_the_order_that_is_stated(heat, power, momentum):
    rates = np.array([1e-5, 1e-6])
    found = [continuous_time_law(PROBLEM, MomentumSGD(rate, momentum), heat) for rate in rates]
    for values in ([one.distance for one in found], [one.distance_bound for one in found]):
        slope = np.log(values[0] / values[1]) / np.log(rates[0] / rates[1])
        assert slope == pytest.approx(power, abs=0.03)


def test_commuting_laws_are_apart_by_their_standard_deviations():
    problem = Quadratic([0.5, 2.0], [1.0, 3.0])
    optimizer = MomentumSGD(0.2, 0.8)
    found = continuous_time_law(problem, optimizer)
    exact = np.diag(stationary_covariance(problem, optimizer).require())
    assert found.distance == pytest.approx(
        np.linalg.norm(np.sqrt(exact) - np.sqrt(np.diag(found.covariance))), rel=1e-12
    )
    flat = Quadratic(np.diag([2.0, 2.0]), dense([1.0, 3.0], 7))
    found = continuous_time_law(flat, optimizer)
    np.testing.assert_allclose(found.relative_error, 0.2 * 2.0 / (2 * 1.8), rtol=1e-14)
    assert found.distance_bound == pytest.approx(
        found.relative_error[0, 0] * np.sqrt(np.trace(stationary_covariance(flat, optimizer).require())), rel=1e-12
    )


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ValueError, match=r"`continuous_time_law\(optimizer=...\)` must be heavy ball"):
        continuous_time_law(PROBLEM, MomentumSGD(0.01, 0.9, nesterov=True))
    with pytest.raises(ValueError, match="C is singular"):
        continuous_time_law(Quadratic([1.0, 2.0], [1.0, 0.0]), MomentumSGD(0.1))
    with pytest.raises(UnstableError):
        continuous_time_law(PROBLEM, MomentumSGD(1.0))
    with pytest.raises(ValueError, match="temperature"):
        continuous_time_law(PROBLEM, MomentumSGD(0.1), -1.0)
    for wrong in (np.ones(2), np.ones((2, 3)), np.array([[1.0, 2.0], [0.0, 1.0]]), np.diag([1.0, -1.0])):
        with pytest.raises(ValueError, match=r"`gaussian_wasserstein\(covariance=...\)` must be"):
            gaussian_wasserstein(wrong, np.eye(2))
    with pytest.raises(ValueError, match="the same m for both"):
        gaussian_wasserstein(np.eye(2), np.eye(3))
