"""What the verdicts on logs hand over: measured curves, decays, and the predicted posterior variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from empirical.logs import effects
from empirical.logs.effects import Run, SizeResponse
from theory.judge.claim import HYPOTHESIS_ALPHA
from theory.judge.intervals import Contrast
from theory.judge.results import EXACT, Axis, Band, Curve, Mark, Profile, Result, Role, Sample, Table, TimeCourse

EPOCH, ROBUST_LOSS = Axis("epoch"), Axis("robust loss", "nats")


def run_results(run: Run) -> tuple[Result, ...]:
    """The measured robust losses of a run, the course of σ² that its learning rates predict, and its decays."""
    losses = TimeCourse(
        title="Robust losses",
        sample=Sample(run.length, "epochs"),
        x=EPOCH,
        y=ROBUST_LOSS,
        curves=(
            Curve(role=Role.MEASURED, subject="test", x=run.epochs, y=run.test),
            Curve(role=Role.MEASURED, subject="train", x=run.epochs, y=run.train),
        ),
        decays=_changes(run),
    )
    return (losses, *_predicted(run), run_table(run))


def _predicted(run: Run) -> tuple[TimeCourse, ...]:
    from empirical.logs.prediction import predicted_variance

    prediction = predicted_variance(run)
    if prediction is None:
        return ()
    return (
        TimeCourse(
            title="Predicted posterior variance",
            sample=EXACT,
            caption=prediction.caption,
            x=EPOCH,
            y=Axis("σ² / σ² before the first decay"),
            curves=tuple(
                Curve(role=Role.PREDICTED, subject=mode.label, x=prediction.epochs, y=mode.relative_variance)
                for mode in prediction.modes
            ),
            decays=_changes(run),
        ),
    )


def _changes(run: Run) -> tuple[float, ...]:
    """Epochs at which the curves change: a log that prints the rate of an epoch's last iteration is one off."""
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


def around_decay(run: Run, index: int) -> TimeCourse:
    """The test robust loss around one decay, with the means of the two windows."""
    num_before, num_after = effects.decay_windows(run, index)
    end, start = run.stretch_before(index)[1], run.change(index)
    first, last = max(end - 3 * num_before, 0), min(start + 4 * num_after, run.length)
    curves = [Curve(role=Role.MEASURED, x=run.epochs[first:last], y=run.test[first:last])]
    for by, a, b in (("mean before", end - num_before, end), ("mean after", start, start + num_after)):
        mean = float(np.mean(run.test[a:b]))
        ends = (float(run.epochs[a]), float(run.epochs[b - 1]))
        curves.append(Curve(role=Role.REFERENCE, x=ends, y=(mean, mean), by=by))
    return TimeCourse(
        title="Test robust loss around the decay",
        sample=Sample(last - first, "epochs"),
        x=EPOCH,
        y=ROBUST_LOSS,
        curves=tuple(curves),
        marks=(Mark(float(run.epochs[start]), "the curves change"),),
    )


def gaps(baseline: Run, other: Run) -> TimeCourse:
    """The baseline's robust gap, and the most that the other run's can be."""
    return TimeCourse(
        title="Robust generalization gap with and without AWP",
        sample=Sample(baseline.length, "epochs"),
        x=EPOCH,
        y=Axis("robust gap", "nats"),
        curves=(
            Curve(role=Role.MEASURED, subject="without AWP", x=baseline.epochs, y=baseline.test - baseline.train),
            Curve(
                role=Role.BOUND,
                subject="with AWP",
                x=other.epochs,
                y=other.test,
                by="test loss: the most its gap can be",
            ),
        ),
        decays=_changes(baseline),
    )


def sizes(runs: Sequence[Run], responses: Sequence[SizeResponse]) -> tuple[Result, ...]:
    """Jump and later rise of every run against the size of its decay."""
    order = np.argsort([response.size for response in responses])
    x = [responses[i].size for i in order]
    return (
        Profile(
            title="Response to the first decay against its size",
            sample=Sample(len(runs), "runs"),
            x=Axis("ln(η₁/η₂)"),
            y=Axis("response", "σ"),
            curves=(
                _by_size("jump down", x, [responses[i].jump for i in order]),
                _by_size("later rise in 10 epochs", x, [responses[i].rise for i in order]),
            ),
        ),
        Table(
            title="Response to the first decay",
            columns=("run", "η₂/η₁", "jump down (σ)", "± se", "later rise (σ in 10 epochs)", "± se"),
            rows=tuple(
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
            ),
        ),
    )


def _by_size(subject: str, x: Sequence[float], found: Sequence[Contrast]) -> Curve:
    ends = [contrast.interval(HYPOTHESIS_ALPHA) for contrast in found]
    return Curve(
        role=Role.MEASURED,
        subject=subject,
        x=x,
        y=[contrast.estimate for contrast in found],
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        band=Band.INTERVAL,
    )


def tracking(epochs: NDArray[np.float64], bound: NDArray[np.float64], gap: NDArray[np.float64]) -> TimeCourse:
    """Bound and gap over the checkpoints, each shifted and scaled to mean 0 and standard deviation 1."""

    def standardized(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values - values.mean()) / (float(values.std()) or 1.0)

    return TimeCourse(
        title="Bound and robust gap, each standardized",
        sample=Sample(len(epochs), "checkpoints"),
        caption="The claim is about their changes, not their sizes.",
        x=EPOCH,
        y=Axis("standard deviations from the mean"),
        curves=(
            Curve(role=Role.PREDICTED, x=epochs, y=standardized(bound), by="bound"),
            Curve(role=Role.MEASURED, x=epochs, y=standardized(gap)),
        ),
    )
