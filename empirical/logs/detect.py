"""Which format a file is in, and which files of a folder are logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from empirical.logs.columns import canonical_name
from empirical.logs.delimited import delimiter, parse_delimited
from empirical.logs.events import looks_like_events, parse_events
from empirical.logs.json_lines import parse_json_lines
from empirical.logs.table import Fault, LogError, Parsed, TrainingLog, check
from empirical.logs.text import looks_like_text_log, parse_text

#: Endings of files that a folder's logs may have; event files are known by their name.
SUFFIXES = (".log", ".txt", ".out", ".csv", ".tsv", ".jsonl", ".ndjson")
#: Stems that say nothing about the run: it is known by its folder.
GENERIC_STEMS = ("output", "log", "train", "training", "metrics", "progress", "history", "events", "stdout")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of one run (several only for TensorBoard), and what the run is called."""

    paths: tuple[Path, ...]
    label: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read what a file does not say itself.

    Args:
        columns: canonical name to the file's column.
        iterations_per_epoch: turns TensorBoard steps into epochs.
    """

    columns: Mapping[str, str]
    iterations_per_epoch: int | None = None


def find_sources(path: Path) -> tuple[tuple[Source, ...], tuple[Path, ...]]:
    """The runs at `path`, and the files of a folder that are no logs by their names.

    Raises:
        ValueError: if `path` does not exist, or is a folder without a log.
    """
    if path.is_file():
        return (Source(paths=(path,), label=_label(path, path.parent.parent)),), ()
    if not path.is_dir():
        raise ValueError(f"`import {path}` must name a file or a folder; there is none.")
    sources: list[Source] = []
    others: list[Path] = []
    events: dict[Path, list[Path]] = {}
    for item in sorted(path.rglob("*")):
        if not item.is_file() or any(part.startswith(".") for part in item.relative_to(path).parts):
            continue
        if "tfevents" in item.name:
            events.setdefault(item.parent, []).append(item)
        elif item.suffix.lower() in SUFFIXES:
            sources.append(Source(paths=(item,), label=_label(item, path)))
        else:
            others.append(item)
    for folder, items in events.items():
        relative = folder.relative_to(path)
        label = path.name if relative == Path() else relative.as_posix()
        sources.append(Source(paths=tuple(items), label=label))
    if not sources:
        raise ValueError(
            f"`import {path}` must hold a training log ({', '.join(SUFFIXES)} or *tfevents*); it holds none."
        )
    return tuple(sorted(sources, key=lambda source: source.label)), tuple(others)


def _label(path: Path, root: Path) -> str:
    relative = path.relative_to(root).with_suffix("")
    if relative.name.lower() in GENERIC_STEMS and len(relative.parts) > 1:
        relative = relative.parent
    return relative.as_posix()


def read_log(source: Source, contents: tuple[bytes, ...], reading: Reading) -> TrainingLog:
    """The checked log of one run.

    Args:
        source: where it is from.
        contents: the bytes of its files.
        reading: what the files do not say.

    Raises:
        LogError: naming file and line of what is wrong.
    """
    name = str(source.paths[0] if len(source.paths) == 1 else source.paths[0].parent)
    return check(name, _parse(name, source, contents, reading))


def _parse(name: str, source: Source, contents: tuple[bytes, ...], reading: Reading) -> Parsed:
    content = contents[0]
    if not any(contents):
        raise LogError(name, [Fault(line=0, text="the file is empty")])
    if looks_like_events(content[:12]) or "tfevents" in source.paths[0].name:
        files = [(path.name, data) for path, data in zip(source.paths, contents, strict=True)]
        return parse_events(files, reading.iterations_per_epoch)
    try:
        if b"\0" in content:
            raise UnicodeError
        text = content.decode("utf-8-sig")
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else content.index(b"\0")
        line = content.count(b"\n", 0, at) + 1
        raise LogError(
            name, [Fault(line=line, text=f"a binary file: byte {at} is no text, and no event file")]
        ) from None
    if not text.strip():
        raise LogError(name, [Fault(line=0, text="the file holds only blanks")])
    if text.lstrip().startswith("{"):
        return parse_json_lines(text, reading.columns)
    if looks_like_text_log(text):
        return parse_text(text)
    mark = delimiter(text)
    if mark is not None:
        cells = text.lstrip("\ufeff").splitlines()[0].split(mark)
        if sum(canonical_name(cell) is not None for cell in cells) >= 2 or reading.columns:
            return parse_delimited(text, reading.columns)
    known = "a namespace or header line, a table with named columns, JSON lines, TensorBoard events"
    raise LogError(name, [Fault(line=1, text=f"unknown format (known: {known}); it begins {text.strip()[:50]!r}")])
