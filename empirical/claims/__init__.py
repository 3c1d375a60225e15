"""The register of claims about trained networks, and what each of them is judged on.

A claim about a quadratic is judged once. A claim about networks is judged on every run that a folder holds, on every
pair of runs that differ in the method alone, on every group of data orders: its *subjects*. So an entry of this
register is a `Claim` together with the rule that picks its subjects from whatever evidence there is.

How to register: a module of this package (one of `MODULES`) exports ``CLAIMS``, a tuple of `EmpiricalClaim`. A bare
`Claim` that reads one experiment is taken as "each run of that experiment". `collect` imports the modules when it is
called; a module whose dependency is not installed (torch, ruptures) is reported, not fatal.
A claim *name* may be listed by one module only; how the statement is judged on runs, pairs and groups is the affair
of that claim's `compare`, which receives the subject's evidence under the subject's keys.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from theory.judge.claim import Claim
from theory.judge.evidence import Evidence
from theory.judge.front import EXTRAS
from theory.judge.verdict import Verdict

#: Modules that may hold claims, in the order of their columns in the table of verdicts.
MODULES = ("logs", "training", "spectra", "posterior", "regimes")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What one verdict is about.

    Args:
        label: how the reader knows it: a run's name, or the names of a pair or group.
        evidence: role (or experiment, or run) to evidence; passed to `Claim.judge`.
        scope: what the verdict may be said of, such as ``"this run only"``; opens the verdict's note.
    """

    label: str
    evidence: Mapping[str, Evidence]
    scope: str = "this run only"


Selector = Callable[[Sequence[Evidence]], Iterable[Subject]]


@dataclass(frozen=True, kw_only=True)
class EmpiricalClaim:
    """A claim and the rule that picks its subjects from a folder's evidence.

    Args:
        claim: the statement, its predictor, decoys and comparison.
        subjects: all evidence of a folder to the subjects to judge; none means the folder cannot speak to the claim.
    """

    claim: Claim
    subjects: Selector

    def judge(self, subject: Subject) -> Verdict:
        """The verdict on one subject, labelled with it."""
        # `Claim.judge` hands on the experiments it names; here the subject's roles take their place.
        claim = dataclasses.replace(self.claim, experiments=tuple(subject.evidence))
        verdict = claim.judge(subject.evidence)
        note = f"{subject.scope}: {verdict.note}" if verdict.note else subject.scope
        return dataclasses.replace(verdict, subject=subject.label, note=note)


@dataclass(frozen=True, kw_only=True)
class Register:
    """Every claim that could be loaded, and a line for each module that could not."""

    claims: tuple[EmpiricalClaim, ...]
    missing: tuple[str, ...]


def each_run(*experiments: str, label: Callable[[Evidence], str] = lambda item: item.run_id) -> Selector:
    """A selector: one subject for each run of the named experiments, under the experiment's name."""

    def select(evidence: Sequence[Evidence]) -> Iterable[Subject]:
        for item in evidence:
            if item.experiment in experiments:
                yield Subject(label=label(item), evidence={item.experiment: item})

    return select


def collect(modules: Iterable[str] = MODULES) -> Register:
    """Load the claims of the named modules.

    Raises:
        ValueError: if two entries carry one name, or a bare `Claim` reads several experiments.
    """
    claims: list[EmpiricalClaim] = []
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
        claims.extend(_entry(item) for item in module.CLAIMS)
    names = [entry.claim.name for entry in claims]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the register must name each empirical claim once; twice: {twice}.")
    return Register(claims=tuple(claims), missing=tuple(missing))


def _entry(item: EmpiricalClaim | Claim) -> EmpiricalClaim:
    if isinstance(item, EmpiricalClaim):
        return item
    if len(item.experiments) != 1:
        raise ValueError(
            f"`EmpiricalClaim(subjects=...)` must say how evidence of {len(item.experiments)} experiments "
            f"is put together for the claim {item.name!r}."
        )
    return EmpiricalClaim(claim=item, subjects=each_run(*item.experiments))
