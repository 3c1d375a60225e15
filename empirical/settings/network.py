"""Which network: its architecture, and the constants it standardises its pixels with."""

from __future__ import annotations

from typing import Literal, get_args

from empirical.settings.fields import require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = [
    "NETWORKS",
    "ActivationName",
    "NetworkName",
    "NetworkSetting",
    "Normalization",
]

NetworkName = Literal["preactresnet18", "wideresnet34-10", "convnet", "mlp", "linear"]
Normalization = Literal["batch", "group", "none"]
ActivationName = Literal["relu", "softplus", "gelu"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
#: Largest width: a convolution between two such layers has 10 GiB of weights.
WIDEST = 16_384
#: Networks that are made of layers as wide as `NetworkSetting.widths` says.
LAYERED = ("convnet", "mlp")


@keyword_setting
class NetworkSetting(Setting):
    """Architecture and the constants it standardises its pixels with.

    Args:
        name: architecture; "linear" is one affine map of the pixels (softmax regression under cross-entropy).
        num_classes: number of logits, ≥ 2.
        image_shape: (channels, height, width) of the input.
        widths: channels of each convolution (convnet) or units of each hidden layer (mlp), such as 16,32,64.
        normalization: normalization layers; unused by linear.
        activation: activation; unused by linear.
        mean: per-channel mean of the pixels, in units of [0, 1].
        std: per-channel standard deviation of the pixels, in units of [0, 1].

    Raises:
        ValueError: if a value is out of range, or the lengths of `mean` and `std` differ from the channels.
    """

    name: NetworkName
    num_classes: int
    image_shape: tuple[int, int, int]
    widths: tuple[int, ...] = ()
    normalization: Normalization = "batch"
    activation: ActivationName = "relu"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        require_choices(self)
        if self.num_classes < 2:
            raise ValueError(f"`NetworkSetting(num_classes=...)` must be >= 2; got {self.num_classes}.")
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(
                f"`NetworkSetting(image_shape=...)` must be (channels, height, width); got {self.image_shape}."
            )
        if len(self.mean) != self.image_shape[0] or len(self.std) != self.image_shape[0]:
            raise ValueError(
                f"`NetworkSetting(mean=..., std=...)` must have one value a channel ({self.image_shape[0]}); "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        if min(self.std) <= 0:
            raise ValueError(f"`NetworkSetting(std=...)` must be > 0; got {self.std}.")
        if self.name in LAYERED and not self.widths:
            raise ValueError(f"`NetworkSetting(widths=...)` must name at least one width; got {self.widths}.")
        if self.widths and not 1 <= min(self.widths) <= max(self.widths) <= WIDEST:
            raise ValueError(f"`NetworkSetting(widths=...)` must lie in [1, {WIDEST:,}]; got {self.widths}.")

    @property
    def has_batch_norm(self) -> bool:
        """Whether it normalises by the statistics of a batch."""
        return self.normalization == "batch" and self.name != "linear"
