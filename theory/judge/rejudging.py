"""Stored verdicts against today's: what a command that judges recorded evidence again takes, prints and returns.

Nothing is measured and nothing is written. `theory.rejudge` judges what is recorded about quadratics,
`empirical.commands.rejudge` what is recorded about networks; the rest is here.
Exit status: 0 if every verdict comes out as stored, 1 if one differs or cannot be judged any more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from theory.judge.differences import Difference, markdown, text
from theory.judge.evidence import Evidence
from theory.judge.verdict import Verdict, read_judged


@dataclass(frozen=True, kw_only=True)
class Rejudged:
    """What became of stored verdicts.

    Args:
        differences: stored against today's.
        unjudged: claims that cannot be judged today, with the reason.
        other_code: run-ids of evidence measured by other code than today's.
    """

    differences: tuple[Difference, ...]
    unjudged: Mapping[str, str]
    other_code: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether every stored verdict came out again."""
        return not any(item.change.is_difference for item in self.differences)


def stored_in(folder: Path) -> tuple[tuple[Verdict, ...], dict[str, Evidence]]:
    """The verdicts of a folder and the evidence that they rest on, by run-id.

    Raises:
        ValueError: if either cannot be believed, or there is no evidence.
    """
    verdicts, evidence = read_judged(folder)
    if not evidence:
        raise ValueError(f"`rejudge` needs the evidence that verdicts rest on; {folder} holds none.")
    return verdicts, evidence


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which folder, and how differences are shown."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="results folder with verdicts.json and evidence/")
    parser.add_argument("--all", action="store_true", help="show what is the same as well")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON")
    shape.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")


def show(found: Rejudged, options: argparse.Namespace) -> int:
    """Print, as `options` ask; see the module for the exit status."""
    status = 0 if found.same else 1
    if options.json:
        rows = [item.to_dict() for item in found.differences]
        told = {"same": found.same, "other_code": found.other_code, "unjudged": found.unjudged, "verdicts": rows}
        print(json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False))
        return status
    print((markdown if options.markdown else text)(found.differences, everything=options.all))
    for name, reason in found.unjudged.items():
        print(f"{name} cannot be judged today: {reason}")
    if found.other_code:
        print(f"{len(found.other_code)} of the runs behind these verdicts were measured by other code than today's.")
    return status
