"""The answer about networks in three sentences made from verdicts: what holds, on which rung it stops, and why.

Beside them what each explanation of the spread leaves unexplained.

Holds     The controls: convex models on which the outcome is known, and the laws sabotaged on purpose.
Rung      Of every ensemble the first rung, from theory up, that is refuted.
Why       What was measured at the checkpoint and claimed of it, each clause only if more than half of the cases say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from reports.formatting import listed, number
from reports.quantities import belongs, quantity_of, value_of
from theory.judge.results import CONDITIONS, Table
from theory.judge.terminal import case_of, outcome_of
from theory.judge.verdict import Outcome, Standing, Verdict

__all__ = ["RUNGS", "explanations", "in_short"]

#: Claims on the ladder's rungs from theory up, as what they ask of a network.
RUNGS = {
    "ladder-additive-noise": "noise that does not depend on the weights",
    "ladder-mini-batch-law": "the law of linear dynamics",
    "ladder-quadratic-loss": "a quadratic loss",
    "ladder-fixed-inputs": "inputs that stay as they were attacked",
}
#: Claims whose conditions tell whether curvature and noise stay what they were; the first that was judged is asked.
_STATIONARY = ("posterior-ensemble", "transient-ensemble")

#: Stem of the claims that an explanation alone is enough, and their decoy without one.
_EXPLAINED, _NOTHING = "spread-explained-by-", "nothing moved"

Cases = Mapping[str, Sequence[Verdict]]


def in_short(results: Mapping[str, Sequence[Verdict]]) -> str:
    """The three sentences; of what was not judged there is none."""
    claims: dict[str, dict[str, list[Verdict]]] = {}
    for folder, verdicts in results.items():
        for verdict in verdicts:
            if not verdict.boundary and not (verdict.about and verdict.about.pooled):
                case = f"{folder}: {case_of(verdict)}"
                claims.setdefault(verdict.claim, {}).setdefault(case, []).append(verdict)
    return " ".join(words for words in (_holds(claims), _stops(claims), _why(claims)) if words)


def explanations(results: Mapping[str, Sequence[Verdict]]) -> str:
    """What every explanation leaves of ln measured/predicted variance, the least first; empty where none was judged."""
    left: dict[str, list[float]] = {}
    base: dict[str, float] = {}
    predicted: list[Verdict] = []
    for folder, verdicts in results.items():
        for verdict in verdicts:
            if verdict.estimate is None:
                continue
            if verdict.claim.startswith(_EXPLAINED):
                left.setdefault(verdict.claim.removeprefix(_EXPLAINED), []).append(-verdict.estimate)
                for decoy in verdict.decoys:
                    if decoy.name == _NOTHING and decoy.estimate is not None:
                        base[f"{folder}: {case_of(verdict)}"] = -decoy.estimate
            elif verdict.claim == "spread-predicted":
                predicted.append(verdict)
    if not left or not base:
        return ""
    means = sorted((sum(values) / len(values), name) for name, values in left.items())
    said = [f"{name.replace('-', ' ')} {number(value, 2)}" for value, name in means]
    whole = number(sum(base.values()) / len(base), 2)
    many = f"{len(base)} ensemble{'s' if len(base) > 1 else ''}"
    words = (
        f"What explains the spread: of the {whole} ln units by which it is off the law of its checkpoint (the larger "
        f"of before the drop and its decay after it, {many}) each explanation alone leaves: {listed(said)}."
    )
    if predicted:
        held = sum(one.outcome is Outcome.SUPPORTED for one in predicted)
        off = number(sum(-(one.estimate or 0.0) for one in predicted) / len(predicted), 2)
        words += (
            f" Predicted from slopes that scouts meet (`spread-predicted`, supported in {held} of {len(predicted)}): "
            f"off by {off}."
        )
    return words


def _holds(claims: Mapping[str, Cases]) -> str:
    controls = [
        one for claim, cases in claims.items() if belongs(claim, "control") for case in cases.values() for one in case
    ]
    if not controls:
        return ""
    tally = Counter(verdict.outcome for verdict in controls)
    decoys = [decoy for verdict in controls for decoy in verdict.decoys]
    refuted = sum(decoy.outcome is Outcome.REFUTED for decoy in decoys)
    counts = [f"{tally[outcome]} {outcome.value}" for outcome in Outcome if tally[outcome]]
    law = [one for case in claims.get("control", {}).values() for one in case if one.estimate is not None]
    apart = ""
    if law:
        worst = min(law, key=lambda one: one.estimate or 0.0)
        most = value_of(quantity_of(worst).unit, worst.estimate or 0.0)
        apart = f", their spread and the law of mini-batches (P2) apart by at most {most}"
    return (
        f"What holds: on convex models, where the outcome is known, the pipeline that judges networks finds it: "
        f"{listed(counts)} of {len(controls)} statements{apart}, and {refuted} of {len(decoys)} laws sabotaged on "
        "purpose refuted."
    )


def _stops(claims: Mapping[str, Cases]) -> str:
    whole = claims.get("ladder", {})
    if not whole:
        return ""
    holds = sum(outcome_of(case) is Outcome.SUPPORTED for case in whole.values())
    first: Counter[str] = Counter()
    for case in whole:
        failing = (rung for rung in RUNGS if outcome_of(claims.get(rung, {}).get(case, ())) is Outcome.REFUTED)
        first[next(failing, "")] += 1
    at = [f"{words} (`{rung}`) in {first[rung]}" for rung, words in RUNGS.items() if first[rung]]
    at += [f"none for certain in {first['']}"] if first[""] else []
    return (
        f"Where it stops: {holds} of {len(whole)} ensembles of trained networks spread as additive noise (P1) says; "
        f"the first rung from theory up to fail is {listed(at)}."
    )


def _why(claims: Mapping[str, Cases]) -> str:
    def most(claim: str, of: Callable[[Sequence[Verdict]], bool]) -> str:
        """In ``k of n`` cases of a claim, if they are more than half of them; empty otherwise."""
        cases = claims.get(claim, {})
        hits = sum(map(of, cases.values()))
        formed_after = any(one.standing is Standing.EXPLORATORY for case in cases.values() for one in case)
        return f"{'exploratory, ' if formed_after else ''}in {hits} of {len(cases)}" if 2 * hits > len(cases) else ""

    def came_out(outcome: Outcome) -> Callable[[Sequence[Verdict]], bool]:
        return lambda case: outcome_of(case) is outcome

    clauses = []
    if count := most("saddle-growth", came_out(Outcome.SUPPORTED)):
        clauses.append(
            "the checkpoint is a saddle, no minimum: linearised there, replicas leave it at the rate of its most "
            f"negative curvature (`saddle-growth`, {count})"
        )
        if count := most("ladder-quadratic-loss", came_out(Outcome.REFUTED)):
            clauses.append(f"the network does not follow them, for its loss is no quadratic over the spread ({count})")
    for claim in _STATIONARY:
        if count := most(claim, lambda case: all(map(_elsewhere, case))):
            clauses.append(f"where the replicas are, curvature and noise are no longer the checkpoint's ({count})")
            break
    return f"Why: {'; '.join(clauses)}." if clauses else ""


def _elsewhere(verdict: Verdict) -> bool:
    """Whether a verdict does not apply because λ and γ at the replicas' positions are not those of the checkpoint."""
    rows = [
        row for part in verdict.results if isinstance(part, Table) and part.title == CONDITIONS for row in part.rows
    ]
    return verdict.outcome is Outcome.NOT_APPLICABLE and any(
        row[0] == "places" and row[3:] == ("no", "yes") for row in rows
    )
