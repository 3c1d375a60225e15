"""Eigenpairs against dense eigenvalues, with restarts, warm starts, ghosts, clusters and honest failure."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from empirical.measure.lanczos import (
    LanczosStatus,
    NotConvergedError,
    orthogonalized,
    repeated_eigenpairs,
    top_eigenpairs,
)
from empirical.measure.landscape import Landscape
from empirical.measure.operators import GradientCovarianceOperator, HessianOperator
from empirical.measure.precision import inner_products, norm
from tests.empirical.measure.conftest import trained


class Dense:
    def __init__(self, matrix):
        self.matrix, self.dimension, self.dtype, self.device = matrix, len(matrix), matrix.dtype, matrix.device
        self.products = 0

    def matmat(self, vectors):
        self.products += vectors.shape[1]
        return self.matrix @ vectors


def spread_matrix(size=300, outliers=(200.0, 150.0, 90.0, 60.0, 40.0), low=-5.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(-1, 1, size, dtype=torch.float64)
    values[: len(outliers)] = torch.tensor(outliers, dtype=torch.float64)
    values[-1] = low
    return basis @ torch.diag(values) @ basis.T


def test_top_twenty_of_a_network_agree_with_dense_to_1e_8(problem):
    landscape, h, c = problem
    for operator, matrix in (
        (HessianOperator(landscape, method="double-backward"), h),
        (GradientCovarianceOperator(landscape), c),
    ):
        found = top_eigenpairs(operator, 20, tolerance=1e-9, max_products=3000).require()
        exact = torch.linalg.eigvalsh(matrix).flip(0)[:20]
        assert float((found.largest - exact).abs().max() / exact[0]) < 1e-8
        assert (found.error_bounds * (1 + 1e-6) + 1e-12 >= (found.largest - exact).abs()).all()
        residual = matrix @ found.basis - found.basis * found.largest
        assert torch.allclose(residual.norm(dim=0), found.residuals, atol=1e-9 * float(exact[0]))
        assert float((found.basis.T @ found.basis - torch.eye(20, dtype=torch.float64)).abs().max()) < 1e-10


def convolutional_problem(hidden=49):
    """A convolutional network with batch norm on 8 × 8 images, and its landscape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, hidden),
            nn.Tanh(),
            nn.Linear(hidden, 10),
        ).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(96, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 10, (96,), generator=generator)
    trained(network, x, y, steps=60, rate=0.05)
    return Landscape(network.eval(), x, y, chunk=40)


def dense_top(landscape, count, columns_at_once=64):
    """Largest eigenvalues of H and C by torch.func's forward-over-reverse Hessian and per-sample gradients."""
    shapes = {name: p.shape for name, p in landscape.model.named_parameters()}

    def losses(flat):
        pieces = torch.split(flat, [shapes[name].numel() for name in landscape.names])
        named = {n: p.view(shapes[n]) for n, p in zip(landscape.names, pieces, strict=True)}
        outputs = functional_call(landscape.model, named, (landscape.inputs,))
        return nn.functional.cross_entropy(outputs, landscape.targets, reduction="none")

    gradient = grad(lambda flat: losses(flat).mean())
    rows = vmap(lambda v: jvp(gradient, (landscape.weights,), (v,))[1], chunk_size=columns_at_once)
    hessian = rows(torch.eye(landscape.dimension, dtype=torch.float64))
    gradients = jacrev(losses, chunk_size=columns_at_once)(landscape.weights)
    size = len(hessian)
    symmetric = (0.5 * (hessian + hessian.T)).numpy()
    top = scipy.linalg.eigh(symmetric, eigvals_only=True, subset_by_index=(size - count, size - 1))
    noise = torch.linalg.svdvals((gradients - gradients.mean(dim=0)) / (len(gradients) - 1) ** 0.5)[:count] ** 2
    return top[::-1], noise.numpy()


@pytest.mark.slow
def test_top_twenty_of_a_network_of_4949_weights_agree_with_dense_to_1e_8():
    landscape = convolutional_problem()
    assert landscape.dimension == 4949
    curvature, noise = dense_top(landscape, 20)
    for operator, exact in (
        (HessianOperator(landscape, kept_chunks=3), curvature),
        (GradientCovarianceOperator(landscape), noise),
        (GradientCovarianceOperator(landscape, stored_bytes=0), noise),
    ):
        found = top_eigenpairs(operator, 20, tolerance=1e-6, max_products=3000).require()
        assert np.abs(found.largest.numpy() - exact).max() < 1e-8 * exact[0]


def test_both_ends_come_from_one_run():
    matrix = spread_matrix()
    exact = torch.linalg.eigvalsh(matrix)
    found = top_eigenpairs(Dense(matrix), 5, num_smallest=1, tolerance=1e-9, max_products=2000).require()
    assert torch.allclose(found.largest, exact.flip(0)[:5], rtol=1e-9)
    assert float(found.values[-1]) == pytest.approx(float(exact[0]), rel=1e-8)


def test_an_outlier_is_returned_once_however_long_the_iteration():
    found = top_eigenpairs(Dense(spread_matrix()), 5, tolerance=1e-13, max_products=120, basis_size=60)
    assert torch.allclose(
        found.largest, torch.tensor([200.0, 150.0, 90.0, 60.0, 40.0], dtype=torch.float64), rtol=1e-10
    )


def test_restarting_reaches_the_same_values_as_one_long_basis():
    matrix = spread_matrix(outliers=(10.0, 9.5, 9.0, 8.5, 8.0))
    short = top_eigenpairs(Dense(matrix), 5, tolerance=1e-9, basis_size=9, max_products=3000).require()
    long = top_eigenpairs(Dense(matrix), 5, tolerance=1e-9, basis_size=200, max_products=3000).require()
    assert short.num_restarts > 0 and long.num_restarts == 0
    assert torch.allclose(short.values, long.values, rtol=1e-10)


def test_a_warm_start_needs_fewer_products_after_a_small_change():
    matrix = spread_matrix(outliers=(3.0, 2.8, 2.6, 2.4, 2.2))
    first = top_eigenpairs(Dense(matrix), 5, tolerance=1e-4, max_products=3000).require()
    moved = matrix + 1e-4 * spread_matrix(seed=5) / 200
    cold = top_eigenpairs(Dense(moved), 5, tolerance=1e-4, max_products=3000, seed=7).require()
    warm = top_eigenpairs(Dense(moved), 5, tolerance=1e-4, max_products=3000, start=first.basis, seed=7).require()
    assert warm.num_products < cold.num_products
    assert torch.allclose(warm.values, cold.values, rtol=1e-5)


def test_an_exhausted_krylov_space_goes_on_in_a_new_direction():
    found = top_eigenpairs(Dense(torch.eye(12, dtype=torch.float64)), 4).require()
    assert torch.allclose(found.values, torch.ones(4, dtype=torch.float64))
    rank_two = torch.diag(torch.tensor([3.0, 2.0] + [0.0] * 8, dtype=torch.float64))
    found = top_eigenpairs(Dense(rank_two), 5).require()
    assert torch.allclose(found.values, torch.tensor([3.0, 2.0, 0, 0, 0], dtype=torch.float64), atol=1e-12)


def test_all_pairs_of_a_small_matrix():
    matrix = spread_matrix(size=12, outliers=(5.0, 4.0))
    found = top_eigenpairs(Dense(matrix), 12, tolerance=1e-10).require()
    assert torch.allclose(found.values, torch.linalg.eigvalsh(matrix).flip(0), atol=1e-10)


def test_too_few_products_are_reported_with_the_number_that_converged():
    found = top_eigenpairs(Dense(spread_matrix()), 8, tolerance=1e-9, max_products=14)
    assert found.status is LanczosStatus.NOT_CONVERGED
    with pytest.raises(
        NotConvergedError, match=rf"converged {int(found.converged.sum())} of 8 pairs after 14 products"
    ):
        found.require()


def test_single_precision_keeps_its_digits_over_two_million_weights():
    """Sums over all weights must not be carried in float32: that moved an eigenvalue of 200 to 200.16."""

    class Diagonal:
        dimension, dtype, device = 2_000_000, torch.float32, torch.device("cpu")
        values = torch.rand(dimension, generator=torch.Generator().manual_seed(0)) * 2 - 1
        values[:5] = torch.tensor([200.0, 150.0, 90.0, 60.0, 40.0])

        def matmat(self, vectors):
            return vectors * self.values[:, None]

    found = top_eigenpairs(Diagonal(), 4, tolerance=1e-5)
    exact = torch.tensor([200.0, 150.0, 90.0, 60.0], dtype=torch.float64)
    assert torch.allclose(found.largest, exact, rtol=1e-6)
    basis = found.basis.double()
    assert float((basis.T @ basis - torch.eye(4, dtype=torch.float64)).abs().max()) < 1e-5
    residuals = (Diagonal().matmat(found.basis).double() - basis * found.largest).norm(dim=0)
    assert (residuals < 2 * found.residuals).all()


def test_inner_products_in_single_precision_are_summed_in_double():
    size = 10_000_000
    rows = 1 + torch.rand(1, size, generator=torch.Generator().manual_seed(0))
    column = 1 + torch.rand(size, 1, generator=torch.Generator().manual_seed(1))
    exact = float(rows.double()[0] @ column.double()[:, 0])
    assert float(inner_products(rows, column)) == pytest.approx(exact, rel=1e-7)
    assert norm(rows[0]) == pytest.approx(float(rows.double().norm()), rel=1e-12)


def test_a_vector_nearly_inside_the_basis_is_swept_until_it_is_orthogonal():
    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(400, 12, generator=generator))[0].T.contiguous()
    inside = rows.T @ torch.randn(12, generator=generator)
    vector = inside + 1e-5 * torch.randn(400, generator=generator)
    left, coefficients, size = orthogonalized(vector.clone(), rows)
    assert float((rows @ left).abs().max()) < 1e-5 * size
    assert torch.allclose(rows.T.double() @ coefficients + left.double(), vector.double(), atol=1e-6)
    assert size == pytest.approx(float(left.double().norm()), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_largest": 301}, "number of parameters"),
        ({"num_largest": 0}, "must together lie in"),
        ({"num_largest": 3, "tolerance": 0.0}, "must be > 0"),
        ({"num_largest": 3, "start": torch.ones(5)}, "another architecture"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        top_eigenpairs(Dense(spread_matrix()), **arguments)


@pytest.mark.parametrize("copies", [1, 3, 10])
def test_every_copy_of_a_repeated_eigenvalue_is_found(copies):
    rng = np.random.default_rng(copies)
    basis = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    levels = np.repeat([5.0, 2.0, 1.9, 0.3], copies)
    values = np.r_[levels, 0.2 * rng.random(80 - len(levels))]
    matrix = torch.from_numpy(basis * values @ basis.T)
    wanted = 2 * copies + 1
    found, vectors = repeated_eigenpairs(Dense(matrix), wanted, tolerance=1e-8)
    assert np.allclose(found.numpy(), np.sort(values)[::-1][:wanted], rtol=1e-9)
    assert torch.allclose(vectors.T @ vectors, torch.eye(wanted, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(matrix @ vectors, vectors * found, atol=1e-6)
