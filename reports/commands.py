"""The commands of the reports: what they take, and what they do. What they need is imported when they run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def build_options(parser: argparse.ArgumentParser) -> None:
    """Which results, which pages."""
    parser.add_argument("out", type=Path, help="folder with verdicts.json and evidence/")
    parser.add_argument("--markdown", action="store_true", help="report.md alone; needs no matplotlib")
    parser.add_argument("--figures", action="store_true", help="also write figures/<claim>-<n>.svg")


def index_options(parser: argparse.ArgumentParser) -> None:
    """Of which folder."""
    parser.add_argument("folder", type=Path, help="folder whose subfolders hold verdicts.json")


def compare_options(parser: argparse.ArgumentParser) -> None:
    """Which two."""
    parser.add_argument("a", type=Path, metavar="A", help="folder with verdicts.json")
    parser.add_argument("b", type=Path, metavar="B", help="folder with verdicts.json")
    parser.add_argument("--all", action="store_true", help="show what is the same as well")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON instead of a table")
    shape.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")


def build_pages(options: argparse.Namespace) -> int:
    """Write the pages of a results folder and print their paths."""
    from reports.build import build

    if options.markdown and options.figures:
        raise ValueError("`build --figures` draws, `build --markdown` does not; give one of them.")
    for path in build(options.out, page=not options.markdown, figure_files=options.figures):
        print(path)
    return 0


def index(options: argparse.Namespace) -> int:
    """Write the front page of a folder of results folders and print its path."""
    from reports.build import build_index

    print(build_index(options.folder))
    return 0


def compare_folders(options: argparse.Namespace) -> int:
    """Compare the verdicts of two folders; 1 if a result was lost, else 0."""
    from theory.judge.differences import compare, markdown, text
    from theory.judge.verdict import read_folder

    differences = compare(*(read_folder(folder) for folder in (options.a, options.b)))
    regressions = sum(item.change.is_regression for item in differences)
    if options.json:
        found = {"regressions": regressions, "verdicts": [item.to_dict() for item in differences]}
        print(json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False))
    else:
        print((markdown if options.markdown else text)(differences, everything=options.all))
    return 1 if regressions else 0
