"""Several processes under `torchrun`, one global batch.

Every process draws the choices for the whole global batch from the same streams and works on its own rows, and
gradients are averaged with the weights that make them the global batch's mean gradient. So n processes compute what
one would, up to the order of sums; only batch normalisation differs, whose statistics are each process's own unless
`Training.sync_batch_norm` asks for the global batch's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from empirical.settings.training import Training

__all__ = ["SINGLE", "World", "join_world", "leave_world"]

T = TypeVar("T")

#: How long processes wait for the first one, which downloads, evaluates controls and writes evidence alone.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes."""

    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> slice:
        """This process's part of `count` samples: contiguous, sizes differing by at most one.

        Raises:
            ValueError: if there are fewer samples than processes.
        """
        if count < self.size:
            raise ValueError(
                f"`Training(batch_size=...)` must leave every process a sample of each batch; "
                f"a batch of {count} is shared by {self.size} processes."
            )
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def require_share(self, setting: Training) -> None:
        """Refuse a run in which some batch, the last of an epoch included, has fewer samples than there are processes.

        Raises:
            ValueError: if it has one.
        """
        self.rows(setting.data.num_train % setting.batch_size or setting.batch_size)

    def first_then_all(self, work: Callable[[bool], T]) -> T:
        """`work(True)` on the first process, and when it is done `work(False)` on the others: for what one prepares.

        Raises:
            ValueError: on the others, if it failed on the first, whose own error says why.
        """
        if self.rank == 0:
            failed = 1
            try:
                result = work(True)
                failed = 0
            finally:
                self.agree(failed)
            return result
        if self.agree(0):
            raise ValueError("the first process failed, and says why.")
        return work(False)

    def average_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers (running batch-norm statistics)."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)

    def synchronized(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network with batch norm over the processes' samples together: same names, same weights, alone the same.

        Raises:
            ValueError: if there are several processes without CUDA, for which PyTorch has no such layer.
        """
        if self.size == 1:
            return model
        if device.type != "cuda":
            raise ValueError(
                f"`--sync-batch-norm` must have a CUDA device for each process; got {self.size} on {device.type}."
            )
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def statistics(self, setting: Training) -> str:
        """Whose statistics batch norm takes in training, in words; empty where there is none, or one process."""
        if self.size == 1 or not setting.network.has_batch_norm:
            return ""
        return "the whole batch's (SyncBatchNorm)" if setting.sync_batch_norm else "each process's part of the batch"

    def agree(self, flag: int) -> int:
        """The largest flag of all processes: a signal that reached one of them stops all."""
        if self.size == 1:
            return flag
        largest = torch.tensor([flag], device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return int(largest.item())

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            distributed.barrier()


SINGLE = World()


def join_world(device: str) -> tuple[World, torch.device]:
    """Join the processes that `torchrun` started (nccl on CUDA, gloo on the CPU); alone without it.

    Returns:
        This process's place, and its own device.

    Raises:
        ValueError: if CUDA is asked for and absent.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("`--device cuda` must name a device that is there; this PyTorch sees no CUDA device.")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return SINGLE, chosen
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    return World(distributed.get_rank(), distributed.get_world_size()), chosen


def leave_world(world: World) -> None:
    """Leave the process group, if one was joined."""
    if world.size > 1:
        distributed.destroy_process_group()
