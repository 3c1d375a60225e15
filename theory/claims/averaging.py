r"""Claim about iterate averaging: the covariance of an average of autocorrelated iterates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.averaging import averaged_covariance, ema_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Kind, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Table
from theory.judge.statistics import normal_p_value, variance_interval, variance_p_value
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.averaging import AveragingRun, simulate_averages

_DETECTS = 0.05
_DECAYS = (0.5, 0.9, 0.98)


def _setting(budget: str) -> AveragingRun:
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(4, 4)))[0]
    noise = (turn * np.array([0.2, 0.5, 1.0, 2.0])) @ turn.T
    return AveragingRun(
        problem=Quadratic(np.array([0.1, 0.3, 1.0, 4.0]), 0.5 * (noise + noise.T)),
        optimizer=MomentumSGD(0.1, 0.8),
        steps=120,
        decays=_DECAYS,
        replicas=(1_000_000 if budget == "full" else 120_000),
    )


def _run(setting: AveragingRun, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    averages = simulate_averages(setting, seed=seed, progress=progress)
    return {"replicas": setting.replicas}, {"mean": averages.mean, "exponential": averages.exponential}


class _Predicted(NamedTuple):
    """Covariances of the mean of T iterates, and of the exponential average of each β."""

    mean: NDArray[np.float64]
    exponential: NDArray[np.float64]


def _exact(run: AveragingRun) -> _Predicted:
    return _Predicted(
        averaged_covariance(run.problem, run.optimizer, run.steps, start="optimum"),
        np.array(
            [ema_covariance(run.problem, run.optimizer, beta, steps=run.steps, start="optimum") for beta in run.decays]
        ),
    )


def _independent(run: AveragingRun) -> _Predicted:
    """As if iterates were independent draws from the stationary law."""
    law = stationary_covariance(run.problem, run.optimizer).require()
    return _Predicted(law / run.steps, np.array([law * (1 - beta) / (1 + beta) for beta in run.decays]))


def _asymptotic(run: AveragingRun) -> _Predicted:
    """Polyak and Juditsky's limit H⁻¹CH⁻¹/T, reached only when T exceeds every relaxation time."""
    inverse = np.linalg.inv(run.problem.dense_hessian())
    return _Predicted(inverse @ run.problem.dense_noise_cov() @ inverse / run.steps, _exact(run).exponential)


def _compare(evidence: Mapping[str, Evidence], predict: Any) -> Comparison:
    item = evidence["averaged-iterates"]
    run = AveragingRun.from_dict(item.setting)
    predicted = predict(run)
    # Averages of Gaussian noise are Gaussian, one a replica: V̂/V is exactly χ²(R)/R.
    cases = [("mean of all", predicted.mean, item.arrays["mean"])]
    cases += [
        (f"exponential, β = {beta:g}", one, measured)
        for beta, one, measured in zip(run.decays, predicted.exponential, item.arrays["exponential"], strict=True)
    ]
    p_values, ratios, rows = [], [], []
    upper = np.triu_indices(run.problem.dimension, 1)
    for label, law, measured in cases:
        ratio = np.diag(measured) / np.diag(law)
        spread = np.sqrt((np.multiply.outer(np.diag(law), np.diag(law)) + law**2) / run.replicas)
        p_values += [variance_p_value(ratio, run.replicas), normal_p_value(((measured - law) / spread)[upper])]
        ratios.append(ratio)
        rows += [
            (label, float(lam), float(law[mode, mode]), float(measured[mode, mode]))
            for mode, lam in enumerate(run.problem.hessian)
        ]
    ratio, p_value = np.concatenate(ratios), np.concatenate(p_values)
    worst = int(np.argmax(np.abs(np.log(ratio))))
    low, high = variance_interval(ratio[worst], run.replicas, TEST_ALPHA)
    return Comparison(
        estimate=float(ratio[worst] - 1),
        interval=(float(low - 1), float(high - 1)),
        p_value=float(p_value.min()),
        num_tests=len(p_value),
        reached=float(run.replicas),
        results=(
            Table(
                title=f"Variance of averaged weights after {run.steps} steps",
                columns=("average", "λ", "predicted", "measured"),
                rows=tuple(rows),
            ),
        ),
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="averaged-iterates",
        title="running and exponential averages of simulated iterates, H and C not commuting",
        setting=_setting,
        run=_run,
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="iterate-averaging",
        statement="Cov(e) = (1−β)/(1+β) [(I−βF)⁻¹P + P(I−βF)⁻ᵀ − P], and the mean of T iterates by doubling, at any T",
        source="theory.closed_form.averaging; T → ∞: Polyak and Juditsky 1992, Theorem 1",
        kind=Kind.IDENTITY,
        experiments=("averaged-iterates",),
        assumptions=("constant H and C", "noise independent over time"),
        predict=_exact,
        decoys={"independent iterates": _independent, "Polyak–Juditsky limit at finite T": _asymptotic},
        compare=_compare,
        num_tests=40,
        detects=_DETECTS,
    ),
)
