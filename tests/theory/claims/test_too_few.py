"""What is judged from samples decides nothing on too few of them: every such claim, on a small share of its runs.

`test_stationary.py` does so for the stationary law and `test_stationarity.py` for the test of stationarity.
"""

from __future__ import annotations

import functools
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from theory.claims import CLAIMS, EXPERIMENTS, stationarity, stationary
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome

BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}
ELSEWHERE = {claim.name for claim in (*stationary.CLAIMS, *stationarity.CLAIMS)}
SAMPLED = [claim for claim in CLAIMS if claim.detects is not None and claim.name not in ELSEWHERE]
#: Samples of one experiment that are left, at most.
LEFT = 128


def few(setting: Any) -> Any:
    """The same setting with `LEFT` replicas or runs, wherever it counts them."""
    changes: dict[str, Any] = {}
    for item in fields(setting):
        value = getattr(setting, item.name)
        if item.name in ("replicas", "runs") and isinstance(value, int):
            changes[item.name] = min(value, LEFT)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            changes[item.name] = tuple(few(one) if counts(one) else one for one in value)
    return replace(setting, **changes)


def counts(setting: Any) -> bool:
    return bool({item.name for item in fields(setting)} & {"replicas", "runs", "cells", "simulations"})


@functools.cache
def evidence(name: str) -> Evidence:
    setting = few(BY_NAME[name].setting("default"))
    measured, arrays = BY_NAME[name].run(setting, 11, lambda share: None)
    return Evidence(experiment=name, setting=setting.to_dict(), seed=11, measured=dict(measured), arrays=dict(arrays))


@pytest.mark.slow
@pytest.mark.parametrize("claim", SAMPLED, ids=lambda claim: claim.name)
def test_too_few_runs_decide_nothing(claim):
    verdict = claim.judge({name: evidence(name) for name in claim.experiments})
    assert verdict.outcome is Outcome.INCONCLUSIVE, verdict
    assert verdict.reached < verdict.required
