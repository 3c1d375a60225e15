"""Metrics of a run as JSON lines: one object a line, ``"kind"`` "iteration" or "epoch", flushed where it matters.

Lines carry the number of iterations completed. A resumed run drops the lines after its checkpoint and writes them
again; all but the field "seconds" come out the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from theory.judge.files import atomic_write

__all__ = ["MetricsLog", "logged_iterations", "read_metrics"]


class MetricsLog:
    """Append-only log at `path`, cut back to what happened up to `iteration` when it is opened.

    Raises:
        OSError: if the disk is full or the folder is read-only.
    """

    def __init__(self, path: Path, *, iteration: int) -> None:
        if path.exists():
            kept = [
                line
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
                if _belongs(line, iteration)
            ]
            atomic_write(path, "".join(line + "\n" for line in kept).encode(), overwrite=True)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line.

        Raises:
            ValueError: if a value is NaN or infinite: JSON has neither.
        """
        self._stream.write(json.dumps(values, allow_nan=False) + "\n")

    def sync(self) -> None:
        """Make sure that what was written survives a crash."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()


def _belongs(line: str, iteration: int) -> bool:
    """Whether a line was written at or before `iteration`; a line torn by a crash was not."""
    try:
        return json.loads(line)["iteration"] <= iteration
    except (ValueError, KeyError, TypeError):
        return False


def logged_iterations(path: Path) -> set[tuple[str, int]]:
    """(kind, iteration) of the lines that a log holds, without those that a crash tore; empty where there is no log."""
    if not path.exists():
        return set()
    found = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            found.add((record["kind"], record["iteration"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def read_metrics(path: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a log, of one kind or all.

    Raises:
        ValueError: if the file is missing or a line is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"`read_metrics(path={str(path)!r})` must be a readable file; {error.strerror}.") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            raise ValueError(
                f"`read_metrics(path={str(path)!r})` must hold JSON lines; line {number} is not."
            ) from None
        if kind is None or record.get("kind") == kind:
            records.append(record)
    return records
