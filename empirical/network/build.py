"""How a `NetworkSetting` is built, and how the public repositories' weights are loaded into the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from empirical.network.files import load_tensors, read_bytes
from empirical.network.preactresnet import PreActResNet18
from empirical.network.small import MLP, Linear, SmallConvNet
from empirical.network.wideresnet import WideResNet
from empirical.settings.network import NetworkSetting

__all__ = ["build_network", "load_public_weights", "parameter_count"]


def build_network(setting: NetworkSetting, *, seed: int) -> nn.Module:
    """The network with PyTorch's default initialisation drawn from `seed`; the global generators are left as found."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed every GPU too
        shared = {
            "mean": setting.mean,
            "std": setting.std,
            "normalization": setting.normalization,
            "activation": setting.activation,
        }
        if setting.name == "preactresnet18":
            return PreActResNet18(setting.num_classes, **shared)
        if setting.name == "wideresnet34-10":
            return WideResNet(setting.num_classes, **shared)
        if setting.name == "convnet":
            return SmallConvNet(setting.num_classes, widths=setting.widths, **shared)
        features = math.prod(setting.image_shape)
        if setting.name == "linear":
            return Linear(setting.num_classes, in_features=features, mean=setting.mean, std=setting.std)
        return MLP(setting.num_classes, in_features=features, widths=setting.widths, **shared)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_public_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights saved by another repository into `model`, in place.

    Accepts a bare state dict or one under ``"state_dict"``, with the prefixes that wrappers leave behind ("module."
    of DataParallel, "model.", "1." of a (normalisation, network) pair). Only tensors are read: pickled code is refused.

    Raises:
        ValueError: if the file is missing, truncated, holds anything but tensors, or is of another network.
    """
    where = f"`load_public_weights(path={str(path)!r})`"
    stored = load_tensors(where, read_bytes(where, path))
    if isinstance(stored, Mapping) and isinstance(stored.get("state_dict"), Mapping):
        stored = stored["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"{where} must hold a state dict; got {type(stored).__name__}.")
    weights = {_bare(str(name)): value for name, value in stored.items()}
    weights = {name: value for name, value in weights.items() if name not in ("mean", "std", "mu", "sigma")}
    # A group that TRADES' WideResNet has and its forward never uses.
    weights = {name: value for name, value in weights.items() if not name.startswith("sub_block1.")}
    expected = model.state_dict()
    # Files written before PyTorch 0.4.1 have no batch counters; they don't enter any computation at fixed momentum.
    absent = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    unknown = [name for name in weights if name not in expected]
    if absent or unknown:
        raise ValueError(f"{where} is of another network: lacks {absent[:3]}, has {unknown[:3]} beyond it.")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise ValueError(
                f"{where} is of another network: `{name}` has shape {tuple(value.shape)}, "
                f"not {tuple(expected[name].shape)}."
            )
    model.load_state_dict(weights, strict=False)


def _bare(name: str) -> str:
    while name.startswith(("module.", "model.", "0.", "1.")):
        name = name.split(".", 1)[1]
    return name
