"""From a folder of results to the files of its report, each written whole or not at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from reports import markdown
from reports.outline import slug
from reports.source import read_results
from theory.judge.files import atomic_write, hold, remove_partials
from theory.judge.verdict import read_verdicts


class MissingMatplotlibError(RuntimeError):
    """The page was asked for and matplotlib is not installed."""

    exit_status = 2


def build(folder: Path, *, page: bool = True, figure_files: bool = False) -> tuple[Path, ...]:
    """Render ``index.html`` and ``report.md`` from the verdicts and the evidence in `folder`, beside them.

    Everything is rendered before anything is written.

    Args:
        folder: results; the report is written there.
        page: whether to make ``index.html``; without it nothing is drawn.
        figure_files: also write ``figures/<claim>-<n>.svg`` and show them in ``report.md``.

    Returns:
        The files written.

    Raises:
        MissingMatplotlibError: if the page is asked for and cannot be drawn.
        ValueError: if the results are missing or damaged (`read_results`), or another process writes to the folder.
        OSError: if a file cannot be written.
    """
    results = read_results(folder)
    files: dict[Path, str] = {}
    shown: dict[str, list[tuple[str, str]]] | None = None
    if page:
        _need_matplotlib()
        from reports.html import Page

        sheet = Page()
        text = sheet.render(results)
        if figure_files:
            shown = {}
            for claim, drawings in sheet.drawings.items():
                for place, drawing in enumerate(drawings, start=1):
                    name = f"figures/{slug(claim)}-{place}.svg"
                    files[folder / name] = drawing.svg
                    shown.setdefault(claim, []).append((name, drawing.description))
        files[folder / "index.html"] = text
    files[folder / "report.md"] = markdown.render(results, shown)
    with hold(folder):
        remove_partials(folder / "figures")
        for path, content in files.items():
            path.parent.mkdir(exist_ok=True)
            atomic_write(path, content.encode(), overwrite=True)
    return tuple(files)


def build_index(folder: Path) -> Path:
    """Write ``index.html`` of a folder whose subfolders hold results, with a link to each report.

    Raises:
        MissingMatplotlibError: if pages cannot be made.
        ValueError: if no subfolder holds verdicts, or some are damaged.
        OSError: if the file cannot be written.
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
    _need_matplotlib()
    from reports.html import front_page

    path = folder / "index.html"
    text = front_page(found)
    with hold(folder):
        atomic_write(path, text.encode(), overwrite=True)
    return path


def _need_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingMatplotlibError(
            "the report needs matplotlib for index.html: pip install 'spikeshrink[report]', "
            "or ask `build` for report.md alone with --markdown."
        )
