"""Which form torch.optim.SGD follows at a learning-rate change, found by running it; and its schedulers."""

from __future__ import annotations

import numpy as np
import pytest

from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule

torch = pytest.importorskip("torch")

CURVATURES = np.array([0.3, 1.0, 10.0])
DROP, STEPS = 4, 12


def descend(optimizers, noise=None, change=DROP):
    """Weights and buffers after every step of torch.optim.SGD, the rate changed in place as schedulers do."""
    first, second = optimizers
    curvature = torch.tensor(CURVATURES)
    replicas = 1 if noise is None else noise.shape[1]
    weights = (
        torch.ones((replicas, 3), dtype=torch.float64)
        if noise is None
        else torch.zeros((replicas, 3), dtype=torch.float64)
    )
    weights.requires_grad_(True)
    optimizer = torch.optim.SGD(
        [weights],
        lr=first.learning_rate,
        momentum=first.momentum,
        dampening=first.dampening,
        nesterov=first.nesterov,
        weight_decay=first.weight_decay,
    )
    path = []
    for step in range(STEPS if noise is None else len(noise)):
        if step == change:
            optimizer.param_groups[0]["lr"] = second.learning_rate
        optimizer.zero_grad()
        pushed = 0.0 if noise is None else (noise[step] * weights).sum()
        (0.5 * (curvature * weights**2).sum() + pushed).backward()
        optimizer.step()
        buffer = optimizer.state[weights]["momentum_buffer"]
        path.append(np.hstack([weights.detach().numpy(), buffer.numpy()]))
    return np.array(path)


def through_the_drop(optimizers):
    """Mean path of both stretches after torch's own (undampened) first step."""
    first, second = optimizers
    problem = Quadratic(CURVATURES, np.ones(3))
    early = descend(optimizers)[0, 0]
    before = mean_path(problem, first, early, list(range(DROP)))
    after = mean_path(problem, second, before[-1], list(range(1, STEPS - DROP + 1)))
    return np.concatenate([before, after])


@pytest.mark.parametrize(
    "extras",
    [{}, {"dampening": 0.4}, {"nesterov": True}, {"weight_decay": 0.05}, {"nesterov": True, "weight_decay": 0.05}],
    ids=str,
)
def test_torch_follows_the_pytorch_form_through_a_drop(extras):
    optimizers = tuple(MomentumSGD(rate, 0.9, **extras) for rate in (0.1, 0.01))
    np.testing.assert_allclose(through_the_drop(optimizers), descend(optimizers)[:, 0], rtol=1e-12, atol=1e-14)


def test_torch_does_not_follow_the_position_form():
    pytorch = tuple(MomentumSGD(rate, 0.9) for rate in (0.1, 0.01))
    found = descend(pytorch)[:, 0]
    first, second = (MomentumSGD(rate, 0.9, form="position") for rate in (0.1, 0.01))
    problem = Quadratic(CURVATURES, np.ones(3))
    start = np.concatenate([found[0, :3], -0.1 * found[0, 3:]])
    before = mean_path(problem, first, start, list(range(DROP)))
    np.testing.assert_allclose(before[:, :3], found[:DROP, :3], rtol=1e-12)  # the same until the rate changes
    after = mean_path(problem, second, before[-1], list(range(1, STEPS - DROP + 1)))
    assert np.abs(after[:, :3] - found[DROP:, :3]).max() > 0.1


def test_the_spread_of_torch_runs_shrinks_as_predicted_and_not_as_the_position_form_says():
    before, after = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)
    replicas, burn_in, steps = 4000, 80, 10
    noise = torch.randn((burn_in + steps, replicas, 3), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    path = descend((before, after), noise, change=burn_in)
    variance = path[[burn_in - 1, burn_in + steps - 1]][:, :, 1].var(axis=1)  # λ = 1
    ratios = {}
    for form in ("pytorch", "position"):
        one, two = (MomentumSGD(rate, 0.9, form=form) for rate in (0.1, 0.01))
        law = transient_covariance(Quadratic(CURVATURES, np.ones(3)), one, two, [0, steps]).value[:, 1, 1]
        ratios[form] = law[1] / law[0]
    assert ratios["pytorch"] == pytest.approx(0.48, abs=0.005) and ratios["position"] == pytest.approx(3.28, abs=0.005)
    # Two variances of 4000 draws each: a ratio is known to 3.2 %; 5 of those.
    assert variance[1] / variance[0] == pytest.approx(ratios["pytorch"], rel=0.16)
    assert variance[1] / variance[0] < ratios["position"] / 5


def torch_rates(make, steps, rate=0.1):
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=rate, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULERS = {
    "step": (lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 7], 0.1), Schedule.step(0.1, (3, 7), 0.1), 12),
    "linear": (
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=9),
        Schedule.linear(0.1, 0.01, 9),
        14,
    ),
    "cosine": (
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=1e-3),
        Schedule.cosine(0.1, 40, end=1e-3),
        40,
    ),
    "cyclic": (
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=4, step_size_down=6),
        Schedule.cyclic(0.01, 0.1, 4, 6),
        35,
    ),
    "warm restarts": (
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2, eta_min=1e-3),
        Schedule.warm_restarts(0.1, 4, 2, end=1e-3),
        40,
    ),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_schedule_is_its_namesake_in_torch(kind):
    make, schedule, steps = SCHEDULERS[kind]
    np.testing.assert_allclose(schedule.rates(steps), torch_rates(make, steps), rtol=1e-9)
