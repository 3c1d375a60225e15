r"""Trace and spectral density of a symmetric operator, each with its standard error over probes.

Trace     Hutchinson (1990): E zᵀAz = tr A for Rademacher z; exact on deflated eigenvectors, probes on the rest.
Density   Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017): each probe's tridiagonal matrix gives nodes θ and
          weights, an unbiased quadrature for zᵀf(A)z up to its degree. Reorthogonalized fully: without it the nodes
          repeat as ghosts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.measure.lanczos import orthogonalized
from empirical.measure.operators import SymmetricOperator
from empirical.measure.precision import norm
from empirical.records.spectrum import Density


@dataclass(frozen=True, kw_only=True)
class TraceEstimate:
    """tr A and its standard error over probes (0 when the deflation spans everything)."""

    value: float
    standard_error: float
    num_probes: int


def trace(
    operator: SymmetricOperator, *, num_probes: int = 16, deflated: Tensor | None = None, seed: int = 0
) -> TraceEstimate:
    """Trace by Hutchinson's estimator, exact on the columns of ``deflated`` ``(P, k)``.

    Raises:
        ValueError: if fewer than two probes are asked for.
    """
    if num_probes < 2:
        raise ValueError(f"`trace(num_probes=...)` must be >= 2 (one probe has no standard error); got {num_probes}.")
    exact = 0.0
    probes = _signs(operator, num_probes, seed)
    if deflated is not None:
        exact = float((deflated.double() * operator.matmat(deflated).double()).sum())
        probes = probes - deflated @ (deflated.T @ probes)
    values = (probes.double() * operator.matmat(probes).double()).sum(dim=0).cpu().numpy()
    return TraceEstimate(
        value=exact + float(values.mean()),
        standard_error=float(values.std(ddof=1)) / math.sqrt(num_probes),
        num_probes=num_probes,
    )


def spectral_density(
    operator: SymmetricOperator,
    *,
    num_probes: int = 8,
    steps: int = 40,
    points: int = 201,
    width: float | None = None,
    seed: int = 0,
) -> Density:
    """Smoothed spectral density by stochastic Lanczos quadrature.

    Args:
        operator: the matrix.
        num_probes: probes, ≥ 2.
        steps: Lanczos steps a probe, at most P are used.
        points: grid points, from the smallest to the largest node.
        width: smoothing width; default 1 % of the range.
        seed: of the probes.
    """
    if num_probes < 2:
        raise ValueError(f"`spectral_density(num_probes=...)` must be >= 2; got {num_probes}.")
    quadratures = [
        _quadrature(operator, vector, min(steps, operator.dimension))
        for vector in _signs(operator, num_probes, seed).unbind(dim=1)
    ]
    low = min(float(nodes.min()) for nodes, _ in quadratures)
    high = max(float(nodes.max()) for nodes, _ in quadratures)
    width = 0.01 * (high - low) if width is None else width
    width = width if width > 0 else max(abs(high), 1.0) * 1e-3
    grid = np.linspace(low - 4 * width, high + 4 * width, points)
    curves = np.stack(
        [
            (weights * np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2)).sum(axis=1)
            / (width * math.sqrt(2 * math.pi))
            for nodes, weights in quadratures
        ]
    )
    return Density(
        grid=grid,
        density=curves.mean(axis=0),
        standard_errors=curves.std(axis=0, ddof=1) / math.sqrt(num_probes),
        width=width,
        num_probes=num_probes,
    )


def _quadrature(operator: SymmetricOperator, start: Tensor, steps: int) -> tuple[NDArray[np.float64], NDArray]:
    basis = torch.empty(steps, operator.dimension, dtype=operator.dtype, device=operator.device)
    basis[0] = start / norm(start)
    projected = np.zeros((steps, steps))
    size = steps
    for step in range(steps):
        image = operator.matmat(basis[step : step + 1].T)[:, 0]
        image, column, remainder = orthogonalized(image, basis[: step + 1])
        projected[: step + 1, step] = projected[step, : step + 1] = column.numpy()
        scale = float(np.abs(projected).max())
        if remainder <= 100 * torch.finfo(operator.dtype).eps * max(scale, 1e-300):
            size = step + 1
            break
        if step + 1 < steps:
            torch.div(image, remainder, out=basis[step + 1])
    nodes, vectors = np.linalg.eigh(projected[:size, :size])
    return nodes, vectors[0] ** 2


def _signs(operator: SymmetricOperator, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (operator.dimension, count), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(device=operator.device, dtype=operator.dtype)
