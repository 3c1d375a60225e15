r"""Real mini-batch sampling: momentum SGD whose gradient noise comes from drawing rows, and from nothing else.

Gaussian inputs are drawn afresh, S rows a step; given rows are drawn with replacement, without, or from a permutation
that lasts an epoch. Every gradient is formed from the rows of its batch. What is recorded are the moments of the
deviation from a reference point along given directions, replica by replica, so that the judge has independent
replicates whose spread needs no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.regression import FiniteSum, GaussianRegression, RidgeRegression, Sampling
from theory.model.setting import Setting, keyword_setting
from theory.oracle.update import momentum_update

try:  # optional: same answer to rounding, without copying every batch
    from theory.oracle.compiled_rows import least_squares_gradient
except ImportError:
    least_squares_gradient = None

Progress = Callable[[float], None]

#: Replicas advanced together, each block from its own stream. Tuned: a block's rows stay within the level-2 cache.
BLOCK = 256


@keyword_setting
class SamplingRun(Setting):
    """What is simulated and what is recorded.

    Args:
        problem: where the gradients come from.
        optimizer: momentum SGD; for `RidgeRegression` and `FiniteSum` its weight decay is added to theirs.
        replicas: R ≥ 2 independent runs.
        burn_in: steps before the first record; under shuffled epochs, epochs.
        records: times recorded a replica, ≥ 1.
        stride: steps between records; under shuffled epochs every epoch is recorded, and stride must be 1.
        phases: under shuffled epochs, the steps into the epoch to record, each in 1 … M; else ().
        start: initial weights and reference point, shape ``(m,)``; None is the origin.
        directions: orthonormal columns along which deviations are recorded, shape ``(m, q)``; None is the axes.

    Raises:
        ValueError: if a count or a phase is out of range, or a shape is wrong.
    """

    problem: GaussianRegression | RidgeRegression | FiniteSum
    optimizer: MomentumSGD
    replicas: int
    burn_in: int
    records: int
    stride: int = 1
    phases: tuple[int, ...] = ()
    start: NDArray[np.float64] | None = None
    directions: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name, least in (("replicas", 2), ("burn_in", 0), ("records", 1), ("stride", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < least:
                raise ValueError(f"`SamplingRun({name}=...)` must be an integer >= {least}; got {value!r}.")
        count = self.problem.dimension
        if self.start is not None and np.shape(self.start) != (count,):
            raise ValueError(f"`SamplingRun(start=...)` must have shape {(count,)}; got {np.shape(self.start)}.")
        if self.directions is not None and (np.ndim(self.directions) != 2 or len(self.directions) != count):
            raise ValueError(
                f"`SamplingRun(directions=...)` must have shape ({count}, q); got {np.shape(self.directions)}."
            )
        object.__setattr__(self, "phases", tuple(int(phase) for phase in self.phases))
        if self.shuffled:
            last = self.problem.batches_per_epoch  # pyright: ignore[reportAttributeAccessIssue]
            if not self.phases or any(not 1 <= phase <= last for phase in self.phases):
                raise ValueError(f"`SamplingRun(phases=...)` must name steps in 1 … {last}; got {self.phases}.")
            if self.stride != 1:
                raise ValueError(f"`SamplingRun(stride=...)` must be 1 under shuffled epochs; got {self.stride}.")
        elif self.phases:
            raise ValueError(f"`SamplingRun(phases=...)` is for shuffled epochs alone; got {self.phases}.")

    @property
    def shuffled(self) -> bool:
        """Whether batches come from permutations."""
        return getattr(self.problem, "sampling", None) is Sampling.SHUFFLED_EPOCHS


@dataclass(frozen=True, kw_only=True)
class SampledMoments:
    """Moments of x, the deviation from the reference along a direction, averaged over the records of a replica.

    Args:
        phases: steps into the epoch, or () if there are no epochs; P = max(1, their number).
        mean: average of x, shape ``(P, R, q)``.
        square: average of x², shape ``(P, R, q)``.
        fourth: average of x⁴, shape ``(P, R, q)``.
        second: average of x xᵀ over records and replicas, shape ``(P, q, q)``.
    """

    phases: tuple[int, ...]
    mean: NDArray[np.float64]
    square: NDArray[np.float64]
    fourth: NDArray[np.float64]
    second: NDArray[np.float64]


def simulate_sampling(
    run: SamplingRun, *, seed: int, threads: int = 2, progress: Progress | None = None
) -> SampledMoments:
    """Run every replica and return its moments.

    Args:
        run: what to do.
        seed: root seed; each block of `BLOCK` replicas draws from its own spawned stream, so that the answer does not
            depend on the number of threads.
        threads: blocks advanced at the same time.
        progress: called with the share done.
    """
    sizes = [min(BLOCK, run.replicas - first) for first in range(0, run.replicas, BLOCK)]
    streams = np.random.SeedSequence(seed).spawn(len(sizes))

    def work(size: int, stream: np.random.SeedSequence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _run_block(run, size, np.random.Generator(np.random.SFC64(stream)))

    parts, seconds = [], []
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for block, (part, second) in enumerate(pool.map(work, sizes, streams)):
            parts.append(part)
            seconds.append(second * sizes[block])
            if progress is not None:
                progress((block + 1) / len(sizes))
    mean, square, fourth = (np.concatenate([part[index] for part in parts], axis=1) for index in range(3))
    return SampledMoments(
        phases=run.phases,
        mean=mean,
        square=square,
        fourth=fourth,
        second=np.asarray(sum(seconds)) / run.replicas,
    )


def _run_block(
    run: SamplingRun, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count = run.problem.dimension
    start = np.zeros(count) if run.start is None else np.asarray(run.start, dtype=np.float64)
    weights = np.tile(start, (size, 1))
    buffer = np.zeros_like(weights)
    width = count if run.directions is None else np.shape(run.directions)[1]
    phases = {phase: index for index, phase in enumerate(run.phases)} or {0: 0}
    totals = np.zeros((3, len(phases), size, width))
    second = np.zeros((len(phases), width, width))

    def record(index: int) -> None:
        deviation = weights - start
        if run.directions is not None:
            deviation = deviation @ run.directions
        square = deviation * deviation
        totals[0, index] += deviation
        totals[1, index] += square
        totals[2, index] += square * square
        second[index] += deviation.T @ deviation

    for done, (phase, gradient) in enumerate(_gradients(run, size, rng), start=1):
        weights, buffer = momentum_update(run.optimizer, weights, buffer, gradient(weights))
        if run.shuffled:
            epoch = (done - 1) // run.problem.batches_per_epoch  # pyright: ignore[reportAttributeAccessIssue]
            if epoch >= run.burn_in and phase in phases:
                record(phases[phase])
        elif done > run.burn_in and (done - run.burn_in - 1) % run.stride == 0:
            record(0)
    return totals / run.records, second / (run.records * size)


Gradient = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _gradients(run: SamplingRun, size: int, rng: np.random.Generator) -> Iterator[tuple[int, Gradient]]:
    """The steps of one block: (steps into the epoch, gradient of the batch as a function of the weights)."""
    problem, batch = run.problem, run.problem.batch_size
    steps = run.burn_in + (run.records - 1) * run.stride + 1
    if isinstance(problem, GaussianRegression):
        root = np.linalg.cholesky(problem.dense_input_cov())
        noise = np.sqrt(problem.label_noise_variance)
        truth = np.zeros(problem.dimension) if problem.truth is None else problem.truth
        for _ in range(steps):
            rows = rng.standard_normal((size, batch, problem.dimension)) @ root.T
            labels = rows @ truth + noise * rng.standard_normal((size, batch))
            yield 0, _least_squares(rows, labels, 0.0)
    elif run.shuffled:
        order = np.tile(np.arange(problem.num_rows), (size, 1))
        for _ in range(run.burn_in + run.records):
            order = rng.permuted(order, axis=1)
            for step in range(problem.batches_per_epoch):
                rows = order[:, step * batch : (step + 1) * batch]
                yield step + 1, _of_rows(problem, rng, np.ascontiguousarray(rows))
    elif problem.sampling is Sampling.WITH_REPLACEMENT:
        for _ in range(steps):
            yield 0, _of_rows(problem, rng, rng.integers(0, problem.num_rows, size=(size, batch)))
    else:
        for _ in range(steps):
            yield 0, _of_rows(problem, rng, _distinct(problem.num_rows, size, batch, rng))


def _distinct(num_rows: int, size: int, batch: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """`size` independent draws of `batch` different rows each."""
    if batch * batch > 4 * num_rows:  # most draws would hold a repeat
        return rng.permuted(np.tile(np.arange(num_rows), (size, 1)), axis=1)[:, :batch].copy()
    rows = rng.integers(0, num_rows, size=(size, batch))
    while True:  # a draw with a repeat is thrown away whole, which leaves the others uniform over the subsets
        ordered = np.sort(rows, axis=1)
        repeats = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(repeats):
            return rows
        rows[repeats] = rng.integers(0, num_rows, size=(len(repeats), batch))


def _of_rows(problem: RidgeRegression | FiniteSum, rng: np.random.Generator, rows: NDArray[np.intp]) -> Gradient:
    if isinstance(problem, FiniteSum):
        offset = problem.offsets[rows].mean(axis=1)
        if problem.fresh_variances is not None:
            offset += np.sqrt(problem.fresh_variances) * rng.standard_normal(offset.shape)
        return lambda weights: problem.curvatures * weights + offset
    compiled = least_squares_gradient
    if compiled is not None:
        return lambda weights: compiled(problem.inputs, problem.targets, rows, weights, problem.ridge)
    return _least_squares(problem.inputs.take(rows, axis=0), problem.targets[rows], problem.ridge)


def _least_squares(rows: NDArray[np.float64], labels: NDArray[np.float64], ridge: float) -> Gradient:
    """Gradient of (1/2S) Σ (x_sᵀ w − y_s)² + ½ κ |w|², one batch a replica: rows (R, S, m), labels (R, S)."""

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        residuals = np.matmul(rows, weights[:, :, None])[:, :, 0] - labels
        value = np.matmul(residuals[:, None, :], rows)[:, 0] / rows.shape[1]
        return value + ridge * weights if ridge else value

    return gradient
