r"""From theory to network, rung by rung: where do the predicted and the measured spread part?

Rungs     The same replicas, under the same data orders, are run three times: linearised at the checkpoint, as the
          network at the checkpoint's adversarial inputs, and as training runs (the attack again at every step).
            additive noise      (P1) → (P2)                noise that depends on the state
            mini-batch law      (P2) → linearised          the law itself, for linear dynamics
            quadratic loss      linearised → fixed inputs  third derivatives
            fixed inputs        fixed inputs → attacked    the attack's answer to the weights
          Each rung is a ratio of variances, geometric mean over the tracked directions; their product is all (L1).
Interval  That of `spread`. The first rung compares two formulas and has no sampling error.
Controls  On `empirical.settings.controls` the outcome is declared beforehand. Sabotaged laws are the decoys: twice the
          noise, half the curvature, the other order of sampling, one step late, the rates of before and after swapped.
Preregistered  Margins, records and rungs were fixed before any ensemble with rungs was measured.
Source    Own derivation, `theory.closed_form.minibatch_moments`; Xu and Zhang, arXiv 2410.07719, Theorems 4.5, 4.7.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import EmpiricalClaim, Selected, Subject, each_record
from empirical.claims.applicability import (
    FINITE,
    FIXED,
    Condition,
    all_records,
    assumed,
    judged_directions,
    require_applicable,
)
from empirical.claims.series import TOP_K, about_checkpoint, hypothesis
from empirical.claims.spread import Ratio, Spread
from empirical.measure.posterior import shuffled_transient_variance
from empirical.records import Ensemble, Record
from empirical.settings.controls import RUNGS, Rung, Sabotage, control_of
from theory.closed_form.minibatch_moments import MinibatchMoments, minibatch_second_moments
from theory.closed_form.outside import Outside
from theory.judge.claim import Claim, Comparison, Predictor
from theory.judge.results import Agreement, Axis, Band, Curve, Estimate, Forest, Mark, Role, Sample, Table, TimeCourse
from theory.judge.verdict import Kind
from theory.model.regression import Sampling

#: What a rung may be off by on a network before theory and network part there, and on a control.
MARGIN = 1.25
CONTROL_MARGIN = 1.15
#: Factor from (P1) beyond which replicas are not drawn.
BEYOND = 30.0

Array: TypeAlias = NDArray[np.float64]


@functools.lru_cache(maxsize=32)
def minibatch_law(item: Ensemble, sabotage: Sabotage = "none", *, every_step: bool = False) -> MinibatchMoments:
    """(P2) at an ensemble's records, from every sample's slope and curvature at the checkpoint.

    Args:
        item: an ensemble with rungs.
        sabotage: a part of the law to get wrong on purpose.
        every_step: at every step up to the last record, to be drawn.

    Raises:
        ValueError: if the ensemble was measured without rungs.
    """
    law = item.require_rungs().law
    slopes = law.slopes - law.slopes.mean(axis=0)
    curvatures = law.curvatures
    rates, record = item.learning_rates, every_steps(item) if every_step else item.steps.tolist()
    shuffled = item.sampling == "shuffle"
    if sabotage == "noise":
        slopes = math.sqrt(2.0) * slopes
    elif sabotage == "curvature":
        curvatures = curvatures / 2
    elif sabotage == "sampling":
        shuffled = not shuffled
    elif sabotage == "rates":
        rates = np.where(rates == rates[0], rates[-1], rates[0])
    late = sabotage == "late"
    found = minibatch_second_moments(
        slopes + law.mean_slope,
        curvatures,
        item.optimizer,
        rates,
        item.batch_sizes,
        sampling=Sampling.SHUFFLED_EPOCHS if shuffled else Sampling.WITH_REPLACEMENT,
        start_position=item.start_position,
        initial_mean=np.concatenate([np.zeros(slopes.shape[1]), law.momentum]),
        record=sorted({max(step - late, 1) for step in record}),
        outside=(Outside(curvature=law.outside_curvature, coupling=law.outside_coupling, own=law.outside_own),),
    )
    if not late:
        return found
    places = [found.steps.tolist().index(max(step - 1, 1)) for step in record]
    return dataclasses.replace(
        found,
        steps=item.steps,
        state_mean=found.state_mean[places],
        state_covariance=found.state_covariance[places],
    )


def every_steps(item: Ensemble) -> list[int]:
    """Steps 1, 2, … up to the last record."""
    return list(range(1, int(item.steps[-1]) + 1))


def minibatch_variances(item: Ensemble, sabotage: Sabotage = "none", *, every_step: bool = False) -> Array:
    """Variances along the tracked directions that (P2) predicts, shape ``(records, directions)``."""
    tracked = len(item.frozen.curvatures)
    return np.einsum("tii->ti", minibatch_law(item, sabotage, every_step=every_step).covariance)[:, :tracked]


def additive_variances(item: Ensemble, *, every_step: bool = False) -> Array:
    """Those of (P1), inputs held fixed: every slope of a sample comes back with it."""
    frozen = item.frozen
    return shuffled_transient_variance(
        frozen.curvatures,
        frozen.slope_variances,
        item.optimizer,
        item.learning_rates,
        item.batch_sizes,
        num_samples=item.num_samples,
        repeated_share=1.0 if item.sampling == "shuffle" else 0.0,
        start_position=item.start_position,
        record=every_steps(item) if every_step else item.steps.tolist(),
    )


def moved_variances(item: Ensemble) -> Array:
    """Those of (P1) with λ and γ where the replicas are: of the last record before the drop, then of the last of all.

    Both are taken at the inputs that the attack finds there, mean over the replicas looked at; the eigenvectors stay.
    """
    places, frozen = item.require_rungs().places, item.frozen
    stage = (np.arange(len(item.learning_rates)) >= item.drop).astype(np.int64)
    moments = np.minimum(stage, len(places.steps) - 1)
    curvatures = places.attacked_curvatures[:, :-1].mean(axis=1)
    noise = places.attacked_slope_variances[:, :-1].mean(axis=1)
    return shuffled_transient_variance(
        curvatures[moments],
        noise[moments],
        item.optimizer,
        item.learning_rates,
        item.batch_sizes,
        num_samples=item.num_samples,
        repeated_share=frozen.repeated_share if item.sampling == "shuffle" else 0.0,
        start_position=item.start_position,
        record=item.steps.tolist(),
    )


@dataclass(frozen=True)
class Ladder:
    """All rungs of one ensemble; `Ladder.of` makes each once, however many claims ask."""

    item: Ensemble

    @staticmethod
    @functools.lru_cache(maxsize=8)
    def of(item: Ensemble) -> Ladder:
        """The ladder of an ensemble."""
        return Ladder(item)

    @cached_property
    def keep(self) -> NDArray[np.bool_]:
        """Tracked directions with positive curvature."""
        return judged_directions(self.item)

    @cached_property
    def levels(self) -> Mapping[str, Spread]:
        """The spread at the foot and at the top of every rung."""
        item, rungs, keep = self.item, self.item.require_rungs(), self.keep
        replicas = item.positions.shape[1]
        return {
            "(P1)": Spread.predicted(additive_variances(item), keep, replicas),
            "(P2)": Spread.predicted(minibatch_variances(item), keep, replicas),
            "linearised": Spread.of(rungs.linearised, keep),
            "inputs fixed": Spread.of(item.positions if rungs.fixed_inputs is None else rungs.fixed_inputs, keep),
            "network": Spread.of(item.positions, keep),
        }

    @cached_property
    def rungs(self) -> Mapping[Rung, Ratio]:
        """Ratio of each rung's top to its foot."""
        levels = list(self.levels.values())
        return {rung: above.over(below) for rung, below, above in zip(RUNGS, levels, levels[1:], strict=False)}

    def forest(self, margin: float) -> Forest:
        """The worst record of every rung against the margin."""
        estimates = []
        for rung, ratio in (*self.rungs.items(), ("whole", self.levels["network"].over(self.levels["(P1)"]))):
            at, (low, high) = ratio.worst, ratio.ends()
            estimates.append(
                Estimate(
                    category=f"{rung}, step {int(self.item.steps[at])}",
                    value=math.exp(ratio.estimate[at]),
                    low=math.exp(low[at]),
                    high=math.exp(high[at]),
                    band=Band.INTERVAL,
                )
            )
        return Forest(
            title="Where theory and network part: the worst record of each rung",
            sample=Sample(self.item.positions.shape[1], "replicas"),
            x=Axis("ratio of variances, top of the rung over its foot"),
            estimates=tuple(estimates),
            margins=(1 / margin, margin),
            null=1.0,
        )

    def course(self) -> TimeCourse:
        """Every level over the steps, relative to (P1): (P2) at every step, the replicas at their records.

        Replicas that part by a factor of `BEYOND` leave the picture, which they would flatten, for good.
        """
        item, base, steps = self.item, self.levels["(P1)"], self.item.steps
        fine = np.array(every_steps(item))
        predicted, additive = (
            Spread.predicted(variances, self.keep, 2)
            for variances in (minibatch_variances(item, every_step=True), additive_variances(item, every_step=True))
        )
        curves = [
            Curve(role=Role.PREDICTED, subject="(P2)", x=fine, y=np.exp(predicted.over(additive).estimate)),
            Curve(role=Role.REFERENCE, subject="(P1)", x=fine[[0, -1]], y=(1.0, 1.0)),
        ]
        for name, level in self.levels.items():
            if name in ("(P1)", "(P2)"):
                continue
            ratio = level.over(base)
            low, high = ratio.ends()
            far = np.abs(ratio.estimate) > math.log(BEYOND)
            until = int(np.argmax(far)) if far.any() else len(steps)
            if until:
                curves.append(
                    Curve(
                        role=Role.MEASURED,
                        subject=name,
                        x=steps[:until],
                        y=np.exp(ratio.estimate)[:until],
                        low=np.exp(low)[:until],
                        high=np.exp(high)[:until],
                        band=Band.INTERVAL,
                    )
                )
        return TimeCourse(
            title="Spread of the replicas over what additive noise predicts",
            sample=Sample(self.item.positions.shape[1], "replicas"),
            caption=f"Replicas that part from (P1) by more than × {BEYOND:g} leave the picture for good.",
            x=Axis("steps since branching"),
            y=Axis("variance / (P1)"),
            curves=tuple(curves),
            marks=(Mark(float(self.item.drop), "the replicas drop"),),
        )

    def results(self, law: str, margin: float) -> tuple[Forest, TimeCourse, Agreement]:
        """What a verdict on all rungs, or on a law, shows."""
        return self.forest(margin), self.course(), self.agreement(law, margin)

    def agreement(self, law: str, margin: float) -> Agreement:
        """Every direction's variance against a law's, at the last record before the drop and at the last of all."""
        item, keep = self.item, self.keep
        predicted = (additive_variances if law == "(P1)" else minibatch_variances)(item)[:, keep]
        before = int(np.flatnonzero(item.steps <= item.drop)[-1])
        replicas = item.positions.shape[1]
        curves = []
        for name, at in (("before the drop", before), ("after it", len(item.steps) - 1)):
            chosen = item.positions[at][:, keep].astype(np.float64)
            variance = chosen.var(axis=0, ddof=1)
            influence = (chosen - chosen.mean(axis=0)) ** 2 / variance - 1
            reach = np.exp(stats.norm.ppf(0.975) * influence.std(axis=0, ddof=1) / math.sqrt(replicas))
            curves.append(
                Curve(
                    role=Role.MEASURED,
                    subject=name,
                    x=predicted[at],
                    y=variance,
                    low=variance / reach,
                    high=variance * reach,
                    band=Band.INTERVAL,
                )
            )
        return Agreement(
            title=f"Variance of the replicas along every direction, measured and predicted by {law}",
            sample=Sample(replicas, "replicas"),
            caption=f"Solid: 1:1; dashed: × {margin:g} and ÷ {margin:g}.",
            quantity=Axis("variance"),
            curves=tuple(curves),
            within=(1 / margin, margin),
        )

    def described(self) -> str:
        """Every rung's worst record in words."""
        parts = []
        for rung, ratio in self.rungs.items():
            at = ratio.worst
            parts.append(f"{rung} {math.exp(ratio.estimate[at]):.3g} × (step {int(self.item.steps[at])})")
        return "; ".join(parts)


# --- claims -----------------------------------------------------------------------------------------------------------


def _of_networks(records: Sequence[Record]) -> Iterable[Subject[Ensemble]]:
    for subject in each_record(Ensemble, about_checkpoint)(records):
        if control_of(subject.seen.training) is None and subject.seen.rungs is not None:
            yield subject


def of_controls(must_hold: bool) -> Selected[Ensemble]:
    """A selector: the ensembles of controls that must hold, or of those declared to leave the theory, by name."""

    def select(records: Sequence[Record]) -> Iterable[Subject[Ensemble]]:
        for subject in each_record(Ensemble, about_checkpoint)(records):
            control = control_of(subject.seen.training)
            if control is not None and control.must_hold is must_hold:
                named = dataclasses.replace(subject.about, name=control.name)
                yield dataclasses.replace(subject, about=named, scope="this control only")

    return select


Step: TypeAlias = Predictor[[Ensemble], Ratio]


def _rung(rung: Rung) -> Step:
    return lambda item: Ladder.of(item).rungs[rung]


def _swapped(rung: Rung) -> Step:
    """The rung as if the replicas' spread had half its variance: what an instrument without power would let pass."""

    def wrong(item: Ensemble) -> Ratio:
        ratio = Ladder.of(item).rungs[rung]
        return Ratio(estimate=ratio.estimate - math.log(2.0), error=ratio.error)

    return wrong


def _judged(ratio: Ratio, item: Ensemble, what: str, results: tuple = ()) -> Comparison:
    inner, outer = ratio.magnitude
    at = ratio.worst
    return Comparison(
        estimate=-abs(float(ratio.estimate[at])),
        interval=(-outer, -inner),
        note=(
            f"{what} {math.exp(ratio.estimate[at]):.3g} × at step {int(item.steps[at])}, the worst of "
            f"{len(item.steps)} records of {item.positions.shape[1]} replicas"
        ),
        results=results,
    )


def _compare_rung(rung: Rung):
    def compare(item: Ensemble, predict: Step) -> Comparison:
        table = require_applicable(item, all_records(item), FINITE)
        return _judged(predict(item), item, f"variance over that of the rung below ({rung})", (table,))

    return compare


_DROPS: Mapping[Rung, str] = {
    "additive noise": "the law of mini-batches (P2) gives the spread that additive noise (P1) gives",
    "mini-batch law": "replicas of the linearised dynamics spread as the law of mini-batches (P2) says",
    "quadratic loss": "the network at fixed inputs spreads as its linearised dynamics do",
    "fixed inputs": "the network attacked again at every step spreads as it does at fixed inputs",
}


def _rung_claim(rung: Rung) -> EmpiricalClaim[Ensemble, Step]:
    return hypothesis(
        f"ladder-{rung.replace(' ', '-')}",
        f"At every record {_DROPS[rung]}, within a factor of {MARGIN:g} (the effect is minus the largest |ln ratio|).",
        "Theorems 4.5 and 4.7, taken apart by this project",
        _compare_rung(rung),
        {"half the variance": _swapped(rung)},
        -math.log(MARGIN),
        _of_networks,
        (TOP_K, "λ, γ and their eigenvectors frozen at the checkpoint", *assumed(FINITE)),
        experiment=Ensemble.experiment,
        predict=_rung(rung),
        windows=("every record, before and after the drop",),
    )


def _compare_ladder(item: Ensemble, predict: Step) -> Comparison:
    table = require_applicable(item, all_records(item), FINITE)
    ladder = Ladder.of(item)
    parted = [rung for rung, ratio in ladder.rungs.items() if ratio.outcome(MARGIN) == "outside"]
    open_ = [rung for rung, ratio in ladder.rungs.items() if ratio.outcome(MARGIN) == "undecided"]
    where = f"parts at: {', '.join(parted)}" if parted else "parts at no rung for certain"
    if open_:
        where += f"; undecided: {', '.join(open_)}"
    judged = _judged(predict(item), item, "network over (P1)", (*ladder.results("(P1)", MARGIN), table))
    return dataclasses.replace(judged, note=f"{where}; {ladder.described()}; {judged.note}")


def _whole(item: Ensemble) -> Ratio:
    levels = Ladder.of(item).levels
    return levels["network"].over(levels["(P1)"])


def _whole_at_half(item: Ensemble) -> Ratio:
    ratio = _whole(item)
    return Ratio(estimate=ratio.estimate - math.log(2.0), error=ratio.error)


LADDER = hypothesis(
    "ladder",
    "From additive noise to the network attacked again, the product of the rungs: the replicas spread as (P1) "
    f"predicts, within a factor of {MARGIN:g} at every record (the effect is minus the largest |ln ratio|); the rung "
    "at which they part is named.",
    "Theorems 4.5 and 4.7, taken apart by this project",
    _compare_ladder,
    {"half the variance": _whole_at_half},
    -math.log(MARGIN),
    _of_networks,
    (TOP_K, "λ, γ and their eigenvectors frozen at the checkpoint", *assumed(FINITE)),
    experiment=Ensemble.experiment,
    predict=_whole,
    windows=("every record, before and after the drop",),
)

Law: TypeAlias = Predictor[[Ensemble], Array]


def _compare_moved(item: Ensemble, predict: Law) -> Comparison:
    conditions = require_applicable(item, all_records(item), FINITE)
    ladder = Ladder.of(item)
    replicas = item.positions.shape[1]
    network, additive = ladder.levels["network"], ladder.levels["(P1)"]
    moved = Spread.predicted(predict(item), ladder.keep, replicas)
    ratio, whole, explained = network.over(moved), network.over(additive), moved.over(additive)
    places, frozen = item.require_rungs().places, item.frozen
    lam = places.attacked_curvatures[:, :-1, ladder.keep].mean(axis=(1, 2)) / frozen.curvatures[ladder.keep].mean()
    noise = (places.attacked_slope_variances[:, :-1, ladder.keep] / frozen.slope_variances[ladder.keep]).mean(
        axis=(1, 2)
    )
    seen = ", ".join(
        f"λ {a:.2f} × and γ {b:.2f} × at step {step}" for a, b, step in zip(lam, noise, places.steps, strict=True)
    )
    rows = tuple(
        (int(step), float(whole.estimate[i]), float(explained.estimate[i]), float(ratio.estimate[i]))
        for i, step in enumerate(item.steps)
    )
    table = Table(
        title="What moved curvature and noise explain, in ln units",
        columns=("step", "ln network / (P1)", "explained by moved λ and γ", "left"),
        rows=rows,
        sample=Sample(replicas, "replicas"),
        caption="Geometric mean over the tracked directions.",
    )
    judged = _judged(ratio, item, "network over (P1) with moved λ and γ", (table, conditions))
    return dataclasses.replace(judged, note=f"{seen}; {judged.note}")


def _moved_noise_doubled(item: Ensemble) -> Array:
    return 2 * moved_variances(item)


MOVED = hypothesis(
    "ladder-moved-law",
    "With λ and γ measured where the replicas are, the attack run again there, in place of those frozen at the "
    f"checkpoint, additive noise (P1) gives the network's spread within a factor of {MARGIN:g} at every record (the "
    "effect is minus the largest |ln ratio|).",
    "this project: an explanation formed on one digits run (AT, seed 0)",
    _compare_moved,
    {"twice the noise": _moved_noise_doubled},
    -math.log(MARGIN),
    _of_networks,
    (
        TOP_K,
        "eigenvectors frozen at the checkpoint; λ and γ of the drop before it, of the end after it",
        *assumed(FINITE),
    ),
    experiment=Ensemble.experiment,
    predict=moved_variances,
    windows=("every record, before and after the drop",),
)


def _law(sabotage: Sabotage) -> Law:
    return lambda item: minibatch_variances(item, sabotage)


DECOYS: Mapping[str, Law] = {
    "twice the noise": _law("noise"),
    "half the curvature": _law("curvature"),
    "the other order of sampling": _law("sampling"),
    "one step late": _law("late"),
    "rates before and after the drop swapped": _law("rates"),
}


def _against_law(level: str, needs: tuple[Condition, ...]):
    def compare(item: Ensemble, predict: Law) -> Comparison:
        conditions = require_applicable(item, all_records(item), needs)
        ladder = Ladder.of(item)
        predicted = Spread.predicted(predict(item), ladder.keep, item.positions.shape[1])
        ratio = ladder.levels[level].over(predicted)
        results = (*ladder.results("(P2)", CONTROL_MARGIN), conditions)
        return _judged(ratio, item, f"{level} over the law of mini-batches", results)

    return compare


def _law_on_controls(
    name: str, statement: str, level: str, *, must_hold: bool, sabotage: Sabotage
) -> EmpiricalClaim[Ensemble, Law]:
    needs = FIXED if must_hold else FINITE
    return EmpiricalClaim(
        claim=Claim(
            name=name,
            statement=statement,
            source="own derivation, theory.closed_form.minibatch_moments (P2)",
            kind=Kind.HYPOTHESIS,
            experiments=(Ensemble.experiment,),
            assumptions=("trained to stationarity before the drop", TOP_K, *assumed(needs)),
            predict=_law(sabotage),
            decoys=DECOYS,
            compare=_against_law(level, needs),
            margin=-math.log(CONTROL_MARGIN),
            windows=("every record, before and after the drop",),
            tags=("control",),
        ),
        subjects=of_controls(must_hold),
    )


def _parted(item: Ensemble) -> tuple[Rung, ...]:
    control = control_of(item.training)
    assert control is not None, "selected as a control"
    return control.breaks


def _parts_nowhere(item: Ensemble) -> tuple[Rung, ...]:
    del item
    return ()


def _parts_everywhere(item: Ensemble) -> tuple[Rung, ...]:
    del item
    return RUNGS[1:]


def _compare_rungs(item: Ensemble, predict: Predictor[[Ensemble], tuple[Rung, ...]]) -> Comparison:
    """The least evidence over the rungs that each is, or is not, outside the control's margin as declared."""
    conditions = require_applicable(item, all_records(item), FINITE)
    declared, rungs = predict(item), Ladder.of(item).rungs
    margins = []
    for rung in RUNGS[1:]:
        inner, outer = rungs[rung].magnitude
        centre = abs(float(rungs[rung].estimate[rungs[rung].worst]))
        if rung in declared:
            margins.append((centre, inner, outer))
        else:  # mirrored about the margin, so that "inside" counts for it
            edge = 2 * math.log(CONTROL_MARGIN)
            margins.append((edge - centre, edge - outer, edge - inner))
    estimate, low, high = (min(column) for column in zip(*margins, strict=True))
    return Comparison(
        estimate=estimate,
        interval=(low, high),
        note=f"declared to part at {', '.join(declared) or 'no rung'}; {Ladder.of(item).described()}",
        results=(conditions,),
    )


CONTROL_LIMIT = EmpiricalClaim(
    claim=Claim(
        name="control-limit",
        statement="A convex model declared to leave the theory does so at the declared rung and at no other beyond "
        "additive noise (the effect is the least |ln ratio| of a declared rung, or mirrored about the margin).",
        source="declared in empirical.settings.controls",
        kind=Kind.HYPOTHESIS,
        experiments=(Ensemble.experiment,),
        assumptions=("trained to stationarity before the drop", TOP_K, *assumed(FINITE)),
        predict=_parted,
        decoys={"parts nowhere": _parts_nowhere, "parts everywhere": _parts_everywhere},
        compare=_compare_rungs,
        margin=math.log(CONTROL_MARGIN),
        windows=("every record, before and after the drop",),
        tags=("control",),
    ),
    subjects=of_controls(must_hold=False),
)


def control_claims(sabotage: Sabotage = "none") -> tuple[EmpiricalClaim[Any, Any], ...]:
    """The claims about controls; with a sabotage, judged by a law that is wrong on purpose and must fail."""
    return (
        _law_on_controls(
            "control",
            "A convex model on which the law must hold: at every record, before and after the drop, its replicas have "
            f"the variance of (P2) within a factor of {CONTROL_MARGIN:g} (the effect is minus the largest |ln ratio|).",
            "network",
            must_hold=True,
            sabotage=sabotage,
        ),
        _law_on_controls(
            "control-limit-law",
            "A convex model declared to leave the theory at a stated rung: its linearised replicas still have the "
            f"variance of (P2) within a factor of {CONTROL_MARGIN:g} at every record (the effect is minus the largest "
            "|ln ratio|).",
            "linearised",
            must_hold=False,
            sabotage=sabotage,
        ),
        CONTROL_LIMIT,
    )


CLAIMS = (*control_claims(), LADDER, *(_rung_claim(rung) for rung in RUNGS), MOVED)
