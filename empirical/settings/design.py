"""The map of regimes: which runs ask when curvature rises at a decay, and how each of them is measured.

A fractional design over two data sets of real images: around one base on each, one factor at a time. What varies: η
and B, which set where the run stands below the edge of stochastic stability; images, capacity and length of the first
stage, which set how much loss is left at the decay; ε; normalisation; weight decay; the factor of the decay; AWP's γ.

Every run has one decay, at epoch 36 of 56 unless the regime says otherwise, and checkpoints in the last five epochs
before the placebo decay in the middle of the stage, the five after it, the last five before the decay, the first five
after it, and the last five of the run (`claims.series.windows_at`). The settings were chosen for cost and spread; no
curvature of any of these runs was in view (their time, and the robust losses of the two bases, were, on seed 99).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from empirical.settings.measuring import Measurement
from empirical.settings.presets import make_training
from empirical.settings.training import Training

__all__ = ["MEASUREMENT", "REGIMES", "SEED", "Regime"]

#: First seed of the map's runs: none of these was looked at when presets and designs were chosen.
SEED = 10
#: Few pairs on a part of the images: a second a checkpoint on one core.
MEASUREMENT = Measurement(
    eigenpairs=5, smallest=0, samples=200, probes=2, evaluated=400, dtype="float32", tolerance=0.03
)
_ALL: Mapping[str, Any] = {"epochs": 56, "milestones": (36.0,), "ema": 0.98, "evaluation_steps": 5}
_BASES: Mapping[str, Mapping[str, Any]] = {
    "digits-cpu": {"label_noise": 0.0, "steps": 5, "weight_decay": 5e-4},
    "fashion-cpu": {
        "train_size": 400,
        "validation_size": 0,
        "test_size": 400,
        "widths": (16, 32, 64),
        "normalization": "group",
        "epsilon": 0.1,
        "step_size": 0.05,
        "steps": 3,
        "learning_rate": 0.1,
        "batch_size": 32,
        "evaluation_every": 2,
        "train_probe": 1000,
    },
}


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One point of the design.

    Args:
        name: how readers know it.
        preset: whose base it changes.
        method: of training.
        changes: options of ``train``, as in `make_training`.
    """

    name: str
    preset: str
    method: str = "at"
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def training(self) -> Training:
        """The Setting of its runs."""
        given = {**_ALL, **_BASES[self.preset], **self.changes}
        milestone, epochs = int(given["milestones"][0]), int(given["epochs"])
        middle = milestone // 2
        within = (
            *(middle - offset for offset in (4, 0)),
            *(middle + offset for offset in (1, 4)),
            *(milestone - offset for offset in (4, 2, 1, 0)),
            *(milestone + offset for offset in (1, 3, 5)),
            *(epochs - offset for offset in (4, 2, 0)),
        )
        return make_training(self.preset, self.method, {**given, "checkpoint_epochs": within})


def _around(prefix: str, preset: str, points: Mapping[str, Mapping[str, Any]]) -> tuple[Regime, ...]:
    regimes: list[Regime] = []
    for name, changes in points.items():
        method = "standard" if changes.get("epsilon") == 0 else "awp" if "awp_gamma" in changes else "at"
        given = {key: value for key, value in changes.items() if method != "standard" or key != "epsilon"}
        regimes.append(Regime(name=f"{prefix}, {name}", preset=preset, method=method, changes=given))
    return tuple(regimes)


#: The design, in no order of importance.
REGIMES: tuple[Regime, ...] = (
    *_around(
        "digits",
        "digits-cpu",
        {
            "base": {},
            "η 0.02": {"learning_rate": 0.02},
            "η 0.2": {"learning_rate": 0.2},
            "batches of 128": {"batch_size": 128},
            "clean": {"epsilon": 0},
            "batch norm": {"normalization": "batch"},
            "AWP 0.005": {"awp_gamma": 0.005},
            "AWP 0.02": {"awp_gamma": 0.02},
            "ε 0.3": {"epsilon": 0.3, "step_size": 0.12},
        },
    ),
    *_around(
        "fashion",
        "fashion-cpu",
        {
            "base": {},
            "η 0.02": {"learning_rate": 0.02},
            "η 0.05": {"learning_rate": 0.05},
            "η 0.2": {"learning_rate": 0.2},
            "batches of 8, η 0.05": {"batch_size": 8, "learning_rate": 0.05},
            "batches of 128": {"batch_size": 128},
            "clean": {"epsilon": 0},
            "ε 0.04": {"epsilon": 0.04, "step_size": 0.02},
            "no norm": {"normalization": "none"},
            "batch norm": {"normalization": "batch"},
            "weight decay 5e-3": {"weight_decay": 5e-3},
            "factor 0.3": {"factor": 0.3},
            "200 images": {"train_size": 200},
            "narrow": {"widths": (8, 16, 32)},
            "decay at 20": {"milestones": (20.0,), "epochs": 40},
            "AWP 0.005": {"awp_gamma": 0.005},
            "AWP 0.02": {"awp_gamma": 0.02},
        },
    ),
)
