"""Stored evidence is judged again with today's claims: nothing measured, nothing written, differences said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from theory import until_decided
from theory.__main__ import main
from theory.claims import CLAIMS, EXPERIMENTS
from theory.judge import sources
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome, read_verdicts, write_verdicts
from theory.register import Register
from theory.rejudge import rejudge
from theory.until_decided import verify_until_decided

FAST = "impulse-response,stability-boundary"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0
    monkeypatch.setattr(Evidence, "write", lambda *given: pytest.fail("it measured"))
    return out


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_claims_give_the_same_verdicts_and_nothing_is_touched(folder, capsys):
    before = content(folder)
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    capsys.readouterr()
    try:
        assert main(["rejudge", str(folder)]) == 0
    finally:
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert capsys.readouterr().out == "0 regressions, 0 improvements, 0 added, 2 the same.\n"
    assert content(folder) == before


def test_a_changed_formula_changes_the_verdict(folder, monkeypatch, capsys):
    changed = [
        replace(claim, predict=claim.decoys["C larger by 1 %"]) if claim.name == "impulse-response" else claim
        for claim in CLAIMS
    ]
    found = rejudge(folder, Register(claims=tuple(changed), experiments=EXPERIMENTS))
    assert not found.same and found.differences[0].claim == "impulse-response"
    assert found.differences[0].after.outcome is Outcome.REFUTED
    # As a command: what was stored said otherwise than today's claims do.
    verdicts = read_verdicts(folder / "verdicts.json")
    write_verdicts([replace(verdicts[0], outcome=Outcome.REFUTED), verdicts[1]], folder)
    capsys.readouterr()
    assert main(["rejudge", str(folder), "--json"]) == 1, "an improvement is a difference here"
    told = json.loads(capsys.readouterr().out)
    assert not told["same"] and told["verdicts"][0]["words"] == "refuted → supported"
    assert main(["rejudge", str(folder), "--markdown"]) == 1
    assert "| improvement | impulse-response |" in capsys.readouterr().out


def test_claims_that_are_gone_or_lack_their_evidence_are_said(folder, capsys):
    verdicts = read_verdicts(folder / "verdicts.json")
    write_verdicts([replace(verdicts[0], claim="of-yesterday"), replace(verdicts[1], claim="lag-one")], folder)
    capsys.readouterr()
    assert main(["rejudge", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert "of-yesterday cannot be judged today: no longer registered" in shown and "2 regressions" in shown
    assert "lag-one cannot be judged today" in shown and "needs the experiments" in shown
    next((folder / "evidence" / "impulse-response").glob("*.json")).unlink()
    assert main(["rejudge", str(folder)]) == 2
    assert "rests on the runs" in capsys.readouterr().err


def test_evidence_of_other_code_is_judged_and_counted(folder, monkeypatch, capsys):
    def edited(path):
        return path.read_text(encoding="utf-8").replace("steps = 120 if turn == 0", "steps = 121 if turn == 0")

    forget()
    monkeypatch.setattr(sources, "_text", edited)
    capsys.readouterr()
    try:
        assert main(["rejudge", str(folder)]) == 0
    finally:
        forget()
    assert "1 of the runs behind these verdicts were measured by other code" in capsys.readouterr().out


def forget():
    sources._module.cache_clear()
    sources.measuring_code.cache_clear()


def test_sequential_verdicts_and_those_on_tables_are_rejudged(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="bundled tables: install the extra `data`")
    monkeypatch.setattr(until_decided, "BATCH", 2**12)
    claim = next(claim for claim in CLAIMS if claim.name == "stationary-diagonal")
    out = tmp_path / "out"
    verify_until_decided([claim], EXPERIMENTS, out, seed=1, named=True, most_batches=3, show=False)
    assert main(["verify", "--claims", "impulse-response", "--out", str(out)]) == 0
    known = Register(claims=CLAIMS, experiments=EXPERIMENTS)
    found = rejudge(out, known)
    assert found.same and not found.unjudged and len(found.differences) == 2
    table = tmp_path / "table.csv"
    rows = [(i % 7, i * i % 5, i % 7 + 2 * (i * i % 5) + i % 3) for i in range(60)]
    table.write_text("a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    options = ["--batch-size", "8", "--replicas", "64", "--out", str(tmp_path / "regress")]
    assert main(["regress", "--data", str(table), "--target", "y", *options]) in (0, 3)
    found = rejudge(tmp_path / "regress", known)
    assert found.same and not found.unjudged and found.differences
