"""Noise against two nulls: the price of one matrix by the house's own formula, and both nulls' sizes by Monte Carlo."""

import numpy as np
import pytest

from theory.closed_form.alignment import commutativity_price, haar_rotation
from theory.closed_form.rotated_noise import Commuting, commutation_of, commutation_test, prices
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.solution import UnstableError

SGD = MomentumSGD(learning_rate=0.1, momentum=0.9)


def random_noise(size, rng):
    q = haar_rotation(size, rng)
    return (q * np.geomspace(1, 0.05, size)) @ q.T


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_many_prices_at_once_are_the_price_of_each(momentum):
    rng = np.random.default_rng(0)
    optimizer = MomentumSGD(learning_rate=0.3, momentum=momentum)
    curvatures = np.geomspace(2.0, 0.02, 6)
    noises = np.stack([random_noise(6, rng) for _ in range(4)])
    alone = [commutativity_price(Quadratic(np.diag(curvatures), k), optimizer).nats_per_direction for k in noises]
    np.testing.assert_allclose(prices(noises, curvatures, optimizer), alone, rtol=1e-9)


def test_equal_curvatures_share_an_eigenspace_and_cost_nothing():
    noise = random_noise(5, np.random.default_rng(1))
    assert prices(noise, np.full(5, 0.7), SGD) == pytest.approx(0.0, abs=1e-12)
    curvatures = np.array([1.0, 0.3, 0.3, 0.3, 0.1])
    alone = commutativity_price(Quadratic(np.diag(curvatures), noise), SGD).nats_per_direction
    assert prices(noise, curvatures, SGD) == pytest.approx(alone, rel=1e-9)


def heavy(count, size, rng):
    """Uncorrelated, dependent and heavy-tailed: one scale a sample, shared by all directions."""
    return rng.standard_normal((count, size)) * np.exp(rng.standard_normal((count, 1)) * 0.5)


def test_a_commuting_pair_is_doubted_as_often_as_stated():
    rng = np.random.default_rng(2)
    curvatures, scales = np.geomspace(2, 0.05, 5), np.sqrt(np.geomspace(1, 0.05, 5))
    p = [
        commutation_test(heavy(300, 5, rng) * scales, curvatures, SGD, draws=99, rng=rng).price.commuting_p
        for _ in range(200)
    ]
    # 200 p-values uniform on {1, …, 100}/100: their mean has standard deviation .0204.
    assert abs(np.mean(p) - 0.505) < 4 * 0.0205
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)


def test_a_rotated_pair_looks_commuting_as_seldom_as_stated():
    rng = np.random.default_rng(3)
    curvatures, scales = np.geomspace(2, 0.02, 6), np.sqrt(np.geomspace(1, 0.01, 6))
    price, cosine = [], []
    for _ in range(200):
        x = (heavy(400, 6, rng) * scales) @ haar_rotation(6, rng).T
        found = commutation_test(x, curvatures, SGD, draws=99, rng=rng)
        price.append(found.price.rotated_p)
        cosine.append(found.cosine.rotated_p)
    for p in (price, cosine):
        assert abs(np.mean(p) - 0.505) < 4 * 0.0205


def test_a_compression_of_rotated_noise_of_the_whole_space_has_the_same_null():
    rng = np.random.default_rng(4)
    curvatures, p = np.geomspace(2, 0.05, 4), []
    for _ in range(150):
        q = haar_rotation(30, rng)[:4]
        noise = (q * np.geomspace(1, 1e-3, 30)) @ q.T
        p.append(commutation_of(noise, curvatures, SGD, draws=99, rng=rng).price.rotated_p)
    assert abs(np.mean(p) - 0.505) < 4 * np.sqrt(1 / 12 / 150)


def test_rotated_noise_that_an_absolute_threshold_passes_is_recognised():
    """P = 20, two decades, μ = .9, C rotated: a price below a tenth of a nat and a cosine above a half."""
    rng = np.random.default_rng(5)
    curvatures, spectrum = np.geomspace(1, 0.01, 20), np.geomspace(1, 0.01, 20)
    outcomes = []
    for _ in range(20):
        q = haar_rotation(20, rng)
        found = commutation_test(
            (rng.standard_normal((600, 20)) * np.sqrt(spectrum)) @ q.T, curvatures, SGD, draws=99, rng=rng
        )
        assert found.price.value < 0.2
        outcomes.append(found.price.outcome())
    assert outcomes.count(Commuting.ROTATED) >= 18
    commuting = commutation_test(rng.standard_normal((600, 20)) * np.sqrt(spectrum), curvatures, SGD, rng=rng)
    assert commuting.price.outcome() is Commuting.COMMUTING
    assert commuting.cosine.outcome() is Commuting.COMMUTING


def test_what_is_known_exactly_is_commuting_only_if_it_is():
    curvatures = np.geomspace(2, 0.05, 5)
    exact = commutation_of(np.diag(np.geomspace(1, 0.01, 5)), curvatures, SGD)
    assert exact.price.value < 1e-15 and exact.price.outcome() is Commuting.COMMUTING
    near = np.diag(np.geomspace(1, 0.01, 5))
    near[0, 4] = near[4, 0] = 0.01
    assert commutation_of(near, curvatures, SGD).price.outcome() is Commuting.BETTER_THAN_CHANCE


def test_a_handful_of_samples_tells_nothing():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((12, 5))
    assert commutation_test(x, np.geomspace(2, 0.05, 5), SGD, rng=rng).price.outcome() is Commuting.UNDECIDED


@pytest.mark.parametrize(
    ("slopes", "curvatures", "message"),
    [
        (np.ones((30, 3)), np.ones(3), "vary in every direction"),
        (np.ones((5, 3)), np.ones(3), r"shapes \(N > 2k, k\)"),
        (np.ones((30, 1)), np.ones(1), "k >= 2"),
        (np.full((30, 2), np.nan), np.ones(2), "finite"),
    ],
)
def test_unusable_slopes_are_named(slopes, curvatures, message):
    with pytest.raises(ValueError, match=message):
        commutation_test(slopes, curvatures, SGD)


def test_no_price_without_a_stationary_law():
    with pytest.raises(UnstableError):
        commutation_test(np.random.default_rng(0).standard_normal((30, 2)), [50.0, 1.0], SGD)
