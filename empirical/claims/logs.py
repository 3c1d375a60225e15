r"""Claims about training logs: what robust losses do around learning-rate decays, without looking inside the network.

Evidence  ``training-log`` of imported runs, ``training`` of our own (`empirical.logs.evidence`).
Effect    A contrast of window means in units of σ, the curve's epoch-to-epoch noise, with a 95 % Student interval
          that knows about autocorrelation (`empirical.logs.resampling`). MARGIN = 1 σ: less than that cannot be seen in
          a plot of epochs. Gaps between methods are in nats, margin 0.1.
Scope     One run: *this run only*. A method needs at least `ORDERS` different data orders, since runs that share their
          order share most of their fluctuations (successive differences correlate at 0.84–0.92); the interval is then
          Student's over the orders.
Blindness Windows, margin and decoys follow the training protocol of Rice et al. and the noise floors of public runs.
          They were fixed with the eleven published logs at hand, so for those logs the verdicts are descriptions; for
          any other run they are predictions. Changed after verdicts were seen: the decoy of `awp-tightens-bound`
          (before any decay; first 10 epochs; now epochs 10–19) and its margin (0, now 0.1 nats); the margin of
          `decay-size` (0.5, now 1 σ).
Source    Xu and Zhang, arXiv 2410.07719, sections 5–6; Rice, Wong and Kolter 2020; Wu, Xia and Wang 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from empirical.claims import EmpiricalClaim, Subject
from empirical.logs import effects, pictures
from empirical.logs.effects import NotApplicableError, Pattern, Run, log_of, run_of
from empirical.logs.evidence import EXPERIMENT, as_log, protocol
from theory.judge.claim import HYPOTHESIS_ALPHA, Claim, Comparison
from theory.judge.evidence import Evidence
from theory.judge.verdict import Kind

#: What an effect must exceed, in σ of the epoch noise.
MARGIN = 1.0
#: Fewest data orders behind a statement about a method.
ORDERS = 3
#: Nats by which a gap must be smaller; twice the epoch noise at the end of the published runs.
GAP_MARGIN = 0.1

Outcome = tuple[float, tuple[float, float]]


def _not_applicable(reason: str, **shown: Any) -> Comparison:
    return Comparison(estimate=math.nan, interval=(math.nan, math.nan), not_applicable=reason, **shown)


def _guarded(compare: Callable[[Mapping[str, Evidence], Any], Comparison]):
    """`compare`, with evidence that cannot speak to the claim made a comparison that says so."""

    def guarded(evidence: Mapping[str, Evidence], predict: Any) -> Comparison:
        try:
            return compare(evidence, predict)
        except NotApplicableError as reason:
            return _not_applicable(str(reason))

    return guarded


def _over_orders(runs: Sequence[Run], estimates: Sequence[float]) -> Comparison:
    """Mean effect over data orders with Student's interval; runs that share their order count once, as their mean."""
    orders: dict[str, list[float]] = {}
    for run, estimate in zip(runs, estimates, strict=True):
        if run.data_order is not None:
            orders.setdefault(run.data_order, []).append(estimate)
    if len(orders) < ORDERS:
        known = f"{len(orders)} ({', '.join(sorted(orders))})" if orders else "none"
        unknown = sum(run.data_order is None for run in runs)
        more = f"; {unknown} of them do not state theirs" if unknown else ""
        raise NotApplicableError(
            f"a statement about the method needs {ORDERS} data orders; the {len(runs)} runs here have {known}{more}"
        )
    means = np.array([np.mean(items) for items in orders.values()])
    reach = float(stats.t.ppf(1 - HYPOTHESIS_ALPHA / 2, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    centre = float(means.mean())
    return Comparison(
        estimate=centre, interval=(centre - reach, centre + reach), note=f"mean over {len(means)} data orders, in σ"
    )


# --- robust-overfitting ------------------------------------------------------------------------------------------


def _overfitting_effect(run: Run, pattern: Pattern) -> tuple[Outcome, str]:
    """The smaller of the two moves, which both must exceed the margin (intersection–union)."""
    rise, train, nats = effects.moves(run, pattern)
    intervals = rise.interval(HYPOTHESIS_ALPHA), train.interval(HYPOTHESIS_ALPHA)
    estimate = min(rise.estimate, train.estimate)
    low, high = (min(ends) for ends in zip(*intervals, strict=True))
    lowest = run.epoch(int(np.argmin(run.columns[effects.TEST])))
    note = (
        f"from epochs {run.epoch(pattern.early[0])}–{run.epoch(pattern.early[-1])} to "
        f"{run.epoch(pattern.late[0])}–{run.epoch(pattern.late[-1])} the test robust loss moves by {nats:+.3f} nats "
        f"({rise.estimate:+.1f} σ); the training robust loss {'falls' if train.estimate > 0 else 'does not fall'}; "
        f"lowest test value at epoch {lowest}"
    )
    return (estimate, (low, high)), note


@_guarded
def _compare_overfitting(evidence: Mapping[str, Evidence], predict: Callable[[Run], Pattern]) -> Comparison:
    runs = [run_of(item) for item in evidence.values()]
    if list(evidence) == [EXPERIMENT]:
        (run,) = runs
        # A decoy's figures would be drawn for nobody.
        shown = predict is effects.overfitting_pattern
        figures = pictures.run_figures(run, evidence[EXPERIMENT]) if shown else ()
        tables = (pictures.run_table(run),) if shown else ()
        try:
            (estimate, interval), note = _overfitting_effect(run, predict(run))
        except NotApplicableError as reason:
            return _not_applicable(str(reason), figures=figures, tables=tables)
        return Comparison(estimate=estimate, interval=interval, note=note, figures=figures, tables=tables)
    return _over_orders(runs, [_overfitting_effect(run, predict(run))[0][0] for run in runs])


def _runs(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Evidence of training runs, imported or our own, in the order of their labels."""
    return sorted((item for item in evidence if as_log(item) is not None), key=_label)


def _label(item: Evidence) -> str:
    return str(_facts(item).get("label", item.run_id))


def _facts(item: Evidence) -> Mapping[str, Any]:
    return log_of(item).measured


def _groups(evidence: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    """Runs by data set and method, where both are known."""
    groups: dict[str, list[Evidence]] = {}
    for item in _runs(evidence):
        dataset, method = _facts(item).get("dataset"), _facts(item).get("method")
        if dataset and method:
            groups.setdefault(f"{dataset} {method}", []).append(item)
    return groups


def _each_run_and_method(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    for item in _runs(evidence):
        yield Subject(label=_label(item), evidence={EXPERIMENT: item})
    for name, items in _groups(evidence).items():
        if len(items) > 1:
            members = {f"run {number}": item for number, item in enumerate(items, start=1)}
            yield Subject(label=f"{name} (method)", evidence=members, scope="the method")


ROBUST_OVERFITTING = EmpiricalClaim(
    claim=Claim(
        name="robust-overfitting",
        statement=(
            "From the first 10 epochs after the first learning-rate decay to the last 10 of the run, test robust loss "
            "rises by more than 1 σ of its epoch noise while training robust loss falls by more than 1 σ of its own."
        ),
        source="Rice et al. 2020; Xu and Zhang, arXiv 2410.07719, section 6",
        kind=Kind.HYPOTHESIS,
        experiments=(EXPERIMENT,),
        assumptions=(
            "epoch noise around a quadratic trend is AR(1)",
            "windows fixed beforehand: a curve's own minimum is never used",
        ),
        predict=effects.overfitting_pattern,
        decoys={
            "time orders nothing (every other epoch)": effects.interleaved_pattern,
            "the whole loss diverges (training loss rises too)": effects.divergence_pattern,
        },
        compare=_compare_overfitting,
        margin=MARGIN,
        tags=("logs",),
    ),
    subjects=_each_run_and_method,
)


# --- decay-dip ---------------------------------------------------------------------------------------------------

Starts = Callable[[Run, int], tuple[int, ...]]


def _dip_effect(run: Run, index: int, predict: Starts) -> tuple[Outcome, str]:
    effects.need_decay(run, index)
    starts = predict(run, index)
    found, unit = effects.fall(run, index, starts)
    scaled = found.scaled(unit)
    note = _dip_note(run, index, found, unit) if predict is effects.at_the_decay else ""
    return (scaled.estimate, scaled.interval(HYPOTHESIS_ALPHA)), note


def _dip_note(run: Run, index: int, found: effects.Contrast, unit: float) -> str:
    decay, location = run.decays[index], run.locations[index]
    low, high = found.interval(HYPOTHESIS_ALPHA)
    word = "it falls" if low > 0 else "it rises at once" if high < 0 else "no direction is settled"
    change = f"the curves change at epoch {run.epoch(run.change(index))}"
    if location is not None:
        change += f" [{run.epoch(location.interval[0])}, {run.epoch(location.interval[1])}]"
    parts = [
        f"rate {decay.before:g} → {decay.after:g}, {change}; test robust loss changes by {-found.estimate:+.4f} "
        f"[{-high:+.4f}, {-low:+.4f}] nats (σ = {unit:.4f}): {word}"
    ]
    pretend, _ = effects.fall(run, index, effects.at_pretend_decays(run, index))
    parts.append(f"at pretend decays before it, by {-pretend.estimate:+.4f}")
    values = run.columns[effects.TEST]
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


@_guarded
def _compare_dip(evidence: Mapping[str, Evidence], predict: Starts) -> Comparison:
    members = [(int(role.split()[1]) - 1, run_of(item)) for role, item in evidence.items()]
    found = [_dip_effect(run, index, predict) for index, run in members]
    if len(found) == 1:
        ((estimate, interval), note), (index, run) = found[0], members[0]
        figures = (pictures.decay_figure(run, index),) if predict is effects.at_the_decay else ()
        return Comparison(estimate=estimate, interval=interval, note=note, figures=figures)
    return _over_orders([run for _, run in members], [outcome[0] for outcome, _ in found])


def _each_decay(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    for item in _runs(evidence):
        decays = _facts(item).get("decays") or []
        if not decays:
            yield Subject(label=_label(item), evidence={"decay 1": item})
        for number in range(1, len(decays) + 1):
            label = f"{_label(item)} · decay {number}"
            yield Subject(label=label, evidence={f"decay {number}": item})
    for name, items in _groups(evidence).items():
        with_decay = [item for item in items if _facts(item).get("decays")]
        if len(with_decay) > 1:
            members = {f"decay 1 of run {number}": item for number, item in enumerate(with_decay, start=1)}
            yield Subject(label=f"{name} (method) · decay 1", evidence=members, scope="the method")


DECAY_DIP = EmpiricalClaim(
    claim=Claim(
        name="decay-dip",
        statement=(
            "At a learning-rate decay test robust loss falls: the 5 epochs after the change lie below the 10 before "
            "it by more than 1 σ of the epoch noise."
        ),
        source="Xu and Zhang, arXiv 2410.07719, Theorem 4.7 and section 6 (the bound dips before it rises)",
        kind=Kind.HYPOTHESIS,
        experiments=(EXPERIMENT,),
        assumptions=(
            "epoch noise around a quadratic trend is AR(1)",
            "the change is the split at which two straight lines fit the robust losses best, near the drop",
        ),
        predict=effects.at_the_decay,
        decoys={"pretend decays, where nothing happened": effects.at_pretend_decays},
        compare=_compare_dip,
        margin=MARGIN,
        tags=("logs",),
    ),
    subjects=_each_decay,
)


# --- decay-size --------------------------------------------------------------------------------------------------


def _regression(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> effects.Contrast:
    """Weighted slope of y on x; its error is widened where the runs scatter more than theirs (Birge 1932)."""
    weight = error**-2
    centre = np.average(x, weights=weight)
    spread = float(np.sum(weight * (x - centre) ** 2))
    slope = float(np.sum(weight * (x - centre) * y) / spread)
    level = np.average(y, weights=weight)
    chi_square = float(np.sum(weight * (y - level - slope * (x - centre)) ** 2))
    degrees = len(x) - 2
    widening = max(1.0, chi_square / degrees)
    return effects.Contrast(estimate=slope, standard_error=math.sqrt(widening / spread), degrees=float(degrees))


@_guarded
def _compare_size(evidence: Mapping[str, Evidence], predict: Callable[[Run], effects.SizeResponse]) -> Comparison:
    runs = [run_of(item) for item in evidence.values()]
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
    found = [predict(run) for run in runs]
    # One σ for all: each run's own carries an error of some 10 %, which would scatter the responses.
    unit = math.sqrt(float(np.mean([response.unit**2 for response in found])))
    responses = [response.scaled(unit) for response in found]
    x = np.array([response.size for response in responses])
    slopes = []
    for part in ("jump", "rise"):
        parts = [getattr(response, part) for response in responses]
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
        tables=(pictures.size_table(runs, responses),),
        figures=(pictures.size_figure(runs, responses),),
    )


def _each_method(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    for name, items in _groups(evidence).items():
        members = {f"run {number}": item for number, item in enumerate(items, start=1)}
        yield Subject(label=f"{name} (method)", evidence=members, scope="these runs")


DECAY_SIZE = EmpiricalClaim(
    claim=Claim(
        name="decay-size",
        statement=(
            "The larger the first decay, the larger the jump of test robust loss and the steeper its later rise: both "
            "grow by more than 1 σ for each e-fold of η₁/η₂."
        ),
        source="Xu and Zhang, arXiv 2410.07719, section 6; Rice et al. 2020, the single-drop runs",
        kind=Kind.HYPOTHESIS,
        experiments=(EXPERIMENT,),
        assumptions=("runs of one data set and method that differ in the decay", "response linear in ln(η₁/η₂)"),
        predict=effects.size_response,
        decoys={"pretend decays, which cannot know the size": effects.pretended_size_response},
        compare=_compare_size,
        margin=MARGIN,
        tags=("logs",),
    ),
    subjects=_each_method,
)


# --- awp-tightens-bound, the part a log can show -----------------------------------------------------------------

Window = Callable[[Run], tuple[int, int]]


@_guarded
def _compare_gap(evidence: Mapping[str, Evidence], predict: Window) -> Comparison:
    pairs = list(zip(*[iter(evidence.values())] * 2, strict=True))
    found = []
    for baseline, other in pairs:
        first, second = run_of(baseline), run_of(other)
        found.append((first, second, *effects.gap_difference(first, second, (predict(first), predict(second)))))
    if len(found) > 1:
        comparison = _over_orders([first for first, *_ in found], [item.estimate for _, _, item, _ in found])
        return comparison
    first, second, item, how = found[0]
    a, b = predict(first)
    gap = float(np.mean(first.columns[effects.TEST][a:b] - first.columns[effects.TRAIN][a:b]))
    note = (
        f"epochs {first.epoch(a)}–{first.epoch(b - 1)}, paired: robust gap {gap:.3f} nats without AWP; "
        f"with AWP {gap - item.estimate:.3f} ({how})"
    )
    return Comparison(
        estimate=item.estimate,
        interval=item.interval(HYPOTHESIS_ALPHA),
        note=note,
        figures=(pictures.gap_figure(first, second),),
    )


def _pairs(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    """Runs with and without AWP that share data set, protocol and data order; and their groups over data orders."""
    baselines: dict[tuple, list[Evidence]] = {}
    others: dict[tuple, list[Evidence]] = {}
    for item in _runs(evidence):
        shared, order = protocol(log_of(item)), _facts(item).get("data_order")
        side = {"at": baselines, "awp": others}.get(str(_facts(item).get("method")))
        if side is not None and shared is not None and order is not None:
            side.setdefault((_facts(item).get("dataset"), shared, order), []).append(item)
    by_protocol: dict[tuple, list[tuple[Evidence, Evidence]]] = {}
    for key, items in baselines.items():
        for baseline, other in zip(items, others.get(key, []), strict=False):
            by_protocol.setdefault(key[:2], []).append((baseline, other))
            label = f"{_label(other)} · against {_label(baseline)}"
            yield Subject(label=label, evidence={"at": baseline, "awp": other}, scope="this pair only")
    for (dataset, _), pairs in by_protocol.items():
        if len(pairs) > 1:
            members = {
                f"{role} {n}": item for n, pair in enumerate(pairs) for role, item in zip("ab", pair, strict=True)
            }
            yield Subject(label=f"{dataset} awp (method) · against at", evidence=members, scope="the method")


AWP_TIGHTENS_BOUND = EmpiricalClaim(
    claim=Claim(
        name="awp-tightens-bound",
        statement=(
            "Observable part: over the last 10 epochs the robust generalization gap (test − train robust loss) is "
            "smaller under AWP by more than 0.1 nats, even if AWP's training loss were 0 (logs show it at perturbed "
            "weights only; where both were measured at fixed weights the gaps are compared as they are)."
        ),
        source="Xu and Zhang, arXiv 2410.07719, section 6; Wu et al. 2020",
        kind=Kind.HYPOTHESIS,
        experiments=(EXPERIMENT,),
        assumptions=(
            "the pair differs in the method alone (same arguments, data set and data order)",
            "the baseline's running training loss is not below its training loss at fixed weights",
            "cross-entropy is at least 0",
        ),
        predict=effects.late_rows,
        decoys={"epochs 10–19, before much is memorised": effects.early_rows},
        compare=_compare_gap,
        margin=GAP_MARGIN,
        tags=("logs",),
    ),
    subjects=_pairs,
)

# --- bound-tracks-gap, where spectra exist -----------------------------------------------------------------------

#: Arrays of evidence that holds a bound at the checkpoints of a run.
BOUND_ARRAYS = ("checkpoint_epoch", "bound", "robust_gap")
#: Rank correlation of the changes that counts as tracking.
TRACKING = 0.5
#: Fewest checkpoints: below, the interval of a correlation covers nearly everything.
CHECKPOINTS = 10


def _gap(gap: np.ndarray) -> np.ndarray:
    """What the bound is to follow: the measured gap."""
    return gap


def _reversed_gap(gap: np.ndarray) -> np.ndarray:
    """A decoy's: the same values in the opposite order of time."""
    return gap[::-1]


@_guarded
def _compare_tracking(evidence: Mapping[str, Evidence], predict: Callable[[np.ndarray], np.ndarray]) -> Comparison:
    (item,) = evidence.values()
    missing = [name for name in BOUND_ARRAYS if name not in item.arrays]
    if missing:
        raise NotApplicableError("no spectra were measured on this run, so there is no bound to compare its gap with")
    epochs, bound, gap = (np.asarray(item.arrays[name], dtype=np.float64) for name in BOUND_ARRAYS)
    usable = np.isfinite(bound) & np.isfinite(gap)
    epochs, bound, gap = epochs[usable], bound[usable], gap[usable]
    if len(bound) < CHECKPOINTS:
        raise NotApplicableError(f"the bound was measured at {len(bound)} checkpoints; {CHECKPOINTS} are needed")
    # Changes, not values: two curves that both drift correlate whatever they are.
    ranks = [stats.rankdata(np.diff(values)) for values in (bound, predict(gap))]
    if any(np.ptp(item) == 0 for item in ranks):
        raise NotApplicableError("bound or gap is the same at every checkpoint")
    correlation = np.corrcoef(*ranks)[0, 1]
    clipped = float(np.clip(correlation, -0.999999, 0.999999))
    # Fisher's z with the variance of Bonett and Wright (2000) for rank correlations.
    error = math.sqrt((1 + clipped**2 / 2) / (len(bound) - 1 - 3))
    reach = float(stats.norm.ppf(1 - HYPOTHESIS_ALPHA / 2)) * error
    interval = (math.tanh(math.atanh(clipped) - reach), math.tanh(math.atanh(clipped) + reach))
    return Comparison(
        estimate=clipped,
        interval=interval,
        note=f"rank correlation of the changes between {len(bound)} checkpoints",
        figures=(pictures.tracking_figure(_bound_label(item), epochs, bound, gap),),
    )


def _bound_label(item: Evidence) -> str:
    return str(item.measured.get("label", item.run_id)) if as_log(item) is None else _label(item)


def _with_bound(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    """Every run with a bound; without any, every log, to say what is missing."""
    bounds = [item for item in evidence if set(BOUND_ARRAYS) <= set(item.arrays)]
    for item in bounds or _runs(evidence):
        yield Subject(label=_bound_label(item), evidence={"bound": item})


BOUND_TRACKS_GAP = EmpiricalClaim(
    claim=Claim(
        name="bound-tracks-gap",
        statement=(
            "Between checkpoints the PAC-Bayes bound and the robust generalization gap change together: the rank "
            "correlation of their changes exceeds 0.5."
        ),
        source="Xu and Zhang, arXiv 2410.07719, section 6",
        kind=Kind.HYPOTHESIS,
        experiments=(EXPERIMENT,),
        assumptions=("changes between checkpoints are exchangeable", "bound over the tracked subspace"),
        predict=_gap,
        decoys={"the gap in reversed order of time": _reversed_gap},
        compare=_compare_tracking,
        margin=TRACKING,
        tags=("logs", "spectra"),
    ),
    subjects=_with_bound,
)

CLAIMS = (ROBUST_OVERFITTING, DECAY_DIP, DECAY_SIZE, AWP_TIGHTENS_BOUND, BOUND_TRACKS_GAP)
