r"""How quadratic is the adversarial loss? The loss against its second-order expansion along chosen directions.

Model     Along a unit direction u at radius r the even part of the change of the loss is
              E(r) = ½ (L(w + ru) + L(w − ru)) − L(w),      expansion  ½ r² uᵀHu,
          and for a displacement d that really occurred (an optimizer path)
              L(w + d) − L(w),                              expansion  g·d + ½ dᵀHd,
          of which the part that curves is  L(w + d) − L(w) − g·d  against  ½ dᵀHd: far from an optimum the slope makes
          up nearly all of the change, and hides how wrong H is.
Error     (measured − expansion)/|expansion|, a ratio of two means over the same samples: interval by Fieller-free
          bootstrap over samples, percentile of the ratio.
Inputs    Fixed adversarial inputs test the Danskin-type Hessian. With ``attack`` the inputs are attacked again at every
          displaced weight, which tests the robust loss itself.
Kinks     Automatic differentiation drops the curvature that sits in ReLU's kinks. The same weights under a smooth
          activation (softplus, within ln 2/10 of ReLU) separate that from genuine non-quadraticity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.measure.landscape import Landscape
from empirical.measure.operators import bilinear_curvatures, directional_derivatives
from empirical.records.dynamics import Study

Attack = Callable[[Tensor], Tensor]
Part = Literal["even", "whole", "curved"]


def expansion_error(
    landscape: Landscape,
    displacements: Tensor,
    *,
    part: Part,
    attack: Attack | None = None,
    curvatures: NDArray[np.float64] | None = None,
    level: float = 0.95,
    resamples: int = 999,
    seed: int = 0,
) -> Study:
    """The loss against its second-order expansion at the given displacements of the weights.

    Args:
        landscape: the loss at the point of expansion.
        displacements: columns d, shape ``(P, J)``, in units of the weights (a direction times a radius).
        part: "even" (both signs averaged, no slope), as for symmetric directions; "whole", the one-sided change with
            its slope, or "curved", without, as for a path.
        attack: flat weights to adversarial inputs there; None keeps the landscape's inputs.
        curvatures: dᵀ∇²ℓ_n d of every sample, shape ``(N, J)``, where they were measured before.
        level: coverage of the intervals, over samples.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        ValueError: if a displacement is zero or has another dimension.
    """
    if displacements.ndim != 2 or displacements.shape[0] != landscape.dimension:
        raise ValueError(
            f"`expansion_error(displacements=...)` must have shape ({landscape.dimension}, J); "
            f"got {tuple(displacements.shape)}."
        )
    if not bool((torch.linalg.vector_norm(displacements, dim=0) > 0).all()):
        raise ValueError("`expansion_error(displacements=...)` must not be zero; got a zero column.")
    moves = displacements.to(landscape.dtype)
    base = landscape.losses()
    changes = []
    for move in moves.unbind(dim=1):
        change = _losses_at(landscape, landscape.weights + move, attack) - base
        if part == "even":
            change = 0.5 * (change + _losses_at(landscape, landscape.weights - move, attack) - base)
        changes.append(change)
    measured = torch.stack(changes, dim=1).cpu().numpy()
    bent = bilinear_curvatures(landscape, moves, moves) if curvatures is None else torch.as_tensor(curvatures)
    predicted = 0.5 * bent.cpu()
    if part != "even":
        rows = [directional_derivatives(landscape, moves, units).double() for units in landscape.chunks()]
        slopes = torch.cat(rows).cpu()
        if part == "whole":
            predicted = predicted + slopes
        else:
            measured = measured - slopes.numpy()
    radii = torch.linalg.vector_norm(displacements, dim=0).double().cpu().numpy()
    return _compare(radii, measured, predicted.numpy(), level, resamples, np.random.default_rng(seed))


def random_directions(dimension: int, count: int, *, seed: int = 0) -> Tensor:
    """Independent uniformly random unit directions, shape ``(P, count)``, float64."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(dimension, count, generator=generator, dtype=torch.float64)
    return directions / torch.linalg.vector_norm(directions, dim=0)


def _losses_at(landscape: Landscape, weights: Tensor, attack: Attack | None) -> Tensor:
    if attack is None:
        return landscape.losses(weights)
    moved = landscape.at(weights)
    moved.inputs = attack(weights).to(landscape.inputs.dtype)
    return moved.losses()


def _compare(
    radii: NDArray[np.float64],
    measured: NDArray[np.float64],
    predicted: NDArray[np.float64],
    level: float,
    resamples: int,
    rng: np.random.Generator,
) -> Study:
    count = len(measured)
    scale = np.abs(predicted.mean(axis=0))
    relative = (measured.mean(axis=0) - predicted.mean(axis=0)) / scale
    draws = []
    for start in range(0, resamples, 256):
        weights = rng.multinomial(count, np.full(count, 1.0 / count), size=min(256, resamples - start)) / count
        seen, expected = weights @ measured, weights @ predicted
        draws.append((seen - expected) / np.maximum(np.abs(expected), 1e-300))
    resampled = np.concatenate(draws)
    tails = [0.5 - level / 2, 0.5 + level / 2]
    low, high = np.quantile(resampled, tails, axis=0)
    pooled_low, pooled_high = np.quantile(resampled.mean(axis=1), tails)
    return Study(
        radii=radii,
        measured=measured.mean(axis=0),
        predicted=predicted.mean(axis=0),
        relative=relative,
        low=low,
        high=high,
        pooled=float(relative.mean()),
        pooled_low=float(pooled_low),
        pooled_high=float(pooled_high),
    )
