"""A run as its log shows it: what imported logs and runs of ours share.

Own runs  ``python -m empirical train`` leaves records of its own (`empirical.records.TrainingRun`, which hold much
          more); `log_of` shows them as logs, so that the claims about logs judge both alike.
Identity  What a log does not say is inferred from its arguments, then from its name, and every inference is recorded
          under ``inferred``; facts given by hand win.
Run-id    A digest of the file's content, of how it was read and of the facts given by hand: the same log gives the same
          evidence wherever it lies, and is not recorded twice.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from empirical.logs.table import TrainingLog
from empirical.records import LoggedRun, Record, TrainingRun
from empirical.records.log import ImportedLog, Log, LogColumns, Remark, TrainColumns
from empirical.settings import Training
from empirical.settings.data import PUBLISHED

#: Arguments that say how a run was kept, not what was run: pairs may differ in them.
_BOOKKEEPING = re.compile(
    r"^(fname|data_dir|data_root|resume|chkpt_iters|out|out_dir|log_dir|workers|num_workers|gpu|gpus|device|eval|half|"
    r"method|awp.*|trades.*|beta|.*checkpoint.*|seed)$"
)


def imported_record(
    log: TrainingLog,
    *,
    label: str,
    digests: Sequence[str],
    reading: Mapping[str, Any],
    given: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> LoggedRun:
    """The record of an imported log.

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
    known_seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
    return LoggedRun(
        source=ImportedLog(sha256=tuple(digests), reading=dict(reading), given=dict(given)),
        seed=known_seed or 0,
        provenance=provenance,
        log=Log(
            label=label,
            dataset=dataset,
            method=method,
            data_order=f"{dataset}, seed {seed}" if known_seed is not None and dataset else None,
            train_columns=_train_columns(arguments, log, method),
            arguments=dict(arguments),
            columns=LogColumns(**log.columns),
            diverged=log.diverged,
        ),
        format=log.format,
        inferred=inferred,
        remarks=tuple(Remark(line=remark.line, text=remark.text) for remark in log.remarks),
        restarts=log.restarts,
        superseded_lines=log.superseded,
        unread_columns=log.unread_columns,
    )


def _train_columns(arguments: Mapping[str, Any], log: TrainingLog, method: str | None) -> TrainColumns:
    known: dict[Any, TrainColumns] = {name: name for name in get_args(TrainColumns)}
    stated = arguments.get("train_columns")
    if isinstance(stated, str) and stated in known:
        return known[stated]
    if log.format != "text":
        return "unknown"
    return "perturbed" if method is not None and method.endswith("awp") else "running"


@functools.lru_cache(maxsize=512)
def log_of(record: Record) -> Log | None:
    """The run as its log shows it; None if the record is of something else.

    The train columns of our own runs are evaluated at fixed weights, in eval mode, without augmentation and with the
    attack of the test columns (`empirical.settings.evaluation.Evaluation`), so that train–test differences are gaps.
    """
    if isinstance(record, LoggedRun):
        return record.log
    if not isinstance(record, TrainingRun):
        return None
    training, epochs = record.training, record.epochs
    return Log(
        label=record.run_folder.removeprefix("runs/"),
        dataset=record.dataset,
        method=record.method,
        data_order=f"{record.dataset}, seed {record.seed}",
        train_columns="fixed",
        arguments={
            "setting": json.dumps(_shared(training), sort_keys=True),
            "batch_size": training.batch_size,
            "momentum": training.optimizer.momentum,
            "iterations_per_epoch": training.iterations_per_epoch,
        },
        columns=LogColumns(
            epoch=epochs.epoch,
            learning_rate=epochs.learning_rate,
            train_robust_loss=epochs.train_robust_loss,
            train_robust_accuracy=epochs.train_robust_accuracy,
            test_robust_loss=epochs.test_robust_loss,
            test_robust_accuracy=epochs.test_robust_accuracy,
            validation_robust_loss=epochs.validation_robust_loss,
            validation_robust_accuracy=epochs.validation_robust_accuracy,
        ),
    )


def _shared(training: Training) -> dict[str, Any]:
    """What runs of one protocol share: everything but the method and how the run was kept and computed."""
    own = {"method", "checkpoint_epochs", "precision"}
    return {name: value for name, value in training.to_dict().items() if name not in own}


def protocol(log: Log) -> tuple[tuple[str, str], ...] | None:
    """What two runs must share to be compared as a pair: every argument but the method's and the bookkeeping.

    None if the run says nothing of its settings: then it can be paired with no other.
    """
    kept = {name: value for name, value in log.arguments.items() if not _BOOKKEEPING.match(name)}
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
