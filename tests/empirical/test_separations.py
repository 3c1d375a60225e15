"""Each explanation of the replicas' spread is supported where it is the true one, and refuted where another is."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest

from empirical.claims import separations
from empirical.records.separation import MovedLaw
from tests.empirical.separation_making import separation

#: Explanation to the part of a made record that then has the true law.
RIGHT = {
    "drift": "later",
    "averaging": "average",
    "held-out-data": "first_half",
    "held-out-position": "elsewhere",
    "places": "places",
    "mean-place": "mean place",
    "local-modes": "local",
    "stiffness": "springs",
    "floor": "floor",
}
#: What builds on others: where those are enough, it is right as well.
FURTHER = {"places": ("stiffness", "floor"), "stiffness": ("floor",)}


@functools.cache
def made(right="", **changes):
    # The variance of floors is as certain as scouts are many.
    return separation(right, **({"scouts": 256 if right == "floor" else 16} | changes))


def verdicts(item):
    return {
        entry.claim.name: entry.judge(subject) for entry in separations.CLAIMS for subject in entry.subjects([item])
    }


def test_every_explanation_has_a_record_in_which_it_is_true():
    assert set(RIGHT) == set(separations.EXPLANATIONS)


@pytest.mark.parametrize("cause", RIGHT)
def test_the_true_cause_is_supported_and_all_others_are_refuted(cause):
    found = verdicts(made(RIGHT[cause]))
    outcomes = {name: found[f"spread-explained-by-{name}"].outcome.value for name in RIGHT}
    true = (cause, *FURTHER.get(cause, ()))
    assert outcomes == {name: "supported" if name in true else "refuted" for name in RIGHT}
    verdict = found[f"spread-explained-by-{cause}"]
    assert {decoy.name: decoy.outcome.value for decoy in verdict.decoys} == {
        "nothing moved": "refuted",
        "twice the noise": "refuted",
    }


@pytest.mark.parametrize(
    ("right", "outcome"),
    [("places", "supported"), ("springs", "supported"), ("floor", "supported"), ("local", "refuted"), ("", "refuted")],
)
def test_the_prediction_is_supported_where_springs_and_floors_are_right_and_refuted_elsewhere(right, outcome):
    assert verdicts(made(right))["spread-predicted"].outcome.value == outcome


def test_where_the_law_holds_there_is_nothing_to_explain():
    found = verdicts(made("own"))
    for name in RIGHT:
        verdict = found[f"spread-explained-by-{name}"]
        assert verdict.outcome.value == "not applicable" and "nothing to explain" in verdict.note


def test_the_parts_make_up_the_whole():
    item = made("local")
    whole = separations.levels(item, separations.NOTHING).values
    assert separations.STEPS[-1][1] is separations.PREDICTED
    chart = separations.contributions(item)
    for place, category in enumerate(separations.PLACES):
        parts = [one.value for one in chart.estimates if one.category == category]
        assert sum(parts) == pytest.approx(whole[place], abs=1e-12)
    assert [one.subject for one in chart.estimates][len(separations.STEPS) - 1] == "unexplained"


def test_a_level_is_the_log_ratio_and_its_interval_that_of_the_replicas():
    item = made("own")
    found = separations.levels(item, separations.NOTHING)
    # three directions, independent records (of the epoch before the drop: 4)
    expected = math.sqrt(2 / 600 / 3 / 4)
    assert abs(found.values[0]) < 4 * expected
    assert np.std(found.draws[:, 0]) == pytest.approx(expected, rel=0.2)
    doubled = dataclasses.replace(item.checkpoint.own, positions=math.sqrt(2) * item.checkpoint.own.positions)
    twice = dataclasses.replace(item, checkpoint=dataclasses.replace(item.checkpoint, own=doubled))
    assert separations.levels(twice, separations.NOTHING).values[0] == pytest.approx(found.values[0] + math.log(2))
    assert separations.levels(twice, separations.NOTHING).values[1] == pytest.approx(found.values[1])


def test_explanations_of_the_same_replicas_are_paired():
    item = made("elsewhere")  # its replicas move along both bases alike: all that differs is the prediction
    base = separations.levels(item, separations.NOTHING)
    step = base.minus(separations.levels(item, separations.EXPLANATIONS["held-out-position"][1]))
    assert np.ptp(step.draws, axis=0).max() < 1e-12 < abs(step.values).min()


def test_a_moved_law_is_followed_from_moment_to_moment():
    item = made("places")
    law = MovedLaw(
        steps=np.array([10, 60, 100]),
        curvatures=np.array([[[1.0] * 3] * 9, [[2.0] * 3] * 9, [[4.0] * 3] * 9]),
        slope_variances=np.ones((3, 9, 3)),
        positions=np.zeros((3, 9, 3)),
        slopes=np.zeros((3, 9, 3)),
        fixed_slopes=np.zeros((3, 9, 3)),
    )
    own = dataclasses.replace(item.checkpoint.own, curvatures=np.full(3, 3.0), slope_variances=np.full(3, 3.0))
    sight = separations.Sight(item.checkpoint, own, law)
    lam, noise, floor = sight.laws(item, np.arange(8)[None])
    assert floor.tolist() == [0.0]
    np.testing.assert_allclose(lam[[0, 5, 10, 35, 60, 80], 0, 0], [3.0, 2.0, 1.0, 1.5, 2.0, 3.0])
    np.testing.assert_allclose(noise[[0, 5, 10, 99], 0, 0], [3.0, 2.0, 1.0, 1.0])


def met(steps, positions, slopes):
    """What scouts meet where the Hessian and the noise are 1."""
    ones = np.ones_like(positions)
    return MovedLaw(
        steps=steps,
        curvatures=ones,
        slope_variances=ones,
        positions=positions,
        slopes=slopes,
        fixed_slopes=slopes,
    )


def test_springs_are_the_pooled_regression_of_slopes_on_distances():
    item = made("places")
    rng = np.random.default_rng(3)
    stiffness = np.array([1.5, 0.8, 2.0])
    places = rng.standard_normal((4, 65, 3)) * np.array([1.0, 1.0, 0.5, 0.3])[:, None, None]
    slopes = stiffness * places + [5.0, -3.0, 1.0]
    slopes[2:] *= 0.4  # after the drop the springs are not asked again
    law = met(item.moved.steps, places, slopes)
    sight = separations.Sight(item.checkpoint, item.checkpoint.own, law, springs=True)
    lam, _, floor = sight.laws(item, np.arange(64)[None])
    at = law.steps[0]
    weights = places[0, :64].var(axis=0)
    np.testing.assert_allclose(lam[at, 0], np.full(3, (stiffness * weights).sum() / weights.sum()))
    assert (lam[70, 0] > 0.9 * lam[59, 0]).all() and floor.tolist() == [0.0]


def test_a_floor_is_where_slopes_vanish_and_is_taken_out_of_the_springs():
    item = made("places")
    rng = np.random.default_rng(4)
    away = rng.standard_normal((4, 4001, 3)) * np.array([1.0, 1.0, 0.5, 0.2])[:, None, None]
    floors = 0.5 * rng.standard_normal((4001, 3))
    law = met(item.moved.steps, away + floors, 2.0 * away)
    sight = separations.Sight(item.checkpoint, item.checkpoint.own, law, springs=True, floor=True)
    lam, _, floor = sight.laws(item, np.arange(4000)[None])
    # The plain regression would find 2 / (1 + 0.25) = 1.6.
    np.testing.assert_allclose(lam[60:, 0], 2.0, rtol=0.05)
    np.testing.assert_allclose(floor, 0.25, rtol=0.05)


def test_scouts_are_drawn_and_their_mean_is_not():
    item = made("places")
    seen = np.arange(1.0, 10.0)[None, :, None] * np.ones((4, 9, 3))  # eight scouts, then the mean
    law = dataclasses.replace(met(np.array([1, 60, 70, 100]), seen, seen), curvatures=seen, slope_variances=seen)
    draws = np.array([np.arange(8), np.zeros(8, dtype=int)])
    scouts, _, _ = separations.Sight(item.checkpoint, item.checkpoint.own, law).laws(item, draws)
    np.testing.assert_allclose(scouts[50, :, 0], [4.5, 1.0])
    mean, _, _ = separations.Sight(item.checkpoint, item.checkpoint.own, law, at_mean=True).laws(item, draws)
    np.testing.assert_allclose(mean[50, :, 0], [9.0, 9.0])


def test_a_window_shorter_than_its_epochs_is_not_applicable():
    item = made("local")
    short = dataclasses.replace(item, training=dataclasses.replace(item.training, batch_size=8))
    for verdict in verdicts(short).values():
        assert verdict.outcome.value == "not applicable" and "epochs before the drop" in verdict.note
