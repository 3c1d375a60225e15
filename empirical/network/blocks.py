"""Normalisation and activation layers shared by the networks.

Their names are those of `empirical.settings.network`.
ReLU makes the Hessian of the loss discontinuous (curvature probes land on kinks); softplus and GELU are its smooth
controls. Group normalisation is the control for batch normalisation: it has no running statistics and no train mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ACTIVATIONS", "Normalized", "PreActivationBlock", "normalization_layer"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    # β = 10: within ln 2 / 10 ≈ 0.07 of ReLU everywhere, second derivative at most β/4 = 2.5. Chosen here, not tuned.
    "softplus": lambda x: functional.softplus(x, beta=10.0),
}


def normalization_layer(kind: str, channels: int, *, group_size: int = 1) -> nn.Module:
    """One normalisation layer over ``(B, channels, H, W)``.

    Group normalisation uses the largest group count that divides `channels`, is at most 32 (Wu & He 2018, §4.1), and
    leaves `group_size` channels a group: without spatial positions, a group of one channel would be a constant.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        most = max(1, min(32, channels // group_size))
        return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)
    return nn.Identity()


class Normalized(nn.Module):
    """Base of every network: takes pixels in [0, 1] and standardises them with per-channel constants first.

    The constants are buffers outside the state dict, so that parameter names match the public repositories' files
    (which normalise outside the network) while attacks stay in pixel units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def standardized(self, x: Tensor) -> Tensor:
        """(x − mean) / std per channel, in the precision of `x`."""
        return (x - self.mean) / self.std


class PreActivationBlock(nn.Module):
    """Two 3×3 convolutions, each after normalisation and activation, beside a shortcut (He et al. 2016).

    What stands on the shortcut, and under which name its weights are kept, is the network's: see `projected`.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, *, normalization: str, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.bn1 = normalization_layer(normalization, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = normalization_layer(normalization, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def projected(self) -> nn.Module | None:
        """What the activated input passes on the shortcut; None where the input itself passes."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        activated, projection = self.activation(self.bn1(x)), self.projected()
        residual = x if projection is None else projection(activated)
        return residual + self.conv2(self.activation(self.bn2(self.conv1(activated))))
