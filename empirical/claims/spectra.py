r"""Claims about measured networks: what curvature, gradient noise and posterior do around learning-rate decays.

Evidence  ``spectrum`` (one file a checkpoint) and ``expansion``, written by ``python -m empirical measure``. What
          ensembles and trajectories say about the posterior itself is judged in `posterior`.
Effects   Changes are differences of mean logarithms over the k tracked directions; a spike is a change of at least
          `SPIKE` = ln 1.25. Commuting means a price below `PRICE` = 0.1 nats a direction; quadratic means an error
          below 25 %.
          What happened at a decay is a difference in differences: the change at it, less what the trend around the
          middle of the stage before makes of the time between (`series.Windows`). Posterior variance predicted by (S1)
          falls with the learning rate by construction: what is judged is γ/λ, and in `posterior` the measured spread.
Kind      All are hypotheses: a refutation is a finding about networks, and none of them can fail a build.
Decoys    share evidence and comparison with the claim and differ in the predictor alone: placebo decays where the rate
          did not change, swapped methods, a rotated noise.
Preregistration  The margins were fixed before any verdict was computed, after λ and γ of four checkpoints of one digits
          run had been seen while timing the measurement. Changed after verdicts had been seen: the half of
          `commutativity` about cᵢ was added, because a rotated noise could pass the price alone; pairs with a run that
          learned nothing became *not applicable*; the claims about decays, judged on a quarter of the stage on either
          side until then, became differences in differences at two windows, under new names, because trends before a
          decay exceeded the margin; the quadratic approximation became three claims.
Source    Xu and Zhang, arXiv 2410.07719, sections 4-6.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from empirical.claims import EmpiricalClaim, each_record
from empirical.claims.series import (
    CONTRASTS,
    DECLARED,
    FIXED_INPUTS,
    SPIKE,
    TOP_K,
    TREND,
    AtDecay,
    Change,
    Contrasted,
    Pair,
    Track,
    Tracks,
    Window,
    Windows,
    about_checkpoint,
    at_the_placebo,
    change_of,
    directions_over_training,
    each_decay,
    each_pair,
    each_track,
    hypothesis,
    late,
    measured,
    over_runs,
    over_seeds,
    over_training,
    windows_of,
)
from empirical.measure.bound import CheckpointBound, bound_terms
from empirical.measure.posterior import price_interval
from empirical.records import Expansion, Spectrum
from empirical.records.dynamics import Studies, Study
from theory.closed_form.attribution import attribution
from theory.closed_form.edge import sharpness_limits
from theory.judge.claim import HYPOTHESIS_ALPHA, Compare, Comparison, NotApplicableError, Selector
from theory.judge.intervals import Contrast, from_influences, of_interval, of_magnitude
from theory.judge.results import (
    Axis,
    Band,
    Curve,
    Estimate,
    Forest,
    Profile,
    Result,
    Role,
    Sample,
    SmallMultiples,
    Stack,
    Table,
    TimeCourse,
)
from theory.model.quadratic import Quadratic

PRICE = 0.1
COSINE = 0.5
EXPANSION = 0.25
SLOPE = 0.5

# --- spikes and shrinking at a decay ------------------------------------------------------------------------------

Where = Contrasted
#: Name, and value at a checkpoint; not all of them are positive everywhere.
Beside = tuple[tuple[str, Callable[[Spectrum], float]], ...]
LAMBDA: Beside = (("λ₁", lambda item: float(item.curvatures[0])), ("tr H", lambda item: item.alignment.trace_hessian))
GAMMA: Beside = (
    ("largest of C", lambda item: float(item.noise_eigenvalues[0])),
    ("tr C", lambda item: item.alignment.trace_covariance),
)


def _change(
    statistic: Callable[[Track, int], float],
    influence: Callable[[Track, int], NDArray[np.float64]],
    sign: float,
    symbol: str,
    beside: Beside,
    shown: Callable[[Sequence[Track]], tuple[Result, ...]],
    pooled: Callable[[Sequence[Track], Sequence[tuple[Window, Window]]], tuple[Result, ...]] = lambda found, sides: (),
    more: Callable[[Track, Window, Window], str] = lambda track, before, after: "",
    shown_of_one: Callable[[Track, Window, Window], tuple[Result, ...]] = lambda track, before, after: (),
) -> Compare[AtDecay, Where]:
    def of(track: Track, decay: int, select: Where) -> tuple[Windows, NDArray[np.float64], Change]:
        windows = windows_of(track, decay)
        weights = select(track.iterations, windows)
        return windows, weights, change_of(track, weights, statistic, influence, windows.all())

    def compare(seen: AtDecay, select: Where) -> Comparison:
        found = [of(track, seen.decay, select) for track in seen.tracks]
        afters = [windows.late if select is late else windows.early for windows, *_ in found]
        if len(found) > 1:
            estimate, interval = over_runs([change.contrast for *_, change in found], sign)
            sides = [(windows.before, after) for (windows, *_), after in zip(found, afters, strict=True)]
            return Comparison(
                estimate=estimate,
                interval=interval,
                note=f"mean over {len(found)} runs, in ln",
                results=pooled(seen.tracks, sides),
            )
        (windows, weights, change), track, after = found[0], seen.tracks[0], afters[0]
        plain = [float(np.mean([statistic(track, i) for i in window])) for window in (windows.before, after)]
        others = _beside(track, weights, beside)
        return Comparison(
            estimate=sign * change.estimate,
            interval=change.contrast.of(sign).interval(HYPOTHESIS_ALPHA),
            note=(
                f"{symbol} changes by {math.exp(plain[1] - plain[0]):.2f} × from epochs "
                f"{_epochs(track, windows.before)} to {_epochs(track, after)}, by {math.exp(change.estimate):.2f} × "
                f"beyond its trend{''.join(f', {name} by {math.exp(value):.2f} ×' for name, value in others)}; the "
                f"weights' norm by {_norm_change(track, windows.before, after):.3f} ×; standard errors in ln: data "
                f"{change.data_error:.3f}, checkpoint to checkpoint {change.checkpoint_error:.3f}"
                f"{more(track, windows.before, after)}"
            ),
            results=(*shown(seen.tracks), *shown_of_one(track, windows.before, after)),
        )

    return compare


def _beside(track: Track, weights: NDArray[np.float64], beside: Beside) -> list[tuple[str, float]]:
    """The same contrast of other logarithms, those that exist."""
    used = np.flatnonzero(weights)
    found = []
    for name, value in beside:
        values = np.array([value(track.items[i]) for i in used])
        if (values > 0).all():
            found.append((name, float(weights[used] @ np.log(values))))
    return found


def _epochs(track: Track, window: Sequence[int]) -> str:
    return ", ".join(f"{track.epochs[i]:g}" for i in window)


def _norm_change(track: Track, before: Window, after: Window) -> float:
    norms = [np.mean([track.items[i].weights.norm for i in window]) for window in (before, after)]
    return float(norms[1] / norms[0])


def _curvature_results(found: Sequence[Track]) -> tuple[Result, ...]:
    scale_free = [
        measured(
            track,
            [max(float(item.curvatures[0]), 1e-12) * item.weights.norm**2 for item in track.items],
            subject=track.called,
        )
        for track in found
    ]
    return (
        *directions_over_training(found, lambda track, i: track.items[i].curvatures, **LAMBDA_MEAN),
        over_training(
            found,
            scale_free,
            title="Scale-free curvature over training",
            y=Axis("λ₁ ‖w‖²"),
            caption="Separates curvature from the growth of the weights.",
        ),
    )


LAMBDA_MEAN = {
    "title": "Hessian eigenvalues over training",
    "y": Axis("λ"),
    "caption": "Largest eigenvalues of the data Hessian at fixed adversarial inputs.",
}
GAMMA_MEAN = {
    "title": "Gradient noise over training",
    "y": Axis("γ"),
    "caption": "Per-sample gradient variance along the top Hessian eigenvectors.",
}
VARIANCE_MEAN = {
    "title": "Predicted posterior variance over training",
    "y": Axis("σ²"),
    "caption": "Stationary law (S1) from λ, γ and the learning rate of each checkpoint.",
}


def _noise_results(found: Sequence[Track]) -> tuple[Result, ...]:
    return directions_over_training(found, lambda track, i: track.items[i].gamma.values, **GAMMA_MEAN)


def _variance_results(found: Sequence[Track]) -> tuple[Result, ...]:
    return directions_over_training(
        found, lambda track, i: track.variances(i)[1] if track.usable(i).any() else np.zeros(0), **VARIANCE_MEAN
    )


def _variance_pooled(found: Sequence[Track], sides: Sequence[tuple[Window, Window]]) -> tuple[Result, ...]:
    """What moved σ² in every run, cause by cause."""
    parts = []
    for track, (before, after) in zip(found, sides, strict=True):
        moved = _attributed(track, before, after)
        parts += [
            Estimate(category=f"seed {track.first.seed}", value=value, subject=_CAUSES[cause])
            for cause, value in moved.items()
            if cause in _CAUSES
        ]
    return (
        Stack(
            title="What moved σ², cause by cause",
            sample=Sample(len(found), "runs"),
            x=Axis("Δ ln σ²"),
            caption="Exact additive split (B2), mean over directions, last checkpoint before against last after; the "
            "upright line is the sum.",
            estimates=tuple(parts),
        ),
    )


#: Parts of (B2), as figures name them.
_CAUSES = {
    "learning_rate": "learning rate",
    "noise": "noise γ",
    "curvature": "curvature λ",
    "step_size": "step size ηλ",
}


def _through_the_decay(found: Sequence[Track]) -> tuple[Result, ...]:
    """λ, γ, batch sharpness and σ² over the epochs, AT and AWP in one picture, mean over seeds."""
    followed = (
        ("curvature λ", Track.log_curvature),
        ("gradient noise γ", Track.log_noise),
        ("batch sharpness", Track.log_sharpness),
        ("predicted variance σ²", Track.log_variance),
    )
    names, panels = [], []
    words = (
        "Geometric means over the tracked directions and over seeds; grey: where small batches are at the edge, as "
        "long as that lies in the picture."
    )
    for name, value in followed:
        for panel in over_seeds(found, value, title=name, y=Axis("mean over seeds"), caption=words):
            edge = _edge(found[0], 3 * max(max(curve.y) for curve in panel.curves))
            if name == "batch sharpness" and edge is not None:
                panel = dataclasses.replace(panel, curves=(*panel.curves, edge))
            names.append(name)
            panels.append(panel)
    return _side_by_side(
        "Curvature, noise, batch sharpness and predicted variance through the decays, AT and AWP", words, names, panels
    )


def _side_by_side(title: str, caption: str, names: Sequence[str], panels: Sequence[TimeCourse]) -> tuple[Result, ...]:
    if not panels:
        return ()
    return (
        SmallMultiples(title=title, sample=panels[0].sample, caption=caption, names=tuple(names), panels=tuple(panels)),
    )


def _edge(track: Track, most: float) -> Curve | None:
    """2(1−μ)/η over the epochs of the track, stage by stage, up to what a decay lifts beyond `most`."""
    ends = [track.epochs[0], *(at for at in track.decay_epochs if at < track.epochs[-1]), track.epochs[-1]]
    rates = [track.first.training.optimizer.learning_rate, *(rate for _, _, rate in track.decays)]
    x, y = [], []
    for start, end, rate in zip(ends, ends[1:], rates, strict=False):
        limit, _ = sharpness_limits(dataclasses.replace(track.first.training.optimizer, learning_rate=rate))
        if limit > most:
            break
        x += [start, end]
        y += [limit, limit]
    return Curve(role=Role.REFERENCE, x=x, y=y, by="2(1−μ)/η") if x else None


def _attribution_table(track: Track, first: Window, second: Window) -> tuple[Result, ...]:
    parts = _attributed(track, first, second)
    rows = tuple((name.replace("_", " "), value, math.exp(value)) for name, value in parts.items())
    return (
        Table(
            title="What moved σ²",
            columns=("cause", "Δ ln σ²", "factor"),
            rows=rows,
            caption="Exact additive split (B2), mean over directions, last checkpoint before against last after.",
        ),
    )


def _attributed(track: Track, first: Window, second: Window) -> dict[str, float]:
    before, after = first[-1], second[-1]
    keep = track.usable(before) & track.usable(after)
    if not keep.any():
        raise NotApplicableError(f"{track.label}: no direction has a stationary law on both sides of the decay")
    items = (track.items[before], track.items[after])
    problems = [Quadratic(item.curvatures[keep], item.gamma.values[keep] * item.noise_factor) for item in items]
    found = attribution(problems[0], items[0].optimizer, items[1].optimizer, problem_after=problems[1])
    return {name: float(np.mean(values)) for name, values in found.parts().items()} | {
        "total": float(np.mean(found.total))
    }


def _shrink_note(track: Track, before: Window, after: Window) -> str:
    parts = _attributed(track, before, after)
    rate, noise, curvature = parts["learning_rate"], parts["noise"], parts["curvature"]
    own = noise + curvature
    if rate < 0 and abs(own) < 0.25 * abs(rate):
        whose = "γ/λ stays nearly constant, so the shrink is the learning rate's"
    elif own < 0:
        whose = "curvature and noise add to the learning rate's shrink"
    else:
        whose = "curvature and noise work against the learning rate's shrink"
    return (
        f"; of the predicted Δ ln σ² = {parts['total']:+.2f}, the learning rate has "
        f"{rate:+.2f}, noise {noise:+.2f}, curvature {curvature:+.2f}, the step size {parts['step_size']:+.2f}: {whose}"
    )


PLACEBO = "the placebo taken for the decay"


def _at_decays(
    name: str,
    statement: str,
    compare: Compare[AtDecay, Where],
    assumptions: tuple[str, ...],
    section: str = "section 6",
) -> tuple[EmpiricalClaim[AtDecay, Where], ...]:
    """The claim right after a decay, and at the end of the stage that follows."""
    return tuple(
        hypothesis(
            f"{name}-{when}",
            f"{words} {statement}",
            section,
            compare,
            {PLACEBO: at_the_placebo},
            SPIKE,
            each_decay,
            (*assumptions, TREND),
            select=CONTRASTS[when],
            windows=DECLARED[when],
        )
        for when, words in (
            ("early", "Within 5 epochs of a learning-rate decay"),
            ("late", "By the end of the stage that follows a learning-rate decay"),
        )
    )


CURVATURE_SPIKE = _at_decays(
    "curvature-spike",
    "the top Hessian eigenvalues rise by more than 25 % beyond their trend: the difference in differences of mean ln λ "
    "against a placebo decay in the same run exceeds ln 1.25.",
    _change(Track.log_curvature, Track.curvature_influence, 1.0, "λ", LAMBDA, _curvature_results),
    (FIXED_INPUTS, TOP_K),
)
NOISE_SPIKE = _at_decays(
    "noise-spike",
    "the gradient noise along the top Hessian eigenvectors rises by more than 25 % beyond its trend: the difference in "
    "differences of mean ln γ against a placebo decay in the same run exceeds ln 1.25.",
    _change(Track.log_noise, Track.noise_influence, 1.0, "γ", GAMMA, _noise_results),
    (FIXED_INPUTS, TOP_K),
)
SHRINK_BEYOND_RATE = _at_decays(
    "posterior-shrink-beyond-rate",
    "the posterior variance that (S1) predicts falls by more than 25 % beyond what the learning rate makes of it: the "
    "difference in differences of mean ln γ/λ against a placebo decay in the same run is below −ln 1.25.",
    _change(
        Track.log_ratio,
        Track.ratio_influence,
        -1.0,
        "γ/λ",
        (),
        _variance_results,
        _variance_pooled,
        _shrink_note,
        _attribution_table,
    ),
    (FIXED_INPUTS, TOP_K, "stationary at each checkpoint's learning rate, white noise"),
    "Theorem 4.5 and section 6",
)

# --- commutativity and alignment ----------------------------------------------------------------------------------

Cosines = Selector[[Spectrum], tuple[NDArray[np.float64], NDArray[np.float64]]]


def direction_cosines(item: Spectrum) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cᵢ over the tracked directions, and their standard errors."""
    count = len(item.gamma.values)
    return item.alignment.direction_cosines[:count], item.alignment.direction_errors[:count]


def _rotated(item: Spectrum) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The noise rotated at random in weight space: cᵢ falls to √(r_C/P)."""
    count = len(item.gamma.values)
    return np.full(count, item.alignment.direction_null), np.zeros(count)


def _prices(track: Track) -> list[tuple[float, float, float, float]]:
    found = []
    for index, item in enumerate(track.items):
        keep = track.usable(index)
        if keep.sum() < 2 or item.units != "samples":
            continue
        value, low, high = price_interval(
            item.projections[:, keep], item.curvatures[keep], item.noise_factor, item.optimizer
        )
        found.append((float(track.epochs[index]), value, low, high))
    if not found:
        raise NotApplicableError(f"{track.label}: no checkpoint has two stable directions and per-sample gradients")
    return found


def _commuting(track: Track, select: Cosines) -> tuple[float, float, float]:
    """The smaller of two slacks, 1 − price/0.1 and c/0.5 − 1, with its interval (intersection–union)."""
    prices = _prices(track)
    # All checkpoints share their samples: their errors are averaged, not divided by √ of their number.
    price, low, high = (float(np.mean([row[column] for row in prices])) for column in (1, 2, 3))
    values, errors = zip(*(select(item) for item in track.items), strict=True)
    cosine = Contrast(estimate=float(np.mean(values)), standard_error=float(np.mean(errors)))
    ends = cosine.interval(HYPOTHESIS_ALPHA)
    slacks = (1 - price / PRICE, cosine.estimate / COSINE - 1)
    lows = (1 - high / PRICE, ends[0] / COSINE - 1)
    highs = (1 - low / PRICE, ends[1] / COSINE - 1)
    return min(slacks), min(lows), min(highs)


def _compare_commutativity(seen: Tracks, select: Cosines) -> Comparison:
    results = [_commuting(track, select) for track in seen]
    if len(seen) > 1:
        estimate, interval = over_runs(
            [of_interval(value, (low, high), HYPOTHESIS_ALPHA) for value, low, high in results]
        )
        return Comparison(estimate=estimate, interval=interval, note=f"mean slack over {len(seen)} runs")
    (value, low, high), track = results[0], seen[0]
    prices = _prices(track)
    last = track.items[-1].alignment
    span = "" if last.chi.low is None or last.chi.high is None else f" [{last.chi.low:.3f}, {last.chi.high:.3f}]"
    bulk = "–" if last.chi_bulk is None else format(last.chi_bulk.value, ".3f")
    cosines = [float(direction_cosines(item)[0].mean()) for item in track.items]
    note = (
        f"ignoring non-commutativity costs {np.mean([p[1] for p in prices]):.4f} nats a direction on average over "
        f"training, mean cᵢ = {np.mean(cosines):.2f} (null {last.direction_null:.2f}); at the end χ = "
        f"{last.chi.value:.3f}{span} (random rotation: {last.chi_null:.3f}, 97.5 % below "
        f"{last.chi_null_quantile:.3f}), bulk χ = {bulk}"
    )
    return Comparison(
        estimate=value, interval=(low, high), note=note, results=_commutativity_results(track, cosines, prices)
    )


def _commutativity_results(
    track: Track, cosines: Sequence[float], prices: Sequence[tuple[float, float, float, float]]
) -> tuple[Result, ...]:
    found = [item.alignment for item in track.items]
    bulk = [(epoch, row.chi_bulk.value) for epoch, row in zip(track.epochs, found, strict=True) if row.chi_bulk]
    curves = [
        measured(track, [row.chi.value for row in found], subject="χ"),
        Curve(
            role=Role.REFERENCE,
            subject="χ",
            x=track.epochs,
            y=[row.chi_null for row in found],
            by="C rotated at random",
        ),
        measured(track, cosines, subject="mean cᵢ"),
    ]
    if bulk:
        epochs, values = zip(*bulk, strict=True)
        curves.append(Curve(role=Role.MEASURED, subject="χ of the bulk", x=epochs, y=values))
    epochs, price, low, high = zip(*prices, strict=True)
    return (
        over_training(
            (track,),
            curves,
            title="Commutativity of curvature and noise over training",
            y=Axis("χ, mean cᵢ"),
            caption="1 means commuting.",
        ),
        over_training(
            (track,),
            [
                Curve(
                    role=Role.MEASURED, subject=track.called, x=epochs, y=price, low=low, high=high, band=Band.INTERVAL
                )
            ],
            title="Price of non-commutativity over training",
            y=Axis("price a direction", "nats"),
            caption="What (S1) misses of the KL term by ignoring correlations (S3), in the tracked subspace.",
            sample=Sample(track.items[-1].num_samples, "training samples"),
        ),
    )


COMMUTATIVITY = hypothesis(
    "commutativity",
    "Hessian and gradient noise commute well enough in the tracked subspace: ignoring their commutator costs the KL "
    "term less than 0.1 nats a direction, and tracked eigenvectors are nearly eigenvectors of C (mean cᵢ > 0.5). The "
    "effect is the smaller of the slacks 1 − price/0.1 and cᵢ/0.5 − 1.",
    "Assumption of Theorem 4.5, section 6",
    _compare_commutativity,
    {"the noise rotated at random in weight space": _rotated},
    0.0,
    each_track,
    (FIXED_INPUTS, TOP_K),
    select=direction_cosines,
)


Order = Selector[[NDArray[np.float64]], NDArray[np.float64]]


def _paired(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _opposed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest noise on the largest curvature."""
    return values[::-1]


def _slopes(track: Track, order: Order) -> Contrast:
    """Mean over checkpoints of the slope of ln γ on ln λ, with its standard error over samples."""
    slopes, influences = [], []
    for item in track.items:
        lam, gamma = item.curvatures, order(item.gamma.values)
        keep = (lam > 0) & (gamma > 0)
        if keep.sum() < 3:
            continue
        x = np.log(lam[keep]) - np.log(lam[keep]).mean()
        spread = float((x**2).sum())
        slope = float((x * np.log(gamma[keep])).sum() / spread)
        centered = item.projections - item.projections.mean(axis=0)
        noise = (order(centered.T).T[:, keep] ** 2 - gamma[keep]) / gamma[keep]
        curvature = (item.curvature_samples[:, keep] - lam[keep]) / lam[keep]
        slopes.append(slope)
        influences.append(((noise - slope * curvature) @ x) / spread)
    if not slopes:
        raise NotApplicableError(f"{track.label}: fewer than three directions have positive curvature and noise")
    found = from_influences(float(np.mean(slopes)), np.mean(influences, axis=0))
    return Contrast(estimate=found.estimate, standard_error=found.standard_error)


def _compare_alignment(seen: Tracks, select: Order) -> Comparison:
    slopes = [_slopes(track, select) for track in seen]
    if len(seen) > 1:
        estimate, interval = over_runs(slopes)
        return Comparison(estimate=estimate, interval=interval, note=f"mean over {len(seen)} runs")
    slope, last = slopes[0], seen[0].items[-1]
    found = last.alignment
    keep = last.curvatures > 0
    note = (
        f"γ grows as λ to the power {slope.estimate:.2f} on average over training; at the end tr HC/(‖H‖‖C‖) = "
        f"{found.cosine.value:.3f} (null {found.cosine_null:.3f}), "
        f"overlap of the top-{found.overlap_size} eigenspaces "
        f"{'–' if found.overlap is None else format(found.overlap, '.2f')}"
    )
    results: tuple[Result, ...] = ()
    if keep.any():
        results = (
            Profile(
                title="Noise against curvature at the last checkpoint",
                sample=Sample(last.num_units, f"training {last.units}"),
                caption="Per-sample noise variance of each tracked direction.",
                x=Axis("λ"),
                y=Axis("γ"),
                curves=(
                    Curve(
                        role=Role.MEASURED,
                        subject=seen[0].called,
                        x=last.curvatures[keep],
                        y=last.gamma.values[keep],
                        low=last.gamma.low[keep],
                        high=last.gamma.high[keep],
                        band=Band.INTERVAL,
                    ),
                ),
            ),
        )
    return Comparison(estimate=slope.estimate, interval=slope.interval(HYPOTHESIS_ALPHA), note=note, results=results)


ALIGNMENT = hypothesis(
    "alignment",
    "Gradient noise is aligned with curvature: over the tracked directions ln γ rises with ln λ with a slope above "
    "0.5.",
    "section 6; the exponent between 1 and 2 of arXiv 2602.05600 for whole layers",
    _compare_alignment,
    {"the smallest noise on the largest curvature": _opposed},
    SLOPE,
    each_track,
    (FIXED_INPUTS, TOP_K),
    select=_paired,
)

# --- quadratic approximation ---------------------------------------------------------------------------------------


def _compare_expansion(which: Callable[[Studies], Study | None], where: str) -> Compare[Expansion, float]:
    def compare(seen: Expansion, predict: float) -> Comparison:
        study = which(seen.studies)
        if study is None:
            raise NotApplicableError("no top direction has a stationary law here, so there is no radius σ to judge at")

        def shifted(value: float) -> float:
            # The expansion times c: (m − c p)/(c p) = (error + 1)/c − 1.
            return (value + 1) / predict - 1

        estimate = shifted(study.pooled)
        low, high = of_magnitude((shifted(study.pooled_low), shifted(study.pooled_high)))
        smooth = which(seen.smooth)
        kinks = (
            ""
            if smooth is None
            else (
                f"; {smooth.pooled:+.1%} under a smooth activation at the same weights, so kinks account for "
                f"{study.pooled - smooth.pooled:+.1%}"
            )
        )
        return Comparison(
            estimate=-abs(estimate),
            interval=(-high, -low),
            note=f"{where} the loss exceeds its expansion by {study.pooled:+.1%}{kinks}",
            results=_expansion_results(seen.studies.named() | seen.smooth.named("smooth "), seen),
        )

    return compare


def _expansion_results(studies: dict[str, Study], item: Expansion) -> tuple[Result, ...]:
    sample = Sample(item.measurement.samples, "training samples")
    error = Axis("(loss change − expansion)/|expansion|")
    return (
        Forest(
            title="Error of the quadratic approximation",
            sample=sample,
            caption="Mean over displacements; 0 where the loss is quadratic.",
            x=error,
            estimates=tuple(
                Estimate(
                    category=name,
                    value=study.pooled,
                    low=study.pooled_low,
                    high=study.pooled_high,
                    band=Band.INTERVAL,
                )
                for name, study in studies.items()
            ),
            margins=(-EXPANSION, EXPANSION),
            null=0.0,
        ),
        Profile(
            title="Error of the quadratic approximation by distance",
            sample=sample,
            caption="0 where the loss is quadratic. The network's own activations.",
            x=Axis("distance in weight space"),
            y=error,
            curves=tuple(
                Curve(
                    role=Role.MEASURED,
                    subject=name,
                    x=study.radii,
                    y=study.relative,
                    low=study.low,
                    high=study.high,
                    band=Band.INTERVAL,
                )
                for name, study in item.studies.named().items()
            ),
        ),
        Table(
            title="Error of the quadratic approximation",
            columns=("where", "mean radius", "mean relative error", "low", "high"),
            rows=tuple(
                (name, float(np.mean(study.radii)), study.pooled, study.pooled_low, study.pooled_high)
                for name, study in studies.items()
            ),
        ),
    )


def _quadratic(
    name: str, where: str, which: Callable[[Studies], Study | None], decoy: str, assumptions: tuple[str, ...]
) -> EmpiricalClaim[Expansion, float]:
    return hypothesis(
        f"quadratic-approximation-{name}",
        f"{where[0].upper()}{where[1:]}, the change of the adversarial loss is within 25 % of its second-order "
        "expansion (the effect is minus the absolute error).",
        "Assumption 3.5",
        _compare_expansion(which, where),
        {decoy: 2.0},
        -EXPANSION,
        each_record(Expansion, about_checkpoint),
        assumptions,
        experiment=Expansion.experiment,
        predict=1.0,
    )


RADIUS = "σ from the white-noise stationary law"
QUADRATIC_APPROXIMATION = (
    _quadratic(
        "fixed-inputs",
        "along the top eigenvectors at the radius σ that (S1) predicts, the inputs held fixed",
        lambda studies: studies.top,
        "an expansion without the factor ½",
        (FIXED_INPUTS, RADIUS),
    ),
    _quadratic(
        "attacked",
        "along the top eigenvectors at the radius σ that (S1) predicts, the attack run again at every displaced weight",
        lambda studies: studies.top_attacked,
        "an expansion without the factor ½",
        ("the expansion is that at the checkpoint's adversarial inputs", RADIUS),
    ),
    _quadratic(
        "path",
        "along the run's own next steps, the inputs held fixed",
        lambda studies: studies.path,
        "twice the change that the expansion predicts",
        (FIXED_INPUTS, "displacements are the run's own, slope included"),
    ),
)

# --- AT against AWP -------------------------------------------------------------------------------------------------

Sides = Selector[[Pair], tuple[Track, Track]]


def _named(pair: Pair) -> tuple[Track, Track]:
    return pair.at, pair.awp


def _swapped(pair: Pair) -> tuple[Track, Track]:
    """The methods' names exchanged."""
    return pair.awp, pair.at


#: A run whose robust training accuracy stays below this multiple of chance has learned nothing.
LEARNED = 2.0


def _learned(track: Track) -> None:
    reached = max(item.gap.train.robust_accuracy for item in track.items)
    chance = 1 / track.first.training.network.num_classes
    if reached < LEARNED * chance:
        raise NotApplicableError(
            f"{track.label} never learned: its robust training accuracy stays at {reached:.0%} (chance {chance:.0%}), "
            "and a constant predictor is flat for no interesting reason"
        )


def _common(first: Track, second: Track) -> list[tuple[int, int]]:
    """Checkpoints of equal iteration after the first decay (all, where there is none)."""
    start = first.decays[0][0] if first.decays else 0
    place = {int(i): n for n, i in enumerate(second.iterations)}
    pairs = [(n, place[int(i)]) for n, i in enumerate(first.iterations) if i > start and int(i) in place]
    if len(pairs) < 3:
        raise NotApplicableError(
            f"{first.label} and {second.label} share {len(pairs)} checkpoints after the first decay; 3 are needed"
        )
    return pairs


def _paired_methods(
    statistic: Callable[[Track, int], float],
    influence: Callable[[Track, int], NDArray[np.float64]] | None,
    describe: Callable[[float], str],
    shown: Callable[[Sequence[Track]], tuple[Result, ...]],
    pooled: Callable[[Sequence[Track]], tuple[Result, ...]] = lambda found: (),
) -> Compare[Sequence[Pair], Sides]:
    def difference(first: Track, second: Track) -> Contrast:
        pairs = _common(first, second)
        values = np.array([statistic(first, i) - statistic(second, j) for i, j in pairs])
        data = 0.0
        if influence is not None:
            total = np.mean([influence(first, i) - influence(second, j) for i, j in pairs], axis=0)
            data = float(total.std(ddof=1)) / math.sqrt(len(total))
        # Neighbouring checkpoints resemble each other: half of them are counted as independent.
        wobble = float(values.std(ddof=1)) / math.sqrt(max(len(values) / 2, 1))
        return Contrast(
            estimate=float(values.mean()),
            standard_error=math.hypot(data, wobble),
            degrees=float(max(len(pairs) // 2 - 1, 2)),
        )

    def compare(seen: Sequence[Pair], select: Sides) -> Comparison:
        for track in (track for pair in seen for track in (pair.at, pair.awp)):
            _learned(track)
        differences = [difference(*select(pair)) for pair in seen]
        if len(seen) > 1:
            estimate, interval = over_runs(differences)
            note = f"mean over {len(seen)} pairs of runs"
            together = [track for pair in seen for track in (pair.at, pair.awp)]
            return Comparison(estimate=estimate, interval=interval, note=note, results=pooled(together))
        found, pair = differences[0], seen[0]
        return Comparison(
            estimate=found.estimate,
            interval=found.interval(HYPOTHESIS_ALPHA),
            note=describe(found.estimate),
            results=shown((pair.at, pair.awp)),
        )

    return compare


def _ratio_of(symbol: str) -> Callable[[float], str]:
    return lambda value: f"{symbol} under AT over that under AWP, after the first decay: {math.exp(value):.2f} ×"


def _curvature_pair(found: Sequence[Track]) -> tuple[Result, ...]:
    return directions_over_training(found, lambda track, i: track.items[i].curvatures, **LAMBDA_MEAN)


AWP_FLATTENS = hypothesis(
    "awp-flattens",
    "Adversarial weight perturbation flattens: after the first decay the mean ln λ of AT exceeds that of AWP.",
    "section 6",
    _paired_methods(
        Track.log_curvature, Track.curvature_influence, _ratio_of("λ"), _curvature_pair, _through_the_decay
    ),
    {"the methods swapped": _swapped},
    0.0,
    each_pair,
    (FIXED_INPUTS, TOP_K, "both runs share data, initialization and data order"),
    select=_named,
)
AWP_QUIETS_NOISE = hypothesis(
    "awp-quiets-noise",
    "Adversarial weight perturbation quiets the gradient noise: after the first decay the mean ln γ of AT exceeds that "
    "of AWP.",
    "section 6",
    _paired_methods(Track.log_noise, Track.noise_influence, _ratio_of("γ"), _noise_results),
    {"the methods swapped": _swapped},
    0.0,
    each_pair,
    (FIXED_INPUTS, TOP_K, "both runs share data, initialization and data order"),
    select=_named,
)

# --- the bound --------------------------------------------------------------------------------------------------------


def _bound_terms(track: Track, index: int) -> CheckpointBound:
    try:
        return bound_terms(track.items[index])
    except ValueError as error:
        raise NotApplicableError(f"{track.label}: {error}") from None


def _complexity(track: Track, index: int) -> float:
    """½ tr(λσ²) plus the KL's price: what the formula adds to the training loss, and predicts the gap to follow."""
    return _bound_terms(track, index).complexity


def _bound_results(found: Sequence[Track]) -> tuple[TimeCourse, ...]:
    """The formula beside the gap that it is to follow, of one pair."""
    curves = []
    for track in found:
        rows = [_bound_terms(track, i) for i in range(len(track.items))]
        gaps = [item.gap.robust_loss_gap for item in track.items]
        curves += [
            measured(track, [row.complexity for row in rows], subject=track.called, by="formula minus training loss"),
            measured(track, gaps, subject=track.called, by="test − train"),
        ]
    return (
        over_training(
            found,
            curves,
            title="Bound and robust gap over training",
            y=Axis("robust gap", "nats"),
            caption="The formula over the tracked directions is a diagnostic: its loss is unbounded.",
        ),
    )


def _bound_pooled(found: Sequence[Track]) -> tuple[Result, ...]:
    """The terms of the bound, AT and AWP in one picture, mean over seeds."""
    terms: tuple[tuple[str, Callable[[CheckpointBound], float]], ...] = (
        ("λσ² (loss)", lambda row: row.curvature_times_variance / row.directions),
        ("−ln σ²", lambda row: row.negative_log_variance / row.directions),
        ("KL divergence (nats)", lambda row: row.kl / row.directions),
    )
    names, panels = [], []
    words = "Averaged over the tracked directions and over seeds."
    for name, term in terms:
        panels += over_seeds(
            found,
            lambda track, i, term=term: term(_bound_terms(track, i)),
            title=name,
            y=Axis("a tracked direction"),
            caption=words,
            geometric=False,
        )
        names += [name] * (len(panels) - len(names))
    return _side_by_side("Terms of the bound over training, AT and AWP", words, names, panels)


AWP_TIGHTENS_PAC_BAYES = hypothesis(
    "awp-tightens-pac-bayes",
    "AWP tightens the measured PAC-Bayes terms: after the first decay what the bound's formula adds to the training "
    "loss, over the tracked directions, is larger under AT than under AWP.",
    "section 6",
    _paired_methods(
        _complexity,
        None,
        lambda value: f"the formula's complexity under AT over that under AWP, after the first decay: {value:+.4g}",
        _bound_results,
        _bound_pooled,
    ),
    {"the methods swapped": _swapped},
    0.0,
    each_pair,
    (TOP_K, "stationary variances (S1) at each checkpoint", "a diagnostic: cross-entropy is unbounded"),
    select=_named,
)

CLAIMS = (
    *QUADRATIC_APPROXIMATION,
    COMMUTATIVITY,
    ALIGNMENT,
    *CURVATURE_SPIKE,
    *NOISE_SPIKE,
    *SHRINK_BEYOND_RATE,
    AWP_FLATTENS,
    AWP_QUIETS_NOISE,
    AWP_TIGHTENS_PAC_BAYES,
)
