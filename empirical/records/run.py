"""What every record of a training run of ours knows of that run: its Setting and its seed, reopened."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from empirical.records.base import IDENTITY, Record, part
from empirical.settings import Measurement, Training
from theory.model.optimizer import MomentumSGD

__all__ = ["AtCheckpoint", "Measured", "OfRun"]


class OfRun:
    """Facts of a run that follow from its Setting and seed; nothing of it is stored twice."""

    training: Training
    seed: int

    @property
    def run(self) -> str:
        """The run's name, as its folder has it."""
        return self.training.run_name(self.seed)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.training.data.name

    @property
    def method(self) -> str:
        """Name of the training method."""
        return self.training.method.name


@part
class Measured(Record, OfRun):
    """Something measured of a run: which run, and how.

    Args:
        training: what was trained.
        measurement: how it was measured.
    """

    training: Annotated[Training, IDENTITY]
    measurement: Annotated[Measurement, IDENTITY]


@part
class AtCheckpoint(Measured):
    """Something measured at a checkpoint.

    Args:
        iteration: steps done.
        learning_rate: of the last of them (of the first step, where none is done).
    """

    iteration: Annotated[int, IDENTITY]
    learning_rate: float

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.iteration // self.training.iterations_per_epoch

    @property
    def optimizer(self) -> MomentumSGD:
        """The run's optimizer with the checkpoint's learning rate."""
        return dataclasses.replace(self.training.optimizer, learning_rate=self.learning_rate)
