r"""How fast does the linearised network leave its checkpoint: at the rate that its most negative curvature sets?

Growth    Of a linear system at a saddle the variance grows by ρ² a step, ρ the larger root of the most negative
          curvature's mode; a direction in which a batch's Hessian couples to that mode inherits it. So do the tracked
          ones, along which the linearised replicas of the ladder are seen.
Measured  ln of their variance, mean over the tracked directions, from the first record of the last quarter of the steps
          before the drop to its last, over the steps between.
Interval  Replicas are the replicates: each has an influence on either level, and they are differenced.
Preregistered  No: the statement was found in the ensembles of seeds 6 to 8; the margin is the ladder's.
Source    Own question to Theorem 4.5 of Xu and Zhang, arXiv 2410.07719, whose Hessian is positive definite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from empirical.claims import Subject
from empirical.claims.ladder import Ladder
from empirical.claims.series import TOP_K, about_checkpoint, hypothesis
from empirical.records import Ensemble, Record, Spectrum
from empirical.settings.controls import control_of
from theory.closed_form.stability import modes
from theory.judge.claim import HYPOTHESIS_ALPHA, Comparison, NotApplicableError, Predictor
from theory.judge.intervals import of_magnitude

__all__ = ["CLAIMS", "Saddle"]

#: Share of the predicted rate that the measured one may be off by.
MARGIN = 0.25
#: ln units by which the variance must be predicted to grow for a rate to be seen.
LEAST_GROWTH = 1.0


@dataclass(frozen=True)
class Saddle:
    """An ensemble with rungs, and the spectrum of the checkpoint where its replicas part."""

    ensemble: Ensemble
    spectrum: Spectrum

    @property
    def curvature(self) -> float:
        """The most negative curvature found, without weight decay."""
        return float(self.spectrum.eigenvalues.min())

    @property
    def window(self) -> tuple[int, int]:
        """Indices of the records between which growth is measured.

        Raises:
            NotApplicableError: if the last quarter before the drop has one record.
        """
        steps, drop = self.ensemble.steps, self.ensemble.drop
        inside = np.flatnonzero((steps >= drop - drop // 4) & (steps <= drop))
        if len(inside) < 2:
            raise NotApplicableError(f"growth needs two records in the last {drop // 4} steps before the drop")
        return int(inside[0]), int(inside[-1])

    @property
    def elapsed(self) -> tuple[int, int]:
        """Their steps."""
        first, last = self.window
        return int(self.ensemble.steps[first]), int(self.ensemble.steps[last])


Rate = Predictor[[Saddle], float]


def _of_the_saddle(seen: Saddle) -> float:
    """2 ln ρ of the most negative curvature's mode, per step."""
    optimizer = seen.ensemble.optimizer
    radius = float(modes(np.array([seen.curvature]), optimizer).spectral_radius[0])
    return 2 * math.log(radius)


def _of_an_amplitude(seen: Saddle) -> float:
    return _of_the_saddle(seen) / 2


def _of_a_random_walk(seen: Saddle) -> float:
    first, last = seen.elapsed
    return math.log(last / first) / (last - first)


def _compare(seen: Saddle, predict: Rate) -> Comparison:
    first, last = seen.elapsed
    grown = _of_the_saddle(seen) * (last - first) if seen.curvature + seen.ensemble.optimizer.weight_decay < 0 else 0.0
    if grown < LEAST_GROWTH:
        raise NotApplicableError(
            f"no saddle whose growth could be seen: the least curvature is {seen.curvature:.3g}, by which ln variance "
            f"grows by {grown:.2f} from step {first} to {last} ({LEAST_GROWTH:g} is needed)"
        )
    spread = Ladder.of(seen.ensemble).levels["linearised"]
    before, after = (spread.at(np.array([place])) for place in seen.window)
    ratio = after.over(before)
    scale = (last - first) * predict(seen)
    found, error = float(ratio.estimate[0]) / scale, float(ratio.error[0]) / abs(scale)
    reach = float(stats.norm.ppf(1 - HYPOTHESIS_ALPHA / 2)) * error
    inner, outer = of_magnitude((found - 1 - reach, found - 1 + reach))
    return Comparison(
        estimate=-abs(found - 1),
        interval=(-outer, -inner),
        note=(
            f"ln variance of linearised replicas grows by {ratio.estimate[0] / (last - first):.3f} a step from step "
            f"{first} to {last}, {found:.2f} × what is predicted; least curvature {seen.curvature:.3g}; "
            f"{seen.ensemble.positions.shape[1]} replicas"
        ),
    )


def _at_saddles(records: Sequence[Record]) -> Iterable[Subject[Saddle]]:
    """Every ensemble of a network with rungs, and the spectrum of its checkpoint with the most negative curvature."""
    spectra: dict[tuple[object, ...], list[Spectrum]] = {}
    for item in records:
        if isinstance(item, Spectrum) and item.measurement.smallest > 0:
            spectra.setdefault((item.training, item.seed, item.iteration), []).append(item)
    for item in records:
        if not isinstance(item, Ensemble) or item.rungs is None or control_of(item.training) is not None:
            continue
        same = [
            one
            for one in spectra.get((item.training, item.seed, item.iteration), [])
            if one.measurement.batch_norm == item.measurement.batch_norm
        ]
        if same:
            yield Subject(about=about_checkpoint(item), seen=Saddle(item, same[0]), records=(item, same[0]))


SADDLE_GROWTH = hypothesis(
    "saddle-growth",
    "Linearised at its checkpoint the network leaves it at the rate of a saddle: in the last quarter of the steps "
    "before the drop the variance of linearised replicas along the tracked directions grows by ρ² a step, ρ of the "
    f"most negative curvature's mode, within {100 * MARGIN:g} % of that rate (the effect is minus the distance).",
    "Theorem 4.5, whose Hessian is positive definite: this project's question",
    _compare,
    {
        "the rate of an amplitude": _of_an_amplitude,
        "a random walk, whose variance grows in proportion to time": _of_a_random_walk,
    },
    -MARGIN,
    _at_saddles,
    (TOP_K, "the two most negative eigenvalues of the Hessian were found"),
    experiment=Ensemble.experiment,
    predict=_of_the_saddle,
    windows=("the last quarter of the steps before the drop",),
)

CLAIMS = (SADDLE_GROWTH,)
