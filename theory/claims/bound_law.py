r"""Claims about the bound's moving parts: what risk and divergence are, and how they move after a decay.

Evidence is the weights of real simulated runs: their mean and covariance at given steps. What is measured of them is
elementary (an average loss, a log-determinant), and shares no line with the formulas under test. All runs start at one
point w₀, so that every recorded law is a finite-time law: nothing waits for a burn-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.claims import shown
from theory.closed_form.divergence import variance_excess
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.pac_bayes import (
    BoundedLoss,
    DataDependentPrior,
    FixedPrior,
    PacBayesBound,
    UnboundedLoss,
    pac_bayes_bound,
    pac_bayes_terms,
)
from theory.closed_form.stability import modes
from theory.closed_form.stationary import stationary_variance
from theory.closed_form.transient import mean_path, transient_covariance
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import EXACT, Axis, Curve, HeatMap, Result, Sample, Table, TimeCourse
from theory.judge.statistics import normal_p_value, normal_quantile, variance_interval, variance_p_value
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.simulate import Segment, Simulation, simulate

#: Relative error of one variance found with a miss chance of at most 1e-6, and the replicas that takes.
DETECTS = 0.1
REPLICAS = 28_672
#: Curvature, noise, optimizer and prior of the figures; the loss is clipped at 1 so that the bound is one.
CLIPPED = BoundedLoss(because="quadratic loss clipped at 1, whose mean the quadratic's bounds from above")
PRIOR = FixedPrior(because="N(w₀, σ_P² I), w₀ the start of the run")
ASSUMED = ("quadratic loss", "noise independent over time, of constant covariance C", "Gaussian posterior and prior")


@keyword_setting
class SimulationSet(Setting):
    """Several simulations that make one piece of evidence; each has its own child seed."""

    labels: tuple[str, ...]
    simulations: tuple[Simulation, ...]


def run_set(setting: SimulationSet, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Simulate them all; keep first and second moments of the state."""
    seeds = np.random.SeedSequence(seed).generate_state(len(setting.simulations), np.uint64)
    arrays, engine = {}, ""
    for index, (simulation, child) in enumerate(zip(setting.simulations, seeds, strict=True)):
        moments = simulate(simulation, seed=int(child))
        arrays[f"mean_{index}"], arrays[f"second_{index}"] = moments.mean, moments.second
        engine = moments.engine
        progress((index + 1) / len(setting.simulations))
    return {"engine": engine, "replicas": [one.replicas for one in setting.simulations]}, arrays


def set_of(evidence: Evidence) -> SimulationSet:
    """The settings an evidence was made with."""
    return SimulationSet.from_dict(evidence.setting)


def enlarged(budget: str) -> int:
    """Replicas of a budget."""
    return REPLICAS * (4 if budget == "full" else 1)


def orthogonal(size: int, seed: int) -> NDArray[np.float64]:
    """A fixed orthogonal matrix without structure."""
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return matrix * np.sign(np.diag(upper))


def rotated(spectrum: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric matrix of given eigenvalues and eigenvectors."""
    matrix = (basis * spectrum) @ basis.T
    return 0.5 * (matrix + matrix.T)


# ---------------------------------------------------------------------------------------------------------------------
# The law of a run: chained transients from a start at one point


@dataclass(frozen=True)
class Law:
    """Mean ``(T, m)`` and covariance ``(T, m, m)`` of the weights at the recorded times of a simulation."""

    means: NDArray[np.float64]
    covariances: NDArray[np.float64]


def law_of(simulation: Simulation) -> Law:
    """(T1) and the mean path, segment after segment, from covariance 0 and mean w₀."""
    m = simulation.problem.dimension
    problem = simulation.problem
    state = np.zeros((2 * m, 2 * m))
    mean = np.zeros(2 * m)
    if simulation.initial_weights is not None:
        mean[:m] = simulation.initial_weights
    means, covariances, first = [], [], 0
    for index, segment in enumerate(simulation.segments):
        problem = segment.problem or problem
        last = first + segment.steps
        final = index == len(simulation.segments) - 1
        # The last step of a segment is step 0 of the next, and is recorded once.
        wanted = [t - first for t in simulation.record_times if first <= t < last or (final and t == last)]
        steps = sorted({*wanted, segment.steps})
        moved = transient_covariance(problem, None, segment.optimizer, steps, state)
        places = mean_path(problem, segment.optimizer, mean, steps)
        for k in wanted:
            means.append(places[steps.index(k), :m])
            covariances.append(moved.require()[steps.index(k)])
        state, mean, first = moved.state()[-1], places[-1], last
    return Law(np.array(means), np.array(covariances))


def problem_at(simulation: Simulation, time: int) -> Quadratic:
    """The problem whose loss counts after `time` steps; at a change, the new one."""
    problem, first = simulation.problem, 0
    for segment in simulation.segments:
        if time < first:
            break
        problem = segment.problem or problem
        first += segment.steps
    return problem


# ---------------------------------------------------------------------------------------------------------------------
# Decomposition

DECOMPOSITION_PRIOR = 0.5


def _decomposition_setting(budget: str) -> SimulationSet:
    curvatures = np.geomspace(0.3, 14.0, 6)
    noise = np.array([0.3, 0.02, 0.2, 1.5, 0.6, 2.0])
    problem = Quadratic(rotated(curvatures, orthogonal(6, 11)), rotated(noise, orthogonal(6, 12)))
    simulation = Simulation(
        problem=problem,
        segments=(Segment(optimizer=MomentumSGD(0.1, 0.9), steps=160),),
        replicas=enlarged(budget),
        record_times=(6, 25, 160),
        initial_weights=0.4 * np.ones(6),
    )
    return SimulationSet(labels=("non-commuting",), simulations=(simulation,))


@dataclass(frozen=True)
class Parts:
    """What the claim predicts at each recorded time: risk and KL ``(T,)``, σ² and mean along H's axes ``(T, m)``."""

    risk: NDArray[np.float64]
    kl: NDArray[np.float64]
    variances: NDArray[np.float64]
    means: NDArray[np.float64]


def decomposition(simulation: Simulation) -> Parts:
    """(B1) along (T1): the prediction."""
    law = law_of(simulation)
    basis = _basis(simulation.problem)
    rows = [
        pac_bayes_terms(
            simulation.problem, covariance, prior_variance=DECOMPOSITION_PRIOR, mean=mean, prior_mean=_start(simulation)
        )
        for covariance, mean in zip(law.covariances, law.means, strict=True)
    ]
    return Parts(
        risk=np.array([row.expected_risk for row in rows]),
        kl=np.array([row.kl for row in rows]),
        variances=np.array([row.variances for row in rows]),
        means=law.means @ basis,
    )


def _without_correlations(simulation: Simulation) -> Parts:
    """The commuting bound: directions counted as if independent."""
    law = law_of(simulation)
    prices = [
        pac_bayes_terms(simulation.problem, covariance, prior_variance=DECOMPOSITION_PRIOR).total_correlation
        for covariance in law.covariances
    ]
    exact = decomposition(simulation)
    return replace(exact, kl=exact.kl - np.array(prices))


def _without_half(simulation: Simulation) -> Parts:
    """Σ λσ² for the risk: the ½ of the quadratic lost."""
    exact = decomposition(simulation)
    return replace(exact, risk=2.0 * exact.risk)


def _without_mean(simulation: Simulation) -> Parts:
    """The mean taken to sit at the optimum and at the prior."""
    exact, frame = decomposition(simulation), eigenbasis(simulation.problem)
    shift = exact.means - _start(simulation) @ _basis(simulation.problem)
    return replace(
        exact,
        risk=exact.risk - 0.5 * np.square(exact.means) @ frame.curvatures,
        kl=exact.kl - 0.5 * np.sum(shift**2, axis=1) / DECOMPOSITION_PRIOR,
    )


def _continuous_time(simulation: Simulation) -> Parts:
    """σ² = ηγ/(2λ(1−μ)), the Ornstein–Uhlenbeck variance, in every term at the last time."""
    exact, frame = decomposition(simulation), eigenbasis(simulation.problem)
    optimizer = simulation.segments[0].optimizer
    flow = optimizer.learning_rate * np.diag(frame.noise) / (2 * frame.curvatures * (1 - optimizer.momentum))
    variances = exact.variances.copy()
    variances[-1] = flow
    return replace(exact, variances=variances)


def _basis(problem: Quadratic) -> NDArray[np.float64]:
    frame = eigenbasis(problem)
    return np.eye(problem.dimension) if frame.basis is None else frame.basis


def _start(simulation: Simulation) -> NDArray[np.float64]:
    start = simulation.initial_weights
    return np.zeros(simulation.problem.dimension) if start is None else start


@dataclass(frozen=True)
class Measured:
    """Sample law of the weights at one time, and elementary numbers of it."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]  # unbiased
    raw: NDArray[np.float64]  # E w wᵀ
    degrees: int  # replicas − 1

    def risk(self, hessian: NDArray[np.float64]) -> tuple[float, float]:
        """Average loss over the replicas, and its standard error."""
        spread = hessian @ self.covariance
        push = hessian @ self.mean
        variance = 0.5 * float(np.trace(spread @ spread)) + float(push @ self.covariance @ push)
        return 0.5 * float(np.sum(hessian * self.raw)), math.sqrt(variance / (self.degrees + 1))

    def kl(self, prior_variance: float, prior_mean: NDArray[np.float64]) -> tuple[float, float]:
        """KL of the sample law to the prior, less its bias (Wishart log-determinant, sampled mean), and its error."""
        size, shift = len(self.mean), self.mean - prior_mean
        _, logdet = np.linalg.slogdet(self.covariance)
        half = 0.5 * (self.degrees - np.arange(size))
        logdet -= float(np.sum(special.digamma(half) - math.log(0.5 * self.degrees)))
        distance = float(shift @ shift) - float(np.trace(self.covariance)) / (self.degrees + 1)
        scaled = float(np.trace(self.covariance)) / prior_variance
        value = 0.5 * (scaled - size - float(logdet) + size * math.log(prior_variance))
        slope = 0.5 * (self.covariance / prior_variance - np.eye(size))  # G Σ with G the gradient in Σ
        variance = 2.0 / self.degrees * float(np.trace(slope @ slope))
        variance += float(shift @ self.covariance @ shift) / (prior_variance**2 * (self.degrees + 1))
        return value + 0.5 * distance / prior_variance, math.sqrt(variance)


def measured_law(evidence: Evidence, index: int, simulation: Simulation) -> list[Measured]:
    """The sample laws of one simulation of a set, time by time (full moments)."""
    m, replicas = simulation.problem.dimension, simulation.replicas
    laws = []
    for mean, second in zip(evidence.arrays[f"mean_{index}"], evidence.arrays[f"second_{index}"], strict=True):
        raw = second[:m, :m]
        central = (raw - np.outer(mean[:m], mean[:m])) * (replicas / (replicas - 1))
        laws.append(Measured(mean[:m], central, raw, replicas - 1))
    return laws


def _compare_decomposition(evidence: Mapping[str, Evidence], predictor: Predictor) -> Comparison:
    found = evidence["bound-decomposition"]
    simulation = set_of(found).simulations[0]
    predicted: Parts = predictor(simulation)
    laws, basis = measured_law(found, 0, simulation), _basis(simulation.problem)
    hessian, degrees = simulation.problem.dense_hessian(), float(simulation.replicas - 1)
    p_values, ratios, rows = [], [], []
    for time, law, index in zip(simulation.record_times, laws, range(len(laws)), strict=True):
        inside = np.diag(basis.T @ law.covariance @ basis)
        ratios.append(inside / predicted.variances[index])
        p_values.append(variance_p_value(ratios[-1], degrees))
        place = basis.T @ law.mean
        p_values.append(normal_p_value((place - predicted.means[index]) / np.sqrt(inside / simulation.replicas)))
        risk, risk_error = law.risk(hessian)
        kl, kl_error = law.kl(DECOMPOSITION_PRIOR, _start(simulation))
        scores = [(risk - predicted.risk[index]) / risk_error, (kl - predicted.kl[index]) / kl_error]
        p_values.append(normal_p_value(scores))
        rows.append((time, float(predicted.risk[index]), risk, risk_error, float(predicted.kl[index]), kl, kl_error))
    results: tuple[Result, ...] = ()
    if predictor is decomposition:
        results = (*_parts_courses(simulation, rows), *_decomposition_tables(simulation, predicted, rows))
    return comparison(
        np.concatenate(ratios),
        degrees,
        np.concatenate(p_values),
        note="risk and KL of simulated weights, their average loss and log-determinant, against (B1)",
        results=results,
    )


def comparison(
    ratio: NDArray[np.float64],
    degrees: float | NDArray[np.float64],
    p_values: NDArray[np.float64],
    *,
    note: str,
    results: tuple[Result, ...] = (),
) -> Comparison:
    """A batch of tests, headed by its worst variance ratio with the interval at the family's level."""
    degrees = np.broadcast_to(np.asarray(degrees, dtype=np.float64), ratio.shape)
    low, high = variance_interval(ratio, degrees, TEST_ALPHA)
    worst = int(np.argmin(variance_p_value(ratio, degrees)))
    return Comparison(
        estimate=float(ratio[worst] - 1),
        interval=(float(low[worst] - 1), float(high[worst] - 1)),
        p_value=float(p_values.min()),
        num_tests=len(p_values),
        reached=float(degrees.min()),
        note=note,
        results=results,
    )


def _parts_courses(simulation: Simulation, rows: list[tuple[float, ...]]) -> tuple[TimeCourse, TimeCourse]:
    times, risk, risk_error, kl, kl_error = np.array([[row[place] for place in (0, 2, 3, 5, 6)] for row in rows]).T
    fine = np.union1d([*range(1, 61), *range(61, simulation.steps + 1, 3)], times.astype(int))
    along = replace(simulation, record_times=tuple(int(t) for t in fine))
    path, commuting = decomposition(along), _without_correlations(along).kl
    z = normal_quantile(TEST_ALPHA)

    def course(y: Axis, caption: str, *curves: Curve) -> TimeCourse:
        return TimeCourse(
            title=f"{y.name[0].upper()}{y.name[1:]}, from a start at one point",
            sample=Sample(simulation.replicas, "replicas"),
            x=Axis("time", "steps"),
            y=y,
            curves=curves,
            caption=caption,
        )

    return (
        course(
            Axis("divergence from the prior", "nats"),
            "(B1) along the exact transient, and the log-determinant of simulated weights.",
            shown.predicted(fine, path.kl),
            shown.decoy(fine, commuting, "as if H and C commuted"),
            shown.measured(times, kl, z * kl_error),
        ),
        course(
            Axis("expected risk", "units of loss"),
            "(B1) along the exact transient, and the average loss of simulated weights.",
            shown.predicted(fine, path.risk),
            shown.measured(times, risk, z * risk_error),
        ),
    )


def _decomposition_tables(simulation: Simulation, predicted: Parts, rows: list[tuple[float, ...]]) -> tuple[Table, ...]:
    law = law_of(simulation)
    terms = pac_bayes_terms(
        simulation.problem,
        law.covariances[-1],
        prior_variance=DECOMPOSITION_PRIOR,
        mean=law.means[-1],
        prior_mean=_start(simulation),
    )
    directions = tuple(
        tuple(float(value) for value in row)
        for row in zip(
            terms.curvatures,
            terms.variances,
            terms.curvature_times_variance,
            terms.negative_log_variance,
            terms.variance_ratio,
            terms.mean_curvature,
            terms.mean_shift,
            strict=True,
        )
    )
    samples, delta = 500, 0.05
    kinds: list[tuple[str, PacBayesBound]] = []
    four, free = BoundedLoss(because="quadratic loss clipped at 4", upper=4.0), UnboundedLoss(scale=4.0)
    cases = (("last step", terms.expected_risk, terms.kl), ("step 6", predicted.risk[0], predicted.kl[0]))

    def bound(risk: float, kl: float, **choices: Any) -> PacBayesBound:
        chosen = {"loss": four, "prior": PRIOR, **choices}
        return pac_bayes_bound(risk, kl, num_samples=samples, delta=delta, **chosen)

    for label, risk, kl in cases:
        kinds += [
            (label, bound(risk, kl)),
            (label, bound(risk, kl, method="mcallester")),
            (label, bound(risk, kl, method="catoni", catoni_constant=0.5)),
            (label, bound(risk, kl, method="mcallester", loss=free)),
            (label, bound(risk, kl, prior=DataDependentPrior())),
        ]
    return (
        Table(
            title="The bound's terms, direction by direction, at the last step",
            columns=("λ", "σ²", "λσ²", "−ln σ²", "σ²/σ_P²", "λ m²", "(m−m_P)²/σ_P²"),
            rows=directions,
            caption=f"σ_P² = {DECOMPOSITION_PRIOR}; correlations add {terms.total_correlation:.4g} nats to the KL.",
        ),
        Table(
            title="Risk and divergence, predicted and simulated",
            columns=("step", "risk (B1)", "risk, simulated", "± (1 s.e.)", "KL (B1)", "KL, simulated", "± (1 s.e.)"),
            rows=tuple(rows),
        ),
        Table(
            title=f"What the parts make, n = {samples}, δ = {delta}",
            columns=("when", "method", "risk", "KL", "value", "what it is", "vacuous"),
            rows=tuple(
                (
                    label,
                    one.method,
                    one.empirical_risk,
                    one.kl,
                    one.value,
                    one.label,
                    "cannot be said" if one.vacuous is None else "yes" if one.vacuous else "no",
                )
                for label, one in kinds
            ),
            caption="Bounded rows clip the loss at 4. The unbounded quadratic loss, and a prior chosen after the data, "
            "give diagnostics.",
        ),
    )


# ---------------------------------------------------------------------------------------------------------------------
# After a decay

BEFORE = MomentumSGD(0.1, 0.9)
DECAYS = (0.1, 0.4)
#: Factors on (λ, γ) at the decay, one group of directions each.
SPIKES = ((1.0, 1.0), (3.0, 3.0), (3.0, 1.0), (1.0, 3.0))
#: γ = 0.01 λ makes σ² = ηγ/(2λ(1−μ)) = 0.005 in every direction, up to the step-size term: one prior ratio fits all.
CURVATURES = np.array([0.01, 0.2, 0.6, 1.5, 4.0])
NOISE_SHARE = 0.01
LEVEL = 0.005
SETTLING = 100
PRIOR_RATIOS = (0.1, 1.0, 10.0)
SAMPLES = (50, 5_000)
DELTA = 0.05


def decay_problem(spikes: tuple[tuple[float, float], ...]) -> tuple[Quadratic, Quadratic]:
    """Problem before and after: one group of directions a spike, side by side."""
    curvature = np.tile(CURVATURES, len(spikes))
    factors = np.repeat(np.array(spikes), len(CURVATURES), axis=0)
    before = Quadratic(curvature, NOISE_SHARE * curvature)
    return before, Quadratic(factors[:, 0] * curvature, factors[:, 1] * NOISE_SHARE * curvature)


def decayed(decay: float) -> MomentumSGD:
    """The optimizer after the decay."""
    return replace(BEFORE, learning_rate=decay * BEFORE.learning_rate)


def _decay_setting(budget: str) -> SimulationSet:
    first, second = decay_problem(SPIKES)
    start = np.tile(np.array([0.1, 0.0, 0.0, 0.0, 0.0]), len(SPIKES))
    simulations = tuple(
        Simulation(
            problem=first,
            segments=(
                Segment(optimizer=BEFORE, steps=SETTLING),
                Segment(optimizer=decayed(decay), steps=300, problem=second),
            ),
            replicas=enlarged(budget),
            record_times=tuple(SETTLING + k for k in (0, 3, 10, 30, 100, 300)),
            initial_weights=start,
            moments="diagonal",
        )
        for decay in DECAYS
    )
    return SimulationSet(labels=tuple(f"η × {decay:g}" for decay in DECAYS), simulations=simulations)


@dataclass(frozen=True)
class Path:
    """Variances and means of every direction at the recorded times, each ``(T, m)``."""

    variances: NDArray[np.float64]
    means: NDArray[np.float64]


def decay_path(simulation: Simulation) -> Path:
    """(T1), exact: the prediction."""
    law = law_of(simulation)
    return Path(np.einsum("tii->ti", law.covariances), law.means)


def _settled_at_once(simulation: Simulation) -> Path:
    """The stationary variance of the new learning rate from step 1 on."""
    exact = decay_path(simulation)
    end = stationary_variance(simulation.segments[1].problem or simulation.problem, simulation.segments[1].optimizer)
    return replace(exact, variances=np.vstack([exact.variances[:1], np.tile(end, (len(exact.variances) - 1, 1))]))


def _interpolated(simulation: Simulation, rate: Callable[[Quadratic, MomentumSGD], NDArray[np.float64]]) -> Path:
    exact = decay_path(simulation)
    changed, after = simulation.segments[1].problem or simulation.problem, simulation.segments[1].optimizer
    end = stationary_variance(changed, after)
    steps = np.array(simulation.record_times, dtype=np.float64)[:, None] - SETTLING
    kept = np.abs(rate(changed, after)) ** (2 * steps)
    return replace(exact, variances=kept * exact.variances[0] + (1 - kept) * end)


def _spectral_interpolation(simulation: Simulation) -> Path:
    """The paper's (T2) with ρ the spectral radius of the new transition."""
    return _interpolated(simulation, lambda problem, optimizer: modes(problem.hessian, optimizer).spectral_radius)


def _drift_interpolation(simulation: Simulation) -> Path:
    """The paper's (T2) with ρ = 1 − η₂λ/(1−μ)."""

    def rate(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
        return 1 - np.minimum(optimizer.learning_rate * problem.hessian / (1 - optimizer.momentum), 1.0)

    return _interpolated(simulation, rate)


def _position_form(simulation: Simulation) -> Path:
    """The textbook convention, whose displacement keeps its old size across the change."""
    segments = tuple(replace(s, optimizer=replace(s.optimizer, form="position")) for s in simulation.segments)
    return decay_path(replace(simulation, segments=segments))


def _spike_forgotten(simulation: Simulation) -> Path:
    """The learning rate alone changes."""
    return decay_path(replace(simulation, segments=tuple(replace(s, problem=None) for s in simulation.segments)))


def _compare_decay(evidence: Mapping[str, Evidence], predictor: Predictor) -> Comparison:
    found = evidence["bound-after-decay"]
    settings = set_of(found)
    p_values, ratios, degrees = [], [], 1.0
    measured: list[Path] = []
    for index, simulation in enumerate(settings.simulations):
        m, replicas = simulation.problem.dimension, simulation.replicas
        predicted: Path = predictor(simulation)
        means = found.arrays[f"mean_{index}"][:, :m]
        raw = found.arrays[f"second_{index}"][:, :m]
        degrees = float(replicas - 1)
        variances = (raw - means**2) * (replicas / degrees)
        measured.append(Path(variances, means))
        ratios.append((variances / predicted.variances).ravel())
        p_values.append(variance_p_value(ratios[-1], degrees))
        p_values.append(normal_p_value((means - predicted.means) / np.sqrt(variances / replicas)).ravel())
    results: tuple[Result, ...] = ()
    if predictor is decay_path:
        courses = _decay_courses(settings, measured)
        results = (*courses, *_decay_maps(), *_decay_tables(settings, measured))
    return comparison(
        np.concatenate(ratios),
        degrees,
        np.concatenate(p_values),
        note="the bound dips while σ² falls toward σ*² = 1/(1/σ_P² + λ/β), rises once below it",
        results=results,
    )


def bound_along(
    simulation: Simulation,
    path: Path,
    group: int,
    prior_variance: float,
    samples: int,
    curvatures: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seeger's bound of one group of directions at the recorded times, and 1 s.e. from sampled variances.

    `curvatures` defaults to those after the decay, so that the first time shows the old posterior in the new landscape.
    """
    block = slice(group * len(CURVATURES), (group + 1) * len(CURVATURES))
    if curvatures is None:
        curvatures = problem_at(simulation, SETTLING).hessian
    anchor = _start(simulation)[block]
    return bound_and_error(
        curvatures[block],
        path.variances[:, block],
        path.means[:, block],
        anchor,
        prior_variance=prior_variance,
        samples=samples,
        degrees=simulation.replicas - 1,
    )


def bound_and_error(
    curvatures: NDArray[np.float64],
    variances: NDArray[np.float64],
    means: NDArray[np.float64],
    anchor: NDArray[np.float64],
    *,
    prior_variance: float,
    samples: int,
    degrees: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seeger's bound on the clipped loss, row by row, and 1 s.e. if each variance was sampled with `degrees`.

    Args:
        curvatures: λ, shape ``(m,)``, or one row a posterior, ``(T, m)``.
        variances: σ², shape ``(T, m)``.
        means: posterior means, shape ``(T, m)``.
        anchor: prior mean, shape ``(m,)``.
        prior_variance: σ_P².
        samples: n.
        degrees: ν of each variance.
    """
    rows = [
        pac_bayes_terms(curvature, sigma, prior_variance=prior_variance, mean=mean, prior_mean=anchor)
        for curvature, sigma, mean in zip(np.broadcast_to(curvatures, variances.shape), variances, means, strict=True)
    ]
    risk = np.minimum([row.expected_risk for row in rows], 1.0)
    kl = np.array([row.kl for row in rows])
    bound = clipped_bound(risk, kl, samples)
    # dB = (dB/dr) Σ [½λσ² + ½β(σ²/σ_P² − 1)] d ln σ², and d ln σ² has variance 2/ν.
    slopes = np.array([row.curvature_times_variance for row in rows])
    ratios = np.array([row.variance_ratio for row in rows])
    slopes = 0.5 * (slopes + np.reshape(bound.kl_price, (-1, 1)) * (ratios - 1.0))
    step = 1e-4
    per_risk = (clipped_bound(np.minimum(risk + step, 1.0), kl, samples).value - bound.value) / step
    return np.asarray(bound.value), per_risk * np.sqrt(2.0 / degrees * np.sum(slopes**2, axis=1))


def clipped_bound(risk: NDArray[np.float64], kl: NDArray[np.float64], samples: int) -> PacBayesBound:
    """Seeger's bound at δ = 0.05 on the loss clipped at 1."""
    return pac_bayes_bound(risk, kl, num_samples=samples, delta=DELTA, loss=CLIPPED, prior=PRIOR)


def _course(before: float, values: NDArray[np.float64], noise: float) -> str:
    """What a bound did at and after the decay; differences below `noise` are ignored."""
    first, last, low, high = values[0], values[-1], float(values.min()), float(values.max())
    if low < first - noise and low < last - noise:
        course = "dips, rises"
    elif high > first + noise and high > last + noise:
        course = "rises, falls"
    else:
        course = "falls" if last < first - noise else "rises" if last > first + noise else "stays"
    jump = "jumps, " if first > before + noise else "drops, " if first < before - noise else ""
    net = "lower" if last < before - noise else "higher" if last > before + noise else "where it was"
    return f"{jump}{course}; ends {net}"


def _decay_tables(settings: SimulationSet, measured: list[Path]) -> tuple[Table, ...]:
    rows = []
    for simulation, path, decay in zip(settings.simulations, measured, DECAYS, strict=True):
        predicted = decay_path(simulation)
        for group, (curvature, noise) in enumerate(SPIKES):
            for ratio in PRIOR_RATIOS:
                for samples in SAMPLES:
                    prior = ratio * LEVEL
                    exact, _ = bound_along(simulation, predicted, group, prior, samples)
                    seen, error = bound_along(simulation, path, group, prior, samples)
                    flat = simulation.problem.hessian
                    old, _ = bound_along(simulation, predicted, group, prior, samples, flat)
                    old_seen, _ = bound_along(simulation, path, group, prior, samples, flat)
                    tolerance = normal_quantile(TEST_ALPHA) * float(error.max())
                    rows.append(
                        (
                            decay,
                            curvature,
                            noise,
                            ratio,
                            samples,
                            float(old[0]),
                            float(exact[0]),
                            float(exact.min()),
                            float(exact[-1]),
                            _course(float(old[0]), exact, tolerance),
                            _course(float(old_seen[0]), seen, tolerance),
                        )
                    )
    return (
        Table(
            title="When the bound dips after a decay, and when it rises",
            columns=(
                "η₂/η₁",
                "λ ×",
                "γ ×",
                "σ_P²/σ²",
                "n",
                "bound before",
                "step 0",
                "lowest",
                "step 300",
                "course, predicted",
                "course, simulated",
            ),
            rows=tuple(rows),
            caption="Seeger's bound, loss clipped at 1, prior at the start of the run, its variance relative to the "
            "stationary variance before the decay. Step 0 is the old posterior under the new curvature: a spike of λ "
            "lifts the risk there at once. Differences within the simulation's own error count as none.",
        ),
    )


def _decay_courses(settings: SimulationSet, measured: list[Path]) -> tuple[TimeCourse, ...]:
    simulation, path = settings.simulations[0], measured[0]
    fine = np.union1d([SETTLING + k for k in (*range(61), *range(65, 301, 5))], simulation.record_times)
    smooth = replace(simulation, record_times=tuple(int(t) for t in fine))
    exact = decay_path(smooth)
    z = normal_quantile(TEST_ALPHA)

    def pair(group: int, ratio: float, subject: str) -> tuple[Curve, Curve]:
        values, _ = bound_along(smooth, exact, group, ratio * LEVEL, SAMPLES[0])
        seen, error = bound_along(simulation, path, group, ratio * LEVEL, SAMPLES[0])
        at = np.asarray(simulation.record_times) - SETTLING
        return shown.predicted(fine - SETTLING, values, subject), shown.measured(at, seen, z * error, subject)

    def course(by: str, curves: list[Curve], caption: str) -> TimeCourse:
        return TimeCourse(
            title=f"The bound after η × 0.1, by {by}",
            sample=Sample(simulation.replicas, f"replicas; bound for {SAMPLES[0]} samples"),
            x=shown.SINCE_CHANGE,
            y=Axis("Seeger's bound"),
            curves=tuple(curves),
            decays=(0.0,),
            caption=caption,
        )

    by_prior = [one for ratio in PRIOR_RATIOS for one in pair(0, ratio, f"prior variance {ratio:g} σ²")]
    by_spike = [one for group, (s, t) in enumerate(SPIKES) for one in pair(group, 1.0, f"λ × {s:g}, γ × {t:g}")]
    tightens = "No spike. While σ² is above σ*² shrinking tightens the bound, below it loosens."
    return (
        course("prior variance", by_prior, tightens),
        course("spike of curvature and noise", by_spike, "σ_P² equal to the variance before the decay."),
    )


def _decay_maps() -> tuple[HeatMap, ...]:
    """Closed form: net change and dip of the bound over prior variance, decay size and spike size."""
    ratios, decays = np.geomspace(0.03, 30.0, 19), np.geomspace(0.05, 0.8, 13)
    spikes = np.geomspace(1.0, 8.0, 13)
    samples = SAMPLES[0]

    def changes(decay: float, spike: float) -> tuple[NDArray, NDArray]:
        """ln(end / before) and ln(end / lowest on the way), over the prior ratios."""
        first, second = decay_problem(((spike, spike),))
        after = decayed(decay)
        steps = [0, 2, 5, 10, 20, 40, 80, 160, 400, 10**6]
        moved = transient_covariance(first, BEFORE, after, steps, problem_after=second)
        sigma = np.einsum("kii->ki", moved.require())
        sigma = np.vstack([sigma[:1], sigma])  # the last law of the old landscape comes first
        curvature = np.vstack([first.hessian[None], np.tile(second.hessian, (len(steps), 1))])
        risk = np.minimum(0.5 * np.sum(curvature * sigma, axis=1), 1.0)
        kl = 0.5 * np.sum(variance_excess(sigma[None], ratios[:, None, None] * LEVEL), axis=2)
        values = np.log(np.asarray(clipped_bound(np.tile(risk, (len(ratios), 1)), kl, samples).value))
        return values[:, -1] - values[:, 0], values[:, -1] - values.min(axis=1)

    net = [changes(float(decay), 1.0)[0] for decay in decays]
    later = [changes(0.1, float(spike)) for spike in spikes]

    def chart(
        title: str, y: str, rows: NDArray, cells: list[NDArray], value: str, caption: str, center: float | None = 0.0
    ) -> HeatMap:
        return HeatMap(
            title=title,
            sample=EXACT,
            x=Axis("prior variance over the variance before the decay"),
            y=Axis(y),
            value=Axis(value),
            columns=tuple(map(float, ratios)),
            rows=tuple(map(float, rows)),
            cells=tuple(tuple(map(float, row)) for row in cells),
            center=center,
            contour=center,
            caption=f"Bound for {samples} samples; {caption}",
        )

    ended, spiked = "ln(bound after / before)", "spike of λ and of γ"
    return (
        chart("Where a decay tightens the bound", "η₂/η₁", decays, net, ended, "no spike, long after the decay."),
        chart(
            "Where a spike undoes the decay",
            spiked,
            spikes,
            [row[0] for row in later],
            ended,
            "η × 0.1, λ and γ spike by the same factor, long after the decay.",
        ),
        chart(
            "Where the bound dips before it rises",
            spiked,
            spikes,
            [row[1] for row in later],
            "ln(bound in the end / lowest on the way)",
            "η × 0.1. Zero where the bound ends at its lowest.",
            center=None,
        ),
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="bound-decomposition",
        title="mean and covariance of weights started at one point, H and C in unrelated bases",
        setting=_decomposition_setting,
        run=run_set,
    ),
    Experiment(
        name="bound-after-decay",
        title="weights after a decay of the learning rate, with and without spikes of curvature and noise",
        setting=_decay_setting,
        run=run_set,
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="bound-decomposition",
        statement="risk = ½Σλσ² + ½Σλm², KL = ½Σ(σ²/σ_P² − 1 − ln σ²/σ_P²) + ½Σ(m−m_P)²/σ_P² − ½ ln det R, at any step",
        source="Xu and Zhang, arXiv 2410.07719, Lemma 3.4 and Theorem 3.7; correlations (S3): own derivation",
        kind=Kind.IDENTITY,
        experiments=("bound-decomposition",),
        assumptions=ASSUMED,
        predict=decomposition,
        decoys={
            "correlations left out of the KL": _without_correlations,
            "the half of the quadratic lost": _without_half,
            "the mean left out": _without_mean,
            "continuous-time variance": _continuous_time,
        },
        compare=_compare_decomposition,
        num_tests=42,
        detects=DETECTS,
    ),
    Claim(
        name="bound-transient",
        statement="after a decay the bound follows from the exact transient: it falls while σ² > σ*², rises below",
        source="(T1) and (B1), own derivation; the early-phase interpolation of Theorem 4.7 is a decoy",
        kind=Kind.IDENTITY,
        experiments=("bound-after-decay",),
        assumptions=ASSUMED,
        predict=decay_path,
        decoys={
            "settled at once": _settled_at_once,
            "interpolation at the spectral radius": _spectral_interpolation,
            "interpolation at 1 − ηλ/(1−μ)": _drift_interpolation,
            "position form": _position_form,
            "spike forgotten": _spike_forgotten,
        },
        compare=_compare_decay,
        num_tests=480,
        detects=DETECTS,
    ),
)
