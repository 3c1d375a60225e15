"""What is minimised: the loss of a sample, at which inputs, and at which weights."""

from __future__ import annotations

import math
from typing import Literal, get_args

from empirical.settings.attack import PGD
from empirical.settings.awp import AWP
from empirical.settings.fields import require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = ["METHODS", "Loss", "Method", "MethodName", "Objective"]

Objective = Literal["standard", "at", "trades"]
Loss = Literal["cross-entropy", "squared"]
#: Names of the methods that presets know: an objective, with or without weight perturbation.
MethodName = Literal["standard", "at", "awp", "trades", "trades-awp"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)


@keyword_setting
class Method(Setting):
    """What is minimised; ℓ is the loss of a sample.

    standard    ℓ(f(x), y)
    at          ℓ(f(x_adv), y), x_adv = PGD on the cross-entropy          (Madry et al. 2018; Rice et al. 2020)
    trades      ℓ(f(x), y) + β KL(f(x) ‖ f(x_adv)), x_adv = PGD on KL     (Zhang et al. 2019)
    With `awp`, the gradient is taken at adversarially perturbed weights (Wu et al. 2020).

    Args:
        objective: which of the three.
        attack: the training attack; None for standard training.
        awp: weight perturbation; None for none.
        beta: weight β > 0 of TRADES' divergence.
        loss: "cross-entropy" in nats, or "squared": ½‖f(x) − e_y‖² to the one-hot label (standard training only; a
            linear network then is a ridge regression, whose Hessian does not depend on the weights).

    Raises:
        ValueError: if the parts do not fit together.
    """

    objective: Objective
    attack: PGD | None = None
    awp: AWP | None = None
    beta: float = 6.0
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        require_choices(self)
        if (self.attack is None) != (self.objective == "standard"):
            raise ValueError(
                f"`Method(attack=...)` must be given for 'at' and 'trades' only; "
                f"got {self.attack} with {self.objective!r}."
            )
        if self.attack is not None and (self.attack.loss == "kl") != (self.objective == "trades"):
            raise ValueError(
                f"`Method(attack=...)` must maximise what {self.objective!r} trains on; got loss {self.attack.loss!r}."
            )
        if self.loss == "squared" and (self.objective != "standard" or self.awp is not None):
            raise ValueError(f"`Method(loss='squared')` is for standard training; got the method {self.name!r}.")
        if not 0 < self.beta < math.inf:
            raise ValueError(f"`Method(beta=...)` must be > 0 and finite; got {self.beta}.")

    @property
    def name(self) -> str:
        """One of `METHODS`, or "standard-awp"."""
        if self.awp is None:
            return self.objective
        return "awp" if self.objective == "at" else f"{self.objective}-awp"
