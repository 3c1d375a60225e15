"""The noun *Setting*: a frozen dataclass that survives a round trip through JSON without losing a bit.

A float is written as the shortest decimal that reads back to the same double (Python's `repr`), an array as nested
lists under the key ``"array"``, a nested Setting as a dictionary that names its own type. ``from_dict`` is asked of the
class that is expected, and finds the types of nested Settings in the annotations of its fields: what can be read back
does not depend on what else was imported. It calls the constructors, so that whatever is read back has passed
validation again.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeGuard, TypeVar, cast, dataclass_transform

import numpy as np
from numpy.typing import NDArray

_Setting = TypeVar("_Setting")


class Setting:
    """Base of every description of something that can be run. Subclasses are frozen dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values from which the class's ``from_dict`` makes an equal Setting."""
        fields = {
            item.name: _plain(getattr(self, item.name))
            for item in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
            if not (item.metadata.get("later") and _is_nothing(getattr(self, item.name)))
        }
        return {"type": type(self).__name__, **fields}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The Setting that `to_dict` described: of this class, or of a subclass of it.

        Raises:
            ValueError: if the type is another than the one asked for, or a field is missing, unknown or invalid.
            TypeError: if it is asked of `Setting` itself, which describes nothing.
        """
        if cls is Setting:
            raise TypeError("ask `from_dict` of the Setting that is expected, such as `MomentumSGD.from_dict`.")
        return _read(plain, (cls,), cls.__name__)

    @classmethod
    def _of(cls, plain: Mapping[str, Any]) -> Self:
        hints = _hints(cls)
        fields = {key: _rich(value, hints.get(key), f"{cls.__name__}.{key}") for key, value in plain.items()}
        fields.pop("type")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"`{cls.__name__}` cannot be made from the fields {sorted(fields)}: {error}.") from None

    def __eq__(self, other: object) -> bool:
        """Equal type and equal fields, arrays compared bit for bit."""
        return isinstance(other, Setting) and type(self) is type(other) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Hash of the type and the field names' plain values."""
        return hash(repr(self.to_dict()))


def later_field(default: Any = None) -> Any:
    """A field that a Setting gained later: left out of JSON while it says nothing (None, false, or zeros).

    What was written before the field existed is then still equal to what is written today, digest included.

    Args:
        default: None or False.
    """
    return dataclasses.field(default=default, metadata={"later": True})


def require_type(value: object, kind: type | tuple[type, ...], where: str, hint: str = "") -> None:
    """Refuse an argument of the wrong type by its name.

    Args:
        value: what was given.
        kind: the class or classes it must be of.
        where: call and argument, as ``"propagate(schedule=...)"``.
        hint: how to make one, for instance from a list.

    Raises:
        TypeError: if it is of none of them.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds):
        names = " or ".join("None" if one is type(None) else f"a {one.__name__}" for one in kinds)
        advice = f" ({hint})" if hint else ""
        raise TypeError(f"`{where}` must be {names}{advice}; got {type(value).__name__}.")


def is_integer(value: object) -> bool:
    """Whether it is a whole number of Python's or NumPy's; true and false are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_array(value: object) -> TypeGuard[NDArray[Any]]:
    return isinstance(value, np.ndarray)


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or (_is_array(value) and not value.any())


def _plain(value: Any) -> Any:
    if isinstance(value, Setting):
        return value.to_dict()
    if _is_array(value):
        return {"array": value.tolist()}
    if isinstance(value, np.generic):
        return cast(Any, value).item()
    if _is_sequence(value):
        return [_plain(item) for item in value]
    if _is_mapping(value):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a Setting may hold numbers, strings, arrays and Settings; got {type(value).__name__}.")


@functools.cache
def _hints(cls: type[Setting]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _settings_in(hint: Any) -> tuple[type[Setting], ...]:
    """The kinds of Setting that an annotation names, however deep: ``tuple[Segment, ...]``, ``PGD | None``."""
    if isinstance(hint, type) and issubclass(hint, Setting):
        return (hint,)
    return tuple(kind for part in typing.get_args(hint) for kind in _settings_in(part))


def _read(plain: Any, kinds: tuple[type[Any], ...], where: str) -> Any:
    name = plain.get("type") if _is_mapping(plain) else None
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop(0)
        if kind.__name__ == name:
            return kind._of(plain)
        waiting += kind.__subclasses__()
    wanted = " or ".join(kind.__name__ for kind in kinds) or "no Setting"
    raise ValueError(f"`{where}` must be read from a known {wanted}; got the type {name!r}.")


def _rich(value: Any, hint: Any, where: str) -> Any:
    if _is_mapping(value):
        if "type" in value:
            return _read(value, _settings_in(hint), where)
        if set(value) == {"array"}:
            return np.asarray(value["array"], dtype=np.float64)
        return {key: _rich(item, hint, where) for key, item in value.items()}
    if _is_sequence(value):
        return tuple(_rich(item, hint, where) for item in value)
    return value


@dataclass_transform(frozen_default=True)
def setting(cls: type[_Setting]) -> type[_Setting]:
    """Decorator for subclasses of `Setting`: a frozen dataclass that keeps `Setting`'s equality and hash."""
    return dataclasses.dataclass(frozen=True, eq=False)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def keyword_setting(cls: type[_Setting]) -> type[_Setting]:
    """As `setting`, with fields given by keyword only."""
    return dataclasses.dataclass(frozen=True, eq=False, kw_only=True)(cls)
