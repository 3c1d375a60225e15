r"""Real updates of Adam, AdamW and RMSprop on a noisy quadratic, many replicas at once; knows no stationary law.

The recursions are those of `torch.optim`, in its order of operations, with the moving averages starting at 0. A frozen
preconditioner replaces 1/(√ŝ+ε) by given numbers; everything else is unchanged, bias correction included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.model.adaptive import Adam, RMSprop
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting

Progress = Callable[[float], None]

#: Replicas advanced together from one stream.
BLOCK = 1024


@keyword_setting
class AdaptiveRun(Setting):
    """What is simulated.

    Args:
        problem: H, C and w*, where runs start; the noise is Gaussian.
        optimizer: Adam or RMSprop.
        replicas: R ≥ 2.
        burn_in: steps before the first record.
        records: records a replica.
        stride: steps between records.
        preconditioner: frozen 1/(√s+ε), shape ``(m,)``; None lets the optimizer adapt.
        learning_rates: η_t for t = 1, 2, …, shape ``(≥ steps,)``; None keeps the optimizer's.
        record_times: steps after which to record instead of `burn_in`, `records` and `stride`; then each is recorded
            apart.

    Raises:
        ValueError: if a count is out of range or a shape is wrong.
    """

    problem: Quadratic
    optimizer: Adam | RMSprop
    replicas: int
    burn_in: int = 0
    records: int = 1
    stride: int = 1
    preconditioner: NDArray[np.float64] | None = None
    learning_rates: NDArray[np.float64] | None = None
    record_times: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("replicas", 2), ("burn_in", 0), ("records", 1), ("stride", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < least:
                raise ValueError(f"`AdaptiveRun({name}=...)` must be an integer >= {least}; got {value!r}.")
        frozen = self.preconditioner
        if frozen is not None and np.shape(frozen) != (self.problem.dimension,):
            raise ValueError(
                f"`AdaptiveRun(preconditioner=...)` must have shape {(self.problem.dimension,)}; "
                f"got {np.shape(frozen)}."
            )
        object.__setattr__(self, "record_times", tuple(int(time) for time in self.record_times))
        if any(time < 1 for time in self.record_times):
            raise ValueError(f"`AdaptiveRun(record_times=...)` must be >= 1; got {self.record_times}.")
        if self.learning_rates is not None and np.shape(self.learning_rates)[0] < self.steps:
            raise ValueError(
                f"`AdaptiveRun(learning_rates=...)` must cover {self.steps} steps; got {len(self.learning_rates)}."
            )

    @property
    def steps(self) -> int:
        """Steps of a replica."""
        return max(self.record_times) if self.record_times else self.burn_in + (self.records - 1) * self.stride + 1


@dataclass(frozen=True, kw_only=True)
class AdaptiveMoments:
    """Moments of w − w*, a replica at a time.

    Args:
        mean: average over the records, shape ``(K, R, m)``, K = 1 or the number of record times.
        square: average of squares, shape ``(K, R, m)``.
        second: average of the outer product over records and replicas, shape ``(K, m, m)``.
        second_moment: average over records and replicas of the bias-corrected s, shape ``(m,)``.
    """

    mean: NDArray[np.float64]
    square: NDArray[np.float64]
    second: NDArray[np.float64]
    second_moment: NDArray[np.float64]


def simulate_adaptive(run: AdaptiveRun, *, seed: int, progress: Progress | None = None) -> AdaptiveMoments:
    """Run every replica; each block of `BLOCK` replicas draws from its own spawned stream."""
    sizes = [min(BLOCK, run.replicas - first) for first in range(0, run.replicas, BLOCK)]
    streams = np.random.SeedSequence(seed).spawn(len(sizes))
    means, squares, second, average = [], [], 0.0, 0.0
    for block, (size, stream) in enumerate(zip(sizes, streams, strict=True)):
        mean, square, outer, adapted = _run_block(run, size, np.random.Generator(np.random.SFC64(stream)))
        means.append(mean)
        squares.append(square)
        second = second + outer * (size / run.replicas)
        average = average + adapted * (size / run.replicas)
        if progress is not None:
            progress((block + 1) / len(sizes))
    return AdaptiveMoments(
        mean=np.concatenate(means, axis=1),
        square=np.concatenate(squares, axis=1),
        second=np.asarray(second),
        second_moment=np.asarray(average),
    )


def _run_block(
    run: AdaptiveRun, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    problem, count = run.problem, run.problem.dimension
    hessian, noise = problem.hessian, problem.noise_cov
    root = np.sqrt(noise) if noise.ndim == 1 else _root(noise)
    optimum = problem.optimum
    slots = {time: index for index, time in enumerate(run.record_times)}
    shape = (max(1, len(slots)), size, count)
    mean, square, second = np.zeros(shape), np.zeros(shape), np.zeros((shape[0], count, count))
    adapted, recorded = np.zeros(count), 0
    step = _Adam(run, (size, count)) if isinstance(run.optimizer, Adam) else _RMSprop(run, (size, count))
    weights = np.tile(optimum, (size, 1))
    draw = np.empty((size, count))
    for done in range(1, run.steps + 1):
        rng.standard_normal(out=draw)
        deviation = weights - optimum
        gradient = hessian * deviation if hessian.ndim == 1 else deviation @ hessian
        gradient += draw * root if noise.ndim == 1 else draw @ root.T
        rate = run.optimizer.learning_rate if run.learning_rates is None else float(run.learning_rates[done - 1])
        weights, scale = step(weights, gradient, rate, done)
        if slots:
            if done not in slots:
                continue
            slot = slots[done]
        elif done <= run.burn_in or (done - run.burn_in - 1) % run.stride:
            continue
        else:
            slot = 0
        deviation = weights - optimum
        mean[slot] += deviation
        square[slot] += deviation * deviation
        second[slot] += deviation.T @ deviation / size
        adapted += scale.mean(axis=0) if scale.ndim == 2 else scale
        recorded += 1
    each = 1 if slots else recorded
    return mean / each, square / each, second / each, adapted / recorded


class _Adam:
    """torch.optim.Adam and AdamW."""

    def __init__(self, run: AdaptiveRun, shape: tuple[int, int]) -> None:
        assert isinstance(run.optimizer, Adam)
        self.setting, self.frozen = run.optimizer, run.preconditioner
        self.first, self.second = np.zeros(shape), np.zeros(shape)

    def __call__(
        self, weights: NDArray[np.float64], gradient: NDArray[np.float64], rate: float, done: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        adam = self.setting
        if adam.decoupled_weight_decay:
            weights = weights * (1.0 - rate * adam.weight_decay)
        elif adam.weight_decay:
            gradient = gradient + adam.weight_decay * weights
        self.first += (1.0 - adam.beta1) * (gradient - self.first)
        corrected = self.first / (1.0 - adam.beta1**done)
        if self.frozen is not None:
            return weights - rate * self.frozen * corrected, self.frozen
        self.second += (1.0 - adam.beta2) * (gradient * gradient - self.second)
        second = self.second / (1.0 - adam.beta2**done)
        return weights - rate * corrected / (np.sqrt(second) + adam.epsilon), second


class _RMSprop:
    """torch.optim.RMSprop, uncentred."""

    def __init__(self, run: AdaptiveRun, shape: tuple[int, int]) -> None:
        assert isinstance(run.optimizer, RMSprop)
        self.setting, self.frozen = run.optimizer, run.preconditioner
        self.second, self.buffer = np.zeros(shape), np.zeros(shape)

    def __call__(
        self, weights: NDArray[np.float64], gradient: NDArray[np.float64], rate: float, done: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rms = self.setting
        if rms.weight_decay:
            gradient = gradient + rms.weight_decay * weights
        if self.frozen is not None:
            seen, direction = self.frozen, self.frozen * gradient
        else:
            self.second += (1.0 - rms.smoothing) * (gradient * gradient - self.second)
            seen, direction = self.second, gradient / (np.sqrt(self.second) + rms.epsilon)
        if rms.momentum:
            self.buffer = rms.momentum * self.buffer + direction
            direction = self.buffer
        return weights - rate * direction, seen


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A square root of a covariance that may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
