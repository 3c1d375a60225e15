r"""A torch optimizer as the theory's: momentum SGD in coordinates where every weight has the same rate.

Groups    Weight i has the rate η_i. In u with w = s u, s_i = √(η_i/η), the update w ← w − η_i v is u ← u − η v' with
          the gradient s g: momentum SGD at one rate on the Hessian sHs. Decays that differ between groups become part
          of the loss, ½ Σ β_i w_i², and of its Hessian.
AdamW     The second moments v̂ are held where they are: P = 1/(√v̂ + ε), s = √P, momentum and dampening β₁. Its decay is
          decoupled: w ← w − ηβ w is a decay β of u.
Limits    Schedules, clipping and hooks do not show in an optimizer: the rate is the one that it has now.
Source    docs/mathematics.md (A1); `theory.closed_form.adaptive.frozen_adaptive_covariance`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from empirical.measure.subject import UserLandscape
from theory.model.optimizer import MomentumSGD

__all__ = ["Optimizing", "read_optimizer"]

_WHERE = "check_assumptions(from_optimizer=...)"


@dataclass(frozen=True, kw_only=True)
class Optimizing:
    """The theory's optimizer and the coordinates it lives in.

    Attributes:
        optimizer: η, μ, dampening, Nesterov and the common decay.
        scale: s by parameter name, None for 1 everywhere.
        decay: β by parameter name where it differs between groups; None: the optimizer's own.
        notes: what was assumed.
    """

    optimizer: MomentumSGD
    scale: dict[str, Tensor] | None = None
    decay: dict[str, float] | None = None
    notes: tuple[str, ...] = field(default=())

    def dress(self, landscape: UserLandscape) -> None:
        """Put a landscape into these coordinates."""
        shapes = landscape.unflatten(landscape.weights)
        if self.scale is not None:
            landscape.scale = {
                f"model.{name}": value.to(landscape.weights).expand_as(shapes[f"model.{name}"])
                for name, value in self.scale.items()
                if f"model.{name}" in shapes
            }
        if self.decay is not None:
            landscape.decay = {
                f"model.{name}": value for name, value in self.decay.items() if f"model.{name}" in shapes
            }

    def position(self, landscape: UserLandscape | Any) -> Tensor:
        """What the common decay pulls to zero, in the coordinates u, shape ``(P,)``, float64."""
        weights = landscape.weights.double()
        if landscape.scale is None:
            return weights
        return weights / torch.cat([landscape.scale[name].reshape(-1) for name in landscape.names]).double()


def read_optimizer(given: torch.optim.Optimizer, model: nn.Module) -> Optimizing:
    """What a torch optimizer does to a model, in the theory's terms.

    Raises:
        TypeError: if it is no torch optimizer.
        ValueError: if its law is not the theory's, or it does not hold the model's parameters.
    """
    if not isinstance(given, torch.optim.Optimizer):
        raise TypeError(f"`{_WHERE}` must be a torch.optim.SGD or AdamW; got {type(given).__name__}.")
    kind = type(given)
    if kind not in (torch.optim.SGD, torch.optim.AdamW):
        raise ValueError(f"`{_WHERE}` must be a torch.optim.SGD or AdamW; the theory has no law for {kind.__name__}.")
    model = getattr(model, "_orig_mod", model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for group in given.param_groups if group["params"]]
    held = {names[id(p)]: group for group in groups for p in group["params"] if id(p) in names}
    missing = [n for n, p in model.named_parameters() if p.requires_grad and n not in held]
    if not held or missing:
        raise ValueError(f"`{_WHERE}` must hold the model's parameters; it lacks {missing[:3] or 'all'}.")
    notes = ["learning rate as it is now: schedules and clipping are outside the theory's constant rate"]
    first = groups[0]
    for group in groups:
        if group.get("maximize"):
            raise ValueError(f"`{_WHERE}` must minimize; a group has maximize=True.")
        if not float(group["lr"]) > 0:
            raise ValueError(f"`{_WHERE}` must have a learning rate > 0 in every group; got {float(group['lr'])}.")
    if kind is torch.optim.AdamW:
        return _adamw(given, held, model, notes)
    for group in groups[1:]:
        for key in ("momentum", "dampening", "nesterov"):
            if group[key] != first[key]:
                raise ValueError(f"`{_WHERE}` must have one {key} in all groups; got {first[key]} and {group[key]}.")
    rate = max(float(group["lr"]) for group in groups)
    rates_differ = any(float(group["lr"]) != rate for group in groups)
    decays = {name: float(group["weight_decay"]) for name, group in held.items()}
    one = len(set(decays.values())) == 1 and not (rates_differ and any(decays.values()))
    if not one:
        notes.append("decays of the groups are part of the curvature")
    return Optimizing(
        optimizer=MomentumSGD(
            rate,
            float(first["momentum"]),
            float(first["dampening"]),
            bool(first["nesterov"]),
            next(iter(decays.values())) if one else 0.0,
        ),
        scale={n: torch.tensor((float(g["lr"]) / rate) ** 0.5) for n, g in held.items()} if rates_differ else None,
        decay=None if one else decays,
        notes=tuple(notes),
    )


def _adamw(given: torch.optim.Optimizer, held: dict[str, dict], model: nn.Module, notes: list[str]) -> Optimizing:
    first = next(iter(held.values()))
    keys = ("lr", "betas", "eps", "weight_decay")
    if any(group[key] != first[key] for group in held.values() for key in keys):
        raise ValueError(f"`{_WHERE}` must have one rate, betas, eps and decay for AdamW; got groups that differ.")
    if first.get("amsgrad"):
        raise ValueError(f"`{_WHERE}` must not use amsgrad: the theory has no law for it.")
    rate, (first_beta, second_beta) = float(first["lr"]), first["betas"]
    scale = {}
    for name, parameter in model.named_parameters():
        if name in held:
            state = given.state.get(parameter)
            if not state:
                raise ValueError(f"`{_WHERE}` must have taken steps: AdamW has no second moments of {name} yet.")
            corrected = state["exp_avg_sq"].double() / (1 - float(second_beta) ** float(state["step"]))
            scale[name] = (corrected.sqrt() + float(first["eps"])).rsqrt()
    notes.append("AdamW: second moments held where they are (frozen preconditioner)")
    return Optimizing(
        optimizer=MomentumSGD(rate, float(first_beta), float(first_beta), False, float(first["weight_decay"])),
        scale=scale,
        notes=tuple(notes),
    )
