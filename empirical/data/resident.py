"""The data of a run, resident on its device as bytes, and the order in which an optimizer sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from empirical.data.sources import Images, load_raw
from empirical.data.streams import derived_seed, generator
from empirical.settings.data import DataSetting
from empirical.settings.training import ORDERS, Order

__all__ = ["Data", "Split", "epoch_order", "load_data"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images ``(N, C, H, W)`` of integers and labels ``(N,)`` int64 on one device; a pixel is value / scale."""

    images: Tensor
    labels: Tensor
    scale: int

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, images: Tensor) -> Tensor:
        """float32 pixels in [0, 1] of stored images."""
        return images.float() / self.scale

    def first(self, count: int | None) -> Split:
        """The first `count` images, or all."""
        return Split(images=self.images[:count], labels=self.labels[:count], scale=self.scale)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(pixels, labels) in storage order, unaugmented, last partial batch kept."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self.pixels(self.images[start:stop]), self.labels[start:stop]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training, validation and test images; `digest` identifies bytes and labels of all three."""

    train: Split
    validation: Split
    test: Split
    digest: str


def load_data(
    setting: DataSetting, *, root: str | Path = "data", download: bool = True, device: torch.device | str = "cpu"
) -> Data:
    """Read, split, corrupt labels where asked, and move to `device`.

    The validation images and the training subset come from one permutation drawn from `split_seed`: validation first,
    so that it stays the same when the training subset grows.

    Raises:
        DataError: as `load_raw`.
    """
    raw = load_raw(setting, root=root, download=download)
    order = np.random.default_rng(derived_seed(setting.split_seed, "split")).permutation(len(raw.train.labels))
    held_out = order[: setting.validation_size]
    kept = order[setting.validation_size : setting.validation_size + setting.num_train]
    parts = {
        "train": _noisy(_take(raw.train, kept), setting),
        "validation": _take(raw.train, held_out),
        "test": _take(raw.test, np.arange(setting.test_size or len(raw.test.labels))),
    }
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(part.images.tobytes())
        digest.update(part.labels.tobytes())
    splits = {
        name: Split(
            images=torch.from_numpy(part.images).to(device),
            labels=torch.from_numpy(part.labels).to(device),
            scale=raw.scale,
        )
        for name, part in parts.items()
    }
    return Data(**splits, digest=digest.hexdigest()[:16])


def _take(images: Images, indices: np.ndarray) -> Images:
    return Images(images=np.ascontiguousarray(images.images[indices]), labels=images.labels[indices])


def _noisy(images: Images, setting: DataSetting) -> Images:
    count = round(setting.label_noise * len(images.labels))
    if count == 0:
        return images
    rng = np.random.default_rng(derived_seed(setting.split_seed, "label-noise"))
    chosen = rng.permutation(len(images.labels))[:count]
    labels = images.labels.copy()
    # A shift by 1 … K−1 modulo K is a uniformly drawn other class.
    labels[chosen] = (
        labels[chosen] + rng.integers(1, setting.facts.num_classes, size=count)
    ) % setting.facts.num_classes
    return Images(images=images.images, labels=labels)


def epoch_order(size: int, order: Order, *, seed: int, epoch: int) -> Tensor:
    """Indices ``(size,)`` in the order in which epoch `epoch` visits them.

    "shuffle" visits every sample once, in a fresh permutation; "replacement" draws each index independently, which is
    the sampling under which mini-batch noise is white.

    Raises:
        ValueError: if `order` is unknown.
    """
    source = generator(seed, "order", epoch)
    if order == "shuffle":
        return torch.randperm(size, generator=source)
    if order == "replacement":
        return torch.randint(0, size, (size,), generator=source)
    raise ValueError(f"`epoch_order(order=...)` must be one of {ORDERS}; got {order!r}.")
