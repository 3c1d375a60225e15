"""The loss a run minimized, as a `Landscape` at fixed adversarial inputs re-derivable from a seed.

The inputs of sample n under redraw a depend on (measurement seed, a) and the weights alone, so that a stored checkpoint
and a stored Setting give the same inputs again. TRADES looks at clean and adversarial inputs together, so its
landscape's "inputs" are pairs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from empirical.data.augmentation import augment, draw_augmentation
from empirical.data.resident import Data
from empirical.data.streams import generator
from empirical.measure.landscape import Landscape
from empirical.measure.sharpness import BatchAttack
from empirical.settings.attack import PGD
from empirical.settings.measuring import Measurement
from empirical.training.attack import draw_starts, pgd, pgd_from
from empirical.training.checkpoint import Checkpoint
from empirical.training.loss import per_sample_loss

#: Most samples measured unless asked otherwise.
LARGEST = 4096
#: Samples whose attack starts are drawn together; through batch statistics they are one batch of the attack.
PIECE = 1024


class _Pairs(nn.Module):
    """A network applied to clean and adversarial inputs stacked as ``(B, 2, …)``; parameters keep their names."""

    def __init__(self, network: nn.Module):
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        self.__dict__["_network"] = network

    def forward(self, pairs: Tensor) -> Tensor:
        network = self.__dict__["_network"]
        return torch.stack([network(pairs[:, 0]), network(pairs[:, 1])], dim=1)


def measured_samples(data: Data, measurement: Measurement) -> int:
    """Number of training samples that a measurement uses.

    Raises:
        ValueError: if more are asked for than there are.
    """
    available = len(data.train)
    if measurement.samples is not None and measurement.samples > available:
        raise ValueError(f"`Measurement(samples=...)` must be at most {available}; got {measurement.samples}.")
    return measurement.samples or min(available, LARGEST)


def training_inputs(
    checkpoint: Checkpoint,
    data: Data,
    count: int,
    *,
    batch_norm: str,
    seed: int,
    redraw: int = 0,
    fresh: bool = False,
    chunk: int = PIECE,
) -> tuple[Tensor, Tensor]:
    """Inputs of the training loss for the first ``count`` training samples, and their labels.

    Args:
        checkpoint: whose weights are attacked, by its own training attack.
        data: its data.
        count: number of samples.
        batch_norm: "eval" attacks through running statistics, anything else through those of the batch at hand.
        seed: measurement seed.
        redraw: index of the draw of attack starts (and augmentation).
        fresh: augment as training does; otherwise the plain images are attacked.
        chunk: samples attacked at once, at most `PIECE`; through batch statistics always so many, which share them.
    """
    split = data.train.first(count)
    images, labels = split.images, split.labels
    if fresh and checkpoint.setting.data.augmentation != "none":
        source = generator(seed, "augmentation", redraw, device=images.device)
        images = augment(
            images, checkpoint.setting.data, draw_augmentation(count, checkpoint.setting.data, generator=source)
        )
    clean = split.pixels(images)
    attack = checkpoint.setting.method.attack
    if attack is None:
        return clean, labels
    attack = _attack_in(attack, batch_norm)
    pieces = []
    for number, x in enumerate(clean.split(PIECE)):
        source = generator(seed, "attack", redraw, number, device=images.device)
        starts = draw_starts(x.shape, attack, generator=source, device=x.device, dtype=x.dtype)
        held = min(chunk, PIECE) if attack.batch_norm == "eval" else PIECE
        parts = zip(
            x.split(held), labels[number * PIECE :][: len(x)].split(held), starts.split(held, dim=1), strict=True
        )
        pieces.extend(pgd_from(checkpoint.model, images, y, attack, start) for images, y, start in parts)
    adversarial = torch.cat(pieces)
    if checkpoint.setting.method.objective == "trades":
        return torch.stack([clean, adversarial], dim=1), labels
    return adversarial, labels


def batch_attack(checkpoint: Checkpoint, data: Data, measurement: Measurement, landscape: Landscape) -> BatchAttack:
    """The run's attack on a batch of the measured samples at any weights: equal numbers have equal starts."""
    probe = copy.deepcopy(checkpoint.model)
    attack = checkpoint.setting.method.attack
    assert attack is not None, "a run without an attack has no batches to attack again"
    setting = _attack_in(attack, measurement.batch_norm)
    split = data.train.first(len(landscape.inputs))

    def attacked(weights: Tensor, samples: Tensor, number: int) -> Tensor:
        with torch.no_grad():
            for name, value in landscape.unflatten(weights).items():
                probe.get_parameter(name).copy_(value)
        clean, labels = split.pixels(split.images[samples]), split.labels[samples]
        source = generator(measurement.seed, "sharpness", number, 1, device=clean.device)
        found = pgd(probe, clean, labels, setting, generator=source)
        return torch.stack([clean, found], dim=1) if checkpoint.setting.method.objective == "trades" else found

    return attacked


def _attack_in(attack: PGD, batch_norm: str) -> PGD:
    import dataclasses

    return dataclasses.replace(attack, batch_norm="eval" if batch_norm == "eval" else "batch")


def training_landscape(
    checkpoint: Checkpoint, data: Data, measurement: Measurement, *, redraw: int = 0, fresh: bool = False
) -> Landscape:
    """The loss of a run at a checkpoint over its training samples, without weight decay."""
    count = measured_samples(data, measurement)
    inputs, labels = training_inputs(
        checkpoint,
        data,
        count,
        batch_norm=measurement.batch_norm,
        seed=measurement.seed,
        redraw=redraw,
        fresh=fresh,
        chunk=measurement.chunk,
    )
    return landscape_of(checkpoint, measurement, inputs, labels)


def landscape_of(checkpoint: Checkpoint, measurement: Measurement, inputs: Tensor, labels: Tensor) -> Landscape:
    """The loss of a run at a checkpoint over given inputs: pairs ``(N, 2, …)`` of clean and adversarial for TRADES."""
    trades = checkpoint.setting.method.objective == "trades"
    model = _Pairs(checkpoint.model) if trades else checkpoint.model
    beta = checkpoint.setting.method.beta
    natural = per_sample_loss(checkpoint.setting.method.loss)

    def trades_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        clean, robust = functional.log_softmax(outputs[:, 0], dim=1), functional.log_softmax(outputs[:, 1], dim=1)
        return natural(outputs[:, 0], targets) + beta * (clean.exp() * (clean - robust)).sum(dim=1)

    return Landscape(
        model,
        inputs,
        labels,
        per_sample_loss=trades_loss if trades else natural,
        batch_norm=measurement.batch_norm,
        batch_size=min(checkpoint.setting.batch_size, len(labels)),
        num_batches=measurement.batches,
        dtype=torch.float64 if measurement.dtype == "float64" else torch.float32,
        chunk=measurement.chunk,
        seed=measurement.seed,
    )
