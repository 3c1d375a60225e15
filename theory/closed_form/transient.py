r"""After a change of learning rate, momentum, curvature or noise: the exact covariance and mean at any later step.

Model     z = (w, v) obeys z₊ = F z + G ξ. At step 0 its law has mean m₀ and covariance M₀; from then on F and C are
          those of `after`. What v carries across the change is up to the form: PyTorch keeps the buffer and
          thereby rescales the displacement −ηv by η₂/η₁, the position form keeps the displacement.
Result    M_k = Fᵏ M₀ Fᵏᵀ + N_k,   N_k = Σ_{l<k} Fˡ Q Fˡᵀ,   m_k = Fᵏ m₀ + Σ_{l<k} Fˡ G f                       (T1)
          with w counted from w* and f = δ w* the steady pull of weight decay δ away from it,
          mode pair by mode pair with the 2×2 powers of `powers`; no commutation of H and C is needed.
          Where some k(1−D) < 4 (k within the memory of the momentum), N_k doubles: N_{2n} = N_n + Fⁿ N_n Fⁿᵀ, a sum of
          like signs in at most log₂(4/(1−μ)) rounds. Beyond, N_k = −(E M∞ + M∞ Eᵀ + E M∞ Eᵀ) with E = Fᵏ − 1 formed
          directly, where M∞ − Fᵏ M∞ Fᵏᵀ would lose all digits of a mode that has hardly moved (7 at a = 2·10⁻⁷).
Limits    k = 0: M₀.   k → ∞: the stationary law.   Nothing changed: M_k = M₀ for all k.
          Where `after` is unstable, or nothing pulls back (λ+δ ≤ 0), there is no M∞, but M_k all the same; it is
          doubled in log₂ k rounds, and the status says so.
First step torch's buffer starts empty, so that its first step is undampened, v₁ = g₁: `undampened_first_step`.
Oracle    `theory.oracle`: the recursion unrolled in extended precision, and simulation.
Source    Own derivation; textbook linear recursions (Hamilton 1994, §10.1). Xu and Zhang, arXiv 2410.07719, Theorem 4.7
          approximates it (`interpolation`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import Frame, frame
from theory.closed_form.powers import Companion, Power, companion, from_left, from_right, power, sandwich
from theory.closed_form.stability import Stability, stability
from theory.closed_form.stationary import stationary_blocks, stationary_state
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import require_type
from theory.solution import Rest, Solution, Status, UnstableError

#: Largest number of steps; the phase of a complex root is right to 1e-15 up to here.
MAX_STEPS = 10**12
#: k(1−D) above which M∞ is within reach and the doubling ends.
_SETTLED = 4.0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Transient(Solution):
    """Covariance of the state (w, v) at each of K recorded steps, in the coordinates of the problem.

    Args:
        steps: updates done since the change, shape ``(K,)``.
        stability: of the modes after the change: which have a stationary law, and which not.
    """

    steps: NDArray[np.int64]
    stability: Stability


def transient_covariance(
    problem: Quadratic,
    before: MomentumSGD | None,
    after: MomentumSGD,
    steps: int | Sequence[int] | NDArray[np.integer],
    initial: ArrayLike | None = None,
    *,
    problem_after: Quadratic | None = None,
    undampened_first_step: bool = False,
) -> Transient:
    """Exact covariance of (w, v) at the given steps after a change, equation (T1); needs no commutation.

    Args:
        problem: H and C before the change, and after it unless `problem_after` is given.
        before: the optimizer whose stationary law is the initial state; None where `initial` is given.
        after: the optimizer from step 1 on; of the same form as `before`.
        steps: numbers of updates since the change, rising, in [0, 10¹²]; a cost per entry that does not depend on k.
        initial: covariance of (w, v) at step 0, shape ``(2m, 2m)``, or of w alone with v = 0, shape ``(m, m)``,
            instead of the stationary law of `before`; v in the units of the form.
        problem_after: H and C after the change, if they change too.
        undampened_first_step: torch's start, v₁ = g₁ whatever the dampening; needs an `initial` of w alone.

    Returns:
        `Transient`, K entries in the order of `steps`; its status is UNSETTLED where some mode has no stationary law
        after the change (`stability` says which).

    Raises:
        UnstableError: if `before` has no stationary law (pass `initial`), or an unstable `after` overflows.
        ValueError: if steps are negative, not integers, not rising or beyond 10¹²; if dimensions differ; if `before`
            and `after` differ in form; if `initial` is not a covariance.
        TypeError: if a problem or an optimizer is of another type.
    """
    where = "transient_covariance"
    checked = checked_steps(steps, where)
    changed = problem if problem_after is None else problem_after
    for name, value in (("problem", problem), ("problem_after", changed)):
        require_type(value, Quadratic, f"{where}({name}=...)")
    require_type(after, MomentumSGD, f"{where}(after=...)")
    require_type(before, (MomentumSGD, type(None)), f"{where}(before=...)")
    if changed.dimension != problem.dimension:
        raise ValueError(
            f"`{where}(problem_after=...)` must have the dimension of `problem`; "
            f"got {changed.dimension} against {problem.dimension}."
        )
    if before is not None and before.form != after.form:
        raise ValueError(
            f"`{where}(after=...)` must have the form of `before`; got {after.form!r} and {before.form!r}."
        )
    seen = frame(changed, after)
    if initial is not None:
        checked_first_step(undampened_first_step, after, np.asarray(initial).shape == (problem.dimension,) * 2, where)
        state = seen.inward(as_blocks(checked_covariance(initial, problem.dimension, where)))
    elif before is None:
        raise ValueError(f"`{where}(before=...)` must be an optimizer unless `initial` is given; got None.")
    else:
        checked_first_step(undampened_first_step, after, False, where)
        origin = frame(problem, before)
        state = stationary_blocks(origin)
        if not (origin.modes.basis is None and seen.modes.basis is None and origin.scale is seen.scale is None):
            state = seen.inward(origin.outward(state))
    m = problem.dimension
    mode = companion(seen.curvatures, seen.optimizer)
    start = sandwich(mode.inward, state, mode.inward)
    forcing = mode.kick**2 * seen.noise
    value, velocity, cross = (np.empty((len(checked), m, m)) for _ in range(3))
    for index, k in enumerate(checked):
        moved = state
        if k:
            begun, left = start, int(k)
            if undampened_first_step:
                first = companion(seen.curvatures, undampened(seen.optimizer))
                begun = _advanced(first, first.kick**2 * seen.noise, start, 1)
                # (x, y) belong to a mode's recursion: out by the first step's, in again by the others'.
                begun = sandwich(mode.inward, sandwich(first.outward, begun, first.outward), mode.inward)
                left -= 1
            inner = _advanced(mode, forcing, begun, left)
            if not np.isfinite(inner).all():
                _raise_overflow(mode, seen, int(k), where)
            moved = sandwich(mode.outward, inner, mode.outward)
        value[index] = _symmetric(seen.block(moved[0, 0]))
        velocity[index] = _symmetric(seen.block(moved[1, 1], 1, 1))
        cross[index] = seen.block(moved[0, 1], 0, 1)
    edge = stability(changed, after)
    return Transient(
        value=value,
        rest=Rest(velocity=velocity, cross=cross),
        status=Status.OK if edge.stable.all() else Status.UNSETTLED,
        method=where,
        spectral_radius=float(mode.spectral_radius.max()),
        steps=checked,
        stability=edge,
    )


def mean_path(
    problem: Quadratic,
    optimizer: MomentumSGD,
    initial: ArrayLike,
    steps: int | Sequence[int] | NDArray[np.integer],
    *,
    undampened_first_step: bool = False,
) -> NDArray[np.float64]:
    """Mean of (w, v) at the given steps, whatever the noise, equation (T1).

    Args:
        problem: H and w* (C plays no part). With weight decay the path ends at `stationary_mean`, not at w*.
        optimizer: the recursion, stable or not.
        initial: m₀ of (w, v), shape ``(2m,)``, or of w with v = 0, shape ``(m,)``, in the coordinates of the problem.
        steps: numbers of updates, rising, in [0, 10¹²].
        undampened_first_step: torch's start, v₁ = g₁ whatever the dampening; needs an `initial` of w alone.

    Returns:
        Shape ``(K, 2m)``.

    Raises:
        UnstableError: if an unstable path overflows.
        ValueError: if `initial` has another shape or is not finite, or a step is out of order.
        TypeError: if the problem or the optimizer is of another type.
    """
    where = "mean_path"
    require_type(problem, Quadratic, f"{where}(problem=...)")
    require_type(optimizer, MomentumSGD, f"{where}(optimizer=...)")
    checked = checked_steps(steps, where)
    m = problem.dimension
    start = checked_mean(initial, m, f"{where}(initial")
    checked_first_step(undampened_first_step, optimizer, np.shape(initial) == (m,), where)
    seen = frame(problem, optimizer)
    mode = companion(seen.curvatures, seen.optimizer)
    place = np.stack([seen.optimum, np.zeros(m)])
    pull = seen.optimizer.weight_decay * seen.optimum
    away = seen.inward_mean(start.reshape(2, m)) - place
    if undampened_first_step:
        away = _mean_after(companion(seen.curvatures, undampened(seen.optimizer)), away, pull, 1)
    path = np.empty((len(checked), 2 * m))
    for index, k in enumerate(checked):
        if k == 0:
            path[index] = start
            continue
        moved = _mean_after(mode, away, pull, int(k) - undampened_first_step)
        if not np.isfinite(moved).all():
            _raise_overflow(mode, seen, int(k), where)
        path[index] = seen.outward_mean(moved + place).reshape(-1)
    return path


def undampened(optimizer: MomentumSGD) -> MomentumSGD:
    """What torch does in its first step, whose buffer starts empty: the same without dampening."""
    return replace(optimizer, dampening=0.0)


def checked_first_step(undampened_first_step: bool, optimizer: MomentumSGD, at_rest: bool, where: str) -> None:
    """Refuse torch's first step where it has no meaning.

    Raises:
        ValueError: if it is asked for in the position form, or of a state that has a buffer already.
    """
    if not undampened_first_step:
        return
    if optimizer.form != "pytorch":
        raise ValueError(f"`{where}(undampened_first_step=True)` needs form='pytorch'; got {optimizer.form!r}.")
    if not at_rest:
        raise ValueError(
            f"`{where}(undampened_first_step=True)` needs an initial state of w alone, shape (m, m) or a mean of shape "
            "(m,): torch's buffer starts empty; got a state with a buffer."
        )


def as_blocks(state: NDArray[np.float64]) -> NDArray[np.float64]:
    """A state covariance ``(2m, 2m)`` as blocks ``(2, 2, m, m)``."""
    m = len(state) // 2
    return state.reshape(2, m, 2, m).transpose(0, 2, 1, 3)


def checked_steps(steps: int | Sequence[int] | NDArray[np.integer], where: str) -> NDArray[np.int64]:
    """`steps` as rising int64 of shape ``(K,)``.

    Raises:
        ValueError: if there is none, or one is negative, not an integer, not above its predecessor, or beyond 10¹².
    """
    listed = list(np.atleast_1d(np.asarray(steps, dtype=object)).ravel())
    if not listed:
        raise ValueError(f"`{where}(steps=...)` must name at least one step; got none.")
    for entry in listed:
        if isinstance(entry, (bool, np.bool_)) or not isinstance(entry, (int, np.integer)):
            raise ValueError(f"`{where}(steps=...)` must be integers; got {entry!r}.")
        if not 0 <= entry <= MAX_STEPS:
            raise ValueError(f"`{where}(steps=...)` must be in [0, {MAX_STEPS:.0e}]; got {entry}.")
    for first, second in itertools.pairwise(listed):
        if second <= first:
            raise ValueError(f"`{where}(steps=...)` must rise; got {first} before {second}.")
    return np.array([int(entry) for entry in listed], dtype=np.int64)


def checked_covariance(initial: ArrayLike, dimension: int, where: str) -> NDArray[np.float64]:
    """An initial covariance as ``(2m, 2m)``; one of w alone gets v = 0.

    Raises:
        ValueError: if the shape is neither, or it is not finite, not symmetric or has a negative variance.
    """
    state = np.asarray(initial, dtype=np.float64)
    m = dimension
    if state.shape not in ((m, m), (2 * m, 2 * m)):
        raise ValueError(f"`{where}(initial=...)` must have shape {(2 * m, 2 * m)} or {(m, m)}; got {state.shape}.")
    if not np.isfinite(state).all():
        raise ValueError(f"`{where}(initial=...)` must be finite; got {int((~np.isfinite(state)).sum())} bad entries.")
    scale = float(np.abs(state).max())
    if float(np.abs(state - state.T).max()) > 1e-8 * scale:
        raise ValueError(
            f"`{where}(initial=...)` must be symmetric; got an asymmetry of {np.abs(state - state.T).max():.3g}."
        )
    # A full eigenvalue test would refuse rounded states whose blocks differ in scale by 16 digits.
    spread = np.sqrt(np.abs(np.diag(state)))
    if (np.diag(state) < 0).any() or (np.abs(state) > (1 + 1e-8) * np.multiply.outer(spread, spread)).any():
        raise ValueError(
            f"`{where}(initial=...)` must be a covariance, |M_ij|² <= M_ii M_jj; got a smallest variance of "
            f"{np.diag(state).min():.6g}."
        )
    if len(state) == m:
        return np.block([[state, np.zeros((m, m))], [np.zeros((m, m)), np.zeros((m, m))]])
    return state


def checked_mean(initial: ArrayLike, dimension: int, where: str) -> NDArray[np.float64]:
    """An initial mean as ``(2m,)``; one of w alone gets v = 0. `where` names call and argument: ``"f(initial"``.

    Raises:
        ValueError: if the shape is neither or it is not finite.
    """
    mean = np.asarray(initial, dtype=np.float64)
    if mean.shape not in ((dimension,), (2 * dimension,)):
        raise ValueError(f"`{where}=...)` must have shape {(2 * dimension,)} or {(dimension,)}; got {mean.shape}.")
    if not np.isfinite(mean).all():
        raise ValueError(f"`{where}=...)` must be finite; got {int((~np.isfinite(mean)).sum())} bad entries.")
    return mean if len(mean) == 2 * dimension else np.concatenate([mean, np.zeros(dimension)])


def _advanced(mode: Companion, forcing: NDArray, start: NDArray, steps: int) -> NDArray[np.float64]:
    """M_k in the coordinates (x, y)."""
    if steps == 0:
        return start
    with np.errstate(over="ignore", invalid="ignore"):
        lifted = power(mode, steps)
        carried = _flips(lifted.flip) * sandwich(lifted.matrix, start, lifted.matrix)
        return carried + _noise_sum(mode, forcing, steps)


def _noise_sum(mode: Companion, forcing: NDArray, steps: int) -> NDArray[np.float64]:
    """N_k = Σ_{l<k} Fˡ Q Fˡᵀ in the coordinates (x, y), without cancellation."""
    if mode.stable.all() and steps * float(mode.contraction.min()) >= _SETTLED:
        limit = stationary_state(mode, forcing)
        lifted = power(mode, steps)
        moved = from_left(lifted.less_one, limit)
        near = -(moved + from_right(limit + moved, lifted.less_one))
        flips = _flips(lifted.flip)
        if (flips > 0).all():
            return near
        return np.where(flips > 0, near, limit + sandwich(lifted.matrix, limit, lifted.matrix))
    kick = np.broadcast_to(forcing, (2, 2, *forcing.shape))
    once = power(mode, 1)
    total, done = np.array(kick), 1
    for bit in bin(steps)[3:]:
        lifted = power(mode, done)
        total = total + _flips(lifted.flip) * sandwich(lifted.matrix, total, lifted.matrix)
        done *= 2
        if bit == "1":
            total = kick + _flips(once.flip) * sandwich(once.matrix, total, once.matrix)
            done += 1
    return total


def _mean_after(
    mode: Companion, away: NDArray[np.float64], pull: NDArray[np.float64], steps: int
) -> NDArray[np.float64]:
    """Means (w − w*, v), ``(2, m)``, after `steps` under a steady pull f in the gradient."""
    if steps == 0:
        return away
    with np.errstate(over="ignore", invalid="ignore"):
        lifted = power(mode, steps)
        inner = lifted.flip * _apply(lifted.matrix, _apply(mode.inward, away))
        if pull.any():
            inner = inner + mode.kick * pull * _pull_response(mode, lifted, steps)
        return _apply(mode.outward, inner)


def _pull_response(mode: Companion, lifted: Power, steps: int) -> NDArray[np.float64]:
    """Σ_{l<k} (sG)ˡ (1, 1) of every mode in the coordinates (x, y), ``(2, m)``.

    Modes with s = 1 by doubling, a sum that also exists where nothing pulls back (p = 0). Modes with s = −1, where it
    alternates, as z̄ − sᵏGᵏ z̄ around the fixed point z̄ = (1, 2)/(2(1+D) − p), whose denominator is far from 0.
    """
    total, done = np.ones((2, len(mode.sign))), 1
    once = power(mode, 1)
    for bit in bin(steps)[3:]:
        half = power(mode, done)
        total = total + half.flip * _apply(half.matrix, total)
        done *= 2
        if bit == "1":
            total = 1.0 + once.flip * _apply(once.matrix, total)
            done += 1
    fixed = np.stack([np.ones_like(mode.sign), np.full_like(mode.sign, 2.0)]) / (2.0 * (1.0 + mode.product) - mode.gap)
    return np.where(mode.sign > 0, total, fixed - lifted.flip * _apply(lifted.matrix, fixed))


def _apply(matrix: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A_i z_i for all modes: ``(2, 2, m)`` on ``(2, m)``."""
    return np.stack([matrix[p, 0] * rows[0] + matrix[p, 1] * rows[1] for p in (0, 1)])


def _flips(flip: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.multiply.outer(flip, flip)


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (matrix + matrix.T)


def _raise_overflow(mode: Companion, seen: Frame, steps: int, where: str) -> None:
    worst = int(np.argmax(mode.spectral_radius))
    curvature, radius = float(seen.curvatures[worst]), float(mode.spectral_radius[worst])
    raise UnstableError(
        f"`{where}(steps=...)` must leave the state within the float range; got {steps} steps, after which mode "
        f"{worst} (curvature {curvature:.6g}, spectral radius {radius:.6g}) overflows."
    )
