"""Where a training step makes the host wait for the device: PyTorch's profiler over a step after the first few."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from empirical.data.resident import load_data
from empirical.settings.training import Training
from empirical.training.numerics import numerics
from empirical.training.trainer import Trainer

__all__ = ["WAITS", "trace_step"]

#: Calls after which the host knows a number that the device computed, or waits until it is idle.
WAITS = (
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"),
    *("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"),
)


def trace_step(setting: Training, *, device: str, warm: int = 3, longest: int = 20) -> dict[str, Any]:
    """Profile one step after `warm` others: how often it waits, and the operations and kernels that take longest.

    The profiler itself waits for the device once when it stops; that call lies outside the step.

    Args:
        setting: what is trained.
        device: "cpu" or "cuda".
        warm: steps that compile, capture and warm caches; their batches must not be the last of the epoch.
        longest: operations listed.
    """
    cuda = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with numerics(setting.precision):
        trainer = Trainer(setting, seed=0, data=load_data(setting.data, device=device), device=device)
        for _ in range(warm):
            trainer.step()
        with profile(activities=activities) as found, torch.profiler.record_function("step"):
            trainer.step()
    events = found.events() or []
    span = next(event for event in events if event.name == "step" and event.device_type.name == "CPU").time_range
    inside = [event for event in events if span.start <= event.time_range.start <= span.end]
    names = Counter(event.name for event in inside)
    spent: Counter[str] = Counter()
    for event in events:
        spent[event.name] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return {
        "waits": {name: names[name] for name in WAITS if names[name]},
        "events": sum(names.values()),
        "step_microseconds": span.elapsed_us(),
        "longest_microseconds": {name: value for name, value in spent.most_common(longest) if name != "step"},
    }
