"""``spikeshrink empirical export``: a checkpoint's weights as a bare state dict, as other repositories load it.

    spikeshrink empirical export results/runs/at-seed0-1f2e3d4c/checkpoints/best.pt --to at.pt --layout robustbench
bare            names as in Rice, Wong & Kolter 2020 and Wu, Xia & Wang 2020; images standardised outside the network
data-parallel   the same under the prefix "module.", as a network wrapped in DataParallel saves itself
robustbench     under "state_dict", with the buffers "mu" and "sigma" by which RobustBench's networks standardise
What other repositories wrote is read by every command that takes ``--network``.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = "export"
DESCRIPTION = "Writes a checkpoint's weights as a state dict that other repositories load."
LAYOUTS = ("bare", "data-parallel", "robustbench")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint of ours")
    parser.add_argument("--to", required=True, metavar="FILE", help="file to write; it must not exist")
    parser.add_argument("--layout", choices=LAYOUTS, default="bare", help="see above (default: %(default)s)")
    parser.add_argument(
        "--weights", choices=("last", "average"), default="last", help="of the checkpoint (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    import torch

    from empirical.training.checkpoint import load_checkpoint
    from theory.judge.files import atomic_write

    item = load_checkpoint(args.checkpoint)
    weights = item.model.state_dict() if args.weights == "last" else item.average
    if weights is None:
        raise ValueError(f"`--weights average` must be kept by the run (--ema); {args.checkpoint} has none.")
    network = item.setting.network
    buffer = io.BytesIO()
    torch.save(exported(weights, args.layout, network.mean, network.std), buffer)
    target = Path(args.to)
    if target.exists():
        raise ValueError(f"`--to` must be a file that does not exist yet; got {target}.")
    atomic_write(target, buffer.getvalue(), overwrite=False)
    print(f"{target}: {len(weights)} tensors of {network.name}, layout {args.layout}")
    return 0


def exported(weights: Any, layout: str, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """The content of the file: a state dict, or one under ``"state_dict"``.

    Args:
        weights: state dict of one of our networks.
        layout: one of `LAYOUTS`.
        mean: of the pixels by channel, in units of [0, 1].
        std: likewise.
    """
    import torch

    plain: dict[str, Tensor] = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    if layout == "data-parallel":
        return {f"module.{name}": value for name, value in plain.items()}
    if layout == "robustbench":
        constants = {name: torch.tensor(values).view(1, -1, 1, 1) for name, values in (("mu", mean), ("sigma", std))}
        return {"state_dict": plain | constants}
    return plain
