"""What a Setting's fields say of themselves: the values they may take, their type, and what they mean.

The annotation is the only place where the names of choices stand: ``norm: Literal["linf", "l2"]`` validates the value
(`require_choices`), lists it in ``--help`` and types it. The ``Args:`` section of the class is the only place where a
field is explained.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from typing import Any, Literal

from theory.model.setting import Setting

__all__ = ["choices", "meaning", "require_at_least", "require_at_most", "require_choices", "value_type"]


@functools.cache
def _hints(cls: type[Setting]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def value_type(cls: type[Setting], field: str) -> Any:
    """The annotation of a field without its ``None``."""
    hint = _hints(cls)[field]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


@functools.cache
def choices(cls: type[Setting], field: str) -> tuple[Any, ...]:
    """The values that a field of a `Literal` type may take; empty for every other type."""
    hint = value_type(cls, field)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


@functools.cache
def _meanings(cls: type[Setting]) -> dict[str, str]:
    text = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", section.group(1), re.MULTILINE | re.DOTALL)
    return {name: " ".join(body.split()) for name, body in entries}


def meaning(cls: type[Setting], field: str) -> str:
    """What the ``Args:`` section of the class says of a field, on one line."""
    return _meanings(cls).get(field, "").rstrip(".")


def require_choices(setting: Setting) -> None:
    """Refuse values outside the field's `Literal`.

    Raises:
        ValueError: naming the argument, the values it may take, and the one given.
    """
    for field in dataclasses.fields(setting):  # pyright: ignore[reportArgumentType]
        allowed = choices(type(setting), field.name)
        value = getattr(setting, field.name)
        if allowed and value is not None and value not in allowed:
            raise ValueError(f"`{type(setting).__name__}({field.name}=...)` must be one of {allowed}; got {value!r}.")


def require_at_least(setting: Setting, **least: float) -> None:
    """Refuse numbers below a bound; None, where a field allows it, passes.

    Raises:
        ValueError: naming the argument, its least value, and the one given.
    """
    for field, bound in least.items():
        value = getattr(setting, field)
        if value is not None and not value >= bound:
            raise ValueError(f"`{type(setting).__name__}({field}=...)` must be >= {bound}; got {value}.")


def require_at_most(setting: Setting, **most: float) -> None:
    """Refuse numbers beyond what any machine finishes or holds; None, where a field allows it, passes.

    Raises:
        ValueError: naming the argument, its largest value, and the one given.
    """
    for field, bound in most.items():
        value = getattr(setting, field)
        if value is not None and not value <= bound:
            raise ValueError(f"`{type(setting).__name__}({field}=...)` must be <= {bound:,}; got {value}.")
