"""Adversarial weight perturbation: its radius, and the choices on which published codes differ."""

from __future__ import annotations

from typing import Literal

from empirical.settings.fields import require_at_least, require_at_most, require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = ["AWP", "PerturbationBatch", "PerturbationNorm", "WeightDecayAt"]

PerturbationNorm = Literal["layer", "filter", "network"]
PerturbationBatch = Literal["same", "fresh"]
WeightDecayAt = Literal["perturbed", "original"]


@keyword_setting
class AWP(Setting):
    """Adversarial weight perturbation (Wu, Xia & Wang 2020); the defaults are the published ones for AT on CIFAR-10.

    Args:
        gamma: radius γ ≥ 0 of the weight perturbation, relative to each tensor's norm.
        warmup_epochs: epochs without perturbation at the start (published: 0 on CIFAR, 5 on SVHN, 10 with TRADES).
        normalization: "layer": Frobenius norm of the whole tensor (published); "filter": of each output unit;
            "network": one norm over all perturbed tensors.
        batch: "same": the perturbation maximises the loss of the training batch itself (published); "fresh": of
            another batch, drawn independently and attacked in the same way.
        recompute_attack: attack the inputs again at w + v before the gradient is taken (published: no).
        steps: ascent steps of the weight perturbation, ≥ 1 (published: 1).
        weight_decay: where weight decay acts: "perturbed" (w + v, as published) or "original" (w).

    Raises:
        ValueError: if a value is out of range.
    """

    gamma: float = 0.01
    warmup_epochs: int = 0
    normalization: PerturbationNorm = "layer"
    batch: PerturbationBatch = "same"
    recompute_attack: bool = False
    steps: int = 1
    weight_decay: WeightDecayAt = "perturbed"

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ValueError(f"`AWP(gamma=...)` must be >= 0 and finite; got {self.gamma}.")
        require_at_least(self, warmup_epochs=0, steps=1)
        require_at_most(self, steps=1000)
        require_choices(self)
