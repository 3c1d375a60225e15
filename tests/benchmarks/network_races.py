"""Races of the network half: training iterations, eigenpairs of the Hessian, gradient noise. CPU, generated images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from empirical.data.resident import load_data
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.operators import HessianOperator, project_gradients
from empirical.network.build import build_network
from empirical.settings.attack import PGD
from empirical.settings.data import DataSetting
from empirical.settings.network import NetworkName, NetworkSetting
from empirical.training.numerics import numerics
from empirical.training.trainer import Trainer
from tests.benchmarks.iterations import batch_and_start, cifar_shaped
from tests.benchmarks.race import Contender, Race
from tests.benchmarks.textbook import textbook_step

BATCH, PAIRS, DIRECTIONS = 8, 10, 10
MANY = 1000  # iterations that a trainer may be asked for
FORWARDS = 23  # of the batch, that a PGD-10 step needs


def lean_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, start: Tensor, attack: PGD
) -> Tensor:
    """A step written by hand for speed: input gradients alone in the attack, no forward but those that are needed."""
    model.train()
    weights = list(model.parameters())
    for weight in weights:
        weight.requires_grad_(False)
    low, high = (x - attack.epsilon).clamp_(0, 1), (x + attack.epsilon).clamp_(0, 1)
    moved = torch.minimum(torch.maximum(x + start, low), high)
    for _ in range(attack.steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(moved), y), moved)
        moved = moved.detach().add_(gradient.sign_(), alpha=attack.step_size)
        torch.maximum(moved, low, out=moved)
        torch.minimum(moved, high, out=moved)
    for weight in weights:
        weight.requires_grad_(True)
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(moved), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def training() -> Race:
    """One PGD-10 step of PreActResNet-18."""
    changes: dict[str, Any] = {"batch_size": BATCH, "batches": MANY // 8}
    ours = {method: cifar_shaped(method, **changes, channels_last=True) for method in ("at", "awp")}
    plain = cifar_shaped("at", **changes)
    data = load_data(plain.data)

    def trainer(setting):
        return Trainer(setting, seed=0, data=data)

    def by_hand(step, setting) -> Callable[[], float]:
        its, count = trainer(setting), iter(range(MANY))

        def run() -> float:
            x, y, start = batch_and_start(its, next(count))
            assert setting.method.attack is not None
            return float(step(its.model, its.optimizer, x, y, start, setting.method.attack))

        return run

    def our_step(method) -> Callable[[], float]:
        its = trainer(ours[method])

        def run() -> float:
            with numerics(ours[method].precision):
                return float(its.step().loss)

        return run

    first = {name: by_hand(step, plain)() for name, step in (("textbook", textbook_step), ("lean", lean_step))}
    network = trainer(ours["at"]).model
    image = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def forwards():
        with torch.no_grad():
            for _ in range(FORWARDS):
                network(image)

    return Race(
        title=f"one PGD-10 step of PreActResNet-18, CIFAR's shape, {BATCH} images, float32",
        contenders={
            "ours": Contender(run=our_step("at"), role="ours"),
            "ours with AWP": Contender(run=our_step("awp"), role="variant", most=1.15),
            "lean loop by hand": Contender(run=by_hand(lean_step, ours["at"]), least=1 / 1.05),
            "textbook loop": Contender(run=by_hand(textbook_step, plain), least=1.7),
            f"{FORWARDS} forwards": Contender(run=forwards, role="floor"),
        },
        errors=lambda answers: {
            name: abs(first[name] / our_step("at")() - 1) for name in first
        },  # one ulp of x + δ flips signs of gradients near 0: float64 tests hold the loops equal to 1e-12
        reference="the loss of ours, after the first step from the same weights, batch and start",
        tolerance=5e-3,
        facts={"PyTorch's own defaults": "the textbook loop; the lean loop has ours' memory format"},
    )


def untrained(name: NetworkName, images: int, widths: tuple[int, ...] = ()) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of CIFAR's shape with softplus, and `images` generated images."""
    data = DataSetting(name="generated", train_size=images, test_size=8)
    setting = NetworkSetting(
        name=name,
        widths=widths,
        num_classes=data.facts.num_classes,
        image_shape=data.image_shape,
        mean=data.facts.mean,
        std=data.facts.std,
        activation="softplus",
    )
    split = load_data(data).train
    return build_network(setting, seed=0).eval(), split.pixels(split.images), split.labels


def eigenpairs() -> Race:
    """Ten pairs, at the accuracy that the peer reaches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import curvlinops
    network, x, y = untrained("convnet", 16, (32, 64, 128))
    landscape = Landscape(network, x, y, dtype=torch.float32)

    def theirs():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operator = curvlinops.HessianLinearOperator(
                network, nn.CrossEntropyLoss(), list(network.parameters()), [(x, y)], check_deterministic=False
            )
            return eigsh(operator.to_scipy(), k=PAIRS, which="LA", tol=1e-3)

    values, vectors = theirs()
    operator = HessianOperator(landscape, method="double-backward")

    def residual(basis, theta):
        return float((operator.matmat(basis).double() - basis.double() * theta).norm(dim=0).max())

    wanted = residual(torch.as_tensor(vectors[:, ::-1].copy()), torch.as_tensor(values[::-1].copy()))
    operator.release()

    def ours():  # the graph is built anew, as the peer's is
        fresh = HessianOperator(landscape, method="double-backward")
        return top_eigenpairs(fresh, PAIRS, tolerance=wanted / float(values[-1]))

    def errors(answers):
        pairs, (found, _) = answers["top_eigenpairs"], answers["curvlinops and SciPy's eigsh"]
        reached = residual(pairs.basis, pairs.largest)
        assert reached <= 1.05 * wanted, (reached, wanted)
        return {"eigenvalues": float(np.abs(pairs.largest.numpy() / found[::-1] - 1).max())}

    return Race(
        title=f"ten largest eigenpairs of the Hessian, convnet of {landscape.dimension:,} weights, equal residuals",
        contenders={
            "top_eigenpairs": Contender(run=ours, role="ours"),
            "curvlinops and SciPy's eigsh": Contender(run=theirs, least=1 / 0.45),
        },
        errors=errors,
        reference="the peer's eigenvalues",
        tolerance=1e-2,
        facts={"images": len(x), "products of ours": ours().num_products},
    )


def small() -> tuple[Landscape, nn.Module, Tensor, Tensor]:
    """A trained-like small network, 256 images."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()
    x, y = torch.rand(256, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (256,))
    return Landscape(network, x, y, dtype=torch.float64), network, x, y


def power_iteration() -> Race:
    """Five pairs of a small network, beside power iteration with deflation as PyHessian does it."""
    landscape, network, x, y = small()
    parameters = list(network.parameters())

    def product(vector: list[Tensor]) -> list[Tensor]:
        slopes = torch.autograd.grad(functional.cross_entropy(network(x), y), parameters, create_graph=True)
        return list(torch.autograd.grad(slopes, parameters, grad_outputs=vector))

    def inner(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([(one * other).sum() for one, other in zip(a, b, strict=True)]).sum()

    def theirs(pairs: int = 5, tolerance: float = 1e-6, most: int = 2000) -> Tensor:
        torch.manual_seed(1)
        found: list[tuple[Tensor, list[Tensor]]] = []
        for _ in range(pairs):
            vector, value = [torch.randn_like(weight) for weight in parameters], torch.tensor(torch.inf)
            for _ in range(most):
                for _, old in found:
                    share = inner(vector, old)
                    vector = [part - share * other for part, other in zip(vector, old, strict=True)]
                length = inner(vector, vector).sqrt()
                vector = [part / length for part in vector]
                moved = product(vector)
                last, value = value, inner(moved, vector)
                if abs(value - last) <= tolerance * abs(value):
                    break
                vector = moved
            found.append((value, vector))
        return torch.stack([value for value, _ in found])

    def ours() -> Tensor:
        return top_eigenpairs(HessianOperator(landscape), 5, tolerance=1e-6).largest

    return Race(
        title="five largest eigenvalues of the Hessian, 4,810 weights, 256 images, float64",
        contenders={
            "top_eigenpairs": Contender(run=ours, role="ours"),
            "power iteration with deflation": Contender(run=theirs),
        },
        errors=lambda answers: {
            "eigenvalues": float(
                (answers["power iteration with deflation"] / answers["top_eigenpairs"] - 1).abs().max()
            )
        },
        reference="ours, whose residuals are below 1e-6 λ₁",
        tolerance=5e-2,  # power iteration stops by its own rule, and is off by what that leaves
    )


def gradient_noise() -> Race:
    """γ in ten directions: per-sample gradients projected, in units of one gradient."""
    network, x, y = untrained("preactresnet18", 16)
    landscape = Landscape(network, x, y, dtype=torch.float32)
    directions = torch.linalg.qr(torch.randn(landscape.dimension, DIRECTIONS))[0]
    parameters = {name: weight.detach() for name, weight in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def loss(weights, image, label):
        logits = functional_call(network, (weights, buffers), (image[None],))
        return functional.cross_entropy(logits, label[None])

    def theirs() -> Tensor:
        rows = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
        return torch.cat([row.reshape(len(x), -1) for row in rows.values()], dim=1) @ directions

    def ours() -> Tensor:
        return project_gradients(landscape, directions, method="per-sample-gradients").values

    return Race(
        title=f"per-sample gradients in ten directions, PreActResNet-18, {len(x)} images, float32",
        contenders={
            "project_gradients": Contender(run=ours, role="ours"),
            "torch.func, vmap of grad": Contender(run=theirs),
            "one gradient of the batch": Contender(run=landscape.gradient, role="floor", least=1 / 3),
        },
        errors=lambda answers: {
            "projections": float(
                (answers["torch.func, vmap of grad"] - answers["project_gradients"]).norm()
                / answers["project_gradients"].norm()
            )
        },
        reference="ours",
        tolerance=1e-4,
    )


RACES: dict[str, Callable[[], Race]] = {
    "training": training,
    "eigenpairs": eigenpairs,
    "power-iteration": power_iteration,
    "gradient-noise": gradient_noise,
}
