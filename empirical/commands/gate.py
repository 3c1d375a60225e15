"""``python -m empirical gate OUT|CHECKPOINT…``: does a training run meet the assumptions, as an exit status for CI.

A results folder is judged on its verdicts (``OUT/verdicts.json``) and on the quantities of its last measured
checkpoint of each run; a checkpoint is measured on the spot. Thresholds come from ``[tool.spikeshrink.gate]`` of a
``pyproject.toml`` (``--config``, default: the one in the working folder, if it has that table) and the command line.
Exit status: 0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from empirical.settings.data import DATASETS
from empirical.settings.network import NETWORKS

if TYPE_CHECKING:
    from empirical.records import Record
    from theory.judge.gate import Quantity, Thresholds
    from theory.judge.verdict import Verdict

NAME = "gate"
DESCRIPTION = "Exits 0 if every demand is met, 1 if one is broken, 3 if the evidence decides neither."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("paths", nargs="+", metavar="OUT|CHECKPOINT", help="results folders or checkpoints")
    parser.add_argument("--config", help="pyproject.toml with [tool.spikeshrink.gate]")
    parser.add_argument("--require", action="append", default=[], metavar="CLAIM", help="must be supported")
    parser.add_argument("--max", action="append", default=[], metavar="NAME=X", help="largest value allowed")
    parser.add_argument("--min", action="append", default=[], metavar="NAME=X", help="smallest value allowed")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="append a Markdown summary")
    parser.add_argument("--learning-rate", type=float, help="of a checkpoint that does not state it")
    parser.add_argument("--batch-size", type=int, help="of a checkpoint that does not state it")
    parser.add_argument("--network", choices=NETWORKS, help="architecture of a bare state dict")
    parser.add_argument(
        "--dataset", choices=tuple(DATASETS), default="cifar10", help="data of a bare state dict (default: %(default)s)"
    )
    parser.add_argument("--momentum", type=float, default=0.9, help="of a bare state dict (default: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="of a bare state dict")
    parser.add_argument("--k", type=int, default=10, help="eigenpairs tracked (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="training samples measured (default: all, at most 4096)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives")


def run(args: argparse.Namespace) -> int:
    """Gate; see the module for the exit status."""
    from theory.judge.gate import decide

    try:
        thresholds = _thresholds(args)
        verdicts: list[Verdict] = []
        quantities: list[Quantity] = []
        for path in map(Path, args.paths):
            if path.is_dir():
                found = _from_folder(path)
                verdicts.extend(found[0])
                quantities.extend(found[1])
            elif path.is_file():
                quantities.extend(_from_checkpoint(path, args))
            else:
                raise ValueError(f"`gate` needs results folders or checkpoints that exist; got {str(path)!r}.")
        report = decide(thresholds, verdicts=verdicts, quantities=quantities)
        report.write(junit=args.junit, summary=args.summary)
    except (ValueError, RuntimeError) as error:
        print(f"gate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gate: {error.filename} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    print(report.table())
    return report.status


def _thresholds(args: argparse.Namespace) -> Thresholds:
    from theory.judge.gate import read_thresholds

    config = args.config
    if config is None and Path("pyproject.toml").is_file():
        config = "pyproject.toml"
    return read_thresholds(config, require=args.require, maximum=args.max, minimum=args.min)


def _from_folder(path: Path) -> tuple[list[Verdict], list[Quantity]]:
    from empirical.records import Expansion, Spectrum, read_records
    from theory.judge.verdict import read_verdicts

    verdicts = list(read_verdicts(path / "verdicts.json")) if (path / "verdicts.json").exists() else []
    records = read_records(path, (Spectrum, Expansion)) if (path / "evidence").is_dir() else ()
    if not verdicts and not records:
        raise ValueError(f"`gate` finds neither verdicts.json nor measured checkpoints in {str(path)!r}.")
    return verdicts, _quantities(records)


def _quantities(records: Sequence[Record]) -> list[Quantity]:
    """Of the last measured checkpoint of each run with per-sample noise, and of each expansion study."""
    from empirical.measure.bound import usable_directions
    from empirical.measure.quantities import of_directions, of_expansion, stability
    from empirical.records import Expansion, Spectrum

    found = [
        of_expansion(item.studies.top, note=f"{item.run} epoch {item.epoch}")
        for item in records
        if isinstance(item, Expansion) and item.studies.top is not None
    ]
    last: dict[str, Spectrum] = {}
    for item in records:
        if isinstance(item, Spectrum) and item.units == "samples":
            name = f"{item.run} {item.measurement.batch_norm}"
            if name not in last or last[name].iteration < item.iteration:
                last[name] = item
    for name, item in last.items():
        found.append(stability(item.curvature_samples[:, 0], float(item.curvatures[0]), item.optimizer, note=name))
        keep, count = usable_directions(item), len(item.curvatures)
        if keep.any():
            influences = item.alignment.direction_influences
            found += of_directions(
                item.optimizer,
                curvatures=item.curvatures[keep],
                curvature_samples=item.curvature_samples[:, keep],
                projections=item.projections[:, keep],
                cosines=item.alignment.direction_cosines[:count][keep],
                cosine_influences=None if influences is None else influences[:, :count][:, keep],
                noise_factor=item.noise_factor,
                note=name,
            )
    return found


def _from_checkpoint(path: Path, args: argparse.Namespace) -> tuple[Quantity, ...]:
    from empirical.data.resident import load_data
    from empirical.measure.assumptions import check_assumptions
    from empirical.measure.foreign import open_checkpoint
    from empirical.measure.objective import measured_samples, training_inputs
    from empirical.settings.measuring import Measurement

    item = open_checkpoint(
        path,
        network=args.network,
        dataset=args.dataset,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
    )
    data = load_data(item.setting.data, root=args.data_root)
    count = measured_samples(data, Measurement(samples=args.samples))
    inputs, labels = training_inputs(item, data, count, batch_norm="eval", seed=0)
    if item.setting.method.objective == "trades":
        raise ValueError(
            "`gate CHECKPOINT` measures cross-entropy objectives; `measure` a TRADES run, gate its folder."
        )
    return check_assumptions(
        item.model,
        inputs,
        labels,
        learning_rate=item.learning_rate,
        batch_size=min(item.setting.batch_size, count),
        momentum=item.setting.optimizer.momentum,
        dampening=item.setting.optimizer.dampening,
        nesterov=item.setting.optimizer.nesterov,
        weight_decay=item.setting.optimizer.weight_decay,
        eigenpairs=args.k,
    ).quantities
