r"""Exact claims about batches: shuffled epochs through every order of a population, sharpness over every batch."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.closed_form.edge import DENSE, batch_sharpness, isotropic_edge, mean_square_edge
from theory.closed_form.minibatch_moments import stationary_minibatch_moments
from theory.closed_form.shuffling import Phase, epoch_shuffling_factor, shuffled_covariance
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import stationary_covariance
from theory.judge.claim import Claim, Experiment
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import Sampling
from theory.model.setting import Setting, keyword_setting
from theory.oracle.dense import enumerated_sharpness, settled
from theory.oracle.transition import transition
from theory.oracle.update import momentum_update


@keyword_setting
class Epochs(Setting):
    """A population of M batches, run through in a fresh order every epoch.

    Args:
        hessian: H, shape ``(m, m)``.
        noises: gradient noise of each batch, of mean 0, shape ``(M, m)``.
        optimizers: the recursions.
        share: of the noise that repeats; the rest is drawn afresh.
        phase: steps into the epoch at which the law is asked for.
        curvature: of the single mode whose factor is asked for.
    """

    hessian: NDArray[np.float64]
    noises: NDArray[np.float64]
    optimizers: tuple[MomentumSGD, ...]
    share: float
    phase: int
    curvature: float


def _centred(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows - rows.mean(axis=0)


EPOCHS = Epochs(
    hessian=np.array([[1.2, 0.4], [0.4, 0.6]]),
    noises=_centred(np.array([[1.0, -0.3], [-0.2, 0.9], [0.4, 0.1], [-1.3, -0.6], [0.5, 1.1]])),
    optimizers=(
        MomentumSGD(0.2, 0.9),
        MomentumSGD(0.3),
        MomentumSGD(0.2, 0.8, dampening=0.3, weight_decay=0.1),
        MomentumSGD(0.1, 0.9, nesterov=True),
        MomentumSGD(0.2, 0.7, form="position"),
    ),
    share=0.7,
    phase=2,
    curvature=0.4,
)


def _problem(setting: Epochs) -> Quadratic:
    return Quadratic(setting.hessian, np.cov(setting.noises, rowvar=False, bias=True))


def _run_through(problem: Quadratic, optimizer: MomentumSGD, noises: NDArray, share: float) -> list[NDArray]:
    """Covariance of (w, v) after 0 … M steps of an epoch, from every order of the population.

    What an order adds to the state is followed step by step; its start knows nothing of it, so that covariances add.
    """
    step, inflow = transition(problem, optimizer, np.longdouble)
    fresh = (1 - np.longdouble(share)) * (inflow @ problem.dense_noise_cov() @ inflow.T)
    orders = list(itertools.permutations(range(len(noises))))
    pushed = np.zeros((len(orders), len(step)), dtype=np.longdouble)
    drawn = np.zeros_like(step)
    added, moves = [np.zeros_like(step)], [np.eye(len(step), dtype=np.longdouble)]
    for position in range(len(noises)):
        seen = noises[[order[position] for order in orders]].astype(np.longdouble)
        pushed = pushed @ step.T + np.sqrt(np.longdouble(share)) * seen @ inflow.T
        drawn = step @ drawn @ step.T + fresh
        added.append(pushed.T @ pushed / len(orders) + drawn)
        moves.append(step @ moves[-1])
    start = settled(moves[-1], added[-1])
    return [move @ start @ move.T + own for move, own in zip(moves, added, strict=True)]


def _epochs_oracle(setting: Epochs, optimizer: MomentumSGD) -> Answers:
    problem, m = _problem(setting), len(setting.hessian)
    laws = [law[:m, :m] for law in _run_through(problem, optimizer, setting.noises, 1.0)]
    partly = [law[:m, :m] for law in _run_through(problem, optimizer, setting.noises, setting.share)]
    answers = {
        "end": laws[0],
        f"step {setting.phase}": laws[setting.phase],
        "mean": sum(laws[1:]) / np.longdouble(len(setting.noises)),
        "end, part of it fresh": partly[0],
    }
    if not optimizer.nesterov and not optimizer.dampening and not optimizer.weight_decay:
        noises = setting.noises[:, :1]
        mode = Quadratic(np.array([setting.curvature]), np.array([float(np.mean(noises**2))]))
        found = np.array([law[0, 0] for law in _run_through(mode, optimizer, noises, 1.0)])
        step, inflow = transition(mode, optimizer, np.longdouble)
        white = settled(step, inflow @ mode.dense_noise_cov() @ inflow.T)[0, 0]
        part = _run_through(mode, optimizer, noises, setting.share)[0][0, 0]
        answers["factors"] = np.array([found[0], found[setting.phase], found[1:].mean(), part]) / white
    return answers


def _epochs(setting: Epochs, optimizer: MomentumSGD) -> Answers:
    problem, count = _problem(setting), len(setting.noises)
    answers = {
        "end": shuffled_covariance(problem, optimizer, batches_per_epoch=count),
        f"step {setting.phase}": shuffled_covariance(problem, optimizer, batches_per_epoch=count, phase=setting.phase),
        "mean": shuffled_covariance(problem, optimizer, batches_per_epoch=count, phase="mean"),
        "end, part of it fresh": shuffled_covariance(
            problem, optimizer, batches_per_epoch=count, repeated_share=setting.share
        ),
    }
    if not optimizer.nesterov and not optimizer.dampening and not optimizer.weight_decay:
        phases: tuple[tuple[Phase, float], ...] = (
            ("end", 1.0),
            (setting.phase, 1.0),
            ("mean", 1.0),
            ("end", setting.share),
        )
        answers["factors"] = np.array([
            epoch_shuffling_factor(
                optimizer.learning_rate, optimizer.momentum, setting.curvature, count, phase, share
            )
            for phase, share in phases
        ])  # fmt: skip
    return answers


def _white(setting: Epochs, optimizer: MomentumSGD) -> Answers:
    """Independent batches."""
    law = stationary_covariance(_problem(setting), optimizer).require()
    return {key: law for key in ("end", f"step {setting.phase}", "mean")}


def _one_phase(setting: Epochs, optimizer: MomentumSGD) -> Answers:
    """The epoch's average at every phase."""
    found = _epochs(setting, optimizer)
    return {key: found["mean"] for key in ("end", f"step {setting.phase}")}


def _all_repeats(setting: Epochs, optimizer: MomentumSGD) -> Answers:
    """Fresh noise counted as repeated."""
    return {"end, part of it fresh": _epochs(setting, optimizer)["end"]}


def _one_batch_more(setting: Epochs, optimizer: MomentumSGD) -> Answers:
    """M + 1 batches an epoch."""
    count = len(setting.noises) + 1
    return {"end": shuffled_covariance(_problem(setting), optimizer, batches_per_epoch=count)}


# ---------------------------------------------------------------------------------------------------------------------
# Sharpness along batch gradients


@keyword_setting
class Population(Setting):
    """Gradients ``(N, m)`` and Hessians ``(N, m, m)`` of N samples, and the size of a batch."""

    gradients: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    batch_size: int


_ANGLES = np.arange(6.0)
POPULATION = Population(
    gradients=np.stack([np.sin(1.0 + 2.0 * _ANGLES), np.cos(0.5 + 1.3 * _ANGLES) + 0.4], axis=1),
    curvatures=np.stack([
        np.array([[2.0 + np.sin(x), 0.4 * np.cos(2 * x)], [0.4 * np.cos(2 * x), 1.0 + 0.5 * np.cos(x)]])
        for x in _ANGLES
    ]),
    batch_size=3,
)  # fmt: skip


SAMPLINGS = {"without replacement": Sampling.WITHOUT_REPLACEMENT, "with replacement": Sampling.WITH_REPLACEMENT}


def _sharpness_oracle(setting: Population) -> Answers:
    """Every batch that can be drawn, one after the other."""
    answers = enumerated_sharpness(setting.gradients, setting.curvatures, setting.batch_size)
    return {name: np.array(values) for name, values in answers.items()}


def _sharpness(setting: Population) -> Answers:
    answers = {}
    for name, sampling in SAMPLINGS.items():
        found = batch_sharpness(setting.gradients, setting.curvatures, setting.batch_size, sampling=sampling)
        answers[name] = np.array([found.value, found.curvature, found.square])
    return answers


def _one_sampling_for_the_other(setting: Population) -> Answers:
    found = _sharpness(setting)
    return {"without replacement": found["with replacement"], "with replacement": found["without replacement"]}


def _one_curvature(setting: Population) -> Answers:
    """The mean Hessian for every batch's own."""
    mean = np.broadcast_to(setting.curvatures.mean(axis=0), setting.curvatures.shape)
    return _sharpness(replace(setting, curvatures=mean.copy()))


# ---------------------------------------------------------------------------------------------------------------------
# Where batches with curvatures of their own settle


@keyword_setting
class Settling(Setting):
    """Slopes ``(N, k)`` and curvatures ``(N, k, k)`` of N samples, the recursions, and the size of a batch.

    `fresh` is the covariance of what a sample's slope adds anew at every visit.
    """

    slopes: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    optimizers: tuple[MomentumSGD, ...]
    batch_size: int
    fresh: NDArray[np.float64]


SETTLING = Settling(
    slopes=POPULATION.gradients,
    curvatures=POPULATION.curvatures,
    optimizers=(
        MomentumSGD(0.2),
        MomentumSGD(0.1, 0.8, dampening=0.3),
        MomentumSGD(0.1, 0.7, nesterov=True, weight_decay=0.2),
    ),
    batch_size=2,
    fresh=np.array([[0.3, -0.1], [-0.1, 0.2]]),
)


def _settling_oracle(setting: Settling, optimizer: MomentumSGD) -> Answers:
    """E x xᵀ, x = (1, δ, v), carried through every batch over and over: the map of moments, squared until it stays."""
    k = setting.slopes.shape[1]
    answers = {}
    for name in SAMPLINGS:
        samples = range(len(setting.slopes))
        batches = list(
            itertools.product(samples, repeat=setting.batch_size)
            if name == "with replacement"
            else itertools.combinations(samples, setting.batch_size)
        )
        carried = np.zeros(((2 * k + 1) ** 2,) * 2, dtype=np.longdouble)
        for batch in batches:
            states: Any = np.eye(2 * k + 1, dtype=np.longdouble)
            one, w, v = states[:, :1], states[:, 1 : k + 1], states[:, k + 1 :]
            slope = setting.slopes[list(batch)].mean(axis=0)
            gradient = one * slope + w @ setting.curvatures[list(batch)].mean(axis=0)
            move = np.hstack([one, *momentum_update(optimizer, w, v, gradient)]).T
            carried += np.kron(move, move) / len(batches)
        still = np.zeros((k, k))
        kick = np.hstack([still[:, :1], *momentum_update(optimizer, still, still, np.eye(k))]).T.astype(np.longdouble)
        carried[:, 0] += (kick @ setting.fresh @ kick.T / setting.batch_size).ravel()  # what a step adds to 1 · 1
        start = np.zeros(len(carried), dtype=np.longdouble)
        start[0] = 1.0
        for _ in range(20):
            carried = carried @ carried
        moment = (carried @ start).reshape(2 * k + 1, 2 * k + 1)
        mean = moment[0, 1:]
        answers[f"mean, {name},"] = mean[:k]  # of the buffer it is 0
        answers[f"covariance, {name},"] = moment[1:, 1:] - np.multiply.outer(mean, mean)
    return answers


def _settling(setting: Settling, optimizer: MomentumSGD) -> Answers:
    answers = {}
    for name, sampling in SAMPLINGS.items():
        found = stationary_minibatch_moments(
            setting.slopes,
            setting.curvatures,
            optimizer,
            setting.batch_size,
            sampling=sampling,
            fresh=setting.fresh,
        )
        answers[f"mean, {name},"] = found.mean[0]
        answers[f"covariance, {name},"] = found.state_covariance[0]
    return answers


def _settling_additive(setting: Settling, optimizer: MomentumSGD) -> Answers:
    """(P1): the mean curvature for every sample's own."""
    mean = np.broadcast_to(setting.curvatures.mean(axis=0), setting.curvatures.shape)
    return _settling(replace(setting, curvatures=mean.copy()), optimizer)


def _settling_swapped(setting: Settling, optimizer: MomentumSGD) -> Answers:
    found = _settling(setting, optimizer)
    first, second = (f"covariance, {name}," for name in SAMPLINGS)
    return {first: found[second], second: found[first]}


# ---------------------------------------------------------------------------------------------------------------------
# The edge of many directions


@keyword_setting
class Wide(Setting):
    """Curvatures of N samples in m directions that no sample couples, ``(N, m)``; the recursions; the batch."""

    curvatures: NDArray[np.float64]
    optimizers: tuple[MomentumSGD, ...]
    batch_size: int


#: More directions than the map of second moments is held in a matrix for.
WIDE = Wide(
    curvatures=1.0 + np.sin(np.multiply.outer(1.0 + np.arange(4.0), 0.7 + 0.3 * np.arange(DENSE + 4.0))) ** 3,
    optimizers=(MomentumSGD(0.1), MomentumSGD(0.1, 0.8)),
    batch_size=2,
)


def _wide_oracle(setting: Wide, optimizer: MomentumSGD) -> Answers:
    """Direction by direction: where the mean of the squared steps over all batches stops contracting, by bisection."""

    def growth(rate: float, curvatures: NDArray) -> float:
        moves = []
        for batch in itertools.combinations(range(len(curvatures)), setting.batch_size):
            slope = float(np.mean(curvatures[list(batch)]))
            one = replace(optimizer, learning_rate=rate)
            unit, none = np.ones(1), np.zeros(1)
            w, v = momentum_update(one, unit, none, slope * unit), momentum_update(one, none, unit, none)
            moves.append(np.hstack([[w[0], w[1]], [v[0], v[1]]]).reshape(2, 2).T)
        carried = np.mean([np.kron(move, move) for move in moves], axis=0)
        return float(np.abs(np.linalg.eigvals(carried)).max()) - 1.0

    edges = []
    for curvatures in setting.curvatures.T:
        low = 1e-3
        while growth(2 * low, curvatures) < 0:
            low *= 2
        root = optimize.brentq(growth, low, 2 * low, args=(curvatures,), xtol=1e-15, rtol=1e-14)  # pyright: ignore[reportArgumentType]
        edges.append(root)
    return {"edge": np.array([min(edges)]), "edge of one direction": np.array([edges[0]])}


def _wide(setting: Wide, optimizer: MomentumSGD) -> Answers:
    matrices = setting.curvatures[:, :, None] * np.eye(setting.curvatures.shape[1])
    alone = setting.curvatures[:, 0]
    one = isotropic_edge(alone.mean(), alone.var(), len(alone), setting.batch_size, optimizer.momentum)
    return {
        "edge": np.array([mean_square_edge(matrices, setting.batch_size, optimizer).learning_rate]),
        "edge of one direction": np.array([one]),
    }


def _edge_of_mean(setting: Wide, optimizer: MomentumSGD) -> Answers:
    """The deterministic edge of the steepest mean curvature."""
    return {"edge": np.array([largest_stable_learning_rate(setting.curvatures.mean(axis=0).max(), optimizer)])}


def _edge_of_one(setting: Wide, optimizer: MomentumSGD) -> Answers:
    """Batches of a single sample."""
    return _wide(replace(setting, batch_size=1), optimizer)


EDGES = exact_experiment(
    "edges-by-direction", "the edge of many directions, each followed through every batch", WIDE, each(_wide_oracle)
)
ORDERS = exact_experiment("epochs-enumerated", "every order of a population of batches", EPOCHS, each(_epochs_oracle))
DRAWN = exact_experiment("batches-enumerated", "every batch of a population of samples", POPULATION, _sharpness_oracle)
SETTLED = exact_experiment(
    "batches-settled", "moments carried through every batch until they stay", SETTLING, each(_settling_oracle)
)
EXPERIMENTS: tuple[Experiment, ...] = (ORDERS, DRAWN, SETTLED, EDGES)

CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="shuffled-exact",
        statement="P_0 = Σ_k F^{kM} Q_M F^{kM}ᵀ and P_t of shuffled epochs, at every phase, on average, and with part "
        "of the noise fresh; 1 − ρ_b(1 − f).",
        source="own derivation; the phenomenon: Kühn and Rosenow (arXiv 2306.05300)",
        experiment=ORDERS,
        predict=each(_epochs),
        decoys={
            "independent batches": each(_white),
            "the average at every phase": each(_one_phase),
            "all noise repeats": each(_all_repeats),
            "a batch more": each(_one_batch_more),
        },
        assumptions=("quadratic loss", "noise of a batch independent of the weights", "a fresh order every epoch"),
        num_tests=4 * len(EPOCHS.optimizers) + 3,
    ),
    exact_claim(
        name="batch-sharpness-exact",
        statement="E_B[g_Bᵀ H_B g_B]/E_B|g_B|² from third moments of a finite population, no batch drawn.",
        source="own derivation; the quantity: arXiv 2412.20553",
        experiment=DRAWN,
        predict=_sharpness,
        decoys={
            "with for without replacement": _one_sampling_for_the_other,
            "the mean Hessian": _one_curvature,
        },
        assumptions=("none beyond the way batches are drawn",),
        num_tests=2,
    ),
    exact_claim(
        name="batches-settled",
        statement="(P2), independent batches: the law that g_B(δ) = s_B + A_B δ settles into, what is new at each "
        "visit included, and its mean.",
        source="own derivation; theory.closed_form.minibatch_moments (1)",
        experiment=SETTLED,
        predict=each(_settling),
        decoys={
            "additive noise (P1)": each(_settling_additive),
            "with for without replacement": each(_settling_swapped),
        },
        assumptions=("batches independent of each other", "affine batch gradients"),
        num_tests=4 * len(SETTLING.optimizers),
    ),
    exact_claim(
        name="mean-square-edge-many",
        statement="ρ(X ↦ G(η)∘T(X)) = 1 where the map is applied and never held: the edge is that of the direction "
        "which the batches' own curvatures drive out first; of one direction 2(1−μ²)λ/((1−μ)λ² + (1+μ)v/B).",
        source="own derivation; theory.closed_form.edge (1)",
        experiment=EDGES,
        predict=each(_wide),
        decoys={"edge of the mean curvature": each(_edge_of_mean), "batches of one": each(_edge_of_one)},
        assumptions=("batches independent of each other", "affine batch gradients"),
        num_tests=4,
    ),
)
