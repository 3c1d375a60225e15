"""The update of momentum SGD, written out as the optimizer does it, on arrays of any shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD


def momentum_update(
    optimizer: MomentumSGD, weights: NDArray[np.float64], buffer: NDArray[np.float64], gradient: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and buffer after one step with `gradient` (weight decay not yet added), as new arrays.

    Args:
        optimizer: settings of the step.
        weights: w, any shape; with parameter groups its last axis is the coordinates.
        buffer: v, of the shape of `weights`: torch's buffer, or the displacement in position form.
        gradient: g at w, of the shape of `weights`.
    """
    groups = optimizer.groups
    rate = optimizer.learning_rate if groups is None else optimizer.learning_rate * groups.rates()
    decay = optimizer.weight_decay if groups is None else optimizer.weight_decay * groups.decays()
    if optimizer.weight_decay:
        gradient = gradient + decay * weights
    kept = optimizer.gradient_share * gradient
    if optimizer.form == "position":
        buffer = optimizer.momentum * buffer - rate * kept
        return weights + buffer, buffer
    buffer = optimizer.momentum * buffer + kept
    on_gradient, on_buffer = optimizer.direction
    direction = on_gradient * gradient + on_buffer * buffer if on_gradient else buffer
    return weights - rate * direction, buffer
