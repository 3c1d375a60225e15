"""The price of non-commutativity: its weakest pair says what the simulation can see."""

from __future__ import annotations

import dataclasses

import pytest

from theory.claims import CLAIMS, EXPERIMENTS
from theory.judge.claim import MISS
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome

CLAIM = next(claim for claim in CLAIMS if claim.name == "commutativity-price")


def measured(name, replicas=None, seed=1):
    experiment = next(one for one in EXPERIMENTS if one.name == name)
    setting = experiment.setting("default")
    if replicas is not None:
        setting = dataclasses.replace(
            setting, simulations=tuple(dataclasses.replace(one, replicas=replicas) for one in setting.simulations)
        )
    values, arrays = experiment.run(setting, seed, lambda fraction: None)
    return Evidence(experiment=name, setting=setting.to_dict(), seed=seed, measured=values, arrays=arrays)


@pytest.mark.slow
def test_the_power_is_that_of_the_smallest_price():
    study = measured("price-study")
    verdict = CLAIM.judge({"price-study": study, "price-simulation": measured("price-simulation")})
    assert verdict.outcome is Outcome.SUPPORTED and verdict.power >= 1 - MISS
    # With as many replicas for a price of 0.19 nats as for one of 1.4, the smallest is known to 2 % alone.
    flat = CLAIM.judge({"price-study": study, "price-simulation": measured("price-simulation", replicas=28672)})
    assert flat.outcome is Outcome.INCONCLUSIVE
    assert 0.01 < flat.power < 0.15, "a tenth off, five standard errors: well below the family's critical value"
