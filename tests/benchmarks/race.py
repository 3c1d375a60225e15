"""Ours and the peers on the same input, taking turns in one process: seconds, ratios with intervals, memory, errors.

A turn runs every contender once, in an order that rotates, so that what else the machine does falls on all alike. The
ratio of a turn is a contender's seconds over ours *in that turn*; what is stored is the median over turns, between the
order statistics that hold it with at least 95 % chance whatever the law of the noise (7 turns: the whole range,
98.4 %). Seconds are the process's own (``clock="cpu"``), which neighbours on the machine hardly move, or the wall's
where several threads are compared. Nothing is timed before all answers agree: a fast wrong answer is no answer.

Memory    how far the resident set rises above where it stood while a contender runs once (Linux; else absent).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.stats
import threadpoolctl

ROOT = Path(__file__).resolve().parents[2]
#: Where `nox -s bench` writes; committed, and what the page *Performance* is made from.
STORED = ROOT / "reports" / "published" / "benchmarks"
CONFIDENCE = 0.95
_POOL = ("internal_api", "version", "architecture")
PACKAGES = ("numpy", "scipy", "numba", "control", "slycot", "torch", "curvlinops-for-pytorch")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to get the answer.

    Args:
        run: does the work once and returns the answer.
        work: how much of the common work `run` does: 1/40 where a peer runs a fortieth of the path.
        role: "ours", "variant" of ours, "peer", or "floor": what no program that does this can go below.
        least: how many times slower than ours it is to be, at least; no test asserts it.
        most: the same, at most (a floor: ours is to be near it).
    """

    run: Callable[[], Any]
    work: float = 1.0
    role: Literal["ours", "variant", "peer", "floor"] = "peer"
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Race:
    """Contenders on one input.

    Args:
        title: what is computed, of which size.
        contenders: by name; exactly one is ours.
        errors: of the answers, by contender: largest relative distances from a reference, named in `reference`.
        reference: what the errors are measured against.
        tolerance: largest error that lets the race begin.
        turns: odd, at least 7.
        clock: "cpu" or "wall".
        threads: of BLAS and torch.
    """

    title: str
    contenders: Mapping[str, Contender]
    errors: Callable[[Mapping[str, Any]], Mapping[str, float]]
    reference: str
    tolerance: float
    turns: int = 7
    clock: Literal["cpu", "wall"] = "cpu"
    threads: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> str:
        """The name of the one that is ours."""
        (name,) = (name for name, one in self.contenders.items() if one.role == "ours")
        return name


def run_race(name: str, race: Race) -> dict[str, Any]:
    """The record of a race.

    Raises:
        AssertionError: if the answers differ by more than the tolerance.
    """
    read = time.process_time if race.clock == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {label: [] for label in race.contenders}
    with one_size(race.threads):
        peak, answers = {}, {}
        for label, contender in race.contenders.items():
            contender.run()  # compiles, loads, faults pages in
            peak[label], answers[label] = risen(contender.run)
        errors = dict(race.errors(answers))
        assert errors and all(error <= race.tolerance for error in errors.values()), (name, errors, race.tolerance)
        del answers
        labels = list(race.contenders)
        for turn in range(race.turns):
            for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
                began = read()
                race.contenders[label].run()
                seconds[label].append((read() - began) / race.contenders[label].work)
    ours = race.ours
    return {
        "kind": "race",
        "name": name,
        "title": race.title,
        "ours": ours,
        "clock": race.clock,
        "threads": race.threads,
        "turns": race.turns,
        "roles": {label: one.role for label, one in race.contenders.items()},
        "targets": {
            label: {side: bound for side, bound in (("least", one.least), ("most", one.most)) if bound is not None}
            for label, one in race.contenders.items()
            if one.least is not None or one.most is not None
        },
        "seconds": seconds,
        "ratios": {label: ratio(seconds[label], seconds[ours]) for label in labels if label != ours},
        "errors": errors,
        "reference": race.reference,
        "mebibytes": peak,
        "facts": dict(race.facts),
        "environment": environment(),
    }


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Median of the turns' ratios and the interval that holds it."""
    return median_interval([their / our for their, our in zip(theirs, ours, strict=True)])


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """Median and its distribution-free interval: order statistics r and n + 1 − r with P(Binomial(n, ½) < r) ≤ 2.5 %.

    Raises:
        ValueError: if there are too few values for an interval of 95 %.
    """
    ordered, count = sorted(values), len(values)
    # The largest r whose interval holds the median often enough; r = 1 is the whole range.
    rank = int(scipy.stats.binom.ppf((1 - CONFIDENCE) / 2, count, 0.5))
    if rank < 1:
        raise ValueError(f"`median_interval(values=...)` must be at least 6 for 95 %; got {count}.")
    return {"median": statistics.median(ordered), "low": ordered[rank - 1], "high": ordered[-rank]}


def risen(run: Callable[[], Any]) -> tuple[float | None, Any]:
    """Mebibytes by which the resident set rose at most while `run` ran, and its answer."""
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
        before = _resident(status, "VmRSS")
    except (OSError, AttributeError):  # another system, another C library
        return None, run()
    answer = run()
    return max(0.0, (_resident(status, "VmHWM") - before) / 1024), answer


def _resident(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name + ":"))


@contextlib.contextmanager
def one_size(threads: int):
    """BLAS, and torch where it is loaded, on so many threads."""
    import sys

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    try:
        if torch:
            torch.set_num_threads(threads)
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        if torch:
            torch.set_num_threads(before)


def environment() -> dict[str, Any]:
    """What the numbers were measured on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    pools = threadpoolctl.threadpool_info()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "blas": sorted({" ".join(str(pool[key]) for key in _POOL) for pool in pools if pool["user_api"] == "blas"}),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Cost against one size.

    Args:
        title: what is computed.
        variable: what grows, with its unit.
        sizes: ascending.
        prepare: makes the call of one size; making is not timed.
        expected: exponent of the cost in the size.
        fitted: sizes the exponent is fitted on: below, what does not grow rules.
        bend: why the curve bends where it does.
        repeats: of one size within a turn, the smallest counts: for calls of microseconds.
    """

    title: str
    variable: str
    sizes: Sequence[int]
    prepare: Callable[[int], Callable[[], Any]]
    expected: float
    fitted: Sequence[int]
    bend: str
    turns: int = 7
    clock: Literal["cpu", "wall"] = "cpu"
    repeats: int = 1


def run_curve(name: str, curve: Curve) -> dict[str, Any]:
    """The record of a curve: seconds and memory by size, and the slope of ln seconds on ln size with its interval."""
    read = time.process_time if curve.clock == "cpu" else time.perf_counter
    seconds: dict[int, list[float]] = {size: [] for size in curve.sizes}
    memory: dict[int, float | None] = {}
    with one_size(1):
        calls = {size: curve.prepare(size) for size in curve.sizes}
        for size, call in calls.items():
            call()
            memory[size] = risen(call)[0]
        for _ in range(curve.turns):
            for size, call in calls.items():
                best = math.inf
                for _ in range(curve.repeats):
                    began = read()
                    call()
                    best = min(best, read() - began)
                seconds[size].append(best)
    slopes = [
        float(np.polyfit(np.log(curve.fitted), np.log([seconds[size][turn] for size in curve.fitted]), 1)[0])
        for turn in range(curve.turns)
    ]
    return {
        "kind": "curve",
        "name": name,
        "title": curve.title,
        "variable": curve.variable,
        "sizes": list(curve.sizes),
        "seconds": [median_interval(seconds[size]) for size in curve.sizes],
        "mebibytes": [memory[size] for size in curve.sizes],
        "exponent": median_interval(slopes),
        "expected": curve.expected,
        "fitted": list(curve.fitted),
        "bend": curve.bend,
        "clock": curve.clock,
        "turns": curve.turns,
        "environment": environment(),
    }


def store(record: Mapping[str, Any], folder: Path = STORED) -> Path:
    """Write a record under its name, in place of an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['name']}.json"
    text = json.dumps(rounded(record), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def rounded(value: Any) -> Any:
    """Numbers to six digits: a clock knows no more."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
