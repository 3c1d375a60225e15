"""Figures and tables that the log verdicts carry: measured curves, decays, and the predicted posterior variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from empirical.logs import effects
from empirical.logs.effects import TEST, TRAIN, Run, SizeResponse, log_of
from theory.judge.evidence import Evidence
from theory.judge.figure import Figure, Series, Table


def run_figures(run: Run, evidence: Evidence) -> tuple[Figure, ...]:
    """The measured robust losses of a run, and under them the predicted course of σ² from its learning rates alone."""
    measured = Figure(
        title=run.label,
        x_label="epoch",
        y_label="robust loss (nats)",
        series=(_curve(run, TEST, "test"), _curve(run, TRAIN, "train")),
        marks=_marks(run),
        caption="Vertical lines: where the curves change.",
    )
    return (measured, *_predicted(run, evidence))


def _predicted(run: Run, evidence: Evidence) -> tuple[Figure, ...]:
    from empirical.logs.schedule import predicted_variance

    prediction = predicted_variance(run, log_of(evidence))
    if prediction is None:
        return ()
    return (
        Figure(
            title=f"{run.label}: predicted posterior variance",
            x_label="epoch",
            y_label="σ² / σ² before the first decay",
            y_scale="log",
            series=tuple(
                Series(label=mode.label, x=tuple(prediction.epochs), y=tuple(mode.relative_variance))
                for mode in prediction.modes
            ),
            marks=_marks(run),
            caption=prediction.caption,
        ),
    )


def _curve(run: Run, name: str, label: str) -> Series:
    return Series(label=label, x=tuple(run.columns["epoch"]), y=tuple(run.columns[name]))


def _marks(run: Run) -> tuple[float, ...]:
    return tuple(float(run.epoch(run.change(index))) for index in range(len(run.decays)))


def run_table(run: Run) -> Table:
    """What the log says of its learning rate, and what its curves say, in one row."""
    decays, changes = [], []
    for index, decay in enumerate(run.decays):
        decays.append(f"{decay.before:g} → {decay.after:g} at {decay.epoch}")
        location = run.locations[index]
        low, high = (run.epoch(row) for row in location.interval) if location else (None, None)
        reach = "" if low is None else f" [{low}, {high}]"
        changes.append(f"{run.epoch(run.change(index))}{reach}")
    found = effects.unprompted_changes(run)
    unprompted = "ruptures is not installed" if found is None else ", ".join(map(str, found)) or "none"
    return Table(
        title="Learning-rate decays and changes of the curves, by epoch",
        columns=("decays in the log", "curves change", "changes found without the schedule", "training losses"),
        rows=(("; ".join(decays) or "none", "; ".join(changes) or "–", unprompted, run.train_columns),),
        caption=(
            "A log that prints the rate of an epoch's last iteration shows a decay one epoch early. Intervals: 95 %, "
            "block bootstrap. The third column is the test robust loss alone, cut into straight lines by ruptures."
        ),
    )


def decay_figure(run: Run, index: int) -> Figure:
    """The test robust loss around one decay, with the means of the two windows."""
    values, epochs = run.columns[TEST], run.columns["epoch"]
    num_before, num_after = effects.decay_windows(run, index)
    end, start = run.stretch_before(index)[1], run.change(index)
    first, last = max(end - 3 * num_before, 0), min(start + 4 * num_after, run.length)
    windows = []
    for label, a, b in (("mean before", end - num_before, end), ("mean after", start, start + num_after)):
        mean = float(np.mean(values[a:b]))
        windows.append(Series(label=label, x=(float(epochs[a]), float(epochs[b - 1])), y=(mean, mean), style="line"))
    points = Series(label="test robust loss", x=tuple(epochs[first:last]), y=tuple(values[first:last]), style="points")
    return Figure(
        title=f"{run.label}: decay {index + 1}",
        x_label="epoch",
        y_label="test robust loss (nats)",
        series=(points, *windows),
        marks=(float(epochs[start]),),
    )


def gap_figure(baseline: Run, other: Run) -> Figure:
    """Test robust losses of a pair, and the baseline's gap."""
    gap = tuple(baseline.columns[TEST] - baseline.columns[TRAIN])
    return Figure(
        title=f"{baseline.label} and {other.label}",
        x_label="epoch",
        y_label="nats",
        series=(
            Series(label="gap without AWP", x=tuple(baseline.columns["epoch"]), y=gap),
            Series(
                label="test loss with AWP: the most its gap can be",
                x=tuple(other.columns["epoch"]),
                y=tuple(other.columns[TEST]),
            ),
        ),
        marks=_marks(baseline),
    )


def size_table(runs: Sequence[Run], responses: Sequence[SizeResponse]) -> Table:
    """Jump and later rise of every run against the size of its decay."""
    rows = tuple(
        (
            run.label,
            round(run.decays[0].ratio, 4),
            *(
                round(number, 3)
                for part in (response.jump, response.rise)
                for number in (part.estimate, part.standard_error)
            ),
        )
        for run, response in zip(runs, responses, strict=True)
    )
    return Table(
        title="response to the first decay",
        columns=("run", "η₂/η₁", "jump down (σ)", "± se", "later rise (σ in 10 epochs)", "± se"),
        rows=rows,
    )


def size_figure(runs: Sequence[Run], responses: Sequence[SizeResponse]) -> Figure:
    """The same as points with error bars of two standard errors."""
    order = np.argsort([response.size for response in responses])
    series = []
    for label, part in (("jump down", "jump"), ("later rise in 10 epochs", "rise")):
        items = [getattr(responses[i], part) for i in order]
        y = [item.estimate for item in items]
        reach = [2 * item.standard_error for item in items]
        series.append(
            Series(
                label=label,
                x=tuple(responses[i].size for i in order),
                y=tuple(y),
                low=tuple(a - b for a, b in zip(y, reach, strict=True)),
                high=tuple(a + b for a, b in zip(y, reach, strict=True)),
                style="points",
            )
        )
    return Figure(
        title="response against the size of the decay", x_label="ln(η₁/η₂)", y_label="σ", series=tuple(series)
    )


def tracking_figure(label: str, epochs: np.ndarray, bound: np.ndarray, gap: np.ndarray) -> Figure:
    """Bound and gap over the checkpoints, each shifted and scaled to mean 0 and standard deviation 1."""
    series = []
    for name, values in (("bound", bound), ("robust gap", gap)):
        spread = float(values.std()) or 1.0
        series.append(Series(label=name, x=tuple(epochs), y=tuple((values - values.mean()) / spread)))
    return Figure(
        title=f"{label}: bound and gap",
        x_label="epoch",
        y_label="standardized",
        series=tuple(series),
        caption="Both curves standardized: the claim is about their changes, not their sizes.",
    )
