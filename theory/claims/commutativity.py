r"""Claim: the price of non-commutativity is −½ ln det R; and the study of what each commutativity measure says of it.

Identity  KL(exact) − KL(diagonal) = −½ ln det R, R the correlations of the stationary weights in H's eigenbasis (S3).
Evidence  (i) weights of real simulated runs; the sample price is less its exact Wishart bias, its error is first order
          in the sampling. (ii) Covariances of many pairs by SciPy's Lyapunov solver, which knows no closed form.
Study     Pairs at fixed spectra from commuting to a random rotation, and families that fool chi: an aligned outlier
          over a random bulk, weight decay counted into H, flat spectra. What decides is the price; the question is
          which measure, chi (C1) among them, foretells it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special, stats

from theory.claims import shown
from theory.claims.bound_law import (
    CLIPPED,
    DELTA,
    DETECTS,
    PRIOR,
    SimulationSet,
    enlarged,
    orthogonal,
    rotated,
    run_set,
    set_of,
)
from theory.closed_form.alignment import commutativity, commutativity_measures, commutativity_price
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.pac_bayes import pac_bayes_bound, pac_bayes_terms
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import EXACT, Axis, Curve, Profile, Result, Sample, SmallMultiples, Table
from theory.judge.statistics import normal_p_value, normal_quantile
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.simulate import Segment, Simulation

#: Largest relative difference from the Lyapunov solver's price that counts as rounding: the solver is good to 1e-11
#: here, and a price of some 1e-3 nats keeps 1e-8 of it.
ORACLE_TOLERANCE = 1e-7
#: Prices below this are compared absolutely: the solver's own rounding shows as some 1e-16 nats.
ORACLE_FLOOR = 1e-9
#: Relative spread within which the listing also counts curvatures as one eigenspace.
JOINED = 0.02

# ---------------------------------------------------------------------------------------------------------------------
# Simulated pairs

#: Label, angle, optimizer, and how many times the usual number of replicas a small price takes.
SIMULATED = (
    ("turned by 0.3 rad", 0.3, MomentumSGD(0.1, 0.5), 7),
    ("turned by 0.8 rad", 0.8, MomentumSGD(0.1, 0.5), 1),
    ("random rotation, μ = 0", None, MomentumSGD(0.1, 0.0), 1),
    ("random rotation, μ = 0.5", None, MomentumSGD(0.1, 0.5), 1),
    ("random rotation, μ = 0.8", None, MomentumSGD(0.1, 0.8), 4),
    ("random rotation, Nesterov", None, MomentumSGD(0.1, 0.5, nesterov=True), 1),
)


def _simulated_problem(angle: float | None) -> Quadratic:
    curvatures, noise = np.geomspace(1.0, 11.0, 6), np.geomspace(0.05, 5.0, 6)
    return Quadratic.from_spectra(curvatures, noise, orthogonal(6, 21) if angle is None else angle)


def _simulation_setting(budget: str) -> SimulationSet:
    simulations = tuple(
        Simulation(
            problem=_simulated_problem(angle),
            # The slowest root forgets its start to 1e-9 of the variance within 110 steps.
            segments=(Segment(optimizer=optimizer, steps=110),),
            replicas=times * enlarged(budget),
            record_times=(110,),
        )
        for _, angle, optimizer, times in SIMULATED
    )
    return SimulationSet(labels=tuple(label for label, *_ in SIMULATED), simulations=simulations)


# ---------------------------------------------------------------------------------------------------------------------
# The study


@keyword_setting
class PairStudy(Setting):
    """Families of (H, C) whose stationary covariances are solved for.

    Args:
        dimension: m.
        draws: random rotations a family.
        optimizer: of the family study.
        momenta: of the price-against-momentum study.
    """

    dimension: int = 12
    draws: int = 3
    optimizer: MomentumSGD
    momenta: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """One member of a family: `amount` is what varies in it, `data` the Hessian without weight decay."""

    family: str
    amount: float
    problem: Quadratic
    data: Quadratic


FAMILIES = (
    "rotated, aligned spectra",
    "rotated, unrelated spectra",
    "aligned outlier over a rotated bulk",
    "weight decay counted into H",
    "nearly flat curvature",
    "neighbours rotated",
)


@functools.cache
def pairs(study: PairStudy) -> tuple[Pair, ...]:
    """All members of all families, in a fixed order."""
    return tuple(_pairs(study))


def _pairs(study: PairStudy) -> Iterator[Pair]:
    m = study.dimension
    curvatures = np.geomspace(0.1, 6.0, m)
    shuffled = curvatures[np.argsort(np.sin(1.0 + 7.0 * np.arange(m)))]
    amounts = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0)
    for draw in range(study.draws):
        full = generator(orthogonal(m, 100 + draw))
        for amount in amounts:
            turn = partial_turn(full, amount)
            for family, noise in zip(FAMILIES[:2], (curvatures, shuffled), strict=True):
                problem = Quadratic(np.diag(curvatures), rotated(0.1 * noise, turn))
                yield Pair(family, amount, problem, problem)
        # The outlier stays an eigenvector of both; only the bulk turns.
        inner = generator(orthogonal(m - 1, 200 + draw))
        for amount in amounts[1:]:
            turn = np.eye(m)
            turn[:-1, :-1] = partial_turn(inner, amount)
            spiked = np.append(curvatures[:-1], 15.0)
            problem = Quadratic(np.diag(spiked), rotated(np.append(0.1 * shuffled[:-1], 40.0), turn))
            yield Pair(FAMILIES[2], amount, problem, problem)
        data = Quadratic(np.diag(curvatures), rotated(0.1 * shuffled, orthogonal(m, 100 + draw)))
        for decay in (0.1, 1.0, 3.0, 10.0):
            yield Pair(FAMILIES[3], decay, Quadratic(np.diag(curvatures + decay), data.noise_cov), data)
        for spread in (0.01, 0.1, 0.5):
            flat = 1.0 + spread * np.linspace(-0.5, 0.5, m)
            problem = Quadratic(np.diag(flat), rotated(0.1 * shuffled, orthogonal(m, 300 + draw)))
            yield Pair(FAMILIES[4], spread, problem, problem)
    for amount in amounts[1:]:
        turn = np.eye(m)
        for first in range(0, m - 1, 2):
            cosine, sine = math.cos(amount), math.sin(amount)
            turn[first : first + 2, first : first + 2] = [[cosine, -sine], [sine, cosine]]
        problem = Quadratic(np.diag(curvatures), rotated(0.1 * shuffled, turn))
        yield Pair(FAMILIES[5], amount, problem, problem)


def generator(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Antisymmetric A with exp(A) the given rotation (its determinant made +1)."""
    turn = turn.copy()
    if np.linalg.det(turn) < 0:
        turn[:, 0] = -turn[:, 0]
    logarithm = np.real(linalg.logm(turn))
    return 0.5 * (logarithm - logarithm.T)


def partial_turn(antisymmetric: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """exp(tA): none of the rotation at t = 0, all of it at t = 1."""
    return np.asarray(linalg.expm(amount * antisymmetric), dtype=np.float64)


@functools.cache
def momentum_cases(study: PairStudy) -> tuple[tuple[str, Quadratic, MomentumSGD], ...]:
    """Price against momentum: fixed η, and fixed η/(1−μ), for two random pairs and a turned one."""
    return tuple(_momentum_cases(study))


def _momentum_cases(study: PairStudy) -> Iterator[tuple[str, Quadratic, MomentumSGD]]:
    m = study.dimension
    curvatures = np.geomspace(0.1, 6.0, m)
    shuffled = curvatures[np.argsort(np.sin(1.0 + 7.0 * np.arange(m)))]
    problems = {
        "random pair 1": Quadratic(np.diag(curvatures), rotated(0.1 * shuffled, orthogonal(m, 100))),
        "random pair 2": Quadratic(np.diag(curvatures), rotated(0.1 * shuffled, orthogonal(m, 101))),
        "quarter turn": Quadratic(
            np.diag(curvatures), rotated(0.1 * shuffled, partial_turn(generator(orthogonal(m, 102)), 0.25))
        ),
    }
    for name, problem in problems.items():
        for momentum in study.momenta:
            yield f"{name}, η = 0.1", problem, MomentumSGD(0.1, momentum)
        for momentum in study.momenta:
            yield f"{name}, η/(1−μ) = 0.2", problem, MomentumSGD(0.2 * (1 - momentum), momentum)


def _study_setting(budget: str) -> PairStudy:
    return PairStudy(
        draws=6 if budget == "full" else 3,
        optimizer=MomentumSGD(0.1, 0.9),
        momenta=(0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995),
    )


def _run_study(study: PairStudy, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    del seed
    members, cases = list(pairs(study)), list(momentum_cases(study))
    jobs = [(pair.problem, study.optimizer) for pair in members] + [(p, o) for _, p, o in cases]
    covariances = []
    for index, (problem, optimizer) in enumerate(jobs):
        covariances.append(lyapunov_covariance(problem, optimizer, "bilinear").require())
        progress((index + 1) / len(jobs))
    return {"num_pairs": len(members), "num_momentum_cases": len(cases)}, {"covariances": np.array(covariances)}


# ---------------------------------------------------------------------------------------------------------------------
# Predictors: (problem, optimizer) -> nats


def price(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """(S3): the prediction, in the strict eigenbasis that the evidence is read in."""
    return commutativity_price(problem, optimizer, degeneracy=0.0).nats


def _commuting(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """The paper's assumption: no correlations, no price."""
    del problem, optimizer
    return 0.0


def _noise_correlations(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """−½ ln det of the correlations of the noise instead of those of the weights."""
    del optimizer
    noise = eigenbasis(problem).noise
    scale = np.sqrt(np.diag(noise))
    return -0.5 * float(np.linalg.slogdet(noise / np.multiply.outer(scale, scale))[1])


def _second_order(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """½ Σ_{i<j} R_ij², what nearly commuting pairs pay."""
    correlation = commutativity_price(problem, optimizer, degeneracy=0.0).correlation
    return 0.25 * float(np.sum((correlation - np.eye(len(correlation))) ** 2))


def _without_half(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """−ln det R."""
    return 2.0 * price(problem, optimizer)


def _without_momentum(problem: Quadratic, optimizer: MomentumSGD) -> float:
    """The price of plain SGD at the same learning rate."""
    return price(problem, MomentumSGD(optimizer.learning_rate))


# ---------------------------------------------------------------------------------------------------------------------


def sample_price(second: NDArray[np.float64], basis: NDArray[np.float64], replicas: int) -> tuple[float, float]:
    """Price of a sampled covariance (known mean 0), less its bias, and its standard error.

    E ln det S = ln det Σ + Σ_i [ψ((ν−i)/2) − ln(ν/2)], i = 0 … m−1, for S ~ Wishart(Σ/ν, ν), and each diagonal entry
    carries ψ(ν/2) − ln(ν/2). To first order the error is that of tr(GS) with G = −½S⁻¹ + ½ diag(1/S_ii).
    """
    inside = basis.T @ second @ basis
    size = len(inside)
    variances = np.diag(inside)
    value = 0.5 * (float(np.sum(np.log(variances))) - float(np.linalg.slogdet(inside)[1]))
    bias = 0.5 * float(np.sum(special.digamma(0.5 * replicas) - special.digamma(0.5 * (replicas - np.arange(size)))))
    slope = 0.5 * (inside / variances[:, None] - np.eye(size))
    return value - bias, math.sqrt(2.0 / replicas * float(np.trace(slope @ slope)))


def _strict_basis(problem: Quadratic) -> NDArray[np.float64]:
    basis = eigenbasis(problem).basis
    return np.eye(problem.dimension) if basis is None else basis


def oracle_price(covariance: NDArray[np.float64], problem: Quadratic) -> float:
    """Price of a solved covariance by Cholesky: shares no line with the claim's eigenvalues."""
    basis = _strict_basis(problem)
    inside = basis.T @ covariance @ basis
    factor = np.linalg.cholesky(inside)
    return 0.5 * float(np.sum(np.log(np.diag(inside)))) - float(np.sum(np.log(np.diag(factor))))


def _compare(evidence: Mapping[str, Evidence], predictor: Predictor) -> Comparison:
    simulated, solved = evidence["price-simulation"], evidence["price-study"]
    settings = set_of(simulated)
    measured, errors, predicted = [], [], []
    for index, simulation in enumerate(settings.simulations):
        m = simulation.problem.dimension
        second = simulated.arrays[f"second_{index}"][0, :m, :m]
        value, error = sample_price(second, _strict_basis(simulation.problem), simulation.replicas)
        measured.append(value)
        errors.append(error)
        predicted.append(predictor(simulation.problem, simulation.segments[0].optimizer))
    seen, spread, expected = np.array(measured), np.array(errors), np.array(predicted)
    p_values = normal_p_value((seen - expected) / spread)
    study = PairStudy.from_dict(solved.setting)
    jobs = [(pair.problem, study.optimizer) for pair in pairs(study)] + [(p, o) for _, p, o in momentum_cases(study)]
    exact = np.array([oracle_price(one, job[0]) for one, job in zip(solved.arrays["covariances"], jobs, strict=True)])
    claimed = np.array([predictor(*job) for job in jobs])
    worst = float(np.max(np.abs(claimed - exact) / np.maximum(exact, ORACLE_FLOOR / ORACLE_TOLERANCE)))
    off = int(np.argmax(np.abs(seen - expected) / spread))
    z = normal_quantile(TEST_ALPHA)
    relative = (seen[off] - expected[off]) / seen[off]
    half = z * spread[off] / seen[off]
    results: tuple[Result, ...] = ()
    if predictor is price:
        results = (
            _by_measure(study, exact),
            _by_momentum(study, exact),
            _simulated_table(settings, expected, seen, spread),
            *_study_tables(study, exact, solved),
        )
    return Comparison(
        estimate=float(relative),
        interval=(float(relative - half), float(relative + half)),
        # The solver's answers carry no chance: a difference beyond rounding refutes outright.
        p_value=0.0 if worst > ORACLE_TOLERANCE else float(p_values.min()),
        num_tests=len(p_values) + 1,
        reached=float(np.min(2.0 * (seen / spread) ** 2)),  # the ν of a variance known as sharply as the worst price
        note=f"{len(jobs)} solved pairs agree to {worst:.1e} of the price; simulated prices are known to "
        f"{100 * float(np.max(spread / seen)):.1f} % or better (1 s.e.)",
        results=results,
    )


def _simulated_table(settings: SimulationSet, expected: NDArray, seen: NDArray, spread: NDArray) -> Table:
    return Table(
        title="The price of non-commutativity, simulated",
        columns=("pair", "μ", "predicted, nats", "simulated, nats", "± (1 s.e.)"),
        rows=tuple(
            (label, one.segments[0].optimizer.momentum, float(a), float(b), float(c))
            for label, one, a, b, c in zip(settings.labels, settings.simulations, expected, seen, spread, strict=True)
        ),
    )


#: Measures of the study: how far each is from its commuting value, so that 0 is "commuting" for all.
DISTANCES: Mapping[str, Callable[[Mapping[str, float]], float]] = {
    "normalised commutator": lambda found: found["normalized_commutator"],
    "1 − χ": lambda found: 1 - found["chi"],
    "1 − χ, deflated": lambda found: 1 - found["chi_deflated"],
    "1 − mean cᵢ": lambda found: 1 - found["mean_direction_cosine"],
    "off-diagonal mass": lambda found: found["off_diagonal_mass"],
    "1 − top-k overlap": lambda found: 1 - found["subspace_overlap"],
    "1 − Frobenius cosine": lambda found: 1 - found["frobenius_cosine"],
    "1 − ω": lambda found: 1 - found["omega"],
}


def _measured_pairs(study: PairStudy, prices: NDArray[np.float64]) -> list[tuple[Pair, float, dict[str, float]]]:
    """Every pair with its price and its distance from commuting by every measure that it determines."""
    rows = []
    for pair, nats in zip(pairs(study), prices, strict=False):
        found = commutativity_measures(pair.problem, deflated=1, degeneracy=0.0)
        distances = {}
        for name, distance in DISTANCES.items():
            try:
                distances[name] = distance(found)
            except KeyError:  # this pair does not determine it
                continue
        rows.append((pair, float(nats), distances))
    return rows


def _by_measure(study: PairStudy, prices: NDArray[np.float64]) -> SmallMultiples:
    """The price against five measures of how far a pair is from commuting."""
    rows = _measured_pairs(study, prices)
    names = ("normalised commutator", "1 − χ", "1 − χ, deflated", "1 − mean cᵢ", "off-diagonal mass")
    sample, panels = Sample(len(rows), "pairs, solved"), []
    for name in names:
        curves = []
        for family in FAMILIES:
            chosen = [(far[name], nats) for pair, nats, far in rows if pair.family == family and name in far]
            kept = sorted((far, nats / study.dimension) for far, nats in chosen if far > 1e-14 and nats > 1e-12)
            if kept:
                curves.append(shown.measured(*zip(*kept, strict=True), subject=family))
        panels.append(
            Profile(
                title=name,
                sample=sample,
                x=Axis("distance from commuting"),
                y=Axis("price", "nats a direction"),
                curves=tuple(curves),
            )
        )
    return SmallMultiples(
        title="What the bound loses without commutation, against five measures",
        sample=sample,
        names=names,
        panels=tuple(panels),
        caption=f"m = {study.dimension}, η = 0.1, μ = 0.9; Lyapunov solver. A measure that foretold the price would "
        "put all families on one line.",
    )


def _commuting_error(problem: Quadratic, covariance: NDArray[np.float64]) -> tuple[float, float]:
    """‖Σ − diagonal part‖/‖Σ‖ in H's eigenbasis, and the worst σ² if C's eigenvalues, in order, stood for uᵢᵀCuᵢ."""
    frame = eigenbasis(problem)
    basis = _strict_basis(problem)
    inside = basis.T @ covariance @ basis
    off = inside - np.diag(np.diag(inside))
    order = np.argsort(frame.curvatures)
    gamma = np.diag(frame.noise)[order]
    paired = np.sort(np.linalg.eigvalsh(frame.noise))
    return float(np.linalg.norm(off) / np.linalg.norm(inside)), float(np.max(np.abs(np.log(paired / gamma))))


def _study_tables(study: PairStudy, prices: NDArray[np.float64], solved: Evidence) -> tuple[Table, ...]:
    rows = _measured_pairs(study, prices)
    listing = []
    for (pair, nats, far), covariance in zip(rows, solved.arrays["covariances"], strict=False):
        lost, paired = _commuting_error(pair.problem, covariance)
        joined = commutativity_price(pair.problem, study.optimizer, degeneracy=JOINED)
        listing.append(
            (
                pair.family,
                pair.amount,
                nats,
                joined.nats,
                lost,
                paired,
                *(far.get(name, "undefined") for name in DISTANCES),
                _bound_rise(pair.problem, covariance, nats),
            )
        )
    ranking = []
    for name in DISTANCES:
        both = [(far[name], nats) for _, nats, far in rows if name in far]
        near = [nats for far, nats in both if far <= 0.05]
        far_from, cost = (np.array(column) for column in zip(*both, strict=True))
        correlation = float(np.corrcoef(stats.rankdata(far_from), stats.rankdata(cost))[0, 1])
        ranking.append((name, correlation, len(both), max(near, default=0.0), len(near)))
    ranking.sort(key=lambda row: -row[1])
    return (
        Table(
            title="Which measure foretells the price",
            columns=(
                "distance from commuting",
                "rank correlation with the price",
                "pairs",
                "dearest pair it calls commuting (≤ 0.05), nats",
                "pairs it calls commuting",
            ),
            rows=tuple(ranking),
            caption="Spearman's ρ over all pairs of all families. A pair called commuting that costs nats is one that "
            "fools the measure.",
        ),
        _fooled_table(study),
        Table(
            title="Every pair of the study",
            columns=(
                "family",
                "amount",
                "price, nats",
                f"price, curvatures within {100 * JOINED:g} % joined",
                "‖Σ − commuting Σ‖/‖Σ‖",
                "worst |ln(c/γ)| if paired in order",
                *DISTANCES,
                "Δ bound, n = 1000",
            ),
            rows=tuple(listing),
            caption="Amount: share of the rotation, weight decay, or spread of the curvature. Joined: directions an "
            "observer could hardly tell apart are chosen to diagonalise C. Δ bound: Seeger's bound on the clipped loss "
            "with the price, minus without.",
        ),
    )


def _bound_rise(problem: Quadratic, covariance: NDArray[np.float64], nats: float) -> float:
    """What the price adds to Seeger's bound at n = 1000, prior variance that of the mean direction."""
    prior = float(np.trace(covariance)) / problem.dimension
    terms = pac_bayes_terms(problem, covariance, prior_variance=prior)
    risk = min(terms.expected_risk, 1.0)
    bound = pac_bayes_bound(
        risk, np.array([terms.kl - nats, terms.kl]), num_samples=1000, delta=DELTA, loss=CLIPPED, prior=PRIOR
    )
    return float(np.diff(bound.value)[0])


def _fooled_table(study: PairStudy) -> Table:
    """Four pairs with nulls: a slight turn, a random rotation, the aligned outlier, and weight decay."""
    chosen = {}
    for pair in pairs(study):
        if (pair.family, pair.amount) in (
            (FAMILIES[1], 1.0),
            (FAMILIES[1], 0.1),
            (FAMILIES[2], 1.0),
            (FAMILIES[3], 10.0),
        ):
            chosen.setdefault((pair.family, pair.amount), pair)
    looked_at = [(f"{family}, {amount:g}", pair, pair.problem) for (family, amount), pair in chosen.items()]
    looked_at += [
        (f"{label}, data Hessian", pair, pair.data) for label, pair, _ in looked_at if pair.data is not pair.problem
    ]
    rows = []
    for label, pair, problem in looked_at:
        found = commutativity(problem, deflated=1, num_null=100, degeneracy=0.0)
        nats = commutativity_price(pair.problem, study.optimizer, degeneracy=0.0).nats
        for name, measure in found.measures.items():
            rows.append(
                (
                    label,
                    nats,
                    name,
                    measure.value,
                    measure.null_mean,
                    measure.null_low,
                    measure.null_high,
                    "outside the null" if measure.beyond_null else "as random",
                )
            )
    return Table(
        title="Commutativity measures beside their null",
        columns=("pair", "price, nats", "measure", "value", "null mean", "null 0.5 %", "null 99.5 %", "reading"),
        rows=tuple(rows),
        caption="Null: C's eigenvectors turned at random, 100 rotations. The outlier and weight decay push χ toward 1 "
        "while the price stays; deflation and the data Hessian undo that.",
    )


def _by_momentum(study: PairStudy, prices: NDArray[np.float64]) -> SmallMultiples:
    """The price against momentum: the formula on a fine grid, the solver at the momenta of the study."""
    cases = momentum_cases(study)
    solved: dict[str, list[tuple[float, float]]] = {}
    problems: dict[str, Quadratic] = {}
    for (label, problem, optimizer), nats in zip(cases, prices[-len(cases) :], strict=True):
        solved.setdefault(label, []).append((1 - optimizer.momentum, float(nats)))
        problems[label] = problem
    fine = np.union1d(np.geomspace(1 - max(study.momenta), 1.0, 60), 1 - np.asarray(study.momenta))
    rates: dict[str, Callable[[float], float]] = {"η = 0.1": lambda _: 0.1, "η/(1−μ) = 0.2": lambda lag: 0.2 * lag}
    panels = []
    for rule, rate in rates.items():
        curves: list[Curve] = []
        for label, points in solved.items():
            if label.endswith(rule):
                subject = label.removesuffix(f", {rule}")
                line = [price(problems[label], MomentumSGD(rate(lag), 1 - lag)) for lag in fine]
                curves.append(shown.predicted(fine, line, subject))
                curves.append(shown.measured(*zip(*points, strict=True), subject=subject, by="Lyapunov solver"))
        panels.append(Profile(title=rule, sample=EXACT, x=Axis("1 − μ"), y=Axis("price", "nats"), curves=tuple(curves)))
    return SmallMultiples(
        title="The price against momentum",
        sample=EXACT,
        names=tuple(f"at fixed {rule}" for rule in rates),
        panels=tuple(panels),
        caption="Right: plain SGD; left: momentum near 1.",
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="price-simulation",
        title="weights under noise turned against the curvature, six pairs",
        setting=_simulation_setting,
        run=run_set,
    ),
    Experiment(
        name="price-study",
        title="stationary covariances of families of (H, C) from commuting to random, by SciPy's Lyapunov solver",
        setting=_study_setting,
        run=_run_study,
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="commutativity-price",
        statement="KL(exact) − KL(diagonal) = −½ ln det R, R the stationary correlations of w in H's eigenbasis",
        source="(S3), own derivation; answers the third open question of Xu and Zhang, arXiv 2410.07719",
        kind=Kind.IDENTITY,
        experiments=("price-simulation", "price-study"),
        assumptions=("quadratic loss", "noise independent over time, of constant covariance C", "isotropic prior"),
        predict=price,
        decoys={
            "commuting: no price": _commuting,
            "correlations of the noise": _noise_correlations,
            "second order in R": _second_order,
            "the half lost": _without_half,
            "momentum left out": _without_momentum,
        },
        compare=_compare,
        num_tests=8,
        detects=DETECTS,
    ),
)
