"""Edges of mean-square stability that can be written down, for `mean_square_edge` to be held against.

Isotropic Ā = λI and T(I) = f v I (samples that differ by a factor, orthogonal samples, any law that no rotation
          changes): I is the leading eigenvector, so the edge solves
              η (1+μ) f v = λ(1−μ)(2(1+μ) − ηλ)   ⇔   η* = 2(1−μ²) λ / ((1−μ)λ² + (1+μ) f v).                   (2)
Rank one  A_n = L_n q_n q_nᵀ with q_n orthonormal, N of them: `theory.closed_form.edge`, (3), and its shuffled epochs.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from theory.closed_form.mode_response import mode_response
from theory.model.optimizer import MomentumSGD
from theory.model.regression import Sampling


def isotropic_edge(
    curvature: float,
    curvature_variance: float,
    num_samples: int | None,
    batch_size: int,
    momentum: float,
    *,
    sampling: Sampling | str = Sampling.WITHOUT_REPLACEMENT,
) -> float:
    """Edge of samples among which no direction is special, heavy ball, equation (2).

    Args:
        curvature: λ > 0 of the mean.
        curvature_variance: v ≥ 0 with (1/N) Σ A_n² − λ²I = v I (for one direction, the variance of h_n, divisor N).
        num_samples: N; None for infinitely many.
        batch_size: B.
        momentum: μ in [0, 1).
        sampling: with or without replacement; the same where N is None.
    """
    share = 1.0 / batch_size
    if num_samples is not None and Sampling(sampling) is Sampling.WITHOUT_REPLACEMENT:
        share *= (num_samples - batch_size) / (num_samples - 1.0)
    fed = share * curvature_variance
    return 2.0 * (1.0 - momentum**2) * curvature / ((1.0 - momentum) * curvature**2 + (1.0 + momentum) * fed)


def orthogonal_edge(
    sharpness: float,
    num_samples: int,
    batch_size: int,
    momentum: float,
    *,
    sampling: Sampling | str = Sampling.WITHOUT_REPLACEMENT,
) -> float:
    """Edge of N samples of rank one along orthonormal directions, heavy ball: equation (3), and under shuffled epochs.

    Args:
        sharpness: L, the largest curvature of a sample.
        num_samples: N ≥ 2.
        batch_size: B in 1 … N; under shuffled epochs B must divide N.
        momentum: μ in [0, 1).
        sampling: any.
    """
    if Sampling(sampling) is not Sampling.SHUFFLED_EPOCHS:
        curvature = sharpness / num_samples
        variance = sharpness**2 * (1.0 - 1.0 / num_samples) / num_samples
        return isotropic_edge(curvature, variance, num_samples, batch_size, momentum, sampling=sampling)
    count = num_samples // batch_size
    hit = sharpness / batch_size

    def excess(rate: float) -> float:
        optimizer = MomentumSGD(rate, momentum)
        free, struck = (mode_response([value], optimizer).transition[0] for value in (0.0, hit))
        before = [np.eye(2)]
        for _ in range(count - 1):
            before.append(free @ before[-1])
        whole = sum(np.kron(p, p) for p in (before[count - 1 - tau] @ struck @ before[tau] for tau in range(count)))
        return float(np.abs(np.linalg.eigvals(np.asarray(whole) / count)).max()) - 1.0

    # Small rates contract like exp(−2ηL/(N(1−μ))); scan up to the first rate that does not.
    unit = 2.0 * (1.0 - momentum) / hit
    low = high = 0.02 * unit
    while excess(high) < 0.0:
        low, high = high, 1.1 * high
    return float(brentq(excess, low, high, xtol=1e-14 * high, rtol=1e-13))


def crossover_batch_size(curvature: float, curvature_variance: float, num_samples: int, momentum: float) -> float:
    """B at which (2)'s two terms are equal, batches without replacement: below it noise sets the edge.

    Args:
        curvature: as in `isotropic_edge`.
        curvature_variance: as there.
        num_samples: N ≥ 2.
        momentum: μ.
    """
    ratio = curvature_variance / curvature**2 * (1.0 + momentum) / (1.0 - momentum)
    # (N−B)/(B(N−1)) ratio = 1
    return num_samples * ratio / (ratio + num_samples - 1.0)
