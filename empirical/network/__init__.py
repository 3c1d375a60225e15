"""Networks: PreActResNet-18 for 32×32 images, a small convolutional net, an MLP and a linear map for the CPU."""

from empirical.network.build import build_network, load_public_weights, parameter_count
from empirical.network.preactresnet import FORWARD_FLOP_PER_IMAGE, PreActResNet18
from empirical.network.small import MLP, Linear, SmallConvNet

__all__ = [
    "FORWARD_FLOP_PER_IMAGE",
    "MLP",
    "Linear",
    "PreActResNet18",
    "SmallConvNet",
    "build_network",
    "load_public_weights",
    "parameter_count",
]
