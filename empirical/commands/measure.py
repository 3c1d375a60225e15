"""``python -m empirical measure RUN|CHECKPOINT…``: curvature, noise, posterior and robust gap as evidence.

Takes result folders (``OUT`` of train), run folders or single checkpoints. What is already measured is skipped, so the
command resumes. If something could not be measured the rest is written; exit status: see `theory.judge.front`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from empirical.commands.options import add_measuring_options, available_cores, device_name, measuring
from empirical.settings.measuring import EnsembleSetting, Measuring
from empirical.settings.separating import SeparationSetting
from theory.judge.front import worst

if TYPE_CHECKING:
    from empirical.measure.pipeline import Chain
    from empirical.training.checkpoint import Checkpoint

#: Root seeds that the replicas of one run have to themselves: more than every branching Setting together can take.
SEEDS_A_RUN = 10_000_000
Branching = TypeVar("Branching", EnsembleSetting, SeparationSetting)

NAME = "measure"
DESCRIPTION = "Measures every checkpoint of the runs given, and the posterior's dynamics around one decay."


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a measurement is computed, and where its evidence goes.

    Args:
        out: results folder; None for that of the first run.
        device: "auto", "cpu", "cuda".
        data_root: folder of downloaded archives.
        download: fetch missing archives.
        jobs: processes; None for one a core on the CPU, one on a GPU.
        quiet: print failures and the summary only; no plan is made.
        dry_run: print the plan and stop.
    """

    out: str | None = None
    device: str = "auto"
    data_root: str = "data"
    download: bool = True
    jobs: int | None = None
    quiet: bool = False
    dry_run: bool = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("paths", nargs="+", metavar="RUN|CHECKPOINT", help="result folders, runs or checkpoints")
    parser.add_argument("--out", help="where evidence goes (default: the result folder of the first run)")
    add_measuring_options(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes (default: one a core on the CPU, one on a GPU)"
    )
    parser.add_argument("--quiet", action="store_true", help="print failures and the summary only")
    parser.add_argument("--dry-run", action="store_true", help="print what it will cost here and stop")


def run(args: argparse.Namespace) -> int:
    """Measure."""
    what = measuring(args)
    place = Place(
        out=args.out,
        device=args.device,
        data_root=args.data_root,
        download=not args.no_download,
        jobs=args.jobs,
        quiet=args.quiet,
        dry_run=args.dry_run,
    )
    return measure(args.paths, what, place)


def measure(paths: Sequence[str | Path], what: Measuring, place: Place, *, held: bool = False) -> int:
    """Measure the checkpoints under the paths, and say what failed; 0, or the status of what could not be measured.

    `held`: the caller is the one writer of the results folder.
    """
    from empirical.measure.plan import planning
    from empirical.results import hold_results

    began = time.monotonic()
    chains = planned(paths, what, place)
    if place.dry_run:
        for line in planning(chains, _workers(chains, place))[1]:
            print(line)
        return 0
    with contextlib.nullcontext() if held else hold_results(chains[0].options["out"]):
        return _carry_out(chains, place, began)


def _carry_out(chains: Sequence[Chain], place: Place, began: float) -> int:
    from empirical.measure.pipeline import run_chains
    from empirical.measure.plan import planning

    workers = _workers(chains, place)

    def note(line: str) -> None:
        if not place.quiet:
            print(line, file=sys.stderr, flush=True)

    if not place.quiet:
        chains, lines = planning(chains, workers)
        for line in lines:
            note(line)
    failures = run_chains(chains, workers=workers, note=note)
    for _, line in failures:
        print(f"measure: {line}", file=sys.stderr)
    print(
        f"measured {len(chains)} chains in {time.monotonic() - began:.0f} s; evidence under {chains[0].options['out']}"
    )
    return worst(status for status, _ in failures)


def _workers(chains: Sequence[Chain], place: Place) -> int:
    return place.jobs or (min(available_cores(), len(chains)) if device_name(place.device) == "cpu" else 1)


def planned(paths: Sequence[str | Path], what: Measuring, place: Place) -> list[Chain]:
    """The chains of work that a Measuring asks of the paths, the longest first.

    Raises:
        ValueError: if a path holds no checkpoint, or the device is not there.
    """
    from empirical.measure.landscape import has_batch_norm
    from empirical.measure.pipeline import Chain, find_checkpoints, thinned
    from empirical.network.build import parameter_count
    from empirical.training.checkpoint import load_checkpoint

    if place.jobs is not None and place.jobs < 1:
        raise ValueError(f"`--jobs` must be >= 1; got {place.jobs}.")
    found = find_checkpoints(paths)
    device = device_name(place.device)
    options = {
        "out": place.out or str(result_folder(Path(next(iter(found))))),
        "device": device,
        "data_root": place.data_root,
        "download": place.download,
        "threads": 1 if device == "cpu" else 4,
    }
    checkpoints: list[Chain] = []
    dynamics: list[Chain] = []
    for index, files in enumerate(found.values()):
        first = load_checkpoint(files[-1])
        asked, weights = what.measurement.eigenpairs + what.measurement.smallest, parameter_count(first.model)
        if asked > weights:
            raise ValueError(
                f"`--k` and `--smallest` must add up to at most {weights}, the parameters of {Path(files[-1])}; "
                f"got {asked}."
            )
        modes = what.modes or (("eval", "train") if has_batch_norm(first.model) else ("eval",))
        measurements = tuple(dataclasses.replace(what.measurement, batch_norm=mode) for mode in modes)
        if what.checkpoints != 0:
            kept = tuple(str(file) for file in thinned(files, what.checkpoints))
            checkpoints.append(Chain(kind="checkpoints", paths=kept, measurements=measurements, options=options))
        branching = _branching(files, first)
        if not branching or (what.replicas == 0 and what.separations == 0 and what.window == 0):
            continue
        ensemble, separation = None, None
        if what.ensembles == "all" or index == 0:
            _, before, after = first.setting.decays[0]
            path = {"before": what.ensemble_steps, "after": what.ensemble_after, "factor": after / before}
            if what.replicas:
                ensemble = _apart(
                    EnsembleSetting(replicas=what.replicas, records=what.ensemble_records, **path), first.seed
                )
            if what.separations:
                separation = _apart(SeparationSetting(replicas=what.separations, **path), first.seed)
        frozen = [measurement for measurement in measurements if measurement.batch_norm != "train"]
        if not frozen:
            continue
        dynamics.append(
            Chain(
                kind="dynamics",
                paths=tuple(str(file) for file in branching),
                measurements=(frozen[0],),
                ensemble=ensemble,
                separation=separation,
                expansion=what.expansions,
                window=what.window,
                options=options,
            )
        )
    return [*dynamics[:1], *checkpoints, *dynamics[1:]]


def _apart(setting: Branching, seed: int) -> Branching:
    """The Setting whose replicas share no data order with those of a run of another seed: runs are then independent."""
    return dataclasses.replace(setting, seed=setting.seed + seed * SEEDS_A_RUN)


def result_folder(checkpoints: Path) -> Path:
    """OUT of ``OUT/runs/RUN/checkpoints``; the checkpoint's own folder where it lies elsewhere."""
    run = checkpoints.parent
    if checkpoints.name == "checkpoints" and run.parent.name == "runs":
        return run.parent.parent
    return checkpoints


def _branching(files: list[Path], item: Checkpoint) -> list[Path]:
    """For each decay the last checkpoint at or before it, in whose stage the learning rate is still the old one."""
    from empirical.training.checkpoint import load_checkpoint

    at = [(load_checkpoint(file).iteration, file) for file in files]
    found = []
    start = 0
    for decay, _, _ in item.setting.decays:
        inside = [pair for pair in at if start < pair[0] <= decay]
        if inside:
            found.append(max(inside)[1])
        start = decay
    return found
