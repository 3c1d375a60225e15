"""Verdicts before and after: what came out differently, for better or worse, and what moved.

Regression   a claim that is further from *supported* than it was (supported, inconclusive, not applicable, refuted),
             or no longer judged; a decoy that was refuted and is not, or is no longer asked; an estimate outside the
             interval that it had, widened by a hundredth of the margin, so that rounding moves nothing.
Improvement  the converse: a claim nearer to *supported*, a decoy newly refuted.
Added        a claim or subject that was not judged before is no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from theory.judge.table import aligned, markdown_table
from theory.judge.verdict import Outcome, Verdict

#: Share of a margin, or of the error that a claim detects, by which an old interval is widened.
ROUNDING = 0.01
_DASH = "–"
_RANK = {Outcome.REFUTED: 0, Outcome.NOT_APPLICABLE: 1, Outcome.INCONCLUSIVE: 2, Outcome.SUPPORTED: 3}


class Change(IntEnum):
    """What became of a verdict, the worst first."""

    REFUTED = 0  # a new refutation
    WORSE = 1
    REMOVED = 2
    MOVED = 3
    BETTER = 4
    ADDED = 5
    SAME = 6

    @property
    def is_regression(self) -> bool:
        """Whether something was lost."""
        return self <= Change.MOVED

    @property
    def is_difference(self) -> bool:
        """Whether what was judged before is judged otherwise."""
        return self <= Change.BETTER


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One claim, on one subject, before and after.

    Args:
        claim: the claim's name.
        subject: what it was judged on, where there are several.
        before: its verdict before, if there.
        after: its verdict after, if there.
    """

    claim: str
    subject: str
    before: Verdict | None
    after: Verdict | None

    @property
    def decoys(self) -> tuple[tuple[str, Outcome | None, Outcome | None], ...]:
        """Decoys whose outcome differs: name, before, after; None where there is none. A new one is no difference."""
        if self.before is None or self.after is None:
            return ()
        one, two = ({decoy.name: decoy.outcome for decoy in verdict.decoys} for verdict in (self.before, self.after))
        return tuple((name, outcome, two.get(name)) for name, outcome in one.items() if two.get(name) is not outcome)

    @property
    def moved(self) -> bool:
        """Whether the estimate lies outside the interval that it had."""
        if self.before is None or self.after is None:
            return False
        (low, high), estimate = self.before.interval, self.after.estimate
        if estimate is None or self.before.estimate is None:
            return False
        slack = ROUNDING * abs(self.before.tolerance or 0.0)
        return (low is not None and estimate < low - slack) or (high is not None and estimate > high + slack)

    @property
    def change(self) -> Change:
        """The worst of what changed."""
        if self.before is None:
            return Change.ADDED
        if self.after is None:
            return Change.REMOVED
        old, new = self.before.outcome, self.after.outcome
        if _RANK[new] < _RANK[old]:
            return Change.REFUTED if new is Outcome.REFUTED else Change.WORSE
        if any(before is Outcome.REFUTED for _, before, _ in self.decoys):
            return Change.WORSE
        if any(after is None for _, _, after in self.decoys):
            return Change.REMOVED
        if self.moved:
            return Change.MOVED
        return Change.BETTER if new is not old or self.decoys else Change.SAME

    @property
    def words(self) -> str:
        """What changed, in words."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "no longer judged"
        found: list[str] = []
        if self.before.outcome is not self.after.outcome:
            found.append(f"{self.before.outcome} → {self.after.outcome}")
        for name, before, after in self.decoys:
            found.append(f"decoy {name!r}: {before} → {after or 'no longer asked'}")
        if self.moved:
            found.append("estimate outside its old interval")
        return "; ".join(found) or "same"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "claim": self.claim,
            "subject": self.subject,
            "change": self.change.name.lower(),
            "regression": self.change.is_regression,
            "words": self.words,
            "moved": self.moved,
            "decoys": [name for name, _, _ in self.decoys],
            "before": _summary(self.before),
            "after": _summary(self.after),
        }


def compare(before: Sequence[Verdict], after: Sequence[Verdict]) -> tuple[Difference, ...]:
    """Every claim and subject of either side, the worst change first.

    Raises:
        ValueError: if a side judges one claim on one subject twice.
    """
    first, second = _by_name(before, "before"), _by_name(after, "after")
    found = [
        Difference(claim=key[0], subject=key[1], before=first.get(key), after=second.get(key))
        for key in dict.fromkeys((*first, *second))
    ]
    return tuple(sorted(found, key=lambda item: item.change))


def headline(differences: Sequence[Difference]) -> str:
    """The comparison in one sentence."""
    count = {
        "regression": sum(item.change.is_regression for item in differences),
        "improvement": sum(item.change is Change.BETTER for item in differences),
    }
    said = [f"{number} {word}{'s' if number != 1 else ''}" for word, number in count.items()]
    said.append(f"{sum(item.change is Change.ADDED for item in differences)} added")
    said.append(f"{sum(item.change is Change.SAME for item in differences)} the same")
    return ", ".join(said) + "."


def text(differences: Sequence[Difference], *, everything: bool = False) -> str:
    """The headline, then a line for each change, the worst first; `everything` shows what is the same as well."""
    rows = _rows(differences, everything)
    if len(rows) == 1:
        return headline(differences)
    return "\n".join([headline(differences), "", *aligned(rows)])


def markdown(differences: Sequence[Difference], *, everything: bool = False) -> str:
    """The same for a pull request."""
    rows = _rows(differences, everything)
    lines = [f"**Verdicts**: {headline(differences)}"]
    if len(rows) > 1:
        lines += ["", *markdown_table(rows)]
    return "\n".join(lines)


def _rows(differences: Sequence[Difference], everything: bool) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("change", "claim", "what", "estimate before", "estimate after")]
    for item in differences:
        if item.change is Change.SAME and not everything:
            continue
        word = "regression" if item.change.is_regression else "improvement" if item.change is Change.BETTER else ""
        name = f"{item.claim} ({item.subject})" if item.subject else item.claim
        rows.append((word or item.change.name.lower(), name, item.words, _estimate(item.before), _estimate(item.after)))
    return rows


def _by_name(verdicts: Sequence[Verdict], side: str) -> dict[tuple[str, str], Verdict]:
    named = {(verdict.claim, verdict.subject): verdict for verdict in verdicts}
    if len(named) != len(verdicts):
        keys = [(verdict.claim, verdict.subject) for verdict in verdicts]
        twice = next(key for key in keys if keys.count(key) > 1)
        what = " on ".join(part for part in twice if part)
        raise ValueError(f"`compare({side}=...)` must judge every claim once on a subject; twice: {what}.")
    return named


def _estimate(verdict: Verdict | None) -> str:
    if verdict is None or verdict.estimate is None:
        return _DASH
    low, high = (_DASH if end is None else f"{end:.3g}" for end in verdict.interval)
    return f"{verdict.estimate:.3g} [{low}, {high}]"


def _summary(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"outcome": verdict.outcome.value, "estimate": verdict.estimate, "interval": list(verdict.interval)}
