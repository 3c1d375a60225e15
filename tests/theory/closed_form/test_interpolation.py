"""(T2): the known errors, the cases where it is exact, and where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from theory.closed_form.interpolation import READINGS, interpolated_variance, interpolation_error, settling_time
from theory.closed_form.stationary import stationary_variance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

STEPS = np.unique(np.rint(np.geomspace(1, 1e5, 400)).astype(int))


@pytest.mark.parametrize(
    ("rate", "reading", "percent"),
    [
        (3e-4, "effective-rate", 4.6),
        (3e-4, "spectral-radius", 5.2),
        (1e-3, "effective-rate", 13.2),
        (1e-3, "spectral-radius", 17.9),
    ],
)
def test_the_largest_error_after_a_tenfold_drop_is_the_known_one(rate, reading, percent):
    error = interpolation_error(np.array([rate]), 0.9, 0.1, STEPS, reading)
    assert 100 * np.abs(error).max() == pytest.approx(percent, abs=0.06)


@pytest.mark.parametrize(
    ("curvature", "steps", "percent"),
    [(0.01, 20, -1.5), (0.03, 20, -4.3), (0.1, 20, -13), (0.3, 20, -29), (1.0, 5, -49)],
)
def test_errors_at_single_steps_are_the_known_ones(curvature, steps, percent):
    error = interpolation_error(np.array([0.01 * curvature]), 0.9, 0.1, [steps], "effective-rate")[0, 0]
    assert 100 * error == pytest.approx(percent, abs=0.51 if percent <= -10 else 0.051)


@pytest.mark.parametrize("reading", READINGS)
def test_without_momentum_it_is_exact(reading):
    rates = np.array([1e-6, 0.1, 0.9, 0.1999])
    assert np.abs(interpolation_error(rates, 0.0, 0.5, STEPS, reading)).max() <= 1e-12
    # Beyond a = 1 the mode alternates; its square does not.
    assert np.abs(interpolation_error(np.array([1.3, 1.9]), 0.0, 1.5, STEPS, reading)).max() <= 1e-12


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_without_a_change_nothing_depends_on_the_step(reading, momentum):
    rates = np.array([1e-6, 1e-3, 0.1, 1.0])
    assert np.abs(interpolation_error(rates, momentum, 1.0, STEPS[:200], reading)).max() <= 1e-12


@pytest.mark.parametrize("reading", READINGS)
def test_both_ends_are_right(reading):
    problem = Quadratic(np.array([0.01, 0.03]), np.ones(2))
    before, after = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)
    ends = interpolated_variance(problem, before, after, [0, 10**9], reading)
    np.testing.assert_allclose(ends[0], stationary_variance(problem, before), rtol=1e-14)
    np.testing.assert_allclose(ends[1], stationary_variance(problem, after), rtol=1e-14)


def test_underdamped_modes_are_far_off_in_both_readings():
    for reading in READINGS:
        assert np.abs(interpolation_error(np.array([0.01, 0.1]), 0.9, 0.1, STEPS, reading)).max(axis=0).min() > 0.4


def test_the_settling_time_is_that_of_the_slowest_root():
    rates = np.array([1e-7, 0.5])
    times = settling_time(rates, MomentumSGD(1.0, 0.9))
    assert times[0] == pytest.approx(0.1 / 2e-7, rel=1e-5) and times[1] == pytest.approx(10.0, rel=1e-12)


def test_unknown_readings_are_refused():
    with pytest.raises(ValueError, match=r"must be one of \('spectral-radius', 'effective-rate'\); got 'best'"):
        interpolation_error(np.array([0.1]), 0.9, 0.1, [1], "best")
