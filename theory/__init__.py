"""Momentum SGD near an optimum: closed forms, independent oracles, and a judge that compares them.

Public names are looked up on first use, so that importing one room does not import all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theory.closed_form.adaptive import (
        AdaptiveLaw,
        adaptive_covariance,
        frozen_adaptive_covariance,
        preconditioned_problem,
    )
    from theory.closed_form.alignment import (
        CommutativityPrice,
        commutativity,
        commutativity_from_gradients,
        commutativity_price,
        total_correlation,
    )
    from theory.closed_form.attribution import Attribution, attribution
    from theory.closed_form.averaging import averaged_covariance, ema_covariance
    from theory.closed_form.continuous_time import ContinuousTimeLaw, continuous_time_law
    from theory.closed_form.correlated import CorrelatedTransient, correlated_transient
    from theory.closed_form.correlation_time import integrated_autocorrelation_time, variance_correlation_time
    from theory.closed_form.divergence import binary_kl, gaussian_kl, gaussian_wasserstein, kl_inverse
    from theory.closed_form.edge import StabilityEdge, batch_sharpness, mean_square_edge, sampled_batch_sharpness
    from theory.closed_form.interpolation import interpolated_variance, settling_time
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
    from theory.closed_form.minibatch import (
        MinibatchLaw,
        gaussian_regression_law,
        ridge_regression_law,
        second_moment_stability_limit,
        shuffled_regression_law,
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
        PacBayesBound,
        PacBayesPath,
        PacBayesTerms,
        PriorGrid,
        SubGaussianLoss,
        UnboundedLoss,
        VarianceElasticities,
        optimal_variance,
        pac_bayes_bound,
        pac_bayes_path,
        pac_bayes_terms,
        variance_elasticities,
        with_factors,
    )
    from theory.closed_form.preconditioned import (
        damped_newton_covariance,
        natural_gradient_covariance,
        preconditioned_covariance,
    )
    from theory.closed_form.propagate import Propagation, propagate
    from theory.closed_form.shuffling import epoch_shuffling_factor, shuffled_covariance
    from theory.closed_form.stability import Stability, largest_stable_learning_rate, stability
    from theory.closed_form.stationary import (
        fluctuation_dissipation_constant,
        increment_covariance,
        lag_one_covariance,
        stationary_covariance,
        stationary_mean,
        stationary_variance,
    )
    from theory.closed_form.transient import Transient, mean_path, transient_covariance
    from theory.judge.claim import Claim, Comparison, Experiment
    from theory.judge.evidence import Evidence
    from theory.judge.fluctuation import (
        FluctuationDissipation,
        first_fluctuation_dissipation,
        second_fluctuation_dissipation,
    )
    from theory.judge.verdict import Kind, Outcome, Verdict
    from theory.model.adaptive import Adam, RMSprop
    from theory.model.noise import Gaussian, Rademacher, StudentT, Uniform
    from theory.model.optimizer import MomentumSGD, ParameterGroups
    from theory.model.quadratic import Quadratic
    from theory.model.regression import GaussianRegression, RidgeRegression, Sampling
    from theory.model.schedule import Schedule
    from theory.oracle.lyapunov import lyapunov_covariance
    from theory.oracle.simulate import Moments, Segment, Simulation, impulse_response, simulate, trajectory
    from theory.solution import NumericalError, Solution, Status, UnstableError
    from theory.verification import verify

_HOMES = {
    "theory.closed_form.adaptive": (
        "AdaptiveLaw",
        "adaptive_covariance",
        "frozen_adaptive_covariance",
        "preconditioned_problem",
    ),
    "theory.closed_form.alignment": (
        "CommutativityPrice",
        "commutativity",
        "commutativity_from_gradients",
        "commutativity_price",
        "total_correlation",
    ),
    "theory.closed_form.attribution": ("Attribution", "attribution"),
    "theory.closed_form.averaging": ("averaged_covariance", "ema_covariance"),
    "theory.closed_form.continuous_time": ("ContinuousTimeLaw", "continuous_time_law"),
    "theory.closed_form.correlated": ("CorrelatedTransient", "correlated_transient"),
    "theory.closed_form.correlation_time": ("integrated_autocorrelation_time", "variance_correlation_time"),
    "theory.closed_form.divergence": ("binary_kl", "gaussian_kl", "gaussian_wasserstein", "kl_inverse"),
    "theory.closed_form.interpolation": ("interpolated_variance", "settling_time"),
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
    "theory.closed_form.minibatch": (
        "MinibatchLaw",
        "gaussian_regression_law",
        "ridge_regression_law",
        "second_moment_stability_limit",
        "shuffled_regression_law",
    ),
    "theory.closed_form.edge": (
        "StabilityEdge",
        "batch_sharpness",
        "mean_square_edge",
        "sampled_batch_sharpness",
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
        "PacBayesBound",
        "PacBayesPath",
        "PacBayesTerms",
        "PriorGrid",
        "SubGaussianLoss",
        "UnboundedLoss",
        "VarianceElasticities",
        "optimal_variance",
        "pac_bayes_bound",
        "pac_bayes_path",
        "pac_bayes_terms",
        "variance_elasticities",
        "with_factors",
    ),
    "theory.closed_form.preconditioned": (
        "damped_newton_covariance",
        "natural_gradient_covariance",
        "preconditioned_covariance",
    ),
    "theory.closed_form.propagate": ("Propagation", "propagate"),
    "theory.closed_form.shuffling": ("epoch_shuffling_factor", "shuffled_covariance"),
    "theory.closed_form.stability": ("Stability", "largest_stable_learning_rate", "stability"),
    "theory.closed_form.stationary": (
        "fluctuation_dissipation_constant",
        "increment_covariance",
        "lag_one_covariance",
        "stationary_covariance",
        "stationary_mean",
        "stationary_variance",
    ),
    "theory.closed_form.transient": ("Transient", "mean_path", "transient_covariance"),
    "theory.judge.claim": ("Claim", "Comparison", "Experiment"),
    "theory.judge.evidence": ("Evidence",),
    "theory.judge.fluctuation": (
        "FluctuationDissipation",
        "first_fluctuation_dissipation",
        "second_fluctuation_dissipation",
    ),
    "theory.judge.verdict": ("Kind", "Outcome", "Verdict"),
    "theory.model.adaptive": ("Adam", "RMSprop"),
    "theory.model.noise": ("Gaussian", "Rademacher", "StudentT", "Uniform"),
    "theory.model.optimizer": ("MomentumSGD", "ParameterGroups"),
    "theory.model.quadratic": ("Quadratic",),
    "theory.model.regression": ("GaussianRegression", "RidgeRegression", "Sampling"),
    "theory.model.schedule": ("Schedule",),
    "theory.oracle.lyapunov": ("lyapunov_covariance",),
    "theory.oracle.simulate": ("Moments", "Segment", "Simulation", "impulse_response", "simulate", "trajectory"),
    "theory.solution": ("NumericalError", "Solution", "Status", "UnstableError"),
    "theory.verification": ("verify",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adam",
    "AdaptiveLaw",
    "Attribution",
    "BoundedLoss",
    "Claim",
    "CommutativityPrice",
    "Comparison",
    "ContinuousTimeLaw",
    "CorrelatedTransient",
    "DataDependentPrior",
    "Evidence",
    "Experiment",
    "FixedPrior",
    "FluctuationDissipation",
    "Gaussian",
    "GaussianRegression",
    "Kind",
    "MinibatchLaw",
    "MinibatchMoments",
    "Moments",
    "MomentumSGD",
    "NumericalError",
    "Outcome",
    "PacBayesBound",
    "PacBayesPath",
    "PacBayesTerms",
    "ParameterGroups",
    "PriorGrid",
    "Propagation",
    "Quadratic",
    "RMSprop",
    "Rademacher",
    "RidgeRegression",
    "Sampling",
    "Schedule",
    "Segment",
    "Simulation",
    "Solution",
    "Stability",
    "StabilityEdge",
    "Status",
    "StudentT",
    "SubGaussianLoss",
    "Transient",
    "UnboundedLoss",
    "Uniform",
    "UnstableError",
    "VarianceElasticities",
    "Verdict",
    "adaptive_covariance",
    "attribution",
    "averaged_covariance",
    "batch_sharpness",
    "binary_kl",
    "commutativity",
    "commutativity_from_gradients",
    "commutativity_price",
    "continuous_time_law",
    "correlated_transient",
    "damped_newton_covariance",
    "ema_covariance",
    "epoch_shuffling_factor",
    "exact_langevin_noise",
    "first_fluctuation_dissipation",
    "fluctuation_dissipation_constant",
    "frozen_adaptive_covariance",
    "gaussian_kl",
    "gaussian_regression_law",
    "gaussian_wasserstein",
    "impulse_response",
    "increment_covariance",
    "integrated_autocorrelation_time",
    "interpolated_variance",
    "kl_inverse",
    "lag_one_covariance",
    "langevin_covariance",
    "langevin_problem",
    "largest_stable_learning_rate",
    "lyapunov_covariance",
    "mean_path",
    "mean_square_edge",
    "minibatch_second_moments",
    "natural_gradient_covariance",
    "optimal_diagonal_preconditioner",
    "optimal_learning_rate",
    "optimal_preconditioner",
    "optimal_variance",
    "pac_bayes_bound",
    "pac_bayes_path",
    "pac_bayes_terms",
    "preconditioned_covariance",
    "preconditioned_problem",
    "propagate",
    "ridge_regression_law",
    "sampled_batch_sharpness",
    "second_fluctuation_dissipation",
    "second_moment_stability_limit",
    "settling_time",
    "shuffled_covariance",
    "shuffled_regression_law",
    "simulate",
    "stability",
    "stationary_covariance",
    "stationary_mean",
    "stationary_minibatch_moments",
    "stationary_variance",
    "target_divergence",
    "target_preconditioner",
    "total_correlation",
    "trajectory",
    "transient_covariance",
    "variance_correlation_time",
    "variance_elasticities",
    "verify",
    "with_factors",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time it is used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'theory' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
