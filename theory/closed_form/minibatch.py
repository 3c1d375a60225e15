r"""Gradient noise that depends on the weights: least squares with varying batch Hessians.

Model     g_B(w) = H δ + ξ_B(δ), δ = w − w*, and ξ has mean 0 given δ, so that the recursion of momentum SGD stays
          linear in second moments. With Σ the stationary covariance of δ, in H's eigenbasis
              Σ_ij = G_ij C_ij(Σ),    C(Σ) = C_0 + 𝒞(Σ),                                               (1)
          G_ij the response of the constant-noise law (S2) to a unit of C_ij, C_0 the noise at the optimum, 𝒞 linear.
Gaussian  x ~ N(0, A), batch S:  C(Σ) = (AΣA + tr(AΣ) A + σ² A)/S. With u_i = G_ii α_i²/S, α the eigenvalues of A,
              k = (1/S) Σ_i G_ii α_i² / (1 − u_i),   T = tr(AΣ) = σ² k/(1−k),
              Σ_ii = G_ii α_i (T + σ²) / (S (1 − u_i)).                                                (2)
          A stationary second moment exists iff u_i < 1 and k < 1: stricter than ηλ < 2(1+μ).
          Weight decay κ moves the optimum by b = −κ (A+κI)⁻¹ w°, and Σ becomes Σ + b bᵀ inside C.
Data      N rows, batch S: C(Σ) = C_0 + 𝒞(Σ) with the data's own fourth moments,
              𝒞(Σ) = (f/S) [ (1/N) Σ_n (x_nᵀ Σ x_n) x_n x_nᵀ − AΣA ],
              C_0  = (f/S) [ (1/N) Σ_n r_n² x_n x_nᵀ − (κ w*)(κ w*)ᵀ ],   r_n = x_nᵀ w* − y_n,            (3)
          f = 1 with replacement, (N−S)/(N−1) without.
Epochs    Under shuffled epochs batches share a permutation, and no closed equation exists. The offsets ξ_B(0) of an
          epoch sum to 0; the products (H_B−H)δ do not, since δ moves. Treating those exactly and these as white,
              Σ_phase = Σ_shuffled(C_0, phase) + G ∘ 𝒞(Σ̄),   Σ̄ = Σ_shuffled(C_0, mean) + G ∘ 𝒞(Σ̄),   (4)
          an approximation of first order in the feedback of 𝒞; the mean of δ, of order η, is neglected.
Kurtosis  The Gaussian-input law is not Gaussian. A projection of one sample's gradient, uᵀ x (xᵀδ − ε), is a product of
          two normals of variances α, ρ and covariance c, whose cumulants are (k−1)!/2 [(c+√(αρ))^k + (c−√(αρ))^k];
          so the fourth moments of the state obey a linear equation, solved here exactly.
Oracle    `theory.oracle.sampling` draws real batches; `theory.oracle.second_moment` enumerates them.
Source    Gaussian inputs, μ = 0: Ziyin, Liu, Mori & Ueda, arXiv:2102.05375. Momentum, (3), kurtosis: derived here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse.linalg import LinearOperator, gmres

from theory.closed_form.mode_response import mode_response
from theory.closed_form.shuffling import Phase, shuffled_covariance
from theory.closed_form.stability import modes
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import GaussianRegression, RidgeRegression, Sampling
from theory.solution import Solution, Status, UnstableError

CovarianceMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MinibatchLaw(Solution):
    """Stationary second moments under noise that depends on the weights; the spectral radius is the mean's.

    Args:
        constant_noise_covariance: the (S2) answer with C frozen at the optimum, C_0, shape ``(m, m)``.
        noise_cov: C(Σ), shape ``(m, m)``.
        noise_cov_at_optimum: C_0, shape ``(m, m)``.
        optimum: w*, shape ``(m,)``, the stationary mean.
        curvatures: eigenvalues of H (ridge included), shape ``(m,)``, ascending as in `basis`.
        basis: eigenvectors of H, in columns, shape ``(m, m)``.
        feedback: for given data the spectral radius of Σ ↦ G∘𝒞(Σ), the growth per round of noise feeding on its own
            covariance; for Gaussian inputs k of equation (2). A stationary second moment exists iff it is below 1.
    """

    constant_noise_covariance: NDArray[np.float64]
    noise_cov: NDArray[np.float64]
    noise_cov_at_optimum: NDArray[np.float64]
    optimum: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    basis: NDArray[np.float64]
    feedback: float

    @property
    def inflation(self) -> NDArray[np.float64]:
        """Variance over the constant-noise variance in every eigen-direction, shape ``(m,)``; 1 where both are 0."""
        constant = self._along(self.constant_noise_covariance)
        # Below the rounding of the dense matrix there is nothing to compare: a direction in which no row varies.
        still = constant <= len(constant) * np.finfo(np.float64).eps * constant.max()
        return np.where(still, 1.0, self.variances / np.where(still, 1.0, constant))

    @property
    def variances(self) -> NDArray[np.float64]:
        """uᵢᵀ Σ uᵢ, shape ``(m,)``."""
        return self._along(self.require())

    def _along(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("ik,ij,jk->k", self.basis, matrix, self.basis)


def gaussian_regression_law(problem: GaussianRegression, optimizer: MomentumSGD) -> MinibatchLaw:
    """Exact stationary covariance for Gaussian inputs, equation (2).

    Args:
        problem: A, σ², batch size S and w°.
        optimizer: momentum SGD in either form; its weight decay is the ridge κ.

    Raises:
        UnstableError: if the mean recursion is unstable, or the second moment has no stationary value.
    """
    inputs, basis = _spectrum(problem)
    decay, size = optimizer.weight_decay, problem.batch_size
    gain = _gain(inputs, optimizer)
    truth = np.zeros(len(inputs)) if problem.truth is None else basis.T @ problem.truth
    shift = -decay / (inputs + decay) * truth
    own = np.diag(gain) * inputs**2 / size
    feedback = _gaussian_feedback(inputs, np.diag(gain), size)
    if not feedback < 1.0:
        largest = second_moment_stability_limit(problem, optimizer)
        raise UnstableError(
            "`gaussian_regression_law` needs a stationary second moment, feedback k < 1; "
            f"got k = {feedback:.6g} at η = {optimizer.learning_rate:.6g} (largest stable η {largest:.6g})."
        )
    misfit = float(np.sum(inputs * shift**2)) + problem.label_noise_variance
    direct = np.diag(gain) * (inputs * shift) ** 2 / (size * (1.0 - own))
    trace = (float(np.sum(inputs * direct)) + misfit * feedback) / (1.0 - feedback)
    # Off the diagonal nothing but the shift drives C_ij = α_i α_j (Σ_ij + b_i b_j)/S.
    pull = gain * np.multiply.outer(inputs, inputs) / size
    cov = pull * np.multiply.outer(shift, shift) / (1.0 - pull)
    np.fill_diagonal(cov, direct + np.diag(gain) * inputs * (trace + misfit) / (size * (1.0 - own)))
    at_optimum = np.multiply.outer(inputs * shift, inputs * shift) / size + np.diag(inputs) * misfit / size
    noise = at_optimum + (inputs[:, None] * cov * inputs + trace * np.diag(inputs)) / size
    return MinibatchLaw(
        method="gaussian_regression_law",
        status=Status.OK,
        spectral_radius=float(modes(inputs, optimizer).spectral_radius.max()),
        value=_turned(cov, basis),
        constant_noise_covariance=_turned(gain * at_optimum, basis),
        noise_cov=_turned(noise, basis),
        noise_cov_at_optimum=_turned(at_optimum, basis),
        optimum=basis @ (truth + shift),
        curvatures=inputs + decay,
        basis=basis,
        feedback=feedback,
    )


def second_moment_stability_limit(problem: GaussianRegression, optimizer: MomentumSGD) -> float:
    """The η above which no stationary second moment exists, all else as in `optimizer`.

    The feedback k of equation (2) grows without bound on the way to the mean-stability limit, so it crosses 1 before.
    """
    inputs, _ = _spectrum(problem)

    def excess(learning_rate: float) -> float:
        trial = _with_learning_rate(optimizer, learning_rate)
        try:
            feedback = _gaussian_feedback(inputs, np.diag(_gain(inputs, trial)), problem.batch_size)
        except UnstableError:
            return 1.0
        return 1.0 if not math.isfinite(feedback) else 1.0 - 1.0 / max(feedback, 1e-300)

    low = high = optimizer.learning_rate
    while excess(low) > 0:
        low *= 0.5
    while excess(high) < 0:
        high *= 2.0
    return float(brentq(excess, low, high, xtol=1e-14 * high, rtol=1e-14))  # pyright: ignore[reportArgumentType]


def gaussian_regression_kurtosis(problem: GaussianRegression, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Excess kurtosis of the weight along every eigenvector of A, exact, shape ``(m,)``.

    Solves the linear equation of the fourth moments of the state (2m numbers, so C(2m+3, 4) unknowns): meant for m ≤ 6.

    Raises:
        ValueError: if m > 6, or weight decay shifts the optimum away from w° (the law is then skewed).
        UnstableError: if no stationary fourth moment exists, although the second may.
    """
    inputs, basis = _spectrum(problem)
    if problem.truth is not None and optimizer.weight_decay > 0 and np.any(problem.truth):
        raise ValueError("`gaussian_regression_kurtosis(problem=...)` must have truth 0 under weight decay.")
    if len(inputs) > 6:
        raise ValueError(f"`gaussian_regression_kurtosis(problem=...)` must have at most 6 weights; got {len(inputs)}.")
    law = gaussian_regression_law(problem, optimizer)
    fourth = _FourthMoments(inputs, optimizer, problem.batch_size, problem.label_noise_variance)
    moments = fourth.solve(_state_covariance(inputs, optimizer, basis.T @ law.noise_cov @ basis))
    weights = np.arange(len(inputs))
    return moments[weights, weights, weights, weights] / law.variances**2 - 3.0


def ridge_regression_law(problem: RidgeRegression, optimizer: MomentumSGD) -> MinibatchLaw:
    """Exact stationary covariance on given data with independent batches, equations (1) and (3).

    Args:
        problem: the rows, the ridge, the batch size and an independent sampling scheme. For shuffled epochs the law
            returned is the one of batches drawn without replacement, each on its own.
        optimizer: momentum SGD; its weight decay must be 0, the ridge belongs to the problem.

    Raises:
        ValueError: if the optimizer has weight decay.
        UnstableError: if the mean recursion is unstable, or the second moment has no stationary value.
    """
    data = _Data.of(problem, optimizer)
    gain = _gain(data.curvatures, optimizer)
    at_optimum = data.noise_at_optimum()
    constant = gain * at_optimum
    feedback = _spectral_radius(lambda cov: gain * data.state_noise(cov), len(gain))
    if not feedback < 1.0:
        raise UnstableError(
            "`ridge_regression_law` needs a stationary second moment, feedback < 1; "
            f"got {feedback:.6g} at batch size {problem.batch_size} and η = {optimizer.learning_rate:.6g}."
        )
    cov = _solve_fixed_point(lambda cov: gain * data.state_noise(cov), constant)
    return MinibatchLaw(
        method="ridge_regression_law",
        status=Status.OK,
        spectral_radius=float(modes(data.curvatures, optimizer).spectral_radius.max()),
        value=_turned(cov, data.basis),
        constant_noise_covariance=_turned(constant, data.basis),
        noise_cov=_turned(at_optimum + data.state_noise(cov), data.basis),
        noise_cov_at_optimum=_turned(at_optimum, data.basis),
        optimum=data.basis @ data.optimum,
        curvatures=data.curvatures,
        basis=data.basis,
        feedback=feedback,
    )


def shuffled_regression_law(problem: RidgeRegression, optimizer: MomentumSGD, phase: Phase = "end") -> MinibatchLaw:
    """Covariance on given data under shuffled epochs, equation (4): an approximation.

    Args:
        problem: the rows, the ridge, the batch size; sampling must be shuffled epochs.
        optimizer: momentum SGD without weight decay.
        phase: as in `epoch_shuffling_factor`.

    Returns:
        `MinibatchLaw` whose `constant_noise_covariance` is the shuffled law with C frozen at the optimum, and whose
        `noise_cov` is C at the phase average.

    Raises:
        ValueError: if the sampling is another, or the optimizer has weight decay.
        UnstableError: as in `ridge_regression_law`.
    """
    if problem.sampling is not Sampling.SHUFFLED_EPOCHS:
        raise ValueError(f"`shuffled_regression_law(problem=...)` must shuffle epochs; got {problem.sampling.value}.")
    independent = ridge_regression_law(problem, optimizer)  # refuses what is unstable
    data = _Data.of(problem, optimizer)
    gain = _gain(data.curvatures, optimizer)
    at_optimum = data.noise_at_optimum()
    additive = Quadratic(data.curvatures, 0.5 * (at_optimum + at_optimum.T))
    correlation = -problem.batch_size / (problem.num_rows - problem.batch_size)

    def shuffled(when: Phase) -> NDArray[np.float64]:
        return shuffled_covariance(
            additive,
            optimizer,
            batches_per_epoch=problem.batches_per_epoch,
            phase=when,
            within_epoch_correlation=correlation,
        )

    average = _solve_fixed_point(lambda cov: gain * data.state_noise(cov), shuffled("mean"))
    state_noise = data.state_noise(average)
    constant = shuffled(phase)
    return MinibatchLaw(
        method="shuffled_regression_law",
        status=Status.OK,
        spectral_radius=float(modes(data.curvatures, optimizer).spectral_radius.max()),
        value=_turned(constant + gain * state_noise, data.basis),
        constant_noise_covariance=_turned(constant, data.basis),
        noise_cov=_turned(at_optimum + state_noise, data.basis),
        noise_cov_at_optimum=_turned(at_optimum, data.basis),
        optimum=independent.optimum,
        curvatures=data.curvatures,
        basis=data.basis,
        feedback=independent.feedback,
    )


@dataclass(frozen=True)
class _Data:
    """A regression in the eigenbasis of its Hessian."""

    rows: NDArray[np.float64]  # x_n, (N, m)
    residuals: NDArray[np.float64]  # r_n
    inputs: NDArray[np.float64]  # eigenvalues of A
    curvatures: NDArray[np.float64]  # eigenvalues of H = A + κI
    basis: NDArray[np.float64]
    optimum: NDArray[np.float64]
    pull: NDArray[np.float64]  # κ w*
    scale: float  # f/S

    @classmethod
    def of(cls, problem: RidgeRegression, optimizer: MomentumSGD) -> _Data:
        if optimizer.weight_decay != 0:
            raise ValueError(
                "`ridge_regression_law(optimizer=...)` must have weight_decay 0 (the ridge is the problem's); "
                f"got {optimizer.weight_decay}."
            )
        # Singular vectors of X rather than eigenvectors of XᵀX: the flat directions keep twice the digits.
        _, singular, right = np.linalg.svd(problem.inputs, full_matrices=False)
        if len(singular) < problem.dimension:  # fewer rows than columns: complete the basis
            _, singular, right = np.linalg.svd(problem.inputs, full_matrices=True)
            singular = np.concatenate([singular, np.zeros(problem.dimension - len(singular))])
        order = np.argsort(singular)
        basis = right[order].T
        inputs = singular[order] ** 2 / problem.num_rows
        rows = problem.inputs @ basis
        curvatures = inputs + problem.ridge
        optimum = rows.T @ problem.targets / problem.num_rows / curvatures
        share = 1.0
        if problem.sampling is not Sampling.WITH_REPLACEMENT:
            share = (problem.num_rows - problem.batch_size) / (problem.num_rows - 1)
        return cls(
            rows=rows,
            residuals=rows @ optimum - problem.targets,
            inputs=inputs,
            curvatures=curvatures,
            basis=basis,
            optimum=optimum,
            pull=problem.ridge * optimum,
            scale=share / problem.batch_size,
        )

    def noise_at_optimum(self) -> NDArray[np.float64]:
        """C_0 of equation (3)."""
        gradients = self.residuals[:, None] * self.rows
        centred = gradients + self.pull  # the mean of r x is −κ w*
        return self.scale * (centred.T @ centred) / len(self.rows)

    def state_noise(self, cov: NDArray[np.float64]) -> NDArray[np.float64]:
        """𝒞(Σ) of equation (3), for any square matrix Σ."""
        spread = np.einsum("ni,ni->n", self.rows @ cov, self.rows)
        fourth = (self.rows * spread[:, None]).T @ self.rows / len(self.rows)
        return self.scale * (fourth - self.inputs[:, None] * cov * self.inputs)


def _spectrum(problem: GaussianRegression) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if problem.input_cov.ndim == 1:
        return problem.input_cov, np.eye(problem.dimension)
    values, vectors = np.linalg.eigh(problem.input_cov)
    return values, vectors


def _gain(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """G_ij: the stationary covariance that a noise covariance of ones would give, entry by entry."""
    ones = np.ones((len(curvatures), len(curvatures)))
    return stationary_covariance(Quadratic(curvatures, ones), optimizer).require()


def _gaussian_feedback(inputs: NDArray[np.float64], gain: NDArray[np.float64], size: int) -> float:
    """K of equation (2); infinite where some u_i ≥ 1."""
    own = gain * inputs**2 / size
    return math.inf if np.any(own >= 1.0) else float(np.sum(own / (1.0 - own)))


def _with_learning_rate(optimizer: MomentumSGD, learning_rate: float) -> MomentumSGD:
    fields = {**optimizer.to_dict(), "learning_rate": learning_rate}
    return MomentumSGD.from_dict(fields)


def _turned(matrix: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    value = basis @ matrix @ basis.T
    return 0.5 * (value + value.T)


def _spectral_radius(operator: CovarianceMap, size: int, rounds: int = 400) -> float:
    """Largest eigenvalue of a map that keeps the cone of covariances: power iteration from the identity."""
    cov, growth = np.eye(size), 0.0
    for _ in range(rounds):
        image = operator(cov)
        before, growth = growth, float(np.linalg.norm(image) / np.linalg.norm(cov))
        if growth == 0.0:
            return 0.0
        if abs(growth - before) <= 1e-12 * growth:
            break
        cov = image / np.linalg.norm(image)
    return growth


def _solve_fixed_point(operator: CovarianceMap, constant: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ = constant + operator(Σ), by GMRES on Σ − operator(Σ)."""
    shape = constant.shape
    scale = np.sqrt(np.maximum(np.diag(constant), np.finfo(float).tiny))
    scale[scale <= 1e-150] = 1.0  # a direction without noise stays at 0
    scale = np.multiply.outer(scale, scale)  # every direction counts by its own variance

    def defect(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        cov = flat.reshape(shape) * scale
        return ((cov - operator(cov)) / scale).ravel()

    if not np.any(constant):
        return np.zeros(shape)
    linear = LinearOperator((constant.size, constant.size), matvec=defect, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    right = (constant / scale).ravel()
    flat, _ = gmres(linear, right, rtol=1e-14, atol=0.0, restart=60, maxiter=40)
    # Backward error: near the stability limit Σ is large, and its rounding alone exceeds any share of the constant.
    residual = float(np.linalg.norm(defect(flat) - right) / (np.linalg.norm(right) + np.linalg.norm(flat)))
    if residual > 1e-12:
        raise UnstableError(f"the fixed point of the state-dependent noise was not reached: residual {residual:.3g}.")
    cov = flat.reshape(shape) * scale
    return 0.5 * (cov + cov.T)


def _state_covariance(
    curvatures: NDArray[np.float64], optimizer: MomentumSGD, noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Covariance of (w, v) under the given noise, in the eigenbasis, shape ``(2m, 2m)``."""
    return stationary_covariance(Quadratic(curvatures, noise), optimizer).state()


class _FourthMoments:
    """The linear map that carries E z⊗z⊗z⊗z one step on, for Gaussian inputs with A diagonal.

    For a functional ℓ on the state, ℓᵀz₊ = (Fᵀℓ)ᵀz + n, where n has the cumulants of a batch mean of products of
    normals with c = (Bz)ᵀℓ, αρ = (ℓᵀQℓ) ρ(z) and ρ(z) = wᵀAw + σ²; B = G A on the weights, Q = G A Gᵀ. Then
        E (ℓᵀz₊)⁴ = E[(f·z)⁴ + 6 (f·z)² κ₂ + 4 (f·z) κ₃ + κ₄ + 3 κ₂²].
    """

    def __init__(self, inputs: NDArray[np.float64], optimizer: MomentumSGD, size: int, label_noise: float) -> None:
        response = mode_response(inputs, optimizer)
        count = len(inputs)
        self.num_states = 2 * count
        transition = np.zeros((2 * count, 2 * count))
        push = np.zeros((2 * count, count))
        for mode in range(count):
            place = np.ix_((mode, mode + count), (mode, mode + count))
            transition[place] = response.transition[mode]
            push[[mode, mode + count], mode] = response.noise_input[mode]
        self.transition = transition
        self.size = size
        self.label_noise = label_noise
        self.reader = np.concatenate([push * inputs, np.zeros((2 * count, count))], axis=1)  # B
        self.spread = (push * inputs) @ push.T  # Q
        self.weight = np.zeros(2 * count)
        self.weight[:count] = inputs  # diagonal of A on the state

    def step(self, fourth: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        """E z₊⊗⁴ from E z⊗⁴ and E z⊗², symmetric."""
        f, b, q, s = self.transition, self.reader, self.spread, float(self.size)
        # ρ-weighted moments: E[ρ z z] and E[ρ²].
        fed = np.einsum("ijkk,k->ij", fourth, self.weight) + self.label_noise * second
        fed_square = (
            float(np.einsum("iijj,i,j->", fourth, self.weight, self.weight))
            + 2.0 * self.label_noise * float(self.weight @ np.diag(second))
            + self.label_noise**2
        )

        def form(*maps: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.einsum("abcd,ia,jb,kc,ld->ijkl", fourth, *maps, optimize=True)

        def with_spread(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.multiply.outer(one @ fed @ other.T, q)

        total = form(f, f, f, f)
        total += 6.0 / s * (form(f, f, b, b) + with_spread(f, f))
        total += 4.0 / s**2 * (2.0 * form(f, b, b, b) + 6.0 * with_spread(f, b))
        quartic, mixed, pure = form(b, b, b, b), with_spread(b, b), fed_square * np.multiply.outer(q, q)
        total += 6.0 / s**3 * (quartic + 6.0 * mixed + pure)
        total += 3.0 / s**2 * (quartic + 2.0 * mixed + pure)
        return _symmetrised(total)

    def solve(self, second: NDArray[np.float64]) -> NDArray[np.float64]:
        """The stationary E z⊗⁴, given the stationary E z⊗²."""
        places = list(itertools.combinations_with_replacement(range(self.num_states), 4))
        # Flipping the sign of one input flips its weight and velocity: only even counts of each mode survive.
        count = self.num_states // 2
        places = [p for p in places if all(sum(i % count == mode for i in p) % 2 == 0 for mode in range(count))]
        index = tuple(np.array(places).T)
        constant = self.step(np.zeros((self.num_states,) * 4), second)[index]
        matrix = np.empty((len(places), len(places)))
        nothing = np.zeros_like(second)
        without = self.label_noise
        try:
            self.label_noise = 0.0
            for column, place in enumerate(places):
                unit = np.zeros((self.num_states,) * 4)
                for turned in set(itertools.permutations(place)):
                    unit[turned] = 1.0
                matrix[:, column] = self.step(unit, nothing)[index]
        finally:
            self.label_noise = without
        radius = float(np.max(np.abs(np.linalg.eigvals(matrix))))
        if not radius < 1.0:
            raise UnstableError(
                f"`gaussian_regression_kurtosis` needs a stationary fourth moment; its growth per step is {radius:.6g}."
            )
        values = np.linalg.solve(np.eye(len(places)) - matrix, constant)
        moments = np.zeros((self.num_states,) * 4)
        for value, place in zip(values, places, strict=True):
            for turned in set(itertools.permutations(place)):
                moments[turned] = value
        return moments


def _symmetrised(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    orders = list(itertools.permutations(range(4)))
    return np.asarray(sum(np.transpose(tensor, order) for order in orders)) / len(orders)
