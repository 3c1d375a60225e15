"""The whole attack as one CUDA graph: ten forwards and backwards launched by one call.

At batch 128 an eager step of PreActResNet-18 issues some 1,500 kernels, about 16 ms of launching; an H200 would
compute them in less. A graph replays them without the CPU. Inputs are copied into the captured buffers; weights and
running statistics are read and written where they live, so optimizer steps between replays are seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from empirical.settings.attack import PGD
from empirical.training.attack import Attack

__all__ = ["GraphedAttack", "capture"]


class GraphedAttack:
    """`attack(setting, x, y, starts)` captured at the shapes of the given batch.

    Capturing runs the attack; the network's buffers (running batch-norm statistics) are put back afterwards.

    Args:
        attack: what is captured.
        model: the network that it runs.
        setting: the attack's setting.
        x: images; with `y` and `starts` an example of what the calls will be given.
        y: labels.
        starts: start perturbations.

    Raises:
        ValueError: if the batch is not on a CUDA device.
    """

    def __init__(self, attack: Attack, model: nn.Module, setting: PGD, x: Tensor, y: Tensor, starts: Tensor) -> None:
        self._x, self._y, self._starts = x.clone(), y.clone(), starts.clone()
        before = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._adversarial, self._replay = capture(lambda: attack(setting, self._x, self._y, self._starts), x.device)
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)

    def __call__(self, x: Tensor, y: Tensor, starts: Tensor) -> Tensor:
        """Adversarial inputs of this batch, the caller's own."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._starts.copy_(starts)
        self._replay()
        # The next replay writes over the captured output, and a step may hold two attacked batches (AWP's fresh one).
        return self._adversarial.clone()


def capture(computation: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """The computation's output, a tensor that stays, and what computes it anew there from the tensors it read.

    Runs the computation three times first, on a side stream, as CUDA graphs require.

    Raises:
        ValueError: if `device` is not a CUDA device.
    """
    if device.type != "cuda":
        raise ValueError(f"`Precision(cuda_graph=True)` needs a CUDA device; the batch is on {device}.")
    # Streams, the graph's memory and the generator it notes are those of the current device, which may be another.
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                computation()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = computation()
    return output, graph.replay
