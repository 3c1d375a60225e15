"""Second-order methods: the dense recursion with the preconditioner written out, limits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles import relative
from tests.theory.strategies import rotation
from theory.closed_form.preconditioned import (
    damped_newton_covariance,
    natural_gradient_covariance,
    preconditioned_covariance,
)
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.dense import preconditioned_transition, settled
from theory.solution import UnstableError

OPTIMIZERS = [
    MomentumSGD(0.05),
    MomentumSGD(0.05, 0.9, weight_decay=0.1),
    MomentumSGD(0.05, 0.9, form="position"),
    MomentumSGD(0.05, 0.8, nesterov=True),
    MomentumSGD(0.05, 0.9, dampening=0.9, discount=0.7),
]


def dense(spectrum, seed):
    turn = rotation(len(spectrum), seed)
    matrix = (turn * np.array(spectrum)) @ turn.T
    return 0.5 * (matrix + matrix.T)


PROBLEM = Quadratic(dense([0.3, 1.0, 2.0, 5.0], 1), dense([0.2, 1.0, 0.5, 3.0], 2))
HESSIAN, NOISE = PROBLEM.hessian, PROBLEM.noise_cov


def by_recursion(optimizer, preconditioner, problem=PROBLEM):
    step, inflow = preconditioned_transition(problem, optimizer, preconditioner)
    m = problem.dimension
    return settled(step, inflow @ problem.dense_noise_cov() @ inflow.T)[:m, :m]


def decayed(optimizer):
    return HESSIAN + optimizer.weight_decay * np.eye(4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_any_preconditioner_agrees_with_the_dense_recursion(optimizer):
    matrix = dense([0.2, 0.7, 1.0, 1.5], 3)
    assert relative(preconditioned_covariance(PROBLEM, optimizer, matrix), by_recursion(optimizer, matrix)) < 1e-13
    diagonal = np.array([0.2, 1.0, 0.5, 2.0])
    expected = by_recursion(optimizer, np.diag(diagonal))
    assert relative(preconditioned_covariance(PROBLEM, optimizer, diagonal), expected) < 1e-13


@pytest.mark.parametrize("damping", [0.0, 0.2, 10.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_damped_newton_agrees_with_the_dense_recursion(optimizer, damping):
    matrix = np.linalg.inv(decayed(optimizer) + damping * np.eye(4))
    assert relative(damped_newton_covariance(PROBLEM, optimizer, damping), by_recursion(optimizer, matrix)) < 1e-13


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_the_natural_gradient_of_the_noise_agrees_with_the_dense_recursion(optimizer):
    found = natural_gradient_covariance(PROBLEM, optimizer, "noise")
    assert relative(found, by_recursion(optimizer, np.linalg.inv(NOISE))) < 1e-13


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:3], ids=repr)
def test_the_natural_gradient_of_the_gradients_is_its_own_fixed_point(optimizer):
    curvature = decayed(optimizer)
    found = natural_gradient_covariance(PROBLEM, optimizer)
    assert relative(by_recursion(optimizer, np.linalg.inv(NOISE + curvature @ found @ curvature)), found) < 1e-13
    # Reached by re-estimating the Fisher matrix, from a start that knows nothing of it.
    law = np.eye(4)
    for _ in range(400):
        fisher = NOISE + curvature @ law @ curvature
        law = 0.5 * law + 0.5 * by_recursion(optimizer, np.linalg.inv(fisher)).astype(float)
    assert relative(found, law) < 1e-9


def test_newton_makes_every_direction_alike():
    optimizer = MomentumSGD(0.4, 0.6)
    inverse = np.linalg.inv(HESSIAN)
    expected = 0.4 * 1.6 / (0.4 * (3.2 - 0.4)) * inverse @ NOISE @ inverse
    assert relative(damped_newton_covariance(PROBLEM, optimizer), expected) < 1e-13


@pytest.mark.parametrize("rate", [1e-3, 0.1, 5.0])
def test_natural_gradient_without_momentum_samples_the_inverse_hessian_at_any_rate(rate):
    found = natural_gradient_covariance(PROBLEM, MomentumSGD(rate))
    assert relative(found, 0.5 * rate * np.linalg.inv(HESSIAN)) < 1e-13


def test_at_small_rates_both_fisher_matrices_sample_the_inverse_hessian():
    optimizer = MomentumSGD(1e-7, 0.9)
    expected = 1e-7 / 0.2 * np.linalg.inv(HESSIAN)
    for fisher in ("noise", "gradients"):
        assert relative(natural_gradient_covariance(PROBLEM, optimizer, fisher), expected) < 1e-5


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: preconditioned_covariance(PROBLEM, OPTIMIZERS[0], np.eye(3)), "must have shape"),
        (lambda: preconditioned_covariance(PROBLEM, OPTIMIZERS[0], -np.eye(4)), "positive definite"),
        (lambda: preconditioned_covariance(PROBLEM, OPTIMIZERS[0], np.triu(np.ones((4, 4)))), "symmetric"),
        (lambda: preconditioned_covariance(PROBLEM, OPTIMIZERS[0], np.full(4, np.nan)), "finite"),
        (lambda: damped_newton_covariance(PROBLEM, OPTIMIZERS[0], -1.0), ">= 0"),
        (lambda: natural_gradient_covariance(PROBLEM, OPTIMIZERS[3]), "heavy ball"),
        (lambda: natural_gradient_covariance(PROBLEM, OPTIMIZERS[0], "empirical"), "'noise' or 'gradients'"),
        (lambda: natural_gradient_covariance(Quadratic([1.0, 2.0], [1.0, 0.0]), OPTIMIZERS[0]), "without noise"),
    ],
)
def test_what_is_refused_is_named(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


def test_instability_is_an_error():
    with pytest.raises(UnstableError):
        damped_newton_covariance(PROBLEM, MomentumSGD(2.1))
    with pytest.raises(UnstableError, match="fisher='noise'"):
        natural_gradient_covariance(PROBLEM, MomentumSGD(5.0), "noise")
