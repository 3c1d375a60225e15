"""This repository's own gates: a positive control must pass, sabotaged it must fail, and the smoke run is gated.

The control is trained and its last checkpoint gated by the rules of `theory.assumptions`; the same run before its
first step must fail for not being at its optimum, and noise with random eigenvectors for not commuting. JUnit files and
one Markdown summary stand in OUT.

``python -m tests.gates --out reports/local/gate``; exit status 1 if a gate came out otherwise.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from spikeshrink import main as spikeshrink
from theory.closed_form.alignment import haar_rotation

TRAIN = ("empirical", "train", "--quiet", "--device", "cpu", "--jobs", "1")
#: The ridge control at its smaller rate: a quadratic loss, on which every assumption holds that a run can keep.
CONTROL = ("--preset", "control-ridge", "--learning-rate", "0.02", "--weight-decay", "0.01")
SMOKE = ("--preset", "smoke", "--method", "at")


def gate(name: str, status: int, failing: str, out: Path, *words: object) -> bool:
    """One gate; whether its exit status is `status` and the check named fails."""
    junit = out / f"{name}.xml"
    more = ("--junit", junit, "--summary", out / "summary.md", "--config", out / "none.toml")
    print(f"== {name}", flush=True)
    found = spikeshrink([str(word) for word in (*words, *more)])
    failed: set[str] = set()
    if junit.exists():
        cases = ElementTree.parse(junit).getroot().iter("testcase")
        failed = {case.attrib["name"].split()[0] for case in cases if case.find("failure") is not None}
    right = found == status and (not failing or failing in failed)
    said = f"exit status {found}, failing: {', '.join(sorted(failed)) or 'nothing'}"
    print(f"{'as it must' if right else 'NOT AS IT MUST'}: {said}", flush=True)
    return right


def checkpoints(folder: Path) -> list[Path]:
    """Of the only run in a folder, in order."""
    return sorted(folder.glob("runs/*/checkpoints/epoch-*.pt"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gates", description="This repository's own gates.")
    parser.add_argument("--out", type=Path, default=Path("reports/local/gate"), help="folder for files and runs")
    out = parser.parse_args(arguments).out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "none.toml").write_text("")  # the thresholds of this project are its users' business
    for name, options in (("control", CONTROL), ("smoke", SMOKE)):
        if spikeshrink([*TRAIN, *options, "--out", str(out / name)]):
            return 1
    rng = np.random.default_rng(0)
    spectrum, (basis, other) = np.geomspace(1.0, 0.01, 20), (haar_rotation(20, rng) for _ in range(2))
    for name, directions, scale in (("h", basis, spectrum), ("same", basis, spectrum), ("rotated", other, spectrum)):
        np.save(out / f"{name}.npy", (directions * scale) @ directions.T)
    matrices = ("theory", "gate", "--hessian", out / "h.npy", "--learning-rate", "0.1", "--momentum", "0.9")
    control, smoke = checkpoints(out / "control"), checkpoints(out / "smoke")
    checks = (
        gate("control", 0, "", out, "gate", control[-1], "--k", 5),
        gate("untrained", 1, "optimum", out, "gate", control[0], "--k", 5),
        gate("smoke", 0, "", out, "gate", smoke[-1], "--k", 2, "--require", "stability<1"),
        gate("commuting", 0, "", out, *matrices, "--noise", out / "same.npy"),
        gate("sabotaged", 1, "commutativity", out, *matrices, "--noise", out / "rotated.npy"),
    )
    return 0 if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
