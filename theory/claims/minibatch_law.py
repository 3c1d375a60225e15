r"""Claims about mini-batches whose curvature varies: moments along the way, and the edge above which they diverge."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from theory.claims.replicates import MeanTests, equivalence_comparison, mean_tests
from theory.closed_form.edge import mean_square_edge
from theory.closed_form.minibatch_moments import minibatch_second_moments
from theory.closed_form.stability import largest_stable_learning_rate
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Kind, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Band, Curve, Role, Sample, Table, TimeCourse
from theory.judge.statistics import normal_quantile
from theory.model.optimizer import MomentumSGD
from theory.model.regression import RidgeRegression, Sampling
from theory.model.setting import Setting, keyword_setting
from theory.oracle.affine_batches import AffineBatches, enumerated_moments, sampled_weights, simulated_growth
from theory.oracle.second_moment import enumerated_second_moment

Array = NDArray[np.float64]

#: Second moments after every step of a run, ``(T, k, k)``.
MomentPredictor = Predictor[[AffineBatches], Array]
EdgePredictor = Predictor[[Array, int, MomentumSGD, Sampling], float]

#: Step of the difference quotient in the spread of curvatures.
_SPREAD = 1e-3
_MOMENTS_MARGIN = 0.1
_EDGE_MARGIN = 0.02


def law(run: AffineBatches) -> Array:
    """Equation (P2)."""
    found = minibatch_second_moments(
        run.slopes,
        run.curvatures,
        run.optimizer,
        run.learning_rates,
        run.batch_sizes,
        sampling=run.sampling,
        start_position=run.start_position,
        initial_mean=np.concatenate([run.first_weights(), np.zeros(run.slopes.shape[1])]),
    )
    return found.second


def additive(run: AffineBatches) -> Array:
    """(P1): every sample has the mean curvature."""
    return law(_spread(run, 0.0))


def shuffling_ignored(run: AffineBatches) -> Array:
    """Each batch on its own, without replacement."""
    sizes = run.batch_sizes if run.sampling is Sampling.SHUFFLED_EPOCHS else run.batch_sizes[:1]
    return law(replace(run, sampling=Sampling.WITHOUT_REPLACEMENT, batch_sizes=sizes))


def without_cross_terms(run: AffineBatches) -> Array:
    """Curvature noise that knows nothing of the slopes: the part of (P2) even in A_n − Ā."""
    return 0.5 * (law(run) + law(_spread(run, -1.0)))


def population_forgotten(run: AffineBatches) -> Array:
    """N taken as infinite where a batch has no repeats, and as finite where it has."""
    other = {
        Sampling.WITH_REPLACEMENT: Sampling.WITHOUT_REPLACEMENT,
        Sampling.WITHOUT_REPLACEMENT: Sampling.WITH_REPLACEMENT,
    }
    return law(replace(run, sampling=other.get(run.sampling, run.sampling)))


def _spread(run: AffineBatches, factor: float) -> AffineBatches:
    mean = run.curvatures.mean(axis=0)
    return replace(run, curvatures=mean + factor * (run.curvatures - mean))


@keyword_setting
class Runs(Setting):
    """Several runs that one claim looks at together, and how many replicas draw each (0: enumerated)."""

    runs: tuple[AffineBatches, ...]
    replicas: int = 0
    record: tuple[int, ...] = ()


def _samples(count: int, k: int, seed: int, spread: float = 1.0) -> tuple[Array, Array]:
    """Skewed slopes and curvatures, loud samples also being the steep ones."""
    rng = np.random.default_rng(seed)
    loud = rng.lognormal(sigma=0.7, size=(count, 1))
    slopes = loud * rng.standard_normal((count, k))
    slopes -= slopes.mean(axis=0)
    inputs = loud * rng.standard_normal((count, k)) / np.sqrt(np.mean(loud**2))
    curvatures = inputs[:, :, None] * inputs[:, None, :]
    mean = curvatures.mean(axis=0)
    return slopes, mean + spread * (curvatures - mean)


_OPTIMIZERS = (
    MomentumSGD(0.1),
    MomentumSGD(0.1, 0.5),
    MomentumSGD(0.1, 0.5, nesterov=True),
    MomentumSGD(0.1, 0.5, dampening=0.2, weight_decay=0.1),
    MomentumSGD(0.1, 0.5, form="position"),
)


def _decaying(steps: int) -> Array:
    return np.where(np.arange(steps) < steps // 2, 0.1, 0.04)


def _independent_runs(budget: str) -> Runs:
    del budget
    slopes, curvatures = _samples(5, 2, 3)
    return Runs(
        runs=tuple(
            AffineBatches(
                slopes=slopes + 0.1,
                curvatures=curvatures,
                optimizer=optimizer,
                learning_rates=_decaying(6),
                batch_sizes=(2,),
                sampling=sampling,
                start=np.array([1.0, -0.5]),
            )
            for optimizer in _OPTIMIZERS
            for sampling in (Sampling.WITH_REPLACEMENT, Sampling.WITHOUT_REPLACEMENT)
        )
    )


def _epoch_runs(budget: str) -> Runs:
    """Pairs of runs whose curvatures differ by ±`_SPREAD` of their spread."""
    del budget
    runs = []
    for count, sizes in ((6, (2, 2, 2)), (5, (2, 2, 1)), (5, (1, 1, 1, 1, 1)), (6, (2, 2))):
        for optimizer in _OPTIMIZERS:
            for spread in (_SPREAD, -_SPREAD):
                slopes, curvatures = _samples(count, 2, 4, spread)
                runs.append(
                    AffineBatches(
                        slopes=slopes,
                        curvatures=curvatures,
                        optimizer=optimizer,
                        learning_rates=_decaying(2 * len(sizes)),
                        batch_sizes=sizes,
                        start=np.array([0.4, -0.3]) if len(sizes) == 3 else None,
                    )
                )
    return Runs(runs=tuple(runs))


def _drawn_runs(budget: str) -> Runs:
    slopes, curvatures = _samples(300, 3, 12)
    steps = 40
    run = AffineBatches(
        slopes=slopes,
        curvatures=0.3 * curvatures,
        optimizer=MomentumSGD(0.1, 0.9),
        learning_rates=np.full(steps, 0.1),
        batch_sizes=(32,) * 9 + (12,),
    )
    return Runs(runs=(run,), replicas=196_608 * (4 if budget == "full" else 1), record=(5, 10, 15, 20, 30, 40))


def _run_enumerated(setting: Runs, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    del seed  # nothing is drawn
    arrays = {}
    for index, run in enumerate(setting.runs):
        progress(index / len(setting.runs))
        found = enumerated_moments(run)
        arrays[f"second_{index}"] = found.covariance + found.mean[:, :, None] * found.mean[:, None, :]
    return {"runs": len(setting.runs)}, arrays


#: Groups of replicas whose means are kept.
_GROUPS = 4_096


def _run_drawn(setting: Runs, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    arrays = {}
    for index, run in enumerate(setting.runs):
        progress(index / len(setting.runs))
        weights = sampled_weights(run, replicas=setting.replicas, record=setting.record, seed=seed + index)
        basis = np.linalg.eigh(run.curvatures.mean(axis=0))[1]
        square = (weights @ basis) ** 2
        # Means over groups of replicas are replicates as good, and dozens of times fewer.
        group = setting.replicas // _GROUPS if setting.replicas % _GROUPS == 0 else 1
        arrays[f"square_{index}"] = square.reshape(len(square), -1, group, square.shape[2]).mean(axis=2)
    return {"runs": len(setting.runs)}, arrays


def _compare_independent(evidence: Mapping[str, Evidence], predict: MomentPredictor) -> Comparison:
    item = evidence["independent-batches"]
    worst = 0.0
    for index, run in enumerate(Runs.from_dict(item.setting).runs):
        exact = item.arrays[f"second_{index}"]
        worst = max(worst, float(np.abs(predict(run) - exact).max() / np.abs(exact).max()))
    return Comparison(estimate=worst, interval=(worst, worst))


def _compare_epochs(evidence: Mapping[str, Evidence], predict: MomentPredictor) -> Comparison:
    item = evidence["enumerated-epochs"]
    runs, worst = Runs.from_dict(item.setting).runs, 0.0
    for index in range(0, len(runs), 2):
        exact = item.arrays[f"second_{index}"] - item.arrays[f"second_{index + 1}"]
        above, below = predict(runs[index]), predict(runs[index + 1])
        worst = max(worst, float(np.abs(above - below - exact).max() / np.abs(exact).max()))
        exact = item.arrays[f"second_{index}"] + item.arrays[f"second_{index + 1}"]
        worst = max(worst, float(np.abs(above + below - exact).max() / np.abs(exact).max()))
    return Comparison(estimate=worst, interval=(worst, worst))


def _compare_drawn(evidence: Mapping[str, Evidence], predict: MomentPredictor) -> Comparison:
    item = evidence["drawn-epochs"]
    setting = Runs.from_dict(item.setting)
    parts, charts = [], []
    for index, run in enumerate(setting.runs):
        basis = np.linalg.eigh(run.curvatures.mean(axis=0))[1]
        moments = np.einsum("ik,tij,jk->tk", basis, predict(run), basis)
        square = item.arrays[f"square_{index}"]
        for place, step in enumerate(setting.record):
            parts.append(mean_tests(square[place], moments[step - 1]))
        if predict is law:
            charts.append(_chart(run, setting, square, parts))
    found = equivalence_comparison(MeanTests.join(parts), _MOMENTS_MARGIN)
    return replace(found, results=tuple(charts))


def _chart(run: AffineBatches, setting: Runs, square: Array, parts: list[MeanTests]) -> TimeCourse:
    basis = np.linalg.eigh(run.curvatures.mean(axis=0))[1]
    steps, curves = np.arange(1, run.steps + 1), []
    half = normal_quantile(TEST_ALPHA)
    for mode in range(len(basis)):
        for role, by, rule in ((Role.PREDICTED, "(P2)", law), (Role.DECOY, "(P1), additive noise", additive)):
            y = np.einsum("i,tij,j->t", basis[:, mode], rule(run), basis[:, mode])
            curves.append(Curve(role=role, by=by, subject=f"direction {mode + 1}", x=steps, y=y))
        mean = square[:, :, mode].mean(axis=1)
        reach = half * np.array([part.error[mode] / part.ratio[mode] for part in parts]) * mean
        curves.append(
            Curve(
                role=Role.MEASURED,
                subject=f"direction {mode + 1}",
                x=setting.record,
                y=mean,
                low=mean - reach,
                high=mean + reach,
                band=Band.FAMILY,
            )
        )
    return TimeCourse(
        title="Spread of replicas under shuffled epochs of varying curvature",
        sample=Sample(setting.replicas, "replicas"),
        x=Axis("steps since the replicas parted"),
        y=Axis("second moment along an eigenvector"),
        curves=tuple(curves),
        caption="At epoch ends additive noise cancels; what the batches' curvatures do is left.",
    )


# The edge.


@keyword_setting
class EdgeGrid(Setting):
    """Rows x_n of A_n = x_n x_nᵀ, batch sizes, sampling schemes and optimizers whose edge is looked for."""

    inputs: Array
    batch_sizes: tuple[int, ...]
    samplings: tuple[str, ...]
    optimizers: tuple[MomentumSGD, ...]
    replicas: int = 0
    steps: int = 0

    def cases(self) -> list[tuple[int, MomentumSGD, Sampling]]:
        """What is run, in order."""
        return [
            (size, optimizer, Sampling(sampling))
            for optimizer in self.optimizers
            for size in self.batch_sizes
            for sampling in self.samplings
        ]


def _inputs(count: int, k: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return rng.lognormal(sigma=0.4, size=(count, 1)) * rng.standard_normal((count, k))


def _edge_recursions(budget: str) -> EdgeGrid:
    del budget
    return EdgeGrid(
        inputs=_inputs(5, 2, 7),
        batch_sizes=(1, 2, 3),
        samplings=(Sampling.WITH_REPLACEMENT.value, Sampling.WITHOUT_REPLACEMENT.value),
        optimizers=(MomentumSGD(0.1), MomentumSGD(0.1, 0.9), MomentumSGD(0.1, 0.9, nesterov=True)),
    )


def _edge_runs(budget: str) -> EdgeGrid:
    return EdgeGrid(
        inputs=_inputs(12, 3, 8),
        batch_sizes=(1, 3, 11),
        samplings=(Sampling.WITHOUT_REPLACEMENT.value,),
        optimizers=(MomentumSGD(0.1), MomentumSGD(0.1, 0.5)),
        replicas=256,
        steps=4000 if budget == "full" else 1000,
    )


def _run_recursions(setting: EdgeGrid, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    del seed
    edges = []
    cases = setting.cases()
    for index, (size, optimizer, sampling) in enumerate(cases):
        progress(index / len(cases))
        problem = RidgeRegression(
            inputs=setting.inputs, targets=np.ones(len(setting.inputs)), ridge=0.0, batch_size=size, sampling=sampling
        )

        edges.append(_crossing(functools.partial(_excess, problem, optimizer)))
    return {"edges": edges}, {}


def _excess(problem: RidgeRegression, optimizer: MomentumSGD, rate: float) -> float:
    return enumerated_second_moment(problem, replace(optimizer, learning_rate=rate)).growth - 1.0


def _crossing(excess: Callable[[float], float]) -> float:
    low = high = 4e-3
    while excess(high) < 0.0:
        low, high = high, 3.0 * high
    return float(brentq(excess, low, high, xtol=1e-13, rtol=1e-12))  # pyright: ignore[reportArgumentType]


def _run_growth(setting: EdgeGrid, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Where the simulated growth crosses 1: a bracket by short runs, then longer ones at its ends."""
    curvatures = setting.inputs[:, :, None] * setting.inputs[:, None, :]
    edges, errors, cases = [], [], setting.cases()
    for index, (size, optimizer, sampling) in enumerate(cases):
        progress(index / len(cases))
        growth = functools.partial(
            _growth, curvatures, optimizer, size, sampling, replicas=setting.replicas, seed=seed + index
        )
        low = high = 1e-2
        while growth(high, steps=60)[0] < 0.0:
            low, high = high, 1.3 * high
        while high / low > 1.06:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if growth(middle, steps=120)[0] < 0.0 else (low, middle)
        low, high = 0.985 * low, 1.015 * high
        below, above = growth(low, steps=setting.steps), growth(high, steps=setting.steps)
        share = -below[0] / (above[0] - below[0])
        edges.append(low + (high - low) * share)
        errors.append((high - low) * float(np.hypot((1 - share) * below[1], share * above[1])) / (above[0] - below[0]))
    return {"edges": edges, "errors": errors}, {}


def _growth(
    curvatures: Array,
    optimizer: MomentumSGD,
    size: int,
    sampling: Sampling,
    rate: float,
    *,
    replicas: int,
    steps: int,
    seed: int,
) -> tuple[float, float]:
    found = simulated_growth(
        curvatures,
        replace(optimizer, learning_rate=rate),
        size,
        sampling,
        replicas=replicas,
        steps=steps,
        burn_in=30,
        seed=seed,
    )
    return found.log_factor, found.standard_error


def edge(inputs: Array, size: int, optimizer: MomentumSGD, sampling: Sampling) -> float:
    """Equation (1) of `theory.closed_form.edge`."""
    return mean_square_edge(inputs, size, optimizer, sampling=sampling).learning_rate


def full_batch_limit(inputs: Array, size: int, optimizer: MomentumSGD, sampling: Sampling) -> float:
    """The deterministic limit, at every batch size."""
    del size, sampling
    steepest = float(np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1])
    return largest_stable_learning_rate(steepest, optimizer)


def small_batch_limit(inputs: Array, size: int, optimizer: MomentumSGD, sampling: Sampling) -> float:
    """2(1−μ)/(sharpness of a batch), the sharpness taken as that of its steepest sample alone, at every batch size."""
    del sampling
    return 2.0 * (1.0 - optimizer.momentum) * size / float(np.max(np.sum(inputs**2, axis=1)))


def _compare_edges(evidence: Mapping[str, Evidence], predict: EdgePredictor) -> Comparison:
    item = evidence["edge-recursions"]
    grid = EdgeGrid.from_dict(item.setting)
    rows, worst = [], 0.0
    for (size, optimizer, sampling), found in zip(grid.cases(), item.measured["edges"], strict=True):
        predicted = predict(grid.inputs, size, optimizer, sampling)
        worst = max(worst, abs(predicted / found - 1.0))
        kind = "Nesterov" if optimizer.nesterov else "heavy ball"
        full = full_batch_limit(grid.inputs, size, optimizer, sampling)
        rows.append((optimizer.momentum, kind, sampling.value, size, float(found), predicted, full))
    table = Table(
        title="Largest stable learning rate of five samples",
        columns=("μ", "recursion", "batches", "B", "brute force", "predicted", "limit of the mean"),
        rows=tuple(rows),
        caption="The second moment diverges long before the mean, by a factor of 50 at B = 1 and μ = 0.9.",
    )
    return Comparison(estimate=worst, interval=(worst, worst), results=(table,) if predict is edge else ())


def _compare_growth(evidence: Mapping[str, Evidence], predict: EdgePredictor) -> Comparison:
    item = evidence["edge-simulated"]
    grid = EdgeGrid.from_dict(item.setting)
    ratio, error = [], []
    for (size, optimizer, sampling), found, spread in zip(
        grid.cases(), item.measured["edges"], item.measured["errors"], strict=True
    ):
        predicted = predict(grid.inputs, size, optimizer, sampling)
        ratio.append(float(found) / predicted)
        error.append(float(spread) / predicted)
    tests = MeanTests(
        ratio=np.array(ratio), error=np.array(error), p_value=np.ones(len(ratio)), degrees=np.ones(len(ratio))
    )
    return equivalence_comparison(tests, _EDGE_MARGIN)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="independent-batches",
        title="second moments step by step through every batch of five samples, with and without replacement",
        setting=_independent_runs,
        run=_run_enumerated,
    ),
    Experiment(
        name="enumerated-epochs",
        title="second moments step by step through every order of two epochs",
        setting=_epoch_runs,
        run=_run_enumerated,
    ),
    Experiment(
        name="drawn-epochs",
        title="replicas under real shuffled epochs, 32 of 300 samples a batch, loud ones steep",
        setting=_drawn_runs,
        run=_run_drawn,
    ),
    Experiment(
        name="edge-recursions",
        title="largest stable learning rate by brute force over every batch of five samples",
        setting=_edge_recursions,
        run=_run_recursions,
    ),
    Experiment(
        name="edge-simulated",
        title="growth of the second moment on both sides of the edge, twelve samples, resampled replicas",
        setting=_edge_runs,
        run=_run_growth,
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="minibatch-second-moments-exact",
        statement="for independent batches V₊ = ΦVΦᵀ + G E[D_B V D_Bᵀ] Gᵀ gives mean and second moments at every step, "
        "through a decay, to 1e-12",
        source="docs/mathematics.md (P2); theory.closed_form.minibatch_moments (1)",
        kind=Kind.IDENTITY,
        experiments=("independent-batches",),
        assumptions=("batches independent of each other", "affine batch gradients"),
        predict=law,
        decoys={"additive noise (P1)": additive, "finite population confused": population_forgotten},
        compare=_compare_independent,
        margin=1e-12,
    ),
    Claim(
        name="minibatch-second-moments-first-order",
        statement="under shuffled epochs (P2) is exact to first order in how much curvatures differ: V and dV/dε at "
        "every step of two epochs, uneven and truncated ones too, from the mean and off it, to 1e-4",
        source="docs/mathematics.md (P2); theory.closed_form.minibatch_moments (2)",
        kind=Kind.IDENTITY,
        experiments=("enumerated-epochs",),
        assumptions=("a fresh permutation every epoch", "affine batch gradients"),
        predict=law,
        decoys={
            "additive noise (P1)": additive,
            "shuffling ignored": shuffling_ignored,
            "without the cross term of curvature and slope": without_cross_terms,
        },
        compare=_compare_epochs,
        margin=1e-4,
    ),
    Claim(
        name="minibatch-second-moments-shuffled",
        statement="(P2) is within 10 % of replicas at every record of four shuffled epochs, where (P1) is not",
        source="docs/mathematics.md (P2); theory.closed_form.minibatch_moments",
        kind=Kind.APPROXIMATION,
        experiments=("drawn-epochs",),
        assumptions=("a fresh permutation every epoch", "affine batch gradients"),
        predict=law,
        decoys={"additive noise (P1)": additive, "shuffling ignored": shuffling_ignored},
        compare=_compare_drawn,
        num_tests=18,
        margin=_MOMENTS_MARGIN,
    ),
    Claim(
        name="mean-square-edge",
        statement="a stationary second moment exists iff ρ(X ↦ G(η)∘T(X)) < 1: the learning rate where it stops is "
        "that of the brute recursion to 1e-8",
        source="docs/mathematics.md (E1); theory.closed_form.edge (1); limits: arXiv:2412.20553, arXiv:2604.14108",
        kind=Kind.IDENTITY,
        experiments=("edge-recursions",),
        assumptions=("batches independent of each other", "affine batch gradients"),
        predict=edge,
        decoys={"full-batch limit 2(1+μ)/λ₁": full_batch_limit, "2(1−μ)/steepest sample": small_batch_limit},
        compare=_compare_edges,
        margin=1e-8,
    ),
    Claim(
        name="mean-square-edge-simulated",
        statement="simulated second moments grow above the edge and shrink below it: the crossing within 2 %",
        source="docs/mathematics.md (E1); theory.closed_form.edge (1)",
        kind=Kind.APPROXIMATION,
        experiments=("edge-simulated",),
        assumptions=("batches independent of each other", "affine batch gradients"),
        predict=edge,
        decoys={"full-batch limit 2(1+μ)/λ₁": full_batch_limit, "2(1−μ)/steepest sample": small_batch_limit},
        compare=_compare_growth,
        num_tests=6,
        margin=_EDGE_MARGIN,
    ),
)
