r"""Tests from independent replicates: one number a replica, and no model of how replicas scatter.

State-dependent and adaptive noise make the weights non-Gaussian, so no χ² law is at hand. Each replica contributes a
time average; averages of different replicas are independent, and the test of their mean is Student's t after Hall's
cubic transformation, which removes the first-order effect of their skewness (Hall 1992, J. R. Statist. Soc. B 54:221).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from theory.judge.claim import TEST_ALPHA, Comparison
from theory.judge.results import Result
from theory.judge.statistics import normal_quantile


@dataclass(frozen=True)
class MeanTests:
    """Elementary tests of means against predictions, a flat batch.

    Args:
        ratio: measured over predicted.
        error: standard error of the ratio.
        p_value: two-sided.
        degrees: 2/(relative standard error)², the ν of a χ² estimate as sharp as this one.
    """

    ratio: NDArray[np.float64]
    error: NDArray[np.float64]
    p_value: NDArray[np.float64]
    degrees: NDArray[np.float64]

    @staticmethod
    def join(parts: Sequence[MeanTests]) -> MeanTests:
        """All tests of several batches."""
        return MeanTests(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


_FIELDS = ("ratio", "error", "p_value", "degrees")


def mean_tests(replicates: NDArray[np.float64], predicted: NDArray[np.float64]) -> MeanTests:
    """Test E X = `predicted` > 0, column by column.

    Args:
        replicates: X, shape ``(R, q)``, R ≥ 8 independent rows.
        predicted: shape ``(q,)``, in units of X.
    """
    count = len(replicates)
    if count < 8:
        raise ValueError(f"`mean_tests(replicates=...)` must have at least 8 rows; got {count}.")
    mean = replicates.mean(axis=0)
    centred = replicates - mean
    spread = np.sqrt((centred**2).sum(axis=0) / (count - 1))
    skewness = (centred**3).mean(axis=0) / spread**3
    error = spread / np.sqrt(count)
    t = (mean - predicted) / error
    bend = skewness / np.sqrt(count)
    transformed = t + bend * t * t / 3.0 + bend * bend * t**3 / 27.0 + bend / 6.0
    return MeanTests(
        ratio=mean / predicted,
        error=error / predicted,
        p_value=2.0 * stats.t.sf(np.abs(transformed), count - 1),
        degrees=2.0 * (mean / error) ** 2,
    )


def identity_comparison(
    tests: MeanTests,
    *,
    extra_p_values: NDArray[np.float64] | None = None,
    note: str = "",
    results: tuple[Result, ...] = (),
) -> Comparison:
    """A Comparison for an identity: the most deviant ratio with its interval at the family's level, the smallest p."""
    worst = int(np.argmin(tests.p_value))
    reach = normal_quantile(TEST_ALPHA) * tests.error[worst]
    p_values = tests.p_value if extra_p_values is None else np.concatenate([tests.p_value, extra_p_values])
    return Comparison(
        estimate=float(tests.ratio[worst] - 1.0),
        interval=(float(tests.ratio[worst] - 1.0 - reach), float(tests.ratio[worst] - 1.0 + reach)),
        p_value=float(p_values.min()),
        num_tests=len(p_values),
        reached=float(tests.degrees.min()),
        note=note,
        results=results,
    )


def equivalence_comparison(
    tests: MeanTests, margin: float, *, note: str = "", results: tuple[Result, ...] = ()
) -> Comparison:
    """A Comparison for an approximation: the direction whose whole interval is furthest out decides.

    The claim is about every direction at once. It is refuted as soon as one interval lies wholly outside the margin,
    and supported only if all lie inside, so the interval reported is that of the direction furthest outside, else the
    one that reaches furthest.
    """
    reach = normal_quantile(TEST_ALPHA) * tests.error
    low, high = tests.ratio - 1.0 - reach, tests.ratio - 1.0 + reach
    outside = np.maximum(low, -high)  # > margin: the whole interval is outside
    furthest = np.maximum(np.abs(low), np.abs(high))
    worst = int(np.argmax(outside)) if outside.max() > margin else int(np.argmax(furthest))
    return Comparison(
        estimate=float(tests.ratio[worst] - 1.0),
        interval=(float(low[worst]), float(high[worst])),
        num_tests=len(tests.ratio),
        note=note,
        results=results,
    )


def mean_p_values(replicates: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values of E X = 0, column by column, for replicates of either sign."""
    count = len(replicates)
    t = replicates.mean(axis=0) / (replicates.std(axis=0, ddof=1) / np.sqrt(count))
    return 2.0 * stats.t.sf(np.abs(t), count - 1)


def variance_replicates(square: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replicates whose mean is the variance: x² minus the square of the mean over all replicas, ``(R, q)``.

    The square of a mean of R·T values is off by its own variance, 1/R of what is measured: below every margin here.
    """
    return square - mean.mean(axis=0) ** 2
