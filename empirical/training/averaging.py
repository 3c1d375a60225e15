"""A network with the mean of its weights over epochs: stochastic weight averaging (Izmailov et al. 2018, Algorithm 1).

Running batch-norm statistics are of the weights that they were gathered at, and no mean of them fits averaged weights:
they are taken anew, on the clean training images, unaugmented, as the mean over batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from empirical.data.resident import Split

__all__ = ["take_swa"]


@torch.no_grad()
def take_swa(model: nn.Module, weights: Mapping[str, Tensor], train: Split, batch_size: int) -> None:
    """Give a network averaged weights, and the batch-norm statistics that the training images have at them.

    Args:
        model: changed in place; its mode is left as found.
        weights: every parameter by name, such as `Checkpoint.swa`.
        train: training images.
        batch_size: images at once; a last batch of one image is left out, which has no variance.
    """
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
    update_bn((x for x, _ in train.batches(batch_size) if len(x) > 1), model)
