"""Every public formula has an exact claim that runs it: the table, and proof that it is true."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import theory
from theory.claims import CLAIMS, EXPERIMENTS
from theory.claims.exact import DIGITS
from theory.judge.verdict import Kind

#: Formula to the claim that holds it against an oracle without statistics. The one table.
EXACT = {
    "adaptive_covariance": "adaptive-exact",
    "attribution": "attribution-exact",
    "averaged_covariance": "cycle-averages",
    "batch_sharpness": "batch-sharpness-exact",
    "binary_kl": "divergences-exact",
    "commutativity": "commutativity-measures",
    "commutativity_from_gradients": "commutativity-measures",
    "commutativity_price": "price-exact",
    "correlated_transient": "memory-exact",
    "continuous_time_law": "continuous-time-error",
    "total_correlation": "price-exact",
    "damped_newton_covariance": "second-order-laws",
    "ema_covariance": "exponential-average",
    "epoch_shuffling_factor": "shuffled-exact",
    "exact_langevin_noise": "optimal-sampling",
    "fluctuation_dissipation_constant": "dissipation-exact",
    "frozen_adaptive_covariance": "adaptive-exact",
    "gaussian_kl": "divergences-exact",
    "gaussian_wasserstein": "continuous-time-error",
    "gaussian_regression_law": "state-dependent-recursion",
    "increment_covariance": "stationary-exact",
    "integrated_autocorrelation_time": "cycle-averages",
    "interpolated_variance": "interpolation-exact",
    "kl_inverse": "divergences-exact",
    "lag_one_covariance": "stationary-exact",
    "langevin_covariance": "langevin-law",
    "langevin_problem": "langevin-law",
    "largest_stable_learning_rate": "stability-exact",
    "mean_path": "change-exact",
    "mean_square_edge": "mean-square-edge",
    "minibatch_second_moments": "minibatch-second-moments-exact",
    "natural_gradient_covariance": "second-order-laws",
    "optimal_diagonal_preconditioner": "optimal-sampling",
    "optimal_learning_rate": "optimal-sampling",
    "optimal_preconditioner": "optimal-sampling",
    "optimal_variance": "best-variance",
    "pac_bayes_bound": "bounds-exact",
    "pac_bayes_path": "posterior-path",
    "pac_bayes_terms": "posterior-path",
    "preconditioned_covariance": "optimal-sampling",
    "preconditioned_problem": "adaptive-exact",
    "propagate": "schedule-exact",
    "ridge_regression_law": "state-dependent-recursion",
    "second_moment_stability_limit": "state-dependent-stability",
    "settling_time": "interpolation-exact",
    "shuffled_covariance": "shuffled-exact",
    "stability": "stability-exact",
    "stationary_covariance": "stationary-exact",
    "stationary_mean": "stationary-exact",
    "stationary_minibatch_moments": "batches-settled",
    "stationary_variance": "stationary-exact",
    "target_divergence": "optimal-sampling",
    "target_preconditioner": "sandwich-sampling",
    "transient_covariance": "change-exact",
    "variance_correlation_time": "cycle-averages",
    "variance_elasticities": "elasticities-exact",
    "with_factors": "stationary-exact",
}
#: What predicts, but not to ten digits of anything that can be computed without it; the claim that judges it instead.
OTHERWISE = {
    "shuffled_regression_law": "minibatch-regression-shuffled",  # first order in what depends on the state
    "first_fluctuation_dissipation": "stationarity-level",  # an estimator from samples
    "second_fluctuation_dissipation": "stationarity-level",
}
#: Public functions that predict nothing: oracles, and what runs the register.
NO_FORMULA = {"impulse_response", "lyapunov_covariance", "simulate", "trajectory", "verify"}
#: An estimator from drawn samples alone, and the test that holds it.
ESTIMATORS = {"sampled_batch_sharpness": "tests/theory/closed_form/test_edge.py"}
BY_NAME = {claim.name: claim for claim in CLAIMS}
SETTINGS = {experiment.name: experiment.setting for experiment in EXPERIMENTS}


def called(run: Callable[[], object]) -> set[object]:
    """The code of every Python function that `run` enters."""
    found: set[object] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event == "call":
            found.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


@functools.cache
def entered_by(name: str) -> frozenset[object]:
    """What the predictor of an exact claim enters, on its own setting."""
    claim = BY_NAME[name]
    (experiment,) = claim.experiments
    setting = SETTINGS[experiment]("default")
    return frozenset(called(lambda: claim.predict(setting)))


def test_every_public_function_is_in_the_table_once():
    functions = {name for name in theory.__all__ if not isinstance(getattr(theory, name), type)}
    tables = (set(EXACT), set(OTHERWISE), NO_FORMULA, set(ESTIMATORS))
    assert functions == set().union(*tables)
    assert sum(map(len, tables)) == len(functions)


@pytest.mark.parametrize("formula", EXACT)
def test_its_claim_is_exact_and_has_decoys(formula):
    claim = BY_NAME[EXACT[formula]]
    assert claim.kind is Kind.IDENTITY and claim.margin is not None and claim.margin <= 1e-8
    assert claim.decoys


@pytest.mark.parametrize("formula", EXACT)
def test_its_claim_runs_it(formula):
    name = EXACT[formula]
    if len(BY_NAME[name].experiments) > 1 or BY_NAME[name].margin != 1e-10:
        source = sys.modules[BY_NAME[name].predict.__module__]
        assert getattr(source, formula) is getattr(theory, formula)  # judged case by case, in the comparison
        return
    assert getattr(theory, formula).__code__ in entered_by(name)


def test_an_estimator_is_held_by_its_test():
    root = Path(__file__).parents[3]
    for name, path in ESTIMATORS.items():
        assert f"{name}(" in (root / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("formula", OTHERWISE)
def test_what_has_no_exact_claim_has_another(formula):
    assert OTHERWISE[formula] in BY_NAME


#: Module of claims, or of what claims are made of, to the file of tests that holds it to known truths. The one table.
TESTED = {
    "adaptive": "test_real_noise.py",
    "averaging": "test_single_run.py",
    "bound_law": "test_bound_claims.py",
    "bounds": "test_bound_claims.py",
    "commutativity": "test_bound_claims.py",
    "drops": "test_transient_claims.py",
    "exact": "test_exact.py",
    "exact_adaptive": "test_exact.py",
    "exact_batches": "test_exact.py",
    "exact_bounds": "test_exact.py",
    "exact_continuous": "test_exact.py",
    "exact_paths": "test_exact.py",
    "exact_stationary": "test_exact.py",
    "family": "test_exact.py",
    "flatness": "test_bound_claims.py",
    "interpolation": "test_transient_claims.py",
    "minibatch_law": "test_minibatch_law.py",
    "moments": "test_stationary.py",
    "real_noise": "test_real_noise.py",
    "regression": "test_real_noise.py",
    "replicates": "test_replicates.py",
    "shown": "test_shown.py",
    "single_run": "test_single_run.py",
    "stationarity": "test_stationarity.py",
    "stationary": "test_stationary.py",
    "transient": "test_transient_claims.py",
}


def claims_of(module: str) -> set[str]:
    return {claim.name for claim in getattr(importlib.import_module(f"theory.claims.{module}"), "CLAIMS", ())}


def test_every_module_of_claims_has_its_file_of_tests():
    here = Path(__file__).parent
    modules = {path.stem for path in Path(theory.claims.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(TESTED) == modules
    for module, name in TESTED.items():
        text = (here / name).read_text(encoding="utf-8")
        if name == "test_exact.py":  # takes its claims from the whole register, by their margin
            judged = {claim.name for claim in CLAIMS if claim.margin == DIGITS}
        else:
            imported = re.findall(r"^from theory\.claims(?:\.(\w+))? import (.+)$", text, re.M)
            names = {word for stem, words in imported for word in ([stem] if stem else re.split(r",\s*", words))}
            judged = set().union(*map(claims_of, names))
            assert module in names or claims_of(module), (module, name)
        assert claims_of(module) <= judged, (module, name)
