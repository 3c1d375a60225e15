r"""Does the replicas' mean move as predicted? Two predictions, from the mean slope and the momentum at the checkpoint.

Ensemble  the law of mini-batches (P2): slopes, momentum and every sample's curvature in the tracked directions and in
          the two in which the mean starts to move outside them.
Recursion F₁ᵏ m₀ of each mode along H's eigenvectors, then F₂ᵏ: what stands beside (P1); any ensemble has it.
Controls  Of ridge regression the law's mean is exact along the data order. Sabotaged paths are the decoys: half the
          curvature, one step late, the rates of before and after swapped, and none at all.
Interval  Σ (off·√R)² over directions is a non-central χ²; Bonferroni over the records.
Preregistered  The networks' margin was fixed before any ensemble with rungs was measured; `mean-path-recursion`, which
          judges a curve that was drawn before, after five of those curves had been seen to fail; the controls', when
          their means at seed 4 had been seen.
Source    Xu and Zhang, arXiv 2410.07719, Theorem 4.7 (mean of the posterior).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import CONTROL_TAG, EmpiricalClaim, Subject, each_record
from empirical.claims.applicability import FINITE, all_records, assumed, judged_directions, require_applicable
from empirical.claims.ladder import every_steps, minibatch_law, of_controls
from empirical.claims.series import TOP_K, about_checkpoint, hypothesis
from empirical.records import Ensemble, Record
from empirical.settings.controls import Sabotage
from theory.closed_form.transient import mean_path
from theory.judge.claim import HYPOTHESIS_ALPHA, Claim, Compare, Comparison, Predictor
from theory.judge.results import Axis, Band, Curve, Mark, Role, Sample, TimeCourse
from theory.judge.verdict import Kind
from theory.model.quadratic import Quadratic

#: Mean displacement, in standard deviations of the spread, that the mean path may be off by.
PATH_MARGIN = 0.5
#: On a control whose mean path is exact: four times what 768 replicas leave of sampling error.
CONTROL_PATH_MARGIN = 0.15

Array: TypeAlias = NDArray[np.float64]
Paths: TypeAlias = Predictor[[Ensemble], Array]


def _mean_path(item: Ensemble, sabotage: Sabotage = "none", *, every_step: bool = False) -> Array:
    """E δ of the mini-batch law, shape ``(records, directions)``."""
    return minibatch_law(item, sabotage, every_step=every_step).mean[:, : len(item.frozen.curvatures)]


def _sabotaged(sabotage: Sabotage) -> Paths:
    return lambda item: _mean_path(item, sabotage)


def _no_path(item: Ensemble) -> Array:
    return np.zeros(item.positions.shape[::2])


class Path(Protocol):
    """A law of the mean path: at the records, or at every step."""

    def __call__(self, item: Ensemble, *, every_step: bool = False) -> Array:
        """E δ, shape ``(records, directions)``."""
        ...


def _compare_path(by: str, law: Path) -> Compare[Ensemble, Paths]:
    def compare(item: Ensemble, predict: Paths) -> Comparison:
        keep = judged_directions(item)
        predicted = predict(item)[:, keep]
        chosen = item.positions[:, :, keep].astype(np.float64)
        mean, spread = chosen.mean(axis=1), chosen.std(axis=1, ddof=1)
        off = (mean - predicted) / spread
        replicas, records = chosen.shape[1], len(item.steps)
        # A mean square of normal errors: Σ (off·√R)² is a non-central χ² over the directions.
        degrees = int(keep.sum())
        alpha = HYPOTHESIS_ALPHA / records
        square = (off**2).sum(axis=1) * replicas
        low, high = (
            np.array([_noncentrality(s, degrees, tail) for s in square]) for tail in (1 - alpha / 2, alpha / 2)
        )
        scale = 1.0 / (replicas * degrees)
        centre = np.sqrt(np.maximum(square - degrees, 0.0) * scale)
        at = int(np.argmax(centre))
        curves = []
        fine, path = every_steps(item), law(item, every_step=True)[:, keep]
        for name, direction in zip(("largest λ", "smallest λ"), (0, degrees - 1), strict=True):
            error = stats.norm.ppf(0.975) * spread[:, direction] / math.sqrt(replicas)
            y = mean[:, direction]
            curves += [
                Curve(
                    role=Role.MEASURED,
                    subject=name,
                    x=item.steps,
                    y=y,
                    low=y - error,
                    high=y + error,
                    band=Band.INTERVAL,
                ),
                Curve(role=Role.PREDICTED, subject=name, x=fine, y=path[:, direction], by=by),
            ]
        return Comparison(
            estimate=-float(centre[at]),
            interval=(-float(np.sqrt(high * scale).max()), -float(np.sqrt(low * scale).max())),
            note=(
                f"mean path off by {centre[at]:.2f} standard deviations of the spread (root mean square over {degrees} "
                f"directions) at step {int(item.steps[at])}, the worst of {records} records"
            ),
            results=(
                TimeCourse(
                    title="Mean path of the replicas",
                    sample=Sample(replicas, "replicas"),
                    x=Axis("steps since branching"),
                    y=Axis("mean displacement along a tracked direction"),
                    curves=tuple(curves),
                    marks=(Mark(float(item.drop), "the replicas drop"),),
                ),
            ),
        )

    return compare


def _noncentrality(square: float, degrees: int, level: float) -> float:
    """The non-centrality under which a χ² is below `square` with the given chance; 0 where none is that small."""
    from scipy.optimize import brentq

    if stats.chi2.cdf(square, degrees) <= level:
        return 0.0

    def excess(centre: float) -> float:
        return float(stats.ncx2.cdf(square, degrees, centre)) - level

    top = square + 10 * math.sqrt(square + degrees) + 50
    if not excess(top) < 0 < excess(1e-9):
        return top
    root: Any = brentq(excess, 1e-9, top)
    return float(root)


def _recursion(item: Ensemble, *, every_step: bool = False) -> Array:
    """F₁ᵏ m₀ of each mode along the path, then F₂ᵏ of where that led, shape ``(records, directions)``."""
    optimizer, drop = item.optimizer, item.drop
    steps = np.array(every_steps(item)) if every_step else item.steps
    lam = item.frozen.curvatures
    total = lam + optimizer.weight_decay
    out = np.zeros((len(steps), len(lam)))
    for index in np.flatnonzero(lam > 0):
        problem = Quadratic(np.array([lam[index]]), np.array([1.0]))
        # The optimum of the quadratic lies at −slope/λ from the checkpoint; m₀ counts from there.
        offset = item.frozen.mean_slope[index] / total[index]
        start = np.array([offset, item.frozen.momentum[index]])
        before = [0, *sorted({int(s) for s in steps if s <= drop} | {drop})]
        path = dict(zip(before, mean_path(problem, optimizer, start, before), strict=True))
        later = sorted(int(s) - drop for s in steps if s > drop)
        if later:
            slower = dataclasses.replace(optimizer, learning_rate=float(item.learning_rates[-1]))
            moved = mean_path(problem, slower, path[drop], later)
            path |= {drop + s: state for s, state in zip(later, moved, strict=True)}
        out[:, index] = [path[int(s)][0] - offset for s in steps]
    return out


MEAN_PATH = hypothesis(
    "mean-path-ensemble",
    "The replicas' mean moves as the mini-batch law says: at every record within half a standard deviation of the "
    "spread, root mean square over the tracked directions (the effect is minus that distance).",
    "Theorem 4.7 (mean of the posterior)",
    _compare_path("(P2)", _mean_path),
    {"the mean stays at the checkpoint": _no_path},
    -PATH_MARGIN,
    lambda records: (s for s in each_record(Ensemble, about_checkpoint)(records) if s.seen.rungs is not None),
    (TOP_K, "slopes, curvatures and their eigenvectors frozen at the checkpoint"),
    experiment=Ensemble.experiment,
    predict=_mean_path,
)
MEAN_PATH_RECURSION = hypothesis(
    "mean-path-recursion",
    "The replicas' mean moves as the recursion along H's eigenvectors says, F₁ᵏ m₀ and after the drop F₂ᵏ: at every "
    "record within half a standard deviation of the spread, root mean square over the tracked directions (the effect "
    "is minus that distance).",
    "Theorem 4.7 (mean of the posterior)",
    _compare_path("the recursion", _recursion),
    {"the mean stays at the checkpoint": _no_path},
    -PATH_MARGIN,
    each_record(Ensemble, about_checkpoint),
    (TOP_K, "slope, momentum, curvatures and their eigenvectors frozen at the checkpoint"),
    experiment=Ensemble.experiment,
    predict=_recursion,
    windows=("every record, before and after the drop",),
)


def _exact(records: Sequence[Record]) -> Iterable[Subject[Ensemble]]:
    """The controls whose loss is a quadratic: the mean obeys a linear recursion, and nothing else moves it."""
    for subject in of_controls(must_hold=True)(records):
        if subject.seen.training.method.loss == "squared":
            yield subject


def _compare_on_control(item: Ensemble, predict: Paths) -> Comparison:
    conditions = require_applicable(item, all_records(item), FINITE)
    found = _compare_path("(P2)", _mean_path)(item, predict)
    return dataclasses.replace(found, results=(*found.results, conditions))


def control_mean_path(sabotage: Sabotage = "none") -> EmpiricalClaim[Ensemble, Paths]:
    """The claim on controls whose mean path is exact; with a sabotage, judged by a path that is wrong on purpose."""
    return EmpiricalClaim(
        claim=Claim(
            name="control-mean-path",
            statement="Ridge regression, where the mean path is exact: at every record, before and after the drop, the "
            f"replicas' mean is within {CONTROL_PATH_MARGIN:g} standard deviations of the spread of where (P2) says, "
            "root mean square over the tracked directions (the effect is minus that distance).",
            source="own derivation, theory.closed_form.minibatch_moments (P2)",
            kind=Kind.HYPOTHESIS,
            experiments=(Ensemble.experiment,),
            assumptions=(TOP_K, *assumed(FINITE)),
            predict=_sabotaged(sabotage),
            decoys={
                "the mean stays at the checkpoint": _no_path,
                "half the curvature": _sabotaged("curvature"),
                "one step late": _sabotaged("late"),
                "rates before and after the drop swapped": _sabotaged("rates"),
            },
            compare=_compare_on_control,
            margin=-CONTROL_PATH_MARGIN,
            windows=("every record, before and after the drop",),
            tags=(CONTROL_TAG,),
        ),
        subjects=_exact,
    )


CONTROL_MEAN_PATH = control_mean_path()
CLAIMS = (CONTROL_MEAN_PATH, MEAN_PATH, MEAN_PATH_RECURSION)
