"""Matrix-free products against dense matrices obtained by other means, in every mode and through every route."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from empirical.measure.landscape import Landscape, has_batch_norm
from empirical.measure.noise import gradient_noise
from empirical.measure.operators import (
    GradientCovarianceOperator,
    HessianOperator,
    NonFiniteProductError,
    bilinear_curvatures,
    finite_curvatures,
    noise_factor,
    probe_determinism,
    project_gradients,
    unit_gradients,
)
from empirical.measure.posterior import shuffled_transient_variance
from tests.empirical.measure.conftest import dense, smooth_network, toy_data
from theory.model.optimizer import MomentumSGD


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("method", ["double-backward", "jvp-of-gradient"])
@pytest.mark.parametrize("kept", [0, 1, 9])
def test_hessian_products_equal_the_dense_hessian(problem, method, kept):
    landscape, h, _ = problem
    vectors = torch.randn(landscape.dimension, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    operator = HessianOperator(landscape, method=method, kept_chunks=kept)
    assert relative(operator.matmat(vectors), h @ vectors) < 1e-12  # two float64 evaluations, well scaled
    assert relative(operator.matvec(vectors[:, 0]), h @ vectors[:, 0]) < 1e-12
    assert operator.num_products == 21


@pytest.mark.parametrize("stored", [0, 2**30])
def test_covariance_products_equal_the_dense_covariance_streamed_or_stored(problem, stored):
    landscape, _, c = problem
    vectors = torch.randn(landscape.dimension, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    operator = GradientCovarianceOperator(landscape, stored_bytes=stored)
    assert (operator._stored is not None) == (stored > 0)
    assert relative(operator.matmat(vectors), c @ vectors) < 1e-12


def test_the_covariance_is_centered_where_the_gradient_has_not_vanished():
    x, y = toy_data(60)
    landscape = Landscape(smooth_network(), x, y)
    _, c = dense(landscape)
    gradients = unit_gradients(landscape, torch.arange(60))
    uncentered = gradients.T @ gradients / 59
    eye = torch.eye(landscape.dimension, dtype=torch.float64)
    measured = GradientCovarianceOperator(landscape, stored_bytes=0).matmat(eye)
    assert relative(measured, c) < 1e-12
    assert relative(measured, uncentered) > 0.05


def test_weight_decay_is_an_explicit_term_of_the_hessian_alone(problem):
    landscape, h, _ = problem
    vector = torch.ones(landscape.dimension, dtype=torch.float64)
    product = HessianOperator(landscape, weight_decay=0.25, method="double-backward").matvec(vector)
    assert relative(product, h @ vector + 0.25 * vector) < 1e-12


@pytest.mark.parametrize("method", ["per-sample-gradients", "jvp"])
def test_projections_equal_the_dense_gradients_times_the_directions(problem, method):
    landscape, _, c = problem
    directions = torch.linalg.qr(torch.randn(landscape.dimension, 4, dtype=torch.float64))[0]
    values = project_gradients(landscape, directions, method=method).values
    assert values.shape == (200, 4)
    assert relative(torch.cov(values.T), directions.T @ c @ directions) < 1e-12


def test_auto_projection_times_both_routes(problem):
    landscape, _, _ = problem
    found = project_gradients(landscape, torch.eye(landscape.dimension, 2, dtype=torch.float64))
    assert set(found.seconds) == {"per-sample-gradients", "jvp"}
    assert found.method == min(found.seconds, key=found.seconds.__getitem__)


def test_bilinear_curvatures_average_to_the_hessian(problem):
    landscape, h, _ = problem
    u, v = torch.randn(2, landscape.dimension, 3, dtype=torch.float64)
    values = bilinear_curvatures(landscape, u, v)
    assert torch.allclose(values.mean(dim=0), (u * (h @ v)).sum(dim=0), rtol=1e-10, atol=1e-12)


def test_chunks_do_not_change_any_product(problem):
    landscape, _, _ = problem
    vector = torch.ones(landscape.dimension, dtype=torch.float64)
    for operator in (HessianOperator, GradientCovarianceOperator):
        results = []
        for chunk in (7, 64, 1000):
            landscape.chunk = chunk
            results.append(operator(landscape).matvec(vector))
        landscape.chunk = 64
        assert relative(results[0], results[2]) < 1e-12
        assert relative(results[1], results[2]) < 1e-12


def test_a_block_is_the_matching_block_of_the_dense_hessian(problem):
    landscape, h, _ = problem
    names = landscape.layers()["2"]
    positions = landscape.block(names)
    block = landscape.restrict(names)
    eye = torch.eye(block.dimension, dtype=torch.float64)
    measured = HessianOperator(block, method="double-backward").matmat(eye)
    assert relative(measured, h[positions][:, positions]) < 1e-12


def test_a_block_of_a_moved_landscape_keeps_the_other_weights_moved(problem):
    landscape, _, _ = problem
    moved = landscape.at(landscape.weights * 1.1)
    block = moved.restrict(moved.layers()["2"])
    assert torch.allclose(block.losses(), moved.losses(), rtol=1e-12)


def test_float32_products_agree_with_float64(problem):
    landscape, h, c = problem
    single = Landscape(landscape.model, landscape.inputs, landscape.targets, dtype=torch.float32, chunk=64)
    vector = torch.ones(landscape.dimension)
    assert relative(HessianOperator(single).matvec(vector).double(), h @ vector.double()) < 1e-4  # float32 round-off
    assert relative(GradientCovarianceOperator(single).matvec(vector).double(), c @ vector.double()) < 1e-4


def batch_norm_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    network.train()
    x, _ = toy_data(64, seed=5)
    for _ in range(5):
        network(x + 0.5)  # running statistics unlike those of the measured batch
    return network


def test_batch_norm_modes_are_three_different_functions_and_leave_the_model_alone():
    network = batch_norm_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x, y = toy_data(96)
    top = {}
    for mode in ("eval", "train", "frozen-batch"):
        landscape = Landscape(network, x, y, batch_norm=mode, batch_size=32)
        operator = HessianOperator(landscape, method="double-backward")
        eye = torch.eye(landscape.dimension, dtype=torch.float64)
        matrix = operator.matmat(eye)
        assert relative(matrix, matrix.T) < 1e-10
        assert relative(HessianOperator(landscape, method="jvp-of-gradient").matmat(eye), matrix) < 1e-10
        top[mode] = float(torch.linalg.eigvalsh(matrix)[-1])
    assert len({round(value, 6) for value in top.values()}) == 3
    assert network.training and has_batch_norm(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_train_mode_takes_the_covariance_from_mini_batches():
    network = batch_norm_network()
    x, y = toy_data(96)
    landscape = Landscape(network, x, y, batch_norm="train", batch_size=32, num_batches=9, seed=1)
    assert landscape.num_units == 9 and landscape.units_are_batches
    gradients = []
    for batch in landscape._batches:
        copy = batch_norm_network()
        copy.load_state_dict(network.state_dict())
        copy.train()
        copy.zero_grad()
        nn.functional.cross_entropy(copy(x[batch]), y[batch]).backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in copy.parameters()]))
    gradients = torch.stack(gradients)
    expected = torch.cov(gradients.T)
    operator = GradientCovarianceOperator(landscape)
    measured = operator.matmat(torch.eye(landscape.dimension, dtype=torch.float64))
    assert relative(measured, expected) < 1e-10
    streamed = GradientCovarianceOperator(landscape, stored_bytes=0)
    assert relative(streamed.matmat(torch.eye(landscape.dimension, dtype=torch.float64)), expected) < 1e-10
    assert operator.noise_factor(32) == 1.0


def test_frozen_batch_mode_gives_the_training_output_of_its_reference_batch():
    network = batch_norm_network()
    x, y = toy_data(40)
    landscape = Landscape(network, x, y, batch_norm="frozen-batch")
    network.train()
    expected = nn.functional.cross_entropy(network(x), y, reduction="none")
    assert torch.allclose(landscape.losses(), expected.detach(), rtol=1e-12)


def test_noise_factor_is_the_variance_of_batch_means():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(30)
    means = [values[rng.permutation(30)[:7]].mean() for _ in range(40_000)]
    # 40,000 draws fix a variance to 0.7 %; five standard errors
    assert np.var(means) == pytest.approx(values.var(ddof=1) * noise_factor(30, 7), rel=0.035)
    assert noise_factor(30, 30) == 0.0
    assert values.var(ddof=1) * noise_factor(30, 7, with_replacement=True) == pytest.approx(values.var() / 7)


@pytest.mark.parametrize(("size", "with_replacement"), [(1, False), (3, False), (2, True)])
def test_every_estimate_of_mini_batch_noise_is_the_covariance_over_all_batches(size, with_replacement):
    """Dense, with no chance left: every batch of 8 samples gone through, against γ, K and C times the factor."""
    x, y = toy_data(8)
    landscape = Landscape(smooth_network(), x, y)
    gradients = unit_gradients(landscape, torch.arange(8)).double()
    draws = itertools.product(range(8), repeat=size) if with_replacement else itertools.combinations(range(8), size)
    means = torch.stack([gradients[list(batch)].mean(dim=0) for batch in draws])
    expected = torch.cov(means.T, correction=0)
    operator = GradientCovarianceOperator(landscape)
    factor = operator.noise_factor(size, with_replacement=with_replacement)
    assert factor == noise_factor(8, size, with_replacement=with_replacement)
    eye = torch.eye(landscape.dimension, dtype=torch.float64)
    assert relative(factor * operator.matmat(eye), expected) < 1e-10
    basis = torch.linalg.qr(torch.randn(landscape.dimension, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    noise = gradient_noise(landscape, basis)
    inside = (basis.T @ expected @ basis).numpy()
    assert np.allclose(factor * noise.covariance, inside, rtol=1e-9, atol=0)
    assert np.allclose(factor * noise.variances.values, np.diag(inside), rtol=1e-9)
    if not with_replacement:  # (P1) after one step is η² times the covariance of the gradient
        p1 = shuffled_transient_variance(
            np.zeros(3), noise.variances.values, MomentumSGD(1.0), [1.0], [size, 8 - size], num_samples=8
        )
        assert np.allclose(p1[0], np.diag(inside), rtol=1e-9)


def test_finite_curvatures_of_an_attack_that_maximizes_is_the_envelopes():
    # ℓ(w, x) = w·x with x* = argmax over |x| ≤ 1 of a smooth problem: x*(w) = w/|w|, so max ℓ = |w| has curvature
    # (I − ŵŵᵀ)/|w| although the loss at fixed x is linear in w.
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))

        def forward(self, x):
            return x @ self.w

    landscape = Landscape(
        Linear(), torch.tensor([[0.6, 0.8]]), torch.zeros(1), per_sample_loss=lambda outputs, _: outputs
    )
    attack = lambda weights: (weights / weights.norm())[None]  # noqa: E731
    unit = torch.tensor([0.6, 0.8], dtype=torch.float64)
    expected = (torch.eye(2, dtype=torch.float64) - torch.outer(unit, unit)) / 5
    directions = torch.linalg.qr(torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64))[0]
    shares = finite_curvatures(landscape, directions, attack, step=1e-4)
    assert torch.allclose(shares.mean(dim=0), (directions * (expected @ directions)).sum(dim=0), atol=1e-8)
    assert torch.allclose(finite_curvatures(landscape, directions, step=1e-2), torch.zeros(1, 2).double(), atol=1e-12)
    with pytest.raises(ValueError, match="must be > 0"):
        finite_curvatures(landscape, directions, step=0.0)


def test_finite_curvatures_of_a_smooth_network_tend_to_every_samples_own(problem):
    landscape, h, _ = problem
    directions = torch.linalg.eigh(h)[1][:, -3:]
    exact = bilinear_curvatures(landscape, directions, directions)
    assert torch.allclose(finite_curvatures(landscape, directions, step=1e-4), exact, atol=1e-6)
    assert torch.allclose(exact.mean(dim=0), (directions * (h @ directions)).sum(dim=0), atol=1e-10)


def test_a_random_forward_pass_is_refused():
    class Jittery(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = smooth_network()

        def forward(self, x):
            return self.inner(x + 0.1 * torch.randn(x.shape, dtype=x.dtype))

    x, y = toy_data(20)
    with pytest.raises(ValueError, match="must give equal products twice"):
        probe_determinism(HessianOperator(Landscape(Jittery(), x, y), method="double-backward", kept_chunks=0))


def test_overflow_is_named_and_no_number_comes_out():
    x, y = toy_data(20)
    network = smooth_network()
    with torch.no_grad():
        network[2].weight.fill_(float("inf"))
    with pytest.raises(NonFiniteProductError, match="Hessian product is not finite"):
        HessianOperator(Landscape(network, x, y), method="double-backward").matvec(torch.ones(75, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_norm": "running"}, "must be one of .*eval.*train.*frozen-batch"),
        ({"batch_norm": "train"}, "batch_size=...\\)` is needed"),
        ({"batch_norm": "train", "batch_size": 21}, "less than one batch"),
        ({"parameters": ["3.weight"]}, "must name parameters"),
        ({"parameters": []}, "at least one"),
        ({"chunk": 0}, "must be >= 1"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    x, y = toy_data(20)
    with pytest.raises(ValueError, match=message) as raised:
        Landscape(smooth_network(), x, y, **arguments)
    assert "\n" not in str(raised.value)


def test_a_basis_of_another_architecture_is_refused(problem):
    with pytest.raises(ValueError, match="another architecture"):
        HessianOperator(problem[0], method="double-backward").matmat(torch.ones(10, 2, dtype=torch.float64))


def test_curvlinops_agrees_on_hessian_products():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curvlinops = pytest.importorskip("curvlinops")
    network = smooth_network()
    x, y = toy_data(50)
    landscape = Landscape(network, x, y, chunk=16)
    data = [(x[:32], y[:32]), (x[32:], y[32:])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = curvlinops.HessianLinearOperator(network, nn.CrossEntropyLoss(), list(network.parameters()), data)
        vector = torch.randn(landscape.dimension, dtype=torch.float64)
        expected = peer @ vector
    assert relative(HessianOperator(landscape).matvec(vector), expected.detach()) < 1e-12
