"""``spikeshrink empirical rejudge FOLDER``: recorded evidence judged with today's claims, against its stored verdicts.

Today's claims pick their subjects anew from all records, as `verify` lets them; claims of which no verdict is stored
are left alone. See `theory.judge.rejudging` for what is printed and the exit status.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from theory.judge.rejudging import Rejudged, add_options, show, stored_in

if TYPE_CHECKING:
    from empirical.claims import Register

NAME = "rejudge"
DESCRIPTION = "Judges a folder's recorded evidence with today's claims; exits 1 if a stored verdict differs."

__all__ = ["DESCRIPTION", "NAME", "add_options", "rejudge", "run"]


def run(args: argparse.Namespace) -> int:
    """Rejudge and print."""
    from empirical.claims import collect

    return show(rejudge(args.folder, collect()), args)


def rejudge(folder: Path, known: Register) -> Rejudged:
    """Judge all records of a folder with those claims of a register of which it stores verdicts.

    Raises:
        ValueError: if the folder's verdicts or records cannot be believed, or a run that a verdict rests on is gone.
    """
    from empirical.commands.verify import judge_all
    from empirical.records import records_among
    from theory.judge.differences import compare

    stored, evidence = stored_in(folder)
    records = records_among(evidence.values())
    if not records:
        raise ValueError(f"`rejudge` needs records of training runs; {folder} holds none.")
    asked = {verdict.claim for verdict in stored}
    claims = tuple(entry for entry in known.claims if entry.claim.name in asked)
    today = judge_all(dataclasses.replace(known, claims=claims), records)
    registered, judged = ({entry.claim.name for entry in claims}, {(item.claim, item.subject) for item in today})
    absent = "; ".join(("no longer registered", *known.missing))
    unjudged = {
        f"{verdict.claim} ({verdict.subject})" if verdict.subject else verdict.claim: (
            "it finds no such subject in the records" if verdict.claim in registered else absent
        )
        for verdict in stored
        if (verdict.claim, verdict.subject) not in judged
    }
    return Rejudged(differences=compare(stored, today), unjudged=unjudged)
