"""The one path from a measurement to `Evidence` and back: typed, validated, the same for every experiment.

A record is a frozen keyword dataclass whose annotations say what may stand in its fields. They are checked when it is
made, so that what is measured and what is read from disk pass the same gate, and a field that does not exist is a type
error at the desk instead of a surprise at judging.

Fields    ``bool``, ``int``, ``float`` (finite), ``str``, ``Literal``, ``tuple``, ``Mapping[str, …]``, `Setting`, a
          nested `Part`, any of these ``| None`` where absence has a meaning, and arrays,
              Annotated[NDArray[np.float64], axes("samples", "directions")],
          finite unless ``axes(..., nan=True)``. Axes of one name have one length throughout a record; a part under a
          mapping, or marked `APART`, counts its axes by itself.
Identity  A field marked `IDENTITY` is a key of the evidence's setting; one marked `WHOLE` is that setting. With the
          seed they are what the run-id digests.
Disk      Numbers and words go to ``measured``, nested as the parts are; every array goes to ``arrays`` under its path,
          such as ``gamma.values``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from theory.judge.evidence import Evidence, may_be_nan, plain, run_id
from theory.judge.reading import is_array, is_mapping, is_sequence
from theory.model.setting import Setting

_Part = TypeVar("_Part")

__all__ = ["APART", "IDENTITY", "WHOLE", "Axes", "Part", "Record", "axes", "part"]


@dataclass(frozen=True)
class Axes:
    """What the axes of an array count, and whether NaN has a meaning in it."""

    names: tuple[str, ...]
    nan: bool = False


def axes(*names: str, nan: bool = False) -> Axes:
    """Names of an array's axes, in order; ``nan``: NaN says "not measured here"."""
    return Axes(names, nan)


class _Mark:
    """A property of a field that its type does not carry."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning

    def __repr__(self) -> str:
        return self.meaning


IDENTITY = _Mark("a key of the evidence's setting")
WHOLE = _Mark("the evidence's setting")
APART = _Mark("axes are counted within this part")


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
def part(cls: type[_Part]) -> type[_Part]:
    """Decorator of parts and records: a frozen keyword dataclass, compared and hashed by identity."""
    return dataclass(frozen=True, kw_only=True, eq=False)(cls)


@part
class Part:
    """Some fields of a record that belong together."""

    def __post_init__(self) -> None:
        """Check types, ranges of numbers, and the lengths of axes against one another.

        Raises:
            ValueError: naming the field, the rule and what was got.
        """
        for field in _fields(type(self)):
            _check(getattr(self, field.name), field, f"`{type(self).__name__}({field.name}=...)`")
        _same_lengths(self)


@part
class Record(Part):
    """What one run of an experiment leaves; subclasses name the experiment.

    Args:
        seed: root seed.
        provenance: from `theory.judge.evidence.provenance`.
    """

    experiment: ClassVar[str]

    seed: int
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def run_id(self) -> str:
        """The name of the evidence: digest of (experiment, setting, seed)."""
        return self._run_id

    @functools.cached_property
    def _run_id(self) -> str:
        return run_id(self.experiment, self._setting(), self.seed)

    @classmethod
    def run_id_of(cls, *, seed: int, **identity: Any) -> str:
        """The name that the evidence of this identity has, before it is measured.

        Raises:
            TypeError: if the fields are not those of the identity.
        """
        fields = [field for field in _fields(cls) if field.identity or field.whole]
        names = sorted(field.name for field in fields)
        if sorted(identity) != names:
            raise TypeError(f"`{cls.__name__}.run_id_of` needs the fields {names}; got {sorted(identity)}.")
        return run_id(cls.experiment, _setting(fields, identity), seed)

    def to_evidence(self) -> Evidence:
        """The record as evidence, to be written once."""
        arrays: dict[str, NDArray[Any]] = {}
        measured = {
            field.name: _plain(getattr(self, field.name), f"{field.name}.", arrays)
            for field in _measured(type(self))
            if not field.is_array
        }
        for field in _measured(type(self)):
            value = getattr(self, field.name)
            if field.is_array and value is not None:
                arrays[field.name] = value
        return Evidence(
            experiment=self.experiment,
            setting=self._setting(),
            seed=self.seed,
            measured=measured,
            arrays=arrays,
            nan=may_be_nan(arrays),
            provenance=self.provenance,
        )

    @classmethod
    def from_evidence(cls, evidence: Evidence) -> Self:
        """The record in a file of evidence.

        Raises:
            ValueError: one line that names the file, the field and the rule.
        """
        where = f"evidence/{evidence.experiment}/{evidence.run_id}.json"
        if evidence.experiment != cls.experiment:
            raise ValueError(f"{where} must be of the experiment {cls.experiment!r}; got {evidence.experiment!r}.")
        try:
            made = _identity_fields(cls, evidence.setting)
            arrays = dict(evidence.arrays)
            made |= _part_fields(cls.__name__, evidence.measured, "", arrays, _measured(cls))
            if arrays:
                raise ValueError(f"`arrays` must be those of {cls.__name__}; unknown: {sorted(arrays)}.")
            return cls(**made, seed=evidence.seed, provenance=evidence.provenance)
        except ValueError as error:
            raise ValueError(f"{where}: {' '.join(str(error).split())}") from None

    def _setting(self) -> Mapping[str, Any]:
        fields = [field for field in _fields(type(self)) if field.identity or field.whole]
        return _setting(fields, {field.name: getattr(self, field.name) for field in fields})


@dataclass(frozen=True)
class _Field:
    """A field's annotation, taken apart."""

    name: str
    hint: Any  # without Annotated and without None
    optional: bool
    axes: Axes | None
    identity: bool
    whole: bool
    apart: bool

    @property
    def is_array(self) -> bool:
        return self.axes is not None


@functools.cache
def _fields(cls: type) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_taken_apart(field.name, hints[field.name]) for field in dataclasses.fields(cls))


def _measured(cls: type) -> list[_Field]:
    """Fields that are neither identity, seed nor provenance."""
    own = {field.name for field in _fields(Record)}
    return [field for field in _fields(cls) if not (field.identity or field.whole or field.name in own)]


def _taken_apart(name: str, hint: Any) -> _Field:
    marks: tuple[Any, ...] = ()
    optional = False
    while True:  # Annotated may stand inside the union with None, or around it
        if typing.get_origin(hint) is Annotated:
            hint, *more = typing.get_args(hint)
            marks += tuple(more)
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            inner = [item for item in typing.get_args(hint) if item is not type(None)]
            if len(inner) != 1:
                raise TypeError(f"a record's field may be of one type, or that type and None; got {hint}.")
            hint, optional = inner[0], True
        else:
            break
    found = [mark for mark in marks if isinstance(mark, Axes)]
    if typing.get_origin(hint) is np.ndarray and not found:
        raise TypeError(f"an array of a record must name its axes; {name} does not.")
    return _Field(
        name=name,
        hint=hint,
        optional=optional,
        axes=found[0] if found else None,
        identity=IDENTITY in marks,
        whole=WHOLE in marks,
        apart=APART in marks,
    )


# --- checking ---------------------------------------------------------------------------------------------------------

_ARRAY_KINDS = {"f": "f", "i": "iu", "b": "b"}
_WORDS: dict[type, str] = {bool: "true or false", int: "a whole number", str: "a string", float: "a finite number"}


def _check(value: Any, field: _Field, where: str) -> None:
    if value is None and field.optional:
        return
    if field.axes is not None:
        _check_array(value, field.hint, field.axes, where)
    else:
        _check_type(value, field.hint, where)


def _check_array(value: Any, hint: Any, named: Axes, where: str) -> None:
    kind = np.dtype(typing.get_args(typing.get_args(hint)[1])[0]).kind
    if not is_array(value):
        raise ValueError(f"{where} must be an array; got {type(value).__name__}.")
    if value.dtype.kind not in _ARRAY_KINDS[kind]:
        raise ValueError(f"{where} must hold numbers of kind {kind!r}; got {value.dtype}.")
    if value.ndim != len(named.names):
        raise ValueError(f"{where} must have shape ({', '.join(named.names)}); got {value.shape}.")
    if kind == "f" and not named.nan and not np.isfinite(value).all():
        raise ValueError(f"{where} must be finite; got {int((~np.isfinite(value)).sum())} entries that are not.")
    if kind == "f" and named.nan and np.isinf(value).any():
        raise ValueError(f"{where} must be finite or NaN; got {int(np.isinf(value).sum())} infinite entries.")


def _check_type(value: Any, hint: Any, where: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} must be one of {', '.join(map(str, arguments))}; got {value!r}.")
    elif origin is tuple:
        _check_tuple(value, arguments, where)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if not is_mapping(value) or not all(isinstance(key, str) for key in cast("Mapping[object, Any]", value)):
            raise ValueError(f"{where} must be a mapping of names; got {type(value).__name__}.")
        for key, item in value.items():
            _check(item, _taken_apart(key, arguments[1]), f"{where}[{key!r}]")
    elif hint in _WORDS:
        _check_scalar(value, hint, where)
    elif not isinstance(value, hint):
        raise ValueError(f"{where} must be a {hint.__name__}; got {type(value).__name__}.")


def _check_scalar(value: Any, hint: type, where: str) -> None:
    allowed = (int, float) if hint is float else hint
    if not isinstance(value, allowed) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} must be {_WORDS[hint]}; got {value!r}.")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number; got {value}.")


def _check_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{where} must be a sequence; got {type(value).__name__}.")
    items = cast("tuple[Any, ...]", value)
    each = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
    if len(each) != len(items):
        raise ValueError(f"{where} must have {len(each)} entries; got {len(items)}.")
    for index, (item, hint) in enumerate(zip(items, each, strict=True)):
        _check(item, _taken_apart(str(index), hint), f"{where}[{index}]")


def _same_lengths(whole: Part) -> None:
    """Axes of one name have one length; the first array that has it says which."""
    lengths: dict[str, tuple[int, str]] = {}
    for path, array, named in _arrays(whole, ""):
        for axis, length in zip(named.names, array.shape, strict=True):
            known, by = lengths.setdefault(axis, (length, path))
            if known != length:
                raise ValueError(
                    f"`{type(whole).__name__}({path}=...)` must have shape ({', '.join(named.names)}) with {known} "
                    f"{axis}, as `{by}` has; got {array.shape}."
                )


def _arrays(whole: Part, prefix: str) -> Iterator[tuple[str, NDArray[Any], Axes]]:
    for field in _fields(type(whole)):
        value = getattr(whole, field.name)
        if field.axes is not None and value is not None:
            yield f"{prefix}{field.name}", value, field.axes
        elif isinstance(value, Part) and not field.apart:
            yield from _arrays(value, f"{prefix}{field.name}.")


# --- to disk and back -------------------------------------------------------------------------------------------------


def _setting(fields: Iterable[_Field], values: Mapping[str, Any]) -> Mapping[str, Any]:
    kept: dict[str, Any] = {}
    for field in fields:
        value = values[field.name]
        simple = value.to_dict() if isinstance(value, Setting) else plain(value)
        if field.whole:
            return simple
        kept[field.name] = simple
    return kept


def _identity_fields(cls: type, setting: Any) -> dict[str, Any]:
    fields = [field for field in _fields(cls) if field.identity or field.whole]
    if len(fields) == 1 and fields[0].whole:
        return {fields[0].name: _rich(setting, fields[0], cls.__name__, "setting", {})}
    _same_names(setting, [field.name for field in fields], f"`{cls.__name__}(setting=...)`")
    return {field.name: _rich(setting[field.name], field, cls.__name__, field.name, {}) for field in fields}


def _plain(value: Any, prefix: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, Part):
        kept: dict[str, Any] = {}
        for field in _fields(type(value)):
            item = getattr(value, field.name)
            if not field.is_array:
                kept[field.name] = _plain(item, f"{prefix}{field.name}.", arrays)
            elif item is not None:
                arrays[f"{prefix}{field.name}"] = item
        return kept
    if isinstance(value, Setting):
        return value.to_dict()
    if is_mapping(value):
        return {key: _plain(item, f"{prefix}{key}.", arrays) for key, item in value.items()}
    if is_sequence(value):
        return [_plain(item, f"{prefix}{index}.", arrays) for index, item in enumerate(value)]
    return plain(value)


def _part_fields(
    root: str, values: Any, prefix: str, arrays: dict[str, NDArray[Any]], fields: Iterable[_Field]
) -> dict[str, Any]:
    """Arguments of a part from what is on disk; arrays that are used are taken out of ``arrays``."""
    fields = list(fields)
    place = f"`{root}({prefix[:-1]}=...)`" if prefix else f"`{root}`"
    _same_names(values, [field.name for field in fields if not field.is_array], place)
    made: dict[str, Any] = {}
    for field in fields:
        path = f"{prefix}{field.name}"
        if not field.is_array:
            made[field.name] = _rich(values[field.name], field, root, path, arrays)
        elif path in arrays:
            made[field.name] = _full_width(arrays.pop(path), field)
        elif field.optional:
            made[field.name] = None
        else:
            raise ValueError(f"`{root}({path}=...)` is missing: the arrays hold no {path!r}.")
    return made


def _full_width(array: NDArray[Any], field: _Field) -> NDArray[Any]:
    """The array in the type its field declares; compact evidence stores float64 as float32."""
    wanted = np.dtype(typing.get_args(typing.get_args(field.hint)[1])[0])
    return array.astype(wanted) if array.dtype.kind == wanted.kind else array


def _rich(value: Any, field: _Field, root: str, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """The value of a field from its JSON form; what is not of the field's type is left for the check to name."""
    hint, where = field.hint, f"`{root}({path}=...)`"
    if hint is Any:
        return value
    if value is None:
        if not field.optional:
            raise ValueError(f"{where} must not be null.")
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Part):
        fields = _part_fields(root, value, f"{path}.", arrays, _fields(hint))
        try:
            return hint(**fields)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if isinstance(hint, type) and issubclass(hint, Setting):
        if not is_mapping(value):
            raise ValueError(f"{where} must be an object with fields; got {type(value).__name__}.")
        try:
            return hint.from_dict(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if origin is tuple and is_sequence(value):
        each = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(each) != len(value):
            raise ValueError(f"{where} must have {len(each)} entries; got {len(value)}.")
        return tuple(
            _rich(item, _taken_apart(str(index), inner), root, f"{path}.{index}", arrays)
            for index, (item, inner) in enumerate(zip(value, each, strict=True))
        )
    if isinstance(origin, type) and issubclass(origin, Mapping) and is_mapping(value):
        return {
            key: _rich(item, _taken_apart(key, arguments[1]), root, f"{path}.{key}", arrays)
            for key, item in value.items()
        }
    return value


def _same_names(values: Any, wanted: Iterable[str], where: str) -> None:
    if not is_mapping(values):
        raise ValueError(f"{where} must be an object with fields; got {type(values).__name__}.")
    wanted = set(wanted)
    missing, unknown = sorted(wanted - set(values)), sorted(set(values) - wanted)
    if missing or unknown:
        problems = [f"{word}: {names}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        raise ValueError(f"{where} must have exactly its fields; {', '.join(problems)}.")
