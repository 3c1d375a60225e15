r"""Do the frozen curvature and noise still hold where the replicas are?

Model     A law with λᵢ = uᵢᵀHuᵢ and γᵢ = uᵢᵀCuᵢ frozen at the checkpoint w₀ speaks of replicas at w₀ + δ only while
          both are the same there. They are measured at the positions of several replicas, with the inputs of w₀ held
          fixed and, for a robust loss, with the attack run again at each position.
Use       `posterior` claims are not applicable where either moved by more than a quarter; the ladder quotes both.
Oracle    Tests: the dense Hessian and covariance at the moved weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.measure.landscape import Landscape
from empirical.measure.operators import HessianOperator, project_gradients

__all__ = ["LocalLaw", "local_law", "local_slopes"]


@dataclass(frozen=True, kw_only=True)
class LocalLaw:
    """Curvature and noise in k frozen directions at n positions.

    Attributes:
        curvatures: uᵢᵀH(w)uᵢ, shape ``(n, k)``.
        slope_variances: variance over samples of uᵢ·g_n(w), divisor N − 1, shape ``(n, k)``.
        mean_slopes: uᵢ·ḡ(w), shape ``(n, k)``.
    """

    curvatures: NDArray[np.float64]
    slope_variances: NDArray[np.float64]
    mean_slopes: NDArray[np.float64]


def local_law(
    landscape: Landscape, directions: Tensor, weights: Tensor, attack: Callable[[Tensor], Tensor] | None = None
) -> LocalLaw:
    """λ and γ in frozen directions at other weights.

    Args:
        landscape: the loss at the checkpoint's inputs; its units must be samples.
        directions: U, shape ``(P, k)``.
        weights: positions, shape ``(n, P)``.
        attack: flat weights ``(P,)`` to the inputs that the attack finds there; None holds the inputs fixed.

    Raises:
        ValueError: if the units are mini-batches or a position is of another network.
    """
    if landscape.units_are_batches:
        raise ValueError("`local_law(landscape=...)` needs samples as units; got mini-batches.")
    rows = []
    for position in weights:
        moved = landscape.at(position)
        if attack is not None:
            moved.inputs = attack(moved.weights).to(landscape.dtype)
        slopes = project_gradients(moved, directions, method="jvp").values
        products = HessianOperator(moved, method="double-backward", kept_chunks=0).matmat(directions)
        curvatures = (directions.double() * products.double()).sum(dim=0)
        rows.append((curvatures, slopes.var(dim=0), slopes.mean(dim=0)))
    columns = [np.stack([item.cpu().numpy() for item in column]) for column in zip(*rows, strict=True)]
    return LocalLaw(curvatures=columns[0], slope_variances=columns[1], mean_slopes=columns[2])


def local_slopes(landscape: Landscape, directions: Tensor, weights: Tensor) -> NDArray[np.float64]:
    """uᵢ·∇L at other weights ``(n, P)``, the landscape's inputs held: shape ``(n, k)``."""
    slopes = [landscape.at(position).gradient() for position in weights]
    return (torch.stack(slopes) @ directions.double()).cpu().numpy()
