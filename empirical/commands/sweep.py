"""``python -m empirical sweep``: a grid of runs, resumable, on this machine or on a cluster through joblib.

    python -m empirical sweep --preset digits-cpu --grid epsilon=0,0.1,0.2 --grid batch-size=16,32 --seeds 3
Every point of the grid is a Setting of its own, so that its runs have their own names; running the command again does
what is missing. With ``--measure`` every finished run is measured on the spot, in the same worker, which says what
that will cost and how long is left as `measure` does.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from typing import TYPE_CHECKING, Any

from empirical.commands import measure, train
from empirical.commands.options import (
    add_run_options,
    add_shard_option,
    add_training_options,
    available_cores,
    device_name,
    gpu_count,
    measuring_of,
    override_of,
    shard,
)
from empirical.settings.measuring import Measuring
from empirical.settings.presets import OVERRIDES
from theory.judge.front import sentence_of, status_of, worst
from theory.judge.workers import end_with_parent

if TYPE_CHECKING:
    from empirical.training.jobs import Job

NAME = "sweep"
DESCRIPTION = "Trains every point of a grid with every method and seed. Any option of train can be a grid axis."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    add_training_options(parser)
    add_run_options(parser)
    add_shard_option(parser)
    parser.add_argument(
        "--grid", action="append", default=[], metavar="OPTION=V,V", help="an axis of the grid; several are crossed"
    )
    parser.add_argument(
        "--backend", choices=("loky", "dask"), default="loky", help="joblib's workers (default: local processes)"
    )
    parser.add_argument("--measure", action="store_true", help="measure each run when it is done")
    parser.add_argument("--measure-options", default="", metavar="TEXT", help="options of `measure`")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and stop")


def run(args: argparse.Namespace) -> int:
    """Train the grid; 0, or the status of a run that failed (the others are done)."""
    args.resume = True
    points = list(grid(args.grid))
    jobs = shard([job for point in points for job in train.planned(args, point)], args.shard)
    gpus = gpu_count(args)
    workers = args.jobs or gpus or available_cores()
    if workers < 1:
        raise ValueError(f"`--jobs` must be >= 1; got {args.jobs}.")
    what = measuring_of(args.measure_options) if args.measure else None
    print(f"sweep: {len(points)} points, {len(jobs)} runs", file=sys.stderr)
    if args.dry_run:
        for job in jobs:
            print(_name(job))
        return 0
    from joblib import delayed

    from empirical.results import hold_results
    from empirical.training.jobs import require_data
    from empirical.training.run import run_folder

    with contextlib.ExitStack() as stack:
        stack.enter_context(_cluster(args.backend))
        local: _Local | None = None
        if args.backend == "loky":  # workers of a cluster are not ours
            on_gpus = device_name(args.device) != "cpu"
            seats = stack.enter_context(_seats(workers)) if on_gpus else None
            local = _Local(parent=os.getpid(), seats=seats, gpus=gpus)
        if args.shard is None or what is not None:  # parts that only train share a folder: each run has a lock
            stack.enter_context(hold_results(args.out))
        for job in jobs:
            run_folder(job.setting, job.seed, args.out).require_free()
        if args.backend == "loky":  # elsewhere the archives are the workers' own
            require_data(jobs)
        tasks = (delayed(_one)(job, args.threads or 1, what, local, args.quiet) for job in jobs)
        return _carry_out(tasks, len(jobs), workers, args.backend)


@dataclass(frozen=True)
class _Local:
    """What a worker of this machine knows: who started it, and the free seats, each for a GPU (None without any)."""

    parent: int
    seats: Any
    gpus: int | None


@contextlib.contextmanager
def _seats(count: int) -> Iterator[Any]:
    """A queue of free seats that any process of this machine can take from; its own process ends with this one."""
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(end_with_parent, (os.getpid(),))
    with manager:
        seats = manager.Queue()
        for seat in range(count):
            seats.put(seat)
        yield seats


def _carry_out(tasks: Iterable[Any], number: int, workers: int, backend: str) -> int:
    from joblib import Parallel, parallel_config

    statuses = []
    with parallel_config(backend=backend):  # `Parallel` itself takes no backend of another package
        done: Any = Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)
        for count, (label, status, trouble) in enumerate(done, start=1):
            statuses.append(status)
            print(f"sweep: {count}/{number} {label}{': ' + trouble if trouble else ''}", file=sys.stderr, flush=True)
    return worst(statuses)


def grid(axes: list[str]) -> Iterator[Mapping[str, Any]]:
    """Every combination of the axes ``option=value,value``; one empty point without axes.

    Raises:
        ValueError: if an axis is not of that form, names no option, or names one twice.
    """
    named: dict[str, list[Any]] = {}
    for axis in axes:
        option, equals, values = axis.partition("=")
        key = option.strip().lstrip("-").replace("-", "_")
        if not equals or not values.strip(",") or key not in OVERRIDES or key in named:
            raise ValueError(f"`--grid` must be OPTION=VALUE,VALUE with an option of train, each once; got {axis!r}.")
        named[key] = [_value(key, text) for text in values.split(",") if text]
    for combination in itertools.product(*named.values()):
        yield dict(zip(named, combination, strict=True))


def _value(key: str, text: str) -> Any:
    """A grid value; "+" stands between the numbers of one value, since "," stands between values."""
    try:
        return override_of(key, text.replace("+", ","))
    except ValueError as error:
        raise ValueError(f"`--grid`: {error}") from None


@contextlib.contextmanager
def _cluster(backend: str) -> Iterator[None]:
    """Within: connected to Dask's scheduler, of DASK_SCHEDULER_ADDRESS or one started here, if that is the backend."""
    if backend == "loky":
        yield
        return
    try:
        from dask.distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("`--backend dask` needs the package distributed; install the extra `cluster`.") from None
    with Client():
        yield


def _name(job: Job) -> str:
    from empirical.training.run import run_folder

    return run_folder(job.setting, job.seed, job.options["out"]).path.name


def _one(
    job: Job, threads: int, what: Measuring | None, local: _Local | None, quiet: bool = False
) -> tuple[str, int, str]:
    """Train (and measure) one point in a worker: name, status, and what went wrong, so that the others go on."""
    if local is None:
        return _carried(job, job.options, threads, what, quiet)
    if local.parent != os.getpid():
        end_with_parent(local.parent)
    if local.seats is None:
        return _carried(job, job.options, threads, what, quiet)
    from empirical.training.jobs import seated

    seat = local.seats.get()
    try:
        return _carried(job, seated(job.options, seat, local.gpus), threads, what, quiet)
    finally:
        local.seats.put(seat)


def _carried(
    job: Job, options: Mapping[str, Any], threads: int, what: Measuring | None, quiet: bool
) -> tuple[str, int, str]:
    import torch

    from empirical.training.run import run_folder, train

    torch.set_num_threads(threads)
    folder = run_folder(job.setting, job.seed, options["out"])
    try:
        train(job.setting, seed=job.seed, **options)
        if what is not None:
            place = measure.Place(
                out=str(folder.out),
                device=options["device"],
                data_root=options.get("data_root", "data"),
                download=options.get("download", True),
                jobs=1,
                quiet=quiet,
            )
            if status := measure.measure([folder.path], what, place, held=True):
                return folder.path.name, status, "trained, not wholly measured"
    except Exception as error:  # one point's failure must not lose the others
        return folder.path.name, status_of(error), sentence_of(error, "sweep")
    return folder.path.name, 0, ""
