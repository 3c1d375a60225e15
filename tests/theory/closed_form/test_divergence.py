"""KL divergences against other people's code, 30-digit arithmetic, and their own laws."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from theory.closed_form.divergence import binary_kl, gaussian_kl, kl_inverse, log_excess, maurer_moment

# kl⁻¹(r, c) by bisection in 30 digits.
ANCHORS = [
    (0.0, 0.1, 0.0951625819640404),
    (0.1, 0.05, 0.220078601106925),
    (0.5, 0.01, 0.570358593457453),
    (0.028, 0.1, 0.167000959477871),
    (0.45, 0.001, 0.47230415234388),
    (0.999, 0.001, 0.999841338903934),
    (1e-6, 1e-6, 3.14618984445287e-6),
]

# plot/result_bar/merge_mnist_1_7_l2.csv of paulviallard/NeurIPS21-PB-Robustness (Viallard et al. 2021): risk of the
# sampled votes, divergence, Theorem 6's bound. m = 5000 and δ = 0.05 from the same repository's `run` script; T = 20
# is the only whole number that fits. Stored in float32.
PUBLISHED = [
    (0.031719598919153214, 0.07714458554983139, 0.09392696619033812),
    (0.004460033494979143, 0.12384817749261855, 0.023276973515748967),
    (0.004771550185978414, 0.04926792532205582, 0.0241876058280468),
    (0.04022117331624031, 0.10256946831941603, 0.11411821842193605),
    (0.013485902920365334, 0.07714458554983139, 0.04853101074695587),
    (0.012050829827785492, 0.04926792532205582, 0.04470906406641007),
    (0.003725892631337047, 0.07714458554983139, 0.02093922533094883),
    (0.019604604691267014, 0.04926792532205582, 0.06421391665935516),
    (0.003248291788622737, 0.10256946831941603, 0.019409691914916042),
    (0.003279590979218483, 0.10256946831941603, 0.019511805847287168),
    (0.0038904694374650717, 0.07714458554983139, 0.021463032811880108),
    (0.07137671113014221, 0.12384817749261855, 0.18549621105194086),
    (0.004498437978327274, 0.04926792532205582, 0.023347768932580948),
    (0.003151989309117198, 0.12384817749261855, 0.019105680286884308),
    (0.11992409080266953, 0.10256946831941603, 0.2924475073814392),
    (0.19249410927295685, 0.12384817749261855, 0.4476449489593506),
]


def bisected_inverse(risk: float, complexity: float) -> float:
    """kl⁻¹ by 130 halvings in 40 digits: shares nothing with the Newton iteration."""
    with mpmath.workdps(40):
        r, c = mpmath.mpf(risk), mpmath.mpf(complexity)

        def excess(big):
            low = r * mpmath.log(r / big) if r > 0 else mpmath.mpf(0)
            return low + (1 - r) * mpmath.log((1 - r) / (1 - big)) - c

        low, high = r, mpmath.mpf(1)
        for _ in range(130):
            middle = (low + high) / 2
            if middle >= 1 or excess(middle) > 0:
                high = middle
            else:
                low = middle
        return float(low)


def matrix(rng: np.random.Generator, size: int, spread: float = 3.0) -> np.ndarray:
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return (basis * np.exp(rng.uniform(-spread, spread, size))) @ basis.T


@pytest.mark.parametrize(("risk", "complexity", "answer"), ANCHORS)
def test_inverse_kl_equals_the_anchors_to_14_digits(risk, complexity, answer):
    assert kl_inverse(risk, complexity) == pytest.approx(answer, rel=2e-15)


@given(
    st.one_of(st.floats(1e-12, 1.0, exclude_max=True), st.floats(0, 12).map(lambda x: 1 - 10.0**-x)),
    st.floats(-14, 1.5).map(lambda x: 10.0**x),
)
def test_inverse_kl_equals_bisection_in_40_digits(risk, complexity):
    assert kl_inverse(risk, complexity) == pytest.approx(bisected_inverse(risk, complexity), rel=1e-15)


@given(st.floats(0, 1), st.floats(0, 30), st.floats(0, 30))
def test_inverse_kl_rises_with_the_complexity_and_stays_between_the_risk_and_one(risk, first, second):
    low, high = sorted((first, second))
    assert risk <= kl_inverse(risk, low) <= kl_inverse(risk, high) + 4e-16 <= 1.0 + 4e-16


@given(st.floats(1e-6, 0.99), st.floats(1e-6, 3))
def test_inverse_kl_undoes_kl(risk, complexity):
    big = kl_inverse(risk, complexity)
    if big < 0.999999:  # nearer 1 the spacing of float64 limits kl, not the inverse
        assert binary_kl(risk, big) == pytest.approx(complexity, rel=1e-8)


@given(st.floats(0, 1), st.floats(1e-9, 5))
def test_inverse_kl_keeps_pinskers_inequality(risk, complexity):
    assert kl_inverse(risk, complexity) <= min(1.0, risk + np.sqrt(complexity / 2)) * (1 + 1e-15)


def test_inverse_kl_has_its_limits_and_broadcasts():
    assert kl_inverse(0.3, 0.0) == 0.3
    assert kl_inverse(1.0, 0.7) == 1.0
    assert kl_inverse(0.2, np.inf) == 1.0
    assert kl_inverse(0.0, 2.0) == pytest.approx(-np.expm1(-2.0), rel=1e-15)
    assert np.shape(kl_inverse(np.zeros((3, 1)), np.ones(4))) == (3, 4)
    assert isinstance(kl_inverse(0.1, 0.1), float)


def test_inverse_kl_equals_scipys_root_finder_over_a_grid():
    risks, complexities = np.meshgrid(np.linspace(0.01, 0.9, 20), np.geomspace(1e-4, 2, 20))
    ours = kl_inverse(risks, complexities)
    for index in np.ndindex(risks.shape):
        r, c = risks[index], complexities[index]
        root = optimize.brentq(lambda big, r=r, c=c: stats.entropy([r, 1 - r], [big, 1 - big]) - c, r, 1 - 1e-15)
        assert ours[index] == pytest.approx(root, rel=1e-9)  # brentq's tolerance, and scipy's cancelling kl


def test_published_bounds_of_viallard_et_al_are_reproduced():
    risk, divergence, bound = np.array(PUBLISHED).T
    samples, voters, delta = 5000, 20, 0.05
    ours = 2 * kl_inverse(risk, (divergence + np.log((samples + 1) * voters / delta)) / samples)
    np.testing.assert_allclose(ours, bound, rtol=0, atol=1e-6)  # theirs is float32 throughout
    assert ours[0] == pytest.approx(0.0939269662, abs=1e-6)


@pytest.mark.parametrize(("samples", "moment"), [(8, 4.24501800537109), (10, 4.66021568), (100, 13.209960630216)])
def test_maurers_moment_equals_the_anchors(samples, moment):
    assert maurer_moment(samples) == pytest.approx(moment, rel=1e-13)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 15, 16, 17, 60, 300])
def test_maurers_moment_is_its_sum_in_exact_arithmetic(samples):
    total, choose = Fraction(0), 1
    for k in range(samples + 1):
        share = Fraction(k, samples)
        total += choose * share**k * (1 - share) ** (samples - k)
        choose = choose * (samples - k) // (k + 1)
    assert maurer_moment(samples) == pytest.approx(float(total), rel=1e-14)


def test_maurers_moment_lies_between_root_n_and_twice_root_n():
    samples = np.unique(np.geomspace(8, 1e15, 200).round())
    moments = maurer_moment(samples)
    assert (moments >= np.sqrt(samples)).all()
    assert (moments <= 2 * np.sqrt(samples)).all()
    np.testing.assert_allclose(moments[-20:], np.sqrt(np.pi * samples[-20:] / 2) + 2 / 3, rtol=1e-13)


@given(st.floats(-0.999999, 1e6))
def test_log_excess_keeps_full_relative_precision(t):
    with mpmath.workdps(60):
        exact = mpmath.mpf(t) - mpmath.log(1 + mpmath.mpf(t))
        if exact < 1e-290:
            return
        assert float(log_excess(t)) == pytest.approx(float(exact), rel=4e-15)


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_kl_equals_torchs(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    first, second = matrix(rng, 5), matrix(rng, 5)
    means = rng.standard_normal((2, 5))
    q = torch.distributions.MultivariateNormal(torch.tensor(means[0]), torch.tensor(first))
    p = torch.distributions.MultivariateNormal(torch.tensor(means[1]), torch.tensor(second))
    theirs = float(torch.distributions.kl_divergence(q, p))
    assert gaussian_kl(first, second, mean=means[0], prior_mean=means[1]) == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_kl_equals_the_difference_of_scipys_entropies(seed):
    # KL = E_Q ln q − E_Q ln p; with the prior N(0, Σ_P) the second is −½(m ln 2π + ln det + tr Σ_P⁻¹(Σ + m mᵀ)).
    rng = np.random.default_rng(100 + seed)
    covariance, prior, mean = matrix(rng, 4), matrix(rng, 4), rng.standard_normal(4)
    own = stats.multivariate_normal(mean, covariance).entropy()
    at_zero = stats.multivariate_normal(np.zeros(4), prior).logpdf(np.zeros(4))
    crossed = 0.5 * np.trace(np.linalg.solve(prior, covariance + np.outer(mean, mean))) - at_zero
    assert gaussian_kl(covariance, prior, mean=mean) == pytest.approx(crossed - own, rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_kl_does_not_depend_on_the_coordinates(seed):
    rng = np.random.default_rng(200 + seed)
    covariance, prior, shift = matrix(rng, 6), matrix(rng, 6), rng.standard_normal(6)
    change = rng.standard_normal((6, 6)) + 3 * np.eye(6)
    before = gaussian_kl(covariance, prior, mean=shift)
    after = gaussian_kl(change @ covariance @ change.T, change @ prior @ change.T, mean=change @ shift)
    assert after == pytest.approx(before, rel=1e-9)  # cond(prior) ≤ e⁶ · cond(change)²


def test_gaussian_kl_adds_over_independent_blocks():
    rng = np.random.default_rng(3)
    a, b, p, q = (matrix(rng, 3) for _ in range(4))
    zero = np.zeros((3, 3))
    whole = gaussian_kl(np.block([[a, zero], [zero, b]]), np.block([[p, zero], [zero, q]]))
    assert whole == pytest.approx(gaussian_kl(a, p) + gaussian_kl(b, q), rel=1e-12)


def test_gaussian_kl_vanishes_only_between_equals_and_is_quadratic_there():
    rng = np.random.default_rng(4)
    variances = np.exp(rng.uniform(-20, 20, 100))
    assert gaussian_kl(variances, variances) == 0.0
    for step in (1e-4, 1e-8, 1e-12):
        shares = (1 + step) - 1  # the step that float64 takes
        assert gaussian_kl((1 + step) * np.ones(7), 1.0) == pytest.approx(7 * (shares**2 / 4 - shares**3 / 6), rel=1e-9)
    prior = matrix(rng, 5)
    assert gaussian_kl(prior, prior) == 0.0


def test_gaussian_kl_between_diagonals_equals_the_dense_path():
    rng = np.random.default_rng(5)
    variances, prior, mean = np.exp(rng.uniform(-3, 3, (3, 8)))
    expected = gaussian_kl(np.diag(variances), np.diag(prior), mean=mean)
    assert gaussian_kl(variances, prior, mean=mean) == pytest.approx(expected, rel=1e-13)
    assert gaussian_kl(variances, 0.3) == pytest.approx(gaussian_kl(np.diag(variances), 0.3), rel=1e-13)


def test_gaussian_kl_derivative_is_half_the_difference_of_precisions():
    rng = np.random.default_rng(6)
    covariance, prior = matrix(rng, 4, 1.0), matrix(rng, 4, 1.0)
    direction = matrix(rng, 4, 1.0)
    step = 1e-5
    slope = (gaussian_kl(covariance + step * direction, prior) - gaussian_kl(covariance - step * direction, prior)) / (
        2 * step
    )
    gradient = 0.5 * (np.linalg.inv(prior) - np.linalg.inv(covariance))
    assert slope == pytest.approx(np.sum(gradient * direction), rel=1e-6)  # central difference, O(step²)


def test_gaussian_kl_survives_variances_at_both_ends_of_float64():
    assert gaussian_kl(np.full(3, 1e-320), 1e300) == pytest.approx(
        1.5 * (np.log(1e300) - np.log(1e-320) - 1), rel=1e-13
    )
    with pytest.raises(ValueError, match="exceeds the largest float64"):
        gaussian_kl(np.array([1e300]), 1e-300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.array([1.0, 0.0]), 1.0), r"covariance=...\)` must be positive definite; got a smallest variance of 0"),
        ((np.array([[1.0, 2.0], [2.0, 1.0]]), 1.0), r"positive definite; got a smallest eigenvalue of -1"),
        ((np.array([[1.0, 0.5], [0.0, 1.0]]), 1.0), "must be symmetric"),
        ((np.ones(3), np.ones(2)), "must have the posterior's dimension 3; got 2"),
        ((np.eye(2), np.eye(3)), "must have the posterior's dimension 2; got 3"),
        ((np.ones(2), -1.0), "prior_covariance=...\\)` must be positive definite"),
        ((np.array([1.0, np.nan]), 1.0), "must be finite; got 1 NaN"),
        ((np.ones((2, 3)), 1.0), "must have shape"),
        ((2.0, 1.0), "must have shape"),
    ],
)
def test_gaussian_kl_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_kl(*arguments)


def test_means_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"mean=...\)` must have shape \(2,\); got \(3,\)"):
        gaussian_kl(np.ones(2), 1.0, mean=np.zeros(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_inverse(1.2, 0.1), r"risk=...\)` must be in \[0, 1\]; got 1.2"),
        (lambda: kl_inverse(np.nan, 0.1), "risk"),
        (lambda: kl_inverse(0.2, -0.1), r"complexity=...\)` must be >= 0; got -0.1"),
        (lambda: kl_inverse(0.2, np.nan), "complexity"),
        (lambda: binary_kl(0.2, 1.0), r"other=...\)` must be in \(0, 1\); got 1"),
        (lambda: maurer_moment(0), "must be a whole number >= 1; got 0"),
        (lambda: maurer_moment(2.5), "must be a whole number >= 1; got 2.5"),
        (lambda: log_excess(-1.0), "must be > -1"),
    ],
)
def test_arguments_outside_their_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_are_left_alone_and_a_second_call_answers_the_same():
    rng = np.random.default_rng(8)
    risks, complexities = rng.random(1000), rng.random(1000)
    before = risks.copy(), complexities.copy()
    first, second = kl_inverse(risks, complexities), kl_inverse(risks, complexities)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(risks, before[0])
    np.testing.assert_array_equal(complexities, before[1])


def test_a_million_directions_take_less_than_a_second():
    import time

    rng = np.random.default_rng(9)
    risks, complexities = rng.random(10**6), 10 ** rng.uniform(-6, 1, 10**6)
    variances = np.exp(rng.normal(size=10**6))
    for run in (lambda: kl_inverse(risks, complexities), lambda: gaussian_kl(variances, 0.1)):
        taken = []
        for _ in range(3):
            start = time.process_time()  # CPU time: what else runs on the machine does not count
            run()
            taken.append(time.process_time() - start)
        assert min(taken) < 1.0
