"""Commands of the empirical half: ``spikeshrink empirical run | train | measure | verify | sweep | import | …``.

In a checkout also ``python -m empirical``. Exit status: see `theory.judge.front`; 143 terminated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Python looks in the working folder first; this one import must find our own theory wherever that is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from theory.judge.front import Command, command_line, run

del sys.path[0]

DESCRIPTION = "Adversarial training measured against the theory: train, measure, judge, import, gate."
COMMANDS = (
    Command(
        name="doctor",
        help="examine the machine: does it compute right, and how long does a run take",
        module="empirical.commands.doctor",
        example="--device auto",
    ),
    Command(
        name="run",
        help="train, measure, verify, report: the whole study, resumable",
        module="empirical.commands.run",
        example="--preset smoke --out results",
    ),
    Command(
        name="train",
        help="adversarial training runs: checkpoints, logs and evidence",
        module="empirical.commands.train",
        example="--preset digits-cpu --method at awp --seeds 3 --out results",
    ),
    Command(
        name="controls",
        help="positive controls: does the instrument confirm where it must",
        module="empirical.commands.controls",
        example="--smoke --out controls",
    ),
    Command(
        name="sweep",
        help="a grid of runs, resumable, local or on a cluster",
        module="empirical.commands.sweep",
        example="--preset digits-cpu --grid epsilon=0,0.1 --grid batch-size=16,64 --measure --out sweep",
    ),
    Command(
        name="map",
        help="when curvature rises at a decay: regimes below and at the edge, on two sets of real images",
        module="empirical.commands.map",
        example="--out map --budget 6000",
    ),
    Command(
        name="measure",
        help="spectra, gradient noise, commutativity, posterior of trained networks, as evidence",
        module="empirical.commands.measure",
        example="results --k 10 --replicas 128",
    ),
    Command(
        name="attribute-curvature",
        help="what moved the top curvatures between checkpoints: outputs, derivative, residual, norms; exact",
        module="empirical.commands.attribute_curvature",
        example="runs/R/checkpoints/epoch-0048.pt runs/R/checkpoints/epoch-0053.pt --k 5",
    ),
    Command(
        name="verify",
        help="judge the evidence in a folder",
        module="empirical.commands.verify",
        example="results",
    ),
    Command(
        name="evaluate",
        help="robust accuracy of checkpoints under strong attacks: APGD-CE, APGD-T, AutoAttack",
        module="empirical.commands.evaluate",
        example="results --images 1000",
    ),
    Command(
        name="export",
        help="a checkpoint's weights as a state dict that RobustBench and the public repositories load",
        module="empirical.commands.export",
        example="runs/at-seed0/checkpoints/best.pt --to at.pt --layout robustbench",
    ),
    Command(
        name="rejudge",
        help="judge a folder's recorded evidence with today's claims; exit 1 if a verdict differs",
        module="empirical.commands.rejudge",
        example="results",
    ),
    Command(
        name="import",
        help="training logs (text, CSV/TSV, JSON lines, TensorBoard) as evidence",
        module="empirical.commands.importing",
        example="logs --out results --set dataset=cifar10 --set method=at",
    ),
    Command(
        name="reproduce",
        help="the published runs on CIFAR-10, CIFAR-100 and SVHN",
        module="empirical.commands.reproduce",
        example="--dataset cifar10 --method at --seeds 1 --dry-run",
    ),
    Command(
        name="validate",
        help="check a folder of contributed runs: schema, digests, protocol, acceptance bands",
        module="empirical.commands.validate",
        example="results",
    ),
    Command(
        name="gate",
        help="thresholds on a run's verdicts and assumptions, as an exit status",
        module="empirical.commands.gate",
        example='--model mine:model --data mine:loader --learning-rate 0.1 --require "stability<1"',
    ),
)

#: Commands whose work processes do not share.
ALONE = frozenset(command.name for command in COMMANDS) - {"run", "train", "reproduce"}


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports no torch."""
    return command_line("python -m empirical", DESCRIPTION, COMMANDS)


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m empirical") -> int:
    """Run one command; every foreseen error is one line on standard error.

    Under ``torchrun`` `run`, `train` and `reproduce` share their training; any other command is the first process's.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if int(os.environ.get("RANK", "0")) > 0 and words and words[0] in ALONE:
        return 0
    return run(prog, DESCRIPTION, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
