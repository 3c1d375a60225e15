r"""The optimizer: momentum SGD in the two conventions that people write down.

PyTorch form (default, what `torch.optim.SGD` does; the buffer is not scaled by η):
    v ← μ v + (1−d) g,   w ← w − η (k g + ℓ v),   (k, ℓ) = (0, 1); (1, μ) with Nesterov; (1−ν, ν) quasi-hyperbolic.
Position form (textbook heavy ball; here v is the displacement w₊ − w):
    v ← μ v − (1−d) η g,   w ← w + v.
Quasi-hyperbolic momentum (Ma and Yarats, ICLR 2019, arXiv 1810.06801) has d = μ: there ν = 1 is heavy ball with
dampening, ν = μ Nesterov at (1−μ)η, and ν = 0 plain SGD.
They agree on w at constant η, and differ when η changes: the position form keeps a displacement of the old size.
Weight decay adds its coefficient to every curvature, g = (H + δI) w + ξ. torch's first step is undampened (its buffer
starts as g, not (1−d) g); the recursions here hold from the second step on.
"""

from __future__ import annotations

import math
from typing import Literal

from theory.model.setting import Setting, setting


@setting
class MomentumSGD(Setting):
    """Settings of momentum SGD: η, μ, dampening d, Nesterov, weight decay, form, and the discount ν of the buffer.

    Args:
        learning_rate: learning rate η > 0; the first one, where a schedule multiplies it.
        momentum: momentum μ in [0, 1).
        dampening: dampening d in [0, 1), the share of the gradient kept out of the buffer.
        nesterov: Nesterov's look-ahead step; needs the PyTorch form, μ > 0 and d = 0 (torch's own rule).
        weight_decay: weight decay, a coefficient ≥ 0 added to every eigenvalue of H.
        form: ``"pytorch"`` or ``"position"``.
        discount: ν in [0, 1], the buffer's share of the step, 1 − ν being the gradient's; below 1 it needs the PyTorch
            form without Nesterov. Ma and Yarats's QHM sets `dampening` to `momentum`.

    Raises:
        ValueError: if a value lies outside its range, or Nesterov or a discount is combined with what it excludes.
    """

    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    form: Literal["pytorch", "position"] = "pytorch"
    discount: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "momentum", "dampening", "weight_decay", "discount"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, float(value))
            except (TypeError, ValueError):
                raise ValueError(f"`MomentumSGD({name}=...)` must be a number; got {value!r}.") from None
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"`MomentumSGD(learning_rate=...)` must be > 0 and finite; got {self.learning_rate}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`MomentumSGD(momentum=...)` must be in [0, 1); got {self.momentum}.")
        if not 0 <= self.dampening < 1:
            raise ValueError(f"`MomentumSGD(dampening=...)` must be in [0, 1); got {self.dampening}.")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"`MomentumSGD(weight_decay=...)` must be >= 0 and finite; got {self.weight_decay}.")
        if self.form not in ("pytorch", "position"):
            raise ValueError(f"`MomentumSGD(form=...)` must be 'pytorch' or 'position'; got {self.form!r}.")
        if not isinstance(self.nesterov, bool):
            raise ValueError(f"`MomentumSGD(nesterov=...)` must be True or False; got {self.nesterov!r}.")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"`MomentumSGD(discount=...)` must be in [0, 1]; got {self.discount}.")
        if self.discount < 1 and (self.form != "pytorch" or self.nesterov):
            raise ValueError(
                "`MomentumSGD(discount=...)` below 1 needs form='pytorch' and nesterov=False; "
                f"got {self.form!r} and {self.nesterov}."
            )
        if self.nesterov and (self.form != "pytorch" or self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "`MomentumSGD(nesterov=True)` needs form='pytorch', momentum > 0 and dampening = 0; "
                f"got {self.form!r}, {self.momentum} and {self.dampening}."
            )

    @property
    def direction(self) -> tuple[float, float]:
        """(k, ℓ) of the PyTorch form's step w ← w − η (k g + ℓ v), v the new buffer; the position form has (0, 1)."""
        return (1.0, self.momentum) if self.nesterov else (1.0 - self.discount, self.discount)
