"""The whole attack as one CUDA graph: ten forwards and backwards launched by one call.

At batch 128 an eager step of PreActResNet-18 issues some 1,500 kernels, about 16 ms of launching; an H200 would
compute them in less. A graph replays them without the CPU. Inputs are copied into the captured buffers; weights and
running statistics are read and written where they live, so optimizer steps between replays are seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from empirical.settings.attack import PGD

__all__ = ["GraphedAttack"]

Attack = Callable[[PGD, Tensor, Tensor, Tensor], Tensor]


class GraphedAttack:
    """`attack(setting, x, y, starts)` captured at the shapes of the given batch.

    The returned tensor is overwritten by the next call. Capturing runs the attack three times first, on a side stream,
    as CUDA graphs require; running batch-norm statistics are put back afterwards.

    Raises:
        ValueError: if the batch is not on a CUDA device.
    """

    def __init__(self, attack: Attack, setting: PGD, x: Tensor, y: Tensor, starts: Tensor) -> None:
        if not x.is_cuda:
            raise ValueError(f"`Precision(cuda_graph=True)` needs a CUDA device; the batch is on {x.device}.")
        self._x, self._y, self._starts = x.clone(), y.clone(), starts.clone()
        model_state = _module_state(attack)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                attack(setting, self._x, self._y, self._starts)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._adversarial = attack(setting, self._x, self._y, self._starts)
        with torch.no_grad():
            for buffer, kept in model_state:
                buffer.copy_(kept)

    def __call__(self, x: Tensor, y: Tensor, starts: Tensor) -> Tensor:
        """Adversarial inputs of this batch."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._starts.copy_(starts)
        self._graph.replay()
        return self._adversarial


def _module_state(attack: Attack) -> list[tuple[Tensor, Tensor]]:
    """Buffers of the network behind a bound method of the trainer, with copies of them."""
    model = getattr(getattr(attack, "__self__", None), "model", None)
    return [] if model is None else [(buffer, buffer.clone()) for buffer in model.buffers()]
