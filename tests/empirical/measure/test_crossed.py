"""Directions found by one half of the samples for the other: neither flattered nor turned round."""

import numpy as np
import torch
from torch import nn

from empirical.measure.crossed import crossed_directions, halves
from empirical.measure.intervals import variance_estimates
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.operators import HessianOperator, project_gradients
from empirical.measure.posterior import price_interval
from empirical.measure.subject import quiet, subject
from theory.model.optimizer import MomentumSGD

DIMENSION, COUNT = 12, 120


def squared(outputs, targets):
    return 0.5 * (outputs[:, 0] - targets) ** 2


def flat(number):
    """Least squares at its solution, all curvatures 1: a direction that stands out does so by chance."""
    g = torch.Generator().manual_seed(number)
    x = torch.randn(COUNT, DIMENSION, generator=g, dtype=torch.float64)
    y = torch.randn(COUNT, generator=g, dtype=torch.float64)
    model = nn.Linear(DIMENSION, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    return model, x, y


def slopes_of(landscape, basis):
    return project_gradients(landscape, basis, method="per-sample-gradients").values.cpu().numpy()


def measured(number, k=3):
    model, x, y = flat(number)
    with quiet(model):
        landscape = subject(model, squared, [(x, y)]).landscape
        basis = top_eigenpairs(HessianOperator(landscape, method="double-backward"), k, seed=number).basis
        crossed = np.empty((COUNT, k))
        for part, directions in crossed_directions(landscape, basis, seed=number):
            crossed[part.numpy()] = slopes_of(landscape.subset(part), directions)
        return slopes_of(landscape, basis), crossed


def test_noise_along_directions_of_the_same_samples_is_too_large_and_crossed_is_not():
    pairs = [measured(number) for number in range(40)]
    same, crossed = (np.array([rows[i].var(axis=0, ddof=1)[0] for rows in pairs]) for i in (0, 1))
    error = crossed.std(ddof=1) / np.sqrt(len(crossed))
    # Gradients are residual times input, independent: variance 1 along any direction but those the inputs chose.
    assert abs(crossed.mean() - 1) < 4 * error and error < 0.06
    assert same.mean() > 1.2 and same.mean() - 1 > 4 * same.std(ddof=1) / np.sqrt(len(same))
    held = {True: 0, False: 0}
    for number, (own, other) in enumerate(pairs):
        for key, rows in ((False, own), (True, other)):
            found = variance_estimates(rows, rng=np.random.default_rng(number))
            held[key] += int(((found.low <= 1) & (found.high >= 1)).sum())
    assert held[True] >= 0.88 * 120 > held[False]


def test_noise_is_not_made_diagonal_by_the_samples_that_found_the_basis():
    """Noise and curvature of the same inputs: their chance correlations cancel in the basis that they chose."""
    spread = {False: [], True: []}
    for number in range(40):
        for key, rows in zip((False, True), measured(number), strict=True):
            r = np.corrcoef(rows, rowvar=False)[np.triu_indices(3, 1)]
            spread[key].append(float((r**2).mean()))
    # Rows that know nothing of the basis have r² = (kurtosis of the slopes)/N on average, 3/N here.
    assert np.mean(spread[True]) > 1.1 * np.mean(spread[False])
    assert 0.7 < np.mean(spread[True]) * COUNT / 3 < 1.4
    low = price_interval(measured(0)[1], np.array([1.0, 0.9, 0.8]), 1 / 8, MomentumSGD(0.1, 0.9))[1]
    assert low == 0.0


def test_pairs_follow_order_and_sign_and_halves_share_nothing():
    model, x, y = flat(0)
    x = x * torch.logspace(0, -1.5, DIMENSION, dtype=torch.float64)
    with quiet(model):
        landscape = subject(model, squared, [(x, y)]).landscape
        basis = top_eigenpairs(HessianOperator(landscape, method="double-backward"), 3).basis
        swapped = -basis[:, [2, 0, 1]]
        found = crossed_directions(landscape, swapped, seed=4)
    first, second = halves(COUNT, 4)
    assert sorted(torch.cat([first, second]).tolist()) == list(range(COUNT)) and len(first) == len(second)
    for (part, directions), expected in zip(found, (first, second), strict=True):
        assert torch.equal(part, expected)
        overlap = directions.T @ swapped
        assert (overlap.diagonal() > 0.7).all(), overlap
        other = second if torch.equal(part, first) else first
        h = x[other].T @ x[other] / len(other)
        top = torch.linalg.eigh(h)[1].flip(1)[:, :3]
        assert torch.allclose((directions.T @ top).abs().sum(dim=0), torch.ones(3, dtype=torch.float64), atol=2e-2)
