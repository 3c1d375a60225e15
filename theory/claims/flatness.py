r"""Claim: flattening widens the posterior, until a = 1 + μ; and what widening does to the bound.

σ² answers to curvature with the elasticity −1 + a/(2(1+μ) − a), to noise with 1. Adversarial weight perturbation (AWP)
is taken as (λ → sλ, γ → tγ). Where s = t the two cancel in σ² up to the step-size term, and it is λσ² that tightens the
bound. Flattening more than the noise (s < t) widens the posterior: the KL falls while σ² < σ_P² and rises beyond, so
that a penalty can be overdone. Evidence: variances of simulated weights, compared as ratios of neighbours (F law).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from theory.claims import shown
from theory.claims.bound_law import (
    ASSUMED,
    DELTA,
    DETECTS,
    SimulationSet,
    bound_and_error,
    clipped_bound,
    comparison,
    enlarged,
    run_set,
    set_of,
)
from theory.closed_form.divergence import variance_excess
from theory.closed_form.pac_bayes import variance_elasticities
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Predictor
from theory.judge.evidence import Evidence
from theory.judge.results import EXACT, Agreement, Axis, Curve, HeatMap, Mark, Profile, Result, Sample, Table
from theory.judge.statistics import normal_quantile, variance_interval, variance_p_value
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.simulate import Segment, Simulation

OPTIMIZER = MomentumSGD(0.1, 0.5)
#: Step size times curvature of the ladder: from 4 % to 97 % of the edge 2(1+μ) = 3, through 1 + μ = 1.5.
LADDER = np.array([0.12, 0.2, 0.3, 0.45, 0.7, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.65, 2.8, 2.9])
#: Noise of three directions that share a curvature.
NOISES = np.array([1.0, 3.0, 9.0])
#: (s, t): nothing, curvature alone, noise alone, both alike, curvature more than noise, and far too much of it.
PENALTIES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5), (0.5, 0.8), (0.2, 0.8), (0.1, 0.8))
#: A basin of six directions with γ = 0.01 λ, from a = 0.5 to 1.4.
BASIN = np.geomspace(5.0, 14.0, 6)
NOISE_SHARE = 0.01
#: Prior variance over the basin's mean variance.
PRIOR_RATIO = 1.5
SAMPLES = 100
STEPS = 150


def _problem() -> Quadratic:
    rate = OPTIMIZER.learning_rate
    curvatures = [LADDER / rate, np.full(len(NOISES), 0.5 / rate)]
    noises = [np.ones(len(LADDER)), NOISES]
    for curvature, noise in PENALTIES:
        curvatures.append(curvature * BASIN)
        noises.append(noise * NOISE_SHARE * BASIN)
    return Quadratic(np.concatenate(curvatures), np.concatenate(noises))


def _setting(budget: str) -> SimulationSet:
    simulation = Simulation(
        problem=_problem(),
        segments=(Segment(optimizer=OPTIMIZER, steps=STEPS),),
        replicas=enlarged(budget),
        record_times=(STEPS,),
        moments="diagonal",
    )
    return SimulationSet(labels=("flatness",), simulations=(simulation,))


def _pairs() -> NDArray[np.int_]:
    """Neighbours on the ladder, on the noise ladder, and every penalised direction with its own original."""
    first, size = len(LADDER) + len(NOISES), len(BASIN)
    ladder = [(i, i + 1) for i in range(len(LADDER) - 1)]
    noise = [(len(LADDER) + i, len(LADDER) + i + 1) for i in range(len(NOISES) - 1)]
    penalised = [(first + i, first + group * size + i) for group in range(1, len(PENALTIES)) for i in range(size)]
    return np.array(ladder + noise + penalised)


def _group(index: int) -> slice:
    first = len(LADDER) + len(NOISES) + index * len(BASIN)
    return slice(first, first + len(BASIN))


# ---------------------------------------------------------------------------------------------------------------------
# Predictors: Simulation -> σ² of every direction


def variances(simulation: Simulation) -> NDArray[np.float64]:
    """(S1), whose elasticities are the claim."""
    return variance_elasticities(simulation.problem, simulation.segments[0].optimizer).variances


def _inverse_curvature(simulation: Simulation) -> NDArray[np.float64]:
    """ηγ/(2λ(1−μ)): flatter is wider everywhere, elasticity −1 at any step size."""
    problem, optimizer = simulation.problem, simulation.segments[0].optimizer
    return optimizer.learning_rate * problem.noise_cov / (2 * problem.hessian * (1 - optimizer.momentum))


def _curvature_alone(simulation: Simulation) -> NDArray[np.float64]:
    """A posterior that curvature alone decides (Laplace): noise of 1 everywhere, elasticity 0 in γ."""
    exact = variances(simulation)
    return exact / simulation.problem.noise_cov


def _root_noise(simulation: Simulation) -> NDArray[np.float64]:
    """σ² ∝ √γ: the standard deviation of the noise mistaken for its variance."""
    exact = variances(simulation)
    return exact / np.sqrt(simulation.problem.noise_cov)


# ---------------------------------------------------------------------------------------------------------------------


def _compare(evidence: Mapping[str, Evidence], predictor: Predictor) -> Comparison:
    found = evidence["flatness"]
    simulation = set_of(found).simulations[0]
    m, degrees = simulation.problem.dimension, float(simulation.replicas)
    measured = found.arrays["second_0"][0, :m]
    predicted = np.asarray(predictor(simulation))
    pairs = _pairs()
    quotient = (measured[pairs[:, 1]] / measured[pairs[:, 0]]) / (predicted[pairs[:, 1]] / predicted[pairs[:, 0]])
    tails = np.minimum(stats.f.cdf(quotient, degrees, degrees), stats.f.sf(quotient, degrees, degrees))
    ratio = measured / predicted
    results: tuple[Result, ...] = ()
    if predictor is variances:
        results = (
            *_ladder_results(measured, degrees),
            _penalty_map(),
            _overdone(measured, degrees),
            _tightening_table(measured, degrees),
        )
    return comparison(
        ratio,
        degrees,
        np.concatenate([variance_p_value(ratio, degrees), np.minimum(1.0, 2 * tails)]),
        note="flattening widens while a < 1 + μ, does nothing there, and narrows beyond; with s = t, λσ² is what falls",
        results=results,
    )


def _ladder_results(measured: NDArray[np.float64], degrees: float) -> tuple[Profile, Agreement]:
    """The variance along the ladder of curvatures, and its elasticity from each rung to the next."""
    sample, rungs, z = Sample(int(degrees), "replicas"), measured[: len(LADDER)], normal_quantile(TEST_ALPHA)
    low, high = variance_interval(rungs, np.full(len(rungs), degrees), TEST_ALPHA)
    fine = np.linspace(LADDER[0], LADDER[-1], 120)
    profile = Profile(
        title="Flatter is wider, until ηλ = 1 + μ",
        sample=sample,
        x=shown.RATE,
        y=Axis("variance σ² at γ = 1"),
        curves=(shown.predicted(fine, _ladder_variances(fine)), shown.measured_between(LADDER, rungs, low, high)),
        marks=(Mark(1.0 + OPTIMIZER.momentum, "a = 1 + μ"),),
        caption="μ = 0.5. Flattening moves to the left: it widens the posterior left of the mark and narrows it right "
        "of it.",
    )
    width = np.diff(np.log(LADDER))
    agreement = Agreement(
        title="Elasticity of the variance from each rung of the ladder to the next",
        sample=sample,
        quantity=Axis("Δ ln σ² / Δ ln λ"),
        curves=(
            shown.measured(
                np.diff(np.log(_ladder_variances(LADDER))) / width,
                np.diff(np.log(rungs)) / width,
                z * math.sqrt(4.0 / degrees) / width,
            ),
        ),
        caption="Below zero flatter is wider, above zero flatter is narrower.",
    )
    return profile, agreement


def _ladder_variances(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    ladder = Quadratic(rates / OPTIMIZER.learning_rate, np.ones(len(rates)))
    return variance_elasticities(ladder, OPTIMIZER).variances


def _prior_variance() -> float:
    base = Quadratic(BASIN, NOISE_SHARE * BASIN)
    return PRIOR_RATIO * float(variance_elasticities(base, OPTIMIZER).variances.mean())


def _penalised(curvature: float, noise: float, optimizer: MomentumSGD = OPTIMIZER) -> tuple[NDArray, NDArray]:
    """Curvatures and variances of the basin under (s, t)."""
    problem = Quadratic(curvature * BASIN, noise * NOISE_SHARE * BASIN)
    return problem.hessian, variance_elasticities(problem, optimizer).variances


def _bounds(
    curvature: NDArray[np.float64], sigma: NDArray[np.float64], samples: int = SAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Risk, KL and Seeger's bound of each row."""
    risk = np.minimum(0.5 * np.sum(curvature * sigma, axis=-1), 1.0)
    kl = 0.5 * np.sum(variance_excess(sigma, _prior_variance()), axis=-1)
    return risk, kl, np.asarray(clipped_bound(risk, kl, samples).value)


def _simulated(measured: NDArray[np.float64], degrees: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound of every penalty from simulated variances, and 1 s.e."""
    sigma = np.array([measured[_group(index)] for index in range(len(PENALTIES))])
    curvature = np.array([s * BASIN for s, _ in PENALTIES])
    zero = np.zeros_like(sigma)
    return bound_and_error(
        curvature, sigma, zero, zero[0], prior_variance=_prior_variance(), samples=SAMPLES, degrees=degrees
    )


#: Factors on curvature and on noise of the map.
_FACTORS = np.geomspace(0.05, 1.5, 25)


def _bound_at(curvatures: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Seeger's bound at each factor on the curvature, ``(K,)``."""
    pairs = [_penalised(float(curvature), noise) for curvature in curvatures]
    return _bounds(np.array([one[0] for one in pairs]), np.array([one[1] for one in pairs]))[2]


def _penalty_map() -> HeatMap:
    base = _bound_at(np.ones(1), 1.0)[0]
    factors = tuple(map(float, _FACTORS))
    return HeatMap(
        title="Where AWP (λ → sλ, γ → tγ) tightens the bound",
        sample=EXACT,
        x=Axis("s, factor on curvature"),
        y=Axis("t, factor on noise"),
        value=Axis("ln(bound / bound without AWP)"),
        columns=factors,
        rows=factors,
        cells=tuple(tuple(map(float, np.log(_bound_at(_FACTORS, noise) / base))) for noise in factors),
        center=0.0,
        contour=0.0,
        caption=f"Seeger's bound for {SAMPLES} samples, σ_P² = {PRIOR_RATIO:g} × the mean variance without AWP. On the "
        "diagonal s = t the variance hardly moves and the risk λσ² does the work; far left of it σ² exceeds σ_P² and "
        "the bound loosens.",
    )


def _overdone(measured: NDArray[np.float64], degrees: float) -> Profile:
    seen, error = _simulated(measured, degrees)
    z = normal_quantile(TEST_ALPHA)
    curves: list[Curve] = []
    for noise in sorted({t for _, t in PENALTIES}, reverse=True):
        members = [index for index, (_, t) in enumerate(PENALTIES) if t == noise]
        curves += [
            shown.predicted(_FACTORS, _bound_at(_FACTORS, noise), f"t = {noise:g}"),
            shown.measured([PENALTIES[i][0] for i in members], seen[members], z * error[members], f"t = {noise:g}"),
        ]
    return Profile(
        title="A penalty on curvature can be overdone",
        sample=Sample(int(degrees), f"replicas; bound for {SAMPLES} samples"),
        x=Axis("s, factor on curvature"),
        y=Axis("Seeger's bound"),
        curves=tuple(curves),
        caption="Each line falls with s until σ² passes its best value near σ_P², and rises again beyond.",
    )


def _tightening_table(measured: NDArray[np.float64], degrees: float) -> Table:
    seen, error = _simulated(measured, degrees)
    base_curvature, base_sigma = _penalised(1.0, 1.0)
    base = _bounds(base_curvature[None], base_sigma[None])
    z = normal_quantile(TEST_ALPHA)
    names = {
        (0.5, 1.0): "curvature halved",
        (1.0, 0.5): "noise halved (or the batch doubled)",
        (0.5, 0.5): "both halved, s = t",
        (0.5, 0.8): "curvature more than noise",
        (0.2, 0.8): "curvature overdone",
        (0.1, 0.8): "curvature far overdone",
    }
    rows = []

    def row(name: str, curvature: NDArray, sigma: NDArray, samples: int, simulated: str) -> None:
        risk, kl, value = _bounds(curvature[None], sigma[None], samples)
        change = math.log(float(value[0] / base[2][0]))
        rows.append(
            (
                name,
                float(np.mean(np.log(sigma / base_sigma))),
                math.log(float(risk[0] / base[0][0])),
                float(kl[0] - base[1][0]),
                change,
                simulated,
                "tightens" if change < -1e-6 else "loosens" if change > 1e-6 else "does nothing",
            )
        )

    for index, (curvature, noise) in enumerate(PENALTIES[1:], start=1):
        change = math.log(float(seen[index] / seen[0]))
        half = z * math.hypot(float(error[index] / seen[index]), float(error[0] / seen[0]))
        label = f"{names[curvature, noise]} (s = {curvature:g}, t = {noise:g})"
        row(label, *_penalised(curvature, noise), SAMPLES, f"{change:+.3f} ± {half:.3f}")
    for label, optimizer in (
        ("learning rate halved", replace(OPTIMIZER, learning_rate=0.5 * OPTIMIZER.learning_rate)),
        ("learning rate doubled", replace(OPTIMIZER, learning_rate=2 * OPTIMIZER.learning_rate)),
        ("momentum 0.5 → 0.75", replace(OPTIMIZER, momentum=0.75)),
        ("momentum 0.5 → 0.75 at fixed η/(1−μ)", MomentumSGD(0.5 * OPTIMIZER.learning_rate, 0.75)),
    ):
        row(label, *_penalised(1.0, 1.0, optimizer), SAMPLES, "not simulated here")
    row("twice the samples, same weights", base_curvature, base_sigma, 2 * SAMPLES, "not simulated here")
    return Table(
        title="What tightens the bound",
        columns=("change", "Δ ln σ²", "Δ ln risk", "Δ KL, nats", "Δ ln bound", "simulated", "verdict"),
        rows=tuple(rows),
        caption=f"Seeger's bound at n = {SAMPLES}, δ = {DELTA}, loss clipped at 1; basin of {len(BASIN)} directions, "
        f"γ = {NOISE_SHARE} λ, μ = 0.5, σ_P² = {PRIOR_RATIO:g} × the mean variance.",
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="flatness",
        title="variances of simulated weights over a ladder of curvatures and noises, and under AWP's (s, t)",
        setting=_setting,
        run=run_set,
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="flatness-widens-posterior",
        statement="∂ ln σ²/∂ ln λ = −1 + a/(2(1+μ) − a), ∂ ln σ²/∂ ln γ = 1: flatter is wider exactly while ηλ < 1 + μ",
        source="elasticities of (S1), own derivation; the mechanism is Xu and Zhang's, arXiv 2410.07719, on AWP",
        kind=Kind.IDENTITY,
        experiments=("flatness",),
        assumptions=(*ASSUMED, "stationary law", "AWP acts as (λ → sλ, γ → tγ)"),
        predict=variances,
        decoys={
            "elasticity −1 at any step size": _inverse_curvature,
            "curvature alone decides": _curvature_alone,
            "standard deviation of the noise": _root_noise,
        },
        compare=_compare,
        num_tests=120,
        detects=DETECTS,
    ),
)
