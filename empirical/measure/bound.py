r"""The PAC-Bayes terms of a measured checkpoint, over its tracked directions.

Posterior N(w_t, Σ) with the stationary variances (S1) of λ, γ and the learning rate at the checkpoint (white noise).
Prior     N(w₀, σ_P² I) at the random initialization, σ_P² its mean squared weight: fixed before any data.
Honesty   Robust cross-entropy is unbounded, and directions outside the tracked ones are left out of the KL, so the
          value is the bound's formula, a diagnostic (`theory.closed_form.pac_bayes` says the same of it). The bound on
          the robust 0-1 error is given beside it, over the same subspace.
Torch     none: evidence in, numbers out, so that judging needs no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.settings.training import Training
from theory.closed_form.pac_bayes import BoundedLoss, FixedPrior, UnboundedLoss, pac_bayes_bound, pac_bayes_terms
from theory.closed_form.stability import stability
from theory.closed_form.stationary import stationary_variance
from theory.judge.evidence import Evidence
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

EXPERIMENT = "bound"
#: Chance that the bound fails.
DELTA = 0.05


def optimizer_at(item: Evidence) -> MomentumSGD:
    """The optimizer of a checkpoint's evidence, with the rate of its last step."""
    return dataclasses.replace(Training.of(item).optimizer, learning_rate=float(item.measured["learning_rate"]))


def curvatures_of(item: Evidence) -> NDArray[np.float64]:
    """Largest eigenvalues of the data Hessian, shape ``(k,)``."""
    return item.arrays["eigenvalues"][: len(item.arrays["gamma"])]


def usable_directions(item: Evidence) -> NDArray[np.bool_]:
    """Directions with positive curvature and noise and a stationary law at the checkpoint's rate, shape ``(k,)``."""
    lam, gamma, optimizer = curvatures_of(item), item.arrays["gamma"], optimizer_at(item)
    return (lam > 0) & (gamma > 0) & stability(lam, optimizer).stable


def predicted_variances(item: Evidence) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Usable directions, and the stationary variance (S1) in each of them.

    Raises:
        ValueError: if no direction is usable.
    """
    keep = usable_directions(item)
    if not keep.any():
        raise ValueError(f"no tracked direction has a stationary law at epoch {item.measured['epoch']}.")
    gamma = item.arrays["gamma"][keep] * float(item.measured["noise_factor"])
    return keep, stationary_variance(Quadratic(curvatures_of(item)[keep], gamma), optimizer_at(item))


def bound_terms(item: Evidence) -> dict[str, float]:
    """The terms of the bound at one checkpoint.

    Returns:
        ``curvature_times_variance`` Σλσ² and ``negative_log_variance`` −Σ ln σ², the paper's dominating terms;
        ``mean_shift``, ``kl``; ``value``, McAllester's formula on the robust loss; ``complexity``, the value minus the
        training loss; ``error_bound``, Seeger's bound on the robust 0-1 error; ``directions``, how many were used.

    Raises:
        ValueError: if the evidence has no initial weights to put the prior at, or no usable direction.
    """
    if "prior_variance" not in item.measured:
        raise ValueError("no checkpoint of the initial weights was at hand, so the bound has no prior.")
    keep, variances = predicted_variances(item)
    train = item.measured["gap"]["train"]
    terms = pac_bayes_terms(
        curvatures_of(item)[keep],
        variances,
        prior_variance=float(item.measured["prior_variance"]),
        prior_mean=-item.arrays["displacement"][keep],
        residual_risk=float(train["robust_loss"]),
    )
    prior = FixedPrior(because="N(w₀, σ_P² I) at the random initialization, σ_P² its mean squared weight")
    samples = int(item.measured["num_samples"])
    formula = pac_bayes_bound(
        terms.expected_risk,
        terms.kl,
        num_samples=samples,
        delta=DELTA,
        loss=UnboundedLoss(),
        prior=prior,
        method="mcallester",
    )
    error = pac_bayes_bound(
        1 - float(train["robust_accuracy"]),
        terms.kl,
        num_samples=samples,
        delta=DELTA,
        loss=BoundedLoss(because="robust 0-1 error"),
        prior=prior,
        method="seeger",
    )
    return {
        "curvature_times_variance": float(terms.curvature_times_variance.sum()),
        "negative_log_variance": float(terms.negative_log_variance.sum()),
        "mean_shift": float(terms.mean_shift.sum()),
        "kl": float(terms.kl),
        "value": float(formula.value),
        "complexity": float(formula.value) - float(train["robust_loss"]),
        "error_bound": float(error.value),
        "directions": float(keep.sum()),
    }


def bound_over_training(items: Sequence[Evidence]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """The bound's formula beside the robust gap at every checkpoint of a run: values and arrays of evidence.

    Checkpoints without a stationary law in any tracked direction are left out and counted.
    """
    ordered = sorted(items, key=lambda item: item.measured["iteration"])
    rows = []
    training = Training.of(ordered[0])
    for item in ordered:
        try:
            terms = bound_terms(item)
        except ValueError:
            continue
        epoch = item.measured["iteration"] / training.iterations_per_epoch
        rows.append({"checkpoint_epoch": epoch, "robust_gap": item.measured["gap"]["robust_loss_gap"], **terms})
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in (rows[0] if rows else {})}
    if columns:
        columns["bound"] = columns["complexity"]
    first = ordered[0].measured
    mode = f" {first['batch_norm']} mode" if first["has_batch_norm"] else ""
    values = {
        "label": f"{training.run_name(ordered[0].seed)}{mode}",
        "left_out": len(ordered) - len(rows),
        "bound_is": "McAllester's formula minus the training robust loss, over the tracked directions: a diagnostic",
        "gap_is": "test minus train robust loss at fixed weights, eval mode, the same attack",
    }
    return values, columns
