"""Everything that is measured at one checkpoint, as JSON values and arrays ready to be evidence.

The evidence's setting holds the Measurement, the run's Training and the iteration, so that the same measurement of the
same checkpoint is written once and a resumed pipeline skips it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data.resident import Data
from empirical.measure.alignment import Alignment, Estimate, alignment, layer_alignment
from empirical.measure.density import spectral_density
from empirical.measure.intervals import VarianceEstimates
from empirical.measure.lanczos import Eigenpairs, top_eigenpairs
from empirical.measure.landscape import Landscape, has_batch_norm
from empirical.measure.noise import cross_fit_noise, gradient_noise, repeated_share
from empirical.measure.objective import measured_samples, training_inputs, training_landscape
from empirical.measure.operators import (
    GradientCovarianceOperator,
    HessianOperator,
    bilinear_curvatures,
    probe_determinism,
    project_gradients,
)
from empirical.measure.tracking import continue_directions, subspace_change
from empirical.settings.measuring import Measurement
from empirical.training.checkpoint import Checkpoint
from empirical.training.evaluate import SplitMetrics, evaluate

EXPERIMENT = "spectrum"
#: Eigenvectors are stored with the evidence up to this many weights.
STORED_WEIGHTS = 200_000


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Top eigenvectors of curvature and noise, ``(P, k)`` each: they warm-start the next checkpoint's search."""

    hessian: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure_checkpoint` found: evidence, and the eigenpairs."""

    values: dict[str, Any]
    arrays: dict[str, NDArray]
    hessian_pairs: Eigenpairs
    noise_pairs: Eigenpairs

    @property
    def directions(self) -> Directions:
        """What the next checkpoint's measurement starts from."""
        return Directions(hessian=self.hessian_pairs.basis, noise=self.noise_pairs.basis)


def identity(checkpoint: Checkpoint, measurement: Measurement) -> dict[str, Any]:
    """The setting under which a checkpoint's evidence is filed."""
    return {
        "measurement": measurement.to_dict(),
        "training": checkpoint.setting.to_dict(),
        "iteration": checkpoint.iteration,
    }


def measure_checkpoint(
    checkpoint: Checkpoint,
    data: Data,
    measurement: Measurement,
    *,
    previous: Directions | None = None,
    initial_weights: Tensor | None = None,
    note: Callable[[str], None] | None = None,
) -> Measured:
    """Spectra, noise, alignment, robust gap and norms at a checkpoint.

    Args:
        checkpoint: what is measured; left as it is.
        data: the data it was trained on.
        measurement: how.
        previous: eigenvectors at the checkpoint before it, for warm starts and the turning of eigenspaces.
        initial_weights: w₀ as a flat vector, for the bound's prior; None leaves the bound out.
        note: called with sentences worth reading.

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
    landscape = training_landscape(checkpoint, data, measurement)
    k = measurement.eigenpairs
    limit = min(landscape.dimension, landscape.num_units - 1)
    if k > limit:
        raise ValueError(
            f"`Measurement(eigenpairs=...)` must be at most {limit} ({landscape.dimension} parameters, "
            f"{landscape.num_units} {'batches' if landscape.units_are_batches else 'samples'}); got {k}."
        )
    hessian, covariance = HessianOperator(landscape), GradientCovarianceOperator(landscape)
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
    noise_pairs = top_eigenpairs(
        covariance,
        k,
        tolerance=measurement.tolerance,
        start=None if previous is None else previous.noise,
        max_products=60 + 40 * k,
        seed=measurement.seed,
    ).require()
    basis = pairs.basis
    noise = gradient_noise(landscape, basis, resamples=measurement.resamples, seed=measurement.seed)
    curvature_samples = bilinear_curvatures(landscape, basis, basis).cpu().numpy()
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
    values: dict[str, Any] = {
        "epoch": checkpoint.epoch,
        "iteration": checkpoint.iteration,
        "learning_rate": checkpoint.learning_rate,
        "next_learning_rate": checkpoint.next_learning_rate,
        "data_digest": checkpoint.data_digest,
        "batch_norm": measurement.batch_norm,
        "has_batch_norm": has_batch_norm(checkpoint.model),
        "num_parameters": landscape.dimension,
        "num_units": landscape.num_units,
        "units": "batches" if landscape.units_are_batches else "samples",
        "num_samples": measured_samples(data, measurement),
        "noise_factor": covariance.noise_factor(
            min(checkpoint.setting.batch_size, landscape.num_units),
            with_replacement=checkpoint.setting.order == "replacement",
        ),
        "lanczos": {
            "products": pairs.num_products,
            "restarts": pairs.num_restarts,
            "status": pairs.status.value,
            "noise_products": noise_pairs.num_products,
            "product_method": hessian.method,
            "product_seconds": hessian.timings,
        },
        "negative_mass": float(-pairs.values[pairs.values < 0].sum() / pairs.values.abs().sum()),
        "gamma": _variances(noise.variances),
        "alignment": _alignment(found),
        "gap": _gap(checkpoint, data, measurement),
        "weights": _weights(checkpoint),
    }
    arrays: dict[str, NDArray] = {
        "eigenvalues": pairs.values.numpy(),
        "residuals": pairs.residuals.numpy(),
        "error_bounds": pairs.error_bounds.numpy(),
        "noise_eigenvalues": noise_pairs.values.numpy(),
        "noise_residuals": noise_pairs.residuals.numpy(),
        "gamma": noise.variances.values,
        "noise_covariance": noise.covariance,
        "mean_slope": noise.mean,
        "projections": noise.projections,
        "curvature_samples": curvature_samples,
        "losses": landscape.losses().cpu().numpy(),
    }
    if initial_weights is not None:
        # The prior N(w₀, σ_P² I) of the bound: both parts are fixed by the random initialization, before any data.
        moved = landscape.weights.double() - initial_weights.to(landscape.device).double()
        arrays["displacement"] = (basis.double().T @ moved).cpu().numpy()
        values["prior_variance"] = float(initial_weights.double().square().mean())
        values["distance_from_start"] = float(moved.norm())
    if not landscape.units_are_batches:
        values["repeated_share"] = _share(checkpoint, data, measurement, basis, noise.projections)
        values["cross_fit"] = _cross_fit(landscape, measurement, note)
    if landscape.dimension <= STORED_WEIGHTS:
        arrays["eigenvectors"] = basis.float().cpu().numpy()
    if previous is not None:
        change = subspace_change(previous.hessian, basis)
        _, cosines = continue_directions(previous.hessian, basis)
        values["turning"] = {
            "angles": change.angles.tolist(),
            "overlap": change.overlap,
            "null": change.null,
            "matched_cosines": cosines.tolist(),
        }
    if measurement.layers:
        values["layers"] = {
            name: _alignment(block)
            for name, block in layer_alignment(landscape, min(3, k), num_probes=measurement.probes).items()
        }
    if measurement.density:
        for name, operator in (("hessian", hessian), ("noise", covariance)):
            density = spectral_density(operator, steps=measurement.density, num_probes=4, seed=measurement.seed)
            arrays |= {
                f"{name}_density_grid": density.grid,
                f"{name}_density": density.density,
                f"{name}_density_error": density.standard_errors,
            }
    hessian.release()
    values["seconds"] = round(time.perf_counter() - started, 3)
    return Measured(values=values, arrays=arrays, hessian_pairs=pairs, noise_pairs=noise_pairs)


def _variances(found: VarianceEstimates) -> dict[str, Any]:
    return {
        "values": found.values.tolist(),
        "standard_errors": found.standard_errors.tolist(),
        "kurtosis": found.kurtosis.tolist(),
        "low": found.low.tolist(),
        "high": found.high.tolist(),
        "level": found.level,
    }


def _estimate(found: Estimate | None) -> dict[str, float | None] | None:
    return None if found is None else asdict(found)


def _alignment(found: Alignment) -> dict[str, Any]:
    fields = asdict(replace(found, covariance=np.zeros(0)))
    fields.pop("covariance")
    for name in ("chi", "chi_bulk", "omega", "cosine"):
        fields[name] = _estimate(getattr(found, name))
    fields["direction_cosines"] = found.direction_cosines.tolist()
    fields["direction_errors"] = found.direction_errors.tolist()
    fields["chi_excess"] = found.chi_excess
    return fields


def _gap(checkpoint: Checkpoint, data: Data, measurement: Measurement) -> dict[str, Any]:
    """Robust losses and accuracies at fixed weights, eval mode, the same attack, no augmentation, on both sides."""
    count = min(measurement.evaluated or len(data.test), len(data.train), len(data.test))
    attack, loss = checkpoint.setting.evaluation.attack, checkpoint.setting.method.loss
    sides: dict[str, SplitMetrics] = {
        "train": evaluate(checkpoint.model, data.train.first(count), attack, seed=measurement.seed, loss=loss),
        "test": evaluate(
            checkpoint.model, data.test.first(measurement.evaluated), attack, seed=measurement.seed, loss=loss
        ),
    }
    found: dict[str, Any] = {name: asdict(metrics) for name, metrics in sides.items()}
    found["robust_loss_gap"] = sides["test"].robust_loss - sides["train"].robust_loss
    found["robust_accuracy_gap"] = sides["train"].robust_accuracy - sides["test"].robust_accuracy
    return found


def _weights(checkpoint: Checkpoint) -> dict[str, Any]:
    norms = {name: float(value.detach().double().norm()) for name, value in checkpoint.model.named_parameters()}
    return {"norm": float(np.sqrt(sum(norm**2 for norm in norms.values()))), "layers": norms}


def _share(
    checkpoint: Checkpoint, data: Data, measurement: Measurement, basis: Tensor, first: NDArray[np.float64]
) -> dict[str, Any]:
    """Share of the noise that repeats with the sample, from independent attack starts (and augmentations)."""
    if checkpoint.setting.method.attack is None and checkpoint.setting.data.augmentation == "none":
        return {"values": [1.0] * first.shape[1], "standard_errors": [0.0] * first.shape[1], "redraws": 1}
    augmented = checkpoint.setting.data.augmentation != "none"
    draws = [] if augmented else [first]
    for redraw in range(len(draws), measurement.redraws):
        other = training_landscape(checkpoint, data, measurement, redraw=redraw, fresh=True)
        draws.append(project_gradients(other, basis, method="auto").values.cpu().numpy())
    found = repeated_share(np.stack(draws))
    return {
        "values": found.values.tolist(),
        "standard_errors": found.standard_errors.tolist(),
        "redraws": found.redraws,
    }


def _cross_fit(
    landscape: Landscape, measurement: Measurement, note: Callable[[str], None] | None
) -> dict[str, Any] | None:
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
    return {"eigenvalues": found.eigenpairs.largest.tolist(), "gamma": _variances(found.noise.variances)}


def attack_for(checkpoint: Checkpoint, data: Data, measurement: Measurement, landscape: Landscape):
    """A function from flat weights to the inputs that the run's attack finds there, from the same starts."""
    import copy

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
