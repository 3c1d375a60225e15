r"""The continuous-time law of momentum SGD beside the exact one: how far it is off, entry by entry and in W₂.

Model     As η → 0 heavy ball is taken for an Ornstein–Uhlenbeck process. Its law S solves
              A S + S A = Kη/(1−μ) · (C + J),                                                                  (1)
          A = H + weight decay, K the gain of `stationary`, J the noise that SGLD adds (`langevin`): S = T A⁻¹ plus what
          the mini-batches add. The exact law at the finite step is Σ of (S2).
Result    In A's eigenbasis, with (S2)'s denominator divided by (1−μ)²(1+μ)Kη(λᵢ+λⱼ),
              (Σ − S)ᵢⱼ / Σᵢⱼ = Kη rᵢⱼ,   rᵢⱼ = [λᵢλⱼ − μ(λᵢ−λⱼ)²/(1−μ)²] / ((1+μ)(λᵢ+λⱼ)).                 (2)
          The relative error is linear in the step at every step: (2) is no expansion. Variances, rᵢᵢ = λᵢ/(2(1+μ)),
          come out too small; covariances too large where (λᵢ−λⱼ)² > (1−μ)²λᵢλⱼ/μ, by a coefficient of order 1/(1−μ)².
          The noise J being of order 1/η, (2) is the same with a temperature and without.
Distance  Between centred normal laws, over orthogonal U,
              W₂² = tr Σ + tr S − 2 tr (Σ^{1/2} S Σ^{1/2})^{1/2} = min_U ‖Σ^{1/2} − S^{1/2}U‖²_F.              (3)
          With S = Σ^{1/2}(I − E)Σ^{1/2} couple Σ^{1/2}ζ and Σ^{1/2}(I−E)^{1/2}ζ: as |1 − √(1−e)| ≤ |e| for e ≤ 1,
              W₂ ≤ ‖E‖₂ (tr Σ)^{1/2},   ‖E‖₂ = Kη ‖Σ^{−1/2}(r∘Σ)Σ^{−1/2}‖₂.                                 (4)
          So W₂ is of order η of the law's own size (tr Σ)^{1/2}: of order η for a sampler at a temperature, whose law
          has a limit, and of order η^{3/2} without one, where the law itself shrinks like η.
Limits    μ = 0: rᵢⱼ = λᵢλⱼ/(λᵢ+λⱼ).   H ∝ I: r = λ/(2(1+μ)).
Accuracy  (2) to a few units in the last place. (3) is taken as the minimum, in which nothing cancels but two square
          roots: absolute error about 1e-15 (tr Σ)^{1/2}.
Oracle    Dense recursion and dense Lyapunov equation in extended precision; W₂ by Newton's iteration for the root.
Source    Own derivation. Continuous time: Mandt, Hoffman and Blei (JMLR 2017). (3): Gelbrich (1990). The question how
          far such laws are off, and that it be answered without a limit: Wang, Ding and Huggins (arXiv 2606.00293).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.divergence import gaussian_wasserstein
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.langevin import langevin_problem
from theory.closed_form.stability import modes, stable_modes, stable_pull
from theory.closed_form.stationary import weight_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic


@dataclass(frozen=True, kw_only=True)
class ContinuousTimeLaw:
    """The law (1) and its error against the exact one.

    Args:
        covariance: S, shape ``(m, m)``.
        relative_error: (Σ − S)ᵢⱼ/Σᵢⱼ of equation (2) in A's eigenbasis, curvatures ascending, shape ``(m, m)``.
        distance: W₂ between the two laws, equation (3), in units of the weights.
        distance_bound: the right side of (4).
    """

    covariance: NDArray[np.float64]
    relative_error: NDArray[np.float64]
    distance: float
    distance_bound: float


def continuous_time_covariance(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """S of equation (1) without added noise, shape ``(m, m)``; C may be singular.

    Raises:
        UnstableError: if A is not positive definite.
    """
    frame = eigenbasis(problem)
    stable_pull(frame.curvatures, optimizer)
    curvatures = frame.curvatures + optimizer.weight_decay
    rate = modes(np.ones(1), optimizer).gain * optimizer.learning_rate
    covariance = frame.outward(rate / (1.0 - optimizer.momentum) * frame.noise / (curvatures[:, None] + curvatures))
    return 0.5 * (covariance + covariance.T)


def continuous_time_law(problem: Quadratic, optimizer: MomentumSGD, temperature: float = 0.0) -> ContinuousTimeLaw:
    """The stationary law of heavy ball in continuous time, equation (1), and how far it is from the exact one.

    Args:
        problem: H and C, C positive definite (or T > 0).
        optimizer: heavy ball, either form, at the learning rate that it runs with.
        temperature: T ≥ 0 of SGLD; 0 for SGD.

    Raises:
        ValueError: if the step reads g beside v, T is negative, or the exact law has no density.
        UnstableError: if some direction has no stationary law.
    """
    where = "continuous_time_law"
    if optimizer.direction[0]:
        raise ValueError(f"`{where}(optimizer=...)` must be heavy ball; got a step that reads g beside v.")
    heated = langevin_problem(problem, optimizer, temperature)
    frame = eigenbasis(heated)
    mode = stable_modes(frame.curvatures, optimizer)
    curvatures, mu = frame.curvatures + optimizer.weight_decay, optimizer.momentum
    rate = mode.gain * optimizer.learning_rate
    pairs = curvatures[:, None] + curvatures
    continuous = continuous_time_covariance(heated, optimizer)
    apart = (curvatures[:, None] - curvatures) / (1.0 - mu)
    error = rate * (np.multiply.outer(curvatures, curvatures) - mu * apart * apart) / ((1.0 + mu) * pairs)
    exact = weight_covariance(mode, frame.noise, optimizer)
    try:
        root = np.linalg.cholesky(exact)
    except np.linalg.LinAlgError:
        raise ValueError(f"`{where}(problem=...)` must have a law with a density; C is singular.") from None
    inside = np.linalg.solve(root, np.linalg.solve(root, error * exact).T)
    size = float(np.abs(np.linalg.eigvalsh(0.5 * (inside + inside.T))).max())
    return ContinuousTimeLaw(
        covariance=continuous,
        relative_error=error,
        distance=gaussian_wasserstein(exact, frame.inward(continuous)),
        distance_bound=size * math.sqrt(float(np.trace(exact))),
    )
