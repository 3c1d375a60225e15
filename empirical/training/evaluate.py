"""Clean and robust loss and accuracy at fixed weights: eval mode, float32, no augmentation, the same attack everywhere.

The attack may be run by faster arithmetic, that of training; what it finds is evaluated in float32 by the network as it
is, so that only the attack's strength is at stake, never the loss of an input.

The robust generalization gap is a difference of two such numbers. The "train robust accuracy" of published logs is
not: it is averaged while the weights move, in train mode, on augmented data, and for AWP at perturbed weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from empirical.data.resident import Split
from empirical.data.streams import generator
from empirical.records.parts import SplitMetrics
from empirical.settings.attack import PGD
from empirical.settings.method import Loss
from empirical.training.attack import Attack, draw_starts, pgd_from
from empirical.training.distributed import SINGLE, World
from empirical.training.loss import summed_loss
from empirical.training.numerics import without_tf32

__all__ = ["SplitMetrics", "eval_mode", "evaluate"]


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within: eval mode. After: every module in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model: nn.Module,
    split: Split,
    attack: PGD,
    *,
    seed: int,
    batch_size: int = 500,
    loss: Loss = "cross-entropy",
    world: World = SINGLE,
    attacked: Attack | None = None,
) -> SplitMetrics:
    """Evaluate the model as it is; processes share the batches. Losses are of the kind `loss`, whatever is attacked.

    `attacked` makes the adversarial inputs of ``(attack, x, y, starts)``; by default `pgd_from` does, in float32.
    The random starts depend on `seed` and the batch alone, so that two evaluations differ by the weights only.

    Raises:
        ValueError: if the split is empty.
    """
    if len(split) == 0:
        raise ValueError("`evaluate(split=...)` must hold at least one image; got 0.")
    totals = torch.zeros(4, dtype=torch.float64, device=split.images.device)
    with eval_mode(model):
        for index, (x, y) in enumerate(split.batches(batch_size)):
            if index % world.size != world.rank:
                continue
            source = generator(seed, "evaluation", index, device=x.device)
            starts = draw_starts(x.shape, attack, generator=source, device=x.device, dtype=x.dtype)
            if attacked is None:
                with without_tf32():
                    adversarial = pgd_from(model, x, y, attack, starts)
            else:
                adversarial = attacked(attack, x, y, starts)
            with torch.no_grad(), without_tf32():
                clean, robust = model(x), model(adversarial)
                totals += torch.stack(
                    [
                        summed_loss(loss, clean.double(), y),
                        (clean.argmax(1) == y).sum().double(),
                        summed_loss(loss, robust.double(), y),
                        (robust.argmax(1) == y).sum().double(),
                    ]
                )
    clean_loss, clean_hits, robust_loss, robust_hits = (world.sum(totals) / len(split)).tolist()
    return SplitMetrics(
        count=len(split),
        clean_loss=clean_loss,
        clean_accuracy=clean_hits,
        robust_loss=robust_loss,
        robust_accuracy=robust_hits,
    )
