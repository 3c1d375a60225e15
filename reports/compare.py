"""Two folders of results, verdict by verdict: what came out differently, what moved, what is new or gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.formatting import DASH, estimate_with_interval
from theory.judge.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One claim, on one subject, in both folders.

    Args:
        claim: the claim's name.
        subject: what it was judged on, where there are several.
        before: its verdict in the first folder, if there.
        after: its verdict in the second folder, if there.
        decoys: names of the decoys whose outcome differs, or that only one folder has.
        moved: whether the two intervals have no point in common.
    """

    claim: str
    subject: str
    before: Verdict | None
    after: Verdict | None
    decoys: tuple[str, ...]
    moved: bool

    @property
    def same_outcome(self) -> bool:
        """Whether claim and decoys came out alike in both folders."""
        if self.before is None or self.after is None:
            return False
        return self.before.outcome is self.after.outcome and not self.decoys

    @property
    def change(self) -> str:
        """What changed, in words."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        found = []
        if self.before.outcome is not self.after.outcome:
            found.append("outcome changed")
        if self.decoys:
            found.append(f"decoy changed: {', '.join(self.decoys)}")
        if self.moved:
            found.append("estimate moved beyond the intervals")
        return "; ".join(found) or "same"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "claim": self.claim,
            "subject": self.subject,
            "change": self.change,
            "same_outcome": self.same_outcome,
            "moved": self.moved,
            "decoys": list(self.decoys),
            "before": _summary(self.before),
            "after": _summary(self.after),
        }


def compare(before: Sequence[Verdict], after: Sequence[Verdict]) -> tuple[Difference, ...]:
    """Every claim and subject of either folder, in the order of the first, then of the second.

    Raises:
        ValueError: if a folder judges one claim on one subject twice.
    """
    first, second = _by_name(before, "A"), _by_name(after, "B")
    differences = []
    for key in dict.fromkeys((*first, *second)):
        old, new = first.get(key), second.get(key)
        decoys: tuple[str, ...] = ()
        moved = False
        if old is not None and new is not None:
            outcomes = [{decoy.name: decoy.outcome for decoy in verdict.decoys} for verdict in (old, new)]
            names = dict.fromkeys((*outcomes[0], *outcomes[1]))
            decoys = tuple(name for name in names if outcomes[0].get(name) is not outcomes[1].get(name))
            moved = _apart(old.interval, new.interval)
        differences.append(Difference(claim=key[0], subject=key[1], before=old, after=new, decoys=decoys, moved=moved))
    return tuple(differences)


def table(differences: Sequence[Difference]) -> str:
    """The comparison as text in columns."""
    rows: list[tuple[str, ...]] = [("claim", "A", "B", "estimate in A", "estimate in B", "change")]
    for item in differences:
        name = f"{item.claim} ({item.subject})" if item.subject else item.claim
        outcomes = [DASH if verdict is None else verdict.outcome.value for verdict in (item.before, item.after)]
        rows.append((name, *outcomes, _estimate(item.before), _estimate(item.after), item.change))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _by_name(verdicts: Sequence[Verdict], folder: str) -> dict[tuple[str, str], Verdict]:
    named = {(verdict.claim, verdict.subject): verdict for verdict in verdicts}
    if len(named) != len(verdicts):
        keys = [(verdict.claim, verdict.subject) for verdict in verdicts]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"`compare({folder})` must judge every claim once on a subject; twice: {' on '.join(twice)}.")
    return named


def _apart(first: tuple[float | None, float | None], second: tuple[float | None, float | None]) -> bool:
    """Whether two intervals are disjoint; an end that is None is open."""

    def below(one: tuple[float | None, float | None], other: tuple[float | None, float | None]) -> bool:
        return one[1] is not None and other[0] is not None and one[1] < other[0]

    return below(first, second) or below(second, first)


def _estimate(verdict: Verdict | None) -> str:
    if verdict is None:
        return DASH
    return " ".join(estimate_with_interval(verdict.estimate, verdict.interval))


def _summary(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"outcome": verdict.outcome.value, "estimate": verdict.estimate, "interval": list(verdict.interval)}
