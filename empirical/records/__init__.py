"""Typed records: one frozen, validated, torch-free type for each experiment's evidence, written and read by one path.

    >>> from empirical.records import Spectrum, read_records
    >>> spectra = [item for item in read_records("reports/local/run") if isinstance(item, Spectrum)]  # doctest: +SKIP

Measuring code makes records, claims consume them; `base` says what may stand in a field and how it is checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from empirical.records.base import Part, Record
from empirical.records.bound import BoundOverTraining
from empirical.records.curvature_change import CurvatureAttribution
from empirical.records.dynamics import Ensemble, Expansion, Trajectory
from empirical.records.log import LoggedRun
from empirical.records.regime import RegimeRun
from empirical.records.robustness import RobustAccuracy
from empirical.records.separation import Separation
from empirical.records.spectrum import Spectrum
from empirical.records.training import TrainingRun
from theory.judge.evidence import Evidence, read_evidence

__all__ = [
    "EXPERIMENTS",
    "BoundOverTraining",
    "CurvatureAttribution",
    "Ensemble",
    "Expansion",
    "LoggedRun",
    "Part",
    "Record",
    "RegimeRun",
    "RobustAccuracy",
    "Separation",
    "Spectrum",
    "TrainingRun",
    "Trajectory",
    "read_records",
    "record_of",
    "records_among",
]

#: Experiment to the type of its records.
EXPERIMENTS: dict[str, type[Record]] = {
    kind.experiment: kind
    for kind in (
        TrainingRun,
        Spectrum,
        BoundOverTraining,
        Ensemble,
        Separation,
        Trajectory,
        Expansion,
        CurvatureAttribution,
        RobustAccuracy,
        LoggedRun,
        RegimeRun,
    )
}


def record_of(evidence: Evidence) -> Record:
    """The record in a file of evidence.

    Raises:
        ValueError: one line that names the file, the field and the rule; or an experiment that is none of ours.
    """
    kind = EXPERIMENTS.get(evidence.experiment)
    if kind is None:
        raise ValueError(
            f"evidence/{evidence.experiment}/{evidence.run_id}.json must be of one of the experiments "
            f"{', '.join(sorted(EXPERIMENTS))}."
        )
    return kind.from_evidence(evidence)


def read_records(out: str | Path, kinds: Iterable[type[Record]] | None = None) -> tuple[Record, ...]:
    """All records of training runs under `out`, in the order of their paths; `kinds` keeps those named.

    Evidence of other experiments, such as the theory's, is not of a training run and is left out.

    Raises:
        ValueError: if the folder holds no evidence, or a file cannot be believed.
    """
    wanted = EXPERIMENTS if kinds is None else {kind.experiment for kind in kinds}
    return records_among(read_evidence(out, wanted))


def records_among(evidence: Iterable[Evidence]) -> tuple[Record, ...]:
    """The records of training runs among evidence of any experiment.

    Raises:
        ValueError: as `record_of`.
    """
    return tuple(record_of(item) for item in evidence if item.experiment in EXPERIMENTS)
