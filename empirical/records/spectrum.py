"""The record of one measured checkpoint: spectra of curvature and noise, how they align, and the robust gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import APART, Part, axes, part
from empirical.records.parts import Estimate, RepeatedShare, SplitMetrics, VarianceEstimates
from empirical.records.run import AtCheckpoint

__all__ = [
    "Alignment",
    "BatchSharpness",
    "CrossFit",
    "Density",
    "Gap",
    "Lanczos",
    "Spectrum",
    "Start",
    "Turning",
    "WeightNorms",
]


@part
class Alignment(Part):
    """Commutativity and alignment of H and C.

    Args:
        chi: χ of the whole pair.
        chi_bulk: χ of the pair with H's computed eigenvectors deflated from both; None if nothing is left.
        chi_null: mean of χ under random rotation of C.
        chi_null_quantile: its upper 97.5 % quantile.
        omega: ‖HC‖/(‖H‖‖C‖), and its null 1/√P.
        omega_null: see ``omega``.
        cosine: tr(HC)/(‖H‖‖C‖), which measures proportionality, and its null.
        cosine_null: see ``cosine``.
        kappa: ‖HC − CH‖/(2‖H‖‖C‖): reported, not to be judged on.
        trace_hessian: tr H.
        trace_covariance: tr C.
        norm_hessian: ‖H‖_F.
        norm_covariance: ‖C‖_F.
        direction_cosines: cᵢ = γᵢ/‖Cuᵢ‖, 1 iff uᵢ is an eigenvector of C.
        direction_errors: their sampling standard errors (zeros for an operator without data).
        direction_influences: of every unit on them; None for an operator without data, and for layers.
        direction_null: √(r_C/P).
        leak: 1 − ‖UᵀCU‖²/‖CU‖²: 0 iff span U is C-invariant.
        leak_null: its value for a random rotation, to leading order.
        overlap: mean squared cosine of the angles between the top-j eigenspaces of H and C; None without C's pairs.
        overlap_size: j, at the largest gap of H's spectrum.
        slope: of ln γᵢ on ln λᵢ over the positive λᵢ; None for fewer than three.
        slope_error: its standard error.
        covariance: K = UᵀCU, divisor N.
        num_probes: Hutchinson probes.
    """

    chi: Estimate
    chi_bulk: Estimate | None
    chi_null: float
    chi_null_quantile: float
    omega: Estimate
    omega_null: float
    cosine: Estimate
    cosine_null: float
    kappa: float
    trace_hessian: float
    trace_covariance: float
    norm_hessian: float
    norm_covariance: float
    direction_cosines: Annotated[NDArray[np.float64], axes("pairs")]
    direction_errors: Annotated[NDArray[np.float64], axes("pairs")]
    direction_influences: Annotated[NDArray[np.float64] | None, axes("units", "pairs")]
    direction_null: float
    leak: float
    leak_null: float
    overlap: float | None
    overlap_size: int
    slope: float | None
    slope_error: float | None
    covariance: Annotated[NDArray[np.float64], axes("pairs", "pairs")]
    num_probes: int


@part
class Lanczos(Part):
    """What the eigenpairs cost and how they ended.

    Args:
        products: products with H.
        restarts: of the iteration.
        status: the solver's words.
        noise_products: products with C.
        product_method: how products with H are formed.
        product_seconds: what each way of forming one took, where they were compared.
    """

    products: int
    restarts: int
    status: str
    noise_products: int
    product_method: str
    product_seconds: Mapping[str, float]


@part
class BatchSharpness(Part):
    """E_B[g_Bᵀ H_B g_B]/E_B|g_B|² over independently drawn mini-batches, weight decay in both g_B and H_B.

    Args:
        value: the ratio of means, its bias of order 1/batches removed.
        standard_error: by the delta method.
        low: lower end of its 95 % interval, corrected for skewness.
        high: upper end.
        batch_size: B.
        small_batch_limit: where a run of small batches is at the edge of stability, 2(1−μ)/η.
        large_batch_limit: where one of full batches is, 2(1+μ)/η.
        curvatures: g_Bᵀ H_B g_B of every batch.
        squares: |g_B|² of every batch.
    """

    value: float
    standard_error: float
    low: float
    high: float
    batch_size: int
    small_batch_limit: float
    large_batch_limit: float
    curvatures: Annotated[NDArray[np.float64], axes("batches")]
    squares: Annotated[NDArray[np.float64], axes("batches")]

    @property
    def relative_error(self) -> float | None:
        """Standard error over value; None where the value is not positive."""
        return self.standard_error / self.value if self.value > 0 else None


@part
class Gap(Part):
    """Losses and accuracies at fixed weights, eval mode, the same attack, no augmentation, on both sides."""

    train: SplitMetrics
    test: SplitMetrics

    @property
    def robust_loss_gap(self) -> float:
        """Test minus train robust loss, in nats."""
        return self.test.robust_loss - self.train.robust_loss


@part
class WeightNorms(Part):
    """‖w‖, and the norm of every tensor."""

    norm: float
    layers: Mapping[str, float]


@part
class Start(Part):
    """Where the run began, for the bound's prior N(w₀, σ_P² I), which the random initialization fixes before any data.

    Args:
        prior_variance: σ_P², the mean squared weight of w₀.
        distance: ‖w − w₀‖.
        displacement: Uᵀ(w − w₀).
    """

    prior_variance: float
    distance: float
    displacement: Annotated[NDArray[np.float64], axes("directions")]


@part
class CrossFit(Part):
    """γ with eigenvectors and noise from disjoint halves: what reusing the samples would have cost."""

    eigenvalues: Annotated[NDArray[np.float64], axes("directions")]
    gamma: VarianceEstimates


@part
class Turning(Part):
    """How H's eigenspace turned since the checkpoint before.

    Args:
        angles: principal angles in radians.
        overlap: mean squared cosine of them.
        null: the overlap of random subspaces.
        matched_cosines: |cos| between each eigenvector and the one it continues.
    """

    angles: Annotated[NDArray[np.float64], axes("angles")]
    overlap: float
    null: float
    matched_cosines: Annotated[NDArray[np.float64], axes("matches")]


@part
class Density(Part):
    """Spectral density of an operator on a grid of eigenvalues, with its standard errors over probes.

    Args:
        grid: eigenvalues, from the smallest to the largest node.
        density: per unit of eigenvalue, total mass 1.
        standard_errors: over probes.
        width: of the Gaussian that smooths it.
        num_probes: probes.
    """

    grid: Annotated[NDArray[np.float64], axes("points")]
    density: Annotated[NDArray[np.float64], axes("points")]
    standard_errors: Annotated[NDArray[np.float64], axes("points")]
    width: float
    num_probes: int


@part
class Spectrum(AtCheckpoint):
    """What was measured at a checkpoint.

    Args:
        next_learning_rate: of the next step; None at the end of the run.
        data_digest: of the data.
        has_batch_norm: whether the network has batch norm, so that the measurement's mode matters.
        num_parameters: P.
        num_samples: training samples measured.
        num_units: samples, or mini-batches where batch norm ties samples together.
        units: which.
        noise_factor: covariance of the mini-batch gradient over that of a unit's.
        lanczos: cost of the eigenpairs.
        negative_mass: share of the computed eigenvalues' absolute sum that is negative.
        eigenvalues: the k largest of H, then the most negative ones.
        residuals: ‖Hu − λu‖.
        error_bounds: bounds on the eigenvalues' errors.
        noise_eigenvalues: the k largest of C.
        noise_residuals: likewise.
        gamma: variances of the units' slopes along the k eigenvectors of H.
        noise_covariance: K = UᵀCU over them, divisor N − 1.
        mean_slope: Uᵀ∇L.
        projections: slope of every unit along them.
        curvature_samples: uᵢᵀH_n uᵢ of every unit.
        losses: of every unit, in nats.
        alignment: commutativity and alignment.
        gap: robust losses and accuracies on both sides.
        weights: norms.
        repeated_share: of the noise; None where units are mini-batches.
        cross_fit: None where units are mini-batches, or it did not converge.
        sharpness: batch sharpness at fixed inputs, with the limits of the checkpoint's learning rate.
        finite_sharpness: the same over a finite step; None without an attack.
        attacked_sharpness: over that step with the attack run again on both sides; None without an attack.
        average_curvature: λ₁ at the running average of the weights; None where the run keeps none.
        start: None without a checkpoint of the initial weights.
        eigenvectors: of the k largest; None for large networks.
        turning: None at the first checkpoint.
        layers: alignment of every layer's block; None if it was not asked for.
        hessian_density: None if it was not asked for.
        noise_density: likewise.
        seconds: the measurement took.
    """

    experiment: ClassVar[str] = "spectrum"

    next_learning_rate: float | None
    data_digest: str
    has_batch_norm: bool
    num_parameters: int
    num_samples: int
    num_units: int
    units: Literal["samples", "batches"]
    noise_factor: float
    lanczos: Lanczos
    negative_mass: float
    eigenvalues: Annotated[NDArray[np.float64], axes("pairs")]
    residuals: Annotated[NDArray[np.float64], axes("pairs")]
    error_bounds: Annotated[NDArray[np.float64], axes("pairs")]
    noise_eigenvalues: Annotated[NDArray[np.float64], axes("directions")]
    noise_residuals: Annotated[NDArray[np.float64], axes("directions")]
    gamma: VarianceEstimates
    noise_covariance: Annotated[NDArray[np.float64], axes("directions", "directions")]
    mean_slope: Annotated[NDArray[np.float64], axes("directions")]
    projections: Annotated[NDArray[np.float64], axes("units", "directions")]
    curvature_samples: Annotated[NDArray[np.float64], axes("units", "directions")]
    losses: Annotated[NDArray[np.float64], axes("units")]
    alignment: Alignment
    gap: Gap
    weights: WeightNorms
    repeated_share: RepeatedShare | None
    cross_fit: Annotated[CrossFit | None, APART]
    sharpness: Annotated[BatchSharpness, APART]
    finite_sharpness: Annotated[BatchSharpness | None, APART]
    attacked_sharpness: Annotated[BatchSharpness | None, APART]
    average_curvature: float | None
    start: Start | None
    eigenvectors: Annotated[NDArray[np.float32] | None, axes("weights", "directions")]
    turning: Turning | None
    layers: Mapping[str, Alignment] | None
    hessian_density: Annotated[Density | None, APART]
    noise_density: Annotated[Density | None, APART]
    seconds: float

    @property
    def label(self) -> str:
        """The run's name, with the batch-norm mode where there is a choice."""
        return f"{self.run} {self.measurement.batch_norm} mode" if self.has_batch_norm else self.run

    @property
    def curvatures(self) -> NDArray[np.float64]:
        """Largest eigenvalues of the data Hessian, shape ``(k,)``."""
        return self.eigenvalues[: len(self.gamma.values)]
