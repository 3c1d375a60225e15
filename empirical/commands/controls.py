"""``spikeshrink empirical controls``: does the instrument confirm where it must, and refute what was sabotaged?

The convex models of `empirical.settings.controls` go through the pipeline that judges networks: train, branch, measure,
judge. Their runs stand under OUT/controls, their evidence under OUT/evidence beside that of networks. Resumable. Exit
status: 0 every control came out as declared, 1 one did not, 3 one is undecided; else see `theory.judge.front`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from empirical.commands import measure, train
from empirical.commands.options import add_run_options, device_name, require_seed, whole
from empirical.settings.controls import CONTROLS, SABOTAGES, SMOKE, Control
from empirical.settings.measuring import Measurement, Measuring

if TYPE_CHECKING:
    from empirical.records import Record
    from empirical.settings.controls import Sabotage
    from theory.judge.verdict import Verdict

NAME = "controls"
DESCRIPTION = "Trains, measures and judges the positive controls; each of their laws is also judged sabotaged."
#: Ten directions and 768 replicas fix the geometric mean of the variances to 1.6 percent. Three relaxation times
#: 1/(1 − √μ) before the drop; records at steps 19, 38, 57, 70, 83, 96 fall on all phases of an epoch of ten batches.
FULL = Measuring(
    measurement=Measurement(eigenpairs=10, smallest=0),
    checkpoints=0,
    expansions=False,
    replicas=768,
    ensemble_steps=57,
    ensemble_after=39,
    ensemble_records=3,
    ensembles="all",
    window=0,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    add_run_options(parser)
    parser.add_argument("--seed", type=whole, default=0, help="root seed of their runs (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="three controls: a minute, for CI")
    parser.add_argument(
        "--sabotage",
        choices=SABOTAGES,
        default="none",
        help="judge them by a law that is wrong on purpose, which must fail (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, measure, judge; see the module for the exit status."""
    status = prepare(args, SMOKE if args.smoke else CONTROLS)
    return status or report(args.out, args.sabotage)


def prepare(args: argparse.Namespace, controls: Sequence[Control] = CONTROLS, what: Measuring = FULL) -> int:
    """Runs and evidence of the controls under ``args.out``, what is there left alone; 0 if all were measured."""
    from empirical.training.jobs import Job

    runs = str(Path(args.out) / "controls")
    require_seed(args.seed)
    device = device_name(args.device)
    options = {
        "out": runs,
        "device": device,
        "data_root": args.data_root,
        "download": not args.no_download,
        "resume": True,
    }
    jobs = [Job(setting=control.training(), seed=args.seed, options=options, name=control.name) for control in controls]
    train.execute(jobs, argparse.Namespace(**{**vars(args), "out": runs}), command=NAME, alone=True)
    place = measure.Place(out=args.out, device=device, data_root=args.data_root, jobs=args.jobs, quiet=args.quiet)
    return measure.measure([runs], what, place)


def report(out: str | Path, sabotage: str = "none") -> int:
    """Judge the controls whose evidence stands under `out` and print a line for each."""
    from empirical.records import read_records

    verdicts = judged(read_records(out), sabotage)
    if not verdicts:
        raise ValueError(f"`{out}/evidence` must hold evidence of a control; it has none.")
    for verdict in verdicts:
        caught = sum(decoy.outcome.value == "refuted" for decoy in verdict.decoys)
        print(
            f"{verdict.outcome.value:14s}{verdict.claim} · {verdict.subject}: {verdict.note}; "
            f"sabotage refuted {caught} of {len(verdict.decoys)}"
        )
    outcomes = [verdict.outcome.value for verdict in verdicts]
    print(f"controls: {outcomes.count('supported')} of {len(verdicts)} verdicts as declared")
    if "refuted" in outcomes:
        return 1
    return 0 if set(outcomes) == {"supported"} else 3


def judged(records: Sequence[Record], sabotage: str = "none") -> list[Verdict]:
    """The verdicts of the controls' own claims."""
    from empirical.claims.ladder import control_claims
    from empirical.claims.paths import control_mean_path

    wrong = cast("Sabotage", sabotage)
    return [
        entry.judge(subject)
        for entry in (*control_claims(wrong), control_mean_path(wrong))
        for subject in entry.subjects(records)
    ]
