r"""Directions for each sample that it had no part in finding: what is measured along them is not flattered.

Problem   û maximises the curvature of the very samples whose noise is then measured along it. A sample that bends its
          way also pulls that way: γ comes out too large where curvatures lie close together, and the noise, which has
          the samples of Ĥ, too diagonal in its basis, both by (1/N) Σⱼ Cov(uᵢᵀH_nuⱼ, ·)/(λᵢ − λⱼ), the
          optimism of a fit judged on its own data (Efron 1986, J. Am. Stat. Assoc. 81, 461).
Method    Cross-fitting (Chernozhukov et al. 2018, Econometrics J. 21, C1): the samples in two random halves, a and b,
          directions from each half's Hessian, each sample along those of the other half. Given them the samples are
          independent of the directions. Since Ĥ is the mean of both Hessians, the halves' directions depart from û to
          opposite sides, and their mean noise from that along û in second order only.
Pairs     A half's directions are taken in the order and with the signs in which they overlap most with û, the
          assignment that maximises Σᵢ|uᵢ·ûᵢ|. The search starts from the same random vector and not from û, which knows
          both halves; what does not converge is then no less independent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.operators import HessianOperator

__all__ = ["TOLERANCE", "crossed_directions", "halves", "paired"]

#: Residual over the largest curvature at which a half's direction is good enough: where noise spans decades between
#: directions, a little of another one's is much of its own.
TOLERANCE = 1e-5


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of that many samples."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = order.tensor_split(2)
    return first, second


def crossed_directions(
    landscape: Landscape, basis: Tensor, *, seed: int = 0, stop: Callable[[], bool] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Both halves of the samples, each with the other half's directions.

    Args:
        landscape: the loss; its units are samples, at least two.
        basis: û, eigenvectors of all samples' Hessian, shape ``(P, k)``.
        seed: of the halves and of the start vectors.
        stop: asked after every product; true ends a search with what it has.

    Returns:
        Twice (indices of a half, directions ``(P, k)`` found in the other half, paired with û).
    """
    count = basis.shape[1]
    parts = [part.to(landscape.device) for part in halves(landscape.num_units, seed)]
    found = []
    for part in parts:
        found.append(
            top_eigenpairs(
                HessianOperator(landscape.subset(part), method="double-backward"),
                count,
                tolerance=TOLERANCE,
                max_products=20 + 10 * count,
                seed=seed,
                stop=None if stop is None else lambda _: stop(),
            ).basis
        )
    return [(part, paired(other, basis)) for part, other in zip(parts, found[::-1], strict=True)]


def paired(found: Tensor, basis: Tensor) -> Tensor:
    """Directions in the order and with the signs in which they overlap most with `basis`, both ``(P, k)``."""
    overlap = (found.T.double() @ basis.double()).cpu()
    rows, columns = linear_sum_assignment(-overlap.abs().numpy())
    paired = torch.empty_like(basis)
    for row, column in zip(rows, columns, strict=True):
        paired[:, column] = found[:, row] * (1.0 if float(overlap[row, column]) >= 0 else -1.0)
    return paired
