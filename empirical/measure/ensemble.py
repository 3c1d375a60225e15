r"""Branching ensembles: R replicas leave one checkpoint with their own data order, and their spread is Σ_k itself.

Model     Replica r is the training run continued from the checkpoint under another root seed: same weights, momentum
          buffers and position in the epoch, its own permutations and attack starts. After k steps the covariance of
          its weights over r, in a frozen basis U, is the posterior that the theory predicts: no time average, no
          stationarity, no detrending. To see a transient the replicas part *before* the decay, reach the spread of
          the old rate, and drop together (parted at the decay they would have no spread to shrink).
Speed     R networks of a few thousand weights are one batched matrix product each: `torch.func.vmap` over stacked
          weights runs 256 replicas at the cost of some tens. What that cannot express (augmentation, running
          batch-norm statistics in the attack, TRADES, AWP with a fresh batch) is run replica by replica by the
          training code itself.
Dynamics  Three, for a ladder from theory to network under the same seeds and data orders: *attacked* is training
          itself; *fixed inputs* trains on the inputs that were adversarial at the checkpoint; *linearised* replaces
          the batch gradient by its expansion g_B(w₀) + H_B δ at the checkpoint, inputs fixed (and the AWP perturbation
          as it is at w₀): what is left of the network when every third derivative is gone.
Oracle    Tests: a vectorized replica agrees with `Trainer.from_checkpoint` under the same seed; for a linear model with
          squared loss the three dynamics are one.
Error     A variance from R replicas has the relative error √(2/R): 9 % at 256, and 32 replicas only bound it within
          a factor of 0.5-2.7 after Bonferroni; intervals come from resampling replicas.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from empirical.data.resident import Data, epoch_order
from empirical.data.streams import generator
from empirical.measure.landscape import has_batch_norm
from empirical.settings.attack import PGD
from empirical.settings.awp import AWP
from empirical.settings.measuring import ReplicaOrder
from empirical.settings.training import Training
from empirical.training.attack import batch_norm_layers, draw_starts
from empirical.training.checkpoint import Checkpoint
from empirical.training.loss import per_sample_loss
from empirical.training.trainer import Trainer

Dynamics = Literal["attacked", "fixed inputs", "linearised"]


@dataclass(frozen=True, kw_only=True)
class Branches:
    """Replicas seen in a frozen basis.

    Attributes:
        steps: steps done since the branching at each record, shape ``(T,)``.
        weights: Uᵀ(w − w_checkpoint), shape ``(T, R, k)``.
        velocity: Uᵀv at each record, shape ``(T, R, k)``; PyTorch's buffer.
        norms: ‖w‖ of every replica, shape ``(T, R)``.
        losses: mean training loss (adversarial, in train mode) of every recorded step, shape ``(T, R)``.
        learning_rates: the rate of every step, shape ``(max(steps),)``.
        vectorized: whether the replicas ran as one batch.
    """

    steps: NDArray[np.int64]
    weights: NDArray[np.float64]
    velocity: NDArray[np.float64]
    norms: NDArray[np.float64]
    losses: NDArray[np.float64]
    learning_rates: NDArray[np.float64]
    vectorized: bool


def branch(
    checkpoint: Checkpoint,
    data: Data,
    directions: Tensor,
    *,
    seeds: Sequence[int],
    learning_rates: NDArray[np.float64],
    record: Sequence[int],
    order: ReplicaOrder = "run",
    dynamics: Dynamics = "attacked",
    inputs: Tensor | None = None,
    method: Literal["auto", "vectorized", "sequential"] = "auto",
    observe: Callable[[int, Tensor], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Branches:
    """Continue a checkpoint R times and record the replicas in a frozen basis.

    Args:
        checkpoint: where the replicas part.
        data: the data it was trained on.
        directions: U, shape ``(P, k)``, in the order of the model's parameters.
        seeds: one root seed a replica, none of them the run's own.
        learning_rates: the rate of each step, shape ``(T,)``; the run's own path is not consulted.
        record: steps (1 … T) after which to record.
        order: "run" samples as the run does; "replacement" draws every batch independently (white noise).
        dynamics: what the replicas descend, see the module.
        inputs: with "fixed inputs" and "linearised", the inputs of every training sample, shape ``(N, …)``.
        method: "vectorized" or "sequential"; "auto" vectorizes what can be. Only "attacked" runs sequentially.
        observe: called at each record with (steps done, flat weights of replicas, shape ``(r, P)``): all of them at
            once when vectorized, one at a time otherwise.
        progress: called with (steps done, T).

    Raises:
        ValueError: if the basis is of another architecture, a record lies outside the path, a seed repeats, the data
            are others, or "vectorized" is asked for what cannot be.
    """
    size = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    if directions.ndim != 2 or directions.shape[0] != size:
        raise ValueError(
            f"`branch(directions=...)` must have {size} rows, the network's weights (a basis of another "
            f"architecture?); got {tuple(directions.shape)}."
        )
    wanted = [int(step) for step in record]
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 1 or wanted[-1] > len(learning_rates):
        raise ValueError(f"`branch(record=...)` must rise within 1 … {len(learning_rates)}; got {wanted[:5]}.")
    if len(set(seeds)) != len(seeds) or checkpoint.seed in seeds:
        raise ValueError("`branch(seeds=...)` must be distinct and differ from the run's own seed.")
    if data.digest != checkpoint.data_digest:
        raise ValueError(
            f"`branch(data=...)` must be the data of the checkpoint ({checkpoint.data_digest}); got {data.digest}."
        )
    obstacle = why_not_vectorized(checkpoint)
    if dynamics != "attacked":
        if inputs is None or len(inputs) != len(data.train):
            raise ValueError(
                f"`branch(inputs=...)` must hold an input for each of the {len(data.train)} training samples with "
                f"dynamics={dynamics!r}; got {None if inputs is None else len(inputs)}."
            )
        if obstacle:
            raise ValueError(f"`branch(dynamics={dynamics!r})` cannot run {obstacle}.")
        method = "vectorized"
    if method == "vectorized" and obstacle:
        raise ValueError(f"`branch(method='vectorized')` cannot run {obstacle}; use 'sequential'.")
    if method == "auto" and not obstacle and not _pays(checkpoint, data, directions, seeds, learning_rates, order):
        method = "sequential"
    if method == "sequential" or obstacle:
        return _sequential(checkpoint, data, directions, seeds, learning_rates, wanted, order, observe, progress)
    fixed = None if dynamics == "attacked" else inputs
    stack = (_Linearised if dynamics == "linearised" else _Stack)(checkpoint, len(seeds))
    return _vectorized(
        stack, checkpoint, data, directions, seeds, learning_rates, wanted, order, fixed, observe, progress
    )


def _pays(
    checkpoint: Checkpoint,
    data: Data,
    directions: Tensor,
    seeds: Sequence[int],
    rates: NDArray[np.float64],
    order: ReplicaOrder,
) -> bool:
    """Whether stacking is faster: a step of a few replicas both ways (stacked convolutions become grouped ones)."""
    few = list(seeds[: min(len(seeds), 8)])
    begun = time.perf_counter()
    _vectorized(_Stack(checkpoint, len(few)), checkpoint, data, directions, few, rates, [1], order, None, None, None)
    stacked = time.perf_counter()
    _sequential(checkpoint, data, directions, few, rates, [1], order, None, None)
    return stacked - begun <= time.perf_counter() - stacked


def why_not_vectorized(checkpoint: Checkpoint) -> str:
    """What keeps a run from being vectorized over replicas, in words; empty if nothing does."""
    setting = checkpoint.setting
    method = setting.method
    if setting.data.augmentation != "none":
        return "data augmentation"
    if method.objective == "trades":
        return "the TRADES objective"
    if method.attack is not None and method.attack.batch_norm == "eval" and has_batch_norm(checkpoint.model):
        return "an attack through running batch-norm statistics"
    if method.attack is not None and method.attack.restarts > 1:
        return "an attack with restarts"
    if method.awp is not None and (
        method.awp.batch != "same"
        or method.awp.recompute_attack
        or method.awp.steps > 1
        or method.awp.normalization != "layer"
    ):
        return "this variant of adversarial weight perturbation"
    if setting.precision.autocast != "none":
        return "mixed precision"
    return ""


class _Stack:
    """R copies of a network with stacked weights ``(R, …)``, and momentum SGD on all of them at once."""

    def __init__(self, checkpoint: Checkpoint, count: int):
        self.setting: Training = checkpoint.setting
        # Train-mode batch norm without running statistics: nothing for a functional transform to mutate.
        self.model = copy.deepcopy(checkpoint.model).train().requires_grad_(False)
        for layer in batch_norm_layers(self.model):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
        named = dict(checkpoint.model.named_parameters())
        self.start = torch.cat([value.detach().reshape(-1) for value in named.values()])
        self.weights = {
            name: value.detach()[None].repeat(count, *(1 for _ in value.shape)) for name, value in named.items()
        }
        self.buffers = {
            name: (checkpoint.momentum[name][None].repeat(count, *(1 for _ in value.shape)))
            if name in checkpoint.momentum
            else torch.zeros_like(self.weights[name])
            for name, value in named.items()
        }
        # torch's first step has no dampening: the buffer is created from the gradient itself.
        self.fresh = not checkpoint.momentum
        self._sample_losses = per_sample_loss(self.setting.method.loss)
        self._logits = vmap(lambda weights, x: functional_call(self.model, weights, (x,)))

    def losses(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of every replica's batch, shape ``(R,)``."""
        logits = self._logits(weights, x)
        flat = self._sample_losses(logits.flatten(0, 1), y.flatten())
        return flat.view(y.shape).mean(dim=1)

    def attacked(self, x: Tensor, y: Tensor, attack: PGD, starts: Tensor) -> Tensor:
        """Adversarial inputs of every replica's batch under its own weights."""
        if attack.epsilon == 0:
            return x
        adversarial = _project(x + starts, x, attack)
        for _ in range(attack.steps):
            moving = adversarial.detach().requires_grad_()
            total = self.losses(self.weights, moving, y).sum()
            (gradient,) = torch.autograd.grad(total, moving)
            if attack.norm == "linf":
                direction = gradient.sign()
            else:
                direction = gradient / _image_norms(gradient).clamp_min(1e-30)
            adversarial = _project(adversarial + attack.step_size * direction, x, attack)
        return adversarial.detach()

    def gradients(self, x: Tensor, y: Tensor, shift: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses ``(R,)`` and their gradients at the weights moved by `shift`."""
        leaves = {name: value.detach().requires_grad_() for name, value in _moved(self.weights, shift).items()}
        losses = self.losses(leaves, x, y)
        found = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return losses.detach(), dict(zip(leaves, found, strict=True))

    def perturbed_at(self) -> dict[str, Tensor]:
        """The weights at which AWP looks for its perturbation."""
        return self.weights

    def step(self, x: Tensor, y: Tensor, rate: float, epoch: int) -> Tensor:
        """One optimizer step of every replica on its batch; returns the losses ``(R,)``."""
        optimizer, awp = self.setting.optimizer, self.setting.method.awp
        shift: dict[str, Tensor] = {}
        if awp is not None and epoch >= awp.warmup_epochs:
            shift = self._perturbation(x, y, awp)
        losses, gradients = self.gradients(x, y, shift)
        decay_at_moved = awp is not None and awp.weight_decay == "perturbed"
        mu, dampening = optimizer.momentum, optimizer.dampening
        for name, weight in self.weights.items():
            gradient = gradients[name]
            if optimizer.weight_decay:
                anchor = weight + shift[name] if decay_at_moved and name in shift else weight
                gradient = gradient + optimizer.weight_decay * anchor
            if mu:
                buffer = self.buffers[name]
                buffer.mul_(mu).add_(gradient, alpha=1.0 if self.fresh else 1 - dampening)
                gradient = gradient + mu * buffer if optimizer.nesterov else buffer
            weight.sub_(gradient, alpha=rate)
        self.fresh = False
        return losses

    def _perturbation(self, x: Tensor, y: Tensor, awp: AWP) -> dict[str, Tensor]:
        at = self.perturbed_at()
        leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
        gradients = torch.autograd.grad(self.losses(leaves, x, y).sum(), list(leaves.values()))
        shift = {}
        for (name, weight), gradient in zip(at.items(), gradients, strict=True):
            if weight.ndim <= 2:  # one axis and the replicas': batch norm and biases are not perturbed
                continue
            peak = gradient.flatten(1).abs().amax(dim=1).clamp_min(1e-38)
            unit = gradient / peak.view(-1, *(1 for _ in gradient.shape[1:]))
            norms = weight.flatten(1).norm(dim=1) / unit.flatten(1).norm(dim=1).clamp_min(1e-38)
            shift[name] = unit * (awp.gamma * norms).view(-1, *(1 for _ in unit.shape[1:]))
        return shift

    def flat(self, tensors: dict[str, Tensor]) -> Tensor:
        """Stacked tensors as rows, shape ``(R, P)``."""
        return torch.cat([value.flatten(1) for value in tensors.values()], dim=1)


class _Linearised(_Stack):
    """Replicas of the expansion at the checkpoint: the batch's gradient is g_B(w₀) + H_B δ."""

    def __init__(self, checkpoint: Checkpoint, count: int):
        super().__init__(checkpoint, count)
        self.origin = {name: value.clone() for name, value in self.weights.items()}

    def perturbed_at(self) -> dict[str, Tensor]:
        """The checkpoint: the perturbation does not follow the replica."""
        return self.origin

    def gradients(self, x: Tensor, y: Tensor, shift: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's expansion, loss to second order and gradient to first; H_B δ by a second backward pass."""
        leaves = {name: value.detach().requires_grad_() for name, value in _moved(self.origin, shift).items()}
        moves = [value - self.origin[name] for name, value in self.weights.items()]
        losses = self.losses(leaves, x, y)
        slopes = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=True)
        along = torch.stack([(slope * move).sum() for slope, move in zip(slopes, moves, strict=True)]).sum()
        # What enters the loss linearly has no second derivative, and no graph to find it in.
        changes = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
        value, gradients = losses.detach(), {}
        for name, slope, change, move in zip(leaves, slopes, changes, moves, strict=True):
            slope = slope.detach()
            value = value + ((slope + change / 2) * move).flatten(1).sum(dim=1)
            gradients[name] = slope + change
        return value, gradients


def _moved(weights: dict[str, Tensor], shift: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + shift[name] if name in shift else value for name, value in weights.items()}


def _vectorized(
    stack: _Stack,
    checkpoint: Checkpoint,
    data: Data,
    directions: Tensor,
    seeds: Sequence[int],
    rates: NDArray[np.float64],
    record: list[int],
    order: ReplicaOrder,
    fixed: Tensor | None,
    observe: Callable[[int, Tensor], None] | None,
    progress: Callable[[int, int], None] | None,
) -> Branches:
    setting = checkpoint.setting
    basis = directions.to(stack.start.device, torch.float64)
    per_epoch, size, count = setting.iterations_per_epoch, setting.batch_size, len(data.train)
    pixels, labels = data.train.pixels(data.train.images), data.train.labels
    if fixed is not None:
        pixels = fixed.to(pixels)
    orders: Tensor | None = None
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    chosen = set(record)
    for done in range(record[-1]):
        iteration = checkpoint.iteration + done
        epoch, position = divmod(iteration, per_epoch)
        if orders is None or position == 0:
            kind = "replacement" if order == "replacement" else setting.order
            orders = torch.stack([epoch_order(count, kind, seed=seed, epoch=epoch) for seed in seeds])  # pyright: ignore[reportArgumentType]
        assert orders is not None
        rows = orders[:, position * size : (position + 1) * size].to(labels.device)
        x, y = pixels[rows], labels[rows]
        attack = setting.method.attack
        if attack is not None and fixed is None:
            starts = torch.stack(
                [
                    draw_starts(
                        x.shape[1:],
                        attack,
                        generator=generator(seed, "attack", iteration, 0, device=x.device),
                        device=x.device,
                        dtype=x.dtype,
                    )[0]
                    for seed in seeds
                ]
            )
            x = stack.attacked(x, y, attack, starts)
        losses = stack.step(x, y, float(rates[done]), epoch)
        if done + 1 in chosen:
            weights = stack.flat(stack.weights)
            if observe is not None:
                observe(done + 1, weights)
            kept.append(
                (
                    (weights - stack.start).double() @ basis,
                    stack.flat(stack.buffers).double() @ basis,
                    weights.double().norm(dim=1),
                    losses.double(),
                )
            )
        if progress is not None:
            progress(done + 1, record[-1])
    columns = [torch.stack(column).cpu().numpy() for column in zip(*kept, strict=True)]
    return Branches(
        steps=np.array(record, dtype=np.int64),
        weights=columns[0],
        velocity=columns[1],
        norms=columns[2],
        losses=columns[3],
        learning_rates=np.asarray(rates[: record[-1]], dtype=np.float64),
        vectorized=True,
    )


def _sequential(
    checkpoint: Checkpoint,
    data: Data,
    directions: Tensor,
    seeds: Sequence[int],
    rates: NDArray[np.float64],
    record: list[int],
    order: ReplicaOrder,
    observe: Callable[[int, Tensor], None] | None,
    progress: Callable[[int, int], None] | None,
) -> Branches:
    import dataclasses

    setting = (
        dataclasses.replace(checkpoint.setting, order="replacement") if order == "replacement" else (checkpoint.setting)
    )
    source = dataclasses.replace(checkpoint, setting=setting)
    start = torch.cat([value.detach().reshape(-1) for value in checkpoint.model.parameters()])
    basis = directions.to(start.device, torch.float64)
    chosen = set(record)
    replicas = []
    for number, seed in enumerate(seeds):
        trainer = Trainer.from_checkpoint(source, data=data, device=start.device, seed=seed)
        # The branch may outlive the run's own schedule: its path is the one given.
        trainer.rates = np.concatenate([trainer.rates[: checkpoint.iteration], rates])
        kept = []
        for done in range(record[-1]):
            loss = trainer.step().loss
            if done + 1 in chosen:
                weights = torch.cat([value.detach().reshape(-1) for value in trainer.model.parameters()])
                if observe is not None:
                    observe(done + 1, weights[None])
                momentum = trainer.momentum()
                velocity = torch.cat(
                    [
                        momentum.get(name, torch.zeros_like(value)).reshape(-1)
                        for name, value in trainer.model.named_parameters()
                    ]
                )
                kept.append(
                    (
                        (weights - start).double() @ basis,
                        velocity.double() @ basis,
                        weights.double().norm(),
                        loss.double(),
                    )
                )
        replicas.append([torch.stack(column) for column in zip(*kept, strict=True)])
        if progress is not None:
            progress(number + 1, len(seeds))
    columns = [torch.stack(column, dim=1).cpu().numpy() for column in zip(*replicas, strict=True)]
    return Branches(
        steps=np.array(record, dtype=np.int64),
        weights=columns[0],
        velocity=columns[1],
        norms=columns[2],
        losses=columns[3],
        learning_rates=np.asarray(rates[: record[-1]], dtype=np.float64),
        vectorized=False,
    )


def _project(moved: Tensor, x: Tensor, attack: PGD) -> Tensor:
    delta = moved - x
    if attack.norm == "linf":
        delta = delta.clamp(-attack.epsilon, attack.epsilon)
    else:
        delta = delta * (attack.epsilon / _image_norms(delta).clamp_min(1e-30)).clamp_max(1.0)
    return (x + delta).clamp(0, 1)


def _image_norms(images: Tensor) -> Tensor:
    """L2 norm of each image of ``(R, B, …)``, shaped to broadcast."""
    return images.flatten(2).norm(dim=2).view(*images.shape[:2], *(1 for _ in images.shape[2:]))
