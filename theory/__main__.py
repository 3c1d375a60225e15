"""Commands: ``spikeshrink theory verify | rejudge | claims | solve | simulate | attribute | regress | gate``.

In a checkout also ``python -m theory``. Exit status: see `theory.judge.front`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from theory.judge.front import Command, command_line, run

DESCRIPTION = "Closed forms of momentum SGD near an optimum, checked against independent solvers and simulation."
COMMANDS = (
    Command(
        name="verify",
        help="run the experiments, judge the claims, print the verdict table",
        module="theory.arguments",
        options="verify",
        run="verify",
        runner="theory.commands",
        example="--claims stationary-general,transient-exact --out results",
    ),
    Command(
        name="rejudge",
        help="judge a folder's recorded evidence with today's claims; exit 1 if a verdict differs",
        module="theory.rejudge",
        example="results",
    ),
    Command(
        name="claims",
        help="the register: every claim with its source, decoys and evidence",
        module="theory.arguments",
        options="claims",
        run="claims",
        runner="theory.commands",
        example="--json",
    ),
    Command(
        name="solve",
        help="stationary law of your own H and C, all oracles compared",
        module="theory.arguments",
        options="solve",
        run="solve",
        runner="theory.commands",
        example="--hessian H.npy --noise C.npy --learning-rate 0.1 --momentum 0.9",
    ),
    Command(
        name="simulate",
        help="Monte Carlo of your own H and C, beside the closed form",
        module="theory.arguments",
        options="simulate",
        run="simulate",
        runner="theory.commands",
        example="--hessian H.npy --noise C.npy --learning-rate 0.1 --momentum 0.9 --noise-law student",
    ),
    Command(
        name="attribute",
        help="split the change of ln σ² between two states into learning rate, noise, curvature, step size",
        module="theory.attribute",
        example="before.json after.json",
    ),
    Command(
        name="regress",
        help="ridge regression on a real table by mini-batch SGD, against five predictions",
        module="theory.regress",
        example="--data table.csv --target y --batch-size 16 --learning-rate 0.02",
    ),
    Command(
        name="gate",
        help="thresholds on verdicts, as an exit status for CI",
        module="theory.gate_command",
        example="results --require stationary-general --junit gate.xml",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return command_line("python -m theory", DESCRIPTION, COMMANDS)


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m theory") -> int:
    """Run one command; every foreseen error is one line on standard error."""
    return run(prog, DESCRIPTION, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
