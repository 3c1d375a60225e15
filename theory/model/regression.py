r"""Finite-sample problems: where mini-batch noise comes from, and what it depends on.

Model     A mini-batch B of S samples gives the gradient
              g_B(w) = (1/S) Σ_{i∈B} x_i (x_iᵀ w − y_i) + κ w,      κ the ridge,
          so its Hessian (1/S) Σ x_i x_iᵀ + κ I changes from batch to batch, and with it the noise at w.
Problems  `GaussianRegression`: x ~ N(0, A), y = xᵀw° + ε, fresh samples for ever. The optimizer's weight decay is κ.
          `RidgeRegression`: N given rows, sampled by one of three schemes.
          `FiniteSum`: N losses of one and the same curvature, ½ wᵀΛw + s_nᵀw: batches differ in their offset alone, so
          that what sampling does to the noise can be seen without what the weights do to it.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from theory.model.setting import Setting, is_integer, keyword_setting


class Sampling(StrEnum):
    """How the S rows of a batch are drawn from N."""

    WITH_REPLACEMENT = "with-replacement"  # S independent rows
    WITHOUT_REPLACEMENT = "without-replacement"  # S different rows, each batch on its own
    SHUFFLED_EPOCHS = "shuffled-epochs"  # a fresh permutation an epoch, cut into ⌊N/S⌋ batches, the remainder dropped


@keyword_setting
class GaussianRegression(Setting):
    """Least squares on Gaussian inputs: x ~ N(0, A), y = xᵀw° + ε with Var ε = σ².

    Args:
        input_cov: A, shape ``(m, m)`` symmetric positive definite, or its diagonal, shape ``(m,)``.
        label_noise_variance: σ² > 0, in units of y².
        batch_size: S ≥ 1.
        truth: w°, shape ``(m,)``; None is the origin. It matters only with weight decay, which moves the optimum away
            from w° and so leaves a residual that the inputs explain.

    Raises:
        ValueError: if a value is out of range, not finite, or of the wrong shape.
    """

    input_cov: NDArray[np.float64]
    label_noise_variance: float
    batch_size: int
    truth: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        cov = _frozen(self.input_cov, "GaussianRegression", "input_cov")
        if cov.ndim not in (1, 2) or cov.size == 0 or (cov.ndim == 2 and cov.shape[0] != cov.shape[1]):
            raise ValueError(f"`GaussianRegression(input_cov=...)` must have shape (m, m) or (m,); got {cov.shape}.")
        if cov.ndim == 2 and np.linalg.norm(cov - cov.T) > 1e-8 * np.linalg.norm(cov):
            raise ValueError("`GaussianRegression(input_cov=...)` must be symmetric; got an asymmetric matrix.")
        smallest = float(cov.min() if cov.ndim == 1 else np.linalg.eigvalsh(cov)[0])
        if smallest <= 0:
            raise ValueError(
                f"`GaussianRegression(input_cov=...)` must be positive definite; got eigenvalue {smallest:.6g}."
            )
        if not (np.isfinite(self.label_noise_variance) and self.label_noise_variance > 0):
            raise ValueError(
                "`GaussianRegression(label_noise_variance=...)` must be > 0 and finite; "
                f"got {self.label_noise_variance}."
            )
        _check_batch_size(self.batch_size, "GaussianRegression")
        object.__setattr__(self, "input_cov", cov)
        if self.truth is not None:
            truth = _frozen(self.truth, "GaussianRegression", "truth")
            if truth.shape != (len(cov),):
                raise ValueError(f"`GaussianRegression(truth=...)` must have shape {(len(cov),)}; got {truth.shape}.")
            object.__setattr__(self, "truth", truth)

    @property
    def dimension(self) -> int:
        """Number of weights m."""
        return len(self.input_cov)

    def dense_input_cov(self) -> NDArray[np.float64]:
        """A as a matrix, shape ``(m, m)``."""
        return np.diag(self.input_cov) if self.input_cov.ndim == 1 else self.input_cov.copy()


@keyword_setting
class RidgeRegression(Setting):
    """Ridge regression on given rows: L(w) = (1/2N) Σ (x_iᵀ w − y_i)² + ½ κ |w|².

    Args:
        inputs: x, shape ``(N, m)``, N ≥ 2 rows.
        targets: y, shape ``(N,)``.
        ridge: κ ≥ 0.
        batch_size: S in 1 … N; under shuffled epochs 2 S ≤ N, so that an epoch has two batches.
        sampling: how a batch is drawn.

    Raises:
        ValueError: if shapes disagree, a value is not finite or out of range, or κ = 0 and the inputs are (numerically)
            linearly dependent, so that no unique optimum exists.
    """

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]
    ridge: float
    batch_size: int
    sampling: Sampling = Sampling.WITH_REPLACEMENT

    def __post_init__(self) -> None:
        inputs = _frozen(self.inputs, "RidgeRegression", "inputs")
        targets = _frozen(self.targets, "RidgeRegression", "targets")
        if inputs.ndim != 2 or inputs.shape[0] < 2 or inputs.shape[1] < 1:
            raise ValueError(f"`RidgeRegression(inputs=...)` must have shape (N >= 2, m >= 1); got {inputs.shape}.")
        if targets.shape != (len(inputs),):
            raise ValueError(f"`RidgeRegression(targets=...)` must have shape {(len(inputs),)}; got {targets.shape}.")
        if not (np.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"`RidgeRegression(ridge=...)` must be >= 0 and finite; got {self.ridge}.")
        sampling = _checked_sampling(self.sampling, self.batch_size, len(inputs), "RidgeRegression")
        if self.ridge == 0:
            rank = int(np.linalg.matrix_rank(inputs))
            if rank < inputs.shape[1]:
                raise ValueError(
                    "`RidgeRegression(ridge=...)` must be > 0 where columns are linearly dependent "
                    f"(rank {rank} of {inputs.shape[1]}); got 0."
                )
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "sampling", sampling)

    @property
    def num_rows(self) -> int:
        """N."""
        return self.inputs.shape[0]

    @property
    def dimension(self) -> int:
        """Number of weights m."""
        return self.inputs.shape[1]

    @property
    def batches_per_epoch(self) -> int:
        """⌊N/S⌋."""
        return self.num_rows // self.batch_size


@keyword_setting
class FiniteSum(Setting):
    """Mean of N quadratics ½ wᵀ diag(λ) w + s_nᵀ w with Σ_n s_n = 0: the optimum is the origin.

    Args:
        curvatures: λ > 0, shape ``(m,)``.
        offsets: s_n, shape ``(N, m)``, the per-sample gradients at the optimum; their mean must be 0 to 1e-12 of their
            spread.
        batch_size: as in `RidgeRegression`.
        sampling: as in `RidgeRegression`.
        fresh_variances: variance of Gaussian noise that is new at every step (augmentation, attack starts) and added to
            the batch mean, shape ``(m,)``, ≥ 0; None is none.

    Raises:
        ValueError: if a value is out of range, not finite, or of the wrong shape.
    """

    curvatures: NDArray[np.float64]
    offsets: NDArray[np.float64]
    batch_size: int
    sampling: Sampling = Sampling.SHUFFLED_EPOCHS
    fresh_variances: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        curvatures = _frozen(self.curvatures, "FiniteSum", "curvatures")
        offsets = _frozen(self.offsets, "FiniteSum", "offsets")
        if curvatures.ndim != 1 or not len(curvatures) or curvatures.min() <= 0:
            raise ValueError(f"`FiniteSum(curvatures=...)` must be a vector of numbers > 0; got {self.curvatures}.")
        if offsets.ndim != 2 or offsets.shape[1] != len(curvatures) or len(offsets) < 2:
            raise ValueError(
                f"`FiniteSum(offsets=...)` must have shape (N >= 2, {len(curvatures)}); got {offsets.shape}."
            )
        if np.any(np.abs(offsets.mean(axis=0)) > 1e-12 * np.abs(offsets).max()):
            raise ValueError(f"`FiniteSum(offsets=...)` must have mean 0; got {offsets.mean(axis=0)}.")
        sampling = _checked_sampling(self.sampling, self.batch_size, len(offsets), "FiniteSum")
        if self.fresh_variances is not None:
            fresh = _frozen(self.fresh_variances, "FiniteSum", "fresh_variances")
            if fresh.shape != curvatures.shape or fresh.min() < 0:
                raise ValueError(
                    f"`FiniteSum(fresh_variances=...)` must be {len(curvatures)} numbers >= 0; got {fresh}."
                )
            object.__setattr__(self, "fresh_variances", fresh)
        object.__setattr__(self, "curvatures", curvatures)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "sampling", sampling)

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.offsets)

    @property
    def dimension(self) -> int:
        """Number of weights m."""
        return len(self.curvatures)

    @property
    def batches_per_epoch(self) -> int:
        """⌊N/S⌋."""
        return self.num_rows // self.batch_size


def _frozen(values: NDArray[np.float64], owner: str, name: str) -> NDArray[np.float64]:
    array = np.array(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"`{owner}({name}=...)` must hold real numbers; got dtype {array.dtype}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"`{owner}({name}=...)` must be finite; got {bad} NaN or infinite.")
    array.flags.writeable = False
    return array


def _check_batch_size(batch_size: int, owner: str) -> None:
    if not is_integer(batch_size) or batch_size < 1:
        raise ValueError(f"`{owner}(batch_size=...)` must be an integer >= 1; got {batch_size!r}.")


def _checked_sampling(sampling: Sampling | str, batch_size: int, num_rows: int, owner: str) -> Sampling:
    _check_batch_size(batch_size, owner)
    if batch_size > num_rows:
        raise ValueError(f"`{owner}(batch_size=...)` must not exceed the {num_rows} rows; got {batch_size}.")
    try:
        checked = Sampling(sampling)
    except ValueError:
        known = ", ".join(item.value for item in Sampling)
        raise ValueError(f"`{owner}(sampling=...)` must be one of {known}; got {sampling!r}.") from None
    if checked is Sampling.SHUFFLED_EPOCHS and 2 * batch_size > num_rows:
        raise ValueError(
            f"`{owner}(batch_size=...)` must leave two batches an epoch, at most {num_rows // 2}; got {batch_size}."
        )
    return checked
