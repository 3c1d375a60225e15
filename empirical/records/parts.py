"""Parts that records of several experiments share."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import Part, axes, part

__all__ = ["Estimate", "RepeatedShare", "SplitMetrics", "VarianceEstimates"]


@part
class Estimate(Part):
    """A number with the standard errors that are known of it (None: not estimated, or no such source)."""

    value: float
    probe_error: float
    sampling_error: float | None = None
    low: float | None = None
    high: float | None = None


@part
class VarianceEstimates(Part):
    """Variances of k columns of samples.

    Args:
        values: s² with divisor N − 1.
        standard_errors: √((κ − 1)/N) s².
        kurtosis: κ, 3 for a normal law.
        low: lower ends of the intervals.
        high: upper ends.
        num_samples: N.
        level: nominal coverage.
    """

    values: Annotated[NDArray[np.float64], axes("directions")]
    standard_errors: Annotated[NDArray[np.float64], axes("directions")]
    kurtosis: Annotated[NDArray[np.float64], axes("directions")]
    low: Annotated[NDArray[np.float64], axes("directions")]
    high: Annotated[NDArray[np.float64], axes("directions")]
    num_samples: int
    level: float


@part
class RepeatedShare(Part):
    """Share of the noise in each direction that the same sample brings back every epoch, ρ_b in [0, 1].

    Args:
        values: ρ_b, clipped to [0, 1].
        standard_errors: by delete-one-sample influence.
        redraws: independent redraws behind it; 1 where nothing is redrawn and the share is 1.
    """

    values: Annotated[NDArray[np.float64], axes("directions")]
    standard_errors: Annotated[NDArray[np.float64], axes("directions")]
    redraws: int


@part
class SplitMetrics(Part):
    """Means over `count` images; losses in nats, accuracies in [0, 1]."""

    count: int
    clean_loss: float
    clean_accuracy: float
    robust_loss: float
    robust_accuracy: float
