"""Test images from a folder of ``.npy`` files: CIFAR-10.1 and the corrupted sets, as their authors published them.

CIFAR-10.1    ``NAME_data.npy`` and ``NAME_labels.npy`` (Recht et al. 2018, arXiv:1806.00451): one set, NAME
CIFAR-10-C    ``fog.npy``, ``blur.npy``, … and one ``labels.npy`` (Hendrycks & Dietterich 2019, arXiv:1903.12261): five
              severities, one after the other, of as many images as the data set has for testing: sets fog-1 … fog-5
Images are ``(N, H, W, C)`` of bytes, labels ``(N,)`` of whole numbers. Nothing is read that asks to run code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.data.sources import DataError, Images
from empirical.settings.data import DataSetting

__all__ = ["read_image_folder"]

SEVERITIES = 5


def read_image_folder(folder: str | Path, setting: DataSetting) -> Iterator[tuple[str, Images]]:
    """Every set of the folder with its name, in the order of the names; an array is read when its turn comes.

    Args:
        folder: holds the files.
        setting: data set whose shape and classes the images must have.

    Raises:
        DataError: if there is no set, a file is damaged, or it holds other images than the setting says.
    """
    where = f"`--test-folder {folder}`"
    files = sorted(Path(folder).glob("*.npy"))
    pairs = [
        (file.stem.removesuffix("_data"), file, labels)
        for file in files
        if not file.stem.endswith("labels") and (labels := _labels_of(file)) is not None
    ]
    if not pairs:
        raise DataError(
            f"{where} must hold images and labels, NAME_data.npy with NAME_labels.npy, or NAME.npy with labels.npy."
        )
    for name, file, labels in pairs:
        images, classes = _read(where, file), _read(where, labels)
        channels, height, width = setting.facts.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, channels):
            raise DataError(
                f"{where} must hold bytes of shape (N, {height}, {width}, {channels}) in {file.name}; "
                f"got {images.dtype} of shape {images.shape}."
            )
        if classes.dtype.kind not in "iu" or classes.shape != (len(images),):
            raise DataError(
                f"{where} must hold a whole number for each of {len(images)} images in {labels.name}; "
                f"got {classes.dtype} of shape {classes.shape}."
            )
        if len(images) == 0 or classes.min() < 0 or classes.max() >= setting.facts.num_classes:
            raise DataError(f"{where} must hold labels in [0, {setting.facts.num_classes}) in {labels.name}.")
        size = setting.facts.test_size
        severities = SEVERITIES if labels.stem == "labels" and len(images) == SEVERITIES * size else 1
        for severity in range(severities):
            part = slice(severity * len(images) // severities, (severity + 1) * len(images) // severities)
            yield (
                f"{name}-{severity + 1}" if severities > 1 else name,
                Images(
                    images=np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)),
                    labels=classes[part].astype(np.int64),
                ),
            )


def _labels_of(file: Path) -> Path | None:
    own = file.with_name(file.stem.removesuffix("_data") + "_labels.npy")
    shared = file.with_name("labels.npy")
    return next((path for path in (own, shared) if path.is_file()), None)


def _read(where: str, path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{where} could not read {path.name}: {' '.join(str(error).split())[:150]}.") from None
