"""PGD: against other libraries, its constraints, its purity, and the guard against masked gradients."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn

from empirical.network import build_network
from empirical.settings import NetworkSetting
from empirical.settings.attack import PGD
from empirical.training.attack import draw_starts, pgd, pgd_from
from empirical.training.masking import MaskingWarning, check_masking, svhn_trap

torch.set_num_threads(1)


def network(normalization: str = "batch", seed: int = 0, **changes) -> nn.Module:
    fields = {
        "name": "convnet",
        "num_classes": 10,
        "image_shape": (3, 12, 12),
        "widths": (6, 8),
        "normalization": normalization,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
    }
    model = build_network(NetworkSetting(**(fields | changes)), seed=seed)
    with torch.no_grad():  # running statistics that differ from any batch's, so that the mode matters
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
                layer.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(7)
    return torch.rand(16, 3, 12, 12, generator=generator), torch.randint(0, 10, (16,), generator=generator)


LINF = PGD(epsilon=8 / 255, step_size=2 / 255, steps=10, random_start="none")
L2 = PGD(epsilon=0.5, step_size=0.1, steps=10, norm="l2", random_start="none")


# -- against other implementations ----------------------------------------------------------------------------------


def naive_pgd(model, x, y, setting, start):
    """The textbook loop in float64: full backward each step, project, clamp."""
    delta = (x + start).clamp(0, 1) - x
    for _ in range(setting.steps):
        delta = delta.detach().requires_grad_()
        nn.functional.cross_entropy(model(x + delta), y).backward()
        gradient = delta.grad
        with torch.no_grad():
            if setting.norm == "linf":
                delta = (delta + setting.step_size * gradient.sign()).clamp(-setting.epsilon, setting.epsilon)
            else:
                norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                delta = delta + setting.step_size * gradient / norms
                norms = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                delta = torch.where(norms > setting.epsilon, delta * setting.epsilon / norms, delta)
            delta = (x + delta).clamp(0, 1) - x
    return x + delta


@pytest.mark.parametrize("setting", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("start", ["none", "uniform"])
def test_it_equals_the_textbook_loop_in_float64(batch, setting, start):
    x, y = batch[0].double(), batch[1]
    model = network().double().eval()
    setting = dataclasses.replace(setting, random_start=start)
    starts = draw_starts(x.shape, setting, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    found = pgd_from(model, x, y, setting, starts)
    expected = naive_pgd(model, x, y, setting, starts[0])
    # same arithmetic in another order: a few ulps, unless a gradient is exactly at a sign's zero
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("setting", [LINF, L2], ids=["linf", "l2"])
def test_it_equals_foolbox(batch, setting):
    foolbox = pytest.importorskip("foolbox")
    x, y = batch
    model = network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        kind = foolbox.attacks.LinfPGD if setting.norm == "linf" else foolbox.attacks.L2PGD
        attack = kind(abs_stepsize=setting.step_size, steps=setting.steps, random_start=False)
        _, clipped, _ = attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=setting.epsilon)
    found = pgd(model, x, y, setting)
    # float32, and foolbox averages the loss where we sum it: a gradient near 0 may change its sign, 2 α at one pixel
    assert ((found - clipped).abs() > 1e-5).float().mean() < 0.005


def test_it_equals_torchattacks(batch):
    torchattacks = pytest.importorskip("torchattacks")
    x, y = batch
    model = network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = torchattacks.PGD(model, eps=LINF.epsilon, alpha=LINF.step_size, steps=LINF.steps, random_start=False)
        expected = attack(x, y)
    assert ((pgd(model, x, y, LINF) - expected).abs() > 1e-5).float().mean() < 0.005


# -- constraints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
@pytest.mark.parametrize("base", [LINF, L2], ids=["linf", "l2"])
def test_the_perturbation_stays_in_the_ball_and_the_pixels_in_range(batch, base, start):
    x, y = batch
    x = torch.where(x < 0.3, torch.zeros(()), torch.where(x > 0.7, torch.ones(()), x))  # many pixels at the borders
    found = pgd(
        network(), x, y, dataclasses.replace(base, random_start=start), generator=torch.Generator().manual_seed(3)
    )
    assert found.dtype == torch.float32 and found.min() >= 0 and found.max() <= 1
    delta = (found - x).flatten(1)
    reach = delta.abs().amax() if base.norm == "linf" else delta.norm(dim=1).max()
    assert reach <= base.epsilon + 1e-6  # float32 rounding of x + δ
    assert reach > 0.9 * base.epsilon, "the attack must use its budget"


def test_start_laws():
    uniform = dataclasses.replace(LINF, random_start="uniform", restarts=2)
    starts = draw_starts((200, 3, 4, 4), uniform, generator=torch.Generator().manual_seed(0))
    assert starts.shape == (2, 200, 3, 4, 4) and starts.abs().max() <= LINF.epsilon
    assert starts.std().item() == pytest.approx(LINF.epsilon / 3**0.5, rel=0.02)
    gaussian = dataclasses.replace(LINF, random_start="gaussian")
    starts = draw_starts((200, 3, 4, 4), gaussian, generator=torch.Generator().manual_seed(0))
    assert starts.std().item() == pytest.approx(0.001, rel=0.02)
    ball = dataclasses.replace(L2, random_start="uniform")
    radii = draw_starts((2000, 3, 4, 4), ball, generator=torch.Generator().manual_seed(0)).flatten(2).norm(dim=2)
    assert radii.max() <= 0.5 + 1e-6 and radii.mean().item() == pytest.approx(0.25, rel=0.05)
    with pytest.raises(ValueError, match="generator"):
        draw_starts((2, 3, 4, 4), uniform, generator=None)


def test_zero_radius_returns_the_input_and_one_full_step_is_fgsm(batch):
    x, y = batch
    model = network().eval()
    assert torch.equal(pgd(model, x, y, dataclasses.replace(LINF, epsilon=0.0)), x)
    single = dataclasses.replace(LINF, steps=1, step_size=LINF.epsilon)
    copied = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(copied), y), copied)
    fgsm = (x + LINF.epsilon * gradient.sign()).clamp(0, 1)
    assert ((pgd(model, x, y, single) - fgsm).abs() > 1e-6).float().mean() < 0.005


def test_more_restarts_never_lower_a_samples_loss(batch):
    x, y = batch
    model = network().eval()
    generator = torch.Generator().manual_seed(0)
    setting = PGD(epsilon=0.1, step_size=0.05, steps=2, restarts=4)
    starts = draw_starts(x.shape, setting, generator=generator)

    def losses(count):
        found = pgd_from(model, x, y, dataclasses.replace(setting, restarts=count), starts[:count])
        return nn.functional.cross_entropy(model(found), y, reduction="none").detach()

    one, two, four = losses(1), losses(2), losses(4)
    assert (two >= one - 1e-6).all() and (four >= two - 1e-6).all() and (four > one + 1e-6).any()


def test_the_kl_attack_raises_the_divergence_from_the_clean_prediction(batch):
    x, y = batch
    model = network().eval()
    setting = PGD(epsilon=0.05, step_size=0.01, random_start="gaussian", loss="kl")
    found = pgd(model, x, y, setting, generator=torch.Generator().manual_seed(0))

    def divergence(z):
        with torch.no_grad():
            p, q = model(x).log_softmax(1), model(z).log_softmax(1)
        return (p.exp() * (p - q)).sum(1)

    noise = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).sign()
    assert (divergence(found) > divergence(noise.clamp(0, 1))).float().mean() > 0.9
    assert torch.equal(found, pgd(model, x, y.flip(0), setting, generator=torch.Generator().manual_seed(0)))


# -- purity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "batch", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_found(batch, mode, training):
    x, y = batch
    model = network().train(training)
    frozen = next(model.parameters()).requires_grad_(False)
    model.linear.weight.grad = torch.full_like(model.linear.weight, 3.0)
    before = copy.deepcopy(model.state_dict())
    images = x.clone()
    setting = dataclasses.replace(LINF, batch_norm=mode, random_start="uniform")
    found = pgd(model, x, y, setting, generator=torch.Generator().manual_seed(0))
    assert not found.requires_grad and torch.equal(x, images)
    assert all(module.training == training for module in model.modules())
    assert not frozen.requires_grad and all(p.requires_grad for p in list(model.parameters())[1:])
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == 1 and torch.equal(grads[0], torch.full_like(grads[0], 3.0))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    if mode == "train":
        assert moved == {name for name in before if "running" in name or "tracked" in name}
        assert model.norms[0].num_batches_tracked == LINF.steps
    else:
        assert not moved


def test_an_error_inside_the_network_leaves_modes_and_flags_restored(batch):
    x, y = batch

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            raise RuntimeError("no")

    model = Breaks().train()
    with pytest.raises(RuntimeError, match="no"):
        pgd(model, x, y, LINF)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_modes_differ_and_the_batch_mode_equals_the_train_mode(batch):
    x, y = batch
    found = {
        mode: pgd(network(), x, y, dataclasses.replace(LINF, batch_norm=mode)) for mode in ("train", "batch", "eval")
    }
    assert torch.equal(found["train"], found["batch"])
    assert not torch.equal(found["train"], found["eval"])


def test_no_weight_gradient_is_computed_in_the_attack(batch):
    """The convolution's backward is asked for its input alone (its output mask), in every step."""
    x, y = batch
    asked = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "convolution_backward" in str(func):
                asked.append(tuple(args[-1]))
            return func(*args, **(kwargs or {}))

    with Watch():
        pgd(network(), x, y, LINF)
    assert len(asked) == 2 * LINF.steps  # two convolutions
    assert all(mask[1:] == (False, False) for mask in asked), asked


def test_under_bfloat16_the_images_stay_in_float32_on_a_finer_grid_than_bfloat16(batch):
    x, y = batch
    found = pgd(network(), x, y, LINF, autocast=torch.bfloat16)
    assert found.dtype == torch.float32
    assert ((found - x).abs() <= LINF.epsilon + 1e-6).all()
    assert not torch.equal(found, found.bfloat16().float())
    with pytest.raises(ValueError, match="float32"):
        pgd(network(), x.bfloat16(), y, LINF)


# -- masking --------------------------------------------------------------------------------------------------------


class Saturated(nn.Module):
    """A network whose softmax is saturated: correct, with gradients that underflow to zero."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return (1e4 * self.inner(x)).round()


def test_the_guard_is_silent_on_a_sound_network_and_loud_on_a_masked_one(batch):
    x, _ = batch
    model = network().eval()
    y = model(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sound = check_masking(model, x, y, LINF, seed=0, other=network(seed=5).eval())
    assert sound.signs == () and sound.loss_strong >= sound.loss * 0.99
    assert list(sound.loss_by_epsilon) == sorted(sound.loss_by_epsilon)
    with pytest.warns(MaskingWarning) as caught:
        masked = check_masking(Saturated(model), x, y, LINF, seed=0, other=model)
    assert any("another network" in sign for sign in masked.signs)
    assert len(caught) == len(masked.signs)


def test_svhns_trap_is_named():
    training = PGD(epsilon=8 / 255, step_size=2 / 255)
    weak = PGD(epsilon=8 / 255, step_size=1 / 255, steps=10)
    assert svhn_trap("cifar10", training, weak) == ()
    assert len(svhn_trap("svhn", training, weak)) == 2
    assert svhn_trap("svhn", weak, dataclasses.replace(weak, steps=20)) == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epsilon": -0.1}, "epsilon"),
        ({"epsilon": 8.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": float("inf")}, "step_size"),
        ({"steps": -1}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"norm": "l1"}, "norm"),
        ({"batch_norm": "frozen"}, "batch_norm"),
        ({"random_start": "yes"}, "random_start"),
        ({"loss": "dlr"}, "loss"),
    ],
)
def test_a_setting_out_of_range_names_the_argument(changes, named):
    with pytest.raises(ValueError, match=named):
        PGD(**({"epsilon": 0.1, "step_size": 0.1} | changes))


def test_wrong_shapes_are_named(batch):
    x, y = batch
    with pytest.raises(ValueError, match="batch"):
        pgd(network(), x, y[:3], LINF)
