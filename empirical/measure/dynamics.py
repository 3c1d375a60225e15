r"""The posterior's dynamics at one decay of a run: ensemble, trajectory, and how quadratic the loss is there.

Ensemble  R replicas part a few relaxation times before the decay, spread at the old rate η₁, and drop to η₂ together.
          The records before the drop are `posterior-ensemble`, those after it `transient-ensemble`. Everything that
          predicts is measured at the branching checkpoint and then frozen: λ, K = UᵀCU, ρ_b, mean slope, momentum.
          Beside λ, which holds the adversarial inputs fixed, stands the curvature over the distance σ with the attack
          run again: the loss that the replicas descend is the robust one.
Rungs     the same replicas, seeds and data orders under simpler dynamics (`ensemble`), every sample's slope and
          curvature for the law of mini-batches (`minibatch`), and λ and γ where the replicas are (`locality`).
Trajectory  the run itself, continued from the same checkpoint at the old rate, in the same basis.
Expansion  the loss against its quadratic along u, along random directions, along the replicas' own displacements, and
          at the radius σ the posterior predicts; with inputs fixed, with inputs attacked again, and under a smooth
          activation with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data.resident import Data
from empirical.measure.checkpoint import attack_for
from empirical.measure.ensemble import Dynamics, branch, why_not_vectorized
from empirical.measure.expansion import Attack, Part, expansion_error, random_directions
from empirical.measure.lanczos import repeated_eigenpairs, top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.locality import local_law
from empirical.measure.minibatch import sample_law
from empirical.measure.noise import gradient_noise, repeated_share
from empirical.measure.objective import training_landscape
from empirical.measure.operators import (
    HessianOperator,
    SymmetricOperator,
    bilinear_curvatures,
    finite_curvatures,
    project_gradients,
)
from empirical.network.build import build_network
from empirical.records import Ensemble, Expansion, Trajectory
from empirical.records.dynamics import FiniteCurvature, Frozen, Places, Rungs, SampleLaw, Studies, Study
from empirical.settings.measuring import EnsembleSetting, Measurement
from empirical.training.checkpoint import Checkpoint
from empirical.training.trainer import Trainer
from theory.closed_form.stationary import stationary_variance
from theory.model.quadratic import Quadratic


def top_basis(checkpoint: Checkpoint, operator: SymmetricOperator, measurement: Measurement) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues of a Hessian of the checkpoint's network, shape ``(k,)``, and their eigenvectors ``(P, k)``.

    Raises:
        NotConvergedError: if Lanczos does not converge.
    """
    if checkpoint.setting.network.name == "linear":  # a block of weights a class: eigenvalues may repeat exactly
        return repeated_eigenpairs(operator, measurement.eigenpairs, tolerance=measurement.tolerance, max_products=600)
    pairs = top_eigenpairs(
        operator, measurement.eigenpairs, tolerance=measurement.tolerance, max_products=600
    ).require()
    return pairs.largest, pairs.basis


def frozen_law(
    checkpoint: Checkpoint,
    data: Data,
    measurement: Measurement,
    *,
    basis: Tensor | None = None,
    landscape: Landscape | None = None,
) -> tuple[Landscape, Tensor, Frozen]:
    """What predicts: eigenvectors, and λ, K, ρ_b, slope and momentum in them, at the branching checkpoint.

    Args:
        checkpoint: where.
        data: the data it was trained on.
        measurement: how.
        basis: directions of another origin, whose Rayleigh quotients are then the λ; None: the eigenvectors.
        landscape: the loss there, if it is at hand.

    Raises:
        ValueError: if mini-batch units are asked for.
    """
    landscape = training_landscape(checkpoint, data, measurement) if landscape is None else landscape
    if landscape.units_are_batches:
        raise ValueError("the ensemble's prediction needs per-sample gradients: measure in eval or frozen-batch mode.")
    if basis is None:
        largest, basis = top_basis(checkpoint, HessianOperator(landscape), measurement)
    else:
        largest = bilinear_curvatures(landscape, basis, basis).mean(dim=0).cpu()
    noise = gradient_noise(landscape, basis, resamples=measurement.resamples, seed=measurement.seed)
    draws = [noise.projections]
    for redraw in range(1, measurement.redraws):
        other = training_landscape(checkpoint, data, measurement, redraw=redraw, fresh=True)
        draws.append(project_gradients(other, basis).values.cpu().numpy())
    share = repeated_share(np.stack(draws)).values if checkpoint.setting.method.attack else np.ones(basis.shape[1])
    decay = checkpoint.setting.optimizer.weight_decay
    weights = landscape.weights.double()
    frozen = Frozen(
        curvatures=largest.numpy(),
        slope_variances=noise.variances.values,
        noise_covariance=noise.covariance,
        repeated_share=share,
        mean_slope=noise.mean + decay * (basis.double().T @ weights).cpu().numpy(),
        momentum=(basis.double().T @ _momentum(checkpoint).to(basis.device)).cpu().numpy(),
    )
    return landscape, basis, frozen


def stationary_radii(checkpoint: Checkpoint, frozen: Frozen) -> NDArray[np.float64]:
    """σ of the white-noise stationary law (S1) in each direction at the checkpoint's rate, NaN where there is none."""
    lam = frozen.curvatures
    keep = (lam > 0) & (checkpoint.learning_rate * lam < 3.5)
    sigma = np.full(len(lam), np.nan)
    if keep.any():
        problem = Quadratic(lam[keep], frozen.slope_variances[keep] / checkpoint.setting.batch_size)
        sigma[keep] = np.sqrt(stationary_variance(problem, checkpoint.optimizer))
    return sigma


def typical(radii: NDArray[np.float64]) -> float | None:
    """Root mean square of the radii that exist; None where none does."""
    return float(np.sqrt(np.nanmean(radii**2))) if np.isfinite(radii).any() else None


def measure_ensemble(
    checkpoint: Checkpoint,
    data: Data,
    measurement: Measurement,
    setting: EnsembleSetting,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Ensemble:
    """Branch, spread, drop: the replicas' positions in the frozen basis, beside everything that predicts them.

    Raises:
        ValueError: if mini-batch units are asked for, or the replicas' seeds meet the run's.
    """
    started = time.perf_counter()
    landscape, basis, frozen = frozen_law(checkpoint, data, measurement)
    old = checkpoint.learning_rate
    radius = typical(stationary_radii(checkpoint, frozen))
    curvature = None
    if radius is not None:
        attack = attack_for(checkpoint, data, measurement, landscape)
        curvature = FiniteCurvature(
            step=radius,
            exact=bilinear_curvatures(landscape, basis, basis).cpu().numpy(),
            fixed=finite_curvatures(landscape, basis, step=radius).cpu().numpy(),
            robust=finite_curvatures(landscape, basis, attack, step=radius).cpu().numpy(),
        )
    rates = np.concatenate([np.full(setting.before, old), np.full(setting.after, old * setting.factor)])
    record = sorted(
        {
            # While memory and batches can be told apart; from the first step to the second variance more than doubles,
            # which no law that is one step late survives.
            *(step for step in (1, 2, 4) if step < setting.before),
            *spaced(setting.before, setting.records),
            *(setting.before + s for s in spaced(setting.after, setting.records)),
        }
    )
    seeds = range(setting.seed, setting.seed + setting.replicas)
    # The laws speak of all the samples that batches are drawn from.
    wants_rungs = setting.places > 0 and landscape.num_units == len(data.train) and not why_not_vectorized(checkpoint)
    moments = sorted({setting.before, record[-1]}) if wants_rungs else []
    seen: dict[int, list[Tensor]] = {step: [] for step in moments}

    def look(step: int, weights: Tensor) -> None:
        if step in seen:
            missing = setting.places - sum(map(len, seen[step]))
            # The mean over all replicas is a place of its own; vectorized, they come in one piece.
            seen[step].append(torch.cat([weights[:missing], weights.mean(dim=0, keepdim=True)]).double())

    branches = branch(
        checkpoint,
        data,
        basis,
        seeds=seeds,
        learning_rates=rates,
        record=record,
        order=setting.order,
        method="vectorized" if wants_rungs else "auto",
        observe=look if wants_rungs else None,
        progress=progress,
    )
    rungs = None
    if wants_rungs:

        def simpler(dynamics: Dynamics) -> NDArray[np.float64]:
            return branch(
                checkpoint,
                data,
                basis,
                seeds=seeds,
                learning_rates=rates,
                record=record,
                order=setting.order,
                dynamics=dynamics,
                inputs=landscape.inputs,
            ).weights

        rungs = Rungs(
            law=_sample_law(checkpoint, landscape, basis, measurement),
            linearised=simpler("linearised"),
            fixed_inputs=simpler("fixed inputs") if checkpoint.setting.method.attack else None,
            places=_places(checkpoint, data, measurement, landscape, basis, {s: seen[s][0] for s in moments}),
        )
    return Ensemble(
        training=checkpoint.setting,
        measurement=measurement,
        iteration=checkpoint.iteration,
        ensemble=setting,
        seed=checkpoint.seed,
        learning_rate=old,
        frozen=frozen,
        curvature=curvature,
        vectorized=branches.vectorized,
        steps=branches.steps,
        learning_rates=branches.learning_rates,
        positions=branches.weights,
        norms=branches.norms,
        losses=branches.losses,
        rungs=rungs,
        seconds=round(time.perf_counter() - started, 3),
    )


def _momentum(checkpoint: Checkpoint) -> Tensor:
    """The optimizer's buffers as one vector ``(P,)``, float64; 0 where there are none yet."""
    named = dict(checkpoint.model.named_parameters())
    pieces = [checkpoint.momentum.get(name, torch.zeros_like(value)).reshape(-1) for name, value in named.items()]
    return torch.cat(pieces).double()


def _sample_law(checkpoint: Checkpoint, landscape: Landscape, basis: Tensor, measurement: Measurement) -> SampleLaw:
    """Every sample along U and along the two directions in which the mean starts to move outside it."""
    slope = landscape.gradient() + checkpoint.setting.optimizer.weight_decay * landscape.weights.double()
    momentum = _momentum(checkpoint).to(slope.device)
    moving = torch.stack([momentum, slope], dim=1)
    directions = basis.double()
    for column in moving.unbind(dim=1):
        outside = column - directions @ (directions.T @ column)
        outside = outside - directions @ (directions.T @ outside)
        # What rounding leaves of a vector inside U is no direction.
        if float(outside.norm()) > 1e-6 * float(column.norm()) > 0:
            directions = torch.cat([directions, (outside / outside.norm())[:, None]], dim=1)
    law = sample_law(landscape, directions.to(landscape.dtype), seed=measurement.seed)
    return SampleLaw(
        slopes=law.slopes,
        curvatures=law.curvatures,
        mean_slope=(directions.T @ slope).cpu().numpy(),
        momentum=(directions.T @ momentum).cpu().numpy(),
        outside_curvature=law.outside.curvature,
        outside_coupling=law.outside.coupling,
        outside_own=np.zeros_like(law.outside.coupling) if law.outside.own is None else law.outside.own,
    )


def _places(
    checkpoint: Checkpoint,
    data: Data,
    measurement: Measurement,
    landscape: Landscape,
    basis: Tensor,
    positions: Mapping[int, Tensor],
) -> Places:
    """λ and γ at the replicas' positions, with the checkpoint's inputs and with those that the attack finds there."""
    attack = attack_for(checkpoint, data, measurement, landscape) if checkpoint.setting.method.attack else None
    fixed = [local_law(landscape, basis, weights) for weights in positions.values()]
    again = fixed if attack is None else [local_law(landscape, basis, w, attack) for w in positions.values()]
    return Places(
        steps=np.array(list(positions), dtype=np.int64),
        curvatures=np.stack([law.curvatures for law in fixed]),
        slope_variances=np.stack([law.slope_variances for law in fixed]),
        attacked_curvatures=np.stack([law.curvatures for law in again]),
        attacked_slope_variances=np.stack([law.slope_variances for law in again]),
    )


def spaced(steps: int, count: int) -> list[int]:
    """At most `count` steps from 1 to `steps`, evenly apart, the last one among them."""
    return sorted({max(1, round(steps * (index + 1) / count)) for index in range(count)}) if steps else []


def measure_trajectory(checkpoint: Checkpoint, data: Data, measurement: Measurement, *, window: int) -> Trajectory:
    """The run continued from the checkpoint at its own rate for ``window`` steps, projected on the frozen basis."""
    started = time.perf_counter()
    _, basis, frozen = frozen_law(checkpoint, data, measurement)
    trainer = Trainer.from_checkpoint(checkpoint, data=data, device=basis.device)
    trainer.rates = np.concatenate([trainer.rates[: checkpoint.iteration], np.full(window, checkpoint.learning_rate)])
    start = torch.cat([value.detach().reshape(-1) for value in checkpoint.model.parameters()])
    positions, norms = [], []
    for _ in range(window):
        trainer.step()
        weights = torch.cat([value.detach().reshape(-1) for value in trainer.model.parameters()])
        positions.append((weights - start).double() @ basis.double())
        norms.append(float(weights.double().norm()))
    return Trajectory(
        training=checkpoint.setting,
        measurement=measurement,
        iteration=checkpoint.iteration,
        window=window,
        seed=checkpoint.seed,
        learning_rate=checkpoint.learning_rate,
        frozen=frozen,
        positions=torch.stack(positions).cpu().numpy(),
        norms=np.array(norms),
        seconds=round(time.perf_counter() - started, 3),
    )


def measure_expansion(
    checkpoint: Checkpoint, data: Data, measurement: Measurement, *, directions: int = 5, path_steps: int = 10
) -> Expansion:
    """The loss against its expansion in all the ways of the module's *Expansion*, σ from (S1)."""
    started = time.perf_counter()

    def studied(source: Checkpoint) -> Studies:
        landscape, basis, frozen = frozen_law(source, data, measurement)
        count = min(directions, basis.shape[1])
        sigma = stationary_radii(checkpoint, frozen)[:count]
        chosen = np.flatnonzero(np.isfinite(sigma))
        radii = torch.as_tensor(sigma[chosen], dtype=basis.dtype, device=basis.device)
        top = basis[:, torch.as_tensor(chosen, device=basis.device)] * radii
        random = random_directions(landscape.dimension, count, seed=measurement.seed).to(basis)

        def study(moves: Tensor, *, part: Part = "even", attack: Attack | None = None) -> Study:
            return expansion_error(landscape, moves, part=part, attack=attack, resamples=measurement.resamples)

        attack = attack_for(source, data, measurement, landscape)
        return Studies(
            random=study(random * (typical(sigma) or 1e-3)),
            path=study(_path(source, data, path_steps, landscape), part="whole"),
            top=study(top) if len(chosen) else None,
            top_tenth=study(top * 0.1) if len(chosen) else None,
            top_attacked=study(top, attack=attack) if len(chosen) else None,
        )

    studies, smooth = studied(checkpoint), studied(_smooth(checkpoint))
    return Expansion(
        training=checkpoint.setting,
        measurement=measurement,
        iteration=checkpoint.iteration,
        seed=checkpoint.seed,
        learning_rate=checkpoint.learning_rate,
        studies=studies,
        smooth=smooth,
        seconds=round(time.perf_counter() - started, 3),
    )


def _smooth(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights under softplus: within ln 2/β of ReLU everywhere, without its kinks."""
    network = replace(checkpoint.setting.network, activation="softplus")
    model = build_network(network, seed=0)
    model.load_state_dict(checkpoint.model.state_dict())
    model.to(next(checkpoint.model.parameters()).device).eval()
    return replace(checkpoint, model=model, setting=replace(checkpoint.setting, network=network))


def _path(checkpoint: Checkpoint, data: Data, steps: int, landscape: Landscape) -> Tensor:
    """Displacements of the run itself after 1, 2, 4, … steps from the checkpoint, shape ``(P, J)``."""
    trainer = Trainer.from_checkpoint(checkpoint, data=data, device=landscape.device)
    trainer.rates = np.concatenate([trainer.rates[: checkpoint.iteration], np.full(steps, checkpoint.learning_rate)])
    wanted = {2**power for power in range(int(math.log2(steps)) + 1)}
    columns = []
    for done in range(1, steps + 1):
        trainer.step()
        if done in wanted:
            weights = torch.cat([value.detach().reshape(-1) for value in trainer.model.parameters()])
            columns.append(weights.to(landscape.dtype) - landscape.weights)
    return torch.stack(columns, dim=1)
