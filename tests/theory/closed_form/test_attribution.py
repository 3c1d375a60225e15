"""(B2): the parts add up to what a Lyapunov solver says, each is what it is called, and the helper reads states."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.theory.strategies import rotation
from theory.__main__ import main
from theory.attribute import compare_states, read_state
from theory.closed_form.attribution import PARTS, attribution
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import lyapunov_covariance

ONE = Quadratic(np.array([0.1, 1.0, 10.0]), np.array([1.0, 0.3, 2.0]))
BEFORE, AFTER = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)


@st.composite
def pairs(draw):
    nesterov = draw(st.booleans())

    def optimizer():
        momentum = draw(st.floats(0.1, 0.95))
        if nesterov:
            return MomentumSGD(draw(st.floats(0.01, 1.0)), momentum, nesterov=True, weight_decay=0.05)
        return MomentumSGD(draw(st.floats(0.01, 1.0)), momentum, dampening=draw(st.floats(0.0, 0.9)))

    def problem():
        curvatures = np.cumsum(draw(st.lists(st.floats(0.01, 0.3), min_size=3, max_size=3)))
        noise = draw(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3))
        return Quadratic.from_spectra(curvatures, noise, rotation=draw(st.floats(0.0, 1.5)))

    return problem(), optimizer(), problem(), optimizer()


@settings(deadline=None, max_examples=100)
@given(pair=pairs())
def test_the_parts_add_up_to_the_change_that_a_solver_finds(pair):
    problem, before, later, after = pair
    split = attribution(problem, before, after, problem_after=later)
    total = sum(split.parts().values())
    np.testing.assert_allclose(total, split.total, atol=1e-12)
    variances = [np.diag(lyapunov_covariance(p, o).require()) for p, o in ((problem, before), (later, after))]
    np.testing.assert_allclose(total, np.log(variances[1] / variances[0]), atol=1e-10)


def test_each_part_is_the_change_it_is_called_after():
    louder = Quadratic(ONE.hessian, 3.0 * ONE.noise_cov)
    np.testing.assert_allclose(attribution(ONE, BEFORE, BEFORE, problem_after=louder).noise, np.log(3.0), rtol=1e-14)
    sharper = Quadratic(2.0 * ONE.hessian, ONE.noise_cov)
    np.testing.assert_allclose(
        attribution(ONE, BEFORE, BEFORE, problem_after=sharper).curvature, -np.log(2.0), rtol=1e-14
    )
    split = attribution(ONE, BEFORE, AFTER)
    np.testing.assert_allclose(split.learning_rate, np.log(0.1), rtol=1e-14)
    assert not split.noise.any() and not split.curvature.any() and not split.momentum.any()
    expected = np.log((3.8 - 0.1 * ONE.hessian) / (3.8 - 0.01 * ONE.hessian))
    np.testing.assert_allclose(split.step_size, expected, atol=1e-15)
    slower = attribution(ONE, BEFORE, replace(BEFORE, momentum=0.8))
    np.testing.assert_allclose(slower.momentum, np.log(0.5), rtol=1e-13)


def test_a_spike_of_noise_and_curvature_alike_leaves_the_shrink_to_the_learning_rate():
    spike = Quadratic(4.0 * ONE.hessian, 4.0 * ONE.noise_cov)
    split = attribution(ONE, BEFORE, AFTER, problem_after=spike)
    np.testing.assert_allclose(split.noise + split.curvature, 0.0, atol=1e-15)
    assert split.main_cause() == ("learning_rate",) * 3
    assert attribution(spike, AFTER, BEFORE, problem_after=ONE).main_cause() == ("learning_rate",) * 3


def test_measured_variances_show_what_has_not_settled():
    split = attribution(ONE, BEFORE, AFTER, measured=([1.0, 1.0, 1.0], [0.5, 0.5, 0.5]))
    np.testing.assert_allclose(split.unsettled, np.log(0.5) - split.total)
    assert "unsettled" in split.to_text()


def test_modes_are_paired_by_direction_not_by_rank():
    """Curvatures (1, 2) become (3, 2): the first direction spiked past the second, which stayed."""
    before, after = (Quadratic(np.array(pair), np.ones(2)) for pair in ([1.0, 2.0], [3.0, 2.0]))
    split = attribution(before, BEFORE, BEFORE, problem_after=after)
    np.testing.assert_allclose(split.curvature, [-np.log(3.0), 0.0], atol=1e-15)
    np.testing.assert_allclose(split.curvatures, [[1.0, 2.0], [3.0, 2.0]])
    assert np.array_equal(split.match, [1.0, 1.0])
    variances = [np.diag(lyapunov_covariance(p, BEFORE).require()) for p in (before, after)]
    np.testing.assert_allclose(split.total, np.log(variances[1] / variances[0]), atol=1e-12)
    measured = attribution(before, BEFORE, BEFORE, problem_after=after, measured=tuple(variances))
    np.testing.assert_allclose(measured.unsettled, 0.0, atol=1e-12)
    # The same in coordinates that show neither order nor axes, the directions turned by 0.2 on the way.
    turn, little = rotation(2, 4), np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    bases = (turn, turn @ little)
    dense = []
    for basis, state in zip(bases, (before, after), strict=True):
        hessian = (basis * state.hessian) @ basis.T
        dense.append(Quadratic(0.5 * (hessian + hessian.T), np.eye(2)))
    turned = attribution(dense[0], BEFORE, BEFORE, problem_after=dense[1])
    np.testing.assert_allclose(turned.curvature, [-np.log(3.0), 0.0], atol=1e-12)
    np.testing.assert_allclose(turned.match, np.cos(0.2) ** 2, rtol=1e-12)
    assert "match" in turned.to_text() and "match" not in split.to_text()
    with pytest.raises(ValueError, match=r"`attribution\(overlaps=...\)` must be cosines, shape \(2, 2\)"):
        attribution(before, BEFORE, BEFORE, problem_after=after, overlaps=2 * np.eye(2))


def test_files_pair_by_eigenvectors_and_else_by_place(tmp_path):
    spectra = dict(curvatures=[1.0, 2.0], noise_variances=[1.0, 1.0])
    one = write(tmp_path / "one.json", learning_rate=0.1, **spectra, eigenvectors=[[1, 0, 0], [0, 1, 0]])
    sorted_again = dict(curvatures=[2.0, 3.0], noise_variances=[1.0, 1.0])
    two = write(tmp_path / "two.json", learning_rate=0.1, **sorted_again, eigenvectors=[[0, -1, 0], [1, 0, 0]])
    split = compare_states(one, two)
    np.testing.assert_allclose(split.curvature, [-np.log(3.0), 0.0], atol=1e-15)
    by_place = compare_states(write(tmp_path / "a.json", learning_rate=0.1, **spectra), two)
    np.testing.assert_allclose(by_place.curvature, [-np.log(2.0), -np.log(1.5)])
    three = write(tmp_path / "three.json", learning_rate=0.1, **spectra, eigenvectors=[[1, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"got \(2, 2\) against \(2, 3\)"):
        compare_states(one, three)


def write(path, **content):
    path.write_text(json.dumps(content))
    return path


def test_two_states_are_read_and_the_split_is_printed(tmp_path, capsys):
    spectra = dict(curvatures=[10.0, 0.1, 1.0], noise_variances=[2.0, 1.0, 0.3])
    one = write(tmp_path / "one.json", learning_rate=0.1, momentum=0.9, **spectra, variances=[3.0, 1.0, 2.0])
    two = write(tmp_path / "two.json", learning_rate=0.01, momentum=0.9, **spectra, variances=[0.3, 0.1, 0.2])
    split = compare_states(one, two)
    np.testing.assert_array_equal(split.total, attribution(ONE, BEFORE, AFTER).total)  # sorted by curvature
    np.testing.assert_allclose(split.unsettled, np.log(0.1) - split.total)
    print(split.to_text())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].split()[:2] == ["mode", "curvature"] and "learning rate" in lines[0]
    assert f"{np.log(0.1):+.6f}" in lines[1] and lines[1].rstrip().endswith("learning rate")
    assert set(split.parts()) == set(PARTS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not json", "must hold JSON"),
        ("[1]", "must hold one JSON object; got list"),
        ('{"learning_rate": 0.1}', r"wrong: \['curvatures', 'noise_variances'\]"),
        ('{"learning_rate": 0.1, "curvatures": [1], "noise_variances": [1], "eta": 3}', r"wrong: \['eta'\]"),
        ('{"learning_rate": 0.1, "curvatures": ["a"], "noise_variances": [1]}', "must hold lists of numbers"),
        ('{"learning_rate": 0.1, "curvatures": 1, "noise_variances": 1}', "must hold one number a mode"),
        ('{"learning_rate": 0.1, "curvatures": [1, 2], "noise_variances": [1]}', "must hold lists of one length"),
        ('{"learning_rate": -1, "curvatures": [1], "noise_variances": [1]}', "must be > 0 and finite; got -1"),
        ('{"learning_rate": 0.1, "curvatures": [1], "noise_variances": [-1]}', "must be positive semi-definite"),
        (
            '{"learning_rate": 0.1, "curvatures": [1], "noise_variances": [1], "eigenvectors": [[1, 1]]}',
            "must hold 1 orthonormal lists in eigenvectors",
        ),
    ],
)
def test_states_that_cannot_be_read_are_refused(tmp_path, content, reason):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_attributed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a readable file"):
        read_state(tmp_path / "none.json")
    with pytest.raises(ValueError, match="must have the dimension of `problem`; got 1 against 3"):
        attribution(ONE, BEFORE, AFTER, problem_after=Quadratic(np.ones(1), np.ones(1)))
    with pytest.raises(ValueError, match="must use Nesterov as `before` does"):
        attribution(ONE, BEFORE, replace(AFTER, nesterov=True))
    with pytest.raises(ValueError, match=r"needs noise in every mode, uᵀCu > 0; got 0 in mode 1"):
        attribution(Quadratic(np.ones(2), np.array([1.0, 0.0])), BEFORE, AFTER)
    with pytest.raises(ValueError, match="must be two lists of 3 variances > 0"):
        attribution(ONE, BEFORE, AFTER, measured=([1.0, 1.0, 0.0], [1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"must be < 0\.38"):
        attribution(ONE, BEFORE, MomentumSGD(0.4, 0.9))


def test_the_command_prints_the_split_and_reports_bad_files(tmp_path, capsys):
    spectra = dict(curvatures=[0.1, 1.0, 10.0], noise_variances=[1.0, 0.3, 2.0])
    one = write(tmp_path / "one.json", learning_rate=0.1, momentum=0.9, **spectra)
    two = write(tmp_path / "two.json", learning_rate=0.01, momentum=0.9, **spectra)
    assert main(["attribute", str(one), str(two)]) == 0
    assert capsys.readouterr().out.rstrip() == attribution(ONE, BEFORE, AFTER).to_text()
    assert main(["attribute", str(one), str(two), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["total"] == attribution(ONE, BEFORE, AFTER).total.tolist()
    assert main(["attribute", str(one), str(tmp_path / "none.json")]) == 2
    assert "must be a readable file" in capsys.readouterr().err
