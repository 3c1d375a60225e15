"""What a training run is: data, network, method, optimizer, schedule, and what is recorded of it.

A `Training` and a seed determine a run on one device to the bit. The seed is not part of the Setting: replicates share
a Setting (and with it the data and the noisy labels) and differ in initialisation, data order, augmentation and attack
starts.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from empirical.settings.data import DataSetting
from empirical.settings.evaluation import Evaluation
from empirical.settings.fields import require_at_least, require_choices
from empirical.settings.method import Method
from empirical.settings.network import NetworkSetting
from empirical.settings.precision import Precision
from empirical.settings.schedule import LearningRate, decay_iterations
from theory.judge.evidence import run_id
from theory.model.optimizer import MomentumSGD
from theory.model.schedule import Schedule
from theory.model.setting import Setting, keyword_setting, later_field

__all__ = ["EXPERIMENT", "ORDERS", "Order", "Training"]

#: The experiment under which a run's evidence is filed.
EXPERIMENT = "training"

Order = Literal["shuffle", "replacement"]
ORDERS: tuple[Order, ...] = get_args(Order)


#: Iterations of the longest run: a schedule keeps a rate for each.
MOST_ITERATIONS = 10**8


@keyword_setting
class Training(Setting):
    """A training run up to its seed.

    Args:
        data: images, subset, label noise, augmentation.
        network: architecture.
        method: objective, attack, weight perturbation.
        optimizer: momentum SGD in PyTorch's form; weight decay acts on every parameter, as published.
        schedule: learning-rate path.
        epochs: passes over the training images, ≥ 1; the decays of a preset move in proportion.
        batch_size: samples a step, ≥ 1; the last partial batch of an epoch is kept.
        order: "shuffle" (each sample once an epoch) or "replacement" (independent draws).
        evaluation: how the network is judged on the way.
        checkpoint_epochs: completed epochs after which a checkpoint is kept (0: the initial weights).
        log_window: iterations before and after each decay that are logged one by one.
        ema_decay: decay in [0, 1) of the running average of the weights; 0 for none.
        precision: see `Precision`.
        sync_batch_norm: among several processes, batch-norm statistics of the whole batch in training (torch's
            SyncBatchNorm, which needs CUDA), not of each process's part of it; with one process there is no difference.

        swa_start: completed epochs, >= 1, from which the mean of the weights after each epoch is kept beside the run
            (stochastic weight averaging, Izmailov et al. 2018); None for none.

        faithful: keep the books of the published script of the method, to the step: forwards that move batch-norm
            statistics and nothing else, the clean loss and accuracy of every step, and for TRADES its paper's images
            (not standardised, cropped from a zero border). See the table in docs/tutorials/gpu.md.

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
    order: Order = "shuffle"
    evaluation: Evaluation
    checkpoint_epochs: tuple[int, ...] = ()
    log_window: int = 100
    ema_decay: float = 0.0
    precision: Precision = Precision()
    sync_batch_norm: bool = later_field(False)
    swa_start: int | None = later_field()
    faithful: bool = later_field(False)

    def __post_init__(self) -> None:
        require_choices(self)
        require_at_least(self, epochs=1, log_window=0)
        if not 1 <= self.batch_size <= self.data.num_train:
            raise ValueError(
                f"`Training(batch_size=...)` must be in [1, {self.data.num_train}], the number of training images; "
                f"got {self.batch_size}."
            )
        if self.sync_batch_norm and not self.network.has_batch_norm:
            raise ValueError(
                f"`Training(sync_batch_norm=True)` must have a network with batch normalization; got "
                f"{self.network.name!r} with {self.network.normalization!r}."
            )
        if self.sync_batch_norm and self.precision.cuda_graph:
            raise ValueError(
                "`Training(sync_batch_norm=True)` must not replay its attack as a CUDA graph, in which processes would "
                "wait for each other; got cuda_graph=True."
            )
        if self.optimizer.form != "pytorch":
            raise ValueError(f"`Training(optimizer=...)` must be in PyTorch's form; got {self.optimizer.form!r}.")
        if self.optimizer.discount != 1:
            raise ValueError(
                f"`Training(optimizer=...)` must have discount 1, as torch's SGD has; got {self.optimizer.discount}."
            )
        if self.optimizer.groups is not None:
            raise ValueError("`Training(optimizer=...)` must treat all parameters alike; got parameter groups.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`Training(ema_decay=...)` must be in [0, 1); got {self.ema_decay}.")
        if self.faithful and self.method.objective == "standard":
            raise ValueError("`Training(faithful=True)` must have a method with a published script; got 'standard'.")
        if self.swa_start is not None and not 1 <= self.swa_start <= self.epochs:
            raise ValueError(f"`Training(swa_start=...)` must be in [1, {self.epochs}]; got {self.swa_start}.")
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
        if self.num_iterations > MOST_ITERATIONS:
            raise ValueError(
                f"`Training(epochs=..., batch_size=...)` must make at most {MOST_ITERATIONS:,} iterations; "
                f"got {self.num_iterations:.3g}, whose rates alone take {8 * self.num_iterations / 2**40:.3g} TiB."
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

    @cached_property
    def decays(self) -> tuple[tuple[int, float, float], ...]:
        """(first iteration at the new rate, rate before, rate after) of every decay; empty for a smooth path."""
        rates = self.rates()
        return tuple((i, float(rates[i - 1]), float(rates[i])) for i in decay_iterations(rates))

    @cached_property
    def placebo_decays(self) -> tuple[int, ...]:
        """Iterations at which nothing happens, to hold decays against: the middle of the stage before each."""
        begins = (0, *(iteration for iteration, _, _ in self.decays))
        return tuple((begin + iteration) // 2 for begin, (iteration, _, _) in zip(begins, self.decays, strict=False))

    def evaluates_after(self, epoch: int) -> bool:
        """Whether the network is evaluated after so many epochs."""
        around, centres = self.evaluation.around, [iteration for iteration, _, _ in self.decays]
        if around is not None:
            centres += self.placebo_decays
        reach = (3 if around is None else around) * self.iterations_per_epoch
        near = any(abs(epoch * self.iterations_per_epoch - centre) <= reach for centre in centres)
        return near or epoch % self.evaluation.every == 0 or epoch == self.epochs

    def run_id(self, seed: int) -> str:
        """The name under which the run's evidence is filed: a digest of the Setting and the seed."""
        return run_id(EXPERIMENT, self.to_dict(), seed)

    def run_name(self, seed: int) -> str:
        """How a person knows the run, and its folder's name: ``at-seed0-1f2e3d4c``."""
        return f"{self.method.name}-seed{seed}-{self.run_id(seed)[:8]}"

    def protocol(self, seed: int) -> str:
        """A digest shared by the runs of a seed that differ in attack and weight perturbation alone (AT and AWP)."""
        return run_id("protocol", {**self.to_dict(), "method": self.method.objective}, seed)
