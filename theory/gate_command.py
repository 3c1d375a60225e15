"""``python -m theory gate OUT…``: the verdicts of results folders against thresholds, as an exit status for CI.

Thresholds come from ``[tool.spikeshrink.gate]`` of a pyproject.toml and the command line; `theory.judge.gate` decides.
Exit status: 0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from theory.judge.gate import decide, read_thresholds
from theory.judge.verdict import read_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT", help="results folders with verdicts.json")
    parser.add_argument("--config", help="pyproject.toml with [tool.spikeshrink.gate]")
    parser.add_argument("--require", action="append", default=[], metavar="CLAIM", help="must be supported")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="append a Markdown summary")


def run(options: argparse.Namespace) -> int:
    """Gate; see the module for the exit status.

    Raises:
        ValueError: if a folder has no verdicts, or thresholds cannot be read or are absent.
    """
    verdicts = [verdict for folder in options.folders for verdict in read_folder(folder)]
    thresholds = read_thresholds(options.config, require=options.require, maximum=[], minimum=[])
    report = decide(thresholds, verdicts=verdicts, quantities=[])
    report.write(junit=options.junit, summary=options.summary)
    print(report.table())
    return report.status
