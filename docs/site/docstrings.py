"""Docstrings as the reference shows them: a module's table as it stands, and no formula taken for markup."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"^(\s+)([\w.*`, ]+(?: \([^)]*\))?)(:\s.*)$")
_CODE = re.compile(r"(`+[^`]*`+)")


class PlainText(griffe.Extension):
    """Escapes what Markdown would read in prose that knows no Markdown; module docstrings keep their columns."""

    def on_module_instance(self, *, mod: griffe.Module, **_: Any) -> None:
        """The first line as prose, the rest as it is typed."""
        if mod.docstring is not None:
            first, _, rest = mod.docstring.value.partition("\n\n")
            made = _escaped(" ".join(first.split()))
            mod.docstring.value = f"{made}\n\n```text\n{rest.strip()}\n```" if rest.strip() else made

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Prose and descriptions escaped, names of arguments kept."""
        _escape(cls)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Prose and descriptions escaped, names of arguments kept."""
        _escape(func)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Prose escaped."""
        _escape(attr)


def _escape(of: griffe.Object) -> None:
    if of.docstring is None:
        return
    lines = []
    for line in of.docstring.value.splitlines():
        item = _ITEM.match(line)
        lines.append(f"{item[1]}{item[2]}{_escaped(item[3])}" if item else _escaped(line))
    of.docstring.value = "\n".join(lines)


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]<|])", r"\\\1", part) for part in parts)
