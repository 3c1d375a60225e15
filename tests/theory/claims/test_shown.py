"""What a claim shows: intervals about the measured value, roles told apart, samples counted by the smallest."""

from __future__ import annotations

import numpy as np

from theory.claims import shown
from theory.judge.evidence import Evidence
from theory.judge.results import Band, Role


def test_a_measurement_stands_in_its_interval_at_the_level_of_the_family():
    bare = shown.measured([1, 2], [3.0, 5.0])
    assert bare.role is Role.MEASURED and bare.low is None and bare.band is None
    for half, low, high in ((0.5, (2.5, 4.5), (3.5, 5.5)), (np.array([1.0, 2.0]), (2.0, 3.0), (4.0, 7.0))):
        curve = shown.measured([1, 2], [3.0, 5.0], half, subject="a mode")
        assert (curve.low, curve.high, curve.band) == (low, high, Band.FAMILY) and curve.subject == "a mode"


def test_predictions_decoys_and_levels_are_told_apart():
    assert shown.predicted([0, 1], [1, 2]).role is Role.PREDICTED
    wrong = shown.decoy([0, 1], [2, 3], "as if H and C commuted")
    assert (wrong.role, wrong.by) == (Role.DECOY, "as if H and C commuted")
    line = shown.level(0.0, [3.0, 1.0, 2.0], "prediction")
    assert (line.role, line.x, line.y) == (Role.REFERENCE, (1.0, 3.0), (0.0, 0.0))


def test_a_sample_is_that_of_the_smallest_simulation():
    many, few = (
        Evidence(experiment="one", setting={"replicas": count}, seed=0, measured={}, arrays={}) for count in (64, 8)
    )
    assert shown.replicas([many]).n == 64 and shown.replicas([many]).of == "replicas"
    both = shown.replicas([many, few], ", pooled over time")
    assert (both.n, both.of) == (8, "replicas each, pooled over time")
