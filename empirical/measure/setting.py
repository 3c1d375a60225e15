"""What is measured at a checkpoint: a Setting, so that evidence of one measurement is written once."""

from __future__ import annotations

from theory.model.setting import Setting, keyword_setting

__all__ = ["MODES", "Measurement"]

MODES = ("eval", "train", "frozen-batch")
DTYPES = ("float64", "float32")


@keyword_setting
class Measurement(Setting):
    """How a checkpoint is measured.

    Args:
        eigenpairs: k, largest eigenpairs of H and of C.
        smallest: most negative eigenpairs of H.
        samples: training samples measured, the first ones; None for all, at most 4,096.
        batch_norm: "eval", "train" or "frozen-batch"; without batch norm in the network all are the same.
        batches: mini-batches that make up H and C in "train" mode.
        probes: Rademacher probes of the trace estimators.
        groups: groups of samples behind χ's sampling interval, ≥ 6; 0 leaves χ without one.
        redraws: independent attack starts and augmentations behind the repeated share of the noise, ≥ 2.
        resamples: bootstrap resamples of the intervals.
        tolerance: relative residual of the eigenpairs.
        dtype: "float64" or "float32" of the forward and backward passes.
        chunk: samples differentiated at once.
        layers: measure every layer's block as well.
        density: Lanczos steps of the spectral densities of H and C; 0 for none.
        evaluated: samples of the training and test sets on which the robust gap is taken; None for all test images.
        seed: of attack starts, probes and bootstrap.

    Raises:
        ValueError: if a value is out of range.
    """

    eigenpairs: int = 10
    smallest: int = 2
    samples: int | None = None
    batch_norm: str = "eval"
    batches: int = 64
    probes: int = 6
    groups: int = 0
    redraws: int = 2
    resamples: int = 499
    tolerance: float = 1e-4
    dtype: str = "float64"
    chunk: int = 1024
    layers: bool = False
    density: int = 0
    evaluated: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (
            ("eigenpairs", 1),
            ("smallest", 0),
            ("batches", 2),
            ("probes", 2),
            ("groups", 0),
            ("redraws", 2),
            ("resamples", 99),
            ("chunk", 1),
            ("density", 0),
            ("seed", 0),
        ):
            if getattr(self, field) < least:
                raise ValueError(f"`Measurement({field}=...)` must be >= {least}; got {getattr(self, field)}.")
        if 0 < self.groups < 6:
            raise ValueError(f"`Measurement(groups=...)` must be 0 or >= 6; got {self.groups}.")
        for field in ("samples", "evaluated"):
            value = getattr(self, field)
            if value is not None and value < 8:
                raise ValueError(f"`Measurement({field}=...)` must be >= 8; got {value}.")
        for field, allowed in (("batch_norm", MODES), ("dtype", DTYPES)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"`Measurement({field}=...)` must be one of {allowed}; got {getattr(self, field)!r}.")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"`Measurement(tolerance=...)` must lie in (0, 1); got {self.tolerance}.")
