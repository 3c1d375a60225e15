"""Records of the dynamics at a checkpoint: replicas, the run itself in time, and how quadratic the loss is there."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from empirical.records.base import APART, IDENTITY, Part, axes, part
from empirical.records.run import AtCheckpoint
from empirical.settings import EnsembleSetting

__all__ = [
    "Ensemble",
    "Expansion",
    "FiniteCurvature",
    "Frozen",
    "InFrozenBasis",
    "Places",
    "Rungs",
    "SampleLaw",
    "Studies",
    "Study",
    "Trajectory",
]


@part
class Frozen(Part):
    """Everything that predicts, measured at a checkpoint and then held: along H's k top eigenvectors U.

    Args:
        curvatures: λ of the data Hessian.
        slope_variances: per-sample γ.
        noise_covariance: K = UᵀCU of the per-sample gradient.
        repeated_share: ρ_b.
        mean_slope: Uᵀ∇L, weight decay included.
        momentum: Uᵀv of the buffer.
    """

    curvatures: Annotated[NDArray[np.float64], axes("directions")]
    slope_variances: Annotated[NDArray[np.float64], axes("directions")]
    noise_covariance: Annotated[NDArray[np.float64], axes("directions", "directions")]
    repeated_share: Annotated[NDArray[np.float64], axes("directions")]
    mean_slope: Annotated[NDArray[np.float64], axes("directions")]
    momentum: Annotated[NDArray[np.float64], axes("directions")]


@part
class FiniteCurvature(Part):
    """Curvature of every sample along each direction, three ways.

    Args:
        step: half-distance of the central differences: σ that the white-noise stationary law predicts.
        exact: uᵀH_n u at fixed inputs.
        fixed: central difference at fixed inputs.
        robust: central difference with the attack run again on both sides.
    """

    step: float
    exact: Annotated[NDArray[np.float64], axes("samples", "directions")]
    fixed: Annotated[NDArray[np.float64], axes("samples", "directions")]
    robust: Annotated[NDArray[np.float64], axes("samples", "directions")]


@part
class SampleLaw(Part):
    """What the law of mini-batches (P2) needs: every sample at the checkpoint, along directions W.

    W are the tracked directions U, then those in which the mean moves outside them (momentum and mean slope): a mean
    that moves drags every sample's gradient along.

    Args:
        slopes: s_n = Wᵀg_n, without weight decay.
        curvatures: A_n = Wᵀ∇²ℓ_n W.
        mean_slope: Wᵀ∇L, weight decay included.
        momentum: Wᵀv of the buffer.
        outside_curvature: mean curvature of the directions outside W that the samples' slopes span.
        outside_coupling: K of `theory.closed_form.outside`.
        outside_own: its own-sample term.
    """

    slopes: Annotated[NDArray[np.float64], axes("samples", "law directions")]
    curvatures: Annotated[NDArray[np.float64], axes("samples", "law directions", "law directions")]
    mean_slope: Annotated[NDArray[np.float64], axes("law directions")]
    momentum: Annotated[NDArray[np.float64], axes("law directions")]
    outside_curvature: float
    outside_coupling: Annotated[NDArray[np.float64], axes("law directions", "law directions")]
    outside_own: Annotated[NDArray[np.float64], axes("law directions", "law directions")]


@part
class Places(Part):
    """λ and γ in the frozen directions at the positions of some replicas (and at their mean, the last place).

    Args:
        steps: when they were looked at: the last record before the drop, and the last of all.
        curvatures: uᵢᵀH(w)uᵢ, the checkpoint's inputs held.
        slope_variances: per-sample γ, likewise.
        attacked_curvatures: at the inputs that the attack finds at w, held.
        attacked_slope_variances: likewise.
    """

    steps: Annotated[NDArray[np.int64], axes("moments")]
    curvatures: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    slope_variances: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    attacked_curvatures: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]
    attacked_slope_variances: Annotated[NDArray[np.float64], axes("moments", "places", "directions")]


@part
class Rungs(Part):
    """The same replicas under simpler dynamics, and what the law of their spread needs.

    Args:
        law: of every sample.
        linearised: Uᵀ(w − w_checkpoint) under g_B(w₀) + H_B δ.
        fixed_inputs: of the network at the inputs that were adversarial at the checkpoint; None: no attack, and so
            the network itself is that.
        places: how far λ and γ have moved where the replicas are.
    """

    law: SampleLaw
    linearised: Annotated[NDArray[np.float64], axes("records", "replicas", "directions")]
    fixed_inputs: Annotated[NDArray[np.float64], axes("records", "replicas", "directions")] | None
    places: Places


@part
class InFrozenBasis(AtCheckpoint):
    """Motion of weights along frozen directions.

    Args:
        frozen: what predicts it.
        seconds: the measurement took.
    """

    frozen: Frozen
    seconds: float

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes of an epoch's batches, the last partial one included."""
        full, rest = divmod(self.num_samples, self.training.batch_size)
        return (self.training.batch_size,) * full + ((rest,) if rest else ())

    @property
    def num_samples(self) -> int:
        """Training samples of an epoch."""
        return self.training.data.num_train

    @property
    def start_position(self) -> int:
        """Batches of the epoch under way that are done at the checkpoint."""
        return self.iteration % self.training.iterations_per_epoch

    @property
    def sampling(self) -> str:
        """How batches are drawn: "shuffle" or "replacement"."""
        return self.training.order


@part
class Ensemble(InFrozenBasis):
    """Replicas that part at a checkpoint, spread at its rate, and drop together.

    Args:
        ensemble: how many, how far.
        curvature: beside the Hessian's; None where no direction has a stationary law to take the distance from.
        vectorized: whether the replicas ran as one batch.
        steps: since they parted, at each record.
        learning_rates: the rate of every step.
        positions: Uᵀ(w − w_checkpoint).
        norms: ‖w‖.
        losses: mean training loss of the recorded steps, in nats.
        rungs: the ladder from theory to network; None where the replicas cannot be vectorised, or it was not asked for.
    """

    experiment: ClassVar[str] = "ensemble"

    ensemble: Annotated[EnsembleSetting, IDENTITY]
    curvature: FiniteCurvature | None
    vectorized: bool
    steps: Annotated[NDArray[np.int64], axes("records")]
    learning_rates: Annotated[NDArray[np.float64], axes("all steps")]
    positions: Annotated[NDArray[np.float64], axes("records", "replicas", "directions")]
    norms: Annotated[NDArray[np.float64], axes("records", "replicas")]
    losses: Annotated[NDArray[np.float64], axes("records", "replicas")]
    rungs: Rungs | None

    @property
    def drop(self) -> int:
        """Step at which the rate drops."""
        return self.ensemble.before

    def require_rungs(self) -> Rungs:
        """The rungs.

        Raises:
            ValueError: if the ensemble was measured without them.
        """
        if self.rungs is None:
            raise ValueError("the ensemble was measured without rungs: replicas not vectorised, or a subset measured")
        return self.rungs

    @property
    def sampling(self) -> str:
        """How the replicas draw batches: "shuffle" or "replacement"."""
        return "replacement" if self.ensemble.order == "replacement" else self.training.order


@part
class Trajectory(InFrozenBasis):
    """The run continued from a checkpoint at its own rate.

    Args:
        window: steps.
        positions: Uᵀ(w − w_checkpoint) after each.
        norms: ‖w‖ after each.
    """

    experiment: ClassVar[str] = "trajectory"

    window: Annotated[int, IDENTITY]
    positions: Annotated[NDArray[np.float64], axes("steps", "directions")]
    norms: Annotated[NDArray[np.float64], axes("steps")]


@part
class Study(Part):
    """The loss's change against its second-order expansion for J displacements.

    Args:
        radii: lengths of the displacements.
        measured: change of the mean loss.
        predicted: the expansion's.
        relative: (measured − predicted)/|predicted|.
        low: lower ends of the interval over samples.
        high: upper ends.
        pooled: mean of the relative errors over the displacements, with the interval ``pooled_low, pooled_high``.
        pooled_low: see ``pooled``.
        pooled_high: see ``pooled``.
    """

    radii: Annotated[NDArray[np.float64], axes("displacements")]
    measured: Annotated[NDArray[np.float64], axes("displacements")]
    predicted: Annotated[NDArray[np.float64], axes("displacements")]
    relative: Annotated[NDArray[np.float64], axes("displacements")]
    low: Annotated[NDArray[np.float64], axes("displacements")]
    high: Annotated[NDArray[np.float64], axes("displacements")]
    pooled: float
    pooled_low: float
    pooled_high: float


@part
class Studies(Part):
    """The expansion in all the ways it is studied; None: no top direction has a stationary law, so no radius σ.

    Args:
        random: random directions at a typical σ.
        path: the run's own next steps.
        top: top eigenvectors at radius σ.
        top_tenth: at a tenth of it.
        top_attacked: at radius σ, inputs attacked again.
    """

    random: Annotated[Study, APART]
    path: Annotated[Study, APART]
    top: Annotated[Study | None, APART]
    top_tenth: Annotated[Study | None, APART]
    top_attacked: Annotated[Study | None, APART]

    def named(self, prefix: str = "") -> dict[str, Study]:
        """Those that exist, under the names readers know them by."""
        found = {
            "random": self.random,
            "path": self.path,
            "top": self.top,
            "top tenth": self.top_tenth,
            "top attacked": self.top_attacked,
        }
        return {f"{prefix}{name}": study for name, study in found.items() if study is not None}


@part
class Expansion(AtCheckpoint):
    """How quadratic the loss is at a checkpoint.

    Args:
        studies: of the network as trained.
        smooth: with the same weights under a smooth activation.
        seconds: the measurement took.
    """

    experiment: ClassVar[str] = "expansion"

    studies: Studies
    smooth: Studies
    seconds: float
