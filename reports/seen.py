"""What the networks behind published verdicts were trained on: how many runs, on which images, and how near an edge.

A verdict says nothing of its data; the records beside it do. Controls, which are linear models, are no networks.
Counting and extremes are all that is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from empirical.records import RegimeRun, Spectrum, TrainingRun, read_records
from reports.formatting import listed, number
from theory.judge.verdict import Verdict

#: A data set, as settings and the names of others' logs have it, to its name in a sentence.
_TITLES = {
    "digits": "scikit-learn's digits",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
}


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set at one size, and the runs that saw it.

    Args:
        name: of the data set, as its Setting has it.
        size: height and width.
        runs: (method, seed, name of the run).
        sizes: numbers of training images, where runs name one.
    """

    name: str
    size: tuple[int, int]
    runs: frozenset[tuple[str, int, str]]
    sizes: frozenset[int]

    def __str__(self) -> str:
        return f"{self.size[0]}×{self.size[1]} images of {_TITLES.get(self.name, self.name)}"

    @property
    def counted(self) -> str:
        """Runs, methods, seeds, training images."""
        names = {method.upper() if method in ("at", "awp") else f"{method} training" for method, *_ in self.runs}
        methods = listed(sorted(names))
        seeds = sorted({seed for _, seed, _ in self.runs})
        which = f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in seeds])}"
        ends = dict.fromkeys(number(size) for size in (min(self.sizes), max(self.sizes))) if self.sizes else ()
        many = f"; {' to '.join(ends)} training images" if ends else ""
        return f"{len(self.runs)} {_plural('run', len(self.runs))} ({methods}; {which}{many})"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What stands behind a folder of published results.

    Attributes:
        images: of each subfolder that holds networks of ours.
        logged: data set to the runs of others' logs that verdicts name.
        shares: before its first decay each run's batch sharpness, with the ends of its interval, over 2(1−μ)/η.
    """

    images: Mapping[str, tuple[Images, ...]] = field(default_factory=dict)
    logged: Mapping[str, frozenset[str]] = field(default_factory=dict)
    shares: tuple[tuple[float, float, float], ...] = ()

    def data(self, folder: str) -> str:
        """The images of a folder, in words; empty where it holds no network."""
        return listed([str(one) for one in self.images.get(folder, ())])

    @property
    def words(self) -> str:
        """All of it in a few sentences; empty where no network was seen."""
        said = []
        if every := _together(one for found in self.images.values() for one in found):
            said.append(
                f"Networks here saw {listed([f'{one} in {one.counted}' for one in every])}, and nothing larger."
            )
        if self.logged:
            runs = sum(map(len, self.logged.values()))
            names = listed([_TITLES.get(name, name) for name in sorted(self.logged)])
            said.append(
                f"Of {names} there are losses in public logs ({runs} {_plural('run', runs)}), and no curvature."
            )
        if self.shares:
            middle = [share for share, _, _ in self.shares]
            below = sum(high < 1 for *_, high in self.shares)
            said.append(
                f"Before the first decay batch sharpness is {number(min(middle), 2)} to {number(max(middle), 2)} × "
                "the limit 2(1−μ)/η that the decay lifts"
                + (
                    f"; in {below} of {len(self.shares)} runs it is below that limit: by the edge's account nothing "
                    "held curvature down there, and a spike could hardly appear."
                    if below
                    else "."
                )
            )
        return " ".join(said)


def seen_in(folder: Path, results: Mapping[str, Sequence[Verdict]]) -> Seen:
    """What stands behind the verdicts of a folder of results folders.

    Args:
        folder: whose subfolders hold evidence, or none where the numbers are not ours.
        results: name of each subfolder to its verdicts.

    Raises:
        ValueError: if evidence cannot be believed.
    """
    images: dict[str, tuple[Images, ...]] = {}
    logged: dict[str, set[str]] = {}
    shares: list[tuple[float, float, float]] = []
    for name, verdicts in results.items():
        if not (folder / name / "evidence").is_dir():
            for run in {run for verdict in verdicts if verdict.about for run in verdict.about.runs}:
                logged.setdefault(_data_set(run), set()).add(run)
            continue
        records = [
            one
            for one in read_records(folder / name, (TrainingRun, Spectrum, RegimeRun))
            if isinstance(one, (TrainingRun, Spectrum, RegimeRun)) and one.training.network.name != "linear"
        ]
        if records:
            images[name] = _images(records)
            shares.extend(_shares(one for one in records if isinstance(one, Spectrum)))
    return Seen(
        images=images,
        logged={name: frozenset(runs) for name, runs in logged.items() if name},
        shares=tuple(shares),
    )


def _images(records: Iterable[TrainingRun | Spectrum | RegimeRun]) -> tuple[Images, ...]:
    found: dict[tuple[str, tuple[int, int]], list[TrainingRun | Spectrum | RegimeRun]] = {}
    for record in records:
        _, height, width = record.training.network.image_shape
        found.setdefault((record.dataset, (height, width)), []).append(record)
    return tuple(
        Images(
            name=name,
            size=size,
            runs=frozenset((one.method, one.seed, one.run) for one in members),
            sizes=frozenset(
                one.training.data.train_size for one in members if one.training.data.train_size is not None
            ),
        )
        for (name, size), members in sorted(found.items())
    )


def _shares(spectra: Iterable[Spectrum]) -> list[tuple[float, float, float]]:
    """Of the last checkpoint up to the first decay."""
    last: dict[str, Spectrum] = {}
    for one in spectra:
        decays = one.training.decays
        known = last.get(one.label)
        if decays and one.iteration <= decays[0][0] and (known is None or known.iteration < one.iteration):
            last[one.label] = one
    return [
        (found.value / limit, found.low / limit, found.high / limit)
        for found, limit in ((one.sharpness, one.sharpness.small_batch_limit) for one in last.values())
    ]


def _together(found: Iterable[Images]) -> list[Images]:
    """What several folders saw of the same images, as one."""
    merged: dict[tuple[str, tuple[int, int]], Images] = {}
    for one in found:
        known = merged.get((one.name, one.size))
        if known is not None:
            one = Images(name=one.name, size=one.size, runs=known.runs | one.runs, sizes=known.sizes | one.sizes)
        merged[one.name, one.size] = one
    return sorted(merged.values(), key=lambda one: (one.size, one.name))


def _data_set(run: str) -> str:
    """The data set that the name of a log names; empty where it names none that is known."""
    return next((part for part in re.split(r"[^a-z0-9-]+", run.lower()) if part in _TITLES), "")


def _plural(word: str, many: int) -> str:
    return word if many == 1 else f"{word}s"
