"""Other people's models as landscapes: derivatives as by hand, nothing of theirs touched, bad input in one line."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from empirical.measure.operators import HessianOperator, bilinear_curvatures, projected_curvatures, unit_gradients
from empirical.measure.subject import quiet, subject

CE = nn.CrossEntropyLoss(reduction="none")


def classifier_loss(model, batch):
    x, y = batch
    return CE(model(x), y)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(4, 3, batch_first=True)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.mix = nn.Linear(3, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.mix(self.embedding(tokens).mean(dim=1))))


class Counting(nn.Module):
    """Writes a buffer and reads a number out of a tensor in every forward pass."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        outputs = self.head(x.mean(dim=1))
        self.seen.mul_(0.9).add_(outputs.detach().mean(dim=0))
        self.last = outputs.mean().item()
        return outputs


class Images(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 2, 3))

    def forward(self, x):
        return self.body(x)


def made(factory, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def sequences(count=12):
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 5, 4, generator=g), torch.randint(0, 3, (6,), generator=g)) for _ in range(count // 6)]


def tokens():
    g = torch.Generator().manual_seed(1)
    return [(torch.randint(0, 5, (6, 4), generator=g), torch.randint(0, 5, (6,), generator=g)) for _ in range(2)]


def pictures():
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 1, 4, 4, generator=g), torch.randint(0, 3, (6,), generator=g)) for _ in range(2)]


ARCHITECTURES = {
    "attention": (Attention, sequences),
    "recurrent": (Recurrent, sequences),
    "tied": (Tied, tokens),
    "buffers and item": (Counting, sequences),
    "group norm": (lambda: Images(nn.GroupNorm(2, 4)), pictures),
    "batch norm": (lambda: Images(nn.BatchNorm2d(4)), pictures),
}


def test_an_activation_without_a_second_forward_derivative_is_curved_all_the_same():
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 3), nn.SiLU(), nn.Linear(3, 3))).eval()
    with quiet(model):
        landscape = subject(model, classifier_loss, sequences()).landscape
        identity = torch.eye(landscape.dimension, dtype=torch.float64)
        left, right = identity[:, 60:63], identity[:, 63:66]
        found = bilinear_curvatures(landscape, left, right)
        h = HessianOperator(landscape).matmat(identity)
    assert found.shape == (12, 3)
    torch.testing.assert_close(
        found.mean(dim=0), torch.stack([h[60 + j, 63 + j] for j in range(3)]), rtol=1e-7, atol=1e-9
    )


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hessian_and_sample_gradients_of_an_architecture_are_those_by_hand(name):
    factory, data = ARCHITECTURES[name]
    model = made(factory).eval()
    before = state(model)
    batches = data()
    with quiet(model):
        found = subject(model, classifier_loss, batches)
        landscape = found.landscape
        identity = torch.eye(landscape.dimension, dtype=landscape.dtype)
        h = HessianOperator(landscape).matmat(identity)
        g = unit_gradients(landscape, torch.arange(len(batches[0][1]) * 2))
        curvatures = projected_curvatures(landscape, identity[:, ::9])
        # By hand, on a double copy: torch.func over the flat parameters, buffers passed anew.
        twin = made(factory).double().eval()
        x = torch.cat([b[0] for b in batches])
        x = x.double() if x.is_floating_point() else x
        y = torch.cat([b[1] for b in batches])
        named = dict(twin.named_parameters())
        sizes = [p.numel() for p in named.values()]

        def losses(flat, keep=slice(None)):
            pieces = {n: v.view(p.shape) for (n, p), v in zip(named.items(), flat.split(sizes), strict=True)}
            buffers = {n: b.clone() for n, b in twin.named_buffers()}
            return CE(functional_call(twin, {**pieces, **buffers}, (x[keep],)), y[keep])

        def gradient(flat, keep=slice(None)):
            leaf = flat.clone().requires_grad_()
            return torch.autograd.grad(losses(leaf, keep).mean(), leaf)[0]

        # Central differences of the gradient: `torch.func.hessian` is off by .04 through two layer norms (torch 2.15).
        flat, step = torch.cat([p.detach().reshape(-1) for p in named.values()]), 1e-5
        moves = step * identity
        dense = torch.stack([(gradient(flat + m) - gradient(flat - m)) / (2 * step) for m in moves], dim=1)
        fourth = gradient(flat, slice(3, 4))
    torch.testing.assert_close(h, dense, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(g[3], fourth, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(curvatures.mean(dim=0), dense[::9, ::9], rtol=1e-6, atol=1e-8)
    for key, value in state(model).items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in model.parameters())


def test_dicts_partial_freezing_compiled_shells_and_the_parameters_themselves():
    g = torch.Generator().manual_seed(0)
    batches = [{"x": torch.randn(4, 3, generator=g), "labels": torch.randint(0, 2, (4,), generator=g)}] * 3
    model = made(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    model[0].bias.requires_grad_(False)
    by_forward = subject(model, CE, batches, forward=lambda m, b: (m(b["x"]), b["labels"]))
    by_model = subject(torch.compile(model), lambda m, b: CE(m(b["x"]), b["labels"]), batches)
    assert by_forward.landscape.dimension == by_model.landscape.dimension == 6 + 6
    torch.testing.assert_close(by_forward.landscape.losses(), by_model.landscape.losses())
    assert by_forward.batch_sizes == (4, 4, 4) and by_forward.num_batches == 3
    part = subject(model, CE, batches, forward=lambda m, b: (m(b["x"]), b["labels"]), params=[model[1].weight])
    assert part.landscape.names == ["model.1.weight"]


def test_everything_is_left_as_it_was_also_by_an_error():
    model = made(Attention)
    model.layer.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    modes = [module.training for module in model.modules()]
    before = state(model)

    def shuffled():
        for number in torch.randperm(2).tolist():
            random.random(), np.random.rand()
            yield sequences()[number]

    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    fast = torch.backends.mha.get_fastpath_enabled()
    for loss in (classifier_loss, lambda model, batch: 1 / 0):
        drawn = torch.get_rng_state().clone(), random.getstate(), np.random.get_state()[1].copy()
        try:
            with quiet(model):
                subject(model, loss, shuffled(), stochastic="freeze")
        except ValueError as error:
            assert "ZeroDivisionError" in str(error)
        assert torch.equal(drawn[0], torch.get_rng_state()) and drawn[1] == random.getstate()
        assert (drawn[2] == np.random.get_state()[1]).all()
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
        assert all(torch.equal(value, before[key]) for key, value in state(model).items())
        assert torch.backends.mha.get_fastpath_enabled() is fast
        assert torch.backends.cuda.flash_sdp_enabled()


LINEAR = made(lambda: nn.Linear(3, 1))
X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.randn(6)
MSE = nn.MSELoss(reduction="none")


def frozen():
    model = nn.Linear(3, 1)
    return model.requires_grad_(False)


BAD = {
    "no parameters": (nn.ReLU(), MSE, [(X, Y)], {}, "must have parameters; ReLU has none"),
    "frozen": (frozen(), MSE, [(X, Y)], {}, "all 2 are frozen"),
    "broadcast": (LINEAR, MSE, [(X, Y)], {}, "squeeze the outputs"),
    "reduced": (LINEAR, nn.MSELoss(), [(X, Y[:, None])], {}, "reduction='none'"),
    "one number": (LINEAR, lambda model, b: model(b[0]).mean(), [(X, Y)], {}, "got one number"),
    "kept axis": (LINEAR, MSE, [(X, Y[:, None])], {}, "squeeze the last axis"),
    "infinite": (LINEAR, lambda model, b: model(b[0])[:, 0] / 0, [(X, Y)], {}, "6 of 6 losses are not"),
    "detached": (LINEAR, lambda model, b: model(b[0])[:, 0].detach(), [(X, Y)], {}, "no gradient"),
    "a string": (LINEAR, lambda model, b: "loss", [(X, Y)], {}, "must return a tensor"),
    "raises": (LINEAR, lambda model, b: b["x"], [(X, Y)], {}, "could not be computed"),
    "empty": (LINEAR, MSE, [], {}, "at least one batch"),
    "an empty batch": (LINEAR, MSE, [(X[:0], Y[:0])], {}, "batch 0 is empty"),
    "uneven": (LINEAR, MSE, [(X, Y[:4])], {}, "as many of everything"),
    "changing": (LINEAR, MSE, [(X, Y), (X[:, :2], Y)], {}, "batches alike"),
    "numpy": (LINEAR, MSE, [(X.numpy(), Y)], {}, "torch.from_numpy"),
    "one tensor": (LINEAR, MSE, X, {}, "iterable of batches"),
    "a number": (LINEAR, MSE, 3, {}, "iterable of batches"),
    "no pair": (LINEAR, MSE, [X], {}, "pairs"),
    "unknown name": (LINEAR, MSE, [(X, Y)], {"params": ["bais"]}, "bais"),
    "no names": (LINEAR, MSE, [(X, Y)], {"params": []}, "at least one parameter"),
    "half": (nn.Linear(3, 1).bfloat16(), MSE, [(X, Y)], {}, "bfloat16 a curvature is off"),
    "dropout": (nn.Sequential(LINEAR, nn.Dropout(0.1)), MSE, [(X, Y)], {}, r"1 \(Dropout\); call model.eval\(\)"),
    "random": (LINEAR, lambda model, b: (model(b[0]) * torch.rand(()))[:, 0], [(X, Y)], {}, "draws at random"),
    "no model": (lambda x: x, MSE, [(X, Y)], {}, "torch.nn.Module"),
    "no loss": (LINEAR, "mse", [(X, Y)], {}, "callable"),
    "mode": (LINEAR, MSE, [(X, Y)], {"stochastic": "off"}, "refuse, freeze or measure"),
    "integers": (LINEAR, MSE, [(X, Y)], {"dtype": torch.float16}, "float32 or torch.float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_what_to_change(case):
    model, loss, batches, options, message = BAD[case]
    with quiet(), pytest.raises((ValueError, TypeError), match=message) as raised:
        subject(model, loss, batches, **options)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("`check_assumptions(")
