"""Single runs and averages of iterates: a known truth is supported, each decoy falls by it, few runs decide nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from theory.claims import averaging, single_run
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome
from theory.oracle.dense import averaged
from theory.oracle.transition import transition

SINGLE = single_run.EXPERIMENTS[0].setting("default")
AVERAGE = averaging.EXPERIMENTS[0].setting("default")


def spread_of_runs(runs: int, wider: float = 1.0, higher: float = 1.0) -> Evidence:
    """Half the runs see σ² + s and half σ² − s, s² the variance of a mean of T correlated squares, lag by lag."""
    step, kick = transition(SINGLE.problem, SINGLE.optimizer)
    m = SINGLE.problem.dimension
    state = np.zeros_like(step)
    for _ in range(4000):
        state = step @ state @ step.T + kick @ SINGLE.problem.dense_noise_cov() @ kick.T
    sigma, carried, scatter = np.diag(state)[:m], state, np.zeros(m)
    for lag in range(SINGLE.steps):
        weight = (1 if lag == 0 else 2) * (SINGLE.steps - lag) / SINGLE.steps**2
        scatter += weight * 2 * np.diag(carried)[:m] ** 2
        carried = step @ carried
    side = np.where(np.arange(runs) % 2, 1.0, -1.0)[:, None] * np.sqrt(1 - 1 / runs)
    arrays = {
        "variance": higher * sigma + side * np.sqrt(wider * scatter),
        "correlation_time": np.ones((2, m)),
        "standard_error": np.ones((2, m)),
    }
    setting = replace(SINGLE, runs=runs)
    return Evidence(experiment="single-run", setting=setting.to_dict(), seed=0, measured={}, arrays=arrays)


def test_the_spread_of_single_runs():
    (claim,) = single_run.CLAIMS
    verdict = claim.judge({"single-run": spread_of_runs(SINGLE.runs)})
    assert verdict.outcome is Outcome.SUPPORTED, verdict
    assert abs(verdict.estimate) < 0.01  # τ₂(1 − τ₂/2T) for the sum over lags
    assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}
    assert claim.judge({"single-run": spread_of_runs(64)}).outcome is Outcome.INCONCLUSIVE
    for change in ({"wider": 1.3}, {"wider": 1 / 1.3}, {"higher": 1.02}):
        assert claim.judge({"single-run": spread_of_runs(SINGLE.runs, **change)}).outcome is Outcome.REFUTED, change


def laws_of_averages(replicas: int, wider: float = 1.0, tilted: float = 0.0) -> Evidence:
    """Covariances of the mean and of the exponential averages, carried along step by step in extended precision."""
    problem, m, steps = AVERAGE.problem, AVERAGE.problem.dimension, AVERAGE.steps
    noise = problem.dense_noise_cov()
    step, kick = transition(problem, AVERAGE.optimizer, np.longdouble)
    start = np.zeros_like(step)
    mean = averaged([(step, kick)], noise, start, steps, m)
    exponential = []
    for beta in AVERAGE.decays:
        pick = np.hstack([np.eye(m), np.zeros((m, m))])
        whole = np.block([[step, np.zeros((2 * m, m))], [(1 - beta) * pick @ step, beta * np.eye(m)]])
        enters = np.vstack([kick, (1 - beta) * pick @ kick])
        joint = np.zeros((3 * m, 3 * m), dtype=np.longdouble)
        for _ in range(steps):
            joint = whole @ joint @ whole.T + enters @ noise @ enters.T
        exponential.append(joint[2 * m :, 2 * m :])
    last = np.array(exponential, dtype=float)
    last[-1, 0, 0] *= wider
    last[-1, 0, 1] += tilted * np.sqrt(last[-1, 0, 0] * last[-1, 1, 1])
    arrays = {"mean": np.asarray(mean, dtype=float), "exponential": last}
    setting = replace(AVERAGE, replicas=replicas)
    return Evidence(experiment="averaged-iterates", setting=setting.to_dict(), seed=0, measured={}, arrays=arrays)


def test_the_law_of_averages():
    (claim,) = averaging.CLAIMS
    verdict = claim.judge({"averaged-iterates": laws_of_averages(AVERAGE.replicas)})
    assert verdict.outcome is Outcome.SUPPORTED and abs(verdict.estimate) < 1e-10, verdict
    assert verdict.num_tests == claim.num_tests
    assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}
    assert claim.judge({"averaged-iterates": laws_of_averages(2000)}).outcome is Outcome.INCONCLUSIVE
    for change in ({"wider": 1.05}, {"tilted": 0.03}):
        found = laws_of_averages(AVERAGE.replicas, **change)
        assert claim.judge({"averaged-iterates": found}).outcome is Outcome.REFUTED, change


@pytest.mark.parametrize("claim", [*single_run.CLAIMS, *averaging.CLAIMS], ids=lambda claim: claim.name)
def test_they_are_in_the_register(claim):
    from theory.claims import CLAIMS

    assert claim in CLAIMS
