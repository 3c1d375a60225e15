"""Moments along real batches: against every batch and every order of tiny data, known limits, and the digits."""

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles import relative
from theory.closed_form.minibatch import ridge_regression_law
from theory.closed_form.minibatch_moments import minibatch_second_moments, stationary_minibatch_moments
from theory.closed_form.outside import Outside
from theory.closed_form.shuffling import shuffled_covariance
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import RidgeRegression, Sampling
from theory.oracle.affine_batches import AffineBatches, enumerated_moments, sampled_weights
from theory.solution import UnstableError

OPTIMIZERS = [
    MomentumSGD(0.1),
    MomentumSGD(0.1, 0.5),
    MomentumSGD(0.1, 0.5, nesterov=True),
    MomentumSGD(0.1, 0.5, dampening=0.2, weight_decay=0.1),
    MomentumSGD(0.1, 0.5, form="position"),
    MomentumSGD(0.2, 0.5, dampening=0.5, discount=0.7),
]
#: Epochs cut evenly, one by one, with a last batch that is smaller, and with a rest that is dropped.
EPOCHS = [(6, (2, 2, 2)), (5, (1, 1, 1, 1, 1)), (5, (2, 2, 1)), (6, (2, 2))]


def outside_of(slopes, couplings, outside_slopes, curvatures):
    """From every sample's coupling to q untracked directions, each an eigenvector of the mean Hessian."""
    s, q, rest = (part - part.mean(axis=0) for part in (slopes, couplings, outside_slopes))
    slope_cov = rest.T @ rest / (len(s) - 1)
    parts = (np.einsum("nia,nib->ab", q, q, optimize=True) @ slope_cov).diagonal()
    return Outside(
        curvature=float(parts @ curvatures / parts.sum()),
        coupling=np.einsum("nia,ab,njb->ij", q, slope_cov, q, optimize=True) / (len(s) - 1),
        own=np.einsum("na,nib,nb->ai", s, q, rest, optimize=True) / len(s),
    )


def _samples(count, k=2, seed=0, mean_slope=0.0, spread=1.0):
    rng = np.random.default_rng(seed)
    slopes = rng.exponential(size=(count, k)) * rng.choice([-1.0, 1.0], size=(count, k))
    slopes += mean_slope - slopes.mean(axis=0)
    factors = rng.normal(size=(count, k, 3))
    curvatures = factors @ factors.transpose(0, 2, 1) / 3.0
    mean = curvatures.mean(axis=0)
    return slopes, mean + spread * (curvatures - mean)


def _rates(steps, change):
    return np.where(np.arange(steps) < change, 0.1, 0.04)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("sampling", "size"), [("with-replacement", 2), ("without-replacement", 2)])
def test_independent_batches_are_exact_step_by_step_through_a_decay(optimizer, sampling, size):
    slopes, curvatures = _samples(5, mean_slope=0.3)
    rates, start = _rates(7, 4), np.array([1.0, -0.5])
    exact = enumerated_moments(
        AffineBatches(
            slopes=slopes,
            curvatures=curvatures,
            optimizer=optimizer,
            learning_rates=rates,
            batch_sizes=(size,),
            sampling=sampling,
            start=start,
        )
    )
    law = minibatch_second_moments(
        slopes, curvatures, optimizer, rates, size, sampling=sampling, initial_mean=[*start, 0.0, 0.0]
    )
    assert relative(law.mean, exact.mean) < 1e-13
    assert relative(law.covariance, exact.covariance) < 1e-12


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("count", "sizes"), EPOCHS)
def test_shuffled_epochs_of_one_curvature_are_exact(optimizer, count, sizes):
    slopes, curvatures = _samples(count, spread=0.0, mean_slope=0.2)
    rates = _rates(3 * len(sizes) - 1, len(sizes) + 1)
    exact = enumerated_moments(
        AffineBatches(
            slopes=slopes,
            curvatures=curvatures,
            optimizer=optimizer,
            learning_rates=rates,
            batch_sizes=sizes,
            start_position=1,
        )
    )
    law = minibatch_second_moments(slopes, curvatures, optimizer, rates, sizes, start_position=1)
    assert relative(law.mean, exact.mean) < 1e-12
    assert relative(law.covariance, exact.covariance) < 1e-12


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("count", "sizes"), EPOCHS)
def test_shuffled_epochs_are_exact_to_first_order_in_how_much_curvatures_differ(optimizer, count, sizes):
    rates = _rates(3 * len(sizes), len(sizes) + 1)

    def slope(covariances):
        """d Cov/dε at 0, error h²."""
        h = 1e-3
        return (covariances(h) - covariances(-h)) / (2.0 * h)

    def exact(spread):
        slopes, curvatures = _samples(count, spread=spread, mean_slope=0.2)
        run = AffineBatches(
            slopes=slopes, curvatures=curvatures, optimizer=optimizer, learning_rates=rates, batch_sizes=sizes
        )
        return enumerated_moments(run).covariance

    def law(spread):
        slopes, curvatures = _samples(count, spread=spread, mean_slope=0.2)
        return minibatch_second_moments(slopes, curvatures, optimizer, rates, sizes).covariance

    expected = slope(exact)
    assert np.abs(expected).max() > 1e-3 * np.abs(exact(0.0)).max()  # there is something to get right
    assert relative(slope(law), expected) < 1e-4  # h² and the part of the shift that is not covered


@pytest.mark.parametrize(("count", "sizes"), EPOCHS)
def test_what_is_left_falls_as_the_square(count, sizes):
    rates = np.full(3 * len(sizes), 0.05)

    def error(spread):
        slopes, curvatures = _samples(count, spread=spread)
        run = AffineBatches(
            slopes=slopes,
            curvatures=curvatures,
            optimizer=MomentumSGD(0.1, 0.5),
            learning_rates=rates,
            batch_sizes=sizes,
        )
        law = minibatch_second_moments(slopes, curvatures, run.optimizer, rates, sizes)
        return relative(law.covariance, enumerated_moments(run).covariance)

    errors = [error(spread) for spread in (0.5, 0.25, 0.125)]
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 3.5 and errors[2] < errors[1] / 3.5


@pytest.mark.parametrize(("count", "sizes", "most"), [(5, (2, 2, 1), 0.005), (6, (2, 2), 0.001)])
def test_far_from_an_optimum_without_noise_the_distance_makes_the_noise(count, sizes, most):
    """Every sample has its optimum where the path goes: slopes along the path, not at w₀, drive the correction."""
    _, curvatures = _samples(count, spread=0.5)
    slopes, start, rates = np.zeros((count, 2)), np.array([1.0, -2.0]), np.full(2 * len(sizes), 0.1)
    run = AffineBatches(
        slopes=slopes,
        curvatures=curvatures,
        optimizer=MomentumSGD(0.1, 0.5),
        learning_rates=rates,
        batch_sizes=sizes,
        start=start,
    )
    law = minibatch_second_moments(slopes, curvatures, run.optimizer, rates, sizes, initial_mean=[*start, 0.0, 0.0])
    assert relative(law.covariance, enumerated_moments(run).covariance) < most


def test_the_long_run_of_one_curvature_is_the_known_law():
    slopes, curvatures = _samples(12, k=3, spread=0.0)
    optimizer = MomentumSGD(0.1, 0.9, weight_decay=0.05)
    per_sample = np.cov(slopes, rowvar=False)
    for sampling, cov in (
        ("with-replacement", per_sample * 11 / 12 / 3),
        ("without-replacement", per_sample * (1 / 3 - 1 / 12)),
    ):
        white = stationary_minibatch_moments(slopes, curvatures, optimizer, 3, sampling=sampling)
        expected = stationary_covariance(Quadratic(curvatures[0], cov), optimizer)
        assert relative(white.covariance[0], expected.require()) < 1e-10
        assert relative(white.state_covariance[0], expected.state()) < 1e-10
    shuffled = stationary_minibatch_moments(slopes, curvatures, optimizer, 3)
    problem = Quadratic(curvatures[0], per_sample * (1 / 3 - 1 / 12))
    for phase in (1, 2, 3, 4):
        expected = shuffled_covariance(problem, optimizer, batches_per_epoch=4, phase=phase)
        assert relative(shuffled.covariance[phase - 1], expected) < 1e-9


@pytest.mark.parametrize("sampling", ["with-replacement", "without-replacement"])
def test_the_long_run_of_least_squares_is_the_law_of_ridge_regression(sampling):
    rng = np.random.default_rng(4)
    problem = RidgeRegression(
        inputs=0.5 * rng.exponential(size=(30, 3)),
        targets=rng.normal(size=30),
        ridge=0.2,
        batch_size=2,
        sampling=sampling,
    )
    law = ridge_regression_law(problem, MomentumSGD(0.02, 0.9))
    residuals = problem.inputs @ law.optimum - problem.targets
    slopes = residuals[:, None] * problem.inputs + problem.ridge * law.optimum
    found = stationary_minibatch_moments(
        slopes, problem.inputs, MomentumSGD(0.02, 0.9, weight_decay=problem.ridge), 2, sampling=sampling
    )
    assert np.abs(found.mean).max() < 1e-12
    assert relative(found.covariance[0], law.covariance) < 1e-9


def test_a_long_path_ends_in_the_long_run_law():
    slopes, curvatures = _samples(40, k=3, mean_slope=0.05)
    optimizer = MomentumSGD(0.05, 0.8)
    settled = stationary_minibatch_moments(slopes, curvatures, optimizer, 7)
    path = minibatch_second_moments(slopes, curvatures, optimizer, np.full(1200, 0.05), 7, record=range(1195, 1201))
    assert settled.steps.tolist() == [1, 2, 3, 4, 5, 6] and 0 < settled.growth < 1
    assert relative(path.covariance, settled.covariance) < 1e-8
    assert relative(path.mean, settled.mean) < 1e-8


def test_fresh_noise_is_white_and_adds():
    slopes, curvatures = _samples(6, spread=0.0)
    optimizer, rates = MomentumSGD(0.1, 0.5), np.full(6, 0.1)
    extra = np.array([[0.5, 0.1], [0.1, 0.2]])
    law = minibatch_second_moments(slopes, curvatures, optimizer, rates, (4, 2), fresh=extra)
    without = minibatch_second_moments(slopes, curvatures, optimizer, rates, (4, 2))
    nothing = minibatch_second_moments(0 * slopes, curvatures, optimizer, rates, (4, 2), fresh=extra)
    assert relative(law.covariance - without.covariance, nothing.covariance) < 1e-12
    values, basis = np.linalg.eigh(curvatures[0])
    step = np.array([-0.1, 1.0])
    first = basis.T @ extra @ basis / 4
    assert relative(basis.T @ nothing.covariance[0] @ basis, first * step[0] ** 2) < 1e-12
    assert values.min() > 0


def test_what_is_outside_acts_as_if_it_were_tracked():
    """Ten directions in all, two tracked: the rest is felt through couplings that are small."""
    rng = np.random.default_rng(8)
    count, k, q = 60, 2, 8
    slopes = rng.normal(size=(count, k + q)) * rng.exponential(size=(count, 1))
    slopes -= slopes.mean(axis=0)
    factors = rng.normal(size=(count, k + q, k + q))
    slopes[:, k:] *= 5.0
    curvatures = 0.5 * factors @ factors.transpose(0, 2, 1) / (k + q)
    deviation = curvatures - curvatures.mean(axis=0)
    deviation[:, k:, k:] = 0.0  # what the law of the rest neglects
    curvatures = np.diag([1.0, 0.7] + [0.2] * q) + deviation
    optimizer, rates = MomentumSGD(0.1, 0.9), np.full(36, 0.1)
    whole = minibatch_second_moments(slopes, curvatures, optimizer, rates, 10).covariance[:, :k, :k]
    inner = slopes[:, :k], curvatures[:, :k, :k]
    rest = outside_of(slopes[:, :k], curvatures[:, :k, k:], slopes[:, k:], np.full(q, 0.2))
    alone = minibatch_second_moments(*inner, optimizer, rates, 10).covariance
    together = minibatch_second_moments(*inner, optimizer, rates, 10, outside=[rest]).covariance
    blind = minibatch_second_moments(*inner, optimizer, rates, 10, outside=[replace(rest, own=None)]).covariance
    assert relative(alone, whole) > 0.05
    assert relative(together, whole) < 0.003 < 0.005 < relative(blind, whole)
    # Probes: random signs of the samples' slopes outside; with many of them the coupling is the same.
    signs = rng.choice([-1.0, 1.0], size=(4000, count))
    probes = signs @ slopes[:, k:] / np.sqrt(count - 1)
    probed = Outside.from_probes(np.einsum("nij,pj->nip", curvatures[:, :k, k:], probes), 0.2, rest.own)
    assert relative(probed.coupling, rest.coupling) < 0.05
    for sampling in ("with-replacement", "shuffled-epochs"):
        long = minibatch_second_moments(
            *inner, optimizer, np.full(600, 0.1), 10, sampling=sampling, outside=[rest], record=[600]
        )
        settled = stationary_minibatch_moments(*inner, optimizer, 10, sampling=sampling, outside=[rest])
        assert relative(long.covariance[-1], settled.covariance[-1]) < 1e-8


def test_ridge_regression_on_digits_is_met_at_every_record_where_additive_noise_fails():
    """η = .1, μ = .9, 32 of 300 images, shuffled; ten directions tracked of 65, everything simulated."""
    inputs, digit, rng = _digits()
    inputs, ridge = 0.45 * inputs, 2e-3
    targets = (digit == 3) - 0.1 + 0.3 * rng.normal(size=300)
    hessian = inputs.T @ inputs / len(inputs)
    weights = np.linalg.solve(hessian + ridge * np.eye(len(hessian)), inputs.T @ targets / len(inputs))
    slopes = (inputs @ weights - targets)[:, None] * inputs + ridge * weights
    optimizer, rates, record = MomentumSGD(0.1, 0.9, weight_decay=ridge), np.full(50, 0.1), [5, 10, 15, 20, 30, 40, 50]
    values, basis = np.linalg.eigh(hessian)
    values, basis = values[::-1], basis[:, ::-1]
    run = AffineBatches(
        slopes=slopes, curvatures=inputs, optimizer=optimizer, learning_rates=rates, batch_sizes=(32,) * 9 + (12,)
    )
    seen = (sampled_weights(run, replicas=3072, record=record, seed=int(rng.integers(2**31))) @ basis[:, :10]) ** 2
    s, x = slopes @ basis, inputs @ basis
    a = x[:, :10, None] * x[:, None, :10]
    rest = [
        outside_of(s[:, :10], x[:, :10, None] * x[:, None, part], s[:, part], values[part])
        for part in (slice(10, 25), slice(25, None))
    ]
    law = minibatch_second_moments(s[:, :10], a, optimizer, rates, 32, record=record, outside=rest)
    additive = minibatch_second_moments(
        s[:, :10], np.broadcast_to(a.mean(axis=0), a.shape), optimizer, rates, 32, record=record
    )
    found = seen.mean(axis=1) / np.diagonal(law.covariance, axis1=1, axis2=2)
    assert np.abs(np.log(found.mean(axis=1))).max() < np.log(1.1)
    assert (seen.mean(axis=1) / np.diagonal(additive.covariance, axis1=1, axis2=2)).mean(axis=1).max() > 1.3


def test_softmax_regression_on_digits_is_met_where_additive_noise_is_off_by_a_quarter():
    """Replicas of the dynamics linearised at the optimum, all 650 directions, against ten tracked ones."""
    minimize = pytest.importorskip("scipy.optimize").minimize
    inputs, digit, rng = _digits()
    decay, classes = 2e-3, 10
    labels = np.eye(classes)[np.where(rng.random(300) < 0.15, rng.integers(0, classes, size=300), digit)]
    width = inputs.shape[1] * classes

    def probabilities(weights):
        logits = inputs @ weights.reshape(-1, classes)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def loss(weights):
        p = probabilities(weights)
        value = -np.log((p * labels).sum(axis=1)).mean() + 0.5 * decay * weights @ weights
        return value, (inputs.T @ (p - labels) / 300).ravel() + decay * weights

    options = {"maxiter": 4000, "gtol": 1e-9}
    optimum = minimize(loss, np.zeros(width), jac=True, method="L-BFGS-B", options=options).x
    p = probabilities(optimum)
    outputs = p[:, :, None] * np.eye(classes) - p[:, :, None] * p[:, None, :]
    slopes = np.einsum("ni,nc->nic", inputs, p - labels).reshape(300, -1) + decay * optimum
    hessian = np.einsum("ni,ncd,nj->icjd", inputs, outputs, inputs, optimize=True).reshape(width, width) / 300
    values, basis = np.linalg.eigh(hessian)
    values, basis = values[::-1], basis[:, ::-1]
    turned = np.einsum("ni,ick->nck", inputs, basis.reshape(-1, classes, width))
    inner = turned[:, :, :10]
    curvatures = np.einsum("nck,ncd,ndl->nkl", inner, outputs, inner, optimize=True)
    s = slopes @ basis
    rest = [
        outside_of(
            s[:, :10],
            np.einsum("nck,ncd,ndl->nkl", inner, outputs, turned[:, :, part], optimize=True),
            s[:, part],
            values[part],
        )
        for part in (slice(10, 40), slice(40, None))
    ]
    optimizer, rates = MomentumSGD(0.1, 0.9, weight_decay=decay), np.full(40, 0.1)
    record = [5, 10, 15, 20, 30, 40]
    law = minibatch_second_moments(s[:, :10], curvatures, optimizer, rates, 32, record=record, outside=rest)
    additive = minibatch_second_moments(
        s[:, :10], np.broadcast_to(curvatures.mean(axis=0), curvatures.shape), optimizer, rates, 32, record=record
    )
    replicas = 1024
    weights, buffer = np.zeros((replicas, width)), np.zeros((replicas, width))
    seen = []
    for step in range(40):
        if step % 10 == 0:
            order = rng.permuted(np.tile(np.arange(300), (replicas, 1)), axis=1)
        rows = order[:, 32 * (step % 10) : 32 * (step % 10 + 1)]
        x = inputs[rows]
        logits = np.matmul(x, weights.reshape(replicas, -1, classes))
        pull = np.matmul(outputs[rows], logits[..., None])[..., 0] + (p - labels)[rows]
        gradient = np.matmul(x.transpose(0, 2, 1), pull).reshape(replicas, -1) / rows.shape[1]
        buffer = 0.9 * buffer + gradient + decay * (weights + optimum)
        weights = weights - 0.1 * buffer
        if step + 1 in record:
            seen.append(((weights @ basis[:, :10]) ** 2).mean(axis=0))
    found = (np.array(seen) / np.diagonal(law.covariance, axis1=1, axis2=2)).mean(axis=1)
    assert np.abs(np.log(found)).max() < np.log(1.1)
    assert (np.array(seen) / np.diagonal(additive.covariance, axis1=1, axis2=2)).mean(axis=1).max() > 1.25


def _digits():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    rng = np.random.default_rng(11)
    chosen = rng.permutation(len(bunch.data))[:300]
    pixels = bunch.data[chosen] / 16.0
    inputs = np.concatenate([(pixels - 0.3053) / 0.42, np.ones((300, 1))], axis=1)
    return inputs, bunch.target[chosen], rng


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(slopes=np.zeros((2, 2))), r"slopes=\.\.\.\)` must have shape"),
        (dict(curvatures=np.zeros((6, 3, 3))), r"curvatures=\.\.\.\)` must be"),
        (dict(curvatures=np.tile([[1.0, 2.0], [0.0, 1.0]], (6, 1, 1))), "must be symmetric"),
        (dict(slopes=np.full((6, 2), np.nan)), "must be finite"),
        (dict(batch_sizes=7), r"batch_sizes=\.\.\.\)` must lie in \[1, 6\]; got"),
        (dict(batch_sizes=(4, 4)), "must add up to at most 6; got 8"),
        (dict(learning_rates=[0.1, -0.1]), "must be a vector of rates > 0"),
        (dict(start_position=3), r"must lie in \[0, 2\]; got 3"),
        (dict(record=[0, 1]), r"must rise within 1 … 4; got \[0, 1\]"),
        (dict(initial_mean=[0.0]), r"must be finite, shape \(4,\)"),
        (dict(initial_covariance=np.eye(2)), r"must be finite, shape \(4, 4\)"),
        (dict(fresh=np.eye(3)), r"fresh=\.\.\.\)` must be finite, shape \(2, 2\)"),
        (dict(outside=[Outside(curvature=0.1, coupling=np.eye(3))]), "must couple to 2 directions"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    slopes, curvatures = _samples(6)
    arguments = dict(slopes=slopes, curvatures=curvatures, optimizer=MomentumSGD(0.1, 0.5))
    arguments |= dict(learning_rates=np.full(4, 0.1), batch_sizes=2)
    with pytest.raises(ValueError, match=message):
        minibatch_second_moments(**{**arguments, **change})


def test_no_law_where_none_exists():
    slopes, curvatures = _samples(6)
    for sampling in Sampling:
        with pytest.raises(UnstableError, match="growth < 1"):
            stationary_minibatch_moments(slopes, curvatures, MomentumSGD(1.9, 0.9), 2, sampling=sampling)
    with pytest.raises(UnstableError, match="positive definite"):
        stationary_minibatch_moments(slopes, -curvatures, MomentumSGD(0.1, 0.9), 2)
    with pytest.raises(ValueError, match="one size"):
        stationary_minibatch_moments(slopes, curvatures, MomentumSGD(0.1), (2, 3), sampling="with-replacement")
