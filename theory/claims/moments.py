r"""How simulated second moments are compared with a predicted law, entry by entry, with the error each entry has.

A prediction is a covariance M of the state z = (w, v) in some frame. What an estimate of M scatters by follows from the
recursion: at lag h the state's covariance is Fʰ M, and noise enters through Fᵏ G L (C = L Lᵀ). Products of two
directions, pooled over replicas and times, are then tested against M (`theory.judge.statistics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.judge.claim import MISS, TEST_ALPHA, Comparison, Experiment, Progress, needed_degrees
from theory.judge.evidence import Evidence
from theory.judge.figure import Figure, Series
from theory.judge.statistics import (
    normal_p_value,
    normal_quantile,
    pooled_kurtosis_variance,
    pooled_moment_variance,
    variance_interval,
    variance_p_value,
)
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting
from theory.oracle.simulate import Simulation, simulate
from theory.oracle.transition import transition

#: Lags and responses whose size fell below this share of the start no longer move a variance.
NEGLIGIBLE = 1e-7

__all__ = [
    "MISS", "Tests", "error_figure", "law_in_frame", "moment_tests", "simulation_experiment", "simulation_of",
    "state_frame", "to_comparison",
]  # fmt: skip


def simulation_experiment(name: str, title: str, setting: Any) -> Experiment:
    """An experiment that simulates and keeps the moments. `setting` maps a budget to a `Simulation`."""
    return Experiment(name=name, title=title, setting=setting, run=_run_simulation)


def _run_simulation(
    setting: Simulation, seed: int, progress: Progress
) -> tuple[Mapping[str, Any], Mapping[str, NDArray]]:
    moments = simulate(setting, seed=seed, progress=progress)
    arrays = {"count": moments.count, "mean": moments.mean, "second": moments.second, "lag": moments.lag}
    return {"engine": moments.engine, "replicas": setting.replicas}, arrays


def simulation_of(evidence: Evidence) -> Simulation:
    """The Simulation an evidence was made with."""
    return Simulation.from_dict(evidence.setting)


@dataclass(frozen=True)
class FrameLaw:
    """The law of the state in a frame: covariance M, its lagged values Fʰ M, and the noise response Fᵏ G L."""

    covariance: NDArray[np.float64]  # (n, n)
    lagged: NDArray[np.float64]  # (L, n, n), at lags of recorded times
    response: NDArray[np.float64]  # (K, n, q), at every step


def state_frame(basis: NDArray[np.float64] | None, dimension: int) -> NDArray[np.float64]:
    """Rows turn (w, v) into its components along the columns of `basis`, shape ``(2m, 2m)``."""
    turn = np.eye(dimension) if basis is None else basis.T
    return np.kron(np.eye(2), turn)


def law_in_frame(simulation: Simulation, covariance: NDArray[np.float64], frame: NDArray[np.float64]) -> FrameLaw:
    """What a state covariance implies for the scatter of pooled moments seen through `frame`, shape ``(n, 2m)``.

    Args:
        simulation: one segment, pooled record times equally spaced.
        covariance: predicted covariance of z, ``(2m, 2m)``.
        frame: rows are the directions looked at.
    """
    segment = simulation.segments[0]
    step, inflow = transition(simulation.problem, segment.optimizer)
    times = np.asarray(simulation.record_times)
    stride = int(times[1] - times[0]) if len(times) > 1 else int(times[0])
    lagged = [covariance]
    jump = np.linalg.matrix_power(step, stride)
    while np.abs(lagged[-1]).max() > NEGLIGIBLE * np.abs(covariance).max() and len(lagged) < len(times):
        lagged.append(jump @ lagged[-1])
    response = np.zeros((1, len(frame), simulation.problem.dimension))
    if simulation.noise.excess_kurtosis:
        responses = [inflow @ _root(simulation.problem)]
        while np.abs(responses[-1]).max() > NEGLIGIBLE * np.abs(responses[0]).max() and len(responses) < times[-1]:
            responses.append(step @ responses[-1])
        response = frame @ np.stack(responses)
    return FrameLaw(frame @ covariance @ frame.T, frame @ np.stack(lagged) @ frame.T, response)


def _root(problem: Quadratic) -> NDArray[np.float64]:
    """The symmetric square root of C, which the simulator uses to colour its noise."""
    if problem.noise_cov.ndim == 1:
        return np.diag(np.sqrt(problem.noise_cov))
    values, vectors = np.linalg.eigh(problem.noise_cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


@dataclass(frozen=True)
class Tests:
    """A batch of elementary tests: p-values, and for those that speak of a variance, ratio and ν."""

    p_values: NDArray[np.float64]
    ratio: NDArray[np.float64]  # measured / predicted variances
    degrees: NDArray[np.float64]

    @staticmethod
    def join(parts: list[Tests]) -> Tests:
        """All tests of several batches."""
        return Tests(*(np.concatenate([getattr(part, name) for part in parts]) for name in Tests.__annotations__))


def moment_tests(
    simulation: Simulation,
    second: NDArray[np.float64],
    mean: NDArray[np.float64],
    law: FrameLaw,
    *,
    off_diagonal: bool = True,
    means: bool = True,
) -> Tests:
    """Variance tests on the diagonal (χ²), and on request off-diagonal and mean tests (normal).

    Args:
        simulation: what was run.
        second: measured E z zᵀ in the law's frame, ``(n, n)``.
        mean: measured E z in the law's frame, ``(n,)``.
        law: the prediction in its frame.
        off_diagonal: also test the entries above the diagonal.
        means: also test that the means vanish.
    """
    times, replicas = np.asarray(simulation.record_times), simulation.replicas
    variance = pooled_moment_variance(law.lagged, len(times), replicas)
    variance = variance + pooled_kurtosis_variance(law.response, times, replicas, simulation.noise.excess_kurtosis)
    diagonal = np.diag(law.covariance)
    degrees = 2.0 * diagonal**2 / np.diag(variance)
    ratio = np.diag(second) / diagonal
    p_values = [variance_p_value(ratio, degrees)]
    if off_diagonal:
        upper = np.triu_indices(len(second), 1)
        p_values.append(normal_p_value((second - law.covariance)[upper] / np.sqrt(variance[upper])))
    if means:
        lags = np.arange(len(law.lagged))
        weight = np.where(lags == 0, 1.0, 2.0) * (len(times) - lags) / (replicas * float(len(times)) ** 2)
        spread = np.einsum("h,hii->i", weight, law.lagged)
        p_values.append(normal_p_value(mean / np.sqrt(spread)))
    return Tests(np.concatenate(p_values), ratio, degrees)


def to_comparison(tests: Tests, detects: float, *, note: str = "", figures: tuple[Figure, ...] = ()) -> Comparison:
    """The batch as a Comparison: the worst variance ratio with its interval at the family's level, and the smallest p."""
    low, high = variance_interval(tests.ratio, tests.degrees, TEST_ALPHA)
    worst = int(np.argmin(variance_p_value(tests.ratio, tests.degrees)))
    return Comparison(
        estimate=float(tests.ratio[worst] - 1),
        interval=(float(low[worst] - 1), float(high[worst] - 1)),
        p_value=float(tests.p_values.min()),
        num_tests=len(tests.p_values),
        reached=float(tests.degrees.min()),
        required=needed_degrees(detects),
        note=note,
        figures=figures,
    )


def error_figure(title: str, parts: Mapping[str, tuple[NDArray, Tests]], caption: str) -> Figure:
    """Relative error of every variance against ηλ, with intervals at the family's level."""
    series = []
    for label, (rates, tests) in parts.items():
        low, high = variance_interval(tests.ratio, tests.degrees, TEST_ALPHA)
        order = np.argsort(rates)
        x, y = np.asarray(rates)[order], (tests.ratio - 1)[order]
        series.append(
            Series(label=label, x=x, y=y, low=(low - 1)[order], high=(high - 1)[order], style="points")
        )
    ends = [min(min(one.x) for one in series), max(max(one.x) for one in series)]
    series.insert(0, Series(label="prediction", x=tuple(ends), y=(0.0, 0.0), style="line"))
    return Figure(
        title=title,
        x_label="step size times curvature, ηλ",
        y_label="measured / predicted variance − 1",
        x_scale="log",
        series=tuple(series),
        caption=caption,
    )


def with_problem(simulation: Simulation, problem: Quadratic) -> Simulation:
    """The same simulation of another problem: how decoys that misread H or C are made."""
    return replace(simulation, problem=problem)


def scaled_noise(simulation: Simulation, factor: float) -> Simulation:
    """The same simulation with C multiplied by `factor`."""
    problem = simulation.problem
    return with_problem(simulation, Quadratic(problem.hessian, factor * problem.noise_cov))


def z_score(alpha: float = TEST_ALPHA) -> float:
    """Half-width, in standard errors, of an interval at the family's level."""
    return normal_quantile(alpha)


def rebuild(evidence: Evidence) -> Setting:
    """Any Setting from its evidence."""
    return Setting.from_dict(evidence.setting)
