"""One stability rule, against the roots themselves; what is unstable is part of the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import relative, unrolled_covariance
from tests.theory.strategies import optimizers, rotation
from theory.closed_form.propagate import propagate
from theory.closed_form.stability import largest_stable_learning_rate, stability
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD, ParameterGroups
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.lyapunov import lyapunov_covariance
from theory.oracle.transition import transition
from theory.solution import Status, UnstableError


def radii(curvatures, optimizer):
    """Largest modulus of the roots of each mode's transition, from a dense eigenvalue solver."""
    problems = (Quadratic(np.array([curvature]), np.ones(1)) for curvature in curvatures)
    return np.array([np.abs(np.linalg.eigvals(transition(one, optimizer)[0])).max() for one in problems])


def test_nesterov_beyond_its_own_limit_is_not_within_heavy_balls():
    edge = stability([20.0], MomentumSGD(0.1, 0.9, nesterov=True))
    assert edge.ratio[0] == pytest.approx(1.474, abs=5e-4) and not edge.stable[0]
    assert edge.reasons == ("step too long",)
    assert stability([20.0], MomentumSGD(0.1, 0.9)).ratio[0] == pytest.approx(0.526, abs=5e-4)
    assert edge.largest_stable_learning_rate == pytest.approx(0.1 / 1.474, rel=1e-3)
    # Dampening scales the gradient that enters the buffer; without momentum there is no buffer.
    assert stability([20.0], MomentumSGD(0.1, 0.9, dampening=0.5)).ratio[0] == pytest.approx(1 / 3.8)
    assert stability([20.0], MomentumSGD(0.1, dampening=0.5)).ratio[0] == pytest.approx(1.0)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), share=st.sampled_from([-3.0, -1e-6, 1e-6, 0.3, 0.999999, 1.000001, 2.5]))
def test_the_ratio_crosses_0_and_1_where_the_roots_leave_the_circle(data, share):
    optimizer = replace(data.draw(optimizers(largest_momentum=0.95)), learning_rate=data.draw(st.floats(0.01, 10.0)))
    # A curvature at that share of the limit, found through the rate: the limit at curvature 1 + decay.
    limit = largest_stable_learning_rate(1.0, replace(optimizer, weight_decay=0.0))
    curvature = share * limit / optimizer.learning_rate - optimizer.weight_decay
    edge = stability([curvature], optimizer)
    assert edge.ratio[0] == pytest.approx(share, rel=1e-9)
    found = radii([curvature], optimizer)[0]
    assert bool(edge.stable[0]) == (found < 1)
    assert edge.spectral_radius[0] == pytest.approx(found, rel=1e-7)
    assert edge.reasons[0] == ("not pulled back" if share < 0 else "step too long" if share > 1 else "stable")


def test_a_problem_is_judged_mode_by_mode_with_and_without_groups():
    turn = rotation(3, 2)
    dense = (turn * np.array([-0.2, 0.0, 30.0])) @ turn.T
    problem = Quadratic(0.5 * (dense + dense.T), np.eye(3))
    edge = stability(problem, MomentumSGD(0.1, 0.9, weight_decay=0.1))
    assert edge.reasons == ("not pulled back", "stable", "stable")
    assert edge.largest_stable_learning_rate == 0.0
    assert "2 of 3 modes stable" in repr(edge) and len(repr(edge)) < 160
    grouped = MomentumSGD(0.1, 0.9, weight_decay=0.5, groups=ParameterGroups(rate_factors=[1.0, 4.0, 0.5]))
    found = stability(problem, grouped)
    step, _ = transition(problem, grouped)
    assert found.spectral_radius.max() == pytest.approx(np.abs(np.linalg.eigvals(step)).max(), rel=1e-9)
    with pytest.raises(ValueError, match="parameter groups"):
        stability([1.0, 2.0, 3.0], grouped)
    with pytest.raises(TypeError, match=r"`stability\(optimizer=...\)` must be a MomentumSGD; got float"):
        stability([1.0], 0.1)
    with pytest.raises(ValueError, match="finite curvatures"):
        stability([np.nan], MomentumSGD(0.1))


REAL = {
    "singular": np.array([0.0, 1.0, 4.0]),
    "a rounded zero": np.array([-3.6e-16, 1.0, 4.0]),
    "a saddle": np.array([-0.05, 1.0, 4.0]),
}


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("dense", [False, True])
def test_real_hessians_have_a_law_wherever_weight_decay_gives_one(kind, dense):
    noise = np.diag([0.5, 1.0, 2.0]) + 0.1
    hessian, turn = REAL[kind], rotation(3, 7)
    if dense:
        hessian = (turn * hessian) @ turn.T
        hessian = 0.5 * (hessian + hessian.T)
    problem = Quadratic(hessian, noise)
    held = MomentumSGD(0.1, 0.9, weight_decay=0.1)
    law = stationary_covariance(problem, held)
    oracle = lyapunov_covariance(problem, held)
    assert relative(law.state(), oracle.state()) <= law.error_bound + oracle.error_bound
    free = replace(held, weight_decay=0.0)
    decided = kind == "a saddle" or not dense  # rounding decides the sign of a dense zero
    if decided:
        with pytest.raises(UnstableError, match=r"weight_decay=.*must exceed .*mode 0 .*is not pulled back"):
            stationary_covariance(problem, free)
        with pytest.raises(UnstableError, match="is not pulled back"):
            stationary_variance(problem, free)
    # A finite number of steps has a law in any case, and says that it does not settle.
    late = transient_covariance(problem, None, free, [1, 50], np.eye(3))
    step, inflow = transition(problem, free, np.longdouble)
    forcing = inflow @ problem.dense_noise_cov() @ inflow.T
    for index, k in enumerate((1, 50)):
        power = np.linalg.matrix_power(step, k)
        start = np.zeros((6, 6), dtype=np.longdouble)
        start[:3, :3] = np.eye(3)
        expected = power @ start @ power.T + unrolled_covariance(step, forcing, k)
        assert relative(late.state()[index], expected) <= 1e-11
    if decided:
        assert late.status is Status.UNSETTLED and late.stability.reasons[0] == "not pulled back"
    assert late.require().shape == (2, 3, 3)


def test_a_rank_deficient_gram_matrix_is_a_problem():
    inputs = np.random.default_rng(0).standard_normal((5, 8))
    problem = Quadratic(inputs.T @ inputs / 5, np.eye(8))
    edge = stability(problem, MomentumSGD(0.1, 0.9, weight_decay=1e-3))
    assert edge.stable.all()
    law = stationary_covariance(problem, MomentumSGD(0.1, 0.9, weight_decay=1e-3))
    oracle = lyapunov_covariance(problem, MomentumSGD(0.1, 0.9, weight_decay=1e-3))
    assert relative(law.value, oracle.value) <= law.error_bound + oracle.error_bound


def test_a_catapult_is_run_through_and_comes_back():
    """Ten steps far beyond the edge, then within: the law follows, and the status says where there was none."""
    problem = Quadratic.from_spectra([-0.02, 1.0, 10.0], [1.0, 0.3, 2.0], rotation=0.7, optimum=[1.0, 0.5, -0.5])
    optimizer = MomentumSGD(0.1, 0.9, weight_decay=0.05)
    rates = np.concatenate([np.full(20, 0.1), np.full(10, 0.5), np.full(170, 0.02)])
    steps = [20, 30, 200]
    path = propagate(problem, optimizer, Schedule.table(rates), steps, initial_mean=np.zeros(3))
    assert path.status is Status.UNSETTLED and path.unstable_stretches == ((20, 29),)
    state, mean = stationary_covariance(problem, optimizer).state().astype(np.longdouble), np.zeros(6, np.longdouble)
    force = np.concatenate([problem.hessian * problem.optimum])
    for t, rate in enumerate(rates, start=1):
        acting = replace(optimizer, learning_rate=float(rate))
        step, inflow = transition(problem, acting, np.longdouble)
        state = step @ state @ step.T + inflow @ problem.dense_noise_cov() @ inflow.T
        mean = step @ mean - inflow @ force
        if t in steps:
            index = steps.index(t)
            assert relative(path.state()[index], state) <= 1e-11
            assert relative(path.mean[index], mean) <= 1e-11
    assert path.value[1, 2, 2] > 1e3 * path.value[0, 2, 2] > 1e3 * path.value[2, 2, 2] * 0.01
    saddle = mean_path(problem, MomentumSGD(0.1, 0.9), [1.1, 0.5, -0.5], [0, 500])
    assert saddle[1, 0] - 1.0 > 10 * (saddle[0, 0] - 1.0)  # away from the optimum of a direction that bends down
