"""A run of the map of regimes: trained in memory and measured on the way, cheaply enough for many."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.claims import registered
from empirical.data.resident import Data
from empirical.measure.density import trace
from empirical.measure.lanczos import Eigenpairs, NotConvergedError, top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.objective import batch_attack, measured_samples, training_landscape
from empirical.measure.operators import (
    HessianOperator,
    NonFiniteProductError,
    bilinear_curvatures,
    noise_factor,
    project_gradients,
)
from empirical.measure.sharpness import FEWEST, STEP, attacked_batch_sharpness, network_batch_sharpness
from empirical.network.build import parameter_count
from empirical.records.regime import RegimeRun
from empirical.settings.measuring import Measurement
from empirical.settings.training import Training
from empirical.training.checkpoint import Checkpoint
from empirical.training.evaluate import evaluate
from empirical.training.trainer import Trainer
from theory.judge.evidence import provenance

__all__ = ["measure_regime"]

#: Batches behind batch sharpness, most.
BATCHES = 16
#: Products that a search for eigenpairs may take.
PRODUCTS = 200


def measure_regime(
    training: Training,
    measurement: Measurement,
    data: Data,
    *,
    regime: str,
    seed: int,
    note: Callable[[str], None] | None = None,
) -> RegimeRun:
    """Train a run and measure it after the epochs at which it would keep checkpoints.

    A run whose losses or products stop being finite, or whose eigenpairs are not found, ends there: its record holds
    the checkpoints up to then.

    Args:
        training: what is trained.
        measurement: how it is measured; in eval mode.
        data: `load_data(training.data)`.
        regime: its name.
        seed: of the run.
        note: called with a line at each checkpoint.
    """
    began = time.time()
    trainer = Trainer(training, seed=seed, data=data)
    start = torch.cat([value.detach().reshape(-1) for value in trainer.model.parameters()]).double()
    decay = training.decays[0][0] if training.decays else 0
    length = training.iterations_per_epoch
    rows: list[dict[str, Any]] = []
    warm: Tensor | None = None
    for epoch in training.checkpoint_epochs:
        while trainer.epoch < epoch:
            trainer.step()
        whole = trainer.iteration in (decay, decay + 5 * length, training.num_iterations)
        try:
            point = _measured(trainer, data, measurement, start, warm, at_decay=trainer.iteration == decay, whole=whole)
        except (NonFiniteProductError, NotConvergedError, FloatingPointError) as error:
            if note is not None:
                note(f"{regime} seed {seed} ends at epoch {epoch}: {error}")
            break
        warm = point.basis
        rows.append(point.row)
    count = measured_samples(data, measurement)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else _nothing(measurement)
    return RegimeRun(
        training=training,
        measurement=measurement,
        seed=seed,
        regime=regime,
        data_digest=data.digest,
        num_parameters=parameter_count(trainer.model),
        num_train=len(data.train),
        num_samples=count,
        noise_factor=noise_factor(
            count, min(training.batch_size, count), with_replacement=training.order == "replacement"
        ),
        prior_variance=float(start.square().mean()),
        provenance=provenance(began, threads=torch.get_num_threads(), claims=_own_claims()),
        **columns,
    )


def _own_claims() -> dict[str, str]:
    """Digests of the claims that read these records: those of all others would be most of a file."""
    from empirical.claims.edge import CLAIMS

    known = registered()
    return {entry.claim.name: known[entry.claim.name] for entry in CLAIMS}


@dataclass(frozen=True, kw_only=True)
class _Point:
    row: dict[str, Any]
    basis: Tensor


def _measured(
    trainer: Trainer,
    data: Data,
    measurement: Measurement,
    start: Tensor,
    warm: Tensor | None,
    *,
    at_decay: bool,
    whole: bool,
) -> _Point:
    at = _checkpoint(trainer, data)
    landscape = training_landscape(at, data, measurement)
    losses = landscape.losses()
    if not bool(torch.isfinite(losses).all()):
        raise FloatingPointError("its losses are not finite")
    hessian = HessianOperator(landscape, method="double-backward")
    pairs = _pairs(hessian, measurement, warm)
    basis = pairs.basis
    slopes = project_gradients(landscape, basis).values.double()
    squares = _absent(measurement)
    if whole:
        squares = bilinear_curvatures(landscape, basis, basis).double().square().mean(dim=0).cpu().numpy()
    total = trace(hessian, num_probes=measurement.probes, seed=measurement.seed).value
    hessian.release()
    size = min(trainer.setting.batch_size, len(landscape.inputs))
    sharp = network_batch_sharpness(landscape, at.optimizer, size, batches=BATCHES, seed=measurement.seed)
    evaluation, loss = trainer.setting.evaluation.attack, trainer.setting.method.loss
    train, test = (
        evaluate(trainer.model, split.first(min(measured, len(split))), evaluation, seed=measurement.seed, loss=loss)
        for split, measured in (
            (data.train, measured_samples(data, measurement)),
            (data.test, measurement.evaluated or len(data.test)),
        )
    )
    row = {
        "iterations": trainer.iteration,
        "curvatures": pairs.values.numpy(),
        "residuals": pairs.residuals.numpy(),
        "noise": slopes.var(dim=0).cpu().numpy(),
        "squared_curvatures": squares,
        "displacements": (basis.double().T @ (landscape.weights.double() - start)).cpu().numpy(),
        "average_curvatures": _average(at, data, measurement, basis) if at_decay else _absent(measurement),
        "trace": total,
        "sharpness": sharp.value,
        "sharpness_error": sharp.standard_error,
        "attacked_sharpness": _attacked(at, data, measurement, landscape, size) if whole else math.nan,
        "output_curvature": _output_curvature(at, landscape),
        "log_weight_norm": _log_weight_norm(at),
        "train_loss": train.robust_loss,
        "test_loss": test.robust_loss,
        "train_accuracy": train.robust_accuracy,
        "test_accuracy": test.robust_accuracy,
    }
    return _Point(row=row, basis=basis)


def _checkpoint(trainer: Trainer, data: Data) -> Checkpoint:
    """The trainer's moment, its own network inside, in eval mode; the next step puts it back to train mode."""
    done = trainer.iteration
    trainer.model.eval()
    return Checkpoint(
        setting=trainer.setting,
        seed=trainer.seed,
        epoch=trainer.epoch,
        iteration=done,
        learning_rate=float(trainer.rates[max(done - 1, 0)]),
        next_learning_rate=float(trainer.rates[done]) if done < len(trainer.rates) else None,
        model=trainer.model,
        momentum=trainer.momentum(),
        average=trainer.average,
        running=(0.0, 0.0, 0.0),
        data_digest=data.digest,
        world_size=1,
    )


def _average(at: Checkpoint, data: Data, measurement: Measurement, basis: Tensor) -> NDArray[np.float64]:
    """λ at the weights' running average, inputs attacked there."""
    if at.average is None:
        return _absent(measurement)
    model = copy.deepcopy(at.model)
    model.load_state_dict(at.average)
    hessian = HessianOperator(training_landscape(replace(at, model=model), data, measurement), method="double-backward")
    return _pairs(hessian, measurement, basis).values.numpy()


def _pairs(hessian: HessianOperator, measurement: Measurement, start: Tensor | None) -> Eigenpairs:
    return top_eigenpairs(
        hessian,
        measurement.eigenpairs,
        tolerance=measurement.tolerance,
        start=start,
        max_products=PRODUCTS,
        seed=measurement.seed,
    ).require()


def _absent(measurement: Measurement) -> NDArray[np.float64]:
    return np.full(measurement.eigenpairs, np.nan)


def _nothing(measurement: Measurement) -> dict[str, NDArray[Any]]:
    """The columns of a run that had no checkpoint."""
    wide = (
        "curvatures",
        "residuals",
        "noise",
        "squared_curvatures",
        "displacements",
        "average_curvatures",
    )
    narrow = (
        "trace",
        "sharpness",
        "sharpness_error",
        "attacked_sharpness",
        "output_curvature",
        "log_weight_norm",
        "train_loss",
        "test_loss",
        "train_accuracy",
        "test_accuracy",
    )
    return {
        "iterations": np.zeros(0, dtype=np.int64),
        **{name: np.zeros((0, measurement.eigenpairs)) for name in wide},
        **{name: np.zeros(0) for name in narrow},
    }


def _attacked(at: Checkpoint, data: Data, measurement: Measurement, landscape: Landscape, size: int) -> float:
    if at.setting.method.attack is None:
        return math.nan
    step = STEP * float(landscape.weights.double().norm())
    again = batch_attack(at, data, measurement, landscape)
    return attacked_batch_sharpness(
        landscape, at.optimizer, size, again, step=step, batches=FEWEST, seed=measurement.seed
    ).value


def _output_curvature(at: Checkpoint, landscape: Landscape) -> float:
    """Mean over the measured inputs of tr(diag p − ppᵀ)."""
    with torch.no_grad():
        shares = at.model(landscape.inputs.float()).double().softmax(dim=1)
    return float((1 - shares.square().sum(dim=1)).mean())


def _log_weight_norm(at: Checkpoint) -> float:
    norms = [value.detach().double().norm() for value in at.model.parameters() if value.ndim == 4]
    return float(torch.stack(norms).log().mean()) if norms else 0.0
