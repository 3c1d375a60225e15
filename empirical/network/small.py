"""Networks small enough to train adversarially on a CPU and to differentiate twice exactly."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from empirical.network.blocks import ACTIVATIONS, Normalized, normalization_layer

__all__ = ["MLP", "Linear", "SmallConvNet"]


class SmallConvNet(Normalized):
    """3×3 convolutions with stride 2 after the first, global average, linear: ``(B, C, H, W)`` to ``(B, num_classes)``.

    Args:
        num_classes: number of logits.
        widths: output channels of each convolution.
        mean: per-channel mean subtracted inside the network.
        std: per-channel standard deviation divided by inside the network.
        normalization: "batch", "group" or "none", after every convolution. A convolution has a bias only with "none".
        activation: "relu", "softplus" or "gelu".
    """

    def __init__(
        self,
        num_classes: int,
        *,
        widths: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        normalization: str,
        activation: str,
    ) -> None:
        super().__init__(mean, std)
        self.activation = ACTIVATIONS[activation]
        channels = (len(mean), *widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if index == 0 else 2, padding=1, bias=normalization == "none")
            for index, (before, after) in enumerate(pairwise(channels))
        )
        self.norms = nn.ModuleList(normalization_layer(normalization, width, group_size=8) for width in widths)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, convolve, average over space, classify."""
        out = self.standardized(x)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            out = self.activation(norm(convolution(out)))
        return self.linear(out.mean(dim=(2, 3)))


class MLP(Normalized):
    """Fully connected layers on the flattened image: ``(B, C, H, W)`` to ``(B, num_classes)``.

    Args:
        num_classes: number of logits.
        in_features: C × H × W.
        widths: units of each hidden layer.
        mean: per-channel mean subtracted inside the network.
        std: per-channel standard deviation divided by inside the network.
        normalization: "batch", "group" or "none", after every hidden layer. A layer has a bias only with "none".
        activation: "relu", "softplus" or "gelu".
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_features: int,
        widths: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        normalization: str,
        activation: str,
    ) -> None:
        super().__init__(mean, std)
        self.activation = ACTIVATIONS[activation]
        features = (in_features, *widths)
        self.hidden = nn.ModuleList(
            nn.Linear(before, after, bias=normalization == "none") for before, after in pairwise(features)
        )
        self.norms = nn.ModuleList(normalization_layer(normalization, width, group_size=8) for width in widths)
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, flatten, apply every layer."""
        out = self.standardized(x).flatten(1)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            out = layer(out)
            # The shared norm layers act on (B, C, H, W).
            out = self.activation(norm(out[:, :, None, None])[:, :, 0, 0])
        return self.linear(out)


class Linear(Normalized):
    """One affine map of the standardised pixels, ``(B, C, H, W)`` to ``(B, num_classes)``: f(x) = W x + b.

    Under cross-entropy it is softmax regression, a convex problem. Under the squared loss the problem is quadratic:
    the Hessian of a class's weights is the inputs' second moment, whatever the weights.

    Args:
        num_classes: number of logits.
        in_features: C × H × W.
        mean: per-channel mean subtracted inside the network.
        std: per-channel standard deviation divided by inside the network.
    """

    def __init__(self, num_classes: int, *, in_features: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(mean, std)
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, flatten, map."""
        return self.linear(self.standardized(x).flatten(1))
