r"""Is this machine fit to train on, and how long will it take? What one runs first on a new one.

Steps      `STEPS` of every method on generated images of CIFAR's shape: losses must be finite.
Equality   Three steps from one state by each way of computing (channels-last, compiled, graphed, bfloat16) against
           eager float32: losses to `TOLERANCES`, those of the later steps after updates of the weights. The tolerance
           is not rounding: where an input-gradient is near 0 one ulp flips the sign that the attack steps by, and ten
           attack steps amplify it.
Attack     An evaluation whose attack is run by the fast path against one in float32, on the same starts.
Resume     Two steps, a checkpoint, two more: equal to four steps, to the bit where the setting promises that.
Estimate   Minutes of a run as published, with its evaluation, from the passes it makes (`run_passes`). On CUDA from the
           steps timed here; on a CPU, where nobody will make that run, from a few forwards of its network.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from empirical.data import load_data
from empirical.settings.method import METHODS, MethodName
from empirical.settings.precision import FAST, Precision
from empirical.settings.presets import make_training
from empirical.settings.training import Training
from empirical.training.checkpoint import load_checkpoint, save_checkpoint
from empirical.training.cost import run_passes, seconds_of_a_pass, step_passes
from empirical.training.evaluate import evaluate
from empirical.training.numerics import numerics
from empirical.training.trainer import Trainer

__all__ = ["STEPS", "TOLERANCES", "Finding", "examine"]

STEPS = 20
#: Relative difference of the losses of three steps from eager float32.
TOLERANCES = {"channels-last": 5e-3, "compiled": 5e-3, "graph": 5e-3, "bfloat16": 5e-2}
#: What may separate robust losses by the fast attack and by float32's, relative.
ATTACK_TOLERANCE = 2e-2

Status = Literal["ok", "failed", "note"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    status: Status
    text: str


def examine(device: str) -> Iterator[Finding]:
    """Examine a device, a line at a time as it is found.

    Args:
        device: "cpu", "cuda" or "cuda:1", usable.
    """
    cuda = torch.device(device).type == "cuda"
    yield Finding("machine", "note", _machine())
    yield Finding("device", "note", _device(device))
    fast = Precision(**FAST) if cuda else Precision()
    yield Finding("training path", "note", f"{fast.summary}; evaluation counts in float32")
    seconds: dict[MethodName, float] = {}
    for method in METHODS:
        finding, seconds[method] = _steps(method, fast, device)
        yield finding
    for name, changes in _ways(cuda).items():
        yield _equality(name, changes, device)
    if cuda:
        yield _attack(fast, device)
    yield _resume(Precision(), device)
    yield from _estimates(fast, seconds, device)


def _ways(cuda: bool) -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {"channels-last": {"channels_last": True}, "compiled": {"compile": True}}
    if cuda:
        ways["graph"] = {"cuda_graph": True}
    return ways | {"bfloat16": {"autocast": "bfloat16"}}


def _machine() -> str:
    memory = "unknown memory"
    if hasattr(os, "sysconf"):
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory}; Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def _device(device: str) -> str:
    if torch.device(device).type == "cpu":
        return "cpu: a GPU is meant for photographs; digits and Fashion-MNIST have presets for a CPU"
    facts = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    driver = Path("/proc/driver/nvidia/version")
    version = driver.read_text().split("Kernel Module")[-1].split()[0] if driver.exists() else "unknown"
    return (
        f"{facts.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute {facts.major}.{facts.minor}; "
        f"driver {version}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )


def _setting(method: MethodName, precision: Precision, device: str, *, batches: int = STEPS) -> Training:
    """The published protocol on generated photographs; on a CPU a small network and small batches."""
    cuda = torch.device(device).type == "cuda"
    batch = 128 if cuda else 16
    changes: dict[str, Any] = {
        "dataset": "generated",
        "augmentation": "reflect-crop-flip",
        "batch_size": batch,
        "train_size": batch * batches,
        "test_size": 4 * batch,
        "masking_probe": 0,
        "awp_warmup": 0,
    }
    if not cuda:
        changes |= {"network": "convnet", "widths": (8, 16)}
    return replace(make_training("cifar10", method, changes), precision=precision)


def _trainer(setting: Training, device: str) -> Trainer:
    return Trainer(setting, seed=0, data=load_data(setting.data, device=device), device=device)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _steps(method: MethodName, precision: Precision, device: str) -> tuple[Finding, float]:
    """`STEPS` steps of a method, and the seconds of one (the median of those after the first few)."""
    setting = _setting(method, precision, device)
    losses, times = [], []
    with numerics(precision):
        trainer = _trainer(setting, device)
        for _ in range(STEPS):
            before = time.perf_counter()
            losses.append(float(trainer.step().loss))
            _wait(device)
            times.append(time.perf_counter() - before)
    typical = sorted(times[4:])[len(times[4:]) // 2]
    finite = all(loss == loss and abs(loss) != float("inf") for loss in losses)
    text = f"{STEPS} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}, {typical * 1e3:,.1f} ms a step"
    return Finding(method, "ok" if finite else "failed", text if finite else f"a loss is not finite: {losses}"), typical


def _equality(name: str, changes: dict[str, Any], device: str) -> Finding:
    """Steps by a way of computing against eager float32."""
    precision = replace(Precision(), **changes)
    try:
        losses = []
        for chosen in (Precision(), precision):
            with numerics(chosen):
                trainer = _trainer(_setting("at", chosen, device), device)
                losses.append([float(trainer.step().loss) for _ in range(3)])
    except Exception as error:  # a compiler that is not there, a driver too old: whatever it is, it is the answer
        reason = " ".join(str(error).split())[:200]
        return Finding(name, "failed", f"cannot be used here: {type(error).__name__}: {reason}")
    apart = max(abs(other - one) / abs(one) for one, other in zip(*losses, strict=True))
    within = apart <= TOLERANCES[name]  # false for NaN too
    text = f"three steps' losses within {apart:.1e} of eager float32 (tolerance {TOLERANCES[name]:g})"
    return Finding(name, "ok" if within else "failed", text)


def _attack(precision: Precision, device: str) -> Finding:
    """Robust loss and accuracy by the fast attack against float32's, after a few steps of training."""
    setting = _setting("at", precision, device)
    with numerics(precision):
        trainer = _trainer(setting, device)
        for _ in range(STEPS):
            trainer.step()
        found = [
            evaluate(
                trainer.model,
                trainer.data.test,
                setting.evaluation.attack,
                seed=0,
                batch_size=setting.evaluation.batch_size,
                attacked=attacked,
            )
            for attacked in (trainer.evaluation_attack, None)
        ]
    fast, exact = found
    apart = abs(fast.robust_loss - exact.robust_loss) / exact.robust_loss
    text = (
        f"robust loss by the fast attack within {apart:.1e} of float32's (tolerance {ATTACK_TOLERANCE:g}), accuracy "
        f"{fast.robust_accuracy:.3f} against {exact.robust_accuracy:.3f} on {fast.count} images"
    )
    return Finding("evaluation", "ok" if apart <= ATTACK_TOLERANCE else "failed", text)


def _resume(precision: Precision, device: str) -> Finding:
    """Four steps against two, a checkpoint, and two."""
    setting = _setting("awp", precision, device)
    with numerics(precision), TemporaryDirectory() as folder:
        whole = _trainer(setting, device)
        for _ in range(2):
            whole.step()
        path = Path(folder) / "checkpoint.pt"
        save_checkpoint(
            path,
            setting=setting,
            seed=0,
            iteration=2,
            model=whole.model,
            momentum=whole.momentum(),
            average=whole.average,
            data_digest=whole.data.digest,
        )
        resumed = Trainer.from_checkpoint(load_checkpoint(path), data=whole.data, device=device)
        for _ in range(2):
            whole.step()
            resumed.step()
    apart = max(
        float((one - other).abs().max())
        for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
        if one.is_floating_point()
    )
    text = "a resumed run is equal to the bit" if apart == 0 else f"a resumed run differs by {apart:.1e} in a weight"
    return Finding("resume", "ok" if apart == 0 else "failed", f"{precision.summary}: {text}")


def _estimates(fast: Precision, seconds: dict[MethodName, float], device: str) -> Iterator[Finding]:
    """Minutes of published runs here."""
    cuda = torch.device(device).type == "cuda"
    for method in ("at", "awp"):
        published = make_training("cifar10", method)
        if cuda:
            here = _setting(method, fast, device)
            a_pass = seconds[method] / (step_passes(here) * here.batch_size)
        else:
            a_pass = seconds_of_a_pass(published, device=device)
        minutes = run_passes(published) * a_pass / 60
        yield Finding(
            f"cifar10 {method}",
            "note",
            f"about {minutes:,.0f} minutes for the published {published.epochs} epochs with evaluation, data in memory"
            + ("" if cuda else f" ({minutes / 1440:,.0f} days: on a GPU, please)"),
        )
