r"""The posterior that training leaves in the top curvature directions: predicted, and measured on the trajectory.

Model     Mode i moves as momentum SGD on a quadratic of curvature λᵢ + β (β weight decay), driven by the batch means of
          the per-sample slopes p_n = uᵢ·g_n, whose variance is S²ᵢ (divisor N − 1). With h_ts the response of the
          weight at step t to the gradient of step s, for any learning-rate path,
              Var w_t = S² [ Σ_s h²_ts / B_s − ρ_b Σ_e (Σ_{s∈e} h_ts)² / N ],                            (P1)
          because the batch means of one shuffled epoch e have covariance S² (δ_st/B_s − 1/N): exact for uneven batches
          and for epochs begun in the middle. ρ_b is the share of the noise that repeats with the sample
          (`noise.repeated_share`); sampling with replacement is ρ_b = 0.
Limits    constant rate, ρ_b = 0, t → ∞: (S1). Constant rate, even batches, t → ∞ at the end of an epoch: (S1) times
          `theory.closed_form.shuffling.epoch_shuffling_factor`. Both are tests.
Trajectory  the weights of one run projected on a frozen basis, linear trend removed, with the effective sample size
          of a variance, T/τ₂ (`theory.judge.trajectory`). Modes whose relaxation time (1 − μ)/(ηλ) exceeds a tenth of
          the window, and windows in which the weight norm drifts, are not applicable: no stationary law can be seen
          there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from empirical.settings.measuring import SHORTEST_TRAJECTORY
from theory.closed_form.alignment import commutativity_price
from theory.judge.intervals import from_influences
from theory.judge.trajectory import trajectory_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic


def shuffled_transient_variance(
    curvatures: ArrayLike,
    slope_variances: ArrayLike,
    optimizer: MomentumSGD,
    learning_rates: ArrayLike,
    batch_sizes: Sequence[int] | NDArray[np.integer],
    *,
    num_samples: int,
    repeated_share: ArrayLike = 1.0,
    start_position: int = 0,
    record: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Variance of each mode after each recorded step, from a common start, equation (P1).

    Args:
        curvatures: λ of the data Hessian, shape ``(k,)``, or ``(T, k)`` where it changes from step to step; the
            optimizer's weight decay is added.
        slope_variances: S² of the per-sample slopes, shape ``(k,)`` or ``(T, k)``; a sample keeps its slope's sign and
            rank while the scale changes.
        optimizer: μ, dampening, Nesterov, weight decay and form (its own learning rate is not used).
        learning_rates: the rate of each of T steps, shape ``(T,)``.
        batch_sizes: sizes of an epoch's batches in order; the epoch repeats them.
        num_samples: N, samples that an epoch shuffles.
        repeated_share: ρ_b in [0, 1], a number or ``(k,)``; 0 is sampling with replacement.
        start_position: batches of the current epoch already done when the replicas part.
        record: steps (1 … T) after which the variance is wanted; default all.

    Returns:
        Shape ``(len(record), k)``.

    Raises:
        ValueError: if a length, a size or a share is out of range, or the form is not PyTorch's.
    """
    where = "shuffled_transient_variance"
    if optimizer.form != "pytorch":
        raise ValueError(f"`{where}(optimizer=...)` must be in PyTorch's form; got {optimizer.form!r}.")
    rates = np.asarray(learning_rates, dtype=np.float64)
    lam = np.atleast_1d(np.asarray(curvatures, dtype=np.float64)) + optimizer.weight_decay
    lam = np.broadcast_to(lam, (len(rates), lam.shape[-1]))
    scales = np.sqrt(np.broadcast_to(np.asarray(slope_variances, dtype=np.float64), lam.shape))
    share = np.broadcast_to(np.asarray(repeated_share, dtype=np.float64), lam.shape[-1:])
    sizes = np.asarray(batch_sizes, dtype=np.int64)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"`{where}(repeated_share=...)` must lie in [0, 1]; got {share}.")
    if len(sizes) == 0 or sizes.min() < 1 or (sizes.sum() != num_samples and (share > 0).any()):
        raise ValueError(f"`{where}(batch_sizes=...)` must be >= 1 and add up to {num_samples}; got {sizes.tolist()}.")
    if not 0 <= start_position < len(sizes):
        raise ValueError(f"`{where}(start_position=...)` must lie in [0, {len(sizes) - 1}]; got {start_position}.")
    mu, kick = optimizer.momentum, optimizer.gradient_share
    on_gradient, on_buffer = optimizer.direction
    wanted = np.arange(1, len(rates) + 1) if record is None else np.asarray(record, dtype=np.int64)
    steps = len(rates)
    position = (start_position + np.arange(steps)) % len(sizes)
    epoch = (start_position + np.arange(steps)) // len(sizes)
    out = np.empty((len(wanted), lam.shape[-1]))
    # Responses (weight, velocity) of every past step's unit gradient, all carried forward together.
    weight, velocity = np.zeros_like(scales), np.zeros_like(scales)
    place = {int(step): index for index, step in enumerate(wanted)}
    for now in range(steps):
        eta = rates[now]
        seen = slice(0, now + 1)
        gradient = lam[now] * weight[seen]
        gradient[now] += 1.0
        velocity[seen] = mu * velocity[seen] + kick * gradient
        weight[seen] -= eta * (on_gradient * gradient + on_buffer * velocity[seen])
        if now + 1 in place:
            response = weight[seen] * scales[seen]
            white = (response**2 / sizes[position[seen], None]).sum(axis=0)
            sums = np.add.reduceat(response, np.flatnonzero(np.diff(epoch[seen], prepend=-1)), axis=0)
            out[place[now + 1]] = white - share * (sums**2).sum(axis=0) / num_samples
    return out


@dataclass(frozen=True, kw_only=True)
class TrajectoryVariance:
    """Variance of each mode along one trajectory.

    Attributes:
        variances: variance about the linear trend, shape ``(k,)``.
        effective_samples: independent draws that would fix a variance as well, shape ``(k,)``.
        relaxation_times: (1 − μ)/(ηλ) in steps, at least 1/(1 − √μ), shape ``(k,)``.
        applicable: relaxation time at most a tenth of the window, λ > 0 and no drift of the norm, shape ``(k,)``.
        norm_drift: |ln(‖w_end‖/‖w_start‖)| over the window.
    """

    variances: NDArray[np.float64]
    effective_samples: NDArray[np.float64]
    relaxation_times: NDArray[np.float64]
    applicable: NDArray[np.bool_]
    norm_drift: float


#: A norm that drifts by more than this over the window (in ln) belongs to no stationary law.
LARGEST_DRIFT = 0.05


def trajectory_variance(
    positions: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    optimizer: MomentumSGD,
    *,
    weight_norms: NDArray[np.float64],
) -> TrajectoryVariance:
    """Variance and effective sample size of each mode of a trajectory projected on a frozen basis.

    Args:
        positions: shape ``(T, k)``, T ≥ 20.
        curvatures: λ of the data Hessian, shape ``(k,)``.
        optimizer: η, μ and weight decay during the window.
        weight_norms: ‖w‖ over the window, shape ``(T,)``.

    Raises:
        ValueError: if the window is too short.
    """
    steps = len(positions)
    if positions.ndim != 2 or steps < SHORTEST_TRAJECTORY:
        raise ValueError(
            f"`trajectory_variance(positions=...)` must be (T >= {SHORTEST_TRAJECTORY}, k); got {positions.shape}."
        )
    time = np.linspace(-1, 1, steps)
    design = np.stack([np.ones(steps), time], axis=1)
    residual = positions - design @ np.linalg.lstsq(design, positions, rcond=None)[0]
    variances = (residual**2).sum(axis=0) / (steps - 2)
    effective = _effective_samples(residual)
    lam = curvatures + optimizer.weight_decay
    slowest = 1 / (1 - math.sqrt(optimizer.momentum))
    with np.errstate(divide="ignore"):
        relaxation = np.where(lam > 0, (1 - optimizer.momentum) / (optimizer.learning_rate * np.abs(lam)), np.inf)
    relaxation = np.maximum(relaxation, slowest)
    drift = abs(math.log(float(weight_norms[-1]) / float(weight_norms[0])))
    applicable = (relaxation <= steps / 10) & (drift <= LARGEST_DRIFT)
    return TrajectoryVariance(
        variances=variances,
        effective_samples=effective,
        relaxation_times=np.minimum(relaxation, 1e300),
        applicable=applicable,
        norm_drift=drift,
    )


def _effective_samples(residual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Independent draws that would fix each column's variance as well; one for a column that never moves."""
    worth = np.ones(residual.shape[1])
    moves = (residual != 0).any(axis=0)
    if moves.any():
        found = trajectory_covariance(residual[:, moves], center=np.zeros(int(moves.sum())))
        worth[moves] = np.clip(found.effective_size, 1.0, len(residual))  # τ₂ = Σ ρ_h² ≥ ρ₀² = 1
    return worth


def price_interval(
    projections: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    factor: float,
    optimizer: MomentumSGD,
    *,
    rotation: NDArray[np.float64] | None = None,
) -> tuple[float, float, float]:
    """Nats per direction with its delete-a-group jackknife interval: ``(estimate, low, high)``.

    The price is a square in the off-diagonals of K, so their noise biases it upward; the jackknife takes that out.

    Args:
        projections: per-sample slopes along k eigenvectors, shape ``(N, k)``.
        curvatures: λ of those eigenvectors, shape ``(k,)``.
        factor: of the mini-batch covariance over the per-sample one.
        optimizer: η, μ and weight decay.
        rotation: turns the noise inside the tracked subspace first, shape ``(k, k)``: a pair that does not commute.
    """
    count, groups = len(projections), min(20, len(projections) // 4)

    def price(rows: NDArray[np.float64]) -> float:
        covariance = np.atleast_2d(np.cov(rows, rowvar=False)) * factor
        if rotation is not None:
            covariance = rotation @ covariance @ rotation.T
        problem = Quadratic(np.diag(curvatures), covariance)
        return commutativity_price(problem, optimizer).nats_per_direction

    whole = price(projections)
    if len(curvatures) == 1:
        return 0.0, 0.0, 0.0
    parts = np.array_split(np.random.default_rng(0).permutation(count), groups)
    left_out = np.array([price(np.delete(projections, part, axis=0)) for part in parts])
    value = groups * whole - (groups - 1) * float(left_out.mean())
    pseudo = groups * whole - (groups - 1) * left_out
    low, high = from_influences(value, pseudo).interval(0.05)
    return max(value, 0.0), max(low, 0.0), max(high, 0.0)
