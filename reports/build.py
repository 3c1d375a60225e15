"""From a folder of results to the files of its report, each written whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from reports import findings, markdown
from reports.markdown import put_between
from reports.numbers import drawn_numbers
from reports.outline import sections, slug
from reports.seen import seen_in
from reports.source import read_results
from theory.judge.files import atomic_write, hold, remove_partials
from theory.judge.verdict import Verdict, read_verdicts

#: What stands around the findings in a Markdown file.
MARKS = ("<!-- findings: spikeshrink report index -->", "<!-- end of findings -->")


class MissingMatplotlibError(RuntimeError):
    """The page was asked for and matplotlib is not installed."""

    exit_status = 2


def build(folder: Path, *, page: bool = True, figure_files: bool = False) -> tuple[Path, ...]:
    """Render ``index.html`` and ``report.md`` from the verdicts and the evidence in `folder`, beside them.

    The folder is held from reading to writing, and everything is rendered before anything is written.

    Args:
        folder: results; the report is written there.
        page: whether to make ``index.html``; without it nothing is drawn.
            The numbers that its figures draw go to ``data/<claim>.csv``.
        figure_files: also write ``figures/<claim>-<n>.svg`` and show them in ``report.md``.

    Returns:
        The files written.

    Raises:
        MissingMatplotlibError: if the page is asked for and cannot be drawn.
        ValueError: if the results are missing or damaged (`read_results`), or another process writes to the folder.
        OSError: if a file cannot be written.
    """
    with hold(folder) if folder.is_dir() else contextlib.nullcontext():  # where there is none, reading says so
        return _build(folder, page=page, figure_files=figure_files)


def _build(folder: Path, *, page: bool, figure_files: bool) -> tuple[Path, ...]:
    results = read_results(folder)
    files: dict[Path, str] = {}
    shown: dict[str, list[tuple[str, str]]] | None = None
    if page:
        _need_matplotlib()
        from reports.html import Page

        sheet = Page(folder.resolve().name, up=(folder.parent / "index.html").exists(), data=True)
        text = sheet.render(results)
        if figure_files:
            shown = {}
            for claim, drawings in sheet.drawings.items():
                for place, drawing in enumerate(drawings, start=1):
                    name = f"figures/{slug(claim)}-{place}.svg"
                    files[folder / name] = drawing.svg
                    shown.setdefault(claim, []).append((name, drawing.description))
        files[folder / "index.html"] = text
        for part in sections(results.verdicts):
            if numbers := drawn_numbers(part):
                files[folder / "data" / f"{part.anchor}.csv"] = numbers
    files[folder / "report.md"] = markdown.render(results, shown)
    for made in ("figures", "data"):
        remove_partials(folder / made)
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, content.encode(), overwrite=True)
    return tuple(files)


def build_index(folder: Path) -> Path:
    """Write ``index.html`` of a folder whose subfolders hold results: the answer, and a link to each report.

    Raises:
        MissingMatplotlibError: if pages cannot be made.
        ValueError: if no subfolder holds verdicts, or some are damaged.
        OSError: if the file cannot be written.
    """
    with hold(folder) if folder.is_dir() else contextlib.nullcontext():
        return _build_index(folder)


def _build_index(folder: Path) -> Path:
    found = published_verdicts(folder)
    _need_matplotlib()
    from reports.front import front_page

    unjudged = [item for item in sorted(folder.iterdir()) if item.is_dir() and not (item / "verdicts.json").exists()]
    older = [item.name for item in unjudged if (item / "index.html").exists()]
    tables = [item.name for item in unjudged if (item / "report.md").exists() and item.name not in older]
    path = folder / "index.html"
    text = front_page(found, older, tables, seen_in(folder, found))
    atomic_write(path, text.encode(), overwrite=True)
    return path


def published_verdicts(folder: Path) -> dict[str, tuple[Verdict, ...]]:
    """Name to verdicts of every subfolder that holds some.

    Raises:
        ValueError: if none does, or some are damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"`build_index(folder=...)` must be a folder of results folders; got {str(folder)!r}.")
    found = {
        item.name: read_verdicts(item / "verdicts.json")
        for item in sorted(folder.iterdir())
        if (item / "verdicts.json").is_file()
    }
    if not found:
        raise ValueError(f"`build_index(folder=...)` must hold folders with verdicts.json; {str(folder)!r} has none.")
    return found


def renew_findings(folder: Path, readme: Path) -> Path:
    """Put the findings of a folder of results between the two `MARKS` in a Markdown file.

    Raises:
        ValueError: if the file lacks a mark, or the results are damaged.
        OSError: if a file cannot be read or written.
    """
    found = published_verdicts(folder)
    put_between(MARKS, findings.markdown(found, seen_in(folder, found)), readme)
    return readme


def _need_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingMatplotlibError(
            "the report needs matplotlib for index.html: pip install 'spikeshrink[report]', "
            "or ask `build` for report.md alone with --markdown."
        )
