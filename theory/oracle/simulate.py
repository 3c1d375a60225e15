r"""Monte Carlo of momentum SGD on a noisy quadratic: the real recursion, and no formula of what it should give.

Model     g = H (w − w*) + δ w + ξ, then the optimizer's own step (`theory.model.optimizer`), R independent replicas at
          once.
Noise     ξ_t = L x_t with L the symmetric square root of C (the one factor that depends on C alone; entrywise √ for a
          diagonal C) and x with independent entries of variance 1. In time x is white, or
          x_t = φ x_{t−1} + √(1−φ²) e_t from a start of variance 1, which keeps Cov ξ_t = C at every t.
Start     w_0 = `initial_weights` (else 0), v_0 = 0, and w_{−1} := w_0. torch's first step is undampened because its
          buffer starts empty, not at zero: `undampened_first_step=True` does that.
Change    At a change of segment w and v are kept as they are, which is what each form does: the PyTorch buffer is in
          gradient units, the position form's v is a displacement of the old size.
Paths     Dense: one matrix product a step. Diagonal: mode by mode, fused, taken when both matrices are vectors. Same
          noise, same result to rounding.
Engines   "numba" (extra `fast`, own vectorised generator) or "numpy" (SFC64). Each has its own stream of numbers.
Seeds     Replicas go in blocks of fixed width; block b draws from child b of `SeedSequence(seed)`, and blocks are
          merged in order: the result is the same to the last bit for any number of threads. (BLAS is held to one thread
          where `threadpoolctl` is installed; another BLAS or processor may round differently.)
Oracle    `impulse_response` returns the transition and noise input of this very code, without noise.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from theory.model.noise import Gaussian, NoiseLaw
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting, later_field, require_type
from theory.oracle import portable

#: Weights in a block: its state fits the second-level cache, and what a step costs beside its arithmetic is spread out.
BLOCK_WEIGHTS = 16384
#: Runs too short for `MIN_BLOCKS` such blocks are cut finer, so that errors can be read off the spread of blocks.
MIN_BLOCKS = 16

Engine = Literal["auto", "numba", "numpy"]
Path = Literal["auto", "diagonal", "dense"]


@keyword_setting
class Segment(Setting):
    """A stretch of steps under one optimizer and one problem.

    Args:
        optimizer: momentum SGD's settings.
        steps: number of steps ≥ 1.
        problem: H and C from here on; None keeps those before.
        learning_rates: η of every step, shape ``(steps,)``, in place of the optimizer's; None for a constant rate.
        momenta: μ of every step, shape ``(steps,)``, likewise.
        weight_decays: δ of every step, shape ``(steps,)``, likewise.

    Raises:
        ValueError: if `steps` < 1, or the rates are not `steps` positive numbers, or a momentum or decay out of range.
    """

    optimizer: MomentumSGD
    steps: int
    problem: Quadratic | None = None
    learning_rates: NDArray[np.float64] | None = None
    momenta: NDArray[np.float64] | None = later_field()
    weight_decays: NDArray[np.float64] | None = later_field()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _integer(self.steps, "Segment(steps=...)", 1))
        for name, below in (("momenta", 1.0), ("weight_decays", math.inf)):
            given = getattr(self, name)
            if given is None:
                continue
            path = np.array(given, dtype=np.float64)
            if path.shape != (self.steps,) or not ((path >= 0) & (path < below)).all():
                raise ValueError(
                    f"`Segment({name}=...)` must be {self.steps} numbers in [0, {below:g}); got shape {path.shape}."
                )
            path.flags.writeable = False
            object.__setattr__(self, name, path)
        if self.learning_rates is not None:
            rates = np.array(self.learning_rates, dtype=np.float64)
            if rates.shape != (self.steps,):
                raise ValueError(
                    f"`Segment(learning_rates=...)` must have shape (steps,) = ({self.steps},); got {rates.shape}."
                )
            if not (np.isfinite(rates).all() and (rates > 0).all()):
                raise ValueError(f"`Segment(learning_rates=...)` must be > 0 and finite; got {rates.min()}.")
            rates.flags.writeable = False
            object.__setattr__(self, "learning_rates", rates)


@keyword_setting
class Simulation(Setting):
    """What is simulated, and when its moments are taken.

    Args:
        problem: H and C at the start.
        segments: run one after the other.
        replicas: number of independent runs R ≥ 1.
        record_times: steps done at which moments are taken (0: the initial state), strictly rising.
        pool: average the moments over all `record_times` instead of keeping them apart.
        noise: law of the entries of x.
        noise_autocorrelation: φ of the noise in time, |φ| < 1.
        initial_weights: w_0 of every replica, shape ``(m,)``; None for 0.
        undampened_first_step: torch's start, v_1 = g_1 whatever the dampening (PyTorch form only).
        moments: ``"full"`` matrices, or ``"diagonal"``: what belongs to one direction, for a small share of that cost.

    Raises:
        ValueError: if a value lies outside its range, dimensions differ, segments mix the two forms (v changes its
            meaning between them), or a record time lies beyond the last step.
    """

    problem: Quadratic
    segments: tuple[Segment, ...]
    replicas: int
    record_times: tuple[int, ...]
    pool: bool = False
    noise: NoiseLaw = field(default_factory=Gaussian)
    noise_autocorrelation: float = 0.0
    initial_weights: NDArray[np.float64] | None = None
    undampened_first_step: bool = False
    moments: Literal["full", "diagonal"] = "full"

    def __post_init__(self) -> None:
        name = "Simulation"
        object.__setattr__(self, "segments", tuple(self.segments))
        object.__setattr__(self, "replicas", _integer(self.replicas, f"{name}(replicas=...)", 1))
        times = tuple(_integer(t, f"{name}(record_times=...)", 0) for t in self.record_times)
        object.__setattr__(self, "record_times", times)
        if not self.segments or not all(isinstance(segment, Segment) for segment in self.segments):
            raise ValueError(f"`{name}(segments=...)` must hold at least one Segment; got {self.segments!r}.")
        if not times or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError(f"`{name}(record_times=...)` must be strictly rising and not empty; got {_brief(times)}.")
        if times[-1] > self.steps:
            raise ValueError(
                f"`{name}(record_times=...)` must not exceed the {self.steps} steps of the segments; got {times[-1]}."
            )
        for segment in self.segments:
            if segment.problem is not None and segment.problem.dimension != self.problem.dimension:
                raise ValueError(
                    f"`Segment(problem=...)` must have the dimension {self.problem.dimension} of the first problem; "
                    f"got {segment.problem.dimension}."
                )
        forms = {segment.optimizer.form for segment in self.segments}
        if len(forms) > 1:
            raise ValueError(f"`{name}(segments=...)` must keep to one form; got {sorted(forms)}.")
        if self.undampened_first_step and forms != {"pytorch"}:
            raise ValueError(f"`{name}(undampened_first_step=True)` needs form='pytorch'; got {forms.pop()!r}.")
        correlation = float(self.noise_autocorrelation)
        if not abs(correlation) < 1:
            raise ValueError(f"`{name}(noise_autocorrelation=...)` must be in (−1, 1); got {correlation}.")
        object.__setattr__(self, "noise_autocorrelation", correlation)
        if not isinstance(self.noise, NoiseLaw):
            raise ValueError(f"`{name}(noise=...)` must be a NoiseLaw; got {self.noise!r}.")
        if self.moments not in ("full", "diagonal"):
            raise ValueError(f"`{name}(moments=...)` must be 'full' or 'diagonal'; got {self.moments!r}.")
        if self.initial_weights is not None:
            weights = np.array(self.initial_weights, dtype=np.float64)
            if weights.shape != (self.problem.dimension,) or not np.isfinite(weights).all():
                raise ValueError(
                    f"`{name}(initial_weights=...)` must be {self.problem.dimension} finite numbers; "
                    f"got shape {weights.shape}."
                )
            weights.flags.writeable = False
            object.__setattr__(self, "initial_weights", weights)

    @property
    def steps(self) -> int:
        """Number of steps of all segments together."""
        return sum(segment.steps for segment in self.segments)

    @property
    def is_diagonal(self) -> bool:
        """Whether every mode is on its own in every segment, so that the diagonal path may be taken."""
        problems = [self.problem, *(s.problem for s in self.segments if s.problem is not None)]
        return all(problem.is_diagonal for problem in problems)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Raw moments (about 0) of the simulated state, averaged over replicas and, when pooled, over recorded times.

    Shapes are for ``moments="full"``; with ``"diagonal"`` the last two axes of `second`, `cross` and `lag` become one,
    the diagonal: ``second`` is (E w², E v²) of shape ``(T, 2m)``, ``cross`` and ``lag`` have shape ``(T, m)``.

    The `*_error` are standard errors from the spread of the block averages: unbiased in the variance, with
    ``blocks − 1`` degrees of freedom, and free of any theory of the noise's kurtosis or of the correlation in time. A
    judge that computes an effective ν for E w_i² can compare it with ``2 second² / second_error²`` at
    χ²(blocks − 1)/(blocks − 1) accuracy (± 16 % for 79 blocks), direction by direction.

    Args:
        times: steps done, shape ``(T,)``; all of them also when pooled (then every other T below is 1).
        count: samples behind each average: replicas, times the number of recorded times when pooled, shape ``(T,)``.
        mean: E z of the state z = (w, v), shape ``(T, 2m)``.
        second: E z zᵀ, shape ``(T, 2m, 2m)``.
        cross: E w vᵀ, shape ``(T, m, m)``: a block of `second`.
        lag: E w_t w_{t−1}ᵀ, shape ``(T, m, m)``; w_{−1} is w_0.
        mean_error: standard errors of `mean`; None when there is one block only.
        second_error: of `second`.
        cross_error: of `cross`.
        lag_error: of `lag`.
        blocks: number of independent blocks of replicas.
        replicas: R.
        engine: which engine drew the numbers: ``"numba"`` or ``"numpy"``.
        path: ``"diagonal"`` or ``"dense"``.
    """

    times: NDArray[np.int64]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    second: NDArray[np.float64]
    cross: NDArray[np.float64]
    lag: NDArray[np.float64]
    mean_error: NDArray[np.float64] | None
    second_error: NDArray[np.float64] | None
    cross_error: NDArray[np.float64] | None
    lag_error: NDArray[np.float64] | None
    blocks: int
    replicas: int
    engine: str
    path: str

    def to_arrays(self) -> dict[str, NDArray]:
        """The arrays by name, those that exist."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Weights of single runs, for estimates along one path.

    Args:
        times: steps done, shape ``(T,)``.
        weights: w at those times, shape ``(T, R, m)``.
        engine: which engine drew the numbers.
    """

    times: NDArray[np.int64]
    weights: NDArray[np.float64]
    engine: str


@dataclass(frozen=True, kw_only=True)
class ImpulseResponse:
    """One step of the simulator as matrices, z₊ = F z + G x, read off its responses to unit impulses.

    Args:
        transition: F, shape ``(2m, 2m)``.
        noise_input: G, shape ``(2m, m)``, for the standardised noise x (the factor L of C is part of it).
    """

    transition: NDArray[np.float64]
    noise_input: NDArray[np.float64]


def simulate(
    setting: Simulation,
    *,
    seed: int,
    threads: int | None = None,
    progress: Callable[[float], None] | None = None,
    engine: Engine = "auto",
    path: Path = "auto",
) -> Moments:
    """Run the recursion and average its moments over replicas.

    Args:
        setting: what to run.
        seed: root seed ≥ 0. Same seed, setting and engine: same result, bit for bit, whatever `threads` is.
        threads: threads to use; None for one per available core.
        progress: called with the share of replicas done.
        engine: ``"auto"`` takes numba where it is installed.
        path: ``"auto"`` takes the diagonal path where both matrices are vectors in every segment.

    Raises:
        ValueError: if `seed`, `threads`, `engine` or `path` is not valid, or the diagonal path is asked for a matrix.
        RuntimeError: if a replica overflows, which is what an unstable recursion does.
    """
    require_type(setting, Simulation, "simulate(setting=...)")
    tools = _engine(engine)
    plan = _plan(setting, path)
    num_threads = _threads(threads)
    sizes = _block_sizes(setting.replicas, plan.dimension)
    seeds = np.random.SeedSequence(_integer(seed, "simulate(seed=...)", 0)).spawn(len(sizes))
    total = _Merged(setting)

    def run(block: int) -> NDArray[np.float64]:
        recorder = _Recorder(setting)
        noise = tools.Noise(seeds[block], setting.noise, (plan.dimension, sizes[block]), setting.noise_autocorrelation)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below, by its effect
            _run_block(tools, plan, noise, recorder)
            return recorder.flat()

    done = 0
    with _single_threaded_blas():
        for block, sums in enumerate(_in_order(run, len(sizes), num_threads)):
            if not np.isfinite(sums).all():
                raise RuntimeError(
                    f"`simulate` must stay finite; block {block} overflowed within {setting.steps} steps: "
                    "the recursion is unstable or its moments are too large for float64."
                )
            total.add(sums, sizes[block])
            done += sizes[block]
            if progress is not None:
                progress(done / setting.replicas)
    return total.moments(tools.NAME, "diagonal" if plan.diagonal else "dense")


def trajectory(
    setting: Simulation, *, seed: int, stride: int = 1, engine: Engine = "auto", path: Path = "auto"
) -> Trajectory:
    """Run the recursion and keep the weights themselves, every `stride` steps from step 0 on.

    Replicas, noise and steps are those of `simulate` with the same seed; `record_times` and `pool` are not used. For a
    single run give ``replicas=1``.

    Raises:
        ValueError: if `seed`, `stride`, `engine` or `path` is not valid.
    """
    tools = _engine(engine)
    plan = _plan(setting, path)
    stride = _integer(stride, "trajectory(stride=...)", 1)
    sizes = _block_sizes(setting.replicas, plan.dimension)
    seeds = np.random.SeedSequence(_integer(seed, "trajectory(seed=...)", 0)).spawn(len(sizes))
    times = np.arange(0, setting.steps + 1, stride)
    weights = np.empty((len(times), setting.replicas, plan.dimension))
    first = 0
    with _single_threaded_blas():
        for size, child in zip(sizes, seeds, strict=True):
            noise = tools.Noise(child, setting.noise, (plan.dimension, size), setting.noise_autocorrelation)
            _run_block(tools, plan, noise, _Tracer(setting, times, weights[:, first : first + size]))
            first += size
    return Trajectory(times=times, weights=weights, engine=tools.NAME)


def impulse_response(
    setting: Simulation, *, step: int = 0, engine: Engine = "auto", path: Path = "auto"
) -> ImpulseResponse:
    """F and G of the given step (0: the first), by sending unit impulses through the code that `simulate` runs.

    The 2m unit states and the m unit noises are the columns of one block of 3m replicas. Noise is taken as given: the
    memory of autocorrelated noise is not part of F.

    Raises:
        ValueError: if `step` is not among the setting's steps, or `engine` or `path` is not valid.
    """
    tools = _engine(engine)
    plan = _plan(setting, path)
    step = _integer(step, "impulse_response(step=...)", 0)
    if step >= setting.steps:
        raise ValueError(f"`impulse_response(step=...)` must be < {setting.steps}, the number of steps; got {step}.")
    m = plan.dimension
    z = np.hstack([np.eye(2 * m), np.zeros((2 * m, m))])
    given = np.hstack([np.zeros((m, 2 * m)), np.eye(m)])
    noise = tools.Noise(np.random.SeedSequence(0), setting.noise, given.shape, given=given)
    stage = next(stage for stage in plan.stages if stage.first <= step < stage.first + len(stage.table))
    rows = stage.rows.copy()
    rows[:, 0] = 0.0  # the constant part of the gradient is no part of F or G
    before = np.empty((m, 3 * m))
    slots, sums = np.array([-1]), np.empty((0, 6, m))
    _advance(tools, plan, replace(stage, rows=rows), z, before, noise, step, step + 1, slots, sums)
    return ImpulseResponse(transition=z[:, : 2 * m].copy(), noise_input=z[:, 2 * m :].copy())


def noise_factor(problem: Quadratic) -> NDArray[np.float64]:
    """L of ξ = L x: the symmetric square root of C, shape ``(m, m)``, or its diagonal ``(m,)`` for a diagonal C.

    A judge needs it to carry the kurtosis of x through to directions of its own.
    """
    covariance = problem.noise_cov
    if covariance.ndim == 1:
        return np.sqrt(covariance)
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


# The plan: what the settings mean, step by step.


@dataclass(frozen=True)
class _Stage:
    """A segment made ready: H + δI and L as arrays, and one row (μ, α, β, δ) of coefficients a step.

    v ← μ v + α g, w ← w + β v + δ g is the PyTorch form for (1−d, −ηℓ, −ηk), (k, ℓ) its direction, and the position
    form for (−(1−d)η, 1, 0). `rows` holds what differs between coordinates: the constant part −H w* of g, the factor
    of α, and that of β and δ (parameter groups), shape ``(m, 3)``.
    """

    first: int
    curvature: NDArray[np.float64]
    factor: NDArray[np.float64]
    table: NDArray[np.float64]
    rows: NDArray[np.float64]


@dataclass(frozen=True)
class _Plan:
    dimension: int
    diagonal: bool
    initial_weights: NDArray[np.float64] | None
    stages: tuple[_Stage, ...]


def _plan(setting: Simulation, path: Path) -> _Plan:
    if path not in ("auto", "diagonal", "dense"):
        raise ValueError(f"`simulate(path=...)` must be 'auto', 'diagonal' or 'dense'; got {path!r}.")
    if path == "diagonal" and not setting.is_diagonal:
        raise ValueError("`simulate(path='diagonal')` needs H and C given as diagonals; got a matrix.")
    diagonal = setting.is_diagonal and path != "dense"
    stages, problem, first = [], setting.problem, 0
    for segment in setting.segments:
        problem = segment.problem or problem
        decays = np.full(segment.steps, segment.optimizer.weight_decay)
        if segment.weight_decays is not None:
            decays[:] = segment.weight_decays
        table = _table(segment, undampened=first == 0 and setting.undampened_first_step)
        rows, shares = _rows(problem, segment.optimizer)
        edges = [0, *(np.flatnonzero(np.diff(decays)) + 1).tolist(), segment.steps]
        for start, stop in itertools.pairwise(edges):
            if diagonal:
                curvature = problem.hessian + decays[start] * shares
            else:
                curvature = problem.dense_hessian() + np.diag(decays[start] * shares)
            stage = np.ascontiguousarray(curvature), noise_factor(problem), table[start:stop], rows
            stages.append(_Stage(first + start, *stage))
        first += segment.steps
    return _Plan(setting.problem.dimension, diagonal, setting.initial_weights, tuple(stages))


def _table(segment: Segment, *, undampened: bool) -> NDArray[np.float64]:
    """Rows (μ, α, β, δ) of a segment's steps, shape ``(steps, 4)``."""
    optimizer, steps = segment.optimizer, segment.steps
    rates, momenta = np.full(steps, optimizer.learning_rate), np.full(steps, optimizer.momentum)
    if segment.learning_rates is not None:
        rates[:] = segment.learning_rates
    if segment.momenta is not None:
        momenta[:] = segment.momenta
    kept = np.where(momenta > 0, 1.0 - optimizer.dampening, 1.0)  # without momentum torch has nothing to dampen
    if undampened:
        kept[0] = 1.0
    zero = np.zeros(steps)
    if optimizer.form == "position":
        alpha, beta, delta = -kept * rates, zero + 1.0, zero
    else:
        on_gradient, on_buffer = (1.0, momenta) if optimizer.nesterov else optimizer.direction
        alpha, beta, delta = kept, -rates * on_buffer, -rates * on_gradient
    return np.ascontiguousarray(np.stack([momenta, alpha, beta, delta], axis=1))


def _rows(problem: Quadratic, optimizer: MomentumSGD) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`_Stage.rows`, and the factors of the weight decay, shape ``(m,)``."""
    ones = np.ones(problem.dimension)
    hessian, place = problem.hessian, problem.optimum
    constant = -(hessian * place if hessian.ndim == 1 else hessian @ place)
    rates, decays = (ones, ones) if optimizer.groups is None else (optimizer.groups.rates(), optimizer.groups.decays())
    in_buffer, in_step = (rates, ones) if optimizer.form == "position" else (ones, rates)
    return np.ascontiguousarray(np.stack([constant, in_buffer, in_step], axis=1)), decays


def _advance(
    tools: ModuleType,
    plan: _Plan,
    stage: _Stage,
    z: NDArray[np.float64],
    before: NDArray[np.float64],
    noise: Any,
    start: int,
    stop: int,
    slots: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Take steps start … stop − 1 of a stage; `before` receives the weights before the last."""
    table = stage.table[start - stage.first : stop - stage.first]
    if plan.diagonal:
        tools.advance_diagonal(z, before, noise, stage.curvature, stage.factor, stage.rows, table, slots, sums)
        return
    m = plan.dimension
    w = z[:m]
    dense = stage.factor.ndim == 2
    slope, shaped = np.empty_like(before), np.empty_like(before)
    scale = np.ones(m) if dense else stage.factor
    for step, coefficients in enumerate(table):
        x = noise.next()
        if dense:
            x = np.matmul(stage.factor, x, out=shaped)
        np.matmul(stage.curvature, w, out=slope)
        if slots[step] >= 0 or step == len(table) - 1:
            before[...] = w
        tools.apply_gradient(z, slope, x, scale, stage.rows, coefficients)
        if slots[step] >= 0:
            sums[slots[step]] += portable.row_sums(z, before)


def _run_block(tools: ModuleType, plan: _Plan, noise: Any, recorder: _Recorder | _Tracer) -> None:
    m, width = noise.shape
    z, before = np.zeros((2 * m, width)), np.zeros((m, width))
    if plan.initial_weights is not None:
        z[:m] = plan.initial_weights[:, None]
        before[...] = z[:m]
    recorder.record(0, z, before)
    for stage in plan.stages:
        start, end = stage.first, stage.first + len(stage.table)
        for stop in recorder.stops(start, end):
            slots = recorder.slots(start, stop)
            _advance(tools, plan, stage, z, before, noise, start, stop, slots, recorder.sums)
            recorder.record(stop, z, before)
            start = stop


# Recorders: what is kept of a block.


class _Recorder:
    """Sums over a block's replicas of the moments asked for."""

    def __init__(self, setting: Simulation) -> None:
        m = setting.problem.dimension
        self.full = setting.moments == "full"
        self.pool = setting.pool
        self.times = np.array(setting.record_times)
        rows = 1 if setting.pool else len(self.times)
        # Diagonal sums are taken inside the kernels; matrices are taken here, between stretches of steps.
        self.sums = np.zeros((0 if self.full else rows, 6, m))
        self.mean = np.zeros((rows if self.full else 0, 2 * m))
        self.second = np.zeros((rows if self.full else 0, 2 * m, 2 * m))
        self.lag = np.zeros((rows if self.full else 0, m, m))

    def row(self, time: int) -> int:
        """Row of the sums that a time belongs to, or −1."""
        index = int(np.searchsorted(self.times, time))
        if index == len(self.times) or self.times[index] != time:
            return -1
        return 0 if self.pool else index

    def slots(self, start: int, stop: int) -> NDArray[np.int64]:
        """Row of `sums` for each of the steps that end at start + 1 … stop, or −1."""
        slots = np.full(stop - start, -1, dtype=np.int64)
        if not self.full:
            low, high = np.searchsorted(self.times, [start + 1, stop + 1])
            slots[self.times[low:high] - start - 1] = 0 if self.pool else np.arange(low, high)
        return slots

    def stops(self, start: int, end: int) -> list[int]:
        """Where to pause in the steps from `start` to `end`."""
        if not self.full:
            return [end]
        inner = self.times[(self.times > start) & (self.times < end)]
        return [*inner.tolist(), end]

    def record(self, time: int, z: NDArray[np.float64], before: NDArray[np.float64]) -> None:
        row = self.row(time)
        if row < 0:
            return
        if self.full:
            m = len(before)
            self.mean[row] += z.sum(axis=1)
            self.second[row] += z @ z.T
            self.lag[row] += z[:m] @ before.T
        elif time == 0:
            self.sums[row] += portable.row_sums(z, before)

    def flat(self) -> NDArray[np.float64]:
        if not self.full:
            return self.sums.ravel()
        return np.concatenate([self.mean.ravel(), self.second.ravel(), self.lag.ravel()])


class _Tracer:
    """The weights themselves, at given times."""

    def __init__(self, setting: Simulation, times: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        self.times, self.weights = times, weights
        self.sums = np.empty((0, 6, setting.problem.dimension))

    def slots(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.full(stop - start, -1, dtype=np.int64)

    def stops(self, start: int, end: int) -> list[int]:
        inner = self.times[(self.times > start) & (self.times < end)]
        return [*inner.tolist(), end]

    def record(self, time: int, z: NDArray[np.float64], before: NDArray[np.float64]) -> None:
        index = int(np.searchsorted(self.times, time))
        if index < len(self.times) and self.times[index] == time:
            self.weights[index] = z[: len(before)].T


class _Merged:
    """Mean of the block averages, and their spread, block after block (West 1979)."""

    def __init__(self, setting: Simulation) -> None:
        self.setting = setting
        self.blocks, self.replicas = 0, 0
        self.average: NDArray[np.float64] = np.zeros(0)
        self.spread: NDArray[np.float64] = np.zeros(0)

    def add(self, sums: NDArray[np.float64], replicas: int) -> None:
        pooled = len(self.setting.record_times) if self.setting.pool else 1
        values = sums / (replicas * pooled)
        self.blocks += 1
        self.replicas += replicas
        if self.blocks == 1:
            self.average, self.spread = values, np.zeros_like(values)
            return
        change = values - self.average
        self.average = self.average + change * (replicas / self.replicas)
        self.spread += replicas * change * (values - self.average)

    def moments(self, engine: str, path: str) -> Moments:
        times = np.array(self.setting.record_times, dtype=np.int64)
        rows = 1 if self.setting.pool else len(times)
        count = np.full(rows, self.setting.replicas * (len(times) if self.setting.pool else 1), dtype=np.int64)
        average = self._split(self.average, rows)
        error: dict[str, NDArray[np.float64]] = {}
        if self.blocks > 1:
            variance = np.maximum(self.spread, 0.0) / (self.blocks - 1) / self.replicas
            error = self._split(np.sqrt(variance), rows)
        return Moments(
            times=times,
            count=count,
            mean=average["mean"],
            second=average["second"],
            cross=average["cross"],
            lag=average["lag"],
            mean_error=error.get("mean"),
            second_error=error.get("second"),
            cross_error=error.get("cross"),
            lag_error=error.get("lag"),
            blocks=self.blocks,
            replicas=self.replicas,
            engine=engine,
            path=path,
        )

    def _split(self, flat: NDArray[np.float64], rows: int) -> dict[str, NDArray[np.float64]]:
        m = self.setting.problem.dimension
        if self.setting.moments == "diagonal":
            sums = flat.reshape(rows, 6, m)
            return {
                "mean": sums[:, :2].reshape(rows, 2 * m),
                "second": sums[:, 2:4].reshape(rows, 2 * m),
                "cross": sums[:, 4].copy(),
                "lag": sums[:, 5].copy(),
            }
        mean, second, lag = np.split(flat, np.cumsum([rows * 2 * m, rows * 4 * m * m]))
        second = second.reshape(rows, 2 * m, 2 * m)
        return {
            "mean": mean.reshape(rows, 2 * m),
            "second": second,
            "cross": second[:, :m, m:].copy(),
            "lag": lag.reshape(rows, m, m),
        }


# Blocks, threads and engines.


def _block_sizes(replicas: int, dimension: int) -> list[int]:
    """Replicas of each block: a function of the setting alone, so that threads can't matter."""
    width = min(max(BLOCK_WEIGHTS // dimension, 8), 2048)
    if replicas < width * MIN_BLOCKS:
        width = max(1, math.ceil(replicas / MIN_BLOCKS))
        if width >= 8:
            width = 8 * math.ceil(width / 8)
    full, rest = divmod(replicas, width)
    return [width] * full + ([rest] if rest else [])


def _in_order(run: Callable[[int], Any], jobs: int, threads: int) -> Iterator[Any]:
    """Results of run(0), run(1), … in order, with at most 2 · threads of them alive."""
    if threads == 1 or jobs == 1:
        yield from map(run, range(jobs))
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Any] = deque()
        try:
            for job in range(jobs):
                waiting.append(pool.submit(run, job))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _engine(name: str) -> ModuleType:
    if name not in ("auto", "numba", "numpy"):
        raise ValueError(f"`simulate(engine=...)` must be 'auto', 'numba' or 'numpy'; got {name!r}.")
    if name != "numpy":
        try:
            from theory.oracle import compiled

            return compiled
        except ImportError as error:
            if name == "numba":
                raise ValueError(f"`simulate(engine='numba')` needs numba, in the extra `fast`; {error}.") from None
    return portable


def _single_threaded_blas() -> contextlib.AbstractContextManager[Any]:
    """Block threads are the parallelism; BLAS threads on top of them would only fight, and could round differently."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1, user_api="blas")


def _threads(threads: int | None) -> int:
    if threads is not None:
        return _integer(threads, "simulate(threads=...)", 1)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _integer(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"`{where}` must be an integer; got {value!r}.")
    if value < least:
        raise ValueError(f"`{where}` must be >= {least}; got {value}.")
    return int(value)


def _brief(times: tuple[int, ...]) -> str:
    return repr(times) if len(times) <= 8 else f"{times[:4]} … {times[-2:]}"
