"""Which data: the images, the subset of them, their labels' noise, and how they are augmented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from empirical.settings.fields import require_at_least, require_at_most, require_choices
from theory.model.setting import Setting, keyword_setting

__all__ = ["DATASETS", "PUBLISHED", "Augmentation", "DataSetting", "DatasetFacts", "DatasetName"]

DatasetName = Literal["cifar10", "cifar100", "svhn", "fashion-mnist", "digits", "generated"]
Augmentation = Literal["none", "reflect-crop-flip", "zero-crop-flip", "zero-crop-flip-rotate"]


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a data set before it is opened; `mean` and `std` are per channel, in units of [0, 1]."""

    title: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    published: bool = False  # whether adversarial training on it was published with its logs


#: Augmentation and normalisation as trained by Rice, Wong & Kolter 2020 (their scripts for the three data sets).
#: digits: 1,797 images without an official split; mean and deviation computed over all of them. generated: by design.
#: fashion-mnist: computed over the 60,000 training images (Xiao, Rasul & Vollgraf, arXiv:1708.07747); not augmented.
DATASETS: Mapping[DatasetName, DatasetFacts] = {
    "cifar10": DatasetFacts(
        title="CIFAR-10",
        num_classes=10,
        image_shape=(3, 32, 32),
        train_size=50_000,
        test_size=10_000,
        augmentation="reflect-crop-flip",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2471, 0.2435, 0.2616),
        published=True,
    ),
    "cifar100": DatasetFacts(
        title="CIFAR-100",
        num_classes=100,
        image_shape=(3, 32, 32),
        train_size=50_000,
        test_size=10_000,
        augmentation="zero-crop-flip-rotate",
        mean=(0.50708, 0.48655, 0.44092),
        std=(0.26733, 0.25644, 0.27615),
        published=True,
    ),
    "svhn": DatasetFacts(
        title="SVHN",
        num_classes=10,
        image_shape=(3, 32, 32),
        train_size=73_257,
        test_size=26_032,
        augmentation="none",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        published=True,
    ),
    "fashion-mnist": DatasetFacts(
        title="Fashion-MNIST",
        num_classes=10,
        image_shape=(1, 28, 28),
        train_size=60_000,
        test_size=10_000,
        augmentation="none",
        mean=(0.2860,),
        std=(0.3530,),
    ),
    "digits": DatasetFacts(
        title="digits",
        num_classes=10,
        image_shape=(1, 8, 8),
        train_size=1_200,
        test_size=597,
        augmentation="none",
        mean=(0.3053,),
        std=(0.3760,),
    ),
    "generated": DatasetFacts(
        title="generated images",
        num_classes=10,
        image_shape=(3, 32, 32),
        train_size=2_000,
        test_size=500,
        augmentation="reflect-crop-flip",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
}

#: The data sets on which adversarial training was published with its logs.
PUBLISHED: tuple[DatasetName, ...] = tuple(name for name, facts in DATASETS.items() if facts.published)


#: Bytes of images that may be resident; CIFAR-10 has 0.2 GiB.
LARGEST_DATA = 64 * 2**30


@keyword_setting
class DataSetting(Setting):
    """The training, validation and test images of a run. Every choice is deterministic in `split_seed`.

    Args:
        name: data set.
        train_size: training images after the validation split is taken; None for all that are left.
        validation_size: images held out of the training set for choosing checkpoints; the test set never is used so.
        test_size: test images; None for all.
        split_seed: seed of the subsets, the noisy labels and the generated images; not the run's seed, so that
            replicates of a run share their data.
        label_noise: share in [0, 1) of the training labels replaced by a uniformly drawn *other* class; the number is
            round(share × size) exactly.
        augmentation: crop, flip and rotation while training; None for the data set's published one.
        padding: pixels padded before the random crop (4 in the published protocols).
        image_size: side of generated images; None for the data set's own.
        nuisance: generated images only: standard deviation of the pixel noise beside the class template, in [0, 1].
        pool: side in pixels of the blocks over which images are averaged; it divides their sides. 1 leaves them.

    Raises:
        ValueError: if a value is out of range or a size exceeds what the data set has.
    """

    name: DatasetName = "digits"
    train_size: int | None = None
    validation_size: int = 0
    test_size: int | None = None
    split_seed: int = 0
    label_noise: float = 0.0
    augmentation: Augmentation | None = None
    padding: int = 4
    image_size: int | None = None
    nuisance: float = 0.15
    pool: int = 1

    def __post_init__(self) -> None:
        require_choices(self)
        if self.augmentation is None:
            object.__setattr__(self, "augmentation", self.facts.augmentation)
        require_at_least(self, train_size=1, test_size=1, validation_size=0, split_seed=0, padding=0, pool=1)
        require_at_least(self, image_size=4)
        require_at_most(self, train_size=10**8, test_size=10**8, validation_size=10**8, image_size=4096)
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"`DataSetting(label_noise=...)` must be in [0, 1); got {self.label_noise}.")
        side = self.image_size or self.facts.image_shape[1]
        if side % self.pool:
            raise ValueError(f"`DataSetting(pool=...)` must divide the images' side, {side}; got {self.pool}.")
        if not 0 <= self.nuisance <= 1:
            raise ValueError(f"`DataSetting(nuisance=...)` must be in [0, 1]; got {self.nuisance}.")
        if self.padding > side:
            raise ValueError(f"`DataSetting(padding=...)` must be <= {side}, the images' side; got {self.padding}.")
        size = (self.num_train + self.validation_size + (self.test_size or 0)) * math.prod(self.image_shape)
        if size > LARGEST_DATA:
            raise ValueError(
                f"`DataSetting(...)` must describe at most {LARGEST_DATA / 2**30:.0f} GiB of images; these are "
                f"{size / 2**30:,.0f} GiB."
            )
        if self.num_train < 1:
            raise ValueError(
                f"`DataSetting(validation_size=...)` must leave training images of {self.facts.train_size}; "
                f"got {self.validation_size}."
            )
        if self.name == "generated":
            return
        if self.image_size is not None:
            raise ValueError(
                f"`DataSetting(image_size=...)` is for generated images; got {self.image_size} for {self.name}."
            )
        wanted = (self.train_size or 1) + self.validation_size
        if wanted > self.facts.train_size:
            raise ValueError(
                f"`DataSetting(train_size=..., validation_size=...)` must add up to <= {self.facts.train_size} "
                f"for {self.name}; got {wanted}."
            )
        if (self.test_size or 0) > self.facts.test_size:
            raise ValueError(
                f"`DataSetting(test_size=...)` must be <= {self.facts.test_size} for {self.name}; got {self.test_size}."
            )

    @property
    def facts(self) -> DatasetFacts:
        """What is known of the data set."""
        return DATASETS[self.name]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.facts.image_shape
        return (channels, (self.image_size or height) // self.pool, (self.image_size or width) // self.pool)

    @property
    def num_train(self) -> int:
        """Training images in use."""
        return self.train_size if self.train_size is not None else self.facts.train_size - self.validation_size
