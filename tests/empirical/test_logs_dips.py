"""Dips as fitted curves: parameters that were put in come out, intervals cover them, and claims know their truths."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from empirical.claims import EmpiricalClaim
from empirical.claims import logs as claims
from empirical.logs import dips
from empirical.logs.effects import run_of
from empirical.logs.resampling import epoch_noise
from empirical.records import LoggedRun
from tests.empirical.log_writing import noise, training_run
from tests.empirical.record_making import logged_run
from theory.judge.results import Forest
from theory.judge.verdict import Outcome, Verdict

#: Steps an epoch of CIFAR-10 in batches of 128.
STEPS = 391


def curve(u: np.ndarray, *, size: float = 0.2, scale: float = 0.7, drift: float = 0.007, level: float = 1.4):
    """Equation (D) without a slope ahead of the drop."""
    return level + np.where(u > 0, size * np.expm1(-np.maximum(u, 0) / scale) + drift * u, 0.0)


def lowest(size: float, scale: float, drift: float) -> tuple[float, float]:
    """(time, depth) of the minimum by brute force."""
    u = np.linspace(0, 20, 200_001)
    values = curve(u, size=size, scale=scale, drift=drift)
    return float(u[np.argmin(values)]), float(1.4 - values.min())


def fitted(seed: int | None, *, rho: float = 0.1, **shape: float) -> dips.Dip:
    u = np.arange(-49, 51.0)
    y = curve(u, **shape)
    if seed is not None:
        y = y + noise(100, 0.016, rho, np.random.default_rng(seed))
    kept = (u > -20) & (u <= 20)
    return dips._fit(u[kept], y[kept], (epoch_noise(y, 0, 50), epoch_noise(y, 55, 100, degree=4)))


@pytest.mark.parametrize(
    "shape",
    [
        {"size": 0.2, "scale": 0.7, "drift": 0.007},
        {"size": 0.3, "scale": 2.0, "drift": 0.01},
        {"size": 0.1, "scale": 0.5, "drift": -0.002},
    ],
)
def test_a_curve_without_noise_gives_what_was_put_in(shape):
    found = fitted(None, **shape)
    time, depth = lowest(**shape)
    assert found.time_scale.estimate == pytest.approx(shape["scale"], rel=0.025)  # half a step of the grid is 2.1 %
    assert found.size.estimate == pytest.approx(shape["size"], rel=0.02)
    assert found.drift.estimate == pytest.approx(shape["drift"], abs=2e-4)
    assert found.depth.estimate == pytest.approx(depth, rel=0.01)
    assert found.time.estimate == pytest.approx(time, abs=0.1)
    assert found.found


@pytest.mark.parametrize("scale", [0.7, 2.0])
def test_intervals_cover_the_truth_and_the_depth_is_not_that_of_the_noise(scale):
    shape = {"size": 0.2, "scale": scale, "drift": 0.007}
    time, depth = lowest(**shape)
    truth = {"time_scale": scale, "size": 0.2, "drift": 0.007, "time": time, "depth": depth}
    hits = dict.fromkeys(truth, 0)
    found = [fitted(seed, **shape) for seed in range(100)]
    for one in found:
        for name, value in truth.items():
            low, high = getattr(one, name).interval
            hits[name] += low <= value <= high
    assert min(hits.values()) >= 86, hits  # 95 nominal; P(fewer than 86 of 100) is 0.04 % at 95 %, 8 % at 90 %
    bias = np.mean([one.depth.estimate for one in found]) - depth
    assert abs(bias) < 0.005
    u = np.arange(1, 21.0)
    noisy = [
        1.4 - (curve(u, **shape) + noise(20, 0.016, 0.1, np.random.default_rng(seed))).min() for seed in range(100)
    ]
    assert np.mean(noisy) - depth > 0.01  # the trap: the lowest epoch of a noisy curve lies below the curve


def test_noise_alone_is_rarely_called_a_dip():
    assert sum(fitted(seed, size=0.0, drift=0.0).found for seed in range(60)) <= 4


def test_a_step_has_a_time_scale_that_is_not_resolved():
    found = fitted(3, scale=0.02)
    assert found.time_scale.interval[0] == dips.TIME_SCALES[0]


# --- logs with known truths --------------------------------------------------------------------------------------


def log(
    label: str = "run",
    *,
    method: str = "at",
    seed: int = 0,
    epochs: int = 200,
    decays: tuple[int, ...] = (100, 150),
    sizes: tuple[float, ...] = (0.2, 0.02),
    scales: tuple[float, ...] = (0.7, 0.7),
    drifts: tuple[float, ...] = (0.007, 0.009),
    before: float = 0.0,
    sigma: float = 0.008,
    dataset: str = "cifar10",
) -> LoggedRun:
    columns = training_run(epochs=epochs, decays=decays, seed=seed, fall=(0.2,) * 2, rise=(0.0,) * 2)
    t = np.arange(epochs, dtype=float)
    test = 1.4 + 0.6 * np.exp(-t / 4) + before * np.minimum(t, decays[0])
    for start, stop, size, scale, drift in zip(decays, (*decays[1:], epochs), sizes, scales, drifts, strict=False):
        u = np.maximum(t - start + 1, 0.0)
        test = test + size * np.expm1(-u / scale) + drift * np.minimum(u, stop - start)
    columns["test_robust_loss"] = np.maximum(test + noise(epochs, sigma, 0.1, np.random.default_rng(seed)), 1e-3)
    return logged_run(
        columns,
        label=label,
        dataset=dataset,
        method=method,
        order=f"{dataset}, seed 0",
        train_columns="running",
        sha256=f"{label} {seed}",
    )


def judge(entry: EmpiricalClaim, *items: LoggedRun) -> dict[str, Verdict]:
    return {str(subject.about): entry.judge(subject) for subject in entry.subjects(items)}


def judged(entry: EmpiricalClaim, *items: LoggedRun) -> Verdict:
    (verdict,) = judge(entry, *items).values()
    return verdict


def decoys(verdict: Verdict) -> list[Outcome]:
    return [decoy.outcome for decoy in verdict.decoys]


def scale_of(share: float, *, rate: float = 0.01) -> float:
    """Epochs in which a curvature of this share of the edge 2(1−μ)/η relaxes after η .1 → .01, at μ = .9."""
    curvature = share * 2 * 0.1 / 0.1
    return 0.1 / (rate * curvature * STEPS)


def test_the_implied_curvature_is_that_which_was_put_in():
    item = log(scales=(1.0, 1.0), sigma=0.004)
    run = run_of(item)
    found = dips.implied_curvature(run, 0, dips.fit_dip(run, 0))
    assert found.estimate == pytest.approx(0.1 / (0.01 * STEPS), rel=0.15)
    assert found.interval[0] <= 0.1 / (0.01 * STEPS) <= found.interval[1]
    assert dips.small_batch_edge(run, 0) == pytest.approx(2 * 0.1 / 0.1)


def test_a_dip_on_the_predicted_time_scale_is_supported_and_both_decoys_refuted():
    verdict = judged(claims.DIP_TIME_SCALE, log(scales=(scale_of(1 / 50), 1.0), sigma=0.002))
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert decoys(verdict) == [Outcome.REFUTED] * 2
    assert "of the small-batch edge before it" in verdict.note


def test_a_dip_far_slower_than_predicted_refutes_it():
    verdict = judged(claims.DIP_TIME_SCALE, log(scales=(scale_of(1 / 500), 1.0), drifts=(0.0, 0.0), sigma=0.001))
    assert verdict.outcome is Outcome.REFUTED, verdict.note


def test_a_dip_within_the_first_epoch_settles_no_time_scale():
    verdict = judged(claims.DIP_TIME_SCALE, log(scales=(scale_of(1.0), 1.0)))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "an end is not resolved" in verdict.note


def test_a_loss_that_rises_at_the_decay_has_no_dip_to_speak_of():
    item = log(sizes=(-0.2, 0.0))
    for entry in (claims.DIP_TIME_SCALE, claims.SECOND_DIP_SMALLER):
        verdict = judged(entry, item)
        assert verdict.outcome is Outcome.NOT_APPLICABLE and "no dip at decay 1" in verdict.note


def at_epochs(epochs: tuple[int, ...], depth) -> list[LoggedRun]:
    return [
        log(f"drop at {epoch}", seed=epoch, epochs=epoch + 40, decays=(epoch,), sizes=(depth(epoch),), drifts=(0.003,))
        for epoch in epochs
    ]


def test_dips_of_one_depth_are_told_from_dips_that_grow_with_their_epoch():
    epochs = (50, 70, 100, 130)
    same = judged(claims.DIP_FORGETS_ITS_EPOCH, *at_epochs(epochs, lambda epoch: 0.2))
    assert same.outcome is Outcome.SUPPORTED and decoys(same) == [Outcome.REFUTED]
    forests = [result for result in same.results if isinstance(result, Forest)]
    assert [len(forest.estimates) for forest in forests] == [4, 8]
    grow = judged(claims.DIP_FORGETS_ITS_EPOCH, *at_epochs(epochs, lambda epoch: 0.002 * epoch))
    assert grow.outcome is Outcome.REFUTED, grow.note


def test_one_epoch_or_several_factors_say_nothing_of_the_epoch():
    verdict = judged(claims.DIP_FORGETS_ITS_EPOCH, log("a"), log("b", seed=1))
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "decay at epoch 100" in verdict.note
    assert any(isinstance(result, Forest) for result in verdict.results)


@pytest.mark.parametrize(
    ("second", "outcome"), [(0.02, Outcome.SUPPORTED), (0.2, Outcome.REFUTED), (0.3, Outcome.REFUTED)]
)
def test_the_second_dip_is_held_against_half_of_the_first(second, outcome):
    verdict = judged(claims.SECOND_DIP_SMALLER, log(sizes=(0.2, second), drifts=(0.003, 0.003)))
    assert verdict.outcome is outcome, verdict.note
    if outcome is Outcome.SUPPORTED:
        assert decoys(verdict) == [Outcome.REFUTED]


def test_slopes_after_the_decay_are_compared_within_pairs():
    rising, flat = {"drifts": (0.008, 0.008)}, {"drifts": (-0.001, -0.001)}
    verdict = judged(claims.AWP_SLOWS_THE_RISE, log("at", **rising), log("awp", method="awp", seed=1, **flat))
    assert verdict.outcome is Outcome.SUPPORTED and decoys(verdict) == [Outcome.REFUTED]
    assert verdict.estimate == pytest.approx(0.09, abs=0.01)
    same = judged(claims.AWP_SLOWS_THE_RISE, log("at", **rising), log("awp", method="awp", seed=1, **rising))
    assert same.outcome is Outcome.REFUTED


def test_a_pair_that_parted_before_the_decay_leaves_it_open():
    at = log("at", drifts=(0.008, 0.008), before=0.008)
    verdict = judged(claims.AWP_SLOWS_THE_RISE, at, log("awp", method="awp", seed=1, drifts=(0.0, 0.0)))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "no power against the decoy" in verdict.note


@functools.cache
def slopes(seed: int) -> tuple[float, float]:
    at, awp = (run_of(log(name, method=name, seed=seed + shift)) for name, shift in (("at", 0), ("awp", 1000)))
    rows = (dips.settled_rows(at), dips.settled_rows(awp))
    return dips.rise_difference(at, awp, rows).interval


def test_equal_slopes_are_covered_at_the_level_stated():
    hits = sum(low <= 0 <= high for low, high in map(slopes, range(60)))
    assert hits >= 52  # 57 nominal
