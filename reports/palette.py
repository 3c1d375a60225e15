"""One look for all figures: colors, markers, dashes, and who gets which.

What is predicted is a line, what is measured is points with intervals, both in the color of what they are of; a lone
prediction is in ink. The palette is Okabe and Ito's (2008), told apart without color vision, and markers and dashes
repeat what color says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from theory.judge.figure import Figure, Series

#: Name of a CSS variable to the color of the light page, which is also that of the file on its own.
COLORS = {
    "ink": "#1c1c1c",
    "faint": "#6f6f6f",
    "grid": "#e3e3e3",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#b3588f",
    "orange": "#c98500",
    "sky": "#4a9fd0",
    "empty": "#d4d4d4",
    "ground": "#ffffff",
}
WHITE = "#fffffe"  # stays white on a dark page
_CYCLE = ("blue", "vermilion", "green", "purple", "orange", "sky", "faint")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ((4.0, 2.0), (1.2, 1.6), (6.0, 1.6, 1.2, 1.6))
#: Words that say how a number was had, not what it is of: series that differ in them alone share a color.
_ROLES = re.compile(
    r"\b(predict(ed|ion|ions)?|clos(ed)?[ -]form|exact|theory|simulat(ed|ion|ions)?|measur(ed|ement|ements)?|"
    r"monte[ -]carlo|observed|interval|band)\b|\([A-Z][0-9]\)|[0-9.]+ ?%",
    re.IGNORECASE,
)
_RANK = {"points": 0, "line": 1, "dashed": 2, "band": 3}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one series is drawn."""

    color: str
    marker: str
    dashes: tuple[float, ...] | None
    style: str
    bars: bool


def looks_of(figures: Iterable[Figure]) -> dict[str, Look]:
    """Label to look, the same in every panel of a grid."""
    labelled = {series.label: series for figure in figures for series in figure.series}
    if (crossed := _crossed(labelled)) is not None:
        return _looks_crossed(labelled, crossed)
    keys = {label: " ".join(_ROLES.sub(" ", label).split()).strip(" ,;:()") for label in labelled}
    for label, series in labelled.items():
        rivals = [other for other, key in keys.items() if key == keys[label] and labelled[other].style == series.style]
        if len(rivals) > 1:
            keys.update({other: other for other in rivals})  # two lines of one color could not be told apart
    lines = [label for label, series in labelled.items() if series.style == "line"]
    measured = {keys[label] for label, series in labelled.items() if series.style == "points"}
    lone_line = lines[0] if len(lines) == 1 and (len(measured) == 1 or (measured and not keys[lines[0]])) else None
    subjects: dict[str, int] = {}
    dashed = 0
    looks: dict[str, Look] = {}
    # What is measured takes the first colors, whatever the order of the series.
    for label in sorted(labelled, key=lambda name: _RANK[labelled[name].style]):
        color, dashes, index = "ink", None, 0
        if label != lone_line:
            key = keys[label] if lone_line is None or keys[label] != keys[lone_line] else label
            index = subjects.setdefault(key, len(subjects)) % len(_CYCLE)
            color = _CYCLE[index]
        if labelled[label].style == "dashed":
            dashes, dashed = _DASHES[dashed % len(_DASHES)], dashed + 1
        looks[label] = Look(
            color=COLORS[color],
            marker=_MARKERS[index],
            dashes=dashes,
            style=labelled[label].style,
            bars=labelled[label].low is not None,
        )
    return {label: looks[label] for label in labelled}


def legend_of(figures: Iterable[Figure]) -> dict[str, Look]:
    """What the legend lists: the labels; where they are subjects times roles, first the subjects, then the roles."""
    figures = tuple(figures)
    labelled = {series.label: series for figure in figures for series in figure.series}
    looks = looks_of(figures)
    crossed = _crossed(labelled)
    if crossed is None:
        return looks
    entries: dict[str, Look] = {}
    for label, (subject, _) in crossed.items():
        entries.setdefault(subject, replace(looks[label], style="subject", dashes=None, bars=False))
    for label, (_, role) in crossed.items():
        entries.setdefault(role, replace(looks[label], color=COLORS["ink"], marker=_MARKERS[0]))
    return entries


def _crossed(labelled: Mapping[str, Series]) -> dict[str, tuple[str, str]] | None:
    """Label to (subject, role) where every label is "subject, role" and the roles of a subject differ in style.

    Several subjects and several roles, or the plain list is shorter.
    """
    pairs = {}
    for label in labelled:
        subject, comma, role = label.rpartition(", ")
        if not comma:
            return None
        pairs[label] = (subject, role)
    subjects, roles = {pair[0] for pair in pairs.values()}, {pair[1] for pair in pairs.values()}
    style_of_role = {(role, labelled[label].style) for label, (_, role) in pairs.items()}
    style_of_subject = {(subject, labelled[label].style) for label, (subject, _) in pairs.items()}
    told_apart = len(style_of_subject) == len(pairs) and len(style_of_role) == len(roles)
    if not told_apart or min(len(subjects), len(roles)) < 2 or len(subjects) > len(_CYCLE) or subjects & roles:
        return None
    return pairs


def _looks_crossed(labelled: Mapping[str, Series], crossed: Mapping[str, tuple[str, str]]) -> dict[str, Look]:
    """Color and marker by subject, style by role."""
    subjects = list(dict.fromkeys(subject for subject, _ in crossed.values()))
    looks = {}
    for label, series in labelled.items():
        index = subjects.index(crossed[label][0])
        looks[label] = Look(
            color=COLORS[_CYCLE[index]],
            marker=_MARKERS[index],
            dashes=_DASHES[0] if series.style == "dashed" else None,
            style=series.style,
            bars=series.low is not None,
        )
    return looks
