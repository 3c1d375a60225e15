"""The bound, its terms and hypotheses: against definitions, coverage by simulation, and the laws a bound must obey."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from theory.closed_form.pac_bayes import (
    BoundedLoss,
    DataDependentPrior,
    FixedPrior,
    PriorGrid,
    SubGaussianLoss,
    UnboundedLoss,
    gaussian_kl,
    maurer_moment,
    optimal_variance,
    pac_bayes_bound,
    pac_bayes_path,
    pac_bayes_terms,
    variance_elasticities,
    with_factors,
)
from theory.closed_form.stationary import stationary_variance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.transition import transition
from theory.solution import UnstableError

ZERO_ONE = BoundedLoss(because="0-1 error")
FIXED = FixedPrior(because="drawn before the data")
NORMAL = SubGaussianLoss(because="Gaussian losses", constant=1.0)
RUN = MomentumSGD(0.1, 0.9)


def bound(risk=0.1, kl=5.0, *, num_samples=1000, delta=0.05, loss=ZERO_ONE, prior=FIXED, **choices):
    return pac_bayes_bound(risk, kl, num_samples=num_samples, delta=delta, loss=loss, prior=prior, **choices)


def dense_problem(seed: int, size: int = 5) -> Quadratic:
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2)]
    hessian = (turns[0] * np.exp(rng.uniform(-2, 2, size))) @ turns[0].T
    noise = (turns[1] * np.exp(rng.uniform(-2, 2, size))) @ turns[1].T
    return Quadratic(0.5 * (hessian + hessian.T), 0.5 * (noise + noise.T))


# --- terms


@pytest.mark.parametrize("seed", range(5))
def test_terms_add_up_to_the_risk_and_the_divergence_of_the_definition(seed):
    problem, rng = dense_problem(seed), np.random.default_rng(seed)
    covariance = lyapunov_covariance(problem, RUN).require()
    mean, prior_mean = rng.standard_normal((2, 5))
    terms = pac_bayes_terms(
        problem, covariance, prior_variance=0.3, mean=mean, prior_mean=prior_mean, residual_risk=0.25
    )
    hessian = problem.dense_hessian()
    risk = 0.25 + 0.5 * np.trace(hessian @ covariance) + 0.5 * mean @ hessian @ mean
    assert terms.expected_risk == pytest.approx(risk, rel=1e-11)  # eigenbasis of cond ≤ 60
    assert terms.kl == pytest.approx(gaussian_kl(covariance, 0.3, mean=mean, prior_mean=prior_mean), rel=1e-11)
    assert terms.total_correlation > 0
    assert 0.5 * np.sum(terms.curvature_times_variance + terms.mean_curvature) + 0.25 == pytest.approx(risk, rel=1e-11)
    parts = terms.variance_ratio - 1 + terms.negative_log_variance + math.log(0.3) + terms.mean_shift
    assert 0.5 * np.sum(parts) + terms.total_correlation == pytest.approx(terms.kl, rel=1e-11)


def test_terms_of_spectra_equal_those_of_the_same_matrices():
    rng = np.random.default_rng(0)
    curvatures, variances = np.exp(rng.uniform(-2, 2, (2, 6)))
    mean = rng.standard_normal(6)
    spectral = pac_bayes_terms(curvatures, variances, prior_variance=0.5, mean=mean)
    dense = pac_bayes_terms(
        Quadratic(np.diag(curvatures), np.eye(6)), np.diag(variances), prior_variance=0.5, mean=mean
    )
    assert spectral.expected_risk == pytest.approx(dense.expected_risk, rel=1e-14)
    assert spectral.kl == pytest.approx(dense.kl, rel=1e-13)


def test_expected_risk_is_the_average_loss_of_draws_from_the_posterior():
    problem = dense_problem(3)
    covariance, mean = lyapunov_covariance(problem, RUN).require(), 0.3 * np.ones(5)
    draws = np.random.default_rng(3).multivariate_normal(mean, covariance, size=200_000)
    losses = 0.5 * np.einsum("ni,ij,nj->n", draws, problem.dense_hessian(), draws)
    terms = pac_bayes_terms(problem, covariance, prior_variance=1.0, mean=mean)
    assert abs(losses.mean() - terms.expected_risk) < 5 * losses.std() / math.sqrt(len(losses))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"covariance": np.ones(4)}, r"covariance=...\)` must have shape \(3,\) or \(3, 3\); got \(4,\)"),
        ({"covariance": np.array([1.0, 0.0, 1.0])}, "must be positive definite; got a smallest variance of 0"),
        ({"covariance": np.ones((3, 3))}, "must be positive definite"),
        ({"covariance": np.array([1.0, np.inf, 1.0])}, "must be finite"),
        ({"prior_variance": np.ones(2)}, "prior_variance=...\\)` must be a number or have shape"),
        ({"prior_variance": 0.0}, "prior_variance=...\\)` must be > 0 and finite; got 0"),
        ({"mean": np.zeros(2)}, "mean=...\\)` must be finite, of shape"),
        ({"residual_risk": -1.0}, "residual_risk=...\\)` must be >= 0"),
        ({"problem": np.array([1.0, -1.0, 2.0])}, "curvatures > 0"),
        ({"problem": Quadratic(np.eye(3) + 0.1, np.eye(3))}, "needs a diagonal Hessian"),
    ],
)
def test_terms_name_what_is_wrong(choices, message):
    arguments = {"problem": np.ones(3), "covariance": np.ones(3), "prior_variance": 1.0} | choices
    with pytest.raises(ValueError, match=message):
        pac_bayes_terms(arguments.pop("problem"), arguments.pop("covariance"), **arguments)


def test_ten_million_directions_neither_overflow_nor_form_a_matrix():
    size = 10_000_000
    curvatures = np.geomspace(1e-150, 1e3, size)
    terms = pac_bayes_terms(curvatures, 1e-3 / curvatures, prior_variance=1e-100)
    # Σ(σ²/σ_P²) is a geometric sum, Σ ln σ² an arithmetic one.
    ratio = 10 ** (-153 / (size - 1))
    first = 1e-3 / 1e-150 / 1e-100
    total = first * (1 - ratio**size) / (1 - ratio)
    logarithms = size * (math.log(1e-3) - 0.5 * (math.log(1e-150) + math.log(1e3)) - math.log(1e-100))
    assert terms.expected_risk == pytest.approx(0.5e-3 * size, rel=1e-12)
    assert terms.kl == pytest.approx(0.5 * (total - size - logarithms), rel=1e-9)  # the sum's ratio is 1 − 4e-5
    with pytest.raises(ValueError, match="exceeds the largest float64"):
        _ = dataclasses.replace(terms, prior_variance=1e-200).kl
    small = pac_bayes_terms(curvatures, np.full(size, 1e-250), prior_variance=1e-200)
    assert small.kl == pytest.approx(0.5 * size * (1e-50 - 1 + 50 * math.log(10)), rel=1e-12)


# --- the three bounds


@given(st.floats(0, 1), st.floats(0, 500), st.integers(1, 10**7), st.floats(1e-12, 0.999))
def test_seegers_bound_is_never_above_mcallesters(risk, kl, num_samples, delta):
    seeger, mcallester = (
        bound(risk, kl, num_samples=num_samples, delta=delta, method=method).value
        for method in ("seeger", "mcallester")
    )
    assert risk <= seeger <= min(mcallester, 1.0) * (1 + 1e-14)


@given(st.floats(0.01, 0.9), st.floats(0, 50), st.integers(10, 10**5))
def test_catonis_best_constant_gives_seegers_bound_at_equal_log_terms(risk, kl, num_samples):
    # Seeger pays ln ξ(n)/δ, Catoni ln 1/δ: the same KL + ln-term is handed to both.
    seeger = bound(risk, kl, num_samples=num_samples).value
    if seeger > 1 - 1e-9:
        return
    constant = math.log(seeger * (1 - risk) / (risk * (1 - seeger)))
    paid = kl + math.log(maurer_moment(num_samples))
    catoni = bound(risk, paid, num_samples=num_samples, method="catoni", catoni_constant=constant).value
    assert catoni == pytest.approx(seeger, rel=1e-9)  # C from a difference of logarithms near r = B
    for other in (0.7 * constant, 1.4 * constant):
        assert bound(risk, paid, num_samples=num_samples, method="catoni", catoni_constant=other).value > seeger


def test_values_are_those_of_the_formulas_written_out():
    risk, kl, n, delta = 0.2, 7.0, 500, 0.1
    moment = math.log(maurer_moment(n) / delta)
    assert bound(risk, kl, num_samples=n, delta=delta, method="mcallester").value == pytest.approx(
        risk + math.sqrt((kl + moment) / (2 * n)), rel=1e-15
    )
    value = bound(risk, kl, num_samples=n, delta=delta).value
    assert stats.entropy([risk, 1 - risk], [value, 1 - value]) == pytest.approx((kl + moment) / n, rel=1e-10)
    c = 0.8
    assert bound(risk, kl, num_samples=n, delta=delta, method="catoni", catoni_constant=c).value == pytest.approx(
        (1 - math.exp(-c * risk - (kl + math.log(1 / delta)) / n)) / (1 - math.exp(-c)), rel=1e-14
    )
    gaussian = SubGaussianLoss(because="Gaussian noise of variance 4", constant=2.0)
    assert bound(3.0, kl, num_samples=n, delta=delta, loss=gaussian, method="mcallester").value == pytest.approx(
        3.0 + 2.0 * math.sqrt(2 * (kl + math.log(math.sqrt(n) / delta)) / (n - 1)), rel=1e-15
    )
    assert bound(
        3.0, kl, num_samples=n, delta=delta, loss=gaussian, method="catoni", catoni_constant=c
    ).value == pytest.approx(3.0 + 4.0 * ((kl + math.log(1 / delta)) / (n * c) + c / 8), rel=1e-15)


@pytest.mark.parametrize("method", ["seeger", "mcallester", "catoni"])
def test_a_range_other_than_one_scales_risk_and_bound_alike(method):
    extra = {"catoni_constant": 0.5} if method == "catoni" else {}
    unit = bound(0.2, 3.0, method=method, **extra)
    wide = bound(0.8, 3.0, method=method, loss=BoundedLoss(because="clipped", upper=4.0), **extra)
    assert wide.value == pytest.approx(4 * unit.value, rel=1e-14)
    assert wide.kl_price == pytest.approx(4 * unit.kl_price, rel=1e-12)


@pytest.mark.parametrize("method", ["seeger", "mcallester", "catoni"])
@given(st.floats(0.01, 0.6), st.floats(0.1, 50), st.integers(50, 10**5))
def test_the_price_of_a_nat_is_the_ratio_of_the_bounds_slopes(method, risk, kl, num_samples):
    extra = {"catoni_constant": 0.5} if method == "catoni" else {}

    def at(r, k):
        return bound(r, k, num_samples=num_samples, method=method, **extra).value

    if at(risk, kl) > 0.999:
        return
    step, nat = 1e-5 * risk, 1e-4 * kl
    in_risk = (at(risk + step, kl) - at(risk - step, kl)) / (2 * step)
    in_kl = (at(risk, kl + nat) - at(risk, kl - nat)) / (2 * nat)
    price = bound(risk, kl, num_samples=num_samples, method=method, **extra).kl_price
    assert price == pytest.approx(in_kl / in_risk, rel=1e-3)  # central differences


def test_each_bound_holds_as_often_as_it_says():
    # Two predictors with Bernoulli losses, prior uniform over them, posterior on the better in the sample: KL = ln 2.
    rng = np.random.default_rng(11)
    n, trials, delta = 60, 20_000, 0.1
    truth = np.array([0.3, 0.32])
    seen = rng.binomial(n, truth, size=(trials, 2)) / n
    best = seen.argmin(axis=1)
    risk = seen[np.arange(trials), best]
    for method, extra in (("seeger", {}), ("mcallester", {}), ("catoni", {"catoni_constant": 0.6})):
        value = bound(risk, math.log(2), num_samples=n, delta=delta, method=method, **extra).value
        failures = np.mean(truth[best] > value)
        assert failures <= delta
        assert np.mean(truth[best] > np.asarray(value) - 0.12) > delta  # a bound 0.12 lower would fail too often


def test_sub_gaussian_bounds_hold_for_gaussian_losses():
    rng = np.random.default_rng(12)
    n, trials, delta, scale = 40, 20_000, 0.1, 2.0
    risk = 5.0 + scale * rng.standard_normal(trials) / math.sqrt(n)
    loss = SubGaussianLoss(because="Gaussian losses", constant=scale)
    for method, extra in (("mcallester", {}), ("catoni", {"catoni_constant": 0.9})):
        value = bound(risk, 0.0, num_samples=n, delta=delta, loss=loss, method=method, **extra).value
        assert np.mean(value < 5.0) <= delta


@given(st.floats(0.0, 0.9), st.floats(0, 100), st.floats(0, 100))
def test_every_bound_rises_with_the_divergence(risk, first, second):
    low, high = sorted((first, second))
    for method, extra in (("seeger", {}), ("mcallester", {}), ("catoni", {"catoni_constant": 1.0})):
        assert bound(risk, low, method=method, **extra).value <= bound(risk, high, method=method, **extra).value + 1e-15


# --- hypotheses


def test_a_quadratic_loss_gives_a_diagnostic_and_no_bound():
    found = bound(2.0, 5.0, loss=UnboundedLoss(), method="mcallester")
    assert not found.is_bound
    assert found.label == "diagnostic, not a bound"
    assert "diagnostic, not a bound" in str(found)
    assert "unbounded" in found.reasons[0]
    assert found.vacuous is None
    with pytest.raises(ValueError, match="gave a diagnostic, not a bound: the loss is unbounded"):
        found.require()


def test_a_prior_chosen_after_the_data_gives_a_diagnostic():
    found = bound(prior=DataDependentPrior())
    assert not found.is_bound
    assert "after seeing the data" in found.reasons[0]


def test_a_bound_names_every_hypothesis_it_rests_on():
    found = bound()
    assert found.is_bound and found.require() == found.value
    said = " | ".join(found.hypotheses)
    for word in ("1000 independent samples", "0.95", "[0, 1]: 0-1 error", "before the data: drawn before the data"):
        assert word in said


@pytest.mark.parametrize("owner", [BoundedLoss, FixedPrior])
def test_a_hypothesis_without_a_reason_is_refused(owner):
    with pytest.raises(ValueError, match="must say why the hypothesis holds"):
        owner(because=" ")


def test_vacuous_is_said_not_hidden():
    found = bound(0.4, 5000.0, method="mcallester")
    assert found.value > 1
    assert found.vacuous is True
    assert "vacuous" in str(found)
    assert bound(0.4, 5.0).vacuous is False
    assert bound(0.4, 1e9).vacuous is True  # kl⁻¹ rounds to 1
    some = bound(np.array([0.1, 0.9]), np.array([1.0, 400.0]), method="mcallester")
    np.testing.assert_array_equal(some.vacuous, [False, True])
    known = UnboundedLoss(trivial_risk=1.5)
    assert bound(1.4, 50.0, loss=known, method="mcallester", num_samples=100).vacuous is True


def test_a_prior_grid_pays_for_its_choice():
    grid = PriorGrid(variances=(1.0, 0.1, 0.01))
    variances = np.full(20, 0.02)
    divergences = grid.divergences(variances)
    np.testing.assert_allclose(divergences, [gaussian_kl(variances, v) for v in grid.variances])
    found = bound(0.1, divergences, prior=grid)
    assert found.prior_index == int(np.argmin(divergences))
    paid = float(divergences.min()) + math.log(3)
    assert found.value == pytest.approx(bound(0.1, paid).value, rel=1e-15)
    assert found.kl == divergences.min()
    assert found.is_bound


def test_a_geometric_grid_spends_no_more_than_delta():
    grid = PriorGrid.geometric(1.0, ratio=1.5, size=400)
    assert sum(grid.weights) < 1
    assert grid.weights[0] == pytest.approx(6 / math.pi**2)


def test_a_grid_of_catoni_constants_pays_the_logarithm_of_its_size():
    constants = [0.1, 0.5, 1.0, 2.0]
    found = bound(0.1, 5.0, method="catoni", catoni_constant=constants)
    singles = [bound(0.1, 5.0 + math.log(4), method="catoni", catoni_constant=c).value for c in constants]
    assert found.value == pytest.approx(min(singles), rel=1e-15)
    assert found.catoni_constant == constants[int(np.argmin(singles))]


def test_a_bound_over_time_equals_the_bounds_one_by_one():
    risks, kls = np.array([0.1, 0.2, 0.3]), np.array([[1.0, 9.0], [8.0, 2.0], [3.0, 3.0]])
    grid = PriorGrid(variances=(1.0, 2.0), weights=(0.7, 0.3))
    together = bound(risks, kls, prior=grid)
    for index in range(3):
        alone = bound(risks[index], kls[index], prior=grid)
        assert together.value[index] == alone.value
        assert together.prior_index[index] == alone.prior_index


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"delta": 0.0}, r"delta=...\)` must be in \(0, 1\); got 0.0"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"num_samples": 0}, r"num_samples=...\)` must be a whole number >= 1; got 0"),
        ({"num_samples": 2.5}, "whole number"),
        ({"risk": 1.01}, r"empirical_risk=...\)` must be in \[0, 1\] for this loss; got 1.01"),
        ({"risk": -0.01}, "empirical_risk"),
        ({"risk": math.nan}, "empirical_risk"),
        ({"kl": -1.0}, r"kl=...\)` must be >= 0 and finite; got -1.0"),
        ({"kl": math.inf}, "kl"),
        ({"method": "pinsker"}, "must be one of"),
        ({"loss": None}, "must say what is assumed of the loss"),
        ({"prior": None}, "must say how the prior was chosen"),
        ({"loss": UnboundedLoss()}, "must have a BoundedLoss; got UnboundedLoss"),
        ({"method": "catoni"}, "catoni_constant=...\\)` must be > 0, one or several; got None"),
        ({"method": "catoni", "catoni_constant": [0.5, -1.0]}, "must be > 0"),
        ({"catoni_constant": 1.0}, "belongs to method='catoni'"),
        ({"prior": PriorGrid(variances=(1.0, 2.0))}, "last axis of the grid's 2 priors"),
        (
            {"loss": SubGaussianLoss(because="x", constant=1.0), "method": "mcallester", "num_samples": 1},
            "must be >= 2",
        ),
    ],
)
def test_bad_requests_are_refused_in_one_line(choices, message):
    with pytest.raises(ValueError, match=message) as caught:
        bound(**choices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoundedLoss(because="x", upper=0.0), "BoundedLoss\\(upper=...\\)` must be > 0"),
        (lambda: SubGaussianLoss(because="x", constant=-1.0), "constant=...\\)` must be > 0"),
        (lambda: PriorGrid(variances=()), "must not be empty"),
        (lambda: PriorGrid(variances=(1.0, -1.0)), "must be > 0"),
        (lambda: PriorGrid(variances=(1.0, 2.0), weights=(0.9, 0.9)), "sum of at most 1"),
        (lambda: PriorGrid.geometric(1.0, ratio=1.0), "ratio > 1"),
        (lambda: with_factors(Quadratic([1.0], [1.0]), curvature=0.0), "curvature=...\\)` must be > 0"),
    ],
)
def test_bad_hypotheses_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "hypothesis",
    [ZERO_ONE, FIXED, UnboundedLoss(scale=2.0), PriorGrid.geometric(0.3, size=4), DataDependentPrior()],
    ids=lambda one: type(one).__name__,
)
def test_hypotheses_survive_their_plain_form(hypothesis):
    assert type(hypothesis).from_dict(hypothesis.to_dict()) == hypothesis


# --- over time


def test_the_path_of_the_bound_is_its_terms_at_each_step_of_the_recursion():
    before, after = MomentumSGD(0.1, 0.9), MomentumSGD(0.02, 0.9)
    problem = dense_problem(7, 3)
    spiked = with_factors(problem, curvature=2.0, noise=3.0)
    mean, anchor = np.array([0.2, -0.1, 0.3]), np.array([1.0, 0.0, -1.0])
    steps = [0, 1, 4, 30]
    path = pac_bayes_path(
        problem, before, after, steps, prior=0.2, problem_after=spiked, mean=mean, prior_mean=anchor, residual_risk=0.1
    )
    transit, inflow = transition(spiked, after)
    state = lyapunov_covariance(problem, before).state()
    place, k = np.concatenate([mean, np.zeros(3)]), 0
    for index, step in enumerate(steps):
        while k < step:
            state = transit @ state @ transit.T + inflow @ spiked.dense_noise_cov() @ inflow.T
            place, k = transit @ place, k + 1
        hessian, covariance, at = spiked.dense_hessian(), state[:3, :3], place[:3]
        risk = 0.1 + 0.5 * np.trace(hessian @ covariance) + 0.5 * at @ hessian @ at
        assert path.expected_risk[index] == pytest.approx(risk, rel=1e-10)
        assert path.kl[index] == pytest.approx(gaussian_kl(covariance, 0.2, mean=at, prior_mean=anchor), rel=1e-9)
        np.testing.assert_allclose(path.means[index], at, rtol=0, atol=1e-12)


def test_the_path_stands_still_where_nothing_changes():
    problem = dense_problem(8, 4)
    path = pac_bayes_path(problem, RUN, RUN, [0, 1, 10, 1000, 10**6], prior=PriorGrid(variances=(0.1, 1.0)))
    np.testing.assert_allclose(path.expected_risk, path.expected_risk[0], rtol=1e-11)
    np.testing.assert_allclose(path.kl, np.tile(path.kl[0], (5, 1)), rtol=1e-10)
    assert path.kl.shape == (5, 2)


def test_a_start_at_one_point_has_no_divergence():
    problem = Quadratic([1.0, 2.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="smallest variance of 0"):
        pac_bayes_path(problem, None, RUN, [0], prior=1.0, initial=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"prior=...\)` must be > 0"):
        pac_bayes_path(problem, RUN, RUN, [0], prior=-1.0)


# --- flatness


@given(st.floats(0.05, 50), st.floats(0.01, 10), st.floats(1e-4, 1.0))
def test_the_best_variance_is_where_a_directions_share_is_least(curvature, prior_variance, price):
    best = float(optimal_variance(curvature, prior_variance, price))

    def share(variance):
        ratio = variance / prior_variance
        return 0.5 * curvature * variance + 0.5 * price * (ratio - 1 - math.log(ratio))

    assert share(best) <= min(share(best * factor) for factor in (0.5, 0.99, 1.01, 2.0))
    assert best < prior_variance


OPTIMIZERS = [
    MomentumSGD(0.1, 0.0),
    MomentumSGD(0.1, 0.9),
    MomentumSGD(0.1, 0.9, form="position"),
    MomentumSGD(0.1, 0.7, dampening=0.4, weight_decay=0.3),
    MomentumSGD(0.1, 0.6, nesterov=True, weight_decay=0.2),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_elasticities_are_the_derivatives_of_the_lyapunov_solvers_variance(optimizer):
    limit = 1.3 if optimizer.nesterov else 3.6
    curvatures = np.linspace(0.05, min(limit, 2 * (1 + optimizer.momentum) * 0.9), 7) / 0.1
    found = variance_elasticities(Quadratic(curvatures, np.ones(7)), optimizer)

    def solved(stretch=1.0, noise=1.0, rate=1.0):
        moved = dataclasses.replace(optimizer, learning_rate=rate * optimizer.learning_rate)
        return np.log(
            np.diag(lyapunov_covariance(Quadratic(stretch * curvatures, noise * np.ones(7)), moved).require())
        )

    h = 1e-4
    np.testing.assert_allclose(np.exp(solved()), found.variances, rtol=1e-11)
    for name, argument in (("curvature", "stretch"), ("noise", "noise"), ("learning_rate", "rate")):
        slope = (solved(**{argument: math.exp(h)}) - solved(**{argument: math.exp(-h)})) / (2 * h)
        np.testing.assert_allclose(
            getattr(found, name), slope, atol=2e-5
        )  # h² times the third derivative near the edge


@given(st.floats(0.0, 0.99), st.floats(1e-3, 0.999))
def test_flattening_widens_below_one_plus_momentum_and_narrows_above(momentum, share):
    edge = 1.0 + momentum
    below, above = np.array([share * edge, 0.0]), np.array([2 * edge - share * edge, 0.0])
    optimizer = MomentumSGD(1.0, momentum)
    low = variance_elasticities(Quadratic(below[:1], [1.0]), optimizer).curvature[0]
    high = variance_elasticities(Quadratic(above[:1], [1.0]), optimizer).curvature[0]
    assert -1 <= low < 0 < high
    assert low == pytest.approx(-1 + share / (2 - share), rel=1e-9, abs=1e-9)
    assert variance_elasticities(Quadratic([edge], [1.0]), optimizer).curvature[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_variance_falls_then_rises_along_curvature_and_rises_along_noise(momentum):
    edge = 2 * (1 + momentum)
    curvatures = np.linspace(0.01, 0.99, 199) * edge
    optimizer = MomentumSGD(1.0, momentum)
    sigma = stationary_variance(Quadratic(curvatures, np.ones(199)), optimizer)
    middle = int(np.argmin(sigma))
    assert curvatures[middle] == pytest.approx(1 + momentum, rel=0.01)
    assert (np.diff(sigma[: middle + 1]) < 0).all() and (np.diff(sigma[middle:]) > 0).all()
    loudness = np.linspace(0.1, 10, 50)
    assert (np.diff(stationary_variance(Quadratic(np.ones(50), loudness), optimizer)) > 0).all()
    assert (np.diff(curvatures * sigma) > 0).all()  # λσ² rises all the way


@settings(max_examples=30)
@given(st.floats(0.1, 1.0), st.floats(0.0, 0.9))
def test_equal_flattening_of_curvature_and_noise_lowers_the_risk_and_hardly_moves_the_variance(factor, momentum):
    problem = Quadratic(np.geomspace(0.01, 1.0, 5), np.geomspace(0.01, 1.0, 5))
    optimizer = MomentumSGD(0.1, momentum)
    base = variance_elasticities(problem, optimizer).variances
    flat = variance_elasticities(with_factors(problem, curvature=factor, noise=factor), optimizer).variances
    # ln σ² moves by ln[(2(1+μ) − a)/(2(1+μ) − sa)], at most a/(2(1+μ) − a).
    assert (np.abs(np.log(flat / base)) <= 0.1 * problem.hessian / (2 * (1 + momentum) - 0.1)).all()
    risk = 0.5 * np.sum(factor * problem.hessian * flat)
    assert risk <= 0.5 * np.sum(problem.hessian * base) * factor * (1 + 1e-12)


def test_over_penalising_curvature_flips_the_sign():
    problem, optimizer = Quadratic(np.geomspace(0.1, 1.0, 6), 0.01 * np.geomspace(0.1, 1.0, 6)), MomentumSGD(0.1, 0.5)
    prior = 4 * float(variance_elasticities(problem, optimizer).variances.mean())

    def value(curvature):
        moved = with_factors(problem, curvature=curvature, noise=0.9)
        terms = pac_bayes_terms(moved.hessian, variance_elasticities(moved, optimizer).variances, prior_variance=prior)
        return bound(terms.expected_risk, terms.kl, num_samples=100).value

    factors = np.geomspace(0.02, 1.0, 40)
    values = np.array([value(factor) for factor in factors])
    best = int(np.argmin(values))
    assert 0 < best < 39
    assert (np.diff(values[: best + 1]) < 0).all() and (np.diff(values[best:]) > 0).all()
    # Risk hardly depends on s at small steps, so the best s puts the mean variance ratio tσ²/(sσ_P²) near 1.
    assert factors[best] == pytest.approx(0.9 / 4, rel=0.1)
    assert value(0.02) > value(1.0)


def test_elasticities_refuse_an_unstable_direction():
    with pytest.raises(UnstableError, match=r"mode 1 \(curvature 50\)"):
        variance_elasticities(Quadratic([1.0, 50.0], [1.0, 1.0]), MomentumSGD(0.1, 0.5))


def test_inputs_are_left_alone():
    curvatures, variances = np.array([1.0, 2.0]), np.array([0.5, 0.25])
    kept = curvatures.copy(), variances.copy()
    pac_bayes_terms(curvatures, variances, prior_variance=1.0)
    risks = np.array([0.1, 0.2])
    bound(risks, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(curvatures, kept[0])
    np.testing.assert_array_equal(variances, kept[1])
    np.testing.assert_array_equal(risks, [0.1, 0.2])
