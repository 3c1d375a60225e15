"""A drawing as SVG: a file of its own, or an element of a page that has many.

Twenty figures on a page would hold the outline of the letter e twenty times, give ids away twice, and stay white on a
dark page. `Drawing.inline` shares the outlines of letters over the page, makes ids unique and colors variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape

from reports.palette import COLORS


@dataclass(frozen=True)
class Sheet:
    """What all drawings of a page share: outlines of letters, words set from them, looks of lines, by short names."""

    letters: dict[str, str] = field(default_factory=dict)  # outline to name
    words: dict[str, str] = field(default_factory=dict)  # letters in their places to name
    looks: dict[str, str] = field(default_factory=dict)  # declarations to name

    def letter(self, outline: str) -> str:
        """The name of an outline."""
        return self.letters.setdefault(outline, f"g{len(self.letters):x}")

    def word(self, letters: str) -> str:
        """The name of a word: letters that stand beside each other."""
        return self.words.setdefault(letters, f"w{len(self.words):x}")

    def look(self, declarations: str) -> str:
        """The name of a look."""
        return self.looks.setdefault(declarations, f"s{len(self.looks):x}")

    def element(self) -> str:
        """The hidden element that holds the letters, and the style of the looks."""
        paths = "".join(f'<path id="{name}" {outline}/>' for outline, name in self.letters.items())
        words = "".join(f'<g id="{name}">{letters}</g>' for letters, name in self.words.items())
        rules = "".join(f".{name}{{{declarations}}}" for declarations, name in self.looks.items())
        return (
            f'<svg class="outlines" width="0" height="0" aria-hidden="true"><style>{rules}</style>'
            f"<defs>{paths}{words}</defs></svg>"
        )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure as SVG.

    Args:
        svg: the complete file, opaque white behind, as matplotlib wrote it.
        description: what it shows, in words, for those who don't see it.
        width: natural width in CSS pixels.
        height: natural height in CSS pixels.
    """

    svg: str
    description: str
    width: float
    height: float

    def inline(self, identifier: str, sheet: Sheet) -> str:
        """The ``<svg>`` element for a page, its ids opening with `identifier`.

        Args:
            identifier: unique on the page.
            sheet: the page's; letters and looks met here are added.
        """
        body = self.svg[self.svg.index("<svg") : self.svg.rindex("</svg>")]
        body = body[body.index(">") + 1 :]
        for element in ("metadata", "title", "style"):
            body = re.sub(rf"<{element}[^>]*>.*?</{element}>\s*", "", body, flags=re.DOTALL)
        body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
        body = re.sub(r'<g id="patch_1">.*?</g>\s*', "", body, count=1, flags=re.DOTALL)  # the white ground
        letters: dict[str, str] = {}

        def collect(match: re.Match[str]) -> str:
            attributes = re.sub(r'd="([^"]*)"', _outline, " ".join(match.group(2).split()))
            letters[match.group(1)] = sheet.letter(attributes)  # matplotlib numbers letters drawing by drawing
            return ""

        body = re.sub(r'<path id="([A-Za-z]+-[0-9a-f]+)"((?:\s[^>]*)?)/>\s*', collect, body)
        body = re.sub(r"<defs>\s*</defs>\s*", "", body)
        names: dict[str, str] = {}

        def own(name: str) -> str:
            return f"{identifier}-{names.setdefault(name, f'{len(names):x}')}"

        used = set(re.findall(r'(?:xlink:href="|url\()#([\w.-]+)', body))

        def rename(match: re.Match[str]) -> str:
            return f' id="{own(match.group(1))}"' if match.group(1) in used else ""

        def refer(match: re.Match[str]) -> str:
            name = match.group(2)
            return f"{match.group(1)}#{letters.get(name) or own(name)}"

        body = re.sub(r'\sid="([\w.-]+)"', rename, body)
        body = re.sub(r'(xlink:href="|url\()#([\w.-]+)', refer, body).replace("xlink:href", "href")
        for name, color in COLORS.items():
            body = body.replace(f": {color}", f": var(--{name})")
        body = re.sub(r'style="([^"]*)"', lambda match: f'class="{sheet.look(match.group(1))}"', body)
        clip = re.compile(r' clip-path="(url\([^)]*\))"(?: class="(\w+)")?')
        body = clip.sub(lambda match: _clipped(match, sheet), body)
        label = f"{identifier}-alt"
        return (
            f'<svg role="img" aria-labelledby="{label}" viewBox="0 0 {self.width * 0.75:g} {self.height * 0.75:g}" '
            f'width="{self.width:g}" height="{self.height:g}">'
            f'<title id="{label}">{escape(self.description, quote=False)}</title>'
            f"{_shared_words(_compact(body), sheet)}</svg>"
        )


def _clipped(match: re.Match[str], sheet: Sheet) -> str:
    look = sheet.look(f"clip-path: {match.group(1)}")
    return f' class="{match.group(2)} {look}"' if match.group(2) else f' class="{look}"'


def _compact(body: str) -> str:
    """A tenth of a point, a hundredth of a scale: less than a screen shows; no space that says nothing."""

    def rounded(match: re.Match[str]) -> str:
        name, words = match.group(1), " ".join(match.group(2).split())
        words = re.sub(r"-?[0-9]+[.][0-9]+", _scale if name == "transform" else _place, words)
        return f'{name}="{_short(words) if name == "d" else words}"'

    return re.sub(r">\s+<", "><", re.sub(r'\b(d|x|y|transform)="([^"]*)"', rounded, body)).strip()


def _outline(match: re.Match[str]) -> str:
    return f'd="{_short(match.group(1))}"'


def _short(path: str) -> str:
    """A path without the spaces and repeated letters that SVG lets one leave out."""
    made, before = [], ""
    for letter, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", path):
        again = (letter == before and letter in "LCQ") or (letter, before) == ("L", "M")
        made.append(f" {numbers.strip()}" if again else f"{letter}{numbers.strip()}")
        before = letter
    return "".join(made)


_LETTER = re.compile(
    r'<use href="#(g[0-9a-f]+)"(?: transform="translate\(([-\d.]+)(?: ([-\d.]+))?\)(?: scale\(([\d.]+)\))?")?/>'
)
#: Markers of one curve: a group of the same thing in many places.
_MARKERS = re.compile(
    r'<g class="(\w+)">((?:<use href="#[\w-]+"(?: x="[-\d.]+")?(?: y="[-\d.]+")? class="(\w+)"/>)+)</g>'
)
_WORD = re.compile(rf'<g class="(\w+)" transform="([^"]*)">((?:{_LETTER.pattern})+)</g>')
_GROUP = re.compile(r"<g(?: [^>]*)?>|</g>")


def _shared_words(body: str, sheet: Sheet) -> str:
    """Each word once a page, its letters placed in whole units of the font, and no group that groups nothing."""

    def placed(match: re.Match[str]) -> str:
        at = round(float(match.group(2) or 0))
        if match.group(4):  # an exponent, or an index
            above = round(float(match.group(3) or 0))
            return f'<use href="#{match.group(1)}" transform="translate({at} {above})scale({match.group(4)})"/>'
        place = f' x="{at}"' if at else ""
        return f'<use href="#{match.group(1)}"{place}/>'

    def named(match: re.Match[str]) -> str:
        name = sheet.word(_LETTER.sub(placed, match.group(3)))
        return f'<use href="#{name}" class="{match.group(1)}" transform="{match.group(2)}"/>'

    def gathered(match: re.Match[str]) -> str:
        look = f' class="{match.group(3)}"'
        if match.group(2).count(look) < match.group(2).count(" class="):
            return match.group()  # markers of several looks
        return f'<g class="{match.group(1)} {match.group(3)}">{match.group(2).replace(look, "")}</g>'

    open_groups: list[bool] = []

    def grouped(match: re.Match[str]) -> str:
        tag = match.group()
        if tag == "</g>":
            return tag if open_groups.pop() else ""
        open_groups.append(tag != "<g>")
        return tag if tag != "<g>" else ""

    return _GROUP.sub(grouped, _MARKERS.sub(gathered, _WORD.sub(named, body)))


def _place(match: re.Match[str]) -> str:
    return _rounded(match.group(), 1)


def _scale(match: re.Match[str]) -> str:
    return _rounded(match.group(), 2)


def _rounded(number: str, decimals: int) -> str:
    return f"{float(number):.{decimals}f}".rstrip("0").rstrip(".")
