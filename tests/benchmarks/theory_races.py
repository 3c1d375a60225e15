"""Races of the theory: (S2), simulation, transients, schedules, divergences, each beside what others would use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import control
import mpmath
import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from tests.benchmarks.race import Contender, Race
from tests.oracles import relative, stationary_pair_mp
from tests.theory.closed_form.transient_oracles import random_covariance
from tests.theory.strategies import rotation
from theory.closed_form.pac_bayes import gaussian_kl, kl_inverse
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import transient_covariance
from theory.model.noise import Gaussian
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.compiled import Noise
from theory.oracle.simulate import Segment, Simulation, simulate
from theory.oracle.transition import transition

BEFORE, AFTER = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)
MODES, REPLICAS = 64, 5 * 1024
SPECTRUM = np.geomspace(0.5, 30.0, MODES)
DIAGONAL = Quadratic(SPECTRUM, np.ones(MODES))
BATCHES = 391  # of an epoch of CIFAR-10


def dense_problem(count: int) -> Quadratic:
    """H and C dense and unrelated."""
    turn = rotation(count, 1)
    hessian = (turn * np.geomspace(1e-2, 20.0, count)) @ turn.T
    return Quadratic(0.5 * (hessian + hessian.T), random_covariance(count, 2))


def stationary() -> Race:
    """(S2): Σ alone, m = 500."""
    problem, optimizer = dense_problem(500), BEFORE
    step, inflow = transition(problem, optimizer)
    forcing = inflow @ problem.dense_noise_cov() @ inflow.T
    forcing = 0.5 * (forcing + forcing.T)
    basis, noise = np.linalg.qr(problem.dense_hessian())[0], problem.dense_noise_cov()
    ours = "(S2), Σ alone"

    def errors(answers):
        whole = answers["(S2), the whole state"]
        found = {label: relative(answers[label], whole) for label in ("SLICOT SB03MD", "SciPy bilinear")}
        return {**found, ours: relative(answers[ours].require(), whole[:500, :500]), **digits()}

    return Race(
        title="stationary covariance (S2), H and C dense and unrelated, m = 500",
        contenders={
            ours: Contender(run=lambda: stationary_covariance(problem, optimizer), role="ours"),
            "(S2), the whole state": Contender(
                run=lambda: stationary_covariance(problem, optimizer).state(), role="variant"
            ),
            "one eigh and four products": Contender(
                run=lambda: (np.linalg.eigh(problem.hessian), basis @ (basis.T @ noise @ basis) @ basis.T), role="floor"
            ),
            "SLICOT SB03MD": Contender(
                run=lambda: np.asarray(control.dlyap(step, forcing, method="slycot")), least=25.0
            ),
            "SciPy bilinear": Contender(
                run=lambda: scipy.linalg.solve_discrete_lyapunov(step, forcing, method="bilinear"), least=33.0
            ),
        },
        errors=errors,
        reference="(S2)'s whole state; 50 digits where it says so",
        tolerance=1e-9,
        facts={"through": "SLICOT through python-control's `dlyap`; both peers solve for the whole state"},
    )


def digits() -> dict[str, float]:
    """Worst relative error of (S2) over the entries of Σ, cross and Cov(v) against 50 digits, at two hard places."""
    errors, noise = {}, np.array([[1.0, 0.6], [0.6, 2.0]])
    for label, rates, optimizer in (
        ("50 digits, μ = 1 − 1e-6", (1e-3, 1.7), MomentumSGD(1.0, 1 - 1e-6)),
        ("50 digits, ηλ = 1e-8", (1e-8, 0.3), MomentumSGD(1.0, 0.9)),
    ):
        found, worst = stationary_covariance(Quadratic(np.array(rates), noise), optimizer), 0.0
        blocks = (found.value, found.cross, found.cross.T, found.velocity)
        for i in range(2):
            for j in range(2):
                exact = stationary_pair_mp((rates[i], rates[j]), noise[i, j], optimizer)
                for block, place in zip(blocks, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
                    worst = max(worst, float(abs(mpmath.mpf(block[i, j]) / exact[place] - 1)))
        errors[label] = worst
    return errors


def setting_of(problem: Quadratic = DIAGONAL, replicas: int = REPLICAS, steps: int = 130) -> Simulation:
    """A simulation that records its last step alone."""
    return Simulation(
        problem=problem,
        segments=(Segment(optimizer=BEFORE, steps=steps),),
        replicas=replicas,
        record_times=(steps,),
        noise=Gaussian(),
        moments="diagonal",
    )


def plain_numpy(steps: int) -> NDArray[np.float64]:
    """The recursion as one would write it first: whole arrays, temporaries, NumPy's default generator."""
    rng, curvature = np.random.default_rng(0), SPECTRUM[:, None]
    w, v = np.zeros((2, MODES, REPLICAS))
    for _ in range(steps):
        v = 0.9 * v + curvature * w + rng.standard_normal((MODES, REPLICAS))
        w = w - 0.1 * v
    return w


def torch_float64(steps: int) -> NDArray[np.float64]:
    """The same in torch, in place."""
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
    return w.numpy()


def normals(steps: int) -> None:
    """The random numbers of so many steps, by our generator, block by block as the simulator draws them."""
    noise = Noise(np.random.SeedSequence(0), Gaussian(), (MODES, 256))
    for _ in range(steps * (REPLICAS // 256)):
        noise.next()


def variance_errors(answers, names) -> dict[str, float]:
    """Largest distance of the simulated variances from (S1), in multiples of what 64 directions allow (5.5 σ)."""
    expected = np.diag(stationary_covariance(DIAGONAL, BEFORE).require())
    bound = 5.5 * np.sqrt(2 / REPLICAS)
    found = {}
    for label in names:
        answer = answers[label]
        variances = answer.var(axis=1) if isinstance(answer, np.ndarray) else answer.second[0, :MODES]
        found[label] = float(np.abs(variances / expected - 1).max() / bound)
    return found


def simulation() -> Race:
    """64 modes, one thread."""
    names = ("simulate", "plain NumPy", "torch float64", "simulate, NumPy engine")
    long, short = setting_of(steps=1300), setting_of()
    return Race(
        title="simulation, 64 modes × 5,120 replicas × 1,300 steps, float64 normals, one thread",
        contenders={
            "simulate": Contender(run=lambda: simulate(long, seed=1, threads=1), role="ours"),
            "simulate, NumPy engine": Contender(
                run=lambda: simulate(short, seed=1, threads=1, engine="numpy"), work=0.1, role="variant"
            ),
            "its random numbers": Contender(run=lambda: normals(130), work=0.1, role="floor", least=1 / 1.25),
            "plain NumPy": Contender(run=lambda: plain_numpy(130), work=0.1, least=3.0),
            "torch float64": Contender(run=lambda: torch_float64(130), work=0.1, least=5.0),
        },
        errors=lambda answers: variance_errors(answers, names),
        reference="(S1), in multiples of 5.5 standard errors: 1 is the limit",
        tolerance=1.0,
        facts={"a tenth of the steps": "all but ours, whose seconds are scaled to the whole"},
    )


def two_threads() -> Race:
    """The same on two threads, by the wall's clock."""
    setting = setting_of(replicas=20 * 1024, steps=260)
    expected = np.diag(stationary_covariance(DIAGONAL, BEFORE).require())
    bound = 5.5 * np.sqrt(2 / (20 * 1024))
    return Race(
        title="simulation, 64 modes × 20,480 replicas × 260 steps: two threads beside one",
        contenders={
            "two threads": Contender(run=lambda: simulate(setting, seed=1, threads=2), role="ours"),
            "one thread": Contender(run=lambda: simulate(setting, seed=1, threads=1), role="variant", least=1.8),
        },
        errors=lambda answers: {
            label: float(np.abs(found.second[0, :MODES] / expected - 1).max() / bound)
            for label, found in answers.items()
        },
        reference="(S1), in multiples of 5.5 standard errors: 1 is the limit",
        tolerance=1.0,
        clock="wall",
    )


def dense_simulation() -> Race:
    """H and C dense and not commuting: two products and the normals are the floor."""
    u, r = rotation(MODES, 1), rotation(MODES, 2)
    problem = Quadratic((u * SPECTRUM) @ u.T, (r * np.geomspace(0.5, 2.0, MODES)) @ r.T)
    setting = setting_of(problem, 4096, 130)
    matrices, state = [problem.dense_hessian(), problem.dense_noise_cov()], np.ones((MODES, 256))
    out = np.empty_like(state)
    noise = Noise(np.random.SeedSequence(0), Gaussian(), (MODES, 256))

    def floor():
        for _ in range(130 * 4096 // 256):
            noise.next()
            for matrix in matrices:
                np.matmul(matrix, state, out=out)

    expected = np.diag(stationary_covariance(problem, BEFORE).require())
    return Race(
        title="simulation, m = 64, H and C dense, 4,096 replicas × 130 steps",
        contenders={
            "simulate": Contender(run=lambda: simulate(setting, seed=1, threads=1), role="ours"),
            "two products and the random numbers": Contender(run=floor, role="floor", least=1 / 1.25),
        },
        errors=lambda answers: {
            "simulate": float(
                np.abs(answers["simulate"].second[0, :MODES] / expected - 1).max() / (5.5 * np.sqrt(2 / 4096))
            )
        },
        reference="(S2), in multiples of 5.5 standard errors: 1 is the limit",
        tolerance=1.0,
    )


def step_by_step(problem: Quadratic, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """M ← F M Fᵀ + Q with dense matrices, as one would write it first."""
    state = transient_covariance(problem, BEFORE, BEFORE, 0).state()[0]
    noise = problem.dense_noise_cov()
    for rate in rates:
        move, kick = transition(problem, replace(BEFORE, learning_rate=float(rate)))
        state = move @ state @ move.T + kick @ noise @ kick.T
    return state[: problem.dimension, : problem.dimension]


def mode_by_mode(problem: Quadratic, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same in H's eigenbasis, O(m²) a step, one step at a time."""
    curvatures, basis = np.linalg.eigh(problem.dense_hessian())
    noise, m = basis.T @ problem.dense_noise_cov() @ basis, problem.dimension
    state = transient_covariance(problem, BEFORE, BEFORE, 0).state()[0]
    w, x, v = (basis.T @ part @ basis for part in (state[:m, :m], state[:m, m:], state[m:, m:]))
    mu, rows, columns = BEFORE.momentum, curvatures[:, None], curvatures[None, :]
    for rate in rates:
        drawn = mu * x + w * columns  # E w v₊ᵀ
        v = mu * mu * v + rows * drawn + mu * (rows * x).T + noise
        v = 0.5 * (v + v.T)  # left alone, rounding's asymmetry grows without bound
        w, x = w - rate * (drawn + drawn.T) + rate * rate * v, drawn - rate * v
    return basis @ w @ basis.T


def schedule() -> Race:
    """A cosine of distinct rates."""
    problem, epochs = dense_problem(50), 20
    length = epochs * BATCHES
    plan = Schedule.cosine(0.1, length)
    rates = plan.rates(length)
    return Race(
        title="covariance along a cosine of 7,820 distinct learning rates, m = 50, H and C dense, 20 records",
        contenders={
            "propagate": Contender(
                run=lambda: propagate(problem, BEFORE, plan, list(range(BATCHES, length + 1, BATCHES))), role="ours"
            ),
            "eigenbasis, step by step": Contender(run=lambda: mode_by_mode(problem, rates)),
            "dense matrices, step by step": Contender(run=lambda: step_by_step(problem, rates)),
        },
        errors=lambda answers: {
            label: relative(answers["propagate"].value[-1], answers[label])
            for label in ("eigenbasis, step by step", "dense matrices, step by step")
        },
        reference="the step-by-step recursions in float64",
        tolerance=1e-9,
    )


def transient() -> Race:
    """A million steps after a drop."""
    problem = dense_problem(50)
    move, kick = transition(problem, AFTER)
    forcing = kick @ problem.dense_noise_cov() @ kick.T
    start = transient_covariance(problem, BEFORE, AFTER, 0).state()[0]

    def by_powers():
        settled = scipy.linalg.solve_discrete_lyapunov(move, forcing, method="bilinear")
        lifted = np.linalg.matrix_power(move, 10**6)
        return settled + lifted @ (start - settled) @ lifted.T

    def looped():
        state = start
        for _ in range(1000):
            state = move @ state @ move.T + forcing
        return state

    return Race(
        title="covariance k steps after a drop of the learning rate, m = 50, H and C dense, k = 10⁶",
        contenders={
            "transient_covariance": Contender(
                run=lambda: transient_covariance(problem, BEFORE, AFTER, 10**6).state()[0], role="ours"
            ),
            "the same, k = 1": Contender(
                run=lambda: transient_covariance(problem, BEFORE, AFTER, 1).state()[0], role="variant"
            ),
            "matrix powers and SciPy bilinear": Contender(run=by_powers),
            "a loop of 1,000 steps": Contender(run=looped),
        },
        errors=lambda answers: {
            "k = 10⁶": relative(answers["transient_covariance"], answers["matrix powers and SciPy bilinear"]),
            "k = 1,000": relative(
                transient_covariance(problem, BEFORE, AFTER, 1000).state()[0], answers["a loop of 1,000 steps"]
            ),
        },
        reference="the peers, in float64",
        tolerance=1e-9,
        turns=15,
    )


def bisected(risk: NDArray[np.float64], complexity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sixty halvings over whole arrays, the inverse kl as it is usually written."""
    low, high = risk.copy(), np.ones_like(risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(60):
            middle = 0.5 * (low + high)
            divergence = risk * np.log(risk / middle) + (1 - risk) * np.log((1 - risk) / (1 - middle))
            above = ~(divergence <= complexity)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
    return low


def exact_inverse(risk: float, complexity: float) -> float:
    """By 120 halvings in 40 digits."""
    with mpmath.workdps(40):
        r, c = mpmath.mpf(risk), mpmath.mpf(complexity)
        low, high = r, mpmath.mpf(1)
        for _ in range(120):
            middle = (low + high) / 2
            over = middle >= 1 or r * mpmath.log(r / middle) + (1 - r) * mpmath.log((1 - r) / (1 - middle)) > c
            low, high = (low, middle) if over else (middle, high)
        return float(low)


def inverse_kl() -> Race:
    """A hundred thousand risks."""
    count, rng = 100_000, np.random.default_rng(0)
    risks, complexities = rng.random(count), 10 ** rng.uniform(-6, 1, count)
    sample = np.arange(0, count, count // 100)
    exact = np.array([exact_inverse(risks[place], complexities[place]) for place in sample])
    return Race(
        title="inverse of the binary kl, 10⁵ risks",
        contenders={
            "kl_inverse": Contender(run=lambda: kl_inverse(risks, complexities), role="ours"),
            "bisection, 60 halvings": Contender(run=lambda: bisected(risks, complexities)),
            "kl itself, once": Contender(
                run=lambda: risks * np.log(risks / 0.5) + (1 - risks) * np.log((1 - risks) / 0.5), role="floor"
            ),
        },
        errors=lambda answers: {
            label: float(np.max(np.abs(answers[label][sample] / exact - 1)))
            for label in ("kl_inverse", "bisection, 60 halvings")
        },
        reference="40 digits, 100 of the risks",
        tolerance=1e-8,
    )


def divergence() -> Race:
    """A million directions, half of them next to the prior, where x − 1 − ln x cancels."""
    import torch
    from torch.distributions import Normal, kl_divergence

    count, rng = 1_000_000, np.random.default_rng(1)
    near = 0.1 * (1 + 1e-7 * rng.standard_normal(count // 1000))
    variances = 0.1 * np.exp(np.where(rng.random(count) < 0.5, 1e-7, 2.0) * rng.standard_normal(count))

    def direct(values):
        share = values / 0.1
        return 0.5 * float(np.sum(share - 1 - np.log(share)))

    def by_torch(values):
        posterior = Normal(torch.zeros(len(values), dtype=torch.float64), torch.from_numpy(np.sqrt(values)))
        prior = Normal(torch.tensor(0.0).double(), torch.tensor(0.1).double().sqrt())
        return float(kl_divergence(posterior, prior).sum())

    def errors(answers):
        with mpmath.workdps(50):
            shares = [mpmath.mpf(float(value)) / mpmath.mpf(0.1) for value in near]
            exact = float(sum(share - 1 - mpmath.log(share) for share in shares) / 2)
        return {
            **{label: abs(value / answers["gaussian_kl"] - 1) for label, value in answers.items()},
            "gaussian_kl, near the prior, 50 digits": abs(gaussian_kl(near, 0.1) / exact - 1),
        }

    return Race(
        title="Gaussian KL divergence from an isotropic prior, 10⁶ directions",
        contenders={
            "gaussian_kl": Contender(run=lambda: gaussian_kl(variances, 0.1), role="ours"),
            "as it is written": Contender(run=lambda: direct(variances)),
            "torch.distributions": Contender(run=lambda: by_torch(variances)),
        },
        errors=errors,
        reference="gaussian_kl; 50 digits where it says so",
        tolerance=1e-7,  # torch takes roots of variances, and squares them again
        facts={"errors of the peers near the prior": {"as it is written": "in the digits that cancel"}},
    )


RACES: dict[str, Callable[[], Race]] = {
    "stationary": stationary,
    "simulation": simulation,
    "simulation-threads": two_threads,
    "simulation-dense": dense_simulation,
    "schedule": schedule,
    "transient": transient,
    "inverse-kl": inverse_kl,
    "divergence": divergence,
}
