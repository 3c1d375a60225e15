"""The page is well-formed, whole in itself, accessible, and the same for the same results."""

import base64
import dataclasses
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

pytest.importorskip("matplotlib", reason="the page is drawn with matplotlib: install the extra `report`")

from reports.__main__ import main
from reports.front import front_page
from reports.html import _matrices
from reports.outline import matrices, sections
from reports.palette import COLORS
from tests.reports.samples import empirical_results, theory_results, verdict
from tests.theory.judge.test_results import RESULTS
from theory.judge.results import EXACT, Axis, Band, Chart, Curve, HeatMap, Profile, Role, Table
from theory.judge.verdict import About, Kind, Outcome, read_verdicts, write_verdicts

ROOT = Path(__file__).resolve().parents[2]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Checker(HTMLParser):
    """Collects what is wrong with a page, and what the tests ask of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.wrong.extend(f"<{tag}> is never closed" for tag in self.open)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        twice = [name for name, many in Counter(name for name, _ in attrs).items() if many > 1]
        self.wrong.extend(f"<{tag}> has {name} twice" for name in twice)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1:]} at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of each sort, built once."""
    folders = {}
    for name, write in (("theory", theory_results), ("empirical", empirical_results)):
        folder = tmp_path_factory.mktemp(name)
        verdicts = write(folder)
        assert main(["build", str(folder), "--figures"]) == 0
        folders[name] = (folder, verdicts)
    return folders


@pytest.fixture(params=["theory", "empirical"])
def built(request, results):
    return results[request.param]


def test_tags_balance_and_ids_are_unique_and_every_reference_resolves(built):
    folder, _ = built
    page = Checker((folder / "index.html").read_text(encoding="utf-8"))
    assert page.wrong == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, many in ids.items() if many > 1] == []
    targets = [attributes["href"] for _, attributes in page.elements if attributes.get("href")]
    labels = [name for _, attributes in page.elements for name in (attributes.get("aria-labelledby") or "").split()]
    clips = re.findall(r"url\(#([^)]+)\)", (folder / "index.html").read_text(encoding="utf-8"))
    assert targets and clips
    others = {target for target in targets if not target.startswith(("#", "data:"))}
    assert others and all((folder / target).is_file() for target in others)
    named = [target[1:] for target in targets if target.startswith("#")]
    assert {name for name in (*named, *labels, *clips) if name not in ids} == set()


def test_nothing_is_fetched_or_run(built):
    folder, _ = built
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Checker(text)
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "embed", "img")]
    scripts = re.findall(r"<script>\n(.*?)</script>", text, flags=re.DOTALL)
    assert len(page.all("script")) == len(scripts) == 1 and page.all("script") == [{}]
    assert scripts[0] == (ROOT / "reports" / "sort.js").read_text(encoding="utf-8")
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|document\.write|localStorage|cookie", scripts[0])
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert re.findall(r"(?:https?:)?//[\w.]", re.sub(r"<(code|p|td|dd)[^>]*>[^<]*", "", text)) == []
    assert "@import" not in text
    assert all(image["href"].startswith("data:image/png;base64,") for image in page.all("image"))


def test_each_verdict_has_a_row_that_links_to_its_section_and_says_its_outcome_in_words(results):
    folder, verdicts = results["theory"]
    text = (folder / "index.html").read_text(encoding="utf-8")
    for item in verdicts:
        row = re.search(rf'<tr[^>]*><th scope="row"><a href="#{item.claim}">.*?</tr>', text)
        assert row is not None, item.claim
        assert item.outcome.value in re.sub("<[^>]*>", " ", row.group())
        for name in (item.outcome.value, *(decoy.name for decoy in item.decoys)):
            assert name in row.group()
        section = text[text.index(f'<h2 id="{item.claim}">') :]
        assert item.statement.replace("'", "&#x27;") in section[: section.index("</section>")]
    assert text.index("<math") < text.index('<table class="overview"' if 'class="overview"' in text else "<table")
    assert "1\u202f310\u202f000" in text and "1\u202f280\u202f000" in text


def test_tables_name_their_columns_and_figures_are_described(built):
    folder, verdicts = built
    page = Checker((folder / "index.html").read_text(encoding="utf-8"))
    assert page.all("th") and all(head.get("scope") in ("col", "row") for head in page.all("th"))
    text = (folder / "index.html").read_text(encoding="utf-8")
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        assert "<caption>" in table or "aria-label=" in table[:200]
        widths = {len(re.findall("<t[hd]", row)) for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)}
        assert len(widths) == 1
    drawings = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert drawings and all(svg.get("aria-labelledby") for svg in drawings)
    described = re.findall(r"<title id=[^>]*>([^<]+)</title>", text)
    assert len(described) == len(drawings)
    assert all(len(title) > 60 for title in described)
    assert any(item.results for item in verdicts)


def test_the_same_results_give_the_same_bytes(built):
    folder, _ = built
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["build", str(folder), "--figures"]) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_by_column_table_holds_every_run_and_small_multiples_every_figure(results):
    folder, verdicts = results["empirical"]
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Checker(text)
    matrices = re.findall(r"<table class=\"?matrix.*?</table>", text, flags=re.DOTALL)
    shown = "".join(matrices)
    for item in verdicts:
        assert f'<th scope="row">{item.subject}</th>' in shown
    assert len([svg for svg in page.all("svg") if svg.get("role") == "img"]) == 1
    assert len(list((folder / "figures").iterdir())) == 1
    runs = [item for item in verdicts if item.results]
    assert f"{len(runs)} panels" in text
    assert f"refuted in {len(runs)} of {len(runs)}" in text[: text.index('<table class="matrix')]


def test_parts_of_a_subject_share_its_row(tmp_path):
    base = theory_results(tmp_path)[0]
    cases = (("overfits", None, Outcome.SUPPORTED), ("dips", 1, Outcome.REFUTED), ("dips", 2, Outcome.INCONCLUSIVE))
    write_verdicts(
        [dataclasses.replace(base, claim=c, about=About(name="run A", decay=d), outcome=o) for c, d, o in cases],
        tmp_path,
    )
    assert main(["build", str(tmp_path)]) == 0
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    matrix = re.search(r"<table class=\"?matrix.*?</table>", text, flags=re.DOTALL)
    assert matrix is not None
    row = re.sub("<[^>]*>", " ", matrix.group()).split("run A")
    assert len(row) == 2
    assert row[1].split() == "✓ supported ✗ refuted decay 1 ? inconclusive decay 2".split()


def test_runs_are_named_by_what_varies_and_never_by_a_hash_alone():
    def on(name: str, seed: int, claim: str = "curvature-spike"):
        return verdict(claim, (), about=About(name=name, runs=(name,), methods=("at",), seeds=(seed,)))

    def names(*names_and_seeds: tuple[str, int]) -> list[str]:
        some = [on(*each, claim=claim) for claim in ("a", "b") for each in names_and_seeds]
        return [name for matrix in matrices(sections(some)) for name, _ in matrix.rows]

    assert names(("at-seed0-02d3acc2", 0), ("at-seed1-7295aa78", 1)) == ["AT, seed 0", "AT, seed 1"]
    assert names(("at-02d3acc2", 0), ("at-7295aa78", 0)) == ["at-02d3acc2", "at-7295aa78"]
    assert names(("of my own", 0)) == ["of my own"]
    assert names(("at-seed6-c4c57f27 | awp-seed6-bd9a3601", 6)) == ["AT | AWP, seed 6"]
    assert names(("at-seed6-c4c57f27 | awp-seed7-bd9a3601", 6)) == ["AT, seed 6 | AWP, seed 7"]
    assert names(("digits at (method)", 6)) == ["digits AT, all seeds"]


def test_the_run_that_another_is_held_against_is_named_like_it():
    about = About(name="awp-seed6-bd9a3601", runs=(), methods=("awp",), seeds=(6,), against="at-seed6-c4c57f27")
    (one,) = sections([verdict("awp-tightens-bound", (), about=about)])[0].verdicts
    assert one.subject == "AWP, seed 6 · against AT, seed 6"


def test_a_table_of_outcomes_has_no_more_columns_than_a_laptop_shows(tmp_path):
    def table(claims: int, subjects: int) -> list[str]:
        found = [
            verdict(f"claim-{c}", (), about=About(name=f"run {s}"), kind=Kind.HYPOTHESIS)
            for s in range(subjects)
            for c in range(claims)
        ]
        return re.findall(r"<table class=\"matrix.*?</table>", _matrices(matrices(sections(found)), Anchors()))

    def shape(text: str) -> tuple[int, int]:
        return text.split("</thead>")[0].count("<th "), text.count("<tr") - 1

    assert [shape(one) for one in table(4, 30)] == [(5, 30)]
    assert [shape(one) for one in table(30, 8)] == [(9, 30)], "claims that outnumber the runs are the rows"
    assert [shape(one) for one in table(20, 24)] == [(10, 24), (10, 24), (3, 24)]
    assert "Continued." in table(20, 24)[1]


class Anchors(dict):
    def __missing__(self, claim: str) -> str:
        return claim


def test_rows_of_wide_tables_are_cards_on_a_phone_with_their_heads_said_once(results):
    folder, _ = results["theory"]
    text = (folder / "index.html").read_text(encoding="utf-8")
    (table,) = re.findall(r'<table class="cards (h[0-9a-f]{8})"[^>]*><caption><b>Table \d+. Error by region', text)
    style = re.search(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert style is not None
    (narrow,) = re.findall(r"@media screen and \(max-width:44rem\)\{(.*)\}\n", style.group(1))
    rules = re.findall(rf'\.{table} td:nth-child\((\d)\):before\{{content:"([^"]*)"\}}', narrow)
    assert rules == [("2", "error"), ("3", "within 5 \\25 "), ("4", "remark")]
    assert "<style>" not in text[text.index("<body>") :].replace("<style>.s", ""), "style stands in the head"


def test_rows_of_the_tables_of_outcomes_are_chosen_by_outcome(results):
    folder, _ = results["empirical"]
    page = Checker((folder / "index.html").read_text(encoding="utf-8"))
    choices = [box["class"] for box in page.all("input") if box.get("type") == "radio"]
    assert choices == ["all", "rows-supported", "rows-refuted", "rows-not-applicable"]
    style = (ROOT / "reports" / "style.css").read_text(encoding="utf-8")
    for name in ("supported", "refuted", "inconclusive", "not-applicable"):
        assert f".rows-{name}:checked) .matrix tbody tr:not(:has(.outcome.{name}))" in style


def test_each_figure_file_is_a_whole_svg_of_its_own(built):
    folder, _ = built
    for path in (folder / "figures").iterdir():
        root = ElementTree.fromstring(path.read_bytes())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert "var(--" not in path.read_text(encoding="utf-8")


def test_a_dark_page_finds_every_color_of_the_figures(built):
    folder, _ = built
    text = (folder / "index.html").read_text(encoding="utf-8")
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    dark = text[text.index("prefers-color-scheme: dark") :]
    dark = dark[: dark.index("\n}")]
    assert {name for name in used if f"--{name}:" not in text} == set()
    assert {name for name in used & set(COLORS) if f"--{name}:" not in dark} == set()
    body = text[text.index("</style>") :]
    assert {color for name, color in COLORS.items() if f": {color}" in body} == set()


def profile(*curves: Curve, title: str = "t", axis: str = "x") -> Profile:
    return Profile(title=title, sample=EXACT, x=Axis(axis), y=Axis(axis), curves=curves)


def drawn(tmp_path, *charts: Chart) -> str:
    base = theory_results(tmp_path)[0]
    write_verdicts([dataclasses.replace(base, results=charts)], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert Checker(text).wrong == []
    return text


def test_markup_in_names_is_shown_and_not_obeyed(tmp_path):
    base = theory_results(tmp_path)[0]
    nasty = '<script>alert("x")</script> & $5 $ _a_ 模型'
    chart = profile(
        *(Curve(role=Role.MEASURED, subject=f"{nasty}{i}", by=nasty, x=(1, 2), y=(1, 2)) for i in (1, 2)),
        title=nasty,
        axis=nasty,
    )
    table = Table(title=nasty, columns=(nasty,), rows=((nasty,),), caption=nasty)
    changed = dataclasses.replace(
        base, statement=nasty, note=nasty, assumptions=(nasty,), results=(chart, table), about=About(name=nasty)
    )
    write_verdicts([changed], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    page = Checker((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.wrong == []
    assert page.all("script") == [{}], "ours alone"
    assert nasty in "".join(page.words)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("M_k = Σ_{l<k} F^t z_t", "M<sub>k</sub> = Σ<sub>l&lt;k</sub> F<sup>t</sup> z<sub>t</sub>"),
        ("σ_P² and (1 − u)^2 and x_ij.", "σ<sub>P</sub>² and (1 − u)<sup>2</sup> and x<sub>ij</sub>."),
        ("off_diagonal_mass of awp/cifar10_linf, a/b_c_d", "off_diagonal_mass of awp/cifar10_linf, a/b_c_d"),
    ],
)
def test_plain_formulas_are_set_with_their_indices(tmp_path, text, shown):
    write_verdicts([verdict("formula", (), statement=text)], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    assert f'<p class="statement">{shown}</p>' in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "y",
    [(0.0, 0.0, 0.0), (-1.0, 2.0, 3.0), (1e-300, 1e-150, 1.0), (5.0, 5.0, 5.0)],
    ids=["zero", "sign", "vast", "flat"],
)
def test_awkward_data_are_drawn_without_complaint(tmp_path, y):
    x = (0.0, 1.0, 2.0)
    ends = {"low": tuple(v - 1 for v in y), "high": tuple(v + 1 for v in y), "band": Band.INTERVAL}
    text = drawn(
        tmp_path,
        profile(Curve(role=Role.MEASURED, x=x, y=y, **ends), Curve(role=Role.PREDICTED, x=x, y=y)),
        profile(Curve(role=Role.DECOY, x=x, y=y), title="a decoy alone"),
        profile(Curve(role=Role.PREDICTED, x=(1,), y=(2,)), title="one"),
    )
    assert text.count("<figure>") == 3


def test_a_map_is_a_picture_whose_empty_cells_stay_empty(tmp_path):
    def chart(title: str, columns, cells, **more) -> HeatMap:
        return HeatMap(
            title=title, sample=EXACT, x=Axis("x"), y=Axis("y"), value=Axis("error"), columns=columns,
            rows=tuple(float(row) for row in range(len(cells))), cells=cells, **more,
        )  # fmt: skip

    many = tuple(tuple((0.1 + i + j if i != j else None) for i in range(30)) for j in range(30))
    text = drawn(
        tmp_path,
        chart("m", (1.0, 10.0, 100.0), ((0.1, None, 0.3), (0.2, 0.5, None)), contour=0.25),
        chart("e", (1.0,), ((None,),)),
        chart("many", tuple(float(i) for i in range(30)), many),
    )
    images = [image["href"] for image in Checker(text).all("image")]
    assert len(images) >= 3  # the color bars and the large map
    assert all(base64.b64decode(image.split(",", 1)[1]).startswith(b"\x89PNG") for image in images if image)
    assert "from 0.1 to 0.5, line at 0.25" in text and "nowhere known" in text


def test_long_series_do_not_swell_the_page(tmp_path):
    x = tuple(float(i) for i in range(20_000))
    y = tuple((i * 7919 % 1000) / 1000 for i in range(20_000))
    text = drawn(
        tmp_path,
        profile(Curve(role=Role.MEASURED, x=x, y=y)),
        profile(Curve(role=Role.PREDICTED, x=x, y=tuple(v * v for v in x))),
    )
    assert len(text) < 600_000


def test_a_claim_without_figures_evidence_or_decoys_still_has_its_section(tmp_path):
    write_verdicts([verdict("bare", (), decoys=(), assumptions=(), note="")], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    page = Checker((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.wrong == []
    assert {"id": "bare"} in page.all("h2")


def test_the_front_page_links_every_report_and_counts_its_verdicts(tmp_path, capsys):
    for name, write in (("theory", theory_results), ("digits-<em>", empirical_results)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    (tmp_path / "no-results").mkdir()
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "report.md").write_text("# Faults\n")
    assert main(["index", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Checker(text)
    assert page.wrong == []
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    pages = {"./digits-%3Cem%3E/index.html", "./theory/index.html", "./faults/report.md"}
    assert {link.partition("#")[0] for link in links[1:]} == pages
    assert "./theory/index.html#transient-interpolation" in links, "what was found leads to its claim"
    assert "<em>" not in text and "no-results" not in text
    verdicts = read_verdicts(tmp_path / "theory" / "verdicts.json")
    refuted = sum(verdict.outcome is Outcome.REFUTED for verdict in verdicts)
    assert f"{refuted} refuted" in text


def test_claims_that_the_answer_names_are_links_and_other_quoted_words_code(tmp_path, monkeypatch):
    monkeypatch.setattr("reports.front.in_short", lambda results: "see `decay-size`, by `nox -s theory`")
    text = front_page({"a b": theory_results(tmp_path)})
    assert 'see <a href="./a%20b/index.html#decay-size">decay-size</a>, by <code>nox -s theory</code>' in text


def test_the_front_page_quotes_every_folder_name(tmp_path):
    names = ["javascript:alert(1)", 'a"onclick="b', "data:,x", "a b?c#d&e%2f", "ü", os.fsdecode(b"\xff"), "..a"]
    for name in names:
        (tmp_path / name).mkdir()
        theory_results(tmp_path / name)
    assert main(["index", str(tmp_path)]) == 0
    page = Checker((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.wrong == []
    anchors = [attributes for tag, attributes in page.elements if tag == "a"]
    claims = {one.claim for one in read_verdicts(tmp_path / "..a" / "verdicts.json")}
    found = set()
    for attributes in anchors[1:]:  # the first leads to the answer
        assert set(attributes) == {"href"}
        parts = urlsplit(attributes["href"])
        assert (parts.scheme, parts.netloc, parts.query) == ("", "", "") and parts.fragment in {"", *claims}
        place = Path(os.fsdecode(unquote_to_bytes(parts.path)))
        assert (tmp_path / place.parent).is_dir(), "the link leads to the folder"
        found.add(place.parent.name)
    assert found == set(names)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_front_page_of_nothing_is_refused(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert main(["index", str(tmp_path / name)]) == 2
    assert "`build_index(folder=...)` must" in capsys.readouterr().err
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_claim_meant_to_be_refuted_shows_the_boundary_it_found(tmp_path):
    beyond = verdict("law-outside", (), boundary="η₂λ ≤ 0.0002", outcome=Outcome.REFUTED)
    write_verdicts([verdict("law", ()), beyond], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    for name in ("index.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count("boundary: holds up to η₂λ ≤ 0.0002") == 2, name  # in the overview and in its section
        assert "1 claim" not in text and "1 supported, 1 boundary confirmed" in text
    write_verdicts([dataclasses.replace(beyond, outcome=Outcome.SUPPORTED)], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    assert "boundary" not in re.sub("<style>.*</style>", "", (tmp_path / "index.html").read_text(), flags=re.DOTALL)


def test_what_does_not_apply_is_one_line(tmp_path):
    idle = {"outcome": Outcome.NOT_APPLICABLE, "decoys": ()}
    some = [verdict("some", (), about=About(name=f"run {i}"), note=f"note {i}") for i in range(2)]
    some += [verdict("some", (), about=About(name=f"run {i}"), note="too short", **idle) for i in range(2, 5)]
    none = verdict("none", (), note="no decay", **idle)
    write_verdicts([none, *some], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    for name in ("index.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "Not applicable to 3 of 5: run 2, run 3, run 4 (too short)" in text
        assert "Not applicable: no decay" in text
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert Checker(page).wrong == []
    assert page.index('id="some"') < page.index('id="none"')  # what applies comes first
    assert "level α" not in page[page.index('id="none"') : page.index('id="provenance"')]


def test_a_chart_drawn_before_is_pointed_to(tmp_path):
    chart = next(one for one in RESULTS if one.kind == "time course")
    again = dataclasses.replace(chart, title="the same again", caption="once more")
    write_verdicts([verdict("one", (), results=(chart,)), verdict("two", (), results=(again,))], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("<figure") == 1 and "<b>the same again.</b> As figure 1." in text


def test_an_equation_that_a_statement_cites_is_set_under_it(tmp_path):
    cites = dataclasses.replace(verdict("one", ()), statement="the law is (S2) along (T1), not (Z9)", source="own (S2)")
    write_verdicts([cites], tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    section = page[page.index('id="one"') : page.index('id="provenance"')]
    assert section.count("<math") == 2 and "(S2)</span>" in section and "(T1)</span>" in section
    assert r"\tilde C_{ij}" in section and "<mfrac>" in section and Checker(page).wrong == []
    told = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert told.count(r"\tag{S2}") == 1 and told.count(r"\tag{T1}") == 1 and "Z9}" not in told


def test_runs_are_told_apart_by_method_and_seed_everywhere_on_a_page(tmp_path):
    runs = [
        verdict("ladder", (), about=About(name=f"at-seed{seed}-0123abc{seed}", epoch=48), kind=Kind.HYPOTHESIS)
        for seed in (3, 4)
    ]
    write_verdicts(runs, tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    for name in ("index.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "AT, seed 3 · epoch 48" in text and "0123abc" not in text
