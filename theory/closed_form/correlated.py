r"""Gradient noise that remembers: exact covariance before, through and after a change under AR(1) noise.

Model     ξ_t = φ ξ_{t−1} + √(1−φ²) ε_t, Cov ξ_t = C at every t, and z = (w, v) as before: z₊ = F z + G ξ_t.
          Along an eigenvector of H, s = (w, v, ξ) is a three-step recursion driven by ε,
              s₊ = [[F, φ G], [0, φ]] s + √(1−φ²) (G, 1) ε.
Result    Mode pair by mode pair, powers and noise sums of these 3×3 maps by doubling, in log₂ k rounds; the stationary
          law is the limit of the doubling.
Reading   Persistent noise (φ > 0) widens flat directions by up to (1+φ)/(1−φ), the ratio of its spectrum at frequency 0
          to white noise; shuffled epochs are the opposite case (`shuffling`).
Limits    φ = 0: `transient_covariance`.   ηλ → 0: σ² → (1+φ)/(1−φ) times the white-noise value.
Oracle    Simulation; the dense recursion of (w, v, ξ).
Source    Own derivation; state augmentation is textbook (Anderson and Moore 1979, §11.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.mode_response import mode_response
from theory.closed_form.stability import stability, stable_modes
from theory.closed_form.transient import checked_steps
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import Rest, Solution, Status

#: Doublings after which any stable recursion with 1 − ρ > 1e-15 has settled.
_MAX_DOUBLINGS = 60


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CorrelatedTransient(Solution):
    """Covariance of (w, v, ξ) at K steps in the coordinates of the problem.

    Args:
        steps: updates since the change, shape ``(K,)``.
        augmented: covariance of s = (w, v, ξ), ξ the noise of the latest update, shape ``(K, 3m, 3m)``.
    """

    steps: NDArray[np.int64]
    augmented: NDArray[np.float64]


def correlated_transient(
    problem: Quadratic,
    before: MomentumSGD | None,
    after: MomentumSGD,
    steps: int | Sequence[int] | NDArray[np.integer],
    autocorrelation: float,
    initial: NDArray[np.float64] | None = None,
) -> CorrelatedTransient:
    """Exact covariance of (w, v, ξ) at the given steps after a change, with noise correlated over time.

    Args:
        problem: H and C; C = Cov ξ_t.
        before: optimizer whose stationary law under this noise is the initial state; None where `initial` is given.
        after: optimizer from step 1 on, of the same form.
        steps: updates since the change, rising.
        autocorrelation: φ in (−1, 1).
        initial: covariance of (w, v, ξ) at step 0, ``(3m, 3m)``, for instance an entry of `augmented`.

    Raises:
        UnstableError: if `before` has no stationary law.
        ValueError: if φ or a step is out of range, the forms differ, or `initial` has another shape.
    """
    if not abs(autocorrelation) < 1:
        raise ValueError(f"`correlated_transient(autocorrelation=...)` must be in (−1, 1); got {autocorrelation}.")
    if before is not None and before.form != after.form:
        raise ValueError(
            f"`correlated_transient(after=...)` must have the form of `before`; got {after.form!r} and {before.form!r}."
        )
    checked = checked_steps(steps, "correlated_transient")
    frame, m = eigenbasis(problem), problem.dimension
    if initial is not None:
        given = np.asarray(initial, dtype=np.float64)
        if given.shape != (3 * m, 3 * m) or not np.isfinite(given).all():
            raise ValueError(
                f"`correlated_transient(initial=...)` must be finite, shape {(3 * m, 3 * m)}; got {given.shape}."
            )
        start = np.stack(
            [[frame.inward(given[a * m : (a + 1) * m, b * m : (b + 1) * m]) for b in range(3)] for a in range(3)]
        )
    elif before is None:
        raise ValueError("`correlated_transient(before=...)` must be an optimizer unless `initial` is given; got None.")
    else:
        start = _stationary(frame, before, autocorrelation)
    step, forcing = _augmented(frame, after, autocorrelation)
    states = np.empty((len(checked), 3 * m, 3 * m))
    for index, k in enumerate(checked):
        transition, total = _doubled(step, forcing, int(k))
        state = _both_sides(transition, start) + total
        rows = [np.concatenate([frame.outward(block) for block in row], axis=1) for row in state]
        joined = np.concatenate(rows, axis=0)
        states[index] = 0.5 * (joined + joined.T)
    edge = stability(problem, after)
    return CorrelatedTransient(
        value=states[:, :m, :m],
        rest=Rest(velocity=states[:, m : 2 * m, m : 2 * m], cross=states[:, :m, m : 2 * m]),
        status=Status.OK if edge.stable.all() else Status.UNSETTLED,
        method="correlated_transient",
        spectral_radius=float(edge.spectral_radius.max()),
        steps=checked,
        augmented=states,
    )


def still_start(problem: Quadratic) -> NDArray[np.float64]:
    """Covariance of (w, v, ξ) with w = v = 0 and the noise already stationary, ``(3m, 3m)``."""
    m = problem.dimension
    state = np.zeros((3 * m, 3 * m))
    state[2 * m :, 2 * m :] = problem.dense_noise_cov()
    return state


def _augmented(
    frame: Eigenbasis, optimizer: MomentumSGD, autocorrelation: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step ``(3, 3, m)`` and forcing ``(3, 3, m, m)`` of s = (w, v, ξ)."""
    response = mode_response(frame.curvatures, optimizer)
    transition, inflow = response.transition.transpose(1, 2, 0), response.noise_input.T
    m = len(frame.curvatures)
    step = np.zeros((3, 3, m))
    step[:2, :2], step[:2, 2], step[2, 2] = transition, autocorrelation * inflow, autocorrelation
    enters = np.concatenate([inflow, np.ones((1, m))])
    fresh = (1.0 - autocorrelation) * (1.0 + autocorrelation)
    return step, fresh * enters[:, None, :, None] * enters[None, :, None, :] * frame.noise


def _stationary(frame: Eigenbasis, optimizer: MomentumSGD, autocorrelation: float) -> NDArray[np.float64]:
    stable_modes(frame.curvatures, optimizer)
    step, total = _augmented(frame, optimizer, autocorrelation)
    for _ in range(_MAX_DOUBLINGS):
        addition = _both_sides(step, total)
        total, step = total + addition, _product(step, step)
        if np.abs(step).max() < 1e-18:
            break
    return total


def _doubled(step: NDArray, forcing: NDArray, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fᵏ and Σ_{l<k} Fˡ Q Fˡᵀ, binary digit by binary digit of k from the top."""
    transition = np.zeros_like(step)
    transition[np.arange(3), np.arange(3)] = 1.0
    total = np.zeros_like(forcing)
    for bit in bin(count)[2:]:
        total = total + _both_sides(transition, total)
        transition = _product(transition, transition)
        if bit == "1":
            total, transition = forcing + _both_sides(step, total), _product(step, transition)
    return transition, total


def _both_sides(left: NDArray[np.float64], state: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("aci,cdij,bdj->abij", left, state, left, optimize=True)


def _product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("abi,bci->aci", left, right)
