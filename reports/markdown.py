"""The report as Markdown: the tables of the page; figures only if they were drawn as files. Needs no matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.equations import EQUATIONS
from reports.formatting import DASH, cell, is_number
from reports.outline import (
    MARKS,
    QUESTION,
    SYMBOLS,
    Matrix,
    Row,
    Section,
    boundary,
    decoy_table,
    environments,
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
    verdict_facts,
)
from reports.source import Results
from theory.judge.evidence import Evidence
from theory.judge.files import atomic_write
from theory.judge.results import Table
from theory.judge.table import markdown_table
from theory.judge.verdict import Outcome


def put_between(marks: tuple[str, str], made: str, path: Path) -> None:
    """Renew what stands between two marks in a Markdown file.

    Raises:
        ValueError: if the file lacks a mark.
        OSError: if it cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    begin, end = marks
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{str(path)!r} must hold the lines {begin} and {end}, once each, in this order.")
    before, after = text.split(begin)[0], text.split(end)[1]
    atomic_write(path, f"{before}{begin}\n{made}\n{end}{after}".encode(), overwrite=True)


def render(results: Results, figures: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> str:
    """``report.md``.

    Args:
        results: what to report.
        figures: claim to (relative path, description) of the figures drawn as files, in their order.
    """
    parts = sections(results.verdicts)
    blocks = [
        "# Spikeshrink: what was found",
        QUESTION,
        _equation("S1"),
        SYMBOLS,
        f"**{summary(parts)}**",
        "## Verdicts",
    ]
    blocks.append(_overview(overview(parts)))
    blocks.extend(_matrix(matrix) for matrix in matrices(parts))
    blocks.append("## Claims")
    judged, nothing = idle(parts)
    before = repeated(judged)
    for part in judged:
        blocks.extend(_section(part, (figures or {}).get(part.claim), before))
    blocks.extend(f"### {_text(part.claim)}\n\n{_text(set_aside(part))}" for part in nothing)
    blocks.extend(_provenance(results))
    return "\n\n".join(blocks) + "\n"


def _equation(label: str) -> str:
    return f"$${EQUATIONS[label].latex} \\tag{{{label}}}$$"


def _overview(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        name = f"[{_text(row.claim)}](#{row.anchor.lower()})" + (f" ({_text(row.subject)})" if row.subject else "")
        outcome = _text(row.boundary) or ", ".join(
            _outcome(found, many if len(row.outcomes) > 1 else 0) for found, many in row.outcomes
        )
        outcome += f" ({_text(row.standing)})" if row.standing else ""
        estimate = f"{row.estimate} {row.interval}".strip()
        decoys = ", ".join(
            f"{_text(decoy)} {how or (_outcome(found) if found else DASH)}" for decoy, found, how in row.decoys
        )
        lines.append((name, row.kind.value, outcome, estimate, row.tolerance, decoys or DASH, row.degrees))
    columns = ("claim", "kind", "outcome", "estimate [interval]", "tolerance", "decoys", "ν reached / required")
    return _grid(columns, lines, [False, False, False, False, False, False, True])


def _matrix(matrix: Matrix) -> str:
    lines = []
    for subject, verdicts in matrix.rows:
        cells = (", ".join(_part(name, outcome) for name, outcome in cell) for cell in verdicts)
        lines.append((_text(subject), *cells))
    return _grid(("judged on", *map(_text, matrix.claims)), lines, [False] * (1 + len(matrix.claims)))


def _part(name: str, outcome: Outcome) -> str:
    return f"{_text(name)}: {_outcome(outcome)}" if name else _outcome(outcome)


def _section(
    part: Section, figures: Sequence[tuple[str, str]] | None, before: Mapping[tuple[str, int], Section]
) -> list[str]:
    first = part.first
    blocks = [f"### {_text(part.claim)}", _text(first.statement), *map(_equation, part.equations)]
    if len(part.verdicts) == 1:
        facts = [f"{name} {_text(value)}" for name, value in verdict_facts(first)]
        blocks.append(f"**{_text(boundary(first)) or _outcome(first.outcome)}**: {'; '.join(facts)}.")
        if first.remark:
            blocks.append(_text(first.remark))
    else:
        blocks.append(_table(subject_table(part)))
        if aside := set_aside(part):
            blocks.append(_text(aside))
    lines = [f"- Kind: {first.kind.value}", f"- Source: {_text(first.source)}"]
    lines.extend(f"- Assumes: {_text(assumption)}" for assumption in first.assumptions)
    blocks.append("\n".join(lines))
    if figures is not None:
        blocks.extend(f"![{_text(description)}]({path})" for path, description in figures)
    for found in part.charts():
        place = "" if figures is not None else " (drawn in `index.html`)"
        blocks.append(f"Figure: {_text(found.title)}{place}. {_text(found.caption)}".rstrip())
    for place, table in enumerate(part.tables()):
        if earlier := before.get((part.claim, place)):
            blocks.append(f"**{_text(table.title)}** As under [{_text(earlier.claim)}](#{earlier.anchor.lower()}).")
            continue
        blocks.append(f"**{_text(table.title)}** {_text(table.caption)}".rstrip())
        blocks.append(_table(table))
    decoys = decoy_table(part)
    if decoys.rows:
        blocks.extend(["**Decoys**", _table(decoys)])
    return blocks


def _provenance(results: Results) -> list[str]:
    blocks = ["## Settings and provenance"]
    for facts, runs in environments(results.evidence):
        lines = [f"- {runs} run{'s' if runs != 1 else ''}"] + [f"- {name}: {_text(value)}" for name, value in facts]
        blocks.append("\n".join(lines))
    if not results.evidence:
        blocks.append("These verdicts are published without the evidence behind them.")
    if results.evidence:
        blocks.append(_table(runs_table(results.evidence, results.verdicts)))
        blocks.extend(_setting(run, lines) for run, lines in settings_of(results.evidence.values()))
    return blocks


def _setting(run: Evidence, lines: str) -> str:
    title = f"Setting of {_text(run.experiment)}, run {run.run_id}"
    return f"<details><summary>{title}</summary>\n\n```text\n{lines}\n```\n\n</details>"


def _table(table: Table) -> str:
    flush = [
        bool(table.rows) and all(is_number(row[place]) for row in table.rows) for place in range(len(table.columns))
    ]
    return _grid(tuple(map(_text, table.columns)), [tuple(map(_cell, row)) for row in table.rows], flush)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]], flush_right: Sequence[bool]) -> str:
    right = {place for place, flush in enumerate(flush_right) if flush}
    return "\n".join(markdown_table([columns, *rows], right=right))


def _cell(value: Any) -> str:
    return _outcome(value) if isinstance(value, Outcome) else _text(cell(value))


def _outcome(outcome: Outcome, many: int = 0) -> str:
    return f"{MARKS[outcome]} {f'{many} ' if many else ''}{outcome.value}"


def _text(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown would read as markup or as the end of a cell."""
    line = " ".join(str(text).split())
    for sign in "\\`*_[]<>|#$":
        line = line.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return line
