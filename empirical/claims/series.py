"""A run's measurements in order of time, contrasts between windows of it, and how a hypothesis about them is put:
what the claims of `spectra` and `posterior` share.

Two uncertainties of a contrast are kept apart. *data*: every checkpoint is measured on the same samples, each sample
has an influence on ln λ and ln γ, and the influences are differenced before their spread is taken, so that what is
common to both windows cancels. *checkpoint*: the weights fluctuate from one checkpoint to the next; its variance is
pooled over windows. The interval uses their sum with Student's t. Several runs of one method are compared by their own
spread (Student over runs), which contains both and the data order as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import EmpiricalClaim, Subject
from empirical.measure.bound import curvatures_of, optimizer_at, predicted_variances, usable_directions
from empirical.settings.training import Training
from theory.closed_form.pac_bayes import variance_elasticities
from theory.judge.claim import HYPOTHESIS_ALPHA, Claim, Comparison
from theory.judge.evidence import Evidence
from theory.judge.figure import Figure, Series
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

SPECTRUM = "spectrum"
PAPER = "Xu and Zhang, arXiv 2410.07719"
FIXED_INPUTS = "curvature and noise at adversarial inputs held fixed (Danskin-type Hessian)"
TOP_K = "statements are about the tracked top eigenspace of the Hessian"
#: Fewest runs behind a statement about a method.
RUNS = 3


class NotApplicableError(Exception):
    """The evidence cannot speak to the claim, for the reason given."""


@dataclass(frozen=True)
class Track:
    """The checkpoints of one run in one batch-norm mode, in order."""

    items: tuple[Evidence, ...]

    @classmethod
    def of(cls, items: Iterable[Evidence]) -> Track:
        """Sort by iteration."""
        return cls(tuple(sorted(items, key=lambda item: item.measured["iteration"])))

    def fact(self, name: str):
        """A fact of the run, the same at every checkpoint."""
        return self.items[0].measured[name]

    @cached_property
    def training(self) -> Training:
        """What the run trained."""
        return Training.of(self.items[0])

    @property
    def label(self) -> str:
        """The run's name, with the batch-norm mode where there is a choice."""
        mode = f" {self.fact('batch_norm')} mode" if self.fact("has_batch_norm") else ""
        return f"{self.training.run_name(self.items[0].seed)}{mode}"

    @cached_property
    def epochs(self) -> NDArray[np.float64]:
        """Epochs done at each checkpoint."""
        return np.array([i.measured["iteration"] for i in self.items]) / self.training.iterations_per_epoch

    @cached_property
    def iterations(self) -> NDArray[np.int64]:
        """Iterations done at each checkpoint."""
        return np.array([item.measured["iteration"] for item in self.items])

    @cached_property
    def protocol(self) -> str:
        """A digest that a run of AT and one of AWP share if they differ in nothing else."""
        return self.training.protocol(self.items[0].seed)

    @property
    def decays(self) -> tuple[tuple[int, float, float], ...]:
        """(iteration, rate before, rate after) of every decay."""
        return self.training.decays

    @property
    def decay_epochs(self) -> tuple[float, ...]:
        """Epochs at which the learning rate drops: the marks of figures."""
        return tuple(i / self.training.iterations_per_epoch for i, _, _ in self.decays)

    def stage(self, decay: int) -> tuple[int, int, int]:
        """Iterations at which the stage before a decay begins, of the decay, and at which the stage after it ends."""
        marks = [0, *(i for i, _, _ in self.decays), self.training.num_iterations]
        return marks[decay], marks[decay + 1], marks[decay + 2]

    def usable(self, index: int) -> NDArray[np.bool_]:
        """Directions of one checkpoint with positive curvature and noise, and a stationary law at its rate."""
        return usable_directions(self.items[index])

    def curvatures(self, index: int) -> NDArray[np.float64]:
        """Largest eigenvalues of the data Hessian, shape ``(k,)``."""
        return curvatures_of(self.items[index])

    def optimizer(self, index: int) -> MomentumSGD:
        """The optimizer at a checkpoint, with the rate of its last step."""
        return optimizer_at(self.items[index])

    def log_curvature(self, index: int) -> float:
        """Mean of ln λ over the tracked directions (the positive ones)."""
        lam = self.curvatures(index)
        return float(np.log(lam[lam > 0]).mean())

    def log_noise(self, index: int) -> float:
        """Mean of ln γ over the tracked directions."""
        gamma = self.items[index].arrays["gamma"]
        return float(np.log(gamma[gamma > 0]).mean())

    def variances(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Usable directions, and the stationary variance (S1) predicted in them (white noise)."""
        try:
            return predicted_variances(self.items[index])
        except ValueError as error:
            raise NotApplicableError(f"{self.label}: {error}") from None

    def log_variance(self, index: int) -> float:
        """Mean of ln σ² over the usable directions."""
        return float(np.log(self.variances(index)[1]).mean())

    def curvature_influence(self, index: int) -> NDArray[np.float64]:
        """Influence of each sample on the mean of ln λ, shape ``(N,)``."""
        lam = self.curvatures(index)
        keep = lam > 0
        samples = self.items[index].arrays["curvature_samples"][:, keep]
        return ((samples - lam[keep]) / lam[keep]).mean(axis=1)

    def noise_influence(self, index: int) -> NDArray[np.float64]:
        """Influence of each sample on the mean of ln γ, shape ``(N,)``."""
        item = self.items[index]
        centered = item.arrays["projections"] - item.arrays["projections"].mean(axis=0)
        gamma = item.arrays["gamma"]
        keep = gamma > 0
        return ((centered[:, keep] ** 2 - gamma[keep]) / gamma[keep]).mean(axis=1)

    def variance_influence(self, index: int) -> NDArray[np.float64]:
        """Influence of each sample on the mean of ln σ²: γ's minus λ's, with the step-size term's elasticity."""
        keep = self.usable(index)
        optimizer, lam = self.optimizer(index), self.curvatures(index)[keep]
        item = self.items[index]
        gamma = item.arrays["gamma"][keep]
        elasticity = variance_elasticities(Quadratic(lam, gamma), optimizer).curvature
        centered = item.arrays["projections"][:, keep] - item.arrays["projections"][:, keep].mean(axis=0)
        curvature = (item.arrays["curvature_samples"][:, keep] - lam) / lam
        return ((centered**2 - gamma) / gamma + elasticity * curvature).mean(axis=1)


Windows = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Contrast:
    """after − before of a logarithm, with its two standard errors."""

    estimate: float
    data_error: float
    checkpoint_error: float
    degrees: float

    @property
    def interval(self) -> tuple[float, float]:
        """Student interval at the level of hypotheses."""
        total = math.hypot(self.data_error, self.checkpoint_error)
        reach = float(stats.t.ppf(1 - HYPOTHESIS_ALPHA / 2, self.degrees)) * total
        return self.estimate - reach, self.estimate + reach


def contrast(
    track: Track,
    windows: Windows,
    statistic: Callable[[Track, int], float],
    influence: Callable[[Track, int], NDArray[np.float64]],
    scatter: Sequence[Windows],
) -> Contrast:
    """Mean of a statistic over the window after minus that over the window before.

    Args:
        track: the run.
        windows: indices of the checkpoints before and after.
        statistic: value of a checkpoint.
        influence: influences of the samples on it.
        scatter: windows whose pooled spread is the checkpoint-to-checkpoint variance.
    """
    before, after = windows
    if not before or not after:
        raise NotApplicableError(f"{track.label} has no checkpoint measured on both sides of the change")
    change = float(np.mean([statistic(track, i) for i in after]) - np.mean([statistic(track, i) for i in before]))
    difference = np.mean([influence(track, i) for i in after], axis=0) - np.mean(
        [influence(track, i) for i in before], axis=0
    )
    data = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    squares, degrees = 0.0, 0
    for pair in scatter:
        for window in pair:
            values = np.array([statistic(track, i) for i in window])
            if len(values) > 1:
                squares += float(((values - values.mean()) ** 2).sum())
                degrees += len(values) - 1
    if degrees < 2:
        raise NotApplicableError(
            f"{track.label} has too few checkpoints around its decays to tell a change from their scatter"
        )
    wobble = math.sqrt(squares / degrees * (1 / len(before) + 1 / len(after)))
    total = data**2 + wobble**2
    # Satterthwaite: the data part has many degrees of freedom, the checkpoint part few.
    weight = wobble**4 / degrees + data**4 / (len(difference) - 1)
    return Contrast(change, data, wobble, total**2 / weight if weight > 0 else float(degrees))


def around(track: Track, centre: int, reach_before: int, reach_after: int) -> Windows:
    """Checkpoints within ``reach_before`` iterations up to ``centre``, and within ``reach_after`` after it."""
    at = track.iterations
    before = np.flatnonzero((at > centre - reach_before) & (at <= centre))
    after = np.flatnonzero((at > centre) & (at <= centre + reach_after))
    return tuple(before.tolist()), tuple(after.tolist())


def decay_windows(track: Track, decay: int) -> Windows:
    """A quarter of the stage on either side of a decay: the reach of the claims about decays."""
    start, centre, end = track.stage(decay)
    return around(track, centre, (centre - start) // 4, max((end - centre) // 4, 1))


def pretend_windows(track: Track, decay: int) -> Windows:
    """The same around the middle of the stage *before* the decay, where nothing happened to the learning rate."""
    start, centre, _ = track.stage(decay)
    middle, reach = (start + centre) // 2, (centre - start) // 4
    # At least as wide as the spacing of the checkpoints there, so that both sides hold one.
    spacing = int(np.diff(track.iterations).max(initial=1))
    return around(track, middle, max(reach, spacing), max(min(reach, (centre - middle) // 1), spacing))


def tracks(evidence: Sequence[Evidence]) -> dict[tuple[str, str, str], Track]:
    """Tracks by (run, batch-norm mode, measurement apart from its jackknife groups)."""
    groups: dict[tuple[str, str, str], list[Evidence]] = {}
    for item in evidence:
        if item.experiment == SPECTRUM:
            made = {key: value for key, value in item.setting["measurement"].items() if key != "groups"}
            key = (Training.of(item).run_name(item.seed), str(item.measured["batch_norm"]), repr(sorted(made.items())))
            groups.setdefault(key, []).append(item)
    return {key: Track.of(items) for key, items in sorted(groups.items())}


def roles(track: Track, prefix: str) -> dict[str, Evidence]:
    """The track's evidence under roles that `track_of` reads back."""
    return {f"{prefix}/{item.measured['iteration']:09d}": item for item in track.items}


def tracks_of(evidence: Mapping[str, Evidence]) -> dict[str, Track]:
    """Tracks by the prefix of their roles."""
    groups: dict[str, list[Evidence]] = {}
    for role, item in evidence.items():
        groups.setdefault(role.rpartition("/")[0], []).append(item)
    return {prefix: Track.of(items) for prefix, items in groups.items()}


def each_track(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    """Every run, and every method that has several."""
    found = list(tracks(evidence).values())
    for track in found:
        yield Subject(label=track.label, evidence=roles(track, "run 0"))
    for name, members in by_method(found).items():
        if len(members) > 1:
            together = {}
            for number, track in enumerate(members):
                together |= roles(track, f"run {number}")
            yield Subject(label=f"{name} (method)", evidence=together, scope="the method")


def each_decay(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    """Every decay of every run, and every decay of every method that has several runs."""
    found = list(tracks(evidence).values())
    for track in found:
        for decay in range(len(track.decays)):
            yield Subject(label=f"{track.label} · decay {decay + 1}", evidence=roles(track, f"decay {decay}/run 0"))
    for name, members in by_method(found).items():
        if len(members) > 1:
            for decay in range(min(len(track.decays) for track in members)):
                together = {}
                for number, track in enumerate(members):
                    together |= roles(track, f"decay {decay}/run {number}")
                yield Subject(label=f"{name} (method) · decay {decay + 1}", evidence=together, scope="the method")


def by_method(found: Sequence[Track]) -> dict[str, list[Track]]:
    """Tracks that differ in the seed alone."""
    groups: dict[tuple[Training, str], list[Track]] = {}
    for track in found:
        groups.setdefault((track.training, str(track.fact("batch_norm"))), []).append(track)
    return {f"{training.data.name} {training.method.name}": members for (training, _), members in groups.items()}


def each_pair(evidence: Sequence[Evidence]) -> Iterable[Subject]:
    """Runs with and without AWP that share protocol, seed and batch-norm mode; and all such pairs together."""
    found = list(tracks(evidence).values())
    pairs: list[tuple[Track, Track]] = []
    for track in found:
        if track.training.method.name != "at":
            continue
        for other in found:
            same = all(track.fact(name) == other.fact(name) for name in ("batch_norm", "data_digest"))
            if other.training.method.name == "awp" and same and track.protocol == other.protocol:
                pairs.append((track, other))
                yield Subject(
                    label=f"{track.label} | {other.label}",
                    evidence=roles(track, "pair 0/at") | roles(other, "pair 0/awp"),
                    scope="this pair only",
                )
    if len(pairs) > 1:
        together = {}
        for number, (track, other) in enumerate(pairs):
            together |= roles(track, f"pair {number}/at") | roles(other, f"pair {number}/awp")
        yield Subject(
            label=f"{pairs[0][0].training.data.name} at | awp (method)", evidence=together, scope="the method"
        )


def over_runs(estimates: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean over runs with Student's interval over runs."""
    values = np.asarray(estimates, dtype=np.float64)
    if len(values) < RUNS:
        raise NotApplicableError(f"a statement about the method needs {RUNS} runs; here are {len(values)}")
    reach = float(stats.t.ppf(1 - HYPOTHESIS_ALPHA / 2, len(values) - 1) * values.std(ddof=1)) / math.sqrt(len(values))
    centre = float(values.mean())
    return centre, (centre - reach, centre + reach)


def line(label: str, x: Iterable[float], y: Iterable[float], **more) -> Series:
    """A series of plain floats."""
    return Series(label=label, x=tuple(float(v) for v in x), y=tuple(float(v) for v in y), **more)


def direction_figure(
    found: Sequence[Track], value: Callable[[Track, int], NDArray[np.float64]], title: str, y_label: str, caption: str
) -> Figure:
    """The largest, the geometric mean and the smallest tracked value over training, for one or several runs."""
    series = []
    for track in found:
        name = f"{track.training.method.name} " if len(found) > 1 else ""
        values = [value(track, i) for i in range(len(track.items))]
        values = [v[v > 0] for v in values]
        keep = [i for i, v in enumerate(values) if len(v)]
        x = track.epochs[keep]
        mean = [float(np.exp(np.log(values[i]).mean())) for i in keep]
        series.append(
            line(
                f"{name}geometric mean, smallest to largest",
                x,
                mean,
                low=tuple(float(values[i].min()) for i in keep),
                high=tuple(float(values[i].max()) for i in keep),
                style="points",
            )
        )
        series.append(line(f"{name}mean", x, mean))
    return Figure(
        title=title,
        x_label="epoch",
        y_label=y_label,
        series=tuple(series),
        y_scale="log",
        caption=caption,
        marks=found[0].decay_epochs,
    )


Compare = Callable[[Mapping[str, Evidence], Any], Comparison]


def _guarded(compare: Compare) -> Compare:
    def guarded(evidence: Mapping[str, Evidence], predict: Any) -> Comparison:
        try:
            return compare(evidence, predict)
        except NotApplicableError as reason:
            return Comparison(estimate=math.nan, interval=(math.nan, math.nan), not_applicable=str(reason))

    return guarded


def hypothesis(
    name: str,
    statement: str,
    section: str,
    compare: Compare,
    predict: Any,
    decoys: Mapping[str, Any],
    margin: float,
    subjects: Callable[[Sequence[Evidence]], Iterable[Subject]],
    assumptions: tuple[str, ...],
) -> EmpiricalClaim:
    """A claim about measured networks: a refutation is a finding, missing evidence makes it not applicable."""
    claim = Claim(
        name=name,
        statement=statement,
        source=f"{PAPER}, {section}",
        kind=Kind.HYPOTHESIS,
        experiments=("spectrum",),
        assumptions=assumptions,
        predict=predict,
        decoys=decoys,
        compare=_guarded(compare),
        margin=margin,
        tags=("spectra",),
    )
    return EmpiricalClaim(claim=claim, subjects=subjects)


def each_item(experiment: str) -> Callable[[Sequence[Evidence]], Iterable[Subject]]:
    """A selector: one subject for each record of an experiment, named by run and epoch."""

    def select(evidence: Sequence[Evidence]) -> Iterable[Subject]:
        for item in evidence:
            if item.experiment == experiment:
                label = f"{Training.of(item).run_name(item.seed)} at epoch {item.measured['epoch']}"
                yield Subject(label=label, evidence={experiment: item})

    return select
