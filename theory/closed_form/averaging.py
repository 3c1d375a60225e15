r"""Iterate averaging: covariance of the exponential moving average and of the Polyak–Ruppert mean of momentum SGD.

Model     Exponential   e_t = β e_{t−1} + (1−β) w_t.         Polyak–Ruppert   w̄_T = (w_1 + … + w_T)/T.
Result 1  With F the transition of a mode and P_ij the stationary covariance of the states of modes i and j,
              Cov(e)_ij = (1−β)/(1+β) [ (I−βF_i)⁻¹ P_ij + P_ij (I−βF_j)⁻ᵀ − P_ij ]_ww,                  (1)
          because Σ_h β^h F^h = (I−βF)⁻¹ sums every autocovariance at once. One mode, heavy ball, φ = 1+μ−a:
              Var e = σ² (1−β)/(1+β) [2 (1 − βφμ/(1+μ)) / (1 − βφ + β²μ) − 1].
Result 2  Appending the sum to the state gives a 3×3 map for each mode. T steps of it, from the optimum or from the
          stationary law, are reached by doubling (A, Q) ∘ (A', Q') = (A A', Q + A Q' Aᵀ): O(log T), no cancellation.
Limits    β → 0: Σ. T → ∞: T Cov(w̄_T) → H⁻¹ C H⁻¹ whatever η and μ (Polyak and Juditsky 1992, Theorem 1).
          Averaging T independent draws would give Σ/T: wrong by the autocorrelation time.
Oracle    `theory.oracle.averaging` averages simulated iterates.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.mode_response import mode_response
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

Start = Literal["stationary", "optimum"]


def ema_covariance(
    problem: Quadratic,
    optimizer: MomentumSGD,
    decay: float,
    *,
    steps: int | None = None,
    start: Start = "stationary",
) -> NDArray[np.float64]:
    """Covariance of the exponential moving average of the weights, shape ``(m, m)``.

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention.
        decay: β in [0, 1).
        steps: number of steps since e_0 = w_0, or None for the stationary average, equation (1).
        start: law of w_0 where `steps` is given: stationary, or at the optimum with an empty buffer.

    Raises:
        ValueError: if β or the number of steps is out of range.
        UnstableError: if the recursion is unstable.
    """
    beta = float(decay)
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"`ema_covariance(decay=...)` must be in [0, 1); got {decay}.")
    if steps is not None:
        return _accumulated(problem, optimizer, _checked_steps(steps, "ema_covariance"), start, beta, 1.0 - beta)
    frame = eigenbasis(problem)
    law = stationary_covariance(Quadratic(frame.curvatures, frame.noise), optimizer)
    drift, _ = mode_response(frame.curvatures, optimizer)
    kept = (1.0 - beta) * np.eye(2) - beta * drift  # I − βF
    determinant = kept[:, 0, 0] * kept[:, 1, 1] - kept[:, 0, 1] * kept[:, 1, 0]
    own, other = kept[:, 1, 1] / determinant, -kept[:, 0, 1] / determinant  # first row of the inverse
    velocity_weight = law.state()[len(own) :, : len(own)]  # E v_i w_j
    forward = own[:, None] * law.require() + other[:, None] * velocity_weight
    return _outward(frame, (1.0 - beta) / (1.0 + beta) * (forward + forward.T - law.require()))


def averaged_covariance(
    problem: Quadratic, optimizer: MomentumSGD, steps: int, *, start: Start = "stationary"
) -> NDArray[np.float64]:
    """Covariance of the mean of w_1 … w_T, shape ``(m, m)``.

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention.
        steps: T ≥ 1.
        start: law of w_0: stationary, or at the optimum with an empty buffer.

    Raises:
        ValueError: if T is not a positive integer, or `start` is unknown.
        UnstableError: if the recursion is unstable.
    """
    count = _checked_steps(steps, "averaged_covariance")
    return _accumulated(problem, optimizer, count, start, 1.0, 1.0) / float(count) ** 2


def _accumulated(
    problem: Quadratic, optimizer: MomentumSGD, steps: int, start: Start, keep: float, gain: float
) -> NDArray[np.float64]:
    """Covariance after `steps` of s ← keep · s + gain · w; s_0 is w_0 if keep < 1, else 0."""
    if start not in ("stationary", "optimum"):
        raise ValueError(f"`start` must be 'stationary' or 'optimum'; got {start!r}.")
    frame = eigenbasis(problem)
    law = stationary_covariance(Quadratic(frame.curvatures, frame.noise), optimizer)
    drift, noise_input = mode_response(frame.curvatures, optimizer)
    count = len(frame.curvatures)
    # Departure E = A − I of the 3×3 map, and its noise input: s₊ reads w₊, so it sees this step's noise too.
    one = np.zeros((count, 3, 3))
    one[:, :2, :2] = drift
    one[:, 2, :2] = gain * drift[:, 0]
    one[:, 2, 0] += gain
    one[:, 2, 2] = keep - 1.0
    push = np.concatenate([noise_input, gain * noise_input[:, :1]], axis=1)
    unit = np.einsum("ia,jb->ijab", push, push) * frame.noise[:, :, None, None]
    moved, spread = np.zeros_like(one), np.zeros_like(unit)
    left = steps
    while left:
        if left & 1:
            moved, spread = _joined(one, unit, moved, spread)
        left >>= 1
        if left:
            one, unit = _joined(one, unit, one, unit)
    if start == "stationary":
        first = np.zeros_like(spread)
        first[:, :, :2, :2] = law.state().reshape(2, count, 2, count).transpose(1, 3, 0, 2)
        if keep < 1.0:
            first[:, :, 2, :2], first[:, :, :2, 2] = first[:, :, 0, :2], first[:, :, :2, 0]
            first[:, :, 2, 2] = first[:, :, 0, 0]
        spread = spread + _carried(moved, first)
    return _outward(frame, spread[:, :, 2, 2])


def _joined(
    later: NDArray[np.float64],
    later_spread: NDArray[np.float64],
    moved: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First (moved, spread), then (later, later_spread): (I+E')(I+E) = I + (E' + E + E'E)."""
    return later + moved + later @ moved, later_spread + _carried(later, spread)


def _carried(moved: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    transition = np.eye(3) + moved
    return np.einsum("iab,ijbc,jdc->ijad", transition, covariance, transition, optimize=True)


def _outward(frame: Eigenbasis, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    value = frame.outward(matrix)
    return 0.5 * (value + value.T)


def _checked_steps(steps: int, caller: str) -> int:
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"`{caller}(steps=...)` must be an integer >= 1; got {steps!r}.")
    return int(steps)
