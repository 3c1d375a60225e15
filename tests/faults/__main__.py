"""``nox -s faults``: hostile inputs, kills at file operations and flipped bits, as one published table.

    python -m tests.faults --out reports/published/faults
    python -m tests.faults --out reports/published/faults --part inputs     # the other part stays as it was
    python -m tests.faults --out reports/published/faults --kill measure    # as do the other commands that are killed
    python -m tests.faults --out reports/published/faults --part inputs --again   # those that were faults, once mended
Everything drawn comes from one seed. Exit status 0 if no fault was found, 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import inputs, killing, scenarios

ROOT = Path(__file__).resolve().parents[2]
#: Every how manieth operation of a command is killed: those that measure or train for seconds are killed less often.
EVERY = {"measure": 5, "run": 9, "sweep": 3}
SEED = 12
#: Of the totals, what is counted and need not be 0.
COUNTS = ("hostile_inputs", "kill_points", "flipped_bits")


def hostile(work: Path, *, every: int = 1, only: str | tuple[str, ...] = "", note: Any = None) -> list[inputs.Answer]:
    """The answers to every `every`-th hostile input whose name begins with (one of) `only`."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run, judged = work / "run", work / "judging" / "judged"
        for folder, prepare in ((run, scenarios.trained), (judged, scenarios.judged)):
            folder.mkdir(parents=True)
            prepare(folder)
    answers = []
    cases = [case for case in inputs.every_case(run, judged, seed=SEED) if case.name.startswith(only)]
    with inputs.capped_memory():
        for number, case in enumerate(cases[::every]):
            answers.append(inputs.answer(case, work / f"case-{number}"))
            if note is not None and number % 50 == 0:
                note(f"hostile inputs: {number} of {len(cases[::every])}")
    return answers


def sampled_in_processes(work: Path, count: int) -> list[inputs.Answer]:
    """Some of the cases again, each in a process of its own as the shell starts it."""
    run, judged = work / "run", work / "judging" / "judged"
    cases = list(inputs.every_case(run, judged, seed=SEED))
    chosen = np.random.default_rng(SEED).choice(len(cases), size=count, replace=False)
    answers = []
    for number, index in enumerate(sorted(chosen.tolist())):
        case, place = cases[index], work / f"process-{number}"
        (place / "IN").mkdir(parents=True)
        case.prepare(place)
        words = [word.replace("OUT", str(place / "OUT")).replace("IN/", f"{place / 'IN'}/") for word in case.words]
        if any("\0" in word for word in words):
            continue  # no shell can pass it
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=600
        )
        fault = "traceback" if "Traceback" in done.stderr else ""
        fault = fault or ("" if done.returncode in case.statuses else f"status {done.returncode}")
        answers.append(
            inputs.Answer(
                case=case.name,
                status=done.returncode,
                fault=fault,
                text=done.stderr[-2000:],
                seconds=time.monotonic() - began,
            )
        )
    return answers


def flipped(work: Path, count: int) -> dict[str, Any]:
    """Single flipped bits of a checkpoint and of arrays beside evidence: how many are refused, how many load."""
    from empirical.training.checkpoint import load_checkpoint
    from theory.judge.evidence import Evidence

    rng = np.random.default_rng(SEED)
    found = {}
    (checkpoint, *_) = sorted((work / "run").glob("runs/*/checkpoints/*.pt"))
    (arrays, *_) = sorted((work / "run").glob("evidence/training/*.npz"))
    for name, path, load in (
        ("checkpoint", checkpoint, lambda: load_checkpoint(checkpoint)),
        ("evidence arrays", arrays, lambda: Evidence.read(arrays.with_suffix(".json"))),
    ):
        whole = path.read_bytes()
        right = _content(load())
        silent, unchanged, wrong = [], [], []
        for position in rng.integers(8 * len(whole), size=count).tolist():
            content = bytearray(whole)
            content[position // 8] ^= 1 << position % 8
            path.write_bytes(content)
            try:
                same = _content(load()) == right  # the flip was in what an archive holds beside its content
                (unchanged if same else silent).append(position)
            except ValueError as error:
                if "\n" in str(error):
                    wrong.append(f"bit {position}: several lines")
            except Exception as error:
                wrong.append(f"bit {position}: {type(error).__name__}")
        path.write_bytes(whole)
        found[name] = {
            "bytes": len(whole),
            "flips": count,
            "loaded": silent,
            "unchanged": unchanged,
            "wrong_errors": wrong,
        }
    return found


def _content(loaded: Any) -> Any:
    """All numbers of what was read, comparable."""
    arrays = (
        loaded.arrays if hasattr(loaded, "arrays") else {k: v.numpy() for k, v in loaded.model.state_dict().items()}
    )
    return {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in arrays.items()}


def killed(work: Path, *, thin: int = 1, only: Sequence[str] = (), note: Any = None) -> list[killing.Outcome]:
    """Kill points of every scenario; `thin` multiplies the steps between them."""
    from empirical.measure import operators

    operators._seconds = lambda *_: 1.0  # the clock would pick how products are formed, and with it the last bits
    outcomes = []
    for number, scenario in enumerate(scenarios.scenarios()):
        if only and scenario.name not in only:
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcomes.append(
                killing.explore(scenario, work / f"killed-{number}", every=thin * EVERY.get(scenario.name, 1))
            )
        if note is not None:
            note(f"kills: {scenario.name} {outcomes[-1].points}")
    return outcomes


def inputs_record(
    answers: list[inputs.Answer], processes: list[inputs.Answer], flips: dict[str, Any]
) -> dict[str, Any]:
    """What hostile inputs and flipped bits came to."""
    groups: dict[str, list[inputs.Answer]] = {}
    for one in answers:
        groups.setdefault(one.case.split("/")[0], []).append(one)
    return {
        "seed": SEED,
        "hostile_inputs": {
            name: {
                "inputs": len(group),
                "tracebacks": sum(one.fault == "traceback" for one in group),
                "silent_acceptances": sum(one.status == 0 and bool(one.fault) for one in group),
                "other_faults": sum(one.fault not in ("", "traceback") and one.status != 0 for one in group),
            }
            for name, group in groups.items()
        },
        "in_processes_of_their_own": {"inputs": len(processes), "faults": sum(bool(one.fault) for one in processes)},
        "flipped_bits": flips,
        "faults": [
            {"case": one.case, "fault": one.fault, "status": one.status} for one in (*answers, *processes) if one.fault
        ],
    }


def mended(record: dict[str, Any], answers: list[inputs.Answer]) -> dict[str, Any]:
    """The record of a fault run with what it found asked again: an input now answered rightly counts as no fault."""
    right = {one.case for one in answers if not one.fault}
    groups = {name: dict(group) for name, group in record["hostile_inputs"].items()}
    for found in record["faults"]:
        if found["case"] in right:
            counts = groups[found["case"].split("/")[0]]
            silent = "silent_acceptances" if found["status"] == 0 else "other_faults"
            counts["tracebacks" if found["fault"] == "traceback" else silent] -= 1
    left = [found for found in record["faults"] if found["case"] not in right]
    asked = sorted({*record.get("asked_again", ()), *right})
    return {**record, "hostile_inputs": groups, "faults": left, "asked_again": asked}


def totals(kills: dict[str, Any], found: dict[str, Any]) -> dict[str, int]:
    """The numbers of "Done when": three counts, and what must be 0."""
    groups, flips = found["hostile_inputs"].values(), found["flipped_bits"].values()
    return {
        "hostile_inputs": sum(group["inputs"] for group in groups),
        "kill_points": sum(one["points"] for one in kills["scenarios"]),
        "flipped_bits": sum(one["flips"] for one in flips),
        "tracebacks": sum(group["tracebacks"] for group in groups)
        + sum(len(one["tracebacks"]) for one in kills["scenarios"]),
        "silent_acceptances": sum(group["silent_acceptances"] for group in groups)
        + sum(len(one["loaded"]) for one in flips),
        "other_faults": sum(group["other_faults"] for group in groups)
        + found["in_processes_of_their_own"]["faults"]
        + sum(len(one["wrong_errors"]) for one in flips),
        "lost_or_doubled_records": sum(len(one["differences"]) for one in kills["scenarios"]),
    }


def markdown(kills: dict[str, Any], found: dict[str, Any]) -> str:
    """The table of both parts."""
    groups, scenarios_ = found["hostile_inputs"], kills["scenarios"]
    columns = ("inputs", "tracebacks", "silent_acceptances", "other_faults")
    lines = ["# Faults", "", "Made by `nox -s faults`: after its count, every row asks for zeros.", ""]
    lines += [
        "| hostile inputs of | inputs | tracebacks | silent acceptances | other faults |",
        "|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        lines.append(f"| `{name}` | " + " | ".join(str(group[key]) for key in columns) + " |")
    everything = [sum(group[key] for group in groups.values()) for key in columns]
    lines.append("| all | " + " | ".join(map(str, everything)) + " |")
    own = found["in_processes_of_their_own"]
    if again := found.get("asked_again"):
        lines += ["", f"Found in this run, mended since and asked again: {', '.join(f'`{name}`' for name in again)}."]
    lines += ["", f"{own['inputs']} of them again in processes of their own: {own['faults']} faults.", ""]
    lines += ["| killed | file operations | kills | lost, doubled or different | tracebacks |", "|---|---|---|---|---|"]
    for one in scenarios_:
        counts = (one["operations"], one["points"], len(one["differences"]), len(one["tracebacks"]))
        lines.append(f"| `{one['scenario']}` | " + " | ".join(map(str, counts)) + " |")
    counts = (
        sum(one["operations"] for one in scenarios_),
        sum(one["points"] for one in scenarios_),
        sum(len(one["differences"]) for one in scenarios_),
        sum(len(one["tracebacks"]) for one in scenarios_),
    )
    lines += ["| all | " + " | ".join(map(str, counts)) + " |", ""]
    lines += ["| flipped bits of | bytes | flips | loaded as something else | wrong errors |", "|---|---|---|---|---|"]
    for name, one in found["flipped_bits"].items():
        lines.append(
            f"| {name} | {one['bytes']} | {one['flips']} | {len(one['loaded'])} | {len(one['wrong_errors'])} |"
        )
    faults = [f"- `{one['case']}`: {one['fault']}" for one in found["faults"]]
    faults += [
        f"- `{one['scenario']}`: {text}" for one in scenarios_ for text in one["differences"] + one["tracebacks"]
    ]
    if faults:
        lines += ["", "## What was found", "", *faults]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, write it; 0 if nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("reports/local/faults"), help="folder of the table")
    parser.add_argument("--part", choices=("kills", "inputs"), help="make one part alone (default: both)")
    names = [scenario.name for scenario in scenarios.scenarios()]
    parser.add_argument("--kill", action="append", choices=names, default=[], help="kill these commands alone")
    parser.add_argument("--every", type=int, default=1, help="take every N-th input and kill point")
    parser.add_argument("--again", action="store_true", help="ask only the inputs that were faults when last stored")
    parser.add_argument("--processes", type=int, default=12, help="inputs that are tried in processes of their own")
    options = parser.parse_args(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a device does not survive a fork
    import torch

    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if options.part != "inputs":
            kept = _killed_before(options.out / "kills.json") if options.kill else {}
            for name in options.kill or names:
                (outcome,) = killed(work, thin=options.every, only=(name,), note=note)
                kept[name] = asdict(outcome)  # stored as it comes: a run that is stopped goes on with --kill
                _write(options.out / "kills.json", {"scenarios": [kept[name] for name in names if name in kept]})
        if options.again:
            record = json.loads((options.out / "inputs.json").read_text(encoding="utf-8"))
            cases = tuple(found["case"] for found in record["faults"])
            _write(options.out / "inputs.json", mended(record, hostile(work, only=cases, note=note)))
        elif options.part != "kills" and not options.kill:
            answers = hostile(work, every=options.every, note=note)
            processes = sampled_in_processes(work, options.processes)
            _write(options.out / "inputs.json", inputs_record(answers, processes, flipped(work, 60)))
    parts = [options.out / name for name in ("kills.json", "inputs.json")]
    if not all(part.exists() for part in parts):
        return 0
    kills, found = (json.loads(part.read_text()) for part in parts)
    text, counts = markdown(kills, found), totals(kills, found)
    _write(options.out / "totals.json", counts)
    (options.out / "report.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(value for name, value in counts.items() if name not in COUNTS))


def _killed_before(path: Path) -> dict[str, Any]:
    stored = json.loads(path.read_text(encoding="utf-8"))["scenarios"] if path.exists() else []
    return {one["scenario"]: one for one in stored}


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
