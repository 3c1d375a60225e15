"""Fashion-MNIST from its four idx files, wherever they lie: found on disk, or fetched by torchvision.

Format    big-endian: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths (32 bits each), the bytes.
Places    the data root, its ``FashionMNIST/raw`` (torchvision's layout) and ``fashion-mnist``, then the folder of
          Debian's package ``dataset-fashion-mnist``; plain files or ``.gz``.
Source    Xiao, Rasul & Vollgraf, arXiv:1708.07747; the format is LeCun's, http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["FASHION_FILES", "fashion_folder", "read_idx"]

#: Where Debian's package puts the files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
#: Part to (images, labels).
FASHION_FILES = {
    part: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    for part, prefix in (("train", "train"), ("test", "t10k"))
}


def fashion_folder(root: Path) -> Path | None:
    """The first of the module's places that holds all four files; None where none does."""
    names = [name for pair in FASHION_FILES.values() for name in pair]
    for folder in (root, root / "FashionMNIST" / "raw", root / "fashion-mnist", DEBIAN):
        if all(_existing(folder / name) for name in names):
            return folder
    return None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an idx file of unsigned bytes, or in the ``.gz`` beside its name.

    Raises:
        ValueError: if the file is not whole, or is not such a file; one line that names it.
        OSError: if it cannot be read.
    """
    found = _existing(path)
    if found is None:
        raise FileNotFoundError(f"{path} is missing")
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{found} is truncated or damaged: {error}") from None
    axes = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\x00\x00\x08" or not axes or len(content) < 4 + 4 * axes:
        raise ValueError(f"{found} is no idx file of unsigned bytes: it begins with {content[:4].hex() or 'nothing'}")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if len(values) != math.prod(shape):
        raise ValueError(f"{found} is truncated or too long: {len(values)} bytes of {math.prod(shape)} for {shape}")
    return values.reshape(shape)


def _existing(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)
