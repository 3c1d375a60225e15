"""The price of non-commutativity and the measures of it: definitions, Lyapunov solvers, exact nulls, and the fooled."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from theory.closed_form.alignment import (
    COMMUTING,
    commutativity,
    commutativity_from_gradients,
    commutativity_measures,
    commutativity_price,
    haar_expectations,
    haar_rotation,
    resolved_basis,
    total_correlation,
)
from theory.closed_form.divergence import gaussian_kl
from theory.closed_form.stationary import stationary_variance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import lyapunov_covariance
from theory.solution import UnstableError

RUN = MomentumSGD(0.1, 0.9)


def orthogonal(seed: int, size: int) -> np.ndarray:
    return haar_rotation(size, np.random.default_rng(seed))


def turned(curvatures, noise, seed: int) -> Quadratic:
    """H and C with the given eigenvalues, both dense, C turned at random against H."""
    size = len(curvatures)
    first, second = orthogonal(seed, size), orthogonal(seed + 1000, size)
    hessian, covariance = (first * curvatures) @ first.T, (second * noise) @ second.T
    return Quadratic(0.5 * (hessian + hessian.T), 0.5 * (covariance + covariance.T))


def spectra(seed: int, size: int, decades: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Well separated curvatures (neighbours at least 20 % apart) and noise variances."""
    rng = np.random.default_rng(seed)
    curvatures = np.cumprod(1.2 + rng.random(size))
    return curvatures / curvatures[-1] * 10, 10 ** rng.uniform(-decades, 0, size)


optimizers = st.builds(
    MomentumSGD,
    learning_rate=st.floats(0.001, 0.1),
    momentum=st.floats(0.0, 0.95),
    weight_decay=st.floats(0.0, 0.5),
    dampening=st.floats(0.0, 0.5),
)


# --- the price


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7), optimizers, st.floats(-2, 2).map(lambda x: 10.0**x))
def test_price_is_the_divergence_that_the_diagonal_misses(seed, size, optimizer, prior):
    problem = turned(*spectra(seed, size), seed)
    exact = lyapunov_covariance(problem, optimizer).require()
    curvatures, basis = np.linalg.eigh(problem.dense_hessian())
    gamma = np.diag(basis.T @ problem.dense_noise_cov() @ basis)
    diagonal = stationary_variance(Quadratic(curvatures, gamma), optimizer)
    missed = gaussian_kl(exact, prior) - gaussian_kl(diagonal, prior)
    found = commutativity_price(problem, optimizer, degeneracy=0.0)
    # Two KLs of size up to Σσ²/σ_P² are subtracted: rounding relative to them, not to the price.
    scale = 1.0 + gaussian_kl(diagonal, prior)
    assert found.nats == pytest.approx(missed, rel=1e-9, abs=1e-10 * scale)
    assert found.nats >= 0
    assert found.variance_error < 1e-9


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_price_is_minus_half_the_log_determinant_of_the_correlations(seed, size):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((size, size + 2))
    covariance = factor @ factor.T
    scale = np.sqrt(np.diag(covariance))
    expected = -0.5 * np.linalg.slogdet(covariance / np.multiply.outer(scale, scale))[1]
    assert total_correlation(covariance) == pytest.approx(expected, rel=1e-8)  # cond of a near-singular draw
    stretched = covariance * np.multiply.outer(*(10.0 ** rng.uniform(-8, 8, (1, size)).repeat(2, 0)))
    assert total_correlation(stretched) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("correlation", [1e-3, 1e-6, 1e-9, 1e-12])
def test_price_keeps_its_digits_where_the_pair_nearly_commutes(correlation):
    covariance = np.array([[4.0, 2e-3 * correlation], [2e-3 * correlation, 1e-6]])
    # r = 1e0 · correlation: −½ ln(1 − r²), which 1 − r² would round to 0 below 1e-8.
    assert total_correlation(covariance) == pytest.approx(-0.5 * math.log1p(-(correlation**2)), rel=1e-12)


def test_commuting_pairs_cost_nothing():
    curvatures, noise = spectra(1, 6)
    assert commutativity_price(Quadratic(curvatures, noise), RUN).nats == 0.0
    basis = orthogonal(5, 6)
    same = Quadratic((basis * curvatures) @ basis.T, (basis * noise) @ basis.T)
    assert commutativity_price(same, RUN).nats < 1e-24


def test_the_identity_commutes_with_everything_whatever_basis_it_is_given_in():
    noise = turned(*spectra(2, 5), 2).noise_cov
    for hessian in (np.eye(5), np.ones(5)):
        assert commutativity_price(Quadratic(hessian, noise), RUN, degeneracy=0.0).nats < 1e-24
    block = np.diag([1.0, 1.0, 1.0, 4.0, 4.0])
    found = commutativity_price(Quadratic(block, noise), RUN)
    inside = found.basis.T @ noise @ found.basis
    off = inside - np.diag(np.diag(inside))
    assert np.abs(off[:3, :3]).max() < 1e-14 and np.abs(off[3:, 3:]).max() < 1e-14
    assert found.nats > 1e-3  # between the two eigenspaces correlations are real


@pytest.mark.parametrize("gap", [1e-13, 1e-10, 1e-6, 1e-4])
def test_nearly_equal_curvatures_show_no_false_price(gap):
    noise = turned(*spectra(3, 4), 3).noise_cov
    problem = Quadratic(np.diag(2.0 * (1 + gap * np.arange(4))), noise)
    found = commutativity_price(problem, RUN)
    assert found.nats < 10 * gap**2 + 1e-20  # correlations of the order of the gap
    assert found.variance_error < 10 * gap + 1e-12
    if gap > 1e-12:
        assert commutativity_price(problem, RUN, degeneracy=0.0).nats > 0.2


def test_a_dense_spectrum_is_not_chained_into_one_eigenspace():
    curvatures = np.geomspace(1.0, 2.0, 1200)  # neighbours 6e-4 apart
    basis = resolved_basis(Quadratic(curvatures, np.diag(np.ones(1200))), degeneracy=1e-3)
    assert basis.curvatures.min() == pytest.approx(1.0, rel=1e-3)
    assert basis.curvatures.max() == pytest.approx(2.0, rel=1e-3)


def test_price_does_not_depend_on_the_coordinates_nor_on_the_scale_of_the_noise():
    problem = turned(*spectra(4, 6), 4)
    turn = orthogonal(44, 6)
    moved = Quadratic(turn @ problem.hessian @ turn.T, 37.0 * turn @ problem.noise_cov @ turn.T)
    first, second = commutativity_price(problem, RUN), commutativity_price(moved, RUN)
    assert second.nats == pytest.approx(first.nats, rel=1e-11)
    assert first.nats_per_direction == first.nats / 6


def test_price_vanishes_at_high_momentum_for_separated_curvatures():
    problem = turned(*spectra(5, 5), 5)
    prices = [commutativity_price(problem, MomentumSGD(0.1, mu)).nats for mu in (0.9, 0.99, 0.999)]
    assert prices[0] > 10 * prices[1] > 100 * prices[2]


def test_weight_decay_of_the_optimizer_counts_as_curvature():
    curvatures, noise = spectra(6, 5)
    problem = turned(curvatures, noise, 6)
    shifted = Quadratic(problem.hessian + 0.3 * np.eye(5), problem.noise_cov)
    with_decay = commutativity_price(problem, MomentumSGD(0.1, 0.9, weight_decay=0.3))
    assert with_decay.nats == pytest.approx(commutativity_price(shifted, RUN).nats, rel=1e-11)


def test_prices_that_do_not_exist_are_refused():
    with pytest.raises(UnstableError):
        commutativity_price(Quadratic(np.diag([1.0, 100.0]), np.eye(2)), RUN)
    with pytest.raises(ValueError, match="direction 0 has variance 0"):
        commutativity_price(Quadratic([1.0, 2.0], [0.0, 1.0]), RUN)
    with pytest.raises(ValueError, match="must be positive definite"):
        total_correlation(np.ones((2, 2)))
    with pytest.raises(ValueError, match="direction 1 has variance -1"):
        total_correlation(np.diag([1.0, -1.0]))


# --- the measures


def measures_by_definition(hessian: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """Straight from the definitions, in the original coordinates, with matrix products alone."""
    commutator, product = hessian @ noise - noise @ hessian, hessian @ noise
    curvatures, basis = np.linalg.eigh(hessian)
    inside = basis.T @ noise @ basis
    norm = np.linalg.norm
    return {
        "chi": np.trace(product @ product) / np.trace(hessian @ hessian @ noise @ noise),
        "omega": norm(product) / (norm(hessian) * norm(noise)),
        "normalized_commutator": norm(commutator) / (2 * norm(hessian) * norm(noise)),
        "commutator_ratio": norm(commutator) / (norm(product) + norm(product.T)),
        "frobenius_cosine": np.trace(product) / (norm(hessian) * norm(noise)),
        "mean_direction_cosine": np.mean([u @ noise @ u / norm(noise @ u) for u in basis.T]),
        "off_diagonal_mass": 1 - np.sum(np.diag(inside) ** 2) / norm(noise) ** 2,
        "log_log_slope": stats.linregress(np.log(curvatures), np.log(np.diag(inside))).slope,
    }


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_measures_equal_their_definitions(seed, size):
    problem = turned(*spectra(seed, size), seed)
    found = commutativity_measures(problem)
    for name, value in measures_by_definition(problem.dense_hessian(), problem.dense_noise_cov()).items():
        assert found[name] == pytest.approx(value, rel=1e-8, abs=1e-10), name
    assert found["commutator_ratio"] == pytest.approx(math.sqrt((1 - found["chi"]) / 2), rel=1e-6, abs=1e-9)


@given(st.integers(0, 10**6), st.integers(3, 8))
def test_measures_keep_to_their_ranges(seed, size):
    found = commutativity_measures(turned(*spectra(seed, size), seed))
    assert -1 <= found["chi"] <= 1 and -1 <= found.get("chi_deflated", 0) <= 1
    assert 0 <= found["normalized_commutator"] <= 1 / math.sqrt(2)  # Böttcher and Wenzel (2008), halved
    for name in ("omega", "commutator_ratio", "off_diagonal_mass", "subspace_overlap", "mean_direction_cosine"):
        assert 0 <= found[name] <= 1 + 1e-12, name


def test_commuting_pairs_take_the_commuting_value_of_every_measure():
    curvatures, noise = spectra(7, 8)
    found = commutativity(Quadratic(curvatures, noise), num_null=20)
    for name, value in COMMUTING.items():
        if value is not None:
            assert found[name].value == pytest.approx(value, abs=1e-14), name
            assert found[name].null_p_value == pytest.approx(1 / 21)
            assert found[name].commuting_value == value
    np.testing.assert_allclose(found.direction_cosines, 1.0)
    np.testing.assert_array_equal(found.curvatures, np.sort(curvatures)[::-1])


def test_subspace_overlap_is_the_mean_squared_cosine_of_principal_angles():
    from scipy.linalg import subspace_angles

    curvatures = np.array([0.1, 0.15, 0.2, 0.3, 9.0, 10.0])
    problem = turned(curvatures, spectra(8, 6)[1], 8)
    found = commutativity(problem, num_null=20)
    assert found.top == 2
    top, of_noise = (np.linalg.eigh(m)[1][:, -2:] for m in (problem.hessian, problem.noise_cov))
    angles = subspace_angles(top, of_noise)
    assert found["subspace_overlap"].value == pytest.approx(np.mean(np.cos(angles) ** 2), rel=1e-10)


def test_deflation_leaves_the_top_out():
    curvatures, noise = spectra(9, 7)
    problem = turned(curvatures, noise, 9)
    values, basis = np.linalg.eigh(problem.hessian)
    rest = basis[:, :-2]
    bulk = Quadratic(np.diag(values[:-2]), rest.T @ problem.noise_cov @ rest)
    assert commutativity_measures(problem, deflated=2)["chi_deflated"] == pytest.approx(
        commutativity_measures(bulk)["chi"], rel=1e-10
    )


def test_simulated_null_agrees_with_the_exact_haar_moments():
    rng = np.random.default_rng(10)
    curvatures, noise = np.exp(rng.uniform(-2, 2, 9)), np.exp(rng.uniform(-2, 2, 9))
    exact = haar_expectations(curvatures, noise)
    draws = []
    for _ in range(4000):
        rotation = haar_rotation(9, rng)
        covariance = (rotation * noise) @ rotation.T
        product = curvatures[:, None] * covariance
        draws.append([np.trace(product @ product), np.sum(product**2), np.trace(product)])
    draws = np.array(draws)
    for value, name in zip(draws.T, ("tr_hchc", "tr_h2c2", "tr_hc"), strict=True):
        assert abs(value.mean() - exact[name]) < 5 * value.std() / math.sqrt(4000), name


def test_the_null_is_that_of_random_pairs():
    # A random pair is inside its own 99 % null about 99 % of the time, for every measure.
    outside = dict.fromkeys(COMMUTING, 0)
    trials = 60
    for seed in range(trials):
        curvatures = np.geomspace(0.1, 10, 6)
        problem = turned(curvatures, np.geomspace(0.05, 5, 6), 500 + seed)
        found = commutativity(problem, num_null=150, rng=np.random.default_rng(seed))
        for name, measure in found.measures.items():
            outside[name] += measure.beyond_null
    for name, count in outside.items():
        # 2 % expected from 150 draws' own quantiles; binomial(60, 0.03) exceeds 9 with probability 1e-5.
        assert count <= 9, (name, count)


def test_one_aligned_outlier_fools_chi_and_not_its_deflation_nor_the_price():
    bulk = turned(np.geomspace(0.1, 3, 9), np.geomspace(0.05, 2, 9), 11)
    hessian, noise = np.zeros((2, 10, 10))
    hessian[:9, :9], noise[:9, :9] = bulk.hessian, bulk.noise_cov
    hessian[9, 9], noise[9, 9] = 15.0, 300.0
    problem = Quadratic(hessian, noise)
    found = commutativity(problem, deflated=1)
    assert found["chi"].value > 0.999
    assert found["chi"].beyond_null
    assert found["chi_deflated"].value < 0.9
    assert not found["chi_deflated"].beyond_null
    assert commutativity_price(problem, RUN).nats > 0.3
    assert found.direction_cosines[0] == pytest.approx(1.0)
    assert found.direction_cosines[1:].mean() < 0.9


def test_weight_decay_in_the_hessian_lifts_chi_while_the_price_rises():
    problem = turned(np.geomspace(0.1, 6, 10), np.geomspace(0.05, 2, 10), 12)
    decayed = Quadratic(problem.hessian + 10 * np.eye(10), problem.noise_cov)
    assert commutativity_measures(problem)["chi"] < 0.85
    assert commutativity_measures(decayed)["chi"] > 0.97
    assert commutativity_price(decayed, RUN).nats > commutativity_price(problem, RUN).nats


def test_the_normalised_commutator_of_random_pairs_shrinks_with_the_dimension():
    sizes = np.array([5, 20, 80])
    values = [
        np.mean([commutativity_measures(turned(s, s, seed))["normalized_commutator"] for seed in range(4)])
        for s in (np.geomspace(0.1, 10, size) for size in sizes)
    ]
    slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_what_a_pair_does_not_determine_is_said():
    found = commutativity(Quadratic(np.eye(4), turned(*spectra(13, 4), 13).noise_cov), num_null=20)
    assert set(found.undefined) == {"subspace_overlap", "log_log_slope"}
    with pytest.raises(KeyError, match="no gap"):
        found["subspace_overlap"]
    assert found["chi"].value == pytest.approx(1.0)
    assert found["chi"].null_mean == pytest.approx(1.0)  # everything commutes with the identity
    assert not found["off_diagonal_mass"].value > 1e-14


def test_a_second_call_answers_the_same_and_a_given_generator_is_used():
    problem = turned(*spectra(14, 5), 14)
    first, second = commutativity(problem, num_null=30), commutativity(problem, num_null=30)
    assert {k: v.null_mean for k, v in first.measures.items()} == {k: v.null_mean for k, v in second.measures.items()}
    other = commutativity(problem, num_null=30, rng=np.random.default_rng(5))
    assert other["chi"].null_mean != first["chi"].null_mean
    assert other["chi"].value == first["chi"].value


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"num_null": 5}, "num_null=...\\)` must be >= 20; got 5"),
        ({"level": 1.0}, "level=...\\)` must be in \\(0, 1\\); got 1.0"),
        ({"deflated": 3}, "deflated=...\\)` must be in \\[0, 3\\); got 3"),
        ({"problem": Quadratic([1.0], [1.0])}, "at least 2 directions; got 1"),
        ({"problem": Quadratic([1.0, 2.0], [0.0, 0.0])}, "must have noise; got C = 0"),
    ],
)
def test_bad_requests_are_refused(choices, message):
    problem = choices.pop("problem", Quadratic([1.0, 2.0, 3.0], np.eye(3)))
    with pytest.raises(ValueError, match=message):
        commutativity(problem, **choices)


# --- estimated from samples


def test_estimates_from_gradients_are_those_of_their_covariance():
    curvatures, noise = spectra(15, 5)
    problem = turned(curvatures, noise, 15)
    samples = np.random.default_rng(15).multivariate_normal(np.ones(5), problem.noise_cov, size=2000)
    found = commutativity_from_gradients(problem.hessian, samples, num_null=20)
    direct = commutativity(Quadratic(problem.hessian, np.cov(samples.T)), num_null=20)
    for name, measure in direct.measures.items():
        assert found[name].value == pytest.approx(measure.value, rel=1e-9), name
        assert found[name].standard_error > 0
    np.testing.assert_allclose(found.noise_variances, direct.noise_variances, rtol=1e-10)


def test_jackknife_errors_are_the_scatter_of_repeated_sampling():
    problem = turned(*spectra(16, 5), 16)
    factor = np.linalg.cholesky(problem.noise_cov)
    rng = np.random.default_rng(16)
    values, errors, gammas, gamma_errors = [], [], [], []
    for _ in range(60):
        samples = rng.standard_normal((600, 5)) @ factor.T
        found = commutativity_from_gradients(problem.hessian, samples, num_null=20)
        values.append([found[name].value for name in ("chi", "frobenius_cosine", "off_diagonal_mass")])
        errors.append([found[name].standard_error for name in ("chi", "frobenius_cosine", "off_diagonal_mass")])
        gammas.append(found.noise_variances)
        gamma_errors.append(found.noise_standard_errors)
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0, ddof=1)
    assert ((ratio > 0.65) & (ratio < 1.5)).all(), ratio  # 60 repeats know a standard deviation to 9 %
    ratio = np.sqrt(np.mean(np.square(gamma_errors), axis=0)) / np.std(gammas, axis=0, ddof=1)
    assert ((ratio > 0.65) & (ratio < 1.5)).all(), ratio


def test_a_hessian_estimated_group_by_group_adds_its_own_error():
    problem = turned(*spectra(17, 4), 17)
    rng = np.random.default_rng(17)
    samples = rng.multivariate_normal(np.zeros(4), problem.noise_cov, size=20_000)
    wobble = rng.standard_normal((20, 4, 4))
    groups = problem.hessian + wobble + wobble.transpose(0, 2, 1)
    exact = commutativity_from_gradients(groups.mean(axis=0), samples, num_null=20)
    estimated = commutativity_from_gradients(groups, samples, num_null=20)
    assert estimated["chi"].value == pytest.approx(exact["chi"].value, rel=1e-9)
    assert estimated["chi"].standard_error > 2 * exact["chi"].standard_error


@pytest.mark.parametrize(
    ("hessian", "gradients", "choices", "message"),
    [
        (np.eye(3), np.zeros(5), {}, "gradients=...\\)` must be finite, of shape"),
        (np.eye(3), np.full((100, 3), np.nan), {}, "must be finite"),
        (np.eye(3), np.ones((30, 3)), {}, "must be >= 5 with two samples a group; got 20 for 30"),
        (np.ones((3, 2, 2)), np.ones((100, 2)), {}, "one Hessian a group, 20; got 3"),
    ],
)
def test_bad_samples_are_refused(hessian, gradients, choices, message):
    with pytest.raises(ValueError, match=message):
        commutativity_from_gradients(hessian, gradients, **choices)
