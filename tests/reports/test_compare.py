"""Two folders compare as the same, or say what was lost, gained or moved: in words, in JSON, in the exit status."""

import dataclasses
import json

import pytest

from reports.__main__ import main
from tests.reports.samples import decoy, theory_results
from theory.judge.verdict import About, Outcome, Verdict, write_verdicts


@pytest.fixture
def pair(tmp_path):
    """Two folders with the same verdicts, and a way to change those of the second."""
    first, second = tmp_path / "A", tmp_path / "B"
    for folder in (first, second):
        folder.mkdir()
        verdicts = theory_results(folder)

    def compare(changed: list[Verdict], *options: str) -> int:
        write_verdicts(changed, second)
        return main(["compare", str(first), str(second), *options])

    return compare, list(verdicts)


def test_the_same_results_compare_as_the_same(pair, capsys):
    compare, verdicts = pair
    assert compare(verdicts) == 0
    assert capsys.readouterr().out == f"0 regressions, 0 improvements, 0 added, {len(verdicts)} the same.\n"
    assert compare(verdicts, "--all") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(verdicts) + 3


REFUTED, SUPPORTED, INCONCLUSIVE = Outcome.REFUTED, Outcome.SUPPORTED, Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outcome": REFUTED}, "supported → refuted"),
        ({"outcome": INCONCLUSIVE}, "supported → inconclusive"),
        ({"outcome": Outcome.NOT_APPLICABLE}, "supported → not applicable"),
        (
            {"decoys": (decoy("continuous-time", SUPPORTED), decoy("γ × 1.01"))},
            "'continuous-time': refuted → supported",
        ),
        ({"decoys": (decoy("continuous-time"),)}, "'γ × 1.01': refuted → no longer asked"),
        ({"estimate": -90.0, "interval": (-91.0, -89.0)}, "estimate outside its old interval"),
        ({"estimate": 0.1, "interval": (-1.0, 1.0)}, "estimate outside its old interval"),
    ],
)
def test_what_was_lost_is_a_regression(pair, capsys, change, words):
    compare, verdicts = pair
    changed = [dataclasses.replace(verdicts[0], **change), *verdicts[1:]]
    assert compare(changed) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1 regression, 0 improvements, 0 added, {len(verdicts) - 1} the same."
    (row,) = lines[3:]
    assert row.startswith("regression  stationary-commuting  ") and words in row
    # The other way round, what was lost is gained: no failure.
    assert compare(changed, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["regressions"] == 1 and found["verdicts"][0]["regression"] and words in found["verdicts"][0]["words"]


def test_what_was_gained_is_an_improvement_and_no_failure(pair, capsys, tmp_path):
    compare, verdicts = pair
    worse = dataclasses.replace(verdicts[0], outcome=REFUTED, decoys=(decoy("continuous-time", INCONCLUSIVE),))
    write_verdicts([worse, *verdicts[1:]], tmp_path / "A")
    assert compare(verdicts) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 regressions, 1 improvement, ") and "refuted → supported" in lines[3]
    assert "decoy 'continuous-time': inconclusive → refuted" in lines[3]


def test_an_estimate_within_its_old_interval_has_not_moved(pair, capsys):
    compare, verdicts = pair
    low, high = verdicts[0].interval
    slack = 0.01 * verdicts[0].tolerance
    for estimate, status in ((low, 0), (high, 0), (high + 0.9 * slack, 0), (high + 1.1 * slack, 1)):
        changed = dataclasses.replace(verdicts[0], estimate=estimate, interval=(estimate - 1, estimate + 1))
        assert compare([changed, *verdicts[1:]], "--json") == status, estimate
        moved = [item["claim"] for item in json.loads(capsys.readouterr().out)["verdicts"] if item["moved"]]
        assert moved == ["stationary-commuting"] * status


def test_a_claim_removed_is_a_regression_and_one_added_no_difference(pair, capsys):
    compare, verdicts = pair
    assert compare(verdicts[1:]) == 1
    assert "no longer judged" in capsys.readouterr().out
    more = [*verdicts, dataclasses.replace(verdicts[0], claim="new", outcome=REFUTED)]
    more[0] = dataclasses.replace(more[0], decoys=(*more[0].decoys, decoy("new decoy")))
    assert compare(more, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(item["claim"], item["change"]) for item in found["verdicts"] if item["change"] != "same"] == [
        ("new", "added")
    ]


def test_new_refutations_come_first(pair, capsys, tmp_path):
    compare, verdicts = pair
    before = [dataclasses.replace(one, outcome=SUPPORTED) for one in verdicts]
    write_verdicts(before, tmp_path / "A")
    outcomes = [INCONCLUSIVE, REFUTED, *[SUPPORTED] * (len(before) - 2)]
    changed = [dataclasses.replace(one, outcome=outcome) for one, outcome in zip(before, outcomes, strict=True)]
    assert compare(changed) == 1
    rows = capsys.readouterr().out.splitlines()[3:]
    assert "→ refuted" in rows[0] and "→ inconclusive" in rows[1] and len(rows) == 2


def test_markdown_for_a_pull_request(pair, capsys):
    compare, verdicts = pair
    changed = [dataclasses.replace(verdicts[0], outcome=REFUTED, claim=verdicts[0].claim), *verdicts[1:]]
    assert compare(changed, "--markdown") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("**Verdicts**: 1 regression, ") and lines[3].startswith("|---")
    assert len({line.replace("\\|", "").count("|") for line in lines[2:]}) == 1, "rows of one width"


def test_one_claim_on_two_subjects_is_compared_subject_by_subject(pair, capsys):
    compare, verdicts = pair
    both = [dataclasses.replace(verdicts[0], about=About(name=name)) for name in ("run a", "run b")]
    assert compare(both) == 1
    out = capsys.readouterr().out
    assert "stationary-commuting (run a)" in out and "stationary-commuting (run b)" in out
    assert compare([verdicts[0], verdicts[0]]) == 2
    assert "twice: stationary-commuting" in capsys.readouterr().err


def test_a_folder_that_is_missing_or_damaged_is_named(pair, capsys, tmp_path):
    for name in ("nowhere", "B"):
        (tmp_path / "B" / "verdicts.json").write_text('{"schema": 2, "verdicts": [{"claim": NaN}]}')
        assert main(["compare", str(tmp_path / "A"), str(tmp_path / name)]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and str(tmp_path / name / "verdicts.json") in shown
