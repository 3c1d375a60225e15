"""Checkpoints of other people: a bare state dict plus what it does not say, asked for by the name of the flag."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from empirical.data.resident import load_data
from empirical.network.build import build_network, load_public_weights
from empirical.settings.data import DatasetName
from empirical.settings.network import NetworkName
from empirical.settings.presets import PRESETS, make_training
from empirical.training.checkpoint import Checkpoint, load_checkpoint


def open_checkpoint(
    path: str | Path,
    *,
    network: NetworkName | None = None,
    dataset: DatasetName = "cifar10",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    data_root: str | Path = "data",
    device: str = "cpu",
) -> Checkpoint:
    """A checkpoint of this project, or a bare state dict dressed as one.

    Args:
        path: the file.
        network: architecture of a bare state dict; None means the file must be a checkpoint of this project.
        dataset: data that a bare state dict was trained on; its published protocol is assumed for the attack.
        learning_rate: η of the run; needed for a bare state dict, and overrides what a checkpoint says.
        batch_size: likewise.
        momentum: of a bare state dict.
        weight_decay: of a bare state dict.
        data_root: folder of downloaded archives.
        device: where to put the network.

    Raises:
        ValueError: naming the flag that is missing, or what is wrong with the file.
    """
    if network is None:
        try:
            item = load_checkpoint(path, device=device)
        except ValueError as error:
            if "load_public_weights" in str(error):
                missing = "give --network, --learning-rate and --batch-size"
                raise ValueError(f"{path} holds bare weights: {missing}.") from None
            raise
        changes: dict[str, Any] = {"learning_rate": learning_rate} if learning_rate is not None else {}
        if batch_size is not None:
            changes["setting"] = dataclasses.replace(item.setting, batch_size=batch_size)
        return dataclasses.replace(item, **changes)
    for flag, value in (("--learning-rate", learning_rate), ("--batch-size", batch_size)):
        if value is None:
            raise ValueError(f"{path} holds bare weights, which don't say how they were trained: give {flag}.")
    preset = dataset if dataset in PRESETS else "cifar10"
    setting = make_training(
        preset,
        "at",
        {
            "dataset": dataset,
            "network": network,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "momentum": momentum,
            "weight_decay": weight_decay,
        },
    )
    model = build_network(setting.network, seed=0)
    load_public_weights(model, path)
    model.to(device).eval()
    return Checkpoint(
        setting=setting,
        seed=0,
        epoch=setting.epochs,
        iteration=setting.num_iterations,
        learning_rate=float(learning_rate or 0.0),
        next_learning_rate=None,
        model=model,
        momentum={},
        average=None,
        running=(0.0, 0.0, 0.0),
        data_digest=load_data(setting.data, root=data_root).digest,
        world_size=1,
    )
