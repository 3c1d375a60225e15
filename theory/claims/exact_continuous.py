"""Exact claims about the continuous-time law: its error is linear in the step at every step, entry by entry; and W₂."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.claims.family import ASSUMED, PAPER_SG_MCMC, PROBLEM, Relatives
from theory.closed_form.continuous_time import continuous_time_law
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.langevin import langevin_covariance
from theory.judge.claim import Claim, Experiment
from theory.model.optimizer import MomentumSGD
from theory.oracle.dense import continuous_law, settled, solved, wasserstein
from theory.oracle.transition import transition

#: From a hundredth of the edge to more than half of it: nothing here is small.
STEPS = Relatives(
    problem=PROBLEM,
    optimizers=(
        MomentumSGD(0.01),
        MomentumSGD(0.5),
        MomentumSGD(0.3, 0.5, weight_decay=0.2),
        MomentumSGD(0.8, 0.9),
        MomentumSGD(0.8, 0.9, form="position"),
        MomentumSGD(2.0, 0.8, dampening=0.6),
    ),
    temperature=0.5,
)


def _answers_of(law: NDArray, continuous: NDArray, setting: Relatives) -> Answers:
    _, basis = np.linalg.eigh(setting.problem.dense_hessian())
    inside = basis.T @ law @ basis
    spread = solved(law, law - continuous).astype(np.float64)
    return {
        "law": continuous,
        "relative error": (inside - basis.T @ continuous @ basis) / inside,
        "distance": np.array([wasserstein(law, continuous)]),
        "bound": np.array([np.abs(np.linalg.eigvals(spread)).max() * np.sqrt(np.trace(law))]),
    }


def _oracle(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """The recursion settled, its drift's Lyapunov equation solved, and the two compared; without and with heat."""
    problem, m = setting.problem, setting.problem.dimension
    eye = np.eye(m, dtype=np.longdouble)
    curvature = problem.dense_hessian() + optimizer.weight_decay * eye
    rate = np.longdouble(optimizer.learning_rate) * (1 - np.longdouble(optimizer.dampening))
    friction = 1 - np.longdouble(optimizer.momentum)
    step, inflow = transition(problem, optimizer, np.longdouble)
    answers = {}
    for name, heat in (("", 0.0), ("heated ", setting.temperature)):
        noise = problem.dense_noise_cov() + 2 * friction * heat / rate * eye
        law = settled(step, inflow @ noise @ inflow.T)[:m, :m]
        found = _answers_of(law, continuous_law(curvature, rate / friction * noise), setting)
        answers |= {name + key: value for key, value in found.items()}
    return answers


def _predicted(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    answers = {}
    for name, heat in (("", 0.0), ("heated ", setting.temperature)):
        found = continuous_time_law(setting.problem, optimizer, heat)
        answers |= {
            name + "law": found.covariance,
            name + "relative error": found.relative_error,
            name + "distance": np.array([found.distance]),
            name + "bound": np.array([found.distance_bound]),
        }
    return answers


def _with_error(
    rule: Callable[[NDArray[np.float64], MomentumSGD], NDArray[np.float64]],
) -> Callable[[Relatives, MomentumSGD], Answers]:
    """The relative error by another rule of the curvatures."""

    def wrong(setting: Relatives, optimizer: MomentumSGD) -> Answers:
        curvatures = eigenbasis(setting.problem).curvatures + optimizer.weight_decay
        return {"relative error": rule(curvatures, optimizer)}

    return wrong


def _as_variances(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """The variances' a/(2(1+μ)) at the mean curvature of every pair."""
    rate = (1 - optimizer.dampening) * optimizer.learning_rate
    return rate * 0.5 * (curvatures[:, None] + curvatures) / (2 * (1 + optimizer.momentum))


def _as_plain_descent(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Plain SGD at the rate η/(1−μ)."""
    rate = (1 - optimizer.dampening) * optimizer.learning_rate / (1 - optimizer.momentum)
    return rate * np.multiply.outer(curvatures, curvatures) / (curvatures[:, None] + curvatures)


def _to_second_order(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    """The error as a share of S in place of Σ, to first order the same."""
    error = _with_error_of(curvatures, optimizer)
    return error / (1 - error)


def _with_error_of(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> NDArray[np.float64]:
    decayed = replace(optimizer, weight_decay=0.0)
    problem = replace(PROBLEM, hessian=np.diag(curvatures), noise_cov=np.eye(len(curvatures)))
    return continuous_time_law(problem, decayed).relative_error


def _as_if_commuting(setting: Relatives, optimizer: MomentumSGD) -> Answers:
    """W₂ from the variances along A's eigenvectors alone."""
    frame = eigenbasis(setting.problem)
    exact = np.diag(frame.inward(langevin_covariance(setting.problem, optimizer, 0.0).require()))
    found = np.diag(frame.inward(continuous_time_law(setting.problem, optimizer).covariance))
    return {"distance": np.array([np.linalg.norm(np.sqrt(exact) - np.sqrt(found))])}


WRITTEN = exact_experiment(
    "continuous-time-dense",
    "the recursion's law and its continuous-time limit's, each solved densely, and the distance between them",
    STEPS,
    each(_oracle),
)
EXPERIMENTS: tuple[Experiment, ...] = (WRITTEN,)

CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="continuous-time-error",
        statement="AS + SA = Kη(C + J)/(1−μ) misses the law by exactly (Σ−S)_ij = Kη r_ij Σ_ij, r_ij = [λ_iλ_j − "
        "μ(λ_i−λ_j)²/(1−μ)²]/((1+μ)(λ_i+λ_j)), at every step; W₂(Σ, S), and its bound ‖Σ⁻¹(Σ−S)‖ √tr Σ of order η.",
        source="own derivation; " + PAPER_SG_MCMC,
        experiment=WRITTEN,
        predict=each(_predicted),
        decoys={
            "a/(2(1+μ)) for pairs too": each(_with_error(_as_variances)),
            "plain SGD at η/(1−μ)": each(_with_error(_as_plain_descent)),
            "a share of S": each(_with_error(_to_second_order)),
            "W₂ as if H and C commuted": each(_as_if_commuting),
        },
        assumptions=(*ASSUMED, "heavy ball", "C positive definite"),
        num_tests=48,
    ),
)
