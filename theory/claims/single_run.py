r"""Fluctuations along one run: Σ from a single trajectory, and how many independent draws it is worth.

A training run offers one path. The variance along it, averaged over T steps, scatters as if there were T/τ₂ independent
draws, τ₂ = Σ_h ρ_h² (closed form: `correlation_time`). Many runs are simulated to see the scatter that one run hides.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.correlation_time import variance_correlation_time
from theory.closed_form.stationary import stationary_variance
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Table
from theory.judge.statistics import normal_p_value, variance_interval, variance_p_value
from theory.judge.trajectory import trajectory_covariance
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, setting
from theory.oracle.simulate import Segment, Simulation, trajectory

#: Relative error of a run's own variance estimate that the test finds.
DETECTS = 0.3


@setting
class SingleRuns(Setting):
    """R runs of T steps after a burn-in, each judged on its own.

    Args:
        problem: H and C, diagonal.
        optimizer: momentum SGD.
        burn_in: steps before the first that counts.
        steps: T.
        runs: R.
    """

    problem: Quadratic
    optimizer: MomentumSGD
    burn_in: int
    steps: int
    runs: int


def _setting(budget: str) -> SingleRuns:
    problem = Quadratic(np.array([0.1, 1.0, 10.0]), np.array([1.0, 0.3, 2.0]))
    runs = 4864 if budget == "default" else 16384
    return SingleRuns(problem=problem, optimizer=MomentumSGD(0.1, 0.9), burn_in=150, steps=1500, runs=runs)


def _run(single: SingleRuns, seed: int, progress: Progress) -> tuple[Mapping[str, object], Mapping[str, NDArray]]:
    """Every run's own Σ̂ᵢᵢ (about the optimum and about its own mean), τ̂₂ and standard error, shape ``(R, m)``."""
    simulation = Simulation(
        problem=single.problem,
        segments=(Segment(optimizer=single.optimizer, steps=single.burn_in + single.steps),),
        replicas=single.runs,
        record_times=(single.burn_in + single.steps,),
    )
    path = trajectory(simulation, seed=seed)
    weights = path.weights[single.burn_in + 1 :]
    m = single.problem.dimension
    variances = np.mean(weights**2, axis=0)
    # The estimator itself on as many runs as take a second: its errors are one run's affair.
    estimated = min(single.runs, 64)
    times, errors, own = (np.empty((estimated, m)) for _ in range(3))
    for run in range(estimated):
        estimate = trajectory_covariance(weights[:, run], center=np.zeros(m))
        times[run], errors[run] = estimate.correlation_time, np.diag(estimate.standard_error)
        own[run] = np.diag(trajectory_covariance(weights[:, run]).value)
        progress((run + 1) / estimated)
    arrays = {"variance": variances, "correlation_time": times, "standard_error": errors, "own_mean_variance": own}
    return {"engine": path.engine, "estimated": estimated}, arrays


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(name="single-run", title="many single runs, each estimating Σ alone", setting=_setting, run=_run),
)


def correlation_times(single: SingleRuns) -> NDArray[np.float64]:
    """τ₂ of each mode; the prediction."""
    return variance_correlation_time(np.asarray(single.problem.hessian), single.optimizer)


def _independent(single: SingleRuns) -> NDArray[np.float64]:
    """1: every step counts as a draw."""
    return np.ones(single.problem.dimension)


def _effective_rate_time(single: SingleRuns) -> NDArray[np.float64]:
    """(1+ρ²)/(1−ρ²) of plain SGD at η/(1−μ)."""
    rho = 1 - single.optimizer.learning_rate * np.asarray(single.problem.hessian) / (1 - single.optimizer.momentum)
    return (1 + np.minimum(rho**2, 0.99)) / (1 - np.minimum(rho**2, 0.99))


def compare_spread(
    evidence: Mapping[str, Evidence], predict: Predictor[[SingleRuns], NDArray[np.float64]]
) -> Comparison:
    """The spread of the runs' variances against 2σ⁴τ₂/T, and of their average against σ².

    The variance over R runs of an average over T/τ₂ ≈ 80 or more draws is near enough normal for its own variance to be
    χ² with R(1 + κ/2)⁻¹ degrees of freedom, κ the excess kurtosis of the runs' averages, as measured.
    """
    item = evidence["single-run"]
    single = SingleRuns.from_dict(item.setting)
    found = item.arrays["variance"]
    runs = len(found)
    times = predict(single)
    sigma = stationary_variance(single.problem, single.optimizer)
    # The weight of lag h in an average over T steps is (T − h)/T: to next order τ₂ (1 − τ₂/2T), half a per cent here.
    expected = 2 * sigma**2 * times / single.steps * (1 - 0.5 * times / single.steps)
    centered = found - found.mean(axis=0)
    spread = np.mean(centered**2, axis=0) * runs / (runs - 1)
    kurtosis = np.mean(centered**4, axis=0) / np.mean(centered**2, axis=0) ** 2 - 3
    degrees = (runs - 1) / (1 + 0.5 * np.maximum(kurtosis, 0.0))
    ratio = spread / expected
    z = (found.mean(axis=0) - sigma) / np.sqrt(spread / runs)
    p_values = np.concatenate([variance_p_value(ratio, degrees), normal_p_value(z)])
    worst = int(np.argmin(variance_p_value(ratio, degrees)))
    low, high = variance_interval(ratio[worst], degrees[worst], TEST_ALPHA)
    estimated, stated = item.arrays["correlation_time"], item.arrays["standard_error"]
    rows = tuple(
        (
            float(single.optimizer.learning_rate * np.asarray(single.problem.hessian)[mode]),
            float(times[mode]),
            float(np.median(estimated[:, mode])),
            float(single.steps / times[mode]),
            float(np.sqrt(spread[mode]) / sigma[mode]),
            float(np.median(stated[:, mode]) / sigma[mode]),
        )
        for mode in range(len(times))
    )
    table = Table(
        title=f"One run of {single.steps} steps",
        columns=(
            "ηλ", "τ₂ predicted", "τ₂ a run estimates", "independent draws", "spread over runs", "error a run states",
        ),
        rows=rows,
        caption="Relative spread of σ̂² over runs, and the standard error that a single run states (medians).",
    )  # fmt: skip
    return Comparison(
        estimate=float(ratio[worst] - 1),
        interval=(float(low - 1), float(high - 1)),
        p_value=float(p_values.min()),
        num_tests=len(p_values),
        reached=float(degrees.min()),
        note="spread of a run's variance over runs against 2σ⁴τ₂/T",
        results=(table,),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="single-run-spread",
        statement="A run of T steps estimates σᵢ² as T/τ₂ independent draws would, τ₂ = Σ_h ρ_h² of its mode.",
        source="Bartlett's formula (Priestley 1981, §5.3.3); τ₂ of heavy ball derived here",
        kind=Kind.IDENTITY,
        experiments=("single-run",),
        assumptions=("stationary", "quadratic loss", "Gaussian noise, independent over time", "T ≫ τ₂"),
        predict=correlation_times,
        decoys={"every step a draw": _independent, "plain SGD at η/(1−μ)": _effective_rate_time},
        compare=compare_spread,
        num_tests=6,
        detects=DETECTS,
    ),
)
