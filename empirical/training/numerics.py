"""PyTorch's process-wide switches of speed against exactness, set for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from empirical.settings.precision import Precision

__all__ = ["numerics", "without_tf32"]


@contextlib.contextmanager
def numerics(precision: Precision) -> Iterator[None]:
    """The switches as `precision` asks, restored afterwards."""
    cudnn: Any = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    try:
        cudnn.deterministic, cudnn.benchmark = precision.deterministic, not precision.deterministic
        with _float32_by("tf32" if precision.tf32 else "ieee"):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def without_tf32() -> contextlib.AbstractContextManager[None]:
    """Within, float32 means float32, whatever training allows itself."""
    return _float32_by("ieee")


@contextlib.contextmanager
def _float32_by(kind: str) -> Iterator[None]:
    """Matrix products and convolutions of float32 computed in `kind`, "ieee" or "tf32".

    By the names per operator alone: once a host has used them, PyTorch refuses to read the older `allow_tf32`; and put
    back, they leave the older ones readable to a host that knows no others.
    """
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore[reportAttributeAccessIssue]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = kind
        yield
    finally:
        for switch, kept in zip(switches, before, strict=True):
            switch.fp32_precision = kept
