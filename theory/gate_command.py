"""``python -m theory gate``: verdicts or matrices against thresholds, as an exit status for CI.

Of results    ``gate OUT… --require CLAIM``: the verdicts of results folders.
Of matrices   ``gate --hessian H.npy --noise C.npy --learning-rate 0.1 --require "price<=0.1"``: both taken as exact,
              under the rules of `theory.assumptions` where nothing is demanded.
Thresholds come from ``[tool.spikeshrink.gate]`` of a pyproject.toml and the command line; `theory.judge.gate` decides.
Exit status: 0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from theory.arguments import add_optimizer_options
from theory.judge.gate import GateReport, Quantity, Thresholds, decide, read_gate
from theory.judge.verdict import Verdict, read_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("folders", nargs="*", type=Path, metavar="OUT", help="results folders with verdicts.json")
    parser.add_argument("--hessian", metavar="H", help="H without weight decay: .npy or .npz, (m, m) or its diagonal")
    parser.add_argument("--noise", metavar="C", help="C of the mini-batch gradient: .npy or .npz")
    add_optimizer_options(parser, required=False)
    parser.add_argument(
        "--k", type=int, default=10, metavar="N", help="steepest directions tracked, at most (default: %(default)s)"
    )
    parser.add_argument("--config", help="pyproject.toml with [tool.spikeshrink.gate]")
    parser.add_argument(
        "--require", action="append", default=[], metavar="DEMAND", help='a claim, or such as "price<=0.1"'
    )
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="append a Markdown summary")


def run(options: argparse.Namespace) -> int:
    """Gate; see the module for the exit status.

    Raises:
        ValueError: if a folder has no verdicts, a matrix is no problem, or thresholds cannot be read, are absent for a
            folder, or name what is not measured.
    """
    thresholds = read_gate(options.config, require=options.require)[0]
    matrices = options.hessian is not None or options.noise is not None
    if matrices == bool(options.folders):
        raise ValueError(
            "`gate` needs results folders, or --hessian and --noise; got " + ("both." if matrices else "neither.")
        )
    report = _of_matrices(options, thresholds) if matrices else _of_folders(options, thresholds or Thresholds())
    report.write(junit=options.junit, summary=options.summary)
    print(report.table())
    return report.status


def _of_folders(options: argparse.Namespace, thresholds: Thresholds) -> GateReport:
    verdicts: list[Verdict] = [verdict for folder in options.folders for verdict in read_folder(folder)]
    return decide(thresholds, verdicts=verdicts, quantities=[])


def _of_matrices(options: argparse.Namespace, thresholds: Thresholds | None) -> GateReport:
    from theory.assumptions import MATRICES, check_matrices
    from theory.data import load_problem
    from theory.model.optimizer import MomentumSGD

    for name in ("hessian", "noise", "learning_rate"):
        if getattr(options, name) is None:
            raise ValueError(f"`gate` of matrices needs --{name.replace('_', '-')}; got none.")
    optimizer = MomentumSGD(
        learning_rate=options.learning_rate,
        momentum=options.momentum,
        dampening=options.dampening,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
    )
    if thresholds is not None:
        # A claim has no verdict here, a quantity of a network no value: both would stay undecided for good.
        compared = [name for name in (*thresholds.maximum, *thresholds.minimum) if name not in MATRICES]
        if wrong := [*thresholds.require, *compared]:
            raise ValueError(f"`gate` of matrices compares {', '.join(MATRICES)} with numbers; got {wrong[0]!r}.")
    report = check_matrices(load_problem(options.hessian, options.noise), optimizer, top_k=options.k)
    if thresholds is None:
        return report
    found = [
        Quantity(name=check.name, estimate=check.estimate, interval=check.interval)
        for check in report.checks
        if check.estimate is not None
    ]
    return decide(thresholds, quantities=found)
