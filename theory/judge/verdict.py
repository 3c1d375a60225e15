"""The noun *Verdict*, and the exit status of a list of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from theory.judge.evidence import Evidence, plain, read_evidence
from theory.judge.files import atomic_write
from theory.judge.reading import entry, is_mapping, is_sequence, read_json
from theory.judge.results import Result, read_result

#: Of ``verdicts.json``; a file of another schema is not read.
SCHEMA = 2


class Kind(StrEnum):
    """How a claim is judged, and what its refutation means."""

    IDENTITY = "identity"  # exact under its assumptions: a refutation is an error of ours
    APPROXIMATION = "approximation"  # within a margin, in a region, both fixed beforehand
    HYPOTHESIS = "hypothesis"  # a statement about the world: a refutation is a finding


class Outcome(StrEnum):
    """What the evidence says."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not applicable"


class Standing(StrEnum):
    """Whether the claim was there before the evidence."""

    CONFIRMATORY = "confirmatory"  # all evidence behind the verdict knows the definition by which it was judged
    EXPLORATORY = "exploratory"


@dataclass(frozen=True, kw_only=True)
class DecoyVerdict:
    """What the same evidence says of a plausible wrong formula; the claim needs it refuted."""

    name: str
    outcome: Outcome
    estimate: float | None
    interval: tuple[float | None, float | None]
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class About:
    """What a verdict is about, where one claim is judged on several things; every part of it in a field of its own.

    Args:
        name: how readers know the run, the pair or the group.
        runs: names of the runs behind it.
        methods: of each of them, where known.
        seeds: of each of them.
        decay: which decay of the learning rate, counted from 1; None: the whole run.
        epoch: completed epochs of the checkpoint it is about; None: the whole run.
        against: the run, or the method, that it is compared with; None: nothing.
        pooled: whether it sums up runs, or pairs, that have verdicts of their own: it is no further run.
    """

    name: str
    runs: tuple[str, ...] = ()
    methods: tuple[str | None, ...] = ()
    seeds: tuple[int, ...] = ()
    decay: int | None = None
    epoch: int | None = None
    against: str | None = None
    pooled: bool = False

    @property
    def part(self) -> str:
        """Which part of the run, or what it is compared with, in words; empty for the run itself."""
        named = (("decay", self.decay), ("epoch", self.epoch), ("against", self.against))
        return ", ".join(f"{word} {which}" for word, which in named if which is not None)

    def __str__(self) -> str:
        return f"{self.name} · {self.part}" if self.part else self.name


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim judged: outcome, headline estimate with its interval, the test's level and power, and the decoys."""

    claim: str
    statement: str
    source: str
    kind: Kind
    outcome: Outcome
    estimate: float | None
    interval: tuple[float | None, float | None]
    tolerance: float | None
    alpha: float
    power: float | None
    p_value: float | None
    num_tests: int
    reached: float | None
    required: float | None
    decoys: tuple[DecoyVerdict, ...]
    assumptions: tuple[str, ...]
    evidence: tuple[str, ...]
    note: str
    results: tuple[Result, ...] = ()
    boundary: str = ""  # the region that ends here, where the claim lies just outside it and is meant to be refuted
    about: About | None = None  # None where the claim is judged once
    stale: str = ""  # why judging again might say something else; nothing where it would not
    definition: str = ""  # digest of the claim's definition
    standing: Standing = Standing.EXPLORATORY
    verified: bool | None = None  # whether the controls of its folder hold; None where controls do not concern it

    @property
    def remark(self) -> str:
        """Note and staleness as one line."""
        return "; ".join(part for part in (self.note, f"not up to date: {self.stale}" if self.stale else "") if part)

    @property
    def qualification(self) -> str:
        """Confirmatory or exploratory, and unverified where the controls do not hold."""
        return self.standing.value + (", unverified" if self.verified is False else "")

    @property
    def subject(self) -> str:
        """What it is about, in words; empty where the claim is judged once."""
        return "" if self.about is None else str(self.about)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields = plain(dataclasses.asdict(self))
        fields["decoy"] = fields.pop("decoys")
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Verdict:
        """The verdict that `to_dict` described.

        Raises:
            ValueError: if a field is missing or unknown.
        """
        try:
            # What was judged before these fields were there knew of no digest, and of no control.
            fields = {"stale": "", "definition": "", "standing": "exploratory", "verified": None, **fields}
            _check_fields(fields, _VERDICT_FIELDS)
            for item in fields["decoy"]:
                _check_fields(item, _DECOY_FIELDS)
            decoys = tuple(_read_decoy(item) for item in fields.pop("decoy"))
            results = tuple(read_result(item) for item in fields.pop("results"))
            fields["about"] = _read_about(fields["about"])
            fields.update(
                kind=Kind(fields["kind"]),
                outcome=Outcome(fields["outcome"]),
                standing=Standing(fields["standing"]),
                interval=tuple(fields["interval"]),
                assumptions=tuple(fields["assumptions"]),
                evidence=tuple(fields["evidence"]),
            )
            return cls(**fields, decoys=decoys, results=results)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`Verdict.from_dict` needs the fields of a verdict; {error!r} is wrong.") from None


_TEXT = (str,)
_NUMBER = (int, float)
_NUMBER_OR_NULL = (int, float, type(None))
_DECOY_FIELDS: Mapping[str, tuple[type, ...]] = {
    "name": _TEXT,
    "outcome": _TEXT,
    "estimate": _NUMBER_OR_NULL,
    "interval": (list, tuple),
    "p_value": _NUMBER_OR_NULL,
}
_VERDICT_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("claim", "statement", "source", "kind", "outcome", "note", "stale"), _TEXT),
    **dict.fromkeys(("definition", "standing"), _TEXT),
    "verified": (bool, type(None)),
    **dict.fromkeys(("estimate", "tolerance", "power", "p_value", "reached", "required"), _NUMBER_OR_NULL),
    **dict.fromkeys(("interval", "decoy", "assumptions", "evidence", "results"), (list, tuple)),
    "alpha": _NUMBER,
    "num_tests": (int,),
    "about": (dict, type(None)),
}
#: What numbers a test can give.
_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("alpha", "power", "p_value"), (0.0, 1.0)),
    **dict.fromkeys(("reached", "required"), (0.0, math.inf)),
    "num_tests": (0, math.inf),
}
_ABOUT_FIELDS: Mapping[str, tuple[type, ...]] = {
    "name": _TEXT,
    **dict.fromkeys(("runs", "methods", "seeds"), (list, tuple)),
    **dict.fromkeys(("decay", "epoch"), (int, type(None))),
    "against": (str, type(None)),
    "pooled": (bool,),
}


def _read_decoy(item: Mapping[str, Any]) -> DecoyVerdict:
    fields: dict[str, Any] = {**item, "outcome": Outcome(item["outcome"]), "interval": tuple(item["interval"])}
    return DecoyVerdict(**fields)


def _read_about(fields: Mapping[str, Any] | None) -> About | None:
    if fields is None:
        return None
    fields = {"pooled": False, **fields}  # files written before the field was there
    for name, kind in _ABOUT_FIELDS.items():
        entry(fields, name, kind, "what a verdict is about")
    made: dict[str, Any] = {**fields, **{name: tuple(fields[name]) for name in ("runs", "methods", "seeds")}}
    return About(**made)


def _check_fields(fields: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> None:
    """Every field is there, of its type; lists hold what they should."""
    for name, kind in kinds.items():
        value = entry(fields, name, kind, "a verdict")
        low, high = _RANGES.get(name, (-math.inf, math.inf))
        if value is not None and name in _RANGES and not low <= value <= high:
            raise ValueError(f"a verdict, field {name!r}, must lie in [{low:g}, {high:g}]; got {value:g}.")
    low_high = fields["interval"]
    ends = [end for end in low_high if end is None or (isinstance(end, (int, float)) and not isinstance(end, bool))]
    if len(low_high) != 2 or len(ends) != 2:
        raise ValueError(f"a verdict, field 'interval', must be two numbers or nulls; got {low_high!r:.60}.")
    for name in {"assumptions", "evidence"} & set(kinds):
        if not all(isinstance(item, str) for item in fields[name]):
            raise ValueError(f"a verdict, field {name!r}, must be a list of strings.")


def write_verdicts(verdicts: Sequence[Verdict], out: Path) -> Path:
    """Write ``verdicts.json`` under `out`, whole or not at all; verdicts may be judged again, evidence may not."""
    path = out / "verdicts.json"
    fields = (
        ",\n".join(f"   {_text(name)}: {_text(value)}" for name, value in one.to_dict().items()) for one in verdicts
    )
    each = ",\n".join(f"  {{\n{lines}\n  }}" for lines in fields)
    text = f'{{\n "schema": {SCHEMA},\n "verdicts": [\n{each}\n ]\n}}\n'
    atomic_write(path, text.encode(), overwrite=True)
    return path


def _text(value: Any) -> str:
    """JSON on one line: a field a line is what a difference of two files shows, and curves take no line a number."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def read_verdicts(path: Path) -> tuple[Verdict, ...]:
    """Read ``verdicts.json``.

    Raises:
        ValueError: if the file is missing, is not JSON, is of another schema, or holds no verdicts.
    """
    path = Path(path)
    record = read_json(path, f"`read_verdicts(path={str(path)!r})`")
    if isinstance(record, list):
        raise ValueError(f"{path} is of an older schema, 1; this is schema {SCHEMA}: judge its evidence again.")
    if not is_mapping(record) or record.get("schema") != SCHEMA or not is_sequence(record.get("verdicts")):
        found = record.get("schema") if is_mapping(record) else type(record).__name__
        raise ValueError(f"`read_verdicts(path=...)` must hold verdicts of schema {SCHEMA}; got {found!r} in {path}.")
    try:
        return tuple(Verdict.from_dict(item) for item in record["verdicts"])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def read_folder(folder: Path) -> tuple[Verdict, ...]:
    """The verdicts of a results folder, if they can be believed: `read_judged` without the evidence."""
    return read_judged(folder)[0]


def read_judged(folder: Path) -> tuple[tuple[Verdict, ...], dict[str, Evidence]]:
    """The verdicts of a results folder and the evidence recorded there, by run-id; a folder may hold verdicts alone.

    Raises:
        ValueError: if ``verdicts.json`` or a file of evidence cannot be believed, or a run that a verdict rests on is
            not among those recorded.
    """
    folder = Path(folder)
    verdicts = read_verdicts(folder / "verdicts.json")
    if not (folder / "evidence").is_dir():
        return verdicts, {}
    evidence = {item.run_id: item for item in read_evidence(folder)}
    for verdict in verdicts:
        lost = [name for name in verdict.evidence if name not in evidence]
        if lost:
            raise ValueError(f"the verdict on {verdict.claim!r} rests on the runs {lost}, which {folder} lacks.")
    return verdicts, evidence


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """0; 1 if an identity is refuted; 3 if an identity or a decoy is undecided."""
    verdicts = tuple(verdicts)
    identities = [verdict for verdict in verdicts if verdict.kind is Kind.IDENTITY]
    if any(verdict.outcome is Outcome.REFUTED for verdict in identities):
        return 1
    undecided = any(verdict.outcome is Outcome.INCONCLUSIVE for verdict in identities)
    toothless = any(
        decoy.outcome is not Outcome.REFUTED
        for verdict in verdicts
        if verdict.kind is not Kind.HYPOTHESIS
        for decoy in verdict.decoys
    )
    return 3 if undecided or toothless else 0


def finite(value: float | None) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return None if value is None or not math.isfinite(value) else float(value)
