"""``spikeshrink empirical evaluate``: robust accuracy of finished networks under strong attacks, as evidence.

    spikeshrink empirical evaluate results/runs/at-seed0-1f2e3d4c/checkpoints/best.pt --attacks autoattack
By default APGD-CE and targeted APGD, in the ball of the run's own evaluation. Prints a line for each checkpoint and set
of images, with the Clopper-Pearson interval over images; evidence goes under OUT/evidence/robust-accuracy, and what is
there already is not measured again. Exit status: see `theory.judge.front`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empirical.commands.options import device_name, number, whole
from empirical.settings.data import DATASETS
from empirical.settings.network import NETWORKS
from empirical.settings.robustness import AUTOATTACK, STRONG_ATTACKS, Robustness

if TYPE_CHECKING:
    from empirical.data.resident import Split
    from empirical.records import RobustAccuracy
    from empirical.training.checkpoint import Checkpoint

NAME = "evaluate"
DESCRIPTION = "Robust accuracy of checkpoints under strong attacks, with its interval. Needs the extra `attacks`."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("paths", nargs="+", metavar="CHECKPOINT|RUN", help="checkpoints, runs or result folders")
    parser.add_argument("--out", help="where evidence goes (default: the result folder of the checkpoint)")
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=(*STRONG_ATTACKS, "autoattack"),
        default=("apgd-ce", "apgd-t"),
        help="in this order; autoattack is all four (default: apgd-ce apgd-t)",
    )
    parser.add_argument("--epsilon", type=number, help="radius, such as 8/255 (default: of the run's evaluation)")
    parser.add_argument("--attack-steps", type=whole, default=100, help="of APGD and FAB (default: %(default)s)")
    parser.add_argument("--targets", type=whole, default=9, help="classes aimed at (default: %(default)s)")
    parser.add_argument("--queries", type=whole, default=5000, help="of the Square attack (default: %(default)s)")
    parser.add_argument("--batch-size", type=whole, default=250, help="images at once (default: %(default)s)")
    parser.add_argument("--images", type=whole, help="how many, the first ones (default: all)")
    parser.add_argument(
        "--weights", choices=("last", "average", "swa"), default="last", help="of the checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test", help="images of the run (default: %(default)s)"
    )
    parser.add_argument(
        "--test-folder", metavar="DIR", help="CIFAR-10.1 or a corrupted set: .npy files, instead of the run's images"
    )
    parser.add_argument("--network", choices=NETWORKS, help="of a bare state dict")
    parser.add_argument(
        "--dataset", choices=tuple(DATASETS), default="cifar10", help="of a bare state dict (default: cifar10)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--data-root", default="data", help="folder of downloaded archives (default: %(default)s)")
    parser.add_argument("--no-download", action="store_true", help="use the archives that are there")
    parser.add_argument("--quiet", action="store_true", help="no live progress")


def run(args: argparse.Namespace) -> int:
    """Evaluate."""
    from empirical.commands.measure import result_folder
    from empirical.measure.pipeline import find_checkpoints
    from empirical.results import hold_results

    if args.images is not None and args.images < 1:
        raise ValueError(f"`--images` must be >= 1; got {args.images}.")
    found = find_checkpoints(args.paths)
    device = device_name(args.device)
    out = args.out or str(result_folder(Path(next(iter(found)))))
    with hold_results(out):
        for path in (file for files in found.values() for file in files):
            for record in _records(path, args, device, out):
                print(f"{path} {_line(record)}", flush=True)
    return 0


def _records(path: Path, args: argparse.Namespace, device: str, out: str) -> Iterator[RobustAccuracy]:
    """The record of each set of images, measured now or read back."""
    from empirical.records import RobustAccuracy
    from empirical.training.strong_attacks import first_failures
    from theory.judge.evidence import Evidence, provenance

    item = _opened(path, args, device)
    setting = Robustness(
        attacks=AUTOATTACK if "autoattack" in args.attacks else tuple(args.attacks),
        epsilon=item.setting.evaluation.attack.epsilon if args.epsilon is None else args.epsilon,
        norm=item.setting.evaluation.attack.norm,
        steps=args.attack_steps,
        targets=args.targets,
        queries=args.queries,
        batch_size=args.batch_size,
        weights=args.weights,
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _take_weights(path, item, args, device)
    for name, split, content in _images(item, args, device):
        identity: dict[str, Any] = {
            "training": item.setting,
            "robustness": setting,
            "checkpoint_digest": digest,
            "iteration": item.iteration,
            "images": name if args.images is None else f"{name}, the first {len(split)}",
        }
        run_id = RobustAccuracy.run_id_of(seed=item.seed, **identity)
        file = Path(out) / "evidence" / RobustAccuracy.experiment / f"{run_id}.json"
        if file.exists():
            record = RobustAccuracy.from_evidence(Evidence.read(file))
            if record.data_digest != content:
                raise ValueError(f"{file} is of other images than those that are there now; use another --out.")
            yield record
            continue
        began = time.time()
        failures = first_failures(
            item.model,
            split,
            setting,
            seed=item.seed,
            num_classes=item.setting.network.num_classes,
            note=None if args.quiet else _progress(path, name, len(split), began),
        )
        record = RobustAccuracy(
            **identity,
            seed=item.seed,
            data_digest=content,
            first_failure=failures,
            provenance=provenance(began, device=device),
        )
        record.to_evidence().write(out)
        yield record


def _opened(path: Path, args: argparse.Namespace, device: str) -> Checkpoint:
    from empirical.measure.foreign import open_checkpoint

    if args.network is None:
        return open_checkpoint(path, device=device)
    return open_checkpoint(
        path,
        network=args.network,
        dataset=args.dataset,
        learning_rate=0.1,  # the published ones: nothing here depends on them
        batch_size=128,
        data_root=args.data_root,
        device=device,
    )


def _take_weights(path: Path, item: Checkpoint, args: argparse.Namespace, device: str) -> None:
    from empirical.data.resident import load_data
    from empirical.training.averaging import take_swa

    if args.weights == "last":
        return
    kept, option = (item.average, "--ema") if args.weights == "average" else (item.swa, "--swa-start")
    if kept is None:
        raise ValueError(f"`--weights {args.weights}` must be kept by the run ({option}); {path} has none.")
    if args.weights == "average":
        item.model.load_state_dict(kept)
        return
    data = load_data(item.setting.data, root=args.data_root, download=not args.no_download, device=device)
    take_swa(item.model, kept, data.train, item.setting.batch_size)


def _images(item: Checkpoint, args: argparse.Namespace, device: str) -> Iterator[tuple[str, Split, str]]:
    """Name, images and digest of each set."""
    import torch

    from empirical.data.image_folders import read_image_folder
    from empirical.data.resident import Split, load_data

    data = item.setting.data
    if args.test_folder is None:
        loaded = load_data(data, root=args.data_root, download=not args.no_download, device=device)
        chosen = loaded.test if args.split == "test" else loaded.validation
        if len(chosen) == 0:
            raise ValueError(f"`--split {args.split}` must hold images; the run set none aside.")
        sets = [(f"{data.name} {args.split}", chosen)]
    else:
        sets = (
            (name, Split(images=torch.from_numpy(part.images), labels=torch.from_numpy(part.labels), scale=255))
            for name, part in read_image_folder(args.test_folder, data)
        )
    for name, split in sets:
        first = split.first(args.images)
        content = hashlib.sha256(first.images.cpu().numpy().tobytes() + first.labels.cpu().numpy().tobytes())
        placed = Split(images=first.images.to(device), labels=first.labels.to(device), scale=first.scale)
        yield name, placed, content.hexdigest()[:16]


def _progress(path: Path, name: str, total: int, began: float) -> Any:
    def show(done: int, robust: int) -> None:
        left = (time.time() - began) / done * (total - done)
        print(
            f"evaluate: {path.name} {name}: {done}/{total} images, {robust / done:.1%} robust, {left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show


def interval(record: RobustAccuracy, attacks: int, alpha: float = 0.05) -> tuple[float, float]:
    """Clopper–Pearson interval at level 1 − α for the accuracy after so many attacks, on the images' population.

    It covers the choice of the images and nothing else: neither the seed of the training nor a stronger attack.
    """
    from theory.judge.statistics import binomial_interval

    return binomial_interval(record.correct(attacks), len(record.first_failure), alpha)


def _line(record: RobustAccuracy) -> str:
    parts = [f"[{record.images}] clean {record.accuracy(0):.2%}"]
    parts += [f"{name} {record.accuracy(place):.2%}" for place, name in enumerate(record.robustness.attacks, start=1)]
    low, high = interval(record, len(record.robustness.attacks))
    return f"{', '.join(parts)} [{low:.2%}, {high:.2%}] of {len(record.first_failure)} images"
