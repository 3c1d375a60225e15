r"""Ridge regression on real tables: what is run, how it is compared with predictions, and what closes the gap.

The evidence is mini-batch momentum SGD on the rows themselves. Deviations are taken from the least-squares solution and
along the singular directions of the inputs, both from LAPACK; a prediction is any covariance matrix.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims import shown
from theory.claims.replicates import (
    MeanTests,
    equivalence_comparison,
    identity_comparison,
    mean_p_values,
    mean_tests,
    variance_replicates,
)
from theory.closed_form.continuous_time import continuous_time_covariance
from theory.closed_form.minibatch import MinibatchLaw, ridge_regression_law, shuffled_regression_law
from theory.closed_form.stationary import stationary_covariance
from theory.data import RegressionTable, load_table
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Kind, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Agreement, Axis, Sample, Table
from theory.judge.statistics import normal_quantile
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import RidgeRegression, Sampling
from theory.model.setting import Setting, keyword_setting
from theory.oracle.sampling import SamplingRun, simulate_sampling
from theory.solution import UnstableError

#: Steps a run may take; a slower direction needs more ridge or a larger learning rate.
MAX_STEPS = 200_000
#: Share of the start's error in a variance that burn-in may leave.
LEFT_OVER = 1e-5

Covariance = NDArray[np.float64]
#: (cell's problem, optimizer, phase) to the predicted covariance of the weights.
Predictor = Callable[[RidgeRegression, MomentumSGD, int | None], Covariance]


@keyword_setting
class RegressionCell(Setting):
    """One optimizer, batch size and sampling scheme on the table of a study; counts as in `SamplingRun`."""

    batch_size: int
    sampling: str
    learning_rate: float
    momentum: float
    replicas: int
    burn_in: int
    records: int
    stride: int = 1
    phases: tuple[int, ...] = ()

    @property
    def optimizer(self) -> MomentumSGD:
        """Momentum SGD of this cell."""
        return MomentumSGD(self.learning_rate, self.momentum)

    @property
    def label(self) -> str:
        """For tables and legends."""
        return f"S={self.batch_size}, {self.sampling}"


@keyword_setting
class RegressionStudy(Setting):
    """A standardised table, a ridge, and the cells run on it.

    Args:
        data: as in `load_table`.
        target: as in `load_table`.
        digest: of the table, so that evidence cannot be mistaken for another table's.
        ridge: κ, in units of the standardised inputs' variance.
        cells: what is run.
        encoding: as in `load_table`.
        delimiter: as in `load_table`.
        ignore: as in `load_table`.
        drop_constant: as in `load_table`.
    """

    data: str
    digest: str
    ridge: float
    cells: tuple[RegressionCell, ...]
    target: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    ignore: tuple[str, ...] = ()
    drop_constant: bool = False

    def load(self) -> RegressionTable:
        """The table.

        Raises:
            ValueError: if it is no longer the one the study was planned for.
        """
        table = load_table(
            self.data,
            self.target,
            encoding=self.encoding,
            delimiter=self.delimiter,
            ignore=self.ignore,
            drop_constant=self.drop_constant,
        )
        if table.digest != self.digest:
            raise ValueError(
                f"`RegressionStudy(digest=...)` must be that of {self.data}: {table.digest}; got {self.digest}."
            )
        return table

    def problem(self, cell: RegressionCell, table: RegressionTable) -> RidgeRegression:
        """The regression of one cell."""
        inputs, targets = table.standardized()
        return RidgeRegression(
            inputs=inputs,
            targets=targets,
            ridge=self.ridge,
            batch_size=cell.batch_size,
            sampling=Sampling(cell.sampling),
        )


def plan_cell(problem: RidgeRegression, optimizer: MomentumSGD, *, replicas: int, relaxations: float) -> RegressionCell:
    """How long to run: burn-in until `LEFT_OVER`, then so many relaxation times of the slowest direction.

    Raises:
        UnstableError: if no stationary second moment exists.
        ValueError: if that would take more than `MAX_STEPS` steps.
    """
    law = _independent_law(_Case.of(problem, optimizer))
    noise, scale = float(np.trace(law.noise_cov_at_optimum)), float(np.trace(law.noise_cov)) + np.finfo(float).tiny
    targets = float(np.mean(problem.targets**2)) * float(law.curvatures.max())
    if noise <= 1e-20 * targets or not noise <= scale:
        raise ValueError(
            "the regression must have gradient noise at its optimum; it has none "
            f"(batch size {problem.batch_size} of {problem.num_rows} rows, or a perfect fit)."
        )
    white = stationary_covariance(Quadratic(law.curvatures, np.ones_like(law.curvatures)), optimizer)
    rate = -2.0 * math.log(white.spectral_radius) * (1.0 - law.feedback)
    burn_in, recorded = math.ceil(-math.log(LEFT_OVER) / rate), math.ceil(2.0 * relaxations / rate)
    if burn_in + recorded > MAX_STEPS:
        raise ValueError(
            f"`--ridge` or `--learning-rate` must let the flattest direction (curvature {law.curvatures.min():.3g}) "
            f"settle within {MAX_STEPS} steps; it needs {burn_in + recorded}."
        )
    stride, phases = 1, ()
    if problem.sampling is Sampling.SHUFFLED_EPOCHS:
        count = problem.batches_per_epoch
        burn_in, records = max(2, math.ceil(burn_in / count)), max(4, math.ceil(recorded / count))
        phases = (max(1, count // 2), count)
    else:
        stride = max(1, min(8, recorded // 64))
        records = math.ceil(recorded / stride)
    return RegressionCell(
        batch_size=problem.batch_size,
        sampling=problem.sampling.value,
        learning_rate=optimizer.learning_rate,
        momentum=optimizer.momentum,
        replicas=replicas,
        burn_in=burn_in,
        records=records,
        stride=stride,
        phases=phases,
    )


def run_study(study: RegressionStudy, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Run every cell; arrays ``mean_k``, ``square_k`` of shape (phases, replicas, m) and the frame they are seen in."""
    table = study.load()
    inputs, targets = table.standardized()
    count, size = inputs.shape
    # Least squares with the ridge as extra rows, and the singular directions: LAPACK, not the closed form.
    stacked = np.concatenate([inputs, math.sqrt(count * study.ridge) * np.eye(size)])
    optimum = np.asarray(
        np.linalg.lstsq(stacked, np.concatenate([targets, np.zeros(size)]), rcond=None)[0], dtype=np.float64
    )
    _, singular, right = np.linalg.svd(inputs, full_matrices=False)
    # Directions in which no row varies carry no gradient noise, and no variance to compare.
    directions = right[singular > singular.max() * max(inputs.shape) * np.finfo(np.float64).eps].T
    arrays: dict[str, NDArray] = {"optimum": optimum, "directions": directions}
    for index, cell in enumerate(study.cells):
        run = SamplingRun(
            problem=study.problem(cell, table),
            optimizer=cell.optimizer,
            replicas=cell.replicas,
            burn_in=cell.burn_in,
            records=cell.records,
            stride=cell.stride,
            phases=cell.phases,
            start=optimum,
            directions=directions,
        )
        moments = simulate_sampling(
            run, seed=seed + index, progress=lambda done, index=index: progress((index + done) / len(study.cells))
        )
        arrays[f"mean_{index}"], arrays[f"square_{index}"] = moments.mean, moments.square
    return {"rows": count, "columns": list(table.columns), "target": table.target, "notes": list(table.notes)}, arrays


@dataclass(frozen=True)
class _Case:
    """A problem, an optimizer and a phase, compared by their numbers: laws are asked for many times over."""

    problem: RidgeRegression = field(compare=False)
    optimizer: MomentumSGD = field(compare=False)
    phase: int | None
    key: tuple[Any, ...]

    @classmethod
    def of(cls, problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None = None) -> _Case:
        digest = hashlib.sha256(problem.inputs.tobytes() + problem.targets.tobytes()).digest()
        numbers = (digest, problem.ridge, problem.batch_size, problem.sampling, repr(optimizer))
        return cls(problem, optimizer, phase, numbers)


@functools.lru_cache(maxsize=64)
def _independent_law(case: _Case) -> MinibatchLaw:
    return ridge_regression_law(case.problem, case.optimizer)


@functools.lru_cache(maxsize=64)
def _shuffled_law(case: _Case) -> MinibatchLaw:
    return shuffled_regression_law(case.problem, case.optimizer, "mean" if case.phase is None else case.phase)


def continuous_time(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """C frozen at the optimum, batches independent, and η → 0: AS + SA = ηC/(1−μ)."""
    del phase
    law = _independent_law(_Case.of(problem, optimizer))
    hessian = (law.basis * law.curvatures) @ law.basis.T
    return continuous_time_covariance(Quadratic(0.5 * (hessian + hessian.T), law.noise_cov_at_optimum), optimizer)


def constant_white(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """C frozen at the optimum, batches independent: the theorem as it is usually applied."""
    del phase
    return _independent_law(_Case.of(problem, optimizer)).constant_noise_covariance


def state_white(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """The data's own fourth moments, batches independent."""
    del phase
    return _independent_law(_Case.of(problem, optimizer)).require()


def constant_shuffled(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """C frozen at the optimum, shuffled epochs."""
    return _law(problem, optimizer, phase).constant_noise_covariance


def state_shuffled(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """Both corrections; for independent batches, state dependence alone (exact)."""
    return _law(problem, optimizer, phase).require()


def with_replacement(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """State dependence, but the finite population forgotten."""
    del phase
    return _independent_law(_Case.of(replace(problem, sampling=Sampling.WITH_REPLACEMENT), optimizer)).require()


def gaussian_fourth_moments(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> Covariance:
    """State dependence as if the rows were Gaussian: 𝒞(Σ) = f/S (AΣA + tr(AΣ)A), C_0 the data's own."""
    del phase
    law = _independent_law(_Case.of(problem, optimizer))
    hessian = (law.basis * law.curvatures) @ law.basis.T
    inputs = hessian - problem.ridge * np.eye(len(hessian))
    share = 1.0
    if problem.sampling is not Sampling.WITH_REPLACEMENT:
        share = (problem.num_rows - problem.batch_size) / (problem.num_rows - 1)
    cov = law.constant_noise_covariance
    for _ in range(500):
        state = share / problem.batch_size * (inputs @ cov @ inputs + np.trace(inputs @ cov) * inputs)
        noise = law.noise_cov_at_optimum + state
        new = stationary_covariance(Quadratic(hessian, 0.5 * (noise + noise.T)), optimizer).require()
        if np.abs(new - cov).max() <= 1e-12 * np.abs(new).max():
            return new
        cov = new
    raise UnstableError("the Gaussian fourth-moment law did not converge.")


def _law(problem: RidgeRegression, optimizer: MomentumSGD, phase: int | None) -> MinibatchLaw:
    if problem.sampling is Sampling.SHUFFLED_EPOCHS:
        return _shuffled_law(_Case.of(problem, optimizer, phase))
    return _independent_law(_Case.of(problem, optimizer))


@dataclass(frozen=True)
class CellResult:
    """One cell at one phase against one predictor."""

    study: RegressionStudy
    cell: RegressionCell
    phase: int | None
    predicted: NDArray[np.float64]  # variances along the directions
    tests: MeanTests
    mean: NDArray[np.float64]  # (R, m) deviations from the optimum

    @property
    def label(self) -> str:
        """Which cell, in words."""
        when = "" if self.phase is None else f", step {self.phase} of {max(self.cell.phases)}"
        return f"{self.study.data}, {self.cell.label}{when}"


def cell_results(
    evidence: Evidence, predictor: Predictor, wanted: Callable[[RegressionCell], bool] = lambda cell: True
) -> list[CellResult]:
    """Predicted against measured variances of every wanted cell and phase."""
    study = RegressionStudy.from_dict(evidence.setting)
    table = study.load()
    directions = evidence.arrays["directions"]
    results = []
    for index, cell in enumerate(study.cells):
        if not wanted(cell):
            continue
        problem = study.problem(cell, table)
        mean, square = evidence.arrays[f"mean_{index}"], evidence.arrays[f"square_{index}"]
        for place, phase in enumerate(cell.phases or (None,)):
            cov = predictor(problem, cell.optimizer, phase)
            predicted = np.einsum("ik,ij,jk->k", directions, cov, directions)
            tests = mean_tests(variance_replicates(square[place], mean[place]), predicted)
            results.append(CellResult(study, cell, phase, predicted, tests, mean[place]))
    return results


def is_shuffled(cell: RegressionCell) -> bool:
    """Whether the cell's batches share a permutation."""
    return cell.sampling == Sampling.SHUFFLED_EPOCHS


def is_independent(cell: RegressionCell) -> bool:
    """Whether the cell's batches are independent."""
    return not is_shuffled(cell)


#: The theories in order of what they know.
THEORIES: Mapping[str, Predictor] = {
    "constant C, continuous time": continuous_time,
    "constant C, white": constant_white,
    "C(Σ), white": state_white,
    "constant C, shuffled": constant_shuffled,
    "C(Σ), shuffled": state_shuffled,
}


def correction_table(evidence: Iterable[Evidence]) -> Table:
    """For every cell: the worst relative error of each theory, and which correction closes most of the gap."""
    rows = []
    for item in evidence:
        by_theory = {name: cell_results(item, predictor) for name, predictor in THEORIES.items()}
        for index, result in enumerate(by_theory["C(Σ), shuffled"]):
            errors = {
                name: float(np.max(np.abs(np.log(found[index].tests.ratio)))) for name, found in by_theory.items()
            }
            noise = float(normal_quantile(TEST_ALPHA) * result.tests.error.max())
            rows.append(
                (
                    result.label,
                    result.cell.learning_rate,
                    *(round(math.expm1(error), 4) for error in errors.values()),
                    round(noise, 4),
                    _closed_by(errors, is_shuffled(result.cell), noise),
                )
            )
    return Table(
        title="Worst relative error over all eigen-directions, by what the prediction knows",
        columns=("regression", "η", *THEORIES, "resolution", "the gap is closed by"),
        rows=tuple(rows),
        caption="Error: the larger of measured/predicted and predicted/measured, minus 1. Resolution: half-width of "
        "the widest interval at the family's level; errors below it are not told from 0.",
    )


def _closed_by(errors: Mapping[str, float], shuffled: bool, noise: float) -> str:
    plain = errors["constant C, white"]
    if plain <= noise:
        return "nothing to close"
    if not shuffled:
        return "state dependence"
    gains = {
        "state dependence": errors["constant C, shuffled"] - errors["C(Σ), shuffled"],
        "shuffling": errors["C(Σ), white"] - errors["C(Σ), shuffled"],
    }
    needed = [name for name, gain in gains.items() if gain > max(noise, 0.1 * plain)]
    return " and ".join(needed) if needed else "neither alone"


def variance_agreement(evidence: Iterable[Evidence]) -> Agreement:
    """Measured against predicted variance of every regression and direction."""
    curves, least = [], []
    reach = normal_quantile(TEST_ALPHA)
    for item in evidence:
        for result in cell_results(item, state_shuffled):
            measured = result.tests.ratio * result.predicted
            half = reach * result.tests.error * result.predicted
            curves.append(shown.measured(result.predicted, measured, half, result.label))
            least.append(len(result.mean))
    return Agreement(
        title="Weight variance of real ridge regressions, every eigen-direction",
        sample=Sample(min(least), "replicas or more each"),
        quantity=Axis("variance of a weight"),
        curves=tuple(curves),
        caption="Mini-batch momentum SGD on the rows themselves; predicted with the exact C(Σ), shuffled epochs by "
        "phase.",
    )


#: Relative error of a variance that the exact law would be caught at (its claim's power is stated for it).
DETECTS = 0.15
#: Feedback of the state-dependent noise up to which the law of shuffled epochs is claimed.
SHUFFLED_REGION = 0.2
#: Half-width of the region in which the approximate law of shuffled epochs counts as right.
SHUFFLED_MARGIN = 0.20


def regression_claims(experiments: tuple[str, ...], *, independent: int, shuffled: int) -> tuple[Claim, ...]:
    """The exact claim about independent batches and the approximate one about shuffled epochs.

    Args:
        experiments: names of the evidence, each with a `RegressionStudy` as its setting.
        independent: number of tests in the cells with independent batches; 0 leaves the claim out.
        shuffled: number of tests in the cells with shuffled epochs; 0 leaves the claim out.
    """
    exact = Claim(
        name="minibatch-regression",
        statement="on real tables, with batches drawn independently, Σ_ij = G_ij C_ij(Σ) with the data's own fourth "
        "moments holds in every eigen-direction",
        source="docs/mathematics.md (N1); theory.closed_form.minibatch (1), (3)",
        kind=Kind.IDENTITY,
        experiments=experiments,
        assumptions=("least squares", "batches independent, with or without replacement"),
        predict=state_white,
        decoys={
            "constant C": constant_white,
            "Gaussian fourth moments": gaussian_fourth_moments,
            "finite population forgotten": with_replacement,
        },
        compare=_compare_independent,
        num_tests=max(1, independent),
        detects=DETECTS,
    )
    approximate = Claim(
        name="minibatch-regression-shuffled",
        statement="on real tables under shuffled epochs, Σ_phase = Σ_shuffled(C_0, phase) + G∘𝒞(Σ̄) within the margin "
        f"in every eigen-direction, feedback of 𝒞 below {SHUFFLED_REGION:g}",
        source="docs/mathematics.md (N1), (N2); theory.closed_form.minibatch (4)",
        kind=Kind.APPROXIMATION,
        experiments=experiments,
        assumptions=("least squares", f"feedback of the state-dependent noise below {SHUFFLED_REGION:g}"),
        predict=state_shuffled,
        decoys={
            "white noise, constant C": constant_white,
            "white noise, C(Σ)": state_white,
            "shuffled, constant C": constant_shuffled,
        },
        compare=_compare_shuffled,
        num_tests=max(1, shuffled),
        margin=SHUFFLED_MARGIN,
    )
    return tuple(claim for claim, count in ((exact, independent), (approximate, shuffled)) if count)


def _missing(evidence: Mapping[str, Evidence]) -> Comparison | None:
    reasons = [str(item.measured["skipped"]) for item in evidence.values() if "skipped" in item.measured]
    return Comparison(estimate=0.0, interval=(0.0, 0.0), not_applicable=reasons[0]) if reasons else None


def _compare_independent(evidence: Mapping[str, Evidence], predict: Predictor) -> Comparison:
    missing = _missing(evidence)
    if missing is not None:
        return missing
    results = [result for item in evidence.values() for result in cell_results(item, predict, is_independent)]
    return identity_comparison(
        MeanTests.join([result.tests for result in results]),
        extra_p_values=np.concatenate([mean_p_values(result.mean) for result in results]),
        results=(
            (variance_agreement(evidence.values()), correction_table(evidence.values()))
            if predict is state_white
            else ()
        ),
    )


def _compare_shuffled(evidence: Mapping[str, Evidence], predict: Predictor) -> Comparison:
    missing = _missing(evidence)
    if missing is not None:
        return missing
    results = [result for item in evidence.values() for result in cell_results(item, predict, is_shuffled)]
    return equivalence_comparison(MeanTests.join([result.tests for result in results]), SHUFFLED_MARGIN)
