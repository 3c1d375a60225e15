"""Is a network's run stationary? What `torch.optim.SGD` leaves behind, fed to the fluctuation–dissipation test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from theory.judge.fluctuation import FluctuationStatus, first_fluctuation_dissipation

#: Weight decay alone forgets in (1−μ)/(ηδ) = 200 steps: 600 are training, the end of 6,000 is not.
RATE, MOMENTUM, DECAY = 0.01, 0.9, 0.05


@pytest.fixture(scope="module")
def log():
    """One run of a small network on regression data: w·g and |v|² of every step, weight decay in the gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 5, generator=generator, dtype=torch.float64)
    y = torch.sin(x[:, :1]) + 0.3 * torch.randn(256, 1, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    overlap, squared = [], []
    for _ in range(6000):
        batch = torch.randint(256, (16,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
        with torch.no_grad():
            used = sum(float((p * (p.grad + DECAY * p)).sum()) for p in model.parameters() if p.grad is not None)
        optimizer.step()
        overlap.append(used)
        squared.append(sum(float((s["momentum_buffer"] ** 2).sum()) for s in optimizer.state.values()))
    return np.array(overlap), np.array(squared)


def test_training_from_its_start_is_not_stationary(log):
    overlap, squared = (part[:600] for part in log)
    assert first_fluctuation_dissipation(overlap, squared, RATE, momentum=MOMENTUM).p_value < 1e-3


def test_the_end_of_a_long_run_is(log):
    overlap, squared = (part[2000:] for part in log)
    result = first_fluctuation_dissipation(overlap, squared, RATE, momentum=MOMENTUM)
    assert result.p_value > 1e-2, result
    assert result.ratio == pytest.approx(1, abs=5 * result.standard_error) and result.standard_error < 0.05
    assert result.status is FluctuationStatus.OK


def test_forgetting_the_momentum_is_found_out(log):
    overlap, squared = (part[2000:] for part in log)
    assert first_fluctuation_dissipation(overlap, squared, RATE).p_value < 1e-6
