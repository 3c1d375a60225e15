r"""Claims about what follows a change: exact transients, schedules, the early-phase interpolation, what breaks them.

Everything is simulated from rest at w = v = 0, through a stretch at the first rate, then through the change; the
prediction is the exact finite-time law of that very run, so that no burn-in has to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims import shown
from theory.claims.drops import (
    DETECTS,
    Law,
    compare_laws,
    comparing_with_assumption,
    comparison,
    directions,
    drop,
    drop_course,
    exact_law,
    law_tests,
    mode_label,
    replicas,
    seen_law,
    seen_moments,
)
from theory.claims.interpolation import CLAIMS as INTERPOLATION_CLAIMS
from theory.claims.interpolation import EXPERIMENTS as INTERPOLATION_EXPERIMENTS
from theory.claims.moments import Tests, simulation_experiment, simulation_of
from theory.claims.single_run import CLAIMS as SINGLE_RUN_CLAIMS
from theory.claims.single_run import EXPERIMENTS as SINGLE_RUN_EXPERIMENTS
from theory.closed_form.attribution import Attribution, attribution
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.closed_form.transient import mean_path
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment
from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Curve, Result, Table, TimeCourse
from theory.judge.statistics import normal_p_value, normal_quantile
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.simulate import Segment, Simulation

OWN = "own derivation from the two-step recursion"
PAPER = "Xu and Zhang (arXiv 2410.07719), Theorem 4.7"
ASSUMED = ("quadratic loss", "noise of mean 0 and covariance C, independent over time", "both momentum forms as named")

MOMENTUM = 0.9
BEFORE, AFTER = MomentumSGD(0.1, MOMENTUM), MomentumSGD(0.01, MOMENTUM)
#: ηλ at which the two roots coincide.
CRITICAL = (1 - MOMENTUM**0.5) ** 2
#: Steps at 0.1 before the drop: 0.9⁸⁰ = 2e-4 of the start is left in a variance.
BURN_IN = 80
STEPS = (-40, -10, 0, 1, 2, 5, 10, 20, 40, 80, 120)

# ---------------------------------------------------------------------------------------------------------------------
# Experiments


def _drop_problem() -> Quadratic:
    """Slow, critical and underdamped modes after the drop, with a C that commutes with none of them."""
    curvatures = np.array([5e-4, CRITICAL, 0.01, 0.2]) / AFTER.learning_rate
    return Quadratic.from_spectra(curvatures, np.array([1.0, 0.2, 3.0, 0.5]), rotation=0.6)


def _pytorch(budget: str) -> Simulation:
    return drop(_drop_problem(), BEFORE, AFTER, burn_in=BURN_IN, steps=STEPS, count=replicas(budget))


def _position(budget: str) -> Simulation:
    one, two = replace(BEFORE, form="position"), replace(AFTER, form="position")
    return drop(_drop_problem(), one, two, burn_in=BURN_IN, steps=STEPS, count=replicas(budget))


def _nesterov(budget: str) -> Simulation:
    """Nesterov with weight decay, the rate and the coefficient of the decay changed at once."""
    problem = Quadratic.from_spectra([0.5, 8.0], [1.0, 0.3], rotation=0.5)
    one = MomentumSGD(0.05, 0.8, nesterov=True, weight_decay=0.1)
    two = MomentumSGD(0.01, 0.8, nesterov=True, weight_decay=0.3)
    return drop(problem, one, two, burn_in=40, steps=(0, 1, 3, 10, 40), count=replicas(budget))


def _everything(budget: str) -> Simulation:
    """Rate, momentum, dampening, H and C change together; both Hessians are dense and do not commute."""
    turn = _rotation(3, 0.4)
    later = _rotation(3, 1.1)
    one = Quadratic((turn * [0.5, 3.0, 10.0]) @ turn.T, np.diag([1.0, 0.4, 2.0]))
    two = Quadratic((later * [1.0, 4.0, 20.0]) @ later.T, (turn * [3.0, 1.0, 0.5]) @ turn.T)
    return drop(
        one,
        MomentumSGD(0.1, 0.8, dampening=0.3),
        MomentumSGD(0.02, 0.9, dampening=0.1),
        burn_in=60,
        steps=(0, 1, 3, 10, 40),
        count=replicas(budget),
        problem_after=two,
    )


def _rotation(size: int, angle: float) -> NDArray[np.float64]:
    rotation = np.eye(size)
    for first in range(size - 1):
        turn = np.eye(size)
        turn[first : first + 2, first : first + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        rotation = rotation @ turn
    return rotation


def _kicked(form: str) -> Callable[[str], Simulation]:
    """Released at w = (1, …, 1) with little noise, the rate dropping after 12 steps."""

    def setting(budget: str) -> Simulation:
        problem = Quadratic.from_spectra(np.array([5e-4, CRITICAL, 0.01, 0.2]) / 0.01, 1e-3 * np.ones(4), rotation=0.6)
        one, two = (replace(optimizer, form=form) for optimizer in (BEFORE, AFTER))
        setting = drop(problem, one, two, burn_in=12, steps=(0, 1, 2, 5, 10, 20, 40), count=20_000)
        count = setting.replicas if budget == "default" else 8 * setting.replicas
        return replace(setting, initial_weights=np.ones(4), replicas=count)

    return setting


def _scheduled(schedule: Schedule, length: int) -> Callable[[str], Simulation]:
    """Along a path of distinct rates, from the state that 60 steps at its first rate leave; C does not commute."""

    def setting(budget: str) -> Simulation:
        problem = Quadratic.from_spectra([0.3, 2.0, 15.0], [1.0, 0.3, 2.0], rotation=0.6)
        rates = schedule.rates(length)
        return Simulation(
            problem=problem,
            segments=(
                Segment(optimizer=MomentumSGD(float(rates[0]), MOMENTUM), steps=60),
                Segment(optimizer=MomentumSGD(float(rates[0]), MOMENTUM), steps=length, learning_rates=rates),
            ),
            replicas=replicas(budget),
            record_times=tuple(60 + int(k) for k in np.linspace(0, length, 9)),
        )

    return setting


_BREAK_PROBLEM = Quadratic(np.array([CRITICAL, 0.01, 0.2]) / AFTER.learning_rate, np.array([1.0, 0.3, 2.0]))
_BREAK_STEPS = (0, 1, 2, 5, 10, 20, 40, 80)
#: Factor by which the noise (or the curvature) rises at the drop, as large as is reported after decays.
SPIKE = 4.0
#: Steps over which the ramp reaches it.
RAMP = 40


def _jump(budget: str) -> Simulation:
    louder = Quadratic(_BREAK_PROBLEM.hessian, SPIKE * _BREAK_PROBLEM.noise_cov)
    return drop(
        _BREAK_PROBLEM,
        BEFORE,
        AFTER,
        burn_in=BURN_IN,
        steps=_BREAK_STEPS,
        count=replicas(budget),
        problem_after=louder,
    )


def ramp_factors(length: int) -> NDArray[np.float64]:
    """c_t of the ramp after the drop: 1 to `SPIKE` in `RAMP` equal increments, then constant."""
    return 1.0 + (SPIKE - 1.0) * np.minimum((1.0 + np.arange(length)) / RAMP, 1.0)


def _ramp(budget: str) -> Simulation:
    factors = ramp_factors(RAMP)
    segments = [Segment(optimizer=BEFORE, steps=BURN_IN)]
    for index, factor in enumerate(factors):
        louder = Quadratic(_BREAK_PROBLEM.hessian, factor * _BREAK_PROBLEM.noise_cov)
        rest = max(_BREAK_STEPS) - RAMP if index == RAMP - 1 else 0
        segments.append(Segment(optimizer=AFTER, steps=1 + rest, problem=louder))
    return Simulation(
        problem=_BREAK_PROBLEM,
        segments=tuple(segments),
        replicas=replicas(budget),
        record_times=tuple(BURN_IN + k for k in _BREAK_STEPS),
        moments="diagonal",
    )


def _curved(budget: str) -> Simulation:
    """The curvature rises by `SPIKE` at the drop."""
    sharper = Quadratic(SPIKE * _BREAK_PROBLEM.hessian, _BREAK_PROBLEM.noise_cov)
    return drop(
        _BREAK_PROBLEM,
        BEFORE,
        AFTER,
        burn_in=BURN_IN,
        steps=_BREAK_STEPS,
        count=replicas(budget),
        problem_after=sharper,
    )


def _from_unstable(budget: str) -> Simulation:
    """25 steps at a rate that is unstable in the sharpest mode (ηλ = 4 > 3.8), then the drop."""
    problem = Quadratic(np.array([0.01, 0.1, 0.4]) / AFTER.learning_rate, np.array([1.0, 0.3, 2.0]))
    return drop(problem, BEFORE, AFTER, burn_in=25, steps=_BREAK_STEPS, count=replicas(budget))


def _to_unstable(budget: str) -> Simulation:
    """From the small rate up to the unstable one, for 25 steps."""
    problem = Quadratic(np.array([0.01, 0.1, 0.4]) / AFTER.learning_rate, np.array([1.0, 0.3, 2.0]))
    return drop(problem, AFTER, BEFORE, burn_in=BURN_IN, steps=(0, 1, 2, 5, 10, 20, 25), count=replicas(budget))


def _remembering(autocorrelation: float) -> Callable[[str], Simulation]:
    def setting(budget: str) -> Simulation:
        return drop(
            _BREAK_PROBLEM,
            BEFORE,
            AFTER,
            burn_in=BURN_IN,
            steps=_BREAK_STEPS,
            count=replicas(budget),
            autocorrelation=autocorrelation,
        )

    return setting


def _staircase(budget: str) -> Simulation:
    """One cause after another, each left to settle: the rate to a tenth, the noise × 3, the curvature × 5."""
    flat = Quadratic(np.array([1.0, 3.0, 15.0]), np.array([1.0, 0.3, 2.0]))
    louder = Quadratic(flat.hessian, 3.0 * flat.noise_cov)
    sharper = Quadratic(5.0 * flat.hessian, louder.noise_cov)
    stages = ((BEFORE, flat), (AFTER, flat), (AFTER, louder), (AFTER, sharper))
    return Simulation(
        problem=flat,
        segments=tuple(Segment(optimizer=optimizer, steps=110, problem=problem) for optimizer, problem in stages),
        replicas=2 * replicas(budget),
        record_times=(110, 220, 330, 440),
        moments="diagonal",
    )


EXPERIMENTS: tuple[Experiment, ...] = (
    simulation_experiment("drop-pytorch", "η 0.1 → 0.01 at μ = 0.9, PyTorch form, C and H do not commute", _pytorch),
    simulation_experiment("drop-position", "the same drop in the position form", _position),
    simulation_experiment("drop-nesterov", "Nesterov, weight decay changed at the drop", _nesterov),
    simulation_experiment("drop-everything", "rate, momentum, dampening, H and C change at once", _everything),
    simulation_experiment("kicked-pytorch", "released away from the optimum, PyTorch form", _kicked("pytorch")),
    simulation_experiment("kicked-position", "released away from the optimum, position form", _kicked("position")),
    simulation_experiment(
        "schedule-cosine", "a cosine of 160 distinct rates", _scheduled(Schedule.cosine(0.1, 170, end=1e-3), 160)
    ),
    simulation_experiment(
        "schedule-restarts",
        "warm restarts, periods 40 and 80",
        _scheduled(Schedule.warm_restarts(0.1, 40, 2, 1e-3), 120),
    ),
    simulation_experiment("noise-jump", "the noise jumps by 4 at the drop", _jump),
    simulation_experiment("noise-ramp", "the noise rises by 4 over 40 steps after the drop", _ramp),
    simulation_experiment("curvature-jump", "the curvature jumps by 4 at the drop", _curved),
    simulation_experiment("drop-from-unstable", "a drop from an unstable rate", _from_unstable),
    simulation_experiment("rise-to-unstable", "a rise to an unstable rate", _to_unstable),
    simulation_experiment("noise-persistent", "noise with autocorrelation 0.5 over time", _remembering(0.5)),
    simulation_experiment("noise-anticorrelated", "noise with autocorrelation −0.5 over time", _remembering(-0.5)),
    simulation_experiment("staircase", "learning rate, noise and curvature changed one after another", _staircase),
    *INTERPOLATION_EXPERIMENTS,
    *SINGLE_RUN_EXPERIMENTS,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Predictors that are wrong on purpose


def _with_optimizers(simulation: Simulation, **changes: Any) -> Simulation:
    segments = (replace(s, optimizer=replace(s.optimizer, **changes)) for s in simulation.segments)
    return replace(simulation, segments=tuple(segments))


def _other_form(simulation: Simulation) -> NDArray[np.float64]:
    """The other form's weights, with v expressed in this form's units."""
    form = simulation.segments[0].optimizer.form
    if simulation.segments[0].optimizer.nesterov or any(s.learning_rates is not None for s in simulation.segments):
        return exact_law(simulation)
    other = exact_law(_with_optimizers(simulation, form="position" if form == "pytorch" else "pytorch"))
    m = simulation.problem.dimension
    ends = np.cumsum([segment.steps for segment in simulation.segments])
    scaled = np.array(other)
    for index, time in enumerate(simulation.record_times):
        rate = simulation.segments[int(np.searchsorted(ends, time))].optimizer.learning_rate
        factor = -1 / rate if form == "pytorch" else -rate
        scaled[index, m:, :] *= factor
        scaled[index, :, m:] *= factor
    return scaled


def _diagonal_noise(simulation: Simulation) -> NDArray[np.float64]:
    """As if C were diagonal in H's eigenbasis: no covariance between modes."""
    frame = directions(simulation)
    seen = seen_law(simulation, exact_law)
    m = simulation.problem.dimension
    kept = np.kron(np.ones((2, 2)), np.eye(m))
    return frame.T @ (seen * kept) @ frame


def _memoryless(simulation: Simulation) -> NDArray[np.float64]:
    """Stationary at the new rate from the first step after the change: σ₂² at once."""
    problem = simulation.problem
    law = np.array(exact_law(simulation))
    begun = 0
    for segment in simulation.segments:
        problem = segment.problem or problem
        for index, time in enumerate(simulation.record_times):
            if begun < time <= begun + segment.steps and begun > 0:
                law[index] = stationary_covariance(problem, _at(segment, time - begun)).state()
        begun += segment.steps
    return law


def _at(segment: Segment, step: int) -> MomentumSGD:
    if segment.learning_rates is None:
        return segment.optimizer
    return replace(segment.optimizer, learning_rate=float(segment.learning_rates[step - 1]))


def _average_rate(simulation: Simulation) -> NDArray[np.float64]:
    """The path replaced by its average rate."""
    segments = []
    for s in simulation.segments:
        if s.learning_rates is not None:
            s = Segment(optimizer=replace(s.optimizer, learning_rate=float(s.learning_rates.mean())), steps=s.steps)
        segments.append(s)
    return exact_law(replace(simulation, segments=tuple(segments)))


def _late_by_one(simulation: Simulation) -> NDArray[np.float64]:
    """Every rate applied one step late: an off-by-one in the schedule."""
    segments = []
    for s in simulation.segments:
        rates = s.learning_rates
        segments.append(s if rates is None else replace(s, learning_rates=np.concatenate([rates[:1], rates[:-1]])))
    return exact_law(replace(simulation, segments=tuple(segments)))


def _more_noise(factor: float) -> Law:
    """C larger by a factor, in every segment."""

    def law(simulation: Simulation) -> NDArray[np.float64]:
        return factor * exact_law(simulation)

    return law


def _initial_problem_throughout(simulation: Simulation) -> NDArray[np.float64]:
    """H and C as before the change."""
    segments = tuple(replace(segment, problem=None) for segment in simulation.segments)
    return exact_law(replace(simulation, segments=segments))


def _last_problem_at_once(simulation: Simulation) -> NDArray[np.float64]:
    """H and C as at the end, from the change on: a jump in place of a ramp."""
    final = [segment.problem for segment in simulation.segments if segment.problem is not None][-1]
    segments = (simulation.segments[0], *(replace(segment, problem=final) for segment in simulation.segments[1:]))
    return exact_law(replace(simulation, segments=segments))


def _ramp_law(simulation: Simulation) -> NDArray[np.float64]:
    """Noise that drifts: propagation with a factor for every step (T3) where it ramps, powers (T1) where it jumps."""
    if len(simulation.segments) == 2:
        return exact_law(simulation)
    first = simulation.segments[0]
    start = replace(simulation, segments=(first,), record_times=(first.steps,))
    times = np.asarray(simulation.record_times)
    steps = np.union1d(times[times > first.steps] - first.steps, [simulation.steps - first.steps])
    begin = exact_law(start)[0]
    path = propagate(
        simulation.problem,
        AFTER,
        Schedule.constant(AFTER.learning_rate),
        steps,
        begin,
        noise_factors=ramp_factors(int(steps[-1])),
    ).state()
    before = times <= first.steps
    if not before.any():
        return path[np.isin(steps + first.steps, times)]
    early = exact_law(replace(start, record_times=tuple(int(t) for t in times[before])))
    return np.concatenate([early, path[np.isin(steps + first.steps, times)]])


def _from_rest_at_the_change(simulation: Simulation) -> NDArray[np.float64]:
    """The state forgotten at the change: M₀ = 0."""
    law = np.array(exact_law(simulation))
    first, *rest = simulation.segments
    times = [t - first.steps for t in simulation.record_times if t > first.steps]
    later = replace(simulation, segments=tuple(rest), record_times=tuple(times))
    if rest[0].problem is None:
        later = replace(later, problem=simulation.problem)
    law[len(law) - len(times) :] = exact_law(later)
    return law


def _white(simulation: Simulation) -> NDArray[np.float64]:
    """Noise independent over time."""
    return exact_law(replace(simulation, noise_autocorrelation=0.0))


def _white_at_effective_level(simulation: Simulation) -> NDArray[np.float64]:
    """White noise of the spectrum at frequency 0, (1+φ)/(1−φ) C: right for flat modes alone."""
    phi = simulation.noise_autocorrelation
    return (1 + phi) / (1 - phi) * _white(simulation)


# ---------------------------------------------------------------------------------------------------------------------
# Mean path


def mean_along(simulation: Simulation) -> NDArray[np.float64]:
    """E (w, v) at the record times, ``(T, 2m)``: mean paths chained over the segments."""
    m = simulation.problem.dimension
    if simulation.initial_weights is None:
        raise ValueError("`mean_along(simulation=...)` needs initial weights; got None.")
    state = np.concatenate([simulation.initial_weights, np.zeros(m)])
    times, found, begun = np.asarray(simulation.record_times), [], 0
    for segment in simulation.segments:
        inside = times[(times > begun) & (times <= begun + segment.steps)] - begun
        steps = np.union1d(inside, [segment.steps])
        path = mean_path(segment.problem or simulation.problem, segment.optimizer, state, steps)
        found.append(path[np.isin(steps, inside)])
        state, begun = path[-1], begun + segment.steps
    return np.concatenate(found)


def _mean_other_form(simulation: Simulation) -> NDArray[np.float64]:
    form = simulation.segments[0].optimizer.form
    other = mean_along(_with_optimizers(simulation, form="position" if form == "pytorch" else "pytorch"))
    m = simulation.problem.dimension
    other[:, m:] = np.nan  # v has other units: only w is compared
    return other


def _mean_plain(simulation: Simulation) -> NDArray[np.float64]:
    """Plain gradient descent at η/(1−μ): the small-step limit."""
    segments = tuple(
        replace(
            s,
            optimizer=MomentumSGD(s.optimizer.learning_rate / (1 - s.optimizer.momentum), form=s.optimizer.form),
        )
        for s in simulation.segments
    )
    path = mean_along(replace(simulation, segments=segments))
    path[:, simulation.problem.dimension :] = np.nan
    return path


def _mean_no_drop(simulation: Simulation) -> NDArray[np.float64]:
    """The first rate throughout."""
    first = simulation.segments[0].optimizer
    segments = tuple(replace(segment, optimizer=first) for segment in simulation.segments)
    return mean_along(replace(simulation, segments=segments))


def compare_means(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Every mean of (w, v) at every recorded time. `predict` maps a Simulation to ``(T, 2m)``; NaN is not tested.

    The error of a mean is √(measured variance/R). Degrees of freedom 2 (mean/error)² are counted where a direction is
    seen best, since a path that crosses zero has no relative error there.
    """
    p_values, reached, worst = [], [], (0.0, 0.0, np.inf)
    courses = []
    for item in evidence.values():
        simulation = simulation_of(item)
        frame = directions(simulation)
        m = simulation.problem.dimension
        turn = frame[:m, :m]  # block by block, so that what is unknown of v leaves w known
        expected = np.hstack([part @ turn.T for part in np.hsplit(predict(simulation), 2)])
        found = item.arrays["mean"] @ frame.T
        spread = np.einsum("kii->ki", seen_moments(item)) - found**2
        error = np.sqrt(spread / simulation.replicas)
        known = ~np.isnan(expected)
        z = (found - np.where(known, expected, 0.0)) / error
        p_values.append(normal_p_value(z[known]))
        reached.append(float((2 * (found / error) ** 2).max(axis=0).min()))
        scale = np.abs(found).max(axis=0)
        relative = np.where(known, np.abs(found - np.where(known, expected, 0.0)) / scale, 0.0)
        at = np.unravel_index(int(np.argmax(np.where(known, np.abs(z), 0.0))), z.shape)
        half = normal_quantile(TEST_ALPHA) * error[at] / scale[at[1]]
        if p_values[-1].min() <= worst[2]:
            worst = (float(relative[at]), float(half), float(p_values[-1].min()))
        courses.append(_mean_course(item, found, error, predict))
    joined = np.concatenate(p_values)
    return Comparison(
        estimate=worst[0],
        interval=(worst[0] - worst[1], worst[0] + worst[1]),
        p_value=float(joined.min()),
        num_tests=len(joined),
        reached=min(reached),
        note="error of the worst mean as a share of its largest value along the path",
        results=tuple(courses),
    )


def _mean_course(item: Evidence, found: NDArray, error: NDArray, predict: Law) -> TimeCourse:
    simulation = simulation_of(item)
    began, m = simulation.segments[0].steps, simulation.problem.dimension
    first, last = simulation.record_times[0], simulation.record_times[-1]
    dense = replace(simulation, record_times=tuple(range(first, last + 1)))
    line = predict(dense)[:, :m] @ directions(simulation)[:m, :m].T
    at, x = np.asarray(simulation.record_times) - began, np.arange(first, last + 1) - began
    half = normal_quantile(TEST_ALPHA) * error
    curves: list[Curve] = []
    for mode in range(m):
        name = mode_label(simulation, mode)
        curves += [shown.predicted(x, line[:, mode], name), shown.measured(at, found[:, mode], half[:, mode], name)]
    return TimeCourse(
        title=f"Mean path: {item.experiment}",
        sample=shown.replicas((item,)),
        x=shown.SINCE_CHANGE,
        y=Axis("mean along the eigenvector"),
        curves=tuple(curves),
        decays=(0.0,),
        caption=f"Released {began} steps before the drop; predicted: Fᵏ m₀.",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Convention gap


#: The mode in which the forms are shown to part: ηλ = 0.01 after the drop.
_SHOWN = 2


def compare_conventions(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Both forms, each against its own law; the table holds the variance ratios that tell them apart."""
    tests = Tests.join([law_tests(item, predict) for item in evidence.values()])
    m = _drop_problem().dimension
    measured, predicted = {}, {}
    for name, item in evidence.items():
        simulation = simulation_of(item)
        found = np.einsum("kii->ki", seen_moments(item))[:, :m]
        law = np.einsum("kii->ki", seen_law(simulation, predict))[:, :m]
        measured[name], predicted[name] = found / found[STEPS.index(0)], law / law[STEPS.index(0)]
    rows = [
        (
            round(float(a), 6),
            k,
            *(float(x) for name in evidence for x in (predicted[name][index, mode], measured[name][index, mode])),
        )
        for mode, a in enumerate(0.01 * np.asarray(_drop_problem().hessian))
        for index, k in enumerate(STEPS)
        if k in (2, 5, 10, 20)
    ]
    columns = ("ηλ after", "k", *(f"{name[5:]} {word}" for name in evidence for word in ("predicted", "measured")))
    table = Table(
        title="Variance k steps after η 0.1 → 0.01, over the variance before",
        columns=columns,
        rows=tuple(rows),
        caption="The PyTorch form rescales the displacement with the rate; the position form carries the old one on.",
    )
    course = TimeCourse(
        title="Two conventions of momentum part at a learning-rate change",
        sample=shown.replicas(evidence.values()),
        x=shown.SINCE_CHANGE,
        y=Axis("variance / variance at the change"),
        curves=tuple(
            replace(curve, subject=f"{item.experiment.removeprefix('drop-')} form")
            for item in evidence.values()
            for curve in drop_course(item, predict).curves
            if curve.subject == mode_label(simulation_of(item), _SHOWN)
        ),
        decays=(0.0,),
        caption="The mode with ηλ = 0.01 after the drop, same H, C, η and μ: the position form first widens the "
        "posterior, the PyTorch form shrinks it.",
    )
    return comparison(tests, results=[course, table])


# ---------------------------------------------------------------------------------------------------------------------
# What a decay does to the posterior, and what moved it


def _stages(simulation: Simulation) -> list[tuple[Quadratic, MomentumSGD]]:
    return [(segment.problem or simulation.problem, segment.optimizer) for segment in simulation.segments]


def shrink(simulation: Simulation) -> NDArray[np.float64]:
    """Δ ln σᵢ² of the decay alone (first stage to second): ln[(η₂/η₁)(2(1+μ) − η₁λᵢ)/(2(1+μ) − η₂λᵢ)]."""
    (one, before), (two, after) = _stages(simulation)[:2]
    return np.log(stationary_variance(two, after) / stationary_variance(one, before))


def _log_ratios(item: Evidence) -> tuple[NDArray[np.float64], int]:
    """Measured Δ ln σᵢ² from stage to stage, ``(stages − 1, m)``, and R."""
    simulation = simulation_of(item)
    variances = np.einsum("kii->ki", seen_moments(item))[:, : simulation.problem.dimension]
    return np.diff(np.log(variances), axis=0), simulation.replicas


def _log_ratio_comparison(error: NDArray[np.float64], count: int, note: str, results: tuple[Result, ...]) -> Comparison:
    """The ln of a ratio of two variances of R draws each, settled in between, has variance 4/R: that of R/2 draws."""
    spread = np.sqrt(4.0 / count)
    worst = float(error.ravel()[int(np.argmax(np.abs(error)))])
    half = normal_quantile(TEST_ALPHA) * spread
    return Comparison(
        estimate=worst,
        interval=(worst - half, worst + half),
        p_value=float(normal_p_value(error / spread).min()),
        num_tests=error.size,
        reached=count / 2,
        note=note,
        results=results,
    )


def compare_shrink(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """The decay's Δ ln σᵢ² at fixed H and C, mode by mode. `predict` maps a Simulation to it, ``(m,)``."""
    item = evidence["staircase"]
    measured, count = _log_ratios(item)
    predicted = predict(simulation_of(item))
    curvatures = np.asarray(simulation_of(item).problem.hessian)
    table = Table(
        title="Posterior variance after the decay η 0.1 → 0.01, over that before",
        columns=("curvature", "predicted", "measured"),
        rows=tuple(
            (float(c), float(p), float(q))
            for c, p, q in zip(curvatures, np.exp(predicted), np.exp(measured[0]), strict=True)
        ),
        caption="H and C held fixed. Every ratio is below η₂/η₁ = 0.1: the step-size term takes more from sharp modes.",
    )
    return _log_ratio_comparison(measured[0] - predicted, count, "Δ ln σ² of the decay", (table,))


def split(simulation: Simulation) -> NDArray[np.float64]:
    """Δ ln σᵢ² of rate, noise and curvature changed in turn, out of the parts of `attribution`, ``(3, m)``.

    One attribution from the first state to the last gives what each cause did; the step-size part is shared out between
    the two stages that move ηλ.
    """
    stages = _stages(simulation)
    whole = _attribution(stages[0], stages[-1])
    decay = _attribution(stages[0], stages[1])
    return np.stack(
        [
            whole.learning_rate + decay.step_size,
            whole.noise,
            whole.curvature + (whole.step_size - decay.step_size),
        ]
    )


def _attribution(one: tuple[Quadratic, MomentumSGD], two: tuple[Quadratic, MomentumSGD]) -> Attribution:
    return attribution(one[0], one[1], two[1], problem_after=two[0])


def _without_step_size(simulation: Simulation) -> NDArray[np.float64]:
    stages = _stages(simulation)
    whole = _attribution(stages[0], stages[-1])
    return np.stack([whole.learning_rate, whole.noise, whole.curvature])


def _swapped_causes(simulation: Simulation) -> NDArray[np.float64]:
    """Curvature blamed for what the learning rate did, and the other way round."""
    return split(simulation)[::-1]


def _rate_alone(simulation: Simulation) -> NDArray[np.float64]:
    """All of it the learning rate's."""
    parts = split(simulation)
    return np.stack([parts.sum(axis=0), np.zeros_like(parts[0]), np.zeros_like(parts[0])])


def compare_attribution(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Δ ln σᵢ² of each cause, measured by changing it alone, against its share of one attribution."""
    item = evidence["staircase"]
    simulation = simulation_of(item)
    measured, count = _log_ratios(item)
    predicted = predict(simulation)
    rows = []
    for mode, curvature in enumerate(np.asarray(simulation.problem.hessian)):
        for cause, p, q in zip(
            ("learning rate", "noise", "curvature"), predicted[:, mode], measured[:, mode], strict=True
        ):
            rows.append((float(curvature), cause, float(p), float(q)))
        rows.append((float(curvature), "all", float(predicted[:, mode].sum()), float(measured[:, mode].sum())))
    table = Table(
        title="What moved ln σ²: attributed and measured",
        columns=("curvature at first", "cause", "attributed Δ ln σ²", "measured Δ ln σ²"),
        rows=tuple(rows),
        caption="Rate to a tenth, then noise × 3, then curvature × 5, each left to settle; step-size terms included.",
    )
    error = np.concatenate([measured - predicted, (measured - predicted).sum(axis=0, keepdims=True)])
    return _log_ratio_comparison(error, count, "Δ ln σ² by cause", (table,))


# ---------------------------------------------------------------------------------------------------------------------
# Register

_NOISE_DECOY: Mapping[str, Law] = {"C larger by 3 %": _more_noise(1.03)}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="transient-exact",
        statement="After any change M_k = F₂ᵏ M₀ F₂ᵏᵀ + Σ_{l<k} F₂ˡ Q₂ F₂ˡᵀ, mode pair by mode pair, any H and C, "
        "eq. (T1).",
        source=f"{OWN}; {PAPER} approximates it",
        kind=Kind.IDENTITY,
        experiments=("drop-pytorch", "drop-position", "drop-nesterov", "drop-everything"),
        assumptions=ASSUMED,
        predict=exact_law,
        decoys={
            "the other form of momentum": _other_form,
            "settled at once": _memoryless,
            "state forgotten at the change": _from_rest_at_the_change,
            "H and C commute": _diagonal_noise,
            **_NOISE_DECOY,
        },
        compare=compare_laws,
        num_tests=2 * 11 * 36 + 5 * 10 + 5 * 21,
        detects=DETECTS,
    ),
    Claim(
        name="mean-path",
        statement="E z_k = F₂ᵏ E z₀ whatever the noise, through a learning-rate change, in both forms.",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("kicked-pytorch", "kicked-position"),
        assumptions=ASSUMED,
        predict=mean_along,
        decoys={
            "the other form of momentum": _mean_other_form,
            "plain descent at η/(1−μ)": _mean_plain,
            "no change of rate": _mean_no_drop,
        },
        compare=compare_means,
        num_tests=2 * 7 * 8,
        detects=DETECTS,
    ),
    Claim(
        name="convention-gap",
        statement="At a drop the forms part: with μ=.9, η .1→.01, λ=1 the variance 10 steps later is 3.28 × its old "
        "value in position form and 0.48 × in PyTorch form.",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("drop-pytorch", "drop-position"),
        assumptions=ASSUMED,
        predict=exact_law,
        decoys={"conventions swapped": _other_form, **_NOISE_DECOY},
        compare=compare_conventions,
        num_tests=2 * 11 * 36,
        detects=DETECTS,
    ),
    Claim(
        name="schedule-propagation",
        statement="Along any learning-rate path the covariance is Φ M₀ Φᵀ + C̃ ∘ Σ_s ψ_s ψ_sᵀ, eq. (T3).",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("schedule-cosine", "schedule-restarts"),
        assumptions=ASSUMED,
        predict=exact_law,
        decoys={
            "stationary at the current rate": _memoryless,
            "the average rate throughout": _average_rate,
            "every rate one step late": _late_by_one,
            "H and C commute": _diagonal_noise,
            **_NOISE_DECOY,
        },
        compare=comparing_with_assumption("stationarity at the current rate", _memoryless),
        num_tests=2 * 9 * 21,
        detects=DETECTS,
    ),
    Claim(
        name="noise-drift",
        statement="Noise that jumps or ramps during the transition: the law of a C that depends on the step, not of a "
        "constant C.",
        source=f"{OWN}; {PAPER} assumes C constant after the decay",
        kind=Kind.IDENTITY,
        experiments=("noise-jump", "noise-ramp"),
        assumptions=("C of each step known", *ASSUMED),
        predict=_ramp_law,
        decoys={
            "noise as before the change": _initial_problem_throughout,
            "a jump in place of the ramp": _last_problem_at_once,
            **_NOISE_DECOY,
        },
        compare=comparing_with_assumption("constant noise", _initial_problem_throughout),
        num_tests=2 * 8 * 9,
        detects=DETECTS,
    ),
    Claim(
        name="curvature-jump",
        statement="Curvature that jumps at the drop: F₂ is that of the new H, the start that of the old, eq. (T1).",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("curvature-jump",),
        assumptions=("H of each step known", *ASSUMED),
        predict=exact_law,
        decoys={"curvature as before the change": _initial_problem_throughout, **_NOISE_DECOY},
        compare=comparing_with_assumption("constant curvature", _initial_problem_throughout),
        num_tests=8 * 9,
        detects=DETECTS,
    ),
    Claim(
        name="unstable-rate",
        statement="A change from or to an unstable rate has an exact law at every finite k, though no stationary one.",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("drop-from-unstable", "rise-to-unstable"),
        assumptions=ASSUMED,
        predict=exact_law,
        decoys={"state forgotten at the change": _from_rest_at_the_change, **_NOISE_DECOY},
        compare=comparing_with_assumption("a start from rest", _from_rest_at_the_change),
        num_tests=(8 + 7) * 9,
        detects=DETECTS,
    ),
    Claim(
        name="noise-autocorrelated",
        statement="Noise with ξ_t = φ ξ_{t−1} + …: the law of the state (w, v, ξ), before, through and after the drop.",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("noise-persistent", "noise-anticorrelated"),
        assumptions=("quadratic loss", "AR(1) noise of known φ"),
        predict=exact_law,
        decoys={
            "noise independent over time": _white,
            "white noise of level (1+φ)/(1−φ) C": _white_at_effective_level,
            **_NOISE_DECOY,
        },
        compare=comparing_with_assumption("noise independent over time", _white),
        num_tests=2 * 8 * 9,
        detects=DETECTS,
    ),
    Claim(
        name="posterior-shrinks-at-decay",
        statement="At fixed H and C a decay shrinks every σᵢ², by (η₂/η₁)(2(1+μ)−η₁λᵢ)/(2(1+μ)−η₂λᵢ).",
        source=f"{PAPER}; the exact factor is S1's",
        kind=Kind.IDENTITY,
        experiments=("staircase",),
        assumptions=("H and C unchanged", "both states settled", *ASSUMED),
        predict=shrink,
        decoys={
            "no change": lambda simulation: 0.0 * shrink(simulation),
            "η₂/η₁ alone": lambda simulation: np.full(simulation.problem.dimension, np.log(0.1)),
            "(η₂/η₁)²": lambda simulation: 2 * shrink(simulation),
        },
        compare=compare_shrink,
        num_tests=3,
        detects=DETECTS,
    ),
    Claim(
        name="attribution",
        statement="Δ ln σᵢ² = Δ ln η + Δ ln γᵢ − Δ ln λᵢ + Δ ln κᵢ exactly; each part is what that cause alone does, "
        "eq. (B2).",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("staircase",),
        assumptions=("both states settled", *ASSUMED),
        predict=split,
        decoys={
            "step-size part left out": _without_step_size,
            "learning rate and curvature swapped": _swapped_causes,
            "all of it the learning rate's": _rate_alone,
        },
        compare=compare_attribution,
        num_tests=12,
        detects=DETECTS,
    ),
    *INTERPOLATION_CLAIMS,
    *SINGLE_RUN_CLAIMS,
)
