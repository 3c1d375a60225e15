"""The ladder and the controls on ensembles drawn from the law itself, and on ones that leave it at a known rung."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest

from empirical.claims import ladder, paths
from empirical.commands.controls import judged as judged_controls
from empirical.records import Ensemble
from empirical.records.dynamics import Places, Rungs, SampleLaw
from empirical.settings import EnsembleSetting, Measurement, make_training
from empirical.settings.controls import CONTROLS, RUNGS, SABOTAGES, control_of
from tests.empirical.record_making import frozen
from theory.judge.results import Role

STEPS = np.array([1, 2, 4, 15, 30, 45, 60, 62, 70, 85, 100])
LAM = np.array([3.0, 1.0, 0.4])
REPLICAS = 1500


def drawn(training, *, network=1.0, fixed=1.0, linearised=1.0, path=0.0, seed=0, replicas=REPLICAS):
    """Replicas with the variances of the mini-batch law, each rung times a factor of its own.

    Args:
        training: the run's Setting.
        linearised: variance of linearised replicas over the law's.
        fixed: of the network at fixed inputs over theirs.
        network: of the network over that.
        path: displacement of the mean beyond the law's, in standard deviations.
    """
    rng = np.random.default_rng(seed)
    count = training.data.num_train
    slopes = rng.standard_normal((count, 3)) * [1.4, 1.0, 0.6]
    slopes -= slopes.mean(axis=0)
    features = rng.standard_normal((count, 3))
    curvatures = LAM[:, None] ** 0.5 * features[:, :, None] * features[:, None, :] * LAM**0.5
    # The mean is made diagonal: the tracked directions are its eigenvectors.
    curvatures += np.diag(LAM) - curvatures.mean(axis=0)
    held = dataclasses.replace(
        frozen(LAM, slopes.var(axis=0, ddof=1)), mean_slope=np.array([0.5, 0.3, 0.1]), momentum=np.zeros(3)
    )
    rate = training.optimizer.learning_rate
    blank = np.zeros((len(STEPS), replicas, 3))
    places, noise = (np.ones((2, 3, 3)) * values for values in (LAM, held.slope_variances))
    item = Ensemble(
        training=training,
        measurement=Measurement(eigenpairs=3),
        iteration=training.decays[0][0],
        ensemble=EnsembleSetting(replicas=replicas, before=60, after=40),
        seed=0,
        learning_rate=rate,
        frozen=held,
        curvature=None,
        vectorized=True,
        steps=STEPS,
        learning_rates=np.r_[np.full(60, rate), np.full(40, rate / 10)],
        positions=blank,
        norms=np.ones(blank.shape[:2]),
        losses=np.ones(blank.shape[:2]),
        rungs=Rungs(
            law=SampleLaw(
                slopes=slopes,
                curvatures=curvatures,
                mean_slope=held.mean_slope,
                momentum=held.momentum,
                outside_curvature=0.0,
                outside_coupling=np.zeros((3, 3)),
                outside_own=np.zeros((3, 3)),
            ),
            linearised=blank,
            fixed_inputs=blank,
            places=Places(
                steps=np.array([60, 100]),
                curvatures=places,
                slope_variances=noise,
                attacked_curvatures=places,
                attacked_slope_variances=noise,
            ),
        ),
        seconds=1.0,
    )
    law = ladder.minibatch_law(item)
    spread = np.sqrt(np.einsum("tii->ti", law.covariance))
    unit = rng.standard_normal((len(STEPS), replicas, 3))  # shared by the rungs, as seeds are
    centre = law.mean[:, None] + path * spread[:, None]
    lowest = centre + unit * spread[:, None] * math.sqrt(linearised)
    middle = centre + unit * spread[:, None] * math.sqrt(linearised * fixed)
    return dataclasses.replace(
        item,
        rungs=dataclasses.replace(item.rungs, linearised=lowest, fixed_inputs=middle),
        positions=centre + unit * spread[:, None] * math.sqrt(linearised * fixed * network),
    )


HELD, LIMIT, NETWORK = CONTROLS[2], CONTROLS[6], make_training("digits-cpu", "at")


@functools.cache
def made(which, **changes):
    return drawn({"held": HELD.training(), "limit": LIMIT.training(), "network": NETWORK}[which], **changes)


def verdicts(item, sabotage="none"):
    entries = [entry for entry in (*ladder.CLAIMS, *paths.CLAIMS) if "control" not in entry.claim.tags]
    found = {}
    for entry in (*ladder.control_claims(sabotage), *entries):
        for subject in entry.subjects([item]):
            found[entry.claim.name] = entry.judge(subject)
    return found


def test_a_control_drawn_from_the_law_is_supported_and_every_sabotage_refuted():
    found = verdicts(made("held"))
    assert set(found) == {"control", "mean-path-ensemble", "mean-path-recursion"}
    assert found["control"].outcome.value == "supported", found["control"]
    assert [str(decoy.outcome) for decoy in found["control"].decoys] == ["refuted"] * 5
    assert found["mean-path-ensemble"].outcome.value == "supported"


@pytest.mark.parametrize("sabotage", [name for name in SABOTAGES if name != "none"])
def test_a_sabotaged_control_fails(sabotage):
    assert verdicts(made("held"), sabotage)["control"].outcome.value == "refuted"


@pytest.mark.parametrize(("factor", "outcome"), [(1.5, "refuted"), (0.7, "refuted"), (1.15, "inconclusive")])
def test_a_control_that_leaves_the_law_is_not_supported(factor, outcome):
    assert verdicts(made("held", fixed=factor))["control"].outcome.value == outcome


def test_a_limit_is_supported_where_it_parts_at_the_declared_rung_alone():
    found = verdicts(made("limit", fixed=1.5))
    assert found["control-limit"].outcome.value == "supported", found["control-limit"]
    assert found["control-limit-law"].outcome.value == "supported"
    assert verdicts(made("limit"))["control-limit"].outcome.value == "refuted"  # parts nowhere
    assert verdicts(made("limit", fixed=1.5, network=1.5))["control-limit"].outcome.value == "refuted"
    elsewhere = verdicts(made("limit", fixed=1.5, linearised=1.5))
    assert elsewhere["control-limit"].outcome.value == "refuted"
    assert elsewhere["control-limit-law"].outcome.value == "refuted"


@pytest.mark.parametrize(
    ("changes", "parted"),
    [
        ({}, ()),
        ({"linearised": 1.6}, ("mini-batch law",)),
        ({"fixed": 1.6}, ("quadratic loss",)),
        ({"network": 0.6}, ("fixed inputs",)),
    ],
)
def test_a_network_parts_at_the_rung_where_it_was_made_to(changes, parted):
    item = made("network", **changes)
    found = verdicts(item)
    assert "control" not in found
    rungs = [rung for rung in RUNGS[1:] if found[f"ladder-{rung.replace(' ', '-')}"].outcome.value == "refuted"]
    assert tuple(rungs) == parted
    for rung in parted:
        assert rung in found["ladder"].note.partition(";")[0]
    assert {kind.kind for kind in found["ladder"].results} == {"forest", "time course", "agreement", "table"}


def test_the_law_is_drawn_at_every_step_and_replicas_that_part_far_leave_the_picture():
    item = made("network")
    found = ladder.Ladder.of(item)
    course = found.course()
    law, level, *replicas = course.curves
    assert (law.subject, law.role, level.role) == ("(P2)", Role.PREDICTED, Role.REFERENCE)
    assert law.x == tuple(range(1, int(item.steps[-1]) + 1)) and set(level.y) == {1.0}
    at_records = [law.y[int(step) - 1] for step in item.steps]
    assert np.allclose(at_records, np.exp(found.rungs["additive noise"].estimate), rtol=1e-9)
    assert [one.subject for one in replicas] == ["linearised", "inputs fixed", "network"]
    assert all(len(one.x) == len(item.steps) for one in replicas)
    far = ladder.Ladder.of(made("network", linearised=100.0, fixed=0.01)).course()
    assert [one.subject for one in far.curves] == ["(P2)", "(P1)", "inputs fixed", "network"]


def test_variances_are_shown_against_their_law_with_the_margin_that_decides():
    item = made("network")
    chart = ladder.Ladder.of(item).agreement("(P1)", ladder.MARGIN)
    assert chart.within == (1 / 1.25, 1.25)
    before, after = chart.curves
    predicted = ladder.additive_variances(item)
    at = int(np.flatnonzero(item.steps <= item.drop)[-1])
    assert np.allclose(before.x, predicted[at]) and np.allclose(after.x, predicted[-1])
    assert np.allclose(after.y, item.positions[-1].var(axis=0, ddof=1))
    for curve in chart.curves:
        assert (np.asarray(curve.low) < curve.y).all() and (np.asarray(curve.high) > curve.y).all()


def test_the_product_of_the_rungs_is_the_whole():
    rungs = ladder.Ladder.of(made("network", linearised=1.2, fixed=0.9, network=1.4))
    whole = rungs.levels["network"].over(rungs.levels["(P1)"])
    assert np.allclose(sum(ratio.estimate for ratio in rungs.rungs.values()), whole.estimate, rtol=1e-12, atol=1e-12)


def test_what_rungs_share_cancels_in_their_ratio():
    rungs = ladder.Ladder.of(made("network", fixed=1.3)).rungs
    assert rungs["quadratic loss"].error.max() < 1e-10  # the same draws, scaled
    # ln of three independent variances from 1,500 replicas each, averaged: √(2/1500/3)
    assert np.allclose(rungs["mini-batch law"].error, math.sqrt(2 / REPLICAS / 3), rtol=0.15)


def test_the_interval_of_a_ratio_covers_its_truth():
    rng, covered, repeats = np.random.default_rng(0), 0, 300
    law = ladder.Spread.predicted(np.ones((4, 3)), np.ones(3, dtype=bool), 200)
    for _ in range(repeats):
        found = ladder.Spread.of(rng.standard_normal((4, 200, 3)), np.ones(3, dtype=bool)).over(law)
        low, high = found.ends()
        covered += bool(((low <= 0) & (high >= 0)).all())
    # simultaneous 95 %: 300 trials stay within 271 and 297 with chance 0.999
    assert 271 <= covered <= 297


def test_a_path_that_the_law_does_not_foresee_is_refuted():
    item = made("network", path=0.9)
    verdict = verdicts(item)["mean-path-ensemble"]
    assert verdict.outcome.value == "refuted" and verdict.estimate == pytest.approx(-0.9, abs=0.05)


def path_of_a_control(item):
    return [paths.CONTROL_MEAN_PATH.judge(subject) for subject in paths.CONTROL_MEAN_PATH.subjects_in([item])]


def test_the_mean_path_of_a_linear_control_is_supported_and_every_sabotaged_path_refuted():
    (verdict,) = path_of_a_control(made("held"))
    assert verdict.outcome.value == "supported", verdict
    assert {decoy.name: decoy.outcome.value for decoy in verdict.decoys} == {
        "the mean stays at the checkpoint": "refuted",
        "half the curvature": "refuted",
        "one step late": "refuted",
        "rates before and after the drop swapped": "refuted",
    }


def test_a_mean_that_leaves_the_path_of_a_linear_control_by_less_than_a_networks_margin_is_refuted():
    (verdict,) = path_of_a_control(made("held", path=0.3))
    assert verdict.outcome.value == "refuted" and verdict.estimate == pytest.approx(-0.3, abs=0.05)


def test_the_controls_command_judges_the_mean_path_too_and_refutes_it_sabotaged():
    def outcome(sabotage):
        return {one.claim: one.outcome.value for one in judged_controls([made("held")], sabotage)}

    assert outcome("none") == {"control": "supported", "control-mean-path": "supported"}
    assert outcome("late") == {"control": "refuted", "control-mean-path": "refuted"}


def test_the_mean_path_is_known_exactly_on_linear_controls_that_must_hold_alone():
    squared = [control for control in CONTROLS if path_of_a_control(drawn(control.training(), replicas=300))]
    assert [control.preset for control in squared] == ["control-ridge"] * 4
    assert not path_of_a_control(made("network"))


def test_the_recursion_along_eigenvectors_is_the_mean_where_nothing_couples_them():
    """A dense recursion step by step, and replicas about it or half a spread and more away."""
    item = made("network")
    optimizer, rates = item.optimizer, item.learning_rates
    slope = item.frozen.mean_slope
    place, velocity, path = np.zeros(3), item.frozen.momentum.copy(), {}
    for step, rate in enumerate(rates, start=1):
        gradient = slope + (LAM + optimizer.weight_decay) * place
        velocity = optimizer.momentum * velocity + gradient
        place = place - rate * velocity
        path[step] = place
    along = np.array([path[int(step)] for step in item.steps])
    rng = np.random.default_rng(3)
    spread = np.sqrt(np.einsum("tii->ti", ladder.minibatch_law(item).covariance))
    for away, outcome in ((0.0, "supported"), (0.9, "refuted")):
        positions = (along + away * spread)[:, None] + rng.standard_normal(item.positions.shape) * spread[:, None]
        verdict = verdicts(dataclasses.replace(item, positions=positions))["mean-path-recursion"]
        assert verdict.outcome.value == outcome, verdict
        assert verdict.decoys[0].outcome.value == "refuted"
        (course,) = verdict.results
        every = [path[step][0] for step in range(1, int(item.steps[-1]) + 1)]
        assert np.allclose(course.curves[1].y, every, rtol=1e-9), "the prediction is drawn at every step"


def test_without_an_attack_the_network_is_its_own_run_at_fixed_inputs():
    item = made("held", fixed=1.3)
    rungs = dataclasses.replace(item.rungs, fixed_inputs=None)
    found = ladder.Ladder.of(dataclasses.replace(item, rungs=rungs)).rungs
    assert np.allclose(found["fixed inputs"].estimate, 0) and np.allclose(found["quadratic loss"].estimate, np.log(1.3))


def test_controls_are_known_by_their_setting_and_nothing_else_is_one():
    assert [control_of(control.training()) for control in CONTROLS] == list(CONTROLS)
    assert control_of(NETWORK) is None
    assert control_of(HELD.training(epochs=100)) is None
    assert len({control.name for control in CONTROLS}) == len(CONTROLS)


def test_an_ensemble_without_rungs_has_no_ladder():
    item = dataclasses.replace(made("network"), rungs=None)
    assert set(verdicts(item)) == {"mean-path-recursion"}, "which any ensemble has"
    with pytest.raises(ValueError, match="measured without rungs"):
        item.require_rungs()


def test_moved_curvature_and_noise_explain_a_spread_that_frozen_ones_do_not():
    item = made("network")
    places = item.rungs.places
    noise = item.frozen.slope_variances * np.ones((2, 3, 3))
    true = dataclasses.replace(places, attacked_slope_variances=noise)
    additive = ladder.additive_variances(item)

    def judged(where, factor):
        rungs = dataclasses.replace(item.rungs, places=where)
        unit = np.random.default_rng(1).standard_normal(item.positions.shape)
        positions = unit * np.sqrt(factor * additive)[:, None]
        frozen_share = dataclasses.replace(item.frozen, repeated_share=np.ones(3))
        return verdicts(dataclasses.replace(item, rungs=rungs, positions=positions, frozen=frozen_share))

    halved = dataclasses.replace(true, attacked_slope_variances=0.5 * noise)
    found = judged(halved, 0.5)["ladder-moved-law"]
    assert found.outcome.value == "supported" and "γ 0.50 ×" in found.note
    assert judged(true, 0.5)["ladder-moved-law"].outcome.value == "refuted"
