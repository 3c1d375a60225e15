"""Reading files of tensors without running what may be hidden in them."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_tensors", "read_bytes"]


def read_bytes(where: str, path: str | Path) -> bytes:
    """The content of a file.

    Args:
        where: the caller, opening the message of every error.
        path: the file.

    Raises:
        ValueError: if the file is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{where} must be an existing file.") from None
    except OSError as error:
        raise ValueError(f"{where} must be a readable file; {error.strerror}.") from None


def load_tensors(where: str, content: bytes) -> Any:
    """Tensors, numbers, strings and containers of them, as `torch.save` wrote them, on the CPU.

    Args:
        where: the caller, opening the message of every error.
        content: the bytes of the file.

    Raises:
        ValueError: if the content is truncated or damaged, or asks to run code when it is read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # unusual pickle protocols: whether they load is what counts
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{where} must hold tensors and numbers only; it asks to run code: {_line(error)}") from None
    except Exception as error:  # the unpickler raises whatever a damaged stream makes it do
        raise ValueError(f"{where} must be a whole file; it is truncated or damaged: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
