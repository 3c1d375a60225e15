"""Fashion-MNIST from idx files that the tests write: read, found, refused in one line, trained on."""

import dataclasses
import gzip
import struct
import urllib.error

import numpy as np
import pytest
import torch

from empirical.__main__ import main
from empirical.commands import options
from empirical.data import DataError, idx, load_data
from empirical.data.sources import load_raw
from empirical.settings import DataSetting, make_training
from empirical.settings import data as facts

torch.set_num_threads(1)
NAMES = [name for pair in idx.FASHION_FILES.values() for name in pair]


def encoded(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def written(folder, zipped=False):
    """The four files with 120 training and 100 test images; the arrays by name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for name in NAMES:
        count = 120 if name.startswith("train") else 100
        high, shape = (256, (count, 28, 28)) if "images" in name else (10, (count,))
        arrays[name] = rng.integers(0, high, shape, dtype=np.uint8)
        content = encoded(arrays[name])
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The sizes of our files, and no package of the machine's."""
    known = dataclasses.replace(facts.DATASETS["fashion-mnist"], train_size=120, test_size=100)
    monkeypatch.setitem(facts.DATASETS, "fashion-mnist", known)
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "debian")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["data", "data/FashionMNIST/raw", "data/fashion-mnist", "debian"])
def test_files_are_found_without_download_in_every_place_and_read_to_the_byte(tmp_path, place, zipped):
    arrays = written(tmp_path / place, zipped)
    raw = load_raw(DataSetting(name="fashion-mnist"), root=tmp_path / "data", download=False)
    for part, (images, labels) in idx.FASHION_FILES.items():
        assert np.array_equal(getattr(raw, part).images[:, 0], arrays[images])
        assert np.array_equal(getattr(raw, part).labels, arrays[labels])
    pooled = load_data(DataSetting(name="fashion-mnist", pool=2), root=tmp_path / "data", download=False)
    assert pooled.test.images.shape == (100, 1, 14, 14)
    blocks = arrays["t10k-images-idx3-ubyte"].reshape(100, 14, 2, 14, 2).astype(float).mean(axis=(2, 4)) / 255
    assert np.allclose(pooled.test.pixels(pooled.test.images)[:, 0].numpy(), blocks, rtol=1e-6)


def _cut(content):
    return content[:-1]


def _other_shape(content):
    return encoded(np.zeros((120, 14, 14), dtype=np.uint8))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("train-images-idx3-ubyte", _cut, "truncated"),
        ("t10k-labels-idx1-ubyte", lambda content: content + b"\0", "too long"),
        ("t10k-images-idx3-ubyte", lambda content: content[:9], "no idx file"),
        ("train-labels-idx1-ubyte", lambda content: b"", "no idx file"),
        ("train-labels-idx1-ubyte", lambda content: b"<html>not found</html>", "no idx file"),
        ("train-images-idx3-ubyte", _other_shape, "must hold 120 images"),
        ("train-labels-idx1-ubyte", lambda content: encoded(np.zeros(7, dtype=np.uint8)), "must hold 120 labels"),
        ("t10k-labels-idx1-ubyte", lambda content: encoded(np.full(100, 10, dtype=np.uint8)), "another data set"),
    ],
)
def test_a_file_truncated_or_of_another_shape_is_one_line(tmp_path, capsys, zipped, name, damage, said):
    written(tmp_path, zipped)
    path = tmp_path / (name + ".gz" * zipped)
    whole = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    path.write_bytes(gzip.compress(damage(whole)) if zipped else damage(whole))
    with pytest.raises(DataError, match=said) as caught:
        load_raw(DataSetting(name="fashion-mnist"), root=tmp_path, download=False)
    assert "\n" not in str(caught.value)
    status = main([*WORDS, "--data-root", str(tmp_path), "--out", str(tmp_path / "out"), "--no-download"])
    assert status == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_gzip_cut_short_is_named(tmp_path):
    written(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is truncated"):
        load_raw(DataSetting(name="fashion-mnist"), root=tmp_path, download=False)


WORDS = ["train", "--preset", "fashion-smoke", "--method", "at", "--epochs", "1", "--device", "cpu", "--quiet"]


def test_no_files_and_no_network_is_one_line_with_or_without_the_wish_to_download(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torchvision")

    def offline(*arguments, **keywords):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for extra, said in (([], "no network"), (["--no-download"], "four idx files")):
        status = main([*WORDS, "--data-root", str(tmp_path / "none"), "--out", str(tmp_path / "out"), *extra])
        lines = capsys.readouterr().err.strip().splitlines()
        assert status == 2 and len(lines) == 1 and said in lines[0] and "dataset-fashion-mnist" in lines[0]


def test_the_smoke_preset_trains_from_the_command_line(tmp_path):
    written(tmp_path / "data", zipped=True)
    out = tmp_path / "out"
    assert main([*WORDS, "--data-root", str(tmp_path / "data"), "--out", str(out), "--no-download"]) == 0
    assert list(out.glob("runs/*/checkpoints/epoch-0001.pt"))


def test_the_data_set_picks_its_preset_and_takes_its_shapes(monkeypatch):
    monkeypatch.setitem(
        facts.DATASETS,
        "fashion-mnist",
        dataclasses.replace(facts.DATASETS["fashion-mnist"], train_size=60_000, test_size=10_000),
    )
    import argparse

    parser = argparse.ArgumentParser()
    options.add_training_options(parser)
    options.add_run_options(parser)
    args = parser.parse_args(["--dataset", "fashion-mnist", "--device", "cpu"])
    assert options.preset_and_methods(args) == ("fashion-cpu", ("at", "awp"))
    run = make_training("fashion-cpu", "at")
    assert run.network.image_shape == (1, 14, 14) and run.data.label_noise == 0
    assert run.schedule.milestones == (18,) and (run.batch_size, run.epochs) == (16, 45)
    assert make_training("digits-cpu", "at", {"dataset": "fashion-mnist"}).network.image_shape == (1, 28, 28)
