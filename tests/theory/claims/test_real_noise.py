"""Claims about real noise and adaptive optimizers: evidence supports them, and the same evidence refutes each decoy.

The default runs are long; here each simulation has fewer replicas, so that an identity may end undecided for want of
runs, but never refuted, while every decoy must fall. The slow test runs the register's own settings.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest

from theory.claims import adaptive, real_noise
from theory.claims.regression import RegressionStudy, correction_table, variance_agreement
from theory.judge.claim import Kind
from theory.judge.evidence import Evidence
from theory.judge.results import Band
from theory.judge.verdict import Outcome

CLAIMS = {claim.name: claim for claim in (*real_noise.CLAIMS, *adaptive.CLAIMS)}
EXPERIMENTS = {item.name: item for item in (*real_noise.EXPERIMENTS, *adaptive.EXPERIMENTS)}
#: Share of the default replicas; 1 for what draws nothing or is cheap.
SHARE = {
    "exact-recursions": 1.0,
    "gaussian-inputs": 0.5,
    "shuffled-sampler": 0.5,
    "regression-diabetes": 0.5,
    "regression-digits": 0.25,
    "averaged-iterates": 0.5,
    "adaptive-frozen": 0.5,
    "adaptive-real": 1.0,
    "adaptive-map": 0.5,
    "adaptive-schedule": 1.0,
}


def _fewer(setting, share: float):
    if share == 1.0:
        return setting
    for name in ("runs", "cells"):
        if hasattr(setting, name):
            return replace(setting, **{name: tuple(_fewer(one, share) for one in getattr(setting, name))})
    return replace(setting, replicas=max(64, int(share * setting.replicas)))


@functools.cache
def _evidence(name: str, seed: int = 3) -> Evidence:
    experiment = EXPERIMENTS[name]
    setting = _fewer(experiment.setting("default"), SHARE[name])
    measured, arrays = experiment.run(setting, seed, lambda fraction: None)
    return Evidence(experiment=name, setting=setting.to_dict(), seed=seed, measured=dict(measured), arrays=dict(arrays))


@pytest.mark.parametrize("name", [name for name in CLAIMS if not name.startswith("minibatch-")])
def test_evidence_never_refutes_the_claim_and_always_refutes_its_decoys(name):
    claim = CLAIMS[name]
    verdict = claim.judge({item: _evidence(item) for item in claim.experiments})
    assert verdict.outcome is not Outcome.REFUTED, verdict.note
    if claim.kind is Kind.APPROXIMATION or claim.margin is not None:
        assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}


@pytest.mark.parametrize("name", ["minibatch-regression", "minibatch-regression-shuffled"])
def test_real_regressions_refute_every_simpler_theory(name):
    pytest.importorskip("sklearn")
    claim = CLAIMS[name]
    verdict = claim.judge({item: _evidence(item) for item in claim.experiments})
    assert verdict.outcome is not Outcome.REFUTED, verdict.note
    assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}
    if name == "minibatch-regression":
        agreement, table = verdict.results
        assert len(agreement.curves) == 5 + 4 * 2  # independent cells; shuffled cells at two phases
        assert {row[-1] for row in table.rows} <= {"state dependence", "shuffling", "state dependence and shuffling"}


def test_the_table_says_which_correction_closes_the_gap():
    pytest.importorskip("sklearn")
    evidence = _evidence("regression-diabetes")
    rows = {row[0]: row for row in correction_table((evidence,)).rows}
    for label, row in rows.items():
        continuous_time, constant_white, state_white, constant_shuffled, state_shuffled = row[2:7]
        if "shuffled" in label:
            assert state_shuffled < 0.25 < state_white and state_shuffled < constant_shuffled
        else:
            assert state_white < 0.1 and constant_white == constant_shuffled > state_white
            assert continuous_time > constant_white  # both too small, and the step is left out as well
    curves = variance_agreement((evidence,)).curves
    assert all(len(curve.x) == 10 and curve.band is Band.FAMILY for curve in curves)


def test_without_scikit_learn_the_claim_does_not_apply():
    empty = RegressionStudy(data="diabetes", digest="", ridge=0.0, cells=())
    measured, arrays = EXPERIMENTS["regression-diabetes"].run(empty, 1, lambda fraction: None)
    item = Evidence(experiment="regression-diabetes", setting=empty.to_dict(), seed=1, measured=measured, arrays=arrays)
    for name in ("minibatch-regression", "minibatch-regression-shuffled"):
        verdict = CLAIMS[name].judge({"regression-diabetes": item, "regression-digits": item})
        assert verdict.outcome is Outcome.NOT_APPLICABLE and "scikit-learn" in verdict.note


def test_evidence_of_another_table_is_refused():
    pytest.importorskip("sklearn")
    study = EXPERIMENTS["regression-diabetes"].setting("default")
    with pytest.raises(ValueError, match="digest"):
        replace(study, digest="0" * 16).load()


def test_settings_survive_json_and_the_full_budget_runs_longer():
    for experiment in EXPERIMENTS.values():
        default, full = experiment.setting("default"), experiment.setting("full")
        assert type(default).from_dict(default.to_dict()) == default
        if experiment.name != "exact-recursions":
            assert _replicas(full) > 3 * _replicas(default)


def _replicas(setting) -> int:
    for name in ("runs", "cells"):
        if hasattr(setting, name):
            return sum(one.replicas for one in getattr(setting, name))
    return setting.replicas


def test_the_map_shows_where_adam_leaves_its_prediction():
    claim = CLAIMS["adaptive-adam"]
    verdict = claim.judge({item: _evidence(item) for item in claim.experiments})
    *maps, _ = verdict.results
    assert len(maps) == 2
    for chart in maps:
        values = np.array(chart.cells, dtype=float)
        memory = np.array(chart.columns)
        assert (values[:, memory > 5] < 0.25).all()  # β₂ ≥ 0.9: within the margin and the map's coarse resolution
        assert (values[:, memory < 1.6] > claim.margin).all()  # β₂ = 0.3: outside


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_registers_own_runs_support_every_claim():
    evidence = {}
    for name, experiment in EXPERIMENTS.items():
        setting = experiment.setting("default")
        measured, arrays = experiment.run(setting, 11, lambda fraction: None)
        evidence[name] = Evidence(
            experiment=name, setting=setting.to_dict(), seed=11, measured=dict(measured), arrays=dict(arrays)
        )
    for claim in CLAIMS.values():
        verdict = claim.judge(evidence)
        assert verdict.outcome is Outcome.SUPPORTED, (claim.name, verdict.note, verdict.estimate, verdict.interval)
