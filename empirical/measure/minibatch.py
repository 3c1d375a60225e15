r"""What the law of mini-batches with noise that depends on the state needs of a network.

Model     Near w₀ sample n has the gradient s_n + A_n δ in k tracked directions U: s_n = Uᵀg_n, A_n = Uᵀ∇²ℓ_n U. What
          moves outside U is felt through the couplings Uᵀ∇²ℓ_n (I − UUᵀ): of those, the covariance that (P2) wants is
          taken from random sign combinations of the samples' outside slopes, without a matrix.
Use       `theory.closed_form.minibatch_moments.minibatch_second_moments`.
Oracle    Tests: dense per-sample Hessians in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.measure.landscape import Landscape
from empirical.measure.operators import (
    HessianOperator,
    own_couplings,
    project_gradients,
    projected_curvatures,
    unit_gradients,
)
from theory.closed_form.outside import Outside

__all__ = ["SampleLaw", "sample_law"]


@dataclass(frozen=True, kw_only=True)
class SampleLaw:
    """Every sample's slope and curvature along k directions, and what the others do to them.

    Attributes:
        slopes: s_n without weight decay, shape ``(N, k)``.
        curvatures: A_n, shape ``(N, k, k)``.
        outside: what lies outside the directions.
    """

    slopes: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    outside: Outside


def sample_law(landscape: Landscape, directions: Tensor, *, probes: int = 8, seed: int = 0) -> SampleLaw:
    """Slopes, curvatures and outside couplings of every sample.

    Args:
        landscape: the loss at fixed inputs; its units must be samples.
        directions: U with orthonormal columns, eigenvectors of the mean Hessian, shape ``(P, k)``.
        probes: random sign combinations behind the outside coupling; its relative error is about √(2/probes)/√k.
        seed: of the signs.

    Raises:
        ValueError: if the units are mini-batches.
    """
    basis = directions.to(landscape.dtype)
    slopes = project_gradients(landscape, basis).values.cpu().numpy()
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], size=(landscape.num_units, probes)))
    signs = signs.to(landscape.device, landscape.dtype)
    signs -= signs.mean(dim=0)  # Σ ± (g_n − ḡ)
    combined = torch.zeros(landscape.dimension, probes, dtype=torch.float64, device=landscape.device)
    for units in landscape.gradient_chunks():
        combined += (unit_gradients(landscape, units).T @ signs[units]).double()
    combined = combined.to(landscape.dtype) / math.sqrt(landscape.num_units - 1)
    combined -= basis @ (basis.T @ combined)
    squares = (combined**2).sum(dim=0)
    if float(squares.max()) <= 1e-24 * float((signs**2).sum()):  # U is the whole space
        return SampleLaw(
            slopes=slopes,
            curvatures=projected_curvatures(landscape, basis).cpu().numpy(),
            outside=Outside(curvature=0.0, coupling=np.zeros((basis.shape[1],) * 2)),
        )
    products = HessianOperator(landscape).matmat(combined)
    curvature = float((combined * products).sum() / squares.sum())
    centred = slopes - slopes.mean(axis=0)
    own = centred.T @ own_couplings(landscape, basis).cpu().numpy() / landscape.num_units
    return SampleLaw(
        slopes=slopes,
        curvatures=projected_curvatures(landscape, basis).cpu().numpy(),
        outside=Outside.from_probes(
            projected_curvatures(landscape, basis, combined).cpu().numpy(), max(curvature, 0.0), own
        ),
    )
