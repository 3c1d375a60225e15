"""Data: every source, subset, label-noise and augmentation rule, against torchvision or by counting."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
from scipy import stats

from empirical.data import (
    DataError,
    augment,
    derived_seed,
    draw_augmentation,
    epoch_order,
    generator,
    load_data,
)
from empirical.data.augmentation import AugmentationDraw, rotate
from empirical.data.sources import load_raw
from empirical.settings import DataSetting

torch.set_num_threads(1)


def test_digits_are_scikit_learns_images_exactly():
    from sklearn.datasets import load_digits

    data = load_data(DataSetting(name="digits"))
    assert (len(data.train), len(data.test)) == (1200, 597)
    ours = torch.cat([data.train.pixels(data.train.images), data.test.pixels(data.test.images)]).flatten(1).numpy()
    theirs = (load_digits().images / 16).reshape(-1, 64)
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)].astype(np.float32))
    assert ours.min() == 0 and ours.max() == 1


def test_pooled_images_are_block_means_to_the_last_bit():
    whole, pooled = (load_data(DataSetting(name="digits", train_size=50, pool=side)) for side in (1, 2))
    assert pooled.train.images.shape == (50, 1, 4, 4) and DataSetting(name="digits", pool=2).image_shape == (1, 4, 4)
    means = torch.nn.functional.avg_pool2d(whole.train.pixels(whole.train.images), 2)
    assert torch.equal(pooled.train.pixels(pooled.train.images), means)  # sixteenths and their quarters are exact
    assert torch.equal(pooled.test.labels, whole.test.labels)
    photographs = DataSetting(name="generated", train_size=9, test_size=3, image_size=8)
    fine = load_data(photographs)
    coarse = load_data(dataclasses.replace(photographs, pool=4))
    assert coarse.train.images.dtype == torch.int16
    means = torch.nn.functional.avg_pool2d(fine.train.images.double(), 4) / 255
    assert torch.allclose(coarse.train.pixels(coarse.train.images).double(), means, rtol=1e-6)


def test_the_validation_split_is_disjoint_from_training_and_survives_a_growing_training_set():
    small = load_data(DataSetting(name="generated", train_size=50, validation_size=30, test_size=20, image_size=8))
    large = load_data(DataSetting(name="digits", train_size=900, validation_size=30))
    other = load_data(DataSetting(name="digits", train_size=100, validation_size=30))
    assert torch.equal(large.validation.images, other.validation.images)
    assert torch.equal(large.train.images[:100], other.train.images)
    for data in (small, large):
        held_out = {image.numpy().tobytes() for image in data.validation.images}
        assert len(held_out) == 30
        assert not held_out & {image.numpy().tobytes() for image in data.train.images}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37])
def test_label_noise_changes_exactly_its_share_to_other_classes_and_nothing_else(share):
    clean = load_data(DataSetting(name="digits", train_size=1000))
    noisy = load_data(DataSetting(name="digits", train_size=1000, label_noise=share))
    changed = clean.train.labels != noisy.train.labels
    assert int(changed.sum()) == round(share * 1000)
    assert torch.equal(clean.train.images, noisy.train.images) and torch.equal(clean.test.labels, noisy.test.labels)
    assert (clean.digest == noisy.digest) == (share == 0)
    if share == 0.37:  # shifts 1 … 9 are uniform: a chi-square test at a fixed seed, p far from either end
        shift = (noisy.train.labels - clean.train.labels)[changed] % 10
        assert stats.chisquare(np.bincount(shift.numpy(), minlength=10)[1:]).pvalue > 1e-3


def test_the_generator_is_deterministic_of_any_size_and_its_classes_can_be_told_apart():
    setting = DataSetting(name="generated", train_size=300, test_size=200, image_size=16)
    data, again = load_data(setting), load_data(setting)
    assert data.digest == again.digest and data.train.images.shape == (300, 3, 16, 16)
    grown = load_data(DataSetting(name="generated", train_size=400, test_size=200, image_size=16))
    assert torch.equal(grown.test.images, data.test.images)
    assert data.digest != load_data(DataSetting(**{**_fields(setting), "split_seed": 1})).digest
    pixels, labels = data.train.pixels(data.train.images).flatten(1), data.train.labels
    centers = torch.stack([pixels[labels == k].mean(0) for k in range(10)])
    test = data.test.pixels(data.test.images).flatten(1)
    nearest = torch.cdist(test, centers).argmin(1)
    accuracy = (nearest == data.test.labels).float().mean()
    assert 0.5 < accuracy, "templates must carry the class"
    noisy = load_data(DataSetting(**{**_fields(setting), "nuisance": 1.0}))
    blurred = noisy.test.pixels(noisy.test.images).flatten(1)
    assert (torch.cdist(blurred, centers).argmin(1) == noisy.test.labels).float().mean() < accuracy


def _fields(setting):
    return {key: value for key, value in setting.to_dict().items() if key != "type"}


# -- order and batches --------------------------------------------------------------------------------------------


def test_shuffling_visits_each_sample_once_an_epoch_and_replacement_draws_independently():
    orders = [epoch_order(500, "shuffle", seed=3, epoch=epoch) for epoch in range(3)]
    assert all(torch.equal(order.sort().values, torch.arange(500)) for order in orders)
    assert not torch.equal(orders[0], orders[1]) and torch.equal(
        orders[0], epoch_order(500, "shuffle", seed=3, epoch=0)
    )
    drawn = epoch_order(100_000, "replacement", seed=3, epoch=0)
    # The share of samples never drawn tends to 1/e; its standard deviation here is below 0.001.
    assert abs(1 - len(drawn.unique()) / 100_000 - np.exp(-1)) < 0.005
    with pytest.raises(ValueError, match="order"):
        epoch_order(10, "sorted", seed=0, epoch=0)


def test_the_last_partial_batch_is_kept():
    data = load_data(DataSetting(name="digits", test_size=101))
    sizes = [len(y) for _, y in data.test.batches(25)]
    assert sizes == [25, 25, 25, 25, 1]


def test_streams_are_distinct_and_repeatable():
    seeds = {
        derived_seed(seed, stream, count) for seed in (0, 1) for stream in ("order", "attack") for count in range(9)
    }
    assert len(seeds) == 36
    first = torch.rand(4, generator=generator(5, "attack", 7))
    assert torch.equal(first, torch.rand(4, generator=generator(5, "attack", 7)))
    with pytest.raises(ValueError, match="seed"):
        derived_seed(-1, "order")


# -- augmentation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("augmentation", "mode"), [("reflect-crop-flip", "reflect"), ("zero-crop-flip", "constant")])
def test_crop_and_flip_equal_padding_and_cutting_by_hand(augmentation, mode):
    setting = DataSetting(name="cifar10", augmentation=augmentation)
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draw = draw_augmentation(64, setting, generator=torch.Generator().manual_seed(1))
    found = augment(images, setting, draw)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    for index in range(64):
        padded = np.pad(images[index].numpy(), ((0, 0), (4, 4), (4, 4)), mode=mode)
        top, left = draw.offsets[index].tolist()
        cut = padded[:, top : top + 32, left : left + 32]
        if draw.flipped[index]:
            cut = cut[:, :, ::-1]
        assert np.array_equal(found[index].numpy(), cut)


def test_crop_offsets_flips_and_angles_have_the_published_laws():
    draw = draw_augmentation(50_000, DataSetting(name="cifar100"), generator=torch.Generator().manual_seed(0))
    for axis in (0, 1):
        assert stats.chisquare(np.bincount(draw.offsets[:, axis].numpy(), minlength=9)).pvalue > 1e-3
    assert len(np.bincount(draw.offsets.flatten().numpy())) == 9
    assert stats.binomtest(int(draw.flipped.sum()), 50_000).pvalue > 1e-3
    assert stats.kstest(draw.degrees.numpy(), stats.uniform(-15, 30).cdf).pvalue > 1e-3


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (12, 20)])
def test_rotation_equals_torchvisions(size):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    images = torch.randint(0, 256, (12, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    degrees = torch.linspace(-15, 15, 12)
    found = rotate(images, degrees)
    expected = torch.stack(
        [functional.rotate(image, angle.item()) for image, angle in zip(images, degrees, strict=True)]
    )
    # Nearest neighbour breaks ties by rounding: positions within float error of a pixel's edge may differ.
    assert (found != expected).any(1).float().mean() < 2e-3
    assert torch.equal(rotate(images, torch.zeros(12)), images)


def test_cifar100s_protocol_rotates_and_svhns_changes_nothing():
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    svhn, cifar100 = DataSetting(name="svhn"), DataSetting(name="cifar100")
    draw = draw_augmentation(8, cifar100, generator=torch.Generator().manual_seed(1))
    assert augment(images, svhn, draw) is images
    level = AugmentationDraw(offsets=draw.offsets, flipped=draw.flipped, degrees=torch.zeros(8))
    cropped = augment(images, DataSetting(name="cifar100", augmentation="zero-crop-flip"), draw)
    assert torch.equal(augment(images, cifar100, level), cropped)
    assert torch.equal(augment(images, cifar100, draw), rotate(cropped, draw.degrees))


# -- archives in the formats of CIFAR and SVHN ----------------------------------------------------------------------


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Small archives in the real formats, with torchvision's checksums and our sizes set to theirs."""
    datasets = pytest.importorskip("torchvision.datasets")
    import dataclasses

    import scipy.io

    from empirical.settings import data as setting

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, 30).tolist()

    def digest(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    files = {"data_batch_1": slice(0, 10), "data_batch_2": slice(10, 20), "test_batch": slice(20, 30)}
    for name, rows in files.items():
        (base / name).write_bytes(pickle.dumps({"data": images[rows], "labels": labels[rows]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(k) for k in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[n, digest(base / n)] for n in list(files)[:2]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", digest(base / "test_batch")]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": digest(base / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)

    base = tmp_path / "cifar-100-python"
    base.mkdir()
    fine = rng.integers(0, 100, 30).tolist()
    for name, rows in {"train": slice(0, 20), "test": slice(20, 30)}.items():
        (base / name).write_bytes(pickle.dumps({"data": images[rows], "fine_labels": fine[rows]}))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(k) for k in range(100)]}))
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", digest(base / "train")]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", digest(base / "test")]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": digest(base / "meta")}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)

    split = dict(datasets.SVHN.split_list)
    for name, rows in {"train": slice(0, 20), "test": slice(20, 30)}.items():
        path = tmp_path / f"{name}_32x32.mat"
        cube = images[rows].reshape(-1, 3, 32, 32).transpose(2, 3, 1, 0)
        tens = np.array([10 if label == 0 else label for label in labels[rows]])[:, None]  # SVHN writes 0 as 10
        scipy.io.savemat(path, {"X": cube, "y": tens})
        split[name] = [split[name][0], path.name, digest(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", split)

    for name in ("cifar10", "cifar100", "svhn"):
        facts = dataclasses.replace(setting.DATASETS[name], train_size=20, test_size=10)
        monkeypatch.setitem(setting.DATASETS, name, facts)
    return tmp_path, images.reshape(-1, 3, 32, 32), {"cifar10": labels, "cifar100": fine, "svhn": labels}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_archives_are_read_in_the_right_orientation_with_the_right_labels(archives, name):
    root, images, labels = archives
    raw = load_raw(DataSetting(name=name), root=root, download=False)
    assert np.array_equal(np.concatenate([raw.train.images, raw.test.images]), images)
    assert np.concatenate([raw.train.labels, raw.test.labels]).tolist() == labels[name]
    assert raw.scale == 255


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_2"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "test_32x32.mat"),
    ],
)
def test_a_truncated_archive_is_named(archives, name, file):
    root, _, _ = archives
    path = root / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"missing or damaged|could not be read") as caught:
        load_raw(DataSetting(name=name), root=root, download=False)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_missing_folder_a_missing_archive_and_no_network_each_have_their_line(archives, monkeypatch):
    root, _, _ = archives
    with pytest.raises(DataError, match="existing folder"):
        load_raw(DataSetting(name="cifar10"), root=root / "nowhere", download=False)
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="missing or damaged"):
        load_raw(DataSetting(name="svhn"), root=root / "empty", download=False)

    def offline(*arguments, **keywords):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match="no network"):
        load_raw(DataSetting(name="cifar10"), root=root / "empty", download=True)


def test_an_archive_of_another_data_set_is_refused(archives, monkeypatch):
    """CIFAR-100's images under CIFAR-10's names, checksums adjusted: only size and labels give it away."""
    datasets = pytest.importorskip("torchvision.datasets")
    root, images, _ = archives
    for name, rows in {"data_batch_1": slice(0, 10), "data_batch_2": slice(10, 20)}.items():
        (root / "cifar-10-batches-py" / name).write_bytes(
            pickle.dumps({"data": images[rows].reshape(-1, 3072), "labels": list(range(90, 100))})
        )
    digests = [
        [name, hashlib.md5((root / "cifar-10-batches-py" / name).read_bytes()).hexdigest()]
        for name in ("data_batch_1", "data_batch_2")
    ]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", digests)
    with pytest.raises(DataError, match="another data set"):
        load_raw(DataSetting(name="cifar10"), root=root, download=False)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", digests[:1])
    with pytest.raises(DataError, match="must hold 20 images"):
        load_raw(DataSetting(name="cifar10"), root=root, download=False)


def test_a_real_archive_checksum_is_what_the_loader_relies_on(tmp_path):
    """A tar file that is not CIFAR-10 does not pass for it."""
    pytest.importorskip("torchvision")
    (tmp_path / "a.txt").write_text("not a data set")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.txt", arcname="a.txt")
    with pytest.raises(DataError, match="missing or damaged"):
        load_raw(DataSetting(name="cifar10"), root=tmp_path, download=False)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "mnist"}, "name"),
        ({"train_size": 0}, "train_size"),
        ({"train_size": 1000, "validation_size": 500}, "validation_size"),
        ({"validation_size": 1200}, "validation_size"),
        ({"test_size": 10_000}, "test_size"),
        ({"label_noise": 1.0}, "label_noise"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"augmentation": "cutout"}, "augmentation"),
        ({"image_size": 16}, "image_size"),
        ({"nuisance": 2.0}, "nuisance"),
        ({"padding": -1}, "padding"),
        ({"split_seed": -1}, "split_seed"),
    ],
)
def test_a_data_setting_out_of_range_names_the_argument(changes, named):
    with pytest.raises(ValueError, match=named):
        DataSetting(**changes)
