"""Claims that the published adversarial-training runs come out of this code: one for each data set and method.

Evidence  ``training`` runs whose protocol is the published one (`empirical.training.reproduction`), one verdict a run.
          Where a folder of our runs has none, the verdict is *not applicable*: untested on that data set by us. The
          claim stays in the table until somebody runs ``python -m empirical reproduce`` and contributes the folder.
Effect    The worst of six window means, (measured − published)/half-width of its band, with twice the standard error of
          the mean over epochs; margin 1: inside every band. The bands were fixed from published runs' spread.
Decoy     The other method's published windows: AT and AWP end 5 to 24 points apart in train robust accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from empirical.claims import EmpiricalClaim, Subject
from empirical.records import Record, TrainingRun
from empirical.settings.data import DATASETS, DatasetName
from empirical.settings.method import MethodName
from empirical.training.reproduction import REFERENCE, Reference, Window, windows_of
from theory.judge.claim import Claim, Compare, Comparison, NotApplicableError
from theory.judge.results import Axis, Band, Estimate, Forest, Sample, Table
from theory.judge.verdict import About, Kind


def _compare(dataset: DatasetName) -> Compare[TrainingRun | None, Reference]:
    def compare(seen: TrainingRun | None, predict: Reference) -> Comparison:
        if seen is None:
            raise NotApplicableError(
                f"untested on {DATASETS[dataset].title} by us: 200 epochs of PreActResNet-18 need a GPU for about an "
                f"hour a run and the data; run `python -m empirical reproduce --dataset {dataset}` and contribute the "
                "folder"
            )
        windows = windows_of(seen.epochs, predict)
        if len(windows) < 6:
            raise NotApplicableError("the log lacks epochs of the published windows")
        worst = max(windows, key=lambda window: abs(window.ratio))
        slack = 2 * worst.standard_error / worst.half_width
        return Comparison(
            estimate=worst.ratio,
            interval=(worst.ratio - slack, worst.ratio + slack),
            note=f"worst window: epochs {worst.first}–{worst.last}, {worst.quantity} accuracy {worst.measured:.2f} % "
            f"against {worst.reference:.2f} ± {worst.half_width}",
            results=(_forest(windows), _table(windows)),
        )

    return compare


def _forest(windows: Sequence[Window]) -> Forest:
    return Forest(
        title="Windows in units of the published band",
        sample=Sample(10, "epochs a window"),
        x=Axis("(measured − published)/half-width"),
        estimates=tuple(
            Estimate(
                category=f"{w.quantity}, epochs {w.first}–{w.last}",
                value=w.ratio,
                low=w.ratio - w.standard_error / w.half_width,
                high=w.ratio + w.standard_error / w.half_width,
                band=Band.STANDARD_ERROR,
            )
            for w in windows
        ),
        margins=(-1.0, 1.0),
        null=0.0,
    )


def _table(windows: Sequence[Window]) -> Table:
    rows = tuple(
        (f"{w.first}–{w.last}", w.quantity, round(w.measured, 2), w.reference, w.half_width, round(w.ratio, 2))
        for w in windows
    )
    columns = ("epochs", "accuracy", "measured %", "published %", "half-width", "deviation / half-width")
    return Table(title="Windows beside the published run", columns=columns, rows=rows)


def _subjects(
    dataset: DatasetName, method: MethodName
) -> Callable[[Sequence[Record]], Iterable[Subject[TrainingRun | None]]]:
    def select(records: Sequence[Record]) -> Iterable[Subject[TrainingRun | None]]:
        ours = [item for item in records if isinstance(item, TrainingRun)]
        found = [item for item in ours if _follows(item, dataset, method)]
        for item in found:
            about = About(
                name=f"{dataset} {method} seed {item.seed}", runs=(item.run,), methods=(method,), seeds=(item.seed,)
            )
            yield Subject(about=about, seen=item, records=(item,))
        if ours and not found:  # a folder of imported logs alone was never meant to hold it
            yield Subject(about=About(name=f"{dataset} {method}"), seen=None, records=(), scope="no run")

    return select


def _follows(item: TrainingRun, dataset: str, method: str) -> bool:
    if (item.dataset, item.method) != (dataset, method):
        return False
    from empirical.training.reproduction import protocol_differences

    return not protocol_differences(item.training, dataset, method)


def _claim(dataset: DatasetName, method: MethodName) -> EmpiricalClaim[TrainingRun | None, Reference]:
    other: MethodName = "awp" if method == "at" else "at"
    return EmpiricalClaim(
        claim=Claim(
            name=f"published-{dataset}-{method}",
            statement=f"Six window means of {method.upper()} on {DATASETS[dataset].title} lie in the bands around the "
            "published run's.",
            source="logs of Wu, Xia & Wang 2020 (PGD-20); protocol of Rice, Wong & Kolter 2020",
            kind=Kind.APPROXIMATION,
            experiments=(TrainingRun.experiment,),
            assumptions=("the published protocol, the decay one iteration early included", "bands as on CIFAR-10"),
            predict=REFERENCE[dataset, method],
            decoys={f"the windows of {other.upper()}": REFERENCE[dataset, other]},
            compare=_compare(dataset),
            margin=1.0,
        ),
        subjects=_subjects(dataset, method),
    )


CLAIMS = tuple(_claim(dataset, method) for dataset, method in REFERENCE)
