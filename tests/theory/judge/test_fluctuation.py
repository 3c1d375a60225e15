"""The fluctuation–dissipation tests: level on stationary runs, power on others, and what a short run is told."""

from __future__ import annotations

import numpy as np
import pytest

from theory.judge.fluctuation import (
    FluctuationStatus,
    first_fluctuation_dissipation,
    second_fluctuation_dissipation,
)
from theory.judge.statistics import binomial_interval
from theory.model.optimizer import MomentumSGD
from theory.oracle.update import momentum_update

FAST = np.array([0.2, 1.0, 5.0])
#: ηλ/(1−μ) = 0.002: 500 steps of memory.
SLOW = np.array([0.002, 1.0, 5.0])


def runs(curvatures, optimizer, steps, count, seed, *, start=0.0, burn_in=0):
    """What `count` runs would log, each array ``(steps, count)``."""
    rng = np.random.default_rng(seed)
    w, v = np.full((count, len(curvatures)), start), np.zeros((count, len(curvatures)))
    names = ("overlap", "buffer", "step_overlap", "step", "slope", "curvature", "size")
    log = {name: np.empty((steps, count)) for name in names}
    for t in range(-burn_in, steps):
        g = curvatures * w + rng.standard_normal(w.shape)
        other = curvatures * w + rng.standard_normal(w.shape)
        moved, v = momentum_update(optimizer, w, v, g)
        if t >= 0:
            log["size"][t] = (w * w).sum(axis=1)
            d = (w - moved) / optimizer.learning_rate
            log["overlap"][t], log["buffer"][t] = (w * g).sum(axis=1), (v * v).sum(axis=1)
            log["step_overlap"][t], log["step"][t] = (w * d).sum(axis=1), (d * d).sum(axis=1)
            log["slope"][t], log["curvature"][t] = (other * d).sum(axis=1), (curvatures * d * d).sum(axis=1)
        w = moved
    return log


def first(log, optimizer, run):
    return first_fluctuation_dissipation(
        log["overlap"][:, run],
        log["buffer"][:, run],
        optimizer.learning_rate,
        momentum=optimizer.momentum,
        dampening=optimizer.dampening,
    )


def rejected(results, level=0.05):
    return binomial_interval(sum(result.p_value < level for result in results), len(results), alpha=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [MomentumSGD(0.1, 0.9), MomentumSGD(0.3, 0.5, dampening=0.5), MomentumSGD(0.3)],
    ids=repr,
)
def test_the_first_relation_keeps_its_level_on_stationary_runs(optimizer):
    log = runs(FAST, optimizer, 3000, 400, seed=1, burn_in=300)
    results = [first(log, optimizer, run) for run in range(400)]
    low, high = rejected(results)
    assert low <= 0.05 <= high and high < 0.12
    assert np.mean([result.status is FluctuationStatus.OK for result in results]) > 0.9
    scores = np.array([result.statistic for result in results])
    assert abs(scores.mean()) < 4 / np.sqrt(len(scores))


@pytest.mark.parametrize(
    "optimizer", [MomentumSGD(0.1, 0.8, nesterov=True), MomentumSGD(0.2, 0.9, dampening=0.9, discount=0.7)]
)
def test_any_optimizer_keeps_the_level_through_its_own_steps(optimizer):
    log = runs(FAST, optimizer, 3000, 300, seed=2, burn_in=300)
    results = [
        first_fluctuation_dissipation(log["step_overlap"][:, run], log["step"][:, run], optimizer.learning_rate)
        for run in range(300)
    ]
    low, high = rejected(results)
    assert low <= 0.05 <= high


@pytest.mark.parametrize("start", [100.0, 300.0])
def test_a_run_that_still_descends_is_found_out(start):
    optimizer = MomentumSGD(0.1, 0.9)
    log = runs(SLOW, optimizer, 1000, 200, seed=3, start=start)
    results = [first(log, optimizer, run) for run in range(200)]
    assert rejected(results)[0] > 0.9
    assert np.mean([result.ratio for result in results]) > 1, "dissipation exceeds fluctuation while it descends"


def test_the_average_over_the_whole_run_would_not_notice():
    """Its error from batch means is that of levels, √B too large for a sum that telescopes."""
    optimizer = MomentumSGD(0.1, 0.9)
    log = runs(FAST, optimizer, 3000, 300, seed=4, burn_in=300)
    gap = log["overlap"] - 0.5 * 1.9 * 0.1 * log["buffer"]
    means = gap[-2992:].reshape(16, -1, 300).mean(axis=1)
    scores = means.mean(axis=0) / (means.std(axis=0, ddof=1) / 4)
    assert np.abs(scores).max() < 2, "a t of 15 degrees exceeds 2 in 6 % of calibrated tests"


def test_the_sum_telescopes_and_the_numbers_agree_with_each_other():
    optimizer = MomentumSGD(0.3)
    log = runs(FAST, optimizer, 64, 1, seed=5, start=2.0)
    result = first(log, optimizer, 0)
    assert result.statistic * result.standard_error * result.right == pytest.approx(
        result.left - result.right, rel=1e-9
    )
    assert result.ratio == pytest.approx(result.left / result.right)
    level = np.cumsum(2 * 0.3 * (0.15 * log["buffer"][:, 0] - log["overlap"][:, 0]))
    assert level[:-1] == pytest.approx(log["size"][1:, 0] - log["size"][0, 0], rel=1e-10, abs=1e-12)


def test_a_run_shorter_than_its_memory_says_so():
    optimizer = MomentumSGD(0.1, 0.9)
    log = runs(SLOW, optimizer, 400, 20, seed=6)
    assert all(first(log, optimizer, run).status is FluctuationStatus.SHORT for run in range(20))


@pytest.mark.parametrize("optimizer", [MomentumSGD(0.1), MomentumSGD(0.1, 0.9)], ids=repr)
def test_the_second_relation_keeps_its_level_and_sees_a_wrong_curvature(optimizer):
    log = runs(FAST, optimizer, 4000, 300, seed=7, burn_in=300)

    def results(factor):
        return [
            second_fluctuation_dissipation(log["slope"][:, run], factor * log["curvature"][:, run], 0.1)
            for run in range(300)
        ]

    low, high = rejected(results(1.0))
    assert low <= 0.05 <= high
    assert rejected(results(1.5))[0] > 0.9


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"overlap": np.ones(10)}, "T >= 64"),
        ({"overlap": np.full(100, np.nan)}, "finite"),
        ({"squared": np.arange(99.0)}, "the 100 steps"),
        ({"squared": np.ones(100)}, "must vary"),
        ({"learning_rate": 0.0}, "> 0"),
        ({"momentum": 1.0}, r"\[0, 1\)"),
        ({"dampening": -0.1}, r"\[0, 1\)"),
    ],
)
def test_what_is_refused_is_named(change, rule):
    arguments = {"overlap": np.arange(100.0), "squared": np.arange(100.0), "learning_rate": 0.1, **change}
    with pytest.raises(ValueError, match=rule):
        first_fluctuation_dissipation(**arguments)
