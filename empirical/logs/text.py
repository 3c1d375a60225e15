r"""The text log of the robust-overfitting family: a namespace line, a header, one line an epoch.

Format    ``[2020/04/26 13:08:28] - Namespace(attack='pgd', …)``       the run's arguments, as argparse prints them
          ``[…] - Epoch <tab> Train Time <tab> … <tab> Test Robust Acc``  header; which columns is up to the script
          ``[…] - 0 <tab> 303.7 <tab> <tab> 98.5 …``                      a row; tabs and blanks in any number
          ``[…] - validation 1.31 <tab> 0.52 <tab> 1.60 <tab> 0.41``      after a row: loss, accuracy, robust loss and
                                                                          robust accuracy on held-out training images
          ``[…] - Resuming at epoch 100``                                 a notice
Restarts  A resumed run prints namespace and header again, then goes on from its checkpoint.
Source    The logs published with Rice, Wong and Kolter 2020 and with Wu, Xia and Wang 2020.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from empirical.logs.columns import canonical_name
from empirical.logs.table import Fault, Parsed, Row, clashes

_STAMP = re.compile(r"^\[[^\]\n]{8,30}\]\s*(?:-\s?)?")
_FIELDS = re.compile(r"[ ]*\t[ \t]*|[ ]{2,}")
_VALIDATION = ("validation_loss", "validation_accuracy", "validation_robust_loss", "validation_robust_accuracy")


def looks_like_text_log(head: str) -> bool:
    """Whether the first lines hold a namespace line, a stamped header, or a header set with blanks around tabs."""
    for line in head.splitlines()[:50]:
        body = _STAMP.sub("", line)
        if body.startswith("Namespace(") or (_is_header(body) and (body != line or " \t" in line)):
            return True
    return False


def parse_text(text: str) -> Parsed:
    """Read a text log; what is wrong with it is in the result, not raised."""
    parsed = Parsed(format="text")
    header: list[str | None] = []
    unread: list[str] = []
    cut = bool(text) and not text.endswith("\n")
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        body = _STAMP.sub("", line.rstrip())
        if not body.strip():
            continue
        if body.startswith("Namespace("):
            _read_namespace(parsed, number, body)
        elif _is_header(body):
            names = [name for name in _FIELDS.split(body.strip()) if name]
            header = [canonical_name(name) for name in names]
            parsed.faults += clashes(number, zip(names, header, strict=True))
            unread = [name for name, found in zip(names, header, strict=True) if found is None]
            if parsed.rows:
                parsed.restarts.append(len(parsed.rows))
        elif body.startswith("validation "):
            _read_validation(parsed, number, body)
        elif re.match(r"\d+\s", body + " ") and (header or "\t" in body):
            _read_row(parsed, number, body, header, cut=cut and number == len(lines))
        else:
            parsed.remarks.append(Fault(line=number, text=body.strip()[:120]))
    parsed.unread_columns = tuple(unread)
    return parsed


def _is_header(body: str) -> bool:
    fields = [name for name in _FIELDS.split(body.strip()) if name]
    return len(fields) > 2 and fields[0].lower() in ("epoch", "epochs")


def _read_namespace(parsed: Parsed, number: int, body: str) -> None:
    """Arguments from the constructor call that argparse prints; literals only, nothing is evaluated."""
    try:
        call = ast.parse(body.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise SyntaxError("not a call")
        found = {item.arg: _literal(item.value) for item in call.keywords if item.arg}
    except (SyntaxError, ValueError):
        parsed.faults.append(Fault(line=number, text="the namespace line cannot be read: is it cut?"))
        return
    changed = {name for name in found if name in parsed.arguments and parsed.arguments[name] != found[name]} - {
        "resume"
    }
    if changed:
        parsed.remarks.append(Fault(line=number, text=f"the restart changed the arguments {sorted(changed)}"))
    parsed.arguments = {**found, **parsed.arguments}


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)


def _read_validation(parsed: Parsed, number: int, body: str) -> None:
    try:
        values = [float(word) for word in body.split()[1:]]
    except ValueError:
        values = []
    if len(values) != len(_VALIDATION) or not parsed.rows:
        parsed.faults.append(Fault(line=number, text="a validation line must hold 4 numbers and follow an epoch's row"))
        return
    last = parsed.rows[-1]
    parsed.rows[-1] = Row(line=last.line, values={**last.values, **dict(zip(_VALIDATION, values, strict=True))})


def _read_row(parsed: Parsed, number: int, body: str, header: list[str | None], *, cut: bool) -> None:
    words = body.split()
    where = "; the file ends in mid-line" if cut else ""
    if not header:
        parsed.faults.append(Fault(line=number, text=f"a row stands before any header: {body.strip()[:60]!r}"))
        return
    if len(words) != len(header):
        text = f"a row must have the header's {len(header)} fields; got {len(words)}{where}"
        parsed.faults.append(Fault(line=number, text=text))
        return
    if cut:
        # All fields are there, but the last may have lost digits: nothing tells 0.57 from 0.5712.
        parsed.faults.append(
            Fault(line=number, text=f"the last line must end with a newline; got {words[-1]!r}{where}")
        )
        return
    values: dict[str, float] = {}
    for name, word in zip(header, words, strict=True):
        try:
            value = float(word)
        except ValueError:
            parsed.faults.append(Fault(line=number, text=f"`{name or 'a column'}` must be a number; got {word!r}"))
            return
        if name is not None:
            values[name] = value
    parsed.rows.append(Row(line=number, values=values))
