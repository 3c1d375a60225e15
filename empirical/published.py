"""Importer of training logs: files and folders in, evidence out, nothing trusted.

Every run is read and checked before anything is written. A run that cannot be evidence is named by file and line; with
`keep_going` the others are written, without it nothing is.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empirical.logs.detect import Reading, Source, find_sources, read_log
from empirical.logs.evidence import imported_record
from empirical.logs.table import LogError
from empirical.records import LoggedRun
from empirical.results import hold_results
from theory.judge.evidence import provenance

__all__ = ["Import", "import_logs", "read_log_record"]


@dataclass(kw_only=True)
class Import:
    """What an import did.

    Args:
        records: of the runs that could be read, in the order of their labels.
        written: files written.
        known: runs that were recorded already.
        refused: a message for each run that cannot be evidence.
        others: files of the folders that are no logs by their names.
    """

    records: list[LoggedRun] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    known: list[LoggedRun] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def import_logs(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    keep_going: bool = False,
    given: Mapping[str, Any] | None = None,
    reading: Reading | None = None,
) -> Import:
    """Import every training log at `paths` as evidence under `out`.

    Args:
        paths: files and folders.
        out: evidence goes to ``<out>/evidence/training-log``.
        keep_going: write what can be read although other files cannot.
        given: facts about all the runs that their logs do not state, such as ``{"dataset": "cifar10"}``.
        reading: how to read what the files do not say.

    Returns:
        What was written and what was refused. With a refusal and without `keep_going`, nothing is written.

    Raises:
        ValueError: if `out` cannot be a folder that is written, or another process writes to it.
        OSError: if a file cannot be written.
    """
    done = Import()
    sources: list[Source] = []
    for path in paths:
        try:
            found, others = find_sources(Path(path))
        except ValueError as error:
            done.refused.append(str(error))
            continue
        sources += found
        done.others += others
    for source in sources:
        try:
            done.records.append(read_log_record(source, given=given or {}, reading=reading or Reading(columns={})))
        except LogError as error:
            done.refused.append(str(error))
        except OSError as error:
            done.refused.append(f"{error.filename or source.paths[0]}: cannot be read: {error.strerror}")
    if done.refused and not keep_going:
        return done
    with hold_results(out):
        for item in done.records:
            try:
                done.written.append(item.to_evidence().write(out))
            except FileExistsError:
                done.known.append(item)
    return done


def read_log_record(source: Source, *, given: Mapping[str, Any], reading: Reading) -> LoggedRun:
    """The record of one run.

    Raises:
        LogError: if its log cannot be evidence.
        OSError: if a file cannot be read.
    """
    started = time.time()
    contents = tuple(path.read_bytes() for path in source.paths)
    log = read_log(source, contents, reading)
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    files = [
        {"path": path.as_posix(), "bytes": len(content), "sha256": digest}
        for path, content, digest in zip(source.paths, contents, digests, strict=True)
    ]
    how = {"columns": dict(reading.columns), "iterations_per_epoch": reading.iterations_per_epoch}
    return imported_record(
        log,
        label=source.label,
        digests=digests,
        reading=how,
        given=given,
        provenance=provenance(started, source={"files": files, "format": log.format}),
    )
