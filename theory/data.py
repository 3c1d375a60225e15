"""What a user hands over: H and C as arrays, and tables for ridge regression, bundled or CSV files of their own.

A table that cannot be regressed on as it stands is refused with one line that names the file, the place and the rule.
Nothing is imputed, encoded or dropped silently: what may be dropped is dropped on request, and stated in `notes`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.judge.files import require_regular
from theory.judge.reading import is_archive, read_archive, read_array
from theory.model.quadratic import Quadratic

BUNDLED = ("diabetes", "digits")

#: Spellings of a missing value, lower case.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "."})


#: Range of the largest entry of a matrix: its square, and the square of what it is divided by, stay in float64.
LEAST_SCALE, LARGEST_SCALE = 1e-140, 1e140


class MissingPackageError(ImportError):
    """An optional package is needed for what was asked."""


@dataclass(frozen=True, kw_only=True)
class RegressionTable:
    """Inputs and a target, raw.

    Args:
        name: where it comes from.
        inputs: shape ``(N, m)``.
        targets: shape ``(N,)``.
        columns: names of the inputs.
        target: name of the target.
        notes: what was done to the table on the way, one line each.
    """

    name: str
    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]
    columns: tuple[str, ...]
    target: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the numbers."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.targets):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def standardized(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Inputs and targets with mean 0 and variance 1: the intercept is gone, the curvatures have no units.

        Raises:
            ValueError: if a column's numbers are too large, or too close to each other, for a variance in float64.
        """
        with np.errstate(all="ignore"):
            spread, target_spread = self.inputs.std(axis=0), self.targets.std()
            for name, value in zip((*self.columns, self.target), (*spread, target_spread), strict=True):
                if not (np.isfinite(value) and value > 0):
                    raise ValueError(f"{self.name}, column {name!r}: must have a variance that float64 can hold.")
            inputs = (self.inputs - self.inputs.mean(axis=0)) / spread
            targets = (self.targets - self.targets.mean()) / target_spread
        return inputs, targets


def load_problem(hessian: str | Path, noise_cov: str | Path) -> Quadratic:
    """Read H and C from ``.npy`` files, or from ``.npz`` archives holding one array or one named after the role.

    Raises:
        ValueError: if a file is missing, damaged or too large, or its matrix is not valid for `Quadratic`.
    """
    roles = {"hessian": Path(hessian), "noise_cov": Path(noise_cov)}
    read = {role: _read_matrix(path, role) for role, path in roles.items()}
    try:
        with np.errstate(all="ignore"):
            return Quadratic(read["hessian"], read["noise_cov"])
    except (TypeError, np.linalg.LinAlgError) as error:
        raise ValueError(str(error)) from None


def _read_matrix(path: Path, role: str) -> NDArray[Any]:
    where = f"`{role}` file {path}"
    require_regular(path, where)
    if not is_archive(path):
        return _usable(read_array(path, where), where)
    arrays = read_archive(path, where)
    key = role if role in arrays else next(iter(arrays)) if len(arrays) == 1 else None
    if key is None:
        raise ValueError(f"{where} must hold one array or one named '{role}'; got {sorted(arrays)}.")
    return _usable(arrays[key], where)


def _usable(matrix: NDArray[Any], where: str) -> NDArray[Any]:
    """A matrix whose numbers can be squared and divided by: else the answer is lost to overflow or underflow."""
    if matrix.dtype.kind not in "iuf":
        raise ValueError(f"{where} must hold real numbers; got dtype {matrix.dtype}.")
    with np.errstate(all="ignore"):
        numbers = np.asarray(matrix, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{where} must be finite; {int((~np.isfinite(numbers)).sum())} entries are not.")
    largest = float(np.abs(numbers).max(initial=0.0))
    if largest and not LEAST_SCALE <= largest <= LARGEST_SCALE:
        scale = f"{LEAST_SCALE:g} and {LARGEST_SCALE:g}"
        raise ValueError(f"{where} must have its largest entry between {scale}; got {largest:.3g}.")
    return matrix


def load_table(
    data: str,
    target: str | None = None,
    *,
    encoding: str = "utf-8",
    delimiter: str = ",",
    ignore: Sequence[str] = (),
    drop_constant: bool = False,
) -> RegressionTable:
    """A bundled table by name, or a CSV file by path.

    Args:
        data: ``"diabetes"`` (442 patients, 10 inputs, disease progression), ``"digits"`` (1797 images of 8×8 pixels,
            the digit as a number), or the path of a CSV file whose first row names the columns.
        target: column to predict; needed for a CSV file, refused for a bundled table.
        encoding: of the CSV file; a byte-order mark is skipped.
        delimiter: between the cells of the CSV file.
        ignore: columns of the CSV file to leave out.
        drop_constant: leave out inputs that never change, instead of refusing them.

    Raises:
        ValueError: naming the place and the rule, if the table cannot be used.
        MissingPackageError: if a bundled table is asked for without scikit-learn.
    """
    if data in BUNDLED:
        if target is not None:
            raise ValueError(f"`--target` is for CSV files; the target of {data!r} is fixed, got {target!r}.")
        if ignore:
            raise ValueError(f"`--ignore` is for CSV files; got {', '.join(ignore)} with {data!r}.")
        return _bundled(data)
    path = Path(data)
    if not path.exists():
        raise ValueError(f"`--data` must be {' or '.join(BUNDLED)}, or an existing CSV file; got {data!r}.")
    if target is None:
        raise ValueError("`--target` must name the column to predict; got nothing.")
    return read_csv(path, target, encoding=encoding, delimiter=delimiter, ignore=ignore, drop_constant=drop_constant)


def read_csv(
    path: Path,
    target: str,
    *,
    encoding: str = "utf-8",
    delimiter: str = ",",
    ignore: Sequence[str] = (),
    drop_constant: bool = False,
) -> RegressionTable:
    """Read a CSV file of numbers whose first row names the columns; arguments as in `load_table`.

    Raises:
        ValueError: if the file is unreadable, is not in that encoding, has no header, ragged rows, missing values,
            text, infinite numbers, a constant column, no such target, or fewer than 2 rows.
    """
    rows = _rows(path, encoding, delimiter)
    if not rows:
        raise ValueError(f"{path} must have a header and rows; it is empty.")
    header = [cell.strip() for _, row in rows[:1] for cell in row]
    _check_header(path, header, delimiter)
    unknown = [name for name in ignore if name not in header]
    if unknown:
        raise ValueError(
            f"`--ignore` must name columns of {path}; unknown: {_listed(unknown)}. It has: {_listed(header)}."
        )
    if target not in header:
        raise ValueError(f"`--target` must be a column of {path}; got {target!r}. It has: {_listed(header)}.")
    if target in ignore:
        raise ValueError(f"`--target` must not be ignored; got {target!r} for both.")
    kept = [index for index, name in enumerate(header) if name not in ignore]
    body = rows[1:]
    if len(body) < 2:
        raise ValueError(f"{path} must have at least 2 rows below its header; got {len(body)}.")
    for line, row in body:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {line}: must have {len(header)} cells as the header has; got {len(row)}.")
    numbers = np.empty((len(body), len(kept)))
    for column, index in enumerate(kept):
        numbers[:, column] = _numbers(path, header[index], ((line, row[index]) for line, row in body))
    names = [header[index] for index in kept]
    at = names.index(target)
    return _checked(
        str(path),
        np.delete(numbers, at, axis=1),
        numbers[:, at],
        tuple(name for name in names if name != target),
        target,
        drop_constant,
    )


def _rows(path: Path, encoding: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every row that is not blank."""
    if len(delimiter) != 1:
        raise ValueError(f"`--delimiter` must be one character; got {delimiter!r}.")
    require_regular(path, str(path))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} must be a readable file: {error.strerror}.") from None
    try:
        text = raw.decode("utf-8-sig" if encoding.lower().replace("_", "-") == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: must be {encoding}; byte 0x{raw[error.start]:02x} is not. "
            "Name the file's encoding with --encoding, e.g. latin-1."
        ) from None
    except LookupError:
        raise ValueError(f"`--encoding` must be a known encoding; got {encoding!r}.") from None
    if "\x00" in text:
        raise ValueError(f"{path} must be text in {encoding}; it holds NUL characters (UTF-16, or not a text file?).")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: must be CSV; {error}.") from None
    return rows


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    if all(_is_number(cell) for cell in header):
        raise ValueError(f"{path}: the first row must name the columns; it holds numbers: {_listed(header)}.")
    blank = [index + 1 for index, name in enumerate(header) if not name]
    if blank:
        raise ValueError(f"{path}: every column must have a name; column {blank[0]} has none.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: column names must differ; twice: {_listed(twice)}.")
    if len(header) < 2:
        raise ValueError(
            f"{path} must have a target and at least one input, separated by {delimiter!r}; "
            f"its only column is {header[0]!r} (another --delimiter?)."
        )


def _numbers(path: Path, name: str, cells: Iterable[tuple[int, str]]) -> list[float]:
    values = []
    for line, cell in cells:
        text = cell.strip()
        if text.lower() in MISSING:
            raise ValueError(
                f"{path}, line {line}, column {name!r}: must hold a number; the value is missing ({text!r}). "
                f"Remove the row, or leave the column out with --ignore {name}."
            )
        if not _is_number(text):
            raise ValueError(
                f"{path}, line {line}, column {name!r}: must hold a number; got {text[:40]!r}. "
                f"Encode the column as numbers, or leave it out with --ignore {name}."
            )
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{path}, line {line}, column {name!r}: must be finite; got {text!r}.")
        values.append(value)
    return values


def _is_number(text: str) -> bool:
    if "_" in text:  # Python reads 1_000 as a number; a table that holds it is more likely text
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked(
    name: str,
    inputs: NDArray[np.float64],
    targets: NDArray[np.float64],
    columns: tuple[str, ...],
    target: str,
    drop_constant: bool,
) -> RegressionTable:
    """Refuse or drop what never changes."""
    if (targets == targets[0]).all():
        raise ValueError(f"{name}: the target {target!r} must vary; it is {targets[0]:g} in every row.")
    constant = (inputs == inputs[:1]).all(axis=0)
    notes: tuple[str, ...] = ()
    if constant.any():
        dropped = [column for column, still in zip(columns, constant, strict=True) if still]
        if not drop_constant:
            raise ValueError(
                f"{name}: every input must vary; constant: {_listed(dropped)}. Leave them out with --drop-constant."
            )
        notes = (f"left out {len(dropped)} constant inputs: {_listed(dropped)}",)
        inputs = inputs[:, ~constant]
        columns = tuple(column for column, still in zip(columns, constant, strict=True) if not still)
    if not columns:
        raise ValueError(f"{name} must have at least one input besides {target!r} that varies; got none.")
    inputs, targets = np.ascontiguousarray(inputs), np.ascontiguousarray(targets)
    return RegressionTable(name=name, inputs=inputs, targets=targets, columns=columns, target=target, notes=notes)


def _bundled(name: str) -> RegressionTable:
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingPackageError(
            f"the table {name!r} comes with scikit-learn, which is not installed: pip install 'spikeshrink[data]'."
        ) from None
    bunch: Any = datasets.load_diabetes(scaled=False) if name == "diabetes" else datasets.load_digits()
    columns = tuple(str(column) for column in bunch.feature_names)
    target = "progression" if name == "diabetes" else "digit"
    inputs, targets = np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.float64)
    return _checked(name, inputs, targets, columns, target, drop_constant=True)


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
