"""Exact claims: each holds to ten digits, sees the ninth of any answer, and refutes its decoys; nothing slips by."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from theory.claims import CLAIMS, EXPERIMENTS
from theory.claims.exact import DIGITS, exact_claim, exact_experiment, relative_error
from theory.claims.exact_paths import PRINTED
from theory.claims.exact_stationary import JUDGED
from theory.judge.evidence import Evidence
from theory.judge.verdict import Outcome

EXACT = {claim.name: claim for claim in CLAIMS if claim.margin == DIGITS}
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}


@functools.cache
def evidence(name: str) -> Evidence:
    experiment = BY_NAME[name]
    setting = experiment.setting("default")
    measured, arrays = experiment.run(setting, 5, lambda fraction: None)
    return Evidence(experiment=name, setting=setting.to_dict(), seed=5, measured=dict(measured), arrays=dict(arrays))


@functools.cache
def answers(name: str) -> dict[str, np.ndarray]:
    claim = EXACT[name]
    (experiment,) = claim.experiments
    setting = type(BY_NAME[experiment].setting("default")).from_dict(evidence(experiment).setting)
    return {key: np.asarray(value, dtype=np.float64) for key, value in claim.predict(setting).items()}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_claim_holds_to_ten_digits_and_each_decoy_falls(name):
    claim = EXACT[name]
    verdict = claim.judge({item: evidence(item) for item in claim.experiments})
    assert verdict.outcome is Outcome.SUPPORTED, verdict.note
    assert verdict.estimate < 1e-11
    for decoy in verdict.decoys:
        assert decoy.outcome is Outcome.REFUTED and decoy.estimate > 1e-4, decoy


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_claim_sees_an_error_in_the_ninth_digit_of_any_answer(name):
    claim = EXACT[name]
    (experiment,) = claim.experiments
    found = answers(name)
    assert len(found) == claim.num_tests
    for key, value in found.items():
        wrong = {**found, key: value * (1 + 1e-9)}
        comparison = claim.compare({experiment: evidence(experiment)}, lambda setting, wrong=wrong: wrong)
        assert comparison.interval[0] > DIGITS, key


@pytest.mark.parametrize("name", EXACT)
def test_every_number_that_an_oracle_made_is_held_against_a_formula(name):
    """What no claim reads would be an oracle for nothing."""
    (experiment,) = EXACT[name].experiments
    sharing = [other for other in EXACT.values() if other.experiments == (experiment,)]
    read = {key for claim in sharing for key in answers(claim.name)}
    # Without momentum its part of a split is 0 before and after: no relative error.
    unread = {key for key in set(evidence(experiment).arrays) - read if not key.startswith("momentum ")}
    assert not unread


def test_an_answer_of_another_shape_or_without_value_is_wrong():
    expected = np.array([1.0, 2.0])
    assert relative_error(expected, expected) == 0.0
    assert relative_error([1.0, 2.0 + 1e-9], expected) == pytest.approx(1e-9 / np.sqrt(5), rel=1e-6)
    for wrong in ([1.0], [[1.0, 2.0]], [1.0, np.nan], [np.inf, 2.0]):
        assert relative_error(wrong, expected) == 1.0


def test_the_worst_answer_decides_wherever_it_stands():
    experiment = exact_experiment("three", "", JUDGED, lambda setting: {key: np.ones(2) for key in "abc"})
    item = Evidence(
        experiment="three", setting=JUDGED.to_dict(), seed=0, measured={}, arrays=dict.fromkeys("abc", np.ones(2))
    )
    for key in "abc":
        for wrong in (np.full(2, 1.5), np.full(2, np.nan), np.ones(3)):
            claim = exact_claim(
                name="three",
                statement="",
                source="",
                experiment=experiment,
                predict=lambda setting, key=key, wrong=wrong: {**dict.fromkeys("abc", np.ones(2)), key: wrong},
                decoys={"nothing": lambda setting: dict.fromkeys("abc", np.zeros(2))},
                assumptions=(),
                num_tests=3,
            )
            assert claim.judge({"three": item}).outcome is Outcome.REFUTED
    with pytest.raises(ValueError, match="must cover every test"):
        replace(claim, num_tests=2).judge({"three": item})


def test_an_answer_that_was_never_measured_is_no_support():
    claim = EXACT["dissipation-exact"]
    (experiment,) = claim.experiments
    bare = replace(evidence(experiment), arrays={})
    with pytest.raises(KeyError):
        claim.judge({experiment: bare})


def test_the_special_points_are_those_of_the_other_laws():
    """Heavy ball, Nesterov and plain SGD as points of one formula, in the oracle's own numbers."""
    from theory.claims import family

    arrays = evidence("quasi-hyperbolic-literal").arrays
    ball, nesterov, plain = (arrays[f"edge {index}"][0] * family._sharpest(family.PROBLEM) for index in (0, 1, 4))
    assert ball == pytest.approx(2 * 1.9 / 0.1, rel=1e-12)
    assert nesterov == pytest.approx(2 * 1.9 / (0.1 * 2.8), rel=1e-12)
    assert plain == pytest.approx(2.0, rel=1e-12)


def test_the_printed_numbers_of_the_two_forms_are_the_recursion_s():
    """By hand: (w, w₋) of λ = γ = 1 followed for ten steps with plain numbers."""
    mu, old, new = 0.9, 0.1, 0.01
    for form, printed in PRINTED.items():
        moments = np.zeros((2, 2))  # of (w, d), d the displacement
        first = 0.0
        for step in range(4000 + 10):
            rate = old if step < 4000 else new
            if step == 4000:
                first = moments[0, 0]
                if form == "pytorch":  # the buffer stays, so that the displacement shrinks with the rate
                    moments[0, 1] *= new / old
                    moments[1, 0] *= new / old
                    moments[1, 1] *= (new / old) ** 2
            move = np.array([[1 - rate, mu], [-rate, mu]])
            moments = move @ moments @ move.T + rate**2 * np.ones((2, 2))
        assert round(moments[0, 0] / first, 2) == printed
