r"""Does a training run meet the theory's assumptions? For any torch model, as quantities with intervals.

Quantities (what `theory.judge.gate` can put thresholds on)
    price_per_direction   nats per tracked direction that ignoring the noise's correlations costs the KL term (S3);
                          0 when H and C commute in the tracked subspace
    direction_cosine      mean of cᵢ = γᵢ/‖Cuᵢ‖ over the tracked directions; 1 when each is an eigenvector of C
    expansion_error       |error| of the quadratic expansion along the tracked directions at the radius σᵢ that (S1)
                          predicts, relative
    stability_fraction    η(λ₁+β) over its largest stable value (`theory.stability`: Nesterov and dampening have their
                          own); beyond 1 there is no stationary law
    relaxation_steps      (1−μ)/(ηλ) of the slowest tracked direction: how long the run must have been at this rate
A run none of whose tracked directions is stable has a stability fraction and nothing else: the gate fails, and says so.
Intervals come from resampling the data, at fixed eigenvectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.measure.alignment import alignment
from empirical.measure.expansion import expansion_error
from empirical.measure.intervals import linear_interval
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.noise import gradient_noise
from empirical.measure.operators import (
    GradientCovarianceOperator,
    HessianOperator,
    bilinear_curvatures,
    noise_factor,
    probe_determinism,
)
from empirical.measure.posterior import price_interval
from empirical.settings.measuring import BatchNorm
from empirical.training.loss import PerSampleLoss, cross_entropy
from theory.closed_form.stability import stability, stability_ratio
from theory.closed_form.stationary import stationary_variance
from theory.judge.gate import GateReport, Quantity, Thresholds, decide
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

#: Gate of `check_assumptions` unless told otherwise: a tenth of a nat and a quarter of the loss's change.
DEFAULT_THRESHOLDS = Thresholds(
    maximum={"price_per_direction": 0.1, "expansion_error": 0.25, "stability_fraction": 1.0},
    minimum={"direction_cosine": 0.5},
)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What was found, and what the gate makes of it.

    Attributes:
        quantities: the numbers, with intervals.
        report: the gate's report under the thresholds given.
        curvatures: λ of the tracked directions, shape ``(k,)``.
        noise_variances: γ of the mini-batch gradient in them, shape ``(k,)``.
        variances: σ² predicted by (S1), white noise; NaN-free: only stable directions of positive curvature.
    """

    quantities: tuple[Quantity, ...]
    report: GateReport
    curvatures: NDArray[np.float64]
    noise_variances: NDArray[np.float64]
    variances: NDArray[np.float64]


def check_assumptions(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    per_sample_loss: PerSampleLoss = cross_entropy,
    batch_norm: BatchNorm = "eval",
    eigenpairs: int = 10,
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    thresholds: Thresholds | None = None,
    dtype: torch.dtype = torch.float64,
    chunk: int = 1024,
    seed: int = 0,
) -> Assumptions:
    """Measure the assumptions of the stationary law on a user's own model, and gate them.

    Args:
        model: the network at the weights to be judged; left as it is.
        inputs: training inputs ``(N, …)``.
        targets: training targets ``(N, …)``.
        learning_rate: η of the run.
        batch_size: mini-batch size of the run.
        momentum: μ of torch's SGD.
        dampening: d of torch's SGD.
        nesterov: whether torch's SGD looks ahead.
        weight_decay: β of torch's SGD.
        per_sample_loss: maps ``(outputs, targets)`` to ``(B,)`` losses.
        batch_norm: mode in which the loss is differentiated; per-sample gradients need "eval" or "frozen-batch".
        eigenpairs: k tracked directions.
        attack: makes adversarial inputs once, before measuring: ``attack(model, inputs, targets)``.
        thresholds: the gate; default `DEFAULT_THRESHOLDS`.
        dtype: arithmetic.
        chunk: samples differentiated at once.
        seed: of start vectors and resampling.

    Raises:
        ValueError: if a setting is out of range, or k exceeds the samples or parameters.
    """
    if batch_norm == "train":
        raise ValueError(
            "`check_assumptions(batch_norm=...)` must be eval or frozen-batch: per-sample gradients don't exist in "
            "train mode; got 'train'."
        )
    optimizer = MomentumSGD(learning_rate, momentum, dampening, nesterov, weight_decay)
    if attack is not None:
        inputs = attack(model, inputs, targets)
    landscape = Landscape(
        model, inputs, targets, per_sample_loss=per_sample_loss, batch_norm=batch_norm, dtype=dtype, chunk=chunk
    )
    limit = min(landscape.dimension, landscape.num_units - 1)
    if not 1 <= eigenpairs <= limit:
        raise ValueError(
            f"`check_assumptions(eigenpairs=...)` must lie in [1, {limit}] ({landscape.dimension} parameters, "
            f"{landscape.num_units} samples); got {eigenpairs}."
        )
    hessian, covariance = HessianOperator(landscape), GradientCovarianceOperator(landscape)
    probe_determinism(hessian)
    pairs = top_eigenpairs(hessian, eigenpairs, tolerance=1e-5, max_products=60 + 40 * eigenpairs, seed=seed).require()
    noise = gradient_noise(landscape, pairs.basis, seed=seed)
    factor = noise_factor(landscape.num_units, batch_size)
    found = alignment(hessian, covariance, pairs, num_probes=4, seed=seed)
    lam = pairs.largest.numpy()
    # Of the steepest direction, also where it has no stationary law and is left out of everything else.
    steepest = _stability(bilinear_curvatures(landscape, pairs.basis[:, :1], pairs.basis[:, :1]), lam[0], optimizer)
    usable = (lam > 0) & stability(lam, optimizer).stable & (noise.variances.values > 0)
    lam, gamma = lam[usable], noise.variances.values[usable] * factor
    if not usable.any():  # no radius, no price: instability is a result of its own
        report = decide(thresholds or DEFAULT_THRESHOLDS, quantities=(steepest,))
        return Assumptions(
            quantities=(steepest,), report=report, curvatures=lam, noise_variances=gamma, variances=np.empty(0)
        )
    variances = stationary_variance(Quadratic(lam, gamma), optimizer)
    chosen = torch.as_tensor(np.flatnonzero(usable), device=landscape.device)
    basis = pairs.basis[:, chosen]
    radii = torch.as_tensor(np.sqrt(variances), dtype=basis.dtype, device=basis.device)
    expansion = expansion_error(landscape, basis * radii, even=True, seed=seed)
    curvature_samples = bilinear_curvatures(landscape, basis, basis).cpu().numpy()
    quantities = (
        _price(noise.projections[:, usable], lam, factor, optimizer),
        _cosine(
            landscape, covariance, basis, found.direction_cosines[: len(usable)][usable], noise.projections[:, usable]
        ),
        _absolute("expansion_error", expansion.pooled, (expansion.pooled_low, expansion.pooled_high)),
        steepest,
        _relaxation(curvature_samples[:, -1], lam[-1], optimizer),
    )
    return Assumptions(
        quantities=quantities,
        report=decide(thresholds or DEFAULT_THRESHOLDS, quantities=quantities),
        curvatures=lam,
        noise_variances=gamma,
        variances=variances,
    )


def _price(
    projections: NDArray[np.float64], curvatures: NDArray[np.float64], factor: float, optimizer: MomentumSGD
) -> Quantity:
    value, low, high = price_interval(projections, curvatures, factor, optimizer)
    return Quantity(name="price_per_direction", estimate=value, interval=(low, high), note="nats")


def _cosine(
    landscape: Landscape,
    covariance: GradientCovarianceOperator,
    basis: Tensor,
    cosines: NDArray[np.float64],
    along: NDArray[np.float64],
) -> Quantity:
    from empirical.measure.operators import project_gradients

    images = covariance.matmat(basis)
    norms = torch.linalg.vector_norm(images.double(), dim=0).cpu().numpy()
    image = project_gradients(landscape, images).values.cpu().numpy()
    along, image = along - along.mean(axis=0), image - image.mean(axis=0)
    gammas = cosines * norms
    influence = (along**2 - gammas) / norms - gammas / norms**3 * (along * image - norms**2)
    value = float(cosines.mean())
    _, low, high = linear_interval(value, influence.mean(axis=1))
    return Quantity(name="direction_cosine", estimate=value, interval=(low, min(high, 1.0)))


def _absolute(name: str, value: float, interval: tuple[float, float]) -> Quantity:
    low, high = interval
    ends = (0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
    return Quantity(name=name, estimate=abs(value), interval=ends)


def _stability(samples: Tensor, curvature: float, optimizer: MomentumSGD) -> Quantity:
    value = float(stability([curvature], optimizer).ratio[0])
    scale = float(stability_ratio(1.0, optimizer.learning_rate, optimizer))
    _, low, high = linear_interval(value, scale * samples[:, 0].cpu().numpy())
    return Quantity(name="stability_fraction", estimate=value, interval=(low, high))


def _relaxation(samples: NDArray[np.float64], curvature: float, optimizer: MomentumSGD) -> Quantity:
    total = curvature + optimizer.weight_decay
    value = (1 - optimizer.momentum) / (optimizer.learning_rate * total)
    _, low, high = linear_interval(math.log(value), -samples / total)
    floor = 1 / (1 - math.sqrt(optimizer.momentum)) if optimizer.momentum else 1.0
    ends = tuple(max(math.exp(end), floor) for end in (low, high))
    return Quantity(name="relaxation_steps", estimate=max(value, floor), interval=(ends[0], ends[1]), note="steps")
