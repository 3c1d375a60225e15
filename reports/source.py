"""A folder of results, read whole and checked before anything is rendered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from theory.judge.evidence import Evidence
from theory.judge.verdict import Verdict, read_verdicts


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
    verdicts = read_verdicts(folder / "verdicts.json")
    if not verdicts:
        raise ValueError(f"`read_results(folder=...)` must hold at least one verdict; got none in {str(folder)!r}.")
    evidence = {}
    for path in sorted((folder / "evidence").glob("*/*.json")):
        run = dataclasses.replace(_read_run(path), arrays={})
        evidence[run.run_id] = run
    for verdict in verdicts if (folder / "evidence").exists() else ():
        lost = [run_id for run_id in verdict.evidence if run_id not in evidence]
        if lost:
            raise ValueError(
                f"the verdict on {verdict.claim!r} rests on the runs {lost}, "
                f"which {str(folder / 'evidence')!r} does not hold."
            )
    return Results(verdicts=verdicts, evidence=evidence)


def _read_run(path: Path) -> Evidence:
    try:
        return Evidence.read(path)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"`Evidence.read(path={str(path)!r})` needs the fields of a run; {error!r} is wrong."
        ) from None
