r"""Adaptive optimizers, with PyTorch's names, defaults and order of operations.

Adam      m ← β₁ m + (1−β₁) g,  s ← β₂ s + (1−β₂) g²,  w ← w − η m̂/(√ŝ + ε),  m̂ = m/(1−β₁ᵗ),  ŝ = s/(1−β₂ᵗ).
RMSprop   s ← α s + (1−α) g²,   b ← μ b + g/(√s + ε),   w ← w − η b.
Decay     Coupled: g gains κ w, which then passes through the preconditioner. Decoupled (AdamW): w ← (1−ηκ) w first.
"""

from __future__ import annotations

import math

from theory.model.setting import Setting, keyword_setting


@keyword_setting
class Adam(Setting):
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019), as `torch.optim` runs them.

    Args:
        learning_rate: η > 0; torch's default is 0.001.
        beta1: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        epsilon: ε ≥ 0, added to the root, in units of the gradient.
        weight_decay: κ ≥ 0.
        decoupled_weight_decay: AdamW's decay instead of an L2 term in the gradient.

    Raises:
        ValueError: if a value lies outside its range.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, "learning_rate")
        _check_fraction(self, "beta1", "beta2")
        _check_not_negative(self, "epsilon", "weight_decay")
        if self.decoupled_weight_decay and self.learning_rate * self.weight_decay >= 1:
            raise ValueError(
                "`Adam(weight_decay=...)` must keep η κ < 1 when decoupled; "
                f"got {self.learning_rate} · {self.weight_decay}."
            )


@keyword_setting
class RMSprop(Setting):
    """RMSprop (Tieleman and Hinton 2012), uncentred, as `torch.optim` runs it.

    Args:
        learning_rate: η > 0; torch's default is 0.01.
        smoothing: α in [0, 1).
        epsilon: ε ≥ 0, added to the root, in units of the gradient.
        momentum: μ in [0, 1).
        weight_decay: κ ≥ 0, coupled.

    Raises:
        ValueError: if a value lies outside its range.
    """

    learning_rate: float = 1e-2
    smoothing: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(self, "learning_rate")
        _check_fraction(self, "smoothing", "momentum")
        _check_not_negative(self, "epsilon", "weight_decay")


Adaptive = Adam | RMSprop


def _check_positive(setting: Setting, name: str) -> None:
    value = getattr(setting, name)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{type(setting).__name__}({name}=...)` must be > 0 and finite; got {value}.")


def _check_fraction(setting: Setting, *names: str) -> None:
    for name in names:
        value = getattr(setting, name)
        if not 0 <= value < 1:
            raise ValueError(f"`{type(setting).__name__}({name}=...)` must be in [0, 1); got {value}.")


def _check_not_negative(setting: Setting, *names: str) -> None:
    for name in names:
        value = getattr(setting, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"`{type(setting).__name__}({name}=...)` must be >= 0 and finite; got {value}.")
