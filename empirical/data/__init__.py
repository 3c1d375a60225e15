"""Data: photographs, Fashion-MNIST, scikit-learn's digits, and generated images, resident on the device as bytes."""

from empirical.data.augmentation import AugmentationDraw, augment, draw_augmentation
from empirical.data.resident import Data, Split, epoch_order, load_data
from empirical.data.sources import DataError
from empirical.data.streams import derived_seed, generator

__all__ = [
    "AugmentationDraw",
    "Data",
    "DataError",
    "Split",
    "augment",
    "derived_seed",
    "draw_augmentation",
    "epoch_order",
    "generator",
    "load_data",
]
