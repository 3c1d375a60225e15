"""The record of a training run: its log, its checkpoints, and whether its robust accuracy is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import WHOLE, Part, Record, axes, part
from empirical.records.parts import SplitMetrics
from empirical.records.run import OfRun
from empirical.settings import Training

__all__ = ["EpochColumns", "EpochLine", "IterationColumns", "MaskingReport", "StoredCheckpoint", "TrainingRun"]


@part
class EpochLine(Part):
    """One epoch of a run: losses in nats, accuracies in [0, 1]; None: not measured at this epoch.

    ``running_…`` are averages within the epoch while the weights move; the others are taken at fixed weights, in eval
    mode, with the evaluation's attack.
    """

    iteration: int
    epoch: int
    learning_rate: float
    weight_norm: float
    running_loss: float | None = None
    running_accuracy: float | None = None
    train_clean_loss: float | None = None
    train_clean_accuracy: float | None = None
    train_robust_loss: float | None = None
    train_robust_accuracy: float | None = None
    validation_clean_loss: float | None = None
    validation_clean_accuracy: float | None = None
    validation_robust_loss: float | None = None
    validation_robust_accuracy: float | None = None
    test_clean_loss: float | None = None
    test_clean_accuracy: float | None = None
    test_robust_loss: float | None = None
    test_robust_accuracy: float | None = None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """A line of a run's log."""
        return cls(**{name: line[name] for name in cls.__annotations__ if name in line})


@part
class EpochColumns(Part):
    """The epochs of a run, one column a quantity of `EpochLine`; NaN: not measured at this epoch."""

    iteration: Annotated[NDArray[np.float64], axes("epochs")]
    epoch: Annotated[NDArray[np.float64], axes("epochs")]
    learning_rate: Annotated[NDArray[np.float64], axes("epochs")]
    weight_norm: Annotated[NDArray[np.float64], axes("epochs")]
    running_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    running_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    train_clean_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    train_clean_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    train_robust_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    train_robust_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    validation_clean_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    validation_clean_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    validation_robust_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    validation_robust_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    test_clean_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    test_clean_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    test_robust_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    test_robust_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)]
    running_clean_loss: Annotated[NDArray[np.float64], axes("epochs", nan=True)] | None = None
    running_clean_accuracy: Annotated[NDArray[np.float64], axes("epochs", nan=True)] | None = None

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Self:
        """The columns of a run's log, from the lines of its epochs."""
        return cls(**_columns(cls, lines))


@part
class IterationColumns(Part):
    """The iterations around the decays, one by one; no rows where nothing was logged so."""

    iteration: Annotated[NDArray[np.float64], axes("iterations")]
    epoch: Annotated[NDArray[np.float64], axes("iterations")]
    learning_rate: Annotated[NDArray[np.float64], axes("iterations")]
    loss: Annotated[NDArray[np.float64], axes("iterations")]
    accuracy: Annotated[NDArray[np.float64], axes("iterations")]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Self:
        """The columns of a run's log, from the lines of its iterations."""
        return cls(**_columns(cls, lines))


#: Columns that a faithful run alone logs.
_OF_FAITHFUL_RUNS = ("running_clean_loss", "running_clean_accuracy")


def _columns(cls: type, lines: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    return {
        name: np.array([np.nan if line.get(name) is None else line[name] for line in lines], dtype=np.float64)
        for name in cls.__annotations__
        if name not in _OF_FAITHFUL_RUNS or any(name in line for line in lines)
    }


@part
class MaskingReport(Part):
    """Mean losses and accuracies under attacks that a sound evaluation ranks; `signs` names what is out of order.

    Args:
        count: images.
        accuracy: under the attack as set.
        accuracy_strong: under 5 × the steps and at least 5 restarts.
        accuracy_fgsm: under one step of size ε without a random start.
        loss: as `accuracy`.
        loss_strong: as `accuracy_strong`.
        loss_by_epsilon: at ε × (0, ½, 1, 2), steps scaled with it.
        loss_transfer: on inputs crafted on the other model; None without one.
        signs: sentences.
    """

    count: int
    accuracy: float
    accuracy_strong: float
    accuracy_fgsm: float
    loss: float
    loss_strong: float
    loss_by_epsilon: tuple[float, ...]
    loss_transfer: float | None
    signs: tuple[str, ...]


@part
class StoredCheckpoint(Part):
    """A checkpoint that the run kept: its file below the results folder, when, and its digest."""

    file: str
    epoch: int
    iteration: int
    sha256: str


@part
class TrainingRun(Record, OfRun):
    """What a completed run leaves.

    Args:
        training: what was trained.
        data_digest: of the data it saw.
        num_parameters: weights of the network.
        num_train: training images.
        num_validation: images held out of training.
        num_test: test images.
        epochs: its log.
        iterations: its log around the decays.
        final: the last epoch.
        best: the epoch of the largest *validation* robust accuracy; None without a validation split.
        average: the averaged weights on the test images; None where none are kept.
        masking: the guard's report; None where no images were set aside for it.
        checkpoints: those kept.
        run_folder: below the results folder.
    """

    experiment: ClassVar[str] = "training"

    training: Annotated[Training, WHOLE]
    data_digest: str
    num_parameters: int
    num_train: int
    num_validation: int
    num_test: int
    epochs: EpochColumns
    iterations: IterationColumns
    final: EpochLine
    best: EpochLine | None
    average: SplitMetrics | None
    masking: MaskingReport | None
    checkpoints: tuple[StoredCheckpoint, ...]
    run_folder: str
