"""``python -m theory rejudge FOLDER``: recorded evidence judged with today's claims, against its stored verdicts.

Nothing is measured and nothing is written. Evidence measured by other code than today's is judged all the same, and
counted: what is asked is whether today's claims say of it what was said then.
Exit status: 0 if every verdict comes out as stored, 1 if one differs or cannot be judged any more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from theory.arguments import add_register_option
from theory.judge.claim import Claim
from theory.judge.differences import Difference, compare, markdown, text
from theory.judge.evidence import Evidence, read_evidence
from theory.judge.sources import measuring_code
from theory.judge.verdict import Verdict, read_verdicts
from theory.register import Register, register
from theory.verification import one_blas_thread


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
    other_code: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every stored verdict came out again."""
        return not any(item.change.is_difference for item in self.differences)


def rejudge(folder: Path, known: Register) -> Rejudged:
    """Judge the evidence that the verdicts of a folder rest on, with the claims of a register.

    Raises:
        ValueError: if the folder's verdicts or evidence cannot be read, or evidence that a verdict names is gone.
    """
    stored = read_verdicts(folder / "verdicts.json")
    evidence = {item.run_id: item for item in read_evidence(folder)}
    claims = {claim.name: claim for claim in known.claims}
    today: list[Verdict] = []
    unjudged: dict[str, str] = {}
    with one_blas_thread():
        for verdict in stored:
            lost = [name for name in verdict.evidence if name not in evidence]
            if lost:
                raise ValueError(f"the verdict on {verdict.claim!r} rests on the runs {lost}, which {folder} lacks.")
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
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="results folder with verdicts.json and evidence/")
    parser.add_argument("--all", action="store_true", help="show what is the same as well")
    add_register_option(parser)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON")
    shape.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")


def run(options: argparse.Namespace) -> int:
    """Rejudge and print; see the module for the exit status."""
    found = rejudge(options.folder, register(options.register))
    if options.json:
        rows = [item.to_dict() for item in found.differences]
        told = {"same": found.same, "other_code": found.other_code, "unjudged": found.unjudged, "verdicts": rows}
        print(json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False))
        return 0 if found.same else 1
    print((markdown if options.markdown else text)(found.differences, everything=options.all))
    for name, reason in found.unjudged.items():
        print(f"{name} cannot be judged today: {reason}")
    if found.other_code:
        print(f"{len(found.other_code)} of the runs behind these verdicts were measured by other code than today's.")
    return 0 if found.same else 1
