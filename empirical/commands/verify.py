"""``python -m empirical verify OUT``: judge whatever evidence a folder holds.

Nothing is run. Every claim of the register (`empirical.claims`) picks its subjects (runs, pairs, groups) from the
evidence of all kinds under ``OUT/evidence``, imported or our own, and is judged on each. Printed are the ladder of each
ensemble, a line, and then the claims, a line each. Verdicts go to ``OUT/verdicts.json``; evidence is left alone. Works
without torch: claims whose modules need what is not installed are named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from empirical.claims import Register
    from empirical.records import Record
    from theory.judge.verdict import Verdict

NAME = "verify"
DESCRIPTION = "Judges every empirical claim on the evidence under OUT/evidence and writes OUT/verdicts.json."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("out", help="folder with evidence")
    parser.add_argument("--claim", action="append", metavar="ID", help="judge only these claims (all by default)")
    parser.add_argument("-v", "--verbose", action="store_true", help="also print a line on each verdict, with its note")


def run(args: argparse.Namespace) -> int:
    """Judge; see `verify` for the exit status."""
    return verify(args.out, claims=args.claim, verbose=args.verbose)


def verify(out: str | Path, *, claims: Sequence[str] | None = None, verbose: bool = False) -> int:
    """Judge and write; 0, 1 (an identity is refuted) or 3 (undecided).

    Args:
        out: folder with evidence.
        claims: judge only these, and keep the folder's verdicts on others; all by default.
        verbose: also print a line on each verdict.

    Raises:
        ValueError: if a claim is unknown, the evidence is unreadable or absent, or another process writes the folder.
        OSError: if the verdicts cannot be written.
    """
    from empirical.results import hold_results

    has_evidence = (Path(out) / "evidence").is_dir()  # else there is nothing to judge, and nothing is made
    with hold_results(out) if has_evidence else contextlib.nullcontext():
        return _verify(out, claims, verbose)


def _verify(out: str | Path, claims: Sequence[str] | None, verbose: bool) -> int:
    from empirical.claims import collect, held_against_controls
    from empirical.records import read_records
    from theory.judge.terminal import remarks, verdict_table, wants_color
    from theory.judge.verdict import exit_status, write_verdicts
    from theory.verification import recorded

    kept: tuple[Verdict, ...] = ()
    records = read_records(out)
    register = collect()
    order = {entry.claim.name: place for place, entry in enumerate(register.claims)}
    if claims:
        kept = tuple(verdict for verdict in recorded(Path(out)) if verdict.claim not in claims)
        register = _chosen(register, claims)
    for line in register.missing:
        print(f"verify: left out, {line}", file=sys.stderr)
    if not records:
        raise ValueError(f"`{out}/evidence` must hold evidence; it has none.")
    verdicts = judge_all(register, records)
    merged = held_against_controls((*kept, *verdicts), records)
    verdicts = merged[len(kept) :]
    merged = sorted(merged, key=lambda verdict: order.get(verdict.claim, len(order)))
    write_verdicts(merged, Path(out))
    if verbose:
        print(remarks(verdicts) + "\n")
    for line in ladders(verdicts):
        print(line)
    print(verdict_table(verdicts, color=wants_color(sys.stdout)))
    judged = {verdict.claim for verdict in verdicts}
    silent = [entry.claim.name for entry in register.claims if entry.claim.name not in judged]
    if silent:
        print(f"no evidence here for {len(silent)} claims" + (f": {', '.join(silent)}" if verbose else ""))
    print(f"{len(records)} records of evidence and their verdicts: {out}")
    return exit_status(verdicts)


def ladders(verdicts: Sequence[Verdict]) -> list[str]:
    """A line for the ladder of each ensemble: its outcome, where theory and network part, and every rung's ratio."""
    from empirical.claims.ladder import LADDER

    return [
        f"{verdict.outcome.value:14s}{verdict.claim} · {verdict.subject}: {verdict.note}"
        for verdict in verdicts
        if verdict.claim == LADDER.claim.name
    ]


def judge_all(register: Register, records: Sequence[Record]) -> tuple[Verdict, ...]:
    """The verdict of every claim on every subject it finds, claims in the register's order.

    Subjects of one claim that share a name (logs of the same name from two folders) get their run-ids appended.
    """
    verdicts = []
    for entry in register.claims:
        subjects = list(entry.subjects_in(records))
        times = Counter(str(subject.about) for subject in subjects)
        for subject in subjects:
            if times[str(subject.about)] > 1:
                name = f"{subject.about.name} #{subject.records[0].run_id[:6]}"
                subject = dataclasses.replace(subject, about=dataclasses.replace(subject.about, name=name))
            verdicts.append(entry.judge(subject))
    return tuple(verdicts)


def _chosen(register: Register, names: Sequence[str]) -> Register:
    known = [entry.claim.name for entry in register.claims]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"`--claim` must name registered claims; unknown: {unknown}; known: {known}.")
    return dataclasses.replace(register, claims=tuple(entry for entry in register.claims if entry.claim.name in names))
