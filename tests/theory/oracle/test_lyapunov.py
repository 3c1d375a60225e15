"""The oracles agree with a sum of their own definition, and say so where they fail."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles import relative, stationary_pair_mp, unrolled_covariance
from tests.theory.strategies import rotation
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import METHODS, lyapunov_covariance
from theory.oracle.transition import transition
from theory.solution import NumericalError, Status, UnstableError


def problem(rates=(0.1, 0.7, 2.5)):
    turn, other = rotation(len(rates), 1), rotation(len(rates), 2)
    hessian, noise = (turn * np.array(rates)) @ turn.T, (other * np.arange(1.0, len(rates) + 1)) @ other.T
    return Quadratic(0.5 * (hessian + hessian.T), 0.5 * (noise + noise.T))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", [MomentumSGD(1.0, 0.5), MomentumSGD(0.4, 0.5, nesterov=True, weight_decay=0.1)])
def test_each_method_sums_the_recursion(method, optimizer):
    if method == "slycot":
        pytest.importorskip("slycot")
    step, inflow = transition(problem(), optimizer)
    summed = unrolled_covariance(step, inflow @ problem().dense_noise_cov() @ inflow.T, 400)
    solution = lyapunov_covariance(problem(), optimizer, method)
    assert solution.status is Status.OK
    assert relative(solution.state(), summed) < 1e-12  # two float64 solves at 1 − ρ ≥ 0.05
    assert solution.require() is solution.value


@pytest.mark.parametrize("method", METHODS)
def test_an_unstable_recursion_is_reported_by_every_method(method):
    solution = lyapunov_covariance(problem((0.1, 3.2)), MomentumSGD(1.0, 0.5), method)
    assert solution.status is Status.UNSTABLE and solution.value is None and solution.spectral_radius > 1
    with pytest.raises(UnstableError, match="spectral radius"):
        solution.require()


@pytest.mark.parametrize("method", ["direct", "bilinear"])
def test_an_answer_too_near_the_edge_is_called_inaccurate(method):
    gap = 1e-14
    near = Quadratic(np.array([0.5, 3.0 - 3 * gap]), np.ones(2))
    solution = lyapunov_covariance(near, MomentumSGD(1.0, 0.5), method)
    assert solution.status in (Status.INACCURATE, Status.FAILED, Status.UNSTABLE)
    with pytest.raises((NumericalError, UnstableError)):
        solution.require()


@pytest.mark.parametrize("gap", [1e-6, 1e-10])
def test_extended_precision_beats_float64_near_the_edge(gap):
    if np.finfo(np.longdouble).eps >= np.finfo(float).eps:
        pytest.skip("this platform's long double is a double")
    optimizer, curvature = MomentumSGD(1.0, 0.9), 3.8 * (1 - gap)
    exact = float(stationary_pair_mp((curvature, curvature), 1.0, optimizer)[0, 0])
    one = Quadratic(np.array([curvature]), np.ones(1))
    errors = {}
    for method in ("direct", "doubling"):
        solution = lyapunov_covariance(one, optimizer, method)
        errors[method] = abs(solution.value[0, 0] / exact - 1)
        assert errors[method] <= solution.error_bound, "the bound must hold"
    assert errors["doubling"] <= errors["direct"] / 10 + 1e-15


def test_usage_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"lyapunov_covariance\(method=\.\.\.\)"):
        lyapunov_covariance(problem(), MomentumSGD(0.1), "guess")
    wide = Quadratic(np.ones(41), np.ones(41))
    with pytest.raises(ValueError, match="up to 80; got 82"):
        lyapunov_covariance(wide, MomentumSGD(0.1), "direct")


@pytest.mark.parametrize(
    "optimizer",
    [
        MomentumSGD(0.3, 0.6),
        MomentumSGD(0.3, 0.6, nesterov=True, weight_decay=0.2),
        MomentumSGD(0.3, 0.6, dampening=0.25, weight_decay=0.2),
        MomentumSGD(0.3, 0.6, dampening=0.25, weight_decay=0.2, form="position"),
    ],
)
def test_the_transition_is_the_optimizers_step(optimizer):
    hessian, rng = problem().dense_hessian(), np.random.default_rng(4)
    w, v, xi = rng.standard_normal((3, 3))
    gradient = hessian @ w + optimizer.weight_decay * w + xi
    kept = (1 - optimizer.dampening) * gradient
    if optimizer.form == "position":
        v_next = optimizer.momentum * v - optimizer.learning_rate * kept
        w_next = w + v_next
    else:
        v_next = optimizer.momentum * v + kept
        step = gradient + optimizer.momentum * v_next if optimizer.nesterov else v_next
        w_next = w - optimizer.learning_rate * step
    matrix, inflow = transition(problem(), optimizer)
    assert np.allclose(matrix @ np.concatenate([w, v]) + inflow @ xi, np.concatenate([w_next, v_next]), atol=1e-14)
    extended, _ = transition(problem(), optimizer, np.longdouble)
    assert extended.dtype == np.longdouble and np.allclose(extended.astype(float), matrix, atol=1e-15)
