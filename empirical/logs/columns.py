"""The names that columns of every format are brought to, and the ranges their values may take.

A log writes ``Test Robust Acc``, ``test/adv_accuracy`` or ``val_pgd_loss``. All are three facts: the split, whether the
inputs were attacked, and the quantity. `canonical_name` reads those facts from the words of a name; a name that states
them twice or leaves one open is not guessed at: it stays unread, and a `--column` mapping can name it.
"""

from __future__ import annotations

import re

from empirical.records.log import COLUMNS

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "eval": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_ATTACKED = {"robust", "rob", "adv", "adversarial", "pgd", "attacked"}
_CLEAN = {"clean", "natural", "nat", "standard", "std"}
_QUANTITIES = {"loss": "loss", "acc": "accuracy", "accuracy": "accuracy", "time": "seconds", "seconds": "seconds"}
_LEARNING_RATE = {("lr",), ("learning", "rate"), ("learningrate",), ("lr", "max")}


def canonical_name(name: str) -> str | None:
    """The member of `COLUMNS` that `name` means, or None if its words do not settle it.

    ``"Train Robust Acc"`` → ``train_robust_accuracy``; ``"val/clean_loss"`` → ``validation_loss``; ``"lr"`` →
    ``learning_rate``; ``"loss"`` → None (of what?).
    """
    words = tuple(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    if "_".join(words) in COLUMNS:
        return "_".join(words)
    if words == ("epoch",) or words == ("epochs",):
        return "epoch"
    if words in _LEARNING_RATE - {("lr", "max")}:
        return "learning_rate"
    splits = {_SPLITS[word] for word in words if word in _SPLITS}
    quantities = {_QUANTITIES[word] for word in words if word in _QUANTITIES}
    attacked = any(word in _ATTACKED for word in words)
    clean = any(word in _CLEAN for word in words)
    unknown = [word for word in words if word not in _SPLITS.keys() | _ATTACKED | _CLEAN | _QUANTITIES.keys()]
    if len(splits) != 1 or len(quantities) != 1 or (attacked and clean) or unknown:
        return None
    (split,), (quantity,) = splits, quantities
    found = f"{split}_{'robust_' if attacked else ''}{quantity}"
    return found if found in COLUMNS else None


#: Largest float32: what a training run computes is smaller, whatever a log says.
LARGEST = (2 - 2**-23) * 2.0**127


def broken_rule(column: str, value: float) -> str | None:
    """The rule that `value` breaks in `column`, as the end of "`column` must be …", or None.

    An accuracy above 1 or a loss below 0 is how swapped columns, or percentages, show themselves.
    """
    if value != value or value in (float("inf"), float("-inf")):
        return "finite"
    if abs(value) > LARGEST:
        return f"at most {LARGEST:.3g}, the largest float32"
    if column.endswith("_accuracy") and not 0 <= value <= 1:
        return "a fraction in [0, 1] (columns swapped, or per cent?)"
    if column.endswith(("_loss", "_seconds")) and value < 0:
        return "at least 0 (columns swapped?)"
    if column == "learning_rate" and value < 0:
        return "at least 0"
    if column == "epoch" and (value < 0 or value != int(value)):
        return "a whole number from 0"
    return None
