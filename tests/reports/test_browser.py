"""Pages in a real browser, on a phone, a laptop and a desktop: nothing serious for axe, nothing off the screen.

Needs Chromium and the packages playwright and axe-playwright-python (the group `browser`): skipped loudly without. With
SPIKESHRINK_SCREENSHOTS=FOLDER every page is kept as a picture (`nox -s pages`).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the page is drawn with matplotlib: install the extra `report`")
playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser: install the group `browser`")
axe = pytest.importorskip("axe_playwright_python", reason="needs axe: install the group `browser`")

from reports.build import build, build_index  # noqa: E402
from tests.reports.samples import empirical_results, theory_results  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "reports" / "published"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1024, 1440)
GRAVE = ("serious", "critical")
#: Bytes of a page.
MOST = 1_500_000
PATIENCE = 240_000  # milliseconds, for a machine that has other work


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {' '.join(str(error).split())[:120]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, write in (("theory", theory_results), ("empirical", empirical_results)):
        (folder / name).mkdir()
        write(folder / name)
    build_index(folder)
    for name in ("theory", "empirical"):
        build(folder / name)
    return {"front": folder / "index.html", **{name: folder / name / "index.html" for name in ("theory", "empirical")}}


def opened(browser, path: Path, **how):
    page = browser.new_page(viewport={"width": 1440, "height": 900}, **how)
    page.set_default_timeout(PATIENCE)
    page.goto(path.as_uri(), timeout=PATIENCE)
    return page


def examined(page, name: str) -> list[tuple[int, str, int, str]]:
    """What is serious at any width, and how far the page reaches beyond its screen."""
    page.evaluate(next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8"))
    wrong = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        for one in found:
            if one["impact"] in GRAVE:
                wrong.append((width, one["id"], len(one["nodes"]), one["nodes"][0]["html"][:200]))
        wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        if wide > 0:
            wrong.append((width, "wider than its screen", wide, ""))
        if folder := os.environ.get("SPIKESHRINK_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            height = min(6000, page.evaluate("document.scrollingElement.scrollHeight"))
            clip = {"x": 0, "y": 0, "width": width, "height": height}
            page.screenshot(path=Path(folder) / f"{name}-{width}.png", clip=clip, full_page=True)
    page.close()
    return wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["front", "theory", "empirical"])
def test_a_page_has_no_serious_finding_and_fits_every_screen(browser, pages, name, scheme):
    assert examined(opened(browser, pages[name], color_scheme=scheme), f"sample-{name}-{scheme}") == []


def test_rows_of_an_outcome_can_be_hidden_and_no_script_is_needed(browser, pages):
    page = opened(browser, pages["theory"], java_script_enabled=False)
    rows = page.locator(".overview tbody tr")
    visible = [rows.nth(place).is_visible() for place in range(rows.count())]
    assert all(visible) and len(visible) == 4
    page.locator(".show-refuted").uncheck()
    assert [rows.nth(place).is_visible() for place in range(4)] == [True, True, False, True]
    assert page.locator("button").count() == 0
    page.close()
    page = opened(browser, pages["empirical"], java_script_enabled=False)
    rows = page.locator(".matrix").first.locator("tbody tr")
    everything = rows.count()
    page.locator(".rows-refuted").check()
    shown = [rows.nth(place) for place in range(everything) if rows.nth(place).is_visible()]
    assert 0 < len(shown) < everything
    assert all(row.locator(".outcome.refuted").count() for row in shown)
    page.close()


def test_tables_are_sorted_by_a_column_either_way(browser, pages):
    page = opened(browser, pages["empirical"])
    table = page.locator(".subjects").first
    column = [head.strip() for head in table.locator("thead th").all_inner_texts()].index("estimate⇅")

    def estimates() -> list[float]:
        cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
        return [float(re.sub(r"[^0-9.-]", "", cell.replace("−", "-"))) for cell in cells]

    before = estimates()
    button = table.get_by_role("button", name="Sort by estimate")
    button.click()
    assert estimates() == sorted(before)
    button.click()
    assert estimates() == sorted(before, reverse=True)
    assert table.locator("th[aria-sort=descending]").count() == 1
    matrix = page.locator(".matrix").first
    matrix.get_by_role("button").nth(1).click()
    marks = "".join(text.strip()[:1] for text in matrix.locator("tbody tr > :nth-child(2)").all_inner_texts())
    assert marks == "".join(sorted(marks, key="✗?✓–".index)) and len(set(marks)) > 1
    page.close()


def test_the_contents_lead_to_every_section_and_every_section_leads_back(browser, pages):
    page = opened(browser, pages["theory"])
    sections = page.locator("section.claim").count()
    assert page.locator("nav.contents li").count() == sections + 2
    assert page.locator("section.claim .back a[href='#verdicts']").count() == sections
    page.close()


def test_on_paper_everything_is_open_and_what_is_for_the_screen_is_gone(browser, pages):
    page = opened(browser, pages["empirical"])
    page.emulate_media(media="print")
    assert not page.locator("nav.contents").is_visible()
    assert all(page.locator("section details > :not(summary)").nth(n).is_visible() for n in range(3))
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page[^s]", pdf)) >= 1
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *sorted(path.parent.name for path in PUBLISHED.glob("*/verdicts.json"))])
def test_what_is_published_has_no_serious_finding_and_is_small(browser, name, tmp_path_factory):
    path = _published(tmp_path_factory) / name / "index.html"
    assert path.stat().st_size <= MOST
    assert examined(opened(browser, path), f"published-{name or 'front'}") == []


def _published(factory, kept: list[Path] = []) -> Path:  # noqa: B006 - built once
    if not kept:
        folder = factory.mktemp("published")
        for path in PUBLISHED.glob("*/verdicts.json"):
            shutil.copytree(path.parent, folder / path.parent.name)
        build_index(folder)
        for path in folder.glob("*/verdicts.json"):
            build(path.parent)
        kept.append(folder)
    return kept[0]
