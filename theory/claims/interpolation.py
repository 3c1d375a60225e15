r"""The early-phase interpolation, judged where it should hold and just outside, in both readings of ρ.

Truth comes from two sources that know no formula: second moments iterated step by step from the definition of the
recursion, in extended precision (no statistics, all steps), and Monte Carlo at one rate inside and one outside. The
region was fixed beforehand: μ = 0.9, η₂/η₁ = 0.1, every k, and η₂λ ≤ 2e-4 inside, 5e-4 ≤ η₂λ ≤ 1e-3 just outside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from theory.claims.drops import drop, seen_moments
from theory.claims.moments import simulation_experiment, simulation_of
from theory.closed_form.interpolation import READINGS, Reading, interpolated_variance, interpolation_error
from theory.closed_form.stationary import stationary_variance
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import EXACT, Axis, HeatMap, Table
from theory.judge.statistics import variance_interval
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, setting
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.simulate import Simulation
from theory.oracle.transition import transition

PAPER = "Xu and Zhang (arXiv 2410.07719), Theorem 4.7 and Eq. (14)"
#: Largest relative error that counts as "holds".
MARGIN = 0.05
MOMENTUM, RATIO = 0.9, 0.1
INSIDE, OUTSIDE = (2e-5, 5e-5, 1e-4, 2e-4), (5e-4, 7e-4, 1e-3)
#: Rates tabulated besides, to show how the error grows.
BETWEEN = (3e-4,)

# ---------------------------------------------------------------------------------------------------------------------
# Experiments


@setting
class InterpolationGrid(Setting):
    """Second moments through a drop, iterated for modes of given ηλ after it.

    Args:
        rates: η₂λ of each mode.
        momentum: μ.
        ratios: η₂/η₁ of each drop; 1 is no drop.
        steps: number of steps after the drop.
    """

    rates: tuple[float, ...]
    momentum: float
    ratios: tuple[float, ...]
    steps: int


def _grid(budget: str) -> InterpolationGrid:
    return InterpolationGrid(
        rates=(*INSIDE, *BETWEEN, *OUTSIDE),
        momentum=MOMENTUM,
        ratios=(RATIO, 1.0),
        steps=4000 if budget == "default" else 40000,
    )


def _iterate(
    grid: InterpolationGrid, seed: int, progress: Progress
) -> tuple[Mapping[str, object], Mapping[str, NDArray]]:
    """Var w at every step, shape ``(ratios, steps + 1, rates)``: M ← F M Fᵀ + Q in extended precision."""
    found = np.empty((len(grid.ratios), grid.steps + 1, len(grid.rates)))
    for row, ratio in enumerate(grid.ratios):
        starts, moves, forcings = [], [], []
        for rate in grid.rates:
            problem = Quadratic(np.array([rate]), np.ones(1))
            starts.append(lyapunov_covariance(problem, MomentumSGD(1.0 / ratio, grid.momentum)).state())
            step, inflow = transition(problem, MomentumSGD(1.0, grid.momentum), np.longdouble)
            moves.append(step)
            forcings.append(inflow @ inflow.T)
        state, move, forcing = (np.stack(part).astype(np.longdouble) for part in (starts, moves, forcings))
        found[row, 0] = state[:, 0, 0]
        for k in range(1, grid.steps + 1):
            state = np.einsum("iab,ibc,idc->iad", move, state, move) + forcing
            found[row, k] = state[:, 0, 0]
        progress((row + 1) / len(grid.ratios))
    return {"modes": len(grid.rates), "seed": seed}, {"variance": found}


def _early_phase(budget: str) -> Simulation:
    """The outermost rate inside and the outermost one just outside, a million replicas."""
    problem = Quadratic(np.array([INSIDE[-1], OUTSIDE[-1]]), np.ones(2))
    count = 1_000_000 if budget == "default" else 4_000_000
    one, two = MomentumSGD(1.0 / RATIO, MOMENTUM), MomentumSGD(1.0, MOMENTUM)
    return drop(problem, one, two, burn_in=200, steps=(10, 20, 30, 45, 60), count=count)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="transient-recursion",
        title="second moments through a drop, iterated in extended precision",
        setting=_grid,
        run=_iterate,
    ),
    simulation_experiment("early-phase", "the early phase of two slow modes after a drop", _early_phase),
)

# ---------------------------------------------------------------------------------------------------------------------
# Predictors: (rates, momentum, ratio, steps) to variances (K, modes), for η₂ = 1, γ = 1


#: (ηλ, μ, η₂/η₁, steps) to variances, shape ``(steps, modes)``.
Interpolation: TypeAlias = Predictor[[NDArray[np.float64], float, float, NDArray[np.int_]], NDArray[np.float64]]


def _reading(reading: Reading) -> Interpolation:
    def predict(rates: NDArray, momentum: float, ratio: float, steps: NDArray) -> NDArray[np.float64]:
        problem = Quadratic(rates, np.ones(len(rates)))
        return interpolated_variance(
            problem, MomentumSGD(1.0 / ratio, momentum), MomentumSGD(1.0, momentum), steps, reading
        )

    return predict


def _end_points(rates: NDArray, momentum: float, ratio: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    problem = Quadratic(rates, np.ones(len(rates)))
    old = stationary_variance(problem, MomentumSGD(1.0 / ratio, momentum))
    return old, stationary_variance(problem, MomentumSGD(1.0, momentum))


def _without_momentum(rates: NDArray, momentum: float, ratio: float, steps: NDArray) -> NDArray[np.float64]:
    """ρ = 1 − η₂λ: the rate of plain gradient descent."""
    old, new = _end_points(rates, momentum, ratio)
    kept = (1 - rates) ** (2.0 * steps[:, None])
    return kept * old + (1 - kept) * new


def _settled_at_once(rates: NDArray, momentum: float, ratio: float, steps: NDArray) -> NDArray[np.float64]:
    """σ₂² from the first step on."""
    old, new = _end_points(rates, momentum, ratio)
    return np.where(steps[:, None] == 0, old, new)


def _single_power(reading: Reading) -> Interpolation:
    """ρᵏ in place of ρ²ᵏ: the mean's rate used for a variance."""

    def predict(rates: NDArray, momentum: float, ratio: float, steps: NDArray) -> NDArray[np.float64]:
        old, new = _end_points(rates, momentum, ratio)
        full = _reading(reading)(rates, momentum, ratio, steps)
        share = np.sqrt(np.clip((full - new) / (old - new), 0.0, 1.0)) if ratio != 1 else np.zeros_like(full)
        return share * old + (1 - share) * new

    return predict


# ---------------------------------------------------------------------------------------------------------------------
# Comparison


def _compare(
    rates: tuple[float, ...], reading: Reading
) -> Callable[[Mapping[str, Evidence], Interpolation], Comparison]:
    """The worst relative error over the region: all steps by recursion, and by Monte Carlo at the outermost rate."""

    def compare(evidence: Mapping[str, Evidence], predict: Interpolation) -> Comparison:
        item = evidence["transient-recursion"]
        grid = InterpolationGrid.from_dict(item.setting)
        known = np.asarray(grid.rates)
        chosen = np.isin(known, rates)
        steps = np.arange(grid.steps + 1)
        truth = item.arrays["variance"]
        errors = [predict(known, grid.momentum, ratio, steps) / truth[row] - 1 for row, ratio in enumerate(grid.ratios)]
        region = np.stack([error[:, chosen] for error in errors])
        worst = float(region.ravel()[int(np.argmax(np.abs(region)))])
        low = high = worst
        simulated = evidence["early-phase"]
        simulation = simulation_of(simulated)
        began = simulation.segments[0].steps
        mode = int(np.flatnonzero(np.asarray(simulation.problem.hessian) == rates[-1])[0])
        at = np.asarray(simulation.record_times) - began
        measured = np.einsum("kii->ki", seen_moments(simulated))[:, mode]
        predicted = predict(np.array([rates[-1]]), grid.momentum, RATIO, at)[:, 0]
        # A variance over its prediction, inverted: what the prediction is off by.
        below, above = variance_interval(measured / predicted, np.full(len(at), float(simulation.replicas)), TEST_ALPHA)
        ends = np.stack([1 / above - 1, 1 / below - 1])
        seen = int(np.argmax(np.abs(predicted / measured - 1)))
        low, high = min(low, float(ends[0, seen])), max(high, float(ends[1, seen]))
        rows = []
        for column, rate in enumerate(known):
            error = errors[0][:, column]
            k = int(np.argmax(np.abs(error)))
            where = "inside" if rate in INSIDE else "just outside" if rate in OUTSIDE else "between"
            rows.append((float(rate), where, float(error[k]), k))
        table = Table(
            title=f"Largest error of the interpolation over all steps, reading {reading}",
            columns=("ηλ after the drop", "region", "relative error", "at step"),
            rows=tuple(rows),
            caption=f"μ = {MOMENTUM}, η₂/η₁ = {RATIO}. Inside means η₂λ ≤ {INSIDE[-1]:g}, fixed beforehand.",
        )
        drift = float(np.abs(errors[1]).max())
        return Comparison(
            estimate=worst,
            interval=(low, high),
            num_tests=1,
            note=f"Monte Carlo at η₂λ={rates[-1]:g}, k={at[seen]}: {predicted[seen] / measured[seen] - 1:+.2%}; "
            f"at η₁=η₂ nothing moves (largest error {drift:.1e})",
            # The maps and the table cover both regions: they are handed over once.
            results=(*validity_maps(reading), table) if rates == INSIDE else (),
        )

    return compare


@functools.cache
def validity_maps(reading: Reading) -> tuple[HeatMap, ...]:
    """Where the interpolation holds within 5 %: maps over (ηλ, k), (ηλ, μ) and (ηλ, η₂/η₁)."""
    rates = np.geomspace(1e-5, 0.3, 28)
    steps = np.unique(np.rint(np.geomspace(1, 3e4, 30)).astype(int))
    momenta = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    ratios = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 0.95, 1.05, 1.25, 2.0, 4.0)

    def errors(momentum: float, ratio: float) -> NDArray[np.float64]:
        """|relative error|, ``(K, n)``; NaN where the first rate is unstable."""
        stable = rates / ratio < 2 * (1 + momentum)
        found = np.full((len(steps), len(rates)), np.nan)
        found[:, stable] = np.abs(interpolation_error(rates[stable], momentum, ratio, steps, reading))
        return found

    base = errors(MOMENTUM, RATIO)
    by_momentum = np.stack([errors(mu, RATIO).max(axis=0) for mu in momenta])
    by_ratio = np.stack([errors(MOMENTUM, ratio).max(axis=0) for ratio in ratios])
    maps = (
        (Axis("time since the drop, k", "steps"), steps, base, f"μ={MOMENTUM}, η₂/η₁={RATIO}"),
        (Axis("momentum μ"), momenta, by_momentum, f"η₂/η₁={RATIO}, worst k"),
        (Axis("η₂/η₁"), ratios, by_ratio, f"μ={MOMENTUM}, worst k"),
    )
    return tuple(
        HeatMap(
            title=f"Error of the early-phase interpolation, reading {reading}: {at}",
            sample=EXACT,
            x=Axis("ηλ after the drop"),
            y=y,
            value=Axis("|interpolated / exact − 1|"),
            columns=tuple(float(a) for a in rates),
            rows=tuple(float(value) for value in values),
            cells=tuple(tuple(None if np.isnan(cell) else float(cell) for cell in row) for row in table),
            contour=MARGIN,
            caption="Against the exact transient. The line is 5 %; empty cells have no stationary start.",
        )
        for y, values, table, at in maps
    )


# ---------------------------------------------------------------------------------------------------------------------
# Register

_WORDS: Mapping[Reading, str] = {
    "effective-rate": "ρ = |1 − η₂λ/(1−μ)|",
    "spectral-radius": "ρ = spectral radius of F₂",
}


def _claim(reading: Reading, outside: bool) -> Claim:
    rates = OUTSIDE if outside else INSIDE
    where = f"just outside, {OUTSIDE[0]:g} ≤ η₂λ ≤ {OUTSIDE[-1]:g}" if outside else f"η₂λ ≤ {INSIDE[-1]:g}"
    purpose = " (must come out refuted: it bounds the region)" if outside else ""
    suffix = ("-radius" if reading == "spectral-radius" else "") + ("-outside" if outside else "")
    return Claim(
        name=f"transient-interpolation{suffix}",
        statement=f"σ²(k) ≈ ρ²ᵏ σ₁² + (1−ρ²ᵏ) σ₂² within 5 % for every k, {_WORDS[reading]}, μ={MOMENTUM}, "
        f"η₂/η₁={RATIO}, {where}{purpose}, eq. (T2).",
        source=PAPER,
        kind=Kind.APPROXIMATION,
        experiments=("transient-recursion", "early-phase"),
        assumptions=("stationary before the drop", "PyTorch form", "C unchanged", "noise independent over time"),
        predict=_reading(reading),
        decoys={
            "ρ of plain descent, 1 − η₂λ": _without_momentum,
            "settled at once": _settled_at_once,
            "ρᵏ in place of ρ²ᵏ": _single_power(reading),
        },
        compare=_compare(rates, reading),
        num_tests=1,
        margin=MARGIN,
        boundary=f"η₂λ ≤ {INSIDE[-1]:g}" if outside else "",
    )


CLAIMS: tuple[Claim, ...] = tuple(
    _claim(reading, outside) for reading in reversed(READINGS) for outside in (False, True)
)
