"""The page *Performance* says what is stored, and the README quotes it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.performance import MARKS, page, quoted, read_benchmarks

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "reports" / "published" / "benchmarks"
RACE = {
    "kind": "race",
    "name": "training",
    "title": "one step",
    "ours": "ours",
    "clock": "cpu",
    "threads": 1,
    "turns": 7,
    "roles": {"ours": "ours", "textbook loop": "peer", "forwards": "floor"},
    "targets": {"textbook loop": {"least": 1.7}, "forwards": {"least": 0.8}},
    "seconds": {"ours": [2.0, 1.0, 3.0], "textbook loop": [4.0, 2.0, 6.0], "forwards": [1.0, 0.5, 1.5]},
    "ratios": {
        "textbook loop": {"median": 2.0, "low": 1.9, "high": 2.1},
        "forwards": {"median": 0.5, "low": 0.4, "high": 0.9},
    },
    "errors": {"loss": 1e-4},
    "reference": "the textbook's loss",
    "mebibytes": {"ours": 10.0, "textbook loop": None, "forwards": 1.0},
    "environment": {"processor": "one", "cores": 2, "versions": {"python": "3.11"}},
}


def test_the_page_and_the_quoted_figures_are_those_of_the_stored_benchmarks(tmp_path, monkeypatch):
    records = read_benchmarks(STORED)
    drawn = "figures/performance.svg"
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page(records, drawn)
    assert (ROOT / "docs" / drawn).is_file()
    assert (STORED / "report.md").read_text(encoding="utf-8") == page(records)
    begin, end = MARKS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.split(begin)[1].split(end)[0].strip() == quoted(records)


def test_every_target_of_the_project_has_its_ratio():
    """Figures to reach: (S2) beside SLICOT and SciPy, the random numbers' floor, eigenpairs, γ, training steps."""
    records = read_benchmarks(STORED)
    for name, contender in (
        ("stationary", "SLICOT SB03MD"),
        ("stationary", "SciPy bilinear"),
        ("simulation", "its random numbers"),
        ("eigenpairs", "curvlinops and SciPy's eigsh"),
        ("gradient-noise", "one gradient of the batch"),
        ("training", "lean loop by hand"),
        ("training", "textbook loop"),
    ):
        ratio = records[name]["ratios"][contender]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert records[name]["targets"][contender] and records[name]["turns"] >= 7


def test_a_target_is_met_only_by_the_whole_interval():
    shown = page({"training": RACE})
    assert "| peer: textbook loop | 2 [1.9, 2.1] | ≥ 1.7: met |" in shown
    assert "| floor: forwards | 0.5 [0.4, 0.9] | ≥ 0.8: missed |" in shown
    near = copy.deepcopy(RACE)
    near["ratios"]["textbook loop"]["low"] = 1.6
    assert "median met, interval not" in page({"training": near})
    assert "| ours: 2 s | 1 |" in shown  # the median of the turns


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "must hold JSON"), ('{"kind": "race"}', "with all its fields"), ('{"kind": "holiday"}', "got 'holiday'")],
)
def test_a_damaged_benchmark_names_its_file(text, words, tmp_path, capsys):
    (tmp_path / "one.json").write_text(text)
    assert main(["performance", "--benchmarks", str(tmp_path), "--docs", str(tmp_path / "page.md")]) == 2
    told = capsys.readouterr().err
    assert "one.json" in told and words in told and not (tmp_path / "page.md").exists()


def test_no_benchmarks_and_a_readme_without_marks(tmp_path, capsys):
    assert main(["performance", "--benchmarks", str(tmp_path), "--docs", str(tmp_path / "page.md")]) == 2
    assert "got none" in capsys.readouterr().err
    (tmp_path / "one.json").write_text(json.dumps(RACE))
    (tmp_path / "README.md").write_text("no marks")
    words = ["performance", "--benchmarks", str(tmp_path), "--docs", str(tmp_path / "page.md")]
    assert main([*words, "--readme", str(tmp_path / "README.md")]) == 2
    assert "must hold the lines" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "no marks"
