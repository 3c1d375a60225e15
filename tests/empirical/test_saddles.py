"""Growth at a saddle, on replicas that a dense recursion moves away from it, and on ones that do not grow so."""

import dataclasses
import functools

import numpy as np
import pytest

from empirical.claims.saddles import SADDLE_GROWTH
from empirical.settings import make_training
from tests.empirical.record_making import spectrum
from tests.empirical.test_ladder import HELD, drawn

LEAST = -0.45


@functools.cache
def ensemble():
    return drawn(make_training("digits-cpu", "at"), replicas=400)


def at_saddle(item, least=LEAST):
    """The spectrum of the checkpoint at which the replicas part."""
    found = spectrum(48)
    pairs = np.sort(np.concatenate([found.eigenvalues[:-2], [least / 2, least]]))[::-1]
    return dataclasses.replace(
        found, training=item.training, iteration=item.iteration, seed=item.seed, eigenvalues=pairs
    )


def departing(item, least=LEAST, factor=1.0):
    """Linearised replicas whose distance follows the recursion of one weight, its logarithm times a factor."""
    optimizer = item.optimizer
    weight, velocity, path = 1.0, 0.0, {}
    for step, rate in enumerate(item.learning_rates, start=1):
        velocity = optimizer.momentum * velocity + (least + optimizer.weight_decay) * weight
        weight -= rate * velocity
        path[step] = weight
    away = np.array([path[int(step)] for step in item.steps]) ** factor
    unit = np.random.default_rng(5).standard_normal(item.positions.shape[1:])
    rungs = dataclasses.replace(item.rungs, linearised=away[:, None, None] * unit)
    return dataclasses.replace(item, rungs=rungs)


def judged(*records):
    return [SADDLE_GROWTH.judge(subject) for subject in SADDLE_GROWTH.subjects_in(records)]


def test_replicas_that_leave_a_saddle_at_its_rate_support_it_and_refute_every_decoy():
    item = departing(ensemble())
    (verdict,) = judged(item, at_saddle(item))
    assert verdict.outcome.value == "supported", verdict
    assert [decoy.outcome.value for decoy in verdict.decoys] == ["refuted", "refuted"]
    assert len(verdict.evidence) == 2


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_another_rate_is_refuted(factor):
    item = departing(ensemble(), factor=factor)
    (verdict,) = judged(item, at_saddle(item))
    assert verdict.outcome.value == "refuted" and verdict.estimate == pytest.approx(-abs(factor - 1), abs=0.05)


@pytest.mark.parametrize("least", [0.01, -1e-4, -0.02])
def test_without_negative_curvature_that_matters_it_says_nothing(least):
    item = ensemble()
    (verdict,) = judged(item, at_saddle(item, least))
    assert verdict.outcome.value == "not applicable"
    assert "no saddle whose growth could be seen" in verdict.note


def test_it_needs_the_spectrum_of_the_very_checkpoint_and_never_judges_a_control():
    item = departing(ensemble())
    assert not judged(item) and not judged(item, dataclasses.replace(at_saddle(item), seed=item.seed + 1))
    assert not judged(item, dataclasses.replace(at_saddle(item), iteration=item.iteration + 10))
    control = drawn(HELD.training(), replicas=40)
    assert not judged(control, at_saddle(control))
