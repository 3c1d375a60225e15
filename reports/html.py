"""The report as one page: no network, light and dark, for the screen and for paper. Needs matplotlib.

One script sorts tables; the page says everything without it, and what is filtered is filtered by style alone.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

from reports.equations import mathml
from reports.formatting import DASH, cell, is_number
from reports.outline import (
    MARKS,
    QUESTION,
    SYMBOLS,
    Matrix,
    Multiples,
    Row,
    Section,
    boundary,
    decoy_table,
    environments,
    found_in_words,
    idle,
    matrices,
    overview,
    repeated,
    runs_table,
    sections,
    set_aside,
    settings_of,
    subject_table,
    summary,
    title_of,
    untitled,
    verdict_facts,
)
from reports.palette import COLORS
from reports.recipes.drawing import draw, draw_grid
from reports.source import Results
from reports.svg import Drawing, Sheet
from theory.judge.evidence import Evidence
from theory.judge.results import Table
from theory.judge.verdict import Outcome, Verdict

#: Panels of one drawing: as many as a sheet of paper holds.
_PANELS = 20
#: A drawing of more pixels spans both columns of figures.
_WIDE = 600
#: Runs that a section links to, one by one.
_MOST_LINKS = 6
#: Tables with more rows open at the reader's wish.
_LONG = 24
#: A table of verdicts on runs may be longer.
_MANY_SUBJECTS = 40
#: So do tables of decoys with more rows, which the overview has counted already.
_MANY_DECOYS = 12
#: Columns that a phone shows beside each other; a row of more becomes a card there.
_PHONE = 3
#: Columns of a table of outcomes that fit on a laptop's screen.
_COLUMNS = 9
#: What `grid` says of the style of a table, for `document` to collect.
_CARDS = re.compile(r"<style>(.*?)</style>")
_SUBSCRIPT = re.compile(r"(?<![\w/])([^\W\d_])_(?:\{([^}]+)\}|([A-Za-z0-9*]{1,2})(?![A-Za-z0-9_]))")
_SUPERSCRIPT = re.compile(r"((?<![\w/])[^\W\d_]|[)>\]])\^(?:\{([^}]+)\}|([A-Za-z0-9*]{1,2})(?![A-Za-z0-9_]))")


def head(title: str, above: str = "") -> str:
    """The head of a page: its title, the question, and the law that it is about."""
    return (
        f'<header><p class="kicker">{above or "Spikeshrink"}</p><h1>{text(title)}</h1>'
        f'<p class="question">{html.escape(QUESTION)}</p>'
        f"{equation('S1')}"
        f'<p class="symbols">{html.escape(SYMBOLS)}</p></header>'
    )


def equation(label: str) -> str:
    """A numbered equation as a block of MathML."""
    # A wide one scrolls by itself on a narrow screen, so that the keyboard must reach it.
    return (
        f'<div class="equation" tabindex="0" role="group" aria-label="Equation {label}">{mathml(label)}'
        f'<span class="tag">({label})</span></div>'
    )


def document(title: str, body: Sequence[str], outlines: str) -> str:
    """A whole page."""
    content = "\n".join(body)
    # What a table needs of style stands with all the rest of it, once however many tables need it.
    heads = "".join(dict.fromkeys(_CARDS.findall(content)))
    content = _CARDS.sub("", content)
    narrow = f"@media screen and (max-width:44rem){{{heads}}}\n" if heads else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n"
        f"<style>\n{_stylesheet()}{narrow}</style>\n</head>\n<body>\n{outlines}\n{content}\n"
        f"{_script() if 'sortable' in content else ''}</body>\n</html>\n"
    )


class Page:
    """One rendering: numbers figures and tables through the page, and keeps what it draws.

    Args:
        name: of the results folder, for the title.
        up: whether to link to ``index.html`` of the folder above.
        data: whether ``data/<claim>.csv`` are written beside the page, to be linked to.

    Attributes:
        drawings: claim to its drawings, in their order; filled by `render`.
    """

    def __init__(self, name: str = "", *, up: bool = False, data: bool = False) -> None:
        self.name, self._up, self._data = name, up, data
        self.drawings: dict[str, list[Drawing]] = {}
        self._sheet = Sheet()
        self._runs: Mapping[str, Evidence] = {}
        self._before: Mapping[tuple[str, int], Section] = {}
        self._figures = 0
        self._drawn: dict[Any, int] = {}  # what was drawn, to the number of its figure
        self._tables = 0

    def render(self, results: Results) -> str:
        """``index.html``."""
        parts = sections(results.verdicts)
        self._runs = results.evidence
        self._before = repeated(idle(parts)[0])
        title = title_of(results, self.name)
        body = [
            '<a class="skip" href="#verdicts">To the verdicts</a>',
            head(title, self._above()),
            _contents(parts),
            "<main>",
            f'<section aria-labelledby="verdicts"><h2 id="verdicts">Verdicts</h2><p>{text(summary(parts))}</p>',
            _filter(overview(parts)),
            _overview(overview(parts)),
            _matrices(matrices(parts), {part.claim: part.anchor for part in parts}),
            "</section>",
            *(self._section(part) for part in idle(parts)[0]),
            *(self._idle(part) for part in idle(parts)[1]),
            self._provenance(results),
            "</main>",
        ]
        return document(f"Spikeshrink: {title}", body, self._sheet.element())

    def _above(self) -> str:
        return '<a href="../index.html">Spikeshrink: all that was found</a>' if self._up else ""

    def _section(self, part: Section) -> str:
        first = part.first
        blocks = [f'<section class="claim" aria-labelledby="{part.anchor}"><h2 id="{part.anchor}">{text(part.claim)}']
        if len(part.verdicts) == 1:
            blocks.append(f" {_found(first)}")
        blocks.append(f'</h2><p class="statement">{prose(first.statement)}</p>')
        blocks.extend(equation(label) for label in part.equations)
        if len(part.verdicts) == 1:
            facts = "".join(
                f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in verdict_facts(first)
            )
            blocks.append(f'<p class="found">{prose(found_in_words(first))}</p><dl class="facts">{facts}</dl>')
            if first.remark:
                blocks.append(f'<p class="note">{prose(first.remark)}</p>')
        else:
            blocks.append(self._table(subject_table(part), style="subjects cards sortable", longest=_MANY_SUBJECTS))
            if aside := set_aside(part):
                blocks.append(f'<p class="note">{prose(aside)}</p>')
        blocks.append(self._figure_row(part))
        blocks.extend(self._table_of(part, place, table) for place, table in enumerate(part.tables()))
        decoys = decoy_table(part)
        if decoys.rows:
            blocks.append(self._table(decoys, longest=_MANY_DECOYS))
        assumed = "".join(f"<li>{prose(assumption)}</li>" for assumption in first.assumptions)
        blocks.append(
            f'<dl class="ground"><div><dt>Kind</dt><dd>{text(first.kind.value)}</dd></div>'
            f"<div><dt>Source</dt><dd>{text(first.source)}</dd></div>"
            + (f"<div><dt>Assumes</dt><dd><ul>{assumed}</ul></dd></div>" if assumed else "")
            + f'</dl><p class="back"><a href="#verdicts">All verdicts</a>{self._files(part)}</p></section>'
        )
        return "".join(blocks)

    def _files(self, part: Section) -> str:
        """Links to the runs behind a section, and to the numbers that its figures draw."""
        names = dict.fromkeys(run_id for verdict in part.verdicts for run_id in verdict.evidence)
        links = [
            (_address(self._runs[name]), f"evidence {self._runs[name].experiment}")
            for name in names
            if name in self._runs
        ][:_MOST_LINKS]
        if self._data and part.charts():
            links.append((f"data/{part.anchor}.csv", "drawn numbers (CSV)"))
        return "".join(f' · <a href="{address}">{text(words)}</a>' for address, words in links)

    def _idle(self, part: Section) -> str:
        return (
            f'<section class="claim idle" aria-labelledby="{part.anchor}"><details><summary><h2 id="{part.anchor}">'
            f"{text(part.claim)}</h2> {outcome_mark(Outcome.NOT_APPLICABLE)}</summary>"
            f'<p class="statement">{prose(part.first.statement)}</p><p class="note">{prose(set_aside(part))}</p>'
            f'<p class="back"><a href="#verdicts">All verdicts</a></p></details></section>'
        )

    def _figure_row(self, part: Section) -> str:
        drawn = []
        for found in part.charts():
            for start in range(0, len(found.panels), _PANELS):
                drawn.append(self._chart(part, found, start))
        return f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""

    def _chart(self, part: Section, found: Multiples, start: int) -> str:
        chunk = found.panels[start : start + _PANELS]
        known = self._drawn.setdefault(tuple(untitled(chart) for _, chart in chunk), self._figures + 1)
        if known <= self._figures:
            return f'<p class="note"><b>{text(found.title)}.</b> As figure {known}.</p>'
        if len(found.panels) > 1:
            family = [chart for _, chart in found.panels]
            drawing = draw_grid(chunk, family=family, title=found.title)
        else:
            drawing = draw(chunk[0][1])
        self.drawings.setdefault(part.claim, []).append(drawing)
        self._figures += 1
        picture = drawing.inline(f"f{self._figures}", self._sheet)
        title = found.title + (", continued" if start else "")
        caption = f" {prose(found.caption)}" if found.caption else ""
        return (
            f"<figure{' class=wide' if drawing.width > _WIDE else ''}>{picture}<figcaption>"
            f"<b>Figure {self._figures}. {text(title)}.</b>{caption}</figcaption></figure>"
        )

    def _table_of(self, part: Section, place: int, table: Table) -> str:
        if earlier := self._before.get((part.claim, place)):
            link = f'<a href="#{earlier.anchor}">{text(earlier.claim)}</a>'
            return f'<p class="note"><b>{text(table.title)}.</b> As under {link}.</p>'
        return self._table(table)

    def _table(self, table: Table, *, style: str = "", longest: int = _LONG) -> str:
        self._tables += 1
        style = style or ("cards" if len(table.columns) > _PHONE else "")
        title = f"<b>Table {self._tables}. {text(table.title)}.</b>"
        caption = f" {prose(table.caption)}" if table.caption else ""
        flush = [
            bool(table.rows) and all(is_number(row[place]) for row in table.rows) for place in range(len(table.columns))
        ]
        made = grid(
            table.columns, [[_cell(value) for value in row] for row in table.rows], flush, title + caption, style=style
        )
        if len(table.rows) <= longest:
            return made
        return f"<details><summary>{text(table.title)}: {len(table.rows)} rows</summary>{made}</details>"

    def _provenance(self, results: Results) -> str:
        blocks = ['<section aria-labelledby="provenance"><h2 id="provenance">Settings and provenance</h2>']
        for facts, runs in environments(results.evidence):
            made = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in facts)
            blocks.append(f'<dl class="ground"><div><dt>runs</dt><dd>{runs}</dd></div>{made}</dl>')
        if not results.evidence:
            blocks.append('<p class="note">These verdicts are published without the evidence behind them.</p>')
        if results.evidence:
            blocks.append(self._table(runs_table(results.evidence, results.verdicts)))
        for run, lines in settings_of(results.evidence.values()):
            fields = text(lines)
            title = f"Setting of {text(run.experiment)}, run {text(run.run_id)}"
            blocks.append(
                f'<details><summary>{title}</summary><pre class="scroll" tabindex="0" role="region" '
                f'aria-label="{title}">{fields}</pre></details>'
            )
        blocks.append("</section>")
        return "".join(blocks)


def _address(run: Evidence) -> str:
    return f"evidence/{quote(run.experiment)}/{run.run_id}.json"


def _contents(parts: Sequence[Section]) -> str:
    """Every section with its outcomes, to be opened at the top of a page."""
    links = []
    for part in parts:
        found = Counter(verdict.outcome for verdict in part.verdicts)
        marks = "".join(_mark(outcome) for outcome in Outcome if found[outcome])
        links.append(f'<li>{marks}<a href="#{part.anchor}">{text(part.claim)}</a></li>')
    return (
        '<nav class="contents" aria-label="Contents"><details><summary>Contents</summary><ul>'
        f'<li><a href="#verdicts">Verdicts</a></li>{"".join(links)}'
        '<li><a href="#provenance">Settings and provenance</a></li></ul></details></nav>'
    )


def _filter(rows: Sequence[Row]) -> str:
    """Boxes that hide the rows of an outcome, by style alone."""
    found = Counter(_standing_for(row) for row in rows)
    if len(found) < 2:
        return ""
    boxes = "".join(
        f'<label><input type="checkbox" class="show-{name}" checked> {name.replace("-", " ")} ({found[name]})</label>'
        for name in (*map(_name, Outcome), "boundary")
        if found[name]
    )
    return f'<fieldset class="filter"><legend>Show</legend>{boxes}</fieldset>'


def _standing_for(row: Row) -> str:
    """What a row of the overview is filed under: the gravest of its outcomes, or that it is a boundary."""
    if row.boundary:
        return "boundary"
    found = {outcome for outcome, _ in row.outcomes}
    order = (Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.SUPPORTED, Outcome.NOT_APPLICABLE)
    # Nothing is counted where every verdict of the claim is about runs put together.
    return _name(next((outcome for outcome in order if outcome in found), Outcome.NOT_APPLICABLE))


def _overview(rows: Sequence[Row]) -> str:
    cells = []
    for row in rows:
        subject = f'<br><span class="subject">{text(row.subject)}</span>' if row.subject else ""
        several = len(row.outcomes) > 1
        outcome = "<br>".join(outcome_mark(found, many if several else 0) for found, many in row.outcomes)
        outcome = _edge(row.boundary) if row.boundary else outcome
        outcome += f'<br><span class="subject">{text(row.standing)}</span>' if row.standing else ""
        decoys = "".join(_decoy(*decoy) for decoy in row.decoys)
        given = row.interval not in ("", DASH)
        interval = f'<br><span class="interval">{text(row.interval)}</span>' if given else ""
        cells.append(
            [
                f'<a href="#{row.anchor}">{text(row.claim)}</a>{subject}',
                row.kind.value,
                outcome,
                f"{text(row.estimate)}{interval}",
                text(row.tolerance),
                f'<ul class="decoys">{decoys}</ul>' if decoys else DASH,
                text(row.degrees).replace(" / ", " /<br>"),
            ]
        )
    columns = ("claim", "kind", "outcome", "estimate, interval", "tolerance", "decoys", "ν reached / required")
    caption = (
        f"Outcomes: {_legend()}. Decoys are judged on the same evidence, which has to refute them. "
        "Tolerance: the error an identity’s test detects (%), the margin within which an approximation must stay (±), "
        "the effect a hypothesis must exceed (&gt;). Confirmatory: all evidence was measured with this very claim "
        "registered; unverified: the controls beside it are missing, or do not all hold. "
        "ν: effective degrees of freedom of the weakest test."
    )
    kinds = [_standing_for(row) for row in rows]
    return grid(columns, cells, [False] * 6 + [True], caption, style="overview cards sortable", marked=kinds)


def _decoy(name: str, outcome: Outcome | None, how: str) -> str:
    mark, words = ("!", "") if outcome is None else (MARKS[outcome], outcome.value)
    style = "" if outcome is Outcome.REFUTED else ' class="escaped"'
    return f'<li{style}>{mark} {text(name)} <span class="subject">{text(how or words)}</span></li>'


def _legend() -> str:
    return ", ".join(f"{_mark(outcome)}{outcome.value}" for outcome in Outcome)


def _matrices(found: Sequence[Matrix], anchors: Mapping[str, str]) -> str:
    """All tables of outcomes, and what chooses their rows."""
    if not found:
        return ""
    seen = {outcome for matrix in found for _, cells in matrix.rows for cell in cells for _, outcome in cell}
    choices = [("all", "all")] + [(f"rows-{_name(one)}", one.value) for one in Outcome if one in seen]
    boxes = "".join(
        f'<label><input type="radio" name="rows" class="{style}"{" checked" if style == "all" else ""}> {words}</label>'
        for style, words in choices
    )
    chosen = f'<fieldset class="filter rows"><legend>Rows with an outcome</legend>{boxes}</fieldset>'
    return (chosen if len(choices) > 2 else "") + "".join(_matrix(matrix, anchors) for matrix in found)


def _matrix(matrix: Matrix, anchors: Mapping[str, str]) -> str:
    """Claims as columns, or many as rows where subjects are fewer; as many tables as the columns need."""
    claims = [f'<a href="#{anchors[claim]}">{text(claim)}</a>' for claim in matrix.claims]
    subjects = [text(subject) for subject, _ in matrix.rows]
    cells = [["<br>".join(_part(*part) for part in cell) for cell in row] for _, row in matrix.rows]
    corner, heads, names = "judged on", claims, subjects
    caption = "Every run, pair or group (a row) under every claim judged on it (a column)."
    if len(claims) > max(len(subjects), _COLUMNS):
        corner, heads, names, cells = "claim", subjects, claims, [list(row) for row in zip(*cells, strict=True)]
        caption = "Every claim (a row) on every run, pair or group (a column) that it was judged on."
    tables = []
    for start in range(0, len(heads), _COLUMNS):
        chunk = slice(start, start + _COLUMNS)
        rows = [[name, *row[chunk]] for name, row in zip(names, cells, strict=True) if any(row[chunk])]
        shown = heads[chunk]
        flush = [False] * (1 + len(shown))
        more = caption if not start else f"{caption} Continued."
        tables.append(grid([corner, *shown], rows, flush, more, style="matrix cards sortable", escape=False))
    return "".join(tables)


def _part(name: str, outcome: Outcome) -> str:
    if len(name) <= 16:
        name = name.replace(" ", "\u00a0")  # a short name stays on one line
    mark = (
        f'<span class="outcome {_name(outcome)}" title="{outcome.value}">{_mark(outcome)}'
        f'<span class="hidden">{outcome.value}</span></span>'
    )
    return mark + (f' <span class="subject">{text(name)}</span>' if name else "")


def grid(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    flush_right: Sequence[bool],
    caption: str,
    *,
    style: str = "",
    label: str = "",
    escape: bool = True,
    marked: Sequence[str] = (),
) -> str:
    """A table whose cells (not its column heads, unless `escape` is False) are markup; `marked` gives rows a class."""
    number = [' class="n"' if right else "" for right in flush_right]
    heads = "".join(
        f'<th scope="col"{how}>{text(column) if escape else column}</th>'
        for column, how in zip(columns, number, strict=True)
    )
    body = []
    cards = "cards" in style
    for place, row in enumerate(rows):
        first = f'<th scope="row"{number[0]}>{row[0]}</th>'
        rest = "".join(
            f"<td{how}{_bare(value) if cards else ''}>{value}</td>"
            for value, how in zip(row[1:], number[1:], strict=True)
        )
        kind = f' class="{marked[place]}"' if place < len(marked) and marked[place] else ""
        body.append(f"<tr{kind}>{first}{rest}</tr>")
    named = f"<caption>{caption}</caption>" if caption else ""
    aria = f' aria-label="{label}"' if label else ""
    # A region that scrolls can be reached with the keyboard, and has a name.
    name = html.unescape(re.sub("<[^>]*>", "", label or caption)) or "Table"
    look, heads_of_cards = f' class="{style}"' if style else "", ""
    if cards:
        words = [html.unescape(re.sub("<[^>]*>", "", column)) for column in columns]
        kind = f"h{zlib.crc32(json.dumps(words).encode()):08x}"
        look, heads_of_cards = f' class="{style} {kind}"', _heads_of_cards(kind, words)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name[:40])}">{heads_of_cards}'
        f"<table{look}{aria}>{named}"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _heads_of_cards(kind: str, heads: Sequence[str]) -> str:
    """On a narrow screen a row becomes a card, and each cell says under which head it stood: a rule for each column."""
    rules = "".join(
        f".{kind} td:nth-child({place}):before{{content:{_quoted(head)}}}"
        for place, head in enumerate(heads[1:], start=2)
    )
    return f"<style>{rules}</style>"


def _quoted(words: str) -> str:
    """A CSS string; what could end it, or the style that it stands in, is written as a number."""
    return '"' + "".join(c if c.isalnum() or c in " -.,×σ²λγ/" else f"\\{ord(c):x} " for c in words) + '"'


def _bare(value: str) -> str:
    """Marks a cell that says nothing: a card leaves it out."""
    return " data-bare" if value in ("", DASH) else ""


def _cell(value: Any) -> str:
    return outcome_mark(value) if isinstance(value, Outcome) else text(cell(value))


def outcome_mark(outcome: Outcome, many: int = 0) -> str:
    """An outcome with its mark."""
    words = f"{many} {outcome.value}" if many else outcome.value
    return f'<span class="outcome {_name(outcome)}">{_mark(outcome)}{words}</span>'


def _found(verdict: Verdict) -> str:
    edge = boundary(verdict)
    return _edge(edge) if edge else outcome_mark(verdict.outcome)


def _edge(words: str) -> str:
    return f'<span class="outcome boundary"><span class="mark boundary" aria-hidden="true">┤</span>{text(words)}</span>'


def _mark(outcome: Outcome) -> str:
    return f'<span class="mark {_name(outcome)}" aria-hidden="true">{MARKS[outcome]}</span>'


def _name(outcome: Outcome) -> str:
    return outcome.name.lower().replace("_", "-")


def _script() -> str:
    return f"<script>\n{resources.files('reports').joinpath('sort.js').read_text(encoding='utf-8')}</script>\n"


def _stylesheet() -> str:
    light = "".join(f"--{name}:{color};" for name, color in COLORS.items())
    rules = resources.files("reports").joinpath("style.css").read_text(encoding="utf-8")
    return f":root{{{light}}}\n{rules}"


def text(words: str) -> str:
    """`words`, escaped."""
    return html.escape(str(words))


def prose(words: str) -> str:
    """`words` with the subscripts and superscripts of its formulas set as such: ``M_k``, ``Σ_{l<k}``, ``F^t``.

    Only after a single letter or a bracket, so that names such as ``off_diagonal_mass`` stay as they are.
    """
    return _SUPERSCRIPT.sub(r"\1<sup>\2\3</sup>", _SUBSCRIPT.sub(r"\1<sub>\2\3</sub>", text(words)))
