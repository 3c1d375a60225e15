"""AWP: on a quadratic where the step is known in closed form, against the published proxy procedure, and its purity."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from empirical.network import build_network
from empirical.settings import NetworkSetting
from empirical.settings.awp import AWP
from empirical.training.awp import awp, perturbation_step, perturbed_parameters, perturbed_weights

torch.set_num_threads(1)


class Quadratic(nn.Module):
    """ℓ(w) = ½ Σ_l w_lᵀ H_l w_l over two weight matrices and a bias that AWP must not touch; float64."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(2, 5, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
        factors = [torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (12, 10, 6)]
        self.hessians = [factor @ factor.T for factor in factors]

    def loss(self):
        weights = (self.first, self.second, self.bias)
        return sum(0.5 * w.flatten() @ h @ w.flatten() for w, h in zip(weights, self.hessians, strict=True))


def test_on_a_quadratic_the_step_and_the_gradient_there_are_the_closed_form():
    model, gamma = Quadratic(), 0.3
    found = awp(model, model.loss, AWP(gamma=gamma))
    assert set(found) == {"first", "second"}
    for name, hessian in zip(("first", "second"), model.hessians, strict=False):
        w = getattr(model, name).detach().flatten()
        g = hessian @ w
        v = gamma * w.norm() * g / g.norm()
        torch.testing.assert_close(found[name].flatten(), v, rtol=1e-12, atol=0)
        with perturbed_weights(model, found):
            (gradient,) = torch.autograd.grad(model.loss(), getattr(model, name))
        torch.testing.assert_close(gradient.flatten(), g + hessian @ v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 5])
def test_several_steps_follow_the_recursion_and_stay_within_gamma(steps):
    model, gamma = Quadratic(), 0.2
    found = awp(model, model.loss, AWP(gamma=gamma, steps=steps))
    for name, hessian in zip(("first", "second"), model.hessians, strict=False):
        w = getattr(model, name).detach().flatten()
        v = torch.zeros_like(w)
        for _ in range(steps):
            g = hessian @ (w + v)
            v = v + gamma / steps * w.norm() * g / g.norm()
        torch.testing.assert_close(found[name].flatten(), v, rtol=1e-12, atol=0)
        assert found[name].norm() <= gamma * w.norm() * (1 + 1e-12)


def test_the_three_normalisations():
    generator = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(4, 3, 2, generator=generator), "b": torch.randn(5, 6, generator=generator)}
    gradients = {name: torch.randn(value.shape, generator=generator) for name, value in weights.items()}

    def step(kind):
        return perturbation_step(weights, gradients, AWP(gamma=0.1, normalization=kind))

    for name, v in step("layer").items():
        expected = 0.1 * weights[name].norm() * gradients[name] / gradients[name].norm()
        torch.testing.assert_close(v, expected)
    for name, v in step("filter").items():
        for row in range(len(v)):
            expected = 0.1 * weights[name][row].norm() * gradients[name][row] / gradients[name][row].norm()
            torch.testing.assert_close(v[row], expected)
    whole = torch.cat([value.flatten() for value in weights.values()])
    slope = torch.cat([value.flatten() for value in gradients.values()])
    moved = torch.cat([value.flatten() for value in step("network").values()])
    torch.testing.assert_close(moved, 0.1 * whole.norm() * slope / slope.norm())


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("kind", ["layer", "filter", "network"])
def test_the_step_does_not_depend_on_the_gradients_size_even_where_its_square_underflows(scale, kind):
    weight = {"w": torch.randn(4, 5, generator=torch.Generator().manual_seed(0))}
    gradient = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    setting = AWP(gamma=0.05, normalization=kind)
    reference = perturbation_step(weight, {"w": gradient.double()}, setting)["w"].float()
    found = perturbation_step(weight, {"w": gradient * scale}, setting)["w"]
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=0)
    zero = perturbation_step(weight, {"w": torch.zeros(4, 5)}, setting)["w"]
    assert torch.equal(zero, torch.zeros(4, 5))


def network(**changes):
    fields = {
        "name": "convnet",
        "num_classes": 10,
        "image_shape": (1, 8, 8),
        "widths": (4, 6),
        "normalization": "batch",
        "mean": (0.3,),
        "std": (0.4,),
    }
    return build_network(NetworkSetting(**(fields | changes)), seed=0).train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(20, 1, 8, 8, generator=generator), torch.randint(0, 10, (20,), generator=generator)


def test_it_equals_the_published_proxy_procedure(batch):
    """A copy of the network takes one plain step uphill; v is the normalised difference of the weights."""
    x, y = batch
    model = network().double()
    x = x.double()
    found = awp(model, lambda: nn.functional.cross_entropy(model(x), y), AWP(gamma=0.01))
    proxy = copy.deepcopy(model)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-nn.functional.cross_entropy(proxy(x), y)).backward()
    optimizer.step()
    for name, w in perturbed_parameters(model).items():
        d = proxy.state_dict()[name] - w
        v = 0.01 * w.norm() * d / (d.norm() + 1e-20)
        # float64; the published difference of weights cancels about 12 digits' worth against w
        torch.testing.assert_close(found[name], v, rtol=1e-9, atol=1e-12)
    assert set(found) == {"convolutions.0.weight", "convolutions.1.weight", "linear.weight"}


def test_weights_gradients_and_running_statistics_are_left_to_the_bit(batch):
    x, y = batch
    model = network()
    before = copy.deepcopy(model.state_dict())
    for steps in (1, 3):
        found = awp(model, lambda: nn.functional.cross_entropy(model(x), y), AWP(steps=steps))
        with perturbed_weights(model, found):
            assert not torch.equal(model.linear.weight, before["linear.weight"])
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError), perturbed_weights(model, found):
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_zero_gamma_perturbs_nothing(batch):
    x, y = batch
    model = network()
    found = awp(model, lambda: nn.functional.cross_entropy(model(x), y), AWP(gamma=0.0))
    assert all(torch.equal(value, torch.zeros_like(value)) for value in found.values())


def test_preactresnet18_has_21_perturbed_tensors():
    from empirical.network import PreActResNet18

    assert len(perturbed_parameters(PreActResNet18(10))) == 21


# -- the whole training step ----------------------------------------------------------------------------------------


def trainer(method, **changes):
    from empirical.data import load_data
    from empirical.settings.presets import make_training
    from empirical.training.trainer import Trainer

    options = {"train_size": 60, "test_size": 20, "batch_size": 20, "label_noise": 0.0, "epochs": 4} | changes
    setting = make_training("smoke", method, options)
    return Trainer(setting, seed=0, data=load_data(setting.data))


def published_step(reference, model, buffers, batch, rate, weight_decay, gamma):
    """w ← w − η (μ m + ∇ℓ(w + v) + δ (w + v)) as the published code does it: step at w + v, then subtract v."""
    x, y = batch
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=weight_decay)
    for parameter, buffer in zip(model.parameters(), buffers, strict=True):
        if buffer is not None:
            optimizer.state[parameter]["momentum_buffer"] = buffer
    proxy = copy.deepcopy(model)
    (-nn.functional.cross_entropy(proxy(x), y)).backward()
    torch.optim.SGD(proxy.parameters(), lr=0.01).step()
    del reference
    steps = {}
    with torch.no_grad():
        for (name, w), d in zip(model.named_parameters(), proxy.parameters(), strict=True):
            if w.ndim > 1:
                difference = d - w
                steps[name] = gamma * w.norm() * difference / (difference.norm() + 1e-20)
                w.add_(steps[name])
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for name, w in model.named_parameters():
            if name in steps:
                w.sub_(steps[name])
    return [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]


def test_three_training_steps_equal_the_published_procedure_weight_decay_at_the_perturbed_weights_included():
    ours = trainer("awp", weight_decay=0.05, awp_gamma=0.05, learning_rate=0.2)
    model = copy.deepcopy(ours.model).double().train()
    buffers = [None] * len(list(model.parameters()))
    for _ in range(3):
        iteration = ours.iteration
        x, y, count = ours._batch(iteration, fresh=False)
        twin = copy.deepcopy(ours)
        adversarial = twin._attacked(x, y, count, iteration, fresh=False)
        model_state = {n: v.double() if v.is_floating_point() else v for n, v in ours.model.state_dict().items()}
        model.load_state_dict(model_state | {n: v for n, v in model.state_dict().items() if "running" not in n})
        ours.step()
        batch = (adversarial.double(), y)
        buffers = published_step(ours, model, buffers, batch, ours.rates[iteration], 0.05, 0.05)
    for (name, found), expected in zip(ours.model.named_parameters(), model.parameters(), strict=True):
        # float32 against float64 over three steps
        torch.testing.assert_close(
            found.double(), expected, rtol=1e-4, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_where_weight_decay_acts_matters_and_differs_by_exactly_its_share():
    results = {}
    for place in ("perturbed", "original"):
        run = trainer("awp", weight_decay=0.5, awp_gamma=0.1, awp_weight_decay=place)
        run.model.double()
        run.data.train.images  # noqa: B018
        before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
        run = trainer("awp", weight_decay=0.5, awp_gamma=0.1, awp_weight_decay=place)
        run.step()
        results[place] = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    rate = run.rates[0]
    for name in before:
        moved = results["original"][name] - results["perturbed"][name]  # η δ v
        if before[name].ndim == 1:
            assert torch.equal(moved, torch.zeros_like(moved))
        else:
            expected = rate * 0.5 * 0.1 * before[name].norm().item()
            assert moved.norm().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"awp_normalization": "filter"},
        {"awp_batch": "fresh"},
        {"awp_recompute": True},
        {"awp_steps": 2},
        {"awp_weight_decay": "original"},
        {"awp_gamma": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_choice_is_a_setting_that_changes_the_step(change):
    plain, other = trainer("awp", awp_gamma=0.1), trainer("awp", **({"awp_gamma": 0.1} | change))
    plain.step()
    other.step()
    assert not torch.equal(plain.model.linear.weight, other.model.linear.weight)


def test_warmup_trains_plainly_and_zero_gamma_is_at():
    warm, plain, zero = trainer("awp", awp_warmup=1), trainer("at"), trainer("awp", awp_gamma=0.0)
    for _ in range(3):  # one epoch
        for run in (warm, plain, zero):
            run.step()
    assert torch.equal(warm.model.linear.weight, plain.model.linear.weight)
    torch.testing.assert_close(zero.model.linear.weight, plain.model.linear.weight)
    warm.step()
    plain.step()
    assert not torch.equal(warm.model.linear.weight, plain.model.linear.weight)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gamma": -0.1}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"steps": 0}, "steps"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"normalization": "row"}, "normalization"),
        ({"batch": "other"}, "batch"),
        ({"weight_decay": "none"}, "weight_decay"),
    ],
)
def test_a_setting_out_of_range_names_the_argument(changes, named):
    with pytest.raises(ValueError, match=named):
        AWP(**changes)


def test_settings_are_values():
    setting = AWP(gamma=0.02)
    assert AWP.from_dict(setting.to_dict()) == setting
    with pytest.raises(dataclasses.FrozenInstanceError):
        setting.gamma = 1.0
