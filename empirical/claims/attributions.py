r"""Claims about what moves the curvature at the first decay and over the stage that follows.

Evidence  records of ``attribute-curvature``, whose first checkpoint is the last at the old rate. *Early*: the last of a
          run's second checkpoints within `EARLY` epochs of the decay; *late*: the last at or before the next decay.
Effect    One cause's part of Δ ln λ, averaged over the directions followed; a method's runs, one a seed, are put
          together by Student's interval of their mean. The parts are exact: what varies is the run.
Formed    on one digits run (AT, seed 6); any other is a prediction.
Source    `empirical.measure.curvature_change`; Xu and Zhang, arXiv 2410.07719, section 6 (λ rises at a decay).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from empirical.claims import EmpiricalClaim, Subject
from empirical.records import CurvatureAttribution, Record
from empirical.records.curvature_change import FACTORS
from theory.judge.claim import HYPOTHESIS_ALPHA, Claim, Comparison, NotApplicableError, Selector
from theory.judge.intervals import mean_of
from theory.judge.results import Axis, Estimate, Sample, Stack
from theory.judge.verdict import About, Kind

#: Epochs within which a checkpoint is early.
EARLY = 5
#: What a part must exceed: a factor of 1.1.
MARGIN = math.log(1.1)
#: Fewest seeds behind a statement about a method.
SEEDS = 3
#: What the factors are called in figures.
WORDS: dict[str, str] = dict(
    zip(FACTORS, ("outputs' curvature", "outputs' derivative", "residual part", "norms of the weights"), strict=True)
)

Part = Selector[[CurvatureAttribution], float]
Attributions = tuple[CurvatureAttribution, ...]


def window_of(item: CurvatureAttribution) -> str | None:
    """``"early"``, ``"late"``, or None: not from the first decay, or beyond the next."""
    decays = item.training.decays
    if not decays or item.before != decays[0][0]:
        return None
    end = decays[1][0] if len(decays) > 1 else item.training.num_iterations
    steps = item.after - item.before
    if not 0 < steps <= end - item.before:
        return None
    return "early" if steps <= EARLY * item.training.iterations_per_epoch else "late"


def _groups(window: str):
    """A selector: for each data set and method the last record of every run in a window."""

    def select(records: Sequence[Record]) -> Iterable[Subject[Attributions]]:
        found: dict[str, dict[str, CurvatureAttribution]] = {}
        for item in records:
            if isinstance(item, CurvatureAttribution) and window_of(item) == window:
                runs = found.setdefault(f"{item.dataset} {item.method}", {})
                if item.run not in runs or runs[item.run].after < item.after:
                    runs[item.run] = item
        for name, runs in found.items():
            members = tuple(runs[run] for run in sorted(runs))
            about = About(
                pooled=True,
                name=f"{name} ({window})",
                runs=tuple(item.run for item in members),
                methods=tuple(item.method for item in members),
                seeds=tuple(item.seed for item in members),
                decay=1,
            )
            yield Subject(about=about, seen=members, records=members, scope="these runs")

    return select


def _compare(seen: Attributions, select: Part) -> Comparison:
    shown = (_stack(seen),)
    seeds = {item.seed for item in seen}
    if len(seeds) < SEEDS:
        raise NotApplicableError(f"a statement about the method needs {SEEDS} seeds; here are {len(seeds)}", *shown)
    found = mean_of([select(item) for item in seen])
    change = np.mean([item.change.mean() for item in seen])
    parts = np.mean([item.parts.mean(axis=0) for item in seen], axis=0)
    listed = ", ".join(f"{WORDS[name]} {value:+.3f}" for name, value in zip(FACTORS, parts, strict=True))
    overlap = np.mean([item.overlaps.mean() for item in seen])
    return Comparison(
        estimate=found.estimate,
        interval=found.interval(HYPOTHESIS_ALPHA),
        note=f"Δ ln λ {change:+.3f} over {len(seen)} runs: {listed}; directions overlap by {overlap:.2f}",
        results=shown,
    )


def _stack(seen: Attributions) -> Stack:
    return Stack(
        title="Parts of the change of curvature",
        sample=Sample(len(seen), "runs"),
        caption="Mean over the directions followed; the parts add up to Δ ln λ.",
        x=Axis("Δ ln λ"),
        estimates=tuple(
            Estimate(
                category=f"{item.run}, epoch {item.epochs[0]} to {item.epochs[1]}", subject=WORDS[name], value=value
            )
            for item in seen
            for name, value in zip(FACTORS, item.parts.mean(axis=0).tolist(), strict=True)
        ),
        null=0.0,
    )


def _part(name: str, sign: float) -> Part:
    place = FACTORS.index(name)

    def select(item: CurvatureAttribution) -> float:
        return sign * float(item.parts[:, place].mean())

    return select


def _claim(
    *, name: str, statement: str, window: str, rule: tuple[str, float], decoy: str
) -> EmpiricalClaim[Attributions, Part]:
    factor, sign = rule
    return EmpiricalClaim(
        claim=Claim(
            name=name,
            statement=statement,
            source="empirical.measure.curvature_change; Xu and Zhang, arXiv 2410.07719, section 6",
            kind=Kind.HYPOTHESIS,
            experiments=(CurvatureAttribution.experiment,),
            assumptions=(
                "the curvature at fixed adversarial inputs, those that the attack finds at each checkpoint",
                "directions are paired by overlap; what turns counts with the outputs' derivative",
                "runs of one method are alike but for their seeds",
            ),
            select=_part(factor, sign),
            decoys={f"the {WORDS[decoy]} does it": _part(decoy, sign)},
            compare=_compare,
            margin=MARGIN,
            windows=(
                "before: the last checkpoint at the old rate",
                f"after: the last within {EARLY} epochs"
                if window == "early"
                else "after: the last before the next decay",
            ),
            tags=("spectra",),
        ),
        subjects=_groups(window),
    )


CLAIMS = (
    _claim(
        name="outputs-flatten-at-decay",
        statement=(
            "Within 5 epochs of the first decay the outputs' own curvature, diag(p) − ppᵀ, lowers the Hessian's top "
            "eigenvalues by a factor of more than 1.1: the fit becomes surer at once."
        ),
        window="early",
        rule=("outputs", -1.0),
        decoy="jacobian",
    ),
    _claim(
        name="derivative-sharpens-over-stage",
        statement=(
            "From the first decay to the next the derivative of the outputs raises the Hessian's top eigenvalues by a "
            "factor of more than 1.1."
        ),
        window="late",
        rule=("jacobian", 1.0),
        decoy="outputs",
    ),
)
