"""Compiled gradient of a batch of rows given by number (numba, extra `fast`): reads the rows where they lie.

The portable path copies every batch before it multiplies; this one does not. Both take the same rows, so their answers
agree to rounding (`tests/theory/oracle/test_sampling.py`).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def least_squares_gradient(
    inputs: NDArray[np.float64],
    targets: NDArray[np.float64],
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:  # pragma: no cover  (compiled)
    """(1/S) Σ x_s (x_sᵀ w − y_s) + κ w for every replica: rows (R, S), weights (R, m)."""
    replicas, batch = rows.shape
    count = weights.shape[1]
    gradient = np.zeros((replicas, count))
    for replica in range(replicas):
        for place in range(batch):
            row = rows[replica, place]
            residual = 0.0
            for column in range(count):
                residual += inputs[row, column] * weights[replica, column]
            residual -= targets[row]
            for column in range(count):
                gradient[replica, column] += residual * inputs[row, column]
        for column in range(count):
            gradient[replica, column] = gradient[replica, column] / batch + ridge * weights[replica, column]
    return gradient
