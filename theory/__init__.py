"""Momentum SGD near an optimum: closed forms, independent oracles, and a judge that compares them.

Public names are looked up on first use, so that importing one room does not import all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.closed_form.alignment import commutativity, commutativity_price
    from theory.closed_form.attribution import attribution
    from theory.closed_form.averaging import averaged_covariance, ema_covariance
    from theory.closed_form.correlation_time import integrated_autocorrelation_time
    from theory.closed_form.langevin import (
        exact_langevin_noise,
        langevin_covariance,
        langevin_problem,
        optimal_diagonal_preconditioner,
        optimal_learning_rate,
        optimal_preconditioner,
        target_divergence,
        target_preconditioner,
    )
    from theory.closed_form.minibatch_moments import (
        MinibatchMoments,
        minibatch_second_moments,
        stationary_minibatch_moments,
    )
    from theory.closed_form.pac_bayes import (
        BoundedLoss,
        DataDependentPrior,
        FixedPrior,
        PriorGrid,
        SubGaussianLoss,
        UnboundedLoss,
        pac_bayes_bound,
        pac_bayes_path,
        pac_bayes_terms,
    )
    from theory.closed_form.preconditioned import (
        damped_newton_covariance,
        natural_gradient_covariance,
        preconditioned_covariance,
    )
    from theory.closed_form.propagate import propagate
    from theory.closed_form.shuffling import epoch_shuffling_factor
    from theory.closed_form.stationary import stationary_covariance
    from theory.closed_form.transient import mean_path, transient_covariance
    from theory.judge.claim import Claim, Comparison, Experiment
    from theory.judge.evidence import Evidence
    from theory.judge.fluctuation import (
        FluctuationDissipation,
        first_fluctuation_dissipation,
        second_fluctuation_dissipation,
    )
    from theory.judge.verdict import Kind, Outcome, Verdict
    from theory.model.optimizer import MomentumSGD
    from theory.model.quadratic import Quadratic
    from theory.model.schedule import Schedule
    from theory.oracle.lyapunov import lyapunov_covariance
    from theory.oracle.simulate import Moments, Segment, Simulation, impulse_response, simulate, trajectory
    from theory.solution import NumericalError, Solution, UnstableError
    from theory.verification import verify

_HOMES = {
    "theory.closed_form.alignment": ("commutativity", "commutativity_price"),
    "theory.closed_form.attribution": ("attribution",),
    "theory.closed_form.averaging": ("averaged_covariance", "ema_covariance"),
    "theory.closed_form.correlation_time": ("integrated_autocorrelation_time",),
    "theory.closed_form.langevin": (
        "exact_langevin_noise",
        "langevin_covariance",
        "langevin_problem",
        "optimal_diagonal_preconditioner",
        "optimal_learning_rate",
        "optimal_preconditioner",
        "target_divergence",
        "target_preconditioner",
    ),
    "theory.closed_form.minibatch_moments": (
        "MinibatchMoments",
        "minibatch_second_moments",
        "stationary_minibatch_moments",
    ),
    "theory.closed_form.pac_bayes": (
        "BoundedLoss",
        "DataDependentPrior",
        "FixedPrior",
        "PriorGrid",
        "SubGaussianLoss",
        "UnboundedLoss",
        "pac_bayes_bound",
        "pac_bayes_path",
        "pac_bayes_terms",
    ),
    "theory.closed_form.preconditioned": (
        "damped_newton_covariance",
        "natural_gradient_covariance",
        "preconditioned_covariance",
    ),
    "theory.closed_form.propagate": ("propagate",),
    "theory.closed_form.shuffling": ("epoch_shuffling_factor",),
    "theory.closed_form.stationary": ("stationary_covariance",),
    "theory.closed_form.transient": ("mean_path", "transient_covariance"),
    "theory.judge.claim": ("Claim", "Comparison", "Experiment"),
    "theory.judge.evidence": ("Evidence",),
    "theory.judge.fluctuation": (
        "FluctuationDissipation",
        "first_fluctuation_dissipation",
        "second_fluctuation_dissipation",
    ),
    "theory.judge.verdict": ("Kind", "Outcome", "Verdict"),
    "theory.model.optimizer": ("MomentumSGD",),
    "theory.model.quadratic": ("Quadratic",),
    "theory.model.schedule": ("Schedule",),
    "theory.oracle.lyapunov": ("lyapunov_covariance",),
    "theory.oracle.simulate": ("Moments", "Segment", "Simulation", "impulse_response", "simulate", "trajectory"),
    "theory.solution": ("NumericalError", "Solution", "UnstableError"),
    "theory.verification": ("verify",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BoundedLoss",
    "Claim",
    "Comparison",
    "DataDependentPrior",
    "Evidence",
    "Experiment",
    "FixedPrior",
    "FluctuationDissipation",
    "Kind",
    "MinibatchMoments",
    "Moments",
    "MomentumSGD",
    "NumericalError",
    "Outcome",
    "PriorGrid",
    "Quadratic",
    "Schedule",
    "Segment",
    "Simulation",
    "Solution",
    "SubGaussianLoss",
    "UnboundedLoss",
    "UnstableError",
    "Verdict",
    "attribution",
    "averaged_covariance",
    "commutativity",
    "commutativity_price",
    "damped_newton_covariance",
    "ema_covariance",
    "epoch_shuffling_factor",
    "exact_langevin_noise",
    "first_fluctuation_dissipation",
    "impulse_response",
    "integrated_autocorrelation_time",
    "langevin_covariance",
    "langevin_problem",
    "lyapunov_covariance",
    "mean_path",
    "minibatch_second_moments",
    "natural_gradient_covariance",
    "optimal_diagonal_preconditioner",
    "optimal_learning_rate",
    "optimal_preconditioner",
    "pac_bayes_bound",
    "pac_bayes_path",
    "pac_bayes_terms",
    "preconditioned_covariance",
    "propagate",
    "second_fluctuation_dissipation",
    "simulate",
    "stationary_covariance",
    "stationary_minibatch_moments",
    "target_divergence",
    "target_preconditioner",
    "trajectory",
    "transient_covariance",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'theory' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
