"""report.md says what the page says, in tables whose rows all have their cells, and needs no matplotlib."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reports.__main__ import main
from tests.reports.samples import empirical_results, theory_results
from theory.judge.results import Table
from theory.judge.verdict import write_verdicts


def tables(text: str) -> list[list[str]]:
    found: list[list[str]] = []
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append(line)
    return found


@pytest.mark.parametrize("write", [theory_results, empirical_results])
def test_every_row_of_every_table_has_the_cells_of_its_head(tmp_path, write):
    write(tmp_path)
    assert main(["build", str(tmp_path), "--markdown"]) == 0
    found = tables((tmp_path / "report.md").read_text(encoding="utf-8"))
    assert len(found) > 4
    for table in found:
        assert re.fullmatch(r"\|(-+:?\|)+", table[1]), table[1]
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
        assert len(widths) == 1, table


def test_the_verdicts_link_to_sections_that_exist(tmp_path):
    verdicts = theory_results(tmp_path)
    assert main(["build", str(tmp_path), "--markdown"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    headings = {heading.lower() for heading in re.findall(r"^### (.*)$", text, flags=re.MULTILINE)}
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert links == [verdict.claim for verdict in verdicts]
    assert set(links) <= headings
    for verdict in verdicts:
        for decoy in verdict.decoys:
            assert decoy.name in text


def test_a_verdict_that_is_not_up_to_date_says_so(tmp_path):
    first, *rest = theory_results(tmp_path)
    write_verdicts([dataclasses.replace(first, stale="its evidence was measured by other code"), *rest], tmp_path)
    assert main(["build", str(tmp_path), "--markdown"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.count("not up to date: its evidence was measured by other code") == 1


def with_one_table_twice(out):
    """Two claims that show the same conditions, and a third with one line of them changed."""
    rows = (("window", "57 steps"), ("drift", "0.15"))
    conditions = Table(title="May a law be judged here?", columns=("condition", "measured"), rows=rows)
    changed = dataclasses.replace(conditions, rows=(*rows[:1], ("drift", "0.51")))
    first, *_ = theory_results(out)
    named = {"alpha-law": conditions, "beta-law": conditions, "gamma-law": changed}
    write_verdicts([dataclasses.replace(first, claim=name, results=(table,)) for name, table in named.items()], out)


def test_a_table_that_an_earlier_claim_shows_line_for_line_is_told_once(tmp_path):
    with_one_table_twice(tmp_path)
    assert main(["build", str(tmp_path), "--markdown"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.count("**May a law be judged here?** As under [alpha-law](#alpha-law).") == 1
    assert text.count("| drift | 0.15 |") == 1 and text.count("| drift | 0.51 |") == 1


def test_the_page_tells_it_once_as_well(tmp_path):
    pytest.importorskip("matplotlib", reason="pages need matplotlib: install the extra `report`")
    with_one_table_twice(tmp_path)
    assert main(["build", str(tmp_path)]) == 0
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count('As under <a href="#alpha-law">alpha-law</a>.') == 1
    assert text.count("0.51</td>") == 1


def test_figures_drawn_as_files_are_shown(tmp_path):
    pytest.importorskip("matplotlib", reason="figures are drawn with matplotlib: install the extra `report`")
    theory_results(tmp_path)
    assert main(["build", str(tmp_path), "--figures"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert shown == ["figures/stationary-commuting-1.svg", "figures/transient-interpolation-1.svg"]
    assert all((tmp_path / path).is_file() for path in shown)


WITHOUT_MATPLOTLIB = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("matplotlib", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.modules["matplotlib"] = None
from reports.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def without_matplotlib(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", WITHOUT_MATPLOTLIB, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


def test_without_matplotlib_the_page_is_refused_in_one_line_and_the_markdown_is_made(tmp_path):
    theory_results(tmp_path)
    refused = without_matplotlib("build", str(tmp_path))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "spikeshrink[report]" in refused.stderr
    assert not (tmp_path / "index.html").exists() and not (tmp_path / "report.md").exists()
    made = without_matplotlib("build", str(tmp_path), "--markdown")
    assert (made.returncode, made.stderr) == (0, "")
    assert (tmp_path / "report.md").is_file()
