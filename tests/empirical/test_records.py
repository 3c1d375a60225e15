"""Records survive the disk to the bit, and whatever is wrong with a file is said in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from empirical.records import EXPERIMENTS, RegimeRun, Spectrum, TrainingRun, read_records, record_of
from empirical.records.base import Part
from tests.empirical import record_making as make
from theory.judge.evidence import Evidence

ROOT = Path(__file__).resolve().parents[2]
RECORDS = make.one_of_each()
IDENTITIES = {
    *("training", "measurement", "iteration", "iterations", "ensemble", "separation", "window", "source"),
    *("before", "after", "robustness", "checkpoint_digest", "images"),
}


def flat(value, path=""):
    """Every leaf of a record, under its path."""
    if isinstance(value, Part):
        for field in dataclasses.fields(value):
            yield from flat(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from flat(item, f"{path}.{place}")
    else:
        yield path, value


def evidence_of(record, **changes) -> Evidence:
    """The record as it comes back from JSON, with parts replaced."""
    item = record.to_evidence()
    plain = json.loads(json.dumps({"setting": item.setting, "measured": item.measured}))
    fields = {"setting": plain["setting"], "measured": plain["measured"], "arrays": dict(item.arrays)}
    return dataclasses.replace(item, **(fields | changes))


def leaves(value, path=()):
    """Paths of every JSON value below the top, objects included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from leaves(item, (*path, key))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.experiment)
def test_a_record_comes_back_from_disk_as_it_was(record, tmp_path):
    path = record.to_evidence().write(tmp_path)
    (found,) = read_records(tmp_path)
    assert path.stem == record.run_id == found.run_id
    before, after = dict(flat(record)), dict(flat(found))
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == after[name].dtype
            assert np.array_equal(value, after[name], equal_nan=value.dtype.kind == "f"), name
        else:
            assert value == after[name], name


def test_every_experiment_has_a_record_here():
    assert {record.experiment for record in RECORDS} == set(EXPERIMENTS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.experiment)
def test_a_run_id_is_known_before_anything_is_measured(record):
    identity = {
        field.name: getattr(record, field.name)
        for field in dataclasses.fields(record)
        if field.name in IDENTITIES
        and field.name not in ({"iterations"} if isinstance(record, (TrainingRun, RegimeRun)) else set())
    }
    assert type(record).run_id_of(seed=record.seed, **identity) == record.run_id
    with pytest.raises(TypeError, match="needs the fields"):
        type(record).run_id_of(seed=record.seed, other=1)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.experiment)
def test_every_field_that_is_missing_unknown_null_or_of_another_type_is_named_in_one_line(record):
    whole = evidence_of(record)
    broken = 0
    for path in leaves(whole.measured):
        for damage in ("missing", "unknown", "object", "null"):
            measured = copy.deepcopy(whole.measured)
            holder = measured
            for key in path[:-1]:
                holder = holder[key]
            if damage == "missing":
                del holder[path[-1]]
            elif damage == "unknown":
                holder["surprise"] = 1
            elif damage == "null":
                if holder[path[-1]] is None:
                    continue
                holder[path[-1]] = None
            else:
                holder[path[-1]] = {"surprise": {}}
            free = {"arguments", "inferred", "layers", "product_seconds", "reading", "given"}
            if free & set(path[:-1]) or (path[-1] in free and damage == "object"):
                continue  # mappings take any name
            arrays = dict(whole.arrays)
            if damage == "null":  # a part that may be absent is absent with its arrays
                prefix = ".".join(path) + "."
                arrays = {name: array for name, array in arrays.items() if not name.startswith(prefix)}
            try:
                record_of(dataclasses.replace(whole, measured=measured, arrays=arrays))
            except ValueError as error:
                broken += 1
                assert "\n" not in str(error)
                assert str(error).startswith(f"evidence/{record.experiment}/{whole.run_id}.json: `")
                name = "surprise" if damage == "unknown" else path[-1]
                assert name in str(error), (path, damage, str(error))
            else:
                assert damage == "null", (path, damage)  # only what may be absent
    assert broken > 3


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.experiment)
def test_every_array_that_is_missing_unknown_not_finite_or_of_another_shape_is_named(record):
    whole = evidence_of(record)
    optional = {
        "eigenvectors",
        *("residuals", "sharpness_error", "attacked_sharpness", "test_accuracy"),
        "alignment.direction_influences",
        "epochs.running_clean_loss",
        "epochs.running_clean_accuracy",
        *(name for name in whole.arrays if name.startswith("log.columns.t")),
    }
    nowhere = ("squared_curvatures", "average_curvatures", "attacked_sharpness")
    may_be_nan = ("epochs.", "iterations.", "log.columns.t", *nowhere)
    for name, array in whole.arrays.items():
        damaged = {
            "missing": None,
            "words": np.full(array.shape, "a"),
            "another number of axes": array[..., None],
        }
        if array.size and array.dtype.kind == "f":
            damaged["infinite"] = np.full(array.shape, np.inf, dtype=array.dtype)
            if not name.startswith(may_be_nan):
                damaged["NaN"] = np.full(array.shape, np.nan, dtype=array.dtype)
        for damage, other in damaged.items():
            if damage == "missing" and name in optional:
                continue
            arrays = {key: value for key, value in whole.arrays.items() if key != name}
            arrays |= {} if other is None else {name: other}
            with pytest.raises(ValueError) as error:
                record_of(dataclasses.replace(whole, arrays=arrays))
            assert name.split(".")[-1] in str(error.value) and "\n" not in str(error.value), (name, damage)
    with pytest.raises(ValueError, match="unknown: \\['surprise'\\]"):
        record_of(dataclasses.replace(whole, arrays=whole.arrays | {"surprise": np.ones(1)}))


def test_lengths_are_checked_across_the_whole_record():
    good = make.spectrum(48)
    with pytest.raises(ValueError, match=r"projections=.*with 6 directions, as `.*` has; got \(400, 5\)"):
        dataclasses.replace(good, projections=good.projections[:, :5])
    with pytest.raises(ValueError, match=r"losses=.*with 400 units"):
        dataclasses.replace(good, losses=good.losses[:-1])
    with pytest.raises(ValueError, match=r"repeated_share.*with 6 directions"):
        share = dataclasses.replace(good.repeated_share, values=np.ones(4), standard_errors=np.ones(4))
        dataclasses.replace(good, repeated_share=share)


def test_a_measurement_that_is_not_a_number_is_refused_where_it_is_made():
    good = make.spectrum(48)
    for field, value in (("noise_factor", float("nan")), ("seconds", "1"), ("num_units", 3.5), ("units", "images")):
        with pytest.raises(ValueError, match=f"`Spectrum\\({field}=...\\)` must be"):
            dataclasses.replace(good, **{field: value})


def test_compact_evidence_in_single_precision_is_read_at_full_width():
    whole = evidence_of(make.spectrum(48))
    short = {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in whole.arrays.items()
    }
    found = record_of(dataclasses.replace(whole, arrays=short))
    assert isinstance(found, Spectrum) and found.projections.dtype == np.float64


def test_evidence_of_another_experiment_is_none_of_ours(tmp_path):
    other = Evidence(experiment="stationary", setting={}, seed=0, measured={})
    with pytest.raises(ValueError, match="must be of one of the experiments"):
        record_of(other)
    other.write(tmp_path)
    assert read_records(tmp_path) == ()


def test_a_record_knows_its_run_without_copies():
    item = make.spectrum(48, method="awp", seed=3)
    assert (item.run, item.method, item.dataset) == (item.training.run_name(3), "awp", "digits")
    assert item.epoch == 48 and item.optimizer.learning_rate == 0.1 and item.optimizer.momentum == 0.9
    assert not {"run", "method", "dataset", "optimizer", "decays"} & set(item.to_evidence().measured)


def test_records_import_without_torch():
    code = "import sys, empirical.records; print([m for m in ('torch', 'sklearn', 'scipy.stats') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
