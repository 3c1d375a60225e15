r"""Claims about adaptive optimizers: exact with the preconditioner frozen, close where it adapts slowly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims import shown
from theory.claims.replicates import (
    MeanTests,
    equivalence_comparison,
    identity_comparison,
    mean_tests,
)
from theory.closed_form.adaptive import (
    AdaptiveLaw,
    adaptive_covariance,
    bias_corrected_rates,
    frozen_adaptive_covariance,
    preconditioned_problem,
)
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_covariance
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Kind, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Curve, HeatMap, Result, Sample, Table, TimeCourse
from theory.judge.statistics import normal_quantile
from theory.model.adaptive import Adam, Adaptive, RMSprop
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.model.setting import Setting, keyword_setting
from theory.oracle.adaptive import AdaptiveRun, simulate_adaptive


@keyword_setting
class AdaptiveRuns(Setting):
    """Several simulations that one claim looks at together."""

    runs: tuple[AdaptiveRun, ...]


def _run_all(setting: AdaptiveRuns, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    arrays = {}
    for index, run in enumerate(setting.runs):
        moments = simulate_adaptive(run, seed=seed + index)
        progress((index + 1) / len(setting.runs))
        arrays |= {
            f"mean_{index}": moments.mean,
            f"square_{index}": moments.square,
            f"second_{index}": moments.second,
            f"second_moment_{index}": moments.second_moment,
        }
    return {"runs": len(setting.runs)}, arrays


def _problem(dimension: int, condition: float) -> Quadratic:
    """H with that condition number and C with spectrum 0.3 … 3, in unrelated bases and neither along the axes."""
    if dimension == 1:
        return Quadratic(np.ones(1), np.ones(1))
    rng = np.random.default_rng(dimension)
    matrices = []
    for spectrum in (np.geomspace(1.0 / condition, 1.0, dimension), np.geomspace(0.3, 3.0, dimension)):
        turn = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
        matrix = (turn * spectrum) @ turn.T
        matrices.append(0.5 * (matrix + matrix.T))
    return Quadratic(*matrices)


def _timed(problem: Quadratic, optimizer: Adaptive, replicas: int, relaxations: float, **fields: Any) -> AdaptiveRun:
    """A run long enough to forget its start, for the weights and for the moving average of g²."""
    preconditioner = fields.get("preconditioner")
    if preconditioner is None:
        law = adaptive_covariance(problem, optimizer)
        radius = law.spectral_radius
        memory = 1.0 / (1.0 - (optimizer.beta2 if isinstance(optimizer, Adam) else optimizer.smoothing))
    else:
        radius = stationary_covariance(*preconditioned_problem(problem, optimizer, preconditioner)).spectral_radius
        memory = 0.0
    rate = -2.0 * math.log(radius)
    recorded = math.ceil(2.0 * relaxations / rate)
    stride = max(1, min(8, recorded // 50))
    return AdaptiveRun(
        problem=problem,
        optimizer=optimizer,
        replicas=replicas,
        burn_in=math.ceil(max(11.0 / rate, 4.0 * memory)),
        records=math.ceil(recorded / stride),
        stride=stride,
        **fields,
    )


# The preconditioner frozen: an identity.

_FROZEN = np.array([2.0, 1.0, 0.5, 0.25])
_OPTIMUM = np.array([1.0, -1.0, 0.5, 2.0])
_FROZEN_DETECTS = 0.10


def _frozen_runs(budget: str) -> AdaptiveRuns:
    more = 8 if budget == "full" else 1
    problem = _problem(4, 10.0)
    return AdaptiveRuns(
        runs=tuple(
            _timed(problem, optimizer, 2048 * more, 36, preconditioner=_FROZEN)
            for optimizer in (
                Adam(learning_rate=0.3),
                Adam(learning_rate=0.3, weight_decay=0.1),
                Adam(learning_rate=0.3, weight_decay=0.3, decoupled_weight_decay=True),
                RMSprop(learning_rate=0.1, momentum=0.8),
            )
        )
    )


FrozenPredictor = Callable[[Quadratic, Adaptive, NDArray[np.float64]], NDArray[np.float64]]


def _unpreconditioned(problem: Quadratic, optimizer: Adaptive, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Momentum SGD with the learning rate times the mean of the preconditioner."""
    return frozen_adaptive_covariance(problem, optimizer, np.full_like(scale, scale.mean()))


def _noise_not_scaled(problem: Quadratic, optimizer: Adaptive, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """D applied to the curvature, and forgotten on the noise."""
    precise, sgd = preconditioned_problem(problem, optimizer, scale)
    law = stationary_covariance(Quadratic(precise.hessian, problem.noise_cov), sgd).require()
    root = np.sqrt(scale)
    return root[:, None] * law * root


def _no_dampening(problem: Quadratic, optimizer: Adaptive, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adam's averaged buffer read as momentum SGD's summed one."""
    precise, sgd = preconditioned_problem(problem, optimizer, scale)
    sgd = MomentumSGD(sgd.learning_rate * 0.5, sgd.momentum) if not sgd.dampening else replace(sgd, dampening=0.0)
    law = stationary_covariance(precise, sgd).require()
    root = np.sqrt(scale)
    return root[:, None] * law * root


def _coupled_decay(problem: Quadratic, optimizer: Adaptive, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """AdamW's decay treated as an L2 term."""
    if isinstance(optimizer, Adam):
        optimizer = replace(optimizer, decoupled_weight_decay=False)
    return frozen_adaptive_covariance(problem, optimizer, scale)


def _compare_frozen(evidence: Mapping[str, Evidence], predict: FrozenPredictor) -> Comparison:
    item = evidence["adaptive-frozen"]
    parts = []
    for index, run in enumerate(AdaptiveRuns.from_dict(item.setting).runs):
        predicted = np.diag(predict(run.problem, run.optimizer, np.asarray(run.preconditioner)))
        parts.append(mean_tests(item.arrays[f"square_{index}"][0], predicted))
    return identity_comparison(MeanTests.join(parts))


# Adam, AdamW and RMSprop as they run: an approximation, in a region.

_ADAM_MARGIN = 0.15


def _adam_cases() -> tuple[tuple[Quadratic, Adaptive], ...]:
    """The region: β₂ (α) ≥ 0.9, condition number ≤ 100, dimension ≤ 16, the weights' share of g² up to one half."""
    problem = _problem(4, 10.0)
    away = replace(problem, optimum=_OPTIMUM)
    return (
        (problem, Adam(learning_rate=0.5, beta2=0.9)),
        (problem, Adam(learning_rate=0.5, beta2=0.999)),
        (problem, Adam(learning_rate=5.0, beta2=0.99)),  # the weights' own motion doubles g²
        (problem, Adam(learning_rate=0.5, beta2=0.99, epsilon=0.5)),
        (away, Adam(learning_rate=0.5, beta2=0.99, weight_decay=0.2)),
        (away, Adam(learning_rate=0.5, beta2=0.99, weight_decay=0.2, decoupled_weight_decay=True)),
        (_problem(4, 100.0), Adam(learning_rate=1.0, beta2=0.99)),
        (_problem(16, 10.0), Adam(learning_rate=0.5, beta2=0.99)),
        (problem, RMSprop(learning_rate=0.2, smoothing=0.99, momentum=0.5)),
    )


def _adam_runs(budget: str) -> AdaptiveRuns:
    more = 8 if budget == "full" else 1
    return AdaptiveRuns(runs=tuple(_timed(problem, optimizer, 1024 * more, 24) for problem, optimizer in _adam_cases()))


AdamPredictor = Callable[[Quadratic, Adaptive], NDArray[np.float64]]


def _adam_law(problem: Quadratic, optimizer: Adaptive) -> NDArray[np.float64]:
    return adaptive_covariance(problem, optimizer).require()


def _from_second_moment(
    problem: Quadratic, optimizer: Adaptive, second_moment: NDArray[np.float64], factor: float = 1.0
) -> NDArray[np.float64]:
    scale = factor / (np.sqrt(second_moment) + optimizer.epsilon)
    return frozen_adaptive_covariance(problem, optimizer, scale)


def _noise_alone(problem: Quadratic, optimizer: Adaptive) -> NDArray[np.float64]:
    """S = diag C: the weights' own motion left out of g²."""
    return _from_second_moment(problem, optimizer, np.diag(problem.dense_noise_cov()))


def _mean_absolute(problem: Quadratic, optimizer: Adaptive) -> NDArray[np.float64]:
    """1/E|g| in place of 1/√(E g²): larger by √(π/2) for Gaussian gradients."""
    law = adaptive_covariance(problem, optimizer)
    return _from_second_moment(problem, optimizer, law.second_moment, math.sqrt(math.pi / 2))


def _no_preconditioner(problem: Quadratic, optimizer: Adaptive) -> NDArray[np.float64]:
    """The covariance of the same optimizer with D = I."""
    return frozen_adaptive_covariance(problem, optimizer, np.ones(problem.dimension))


def _compare_adam(evidence: Mapping[str, Evidence], predict: AdamPredictor) -> Comparison:
    item = evidence["adaptive-real"]
    parts, rows = [], []
    for index, run in enumerate(AdaptiveRuns.from_dict(item.setting).runs):
        mean, square = item.arrays[f"mean_{index}"][0], item.arrays[f"square_{index}"][0]
        law = np.diag(predict(run.problem, run.optimizer))
        # Decay shifts the mean away from w*; what is predicted is the variance around it.
        tests = mean_tests((square - 2.0 * mean * mean.mean(axis=0) + mean.mean(axis=0) ** 2), law)
        parts.append(tests)
        rows.append(
            (
                _label(run.optimizer),
                run.problem.dimension,
                round(float(np.linalg.cond(run.problem.dense_hessian())), 1),
                float((tests.ratio - 1).min()),
                float((tests.ratio - 1).max()),
                float(normal_quantile(TEST_ALPHA) * tests.error.max()),
            )
        )
    results: tuple[Result, ...] = ()
    if predict is _adam_law:
        table = Table(
            title="Adaptive optimizers: measured / predicted variance − 1, over the axes",
            columns=("optimizer", "m", "cond H", "lowest", "highest", "resolution"),
            rows=tuple(rows),
        )
        results = (*_maps(evidence["adaptive-map"]), table)
    return equivalence_comparison(MeanTests.join(parts), _ADAM_MARGIN, results=results)


def _label(optimizer: Adaptive) -> str:
    if isinstance(optimizer, RMSprop):
        return f"RMSprop α={optimizer.smoothing:g}, μ={optimizer.momentum:g}"
    name = "AdamW" if optimizer.decoupled_weight_decay else "Adam"
    decay = f", κ={optimizer.weight_decay:g}" if optimizer.weight_decay else ""
    return f"{name} β₂={optimizer.beta2:g}, η={optimizer.learning_rate:g}, ε={optimizer.epsilon:g}{decay}"


# Where the prediction holds: coarse, for the map.

_MAP_BETA2 = (0.3, 0.5, 0.8, 0.9, 0.99, 0.999)
_MAP_CONDITION = (1.0, 10.0, 100.0)
_MAP_DIMENSION = (1, 4, 16)


def _map_runs(budget: str) -> AdaptiveRuns:
    replicas = 2048 if budget == "full" else 160
    cases = [(4, condition) for condition in _MAP_CONDITION] + [(size, 10.0) for size in _MAP_DIMENSION if size != 4]
    runs = []
    for dimension, condition in cases:
        for beta2 in _MAP_BETA2:
            # The rate rises with the condition number so that every run forgets its start in comparable time; the
            # stiffest direction then moves with curvature times step of order 1.
            optimizer = Adam(learning_rate=1.0 if condition > 10 else 0.5, beta2=beta2)
            runs.append(_timed(_problem(dimension, condition), optimizer, replicas, 12))
    return AdaptiveRuns(runs=tuple(runs))


def _maps(evidence: Evidence) -> tuple[HeatMap, ...]:
    runs = AdaptiveRuns.from_dict(evidence.setting).runs
    worst: dict[tuple[int, float, float], float] = {}
    for index, run in enumerate(runs):
        assert isinstance(run.optimizer, Adam)
        law = np.diag(adaptive_covariance(run.problem, run.optimizer).require())
        ratio = evidence.arrays[f"square_{index}"][0].mean(axis=0) / law
        condition = round(float(np.linalg.cond(run.problem.dense_hessian())))
        worst[run.problem.dimension, condition, run.optimizer.beta2] = float(np.max(np.abs(np.log(ratio))))
    panels = (
        (
            "condition number of H (m = 4)",
            _MAP_CONDITION,
            [[worst[4, round(y), x] for x in _MAP_BETA2] for y in _MAP_CONDITION],
        ),
        (
            "dimension m (condition number 10)",
            tuple(float(size) for size in _MAP_DIMENSION),
            [[worst[size, 10 if size > 1 else 1, x] for x in _MAP_BETA2] for size in _MAP_DIMENSION],
        ),
    )
    return tuple(
        HeatMap(
            title="Where Adam's fixed point predicts the variance",
            sample=Sample(runs[0].replicas, "replicas a cell"),
            x=Axis("memory of g², 1/(1−β₂)", "steps"),
            y=Axis(label),
            value=Axis("worst relative error over the axes"),
            columns=tuple(round(1.0 / (1.0 - beta2), 2) for beta2 in _MAP_BETA2),
            rows=tuple(values),
            cells=tuple(tuple(math.expm1(one) for one in row) for row in grid),
            contour=_ADAM_MARGIN,
            caption="The fixed point is of first order in 1−β₂: it fails where g² is averaged over a few steps only, "
            "and most of all where a weight's own motion makes up much of its g² (few weights, all of them stiff).",
        )
        for label, values, grid in panels
    )


# Schedules: warm-up and cosine decay.

_SCHEDULE_STEPS = 400
_SCHEDULE_WARM_UP = 100
_SCHEDULE_TIMES = (10, 50, 100, 150, 200, 300, 360, 400)
_SCHEDULE_PEAK = 0.6


def _schedule_rates() -> NDArray[np.float64]:
    """Linear warm-up over 100 steps to the peak, then half a cosine down to a fiftieth of it."""
    up = _SCHEDULE_PEAK * (np.arange(_SCHEDULE_WARM_UP) + 1) / _SCHEDULE_WARM_UP
    done = np.arange(_SCHEDULE_STEPS - _SCHEDULE_WARM_UP) / (_SCHEDULE_STEPS - _SCHEDULE_WARM_UP)
    low = _SCHEDULE_PEAK / 50
    return np.concatenate([up, low + 0.5 * (_SCHEDULE_PEAK - low) * (1.0 + np.cos(math.pi * done))])


def _schedule_run(budget: str) -> AdaptiveRun:
    return AdaptiveRun(
        problem=_problem(4, 10.0),
        optimizer=Adam(learning_rate=_SCHEDULE_PEAK, beta2=0.999),
        replicas=60_000 if budget == "full" else 12_000,
        learning_rates=_schedule_rates(),
        record_times=_SCHEDULE_TIMES,
    )


def _run_schedule(setting: AdaptiveRun, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    moments = simulate_adaptive(setting, seed=seed, progress=progress)
    return {"replicas": setting.replicas}, {"square": moments.square}


SchedulePredictor = Callable[[AdaptiveRun], NDArray[np.float64]]


def _frozen_law(run: AdaptiveRun) -> AdaptiveLaw:
    """S of the fixed point at a small rate: along the path the weights' share of g² is small and changes."""
    return adaptive_covariance(run.problem, replace(run.optimizer, learning_rate=0.3 * _SCHEDULE_PEAK))


def _scheduled(run: AdaptiveRun, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variances at the recorded times with s settled, shape ``(K, m)``."""
    scale = _frozen_law(run).preconditioner
    problem, sgd = preconditioned_problem(run.problem, run.optimizer, scale)
    empty = np.zeros((run.problem.dimension, run.problem.dimension))
    path = propagate(problem, sgd, Schedule.table(rates), run.record_times, initial=empty)
    return np.einsum("kii->ki", path.require()) * scale


def _adam_path(run: AdaptiveRun) -> NDArray[np.float64]:
    assert isinstance(run.optimizer, Adam) and run.learning_rates is not None
    return _scheduled(run, bias_corrected_rates(run.optimizer, run.learning_rates))


def _uncorrected_path(run: AdaptiveRun) -> NDArray[np.float64]:
    """Adam's first bias correction left out."""
    assert run.learning_rates is not None
    return _scheduled(run, np.asarray(run.learning_rates))


def _quasi_stationary_path(run: AdaptiveRun) -> NDArray[np.float64]:
    """The stationary law at the rate of the moment."""
    assert run.learning_rates is not None
    scale = _frozen_law(run).preconditioner
    rows = []
    for time in run.record_times:
        now = replace(run.optimizer, learning_rate=float(run.learning_rates[time - 1]))
        rows.append(np.diag(frozen_adaptive_covariance(run.problem, now, scale)))
    return np.array(rows)


def _compare_schedule(evidence: Mapping[str, Evidence], predict: SchedulePredictor) -> Comparison:
    item = evidence["adaptive-schedule"]
    run = AdaptiveRun.from_dict(item.setting)
    predicted, square = predict(run), item.arrays["square"]
    parts = [mean_tests(one, law) for one, law in zip(square, predicted, strict=True)]
    z = normal_quantile(TEST_ALPHA)
    results: tuple[Result, ...] = ()
    if predict is _adam_path:
        fine = np.union1d(np.arange(1, run.record_times[-1] + 1, 3), run.record_times)
        lines = predict(replace(run, record_times=tuple(int(t) for t in fine)))
        curves: list[Curve] = []
        for axis in range(run.problem.dimension):
            name = f"axis {axis + 1}"
            error = np.array([law[axis] * part.error[axis] for law, part in zip(predicted, parts, strict=True)])
            curves += [
                shown.predicted(fine, lines[:, axis], name),
                shown.measured(run.record_times, square[:, :, axis].mean(axis=1), z * error, name),
            ]
        course = TimeCourse(
            title="Adam through warm-up and cosine decay",
            sample=Sample(run.replicas, "replicas"),
            x=Axis("time", "steps"),
            y=Axis("variance of a weight"),
            curves=tuple(curves),
            caption="Predicted: momentum SGD in preconditioned weights, propagated. Measured: real updates from the "
            "first step.",
        )
        results = (course,)
    return equivalence_comparison(MeanTests.join(parts), _SCHEDULE_MARGIN, results=results)


_SCHEDULE_MARGIN = 0.20


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="adaptive-frozen",
        title="Adam, AdamW and RMSprop with their preconditioner frozen",
        setting=_frozen_runs,
        run=_run_all,
    ),
    Experiment(
        name="adaptive-real",
        title="Adam, AdamW and RMSprop as torch runs them, on noisy quadratics",
        setting=_adam_runs,
        run=_run_all,
    ),
    Experiment(
        name="adaptive-map",
        title="Adam over a grid of β₂, dimension and condition number (coarse)",
        setting=_map_runs,
        run=_run_all,
    ),
    Experiment(
        name="adaptive-schedule",
        title="Adam from its first step through warm-up and cosine decay",
        setting=_schedule_run,
        run=_run_schedule,
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="adaptive-frozen",
        statement="with D frozen, w = D^{1/2}u obeys momentum SGD with H_u = D^{1/2}HD^{1/2}, C_u = D^{1/2}CD^{1/2}; "
        "AdamW is heavy ball with momentum β₁(1−ηκ) and curvature H_u + κI",
        source="docs/mathematics.md (A1); theory.closed_form.adaptive (1)",
        kind=Kind.IDENTITY,
        experiments=("adaptive-frozen",),
        assumptions=("constant H and C", "preconditioner constant"),
        predict=frozen_adaptive_covariance,
        decoys={
            "one learning rate for all axes": _unpreconditioned,
            "noise not preconditioned": _noise_not_scaled,
            "summed instead of averaged buffer": _no_dampening,
            "AdamW's decay coupled": _coupled_decay,
        },
        compare=_compare_frozen,
        num_tests=16,
        detects=_FROZEN_DETECTS,
    ),
    Claim(
        name="adaptive-adam",
        statement="Adam, AdamW and RMSprop: Σ = D^{1/2}Σ_uD^{1/2} at the fixed point of s = E g², within the margin "
        "for β₂ ≥ 0.9, condition number ≤ 100, dimension ≤ 16",
        source="docs/mathematics.md (A1); theory.closed_form.adaptive (2)",
        kind=Kind.APPROXIMATION,
        experiments=("adaptive-real", "adaptive-map"),
        assumptions=("constant H and C", "stationary", "Gaussian gradient noise along every axis"),
        predict=_adam_law,
        decoys={
            "no preconditioner": _no_preconditioner,
            "s = diag C": _noise_alone,
            "1/E|g|": _mean_absolute,
        },
        compare=_compare_adam,
        num_tests=48,
        margin=_ADAM_MARGIN,
    ),
    Claim(
        name="adaptive-schedule",
        statement="Adam through warm-up and cosine decay: propagation in preconditioned weights along η_t/(1−β₁ᵗ)",
        source="docs/mathematics.md (A1), (T3); theory.closed_form.adaptive (Transient)",
        kind=Kind.APPROXIMATION,
        experiments=("adaptive-schedule",),
        assumptions=("s settled", "weights' share of g² small"),
        predict=_adam_path,
        decoys={"no bias correction": _uncorrected_path, "quasi-stationary": _quasi_stationary_path},
        compare=_compare_schedule,
        num_tests=4 * len(_SCHEDULE_TIMES),
        margin=_SCHEDULE_MARGIN,
    ),
)
