r"""The noun *Claim*: a prediction fixed before the data, with the decoy that the same evidence must refute.

A claim owns a rule, a predictor or a selector, and a way to compare evidence with it. Its decoys own rules of the same
type alone, and are compared with the same evidence by the same code: whatever a claim and its decoy disagree on is the
formula, or the choice.

Decision  identity with a p-value      refuted iff p ≤ FAMILY_ALPHA / FAMILY_SIZE; supported iff not refuted and the
                                       required degrees of freedom were reached; otherwise inconclusive
          numerical identity, approximation   the interval of the error against ±margin: inside supported, outside
                                       refuted, straddling inconclusive
          hypothesis                   the interval of the effect against the margin it must exceed
Family    FAMILY_SIZE slots are shared out over all registered tests once and for all (Bonferroni): a verdict does not
          depend on which claims were selected, nor change when a claim is added while slots last.
Standing  a definition has a digest (`Claim.digest`), and what is measured records the digests of its day. A verdict is
          *confirmatory* if all evidence behind it knows the definition that it was judged by, else *exploratory*.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

from theory.judge.evidence import Evidence
from theory.judge.results import Result
from theory.judge.statistics import miss_chance, normal_quantile, required_degrees
from theory.judge.verdict import DecoyVerdict, Kind, Outcome, Standing, Verdict, finite

#: Chance that any registered identity or approximation is refuted although all are true.
FAMILY_ALPHA = 1e-6
#: Number of elementary tests the family has room for.
FAMILY_SIZE = 10_000
#: Two-sided level of one elementary test.
TEST_ALPHA = FAMILY_ALPHA / FAMILY_SIZE
#: Chance that a decoy wrong by the stated amount escapes.
MISS = 1e-6
#: Level of the intervals of hypotheses about the world, where families are small and evidence dear.
HYPOTHESIS_ALPHA = 0.05
#: Chance at which the power of a refuted hypothesis is stated.
POWER = 0.9

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
#: What the formula under test says of a Setting: ``Predictor[[Simulation], NDArray]``.
Predictor: TypeAlias = Callable[_Given, _Found]
#: Which parts of a record are compared, such as the checkpoints around a decay; it predicts nothing.
Selector: TypeAlias = Callable[_Given, _Found]
#: The type that a claim's rule, its decoys' rules and its comparison have in common.
Rule = TypeVar("Rule")
#: What a claim's comparison sees: evidence by experiment, or typed records of runs.
Seen = TypeVar("Seen")
Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A way to make evidence: a Setting for each budget, and the code that runs it.

    Args:
        name: folder name of its evidence.
        title: what it does, in one line.
        setting: budget (``"default"`` or ``"full"``) to Setting.
        run: (Setting, seed, progress) to (measured JSON values, arrays).

    Raises:
        ValueError: if the name cannot be a folder's.
    """

    name: str
    title: str
    setting: Callable[[str], Any]
    run: Callable[[Any, int, Progress], tuple[Mapping[str, Any], Mapping[str, Any]]]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                f"`Experiment(name=...)` must be a folder name of letters, digits, . _ -; got {self.name!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Evidence against one prediction.

    Args:
        estimate: headline number, usually the worst relative error found.
        interval: its simultaneous interval.
        p_value: smallest p-value over the elementary tests (not yet corrected), where the claim is a test.
        num_tests: number of elementary tests behind it.
        reached: effective degrees of freedom of the weakest test; those needed follow from what the claim detects.
        not_applicable: reason, if the evidence cannot speak to the claim.
        note: one line for the reader.
        results: what a reader would want to see.
    """

    estimate: float
    interval: tuple[float, float]
    p_value: float | None = None
    num_tests: int = 1
    reached: float | None = None
    not_applicable: str = ""
    note: str = ""
    results: tuple[Result, ...] = ()


Compare: TypeAlias = Callable[[Seen, Rule], Comparison]


class Measured(Protocol):
    """What a verdict may rest on: `Evidence`, or a typed record of a run."""

    @property
    def run_id(self) -> str:
        """Name of the evidence."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Who measured it, and which claims were registered then."""
        ...


class NotApplicableError(Exception):
    """What is seen cannot speak to the claim: the reason, and what is worth showing all the same."""

    def __init__(self, reason: str, *results: Result) -> None:
        super().__init__(reason)
        self.results = results


@dataclass(frozen=True, kw_only=True)
class Claim(Generic[Seen, Rule]):
    """A statement with the rule it makes, its decoys, and the way in which evidence decides.

    Args:
        name: stable id.
        statement: the prediction in one line, with its equation.
        source: where it comes from.
        kind: how it is judged.
        experiments: names of the experiments whose evidence it reads.
        assumptions: what it needs.
        decoys: name to a wrong rule, a predictor or a selector as the claim's own; at least one.
        compare: (what is seen, rule) to `Comparison`; may raise `NotApplicableError`.
        predict: the predictor.
        select: in its place where nothing is predicted: the selector.
        num_tests: slots it takes of the family.
        detects: relative error that every test of an identity must find with a miss chance of at most `MISS`.
        margin: half-width of the equivalence region, or the effect a hypothesis must exceed.
        boundary: for a statement just outside the region of another claim, which is meant to be refuted: that region.
        windows: which parts of a run are compared, fixed beforehand: steps, epochs, checkpoints.
        tags: groups that it belongs to.

    Raises:
        ValueError: if there is no decoy, not exactly one of predictor and selector, an approximation has no margin, or
            an identity neither a margin nor an error that it detects.
    """

    name: str
    statement: str
    source: str
    kind: Kind
    experiments: tuple[str, ...]
    assumptions: tuple[str, ...]
    decoys: Mapping[str, Rule]
    compare: Compare[Seen, Rule]
    predict: Rule | None = None
    select: Rule | None = None
    num_tests: int = 1
    detects: float | None = None
    margin: float | None = None
    boundary: str = ""
    windows: tuple[str, ...] = ()
    tags: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.decoys:
            raise ValueError(f"`Claim({self.name!r}, decoys=...)` must name at least one decoy; got none.")
        if (self.predict is None) == (self.select is None):
            raise ValueError(f"`Claim({self.name!r})` must have one of `predict` and `select`.")
        if self.kind is Kind.APPROXIMATION and self.margin is None:
            raise ValueError(f"`Claim({self.name!r}, margin=...)` must be declared for an approximation; got None.")
        if self.kind is Kind.IDENTITY and self.margin is None and self.detects is None:
            raise ValueError(f"`Claim({self.name!r}, detects=...)` must be declared for an identity; got None.")
        if self.detects is not None and not 0 < self.detects < 1:
            raise ValueError(f"`Claim({self.name!r}, detects=...)` must be in (0, 1); got {self.detects}.")

    @property
    def rule(self) -> Rule:
        """The predictor or the selector: what the evidence is compared with."""
        found = self.select if self.predict is None else self.predict
        assert found is not None  # __post_init__ saw to it
        return found

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of SHA-256 over what defines the claim.

        These are its name, statement, kind, margin or error detected, level, assumptions, windows, and the decoys'
        names: what a reader was promised, and not how the code that keeps the promise is laid out.
        """
        definition = {
            "name": self.name,
            "statement": self.statement,
            "kind": self.kind.value,
            "margin": self.margin,
            "detects": self.detects,
            "level": self._level,
            "assumptions": list(self.assumptions),
            "windows": list(self.windows),
            "decoys": sorted(self.decoys),
        }
        canonical = json.dumps(definition, sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def standing(self, behind: Iterable[Measured]) -> Standing:
        """Whether all evidence behind a verdict was measured with this very definition registered; none is no proof."""
        known = [item.provenance.get("claims", {}).get(self.name) == self.digest for item in behind]
        return Standing.CONFIRMATORY if known and all(known) else Standing.EXPLORATORY

    @property
    def _level(self) -> float:
        return HYPOTHESIS_ALPHA if self.kind is Kind.HYPOTHESIS else TEST_ALPHA

    def judge(self: Claim[Mapping[str, Evidence], Rule], evidence: Mapping[str, Evidence]) -> Verdict:
        """Compare the evidence of the experiments that the claim names with the claim and with each decoy.

        Raises:
            ValueError: if evidence of a needed experiment is missing, or more tests were made than registered.
        """
        missing = [name for name in self.experiments if name not in evidence]
        if missing:
            raise ValueError(f"`Claim({self.name!r}).judge(evidence=...)` needs the experiments {missing}.")
        seen = {name: evidence[name] for name in self.experiments}
        return self.judge_on(seen, tuple(seen.values()))

    def judge_on(self, seen: Seen, behind: Iterable[Measured]) -> Verdict:
        """Compare what is seen with the claim and with each decoy.

        Args:
            seen: as the comparison takes it.
            behind: everything that was measured for it.

        Raises:
            ValueError: if more tests were made than registered.
        """
        behind = tuple(behind)
        comparison = self._compared(seen, self.rule)
        if comparison.num_tests > self.num_tests:
            raise ValueError(
                f"`Claim({self.name!r}, num_tests=...)` must cover every test made; "
                f"registered {self.num_tests}, made {comparison.num_tests}."
            )
        outcome = self._outcome(comparison)
        decoys: list[DecoyVerdict] = []
        notes = [comparison.not_applicable or comparison.note]
        if outcome is not Outcome.NOT_APPLICABLE:
            for name, decoy in self.decoys.items():
                found = self._compared(seen, decoy)
                decoys.append(
                    DecoyVerdict(
                        name=name,
                        outcome=self._outcome(found),
                        estimate=finite(found.estimate),
                        interval=(finite(found.interval[0]), finite(found.interval[1])),
                        p_value=found.p_value,
                    )
                )
            escaped = [decoy.name for decoy in decoys if decoy.outcome is not Outcome.REFUTED]
            if escaped and outcome is Outcome.SUPPORTED:
                outcome = Outcome.INCONCLUSIVE
                notes.append(f"the evidence has no power against the decoy {', '.join(escaped)}")
            elif escaped and outcome is Outcome.REFUTED and self.kind is Kind.HYPOTHESIS and self.margin is not None:
                found = detectable(comparison.interval, self.margin)
                notes.append(f"power: an effect of {found:.3g} would have been supported with chance {POWER:g}")
        return Verdict(
            claim=self.name,
            statement=self.statement,
            source=self.source,
            kind=self.kind,
            outcome=outcome,
            estimate=finite(comparison.estimate),
            interval=(finite(comparison.interval[0]), finite(comparison.interval[1])),
            tolerance=self.margin if self.margin is not None else self.detects,
            alpha=self._level,
            power=self._power(comparison),
            p_value=comparison.p_value,
            num_tests=comparison.num_tests,
            reached=finite(comparison.reached),
            required=None if comparison.p_value is None else self._required(),
            decoys=tuple(decoys),
            assumptions=self.assumptions,
            evidence=tuple(item.run_id for item in behind),
            note="; ".join(note for note in notes if note),
            results=comparison.results,
            boundary=self.boundary,
            definition=self.digest,
            standing=self.standing(behind),
        )

    def _compared(self, seen: Seen, rule: Rule) -> Comparison:
        try:
            return self.compare(seen, rule)
        except NotApplicableError as reason:
            return Comparison(
                estimate=math.nan, interval=(math.nan, math.nan), not_applicable=str(reason), results=reason.results
            )

    def _outcome(self, comparison: Comparison) -> Outcome:
        if comparison.not_applicable:
            return Outcome.NOT_APPLICABLE
        if self.kind is Kind.IDENTITY and comparison.p_value is not None:
            return decide_identity(comparison, self._detected())
        if self.margin is None:
            raise ValueError(f"`Claim({self.name!r}, margin=...)` must be declared where no test is made.")
        if self.kind is Kind.HYPOTHESIS:
            return decide_hypothesis(comparison.interval, self.margin)
        return classify(comparison.interval, self.margin)

    def _detected(self) -> float:
        if self.detects is None:
            raise ValueError(f"`Claim({self.name!r}, detects=...)` must be declared where a test is made.")
        return self.detects

    def _required(self) -> float | None:
        return None if self.detects is None else needed_degrees(self.detects)

    def _power(self, comparison: Comparison) -> float | None:
        """Chance that the weakest test finds the error that the claim detects, with the sample it has."""
        if comparison.p_value is None or comparison.reached is None or self.detects is None:
            return None
        return 1.0 - miss_chance(self.detects, comparison.reached, TEST_ALPHA)


def decide_identity(comparison: Comparison, detects: float) -> Outcome:
    """Reject-the-null, with support earned by the sample that finds a relative error of `detects`."""
    if comparison.p_value is None or not 0 <= comparison.p_value <= 1:
        raise ValueError(f"`Comparison(p_value=...)` must be in [0, 1]; got {comparison.p_value}.")
    if comparison.p_value <= TEST_ALPHA:
        return Outcome.REFUTED
    if comparison.reached is None or not comparison.reached > 0:
        raise ValueError(f"`Comparison(reached=...)` must be > 0 where a test is made; got {comparison.reached}.")
    return Outcome.SUPPORTED if comparison.reached >= needed_degrees(detects) else Outcome.INCONCLUSIVE


def classify(interval: tuple[float, float], margin: float) -> Outcome:
    """Three-way equivalence decision; as calibrated as the interval it is given.

    Raises:
        ValueError: if the interval is not ordered, or NaN.
    """
    low, high = interval
    if not low <= high:
        raise ValueError(f"`Comparison(interval=...)` must be ordered; got {interval}.")
    if -margin <= low and high <= margin:
        return Outcome.SUPPORTED
    if high < -margin or low > margin:
        return Outcome.REFUTED
    return Outcome.INCONCLUSIVE


def decide_hypothesis(interval: tuple[float, float], margin: float) -> Outcome:
    """The effect exceeds the margin, falls short of it, or the interval straddles it."""
    low, high = interval
    if not low <= high:
        raise ValueError(f"`Comparison(interval=...)` must be ordered; got {interval}.")
    if low > margin:
        return Outcome.SUPPORTED
    return Outcome.REFUTED if high < margin else Outcome.INCONCLUSIVE


def detectable(interval: tuple[float, float], margin: float) -> float:
    """The effect that evidence with an interval of this width supports with chance `POWER`, to leading order."""
    reach = (interval[1] - interval[0]) / 2
    return margin + reach * (1 + normal_quantile(2 * (1 - POWER)) / normal_quantile(HYPOTHESIS_ALPHA))


@functools.cache
def needed_degrees(detects: float) -> float:
    """Effective degrees of freedom at which one test of the family misses a relative error `detects` by `MISS`."""
    if not (detects > 0 and math.isfinite(detects)):
        raise ValueError(f"`needed_degrees(detects=...)` must be > 0; got {detects}.")
    return required_degrees(detects, TEST_ALPHA, MISS)


def digests(claims: Iterable[Claim[Any, Any]]) -> dict[str, str]:
    """Name to digest: what evidence keeps, under ``claims`` in its provenance, of the register of its day."""
    return {claim.name: claim.digest for claim in claims}


def check_register(claims: Iterable[Claim[Any, Any]], experiments: Iterable[Experiment]) -> None:
    """Names are unique, every experiment is known, and the family has room.

    Raises:
        ValueError: naming what is wrong.
    """
    claims, known = tuple(claims), [experiment.name for experiment in experiments]
    names = [claim.name for claim in claims]
    for kind, listed in (("claim", names), ("experiment", known)):
        twice = sorted({name for name in listed if listed.count(name) > 1})
        if twice:
            raise ValueError(f"the register must name each {kind} once; twice: {twice}.")
    unknown = sorted({name for claim in claims for name in claim.experiments} - set(known))
    if unknown:
        raise ValueError(f"the register must know every experiment; unknown: {unknown}.")
    tests = sum(claim.num_tests for claim in claims if claim.kind is not Kind.HYPOTHESIS)
    if tests > FAMILY_SIZE:
        raise ValueError(f"the register has room for {FAMILY_SIZE} tests; its claims make {tests}.")
