"""Networks: sizes, names and layers as published; variants; weights of other repositories, and files to refuse."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from empirical.network import (
    FORWARD_FLOP_PER_IMAGE,
    PreActResNet18,
    build_network,
    load_public_weights,
    parameter_count,
)
from empirical.settings import NetworkSetting

torch.set_num_threads(1)


def tiny(**changes) -> NetworkSetting:
    fields = {
        "name": "convnet",
        "num_classes": 10,
        "image_shape": (1, 8, 8),
        "widths": (4, 6),
        "mean": (0.3,),
        "std": (0.4,),
    }
    return NetworkSetting(**(fields | changes))


def test_preactresnet18_has_the_published_size_and_layers():
    model = PreActResNet18(10)
    assert parameter_count(model) == 11_172_170
    layers = [type(module) for module in model.modules()]
    assert layers.count(nn.Conv2d) == 20 and layers.count(nn.BatchNorm2d) == 17 and layers.count(nn.Linear) == 1
    assert all(module.bias is None for module in model.modules() if isinstance(module, nn.Conv2d))
    assert parameter_count(PreActResNet18(100)) == 11_172_170 + 90 * 513


def test_the_stated_cost_is_the_sum_over_its_layers():
    model = PreActResNet18(10)
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        per_output = module.weight[0].numel()
        macs += per_output * output[0].numel()

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert 2 * macs == pytest.approx(FORWARD_FLOP_PER_IMAGE, rel=1e-4)


def test_preactresnet18_equals_the_textbook_forward_written_out():
    """The definition in plain functional calls, from the names of the public state dict."""
    from torch.nn import functional as F

    model = PreActResNet18(10, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2, generator=generator)
            elif value.is_floating_point() and value.ndim == 1:
                value.normal_(0.1, 0.3, generator=generator)
    w = model.state_dict()

    def norm(x, name):
        shape = (1, -1, 1, 1)
        scaled = (x - w[f"{name}.running_mean"].view(shape)) / (w[f"{name}.running_var"].view(shape) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)

    x = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=generator)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).double()
    std = torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1).double()
    out = F.conv2d((x - mean) / std, w["conv1.weight"], padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        for block in (0, 1):
            name, step = f"layer{stage}.{block}", stride if block == 0 else 1
            activated = norm(out, f"{name}.bn1").relu()
            key = f"{name}.shortcut.0.weight"
            shortcut = F.conv2d(activated, w[key], stride=step) if key in w else out
            inner = F.conv2d(activated, w[f"{name}.conv1.weight"], stride=step, padding=1)
            out = F.conv2d(norm(inner, f"{name}.bn2").relu(), w[f"{name}.conv2.weight"], padding=1) + shortcut
    pooled = F.avg_pool2d(norm(out, "bn").relu(), 4).flatten(1)
    expected = pooled @ w["linear.weight"].T + w["linear.bias"]
    with torch.no_grad():
        # float64; the constants inside the model were given as float32 tensors, hence 1e-6
        torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["preactresnet18", "convnet", "mlp"])
@pytest.mark.parametrize("normalization", ["batch", "group", "none"])
def test_every_variant_gives_logits_and_gradients(name, normalization):
    shape = (3, 16, 16) if name == "preactresnet18" else (1, 8, 8)
    setting = tiny(
        name=name,
        image_shape=shape,
        normalization=normalization,
        mean=(0.5,) * shape[0],
        std=(0.5,) * shape[0],
        activation="gelu",
        widths=(8, 16),
    )
    model = build_network(setting, seed=0)
    logits = model(torch.rand(5, *shape))
    assert logits.shape == (5, 10) and torch.isfinite(logits).all()
    logits.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    kinds = {type(module) for module in model.modules()}
    assert (nn.BatchNorm2d in kinds) == (normalization == "batch")
    assert (nn.GroupNorm in kinds) == (normalization == "group")


@pytest.mark.parametrize(("activation", "smooth"), [("relu", False), ("softplus", True), ("gelu", True)])
def test_smooth_activations_have_a_continuous_gradient(activation, smooth):
    from empirical.network.blocks import ACTIVATIONS

    x = torch.tensor([-1e-6, 1e-6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ACTIVATIONS[activation](x).sum(), x)
    assert (abs(slope[1] - slope[0]) < 1e-4) == smooth
    far = torch.tensor([-4.0, 4.0])
    torch.testing.assert_close(ACTIVATIONS[activation](far), far.relu(), atol=1e-3, rtol=0)


def test_initialisation_depends_on_the_seed_alone_and_leaves_the_global_generators(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    first, second, other = (build_network(tiny(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert not seeded
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


# -- weights of other repositories --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["bare", "data-parallel", "nested", "sequential", "old"])
def test_public_state_dicts_load_whatever_wrapper_saved_them(tmp_path, wrap):
    source, target = PreActResNet18(10), PreActResNet18(10)
    state = dict(source.state_dict())
    if wrap == "data-parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    if wrap == "sequential":
        state = {f"module.1.{name}": value for name, value in state.items()} | {"module.0.mean": torch.zeros(3)}
    if wrap == "old":
        state = {name: value for name, value in state.items() if "num_batches" not in name}
    stored = {"state_dict": state, "test_robust_acc": 0.53} if wrap == "nested" else state
    torch.save(stored, tmp_path / "model.pt")
    load_public_weights(target, tmp_path / "model.pt")
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


def test_files_that_cannot_be_loaded_are_named_and_leave_the_model_alone(tmp_path):
    model = build_network(tiny(), seed=0)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    whole = tmp_path / "whole.pt"
    torch.save(model.state_dict(), whole)
    (tmp_path / "half.pt").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save(build_network(tiny(widths=(4, 8)), seed=0).state_dict(), tmp_path / "shape.pt")
    torch.save(PreActResNet18(10).state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")

    class Harmful:
        def __reduce__(self):
            return print, ("code ran",)

    (tmp_path / "code.pt").write_bytes(pickle.dumps(Harmful()))
    torch.save({"state_dict": Harmful()}, tmp_path / "zip-code.pt")
    cases = {
        "missing.pt": "existing file",
        "half.pt": "truncated",
        "empty.pt": "truncated",
        "shape.pt": "another network",
        "other.pt": "another network",
        "list.pt": "state dict",
        "code.pt": "code",
        "zip-code.pt": "code",
    }
    for file, rule in cases.items():
        with pytest.raises(ValueError, match=rule) as caught:
            load_public_weights(model, tmp_path / file)
        assert file in str(caught.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "vgg"}, "name"),
        ({"normalization": "layer"}, "normalization"),
        ({"activation": "tanh"}, "activation"),
        ({"num_classes": 1}, "num_classes"),
        ({"widths": ()}, "widths"),
        ({"widths": (0,)}, "widths"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": (0.0,)}, "std"),
        ({"image_shape": (1, 8)}, "image_shape"),
    ],
)
def test_a_network_setting_out_of_range_names_the_argument(changes, named):
    with pytest.raises(ValueError, match=named):
        tiny(**changes)


def test_the_linear_network_is_one_affine_map_of_the_standardised_pixels():
    """Softmax regression: no hidden layer, a bias, and the logits that W, b and the pixel constants give by hand."""
    setting = tiny(name="linear", widths=(), image_shape=(1, 8, 8))
    model = build_network(setting, seed=1)
    assert parameter_count(model) == 64 * 10 + 10
    x = torch.rand(5, 1, 8, 8)
    weight, bias = model.linear.weight, model.linear.bias
    by_hand = torch.stack([weight @ ((image - 0.3) / 0.4).reshape(-1) + bias for image in x])
    torch.testing.assert_close(model(x), by_hand)
    midpoint = model((x[:1] + x[1:2]) / 2)
    torch.testing.assert_close(midpoint, (model(x[:1]) + model(x[1:2])) / 2)
