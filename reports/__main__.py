"""``python -m reports build | index | compare``: exit status 0, 1 (a result was lost), 2 (wrong usage, bad input)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.build import MissingMatplotlibError, build, build_index
from theory.judge.differences import compare, markdown, text
from theory.judge.verdict import read_verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; everything that is wrong with the input is one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, MissingMatplotlibError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: `{options.command}` cannot write {place}{error.strerror}.", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reports", description="Render results, or compare two of them.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="write index.html and report.md beside the results they are made from")
    make.add_argument("out", type=Path, help="folder with verdicts.json and evidence/")
    make.add_argument("--markdown", action="store_true", help="report.md alone; needs no matplotlib")
    make.add_argument("--figures", action="store_true", help="also write figures/<claim>-<n>.svg")
    make.set_defaults(run=_build)
    front = commands.add_parser("index", help="write index.html of a folder of results folders")
    front.add_argument("folder", type=Path, help="folder whose subfolders hold verdicts.json")
    front.set_defaults(run=_index)
    both = commands.add_parser("compare", help="what is judged otherwise in B than in A; exit 1 if something was lost")
    both.add_argument("a", type=Path, metavar="A", help="folder with verdicts.json")
    both.add_argument("b", type=Path, metavar="B", help="folder with verdicts.json")
    both.add_argument("--all", action="store_true", help="show what is the same as well")
    shape = both.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON instead of a table")
    shape.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")
    both.set_defaults(run=_compare)
    return parser


def _build(options: argparse.Namespace) -> int:
    if options.markdown and options.figures:
        raise ValueError("`build --figures` draws, `build --markdown` does not; give one of them.")
    for path in build(options.out, page=not options.markdown, figure_files=options.figures):
        print(path)
    return 0


def _index(options: argparse.Namespace) -> int:
    print(build_index(options.folder))
    return 0


def _compare(options: argparse.Namespace) -> int:
    differences = compare(*(read_verdicts(folder / "verdicts.json") for folder in (options.a, options.b)))
    regressions = sum(item.change.is_regression for item in differences)
    if options.json:
        found = {"regressions": regressions, "verdicts": [item.to_dict() for item in differences]}
        print(json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False))
    else:
        print((markdown if options.markdown else text)(differences, everything=options.all))
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
