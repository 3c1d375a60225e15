"""A run's measurements in order of time, contrasts between windows of it, and how a hypothesis about them is put:
what the claims of `spectra` and `posterior` share.

Two uncertainties of a contrast are kept apart. *data*: every checkpoint is measured on the same samples, each sample
has an influence on ln λ and ln γ, and the influences are differenced before their spread is taken, so that what is
common to both windows cancels. *checkpoint*: the weights fluctuate from one checkpoint to the next; its variance is
pooled over windows. The interval uses their sum with Student's t. What several runs of one method say is put together
by a random-effects meta-analysis over seeds: they share data and split, so nothing is said of other data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.claims import EmpiricalClaim, Selected, Subject
from empirical.measure.bound import predicted_variances, usable_directions
from empirical.records import Record, Spectrum
from empirical.records.run import AtCheckpoint
from theory.judge.claim import HYPOTHESIS_ALPHA, Claim, Compare, NotApplicableError, Rule, Seen
from theory.judge.intervals import Contrast, combined, mean_of, random_effects
from theory.judge.results import Axis, Band, Curve, Role, Sample, TimeCourse
from theory.judge.verdict import About, Kind

PAPER = "Xu and Zhang, arXiv 2410.07719"
FIXED_INPUTS = "curvature and noise at adversarial inputs held fixed (Danskin-type Hessian)"
TREND = "without the decay, the logarithm would have gone on as over the second half of the stage before, in time"
TOP_K = "statements are about the tracked top eigenspace of the Hessian"
#: A spike is a change of a logarithm by at least this.
SPIKE = math.log(1.25)
#: Fewest runs behind a statement about a method.
RUNS = 3
#: Epochs before and after a decay, or a placebo, and at the end of a stage, whose checkpoints are compared.
REACH = 5
#: Time of everything that is followed over training.
EPOCH = Axis("epoch")


@dataclass(frozen=True, eq=False)
class Track:
    """The checkpoints of one run in one batch-norm mode, in order."""

    items: tuple[Spectrum, ...]

    @classmethod
    def of(cls, items: Iterable[Spectrum]) -> Track:
        """Sort by iteration."""
        return cls(tuple(sorted(items, key=lambda item: item.iteration)))

    @property
    def first(self) -> Spectrum:
        """The first checkpoint, which knows of the run what every checkpoint knows."""
        return self.items[0]

    @property
    def label(self) -> str:
        """The run's name, with the batch-norm mode where there is a choice."""
        return self.first.label

    @property
    def method(self) -> str:
        """Name of the training method."""
        return self.first.method

    @property
    def called(self) -> str:
        """The training method as figures name it, by which they color it."""
        return self.method.upper() if self.method in ("at", "awp") else self.method

    @property
    def mode(self) -> str:
        """Batch-norm mode of the measurement."""
        return self.first.measurement.batch_norm

    @cached_property
    def epochs(self) -> NDArray[np.float64]:
        """Epochs done at each checkpoint."""
        return self.iterations / self.first.training.iterations_per_epoch

    @cached_property
    def iterations(self) -> NDArray[np.int64]:
        """Iterations done at each checkpoint."""
        return np.array([item.iteration for item in self.items])

    @property
    def decays(self) -> tuple[tuple[int, float, float], ...]:
        """(iteration, rate before, rate after) of every decay."""
        return self.first.training.decays

    @property
    def decay_epochs(self) -> tuple[float, ...]:
        """Epochs at which the learning rate drops."""
        return tuple(i / self.first.training.iterations_per_epoch for i, _, _ in self.decays)

    def stage(self, decay: int) -> tuple[int, int, int]:
        """Iterations at which the stage before a decay begins, of the decay, and at which the stage after it ends."""
        marks = [0, *(i for i, _, _ in self.decays), self.first.training.num_iterations]
        return marks[decay], marks[decay + 1], marks[decay + 2]

    def usable(self, index: int) -> NDArray[np.bool_]:
        """Directions of one checkpoint with positive curvature and noise, and a stationary law at its rate."""
        return usable_directions(self.items[index])

    def log_curvature(self, index: int) -> float:
        """Mean of ln λ over the tracked directions (the positive ones)."""
        lam = self.items[index].curvatures
        return float(np.log(lam[lam > 0]).mean())

    def log_noise(self, index: int) -> float:
        """Mean of ln γ over the tracked directions."""
        gamma = self.items[index].gamma.values
        return float(np.log(gamma[gamma > 0]).mean())

    def variances(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Usable directions, and the stationary variance (S1) predicted in them (white noise)."""
        try:
            return predicted_variances(self.items[index])
        except ValueError as error:
            raise NotApplicableError(f"{self.label}: {error}") from None

    def log_variance(self, index: int) -> float:
        """Mean of ln σ² of (S1) over the directions that have a stationary law; NaN where none has."""
        return float(np.log(self.variances(index)[1]).mean()) if self.usable(index).any() else math.nan

    def log_sharpness(self, index: int) -> float:
        """ln of batch sharpness; NaN where it is not positive."""
        value = self.items[index].sharpness.value
        return math.log(value) if value > 0 else math.nan

    def log_ratio(self, index: int) -> float:
        """Mean of ln γ − ln λ over the directions in which both are positive: ln σ² of (S1) without rate and edge."""
        return float(np.log(self._ratios(index)).mean())

    def _ratios(self, index: int) -> NDArray[np.float64]:
        gamma, lam = self.items[index].gamma.values, self.items[index].curvatures
        keep = (gamma > 0) & (lam > 0)
        return gamma[keep] / lam[keep]

    def curvature_influence(self, index: int) -> NDArray[np.float64]:
        """Influence of each sample on the mean of ln λ, shape ``(N,)``."""
        item = self.items[index]
        keep = item.curvatures > 0
        return _relative_curvature(item, keep).mean(axis=1)

    def noise_influence(self, index: int) -> NDArray[np.float64]:
        """Influence of each sample on the mean of ln γ, shape ``(N,)``."""
        item = self.items[index]
        return _relative_noise(item, item.gamma.values > 0).mean(axis=1)

    def ratio_influence(self, index: int) -> NDArray[np.float64]:
        """Influence of each sample on the mean of ln γ − ln λ, shape ``(N,)``."""
        item = self.items[index]
        keep = (item.gamma.values > 0) & (item.curvatures > 0)
        return (_relative_noise(item, keep) - _relative_curvature(item, keep)).mean(axis=1)


def _relative_curvature(item: Spectrum, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Influence of each sample on ln λ in the directions kept, shape ``(N, kept)``."""
    lam = item.curvatures[keep]
    return (item.curvature_samples[:, keep] - lam) / lam


def _relative_noise(item: Spectrum, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Influence of each sample on ln γ in the directions kept, shape ``(N, kept)``."""
    gamma = item.gamma.values[keep]
    centered = item.projections - item.projections.mean(axis=0)
    return (centered[:, keep] ** 2 - gamma) / gamma


Window = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """after − before of a logarithm, with the two parts of its standard error."""

    contrast: Contrast
    data_error: float
    checkpoint_error: float

    @property
    def estimate(self) -> float:
        """The change."""
        return self.contrast.estimate

    @property
    def interval(self) -> tuple[float, float]:
        """Its interval at the level of hypotheses."""
        return self.contrast.interval(HYPOTHESIS_ALPHA)


def change_of(
    track: Track,
    weights: NDArray[np.float64],
    statistic: Callable[[Track, int], float],
    influence: Callable[[Track, int], NDArray[np.float64]],
    scatter: Iterable[Window],
) -> Change:
    """A weighted sum of a statistic over checkpoints.

    Args:
        track: the run.
        weights: of every checkpoint; a difference in differences, for one.
        statistic: value of a checkpoint; asked for where the weight is not 0.
        influence: influences of the samples on it.
        scatter: windows whose pooled spread is the checkpoint-to-checkpoint variance.
    """
    used = np.flatnonzero(weights).tolist()
    change = sum(float(weights[i]) * statistic(track, i) for i in used)
    difference = np.sum([weights[i] * influence(track, i) for i in used], axis=0)
    data = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    squares, degrees = 0.0, 0
    for window in scatter:
        values = np.array([statistic(track, i) for i in window])
        if len(values) > 1:
            squares += float(((values - values.mean()) ** 2).sum())
            degrees += len(values) - 1
    if degrees < 2:
        raise NotApplicableError(
            f"{track.label} has too few checkpoints around its decays to tell a change from their scatter"
        )
    wobble = math.sqrt(squares / degrees * float(weights @ weights))
    found = combined(change, [(wobble**2, float(degrees)), (data**2, len(difference) - 1.0)])
    return Change(contrast=found, data_error=data, checkpoint_error=wobble)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Checkpoints around one decay, and around the middle of the stage before it, where the rate stayed.

    Args:
        before: of the `REACH` epochs up to the decay.
        early: of as many after it.
        late: of the last of the stage that follows.
        placebo_before: as `before`, of the placebo decay.
        placebo_early: as `early`.
    """

    before: Window
    early: Window
    late: Window
    placebo_before: Window
    placebo_early: Window

    def all(self) -> tuple[Window, ...]:
        """The windows, each checkpoint in one of them."""
        return self.before, self.early, self.late, self.placebo_before, self.placebo_early


def windows_of(track: Track, decay: int) -> Windows:
    """The windows around a decay, counted from 0; raises as `windows_at` does."""
    return windows_at(track.iterations, track.stage(decay), track.first.training.iterations_per_epoch, track.label)


def windows_at(at: NDArray[np.int64], stage: tuple[int, int, int], epoch: int, label: str) -> Windows:
    """The windows around a decay.

    Args:
        at: iterations done at each checkpoint.
        stage: iterations at which the stage before the decay begins, of the decay, at which the stage after it ends.
        epoch: iterations of an epoch.
        label: whose they are.

    Raises:
        NotApplicableError: if a stage is too short for windows that do not overlap, or a window holds no checkpoint.
    """
    start, centre, end = stage
    reach, middle = REACH * epoch, (start + centre) // 2
    for name, length, least in (("before", centre - start, 4 * reach), ("after", end - centre, 2 * reach)):
        if length < least:
            raise NotApplicableError(
                f"{label}: the stage {name} the decay lasts {length / epoch:g} epochs; its windows of {REACH} "
                f"epochs need {least // epoch}"
            )

    def within(first: int, last: int) -> Window:
        return tuple(np.flatnonzero((at > first) & (at <= last)).tolist())

    found = Windows(
        before=within(centre - reach, centre),
        early=within(centre, centre + reach),
        late=within(end - reach, end),
        placebo_before=within(middle - reach, middle),
        placebo_early=within(middle, middle + reach),
    )
    empty = [field.name for field in dataclasses.fields(found) if not getattr(found, field.name)]
    if empty:
        words = ", ".join(name.replace("_", " ") for name in empty)
        raise NotApplicableError(f"{label} has no checkpoint measured in the windows {words}")
    return found


def difference_in_differences(
    at: NDArray[np.int64], change: tuple[Window, Window], trend: tuple[Window, Window]
) -> NDArray[np.float64]:
    """Weights of the checkpoints `at` these iterations: the change between two windows, less what the trend between two
    others makes of the time between them. Windows may be shared.
    """

    def between(before: Window, after: Window) -> NDArray[np.float64]:
        weights = np.zeros(len(at))
        weights[list(after)] += 1 / len(after)
        weights[list(before)] -= 1 / len(before)
        return weights

    first, second = between(*change), between(*trend)
    return first - second * float(first @ at) / float(second @ at)


Contrasted = Callable[[NDArray[np.int64], Windows], NDArray[np.float64]]


def early(at: NDArray[np.int64], windows: Windows) -> NDArray[np.float64]:
    """The epochs right after the decay, against the same after the placebo."""
    return difference_in_differences(
        at, (windows.before, windows.early), (windows.placebo_before, windows.placebo_early)
    )


def late(at: NDArray[np.int64], windows: Windows) -> NDArray[np.float64]:
    """The end of the stage after the decay, against that of the stage in which nothing happened after the placebo."""
    return difference_in_differences(at, (windows.before, windows.late), (windows.placebo_before, windows.before))


def at_the_placebo(at: NDArray[np.int64], windows: Windows) -> NDArray[np.float64]:
    """A decoy's: the placebo taken for the decay, against the trend that followed it."""
    return difference_in_differences(
        at, (windows.placebo_before, windows.placebo_early), (windows.placebo_early, windows.before)
    )


#: Windows of a claim about a decay, in words: what its digest holds.
DECLARED: Mapping[str, tuple[str, ...]] = {
    "early": (
        f"before: the {REACH} epochs up to the decay; after: the {REACH} epochs that follow",
        "less the same around the middle of the stage before, in proportion to the time between",
    ),
    "late": (
        f"before: the {REACH} epochs up to the decay; after: the last {REACH} epochs of the stage that follows",
        f"less the change from the {REACH} epochs up to the middle of the stage before to its last {REACH}, in "
        "proportion to the time between",
    ),
}
CONTRASTS: Mapping[str, Contrasted] = {"early": early, "late": late}


# --- subjects ---------------------------------------------------------------------------------------------------------


def tracks(records: Sequence[Record]) -> list[Track]:
    """One for each run, batch-norm mode, and measurement apart from its jackknife groups."""
    groups: dict[tuple[str, str, str], list[Spectrum]] = {}
    for item in records:
        if isinstance(item, Spectrum):
            made = dataclasses.replace(item.measurement, groups=0).to_dict()
            key = (item.run, item.measurement.batch_norm, repr(sorted(made.items())))
            groups.setdefault(key, []).append(item)
    return [Track.of(items) for _, items in sorted(groups.items())]


def by_method(found: Sequence[Track]) -> list[tuple[str, list[Track]]]:
    """Tracks that differ in the seed alone, under the name of their data set, method and batch-norm mode."""
    groups: dict[Any, list[Track]] = {}
    for track in found:
        groups.setdefault((track.first.training, track.mode), []).append(track)
    return [(f"{members[0].first.dataset} {members[0].method}{_mode(members)}", members) for members in groups.values()]


def _mode(members: Sequence[Track]) -> str:
    return f" {members[0].mode} mode" if members[0].first.has_batch_norm else ""


def pooled_scope(statements: int) -> str:
    """What a verdict over runs may be said of, and how many like it are made at the same level."""
    alone = "" if statements < 2 else f", one of {statements} such statements, each at its own level"
    return f"the method, over seeds on one data set and split{alone}"


def about(name: str, members: Sequence[Track], *, decay: int | None = None, pooled: bool = False) -> About:
    """What a verdict on these tracks is about; `decay` counts from 0."""
    return About(
        pooled=pooled,
        name=name,
        runs=tuple(track.first.run for track in members),
        methods=tuple(track.method for track in members),
        seeds=tuple(track.first.seed for track in members),
        decay=None if decay is None else decay + 1,
    )


def about_checkpoint(item: AtCheckpoint) -> About:
    """What a verdict on one checkpoint is about."""
    return About(name=item.run, runs=(item.run,), methods=(item.method,), seeds=(item.seed,), epoch=item.epoch)


def records_of(members: Iterable[Track]) -> tuple[Record, ...]:
    """Everything behind these tracks."""
    return tuple(item for track in members for item in track.items)


Tracks = Sequence[Track]


def each_track(records: Sequence[Record]) -> Iterable[Subject[Tracks]]:
    """Every run, and every method that has several."""
    found = tracks(records)
    for track in found:
        yield Subject(about=about(track.label, (track,)), seen=(track,), records=track.items)
    groups = [(name, members) for name, members in by_method(found) if len(members) > 1]
    for name, members in groups:
        yield Subject(
            about=about(f"{name} (method)", members, pooled=True),
            seen=tuple(members),
            records=records_of(members),
            scope=pooled_scope(len(groups)),
        )


@dataclass(frozen=True, kw_only=True)
class AtDecay:
    """One decay (counted from 0) of one run, or of every run of a method."""

    decay: int
    tracks: Tracks


def each_decay(records: Sequence[Record]) -> Iterable[Subject[AtDecay]]:
    """Every decay of every run, and every decay of every method that has several runs."""
    found = tracks(records)
    for track in found:
        for decay in range(len(track.decays)):
            yield Subject(
                about=about(track.label, (track,), decay=decay),
                seen=AtDecay(decay=decay, tracks=(track,)),
                records=track.items,
            )
    groups = [
        (name, members, decay)
        for name, members in by_method(found)
        if len(members) > 1
        for decay in range(len(members[0].decays))
    ]
    for name, members, decay in groups:
        yield Subject(
            about=about(f"{name} (method)", members, decay=decay, pooled=True),
            seen=AtDecay(decay=decay, tracks=tuple(members)),
            records=records_of(members),
            scope=pooled_scope(len(groups)),
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs that share protocol, seed, data and batch-norm mode, without and with AWP."""

    at: Track
    awp: Track


def each_pair(records: Sequence[Record]) -> Iterable[Subject[Sequence[Pair]]]:
    """Runs with and without AWP that share protocol, seed and batch-norm mode; and pairs that differ in the seed alone.

    A pair measured in two batch-norm modes is one pair seen twice: the modes are pooled apart.
    """
    found = tracks(records)
    pools: dict[Any, list[Pair]] = {}
    for track in (track for track in found if track.method == "at"):
        for other in (other for other in found if other.method == "awp"):
            if _shared(track) == _shared(other):
                pair = Pair(at=track, awp=other)
                pools.setdefault((track.first.training, other.first.training, track.mode), []).append(pair)
                yield Subject(
                    about=about(f"{track.label} | {other.label}", (track, other)),
                    seen=(pair,),
                    records=records_of((track, other)),
                    scope="this pair only",
                )
    several = [pairs for pairs in pools.values() if len(pairs) > 1]
    for pairs in several:
        members = [track for pair in pairs for track in (pair.at, pair.awp)]
        yield Subject(
            about=about(f"{members[0].first.dataset} at | awp{_mode(members)} (method)", members, pooled=True),
            seen=tuple(pairs),
            records=records_of(members),
            scope=pooled_scope(len(several)),
        )


def _shared(track: Track) -> tuple[str, str, str]:
    first = track.first
    return first.training.protocol(first.seed), track.mode, first.data_digest


def over_runs(found: Sequence[Contrast], sign: float = 1.0) -> tuple[float, tuple[float, float]]:
    """Mean over seeds, a random-effects meta-analysis of what each run says with its own error, times `sign`."""
    if len(found) < RUNS:
        raise NotApplicableError(f"a statement about the method needs {RUNS} runs; here are {len(found)}")
    known = all(run.standard_error > 0 for run in found)
    mean = random_effects(found) if known else mean_of([run.estimate for run in found])
    mean = mean.of(sign)
    return mean.estimate, mean.interval(HYPOTHESIS_ALPHA)


# --- what the claims hand over ----------------------------------------------------------------------------------------


def measured(track: Track, y: Iterable[float], *, subject: str = "", **more: Any) -> Curve:
    """A quantity measured at every checkpoint of a run."""
    return Curve(role=Role.MEASURED, subject=subject, x=track.epochs, y=tuple(y), **more)


def over_training(
    found: Sequence[Track], curves: Iterable[Curve], *, title: str, y: Axis, caption: str, sample: Sample | None = None
) -> TimeCourse:
    """Curves over the training of one or several runs, their decays marked."""
    checkpoints = Sample(sum(len(track.items) for track in found), "checkpoints")
    return TimeCourse(
        title=title,
        sample=sample or checkpoints,
        caption=caption,
        x=EPOCH,
        y=y,
        curves=tuple(curves),
        decays=found[0].decay_epochs,
    )


def directions_over_training(
    found: Sequence[Track],
    value: Callable[[Track, int], NDArray[np.float64]],
    *,
    title: str,
    y: Axis,
    caption: str,
) -> tuple[TimeCourse, ...]:
    """The geometric mean of the tracked values over training, between the smallest and the largest; none if no value
    is positive.
    """
    curves = []
    for track in found:
        values = [value(track, i) for i in range(len(track.items))]
        values = [v[v > 0] for v in values]
        keep = [i for i, v in enumerate(values) if len(v)]
        if keep:
            curves.append(
                Curve(
                    role=Role.MEASURED,
                    subject=track.called,
                    x=track.epochs[keep],
                    y=[float(np.exp(np.log(values[i]).mean())) for i in keep],
                    low=[float(values[i].min()) for i in keep],
                    high=[float(values[i].max()) for i in keep],
                    band=Band.RANGE,
                    over="directions",
                    by="geometric mean",
                )
            )
    return (over_training(found, curves, title=title, y=y, caption=caption),) if curves else ()


def over_seeds(
    found: Sequence[Track],
    value: Callable[[Track, int], float],
    *,
    title: str,
    y: Axis,
    caption: str,
    geometric: bool = True,
) -> tuple[TimeCourse, ...]:
    """The mean over the seeds of each method at the checkpoints that all of them have, ± its standard error.

    Args:
        found: runs of one method or several, with the same decays.
        value: at a checkpoint; a logarithm, where the mean is geometric. Checkpoints without one are left out.
        title: of the chart.
        y: what is followed.
        caption: more of it.
        geometric: whether e to the power of the mean is drawn.
    """
    curves, seeds = [], set()
    for name in dict.fromkeys(track.called for track in found):
        members = [track for track in found if track.called == name]
        known = [_known(track, value) for track in members]
        common = sorted(set.intersection(*(set(one) for one in known)))
        if not common:
            continue
        seeds |= {track.first.seed for track in members}
        rows = np.array([[one[at] for at in common] for one in known])
        mean = rows.mean(axis=0)
        error = rows.std(axis=0, ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else None
        shown = np.exp if geometric else np.asarray
        ends: dict[str, Any] = (
            {}
            if error is None
            else {
                "low": shown(mean - error),
                "high": shown(mean + error),
                "band": Band.STANDARD_ERROR,
                "over": "seeds",
            }
        )
        epochs = np.array(common) / members[0].first.training.iterations_per_epoch
        curves.append(Curve(role=Role.MEASURED, subject=name, x=epochs, y=shown(mean), by="mean over seeds", **ends))
    if not curves:
        return ()
    sample = Sample(len(seeds), "seeds" if len(seeds) > 1 else "seed")
    return (over_training(found, curves, title=title, y=y, caption=caption, sample=sample),)


def _known(track: Track, value: Callable[[Track, int], float]) -> dict[int, float]:
    """Iteration to value, where there is one."""
    found = {}
    for place, iteration in enumerate(track.iterations.tolist()):
        with contextlib.suppress(NotApplicableError):
            number = value(track, place)
            if math.isfinite(number):
                found[iteration] = number
    return found


def hypothesis(
    name: str,
    statement: str,
    section: str,
    compare: Compare[Seen, Rule],
    decoys: Mapping[str, Rule],
    margin: float,
    subjects: Selected[Seen],
    assumptions: tuple[str, ...],
    *,
    experiment: str = Spectrum.experiment,
    predict: Rule | None = None,
    select: Rule | None = None,
    windows: tuple[str, ...] = (),
) -> EmpiricalClaim[Seen, Rule]:
    """A claim about measured networks: a refutation is a finding, missing evidence makes it not applicable."""
    claim = Claim(
        name=name,
        statement=statement,
        source=f"{PAPER}, {section}",
        kind=Kind.HYPOTHESIS,
        experiments=(experiment,),
        assumptions=assumptions,
        predict=predict,
        select=select,
        decoys=decoys,
        compare=compare,
        margin=margin,
        windows=windows,
        tags=("spectra",),
    )
    return EmpiricalClaim(claim=claim, subjects=subjects)
