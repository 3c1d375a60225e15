"""The simulated updates are torch's, to rounding, from the first step on."""

import numpy as np
import pytest

from theory.model.adaptive import Adam, RMSprop
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.adaptive import AdaptiveRun, _Adam, _RMSprop, simulate_adaptive

CASES = [
    Adam(learning_rate=0.05),
    Adam(learning_rate=0.05, beta1=0.5, beta2=0.9, epsilon=0.1, weight_decay=0.2),
    Adam(learning_rate=0.05, weight_decay=0.2, decoupled_weight_decay=True),
    RMSprop(learning_rate=0.05),
    RMSprop(learning_rate=0.05, smoothing=0.9, momentum=0.7, weight_decay=0.2, epsilon=0.01),
]


def _run(optimizer, **fields) -> AdaptiveRun:
    problem = Quadratic(np.array([0.5, 2.0]), np.array([1.0, 0.3]))
    return AdaptiveRun(**{"problem": problem, "optimizer": optimizer, "replicas": 4, **fields})


@pytest.mark.parametrize("optimizer", CASES, ids=str)
def test_updates_are_torchs(optimizer):
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    common = {"lr": optimizer.learning_rate, "eps": optimizer.epsilon, "weight_decay": optimizer.weight_decay}
    if isinstance(optimizer, RMSprop):
        peer = torch.optim.RMSprop([w], alpha=optimizer.smoothing, momentum=optimizer.momentum, **common)
        step = _RMSprop(_run(optimizer), (1, 2))
    else:
        kind = torch.optim.AdamW if optimizer.decoupled_weight_decay else torch.optim.Adam
        peer = kind([w], betas=(optimizer.beta1, optimizer.beta2), **common)
        step = _Adam(_run(optimizer), (1, 2))
    weights = np.array([[1.0, -2.0]])
    for done, gradient in enumerate(np.random.default_rng(0).normal(size=(50, 2)), start=1):
        w.grad = torch.tensor(gradient)
        peer.step()
        weights, _ = step(weights, gradient[None].copy(), optimizer.learning_rate, done)
        np.testing.assert_allclose(weights[0], w.detach().numpy(), rtol=1e-11)


def test_a_frozen_unit_preconditioner_is_momentum_sgd():
    """RMSprop with D = 1 is heavy ball, so its path is the one of the written-out recursion on the same draws."""
    run = _run(RMSprop(learning_rate=0.1, momentum=0.8), preconditioner=np.ones(2), record_times=(1, 7), replicas=3)
    moments = simulate_adaptive(run, seed=5)
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(5).spawn(1)[0]))
    w, v, optimizer = np.zeros((3, 2)), np.zeros((3, 2)), MomentumSGD(0.1, 0.8)
    for done in range(1, 8):
        g = run.problem.hessian * w + rng.standard_normal((3, 2)) * np.sqrt(run.problem.noise_cov)
        v = optimizer.momentum * v + g
        w = w - optimizer.learning_rate * v
        if done == 1:
            np.testing.assert_allclose(moments.mean[0], w, rtol=1e-12)
    np.testing.assert_allclose(moments.mean[1], w, rtol=1e-12)
    np.testing.assert_allclose(moments.square[1], w**2, rtol=1e-12)


def test_learning_rates_are_used_one_a_step():
    rates = np.array([0.1, 0.2, 0.4])
    run = _run(Adam(beta1=0.0), preconditioner=np.ones(2), learning_rates=rates, record_times=(1, 2, 3), replicas=2)
    moments = simulate_adaptive(run, seed=2)
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(2).spawn(1)[0]))
    w = np.zeros((2, 2))
    for step, rate in enumerate(rates):
        w = w - rate * (run.problem.hessian * w + rng.standard_normal((2, 2)) * np.sqrt(run.problem.noise_cov))
        np.testing.assert_allclose(moments.mean[step], w, rtol=1e-12)


def test_the_noise_has_the_covariance_it_was_given():
    noise = np.array([[1.0, 0.9], [0.9, 1.0]])
    run = AdaptiveRun(
        problem=Quadratic(np.eye(2), noise), optimizer=RMSprop(learning_rate=1.0), replicas=100_000,
        preconditioner=np.ones(2), record_times=(1,),
    )  # fmt: skip
    np.testing.assert_allclose(simulate_adaptive(run, seed=1).second[0], noise, atol=0.03)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"replicas": 1}, "replicas"),
        ({"burn_in": -1}, "burn_in"),
        ({"preconditioner": np.ones(3)}, "preconditioner"),
        ({"record_times": (0,)}, "record_times"),
        ({"learning_rates": np.ones(2), "records": 5}, "learning_rates"),
    ],
)
def test_bad_runs_are_named(fields, word):
    with pytest.raises(ValueError, match=word):
        _run(Adam(), **fields)
