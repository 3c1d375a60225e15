"""(S2) beside the general-purpose Lyapunov solvers on the same problem, taking turns in one process, one BLAS thread.

Run with ``pytest tests/benchmarks/test_stationary.py --benchmark-only``. Rewrites ``results/stationary.json``: seconds
of each contender (best turn), ratios, and the distance of every answer from (S2), with the environment. Speed without
accuracy proves nothing, so the forward error against 50 digits is stored beside it.
"""

from __future__ import annotations

import json
import platform
import time
from importlib import metadata
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.linalg

from tests.oracles import relative, stationary_pair_mp
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.transition import transition

RESULTS = Path(__file__).parent / "results" / "stationary.json"
DIMENSION = 500
TURNS = 3
OPTIMIZER = MomentumSGD(0.1, 0.9)


def problem(dimension=DIMENSION):
    rng = np.random.default_rng(3)
    u, r = (np.linalg.qr(rng.standard_normal((dimension, dimension)))[0] for _ in range(2))
    hessian, noise = (u * np.geomspace(0.1, 30.0, dimension)) @ u.T, (r * np.geomspace(0.1, 10, dimension)) @ r.T
    return Quadratic(0.5 * (hessian + hessian.T), 0.5 * (noise + noise.T))


def contenders():
    control = pytest.importorskip("control")
    pytest.importorskip("slycot")
    case = problem()
    step, inflow = transition(case, OPTIMIZER)
    forcing = inflow @ case.noise_cov @ inflow.T
    forcing = 0.5 * (forcing + forcing.T)
    return {
        "closed form (S2)": lambda: stationary_covariance(
            case, OPTIMIZER
        ),  # weights, velocity and cross blocks, with diagnostics
        "SLICOT SB03MD (control.dlyap)": lambda: np.asarray(control.dlyap(step, forcing, method="slycot")),
        "SciPy bilinear": lambda: scipy.linalg.solve_discrete_lyapunov(step, forcing, method="bilinear"),
    }


def spectral_errors():
    """Worst relative error over the entries of Σ, cross and Cov(v), against 50 digits."""
    errors = {}
    noise = np.array([[1.0, 0.6], [0.6, 2.0]])
    for label, rates, optimizer in (
        ("mu = 1 - 1e-6", (1e-3, 1.7), MomentumSGD(1.0, 1 - 1e-6)),
        ("eta lambda = 1e-8", (1e-8, 0.3), MomentumSGD(1.0, 0.9)),
    ):
        found = stationary_covariance(Quadratic(np.array(rates), noise), optimizer)
        worst = 0.0
        for i in range(2):
            for j in range(2):
                exact = stationary_pair_mp((rates[i], rates[j]), noise[i, j], optimizer)
                blocks = (found.value, found.cross, found.cross.T, found.velocity)
                for block, place in zip(blocks, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
                    worst = max(worst, float(abs(mpmath.mpf(block[i, j]) / exact[place] - 1)))
        errors[label] = worst
    return errors


def test_closed_form_beside_the_lyapunov_solvers(benchmark):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    seconds, answers = {}, {}
    with threadpoolctl.threadpool_limits(1):
        racers = contenders()

        def race():
            for _ in range(TURNS):
                for name, run in racers.items():
                    started = time.perf_counter()
                    answers[name] = run()
                    took = time.perf_counter() - started
                    seconds[name] = min(took, seconds.get(name, took))

        benchmark.pedantic(race, rounds=1)
    base = answers["closed form (S2)"] = answers["closed form (S2)"].state()
    distances = {name: relative(answer, base) for name, answer in answers.items()}
    assert max(distances.values()) < 1e-9, "a fast wrong answer is no answer"
    errors = spectral_errors()
    assert max(errors.values()) < 1e-13
    record = {
        "dimension": DIMENSION,
        "seconds": seconds,
        "times faster": {name: took / seconds["closed form (S2)"] for name, took in seconds.items()},
        "targets": {"SLICOT SB03MD (control.dlyap)": 20, "SciPy bilinear": 30},
        "distance from (S2)": distances,
        "worst error against 50 digits": errors,
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: metadata.version(name) for name in ("numpy", "scipy", "control", "slycot")},
        },
    }
    benchmark.extra_info.update(record)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["times faster"], indent=1))
