"""``spikeshrink empirical map``: the map of regimes, a run of which is trained and measured at once.

What the design costs stands on standard error before it starts. Seed after seed, cheap regimes first; a run that is
recorded is not made again, so that the command resumes at the run at which it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from empirical.commands.options import whole
from empirical.records import RegimeRun
from empirical.settings.data import DataSetting
from empirical.settings.design import MEASUREMENT, REGIMES, SEED, Regime
from empirical.settings.training import Training

NAME = "map"
DESCRIPTION = "Trains and measures the regimes that ask when curvature rises at a decay; resumable, a record a run."
#: Passes that a measured image costs at a checkpoint, beside its evaluation, and how many calls they come in.
PASSES, CALLS = 150, 400
#: A pass of a batch, beside its multiplications; and one of these. Fitted to an epoch on digits and on Fashion-MNIST.
SECONDS_A_PASS, SECONDS_A_MULTIPLICATION = 9.3e-4, 4.8e-11


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("--out", default="reports/local/map", help="results folder (default: %(default)s)")
    parser.add_argument("--seeds", type=whole, default=3, help="runs of each regime (default: %(default)s)")
    parser.add_argument("--seed", type=whole, default=SEED, help="first root seed (default: %(default)s)")
    parser.add_argument("--regime", action="append", metavar="TEXT", help="only regimes whose name contains this")
    parser.add_argument("--runs", type=whole, metavar="N", help="only the first N runs of the order")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="refuse what takes longer, and say what does not"
    )
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what they cost, and stop")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run of the plan and what it is expected to take, in seconds."""

    regime: Regime
    training: Training
    seed: int
    seconds: float

    @property
    def name(self) -> str:
        """Of its evidence."""
        return RegimeRun.run_id_of(seed=self.seed, training=self.training, measurement=MEASUREMENT)


def run(args: argparse.Namespace) -> int:
    """Make the map."""
    words = args.regime or [""]
    chosen = [regime for regime in REGIMES if any(word in regime.name for word in words)]
    if not chosen:
        raise ValueError(f"`--regime` must name some of {[regime.name for regime in REGIMES]}; got {args.regime}.")
    if args.seeds < 1 or (args.runs is not None and args.runs < 1):
        raise ValueError(f"`--seeds` and `--runs` must be >= 1; got {args.seeds} and {args.runs}.")
    runs = plan(chosen, range(args.seed, args.seed + args.seeds))[: args.runs]
    todo = [one for one in runs if not _path(args.out, one).exists()]
    total = sum(one.seconds for one in todo)
    print(
        f"map: {len(chosen)} regimes, {len(runs)} runs, {len(runs) - len(todo)} of them recorded; "
        f"the others take about {total:.0f} s on one core",
        file=sys.stderr,
    )
    if args.budget is not None and total > args.budget:
        raise ValueError(_too_long(runs, todo, args.budget))
    if args.dry_run:
        for one in runs:
            print(f"{one.name}  {one.seconds:5.0f} s  {one.regime.name} seed {one.seed}")
        return 0
    _make(args, todo)
    return 0


def plan(regimes: list[Regime], seeds: range) -> list[Planned]:
    """All runs: seed after seed, in each the cheap regimes first."""
    trainings = [(regime, regime.training()) for regime in regimes]
    costs = {regime.name: seconds(training) for regime, training in trainings}
    trainings.sort(key=lambda pair: costs[pair[0].name])
    return [
        Planned(regime=regime, training=training, seed=seed, seconds=costs[regime.name])
        for seed in seeds
        for regime, training in trainings
    ]


def seconds(training: Training) -> float:
    """What a run is expected to take on one core of a server of the 2020s, from its passes."""
    from empirical.training.cost import step_passes

    each = _multiplications(training) * SECONDS_A_MULTIPLICATION
    passes = step_passes(training)
    step = passes * (SECONDS_A_PASS + training.batch_size * each)
    images = min(MEASUREMENT.samples or training.data.num_train, training.data.num_train)
    evaluated = (images + (MEASUREMENT.evaluated or 0)) * (2 * training.evaluation.attack.steps + 2)
    checkpoint = CALLS * SECONDS_A_PASS + (PASSES * images + evaluated) * each
    return training.num_iterations * step + len(training.checkpoint_epochs) * checkpoint


def _multiplications(training: Training) -> float:
    """Of a forward of one image through the convolutions, strides 1, 2, 2, …"""
    channels, high, wide = training.network.image_shape
    total = 0.0
    for place, width in enumerate(training.network.widths):
        if place:
            high, wide = (high + 1) // 2, (wide + 1) // 2
        total += 9 * channels * width * high * wide
        channels = width
    return total


def _too_long(runs: list[Planned], todo: list[Planned], budget: float) -> str:
    """One line: the cost, and the largest beginning of the order that fits."""
    left, fits = budget, len(runs)
    for place, one in enumerate(runs):
        left -= one.seconds if one in todo else 0.0
        if left < 0:
            fits = place
            break
    total = sum(one.seconds for one in todo)
    regimes = len({one.regime.name for one in runs[:fits]})
    offer = f"`--runs {fits}` fits ({regimes} regimes)" if fits else "not even its first run fits"
    return f"`--budget` must cover the design, about {total:.0f} s; got {budget:g} s: {offer}."


def _make(args: argparse.Namespace, todo: list[Planned]) -> None:
    import torch

    from empirical.claims import registered
    from empirical.data.resident import Data, load_data
    from empirical.measure.regime import measure_regime
    from empirical.results import hold_results

    torch.set_num_threads(1)
    registered()  # the claims as they are before anything is measured
    loaded: dict[DataSetting, Data] = {}
    with hold_results(args.out):
        for number, one in enumerate(todo, start=1):
            began = time.monotonic()
            if one.training.data not in loaded:
                loaded[one.training.data] = load_data(
                    one.training.data, root=args.data_root, download=not args.no_download
                )
            record = measure_regime(
                one.training,
                MEASUREMENT,
                loaded[one.training.data],
                regime=one.regime.name,
                seed=one.seed,
                note=lambda line: print(f"map: {line}", file=sys.stderr),
            )
            record.to_evidence().write(args.out)
            took = time.monotonic() - began
            print(
                f"map: {number}/{len(todo)} {one.regime.name} seed {one.seed} ({took:.0f} s)",
                file=sys.stderr,
                flush=True,
            )


def _path(out: str, one: Planned) -> Path:
    return Path(out) / "evidence" / RegimeRun.experiment / f"{one.name}.json"
