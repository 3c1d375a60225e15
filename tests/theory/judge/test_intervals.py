"""Intervals agree with the textbook where it has them, and cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from theory.judge.intervals import (
    Contrast,
    combined,
    from_influences,
    mean_of,
    of_interval,
    of_magnitude,
    random_effects,
    rank_correlation_interval,
)


def test_the_mean_of_independent_numbers_has_students_interval():
    numbers = np.random.default_rng(0).standard_normal(9) + 3
    expected = stats.ttest_1samp(numbers, 0.0).confidence_interval(0.95)
    assert mean_of(numbers).interval(0.05) == pytest.approx((expected.low, expected.high), rel=1e-12)
    low, high = mean_of([1.0, 2.0, 3.0, 4.0]).interval(0.05)
    assert (low + high) / 2 == pytest.approx(2.5)
    assert high - 2.5 == pytest.approx(3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2, rel=1e-6)
    with pytest.raises(ValueError, match="at least 2 numbers"):
        mean_of([1.0])


def test_an_error_that_is_known_gives_the_normal_interval():
    low, high = Contrast(estimate=1.0, standard_error=2.0).interval(0.05)
    assert (low, high) == pytest.approx((1 - 2 * stats.norm.ppf(0.975), 1 + 2 * stats.norm.ppf(0.975)))


def test_one_part_of_an_error_keeps_its_degrees_and_equal_parts_add_theirs():
    assert combined(0.0, [(4.0, 7.0)]) == Contrast(estimate=0.0, standard_error=2.0, degrees=7.0)
    both = combined(0.0, [(4.0, 7.0), (4.0, 7.0)])
    assert (both.standard_error, both.degrees) == pytest.approx((math.sqrt(8), 14.0))
    assert combined(1.0, [(0.0, 5.0)]).degrees == 5.0
    with pytest.raises(ValueError, match="at least one part"):
        combined(0.0, [])


def test_welchs_two_samples_are_two_parts():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal(6), 3 * rng.standard_normal(15)
    parts = [(values.var(ddof=1) / len(values), len(values) - 1.0) for values in (first, second)]
    found = combined(float(first.mean() - second.mean()), parts)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found.interval(0.05) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_influences_give_the_jackknifes_error_of_a_smooth_statistic():
    values = np.random.default_rng(2).exponential(size=400)
    mean = values.mean()
    found = from_influences(math.log(mean), values / mean - 1)
    left_out = np.log((values.sum() - values) / (len(values) - 1))
    jackknife = math.sqrt((len(values) - 1) * left_out.var())
    assert found.standard_error == pytest.approx(jackknife, rel=0.01)
    assert found.degrees == len(values) - 1
    assert from_influences(1.0, np.tile([-1.0, 1.0], 500)).standard_error == pytest.approx(1 / math.sqrt(999))


def test_a_contrast_scales_and_changes_sign():
    found = Contrast(estimate=3.0, standard_error=1.0, degrees=4.0)
    assert found.scaled(2.0) == Contrast(estimate=1.5, standard_error=0.5, degrees=4.0)
    low, high = found.interval(0.05)
    assert found.of(-1.0).interval(0.05) == (-high, -low)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((-1.0, 2.0), (0.0, 2.0)), ((1.0, 2.0), (1.0, 2.0)), ((-3.0, -1.0), (1.0, 3.0)), ((2.0, -5.0), (0.0, 5.0))],
)
def test_a_magnitude_is_bounded_by_the_ends_of_its_number(interval, expected):
    assert of_magnitude(interval) == expected


def test_the_interval_of_a_rank_correlation_covers():
    rng = np.random.default_rng(3)
    truth = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's ρ of a normal pair with correlation ½
    hits = 0
    for _ in range(400):
        x = rng.standard_normal(40)
        y = 0.5 * x + math.sqrt(0.75) * rng.standard_normal(40)
        rho = float(stats.spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]
        low, high = rank_correlation_interval(rho, 40, 0.05)
        hits += low <= truth <= high
    # 95 % nominal; 400 draws scatter by 1.1 points, five of them below 0.945 and above.
    assert 0.895 < hits / 400 <= 1.0
    low, high = rank_correlation_interval(1.0, 10, 0.05)
    assert 0.99 < low < high < 1
    with pytest.raises(ValueError, match=">= 4"):
        rank_correlation_interval(0.5, 3, 0.05)


def test_runs_that_are_known_equally_well_have_students_interval_over_runs_and_never_a_narrower_one_than_their_errors():
    values = [1.0, 2.0, 4.0, 5.0]
    found = random_effects([Contrast(estimate=value, standard_error=0.1) for value in values])
    assert (found.estimate, found.degrees) == (pytest.approx(3.0), 3.0)
    assert found.interval(0.05) == pytest.approx(mean_of(values).interval(0.05), rel=1e-9)
    alike = random_effects([Contrast(estimate=1.0 + 1e-3 * i, standard_error=0.5) for i in range(4)])
    assert alike.standard_error == pytest.approx(0.25), "runs that agree by luck are known no better than their errors"
    with pytest.raises(ValueError, match="at least 2 runs"):
        random_effects([Contrast(estimate=1.0, standard_error=1.0)])
    with pytest.raises(ValueError, match="positive standard errors"):
        random_effects([Contrast(estimate=1.0, standard_error=0.0)] * 2)


def test_the_variance_between_runs_is_the_moment_estimate():
    """Against the definition of DerSimonian and Laird 1986, solved numerically: E Q at τ² equals the observed Q."""
    from scipy.optimize import brentq

    values, errors = np.array([0.2, 1.3, -0.4, 2.2, 0.9]), np.array([0.2, 0.5, 0.3, 0.6, 0.1])
    weights = errors**-2.0
    observed = weights @ (values - weights @ values / weights.sum()) ** 2
    centring = np.eye(5) - np.outer(np.ones(5), weights) / weights.sum()

    def expected(between):
        covariance = np.diag(errors**2 + between)
        return np.trace(np.diag(weights) @ centring @ covariance @ centring.T) - observed

    total = 1 / (errors**2 + brentq(expected, 0.0, 100.0))
    found = random_effects([Contrast(estimate=v, standard_error=s) for v, s in zip(values, errors, strict=True)])
    assert found.estimate == pytest.approx(total @ values / total.sum(), rel=1e-9)


def test_the_meta_analysis_covers_the_mean_of_runs_of_unequal_precision():
    """1000 repeats of 4 seeds: the misses of a 95 % interval lie below the 1e-4 quantile of the binomial law."""
    rng = np.random.default_rng(0)
    errors = np.array([0.3, 0.6, 1.0, 1.5])
    missed = 0
    for _ in range(1000):
        values = 0.5 * rng.standard_normal(4) + errors * rng.standard_normal(4)
        runs = [Contrast(estimate=v, standard_error=s) for v, s in zip(values, errors, strict=True)]
        low, high = random_effects(runs).interval(0.05)
        missed += not low <= 0.0 <= high
    assert missed <= stats.binom.ppf(1 - 1e-4, 1000, 0.05)
    assert missed > 0


def test_an_interval_gives_back_its_contrast():
    one = Contrast(estimate=1.0, standard_error=0.3)
    assert of_interval(1.0, one.interval(0.05), 0.05).standard_error == pytest.approx(0.3)
