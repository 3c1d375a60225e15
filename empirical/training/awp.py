r"""Adversarial weight perturbation: train on the gradient taken at the worst nearby weights.

Model     v = γ ‖w_l‖ ∇_l ℓ(w) / ‖∇_l ℓ(w)‖ for every weight tensor l with more than one axis; then
          w ← w − η (μ m + ∇ℓ(w + v) + δ (w + v)): gradient *and* weight decay at w + v, the step from w.
Steps     with several, v_{j+1} = v_j + (γ/steps) ‖w_l‖ ∇_l ℓ(w + v_j)/‖∇_l ℓ(w + v_j)‖, so that ‖v_l‖ ≤ γ ‖w_l‖ always.
Limits    γ = 0 is plain training. On ℓ = ½ wᵀHw: v = γ‖w‖ Hw/‖Hw‖ and the gradient used is H(w + v).
Published Wu, Xia & Wang 2020 take v from the weights' difference after one plain step of a copy of the network. The
          copy's learning rate cancels, so v is the expression above; taken from the gradient directly it keeps full
          precision when gradients are tiny (late on SVHN they reach 1e-3 of the weights' rounding).
          Whole-tensor norms, same batch, inputs not attacked again at w + v: each of these is a setting here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from empirical.settings.awp import AWP
from empirical.training.attack import batch_norm_layers

__all__ = ["awp", "perturbation_step", "perturbed_parameters", "perturbed_weights"]


def perturbed_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The tensors AWP moves: trainable, with more than one axis (20 convolutions and 1 linear in PreActResNet-18)."""
    return {name: value for name, value in model.named_parameters() if value.ndim > 1 and value.requires_grad}


def awp(
    model: nn.Module,
    loss: Callable[[], Tensor],
    setting: AWP,
    *,
    reduce_gradients: Callable[[list[Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """The perturbation v of each tensor in `perturbed_parameters`, by name, in the tensors' own shapes and units.

    Leaves weights, ``.grad`` and running batch-norm statistics as it found them, to the bit.

    Args:
        model: the network, in the mode in which the loss is to be taken.
        loss: scalar loss of the chosen batch at the model's current weights; called once a step.
        setting: γ, normalisation and steps.
        reduce_gradients: averages gradients over processes in place, where there are several.
    """
    weights = perturbed_parameters(model)
    buffers = [(buffer, buffer.clone()) for layer in batch_norm_layers(model) for buffer in layer.buffers()]
    perturbation: dict[str, Tensor] = {}
    try:
        for _ in range(setting.steps):
            with perturbed_weights(model, perturbation), torch.enable_grad():
                gradients = list(torch.autograd.grad(loss(), list(weights.values())))
            if reduce_gradients is not None:
                reduce_gradients(gradients)
            step = perturbation_step(weights, dict(zip(weights, gradients, strict=True)), setting)
            perturbation = {name: perturbation[name] + step[name] for name in step} if perturbation else step
    finally:
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
    return perturbation


@torch.no_grad()
def perturbation_step(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], setting: AWP
) -> dict[str, Tensor]:
    """(γ/steps) ‖w‖ g/‖g‖ by tensor, by filter, or over the network; 0 where the gradient is 0."""
    radius = setting.gamma / setting.steps
    # Norms of g/max|g|: the square of a gradient below 1e-19 would underflow in float32.
    scaled = {name: gradient / gradient.abs().amax().clamp_min(1e-38) for name, gradient in gradients.items()}
    if setting.normalization == "network":
        peak = torch.stack([gradient.abs().amax() for gradient in gradients.values()]).amax().clamp_min(1e-38)
        scaled = {name: gradient / peak for name, gradient in gradients.items()}
        weight_norm = torch.stack([weight.norm() for weight in weights.values()]).norm()
        gradient_norm = torch.stack([gradient.norm() for gradient in scaled.values()]).norm().clamp_min(1e-38)
        return {name: gradient * (radius * weight_norm / gradient_norm) for name, gradient in scaled.items()}
    if setting.normalization == "filter":
        return {
            name: gradient * (radius * _filter_norms(weights[name]) / _filter_norms(gradient).clamp_min(1e-38))
            for name, gradient in scaled.items()
        }
    return {
        name: gradient * (radius * weights[name].norm() / gradient.norm().clamp_min(1e-38))
        for name, gradient in scaled.items()
    }


def _filter_norms(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).view(-1, *(1 for _ in weight.shape[1:]))


@contextlib.contextmanager
def perturbed_weights(model: nn.Module, perturbation: Mapping[str, Tensor]) -> Iterator[None]:
    """Within: the weights are w + v. After: exactly w, from a copy (subtracting v would leave rounding behind)."""
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach().clone() for name in perturbation}
    try:
        with torch.no_grad():
            for name, step in perturbation.items():
                weights[name].add_(step)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                weights[name].copy_(value)
