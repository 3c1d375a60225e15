"""Rows of text as a table: columns one below the other for a terminal, or Markdown for a code host."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["aligned", "markdown_table"]


def aligned(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = (), widths: Sequence[int] | None = None, indent: str = ""
) -> list[str]:
    """A line a row, columns two spaces apart.

    Args:
        rows: all of one length, the head among them.
        right: columns that are set flush right.
        widths: of the columns; by default each is as wide as its widest cell.
        indent: what every line begins with.
    """
    if widths is None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = (
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def markdown_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """The lines of a Markdown table, its head the first row; a ``|`` in a cell is escaped unless it is already.

    Args:
        rows: all of one length; cells are Markdown.
        right: columns that are set flush right.
    """
    head, *body = rows
    rule = "|" + "|".join("--:" if place in right else "---" for place in range(len(head))) + "|"
    return [_row(head), rule, *map(_row, body)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\\|", "|").replace("|", "\\|") for cell in cells) + " |"
