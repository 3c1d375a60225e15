"""Speed of the simulator beside its peers: contenders take turns in one process, and the best turn of each counts.

Run with ``pytest tests/benchmarks/test_simulation.py --benchmark-only``. Every run rewrites
``tests/benchmarks/results/simulation.json``: nanoseconds an element-step (one step of one mode of one replica), ratios
to the peers, the targets, and how far the simulated variance is from (S1), with the machine it ran on.
"""

import functools
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from theory.closed_form.stationary import stationary_covariance
from theory.model.noise import Gaussian, Rademacher, StudentT, Uniform
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.simulate import Segment, Simulation, simulate

compiled = pytest.importorskip("theory.oracle.compiled", reason="numba is not installed: nothing to compare")

RESULTS = Path(__file__).parent / "results" / "simulation.json"
MODES, REPLICAS, STEPS = 64, 20_000, 1_300
OPTIMIZER = MomentumSGD(learning_rate=0.1, momentum=0.9)
SPECTRUM = np.geomspace(0.5, 30.0, MODES)
DIAGONAL = Quadratic(SPECTRUM, np.ones(MODES))


def setting_of(problem=DIAGONAL, replicas=REPLICAS, steps=STEPS, noise=None, **changes):
    return Simulation(
        problem=problem,
        segments=(Segment(optimizer=OPTIMIZER, steps=steps),),
        replicas=replicas,
        record_times=(steps,),
        noise=noise or Gaussian(),
        moments="diagonal",
        **changes,
    )


def rotated():
    """H and C both dense and not commuting."""
    rng = np.random.default_rng(1)
    u, r = (np.linalg.qr(rng.standard_normal((MODES, MODES)))[0] for _ in range(2))
    return Quadratic((u * SPECTRUM) @ u.T, (r * np.geomspace(0.5, 2.0, MODES)) @ r.T)


def plain_numpy(steps):
    """The recursion as one would write it first: whole arrays, temporaries, NumPy's default generator."""
    rng = np.random.default_rng(0)
    curvature = SPECTRUM[:, None]
    w, v = np.zeros((2, MODES, REPLICAS))
    for _ in range(steps):
        gradient = curvature * w + rng.standard_normal((MODES, REPLICAS))
        v = 0.9 * v + gradient
        w = w - 0.1 * v
    return w


def torch_float64(steps):
    import torch

    generator = torch.Generator().manual_seed(0)
    curvature = torch.tensor(SPECTRUM)[:, None]
    w, v = torch.zeros((2, MODES, REPLICAS), dtype=torch.float64)
    noise = torch.empty_like(w)
    for _ in range(steps):
        noise.normal_(generator=generator)
        noise.addcmul_(curvature.expand_as(w), w)
        v.mul_(0.9).add_(noise)
        w.sub_(v, alpha=0.1)
    return w


def only_normals(law, steps):
    noise = compiled.Noise(np.random.SeedSequence(0), law, (MODES, 256))
    for _ in range(steps):
        noise.next()


def only_products(matrices, steps):
    state, out = np.ones((MODES, 256)), np.empty((MODES, 256))
    for _ in range(steps):
        for matrix in matrices:
            np.matmul(matrix, state, out=out)


def turns(contenders, rounds):
    """Best nanoseconds an element-step of each contender ``(function, element-steps)``, taking turns."""
    for function, _ in contenders.values():
        function()  # compile, load, fault pages in
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, (function, elements) in contenders.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], (time.perf_counter() - start) / elements * 1e9)
    return best


def environment():
    packages = ("numpy", "scipy", "numba", "torch", "threadpoolctl")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = models[0] if models else model
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "vector_bits": 512 if "avx512f" in (cpuinfo.read_text() if cpuinfo.exists() else "") else None,
        "versions": versions,
    }


def store(name, figures):
    RESULTS.parent.mkdir(exist_ok=True)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stored["environment"] = environment()
    stored[name] = figures
    RESULTS.write_text(json.dumps(stored, indent=2, sort_keys=True, allow_nan=False) + "\n")


def residual(moments):
    """Largest relative distance of the simulated variances from the stationary law, in standard errors."""
    expected = np.diag(stationary_covariance(DIAGONAL, OPTIMIZER).require())
    return float(np.abs(moments.second[0, :MODES] / expected - 1).max() / np.sqrt(2 / moments.replicas))


@pytest.fixture(autouse=True)
def one_blas_thread():
    limits = pytest.importorskip("threadpoolctl", reason="peers need their BLAS held to one thread")
    with limits.threadpool_limits(1):
        yield


def test_the_diagonal_path_at_full_size(benchmark):
    """64 modes × 20,000 replicas × 1,300 steps of float64 normals on one thread and on two."""
    elements = MODES * REPLICAS * STEPS
    setting = setting_of()

    def race():
        return turns(
            {
                "one thread": (lambda: simulate(setting, seed=1, threads=1), elements),
                "two threads": (lambda: simulate(setting, seed=1, threads=2), elements),
            },
            rounds=4,
        )

    best = benchmark.pedantic(race, rounds=1)
    figures = {
        "ns_per_element_step": best,
        "two_threads_speed_up": best["one thread"] / best["two threads"],
        "targets": {"one thread": 4.5, "two_threads_speed_up": 1.8},
        "residual_standard_errors": residual(simulate(setting, seed=1)),
    }
    store("diagonal path", figures)
    assert figures["residual_standard_errors"] < 5.5  # 64 directions, chance 2e-6


def test_peers(benchmark):
    """The same arithmetic in plain NumPy, in torch, in the NumPy engine; and each generator alone."""
    torch = pytest.importorskip("torch", reason="torch is one of the peers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps, replicas = 8, 5 * 1024
    few, setting = MODES * REPLICAS * steps, setting_of(replicas=replicas, steps=130)
    ours = MODES * replicas * 130
    alone = MODES * 256 * 100
    numpy_normals, out = np.random.Generator(np.random.PCG64(0)), np.empty((MODES, 256))
    sfc_normals = np.random.Generator(np.random.SFC64(0))

    def numpy_alone(generator):
        for _ in range(100):
            generator.standard_normal(out=out)

    contenders = {
        "simulate": (lambda: simulate(setting, seed=1, threads=1), ours),
        "simulate, NumPy engine": (lambda: simulate(setting, seed=1, threads=1, engine="numpy"), ours),
        "plain NumPy with temporaries": (lambda: plain_numpy(steps), few),
        "torch float64": (lambda: torch_float64(steps), few),
        "normals alone: ours": (lambda: only_normals(Gaussian(), 100), alone),
        "normals alone: NumPy PCG64": (functools.partial(numpy_alone, numpy_normals), alone),
        "normals alone: NumPy SFC64": (functools.partial(numpy_alone, sfc_normals), alone),
        "signs alone: ours": (lambda: only_normals(Rademacher(), 100), alone),
    }
    for law in (Rademacher(), Uniform(), StudentT()):
        other = setting_of(replicas=replicas, steps=130, noise=law)
        contenders[f"simulate, {type(law).__name__}"] = (functools.partial(simulate, other, seed=1, threads=1), ours)
    try:
        best = benchmark.pedantic(lambda: turns(contenders, rounds=7), rounds=1)
    finally:
        torch.set_num_threads(threads)
    store(
        "peers",
        {
            "ns_per_element_step": best,
            "times_faster_than_plain_numpy": best["plain NumPy with temporaries"] / best["simulate"],
            "times_faster_than_torch": best["torch float64"] / best["simulate"],
            "signs_times_faster_than_numpy_normals": best["normals alone: NumPy PCG64"] / best["signs alone: ours"],
            "targets": {"times_faster_than_plain_numpy": 3, "times_faster_than_torch": 5},
        },
    )


def test_the_dense_path_is_its_products_and_its_normals(benchmark):
    """m = 64, H and C dense and not commuting: two matrix products a step."""
    replicas, steps = 4096, 130
    problem = rotated()
    half = Quadratic(problem.hessian, np.ones(MODES))
    elements, alone = MODES * replicas * steps, MODES * 256 * 200
    one, two = [problem.hessian], [problem.hessian, problem.noise_cov]

    contenders = {
        "H and C dense": (lambda: simulate(setting_of(problem, replicas, steps), seed=1, threads=1), elements),
        "H dense, C diagonal": (lambda: simulate(setting_of(half, replicas, steps), seed=1, threads=1), elements),
        "one product": (lambda: only_products(one, 200), alone),
        "two products": (lambda: only_products(two, 200), alone),
        "normals": (lambda: only_normals(Gaussian(), 200), alone),
    }
    best = benchmark.pedantic(lambda: turns(contenders, rounds=9), rounds=1)
    store(
        "dense path",
        {
            "ns_per_element_step": best,
            "over_its_parts": best["H and C dense"] / (best["two products"] + best["normals"]),
            "over_its_parts_diagonal_noise": best["H dense, C diagonal"] / (best["one product"] + best["normals"]),
            "targets": {"over_its_parts": 1.25, "over_its_parts_diagonal_noise": 1.25},
        },
    )
