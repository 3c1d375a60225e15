r"""Exact claims about adaptive optimizers: the law of a frozen preconditioner, AdamW's mean, the fixed point of s.

The oracle writes torch's update down as matrices and settles it in extended precision; second moments of gradients are
iterated until they stay. That the real s is close to this fixed point is another claim's matter (`adaptive-adam`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.claims.exact_stationary import PROBLEM
from theory.closed_form.adaptive import (
    adaptive_covariance,
    bias_corrected_rates,
    frozen_adaptive_covariance,
    preconditioned_problem,
)
from theory.closed_form.eigenbasis import scaled
from theory.closed_form.stationary import stationary_covariance
from theory.judge.claim import Claim, Experiment
from theory.model.adaptive import Adam, Adaptive, RMSprop
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.dense import mean_settled, settled


@keyword_setting
class AdaptiveLaws(Setting):
    """What the laws are judged on.

    Args:
        problem: H, C and w*, none of them along the axes.
        optimizers: Adam, AdamW and RMSprop.
        preconditioner: the frozen 1/(√s+ε).
        steps: length of the path of corrected rates.
    """

    problem: Quadratic
    optimizers: tuple[Adam | RMSprop, ...]
    preconditioner: NDArray[np.float64]
    steps: int = 12


LAWS = AdaptiveLaws(
    problem=PROBLEM,
    optimizers=(
        Adam(learning_rate=0.05, beta1=0.9),
        Adam(learning_rate=0.05, beta1=0.8, epsilon=0.1, weight_decay=0.3),
        Adam(learning_rate=0.1, beta1=0.9, weight_decay=0.8, decoupled_weight_decay=True),
        RMSprop(learning_rate=0.03, momentum=0.7, weight_decay=0.2),
    ),
    preconditioner=np.array([0.6, 1.4, 2.5]),
)


def _decays(optimizer: Adaptive) -> tuple[float, float]:
    """Weight decay in the gradient, and beside it (AdamW)."""
    decoupled = isinstance(optimizer, Adam) and optimizer.decoupled_weight_decay
    return (0.0, optimizer.weight_decay) if decoupled else (optimizer.weight_decay, 0.0)


def _written(problem: Quadratic, optimizer: Adaptive, diagonal: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """F, G and the push −G H w* of (w, m), the moving averages long started."""
    m = problem.dimension
    coupled, beside = _decays(optimizer)
    eye, none = np.eye(m, dtype=np.longdouble), np.zeros((m, m), dtype=np.longdouble)
    felt = np.hstack([problem.dense_hessian() + np.longdouble(coupled) * eye, none])  # g = felt z + ξ
    scale, eta = np.diag(diagonal).astype(np.longdouble), np.longdouble(optimizer.learning_rate)
    if isinstance(optimizer, RMSprop):
        kept, taken, move = np.longdouble(optimizer.momentum), scale, eta * eye
    else:
        kept, taken, move = np.longdouble(optimizer.beta1), (1 - np.longdouble(optimizer.beta1)) * eye, eta * scale
    buffer = np.hstack([none, kept * eye]) + taken @ felt
    weights = np.hstack([(1 - eta * np.longdouble(beside)) * eye, none]) - move @ buffer
    inflow = np.vstack([-move @ taken, taken])
    return np.vstack([weights, buffer]), inflow, inflow @ -(problem.dense_hessian() @ problem.optimum)


def _settled(problem: Quadratic, optimizer: Adaptive, diagonal: NDArray) -> tuple[NDArray, NDArray]:
    m = problem.dimension
    step, inflow, push = _written(problem, optimizer, diagonal)
    return mean_settled(step, push)[:m], settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)[:m, :m]


def _adaptive_oracle(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    problem, m = setting.problem, setting.problem.dimension
    coupled, _ = _decays(optimizer)
    felt = problem.dense_hessian() + coupled * np.eye(m)
    second = np.diag(problem.dense_noise_cov()).astype(np.longdouble)
    for _ in range(2000):
        mean, cov = _settled(problem, optimizer, 1 / (np.sqrt(second) + np.longdouble(optimizer.epsilon)))
        gradient = felt @ mean - problem.dense_hessian() @ problem.optimum
        again = np.diag(felt @ cov @ felt) + np.diag(problem.dense_noise_cov()) + gradient**2
        moved = np.abs(again - second).max()
        second = 0.5 * (second + again)
        if moved <= 1e-17:
            break
    mean, cov = _settled(problem, optimizer, 1 / (np.sqrt(second) + np.longdouble(optimizer.epsilon)))
    answers = {
        "frozen": _settled(problem, optimizer, setting.preconditioner)[1],
        "covariance": cov,
        "mean": mean,
        "second moment": second,
    }
    if isinstance(optimizer, Adam):
        beta = np.longdouble(optimizer.beta1)
        answers["rates"] = np.array([optimizer.learning_rate / (1 - beta ** (t + 1)) for t in range(setting.steps)])
    return answers


def _adaptive(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    law = adaptive_covariance(setting.problem, optimizer)
    answers = {
        "frozen": frozen_adaptive_covariance(setting.problem, optimizer, setting.preconditioner),
        "covariance": law.require(),
        "mean": law.mean,
        "second moment": law.second_moment,
    }
    if isinstance(optimizer, Adam):
        answers["rates"] = bias_corrected_rates(optimizer, np.full(setting.steps, optimizer.learning_rate))
    return answers


def _coupled(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    """AdamW's decay as if it passed through the preconditioner."""
    if isinstance(optimizer, Adam):
        optimizer = replace(optimizer, decoupled_weight_decay=False)
    return _adaptive(setting, optimizer)


def _mean_at_optimum(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    """No pull of the decay."""
    del optimizer
    return {"mean": setting.problem.optimum}


def _mean_under_weak_decay(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    """(H + κI) w̄ = H w* for AdamW too: the preconditioner left out of the pull."""
    hessian = setting.problem.dense_hessian()
    pulled = hessian + optimizer.weight_decay * np.eye(len(hessian))
    return {"mean": np.linalg.solve(pulled, hessian @ setting.problem.optimum)}


def _momentum_without_decay(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    """AdamW with momentum β₁ in place of β₁(1−ηκ)."""
    problem, sgd = preconditioned_problem(setting.problem, optimizer, setting.preconditioner)
    momentum = optimizer.beta1 if isinstance(optimizer, Adam) else optimizer.momentum
    plain = MomentumSGD(sgd.learning_rate, momentum, dampening=sgd.dampening)
    law = stationary_covariance(problem, plain).require()
    return {"frozen": scaled(law, np.sqrt(setting.preconditioner))}


def _noise_for_gradient(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    """s = diag C."""
    del optimizer
    return {"second moment": np.diag(setting.problem.dense_noise_cov())}


def _uncorrected(setting: AdaptiveLaws, optimizer: Adaptive) -> Answers:
    return {"rates": np.full(setting.steps, optimizer.learning_rate)} if isinstance(optimizer, Adam) else {}


WRITTEN = exact_experiment(
    "adaptive-written", "torch's adaptive updates as matrices, settled", LAWS, each(_adaptive_oracle)
)
EXPERIMENTS: tuple[Experiment, ...] = (WRITTEN,)

CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="adaptive-exact",
        statement="frozen D: (S2) of D^{1/2}HD^{1/2}; AdamW momentum β₁(1−ηκ) and mean (κI + DH)w̄ = DHw*; "
        "s = diag(H'ΣH') + diag C + ḡ² is met; rates η/(1−β₁ᵗ).",
        source="own derivation; the updates are torch's",
        experiment=WRITTEN,
        predict=each(_adaptive),
        decoys={
            "AdamW's decay coupled": each(_coupled),
            "mean at w*": each(_mean_at_optimum),
            "AdamW's mean without preconditioner": each(_mean_under_weak_decay),
            "momentum β₁ for AdamW": each(_momentum_without_decay),
            "s = diag C": each(_noise_for_gradient),
            "no bias correction": each(_uncorrected),
        },
        assumptions=("quadratic loss", "noise independent over time", "the preconditioner frozen, or s settled"),
        num_tests=19,
    ),
)
