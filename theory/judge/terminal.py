"""Verdicts on a terminal: a line a claim within 80 columns, what was refuted first, and a line of totals.

Cases     A claim about networks is judged on many runs, pairs or groups. Each of them counts once (`tally`), however
          many of its decays, checkpoints or modes were judged; what is pooled over runs is no further run.
Color     Where the stream is a terminal, unless NO_COLOR is set (no-color.org) or TERM is dumb.
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TextIO

from theory.judge.table import aligned
from theory.judge.verdict import Kind, Outcome, Verdict

WIDTH = 80
_RANK = {Outcome.REFUTED: 0, Outcome.INCONCLUSIVE: 1, Outcome.SUPPORTED: 2, Outcome.NOT_APPLICABLE: 4}
_BOUNDARY = 3  # between what is supported and what does not apply
_COLORS = {0: "31", 1: "33", 2: "32", _BOUNDARY: "32", 4: "2"}
_SHORT = {Outcome.SUPPORTED: "yes", Outcome.REFUTED: "no", Outcome.INCONCLUSIVE: "?"}
#: Widths of outcome, error and decoys; the claim has what is left.
_WIDTHS = (16, 10, 7)


def outcome_of(verdicts: Iterable[Verdict]) -> Outcome:
    """What several verdicts on one case say together; those that do not apply are left out."""
    found = {verdict.outcome for verdict in verdicts} - {Outcome.NOT_APPLICABLE}
    if not found:
        return Outcome.NOT_APPLICABLE
    return found.pop() if len(found) == 1 else Outcome.INCONCLUSIVE


def case_of(verdict: Verdict) -> str:
    """What a verdict is about, whatever part or mode of it: a run, a pair of runs, or a group by its name."""
    about = verdict.about
    if about is None:
        return ""
    return " | ".join(about.runs) if 0 < len(about.runs) <= 2 and not about.pooled else about.name


def tally(verdicts: Iterable[Verdict]) -> Counter[Outcome]:
    """How many cases came out how, a case being a claim on a run or on a pair."""
    cases: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.about is None or not verdict.about.pooled:
            cases.setdefault((verdict.claim, case_of(verdict)), []).append(verdict)
    return Counter(map(outcome_of, cases.values()))


def verdict_table(verdicts: Sequence[Verdict], *, color: bool = False) -> str:
    """A head, a line a claim, and the totals."""
    claims: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        claims.setdefault(verdict.claim, []).append(verdict)
    lines = sorted((_row(members) for members in claims.values()), key=lambda row: row[0])
    head = _line(("claim", "outcome", "error", "decoys"))
    body = [_colored(_line(cells), rank, color) for rank, cells in lines]
    return "\n".join([head, "─" * WIDTH, *body, "", _totals(claims)])


def remarks(verdicts: Iterable[Verdict]) -> str:
    """A line on each verdict: what it is about, its interval, how it stands, and its note."""
    return "\n".join(filter(None, map(_remark, verdicts)))


def is_finding(verdict: Verdict) -> bool:
    """Whether a hypothesis was refuted: a decoy that its evidence leaves standing makes it no stronger."""
    return verdict.kind is Kind.HYPOTHESIS and verdict.outcome is Outcome.REFUTED


def wants_color(stream: TextIO) -> bool:
    """Whether a stream shows colors, and its reader has not declined them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _row(members: Sequence[Verdict]) -> tuple[int, tuple[str, str, str, str]]:
    outcomes = tally(members) or Counter(outcome_of([verdict]) for verdict in members)
    first = members[0]
    star = "*" if any(verdict.verified is False for verdict in members) else ""
    if len(members) == 1:
        edge = bool(first.boundary) and first.outcome is Outcome.REFUTED
        rank = _BOUNDARY if edge else _RANK[first.outcome]
        outcome = "boundary" if edge else first.outcome.value
        error = "" if first.estimate is None else _short(first.estimate)
    else:
        rank = min(_RANK[outcome] for outcome in outcomes)
        counted = [f"{outcomes[outcome]} {word}" for outcome, word in _SHORT.items() if outcomes[outcome]]
        outcome, error = ", ".join(counted) or Outcome.NOT_APPLICABLE.value, ""
    decoys = [decoy for verdict in members for decoy in verdict.decoys]
    refuted = sum(decoy.outcome is Outcome.REFUTED for decoy in decoys)
    return rank, (first.claim, outcome + star, error, f"{refuted}/{len(decoys)}" if decoys else "")


def _line(cells: Sequence[str]) -> str:
    first = WIDTH - sum(_WIDTHS) - 2 * len(_WIDTHS)
    claim = cells[0] if len(cells[0]) <= first else f"{cells[0][: first - 1]}…"
    (line,) = aligned([(claim, *cells[1:])], widths=(first, *_WIDTHS))
    return line


def _short(value: float) -> str:
    return f"{100 * value:+.2f} %" if 1e-4 <= abs(value) < 10 else f"{value:+.1e}"


def _totals(claims: dict[str, list[Verdict]]) -> str:
    verdicts = [verdict for members in claims.values() for verdict in members]
    edges = sum(bool(verdict.boundary) and verdict.outcome is Outcome.REFUTED for verdict in verdicts)
    counts = tally(verdict for verdict in verdicts if not (verdict.boundary and verdict.outcome is Outcome.REFUTED))
    found = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome]]
    found += [f"{edges} boundar{'y' if edges == 1 else 'ies'} confirmed"] if edges else []
    decoys = [decoy for verdict in verdicts if not is_finding(verdict) for decoy in verdict.decoys]
    refuted = sum(decoy.outcome is Outcome.REFUTED for decoy in decoys)
    standing = Counter(verdict.standing.value for verdict in verdicts if verdict.outcome is not Outcome.NOT_APPLICABLE)
    lines = [
        f"{len(claims)} claims, {len(verdicts)} verdicts: {', '.join(found)}"
        + (" (a claim on a run counts once)" if any(verdict.about for verdict in verdicts) else ""),
        f"{refuted} of {len(decoys)} decoys refuted; " + ", ".join(f"{many} {word}" for word, many in standing.items()),
    ]
    if any(verdict.verified is False for verdict in verdicts):
        lines.append("* unverified: no control of this folder is supported")
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)


def _remark(verdict: Verdict) -> str:
    interval = ""
    if verdict.estimate is not None and None not in verdict.interval:
        low, high = verdict.interval
        interval = f" {verdict.estimate:.3g} [{low:.3g}, {high:.3g}]"
    name = f"{verdict.claim} · {verdict.subject}" if verdict.subject else verdict.claim
    said = f"{name}: {verdict.outcome.value} ({verdict.qualification}){interval}"
    return f"{said}; {verdict.remark}" if verdict.remark else said


def _colored(line: str, rank: int, color: bool) -> str:
    return f"\x1b[{_COLORS[rank]}m{line}\x1b[0m" if color else line
