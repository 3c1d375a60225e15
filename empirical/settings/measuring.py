"""What is measured of a run: at each checkpoint, around its decays, and of which checkpoints."""

from __future__ import annotations

from typing import Literal, get_args

from empirical.settings.fields import require_at_least, require_at_most, require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = [
    "BATCH_NORMS",
    "SHORTEST_TRAJECTORY",
    "BatchNorm",
    "EnsembleSetting",
    "FloatType",
    "Measurement",
    "Measuring",
    "ReplicaOrder",
]

BatchNorm = Literal["eval", "train", "frozen-batch"]
FloatType = Literal["float64", "float32"]
ReplicaOrder = Literal["run", "replacement"]
#: Steps of the shortest trajectory whose variance is estimated.
SHORTEST_TRAJECTORY = 20
BATCH_NORMS: tuple[BatchNorm, ...] = get_args(BatchNorm)


@keyword_setting
class Measurement(Setting):
    """How a checkpoint is measured.

    Args:
        eigenpairs: largest eigenpairs of H and of C, k.
        smallest: most negative eigenpairs of H.
        samples: training samples measured, the first ones; None for all, at most 4,096.
        batch_norm: statistics that batch norm uses; without batch norm in the network all are the same.
        batches: mini-batches that make up H and C in "train" mode.
        probes: Rademacher probes of the trace estimators.
        groups: groups of samples behind χ's sampling interval, ≥ 6; 0 leaves χ without one.
        redraws: independent attack starts and augmentations behind the repeated share of the noise, ≥ 2.
        resamples: bootstrap resamples of the intervals.
        tolerance: residual of the eigenpairs, relative to λ₁.
        dtype: arithmetic of the forward and backward passes.
        chunk: samples differentiated at once: bounds the memory.
        layers: measure every layer's block too.
        density: Lanczos steps of the spectral densities of H and C; 0 for none.
        evaluated: samples of the training and test sets on which the robust gap is taken; None for all test images.
        seed: seed of attack starts, probes and bootstrap.

    Raises:
        ValueError: if a value is out of range.
    """

    eigenpairs: int = 10
    smallest: int = 2
    samples: int | None = None
    batch_norm: BatchNorm = "eval"
    batches: int = 64
    probes: int = 6
    groups: int = 0
    redraws: int = 2
    resamples: int = 499
    tolerance: float = 1e-4
    dtype: FloatType = "float64"
    chunk: int = 1024
    layers: bool = False
    density: int = 0
    evaluated: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(
            self,
            eigenpairs=1,
            smallest=0,
            samples=8,
            batches=2,
            probes=2,
            groups=0,
            redraws=2,
            resamples=99,
            chunk=1,
            density=0,
            evaluated=8,
            seed=0,
        )
        require_at_most(
            self,
            eigenpairs=100_000,
            smallest=100_000,
            batches=100_000,
            probes=100_000,
            groups=100_000,
            redraws=1000,
            resamples=1_000_000,
            density=10_000,
        )
        if 0 < self.groups < 6:
            raise ValueError(f"`Measurement(groups=...)` must be 0 or >= 6; got {self.groups}.")
        require_choices(self)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"`Measurement(tolerance=...)` must lie in (0, 1); got {self.tolerance}.")


@keyword_setting
class EnsembleSetting(Setting):
    """A branching ensemble at one decay.

    Args:
        replicas: R ≥ 2.
        before: steps at the old rate, ≥ 1.
        after: steps at the new rate, ≥ 0.
        factor: new rate over old.
        order: "run" samples as the run does, "replacement" draws every batch independently.
        records: how many records before and after the drop.
        seed: first root seed of the replicas, far from those of runs.
        places: replicas at whose positions λ and γ are measured again, and the ladder's rungs run; 0 for neither.

    Raises:
        ValueError: if a value is out of range.
    """

    replicas: int = 256
    before: int = 60
    after: int = 40
    factor: float = 0.1
    order: ReplicaOrder = "run"
    records: int = 8
    seed: int = 1_000_000
    places: int = 16

    def __post_init__(self) -> None:
        require_at_least(self, replicas=2, before=1, after=0, records=1, seed=0, places=0)
        require_at_most(self, replicas=10**6, before=10**6, after=10**6, records=10**6)
        if not 0 < self.factor <= 1:
            raise ValueError(f"`EnsembleSetting(factor=...)` must lie in (0, 1]; got {self.factor}.")
        require_choices(self)


@keyword_setting
class Measuring(Setting):
    """What is measured of the runs in a folder.

    Args:
        measurement: how each checkpoint is measured; its batch-norm mode is replaced by each of `modes`.
        modes: batch-norm modes measured; None for eval and, where the network has batch norm, train.
        checkpoints: most checkpoints measured of a run, first and last among them; None for all, 0 for none.
        expansions: study how quadratic the loss is before the first decay.
        replicas: replicas of the ensemble around the first decay; 0 for none.
        ensemble_steps: steps before the drop, ≥ 1; three relaxation times 1/(1 − √μ) of an underdamped mode are 57.
        ensemble_after: steps after the drop, ≥ 1.
        ensemble_records: records before and after the drop, beside the first steps.
        ensembles: which runs get an ensemble.
        separations: replicas of each of the ensembles that separate what explains the spread of those runs; 0 for none.
        window: steps of the trajectory before each decay; 0 for none.

    Raises:
        ValueError: if a value is out of range.
    """

    measurement: Measurement = Measurement(dtype="float32", tolerance=1e-3, groups=20)
    modes: tuple[BatchNorm, ...] | None = None
    checkpoints: int | None = None
    expansions: bool = True
    replicas: int = 128
    ensemble_steps: int = 60
    ensemble_after: int = 40
    ensemble_records: int = 8
    ensembles: Literal["first", "all"] = "first"
    separations: int = 0
    window: int = 200

    def __post_init__(self) -> None:
        require_choices(self)
        require_at_least(self, checkpoints=0, replicas=0, separations=0, window=0)
        require_at_least(self, ensemble_steps=1, ensemble_after=1, ensemble_records=1)
        require_at_most(
            self, replicas=10**6, separations=10**6, ensemble_steps=10**6, ensemble_after=10**6, window=10**7
        )
        require_at_most(self, ensemble_records=10**6)
        if 0 < self.window < SHORTEST_TRAJECTORY:
            raise ValueError(
                f"`Measuring(window=...)` must be 0 or >= {SHORTEST_TRAJECTORY}, the shortest trajectory that can be "
                f"judged; got {self.window}."
            )
        for name in ("replicas", "separations"):
            if getattr(self, name) == 1:
                raise ValueError(f"`Measuring({name}=...)` must be 0 or >= 2; got 1.")
        if self.modes is not None and (not self.modes or not set(self.modes) <= set(BATCH_NORMS)):
            raise ValueError(f"`Measuring(modes=...)` must be some of {BATCH_NORMS}; got {self.modes}.")
