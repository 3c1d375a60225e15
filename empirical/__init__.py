"""Adversarial training and what its curvature, noise and posterior look like: the empirical half of Spikeshrink.

Importing this package imports nothing heavy (no torch, no numpy): public names are looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AWP": "empirical.settings",
    "AssumptionMonitor": "empirical.monitor",
    "PGD": "empirical.settings",
    "PreActResNet18": "empirical.network.preactresnet",
    "awp": "empirical.training.awp",
    "check_assumptions": "empirical.measure",
    "gradient_noise": "empirical.measure",
    "load_checkpoint": "empirical.training.checkpoint",
    "pgd": "empirical.training.attack",
    "top_eigenpairs": "empirical.measure",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'empirical' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
