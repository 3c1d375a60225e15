"""Batch sharpness of networks: against dense per-sample Hessians, every batch, and simple laws with a known answer."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from empirical.data.resident import load_data
from empirical.measure.checkpoint import recorded_sharpness
from empirical.measure.landscape import Landscape
from empirical.measure.objective import training_landscape
from empirical.measure.sharpness import FEWEST, attacked_batch_sharpness, interval, network_batch_sharpness
from empirical.settings.controls import CONTROLS
from empirical.settings.measuring import Measurement
from empirical.training.checkpoint import load_checkpoint
from empirical.training.run import train
from tests.empirical.measure.conftest import smooth_network, toy_data, trained
from theory.closed_form.edge import batch_sharpness, sampled_batch_sharpness
from theory.model.optimizer import MomentumSGD

SGD = MomentumSGD(0.1, 0.9, weight_decay=0.05)


def _dense(landscape, decay):
    """Per-sample gradients and Hessians by plain double differentiation, one sample at a time."""
    from torch.autograd.functional import hessian, jacobian

    weights, gradients, hessians = landscape.weights, [], []
    for x, y in zip(landscape.inputs, landscape.targets, strict=True):

        def loss(flat, x=x, y=y):
            return landscape.sample_loss(landscape.unflatten(flat), x, y)

        gradients.append(jacobian(loss, weights) + decay * weights)
        hessians.append(hessian(loss, weights) + decay * torch.eye(len(weights), dtype=weights.dtype))
    return torch.stack(gradients).numpy(), torch.stack(hessians).numpy()


def _small(count=24, seed=0):
    x, y = toy_data(count, inputs=3, seed=seed)
    return Landscape(trained(smooth_network(inputs=3, hidden=3), x, y, steps=20, rate=0.05), x, y, chunk=7)


@pytest.mark.parametrize(("size", "replacement"), [(1, False), (6, True), (6, False), (24, False)])
def test_drawn_batches_meet_the_exact_value_over_all_batches(size, replacement):
    landscape = _small()
    gradients, hessians = _dense(landscape, SGD.weight_decay)
    exact = batch_sharpness(
        gradients, hessians, size, sampling="with-replacement" if replacement else "without-replacement"
    )
    found = network_batch_sharpness(
        landscape, SGD, size, with_replacement=replacement, batches=600, relative_error=1e-9, seed=3
    )
    assert found.value == pytest.approx(exact.value, abs=4.5 * found.standard_error + 1e-9 * exact.value)
    if size < 24:  # the mean-field curvature, and no decay, are told apart by the same draw
        mean = batch_sharpness(gradients, np.broadcast_to(hessians.mean(axis=0), hessians.shape), size)
        assert abs(found.value - mean.value) > 4.5 * found.standard_error
    assert found.low < found.value < found.high or size == 24


def test_each_batch_is_its_dense_product_to_rounding():
    landscape = _small()
    found = network_batch_sharpness(landscape, SGD, 5, batches=8, relative_error=1e-9, seed=1)
    gradients, hessians = _dense(landscape, SGD.weight_decay)
    pairs = set()
    for batch in itertools.combinations(range(24), 5):
        rows = list(batch)
        g = gradients[rows].mean(axis=0)
        pairs.add((round(float(g @ hessians[rows].mean(axis=0) @ g), 9), round(float(g @ g), 9)))
    for curvature, square in zip(found.curvatures, found.squares, strict=True):
        assert (round(float(curvature), 9), round(float(square), 9)) in pairs


def test_train_mode_takes_each_batchs_own_statistics_and_eval_the_running_ones():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = toy_data(16, inputs=3)
    found = {}
    for mode in ("eval", "train"):
        landscape = Landscape(network, x, y, batch_norm=mode, batch_size=16, num_batches=1)
        found[mode] = network_batch_sharpness(landscape, MomentumSGD(0.1), 16, batches=8).value
        network.train(mode == "train")
        names = dict(network.named_parameters())
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

        def loss(flat, landscape=landscape, names=names, buffers=buffers):
            pieces = dict(zip(names, flat.split([p.numel() for p in names.values()]), strict=True))
            shaped = {name: piece.view(names[name].shape) for name, piece in pieces.items()}
            kept = {name: buffer.clone() for name, buffer in buffers.items()}
            return nn.functional.cross_entropy(torch.func.functional_call(network, {**shaped, **kept}, (x,)), y)

        weights = torch.cat([p.detach().reshape(-1) for p in names.values()])
        g = torch.autograd.functional.jacobian(loss, weights)
        h = torch.autograd.functional.hessian(loss, weights)
        assert found[mode] == pytest.approx(float(g @ h @ g / (g @ g)), rel=1e-9)
    assert abs(found["train"] / found["eval"] - 1) > 0.05


def test_attacking_again_adds_the_curvature_of_the_moving_inputs():
    """ℓ = ½(w·(x + δ) − y)² with |δ| ≤ ε has the envelope ½(|r| + ε|w|)²: two weights apart from kinks, by hand."""

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

        def forward(self, x):
            return x * self.weight

    generator = torch.Generator().manual_seed(0)
    x = 0.5 + torch.rand(12, 1, generator=generator, dtype=torch.float64)
    y = torch.zeros(12, 1, dtype=torch.float64)  # residual w x > 0: the worst input is x + ε
    epsilon = 0.25

    def worst(weights, samples, number):
        # An attack with a memory of w: its inputs move by κ (w − 2) as well.
        return x[samples] + epsilon + 0.5 * (weights - 2.0)

    landscape = Landscape(Line(), x + epsilon, y, per_sample_loss=lambda o, t: 0.5 * ((o - t) ** 2)[:, 0])
    common = {"step": 1e-4, "batches": 40, "relative_error": 1e-9, "seed": 2}
    optimizer = MomentumSGD(0.1)
    fixed = attacked_batch_sharpness(landscape, optimizer, 3, None, **common)
    exact = network_batch_sharpness(landscape, optimizer, 3, batches=40, relative_error=1e-9, seed=2)
    again = attacked_batch_sharpness(landscape, optimizer, 3, worst, **common)
    assert fixed.value == pytest.approx(exact.value, rel=1e-9)
    inputs = (x + epsilon).numpy()[:, 0]
    # g = w a², dg/dw at fixed inputs a²; with a = a₀ + (w − 2)/2 it is a² + w a.
    sizes = [np.sqrt(s) for s in again.squares]
    assert np.allclose(sizes, 2.0 * fixed.curvatures / fixed.squares, rtol=1e-8)  # |g| = 2 ⟨a²⟩
    added = again.curvatures / again.squares - fixed.curvatures / fixed.squares
    assert (added > 2.0 * inputs.min()).all() and (added < 2.0 * inputs.max()).all()
    assert again.value - fixed.value == pytest.approx(2.0 * inputs.mean(), rel=0.1)


def test_drawing_stops_at_the_error_asked_for_or_where_the_batches_are_spent():
    landscape = _small(count=200)
    loose, tight = (network_batch_sharpness(landscape, SGD, 8, relative_error=e, batches=4000) for e in (0.2, 0.02))
    for found, error in ((loose, 0.2), (tight, 0.02)):
        assert found.standard_error <= error * found.value
    assert len(loose.squares) < len(tight.squares) < 4000
    assert np.array_equal(tight.squares[: len(loose.squares)], loose.squares)
    spent = network_batch_sharpness(landscape, SGD, 8, relative_error=1e-6)
    assert len(spent.squares) == max(FEWEST, 200 // 8 * 2 // 4)
    assert (spent.small_batch_limit, spent.large_batch_limit) == pytest.approx((2.0, 38.0))


def test_intervals_of_skewed_batches_cover_more_than_students_do():
    """Batches whose influence is log-normal, 25 of them: 90 % against 86 %, where 95 % would be right."""
    rng = np.random.default_rng(5)
    hits, plain = 0, 0
    for _ in range(2000):
        squares = rng.lognormal(sigma=0.5, size=25)
        curvatures = squares * (1.0 + rng.lognormal(sigma=1.0, size=25) / np.exp(0.5))
        found = sampled_batch_sharpness(curvatures, squares)
        low, high = interval(found, curvatures, squares)
        hits += low <= 2.0 <= high
        plain += abs(found.value - 2.0) <= stats.t.ppf(0.975, 24) * found.standard_error
    assert hits >= 0.88 * 2000 and hits - plain >= 0.02 * 2000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 25}, "batch_size"),
        ({"batches": 3}, "batches"),
        ({"relative_error": 0.0}, "relative_error"),
    ],
)
def test_an_argument_out_of_range_is_named(changes, named):
    arguments = {"batch_size": 4} | changes
    with pytest.raises(ValueError, match=named) as caught:
        network_batch_sharpness(_small(), SGD, arguments.pop("batch_size"), **arguments)
    assert "\n" not in str(caught.value)


def test_on_a_control_a_twentieth_is_reached_for_less_than_the_gradients_of_two_epochs(tmp_path):
    """1,200 images: of 300 an epoch has nine batches, and no number of them within its cost says as much."""
    setting = CONTROLS[5].training(
        epochs=3, train_size=1200, validation_size=0, test_size=32, evaluation_every=100, masking_probe=0
    )
    train(setting, seed=0, out=tmp_path)
    item = load_checkpoint(sorted(tmp_path.glob("runs/*/checkpoints/*.pt"))[-1])
    data, measurement = load_data(setting.data), Measurement(dtype="float32")
    found = recorded_sharpness(item, data, measurement, training_landscape(item, data, measurement))
    epoch, attack = 1200 / 32, setting.method.attack
    gradients = epoch * (1 + attack.steps * 2 / 3)  # of training: a step of the attack is two thirds of one
    spent = {"fixed": 4, "finite": 3, "attacked": 1 + 2 * gradients / epoch}
    for name, each in spent.items():
        estimate = getattr(found, name)
        assert estimate.standard_error <= 0.05 * estimate.value, name
        assert each * len(estimate.squares) <= 2.1 * gradients, name  # the denominator's gradient beside the two
        assert estimate.low < estimate.value < estimate.high
    # The inputs hardly move under so weak an attack, and the model has no kinks.
    assert found.attacked.value == pytest.approx(found.finite.value, rel=0.05)
    assert found.finite.value == pytest.approx(found.fixed.value, rel=0.1)
