r"""Exact second moments of mini-batch momentum SGD by brute force: no eigenbasis, no formula, small problems.

Model     One step is an affine random map of the state (w, v). Its second moments obey a linear recursion, which is
          written down entry by entry (Gaussian inputs, by Isserlis' theorem) or by going through every batch that can
          be drawn (given rows), or every order of an epoch, and solved as one dense linear system.
Limits    (2m+1)² unknowns, and as many terms as there are batches: m ≤ 4, N ≤ 7 or so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.regression import GaussianRegression, RidgeRegression, Sampling
from theory.oracle.update import momentum_update


@dataclass(frozen=True, kw_only=True)
class SecondMoment:
    """Stationary moments, or None where there are none.

    Args:
        mean: E w, shape ``(m,)``.
        covariance: Cov w, shape ``(m, m)``.
        growth: spectral radius of the recursion of second moments; stationary iff below 1.
    """

    mean: NDArray[np.float64] | None
    covariance: NDArray[np.float64] | None
    growth: float


def gaussian_second_moment(problem: GaussianRegression, optimizer: MomentumSGD) -> SecondMoment:
    """Stationary moments for Gaussian inputs, from the recursion of E z zᵀ, z = (w − w°, v); means are about w°."""
    cov, size, count = problem.dense_input_cov(), problem.batch_size, problem.dimension
    zero = np.zeros((count, count))
    # Columns: what a unit of w, of v, of gradient does.
    w_part = momentum_update(optimizer, np.eye(count), zero, cov)
    v_part = momentum_update(optimizer, zero, np.eye(count), zero)
    g_part = momentum_update(optimizer, zero, zero, np.eye(count))
    move = np.concatenate([np.hstack([w.T, v.T]) for w, v in zip(w_part, v_part, strict=True)])
    push = np.concatenate([part.T for part in g_part])

    # About the truth w°, weight decay is a steady push κ w° in the gradient.
    truth = np.zeros(count) if problem.truth is None else problem.truth
    steady = push @ (optimizer.weight_decay * truth)
    mean = np.linalg.solve(np.eye(2 * count) - move, steady).astype(np.float64)
    carried = np.outer(move @ mean, steady)
    driven = carried + carried.T + np.outer(steady, steady)

    def step(moment: NDArray[np.float64], label_noise: float) -> NDArray[np.float64]:
        weights = moment[:count, :count]
        # E (x xᵀ δ − A δ)(…)ᵀ = A Σ A + tr(A Σ) A for x ~ N(0, A), one sample.
        one_sample = cov @ weights @ cov + (np.trace(cov @ weights) + label_noise) * cov
        return move @ moment @ move.T + push @ one_sample @ push.T / size

    return _solved(step, mean, driven, problem.label_noise_variance)


def _solved(
    step: Callable[[NDArray[np.float64], float], NDArray[np.float64]],
    mean: NDArray[np.float64],
    driven: NDArray[np.float64],
    label_noise: float,
) -> SecondMoment:
    states, count = len(mean), len(mean) // 2
    matrix = np.empty((states * states, states * states))
    for column in range(states * states):
        unit = np.zeros(states * states)
        unit[column] = 1.0
        matrix[:, column] = step(unit.reshape(states, states), 0.0).ravel()
    growth = float(np.max(np.abs(np.linalg.eigvals(matrix))))
    if not growth < 1.0:
        return SecondMoment(mean=None, covariance=None, growth=growth)
    constant = step(np.zeros((states, states)), label_noise) + driven
    moment = _solved_exactly(matrix, constant.ravel()).reshape(states, states) - np.outer(mean, mean)
    return SecondMoment(mean=mean[:count], covariance=moment[:count, :count], growth=growth)


def enumerated_second_moment(problem: RidgeRegression, optimizer: MomentumSGD, steps_done: int = 0) -> SecondMoment:
    """Stationary moments on given rows, through every batch, or through every order of an epoch.

    Args:
        problem: few rows: with replacement N^S terms, without C(N, S), shuffled N!/(S!^M (N−MS)!).
        optimizer: without weight decay.
        steps_done: shuffled epochs: how many steps into the epoch, 0 … M.
    """
    if optimizer.weight_decay:
        raise ValueError(f"`enumerated_second_moment(optimizer=...)` must have weight_decay 0; got {optimizer}.")
    count = problem.dimension
    full = 2 * count + 1
    if problem.sampling is Sampling.SHUFFLED_EPOCHS:
        epochs = list(_epochs(problem))
        seen = {batch for order in epochs for batch in order}
        step_of = {batch: _affine(problem, optimizer, batch) for batch in seen}
        whole, partial = np.zeros((full**2, full**2)), np.zeros((full**2, full**2))
        for order in epochs:
            maps = [step_of[batch] for batch in order]
            product = np.eye(full)
            for index, one in enumerate(maps):
                if index == steps_done:
                    partial += np.kron(product, product)
                product = one @ product
            whole += np.kron(product, product)
            if steps_done == len(maps):
                partial += np.kron(product, product)
        matrix, partial = whole / len(epochs), partial / len(epochs)
    else:
        maps = np.array([_affine(problem, optimizer, batch) for batch in _batches(problem)], dtype=np.longdouble)
        matrix = np.einsum("bij,bkl->ikjl", maps, maps).reshape(full**2, full**2) / len(maps)
        partial = np.eye(full**2)
    # The last coordinate is the constant 1: its own square is the eigenvalue 1, all others must lie inside the circle.
    inner = np.arange(full**2 - 1)
    growth = float(np.max(np.abs(np.linalg.eigvals(matrix[np.ix_(inner, inner)].astype(np.float64)))))
    if not growth < 1.0:
        return SecondMoment(mean=None, covariance=None, growth=growth)
    solution = _solved_exactly(matrix[np.ix_(inner, inner)], matrix[inner, -1])
    moment = (partial @ np.append(solution, 1.0)).reshape(full, full)
    mean = moment[:count, -1]
    return SecondMoment(mean=mean, covariance=moment[:count, :count] - np.outer(mean, mean), growth=growth)


def _solved_exactly(matrix: NDArray[np.floating], constant: NDArray[np.floating]) -> NDArray[np.float64]:
    """Solution of x = M x + c, refined with residuals in extended precision: the answer is then as good as M itself."""
    system = np.eye(len(matrix)) - matrix.astype(np.float64)
    wide, target = matrix.astype(np.longdouble), constant.astype(np.longdouble)
    solution = np.linalg.solve(system, constant.astype(np.float64)).astype(np.longdouble)
    for _ in range(3):
        residual = target - (solution - wide @ solution)
        solution += np.linalg.solve(system, residual.astype(np.float64))
    return solution.astype(np.float64)


def _batches(problem: RidgeRegression) -> Iterator[tuple[int, ...]]:
    rows = range(problem.num_rows)
    if problem.sampling is Sampling.WITH_REPLACEMENT:
        return itertools.product(rows, repeat=problem.batch_size)
    return itertools.combinations(rows, problem.batch_size)


def _epochs(problem: RidgeRegression) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every sequence of disjoint batches; all are equally likely."""
    rows, size = frozenset(range(problem.num_rows)), problem.batch_size

    def extend(left: frozenset[int], done: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        if done == problem.batches_per_epoch:
            yield ()
            return
        for batch in itertools.combinations(sorted(left), size):
            for rest in extend(left - set(batch), done + 1):
                yield (batch, *rest)

    expected = math.factorial(problem.num_rows) // (
        math.factorial(size) ** problem.batches_per_epoch
        * math.factorial(problem.num_rows - size * problem.batches_per_epoch)
    )
    if expected > 20_000:
        raise ValueError(f"`enumerated_second_moment(problem=...)` must have at most 20000 orders; got {expected}.")
    return extend(rows, 0)


def _affine(problem: RidgeRegression, optimizer: MomentumSGD, batch: tuple[int, ...]) -> NDArray[np.float64]:
    """The step with this batch as a matrix on (w, v, 1)."""
    inputs, targets = problem.inputs[list(batch)], problem.targets[list(batch)]
    count = problem.dimension
    units = np.eye(2 * count + 1)
    weights, buffer, one = units[:, :count], units[:, count:-1], units[:, -1:]
    gradient = (weights @ inputs.T - one * targets) @ inputs / len(batch) + problem.ridge * weights
    weights, buffer = momentum_update(optimizer, weights, buffer, gradient)
    return np.hstack([weights, buffer, one]).T
