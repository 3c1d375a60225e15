r"""The loss of a sample, by the name that `Method.loss` has.

cross-entropy   ℓ(f, y) = −ln softmax(f)_y, in nats
squared         ℓ(f, y) = ½ ‖f − e_y‖², e_y the one-hot label: for a linear network H = E[x̃x̃ᵀ] for each class, x̃ the
                standardised pixels and a 1, and no other term, whatever the weights
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from empirical.settings.method import Loss

__all__ = ["PerSampleLoss", "cross_entropy", "per_sample_loss", "squared", "summed_loss"]

#: From outputs ``(B, K)`` and targets ``(B,)`` to one loss a sample, ``(B,)``.
PerSampleLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample in nats, shape ``(B,)``."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance of each output ``(B, K)`` from the one-hot label, shape ``(B,)``."""
    # A comparison instead of `one_hot`, which vmap refuses.
    labels = targets[:, None] == torch.arange(outputs.shape[1], device=outputs.device)
    return 0.5 * (outputs - labels.to(outputs.dtype)).square().sum(dim=1)


def per_sample_loss(name: Loss) -> PerSampleLoss:
    """The loss of that name."""
    return squared if name == "squared" else cross_entropy


def summed_loss(name: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over the samples, a scalar."""
    if name == "squared":
        return squared(outputs, targets).sum()
    return functional.cross_entropy(outputs, targets, reduction="sum")
