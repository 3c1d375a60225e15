"""Measuring a network: curvature, gradient noise, commutativity, quadratic approximation and the posterior.

Everything works on any torch model with a differentiable per-sample loss. Public names are looked up on first use, so
that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Alignment": "alignment",
    "AssumptionReport": "assumptions",
    "Branches": "ensemble",
    "Eigenpairs": "lanczos",
    "GradientCovarianceOperator": "operators",
    "HessianOperator": "operators",
    "Landscape": "landscape",
    "Measurement": "setting",
    "branch": "ensemble",
    "check_assumptions": "assumptions",
    "cross_fit_noise": "noise",
    "expansion_error": "expansion",
    "gradient_noise": "noise",
    "project_gradients": "operators",
    "repeated_share": "noise",
    "shuffled_transient_variance": "posterior",
    "spectral_density": "density",
    "subspace_change": "tracking",
    "top_eigenpairs": "lanczos",
    "trajectory_variance": "posterior",
    "trace": "density",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'empirical.measure' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
