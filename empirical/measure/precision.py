"""Full precision while a spectrum is measured: no TF32, no autocast.

TF32 keeps 10 mantissa bits and is PyTorch's default in cuDNN convolutions; bfloat16 autocast moves a Rayleigh quotient
by 12 %. Neither belongs in a Hessian, so every product of this package runs inside `full_precision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch TF32 and autocast off inside the block and restore both settings after it.

    Args:
        device: where the products run; off CUDA there is no TF32 and only autocast is suspended.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv) if device.type == "cuda" else ()  # pyright: ignore[reportAttributeAccessIssue]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device_type=device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
