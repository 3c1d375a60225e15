"""A training log as `Evidence`: the record that imported logs and runs of ours share.

Own runs  ``python -m empirical train`` leaves evidence of its own (experiment ``"training"``, which holds much more);
          `as_log` shows it in the layout below, so that the claims about logs judge both alike.
Layout    experiment ``"training-log"``; arrays: the canonical columns (`empirical.logs.columns.COLUMNS`), each of shape
          ``(epochs,)``; measured: label, dataset, method, data_order, train_columns, decays, and what the reader should
          know of the file (remarks, restarts, superseded lines).
Identity  What a log does not say is inferred from its arguments, then from its name, and every inference is recorded
          under ``measured["inferred"]``; facts given by hand win.
Run-id    A digest of the file's content, of how it was read and of the facts given by hand: the same log gives the same
          evidence wherever it lies, and is not recorded twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empirical.logs.columns import COLUMNS
from empirical.logs.decays import find_decays
from empirical.logs.table import TrainingLog
from empirical.settings.data import PUBLISHED
from empirical.settings.training import EXPERIMENT as OWN_EXPERIMENT
from empirical.settings.training import Training
from theory.judge.evidence import Evidence, may_be_nan

#: Experiment name of an imported training log.
EXPERIMENT = "training-log"

#: Where the train columns were measured. It decides what a train–test difference means.
TRAIN_COLUMNS = {
    "running": "averages within the epoch while the weights move, in train mode, on augmented images",
    "perturbed": "as running, and at adversarially perturbed weights",
    "fixed": "fixed weights, eval mode, no augmentation, the attack of the test columns",
    "unknown": "the log does not say",
}

#: Arguments that say how a run was kept, not what was run: pairs may differ in them.
_BOOKKEEPING = re.compile(
    r"^(fname|data_dir|data_root|resume|chkpt_iters|out|out_dir|log_dir|workers|num_workers|gpu|gpus|device|eval|half|"
    r"method|awp.*|trades.*|beta|.*checkpoint.*|seed)$"
)


def log_evidence(
    columns: Mapping[str, NDArray[np.float64]],
    *,
    setting: Mapping[str, Any],
    seed: int,
    label: str,
    dataset: str | None,
    method: str | None,
    data_order: str | None,
    train_columns: str,
    provenance: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> Evidence:
    """Evidence of one run from its per-epoch columns.

    Args:
        columns: canonical name to values, shape ``(epochs,)``; ``epoch`` and ``learning_rate`` are needed.
        setting: what was run, JSON values; with `seed` it names the run.
        seed: root seed of the run.
        label: how readers know the run.
        dataset: such as ``"cifar10"``; None if unknown.
        method: ``"at"``, ``"awp"``, ``"trades"``, ``"trades-awp"`` or ``"standard"``; None if unknown.
        data_order: what runs that saw the data in the same order share; None if unknown.
        train_columns: a key of `TRAIN_COLUMNS`.
        provenance: from `theory.judge.evidence.provenance`.
        extra: further measured values.

    Raises:
        ValueError: if a column is unknown, missing, or of another length, or `train_columns` is unknown.
    """
    unknown = sorted(set(columns) - set(COLUMNS))
    missing = [name for name in ("epoch", "learning_rate") if name not in columns]
    if unknown or missing:
        raise ValueError(f"`log_evidence(columns=...)` must hold known columns; unknown {unknown}, missing {missing}.")
    if len({np.shape(values) for values in columns.values()}) != 1:
        raise ValueError("`log_evidence(columns=...)` must all have one length.")
    if train_columns not in TRAIN_COLUMNS:
        raise ValueError(
            f"`log_evidence(train_columns=...)` must be one of {list(TRAIN_COLUMNS)}; got {train_columns!r}."
        )
    arrays = {name: np.asarray(columns[name], dtype=np.float64) for name in COLUMNS if name in columns}
    decays = [
        {"epoch": decay.epoch, "before": decay.before, "after": decay.after, "ratio": decay.ratio}
        for decay in find_decays(arrays)
    ]
    measured = {
        "label": label,
        "dataset": dataset,
        "method": method,
        "data_order": data_order,
        "train_columns": train_columns,
        "train_columns_meaning": TRAIN_COLUMNS[train_columns],
        "num_epochs": len(arrays["epoch"]),
        "decays": decays,
        **(extra or {}),
    }
    return Evidence(
        experiment=EXPERIMENT,
        setting=setting,
        seed=seed,
        measured=measured,
        arrays=arrays,
        nan=may_be_nan(arrays),
        provenance=provenance,
    )


def imported_evidence(
    log: TrainingLog,
    *,
    label: str,
    digests: Sequence[str],
    reading: Mapping[str, Any],
    given: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Evidence:
    """Evidence of an imported log.

    Args:
        log: the checked log.
        label: its name.
        digests: SHA-256 of its files.
        reading: what had to be said of how to read it.
        given: facts given by hand; they win over the log's arguments.
        provenance: where, when and by which code it was read.
    """
    arguments = {**log.arguments, **given}
    inferred: dict[str, str] = {}
    dataset = _dataset(arguments, given, label, inferred)
    method = _method(arguments, given, label, log, inferred)
    seed = arguments.get("seed")
    known_seed = isinstance(seed, int) and not isinstance(seed, bool)
    extra = {
        "format": log.format,
        "arguments": dict(arguments),
        "inferred": inferred,
        "remarks": [{"line": remark.line, "text": remark.text} for remark in log.remarks],
        "restarts": list(log.restarts),
        "superseded_lines": list(log.superseded),
        "unread_columns": list(log.unread_columns),
    }
    train_columns = arguments.get("train_columns")
    if train_columns not in TRAIN_COLUMNS:
        train_columns = {"text": "running"}.get(log.format, "unknown")
        if train_columns == "running" and method is not None and method.endswith("awp"):
            train_columns = "perturbed"
    return log_evidence(
        log.columns,
        setting={"type": "ImportedLog", "sha256": list(digests), "reading": dict(reading), "given": dict(given)},
        seed=int(seed) if known_seed else 0,  # pyright: ignore[reportArgumentType]
        label=label,
        dataset=dataset,
        method=method,
        data_order=f"{dataset}, seed {seed}" if known_seed and dataset else None,
        train_columns=train_columns,
        provenance=provenance,
        extra=extra,
    )


def as_log(evidence: Evidence) -> Evidence | None:
    """Evidence of a training run in the layout of a log; None if it is about something else.

    The train columns of our own runs are evaluated at fixed weights, in eval mode, without augmentation and with the
    attack of the test columns (`empirical.settings.evaluation.Evaluation`), so that train–test differences are gaps.
    """
    if evidence.experiment == EXPERIMENT:
        return evidence
    if evidence.experiment != OWN_EXPERIMENT:
        return None
    facts, training = evidence.measured, Training.of(evidence)
    columns = {name: evidence.arrays[f"epoch_{name}"] for name in COLUMNS if f"epoch_{name}" in evidence.arrays}
    if not {"epoch", "learning_rate"} <= set(columns):
        return None
    dataset, method = training.data.name, training.method.name
    apart = ("method", "checkpoint_epochs", "precision")
    shared = {name: value for name, value in training.to_dict().items() if name not in apart}
    arguments = {
        "setting": json.dumps(shared, sort_keys=True),
        "batch_size": training.batch_size,
        "momentum": training.optimizer.momentum,
        "iterations_per_epoch": training.iterations_per_epoch,
    }
    return log_evidence(
        columns,
        setting=evidence.setting,
        seed=evidence.seed,
        label=str(facts.get("run_folder", f"{dataset} {method}, seed {evidence.seed}")).removeprefix("runs/"),
        dataset=dataset,
        method=method,
        data_order=f"{dataset}, seed {evidence.seed}",
        train_columns="fixed",
        provenance=evidence.provenance,
        extra={"arguments": arguments},
    )


def protocol(evidence: Evidence) -> tuple[tuple[str, str], ...] | None:
    """What two runs must share to be compared as a pair: every argument but the method's and the bookkeeping.

    None if the run says nothing of its settings: then it can be paired with no other.
    """
    arguments = evidence.measured.get("arguments") or {}
    kept = {name: value for name, value in arguments.items() if not _BOOKKEEPING.match(name)}
    if not kept:
        return None
    return tuple(sorted((name, repr(value)) for name, value in kept.items()))


def _dataset(
    arguments: Mapping[str, Any], given: Mapping[str, Any], label: str, inferred: dict[str, str]
) -> str | None:
    stated = arguments.get("dataset", arguments.get("data"))
    if isinstance(stated, str) and "/" not in stated:
        return stated.lower().replace("-", "")
    for where, text in (("the argument fname", arguments.get("fname")), ("the name", label)):
        found = _known_dataset(str(text or ""))
        if found:
            inferred["dataset"] = f"from {where} {text!r}"
            return found
    return None


def _known_dataset(text: str) -> str | None:
    # Longest first: cifar100 begins with cifar10.
    for name in sorted(PUBLISHED, key=len, reverse=True):
        if name in text.lower().replace("-", "").replace("_", ""):
            return name
    return None


def _method(
    arguments: Mapping[str, Any],
    given: Mapping[str, Any],
    label: str,
    log: TrainingLog,
    inferred: dict[str, str],
) -> str | None:
    stated = given.get("method", arguments.get("method"))
    if isinstance(stated, str):
        return stated.lower()
    awp = any(_positive(arguments.get(name)) for name in ("awp_size", "awp_gamma", "awp_iter", "gamma_awp"))
    if "attack" in arguments:
        inferred["method"] = "from the arguments attack and awp_*"
        if arguments["attack"] in ("none", None):
            return "standard"
        others = [name for name in ("mixup", "cutout", "l1", "l2") if arguments.get(name)]
        base = "awp" if awp else "at"
        return "+".join([base, *others])
    # The innermost part of the name that names a data set describes the run; outer folders describe a collection.
    part = next((part for part in reversed(label.split("/")) if _known_dataset(part)), label.split("/")[-1]).lower()
    words = set(re.split(r"[^a-z0-9]+", part))
    if "trades" in words:
        inferred["method"] = f"from the name {part!r}"
        return "trades-awp" if "awp" in words else "trades"
    if "awp" in words:
        inferred["method"] = f"from the name {part!r}"
        return "awp"
    if words & {"mixup", "cutout", "semisup", "swa", "kd"}:
        return None
    if "train_robust_loss" in log.columns:
        inferred["method"] = "from its robust training columns and a name without another method"
        return "at"
    return None


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
