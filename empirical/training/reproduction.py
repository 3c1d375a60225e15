"""The published runs on CIFAR-10, CIFAR-100 and SVHN: protocol, reference windows, and whether a run meets them.

Windows   means over epochs 89–98 (before the first decay), 100–109 (after it) and 190–199 (the end), counted from 0 as
          in the logs: epoch e of a log is our line with e + 1 completed epochs.
Values    from the logs released with Wu, Xia & Wang 2020: PGD-20 evaluation, AT and AWP from one code base.
Bands     half-widths of 0.4, 0.5, 0.8 points of train robust accuracy and 0.8, 0.7, 0.8 of test robust accuracy, from
          the spread of same-protocol runs on CIFAR-10; reused for the other sets, which have no published spread.
          Train robust accuracy is the running average in train mode (for AWP at the perturbed weights), as in the logs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from empirical.records.training import EpochColumns
from empirical.settings import Evaluation, Precision, Training
from empirical.settings.data import DatasetName
from empirical.settings.method import MethodName

__all__ = ["REFERENCE", "WINDOWS", "Window", "execution_free", "published_overrides", "windows_of"]

WINDOWS = ((89, 98), (100, 109), (190, 199))
TRAIN_BAND, TEST_BAND = (0.4, 0.5, 0.8), (0.8, 0.7, 0.8)

#: For each window: train robust, test robust, test clean accuracy, in per cent.
Reference: TypeAlias = tuple[tuple[float, float, float], ...]

#: (data set, method) → for each window: train robust, test robust, test clean accuracy, in per cent.
REFERENCE: dict[tuple[DatasetName, MethodName], Reference] = {
    ("cifar10", "at"): ((46.83, 46.26, 74.84), (57.57, 51.83, 81.98), (80.58, 44.46, 84.60)),
    ("cifar10", "awp"): ((40.40, 48.74, 73.28), (45.67, 52.92, 77.74), (49.84, 54.68, 81.17)),
    ("cifar100", "at"): ((23.74, 22.22, 43.78), (35.71, 27.06, 54.11), (71.07, 20.82, 54.76)),
    ("cifar100", "awp"): ((17.03, 23.86, 41.81), (21.60, 27.99, 48.68), (26.04, 30.26, 54.04)),
    ("svhn", "at"): ((85.94, 43.65, 89.56), (94.47, 43.95, 89.95), (99.24, 44.42, 89.82)),
    ("svhn", "awp"): ((69.96, 57.31, 92.26), (72.92, 56.97, 92.94), (75.10, 55.72, 92.82)),
}


@dataclass(frozen=True, kw_only=True)
class Window:
    """One mean of a run beside its reference, in per cent."""

    first: int
    last: int
    quantity: str  # "train robust" or "test robust"
    measured: float
    standard_error: float
    reference: float
    half_width: float

    @property
    def ratio(self) -> float:
        """(measured − reference) / half-width: inside the band iff in [−1, 1]."""
        return (self.measured - self.reference) / self.half_width


def published_overrides() -> dict[str, Any]:
    """What `reproduce` adds to a preset: the scripts' decay one iteration early."""
    return {"published_offset": True}


def execution_free(setting: Training) -> Training:
    """A run's setting without what says how it was computed or watched, for comparing protocols."""
    return dataclasses.replace(
        setting,
        precision=Precision(),
        checkpoint_epochs=(),
        log_window=0,
        evaluation=Evaluation(attack=setting.evaluation.attack),
    )


def protocol_differences(setting: Training, dataset: str, method: str) -> list[str]:
    """Where a run's setting departs from the published protocol, as ``path: found, not expected``."""
    from empirical.settings.presets import make_training

    expected = make_training(dataset, method, published_overrides())
    return _differences(execution_free(setting).to_dict(), execution_free(expected).to_dict(), "")


def _differences(found: Any, expected: Any, path: str) -> list[str]:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        keys = sorted(set(found) | set(expected))
        return [
            line for key in keys for line in _differences(found.get(key), expected.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if found == expected else [f"{path}: {found!r}, not {expected!r}"]


def windows_of(log: EpochColumns, reference: Reference) -> tuple[Window, ...]:
    """A run's windows beside a reference; windows without data are left out.

    Args:
        log: the run's epochs.
        reference: a value of `REFERENCE`.
    """
    found = []
    for index, (first, last) in enumerate(WINDOWS):
        inside = (log.epoch >= first + 1) & (log.epoch <= last + 1)
        for quantity, column, band in (
            ("train robust", log.running_accuracy, TRAIN_BAND),
            ("test robust", log.test_robust_accuracy, TEST_BAND),
        ):
            values = 100 * column[inside]
            values = values[np.isfinite(values)]
            if len(values) < 2:
                continue
            found.append(
                Window(
                    first=first,
                    last=last,
                    quantity=quantity,
                    measured=float(values.mean()),
                    standard_error=float(values.std(ddof=1) / np.sqrt(len(values))),
                    reference=reference[index][0 if quantity == "train robust" else 1],
                    half_width=band[index],
                )
            )
    return tuple(found)


def describe(window: Window) -> str:
    """One line for a person."""
    inside = "inside" if abs(window.ratio) <= 1 else "OUTSIDE"
    fields = dataclasses.asdict(window)
    return (
        "epochs {first}–{last} {quantity}: {measured:.2f} against {reference:.2f} ± {half_width:.1f}, ".format(**fields)
        + inside
    )
