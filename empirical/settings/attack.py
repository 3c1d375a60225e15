"""The attack: radius, step and start of projected gradient descent."""

from __future__ import annotations

from typing import Literal

from empirical.settings.fields import require_at_least, require_at_most, require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = ["PGD", "AttackBatchNorm", "AttackLoss", "Norm", "Start"]

Norm = Literal["linf", "l2"]
Start = Literal["uniform", "gaussian", "none"]
AttackBatchNorm = Literal["train", "batch", "eval"]
AttackLoss = Literal["cross-entropy", "kl"]


@keyword_setting
class PGD(Setting):
    """Projected gradient descent (Madry et al. 2018); `empirical.training.attack` runs it.

    Args:
        epsilon: radius ε ≥ 0 of the ball, in pixel units of [0, 1], such as 8/255 (for L2: of the whole image).
        step_size: step α ≥ 0 of the attack, in pixel units of [0, 1].
        steps: gradient steps of the attack, ≥ 0.
        norm: norm of the ball.
        restarts: independent starts, ≥ 1; the sample's largest loss wins.
        random_start: "uniform" in the ball, "gaussian" (0.001 · N(0, 1), as TRADES), or "none".
        batch_norm: "train": batch statistics, and every attack forward updates the running ones (Rice et al., AWP);
            "batch": batch statistics, running ones restored afterwards; "eval": running statistics (TRADES, and every
            evaluation).
        loss: "cross-entropy" against y, or "kl" from the clean prediction (TRADES).

    Raises:
        ValueError: if a value is out of range.
    """

    epsilon: float
    step_size: float
    steps: int = 10
    norm: Norm = "linf"
    restarts: int = 1
    random_start: Start = "uniform"
    batch_norm: AttackBatchNorm = "eval"
    loss: AttackLoss = "cross-entropy"

    def __post_init__(self) -> None:
        require_choices(self)
        limit = 1 if self.norm == "linf" else float("inf")
        if not 0 <= self.epsilon <= limit:
            raise ValueError(
                f"`PGD(epsilon=...)` must be in [0, {limit}], in pixel units of [0, 1] (8/255, not 8); "
                f"got {self.epsilon}."
            )
        if not 0 <= self.step_size < float("inf"):
            raise ValueError(f"`PGD(step_size=...)` must be >= 0 and finite; got {self.step_size}.")
        require_at_least(self, steps=0, restarts=1)
        require_at_most(self, steps=100_000, restarts=1000)
