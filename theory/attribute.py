r"""``python -m theory attribute BEFORE AFTER``: what moved the posterior variance between two states of a run.

Each file is a JSON object with ``learning_rate``, ``curvatures`` and ``noise_variances`` (uᵢᵀCuᵢ of the mini-batch
gradient along the Hessian's eigenvectors), and optionally ``momentum``, ``dampening``, ``nesterov``, ``weight_decay``
``variances`` (σᵢ² as measured) and ``eigenvectors``, by which modes are then paired (else by their place in the lists).
Prints the exact additive split of Δ ln σᵢ², mode by mode.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.attribution import Attribution, attribution
from theory.judge.reading import entry, read_json
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

#: How far from orthonormal the eigenvectors of a file may be.
EIGENVECTOR_TOLERANCE = 1e-3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("before", type=Path, help="state before: a JSON file")
    parser.add_argument("after", type=Path, help="state after: a JSON file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the split; 0 when both states could be read."""
    split = compare_states(options.before, options.after)
    if not options.json:
        print(split.to_text())
        return 0
    parts = {name: values.tolist() for name, values in split.parts().items()}
    parts["total"] = split.total.tolist()
    parts["match"] = split.match.tolist()
    parts["main_cause"] = list(split.main_cause())
    if split.unsettled is not None:
        parts["unsettled"] = split.unsettled.tolist()
    print(json.dumps(parts, indent=1, allow_nan=False, ensure_ascii=False))
    return 0


@dataclass(frozen=True, kw_only=True)
class State:
    """A state of a training run, mode by mode.

    Args:
        problem: curvatures and noise variances, in the order of the file.
        optimizer: its settings.
        variances: σᵢ² as measured, shape ``(m,)``, or None.
        eigenvectors: uᵢ in rows, shape ``(m, n)``, or None.
    """

    problem: Quadratic
    optimizer: MomentumSGD
    variances: NDArray[np.float64] | None
    eigenvectors: NDArray[np.float64] | None


def read_state(path: str | Path) -> State:
    """A state of a training run from JSON: what `attribution` needs of it, mode by mode.

    The file holds ``learning_rate``, ``curvatures`` and ``noise_variances`` (uᵢᵀCuᵢ of the mini-batch gradient), and
    may hold ``momentum``, ``dampening``, ``nesterov``, ``discount``, ``weight_decay``, ``variances`` (σᵢ² as measured)
    and ``eigenvectors`` (uᵢ, one list a mode).

    Raises:
        ValueError: if the file cannot be read, or a key is missing, unknown or invalid.
    """
    where = f"`read_state(path={str(path)!r})`"
    plain = read_json(Path(path), where)
    if not isinstance(plain, dict):
        raise ValueError(f"{where} must hold one JSON object; got {type(plain).__name__}.")
    needed = {"learning_rate", "curvatures", "noise_variances"}
    optional = {"momentum", "dampening", "nesterov", "discount", "weight_decay", "variances", "eigenvectors"}
    if not needed <= set(plain) <= needed | optional:
        wrong = sorted(needed - set(plain)) or sorted(set(plain) - needed - optional)
        raise ValueError(f"{where} must hold {sorted(needed)} and may hold {sorted(optional)}; wrong: {wrong}.")
    names = ("curvatures", "noise_variances", "variances")
    lists = {name: _numbers(plain[name], name, where) for name in names if name in plain}
    vectors = None
    if "eigenvectors" in plain:
        rows = plain["eigenvectors"]
        if not isinstance(rows, list) or len({len(row) if isinstance(row, list) else -1 for row in rows}) != 1:
            raise ValueError(f"{where}, field 'eigenvectors', must hold lists of numbers of one length.")
        vectors = np.stack([_numbers(row, "eigenvectors", where) for row in rows])
    if len({len(values) for values in lists.values()}) != 1:
        raise ValueError(f"{where} must hold lists of one length; got {[len(values) for values in lists.values()]}.")
    count = len(lists["curvatures"])
    if vectors is not None and not (
        vectors.ndim == 2
        and len(vectors) == count
        and np.abs(vectors @ vectors.T - np.eye(count)).max(initial=0.0) <= EIGENVECTOR_TOLERANCE
    ):
        raise ValueError(
            f"{where} must hold {count} orthonormal lists in eigenvectors, to {EIGENVECTOR_TOLERANCE:g}; "
            f"got shape {vectors.shape}."
        )
    settings = {key: plain[key] for key in plain if key not in (*names, "eigenvectors")}
    for name in settings:
        entry(plain, name, bool if name == "nesterov" else (int, float), where)
    return State(
        problem=Quadratic(lists["curvatures"], lists["noise_variances"]),
        optimizer=MomentumSGD(**settings),
        variances=lists.get("variances"),
        eigenvectors=vectors,
    )


def _numbers(values: Any, name: str, where: str) -> NDArray[np.float64]:
    """A list of numbers."""
    if not isinstance(values, list) or any(isinstance(value, list) for value in values):
        raise ValueError(f"{where}, field {name!r}, must hold one number a mode; got nested lists or a single value.")
    if not values or not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{where}, field {name!r}, must hold lists of numbers; got something else.")
    return np.asarray(values, dtype=np.float64)


def compare_states(before: str | Path, after: str | Path) -> Attribution:
    """The split between two states read from JSON files (`read_state`); ``print(….to_text())`` shows it.

    Modes are paired by their eigenvectors where both files hold them, else by their place in the lists: entry i of one
    file is then the same direction as entry i of the other.

    Raises:
        ValueError: if a file is not valid, or the two do not fit together.
    """
    one, two = read_state(before), read_state(after)
    overlaps = None
    if one.eigenvectors is not None and two.eigenvectors is not None:
        if one.eigenvectors.shape != two.eigenvectors.shape:
            raise ValueError(
                "`compare_states(after=...)` must hold eigenvectors of the shape of `before`; "
                f"got {two.eigenvectors.shape} against {one.eigenvectors.shape}."
            )
        overlaps = one.eigenvectors @ two.eigenvectors.T
    measured = None if one.variances is None or two.variances is None else (one.variances, two.variances)
    return attribution(
        one.problem, one.optimizer, two.optimizer, problem_after=two.problem, measured=measured, overlaps=overlaps
    )
