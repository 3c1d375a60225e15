"""How fast: our training iteration beside the textbook loop, in one process, interleaved, on the same batches.

Nothing is downloaded: images are generated in CIFAR's shape. On a CPU the figure is the ratio of medians, since the
machine's absolute speed is nobody's claim; on a GPU also images/s, TFLOP/s against the floor, minutes for 200 epochs
and peak memory. A record carries the environment; committed records are compared, never edited.

Floor     one forward of PreActResNet-18 at batch 128 is 142 GFLOP; a lean PGD-10 AT step is 23 of them, AWP 26.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from empirical.data.resident import Data, epoch_order, load_data
from empirical.data.streams import generator
from empirical.network.preactresnet import FORWARD_FLOP_PER_IMAGE
from empirical.settings.method import MethodName
from empirical.settings.presets import make_training
from empirical.settings.training import Training
from empirical.training.attack import draw_starts
from empirical.training.cost import run_passes, step_passes
from empirical.training.numerics import numerics
from empirical.training.trainer import Trainer
from tests.benchmarks.race import environment
from tests.benchmarks.textbook import textbook_step

__all__ = ["UNITS", "batch_and_start", "benchmark_iterations", "benchmark_pipeline", "cifar_shaped", "gpu_environment"]

#: Forwards of the batch that a lean PGD-10 step needs, by method.
UNITS: dict[MethodName, int] = {"at": 23, "awp": 26}


def cifar_shaped(method: str, *, batch_size: int, batches: int = 4, **changes: Any) -> Training:
    """The published CIFAR-10 protocol on generated images of CIFAR's shape."""
    options = {
        "dataset": "generated",
        "train_size": batch_size * batches,
        "test_size": 1,
        "batch_size": batch_size,
        "masking_probe": 0,
        "augmentation": "reflect-crop-flip",
    }
    return make_training("cifar10", method, options | changes)


def benchmark_iterations(
    *,
    batch_size: int,
    repeats: int,
    device: str = "cpu",
    fast: Mapping[str, Any] | None = None,
    textbook_tf32: bool = False,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Seconds of one PGD-10 iteration of PreActResNet-18: textbook AT, our AT, our AWP; interleaved, medians.

    The three start from the same weights and see the same augmented batches and attack starts. Before any timing, our
    step in plain float32 is compared with the textbook's, and so is the fast settings'. They agree up to what one ulp
    does to sign steps where a gradient is near 0 (float64 tests hold the two loops equal to 1e-12).

    Args:
        batch_size: images a step.
        repeats: timed iterations of each, after one untimed.
        device: "cpu" or "cuda".
        fast: precision options of our side (`Precision`'s fields); the textbook is eager float32.
        textbook_tf32: allow TF32 in the textbook loop.
        note: called with a line after each round.

    Returns:
        A JSON record.
    """
    ours = {
        method: cifar_shaped(method, batch_size=batch_size, batches=repeats + 1, **dict(fast or {}))
        for method in ("at", "awp")
    }
    data = load_data(ours["at"].data, device=device)
    trainers = {method: Trainer(setting, seed=0, data=data, device=device) for method, setting in ours.items()}
    plain = cifar_shaped("at", batch_size=batch_size, batches=repeats + 1)
    textbook = Trainer(plain, seed=0, data=data, device=device)
    seconds: dict[str, list[float]] = {"textbook": [], "at": [], "awp": []}
    first_loss: dict[str, float] = {}
    with numerics(plain.precision):
        first_loss["plain"] = float(Trainer(plain, seed=0, data=data, device=device).step().loss)
    peak: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for name in seconds:
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            if name == "textbook":
                # Autotuned: the textbook loop at its best in float32, by TF32 convolutions or without.
                precision = dataclasses.replace(plain.precision, tf32=textbook_tf32, deterministic=False)
                with numerics(precision):
                    spent, loss = _timed(lambda: _textbook(textbook, repeat), device)  # noqa: B023
            else:
                with numerics(ours[name].precision):
                    spent, loss = _timed(lambda: trainers[name].step().loss, device)  # noqa: B023
            if device != "cpu":
                peak[name] = max(peak.get(name, 0.0), torch.cuda.max_memory_allocated() / 2**30)
            if repeat:  # the first round compiles, captures and warms caches
                seconds[name].append(spent)
            first_loss.setdefault(name, loss)
        if note is not None and repeat:
            note(", ".join(f"{name} {values[-1]:.3f} s" for name, values in seconds.items()))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    record: dict[str, Any] = {
        "batch_size": batch_size,
        "repeats": repeats,
        "device": device,
        "fast": dict(fast or {}),
        "textbook_tf32": textbook_tf32,
        "seconds": seconds,
        "median_seconds": median,
        "speedup": median["textbook"] / median["at"],
        "awp_overhead": median["awp"] / median["at"] - 1,
        "first_loss_relative_difference": abs(first_loss["plain"] / first_loss["textbook"] - 1),
        "first_loss_relative_difference_fast": abs(first_loss["at"] / first_loss["textbook"] - 1),
    }
    if device != "cpu":
        record["peak_gib"] = peak
    for method, units in UNITS.items():
        record[f"{method}_images_per_second"] = batch_size / median[method]
        record[f"{method}_tflops"] = units * FORWARD_FLOP_PER_IMAGE * batch_size / median[method] / 1e12
        record[f"{method}_minutes_per_200_epochs"] = published_minutes(method, median[method] / batch_size)
    return record


def published_minutes(method: MethodName, seconds_an_image: float) -> float:
    """Minutes of the published CIFAR-10 run, its evaluations after every epoch included, at a pace of training.

    Args:
        method: "at" or "awp".
        seconds_an_image: of a whole training step, its data included; an evaluation attacks by the same arithmetic,
            so that its passes are as fast.
    """
    published = make_training("cifar10", method)
    return run_passes(published) * seconds_an_image / step_passes(published) / 60


def _timed(step: Callable[[], torch.Tensor], device: str) -> tuple[float, float]:
    if device != "cpu":
        torch.cuda.synchronize()
    before = time.perf_counter()
    loss = step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - before, float(loss)


def _textbook(trainer: Trainer, iteration: int) -> torch.Tensor:
    """The textbook step on the batch and the starts that our step uses."""
    x, y, start = batch_and_start(trainer, iteration)
    attack = trainer.setting.method.attack
    assert attack is not None
    return textbook_step(trainer.model, trainer.optimizer, x, y, start, attack)


def batch_and_start(trainer: Trainer, iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, labels and the attack's start that the trainer's own step of that number uses."""
    x, y, _ = trainer._batch(iteration, fresh=False)
    attack = trainer.setting.method.attack
    assert attack is not None
    source = generator(trainer.seed, "attack", iteration, 0, device=trainer.device)
    return x, y, draw_starts(x.shape, attack, generator=source, device=trainer.device, dtype=x.dtype)[0]


def benchmark_pipeline(*, batch_size: int, batches: int, step_seconds: float, device: str = "cpu") -> dict[str, Any]:
    """The data pipeline's share of an epoch: order, gather, augmentation, pixels, against `step_seconds` a step.

    `step_seconds` is the time of a whole PGD-10 step at this batch size, the pipeline included.
    """
    setting = cifar_shaped("at", batch_size=batch_size, batches=batches)
    data: Data = load_data(setting.data, device=device)
    trainer = Trainer(dataclasses.replace(setting, network=_tiny(setting)), seed=0, data=data, device=device)
    trainer._batch(0, fresh=False)
    if device != "cpu":
        torch.cuda.synchronize()
    before = time.perf_counter()
    epoch_order(len(data.train), "shuffle", seed=0, epoch=1)
    for iteration in range(batches):
        trainer._batch(iteration, fresh=False)
    if device != "cpu":
        torch.cuda.synchronize()
    spent = (time.perf_counter() - before) / batches
    return {"pipeline_seconds_per_step": spent, "pipeline_share": spent / step_seconds}


def _tiny(setting: Training) -> Any:
    return dataclasses.replace(setting.network, name="convnet", widths=(1,))


def gpu_environment() -> dict[str, Any]:
    """What a number was measured on: device, driver libraries, threads, load."""
    found = {**environment(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found
