"""The noun *Evidence*: what was measured, under which Setting, by which code. Written once, never edited.

One JSON file a run, ``<out>/evidence/<experiment>/<run-id>.json``; larger arrays beside it in ``<run-id>.npz``. The
run-id is a digest of (experiment, Setting, seed), so that the same run has the same name and a second look finds it.
A file appears under its name only when it is whole: bytes go to a temporary name, are flushed, and are then linked.
The JSON is linked last, so a killed run leaves either a complete record or none. It says of every array what dtype,
shape and digest it has, and whether it may hold NaN: what is read back is what was measured, or is refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from theory.judge.files import atomic_write
from theory.judge.reading import entry, is_array, is_mapping, is_sequence, read_archive, read_json

SCHEMA_VERSION = 2
_PACKAGES = ("numpy", "scipy", "numba", "control", "slycot", "scikit-learn", "torch", "torchvision")


@dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity: arrays have no truth value
class Evidence:
    """A measurement with everything needed to judge it or to make it again.

    Args:
        experiment: name of the experiment, a folder name.
        setting: the plain form of the Setting (`Setting.to_dict`).
        seed: root seed.
        measured: JSON values: numbers, strings, lists, dictionaries; no NaN, no infinity.
        arrays: named arrays of real numbers, stored beside the JSON in full precision; finite, but for those in `nan`.
        provenance: from `provenance`.
        nan: names of arrays in which NaN has a meaning, such as "not measured here".
    """

    experiment: str
    setting: Mapping[str, Any]
    seed: int
    measured: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    nan: frozenset[str] = frozenset()

    @property
    def run_id(self) -> str:
        """Digest of (experiment, setting, seed): 16 hexadecimal digits."""
        return run_id(self.experiment, self.setting, self.seed)

    def write(self, out: str | Path, *, deflate: bool = False) -> Path:
        """Write under ``<out>/evidence``.

        Args:
            out: results folder.
            deflate: compress the arrays, and write the record without spaces.

        Raises:
            FileExistsError: if this run is already recorded: evidence is never overwritten.
            ValueError: if a number is not finite, or an array holds something else than real numbers.
            OSError: if the folder cannot be written; nothing half-written stays behind.
        """
        folder = Path(out) / "evidence" / self.experiment
        path = folder / f"{self.run_id}.json"
        arrays = {name: _storable(np.asarray(array), name, name in self.nan) for name, array in self.arrays.items()}
        record = {
            "schema": SCHEMA_VERSION,
            "run_id": self.run_id,
            "experiment": self.experiment,
            "seed": self.seed,
            "setting": plain(self.setting),
            "measured": plain(self.measured),
            "arrays": {name: _describe(arrays[name], name in self.nan) for name in sorted(arrays)},
            "provenance": plain(self.provenance),
        }
        layout: dict[str, Any] = {"separators": (",", ":")} if deflate else {"indent": 1}
        text = json.dumps(record, allow_nan=False, ensure_ascii=False, **layout)
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise FileExistsError(f"evidence is written once: {path} exists already.")
        if arrays:
            buffer = io.BytesIO()
            save = np.savez_compressed if deflate else np.savez
            save(buffer, **arrays)  # pyright: ignore[reportArgumentType]
            # Arrays without their JSON are the debris of a killed run: they may be replaced.
            atomic_write(path.with_suffix(".npz"), buffer.getvalue(), overwrite=True)
        else:
            path.with_suffix(".npz").unlink(missing_ok=True)
        atomic_write(path, (text + "\n").encode(), overwrite=False)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Evidence:
        """Read one run back, whole, and check everything about it.

        Raises:
            ValueError: if a file is missing, truncated, renamed, edited or of another schema; if a field is missing,
                unknown or of another type; if the arrays beside it are not those that were measured.
        """
        path = Path(path)
        where = f"`Evidence.read(path={str(path)!r})`"
        record = read_json(path, where)
        if not is_mapping(record) or record.get("schema") != SCHEMA_VERSION:
            found = record.get("schema") if is_mapping(record) else type(record).__name__
            raise ValueError(f"{where} must have schema {SCHEMA_VERSION}; got {found!r}.")
        unknown = sorted(set(record) - {"schema", *_FIELDS})
        if unknown:
            raise ValueError(f"{where} must have no other fields than those of a run; got {unknown}.")
        fields = {name: entry(record, name, kind, where) for name, kind in _FIELDS.items()}
        named, described = fields.pop("run_id"), fields.pop("arrays")
        evidence = cls(
            **fields,
            arrays=_read_arrays(path.with_suffix(".npz"), described, where),
            nan=frozenset(name for name in described if described[name]["nan"]),
        )
        if evidence.run_id != named:
            raise ValueError(f"{where} was edited: its setting digests to {evidence.run_id}, not {named}.")
        if (path.parent.name, path.stem) != (evidence.experiment, evidence.run_id):
            raise ValueError(
                f"{where} was renamed: it is run {evidence.run_id} of {evidence.experiment!r}, and must be named so."
            )
        return evidence


_FIELDS: Mapping[str, type] = {
    "run_id": str,
    "experiment": str,
    "seed": int,
    "setting": dict,
    "measured": dict,
    "arrays": dict,
    "provenance": dict,
}


def may_be_nan(arrays: Mapping[str, Any]) -> frozenset[str]:
    """Names of the arrays that hold NaN, for a writer whose record has checked that they may."""
    found = {name: np.asarray(array) for name, array in arrays.items()}
    return frozenset(name for name, array in found.items() if array.dtype.kind == "f" and np.isnan(array).any())


def _storable(array: NDArray[Any], name: str, nan: bool) -> NDArray[Any]:
    """`array` in little-endian order, if it is fit to be evidence."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"evidence holds arrays of real numbers; {name!r} has dtype {array.dtype}.")
    wrong = _unfit(array, nan)
    if wrong:
        raise ValueError(f"evidence holds finite numbers only; the array {name!r} has {wrong}.")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _unfit(array: NDArray[Any], nan: bool) -> str:
    if array.dtype.kind != "f":
        return ""
    infinite, missing = int(np.isinf(array).sum()), int(np.isnan(array).sum())
    if infinite:
        return f"{infinite} infinite entries"
    return f"{missing} NaN" if missing and not nan else ""


def _describe(array: NDArray[Any], nan: bool) -> dict[str, Any]:
    """What the JSON says of an array that is stored beside it."""
    return {"dtype": array.dtype.str, "shape": list(array.shape), "nan": nan, "sha256": _digest(array)}


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data if array.size else b"").hexdigest()


def _read_arrays(path: Path, described: Mapping[str, Any], where: str) -> dict[str, NDArray[Any]]:
    """The arrays beside a record, held against what it says of them."""
    for name, said in described.items():
        what = f"{where}, array {name!r},"
        if not is_mapping(said):
            raise ValueError(f"{what} must be described by an object; got {type(said).__name__}.")
        for item, kind in (("dtype", str), ("shape", list), ("nan", bool), ("sha256", str)):
            entry(said, item, kind, what)
    if not described and not os.path.lexists(path):
        return {}
    arrays = read_archive(path, f"{where}, arrays beside it in {path.name},")
    if set(arrays) != set(described):
        odd = sorted(set(arrays) ^ set(described))
        raise ValueError(f"{where} needs its arrays beside it, and no others; only one of both has {odd}.")
    for name, array in arrays.items():
        said, what = described[name], f"{where}, array {name!r},"
        if [array.dtype.str, list(array.shape)] != [said["dtype"], said["shape"]]:
            found = f"{array.dtype.str} of {list(array.shape)}"
            raise ValueError(f"{what} must be {said['dtype']} of shape {said['shape']}; got {found}.")
        if _digest(array) != said["sha256"]:
            raise ValueError(f"{what} is not what was measured: its digest differs.")
        wrong = _unfit(array, said["nan"])
        if wrong:
            raise ValueError(f"{what} must be finite; it has {wrong}.")
    return arrays


def run_id(experiment: str, setting: Mapping[str, Any], seed: int) -> str:
    """Digest of (experiment, setting, seed): 16 hexadecimal digits of SHA-256 over canonical JSON."""
    canonical = json.dumps([experiment, plain(setting), int(seed)], sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def read_evidence(out: str | Path, experiments: Iterable[str] | None = None) -> tuple[Evidence, ...]:
    """All runs recorded under `out`, in the order of their paths; `experiments` keeps those named.

    Raises:
        ValueError: if the folder holds no evidence, or a file cannot be read.
    """
    root = Path(out) / "evidence"
    if not root.is_dir():
        raise ValueError(f"`read_evidence(out=...)` must be a folder with evidence in it; got {str(out)!r}.")
    wanted = None if experiments is None else set(experiments)
    paths = sorted(root.glob("*/*.json"))
    return tuple(Evidence.read(path) for path in paths if wanted is None or path.parent.name in wanted)


def plain(value: Any) -> Any:
    """JSON values of numbers, arrays, mappings and sequences; NaN and infinities are refused.

    Raises:
        ValueError: if a number is not finite.
        TypeError: if a value has no JSON form.
    """
    if is_array(value):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(cast(Any, value).item())
    if is_mapping(value):
        return {str(key): plain(item) for key, item in value.items()}
    if is_sequence(value):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"evidence holds finite numbers only; got {value}.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"evidence holds numbers, strings, lists and dictionaries; got {type(value).__name__}.")


def provenance(started: float, device: str = "cpu", **extra: Any) -> dict[str, Any]:
    """Who measured: commit, dirty flag, package versions, platform, device, start and seconds.

    Args:
        started: `time.time()` at the start of the run.
        device: where it ran.
        **extra: further facts worth keeping, such as the engine of a simulation.
    """
    return {
        **_environment(),
        "device": device,
        "start": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        **extra,
    }


@functools.cache
def _environment() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def _commit() -> tuple[str | None, bool | None]:
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None  # an installed wheel has no repository
