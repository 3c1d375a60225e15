r"""How simulated second moments are compared with a predicted law, entry by entry, with the error each entry has.

A prediction is a covariance M of the state z = (w, v). What an estimate of it scatters by follows from the recursion:
at lag h the state's covariance is Fʰ Ŝ, and noise enters through Fᵏ G L (C = L Lᵀ). Products of two directions, pooled
over replicas and times, are then tested against M (`theory.judge.statistics`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from theory.claims import shown
from theory.judge.claim import TEST_ALPHA, Comparison, Experiment, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Profile, Result
from theory.judge.statistics import (
    normal_p_value,
    pooled_kurtosis_variance,
    pooled_moment_variance,
    variance_interval,
    variance_p_value,
)
from theory.model.quadratic import Quadratic
from theory.oracle.simulate import Simulation, noise_factor, simulate
from theory.oracle.transition import transition

#: The covariance of the state that a formula predicts for a simulation, at the times it records.
Law: TypeAlias = Predictor[[Simulation], NDArray[np.float64]]
#: Lags and responses whose size fell below this share of the start no longer move a variance.
NEGLIGIBLE = 1e-7


def simulation_experiment(name: str, title: str, setting: Any) -> Experiment:
    """An experiment that simulates and keeps the moments. `setting` maps a budget to a `Simulation`."""
    return Experiment(name=name, title=title, setting=setting, run=_run_simulation)


def _run_simulation(
    setting: Simulation, seed: int, progress: Progress
) -> tuple[Mapping[str, Any], Mapping[str, NDArray]]:
    moments = simulate(setting, seed=seed, progress=progress)
    return {"engine": moments.engine, "path": moments.path, "blocks": moments.blocks}, moments.to_arrays()


@functools.lru_cache(maxsize=64)
def simulation_of(evidence: Evidence) -> Simulation:
    """The Simulation an evidence was made with."""
    return Simulation.from_dict(evidence.setting)


def state_frame(basis: NDArray[np.float64] | None, dimension: int) -> NDArray[np.float64]:
    """Rows turn (w, v) into its components along the columns of `basis`, shape ``(2m, 2m)``."""
    turn = np.eye(dimension) if basis is None else basis.T
    return np.asarray(np.kron(np.eye(2), turn), dtype=np.float64)


def measured_state(evidence: Evidence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measured E z zᵀ, ``(2m, 2m)``, and E z, ``(2m,)``; a diagonal record leaves pairs of modes at zero."""
    second, mean = evidence.arrays["second"][0], evidence.arrays["mean"][0]
    if second.ndim == 1:
        m = len(second) // 2
        second = np.diag(second)
        cross = np.diag(evidence.arrays["cross"][0])
        second[:m, m:] = second[m:, :m] = cross
    return second, mean


@dataclass(frozen=True)
class Scatter:
    """What pooled moments scatter by: lagged covariances Γ(h) = Fʰ Ŝ and noise responses Fᵏ G L, both of z.

    Ŝ is the *measured* covariance, so that a claim and its decoys are tested against the same error, and a formula
    cannot widen its own. Its sampling error moves a standard error by a thousandth.
    """

    lagged: NDArray[np.float64]  # (L, 2m, 2m), at lags of recorded times
    response: NDArray[np.float64]  # (K, 2m, m), at every step
    times: NDArray[np.int_]
    replicas: int
    excess_kurtosis: float
    _variances: dict[bytes, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def variance(self, frame: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of every entry of the pooled second moment seen through `frame`, ``(n, n)``."""
        key = frame.tobytes()  # a claim and its decoys look through the same frame
        if key not in self._variances:
            self._variances[key] = self._variance(frame)
        return self._variances[key]

    def _variance(self, frame: NDArray[np.float64]) -> NDArray[np.float64]:
        lagged = self.seen(frame)
        total = pooled_moment_variance(lagged, len(self.times), self.replicas)
        if self.excess_kurtosis:
            total = total + pooled_kurtosis_variance(
                frame @ self.response, self.times, self.replicas, self.excess_kurtosis
            )
        return total

    def mean_variance(self, frame: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of every pooled mean seen through `frame`, ``(n,)``."""
        lags = np.arange(len(self.lagged))
        count = len(self.times)
        weight = np.where(lags == 0, 1.0, 2.0) * (count - lags) / (self.replicas * float(count) ** 2)
        return np.einsum("h,hii->i", weight, self.seen(frame))

    def seen(self, frame: NDArray[np.float64]) -> NDArray[np.float64]:
        """Γ(h) through `frame`, ``(L, n, n)``."""
        return frame @ self.lagged @ frame.T


@functools.lru_cache(maxsize=32)
def scatter(evidence: Evidence) -> Scatter:
    """The scatter of a simulation of one segment, pooled over equally spaced times."""
    simulation = simulation_of(evidence)
    covariance, _ = measured_state(evidence)
    step, inflow = transition(simulation.problem, simulation.segments[0].optimizer)
    times = np.asarray(simulation.record_times)
    stride = int(times[1] - times[0]) if len(times) > 1 else int(times[0])
    lagged = [covariance]
    jump = np.linalg.matrix_power(step, stride)
    while np.abs(lagged[-1]).max() > NEGLIGIBLE * np.abs(covariance).max() and len(lagged) < len(times):
        lagged.append(jump @ lagged[-1])
    root = noise_factor(simulation.problem)
    responses = [inflow * root if root.ndim == 1 else inflow @ root]
    kurtosis = simulation.noise.excess_kurtosis
    while kurtosis and np.abs(responses[-1]).max() > NEGLIGIBLE * np.abs(responses[0]).max():
        if len(responses) >= times[-1]:
            break
        responses.append(step @ responses[-1])
    return Scatter(np.stack(lagged), np.stack(responses), times, simulation.replicas, kurtosis)


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
    evidence: Evidence,
    covariance: NDArray[np.float64],
    frame: NDArray[np.float64],
    *,
    off_diagonal: bool = True,
    means: bool = True,
) -> Tests:
    """Variance tests on the diagonal (χ²), and on request off-diagonal and mean tests (normal).

    Args:
        evidence: a simulation's moments.
        covariance: predicted covariance of z, ``(2m, 2m)``.
        frame: rows are the directions looked at, ``(n, 2m)``.
        off_diagonal: also test the entries above the diagonal.
        means: also test that the means vanish.
    """
    second, mean = measured_state(evidence)
    found, expected = frame @ second @ frame.T, frame @ covariance @ frame.T
    spread = scatter(evidence)
    variance = spread.variance(frame)
    degrees = 2.0 * np.diag(found) ** 2 / np.diag(variance)
    ratio = np.diag(found) / np.diag(expected)
    p_values = [variance_p_value(ratio, degrees)]
    if off_diagonal:
        upper = np.triu_indices(len(found), 1)
        p_values.append(normal_p_value((found - expected)[upper] / np.sqrt(variance[upper])))
    if means:
        p_values.append(normal_p_value(frame @ mean / np.sqrt(spread.mean_variance(frame))))
    return Tests(np.concatenate(p_values), ratio, degrees)


def to_comparison(tests: Tests, *, note: str = "", results: tuple[Result, ...] = ()) -> Comparison:
    """The batch as a Comparison: the worst variance ratio with its interval at the family's level, the smallest p."""
    low, high = variance_interval(tests.ratio, tests.degrees, TEST_ALPHA)
    worst = int(np.argmin(variance_p_value(tests.ratio, tests.degrees)))
    return Comparison(
        estimate=float(tests.ratio[worst] - 1),
        interval=(float(low[worst] - 1), float(high[worst] - 1)),
        p_value=float(tests.p_values.min()),
        num_tests=len(tests.p_values),
        reached=float(tests.degrees.min()),
        note=note,
        results=results,
    )


def error_profile(
    title: str, parts: Mapping[str, tuple[NDArray, Tests]], evidence: Iterable[Evidence], caption: str
) -> Profile:
    """Relative error of every variance against ηλ, experiment by experiment."""
    curves = []
    for name, (rates, tests) in parts.items():
        low, high = variance_interval(tests.ratio, tests.degrees, TEST_ALPHA)
        curves.append(shown.measured_between(rates, tests.ratio - 1, low - 1, high - 1, subject=name))
    ends = np.concatenate([rates for rates, _ in parts.values()])
    return Profile(
        title=title,
        sample=shown.replicas(evidence, ", pooled over time"),
        x=shown.RATE,
        y=Axis("measured / predicted variance − 1"),
        curves=(shown.level(0.0, ends, "prediction"), *curves),
        caption=caption,
    )


def with_problem(simulation: Simulation, problem: Quadratic) -> Simulation:
    """The same simulation of another problem: how decoys that misread H or C are made."""
    return replace(simulation, problem=problem)


def scaled_noise(simulation: Simulation, factor: float) -> Simulation:
    """The same simulation with C multiplied by `factor`."""
    problem = simulation.problem
    return with_problem(simulation, Quadratic(problem.hessian, factor * problem.noise_cov))
