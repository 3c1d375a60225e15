"""``spikeshrink empirical attribute-curvature BEFORE AFTER…``: what moved the curvature between checkpoints of a run.

    spikeshrink empirical attribute-curvature results/runs/RUN/checkpoints/epoch-0048.pt …/epoch-0053.pt
Splits Δ ln λ of the top directions exactly into the outputs' curvature (softmax: diag(p) − ppᵀ), the outputs'
derivative, the residual part of the Hessian, and the norms of scale-invariant weights (`empirical.measure`,
`curvature_change`); every AFTER is held against BEFORE. Prints a table, and writes evidence that `verify` turns into a
figure. What is there already is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empirical.commands.options import device_name, whole
from empirical.settings.measuring import Measurement
from theory.judge.table import aligned

if TYPE_CHECKING:
    from empirical.data.resident import Data
    from empirical.measure.curvature_change import CurvatureState
    from empirical.records import CurvatureAttribution

NAME = "attribute-curvature"
#: Heads of the columns of parts.
WORDS = ("outputs", "derivative", "residual", "norms")
DESCRIPTION = "Splits the change of the top curvatures between checkpoints exactly into its causes."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("before", metavar="BEFORE", help="the checkpoint that the others are held against")
    parser.add_argument("after", nargs="+", metavar="AFTER", help="later checkpoints of the same run")
    parser.add_argument("--k", type=whole, default=5, metavar="N", help="directions followed (default: %(default)s)")
    parser.add_argument(
        "--samples", type=whole, metavar="N", help="training samples, the first ones (default: all, at most 4096)"
    )
    parser.add_argument(
        "--batch-norm",
        choices=("eval", "frozen-batch"),
        default="eval",
        help="statistics that batch norm uses (default: %(default)s)",
    )
    parser.add_argument("--out", help="where evidence goes (default: the result folder of the run)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from empirical.commands.measure import result_folder
    from empirical.results import hold_results

    measurement = Measurement(eigenpairs=args.k, smallest=0, samples=args.samples, batch_norm=args.batch_norm)
    out = args.out or str(result_folder(Path(args.before).parent))
    with hold_results(out):
        for record in _records(args, measurement, out):
            print(table(record), flush=True)
    return 0


def _records(args: argparse.Namespace, measurement: Measurement, out: str) -> Iterator[CurvatureAttribution]:
    """The record of each pair, measured now or read back."""
    from empirical.claims import registered
    from empirical.data.resident import load_data
    from empirical.measure.curvature_change import attribution_record, checkpoint_state
    from empirical.records import CurvatureAttribution
    from empirical.training.checkpoint import load_checkpoint
    from theory.judge.evidence import Evidence, provenance

    device = device_name(args.device)
    first = load_checkpoint(args.before, device=device)
    known = registered()
    data: Data | None = None
    before: CurvatureState | None = None
    for path in args.after:
        item = load_checkpoint(path, device=device)
        if item.setting != first.setting or item.seed != first.seed:
            raise ValueError(f"`AFTER` must be checkpoints of the run of {args.before}; {path} is of another run.")
        if item.iteration == first.iteration:
            raise ValueError(f"`AFTER` must be another checkpoint than {args.before}; {path} has as many steps.")
        identity: dict[str, Any] = {
            "training": first.setting,
            "measurement": measurement,
            "before": first.iteration,
            "after": item.iteration,
        }
        run_id = CurvatureAttribution.run_id_of(seed=first.seed, **identity)
        file = Path(out) / "evidence" / CurvatureAttribution.experiment / f"{run_id}.json"
        if file.exists():
            yield CurvatureAttribution.from_evidence(Evidence.read(file))
            continue
        if data is None:
            data = load_data(first.setting.data, root=args.data_root, download=not args.no_download, device=device)
        began = time.time()
        before = before or checkpoint_state(first, data, measurement)
        after = checkpoint_state(item, data, measurement, groups=before.groups[:-1])
        record = attribution_record(first, item, (before, after), measurement)
        made = provenance(began, device=device, claims=known)
        record = dataclasses.replace(record, provenance=made)
        record.to_evidence().write(out)
        yield record


def table(record: CurvatureAttribution) -> str:
    """A line a direction: λ before and after, Δ ln λ and its parts; below, what the outputs and norms did."""
    first, last = record.epochs
    head = ("direction", "λ before", "after", "Δ ln λ", *WORDS, "remainder", "overlap")
    rows = [
        (
            str(place + 1),
            *(f"{value:.4g}" for value in record.eigenvalues[:, place]),
            f"{record.change[place]:+.4f}",
            *(f"{part:+.4f}" for part in record.parts[place]),
            f"{record.remainder[place]:+.0e}",
            f"{record.overlaps[place]:.2f}",
        )
        for place in range(len(record.change))
    ]
    mean = ("mean", "", "", f"{record.change.mean():+.4f}", *(f"{part:+.4f}" for part in record.parts.mean(axis=0)))
    lines = aligned([head, *rows, (*mean, "", "")], right=range(1, len(head)))
    shares = record.gauss_newton / record.curvatures
    norm = "none is scale invariant"
    if record.groups:
        changes = record.norms[1] / record.norms[0]
        norm = f"{len(record.groups)} scale-invariant tensors, norms × {changes.min():.3f} to {changes.max():.3f}"
    return "\n".join(
        (
            f"{record.run}: epoch {first} (step {record.before}) to {last} (step {record.after})",
            *lines,
            f"mean trace of the outputs' curvature {record.saturation[0]:.4g} to {record.saturation[1]:.4g}; "
            f"Gauss–Newton share of λ {shares[0].mean():.2f} to {shares[1].mean():.2f}; {norm}",
        )
    )
