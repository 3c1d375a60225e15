"""The noun *Setting*: a frozen dataclass that survives a round trip through JSON without losing a bit.

A float is written as the shortest decimal that reads back to the same double (Python's `repr`), an array as nested
lists under the key ``"array"``, a nested Setting as a dictionary that names its own type. `Setting.from_dict` looks
the type up among the subclasses that have been imported and calls their constructors, so that whatever is read back
has passed validation again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np


class Setting:
    """Base of every description of something that can be run. Subclasses are frozen dataclasses."""

    _types: ClassVar[dict[str, type[Setting]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the subclass under its name, which is its type in JSON."""
        super().__init_subclass__(**kwargs)
        known = Setting._types.setdefault(cls.__name__, cls)
        if known.__module__ != cls.__module__:
            raise TypeError(f"a Setting's name is its type in JSON: {cls.__name__} is taken by {known.__module__}.")
        Setting._types[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values from which `Setting.from_dict` makes an equal Setting."""
        fields = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        return {"type": type(self).__name__, **fields}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The Setting that `to_dict` described.

        Raises:
            ValueError: if the type is unknown or is not a kind of the class it is asked of, or a field is missing,
                unknown or invalid.
        """
        name = plain.get("type")
        found = Setting._types.get(name) if isinstance(name, str) else None
        if found is None or not issubclass(found, cls):
            raise ValueError(f"`{cls.__name__}.from_dict(type=...)` must name a known {cls.__name__}; got {name!r}.")
        fields = {key: _rich(value) for key, value in plain.items() if key != "type"}
        try:
            return found(**fields)
        except TypeError as error:
            raise ValueError(f"`{name}` cannot be made from the fields {sorted(fields)}: {error}.") from None

    def __eq__(self, other: object) -> bool:
        """Equal type and equal fields, arrays compared bit for bit."""
        return type(self) is type(other) and self.to_dict() == other.to_dict()  # pyright: ignore[reportAttributeAccessIssue]

    def __hash__(self) -> int:
        """Hash of the type and the field names' plain values."""
        return hash(repr(self.to_dict()))


def _plain(value: Any) -> Any:
    if isinstance(value, Setting):
        return value.to_dict()
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a Setting may hold numbers, strings, arrays and Settings; got {type(value).__name__}.")


def _rich(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "type" in value:
            return Setting.from_dict(value)
        if set(value) == {"array"}:
            return np.asarray(value["array"], dtype=np.float64)
        return {key: _rich(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    return value


@dataclass_transform(frozen_default=True)
def setting(cls: type) -> type:
    """Decorator for subclasses of `Setting`: a frozen dataclass that keeps `Setting`'s equality and hash."""
    return dataclasses.dataclass(frozen=True, eq=False)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def keyword_setting(cls: type) -> type:
    """As `setting`, with fields given by keyword only."""
    return dataclasses.dataclass(frozen=True, eq=False, kw_only=True)(cls)
