"""From a results folder to what is committed of it: verdicts, compact evidence, and a report without figures.

Compact   Arrays are deflated. Those of `CROWD` entries or more keep `BITS` significant bits, in single precision: they
          are replicates, whose scatter is thousands of times their rounding. Shorter ones, and square matrices, which
          are moments or eigenvectors that an exact identity is held against, keep every digit; a square matrix for
          each of many samples is a replicate. Runs of the map, of which there are many, are rounded whole. What no
          claim reads, such as bases of eigenvectors, is left out. `nox -s rejudge` shows that no verdict moves. Charts
          and tables keep `DIGITS` digits of every number.
Pages     ``index.html`` and figures are generated from this and are not committed.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.build import build
from reports.source import read_results
from theory.judge.evidence import Evidence, read_evidence
from theory.judge.files import hold
from theory.judge.results import Forest, read_result
from theory.judge.verdict import Verdict, write_verdicts

#: Bytes of everything that is published, pages not counted.
MOST = 15_000_000
#: Bytes of one ``report.md``.
MOST_REPORT = 300_000
#: Entries from which on an array is rounded, and the significant bits that it keeps.
CROWD, BITS = 2_000, 12
#: Significant digits of what charts and tables show.
DIGITS = 6
#: Arrays that only measuring and the gate read, by experiment: where the next checkpoint starts, and per-sample shares.
UNPUBLISHED = {
    "spectrum": frozenset({"eigenvectors", "alignment.direction_influences"}),
    "regime": frozenset({"residuals", "sharpness_error", "attacked_sharpness", "test_accuracy"}),
}
#: Experiments whose short arrays are rounded too: many runs, whose checkpoints scatter by percents.
WHOLE = frozenset({"regime"})
#: Square matrices from which on they are one a sample; the price of non-commutation is held to 1e-9 on 181 of them.
SAMPLES = 256


def publish(results: Path, published: Path, name: str, *, verdicts_only: bool = False, bits: int = BITS) -> Path:
    """Put the verdicts of a results folder, and the runs behind them, in the place of ``published/<name>``.

    Args:
        results: folder with verdicts.json and evidence/.
        published: folder of published results.
        name: of the folder in it.
        verdicts_only: leave out evidence and curves, where they are somebody else's numbers.
        bits: significant bits that large arrays keep, 4 to 24.

    Returns:
        The folder written.

    Raises:
        ValueError: if the results are missing or damaged, the name is none, an array does not fit single precision,
            or the published folder would grow beyond `MOST`; nothing is changed then.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"`publish(name=...)` must be the name of a folder; got {name!r}.")
    if not 4 <= bits <= 24:
        raise ValueError(f"`publish(bits=...)` must be in [4, 24]; got {bits}.")
    found = read_results(results)
    published.mkdir(parents=True, exist_ok=True)
    target = published / name
    with hold(published), tempfile.TemporaryDirectory(dir=published, prefix=".publish-") as work:
        made = Path(work) / name
        made.mkdir()
        verdicts = found.verdicts
        if verdicts_only:
            verdicts = tuple(
                dataclasses.replace(one, results=tuple(part for part in one.results if isinstance(part, Forest)))
                for one in verdicts
            )
        else:
            used = {run_id for verdict in verdicts for run_id in verdict.evidence}
            for run in read_evidence(results):
                if run.run_id in used:
                    compact(run, bits).write(made, deflate=True)
        write_verdicts(tuple(map(shortened, verdicts)), made)
        report = next(path for path in build(made, page=False) if path.name == "report.md")
        if report.stat().st_size > MOST_REPORT:
            raise ValueError(
                f"report.md of {name!r} must be at most {MOST_REPORT} bytes; it has {report.stat().st_size}."
            )
        total = size(made) + sum(size(item) for item in published.iterdir() if item.name not in (name, Path(work).name))
        if total > MOST:
            raise ValueError(f"{str(published)!r} must hold at most {MOST} bytes; with {name!r} it would hold {total}.")
        if target.exists():
            os.replace(target, Path(work) / ".old")
        os.replace(made, target)
    return target


def shortened(verdict: Verdict) -> Verdict:
    """A verdict whose charts and tables hold numbers to `DIGITS` digits: what is drawn needs no more.

    The verdict's own numbers stay as they are.
    """
    results = tuple(read_result(_short(dataclasses.asdict(result))) for result in verdict.results)
    return dataclasses.replace(verdict, results=results)


def _short(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case dict():
            return {name: _short(item) for name, item in value.items()}
        case list() | tuple():
            return [_short(item) for item in value]
    return value


def compact(run: Evidence, bits: int = BITS) -> Evidence:
    """A run without what no claim reads and with its large arrays rounded, which its provenance says.

    Raises:
        ValueError: if a number is too large for single precision.
    """
    left_out = UNPUBLISHED.get(run.experiment, frozenset()) & set(run.arrays)
    kept = {name: array for name, array in run.arrays.items() if name not in left_out}
    whole = run.experiment in WHOLE
    large = [name for name, array in kept.items() if _is_crowd(array) or (whole and array.dtype == np.float64)]
    if not large and not left_out:
        return run
    rounded = {name: _rounded(kept[name], bits, f"{run.experiment}, array {name!r}") for name in large}
    provenance = {**run.provenance, "significant_bits": dict.fromkeys(large, bits)}
    return dataclasses.replace(run, arrays={**kept, **rounded}, nan=run.nan & set(kept), provenance=provenance)


def size(path: Path) -> int:
    """Bytes of a folder or a file, generated pages not counted."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix not in (".html", ".svg", ".csv"))


def _is_crowd(array: NDArray) -> bool:
    # A square matrix is a moment or a basis; `SAMPLES` of them, one a sample, are replicates.
    square = array.ndim > 1 and array.shape[-1] == array.shape[-2] and (array.ndim == 2 or len(array) < SAMPLES)
    return array.dtype == np.float64 and array.size >= CROWD and not square


def _rounded(array: NDArray, significant: int, where: str) -> NDArray:
    """Half away from zero to `significant` bits; the bits that are then zero are deflated to nothing."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if np.isinf(single).any():
        raise ValueError(f"{where} must fit single precision; its largest entry is {np.nanmax(np.abs(array)):g}.")
    drop = 24 - significant
    if not drop:
        return single
    bits = single.view(np.uint32)
    whole = np.isfinite(single)
    bits[whole] = (bits[whole] + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return bits.view(np.float32)
