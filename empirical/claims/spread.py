"""Spread of replicas, and ratios of spreads: ln of a variance averaged over directions, with each replica's influence.

Interval  Replicas are the replicates. ln s² of replica r has the influence (x_r − x̄)²/s² − 1; two spreads that share
          their replicas are differenced replica by replica, so that what they share cancels. Records of one ensemble
          share the level: Bonferroni over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from theory.judge.claim import HYPOTHESIS_ALPHA

__all__ = ["Ratio", "Spread"]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """ln of the variance at each record, averaged over directions, and each replica's influence on it."""

    level: Array  # (records,)
    influence: Array  # (records, replicas)

    @classmethod
    def of(cls, positions: NDArray[np.floating], keep: NDArray[np.bool_]) -> Spread:
        """From positions ``(records, replicas, directions)``."""
        chosen = positions[:, :, keep].astype(np.float64)
        centred = chosen - chosen.mean(axis=1, keepdims=True)
        variance = chosen.var(axis=1, ddof=1)
        influence = (centred**2 / variance[:, None] - 1).mean(axis=2)
        return cls(level=np.log(variance).mean(axis=1), influence=influence)

    @classmethod
    def predicted(cls, variances: Array, keep: NDArray[np.bool_], replicas: int) -> Spread:
        """Of a formula: no replica has a say in it."""
        chosen = np.maximum(variances[:, keep], 1e-300)
        return cls(level=np.log(chosen).mean(axis=1), influence=np.zeros((len(chosen), replicas)))

    def at(self, records: NDArray[np.intp]) -> Spread:
        """Of some of the records."""
        return Spread(level=self.level[records], influence=self.influence[records])

    def since(self, before: Spread) -> Spread:
        """Relative to the mean level of earlier records of the same replicas."""
        return Spread(level=self.level - before.level.mean(), influence=self.influence - before.influence.mean(axis=0))

    def over(self, other: Spread) -> Ratio:
        """ln of the ratio, replica by replica."""
        estimate = self.level - other.level
        influence = self.influence - other.influence
        return Ratio(estimate=estimate, error=influence.std(axis=1, ddof=1) / math.sqrt(influence.shape[1]))


@dataclass(frozen=True)
class Ratio:
    """ln of a ratio at each record, with its standard error."""

    estimate: Array
    error: Array

    def ends(self) -> tuple[Array, Array]:
        """Simultaneous interval over the records."""
        reach = float(stats.norm.ppf(1 - HYPOTHESIS_ALPHA / (2 * len(self.estimate)))) * self.error
        return self.estimate - reach, self.estimate + reach

    @property
    def worst(self) -> int:
        """Index of the record that is furthest from 1."""
        return int(np.argmax(np.abs(self.estimate)))

    @property
    def magnitude(self) -> tuple[float, float]:
        """Simultaneous interval of the largest |ln ratio|."""
        low, high = self.ends()
        inner = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
        return float(inner.max()), float(np.maximum(np.abs(low), np.abs(high)).max())

    def outcome(self, margin: float) -> Literal["within", "outside", "undecided"]:
        """Whether every record is within a factor of the margin."""
        inner, outer = self.magnitude
        return "within" if outer <= math.log(margin) else "outside" if inner > math.log(margin) else "undecided"
