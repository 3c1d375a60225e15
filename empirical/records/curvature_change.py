"""The record of what moved the curvature between two checkpoints of a run."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import IDENTITY, axes, part
from empirical.records.run import Measured

__all__ = ["FACTORS", "CurvatureAttribution"]

#: The causes of a change of curvature, in the order of the parts.
FACTORS = ("outputs", "jacobian", "residual", "norms")


@part
class CurvatureAttribution(Measured):
    """Δ ln λ of the top directions between two checkpoints, split into its causes.

    Args:
        before: steps done at the first checkpoint.
        after: steps done at the second.
        data_digest: of the images and labels.
        eigenvalues: λ as the eigenvalue search has it.
        curvatures: uᵀHu along its eigenvectors, in whose change the parts add up.
        gauss_newton: their Gauss–Newton part.
        overlaps: (uᵀu')² of each direction with the one it is paired with.
        parts: of Δ ln λ, by `FACTORS`: the outputs' curvature, the outputs' derivative, the residual part, the norms.
        saturation: mean trace of the outputs' curvature at each checkpoint; softmax: 1 − Σp².
        groups: the scale-invariant tensors.
        norms: their norms at each checkpoint.
    """

    experiment: ClassVar[str] = "curvature-attribution"

    before: Annotated[int, IDENTITY]
    after: Annotated[int, IDENTITY]
    data_digest: str
    eigenvalues: Annotated[NDArray[np.float64], axes("checkpoints", "directions")]
    curvatures: Annotated[NDArray[np.float64], axes("checkpoints", "directions")]
    gauss_newton: Annotated[NDArray[np.float64], axes("checkpoints", "directions")]
    overlaps: Annotated[NDArray[np.float64], axes("directions")]
    parts: Annotated[NDArray[np.float64], axes("directions", "factors")]
    saturation: Annotated[NDArray[np.float64], axes("checkpoints")]
    groups: tuple[str, ...]
    norms: Annotated[NDArray[np.float64], axes("checkpoints", "groups")]

    @property
    def change(self) -> NDArray[np.float64]:
        """Δ ln λ of the eigenvalues, shape ``(directions,)``."""
        return np.log(self.eigenvalues[1] / self.eigenvalues[0])

    @property
    def remainder(self) -> NDArray[np.float64]:
        """What the parts leave of it: the error of the eigenvalue search."""
        return self.change - self.parts.sum(axis=1)

    @property
    def epochs(self) -> tuple[int, int]:
        """Completed epochs at either checkpoint."""
        steps = self.training.iterations_per_epoch
        return self.before // steps, self.after // steps
