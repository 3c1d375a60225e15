"""Comma-, semicolon- and tab-separated tables with a header line.

Which columns   by name (`empirical.logs.columns`), or by a mapping ``{canonical: column of the file}``; a mapping may
                end in ``%`` (``test_robust_accuracy=PGD%``): the column holds per cent.
Missing cells   An empty cell is a fault: libraries write a NaN loss as an empty cell, so it cannot mean "not measured".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from empirical.logs.columns import COLUMNS, canonical_name
from empirical.logs.table import Fault, Parsed, Row, clashes

_FORMATS = {",": "csv", ";": "csv", "\t": "tsv"}


def delimiter(head: str) -> str | None:
    """The separator that splits the first line into most fields, or None where none does."""
    first = head.lstrip("\ufeff").splitlines()[0] if head.strip() else ""
    counts = {mark: first.count(mark) for mark in _FORMATS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else None


def parse_delimited(text: str, mapping: Mapping[str, str] | None = None) -> Parsed:
    """Read a table; what is wrong with it is in the result, not raised.

    Args:
        text: the file's content.
        mapping: canonical name to the column's name in the file, where names do not settle it.
    """
    text = text.lstrip("\ufeff")
    mark = delimiter(text) or ","
    parsed = Parsed(format=_FORMATS[mark])
    cut = bool(text) and not text.endswith(("\n", "\r"))
    reader = csv.reader(io.StringIO(text), delimiter=mark)
    header: list[tuple[str, float] | None] | None = None
    names: tuple[str, ...] = ()
    decimals: set[int] = set()
    last: tuple[int, list[str]] = (0, [""])
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            number = reader.line_num
            if header is None:
                names = tuple(cells)
                header, parsed.faults = _header(number, names, mapping or {})
            elif tuple(cells) == names:
                parsed.restarts.append(len(parsed.rows))
            else:
                _read_row(parsed, number, cells, header)
                decimals.add(_decimals(cells[-1]))
                last = (number, cells)
    except csv.Error as error:
        parsed.faults.append(Fault(line=reader.line_num, text=f"the table cannot be read: {error}"))
    if header is not None:
        parsed.unread_columns = tuple(name for name, found in zip(names, header, strict=True) if found is None)
    if cut and header is not None and parsed.rows and not parsed.faults and len(decimals) > 1:
        number, cells = last
        text = f"the file ends in mid-line: {cells[-1]!r} has fewer digits than the rows above"
        parsed.faults.append(Fault(line=number, text=text))
    return parsed


def _header(
    number: int, names: tuple[str, ...], mapping: Mapping[str, str]
) -> tuple[list[tuple[str, float] | None], list[Fault]]:
    """For each column its canonical name and scale, or None where it is not read."""
    faults = []
    chosen: dict[str, tuple[str, float]] = {}
    for column, source in mapping.items():
        scale = 0.01 if source.endswith("%") and source not in names else 1.0
        plain = source if source in names else source.removesuffix("%")
        if column not in COLUMNS:
            faults.append(Fault(line=number, text=f"--column must name one of {', '.join(COLUMNS)}; got {column!r}"))
        elif plain not in names:
            faults.append(Fault(line=number, text=f"--column {column} must name a column of the file; got {plain!r}"))
        else:
            chosen[plain] = (column, scale)
    header: list[tuple[str, float] | None] = []
    for name in names:
        found = canonical_name(name)
        if name in chosen:
            header.append(chosen[name])
        elif found is not None and found not in mapping:
            header.append((found, 0.01 if "%" in name else 1.0))
        else:
            header.append(None)
    faults += clashes(number, ((name, item and item[0]) for name, item in zip(names, header, strict=True)))
    if "epoch" not in {item[0] for item in header if item is not None}:
        faults.append(
            Fault(line=number, text=f"a table must have an epoch column; its header is {', '.join(names)[:120]}")
        )
    return header, faults


def _read_row(parsed: Parsed, number: int, cells: list[str], header: list[tuple[str, float] | None]) -> None:
    if len(cells) != len(header):
        text = f"a row must have the header's {len(header)} cells; got {len(cells)}: cut in mid-line?"
        parsed.faults.append(Fault(line=number, text=text))
        return
    values: dict[str, float] = {}
    for found, cell in zip(header, cells, strict=True):
        if found is None:
            continue
        name, scale = found
        try:
            values[name] = float(cell) * scale
        except ValueError:
            parsed.faults.append(Fault(line=number, text=f"`{name}` must be a number; got {cell!r}"))
            return
    parsed.rows.append(Row(line=number, values=values))


def _decimals(cell: str) -> int:
    return len(cell.partition(".")[2])
