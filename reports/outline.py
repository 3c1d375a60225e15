"""What a report says, before anyone decides how it looks: the part that the page and the Markdown have in common.

A claim about quadratics has one verdict; a claim about networks has one for each run, pair or group it was judged on
(its subjects). `sections` puts the verdicts of a claim together, `matrices` lays out subjects against claims.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reports.equations import EQUATIONS, cited
from reports.formatting import DASH, cell, count, number, percent, probability
from reports.quantities import Unit, held_against, quantity_of, said, shown
from reports.recipes.words import axis_names
from reports.source import Results
from theory.judge.evidence import Evidence
from theory.judge.results import Chart, SmallMultiples, Table
from theory.judge.terminal import is_finding, tally
from theory.judge.verdict import Kind, Outcome, Verdict

QUESTION = (
    "Does momentum SGD in a quadratic basin spread, along each curvature direction, by exactly the variance below; and "
    "does what follows from it, curvature and gradient noise that spike after a learning-rate decay while the "
    "posterior shrinks, explain how adversarially trained networks generalize?"
)
SYMBOLS = (
    "σᵢ² posterior variance, η learning rate, γᵢ mini-batch gradient noise, μ momentum, λᵢ curvature, all along "
    "direction i of the Hessian."
)
MARKS = {Outcome.SUPPORTED: "✓", Outcome.REFUTED: "✗", Outcome.INCONCLUSIVE: "?", Outcome.NOT_APPLICABLE: DASH}
#: The folder of a run: its method, its seed, and the digest of its setting.
_DIGESTED = re.compile(r"(?P<method>[\w-]+)-seed(?P<seed>\d+)-[0-9a-f]{8}")
#: Several runs put together.
_POOLED = re.compile(r"(?P<name>.+) \(method\)")
#: Up to so many verdicts of one claim have a row each in the overview, and figures of their own.
FEW = 3


@dataclass(frozen=True, kw_only=True)
class Multiples:
    """One chart of one verdict, or its panels, or the same chart of several verdicts, each under its name."""

    title: str
    caption: str
    panels: tuple[tuple[str, Chart], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """All verdicts on one claim."""

    claim: str
    verdicts: tuple[Verdict, ...]

    @property
    def first(self) -> Verdict:
        """The verdict whose statement, source and kind stand for all of them."""
        return self.verdicts[0]

    @property
    def anchor(self) -> str:
        """Fragment of a link to this section."""
        return slug(self.claim)

    @property
    def has_subjects(self) -> bool:
        """Whether the claim was judged on named runs, pairs or groups."""
        return any(verdict.subject for verdict in self.verdicts)

    @property
    def equations(self) -> tuple[str, ...]:
        """Labels of the equations that statement and source cite."""
        return tuple(label for label in cited(f"{self.first.statement} {self.first.source}") if label in EQUATIONS)

    def charts(self) -> tuple[Multiples, ...]:
        """Charts in the order of the verdicts; those of many subjects side by side."""
        if len(self.verdicts) <= FEW:
            return tuple(
                Multiples(title=_about(verdict, found.title), caption=found.caption, panels=_panels(found))
                for verdict in self.verdicts
                for found in verdict.results
                if not isinstance(found, Table)
            )
        groups: dict[tuple[Any, ...], list[tuple[str, Chart]]] = {}
        titles: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
        for verdict in self.verdicts:
            for place, found in enumerate(verdict.results):
                if isinstance(found, Table):
                    continue
                for name, part in _panels(found):
                    like = (place, part.kind, *axis_names(part))
                    subject = f"{verdict.subject} · {name}" if name else verdict.subject
                    groups.setdefault(like, []).append((subject, part))
                    titles.setdefault(like, []).append((found.title, found.caption))
        return tuple(
            Multiples(
                title=_common([title for title, _ in titles[like]]) or _against(*like[2:]),
                caption=_common([caption for _, caption in titles[like]]),
                panels=tuple(members),
            )
            for like, members in groups.items()
        )

    def tables(self) -> tuple[Table, ...]:
        """Tables in the order of the verdicts; those of many subjects under one head, a column naming the subject."""
        if len(self.verdicts) == 1:
            return _tables(self.first)
        groups: dict[tuple[Any, ...], list[tuple[str, Table]]] = {}
        for verdict in self.verdicts:
            for place, table in enumerate(_tables(verdict)):
                groups.setdefault((place, table.columns), []).append((verdict.subject, table))
        merged = []
        for (_, columns), members in groups.items():
            rows = tuple((subject, *row) for subject, table in members for row in table.rows)
            title = _common([table.title for _, table in members]) or self.claim
            caption = _common([table.caption for _, table in members])
            merged.append(Table(title=title, columns=("judged on", *columns), rows=rows, caption=caption))
        return tuple(merged)


def repeated(parts: Sequence[Section]) -> dict[tuple[str, int], Section]:
    """(Claim, place among its tables) of every table that stands in an earlier section line for line, and that section.

    Claims on the same records show the same conditions; a reader needs them once.
    """
    first: dict[str, Section] = {}
    found = {}
    for part in parts:
        for place, table in enumerate(part.tables()):
            earlier = first.setdefault(repr((table.title, table.columns, table.rows)), part)
            if earlier is not part:
                found[part.claim, place] = earlier
    return found


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the overview: a verdict, or the verdicts of one claim counted."""

    claim: str
    anchor: str
    subject: str
    kind: Kind
    outcomes: tuple[tuple[Outcome, int], ...]
    estimate: str
    interval: str
    tolerance: str
    decoys: tuple[tuple[str, Outcome | None, str], ...]  # name, outcome (None: several), how many
    degrees: str
    standing: str  # confirmatory or exploratory, and unverified where it is
    boundary: str = ""  # in place of the outcome: what a claim meant to be refuted shows


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Subjects against claims; a cell holds the outcomes on the subject and on its parts, each under its part's name.

    A part of a subject is one of several decays, or checkpoints, of a run.
    """

    claims: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[tuple[str, Outcome], ...], ...]], ...]


def sections(verdicts: Sequence[Verdict]) -> tuple[Section, ...]:
    """Verdicts put together claim by claim, in the order in which claims first occur; runs named by what varies."""
    grouped: dict[str, list[Verdict]] = {}
    for verdict in named(verdicts):
        grouped.setdefault(verdict.claim, []).append(verdict)
    return tuple(Section(claim=claim, verdicts=tuple(members)) for claim, members in grouped.items())


def overview(parts: Sequence[Section]) -> tuple[Row, ...]:
    """The rows of the table of verdicts."""
    rows = []
    for part in parts:
        if len(part.verdicts) > FEW:
            rows.append(_counted(part))
        else:
            rows.extend(_row(part, verdict) for verdict in part.verdicts)
    return tuple(rows)


def matrices(parts: Sequence[Section]) -> tuple[Matrix, ...]:
    """A table of outcomes, subjects against claims, for each set of claims that share a subject."""
    groups: list[tuple[set[str], list[Section]]] = []
    for part in (part for part in parts if part.has_subjects):
        subjects = {_whole(verdict) for verdict in part.verdicts}
        touching = [group for group in groups if group[0] & subjects]
        together = [member for group in touching for member in group[1]] + [part]
        groups = [group for group in groups if group not in touching]
        groups.append((subjects.union(*(group[0] for group in touching)), together))
    found = []
    for _, members in groups:
        cells: dict[str, dict[str, list[tuple[str, Outcome]]]] = {}
        for part in members:
            for verdict in part.verdicts:
                row = cells.setdefault(_whole(verdict), {})
                row.setdefault(part.claim, []).append((_part(verdict), verdict.outcome))
        claims = tuple(part.claim for part in members)
        rows = tuple((name, tuple(tuple(row.get(claim, ())) for claim in claims)) for name, row in cells.items())
        found.append(Matrix(claims=claims, rows=rows))
    # A table with a single column repeats what its claim's own section says.
    return tuple(matrix for matrix in found if len(matrix.claims) > 1) or tuple(found)


def summary(parts: Sequence[Section]) -> str:
    """One sentence: how many claims came out how, and how many decoys the evidence refuted."""
    verdicts = [verdict for part in parts for verdict in part.verdicts]
    counted = tally(verdict for verdict in verdicts if not boundary(verdict))
    found = [f"{counted[outcome]} {outcome.value}" for outcome in Outcome if counted[outcome]]
    edges = sum(bool(boundary(verdict)) for verdict in verdicts)
    found.extend([f"{edges} boundar{'y' if edges == 1 else 'ies'} confirmed"] if edges else [])
    if found and any(verdict.about for verdict in verdicts):
        found[-1] += " (a claim on a run counts once, whatever its decays)"
    # A decoy that a refuted hypothesis's evidence does not refute makes that hypothesis no stronger.
    decoys = [decoy for verdict in verdicts if not is_finding(verdict) for decoy in verdict.decoys]
    refuted = sum(decoy.outcome is Outcome.REFUTED for decoy in decoys)
    claims = f"{len(parts)} claim{'s' if len(parts) != 1 else ''}"
    judged = f"{claims} in {len(verdicts)} verdicts" if len(verdicts) != len(parts) else claims
    return (
        f"{judged}: {', '.join(found)}. The evidence refutes {refuted} of {len(decoys)} decoys, "
        "the plausible wrong formulas that every claim is compared with."
    )


def verdict_facts(verdict: Verdict) -> tuple[tuple[str, str], ...]:
    """How one verdict was reached: name and value, in the order of reading."""
    estimate, interval = shown(verdict)
    facts = [("standing", verdict.qualification), ("estimate", estimate), ("interval", interval)]
    facts.append((_tolerance_name(verdict), tolerance(verdict)))
    if verdict.p_value is not None:
        tests = f"smallest of {count(verdict.num_tests)}" if verdict.num_tests > 1 else "one test"
        facts.append(("p-value", f"{probability(verdict.p_value)} ({tests})"))
    facts.append(("level α", number(verdict.alpha, 2)))
    if verdict.power is not None:
        facts.append(("chance to miss", number(round(1 - verdict.power, 12), 2)))
    if verdict.reached is not None or verdict.required is not None:
        facts.append(("ν reached / required", degrees(verdict)))
    return tuple(facts)


def decoy_table(part: Section) -> Table:
    """The decoys of a claim, and what the same evidence says of them."""
    subjects = part.has_subjects
    rows = []
    for verdict in part.verdicts:
        for decoy in verdict.decoys:
            estimate, interval = shown(verdict, decoy)
            row = (decoy.name, decoy.outcome, estimate, interval, probability(decoy.p_value))
            rows.append((verdict.subject, *row) if subjects else row)
    columns = ("decoy", "outcome", "estimate", "interval", "p-value")
    return Table(title="Decoys", columns=("judged on", *columns) if subjects else columns, rows=tuple(rows))


def subject_table(part: Section) -> Table:
    """The verdicts of a claim with several subjects, one a row."""
    columns = ("judged on", "outcome", "standing", "estimate", "interval", _tolerance_name(part.first), "note")
    rows = []
    for verdict in part.verdicts:
        if verdict.outcome is Outcome.NOT_APPLICABLE:
            continue  # said in one line, by `set_aside`
        estimate, interval = shown(verdict)
        found = (verdict.outcome, verdict.qualification, estimate, interval, tolerance(verdict), verdict.remark)
        rows.append((verdict.subject, *found))
    return Table(title="Verdicts", columns=columns, rows=tuple(rows))


def environments(evidence: Mapping[str, Evidence]) -> tuple[tuple[tuple[tuple[str, str], ...], int], ...]:
    """Where the runs were made, and how many in each place: commit, platform, device, versions."""
    tally: Counter[tuple[tuple[str, str], ...]] = Counter()
    for run in evidence.values():
        made = run.provenance
        commit = str(made.get("commit") or DASH)
        facts = [("commit", commit + (" with uncommitted changes" if made.get("dirty") else ""))]
        facts.append(
            ("platform", ", ".join(str(made[key]) for key in ("platform", "machine") if made.get(key)) or DASH)
        )
        facts.append(("device", f"{made.get('device', DASH)}, {made['cores']} cores" if made.get("cores") else DASH))
        versions = made.get("versions") or {}
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or DASH))
        tally[tuple(facts)] += 1
    return tuple(tally.items())


def runs_table(evidence: Mapping[str, Evidence], verdicts: Sequence[Verdict]) -> Table:
    """Every run recorded: experiment, id, seed, start, seconds, and the claims that rest on it."""
    users: dict[str, list[str]] = {}
    for verdict in verdicts:
        for run_id in verdict.evidence:
            users.setdefault(run_id, []).append(verdict.claim)
    rows = []
    for run_id, run in evidence.items():
        claims = ", ".join(dict.fromkeys(users.get(run_id, []))) or "none"
        made = run.provenance
        start, seconds = str(made.get("start", DASH)), number(made.get("seconds"), 3)
        rows.append((run.experiment, run_id, str(run.seed), start, seconds, claims))
    return Table(title="Runs", columns=("experiment", "run", "seed", "start", "seconds", "judged by"), rows=tuple(rows))


def setting_rows(setting: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A Setting as dotted names and values; an array is told by its shape and its ends.

    What kind of object a value is stands in the evidence; here it would be every third row.
    """
    rows: list[tuple[str, str]] = []
    for key, value in setting.items():
        if key == "type":
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and set(value) == {"array"}:
            rows.append((name, _array(value["array"])))
        elif isinstance(value, Mapping):
            rows.extend(setting_rows(value, f"{name}."))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for place, item in enumerate(value[:8]):
                rows.extend(setting_rows(item, f"{name}[{place}]."))
            if len(value) > 8:
                rows.append((name, f"… {len(value)} in all"))
        elif isinstance(value, list) and len(value) > 12:
            rows.append((name, _array(value)))
        else:
            rows.append((name, cell(value)))
    return tuple(rows)


def setting_lines(setting: Mapping[str, Any]) -> str:
    """A Setting as lines, a name and its value each; fields of one object stand under its name.

    An entry of a list tells what differs from the entry before it.
    """
    lines, above = [], ""
    told: dict[str, str] = {}
    for name, value in setting_rows(setting):
        told[name] = value
        if told.get(_ENTRY.sub(lambda place: f"[{int(place.group(1)) - 1}]", name, count=1)) == value and "[" in name:
            continue
        parent, _, field = name.rpartition(".")
        if parent and parent != above:
            lines.append(parent)
        above = parent
        lines.append(f"  {field}  {value}" if parent else f"{field}  {value}")
    return "\n".join(lines)


#: The place of an entry in a list, in the name of a field.
_ENTRY = re.compile(r"\[(\d+)\]")


def settings_of(runs: Iterable[Evidence]) -> list[tuple[Evidence, str]]:
    """Every run with its Setting as lines; a part that an earlier run has too is told there alone."""
    told: dict[tuple[str, str], str] = {}
    found = []
    for run in runs:
        parts: dict[str, Any] = {}
        for name, value in run.setting.items():
            first = run.run_id
            if isinstance(value, Mapping):
                first = told.setdefault((name, json.dumps(value, sort_keys=True)), run.run_id)
            parts[name] = value if first == run.run_id else f"that of run {first}"
        found.append((run, setting_lines(parts)))
    return found


def title_of(results: Results, name: str = "") -> str:
    """What a page is about: the folder, the data where runs name them, and the day of the last run."""
    named = [found for run in results.evidence.values() if (found := _data_set(run.setting))]
    data = dict.fromkeys(named) if 2 * len(named) > len(results.evidence) else {}
    days = sorted(str(run.provenance.get("start", ""))[:10] for run in results.evidence.values())
    known = [part for part in (name.replace("-", " "), ", ".join(list(data)[:3])) if part]
    parts = [*dict.fromkeys(known), *[day for day in days[-1:] if day]]
    return f"What was found: {', '.join(parts)}" if parts else "What was found"


def _data_set(setting: Mapping[str, Any]) -> str:
    """The data set that a Setting names; nothing where it names none."""
    for key in ("dataset", "data"):
        value = setting.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return str(value["name"])
    found = (_data_set(value) for value in setting.values() if isinstance(value, Mapping))
    return next(filter(None, found), "")


def found_in_words(verdict: Verdict) -> str:
    """The outcome of a verdict as a sentence, in the reader's units."""
    edge = boundary(verdict)
    if edge:
        return f"As it was meant to be, this is refuted: {edge.removeprefix('boundary: ')}, and no further."
    words, against = said(verdict), held_against(verdict)
    opening = {
        Outcome.SUPPORTED: "It holds",
        Outcome.REFUTED: "It does not hold",
        Outcome.INCONCLUSIVE: "The evidence does not decide",
        Outcome.NOT_APPLICABLE: "The evidence does not speak to it",
    }[verdict.outcome]
    if not words or verdict.outcome is Outcome.NOT_APPLICABLE:
        return f"{opening}."
    return f"{opening}: {words}, {'claimed ' if verdict.kind is Kind.HYPOTHESIS else ''}{against}."


def boundary(verdict: Verdict) -> str:
    """What a claim that lies just outside a region, and is refuted as it was meant to be, says of that region."""
    if not verdict.boundary or verdict.outcome is not Outcome.REFUTED:
        return ""
    return f"boundary: holds up to {verdict.boundary}"


def standing(verdicts: Sequence[Verdict]) -> str:
    """How far verdicts may be trusted, counted where they differ; what does not apply has no standing."""
    tally = Counter(one.qualification for one in verdicts if one.outcome is not Outcome.NOT_APPLICABLE)
    return next(iter(tally), "") if len(tally) < 2 else "; ".join(f"{many} {words}" for words, many in tally.items())


def idle(parts: Sequence[Section]) -> tuple[tuple[Section, ...], tuple[Section, ...]]:
    """Sections in which something was judged, and those whose claim applies to nothing here."""
    nothing = [all(one.outcome is Outcome.NOT_APPLICABLE for one in part.verdicts) for part in parts]
    return (
        tuple(part for part, empty in zip(parts, nothing, strict=True) if not empty),
        tuple(part for part, empty in zip(parts, nothing, strict=True) if empty),
    )


def set_aside(part: Section) -> str:
    """One line on the subjects to which a claim does not apply: how many, and why."""
    reasons: dict[str, list[str]] = {}
    for verdict in part.verdicts:
        if verdict.outcome is Outcome.NOT_APPLICABLE:
            reasons.setdefault(verdict.note or "no reason given", []).append(verdict.subject)
    total = sum(map(len, reasons.values()))
    if not total:
        return ""
    if not part.has_subjects:
        return f"Not applicable: {'; '.join(reasons)}"
    said = (f"{', '.join(subjects)} ({reason})" for reason, subjects in reasons.items())
    return f"Not applicable to {total} of {len(part.verdicts)}: {'; '.join(said)}"


def tolerance(verdict: Verdict) -> str:
    """What the estimate was held against."""
    if verdict.tolerance is None:
        return DASH
    if verdict.kind is Kind.HYPOTHESIS:
        plain = quantity_of(verdict).unit is Unit.PLAIN
        return f"> {number(verdict.tolerance)}" if plain else held_against(verdict)
    if verdict.p_value is not None:
        return percent(verdict.tolerance)
    # A margin at rounding level is read as a power of ten, a coarse one as a percentage.
    return f"± {percent(verdict.tolerance) if verdict.tolerance >= 1e-4 else number(verdict.tolerance, 3)}"


def degrees(verdict: Verdict) -> str:
    """Degrees of freedom reached and required."""
    if verdict.reached is None and verdict.required is None:
        return DASH
    return f"{count(verdict.reached)} / {count(verdict.required)}"


def slug(text: str) -> str:
    """`text` as a fragment or a file name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "unnamed"


def _row(part: Section, verdict: Verdict) -> Row:
    estimate, interval = shown(verdict)
    return Row(
        claim=part.claim,
        anchor=part.anchor,
        subject=verdict.subject,
        kind=verdict.kind,
        outcomes=((verdict.outcome, 1),),
        estimate=estimate,
        interval=interval,
        tolerance=tolerance(verdict),
        decoys=tuple((decoy.name, decoy.outcome, "") for decoy in verdict.decoys),
        degrees=degrees(verdict),
        standing=standing((verdict,)),
        boundary=boundary(verdict),
    )


def _counted(part: Section) -> Row:
    found = tally(part.verdicts)
    decoys: dict[str, Counter[Outcome]] = {}
    for verdict in part.verdicts:
        for decoy in verdict.decoys:
            decoys.setdefault(decoy.name, Counter())[decoy.outcome] += 1
    listed = []
    for name, judged in decoys.items():
        total = sum(judged.values())
        same = next(iter(judged)) if len(judged) == 1 else None
        listed.append((name, same, f"refuted in {judged[Outcome.REFUTED]} of {total}"))
    return Row(
        claim=part.claim,
        anchor=part.anchor,
        subject=f"{found.total()} runs or pairs" if found else f"{len(part.verdicts)} subjects",
        kind=part.first.kind,
        outcomes=tuple((outcome, many) for outcome, many in found.items()),
        estimate=DASH,
        interval="",
        tolerance=_common([tolerance(verdict) for verdict in part.verdicts]) or DASH,
        decoys=tuple(listed),
        degrees=DASH,
        standing=standing(part.verdicts),
    )


def _tolerance_name(verdict: Verdict) -> str:
    if verdict.kind is Kind.HYPOTHESIS:
        return "effect claimed"
    return "error detected" if verdict.p_value is not None else "margin"


def untitled(chart: Chart) -> Chart:
    """A chart without its words, to know it again."""
    return replace(chart, title="", caption="")


def _tables(verdict: Verdict) -> tuple[Table, ...]:
    return tuple(found for found in verdict.results if isinstance(found, Table))


def _panels(found: Chart | SmallMultiples) -> tuple[tuple[str, Chart], ...]:
    if isinstance(found, SmallMultiples):
        return tuple(zip(found.names, found.panels, strict=True))
    return (("", found),)


def _against(x: str, y: str) -> str:
    what = f"{y} against {x}" if y else x
    return what[:1].upper() + what[1:] if what[:2].isalpha() else what


def _whole(verdict: Verdict) -> str:
    return "" if verdict.about is None else verdict.about.name


def named(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Verdicts whose subjects are told apart by what varies, and not by a setting's digest where that is enough."""
    label = _labels(verdicts)
    return tuple(
        verdict
        if verdict.about is None
        else replace(
            verdict,
            about=replace(
                verdict.about,
                name=label[_whole(verdict)],
                against=verdict.about.against and label.get(verdict.about.against, verdict.about.against),
            ),
        )
        for verdict in verdicts
    )


def _labels(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Name of each subject to how it is told from the others: a run by its method and seed, where that is enough."""
    short: dict[str, str] = {}
    for verdict in verdicts:
        about = verdict.about
        name = _whole(verdict)
        methods = () if about is None else about.methods
        short[name] = _label(name, methods)
        if about is not None and about.against is not None:
            short.setdefault(about.against, _label(about.against, ()))
    times = Counter(short.values())
    return {name: label if times[label] == 1 else name for name, label in short.items()}


def _label(name: str, methods: Sequence[str | None]) -> str:
    """``AT, seed 6``; of a pair that shares its seed ``AT | AWP, seed 6``; of a method ``digits AT, all seeds``."""
    if found := _POOLED.fullmatch(name):
        known = {str(method).lower() for method in methods}
        words = [word.upper() if word in known else word for word in found["name"].split()]
        return f"{' '.join(words)}, all seeds"
    sides = [_DIGESTED.fullmatch(side) for side in name.split(" | ")]
    sides = [side for side in sides if side is not None]
    if len(sides) <= name.count(" | "):
        return name
    alone = methods[0] if len(sides) == len(methods) == 1 else None
    called = [(alone or side["method"]).upper() for side in sides]
    seeds = [side["seed"] for side in sides]
    if len(set(seeds)) == 1:
        return f"{' | '.join(called)}, seed {seeds[0]}"
    return " | ".join(f"{method}, seed {seed}" for method, seed in zip(called, seeds, strict=True))


def _part(verdict: Verdict) -> str:
    return "" if verdict.about is None else verdict.about.part


def _about(verdict: Verdict, title: str) -> str:
    return f"{title} ({verdict.subject})" if verdict.subject and verdict.subject not in title else title


def _common(texts: Sequence[str]) -> str:
    """The text if it is the same for all, else nothing."""
    return texts[0] if texts and all(text == texts[0] for text in texts) else ""


def _array(values: Sequence[Any]) -> str:
    shape = []
    inner: Any = values
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    flat: list[Any] = list(values)
    while flat and isinstance(flat[0], list):
        flat = [item for row in flat for item in row]
    size = " × ".join(str(length) for length in shape)
    if len(flat) <= 6 and len(shape) == 1:
        return f"({cell(flat)})"
    return f"{size} values, {cell(flat[0])} … {cell(flat[-1])}" if flat else "empty"
