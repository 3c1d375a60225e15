r"""Claims about gradient noise as it is: dependent on the weights, shuffled, and on real data."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims import averaging, shown
from theory.claims.regression import RegressionStudy, plan_cell, regression_claims, run_study
from theory.claims.replicates import (
    MeanTests,
    identity_comparison,
    mean_p_values,
    mean_tests,
)
from theory.closed_form.minibatch import (
    gaussian_regression_kurtosis,
    gaussian_regression_law,
    ridge_regression_law,
    second_moment_stability_limit,
)
from theory.closed_form.shuffling import Phase, epoch_shuffling_factor
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.data import MissingPackageError, load_table
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Kind, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Agreement, Axis, Curve, Sample, Table, TimeCourse
from theory.judge.statistics import normal_quantile
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import FiniteSum, GaussianRegression, RidgeRegression, Sampling
from theory.model.setting import Setting, keyword_setting
from theory.oracle.sampling import SamplingRun, simulate_sampling
from theory.oracle.second_moment import enumerated_second_moment, gaussian_second_moment

_MOMENTUM = 0.9
_INPUTS = np.array([0.2, 0.5, 1.0])
_LABEL_NOISE = 0.7


@keyword_setting
class SamplingRuns(Setting):
    """Several simulations that one claim looks at together."""

    runs: tuple[SamplingRun, ...]


def _run_all(setting: SamplingRuns, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    arrays = {}
    for index, run in enumerate(setting.runs):
        moments = simulate_sampling(
            run, seed=seed + index, progress=lambda done, index=index: progress((index + done) / len(setting.runs))
        )
        arrays |= {
            f"mean_{index}": moments.mean,
            f"square_{index}": moments.square,
            f"fourth_{index}": moments.fourth,
        }
    return {"runs": len(setting.runs)}, arrays


# Exact recursions: no sampling error at all.


@keyword_setting
class RecursionGrid(Setting):
    """Problems small enough for brute force."""

    gaussian: tuple[GaussianRegression, ...]
    rows: tuple[RidgeRegression, ...]
    optimizers: tuple[MomentumSGD, ...]


def _recursion_grid(budget: str) -> RecursionGrid:
    del budget
    rng = np.random.default_rng(20260501)
    inputs, targets = 0.5 * rng.exponential(size=(5, 2)), rng.normal(size=5)
    return RecursionGrid(
        gaussian=tuple(
            GaussianRegression(input_cov=_INPUTS, label_noise_variance=_LABEL_NOISE, batch_size=size, truth=truth)
            for size, truth in ((1, None), (4, None), (32, None), (4, np.linspace(1.0, -0.5, len(_INPUTS))))
        ),
        rows=tuple(
            RidgeRegression(inputs=inputs, targets=targets, ridge=0.3, batch_size=size, sampling=sampling)
            for size in (1, 2, 3)
            for sampling in (Sampling.WITH_REPLACEMENT, Sampling.WITHOUT_REPLACEMENT)
        ),
        optimizers=(
            MomentumSGD(0.15),
            MomentumSGD(0.05, 0.5),
            MomentumSGD(0.05, 0.9),
            MomentumSGD(0.05, 0.9, form="position"),
            MomentumSGD(0.05, 0.9, nesterov=True),
            MomentumSGD(0.05, 0.9, dampening=0.5),
            MomentumSGD(0.05, 0.5, weight_decay=0.2),
        ),
    )


def _run_recursions(
    setting: RecursionGrid, seed: int, progress: Progress
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    del seed  # nothing is drawn
    arrays, limits = {}, []
    for column, optimizer in enumerate(setting.optimizers):
        progress(column / len(setting.optimizers))
        for row, problem in enumerate(setting.gaussian):
            arrays[f"gaussian_{row}_{column}"] = gaussian_second_moment(problem, optimizer).covariance
            limits.append(_brute_limit(problem, optimizer))
        for row, problem in enumerate(_rows_under(setting, optimizer)):
            found = enumerated_second_moment(problem, optimizer)
            arrays[f"rows_{row}_{column}"] = found.covariance
    return {"stability_limits": limits}, arrays


def _rows_under(grid: RecursionGrid, optimizer: MomentumSGD) -> tuple[RidgeRegression, ...]:
    """Rows have a ridge of their own in place of weight decay."""
    return () if optimizer.weight_decay else grid.rows


def _brute_limit(problem: GaussianRegression, optimizer: MomentumSGD) -> float:
    """Learning rate at which the brute-force recursion of second moments stops contracting: bisection on its growth."""

    def grows(learning_rate: float) -> bool:
        return gaussian_second_moment(problem, replace(optimizer, learning_rate=learning_rate)).growth >= 1.0

    low, high = optimizer.learning_rate, optimizer.learning_rate
    while grows(low):
        low *= 0.5
    while not grows(high):
        high *= 2.0
    while high - low > 1e-11 * high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if grows(middle) else (middle, high)
    return 0.5 * (low + high)


LawPredictor = Callable[[GaussianRegression | RidgeRegression, MomentumSGD], NDArray[np.float64]]


def _exact_law(problem: GaussianRegression | RidgeRegression, optimizer: MomentumSGD) -> NDArray[np.float64]:
    if isinstance(problem, GaussianRegression):
        return gaussian_regression_law(problem, optimizer).require()
    return ridge_regression_law(problem, optimizer).require()


def _constant_law(problem: GaussianRegression | RidgeRegression, optimizer: MomentumSGD) -> NDArray[np.float64]:
    if isinstance(problem, GaussianRegression):
        return gaussian_regression_law(problem, optimizer).constant_noise_covariance
    return ridge_regression_law(problem, optimizer).constant_noise_covariance


def _without_trace(problem: GaussianRegression | RidgeRegression, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """C(Σ) without its tr(AΣ) A: the fourth moment of a Gaussian read as the square of its second."""
    if not isinstance(problem, GaussianRegression):
        return _constant_law(problem, optimizer)
    gain = np.diag(stationary_covariance(Quadratic(problem.input_cov, np.ones(problem.dimension)), optimizer).require())
    own = gain * problem.input_cov**2 / problem.batch_size
    return np.diag(gain * problem.input_cov * problem.label_noise_variance / problem.batch_size / (1.0 - own))


def _compare_recursions(evidence: Mapping[str, Evidence], predict: LawPredictor) -> Comparison:
    item = evidence["exact-recursions"]
    grid = RecursionGrid.from_dict(item.setting)
    worst = 0.0
    for column, optimizer in enumerate(grid.optimizers):
        for name, problems in (("gaussian", grid.gaussian), ("rows", _rows_under(grid, optimizer))):
            for row, problem in enumerate(problems):
                exact = item.arrays[f"{name}_{row}_{column}"]
                error = float(np.abs(predict(problem, optimizer) - exact).max() / np.abs(exact).max())
                worst = max(worst, error)
    return Comparison(estimate=worst, interval=(worst, worst), num_tests=1)


LimitPredictor = Callable[[GaussianRegression, MomentumSGD], float]


def _mean_limit(problem: GaussianRegression, optimizer: MomentumSGD) -> float:
    return largest_stable_learning_rate(float(problem.input_cov.max()), optimizer)


def _compare_limits(evidence: Mapping[str, Evidence], predict: LimitPredictor) -> Comparison:
    item = evidence["exact-recursions"]
    grid = RecursionGrid.from_dict(item.setting)
    found = iter(item.measured["stability_limits"])
    rows, worst = [], 0.0
    for optimizer in grid.optimizers:
        for problem in grid.gaussian:
            limit = float(next(found))
            predicted = predict(problem, optimizer)
            worst = max(worst, abs(predicted / limit - 1.0))
            mean = _mean_limit(problem, optimizer)
            rows.append((optimizer.momentum, _kind_of(optimizer), problem.batch_size, limit, predicted, mean))
    return Comparison(
        estimate=worst,
        interval=(worst, worst),
        results=(
            Table(
                title="Largest stable learning rate for Gaussian inputs",
                columns=("μ", "recursion", "batch", "brute force", "predicted", "limit of the mean"),
                rows=tuple(rows),
                caption="Second moments diverge long before the mean does; at batch size 1 by a factor of tens.",
            ),
        ),
    )


def _kind_of(optimizer: MomentumSGD) -> str:
    if optimizer.nesterov:
        return "Nesterov"
    return "dampened" if optimizer.dampening else optimizer.form


# Gaussian inputs, sampled.


def _gaussian_runs(budget: str) -> SamplingRuns:
    more = 8 if budget == "full" else 1
    runs = []
    for size, optimizer, replicas in (
        (1, MomentumSGD(0.02, _MOMENTUM), 2048),
        # At η = 0.05 single replicas reach 244 times the mean of w⁴: the tail is too heavy for a test of its mean.
        (2, MomentumSGD(0.03, _MOMENTUM), 4096),
        (4, MomentumSGD(0.05, _MOMENTUM, nesterov=True), 2048),
        (16, MomentumSGD(0.05, _MOMENTUM), 1792),
    ):
        problem = GaussianRegression(input_cov=_INPUTS, label_noise_variance=_LABEL_NOISE, batch_size=size)
        rate = optimizer.learning_rate / (1 - _MOMENTUM) * float(_INPUTS.min())  # of the slowest mean
        runs.append(
            SamplingRun(
                problem=problem,
                optimizer=optimizer,
                replicas=replicas * more,
                burn_in=math.ceil(12 / rate),
                records=math.ceil(20 / rate),
                stride=3,
            )
        )
    return SamplingRuns(runs=tuple(runs))


def _compare_gaussian(evidence: Mapping[str, Evidence], predict: LawPredictor) -> Comparison:
    item = evidence["gaussian-inputs"]
    runs = SamplingRuns.from_dict(item.setting).runs
    parts, p_values, curves = [], [], []
    for index, run in enumerate(runs):
        assert isinstance(run.problem, GaussianRegression)
        predicted = np.diag(predict(run.problem, run.optimizer))
        constant = np.diag(_constant_law(run.problem, run.optimizer))
        tests = mean_tests(item.arrays[f"square_{index}"][0], predicted)
        parts.append(tests)
        p_values.append(mean_p_values(item.arrays[f"mean_{index}"][0]))
        scale = predicted / constant
        half = normal_quantile(TEST_ALPHA) * tests.error
        label = f"S={run.problem.batch_size}, {_kind_of(run.optimizer)}, η={run.optimizer.learning_rate:g}"
        curves.append(shown.measured(scale, scale * tests.ratio, scale * half, label))
    agreement = Agreement(
        title="How much state dependence inflates the variance",
        sample=Sample(min(run.replicas for run in runs), "replicas or more each"),
        quantity=Axis("variance / constant-C variance"),
        curves=tuple(curves),
        caption="Least squares on Gaussian inputs, one point a direction. The theorem with C frozen at the optimum "
        "predicts 1 for all.",
    )
    return identity_comparison(MeanTests.join(parts), extra_p_values=np.concatenate(p_values), results=(agreement,))


KurtosisPredictor = Callable[[GaussianRegression, MomentumSGD], NDArray[np.float64]]


def _compare_kurtosis(evidence: Mapping[str, Evidence], predict: KurtosisPredictor) -> Comparison:
    item = evidence["gaussian-inputs"]
    parts, rows = [], []
    for index, run in enumerate(SamplingRuns.from_dict(item.setting).runs):
        assert isinstance(run.problem, GaussianRegression)
        if run.problem.batch_size < 2:
            continue  # at batch size 1 the eighth moment, which the test's error needs, may not exist
        excess = predict(run.problem, run.optimizer)
        variance = np.diag(gaussian_regression_law(run.problem, run.optimizer).require())
        fourth = item.arrays[f"fourth_{index}"][0]
        parts.append(mean_tests(fourth, (3.0 + excess) * variance**2))
        measured = fourth.mean(axis=0) / item.arrays[f"square_{index}"][0].mean(axis=0) ** 2 - 3.0
        rows += [
            (run.problem.batch_size, _kind_of(run.optimizer), float(lam), float(one), float(two))
            for lam, one, two in zip(run.problem.input_cov, excess, measured, strict=True)
        ]
    table = Table(
        title="Excess kurtosis of the stationary weights",
        columns=("batch", "recursion", "λ", "predicted", "measured"),
        rows=tuple(rows),
        caption="A Gaussian posterior has 0.",
    )
    return identity_comparison(MeanTests.join(parts), results=(table,))


def _no_kurtosis(problem: GaussianRegression, optimizer: MomentumSGD) -> NDArray[np.float64]:
    del optimizer
    return np.zeros(problem.dimension)


_GAUSSIAN_DETECTS = 0.08
_KURTOSIS_DETECTS = 0.25


# Shuffled epochs at constant curvature.


def _shuffled_runs(budget: str) -> SamplingRuns:
    more = 4 if budget == "full" else 1
    return SamplingRuns(
        runs=(
            SamplingRun(
                problem=FiniteSum(curvatures=np.array([0.1, 1.0, 10.0, 25.0]), offsets=_offsets(30, 4), batch_size=3),
                optimizer=MomentumSGD(0.1, 0.5),
                replicas=2048 * more,
                burn_in=60,
                records=40,
                phases=tuple(range(1, 11)),
            ),
            SamplingRun(
                problem=FiniteSum(
                    curvatures=np.array([0.1, 1.0, 10.0, 25.0]),
                    offsets=_offsets(30, 4),
                    batch_size=3,
                    fresh_variances=np.array([0.02, 0.1, 0.3, 0.5]),
                ),
                optimizer=MomentumSGD(0.1, 0.5, nesterov=False),
                replicas=2048 * more,
                burn_in=60,
                records=30,
                phases=(5, 10),
            ),
            SamplingRun(
                problem=FiniteSum(curvatures=np.array([0.01, 0.1, 1.0, 10.0]), offsets=_offsets(391, 4), batch_size=1),
                optimizer=MomentumSGD(0.01, 0.9),
                replicas=768 * more,
                burn_in=16,
                records=36,
                phases=(20, 98, 196, 293, 391),
            ),
        )
    )


def _offsets(num_rows: int, count: int) -> NDArray[np.float64]:
    """Skewed per-sample gradients with mean 0: nothing about (3) needs a symmetric law."""
    values = np.random.default_rng(num_rows).exponential(size=(num_rows, count))
    values -= values.mean(axis=0)
    return values - values.mean(axis=0)


FactorPredictor = Callable[..., NDArray[np.float64]]


def _compare_shuffled(evidence: Mapping[str, Evidence], predict: FactorPredictor) -> Comparison:
    item = evidence["shuffled-sampler"]
    parts, courses, rows = [], [], []
    for index, run in enumerate(SamplingRuns.from_dict(item.setting).runs):
        problem, optimizer = run.problem, run.optimizer
        assert isinstance(problem, FiniteSum)
        count, size = problem.num_rows, problem.batch_size
        repeated = problem.offsets.var(axis=0) / size * (count - size) / (count - 1)
        total = repeated + (0.0 if problem.fresh_variances is None else problem.fresh_variances)
        white = stationary_variance(Quadratic(problem.curvatures, total), optimizer)

        factors = {
            phase: predict(
                optimizer.learning_rate,
                optimizer.momentum,
                problem.curvatures,
                problem.batches_per_epoch,
                phase,
                repeated / total,
            )
            for phase in (*run.phases, "mean")
        }
        square = item.arrays[f"square_{index}"]
        found, errors = [], []
        for place, phase in enumerate(run.phases):
            tests = mean_tests(square[place], white * factors[phase])
            parts.append(tests)
            found.append(tests.ratio * factors[phase])
            errors.append(tests.error * factors[phase])
        if len(run.phases) == problem.batches_per_epoch:
            tests = mean_tests(square.mean(axis=0), white * factors["mean"])
            parts.append(tests)
        for mode, lam in enumerate(problem.curvatures):
            for place, phase in enumerate(run.phases):
                rows.append(
                    (
                        problem.batches_per_epoch,
                        optimizer.momentum,
                        optimizer.learning_rate,
                        float(lam),
                        round(float((repeated / total)[mode]), 3),
                        phase,
                        float(factors[phase][mode]),
                        float(found[place][mode]),
                    )
                )
        if index == 2 and predict is epoch_shuffling_factor:
            courses.append(_cycle(run, problem, predict, np.array(found), np.array(errors)))
    return identity_comparison(
        MeanTests.join(parts),
        results=(
            *courses,
            Table(
                title="Variance under shuffled epochs over the white-noise variance",
                columns=("M", "μ", "η", "λ", "repeated share", "step", "predicted", "measured"),
                rows=tuple(rows),
                caption="Step M is the end of an epoch, where checkpoints are taken.",
            ),
        ),
    )


def _cycle(
    run: SamplingRun,
    problem: FiniteSum,
    predict: FactorPredictor,
    found: NDArray[np.float64],
    error: NDArray[np.float64],
) -> TimeCourse:
    count = problem.batches_per_epoch
    phases = np.asarray(run.phases, dtype=int)
    steps = np.union1d(np.linspace(0, count, 120).astype(int), phases)
    eta, mu = run.optimizer.learning_rate, run.optimizer.momentum
    laws = np.array([predict(eta, mu, problem.curvatures, count, int(step), 1.0) for step in steps])
    z = normal_quantile(TEST_ALPHA)
    curves: list[Curve] = []
    for mode, lam in enumerate(problem.curvatures):
        name = f"ηλ = {eta * lam:g}"
        curves += [
            shown.predicted(steps, laws[:, mode], name),
            shown.measured(phases, found[:, mode], z * error[:, mode], name),
        ]
    return TimeCourse(
        title=f"The posterior breathes with the epoch (M = {count}, μ = {mu:g})",
        sample=Sample(run.replicas, "replicas"),
        x=Axis("time into the epoch", "steps"),
        y=Axis("variance / white-noise variance"),
        curves=tuple(curves),
        caption="A real shuffling sampler. The white-noise theorem is 1 everywhere.",
    )


def _white_factor(
    eta: float, mu: float, lam: NDArray[np.float64], count: int, phase: Phase, share: NDArray[np.float64]
) -> NDArray[np.float64]:
    del eta, mu, count, phase, share
    return np.ones_like(lam)


def _mean_everywhere(
    eta: float, mu: float, lam: NDArray[np.float64], count: int, phase: Phase, share: NDArray[np.float64]
) -> NDArray[np.float64]:
    del phase
    return epoch_shuffling_factor(eta, mu, lam, count, "mean", share)


def _all_repeats(
    eta: float, mu: float, lam: NDArray[np.float64], count: int, phase: Phase, share: NDArray[np.float64]
) -> NDArray[np.float64]:
    del share
    return epoch_shuffling_factor(eta, mu, lam, count, phase, 1.0)


_SHUFFLED_DETECTS = 0.15


# Real regressions.


@functools.cache
def _study(data: str, budget: str) -> RegressionStudy:
    more = 4 if budget == "full" else 1
    try:
        table = load_table(data)
    except MissingPackageError:
        return RegressionStudy(data=data, digest="", ridge=0.0, cells=())
    inputs, targets = table.standardized()
    ridge, plan = _PLANS[data]
    cells = []
    for size, sampling, learning_rate, replicas, relaxations in plan:
        problem = RidgeRegression(inputs=inputs, targets=targets, ridge=ridge, batch_size=size, sampling=sampling)
        optimizer = MomentumSGD(learning_rate, _MOMENTUM)
        cells.append(plan_cell(problem, optimizer, replicas=replicas * more, relaxations=relaxations))
    return RegressionStudy(data=data, digest=table.digest, ridge=ridge, cells=tuple(cells))


_WITH, _WITHOUT, _EPOCHS = Sampling.WITH_REPLACEMENT, Sampling.WITHOUT_REPLACEMENT, Sampling.SHUFFLED_EPOCHS
#: Ridge, and (batch size, sampling, η, replicas, relaxation times recorded) of every cell.
_PLANS = {
    "diabetes": (
        0.1,
        (
            (4, _WITH, 0.02, 1024, 24),
            (4, _EPOCHS, 0.01, 1536, 20),
            (16, _WITH, 0.05, 1024, 24),
            (16, _WITHOUT, 0.05, 1024, 24),
            (16, _EPOCHS, 0.05, 1024, 20),
            (32, _WITHOUT, 0.05, 1024, 24),
            (64, _EPOCHS, 0.05, 1024, 16),
        ),
    ),
    "digits": (
        0.5,
        (
            (64, _WITH, 0.004, 512, 32),
            (128, _EPOCHS, 0.0036, 512, 20),
        ),
    ),
}


def _run_regression(
    setting: RegressionStudy, seed: int, progress: Progress
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if not setting.cells:
        return {"skipped": "scikit-learn, which holds the tables, is not installed (extra `data`)"}, {}
    return run_study(setting, seed, progress)


_REGRESSIONS = ("regression-diabetes", "regression-digits")


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="exact-recursions",
        title="second moments of mini-batch momentum SGD by brute force (no sampling error)",
        setting=_recursion_grid,
        run=_run_recursions,
    ),
    Experiment(
        name="gaussian-inputs",
        title="least squares on fresh Gaussian inputs, batch sizes 1 to 16",
        setting=_gaussian_runs,
        run=_run_all,
    ),
    Experiment(
        name="shuffled-sampler",
        title="quadratics of one curvature under a real shuffling sampler, several phases of the epoch",
        setting=_shuffled_runs,
        run=_run_all,
    ),
    *(
        Experiment(
            name=f"regression-{data}",
            title=f"ridge regression on the {data} table by real mini-batch momentum SGD",
            setting=functools.partial(_study, data),
            run=_run_regression,
        )
        for data in ("diabetes", "digits")
    ),
    *averaging.EXPERIMENTS,
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="state-dependent-recursion",
        statement="Σ_ij = G_ij C_ij(Σ) solves the exact recursion of second moments, for Gaussian inputs in closed "
        "form and for given rows by their fourth moments, to 1e-12",
        source="docs/mathematics.md (N1); theory.closed_form.minibatch (1)–(3)",
        kind=Kind.IDENTITY,
        experiments=("exact-recursions",),
        assumptions=("batches independent of each other",),
        predict=_exact_law,
        decoys={"constant C": _constant_law, "no tr(AΣ) A": _without_trace},
        compare=_compare_recursions,
        margin=1e-12,
    ),
    Claim(
        name="state-dependent-stability",
        statement="a stationary second moment exists iff u_i < 1 and k < 1, stricter than ηλ < 2(1+μ)",
        source="docs/mathematics.md (N1); theory.closed_form.minibatch (2)",
        kind=Kind.IDENTITY,
        experiments=("exact-recursions",),
        assumptions=("Gaussian inputs",),
        predict=second_moment_stability_limit,
        decoys={"limit of the mean, ηλ = 2(1+μ)": _mean_limit},
        compare=_compare_limits,
        margin=1e-9,
    ),
    Claim(
        name="state-dependent-noise",
        statement="Σ_ii = G_ii α_i (T+σ²)/(S(1−u_i)), T = σ² k/(1−k): noise that grows with the weights' own variance",
        source="Ziyin, Liu, Mori & Ueda, arXiv:2102.05375 (μ = 0); momentum derived in theory.closed_form.minibatch",
        kind=Kind.IDENTITY,
        experiments=("gaussian-inputs",),
        assumptions=("Gaussian inputs", "batches independent"),
        predict=_exact_law,
        decoys={"constant C": _constant_law, "no tr(AΣ) A": _without_trace},
        compare=_compare_gaussian,
        num_tests=24,
        detects=_GAUSSIAN_DETECTS,
    ),
    Claim(
        name="state-dependent-kurtosis",
        statement="the stationary law is not Gaussian: its fourth moment solves the linear equation of "
        "theory.closed_form.minibatch",
        source="theory.closed_form.minibatch (Kurtosis)",
        kind=Kind.IDENTITY,
        experiments=("gaussian-inputs",),
        assumptions=("Gaussian inputs", "batches independent"),
        predict=gaussian_regression_kurtosis,
        decoys={"Gaussian posterior": _no_kurtosis},
        compare=_compare_kurtosis,
        num_tests=9,
        detects=_KURTOSIS_DETECTS,
    ),
    Claim(
        name="shuffled-epochs",
        statement="under shuffled epochs the law is cyclostationary: P_t = F^t P_0 F^tᵀ + Q_t, noise anticorrelated, "
        "and on average 1 + 2 Σ_h c_h ρ_h, c_h = −(M−h)/(M(M−1))",
        source="docs/mathematics.md (N2); Kühn & Rosenow, arXiv:2306.05300; theory.closed_form.shuffling (2), (3)",
        kind=Kind.IDENTITY,
        experiments=("shuffled-sampler",),
        assumptions=("constant curvature", "a fresh permutation every epoch"),
        predict=epoch_shuffling_factor,
        decoys={
            "white noise": _white_factor,
            "epoch average at every phase": _mean_everywhere,
            "fresh noise counted as repeated": _all_repeats,
        },
        compare=_compare_shuffled,
        num_tests=72,
        detects=_SHUFFLED_DETECTS,
    ),
    *regression_claims(_REGRESSIONS, independent=2 * (4 * 10 + 61), shuffled=2 * (3 * 10 + 61)),
    *averaging.CLAIMS,
)
