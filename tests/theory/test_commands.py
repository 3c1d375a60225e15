"""What a user types: every command end to end, and every bad input answered in one line with exit status 2."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from theory.__main__ import main
from theory.judge.front import DISK_FAILED
from theory.judge.verdict import Standing, read_verdicts

ROOT = Path(__file__).resolve().parents[2]
FAST = "impulse-response,stability-boundary"


@pytest.fixture
def matrices(tmp_path):
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    hessian = (turn * np.array([0.5, 2.0, 9.0])) @ turn.T
    np.save(tmp_path / "H.npy", 0.5 * (hessian + hessian.T))
    np.save(tmp_path / "C.npy", np.diag([1.0, 2.0, 0.5]))
    return ["--hessian", str(tmp_path / "H.npy"), "--noise", str(tmp_path / "C.npy")]


def fails(arguments, capsys, *words):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    for word in words:
        assert word in lines[0], lines[0]


def test_verify_prints_the_table_and_leaves_a_results_folder(tmp_path, capsys):
    out = tmp_path / "results"
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "impulse-response" in shown.out and "supported" in shown.out and "4/4" in shown.out
    assert "\r" not in shown.err, "no progress bar where there is no terminal"
    verdicts = read_verdicts(out / "verdicts.json")
    assert [verdict.claim for verdict in verdicts] == FAST.split(",")
    stored = sorted(path.relative_to(out).parts[1] for path in (out / "evidence").rglob("*.json"))
    assert stored == ["impulse-response", "stability-search"]
    before = {path: path.read_bytes() for path in (out / "evidence").rglob("*.json")}
    assert main(["verify", "--claims", FAST, "--out", str(out), "--json"]) == 0
    again = capsys.readouterr()
    assert [item["claim"] for item in json.loads(again.out)] == FAST.split(",") and again.err == ""
    assert {path: path.read_bytes() for path in (out / "evidence").rglob("*.json")} == before, "evidence is reused"


def test_a_wrong_formula_is_refuted_and_the_exit_status_says_so(tmp_path, monkeypatch, capsys):
    from theory.closed_form import stationary

    right = stationary.root_product
    monkeypatch.setattr(stationary, "root_product", lambda mode: right(mode) / 1.01)
    assert main(["verify", "--claims", "impulse-response", "--out", str(tmp_path / "out")]) == 1
    assert "refuted" in capsys.readouterr().out


def test_claims_prints_the_register(capsys):
    assert main(["claims"]) == 0
    shown = capsys.readouterr().out
    assert "stationary-general  (identity; detects 0.01" in shown and "C's eigenbasis for H's" in shown
    assert main(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["decoys"] for row in rows) and len({row["name"] for row in rows}) == len(rows)


def test_solve_answers_for_a_users_own_matrices(matrices, tmp_path, capsys):
    arguments = ["solve", *matrices, "--learning-rate", "0.1", "--momentum", "0.9"]
    assert main([*arguments, "--json", "--out", str(tmp_path / "answer.npz")]) == 0
    result = json.loads(capsys.readouterr().out)
    with np.load(tmp_path / "answer.npz") as stored:
        covariance = stored["covariance"]
    hessian, noise, eta, mu = np.load(tmp_path / "H.npy"), np.load(tmp_path / "C.npy"), 0.1, 0.9
    # Liu, Ziyin and Ueda (2021), equation for momentum: an expansion that the product never uses
    left = (1 - mu) * (hessian @ covariance + covariance @ hessian)
    left -= (1 + mu**2) / (1 - mu**2) * eta * hessian @ covariance @ hessian
    left += mu / (1 - mu**2) * eta * (hessian @ hessian @ covariance + covariance @ hessian @ hessian)
    assert np.allclose(left, eta * noise, atol=1e-12)
    assert result["largest_stable_learning_rate"] == pytest.approx(2 * 1.9 / 9.0)
    assert all(row["difference"] < 1e-10 for row in result["oracles"].values() if "difference" in row)
    assert set(result["oracles"]) == {"direct", "bilinear", "doubling"}
    assert main([*arguments, "--slicot"]) == 0
    shown = capsys.readouterr().out
    assert "oracles against the closed form" in shown and "slycot" in shown
    fails([*arguments, "--out", str(tmp_path / "answer.npz")], capsys, "`--out` must not exist")


def test_simulate_measures_a_users_own_matrices(matrices, tmp_path, capsys):
    arguments = ["simulate", *matrices, "--learning-rate", "0.1", "--momentum", "0.9", "--out", str(tmp_path / "sim")]
    arguments += ["--replicas", "512", "--steps", "400", "--noise-law", "rademacher"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # 512 replicas × 400 steps at a correlation time of 9.5: ν ≈ 2e4, 5 standard deviations
    assert np.allclose(np.array(result["measured"]) / result["predicted"], 1.0, atol=5 * np.sqrt(2 / 2e4))
    assert Path(result["evidence"]).exists()
    fails(arguments, capsys, "`--seed` must be new")


def test_bad_input_is_one_line_and_exit_status_two(matrices, tmp_path, capsys):
    rate = ["--learning-rate", "0.1"]
    fails(
        ["solve", *matrices, "--learning-rate", "9", "--momentum", "0.9"], capsys, "learning_rate", "0.422222", "mode 2"
    )
    fails(["solve", *matrices, *rate, "--momentum", "1.0"], capsys, "`MomentumSGD(momentum=...)`", "[0, 1)", "1.0")
    fails(["solve", *matrices, "--learning-rate", "-1"], capsys, "learning_rate", "> 0", "-1.0")
    fails(["solve", "--hessian", "nowhere.npy", "--noise", "nowhere.npy", *rate], capsys, "nowhere.npy", "No such file")
    np.save(tmp_path / "bad.npy", np.array([[1.0, 2.0], [0.0, 1.0]]))
    fails(["solve", "--hessian", str(tmp_path / "bad.npy"), *matrices[2:], *rate], capsys, "symmetric")
    fails(
        ["verify", "--claims", "nothing", "--out", str(tmp_path / "o")],
        capsys,
        "--claims",
        "nothing",
        "stationary-general",
    )
    assert not (tmp_path / "o").exists()
    fails(["verify", "--claims", FAST, "--budget", "huge", "--out", str(tmp_path / "o")], capsys, "budget", "huge")
    fails(["verify", "--until-decided", "--claims", FAST, "--out", str(tmp_path / "o")], capsys, "--until-decided")
    with pytest.raises(SystemExit) as stopped:
        main(["solve"])
    assert stopped.value.code == 2


def test_output_folders_that_cannot_take_results(tmp_path, capsys, monkeypatch):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    fails(["verify", "--claims", FAST, "--out", str(foreign)], capsys, "--out", "new, empty or a results folder")
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    fails(["verify", "--claims", FAST, "--out", str(foreign / "thesis.tex")], capsys, "--out", "must be a folder")
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir()
        locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
        fails(["verify", "--claims", FAST, "--out", str(locked / "new")], capsys, "--out", "writable")
    fails(["verify", "--claims", FAST, "--out", "/proc/nothing"], capsys, "--out", "writable")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["verify", "--claims", FAST, "--out", str(tmp_path / "full")]) == DISK_FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]


def test_gate_turns_verdicts_into_an_exit_status(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0
    assert main(["gate", str(out), "--require", "impulse-response", "--junit", str(tmp_path / "junit.xml")]) == 0
    assert "impulse-response" in (tmp_path / "junit.xml").read_text()
    assert main(["gate", str(out), "--require", "lag-one"]) == 3, "no verdict decides nothing"
    verdicts = json.loads((out / "verdicts.json").read_text())
    verdicts["verdicts"][0]["outcome"] = "refuted"
    (out / "verdicts.json").write_text(json.dumps(verdicts))
    assert main(["gate", str(out), "--require", "impulse-response"]) == 1
    capsys.readouterr()
    fails(["gate", str(tmp_path / "nowhere"), "--require", "lag-one"], capsys, "verdicts.json")


def test_evidence_of_other_code_is_not_reused(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0
    capsys.readouterr()
    from theory.judge import sources

    def edited(path):
        return path.read_text(encoding="utf-8").replace("steps = 120 if turn == 0", "steps = 121 if turn == 0")

    forget_sources()
    monkeypatch.setattr(sources, "_text", edited)
    try:
        assert main(["verify", "--claims", "impulse-response", "--out", str(out), "--json"]) == 0, (
            "its code is the same"
        )
        kept = {verdict.claim: verdict for verdict in read_verdicts(out / "verdicts.json")}
        assert kept["impulse-response"].stale == "" and "measured by other code" in kept["stability-boundary"].stale
        capsys.readouterr()
        fails(["verify", "--claims", FAST, "--out", str(out), "--json"], capsys, "measured by other code", "stability")
    finally:
        forget_sources()


def forget_sources():
    from theory.judge import sources

    sources._module.cache_clear()
    sources.measuring_code.cache_clear()


def test_judging_a_part_keeps_the_other_verdicts(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["verify", "--claims", FAST, "--out", str(out)]) == 0
    before = read_verdicts(out / "verdicts.json")
    pages = [out / "index.html", out / "report.md"]
    for page in pages:
        page.write_text("made of these verdicts")
    capsys.readouterr()
    assert main(["verify", "--claims", "stability-boundary", "--out", str(out), "--seed", "4"]) == 0
    shown = capsys.readouterr()
    assert "impulse-response" not in shown.out, "the table shows what was judged"
    assert f"index.html and report.md in {out} show older verdicts" in shown.err
    after = read_verdicts(out / "verdicts.json")
    assert {verdict.standing for verdict in after} == {Standing.CONFIRMATORY}
    assert "confirmatory" in shown.out
    assert [verdict.claim for verdict in after] == [verdict.claim for verdict in before] == FAST.split(",")
    assert after[0] == before[0] and after[1].evidence != before[1].evidence
    # What rests on evidence that is gone or damaged stays, and says so.
    path = next((out / "evidence" / "impulse-response").glob("*.json"))
    text = path.read_text()
    path.write_text("{")
    assert main(["verify", "--claims", "stability-boundary", "--out", str(out)]) == 0
    assert "cannot be read" in read_verdicts(out / "verdicts.json")[0].stale
    path.unlink()
    assert main(["verify", "--claims", "stability-boundary", "--out", str(out)]) == 0
    assert "is gone" in read_verdicts(out / "verdicts.json")[0].stale
    path.write_text(text)
    assert main(["verify", "--claims", "stability-boundary", "--out", str(out)]) == 0
    assert read_verdicts(out / "verdicts.json")[0] == before[0]
    # Verdicts that cannot be read cannot be kept: nothing is measured, nothing overwritten.
    (out / "verdicts.json").write_text("[null]")
    capsys.readouterr()
    fails(["verify", "--claims", "stability-boundary", "--out", str(out)], capsys, "verdicts.json", "Remove the file")
    assert (out / "verdicts.json").read_text() == "[null]"


def test_the_module_runs_as_a_command_and_interrupts_cleanly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "theory", "verify", "--claims", FAST, "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    import signal
    import time

    late = str(tmp_path / "slow")
    # The whole register takes a minute or more, so that the interrupt comes before its end on any machine. A suite that
    # was started in the background ignores interrupts, and what it starts would too.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        slow = subprocess.Popen(
            [sys.executable, "-m", "theory", "verify", "--seed", "5", "--out", late],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not (tmp_path / "slow" / "evidence").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    slow.send_signal(signal.SIGINT)
    _, errors = slow.communicate(timeout=120)
    assert slow.returncode == 130 and "what was written is kept" in errors and "Traceback" not in errors, errors
    for path in (tmp_path / "slow").rglob("*.json"):
        json.loads(path.read_text())
