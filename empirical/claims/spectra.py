r"""Claims about measured networks: what curvature, gradient noise and posterior do around learning-rate decays.

Evidence  ``spectrum`` (one file a checkpoint) and ``expansion``, written by ``python -m empirical measure``. What
          ensembles and trajectories say about the posterior itself is judged in `posterior`.
Effects   Changes are differences of mean logarithms over the k tracked directions; a spike is a change of at least
          `SPIKE` = ln 1.25. Commuting means a price below `PRICE` = 0.1 nats a direction; quadratic means an error
          below 25 %.
          Windows are a quarter of the stage on either side of a decay (`series.decay_windows`).
Kind      All are hypotheses: a refutation is a finding about networks, and none of them can fail a build.
Decoys    share evidence and comparison with the claim and differ in the predictor alone: pretend decays where the rate
          did not change, swapped methods, a rotated noise.
Blindness The margins and windows were fixed before any verdict was computed, after λ and γ of four checkpoints of one
          digits run had been seen while timing the measurement. Two things were changed after the first verdicts: the
          half of `commutativity` about cᵢ was added, because a rotated noise could pass the price alone; and pairs
          with a run that learned nothing became *not applicable*.
Source    Xu and Zhang, arXiv 2410.07719, sections 4-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims.series import (
    FIXED_INPUTS,
    TOP_K,
    Compare,
    NotApplicableError,
    Track,
    Windows,
    contrast,
    decay_windows,
    direction_figure,
    each_decay,
    each_item,
    each_pair,
    each_track,
    hypothesis,
    line,
    over_runs,
    pretend_windows,
    tracks_of,
)
from empirical.measure.bound import bound_terms
from empirical.measure.posterior import price_interval
from theory.closed_form.attribution import attribution
from theory.judge.claim import HYPOTHESIS_ALPHA, Comparison
from theory.judge.evidence import Evidence
from theory.judge.figure import Figure, Table
from theory.model.quadratic import Quadratic

SPIKE = math.log(1.25)
PRICE = 0.1
COSINE = 0.5
EXPANSION = 0.25
SLOPE = 0.5

# --- spikes and shrinking at a decay ------------------------------------------------------------------------------

Where = Callable[[Track, int], Windows]


def _at_decay(evidence: Mapping[str, Evidence]) -> tuple[int, list[Track]]:
    found = tracks_of(evidence)
    decay = int(next(iter(found)).split("/")[0].split()[1])
    return decay, list(found.values())


def _change(
    statistic: Callable[[Track, int], float],
    influence: Callable[[Track, int], NDArray[np.float64]],
    sign: float,
    note: Callable[[Track, int, Windows, float], str],
    figures: Callable[[list[Track]], tuple[Figure, ...]],
    tables: Callable[[Track, Windows], tuple[Table, ...]] = lambda track, windows: (),
) -> Compare:
    def compare(evidence: Mapping[str, Evidence], predict: Where) -> Comparison:
        decay, found = _at_decay(evidence)
        changes = []
        for track in found:
            scatter = [decay_windows(track, index) for index in range(len(track.decays))]
            changes.append(contrast(track, predict(track, decay), statistic, influence, scatter))
        if len(found) > 1:
            estimate, interval = over_runs([sign * change.estimate for change in changes])
            return Comparison(
                estimate=estimate, interval=interval, note=f"mean over {len(found)} runs, in ln", figures=figures(found)
            )
        change, track = changes[0], found[0]
        ends = sorted(sign * end for end in change.interval)
        windows = predict(track, decay)
        return Comparison(
            estimate=sign * change.estimate,
            interval=(ends[0], ends[1]),
            note=(
                f"{note(track, decay, windows, change.estimate)}; standard errors in ln: data "
                f"{change.data_error:.3f}, checkpoint to checkpoint {change.checkpoint_error:.3f}"
            ),
            figures=figures(found),
            tables=tables(track, windows),
        )

    return compare


def _epochs(track: Track, window: Sequence[int]) -> str:
    return ", ".join(f"{track.epochs[i]:g}" for i in window)


def _spike_note(symbol: str, statistic: Callable[[Track, int], float]):
    def note(track: Track, decay: int, windows: Windows, change: float) -> str:
        _, centre, end = track.stage(decay)
        before = float(np.mean([statistic(track, i) for i in windows[0]]))
        stage = [i for i in range(len(track.items)) if centre < track.iterations[i] <= end]
        late = f", by {math.exp(statistic(track, stage[-1]) - before):.2f} × at its end" if stage else ""
        low = math.exp(min(statistic(track, i) for i in stage) - before) if stage else math.nan
        norm = _norm_change(track, windows)
        return (
            f"{symbol} changes by {math.exp(change):.2f} × from epochs {_epochs(track, windows[0])} to "
            f"{_epochs(track, windows[1])} (between {low:.2f} × in the following stage{late}); "
            f"the weights' norm by {norm:.3f} ×"
        )

    return note


def _norm_change(track: Track, windows: Windows) -> float:
    norms = [np.mean([track.items[i].measured["weights"]["norm"] for i in window]) for window in windows]
    return float(norms[1] / norms[0])


def _curvature_figures(found: list[Track]) -> tuple[Figure, ...]:
    norm = [
        line(
            f"{track.training.method.name} λ₁‖w‖²",
            track.epochs,
            [
                max(float(track.curvatures(i)[0]), 1e-12) * item.measured["weights"]["norm"] ** 2
                for i, item in enumerate(track.items)
            ],
        )
        for track in found
    ]
    return (
        direction_figure(
            found,
            lambda track, i: track.curvatures(i),
            "Hessian eigenvalues over training",
            "λ",
            "Largest eigenvalues of the data Hessian at fixed adversarial inputs; dashed: learning-rate decays.",
        ),
        Figure(
            title="Scale-free curvature over training",
            x_label="epoch",
            y_label="λ₁ ‖w‖²",
            series=tuple(norm),
            y_scale="log",
            caption="Separates curvature from the growth of the weights.",
            marks=found[0].decay_epochs,
        ),
    )


def _noise_figures(found: list[Track]) -> tuple[Figure, ...]:
    return (
        direction_figure(
            found,
            lambda track, i: track.items[i].arrays["gamma"],
            "Gradient noise over training",
            "γ",
            "Per-sample gradient variance along the top Hessian eigenvectors.",
        ),
    )


def _variance_figures(found: list[Track]) -> tuple[Figure, ...]:
    return (
        direction_figure(
            found,
            lambda track, i: track.variances(i)[1] if track.usable(i).any() else np.zeros(0),
            "Predicted posterior variance over training",
            "σ²",
            "Stationary law (S1) from λ, γ and the learning rate of each checkpoint.",
        ),
    )


def _attribution_table(track: Track, windows: Windows) -> tuple[Table, ...]:
    parts = _attributed(track, windows)
    rows = tuple((name.replace("_", " "), value, math.exp(value)) for name, value in parts.items())
    return (
        Table(
            title="What moved σ²",
            columns=("cause", "Δ ln σ²", "factor"),
            rows=rows,
            caption="Exact additive split (B2), mean over directions, last checkpoint before against last after.",
        ),
    )


def _attributed(track: Track, windows: Windows) -> dict[str, float]:
    before, after = windows[0][-1], windows[1][-1]
    keep = track.usable(before) & track.usable(after)
    if not keep.any():
        raise NotApplicableError(f"{track.label}: no direction has a stationary law on both sides of the decay")
    problems = []
    for index in (before, after):
        item = track.items[index]
        gamma = item.arrays["gamma"][keep] * float(item.measured["noise_factor"])
        problems.append(Quadratic(track.curvatures(index)[keep], gamma))
    found = attribution(problems[0], track.optimizer(before), track.optimizer(after), problem_after=problems[1])
    return {name: float(np.mean(values)) for name, values in found.parts().items()} | {
        "total": float(np.mean(found.total))
    }


def _shrink_note(track: Track, decay: int, windows: Windows, change: float) -> str:
    parts = _attributed(track, windows)
    rate, noise, curvature = parts["learning_rate"], parts["noise"], parts["curvature"]
    own = noise + curvature
    if rate < 0 and abs(own) < 0.25 * abs(rate):
        whose = "γ/λ stays nearly constant, so the shrink is the learning rate's"
    elif own < 0:
        whose = "curvature and noise add to the learning rate's shrink"
    else:
        whose = "curvature and noise work against the learning rate's shrink"
    return (
        f"σ² changes by {math.exp(change):.3g} ×; of Δ ln σ² = {parts['total']:+.2f}, the learning rate has "
        f"{rate:+.2f}, noise {noise:+.2f}, curvature {curvature:+.2f}, the step size {parts['step_size']:+.2f}: {whose}"
    )


def _no_decay(track: Track, decay: int) -> Windows:
    return pretend_windows(track, decay)


CURVATURE_SPIKE = hypothesis(
    "curvature-spike",
    "After a learning-rate decay the top Hessian eigenvalues rise by more than 25 %: mean ln λ over the quarter stage "
    "after exceeds that before by more than ln 1.25.",
    "section 6",
    _change(
        Track.log_curvature, Track.curvature_influence, 1.0, _spike_note("λ", Track.log_curvature), _curvature_figures
    ),
    decay_windows,
    {"a pretend decay in the middle of the stage before": _no_decay},
    SPIKE,
    each_decay,
    (FIXED_INPUTS, TOP_K),
)
NOISE_SPIKE = hypothesis(
    "noise-spike",
    "After a learning-rate decay the gradient noise along the top Hessian eigenvectors rises by more than 25 %: mean "
    "ln γ over the quarter stage after exceeds that before by more than ln 1.25.",
    "section 6",
    _change(Track.log_noise, Track.noise_influence, 1.0, _spike_note("γ", Track.log_noise), _noise_figures),
    decay_windows,
    {"a pretend decay in the middle of the stage before": _no_decay},
    SPIKE,
    each_decay,
    (FIXED_INPUTS, TOP_K),
)
POSTERIOR_SHRINK = hypothesis(
    "posterior-shrink",
    "After a learning-rate decay the posterior variance that (S1) predicts from measured λ and γ falls by more than "
    "25 %.",
    "Theorem 4.5 and section 6",
    _change(Track.log_variance, Track.variance_influence, -1.0, _shrink_note, _variance_figures, _attribution_table),
    decay_windows,
    {"a pretend decay in the middle of the stage before": _no_decay},
    SPIKE,
    each_decay,
    (FIXED_INPUTS, TOP_K, "stationary at each checkpoint's learning rate, white noise"),
)

# --- commutativity and alignment ----------------------------------------------------------------------------------


def _cosines(item: Evidence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cᵢ over the tracked directions, and their standard errors."""
    count = len(item.arrays["gamma"])
    found = item.measured["alignment"]
    return np.array(found["direction_cosines"][:count]), np.array(found["direction_errors"][:count])


def _rotated(item: Evidence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The noise rotated at random in weight space: cᵢ falls to √(r_C/P)."""
    count = len(item.arrays["gamma"])
    return np.full(count, float(item.measured["alignment"]["direction_null"])), np.zeros(count)


def _prices(track: Track) -> list[tuple[float, float, float, float]]:
    found = []
    for index, item in enumerate(track.items):
        keep = track.usable(index)
        if keep.sum() < 2 or item.measured["units"] != "samples":
            continue
        value, low, high = price_interval(
            item.arrays["projections"][:, keep],
            track.curvatures(index)[keep],
            float(item.measured["noise_factor"]),
            track.optimizer(index),
        )
        found.append((float(track.epochs[index]), value, low, high))
    if not found:
        raise NotApplicableError(f"{track.label}: no checkpoint has two stable directions and per-sample gradients")
    return found


def _commuting(track: Track, predict: Callable[[Evidence], tuple[NDArray, NDArray]]) -> tuple[float, float, float]:
    """The smaller of two slacks, 1 − price/0.1 and c/0.5 − 1, with its interval (intersection–union)."""
    prices = _prices(track)
    # All checkpoints share their samples: their errors are averaged, not divided by √ of their number.
    price, low, high = (float(np.mean([row[column] for row in prices])) for column in (1, 2, 3))
    values, errors = zip(*(predict(item) for item in track.items), strict=True)
    cosine, error = float(np.mean(values)), float(np.mean(errors))
    reach = float(stats.norm.ppf(1 - HYPOTHESIS_ALPHA / 2)) * error
    slacks = (1 - price / PRICE, cosine / COSINE - 1)
    lows = (1 - high / PRICE, (cosine - reach) / COSINE - 1)
    highs = (1 - low / PRICE, (cosine + reach) / COSINE - 1)
    return min(slacks), min(lows), min(highs)


def _compare_commutativity(
    evidence: Mapping[str, Evidence], predict: Callable[[Evidence], tuple[NDArray, NDArray]]
) -> Comparison:
    found = list(tracks_of(evidence).values())
    results = [_commuting(track, predict) for track in found]
    if len(found) > 1:
        estimate, interval = over_runs([value for value, _, _ in results])
        return Comparison(estimate=estimate, interval=interval, note=f"mean slack over {len(found)} runs")
    (value, low, high), track = results[0], found[0]
    prices = _prices(track)
    last = track.items[-1].measured["alignment"]
    bulk, chi = last["chi_bulk"], last["chi"]
    span = "" if chi["low"] is None else f" [{chi['low']:.3f}, {chi['high']:.3f}]"
    cosines = [float(_cosines(item)[0].mean()) for item in track.items]
    note = (
        f"ignoring non-commutativity costs {np.mean([p[1] for p in prices]):.4f} nats a direction on average over "
        f"training, mean cᵢ = {np.mean(cosines):.2f} (null {last['direction_null']:.2f}); at the end χ = "
        f"{chi['value']:.3f}{span} (random rotation: {last['chi_null']:.3f}, 97.5 % below "
        f"{last['chi_null_quantile']:.3f}), bulk χ = {'–' if bulk is None else format(bulk['value'], '.3f')}"
    )
    x = track.epochs
    rows = [item.measured["alignment"] for item in track.items]
    figures = (
        Figure(
            title="Commutativity of curvature and noise over training",
            x_label="epoch",
            y_label="χ, mean cᵢ",
            series=(
                line("χ", x, [row["chi"]["value"] for row in rows]),
                line("χ of the bulk", x, [(row["chi_bulk"] or {"value": 0.0})["value"] for row in rows]),
                line("χ under random rotation", x, [row["chi_null"] for row in rows], style="dashed"),
                line("mean cᵢ", x, cosines),
            ),
            caption="1 means commuting; the null is C rotated at random.",
            marks=track.decay_epochs,
        ),
        Figure(
            title="Price of non-commutativity over training",
            x_label="epoch",
            y_label="nats a direction",
            series=(
                line(
                    "price",
                    [p[0] for p in prices],
                    [p[1] for p in prices],
                    low=tuple(p[2] for p in prices),
                    high=tuple(p[3] for p in prices),
                    style="points",
                ),
            ),
            caption="What (S1) misses of the KL term by ignoring correlations (S3), in the tracked subspace.",
            marks=track.decay_epochs,
        ),
    )
    return Comparison(estimate=value, interval=(low, high), note=note, figures=figures)


COMMUTATIVITY = hypothesis(
    "commutativity",
    "Hessian and gradient noise commute well enough in the tracked subspace: ignoring their commutator costs the KL "
    "term less than 0.1 nats a direction, and tracked eigenvectors are nearly eigenvectors of C (mean cᵢ > 0.5). The "
    "effect is the smaller of the slacks 1 − price/0.1 and cᵢ/0.5 − 1.",
    "Assumption of Theorem 4.5, section 6",
    _compare_commutativity,
    _cosines,
    {"the noise rotated at random in weight space": _rotated},
    0.0,
    each_track,
    (FIXED_INPUTS, TOP_K),
)


def _paired(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _opposed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest noise on the largest curvature."""
    return values[::-1]


def _slopes(track: Track, order: Callable[[NDArray], NDArray]) -> tuple[float, float]:
    """Mean over checkpoints of the slope of ln γ on ln λ, and its standard error over samples."""
    slopes, influences = [], []
    for index, item in enumerate(track.items):
        lam, gamma = track.curvatures(index), order(item.arrays["gamma"])
        keep = (lam > 0) & (gamma > 0)
        if keep.sum() < 3:
            continue
        x = np.log(lam[keep]) - np.log(lam[keep]).mean()
        spread = float((x**2).sum())
        slope = float((x * np.log(gamma[keep])).sum() / spread)
        centered = item.arrays["projections"] - item.arrays["projections"].mean(axis=0)
        noise = (order(centered.T).T[:, keep] ** 2 - gamma[keep]) / gamma[keep]
        curvature = (item.arrays["curvature_samples"][:, keep] - lam[keep]) / lam[keep]
        slopes.append(slope)
        influences.append(((noise - slope * curvature) @ x) / spread)
    if not slopes:
        raise NotApplicableError(f"{track.label}: fewer than three directions have positive curvature and noise")
    total = np.mean(influences, axis=0)
    return float(np.mean(slopes)), float(total.std(ddof=1)) / math.sqrt(len(total))


def _compare_alignment(evidence: Mapping[str, Evidence], predict: Callable[[NDArray], NDArray]) -> Comparison:
    found = list(tracks_of(evidence).values())
    slopes = [_slopes(track, predict) for track in found]
    if len(found) > 1:
        estimate, interval = over_runs([slope for slope, _ in slopes])
        return Comparison(estimate=estimate, interval=interval, note=f"mean over {len(found)} runs")
    (slope, error), track = slopes[0], found[0]
    last = track.items[-1]
    reach = float(stats.norm.ppf(1 - HYPOTHESIS_ALPHA / 2)) * error
    lam, gamma = track.curvatures(len(track.items) - 1), last.arrays["gamma"]
    low, high = last.measured["gamma"]["low"], last.measured["gamma"]["high"]
    keep = lam > 0
    overlap = last.measured["alignment"]["overlap"]
    note = (
        f"γ grows as λ to the power {slope:.2f} on average over training; at the end tr HC/(‖H‖‖C‖) = "
        f"{last.measured['alignment']['cosine']['value']:.3f} (null {last.measured['alignment']['cosine_null']:.3f}), "
        f"overlap of the top-{last.measured['alignment']['overlap_size']} eigenspaces "
        f"{'–' if overlap is None else format(overlap, '.2f')}"
    )
    figure = Figure(
        title="Noise against curvature at the last checkpoint",
        x_label="λ",
        y_label="γ",
        x_scale="log",
        y_scale="log",
        series=(
            line(
                "directions",
                lam[keep],
                gamma[keep],
                style="points",
                low=tuple(float(v) for v, k in zip(low, keep, strict=True) if k),
                high=tuple(float(v) for v, k in zip(high, keep, strict=True) if k),
            ),
        ),
        caption="Per-sample noise variance with 95 % intervals.",
    )
    return Comparison(estimate=slope, interval=(slope - reach, slope + reach), note=note, figures=(figure,))


ALIGNMENT = hypothesis(
    "alignment",
    "Gradient noise is aligned with curvature: over the tracked directions ln γ rises with ln λ with a slope above "
    "0.5.",
    "section 6; the exponent between 1 and 2 of arXiv 2602.05600 for whole layers",
    _compare_alignment,
    _paired,
    {"the smallest noise on the largest curvature": _opposed},
    SLOPE,
    each_track,
    (FIXED_INPUTS, TOP_K),
)

# --- quadratic approximation ---------------------------------------------------------------------------------------


def _compare_expansion(evidence: Mapping[str, Evidence], predict: float) -> Comparison:
    item = evidence["expansion"]
    studies = item.measured["studies"]
    if "top" not in studies:
        raise NotApplicableError("no top direction has a stationary law here, so there is no radius σ to judge at")

    def shifted(value: float) -> float:
        # The expansion times c: (m − c p)/(c p) = (error + 1)/c − 1.
        return (value + 1) / predict - 1

    top = studies["top"]
    estimate, ends = shifted(top["pooled"]), sorted(shifted(top[name]) for name in ("pooled_low", "pooled_high"))
    inner = 0.0 if ends[0] <= 0 <= ends[1] else min(abs(end) for end in ends)
    rows = tuple(
        (name, float(np.mean(study["radii"])), study["pooled"], study["pooled_low"], study["pooled_high"])
        for name, study in studies.items()
    )
    smooth = studies.get("smooth top")
    kinks = (
        ""
        if smooth is None
        else (
            f"; {smooth['pooled']:+.1%} under a smooth activation at the same weights, so kinks account for "
            f"{top['pooled'] - smooth['pooled']:+.1%}"
        )
    )
    again = studies.get("top attacked")
    attacked = "" if again is None else f"; {again['pooled']:+.1%} with the inputs attacked again"
    series = [
        line(
            name, study["radii"], study["relative"], low=tuple(study["low"]), high=tuple(study["high"]), style="points"
        )
        for name, study in studies.items()
    ]
    return Comparison(
        estimate=-abs(estimate),
        interval=(-max(abs(end) for end in ends), -inner),
        note=f"along top eigenvectors at radius σ the loss exceeds its expansion by "
        f"{top['pooled']:+.1%}{kinks}{attacked}",
        figures=(
            Figure(
                title="Error of the quadratic approximation",
                x_label="distance in weight space",
                y_label="(loss change − expansion)/|expansion|",
                series=tuple(series),
                x_scale="log",
                caption="0 where the loss is quadratic.",
            ),
        ),
        tables=(
            Table(
                title="Error of the quadratic approximation",
                columns=("where", "mean radius", "mean relative error", "low", "high"),
                rows=rows,
            ),
        ),
    )


QUADRATIC_APPROXIMATION = hypothesis(
    "quadratic-approximation",
    "Along the top eigenvectors, at the radius σ that (S1) predicts, the change of the adversarial loss is within 25 % "
    "of its second-order expansion (the effect is minus the absolute error).",
    "Assumption 3.5",
    _compare_expansion,
    1.0,
    {"an expansion without the factor ½": 2.0},
    -EXPANSION,
    each_item("expansion"),
    (FIXED_INPUTS, "σ from the white-noise stationary law"),
)

# --- AT against AWP -------------------------------------------------------------------------------------------------

Sides = Callable[[Track, Track], tuple[Track, Track]]


def _named(at: Track, awp: Track) -> tuple[Track, Track]:
    return at, awp


def _swapped(at: Track, awp: Track) -> tuple[Track, Track]:
    """The methods' names exchanged."""
    return awp, at


#: A run whose robust training accuracy stays below this multiple of chance has learned nothing.
LEARNED = 2.0


def _learned(track: Track) -> None:
    reached = max(item.measured["gap"]["train"]["robust_accuracy"] for item in track.items)
    chance = 1 / track.training.network.num_classes
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
    symbol: str,
    figures: Callable[[list[Track]], tuple[Figure, ...]],
) -> Compare:
    def difference(first: Track, second: Track) -> tuple[float, float]:
        pairs = _common(first, second)
        values = np.array([statistic(first, i) - statistic(second, j) for i, j in pairs])
        data = 0.0
        if influence is not None:
            total = np.mean([influence(first, i) - influence(second, j) for i, j in pairs], axis=0)
            data = float(total.std(ddof=1)) / math.sqrt(len(total))
        # Neighbouring checkpoints resemble each other: half of them are counted as independent.
        wobble = float(values.std(ddof=1)) / math.sqrt(max(len(values) / 2, 1))
        return float(values.mean()), math.hypot(data, wobble)

    def compare(evidence: Mapping[str, Evidence], predict: Sides) -> Comparison:
        found = tracks_of(evidence)
        numbers = sorted({prefix.split("/")[0] for prefix in found})
        pairs = [(found[f"{number}/at"], found[f"{number}/awp"]) for number in numbers]
        for track in (track for pair in pairs for track in pair):
            _learned(track)
        differences = [difference(*predict(*pair)) for pair in pairs]
        if len(pairs) > 1:
            estimate, interval = over_runs([value for value, _ in differences])
            return Comparison(estimate=estimate, interval=interval, note=f"mean over {len(pairs)} pairs of runs")
        (value, error), pair = differences[0], pairs[0]
        reach = float(stats.t.ppf(1 - HYPOTHESIS_ALPHA / 2, max(len(_common(*pair)) // 2 - 1, 2))) * error
        return Comparison(
            estimate=value,
            interval=(value - reach, value + reach),
            note=f"{symbol} under AT over that under AWP, after the first decay: {_ratio(symbol, value)}",
            figures=figures(list(pair)),
        )

    return compare


def _ratio(symbol: str, value: float) -> str:
    return f"{value:+.4g}" if symbol.startswith("the ") else f"{math.exp(value):.2f} ×"


AWP_FLATTENS = hypothesis(
    "awp-flattens",
    "Adversarial weight perturbation flattens: after the first decay the mean ln λ of AT exceeds that of AWP.",
    "section 6",
    _paired_methods(Track.log_curvature, Track.curvature_influence, "λ", _curvature_figures),
    _named,
    {"the methods swapped": _swapped},
    0.0,
    each_pair,
    (FIXED_INPUTS, TOP_K, "both runs share data, initialization and data order"),
)
AWP_QUIETS_NOISE = hypothesis(
    "awp-quiets-noise",
    "Adversarial weight perturbation quiets the gradient noise: after the first decay the mean ln γ of AT exceeds that "
    "of AWP.",
    "section 6",
    _paired_methods(Track.log_noise, Track.noise_influence, "γ", _noise_figures),
    _named,
    {"the methods swapped": _swapped},
    0.0,
    each_pair,
    (FIXED_INPUTS, TOP_K, "both runs share data, initialization and data order"),
)

# --- the bound --------------------------------------------------------------------------------------------------------


def _bound_terms(track: Track, index: int) -> dict[str, float]:
    try:
        return bound_terms(track.items[index])
    except ValueError as error:
        raise NotApplicableError(f"{track.label}: {error}") from None


def _complexity(track: Track, index: int) -> float:
    """½ tr(λσ²) plus the KL's price: what the formula adds to the training loss, and predicts the gap to follow."""
    return _bound_terms(track, index)["complexity"]


def _bound_figures(found: list[Track]) -> tuple[Figure, ...]:
    series: dict[str, list] = {"terms": [], "value": [], "losses": []}
    for track in found:
        name = f"{track.training.method.name} " if len(found) > 1 else ""
        terms = [_bound_terms(track, i) for i in range(len(track.items))]
        x = track.epochs
        count = [term["directions"] for term in terms]
        series["terms"] += [
            line(f"{name}λσ²", x, [t["curvature_times_variance"] / n for t, n in zip(terms, count, strict=True)]),
            line(f"{name}−ln σ²", x, [t["negative_log_variance"] / n for t, n in zip(terms, count, strict=True)]),
            line(f"{name}KL", x, [t["kl"] / n for t, n in zip(terms, count, strict=True)]),
        ]
        series["value"] += [
            line(f"{name}formula minus training loss", x, [term["complexity"] for term in terms]),
            line(f"{name}robust gap (test − train)", x, [i.measured["gap"]["robust_loss_gap"] for i in track.items]),
        ]
        for side in ("train", "test"):
            series["losses"].append(
                line(f"{name}{side}", x, [item.measured["gap"][side]["robust_loss"] for item in track.items])
            )
    marks = found[0].decay_epochs
    return (
        Figure(
            title="Terms of the bound over training",
            x_label="epoch",
            y_label="a tracked direction, nats (λσ²: loss)",
            series=tuple(series["terms"]),
            caption="λσ², −ln σ² and the KL divergence, averaged over the tracked directions.",
            marks=marks,
        ),
        Figure(
            title="Bound and robust gap over training",
            x_label="epoch",
            y_label="nats",
            series=tuple(series["value"]),
            caption="The formula over the tracked directions is a diagnostic: its loss is unbounded.",
            marks=marks,
        ),
        Figure(
            title="Robust losses over training",
            x_label="epoch",
            y_label="robust loss",
            series=tuple(series["losses"]),
            caption="Fixed weights, eval mode, the same attack on both sides.",
            marks=marks,
        ),
    )


AWP_TIGHTENS_PAC_BAYES = hypothesis(
    "awp-tightens-pac-bayes",
    "AWP tightens the measured PAC-Bayes terms: after the first decay what the bound's formula adds to the training "
    "loss, over the tracked directions, is larger under AT than under AWP.",
    "section 6",
    _paired_methods(_complexity, None, "the formula's complexity", _bound_figures),
    _named,
    {"the methods swapped": _swapped},
    0.0,
    each_pair,
    (TOP_K, "stationary variances (S1) at each checkpoint", "a diagnostic: cross-entropy is unbounded"),
)

CLAIMS = (
    QUADRATIC_APPROXIMATION,
    COMMUTATIVITY,
    ALIGNMENT,
    CURVATURE_SPIKE,
    NOISE_SPIKE,
    POSTERIOR_SHRINK,
    AWP_FLATTENS,
    AWP_QUIETS_NOISE,
    AWP_TIGHTENS_PAC_BAYES,
)
