"""A drawing as SVG: a file of its own, or an element of a page that has many.

Twenty figures on a page would hold the outline of the letter e twenty times, give ids away twice, and stay white on a
dark page. `Drawing.inline` shares the outlines of letters over the page, makes ids unique and colors variable.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from html import escape

from reports.palette import COLORS


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

    def inline(self, identifier: str, outlines: dict[str, str]) -> str:
        """The ``<svg>`` element for a page, its ids opening with `identifier`.

        Args:
            identifier: unique on the page.
            outlines: letter id to its path; letters met here are added, and drawn from there (`outline_sheet`).
        """
        body = self.svg[self.svg.index("<svg") : self.svg.rindex("</svg>")]
        body = body[body.index(">") + 1 :]
        for element in ("metadata", "title", "style"):
            body = re.sub(rf"<{element}[^>]*>.*?</{element}>\s*", "", body, flags=re.DOTALL)
        body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
        body = re.sub(r'<g id="patch_1">.*?</g>\s*', "", body, count=1, flags=re.DOTALL)  # the white ground
        letters: dict[str, str] = {}

        def collect(match: re.Match[str]) -> str:
            attributes = " ".join(match.group(2).split())
            # Named by content: matplotlib numbers letters drawing by drawing.
            shared = "g" + hashlib.sha256(attributes.encode()).hexdigest()[:10]
            outlines[shared] = attributes
            letters[match.group(1)] = shared
            return ""

        body = re.sub(r'<path id="([A-Za-z]+-[0-9a-f]+)"((?:\s[^>]*)?)/>\s*', collect, body)
        body = re.sub(r"<defs>\s*</defs>\s*", "", body)
        used = set(re.findall(r'(?:xlink:href="|url\()#([\w.-]+)', body))

        def rename(match: re.Match[str]) -> str:
            return f' id="{identifier}-{match.group(1)}"' if match.group(1) in used else ""

        def refer(match: re.Match[str]) -> str:
            name = match.group(2)
            return f"{match.group(1)}#{letters.get(name, f'{identifier}-{name}')}"

        body = re.sub(r'\sid="([\w.-]+)"', rename, body)
        body = re.sub(r'(xlink:href="|url\()#([\w.-]+)', refer, body).replace("xlink:href", "href")
        for name, color in COLORS.items():
            body = body.replace(f": {color}", f": var(--{name})")
        label = f"{identifier}-alt"
        return (
            f'<svg role="img" aria-labelledby="{label}" viewBox="0 0 {self.width * 0.75:g} {self.height * 0.75:g}" '
            f'width="{self.width:g}" height="{self.height:g}">'
            f'<title id="{label}">{escape(self.description, quote=False)}</title>{_compact(body)}</svg>'
        )


def outline_sheet(outlines: dict[str, str]) -> str:
    """The hidden element that holds the letters of all inline drawings of a page."""
    paths = "".join(f'<path id="{name}" {attributes}/>' for name, attributes in sorted(outlines.items()))
    return f'<svg class="outlines" width="0" height="0" aria-hidden="true"><defs>{paths}</defs></svg>'


def _compact(body: str) -> str:
    """Two decimals of a point, a tenth of what a screen shows, and no space that says nothing."""

    def rounded(match: re.Match[str]) -> str:
        return f'{match.group(1)}="{re.sub(r"-?[0-9]+[.][0-9]+", _two_decimals, " ".join(match.group(2).split()))}"'

    return re.sub(r">\s+<", "><", re.sub(r'\b(d|x|y)="([^"]*)"', rounded, body)).strip()


def _two_decimals(match: re.Match[str]) -> str:
    return f"{float(match.group()):.2f}".rstrip("0").rstrip(".")
