r"""Claims about training logs: what robust losses do around learning-rate decays, without looking inside the network.

Evidence  records of imported logs and of our own runs (`empirical.logs.evidence`).
Effect    A contrast of window means in units of σ, the curve's epoch-to-epoch noise, with a 95 % Student interval
          that knows about autocorrelation (`empirical.logs.resampling`). MARGIN = 1 σ: less than that cannot be seen in
          a plot of epochs. Gaps between methods are in nats, margin 0.1.
Scope     One run: *this run only*. A method needs at least `ORDERS` different data orders, since runs that share their
          order share most of their fluctuations (successive differences correlate at 0.84–0.92); the interval is then
          that of a random-effects meta-analysis over the orders.
Diverged  A run whose losses stop being finite is judged not applicable, by its name; pools leave it out and say so.
Dips      What a fitted curve says of a dip, its depth, its time scale and the curvature that this implies, is claimed
          of imported logs alone: our own runs have their curvature measured (`empirical.claims.spectra`).
Preregistration  Windows, margin and decoys follow the training protocol of Rice et al. and the noise floors of public
          runs. They were fixed with the eleven published logs at hand, so for those logs the verdicts are descriptions;
          for any other run they are predictions. Changed after verdicts were seen: the decoy of `awp-tightens-bound`
          (before any decay; first 10 epochs; now epochs 10–19) and its margin (0, now 0.1 nats); the margin of
          `decay-size` (0.5, now 1 σ). `dip-time-scale`, `dip-forgets-its-epoch`, `second-dip-smaller` and
          `awp-slows-the-rise` were formed on those eleven logs, with their fits in view: numbers in their statements
          are what those logs showed, and predict others.
Source    Xu and Zhang, arXiv 2410.07719, sections 5–6; Rice, Wong and Kolter 2020; Wu, Xia and Wang 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import EmpiricalClaim, Selected, Subject
from empirical.logs import effects, results
from empirical.logs.decays import find_decays
from empirical.logs.dips import (
    TIME_SCALES,
    Dip,
    Fitted,
    fit_dip,
    implied_curvature,
    rise_difference,
    rows_before,
    settled_rows,
    small_batch_edge,
)
from empirical.logs.effects import Pattern, Run, run_of
from empirical.logs.evidence import log_of, protocol
from empirical.records import BoundOverTraining, LoggedRun, Record
from empirical.records.log import Log
from theory.judge.claim import HYPOTHESIS_ALPHA, Claim, Compare, Comparison, NotApplicableError, Rule, Seen, Selector
from theory.judge.intervals import Contrast, of_interval, of_magnitude, random_effects, rank_correlation_interval
from theory.judge.verdict import About, Kind

#: What an effect must exceed, in σ of the epoch noise.
MARGIN = 1.0
#: Fewest data orders behind a statement about a method.
ORDERS = 3
#: Nats by which a gap must be smaller; twice the epoch noise at the end of the published runs.
GAP_MARGIN = 0.1

Outcome = tuple[float, tuple[float, float]]


def _claim(
    *,
    name: str,
    statement: str,
    source: str,
    assumptions: tuple[str, ...],
    select: Rule,
    decoys: dict[str, Rule],
    compare: Compare[Seen, Rule],
    margin: float,
    subjects: Selected[Seen],
    windows: tuple[str, ...] = (),
    tags: tuple[str, ...] = ("logs",),
) -> EmpiricalClaim[Seen, Rule]:
    """A hypothesis about logs: which of their epochs are compared decides, nothing is predicted."""
    claim = Claim(
        name=name,
        statement=statement,
        source=source,
        kind=Kind.HYPOTHESIS,
        experiments=(LoggedRun.experiment,),
        assumptions=assumptions,
        select=select,
        decoys=decoys,
        compare=compare,
        margin=margin,
        windows=windows,
        tags=tags,
    )
    return EmpiricalClaim(claim=claim, subjects=subjects)


def _over_orders(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> Comparison:
    """Mean effect over data orders, a random-effects meta-analysis; runs that share their order count once."""
    orders: dict[str, list[Contrast]] = {}
    for run, (estimate, interval) in zip(runs, outcomes, strict=True):
        if run.data_order is not None:
            orders.setdefault(run.data_order, []).append(of_interval(estimate, interval, HYPOTHESIS_ALPHA))
    if len(orders) < ORDERS:
        known = f"{len(orders)} ({', '.join(sorted(orders))})" if orders else "none"
        unknown = sum(run.data_order is None for run in runs)
        more = f"; {unknown} of them do not state theirs" if unknown else ""
        raise NotApplicableError(
            f"a statement about the method needs {ORDERS} data orders; the {len(runs)} runs here have {known}{more}"
        )
    # What runs of one order have in common does not average out: their errors are averaged, not divided by √ of them.
    found = random_effects(
        [
            Contrast(
                estimate=float(np.mean([item.estimate for item in items])),
                standard_error=float(np.mean([item.standard_error for item in items])),
            )
            for items in orders.values()
        ]
    )
    return Comparison(
        estimate=found.estimate,
        interval=found.interval(HYPOTHESIS_ALPHA),
        note=f"mean over {len(orders)} data orders, in σ",
    )


# --- robust-overfitting ------------------------------------------------------------------------------------------


def _overfitting_effect(run: Run, pattern: Pattern) -> tuple[Outcome, str]:
    """The smaller of the two moves, which both must exceed the margin (intersection–union)."""
    rise, train, nats = effects.moves(run, pattern)
    intervals = rise.interval(HYPOTHESIS_ALPHA), train.interval(HYPOTHESIS_ALPHA)
    estimate = min(rise.estimate, train.estimate)
    low, high = (min(ends) for ends in zip(*intervals, strict=True))
    lowest = run.epoch(int(np.argmin(run.test)))
    note = (
        f"from epochs {run.epoch(pattern.early[0])}–{run.epoch(pattern.early[-1])} to "
        f"{run.epoch(pattern.late[0])}–{run.epoch(pattern.late[-1])} the test robust loss moves by {nats:+.3f} nats "
        f"({rise.estimate:+.1f} σ); the training robust loss {'falls' if train.estimate > 0 else 'does not fall'}; "
        f"lowest test value at epoch {lowest}"
    )
    return (estimate, (low, high)), note


Patterns = Selector[[Run], Pattern]


def _compare_overfitting(seen: Sequence[Record], select: Patterns) -> Comparison:
    runs = [run_of(item) for item in seen]
    if len(runs) > 1:
        return _over_orders(runs, [_overfitting_effect(run, select(run))[0] for run in runs])
    (run,) = runs
    # Nobody sees what a decoy would show.
    shown = results.run_results(run) if select is effects.overfitting_pattern else ()
    try:
        (estimate, interval), note = _overfitting_effect(run, select(run))
    except NotApplicableError as reason:
        raise NotApplicableError(str(reason), *shown) from None
    return Comparison(estimate=estimate, interval=interval, note=note, results=shown)


@dataclass(frozen=True)
class _Logged:
    """A record of a run, imported or our own, beside the log it shows."""

    record: Record
    log: Log

    def about(self, *, decay: int | None = None, against: str | None = None) -> About:
        return About(
            name=self.log.label,
            runs=(self.log.label,),
            methods=(self.log.method,),
            seeds=(self.record.seed,),
            decay=decay,
            against=against,
        )


def _logged(records: Iterable[Record]) -> list[_Logged]:
    """Records of training runs, imported or our own, in the order of their labels."""
    found = [_Logged(record, log) for record in records if (log := log_of(record)) is not None]
    return sorted(found, key=lambda item: item.log.label)


def _groups(records: Iterable[Record]) -> dict[str, list[_Logged]]:
    """Runs by data set and method, where both are known, without those that diverged."""
    groups: dict[str, list[_Logged]] = {}
    for item in _logged(records):
        if item.log.dataset and item.log.method and item.log.diverged is None:
            groups.setdefault(f"{item.log.dataset} {item.log.method}", []).append(item)
    return groups


def _scope(scope: str, name: str, records: Iterable[Record]) -> str:
    """The scope of a verdict on a group, with the runs that diverged and are left out of it."""
    left_out = [
        item.log.label
        for item in _logged(records)
        if item.log.diverged is not None and f"{item.log.dataset} {item.log.method}" == name
    ]
    return f"{scope} (diverged and left out: {', '.join(left_out)})" if left_out else scope


def _about_group(
    name: str, members: Sequence[_Logged], *, decay: int | None = None, against: str | None = None
) -> About:
    return About(
        pooled=True,
        name=f"{name} (method)",
        runs=tuple(item.log.label for item in members),
        methods=tuple(item.log.method for item in members),
        seeds=tuple(item.record.seed for item in members),
        decay=decay,
        against=against,
    )


def _records(members: Iterable[_Logged]) -> tuple[Record, ...]:
    return tuple(item.record for item in members)


def _each_run_and_method(records: Sequence[Record]) -> Iterable[Subject[Sequence[Record]]]:
    for item in _logged(records):
        yield Subject(about=item.about(), seen=(item.record,), records=(item.record,))
    for name, members in _groups(records).items():
        if len(members) > 1:
            yield Subject(
                about=_about_group(name, members),
                seen=_records(members),
                records=_records(members),
                scope=_scope("the method", name, records),
            )


ROBUST_OVERFITTING = _claim(
    name="robust-overfitting",
    statement=(
        "From the first 10 epochs after the first learning-rate decay to the last 10 of the run, test robust loss "
        "rises by more than 1 σ of its epoch noise while training robust loss falls by more than 1 σ of its own."
    ),
    source="Rice et al. 2020; Xu and Zhang, arXiv 2410.07719, section 6",
    assumptions=(
        "epoch noise around a quadratic trend is AR(1)",
        "windows fixed beforehand: a curve's own minimum is never used",
    ),
    select=effects.overfitting_pattern,
    decoys={
        "time orders nothing (every other epoch)": effects.interleaved_pattern,
        "the whole loss diverges (training loss rises too)": effects.divergence_pattern,
    },
    compare=_compare_overfitting,
    margin=MARGIN,
    subjects=_each_run_and_method,
)


# --- decay-dip-beyond-placebo ------------------------------------------------------------------------------------

Chosen = Selector[[Run, int], effects.Starts]


@dataclass(frozen=True, kw_only=True)
class _AtDecay:
    """A decay, counted from 0, of these runs."""

    decay: int
    runs: tuple[Record, ...]


def _dip_effect(run: Run, index: int, select: Chosen) -> tuple[Outcome, str]:
    effects.need_decay(run, index)
    found, unit = effects.fall(run, index, select(run, index))
    scaled = found.scaled(unit)
    note = _dip_note(run, index, found, unit) if select is effects.at_the_decay else ""
    return (scaled.estimate, scaled.interval(HYPOTHESIS_ALPHA)), note


def _dip_note(run: Run, index: int, found: Contrast, unit: float) -> str:
    decay, location = run.decays[index], run.locations[index]
    low, high = found.interval(HYPOTHESIS_ALPHA)
    word = "it falls" if low > 0 else "it rises at once" if high < 0 else "no direction is settled"
    change = f"the curves change at epoch {run.epoch(run.change(index))}"
    if location is not None:
        change += f" [{run.epoch(location.interval[0])}, {run.epoch(location.interval[1])}]"
    parts = [
        f"rate {decay.before:g} → {decay.after:g}, {change}; beyond placebo decays test robust loss changes by "
        f"{-found.estimate:+.4f} [{-high:+.4f}, {-low:+.4f}] nats (σ = {unit:.4f}): {word}"
    ]
    alone, _ = effects.fall(run, index, effects.Starts(at=(run.change(index),)))
    parts.append(
        f"by {-alone.estimate:+.4f} at the decay, by {found.estimate - alone.estimate:+.4f} at placebo decays before it"
    )
    values = run.test
    smooth = np.convolve(values, np.full(5, 0.2), mode="valid")
    lowest = int(np.argmin(smooth)) + 2
    nearest = min(abs(lowest - run.change(other)) for other in range(len(run.decays)))
    if lowest < run.change(0) - 2 * effects.AFTER:
        parts.append(
            f"the loss is lowest around epoch {run.epoch(lowest)}, {nearest} epochs before any decay, "
            "and was rising already: this peak of robustness owes nothing to a decay"
        )
    first, last = run.stretch_after(index)
    if last - first >= 4 * effects.AFTER:
        rise = effects.later_rise(run, index)
        low, high = rise.interval(HYPOTHESIS_ALPHA)
        later = "later it rises" if low > 0 else "later it falls further" if high < 0 else "later it stays"
        parts.append(f"{later} ({rise.estimate:+.4f})")
    return "; ".join(parts)


def _compare_dip(seen: _AtDecay, select: Chosen) -> Comparison:
    runs = [run_of(item) for item in seen.runs]
    found = [_dip_effect(run, seen.decay, select) for run in runs]
    if len(found) > 1:
        return _over_orders(runs, [outcome for outcome, _ in found])
    ((estimate, interval), note), run = found[0], runs[0]
    shown = (results.around_decay(run, seen.decay),) if select is effects.at_the_decay else ()
    return Comparison(estimate=estimate, interval=interval, note=note, results=shown)


def _num_decays(log: Log) -> int:
    return len(find_decays(log.columns.epoch, log.columns.learning_rate))


def _each_decay(records: Sequence[Record]) -> Iterable[Subject[_AtDecay]]:
    for item in _logged(records):
        decays = _num_decays(item.log)
        for index in range(max(decays, 1)):
            yield Subject(
                about=item.about(decay=index + 1 if decays else None),
                seen=_AtDecay(decay=index, runs=(item.record,)),
                records=(item.record,),
            )
    for name, items in _groups(records).items():
        members = [item for item in items if _num_decays(item.log)]
        if len(members) > 1:
            yield Subject(
                about=_about_group(name, members, decay=1),
                seen=_AtDecay(decay=0, runs=_records(members)),
                records=_records(members),
                scope=_scope("the method", name, records),
            )


DECAY_DIP = _claim(
    name="decay-dip-beyond-placebo",
    statement=(
        "At a learning-rate decay test robust loss falls: the 5 epochs after the change lie below the 10 before it, by "
        "more than 1 σ of the epoch noise beyond what the same windows show at placebo decays earlier in the stage."
    ),
    source="Xu and Zhang, arXiv 2410.07719, Theorem 4.7 and section 6 (the bound dips before it rises)",
    assumptions=(
        "epoch noise around a quadratic trend is AR(1)",
        "the change is the split at which two straight lines fit the robust losses best, near the drop",
        "evaluated every epoch in the windows",
        "without the decay, the loss would have gone on as at placebo decays",
    ),
    select=effects.at_the_decay,
    decoys={"placebo decays against others, where nothing happened": effects.at_placebo_decays},
    compare=_compare_dip,
    margin=MARGIN,
    subjects=_each_decay,
    windows=(
        "before: the 10 epochs ahead of the change; after: the 5 from it on",
        "less the mean of the same at every placebo decay of the stage before, of successive epochs",
    ),
)


# --- decay-size --------------------------------------------------------------------------------------------------


def _regression(x: NDArray[np.float64], y: NDArray[np.float64], error: NDArray[np.float64]) -> Contrast:
    """Weighted slope of y on x; its error is widened where the runs scatter more than theirs (Birge 1932)."""
    weight = error**-2
    centre = np.average(x, weights=weight)
    spread = float(np.sum(weight * (x - centre) ** 2))
    slope = float(np.sum(weight * (x - centre) * y) / spread)
    level = np.average(y, weights=weight)
    chi_square = float(np.sum(weight * (y - level - slope * (x - centre)) ** 2))
    degrees = len(x) - 2
    widening = max(1.0, chi_square / degrees)
    return Contrast(estimate=slope, standard_error=math.sqrt(widening / spread), degrees=float(degrees))


def _compare_size(seen: Sequence[Record], select: Selector[[Run], effects.SizeResponse]) -> Comparison:
    runs = [run_of(item) for item in seen]
    runs = [run for run in runs if run.decays]
    if not runs:
        raise NotApplicableError("no run here has a step decay")
    sizes = sorted({round(run.decays[0].ratio, 3) for run in runs})
    if len(sizes) < 2:
        raise NotApplicableError(
            f"every run here drops its learning rate by the same factor, η₂/η₁ = {sizes[0]:g}: "
            "nothing can depend on the size"
        )
    if len(runs) < 3:
        raise NotApplicableError(f"a slope with an error needs 3 runs; here are {len(runs)}")
    found = [select(run) for run in runs]
    # One σ for all: each run's own carries an error of some 10 %, which would scatter the responses.
    unit = math.sqrt(float(np.mean([response.unit**2 for response in found])))
    responses = [response.scaled(unit) for response in found]
    x = np.array([response.size for response in responses])
    slopes = []
    for parts in ([response.jump for response in responses], [response.rise for response in responses]):
        y = np.array([item.estimate for item in parts])
        slopes.append(_regression(x, y, np.array([item.standard_error for item in parts])))
    low, high = (min(ends) for ends in zip(*(slope.interval(HYPOTHESIS_ALPHA) for slope in slopes), strict=True))
    note = (
        f"{len(runs)} runs, η₂/η₁ from {sizes[0]:g} to {sizes[-1]:g}: for each e-fold of the decay the jump grows by "
        f"{slopes[0].estimate:+.2f} σ, the later rise by {slopes[1].estimate:+.2f} σ in 10 epochs"
    )
    return Comparison(
        estimate=min(slope.estimate for slope in slopes),
        interval=(low, high),
        note=note,
        results=results.sizes(runs, responses),
    )


def _each_method(records: Sequence[Record]) -> Iterable[Subject[Sequence[Record]]]:
    for name, members in _groups(records).items():
        yield Subject(
            about=_about_group(name, members),
            seen=_records(members),
            records=_records(members),
            scope=_scope("these runs", name, records),
        )


DECAY_SIZE = _claim(
    name="decay-size",
    statement=(
        "The larger the first decay, the larger the jump of test robust loss and the steeper its later rise: both "
        "grow by more than 1 σ for each e-fold of η₁/η₂."
    ),
    source="Xu and Zhang, arXiv 2410.07719, section 6; Rice et al. 2020, the single-drop runs",
    assumptions=("runs of one data set and method that differ in the decay", "response linear in ln(η₁/η₂)"),
    select=effects.size_response,
    decoys={"placebo decays, which cannot know the size": effects.placebo_size_response},
    compare=_compare_size,
    margin=MARGIN,
    subjects=_each_method,
)


# --- awp-tightens-bound, the part a log can show -----------------------------------------------------------------

Window = Selector[[Run], tuple[int, int]]


@dataclass(frozen=True)
class _Pair:
    """Two runs that share data set, protocol and data order, without and with AWP."""

    at: _Logged
    awp: _Logged


def _compare_gap(seen: Sequence[_Pair], select: Window) -> Comparison:
    found = []
    for pair in seen:
        first, second = run_of(pair.at.record), run_of(pair.awp.record)
        found.append((first, second, *effects.gap_difference(first, second, (select(first), select(second)))))
    if len(found) > 1:
        effects_found = [(item.estimate, item.interval(HYPOTHESIS_ALPHA)) for _, _, item, _ in found]
        return _over_orders([first for first, *_ in found], effects_found)
    first, second, item, how = found[0]
    a, b = select(first)
    gap = float(np.mean(first.test[a:b] - first.train[a:b]))
    note = (
        f"epochs {first.epoch(a)}–{first.epoch(b - 1)}, paired: robust gap {gap:.3f} nats without AWP; "
        f"with AWP {gap - item.estimate:.3f} ({how})"
    )
    return Comparison(
        estimate=item.estimate,
        interval=item.interval(HYPOTHESIS_ALPHA),
        note=note,
        results=(results.gaps(first, second),),
    )


def _pairs(records: Sequence[Record]) -> Iterable[Subject[Sequence[_Pair]]]:
    """Runs with and without AWP that share data set, protocol and data order; and their groups over data orders."""
    baselines: dict[tuple, list[_Logged]] = {}
    others: dict[tuple, list[_Logged]] = {}
    for item in _logged(records):
        shared, order = protocol(item.log), item.log.data_order
        side = {"at": baselines, "awp": others}.get(str(item.log.method))
        if side is not None and shared is not None and order is not None:
            side.setdefault((item.log.dataset, shared, order), []).append(item)
    by_protocol: dict[tuple, list[_Pair]] = {}
    for key, items in baselines.items():
        for baseline, other in zip(items, others.get(key, []), strict=False):
            pair = _Pair(at=baseline, awp=other)
            if baseline.log.diverged is None and other.log.diverged is None:
                by_protocol.setdefault(key[:2], []).append(pair)
            yield Subject(
                about=other.about(against=baseline.log.label),
                seen=(pair,),
                records=(baseline.record, other.record),
                scope="this pair only",
            )
    for (dataset, _), pairs in by_protocol.items():
        if len(pairs) > 1:
            members = [item for pair in pairs for item in (pair.at, pair.awp)]
            yield Subject(
                about=_about_group(f"{dataset} awp", members, against="at"),
                seen=tuple(pairs),
                records=_records(members),
                scope="the method",
            )


AWP_TIGHTENS_BOUND = _claim(
    name="awp-tightens-bound",
    statement=(
        "Observable part: over the last 10 epochs the robust generalization gap (test − train robust loss) is "
        "smaller under AWP by more than 0.1 nats, even if AWP's training loss were 0 (logs show it at perturbed "
        "weights only; where both were measured at fixed weights the gaps are compared as they are)."
    ),
    source="Xu and Zhang, arXiv 2410.07719, section 6; Wu et al. 2020",
    assumptions=(
        "the pair differs in the method alone (same arguments, data set and data order)",
        "the baseline's running training loss is not below its training loss at fixed weights",
        "cross-entropy is at least 0",
    ),
    select=effects.late_rows,
    decoys={"epochs 10–19, before much is memorised": effects.early_rows},
    compare=_compare_gap,
    margin=GAP_MARGIN,
    subjects=_pairs,
)

# --- dips as fitted curves ---------------------------------------------------------------------------------------

#: Curvature that the dip implies, as a share of the small-batch edge before the decay: eight CIFAR logs, 0.015–0.026.
DIP_SHARE = 1 / 50
#: Factor within which another log's dip is predicted to imply it.
SHARE_FACTOR = 5.0
#: Change of the log of a dip's depth for each e-fold of its epoch that counts as none.
ELASTICITY = 0.5
#: Share of the first dip's depth below which the second is predicted to stay.
SECOND_SHARE = 0.5
#: Nats in 10 epochs by which AWP must slow the rise.
RISE_MARGIN = 0.02

Share = Selector[[Run], float]
Elasticity = Selector[[], float]


def _imported(records: Sequence[Record]) -> list[_Logged]:
    return [item for item in _logged(records) if isinstance(item.record, LoggedRun)]


def _fitted_decays(records: Sequence[Record]) -> Iterable[Subject[Record]]:
    for item in _imported(records):
        decays = _num_decays(item.log)
        yield Subject(about=item.about(decay=1 if decays else None), seen=item.record, records=(item.record,))


def _need_dip(run: Run, index: int) -> Dip:
    """The fitted dip at a decay.

    Raises:
        NotApplicableError: if the loss does not fall there, so that there is no dip to speak of.
    """
    dip = fit_dip(run, index)
    if not dip.found:
        low, high = dip.size.interval
        raise NotApplicableError(
            f"no dip at decay {index + 1}: the fitted relaxation is {dip.size.estimate:+.3f} [{low:+.3f}, {high:+.3f}] "
            "nats",
            *results.fitted_dip(run, dip),
        )
    return dip


def _compare_time_scale(seen: Record, select: Share) -> Comparison:
    run = run_of(seen)
    dip = _need_dip(run, 0)
    curvature, edge = implied_curvature(run, 0, dip), small_batch_edge(run, 0)
    (early, late), (least, most) = dip.time_scale.interval, curvature.interval
    # What is a step or a line to the fit may have any shorter time scale, or any longer one.
    slowest = 0.0 if late >= TIME_SCALES[-1] else least
    fastest = math.inf if early <= TIME_SCALES[0] else most
    unresolved = "" if 0 < slowest < fastest < math.inf else " (an end is not resolved)"
    predicted = select(run) * edge
    log_ratio = math.log(curvature.estimate / predicted)
    inner, outer = of_magnitude(
        (math.log(slowest / predicted) if slowest else -math.inf, math.log(fastest / predicted))
    )
    note = (
        f"time scale {dip.time_scale.estimate:.2g} [{early:.2g}, {late:.2g}] epochs at the rate "
        f"{run.decays[0].after:g} after the decay{unresolved}: implied λ = {curvature.estimate:.3g} [{least:.3g}, "
        f"{most:.3g}], {curvature.estimate / edge:.2g} of the small-batch edge before it"
    )
    return Comparison(
        estimate=-abs(log_ratio),
        interval=(-outer, 0.0 - inner),
        note=note,
        results=results.fitted_dip(run, dip) if select is _measured_share else (),
    )


def _measured_share(run: Run) -> float:
    """What eight CIFAR logs showed."""
    return DIP_SHARE


def _at_the_edge(run: Run) -> float:
    """A decoy's: the directions that training held at the edge make the dip."""
    return 1.0


def _at_the_old_rate(run: Run) -> float:
    """A decoy's: the rate before the decay still sets the pace, as λ larger by η₁/η₂ would."""
    return DIP_SHARE / run.decays[0].ratio


DIP_TIME_SCALE = _claim(
    name="dip-time-scale",
    statement=(
        "After the first decay test robust loss relaxes on the time scale (1−μ)/(ηλ) of a λ that is 1/50 of the "
        "small-batch edge 2(1−μ)/η before the decay, within a factor of 5: directions far below the edge make the dip."
    ),
    source="Xu and Zhang, arXiv 2410.07719, section 6; linear response of momentum SGD (Polyak 1964)",
    assumptions=(
        "one relaxation and a straight drift, equation (D) of `empirical.logs.dips`",
        "steps an epoch and momentum as stated, else as in the published protocols",
        "block bootstrap within each side; a time scale at an end of the grid is not resolved",
    ),
    select=_measured_share,
    decoys={
        "directions at the edge make the dip": _at_the_edge,
        "the rate before the decay sets the pace": _at_the_old_rate,
    },
    compare=_compare_time_scale,
    margin=-math.log(SHARE_FACTOR),
    subjects=_fitted_decays,
    windows=("20 epochs before the drop and 20 from it on, fewer where the stage is shorter",),
)


# --- the dip against its epoch -----------------------------------------------------------------------------------


def _compare_epochs(seen: Sequence[Record], select: Elasticity) -> Comparison:
    runs = [run for run in map(run_of, seen) if run.decays]
    shown = results.fitted_dips(runs)
    try:
        fits = [(run, _need_dip(run, 0)) for run in runs]
    except NotApplicableError as reason:
        raise NotApplicableError(str(reason), *shown) from None
    epochs = sorted({run.epoch(run.change(0)) for run, _ in fits})
    ratios = {round(run.decays[0].ratio, 3) for run, _ in fits}
    if len(epochs) < 2 or len(ratios) > 1:
        what = f"decay at epoch {', '.join(map(str, epochs))}" if len(epochs) < 2 else "decay by different factors"
        raise NotApplicableError(f"the runs here {what}: nothing can depend on the epoch alone", *shown)
    x = np.log([run.epoch(run.change(0)) for run, _ in fits])
    depths = np.maximum([np.r_[dip.depth.estimate, dip.depth.draws] for _, dip in fits], 1e-6)
    spread = [float(np.std(np.log(row[1:]))) for row in depths]
    weights = 1 / np.square(np.maximum(spread, 1e-9))
    centred = x - np.average(x, weights=weights)
    slopes = (weights * centred) @ np.log(depths) / float(weights @ centred**2)
    found = Fitted(float(slopes[0]), slopes[1:])
    low, high = found.interval
    inner, outer = of_magnitude((low - select(), high - select()))
    note = (
        f"{len(fits)} runs, first decay at epochs {', '.join(map(str, epochs))}: for each e-fold of the epoch ln depth "
        f"changes by {found.estimate:+.2f} [{low:+.2f}, {high:+.2f}]"
    )
    return Comparison(
        estimate=-abs(found.estimate - select()),
        interval=(-outer, 0.0 - inner),
        note=note,
        results=shown if select is _none else (),
    )


def _none() -> float:
    """A stationary state is the same whenever it is left."""
    return 0.0


def _in_proportion() -> float:
    """A decoy's: what relaxes was piled up at a steady pace since the start."""
    return 1.0


def _each_imported_method(records: Sequence[Record]) -> Iterable[Subject[Sequence[Record]]]:
    for subject in _each_method([item.record for item in _imported(records)]):
        if len(subject.seen) > 1:
            yield subject


DIP_FORGETS_ITS_EPOCH = _claim(
    name="dip-forgets-its-epoch",
    statement=(
        "The depth of the dip at a first decay does not depend on when the decay comes: runs that differ in its epoch "
        "alone have |d ln depth / d ln epoch| below 0.5."
    ),
    source="Xu and Zhang, arXiv 2410.07719, Theorem 4.5 (a stationary posterior has no age); Rice et al. 2020",
    assumptions=(
        "runs of one data set, method and decay factor; data orders are not replicated, so these runs only",
        "one relaxation and a straight drift, equation (D) of `empirical.logs.dips`",
    ),
    select=_none,
    decoys={"in proportion to the epochs trained": _in_proportion},
    compare=_compare_epochs,
    margin=-ELASTICITY,
    subjects=_each_imported_method,
    windows=("20 epochs before the drop and 20 from it on, fewer where the stage is shorter",),
)


# --- the second dip against the first ----------------------------------------------------------------------------

Shortfall = Selector[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def _compare_second(seen: Record, select: Shortfall) -> Comparison:
    run = run_of(seen)
    if len(run.decays) < 2:
        raise NotApplicableError("the learning rate of this log drops fewer than two times")
    first, second = _need_dip(run, 0), fit_dip(run, 1)
    depths = [np.r_[dip.depth.estimate, dip.depth.draws] for dip in (first, second)]
    found = select(*depths) / first.noise
    fitted = Fitted(float(found[0]), found[1:])
    words = [
        f"{dip.depth.estimate:.3f} [{dip.depth.interval[0]:.3f}, {dip.depth.interval[1]:.3f}] nats"
        for dip in (first, second)
    ]
    scales = f"time scales {first.time_scale.estimate:.2g} and {second.time_scale.estimate:.2g} epochs"
    told = scales if second.found else "the second relaxation is not told from none"
    note = f"first dip {words[0]}, second {words[1]}; {told}"
    return Comparison(estimate=fitted.estimate, interval=fitted.interval, note=note)


def _less_than_half(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the second dip stays below half of the first."""
    return SECOND_SHARE * first - second


def _no_less(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """A decoy's: equal factors of the rate have equal responses, or larger ones later."""
    return second - first


SECOND_DIP_SMALLER = _claim(
    name="second-dip-smaller",
    statement=(
        "The dip at a second decay stays below half of the first's depth, by more than 1 σ of the epoch noise before "
        "the first: where equal factors meet a constant curvature and noise, both responses would be alike."
    ),
    source="Xu and Zhang, arXiv 2410.07719, section 6; Rice et al. 2020",
    assumptions=("one relaxation and a straight drift, equation (D) of `empirical.logs.dips`", "a first dip was found"),
    select=_less_than_half,
    decoys={"the second is as deep, or deeper": _no_less},
    compare=_compare_second,
    margin=MARGIN,
    subjects=_fitted_decays,
    windows=("20 epochs before each drop and 20 from it on, fewer where the stage is shorter",),
)


# --- slopes after the decay with and without AWP -----------------------------------------------------------------


def _compare_rise(seen: _Pair, select: Window) -> Comparison:
    first, second = run_of(seen.at.record), run_of(seen.awp.record)
    found = rise_difference(first, second, (select(first), select(second)))
    low, high = found.interval
    (a, b), (c, _) = select(first), select(second)
    alone = [
        float(np.polyfit(run.epochs[s : s + b - a], run.test[s : s + b - a], 1)[0])
        for run, s in ((first, a), (second, c))
    ]
    note = (
        f"epochs {first.epoch(a)}–{first.epoch(b - 1)}: in 10 epochs test robust loss moves by {10 * alone[0]:+.4f} "
        f"nats without AWP and {10 * alone[1]:+.4f} with it"
    )
    if select is settled_rows:
        sizes = [fit_dip(run, 0).size for run in (first, second)]
        note += f"; the relaxations are {sizes[0].estimate:.3f} and {sizes[1].estimate:.3f} nats"
    return Comparison(estimate=10 * found.estimate, interval=(10 * low, 10 * high), note=note)


def _imported_pairs(records: Sequence[Record]) -> Iterable[Subject[_Pair]]:
    for subject in _pairs([item.record for item in _imported(records)]):
        if len(subject.seen) == 1:
            yield Subject(about=subject.about, seen=subject.seen[0], records=subject.records, scope="this pair only")


AWP_SLOWS_THE_RISE = _claim(
    name="awp-slows-the-rise",
    statement=(
        "Between the dip at the first decay and the next decay, test robust loss rises faster without AWP than with "
        "it, by more than 0.02 nats in 10 epochs."
    ),
    source="Wu et al. 2020; Xu and Zhang, arXiv 2410.07719, section 6",
    assumptions=(
        "the pair differs in the method alone (same arguments, data set and data order)",
        "a straight line through the difference of the two curves; block bootstrap of its residuals",
    ),
    select=settled_rows,
    decoys={"before the decay": rows_before},
    compare=_compare_rise,
    margin=RISE_MARGIN,
    subjects=_imported_pairs,
    windows=("from 5 epochs behind the change to the next decay, at most 45 epochs",),
)

# --- bound-tracks-gap, where spectra exist -----------------------------------------------------------------------

#: Rank correlation of the changes that counts as tracking.
TRACKING = 0.5
#: Fewest checkpoints: below, the interval of a correlation covers nearly everything.
CHECKPOINTS = 10


Gap = Selector[[NDArray[np.float64]], NDArray[np.float64]]


def _gap(gap: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the bound is to follow: the measured gap."""
    return gap


def _reversed_gap(gap: NDArray[np.float64]) -> NDArray[np.float64]:
    """A decoy's: the same values in the opposite order of time."""
    return gap[::-1]


def _compare_tracking(seen: BoundOverTraining | None, select: Gap) -> Comparison:
    if seen is None:
        raise NotApplicableError("no spectra were measured on this run, so there is no bound to compare its gap with")
    bound, gap = seen.bound, seen.robust_gap
    if len(bound) < CHECKPOINTS:
        raise NotApplicableError(f"the bound was measured at {len(bound)} checkpoints; {CHECKPOINTS} are needed")
    # Changes, not values: two curves that both drift correlate whatever they are.
    ranks = [stats.rankdata(np.diff(values)) for values in (bound, select(gap))]
    if any(np.ptp(item) == 0 for item in ranks):
        raise NotApplicableError("bound or gap is the same at every checkpoint")
    correlation = float(np.corrcoef(*ranks)[0, 1])
    return Comparison(
        estimate=correlation,
        interval=rank_correlation_interval(correlation, len(bound) - 1, HYPOTHESIS_ALPHA),
        note=f"rank correlation of the changes between {len(bound)} checkpoints",
        results=(results.tracking(seen.epochs, bound, gap),),
    )


def _with_bound(records: Sequence[Record]) -> Iterable[Subject[BoundOverTraining | None]]:
    """Every run with a bound; without any, every log, to say what is missing."""
    bounds = [item for item in records if isinstance(item, BoundOverTraining)]
    for bound in bounds:
        about = About(name=bound.label, runs=(bound.run,), methods=(bound.method,), seeds=(bound.seed,))
        yield Subject(about=about, seen=bound, records=(bound,))
    if not bounds:
        for item in _logged(records):
            yield Subject(about=item.about(), seen=None, records=(item.record,))


BOUND_TRACKS_GAP = _claim(
    name="bound-tracks-gap",
    statement=(
        "Between checkpoints the PAC-Bayes bound and the robust generalization gap change together: the rank "
        "correlation of their changes exceeds 0.5."
    ),
    source="Xu and Zhang, arXiv 2410.07719, section 6",
    assumptions=("changes between checkpoints are exchangeable", "bound over the tracked subspace"),
    select=_gap,
    decoys={"the gap in reversed order of time": _reversed_gap},
    compare=_compare_tracking,
    margin=TRACKING,
    tags=("logs", "spectra"),
    subjects=_with_bound,
)

CLAIMS = (
    ROBUST_OVERFITTING,
    DECAY_DIP,
    DIP_TIME_SCALE,
    DIP_FORGETS_ITS_EPOCH,
    SECOND_DIP_SMALLER,
    DECAY_SIZE,
    AWP_TIGHTENS_BOUND,
    AWP_SLOWS_THE_RISE,
    BOUND_TRACKS_GAP,
)
