r"""The gate: verdicts and measured quantities against thresholds that somebody chose, as an exit status for CI.

Status    0 pass, 1 fail, 2 wrong usage or unreadable input, 3 inconclusive. A claim refuted elsewhere turns
          nothing red by itself: builds go red on thresholds, and thresholds live here.
Rule      a required claim passes if supported and fails if refuted; a quantity passes if its whole interval keeps the
          threshold and fails if its whole interval breaks it. Anything else is inconclusive: an interval that
          straddles, a claim not applicable or not judged, and any number without an uncertainty, which can't pass.
Thresholds  of the user's ``pyproject.toml``, or of the command line, which wins:

              [tool.spikeshrink.gate]
              require = ["posterior-ensemble", "stability<1"]
              [tool.spikeshrink.gate.max]
              price = 0.1
              [tool.spikeshrink.gate.min]
              alignment = 0.5
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from theory.judge.files import atomic_write, require_regular
from theory.judge.reading import is_mapping, is_sequence
from theory.judge.table import aligned, markdown_table
from theory.judge.verdict import Outcome, Verdict

__all__ = ["Check", "GateReport", "Quantity", "Result", "Thresholds", "decide", "read_gate"]


class Result(StrEnum):
    """What became of one check."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    REPORTED = "reported"  # nothing was demanded of it


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A measured number with its interval (None: it has none, and cannot pass)."""

    name: str
    estimate: float
    interval: tuple[float, float] | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a build demands.

    Args:
        require: ids of claims that must be supported.
        maximum: quantity to the largest value allowed.
        minimum: quantity to the smallest value allowed.

    Raises:
        ValueError: if a threshold is not a finite number, or nothing is demanded.
    """

    require: tuple[str, ...] = ()
    maximum: Mapping[str, float] = field(default_factory=dict[str, float])
    minimum: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        for kind in ("maximum", "minimum"):
            for name, value in getattr(self, kind).items():
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
                    raise ValueError(
                        f"`Thresholds({kind}={{{name!r}: ...}})` must be a finite number; got {str(value)[:40]}."
                    )
        if not (self.require or self.maximum or self.minimum):
            raise ValueError("`Thresholds(...)` must demand something: a claim, a maximum or a minimum; got nothing.")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One demand and what became of it.

    Args:
        name: of the quantity or claim.
        rule: what was demanded.
        result: what became of it.
        estimate: what was measured; None where nothing was.
        interval: of the estimate; None where there is none.
        reason: why the result is what it is.
        null: what the estimate would be by chance or where the theory holds.
        cost: what a failure means for the predictions.
    """

    name: str
    rule: str
    result: Result
    estimate: float | None
    interval: tuple[float, float] | None
    reason: str
    null: str = ""
    cost: str = ""

    @property
    def supported(self) -> bool:
        """Whether the demand is met."""
        return self.result is Result.PASS


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """All checks of a gate."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> int:
        """0 if every check passed, 1 if one failed, 3 if none failed and one is inconclusive."""
        results = {check.result for check in self.checks}
        if Result.FAIL in results:
            return 1
        return 3 if Result.INCONCLUSIVE in results else 0

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.status == 0

    def table(self) -> str:
        """A text table for the terminal."""
        return "\n".join(aligned(self._rows()))

    def markdown(self) -> str:
        """The same as a Markdown section."""
        word = {0: "passed", 1: "failed", 3: "inconclusive"}[self.status]
        return "\n".join([f"### Spikeshrink gate: {word}", "", *markdown_table(self._rows())]) + "\n"

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [(check.result.value, check.name, check.rule, _measured(check), _why(check)) for check in self.checks]
        return [("result", "check", "rule", "measured", "reason"), *rows]

    def junit(self) -> str:
        """The same as JUnit XML: a failure where a check failed, an error where it is inconclusive."""
        counts = {result: sum(check.result is result for check in self.checks) for result in Result}
        totals = {
            "tests": str(len(self.checks)),
            "failures": str(counts[Result.FAIL]),
            "errors": str(counts[Result.INCONCLUSIVE]),
            "skipped": str(counts[Result.REPORTED]),
        }
        # The attribute of `testsuites` stops at errors in the schema of Jenkins and GitLab.
        whole = {name: count for name, count in totals.items() if name != "skipped"}
        root = ElementTree.Element("testsuites", whole)
        suite = ElementTree.SubElement(root, "testsuite", {"name": "spikeshrink.gate", **totals})
        for check in self.checks:
            case = ElementTree.SubElement(
                suite, "testcase", {"classname": "spikeshrink.gate", "name": f"{check.name} ({check.rule})"}
            )
            if check.result is Result.REPORTED:
                ElementTree.SubElement(case, "skipped", {"message": _xml_safe(f"{_measured(check)}: {_why(check)}")})
            elif check.result is not Result.PASS:
                tag = "failure" if check.result is Result.FAIL else "error"
                node = ElementTree.SubElement(case, tag, {"message": _xml_safe(f"{check.rule}: {_why(check)}")})
                node.text = _xml_safe(_measured(check))
            else:
                ElementTree.SubElement(case, "system-out").text = _xml_safe(f"{check.rule}: {_measured(check)}")
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def write(self, *, junit: str | Path | None = None, summary: str | Path | None = None) -> None:
        """Write JUnit XML, and append the Markdown to ``summary`` and to ``$GITHUB_STEP_SUMMARY`` where that is set.

        Raises:
            OSError: if a file cannot be written.
        """
        if junit is not None:
            path = Path(junit)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, self.junit().encode(), overwrite=True)
        for target in {str(item) for item in (summary, os.environ.get("GITHUB_STEP_SUMMARY")) if item}:
            with open(target, "a", encoding="utf-8") as stream:
                stream.write(self.markdown())


def decide(
    thresholds: Thresholds, *, verdicts: Iterable[Verdict] = (), quantities: Iterable[Quantity] = ()
) -> GateReport:
    """Every demand against what was found; a demand that nothing speaks to is inconclusive.

    A claim judged on several subjects is checked on each.
    """
    verdicts, quantities = tuple(verdicts), tuple(quantities)
    checks: list[Check] = []
    for claim in thresholds.require:
        found = [verdict for verdict in verdicts if verdict.claim == claim]
        checks.extend(_claim_check(verdict) for verdict in found)
        if not found:
            checks.append(_missing(claim, "supported", "no verdict on this claim"))
    for limits, sign, word in ((thresholds.maximum, 1.0, "at most"), (thresholds.minimum, -1.0, "at least")):
        for name, limit in limits.items():
            rule = f"{word} {limit:g}"
            found = [quantity for quantity in quantities if quantity.name == name]
            checks.extend(_quantity_check(quantity, rule, sign, float(limit)) for quantity in found)
            if not found:
                checks.append(_missing(name, rule, "nothing of this name was measured"))
    return GateReport(checks=tuple(checks))


def read_gate(
    pyproject: str | Path | None = None,
    *,
    require: Sequence[str] = (),
    maximum: Sequence[str] = (),
    minimum: Sequence[str] = (),
    spec: Mapping[str, type] | None = None,
) -> tuple[Thresholds | None, dict[str, Any]]:
    """The table ``[tool.spikeshrink.gate]`` with a command line over it: demands, and what describes a model.

    Args:
        pyproject: the file; None reads none.
        require: claim ids, or ``NAME<VALUE``, ``NAME>=VALUE`` and their like.
        maximum: ``NAME=VALUE`` strings.
        minimum: likewise.
        spec: other keys of the table and their types.

    Returns:
        The thresholds, None where nothing is demanded, and the other keys that are there.

    Raises:
        ValueError: if the file is missing, is not TOML or holds something else under ``tool.spikeshrink.gate``; if a
            string is no demand.
    """
    spec = spec or {}
    table: Mapping[str, Any] = {}
    if pyproject is not None:
        where = f"`read_gate(pyproject={str(pyproject)!r})`"
        path = Path(pyproject)
        require_regular(path, where)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{where} must be a readable file; {error.strerror}.") from None
        except RecursionError:
            raise ValueError(f"{where} must be TOML; it is nested too deeply.") from None
        except (tomllib.TOMLDecodeError, ValueError) as error:
            raise ValueError(f"{where} must be TOML; {error}.") from None
        table = content
        for name in ("tool", "spikeshrink", "gate"):
            inner = table.get(name, {})
            if not is_mapping(inner):
                raise ValueError(f"{where} must hold a table tool.spikeshrink.gate; {name!r} is {inner!r:.40}.")
            table = inner
        unknown = sorted(set(table) - {"require", "max", "min", *spec})
        if unknown:
            others = f" (and {', '.join(spec)})" if spec else ""
            raise ValueError(
                f"{where} may hold require, max and min{others} under tool.spikeshrink.gate; got {unknown}."
            )
        for name, kind in spec.items():
            value = table.get(name)
            fits = isinstance(value, (int, float) if kind is float else kind)
            if value is not None and (not fits or (isinstance(value, bool) and kind is not bool)):
                raise ValueError(f"{where} must hold a {kind.__name__} under {name}; got {value!r:.60}.")
        required = table.get("require", [])
        if not (is_sequence(required) and all(isinstance(name, str) for name in required)):
            raise ValueError(f"{where} must hold a list `require` of claim ids and comparisons; got {required!r:.60}.")
        if not all(is_mapping(table.get(kind, {})) for kind in ("max", "min")):
            raise ValueError(f"{where} must hold tables `max` and `min`.")
    claims: list[str] = []
    limits: dict[str, dict[str, float]] = {"max": dict(table.get("max", {})), "min": dict(table.get("min", {}))}
    for item in [*table.get("require", []), *require]:
        kind, name, value = _requirement(item)
        if kind is None:
            claims.append(name)
        else:
            limits[kind][name] = value
    for kind, items in (("max", maximum), ("min", minimum)):
        limits[kind].update(_pair(kind, item) for item in items)
    described = {name: table[name] for name in spec if name in table}
    if not (claims or limits["max"] or limits["min"]):
        return None, described
    return Thresholds(require=tuple(dict.fromkeys(claims)), maximum=limits["max"], minimum=limits["min"]), described


def _requirement(text: str) -> tuple[str | None, str, float]:
    """A claim's id, or ``NAME<NUMBER`` and its like as a largest or smallest value (a limit itself is kept)."""
    found = re.fullmatch(r"\s*([^<>=\s]+)\s*(?:(<=|<|>=|>)\s*([^<>=\s]+))?\s*", text)
    if found is None:
        raise ValueError(f"`--require` must be a claim, NAME<NUMBER or NAME>NUMBER; got {text!r}.")
    name, sign, limit = found.groups()
    if sign is None:
        return None, name, 0.0
    try:
        return ("max" if sign[0] == "<" else "min"), name, float(limit)
    except ValueError:
        raise ValueError(f"`--require` must compare {name} with a number; got {text!r}.") from None


def _pair(option: str, text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ValueError(f"`--{option}` must be NAME=NUMBER; got {text!r}.") from None


def _claim_check(verdict: Verdict) -> Check:
    result = {Outcome.SUPPORTED: Result.PASS, Outcome.REFUTED: Result.FAIL}.get(verdict.outcome, Result.INCONCLUSIVE)
    low, high = verdict.interval
    return Check(
        name=f"{verdict.claim} · {verdict.subject}" if verdict.subject else verdict.claim,
        rule="supported",
        result=result,
        estimate=verdict.estimate,
        interval=None if low is None or high is None else (low, high),
        reason=" ".join(f"{verdict.outcome.value}; {verdict.note}".split()),
    )


def _quantity_check(quantity: Quantity, rule: str, sign: float, limit: float) -> Check:
    interval = quantity.interval
    known = interval is not None and all(math.isfinite(end) for end in interval)
    if interval is None or not known:
        result, reason = Result.INCONCLUSIVE, "a number without an uncertainty cannot pass"
    else:
        low, high = sorted(sign * end for end in interval)
        if high <= sign * limit:
            result, reason = Result.PASS, "the whole interval keeps the threshold"
        elif low > sign * limit:
            result, reason = Result.FAIL, "the whole interval breaks the threshold"
        else:
            result, reason = Result.INCONCLUSIVE, "the interval straddles the threshold"
    return Check(
        name=quantity.name,
        rule=rule,
        result=result,
        estimate=quantity.estimate if math.isfinite(quantity.estimate) else None,
        interval=interval if known else None,
        reason=f"{reason}; {quantity.note}" if quantity.note else reason,
    )


def _missing(name: str, rule: str, reason: str) -> Check:
    return Check(name=name, rule=rule, result=Result.INCONCLUSIVE, estimate=None, interval=None, reason=reason)


def _why(check: Check) -> str:
    parts = [check.reason, f"null {check.null}" if check.null else ""]
    parts.append(check.cost if check.result in (Result.FAIL, Result.INCONCLUSIVE) else "")
    return "; ".join(part for part in parts if part)


def _measured(check: Check) -> str:
    if check.estimate is None:
        return "–"
    if check.interval is None:
        return f"{check.estimate:.4g}"
    return f"{check.estimate:.4g} [{check.interval[0]:.4g}, {check.interval[1]:.4g}]"


def _xml_safe(text: str) -> str:
    """Text without the characters that XML 1.0 has no way to write (its production 2)."""
    return "".join(
        c
        for c in text
        if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c < "\ufffe") or c > "\uffff"
    )
