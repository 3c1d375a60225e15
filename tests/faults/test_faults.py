"""A part of the fault run (`nox -s faults`) in the ordinary suite: some hostile inputs, some kills, some flipped bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import __main__ as faultrun
from tests.faults import inputs, killing

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_no_fault_is_found_in_a_part_of_the_fault_run(tmp_path):
    """In a process of its own: forks and a memory limit are nothing for the test runner's."""
    words = ["-m", "tests.faults", "--every", "40", "--processes", "1", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    totals = json.loads((tmp_path / "totals.json").read_text())
    assert totals["hostile_inputs"] > 30 and totals["kill_points"] > 7 and totals["flipped_bits"] == 120


def test_a_fault_that_is_mended_is_taken_out_and_named():
    group = {"inputs": 5, "tracebacks": 1, "silent_acceptances": 0, "other_faults": 1}
    faults = [{"case": "gate/a", "fault": "traceback", "status": 70}, {"case": "gate/b", "fault": "x", "status": 3}]
    record = {"hostile_inputs": {"gate": group}, "faults": faults}
    answers = [
        inputs.Answer(case="gate/a", status=2, fault="", text="", seconds=0.0),
        inputs.Answer(case="gate/b", status=3, fault="status 3", text="", seconds=0.0),
    ]
    found = faultrun.mended(record, answers)
    assert found["hostile_inputs"]["gate"] == group | {"tracebacks": 0}
    assert found["faults"] == faults[1:] and found["asked_again"] == ["gate/a"]


def test_the_harness_sees_a_doubled_a_lost_and_a_left_over_record(tmp_path):
    """A command that is not safe to kill must be found out."""

    def careless(out: Path) -> int:
        log = out / "log.txt"
        with log.open("a") as stream:
            stream.write("one\n")
        (out / "first").mkdir(exist_ok=True)
        (out / "second").mkdir(exist_ok=True)
        return 0

    outcome = killing.explore(killing.Scenario(name="careless", run=careless), tmp_path / "doubled")
    assert outcome.operations == 3 and outcome.points == 3
    assert [text.rpartition(": ")[2] for text in outcome.differences] == ["log.txt differs"] * 2

    def litters(out: Path) -> int:
        place = out / f"temporary-{os.getpid()}"
        place.write_text("x")
        place.rename(out / "result")
        return 0

    outcome = killing.explore(killing.Scenario(name="litters", run=litters), tmp_path / "litter")
    assert "two runs left alone differ" in outcome.differences[0] and "left over" in outcome.differences[1]

    def gives_up(out: Path) -> int:
        if (out / "started").exists():
            return 0
        (out / "started").write_text("x")
        (out / "result").write_text("y")
        return 0

    outcome = killing.explore(killing.Scenario(name="gives up", run=gives_up), tmp_path / "lost")
    assert any("result is lost" in text for text in outcome.differences)
