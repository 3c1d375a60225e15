"""Where the images come from: scikit-learn's digits, a generator, Fashion-MNIST's idx files, torchvision's archives.

A source returns integers: pixel = value / scale, so that the whole set stays on the device as one byte a pixel (two
where pooled sums need them) and nothing is rounded (digits have 17 grey levels, scale 16; photographs 256, scale 255).
"""

from __future__ import annotations

import urllib.error
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from empirical.data.idx import DEBIAN, FASHION_FILES, fashion_folder, read_idx
from empirical.data.streams import derived_seed
from empirical.settings.data import DATASETS, DataSetting

__all__ = ["DataError", "Images", "RawData", "load_raw"]


class DataError(ValueError):
    """The data folder is missing, damaged, of another data set, or cannot be downloaded."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images ``(N, C, H, W)``, uint8 or int16, and labels ``(N,)`` int64; a pixel in [0, 1] is value / scale."""

    images: NDArray[np.integer]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RawData:
    """The official training and test images of a data set, before any subset is taken."""

    train: Images
    test: Images
    scale: int


def load_raw(setting: DataSetting, *, root: str | Path = "data", download: bool = True) -> RawData:
    """Read a data set.

    Args:
        setting: which one; subsets and label noise are not applied here.
        root: folder of the downloaded archives; unused by digits and generated. Fashion-MNIST is also found where
            Debian's package has it.
        download: fetch what is missing; archives of CIFAR-10, CIFAR-100 and SVHN are verified by checksum either way.

    Raises:
        DataError: if the archives are absent, damaged or of another data set, or the download fails.
    """
    if setting.name == "digits":
        raw = _digits(setting)
    elif setting.name == "generated":
        raw = _generated(setting)
    elif setting.name == "fashion-mnist":
        raw = _fashion(setting, Path(root), download)
    else:
        raw = _torchvision(setting, Path(root), download)
    return raw if setting.pool == 1 else _pooled(raw, setting.pool)


def _pooled(raw: RawData, side: int) -> RawData:
    """Means over blocks of `side` × `side` pixels, kept as sums under a larger scale so that nothing is rounded."""
    scale = raw.scale * side**2
    dtype = np.uint8 if scale <= np.iinfo(np.uint8).max else np.int16
    if scale > np.iinfo(dtype).max:
        raise DataError(f"`DataSetting(pool=...)` must keep the sum of a block within 16 bits; got {side}.")

    def pooled(part: Images) -> Images:
        count, channels, height, width = part.images.shape
        blocks = part.images.reshape(count, channels, height // side, side, width // side, side)
        return Images(images=blocks.sum(axis=(3, 5), dtype=dtype), labels=part.labels)

    return RawData(train=pooled(raw.train), test=pooled(raw.test), scale=scale)


def _digits(setting: DataSetting) -> RawData:
    """The 1,797 handwritten digits (Alpaydin & Kaynak 1998, UCI), split 1,200 to 597 by a seeded permutation."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("`DataSetting(name='digits')` needs scikit-learn; install the extra `empirical`.") from None
    bunch = load_digits()
    images = np.asarray(bunch.images, dtype=np.uint8)[:, None]  # pyright: ignore[reportAttributeAccessIssue]
    labels = np.asarray(bunch.target, dtype=np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    # The file's own order follows its writers; the permutation makes train and test exchangeable.
    order = np.random.default_rng(derived_seed(setting.split_seed, "split", 1)).permutation(len(labels))
    train, test = np.split(order, [setting.facts.train_size])
    return RawData(
        train=Images(images=images[train], labels=labels[train]),
        test=Images(images=images[test], labels=labels[test]),
        scale=16,
    )


def _generated(setting: DataSetting) -> RawData:
    """Images drawn around one smooth random template a class.

    image = clip(½ + contrast · template(class), shifted by up to 1/8 of the side + nuisance · N(0, 1)). The templates
    are 4×4 normal fields enlarged bilinearly, so that classes differ in low frequencies, as photographs do.
    """
    facts, side = setting.facts, setting.image_size or setting.facts.image_shape[1]
    rng = np.random.default_rng(derived_seed(setting.split_seed, "images"))
    coarse = rng.standard_normal((facts.num_classes, facts.image_shape[0], 4, 4))
    where = np.linspace(0, 3, side)
    low = np.minimum(where.astype(int), 2)
    weights = np.zeros((side, 4))
    weights[np.arange(side), low] = 1 - (where - low)
    weights[np.arange(side), low + 1] = where - low
    templates = np.einsum("ia,ncab,jb->ncij", weights, coarse, weights)
    reach = side // 8

    def draw(count: int) -> Images:
        labels = rng.integers(facts.num_classes, size=count)
        images = np.empty((count, facts.image_shape[0], side, side), dtype=np.uint8)
        for index in range(count):  # one image at a time: memory stays at one byte a pixel whatever the count
            shift = tuple(rng.integers(-reach, reach + 1, size=2)) if reach else (0, 0)
            image = 0.5 + 0.15 * np.roll(templates[labels[index]], shift, axis=(1, 2))
            image = image + setting.nuisance * rng.standard_normal(image.shape)
            images[index] = np.rint(255 * np.clip(image, 0, 1))
        return Images(images=images, labels=labels.astype(np.int64))

    # Test first: the training set can grow without changing it.
    test = draw(setting.test_size or facts.test_size)
    train = draw(setting.num_train + setting.validation_size)
    return RawData(train=train, test=test, scale=255)


def _fashion(setting: DataSetting, root: Path, download: bool) -> RawData:
    """Fashion-MNIST from disk, or fetched into `root` by torchvision and read from there."""
    where = f"`load_raw(name='fashion-mnist', root={str(root)!r})`"
    folder = fashion_folder(root)
    if folder is None and download:
        try:
            from torchvision import datasets

            datasets.FashionMNIST(str(root), download=True)
        except ImportError:
            raise DataError(f"{where} needs torchvision to download; install the extra `empirical`.") from None
        except (OSError, RuntimeError, ValueError, EOFError) as error:  # torchvision hides no network in RuntimeError
            raise DataError(
                f"{where} found no idx files and could not download them ({_first_line(error)}); with no network, put "
                f"the four files there, or install Debian's `dataset-fashion-mnist`."
            ) from None
        folder = fashion_folder(root)
    if folder is None:
        raise DataError(
            f"{where} must hold the four idx files of Fashion-MNIST (or {DEBIAN}, of Debian's `dataset-fashion-mnist`)."
        )
    parts = {}
    for part, (images, labels) in FASHION_FILES.items():
        try:
            pixels, classes = read_idx(folder / images), read_idx(folder / labels)
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: {_first_line(error)}.") from None
        parts[part] = Images(images=pixels[:, None], labels=classes.astype(np.int64))
        _check(where, parts[part], getattr(DATASETS["fashion-mnist"], f"{part}_size"), setting)
    return RawData(train=parts["train"], test=parts["test"], scale=255)


def _torchvision(setting: DataSetting, root: Path, download: bool) -> RawData:
    try:
        from torchvision import datasets
    except ImportError:
        raise DataError(
            f"`DataSetting(name={setting.name!r})` needs torchvision; install the extra `empirical`."
        ) from None
    where = f"`load_raw(name={setting.name!r}, root={str(root)!r})`"
    if not download and not root.is_dir():
        raise DataError(f"{where} must be an existing folder when downloading is off.")

    def part(train: bool) -> Images:
        if setting.name == "svhn":
            source = datasets.SVHN(str(root), split="train" if train else "test", download=download)
            images, labels = source.data, source.labels
        else:
            kind = datasets.CIFAR10 if setting.name == "cifar10" else datasets.CIFAR100
            source = kind(str(root), train=train, download=download)
            images, labels = source.data.transpose(0, 3, 1, 2), source.targets
        return Images(images=np.ascontiguousarray(images), labels=np.asarray(labels, dtype=np.int64))

    try:
        train, test = part(train=True), part(train=False)
    except urllib.error.URLError as error:
        raise DataError(
            f"{where} could not download ({error.reason}); with no network, put the archives there yourself "
            "and switch downloading off."
        ) from None
    except RuntimeError as error:  # torchvision: not found, or a checksum does not match
        hint = "is the folder right, and is the archive whole?" if not download else "delete it and try again."
        raise DataError(f"{where} is missing or damaged ({_first_line(error)}): {hint}") from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{where} could not be read ({_first_line(error)}).") from None
    _check(where, train, DATASETS[setting.name].train_size, setting)
    _check(where, test, DATASETS[setting.name].test_size, setting)
    return RawData(train=train, test=test, scale=255)


def _check(where: str, images: Images, size: int, setting: DataSetting) -> None:
    facts = setting.facts
    if images.images.shape != (size, *facts.image_shape) or images.images.dtype != np.uint8:
        raise DataError(
            f"{where} must hold {size} images of shape {facts.image_shape}, one byte a pixel; "
            f"got {images.images.shape} {images.images.dtype}."
        )
    if images.labels.shape != (size,) or images.labels.min() < 0 or images.labels.max() >= facts.num_classes:
        raise DataError(f"{where} must hold {size} labels in [0, {facts.num_classes}): is it another data set?")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
