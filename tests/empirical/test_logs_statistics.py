"""Intervals cover what they say, decays are where they were put, and change points are found without being told."""

from __future__ import annotations

import numpy as np
import pytest

from empirical.logs import decays as finding
from empirical.logs.resampling import block_bootstrap, contrast, epoch_noise, window_weights
from tests.empirical.log_writing import noise, training_run

BREAK = 50
TREND = np.r_[np.linspace(3.0, 2.0, BREAK), 1.5 + np.linspace(0.0, 1.0, BREAK) ** 2]


def test_noise_of_a_trend_alone_is_nothing():
    found = epoch_noise(TREND, 0, BREAK)
    assert found.standard_deviation < 1e-11
    np.testing.assert_allclose(found.trend, TREND[:BREAK], rtol=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_noise_is_estimated_without_the_bias_of_detrending(rho):
    rng = np.random.default_rng(1)
    found = [epoch_noise(TREND[:BREAK] + noise(BREAK, 0.02, rho, rng), 0, BREAK) for _ in range(600)]
    variance = np.mean([item.standard_deviation**2 for item in found])
    # ρ̂ is held at ≥ 0 and scatters by 0.14, which shows at ρ = 0 as a mean of 0.06 and σ² a little high.
    assert np.mean([item.lag_one for item in found]) == pytest.approx(rho, abs=0.08)
    assert variance == pytest.approx(0.02**2, rel=0.12 if rho < 0.5 else 0.25)
    naive = [(item.residuals[1:] @ item.residuals[:-1]) / (item.residuals @ item.residuals) for item in found]
    assert np.mean(naive) < rho - 0.03  # what the moments are corrected for


def test_a_contrast_is_the_difference_of_means_with_the_textbook_error():
    rng = np.random.default_rng(2)
    values = TREND + rng.normal(size=2 * BREAK) * 0.1
    stretches = [epoch_noise(values, 0, BREAK), epoch_noise(values, BREAK, 2 * BREAK)]
    found = contrast(values, window_weights(2 * BREAK, [(40, 50, 1.0), (50, 55, -1.0)]), stretches)
    assert found.estimate == pytest.approx(values[40:50].mean() - values[50:55].mean(), rel=1e-12)
    white = [contrast(values, window_weights(2 * BREAK, [(40, 50, 1.0)]), [stretches[0]])]
    sigma, rho = stretches[0].standard_deviation, stretches[0].lag_one
    expected = sigma / 10 * np.sqrt(10 + 2 * sum((10 - k) * rho**k for k in range(1, 10)))
    assert white[0].standard_error == pytest.approx(expected, rel=1e-12)


def coverage(rho: float, after: int, replicates: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    weights = window_weights(2 * BREAK, [(BREAK - 10, BREAK, 1.0), (BREAK, BREAK + after, -1.0)])
    hits = 0
    for _ in range(replicates):
        error = np.r_[noise(BREAK, 0.02, rho, rng), noise(BREAK, 0.05, rho, rng)]
        stretches = [epoch_noise(TREND + error, 0, BREAK), epoch_noise(TREND + error, BREAK, 2 * BREAK)]
        low, high = contrast(TREND + error, weights, stretches).interval(0.05)
        hits += low <= weights @ TREND <= high
    return hits / replicates


@pytest.mark.parametrize("rho", [-0.2, 0.0, 0.25])
def test_ninety_five_per_cent_intervals_cover_the_truth(rho):
    # 1500 replicates: ± 4 standard errors of 0.0056. Negative ρ is not used to narrow the interval.
    assert 0.93 <= coverage(rho, 5, 1500, seed=3) <= (0.97 if rho >= 0 else 0.99)


@pytest.mark.slow
@pytest.mark.parametrize("after", [5, 10])
@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5])
def test_coverage_over_the_range_of_published_autocorrelations(rho, after):
    assert 0.935 <= coverage(rho, after, 6000, seed=5) <= 0.975


def test_a_block_bootstrap_agrees_with_the_model_where_the_model_holds():
    rng = np.random.default_rng(6)
    ratios = []
    for _ in range(40):
        error = noise(400, 0.02, 0.3, rng)
        found = epoch_noise(error, 0, 400)
        # Blocks much longer than the window: a shorter block cuts the correlations that the mean of 10 depends on.
        means = block_bootstrap(found.residuals, 400, rng=rng, length=40)[:, :10].mean(axis=1)
        weights = window_weights(400, [(0, 10, 1.0)])
        ratios.append(means.std() / contrast(error, weights, [found]).standard_error)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_a_block_bootstrap_keeps_the_blocks_whole():
    residuals = np.arange(20.0)
    series = block_bootstrap(residuals, 3, rng=np.random.default_rng(0), length=5) / np.sqrt(20 / 17) + 9.5
    steps = np.diff(series.reshape(3, 4, 5), axis=2) % 20
    np.testing.assert_allclose(steps, 1.0, atol=1e-9)


# --- decays ------------------------------------------------------------------------------------------------------


def test_decays_are_read_with_the_stretches_around_them():
    columns = training_run(epochs=150, decays=(60, 100), ratio=0.2)
    first, second = finding.find_decays(columns["epoch"], columns["learning_rate"])
    assert (first.row, first.epoch, second.row) == (59, 59, 99)
    assert first.ratio == pytest.approx(0.2) and second.after == pytest.approx(0.004)
    assert (first.start, first.stop, second.stop) == (0, 99, 150)


def test_cosines_warm_ups_and_constant_rates_have_no_decay():
    epochs = np.arange(100.0)
    for rate in (
        np.full(100, 0.1),
        0.05 * (1 + np.cos(np.pi * epochs / 100)) + 1e-9,
        np.interp(epochs, [0, 40, 99], [0.001, 0.2, 0.001]),
    ):
        assert finding.find_decays(epochs, rate) == ()


def test_a_decay_spread_over_two_rows_is_one_and_a_warm_up_is_not_its_stretch():
    rate = np.r_[np.linspace(0.01, 0.1, 10), np.full(40, 0.1), 0.05, np.full(49, 0.01)]
    (decay,) = finding.find_decays(np.arange(100.0), rate)
    assert (decay.row, decay.start, decay.before, decay.after) == (50, 9, 0.1, 0.01)


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_the_change_is_located_where_it_is_whatever_the_log_says(offset):
    columns = training_run(epochs=150, decays=(60, 100), offset=offset, seed=offset)
    curves = {name: columns[name] for name in ("test_robust_loss", "train_robust_loss")}
    found = [finding.locate(curves, decay) for decay in finding.find_decays(columns["epoch"], columns["learning_rate"])]
    assert [item.row for item in found] == [60, 100]
    assert all(item.interval[0] <= row <= item.interval[1] for item, row in zip(found, (60, 100), strict=True))


def test_a_curve_that_does_not_change_has_a_wide_location():
    columns = training_run(epochs=150, decays=(60,), fall=(0.0,), rise=(0.0,), train_fall=(0.0,))
    (decay,) = finding.find_decays(columns["epoch"], columns["learning_rate"])
    found = finding.locate({"test_robust_loss": columns["test_robust_loss"]}, decay)
    assert found.interval[1] - found.interval[0] >= 4


def test_a_location_needs_epochs_on_both_sides():
    columns = training_run(epochs=64, decays=(60,), fall=(0.2,), rise=(0.0,), train_fall=(0.3,))
    (decay,) = finding.find_decays(columns["epoch"], columns["learning_rate"])
    assert finding.locate({"test_robust_loss": columns["test_robust_loss"]}, decay) is None


def test_change_points_are_found_without_the_schedule():
    pytest.importorskip("ruptures")
    hits = 0
    for seed in range(20):
        columns = training_run(epochs=150, decays=(60, 100), seed=seed)
        found = finding.change_points(columns["test_robust_loss"])
        hits += all(any(abs(row - truth) <= 2 for row in found) for truth in (60, 100))
    assert hits >= 19


def test_white_noise_around_a_line_has_no_change_points():
    pytest.importorskip("ruptures")
    found = [
        finding.change_points(np.linspace(1, 2, 150) + np.random.default_rng(seed).normal(size=150) * 0.02)
        for seed in range(40)
    ]
    assert sum(bool(item) for item in found) <= 4


def test_the_segment_cost_is_that_of_least_squares():
    pytest.importorskip("ruptures")
    values = np.random.default_rng(0).normal(size=60).cumsum()
    cost = finding._straight_lines(8).fit(values[:, None])
    for start, end in ((0, 60), (3, 20), (41, 60)):
        t = np.arange(start, end)
        residuals = values[start:end] - np.polyval(np.polyfit(t, values[start:end], 1), t)
        expected = len(t) * np.log(np.mean(residuals**2))
        assert cost.error(start, end) == pytest.approx(expected, rel=1e-9)
