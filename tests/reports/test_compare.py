"""Two folders compare as the same, or say what differs, in words, in JSON and in the exit status."""

import dataclasses
import json

import pytest

from reports.__main__ import main
from tests.reports.samples import decoy, theory_results
from theory.judge.verdict import Outcome, Verdict, write_verdicts


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
    assert "All outcomes are the same." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outcome": Outcome.REFUTED}, "outcome changed"),
        (
            {"decoys": (decoy("continuous-time", Outcome.SUPPORTED), decoy("γ × 1.01"))},
            "decoy changed: continuous-time",
        ),
        ({"decoys": (decoy("continuous-time"),)}, "decoy changed: γ × 1.01"),
    ],
)
def test_a_changed_outcome_of_claim_or_decoy_is_a_difference(pair, capsys, change, words):
    compare, verdicts = pair
    verdicts[0] = dataclasses.replace(verdicts[0], **change)
    assert compare(verdicts) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("stationary-commuting"))
    assert line.endswith(words)


def test_an_estimate_beyond_the_interval_is_said_and_is_no_change_of_outcome(pair, capsys):
    compare, verdicts = pair
    verdicts[0] = dataclasses.replace(verdicts[0], estimate=0.1, interval=(0.09, 0.11))
    assert compare(verdicts, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same_outcomes"] is True
    assert [item["claim"] for item in found["verdicts"] if item["moved"]] == ["stationary-commuting"]


def test_touching_intervals_have_not_moved_apart(pair, capsys):
    compare, verdicts = pair
    verdicts[0] = dataclasses.replace(verdicts[0], estimate=0.005, interval=(0.0039, 0.006))
    assert compare(verdicts, "--json") == 0
    assert not any(item["moved"] for item in json.loads(capsys.readouterr().out)["verdicts"])


def test_claims_added_and_removed_are_differences(pair, capsys):
    compare, verdicts = pair
    assert compare(verdicts[1:]) == 1
    assert "removed" in capsys.readouterr().out
    assert compare([*verdicts, dataclasses.replace(verdicts[0], claim="new")], "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(item["claim"], item["change"]) for item in found["verdicts"] if item["change"] != "same"] == [
        ("new", "added")
    ]


def test_one_claim_on_two_subjects_is_compared_subject_by_subject(pair, capsys):
    compare, verdicts = pair
    both = [dataclasses.replace(verdicts[0], subject=name) for name in ("run a", "run b")]
    assert compare(both) == 1
    out = capsys.readouterr().out
    assert "stationary-commuting (run a)" in out and "stationary-commuting (run b)" in out
    assert compare([verdicts[0], verdicts[0]]) == 2
    assert "twice: stationary-commuting" in capsys.readouterr().err


def test_a_missing_folder_is_wrong_usage(pair, capsys, tmp_path):
    assert main(["compare", str(tmp_path / "A"), str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_of_an_older_schema_is_said_to_be_one(tmp_path, capsys):
    theory_results(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "verdicts.json").write_text('[{"claim": "stationary-commuting"}]')
    assert main(["compare", str(tmp_path / "old"), str(tmp_path)]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and "of an older schema, 1" in complaint
