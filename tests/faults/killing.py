"""Kill a command at each of its file operations, run it again, and compare what stands on disk with a run left alone.

Method    The command runs in a forked child whose audit hook counts the operations that change files under the results
          folder (open for writing, mkdir, rename, link, unlink, …; ``os.fsync`` beside them). At the n-th the child
          ends at once (``os._exit``): nothing is flushed, no ``finally`` runs. At an ``fsync`` it may tear the file
          first, as a power cut does to what has not reached the disk. Then the same command runs to its end.
Equal     Same files, same bytes, but for what says when and how long: ``provenance`` and fields of seconds.
Forks     cost nothing where importing PyTorch costs seconds. The parent runs the command once itself, so that a child
          finds every module imported. No CUDA: a device does not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED = 137
_EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.link", "os.rmdir", "os.truncate", "os.symlink", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command and what it needs.

    Args:
        name: for the table.
        run: the command: a function of the results folder, returning its exit status.
        again: the same command as typed after a kill, where it is another one (`--resume`).
        prepare: fills the results folder beforehand.
    """

    name: str
    run: Callable[[Path], int]
    again: Callable[[Path], int] | None = None
    prepare: Callable[[Path], None] | None = None


@dataclass(kw_only=True)
class Outcome:
    """What the kills of one scenario came to; `differences` names the kill point and the first file that differs."""

    scenario: str
    operations: int
    points: int = 0
    differences: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


def timeless(value: Any) -> Any:
    """JSON without what says when it was made and how long that took."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "provenance" and "seconds" not in key}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """Every file under `folder`, hidden ones too, by its name: bytes, or timeless JSON."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "folder"
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = [timeless(json.loads(line)) for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """What differs, in a line; empty if nothing does."""
    for name in sorted(set(found) | set(expected)):
        if name not in found:
            return f"{name} is lost"
        if name not in expected:
            return f"{name} is left over"
        if found[name] != expected[name]:
            return f"{name} differs"
    return ""


def explore(
    scenario: Scenario, work: Path, *, every: int = 1, torn: bool = True, note: Callable[[str], None] | None = None
) -> Outcome:
    """Kill at every `every`-th operation (at an fsync also with the file torn), run again, compare.

    Args:
        scenario: what is killed.
        work: an empty folder to work in.
        every: 1 for all operations.
        torn: whether to tear files at an fsync as well.
        note: called with a line now and then.
    """
    base, whole = work / "base", work / "out"
    base.mkdir(parents=True)
    if scenario.prepare is not None:
        scenario.prepare(base)
    shutil.copytree(base, whole)
    scenario.run(whole)  # in this process: what it imports, every child has
    shutil.rmtree(whole)

    def fresh() -> Path:
        # Always the same path: settings and pages may name it.
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(base, whole)
        return whole

    def child(command: Callable[[Path], int], stop: int = -1, tear: bool = False) -> tuple[int, list[str], str]:
        return _forked(lambda: command(whole), root=whole, stop=stop, tear=tear)

    fresh()
    status, operations, text = child(scenario.run)
    outcome = Outcome(scenario=scenario.name, operations=len(operations))
    expected = contents(whole)
    if "Traceback" in text:
        outcome.tracebacks.append(f"left alone: {text.strip().splitlines()[-1]}")
    fresh()
    if child(scenario.run)[:2] != (status, operations) or difference(contents(whole), expected):
        outcome.differences.append(f"two runs left alone differ: {difference(contents(whole), expected)}")
    again = scenario.again or scenario.run
    for number, operation in enumerate(operations):
        if number % every:
            continue
        for tear in (False, True) if torn and operation.startswith("fsync") else (False,):
            fresh()
            ended, _, _ = child(scenario.run, stop=number, tear=tear)
            resumed, _, text = child(again)
            outcome.points += 1
            where = f"killed at operation {number} ({operation}{', torn' * tear})"
            if "Traceback" in text:
                outcome.tracebacks.append(f"{where}: {text.strip().splitlines()[-1]}")
            differs = difference(contents(whole), expected)
            if ended != KILLED:
                differs = f"the command ended with status {ended} before it could be killed"
            if resumed != status:
                differs = differs or f"status {resumed} instead of {status}: {text.strip()[-200:]}"
            if differs:
                outcome.differences.append(f"{where}: {differs}")
        if note is not None and number % 10 == 0:
            note(f"{scenario.name}: {number} of {len(operations)} operations")
    return outcome


def _forked(command: Callable[[], int], *, root: Path, stop: int, tear: bool) -> tuple[int, list[str], str]:
    """Exit status, the operations seen, and all output of `command` in a child."""
    with tempfile.TemporaryDirectory() as place:
        log, output = Path(place, "operations"), Path(place, "output")
        child = os.fork()
        if child == 0:
            status = 70
            try:
                with output.open("w") as stream:
                    os.dup2(stream.fileno(), 1)
                    os.dup2(stream.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                with log.open("w") as operations:
                    _watch(root, operations, stop, tear)
                    status = command()
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 2
            except BaseException:
                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                os._exit(status)
        _, waited = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(waited), log.read_text().splitlines(), output.read_text(errors="replace")


def _watch(root: Path, log: Any, stop: int, tear: bool) -> None:
    """Count this process's operations on files under `root`, and end it before operation `stop`."""
    prefix, seen, depth = os.fspath(root.resolve()), [0], [0]
    synced: dict[int, int] = {}  # bytes of a file that reached the disk, by its number

    def happened(operation: str, path: str, descriptor: int | None = None) -> None:
        if seen[0] == stop:
            if tear and descriptor is not None:
                status = os.fstat(descriptor)
                os.ftruncate(descriptor, (synced.get(status.st_ino, 0) + status.st_size) // 2)
            log.flush()
            os._exit(KILLED)
        seen[0] += 1
        log.write(f"{operation} {_anonymous(path[len(prefix) :])}\n")
        log.flush()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if depth[0]:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event in _EVENTS:
            path = arguments[0]
        else:
            return
        with contextlib.suppress(TypeError, ValueError):
            path = os.path.abspath(os.fsdecode(path)) if not isinstance(path, int) else ""
            if path.startswith(prefix):
                depth[0] += 1
                try:
                    happened(event, path)
                finally:
                    depth[0] -= 1

    sync = os.fsync

    def fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{number}")
            if path.startswith(prefix):
                happened("fsync", path, number)
                synced[os.fstat(number).st_ino] = os.fstat(number).st_size
        # Survival of the machine is not what is tested, and waiting for the disk takes longer than everything else.

    os.fsync = fsync if sys.platform == "linux" else sync
    sys.addaudithook(hook)


def _anonymous(path: str) -> str:
    """A path without the random part of a temporary name."""
    parts = Path(path).name.split(".")
    return f"{parts[1]}….partial" if parts[-1] == "partial" else Path(path).name


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """One row a scenario."""
    lines = ["| command | file operations | kills | lost, doubled or different | tracebacks |", "|---|---|---|---|---|"]
    for one in outcomes:
        lines.append(
            f"| `{one.scenario}` | {one.operations} | {one.points} | {len(one.differences)} | {len(one.tracebacks)} |"
        )
    return lines
