"""Cost and memory against size: matrices, simulations, schedules, spectra, reports, each beside what is expected."""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from empirical.__main__ import main as empirical
from empirical.claims import Register
from empirical.claims.logs import CLAIMS
from empirical.commands.verify import judge_all
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.operators import HessianOperator, project_gradients
from empirical.published import import_logs
from reports.build import build
from tests.benchmarks.race import Curve
from tests.benchmarks.theory_races import AFTER, BATCHES, BEFORE, dense_problem, setting_of
from tests.empirical.log_writing import text_log, training_run
from tests.faults.scenarios import MEASURING, TRAINING
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import transient_covariance
from theory.judge.verdict import write_verdicts
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.simulate import simulate


def stationary() -> Curve:
    """(S2) against m."""

    def prepare(size):
        problem = dense_problem(size)
        return lambda: stationary_covariance(problem, BEFORE)

    return Curve(
        title="stationary covariance (S2), Σ alone",
        variable="weights m",
        sizes=(10, 30, 100, 300, 1000, 2000),
        prepare=prepare,
        expected=3.0,
        fitted=(300, 1000, 2000),
        bend=(
            "below m = 100 it costs what Python and the checks of a problem cost; products reach the "
            "processor's speed only at some thousand weights, which keeps the exponent below 3"
        ),
    )


def transient() -> Curve:
    """Steps after a drop, m = 50."""
    problem = dense_problem(50)
    return Curve(
        title="covariance k steps after a drop, m = 50",
        variable="steps k",
        sizes=(1, 10, 100, 1_000, 10_000, 1_000_000, 1_000_000_000),
        prepare=lambda size: lambda: transient_covariance(problem, BEFORE, AFTER, size),
        expected=0.0,
        fitted=(10, 100, 1_000, 10_000, 1_000_000, 1_000_000_000),
        bend="a power of a 2 × 2 block has a closed form: any step costs the same",
        repeats=10,
    )


def schedule() -> Curve:
    """Distinct rates of a cosine, m = 50."""
    problem = dense_problem(50)

    def prepare(size):
        plan = Schedule.cosine(0.1, size)
        return lambda: propagate(problem, BEFORE, plan, size)

    return Curve(
        title="covariance at the end of a cosine of distinct learning rates, m = 50",
        variable="steps",
        sizes=(BATCHES, 4 * BATCHES, 16 * BATCHES, 64 * BATCHES, 200 * BATCHES),
        prepare=prepare,
        expected=1.0,
        fitted=(16 * BATCHES, 64 * BATCHES, 200 * BATCHES),
        bend=("the eigendecomposition and the checks do not grow, and steps are taken in stacks that get longer"),
    )


def replicas() -> Curve:
    """Replicas of a simulation."""
    return Curve(
        title="simulation, 64 modes × 130 steps, one thread",
        variable="replicas",
        sizes=(256, 1024, 4096, 16_384, 65_536),
        prepare=lambda size: lambda: simulate(setting_of(replicas=size), seed=1, threads=1),
        expected=1.0,
        fitted=(1024, 4096, 16_384, 65_536),
        bend=(
            "it runs in blocks of 256 replicas that stay in the cache; what a call costs by itself keeps the "
            "exponent below 1"
        ),
    )


def modes() -> Curve:
    """Modes of a simulation with diagonal H."""

    def prepare(size):
        problem = Quadratic(np.geomspace(0.5, 30.0, size), np.ones(size))
        setting = setting_of(problem, 1024, 130)
        return lambda: simulate(setting, seed=1, threads=1)

    return Curve(
        title="simulation, diagonal H, 1,024 replicas × 130 steps, one thread",
        variable="modes m",
        sizes=(10, 30, 100, 300, 1000, 2000),
        prepare=prepare,
        expected=1.0,
        fitted=(30, 100, 300, 1000, 2000),
        bend="beyond some hundred modes the state of a block leaves the first cache",
    )


def network(width: int = 64, images: int = 256) -> Landscape:
    """A perceptron on generated digits' shape, float64."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)).double()
    x, y = torch.rand(images, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (images,))
    return Landscape(layers, x, y, dtype=torch.float64)


def pairs() -> Curve:
    """Eigenpairs asked for."""
    landscape = network()
    return Curve(
        title="largest eigenpairs of the Hessian, 4,810 weights, 256 images",
        variable="pairs k",
        sizes=(1, 2, 5, 10, 20, 40),
        prepare=lambda size: lambda: top_eigenpairs(HessianOperator(landscape), size, tolerance=1e-3),
        expected=1.0,
        fitted=(5, 10, 20, 40),
        bend="the first pairs are apart and come together; what is deeper in the bulk needs more products a pair",
    )


def parameters() -> Curve:
    """Weights of a network."""

    def prepare(width):
        landscape = network(width=width)
        operator = HessianOperator(landscape)
        vector = torch.ones(landscape.dimension, dtype=torch.float64)
        return lambda: operator.matvec(vector)

    return Curve(
        title="one product with the Hessian of a perceptron",
        variable="hidden units",
        sizes=(16, 64, 256, 1024, 4096),
        prepare=prepare,
        expected=1.0,
        fitted=(256, 1024, 4096),
        bend=(
            "small layers cost their calls, not their arithmetic; from some thousand units on the "
            "activations leave the cache"
        ),
        repeats=3,
    )


def samples() -> Curve:
    """Images measured."""

    def prepare(images):
        landscape = network(images=images)
        directions = torch.linalg.qr(torch.randn(landscape.dimension, 10, dtype=torch.float64))[0]
        return lambda: project_gradients(landscape, directions, method="per-sample-gradients")

    return Curve(
        title="per-sample gradients in ten directions, 4,810 weights",
        variable="images",
        sizes=(64, 256, 1024, 4096),
        prepare=prepare,
        expected=1.0,
        fitted=(256, 1024, 4096),
        bend="a chunk has 1,024 images: beyond it memory stays and time grows",
    )


def checkpoints() -> Curve:
    """Checkpoints of a run, measured by the command."""
    folder = Path(tempfile.mkdtemp(prefix="spikeshrink-bench-"))
    words = [
        *TRAINING,
        "--epochs",
        "20",
        "--milestones",
        "10",
        "--method",
        "at",
        "--out",
        str(folder / "run"),
        "--no-download",
    ]
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet, contextlib.redirect_stderr(io.StringIO()):
        assert empirical(["train", *words]) == 0
    numbers = itertools.count()
    options = [*MEASURING, "--window", "0", "--no-expansions", "--ensembles", "first", "--jobs", "1", "--quiet"]

    def prepare(size):
        def call():
            out = folder / f"out{next(numbers)}"
            with quiet, contextlib.redirect_stderr(io.StringIO()):
                words = ["measure", str(folder / "run"), "--out", str(out), *options, "--checkpoints", str(size)]
                assert empirical(words) == 0
            shutil.rmtree(out)

        return call

    return Curve(
        title="measuring checkpoints of a run: spectra, noise, bound, one ensemble",
        variable="checkpoints",
        sizes=(2, 4, 8),
        prepare=prepare,
        expected=1.0,
        fitted=(2, 4, 8),
        bend=("reading the run and its one ensemble do not grow: over so few checkpoints the exponent stays below 1"),
    )


def runs() -> Curve:
    """Runs in a report: logs imported, judged, and the page built."""
    folder = Path(tempfile.mkdtemp(prefix="spikeshrink-bench-"))
    numbers = itertools.count()

    def prepare(size):
        logs = folder / f"logs{size}"
        for number in range(size):
            method, seed = ("awp", "at")[number % 2], number // 2
            place = logs / f"cifar10_{method}_{seed}"
            place.mkdir(parents=True)
            arguments = (
                f"attack='pgd', awp_size={0.01 * (method == 'awp')}, batch_size=128, "
                f"fname='experiments/cifar10_linf/{method}', seed={seed}"
            )
            columns = training_run(epochs=200, decays=(100, 150), seed=number)
            (place / "output.log").write_text(text_log(columns, arguments=arguments))

        def call():
            out = folder / f"out{next(numbers)}"
            done = import_logs([logs], out)
            write_verdicts(judge_all(Register(claims=CLAIMS, missing=()), done.records), out)
            build(out)
            shutil.rmtree(out)

        return call

    return Curve(
        title="training logs of 200 epochs: import, verdicts, page with figures",
        variable="runs",
        sizes=(2, 4, 8, 16, 32),
        prepare=prepare,
        expected=1.0,
        fitted=(8, 16, 32),
        bend="a page's fixed figures, and what matplotlib needs to begin, do not grow",
    )


CURVES: dict[str, Callable[[], Curve]] = {
    "curve-stationary": stationary,
    "curve-transient": transient,
    "curve-schedule": schedule,
    "curve-replicas": replicas,
    "curve-modes": modes,
    "curve-pairs": pairs,
    "curve-parameters": parameters,
    "curve-samples": samples,
    "curve-checkpoints": checkpoints,
    "curve-runs": runs,
}
