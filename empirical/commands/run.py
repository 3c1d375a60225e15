"""``python -m empirical run``: train, measure, verify, report; what ``nox -s empirical`` calls.

Every stage resumes: a finished run and a measured checkpoint are not made again. Exit status: that of the first stage
that fails; otherwise that of `verify`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shlex
import subprocess
import sys
import time

from empirical.commands import train
from empirical.commands.options import add_run_options, add_training_options

NAME = "run"
STAGES = ("train", "measure", "verify", "report")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        NAME,
        help="train, measure, verify, report: the whole study, resumable",
        description="Trains every method with every seed, measures the checkpoints, judges the claims, reports.",
    )
    add_training_options(parser)
    add_run_options(parser)
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to run (default: %(default)s)")
    parser.add_argument(
        "--measure-options", default="", metavar="TEXT", help="options of `measure`, such as '--k 20 --replicas 512'"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the stages in order; see the module for the exit status."""
    stages = [stage for stage in args.stages.split(",") if stage]
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        print(f"run: `--stages` must name some of {STAGES}; got {args.stages!r}.", file=sys.stderr)
        return 2
    args.resume = True
    status = 0
    for stage in stages:
        before = time.monotonic()
        print(f"== {stage}", file=sys.stderr, flush=True)
        status = _stage(stage, args)
        print(f"== {stage}: {time.monotonic() - before:.0f} s, status {status}", file=sys.stderr, flush=True)
        # Verdicts that refute are results, and the report is about them; anything else is a stage that failed.
        if status and stage != "verify":
            return status
    return status


def _stage(stage: str, args: argparse.Namespace) -> int:
    if stage == "train":
        return train.run(args)
    if stage == "report":
        return subprocess.run([sys.executable, "-m", "reports", "build", args.out], check=False).returncode
    words = [stage, args.out]
    if stage == "measure":
        words += ["--device", args.device, "--data-root", args.data_root]
        words += ["--no-download"] if args.no_download else []
        words += ["--quiet"] if args.quiet else []
        words += shlex.split(args.measure_options)
    module = importlib.import_module(f"empirical.commands.{stage}")
    parser = argparse.ArgumentParser(prog="python -m empirical")
    module.add_parser(parser.add_subparsers(dest="command", required=True))
    return module.run(parser.parse_args(words))
