"""The noun *Evidence*: what was measured, under which Setting, by which code. Written once, never edited.

One JSON file a run, ``<out>/evidence/<experiment>/<run-id>.json``; larger arrays beside it in ``<run-id>.npz``. The
run-id is a digest of (experiment, Setting, seed), so that the same run has the same name and a second look finds it.
A file appears under its name only when it is whole: bytes go to a temporary name, are flushed, and are then linked.
The JSON is linked last, so a killed run leaves either a complete record or none.
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
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.judge.files import atomic_write

SCHEMA_VERSION = 1
_PACKAGES = ("numpy", "scipy", "numba", "control", "slycot", "scikit-learn", "torch", "torchvision")


@dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity: arrays have no truth value
class Evidence:
    """A measurement with everything needed to judge it or to make it again.

    Args:
        experiment: name of the experiment, a folder name.
        setting: the plain form of the Setting (`Setting.to_dict`).
        seed: root seed.
        measured: JSON values: numbers, strings, lists, dictionaries; no NaN, no infinity.
        arrays: named arrays, stored beside the JSON in full precision.
        provenance: from `provenance`.
    """

    experiment: str
    setting: Mapping[str, Any]
    seed: int
    measured: Mapping[str, Any]
    arrays: Mapping[str, NDArray] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Digest of (experiment, setting, seed): 16 hexadecimal digits."""
        return run_id(self.experiment, self.setting, self.seed)

    def write(self, out: str | Path) -> Path:
        """Write under ``<out>/evidence``.

        Raises:
            FileExistsError: if this run is already recorded: evidence is never overwritten.
            OSError: if the folder cannot be written; nothing half-written stays behind.
        """
        folder = Path(out) / "evidence" / self.experiment
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.run_id}.json"
        if path.exists():
            raise FileExistsError(f"evidence is written once: {path} exists already.")
        record = {
            "schema": SCHEMA_VERSION,
            "run_id": self.run_id,
            "experiment": self.experiment,
            "seed": self.seed,
            "setting": plain(self.setting),
            "measured": plain(self.measured),
            "arrays": sorted(self.arrays),
            "provenance": plain(self.provenance),
        }
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
        if self.arrays:
            buffer = io.BytesIO()
            np.savez(buffer, **{name: np.asarray(array) for name, array in self.arrays.items()})  # pyright: ignore[reportArgumentType]
            # Arrays without their JSON are the debris of a killed run: they may be replaced.
            atomic_write(path.with_suffix(".npz"), buffer.getvalue(), overwrite=True)
        atomic_write(path, (text + "\n").encode(), overwrite=False)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Evidence:
        """Read one run back.

        Raises:
            ValueError: if the file is missing, truncated, of another schema, renamed, or without its arrays.
        """
        path = Path(path)
        where = f"`Evidence.read(path={str(path)!r})`"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{where} must be a readable file; {error.strerror}.") from None
        except ValueError as error:
            raise ValueError(f"{where} must hold JSON; {error}.") from None
        if not isinstance(record, dict) or record.get("schema") != SCHEMA_VERSION:
            found = record.get("schema") if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"{where} must have schema {SCHEMA_VERSION}; got {found!r}.")
        arrays: dict[str, NDArray] = {}
        if record["arrays"]:
            try:
                with path.with_suffix(".npz").open("rb") as stream:
                    stored = np.load(stream, allow_pickle=False)
                    arrays = {name: stored[name] for name in record["arrays"]}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"{where} needs its arrays beside it; {error}.") from None
        fields = ("experiment", "setting", "seed", "measured", "provenance")
        evidence = cls(**{name: record[name] for name in fields}, arrays=arrays)
        if evidence.run_id != record["run_id"]:
            raise ValueError(f"{where} was edited: its setting digests to {evidence.run_id}, not {record['run_id']}.")
        return evidence


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
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
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
