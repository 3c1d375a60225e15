"""The record of an imported training log, and the view of a run that the claims about logs share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import WHOLE, Part, Record, axes, part
from theory.model.setting import Setting, keyword_setting

__all__ = ["COLUMNS", "ImportedLog", "Log", "LogColumns", "LoggedRun", "Remark", "TrainColumns"]

#: Where the train columns of a log were measured. It decides what a train–test difference means.
#: running: averages within the epoch while the weights move, in train mode, on augmented images
#: perturbed: as running, and at adversarially perturbed weights
#: fixed: fixed weights, eval mode, no augmentation, the attack of the test columns
#: unknown: the log does not say
TrainColumns = Literal["running", "perturbed", "fixed", "unknown"]


@part
class LogColumns(Part):
    """The columns that a training log can have; None: it has not; NaN: not measured at this epoch, or diverged.

    Losses in nats, accuracies as fractions.
    """

    epoch: Annotated[NDArray[np.float64], axes("epochs")]
    learning_rate: Annotated[NDArray[np.float64], axes("epochs")]
    train_seconds: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    test_seconds: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    train_loss: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    train_accuracy: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    train_robust_loss: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    train_robust_accuracy: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    test_loss: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    test_accuracy: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    test_robust_loss: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    test_robust_accuracy: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    validation_loss: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    validation_accuracy: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    validation_robust_loss: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None
    validation_robust_accuracy: Annotated[NDArray[np.float64] | None, axes("epochs", nan=True)] = None


#: Every column a training log can have, in the order in which it is written.
COLUMNS = tuple(field.name for field in dataclasses.fields(LogColumns))


@part
class Log(Part):
    """A run as its log shows it, imported or our own.

    Args:
        label: how readers know the run.
        dataset: such as ``"cifar10"``; None if unknown.
        method: ``"at"``, ``"awp"``, ``"trades"``, ``"trades-awp"`` or ``"standard"``; None if unknown.
        data_order: what runs that saw the data in the same order share; None if unknown.
        train_columns: where the train columns were measured.
        arguments: the run's own account of its settings, under its own names.
        columns: its epochs.
        diverged: first epoch from which on a loss was never finite again; None of a run that did not diverge.
    """

    label: str
    dataset: str | None
    method: str | None
    data_order: str | None
    train_columns: TrainColumns
    arguments: Mapping[str, Any]
    columns: LogColumns
    diverged: int | None = None


@keyword_setting
class ImportedLog(Setting):
    """What an imported log was: its content, how it was read, and what was said of it by hand.

    Args:
        sha256: digests of its files.
        reading: what had to be said of how to read it.
        given: facts given by hand.
    """

    sha256: tuple[str, ...]
    reading: Mapping[str, Any]
    given: Mapping[str, Any]


@part
class Remark(Part):
    """A line of the file that holds no epoch and is no fault."""

    line: int
    text: str


@part
class LoggedRun(Record):
    """An imported log.

    Args:
        source: which file, read how.
        log: what it says.
        format: "text", "csv", "tsv", "json-lines" or "tensorboard".
        inferred: facts that the log does not state, and what each was inferred from.
        remarks: lines that hold no row and are no fault.
        restarts: epochs at which the run was taken up again.
        superseded_lines: lines of epochs that a restart trained again.
        unread_columns: columns whose names say nothing.
    """

    experiment: ClassVar[str] = "training-log"

    source: Annotated[ImportedLog, WHOLE]
    log: Log
    format: str
    inferred: Mapping[str, str]
    remarks: tuple[Remark, ...]
    restarts: tuple[int, ...]
    superseded_lines: tuple[int, ...]
    unread_columns: tuple[str, ...]
