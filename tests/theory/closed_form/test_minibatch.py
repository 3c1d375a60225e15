"""State-dependent noise: closed forms against brute-force recursions, and their limits."""

import numpy as np
import pytest

from theory.closed_form.minibatch import (
    gaussian_regression_kurtosis,
    gaussian_regression_law,
    ridge_regression_law,
    second_moment_stability_limit,
    shuffled_regression_law,
)
from theory.closed_form.shuffling import shuffled_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import GaussianRegression, RidgeRegression, Sampling
from theory.oracle.second_moment import enumerated_second_moment, gaussian_second_moment
from theory.solution import UnstableError

OPTIMIZERS = [
    MomentumSGD(0.15),
    MomentumSGD(0.05, 0.5),
    MomentumSGD(0.05, 0.9),
    MomentumSGD(0.05, 0.9, form="position"),
    MomentumSGD(0.05, 0.9, nesterov=True),
    MomentumSGD(0.05, 0.9, dampening=0.4),
    MomentumSGD(0.05, 0.9, weight_decay=0.2),
]


def _gaussian(batch_size: int, **fields) -> GaussianRegression:
    return GaussianRegression(
        input_cov=np.array([0.2, 0.5, 1.0]), label_noise_variance=0.7, batch_size=batch_size, **fields
    )


def _rows(batch_size: int, sampling: str = "with-replacement", ridge: float = 0.3, seed: int = 3) -> RidgeRegression:
    rng = np.random.default_rng(seed)
    return RidgeRegression(
        inputs=0.5 * rng.exponential(size=(5, 2)),
        targets=rng.normal(size=5),
        ridge=ridge,
        batch_size=batch_size,
        sampling=sampling,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_gaussian_inputs_solve_the_exact_recursion(optimizer, batch_size):
    problem = _gaussian(batch_size)
    exact = gaussian_second_moment(problem, optimizer)
    law = gaussian_regression_law(problem, optimizer)
    assert np.abs(law.covariance - exact.covariance).max() <= 1e-12 * np.abs(exact.covariance).max()


def test_correlated_inputs_solve_the_exact_recursion():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 3))
    problem = GaussianRegression(input_cov=root @ root.T / 3 + 0.1 * np.eye(3), label_noise_variance=0.5, batch_size=4)
    optimizer = MomentumSGD(0.03, 0.9)
    exact = gaussian_second_moment(problem, optimizer).covariance
    np.testing.assert_allclose(gaussian_regression_law(problem, optimizer).covariance, exact, rtol=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:-1], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("sampling", ["with-replacement", "without-replacement"])
def test_given_rows_solve_the_recursion_over_every_batch(optimizer, batch_size, sampling):
    problem = _rows(batch_size, sampling)
    exact = enumerated_second_moment(problem, optimizer)
    law = ridge_regression_law(problem, optimizer)
    assert np.abs(law.covariance - exact.covariance).max() <= 1e-12 * np.abs(exact.covariance).max()
    np.testing.assert_allclose(law.optimum, exact.mean, rtol=1e-10)


def test_weight_decay_moves_the_optimum_and_adds_to_the_noise():
    """Against the definition: Σ = G∘C(Σ), C from the fourth moment of Gaussian inputs about the shifted optimum."""
    truth = np.array([1.0, -2.0, 0.5])
    problem, optimizer = _gaussian(4, truth=truth), MomentumSGD(0.05, 0.9, weight_decay=0.3)
    law = gaussian_regression_law(problem, optimizer)
    a = problem.dense_input_cov()
    optimum = np.linalg.solve(a + 0.3 * np.eye(3), a @ truth)
    np.testing.assert_allclose(law.optimum, optimum, rtol=1e-12)
    seen = law.covariance + np.outer(optimum - truth, optimum - truth)
    noise = (a @ seen @ a + np.trace(a @ seen) * a + 0.7 * a) / 4
    np.testing.assert_allclose(law.noise_cov, noise, rtol=1e-11)
    np.testing.assert_allclose(
        stationary_covariance(Quadratic(a, noise), optimizer).require(), law.covariance, rtol=1e-9, atol=1e-14
    )


def test_mu_zero_is_the_published_formula():
    """Ziyin et al. 2022: Σ = (η/S)(σ² + T)[2I − η(1 + 1/S)A]⁻¹."""
    problem, eta, size = _gaussian(4), 0.15, 4
    law = gaussian_regression_law(problem, MomentumSGD(eta))
    trace = float(np.sum(problem.input_cov * np.diag(law.covariance)))
    published = eta / size * (0.7 + trace) / (2 - eta * (1 + 1 / size) * problem.input_cov)
    np.testing.assert_allclose(np.diag(law.covariance), published, rtol=1e-12)


def test_inflation_table():
    """Reference values: μ = .9, η = .05, a in [.05, 1]."""
    inputs = np.array([0.05, 0.3, 0.6, 1.0])
    expected = {1: (2.6, 3.7), 4: (1.15, 1.24), 32: (1.016, 1.025)}
    for size, (low, high) in expected.items():
        problem = GaussianRegression(input_cov=inputs, label_noise_variance=0.7, batch_size=size)
        inflation = gaussian_regression_law(problem, MomentumSGD(0.05, 0.9)).inflation
        assert low <= inflation.min() and inflation.max() <= high


def test_large_batches_recover_the_constant_noise_law():
    law = gaussian_regression_law(_gaussian(10**9), MomentumSGD(0.05, 0.9))
    np.testing.assert_allclose(law.inflation, 1.0, atol=1e-8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_stability_limit_is_where_second_moments_stop_contracting(optimizer, batch_size):
    problem = _gaussian(batch_size)
    limit = second_moment_stability_limit(problem, optimizer)
    fields = optimizer.to_dict()
    for factor, stable in ((1 - 1e-6, True), (1 + 1e-6, False)):
        trial = MomentumSGD.from_dict({**fields, "learning_rate": limit * factor})
        assert (gaussian_second_moment(problem, trial).growth < 1) is stable
    with pytest.raises(UnstableError, match="largest stable"):
        gaussian_regression_law(problem, MomentumSGD.from_dict({**fields, "learning_rate": 1.01 * limit}))


def test_an_unstable_data_law_is_refused_when_enumeration_says_so():
    problem = _rows(1)
    low, high = 0.15, 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if enumerated_second_moment(problem, MomentumSGD(middle)).growth < 1:
            low = middle
        else:
            high = middle
    assert ridge_regression_law(problem, MomentumSGD(low * (1 - 1e-6))).feedback < 1
    with pytest.raises(UnstableError):
        ridge_regression_law(problem, MomentumSGD(high * (1 + 1e-6)))


def _scalar_kurtosis(eta: float, mu: float, a: float, noise: float, size: int) -> float:
    """One weight: moments of the batch's h = (a/S) χ²_S, g = h w + n √(h σ²/S), monomials of degree 4 in (w, v)."""
    h = [1.0]
    for k in range(4):
        h.append(h[-1] * (size + 2 * k) * a / size)
    s2 = noise / size

    def gradient(power: int) -> dict[int, float]:
        """E g^p as a polynomial in w: power of w to coefficient."""
        return {
            0: {0: 1.0},
            1: {1: h[1]},
            2: {2: h[2], 0: s2 * h[1]},
            3: {3: h[3], 1: 3 * s2 * h[2]},
            4: {4: h[4], 2: 6 * s2 * h[3], 0: 3 * s2 * s2 * h[2]},
        }[power]

    from math import comb

    def carried(i: int, j: int) -> dict[tuple[int, int], float]:
        """E w₊^i v₊^j as moments of (w, v), v₊ = μv + g, w₊ = w − ηv₊."""
        out: dict[tuple[int, int], float] = {}
        for k in range(i + 1):
            power = j + k  # of v₊
            for p in range(power + 1):  # of g
                for e, c in gradient(p).items():
                    key = (i - k + e, power - p)
                    value = comb(i, k) * (-eta) ** k * comb(power, p) * mu ** (power - p) * c
                    out[key] = out.get(key, 0.0) + value
        return out

    def solve(degree: int, lower: dict) -> dict:
        keys = [(degree - j, j) for j in range(degree + 1)]
        matrix, constant = np.eye(len(keys)), np.zeros(len(keys))
        for row, (i, j) in enumerate(keys):
            for key, value in carried(i, j).items():
                if key in keys:
                    matrix[row, keys.index(key)] -= value
                else:
                    constant[row] += value * lower[key]
        return dict(zip(keys, np.linalg.solve(matrix, constant), strict=True))

    second = solve(2, {(0, 0): 1.0})
    fourth = solve(4, {(0, 0): 1.0, **second})
    return fourth[4, 0] / second[2, 0] ** 2 - 3


@pytest.mark.parametrize("size", [2, 4, 16])
@pytest.mark.parametrize("mu", [0.0, 0.6, 0.9])
def test_kurtosis_of_one_weight_from_the_moments_of_chi_squared(size, mu):
    problem = GaussianRegression(input_cov=np.array([0.8]), label_noise_variance=0.5, batch_size=size)
    found = gaussian_regression_kurtosis(problem, MomentumSGD(0.04, mu))
    assert found == pytest.approx(_scalar_kurtosis(0.04, mu, 0.8, 0.5, size), rel=1e-8, abs=1e-10)  # 3 is taken away


def test_kurtosis_lies_in_the_measured_range_and_vanishes_for_large_batches():
    inputs = np.array([0.05, 0.3, 0.6, 1.0])
    problem = GaussianRegression(input_cov=inputs, label_noise_variance=0.7, batch_size=4)
    kurtosis = gaussian_regression_kurtosis(problem, MomentumSGD(0.05, 0.9))
    assert np.all(np.diff(kurtosis) > 0) and kurtosis[-1] == pytest.approx(0.22, abs=0.01)
    large = GaussianRegression(input_cov=inputs[-1:], label_noise_variance=0.7, batch_size=10**6)
    assert abs(gaussian_regression_kurtosis(large, MomentumSGD(0.05, 0.9))[0]) < 1e-4


def test_kurtosis_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="at most 6"):
        gaussian_regression_kurtosis(
            GaussianRegression(input_cov=np.ones(7), label_noise_variance=1.0, batch_size=4), MomentumSGD(0.01)
        )
    with pytest.raises(UnstableError, match="fourth"):
        problem = _gaussian(1)
        limit = second_moment_stability_limit(problem, MomentumSGD(0.05, 0.9))
        gaussian_regression_kurtosis(problem, MomentumSGD(0.9 * limit, 0.9))
    with pytest.raises(ValueError, match="truth"):
        gaussian_regression_kurtosis(_gaussian(4, truth=np.ones(3)), MomentumSGD(0.05, weight_decay=0.1))


@pytest.mark.parametrize("phase", [0, 1, 2, 3])
def test_shuffled_rows_come_close_to_the_recursion_over_every_order(phase):
    """Six rows in three batches, 90 orders: the closed form is an approximation, constant C is a worse one."""
    rng = np.random.default_rng(11)
    problem = RidgeRegression(
        inputs=0.6 * rng.normal(size=(6, 2)), targets=rng.normal(size=6), ridge=0.2, batch_size=2,
        sampling=Sampling.SHUFFLED_EPOCHS,
    )  # fmt: skip
    optimizer = MomentumSGD(0.05, 0.6)
    exact = np.diag(enumerated_second_moment(problem, optimizer, phase).covariance)
    law = shuffled_regression_law(problem, optimizer, phase)
    error = np.abs(np.diag(law.covariance) / exact - 1).max()
    white = np.abs(np.diag(ridge_regression_law(problem, optimizer).covariance) / exact - 1).max()
    assert error < 0.2 and white > 5 * error


def test_shuffled_law_at_vanishing_feedback_is_the_shuffled_constant_law():
    problem = _rows(2, "shuffled-epochs")
    optimizer = MomentumSGD(1e-4, 0.5)
    law = shuffled_regression_law(problem, optimizer)
    hessian = (law.basis * law.curvatures) @ law.basis.T
    constant = shuffled_covariance(
        Quadratic(hessian, law.noise_cov_at_optimum), optimizer, batches_per_epoch=2, within_epoch_correlation=-2 / 3
    )
    np.testing.assert_allclose(law.constant_noise_covariance, constant, rtol=1e-7)


def test_directions_without_data_stay_still():
    rng = np.random.default_rng(2)
    problem = RidgeRegression(inputs=rng.normal(size=(3, 5)), targets=rng.normal(size=3), ridge=0.5, batch_size=1)
    law = ridge_regression_law(problem, MomentumSGD(0.02, 0.5))
    assert np.linalg.matrix_rank(law.covariance) == 3
    assert np.isfinite(law.inflation).all() and (law.inflation >= 1 - 1e-12).all()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 6}, "must not exceed the 5 rows"),
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"sampling": "bootstrap"}, "sampling"),
        ({"batch_size": 3, "sampling": "shuffled-epochs"}, "two batches"),
        ({"inputs": np.ones((5, 2)), "ridge": 0.0}, "linearly dependent"),
        ({"targets": np.ones(4)}, "targets"),
        ({"inputs": np.full((5, 2), np.inf)}, "finite"),
    ],
)
def test_bad_regressions_are_named(fields, word):
    good = {"inputs": np.arange(10.0).reshape(5, 2) ** 2, "targets": np.arange(5.0), "ridge": 0.1, "batch_size": 1}
    with pytest.raises(ValueError, match=word):
        RidgeRegression(**{**good, **fields})


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"input_cov": np.array([1.0, -1.0])}, "positive definite"),
        ({"input_cov": np.array([[1.0, 2.0], [0.0, 1.0]])}, "symmetric"),
        ({"label_noise_variance": 0.0}, "label_noise_variance"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"truth": np.ones(3)}, "truth"),
    ],
)
def test_bad_gaussian_problems_are_named(fields, word):
    good = {"input_cov": np.array([1.0, 2.0]), "label_noise_variance": 1.0, "batch_size": 2}
    with pytest.raises(ValueError, match=word):
        GaussianRegression(**{**good, **fields})


def test_settings_survive_json():
    for problem in (_gaussian(4, truth=np.ones(3)), _rows(2)):
        assert type(problem).from_dict(problem.to_dict()) == problem


def test_the_ridge_belongs_to_the_problem():
    with pytest.raises(ValueError, match="weight_decay"):
        ridge_regression_law(_rows(2), MomentumSGD(0.1, weight_decay=0.1))
    with pytest.raises(ValueError, match="shuffle"):
        shuffled_regression_law(_rows(2), MomentumSGD(0.1))
