"""Assumptions as tests: ``pytest test_assumptions.py`` where the package is installed."""

import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def regression():
    """Least squares at its optimum: a quadratic loss with noise that follows its curvature."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, 6, dtype=torch.float64)
    y = x.sum(dim=1, keepdim=True) + torch.randn(400, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(6, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return model, [(x[i : i + 40], y[i : i + 40]) for i in range(0, 400, 40)]


def squared_error(model, batch):
    """One loss a sample, shape (B,)."""
    x, y = batch
    return 0.5 * (model(x) - y)[:, 0] ** 2


@pytest.mark.spikeshrink(learning_rate=0.1, momentum=0.9, top_k=6)
def test_noise_commutes(assumptions, regression):
    """What the theory needs of this model."""
    model, batches = regression
    report = assumptions(model, squared_error, batches)
    assert report.commutativity.supported
    assert report.stability.supported
    assert report.optimum.supported
