"""Settings refuse what they cannot describe, and survive JSON to the last bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.theory.strategies import rotation
from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform
from theory.model.optimizer import MomentumSGD, ParameterGroups
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting

EYE = np.eye(2)


@pytest.mark.parametrize(
    ("hessian", "noise", "words"),
    [
        (np.array([[1.0, 0.5], [0.0, 1.0]]), EYE, r"hessian=\.\.\.\)` must be symmetric.*got a ratio of"),
        (EYE, np.diag([1.0, -0.1]), r"noise_cov=.*must be positive semi-definite; got smallest eigenvalue -0\.1"),
        (np.ones(2), np.array([1.0, -1e-30]), "noise_cov=.*must be positive semi-definite"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), EYE, "hessian=.*must be finite; got 2 NaN"),
        (EYE, np.diag([1.0, np.inf]), "noise_cov=.*must be finite; got 1"),
        (np.zeros((0, 0)), np.zeros((0, 0)), "hessian=.*must not be empty"),
        (EYE, np.eye(3), "noise_cov=.*must have the dimension of `hessian`; got 3 against 2"),
        (np.ones((2, 3)), EYE, r"hessian=.*shape \(m, m\) or \(m,\); got \(2, 3\)"),
        (np.ones((1, 1, 1)), np.ones(1), "hessian=.*shape"),
        (EYE.astype(complex), EYE, "hessian=.*must be real; got dtype complex"),
    ],
)
def test_a_problem_refuses_bad_matrices_in_one_line(hessian, noise, words):
    with pytest.raises(ValueError, match=words) as caught:
        Quadratic(hessian, noise)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lowest", [0.0, -3.6e-16, -0.5])
def test_any_symmetric_hessian_is_a_problem(lowest):
    turn = rotation(2, 1)
    for hessian in (np.array([1.0, lowest]), (turn * np.array([1.0, lowest])) @ turn.T):
        problem = Quadratic(hessian if hessian.ndim == 1 else 0.5 * (hessian + hessian.T), EYE)
        assert np.linalg.eigvalsh(problem.dense_hessian())[0] == pytest.approx(lowest, abs=1e-15)


def test_an_optimum_is_a_place_and_the_origin_unless_given():
    assert np.array_equal(Quadratic(EYE, EYE).optimum, [0.0, 0.0])
    away = Quadratic(EYE, EYE, np.array([1.0, -2.0]))
    assert Quadratic.from_dict(json.loads(json.dumps(away.to_dict()))) == away != Quadratic(EYE, EYE)
    # What was written before problems had an optimum is still what is written of those without.
    assert "optimum" not in Quadratic(EYE, EYE).to_dict() and "groups" not in MomentumSGD(0.1).to_dict()
    for wrong in (np.ones(3), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match=r"`Quadratic\(optimum=...\)` must be 2 finite numbers"):
            Quadratic(EYE, EYE, wrong)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({}, "must have rate_factors or decay_factors"),
        ({"rate_factors": [1.0, 0.0]}, r"rate_factors=.*must be > 0 and finite.*0 among them"),
        ({"decay_factors": [1.0, -1.0]}, r"decay_factors=.*must be >= 0 and finite.*-1 among them"),
        ({"rate_factors": [1.0], "decay_factors": [1.0, 0.0]}, r"of one length; got lengths \[1, 2\]"),
    ],
)
def test_parameter_groups_refuse_what_has_no_meaning(factors, words):
    with pytest.raises(ValueError, match=words):
        ParameterGroups(**factors)
    with pytest.raises(TypeError, match=r"`MomentumSGD\(groups=...\)` must be a ParameterGroups or None; got dict"):
        MomentumSGD(0.1, groups=factors)


def test_a_problem_refuses_what_is_not_numbers():
    with pytest.raises(TypeError, match="must hold real numbers"):
        Quadratic(np.array([["a", "b"], ["c", "d"]]), EYE)


def test_a_problem_is_frozen_and_leaves_its_arguments_alone():
    hessian = np.diag([1.0, 2.0])
    problem = Quadratic(hessian, EYE)
    hessian[0, 0] = 99.0
    assert problem.hessian[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        problem.hessian[0, 0] = 5.0
    with pytest.raises(AttributeError):
        problem.hessian = EYE
    problem.dense_hessian()[0, 0] = 7.0
    assert problem.hessian[0, 0] == 1.0


def test_rotation_between_the_eigenbases_is_what_was_asked_for():
    turn = rotation(3, 3)
    problem = Quadratic.from_spectra([1.0, 2.0, 3.0], [0.5, 1.0, 2.0], turn)
    assert np.allclose(problem.noise_cov @ turn, turn * np.array([0.5, 1.0, 2.0]), atol=1e-14)
    assert Quadratic.from_spectra([1.0, 2.0], [0.5, 1.0]).is_diagonal
    angled = Quadratic.from_spectra([1.0, 2.0], [3.0, 1.0], 0.3)
    direction = np.array([np.cos(0.3), np.sin(0.3)])
    assert np.allclose(angled.noise_cov @ direction, 3.0 * direction, atol=1e-14)
    chained = Quadratic.from_spectra(np.ones(5), np.arange(5.0), 0.7)
    assert np.allclose(np.linalg.eigvalsh(chained.noise_cov), np.arange(5.0), atol=1e-14)
    with pytest.raises(ValueError, match="must be orthogonal"):
        Quadratic.from_spectra([1.0, 2.0], [1.0, 1.0], np.ones((2, 2)))
    with pytest.raises(ValueError, match="must have shape"):
        Quadratic.from_spectra([1.0, 2.0], [1.0, 1.0], np.eye(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate=.*must be > 0"),
        ({"learning_rate": float("nan")}, "learning_rate=.*must be > 0 and finite; got nan"),
        ({"learning_rate": float("inf")}, "learning_rate="),
        ({"learning_rate": "fast"}, "learning_rate=.*must be a number; got 'fast'"),
        ({"learning_rate": 0.1, "momentum": 1.0}, r"momentum=.*must be in \[0, 1\); got 1\.0"),
        ({"learning_rate": 0.1, "momentum": -0.1}, "momentum="),
        ({"learning_rate": 0.1, "dampening": 1.0}, "dampening="),
        ({"learning_rate": 0.1, "weight_decay": -1.0}, "weight_decay="),
        ({"learning_rate": 0.1, "form": "other"}, "form=.*'pytorch' or 'position'; got 'other'"),
        ({"learning_rate": 0.1, "nesterov": True}, "nesterov=True"),
        ({"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0.1}, "nesterov=True"),
        ({"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "form": "position"}, "nesterov=True"),
        ({"learning_rate": 0.1, "nesterov": 1}, "nesterov=.*must be True or False"),
    ],
)
def test_an_optimizer_refuses_what_has_no_meaning(arguments, words):
    with pytest.raises(ValueError, match=words):
        MomentumSGD(**arguments)


def test_noise_laws_state_their_kurtosis():
    assert (Gaussian().excess_kurtosis, Rademacher().excess_kurtosis) == (0.0, -2.0)
    assert Uniform().excess_kurtosis == pytest.approx(9 / 5 - 3)
    assert StudentT(degrees_of_freedom=9.0).excess_kurtosis == pytest.approx(6 / 5)
    with pytest.raises(ValueError, match=r"degrees_of_freedom=.*must be > 4"):
        StudentT(degrees_of_freedom=4.0)


finite = st.floats(1e-300, 1e300)


@given(
    curvatures=arrays(np.float64, 3, elements=st.floats(1e-200, 1e200)),
    noise=arrays(np.float64, 3, elements=st.floats(0, 1e200)),
    rate=finite,
    momentum=st.floats(0, 1, exclude_max=True),
)
def test_settings_survive_json_to_the_last_bit(curvatures, noise, rate, momentum):
    for setting in (
        Quadratic(curvatures, noise),
        MomentumSGD(rate, momentum),
        StudentT(degrees_of_freedom=5 + momentum),
    ):
        text = json.dumps(setting.to_dict(), allow_nan=False)
        back = type(setting).from_dict(json.loads(text))
        assert back == setting and hash(back) == hash(setting) and type(back) is type(setting)


def test_what_is_read_back_is_validated_again():
    plain = MomentumSGD(0.1, 0.9).to_dict()
    with pytest.raises(ValueError, match="momentum="):
        MomentumSGD.from_dict({**plain, "momentum": 2.0})
    for nothing in ({"type": "Nothing"}, {}, None, [1]):
        with pytest.raises(ValueError, match=r"`MomentumSGD` must be read from a known MomentumSGD; got the type"):
            MomentumSGD.from_dict(nothing)
    with pytest.raises(ValueError, match="must be read from a known NoiseLaw"):
        NoiseLaw.from_dict(plain)
    with pytest.raises(ValueError, match="cannot be made from the fields"):
        MomentumSGD.from_dict({**plain, "speed": 3})
    with pytest.raises(TypeError, match="the Setting that is expected"):
        Setting.from_dict(plain)
    assert type(NoiseLaw.from_dict(StudentT(degrees_of_freedom=9.0).to_dict())) is StudentT
    assert MomentumSGD(0.1) != MomentumSGD(0.2) and MomentumSGD(0.1) != Gaussian()
