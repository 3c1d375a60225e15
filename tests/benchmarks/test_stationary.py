"""(S2) beside the general-purpose Lyapunov solvers on the same problem, taking turns in one process, one BLAS thread.

Run with ``pytest tests/benchmarks/test_stationary.py --benchmark-only``. Rewrites ``results/stationary.json``: seconds
of each contender (best turn), ratios, and the distance of every answer from (S2), with the environment. The question
is Σ alone, which SLICOT and SciPy can only answer with the whole state; what the whole state costs ours stands beside
it, and so does its floor: one `eigh` and four matrix products. Seconds are the process's own on one thread, which are
the wall's on an idle machine and do not charge a contender for its neighbours. Speed without accuracy proves nothing,
so the forward error against 50 digits is stored beside it.
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
TURNS = 7
OPTIMIZER = MomentumSGD(0.1, 0.9)
OURS = "closed form (S2), Σ alone"
#: How many times faster Σ alone is to be; recorded, not asserted: a clock decides no test.
TARGETS = {"SLICOT SB03MD (control.dlyap)": 25, "SciPy bilinear": 33}


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
    u, c = np.linalg.qr(case.hessian)[0], case.noise_cov
    return {
        OURS: lambda: stationary_covariance(case, OPTIMIZER),
        "closed form, the whole state": lambda: stationary_covariance(case, OPTIMIZER).state(),
        "floor: eigh and four products": lambda: (np.linalg.eigh(case.hessian), u @ (u.T @ c @ u) @ u.T),
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
    answers = {}
    with threadpoolctl.threadpool_limits(1):
        racers = contenders()
        seconds = {name: [] for name in racers}

        def race():
            for _ in range(TURNS):
                for name, run in racers.items():
                    started = time.process_time()
                    answers[name] = run()
                    seconds[name].append(time.process_time() - started)

        benchmark.pedantic(race, rounds=1)
    best = {name: min(turns) for name, turns in seconds.items()}
    weights = answers[OURS].require()
    assert "_rest" not in vars(answers[OURS]), "Σ alone makes no other block"
    base = answers[OURS].state()
    solvers = {name: answer for name, answer in answers.items() if name in TARGETS}
    distances = {name: relative(answer, base) for name, answer in solvers.items()}
    assert max(distances.values()) < 1e-9, "a fast wrong answer is no answer"
    assert relative(base[:DIMENSION, :DIMENSION], weights) == 0
    errors = spectral_errors()
    assert max(errors.values()) < 1e-13
    record = {
        "dimension": DIMENSION,
        "turns": TURNS,
        "seconds": best,
        "seconds of every turn": seconds,
        "times slower than (S2), Σ alone": {name: took / best[OURS] for name, took in best.items()},
        "targets": TARGETS,
        "distance from (S2)": distances,
        "worst error against 50 digits": errors,
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: metadata.version(name) for name in ("numpy", "scipy", "control", "slycot")},
        },
    }
    benchmark.extra_info.update(record)
    RESULTS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record["times slower than (S2), Σ alone"], indent=1, ensure_ascii=False))
