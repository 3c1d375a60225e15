"""From a trained run to evidence and verdicts through the command line, resumably, and one line for what is wrong."""

import argparse
import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch

from empirical.__main__ import main
from empirical.claims import collect, held_against_controls, registered
from empirical.commands import measure
from empirical.commands.verify import judge_all
from empirical.measure import operators, pipeline
from empirical.measure.foreign import open_checkpoint
from empirical.records import Ensemble, Expansion, Spectrum, Trajectory, read_records
from empirical.settings.measuring import Measurement
from empirical.settings.presets import make_training
from empirical.training.run import train
from theory.judge.evidence import Evidence
from theory.judge.front import UNUSABLE
from theory.judge.verdict import Standing

OPTIONS = [
    "--k",
    "3",
    "--probes",
    "2",
    "--groups",
    "6",
    "--replicas",
    "6",
    "--ensemble-steps",
    "3",
    "--window",
    "24",
    "--jobs",
    "1",
    "--checkpoints",
    "4",
    "--quiet",
    "--dtype",
    "float64",
]


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    measure.add_options(parser)
    return parser.parse_args([str(word) for word in arguments])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for method in ("at", "awp"):
        changes = {"epochs": 6, "masking_probe": 0, "train_size": 64, "test_size": 32, "ema": 0.5}
        changes["attack_batch_norm"] = "batch"
        train(make_training("smoke", method, changes), seed=0, out=folder)
    return folder


@pytest.fixture(scope="module")
def measured(out):
    assert measure.run(parsed(out, *OPTIONS)) == 0
    return out


def test_a_folder_of_runs_becomes_evidence_of_every_kind(measured):
    records = read_records(measured)
    kinds = Counter(type(item) for item in records)
    # two runs × four checkpoints × two batch-norm modes; both dynamics, one ensemble; a bound a run and mode
    assert kinds[Spectrum] == 16
    assert kinds[Expansion] == 2 and kinds[Trajectory] == 4 and kinds[Ensemble] == 1
    for item in records:
        if isinstance(item, Spectrum):
            assert (item.error_bounds >= 0).all()
            assert (item.eigenvalues[:2] >= item.eigenvalues[1:3]).all()
            assert item.units == ("samples" if item.measurement.batch_norm == "eval" else "batches")
            assert len(item.gamma.low) == 3
            kinds_of_sharpness = (item.sharpness, item.finite_sharpness, item.attacked_sharpness)
            for found in kinds_of_sharpness:
                assert found is not None and found.batch_size == 32
                assert found.small_batch_limit == pytest.approx(0.2 / item.learning_rate)
                assert found.large_batch_limit == pytest.approx(3.8 / item.learning_rate)
                assert found.low <= found.value <= found.high
            assert item.finite_sharpness.value != item.attacked_sharpness.value
            assert np.array_equal(item.finite_sharpness.squares, item.attacked_sharpness.squares)
            assert item.average_curvature is not None and item.average_curvature != item.eigenvalues[0]
        if isinstance(item, Ensemble):
            assert sum(item.batch_sizes) == item.num_samples == 64 and item.positions.shape[1] == item.ensemble.replicas
            assert item.curvature is None or item.curvature.exact.shape[0] == 64


def test_a_stopped_measurement_goes_on_as_if_it_had_not_been_stopped(out, measured, tmp_path, monkeypatch):
    """What a checkpoint's measurement takes from the one before it survives the process."""
    run = next((out / "runs").glob("at-*"))
    words = [run, *OPTIONS, "--replicas", "0", "--window", "0", "--batch-norm", "eval", "--out"]
    monkeypatch.setattr(operators, "_seconds", lambda *_: 1.0)
    assert measure.run(parsed(*words, tmp_path / "whole")) == 0
    write, count = pipeline._write, itertools.count()

    def stop(*arguments):
        if next(count) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(pipeline, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        measure.run(parsed(*words, tmp_path / "stopped"))
    assert measure.run(parsed(*words, tmp_path / "stopped")) == 0
    first, second = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*")}
        for name in ("whole", "stopped")
    )
    assert set(first) == set(second)
    for name in (name for name in first if name.suffix == ".json"):
        ours, theirs = Evidence.read(first[name]), Evidence.read(second[name])
        assert timeless(ours.measured) == timeless(theirs.measured)
        assert ours.arrays.keys() == theirs.arrays.keys()
        assert all(np.array_equal(ours.arrays[key], theirs.arrays[key], equal_nan=True) for key in ours.arrays)


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if "seconds" not in key}
    return value


def test_measuring_again_does_nothing_and_overwrites_nothing(measured, capsys):
    before = {path: path.stat().st_mtime_ns for path in measured.glob("evidence/*/*")}
    assert measure.run(parsed(measured, *OPTIONS)) == 0
    assert {path: path.stat().st_mtime_ns for path in measured.glob("evidence/*/*")} == before


def test_the_evidence_can_be_judged_and_the_verdicts_written(measured):
    records = read_records(measured)
    assert all(item.provenance["claims"] == registered() for item in records)
    verdicts = held_against_controls(judge_all(collect(("spectra", "posterior")), records), records)
    assert {verdict.standing for verdict in verdicts} == {Standing.CONFIRMATORY}
    assert {verdict.verified for verdict in verdicts} == {False}, "no control was run"
    assert {"curvature-spike-early", "commutativity", "transient-ensemble", "awp-flattens"} <= {
        v.claim for v in verdicts
    }
    for verdict in verdicts:
        json.dumps(verdict.to_dict(), allow_nan=False)
        assert verdict.note


def test_one_checkpoint_can_be_measured_anywhere(measured, tmp_path):
    path = sorted((measured / "runs").glob("at-*/checkpoints/epoch-*.pt"))[-1]
    assert measure.run(parsed(path, "--out", tmp_path, *OPTIONS, "--batch-norm", "frozen-batch")) == 0
    (item,) = read_records(tmp_path, (Spectrum,))
    assert isinstance(item, Spectrum) and item.measurement.batch_norm == "frozen-batch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.pt",), "that exist"),
        (("{out}", "--k", "0"), "eigenpairs=..."),
        (("{out}", "--replicas", "-1"), "must be >= 0"),
        (("{out}", "--device", "cuda"), "no CUDA device"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(out, capsys, arguments, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main(["measure", *(item.format(out=out) for item in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_more_pairs_than_samples_fails_in_one_line_and_keeps_the_rest(out, tmp_path, capsys):
    options = ["--replicas", "0", "--window", "0", "--jobs", "1", "--quiet", "--checkpoints", "1"]
    assert measure.run(parsed(out, "--out", tmp_path, "--k", "64", *options)) == UNUSABLE
    error = capsys.readouterr().err
    assert "must be at most 63" in error


def test_a_damaged_checkpoint_is_named(tmp_path, capsys):
    (tmp_path / "epoch-0001.pt").write_bytes(b"not a checkpoint")
    assert main(["measure", str(tmp_path)]) == 2
    assert "epoch-0001.pt" in capsys.readouterr().err


def test_bare_weights_are_asked_for_what_they_do_not_say(tmp_path):
    from empirical.network.build import build_network

    network = build_network(make_training("smoke", "at").network, seed=0)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    path = tmp_path / "weights.pt"
    with pytest.raises(ValueError, match="give --network, --learning-rate and --batch-size"):
        open_checkpoint(path)
    with pytest.raises(ValueError, match="give --learning-rate"):
        open_checkpoint(path, network="convnet", dataset="digits")
    with pytest.raises(ValueError, match="give --batch-size"):
        open_checkpoint(path, network="convnet", dataset="digits", learning_rate=0.1)


def test_bare_weights_and_what_was_said_of_them_make_a_checkpoint(tmp_path):
    from empirical.network.build import build_network

    network = build_network(make_training("smoke", "at", {"network": "linear"}).network, seed=3)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    item = open_checkpoint(
        tmp_path / "weights.pt", network="linear", dataset="digits", learning_rate=0.02, batch_size=50
    )
    assert item.learning_rate == 0.02 and item.setting.batch_size == 50 and item.setting.data.name == "digits"
    assert torch.equal(item.model.linear.weight, network.linear.weight)


@pytest.mark.parametrize("window", [1, 10, 19, -1])
def test_a_window_too_short_to_be_judged_is_refused_before_anything_is_measured(out, tmp_path, capsys, window):
    assert main(["measure", str(out), "--window", str(window), "--out", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err.strip()
    assert "window" in error and str(window) in error and "\n" not in error
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"eigenpairs": 0},
        {"probes": 1},
        {"dtype": "bfloat16"},
        {"batch_norm": "running"},
        {"samples": 3},
        {"tolerance": 0},
    ],
)
def test_a_measurement_is_validated_at_birth(changes):
    with pytest.raises(ValueError, match=r"`Measurement\("):
        Measurement(**changes)
