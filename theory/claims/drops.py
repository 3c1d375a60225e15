r"""Simulations of a change, the exact law along them, and the tests that compare the two, step by step.

The law along a `Simulation` is chained from its segments: each starts from the covariance in which the one before left
the state. A decoy is the same law of another simulation (other noise, other form, other start), which is what "assuming
otherwise" means, so that the size of that error can be printed beside its refutation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from theory.claims import shown
from theory.claims.moments import Law, Tests, simulation_of, state_frame
from theory.closed_form.correlated import correlated_transient, still_start
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.propagate import propagate
from theory.closed_form.transient import transient_covariance
from theory.judge.claim import TEST_ALPHA, Comparison
from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Result, Table, TimeCourse
from theory.judge.statistics import normal_p_value, variance_interval, variance_p_value
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.simulate import Segment, Simulation

#: Relative error of a variance that one test finds with a miss chance of 1e-6.
DETECTS = 0.03
#: Replicas that take it, one recorded time a test.
REPLICAS = 295_000

#: Points of a predicted curve: one a step over the runs here, or fast modes would look aliased.
_CURVE_POINTS = 201


def replicas(budget: str) -> int:
    """Replicas of an experiment whose record times are tested one by one."""
    return REPLICAS if budget == "default" else 8 * REPLICAS


def drop(
    problem: Quadratic,
    before: MomentumSGD,
    after: MomentumSGD,
    *,
    burn_in: int,
    steps: Sequence[int],
    count: int,
    problem_after: Quadratic | None = None,
    autocorrelation: float = 0.0,
) -> Simulation:
    """From rest through `burn_in` steps of `before`, then `after`; recorded at `steps` counted from the change."""
    return Simulation(
        problem=problem,
        segments=(
            Segment(optimizer=before, steps=burn_in),
            Segment(optimizer=after, steps=max(steps), problem=problem_after),
        ),
        replicas=count,
        record_times=tuple(burn_in + k for k in steps),
        noise_autocorrelation=autocorrelation,
        moments="diagonal" if problem.is_diagonal and (problem_after or problem).is_diagonal else "full",
    )


@functools.lru_cache(maxsize=256)
def exact_law(simulation: Simulation) -> NDArray[np.float64]:
    """Covariance of (w, v) at the record times, shape ``(T, 2m, 2m)``: closed forms chained over segments.

    Constant rates by powers (T1), tables by propagation (T3), autocorrelated noise by the augmented state.
    """
    problem, m = simulation.problem, simulation.problem.dimension
    phi = simulation.noise_autocorrelation
    state = still_start(problem) if phi else np.zeros((2 * m, 2 * m))
    times = np.asarray(simulation.record_times)
    found, begun = [], 0
    if times[0] == 0:
        found.append(state[None, : 2 * m, : 2 * m])
    for segment in simulation.segments:
        problem = segment.problem or problem
        inside = times[(times > begun) & (times <= begun + segment.steps)] - begun
        steps = np.union1d(inside, [segment.steps])
        tables = (segment.learning_rates, segment.momenta, segment.weight_decays)
        varies = any(table is not None for table in tables)
        first = simulation.undampened_first_step and begun == 0
        state = state[:m, :m] if first else state  # w alone: the buffer starts empty
        if phi:
            if segment.problem is not None or varies or first:
                raise ValueError("`exact_law` takes autocorrelated noise with a fixed problem and constant rates only.")
            law = correlated_transient(problem, None, segment.optimizer, steps, phi, state).augmented
        elif varies:
            rates = segment.learning_rates
            law = propagate(
                problem,
                segment.optimizer,
                Schedule.constant(segment.optimizer.learning_rate) if rates is None else Schedule.table(rates),
                steps,
                state,
                momentum=segment.momenta,
                weight_decay=segment.weight_decays,
                undampened_first_step=first,
            ).state()
        else:
            law = transient_covariance(
                problem, None, segment.optimizer, steps, state, undampened_first_step=first
            ).state()
        found.append(law[np.isin(steps, inside), : 2 * m, : 2 * m])
        state, begun = law[-1], begun + segment.steps
    joined = np.concatenate(found)
    joined.flags.writeable = False
    return joined


def final_problem(simulation: Simulation) -> Quadratic:
    """The problem of the last segment: its eigenvectors are the directions looked at."""
    return next((s.problem for s in reversed(simulation.segments) if s.problem is not None), simulation.problem)


def directions(simulation: Simulation) -> NDArray[np.float64]:
    """Rows turn (w, v) into components along the eigenvectors of the last Hessian, ``(2m, 2m)``."""
    return state_frame(eigenbasis(final_problem(simulation)).basis, simulation.problem.dimension)


def seen_law(simulation: Simulation, law: Law) -> NDArray[np.float64]:
    """A law in the directions looked at, ``(T, 2m, 2m)``."""
    frame = directions(simulation)
    return frame @ law(simulation) @ frame.T


def seen_moments(evidence: Evidence) -> NDArray[np.float64]:
    """Measured E z zᵀ in the directions looked at, ``(T, 2m, 2m)``; NaN for pairs that were not recorded."""
    second = evidence.arrays["second"]
    if second.ndim == 3:
        frame = directions(simulation_of(evidence))
        return frame @ second @ frame.T
    m = second.shape[1] // 2
    full = np.full((len(second), 2 * m, 2 * m), np.nan)
    modes = np.arange(m)
    full[:, np.arange(2 * m), np.arange(2 * m)] = second
    full[:, modes, m + modes] = full[:, m + modes, modes] = evidence.arrays["cross"]
    return full


def law_tests(evidence: Evidence, law: Law) -> Tests:
    """Tests of every recorded second moment at every recorded time.

    One time a replica and Gaussian noise: a variance is χ²_R exactly; a product of two directions has variance
    (S_ii S_jj + S_ij²)/R and is tested as a normal, with the measured S, so that no formula widens its own error.
    """
    simulation = simulation_of(evidence)
    expected, found = seen_law(simulation, law), seen_moments(evidence)
    count = simulation.replicas
    size = found.shape[1]
    own = np.arange(size)
    variances = found[:, own, own]
    ratio = (variances / expected[:, own, own]).ravel()
    degrees = np.full(ratio.shape, float(count))
    i, j = np.triu_indices(size, 1)
    product, target = found[:, i, j], expected[:, i, j]
    known = ~np.isnan(product)
    spread = np.sqrt((variances[:, i] * variances[:, j] + np.where(known, product, 0.0) ** 2) / count)
    z = ((product - target) / spread)[known]
    p_values = np.concatenate([variance_p_value(ratio, degrees), normal_p_value(z)])
    return Tests(p_values, ratio, degrees)


def compare_laws(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Every second moment at every recorded time of every experiment. `predict` maps a Simulation to its law."""
    tests = Tests.join([law_tests(item, predict) for item in evidence.values()])
    return comparison(tests, results=[drop_course(item, predict) for item in evidence.values()])


def comparison(tests: Tests, *, note: str = "", results: Iterable[Result] = ()) -> Comparison:
    """The batch as a Comparison: the worst variance with its interval at the family's level, the smallest p-value."""
    worst = int(np.argmin(variance_p_value(tests.ratio, tests.degrees)))
    low, high = variance_interval(tests.ratio[worst], tests.degrees[worst], TEST_ALPHA)
    return Comparison(
        estimate=float(tests.ratio[worst] - 1),
        interval=(float(low - 1), float(high - 1)),
        p_value=float(tests.p_values.min()),
        num_tests=len(tests.p_values),
        reached=float(tests.degrees.min()),
        note=note,
        results=tuple(results),
    )


def comparing_with_assumption(name: str, assumed: Law) -> Callable[[Mapping[str, Evidence], Law], Comparison]:
    """`compare_laws` with a table of the error that the assumption would have made, exactly."""

    def compare(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
        tests = Tests.join([law_tests(item, predict) for item in evidence.values()])
        rows = []
        for item in evidence.values():
            simulation = simulation_of(item)
            true, wrong = (np.einsum("kii->ki", seen_law(simulation, law)) for law in (exact_law, assumed))
            m = simulation.problem.dimension
            error = wrong[:, :m] / true[:, :m] - 1
            at = np.unravel_index(int(np.argmax(np.abs(error))), error.shape)
            began = simulation.segments[0].steps
            k = int(simulation.record_times[at[0]] - began)
            share = float(true[:, :m][at] / wrong[:, :m][at])
            rows.append((item.experiment, k, _rate(simulation, int(at[1])), float(error[at]), share))
        table = Table(
            title=f"Error of a variance when assuming {name}",
            columns=("experiment", "steps after the change", "ηλ of the mode", "relative error", "exact / assumed"),
            rows=tuple(rows),
            caption="The largest over modes and recorded times, by the exact formulas.",
        )
        return comparison(
            tests,
            note=f"assuming {name} is wrong by up to {max(abs(row[3]) for row in rows):.0%}",
            results=[*(drop_course(item, predict, (name, assumed)) for item in evidence.values()), table],
        )

    return compare


def drop_course(evidence: Evidence, law: Law, also: tuple[str, Law] | None = None) -> TimeCourse:
    """Variance of each direction before, through and after the change."""
    simulation = simulation_of(evidence)
    began = _change(simulation)
    times = np.asarray(simulation.record_times)
    dense = replace(simulation, record_times=_curve_times(times))
    x = np.asarray(dense.record_times) - began
    m = simulation.problem.dimension
    start = _variances(replace(simulation, record_times=(began,)), exact_law)[0]
    found = np.einsum("kii->ki", seen_moments(evidence))[:, :m] / start
    low, high = variance_interval(np.ones(1), np.full(1, float(simulation.replicas)), TEST_ALPHA)
    lines = _variances(dense, law) / start
    others = None if also is None else _variances(dense, also[1]) / start
    curves = []
    for mode in range(m):
        name, y = mode_label(simulation, mode), found[:, mode]
        curves.append(shown.predicted(x, lines[:, mode], name))
        curves.append(shown.measured_between(times - began, y, y * low, y * high, name))
        if also is not None and others is not None:
            curves.append(shown.decoy(x, others[:, mode], f"assuming {also[0]}", name))
    return TimeCourse(
        title=f"Variance through the change: {evidence.experiment}",
        sample=shown.replicas((evidence,)),
        x=shown.SINCE_CHANGE,
        y=Axis("variance / variance at the change"),
        curves=tuple(curves),
        decays=(0.0,),
    )


def _variances(simulation: Simulation, law: Law) -> NDArray[np.float64]:
    """Of each direction at the record times, ``(T, m)``."""
    return np.einsum("kii->ki", seen_law(simulation, law))[:, : simulation.problem.dimension]


def _curve_times(times: NDArray[np.int_]) -> tuple[int, ...]:
    """The recorded times and enough between them for a smooth line."""
    filled = np.unique(np.rint(np.linspace(times[0], times[-1], _CURVE_POINTS)).astype(int))
    return tuple(int(t) for t in np.union1d(filled, times))


def _change(simulation: Simulation) -> int:
    """Steps done when the first segment ends."""
    return simulation.segments[0].steps


def _rate(simulation: Simulation, mode: int) -> float:
    segment = simulation.segments[-1]
    rate = segment.optimizer.learning_rate if segment.learning_rates is None else float(segment.learning_rates[-1])
    return float(rate * (eigenbasis(final_problem(simulation)).curvatures[mode] + segment.optimizer.weight_decay))


def mode_label(simulation: Simulation, mode: int) -> str:
    """Slow, critical or underdamped under the last optimizer, with its ηλ."""
    a, optimizer = _rate(simulation, mode), simulation.segments[-1].optimizer
    critical = (1 - optimizer.momentum**0.5) ** 2
    if simulation.segments[-1].learning_rates is not None or optimizer.nesterov or optimizer.dampening:
        return f"ηλ={a:.3g}"
    word = "critical" if abs(a / critical - 1) < 1e-3 else "slow" if a < critical else "underdamped"
    return f"{word} ηλ={a:.3g}"
