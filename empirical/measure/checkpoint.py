"""Everything that is measured at one checkpoint, as a record.

Its identity is the Measurement, the run's Training and the iteration, so that the same measurement of the same
checkpoint is written once and a resumed pipeline skips it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data.resident import Data
from empirical.measure.alignment import alignment, layer_alignment
from empirical.measure.cost import Watch
from empirical.measure.density import spectral_density
from empirical.measure.lanczos import Eigenpairs, top_eigenpairs
from empirical.measure.landscape import Landscape, has_batch_norm
from empirical.measure.noise import cross_fit_noise, gradient_noise, repeated_share
from empirical.measure.objective import batch_attack, measured_samples, training_inputs, training_landscape
from empirical.measure.operators import (
    GradientCovarianceOperator,
    HessianOperator,
    bilinear_curvatures,
    probe_determinism,
    project_gradients,
)
from empirical.measure.sharpness import (
    FEWEST,
    GRADIENTS_A_BATCH,
    STEP,
    attacked_batch_sharpness,
    network_batch_sharpness,
)
from empirical.measure.tracking import continue_directions, subspace_change
from empirical.records.parts import RepeatedShare
from empirical.records.spectrum import (
    BatchSharpness,
    CrossFit,
    Density,
    Gap,
    Lanczos,
    Spectrum,
    Start,
    Turning,
    WeightNorms,
)
from empirical.settings.measuring import Measurement
from empirical.training.checkpoint import Checkpoint
from empirical.training.evaluate import evaluate

#: Eigenvectors are stored with the evidence up to this many weights.
STORED_WEIGHTS = 200_000


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Top eigenvectors of curvature and noise, ``(P, k)`` each: they warm-start the next checkpoint's search."""

    hessian: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure_checkpoint` found: the record, and the eigenpairs."""

    record: Spectrum
    hessian_pairs: Eigenpairs
    noise_pairs: Eigenpairs

    @property
    def directions(self) -> Directions:
        """What the next checkpoint's measurement starts from."""
        return Directions(hessian=self.hessian_pairs.basis, noise=self.noise_pairs.basis)


def measure_checkpoint(
    checkpoint: Checkpoint,
    data: Data,
    measurement: Measurement,
    *,
    previous: Directions | None = None,
    initial_weights: Tensor | None = None,
    note: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> Measured:
    """Spectra, noise, alignment, robust gap and norms at a checkpoint.

    Args:
        checkpoint: what is measured; left as it is.
        data: the data it was trained on.
        measurement: how.
        previous: eigenvectors at the checkpoint before it, for warm starts and the turning of eigenspaces.
        initial_weights: w₀ as a flat vector, for the bound's prior; None leaves the bound out.
        note: called with sentences worth reading.
        watch: told what is done as it goes.

    Raises:
        ValueError: if k exceeds the samples or parameters, or the data are others.
        NonFiniteProductError: if a product overflows.
        NotConvergedError: if Lanczos does not converge, saying how many pairs did.
    """
    if data.digest != checkpoint.data_digest:
        raise ValueError(
            f"`measure_checkpoint(data=...)` must be the data of the checkpoint ({checkpoint.data_digest}); "
            f"got {data.digest}."
        )
    started = time.perf_counter()

    def stage(name: str) -> None:
        if watch is not None:
            watch.stage(name)

    stage("inputs")
    landscape = training_landscape(checkpoint, data, measurement)
    if watch is not None:
        landscape.tick = watch.tick
    k = measurement.eigenpairs
    limit = min(landscape.dimension, landscape.num_units - 1)
    if k > limit:
        raise ValueError(
            f"`Measurement(eigenpairs=...)` must be at most {limit} ({landscape.dimension} parameters, "
            f"{landscape.num_units} {'batches' if landscape.units_are_batches else 'samples'}); got {k}."
        )
    stage("curvature")
    hessian = HessianOperator(landscape)
    probe_determinism(hessian)
    if previous is not None and previous.hessian.shape[0] != landscape.dimension:
        previous = None
    pairs = top_eigenpairs(
        hessian,
        k,
        num_smallest=measurement.smallest,
        tolerance=measurement.tolerance,
        start=None if previous is None else previous.hessian,
        max_products=60 + 40 * (k + measurement.smallest),
        seed=measurement.seed,
    ).require()
    stage("noise")
    covariance = GradientCovarianceOperator(landscape)
    noise_pairs = top_eigenpairs(
        covariance,
        k,
        tolerance=measurement.tolerance,
        start=None if previous is None else previous.noise,
        max_products=60 + 40 * k,
        seed=measurement.seed,
    ).require()
    basis = pairs.basis
    stage("directions")
    noise = gradient_noise(landscape, basis, resamples=measurement.resamples, seed=measurement.seed)
    curvature_samples = bilinear_curvatures(landscape, basis, basis).cpu().numpy()
    stage("commutation")
    found = alignment(
        hessian,
        covariance,
        pairs,
        covariance_pairs=noise_pairs,
        num_probes=measurement.probes,
        landscape=landscape if measurement.groups else None,
        groups=max(measurement.groups, 6),
        seed=measurement.seed,
    )
    of_samples = not landscape.units_are_batches
    stage("sharpness")
    sharpness = recorded_sharpness(checkpoint, data, measurement, landscape)
    stage("gap")
    gap = _gap(checkpoint, data, measurement)
    share, cross_fit = None, None
    if of_samples:
        stage("repeats")
        share = _share(checkpoint, data, measurement, basis, noise.projections)
        stage("cross-fit")
        cross_fit = _cross_fit(landscape, measurement, note)
    stage("average")
    average_curvature = _average_curvature(checkpoint, data, measurement)
    stage("layers")
    layers = layer_alignment(landscape, min(3, k), num_probes=measurement.probes) if measurement.layers else None
    stage("densities")
    record = Spectrum(
        training=checkpoint.setting,
        measurement=measurement,
        iteration=checkpoint.iteration,
        seed=checkpoint.seed,
        learning_rate=checkpoint.learning_rate,
        next_learning_rate=checkpoint.next_learning_rate,
        data_digest=checkpoint.data_digest,
        has_batch_norm=has_batch_norm(checkpoint.model),
        num_parameters=landscape.dimension,
        num_samples=measured_samples(data, measurement),
        num_units=landscape.num_units,
        units="samples" if of_samples else "batches",
        noise_factor=covariance.noise_factor(
            min(checkpoint.setting.batch_size, landscape.num_units),
            with_replacement=checkpoint.setting.order == "replacement",
        ),
        lanczos=Lanczos(
            products=pairs.num_products,
            restarts=pairs.num_restarts,
            status=pairs.status.value,
            noise_products=noise_pairs.num_products,
            product_method=hessian.method,
            product_seconds=dict(hessian.timings),
        ),
        negative_mass=float(-pairs.values[pairs.values < 0].sum() / pairs.values.abs().sum()),
        eigenvalues=pairs.values.numpy(),
        residuals=pairs.residuals.numpy(),
        error_bounds=pairs.error_bounds.numpy(),
        noise_eigenvalues=noise_pairs.values.numpy(),
        noise_residuals=noise_pairs.residuals.numpy(),
        gamma=noise.variances,
        noise_covariance=noise.covariance,
        mean_slope=noise.mean,
        projections=noise.projections,
        curvature_samples=curvature_samples,
        losses=landscape.losses().cpu().numpy(),
        alignment=found,
        gap=gap,
        weights=_weights(checkpoint),
        repeated_share=share,
        cross_fit=cross_fit,
        sharpness=sharpness.fixed,
        finite_sharpness=sharpness.finite,
        attacked_sharpness=sharpness.attacked,
        average_curvature=average_curvature,
        start=None if initial_weights is None else _start(landscape, basis, initial_weights),
        eigenvectors=basis.float().cpu().numpy() if landscape.dimension <= STORED_WEIGHTS else None,
        turning=None if previous is None else _turning(previous.hessian, basis),
        layers=layers,
        hessian_density=_density(hessian, measurement),
        noise_density=_density(covariance, measurement),
        seconds=round(time.perf_counter() - started, 3),
    )
    hessian.release()
    return Measured(record=record, hessian_pairs=pairs, noise_pairs=noise_pairs)


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Batch sharpness three ways; the last two are None without an attack."""

    fixed: BatchSharpness
    finite: BatchSharpness | None = None
    attacked: BatchSharpness | None = None


def recorded_sharpness(checkpoint: Checkpoint, data: Data, measurement: Measurement, landscape: Landscape) -> Sharpness:
    """Batch sharpness at fixed inputs, over a finite step, and over that step with the attack run again.

    The first and the last cost at most twice the gradients of one epoch of the run each, its attack included (a step of
    which is a forward pass and a backward pass to the inputs, two thirds of a gradient).
    """
    count, attack = len(landscape.inputs), checkpoint.setting.method.attack
    size = min(checkpoint.setting.batch_size, count)
    cost = 1.0 if attack is None else 1.0 + attack.steps * attack.restarts * 2 / 3
    shared: dict[str, Any] = {
        "with_replacement": checkpoint.setting.order == "replacement",
        "seed": measurement.seed,
    }
    batches = max(FEWEST, int(2 * cost * count / size / GRADIENTS_A_BATCH))
    found = network_batch_sharpness(landscape, checkpoint.optimizer, size, batches=batches, **shared)
    if attack is None:
        return Sharpness(fixed=found)
    step = STEP * float(landscape.weights.double().norm())
    again = batch_attack(checkpoint, data, measurement, landscape)
    finite, attacked = (
        attacked_batch_sharpness(landscape, checkpoint.optimizer, size, how, step=step, **shared)
        for how in (None, again)
    )
    return Sharpness(fixed=found, finite=finite, attacked=attacked)


def _average_curvature(checkpoint: Checkpoint, data: Data, measurement: Measurement) -> float | None:
    """λ₁ of the training loss at the weights' running average, its inputs attacked there."""
    if checkpoint.average is None:
        return None
    model = copy.deepcopy(checkpoint.model)
    model.load_state_dict(checkpoint.average)
    hessian = HessianOperator(training_landscape(replace(checkpoint, model=model), data, measurement))
    pairs = top_eigenpairs(
        hessian, 1, tolerance=max(measurement.tolerance, 1e-3), max_products=600, seed=measurement.seed
    )
    return float(pairs.require().values[0])


def _start(landscape: Landscape, basis: Tensor, initial_weights: Tensor) -> Start:
    """Both parts of the bound's prior N(w₀, σ_P² I) are fixed by the random initialization, before any data."""
    moved = landscape.weights.double() - initial_weights.to(landscape.device).double()
    return Start(
        prior_variance=float(initial_weights.double().square().mean()),
        distance=float(moved.norm()),
        displacement=(basis.double().T @ moved).cpu().numpy(),
    )


def _turning(before: Tensor, basis: Tensor) -> Turning:
    change = subspace_change(before, basis)
    _, cosines = continue_directions(before, basis)
    return Turning(
        angles=np.asarray(change.angles), overlap=change.overlap, null=change.null, matched_cosines=np.asarray(cosines)
    )


def _density(operator: HessianOperator | GradientCovarianceOperator, measurement: Measurement) -> Density | None:
    if not measurement.density:
        return None
    return spectral_density(operator, steps=measurement.density, num_probes=4, seed=measurement.seed)


def _gap(checkpoint: Checkpoint, data: Data, measurement: Measurement) -> Gap:
    """Robust losses and accuracies at fixed weights, eval mode, the same attack, no augmentation, on both sides."""
    count = min(measurement.evaluated or len(data.test), len(data.train), len(data.test))
    attack, loss = checkpoint.setting.evaluation.attack, checkpoint.setting.method.loss
    return Gap(
        train=evaluate(checkpoint.model, data.train.first(count), attack, seed=measurement.seed, loss=loss),
        test=evaluate(
            checkpoint.model, data.test.first(measurement.evaluated), attack, seed=measurement.seed, loss=loss
        ),
    )


def _weights(checkpoint: Checkpoint) -> WeightNorms:
    norms = {name: float(value.detach().double().norm()) for name, value in checkpoint.model.named_parameters()}
    return WeightNorms(norm=float(np.sqrt(sum(norm**2 for norm in norms.values()))), layers=norms)


def _share(
    checkpoint: Checkpoint, data: Data, measurement: Measurement, basis: Tensor, first: NDArray[np.float64]
) -> RepeatedShare:
    """Share of the noise that repeats with the sample, from independent attack starts (and augmentations)."""
    augmented = checkpoint.setting.data.augmentation != "none"
    if checkpoint.setting.method.attack is None and not augmented:
        width = first.shape[1]
        return RepeatedShare(values=np.ones(width), standard_errors=np.zeros(width), redraws=1)
    draws = [] if augmented else [first]
    for redraw in range(len(draws), measurement.redraws):
        other = training_landscape(checkpoint, data, measurement, redraw=redraw, fresh=True)
        draws.append(project_gradients(other, basis, method="auto").values.cpu().numpy())
    return repeated_share(np.stack(draws))


def _cross_fit(landscape: Landscape, measurement: Measurement, note: Callable[[str], None] | None) -> CrossFit | None:
    """γ with eigenvectors and noise from disjoint halves: what reusing the samples would have cost."""
    k = min(measurement.eigenpairs, landscape.num_units // 4)
    if k < 1:
        return None
    try:
        found = cross_fit_noise(
            landscape.subset, landscape.num_units, k, seed=measurement.seed, tolerance=max(measurement.tolerance, 1e-3)
        )
    except RuntimeError as error:
        if note is not None:
            note(f"cross-fit left out: {error}")
        return None
    return CrossFit(eigenvalues=found.eigenpairs.largest.numpy(), gamma=found.noise.variances)


def attack_for(checkpoint: Checkpoint, data: Data, measurement: Measurement, landscape: Landscape):
    """A function from flat weights to the inputs that the run's attack finds there, from the same starts."""
    probe = copy.deepcopy(checkpoint.model)
    at = replace(checkpoint, model=probe)
    count = measured_samples(data, measurement)

    def attack(weights: Tensor) -> Tensor:
        with torch.no_grad():
            for name, value in landscape.unflatten(weights).items():
                probe.get_parameter(name).copy_(value)
        inputs, _ = training_inputs(at, data, count, batch_norm=measurement.batch_norm, seed=measurement.seed)
        return inputs

    return attack
