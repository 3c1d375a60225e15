"""The record of a bound beside the gap it is to follow, over the checkpoints of a run."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import IDENTITY, axes, part
from empirical.records.run import Measured

__all__ = ["BoundOverTraining"]


@part
class BoundOverTraining(Measured):
    """McAllester's formula over the tracked directions, a diagnostic, beside the robust gap at fixed weights.

    Args:
        iterations: of the checkpoints it was made from.
        label: how readers know the run: its name, and the batch-norm mode where there is a choice.
        left_out: checkpoints without a stationary law in any tracked direction.
        epochs: of the checkpoints that are left.
        bound: the formula minus the training robust loss, in nats.
        robust_gap: test minus train robust loss, in nats.
        curvature_times_variance: Σ λσ², in nats.
        negative_log_variance: −Σ ln σ².
        mean_shift: the mean's part of the KL divergence.
        kl: the KL divergence.
        value: the formula.
        error_bound: Seeger's bound on the robust 0-1 error.
        directions: how many were used.
    """

    experiment: ClassVar[str] = "bound"

    iterations: Annotated[tuple[int, ...], IDENTITY]
    label: str
    left_out: int
    epochs: Annotated[NDArray[np.float64], axes("checkpoints")]
    bound: Annotated[NDArray[np.float64], axes("checkpoints")]
    robust_gap: Annotated[NDArray[np.float64], axes("checkpoints")]
    curvature_times_variance: Annotated[NDArray[np.float64], axes("checkpoints")]
    negative_log_variance: Annotated[NDArray[np.float64], axes("checkpoints")]
    mean_shift: Annotated[NDArray[np.float64], axes("checkpoints")]
    kl: Annotated[NDArray[np.float64], axes("checkpoints")]
    value: Annotated[NDArray[np.float64], axes("checkpoints")]
    error_bound: Annotated[NDArray[np.float64], axes("checkpoints")]
    directions: Annotated[NDArray[np.float64], axes("checkpoints")]
