r"""Why replicas do not spread as the law frozen at their checkpoint says: each explanation gets an ensemble of its own.

Drift         A checkpoint that training has not settled at moves on: replicas part after further training at the same
              rate, and at the exponential mean of weights and momentum over that training.
Selection     Eigenvectors are the largest of one draw of data and of one position: directions from one half of the
              samples with λ and γ from the other; directions from a scout's position with λ and γ of the checkpoint.
Places        λ and γ where the replicas go: at the positions of scouts, and at their mean.
Local modes   The linear system that replicas about a mean obey, to first order in a Gaussian's moments, has the mean
              Hessian E H(w + δ) (statistical linearisation, Booton 1954; by Stein's identity): its eigenvectors from
              the scouts' positions.
Stiffness     The slope that a replica meets is not λ times its distance: the loss is no quadratic over the spread, and
              the attack answers. The slope's regression on the distance over scouts is the spring that they feel
              (statistical linearisation of a force).
Scouts        are replicas of their own under other seeds: what is measured at their positions knows nothing of the
              replicas that are judged.
Oracle        Tests: a linear model with squared loss, in which λ is the same everywhere; dense mean Hessians.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data.resident import Data
from empirical.measure.checkpoint import attack_for
from empirical.measure.dynamics import frozen_law, spaced, top_basis
from empirical.measure.ensemble import branch, why_not_vectorized
from empirical.measure.landscape import Landscape
from empirical.measure.locality import local_law, local_slopes
from empirical.measure.noise import gradient_noise
from empirical.measure.operators import HessianOperator, bilinear_curvatures
from empirical.records.dynamics import Frozen
from empirical.records.separation import Centre, Directions, MovedLaw, Separation
from empirical.settings.measuring import Measurement
from empirical.settings.separating import SeparationSetting
from empirical.training.checkpoint import Checkpoint
from empirical.training.trainer import Trainer

__all__ = ["MeanHessian", "continued", "measure_separation"]

#: Positions that go into a mean Hessian: a product costs as many as one with each.
MOST_HESSIANS = 8


class MeanHessian:
    """(1/n) Σ_r H(w_r), each at its own inputs; a `SymmetricOperator`."""

    def __init__(self, landscapes: Sequence[Landscape]) -> None:
        self.parts = [HessianOperator(landscape, method="double-backward") for landscape in landscapes]
        first = self.parts[0]
        self.dimension, self.dtype, self.device = first.dimension, first.dtype, first.device

    def matmat(self, vectors: Tensor) -> Tensor:
        """The mean of the products, shape ``(P, k)``."""
        total = torch.zeros_like(vectors, dtype=torch.float64)
        for part in self.parts:
            total += part.matmat(vectors).double()
        return (total / len(self.parts)).to(vectors.dtype)


def continued(checkpoint: Checkpoint, data: Data, epochs: int) -> tuple[Checkpoint, Checkpoint]:
    """Where further training at the checkpoint's rate leads, and the exponential mean over it.

    The mean forgets by a factor of e in a third of the way, and weighs weights and momentum buffers alike: of a linear
    system the mean of states is a state. Running statistics of batch norm are those of the end.
    """
    steps = epochs * checkpoint.setting.iterations_per_epoch
    device = next(checkpoint.model.parameters()).device
    trainer = Trainer.from_checkpoint(checkpoint, data=data, device=device)
    trainer.rates = np.concatenate([trainer.rates[: checkpoint.iteration], np.full(steps, checkpoint.learning_rate)])
    memory = math.exp(-3.0 / steps)
    weights: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    total = 0.0
    for _ in range(steps):
        trainer.step()
        total = memory * total + 1.0
        for mean, now in ((weights, dict(trainer.model.named_parameters())), (buffers, trainer.momentum())):
            for name, value in now.items():
                value = value.detach().double()
                mean[name] = value.clone() if name not in mean else mean[name] + (value - mean[name]) / total
    end = dataclasses.replace(
        checkpoint,
        iteration=trainer.iteration,
        epoch=trainer.epoch,
        model=copy.deepcopy(trainer.model).eval(),
        momentum={name: value.detach().clone() for name, value in trainer.momentum().items()},
        next_learning_rate=checkpoint.learning_rate,
        average=None,
    )
    model = copy.deepcopy(end.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    like = {name: value.to(end.momentum[name].dtype) for name, value in buffers.items()}
    return end, dataclasses.replace(end, model=model, momentum=like)


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What the measurements at all centres share."""

    data: Data
    measurement: Measurement
    setting: SeparationSetting
    rates: NDArray[np.float64]
    record: list[int]

    @property
    def moments(self) -> list[int]:
        """Steps at which scouts are looked at: thrice up to the drop, then four times, ever farther apart."""
        before, after = self.setting.before, self.setting.after
        spread = {max(1, before // 4), max(1, before // 2), before}
        return sorted(spread | {before + max(1, after // part) for part in (8, 4, 2, 1)})

    def scouted(self, centre: Checkpoint) -> dict[int, Tensor]:
        """Positions of the scouts at the moments, shape ``(scouts, P)``, float64."""
        seen: dict[int, list[Tensor]] = {step: [] for step in self.moments}
        first = self.setting.seed + self.setting.replicas
        branch(
            centre,
            self.data,
            _flat(centre)[:, None],
            seeds=range(first, first + self.setting.scouts),
            learning_rates=self.rates,
            record=self.moments,
            method="vectorized",
            observe=lambda step, weights: seen[step].append(weights.double()),
        )
        return {step: torch.cat(pieces) for step, pieces in seen.items()}

    def ensemble(
        self, checkpoint: Checkpoint, centre: Checkpoint, basis: Tensor, frozen: Frozen, further: Sequence[Tensor]
    ) -> tuple[Centre, list[NDArray[np.float64]]]:
        """Replicas that part at a centre, along its own eigenvectors; and their motion in further directions."""
        seen: list[tuple[float, float]] = []

        def look(_: int, weights: Tensor) -> None:
            away = (weights - start).double()
            seen.append((float(away.mean(dim=0).norm()), float(away.var(dim=0).sum().sqrt())))

        start = _flat(centre)
        bases = [basis, *further]
        branches = branch(
            centre,
            self.data,
            torch.cat([item.double() for item in bases], dim=1),
            seeds=range(self.setting.seed, self.setting.seed + self.setting.replicas),
            learning_rates=self.rates,
            record=self.record,
            method="vectorized",
            observe=look,
        )
        pieces = np.split(branches.weights, np.cumsum([item.shape[1] for item in bases])[:-1], axis=2)
        found = Centre(
            start_position=centre.iteration % centre.setting.iterations_per_epoch,
            distance=float((start - _flat(checkpoint)).double().norm()),
            own=_directions(frozen, pieces[0]),
            drift=np.array([drift for drift, _ in seen]),
            spread=np.array([spread for _, spread in seen]),
        )
        return found, pieces[1:]


def measure_separation(
    checkpoint: Checkpoint,
    data: Data,
    measurement: Measurement,
    setting: SeparationSetting,
    *,
    note: Callable[[str], None] | None = None,
) -> Separation:
    """All ensembles, and all that predicts them.

    Raises:
        ValueError: if mini-batch units are asked for, a subset is measured, the replicas cannot be vectorized, or seeds
            meet the run's.
    """
    started = time.perf_counter()
    obstacle = why_not_vectorized(checkpoint)
    if obstacle:
        raise ValueError(f"`measure_separation(checkpoint=...)` must be of a run without {obstacle}.")
    if measurement.samples is not None and measurement.samples < len(data.train):
        raise ValueError(
            f"`Measurement(samples=...)` must be all {len(data.train)} that batches are drawn from; "
            f"got {measurement.samples}."
        )
    old = checkpoint.learning_rate
    study = _Study(
        data=data,
        measurement=measurement,
        setting=setting,
        rates=np.r_[np.full(setting.before, old), np.full(setting.after, old * setting.factor)],
        record=[
            *spaced(setting.before, setting.records),
            *(setting.before + step for step in spaced(setting.after, setting.records)),
        ],
    )
    say = note or (lambda _: None)
    landscape, basis, frozen = frozen_law(checkpoint, data, measurement)
    attack = None
    if checkpoint.setting.method.attack is not None:
        attack = attack_for(checkpoint, data, measurement, landscape)
    scouts = study.scouted(checkpoint)
    spots = [_at(landscape, weights, attack) for weights in scouts[setting.before][:MOST_HESSIANS]]
    halves = _halves(checkpoint, landscape, measurement)
    _, elsewhere = top_basis(checkpoint, HessianOperator(spots[0]), measurement)
    _, local = top_basis(checkpoint, MeanHessian(spots), measurement)
    say("eigenvectors done")
    further = [halves[0][0], halves[1][0], elsewhere, local]
    here, positions = study.ensemble(checkpoint, checkpoint, basis, frozen, further)
    say("replicas of the checkpoint done")
    later, average = continued(checkpoint, data, setting.epochs)
    ends = []
    for name, centre in (("later", later), ("average", average)):
        _, directions, law = frozen_law(centre, data, measurement)
        ends.append(study.ensemble(checkpoint, centre, directions, law, ())[0])
        say(f"replicas of {name} done")
    laws = [frozen_law(checkpoint, data, measurement, basis=one, landscape=landscape)[2] for one in further]
    for place, (_, curvatures, noise) in enumerate(halves):  # those of the other half
        laws[place] = dataclasses.replace(laws[place], curvatures=curvatures, slope_variances=noise)
    first, second, third, fourth = (_directions(*pair) for pair in zip(laws, positions, strict=True))
    return Separation(
        training=checkpoint.setting,
        measurement=measurement,
        iteration=checkpoint.iteration,
        separation=setting,
        seed=checkpoint.seed,
        learning_rate=old,
        frozen=frozen,
        steps=np.array(study.record, dtype=np.int64),
        learning_rates=study.rates,
        checkpoint=here,
        later=ends[0],
        average=ends[1],
        moved=_moved(landscape, basis, scouts, attack),
        first_half=first,
        second_half=second,
        elsewhere=third,
        local=fourth,
        local_moved=_moved(landscape, local, scouts, attack),
        seconds=round(time.perf_counter() - started, 3),
    )


def _directions(frozen: Frozen, positions: NDArray[np.float64]) -> Directions:
    return Directions(
        curvatures=frozen.curvatures,
        slope_variances=frozen.slope_variances,
        repeated_share=frozen.repeated_share,
        positions=positions,
    )


def _moved(
    landscape: Landscape, basis: Tensor, scouts: dict[int, Tensor], attack: Callable[[Tensor], Tensor] | None
) -> MovedLaw:
    spots = [torch.cat([found, found.mean(dim=0, keepdim=True)]) for found in scouts.values()]
    found = [local_law(landscape, basis, weights, attack) for weights in spots]
    held = [local_slopes(landscape, basis, weights) for weights in spots]
    start = landscape.weights.double()
    return MovedLaw(
        steps=np.array(list(scouts), dtype=np.int64),
        curvatures=np.stack([law.curvatures for law in found]),
        slope_variances=np.stack([law.slope_variances for law in found]),
        positions=np.stack([((weights - start) @ basis.double()).cpu().numpy() for weights in spots]),
        slopes=np.stack([law.mean_slopes for law in found]),
        fixed_slopes=np.stack(held),
    )


def _halves(
    checkpoint: Checkpoint, landscape: Landscape, measurement: Measurement
) -> list[tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]]:
    """Eigenvectors of either half of the samples; λ and γ along them on the other half."""
    order = torch.randperm(landscape.num_units, generator=torch.Generator().manual_seed(measurement.seed))
    halves = [landscape.subset(part.to(landscape.device)) for part in order.tensor_split(2)]
    found = []
    for chosen, held in zip(halves, halves[::-1], strict=True):
        _, directions = top_basis(checkpoint, HessianOperator(chosen), measurement)
        lam = bilinear_curvatures(held, directions, directions).mean(dim=0).cpu().numpy()
        noise = gradient_noise(held, directions, resamples=measurement.resamples, seed=measurement.seed)
        found.append((directions, lam, noise.variances.values))
    return found


def _at(landscape: Landscape, weights: Tensor, attack: Callable[[Tensor], Tensor] | None) -> Landscape:
    """The landscape at other weights, its inputs attacked there and held."""
    moved = landscape.at(weights)
    if attack is not None:
        moved.inputs = attack(moved.weights).to(landscape.dtype)
    return moved


def _flat(centre: Checkpoint) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in centre.model.parameters()])
