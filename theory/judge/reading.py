"""Files of numbers that others wrote, checked before they are believed: JSON without surprises, arrays of known size.

Whatever is wrong is a `ValueError` in one line that begins with where it is: nothing hangs on a FIFO, nothing is
unpacked before its size is known to be sane, nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
import zlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from theory.judge.files import require_regular

#: Bytes of the largest JSON file and of the largest array that are read.
LARGEST_JSON = 2**30
LARGEST_ARRAY = 2**33
#: Integers in JSON are below this: everything counted or seeded here is.
LARGEST_INTEGER = 2**128
_HEADER = 2**16  # room for the header of an .npy file


def read_json(path: Path, where: str) -> Any:
    """A JSON file, UTF-8, with finite numbers alone.

    Args:
        path: the file.
        where: how an error begins.

    Raises:
        ValueError: if the file is missing, not regular, too large, not UTF-8, not JSON, or holds NaN, an infinity, a
            number that float64 does not hold, an integer beyond 128 bits, or a key twice.
    """
    size = require_regular(path, where)
    if size > LARGEST_JSON:
        raise ValueError(f"{where} must be at most {LARGEST_JSON} bytes; it has {size}.")

    def refuse(found: str) -> NoReturn:
        raise ValueError(f"a finite number is needed, not {found[:40]}")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    def integer(text: str) -> int:
        return int(text) if len(text) < 40 and abs(int(text)) < LARGEST_INTEGER else refuse(f"{text[:20]}…")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
        return found

    try:
        text = path.read_bytes().decode("utf-8")
        return json.loads(text, parse_constant=refuse, parse_float=number, parse_int=integer, object_pairs_hook=unique)
    except OSError as error:
        raise ValueError(f"{where} must be a readable file; {error.strerror}.") from None
    except RecursionError:
        raise ValueError(f"{where} must hold JSON; it is nested too deeply.") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are of this kind
        raise ValueError(f"{where} must hold JSON; {_one_line(error)}.") from None


def read_array(path: Path, where: str) -> NDArray[Any]:
    """The array of an ``.npy`` file.

    Raises:
        ValueError: if the file is missing, damaged, too large, or does not hold real numbers.
    """
    size = require_regular(path, where)
    with _one_line_errors(where), path.open("rb") as stream:
        return _array(stream, size, where)


def read_archive(path: Path, where: str) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz`` file.

    Raises:
        ValueError: if the file is missing or damaged, or a member is encrypted, compressed by other means than deflate,
            twice there, no array, larger than its header says or than is sane, or holds something else than numbers.
    """
    require_regular(path, where)
    arrays: dict[str, NDArray[Any]] = {}
    with _one_line_errors(where), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name, dot, ending = member.filename.rpartition(".")
            what = f"{where}, member {member.filename[:80]!r},"
            if not dot or ending != "npy" or name in arrays:
                raise ValueError(f"{what} must be an .npy file that stands there once.")
            if member.flag_bits & 0x1:
                raise ValueError(f"{what} must not be encrypted.")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{what} must be stored or deflated; its compression is {member.compress_type}.")
            if member.file_size > LARGEST_ARRAY + _HEADER:
                raise ValueError(f"{what} must be at most {LARGEST_ARRAY} bytes; it says {member.file_size}.")
            with archive.open(member) as stream:
                arrays[name] = _array(stream, member.file_size, what)
    return arrays


def is_archive(path: Path) -> bool:
    """Whether a regular file begins as an ``.npz`` file does."""
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"


def _array(stream: IO[bytes], size: int, where: str) -> NDArray[Any]:
    """An array whose header, read first, accounts for every byte of the `size` that there are."""
    major, minor = np.lib.format.read_magic(stream)
    if (major, minor) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif (major, minor) == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"{where} must be in version 1 or 2 of the .npy format; it is in {major}.{minor}.")
    if dtype.kind not in "biufc" or dtype.hasobject:
        raise ValueError(f"{where} must hold numbers; got dtype {dtype!s:.60}.")
    if any(length < 0 for length in shape):
        raise ValueError(f"{where} must have a shape; got {shape}.")
    count = math.prod(shape)
    if count * dtype.itemsize > LARGEST_ARRAY:
        raise ValueError(f"{where} must be at most {LARGEST_ARRAY} bytes; shape {shape} has {count * dtype.itemsize}.")
    if stream.tell() + count * dtype.itemsize != size:
        raise ValueError(f"{where} must be whole; {size} bytes are not an array of shape {shape} and dtype {dtype}.")
    content = stream.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"{where} must be whole; it ends early.")
    if stream.read(1):
        raise ValueError(f"{where} must be whole; it goes on beyond its end.")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy()


@contextlib.contextmanager
def _one_line_errors(where: str) -> Generator[None, None, None]:
    """What the libraries raise on damaged files, as one line that says where."""
    damage = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
    try:
        yield
    except MemoryError:
        raise ValueError(f"{where} does not fit into memory.") from None
    except (*damage, SyntaxError, TypeError, OverflowError, KeyError, IndexError) as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where} must be a whole .npy or .npz file; {_one_line(error)}.") from None


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether it is a mapping; what was read from JSON has strings for keys."""
    return isinstance(value, Mapping)


def is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list or a tuple."""
    return isinstance(value, (list, tuple))


def is_array(value: object) -> TypeGuard[NDArray[Any]]:
    """Whether it is a NumPy array, of whatever type."""
    return isinstance(value, np.ndarray)


def entry(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The field `name` of a JSON object, of one of the types given; true and false are no numbers.

    Raises:
        ValueError: if it is not there or of another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if name not in record:
        raise ValueError(f"{where} must have the field {name!r}.")
    value = record[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join("null" if one is type(None) else one.__name__ for one in kinds)
        raise ValueError(f"{where}, field {name!r}, must be {expected}; got {type(value).__name__}.")
    return value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
