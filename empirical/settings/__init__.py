"""Every Setting of the network half, torch-free: what is trained, how it is judged, and what is measured of it.

The names of data sets, networks, methods, presets, norms, orders and modes stand here once, as the `Literal` types of
the fields that take them. What runs a Setting lives in `empirical.data`, `network`, `training` and `measure`.
"""

from empirical.settings.attack import PGD
from empirical.settings.awp import AWP
from empirical.settings.data import DATASETS, DatasetFacts, DataSetting
from empirical.settings.evaluation import Evaluation
from empirical.settings.measuring import EnsembleSetting, Measurement, Measuring
from empirical.settings.method import METHODS, Method
from empirical.settings.network import NETWORKS, NetworkSetting
from empirical.settings.precision import Precision
from empirical.settings.presets import PRESETS, Preset, make_training
from empirical.settings.schedule import LearningRate
from empirical.settings.separating import SeparationSetting
from empirical.settings.training import Training

__all__ = [
    "AWP",
    "DATASETS",
    "METHODS",
    "NETWORKS",
    "PGD",
    "PRESETS",
    "DataSetting",
    "DatasetFacts",
    "EnsembleSetting",
    "Evaluation",
    "LearningRate",
    "Measurement",
    "Measuring",
    "Method",
    "NetworkSetting",
    "Precision",
    "Preset",
    "SeparationSetting",
    "Training",
    "make_training",
]
