"""Words and shapes that the results of several claims share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Band, Curve, Role, Sample

RATE = Axis("step size times curvature, ηλ")
SINCE_CHANGE = Axis("time since the change", "steps")


def measured(x: ArrayLike, y: ArrayLike, half: ArrayLike | None = None, subject: str = "", by: str = "") -> Curve:
    """What was measured, with the interval y ± `half` at the family's level where it is known."""
    at, value = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if half is None:
        return Curve(role=Role.MEASURED, subject=subject, x=at, y=value, by=by)
    reach = np.broadcast_to(np.asarray(half, dtype=float), value.shape)
    return measured_between(at, value, value - reach, value + reach, subject, by)


def measured_between(
    x: ArrayLike, y: ArrayLike, low: ArrayLike, high: ArrayLike, subject: str = "", by: str = ""
) -> Curve:
    """What was measured, with its interval at the family's level."""
    at, value, below, above = (np.asarray(part, dtype=float) for part in (x, y, low, high))
    return Curve(
        role=Role.MEASURED, subject=subject, x=at, y=value, low=below, high=above, band=Band.FAMILY, by=by
    )  # fmt: skip


def predicted(x: ArrayLike, y: ArrayLike, subject: str = "", by: str = "") -> Curve:
    """What the formula says, on a grid of its own."""
    return Curve(role=Role.PREDICTED, subject=subject, x=np.asarray(x, float), y=np.asarray(y, float), by=by)


def decoy(x: ArrayLike, y: ArrayLike, by: str, subject: str = "") -> Curve:
    """What a wrong formula says."""
    return Curve(role=Role.DECOY, subject=subject, x=np.asarray(x, float), y=np.asarray(y, float), by=by)


def level(value: float, x: ArrayLike, by: str) -> Curve:
    """A horizontal line over the range of `x`."""
    at = np.asarray(x, dtype=float)
    return Curve(role=Role.REFERENCE, x=(at.min(), at.max()), y=(value, value), by=by)


def replicas(evidence: Iterable[Evidence], more: str = "") -> Sample:
    """Independent replicas of the simulations, of the smallest where there are several."""
    items = tuple(evidence)
    each = " each" if len(items) > 1 else ""
    return Sample(min(int(item.setting["replicas"]) for item in items), f"replicas{each}{more}")
