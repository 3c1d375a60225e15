"""Which form torch.optim.SGD follows at a learning-rate change, found by running it; and its schedulers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from theory.closed_form.propagate import propagate
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import stationary_variance
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD, ParameterGroups
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.simulate import Segment, Simulation, simulate

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


GRID = [
    MomentumSGD(0.1, momentum, dampening=dampening, nesterov=nesterov, weight_decay=decay)
    for momentum in (0.0, 0.5, 0.9)
    for dampening in (0.0, 0.4)
    for nesterov in (False, True)
    for decay in (0.0, 0.05)
    if not nesterov or (momentum and not dampening)
]
OPTIMUM = np.array([1.0, -2.0, 0.5])


def torch_path(optimizer, rates, noise, *, momenta=None, decays=None, groups=None):
    """Weights (S, R, m) after every step of torch.optim.SGD from 0, its settings changed in place before each step."""
    curvature, place = torch.tensor(CURVATURES), torch.tensor(OPTIMUM)
    columns = [torch.zeros((noise.shape[1], 1), dtype=torch.float64, requires_grad=True) for _ in CURVATURES]
    factors = [(1.0, 1.0)] * 3 if groups is None else list(zip(groups.rates(), groups.decays(), strict=True))
    descent = torch.optim.SGD(
        [
            {"params": [column], "lr": optimizer.learning_rate * rate, "weight_decay": optimizer.weight_decay * decay}
            for column, (rate, decay) in zip(columns, factors, strict=True)
        ],
        lr=optimizer.learning_rate,
        momentum=optimizer.momentum,
        dampening=optimizer.dampening,
        nesterov=optimizer.nesterov,
    )
    path = []
    for step, rate in enumerate(rates):
        for group, (rate_factor, decay_factor) in zip(descent.param_groups, factors, strict=True):
            group["lr"] = float(rate) * rate_factor
            if momenta is not None:
                group["momentum"] = float(momenta[step])
            if decays is not None:
                group["weight_decay"] = float(decays[step]) * decay_factor
        descent.zero_grad()
        weights = torch.cat(columns, dim=1)
        (0.5 * (curvature * (weights - place) ** 2).sum() + (torch.tensor(noise[step]) * weights).sum()).backward()
        descent.step()
        path.append(torch.cat(columns, dim=1).detach().numpy())
    return np.array(path)


def torch_law(optimizer, rates, **settings):
    """Mean and variances of w after every step, from a run without noise and one impulse of noise a step."""
    impulses = np.zeros((len(rates), len(rates) + 1, 3))
    impulses[np.arange(len(rates)), np.arange(len(rates)) + 1] = 1.0
    path = torch_path(optimizer, rates, impulses, **settings)
    return path[:, 0], ((path[:, 1:] - path[:, :1]) ** 2).sum(axis=1)


@pytest.mark.parametrize("optimizer", GRID, ids=lambda o: f"{o.momentum}-{o.dampening}-{o.nesterov}-{o.weight_decay}")
def test_every_path_is_torchs_over_the_whole_option_grid(optimizer):
    """Mean and covariance from torch's own start through a change of rate: four ways to say it, one law."""
    problem = Quadratic(CURVATURES, np.ones(3), OPTIMUM)
    rates = np.where(np.arange(STEPS) < DROP, 0.1, 0.01)
    mean, variance = torch_law(optimizer, rates)
    slower = replace(optimizer, learning_rate=0.01)
    rest, early, late = np.zeros((3, 3)), list(range(1, DROP + 1)), list(range(1, STEPS - DROP + 1))
    start = np.zeros(3)
    first = mean_path(problem, optimizer, start, early, undampened_first_step=True)
    second = mean_path(problem, slower, first[-1], late)
    np.testing.assert_allclose(np.concatenate([first, second])[:, :3], mean, rtol=1e-11, atol=1e-13)
    law = transient_covariance(problem, None, optimizer, early, rest, undampened_first_step=True)
    after = transient_covariance(problem, None, slower, late, law.state()[-1])
    spread = np.einsum("kii->ki", np.concatenate([law.value, after.value]))
    np.testing.assert_allclose(spread, variance, rtol=1e-11)
    along = propagate(
        problem, optimizer, Schedule.table(rates), [*range(1, STEPS + 1)], rest, start, undampened_first_step=True
    )
    np.testing.assert_allclose(along.mean[:, :3], mean, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(np.einsum("kii->ki", along.value), variance, rtol=1e-11)
    simulation = Simulation(
        problem=replace(problem, noise_cov=np.zeros(3)),
        segments=(Segment(optimizer=optimizer, steps=STEPS, learning_rates=rates),),
        replicas=1,
        record_times=tuple(range(1, STEPS + 1)),
        undampened_first_step=True,
    )
    np.testing.assert_allclose(simulate(simulation, seed=0).mean[:, :3], mean, rtol=1e-11, atol=1e-13)


def test_dampening_without_momentum_is_ignored_as_torch_does():
    problem = Quadratic(CURVATURES, np.ones(3))
    plain, dampened = MomentumSGD(0.1), MomentumSGD(0.1, dampening=0.5)
    expected = 0.1 / (CURVATURES * (2 - 0.1 * CURVATURES))
    for optimizer in (plain, dampened):
        np.testing.assert_allclose(stationary_variance(problem, optimizer), expected, rtol=1e-14)
        assert largest_stable_learning_rate(10.0, optimizer) == pytest.approx(0.2)


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_cycle_of_rate_momentum_and_decay_is_torchs(nesterov):
    optimizer = MomentumSGD(0.004, 0.95, nesterov=nesterov, weight_decay=0.1)
    steps = 40
    rate, momentum = Schedule.one_cycle(0.004, 0.1, 4e-7, steps), Schedule.one_cycle(0.95, 0.85, 0.95, steps)
    weights = torch.zeros(1, requires_grad=True)
    reference = torch.optim.SGD([weights], lr=0.1, momentum=0.9, nesterov=nesterov)
    for straight in (False, True):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            reference, max_lr=0.1, total_steps=steps, anneal_strategy="linear" if straight else "cos"
        )
        for step in range(steps):
            group = reference.param_groups[0]
            ours = [replace(path, linear=straight).rates(steps)[step] for path in (rate, momentum)]
            np.testing.assert_allclose(ours, [group["lr"], group["momentum"]], rtol=1e-9)
            reference.step()
            if step < steps - 1:
                scheduler.step()
    decays = np.linspace(0.1, 0.0, steps)
    mean, variance = torch_law(optimizer, rate.rates(steps), momenta=momentum.rates(steps), decays=decays)
    problem = Quadratic(CURVATURES, np.ones(3), OPTIMUM)
    along = propagate(
        problem,
        optimizer,
        rate,
        [*range(1, steps + 1)],
        np.zeros((3, 3)),
        np.zeros(3),
        momentum=momentum,
        weight_decay=decays,
    )
    np.testing.assert_allclose(along.mean[:, :3], mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.einsum("kii->ki", along.value), variance, rtol=1e-10)
    simulation = Simulation(
        problem=replace(problem, noise_cov=np.zeros(3)),
        segments=(
            Segment(
                optimizer=optimizer,
                steps=steps,
                learning_rates=rate.rates(steps),
                momenta=momentum.rates(steps),
                weight_decays=decays,
            ),
        ),
        replicas=1,
        record_times=tuple(range(1, steps + 1)),
    )
    for engine_path in ("diagonal", "dense"):
        found = simulate(simulation, seed=0, path=engine_path).mean[:, :3]
        np.testing.assert_allclose(found, mean, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_parameter_groups_are_torchs(nesterov):
    """No decay on one coordinate, a fifth of the rate on another, through a schedule that scales every group."""
    groups = ParameterGroups(rate_factors=[1.0, 0.2, 0.5], decay_factors=[1.0, 0.0, 2.0])
    optimizer = MomentumSGD(0.1, 0.9, nesterov=nesterov, weight_decay=0.3, groups=groups)
    rates = np.linspace(0.1, 0.02, STEPS)
    mean, variance = torch_law(optimizer, rates, groups=groups)
    problem = Quadratic(CURVATURES, np.ones(3), OPTIMUM)
    along = propagate(problem, optimizer, Schedule.table(rates), [*range(1, STEPS + 1)], np.zeros((3, 3)), np.zeros(3))
    np.testing.assert_allclose(along.mean[:, :3], mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.einsum("kii->ki", along.value), variance, rtol=1e-10)
