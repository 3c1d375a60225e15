"""Following an eigenspace across checkpoints: principal angles, and which vector continues which.

Single eigenvectors of nearly equal eigenvalues turn into each other freely, so only subspaces are compared as such;
`continue_directions` matches vectors for plots of single curves and says how good each match is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SubspaceChange:
    """How far one subspace turned into another.

    Attributes:
        angles: principal angles in radians, ascending, shape ``(min(j, k),)``.
        overlap: mean squared cosine over the smaller subspace's dimension: 1 the same, (larger dimension)/P random.
        null: the overlap of random subspaces.
    """

    angles: NDArray[np.float64]
    overlap: float
    null: float


def subspace_change(before: Tensor, after: Tensor) -> SubspaceChange:
    """Principal angles between two orthonormal bases ``(P, j)`` and ``(P, k)``.

    Raises:
        ValueError: if the bases live in different spaces, as those of two architectures do.
    """
    if before.ndim != 2 or after.ndim != 2 or before.shape[0] != after.shape[0]:
        raise ValueError(
            f"`subspace_change(before=..., after=...)` must be bases of one space (P, k), the same architecture; "
            f"got {tuple(before.shape)} and {tuple(after.shape)}."
        )
    cosines = np.linalg.svd((before.double().T @ after.double()).cpu().numpy(), compute_uv=False).clip(0.0, 1.0)
    size = min(before.shape[1], after.shape[1])
    return SubspaceChange(
        angles=np.arccos(cosines[:size]),
        overlap=float((cosines**2).sum() / size),
        null=max(before.shape[1], after.shape[1]) / before.shape[0],
    )


def continue_directions(before: Tensor, after: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each vector of ``before``, the vector of ``after`` that continues it, and |cosine|: ``(order, cosines)``.

    The assignment maximizes the sum of squared cosines over all one-to-one matchings.
    """
    cosines = np.abs((before.double().T @ after.double()).cpu().numpy())
    rows, columns = linear_sum_assignment(-(cosines**2))
    return columns, cosines[rows, columns]
