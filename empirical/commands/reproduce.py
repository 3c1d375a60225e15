"""``python -m empirical reproduce``: the published runs, methods × data sets × seeds, resumably, then validated.

200 epochs of PreActResNet-18 a run: hours on a data-center GPU, weeks on a CPU. The command can be stopped and started
at any time, and split over machines by data set, method and seed.
"""

from __future__ import annotations

import argparse
import sys

from empirical.commands import train, validate
from empirical.commands.options import (
    add_run_options,
    add_shard_option,
    add_training_options,
    device_name,
    shard,
    torchrun_place,
)
from empirical.settings.data import PUBLISHED

NAME = "reproduce"
DESCRIPTION = "Runs the published protocol for every data set, method and seed; then validates the folder."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    add_training_options(parser, published=True)
    add_run_options(parser)
    add_shard_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the runs and stop")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, then validate: its exit status."""
    from empirical.training.reproduction import published_overrides

    datasets = args.dataset or PUBLISHED
    args.resume, args.dataset = True, None
    jobs = []
    for dataset in datasets:
        args.preset = dataset
        jobs += train.planned(args, published_overrides())
    jobs = shard(jobs, args.shard)
    if device_name(args.device) == "cpu" and not args.dry_run:
        print("reproduce: warning: without a CUDA device each run takes weeks.", file=sys.stderr)
    if args.dry_run:
        for job in jobs:
            print(f"{job.setting.data.name} {job.label}")
        return 0
    train.execute(jobs, args, command=NAME)
    if args.shard is not None:  # a part is no matrix; `validate` judges the folder when all parts are there
        return 0
    return 0 if torchrun_place()[0] > 0 else validate.validate_folder(args.out)  # the first process validates
