r"""Dense recursions in extended precision, written out step by step: what closed forms are held against.

Everything here takes the transition F ``(n, n)`` and noise input G ``(n, k)`` of any linear recursion z₊ = F z + G ξ
and does nothing clever: sums are summed, fixed points are iterated.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

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


def mean_settled(step: NDArray, push: NDArray) -> NDArray:
    """m = F m + f from m = 0, 2, 4, 8 … terms at a time, for a contraction F."""
    total, power = push.astype(np.longdouble), step.astype(np.longdouble)
    for _ in range(200):
        addition = power @ total
        total, power = total + addition, power @ power
        if np.abs(addition).max() <= _NEGLIGIBLE * np.abs(total).max():
            return total
    raise OverflowError("the recursion did not settle")


def stable_limit(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """The learning rate at which the recursion stops contracting, found by bisection on its spectral radius."""

    def radius(rate: float) -> float:
        step, _ = transition(problem, replace(optimizer, learning_rate=rate), np.longdouble)
        return float(np.abs(np.linalg.eigvals(step.astype(np.float64))).max()) - 1.0

    high = 1e-3
    while radius(high) < 0:
        high *= 2.0
    return optimize.root_scalar(radius, bracket=(0.5 * high, high), method="brentq", xtol=1e-15, rtol=1e-14).root


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


def log_volume(matrix: NDArray) -> np.longdouble:
    """ln det of a positive definite matrix, by elimination in the matrix's own precision."""
    left = np.array(matrix)
    total = np.longdouble(0.0)
    for k in range(len(left)):
        total += np.log(left[k, k])
        left[k + 1 :, k + 1 :] -= np.multiply.outer(left[k + 1 :, k], left[k, k + 1 :]) / left[k, k]
    return total


def solved(matrix: NDArray, right: NDArray) -> NDArray:
    """X of `matrix` X = `right`, ``(n, n)`` and ``(n, k)``, by elimination with row exchange in extended precision."""
    n = len(matrix)
    both = np.hstack([matrix, right]).astype(np.longdouble)
    for k in range(n):
        pivot = k + int(np.argmax(np.abs(both[k:, k])))
        both[[k, pivot]] = both[[pivot, k]]
        both[k] /= both[k, k]
        others = np.arange(n) != k
        both[others] -= np.multiply.outer(both[others, k], both[k])
    return both[:, n:]


def divergence(covariance: NDArray, prior: NDArray, shift: NDArray | None = None) -> np.longdouble:
    """KL(N(shift, covariance) ‖ N(0, prior)) from its definition, ½ [tr P⁻¹Σ − m + ln det P − ln det Σ + sᵀP⁻¹s]."""
    posterior, wide = (np.asarray(one, dtype=np.longdouble) for one in (covariance, prior))
    total = np.trace(solved(wide, posterior)) - len(posterior) + log_volume(wide) - log_volume(posterior)
    if shift is not None:
        place = np.asarray(shift, dtype=np.longdouble)
        total += place @ solved(wide, place[:, None])[:, 0]
    return 0.5 * total


def continuous_law(curvature: NDArray, noise: NDArray) -> NDArray:
    """S of A S + S A = Q, all m² entries at once."""
    eye = np.eye(len(curvature), dtype=np.longdouble)
    whole = np.kron(curvature, eye) + np.kron(eye, curvature)
    return solved(whole, noise.reshape(-1, 1)).reshape(noise.shape)


def principal_root(matrix: NDArray) -> NDArray:
    """The square root whose spectrum is positive, by Newton's iteration in the form of Denman and Beavers (1976)."""
    root, inverse = matrix.astype(np.longdouble), np.eye(len(matrix), dtype=np.longdouble)
    for _ in range(60):
        eye = np.eye(len(matrix), dtype=np.longdouble)
        following = 0.5 * (root + solved(inverse, eye)), 0.5 * (inverse + solved(root, eye))
        moved = np.abs(following[0] - root).max()
        root, inverse = following
        if moved <= 1e-18 * np.abs(root).max():
            return root
    return root


def wasserstein(covariance: NDArray, other: NDArray) -> np.longdouble:
    """W₂ of two centred normal laws from tr Σ + tr S − 2 tr (ΣS)^{1/2}."""
    first, second = (np.asarray(one, dtype=np.longdouble) for one in (covariance, other))
    return np.sqrt(np.trace(first) + np.trace(second) - 2 * np.trace(principal_root(first @ second)))


def commutation_measures(hessian: NDArray[Any], noise: NDArray[Any]) -> dict[str, float]:
    """Every measure from the matrices as its definition reads."""
    norm = np.linalg.norm
    values, basis = np.linalg.eigh(hessian)
    commutator, product = hessian @ noise - noise @ hessian, hessian @ noise
    inside = basis.T @ noise @ basis
    gamma = np.diag(inside)
    order = np.sort(values)[::-1]
    top = 1 + int(np.argmax(order[:-1] / order[1:]))
    ours, theirs = basis[:, -top:], np.linalg.eigh(noise)[1][:, -top:]
    return {
        "chi": float(np.trace(product @ product) / np.trace(product @ product.T)),
        "omega": float(norm(product) / (norm(hessian) * norm(noise))),
        "normalized_commutator": float(norm(commutator) / (2 * norm(hessian) * norm(noise))),
        "commutator_ratio": float(norm(commutator) / (2 * norm(product))),
        "frobenius_cosine": float(np.trace(product) / (norm(hessian) * norm(noise))),
        "mean_direction_cosine": float(np.mean(gamma / norm(noise @ basis, axis=0))),
        "subspace_overlap": float(norm(ours.T @ theirs) ** 2 / top),
        "off_diagonal_mass": float(1 - np.sum(gamma**2) / norm(noise) ** 2),
        "log_log_slope": float(np.polyfit(np.log(values), np.log(gamma), 1)[0]),
    }


def enumerated_sharpness(
    gradients: NDArray[Any], curvatures: NDArray[Any], batch_size: int
) -> dict[str, tuple[float, float, float]]:
    """Batch sharpness over every batch that can be drawn: the ratio, its numerator and its denominator."""
    answers = {}
    for name, batches in (
        ("without replacement", itertools.combinations(range(len(gradients)), batch_size)),
        ("with replacement", itertools.product(range(len(gradients)), repeat=batch_size)),
    ):
        curved, square, drawn = np.longdouble(0), np.longdouble(0), 0
        for batch in batches:
            chosen = list(batch)
            g = gradients[chosen].astype(np.longdouble).mean(axis=0)
            H = curvatures[chosen].astype(np.longdouble).mean(axis=0)
            curved, square, drawn = curved + g @ H @ g, square + g @ g, drawn + 1
        answers[name] = (curved / square, curved / drawn, square / drawn)
    return answers
