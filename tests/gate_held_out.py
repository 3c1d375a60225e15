"""Small models and laws of data on which the gate's intervals were chosen, so that `gate_coverage` could judge them.

Other activations, losses, tails and layers than there, under other laws of inputs and labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

COUNT = 2048
CE = nn.CrossEntropyLoss(reduction="none")
Data = Callable[[torch.Generator], tuple[Tensor, Tensor]]


class Sine(nn.Module):
    """A periodic activation."""

    def forward(self, x):
        return torch.sin(x)


class Pooled(nn.Module):
    """The mean over an image."""

    def forward(self, x):
        return x.flatten(2).mean(dim=2)


class Attention(nn.Module):
    """One head without a normalisation."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(dim=1))


class Bilinear(nn.Module):
    """Products of inputs."""

    def __init__(self):
        super().__init__()
        self.form = nn.Bilinear(4, 4, 2)

    def forward(self, x):
        return self.form(x, torch.tanh(x))


def student(shape: tuple[int, ...], degrees: int, generator: torch.Generator) -> Tensor:
    """Student's t, one scale a sample."""
    scale = torch.randn(COUNT, degrees, generator=generator).square().mean(dim=1).sqrt()
    return torch.randn(COUNT, *shape, generator=generator) / scale.view(COUNT, *[1] * len(shape))


def softmax_labels(*shape: int, classes: int = 3, decades: float = 0.0, degrees: int = 0) -> Data:
    """Labels drawn from a softmax of the inputs."""

    def data(generator: torch.Generator):
        x = student(shape, degrees, generator) if degrees else torch.randn(COUNT, *shape, generator=generator)
        x = x * torch.logspace(0, -decades, shape[-1])
        uniform = torch.rand(COUNT, classes, generator=generator)
        return x, (2 * x.flatten(1)[:, :classes] - torch.log(-torch.log(uniform))).argmax(dim=1)

    return data


def counts(generator: torch.Generator):
    """Poisson counts."""
    x = 0.5 * torch.randn(COUNT, 6, generator=generator)
    return x, torch.poisson(torch.exp(0.5 * x[:, :3].sum(dim=1)), generator=generator)


def curve(degrees: int) -> Data:
    """A nonlinear law with a heavy-tailed error."""

    def data(generator: torch.Generator):
        x = torch.randn(COUNT, 3, generator=generator)
        return x, torch.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * student((), degrees, generator)

    return data


def poisson(outputs, targets):
    """Negative log-likelihood of a log rate."""
    return torch.exp(outputs[:, 0]) - targets * outputs[:, 0]


def log_cosh(outputs, targets):
    """A smooth absolute error."""
    off = outputs[:, 0] - targets
    return torch.logaddexp(off, -off) - math.log(2)


def squared(outputs, targets):
    """Half the squared error."""
    return 0.5 * (outputs[:, 0] - targets) ** 2


HELD_OUT = {
    "poisson": (lambda: nn.Linear(6, 1), counts, poisson),
    "four classes": (lambda: nn.Linear(6, 4), softmax_labels(6, classes=4, decades=0.7), CE),
    "student inputs": (lambda: nn.Linear(5, 3), softmax_labels(5, degrees=7), CE),
    "deep elu": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ELU(), nn.Linear(4, 4), nn.ELU(), nn.Linear(4, 3)),
        softmax_labels(5),
        CE,
    ),
    "log cosh": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, 1)), curve(5), log_cosh),
    "gated": (lambda: nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 3)), softmax_labels(4), CE),
    "bilinear": (Bilinear, softmax_labels(4, classes=2), CE),
    "root mean square norm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.RMSNorm(5), nn.SiLU(), nn.Linear(5, 3)),
        softmax_labels(4),
        CE,
    ),
    "pooled convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), Pooled(), nn.Linear(3, 3)),
        softmax_labels(1, 4, 4),
        CE,
    ),
    "plain attention": (Attention, softmax_labels(3, 4, classes=2), CE),
    "sine": (lambda: nn.Sequential(nn.Linear(3, 6), Sine(), nn.Linear(6, 1)), curve(8), squared),
}
