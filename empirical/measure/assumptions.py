r"""Does a training run meet the theory's assumptions? For any torch model, as quantities with intervals.

Quantities, which `theory.judge.gate` can put thresholds on: those of `empirical.measure.quantities`. A run none of
whose tracked directions is stable has a stability fraction and nothing else: the gate fails, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from empirical.measure.alignment import alignment
from empirical.measure.expansion import expansion_error
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
from empirical.measure.quantities import of_directions, of_expansion, stability
from empirical.settings.measuring import BatchNorm
from empirical.training.loss import PerSampleLoss, cross_entropy
from theory.closed_form.stability import modes
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
    samples = bilinear_curvatures(landscape, pairs.basis, pairs.basis).cpu().numpy()
    # Of the steepest direction, also where it has no stationary law and is left out of everything else.
    steepest = stability(samples[:, 0], float(lam[0]), optimizer)
    usable = (lam > 0) & (noise.variances.values > 0) & modes(lam, optimizer).stable
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
    influences = found.direction_influences
    price, cosine, relaxation = of_directions(
        optimizer,
        curvatures=lam,
        curvature_samples=samples[:, usable],
        projections=noise.projections[:, usable],
        cosines=found.direction_cosines[: len(usable)][usable],
        cosine_influences=None if influences is None else influences[:, : len(usable)][:, usable],
        noise_factor=factor,
    )
    quantities = (price, cosine, of_expansion(expansion), steepest, relaxation)
    return Assumptions(
        quantities=quantities,
        report=decide(thresholds or DEFAULT_THRESHOLDS, quantities=quantities),
        curvatures=lam,
        noise_variances=gamma,
        variances=variances,
    )
