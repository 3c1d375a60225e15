"""``python -m empirical validate FOLDER``: may these runs be published as a reproduction?

Checks each run's evidence (schema, digest of its setting, arrays), its checkpoints' digests where the files are there,
its setting against the published protocol, and its windows against the acceptance bands. Exit status: 0 all runs pass,
1 some run departs from the protocol or leaves a band, 2 the folder cannot be read.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from empirical.records import TrainingRun

NAME = "validate"
DESCRIPTION = "Checks every training run under FOLDER/evidence against the published protocol and its numbers."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("folder", help="results folder")


def run(args: argparse.Namespace) -> int:
    """Validate; see the module for the exit status."""
    return validate_folder(args.folder)


def validate_folder(folder: str | Path) -> int:
    """Print what was checked, and the exit status."""
    from empirical.records import TrainingRun, read_records

    runs = [item for item in read_records(folder, [TrainingRun]) if isinstance(item, TrainingRun)]
    if not runs:
        raise ValueError(f"`validate` must be given a folder with training runs; `{folder}` has none.")
    failed = 0
    for item in runs:
        lines, passed = check_run(item, Path(folder))
        failed += not passed
        print(f"{item.dataset} {item.method} seed {item.seed}: {'passes' if passed else 'FAILS'}")
        for line in lines:
            print(f"  {line}")
    print(f"{len(runs) - failed} of {len(runs)} runs pass")
    return 1 if failed else 0


def check_run(item: TrainingRun, folder: Path) -> tuple[list[str], bool]:
    """What was found of one run, and whether it may be published."""
    from empirical.training.reproduction import REFERENCE, describe, protocol_differences, windows_of

    lines: list[str] = []
    passed = True
    absent = 0
    for entry in item.checkpoints:
        path = folder / entry.file
        if not path.exists():
            absent += 1
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            passed = False
            lines.append(f"checkpoint {entry.file} is not the one that was recorded")
    if absent:
        lines.append(f"{absent} checkpoints are not in the folder: their digests were not checked")
    if item.provenance.get("dirty") or item.provenance.get("commit") is None:
        lines.append("the code was modified or not under version control when it ran")
    reference = next((value for key, value in REFERENCE.items() if key == (item.dataset, item.method)), None)
    if reference is None:
        return [*lines, "no published reference for this data set and method"], False
    departures = protocol_differences(item.training, item.dataset, item.method)
    if departures:
        return [*lines, *(f"protocol: {line}" for line in departures)], False
    windows = windows_of(item.epochs, reference)
    if len(windows) < 6:
        return [*lines, "windows of the published epochs are missing"], False
    lines += [describe(window) for window in windows]
    return lines, passed and all(abs(window.ratio) <= 1 for window in windows)
