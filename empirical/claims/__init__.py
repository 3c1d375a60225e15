"""The register of claims about trained networks, and what each of them is judged on.

A claim about a quadratic is judged once. A claim about networks is judged on every run that a folder holds, on every
pair of runs that differ in the method alone, on every group of data orders: its *subjects*. So an entry of this
register is a `Claim` together with the rule that picks its subjects from whatever records there are.

How to register: a module of this package (one of `MODULES`) exports ``CLAIMS``, a tuple of `EmpiricalClaim`. `collect`
imports the modules when it is called; a module whose dependency is not installed (torch, ruptures) is reported, not
fatal. A claim *name* may be listed by one module only; how the statement is judged on runs, pairs and groups is the
affair of that claim's `compare`, which receives what its subjects hold: typed records, in fields of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from empirical.records import LoggedRun, Record, TrainingRun
from empirical.records.run import Measured
from empirical.settings import Training
from empirical.settings.controls import control_of
from theory.judge.claim import Claim, Rule, Seen, digests
from theory.judge.front import EXTRAS
from theory.judge.verdict import About, Outcome, Verdict

#: The claim about networks for which the theory must hold; its verdicts are what all others are held against.
CONTROL = "control"
#: Tag of all claims about controls: they are not held against themselves.
CONTROL_TAG = "control"
#: Modules that may hold claims, in the order of their columns in the table of verdicts.
MODULES = (
    "ladder",
    "paths",
    "saddles",
    "logs",
    "training",
    "spectra",
    "attributions",
    "posterior",
    "separations",
    "regimes",
    "edge",
)


@dataclass(frozen=True, kw_only=True)
class Subject(Generic[Seen]):
    """What one verdict is about.

    Args:
        about: which runs, which decay, in fields.
        seen: what the claim's comparison reads.
        records: everything behind it.
        scope: what the verdict may be said of, such as ``"this run only"``; opens the verdict's note.
    """

    about: About
    seen: Seen
    records: tuple[Record, ...]
    scope: str = "this run only"


Selected: TypeAlias = Callable[[Sequence[Record]], Iterable[Subject[Seen]]]


@dataclass(frozen=True, kw_only=True)
class EmpiricalClaim(Generic[Seen, Rule]):
    """A claim and the rule that picks its subjects from a folder's records.

    Args:
        claim: the statement, its rule, decoys and comparison.
        subjects: all records of a folder to the subjects to judge; none means the folder cannot speak to the claim.
    """

    claim: Claim[Seen, Rule]
    subjects: Selected[Seen]

    def subjects_in(self, records: Sequence[Record]) -> Iterable[Subject[Seen]]:
        """The subjects in a folder: of a claim about networks never a control, which proves the instrument alone."""
        if CONTROL_TAG not in self.claim.tags:
            records = [item for item in records if not _of_a_control(item)]
        return self.subjects(records)

    def judge(self, subject: Subject[Seen]) -> Verdict:
        """The verdict on one subject."""
        verdict = self.claim.judge_on(subject.seen, subject.records)
        note = f"{subject.scope}: {verdict.note}" if verdict.note else subject.scope
        return dataclasses.replace(verdict, about=subject.about, note=note)


def _of_a_control(item: Record) -> bool:
    return isinstance(item, (Measured, TrainingRun)) and _is_control(item.training)


@functools.cache
def _is_control(training: Training) -> bool:
    return control_of(training) is not None


@dataclass(frozen=True, kw_only=True)
class Register:
    """Every claim that could be loaded, and a line for each module that could not."""

    claims: tuple[EmpiricalClaim[Any, Any], ...]
    missing: tuple[str, ...]


Kind = TypeVar("Kind", bound=Record)


def each_record(kind: type[Kind], about: Callable[[Kind], About]) -> Selected[Kind]:
    """A selector: one subject for each record of a kind."""

    def select(records: Sequence[Record]) -> Iterable[Subject[Kind]]:
        for item in records:
            if isinstance(item, kind):
                yield Subject(about=about(item), seen=item, records=(item,))

    return select


def collect(modules: Iterable[str] = MODULES) -> Register:
    """Load the claims of the named modules.

    Raises:
        ValueError: if two entries carry one name.
    """
    claims: list[EmpiricalClaim[Any, Any]] = []
    missing: list[str] = []
    for name in modules:
        full_name = f"{__name__}.{name}"
        try:
            module = importlib.import_module(full_name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in EXTRAS:  # one of ours: a fault, not a smaller register
                raise
            missing.append(f"claims of {full_name}: needs {error.name!r}")
            continue
        claims.extend(module.CLAIMS)
    names = [entry.claim.name for entry in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the register must name each empirical claim once; twice: {twice}.")
    return Register(claims=tuple(claims), missing=tuple(missing))


def held_against_controls(verdicts: Iterable[Verdict], records: Iterable[Record]) -> tuple[Verdict, ...]:
    """The same verdicts, each with whether the instrument behind it was seen to confirm what must hold.

    A verdict on something *measured* in a network is verified if the records hold at least one run for which the claim
    `CONTROL` was judged, and all its verdicts are supported: one that does not apply to its run shows nothing. What is
    said of a control itself, or of the losses that a log holds, no control concerns.

    Args:
        verdicts: all of a folder's.
        records: all of that folder's.
    """
    verdicts = tuple(verdicts)
    measured = {item.run_id for item in records if not isinstance(item, (LoggedRun, TrainingRun))}
    own = {entry.claim.name for entry in collect().claims if CONTROL_TAG in entry.claim.tags} | {CONTROL}
    controls = [verdict.outcome is Outcome.SUPPORTED for verdict in verdicts if verdict.claim == CONTROL]
    holds = bool(controls) and all(controls)
    return tuple(
        dataclasses.replace(
            verdict,
            verified=holds if verdict.claim not in own and measured.intersection(verdict.evidence) else None,
        )
        for verdict in verdicts
    )


@functools.cache
def registered() -> dict[str, str]:
    """Name to digest of every claim about networks that this process knows, for the provenance of what it measures.

    Call it before measuring begins: the claims are those of that moment, whatever happens to their source meanwhile.
    """
    return digests(entry.claim for entry in collect().claims)
