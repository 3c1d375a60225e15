"""How the robust accuracy of a finished network is measured: which strong attacks, on which images."""

from __future__ import annotations

from typing import Literal, get_args

from empirical.settings.attack import Norm
from empirical.settings.fields import require_at_least, require_at_most, require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = ["AUTOATTACK", "STRONG_ATTACKS", "Robustness", "StrongAttack", "Weights"]

StrongAttack = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
STRONG_ATTACKS: tuple[StrongAttack, ...] = get_args(StrongAttack)
#: The standard AutoAttack: the four in this order (Croce & Hein 2020).
AUTOATTACK: tuple[StrongAttack, ...] = STRONG_ATTACKS
Weights = Literal["last", "average", "swa"]


@keyword_setting
class Robustness(Setting):
    """A suite of attacks, each on the images that the ones before it left standing (Croce & Hein, arXiv:2003.01690).

    Args:
        attacks: in their order. APGD on the cross-entropy and targeted APGD gave the whole suite's number to 0.02
            percentage points on three networks, in a quarter of its time (the logs published by Wu, Xia & Wang 2020);
            all four are AutoAttack.
        epsilon: radius ε ≥ 0 of the ball, in pixel units of [0, 1] (for L2: of the whole image).
        norm: norm of the ball.
        steps: of APGD and FAB (the standard: 100).
        targets: classes that the targeted attacks aim at, the likeliest first (the standard: 9).
        queries: of the Square attack (the standard: 5,000).
        batch_size: images at once.
        weights: of the checkpoint: its own, or an average that it keeps.

    Raises:
        ValueError: if a value is out of range, or an attack is named twice or not at all.
    """

    attacks: tuple[StrongAttack, ...] = ("apgd-ce", "apgd-t")
    epsilon: float
    norm: Norm = "linf"
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    batch_size: int = 250
    weights: Weights = "last"

    def __post_init__(self) -> None:
        require_choices(self)
        if not self.attacks or len(set(self.attacks)) != len(self.attacks) or set(self.attacks) - set(STRONG_ATTACKS):
            raise ValueError(
                f"`Robustness(attacks=...)` must name some of {STRONG_ATTACKS}, each once; got {self.attacks}."
            )
        if not 0 <= self.epsilon < float("inf"):
            raise ValueError(f"`Robustness(epsilon=...)` must be >= 0 and finite; got {self.epsilon}.")
        require_at_least(self, steps=1, targets=1, queries=1, batch_size=1)
        require_at_most(self, steps=100_000, queries=10_000_000)
