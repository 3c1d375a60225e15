"""What a measurement will cost, said before it starts: work, seconds on this device, memory.

Every network that is to be measured is timed for a moment, in the way that its chain will run; what is measured already
is left out. The seconds are a forecast, which `cost.Watch` corrects as the work goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from empirical.measure.cost import Rates, duration, peak_bytes, rates
from empirical.measure.pipeline import Chain, Task, images_measured, tasks
from empirical.training.checkpoint import load_checkpoint

__all__ = ["planning"]


def planning(chains: Sequence[Chain], workers: int) -> tuple[list[Chain], list[str]]:
    """The chains with the rates of their networks here, and the plan in sentences.

    Args:
        chains: what is asked for.
        workers: chains measured at once.
    """
    known: dict[object, Rates] = {}
    timed, seconds, lines = [], [], []
    spectra, dynamics = 0, 0
    costliest: tuple[float, int, Task] | None = None
    fullest: tuple[int, int, int] = (0, 0, 0)
    for chain in chains:
        waiting = tasks(chain)
        if not waiting:
            timed.append(chain)
            continue
        device = chain.options.get("device", "cpu")
        item = load_checkpoint(chain.paths[0], device=device)
        measurement = chain.measurements[0]
        key = (item.setting.network, item.setting.method.objective, measurement.dtype, measurement.chunk)
        if key not in known:
            known[key] = _timed(item, chain)
        here = known[key]
        timed.append(dataclasses.replace(chain, rates=here))
        costs = [sum(stage.seconds(here) for stage in task.stages) for task in waiting]
        seconds.append(sum(costs))
        if chain.kind == "dynamics":
            dynamics += 1
            continue
        spectra += len(waiting)
        for cost, task in zip(costs, waiting, strict=True):
            images = images_measured(item.setting, task.measurement)
            if costliest is None or cost > costliest[0]:
                costliest = (cost, images, task)
            vectors, activations = peak_bytes(item.setting, task.measurement, images, here)
            fullest = max(fullest, (vectors + activations, vectors, task.measurement.chunk))
    if not known:
        return timed, ["plan: all of it is measured already"]
    modes = sorted({task.batch_norm for chain in chains for task in chain.measurements})
    lines.append(
        f"plan: {spectra} spectra (checkpoints × batch-norm modes {', '.join(modes)}), dynamics of {dynamics} runs, "
        f"{workers} at once on {chains[0].options.get('device', 'cpu')}; timed for a moment on "
        f"{', '.join(f'{here.weights:,} weights with {here.images} images' for here in known.values())}"
    )
    if costliest is not None:
        lines.append(_work(*costliest))
        lines.append(_memory(fullest, workers, chains[0].options.get("device", "cpu")))
    total = max(max(seconds), sum(seconds) / max(workers, 1))
    least = ", the dynamics at their least" if dynamics else ""
    lines.append(f"plan: about {duration(total)} in all{least}; Lanczos may take up to ten times its products")
    return timed, lines


def _timed(item, chain: Chain) -> Rates:
    before = torch.get_num_threads()
    torch.set_num_threads(chain.options.get("threads", 1))
    try:
        return rates(item, chain.measurements[0])
    finally:
        torch.set_num_threads(before)


def _work(cost: float, images: int, task: Task) -> str:
    totals: dict[str, float] = {}
    for stage in task.stages:
        for kind, samples in stage.samples.items():
            totals[kind] = totals.get(kind, 0.0) + samples / images
    names = {"product": "products with H", "covariance": "with C", "gradient": "gradients", "attack": "attack steps"}
    said = ", ".join(f"{totals[kind]:,.0f} {name}" for kind, name in names.items() if totals.get(kind))
    return f"plan: the costliest spectrum ({task.label}), {images:,} images: {said}: about {duration(cost)}"


def _memory(fullest: tuple[int, int, int], workers: int, device: str) -> str:
    whole, vectors, chunk = fullest
    gib = 2**30
    text = (
        f"plan: memory about {whole / gib:.1f} GiB at --chunk {chunk}, {vectors / gib:.1f} of them vectors as long as "
        f"the weights, however many images are measured"
    )
    free = _free_bytes(device)
    if free is not None and whole * (workers if device == "cpu" else 1) > free:
        text += f"; that is more than the {free / gib:.1f} GiB free: lower --chunk, --jobs or --groups"
    return text


def _free_bytes(device: str) -> int | None:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
