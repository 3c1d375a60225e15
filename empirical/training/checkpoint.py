"""Checkpoints: everything that a resumed run, a branched replica or a measurement needs, in one file without code.

    >>> checkpoint = load_checkpoint("reports/local/run/runs/at-seed0/checkpoints/epoch-0060.pt")  # doctest: +SKIP
    >>> checkpoint.model                         # the network, weights loaded, eval mode  # doctest: +SKIP
    >>> checkpoint.setting.method.attack         # the attack it was trained with          # doctest: +SKIP
    >>> checkpoint.setting.batch_size, checkpoint.learning_rate, checkpoint.setting.optimizer.momentum  # doctest: +SKIP

File      `torch.save` of tensors, numbers and strings only: it loads with ``weights_only=True`` and can run no code.
          Written under a temporary name, flushed, then renamed: a reader sees the old file or the new one, never half.
Randomness  every draw of a run is a function of (seed, stream, epoch or iteration), see `empirical.data.streams`, so
          the generators' positions are the two counters. PyTorch's global generators are stored as well, for networks
          that draw from them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from empirical.network.files import load_tensors
from empirical.network.setting import build_network
from empirical.training.setting import Training
from theory.judge.files import atomic_write
from theory.model.optimizer import MomentumSGD
from theory.model.setting import Setting

__all__ = ["FORMAT", "VERSION", "Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "spikeshrink-checkpoint"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A moment of a training run, after `iteration` steps.

    `model` is in eval mode with the weights and running statistics of that moment, on the device asked for.
    `momentum` maps parameter names to the optimizer's buffers v (PyTorch form, not scaled by the learning rate); it is
    empty before the first step and at momentum 0. `average` is the state dict of the weights' running average, or None.
    """

    setting: Training
    seed: int
    epoch: int  # completed epochs
    iteration: int  # completed iterations
    learning_rate: float  # of the last completed iteration (of the first, at iteration 0)
    next_learning_rate: float | None  # of the next iteration; None at the end of the run
    model: nn.Module
    momentum: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    rng: Mapping[str, Tensor]  # PyTorch's global generators: "cpu" and, if trained there, "cuda"
    running: tuple[float, float, float]  # sums of loss and accuracy over the steps of the epoch under way, their number
    data_digest: str  # `Data.digest` of the data it saw
    world_size: int  # processes it was trained with

    @property
    def optimizer(self) -> MomentumSGD:
        """The optimizer at this moment: the run's, with `learning_rate`."""
        return replace(self.setting.optimizer, learning_rate=self.learning_rate)


def save_checkpoint(
    path: str | Path,
    *,
    setting: Training,
    seed: int,
    iteration: int,
    model: nn.Module,
    momentum: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    data_digest: str,
    running: tuple[float, float, float] = (0.0, 0.0, 0.0),
    world_size: int = 1,
) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OSError: if the disk is full or the folder is read-only; an older file of that name survives.
    """
    rng = {"cpu": torch.get_rng_state()}
    if any(parameter.is_cuda for parameter in model.parameters()):
        rng["cuda"] = torch.cuda.get_rng_state()
    rates = setting.rates()
    record = {
        "format": FORMAT,
        "version": VERSION,
        "setting": json.dumps(setting.to_dict(), allow_nan=False),
        "seed": seed,
        "epoch": iteration // setting.iterations_per_epoch,
        "iteration": iteration,
        "learning_rate": float(rates[max(iteration - 1, 0)]),
        "next_learning_rate": float(rates[iteration]) if iteration < len(rates) else None,
        "model": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "momentum": {name: value.detach().cpu() for name, value in momentum.items()},
        "average": None if average is None else {name: value.detach().cpu() for name, value in average.items()},
        "rng": rng,
        "running": list(running),
        "data_digest": data_digest,
        "world_size": world_size,
    }
    buffer = io.BytesIO()
    torch.save(record, buffer)
    atomic_write(Path(path), buffer.getvalue(), overwrite=True)


def load_checkpoint(path: str | Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint written by `save_checkpoint`, rebuild its network and load it.

    Raises:
        ValueError: if the file is missing, truncated, holds pickled code, is not one of ours, is of another version,
            or its weights do not fit the network that its setting describes.
    """
    where = f"`load_checkpoint(path={str(path)!r})`"
    record = _read(where, path)
    setting = Setting.from_dict(json.loads(record["setting"]))
    if not isinstance(setting, Training):
        raise ValueError(f"{where} must describe a Training; got {type(setting).__name__}.")
    model = build_network(setting.network, seed=0)
    try:
        model.load_state_dict(record["model"])
    except RuntimeError as error:
        raise ValueError(f"{where} is of another network than its setting says: {_one_line(error)}") from None
    model.to(device)
    model.eval()
    return Checkpoint(
        setting=setting,
        seed=record["seed"],
        epoch=record["epoch"],
        iteration=record["iteration"],
        learning_rate=record["learning_rate"],
        next_learning_rate=record["next_learning_rate"],
        model=model,
        momentum={name: value.to(device) for name, value in record["momentum"].items()},
        average=None
        if record["average"] is None
        else {name: value.to(device) for name, value in record["average"].items()},
        rng=record["rng"],
        running=tuple(record["running"]),
        data_digest=record["data_digest"],
        world_size=record["world_size"],
    )


def _read(where: str, path: str | Path) -> dict[str, Any]:
    record = load_tensors(where, path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(
            f"{where} must be a checkpoint of this project; for a bare state dict use `load_public_weights`."
        )
    if record.get("version") != VERSION:
        raise ValueError(f"{where} must have version {VERSION}; got {record.get('version')!r}.")
    return record


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
