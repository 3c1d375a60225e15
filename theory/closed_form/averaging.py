r"""Iterate averaging: exponential moving average, Polyak–Ruppert mean and stochastic weight averaging of momentum SGD.

Model     Exponential   e_t = β e_{t−1} + (1−β) w_t.         Polyak–Ruppert   w̄_T = (w_1 + … + w_T)/T.
          Stochastic weight averaging (SWA)   w̄_n = (w_L + w_2L + … + w_nL)/n, one sample at the end of every cycle of L
          steps with rates η_1 … η_L; L = 1 is Polyak–Ruppert, equal rates are averaging once an epoch.
Result 1  With F the transition of a mode and P_ij the stationary covariance of the states of modes i and j,
              Cov(e)_ij = (1−β)/(1+β) [ (I−βF_i)⁻¹ P_ij + P_ij (I−βF_j)⁻ᵀ − P_ij ]_ww,                  (1)
          because Σ_h β^h F^h = (I−βF)⁻¹ sums every autocovariance at once. One mode, heavy ball, φ = 1+μ−a:
              Var e = σ² (1−β)/(1+β) [2 (1 − βφμ/(1+μ)) / (1 − βφ + β²μ) − 1].
Result 2  Appending the sum to the state gives a 3×3 map for each mode. T steps of it, from the optimum or from the
          stationary law, are reached by doubling (A, Q) ∘ (A', Q') = (A A', Q + A Q' Aᵀ): O(log T), no cancellation.
          SWA is the same with the map of a whole cycle, Φ = F_L … F_1 and Q = Σ_t ψ_t ψ_tᵀ C̃_ij, ψ_t the response at
          the cycle's end to the noise of its step t; its stationary law is that of the cycle's ends. Φ may be
          unstable although every rate is stable: restarts in step with an oscillation pump it.
Limits    β → 0: Σ. T → ∞: T Cov(w̄_T) → H⁻¹ C H⁻¹ whatever η and μ (Polyak and Juditsky 1992, Theorem 1).
          Averaging T independent draws would give Σ/T: wrong by the autocorrelation time. Long cycles: Σ/n.
Oracle    `theory.oracle.averaging` averages simulated iterates; `theory.oracle.dense` runs the joint recursion of
          state and sum in extended precision.
Source    SWA: Izmailov et al. (UAI 2018, arXiv 1803.05407), whose cycles have this form; the law is derived here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.mode_response import mode_response
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import as_blocks, checked_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError

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
    problem: Quadratic,
    optimizer: MomentumSGD,
    samples: int,
    *,
    cycle: ArrayLike | None = None,
    start: Start | ArrayLike = "stationary",
) -> NDArray[np.float64]:
    """Covariance of the mean of n iterates: of all, or of one at the end of each cycle (SWA), shape ``(m, m)``.

    Args:
        problem: H and C.
        optimizer: momentum SGD in any convention; with a `cycle` its own learning rate plays no part.
        samples: n ≥ 1.
        cycle: learning rates of the steps between two samples, shape ``(L,)``; None samples every step.
        start: law of the state before the first step: stationary (at the cycle's end), at the optimum with an empty
            buffer, or a covariance of (w, v) ``(2m, 2m)``, as `transient_covariance` gives it after a burn-in.

    Raises:
        ValueError: if n is not a positive integer, a rate is not > 0, or `start` is unknown or of another shape.
        UnstableError: if a stationary start is asked of a recursion that has none.
    """
    count = _checked_steps(samples, "averaged_covariance")
    return _accumulated(problem, optimizer, count, start, 1.0, 1.0, _checked_cycle(cycle)) / float(count) ** 2


def _accumulated(
    problem: Quadratic,
    optimizer: MomentumSGD,
    steps: int,
    start: Start | ArrayLike,
    keep: float,
    gain: float,
    cycle: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Covariance after `steps` (or cycles) of s ← keep · s + gain · w; s_0 is w_0 if keep < 1, else 0."""
    if isinstance(start, str) and start not in ("stationary", "optimum"):
        raise ValueError(f"`start` must be 'stationary', 'optimum' or a covariance; got {start!r}.")
    frame = eigenbasis(problem)
    count = len(frame.curvatures)
    drift, kicks = _one_cycle(frame, optimizer, cycle)
    # Departure E = A − I of the 3×3 map, and its noise input: s₊ reads w₊, so it sees this step's noise too.
    one = np.zeros((count, 3, 3))
    one[:, :2, :2] = drift
    one[:, 2, :2] = gain * drift[:, 0]
    one[:, 2, 0] += gain
    one[:, 2, 2] = keep - 1.0
    push = np.concatenate([kicks, gain * kicks[:, :, :1]], axis=2)
    unit = np.einsum("tia,tjb->ijab", push, push) * frame.noise[:, :, None, None]
    moved, spread = np.zeros_like(one), np.zeros_like(unit)
    cycle_map, cycle_noise = one[:, :2, :2], unit[:, :, :2, :2]
    left = steps
    while left:
        if left & 1:
            moved, spread = _joined(one, unit, moved, spread)
        left >>= 1
        if left:
            one, unit = _joined(one, unit, one, unit)
    if not (isinstance(start, str) and start == "optimum"):
        first = np.zeros_like(spread)
        if not isinstance(start, str):
            given = as_blocks(checked_covariance(start, count, "averaged_covariance"))
            given = np.array([[frame.inward(given[p, r]) for r in (0, 1)] for p in (0, 1)])
            first[:, :, :2, :2] = given.transpose(2, 3, 0, 1)
        elif cycle is None:
            law = stationary_covariance(Quadratic(frame.curvatures, frame.noise), optimizer).state()
            first[:, :, :2, :2] = law.reshape(2, count, 2, count).transpose(1, 3, 0, 2)
        else:
            first[:, :, :2, :2] = _settled(cycle_map, cycle_noise)
        if keep < 1.0:
            first[:, :, 2, :2], first[:, :, :2, 2] = first[:, :, 0, :2], first[:, :, :2, 0]
            first[:, :, 2, 2] = first[:, :, 0, 0]
        spread = spread + _carried(moved, first)
    return _outward(frame, spread[:, :, 2, 2])


def _one_cycle(
    frame: Eigenbasis, optimizer: MomentumSGD, cycle: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Departure Φ − I of a cycle, ``(m, 2, 2)``, and its end's responses ψ_t to each step's noise, ``(L, m, 2)``."""
    rates = [optimizer.learning_rate] if cycle is None else cycle.tolist()
    moved = np.zeros((len(frame.curvatures), 2, 2))
    kicks = np.empty((len(rates), len(frame.curvatures), 2))
    for step, rate in reversed(list(enumerate(rates))):
        drift, noise_input = mode_response(frame.curvatures, replace(optimizer, learning_rate=rate))
        kicks[step] = noise_input + np.einsum("iab,ib->ia", moved, noise_input)
        moved = moved + drift + moved @ drift
    return moved, kicks


def _settled(moved: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ_k Φᵏ Q Φᵏᵀ by doubling, ``(m, m, 2, 2)``."""
    radius = float(np.abs(np.linalg.eigvals(np.eye(2) + moved)).max())
    if not radius < 1:
        raise UnstableError(
            f"`averaged_covariance(cycle=...)` must be stable; got spectral radius {radius:.6g} a cycle."
        )
    while True:
        grown = spread + _carried(moved, spread)
        if np.abs(grown - spread).max() <= 1e-17 * np.abs(grown).max():
            return grown
        moved, spread = moved + moved + moved @ moved, grown


def _joined(
    later: NDArray[np.float64],
    later_spread: NDArray[np.float64],
    moved: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First (moved, spread), then (later, later_spread): (I+E')(I+E) = I + (E' + E + E'E)."""
    return later + moved + later @ moved, later_spread + _carried(later, spread)


def _carried(moved: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    transition = np.eye(moved.shape[-1]) + moved
    return np.einsum("iab,ijbc,jdc->ijad", transition, covariance, transition, optimize=True)


def _outward(frame: Eigenbasis, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    value = frame.outward(matrix)
    return 0.5 * (value + value.T)


def _checked_cycle(cycle: ArrayLike | None) -> NDArray[np.float64] | None:
    if cycle is None:
        return None
    rates = np.asarray(cycle, dtype=np.float64)
    if rates.ndim != 1 or len(rates) == 0 or not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError(f"`averaged_covariance(cycle=...)` must be learning rates > 0; got {cycle!r}.")
    return rates


def _checked_steps(steps: int, caller: str) -> int:
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"`{caller}(steps=...)` must be an integer >= 1; got {steps!r}.")
    return int(steps)
