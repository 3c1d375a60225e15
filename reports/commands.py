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
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="also renew the findings in FILE, between its two marks"
    )


def publish_options(parser: argparse.ArgumentParser) -> None:
    """What, under which name, where."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="folder with verdicts.json and evidence/")
    parser.add_argument("name", metavar="NAME", help="of the folder among the published ones")
    parser.add_argument(
        "--to", type=Path, default=Path("reports/published"), metavar="FOLDER", help="default: reports/published"
    )
    parser.add_argument(
        "--verdicts-only", action="store_true", help="without evidence and curves, where the numbers are not ours"
    )
    parser.add_argument(
        "--bits", type=int, default=12, metavar="N", help="significant bits of large arrays, 4 to 24 (default: 12)"
    )


def performance_options(parser: argparse.ArgumentParser) -> None:
    """Of which benchmarks, to where."""
    parser.add_argument(
        "--benchmarks",
        type=Path,
        default=Path("reports/published/benchmarks"),
        metavar="FOLDER",
        help="what `nox -s bench` wrote; report.md goes there (default: %(default)s)",
    )
    parser.add_argument(
        "--docs",
        type=Path,
        default=Path("docs/performance.md"),
        metavar="FILE",
        help="the same page with its figure beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="also renew the figures quoted in FILE, between its two marks"
    )


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
    from reports.build import build_index, renew_findings

    print(build_index(options.folder))
    if options.readme is not None:
        print(renew_findings(options.folder, options.readme))
    return 0


def publish_results(options: argparse.Namespace) -> int:
    """Publish a results folder and print where, and how large everything published is."""
    from reports.publish import publish, size

    print(publish(options.results, options.to, options.name, verdicts_only=options.verdicts_only, bits=options.bits))
    print(f"{size(options.to) / 1e6:.1f} MB published in all")
    return 0


def performance(options: argparse.Namespace) -> int:
    """Write the page of the benchmarks and print what was written."""
    from reports.performance import renew

    for path in renew(options.benchmarks, options.docs, options.readme):
        print(path)
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
