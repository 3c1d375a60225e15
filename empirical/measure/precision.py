"""Full precision while a spectrum is measured: no TF32, no autocast.

TF32 keeps 10 mantissa bits and is PyTorch's default in cuDNN convolutions; bfloat16 autocast moves a Rayleigh quotient
by 12 %. Neither belongs in a Hessian, so every product of this package runs inside `full_precision`.

Sums over all weights need care as well: on a CPU the float32 dot product and `vector_norm` of 11 million normal numbers
are off by 9e-4 and 4e-4 (a running sum in float32), which moved an eigenvalue of 200 to 200.16. `inner_products` sums
short slices in the vectors' dtype and the slices in float64; `norm` works in float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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


#: Elements summed in the vectors' own dtype before float64 takes over: shorter slices lose less where a few weights
#: carry a vector, and cost more calls (0.11 s for 30 vectors of 11 million weights, 0.06 s for one plain product).
SLICE = 2**12


def inner_products(rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ columns`` for ``(n, P)`` and ``(P, k)`` of one dtype, sums over P carried in float64: ``(n, k)``.

    Reductions on CUDA are trees and accurate as they are; there the product is one call.
    """
    size = rows.shape[1]
    if rows.dtype == torch.float64 or size <= SLICE or rows.device.type == "cuda":
        return (rows @ columns).double()
    total = torch.zeros(len(rows), columns.shape[1], dtype=torch.float64)
    for start in range(0, size, SLICE):
        total += rows[:, start : start + SLICE] @ columns[start : start + SLICE]
    return total


def norm(vector: Tensor) -> float:
    """Euclidean norm of a vector ``(P,)``, in float64."""
    return math.sqrt(sum(float(torch.linalg.vector_norm(v.double())) ** 2 for v in vector.split(2**20)))
