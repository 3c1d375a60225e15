r"""Exact claims about the stationary law: moments, dissipation, averages, elasticities, and what moved a variance.

Every oracle sums the dense recursion z₊ = F z + G ξ in extended precision, or searches on it; none knows a law.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.closed_form.attribution import PARTS, attribution
from theory.closed_form.averaging import ema_covariance
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.pac_bayes import variance_elasticities, with_factors
from theory.closed_form.stability import stability
from theory.closed_form.stationary import (
    fluctuation_dissipation_constant,
    increment_covariance,
    lag_one_covariance,
    stationary_covariance,
    stationary_mean,
    stationary_variance,
)
from theory.judge.claim import Claim, Experiment
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.dense import mean_settled, settled, stable_limit
from theory.oracle.transition import transition

ASSUMED = ("quadratic loss", "noise of mean 0 and covariance C, independent over time")
OWN = "own derivation from the two-step recursion"


@keyword_setting
class Stationarity(Setting):
    """What the stationary formulas are judged on.

    Args:
        problem: H, C (not commuting) and w*.
        optimizers: the recursions.
        problem_after: the problem that each law is compared with, of the same eigenvectors of H; None for the same.
        decays: β of the exponential averages.
        steps: length of the average that starts with the run.
    """

    problem: Quadratic
    optimizers: tuple[MomentumSGD, ...]
    problem_after: Quadratic | None = None
    decays: tuple[float, ...] = ()
    steps: int = 1


TURN = np.linalg.qr(np.array([[2.0, 0.6, -0.3], [0.5, 1.0, 0.2], [-0.4, 0.2, 0.5]]))[0]


def _turned(spectrum: tuple[float, ...]) -> NDArray[np.float64]:
    matrix = (TURN * np.array(spectrum)) @ TURN.T
    return 0.5 * (matrix + matrix.T)


PROBLEM = Quadratic(
    _turned((2.3, 0.9, 0.4)),
    np.array([[0.8, -0.5, 0.1], [-0.5, 1.2, 0.3], [0.1, 0.3, 0.4]]),
    optimum=np.array([1.0, -0.7, 0.4]),
)
SPIKED = Quadratic(
    _turned((1.6, 2.9, 0.7)),
    np.array([[1.9, 0.2, -0.4], [0.2, 0.9, 0.1], [-0.4, 0.1, 1.1]]),
)
OPTIMIZERS = (
    MomentumSGD(0.2, 0.9),
    MomentumSGD(0.3, dampening=0.5, weight_decay=0.1),
    MomentumSGD(0.3, 0.8, dampening=0.4, weight_decay=0.2),
    MomentumSGD(0.3, 0.8, dampening=0.4, weight_decay=0.2, form="position"),
    MomentumSGD(0.1, 0.9, nesterov=True, weight_decay=0.3),
    MomentumSGD(0.5, 0.9, dampening=0.9, discount=0.7, weight_decay=0.1),
)
JUDGED = Stationarity(problem=PROBLEM, optimizers=OPTIMIZERS, problem_after=SPIKED, decays=(0.0, 0.5, 0.97), steps=40)


def _law(problem: Quadratic, optimizer: MomentumSGD) -> tuple[NDArray, NDArray, NDArray]:
    """F, G and the covariance of (w, v), in extended precision."""
    step, inflow = transition(problem, optimizer, np.longdouble)
    return step, inflow, settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)


def _basis(problem: Quadratic) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.linalg.eigh(problem.dense_hessian())


def _mode_rates(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """a = (1 − r)(1 − r') from the two roots of each mode of H: the pull of one step."""
    values, _ = _basis(problem)
    rates = []
    for value in values:
        step, _ = transition(Quadratic(np.array([value]), np.ones(1)), optimizer, np.longdouble)
        rates.append((1 - step[0, 0]) * (1 - step[1, 1]) - step[0, 1] * step[1, 0])
    return np.array(rates)


# ---------------------------------------------------------------------------------------------------------------------
# Moments


def _moments_oracle(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    problem, m = setting.problem, setting.problem.dimension
    step, inflow, state = _law(problem, optimizer)
    _, basis = _basis(problem)
    weights, lagged = state[:m, :m], (step @ state)[:m, :m]
    louder = Quadratic(1.3 * problem.dense_hessian(), 0.4 * problem.dense_noise_cov())
    away = mean_settled(step, inflow @ (optimizer.weight_decay * problem.optimum))[:m]
    return {
        "state": state,
        "mean": problem.optimum + away,
        "variance": np.diag(basis.T @ weights @ basis),
        "lag": lagged,
        "increments": 2 * weights - lagged - lagged.T,
        "factors": _law(louder, optimizer)[2],
        "radius": np.array([np.abs(np.linalg.eigvals(step.astype(np.float64))).max()]),
    }


def _moments(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    problem = setting.problem
    law = stationary_covariance(problem, optimizer)
    return {
        "state": law.state(),
        "mean": stationary_mean(problem, optimizer),
        "variance": stationary_variance(problem, optimizer),
        "lag": lag_one_covariance(problem, optimizer),
        "increments": increment_covariance(problem, optimizer),
        "factors": stationary_covariance(with_factors(problem, curvature=1.3, noise=0.4), optimizer).state(),
        "radius": np.array([law.spectral_radius]),
    }


def _as_if(change: Callable[[MomentumSGD], MomentumSGD]) -> Callable[[Stationarity], Answers]:
    """Weights, mean, variance and increments under another optimizer's law."""

    def wrong(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
        found = _moments(setting, change(optimizer))
        return {key: found[key] for key in ("mean", "variance", "lag", "increments")}

    return each(wrong)


def _commuting(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """(S1) and nothing off the diagonal."""
    frame = eigenbasis(setting.problem)
    m = setting.problem.dimension
    diagonal = np.diag(stationary_variance(setting.problem, optimizer))
    state = stationary_covariance(setting.problem, optimizer).state()
    state[:m, :m] = frame.outward(diagonal)
    return {"state": state}


def _momentum_for_its_root(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """μ for √μ, the modulus of an underdamped pair."""
    radius = stationary_covariance(setting.problem, optimizer).spectral_radius
    return {"radius": np.array([radius**2])}


# ---------------------------------------------------------------------------------------------------------------------
# Edges


def _edges_oracle(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    values, _ = _basis(setting.problem)
    one = [Quadratic(np.array([value]), np.ones(1)) for value in values]
    steps = [transition(mode, optimizer, np.longdouble)[0].astype(np.float64) for mode in one]
    edges = np.array([stable_limit(mode, optimizer) for mode in one])
    return {
        "radius": np.array([np.abs(np.linalg.eigvals(step)).max() for step in steps]),
        "ratio": optimizer.learning_rate / edges,
        "edge": np.array([edges.min()]),
    }


def _edges(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    found = stability(setting.problem, optimizer)
    return {
        "radius": found.spectral_radius,
        "ratio": found.ratio,
        "edge": np.array([found.largest_stable_learning_rate]),
    }


def _edges_as_if(change: Callable[[MomentumSGD], MomentumSGD]) -> Callable[[Stationarity], Answers]:
    return each(lambda setting, optimizer: _edges(setting, change(optimizer)))


def _square_of_radius(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """μ for √μ."""
    return {"radius": stability(setting.problem, optimizer).spectral_radius ** 2}


# ---------------------------------------------------------------------------------------------------------------------
# Fluctuation and dissipation


def _dissipation_oracle(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    problem, m = setting.problem, setting.problem.dimension
    step, _, state = _law(problem, optimizer)
    _, basis = _basis(problem)
    lagged = (step @ state)[:m, :m]
    increments = basis.T @ (2 * state[:m, :m] - lagged - lagged.T) @ basis
    a = _mode_rates(problem, optimizer)
    return {"constant": (a[:, None] + a) * (basis.T @ state[:m, :m] @ basis) / increments}


def _dissipation(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    curvatures = eigenbasis(setting.problem).curvatures
    return {"constant": fluctuation_dissipation_constant(curvatures, optimizer)}


def _heavy_ball_constant(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """1 + μ whatever the step reads."""
    m = setting.problem.dimension
    return {"constant": np.full((m, m), 1.0 + optimizer.momentum)}


def _diagonal_constant(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """The constant of two equal modes for every pair: (k_ii + k_jj)/2."""
    own = np.diag(_dissipation(setting, optimizer)["constant"])
    return {"constant": 0.5 * (own[:, None] + own)}


# ---------------------------------------------------------------------------------------------------------------------
# Exponential averages


def _ema_oracle(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """(w, v, e) carried together: e₊ = β e + (1−β) w₊."""
    problem, m = setting.problem, setting.problem.dimension
    step, inflow, state = _law(problem, optimizer)
    answers = {}
    for beta in setting.decays:
        b = np.longdouble(beta)
        eye = np.eye(m, dtype=np.longdouble)
        joint = np.block([
            [step, np.zeros((2 * m, m))],
            [(1 - b) * step[:m], b * eye],
        ])  # fmt: skip
        push = np.vstack([inflow, (1 - b) * inflow[:m]])
        forcing = push @ problem.dense_noise_cov() @ push.T
        answers[f"settled, decay {beta:g},"] = settled(joint, forcing)[2 * m :, 2 * m :]
        begun = np.vstack([np.eye(2 * m), np.eye(2 * m)[:m]])  # e_0 = w_0
        for name, start in (("stationary", begun @ state @ begun.T), ("optimum", np.zeros((3 * m, 3 * m)))):
            moved = start.astype(np.longdouble)
            for _ in range(setting.steps):
                moved = joint @ moved @ joint.T + forcing
            answers[f"from {name}, decay {beta:g},"] = moved[2 * m :, 2 * m :]
    return answers


def _ema(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    problem = setting.problem
    answers = {}
    for beta in setting.decays:
        answers[f"settled, decay {beta:g},"] = ema_covariance(problem, optimizer, beta)
        for start in ("stationary", "optimum"):
            found = ema_covariance(problem, optimizer, beta, steps=setting.steps, start=start)
            answers[f"from {start}, decay {beta:g},"] = found
    return answers


def _ema_of_draws(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """(1−β)/(1+β) Σ: iterates as independent draws."""
    law = stationary_covariance(setting.problem, optimizer).require()
    return {f"settled, decay {beta:g},": (1 - beta) / (1 + beta) * law for beta in setting.decays}


def _ema_wrong_sign(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """Equation (1) with the law at lag 0 added where it was counted twice."""
    law = stationary_covariance(setting.problem, optimizer).require()
    return {
        key: _ema(setting, optimizer)[key] + 2 * (1 - beta) / (1 + beta) * law
        for beta in setting.decays
        for key in (f"settled, decay {beta:g},",)
    }


def _ema_settled(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """A finite average from the optimum taken for the settled one."""
    return {
        f"from optimum, decay {beta:g},": ema_covariance(setting.problem, optimizer, beta) for beta in setting.decays
    }


# ---------------------------------------------------------------------------------------------------------------------
# Elasticities


def _slope(value: Callable[[float], NDArray]) -> NDArray:
    """Derivative at 0 by differences of eighth order."""
    h = 2.0**-6
    total = 0.0
    for weight, reach in ((4 / 5, 1), (-1 / 5, 2), (4 / 105, 3), (-1 / 280, 4)):
        total = total + np.longdouble(weight) * (value(reach * h) - value(-reach * h))
    return total / h


def _elasticities_oracle(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """Slopes of ln σ² along each eigenvector of H, of dense laws at curvatures, noises and rates a little changed."""
    values, basis = _basis(setting.problem)
    gamma = np.diag(basis.T @ setting.problem.dense_noise_cov() @ basis)

    def log_variance(curvature: float = 0.0, noise: float = 0.0, rate: float = 0.0) -> NDArray:
        found = []
        for value, own in zip(values, gamma, strict=True):
            moved = Quadratic(np.array([value * np.exp(curvature)]), np.array([own * np.exp(noise)]))
            found.append(_law(moved, replace(optimizer, learning_rate=optimizer.learning_rate * np.exp(rate)))[2][0, 0])
        return np.log(np.array(found))

    return {
        "curvature": _slope(lambda x: log_variance(curvature=x)),
        "noise": _slope(lambda x: log_variance(noise=x)),
        "rate": _slope(lambda x: log_variance(rate=x)),
        "variances": np.exp(log_variance()),
    }


def _elasticities(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    found = variance_elasticities(setting.problem, optimizer)
    return {
        "curvature": found.curvature,
        "noise": found.noise,
        "rate": found.learning_rate,
        "variances": found.variances,
    }


def _decay_forgotten(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """λ + δ differentiated as if it were all curvature."""
    values, _ = _basis(setting.problem)
    found = variance_elasticities(setting.problem, optimizer).curvature
    return {"curvature": found * (values + optimizer.weight_decay) / values}


def _small_step_elasticities(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """−1 and 1: the law of small steps."""
    del optimizer
    one = np.ones(setting.problem.dimension)
    return {"curvature": -one, "rate": one}


# ---------------------------------------------------------------------------------------------------------------------
# Attribution


def _after(optimizer: MomentumSGD) -> MomentumSGD:
    """The optimizer after the change."""
    return replace(
        optimizer,
        learning_rate=0.4 * optimizer.learning_rate,
        momentum=0.75 * optimizer.momentum,
        weight_decay=0.5 * optimizer.weight_decay,
    )


def _attribution_oracle(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """Parts of Δ ln σ² along the eigenvectors before: dense laws at the two rates, and at a rate of next to nothing.

    What the step size adds is the law over what it tends to, as σ² ∝ η: the same law at rates too small to matter,
    extrapolated to none.
    """
    assert setting.problem_after is not None
    _, basis = _basis(setting.problem)

    def along(problem: Quadratic, one: MomentumSGD) -> dict[str, NDArray]:
        hessian, noise = problem.dense_hessian(), problem.dense_noise_cov()
        curvature = np.einsum("ki,kl,li->i", basis, hessian, basis)
        gamma = np.einsum("ki,kl,li->i", basis, noise, basis)
        modes = [Quadratic(np.array([x]), np.array([y])) for x, y in zip(curvature, gamma, strict=True)]

        def variance(rate: float) -> NDArray:
            return np.array([_law(mode, replace(one, learning_rate=rate))[2][0, 0] for mode in modes])

        # σ²/η is analytic in η: three halvings of Richardson end at its value at η = 0.
        rates = [one.learning_rate * 2.0**-k for k in range(10, 18)]
        table = [variance(rate) / np.longdouble(rate) for rate in rates]
        for order in range(1, len(table)):
            table = [(2.0**order * b - a) / (2.0**order - 1) for a, b in itertools.pairwise(table)]
        whole = variance(one.learning_rate)
        return {
            "variance": np.log(whole),
            "step_size": np.log(whole / one.learning_rate / table[0]),
            "small": np.log(table[0]),
            "noise": np.log(gamma),
            "curvature": -np.log(curvature + one.weight_decay),
        }

    old, new = along(setting.problem, optimizer), along(setting.problem_after, _after(optimizer))
    change = {key: new[key] - old[key] for key in old}
    rate = np.full_like(change["noise"], np.log(_after(optimizer).learning_rate / optimizer.learning_rate))
    # The small-step law is K η γ/(2(λ+δ)(1−μ)), with K what each unit of gradient enters.
    gain = np.log(_gain(_after(optimizer)) / _gain(optimizer))
    return {
        "learning_rate": rate + gain,
        "noise": change["noise"],
        "curvature": change["curvature"],
        "step_size": change["step_size"],
        "momentum": change["small"] - gain - change["noise"] - change["curvature"],
        "total": change["variance"],
    }


def _gain(optimizer: MomentumSGD) -> float:
    """K: what a unit gradient moves the weights in all, (1−μ) Σ_t Δw_t/(−η), read off an impulse."""
    step, inflow = transition(Quadratic(np.zeros(1), np.ones(1)), replace(optimizer, weight_decay=0.0), np.longdouble)
    state, total = inflow, np.longdouble(0.0)
    for _ in range(3000):
        total = state[0, 0]
        state = step @ state
    return float(-total * (1 - optimizer.momentum) / optimizer.learning_rate)


def _parts(setting: Stationarity, optimizer: MomentumSGD, overlaps: NDArray[np.float64] | None = None) -> Answers:
    found = attribution(
        setting.problem, optimizer, _after(optimizer), problem_after=setting.problem_after, overlaps=overlaps
    )
    moved = [name for name in PARTS if optimizer.momentum or name != "momentum"]  # 0 of 0 is no relative error
    return {**{name: getattr(found, name) for name in moved}, "total": found.total}


def _by_rank(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """Modes paired by the rank of their curvature."""
    return _parts(setting, optimizer, np.eye(setting.problem.dimension))


def _step_size_left_out(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """The small-step law's parts for the whole."""
    found = _parts(setting, optimizer)
    return {"total": np.sum([value for name, value in found.items() if name not in ("total", "step_size")], axis=0)}


def _heavy_ball_step(setting: Stationarity, optimizer: MomentumSGD) -> Answers:
    """Heavy ball's step-size part, whatever the step reads."""
    plain = replace(optimizer, nesterov=False, discount=1.0, dampening=0.0)
    return {"step_size": _parts(setting, plain)["step_size"]}


MOMENTS = exact_experiment(
    "stationary-dense", "the dense recursion of (w, v) summed until it is settled", JUDGED, each(_moments_oracle)
)
EDGES = exact_experiment(
    "edges-dense", "eigenvalues of the dense recursion, and the rate at which they reach 1", JUDGED, each(_edges_oracle)
)
DISSIPATION = exact_experiment(
    "dissipation-dense", "what curvature takes out over what steps put in", JUDGED, each(_dissipation_oracle)
)
EXPONENTIAL = exact_experiment(
    "exponential-averages-dense", "weights and their exponential average carried together", JUDGED, each(_ema_oracle)
)
ELASTICITIES = exact_experiment(
    "elasticities-dense", "dense laws at settings a little changed", JUDGED, each(_elasticities_oracle)
)
CAUSES = exact_experiment(
    "attribution-dense", "dense laws before and after, and at rates next to nothing", JUDGED, each(_attribution_oracle)
)
EXPERIMENTS: tuple[Experiment, ...] = (MOMENTS, EDGES, DISSIPATION, EXPONENTIAL, ELASTICITIES, CAUSES)


def _plain(optimizer: MomentumSGD) -> MomentumSGD:
    return MomentumSGD(optimizer.learning_rate, optimizer.momentum, weight_decay=optimizer.weight_decay)


CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="stationary-exact",
        statement="(S1), (S2), the mean (H + δ)⁻¹Hw*, lag one and increments of any H and C, in every convention; "
        "of (sH, tC) too.",
        source=OWN,
        experiment=MOMENTS,
        predict=each(_moments),
        decoys={
            "dampening forgotten": _as_if(lambda one: replace(one, dampening=0.0)),
            "weight decay forgotten": _as_if(lambda one: replace(one, weight_decay=0.0)),
            "heavy ball for all": _as_if(_plain),
            "H and C commute": each(_commuting),
            "μ for √μ": each(_momentum_for_its_root),
        },
        assumptions=ASSUMED,
        num_tests=7 * len(OPTIMIZERS),
    ),
    exact_claim(
        name="stability-exact",
        statement="mode by mode: radius √q or the larger root, ratio a(1+2φ)/(2(1+μ)), edge η = 2(1+μ)/((1+2φ)Kλ).",
        source="characteristic polynomial of the two-step recursion (Jury's conditions)",
        experiment=EDGES,
        predict=each(_edges),
        decoys={
            "dampening forgotten": _edges_as_if(lambda one: replace(one, dampening=0.0)),
            "weight decay forgotten": _edges_as_if(lambda one: replace(one, weight_decay=0.0)),
            "heavy ball for all": _edges_as_if(_plain),
            "μ for √μ": each(_square_of_radius),
        },
        assumptions=("quadratic loss",),
        num_tests=3 * len(OPTIMIZERS),
    ),
    exact_claim(
        name="dissipation-exact",
        statement="(a_i + a_j) Σ_ij = k_ij Cov(Δw)_ij with k of the two modes: 1 + μ for heavy ball, not for Nesterov.",
        source="own derivation; Yaida (arXiv 1810.00004) for heavy ball",
        experiment=DISSIPATION,
        predict=each(_dissipation),
        decoys={
            "1 + μ for all": each(_heavy_ball_constant),
            "the mean of the two modes' own": each(_diagonal_constant),
        },
        assumptions=ASSUMED,
        num_tests=len(OPTIMIZERS),
    ),
    exact_claim(
        name="exponential-average",
        statement="Cov(e)_ij = (1−β)/(1+β) [(I−βF_i)⁻¹P_ij + P_ij(I−βF_j)⁻ᵀ − P_ij]_ww; after T steps by doubling.",
        source="own derivation: Σ_h βʰFʰ sums every autocovariance at once",
        experiment=EXPONENTIAL,
        predict=each(_ema),
        decoys={
            "independent draws": each(_ema_of_draws),
            "+ P_ij in place of − P_ij": each(_ema_wrong_sign),
            "settled at once": each(_ema_settled),
        },
        assumptions=ASSUMED,
        num_tests=3 * len(JUDGED.decays) * len(OPTIMIZERS),
    ),
    exact_claim(
        name="elasticities-exact",
        statement="∂ ln σ²/∂ ln λ, ln γ and ln η of (S1) along each eigenvector of H, weight decay counted: λ/(λ+δ) of "
        "the curvature's.",
        source=OWN,
        experiment=ELASTICITIES,
        predict=each(_elasticities),
        decoys={
            "weight decay forgotten": each(_decay_forgotten),
            "small steps, −1 and 1": each(_small_step_elasticities),
        },
        assumptions=ASSUMED,
        num_tests=4 * len(OPTIMIZERS),
    ),
    exact_claim(
        name="attribution-exact",
        statement="Δ ln σᵢ² = Δ ln Kη + Δ ln γᵢ − Δ ln λᵢ − Δ ln(1−μ) + Δ ln κᵢ, modes paired by eigenvector, in every "
        "convention.",
        source="own derivation from (S1), (S3)",
        experiment=CAUSES,
        predict=each(_parts),
        decoys={
            "paired by rank of curvature": each(_by_rank),
            "step size left out": each(_step_size_left_out),
            "heavy ball's step size for all": each(_heavy_ball_step),
        },
        assumptions=(*ASSUMED, "the eigenvectors of H stayed"),
        num_tests=6 * len(OPTIMIZERS) - 1,
    ),
)
