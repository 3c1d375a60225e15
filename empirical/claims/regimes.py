r"""A map over regimes: how spike and shrink at a decay depend on the run's settings.

Evidence  ``spectrum`` records of many runs, as ``python -m empirical sweep --measure`` writes them: the first decay of
          each run is a point, its settings the coordinates.
Question  The paper reports a spike of curvature at the decay on CIFAR. Where the training robust loss has vanished by
          then, nothing is left to fit and nothing to spike: the claim asks whether that is what orders regimes.
Kind      A hypothesis, formed before any sweep was run; judged on differences in differences since (`series.Windows`),
          and not applicable where no regime spikes: what orders a spike that is nowhere seen cannot be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import Subject
from empirical.claims.series import (
    CONTRASTS,
    DECLARED,
    FIXED_INPUTS,
    SPIKE,
    TOP_K,
    TREND,
    Change,
    Contrasted,
    Track,
    Tracks,
    about,
    change_of,
    hypothesis,
    records_of,
    tracks,
    windows_of,
)
from empirical.records import Record
from empirical.settings import Training
from theory.judge.claim import HYPOTHESIS_ALPHA, Compare, Comparison, NotApplicableError, Selector
from theory.judge.intervals import rank_correlation_interval
from theory.judge.results import Axis, Band, Curve, Profile, Role, Sample, Table

#: Settings of a run that a map shows; None where a run has no such setting.
REGIME: tuple[tuple[str, Callable[[Training], Any]], ...] = (
    ("training images", lambda run: run.data.train_size),
    ("label noise", lambda run: run.data.label_noise),
    ("ε", lambda run: run.method.attack and run.method.attack.epsilon),
    ("weight decay", lambda run: run.optimizer.weight_decay),
    ("batch size", lambda run: run.batch_size),
    ("decay factor", lambda run: run.schedule.factor),
    ("AWP γ", lambda run: run.method.awp and run.method.awp.gamma),
)
#: Fewest regimes behind a rank correlation.
REGIMES = 6


def _regime(track: Track) -> tuple[Any, ...]:
    values = [value(track.first.training) for _, value in REGIME]
    return tuple("–" if value is None else value for value in values)


def _all_regimes(records: Sequence[Record]) -> Iterable[Subject[Tracks]]:
    by_mode: dict[tuple[str, str], list[Track]] = {}
    for track in tracks(records):
        if track.decays:
            by_mode.setdefault((track.first.dataset, track.mode), []).append(track)
    for (dataset, mode), members in by_mode.items():
        if len({_regime(track) for track in members}) >= 2:
            yield Subject(
                about=about(f"{dataset} {mode} mode regimes", members, decay=0),
                seen=tuple(members),
                records=records_of(members),
                scope="the regimes measured",
            )


Order = Selector[[NDArray[np.float64]], NDArray[np.float64]]


def _changes(track: Track, contrasted: Contrasted) -> tuple[Change, Change, Change, float]:
    """Changes of λ, γ and γ/λ at the first decay beyond their trends, and the training robust loss there."""
    windows = windows_of(track, 0)
    weights, scatter = contrasted(track.iterations, windows), windows.all()
    return (
        change_of(track, weights, Track.log_curvature, Track.curvature_influence, scatter),
        change_of(track, weights, Track.log_noise, Track.noise_influence, scatter),
        change_of(track, weights, Track.log_ratio, Track.ratio_influence, scatter),
        track.items[windows.before[-1]].gap.train.robust_loss,
    )


def _compare_regimes(contrasted: Contrasted) -> Compare[Tracks, Order]:
    def compare(seen: Tracks, select: Order) -> Comparison:
        rows: list[tuple[tuple[Any, ...], float, Change, Change, Change]] = []
        for track in seen:
            try:
                spike, noise, shrink, loss = _changes(track, contrasted)
            except NotApplicableError:
                continue
            rows.append((_regime(track), loss, spike, noise, shrink))
        rows.sort(key=lambda row: row[1])
        varied = [place for place in range(len(REGIME)) if len({setting[place] for setting, *_ in rows}) > 1]
        table = Table(
            title="Spike and shrink by regime",
            columns=(*(REGIME[place][0] for place in varied), "robust loss", "λ ×", "γ ×", "γ/λ ×"),
            rows=tuple(
                (*(setting[place] for place in varied), loss, *(math.exp(change.estimate) for change in changes))
                for setting, loss, *changes in rows
            ),
            caption="First decay, beyond the trend before it; robust loss: on training data, at the decay. "
            "Settings that all runs share are left out.",
        )
        if len(rows) < REGIMES:
            reason = f"a map needs {REGIMES} runs with a measurable first decay; here are {len(rows)}"
            raise NotApplicableError(reason, *((table,) if rows else ()))
        losses = np.array([loss for _, loss, *_ in rows])
        spikes = [spike for _, _, spike, _, _ in rows]
        if not any(spike.contrast.interval(HYPOTHESIS_ALPHA / len(rows))[0] > SPIKE for spike in spikes):
            raise NotApplicableError(
                f"in none of {len(rows)} regimes does λ spike (more than 1.25 × beyond its trend, at level "
                f"{HYPOTHESIS_ALPHA:g} for all of them together)",
                table,
            )
        heights = np.array([spike.estimate for spike in spikes])
        shrinks = [shrink.estimate for *_, shrink in rows]
        value = float(stats.spearmanr(select(losses), heights).statistic)  # pyright: ignore[reportAttributeAccessIssue]
        profile = Profile(
            title="Curvature spike by regime",
            sample=Sample(len(rows), "runs"),
            caption="Each point is a run's first decay.",
            x=Axis("train robust loss at the decay", "nats"),
            y=Axis("Δ ln λ"),
            curves=(
                Curve(
                    role=Role.MEASURED,
                    x=losses,
                    y=heights,
                    low=[spike.interval[0] for spike in spikes],
                    high=[spike.interval[1] for spike in spikes],
                    band=Band.INTERVAL,
                ),
            ),
        )
        return Comparison(
            estimate=value,
            interval=rank_correlation_interval(value, len(rows), HYPOTHESIS_ALPHA),
            note=f"rank correlation over {len(rows)} runs; λ changes by {math.exp(heights.min()):.2f} to "
            f"{math.exp(heights.max()):.2f} ×, γ/λ by {math.exp(min(shrinks)):.2f} to {math.exp(max(shrinks)):.2f} ×",
            results=(profile, table),
        )

    return compare


def _as_measured(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _reversed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most fitted run taken for the least fitted."""
    return -values


SPIKE_REGIME = tuple(
    hypothesis(
        f"spike-regime-{when}",
        f"The curvature spike at the first decay ({words}, beyond the trend) depends on what is left to fit: over "
        "regimes it grows with the training robust loss at the decay (rank correlation above 0), and vanishes where "
        "that loss has vanished.",
        "section 6; the regime is this project's question",
        _compare_regimes(CONTRASTS[when]),
        {"the most fitted run taken for the least fitted": _reversed},
        0.0,
        _all_regimes,
        (FIXED_INPUTS, TOP_K, TREND, "some regime spikes"),
        select=_as_measured,
        windows=DECLARED[when],
    )
    for when, words in (("early", "5 epochs after it"), ("late", "at the end of the stage that follows"))
)

CLAIMS = SPIKE_REGIME
