"""How many instructions six core kernels take, under callgrind, against a stored baseline: a guard that no noise moves.

    python -m tests.benchmarks.instructions [--store]

Counts repeat to a few parts in ten thousand on any machine with the same libraries, since callgrind runs every program
on one imagined processor; BLAS and numba are told to write code for that one. A change by more than `ALLOWED` is a
regression or an improvement to store. Where Python, NumPy, SciPy, numba, BLAS or valgrind are of other versions than
the baseline's, counts are shown and nothing is judged; without valgrind, nothing is counted, and that is said.

Exit status: 0 (within, or not comparable, or no valgrind), 1 (a kernel takes more), 2 (it takes less: store it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "reports" / "published" / "benchmarks" / "instructions.json"
#: Relative change that is not yet one.
ALLOWED = 0.03
_TOTAL = re.compile(r"^desc: Trigger: Client Request: (?P<name>.+?)$.*?^totals: (?P<count>\d+)$", re.M | re.S)


def counts() -> dict[str, int]:
    """Instructions of each kernel.

    Raises:
        RuntimeError: if valgrind fails; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as place:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OPENBLAS_CORETYPE": "Haswell",
            "NUMBA_NUM_THREADS": "1",
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "",
            "NUMBA_CACHE_DIR": place,
        }
        program = [sys.executable, "-m", "tests.benchmarks.kernels"]
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={place}/out"]
        for command in (program, [*tool, *program]):  # first without: numba compiles once, into the cache
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command[:2])} failed: {done.stderr[-2000:]}")
        texts = [path.read_text(encoding="utf-8") for path in Path(place).glob("out.*")]
        found = [match for text in texts if (match := _TOTAL.search(text))]
        return {match["name"]: int(match["count"]) for match in sorted(found, key=lambda match: match["name"])}


def environment() -> dict[str, str]:
    """What counts depend on."""
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    blas: Any = np.show_config(mode="dicts")
    return {
        "machine": platform.machine(),
        "valgrind": version,
        "python": platform.python_version(),
        "blas": str(blas["Build Dependencies"]["blas"]["version"]),
        **{name: metadata.version(name) for name in ("numpy", "scipy", "numba")},
    }


def compared(found: Mapping[str, int], stored: Mapping[str, int]) -> tuple[str, int]:
    """A table and the exit status.

    Raises:
        ValueError: if a kernel was not counted, or has no baseline.
    """
    if set(found) != set(stored):
        raise ValueError(f"`counts` must be of {sorted(stored)}; got {sorted(found)}.")
    changes = {name: found[name] / stored[name] - 1 for name in found}
    lines = [f"{name:<12} {found[name]:>14,} {100 * change:+8.2f} %" for name, change in changes.items()]
    status = 1 if max(changes.values()) > ALLOWED else 2 if min(changes.values()) < -ALLOWED else 0
    return "\n".join(lines), status


def main(arguments: list[str] | None = None) -> int:
    """Count, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.instructions", description=__doc__)
    parser.add_argument("--store", action="store_true", help="write what is counted as the new baseline")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None or platform.machine() != "x86_64":
        print("NOT COUNTED: valgrind is not installed (apt install valgrind), or this is not x86-64.")
        return 0
    found, here = counts(), environment()
    if options.store:
        record = {"kind": "instructions", "name": "instructions", "counts": found, "environment": here}
        BASELINE.parent.mkdir(parents=True, exist_ok=True)
        BASELINE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{BASELINE.relative_to(ROOT)}: {len(found)} kernels")
        return 0
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    table, status = compared(found, baseline["counts"])
    print(table)
    if here != baseline["environment"]:
        print(f"NOT JUDGED: the baseline is of {baseline['environment']}, this is {here}.")
        return 0
    if status:
        print(f"more than {100 * ALLOWED:.0f} % {'more' if status == 1 else 'less; store the new baseline'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
