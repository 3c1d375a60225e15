"""``python -m empirical run``: controls, train, measure, verify, report; what ``nox -s empirical`` calls.

Every stage resumes: a finished run and a measured checkpoint are not made again. Under ``torchrun`` the processes share
the training; the other stages are the first one's, for which the others wait where they need to. Exit status: that of
the first stage that fails; otherwise that of `verify`; see `theory.judge.front`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from empirical.commands import controls, measure, train, verify
from empirical.commands.options import add_run_options, add_training_options, measuring_of, torchrun_place
from empirical.settings.measuring import Measuring

NAME = "run"
DESCRIPTION = "Controls first; then trains every method with every seed, measures, judges the claims, reports."
STAGES = ("controls", "train", "measure", "verify", "report")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    add_training_options(parser)
    add_run_options(parser)
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to run (default: %(default)s)")
    parser.add_argument(
        "--measure-options", default="", metavar="TEXT", help="options of `measure`, such as '--k 20 --replicas 512'"
    )


def run(args: argparse.Namespace) -> int:
    """Run the stages in order; see the module for the exit status."""
    stages = [stage for stage in args.stages.split(",") if stage]
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise ValueError(f"`--stages` must name some of {STAGES}; got {args.stages!r}.")
    what = measuring_of(args.measure_options)
    if "train" in stages and torchrun_place()[1] == 1:
        _require_runs_free(args)
    args.resume = True
    status = 0
    if torchrun_place()[0] > 0:
        stages = [stage for stage in stages if stage == "train"]
    for stage in stages:
        before = time.monotonic()
        print(f"== {stage}", file=sys.stderr, flush=True)
        status = _stage(stage, args, what)
        print(f"== {stage}: {time.monotonic() - before:.0f} s, status {status}", file=sys.stderr, flush=True)
        # Verdicts that refute are results, and the report is about them; anything else is a stage that failed.
        if status and stage != "verify":
            return status
    return status


def _require_runs_free(args: argparse.Namespace) -> None:
    """Refuse what training would refuse before the controls, which take minutes, are trained and written."""
    from empirical.results import make_results_folder
    from empirical.training.run import run_folder

    make_results_folder(args.out)
    for job in train.planned(args):
        run_folder(job.setting, job.seed, args.out).require_free()


def _stage(stage: str, args: argparse.Namespace, what: Measuring) -> int:
    if stage == "controls":
        status = controls.prepare(args)
        if status == 0 and controls.report(args.out):
            print(
                "run: not every statement on the controls came out as declared; if one of those that must hold did "
                "not, verdicts on networks are marked unverified",
                file=sys.stderr,
            )
        return status
    if stage == "train":
        train.execute(train.planned(args), args, command=train.NAME)
        return 0
    if stage == "measure":
        place = measure.Place(
            device=args.device, data_root=args.data_root, download=not args.no_download, quiet=args.quiet
        )
        return measure.measure([args.out], what, place)
    if stage == "verify":
        return verify.verify(args.out)
    return _report(Path(args.out))


def _report(out: Path) -> int:
    from reports.build import build

    for path in build(out):
        print(path)
    return 0
