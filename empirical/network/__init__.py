"""Networks: PreActResNet-18 for 32×32 images, a small convolutional net and an MLP for the CPU."""

from empirical.network.preactresnet import FORWARD_FLOP_PER_IMAGE, PreActResNet18
from empirical.network.setting import NETWORKS, NetworkSetting, build_network, load_public_weights, parameter_count
from empirical.network.small import MLP, SmallConvNet

__all__ = [
    "FORWARD_FLOP_PER_IMAGE",
    "MLP",
    "NETWORKS",
    "NetworkSetting",
    "PreActResNet18",
    "SmallConvNet",
    "build_network",
    "load_public_weights",
    "parameter_count",
]
