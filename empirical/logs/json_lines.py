"""One JSON object a line: ``{"epoch": 3, "lr": 0.1, "test": {"robust_loss": 1.7}}``.

Nested objects are flattened with ``/``. Lines that name the same epoch are one row if they do not disagree (some
scripts write a line after training and another after evaluation). A line without an epoch that holds no measured
column is the run's arguments. Lines of single iterations (``"kind": "iteration"``, or several of an epoch that differ
in ``iteration`` or ``step``) are counted and passed over: epochs are what the claims are about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from empirical.logs.columns import canonical_name
from empirical.logs.table import Fault, Parsed, Row, clashes

#: Levels of nesting that a line may have.
DEEPEST = 32
_ITERATION = ("iteration", "step", "global_step")


def parse_json_lines(text: str, mapping: Mapping[str, str] | None = None) -> Parsed:
    """Read JSON lines; what is wrong with them is in the result, not raised."""
    parsed = Parsed(format="json-lines", sparse=True)
    renamed = {source: column for column, source in (mapping or {}).items()}
    unread: dict[str, None] = {}
    iterations = 0
    cut = bool(text) and not text.endswith("\n")
    lines = text.splitlines()
    by_epoch: dict[float, int] = {}
    single = _single_iterations(lines)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = _loaded(line)
        except ValueError as error:
            where = "the file ends in mid-line" if cut and number == len(lines) else f"not JSON: {error}"
            parsed.faults.append(Fault(line=number, text=where))
            continue
        if not isinstance(item, dict):
            parsed.faults.append(Fault(line=number, text=f"must be a JSON object; got {type(item).__name__}"))
            continue
        if item.get("kind") == "iteration" or number in single:
            iterations += 1
            continue
        values: dict[str, float] = {}
        others: dict[str, Any] = {}
        meanings = [(key, renamed.get(key) or canonical_name(key)) for key, _ in _flatten(item)]
        parsed.faults += clashes(number, meanings)
        for (key, value), (_, column) in zip(_flatten(item), meanings, strict=True):
            if column is None:
                others[key] = value
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                try:
                    values[column] = float(value)
                except OverflowError:
                    digits = len(str(abs(value)))
                    fault = f"`{column}` must be a number that a double can hold; got one of {digits} digits"
                    parsed.faults.append(Fault(line=number, text=fault))
            else:
                parsed.faults.append(
                    Fault(line=number, text=f"`{column}` must be a number; got {json.dumps(value)[:40]}")
                )
        if "epoch" in values:
            unread.update(dict.fromkeys(others))
            _add_row(parsed, by_epoch, number, values)
        elif values.keys() - {"learning_rate"}:
            parsed.faults.append(Fault(line=number, text=f"a line with {', '.join(values)} must name its epoch"))
        else:
            parsed.arguments.update({key: value for key, value in _flatten(item) if not isinstance(value, list)})
    if iterations:
        parsed.remarks.append(Fault(line=0, text=f"{iterations} lines of single iterations passed over"))
    parsed.unread_columns = tuple(unread)
    return parsed


def _single_iterations(lines: list[str]) -> set[int]:
    """Numbers of the lines that count iterations and share their epoch and their keys with another such line."""
    groups: dict[tuple[Any, frozenset[str]], list[int]] = {}
    for number, line in enumerate(lines, start=1):
        if not any(f'"{name}"' in line for name in _ITERATION):
            continue
        try:
            item = _loaded(line)
        except ValueError:
            continue
        if isinstance(item, dict) and isinstance(item.get("epoch"), (int, float)) and item.get("kind") != "epoch":
            groups.setdefault((item["epoch"], frozenset(item)), []).append(number)
    return {number for group in groups.values() if len(group) > 1 for number in group}


def _loaded(line: str) -> Any:
    """The value of a line.

    Raises:
        ValueError: if it is no JSON, or is nested deeper than any log is.
    """
    try:
        item = json.loads(line)
        too_deep = _depth(item) > DEEPEST
    except RecursionError:
        item, too_deep = None, True
    if too_deep:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    return item


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _flatten(item: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in item.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _add_row(parsed: Parsed, by_epoch: dict[float, int], number: int, values: dict[str, float]) -> None:
    epoch = values["epoch"]
    known = by_epoch.get(epoch)
    if known is None:
        by_epoch[epoch] = len(parsed.rows)
        parsed.rows.append(Row(line=number, values=values))
        return
    row = parsed.rows[known]
    clash = [name for name, value in values.items() if row.values.get(name, value) != value]
    if clash:
        text = f"epoch {epoch:g} comes twice (first on line {row.line}) with another `{clash[0]}`"
        parsed.faults.append(Fault(line=number, text=text))
    else:
        parsed.rows[known] = Row(line=row.line, values={**row.values, **values})
