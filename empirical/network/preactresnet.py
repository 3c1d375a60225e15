"""PreActResNet-18, the network of the adversarial-training literature on 32×32 images.

Model     3×3 stem of 64 channels; four stages of two pre-activation blocks, 64, 128, 256, 512 channels, strides
          1, 2, 2, 2; 1×1 projection of the *activated* input where the shape changes; normalise, ReLU, global average,
          linear. 11,172,170 parameters at 10 classes with batch normalisation, 20 convolutions without bias, 17 norms.
Names     as in the files released with Rice, Wong & Kolter 2020 and Wu, Xia & Wang 2020, so their state dicts load
          (`empirical.network.load_public_weights`).
Cost      0.5554 GMAC an image: at batch 128 one forward is 142 GFLOP.
Source    He et al. 2016, Identity mappings in deep residual networks.
"""

from __future__ import annotations

from torch import Tensor, nn

from empirical.network.blocks import ACTIVATIONS, Normalized, PreActivationBlock, normalization_layer

__all__ = ["FORWARD_FLOP_PER_IMAGE", "PreActResNet18"]

FORWARD_FLOP_PER_IMAGE = 1.1108e9  # 2 × 555.4 MMAC at 32×32, counted layer by layer


class PreActBlock(PreActivationBlock):
    """A block whose shortcut is a projection where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, normalization: str, activation: str) -> None:
        super().__init__(in_channels, channels, stride, normalization=normalization, activation=activation)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False))

    def projected(self) -> nn.Module | None:
        """The 1×1 projection, where there is one."""
        return self.shortcut


class PreActResNet18(Normalized):
    """Logits ``(B, num_classes)`` of images ``(B, channels, H, W)`` with pixels in [0, 1].

    Args:
        num_classes: number of logits.
        mean: per-channel mean subtracted inside the network; its length is the number of input channels.
        std: per-channel standard deviation divided by inside the network.
        normalization: "batch" (as published), "group" or "none".
        activation: "relu" (as published), "softplus" or "gelu".
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] = (0.2471, 0.2435, 0.2616),
        normalization: str = "batch",
        activation: str = "relu",
    ) -> None:
        super().__init__(mean, std)
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(len(mean), 64, 3, padding=1, bias=False)
        channels = 64
        for stage, (width, stride) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], start=1):
            blocks = [
                PreActBlock(channels, width, stride, normalization=normalization, activation=activation),
                PreActBlock(width, width, 1, normalization=normalization, activation=activation),
            ]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            channels = width
        self.bn = normalization_layer(normalization, channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, run the four stages, average over space, classify."""
        out = self.conv1(self.standardized(x))
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            out = self.get_submodule(stage)(out)
        return self.linear(self.activation(self.bn(out)).mean(dim=(2, 3)))
