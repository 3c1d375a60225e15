"""What was found, statement by statement of the paper: sentences made from verdicts by rules, here and nowhere else.

Each `Statement` names the claims that judge it. From their verdicts follow an answer (it holds, it fails, …), what was
found in the reader's units (a spike of λ is × 1.25, not 0.2231), how sure that is, and where it stops. A statement that
nothing here judged says so, with the command that would. Nothing is computed but counts, extremes and e to the power
of an estimate that is a logarithm.

Counting  A case is what a claim was judged on once: a run, a pair, a group; a claim about quadratics is one case.
          Several verdicts on one case (the decays of a run) count as one: as all of them say, else as undecided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from reports.equations import EQUATIONS, cited
from reports.formatting import DASH, listed, percent
from reports.outline import boundary, named, standing
from reports.quantities import REVERSED, Unit, belongs, held_against, quantity_of, said, value_of
from reports.seen import Seen
from reports.short import RUNGS, explanations, in_short
from theory.judge.results import CONDITIONS
from theory.judge.table import markdown_table
from theory.judge.terminal import case_of, outcome_of
from theory.judge.verdict import Kind, Outcome, Verdict


class Answer(StrEnum):
    """What the verdicts say of a statement, all of them together."""

    HOLDS = "holds"
    PARTLY = "holds in part"
    FAILS = "fails"
    UNDECIDED = "undecided"
    UNMET = "its conditions are not met"
    UNTESTED = "not tested here"


#: Rungs of the ladder, as what they ask of a network, and what else was held against it.
_RUNGS = RUNGS | {"ladder-moved-law": "curvature and noise measured where the replicas go"}
_THEORY = "nox -s theory"
_NETWORKS = "nox -s empirical"
_LOGS = "spikeshrink empirical import logs --out results && spikeshrink empirical verify results"


_UNITS = {
    "nats": "nats, the unit of cross-entropy",
    "σ of the epoch noise": "σ of the epoch noise, how much a quantity differs from one epoch to the next",
    "exploratory": "exploratory, that the evidence was measured before this very statement was fixed",
}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement of Xu and Zhang, arXiv 2410.07719.

    Args:
        name: in a sentence, as in "the stationary law".
        says: what the paper says.
        claims: ids of the claims that judge it, or stems of ids (``"noise-spike"`` for ``"noise-spike-late"`` as well).
        limits: claim to where the statement stops, if that claim is supported.
        command: what would test it.
    """

    name: str
    says: str
    claims: tuple[str, ...]
    command: str
    limits: Mapping[str, str] | None = None


STATEMENTS = (
    Statement(
        name="the stationary law on quadratics",
        says="Where H and C commute, each direction of the weights spreads by σᵢ² of (S1) (Theorem 4.5).",
        claims=("stationary-commuting",),
        limits={
            "stability-boundary": "at ηλ = 2(1+μ), where no stationary law exists",
            "stationary-diagonal": "without commutation (S1) keeps the variances and loses the correlations",
            "shuffled-epochs": "under shuffled epochs the noise repeats and the law is another",
            "state-dependent-noise": "where noise grows with the weights' own spread",
        },
        command=_THEORY,
    ),
    Statement(
        name="the stationary law in networks",
        says="Near an optimum adversarially trained networks spread by that law (Theorem 4.5).",
        claims=("posterior-ensemble", "posterior-trajectory", "posterior-robust-curvature", "ladder"),
        command=_NETWORKS,
    ),
    Statement(
        name="the early transient",
        says="After a decay σ² moves between the old and the new law by a factor ρ²ᵏ (Theorem 4.7).",
        claims=("transient-interpolation", "transient-interpolation-radius"),
        command=_THEORY,
    ),
    Statement(
        name="the transient in networks",
        says="The spread of networks follows that transition after a decay (Theorem 4.7).",
        claims=("transient-ensemble", "transient-robust-curvature"),
        command=_NETWORKS,
    ),
    Statement(
        name="the spike of curvature",
        says="Hessian eigenvalues rise sharply after a decay (section 6).",
        claims=("curvature-spike",),
        command=_NETWORKS,
    ),
    Statement(
        name="the spike of gradient noise",
        says="Gradient-noise eigenvalues rise sharply after a decay (section 6).",
        claims=("noise-spike",),
        command=_NETWORKS,
    ),
    Statement(
        name="the shrink of the posterior on quadratics",
        says="At given curvature and noise the posterior covariance shrinks at a decay (Theorem 4.5).",
        claims=("posterior-shrinks-at-decay",),
        command=_THEORY,
    ),
    Statement(
        name="the shrink of the posterior in networks",
        says="The posterior covariance of networks shrinks after a decay (section 6).",
        claims=("posterior-shrink-measured",),
        command=_NETWORKS,
    ),
    Statement(
        name="a shrink beyond the learning rate's own",
        says="That shrink is more than the learning rate's own part: γ/λ falls too (Theorem 4.5 with section 6).",
        claims=("posterior-shrink-beyond-rate",),
        command=_NETWORKS,
    ),
    Statement(
        name="the bound's course after a decay on quadratics",
        says="The PAC-Bayes bound dips while the posterior shrinks, then grows (Lemma 3.4, Theorem 4.7).",
        claims=("bound-transient",),
        command=_THEORY,
    ),
    Statement(
        name="the bound as what explains the gap",
        says="Bound and robust generalization gap grow together (section 6).",
        claims=("bound-tracks-gap",),
        command=_NETWORKS,
    ),
    Statement(
        name="the dip before the rise",
        says="Robust loss dips at the decay before it rises (section 6).",
        claims=("decay-dip",),
        command=_LOGS,
    ),
    Statement(
        name="robust overfitting",
        says="After the first decay test robust loss rises while training robust loss falls (section 6).",
        claims=("robust-overfitting",),
        command=_LOGS,
    ),
    Statement(
        name="AWP's flatter curvature",
        says="Adversarial weight perturbation lowers the Hessian eigenvalues (section 6).",
        claims=("awp-flattens",),
        command=_NETWORKS,
    ),
    Statement(
        name="AWP's quieter noise",
        says="It lowers the gradient-noise eigenvalues (section 6).",
        claims=("awp-quiets-noise",),
        command=_NETWORKS,
    ),
    Statement(
        name="AWP's narrower robust gap",
        says="It narrows the robust generalization gap (section 6).",
        claims=("awp-tightens-bound",),
        command=_NETWORKS,
    ),
    Statement(
        name="AWP's tighter PAC-Bayes terms",
        says="It tightens the terms of the bound (section 6).",
        claims=("awp-tightens-pac-bayes",),
        command=_NETWORKS,
    ),
    Statement(
        name="commuting and aligned curvature and noise",
        says="Hessian and gradient noise commute and are aligned (assumption of Theorem 4.5, section 6).",
        claims=("commutativity", "alignment"),
        command=_NETWORKS,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A row of the answer.

    Attributes:
        found: what was found, a sentence a claim.
        sure: how sure that is.
        stops: where it stops.
        claims: (folder, claim) that were judged, for links.
    """

    statement: Statement
    answer: Answer
    found: tuple[str, ...]
    sure: str
    stops: str
    claims: tuple[tuple[str, str], ...]


def findings(results: Mapping[str, Sequence[Verdict]], seen: Seen | None = None) -> tuple[Finding, ...]:
    """One row a statement of the paper, from the verdicts of all folders; with what was seen, on which images."""
    return tuple(_finding(statement, results, seen or Seen()) for statement in STATEMENTS)


def paragraph(found: Sequence[Finding]) -> str:
    """The answer, statement by statement, in a few sentences."""
    tested = [row for row in found if row.answer is not Answer.UNTESTED]
    said = [f"Of {len(found)} statements of the paper, {len(tested)} were tested here."]
    for answer, opening in (
        (Answer.HOLDS, "What holds"),
        (Answer.PARTLY, "What holds in part"),
        (Answer.FAILS, "What fails"),
        (Answer.UNDECIDED, "Undecided"),
        (Answer.UNMET, "Measured where its conditions are not met"),
        (Answer.UNTESTED, "Not tested here"),
    ):
        names = [row.statement.name for row in found if row.answer is answer]
        if names:
            said.append(f"{opening}: {listed(names)}.")
    return " ".join(said)


#: What claims on the map of regimes say of two groups of them, in the words of a sentence.
_AT_EDGE = "regimes at the edge (batch sharpness at least half of 2(1−μ)/η) with robust loss left (0.3 nats)"
_WHEN = {"early": "within 5 epochs", "late": "by the end of the stage that follows"}
_ACCOUNTS = {
    "edge": "the room below the edge times the loss left",
    "saturation": "the curvature of the outputs",
    "scale": "the norms of the weights",
    "valley": "the iterate's position against its running average",
}


def curvature_at_decays(results: Mapping[str, Sequence[Verdict]]) -> str:
    """When curvature spikes at a decay, when it does not, what sets it, and how sure that is: from the map's verdicts.

    Empty where no folder holds a map; a part that its evidence cannot judge says why.
    """
    found = {one.claim: one for verdicts in results.values() for one in verdicts if one.claim.startswith("edge-")}
    if not found:
        return ""
    said = [_spike(found[f"edge-rise-{when}"], when) for when in _WHEN if f"edge-rise-{when}" in found]
    for when, words in _WHEN.items():
        parts = found[f"edge-rise-{when}"].note.split("; ") if f"edge-rise-{when}" in found else []
        said += [f"One by one, {words}, {part}." for part in parts if part.startswith("a rise of λ")]
    said += [_calm(found[f"edge-still-{when}"], when) for when in _WHEN if f"edge-still-{when}" in found]
    said += [_account(found[name]) for name in ("edge-account-regimes-late",) if name in found]
    if rise := found.get("edge-rise-late"):
        said += [f"How sure: {part}." for part in rise.note.split("; ") if part.startswith("three seeds find")]
        said += [f"{part[0].upper()}{part[1:]}." for part in rise.note.split("; ") if part.startswith("left out")]
    if trust := standing(list(found.values())):
        said.append(f"These verdicts are {trust}.")
    return " ".join(part for part in said if part)


def _reason(verdict: Verdict) -> str:
    """Why a claim was not judged, without the scope that opens the note."""
    return verdict.note.partition(": ")[2].partition("; ")[0] or verdict.note


def _spike(verdict: Verdict, when: str) -> str:
    opening = f"At a decay, {_WHEN[when]}, curvature"
    match verdict.outcome:
        case Outcome.SUPPORTED:
            return f"{opening} rises in {_AT_EDGE} and more than elsewhere: {said(verdict)}."
        case Outcome.REFUTED:
            return f"{opening} does not rise more in {_AT_EDGE} than elsewhere: {said(verdict)}."
        case Outcome.INCONCLUSIVE:
            return f"Whether it does so {_WHEN[when]} in {_AT_EDGE} is undecided: {said(verdict)}."
        case Outcome.NOT_APPLICABLE:
            told = f"Whether curvature rises at a decay, {_WHEN[when]}, in {_AT_EDGE} could not be judged"
            return f"{told}: {_reason(verdict)}."


def _calm(verdict: Verdict, when: str) -> str:
    match verdict.outcome:
        case Outcome.SUPPORTED:
            return f"Elsewhere it does not spike {_WHEN[when]}: {said(verdict)}, {held_against(verdict)}."
        case Outcome.REFUTED:
            return f"Elsewhere it spikes too {_WHEN[when]}: {said(verdict)}."
        case Outcome.INCONCLUSIVE:
            return f"Elsewhere, {_WHEN[when]}: {said(verdict)}, undecided."
        case Outcome.NOT_APPLICABLE:
            return ""


def _account(verdict: Verdict) -> str:
    """Which of the accounts predicts held-out regimes best, and whether beyond doubt."""
    if verdict.outcome is Outcome.NOT_APPLICABLE:
        return f"What sets it could not be judged: {_reason(verdict)}."
    rows = [("edge", verdict.estimate, verdict.interval[0])]
    rows += [(decoy.name, decoy.estimate, decoy.interval[0]) for decoy in verdict.decoys]
    name, _, low = max(rows, key=lambda row: row[1] if row[1] is not None else float("-inf"))
    sure = "better than every rival" if low is not None and low > 0 else "best, though its lead may be chance"
    return f"Of four accounts of what sets it {_ACCOUNTS.get(name, name)} predicts held-out regimes {sure}."


def background(seen: Seen | None = None) -> str:
    """What to hold the answer against: on which images, near which edge."""
    return (seen or Seen()).words


def markdown(results: Mapping[str, Sequence[Verdict]], seen: Seen | None = None) -> str:
    """The answer for a README: in short, at length, a row for each statement tested, and what the words mean."""
    found = findings(results, seen)
    rows = []
    for row in found:
        if row.answer is not Answer.UNTESTED:
            standing = " (exploratory)" if "exploratory" in row.sure else ""
            rows.append((row.statement.says, f"**{row.answer.value}**{standing}. {' '.join(row.found)}", row.stops))
    lines = []
    for words in (
        in_short(results),
        explanations(results),
        paragraph(found),
        " ".join(part for part in (curvature_at_decays(results), background(seen)) if part),
    ):
        lines += [words, ""] if words else []
    lines += markdown_table([("the paper says", "we found", "where it stops"), *rows])
    if legend := words_for("\n".join(lines)):
        lines += ["", legend]
    return "\n".join(lines)


def words_for(text: str) -> str:
    """What the labels and units of a text stand for, in a line."""
    known = [f"({label}) {EQUATIONS[label].title}" for label in cited(text) if label in EQUATIONS]
    known += [words for word, words in _UNITS.items() if word in text]
    return f"{'; '.join(known)}." if known else ""


def _finding(statement: Statement, results: Mapping[str, Sequence[Verdict]], seen: Seen) -> Finding:
    by_claim: dict[str, dict[str, list[Verdict]]] = {}
    places: dict[tuple[str, str], None] = {}
    limits: list[str] = []
    rungs: list[str] = []
    bounded = False
    for folder, verdicts in results.items():
        for verdict in named(verdicts):
            edge = boundary(verdict)
            if edge and any(belongs(verdict.claim, stem) for stem in statement.claims):
                limits.append(edge.removeprefix("boundary: "))
                bounded = True
            if (statement.limits or {}).get(verdict.claim) and verdict.outcome is Outcome.SUPPORTED:
                limits.append((statement.limits or {})[verdict.claim])
            if verdict.boundary or not _judges(statement, verdict) or (verdict.about and verdict.about.pooled):
                continue
            if belongs(verdict.claim, "ladder") and verdict.claim != "ladder":
                if verdict.outcome is Outcome.REFUTED:
                    rungs.append(_RUNGS.get(verdict.claim, verdict.claim.removeprefix("ladder-").replace("-", " ")))
                continue
            places[folder, verdict.claim] = None
            case = f"{folder}: {case_of(verdict)}" if verdict.about is not None else folder
            by_claim.setdefault(verdict.claim, {}).setdefault(case, []).append(verdict)
    judged = {claim: cases for claim, cases in by_claim.items() if any(map(_applies, cases.values()))}
    unmet = _unmet({claim: cases for claim, cases in by_claim.items() if claim not in judged})
    if not judged:
        return Finding(
            statement=statement,
            answer=Answer.UNMET if unmet else Answer.UNTESTED,
            found=unmet or (f"`{statement.command}` would test it.",),
            sure=DASH,
            stops=DASH,
            claims=tuple(places) if unmet else (),
        )
    outcomes = [outcome_of(case) for cases in judged.values() for case in cases.values()]
    members = [verdict for cases in judged.values() for case in cases.values() for verdict in case]
    if rungs:
        limits.append(f"theory and network part at {listed(list(dict.fromkeys(rungs)))}")
    failed = sorted({case for cases in judged.values() for case in cases if outcome_of(cases[case]) is Outcome.REFUTED})
    several = any(len(cases) > 1 for cases in judged.values())
    if failed and several and len(failed) <= 4 and Outcome.SUPPORTED in outcomes:
        limits.append(f"fails on {listed([case.partition(': ')[2] or case for case in failed])}")
    return Finding(
        statement=statement,
        answer=Answer.PARTLY if bounded and _answer(outcomes) is Answer.HOLDS else _answer(outcomes),
        found=(*(_sentence(claim, cases) for claim, cases in judged.items()), *unmet),
        sure=_sure(members, [seen.data(folder) for folder in dict.fromkeys(folder for folder, _ in places)]),
        stops="; ".join(dict.fromkeys(limits)) or DASH,
        claims=tuple(place for place in places if place[1] in judged or unmet),
    )


def _unmet(by_claim: Mapping[str, Mapping[str, Sequence[Verdict]]]) -> tuple[str, ...]:
    """A sentence on claims whose conditions were measured and are met nowhere, for each reason the claims it keeps."""
    reasons: dict[str, list[str]] = {}
    for claim, cases in by_claim.items():
        first = next(verdict for case in cases.values() for verdict in case)
        if any(result.title == CONDITIONS for result in first.results):
            _, _, reason = first.note.partition(": ")
            many = f"in {len(cases)} of {len(cases)}, in the first because" if len(cases) > 1 else "because"
            reasons.setdefault(f"not applicable {many} {reason.partition('; ')[0]}", []).append(f"`{claim}`")
    return tuple(f"{listed(claims)}: {reason}." for reason, claims in reasons.items())


def _applies(verdicts: Sequence[Verdict]) -> bool:
    """Whether a case was judged at all."""
    return outcome_of(verdicts) is not Outcome.NOT_APPLICABLE


def _answer(outcomes: Sequence[Outcome]) -> Answer:
    found = set(outcomes) - {Outcome.NOT_APPLICABLE}
    if found == {Outcome.SUPPORTED}:
        return Answer.HOLDS
    if found == {Outcome.REFUTED}:
        return Answer.FAILS
    if Outcome.SUPPORTED in found:
        return Answer.PARTLY
    tally = Counter(outcomes)
    return Answer.FAILS if tally[Outcome.REFUTED] > tally[Outcome.INCONCLUSIVE] else Answer.UNDECIDED


def _sentence(claim: str, cases: Mapping[str, Sequence[Verdict]]) -> str:
    """One sentence on one claim: what came out, in how many cases, and between which values."""
    members = [verdict for case in cases.values() for verdict in case if verdict.outcome is not Outcome.NOT_APPLICABLE]
    first = members[0]
    if len(members) == 1:
        return f"{_name(first)}: {_alone(first)}."
    tally = Counter(outcome_of(case) for case in cases.values())
    judged = sum(many for outcome, many in tally.items() if outcome is not Outcome.NOT_APPLICABLE)
    counts = [f"supported in {tally[Outcome.SUPPORTED]} of {judged}"]
    counts += [f"refuted in {tally[Outcome.REFUTED]}"] if tally[Outcome.REFUTED] else []
    counts += [f"undecided in {tally[Outcome.INCONCLUSIVE]}"] if tally[Outcome.INCONCLUSIVE] else []
    estimates = sorted(verdict.estimate for verdict in members if verdict.estimate is not None)
    span = ""
    if estimates:
        quantity = quantity_of(first)
        ends = [value_of(quantity.unit, estimates[0]), value_of(quantity.unit, estimates[-1])]
        if quantity.unit in REVERSED:
            ends.reverse()
        span = f" ({quantity.of} {ends[0]} to {ends[1]}; claimed {held_against(first)})"
    return f"{_name(first)}: {', '.join(counts)}{span}."


def _alone(verdict: Verdict) -> str:
    if quantity_of(verdict).unit is not Unit.ERROR or verdict.estimate is None:
        words = said(verdict)
        return f"{verdict.outcome.value}, {words}; claimed {held_against(verdict)}" if words else verdict.outcome.value
    if verdict.outcome is Outcome.SUPPORTED and verdict.p_value is not None:
        return f"exact: no error found, and one of {percent(verdict.tolerance)} would have been"
    worst = f"worst error {value_of(Unit.ERROR, verdict.estimate)}"
    if verdict.outcome is Outcome.SUPPORTED:
        return f"{worst}, {held_against(verdict)}"
    return f"{verdict.outcome.value}, {worst}; {held_against(verdict)}"


def _sure(members: Sequence[Verdict], data: Sequence[str] = ()) -> str:
    decoys = [decoy for verdict in members for decoy in verdict.decoys]
    refuted = sum(decoy.outcome is Outcome.REFUTED for decoy in decoys)
    parts = [standing(members)]
    if any(verdict.kind is Kind.IDENTITY for verdict in members):
        parts.append("chance of a false alarm over all tests 10⁻⁶")
    elif any(verdict.kind is Kind.HYPOTHESIS for verdict in members):
        parts.append("95 % intervals")
    if decoys:
        parts.append(f"{refuted} of {len(decoys)} decoys refuted")
    parts += [f"on {words}" for words in data if words]
    return "; ".join(parts) or DASH


def _judges(statement: Statement, verdict: Verdict) -> bool:
    """Whether the statement names the claim, or, of a claim about networks, the stem that fits it best."""
    claim = verdict.claim
    if verdict.kind is not Kind.HYPOTHESIS:
        return claim in statement.claims
    stems = {stem: other for other in STATEMENTS for stem in other.claims if belongs(claim, stem)}
    return bool(stems) and stems[max(stems, key=len)] is statement


def _name(verdict: Verdict) -> str:
    return f"`{verdict.claim}`"
