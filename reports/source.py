"""A folder of results, read whole and checked before anything is rendered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from theory.judge.evidence import Evidence
from theory.judge.verdict import Verdict, read_judged


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a report is made of: the verdicts, and every run recorded beside them, by run-id."""

    verdicts: tuple[Verdict, ...]
    evidence: dict[str, Evidence]


def read_results(folder: Path) -> Results:
    """Read ``verdicts.json`` and ``evidence/*/*.json``; a folder without ``evidence`` was published without.

    Arrays are checked to be readable and then dropped: figures carry their data inside the verdicts.

    Raises:
        ValueError: if the folder or a file is missing or damaged, there is no verdict, or a verdict names a run
            that is not recorded.
    """
    if not folder.is_dir():
        raise ValueError(f"`read_results(folder=...)` must be a folder with verdicts.json in it; got {str(folder)!r}.")
    verdicts, evidence = read_judged(folder)
    if not verdicts:
        raise ValueError(f"`read_results(folder=...)` must hold at least one verdict; got none in {str(folder)!r}.")
    return Results(
        verdicts=verdicts, evidence={name: dataclasses.replace(run, arrays={}) for name, run in evidence.items()}
    )
