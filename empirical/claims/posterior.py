r"""Claims about the posterior itself: does the spread of replicas, and of a run in time, follow the recursion?

Evidence  ``ensemble`` and ``trajectory``, written by ``python -m empirical measure``. Agreement between a predicted and
          a measured variance is a factor within `AGREEMENT` = 1.5.
Curvature The paper's Hessian holds the adversarial inputs fixed. Training does not: it attacks again at every step, and
          the loss it descends is the *robust* loss, the maximum over inputs, whose curvature is at least as large
          (the envelope of a family of functions). Both are measured; which of them the dynamics obey is a question
          with an answer, and three claims ask it.
Preregistration  The margins, and the windows of `posterior-ensemble` and `transient-ensemble`, were fixed before any
          verdict. The trajectory's window was changed after the first one (400 steps across a decay to 200 steps before
          each): its verdicts describe. `robust-curvature` and the two claims built on it were *formed on* the ensemble
          of one digits run (AT, seed 0), which came out at 0.56 × the prediction; only other runs test them. For AWP
          "the attack run again" does not perturb the weights anew.
Decoys    share evidence and comparison with the claim: a recursion without momentum, a drop that never came, half the
          curvature.
Source    Xu and Zhang, arXiv 2410.07719, Theorems 4.5 and 4.7; Danskin 1966 for the derivative of a maximum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from empirical.claims import each_record
from empirical.claims.applicability import (
    FIXED,
    LAW,
    Condition,
    assumed,
    judged_directions,
    require_applicable,
)
from empirical.claims.series import FIXED_INPUTS, TOP_K, about_checkpoint, hypothesis
from empirical.claims.spread import Spread
from empirical.measure.posterior import shuffled_transient_variance, trajectory_variance
from empirical.records import Ensemble, Trajectory
from empirical.records.dynamics import FiniteCurvature, InFrozenBasis
from theory.judge.claim import HYPOTHESIS_ALPHA, Compare, Comparison, NotApplicableError, Predictor
from theory.judge.intervals import Contrast, from_influences, of_magnitude
from theory.judge.results import Agreement, Axis, Band, Curve, Mark, Result, Role, Sample, Table, TimeCourse
from theory.model.optimizer import MomentumSGD

AGREEMENT = 1.5
CURVATURE = 1.25


STEP = Axis("steps since branching")
VARIANCE = Axis("variance")
#: Replicas or samples on either side of an estimate's 95 % interval.
WIDE = 1.96


def _dynamics(
    item: InFrozenBasis,
    rates: NDArray[np.float64],
    optimizer: MomentumSGD,
    record: Sequence[int],
    curvatures: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    frozen = item.frozen
    return shuffled_transient_variance(
        frozen.curvatures if curvatures is None else curvatures,
        frozen.slope_variances,
        optimizer,
        rates,
        item.batch_sizes,
        num_samples=item.num_samples,
        repeated_share=frozen.repeated_share if item.sampling == "shuffle" else 0.0,
        start_position=item.start_position,
        record=record,
    )


def _finite(item: Ensemble) -> FiniteCurvature:
    if item.curvature is None:
        raise NotApplicableError("the ensemble has no curvature with the attack run again (no mode was stable)")
    return item.curvature


def robust_curvatures(item: Ensemble) -> NDArray[np.float64]:
    """uᵢᵀ(∂g/∂w)uᵢ of the robust loss over the distance σ, inputs attacked again on both sides, shape ``(k,)``."""
    return _finite(item).robust.mean(axis=0)


Law: TypeAlias = Predictor[[Ensemble], NDArray[np.float64]]


def _law(*, rates: Literal["path", "old", "new"] = "path", momentum: bool = True, robust: bool = False) -> Law:
    """(P1) at an ensemble's records.

    Args:
        rates: the replicas' own learning-rate path, or as if the rate had never dropped ("old") or had always been the
            new one ("new": a transient without memory).
        momentum: whether μ is the run's, or 0.
        robust: curvature of the robust loss in place of the Hessian at fixed inputs.
    """

    def predict(item: Ensemble) -> NDArray[np.float64]:
        optimizer = item.optimizer if momentum else without_momentum(item.optimizer)
        path = item.learning_rates
        if rates != "path":
            path = np.full_like(path, path[0 if rates == "old" else -1])
        return _dynamics(item, path, optimizer, item.steps.tolist(), robust_curvatures(item) if robust else None)

    return predict


def without_momentum(optimizer: MomentumSGD) -> MomentumSGD:
    """The same optimizer at μ = 0."""
    return dataclasses.replace(optimizer, momentum=0.0, nesterov=False)


def _before_the_drop(item: Ensemble) -> NDArray[np.intp]:
    """Records of the second half of the steps before the drop."""
    return np.flatnonzero((item.steps <= item.drop) & (item.steps > item.drop // 2))


def _after_the_drop(item: Ensemble) -> NDArray[np.intp]:
    return np.flatnonzero(item.steps > item.drop)


#: The records that a claim judges, in words: what its digest holds.
BEFORE_DROP = "records of the second half of the steps before the drop"
AFTER_DROP = "every record after the drop"


def _ensemble_comparison(after: bool, needs: tuple[Condition, ...]) -> Compare[Ensemble, Law]:
    def compare(item: Ensemble, predict: Law) -> Comparison:
        chosen = (_after_the_drop if after else _before_the_drop)(item)
        if not len(chosen):
            raise NotApplicableError("the ensemble has no record there")
        conditions = require_applicable(item, chosen, needs)
        keep, replicas = judged_directions(item), item.positions.shape[1]
        predicted = predict(item)
        ratio = _network(item, chosen).over(Spread.predicted(predicted[chosen], keep, replicas))
        inner, outer = ratio.magnitude
        worst = ratio.worst
        note = (
            f"{replicas} replicas: measured over predicted variance, geometric mean over {int(keep.sum())} directions, "
            f"{math.exp(ratio.estimate[worst]):.2f} × at step {item.steps[chosen[worst]]} (worst record), "
            f"{math.exp(ratio.estimate[-1]):.2f} × at the last"
        )
        measured = item.positions.var(axis=1, ddof=1)
        return Comparison(
            estimate=-abs(float(ratio.estimate[worst])),
            interval=(-outer, -inner),
            note=note,
            results=(*_ensemble_results(item, predicted, measured, keep, int(chosen[-1])), conditions),
        )

    return compare


def _network(item: Ensemble, records: NDArray[np.intp]) -> Spread:
    return Spread.of(item.positions[records], judged_directions(item))


def _ensemble_results(
    item: Ensemble,
    predicted: NDArray[np.float64],
    measured: NDArray[np.float64],
    keep: NDArray[np.bool_],
    record: int,
) -> tuple[Result, ...]:
    steps, replicas = item.steps, item.positions.shape[1]
    sample, drop = Sample(replicas, "replicas"), (Mark(float(item.drop), "the replicas drop"),)
    reach = math.exp(WIDE * math.sqrt(2 / replicas))
    curves = []
    for name, direction in zip(("largest λ", "smallest λ"), np.flatnonzero(keep)[[0, -1]], strict=True):
        values = measured[:, direction]
        curves += [
            Curve(
                role=Role.MEASURED,
                subject=name,
                x=steps,
                y=values,
                low=values / reach,
                high=values * reach,
                band=Band.INTERVAL,
            ),
            Curve(role=Role.PREDICTED, subject=name, x=steps, y=predicted[:, direction], by="(P1)"),
        ]
    scatter = measured[record, keep]
    return (
        TimeCourse(
            title="Ensemble variance against the predicted transient",
            sample=sample,
            caption="Replicas branch from one checkpoint, spread at the old rate and drop together.",
            x=STEP,
            y=VARIANCE,
            curves=tuple(curves),
            marks=drop,
        ),
        Agreement(
            title=f"Variance by direction at step {int(steps[record])}",
            sample=sample,
            quantity=VARIANCE,
            curves=(
                Curve(
                    role=Role.MEASURED,
                    x=predicted[record, keep],
                    y=scatter,
                    low=scatter / reach,
                    high=scatter * reach,
                    band=Band.INTERVAL,
                ),
            ),
            within=(1 / AGREEMENT, AGREEMENT),
        ),
        _direction_table(item, predicted, measured, record),
    )


def _direction_table(
    item: Ensemble, predicted: NDArray[np.float64], measured: NDArray[np.float64], record: int
) -> Table:
    frozen = item.frozen
    rows = tuple(
        (
            float(frozen.curvatures[i]),
            float(frozen.slope_variances[i]),
            float(frozen.repeated_share[i]),
            float(predicted[record, i]),
            float(measured[record, i]),
            float(measured[record, i] / predicted[record, i]),
        )
        for i in range(len(frozen.curvatures))
    )
    return Table(
        title=f"Variance by direction at step {int(item.steps[record])}",
        columns=("λ", "γ", "repeated share", "predicted σ²", "measured σ²", "ratio"),
        rows=rows,
        caption="Relative error of a measured variance from R replicas: √(2/R).",
    )


EACH_ENSEMBLE = each_record(Ensemble, about_checkpoint)

POSTERIOR_ENSEMBLE = hypothesis(
    "posterior-ensemble",
    "The spread of replicas that share a checkpoint and differ in their data order is the predicted posterior: its "
    "variance in the tracked directions is within a factor of 1.5 of (P1) (the effect is minus |ln ratio|).",
    "Theorem 4.5",
    _ensemble_comparison(after=False, needs=FIXED),
    {"no momentum": _law(momentum=False)},
    -math.log(AGREEMENT),
    EACH_ENSEMBLE,
    (FIXED_INPUTS, TOP_K, "λ, γ and their eigenvectors frozen at the checkpoint", *assumed(FIXED)),
    experiment=Ensemble.experiment,
    predict=_law(),
    windows=(BEFORE_DROP,),
)
TRANSIENT_ENSEMBLE = hypothesis(
    "transient-ensemble",
    "When the replicas drop to the decayed rate together, their variance follows the exact transient: at every record "
    "after the drop it is within a factor of 1.5 of (P1) (the effect is minus the largest |ln ratio|).",
    "Theorem 4.7",
    _ensemble_comparison(after=True, needs=FIXED),
    {"the rate never dropped": _law(rates="old"), "the new law at once": _law(rates="new")},
    -math.log(AGREEMENT),
    EACH_ENSEMBLE,
    (FIXED_INPUTS, TOP_K, "λ, γ and their eigenvectors frozen at the checkpoint", *assumed(FIXED)),
    experiment=Ensemble.experiment,
    predict=_law(),
    windows=(AFTER_DROP,),
)


POSTERIOR_ROBUST = hypothesis(
    "posterior-robust-curvature",
    "With the curvature of the robust loss (attack run again, over the distance σ) in place of the Hessian at fixed "
    "inputs, the spread of the replicas before the drop is within a factor of 1.5 of (P1) (the effect is minus |ln "
    "ratio|).",
    "Theorem 4.5, with this project's curvature",
    _ensemble_comparison(after=False, needs=LAW),
    {"no momentum": _law(robust=True, momentum=False)},
    -math.log(AGREEMENT),
    EACH_ENSEMBLE,
    (TOP_K, "γ and the eigenvectors frozen at the checkpoint", *assumed(LAW)),
    experiment=Ensemble.experiment,
    predict=_law(robust=True),
    windows=(BEFORE_DROP,),
)
TRANSIENT_ROBUST = hypothesis(
    "transient-robust-curvature",
    "With the curvature of the robust loss in place of the Hessian at fixed inputs, the variance after the drop is "
    "within a factor of 1.5 of (P1) at every record (the effect is minus the largest |ln ratio|).",
    "Theorem 4.7, with this project's curvature",
    _ensemble_comparison(after=True, needs=LAW),
    {"the rate never dropped": _law(robust=True, rates="old")},
    -math.log(AGREEMENT),
    EACH_ENSEMBLE,
    (TOP_K, "γ and the eigenvectors frozen at the checkpoint", *assumed(LAW)),
    experiment=Ensemble.experiment,
    predict=_law(robust=True),
    windows=(AFTER_DROP,),
)


def _shrunk(change: Literal["none", "rate"]) -> Law:
    """The old law going on after the drop: as it is ("none"), or times η₂/η₁ at once ("rate")."""

    def predict(item: Ensemble) -> NDArray[np.float64]:
        old = _law(rates="old")(item)
        factor = item.ensemble.factor if change == "rate" else 1.0
        return np.where((item.steps > item.drop)[:, None], factor * old, old)

    return predict


def _compare_shrink(item: Ensemble, predict: Law) -> Comparison:
    before, after = _before_the_drop(item), _after_the_drop(item)
    if not len(before) or not len(after):
        raise NotApplicableError("the ensemble has no records on both sides of the drop")
    conditions = require_applicable(item, np.concatenate([before, after]), FIXED)
    keep, replicas, predicted = judged_directions(item), item.positions.shape[1], predict(item)

    def law(records: NDArray[np.intp]) -> Spread:
        return Spread.predicted(predicted[records], keep, replicas)

    # What measured and predicted spread are apart by before the drop is not asked here.
    measured_fall, predicted_fall = _network(item, after).since(_network(item, before)), law(after).since(law(before))
    ratio = measured_fall.over(predicted_fall)
    inner, outer = ratio.magnitude
    worst, last = ratio.worst, after[-1]
    found, expected = math.exp(measured_fall.level[-1]), math.exp(predicted_fall.level[-1])
    return Comparison(
        estimate=-abs(float(ratio.estimate[worst])),
        interval=(-outer, -inner),
        note=(
            f"{replicas} replicas: from before the drop to step {int(item.steps[last])} the measured variance falls to "
            f"{found:.3f} ×, the predicted to {expected:.3f} × (learning rate {item.ensemble.factor:g} ×); furthest "
            f"apart, {math.exp(ratio.estimate[worst]):.2f} ×, at step {int(item.steps[after[worst]])}"
        ),
        results=(_shrink_course(item, predicted, before), conditions),
    )


def _shrink_course(item: Ensemble, predicted: NDArray[np.float64], before: NDArray[np.intp]) -> TimeCourse:
    keep, replicas = judged_directions(item), item.positions.shape[1]
    network, law = Spread.of(item.positions, keep), Spread.predicted(predicted, keep, replicas)
    network, law = (each.since(each.at(before)) for each in (network, law))
    error = WIDE * network.influence.std(axis=1, ddof=1) / math.sqrt(replicas)
    return TimeCourse(
        title="Measured variance of the replicas, before the drop and after it",
        sample=Sample(replicas, "replicas"),
        caption="Geometric mean over the tracked directions, as a share of its mean before the drop.",
        x=STEP,
        y=Axis("variance / before the drop"),
        curves=(
            Curve(
                role=Role.MEASURED,
                x=item.steps,
                y=np.exp(network.level),
                low=np.exp(network.level - error),
                high=np.exp(network.level + error),
                band=Band.INTERVAL,
            ),
            Curve(role=Role.PREDICTED, x=item.steps, y=np.exp(law.level), by="(P1)"),
        ),
        marks=(Mark(float(item.drop), "the replicas drop"),),
    )


POSTERIOR_SHRINK = hypothesis(
    "posterior-shrink-measured",
    "The measured posterior shrinks as predicted: from before the drop to every record after it, the variance of the "
    "replicas falls by the factor by which (P1) falls, within a factor of 1.5 (the effect is minus the largest |ln "
    "ratio of the two|).",
    "Theorems 4.5, 4.7 and section 6 (the posterior shrinks after a decay)",
    _compare_shrink,
    {"no shrink": _shrunk("none"), "the full ratio of the rates at once": _shrunk("rate")},
    -math.log(AGREEMENT),
    EACH_ENSEMBLE,
    (FIXED_INPUTS, TOP_K, "λ, γ and their eigenvectors frozen at the checkpoint", *assumed(FIXED)),
    experiment=Ensemble.experiment,
    predict=_law(),
    windows=(f"before: {BEFORE_DROP}, mean of their ln", f"after: {AFTER_DROP}"),
)


def _compare_curvature(item: Ensemble, predict: float) -> Comparison:
    robust, found = robust_curvatures(item), _finite(item)
    lam = item.frozen.curvatures
    keep = (lam > 0) & (robust > 0)
    if not keep.any():
        raise NotApplicableError("no tracked direction has positive curvature")
    # Both curvatures are means over the same samples: what a sample adds to both cancels in the log ratio.
    influence = (
        (found.robust[:, keep] / robust[keep]) - (found.exact[:, keep] / found.exact[:, keep].mean(axis=0))
    ).mean(axis=1)
    error = from_influences(0.0, influence).standard_error
    ratio = Contrast(estimate=float(np.log(robust[keep] / (predict * lam[keep])).mean()), standard_error=error)
    inner, outer = of_magnitude(ratio.interval(HYPOTHESIS_ALPHA))
    fixed = found.fixed.mean(axis=0)
    return Comparison(
        estimate=-abs(ratio.estimate),
        interval=(-outer, -inner),
        note=(
            f"with the attack run again the curvature is {math.exp(ratio.estimate):.2f} × the Hessian's at fixed "
            f"inputs (geometric mean over {int(keep.sum())} directions), over ± {found.step:.2g}; "
            f"at fixed inputs the same difference gives {float(np.mean(fixed[keep] / lam[keep])):.2f} ×"
        ),
        results=(_curvature_agreement(lam, robust, fixed, found),),
    )


def _curvature_agreement(
    lam: NDArray[np.float64], robust: NDArray[np.float64], fixed: NDArray[np.float64], found: FiniteCurvature
) -> Agreement:
    count = len(found.robust)
    reach = WIDE * found.robust.std(axis=0, ddof=1) / math.sqrt(count)
    return Agreement(
        title="Curvature that training feels, against the Hessian's at fixed inputs",
        sample=Sample(count, "training samples"),
        caption="Central differences of the gradient over ± σ along each tracked eigenvector.",
        quantity=Axis("curvature"),
        curves=(
            Curve(
                role=Role.MEASURED,
                subject="attacked again",
                x=lam,
                y=robust,
                low=robust - reach,
                high=robust + reach,
                band=Band.INTERVAL,
            ),
            Curve(role=Role.MEASURED, subject="inputs fixed", x=lam, y=fixed),
        ),
        within=(1 / CURVATURE, CURVATURE),
    )


ROBUST_CURVATURE = hypothesis(
    "robust-curvature",
    "The Hessian at fixed adversarial inputs is the curvature that training feels: with the attack run again, over "
    "the distance σ, the curvature along its top eigenvectors is the same within 25 % (the effect is minus |ln "
    "ratio|).",
    "section 3 (Hessian of the adversarial loss)",
    _compare_curvature,
    {"half the curvature": 0.5},
    -math.log(CURVATURE),
    EACH_ENSEMBLE,
    (TOP_K, "σ from the white-noise stationary law"),
    experiment=Ensemble.experiment,
    predict=1.0,
)


InTime: TypeAlias = Predictor[[Trajectory], NDArray[np.float64]]


def _in_time(item: Trajectory) -> NDArray[np.float64]:
    """(P1) averaged over the phases of the last epoch of the window."""
    return _window_mean(item, item.optimizer)


def _in_time_without_momentum(item: Trajectory) -> NDArray[np.float64]:
    return _window_mean(item, without_momentum(item.optimizer))


def _window_mean(item: Trajectory, optimizer: MomentumSGD) -> NDArray[np.float64]:
    steps, epoch = item.window, len(item.batch_sizes)
    record = list(range(max(steps - epoch, 0) + 1, steps + 1))
    return _dynamics(item, np.full(steps, optimizer.learning_rate), optimizer, record).mean(axis=0)


def _compare_trajectory(item: Trajectory, predict: InTime) -> Comparison:
    found = trajectory_variance(item.positions, item.frozen.curvatures, item.optimizer, weight_norms=item.norms)
    keep = found.applicable
    if not keep.any():
        raise NotApplicableError(
            f"no tracked mode is stationary in the window of {item.window} steps: relaxation times "
            f"{found.relaxation_times.min():.0f} to {found.relaxation_times.max():.0f} steps, the weights' norm drifts "
            f"by {found.norm_drift:.1%}"
        )
    predicted = predict(item)
    ratio = np.log(found.variances[keep] / predicted[keep])
    weights = found.effective_samples[keep]
    mean = Contrast(
        estimate=float(np.average(ratio, weights=weights)),
        standard_error=math.sqrt(float((weights**2 * 2 / weights).sum()) / float(weights.sum()) ** 2),
    )
    low, high = mean.interval(HYPOTHESIS_ALPHA)
    inner, outer = of_magnitude((low, high))
    rows = tuple(
        (
            float(item.frozen.curvatures[i]),
            float(found.relaxation_times[i]),
            float(predicted[i]),
            float(found.variances[i]),
            float(found.variances[i] / predicted[i]),
            float(found.effective_samples[i]),
            "yes" if keep[i] else "no",
        )
        for i in range(len(keep))
    )
    reach = np.exp(WIDE * np.sqrt(2 / weights))
    measured = found.variances[keep]
    return Comparison(
        estimate=-abs(mean.estimate),
        interval=(-outer, -inner),
        note=(
            f"{int(keep.sum())} of {len(keep)} modes relax within the window; measured over predicted variance in time "
            f"{math.exp(mean.estimate):.2f} × [{math.exp(low):.2f}, {math.exp(high):.2f}]; norm drift "
            f"{found.norm_drift:.1%}"
        ),
        results=(
            Agreement(
                title="Variance along the trajectory, measured and predicted",
                sample=Sample(item.window, "steps of one run"),
                caption="Modes that relax within the window; intervals from their effective samples.",
                quantity=VARIANCE,
                curves=(
                    Curve(
                        role=Role.MEASURED,
                        x=predicted[keep],
                        y=measured,
                        low=measured / reach,
                        high=measured * reach,
                        band=Band.INTERVAL,
                    ),
                ),
                within=(1 / AGREEMENT, AGREEMENT),
            ),
            Table(
                title="Variance along the trajectory",
                columns=("λ", "relaxation steps", "predicted σ²", "measured σ²", "ratio", "effective samples", "used"),
                rows=rows,
            ),
        ),
    )


POSTERIOR_TRAJECTORY = hypothesis(
    "posterior-trajectory",
    "Along one run at a constant rate the detrended weights fluctuate as predicted: variance in time within a factor "
    "of 1.5 of (P1) in the modes that relax within the window (the effect is minus |ln ratio|).",
    "Theorem 4.5",
    _compare_trajectory,
    {"no momentum": _in_time_without_momentum},
    -math.log(AGREEMENT),
    each_record(Trajectory, about_checkpoint),
    (FIXED_INPUTS, TOP_K, "stationary over the window; eigenvectors frozen at its start"),
    experiment=Trajectory.experiment,
    predict=_in_time,
)

CLAIMS = (
    POSTERIOR_TRAJECTORY,
    POSTERIOR_ENSEMBLE,
    TRANSIENT_ENSEMBLE,
    POSTERIOR_SHRINK,
    ROBUST_CURVATURE,
    POSTERIOR_ROBUST,
    TRANSIENT_ROBUST,
)
