"""Averages of simulated iterates: momentum SGD on a noisy quadratic, averaged as it goes; knows no covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.sampling import Progress
from theory.oracle.update import momentum_update

#: Replicas advanced together from one stream.
BLOCK = 4096


@keyword_setting
class AveragingRun(Setting):
    """What is averaged: the iterates w_1 … w_T of runs that start at the optimum with an empty buffer.

    Args:
        problem: H and C; the noise is Gaussian.
        optimizer: momentum SGD.
        steps: T ≥ 1.
        decays: β of the exponential averages, e_0 = w_0.
        replicas: R ≥ 2.

    Raises:
        ValueError: if a value is out of range.
    """

    problem: Quadratic
    optimizer: MomentumSGD
    steps: int
    decays: tuple[float, ...]
    replicas: int

    def __post_init__(self) -> None:
        if int(self.steps) != self.steps or self.steps < 1:
            raise ValueError(f"`AveragingRun(steps=...)` must be an integer >= 1; got {self.steps!r}.")
        if int(self.replicas) != self.replicas or self.replicas < 2:
            raise ValueError(f"`AveragingRun(replicas=...)` must be an integer >= 2; got {self.replicas!r}.")
        if any(not 0 <= beta < 1 for beta in self.decays):
            raise ValueError(f"`AveragingRun(decays=...)` must be in [0, 1); got {self.decays}.")


@dataclass(frozen=True, kw_only=True)
class Averages:
    """Second moments after T steps, over the replicas.

    Args:
        mean: E w̄ w̄ᵀ of the mean of w_1 … w_T, shape ``(m, m)``.
        exponential: E e eᵀ for every β, shape ``(len(decays), m, m)``.
    """

    mean: NDArray[np.float64]
    exponential: NDArray[np.float64]


def simulate_averages(run: AveragingRun, *, seed: int, progress: Progress | None = None) -> Averages:
    """Run all replicas; each block of `BLOCK` draws from its own spawned stream."""
    count = run.problem.dimension
    sizes = [min(BLOCK, run.replicas - first) for first in range(0, run.replicas, BLOCK)]
    total, exponential = np.zeros((count, count)), np.zeros((len(run.decays), count, count))
    hessian, noise = run.problem.hessian, run.problem.noise_cov
    root = np.sqrt(noise) if noise.ndim == 1 else np.linalg.cholesky(noise)
    for block, (size, stream) in enumerate(zip(sizes, np.random.SeedSequence(seed).spawn(len(sizes)), strict=True)):
        rng = np.random.Generator(np.random.SFC64(stream))
        weights, buffer, summed = np.zeros((size, count)), np.zeros((size, count)), np.zeros((size, count))
        smooth = np.zeros((len(run.decays), size, count))
        for _ in range(run.steps):
            draw = rng.standard_normal((size, count))
            gradient = hessian * weights if hessian.ndim == 1 else weights @ hessian
            gradient += root * draw if noise.ndim == 1 else draw @ root.T
            weights, buffer = momentum_update(run.optimizer, weights, buffer, gradient)
            summed += weights
            for index, beta in enumerate(run.decays):
                smooth[index] += (1.0 - beta) * (weights - smooth[index])
        summed /= run.steps
        total += summed.T @ summed
        exponential += np.einsum("kra,krb->kab", smooth, smooth, optimize=True)
        if progress is not None:
            progress((block + 1) / len(sizes))
    return Averages(mean=total / run.replicas, exponential=exponential / run.replicas)
