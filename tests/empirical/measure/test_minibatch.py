"""What the mini-batch law needs of a network, against dense per-sample Hessians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian, vmap

from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.locality import local_law
from empirical.measure.minibatch import sample_law
from empirical.measure.operators import HessianOperator, own_couplings, projected_curvatures, unit_gradients

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (30,), generator=generator)
    landscape = Landscape(model, inputs, targets, chunk=7)

    def loss(weights, x, y):
        outputs = functional_call(landscape.model, landscape.unflatten(weights), (x[None],))
        return torch.nn.functional.cross_entropy(outputs, y[None])

    with torch.no_grad():
        dense = vmap(hessian(loss), in_dims=(None, 0, 0))(landscape.weights, inputs, targets)
    values, vectors = torch.linalg.eigh(dense.mean(dim=0))
    return landscape, dense, values.flip(0), vectors.flip(1)


def test_per_sample_curvatures_are_the_dense_ones(problem):
    landscape, dense, _, vectors = problem
    basis, others = vectors[:, :4], vectors[:, 10:13]
    expected = torch.einsum("pi,npq,qj->nij", basis, dense, basis)
    assert torch.allclose(projected_curvatures(landscape, basis), expected, atol=1e-12)
    expected = torch.einsum("pi,npq,qj->nij", basis, dense, others)
    assert torch.allclose(projected_curvatures(landscape, basis, others), expected, atol=1e-12)


def test_own_couplings_are_the_dense_ones(problem):
    landscape, dense, _, vectors = problem
    basis = vectors[:, :4]
    slopes = unit_gradients(landscape, torch.arange(30))
    outside = slopes - slopes.mean(dim=0)
    outside = outside - outside @ basis @ basis.T
    expected = torch.einsum("pi,npq,nq->ni", basis, dense, outside)
    assert torch.allclose(own_couplings(landscape, basis), expected, atol=1e-12)


def test_the_outside_coupling_of_many_probes_is_the_dense_one(problem):
    landscape, dense, _, vectors = problem
    basis, rest = vectors[:, :4], vectors[:, 4:]
    law = sample_law(landscape, basis, probes=300)
    slopes = unit_gradients(landscape, torch.arange(30)) @ rest
    covariance = torch.cov(slopes.T)
    couplings = torch.einsum("pi,npq,qj->nij", basis, dense, rest)
    couplings = couplings - couplings.mean(dim=0)
    expected = torch.einsum("nia,ab,njb->ij", couplings, covariance, couplings).numpy() / 29
    # relative error √(2/300) of each entry, four standard errors
    assert np.linalg.norm(law.outside.coupling - expected) < 0.33 * np.linalg.norm(expected)
    curvature = float((covariance @ (rest.T @ dense.mean(dim=0) @ rest)).trace() / covariance.trace())
    assert law.outside.curvature == pytest.approx(curvature, rel=0.25)


def test_the_whole_space_has_no_outside(problem):
    landscape, _, _, vectors = problem
    law = sample_law(landscape, vectors)
    assert law.curvatures.shape == (30, landscape.dimension, landscape.dimension)
    assert not law.outside.coupling.any()


def test_local_laws_are_the_dense_ones_at_the_moved_weights(problem):
    landscape, _, _, _ = problem
    pairs = top_eigenpairs(HessianOperator(landscape), 3, tolerance=1e-8).require()
    generator = torch.Generator().manual_seed(1)
    places = landscape.weights + 0.1 * torch.randn(2, landscape.dimension, generator=generator, dtype=torch.float64)
    found = local_law(landscape, pairs.basis, places)
    for row, place in enumerate(places):
        moved = landscape.at(place)
        product = HessianOperator(moved).matmat(pairs.basis)
        assert np.allclose(found.curvatures[row], (pairs.basis * product).sum(dim=0).numpy(), rtol=1e-9)
        slopes = unit_gradients(moved, torch.arange(30)) @ pairs.basis
        assert np.allclose(found.slope_variances[row], slopes.var(dim=0).numpy(), rtol=1e-9)
        assert np.allclose(found.mean_slopes[row], slopes.mean(dim=0).numpy(), rtol=1e-9)
    shifted = local_law(landscape, pairs.basis, places[:1], attack=lambda weights: landscape.inputs + 0.1)
    assert not np.allclose(shifted.curvatures, found.curvatures[:1], rtol=1e-3)
