"""Learning-rate paths in epochs, as published, and the theory's `Schedule` of iterations that each one is.

A `LearningRate` is a shape: it multiplies the optimizer's learning rate η, and is written in epochs. With n iterations
an epoch and T epochs,

    piecewise   η · factorᵏ after the k-th milestone
    cosine      from η to 0 at T
    linear      from η to 0 at T
    cyclic      up to η at `peak`, down to the end; starts and ends at η/1000, since a rate of 0 freezes the weights
    constant    η
Iteration i of epoch e stands at t = e + i/n. Rice et al.'s scripts (and AWP's after them) use t = e + (i+1)/n, so that
the *last* iteration of epoch 99 already runs at the decayed rate; `published_offset=True` reproduces that for
piecewise paths. One iteration matters to nobody's accuracy and to everybody's comparison of iteration-level logs.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from empirical.settings.fields import require_choices
from theory.model.schedule import Schedule
from theory.model.setting import Setting, keyword_setting

__all__ = ["LearningRate", "PathKind", "decay_iterations"]

PathKind = Literal["piecewise", "cosine", "linear", "cyclic", "constant"]


@keyword_setting
class LearningRate(Setting):
    """Shape of the learning-rate path; its height is `MomentumSGD.learning_rate`.

    Args:
        kind: shape of the learning-rate path.
        milestones: piecewise only: epochs at which the rate is multiplied by `factor`, increasing, such as 100,150. One
            milestone and any factor make the one-drop schedule.
        factor: piecewise only: factor > 0 of each decay; published 0.1.
        peak: cyclic only: epoch of the largest rate.
        published_offset: piecewise only: count the iteration about to run as done, as the published scripts do.

    Raises:
        ValueError: if a value is out of range, or belongs to another kind.
    """

    kind: PathKind = "piecewise"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    peak: float | None = None
    published_offset: bool = False

    def __post_init__(self) -> None:
        require_choices(self)
        if any(not 0 < milestone < math.inf for milestone in self.milestones) or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise ValueError(
                f"`LearningRate(milestones=...)` must be > 0, finite and increasing; got {self.milestones}."
            )
        if not 0 < self.factor < math.inf:
            raise ValueError(f"`LearningRate(factor=...)` must be > 0 and finite; got {self.factor}.")
        if (self.kind == "cyclic") != (self.peak is not None) or (
            self.peak is not None and not 0 < self.peak < math.inf
        ):
            raise ValueError(
                f"`LearningRate(peak=...)` must be > 0 and finite for a cyclic path, and only there; got {self.peak}."
            )
        if self.kind != "piecewise" and (self.milestones or self.published_offset):
            raise ValueError(
                f"`LearningRate(milestones=..., published_offset=...)` are for piecewise; got {self.kind!r}."
            )

    def path(self, learning_rate: float, *, epochs: int, iterations_per_epoch: int) -> Schedule:
        """The theory's schedule of this shape: one rate an iteration.

        Raises:
            ValueError: if a milestone or the peak lies beyond the last epoch.
        """
        if any(milestone > epochs for milestone in self.milestones) or (self.peak or 0) >= epochs:
            raise ValueError(
                f"`LearningRate(milestones=..., peak=...)` must lie within the {epochs} epochs of the run; "
                f"got {self.milestones} and {self.peak}."
            )
        total = epochs * iterations_per_epoch
        if self.kind == "piecewise":
            early = 1 if self.published_offset else 0
            # t = i/n reaches the milestone at i = ⌈n · milestone⌉; the shave forgives 0.4 · 120 = 48.00000000000001.
            first = [math.ceil(milestone * iterations_per_epoch - 1e-6) for milestone in self.milestones]
            return Schedule.step(learning_rate, tuple(max(index - early, 0) for index in first), self.factor)
        if self.kind == "cosine":
            return Schedule.cosine(learning_rate, total)
        if self.kind == "linear":
            return Schedule.linear(learning_rate, 0.0, total)
        if self.kind == "cyclic":
            up = max(1, round(float(self.peak or 0) * iterations_per_epoch))
            return Schedule.cyclic(learning_rate / 1000, learning_rate, up, max(1, total - up))
        return Schedule.constant(learning_rate)


def decay_iterations(rates: NDArray[np.float64], *, drop: float = 0.8) -> tuple[int, ...]:
    """Iterations that are the first at a rate below `drop` × the one before, after a plateau.

    These are the decays of a piecewise path; smooth paths have none.
    """
    falls = rates[1:] < drop * rates[:-1]
    plateau = np.concatenate([[True], rates[1:-1] == rates[:-2]])[: len(falls)]
    return tuple(int(index) + 1 for index in np.flatnonzero(falls & plateau))
