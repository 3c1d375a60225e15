r"""Dense recursions in extended precision, written out step by step: what closed forms are held against.

Everything here takes the transition F ``(n, n)`` and noise input G ``(n, k)`` of any linear recursion z₊ = F z + G ξ
and does nothing clever: sums are summed, fixed points are iterated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.transition import transition

#: Share of the total below which a further term no longer counts.
_NEGLIGIBLE = 1e-21


def preconditioned_transition(
    problem: Quadratic, optimizer: MomentumSGD, preconditioner: NDArray
) -> tuple[NDArray, NDArray]:
    """F and G with P g in place of g, P any ``(m, m)`` matrix: read off the plain recursion's blocks.

    The gradient A w + ξ enters through G alone: F = F₀ + G [A, 0] with F₀ the recursion without gradient.
    """
    free, inflow = transition(problem, optimizer, np.longdouble)
    m = problem.dimension
    curvature = problem.dense_hessian().astype(np.longdouble) + np.longdouble(optimizer.weight_decay) * np.eye(m)
    felt = np.hstack([curvature, np.zeros((m, m))])
    pushed = inflow @ np.asarray(preconditioner, dtype=np.longdouble)
    return free - inflow @ felt + pushed @ felt, pushed


def settled(step: NDArray, forcing: NDArray) -> NDArray:
    """M = F M Fᵀ + Q from M = 0, 2, 4, 8 … terms at a time; diverging input ends in OverflowError."""
    total, power = forcing.astype(np.longdouble), step.astype(np.longdouble)
    for _ in range(200):
        addition = power @ total @ power.T
        total, power = total + addition, power @ power
        size = np.abs(total).max()
        if not size < 1e300:
            break
        if np.abs(addition).max() <= _NEGLIGIBLE * size:
            return total
    raise OverflowError("the recursion did not settle")


def autocovariance_sum(step: NDArray, state: NDArray, lags: int) -> NDArray:
    """Σ_{|h| ≤ lags} E z_{t+h} z_tᵀ of a stationary recursion, lag by lag."""
    carried, total = state.copy(), state.copy()
    for _ in range(lags):
        carried = step @ carried
        total = total + carried + carried.T
    return total


def averaged(
    steps: Sequence[tuple[NDArray, NDArray]], noise: NDArray, start: NDArray, samples: int, weights: int
) -> NDArray:
    """Covariance of the mean of the first `weights` entries of z, sampled after every pass through `steps`.

    Args:
        steps: (F, G) of each step of a cycle.
        noise: Cov ξ.
        start: covariance of z before the first step.
        samples: number of passes.
        weights: m.
    """
    n = len(start)
    keep, add = np.eye(n + weights, dtype=np.longdouble), np.eye(n + weights, dtype=np.longdouble)
    add[n:, :weights] = np.eye(weights)
    joint = np.zeros((n + weights, n + weights), dtype=np.longdouble)
    joint[:n, :n] = start
    for _ in range(samples):
        for transition_, inflow in steps:
            move = keep.copy()
            move[:n, :n] = transition_
            joint = move @ joint @ move.T
            joint[:n, :n] += inflow @ noise @ inflow.T
        joint = add @ joint @ add.T
    return joint[n:, n:] / np.longdouble(samples) ** 2
