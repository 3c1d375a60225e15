r"""Mean and covariance along any learning-rate path, exactly, with the quasi-stationary approximation beside them.

Model     z_{t+1} = F_t z_t + g_t ξ_t with the rate η_t of iteration t; H is constant up to a factor h_t, and C up to
          c_t. In H's eigenbasis F_t is 2×2 mode by mode, whatever C.
Result    Over a stretch of steps, with Φ the product of its F_t and ψ_s = F_{end} ⋯ F_{s+1} g_s √c_s for each mode,
              M_end = Φ M_start Φᵀ + C̃ ∘ Σ_s ψ_s ψ_sᵀ,                                                          (T3)
          a Gram matrix: 4 m² multiply-adds a step, in matrix products over many steps at once. The ψ_s of all stretches
          are built together, backwards from each end. Every term is a sum of squares on the diagonal: nothing cancels.
Quasi-stationary   Σ_t ≈ the stationary law at η_t, h_t, c_t: right while the path changes little within a memory
          1/(1 − ρ_t). Its error here is exact, not estimated.
Limits    Constant path: `transient_covariance`.   Infinitely slow path: quasi-stationary.
Oracle    The recursion unrolled step by step in extended precision; simulation.
Source    Own derivation; discrete time-varying Lyapunov recursion (Anderson and Moore 1979, §4.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.powers import from_left, from_right
from theory.closed_form.stationary import largest_stable_learning_rate, modes, weight_covariance
from theory.closed_form.transient import (
    blocks,
    checked_covariance,
    checked_mean,
    checked_steps,
    stationary_blocks,
)
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.solution import UnstableError

#: Longest stretch whose responses are built together.
_STRETCH = 256
#: Doubles of working memory for the responses of one batch of stretches (32 MiB).
_BATCH = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """The law of (w, v) at K recorded steps along a path, in the coordinates of the problem.

    Args:
        steps: updates done, shape ``(K,)``.
        learning_rates: the rate of the last update before each record (at step 0: of the optimizer), shape ``(K,)``.
        mean: E z, shape ``(K, 2m)``.
        value: Cov(w), shape ``(K, m, m)``.
        velocity: Cov(v), shape ``(K, m, m)``.
        cross: Cov(w, v), shape ``(K, m, m)``.
        quasi_stationary: Cov(w) of the stationary law at those rates, shape ``(K, m, m)``.
        quasi_stationary_error: ‖quasi − exact‖_F / ‖exact‖_F of Cov(w), shape ``(K,)``; 1 while the exact one is 0.
        worst_mode_error: the largest |quasi/exact − 1| over the variances along H's eigenvectors, shape ``(K,)``.
    """

    steps: NDArray[np.int64]
    learning_rates: NDArray[np.float64]
    mean: NDArray[np.float64]
    value: NDArray[np.float64]
    velocity: NDArray[np.float64]
    cross: NDArray[np.float64]
    quasi_stationary: NDArray[np.float64]
    quasi_stationary_error: NDArray[np.float64]
    worst_mode_error: NDArray[np.float64]

    def state(self) -> NDArray[np.float64]:
        """Covariance of (w, v), shape ``(K, 2m, 2m)``."""
        return np.block([[self.value, self.cross], [self.cross.transpose(0, 2, 1), self.velocity]])


def propagate(
    problem: Quadratic,
    optimizer: MomentumSGD,
    schedule: Schedule,
    steps: int | Sequence[int] | NDArray[np.integer],
    initial: ArrayLike | None = None,
    initial_mean: ArrayLike | None = None,
    *,
    noise_factors: ArrayLike | None = None,
    curvature_factors: ArrayLike | None = None,
) -> Propagation:
    """Exact mean and covariance of (w, v) along a learning-rate path, equation (T3); needs no commutation.

    Args:
        problem: H and C.
        optimizer: everything but the path. Its own rate is the one *before* the path starts.
        schedule: the rates of iterations 0, 1, …
        steps: numbers of updates at which to record, rising; the last is the length of the run.
        initial: covariance of (w, v) at step 0, ``(2m, 2m)``, or of w with v = 0, ``(m, m)``; by default the stationary
            law of `optimizer`.
        initial_mean: mean of (w, v), ``(2m,)``, or of w, ``(m,)``; by default 0.
        noise_factors: c_t > 0 by which C is multiplied in iteration t, shape ``(last step,)``; by default 1.
        curvature_factors: h_t > 0 by which H is multiplied in iteration t, shape ``(last step,)``; by default 1.

    Returns:
        `Propagation`, one entry a recorded step.

    Raises:
        UnstableError: if some rate is unstable (the message says at which iteration and in which mode).
        ValueError: if the path holds a rate that is not positive and finite, steps are out of order, a factor is not
            positive, or a shape is wrong.
    """
    recorded = checked_steps(steps, "propagate")
    length = int(recorded[-1])
    rates = schedule.rates(length) if length else np.empty(0)
    noise_factors = _factors(noise_factors, length, "noise_factors")
    curvature_factors = _factors(curvature_factors, length, "curvature_factors")
    frame = eigenbasis(problem)
    _check_stability(frame, optimizer, rates, curvature_factors)
    m = problem.dimension
    if initial is None:
        covariance = stationary_blocks(frame, optimizer)
    else:
        covariance = blocks(checked_covariance(initial, m, "propagate"), frame)
    start = np.zeros(2 * m) if initial_mean is None else checked_mean(initial_mean, m, "propagate(initial_mean")
    mean = start.reshape(2, m) if frame.basis is None else start.reshape(2, m) @ frame.basis

    means, states = np.empty((len(recorded), 2, m)), np.empty((len(recorded), 2, 2, m, m))
    wanted = {int(step): index for index, step in enumerate(recorded)}
    if 0 in wanted:
        means[wanted[0]], states[wanted[0]] = mean, covariance
    amplitude = np.sqrt(noise_factors)
    for ends, maps, grams in _stretches(frame, optimizer, rates, curvature_factors, amplitude, recorded):
        for end, transition, gram in zip(ends, maps, grams, strict=True):
            covariance = from_right(from_left(transition, covariance), transition) + gram * frame.noise
            mean = np.stack([transition[p, 0] * mean[0] + transition[p, 1] * mean[1] for p in (0, 1)])
            if int(end) in wanted:
                means[wanted[int(end)]], states[wanted[int(end)]] = mean, covariance
    last = np.maximum(recorded - 1, 0)
    begun = recorded > 0
    current = np.where(begun, rates[last] if length else 0.0, optimizer.learning_rate)
    noise_now = np.where(begun, noise_factors[last] if length else 1.0, 1.0)
    curvature_now = np.where(begun, curvature_factors[last] if length else 1.0, 1.0)
    quasi = np.stack(
        [
            float(noise_factor)
            * _stationary_weights(frame, float(factor), replace(optimizer, learning_rate=float(rate)))
            for rate, factor, noise_factor in zip(current, curvature_now, noise_now, strict=True)
        ]
    )
    exact = _symmetric(states[:, 0, 0])
    variances, approximate = np.einsum("kii->ki", exact), np.einsum("kii->ki", quasi)
    return Propagation(
        steps=recorded,
        learning_rates=current,
        mean=(means if frame.basis is None else means @ frame.basis.T).reshape(len(recorded), 2 * m),
        value=_outward(frame, exact),
        velocity=_outward(frame, _symmetric(states[:, 1, 1])),
        cross=_outward(frame, states[:, 0, 1]),
        quasi_stationary=_outward(frame, quasi),
        quasi_stationary_error=_relative(
            np.linalg.norm(quasi - exact, axis=(1, 2)), np.linalg.norm(exact, axis=(1, 2))
        ),
        worst_mode_error=_relative(np.abs(approximate - variances), variances).max(axis=1),
    )


def _stretches(
    frame: Eigenbasis,
    optimizer: MomentumSGD,
    rates: NDArray[np.float64],
    curvature_factors: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    recorded: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Batches of stretches: their ends ``(n,)``, transitions Φ ``(n, 2, 2, m)``, noise Grams ``(n, 2, 2, m, m)``."""
    m = len(frame.curvatures)
    edges = np.union1d(np.arange(0, len(rates), _STRETCH), np.concatenate([[0], recorded]))
    edges = np.union1d(edges, [len(rates)])
    batch = max(1, _BATCH // (2 * m * max(_STRETCH, 2 * m)))
    for first in range(0, len(edges) - 1, batch):
        starts, ends = edges[first : first + batch + 1][:-1], edges[first : first + batch + 1][1:]
        transitions, responses = _responses(
            frame.curvatures, optimizer, rates, curvature_factors, amplitude, starts, ends
        )
        flat = responses.reshape(len(starts), -1, 2 * m)
        grams = (flat.transpose(0, 2, 1) @ flat).reshape(len(starts), 2, m, 2, m).transpose(0, 1, 3, 2, 4)
        yield ends, transitions, grams


def _responses(
    curvatures: NDArray[np.float64],
    optimizer: MomentumSGD,
    rates: NDArray[np.float64],
    curvature_factors: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Φ ``(n, 2, 2, m)`` of each stretch and the responses ψ ``(n, B, 2, m)`` at its end to the noise of its steps.

    A row (p, q) of what later steps do to (w, v) is pulled back through one step without forming F. With r the weight
    that v₊ gets (PyTorch q − ηℓp, position form p + q) and e that of the gradient H w + ξ,
        p ← p + e (λ + decay),   q ← μ r,   ψ = e,
    where e = (1−d) r − ηkp, −(1−d) η r in the two forms; (k, ℓ) is the optimizer's direction.
    """
    mu, keep = optimizer.momentum, 1.0 - optimizer.dampening
    on_gradient, on_buffer = optimizer.direction
    count, m = len(starts), len(curvatures)
    depth = int((ends - starts).max()) if count else 0
    identity = np.broadcast_to(np.eye(2)[:, :, None], (2, 2, m))
    p, q = (np.array(np.broadcast_to(identity[:, c], (count, 2, m))) for c in (0, 1))
    responses = np.zeros((count, depth, 2, m))
    for back in range(depth):
        # Stretches shorter than the others stop early; once sorted out, the rest goes on.
        live = np.flatnonzero(ends - back > starts)
        everything = len(live) == count
        at = ends[live] - 1 - back
        eta = rates[at][:, None, None]
        p_now, q_now = (p, q) if everything else (p[live], q[live])
        if optimizer.form == "position":
            r = p_now + q_now
            e = (-keep * eta) * r
        else:
            r = q_now - (on_buffer * eta) * p_now
            e = keep * r - (on_gradient * eta) * p_now
        slope = curvature_factors[at][:, None, None] * curvatures + optimizer.weight_decay
        p_now, q_now = p_now + e * slope, mu * r
        kicked = amplitude[at][:, None, None] * e
        if everything:
            p, q, responses[:, back] = p_now, q_now, kicked
        else:
            p[live], q[live], responses[live, back] = p_now, q_now, kicked
    return np.stack([p, q], axis=2), responses


def _stationary_weights(frame: Eigenbasis, curvature_factor: float, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Cov(w) of the stationary law in H's eigenbasis, (S2), with H scaled by a factor."""
    return weight_covariance(modes(frame.curvatures * curvature_factor, optimizer), frame.noise, optimizer)


def _check_stability(
    frame: Eigenbasis,
    optimizer: MomentumSGD,
    rates: NDArray[np.float64],
    curvature_factors: NDArray[np.float64],
) -> None:
    sharpest = int(np.argmax(frame.curvatures))
    curvature = float(frame.curvatures[sharpest])
    limits = np.array([largest_stable_learning_rate(curvature * h, optimizer) for h in np.unique(curvature_factors)])
    limit = limits[np.unique(curvature_factors, return_inverse=True)[1]] if len(limits) else np.empty(0)
    bad = np.flatnonzero(rates >= limit)
    if len(bad):
        at = int(bad[0])
        raise UnstableError(
            f"`propagate(schedule=...)` must stay below {limit[at]:.6g}; got {rates[at]:.6g} at iteration {at}, which "
            f"is unstable in mode {sharpest} (curvature {curvature * curvature_factors[at]:.6g})."
        )


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


def _relative(difference: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ratio difference / size; 1 where there is nothing yet to be compared with."""
    return np.where(size > 0, difference / np.where(size > 0, size, 1.0), np.where(difference > 0, 1.0, 0.0))


def _outward(frame: Eigenbasis, stack: NDArray[np.float64]) -> NDArray[np.float64]:
    return stack if frame.basis is None else frame.basis @ stack @ frame.basis.T


def _symmetric(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (stack + stack.transpose(0, 2, 1))
