"""The public names exist, are the ones of their homes, and nothing else answers."""

from __future__ import annotations

import pytest

import theory


def test_every_public_name_is_found_at_home():
    for name in theory.__all__:
        assert getattr(theory, name).__module__.startswith("theory."), name
    assert set(theory.__all__) == set(theory._HOME) and theory.__dir__() == theory.__all__
    with pytest.raises(AttributeError, match="no attribute 'guess'"):
        theory.guess  # noqa: B018


@pytest.mark.parametrize(
    "names",
    [
        "stationary_covariance stationary_variance stationary_mean lag_one_covariance increment_covariance stability",
        "transient_covariance mean_path propagate interpolated_variance correlated_transient settling_time",
        "ema_covariance averaged_covariance integrated_autocorrelation_time variance_correlation_time",
        "epoch_shuffling_factor shuffled_covariance",
        "gaussian_regression_law ridge_regression_law shuffled_regression_law",
        "Adam RMSprop adaptive_covariance frozen_adaptive_covariance preconditioned_covariance ParameterGroups",
        "gaussian_kl binary_kl kl_inverse pac_bayes_terms pac_bayes_bound pac_bayes_path variance_elasticities",
        "attribution commutativity commutativity_price total_correlation largest_stable_learning_rate Status",
    ],
)
def test_what_a_theorist_needs_is_importable_from_theory(names):
    for name in names.split():
        assert name in theory.__all__ and callable(getattr(theory, name)), name


def test_every_covariance_with_diagnostics_is_a_solution():
    one, slow = theory.MomentumSGD(0.1, 0.5), theory.MomentumSGD(0.01, 0.5)
    problem = theory.Quadratic([1.0, 2.0], [1.0, 0.5])
    regression = theory.GaussianRegression(input_cov=[1.0, 2.0], label_noise_variance=0.5, batch_size=8)
    results = [
        theory.stationary_covariance(problem, one),
        theory.lyapunov_covariance(problem, one),
        theory.transient_covariance(problem, one, slow, [0, 3]),
        theory.propagate(problem, one, theory.Schedule.constant(0.1), [0, 3]),
        theory.correlated_transient(problem, one, slow, [0, 3], 0.2),
        theory.adaptive_covariance(problem, theory.Adam(learning_rate=0.01)),
        theory.gaussian_regression_law(regression, one),
    ]
    for result in results:
        assert isinstance(result, theory.Solution) and result.status is theory.Status.OK
        assert result.covariance is result.require() and result.covariance.shape[-2:] == (2, 2)
        assert 0 < result.spectral_radius < 1 and "\n" not in repr(result) and len(repr(result)) < 160


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda o, p: theory.stationary_covariance(o, p),
            r"`stationary_covariance\(problem=...\)` must be a Quadratic",
        ),
        (lambda o, p: theory.stationary_mean(p, 0.1), r"`stationary_mean\(optimizer=...\)` must be a MomentumSGD"),
        (lambda o, p: theory.mean_path(p, 0.1, [1.0, 1.0], 3), r"`mean_path\(optimizer=...\)` must be a MomentumSGD"),
        (lambda o, p: theory.transient_covariance(p, 0.1, o, 3), r"`transient_covariance\(before=...\)` must be a Mom"),
        (lambda o, p: theory.propagate(p, o, [0.1], 1), r"`propagate\(schedule=...\)` must be a Schedule"),
        (lambda o, p: theory.attribution(p, o, 0.1), r"`attribution\(after=...\)` must be a MomentumSGD; got float"),
        (lambda o, p: theory.lyapunov_covariance(o, p), r"`lyapunov_covariance\(problem=...\)` must be a Quadratic"),
        (lambda o, p: theory.simulate(p, seed=0), r"`simulate\(setting=...\)` must be a Simulation; got Quadratic"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(call, words):
    with pytest.raises(TypeError, match=words):
        call(theory.MomentumSGD(0.1), theory.Quadratic([1.0, 2.0], [1.0, 0.5]))
