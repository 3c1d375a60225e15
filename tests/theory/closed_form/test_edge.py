"""The edge of mean-square stability: against brute recursions, simulated growth, closed cases and its two ends."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.theory.closed_form.edge_forms import orthogonal_edge, terms_meet
from theory.closed_form.edge import (
    batch_sharpness,
    crossover_batch_size,
    isotropic_edge,
    mean_square_edge,
    sampled_batch_sharpness,
    sharpness_limits,
)
from theory.closed_form.minibatch import ridge_regression_law, second_moment_stability_limit
from theory.model.optimizer import MomentumSGD
from theory.model.regression import GaussianRegression, RidgeRegression, Sampling
from theory.oracle.affine_batches import simulated_growth
from theory.oracle.second_moment import enumerated_second_moment
from theory.solution import UnstableError

OPTIMIZERS = [
    MomentumSGD(0.1),
    MomentumSGD(0.1, 0.9),
    MomentumSGD(0.1, 0.9, nesterov=True),
    MomentumSGD(0.1, 0.5, form="position", dampening=0.2),
]
WITH, WITHOUT, SHUFFLED = Sampling.WITH_REPLACEMENT, Sampling.WITHOUT_REPLACEMENT, Sampling.SHUFFLED_EPOCHS


def _rows(count=5, k=2, seed=0):
    return np.random.default_rng(seed).exponential(size=(count, k))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("sampling", [WITH, WITHOUT])
@pytest.mark.parametrize("size", [1, 3])
def test_the_brute_recursion_neither_grows_nor_shrinks_at_the_edge(optimizer, sampling, size):
    rows, decay = _rows(), 0.3
    edge = mean_square_edge(rows, size, replace(optimizer, weight_decay=decay), sampling=sampling)
    assert 0 < edge.learning_rate < edge.mean_limit
    problem = RidgeRegression(inputs=rows, targets=np.ones(5), ridge=decay, batch_size=size, sampling=sampling)
    found = enumerated_second_moment(problem, replace(optimizer, learning_rate=edge.learning_rate))
    assert found.growth == pytest.approx(1.0, abs=1e-10)
    matrices = rows[:, :, None] * rows[:, None, :]
    same = mean_square_edge(matrices, size, replace(optimizer, weight_decay=decay), sampling=sampling)
    assert same.learning_rate == pytest.approx(edge.learning_rate, rel=1e-12)
    assert np.trace(edge.direction) == pytest.approx(1.0) and np.linalg.eigvalsh(edge.direction)[0] > -1e-9


@pytest.mark.parametrize("size", [20, 60])
def test_products_of_large_problems_agree_with_the_stationary_law(size):
    """Above 12 directions Arnoldi, above 50 products: a law exists just below, and none just above."""
    rows = np.random.default_rng(1).normal(size=(150, size))
    edge = mean_square_edge(rows, 8, MomentumSGD(0.1, 0.9, weight_decay=0.1), sampling=WITHOUT).learning_rate
    problem = RidgeRegression(inputs=rows, targets=rows[:, 0], ridge=0.1, batch_size=8, sampling=WITHOUT)
    assert 0.99 < ridge_regression_law(problem, MomentumSGD(0.999 * edge, 0.9)).feedback < 1.0
    with pytest.raises(UnstableError):
        ridge_regression_law(problem, MomentumSGD(1.001 * edge, 0.9))
    matrices = rows[:, :, None] * rows[:, None, :]
    dense = mean_square_edge(matrices, 8, MomentumSGD(0.1, 0.9, weight_decay=0.1), sampling=WITHOUT)
    assert dense.learning_rate == pytest.approx(edge, rel=1e-9)


def test_many_gaussian_samples_have_the_edge_of_gaussian_inputs():
    spectrum = np.array([0.2, 0.5, 1.0])
    rows = np.random.default_rng(2).normal(size=(200_000, 3)) * np.sqrt(spectrum)
    for size in (1, 8):
        found = mean_square_edge(rows, size, MomentumSGD(0.1, 0.9), sampling=WITH).learning_rate
        law = GaussianRegression(input_cov=spectrum, label_noise_variance=1.0, batch_size=size)
        assert found == pytest.approx(second_moment_stability_limit(law, MomentumSGD(0.01, 0.9)), rel=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("size", [1, 3, 12])
def test_closed_cases_and_both_published_ends(momentum, size):
    count, sharpness = 12, 3.0
    optimizer = MomentumSGD(0.1, momentum)
    rows = np.sqrt(sharpness) * np.eye(count)
    exact = mean_square_edge(rows, size, optimizer).learning_rate
    assert orthogonal_edge(sharpness, count, size, momentum) == pytest.approx(exact, rel=1e-9)
    share = size / count
    in_sharpness = 2 * (1 - momentum**2) / (1 + momentum - 2 * momentum * share)
    assert exact * sharpness / size == pytest.approx(in_sharpness, rel=1e-9)
    # Samples that differ by a factor: one direction, any number of equal ones.
    factors = np.array([0.5, 1.0, 4.0, 0.1, 1.0, 2.0, 0.3, 0.7, 1.2, 0.4, 2.5, 1.0])
    scaled = mean_square_edge(factors[:, None, None] * np.eye(2), size, optimizer).learning_rate
    closed = isotropic_edge(factors.mean(), factors.var(), count, size, momentum)
    assert closed == pytest.approx(scaled, rel=1e-9)
    # Ends: few of many samples a batch, and all of them.
    many = orthogonal_edge(sharpness, 10**6, size, momentum) * sharpness / size
    assert many == pytest.approx(2 * (1 - momentum), rel=1e-3)
    whole = isotropic_edge(2.0, 5.0, count, count, momentum)
    assert whole == pytest.approx(2 * (1 + momentum) / 2.0)
    assert mean_square_edge(rows, count, optimizer).learning_rate == pytest.approx(2 * (1 + momentum) * count / 3.0)
    assert isotropic_edge(1.0, 1e9, None, 1, momentum) == pytest.approx(2 * (1 - momentum) / 1e9, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("sampling", [WITH, WITHOUT])
def test_the_crossover_is_the_first_batch_whose_edge_is_half_of_the_whole_datas(momentum, sampling):
    optimizer = MomentumSGD(0.1, momentum, weight_decay=0.01)
    rows = np.random.default_rng(4).lognormal(sigma=0.5, size=(60, 1)) * np.random.default_rng(5).normal(size=(60, 3))
    found = crossover_batch_size(rows, optimizer, sampling=sampling)
    edges = [mean_square_edge(rows, size, optimizer, sampling=sampling) for size in range(1, 61)]
    shares = [edge.learning_rate / edge.mean_limit for edge in edges]
    assert shares == sorted(shares)
    reached = [size for size, share in enumerate(shares, start=1) if share >= 0.5]
    assert found == (reached[0] if reached else None) and found != 1


def test_the_crossover_is_where_the_closed_forms_two_terms_meet():
    factors = np.random.default_rng(6).lognormal(sigma=1.0, size=200)
    for momentum in (0.0, 0.5, 0.9):
        closed = terms_meet(factors.mean(), factors.var(), 200, momentum)
        found = crossover_batch_size(factors[:, None, None] * np.ones((1, 1, 1)), MomentumSGD(0.1, momentum))
        assert found == math.ceil(closed)
    # A batch drawn with replacement never averages over all samples alike.
    loud = np.r_[np.full(1, 500.0), np.full(19, 1e-3)][:, None, None]
    assert crossover_batch_size(loud, MomentumSGD(0.1, 0.9), sampling=WITH) is None
    assert crossover_batch_size(loud, MomentumSGD(0.1, 0.9)) == 19  # N(1+μ)/2: one sample alone is curved


def test_where_the_two_terms_of_the_edge_meet():
    batch = terms_meet(0.5, 4.0, 1000, 0.9)
    assert 1 < batch < 1000
    full = 2 * 1.9 / 0.5
    assert isotropic_edge(0.5, 4.0, 1000, round(batch), 0.9) == pytest.approx(full / 2, rel=0.01)
    # Orthogonal samples: independent batches stay at the small-batch limit until nearly all samples are in each.
    count = 240
    variance = (1 / count) * (1 - 1 / count)
    assert terms_meet(1 / count, variance, count, 0.9) == pytest.approx(0.95 * count, rel=0.01)


def test_shuffled_orthogonal_samples_reach_both_ends_and_lie_above_independent_batches_between():
    count = 240
    found = {
        size: orthogonal_edge(1.0, count, size, 0.9, sampling=SHUFFLED) / size for size in (1, 8, 24, 80, 120, 240)
    }
    assert found[1] == pytest.approx(0.2, rel=3e-3) and found[240] == pytest.approx(3.8, rel=1e-9)
    values = list(found.values())
    assert values == sorted(values)
    for size in (8, 24, 80, 120):
        assert found[size] > 1.05 * orthogonal_edge(1.0, count, size, 0.9) / size
    assert found[24] == pytest.approx(0.298, abs=0.002)  # M = 1/(1−μ): half above the small-batch limit


def _grid():
    """24 settings from one sample a batch to all of them."""
    generic = np.random.default_rng(0).normal(size=(12, 3)) * np.exp(
        0.4 * np.random.default_rng(1).normal(size=(12, 1))
    )
    for name, rows in (("generic", generic), ("orthogonal", np.sqrt(3.0) * np.eye(8))):
        for momentum, sampling in ((0.0, WITHOUT), (0.5, WITH), (0.9, WITHOUT)):
            for share in (None, 0.25, 0.5, 1.0):
                size = 1 if share is None else round(share * len(rows))
                yield pytest.param(rows, momentum, sampling, size, id=f"{name}-{momentum}-{sampling.value}-{size}")


def _crossing(rows, optimizer, size, sampling, edge, steps):
    """Where the simulated growth of the second moment crosses 1, in units of the predicted edge."""
    matrices = rows[:, :, None] * rows[:, None, :]
    reach = 0.015
    below, above = (
        simulated_growth(
            matrices,
            replace(optimizer, learning_rate=edge * factor),
            size,
            sampling,
            replicas=512,
            steps=steps,
            burn_in=120,
            seed=5,
        )
        for factor in (1 - reach, 1 + reach)
    )
    return 1 - reach + 2 * reach * (-below.log_factor) / (above.log_factor - below.log_factor)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "momentum", "sampling", "size"), list(_grid()))
def test_simulated_growth_crosses_one_within_two_percent_of_the_edge(rows, momentum, sampling, size):
    optimizer = MomentumSGD(0.1, momentum)
    edge = mean_square_edge(rows, size, optimizer, sampling=sampling).learning_rate
    assert abs(_crossing(rows, optimizer, size, sampling, edge, 1500) - 1) < 0.02


@pytest.mark.parametrize("size", [1, 4])
def test_simulated_growth_crosses_one_at_the_edge_of_shuffled_orthogonal_samples(size):
    edge = orthogonal_edge(3.0, 8, size, 0.5, sampling=SHUFFLED)
    found = _crossing(np.sqrt(3.0) * np.eye(8), MomentumSGD(0.1, 0.5), size, SHUFFLED, edge, 400)
    assert abs(found - 1) < 0.02


@pytest.mark.parametrize("sampling", [WITH, WITHOUT, SHUFFLED])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_batch_sharpness_is_the_average_over_every_batch(sampling, size):
    rng = np.random.default_rng(3)
    gradients = rng.exponential(size=(5, 3)) - 0.5
    factors = rng.normal(size=(5, 3, 2))
    curvatures = factors @ factors.transpose(0, 2, 1)
    curvatures[0] *= -1.0  # nothing needs positive curvature
    if sampling is WITH:
        batches = itertools.product(range(5), repeat=size)
    else:
        batches = itertools.combinations(range(5), size)
    tops, bottoms = [], []
    for batch in batches:
        g, h = gradients[list(batch)].mean(axis=0), curvatures[list(batch)].mean(axis=0)
        tops.append(g @ h @ g)
        bottoms.append(g @ g)
    found = batch_sharpness(gradients, curvatures, size, sampling=sampling)
    assert found.curvature == pytest.approx(np.mean(tops), rel=1e-12)
    assert found.value == pytest.approx(np.mean(tops) / np.mean(bottoms), rel=1e-12)
    assert found.standard_error == 0.0
    plain = factors @ factors.transpose(0, 2, 1)
    assert batch_sharpness(gradients, factors, size, sampling=sampling).value == pytest.approx(
        batch_sharpness(gradients, plain, size, sampling=sampling).value, rel=1e-12
    )


def test_batch_sharpness_of_drawn_batches_covers_the_value():
    rng = np.random.default_rng(6)
    gradients = rng.standard_t(5, size=(200, 4))
    inputs = rng.normal(size=(200, 4)) * (1 + np.abs(gradients[:, :1]))
    exact = batch_sharpness(gradients, inputs, 8).value
    scores = []
    for _ in range(300):
        rows = np.array([rng.permutation(200)[:8] for _ in range(60)])
        g, x = gradients[rows].mean(axis=1), inputs[rows]
        tops = np.mean(np.einsum("bsi,bi->bs", x, g) ** 2, axis=1)
        found = sampled_batch_sharpness(tops, np.sum(g**2, axis=1))
        scores.append((found.value - exact) / found.standard_error)
    assert abs(np.mean(scores)) < 0.4  # skewed, hence not quite 0
    assert 0.88 < np.mean(np.abs(scores) < 1.96) < 0.98


def test_at_the_edge_of_orthogonal_samples_batch_sharpness_is_the_published_limit():
    """All directions alike excited, B small: η times the sharpness is 2(1−μ) where it diverges."""
    count, sharpness, momentum = 400, 3.0, 0.9
    rows = np.sqrt(sharpness) * np.eye(count)
    weights = np.random.default_rng(0).standard_normal(count)
    gradients = sharpness * weights[:, None] * np.eye(count)
    seen = batch_sharpness(gradients, rows, 4).value
    assert seen == pytest.approx(sharpness / 4, rel=1e-9)
    assert orthogonal_edge(sharpness, count, 4, momentum) * seen == pytest.approx(2 * (1 - momentum), rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_square_edge(np.ones((5, 2, 3)), 1, MomentumSGD(0.1)), r"must be \(N >= 2, m, m\)"),
        (lambda: mean_square_edge(np.full((5, 2), np.nan), 1, MomentumSGD(0.1)), "must be finite"),
        (lambda: mean_square_edge(_rows(), 6, MomentumSGD(0.1)), r"must be an integer in \[1, 5\]; got 6"),
        (lambda: mean_square_edge(_rows(), 2, MomentumSGD(0.1), sampling="shuffled-epochs"), "with or without"),
        (lambda: mean_square_edge(-np.tile(np.eye(2), (5, 1, 1)), 1, MomentumSGD(0.1)), "no negative mean curvature"),
        (
            lambda: mean_square_edge(np.array([np.diag([1.0, s]) for s in (1, -1)]), 1, MomentumSGD(0.1)),
            "must not vary along a direction that is flat in the mean",
        ),
        (lambda: isotropic_edge(0.0, 1.0, 5, 1, 0.9), "must be > 0 and >= 0"),
        (lambda: isotropic_edge(1.0, 1.0, 5, 1, 1.0), r"momentum=\.\.\.\)` must be in \[0, 1\); got 1.0"),
        (lambda: batch_sharpness(np.ones((4, 3)), _rows(), 1), "must agree"),
        (lambda: batch_sharpness(np.zeros((5, 2)), _rows(), 1), "must not vanish"),
        (lambda: sampled_batch_sharpness(np.ones(5), np.ones(5)), "n >= 8"),
        (lambda: sampled_batch_sharpness(np.ones(9), np.zeros(9)), "must be finite and > 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_directions_in_which_nothing_acts_do_not_matter():
    rows = np.concatenate([_rows(), np.zeros((5, 2))], axis=1)
    edge = mean_square_edge(rows, 2, MomentumSGD(0.1, 0.9))
    assert edge.learning_rate == pytest.approx(mean_square_edge(_rows(), 2, MomentumSGD(0.1, 0.9)).learning_rate)
    assert edge.direction.shape == (4, 4) and not math.isnan(edge.curvature)


@pytest.mark.parametrize(
    "optimizer",
    [
        *OPTIMIZERS,
        MomentumSGD(0.3, 0.9),
        MomentumSGD(0.1, 0.0, dampening=0.3),
        MomentumSGD(0.1, 0.9, dampening=0.9, discount=0.7),
    ],
    ids=str,
)
def test_the_limits_of_batch_sharpness_are_the_ends_of_the_exact_edge(optimizer):
    """One direction, one sample in N curved: batch sharpness L at B = 1, L/N with the full batch."""
    small, large = sharpness_limits(optimizer)
    count, sharpness = 20_000, 3.0
    curvatures = np.zeros((count, 1, 1))
    curvatures[0] = sharpness
    once = mean_square_edge(curvatures, 1, optimizer).learning_rate
    assert once * sharpness == pytest.approx(small * optimizer.learning_rate, rel=3e-3)
    whole = mean_square_edge(curvatures, count, optimizer).learning_rate
    assert whole * sharpness / count == pytest.approx(large * optimizer.learning_rate, rel=1e-9)
    if optimizer.dampening == 0 and not optimizer.nesterov:
        rate, momentum = optimizer.learning_rate, optimizer.momentum
        assert (small, large) == pytest.approx((2 * (1 - momentum) / rate, 2 * (1 + momentum) / rate))
