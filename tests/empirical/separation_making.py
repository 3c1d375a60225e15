"""A record of separated explanations in which the truth is known: one part of it has the law that replicas obey."""

from __future__ import annotations

import dataclasses

import numpy as np

from empirical.measure.posterior import shuffled_transient_variance
from empirical.records import Separation
from empirical.records.separation import Centre, Directions, MovedLaw
from empirical.settings import Measurement, SeparationSetting
from tests.empirical.record_making import frozen, training


def separation(right="", *, replicas=600, scouts=8, seed=0):
    """Replicas that obey (P1) at a curvature and noise that the checkpoint's law misses, and one explanation finds.

    Args:
        right: the part of the record that has the true law: "own", "later", "average", "first_half" (and the second),
            "elsewhere", "places", "mean place", "local"; "springs": "places", once curvature is as stiff as the slopes
            that scouts meet; "floor": "springs", about a floor of each replica's own; or nothing has.
    """
    run = dataclasses.replace(training(), optimizer=dataclasses.replace(training().optimizer, weight_decay=0.0))
    lam, gamma = np.array([1.5, 0.8, 0.5]), np.array([2.0, 1.0, 0.4])
    setting = SeparationSetting(replicas=replicas, scouts=scouts, before=60, after=40, seed=10**6)
    rates = np.r_[np.full(60, 0.1), np.full(40, 0.01)]
    steps = np.r_[np.arange(3, 61, 3), np.arange(62, 101, 2)]
    variance = shuffled_transient_variance(
        lam, gamma, run.optimizer, rates, [32] * 10, num_samples=320, repeated_share=0.9, record=steps.tolist()
    )
    rng = np.random.default_rng(seed)

    valley = 3.0 * variance[-1].mean() * (right == "floor")
    floors = rng.standard_normal((replicas, 3)) * np.sqrt(valley)

    def replicas_of(shared=None):
        unit = rng.standard_normal((len(steps), replicas, 3)) if shared is None else shared
        return unit * np.sqrt(variance)[:, None] + floors

    common = rng.standard_normal((len(steps), replicas, 3))

    def law(name):
        """The true curvature and noise where they are right; else a softer, noisier one."""
        if name == "places" and right in ("springs", "floor"):
            return lam / 3, gamma
        return (lam, gamma) if name == right else (0.5 * lam, 3.0 * gamma)

    def directions(name, shared=None):
        curvatures, noise = law(name)
        return Directions(
            curvatures=curvatures,
            slope_variances=noise,
            repeated_share=np.full(3, 0.9),
            positions=replicas_of(shared),
        )

    def moved(at_scouts, at_mean):
        spots = [law(at_scouts)] * scouts + [law(at_mean)]
        curvatures = np.array([[spot[0] for spot in spots]] * 4)
        moments = np.array([3, 60, 72, 100])
        spread = np.sqrt(variance[np.searchsorted(steps, moments)])[:, None]
        away = rng.standard_normal((4, scouts + 1, 3)) * spread
        slopes = (3.0 if right in ("springs", "floor") else 1.0) * curvatures * away + 0.7
        places = away + rng.standard_normal((scouts + 1, 3)) * np.sqrt(valley)
        return MovedLaw(
            steps=moments,
            curvatures=curvatures,
            slope_variances=np.array([[spot[1] for spot in spots]] * 4),
            positions=places,
            slopes=slopes,
            fixed_slopes=slopes,
        )

    def centre(own, shared=None):
        return Centre(
            start_position=0,
            distance=0.0,
            own=directions(own, shared),
            drift=np.ones(len(steps)),
            spread=np.ones(len(steps)),
        )

    return Separation(
        training=run,
        measurement=Measurement(eigenpairs=3),
        iteration=480,
        separation=setting,
        seed=0,
        learning_rate=0.1,
        frozen=frozen(*law("own")),
        steps=steps.astype(np.int64),
        learning_rates=rates,
        checkpoint=centre("own", common),
        later=centre("later"),
        average=centre("average"),
        moved=moved("places", "mean place"),
        first_half=directions("first_half", common),
        second_half=directions("first_half", common),
        elsewhere=directions("elsewhere", common),
        local=directions("local", common),
        local_moved=moved("local", "local"),
        seconds=1.0,
    )
