"""What a training run is: data, network, method, optimizer, schedule, and what is recorded of it.

A `Training` and a seed determine a run on one device to the bit. The seed is not part of the Setting: replicates share
a Setting (and with it the data and the noisy labels) and differ in initialisation, data order, augmentation and attack
starts.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from empirical.data.resident import ORDERS
from empirical.data.setting import DataSetting
from empirical.network.setting import NetworkSetting
from empirical.training.attack import PGD
from empirical.training.awp import AWP
from empirical.training.schedule import LearningRate
from theory.model.optimizer import MomentumSGD
from theory.model.schedule import Schedule
from theory.model.setting import Setting, keyword_setting

__all__ = ["METHODS", "Evaluation", "Method", "Precision", "Training"]

METHODS = ("standard", "at", "awp", "trades", "trades-awp")
AUTOCAST = {"none": None, "bfloat16": torch.bfloat16}


@keyword_setting
class Method(Setting):
    """What is minimised.

    standard    CE(f(x), y)
    at          CE(f(x_adv), y), x_adv = PGD on the cross-entropy          (Madry et al. 2018; Rice et al. 2020)
    trades      CE(f(x), y) + β KL(f(x) ‖ f(x_adv)), x_adv = PGD on KL     (Zhang et al. 2019)
    With `awp`, the gradient is taken at adversarially perturbed weights (Wu et al. 2020).

    Args:
        objective: "standard", "at" or "trades".
        attack: the training attack; None for standard training.
        awp: weight perturbation; None for none.
        beta: β > 0 of TRADES.

    Raises:
        ValueError: if the parts do not fit together.
    """

    objective: str
    attack: PGD | None = None
    awp: AWP | None = None
    beta: float = 6.0

    def __post_init__(self) -> None:
        if self.objective not in ("standard", "at", "trades"):
            raise ValueError(f"`Method(objective=...)` must be 'standard', 'at' or 'trades'; got {self.objective!r}.")
        if (self.attack is None) != (self.objective == "standard"):
            raise ValueError(
                f"`Method(attack=...)` must be given for 'at' and 'trades' only; "
                f"got {self.attack} with {self.objective!r}."
            )
        if self.attack is not None and (self.attack.loss == "kl") != (self.objective == "trades"):
            raise ValueError(
                f"`Method(attack=...)` must maximise what {self.objective!r} trains on; got loss {self.attack.loss!r}."
            )
        if not 0 < self.beta < math.inf:
            raise ValueError(f"`Method(beta=...)` must be > 0 and finite; got {self.beta}.")

    @property
    def name(self) -> str:
        """One of `METHODS`, or "standard-awp"."""
        if self.awp is None:
            return self.objective
        return "awp" if self.objective == "at" else f"{self.objective}-awp"


@keyword_setting
class Evaluation(Setting):
    """How the network is judged while it trains: fixed weights, eval mode, no augmentation, one attack for all splits.

    Args:
        attack: PGD of the evaluation (published: PGD-10 in Rice et al., PGD-20 in AWP).
        every: epochs between evaluations; around decays and at the end there is one every epoch.
        batch_size: images at once.
        train_probe: training images evaluated (the first ones); None for as many as test images.
        masking_probe: test images on which the masking guard runs at the end; 0 for none.

    Raises:
        ValueError: if a value is out of range.
    """

    attack: PGD
    every: int = 1
    batch_size: int = 500
    train_probe: int | None = None
    masking_probe: int = 200

    def __post_init__(self) -> None:
        for field, value, least in (
            ("every", self.every, 1),
            ("batch_size", self.batch_size, 1),
            ("train_probe", self.train_probe, 1),
            ("masking_probe", self.masking_probe, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"`Evaluation({field}=...)` must be >= {least}; got {value}.")
        if self.attack.batch_norm != "eval":
            raise ValueError(f"`Evaluation(attack=...)` must attack in eval mode; got {self.attack.batch_norm!r}.")


@keyword_setting
class Precision(Setting):
    """How fast and how exactly the numbers are computed. Each changes the realisation of the noise, so it is recorded.

    Args:
        autocast: "none" (float32) or "bfloat16" inside the network; x, δ, weights, loss and batch-norm statistics stay
            in float32 either way.
        channels_last: memory layout of images and convolutions.
        compile: `torch.compile` the network for attack and training (curvature is measured on the eager network:
            compiled graphs have no second derivative).
        cuda_graph: replay the whole attack as one CUDA graph on full batches.
        tf32: allow TensorFloat-32 in matrix products and convolutions (10-bit mantissa).
        deterministic: ask cuDNN for deterministic algorithms and no autotuning, so that a resumed run is the same to
            the bit; off, it may choose faster ones.

    Raises:
        ValueError: if `autocast` is unknown.
    """

    autocast: str = "none"
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False
    tf32: bool = False
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.autocast not in AUTOCAST:
            raise ValueError(f"`Precision(autocast=...)` must be one of {tuple(AUTOCAST)}; got {self.autocast!r}.")

    @property
    def dtype(self) -> torch.dtype | None:
        """The autocast type, or None."""
        return AUTOCAST[self.autocast]


@keyword_setting
class Training(Setting):
    """A training run up to its seed.

    Args:
        data: images, subset, label noise, augmentation.
        network: architecture.
        method: objective, attack, weight perturbation.
        optimizer: momentum SGD in PyTorch's form; weight decay acts on every parameter, as published.
        schedule: learning-rate path.
        epochs: ≥ 1.
        batch_size: samples a step, ≥ 1; the last partial batch of an epoch is kept.
        order: "shuffle" (each sample once an epoch) or "replacement" (independent draws).
        evaluation: how the network is judged on the way.
        checkpoint_epochs: completed epochs after which a checkpoint is kept (0: the initial weights).
        log_window: iterations before and after each decay that are logged one by one.
        ema_decay: in [0, 1): decay of the running average of the weights; 0 for none.
        precision: see `Precision`.

    Raises:
        ValueError: if a value is out of range or the parts do not fit together.
    """

    data: DataSetting
    network: NetworkSetting
    method: Method
    optimizer: MomentumSGD
    schedule: LearningRate
    epochs: int
    batch_size: int
    order: str = "shuffle"
    evaluation: Evaluation
    checkpoint_epochs: tuple[int, ...] = ()
    log_window: int = 100
    ema_decay: float = 0.0
    precision: Precision = Precision()

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"`Training(epochs=...)` must be >= 1; got {self.epochs}.")
        if not 1 <= self.batch_size <= self.data.num_train:
            raise ValueError(
                f"`Training(batch_size=...)` must be in [1, {self.data.num_train}], the number of training images; "
                f"got {self.batch_size}."
            )
        if self.order not in ORDERS:
            raise ValueError(f"`Training(order=...)` must be one of {ORDERS}; got {self.order!r}.")
        if self.optimizer.form != "pytorch":
            raise ValueError(f"`Training(optimizer=...)` must be in PyTorch's form; got {self.optimizer.form!r}.")
        if self.log_window < 0:
            raise ValueError(f"`Training(log_window=...)` must be >= 0; got {self.log_window}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`Training(ema_decay=...)` must be in [0, 1); got {self.ema_decay}.")
        if any(not 0 <= epoch <= self.epochs for epoch in self.checkpoint_epochs):
            raise ValueError(
                f"`Training(checkpoint_epochs=...)` must lie in [0, {self.epochs}]; got {self.checkpoint_epochs}."
            )
        if self.network.image_shape != self.data.image_shape:
            raise ValueError(
                f"`Training(network=...)` must take the data's images {self.data.image_shape}; "
                f"got {self.network.image_shape}."
            )
        if self.network.num_classes != self.data.facts.num_classes:
            raise ValueError(
                f"`Training(network=...)` must have the data's {self.data.facts.num_classes} classes; "
                f"got {self.network.num_classes}."
            )
        _ = self.path  # milestones beyond the last epoch are refused here, not at the first step

    @property
    def iterations_per_epoch(self) -> int:
        """Steps an epoch, the last partial batch included."""
        return math.ceil(self.data.num_train / self.batch_size)

    @property
    def num_iterations(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.iterations_per_epoch

    @property
    def path(self) -> Schedule:
        """The learning-rate path, one rate an iteration."""
        return self.schedule.path(
            self.optimizer.learning_rate, epochs=self.epochs, iterations_per_epoch=self.iterations_per_epoch
        )

    def rates(self) -> NDArray[np.float64]:
        """The learning rate of every iteration, shape ``(num_iterations,)``, float64."""
        return self.path.rates(self.num_iterations)
