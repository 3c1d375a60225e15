"""The published counts of the controls' repeats are consistent and named in the README; their code judges as claims."""

import json

import numpy as np
import pytest

from empirical.claims.ladder import CONTROL_MARGIN, DECOYS, control_claims
from tests import control_repeats
from tests.empirical.test_ladder import HELD, drawn, made
from tests.test_readme_map import ROOT
from theory.judge.statistics import binomial_interval

WORDS = {"supported": "within", "refuted": "outside", "inconclusive": "undecided"}


@pytest.fixture(scope="module")
def stored():
    return json.loads((control_repeats.STORED / "counts.json").read_text(encoding="utf-8"))


def rates(stored):
    for control in stored["controls"].values():
        for table in control["sizes"].values():
            yield table, table["within the margin"]
            yield table, table["refuted although it holds"]
            yield from ((table, one) for one in table["sabotage refuted"].values())


def test_every_published_rate_has_the_binomial_interval_of_its_count(stored):
    found = list(rates(stored))
    assert len(found) > 40
    for table, one in found:
        assert one["of"] == table["repeats"] >= 1
        assert one["interval"] == pytest.approx(binomial_interval(one["count"], one["of"]), abs=1e-5)


def test_repeats_are_consecutive_replicas_of_runs_of_their_own(stored):
    assert stored["margin"] == CONTROL_MARGIN and stored["branched"] == control_repeats.BRANCHED
    for control in stored["controls"].values():
        first, last = control["seeds"]
        assert first == control_repeats.FIRST_SEED and last - first + 1 == control["runs"]
        for size, table in control["sizes"].items():
            assert table["repeats"] == control["runs"] * (stored["branched"] // int(size))
            assert set(table["sabotage refuted"]) == set(DECOYS)


def test_a_law_is_rejected_as_often_as_the_level_says_in_two_hundred_repeats_and_more(stored):
    table = stored["controls"][control_repeats.EXACT[0]]["sizes"][str(min(control_repeats.SIZES))]
    assert table["repeats"] >= 200 and not control_repeats.beyond(table)


def test_a_law_that_holds_is_refuted_by_none_of_the_repeats(stored):
    assert all(
        table["refuted although it holds"]["count"] == 0
        for control in stored["controls"].values()
        for table in control["sizes"].values()
    )


def test_the_report_and_the_readme_say_what_the_counts_say(stored):
    assert (control_repeats.STORED / "report.md").read_text(encoding="utf-8") == control_repeats.report(stored)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert control_repeats.sentence(stored) in readme
    assert "reports/published/control_repeats/report.md" in readme


def test_the_sentence_names_what_was_repeated_too_seldom_and_where_the_law_is_rejected_too_often(stored):
    said = control_repeats.sentence(stored)
    for name, control in stored["controls"].items():
        for size, table in control["sizes"].items():
            few = size == str(min(control_repeats.SIZES)) and table["repeats"] < control_repeats.ENOUGH
            assert (f"{name} ({table['repeats']})" in said) == few
            too_often = "0.05" in control_repeats.beyond(table)
            words = f"too often in {min(table['false alarms']['0.05']['rejections'])}" if too_often else ""
            assert words in said and (not too_often or f"{size} replicas on {name}" in said)


def test_a_folder_without_repeats_is_one_line_and_what_is_stored_stays(tmp_path, capsys):
    store = tmp_path / "store"
    store.mkdir()
    (store / "counts.json").write_text("kept")
    assert control_repeats.main(["judge", "--out", str(tmp_path / "none"), "--store", str(store)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "got none" in told
    assert (store / "counts.json").read_text() == "kept" and not (store / "report.md").exists()


# -- the code that counts ----------------------------------------------------------------------------------------------


def test_a_repeat_of_all_replicas_comes_out_as_the_claim_says():
    for item in (made("held"), made("held", fixed=1.5), made("held", fixed=1.15)):
        (one,) = control_repeats.repeats(item, item.positions.shape[1])
        (claim,) = (entry for entry in control_claims() if entry.claim.name == "control")
        (verdict,) = (claim.judge(subject) for subject in claim.subjects_in([item]))
        assert one.ratio.outcome(CONTROL_MARGIN) == WORDS[verdict.outcome.value]
        assert one.sabotaged == {decoy.name: WORDS[decoy.outcome.value] for decoy in verdict.decoys}


def test_repeats_share_no_replica_and_a_rest_is_left():
    item = made("held")
    found = list(control_repeats.repeats(item, 600))
    assert len(found) == 2
    first, second = (one.ratio.estimate for one in found)
    assert not np.allclose(first, second)
    halves = [drawn(HELD.training()).positions[:, start : start + 600].var(axis=1, ddof=1) for start in (0, 600)]
    assert np.allclose(second - first, np.log(halves[1] / halves[0]).mean(axis=1))


def test_too_few_refutations_and_too_many_rejections_are_named():
    found = list(control_repeats.repeats(made("held"), 50))
    table = control_repeats.counted(found, exact=True)
    table["sabotage refuted"]["one step late"] = control_repeats.rate(29, 30)
    table["false alarms"]["0.05"]["rejections"][2] = 25
    table["false alarms"]["0.01"]["rejections"] = [0] * len(found[0].ratio.estimate)
    assert "one step late" in control_repeats.missed(table)
    assert control_repeats.beyond(table) == ["0.05"]
