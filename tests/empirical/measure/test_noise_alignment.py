"""Gradient noise, intervals, commutativity: against dense values, known laws and calibrated coverage."""

import itertools

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.func import hessian as second_derivative

from empirical.measure.alignment import alignment, gap_size, layer_alignment, rotation_null
from empirical.measure.chi_interval import chi_from_groups, chi_over_data
from empirical.measure.intervals import variance_estimates
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.noise import cross_fit_noise, gradient_noise, repeated_share
from empirical.measure.operators import GradientCovarianceOperator, HessianOperator, project_gradients
from tests.empirical.measure.conftest import dense, smooth_network, toy_data, trained
from theory.judge.statistics import binomial_interval


def dense_chi(h, c):
    return float(torch.trace(h @ c @ h @ c) / torch.trace(h @ h @ c @ c))


def test_gamma_is_the_quadratic_form_of_the_dense_covariance(problem):
    landscape, h, c = problem
    basis = torch.linalg.eigh(h)[1][:, -5:]
    found = gradient_noise(landscape, basis)
    expected = basis.T @ c @ basis
    assert np.allclose(found.covariance, expected, rtol=1e-9, atol=1e-12)
    assert np.allclose(found.variances.values, np.diag(expected), rtol=1e-9)
    assert np.allclose(found.mean, (basis.T @ landscape.gradient()).numpy(), atol=1e-12)
    assert (found.variances.low < found.variances.values).all()
    assert (found.variances.high > found.variances.values).all()


def test_the_standard_error_of_a_variance_is_the_kurtosis_formula():
    samples = np.random.default_rng(0).standard_t(6, size=(1000, 1))
    found = variance_estimates(samples, rng=np.random.default_rng(1))
    many = np.random.default_rng(2).standard_t(6, size=(1000, 4000)).var(axis=0, ddof=1)
    assert found.kurtosis[0] > 4
    assert found.standard_errors[0] == pytest.approx(many.std(), rel=0.5)  # a fourth moment of t₆ is itself uncertain


def heavy_tails(law, rng, size):
    if law == "normal":
        return rng.standard_normal(size)
    if law == "student-5":
        return rng.standard_t(5, size)
    if law == "few misfits":  # p(1 − p)-like magnitudes: most samples are fitted, a few carry the gradient
        return rng.beta(0.3, 3, size) * rng.standard_normal(size)
    return rng.gamma(0.15, 1, size)


def coverage(law, resamples, seed):
    rng = np.random.default_rng(seed)
    population = heavy_tails(law, rng, 50_000)
    true, hits = population.var(), 0
    # Many columns at once share one set of bootstrap weights; they are independent samples all the same.
    for _ in range(resamples // 50):
        samples = rng.choice(population, size=(1000, 50))
        found = variance_estimates(samples, resamples=999, rng=rng)
        hits += int(((found.low <= true) & (true <= found.high)).sum())
    return hits / resamples


@pytest.mark.slow
@pytest.mark.parametrize("law", ["normal", "student-5", "few misfits", "skewed gamma"])
def test_variance_intervals_cover_in_93_to_97_percent_of_1000_resamples(law):
    rate = coverage(law, 1000, seed=3)
    assert 0.93 <= rate <= 0.97, rate


def test_variance_intervals_cover_where_plug_in_intervals_do_not():
    rate = coverage("few misfits", 400, seed=4)
    low, high = binomial_interval(round(rate * 400), 400, alpha=1e-3)
    assert low <= 0.95 <= high, rate


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "steps", "rate", "seed"), [(1.0, 150, 0.3, 7), (0.15, 3000, 0.5, 3)])
def test_gamma_intervals_cover_the_full_data_value_in_93_to_97_percent_of_1000_resamples(noise, steps, rate, seed):
    """γ of two directions from 1,000 samples against the value over all 20,000; kurtosis 16-20 and 114-134."""
    x, y = toy_data(20_000, seed=seed, noise=noise)
    network = trained(smooth_network(), x[:1000], y[:1000], steps=steps, rate=rate)
    full = Landscape(network, x, y, chunk=20_000)
    pairs = top_eigenpairs(HessianOperator(full.subset(torch.arange(2000))), 2, tolerance=1e-6)
    everything = project_gradients(full, pairs.basis, method="jvp").values.numpy()
    true, rng, hits = everything.var(axis=0), np.random.default_rng(5), np.zeros(2)
    for _ in range(1000):
        found = variance_estimates(everything[rng.integers(0, 20_000, 1000)], resamples=499, rng=rng)
        hits += (found.low <= true) & (true <= found.high)
    assert ((hits >= 930) & (hits <= 970)).all(), hits


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.ones((4, 1)), "N >= 8"), (np.ones((50, 1)), "vary in every column"), (np.full((50, 1), np.nan), "finite")],
)
def test_variances_that_cannot_be_estimated_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        variance_estimates(samples, rng=np.random.default_rng(0))


def test_cross_fit_uses_disjoint_halves(problem):
    landscape, _, _ = problem
    seen = []

    def build(indices):
        seen.append(set(indices.tolist()))
        return landscape.subset(indices)

    found = cross_fit_noise(build, 200, 3, tolerance=1e-6)
    assert seen[0] & seen[1] == set() and len(seen[0] | seen[1]) == 200
    other = landscape.subset(torch.tensor(sorted(seen[1])))
    again = project_gradients(other, found.eigenpairs.basis).values.var(dim=0)
    assert np.allclose(found.noise.variances.values, again.numpy(), rtol=1e-9)
    with pytest.raises(ValueError, match="below half the samples"):
        cross_fit_noise(build, 200, 100)


def test_the_repeated_share_of_a_known_mixture_is_recovered():
    rng = np.random.default_rng(0)
    between, within = rng.standard_normal((1, 4000, 2)) * [2.0, 1.0], rng.standard_normal((3, 4000, 2)) * [1.0, 3.0]
    found = repeated_share(between + within)
    expected = np.array([4 / 5, 1 / 10])
    assert (np.abs(found.values - expected) < 5 * found.standard_errors).all()
    assert (found.standard_errors < 0.03).all()
    assert repeated_share(np.repeat(between, 2, axis=0)).values == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="A >= 2"):
        repeated_share(between)


def random_pair(seed):
    """Networks whose H and C commute to very different degrees."""
    x, y = toy_data(120, inputs=5, seed=seed, noise=0.3 + seed % 4)
    network = trained(smooth_network(5, 4, seed=seed), x, y, steps=10 * (seed % 7))
    landscape = Landscape(network, x, y)
    return landscape, *dense(landscape)


@pytest.mark.slow
def test_chi_is_calibrated_against_dense_over_100_random_cases():
    scores = []
    for seed in range(100):
        landscape, h, c = random_pair(seed)
        hessian, covariance = (
            HessianOperator(landscape, method="double-backward"),
            GradientCovarianceOperator(landscape),
        )
        pairs = top_eigenpairs(hessian, 3, tolerance=1e-9, max_products=2000)
        found = alignment(hessian, covariance, pairs, num_probes=32, seed=seed).chi
        scores.append((found.value - dense_chi(h, c)) / found.probe_error)
    scores = np.array(scores)
    assert (np.abs(scores) > 3).sum() <= 3, np.sort(np.abs(scores))[-5:]
    assert 0.7 < scores.std() < 1.5


def test_everything_is_exact_when_the_deflation_spans_the_space():
    landscape, h, c = random_pair(5)
    hessian, covariance = HessianOperator(landscape, method="double-backward"), GradientCovarianceOperator(landscape)
    pairs = top_eigenpairs(hessian, landscape.dimension, tolerance=1e-10, max_products=4000)
    found = alignment(hessian, covariance, pairs)
    commutator = h @ c - c @ h
    assert found.chi.value == pytest.approx(dense_chi(h, c), rel=1e-8)
    assert found.chi.value == pytest.approx(1 - float(commutator.norm() ** 2 / (2 * (h @ c).norm() ** 2)), rel=1e-8)
    assert found.omega.value == pytest.approx(float((h @ c).norm() / (h.norm() * c.norm())), rel=1e-8)
    assert found.cosine.value == pytest.approx(float(torch.trace(h @ c) / (h.norm() * c.norm())), rel=1e-8)
    assert found.kappa == pytest.approx(float(commutator.norm() / (2 * h.norm() * c.norm())), rel=1e-6)
    u = pairs.vectors
    images = (c @ u).norm(dim=0)
    seen = (images > 1e-9 * images.max()).numpy()  # softmax leaves directions in which neither matrix acts
    expected = ((u * (c @ u)).sum(dim=0) / images).numpy()
    assert seen.sum() >= 30
    assert np.allclose(found.direction_cosines[seen], expected[seen], atol=1e-6)


def test_deflation_leaves_chi_alone_and_shrinks_its_error():
    landscape, h, c = random_pair(6)
    hessian, covariance = HessianOperator(landscape, method="double-backward"), GradientCovarianceOperator(landscape)
    pairs = top_eigenpairs(hessian, 6, tolerance=1e-9, max_products=2000)
    plain = alignment(hessian, covariance, num_probes=64).chi
    deflated = alignment(hessian, covariance, pairs, num_probes=64).chi
    assert deflated.probe_error < plain.probe_error
    assert abs(deflated.value - dense_chi(h, c)) < 4 * deflated.probe_error
    assert abs(plain.value - dense_chi(h, c)) < 5 * plain.probe_error


def test_the_bulk_chi_is_that_of_the_deflated_matrices():
    landscape, h, c = random_pair(3)
    hessian, covariance = HessianOperator(landscape, method="double-backward"), GradientCovarianceOperator(landscape)
    pairs = top_eigenpairs(hessian, 2, tolerance=1e-11, max_products=2000)
    q = torch.eye(landscape.dimension, dtype=torch.float64) - pairs.vectors @ pairs.vectors.T
    expected = dense_chi(q @ h @ q, q @ c @ q)
    found = alignment(hessian, covariance, pairs, num_probes=400).chi_bulk
    assert abs(found.value - expected) < 4 * found.probe_error + 1e-6


def test_the_rotation_null_is_that_of_dense_random_rotations():
    rng = np.random.default_rng(0)
    outliers_h, outliers_c, size = np.array([5.0, 3.0, 2.0]), np.array([4.0, 1.0]), 60
    h = np.diag(np.concatenate([outliers_h, np.full(size - 3, 0.1)]))
    spectrum = np.concatenate([outliers_c, np.full(size - 2, 0.05)])
    values = []
    for _ in range(600):
        q, r = np.linalg.qr(rng.standard_normal((size, size)))
        q = q * np.sign(np.diag(r))
        c = q @ np.diag(spectrum) @ q.T
        values.append(np.trace(h @ c @ h @ c) / np.trace(h @ h @ c @ c))
    mean, upper = rotation_null(outliers_h, outliers_c, np.trace(h), spectrum.sum(), size, draws=2000)
    assert mean == pytest.approx(np.mean(values), abs=5 * np.std(values) / np.sqrt(600))
    assert upper == pytest.approx(np.quantile(values, 0.975), rel=0.1)


def per_sample(landscape):
    """Hessian (N, P, P) and gradient (N, P) of every sample by torch.func, 500 at a time."""
    shapes = {name: p.shape for name, p in landscape.model.named_parameters()}

    def loss(flat, x, y):
        pieces = torch.split(flat, [shapes[name].numel() for name in landscape.names])
        named = {n: p.view(shapes[n]) for n, p in zip(landscape.names, pieces, strict=True)}
        return torch.nn.functional.cross_entropy(functional_call(landscape.model, named, (x[None],)), y[None])

    found = []
    for units in torch.arange(len(landscape.inputs)).split(500):
        data = (landscape.weights, landscape.inputs[units], landscape.targets[units])
        found.append([vmap(f(loss), (None, 0, 0))(*data) for f in (second_derivative, grad)])
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def group_matrices(hessians, gradients, parts):
    """Mean Hessian and unbiased covariance of each group of samples."""
    return [hessians[part].mean(dim=0) for part in parts], [torch.cov(gradients[part].T) for part in parts]


def chi_interval(hessians, gradients, parts):
    groups = group_matrices(hessians, gradients, parts)
    products = [[lambda v, m=m: m @ v for m in matrices] for matrices in groups]
    return chi_from_groups(*products, torch.eye(gradients.shape[1], dtype=torch.float64))


def test_chi_and_its_error_are_the_u_statistic_and_jackknives_over_explicit_groups():
    x, y = toy_data(900, inputs=4, seed=3)
    landscape = Landscape(trained(smooth_network(4, 3, seed=3), x, y, steps=40), x, y)
    six = torch.arange(900).tensor_split(6)
    h, c = group_matrices(*per_sample(landscape), six)
    traces = {
        (i, j, k, m): (
            float(torch.trace(h[i] @ c[j] @ h[k] @ c[m])),
            float(torch.trace(h[i] @ c[j] @ c[m] @ h[k])),
        )
        for i, j, k, m in itertools.permutations(range(6), 4)
    }

    def without(*left_out):
        kept = [pair for groups, pair in traces.items() if not set(groups) & set(left_out)]
        return sum(pair[0] for pair in kept) / sum(pair[1] for pair in kept)

    whole, one = without(), [without(a) for a in range(6)]
    found = chi_interval(*per_sample(landscape), six)
    assert found.value == pytest.approx(whole, rel=1e-10)
    variance = 5 / 6 * sum((value - np.mean(one)) ** 2 for value in one)
    joint = [6 * whole - 5 * (one[a] + one[b]) + 4 * without(a, b) for a, b in itertools.combinations(range(6), 2)]
    quadratic = sum((value - np.mean(joint)) ** 2 for value in joint) / 30
    assert 0.8 < quadratic / variance < 1.7  # between the two ends of the correction
    corrected = variance - 0.5 * (quadratic - 0.75 * variance)
    assert found.sampling_error == pytest.approx(np.sqrt(corrected), rel=1e-8)


def test_chi_over_data_is_the_same_from_matrices_and_from_products(problem):
    landscape, _, _ = problem
    # The same from the data: partition drawn by the seed, matrices formed (k = P) or products alone (a few columns).
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    eye = torch.eye(75, dtype=torch.float64)
    whole = chi_over_data(landscape, eye, 75, groups=6, seed=3)
    again = chi_interval(*per_sample(landscape), order.tensor_split(6))
    assert (whole.value, whole.sampling_error) == pytest.approx((again.value, again.sampling_error), rel=1e-8)
    parts = [chi_interval_inputs(landscape, part) for part in order.tensor_split(6)]
    few = chi_over_data(landscape, eye[:, :4], 4, groups=6, seed=3)
    dense = chi_from_groups(*zip(*parts, strict=True), eye[:, :4])
    assert (few.value, few.low) == pytest.approx((dense.value, dense.low), rel=1e-8)


def chi_interval_inputs(landscape, part):
    h, c = group_matrices(*per_sample(landscape.subset(part)), [torch.arange(len(part))])
    return (lambda v: h[0] @ v), (lambda v: c[0] @ v)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "hidden", "noise", "steps", "rate", "seed"),
    [
        pytest.param(5, 3, 2.0, 400, 0.3, 5, id="noisy labels, kurtosis 9"),
        pytest.param(4, 4, 0.4, 40, 0.1, 16, id="well fitted, kurtosis 9 to 50"),
    ],
)
def test_chi_intervals_cover_the_full_data_value_in_93_to_97_percent_of_1000_resamples(
    inputs, hidden, noise, steps, rate, seed
):
    x, y = toy_data(8000, inputs=inputs, seed=seed, noise=noise)
    network = trained(smooth_network(inputs, hidden, seed=seed), x[:1000], y[:1000], steps=steps, rate=rate)
    hessians, gradients = per_sample(Landscape(network, x, y))
    h, c = hessians.mean(dim=0), torch.cov(gradients.T)
    true, rng = dense_chi(h, c), np.random.default_rng(0)
    values, plug_in, hits = [], [], 0
    for number in range(1000):
        units = torch.as_tensor(rng.integers(0, 8000, 1000))
        found = chi_interval(hessians, gradients, units.tensor_split(20))
        hits += found.low <= true <= found.high
        values.append(found.value)
        if number % 20 == 0:
            plug_in.append(dense_chi(hessians[units].mean(dim=0), torch.cov(gradients[units].T)))
    assert 0.93 <= hits / 1000 <= 0.97, (hits, np.mean(values), np.mean(plug_in), true)
    assert abs(np.mean(values) - true) < 0.15 * abs(np.mean(plug_in) - true)  # the plug-in is biased, this is not


def test_gap_size_takes_the_largest_relative_gap():
    assert gap_size(np.array([10.0, 9.0, 3.0, 2.9])) == 2
    assert gap_size(np.array([1.0])) == 1


def test_every_layer_large_enough_is_measured(problem):
    found = layer_alignment(problem[0], 2, num_probes=4)
    assert set(found) == {"0", "2"}
    assert all(-1 <= item.chi.value <= 1 + 1e-9 for item in found.values())


def test_too_few_groups_are_refused(problem):
    landscape, _, _ = problem
    hessian, covariance = HessianOperator(landscape), GradientCovarianceOperator(landscape)
    with pytest.raises(ValueError, match=r"must lie in \[6, 100\]"):
        alignment(hessian, covariance, landscape=landscape, groups=3)
