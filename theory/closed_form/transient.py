r"""After a change of learning rate, momentum, curvature or noise: the exact covariance and mean at any later step.

Model     z = (w, v) obeys z₊ = F z + G ξ. At step 0 its law has mean m₀ and covariance M₀; from then on F and C are
          those of `after`. What v carries across the change is up to the form: PyTorch keeps the buffer and
          thereby rescales the displacement −ηv by η₂/η₁, the position form keeps the displacement.
Result    M_k = Fᵏ M₀ Fᵏᵀ + N_k,   N_k = Σ_{l<k} Fˡ Q Fˡᵀ,   m_k = Fᵏ m₀                                       (T1)
          mode pair by mode pair with the 2×2 powers of `powers`; no commutation of H and C is needed.
          Where some k(1−D) < 4 (k within the memory of the momentum), N_k doubles: N_{2n} = N_n + Fⁿ N_n Fⁿᵀ, a sum of
          like signs in at most log₂(4/(1−μ)) rounds. Beyond, N_k = −(E M∞ + M∞ Eᵀ + E M∞ Eᵀ) with E = Fᵏ − 1 formed
          directly, where M∞ − Fᵏ M∞ Fᵏᵀ would lose all digits of a mode that has hardly moved (7 at a = 2·10⁻⁷).
Limits    k = 0: M₀.   k → ∞: the stationary law.   Nothing changed: M_k = M₀ for all k.
          An unstable `after` has no M∞, but M_k all the same; it is doubled in log₂ k rounds.
Oracle    `theory.oracle`: the recursion unrolled in extended precision, and simulation.
Source    Own derivation; textbook linear recursions (Hamilton 1994, §10.1). Xu and Zhang, arXiv 2410.07719, Theorem 4.7
          approximates it (`interpolation`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.powers import Companion, companion, from_left, from_right, power, sandwich, stationary_state
from theory.closed_form.stationary import stable_modes
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError

#: Largest number of steps; the phase of a complex root is right to 1e-15 up to here.
MAX_STEPS = 10**12
#: k(1−D) above which M∞ is within reach and the doubling ends.
_SETTLED = 4.0


@dataclass(frozen=True, kw_only=True)
class Transient:
    """Covariance of the state (w, v) at each of K recorded steps, in the coordinates of the problem.

    Args:
        steps: updates done since the change, shape ``(K,)``.
        value: Cov(w), shape ``(K, m, m)``.
        velocity: Cov(v), shape ``(K, m, m)``; v as the form of the optimizer defines it.
        cross: E w vᵀ, shape ``(K, m, m)``.
        spectral_radius: ρ of the transition after the change; ≥ 1 where nothing settles.
    """

    steps: NDArray[np.int64]
    value: NDArray[np.float64]
    velocity: NDArray[np.float64]
    cross: NDArray[np.float64]
    spectral_radius: float

    def state(self) -> NDArray[np.float64]:
        """Covariance of (w, v), shape ``(K, 2m, 2m)``."""
        return np.block([[self.value, self.cross], [self.cross.transpose(0, 2, 1), self.velocity]])


def transient_covariance(
    problem: Quadratic,
    before: MomentumSGD | None,
    after: MomentumSGD,
    steps: int | Sequence[int] | NDArray[np.integer],
    initial: ArrayLike | None = None,
    *,
    problem_after: Quadratic | None = None,
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

    Returns:
        `Transient`, K entries in the order of `steps`.

    Raises:
        UnstableError: if `before` has no stationary law (pass `initial`), or an unstable `after` overflows.
        ValueError: if steps are negative, not integers, not rising or beyond 10¹²; if dimensions differ; if `before`
            and `after` differ in form; if `initial` is not a covariance.
    """
    where = "transient_covariance"
    checked = checked_steps(steps, where)
    changed = problem if problem_after is None else problem_after
    if changed.dimension != problem.dimension:
        raise ValueError(
            f"`{where}(problem_after=...)` must have the dimension of `problem`; "
            f"got {changed.dimension} against {problem.dimension}."
        )
    if before is not None and before.form != after.form:
        raise ValueError(
            f"`{where}(after=...)` must have the form of `before`; got {after.form!r} and {before.form!r}."
        )
    frame = eigenbasis(changed)
    if initial is not None:
        natural = blocks(checked_covariance(initial, problem.dimension, where), frame)
    elif before is None:
        raise ValueError(f"`{where}(before=...)` must be an optimizer unless `initial` is given; got None.")
    else:
        origin = frame if changed is problem else eigenbasis(problem)
        natural = _carried(stationary_blocks(origin, before), origin, frame)
    mode = companion(frame.curvatures, after)
    start = sandwich(mode.inward, natural, mode.inward)
    forcing = mode.kick**2 * frame.noise
    m = problem.dimension
    value, velocity, cross = (np.empty((len(checked), m, m)) for _ in range(3))
    for index, k in enumerate(checked):
        state = _advanced(mode, forcing, start, int(k))
        if not np.isfinite(state).all():
            _raise_overflow(mode, frame, int(k), where)
        moved = sandwich(mode.outward, state, mode.outward) if k else natural
        value[index] = _symmetric(frame.outward(moved[0, 0]))
        velocity[index] = _symmetric(frame.outward(moved[1, 1]))
        cross[index] = frame.outward(moved[0, 1])
    radius = float(mode.spectral_radius.max())
    return Transient(steps=checked, value=value, velocity=velocity, cross=cross, spectral_radius=radius)


def mean_path(
    problem: Quadratic,
    optimizer: MomentumSGD,
    initial: ArrayLike,
    steps: int | Sequence[int] | NDArray[np.integer],
) -> NDArray[np.float64]:
    """Mean of (w, v) at the given steps, m_k = Fᵏ m₀, whatever the noise.

    Args:
        problem: H (C plays no part). The optimum is the origin: with weight decay δ, w counts from the shifted optimum
            (H + δ)⁻¹ H w*.
        optimizer: the recursion, stable or not.
        initial: m₀ of (w, v), shape ``(2m,)``, or of w with v = 0, shape ``(m,)``.
        steps: numbers of updates, rising, in [0, 10¹²].

    Returns:
        Shape ``(K, 2m)``.

    Raises:
        UnstableError: if an unstable path overflows.
        ValueError: if `initial` has another shape or is not finite, or a step is out of order.
    """
    checked = checked_steps(steps, "mean_path")
    m = problem.dimension
    start = checked_mean(initial, m, "mean_path(initial")
    frame = eigenbasis(problem)
    mode = companion(frame.curvatures, optimizer)
    rows = np.stack([start[:m], start[m:]])
    inner = _apply(mode.inward, rows if frame.basis is None else rows @ frame.basis)
    path = np.empty((len(checked), 2 * m))
    for index, k in enumerate(checked):
        if k == 0:
            path[index] = start
            continue
        lifted = power(mode, int(k))
        moved = _apply(mode.outward, lifted.flip * _apply(lifted.matrix, inner))
        if not np.isfinite(moved).all():
            _raise_overflow(mode, frame, int(k), "mean_path")
        path[index] = (moved if frame.basis is None else moved @ frame.basis.T).reshape(-1)
    return path


def stationary_blocks(frame: Eigenbasis, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Stationary covariance of (w, v) in H's eigenbasis as blocks ``(2, 2, m, m)``, margins formed in pairs of doubles.

    Raises:
        UnstableError: naming the worst mode and the largest stable learning rate.
    """
    mode = companion(frame.curvatures, optimizer)
    if not mode.stable.all():
        stable_modes(frame.curvatures, optimizer)  # raises with the reason, unless rounding hides it
        raise UnstableError(
            f"`MomentumSGD(learning_rate=...)` must keep every mode stable; got {optimizer.learning_rate}, at which "
            f"mode {int(np.argmin(mode.gap))} sits on the edge."
        )
    inner = stationary_state(mode, mode.kick**2 * frame.noise)
    return sandwich(mode.outward, inner, mode.outward)


def blocks(state: NDArray[np.float64], frame: Eigenbasis) -> NDArray[np.float64]:
    """A state covariance ``(2m, 2m)`` as blocks ``(2, 2, m, m)`` in an eigenbasis."""
    m = len(state) // 2
    parts = ((state[:m, :m], state[:m, m:]), (state[m:, :m], state[m:, m:]))
    return np.array([[frame.inward(part) for part in row] for row in parts])


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


def _carried(state: NDArray, origin: Eigenbasis, frame: Eigenbasis) -> NDArray[np.float64]:
    """Blocks from one eigenbasis to another."""
    if origin is frame or (origin.basis is None and frame.basis is None):
        return state
    return np.array([[frame.inward(origin.outward(state[p, r])) for r in (0, 1)] for p in (0, 1)])


def _apply(matrix: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """A_i z_i for all modes: ``(2, 2, m)`` on ``(2, m)``."""
    return np.stack([matrix[p, 0] * rows[0] + matrix[p, 1] * rows[1] for p in (0, 1)])


def _flips(flip: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.multiply.outer(flip, flip)


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (matrix + matrix.T)


def _raise_overflow(mode: Companion, frame: Eigenbasis, steps: int, where: str) -> None:
    worst = int(np.argmax(mode.spectral_radius))
    curvature, radius = float(frame.curvatures[worst]), float(mode.spectral_radius[worst])
    raise UnstableError(
        f"`{where}(steps=...)` must leave the state within the float range; got {steps} steps, after which mode "
        f"{worst} (curvature {curvature:.6g}, spectral radius {radius:.6g}) overflows."
    )
