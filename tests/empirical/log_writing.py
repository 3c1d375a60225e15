"""Curves with a known truth, and the files that hold them: what the tests of the importer read is written here."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

HEADER = (
    "Epoch",
    "Train Time",
    "Test Time",
    "LR",
    "Train Loss",
    "Train Acc",
    "Train Robust Loss",
    "Train Robust Acc",
    "Test Loss",
    "Test Acc",
    "Test Robust Loss",
    "Test Robust Acc",
)
CANONICAL = (
    "epoch",
    "train_seconds",
    "test_seconds",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "train_robust_loss",
    "train_robust_accuracy",
    "test_loss",
    "test_accuracy",
    "test_robust_loss",
    "test_robust_accuracy",
)


def noise(count: int, sigma: float, rho: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary AR(1) series."""
    series = np.empty(count)
    series[0] = rng.normal() * sigma
    for t in range(1, count):
        series[t] = rho * series[t - 1] + rng.normal() * sigma * np.sqrt(1 - rho**2)
    return series


def training_run(
    *,
    epochs: int = 120,
    decays: Sequence[int] = (60, 90),
    ratio: float = 0.1,
    fall: Sequence[float] = (0.2, -0.1),
    rise: Sequence[float] = (0.004, 0.01),
    train_fall: Sequence[float] = (0.3, 0.2),
    before: float = 0.0,
    sigma: float = 0.015,
    rho: float = 0.2,
    offset: int = 1,
    level: float = 1.45,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Columns of a run: at each decay the test robust loss jumps down by `fall` and then moves by `rise` an epoch.

    Args:
        before: its slope ahead of the first decay.
        offset: epochs by which the log's learning rate runs ahead of the curves (1 in the public logs).
        level: test robust loss at the start of the plateau.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(epochs, dtype=float)
    rate = np.full(epochs, 0.1)
    test = level + before * t + 0.6 * np.exp(-t / 4)
    train = level - 0.05 + 0.6 * np.exp(-t / 4) - 0.0005 * t
    edges = [*decays, epochs]
    for index, start in enumerate(decays):
        rate[start - offset :] *= ratio
        length = edges[index + 1] - start
        test[start:] -= fall[index]
        test[start:] -= before * np.arange(epochs - start)
        test[start : edges[index + 1]] += rise[index] * np.arange(length)
        test[edges[index + 1] :] += rise[index] * length
        train[start:] -= train_fall[index] * (1 - np.exp(-(np.arange(epochs - start) + 1) / 3))
        train[start : edges[index + 1]] -= 0.004 * np.arange(length)
        train[edges[index + 1] :] -= 0.004 * length
    test = np.maximum(test + noise(epochs, sigma, rho, rng), 1e-3)
    train = np.maximum(train + noise(epochs, 0.002, 0.0, rng), 1e-3)
    accuracy = np.clip(1 - test / 2.4, 0, 1)
    return {
        "epoch": t,
        "train_seconds": np.full(epochs, 180.0),
        "test_seconds": np.full(epochs, 33.0),
        "learning_rate": rate,
        "train_loss": train * 0.6,
        "train_accuracy": np.clip(1 - train / 4, 0, 1),
        "train_robust_loss": train,
        "train_robust_accuracy": np.clip(1 - train / 2.4, 0, 1),
        "test_loss": test * 0.5,
        "test_accuracy": np.clip(1 - test / 5, 0, 1),
        "test_robust_loss": test,
        "test_robust_accuracy": accuracy,
    }


def text_log(
    columns: Mapping[str, np.ndarray],
    *,
    arguments: str = "attack='pgd', awp_size=0, batch_size=128, fname='experiments/cifar10_linf/base', seed=0",
    rows: Sequence[int] | None = None,
    head: bool = True,
) -> str:
    """The text format of the robust-overfitting family, a row an epoch."""
    lines = []
    if head:
        lines += [f"[2024/05/06 07:08:09] - Namespace({arguments})", "[2024/05/06 07:08:10] - " + " \t ".join(HEADER)]
    for row in range(len(columns["epoch"])) if rows is None else rows:
        values = [columns[name][row] for name in CANONICAL]
        cells = [f"{int(values[0])}", f"{values[1]:.1f}", f"{values[2]:.1f}", *(f"{value:.4f}" for value in values[3:])]
        lines.append(f"[2024/05/06 07:{row // 60 % 60:02d}:{row % 60:02d}] - " + " \t \t ".join(cells))
    return "\n".join(lines) + "\n"


def table(
    columns: Mapping[str, np.ndarray], path: Path, *, delimiter: str = ",", names: Sequence[str] = CANONICAL
) -> Path:
    """A delimited table; `names` rename the columns in the file."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(names)
        for row in range(len(columns["epoch"])):
            writer.writerow([f"{columns[name][row]:.6g}" for name in CANONICAL])
    return path


def json_lines(columns: Mapping[str, np.ndarray], path: Path) -> Path:
    """One nested object an epoch, arguments first."""
    lines = [json.dumps({"dataset": "cifar10", "method": "at", "seed": 3, "batch_size": 128})]
    for row in range(len(columns["epoch"])):
        item: dict = {"epoch": row, "lr": float(columns["learning_rate"][row])}
        for name in CANONICAL[4:]:
            split, rest = name.split("_", 1)
            item.setdefault(split, {})[rest] = float(columns[name][row])
        lines.append(json.dumps(item))
    path.write_text("\n".join(lines) + "\n")
    return path


def event_record(data: bytes, crc) -> bytes:
    """A TFRecord, its checksums from `crc`."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", crc(length)) + data + struct.pack("<I", crc(data))
