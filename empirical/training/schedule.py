"""The learning rate of every iteration, as published.

A schedule is a multiplier of the optimizer's learning rate as a function of t, the number of epochs done:

    piecewise   factorᵏ after the k-th milestone, t ≥ milestone
    cosine      ½ (1 + cos π t/T)
    linear      1 − t/T
    cyclic      rises linearly from 0 to 1 at `peak`, falls linearly to 0 at T
    constant    1
Iteration i of epoch e, with n iterations an epoch, uses t = e + i/n. Rice et al.'s scripts (and AWP's after them) use
t = e + (i+1)/n, so that the *last* iteration of epoch 99 already runs at the decayed rate; `published_offset=True`
reproduces that. One iteration matters to nobody's accuracy and to everybody's comparison of iteration-level logs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.model.setting import Setting, keyword_setting

__all__ = ["LearningRate", "decay_iterations", "learning_rates"]

KINDS = ("piecewise", "cosine", "linear", "cyclic", "constant")


@keyword_setting
class LearningRate(Setting):
    """Shape of the learning-rate path; its height is `MomentumSGD.learning_rate`.

    Args:
        kind: "piecewise", "cosine", "linear", "cyclic" or "constant".
        milestones: piecewise only: epochs at which the rate is multiplied by `factor`, increasing. One milestone and
            any factor make the one-drop schedule.
        factor: piecewise only: > 0; published 0.1.
        peak: cyclic only: epoch of the largest rate.
        published_offset: count the iteration about to run as done, as the published scripts do.

    Raises:
        ValueError: if a value is out of range.
    """

    kind: str = "piecewise"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    peak: float | None = None
    published_offset: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`LearningRate(kind=...)` must be one of {KINDS}; got {self.kind!r}.")
        if any(milestone <= 0 for milestone in self.milestones) or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise ValueError(f"`LearningRate(milestones=...)` must be > 0 and increasing; got {self.milestones}.")
        if not 0 < self.factor < float("inf"):
            raise ValueError(f"`LearningRate(factor=...)` must be > 0 and finite; got {self.factor}.")
        if self.kind == "cyclic" and (self.peak is None or self.peak <= 0):
            raise ValueError(f"`LearningRate(peak=...)` must be > 0 for a cyclic schedule; got {self.peak}.")


def learning_rates(
    schedule: LearningRate, learning_rate: float, *, epochs: int, iterations_per_epoch: int
) -> NDArray[np.float64]:
    """The rate of every iteration, shape ``(epochs × iterations_per_epoch,)``, float64.

    Raises:
        ValueError: if a milestone or the peak lies beyond the last epoch.
    """
    if any(milestone > epochs for milestone in schedule.milestones) or (schedule.peak or 0) > epochs:
        raise ValueError(
            f"`LearningRate(milestones=..., peak=...)` must lie within the {epochs} epochs of the run; "
            f"got {schedule.milestones} and {schedule.peak}."
        )
    # Integers until the last division: epoch boundaries are then hit exactly, whatever the iterations per epoch.
    done = np.arange(epochs * iterations_per_epoch) + (1 if schedule.published_offset else 0)
    t = done / iterations_per_epoch
    if schedule.kind == "piecewise":
        passed = np.sum(t[:, None] >= np.asarray(schedule.milestones, dtype=float)[None, :], axis=1)
        # A power of a Python float, computed once a level, so that 0.1 · 0.1 has one value everywhere.
        levels = np.array([learning_rate * schedule.factor**k for k in range(len(schedule.milestones) + 1)])
        return levels[passed]
    if schedule.kind == "cosine":
        return learning_rate * 0.5 * (1 + np.cos(np.pi * t / epochs))
    if schedule.kind == "linear":
        return learning_rate * (1 - t / epochs)
    if schedule.kind == "cyclic":
        return learning_rate * np.interp(t, [0.0, float(schedule.peak or 0), float(epochs)], [0.0, 1.0, 0.0])
    return np.full(len(t), float(learning_rate))


def decay_iterations(rates: NDArray[np.float64], *, drop: float = 0.8) -> tuple[int, ...]:
    """Iterations that are the first at a rate below `drop` × the one before: the decays of a piecewise path.

    A smooth schedule has none (its steps are small), except in its last iterations, where it vanishes.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rates[1:] / rates[:-1]
    held = np.concatenate([[False], rates[1:-1] == rates[:-2], [False]])[: len(ratio)]  # a plateau came before
    return tuple(int(index) + 1 for index in np.flatnonzero((ratio < drop) & held))
