"""Claims about the test of stationarity: a known truth, every decoy falls, and too few runs decide nothing."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from theory.claims import stationarity
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome

EXPERIMENTS = {item.name: item for item in stationarity.EXPERIMENTS}
STATISTICAL = {claim.name: claim for claim in stationarity.CLAIMS}


@functools.cache
def evidence(name: str, share: float = 1.0) -> Evidence:
    experiment = EXPERIMENTS[name]
    setting = experiment.setting("default")
    if share < 1:
        setting = replace(setting, runs=int(share * setting.runs))
    measured, arrays = experiment.run(setting, 5, lambda fraction: None)
    return Evidence(experiment=name, setting=setting.to_dict(), seed=5, measured=dict(measured), arrays=dict(arrays))


@pytest.mark.parametrize(("name", "share"), [("stationarity-level", 1.0), ("stationarity-power", 0.8)])
def test_the_test_of_stationarity_keeps_its_level_and_finds_descents(name, share):
    claim = STATISTICAL[name]
    verdict = claim.judge({item: evidence(item, share) for item in claim.experiments})
    assert verdict.outcome is Outcome.SUPPORTED, verdict
    assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}


@pytest.mark.parametrize("name", STATISTICAL)
def test_too_few_runs_decide_nothing(name):
    claim = STATISTICAL[name]
    verdict = claim.judge({item: evidence(item, 0.02) for item in claim.experiments})
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_a_rate_is_judged_at_the_level_of_the_family():
    from scipy.stats import beta

    from theory.judge.claim import TEST_ALPHA

    hits = np.arange(400) < 30
    item = Evidence(
        experiment="descending-runs", setting={}, seed=0, measured={}, arrays={"level": np.where(hits, 0.9, 0.01)}
    )
    comparison = stationarity._compare_power({"descending-runs": item}, stationarity._by("level"))
    assert comparison.estimate == 30 / 400
    expected = (beta.ppf(TEST_ALPHA / 2, 30, 371), beta.ppf(1 - TEST_ALPHA / 2, 31, 370))
    assert comparison.interval == pytest.approx(expected, rel=1e-9)
