r"""Shuffled epochs: sampling without replacement makes gradient noise anticorrelated, and the posterior narrower.

Model     Each epoch cuts a fresh permutation of the data into M batches. The M noises of one epoch add up to zero, so
          within an epoch Cov(ξ_s, ξ_t) = C (δ_st (1−r) + r) with r = −1/(M−1), and epochs are independent.
Result 1  Averaged over the position in the epoch the noise is stationary, with lag-h correlation
              c_h = −(M−h)/(M(M−1)),  1 ≤ h < M,                                                      (1)
          and filtering it by the AR(2) recursion w₊ = (1+μ−a) w − μ w₋ − ηξ, a = ηλ, gives
              σ²_mean / σ²_white = 1 + 2 Σ_h c_h ρ_h = 2/(M(M−1)) Σ_h (M−h)(1−ρ_h),                   (2)
          where e_h = 1−ρ_h obeys e_{h+1} = (1+μ−a) e_h − μ e_{h−1} + a, e_0 = 0, e_1 = a/(1+μ): no cancellation.
Result 2  The law is cyclostationary. With F the transition of a mode, h_j = F^j G its response to a noise j steps old
          and s_t = Σ_{j<t} h_j, the state covariance t steps into the epoch is
              P_t = F^t P_0 F^tᵀ + Q_t,   Q_t = C [(1−r) Σ_{j<t} (h_j−h̄_t)(h_j−h̄_t)ᵀ + ((1−r)/t + r) s_t s_tᵀ],
              P_0 = P_M = Σ_k F^{kM} Q_M F^{kM}ᵀ                                                       (3)
          because the weights at the start of an epoch know nothing of its permutation. Checkpoints are P_0.
Share     Fresh augmentation and attack starts do not repeat from epoch to epoch. If the share ρ_b of uᵢᵀCuᵢ does, r
          becomes ρ_b r and every factor f becomes 1 − ρ_b (1 − f).
Limits    M → ∞ at fixed a: 1. μ = 0 and aM → 0, on average: a (M+1)/3.
Numbers   M = 391, μ = 0.9, η = λ = 0.01: 0.0155 at the epoch end, 0.112 on average. M = 10, μ = 0.5, a = 0.01: 0.0501.
Oracle    `theory.oracle.sampling` draws real permutations.
Source    The phenomenon: Kühn & Rosenow, arXiv:2306.05300. (1) is the covariance of a finite population; (2) and (3)
          are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.mode_response import mode_response
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

Phase = Literal["end", "mean"] | int


@overload
def epoch_shuffling_factor(
    learning_rate: float,
    momentum: float,
    curvature: float,
    batches_per_epoch: int,
    phase: Phase = "end",
    repeated_share: float = 1.0,
) -> float: ...
@overload
def epoch_shuffling_factor(
    learning_rate: float,
    momentum: float,
    curvature: NDArray[np.float64],
    batches_per_epoch: int,
    phase: Phase = "end",
    repeated_share: ArrayLike = 1.0,
) -> NDArray[np.float64]: ...
def epoch_shuffling_factor(
    learning_rate: float,
    momentum: float,
    curvature: ArrayLike,
    batches_per_epoch: int,
    phase: Phase = "end",
    repeated_share: ArrayLike = 1.0,
) -> float | NDArray[np.float64]:
    """Weight variance under shuffled epochs over the white-noise variance (S1), equations (2) and (3).

    Args:
        learning_rate: η > 0.
        momentum: μ in [0, 1), heavy ball.
        curvature: λ > 0 in units of 1/η, a number or an array.
        batches_per_epoch: M ≥ 2.
        phase: ``"end"`` of an epoch (where checkpoints are taken), the ``"mean"`` over the epoch, or the number of
            steps done since the epoch began, 0 … M (0 and M are both the end).
        repeated_share: ρ_b in [0, 1], the share of the noise variance that lies between samples and so repeats; one
            number, or one for each curvature.

    Returns:
        The factor, dimensionless: a number for a number, else an array of the shape of ``curvature``.

    Raises:
        ValueError: if an argument is out of range.
        UnstableError: if ηλ ≥ 2(1+μ).
    """
    shape = np.shape(curvature)
    lam = np.asarray(curvature, dtype=np.float64).reshape(-1)
    count = _checked_batches(batches_per_epoch, "epoch_shuffling_factor")
    step = _checked_phase(phase, count, "epoch_shuffling_factor")
    share = _checked_share(repeated_share, "epoch_shuffling_factor").reshape(-1)
    if len(share) not in (1, len(lam)):
        raise ValueError(
            f"`epoch_shuffling_factor(repeated_share=...)` must be one number or {len(lam)}; got {len(share)}."
        )
    optimizer = MomentumSGD(learning_rate, momentum)
    white = stationary_covariance(Quadratic(lam, np.ones_like(lam)), optimizer)  # also refuses what is unstable
    if step is None:
        factor = _mean_factor(optimizer.learning_rate * lam, optimizer.momentum, count)
    else:
        modes = np.arange(len(lam))
        cycle = _Cycle.of(lam, optimizer, modes, modes, count, -1.0 / (count - 1), (step,), with_mean=False)
        factor = cycle.at[step][:, 0, 0] / np.diag(white.require())
    result = 1.0 - share * (1.0 - factor)
    return result.reshape(shape) if shape else float(result[0])


def shuffled_covariance(
    problem: Quadratic,
    optimizer: MomentumSGD,
    *,
    batches_per_epoch: int,
    phase: Phase = "end",
    repeated_share: float = 1.0,
    within_epoch_correlation: float | None = None,
) -> NDArray[np.float64]:
    """Covariance of the weights under shuffled epochs for any H and C, equation (3), shape ``(m, m)``.

    Args:
        problem: H and C, where C is the covariance of one mini-batch gradient.
        optimizer: momentum SGD in either form, with or without Nesterov, dampening and weight decay.
        batches_per_epoch: M ≥ 2.
        phase: as in `epoch_shuffling_factor`.
        repeated_share: ρ_b, as in `epoch_shuffling_factor`.
        within_epoch_correlation: r, by default −1/(M−1). With S samples a batch, N in all and the remainder dropped it
            is −S/(N−S), a little less than −1/(M−1) in size, since what is dropped varies.

    Raises:
        ValueError: if an argument is out of range, or r < −1/(M−1), where no such noise exists.
        UnstableError: if the recursion is unstable.
    """
    stationary_covariance(problem, optimizer)  # refuses what is unstable, naming the mode
    basis = eigenbasis(problem)
    count = _checked_batches(batches_per_epoch, "shuffled_covariance")
    step = _checked_phase(phase, count, "shuffled_covariance")
    share = float(_checked_share(repeated_share, "shuffled_covariance"))
    correlation = -1.0 / (count - 1) if within_epoch_correlation is None else float(within_epoch_correlation)
    if not -1.0 / (count - 1) <= correlation <= 1.0:
        raise ValueError(
            f"`shuffled_covariance(within_epoch_correlation=...)` must be in [−1/(M−1), 1]; got {correlation}."
        )
    left, right = np.triu_indices(len(basis.curvatures))
    steps = () if step is None else (step,)
    cycle = _Cycle.of(
        basis.curvatures, optimizer, left, right, count, share * correlation, steps, with_mean=step is None
    )
    unit = cycle.mean if step is None else cycle.at[step]
    rotated = np.empty((len(basis.curvatures),) * 2)
    rotated[left, right] = rotated[right, left] = unit[:, 0, 0] * basis.noise[left, right]
    value = basis.outward(rotated)
    return 0.5 * (value + value.T)


def _mean_factor(scaled_curvature: NDArray[np.float64], momentum: float, count: int) -> NDArray[np.float64]:
    """Equation (2), by the recursion for 1 − ρ_h."""
    total = np.zeros_like(scaled_curvature)
    before, now = np.zeros_like(scaled_curvature), scaled_curvature / (1.0 + momentum)
    for lag in range(1, count):
        total += (count - lag) * now
        # (1+μ−a) e_h − μ e_{h−1} + a written with differences: digits of a small e_h survive.
        before, now = now, now + momentum * (now - before) + scaled_curvature * (1.0 - now)
    return 2.0 * total / (count * (count - 1.0))


@dataclass(frozen=True)
class _Cycle:
    """State covariances (pairs, 2, 2) per unit of noise covariance, at chosen steps and on average."""

    at: dict[int, NDArray[np.float64]]
    mean: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        curvatures: NDArray[np.float64],
        optimizer: MomentumSGD,
        left: NDArray[np.intp],
        right: NDArray[np.intp],
        count: int,
        correlation: float,
        steps: tuple[int, ...],
        with_mean: bool,
    ) -> _Cycle:
        drift, first = mode_response(curvatures, optimizer)
        wanted = {step % count for step in steps}
        departed = np.zeros_like(drift)  # E_t = F^t − I, accumulated so that a small ηλ keeps its digits
        deviation = np.zeros_like(first)  # h_t − h_0
        total = np.zeros_like(first)  # Σ_{j<t} (h_j − h_0)
        squares = np.zeros((len(left), 2, 2))  # Σ_{j<t} (h_j − h_0)(h_j − h_0)ᵀ
        inside = {0: np.zeros_like(squares)}
        moved: dict[int, NDArray[np.float64]] = {0: departed}
        summed_noise = np.zeros_like(squares)
        summed_moves = np.zeros((len(left), 4, 4))
        finish = squares
        for done in range(count):
            if with_mean:
                summed_moves += _kronecker(departed + np.eye(2), left, right)
            total = total + deviation
            squares = squares + _outer(deviation, left, right)
            deviation = deviation + _apply(drift, first + deviation)
            departed = departed + drift @ (np.eye(2) + departed)
            steps_done = done + 1
            if with_mean or steps_done in wanted or steps_done == count:
                spread = squares - _outer(total, left, right) / steps_done
                reach = steps_done * first + total
                weight = (1.0 - correlation) / steps_done + correlation
                finish = (1.0 - correlation) * spread + weight * _outer(reach, left, right)
                if with_mean and steps_done < count:
                    summed_noise += finish
                if steps_done in wanted:
                    inside[steps_done], moved[steps_done] = finish, departed
        start = _periodic_sum(departed, finish, left, right)
        at = {step: _carried(moved[step], start, left, right) + inside[step] for step in wanted}
        at |= {step: at[step % count] for step in steps}
        carried = np.einsum("pij,pj->pi", summed_moves, start.reshape(-1, 4)).reshape(-1, 2, 2)
        return cls(at, (carried + summed_noise) / count)


def _periodic_sum(
    departed: NDArray[np.float64], noise: NDArray[np.float64], left: NDArray[np.intp], right: NDArray[np.intp]
) -> NDArray[np.float64]:
    """P = Σ_k A^k Q A^kᵀ with A = I + E, by doubling on E: (I+E)² = I + (2E + E²)."""
    total = noise
    for _ in range(64):  # 2⁶⁴ epochs: the slowest mode that float64 can tell from a mode that never moves
        added = _carried(departed, total, left, right)
        total = total + added
        if np.all(np.abs(added) <= 1e-17 * np.abs(total)):
            break
        departed = 2.0 * departed + departed @ departed
    return total


def _carried(
    departed: NDArray[np.float64], covariance: NDArray[np.float64], left: NDArray[np.intp], right: NDArray[np.intp]
) -> NDArray[np.float64]:
    transition = np.eye(2) + departed
    return transition[left] @ covariance @ np.swapaxes(transition[right], 1, 2)


def _outer(vectors: NDArray[np.float64], left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.float64]:
    return vectors[left, :, None] * vectors[right, None, :]


def _kronecker(matrices: NDArray[np.float64], left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.float64]:
    """Row-major vec(A P Bᵀ) = (A ⊗ B) vec(P), shape (pairs, 4, 4)."""
    return np.einsum("pik,pjl->pijkl", matrices[left], matrices[right]).reshape(-1, 4, 4)


def _apply(matrices: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("mij,mj->mi", matrices, vectors)


def _checked_batches(count: int, caller: str) -> int:
    if isinstance(count, bool) or int(count) != count or count < 2:
        raise ValueError(f"`{caller}(batches_per_epoch=...)` must be an integer >= 2; got {count!r}.")
    return int(count)


def _checked_share(share: ArrayLike, caller: str) -> NDArray[np.float64]:
    values = np.asarray(share, dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0.0).all() and (values <= 1.0).all()):
        raise ValueError(f"`{caller}(repeated_share=...)` must be in [0, 1]; got {share}.")
    return values


def _checked_phase(phase: Phase, count: int, caller: str) -> int | None:
    """The number of steps done in the epoch, or None for the mean."""
    if phase == "mean":
        return None
    if phase == "end":
        return 0
    if isinstance(phase, (bool, str)) or int(phase) != phase or not 0 <= phase <= count:
        raise ValueError(f"`{caller}(phase=...)` must be 'end', 'mean' or a step in 0 … {count}; got {phase!r}.")
    return int(phase)
