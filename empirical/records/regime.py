"""The record of one run of the map of regimes: its curvature and what could set it, checkpoint by checkpoint."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import axes, part
from empirical.records.run import Measured

__all__ = ["RegimeRun"]


@part
class RegimeRun(Measured):
    """A run, measured as it was trained: small enough that hundreds can be kept.

    Curvature is that of the training loss at adversarial inputs held fixed, over the first samples, without weight
    decay; k is `measurement.eigenpairs`.

    Args:
        regime: the regime's name in the design.
        data_digest: of the data.
        num_parameters: P.
        num_train: training samples.
        num_samples: of them measured.
        noise_factor: covariance of the mini-batch gradient over that of a sample's.
        prior_variance: mean squared weight at the start of the run.
        iterations: steps done at each checkpoint.
        curvatures: the k largest eigenvalues λ of H.
        residuals: ‖Hu − λu‖ of each; None where published, as are other arrays that no claim reads.
        noise: γ, variances of the samples' slopes along H's eigenvectors.
        squared_curvatures: mean over samples of (uᵢᵀH_n uᵢ)², where a window ends; NaN: not measured here.
        displacements: Uᵀ(w − w₀).
        average_curvatures: λ at the running average of the weights, inputs attacked there; NaN: not measured here.
        trace: Hutchinson's estimate of tr H, the same probes everywhere.
        sharpness: batch sharpness E_B[g_Bᵀ H_B g_B]/E_B|g_B|² at fixed inputs.
        sharpness_error: its standard error.
        attacked_sharpness: over a finite step with the attack run again; NaN: not measured here, or no attack.
        output_curvature: mean over samples of tr(diag p − ppᵀ) = 1 − Σp².
        log_weight_norm: mean over the convolutions of ln ‖w‖.
        train_loss: robust loss on the first training samples, eval mode, the evaluation's attack.
        test_loss: the same on test samples.
        train_accuracy: robust accuracy on the former.
        test_accuracy: on the latter.
    """

    experiment: ClassVar[str] = "regime"

    regime: str
    data_digest: str
    num_parameters: int
    num_train: int
    num_samples: int
    noise_factor: float
    prior_variance: float
    iterations: Annotated[NDArray[np.int64], axes("checkpoints")]
    curvatures: Annotated[NDArray[np.float64], axes("checkpoints", "directions")]
    residuals: Annotated[NDArray[np.float64] | None, axes("checkpoints", "directions")]
    noise: Annotated[NDArray[np.float64], axes("checkpoints", "directions")]
    squared_curvatures: Annotated[NDArray[np.float64], axes("checkpoints", "directions", nan=True)]
    displacements: Annotated[NDArray[np.float64], axes("checkpoints", "directions")]
    average_curvatures: Annotated[NDArray[np.float64], axes("checkpoints", "directions", nan=True)]
    trace: Annotated[NDArray[np.float64], axes("checkpoints")]
    sharpness: Annotated[NDArray[np.float64], axes("checkpoints")]
    sharpness_error: Annotated[NDArray[np.float64] | None, axes("checkpoints")]
    attacked_sharpness: Annotated[NDArray[np.float64] | None, axes("checkpoints", nan=True)]
    output_curvature: Annotated[NDArray[np.float64], axes("checkpoints")]
    log_weight_norm: Annotated[NDArray[np.float64], axes("checkpoints")]
    train_loss: Annotated[NDArray[np.float64], axes("checkpoints")]
    test_loss: Annotated[NDArray[np.float64], axes("checkpoints")]
    train_accuracy: Annotated[NDArray[np.float64], axes("checkpoints")]
    test_accuracy: Annotated[NDArray[np.float64] | None, axes("checkpoints")]
