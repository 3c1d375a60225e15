"""What the verdicts on logs hand over: measured curves, decays, and the predicted posterior variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from empirical.logs import effects
from empirical.logs.dips import Dip, Fitted, fit_dip
from empirical.logs.effects import Run, SizeResponse
from theory.judge.claim import HYPOTHESIS_ALPHA, NotApplicableError
from theory.judge.intervals import Contrast
from theory.judge.results import (
    EXACT,
    Axis,
    Band,
    Curve,
    Estimate,
    Forest,
    Mark,
    Profile,
    Result,
    Role,
    Sample,
    Table,
    TimeCourse,
)

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


def fitted_dip(run: Run, dip: Dip) -> tuple[TimeCourse]:
    """The test robust loss around the first decay, and the curve fitted to it."""
    shown = (run.epochs >= dip.epochs[0]) & (run.epochs <= dip.epochs[-1])
    return (
        TimeCourse(
            title="Dip at the decay",
            sample=Sample(int(shown.sum()), "epochs"),
            caption="Fitted: a straight line, then one relaxation and a straight drift.",
            x=EPOCH,
            y=ROBUST_LOSS,
            curves=(
                Curve(role=Role.MEASURED, subject="test", x=run.epochs[shown], y=run.test[shown]),
                Curve(role=Role.REFERENCE, subject="test", x=dip.epochs, y=dip.curve, by="fitted"),
            ),
            decays=(float(run.epoch(run.change(0))),),
        ),
    )


def fitted_dips(runs: Sequence[Run]) -> tuple[Result, ...]:
    """Depth of every run's dips, and time to the minimum and time scale of the first, as fitted.

    Returns:
        None of them where no dip could be fitted.
    """
    depths, times, scales = [], [], []
    for run in runs:
        for index in range(len(run.decays)):
            try:
                dip = fit_dip(run, index)
            except NotApplicableError:
                continue
            name = f"{run.label}, drop at {run.epoch(run.change(index))}"
            depths.append(_fitted_estimate(name, f"decay {index + 1}", dip.depth))
            if index == 0 and dip.found:
                scales.append(_fitted_estimate(name, "time scale", dip.time_scale))
                if dip.drift.interval[0] > 0:
                    times.append(_fitted_estimate(name, "time to the minimum", dip.time))
    forests = []
    if depths:
        forests.append(
            Forest(
                title="Depth of the dips",
                sample=Sample(len(depths), "decays"),
                caption="Of the fitted curve within 20 epochs of the drop; 0: it only rises.",
                x=Axis("depth", "nats"),
                estimates=tuple(depths),
                null=0.0,
            )
        )
    if scales:
        forests.append(
            Forest(
                title="Times of the first dip",
                sample=Sample(len(scales), "decays"),
                caption=(
                    "Time scale of the relaxation, 0.05 to 10 epochs being resolved, and epochs from the drop to the "
                    "lowest value of the fitted curve, where it rises again."
                ),
                x=Axis("time since the drop", "epochs"),
                estimates=(*scales, *times),
            )
        )
    return tuple(forests)


def _fitted_estimate(category: str, subject: str, found: Fitted) -> Estimate:
    low, high = found.interval
    return Estimate(category=category, subject=subject, value=found.estimate, low=low, high=high, band=Band.INTERVAL)


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
