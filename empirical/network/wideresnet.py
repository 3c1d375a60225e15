"""WRN-34-10, the larger network of the adversarial-training literature on 32×32 images.

Model     3×3 stem of 16 channels; three groups of five pre-activation blocks, 160, 320, 640 channels, strides 1, 2, 2;
          1×1 projection of the *activated* input where the channels change; normalise, ReLU, global average, linear.
          46,160,474 parameters at 10 classes with batch normalisation; convolutions without bias, no dropout.
Names     as in the files of TRADES (Zhang et al. 2019), of Wu, Xia & Wang 2020 and of RobustBench, whose state dicts
          load (`empirical.network.load_public_weights`). Some hold a group "sub_block1" that no forward uses; it is
          left out.
Source    Zagoruyko & Komodakis 2016, Wide residual networks. Initialised as PyTorch does, not as theirs.
"""

from __future__ import annotations

from torch import Tensor, nn

from empirical.network.blocks import ACTIVATIONS, Normalized, PreActivationBlock, normalization_layer

__all__ = ["WideResNet"]


class WideBlock(PreActivationBlock):
    """A block whose shortcut is a projection where the channels change."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, normalization: str, activation: str) -> None:
        super().__init__(in_channels, channels, stride, normalization=normalization, activation=activation)
        self.convShortcut: nn.Module | None = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def projected(self) -> nn.Module | None:
        """The 1×1 projection, where there is one."""
        return self.convShortcut


class WideResNet(Normalized):
    """Logits ``(B, num_classes)`` of images ``(B, channels, H, W)`` with pixels in [0, 1].

    Args:
        num_classes: number of logits.
        mean: per-channel mean subtracted inside the network; its length is the number of input channels.
        std: per-channel standard deviation divided by inside the network.
        normalization: "batch" (as published), "group" or "none".
        activation: "relu" (as published), "softplus" or "gelu".
        depth: 6 n + 4 for n blocks a group.
        widen: channels of the groups, in units of 16, 32, 64.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        normalization: str,
        activation: str,
        depth: int = 34,
        widen: int = 10,
    ) -> None:
        super().__init__(mean, std)
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise ValueError(f"`WideResNet(depth=..., widen=...)` must be 6 n + 4 and >= 1; got {depth} and {widen}.")
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(len(mean), 16, 3, padding=1, bias=False)
        channels = 16
        for group, (width, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            blocks = []
            for index in range((depth - 4) // 6):
                here = stride if index == 0 else 1
                blocks.append(
                    WideBlock(channels, width * widen, here, normalization=normalization, activation=activation)
                )
                channels = width * widen
            block = nn.Module()
            block.layer = nn.Sequential(*blocks)
            self.add_module(f"block{group}", block)
        self.bn1 = normalization_layer(normalization, channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, run the three groups, average over space, classify."""
        out = self.conv1(self.standardized(x))
        for group in ("block1", "block2", "block3"):
            out = self.get_submodule(f"{group}.layer")(out)
        return self.fc(self.activation(self.bn1(out)).mean(dim=(2, 3)))
