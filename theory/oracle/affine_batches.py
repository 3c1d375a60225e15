r"""Momentum SGD with affine batch gradients, g_B(δ) = s_B + A_B δ: real batches drawn, or every order gone through.

Nothing is derived here. A batch is a list of samples, its gradient the mean of theirs, the step `momentum_update`.
Drawn: replicas side by side, each with its own batches. Enumerated: the exact second moments, by carrying E x xᵀ,
x = (1, δ, v), through every batch that can be drawn or every order of an epoch; for a few samples only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.regression import Sampling
from theory.model.setting import Setting, keyword_setting
from theory.oracle.update import momentum_update

Array = NDArray[np.float64]

#: Orders of an epoch, or batches, that enumeration may go through.
MAX_ORDERS = 10_000
#: Replicas advanced together.
_BLOCK = 512


@keyword_setting
class AffineBatches(Setting):
    """Samples with slopes and curvatures, and how their batches follow each other.

    Args:
        slopes: s_n, shape ``(N, k)``.
        curvatures: A_n, shape ``(N, k, k)``; or x_n of A_n = x_n x_nᵀ, shape ``(N, k)``.
        optimizer: momentum SGD; its own learning rate is not used.
        learning_rates: one a step, shape ``(T,)``.
        batch_sizes: of an epoch's batches in order, repeated; under shuffled epochs at most N in all.
        sampling: how batches are drawn.
        start_position: batches of the first epoch already done.
        start: δ at step 0, shape ``(k,)``; the buffer is 0. None is 0.

    Raises:
        ValueError: if shapes disagree or a size is out of range.
    """

    slopes: Array
    curvatures: Array
    optimizer: MomentumSGD
    learning_rates: Array
    batch_sizes: tuple[int, ...]
    sampling: Sampling = Sampling.SHUFFLED_EPOCHS
    start_position: int = 0
    start: Array | None = None

    def __post_init__(self) -> None:
        slopes, curvatures = np.asarray(self.slopes, float), np.asarray(self.curvatures, float)
        if slopes.ndim != 2 or curvatures.shape not in (slopes.shape, (*slopes.shape, slopes.shape[1])):
            raise ValueError(f"`AffineBatches` needs (N, k) and (N, k[, k]); got {slopes.shape}, {curvatures.shape}.")
        sizes = tuple(int(size) for size in self.batch_sizes)
        sampling = Sampling(self.sampling)
        most = sum(sizes) if sampling is Sampling.SHUFFLED_EPOCHS else max(sizes)
        if min(sizes) < 1 or most > len(slopes):
            raise ValueError(f"`AffineBatches(batch_sizes=...)` must fit {len(slopes)} samples; got {sizes}.")
        for name, value in (
            ("slopes", slopes),
            ("curvatures", curvatures),
            ("learning_rates", np.asarray(self.learning_rates, float)),
            ("batch_sizes", sizes),
            ("sampling", sampling),
        ):
            object.__setattr__(self, name, value)

    @property
    def steps(self) -> int:
        """T."""
        return len(self.learning_rates)

    def first_weights(self) -> Array:
        """δ at step 0, ``(k,)``."""
        return np.zeros(self.slopes.shape[1]) if self.start is None else np.asarray(self.start, float)


def sampled_weights(run: AffineBatches, *, replicas: int, record: Sequence[int], seed: int) -> Array:
    """δ of every replica at the recorded steps, shape ``(len(record), replicas, k)``."""
    count, k = run.slopes.shape
    flat = run.curvatures.reshape(count, -1)
    rng = np.random.default_rng(seed)
    wanted = {step: place for place, step in enumerate(record)}
    out = np.empty((len(record), replicas, k))
    for first in range(0, replicas, _BLOCK):
        size = min(_BLOCK, replicas - first)
        weights = np.tile(run.first_weights(), (size, 1))
        buffer = np.zeros_like(weights)
        for step, rows in enumerate(itertools.islice(_drawn(run, size, rng), run.steps)):
            if run.curvatures.ndim == 2:
                inputs = flat[rows]
                pull = np.matmul(inputs, weights[:, :, None])
                gradient = np.matmul(pull.transpose(0, 2, 1), inputs)[:, 0] / rows.shape[1]
                gradient += run.slopes[rows].mean(axis=1)
            else:
                share = np.zeros((size, count))
                np.add.at(share, (np.arange(size)[:, None], rows), 1.0 / rows.shape[1])
                curvature = (share @ flat).reshape(size, k, k)
                gradient = share @ run.slopes + np.matmul(curvature, weights[:, :, None])[:, :, 0]
            weights, buffer = momentum_update(_at(run, step), weights, buffer, gradient)
            if step + 1 in wanted:
                out[wanted[step + 1], first : first + size] = weights
    return out


@dataclass(frozen=True, kw_only=True)
class ExactMoments:
    """E δ ``(T, k)`` and Cov δ ``(T, k, k)`` after every step."""

    mean: Array
    covariance: Array


def enumerated_moments(run: AffineBatches) -> ExactMoments:
    """Exact moments after every step.

    Raises:
        ValueError: if there are more than `MAX_ORDERS` orders, or samples drawn with replacement in bigger batches.
    """
    k = run.slopes.shape[1]
    state = np.concatenate([[1.0], run.first_weights(), np.zeros(k)])
    moment, found, step, position = np.multiply.outer(state, state), [], 0, run.start_position
    while step < run.steps:
        ahead = min(len(run.batch_sizes) - position, run.steps - step)
        orders = list(_orders(run, position, ahead))
        totals = np.zeros((ahead, *moment.shape))
        maps: dict[tuple[int, tuple[int, ...]], Array] = {}
        for order in orders:
            now = moment
            for place, batch in enumerate(order):
                key = (step + place, batch)
                if key not in maps:
                    maps[key] = _affine(run, *key)
                now = maps[key] @ now @ maps[key].T
                totals[place] += now
        totals /= len(orders)
        found += list(totals)
        moment, step, position = totals[-1], step + ahead, 0
    stacked = np.array(found)
    mean = stacked[:, 0, 1 : k + 1]
    return ExactMoments(mean=mean, covariance=stacked[:, 1 : k + 1, 1 : k + 1] - mean[:, :, None] * mean[:, None, :])


def _at(run: AffineBatches, step: int) -> MomentumSGD:
    return replace(run.optimizer, learning_rate=float(run.learning_rates[step]))


def _affine(run: AffineBatches, step: int, batch: tuple[int, ...]) -> Array:
    """The step with this batch as a matrix on (1, δ, v)."""
    k, rows = run.slopes.shape[1], list(batch)
    matrices = [a if a.ndim == 2 else np.multiply.outer(a, a) for a in run.curvatures[rows]]
    columns = []
    for unit in np.eye(2 * k + 1):
        one, weights, buffer = unit[0], unit[1 : k + 1], unit[k + 1 :]
        gradient = one * run.slopes[rows].mean(axis=0) + np.mean([a @ weights for a in matrices], axis=0)
        after = momentum_update(_at(run, step), weights, buffer, gradient)
        columns.append(np.concatenate([[one], *after]))
    return np.array(columns).T


def _orders(run: AffineBatches, position: int, ahead: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Equally likely sequences of the batches at `position`, …, of one epoch."""
    sizes = [run.batch_sizes[(position + place) % len(run.batch_sizes)] for place in range(ahead)]
    rows = range(len(run.slopes))
    if run.sampling is not Sampling.SHUFFLED_EPOCHS:
        repeats = run.sampling is Sampling.WITH_REPLACEMENT

        def draw(size: int) -> Iterator[tuple[int, ...]]:
            return itertools.product(rows, repeat=size) if repeats else itertools.combinations(rows, size)

        yield from _few(itertools.product(*(list(draw(size)) for size in sizes)))
        return

    def extend(left: frozenset[int], place: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        if place == ahead:
            yield ()
            return
        for batch in itertools.combinations(sorted(left), sizes[place]):
            for rest in extend(left - set(batch), place + 1):
                yield (batch, *rest)

    yield from _few(extend(frozenset(rows), 0))


def _few(orders: Iterator[tuple[tuple[int, ...], ...]]) -> Iterator[tuple[tuple[int, ...], ...]]:
    for place, order in enumerate(orders):
        if place >= MAX_ORDERS:
            raise ValueError(f"`enumerated_moments(run=...)` must have at most {MAX_ORDERS} orders an epoch; got more.")
        yield order


def _drawn(run: AffineBatches, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Samples of each step's batch, ``(size, b)``, one row a replica."""
    count, position = len(run.slopes), run.start_position
    order = np.tile(np.arange(count), (size, 1))
    bounds = np.concatenate([[0], np.cumsum(run.batch_sizes)])
    while True:
        if run.sampling is Sampling.SHUFFLED_EPOCHS:
            order = rng.permuted(order, axis=1)
        for place in range(position, len(run.batch_sizes)):
            width = run.batch_sizes[place]
            if run.sampling is Sampling.SHUFFLED_EPOCHS:
                yield order[:, bounds[place] : bounds[place + 1]]
            elif run.sampling is Sampling.WITH_REPLACEMENT:
                yield rng.integers(0, count, size=(size, width))
            else:
                yield rng.permuted(order, axis=1)[:, :width]
        position = 0


@dataclass(frozen=True, kw_only=True)
class Growth:
    """ln of the factor by which E|z|² grows a step in the long run, and its standard error."""

    log_factor: float
    standard_error: float


def simulated_growth(
    curvatures: Array,
    optimizer: MomentumSGD,
    batch_size: int,
    sampling: Sampling,
    *,
    replicas: int,
    steps: int,
    burn_in: int,
    seed: int,
) -> Growth:
    """How fast the second moment grows, by simulation: real batches, and replicas resampled by what they weigh.

    Near the edge E|z|² is carried by rare replicas, so that plain averages miss it. Here every replica is scaled back
    to |z| = 1 after each step, and replicas are drawn anew in proportion to the factor |z|² had grown by: the mean of
    the factors is then the growth of the second moment (a Feynman–Kac particle estimate, bias O(1/replicas)).

    Args:
        curvatures: A_n, shape ``(N, k, k)``; slopes play no part in stability.
        optimizer: with its learning rate.
        batch_size: samples a batch; under shuffled epochs it divides N.
        sampling: how batches are drawn.
        replicas: R.
        steps: counted.
        burn_in: not counted.
        seed: of the batches.
    """
    count, k = curvatures.shape[:2]
    flat = curvatures.reshape(count, k * k)
    rng = np.random.default_rng(seed)
    sizes = (batch_size,) * (count // batch_size if sampling is Sampling.SHUFFLED_EPOCHS else 1)
    run = AffineBatches(
        slopes=np.zeros((count, k)),
        curvatures=curvatures,
        optimizer=optimizer,
        learning_rates=np.full(1, optimizer.learning_rate),
        batch_sizes=sizes,
        sampling=sampling,
    )
    # A step moves δ by η times the buffer: in these units both count alike.
    unit = 1.0 if optimizer.form == "position" else optimizer.learning_rate
    weights, buffer = rng.standard_normal((replicas, k)), np.zeros((replicas, k))
    logs, pending = [], np.ones(replicas)
    rows_index = np.arange(replicas)[:, None]
    for step, rows in enumerate(itertools.islice(_drawn(run, replicas, rng), burn_in + steps)):
        share = np.zeros((replicas, count))
        if sampling is Sampling.WITH_REPLACEMENT:
            np.add.at(share, (rows_index, rows), 1.0 / batch_size)
        else:
            share[rows_index, rows] = 1.0 / batch_size
        gradient = np.matmul((share @ flat).reshape(replicas, k, k), weights[:, :, None])[:, :, 0]
        weights, buffer = momentum_update(optimizer, weights, buffer, gradient)
        square = np.sum(weights**2, axis=1) + unit**2 * np.sum(buffer**2, axis=1)
        scale = np.sqrt(square)[:, None]
        weights, buffer = weights / scale, buffer / scale
        pending = pending * square
        if (step + 1) % len(sizes):
            continue  # replicas of one epoch keep their own permutations until it ends
        if step >= burn_in:
            logs.append(np.log(pending.mean()) / len(sizes))
        edges = np.cumsum(pending)
        chosen = np.searchsorted(edges, edges[-1] * (np.arange(replicas) + rng.random()) / replicas)
        weights, buffer, pending = weights[chosen], buffer[chosen], np.ones(replicas)
    values = np.array(logs)
    blocks = np.array([part.mean() for part in np.array_split(values, min(20, len(values)))])
    return Growth(log_factor=float(values.mean()), standard_error=float(blocks.std(ddof=1) / np.sqrt(len(blocks))))
