"""Stored records of runs are judged again with today's claims, and read as whole records by every command."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from empirical.__main__ import main
from empirical.claims import collect
from empirical.commands.rejudge import rejudge
from empirical.commands.verify import verify
from tests.empirical.log_writing import text_log, training_run
from theory.judge.verdict import Outcome, read_verdicts, write_verdicts


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Two imported logs, judged."""
    place = tmp_path_factory.mktemp("judged")
    logs, out = place / "logs", place / "out"
    logs.mkdir()
    for seed in range(2):
        (logs / f"at-{seed}.log").write_text(text_log(training_run(epochs=30, decays=(15, 22), seed=seed)))
    assert main(["import", str(logs), "--out", str(out)]) == 0
    assert verify(out) == 0
    return out


@pytest.fixture
def folder(judged, tmp_path, capsys):
    """A copy of it."""
    capsys.readouterr()
    return shutil.copytree(judged, tmp_path / "out")


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_claims_say_the_same_and_nothing_is_touched(folder, capsys):
    before = content(folder)
    assert main(["rejudge", str(folder)]) == 0
    count = len(read_verdicts(folder / "verdicts.json"))
    assert count > 3
    assert capsys.readouterr().out == f"0 regressions, 0 improvements, 0 added, {count} the same.\n"
    assert content(folder) == before


def test_a_verdict_that_comes_out_otherwise_is_a_difference(folder, capsys):
    first, *rest = read_verdicts(folder / "verdicts.json")
    other = Outcome.REFUTED if first.outcome is not Outcome.REFUTED else Outcome.SUPPORTED
    write_verdicts([dataclasses.replace(first, outcome=other), *rest], folder)
    assert main(["rejudge", str(folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    changed = [item for item in told["verdicts"] if item["change"] != "same"]
    assert [(item["claim"], item["subject"]) for item in changed] == [(first.claim, first.subject)]
    assert changed[0]["words"] == f"{other} → {first.outcome}"


def test_claims_and_subjects_that_are_gone_are_said_and_new_subjects_are_no_difference(folder):
    first, *rest = read_verdicts(folder / "verdicts.json")
    gone = dataclasses.replace(first, claim="of-yesterday")
    lost = dataclasses.replace(first, about=dataclasses.replace(first.about, name="nobody's run"))
    write_verdicts([gone, lost, *rest], folder)
    found = rejudge(folder, collect())
    assert not found.same
    assert found.unjudged[f"of-yesterday ({first.subject})"] == "no longer registered"
    assert found.unjudged[f"{lost.claim} ({lost.subject})"] == "it finds no such subject in the records"
    write_verdicts(rest, folder)
    kept = {item.claim for item in rest}
    found = rejudge(folder, collect())
    assert found.same and first.claim in kept and any(item.before is None for item in found.differences)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(measured={}),
        lambda record: record["measured"]["log"].pop("method"),
        lambda record: record["measured"]["log"].update(surprise=1),
        lambda record: record["measured"].update(restarts=["x"]),
        lambda record: record.update(arrays={}),
    ],
    ids=["nothing measured", "a field lost", "a field too many", "another type", "arrays not named"],
)
@pytest.mark.parametrize("command", ["verify", "gate", "rejudge"])
def test_a_record_that_is_not_whole_is_refused_by_every_command_in_one_line(folder, capsys, command, change):
    path = sorted(folder.glob("evidence/training-log/*.json"))[0]
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    before = content(folder)
    words = {"verify": [], "gate": ["--require", "decay-dip-beyond-placebo"], "rejudge": []}[command]
    assert main([command, str(folder), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and path.stem in shown.err
    assert content(folder) == before


def test_a_seed_that_no_checkpoint_can_keep_is_refused_by_the_controls_too(tmp_path, capsys):
    assert main(["controls", "--smoke", "--seed", "-1", "--out", str(tmp_path / "out")]) == 2
    assert "`--seed` must be in [0, 2^63); got -1." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_records_is_refused(folder, capsys):
    for path in (folder / "evidence" / "training-log").iterdir():
        path.unlink()
    assert main(["rejudge", str(folder)]) == 2
    assert "rests on the runs" in capsys.readouterr().err
    write_verdicts([], folder)
    assert main(["rejudge", str(folder)]) == 2
    assert "holds none" in capsys.readouterr().err
