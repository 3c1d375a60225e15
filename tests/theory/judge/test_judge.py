"""Claims, verdicts and evidence: the rules of decision, and files that are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.theory.judge.test_results import RESULTS
from theory.judge.claim import (
    MISS,
    TEST_ALPHA,
    Claim,
    Comparison,
    Experiment,
    check_register,
    classify,
    decide_hypothesis,
    digests,
    needed_degrees,
)
from theory.judge.evidence import Evidence, plain, read_evidence, run_id
from theory.judge.files import atomic_write
from theory.judge.results import Table
from theory.judge.statistics import miss_chance
from theory.judge.terminal import tally
from theory.judge.verdict import About, Kind, Outcome, Standing, exit_status, read_verdicts, write_verdicts

#: Degrees of freedom with which a test finds the 1 % that the claims below detect.
ENOUGH = 1.01 * needed_degrees(0.01)
ROOT = Path(__file__).resolve().parents[3]


def evidence(**changes):
    fields = dict(experiment="coin", setting={"type": "Coin", "bias": 0.5}, seed=3, measured={"mean": 0.25})
    return Evidence(**{**fields, **changes})


def claim(kind=Kind.IDENTITY, compare=None, margin=None, **changes):
    def by_p(seen, predict):
        return Comparison(estimate=0.0, interval=(-0.1, 0.1), p_value=predict(), reached=ENOUGH)

    fields = dict(
        name="coin-is-fair", statement="s", source="o", kind=kind, experiments=("coin",), assumptions=(),
        predict=lambda: 0.5, decoys={"biased": lambda: TEST_ALPHA / 2}, compare=compare or by_p,
        margin=margin, detects=0.01,
    )  # fmt: skip
    return Claim(**{**fields, **changes})


def test_an_identity_is_supported_only_with_its_sample_size_and_its_decoy_refuted():
    seen = {"coin": evidence()}
    verdict = claim().judge(seen)
    assert verdict.outcome is Outcome.SUPPORTED and verdict.decoys[0].outcome is Outcome.REFUTED
    assert verdict.evidence == (evidence().run_id,)
    assert claim(predict=lambda: TEST_ALPHA).judge(seen).outcome is Outcome.REFUTED
    assert claim(predict=lambda: TEST_ALPHA * 1.01).judge(seen).outcome is Outcome.SUPPORTED

    def too_few(seen, predict):
        return Comparison(estimate=0.0, interval=(-0.1, 0.1), p_value=predict(), reached=ENOUGH / 2)

    assert claim(compare=too_few).judge(seen).outcome is Outcome.INCONCLUSIVE
    assert claim(compare=too_few, predict=lambda: 0.0).judge(seen).outcome is Outcome.REFUTED
    blind = claim(decoys={"biased": lambda: 0.3}).judge(seen)
    assert blind.outcome is Outcome.INCONCLUSIVE and "no power against the decoy biased" in blind.note
    assert exit_status([blind]) == 3


def test_the_judge_works_out_the_sample_and_the_power_from_what_the_claim_detects():
    def stamped(reached):
        return lambda seen, predict: Comparison(estimate=0.0, interval=(0, 0), p_value=predict(), reached=reached)

    with pytest.raises(TypeError, match="required"):
        Comparison(estimate=0.0, interval=(0.0, 0.0), required=1.0)  # pyright: ignore[reportCallIssue]
    seen = {"coin": evidence()}
    needed = needed_degrees(0.05)
    for reached, outcome in ((0.99 * needed, Outcome.INCONCLUSIVE), (1.01 * needed, Outcome.SUPPORTED)):
        verdict = claim(compare=stamped(reached), detects=0.05).judge(seen)
        assert verdict.outcome is outcome and verdict.required == needed and verdict.reached == reached
        assert verdict.power == 1 - miss_chance(0.05, reached, TEST_ALPHA) == pytest.approx(1 - MISS, abs=1e-6)
        assert (verdict.power >= 1 - MISS) == (outcome is Outcome.SUPPORTED)
    # The same sample against a smaller error: the power it really has, by the exact law of a χ² estimate.
    weak = claim(compare=stamped(needed), detects=0.02).judge(seen)
    scale = stats.chi2(needed)
    above = scale.sf(scale.isf(TEST_ALPHA / 2) / 1.02)
    below = scale.cdf(scale.ppf(TEST_ALPHA / 2) * 1.02)
    assert weak.outcome is Outcome.INCONCLUSIVE
    assert weak.power == pytest.approx(min(above, below), rel=1e-6) and weak.power < 0.05
    for reached in (None, 0.0, float("nan")):
        with pytest.raises(ValueError, match=r"reached=.*must be > 0 where a test is made"):
            claim(compare=stamped(reached)).judge(seen)


def test_a_definition_has_a_digest_that_wording_and_code_layout_keep_and_every_promise_changes():
    one = claim()
    assert one.digest == claim(source="elsewhere", compare=lambda seen, predict: None).digest
    assert one.digest == claim(num_tests=7, tags=("t",)).digest
    changed = (
        {"name": "coin-is-biased"},
        {"statement": "another"},
        {"kind": Kind.HYPOTHESIS, "margin": 0.0},
        {"margin": 0.1},
        {"detects": 0.02},
        {"assumptions": ("it lands",)},
        {"windows": ("epochs 1 to 5 after",)},
        {"decoys": {"weighted": lambda: 0.0}},
    )
    found = [claim(**changes).digest for changes in changed]
    assert len({one.digest, *found}) == len(changed) + 1
    assert digests([one, claim(name="second")]) == {one.name: one.digest, "second": claim(name="second").digest}


def test_a_verdict_is_confirmatory_only_if_all_its_evidence_knows_the_definition():
    one, later = claim(), claim(windows=("moved after the fact",))
    knows = evidence(provenance={"claims": digests([one])})
    verdict = one.judge({"coin": knows})
    assert (verdict.standing, verdict.definition) == (Standing.CONFIRMATORY, one.digest)
    assert verdict.qualification == "confirmatory"
    assert later.judge({"coin": knows}).standing is Standing.EXPLORATORY, "the same data, another window"
    assert one.judge({"coin": evidence()}).standing is Standing.EXPLORATORY, "nothing was recorded"
    seen = {"coin": knows}
    assert one.judge_on(seen, [knows, evidence(seed=4)]).standing is Standing.EXPLORATORY, "half of it is not enough"
    assert one.judge_on(seen, []).standing is Standing.EXPLORATORY


def test_equivalence_and_hypotheses_are_three_way():
    assert classify((-0.01, 0.02), 0.05) is Outcome.SUPPORTED
    assert classify((0.04, 0.06), 0.05) is Outcome.INCONCLUSIVE
    assert classify((0.06, 0.07), 0.05) is Outcome.REFUTED
    assert classify((-0.07, -0.06), 0.05) is Outcome.REFUTED
    assert classify((-0.05, 0.05), 0.05) is Outcome.SUPPORTED
    assert decide_hypothesis((0.1, 0.2), 0.0) is Outcome.SUPPORTED
    assert decide_hypothesis((-0.2, -0.1), 0.0) is Outcome.REFUTED
    assert decide_hypothesis((-0.2, 0.1), 0.0) is Outcome.INCONCLUSIVE
    for rule in (classify, decide_hypothesis):
        with pytest.raises(ValueError, match="ordered"):
            rule((1.0, 0.0), 0.5)
        with pytest.raises(ValueError, match="ordered"):
            rule((float("nan"), 0.0), 0.5)


def test_a_claim_says_when_it_cannot_be_judged():
    with pytest.raises(ValueError, match=r"needs the experiments \['coin'\]"):
        claim().judge({})
    with pytest.raises(ValueError, match="decoys="):
        claim(decoys={})
    with pytest.raises(ValueError, match="margin="):
        claim(kind=Kind.APPROXIMATION)
    with pytest.raises(ValueError, match=r"detects=.*must be declared for an identity"):
        claim(detects=None)
    with pytest.raises(ValueError, match=r"detects=.*in \(0, 1\); got 1.5"):
        claim(detects=1.5)

    def many(seen, predict):
        return Comparison(estimate=0.0, interval=(0, 0), p_value=0.5, num_tests=7, reached=ENOUGH)

    with pytest.raises(ValueError, match="registered 1, made 7"):
        claim(compare=many).judge({"coin": evidence()})

    def absent(seen, predict):
        return Comparison(estimate=0.0, interval=(0, 0), not_applicable="one factor only")

    verdict = claim(kind=Kind.HYPOTHESIS, margin=0.0, compare=absent).judge({"coin": evidence()})
    assert verdict.outcome is Outcome.NOT_APPLICABLE and verdict.note == "one factor only" and not verdict.decoys


def test_exit_statuses():
    seen = {"coin": evidence()}
    good = claim().judge(seen)
    refuted = claim(predict=lambda: 0.0).judge(seen)
    finding = replace(refuted, kind=Kind.HYPOTHESIS)
    undecided = replace(good, outcome=Outcome.INCONCLUSIVE)
    assert [exit_status(v) for v in ([good], [good, finding], [good, refuted], [undecided], [undecided, refuted])] == [
        0, 0, 1, 3, 1,
    ]  # fmt: skip
    assert exit_status([]) == 0
    escaped = replace(good, decoys=(replace(good.decoys[0], outcome=Outcome.INCONCLUSIVE),))
    assert exit_status([replace(escaped, kind=Kind.APPROXIMATION)]) == 3, "a toothless claim about theory is undecided"
    assert exit_status([replace(escaped, kind=Kind.HYPOTHESIS)]) == 0, "an empirical decoy is never a failure"


def test_the_register_is_checked():
    one = claim()
    experiment = Experiment(name="coin", title="t", setting=lambda b: None, run=lambda s, n, p: ({}, {}))
    check_register([one], [experiment])
    with pytest.raises(ValueError, match="twice"):
        check_register([one, one], [experiment])
    with pytest.raises(ValueError, match="unknown"):
        check_register([one], [])
    with pytest.raises(ValueError, match="room for 10000 tests; its claims make 10001"):
        check_register([replace(one, num_tests=10_001)], [experiment])


def test_the_registers_of_theory_fit_the_family():
    from theory.claims import CLAIMS, EXPERIMENTS

    check_register(CLAIMS, EXPERIMENTS)
    for item in CLAIMS:
        assert item.statement and item.source and item.decoys, item.name


def test_evidence_round_trips_and_is_written_once(tmp_path):
    arrays = {"samples": np.random.default_rng(0).standard_normal((3, 2))}
    item = evidence(arrays=arrays, measured={"mean": np.float64(0.1), "list": (1, 2.5)})
    path = item.write(tmp_path)
    assert path == tmp_path / "evidence" / "coin" / f"{item.run_id}.json"
    back = Evidence.read(path)
    assert back.measured == {"mean": 0.1, "list": [1, 2.5]} and back.run_id == item.run_id
    assert np.array_equal(back.arrays["samples"], arrays["samples"])
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="written once"):
        evidence(measured={"mean": 9}).write(tmp_path)
    assert path.read_bytes() == before
    assert [one.run_id for one in read_evidence(tmp_path)] == [item.run_id]
    assert read_evidence(tmp_path, ["other"]) == ()


def test_run_ids_depend_on_what_was_run_and_on_nothing_else():
    base = evidence()
    assert evidence(measured={"mean": 7}).run_id == base.run_id
    assert evidence(seed=4).run_id != base.run_id
    assert evidence(setting={"type": "Coin", "bias": 0.5 + 2**-52}).run_id != base.run_id
    assert evidence(setting={"bias": 0.5, "type": "Coin"}).run_id == base.run_id
    assert run_id("die", base.setting, 3) != base.run_id


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.array([1.0, np.nan])])
def test_evidence_refuses_numbers_that_json_does_not_have(tmp_path, value):
    with pytest.raises(ValueError, match="finite numbers only"):
        evidence(measured={"bad": value}).write(tmp_path)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob(".*.json*"))
    with pytest.raises(TypeError, match="got object"):
        plain(object())


def test_damaged_evidence_is_refused_by_name(tmp_path):
    path = evidence(arrays={"a": np.ones(3)}).write(tmp_path)
    text = path.read_text()
    for damaged, words in (
        (text[: len(text) // 2], "must hold JSON"),
        (text.replace('"schema": 2', '"schema": 99'), "must have schema 2; got 99"),
        (text.replace('"bias": 0.5', '"bias": 0.6'), "was edited"),
        ("[]", "must have schema"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=words):
            Evidence.read(path)
    path.write_text(text)
    path.with_suffix(".npz").unlink()
    with pytest.raises(ValueError, match=r"arrays beside it in .* must be a readable file"):
        Evidence.read(path)
    with pytest.raises(ValueError, match="readable file"):
        Evidence.read(tmp_path / "none.json")
    with pytest.raises(ValueError, match="folder with evidence"):
        read_evidence(tmp_path / "nowhere")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        evidence(arrays={"a": np.ones(3)}).write(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_new_name_is_never_taken_from_a_file_that_exists(tmp_path):
    atomic_write(tmp_path / "x", b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        atomic_write(tmp_path / "x", b"second", overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"first"
    atomic_write(tmp_path / "x", b"third", overwrite=True)
    assert (tmp_path / "x").read_bytes() == b"third" and len(list(tmp_path.iterdir())) == 1


WRITER = """
import numpy as np
from theory.judge.evidence import Evidence
many = {"n": list(range(2000))}
for seed in range(10_000):
    Evidence(experiment="coin", setting={}, seed=seed, measured=many, arrays={"a": np.ones(20000)}).write(%r)
"""


def test_a_killed_run_leaves_only_whole_evidence(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER % str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.json"))) < 20:
        assert time.monotonic() < deadline and writer.poll() is None
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = [path for path in tmp_path.rglob("*.json") if not path.name.startswith(".")]
    assert len(found) >= 20
    for path in found:
        assert Evidence.read(path).arrays["a"].shape == (20000,)


def test_verdicts_round_trip_with_their_results(tmp_path):
    def shown(seen, predict):
        return Comparison(
            estimate=0.0, interval=(-1.0, float("inf")), p_value=predict(), reached=ENOUGH, results=RESULTS,
        )  # fmt: skip

    verdict = claim(compare=shown).judge({"coin": evidence()})
    write_verdicts([verdict], tmp_path)
    stored = json.loads((tmp_path / "verdicts.json").read_text())
    assert stored["schema"] == 2
    assert set(stored["verdicts"][0]) >= {
        "claim",
        "outcome",
        "estimate",
        "interval",
        "tolerance",
        "alpha",
        "power",
        "decoy",
        "evidence",
    }
    assert read_verdicts(tmp_path / "verdicts.json") == (verdict,)
    for item in stored["verdicts"]:
        for name in ("definition", "standing", "verified"):
            del item[name]
    (tmp_path / "old.json").write_text(json.dumps(stored))
    (old,) = read_verdicts(tmp_path / "old.json")
    assert old == replace(verdict, definition="", standing=Standing.EXPLORATORY), "older files knew no digest"
    assert verdict.interval == (-1.0, None)
    for text, words in (
        ("{", "must hold JSON"),
        ("{}", "must hold verdicts of schema 2"),
        ("[]", "of an older schema, 1"),
        ('{"schema": 3, "verdicts": []}', "schema 2; got 3"),
        ('{"schema": 2, "verdicts": [null]}', "bad.json is damaged"),
        ('{"schema": 2, "verdicts": [{"claim": 1}]}', "field 'claim', must be str; got int"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_verdicts(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="rows of 2 cells"):
        Table(title="t", columns=("a", "b"), rows=((1,),))


def test_a_claim_predicts_or_selects_and_never_both():
    chosen = claim(predict=None, select=lambda: 0.5)
    assert chosen.judge({"coin": evidence()}).outcome is claim().judge({"coin": evidence()}).outcome
    for predict, select in ((None, None), (lambda: 0.5, lambda: 0.5)):
        with pytest.raises(ValueError, match="one of `predict` and `select`"):
            claim(predict=predict, select=select)


def test_tallies_count_runs_and_never_their_decays_modes_or_pools():
    base = claim().judge({"coin": evidence()})
    no, idle = Outcome.REFUTED, Outcome.NOT_APPLICABLE

    def of(name, outcome=Outcome.SUPPORTED, **fields):
        return replace(base, outcome=outcome, about=About(name=name, runs=(name.split()[0],), **fields))

    found = tally(
        [
            *(of("a", decay=decay) for decay in (1, 2)),
            of("a eval mode", decay=1),
            of("b", decay=1),
            of("b", no, decay=2),
            of("c", no, epoch=3),
            of("c", idle, epoch=4),
            of("d", idle),
            of("a and b (method)", pooled=True),
        ]
    )
    assert found == {outcome: 1 for outcome in Outcome}, "b's decays differ: undecided"
    assert tally([base, replace(base, claim="another")]).total() == 2, "a claim that is judged once counts once"


def test_a_refuted_hypothesis_whose_decoy_escapes_states_its_power_instead():
    def by_effect(seen, effect):
        return Comparison(estimate=effect, interval=(effect - 0.1, effect + 0.1))

    def judged(effect, decoy):
        made = claim(
            Kind.HYPOTHESIS, by_effect, 1.0, detects=None, predict=None, select=effect, decoys={"wrong": decoy}
        )
        return made.judge({"coin": evidence()})

    refuted = judged(0.5, 2.0)
    assert refuted.outcome is Outcome.REFUTED
    # z: 1.96 for the interval, 1.2816 for the power.
    assert f"an effect of {1.0 + 0.1 * (1 + 1.281552 / 1.959964):.3g} would have been supported" in refuted.note
    assert "power" not in judged(0.5, 0.0).note, "a decoy that is refuted needs no word"
    assert judged(2.0, 2.0).outcome is Outcome.INCONCLUSIVE
