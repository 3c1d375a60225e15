"""``python -m empirical sweep``: a grid of runs, resumable, on this machine or on a cluster through joblib.

    python -m empirical sweep --preset digits-cpu --grid epsilon=0,0.1,0.2 --grid batch-size=16,32 --seeds 3
Every point of the grid is a Setting of its own, so that its runs have their own names; running the command again does
what is missing. With ``--measure`` every finished run is measured on the spot, in the same worker.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from empirical.commands import measure, train
from empirical.commands.options import (
    add_run_options,
    add_training_options,
    available_cores,
    measuring_of,
    override_of,
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
    parser.add_argument(
        "--grid", action="append", default=[], metavar="OPTION=V,V", help="an axis of the grid; several are crossed"
    )
    parser.add_argument(
        "--backend", choices=("loky", "dask", "ray"), default="loky", help="joblib's workers (default: local processes)"
    )
    parser.add_argument("--measure", action="store_true", help="measure each run when it is done")
    parser.add_argument("--measure-options", default="", metavar="TEXT", help="options of `measure`")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and stop")


def run(args: argparse.Namespace) -> int:
    """Train the grid; 0, or the status of a run that failed (the others are done)."""
    args.resume = True
    points = list(grid(args.grid))
    jobs = [job for point in points for job in train.planned(args, point)]
    workers = args.jobs or available_cores()
    if workers < 1:
        raise ValueError(f"`--jobs` must be >= 1; got {args.jobs}.")
    backend = _backend(args.backend)
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

    parent = os.getpid() if args.backend == "loky" else None  # workers of a cluster are not ours
    tasks = (delayed(_one)(job, args.threads or 1, what, parent) for job in jobs)
    with hold_results(args.out):
        for job in jobs:
            run_folder(job.setting, job.seed, args.out).require_free()
        if args.backend == "loky":  # elsewhere the archives are the workers' own
            require_data(jobs)
        return _carry_out(tasks, len(jobs), workers, backend)


def _carry_out(tasks: Iterable[Any], number: int, workers: int, backend: Mapping[str, Any]) -> int:
    from joblib import Parallel

    statuses = []
    done: Any = Parallel(n_jobs=workers, return_as="generator_unordered", **backend)(tasks)
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


def _backend(name: str) -> dict[str, Any]:
    if name == "loky":
        return {"backend": "loky"}
    try:
        if name == "dask":
            from dask.distributed import Client  # pyright: ignore[reportMissingImports]

            Client()  # of the address in DASK_SCHEDULER_ADDRESS, or of this machine
        else:
            from ray.util.joblib import register_ray  # pyright: ignore[reportMissingImports]

            register_ray()
    except ImportError:
        raise ValueError(f"`--backend {name}` needs the package {name}; install it beside this one.") from None
    return {"backend": name}


def _name(job: Job) -> str:
    from empirical.training.run import run_folder

    return run_folder(job.setting, job.seed, job.options["out"]).path.name


def _one(job: Job, threads: int, what: Measuring | None, parent: int | None) -> tuple[str, int, str]:
    """Train (and measure) one point in a worker: name, status, and what went wrong, so that the others go on."""
    if parent is not None and parent != os.getpid():
        end_with_parent(parent)
    import torch

    from empirical.training.run import run_folder, train

    torch.set_num_threads(threads)
    folder = run_folder(job.setting, job.seed, job.options["out"])
    try:
        train(job.setting, seed=job.seed, **job.options)
        if what is not None:
            place = measure.Place(out=str(folder.out), device=job.options["device"], jobs=1, quiet=True)
            if status := measure.measure([folder.path], what, place, held=True):
                return folder.path.name, status, "trained, not wholly measured"
    except Exception as error:  # one point's failure must not lose the others
        return folder.path.name, status_of(error), sentence_of(error, "sweep")
    return folder.path.name, 0, ""
