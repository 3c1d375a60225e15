"""The textbook PGD adversarial-training loop, kept slow on purpose: the reference that benchmarks are compared with.

What the published scripts do (structure as described in the protocol notes, written anew): ten attack steps that each
call ``loss.backward()`` and so compute every weight gradient and throw it away; a forward to score the final
perturbation; the robust forward and backward; and a clean forward for the log. 13 forwards and 11 full backwards:
35 units, where 23 are needed. With AWP one more forward and backward on a copy of the network.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from empirical.settings.attack import PGD

__all__ = ["textbook_step"]


def textbook_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    attack: PGD,
    *,
    gamma: float = 0.0,
) -> Tensor:
    """One iteration, returning its robust loss: L∞ attack, train mode, cross-entropy, plain float32.

    Args:
        model: the network.
        optimizer: its optimizer.
        x: pixels in [0, 1], shape ``(B, C, H, W)``.
        y: labels ``(B,)``.
        start: start perturbation, same shape as ``x``.
        attack: radius, step size and number of steps.
        gamma: radius of AWP's weight perturbation; 0 for plain adversarial training.
    """
    model.train()
    delta = ((x + start).clamp(0, 1) - x).requires_grad_()
    for _ in range(attack.steps):
        functional.cross_entropy(model(x + delta), y).backward()
        gradient = delta.grad
        assert gradient is not None
        with torch.no_grad():
            moved = (delta + attack.step_size * gradient.sign()).clamp(-attack.epsilon, attack.epsilon)
            delta.copy_((x + moved).clamp(0, 1) - x)
        gradient.zero_()
    delta = delta.detach()
    with torch.no_grad():
        functional.cross_entropy(model(x + delta), y)  # scores the final perturbation
    moves: dict[str, Tensor] = {}
    if gamma:
        proxy = copy.deepcopy(model)
        uphill = torch.optim.SGD(proxy.parameters(), lr=0.01)
        uphill.zero_grad()
        (-functional.cross_entropy(proxy(x + delta), y)).backward()
        uphill.step()
        with torch.no_grad():
            for (name, weight), moved in zip(model.named_parameters(), proxy.parameters(), strict=True):
                if weight.ndim > 1:
                    difference = moved - weight
                    moves[name] = gamma * weight.norm() * difference / (difference.norm() + 1e-20)
                    weight.add_(moves[name])
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(x + delta), y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in moves:
                weight.sub_(moves[name])
        model(x)  # clean accuracy, for the log
    return loss.detach()
