"""The predicted posterior against its limits, against real permutations, and the ensemble against the trainer."""

import dataclasses

import numpy as np
import pytest
import torch

from empirical.data.resident import epoch_order, load_data
from empirical.measure.ensemble import branch, why_not_vectorized
from empirical.measure.landscape import Landscape
from empirical.measure.objective import training_landscape
from empirical.measure.operators import HessianOperator
from empirical.measure.posterior import price_interval, shuffled_transient_variance, trajectory_variance
from empirical.settings.awp import AWP
from empirical.settings.measuring import Measurement
from empirical.settings.presets import make_training
from empirical.training.checkpoint import load_checkpoint
from empirical.training.run import train
from theory.closed_form.correlation_time import variance_correlation_time
from theory.closed_form.minibatch_moments import minibatch_second_moments
from theory.closed_form.shuffling import epoch_shuffling_factor
from theory.closed_form.stationary import stationary_variance
from theory.closed_form.transient import transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

LAM = np.array([3.0, 0.5, 0.05])
GAMMA = np.array([2.0, 1.0, 0.3])


@pytest.mark.parametrize(
    "optimizer",
    [
        MomentumSGD(0.1, 0.9),
        MomentumSGD(0.1, 0.9, nesterov=True),
        MomentumSGD(0.2, 0.5, weight_decay=0.01),
        MomentumSGD(0.1, 0.5, dampening=0.3),
    ],
)
def test_white_noise_is_the_theorys_transient(optimizer):
    steps = 40
    found = shuffled_transient_variance(
        LAM, GAMMA, optimizer, np.full(steps, optimizer.learning_rate), [8] * 5, num_samples=40, repeated_share=0.0
    )
    problem = Quadratic(LAM, GAMMA / 8)
    expected = transient_covariance(problem, None, optimizer, list(range(1, steps + 1)), np.zeros((3, 3))).value
    assert np.allclose(found, np.einsum("kii->ki", expected), rtol=1e-9)


def test_long_runs_reach_the_stationary_law_and_the_shuffling_factor():
    optimizer, steps, batches = MomentumSGD(0.1, 0.9), 3000, 10
    problem = Quadratic(LAM[:2], GAMMA[:2] / 4)
    white = shuffled_transient_variance(
        LAM[:2],
        GAMMA[:2],
        optimizer,
        np.full(steps, 0.1),
        [4] * batches,
        num_samples=40,
        repeated_share=0.0,
        record=[steps],
    )
    law = stationary_variance(problem, optimizer)
    assert np.allclose(white[0], law, rtol=1e-6)
    shuffled = shuffled_transient_variance(
        LAM[:2], GAMMA[:2], optimizer, np.full(steps, 0.1), [4] * batches, num_samples=40, record=[steps]
    )
    # S² has divisor N − 1, so batch means have variance S² (1/B − 1/N): (1 − 1/M) of the white S²/B.
    factor = epoch_shuffling_factor(0.1, 0.9, LAM[:2], batches, "end") * (1 - 1 / batches)
    assert np.allclose(shuffled[0] / law, factor, rtol=1e-6)


def test_it_is_the_law_of_real_batches_where_all_samples_have_one_curvature():
    rng = np.random.default_rng(1)
    slopes, mixing = rng.exponential(size=(22, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    slopes -= slopes.mean(axis=0)
    optimizer, rates = MomentumSGD(0.1, 0.9, nesterov=True, weight_decay=0.1), np.r_[np.full(5, 0.1), np.full(5, 0.03)]
    law = minibatch_second_moments(
        slopes @ mixing.T, [(mixing * LAM) @ mixing.T] * 22, optimizer, rates, [8, 8, 6], start_position=1
    )
    found = shuffled_transient_variance(
        LAM, slopes.var(axis=0, ddof=1), optimizer, rates, [8, 8, 6], num_samples=22, start_position=1
    )
    assert np.allclose(np.einsum("ik,tij,jk->tk", mixing, law.covariance, mixing), found, rtol=1e-10)


def test_curvature_and_noise_that_change_from_step_to_step_match_simulated_permutations():
    rng = np.random.default_rng(3)
    slopes = rng.standard_normal(24)
    slopes -= slopes.mean()
    steps, optimizer = 9, MomentumSGD(0.2, 0.8)
    lam, scale = np.linspace(0.5, 2.0, steps), np.linspace(1.0, 0.4, steps)
    found = shuffled_transient_variance(
        lam[:, None],
        (scale**2 * slopes.var(ddof=1))[:, None],
        optimizer,
        np.full(steps, 0.2),
        [8, 8, 8],
        num_samples=24,
        record=[3, 8, 9],
    )
    replicas = 60_000
    weight, velocity, out = np.zeros(replicas), np.zeros(replicas), {}
    for step in range(steps):
        if step % 3 == 0:
            orders = rng.permuted(np.tile(slopes, (replicas, 1)), axis=1)
        batch = orders[:, 8 * (step % 3) : 8 * (step % 3 + 1)].mean(axis=1)
        velocity = 0.8 * velocity + lam[step] * weight + scale[step] * batch
        weight = weight - 0.2 * velocity
        out[step + 1] = weight.var()
    # 60,000 replicas fix a variance to 0.6 %; five standard errors
    assert found[:, 0] == pytest.approx([out[3], out[8], out[9]], rel=0.03)


def test_uneven_batches_begun_mid_epoch_match_simulated_permutations():
    rng = np.random.default_rng(0)
    slopes = rng.standard_normal(22)
    slopes -= slopes.mean()
    sizes, optimizer, steps, start = [8, 8, 6], MomentumSGD(0.2, 0.8), 9, 1
    rates = np.r_[np.full(5, 0.2), np.full(4, 0.05)]
    found = shuffled_transient_variance(
        [1.0], [slopes.var(ddof=1)], optimizer, rates, sizes, num_samples=22, start_position=start, record=[4, 9]
    )
    replicas = 60_000
    weight, velocity, out = np.zeros(replicas), np.zeros(replicas), {}
    edges = np.cumsum([0, *sizes])
    orders = rng.permuted(np.tile(slopes, (replicas, 1)), axis=1)
    for step in range(steps):
        position = (start + step) % 3
        if position == 0:
            orders = rng.permuted(np.tile(slopes, (replicas, 1)), axis=1)
        gradient = weight + orders[:, edges[position] : edges[position + 1]].mean(axis=1)
        velocity = 0.8 * velocity + gradient
        weight = weight - rates[step] * velocity
        out[step + 1] = weight.var()
    # 60,000 replicas fix a variance to 0.6 %; five standard errors
    assert out[4] == pytest.approx(found[0, 0], rel=0.03)
    assert out[9] == pytest.approx(found[1, 0], rel=0.03)
    white = shuffled_transient_variance(
        [1.0],
        [slopes.var(ddof=1)],
        optimizer,
        rates,
        sizes,
        num_samples=22,
        start_position=start,
        record=[9],
        repeated_share=0.0,
    )
    assert abs(white[0, 0] / out[9] - 1) > 0.2  # the white-noise formula is told apart


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [8, 8]}, "add up to 40"),
        ({"repeated_share": 1.5}, r"lie in \[0, 1\]"),
        ({"start_position": 5}, r"lie in \[0, 4\]"),
        ({"optimizer": MomentumSGD(0.1, 0.9, form="position")}, "PyTorch's form"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    arguments = {"optimizer": MomentumSGD(0.1, 0.9), "batch_sizes": [8] * 5} | changes
    with pytest.raises(ValueError, match=message):
        shuffled_transient_variance(
            LAM,
            GAMMA,
            arguments.pop("optimizer"),
            np.full(5, 0.1),
            arguments.pop("batch_sizes"),
            num_samples=40,
            **arguments,
        )


def ar_two(lam, optimizer, steps, rng, modes=1):
    noise = rng.standard_normal((steps, modes))
    weight, velocity, out = np.zeros(modes), np.zeros(modes), []
    for step in range(steps):
        velocity = optimizer.momentum * velocity + lam * weight + noise[step]
        weight = weight - optimizer.learning_rate * velocity
        out.append(weight.copy())
    return np.array(out)


def test_a_stationary_trajectory_has_the_predicted_variance_within_its_effective_samples():
    optimizer, rng = MomentumSGD(0.1, 0.9), np.random.default_rng(1)
    scores = []
    for _ in range(60):
        positions = ar_two(2.0, optimizer, 1200, rng)[200:]
        found = trajectory_variance(positions, np.array([2.0]), optimizer, weight_norms=np.ones(1000))
        law = stationary_variance(Quadratic(np.array([2.0]), np.array([1.0])), optimizer)
        scores.append((np.log(found.variances[0] / law[0])) / np.sqrt(2 / found.effective_samples[0]))
        assert found.applicable[0]
    assert abs(np.mean(scores)) < 0.6
    assert 0.6 < np.std(scores) < 1.6


@pytest.mark.parametrize("curvature", [2.0, 6.0, 18.0])
def test_a_variance_is_worth_as_many_draws_as_its_correlation_time_says(curvature):
    """τ₂ of the closed form, also where the correlation swings through zero long before it has died out."""
    optimizer = MomentumSGD(0.1, 0.9)
    positions = ar_two(curvature, optimizer, 1200, np.random.default_rng(3), modes=60)[200:]
    found = trajectory_variance(positions, np.full(60, curvature), optimizer, weight_norms=np.ones(1000))
    (time,) = variance_correlation_time(np.array([curvature]), optimizer)
    assert found.effective_samples.mean() == pytest.approx(1000 / time, rel=0.25)


def test_a_mode_that_never_moves_is_worth_one_draw():
    positions = np.stack([np.random.default_rng(0).standard_normal(300), np.zeros(300)], axis=1)
    found = trajectory_variance(positions, np.ones(2), MomentumSGD(0.1, 0.9), weight_norms=np.ones(300))
    assert found.effective_samples[1] == 1.0 and 200 < found.effective_samples[0] <= 300


def test_slow_modes_and_drifting_norms_are_not_applicable():
    optimizer = MomentumSGD(0.01, 0.9)
    positions = np.random.default_rng(0).standard_normal((300, 2))
    found = trajectory_variance(positions, np.array([1.0, 1e-3]), optimizer, weight_norms=np.ones(300))
    assert found.applicable.tolist() == [True, False]
    drifting = trajectory_variance(positions, np.array([1.0, 1e-3]), optimizer, weight_norms=np.linspace(1, 1.2, 300))
    assert not drifting.applicable.any()
    assert drifting.norm_drift == pytest.approx(np.log(1.2))


def test_a_linear_drift_does_not_count_as_variance():
    optimizer, rng = MomentumSGD(0.1, 0.9), np.random.default_rng(1)
    positions = ar_two(2.0, optimizer, 1000, rng)
    drifted = positions + 50 * np.linspace(0, 1, 1000)[:, None]
    one = trajectory_variance(positions, np.array([2.0]), optimizer, weight_norms=np.ones(1000))
    two = trajectory_variance(drifted, np.array([2.0]), optimizer, weight_norms=np.ones(1000))
    assert one.variances == pytest.approx(two.variances, rel=1e-9)


def test_the_price_interval_tells_independent_noise_from_correlated():
    rng = np.random.default_rng(0)
    optimizer = MomentumSGD(0.1, 0.9)
    independent = rng.standard_normal((2000, 3))
    mixed = independent @ np.array([[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1]])
    low_price = price_interval(independent, LAM, 1 / 32, optimizer)
    high_price = price_interval(mixed, np.array([3.0, 2.9, 0.05]), 1 / 32, optimizer)
    assert low_price[2] < 0.01
    assert high_price[1] > low_price[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    setting = make_training(
        "smoke", "at", {"epochs": 4, "attack_batch_norm": "batch", "momentum": 0.8, "masking_probe": 0}
    )
    folder = train(setting, seed=0, out=out)
    path = folder.checkpoints / "epoch-0002.pt"
    return load_checkpoint(path), load_data(setting.data)


@pytest.mark.parametrize(
    "method",
    [None, AWP(gamma=0.02), AWP(gamma=0.02, weight_decay="original")],
    ids=["at", "awp", "awp-original-decay"],
)
@pytest.mark.parametrize("order", ["run", "replacement"])
def test_a_vectorized_replica_is_the_trainers_branch(run, method, order):
    checkpoint, data = run
    setting = checkpoint.setting
    setting = dataclasses.replace(setting, method=dataclasses.replace(setting.method, awp=method))
    checkpoint = dataclasses.replace(checkpoint, setting=setting)
    size = sum(p.numel() for p in checkpoint.model.parameters())
    basis = torch.linalg.qr(torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    rates = np.array([0.1, 0.1, 0.1, 0.01, 0.01])
    shared = {"seeds": [11, 12], "learning_rates": rates, "record": [1, 3, 5], "order": order}
    one = branch(checkpoint, data, basis, method="vectorized", **shared)
    two = branch(checkpoint, data, basis, method="sequential", **shared)
    # float32 sums in another order, five steps
    assert np.allclose(one.weights, two.weights, atol=2e-5)
    assert np.allclose(one.velocity, two.velocity, atol=2e-4)
    assert np.allclose(one.losses, two.losses, rtol=1e-4)
    assert np.abs(two.weights).max() > 1e-3  # they moved
    assert np.abs(two.weights[:, 0] - two.weights[:, 1]).max() > 1e-4  # and differ
    assert one.vectorized and not two.vectorized


@pytest.mark.parametrize("method", [None, AWP(gamma=0.02)], ids=["at", "awp"])
def test_linearised_replicas_follow_the_batch_hessian_at_the_checkpoint(run, method):
    checkpoint, data = run
    setting = checkpoint.setting
    setting = dataclasses.replace(setting, method=dataclasses.replace(setting.method, awp=method))
    checkpoint = dataclasses.replace(checkpoint, setting=setting)
    landscape = training_landscape(checkpoint, data, Measurement(batch_norm="train"))
    basis = torch.eye(landscape.dimension, dtype=torch.float64)
    rates, seeds = np.array([0.1, 0.1, 0.01]), [11, 12]
    found = branch(
        checkpoint,
        data,
        basis,
        seeds=seeds,
        learning_rates=rates,
        record=[1, 2, 3],
        dynamics="linearised",
        inputs=landscape.inputs,
    )
    # The literal recursion in float64, one replica and one batch at a time, by the operators' own products.
    per_epoch, size, decay = setting.iterations_per_epoch, setting.batch_size, setting.optimizer.weight_decay
    buffers = torch.cat([checkpoint.momentum[name].reshape(-1) for name in landscape.names]).double()
    for replica, seed in enumerate(seeds):
        move, velocity = torch.zeros(landscape.dimension, dtype=torch.float64), buffers.clone()
        for step, rate in enumerate(rates):
            epoch, position = divmod(checkpoint.iteration + step, per_epoch)
            rows = epoch_order(len(data.train), "shuffle", seed=seed, epoch=epoch)[position * size :][:size]
            batch = Landscape(
                checkpoint.model, landscape.inputs[rows], landscape.targets[rows], batch_norm="train", batch_size=size
            )
            at, shift = batch, torch.zeros_like(move)
            if method is not None:
                shift = _layerwise_shift(batch, method.gamma)
                at = batch.at(batch.weights + shift)
            gradient = at.gradient() + HessianOperator(at).matvec(move) + decay * (landscape.weights + shift + move)
            velocity = setting.optimizer.momentum * velocity + gradient
            move = move - rate * velocity
            # float32 against float64, three steps
            assert torch.allclose(torch.as_tensor(found.weights[step, replica]), move, atol=2e-5)
    assert np.abs(found.weights[2, 0] - found.weights[2, 1]).max() > 1e-4


def _layerwise_shift(landscape, gamma):
    gradients = landscape.unflatten(landscape.gradient())
    weights = landscape.unflatten(landscape.weights)
    pieces = []
    for name, gradient in gradients.items():
        scale = gamma * weights[name].norm() / gradient.norm() if gradient.ndim > 1 else 0.0
        pieces.append((scale * gradient).reshape(-1))
    return torch.cat(pieces)


def test_other_dynamics_need_an_input_for_each_sample(run):
    checkpoint, data = run
    size = sum(p.numel() for p in checkpoint.model.parameters())
    shared = {"seeds": [5], "learning_rates": np.full(2, 0.1), "record": [1], "dynamics": "fixed inputs"}
    with pytest.raises(ValueError, match="an input for each of the 96 training samples"):
        branch(checkpoint, data, torch.eye(size, 1), inputs=data.train.pixels(data.train.images)[:5], **shared)


def test_what_cannot_be_vectorized_is_said(run):
    checkpoint, data = run
    method = dataclasses.replace(
        checkpoint.setting.method, attack=dataclasses.replace(checkpoint.setting.method.attack, batch_norm="eval")
    )
    other = dataclasses.replace(checkpoint, setting=dataclasses.replace(checkpoint.setting, method=method))
    assert "running batch-norm statistics" in why_not_vectorized(other)
    size = sum(p.numel() for p in checkpoint.model.parameters())
    with pytest.raises(ValueError, match="cannot run an attack through running batch-norm"):
        branch(other, data, torch.eye(size, 1), seeds=[1], learning_rates=np.ones(2), record=[1], method="vectorized")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": torch.eye(7, 2)}, "another architecture"),
        ({"record": [3]}, "must rise within"),
        ({"seeds": [0, 5]}, "differ from the run's own"),
        ({"seeds": [5, 5]}, "distinct"),
    ],
)
def test_branching_with_wrong_arguments_is_refused(run, changes, message):
    checkpoint, data = run
    size = sum(p.numel() for p in checkpoint.model.parameters())
    arguments = {
        "directions": torch.eye(size, 2),
        "seeds": [5, 6],
        "learning_rates": np.full(2, 0.1),
        "record": [1, 2],
    } | changes
    with pytest.raises(ValueError, match=message):
        branch(checkpoint, data, arguments.pop("directions"), **arguments)
