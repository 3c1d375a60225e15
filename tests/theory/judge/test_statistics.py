"""The judge's statistics against their definitions, by other means: quadrature, simulation with known nulls, SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from theory.judge.claim import FAMILY_ALPHA, FAMILY_SIZE, MISS, TEST_ALPHA, needed_degrees
from theory.judge.statistics import (
    binomial_interval,
    confidence_sequence,
    normal_p_value,
    normal_quantile,
    pooled_kurtosis_variance,
    pooled_moment_covariance,
    pooled_moment_variance,
    required_degrees,
    variance_interval,
    variance_p_value,
)


@given(ratio=st.floats(0.01, 5), degrees=st.floats(1, 1e6))
def test_variance_p_values_are_those_of_the_chi_square_law(ratio, degrees):
    law = stats.chi2(degrees)
    expected = min(1.0, 2 * min(law.cdf(ratio * degrees), law.sf(ratio * degrees)))
    assert float(variance_p_value(ratio, degrees)) == pytest.approx(expected, rel=1e-8, abs=1e-290)


def test_variance_p_values_hold_far_in_the_tail():
    # ln P(χ²_ν > ν r) from the Chernoff exponent with its leading prefactor (Lugannani–Rice), ν = 2.5e6, r = 1.006
    degrees, ratio = 2.5e6, 1.006
    root = np.sqrt(degrees * (ratio - 1 - np.log(ratio)))
    saddle = np.sqrt(degrees / 2) * (1 - 1 / ratio)
    tail = stats.norm.sf(root) + stats.norm.pdf(root) * (1 / saddle - 1 / root)
    assert float(variance_p_value(ratio, degrees)) == pytest.approx(2 * tail, rel=1e-4)


def test_required_degrees_give_exactly_the_stated_power():
    for detects, alpha, miss in ((0.01, 1e-6, 1e-6), (0.05, 1e-3, 0.01), (0.2, 0.05, 0.2)):
        degrees = required_degrees(detects, alpha, miss)
        law = stats.chi2(degrees)
        upper, lower = law.isf(alpha / 2), law.ppf(alpha / 2)
        missed = max(law.cdf(upper / (1 + detects)), law.sf(lower * (1 + detects)))
        assert missed == pytest.approx(miss, rel=1e-6)


def test_the_familys_sample_size_is_what_its_constants_say():
    assert TEST_ALPHA == FAMILY_ALPHA / FAMILY_SIZE and FAMILY_ALPHA == 1e-6 and MISS == 1e-6
    assert needed_degrees(0.01) == required_degrees(0.01, 1e-10, 1e-6)
    assert required_degrees(0.01, 1e-6, 0.01) == pytest.approx(1.0537e6, rel=1e-3)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="detects"):
            needed_degrees(wrong)


@given(degrees=st.floats(50, 1e6), alpha=st.sampled_from([0.05, 1e-6]))
def test_variance_intervals_hold_the_ratios_that_are_not_rejected(degrees, alpha):
    low, high = variance_interval(1.0, degrees, alpha)
    for edge in (low, high):
        assert float(variance_p_value(1.0 / edge, degrees)) == pytest.approx(alpha, rel=1e-6)


def test_normal_scores():
    assert float(normal_p_value(1.959963984540054)) == pytest.approx(0.05, rel=1e-12)
    assert normal_quantile(1e-10) == pytest.approx(stats.norm.isf(5e-11), rel=1e-12)


def linear_process(rng, replicas, steps, response, sample):
    """z(t) = Σ_k Φ_k x(t−1−k) for t = 1 … steps, with x = 0 before step 0; shape (replicas, steps, n)."""
    noise = sample(rng, (replicas, steps, response.shape[2]))
    z = np.zeros((replicas, steps, response.shape[1]))
    for delay, matrix in enumerate(response):
        z[:, delay:] += noise[:, : steps - delay] @ matrix.T
    return z


def exact_lagged(response, lags, stride):
    """Γ(h stride) = Σ_k Φ_{k + h stride} Φ_kᵀ."""
    padded = np.concatenate([response, np.zeros((lags * stride, *response.shape[1:]))])
    return np.stack(
        [np.einsum("kia,kja->ij", padded[h * stride : h * stride + len(response)], response) for h in range(lags)]
    )


RESPONSE = np.stack([0.8**k * np.array([[np.cos(k), 0.3], [0.2 * k, 1.0]]) for k in range(30)])


@pytest.mark.parametrize("law", ["normal", "rademacher"])
def test_pooled_moments_scatter_as_predicted(law):
    sample = {
        "normal": lambda rng, shape: rng.standard_normal(shape),
        "rademacher": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    }[law]
    kurtosis = {"normal": 0.0, "rademacher": -2.0}[law]
    rng = np.random.default_rng(5)
    repeats, replicas, stride = 3000, 2, 3
    times = np.arange(33, 94, stride)
    found = []
    for _ in range(repeats):
        z = linear_process(rng, replicas, times[-1], RESPONSE, sample)[:, times - 1]
        found.append(np.einsum("rti,rtj->ij", z, z) / (replicas * len(times)))
    found = np.array(found)
    lagged = exact_lagged(RESPONSE, 10, stride)
    predicted = pooled_moment_variance(lagged, len(times), replicas)
    predicted = predicted + pooled_kurtosis_variance(RESPONSE, times, replicas, kurtosis)
    # the variance of 3000 nearly normal numbers is known to 2.6 % (1 σ); 6 σ over four entries
    assert np.abs(found.var(axis=0) / predicted - 1).max() < 6 * np.sqrt(2 / repeats) * 1.5
    pair = pooled_moment_covariance(
        lagged, len(times), replicas, (np.array([0]), np.array([0])), (np.array([1]), np.array([1]))
    )
    if law == "normal":
        measured = np.cov(found[:, 0, 0], found[:, 1, 1])[0, 1]
        noise = np.sqrt(predicted[0, 0] * predicted[1, 1] / repeats)
        assert abs(measured - pair[0]) < 6 * noise * 1.5
        same = pooled_moment_covariance(lagged, len(times), replicas, *[(np.array([0, 0]), np.array([0, 1]))] * 2)
        assert np.allclose(same, predicted[0, :2], rtol=1e-12)


def test_kurtosis_variance_equals_its_double_sum():
    times, replicas, kurtosis = np.arange(4, 20, 3), 3, 1.7
    total = np.zeros((2, 2))
    for source in range(times[-1]):
        inner = np.zeros((2, 2, 2))
        for t in times:
            delay = t - 1 - source
            if 0 <= delay < len(RESPONSE):
                inner += np.einsum("ia,ja->ija", RESPONSE[delay], RESPONSE[delay])
        total += (inner**2).sum(axis=-1)
    expected = kurtosis * total / (replicas * len(times) ** 2)
    assert np.allclose(pooled_kurtosis_variance(RESPONSE, times, replicas, kurtosis), expected, rtol=1e-12)
    short = RESPONSE[:5]
    total = np.zeros((2, 2))
    for source in range(times[-1]):
        inner = np.zeros((2, 2, 2))
        for t in times:
            if 0 <= t - 1 - source < 5:
                inner += np.einsum("ia,ja->ija", short[t - 1 - source], short[t - 1 - source])
        total += (inner**2).sum(axis=-1)
    expected = kurtosis * total / (replicas * len(times) ** 2)
    assert np.allclose(pooled_kurtosis_variance(short, times, replicas, kurtosis), expected, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 10**7), ratio=st.floats(0.9, 1.1), alpha=st.sampled_from([0.05, 1e-6]))
def test_confidence_sequence_holds_the_thetas_whose_evidence_is_small(count, ratio, alpha):
    total = ratio * count
    low, high = confidence_sequence(total, count, alpha)
    assert low <= ratio * (1 + 1e-12) and ratio <= high * (1 + 1e-12)

    def log_evidence(theta):
        from scipy.special import gammaln

        half, k, s = count / 2, 1e4, total / theta / 2
        return k * np.log(k) + gammaln(k + half) - gammaln(k) + s - (k + half) * np.log(k + s)

    for end in (low, high):
        if 0 < end < np.inf:
            assert log_evidence(end) == pytest.approx(-np.log(alpha), abs=1e-4 * max(1.0, count**0.25))


def test_confidence_sequence_rarely_loses_the_truth_whenever_one_looks():
    rng = np.random.default_rng(11)
    runs, looks, alpha = 2000, 60, 0.05
    lost = 0
    for _ in range(runs):
        sums = np.cumsum(rng.chisquare(500, looks))
        counts = 500 * np.arange(1, looks + 1)
        lost += any(
            not lo <= 1.0 <= hi
            for lo, hi in (confidence_sequence(s, n, alpha, 100.0) for s, n in zip(sums, counts, strict=True))
        )
    assert binomial_interval(lost, runs, 1e-6)[0] <= alpha, "Ville's inequality is an upper bound"
    assert lost > 0, "a sequence that never errs at 5 % is not looking"


def test_binomial_interval_is_clopper_pearson():
    for k, n in ((0, 10), (3, 10), (10, 10), (500, 10_000)):
        expected = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert binomial_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="successes"):
        binomial_interval(5, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: variance_p_value(-1.0, 5), "ratio"),
        (lambda: variance_p_value(float("nan"), 5), "ratio"),
        (lambda: variance_p_value(1.0, 0), "degrees"),
        (lambda: required_degrees(0.0, 0.1, 0.1), "detects"),
        (lambda: required_degrees(0.1, 2.0, 0.1), "alpha"),
        (lambda: confidence_sequence(0.0, 10, 0.1), "sum_of_squares"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
