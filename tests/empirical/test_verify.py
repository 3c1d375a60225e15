"""What `verify` prints of a folder, and when it calls a network's verdict unverified."""

import dataclasses
import functools

import pytest

from empirical.__main__ import main
from empirical.settings import make_training
from empirical.settings.controls import RUNGS
from tests.empirical.test_ladder import HELD, drawn
from theory.judge.verdict import Outcome, read_verdicts

NETWORK = make_training("digits-cpu", "at")


@functools.cache
def control(**changes):
    return drawn(HELD.training(), **changes)


def judged(out, *records, capsys):
    for item in records:
        item.to_evidence().write(out)
    main(["verify", str(out), "--claim", "control", "--claim", "ladder", "--claim", "ladder-quadratic-loss"])
    return capsys.readouterr().out, read_verdicts(out / "verdicts.json")


@pytest.mark.parametrize(
    ("beside", "verified"), [((), False), (({},), True), (({"fixed": 1.5},), False)], ids=["none", "held", "refuted"]
)
def test_without_its_controls_supported_a_networks_verdict_is_shown_as_unverified(beside, verified, tmp_path, capsys):
    said, verdicts = judged(
        tmp_path, drawn(NETWORK, fixed=1.6, replicas=600), *(control(**changes) for changes in beside), capsys=capsys
    )
    networks = [one for one in verdicts if one.claim != "control"]
    assert len(networks) == 2 and {one.verified for one in networks} == {verified}
    assert ("* unverified: no control" in said) is not verified
    controls = [one for one in verdicts if one.claim == "control"]
    assert all((one.outcome is Outcome.SUPPORTED) is verified and one.verified is None for one in controls)


def test_the_ladder_of_every_ensemble_stands_before_the_claims(tmp_path, capsys):
    first = drawn(NETWORK, fixed=1.6, replicas=600)
    second = dataclasses.replace(drawn(NETWORK, network=0.5, replicas=600), seed=1)
    said, verdicts = judged(tmp_path, first, second, capsys=capsys)
    lines = said.splitlines()
    ladders = [line for line in lines if " · " in line and "ladder" in line]
    assert len(ladders) == 2 and lines[:2] == ladders, "before anything else"
    for line, parted in zip(sorted(ladders), ("quadratic loss", "fixed inputs"), strict=True):
        assert f", {parted}; " in line, "where it parts, after additive noise"
        assert all(f"; {rung} " in line for rung in RUNGS), "each with its ratio"
    assert [one.claim for one in verdicts].count("ladder") == 2
