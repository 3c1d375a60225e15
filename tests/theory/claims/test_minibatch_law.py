"""Claims about batches of varying curvature: supported by their evidence, every decoy refuted by the same."""

import functools

import pytest

from theory.claims.minibatch_law import CLAIMS, EXPERIMENTS
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome

BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}


@functools.cache
def _evidence(name: str) -> Evidence:
    setting = BY_NAME[name].setting("default")
    measured, arrays = BY_NAME[name].run(setting, 3, lambda fraction: None)
    return Evidence(experiment=name, setting=setting.to_dict(), seed=3, measured=dict(measured), arrays=dict(arrays))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_evidence_supports_the_claim_and_refutes_its_decoys(claim):
    verdict = claim.judge({name: _evidence(name) for name in claim.experiments})
    assert verdict.outcome is Outcome.SUPPORTED, verdict
    assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}
    assert bool(verdict.results) == (claim.name in ("minibatch-second-moments-shuffled", "mean-square-edge"))
