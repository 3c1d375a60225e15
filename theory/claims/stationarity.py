r"""Claims about the test of stationarity: it rejects stationary runs as often as it says, and finds those that descend.

The relation itself is exact (`family`); what is judged here is the error that one run can give it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Progress
from theory.judge.evidence import Evidence
from theory.judge.fluctuation import BATCHES, FluctuationStatus, first_fluctuation_dissipation
from theory.judge.statistics import binomial_interval
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.update import momentum_update

#: Nominal level at which runs are counted.
LEVEL = 0.05


@keyword_setting
class StationarityRuns(Setting):
    """Runs of which each logs w·g and |v|² at every step.

    Args:
        problem: H and C, diagonal.
        optimizer: heavy ball in PyTorch's form.
        start: every weight's first value; v starts empty.
        burn_in: steps before the first that is logged.
        steps: steps logged.
        runs: number of runs.
    """

    problem: Quadratic
    optimizer: MomentumSGD
    start: float
    burn_in: int
    steps: int
    runs: int


def _stationary(budget: str) -> StationarityRuns:
    return StationarityRuns(
        problem=Quadratic(np.array([0.5, 1.0, 5.0]), np.array([1.0, 0.5, 2.0])),
        optimizer=MomentumSGD(0.1, 0.9),
        start=0.0,
        burn_in=300,
        steps=1600,
        runs=4000 if budget == "default" else 20_000,
    )


def _descending(budget: str) -> StationarityRuns:
    """One direction with a memory of 500 steps, released far from where it will settle (30 of its deviations)."""
    return StationarityRuns(
        problem=Quadratic(np.array([0.002, 1.0, 5.0]), np.array([1.0, 0.5, 2.0])),
        optimizer=MomentumSGD(0.1, 0.9),
        start=30 * math.sqrt(0.1 / (2 * 0.002 * 0.1)),
        burn_in=0,
        steps=1000,
        runs=600 if budget == "default" else 5000,
    )


def _run(setting: StationarityRuns, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """P-values of every run under each way of testing, shape ``(runs,)``."""
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
    optimizer, curvatures = setting.optimizer, setting.problem.hessian
    deviations = np.sqrt(setting.problem.noise_cov)
    w = np.full((setting.runs, len(curvatures)), setting.start)
    v = np.zeros_like(w)
    overlap, squared = (np.empty((setting.runs, setting.steps)) for _ in range(2))
    for step in range(-setting.burn_in, setting.steps):
        g = curvatures * w + deviations * rng.standard_normal(w.shape)
        moved, v = momentum_update(optimizer, w, v, g)
        if step >= 0:
            overlap[:, step], squared[:, step] = np.einsum("ri,ri->r", w, g), np.einsum("ri,ri->r", v, v)
        w = moved
    results = []
    for run in range(setting.runs):
        results.append(
            first_fluctuation_dissipation(
                overlap[run], squared[run], optimizer.learning_rate, momentum=optimizer.momentum
            )
        )
        progress((run + 1) / setting.runs)
    gap = overlap - 0.5 * (1 + optimizer.momentum) * optimizer.learning_rate * squared
    plain = overlap - 0.5 * optimizer.learning_rate * squared
    arrays = {
        "level": np.array([result.p_value for result in results]),
        "average": _batch_means(gap),
        "plain": _batch_means(plain),
        "independent": _independent(np.cumsum(gap, axis=1)),
    }
    return {"long_enough": sum(result.status is FluctuationStatus.OK for result in results)}, arrays


def _batch_means(gap: NDArray[np.float64]) -> NDArray[np.float64]:
    """Student's t of the average over the whole run, errors from 2B batches."""
    count = 2 * BATCHES
    size = gap.shape[1] // count
    means = gap[:, -count * size :].reshape(len(gap), count, size).mean(axis=2)
    scores = means.mean(axis=1) / (means.std(axis=1, ddof=1) / math.sqrt(count))
    return np.asarray(2 * special.stdtr(count - 1, -np.abs(scores)))


def _independent(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rise of the level from half to half, every step taken for a draw of its own."""
    half = level.shape[1] // 2
    first, second = level[:, :half], level[:, half:]
    scores = (second.mean(axis=1) - first.mean(axis=1)) / np.sqrt((first.var(axis=1) + second.var(axis=1)) / half)
    return np.asarray(special.erfc(np.abs(scores) / math.sqrt(2)))


Rule = Callable[[Evidence], NDArray[np.float64]]


def _by(name: str) -> Rule:
    """The p-values that a way of testing gave."""
    return lambda item: item.arrays[name]


def _compare_level(evidence: Mapping[str, Evidence], rule: Rule) -> Comparison:
    return _rate(rule(evidence["stationary-runs"]) < LEVEL, LEVEL, "share of stationary runs rejected at 5 %, less 5 %")


def _compare_power(evidence: Mapping[str, Evidence], rule: Rule) -> Comparison:
    return _rate(rule(evidence["descending-runs"]) >= LEVEL, 0.0, "share of descending runs not rejected at 5 %")


def _rate(hits: NDArray[np.bool_], expected: float, note: str) -> Comparison:
    low, high = binomial_interval(int(hits.sum()), len(hits), TEST_ALPHA)
    return Comparison(
        estimate=float(hits.mean()) - expected, interval=(low - expected, high - expected), num_tests=1, note=note
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="stationary-runs", title="runs that have settled, each tested alone", setting=_stationary, run=_run
    ),
    Experiment(
        name="descending-runs", title="runs that still descend, each tested alone", setting=_descending, run=_run
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="stationarity-level",
        statement="Testing E w·g = (1+μ)(η/2)E|v|² by the rise of Σ(½(1+μ)η|v|² − w·g) rejects 5 % of settled runs.",
        source="relation: Yaida (arXiv 1810.00004), FDR1; the test is derived here",
        kind=Kind.APPROXIMATION,
        experiments=("stationary-runs",),
        assumptions=("batches of at least 10 correlation times", "constant learning rate"),
        select=_by("level"),
        decoys={
            "every step a draw": _by("independent"),
            "average over the run, batch means": _by("average"),
            "momentum forgotten": _by("plain"),
        },
        compare=_compare_level,
        num_tests=1,
        margin=0.042,
    ),
    Claim(
        name="stationarity-power",
        statement="At 5 % the same test finds 95 % of runs that descend from 30 deviations for two memories.",
        source="relation: Yaida (arXiv 1810.00004), FDR1; the test is derived here",
        kind=Kind.APPROXIMATION,
        experiments=("descending-runs",),
        assumptions=("constant learning rate",),
        select=_by("level"),
        decoys={"average over the run, batch means": _by("average")},
        compare=_compare_power,
        num_tests=1,
        margin=0.05,
    ),
)
