"""Workers end when the process that started them is killed, so that nothing goes on writing to the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.scenarios import MEASURING, TRAINING
from theory.judge.files import FolderInUseError, hold

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the table of processes from /proc")

PARENT = """
import multiprocessing, os, sys, time
from theory.judge.workers import end_with_parent
def work(parent):
    end_with_parent(parent)
    end_with_parent(parent)
    time.sleep(600)
if __name__ == "__main__":
    for _ in range(2):
        multiprocessing.get_context("spawn").Process(target=work, args=(os.getpid(),)).start()
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(parent: int) -> list[int]:
    """Children that run Python, but for the one that tracks what processes share."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(words[1]) == parent and words[0] != "Z" and b"python" in command and b"resource_tracker" not in command:
            found.append(int(stat.parent.name))
    return found


def eventually(what, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.1)
    return False


def is_free(folder: Path) -> bool:
    try:
        with hold(folder):
            return True
    except FolderInUseError:
        return False


def outlive(command: list[str], busy, cwd: Path) -> list[int]:
    """Start a command, kill it once it is `busy` with two workers, and return the workers that go on."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[int] = []
    try:
        assert eventually(lambda: len(workers_of(parent.pid)) == 2 and busy(), 240), "it never came to work"
        workers = workers_of(parent.pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: not any(map(alive, workers)), 30)
        return [pid for pid in workers if alive(pid)]
    finally:
        for pid in (parent.pid, *workers):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        parent.wait()


def test_a_worker_ends_with_its_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    assert outlive([sys.executable, str(script)], lambda: True, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sweep", "measure"])
def test_the_workers_of_a_killed_command_end_and_free_its_folder(command, tmp_path, monkeypatch):
    """Each of two workers is in the middle of hours of work."""
    out, program = tmp_path / "out", [sys.executable, "-m", "empirical"]
    words = [*TRAINING, "--method", "at", "--out", str(out), "--no-download"]
    hours = ["--epochs", "100000", "--jobs", "2"]
    if command == "measure":
        subprocess.run([*program, "train", *words, "--seeds", "2"], cwd=ROOT, check=True, capture_output=True)
        words = ["measure", str(out), *MEASURING, "--replicas", "1000000", "--window", "0", "--checkpoints", "0"]
        words += ["--ensembles", "all", "--no-expansions", "--jobs", "2"]
        busy = lambda: True  # noqa: E731
    else:
        words = [command, *words, *hours, *(["--seeds", "2"] if command == "train" else ["--grid", "epsilon=0,0.1"])]
        busy = lambda: len(list(out.glob("runs/*/metrics.jsonl"))) == 2  # noqa: E731
    assert outlive([*program, *words], busy, tmp_path) == []
    # A killed process counts as ended when its first thread has; the files that it held close with its last one.
    for folder in [out, *out.glob("runs/*")]:
        assert eventually(lambda folder=folder: is_free(folder), 30), f"somebody writes to {folder}"
