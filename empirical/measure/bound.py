r"""The PAC-Bayes terms of a measured checkpoint, over its tracked directions.

Posterior N(w_t, Σ) with the stationary variances (S1) of λ, γ and the learning rate at the checkpoint (white noise).
Prior     N(w₀, σ_P² I) at the random initialization, σ_P² its mean squared weight: fixed before any data.
Honesty   Robust cross-entropy is unbounded, and directions outside the tracked ones are left out of the KL, so the
          value is the bound's formula, a diagnostic (`theory.closed_form.pac_bayes` says the same of it). The bound on
          the robust 0-1 error is given beside it, over the same subspace.
Torch     none: records in, numbers out, so that judging needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from empirical.records import BoundOverTraining, Spectrum
from empirical.settings import Measurement
from theory.closed_form.pac_bayes import (
    BoundedLoss,
    FixedPrior,
    PacBayesTerms,
    UnboundedLoss,
    pac_bayes_bound,
    pac_bayes_terms,
)
from theory.closed_form.stability import modes
from theory.closed_form.stationary import stationary_variance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

#: Chance that the bound fails.
DELTA = 0.05
PRIOR = FixedPrior(because="N(w₀, σ_P² I) at the random initialization, σ_P² its mean squared weight")


def usable(curvatures: NDArray[np.float64], noise: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.bool_]:
    """Directions with positive curvature and noise and a stationary law, shape ``(k,)``."""
    return (curvatures > 0) & (noise > 0) & modes(curvatures, optimizer).stable


def usable_directions(item: Spectrum) -> NDArray[np.bool_]:
    """`usable` at the checkpoint's rate."""
    return usable(item.curvatures, item.gamma.values, item.optimizer)


def predicted_variances(item: Spectrum) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Usable directions, and the stationary variance (S1) in each of them.

    Raises:
        ValueError: if no direction is usable.
    """
    keep = usable_directions(item)
    if not keep.any():
        raise ValueError(f"no tracked direction has a stationary law at epoch {item.epoch}.")
    gamma = item.gamma.values[keep] * item.noise_factor
    return keep, stationary_variance(Quadratic(item.curvatures[keep], gamma), item.optimizer)


def subspace_terms(
    curvatures: NDArray[np.float64],
    noise: NDArray[np.float64],
    optimizer: MomentumSGD,
    *,
    prior_variance: float,
    displacement: NDArray[np.float64],
    loss: float,
) -> PacBayesTerms:
    """The terms over the usable directions of a checkpoint.

    Args:
        curvatures: λ, shape ``(k,)``.
        noise: γ of a mini-batch, same shape.
        optimizer: at whose rate the posterior is stationary.
        prior_variance: σ_P².
        displacement: of the weights from the initial ones along the directions, same shape.
        loss: training loss at the checkpoint.

    Raises:
        ValueError: if no direction is usable.
    """
    keep = usable(curvatures, noise, optimizer)
    if not keep.any():
        raise ValueError("no tracked direction has a stationary law.")
    return pac_bayes_terms(
        curvatures[keep],
        stationary_variance(Quadratic(curvatures[keep], noise[keep]), optimizer),
        prior_variance=prior_variance,
        prior_mean=-displacement[keep],
        residual_risk=loss,
    )


def formula(terms: PacBayesTerms, num_samples: int) -> float:
    """McAllester's formula on the robust loss."""
    found = pac_bayes_bound(
        terms.expected_risk,
        terms.kl,
        num_samples=num_samples,
        delta=DELTA,
        loss=UnboundedLoss(),
        prior=PRIOR,
        method="mcallester",
    )
    return float(found.value)


@dataclass(frozen=True, kw_only=True)
class CheckpointBound:
    """The terms of the bound at one checkpoint, summed over the directions used.

    Args:
        curvature_times_variance: Σ λσ², one of the paper's dominating terms.
        negative_log_variance: −Σ ln σ², the other.
        mean_shift: the mean's part of the KL divergence.
        kl: the KL divergence.
        value: McAllester's formula on the robust loss.
        complexity: the value minus the training loss.
        error_bound: Seeger's bound on the robust 0-1 error.
        directions: how many were used.
    """

    curvature_times_variance: float
    negative_log_variance: float
    mean_shift: float
    kl: float
    value: float
    complexity: float
    error_bound: float
    directions: int


def bound_terms(item: Spectrum) -> CheckpointBound:
    """The terms of the bound at one checkpoint.

    Raises:
        ValueError: if the record has no initial weights to put the prior at, or no usable direction.
    """
    if item.start is None:
        raise ValueError("no checkpoint of the initial weights was at hand, so the bound has no prior.")
    train = item.gap.train
    try:
        terms = subspace_terms(
            item.curvatures,
            item.gamma.values * item.noise_factor,
            item.optimizer,
            prior_variance=item.start.prior_variance,
            displacement=item.start.displacement,
            loss=train.robust_loss,
        )
    except ValueError:
        raise ValueError(f"no tracked direction has a stationary law at epoch {item.epoch}.") from None
    value = formula(terms, item.num_samples)
    error = pac_bayes_bound(
        1 - train.robust_accuracy,
        terms.kl,
        num_samples=item.num_samples,
        delta=DELTA,
        loss=BoundedLoss(because="robust 0-1 error"),
        prior=PRIOR,
        method="seeger",
    )
    return CheckpointBound(
        curvature_times_variance=float(terms.curvature_times_variance.sum()),
        negative_log_variance=float(terms.negative_log_variance.sum()),
        mean_shift=float(terms.mean_shift.sum()),
        kl=float(terms.kl),
        value=value,
        complexity=value - train.robust_loss,
        error_bound=float(error.value),
        directions=len(terms.curvature_times_variance),
    )


def bound_over_training(items: Sequence[Spectrum], measurement: Measurement) -> BoundOverTraining | None:
    """The bound's formula beside the robust gap at every checkpoint of a run, or None where no checkpoint has it.

    Checkpoints without a stationary law in any tracked direction are left out and counted.

    Args:
        items: the checkpoints of one run.
        measurement: how they were measured.
    """
    ordered = sorted(items, key=lambda item: item.iteration)
    rows: list[tuple[Spectrum, CheckpointBound]] = []
    for item in ordered:
        try:
            rows.append((item, bound_terms(item)))
        except ValueError:
            continue
    if not rows:
        return None
    first = ordered[0]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(terms, name) for _, terms in rows], dtype=np.float64)

    return BoundOverTraining(
        training=first.training,
        measurement=measurement,
        iterations=tuple(item.iteration for item in items),
        seed=first.seed,
        label=first.label,
        left_out=len(ordered) - len(rows),
        epochs=np.array([item.iteration / item.training.iterations_per_epoch for item, _ in rows]),
        bound=column("complexity"),
        robust_gap=np.array([item.gap.robust_loss_gap for item, _ in rows]),
        curvature_times_variance=column("curvature_times_variance"),
        negative_log_variance=column("negative_log_variance"),
        mean_shift=column("mean_shift"),
        kl=column("kl"),
        value=column("value"),
        error_bound=column("error_bound"),
        directions=column("directions"),
    )
