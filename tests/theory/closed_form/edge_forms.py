"""Edges of mean-square stability that can be written down, for `mean_square_edge` to be held against.

Rank one  A_n = L_n q_n q_nᵀ with q_n orthonormal, N of them: `theory.closed_form.edge`, (3), and its shuffled epochs.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from theory.closed_form.edge import isotropic_edge
from theory.closed_form.mode_response import mode_response
from theory.model.optimizer import MomentumSGD
from theory.model.regression import Sampling


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


def terms_meet(curvature: float, curvature_variance: float, num_samples: int, momentum: float) -> float:
    """B at which the terms of (2), `theory.closed_form.edge`, are equal, batches without replacement.

    Args:
        curvature: as in `isotropic_edge`.
        curvature_variance: as there.
        num_samples: N ≥ 2.
        momentum: μ.
    """
    ratio = curvature_variance / curvature**2 * (1.0 + momentum) / (1.0 - momentum)
    # (N−B)/(B(N−1)) ratio = 1
    return num_samples * ratio / (ratio + num_samples - 1.0)
