"""Who gets which color, marker and dash: by role and subject, never by what a label says.

Several subjects have a color and a marker each, and their roles differ in style: what is measured is points, what is
predicted a line, a decoy dashed. With one subject the color too is the role's. The palette is Okabe and Ito's (2008),
told apart without color vision; markers and dashes repeat what color says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from reports.palette import COLORS
from theory.judge.results import Band, Curve, Estimate, Role

Entry: TypeAlias = Curve | Estimate

#: Subjects that a chart can tell apart; one with more is drawn as small multiples.
MOST = 6
#: Subjects that have the same color on every page.
STANDING = {"AT": "blue", "AWP": "vermilion", "standard": "green", "test": "orange", "train": "sky"}
#: Of all other subjects; the colors of methods, which are those of measurement and decoy too, come last.
_CYCLE = ("purple", "green", "orange", "sky", "blue", "vermilion")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_OF_ROLE = {
    Role.MEASURED: ("blue", "sky", "green", "purple"),
    Role.PREDICTED: ("ink", "green", "purple", "sky"),
    Role.DECOY: ("vermilion", "orange", "purple", "faint"),
    Role.BOUND: ("purple", "green"),
    Role.MARGIN: ("faint",),
    Role.REFERENCE: ("faint",),
}
_DASHES: dict[Role, tuple[tuple[float, ...] | None, ...]] = {
    Role.MEASURED: (None, (5.0, 1.5)),
    Role.PREDICTED: (None, (6.0, 1.6, 1.2, 1.6), (9.0, 2.0)),
    Role.DECOY: ((4.0, 2.0), (1.2, 1.6), (6.0, 1.6, 1.2, 1.6)),
    Role.BOUND: ((8.0, 2.0), (8.0, 2.0, 1.2, 2.0)),
    Role.MARGIN: ((1.2, 1.6),),
    Role.REFERENCE: (None, (1.2, 1.6)),
}
#: Roles that stand beside the subjects and belong to none.
_LEVELS = (Role.MARGIN, Role.REFERENCE)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one curve is drawn, or one line of the legend."""

    color: str
    marker: str
    dashes: tuple[float, ...] | None
    role: Role | None  # None: stands for a subject, whatever the role
    band: Band | None = None
    shaded: bool = False  # whether the band is an area and not a bar at each point


class Looks:
    """The looks of all curves, or estimates, of a chart or of a family of panels.

    Attributes:
        subjects: those that are told apart, in the order in which they occur.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)
        self.subjects = subjects_of(self._entries)
        self._kinds = list(dict.fromkeys((entry.role, entry.by) for entry in self._entries))
        taken = {STANDING[name] for name in self.subjects if name in STANDING}
        free = [color for color in _CYCLE if color not in taken]
        others = [name for name in self.subjects if name not in STANDING]
        self._colors = {name: STANDING[name] for name in self.subjects if name in STANDING}
        self._colors.update({name: free[place % len(free)] for place, name in enumerate(others)})

    def of(self, entry: Entry) -> Look:
        """The look of one entry."""
        place = self._place(entry)
        colors, dashes = _OF_ROLE[entry.role], _DASHES[entry.role]
        color, marker = colors[place % len(colors)], _MARKERS[place % len(_MARKERS)]
        if entry.subject in self._colors and entry.role not in _LEVELS:
            if len(self.subjects) > 1 or (entry.subject in STANDING and entry.role is Role.MEASURED):
                color = self._colors[entry.subject]
            marker = _MARKERS[self.subjects.index(entry.subject) % len(_MARKERS)] if len(self.subjects) > 1 else marker
        return Look(
            color=COLORS[color],
            marker=marker,
            dashes=dashes[place % len(dashes)],
            role=entry.role,
            band=entry.band,
            shaded=entry.band is not None
            and (not entry.band.is_error or bool(isinstance(entry, Curve) and entry.over)),
        )

    def _place(self, entry: Entry) -> int:
        return [by for role, by in self._kinds if role is entry.role].index(entry.by)

    def legend(self) -> list[tuple[str, Look]]:
        """First the subjects, where there are several; then how numbers were had, and what their bands are."""
        several = len(self.subjects) > 1
        lines: list[tuple[str, Look]] = []
        for subject in self.subjects if several else ():
            first = self.of(next(entry for entry in self._entries if entry.subject == subject))
            lines.append((subject, Look(color=first.color, marker=first.marker, dashes=None, role=None)))
        kinds: dict[tuple[Role, str], Entry] = {}
        for entry in self._entries:
            known = kinds.get((entry.role, entry.by))
            if known is None or (known.band is None and entry.band is not None):
                kinds[entry.role, entry.by] = entry
        for entry in kinds.values():
            look = self.of(entry)
            if several and entry.role not in _LEVELS:
                look = replace(look, color=COLORS["ink"], marker=_MARKERS[self._place(entry) % len(_MARKERS)])
            lines.append((words_of(entry), look))
        plain = len(kinds) == 1 and next(iter(kinds.values())).band is None and not next(iter(kinds))[1]
        # One way of being had needs no word: the axis says what it is.
        lines = lines[:-1] if plain else lines
        return lines if len(lines) > 1 or not plain else []


def subjects_of(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Subjects that are told apart, in the order in which they occur."""
    return tuple(dict.fromkeys(one.subject for one in entries if one.subject and one.role not in _LEVELS))


def words_of(entry: Entry) -> str:
    """How an entry's numbers were had, and what its band is: ``measured (95 % interval)``."""
    if entry.role in _LEVELS:
        words = entry.by or entry.subject or entry.role.value
    else:
        words = f"{entry.role.value}: {entry.by}" if entry.by else entry.role.value
    if entry.band is None:
        return words
    over = f" over {entry.over}" if isinstance(entry, Curve) and entry.over else ""
    return f"{words} ({entry.band.value}{over})"
