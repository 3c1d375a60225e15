r"""``python -m theory regress``: mini-batch momentum SGD on a real table, against what theory predicts.

Ridge regression on the table's standardised columns is run by real mini-batch momentum SGD, many independent times. In
every eigen-direction of the Hessian the measured variance of the weights is set against five predictions, from the
limit of continuous time and the theorem as usually applied (constant C, white noise) to the one that knows the data's
fourth moments and the shuffling, and the judge says of each whether the evidence supports it.

Exit status: 0; 1 if the law that must be exact for independent batches is refuted; 2 for unusable input; 3 if there
were too few runs to decide.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from theory.claims.regression import (
    DETECTS,
    SHUFFLED_MARGIN,
    SHUFFLED_REGION,
    THEORIES,
    CellResult,
    RegressionStudy,
    cell_results,
    correction_table,
    is_shuffled,
    plan_cell,
    regression_claims,
    run_study,
)
from theory.claims.replicates import equivalence_comparison, identity_comparison
from theory.closed_form.minibatch import ridge_regression_law
from theory.data import BUNDLED, MissingPackageError, RegressionTable, load_table
from theory.judge.claim import TEST_ALPHA, Claim, Experiment, classify, decide_identity, needed_degrees
from theory.judge.evidence import Evidence
from theory.judge.files import results_folder
from theory.judge.statistics import normal_quantile
from theory.judge.table import aligned
from theory.judge.verdict import About, Outcome, Verdict
from theory.model.optimizer import MomentumSGD
from theory.model.regression import RidgeRegression, Sampling
from theory.progress import Progress
from theory.solution import UnstableError
from theory.verification import gather, record, recorded

#: Feedback of the state-dependent noise that the default learning rate aims at, for the smallest batch.
_DEFAULT_FEEDBACK = 0.1
_EXACT = "C(Σ), white"
_BEST = "C(Σ), shuffled"


#: Experiment name of its evidence.
EXPERIMENT = "regress"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument(
        "--data", required=True, metavar="TABLE", help=f"{' or '.join(BUNDLED)}, or a CSV file with a header"
    )
    parser.add_argument("--target", metavar="COLUMN", help="column to predict (CSV files)")
    parser.add_argument(
        "--batch-size", type=_counts, default=(8, 32), metavar="S,S", help="samples a step (default: 8,32)"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="ETA",
        help=f"η > 0, of standardised columns (default: feedback {_DEFAULT_FEEDBACK:g} at the smallest batch)",
    )
    parser.add_argument("--momentum", type=float, default=0.9, metavar="MU", help="μ in [0, 1) (default: %(default)s)")
    parser.add_argument(
        "--ridge", type=float, default=0.1, metavar="KAPPA", help="κ, inputs having variance 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--sampling",
        type=_names,
        default=(Sampling.WITH_REPLACEMENT.value, Sampling.SHUFFLED_EPOCHS.value),
        metavar="SCHEME,SCHEME",
        help=f"{', '.join(scheme.value for scheme in Sampling)} (default: with-replacement,shuffled-epochs)",
    )
    parser.add_argument(
        "--replicas", type=int, default=1024, metavar="N", help="independent runs (default: %(default)s)"
    )
    parser.add_argument(
        "--relaxations",
        type=float,
        default=24,
        metavar="X",
        help="relaxation times recorded a run (default: %(default)s)",
    )
    parser.add_argument("--ignore", type=_names, default=(), metavar="COLUMN,COLUMN", help="columns to leave out")
    parser.add_argument("--drop-constant", action="store_true", help="leave out inputs that never change")
    parser.add_argument("--encoding", default="utf-8", help="of the CSV file (default: %(default)s)")
    parser.add_argument("--delimiter", default=",", help="of the CSV file (default: a comma)")
    parser.add_argument("--seed", type=int, default=20241010, metavar="N", help="root seed (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/local/regress"), help="results folder (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Load, plan, run (or read what was recorded), judge and print.

    Raises:
        ValueError: if the table or an option cannot be used.
    """
    if options.replicas < 8:
        raise ValueError(f"`--replicas` must be >= 8; got {options.replicas}.")
    if not options.relaxations > 0:
        raise ValueError(f"`--relaxations` must be > 0; got {options.relaxations}.")
    try:
        table = load_table(
            options.data,
            options.target,
            encoding=options.encoding,
            delimiter=options.delimiter,
            ignore=options.ignore,
            drop_constant=options.drop_constant,
        )
    except MissingPackageError as error:
        raise ValueError(str(error)) from None
    study, notes = _planned(options, table)
    experiment = Experiment(
        name=EXPERIMENT,
        title=f"ridge regression on {table.name} by real mini-batch momentum SGD",
        setting=lambda budget: study,
        run=run_study,
    )
    progress = None if options.json else Progress
    with results_folder(options.out):
        kept = recorded(options.out)
        gathered = gather((experiment,), options.out, seed=options.seed, budget="default", progress=progress)
        evidence = gathered[EXPERIMENT]
        result, status = _judged(table, study, evidence, notes)
        verdicts = _verdicts(evidence, table)
        record(verdicts, kept, options.out, (experiment,))
    if options.json:
        result["verdicts"] = [verdict.to_dict() for verdict in verdicts]
        print(json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False))
    else:
        _print(result, options.out)
    return status


def _planned(options: argparse.Namespace, table: RegressionTable) -> tuple[RegressionStudy, list[str]]:
    inputs, targets = table.standardized()
    notes = [*table.notes, "columns and target standardised to mean 0 and variance 1; no intercept is then needed"]
    rows, columns = inputs.shape
    rank = int(np.linalg.matrix_rank(inputs))
    if rank < columns and options.ridge > 0:
        why = f"{rows} rows for {columns} columns" if rows <= columns else "columns are linearly dependent"
        notes.append(f"{why} (rank {rank}): the ridge {options.ridge:g} alone makes the optimum unique")
    try:
        MomentumSGD(1.0 if options.learning_rate is None else options.learning_rate, options.momentum)
    except ValueError as error:
        raise ValueError(_as_option(str(error))) from None
    problems = []
    for size in sorted(set(options.batch_size)):
        for sampling in dict.fromkeys(options.sampling):
            try:
                problem = RidgeRegression(
                    inputs=inputs, targets=targets, ridge=options.ridge, batch_size=size, sampling=sampling
                )
            except ValueError as error:
                raise ValueError(_as_option(str(error))) from None
            problems.append(problem)
    try:
        if options.learning_rate is None:
            rate = _default_rate(problems[0], options.momentum)
            notes.append(
                f"learning rate {rate:.4g}: feedback of the noise {_DEFAULT_FEEDBACK:g} at batch size "
                f"{problems[0].batch_size}"
            )
        else:
            rate = options.learning_rate
        optimizer = MomentumSGD(rate, options.momentum)
        cells = tuple(
            plan_cell(problem, optimizer, replicas=options.replicas, relaxations=options.relaxations)
            for problem in problems
        )
    except UnstableError as error:
        raise ValueError(f"`--learning-rate` must be stable at every batch size: {error}") from None
    except ValueError as error:
        raise ValueError(_as_option(str(error))) from None
    study = RegressionStudy(
        data=options.data,
        digest=table.digest,
        ridge=options.ridge,
        cells=cells,
        target=options.target,
        encoding=options.encoding,
        delimiter=options.delimiter,
        ignore=tuple(options.ignore),
        drop_constant=options.drop_constant,
    )
    return study, notes


def _default_rate(problem: RidgeRegression, momentum: float) -> float:
    """The learning rate at which the noise feeds back by `_DEFAULT_FEEDBACK`, to three digits."""
    rate = 0.1 * (1.0 - momentum) / (float(np.linalg.norm(problem.inputs, 2)) ** 2 / problem.num_rows + problem.ridge)
    for _ in range(60):
        try:
            feedback = ridge_regression_law(problem, MomentumSGD(rate, momentum)).feedback
        except UnstableError:
            rate *= 0.3
            continue
        if not feedback > 0 or abs(feedback / _DEFAULT_FEEDBACK - 1.0) < 1e-3:
            break
        rate *= min(3.0, _DEFAULT_FEEDBACK / feedback)
    return float(f"{rate:.3g}")


def _judged(
    table: RegressionTable, study: RegressionStudy, evidence: Evidence, notes: Sequence[str]
) -> tuple[dict[str, Any], int]:
    """JSON values of everything found, and the exit status."""
    found = {name: cell_results(evidence, predictor) for name, predictor in THEORIES.items()}
    closed = {row[0]: row[-1] for row in correction_table((evidence,)).rows}
    cells, outcomes = [], []
    for index, best in enumerate(found[_BEST]):
        theories = {}
        for name, results in found.items():
            outcome, error = _outcome(results[index])
            theories[name] = {"outcome": str(outcome), "worst_error": error}
            if name == _EXACT and not is_shuffled(best.cell):
                outcomes.append(outcome)
        problem = study.problem(best.cell, table)
        law = ridge_regression_law(problem, best.cell.optimizer)
        cells.append(
            {
                "batch_size": best.cell.batch_size,
                "sampling": best.cell.sampling,
                "phase": best.phase,
                "batches_per_epoch": problem.batches_per_epoch,
                "learning_rate": best.cell.learning_rate,
                "momentum": best.cell.momentum,
                "feedback": law.feedback,
                "in_region": not is_shuffled(best.cell) or law.feedback <= SHUFFLED_REGION,
                "theories": theories,
                "gap_closed_by": closed[best.label],
                "directions": _directions(
                    best, {name: results[index] for name, results in found.items()}, evidence, table
                ),
            }
        )
    result = {
        "data": table.name,
        "target": table.target,
        "rows": len(table.targets),
        "columns": list(table.columns),
        "ridge": study.ridge,
        "notes": list(notes),
        "rules": {
            "independent batches": f"identity: refuted iff p <= {TEST_ALPHA:g}; supported iff not and the runs would "
            f"show an error of {DETECTS:g}",
            "shuffled epochs": f"approximation: interval at level {TEST_ALPHA:g} against ±{SHUFFLED_MARGIN:g}",
        },
        "cells": cells,
        "run_id": evidence.run_id,
    }
    if Outcome.REFUTED in outcomes:
        return result, 1
    return result, 3 if Outcome.INCONCLUSIVE in outcomes else 0


def _outcome(result: CellResult) -> tuple[Outcome, float]:
    """The judge's word on one theory in one cell, and its worst relative error."""
    if is_shuffled(result.cell):
        comparison = equivalence_comparison(result.tests, SHUFFLED_MARGIN)
        outcome = classify(comparison.interval, SHUFFLED_MARGIN)
    else:
        comparison = identity_comparison(result.tests)
        outcome = decide_identity(comparison, DETECTS)
    worst = int(np.argmax(np.abs(np.log(result.tests.ratio))))
    return outcome, float(result.tests.ratio[worst] - 1.0)


def _directions(
    best: CellResult, theories: dict[str, CellResult], evidence: Evidence, table: RegressionTable
) -> list[dict[str, Any]]:
    """One entry an eigen-direction, flattest first."""
    directions = evidence.arrays["directions"]
    inputs, _ = table.standardized()
    curvatures = np.linalg.norm(inputs @ directions, axis=0) ** 2 / len(inputs) + best.study.ridge
    reach = normal_quantile(TEST_ALPHA)
    entries = []
    for index in np.argsort(curvatures):
        ratio, error = float(best.tests.ratio[index]), float(best.tests.error[index])
        interval = (ratio - 1.0 - reach * error, ratio - 1.0 + reach * error)
        if is_shuffled(best.cell):
            outcome = classify(interval, SHUFFLED_MARGIN)
        elif best.tests.p_value[index] <= TEST_ALPHA:
            outcome = Outcome.REFUTED
        else:
            enough = best.tests.degrees[index] >= needed_degrees(DETECTS)
            outcome = Outcome.SUPPORTED if enough else Outcome.INCONCLUSIVE
        entries.append(
            {
                "curvature": float(curvatures[index]),
                "measured": ratio * float(best.predicted[index]),
                "predicted": {name: float(result.predicted[index]) for name, result in theories.items()},
                "error": ratio - 1.0,
                "interval": list(interval),
                "outcome": str(outcome),
            }
        )
    return entries


def claims_on(evidence: Evidence) -> tuple[Claim, ...]:
    """What is claimed of a table's evidence, with a test for each of its directions and batch schemes."""
    study = RegressionStudy.from_dict(evidence.setting)
    width = evidence.arrays["directions"].shape[1]
    independent = sum(2 * width for cell in study.cells if not is_shuffled(cell))
    shuffled = sum(len(cell.phases) * width for cell in study.cells if is_shuffled(cell))
    return regression_claims((EXPERIMENT,), independent=independent, shuffled=shuffled)


def _verdicts(evidence: Evidence, table: RegressionTable) -> tuple[Verdict, ...]:
    subject = Path(table.name).name  # verdicts on another table stay beside these
    about = About(name=subject)
    return tuple(replace(claim.judge({EXPERIMENT: evidence}), about=about) for claim in claims_on(evidence))


def _print(result: dict[str, Any], out: Path) -> None:
    print(
        f"ridge regression of {result['target']!r} on {len(result['columns'])} columns of {result['data']}, "
        f"{result['rows']} rows, ridge {result['ridge']:g}"
    )
    for note in result["notes"]:
        print(f"  {note}")
    for cell in result["cells"]:
        when = "" if cell["phase"] is None else f", {cell['phase']} of {cell['batches_per_epoch']} steps into the epoch"
        print(
            f"\nbatch size {cell['batch_size']}, {cell['sampling']}{when}; η {cell['learning_rate']:g}, "
            f"μ {cell['momentum']:g}, feedback {cell['feedback']:.3f}"
        )
        theories = [
            (name, theory["outcome"], f"worst error {theory['worst_error']:+.3f}")
            for name, theory in cell["theories"].items()
        ]
        print("\n".join(aligned(theories, indent="  ")))
        if not cell["in_region"]:
            print(f"  feedback above {SHUFFLED_REGION:g}: the law of shuffled epochs claims nothing here")
        print(f"  the gap is closed by: {cell['gap_closed_by']}")
        rows = cell["directions"]
        shown = [
            (
                f"{row['curvature']:.4g}",
                f"{row['measured']:.5g}",
                f"{row['predicted'][_BEST]:.5g}",
                f"{row['error']:+.3f}",
                row["outcome"],
            )
            for row in (rows if len(rows) <= 12 else rows[:6] + rows[-6:])
        ]
        head = ("curvature", "measured σ²", "predicted σ²", "error", "verdict")
        print("\n".join(aligned([head, *shown], right=range(4), indent="  ")))
        if len(rows) > 12:
            print(f"  (the six flattest and the six sharpest of {len(rows)} directions; --json for all)")
    print(f"\nevidence and verdicts: {out}", file=sys.stdout)


def _as_option(message: str) -> str:
    """Name the option instead of the constructor's argument."""
    for argument, option in (("batch_size", "batch-size"), ("ridge", "ridge"), ("sampling", "sampling")):
        message = message.replace(f"`RidgeRegression({argument}=...)`", f"`--{option}`")
    for argument, option in (("learning_rate", "learning-rate"), ("momentum", "momentum")):
        message = message.replace(f"`MomentumSGD({argument}=...)`", f"`--{option}`")
    return message


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers separated by commas; got {text!r}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
