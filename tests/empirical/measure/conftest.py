import pytest
import torch
from torch import nn

from empirical.measure.landscape import Landscape


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smooth_network(inputs: int = 8, hidden: int = 6, classes: int = 3, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()


def toy_data(count: int, inputs: int = 8, classes: int = 3, seed: int = 0, noise: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    teacher = torch.randn(inputs, classes, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    y = (x @ teacher + noise * torch.randn(count, classes, generator=generator, dtype=torch.float64)).argmax(dim=1)
    return x, y


def trained(network: nn.Module, x, y, steps: int = 150, rate: float = 0.3) -> nn.Module:
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


@pytest.fixture(scope="session")
def problem():
    """A trained smooth network's landscape (200 samples, 75 weights, uneven chunks) with dense H and C beside it."""
    x, y = toy_data(200)
    landscape = Landscape(trained(smooth_network(), x, y), x, y, chunk=64)
    return landscape, *dense(landscape)


def dense(landscape: Landscape):
    """Dense Hessian and covariance by other means: `torch.func.hessian` of the mean loss, per-sample `jacrev`."""
    from torch.func import functional_call, hessian, jacrev

    names, shapes = landscape.names, {n: p.shape for n, p in landscape.model.named_parameters()}

    def losses(flat):
        parameters, start = {}, 0
        for name in names:
            size = shapes[name].numel()
            parameters[name] = flat[start : start + size].view(shapes[name])
            start += size
        outputs = functional_call(landscape.model, parameters, (landscape.inputs,))
        return nn.functional.cross_entropy(outputs, landscape.targets, reduction="none")

    h = hessian(lambda flat: losses(flat).mean())(landscape.weights)
    gradients = jacrev(losses)(landscape.weights)
    centered = gradients - gradients.mean(dim=0)
    return h, centered.T @ centered / (len(gradients) - 1)
