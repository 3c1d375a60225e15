"""(T1): dense oracles, limits, symmetries, every kind of change, and what it refuses."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.oracles import relative, unrolled_covariance
from tests.theory.strategies import optimizers, problems, rotation
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import MAX_STEPS, mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.transition import transition
from theory.solution import UnstableError

PROBLEM = Quadratic.from_spectra([0.1, 1.0, 10.0], [1.0, 0.3, 2.0], rotation=0.7)
BEFORE, AFTER = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)


def ratio_after(form, curvature, steps):
    before, after = (MomentumSGD(rate, 0.9, form=form) for rate in (0.1, 0.01))
    value = transient_covariance(Quadratic(np.array([curvature]), np.ones(1)), before, after, [0, steps]).value
    return value[1, 0, 0] / value[0, 0, 0]


@pytest.mark.parametrize(
    ("form", "curvature", "steps", "expected"),
    [
        ("position", 1.0, 10, 3.28),
        ("pytorch", 1.0, 10, 0.48),
        ("position", 1.0, 5, 2.41),
        ("pytorch", 1.0, 5, 0.81),
        ("position", 10.0, 2, 4.5),
        ("pytorch", 10.0, 2, 0.68),
    ],
)
def test_the_two_forms_part_at_a_drop_by_the_known_ratios(form, curvature, steps, expected):
    assert ratio_after(form, curvature, steps) == pytest.approx(expected, abs=0.051 if expected == 4.5 else 0.0051)


@st.composite
def changes(draw):
    """Two stable optimizers of one form and two problems of one dimension, with unrelated eigenvectors."""
    after = draw(optimizers(largest_momentum=0.95))
    problem_after = draw(problems(after, max_dimension=4, max_condition=1e3))
    before = replace(
        after, learning_rate=draw(st.floats(0.05, 0.99)), momentum=after.momentum * draw(st.floats(0.5, 1.0))
    )
    m = problem_after.dimension
    turn = rotation(m, draw(st.integers(0, 1000)))
    if draw(st.booleans()):
        hessian = (turn * np.linspace(0.3, 0.9, m)) @ turn.T
        problem = Quadratic(0.5 * (hessian + hessian.T), np.eye(m))
    else:
        problem = problem_after
    return problem, before, after, problem_after


@settings(deadline=None, max_examples=80)
@given(change=changes(), steps=st.lists(st.integers(0, 150), min_size=1, max_size=4, unique=True))
def test_any_change_agrees_with_the_dense_recursion_unrolled(change, steps):
    problem, before, after, problem_after = change
    try:
        start = stationary_covariance(problem, before).state()
    except UnstableError:
        assume(False)
    steps = sorted(steps)
    found = transient_covariance(problem, before, after, steps, problem_after=problem_after)
    move, kick = transition(problem_after, after, np.longdouble)
    forcing = kick @ problem_after.dense_noise_cov().astype(np.longdouble) @ kick.T
    for state, k in zip(found.state(), steps, strict=True):
        power = np.linalg.matrix_power(move, k)
        expected = power @ start.astype(np.longdouble) @ power.T + unrolled_covariance(move, forcing, k)
        # The dense oracle sees a Hessian; ours its eigendecomposition, right to a few u·cond (1e3 here).
        assert relative(state, np.asarray(expected, dtype=float)) <= 1e-11


@settings(deadline=None, max_examples=60)
@given(change=changes(), first=st.integers(0, 300), second=st.integers(0, 300))
def test_two_stretches_make_one(change, first, second):
    _, _, after, problem = change
    m = problem.dimension
    initial = np.diag(np.linspace(1.0, 2.0, 2 * m))
    at_once = transient_covariance(problem, None, after, first + second, initial).state()[0]
    half = transient_covariance(problem, None, after, first, initial).state()[0]
    in_two = transient_covariance(problem, None, after, second, half).state()[0]
    assert relative(in_two, at_once) <= 1e-11


@settings(deadline=None, max_examples=60)
@given(change=changes(), steps=st.integers(0, 10**9))
def test_nothing_changes_when_nothing_changes(change, steps):
    _, _, after, problem = change
    assume(min(problem.dense_noise_cov().diagonal()) >= 0)
    settled = stationary_covariance(problem, after).state()
    for initial in (None, settled):
        later = transient_covariance(problem, after, after, steps, initial).state()[0]
        assert relative(later, settled) <= 1e-10


@settings(deadline=None, max_examples=60)
@given(change=changes())
def test_the_end_of_every_transient_is_the_stationary_law(change):
    _, _, after, problem = change
    m = problem.dimension
    last = transient_covariance(problem, None, after, 10**9, np.eye(2 * m)).state()[0]
    assert relative(last, stationary_covariance(problem, after).state()) <= 1e-10


@settings(deadline=None, max_examples=60)
@given(change=changes(), k=st.integers(1, 400))
def test_covariances_are_symmetric_and_positive_semidefinite(change, k):
    _, _, after, problem = change
    m = problem.dimension
    state = transient_covariance(problem, None, after, k, np.zeros((2 * m, 2 * m))).state()[0]
    assert np.array_equal(state, state.T)
    # Per direction, since w and v may differ in scale by many digits.
    spread = np.sqrt(np.diag(state))
    spread[spread == 0] = 1.0
    assert np.linalg.eigvalsh(state / np.outer(spread, spread)).min() >= -1e-10


def test_zero_steps_return_the_initial_state():
    state = np.diag(np.arange(1.0, 7.0))
    found = transient_covariance(PROBLEM, None, AFTER, [0], state).state()[0]
    assert relative(found, state) <= 1e-15
    weights = transient_covariance(PROBLEM, None, AFTER, 0, np.eye(3))
    assert relative(weights.value[0], np.eye(3)) <= 1e-15 and not weights.velocity.any()


def test_from_rest_grows_with_every_step():
    law = transient_covariance(PROBLEM, None, AFTER, list(range(40)), np.zeros((6, 6)))
    growth = np.diff(law.state(), axis=0)
    assert np.linalg.eigvalsh(growth).min() >= -1e-15 * np.abs(law.state()).max()


def test_both_forms_agree_at_a_constant_rate():
    initial = np.eye(3)
    one = transient_covariance(PROBLEM, None, BEFORE, [1, 7, 50], initial)
    two = transient_covariance(PROBLEM, None, replace(BEFORE, form="position"), [1, 7, 50], initial)
    assert relative(two.value, one.value) <= 1e-13
    assert relative(two.velocity, 0.01 * one.velocity) <= 1e-13


def test_an_unstable_rate_has_a_law_at_every_finite_step():
    unstable = MomentumSGD(0.4, 0.9)
    law = transient_covariance(PROBLEM, None, unstable, [1, 10, 60], np.zeros((6, 6)))
    move, kick = transition(PROBLEM, unstable, np.longdouble)
    forcing = kick @ PROBLEM.dense_noise_cov() @ kick.T
    for state, k in zip(law.state(), law.steps, strict=True):
        assert relative(state, unrolled_covariance(move, forcing, k).astype(float)) <= 1e-13
    assert law.spectral_radius > 1
    back = transient_covariance(PROBLEM, None, AFTER, 10**6, law.state()[-1]).state()[0]
    assert relative(back, stationary_covariance(PROBLEM, AFTER).state()) <= 1e-12


def test_cost_does_not_depend_on_the_number_of_steps():
    problem = Quadratic.from_spectra(np.geomspace(1e-3, 10, 50), np.ones(50), rotation=0.3)
    best = dict.fromkeys((1, 1000, 10**6, 10**9), np.inf)
    for _ in range(15):
        for k in best:
            began = time.perf_counter()
            transient_covariance(problem, BEFORE, AFTER, k)
            best[k] = min(best[k], time.perf_counter() - began)
    # Turns are taken in one process; a loop over k would be a factor of 1e6.
    assert best[10**6] <= 2 * best[1] and best[10**9] <= 2 * best[1] and best[1000] <= 2 * best[1]


def test_inputs_are_left_alone_and_a_second_call_gives_the_same():
    initial = np.diag(np.arange(1.0, 7.0))
    kept = initial.copy()
    one = transient_covariance(PROBLEM, None, AFTER, [3, 9], initial).state()
    assert np.array_equal(initial, kept)
    assert np.array_equal(one, transient_covariance(PROBLEM, None, AFTER, [3, 9], initial).state())


@settings(deadline=None, max_examples=60)
@given(change=changes(), k=st.integers(0, 200))
def test_the_mean_path_is_the_dense_power(change, k):
    _, _, after, problem = change
    m = problem.dimension
    start = np.linspace(1.0, -1.0, 2 * m)
    move, _ = transition(problem, after, np.longdouble)
    expected = (np.linalg.matrix_power(move, k) @ start).astype(float)
    found = mean_path(problem, after, start, k)[0]
    assert np.linalg.norm(found - expected) <= 1e-11 * np.linalg.norm(start) * max(1.0, np.abs(move).max())


def test_the_mean_of_weights_alone_starts_at_rest():
    assert np.array_equal(mean_path(PROBLEM, AFTER, [1, 2, 3], 0)[0], [1, 2, 3, 0, 0, 0])


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (-1, r"steps=\.\.\.\)` must be in \[0, 1e\+12\]; got -1"),
        ([0, -5], "must be in"),
        (1.0, r"must be integers; got 1\.0"),
        ([1, 2.5], r"must be integers; got 2\.5"),
        (True, "must be integers; got True"),
        ("7", "must be integers; got '7'"),
        ([3, 2], "must rise; got 3 before 2"),
        ([2, 2], "must rise; got 2 before 2"),
        (MAX_STEPS + 1, "must be in"),
        (10**30, "must be in"),
        ([], "must name at least one step"),
    ],
)
@pytest.mark.parametrize("name", ["transient_covariance", "mean_path"])
def test_steps_out_of_order_are_refused(name, steps, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        if name == "mean_path":
            mean_path(PROBLEM, AFTER, np.ones(3), steps)
        else:
            transient_covariance(PROBLEM, BEFORE, AFTER, steps)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (
            dict(problem_after=Quadratic(np.ones(2), np.ones(2))),
            "must have the dimension of `problem`; got 2 against 3",
        ),
        (dict(after=replace(AFTER, form="position")), "must have the form of `before`"),
        (dict(before=None), "must be an optimizer unless `initial` is given"),
        (dict(initial=np.eye(5)), r"must have shape \(6, 6\) or \(3, 3\); got \(5, 5\)"),
        (dict(initial=np.full((6, 6), np.nan)), "must be finite; got 36 bad entries"),
        (dict(initial=np.triu(np.ones((6, 6)))), "must be symmetric"),
        (dict(initial=-np.eye(6)), "must be a covariance"),
        (dict(initial=np.eye(3) + 2 * (np.ones((3, 3)) - np.eye(3))), "must be a covariance"),
        (dict(before=MomentumSGD(0.4, 0.9)), r"must be < 0\.38 for this Hessian; got 0\.4, at which mode"),
        (
            dict(after=MomentumSGD(0.4, 0.9), steps=10**6),
            "within the float range; got 1000000 steps, after which mode 2",
        ),
    ],
)
def test_bad_changes_are_refused_by_name(call, reason):
    arguments = {"problem": PROBLEM, "before": BEFORE, "after": AFTER, "steps": 3, **call}
    with pytest.raises(ValueError, match=reason) as caught:
        transient_covariance(**arguments)
    assert "\n" not in str(caught.value)


def test_bad_means_are_refused_by_name():
    with pytest.raises(ValueError, match=r"must have shape \(6,\) or \(3,\); got \(4,\)"):
        mean_path(PROBLEM, AFTER, np.ones(4), 1)
    with pytest.raises(ValueError, match="must be finite; got 1 bad entries"):
        mean_path(PROBLEM, AFTER, [1.0, np.inf, 0.0], 1)
    with pytest.raises(UnstableError, match="overflows"):
        mean_path(PROBLEM, MomentumSGD(0.4, 0.9), np.ones(3), 10**7)
