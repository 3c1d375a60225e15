"""The test from replicates: calibrated on skewed averages, and with the power it states."""

import numpy as np
import pytest

from tests.oracles import uniformity_p_value
from theory.claims.replicates import (
    equivalence_comparison,
    identity_comparison,
    mean_p_values,
    mean_tests,
    variance_replicates,
)
from theory.judge.claim import MISS, TEST_ALPHA, Outcome, classify, decide_identity
from theory.judge.statistics import normal_quantile


def test_p_values_are_uniform_on_averages_as_skewed_as_ours():
    """Each replicate is a χ² with 8 degrees of freedom, skewness 1, as a time average of some ten relaxation times."""
    rng = np.random.default_rng(0)
    draws = rng.chisquare(8, size=(200, 4000)) / 8
    p_values = mean_tests(draws, np.ones(4000)).p_value
    assert uniformity_p_value(p_values) > 1e-4
    assert np.mean(p_values < 0.01) == pytest.approx(0.01, abs=0.006)


def test_halls_transformation_balances_the_tails():
    """Plain t rejects a skewed mean far more often when it comes out low than high; the test used here does not."""
    rng = np.random.default_rng(1)
    draws = rng.exponential(size=(100, 20_000))
    tests = mean_tests(draws, np.ones(20_000))
    low = np.mean((tests.p_value < 0.01) & (tests.ratio < 1))
    high = np.mean((tests.p_value < 0.01) & (tests.ratio > 1))
    t = (draws.mean(axis=0) - 1) / (draws.std(axis=0, ddof=1) / 10)
    plain_low, plain_high = np.mean(t < -2.626), np.mean(t > 2.626)
    assert plain_low > 4 * plain_high
    assert 0.5 < low / high < 2.0


def test_a_wrong_prediction_is_refuted_and_a_right_one_supported():
    rng = np.random.default_rng(2)
    draws = rng.chisquare(20, size=(4000, 3)) / 20
    tests = mean_tests(draws, np.ones(3))
    right = identity_comparison(tests)
    assert decide_identity(right, 0.15) is Outcome.SUPPORTED
    assert right.reached == pytest.approx(4000 * 20, rel=0.1)
    error = (normal_quantile(TEST_ALPHA) + normal_quantile(2 * MISS)) * tests.error.max()  # missed with chance MISS
    wrong = identity_comparison(mean_tests(draws, np.array([1.0, 1.0, 1 / (1 + error)])))
    assert decide_identity(wrong, 0.15) is Outcome.REFUTED
    assert decide_identity(identity_comparison(mean_tests(draws[:300], np.ones(3))), 0.15) is Outcome.INCONCLUSIVE


def test_equivalence_needs_every_direction_inside_and_one_outside_to_refute():
    rng = np.random.default_rng(3)
    draws = rng.chisquare(50, size=(5000, 2)) / 50
    inside = equivalence_comparison(mean_tests(draws, np.array([1.05, 0.97])), 0.1)
    assert classify(inside.interval, 0.1) is Outcome.SUPPORTED
    one_out = equivalence_comparison(mean_tests(draws, np.array([1.0, 0.7])), 0.1)
    assert classify(one_out.interval, 0.1) is Outcome.REFUTED
    edge = equivalence_comparison(mean_tests(draws, np.array([1.0, 1 / 1.1])), 0.1)
    assert classify(edge.interval, 0.1) is Outcome.INCONCLUSIVE


def test_variance_is_taken_around_the_common_mean():
    rng = np.random.default_rng(4)
    values = 3.0 + rng.normal(size=(50_000, 2))
    found = variance_replicates(values**2, values)
    np.testing.assert_allclose(found.mean(axis=0), 1.0, atol=0.03)
    assert mean_p_values(values - 3.0).min() > 1e-5
    assert mean_p_values(values).max() < TEST_ALPHA


def test_too_few_replicates_are_refused():
    with pytest.raises(ValueError, match="at least 8"):
        mean_tests(np.ones((7, 1)), np.ones(1))
