r"""What a gate can put thresholds on, with one interval for each quantity wherever it was measured.

price                 nats per tracked direction that ignoring the noise's correlations costs the KL term (S3); 0 when
                      H and C commute in the tracked subspace
alignment             mean of cᵢ = γᵢ/‖Cuᵢ‖ over the tracked directions; 1 when each is an eigenvector of C
expansion             |error| of the quadratic expansion along the tracked directions at the radius σᵢ that (S1)
                      predicts, relative
stability             η(λ₁ + β) over its largest stable value (`theory.closed_form.stability`: Nesterov and dampening
                      have their own); beyond 1 there is no stationary law
relaxation            (1−μ)/(η(λ + β)) of the slowest tracked direction: how long the run must have been at this rate
Intervals, 95 %, come from the samples' influences at fixed eigenvectors (price: the jackknife of `price_interval`;
expansion: the bootstrap of `expansion_error`). Directions: those with positive curvature and noise and a stationary
law; the steepest one in any case.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from empirical.measure.posterior import price_interval
from empirical.records.dynamics import Study
from theory.closed_form.stability import stability_ratio
from theory.judge.gate import Quantity
from theory.judge.intervals import from_influences, of_magnitude
from theory.model.optimizer import MomentumSGD

__all__ = ["of_directions", "of_expansion", "stability"]

ALPHA = 0.05


def of_directions(
    optimizer: MomentumSGD,
    *,
    curvatures: NDArray[np.float64],
    curvature_samples: NDArray[np.float64],
    projections: NDArray[np.float64],
    cosines: NDArray[np.float64],
    cosine_influences: NDArray[np.float64] | None,
    noise_factor: float,
    note: str = "",
) -> tuple[Quantity, ...]:
    """Price, cosine and relaxation over directions that have a stationary law.

    Args:
        optimizer: η, μ and weight decay.
        curvatures: λ in falling order, shape ``(k,)``, k ≥ 1.
        curvature_samples: their terms, sample by sample, shape ``(N, k)``.
        projections: the samples' slopes, shape ``(N, k)``.
        cosines: cᵢ, shape ``(k,)``.
        cosine_influences: of the samples on them, shape ``(N, k)``; None: no interval, so no gate is passed.
        noise_factor: covariance of the mini-batch gradient over a sample's.
        note: which run.
    """
    price, low, high = price_interval(projections, curvatures, noise_factor, optimizer)
    mean, interval = float(cosines.mean()), None
    if cosine_influences is not None:
        ends = from_influences(mean, cosine_influences.mean(axis=1)).interval(ALPHA)
        interval = (ends[0], min(ends[1], 1.0))
    return (
        Quantity(name="price", estimate=price, interval=(low, high), note=note or "nats"),
        Quantity(name="alignment", estimate=mean, interval=interval, note=note),
        _relaxation(curvature_samples[:, -1], float(curvatures[-1]), optimizer, note),
    )


def stability(samples: NDArray[np.float64], curvature: float, optimizer: MomentumSGD, *, note: str = "") -> Quantity:
    """Of the steepest direction, from its curvature and that curvature's terms, shape ``(N,)``."""
    scale = float(stability_ratio(1.0, optimizer.learning_rate, optimizer))
    found = from_influences(scale * (curvature + optimizer.weight_decay), scale * samples)
    return Quantity(name="stability", estimate=found.estimate, interval=found.interval(ALPHA), note=note)


def of_expansion(study: Study, *, name: str = "expansion", note: str = "") -> Quantity:
    """Of the top directions at radius σ, or of another study."""
    ends = of_magnitude((study.pooled_low, study.pooled_high))
    return Quantity(name=name, estimate=abs(study.pooled), interval=ends, note=note)


def _relaxation(samples: NDArray[np.float64], curvature: float, optimizer: MomentumSGD, note: str) -> Quantity:
    total = curvature + optimizer.weight_decay
    value = (1 - optimizer.momentum) / (optimizer.learning_rate * total)
    low, high = from_influences(math.log(value), -samples / total).interval(ALPHA)
    floor = 1 / (1 - math.sqrt(optimizer.momentum)) if optimizer.momentum else 1.0
    interval = (max(math.exp(low), floor), max(math.exp(high), floor))
    return Quantity(name="relaxation", estimate=max(value, floor), interval=interval, note=note or "steps")
