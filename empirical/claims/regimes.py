r"""A map over regimes: how spike and shrink at a decay depend on the run's settings.

Evidence  ``spectrum`` records of many runs, as ``python -m empirical sweep --measure`` writes them: the first decay of
          each run is a point, its settings the coordinates.
Question  The paper reports a spike of curvature at the decay on CIFAR. Where the training robust loss has vanished by
          then, nothing is left to fit and nothing to spike: the claim asks whether that is what orders regimes.
Kind      A hypothesis, formed before any sweep was run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import Subject
from empirical.claims.series import (
    FIXED_INPUTS,
    TOP_K,
    NotApplicableError,
    Track,
    contrast,
    decay_windows,
    hypothesis,
    line,
    roles,
    tracks,
    tracks_of,
)
from theory.judge.claim import HYPOTHESIS_ALPHA, Comparison
from theory.judge.evidence import Evidence
from theory.judge.figure import Figure, Table

#: Settings of a run that a map shows, by their path in its Training.
REGIME = (
    ("training images", ("data", "train_size")),
    ("label noise", ("data", "label_noise")),
    ("ε", ("method", "attack", "epsilon")),
    ("weight decay", ("optimizer", "weight_decay")),
    ("batch size", ("batch_size",)),
    ("decay factor", ("schedule", "factor")),
    ("AWP γ", ("method", "awp", "gamma")),
)
#: Fewest regimes behind a rank correlation.
REGIMES = 6


def _regime(track: Track) -> tuple[Any, ...]:
    row: list[Any] = []
    for _, path in REGIME:
        value: Any = track.training
        for name in path:
            value = getattr(value, name, None)
        row.append("–" if value is None else value)
    return tuple(row)


def _all_regimes(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    by_mode: dict[str, list[Track]] = {}
    for track in tracks(evidence).values():
        if track.decays:
            by_mode.setdefault(f"{track.training.data.name} {track.fact('batch_norm')} mode", []).append(track)
    for name, members in by_mode.items():
        if len({_regime(track) for track in members}) >= 2:
            together: dict[str, Evidence] = {}
            for number, track in enumerate(members):
                together |= roles(track, f"decay 0/run {number}")
            yield Subject(label=f"{name} regimes", evidence=together, scope="the regimes measured")


Order = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _compare_regimes(evidence: Mapping[str, Evidence], predict: Order) -> Comparison:
    rows = []
    for track in tracks_of(evidence).values():
        try:
            windows = decay_windows(track, 0)
            scatter = [decay_windows(track, index) for index in range(len(track.decays))]
            spike = contrast(track, windows, Track.log_curvature, Track.curvature_influence, scatter)
            noise = contrast(track, windows, Track.log_noise, Track.noise_influence, scatter)
            shrink = contrast(track, windows, Track.log_variance, Track.variance_influence, scatter)
        except NotApplicableError:
            continue
        at = track.items[windows[0][-1]].measured["gap"]["train"]
        rows.append((track, float(at["robust_loss"]), spike, noise, shrink))
    rows.sort(key=lambda row: row[1])
    settings = [_regime(track) for track, *_ in rows]
    varied = [place for place in range(len(REGIME)) if len({setting[place] for setting in settings}) > 1]
    table = Table(
        title="Spike and shrink by regime",
        columns=(*(REGIME[place][0] for place in varied), "robust loss", "λ ×", "γ ×", "σ² ×"),
        rows=tuple(
            (*(setting[place] for place in varied), loss, *(math.exp(change.estimate) for change in changes))
            for setting, (_, loss, *changes) in zip(settings, rows, strict=True)
        ),
        caption="First decay, windows of a quarter stage on either side; robust loss: on training data, at the decay. "
        "Settings that all runs share are left out.",
    )
    if len(rows) < REGIMES:
        return Comparison(
            estimate=math.nan,
            interval=(math.nan, math.nan),
            not_applicable=f"a map needs {REGIMES} runs with a measurable first decay; here are {len(rows)}",
            tables=(table,) if rows else (),
        )
    losses = np.array([row[1] for row in rows])
    spikes = np.array([row[2].estimate for row in rows])
    value = float(stats.spearmanr(predict(losses), spikes).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    centre = math.atanh(max(min(value, 0.999), -0.999))
    # Bonett and Wright (2000): the variance of Fisher's z of a rank correlation.
    reach = float(stats.norm.ppf(1 - HYPOTHESIS_ALPHA / 2)) * math.sqrt((1 + value**2 / 2) / (len(rows) - 3))
    ends = [row[2].interval for row in rows]
    figure = Figure(
        title="Curvature spike by regime",
        x_label="train robust loss at the decay",
        y_label="Δ ln λ",
        series=(
            line(
                "runs",
                losses,
                spikes,
                low=tuple(low for low, _ in ends),
                high=tuple(high for _, high in ends),
                style="points",
            ),
        ),
        caption="Each point is a run's first decay.",
    )
    return Comparison(
        estimate=value,
        interval=(math.tanh(centre - reach), math.tanh(centre + reach)),
        note=f"rank correlation over {len(rows)} runs; λ changes by {math.exp(spikes.min()):.2f} to "
        f"{math.exp(spikes.max()):.2f} ×, σ² by {math.exp(min(row[4].estimate for row in rows)):.2f} to "
        f"{math.exp(max(row[4].estimate for row in rows)):.2f} ×",
        figures=(figure,),
        tables=(table,),
    )


def _as_measured(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _reversed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most fitted run taken for the least fitted."""
    return -values


SPIKE_REGIME = hypothesis(
    "spike-regime",
    "The curvature spike at the first decay depends on what is left to fit: over regimes it grows with the training "
    "robust loss at the decay (rank correlation above 0), and vanishes where that loss has vanished.",
    "section 6; the regime is this project's question",
    _compare_regimes,
    _as_measured,
    {"the most fitted run taken for the least fitted": _reversed},
    0.0,
    _all_regimes,
    (FIXED_INPUTS, TOP_K),
)

CLAIMS = (SPIKE_REGIME,)
