"""Commands of the reports: ``spikeshrink report …``, or ``python -m reports …``: what stands in `COMMANDS`.

Exit status: see `theory.judge.front`; 1 means that a result was lost.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# Python looks in the working folder first; this one import must find our own theory wherever that is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from theory.judge.front import Command, run

del sys.path[0]

DESCRIPTION = "Render, publish or compare results."
COMMANDS = (
    Command(
        name="build",
        help="write index.html and report.md beside the results they are made from",
        module="reports.commands",
        options="build_options",
        run="build_pages",
        example="results --figures",
    ),
    Command(
        name="index",
        help="write index.html of a folder of results folders",
        module="reports.commands",
        options="index_options",
        run="index",
        example="reports/published --readme README.md",
    ),
    Command(
        name="publish",
        help="put verdicts and compact evidence of a results folder among the published ones",
        module="reports.commands",
        options="publish_options",
        run="publish_results",
        example="results my-runs",
    ),
    Command(
        name="performance",
        help="write the page of stored benchmarks, and the figures that a README quotes of them",
        module="reports.commands",
        options="performance_options",
        run="performance",
        example="--readme README.md",
    ),
    Command(
        name="compare",
        help="what is judged otherwise in B than in A; exit 1 if something was lost",
        module="reports.commands",
        options="compare_options",
        run="compare_folders",
        example="reports/published/theory results --markdown",
    ),
)


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m reports") -> int:
    """Run one command; everything that is wrong with the input is one line on standard error."""
    return run(prog, DESCRIPTION, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
