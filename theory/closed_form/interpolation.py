r"""The early-phase interpolation of Xu and Zhang after a learning-rate change, and how far it is from the truth.

Model     One mode of heavy ball, η₁ → η₂ at step 0, stationary before.
Statement σ²(k) ≈ ρ^{2k} σ₁² + (1 − ρ^{2k}) σ₂²   with σ₁², σ₂² the two stationary variances                       (T2)
Readings  of ρ: ``"spectral-radius"``, the larger root of the mode after the change; ``"effective-rate"``,
          |1 − η₂λ/(1−μ)|, the small-step limit of that root.
Truth     (T1). A single scalar rate can be exact only without momentum: there both readings are 1 − η₂λ and the
          statement is an identity. With momentum the state has two rates, and for a > (1−√μ)² it oscillates.
Source    arXiv 2410.07719, Theorem 4.7 and Eq. (14); the readings are ours, since the text leaves ρ open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.powers import companion
from theory.closed_form.stability import stable_modes
from theory.closed_form.stationary import stationary_variance
from theory.closed_form.transient import checked_steps, transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

Reading = Literal["spectral-radius", "effective-rate"]
READINGS: tuple[Reading, ...] = get_args(Reading)

#: Where a diverging ρ^{2k} is cut off.
_LARGEST_EXPONENT = 500.0


def interpolated_variance(
    problem: Quadratic,
    before: MomentumSGD,
    after: MomentumSGD,
    steps: int | Sequence[int] | NDArray[np.integer],
    reading: Reading = "spectral-radius",
) -> NDArray[np.float64]:
    """Variance along each eigenvector of H by the interpolation (T2), shape ``(K, m)``, order of `eigenbasis`.

    Args:
        problem: H and C, before and after.
        before: optimizer before the change.
        after: optimizer after it.
        steps: updates since the change, rising.
        reading: what ρ stands for.

    Raises:
        UnstableError: if one of the two has no stationary law.
        ValueError: if the reading is unknown or a step is out of order.
    """
    if reading not in READINGS:
        raise ValueError(f"`interpolated_variance(reading=...)` must be one of {READINGS}; got {reading!r}.")
    checked = checked_steps(steps, "interpolated_variance")
    curvatures = eigenbasis(problem).curvatures
    old, new = (stationary_variance(problem, optimizer) for optimizer in (before, after))
    # ln|ρ| from the root's own distance to 1, so that ρ^{2k} keeps its digits at large k.
    if reading == "spectral-radius":
        mode = companion(curvatures, after)
        with np.errstate(divide="ignore"):
            log_rate = np.where(mode.discriminant < 0, 0.5 * np.log1p(-mode.contraction), np.log1p(-mode.slow))
    else:
        rate = stable_modes(curvatures, after).effective_rate / (1.0 - after.momentum)
        with np.errstate(divide="ignore"):
            log_rate = np.where(rate < 1, np.log1p(-np.minimum(rate, 1.0)), np.log(np.abs(1.0 - rate)))
    # 0 · (−∞) at step 0 is no change; ρ > 1, which the second reading allows, is cut off before it overflows.
    exponent = 2.0 * checked[:, None] * np.where(checked[:, None] > 0, log_rate, 0.0)
    return new + np.exp(np.minimum(exponent, _LARGEST_EXPONENT)) * (old - new)


def interpolation_error(
    rates: NDArray[np.float64],
    momentum: float,
    ratio: float,
    steps: Sequence[int] | NDArray[np.integer],
    reading: Reading,
) -> NDArray[np.float64]:
    """Relative error of (T2) against (T1), (interpolated − exact)/exact, shape ``(K, len(rates))``.

    Args:
        rates: a = η₂λ after the change, shape ``(n,)``.
        momentum: μ.
        ratio: η₂/η₁.
        steps: updates since the change, rising.
        reading: what ρ stands for.

    Raises:
        UnstableError: if η₁λ or η₂λ is unstable.
        ValueError: as in `interpolated_variance`.
    """
    problem = Quadratic(np.asarray(rates, dtype=np.float64), np.ones(len(rates)))
    before, after = MomentumSGD(1.0 / ratio, momentum), MomentumSGD(1.0, momentum)
    exact = np.einsum("kii->ki", transient_covariance(problem, before, after, steps).require())
    return interpolated_variance(problem, before, after, steps, reading) / exact - 1.0


def settling_time(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Steps 1/(1 − ρ²) in which each mode forgets its variance, shape ``(m,)``.

    Raises:
        UnstableError: if some mode is unstable.
    """
    stable_modes(curvatures, optimizer)
    mode = companion(curvatures, optimizer)
    remaining = np.where(mode.discriminant < 0, mode.contraction, mode.slow * (2.0 - mode.slow))
    return 1.0 / remaining
