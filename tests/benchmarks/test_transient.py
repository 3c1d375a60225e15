"""Speed and accuracy of transients and of propagation beside the plain ways to get the same numbers.

Run with ``pytest tests/benchmarks/test_transient.py --benchmark-only``. Every run rewrites
``tests/benchmarks/results/transient.json``: seconds (contenders take turns, best turn of each), ratios to the peers,
the targets, and errors against 80-digit recursions, with the machine it ran on.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from tests.benchmarks.test_simulation import environment
from tests.oracles import relative
from tests.theory.closed_form.transient_oracles import block_errors, random_covariance, transient_mp
from tests.theory.strategies import rotation
from theory.closed_form.propagate import propagate
from theory.closed_form.transient import transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.transition import transition

RESULTS = Path(__file__).parent / "results" / "transient.json"
BEFORE, AFTER = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)
EPOCHS, BATCHES = 200, 391


def dense_problem(count):
    turn = rotation(count, 1)
    hessian = (turn * np.geomspace(1e-2, 20.0, count)) @ turn.T
    return Quadratic(0.5 * (hessian + hessian.T), random_covariance(count, 2))


def turns(contenders, rounds):
    """Best seconds of each contender, taking turns."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, function in contenders.items():
            began = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def store(name, figures):
    RESULTS.parent.mkdir(exist_ok=True)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stored["environment"] = environment()
    stored[name] = figures
    RESULTS.write_text(json.dumps(stored, indent=2, sort_keys=True, allow_nan=False) + "\n")


@pytest.fixture(autouse=True)
def one_blas_thread():
    limits = pytest.importorskip("threadpoolctl", reason="one core means one BLAS thread")
    with limits.threadpool_limits(1):
        yield


def step_by_step(problem, optimizer, rates):
    """M ← F M Fᵀ + Q with dense matrices, as one would write it first."""
    state = transient_covariance(problem, optimizer, optimizer, 0).state()[0]
    noise = problem.dense_noise_cov()
    for rate in rates:
        move, kick = transition(problem, replace(optimizer, learning_rate=float(rate)))
        state = move @ state @ move.T + kick @ noise @ kick.T
    return state


def mode_by_mode(problem, optimizer, rates):
    """The same in H's eigenbasis, O(m²) a step, one step at a time."""
    curvatures, basis = np.linalg.eigh(problem.dense_hessian())
    noise = basis.T @ problem.dense_noise_cov() @ basis
    m = problem.dimension
    state = transient_covariance(problem, optimizer, optimizer, 0).state()[0]
    w, x, v = (basis.T @ part @ basis for part in (state[:m, :m], state[:m, m:], state[m:, m:]))
    mu, rows, columns = optimizer.momentum, curvatures[:, None], curvatures[None, :]
    for rate in rates:
        drawn = mu * x + w * columns  # E w v₊ᵀ
        v = mu * mu * v + rows * drawn + mu * (rows * x).T + noise
        v = 0.5 * (v + v.T)  # left alone, rounding's asymmetry grows without bound
        w, x = w - rate * (drawn + drawn.T) + rate * rate * v, drawn - rate * v
    return basis @ w @ basis.T


def test_a_cosine_of_78200_distinct_rates(benchmark):
    """m = 50, H and C dense and unrelated, recorded once an epoch; target 2 s on one core."""
    problem, length = dense_problem(50), EPOCHS * BATCHES
    schedule = Schedule.cosine(0.1, length)
    rates = schedule.rates(length)
    steps = list(range(BATCHES, length + 1, BATCHES))
    share = 40  # peers run a fortieth of the path, and are scaled up
    peers = {
        "dense matrices, step by step": lambda: step_by_step(problem, BEFORE, rates[: length // (share * 4)]),
        "eigenbasis, step by step": lambda: mode_by_mode(problem, BEFORE, rates[: length // share]),
    }
    ours = {
        "propagate, 200 records": lambda: propagate(problem, BEFORE, schedule, steps),
        "propagate, last state only": lambda: propagate(problem, BEFORE, schedule, length),
    }
    best = benchmark.pedantic(lambda: turns({**ours, **peers}, rounds=5), rounds=1)
    best["dense matrices, step by step"] *= 4 * share
    best["eigenbasis, step by step"] *= share
    few = 2000
    found = propagate(problem, BEFORE, schedule, few)
    error = relative(found.value[0], step_by_step(problem, BEFORE, rates[:few])[:50, :50])
    other = relative(found.value[0], mode_by_mode(problem, BEFORE, rates[:few]))
    fastest = best["propagate, 200 records"]
    store(
        "cosine of 78,200 rates, m = 50",
        {
            "seconds": best,
            "times_faster_than": {name: best[name] / fastest for name in peers},
            "target_seconds": 2.0,
            "error_after_2000_steps": {"dense matrices": error, "eigenbasis": other},
        },
    )
    assert error < 1e-10 and other < 1e-10


def test_any_number_of_steps_at_one_cost(benchmark):
    """m = 50: k = 1 … 10⁹, beside matrix powers with a Lyapunov solver and beside a loop."""
    problem = dense_problem(50)
    move, kick = transition(problem, AFTER)
    forcing = kick @ problem.dense_noise_cov() @ kick.T
    start = transient_covariance(problem, BEFORE, AFTER, 0).state()[0]

    def by_powers(k):
        settled = scipy.linalg.solve_discrete_lyapunov(move, forcing, method="bilinear")
        lifted = np.linalg.matrix_power(move, k)
        return settled + lifted @ (start - settled) @ lifted.T

    def looped(k):
        state = start
        for _ in range(k):
            state = move @ state @ move.T + forcing
        return state

    ours = {
        f"k = {k:.0e}": (lambda k=k: transient_covariance(problem, BEFORE, AFTER, k)) for k in (1, 10**3, 10**6, 10**9)
    }
    peers = {"powers and SciPy's solver, k = 1e6": lambda: by_powers(10**6), "a loop, k = 1e3": lambda: looped(1000)}
    best = benchmark.pedantic(lambda: turns({**ours, **peers}, rounds=25), rounds=1)
    error = relative(transient_covariance(problem, BEFORE, AFTER, 1000).state()[0], looped(1000))
    store(
        "transient, m = 50",
        {
            "seconds": best,
            "cost_of_a_million_steps_over_one": best["k = 1e+06"] / best["k = 1e+00"],
            "times_faster_than": {name: best[name] / best["k = 1e+06"] for name in peers},
            "difference_from_the_loop_in_float64": error,
        },
    )
    assert error < 1e-10


def test_accuracy(benchmark):
    """Normwise errors, block by block, over slow, coincident, underdamped and nearly unstable modes, both starts."""
    steps = (1, 30, 10_000, 10**9)

    def measure():
        worst = {}
        for momentum in (0.0, 0.9, 0.999, 1 - 2e-6):
            optimizer = MomentumSGD(1.0, momentum)
            critical = (1 - momentum**0.5) ** 2 or 0.5
            top = 2 * (1 + momentum)
            rates = np.array(
                [2e-6 * (1 - momentum), critical, critical * (1 + 1e-9), 0.5 * top, top - 4e-6 * (1 - momentum)]
            )
            noise = random_covariance(len(rates), 5)
            problem = Quadratic(rates, noise)
            before = replace(optimizer, learning_rate=0.3)
            old = transient_covariance(problem, before, optimizer, 0).state()[0]
            for start, initial in (("rest", np.zeros_like(old)), ("old stationary state", old)):
                found = transient_covariance(problem, None, optimizer, steps, initial).state()
                for state, k in zip(found, steps, strict=True):
                    error, _ = block_errors(state, transient_mp(rates, noise, optimizer, initial, k))
                    worst[f"{start}, k = {k:.0e}"] = max(worst.get(f"{start}, k = {k:.0e}", 0.0), error)
        return worst

    worst = benchmark.pedantic(measure, rounds=1)
    store("normwise error against 80 digits", {"worst": worst, "target": 1e-12})
    assert max(worst.values()) < 1e-12
