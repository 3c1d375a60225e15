r"""The optimizer: momentum SGD in the two conventions that people write down.

PyTorch form (default, what `torch.optim.SGD` does; the buffer is not scaled by η):
    v ← μ v + (1−d) g,   w ← w − η (k g + ℓ v),   (k, ℓ) = (0, 1); (1, μ) with Nesterov; (1−ν, ν) quasi-hyperbolic.
Position form (textbook heavy ball; here v is the displacement w₊ − w):
    v ← μ v − (1−d) η g,   w ← w + v.
Quasi-hyperbolic momentum (Ma and Yarats, ICLR 2019, arXiv 1810.06801) has d = μ: there ν = 1 is heavy ball with
dampening, ν = μ Nesterov at (1−μ)η, and ν = 0 plain SGD.
They agree on w at constant η, and differ when η changes: the position form keeps a displacement of the old size.
Weight decay adds its pull to the gradient, g = H (w − w*) + δ w + ξ: its coefficient joins every curvature, and the
optimum that SGD sees moves. Without momentum torch keeps no buffer and ignores dampening, and so does everything here.
torch's first step is undampened (its buffer starts as g, not (1−d) g): see `undampened_first_step` of every path.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from theory.model.setting import Setting, keyword_setting, later_field, require_type, setting


@keyword_setting
class ParameterGroups(Setting):
    """Rates and weight decays that differ between coordinates, as factors of the optimizer's own (and its schedules').

    The standard case, no decay on norms and biases, has decay factors 0 there and 1 elsewhere.

    Args:
        rate_factors: η_i/η > 0, shape ``(m,)``; None for 1.
        decay_factors: δ_i/δ ≥ 0, shape ``(m,)``; None for 1.

    Raises:
        ValueError: if there is neither, a factor is out of range, or their lengths differ.
    """

    rate_factors: NDArray[np.float64] | None = None
    decay_factors: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        lengths: set[int] = set()
        for name, rule in (("rate_factors", "> 0"), ("decay_factors", ">= 0")):
            given = getattr(self, name)
            if given is None:
                continue
            factors = np.array(given, dtype=np.float64)
            good = np.isfinite(factors) & ((factors > 0) if name == "rate_factors" else (factors >= 0))
            if factors.ndim != 1 or factors.size == 0 or not good.all():
                raise ValueError(
                    f"`ParameterGroups({name}=...)` must be {rule} and finite, one a coordinate, shape (m,); "
                    f"got shape {factors.shape}{'' if good.all() else f', {factors[~good][0]:g} among them'}."
                )
            factors.flags.writeable = False
            object.__setattr__(self, name, factors)
            lengths.add(len(factors))
        if len(lengths) != 1:
            raise ValueError(
                "`ParameterGroups(...)` must have rate_factors or decay_factors, of one length; "
                f"got lengths {sorted(lengths)}."
            )

    @property
    def dimension(self) -> int:
        """Number of coordinates m."""
        return len(self.rate_factors if self.rate_factors is not None else self.decay_factors)  # pyright: ignore[reportArgumentType]

    def rates(self) -> NDArray[np.float64]:
        """η_i/η, shape ``(m,)``."""
        return np.ones(self.dimension) if self.rate_factors is None else self.rate_factors

    def decays(self) -> NDArray[np.float64]:
        """δ_i/δ, shape ``(m,)``."""
        return np.ones(self.dimension) if self.decay_factors is None else self.decay_factors


@setting
class MomentumSGD(Setting):
    """Settings of momentum SGD: η, μ, dampening d, Nesterov, weight decay, form, and the discount ν of the buffer.

    Args:
        learning_rate: learning rate η > 0; the first one, where a schedule multiplies it.
        momentum: momentum μ in [0, 1).
        dampening: dampening d in [0, 1), the share of the gradient kept out of the buffer; without momentum it
            has no effect.
        nesterov: Nesterov's look-ahead step; needs the PyTorch form, μ > 0 and d = 0 (torch's own rule).
        weight_decay: weight decay, a coefficient ≥ 0 added to every eigenvalue of H.
        form: ``"pytorch"`` or ``"position"``.
        discount: ν in [0, 1], the buffer's share of the step, 1 − ν being the gradient's; below 1 it needs the PyTorch
            form without Nesterov. Ma and Yarats's QHM sets `dampening` to `momentum`.
        groups: factors of learning rate and weight decay, coordinate by coordinate; None for one group.

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
    groups: ParameterGroups | None = later_field()

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
        if type(self.nesterov) is not bool:
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

        require_type(self.groups, (ParameterGroups, type(None)), "MomentumSGD(groups=...)")

    @property
    def direction(self) -> tuple[float, float]:
        """(k, ℓ) of the PyTorch form's step w ← w − η (k g + ℓ v), v the new buffer; the position form has (0, 1)."""
        return (1.0, self.momentum) if self.nesterov else (1.0 - self.discount, self.discount)

    @property
    def gradient_share(self) -> float:
        """The share of the gradient that enters the buffer: 1 − d, and 1 without momentum."""
        return 1.0 - self.dampening if self.momentum else 1.0
