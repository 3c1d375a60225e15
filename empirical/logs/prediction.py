r"""The course of the posterior variance that theory predicts from a log's learning rates alone.

Model     One quadratic mode of curvature λ and constant noise γ under momentum SGD; the rates are the log's. σ²(t) is
          propagated exactly from the stationary law at the first rate (`theory.closed_form.propagate`, T3). γ cancels:
          what is shown is σ²(t) relative to its value before the first decay.
Modes     Named by the time they need to relax at the largest rate of the run, τ = (1−μ)/(ηλ) iterations: a tenth of an
          epoch, one epoch, ten. A decay lengthens τ by η₁/η₂: the fast mode shrinks at once, the slow one hardly before
          the next decay.
Assumed   Momentum, batch size and images where the log does not state them; each assumption is in the caption.
          Curvature and noise that change at the decay, the paper's spike, are what this prediction leaves out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from empirical.logs.effects import Run
from empirical.records.log import Log
from empirical.settings.data import DATASETS, PUBLISHED

#: Relaxation times of the modes shown, in epochs at the largest rate.
RELAXATIONS = (0.1, 1.0, 10.0)
#: What the published protocols share (Rice et al. 2020; Wu et al. 2020), for logs that do not say.
MOMENTUM, BATCH_SIZE, IMAGES = 0.9, 128, 50_000


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One mode: its curvature, its relaxation time in epochs at the largest rate, and σ² over the epochs."""

    label: str
    curvature: float
    relaxation: float
    relative_variance: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """σ² of the modes at the ends of the epochs, and what was assumed."""

    epochs: NDArray[np.float64]
    modes: tuple[Mode, ...]
    caption: str


def predicted_variance(run: Run) -> Prediction | None:
    """The predicted σ² of fast and slow modes along the run's learning rates.

    The rates are those of the log, with each decay moved to where the curves change: a log that prints the rate of an
    epoch's last iteration shows a decay one epoch early.

    Args:
        run: its epochs, rates, decays and arguments.

    Returns:
        None if the rates are not positive from the start.
    """
    facts = facts_of(run.log)
    epochs, rates = _every_epoch(run)
    frozen = np.flatnonzero(rates <= 0)
    if len(frozen):
        epochs, rates = epochs[: frozen[0]], rates[: frozen[0]]
    if not len(rates):
        return None
    start = run.change(0) if run.decays else 0
    reference = int(np.searchsorted(epochs, run.epoch(start))) - 1 if start else 0
    variances, curvatures = _propagated(tuple(rates.tolist()), facts.iterations, facts.momentum)
    modes = tuple(
        Mode(
            label=f"τ = {relaxation:g} epoch{'s' if relaxation > 1 else ''} at the largest rate",
            curvature=lam,
            relaxation=relaxation,
            relative_variance=variance / variance[max(reference, 0)],
        )
        for relaxation, lam, variance in zip(RELAXATIONS, curvatures, variances, strict=True)
    )
    caption = (
        "τ: relaxation time, (1−μ)/(ηλ). Exact propagation from the stationary law at the first rate along the log's "
        f"learning rates, λ and γ constant; {facts.iterations} iterations an epoch, momentum "
        f"{facts.momentum:g}{facts.assumed}."
    )
    return Prediction(epochs=epochs, modes=modes, caption=caption)


@dataclass(frozen=True)
class Facts:
    """Steps an epoch and momentum of a run, and which of the two had to be assumed, for a caption."""

    iterations: int
    momentum: float
    assumed: str


def facts_of(log: Log) -> Facts:
    """What the log states of its steps and momentum, else what the published protocols share."""
    arguments = log.arguments
    assumed = []

    def stated(names: tuple[str, ...], otherwise: float, what: str) -> float:
        for name in names:
            value = arguments.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
                return float(value)
        assumed.append(f"{what} {otherwise:g}")
        return otherwise

    momentum = arguments.get("momentum")
    if not (isinstance(momentum, (int, float)) and 0 <= momentum < 1):
        momentum = MOMENTUM
        assumed.append(f"momentum {MOMENTUM:g}")
    iterations = arguments.get("iterations_per_epoch")
    if not (isinstance(iterations, int) and iterations >= 1):
        known = next((DATASETS[name].train_size for name in PUBLISHED if name == log.dataset), None)
        images = float(known) if known else stated(("num_train", "train_size"), IMAGES, "training images")
        iterations = math.ceil(images / stated(("batch_size",), BATCH_SIZE, "batch size"))
    note = f" (assumed: {', '.join(assumed)})" if assumed else ""
    return Facts(iterations=int(iterations), momentum=float(momentum), assumed=note)


def _every_epoch(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Epochs 0 … last and the rate that each ran at; epochs between rows take the rate of the row that follows."""
    rates = np.array(run.rates)
    for index, decay in enumerate(run.decays):
        rates[decay.row : max(run.change(index), decay.row)] = decay.before
    epochs = np.arange(int(run.epochs[-1]) + 1, dtype=np.float64)
    rows = np.searchsorted(run.epochs, epochs, side="left")
    return epochs, rates[rows]


@functools.lru_cache(maxsize=64)
def _propagated(
    rates: tuple[float, ...], iterations: int, momentum: float
) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """σ² of each mode at the end of every epoch, shape ``(modes, epochs)``, and the modes' curvatures.

    Cached: the runs of a folder mostly share one schedule.
    """
    from theory.closed_form.propagate import propagate
    from theory.model.optimizer import MomentumSGD
    from theory.model.quadratic import Quadratic
    from theory.model.schedule import Schedule

    curvatures = tuple((1 - momentum) / (max(rates) * relaxation * iterations) for relaxation in RELAXATIONS)
    # Modes of a diagonal problem do not mix, so one propagation serves them all.
    problem = Quadratic(np.array(curvatures), np.ones(len(curvatures)))
    done = propagate(
        problem,
        MomentumSGD(rates[0], momentum),
        Schedule.table(rates, hold=iterations),
        np.arange(1, len(rates) + 1) * iterations,
    )
    return np.einsum("kii->ik", done.require()), curvatures
