"""Data: CIFAR-10, CIFAR-100, SVHN, scikit-learn's digits, and generated images, resident on the device as bytes."""

from empirical.data.augmentation import AugmentationDraw, augment, draw_augmentation
from empirical.data.resident import ORDERS, Data, Order, Split, epoch_order, load_data
from empirical.data.setting import AUGMENTATIONS, DATASETS, DataSetting
from empirical.data.sources import DataError
from empirical.data.streams import derived_seed, generator

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "ORDERS",
    "AugmentationDraw",
    "Data",
    "DataError",
    "DataSetting",
    "Order",
    "Split",
    "augment",
    "derived_seed",
    "draw_augmentation",
    "epoch_order",
    "generator",
    "load_data",
]
