"""``python -m theory rejudge FOLDER``: recorded evidence judged with today's claims, against its stored verdicts.

Evidence measured by other code than today's is judged all the same, and counted: what is asked is whether today's
claims say of it what was said then. See `theory.judge.rejudging` for what is printed and the exit status.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from theory.arguments import add_register_option
from theory.judge import rejudging
from theory.judge.claim import Claim
from theory.judge.differences import compare
from theory.judge.evidence import Evidence
from theory.judge.rejudging import Rejudged, stored_in
from theory.judge.sources import measuring_code
from theory.judge.verdict import Verdict
from theory.register import Register, register
from theory.verification import one_blas_thread


def rejudge(folder: Path, known: Register) -> Rejudged:
    """Judge the evidence that the verdicts of a folder rest on, with the claims of a register.

    Raises:
        ValueError: if the folder's verdicts or evidence cannot be read, or evidence that a verdict names is gone.
    """
    stored, evidence = stored_in(folder)
    claims = {claim.name: claim for claim in known.claims}
    today: list[Verdict] = []
    unjudged: dict[str, str] = {}
    with one_blas_thread():
        for verdict in stored:
            seen = [evidence[name] for name in verdict.evidence]
            try:
                today.append(_judged(verdict, claims.get(verdict.claim), seen))
            except ValueError as error:
                name = f"{verdict.claim} ({verdict.subject})" if verdict.subject else verdict.claim
                unjudged[name] = str(error)
    run = {experiment.name: experiment.run for experiment in known.experiments}
    used = {name for verdict in stored for name in verdict.evidence}
    other = [
        name
        for name, item in evidence.items()
        if name in used
        and item.experiment in run
        and item.provenance.get("measuring_code") != measuring_code(run[item.experiment])
    ]
    return Rejudged(differences=compare(stored, today), unjudged=unjudged, other_code=tuple(sorted(other)))


def _judged(verdict: Verdict, claim: Claim | None, seen: Sequence[Evidence]) -> Verdict:
    """Today's verdict on what a stored one rests on.

    Raises:
        ValueError: if the claim is not registered, or its evidence is not what it reads.
    """
    from theory.regress import EXPERIMENT as REGRESS
    from theory.regress import claims_on
    from theory.until_decided import DECIDABLE, SUBJECT, decide, plan

    if [item.experiment for item in seen] == [REGRESS]:
        claim = next((one for one in claims_on(seen[0]) if one.name == verdict.claim), None)
    if claim is None:
        raise ValueError("no longer registered")
    if verdict.subject == SUBJECT and claim.name in DECIDABLE:
        planned = plan(claim)
        width = len(planned.experiments)
        return decide(claim, planned, [seen[first : first + width] for first in range(0, len(seen), width)])
    judged = claim.judge({item.experiment: item for item in seen})
    return dataclasses.replace(judged, about=verdict.about)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    rejudging.add_options(parser)
    add_register_option(parser)


def run(options: argparse.Namespace) -> int:
    """Rejudge and print; see `theory.judge.rejudging` for the exit status."""
    return rejudging.show(rejudge(options.folder, register(options.register)), options)
