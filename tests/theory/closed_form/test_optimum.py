"""The optimum that SGD sees: means, risks and schedules follow it, against the update taken literally."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.theory.strategies import optimizers, problems
from theory.closed_form.pac_bayes import PriorGrid, pac_bayes_path, pac_bayes_terms
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_mean
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD, ParameterGroups
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.simulate import Segment, Simulation, simulate
from theory.oracle.update import momentum_update
from theory.solution import UnstableError

BEFORE = MomentumSGD(0.1, 0.9, weight_decay=0.05)
AFTER = replace(BEFORE, learning_rate=0.01)
ISSUE = Quadratic(np.array([1.0, 0.05]), np.full(2, 0.01), np.ones(2))


def literal(problem, stages, weights, buffer, *, undampened=False):
    """Mean of (w, v) after every step, from the gradient H (w − w*) and the optimizer's own update."""
    hessian, path = problem.dense_hessian(), [np.concatenate([weights, buffer])]
    for optimizer, steps in stages:
        for step in range(steps):
            first = undampened and len(path) == 1 and step == 0
            acting = replace(optimizer, dampening=0.0) if first else optimizer
            weights, buffer = momentum_update(acting, weights, buffer, hessian @ (weights - problem.optimum))
            path.append(np.concatenate([weights, buffer]))
    return np.array(path)


def literal_variance(curvature, noise, stages):
    """Variance of one mode of heavy ball: E (w, v)(w, v)ᵀ carried through the update's two lines."""
    ww = wv = vv = 0.0
    for optimizer, steps in stages:
        eta, mu, h = optimizer.learning_rate, optimizer.momentum, curvature + optimizer.weight_decay
        for _ in range(steps):  # v₊ = μ v + h w + ξ,  w₊ = w − η v₊
            new_vv = mu * mu * vv + 2 * mu * h * wv + h * h * ww + noise
            with_v = mu * wv + h * ww  # E w v₊
            ww, wv, vv = ww - 2 * eta * with_v + eta * eta * new_vv, with_v - eta * new_vv, new_vv
    return ww


def test_the_risk_after_a_decay_counts_from_the_optimum_of_the_loss():
    stages = ((BEFORE, 20_000), (AFTER, 5_000))
    mean = literal(ISSUE, stages, np.zeros(2), np.zeros(2))[-1, :2]
    variances = [literal_variance(h, 0.01, stages) for h in ISSUE.hessian]
    risk = 0.5 * float(np.sum(ISSUE.hessian * ((mean - ISSUE.optimum) ** 2 + variances)))
    assert risk == pytest.approx(0.00775, abs=5e-6)
    path = pac_bayes_path(ISSUE, BEFORE, AFTER, 5_000, prior=1.0)
    assert path.expected_risk[0] == pytest.approx(risk, rel=1e-9)
    assert np.allclose(path.means[0], mean, rtol=1e-9)
    # Without the optimum: the posterior's spread alone.
    centred = pac_bayes_path(replace(ISSUE, optimum=np.zeros(2)), BEFORE, AFTER, 5_000, prior=1.0)
    assert centred.expected_risk[0] == pytest.approx(0.00036, abs=5e-6)


def test_the_divergence_counts_from_the_priors_own_place():
    path = pac_bayes_path(ISSUE, BEFORE, AFTER, [0, 100], prior=0.5)
    anchored = pac_bayes_path(ISSUE, BEFORE, AFTER, [0, 100], prior=0.5, prior_mean=np.array([0.3, -0.2]))
    mean = stationary_mean(ISSUE, BEFORE)
    np.testing.assert_allclose(mean, ISSUE.hessian / (ISSUE.hessian + 0.05), rtol=1e-15)
    shift = (np.sum((mean - [0.3, -0.2]) ** 2) - np.sum(mean**2)) / (2 * 0.5)
    np.testing.assert_allclose(anchored.kl - path.kl, shift, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), k=st.integers(0, 120), first=st.booleans())
def test_the_mean_follows_the_literal_update(data, k, first):
    optimizer = replace(
        data.draw(optimizers(largest_momentum=0.95)), weight_decay=data.draw(st.sampled_from([0.0, 0.03]))
    )
    problem = data.draw(problems(optimizer, max_dimension=3, max_condition=1e2))
    m = problem.dimension
    problem = replace(problem, optimum=np.linspace(2.0, -1.0, m))
    first = first and optimizer.form == "pytorch"
    start = np.linspace(-1.0, 1.5, m)
    expected = literal(problem, ((optimizer, k),), start, np.zeros(m), undampened=first)[-1]
    found = mean_path(problem, optimizer, start, k, undampened_first_step=first)[0]
    np.testing.assert_allclose(found, expected, atol=1e-10 * max(1.0, np.abs(expected).max()))
    along = propagate(
        problem,
        optimizer,
        Schedule.constant(optimizer.learning_rate),
        k,
        np.eye(m),
        start,
        undampened_first_step=first,
    )
    np.testing.assert_allclose(along.mean[0], expected, atol=1e-10 * max(1.0, np.abs(expected).max()))


def test_torchs_first_step_is_undampened_in_mean_and_covariance():
    optimizer = MomentumSGD(0.1, 0.9, dampening=0.6, weight_decay=0.05)
    start, one = np.array([0.3, -1.0]), Quadratic(ISSUE.hessian, np.diag([0.5, 2.0]), ISSUE.optimum)
    expected = literal(one, ((optimizer, 6),), start, np.zeros(2), undampened=True)
    found = mean_path(one, optimizer, start, list(range(7)), undampened_first_step=True)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.abs(found - literal(one, ((optimizer, 6),), start, np.zeros(2))).max() > 0.01
    # The covariance: the response to a unit of noise in each step, its square summed.
    still = replace(one, optimum=np.zeros(2))
    spread = np.zeros(2)
    for kicked in range(6):
        weights, buffer = np.zeros(2), np.zeros(2)
        for step in range(6):
            acting = replace(optimizer, dampening=0.0) if step == 0 else optimizer
            gradient = still.hessian * weights + (step == kicked)
            weights, buffer = momentum_update(acting, weights, buffer, gradient)
        spread += weights**2 * np.diag(one.noise_cov)
    rest = np.zeros((2, 2))
    law = transient_covariance(one, None, optimizer, 6, rest, undampened_first_step=True)
    along = propagate(one, optimizer, Schedule.constant(0.1), 6, rest, start, undampened_first_step=True)
    for value in (law.value[0], along.value[0]):
        np.testing.assert_allclose(np.diag(value), spread, rtol=1e-12)
    for wrong in (dict(before=optimizer), dict(initial=np.eye(4))):
        with pytest.raises(ValueError, match="needs an initial state of w alone"):
            transient_covariance(
                one, wrong.get("before"), optimizer, 6, wrong.get("initial"), undampened_first_step=True
            )
    with pytest.raises(ValueError, match=r"`mean_path\(undampened_first_step=True\)` needs form='pytorch'"):
        mean_path(one, replace(optimizer, form="position"), start, 6, undampened_first_step=True)


@pytest.mark.parametrize("curvature", [0.0, -0.05, -0.3, 1e-17, 37.9, 38.3])
def test_a_steady_pull_is_right_where_nothing_pulls_back_and_near_both_edges(curvature):
    problem = Quadratic(np.array([curvature]), np.ones(1), np.array([3.0]))
    expected = literal(problem, ((BEFORE, 200),), np.array([1.0]), np.zeros(1))
    found = mean_path(problem, BEFORE, [1.0], list(range(201)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


def test_the_mean_ends_where_sgd_settles_and_moves_with_decay_and_curvature():
    problem = Quadratic.from_spectra([0.1, 1.0, 10.0], [1.0, 0.3, 2.0], rotation=0.7, optimum=[1.0, 2.0, -1.0])
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    dense = (turn * problem.hessian) @ turn.T
    problem = replace(problem, hessian=0.5 * (dense + dense.T))
    solved = np.linalg.solve(problem.dense_hessian() + 0.05 * np.eye(3), problem.dense_hessian() @ problem.optimum)
    np.testing.assert_allclose(stationary_mean(problem, BEFORE), solved, rtol=1e-12)
    last = mean_path(problem, BEFORE, np.zeros(3), 10**6)[0]
    np.testing.assert_allclose(last, [*solved, 0, 0, 0], atol=1e-12)
    assert np.array_equal(stationary_mean(problem, replace(BEFORE, weight_decay=0.0)), problem.optimum)
    # A schedule starts there, and a change of decay or curvature moves it.
    schedule = Schedule.constant(0.1)
    still = propagate(problem, BEFORE, schedule, [0, 50])
    np.testing.assert_allclose(still.mean[:, :3], [solved, solved], rtol=1e-12)
    lighter = propagate(problem, BEFORE, schedule, 20_000, weight_decay=np.zeros(20_000))
    np.testing.assert_allclose(lighter.mean[0, :3], problem.optimum, rtol=1e-10)
    sharper = propagate(problem, BEFORE, schedule, 20_000, curvature_factors=np.full(20_000, 3.0))
    expected = stationary_mean(replace(problem, hessian=3.0 * problem.hessian), BEFORE)
    np.testing.assert_allclose(sharper.mean[0, :3], expected, rtol=1e-10)
    with pytest.raises(UnstableError):
        stationary_mean(problem, replace(BEFORE, learning_rate=0.5))


@pytest.mark.parametrize("path", ["diagonal", "dense"])
@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("form", ["pytorch", "position", "nesterov"])
def test_the_simulator_settles_where_the_mean_does(engine, path, form):
    if engine == "numba":
        pytest.importorskip("numba")
    extra = {"nesterov": True} if form == "nesterov" else {"form": form, "dampening": 0.2}
    groups = ParameterGroups(rate_factors=[1.0, 0.5], decay_factors=[1.0, 0.0])
    stages = [
        MomentumSGD(0.1, 0.8, weight_decay=0.3, **extra),
        MomentumSGD(0.05, 0.8, weight_decay=0.1, groups=groups, **extra),
    ]
    problem = Quadratic(np.array([1.0, 0.4]), np.zeros(2), np.array([2.0, -1.0]))
    setting = Simulation(
        problem=problem,
        segments=tuple(Segment(optimizer=stage, steps=30) for stage in stages),
        replicas=2,
        record_times=tuple(range(61)),
        initial_weights=np.array([0.5, 0.5]),
    )
    found = simulate(setting, seed=0, engine=engine, path=path).mean
    expected = literal(problem, [(stage, 30) for stage in stages], np.array([0.5, 0.5]), np.zeros(2))
    np.testing.assert_allclose(found, expected, atol=1e-13)
    both = mean_path(problem, stages[1], expected[30], list(range(31)))
    np.testing.assert_allclose(both, expected[30:], atol=1e-12)


def dense_kl(covariance, prior, mean, prior_mean):
    """Textbook Gaussian divergence, with explicit inverses and determinants."""
    shift, inverse = mean - prior_mean, np.linalg.inv(prior)
    spread = np.trace(inverse @ covariance) + shift @ inverse @ shift
    return 0.5 * (spread - len(mean) + np.linalg.slogdet(prior)[1] - np.linalg.slogdet(covariance)[1])


def test_a_general_gaussian_prior_enters_every_term():
    rng = np.random.default_rng(4)
    matrices = [matrix @ matrix.T + 0.1 * np.eye(3) for matrix in rng.standard_normal((3, 3, 3))]
    hessian, covariance, prior = (0.5 * (matrix + matrix.T) for matrix in matrices)
    problem = Quadratic(hessian, np.eye(3), rng.standard_normal(3))
    mean, anchor = rng.standard_normal((2, 3))
    for kind in (prior, np.diag(prior).copy(), 0.7):
        full = kind if np.ndim(kind) == 2 else np.diag(np.broadcast_to(kind, 3))
        terms = pac_bayes_terms(problem, covariance, prior_variance=kind, mean=mean, prior_mean=anchor)
        expected = dense_kl(covariance, full, mean, anchor)
        assert terms.kl == pytest.approx(expected, rel=1e-11)
        shift = mean - problem.optimum
        risk = 0.5 * (np.trace(hessian @ covariance) + shift @ hessian @ shift)
        assert terms.expected_risk == pytest.approx(risk, rel=1e-12)
        # Term by term: what depends on the prior adds up to the divergence.
        inside = terms.variance_ratio.sum() + terms.mean_shift.sum() + terms.negative_log_variance.sum()
        total = 0.5 * (inside - 3 + np.linalg.slogdet(full)[1]) + terms.total_correlation
        assert total == pytest.approx(expected, rel=1e-11)
        assert terms.kl_diagonal + terms.total_correlation == pytest.approx(expected, rel=1e-11)
    origin = pac_bayes_terms(problem, covariance, prior_variance=prior, mean=mean)
    assert origin.kl == pytest.approx(dense_kl(covariance, prior, mean, np.zeros(3)), rel=1e-11)
    # Over time, and over a grid of scales.
    grid = PriorGrid(variances=(0.5, 2.0), covariance=prior)
    before, after = MomentumSGD(0.05, 0.5, weight_decay=0.1), MomentumSGD(0.02, 0.5, weight_decay=0.2)
    path = pac_bayes_path(problem, before, after, [3, 40], prior=grid, prior_mean=anchor)
    single = pac_bayes_path(problem, before, after, [3, 40], prior=2.0 * prior, prior_mean=anchor)
    np.testing.assert_allclose(path.kl[:, 1], single.kl, rtol=1e-11)
    law = propagate(problem, before, Schedule.constant(0.02), [3, 40], weight_decay=np.full(40, 0.2))
    for index in (0, 1):
        expected = [dense_kl(law.value[index], v * prior, law.mean[index, :3], anchor) for v in (0.5, 2.0)]
        np.testing.assert_allclose(path.kl[index], expected, rtol=1e-9)
        np.testing.assert_allclose(
            grid.divergences(law.value[index], mean=law.mean[index, :3], prior_mean=anchor), expected, rtol=1e-9
        )
    for wrong, words in ((-prior, "positive definite"), (np.ones((2, 2)), r"or \(3, 3\)")):
        with pytest.raises(ValueError, match=words):
            pac_bayes_terms(problem, covariance, prior_variance=wrong)
