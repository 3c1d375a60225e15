"""Checkpoints: everything that a resumed run, a branched replica or a measurement needs, in one file without code.

    >>> checkpoint = load_checkpoint("reports/local/run/runs/at-seed0/checkpoints/epoch-0060.pt")  # doctest: +SKIP
    >>> checkpoint.model                         # the network, weights loaded, eval mode  # doctest: +SKIP
    >>> checkpoint.setting.method.attack         # the attack it was trained with          # doctest: +SKIP
    >>> checkpoint.setting.batch_size, checkpoint.learning_rate, checkpoint.setting.optimizer.momentum  # doctest: +SKIP

File      `torch.save` of tensors, numbers and strings only: it loads with ``weights_only=True`` and can run no code.
          Written under a temporary name, flushed, then renamed: a reader sees the old file or the new one, never half.
Digest    the comment of the zip archive that `torch.save` makes is ``sha256:`` and the digest of every byte before it:
          a flipped bit is refused wherever it is. `torch.load` opens the file all the same.
Randomness  every draw of a run is a function of (seed, stream, epoch or iteration), see `empirical.data.streams`, so
          the generators' positions are the two counters; no network here draws from PyTorch's global generators.
          Equal runs have checkpoints that are equal to the byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from empirical.network.build import build_network
from empirical.network.files import load_tensors, read_bytes
from empirical.settings.training import Training
from theory.judge.files import atomic_write
from theory.model.optimizer import MomentumSGD

__all__ = ["FORMAT", "VERSION", "Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "spikeshrink-checkpoint"
VERSION = 2
_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A moment of a training run, after `iteration` steps.

    `model` is in eval mode with the weights and running statistics of that moment, on the device asked for.
    `momentum` maps parameter names to the optimizer's buffers v (PyTorch form, not scaled by the learning rate); it is
    empty before the first step and at momentum 0. `average` is the state dict of the weights' running average, or None.
    `swa` is the mean of the parameters after the epochs from `Training.swa_start` on, or None; it has no running
    statistics, which `empirical.training.averaging` takes anew.
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
    swa: Mapping[str, Tensor] | None = None
    #: Sums of loss and accuracy over the steps of the epoch under way, their number; of a faithful run also the sums of
    #: clean loss and accuracy.
    running: tuple[float, ...]
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
    swa: Mapping[str, Tensor] | None = None,
    data_digest: str,
    running: tuple[float, ...] = (0.0, 0.0, 0.0),
    world_size: int = 1,
) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        OSError: if the disk is full or the folder is read-only; an older file of that name survives.
    """
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
        "model": _plain(model.state_dict()),
        "momentum": _plain(momentum),
        "average": None if average is None else _plain(average),
        "running": list(running),
        "data_digest": data_digest,
        "world_size": world_size,
    }
    if swa is not None:
        record["swa"] = _plain(swa)
    buffer = io.BytesIO()
    torch.save(record, buffer)
    atomic_write(Path(path), _sealed(buffer.getvalue()), overwrite=True)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU in storage of their own, so that the file holds their numbers and nothing else."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _sealed(archive: bytes) -> bytes:
    """The zip archive with its digest as its comment, whose length stands in the archive's last two bytes."""
    archive = archive[:-2] + _COMMENT.to_bytes(2, "little")
    return archive + _MARK + hashlib.sha256(archive).hexdigest().encode()


def load_checkpoint(path: str | Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint written by `save_checkpoint`, rebuild its network and load it.

    Raises:
        ValueError: if the file is missing, truncated, damaged by as little as a bit, holds pickled code, is not one of
            ours, is of another version, lacks a field or has a wrong one, or its weights do not fit the network that
            its setting describes.
    """
    where = f"`load_checkpoint(path={str(path)!r})`"
    record = _read(where, path)
    try:
        setting = Training.from_dict(json.loads(record["setting"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{where} must describe a Training; it does not: {_one_line(error)}") from None
    model = build_network(setting.network, seed=0)
    _check_numbers(where, record, setting)
    parameters = dict(model.named_parameters())
    _check_tensors(where, "model", record["model"], model.state_dict())
    _check_tensors(where, "momentum", record["momentum"], parameters if record["momentum"] else {})
    if record["average"] is not None:
        _check_tensors(where, "average", record["average"], model.state_dict())
    if record["swa"] is not None:
        _check_tensors(where, "swa", record["swa"], parameters)
    model.load_state_dict(record["model"])
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
        swa=None if record["swa"] is None else {name: value.to(device) for name, value in record["swa"].items()},
        running=tuple(record["running"]),
        data_digest=record["data_digest"],
        world_size=record["world_size"],
    )


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items()
    )


#: Every field of a checkpoint, what it must be, and whether it is.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "setting": ("the text of a Setting", lambda value: isinstance(value, str)),
    "seed": ("a whole number >= 0", _count),
    "epoch": ("a whole number >= 0", _count),
    "iteration": ("a whole number >= 0", _count),
    "learning_rate": ("a finite number", _number),
    "next_learning_rate": ("a finite number or None", lambda value: value is None or _number(value)),
    "model": ("tensors by name", _tensors),
    "momentum": ("tensors by name", _tensors),
    "average": ("tensors by name or None", lambda value: value is None or _tensors(value)),
    "swa": ("tensors by name or None", lambda value: value is None or _tensors(value)),
    "running": (
        "three or five finite numbers",
        lambda value: isinstance(value, list) and len(value) in (3, 5) and all(map(_number, value)),
    ),
    "data_digest": ("a text", lambda value: isinstance(value, str)),
    "world_size": ("a whole number >= 1", lambda value: _count(value) and value >= 1),
}


def _read(where: str, path: str | Path) -> dict[str, Any]:
    content = read_bytes(where, path)
    mark = content[-_COMMENT : -_COMMENT + len(_MARK)]
    if mark == _MARK and content[-64:] != hashlib.sha256(content[:-_COMMENT]).hexdigest().encode():
        raise ValueError(f"{where} must be a whole file; it is damaged: its digest is not that of its content.")
    record = load_tensors(where, content)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(
            f"{where} must be a checkpoint of this project; for a bare state dict use `load_public_weights`."
        )
    if record.get("version") != VERSION:
        raise ValueError(f"{where} must have version {VERSION}; got {record.get('version')!r}.")
    if mark != _MARK:
        raise ValueError(f"{where} must be a whole file; it is damaged: its digest is not where it belongs.")
    record.setdefault("swa", None)  # only runs that keep one write it
    for name, (rule, holds) in _FIELDS.items():
        if name not in record:
            raise ValueError(f"{where} must have the field `{name}`; it lacks it.")
        if not holds(record[name]):
            raise ValueError(f"{where} must have {rule} as `{name}`; got {_shown(record[name])}.")
    return record


def _check_numbers(where: str, record: Mapping[str, Any], setting: Training) -> None:
    if record["iteration"] > setting.num_iterations:
        raise ValueError(
            f"{where} must be within the run's {setting.num_iterations} iterations; got {record['iteration']}."
        )
    if record["epoch"] != record["iteration"] // setting.iterations_per_epoch:
        raise ValueError(f"{where} must count epochs as iterations do; got epoch {record['epoch']}.")


def _check_tensors(where: str, field: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if set(found) != set(expected):
        absent, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        raise ValueError(
            f"{where} is of another network than its setting says: `{field}` lacks {absent[:3]}, has {unknown[:3]}."
        )
    for name, value in found.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise ValueError(
                f"{where} is of another network than its setting says: `{field}[{name}]` is {value.dtype} of shape "
                f"{tuple(value.shape)}, not {expected[name].dtype} of shape {tuple(expected[name].shape)}."
            )


def _shown(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
