"""``python -m empirical train``: adversarial training runs, from data to checkpoints and evidence.

Under ``torchrun`` the processes share each run's batches. A signal stops every run with a checkpoint. Exit status: see
`theory.judge.front`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from empirical.commands.live import LiveProgress
from empirical.commands.options import (
    add_run_options,
    add_shard_option,
    add_training_options,
    available_cores,
    device_name,
    fast_path,
    gpu_count,
    overrides,
    preset_and_methods,
    shard,
    torchrun_place,
)

if TYPE_CHECKING:
    from empirical.training.jobs import Job

NAME = "train"
DESCRIPTION = "Trains every method with every seed. A folder a run, under OUT/runs; evidence under OUT/evidence."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    add_training_options(parser)
    add_run_options(parser)
    add_shard_option(parser)


def run(args: argparse.Namespace) -> int:
    """Train."""
    execute(shard(planned(args), args.shard), args, command=NAME)
    return 0


def planned(args: argparse.Namespace, changes: Mapping[str, Any] | None = None) -> list[Job]:
    """The runs that the arguments ask for, `changes` overriding them.

    Raises:
        ValueError: if an argument is out of range, or parts do not fit together.
    """
    from empirical.settings.presets import make_training
    from empirical.training.jobs import Job

    preset, methods = preset_and_methods(args)
    given = dict(fast_path(args)) | overrides(args) | dict(changes or {})
    options = {
        "out": args.out,
        "device": device_name(args.device),
        "data_root": args.data_root,
        "download": not args.no_download,
        "resume": args.resume,
        "tensorboard": args.tensorboard,
        "wandb": args.wandb,
    }
    return [
        Job(setting=make_training(preset, method, given), seed=seed, options=options)
        for seed in range(args.seed, args.seed + args.seeds)
        for method in methods
    ]


def execute(jobs: list[Job], args: argparse.Namespace, *, command: str, alone: bool = False) -> None:
    """Run the jobs.

    Args:
        jobs: the runs.
        args: what `add_run_options` read.
        command: the command's name, for its lines.
        alone: leave other processes of `torchrun` out of it.

    Raises:
        ValueError: if the results folder or a run in it cannot be written, or another process writes it.
        JobError: if one of several runs failed; of a run alone, what `empirical.training.run.train` raises.
    """
    from empirical.results import make_results_folder
    from empirical.training.distributed import join_world, leave_world
    from empirical.training.jobs import require_data, run_jobs
    from empirical.training.run import run_folder

    show = LiveProgress(quiet=args.quiet)
    cores = available_cores()
    on_cpu = device_name(args.device) == "cpu"
    distributed = not alone and torchrun_place()[1] > 1
    gpus = gpu_count(args)
    if gpus is not None and torchrun_place()[1] > 1:
        raise ValueError(f"`--gpus` must not be given under torchrun, whose processes share a run; got {args.gpus}.")
    workers = args.jobs or gpus or (min(cores, len(jobs)) if on_cpu and not distributed else 1)
    threads = args.threads or max(1, cores // workers)
    if workers < 1 or threads < 1:
        raise ValueError(f"`--jobs` and `--threads` must be >= 1; got {args.jobs} and {args.threads}.")
    make_results_folder(args.out)
    if not distributed:  # there the processes of one run would meet each other
        if on_cpu and not args.quiet:
            _say_cost(jobs, threads, command)
        for job in jobs:  # before the first of them starts
            folder = run_folder(job.setting, job.seed, job.options["out"])
            folder.require_resume(job.options["resume"])
            folder.require_free()
        if workers > 1 and len(jobs) > 1:
            require_data(jobs)
    try:
        if distributed:
            world, device = join_world(device_name(args.device))
            try:
                for job in jobs:
                    world.require_share(job.setting)
                run_jobs([_joined(job, world, device) for job in jobs], workers=1, threads=threads, show=show)
            finally:
                leave_world(world)
        else:
            run_jobs(jobs, workers=workers, threads=threads, show=show, gpus=gpus)
    finally:
        show.clear()


def _say_cost(jobs: list[Job], threads: int, command: str) -> None:
    """A line for every kind of run on photographs: on a CPU most of them take longer than anybody means to wait."""
    import torch

    from empirical.settings.data import PUBLISHED
    from empirical.training.cost import run_passes, seconds_of_a_pass

    kinds = {job.setting.method.name: job.setting for job in jobs if job.setting.data.name in PUBLISHED}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name, setting in kinds.items():
            hours = run_passes(setting) * seconds_of_a_pass(setting) / 3600
            print(
                f"{command}: {name} on {setting.data.name} on this CPU takes about {hours:,.1f} hours a run "
                f"({threads} threads, {setting.precision.summary}); a GPU is meant for it.",
                file=sys.stderr,
            )
    finally:
        torch.set_num_threads(before)


def _joined(job: Job, world: Any, device: Any) -> Job:
    import dataclasses

    return dataclasses.replace(job, options={**job.options, "world": world, "device": device})
