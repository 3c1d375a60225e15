r"""Gradient noise along curvature: γᵢ = uᵢᵀ C uᵢ with honest errors, and how much of it repeats every epoch.

Model     γᵢ = Var_n(uᵢ·g_n), the per-unit variance (mini-batch noise is `operators.noise_factor` times it). u and γ
          taken from the same samples are biased together, so `cross_fit_noise` finds U on one half of the data and
          γ on the other.
Colour    Shuffled epochs repeat the *between-sample* part of the noise; fresh attack starts and augmentation do not
          repeat. With projections p_n^(a) under independent redraws a = 1 … A,
              ρ_b = Cov(p^(1), p^(2)) / Var(p),
          one minus the one-way analysis of variance's within share.
Oracle    Tests: dense C; a synthetic two-component noise of known share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.measure.intervals import variance_estimates
from empirical.measure.lanczos import Eigenpairs, top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.operators import HessianOperator, ProjectionMethod, project_gradients
from empirical.records.parts import RepeatedShare, VarianceEstimates


@dataclass(frozen=True, kw_only=True)
class NoiseInDirections:
    """Gradient noise seen in k directions.

    Attributes:
        variances: γ with standard errors and intervals.
        covariance: K = UᵀCU, shape ``(k, k)``, divisor N − 1.
        mean: ḡ·U, shape ``(k,)``: what drives the mean path.
        projections: P = G U, shape ``(N, k)``.
    """

    variances: VarianceEstimates
    covariance: NDArray[np.float64]
    mean: NDArray[np.float64]
    projections: NDArray[np.float64]


def gradient_noise(
    landscape: Landscape,
    directions: Tensor,
    *,
    method: ProjectionMethod = "auto",
    level: float = 0.95,
    resamples: int = 999,
    seed: int = 0,
) -> NoiseInDirections:
    """γᵢ = uᵢᵀCuᵢ of the landscape's units along the columns of ``directions`` ``(P, k)``, with intervals.

    Raises:
        ValueError: if there are more directions than units, or fewer than 8 units.
    """
    if directions.shape[1] >= landscape.num_units:
        raise ValueError(
            f"`gradient_noise(directions=...)` must have fewer columns than the data have units "
            f"({landscape.num_units}); got {directions.shape[1]}."
        )
    values = project_gradients(landscape, directions, method=method).values.cpu().numpy()
    rng = np.random.default_rng(seed)
    return NoiseInDirections(
        variances=variance_estimates(values, level=level, resamples=resamples, rng=rng),
        covariance=np.atleast_2d(np.cov(values, rowvar=False)),
        mean=values.mean(axis=0),
        projections=values,
    )


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Eigenvectors from one half of the data, γ from the other."""

    eigenpairs: Eigenpairs
    noise: NoiseInDirections


def cross_fit_noise(
    build: Callable[[Tensor], Landscape], num_samples: int, k: int, *, seed: int = 0, tolerance: float = 1e-4
) -> CrossFit:
    """γ along the top-k curvature, eigenvectors and noise estimated on disjoint halves.

    Args:
        build: sample indices to the landscape over those samples.
        num_samples: samples there are.
        k: eigenpairs.
        seed: of the split into halves.
        tolerance: of the eigenpairs.

    Raises:
        ValueError: if k exceeds the number of parameters or of samples in a half.
    """
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    half = num_samples // 2
    if k >= num_samples - half:
        raise ValueError(f"`cross_fit_noise(k=...)` must be below half the samples ({half}); got {k}.")
    pairs = top_eigenpairs(HessianOperator(build(order[:half])), k, tolerance=tolerance, seed=seed).require()
    return CrossFit(eigenpairs=pairs, noise=gradient_noise(build(order[half:]), pairs.basis, seed=seed))


def repeated_share(projections: NDArray[np.float64]) -> RepeatedShare:
    """ρ_b from projections under independent redraws of augmentation and attack start.

    Args:
        projections: shape ``(A, N, k)``: redraw, sample, direction; A ≥ 2.

    Raises:
        ValueError: if there are fewer than two redraws or samples.
    """
    values = np.asarray(projections, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] < 2 or values.shape[1] < 2:
        raise ValueError(f"`repeated_share(projections=...)` must be (A >= 2, N >= 2, k); got {values.shape}.")
    redraws, count, _ = values.shape
    centered = values - values.mean(axis=(0, 1))
    total = (centered**2).mean(axis=0)  # (N, k)
    within = values.var(axis=0, ddof=1)
    # Cov of two redraws of a sample = total − within; both are means over samples, so the ratio's influence is direct.
    share = 1.0 - within.mean(axis=0) / total.mean(axis=0)
    influence = -(within - (1 - share) * total) / total.mean(axis=0)
    return RepeatedShare(
        values=np.clip(share, 0.0, 1.0),
        standard_errors=influence.std(axis=0, ddof=1) / np.sqrt(count),
        redraws=redraws,
    )
