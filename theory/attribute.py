r"""``python -m theory attribute BEFORE AFTER``: what moved the posterior variance between two states of a run.

Each file is a JSON object with ``learning_rate``, ``curvatures`` and ``noise_variances`` (uᵢᵀCuᵢ of the mini-batch
gradient along the Hessian's eigenvectors), and optionally ``momentum``, ``dampening``, ``nesterov``, ``weight_decay``
``variances`` (σᵢ² as measured) and ``eigenvectors``, by which modes are then paired (else by their place in the lists).
Prints the exact additive split of Δ ln σᵢ², mode by mode.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from theory.closed_form.attribution import compare_states


def add_parser(commands: Any) -> None:
    """Add ``attribute`` to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "attribute", help="split the change of ln σ² between two states into learning rate, noise, curvature, step size"
    )
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
