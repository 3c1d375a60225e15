"""The front page of all published results: the answer first, then every estimate against its margin, then the pages.

Needs matplotlib for the forests. Everything said comes from `reports.findings`, everything drawn from the verdicts.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from reports.findings import Answer, Finding, background, curvature_at_decays, findings, paragraph
from reports.html import document, grid, head, outcome_mark, prose
from reports.html import text as shown
from reports.outline import MARKS, boundary, sections, slug, summary
from reports.quantities import REVERSED, Unit, quantity_of
from reports.recipes.drawing import draw
from reports.seen import Seen
from reports.short import explanations, in_short
from reports.svg import Sheet
from theory.judge.results import Axis, Band, Estimate, Forest, Role, Sample
from theory.judge.verdict import Kind, Outcome, Verdict

#: Estimates that a line of a forest has room for; of more, the extremes are drawn as a range.
_CASES = 6
_ANSWERS = {
    Answer.HOLDS: (Outcome.SUPPORTED, MARKS[Outcome.SUPPORTED]),
    Answer.FAILS: (Outcome.REFUTED, MARKS[Outcome.REFUTED]),
    Answer.PARTLY: (Outcome.INCONCLUSIVE, "◐"),
    Answer.UNDECIDED: (Outcome.INCONCLUSIVE, MARKS[Outcome.INCONCLUSIVE]),
    Answer.UNMET: (Outcome.NOT_APPLICABLE, MARKS[Outcome.NOT_APPLICABLE]),
    Answer.UNTESTED: (Outcome.NOT_APPLICABLE, MARKS[Outcome.NOT_APPLICABLE]),
}


def front_page(
    results: Mapping[str, Sequence[Verdict]],
    older: Sequence[str] = (),
    tables: Sequence[str] = (),
    seen: Seen | None = None,
) -> str:
    """``index.html`` of a folder of results.

    Args:
        results: folder name to verdicts.
        older: folders with pages of an older register, whose verdicts cannot be read any more.
        tables: folders with a ``report.md`` that judges no claim, such as that of the fault run.
        seen: what the networks behind the results were trained on.
    """
    found = findings(results, seen)
    links = {
        verdict.claim: f"{_address(folder)}#{slug(verdict.claim)}"
        for folder, verdicts in results.items()
        for verdict in verdicts
    }
    sheet = Sheet()
    body = [
        '<a class="skip" href="#answer">To the answer</a>',
        head("What was found"),
        "<main>",
        '<section aria-labelledby="answer"><h2 id="answer">The answer</h2>',
        *(
            f'<p class="lead">{_linked(words, links)}</p>'
            for words in (in_short(results), explanations(results), paragraph(found), curvature_at_decays(results))
            if words
        ),
        *([f'<p class="behind">{_linked(behind, links)}</p>'] if (behind := background(seen)) else []),
        _answer(found),
        "</section>",
        '<section aria-labelledby="estimates"><h2 id="estimates">Every estimate against its margin</h2>',
        '<div class="figures">',
    ]
    for place, forest in enumerate(forests(results)):
        drawing = draw(forest)
        body.append(
            f"<figure>{drawing.inline(f'f{place}', sheet)}<figcaption><b>{shown(forest.title)}.</b> "
            f"{shown(forest.caption)}</figcaption></figure>"
        )
    body.append("</div></section>")
    body.append('<section aria-labelledby="pages"><h2 id="pages">All pages</h2>')
    for name, verdicts in results.items():
        title = shown(name.encode(errors="replace").decode().replace("-", " ").capitalize())
        anchor = slug(name)
        tally = Counter(verdict.outcome for verdict in verdicts if not boundary(verdict))
        counts = " ".join(outcome_mark(outcome, tally[outcome]) for outcome in Outcome if tally[outcome])
        body.append(
            f'<section class="claim" aria-labelledby="{anchor}"><h3 id="{anchor}">'
            f'<a href="{_address(name)}">{title}</a></h3><p>{counts}</p>'
            f"<p>{shown(summary(sections(verdicts)))}</p></section>"
        )
    if older:
        links = ", ".join(f'<a href="{_address(name)}">{shown(name)}</a>' for name in older)
        body.append(f'<p class="note">Made by an older register, without evidence to judge again: {links}.</p>')
    if tables:
        links = ", ".join(f'<a href="{_address(name, "report.md")}">{shown(name)}</a>' for name in tables)
        body.append(f'<p class="note">Tables about the program itself: {links}.</p>')
    body.append("</section></main>")
    return document("Spikeshrink: what was found", body, sheet.element())


def forests(results: Mapping[str, Sequence[Verdict]]) -> tuple[Forest, ...]:
    """All estimates: those of errors as shares of their margin, effects in their own units, a claim a line."""
    drawn = []
    errors = [
        verdict
        for verdicts in results.values()
        for verdict in verdicts
        if verdict.kind is not Kind.HYPOTHESIS and verdict.estimate is not None and verdict.tolerance
    ]
    if errors:
        drawn.append(
            Forest(
                title="Claims about quadratics: error as a share of its margin",
                sample=Sample(len(errors), "claims"),
                caption="The shaded region is the margin, or for a test the error that it detects. "
                "A claim marked ┤ lies outside on purpose: it shows where another stops.",
                x=Axis("error / margin"),
                margins=(-1.0, 1.0),
                null=0.0,
                estimates=tuple(
                    _estimate(f"{'┤' if boundary(one) else MARKS[one.outcome]} {one.claim}", one, one.tolerance or 1.0)
                    for one in errors
                ),
            )
        )
    effects: dict[Unit, dict[str, list[Verdict]]] = {}
    for verdicts in results.values():
        for verdict in verdicts:
            if verdict.kind is Kind.HYPOTHESIS and verdict.estimate is not None:
                unit = quantity_of(verdict).unit
                unit = Unit.FACTOR if unit in (Unit.INVERSE, Unit.MISFIT) else unit
                effects.setdefault(unit, {}).setdefault(verdict.claim, []).append(verdict)
    names = {
        Unit.FACTOR: Axis("factor"),
        Unit.NOISE: Axis("effect", "σ of the epoch noise"),
        Unit.NATS: Axis("effect", "nats"),
        Unit.DEVIATION: Axis("relative error"),
        Unit.PLAIN: Axis("effect"),
    }
    for unit, claims in effects.items():
        drawn.append(
            Forest(
                title=f"Claims about networks, {names[unit]}",
                sample=Sample(sum(map(len, claims.values())), "verdicts"),
                caption="The bound is what each claim needs to exceed, or for a distance from the prediction to stay "
                "below.",
                x=names[unit],
                null=1.0 if unit is Unit.FACTOR else 0.0,
                estimates=tuple(one for claim, members in claims.items() for one in _effects(claim, members)),
            )
        )
    return tuple(drawn)


def _effects(claim: str, members: Sequence[Verdict]) -> list[Estimate]:
    ordered = sorted(members, key=lambda one: one.estimate or 0.0)
    if len(ordered) > _CASES:
        values = sorted(_plain(one, one.estimate or 0.0) for one in ordered)
        line = [
            Estimate(category=claim, value=value, low=values[0], high=values[-1], band=Band.RANGE)
            for value in (values[len(values) // 2],)
        ]
    else:
        line = []
        for one in ordered:
            low, high = (None if end is None else _plain(one, end) for end in one.interval)
            given = low is not None and high is not None
            line.append(
                Estimate(
                    category=claim,
                    value=_plain(one, one.estimate or 0.0),
                    low=min(low, high) if low is not None and high is not None else None,
                    high=max(low, high) if low is not None and high is not None else None,
                    band=Band.INTERVAL if given else None,
                )
            )
    tolerance = members[0].tolerance
    if tolerance is not None:
        line.append(Estimate(category=claim, value=_plain(members[0], tolerance), role=Role.BOUND))
    return line


def _plain(verdict: Verdict, value: float) -> float:
    unit = quantity_of(verdict).unit
    if unit is Unit.DEVIATION:
        return abs(value)
    if unit in (Unit.FACTOR, Unit.INVERSE, Unit.MISFIT):
        return math.exp(-value if unit in REVERSED else value)
    return value


def _estimate(category: str, verdict: Verdict, scale: float) -> Estimate:
    low, high = verdict.interval
    given = low is not None and high is not None
    return Estimate(
        category=category,
        value=(verdict.estimate or 0.0) / scale,
        low=low / scale if given and low is not None else None,
        high=high / scale if given and high is not None else None,
        band=Band.FAMILY if given else None,
    )


def _answer(found: Sequence[Finding]) -> str:
    rows, untested = [], []
    for row in sorted(found, key=lambda one: one.answer is Answer.UNTESTED):
        outcome, mark = _ANSWERS[row.answer]
        name = outcome.name.lower().replace("_", "-")
        answer = (
            f'<span class="outcome {name}"><span class="mark {name}" aria-hidden="true">{mark}</span>'
            f"{row.answer.value}</span>"
        )
        links = {claim: f"{_address(folder)}#{slug(claim)}" for folder, claim in row.claims}
        told = "<br>".join(_linked(sentence, links) for sentence in row.found)
        cells = [prose(row.statement.says), f"{answer}<br>{told}", shown(row.sure), shown(row.stops)]
        rows.append(cells)
        untested.append("faint" if row.answer is Answer.UNTESTED else "")
    return grid(
        ("the paper says", "we found", "how sure", "where it stops"),
        rows,
        [False] * 4,
        "Statements of Xu and Zhang, arXiv 2410.07719; greyed: not tested here.",
        style="answer cards",
        marked=untested,
    )


def _linked(sentence: str, links: Mapping[str, str]) -> str:
    """Back-quoted names of claims as links, other back-quoted words as code."""
    parts = sentence.split("`")
    told = [shown(part) for part in parts]
    for place in range(1, len(parts), 2):
        address = links.get(parts[place])
        told[place] = f'<a href="{address}">{told[place]}</a>' if address else f"<code>{told[place]}</code>"
    return "".join(told)


def _address(name: str, page: str = "index.html") -> str:
    return f"./{quote(os.fsencode(name), safe='')}/{page}"  # "./" keeps a name with a colon from being a scheme
