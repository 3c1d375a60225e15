r"""Mean and covariance along any path of settings and landscapes, exactly, with the quasi-stationary approximation.

Model     z_{t+1} = F_t z_t + G_t ξ_t + G_t δ_t w* with the rate η_t, momentum μ_t and weight decay δ_t of iteration t,
          w counted from w*. Between changes of the problem H is constant up to a factor h_t, and C up to c_t: in H's
          eigenbasis F_t is 2×2 mode by mode, whatever C.
Result    Over a stretch of steps, with Φ the product of its F_t and ψ_s = F_{end} ⋯ F_{s+1} G_s for each mode,
              M_end = Φ M_start Φᵀ + C̃ ∘ Σ_s c_s ψ_s ψ_sᵀ,   m_end = Φ m_start + w* Σ_s δ_s ψ_s,                  (T3)
          a Gram matrix: 4 m² multiply-adds a step, in matrix products over many steps at once. The ψ_s of all stretches
          are built together, backwards from each end. Every term is a sum of squares on the diagonal: nothing cancels.
Landscape At a change of the problem (`changes`) the state goes from the old modes to the new ones, O(m³). With
          parameter groups the modes are new at every change of δ_t or h_t.
Quasi-stationary   Σ_t ≈ the stationary law at the settings of iteration t: right while the path changes little within a
          memory 1/(1 − ρ_t). Its error here is exact, not estimated.
Unstable  The law at a finite step exists whatever the path does. Stretches without a stationary law are run through and
          named (`unstable_stretches`); only their quasi-stationary law does not exist.
Limits    Constant path: `transient_covariance`.   Infinitely slow path: quasi-stationary.
Oracle    The recursion unrolled step by step in extended precision; simulation.
Source    Own derivation; discrete time-varying Lyapunov recursion (Anderson and Moore 1979, §4.1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import Frame, frame
from theory.closed_form.powers import from_left, from_right
from theory.closed_form.stability import modes, stability_ratio
from theory.closed_form.stationary import stationary_blocks, stationary_mean, weight_covariance
from theory.closed_form.transient import (
    as_blocks,
    checked_covariance,
    checked_first_step,
    checked_mean,
    checked_steps,
)
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.model.setting import require_type
from theory.solution import Rest, Solution, Status, UnstableError

#: Longest stretch whose responses are built together.
_STRETCH = 256
#: Doubles of working memory for the responses of one batch of stretches (32 MiB).
_BATCH = 4_000_000


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Propagation(Solution):
    """The law of (w, v) at K recorded steps along a path, in the coordinates of the problem.

    Args:
        steps: updates done, shape ``(K,)``.
        learning_rates: the rate of the last update before each record (at step 0: of the optimizer), shape ``(K,)``.
        mean: E z, shape ``(K, 2m)``.
        unstable_stretches: first and last iteration of every stretch in which some mode has no stationary law.
        has_stationary_law: whether the settings of the record have one, shape ``(K,)``.
        quasi_stationary: Cov(w) of the stationary law at those settings, shape ``(K, m, m)``; NaN where there is none.
        quasi_stationary_error: ‖quasi − exact‖_F / ‖exact‖_F of Cov(w), shape ``(K,)``; 1 while the exact one is 0, NaN
            where there is no stationary law.
        worst_mode_error: the largest |quasi/exact − 1| over the variances along the modes, shape ``(K,)``, likewise.
    """

    steps: NDArray[np.int64]
    learning_rates: NDArray[np.float64]
    mean: NDArray[np.float64]
    unstable_stretches: tuple[tuple[int, int], ...]
    has_stationary_law: NDArray[np.bool_]
    quasi_stationary: NDArray[np.float64]
    quasi_stationary_error: NDArray[np.float64]
    worst_mode_error: NDArray[np.float64]


@dataclass(frozen=True)
class _Path:
    """The settings of every iteration, each of shape ``(n,)``."""

    rates: NDArray[np.float64]
    momenta: NDArray[np.float64]
    kept: NDArray[np.float64]  # the share of the gradient that enters the buffer
    decays: NDArray[np.float64]
    curvature_factors: NDArray[np.float64]
    noise_factors: NDArray[np.float64]


def propagate(
    problem: Quadratic,
    optimizer: MomentumSGD,
    schedule: Schedule,
    steps: int | Sequence[int] | NDArray[np.integer],
    initial: ArrayLike | None = None,
    initial_mean: ArrayLike | None = None,
    *,
    momentum: Schedule | ArrayLike | None = None,
    weight_decay: Schedule | ArrayLike | None = None,
    noise_factors: ArrayLike | None = None,
    curvature_factors: ArrayLike | None = None,
    changes: Mapping[int, Quadratic] | None = None,
    undampened_first_step: bool = False,
) -> Propagation:
    """Exact mean and covariance of (w, v) along a path, equation (T3); needs no commutation.

    Args:
        problem: H, C and w*.
        optimizer: everything but the path. Its own settings are those *before* the path starts.
        schedule: the rates of iterations 0, 1, …
        steps: numbers of updates at which to record, rising; the last is the length of the run.
        initial: covariance of (w, v) at step 0, ``(2m, 2m)``, or of w with v = 0, ``(m, m)``; by default the stationary
            law of `optimizer`.
        initial_mean: mean of (w, v), ``(2m,)``, or of w, ``(m,)``, in the coordinates of the problem; by default
            `stationary_mean` of `optimizer`, or w* where it has none.
        momentum: μ_t in [0, 1), a Schedule or one an iteration, shape ``(last step,)``; by default the optimizer's.
        weight_decay: δ_t ≥ 0, likewise.
        noise_factors: c_t > 0 by which C is multiplied in iteration t, shape ``(last step,)``; by default 1.
        curvature_factors: h_t > 0 by which H is multiplied in iteration t, shape ``(last step,)``; by default 1.
        changes: iteration to the problem that holds from then on, for an H_t and C_t of any shape.
        undampened_first_step: torch's start, v₁ = g₁ whatever the dampening; needs an `initial` of w alone.

    Returns:
        `Propagation`, one entry a recorded step; its status is UNSETTLED where some stretch has no stationary law.

    Raises:
        UnstableError: if the stationary law of an unstable `optimizer` is to be the start, or the state overflows.
        ValueError: if the path holds a rate that is not positive and finite, steps are out of order, a setting is out
            of range, or a shape is wrong.
        TypeError: if an argument is of another type.
    """
    where = "propagate"
    require_type(problem, Quadratic, f"{where}(problem=...)")
    require_type(optimizer, MomentumSGD, f"{where}(optimizer=...)")
    require_type(schedule, Schedule, f"{where}(schedule=...)", "`Schedule.table([...])` makes one of a list")
    recorded = checked_steps(steps, where)
    length = int(recorded[-1])
    momenta = _settings(momentum, length, "momentum", optimizer.momentum)
    if undampened_first_step:
        at_rest = initial is not None and np.shape(initial) == (problem.dimension,) * 2
        mean_at_rest = initial_mean is None or np.shape(initial_mean) in ((), (problem.dimension,))
        checked_first_step(True, optimizer, at_rest and mean_at_rest, where)
    kept = np.where(momenta > 0, 1.0 - optimizer.dampening, 1.0)
    kept[:1] = 1.0 if undampened_first_step else kept[:1]
    path = _Path(
        rates=schedule.rates(length) if length else np.empty(0),
        momenta=momenta,
        kept=kept,
        decays=_settings(weight_decay, length, "weight_decay", optimizer.weight_decay),
        curvature_factors=_factors(curvature_factors, length, "curvature_factors"),
        noise_factors=_factors(noise_factors, length, "noise_factors"),
    )
    m = problem.dimension
    changes = _checked_changes(changes, problem, length)
    current = frame(problem, optimizer)
    if initial is None:
        inner = stationary_blocks(current)
    else:
        inner = current.inward(as_blocks(checked_covariance(initial, m, where)))
    mean = _start(problem, optimizer, initial, initial_mean)
    records = _Records(recorded, problem, optimizer)
    records.take(0, current, current.optimizer, inner, mean, 1.0, 1.0)
    wanted = set(recorded.tolist())
    unstable = np.zeros(length, dtype=bool)
    for first, last, entered in _landscapes(problem, changes, optimizer, path, current):
        if entered is not current:
            current, inner = entered, entered.inward(current.outward(inner))
        act = current.optimizer
        # Parameter groups have no weight decay left: what there was is part of the curvature.
        decays = path.decays[first:last] if act.groups is optimizer.groups else np.zeros(last - first)
        factors = path.curvature_factors[first:last] if act.groups is optimizer.groups else np.ones(last - first)
        piece = _Path(
            path.rates[first:last],
            path.momenta[first:last],
            path.kept[first:last],
            decays,
            factors,
            path.noise_factors[first:last],
        )
        unstable[first:last] = _unstable(current, piece)
        place = np.stack([current.optimum, np.zeros(m)])
        away = current.inward_mean(mean.reshape(2, m)) - place
        pauses = recorded[(recorded > first) & (recorded <= last)] - first
        for end, transition, gram, push in _stretches(current.curvatures, act, piece, pauses):
            with np.errstate(over="ignore", invalid="ignore"):
                inner = from_right(from_left(transition, inner), transition) + gram * current.noise
                away = np.stack([transition[p, 0] * away[0] + transition[p, 1] * away[1] for p in (0, 1)])
                away = away + push * current.optimum
            if not (np.isfinite(inner).all() and np.isfinite(away).all()):
                raise UnstableError(
                    f"`{where}(steps=...)` must leave the state within the float range; it overflows before iteration "
                    f"{first + end}, in a stretch without a stationary law."
                )
            if first + end in wanted:
                at = _settings_at(act, piece, end - 1)
                factor, louder = float(factors[end - 1]), float(piece.noise_factors[end - 1])
                outer = current.outward_mean(away + place).reshape(-1)
                records.take(first + end, current, at, inner, outer, factor, louder)
        mean = current.outward_mean(away + place).reshape(-1)
    return records.finished(path.rates, _runs(unstable))


class _Records:
    """What is kept at the recorded steps."""

    def __init__(self, recorded: NDArray[np.int64], problem: Quadratic, optimizer: MomentumSGD) -> None:
        count, m = len(recorded), problem.dimension
        self.steps, self.optimizer = recorded, optimizer
        self.states, self.means = np.empty((count, 2, 2, m, m)), np.empty((count, 2 * m))
        self.quasi, self.radius = np.full((count, m, m), np.nan), 0.0
        self.errors = np.full((count, 2), np.nan)
        self.stationary = np.zeros(count, dtype=bool)

    def take(
        self,
        step: int,
        seen: Frame,
        optimizer: MomentumSGD,
        inner: NDArray[np.float64],
        mean: NDArray[np.float64],
        curvature_factor: float,
        noise_factor: float,
    ) -> None:
        """Keep a state (between the modes `seen`; its mean in the problem's coordinates) if its step is wanted."""
        index = int(np.searchsorted(self.steps, step))
        if self.steps[index] != step:
            return
        self.states[index], self.means[index] = seen.outward(inner), mean
        mode = modes(seen.curvatures * curvature_factor, optimizer)
        self.radius = float(mode.spectral_radius.max())
        self.stationary[index] = bool(mode.stable.all())
        if not self.stationary[index]:
            return
        quasi, exact = noise_factor * weight_covariance(mode, seen.noise, optimizer), inner[0, 0]
        self.errors[index] = (
            _relative(np.linalg.norm(quasi - exact), np.linalg.norm(exact)),
            _relative(np.abs(np.diag(quasi) - np.diag(exact)), np.diag(exact)).max(),
        )
        self.quasi[index] = seen.block_of_symmetric(quasi)

    def finished(self, rates: NDArray[np.float64], stretches: tuple[tuple[int, int], ...]) -> Propagation:
        begun = self.steps > 0
        last = np.maximum(self.steps - 1, 0)
        return Propagation(
            value=_symmetric(self.states[:, 0, 0]),
            rest=Rest(velocity=_symmetric(self.states[:, 1, 1]), cross=self.states[:, 0, 1].copy()),
            status=Status.UNSETTLED if stretches else Status.OK,
            method="propagate",
            spectral_radius=self.radius,
            steps=self.steps,
            learning_rates=np.where(begun, rates[last] if len(rates) else 0.0, self.optimizer.learning_rate),
            mean=self.means,
            unstable_stretches=stretches,
            has_stationary_law=self.stationary,
            quasi_stationary=self.quasi,
            quasi_stationary_error=self.errors[:, 0],
            worst_mode_error=self.errors[:, 1],
        )


def _start(
    problem: Quadratic, optimizer: MomentumSGD, initial: ArrayLike | None, mean: ArrayLike | None
) -> NDArray[np.float64]:
    if mean is not None:
        return checked_mean(mean, problem.dimension, "propagate(initial_mean")
    try:
        place = stationary_mean(problem, optimizer)
    except UnstableError:
        if initial is None:
            raise
        place = problem.optimum
    return np.concatenate([place, np.zeros(problem.dimension)])


def _landscapes(
    problem: Quadratic, changes: Mapping[int, Quadratic], optimizer: MomentumSGD, path: _Path, current: Frame
) -> Iterator[tuple[int, int, Frame]]:
    """Maximal runs of iterations with the same modes: first, last + 1, and the modes."""
    length = len(path.rates)
    breaks = {0, *changes}
    if optimizer.groups is not None:  # decay and curvature factor are then part of the modes
        moved = (np.diff(path.decays) != 0) | (np.diff(path.curvature_factors) != 0)
        breaks.update((np.flatnonzero(moved) + 1).tolist())
    edges = [*sorted(at for at in breaks if at < length), length]
    for first, last in itertools.pairwise(edges):
        problem = changes.get(first, problem)
        if optimizer.groups is None:
            yield first, last, frame(problem, optimizer) if first in changes else current
            continue
        bent = replace(problem, hessian=float(path.curvature_factors[first]) * problem.hessian)
        yield first, last, frame(bent, replace(optimizer, weight_decay=float(path.decays[first])))


def _settings_at(optimizer: MomentumSGD, path: _Path, index: int) -> MomentumSGD:
    """The optimizer of one iteration; its first step's dampening is not part of a stationary law."""
    mu = float(path.momenta[index])
    return replace(
        optimizer,
        learning_rate=float(path.rates[index]),
        momentum=mu,
        weight_decay=float(path.decays[index]),
        nesterov=optimizer.nesterov and mu > 0,
    )


def _unstable(seen: Frame, path: _Path) -> NDArray[np.bool_]:
    """In which iterations some mode has no stationary law, shape ``(n,)``."""
    ends = [
        stability_ratio(
            path.curvature_factors * float(curvature) + path.decays, path.rates, seen.optimizer, path.momenta
        )
        for curvature in (seen.curvatures.min(), seen.curvatures.max())
    ]
    return ~((ends[0] > 0) & (ends[1] < 1))


def _runs(flags: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return tuple((int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True))


def _stretches(
    curvatures: NDArray[np.float64], optimizer: MomentumSGD, path: _Path, recorded: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Stretches in turn: end, transition Φ ``(2, 2, m)``, noise Gram ``(2, 2, m, m)`` and Σ δ ψ ``(2, m)``."""
    m, length = len(curvatures), len(path.rates)
    edges = np.union1d(np.arange(0, length, _STRETCH), np.concatenate([[0, length], recorded]))
    batch = max(1, _BATCH // (2 * m * max(_STRETCH, 2 * m)))
    for first in range(0, len(edges) - 1, batch):
        starts, ends = edges[first : first + batch + 1][:-1], edges[first : first + batch + 1][1:]
        transitions, responses, pushes = _responses(curvatures, optimizer, path, starts, ends)
        flat = responses.reshape(len(starts), -1, 2 * m)
        grams = (flat.transpose(0, 2, 1) @ flat).reshape(len(starts), 2, m, 2, m).transpose(0, 1, 3, 2, 4)
        for index, end in enumerate(ends):
            yield int(end), transitions[index], grams[index], pushes[index]


def _responses(
    curvatures: NDArray[np.float64],
    optimizer: MomentumSGD,
    path: _Path,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Φ ``(n, 2, 2, m)`` of each stretch, √c ψ ``(n, B, 2, m)`` at its end for each of its steps, Σ δ ψ ``(n, 2, m)``.

    A row (p, q) of what later steps do to (w, v) is pulled back through one step without forming F. With r the weight
    that v₊ gets (PyTorch q − ηℓp, position form p + q) and e that of the gradient H w + ξ,
        p ← p + e (λ + decay),   q ← μ r,   ψ = e,
    where e = (1−d) r − ηkp, −(1−d) η r in the two forms; (k, ℓ) is the optimizer's direction (Nesterov's is (1, μ_t)).
    """
    amplitude = np.sqrt(path.noise_factors)
    count, m = len(starts), len(curvatures)
    depth = int((ends - starts).max()) if count else 0
    identity = np.broadcast_to(np.eye(2)[:, :, None], (2, 2, m))
    p, q = (np.array(np.broadcast_to(identity[:, c], (count, 2, m))) for c in (0, 1))
    responses, pushes = np.zeros((count, depth, 2, m)), np.zeros((count, 2, m))
    for back in range(depth):
        # Stretches shorter than the others stop early; once sorted out, the rest goes on.
        live = np.flatnonzero(ends - back > starts)
        everything = len(live) == count
        at = ends[live] - 1 - back
        eta, mu, keep, decay = (
            setting[at][:, None, None] for setting in (path.rates, path.momenta, path.kept, path.decays)
        )
        p_now, q_now = (p, q) if everything else (p[live], q[live])
        if optimizer.form == "position":
            r = p_now + q_now
            e = (-keep * eta) * r
        else:
            on_gradient, on_buffer = (1.0, mu) if optimizer.nesterov else optimizer.direction
            r = q_now - (on_buffer * eta) * p_now
            e = keep * r - (on_gradient * eta) * p_now
        slope = path.curvature_factors[at][:, None, None] * curvatures + decay
        p_now, q_now = p_now + e * slope, mu * r
        kicked = amplitude[at][:, None, None] * e
        if everything:
            p, q, responses[:, back] = p_now, q_now, kicked
            pushes += decay * e
        else:
            p[live], q[live], responses[live, back] = p_now, q_now, kicked
            pushes[live] += decay * e
    return np.stack([p, q], axis=2), responses, pushes


def _settings(given: Schedule | ArrayLike | None, length: int, name: str, default: float) -> NDArray[np.float64]:
    if given is None:
        return np.full(length, default)
    values = given.values(length) if isinstance(given, Schedule) and length else given
    array = np.empty(0) if isinstance(values, Schedule) else np.array(values, dtype=np.float64)
    if array.shape != (length,):
        raise ValueError(
            f"`propagate({name}=...)` must be a Schedule or have one entry an iteration, shape {(length,)}; "
            f"got {array.shape}."
        )
    rule, good = (
        ("in [0, 1)", (array >= 0) & (array < 1))
        if name == "momentum"
        else (">= 0 and finite", (array >= 0) & np.isfinite(array))
    )
    if not good.all():
        at = int(np.argmin(good))
        raise ValueError(f"`propagate({name}=...)` must be {rule}; got {array[at]:g} at iteration {at}.")
    return array


def _checked_changes(
    changes: Mapping[int, Quadratic] | None, problem: Quadratic, length: int
) -> Mapping[int, Quadratic]:
    changes = {} if changes is None else changes
    require_type(changes, Mapping, "propagate(changes=...)", "iteration to Quadratic")
    for at, changed in changes.items():
        if isinstance(at, bool) or not isinstance(at, (int, np.integer)) or at < 0:
            raise ValueError(f"`propagate(changes=...)` must have iterations >= 0 as keys; got {at!r}.")
        require_type(changed, Quadratic, f"propagate(changes={{{at}: ...}})")
        if changed.dimension != problem.dimension:
            raise ValueError(
                f"`propagate(changes={{{at}: ...}})` must have the dimension of `problem`; "
                f"got {changed.dimension} against {problem.dimension}."
            )
    return {int(at): changed for at, changed in changes.items() if at < length}


def _factors(factors: ArrayLike | None, length: int, name: str) -> NDArray[np.float64]:
    if factors is None:
        return np.ones(length)
    array = np.asarray(factors, dtype=np.float64)
    if array.shape != (length,):
        raise ValueError(
            f"`propagate({name}=...)` must have one entry an iteration, shape {(length,)}; got {array.shape}."
        )
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(bad):
        raise ValueError(
            f"`propagate({name}=...)` must be > 0 and finite; got {array[bad[0]]:g} at iteration {int(bad[0])}."
        )
    return array


def _relative(difference: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """The ratio difference / size; 1 where there is nothing yet to be compared with."""
    difference, size = np.asarray(difference), np.asarray(size)
    return np.where(size > 0, difference / np.where(size > 0, size, 1.0), np.where(difference > 0, 1.0, 0.0))


def _symmetric(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (stack + stack.transpose(0, 2, 1))
