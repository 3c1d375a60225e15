r"""Projected gradient descent: adversarial inputs as a pure function of model, batch and setting.

Model     x₀ = x + start, projected;  x_{k+1} = Π( x_k + α · step(∇ₓ ℓ(f(x_k), y)) ),
          step(g) = sign g for L∞ and g/‖g‖₂ for L2; Π projects onto the ε-ball around x, then onto [0, 1].
Units     ε and α are in pixel units of [0, 1]: 8/255 ≈ 0.0314, not 0.031. The network standardises inside itself.
Limits    ε = 0 returns x exactly. One step of size ε from x itself is FGSM.
Cost      steps × (one forward + one input-gradient backward). Weight gradients are never computed: the textbook loop
          that calls `loss.backward()` in each step pays a third more for numbers it throws away.
Precision x and δ stay in float32 whatever the network computes in: bfloat16 has a spacing of 1/256 near 1, a whole
          grey level, so that a perturbation of 2/255 would be two units in the last place.
Source    Madry et al. 2018. Start, step order and batch-norm mode as in Rice, Wong & Kolter 2020.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from empirical.settings.attack import PGD

__all__ = [
    "Attack",
    "BatchNormLayer",
    "batch_norm_layers",
    "draw_starts",
    "forward",
    "frozen",
    "pgd",
    "pgd_from",
    "project",
]

#: An attack as a function of its setting, images, labels and start perturbations.
Attack: TypeAlias = Callable[[PGD, Tensor, Tensor, Tensor], Tensor]
#: PyTorch has no public name for what they share.
BatchNormLayer: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def forward(model: nn.Module, x: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    """Logits in float32 (or the model's own wider type); the network alone runs in `autocast` precision."""
    if autocast is None:
        return model(x)
    with torch.autocast(x.device.type, dtype=autocast):
        return model(x).float()


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    setting: PGD,
    *,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Adversarial inputs: same shape and type as ``x`` ``(B, C, H, W)``, in [0, 1], within ε of ``x``.

    Leaves the model's mode, weights, ``requires_grad`` flags and ``.grad`` as it found them; running batch-norm
    statistics too, except with ``batch_norm="train"``, whose point is that they move.

    Args:
        model: any module from pixels in [0, 1] to logits.
        x: clean images, float, pixels in [0, 1].
        y: labels ``(B,)``; unused by the KL loss.
        setting: the attack.
        generator: source of the random starts, on the device of ``x``; needed unless ``random_start="none"``.
        autocast: precision of the network's inside; x and δ stay in the type of ``x``.

    Raises:
        ValueError: if ``x`` is not a batch of floats, or a random start is asked for without a generator.
    """
    starts = draw_starts(x.shape, setting, generator=generator, device=x.device, dtype=x.dtype)
    return pgd_from(model, x, y, setting, starts, autocast=autocast)


def draw_starts(
    batch_shape: tuple[int, ...],
    setting: PGD,
    *,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Start perturbations ``(restarts, *batch_shape)``, before projection onto [0, 1]; zeros without a random start.

    Raises:
        ValueError: if a random start is asked for without a generator.
    """
    shape = (setting.restarts, *batch_shape)
    if setting.random_start == "none" or setting.epsilon == 0:
        return torch.zeros(shape, device=device, dtype=dtype)
    if generator is None:
        raise ValueError(f"`pgd(generator=...)` is needed for random_start={setting.random_start!r}; got None.")
    if setting.random_start == "gaussian":
        return 0.001 * torch.randn(shape, generator=generator, device=device, dtype=dtype)
    if setting.norm == "linf":
        unit = torch.rand(shape, generator=generator, device=device, dtype=dtype)
        return (2 * unit - 1) * setting.epsilon
    # A uniform direction at a radius uniform in [0, ε] (Rice et al.'s L2 start; not uniform in volume).
    direction = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    radius = torch.rand((*shape[:2], *(1 for _ in shape[2:])), generator=generator, device=device, dtype=dtype)
    return direction * (setting.epsilon * radius / _image_norms(direction.flatten(0, 1)).view_as(radius))


def pgd_from(
    model: nn.Module, x: Tensor, y: Tensor, setting: PGD, starts: Tensor, *, autocast: torch.dtype | None = None
) -> Tensor:
    """`pgd` from given start perturbations ``(restarts, *x.shape)``: no randomness of its own.

    Raises:
        ValueError: if ``x`` is not a batch of floats.
    """
    if not x.is_floating_point() or x.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(f"`pgd(x=...)` must be float32 or float64 pixels in [0, 1]; got {x.dtype}.")
    if x.ndim < 2 or len(x) != len(y):
        raise ValueError(f"`pgd(x=..., y=...)` must share their batch; got shapes {tuple(x.shape)}, {tuple(y.shape)}.")
    x = x.detach()
    if setting.epsilon == 0:
        return x.clone()
    with frozen(model, setting.batch_norm):
        target = None
        if setting.loss == "kl":
            with torch.no_grad():
                target = functional.log_softmax(forward(model, x, autocast), dim=1)
        best, best_loss = x, None
        for start in starts:
            adversarial = project(x + start, x, setting)
            for _ in range(setting.steps):
                adversarial = _ascend(model, adversarial, x, y, target, setting, autocast)
            if setting.restarts == 1:
                return adversarial  # nothing to choose from, hence no forward to rank it
            with torch.no_grad():
                loss = _losses(forward(model, adversarial, autocast), y, target)
            if best_loss is None:
                best, best_loss = adversarial, loss
            else:
                better = loss > best_loss
                best = torch.where(better.view(-1, *(1 for _ in x.shape[1:])), adversarial, best)
                best_loss = torch.where(better, loss, best_loss)
        return best


def _ascend(
    model: nn.Module,
    adversarial: Tensor,
    x: Tensor,
    y: Tensor,
    target: Tensor | None,
    setting: PGD,
    autocast: torch.dtype | None,
) -> Tensor:
    with torch.enable_grad():
        adversarial = adversarial.detach().requires_grad_()
        # The sum, not the mean: sign and direction are scale-free, and small gradients stay out of underflow.
        loss = _losses(forward(model, adversarial, autocast), y, target).sum()
        (gradient,) = torch.autograd.grad(loss, adversarial)
    with torch.no_grad():
        step = gradient.sign() if setting.norm == "linf" else gradient / _image_norms(gradient).clamp_min(1e-30)
        return project(adversarial.detach() + setting.step_size * step, x, setting)


def _losses(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Per-sample cross-entropy, or KL(clean ‖ adversarial) given the clean log-probabilities; shape ``(B,)``."""
    if target is None:
        return functional.cross_entropy(logits, y, reduction="none")
    return functional.kl_div(functional.log_softmax(logits, dim=1), target, reduction="none", log_target=True).sum(1)


def project(moved: Tensor, x: Tensor, setting: PGD) -> Tensor:
    """Onto the ε-ball around `x`, then onto [0, 1]; clamping last keeps pixels valid whatever was rounded before."""
    if setting.norm == "linf":
        delta = (moved - x).clamp_(-setting.epsilon, setting.epsilon)
    else:
        delta = moved - x
        delta = delta * (setting.epsilon / _image_norms(delta).clamp_min(1e-30)).clamp_max(1.0)
    return (x + delta).clamp_(0, 1)


def _image_norms(images: Tensor) -> Tensor:
    """L2 norm of each image, shaped to broadcast against the batch."""
    return images.flatten(1).norm(dim=1).view(-1, *(1 for _ in images.shape[1:]))


def batch_norm_layers(model: nn.Module) -> list[BatchNormLayer]:
    """The batch-normalisation layers, whose running statistics a forward in train mode moves."""
    return [module for module in model.modules() if isinstance(module, BatchNormLayer)]


@contextlib.contextmanager
def frozen(model: nn.Module, batch_norm: str) -> Iterator[None]:
    """Within: no parameter asks for a gradient, and the network is in the asked mode. After: everything as before.

    Switching the flags off, rather than only asking autograd for the input's gradient, also keeps weight gradients
    out of graphs that were compiled or captured ahead of time.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = []
    if batch_norm == "batch":
        buffers = [(buffer, buffer.clone()) for layer in batch_norm_layers(model) for buffer in layer.buffers()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        model.train(batch_norm != "eval")
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
