r"""Exact claims about PAC-Bayes: divergences, bounds and their fees, terms, paths, best variances; the price.

The bounds' oracle is their proof in decimal arithmetic (`theory.oracle.bounds`), that of terms and prices the dense law
in extended precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.claims.exact_paths import MOVED
from theory.claims.exact_stationary import ASSUMED, OPTIMIZERS, PROBLEM
from theory.closed_form.alignment import (
    COMMUTING,
    commutativity,
    commutativity_from_gradients,
    commutativity_price,
    total_correlation,
)
from theory.closed_form.divergence import binary_kl, gaussian_kl, kl_inverse
from theory.closed_form.interpolation import interpolated_variance
from theory.closed_form.pac_bayes import (
    BoundedLoss,
    FixedPrior,
    PriorGrid,
    SubGaussianLoss,
    optimal_variance,
    pac_bayes_bound,
    pac_bayes_path,
    pac_bayes_terms,
)
from theory.judge.claim import Claim, Experiment
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle import bounds
from theory.oracle.dense import commutation_measures, divergence, log_volume, mean_settled, settled
from theory.oracle.transition import transition

# ---------------------------------------------------------------------------------------------------------------------
# Divergences and bounds


@keyword_setting
class Bounds(Setting):
    """What is bounded.

    Args:
        risks: r of the posterior, in units of the loss.
        divergences: KL to each prior of the grid.
        weights: π of each prior.
        constants: Catoni's grid.
        num_samples: n.
        delta: δ.
        upper: b, the loss's range.
        constant: s, its sub-Gaussian constant.
        prior_variance: σ_P² of the best variances.
        curvatures: λ of the best variances.
    """

    risks: tuple[float, ...]
    divergences: tuple[float, ...]
    weights: tuple[float, ...]
    constants: tuple[float, ...]
    num_samples: int
    delta: float
    upper: float
    constant: float
    prior_variance: float
    curvatures: tuple[float, ...]


BOUNDED = Bounds(
    risks=(0.1, 0.6),
    divergences=(2.5, 1.1, 4.0),
    weights=(0.5, 0.05, 0.3),
    constants=(0.3, 0.6, 1.2),
    num_samples=24,
    delta=0.05,
    upper=2.5,
    constant=0.7,
    prior_variance=0.8,
    curvatures=(0.0, 0.3, 5.0),
)

Value = Callable[[Decimal, Decimal], Decimal]


def _proofs(setting: Bounds) -> dict[str, list[Value]]:
    """Each bound as a function of (r, what is paid in nats); several where a constant may be chosen."""
    n, b, s = setting.num_samples, Decimal(setting.upper), Decimal(setting.constant)
    delta, grid = Decimal(setting.delta), [Decimal(one) for one in setting.constants]

    def scaled(bound: Callable[..., Decimal], *more: Decimal) -> Value:
        return lambda risk, paid: b * bound(risk / b, paid, n, delta, *more)

    chosen = grid[1]
    fee = Decimal(len(grid)).ln()
    return {
        "seeger": [scaled(bounds.seeger)],
        "mcallester": [scaled(bounds.mcallester)],
        "mcallester, sub-Gaussian": [lambda r, paid: bounds.mcallester_sub_gaussian(r, paid, n, delta, s)],
        "catoni": [scaled(bounds.catoni, chosen)],
        "catoni, sub-Gaussian": [lambda r, paid: bounds.catoni_sub_gaussian(r, paid, n, delta, chosen, s)],
        "catoni, grid": [
            (lambda r, paid, C=C: b * bounds.catoni(r / b, paid + fee, n, delta, C)) for C in grid
        ],
    }  # fmt: skip


def _bounds_oracle(setting: Bounds) -> Answers:
    def answer() -> dict[str, list[Decimal]]:
        risks = [Decimal(risk) for risk in setting.risks]
        each_paid = [
            Decimal(kl) - Decimal(weight).ln() for kl, weight in zip(setting.divergences, setting.weights, strict=True)
        ]
        found: dict[str, list[Decimal]] = {}
        for name, choices in _proofs(setting).items():
            first = Decimal(setting.divergences[0])
            values = [min((bound(risk, first), k) for k, bound in enumerate(choices)) for risk in risks]
            found[name] = [value for value, _ in values]
            prices = []
            for risk, (_, k) in zip(risks, values, strict=True):
                in_kl = bounds.slope(lambda paid, k=k, risk=risk, of=choices: of[k](risk, paid), first)
                in_risk = bounds.slope(lambda at, k=k, of=choices, kl=first: of[k](at, kl), risk)
                prices.append(in_kl / in_risk)
            found[f"{name}, price"] = prices
            found[f"{name}, prior grid"] = [
                min(bound(risk, paid) for bound in choices for paid in each_paid) for risk in risks
            ]
        return found

    return {key: np.array(values) for key, values in bounds.in_decimal(answer).items()}


def _bounds(setting: Bounds) -> Answers:
    bounded = BoundedLoss(because="clipped", upper=setting.upper)
    tailed = SubGaussianLoss(because="tails of a Gaussian", constant=setting.constant)
    asked: dict[str, dict[str, Any]] = {
        "seeger": {"method": "seeger", "loss": bounded},
        "mcallester": {"method": "mcallester", "loss": bounded},
        "mcallester, sub-Gaussian": {"method": "mcallester", "loss": tailed},
        "catoni": {"method": "catoni", "loss": bounded, "catoni_constant": setting.constants[1]},
        "catoni, sub-Gaussian": {"method": "catoni", "loss": tailed, "catoni_constant": setting.constants[1]},
        "catoni, grid": {"method": "catoni", "loss": bounded, "catoni_constant": setting.constants},
    }
    priors = PriorGrid(
        variances=tuple(1.0 + k for k in range(len(setting.weights))),
        weights=setting.weights,
    )
    risks = np.array(setting.risks)
    answers = {}
    for name, how in asked.items():
        call = functools.partial(pac_bayes_bound, risks, num_samples=setting.num_samples, delta=setting.delta, **how)
        one = call(setting.divergences[0], prior=FixedPrior(because="before the data"))
        grid = call(np.broadcast_to(setting.divergences, (len(risks), len(setting.weights))), prior=priors)
        answers[name], answers[f"{name}, prior grid"] = np.asarray(one.value), np.asarray(grid.value)
        answers[f"{name}, price"] = np.broadcast_to(np.asarray(one.kl_price), risks.shape)
    return answers


def _n_for_n_minus_one(setting: Bounds) -> Answers:
    """KL + ½ ln n − ln δ over 2n in the sub-Gaussian bound."""
    n, name = setting.num_samples, "mcallester, sub-Gaussian"
    right = _bounds(setting)[name]
    risks = np.array(setting.risks)
    return {name: risks + (right - risks) * np.sqrt((n - 1) / n)}


def _prior_grid_unpaid(setting: Bounds) -> Answers:
    """The smallest KL of the grid, ln(1/π) not paid."""
    found = _bounds(replace(setting, divergences=(min(setting.divergences), *setting.divergences[1:])))
    return {key: found[key.removesuffix(", prior grid")] for key in found if key.endswith(", prior grid")}


def _constant_grid_unpaid(setting: Bounds) -> Answers:
    """The best of Catoni's constants as if it had been the only one."""
    values = [
        _bounds(replace(setting, constants=(setting.constants[0], one, setting.constants[2])))["catoni"]
        for one in setting.constants
    ]
    return {"catoni, grid": np.min(values, axis=0)}


def _root_for_moment(setting: Bounds) -> Answers:
    """2√n, Maurer's bound on his moment, in place of the moment."""
    n, b = setting.num_samples, setting.upper
    complexity = (setting.divergences[0] + np.log(2 * np.sqrt(n) / setting.delta)) / n
    return {"seeger": b * np.asarray(kl_inverse(np.array(setting.risks) / b, complexity))}


def _price_in_kl_alone(setting: Bounds) -> Answers:
    """∂B/∂KL, what it costs in the risk forgotten: for Seeger's bound another number."""
    h = 1e-4
    up, down = (
        _bounds(replace(setting, divergences=(setting.divergences[0] + sign * h, *setting.divergences[1:])))["seeger"]
        for sign in (1, -1)
    )
    return {"seeger, price": (up - down) / (2 * h)}


# Divergences ---------------------------------------------------------------------------------------------------------

COVARIANCE = np.array([[0.8, -0.5, 0.1], [-0.5, 1.2, 0.3], [0.1, 0.3, 0.4]])
WIDE = np.array([[1.5, 0.2, 0.0], [0.2, 0.9, -0.3], [0.0, -0.3, 1.1]])
HERE, THERE = np.array([0.3, -0.2, 0.5]), np.array([-0.1, 0.4, 0.0])


@keyword_setting
class Divergences(Setting):
    """Two Gaussians, pairs of risks, and complexities."""

    covariance: NDArray[np.float64]
    prior: NDArray[np.float64]
    mean: NDArray[np.float64]
    prior_mean: NDArray[np.float64]
    risks: tuple[float, ...]
    others: tuple[float, ...]
    complexities: tuple[float, ...]


DIVERGENCES = Divergences(
    covariance=COVARIANCE,
    prior=WIDE,
    mean=HERE,
    prior_mean=THERE,
    risks=(0.02, 0.3, 0.7),
    others=(0.4, 0.31, 0.9),
    complexities=(1e-4, 0.2, 3.0),
)


def _divergences_oracle(setting: Divergences) -> Answers:
    def answer() -> dict[str, list[Decimal]]:
        risks = [Decimal(one) for one in setting.risks]
        return {
            "binary": [bounds.binary_kl(r, Decimal(o)) for r, o in zip(risks, setting.others, strict=True)],
            "inverse": [bounds.kl_inverse(r, Decimal(c)) for r in risks for c in setting.complexities],
        }

    shift = setting.mean - setting.prior_mean
    diagonal = np.diag(setting.covariance)
    return {
        **{key: np.array(values) for key, values in bounds.in_decimal(answer).items()},
        "dense": np.array([divergence(setting.covariance, setting.prior, shift)]),
        "diagonal": np.array([divergence(np.diag(diagonal), np.diag(np.diag(setting.prior)), shift)]),
        "isotropic": np.array([divergence(setting.covariance, 0.7 * np.eye(len(shift)), shift)]),
    }


def _divergences(setting: Divergences) -> Answers:
    places = {"mean": setting.mean, "prior_mean": setting.prior_mean}
    diagonal = np.diag(setting.covariance)
    inverse = kl_inverse(np.array(setting.risks)[:, None], np.array(setting.complexities))
    return {
        "binary": np.asarray(binary_kl(setting.risks, setting.others)),
        "inverse": np.asarray(inverse).ravel(),
        "dense": np.array([gaussian_kl(setting.covariance, setting.prior, **places)]),
        "diagonal": np.array([gaussian_kl(diagonal, np.diag(setting.prior), **places)]),
        "isotropic": np.array([gaussian_kl(setting.covariance, 0.7, **places)]),
    }


def _arguments_swapped(setting: Divergences) -> Answers:
    """KL(P ‖ Q) for KL(Q ‖ P)."""
    return {
        "dense": np.array([gaussian_kl(setting.prior, setting.covariance, mean=setting.mean, prior_mean=THERE)]),
        "binary": np.asarray(binary_kl(setting.others, setting.risks)),
    }


def _pinsker(setting: Divergences) -> Answers:
    """r + √(c/2)."""
    loose = np.array(setting.risks)[:, None] + np.sqrt(0.5 * np.array(setting.complexities))
    return {"inverse": loose.ravel()}


# Best variances ------------------------------------------------------------------------------------------------------


def _best_oracle(setting: Bounds) -> Answers:
    """Where the bound's slope in σ² changes sign: Seeger's bound of r + ½λσ² and KL + KL(σ²), moved together."""

    def answer() -> dict[str, list[Decimal]]:
        wide, risk, kl = (Decimal(x) for x in (setting.prior_variance, setting.risks[0], setting.divergences[0]))
        bound = _proofs(setting)["seeger"][0]
        in_kl = bounds.slope(lambda paid: bound(risk, paid), kl)
        in_risk = bounds.slope(lambda at: bound(at, kl), risk)
        found = []
        for curvature in setting.curvatures:

            def share(variance: Decimal, curvature: float = curvature) -> Decimal:
                own = (variance / wide - 1 - (variance / wide).ln()) / 2
                return in_risk * Decimal(curvature) * variance / 2 + in_kl * own

            falling = Decimal("0.001") * wide
            found.append(bounds.largest(lambda v, share=share: bounds.slope(share, v) <= 0, falling, wide * 2))
        return {"variance": found}

    return {key: np.array(values) for key, values in bounds.in_decimal(answer).items()}


def _best(setting: Bounds, power: float = 1.0, share: float = 1.0) -> Answers:
    price = pac_bayes_bound(
        setting.risks[0],
        setting.divergences[0],
        num_samples=setting.num_samples,
        delta=setting.delta,
        loss=BoundedLoss(because="clipped", upper=setting.upper),
        prior=FixedPrior(because="before the data"),
    ).kl_price
    return {"variance": optimal_variance(setting.curvatures, setting.prior_variance, share * np.power(price, power))}


# ---------------------------------------------------------------------------------------------------------------------
# Terms and paths


@keyword_setting
class Posteriors(Setting):
    """Posteriors after a change, priors, and where they stand.

    Args:
        problem: before.
        problem_after: after.
        optimizers: before; after it the rate is a fifth.
        steps: updates since the change.
        prior_variances: a grid of isotropic priors.
        prior: a prior's covariance.
        prior_mean: where priors stand.
    """

    problem: Quadratic
    problem_after: Quadratic
    optimizers: tuple[MomentumSGD, ...]
    steps: tuple[int, ...]
    prior_variances: tuple[float, ...]
    prior: NDArray[np.float64]
    prior_mean: NDArray[np.float64]


POSTERIORS = Posteriors(
    problem=PROBLEM,
    problem_after=replace(MOVED, optimum=PROBLEM.optimum + 0.2),
    optimizers=OPTIMIZERS,
    steps=(0, 3, 30),
    prior_variances=(0.5, 2.0),
    prior=WIDE,
    prior_mean=THERE,
)


def _after(optimizer: MomentumSGD) -> MomentumSGD:
    return replace(optimizer, learning_rate=0.2 * optimizer.learning_rate, weight_decay=0.5 * optimizer.weight_decay)


def _dense_law(problem: Quadratic, optimizer: MomentumSGD) -> tuple[NDArray, NDArray]:
    """Mean and covariance of (w, v), settled."""
    m = problem.dimension
    step, inflow = transition(problem, optimizer, np.longdouble)
    away = mean_settled(step, inflow @ (optimizer.weight_decay * problem.optimum))
    place = np.concatenate([problem.optimum, np.zeros(m)])
    return place + away, settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)


def _risk(problem: Quadratic, mean: NDArray, covariance: NDArray) -> np.longdouble:
    hessian = problem.dense_hessian().astype(np.longdouble)
    away = mean - problem.optimum
    return 0.5 * (np.trace(hessian @ covariance) + away @ hessian @ away)


def _correlations_missed(covariance: NDArray, basis: NDArray) -> np.longdouble:
    """Σ ln Σ_ii − ln det Σ, halved: what the diagonal in `basis` leaves out."""
    inside = basis.T @ covariance @ basis
    return 0.5 * (np.log(np.diag(inside)).sum() - log_volume(inside))


def _posteriors_oracle(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    problem, after = setting.problem_after, _after(optimizer)
    m = problem.dimension
    values, basis = np.linalg.eigh(problem.dense_hessian())
    mean, state = _dense_law(setting.problem, optimizer)
    step, inflow = transition(problem, after, np.longdouble)
    noise, pull = problem.dense_noise_cov(), after.weight_decay * problem.optimum
    place = np.concatenate([problem.optimum, np.zeros(m)])
    rows: dict[str, list[Any]] = {}
    for k in range(setting.steps[-1] + 1):
        if k in setting.steps:
            w, cov = mean[:m], state[:m, :m]
            inside = np.diag(basis.T @ cov @ basis)
            row = {
                "risk": _risk(problem, w, cov),
                "kl": [divergence(cov, v * np.eye(m), w - setting.prior_mean) for v in setting.prior_variances],
                "means": w,
                "variances": inside,
                "correlations": _correlations_missed(cov, basis),
                "kl, full prior": divergence(cov, setting.prior, w - setting.prior_mean),
                "kl, full priors": [
                    divergence(cov, v * setting.prior, w - setting.prior_mean) for v in setting.prior_variances
                ],
                "curvature times variance": values * inside,
                "negative log variance": -np.log(inside),
            }
            for key, value in row.items():
                rows.setdefault(key, []).append(value)
        mean = place + step @ (mean - place) + inflow @ pull
        state = step @ state @ step.T + inflow @ noise @ inflow.T
    return {key: np.array(value) for key, value in rows.items()}


def _posteriors(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    problem, after = setting.problem_after, _after(optimizer)
    ask = functools.partial(
        pac_bayes_path, setting.problem, optimizer, after, setting.steps, problem_after=problem,
        prior_mean=setting.prior_mean,
    )  # fmt: skip
    path = ask(prior=PriorGrid(variances=setting.prior_variances))
    _, basis = np.linalg.eigh(problem.dense_hessian())
    terms = [
        pac_bayes_terms(problem, (basis * row) @ basis.T, prior_variance=1.0, mean=mean)
        for row, mean in zip(path.variances, path.means, strict=True)
    ]
    return {
        "risk": path.expected_risk,
        "kl": path.kl,
        "means": path.means,
        "variances": path.variances,
        "correlations": path.total_correlation,
        "kl, full prior": ask(prior=setting.prior).kl,
        "kl, full priors": ask(prior=PriorGrid(variances=setting.prior_variances, covariance=setting.prior)).kl,
        "curvature times variance": np.array([one.curvature_times_variance for one in terms]),
        "negative log variance": np.array([one.negative_log_variance for one in terms]),
    }


def _old_curvature(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    """The new posterior's risk under the curvature before."""
    path = pac_bayes_path(
        setting.problem, optimizer, _after(optimizer), setting.steps, problem_after=setting.problem_after, prior=1.0
    )
    rows = []
    for variances, mean in zip(path.variances, path.means, strict=True):
        _, basis = np.linalg.eigh(setting.problem_after.dense_hessian())
        rows.append(float(_risk(setting.problem, mean, (basis * variances) @ basis.T)))
    return {"risk": np.array(rows)}


def _from_optimum(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    """The risk as if weight decay left the mean at w*."""
    path = pac_bayes_path(
        setting.problem, optimizer, _after(optimizer), setting.steps, problem_after=setting.problem_after, prior=1.0
    )
    values = np.linalg.eigvalsh(setting.problem_after.dense_hessian())
    return {"risk": 0.5 * path.variances @ values}


def _diagonal_kl(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    """Directions as if they were independent."""
    found = _posteriors(setting, optimizer)
    return {"kl": found["kl"] - found["correlations"][:, None]}


def _prior_at_origin(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    found = _posteriors(replace(setting, prior_mean=np.zeros(3)), optimizer)
    return {"kl": found["kl"], "kl, full prior": found["kl, full prior"]}


def _interpolated(setting: Posteriors, optimizer: MomentumSGD) -> Answers:
    """(T2) in the problem after for what the change left."""
    start = replace(optimizer, weight_decay=_after(optimizer).weight_decay)
    return {"variances": interpolated_variance(setting.problem_after, start, _after(optimizer), setting.steps)}


# ---------------------------------------------------------------------------------------------------------------------
# The price of correlations


@keyword_setting
class Prices(Setting):
    """Pairs that do not commute, and one whose curvatures nobody could tell apart.

    Args:
        problem: separate curvatures.
        optimizers: the recursions.
        crowded: curvatures within less than `NEARLY_DEGENERATE` of each other, H diagonal.
        gradients: per-sample gradients, shape ``(N, m)``, of `problem`'s dimension.
        axes: orthogonal; the Hessian diag(1, 1, 2) in these axes has no eigenvectors of its own in their first two.
    """

    problem: Quadratic
    optimizers: tuple[MomentumSGD, ...]
    crowded: Quadratic
    gradients: NDArray[np.float64]
    axes: NDArray[np.float64]

    def repeated(self) -> Quadratic:
        """`problem` with two curvatures that are one."""
        hessian = (self.axes * np.array([1.0, 1.0, 2.0])) @ self.axes.T
        return replace(self.problem, hessian=0.5 * (hessian + hessian.T))


def _crowded(size: int) -> Quadratic:
    grid = np.arange(size)
    root = np.cos(1.0 + np.multiply.outer(grid, grid + 1.0)) + np.diag(1.5 + 0.3 * grid)
    return Quadratic(1.0 + 9e-4 * grid / size, root @ root.T / size)


PRICES = Prices(
    problem=PROBLEM,
    optimizers=OPTIMIZERS,
    crowded=_crowded(10),
    gradients=np.sin(0.7 + np.multiply.outer(np.arange(120.0), np.array([1.0, 2.3, 3.1])) ** 1.3),
    axes=np.linalg.qr(np.cos(np.multiply.outer(np.arange(1.0, 4.0), np.arange(1.0, 4.0))))[0],
)


def _weights(problem: Quadratic, optimizer: MomentumSGD) -> NDArray:
    m = problem.dimension
    return _dense_law(problem, optimizer)[1][:m, :m]


def _prices_oracle(setting: Prices, optimizer: MomentumSGD) -> Answers:
    _, basis = np.linalg.eigh(setting.problem.dense_hessian())
    crowded = setting.crowded
    _, axes = np.linalg.eigh(crowded.dense_noise_cov())  # all of it one eigenspace: where C is diagonal
    law, tight = _weights(setting.problem, optimizer), _weights(crowded, optimizer)
    eye = np.eye(crowded.dimension)
    repeated = setting.repeated()
    _, turn = np.linalg.eigh(setting.axes[:, :2].T @ repeated.dense_noise_cov() @ setting.axes[:, :2])
    chosen = np.hstack([setting.axes[:, :2] @ turn, setting.axes[:, 2:]])
    return {
        "repeated curvature": np.full(2, _correlations_missed(_weights(repeated, optimizer), chosen)),
        "price": np.array([_correlations_missed(law, basis)]),
        "crowded, to the letter": np.array([_correlations_missed(tight, eye)]),
        "crowded, one eigenspace": np.array([_correlations_missed(tight, axes)]),
        "correlations of C": np.array([_correlations_missed(crowded.dense_noise_cov().astype(np.longdouble), eye)]),
    }


def _prices(setting: Prices, optimizer: MomentumSGD) -> Answers:
    tight, tied = (commutativity_price(one, optimizer) for one in (setting.crowded, setting.repeated()))
    return {
        "repeated curvature": np.array([tied.nats, tied.strict_nats]),
        "price": np.array([commutativity_price(setting.problem, optimizer).nats]),
        "crowded, to the letter": np.array([tight.strict_nats]),
        "crowded, one eigenspace": np.array([tight.nats]),
        "correlations of C": np.array([total_correlation(setting.crowded.noise_cov)]),
    }


def _one_for_the_other(setting: Prices, optimizer: MomentumSGD) -> Answers:
    """The default's answer printed under the statement, and the statement's under the default."""
    found = _prices(setting, optimizer)
    return {
        "crowded, to the letter": found["crowded, one eigenspace"],
        "crowded, one eigenspace": found["crowded, to the letter"],
    }


def _noise_for_weights(setting: Prices, optimizer: MomentumSGD) -> Answers:
    """Correlations of the noise for those of the weights."""
    del optimizer
    _, basis = np.linalg.eigh(setting.problem.dense_hessian())
    return {"price": np.array([total_correlation(basis.T @ setting.problem.dense_noise_cov() @ basis)])}


def _half_lost(setting: Prices, optimizer: MomentumSGD) -> Answers:
    return {"price": 2 * np.asarray(_prices(setting, optimizer)["price"])}


# Measures ------------------------------------------------------------------------------------------------------------

MEASURES = tuple(measure for measure in COMMUTING if measure != "chi_deflated")


def _measures_oracle(setting: Prices) -> Answers:
    hessian, noise = setting.problem.dense_hessian(), setting.problem.dense_noise_cov()
    sampled = np.cov(setting.gradients, rowvar=False)
    answers = {}
    for where, cov in (("", noise), (", from gradients", sampled)):
        for name, value in commutation_measures(hessian, cov).items():
            answers[name + where] = np.array([value])
    return answers


def _measures(setting: Prices, decay: float = 0.0) -> Answers:
    hessian = setting.problem.dense_hessian() + decay * np.eye(setting.problem.dimension)
    whole = commutativity(Quadratic(hessian, setting.problem.noise_cov), num_null=20)
    sampled = commutativity_from_gradients(hessian, setting.gradients, num_null=20, num_groups=5)
    return {
        name + where: np.array([found.measures[name].value])
        for where, found in (("", whole), (", from gradients", sampled))
        for name in MEASURES
    }


def _textbook_for_chi(setting: Prices) -> Answers:
    """1 − 2δ² with the textbook's normalisation."""
    found = _measures(setting)
    return {"chi": 1 - 2 * np.asarray(found["normalized_commutator"]) ** 2}


# ---------------------------------------------------------------------------------------------------------------------
# Register

PROOFS = exact_experiment(
    "bounds-decimal", "the bounds from their proofs: moments summed, inequalities bisected, 40 digits", BOUNDED,
    _bounds_oracle,
)  # fmt: skip
BEST = exact_experiment("best-variances", "the bound's slope in a variance, bisected", BOUNDED, _best_oracle)
DEFINED = exact_experiment(
    "divergences-decimal", "divergences as they are defined, in 40 digits", DIVERGENCES, _divergences_oracle
)
AFTER = exact_experiment(
    "posteriors-dense", "risk and divergence of the dense law, step by step", POSTERIORS, each(_posteriors_oracle)
)
CORRELATED = exact_experiment(
    "prices-dense", "determinants of the dense law's correlations", PRICES, each(_prices_oracle)
)
MATRICES = exact_experiment("commutators-dense", "the measures as products of matrices", PRICES, _measures_oracle)
EXPERIMENTS: tuple[Experiment, ...] = (PROOFS, BEST, DEFINED, AFTER, CORRELATED, MATRICES)

CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="bounds-exact",
        statement="Seeger, McAllester–Maurer and Catoni, bounded and sub-Gaussian, ln(1/π) and ln K paid, and the "
        "price β = (∂B/∂KL)/(∂B/∂r) of a nat.",
        source="Seeger 2002; Maurer 2004; Catoni 2007; sub-Gaussian: own derivation, λ = (n−1)/2s²",
        experiment=PROOFS,
        predict=_bounds,
        decoys={
            "n for n − 1, sub-Gaussian": _n_for_n_minus_one,
            "prior grid unpaid": _prior_grid_unpaid,
            "Catoni's grid unpaid": _constant_grid_unpaid,
            "2√n for the moment": _root_for_moment,
            "∂B/∂KL for β": _price_in_kl_alone,
        },
        assumptions=("independent samples", "the hypothesis on the loss"),
        num_tests=18,
    ),
    exact_claim(
        name="best-variance",
        statement="σ²* = 1/(1/σ_P² + λ/β): where a direction's share of the bound is least.",
        source="own derivation",
        experiment=BEST,
        predict=_best,
        decoys={
            "β twice": lambda setting: _best(setting, share=2.0),
            "√β": lambda setting: _best(setting, power=0.5),
        },
        assumptions=("directions independent", "first order in the bound"),
        num_tests=1,
    ),
    exact_claim(
        name="divergences-exact",
        statement="KL of Gaussians (D1), kl and kl⁻¹ of risks (D2), to their definitions.",
        source="textbook; Seeger 2002, Langford 2005",
        experiment=DEFINED,
        predict=_divergences,
        decoys={"arguments swapped": _arguments_swapped, "Pinsker for the inverse": _pinsker},
        assumptions=(),
        num_tests=5,
    ),
    exact_claim(
        name="posterior-path",
        statement="½tr(HΣ) + ½ΔᵀHΔ and KL at every step after a change, under the curvature after it, means pulled by "
        "weight decay, priors of any covariance.",
        source="own derivation; (B1) through (T1)",
        experiment=AFTER,
        predict=each(_posteriors),
        decoys={
            "risk under the old curvature": each(_old_curvature),
            "mean at w*": each(_from_optimum),
            "directions independent": each(_diagonal_kl),
            "prior at the origin": each(_prior_at_origin),
            "interpolated": each(_interpolated),
        },
        assumptions=(*ASSUMED, "Gaussian posterior and prior"),
        num_tests=9 * len(OPTIMIZERS),
    ),
    exact_claim(
        name="price-exact",
        statement="−½ ln det R twice: to the letter in H's eigenbasis, and in a basis that diagonalises C inside "
        "nearly degenerate eigenspaces, which is the default. They differ where curvatures crowd.",
        source="(S3), own derivation",
        experiment=CORRELATED,
        predict=each(_prices),
        decoys={
            "one for the other": each(_one_for_the_other),
            "correlations of the noise": each(_noise_for_weights),
            "the half lost": each(_half_lost),
        },
        assumptions=(*ASSUMED, "isotropic prior"),
        num_tests=5 * len(OPTIMIZERS),
    ),
    exact_claim(
        name="commutativity-measures",
        statement="χ, ω and the other measures of a pair are what their definitions make of the matrices, C given or "
        "the covariance of gradients.",
        source="definitions in `theory.closed_form.alignment`",
        experiment=MATRICES,
        predict=_measures,
        decoys={
            "weight decay left in H": lambda setting: _measures(setting, decay=0.5),
            "the textbook's normalisation for χ": _textbook_for_chi,
        },
        assumptions=("separate curvatures",),
        num_tests=2 * len(MEASURES),
    ),
)
