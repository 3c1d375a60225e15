"""The options of the command line, read off the fields of the Settings they fill.

An `Option` is one field of one part of a `Training` (or of a `Measuring`): its name, its type, the values it may take
and what it means come from the dataclass. A part contributes all its fields, under its prefix; what stands here by
hand is which fields another part determines (a network's classes follow from the data), and the few options that are
not called like their field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from empirical.settings.attack import PGD
from empirical.settings.awp import AWP
from empirical.settings.data import DataSetting
from empirical.settings.evaluation import Evaluation
from empirical.settings.fields import choices, meaning, value_type
from empirical.settings.measuring import Measurement, Measuring
from empirical.settings.method import Method
from empirical.settings.network import NetworkSetting
from empirical.settings.precision import Precision
from empirical.settings.schedule import LearningRate
from empirical.settings.training import Training
from theory.model.optimizer import MomentumSGD
from theory.model.setting import Setting

__all__ = ["MEASURING", "TRAINING", "Option", "Part", "options_of"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Setting inside another one, whose fields are options.

    Args:
        path: attributes that lead to it, such as ``"evaluation.attack"``; empty for the outermost.
        kind: its class.
        prefix: put before each field's name.
        renamed: field to option, where the option is not prefix and field.
        fixed: fields that are no options: another part determines them.
    """

    path: str
    kind: type[Setting]
    prefix: str = ""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: the field it fills, and all that ``--help`` says of it.

    Args:
        name: with underscores, as in `make_training(overrides=...)`; on the command line it has hyphens.
        part: the Setting that has the field.
        field: the field.
        type: int, float, str, bool, or a tuple of one of them.
        choices: values that a name may take; empty for numbers.
        meaning: what the field's class says of it, units included.
    """

    name: str
    part: Part
    field: str
    type: Any
    choices: tuple[str, ...]
    meaning: str

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    def value_in(self, setting: Setting) -> Any:
        """The option's value in a Setting; None where the part is absent."""
        found: Any = setting
        for step in filter(None, (*self.part.path.split("."), self.field)):
            found = None if found is None else getattr(found, step)
        return found


#: The parts of a Training that the command line fills, in the order of ``--help``.
TRAINING = (
    Part(path="data", kind=DataSetting, renamed={"name": "dataset"}),
    Part(
        path="network",
        kind=NetworkSetting,
        renamed={"name": "network"},
        fixed=("num_classes", "image_shape", "mean", "std"),
    ),
    Part(path="", kind=Training, renamed={"ema_decay": "ema"}),
    Part(path="optimizer", kind=MomentumSGD, fixed=("form", "discount", "groups")),
    Part(path="schedule", kind=LearningRate, renamed={"kind": "schedule"}),
    Part(path="method", kind=Method, fixed=("objective",)),
    Part(path="method.attack", kind=PGD, renamed={"batch_norm": "attack_batch_norm"}, fixed=("loss",)),
    Part(
        path="method.awp",
        kind=AWP,
        prefix="awp_",
        renamed={"warmup_epochs": "awp_warmup", "recompute_attack": "awp_recompute"},
    ),
    Part(
        path="evaluation",
        kind=Evaluation,
        prefix="evaluation_",
        renamed={"train_probe": "train_probe", "masking_probe": "masking_probe"},
    ),
    # The evaluation attacks with the ball of the training attack, in eval mode.
    Part(path="evaluation.attack", kind=PGD, prefix="evaluation_", fixed=("epsilon", "norm", "batch_norm", "loss")),
    Part(path="precision", kind=Precision),
)

#: The parts of a Measuring that the command line fills.
MEASURING = (
    Part(path="measurement", kind=Measurement, renamed={"eigenpairs": "k"}, fixed=("batch_norm",)),
    Part(path="", kind=Measuring, renamed={"modes": "batch_norm"}),
)


def options_of(parts: tuple[Part, ...]) -> dict[str, Option]:
    """Every option of the parts by name.

    Raises:
        ValueError: if two fields claim one name.
    """
    found: dict[str, Option] = {}
    for part in parts:
        for field in dataclasses.fields(part.kind):  # pyright: ignore[reportArgumentType]
            kind = value_type(part.kind, field.name)
            if field.name in part.fixed or (isinstance(kind, type) and issubclass(kind, Setting)):
                continue
            name = part.renamed.get(field.name, f"{part.prefix}{field.name}")
            if name in found:
                raise ValueError(f"`options_of(parts=...)` must give every field its own name; {name!r} is used twice.")
            found[name] = Option(
                name=name,
                part=part,
                field=field.name,
                type=kind,
                choices=choices(part.kind, field.name),
                meaning=meaning(part.kind, field.name),
            )
    return found
