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
        weights: w, any shape.
        buffer: v, of the shape of `weights`: torch's buffer, or the displacement in position form.
        gradient: g at w, of the shape of `weights`.
    """
    if optimizer.weight_decay:
        gradient = gradient + optimizer.weight_decay * weights
    kept = (1.0 - optimizer.dampening) * gradient
    if optimizer.form == "position":
        buffer = optimizer.momentum * buffer - optimizer.learning_rate * kept
        return weights + buffer, buffer
    buffer = optimizer.momentum * buffer + kept
    on_gradient, on_buffer = optimizer.direction
    direction = on_gradient * gradient + on_buffer * buffer if on_gradient else buffer
    return weights - optimizer.learning_rate * direction, buffer
