"""Settings: named once, torch-free, readable back whatever else was imported, and the source of every option."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from empirical.commands import options
from empirical.settings import (
    DATASETS,
    METHODS,
    NETWORKS,
    PGD,
    PRESETS,
    DataSetting,
    Measurement,
    Measuring,
    Method,
    NetworkSetting,
    Training,
    make_training,
)
from empirical.settings.data import PUBLISHED, DatasetName
from empirical.settings.fields import choices, meaning
from empirical.settings.options import MEASURING, TRAINING, Part, options_of
from empirical.settings.presets import OVERRIDES, PresetName
from theory.model.optimizer import MomentumSGD, ParameterGroups

ROOT = Path(__file__).parents[3]


def typed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_training_options(parser)
    return parser.parse_args(words)


def test_every_table_has_exactly_the_names_of_its_type():
    assert tuple(DATASETS) == typing.get_args(DatasetName)
    assert tuple(PRESETS) == typing.get_args(PresetName)
    assert choices(NetworkSetting, "name") == NETWORKS and choices(DataSetting, "name") == tuple(DATASETS)
    assert PUBLISHED == ("cifar10", "cifar100", "svhn")


def test_the_networks_and_activations_that_settings_name_are_the_ones_that_can_be_built():
    from empirical.network import build_network
    from empirical.network.blocks import ACTIVATIONS, normalization_layer
    from empirical.settings.network import ActivationName, Normalization

    assert set(ACTIVATIONS) == set(get_args(ActivationName))
    built = {type(normalization_layer(kind, 8)).__name__ for kind in get_args(Normalization)}
    assert len(built) == len(get_args(Normalization))
    kinds = {
        type(build_network(make_training("smoke", "at", {"network": name, "widths": (4, 8)}).network, seed=0))
        for name in NETWORKS
    }
    assert len(kinds) == len(NETWORKS)


def test_the_types_of_autocast_are_those_that_settings_name():
    from empirical.settings.precision import Precision
    from empirical.training.trainer import AUTOCAST

    assert tuple(AUTOCAST) == choices(Precision, "autocast")


#: A squared loss is trained without an attack, so its preset knows one method alone.
TRAINABLE = [
    (preset, method)
    for preset, made in PRESETS.items()
    for method in METHODS
    if made.loss == "cross-entropy" or method in made.methods
]


@pytest.mark.parametrize(("preset", "method"), TRAINABLE)
def test_a_training_is_read_back_by_a_process_that_imported_nothing_else(preset, method):
    setting = make_training(preset, method)
    assert Training.from_dict(json.loads(json.dumps(setting.to_dict(), allow_nan=False))) == setting


def test_reading_back_needs_no_import_but_the_settings_own():
    """A subprocess that imports one module reads what was written, and torch stays out."""
    plain = json.dumps(make_training("digits-cpu", "trades-awp").to_dict())
    code = (
        "import json, sys\n"
        "from empirical.settings.training import Training\n"
        "training = Training.from_dict(json.load(sys.stdin))\n"
        "print(training.method.awp.gamma, training.decays[0][0], 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=plain, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.005", "480", "False"]


def test_a_part_of_another_kind_is_refused_where_it_stands():
    plain = make_training("smoke", "at").to_dict()
    plain["method"]["attack"] = MomentumSGD(0.1).to_dict()
    with pytest.raises(ValueError, match=r"`Method.attack` must be read from a known PGD; got the type 'MomentumSGD'"):
        Training.from_dict(plain)


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (
            PGD,
            {"epsilon": 0.1, "step_size": 0.1, "norm": "l1"},
            r"`PGD\(norm=\.\.\.\)` must be one of \('linf', 'l2'\)",
        ),
        (PGD, {"epsilon": 0.1, "step_size": 0.1, "steps": -1}, r"`PGD\(steps=\.\.\.\)` must be >= 0; got -1"),
        (Method, {"objective": "at"}, "must be given for 'at'"),
        (Method, {"objective": "standard", "loss": "hinge"}, "must be one of"),
        (Measurement, {"samples": 2}, r"samples=\.\.\.\)` must be >= 8"),
        (Measuring, {"window": -1}, r"window=\.\.\.\)` must be >= 0"),
        (Measuring, {"modes": ("train", "test")}, "must be some of"),
        (DataSetting, {"name": "mnist"}, "must be one of"),
        (DataSetting, {"name": "digits", "padding": float("nan")}, r"padding=\.\.\.\)` must be >= 0; got nan"),
    ],
)
def test_what_a_setting_cannot_mean_is_refused_by_name(kind, fields, named):
    with pytest.raises(ValueError, match=named):
        kind(**fields)


def test_a_training_refuses_an_optimizer_that_torch_does_not_have():
    base = make_training("smoke", "at")
    for optimizer in (MomentumSGD(0.1, 0.9, form="position"), MomentumSGD(0.1, 0.9, discount=0.7)):
        with pytest.raises(ValueError, match=r"`Training\(optimizer="):
            dataclasses.replace(base, optimizer=optimizer)


def test_the_squared_loss_is_for_standard_training():
    attack = PGD(epsilon=0.1, step_size=0.1)
    with pytest.raises(ValueError, match="loss='squared'"):
        Method(objective="at", attack=attack, loss="squared")
    assert Method(objective="standard", loss="squared").name == "standard"


# -- options -----------------------------------------------------------------------------------------------------------


def test_every_field_of_a_training_is_an_option_or_determined_by_another_part():
    named = {(option.part.path, option.field) for option in OVERRIDES.values()}
    for part in TRAINING:
        for field in dataclasses.fields(part.kind):
            inner = any(other.path == f"{part.path}.{field.name}".strip(".") for other in TRAINING)
            assert inner or field.name in part.fixed or (part.path, field.name) in named, (part.path, field.name)


def test_the_spellings_that_people_have_typed_are_still_there():
    spellings = """epochs batch-size learning-rate momentum dampening weight-decay milestones factor peak train-size
        validation-size test-size split-seed label-noise epsilon step-size steps restarts evaluation-steps
        evaluation-step-size evaluation-every evaluation-batch-size train-probe masking-probe beta awp-gamma awp-warmup
        awp-steps widths ema log-window checkpoint-epochs dataset schedule order augmentation norm random-start
        attack-batch-norm network normalization activation awp-normalization awp-batch awp-weight-decay autocast
        nesterov published-offset awp-recompute channels-last compile cuda-graph tf32 deterministic""".split()
    assert set(spellings) <= {option.flag[2:] for option in OVERRIDES.values()}
    measured = "k samples evaluated batch-norm checkpoints probes groups dtype tolerance chunk layers density replicas"
    measured += " ensemble-steps ensembles window seed"
    assert set(measured.split()) <= {option.flag[2:] for option in options_of(MEASURING).values()}


def test_every_option_says_what_it_means_and_what_it_is_otherwise():
    parser = argparse.ArgumentParser()
    options.add_training_options(parser)
    options.add_measuring_options(argparse.ArgumentParser())
    text = " ".join(parser.format_help().split())
    for option in (*OVERRIDES.values(), *options_of(MEASURING).values()):
        assert option.meaning, option.flag
    assert (
        "pixel units of [0, 1], such as 8/255 (for L2: of the whole image) (default: 0.15 in digits-cpu; 8/255" in text
    )
    assert text.count("(default: ") >= len(OVERRIDES)


def changed(value, allowed):
    """Another value of the same type."""
    if allowed:
        return next(name for name in allowed if name != value)
    if isinstance(value, bool):
        return not value
    return {int: 7, float: 0.125}.get(type(value), value)


@pytest.mark.parametrize("name", sorted(OVERRIDES))
def test_an_option_reaches_its_field(name):
    """Typed on the command line, it is the value of the field, and of no other."""
    option = OVERRIDES[name]
    base = {"image_size": 32, "padding": 4} if name == "image_size" else {}
    method = "standard" if name == "loss" else "trades-awp" if name == "beta" else "awp"
    examples = {
        "dataset": "generated", "network": "mlp", "widths": "8,16", "milestones": "2,5", "checkpoint_epochs": "0,3",
        "schedule": "cosine", "peak": "3", "train_size": "64", "test_size": "50", "validation_size": "9",
        "image_size": "8", "norm": "l2", "train_probe": "7", "momentum": "0.5", "nesterov": None, "epochs": "9",
        "steps": "7", "batch_size": "7", "factor": "1/8", "pool": "2",
        "evaluation_around": "7", "swa_start": "5",
    }  # fmt: skip
    text = examples.get(name, "")
    if text == "":
        before = option.value_in(make_training("smoke", method))
        other = changed(before, option.choices)
        text = None if isinstance(other, bool) else str(other)
        expected = other
    words = [option.flag] if text is None else [option.flag, text]
    if text is None and name in ("deterministic",):
        words = ["--no-deterministic"]
    if name == "peak":
        words += ["--schedule", "cyclic"]
    if name == "image_size":
        words += ["--dataset", "generated"]
    given = options.overrides(typed(*words))
    training = make_training("smoke", method, given | base if name != "image_size" else given)
    value = option.value_in(training)
    if name in examples:
        expected = given[name]
    assert value == expected
    assert options.override_of(name, {None: str(expected).lower()}.get(text, text)) == expected


def test_two_fields_cannot_claim_one_option():
    parts = (Part(path="attack", kind=PGD), Part(path="", kind=PGD))
    with pytest.raises(ValueError, match="'epsilon' is used twice"):
        options_of(parts)


def test_what_to_measure_is_a_setting_however_it_was_typed():
    parser = argparse.ArgumentParser()
    options.add_measuring_options(parser)
    words = "--k 3 --batch-norm eval frozen-batch --layers --tolerance 1e-4 --replicas 12".split()
    found = options.measuring(parser.parse_args(words))
    assert found == options.measuring_of(" ".join(words))
    assert found.measurement.eigenpairs == 3 and found.measurement.layers and found.measurement.tolerance == 1e-4
    assert found.modes == ("eval", "frozen-batch") and found.replicas == 12 and found.window == 200
    assert options.measuring(parser.parse_args([])) == Measuring()
    assert Measuring.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for wrong in ("--k x", "--rubbish", "--k 0", "--k"):
        with pytest.raises(ValueError):
            options.measuring_of(wrong)


def test_meanings_are_read_from_the_classes_own_words():
    assert meaning(PGD, "steps") == "gradient steps of the attack, ≥ 0"
    assert meaning(PGD, "batch_norm").startswith('"train": batch statistics') and "eval" in meaning(PGD, "batch_norm")
    assert meaning(MomentumSGD, "momentum") == "momentum μ in [0, 1)"


def test_what_training_would_ignore_is_refused():
    setting = make_training("smoke", "at")
    for changes, named in (({"groups": ParameterGroups(decay_factors=np.ones(3))}, "alike"), ({"discount": 0.5}, "1")):
        with pytest.raises(ValueError, match=named):
            dataclasses.replace(setting, optimizer=dataclasses.replace(setting.optimizer, **changes))


def test_around_decays_and_placebo_decays_every_epoch_is_evaluated():
    setting = make_training("digits-cpu", "at")
    assert [iteration // 10 for iteration, _, _ in setting.decays] == [48, 84]
    assert [iteration // 10 for iteration in setting.placebo_decays] == [24, 66]
    found = {epoch for epoch in range(121) if setting.evaluates_after(epoch)}
    dense = {epoch for centre in (24, 48, 66, 84) for epoch in range(centre - 14, centre + 15)}
    assert found == dense | set(range(0, 121, 2))
    plain = make_training("digits-cpu", "at", {"evaluation_around": None})
    assert {e for e in range(121) if plain.evaluates_after(e) and e % 2} == {45, 47, 49, 51, 81, 83, 85, 87}
    assert "around" not in plain.to_dict()["evaluation"], "Settings of before are still the same"
    with pytest.raises(ValueError, match=r"`Evaluation\(around=\.\.\.\)` must be >= 1; got 0"):
        make_training("digits-cpu", "at", {"evaluation_around": 0})
