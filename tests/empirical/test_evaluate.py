"""Strong evaluations as typed: the package's attacks against our own, the record, other people's images and weights."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from empirical.__main__ import main
from empirical.commands.evaluate import interval
from empirical.commands.export import LAYOUTS
from empirical.data import load_data
from empirical.data.image_folders import read_image_folder
from empirical.network.build import build_network, load_public_weights
from empirical.network.wideresnet import WideResNet
from empirical.records import RobustAccuracy, read_records
from empirical.settings import make_training
from empirical.settings.data import DataSetting
from empirical.settings.network import NetworkSetting
from empirical.settings.robustness import Robustness
from empirical.training.averaging import take_swa
from empirical.training.checkpoint import load_checkpoint
from empirical.training.evaluate import evaluate
from empirical.training.metrics import read_metrics
from empirical.training.run import train

torch.set_num_threads(1)

SETTING = make_training(
    "smoke",
    "at",
    {
        "train_size": 200,
        "validation_size": 40,
        "test_size": 60,
        "batch_size": 20,
        "epochs": 12,
        "milestones": (9,),
        "checkpoint_epochs": (0, 10, 11, 12),
        "widths": (8, 16),
        "epsilon": 0.05,
        "masking_probe": 0,
        "swa_start": 10,
        "ema": 0.9,
    },
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(SETTING, seed=0, out=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def last(run):
    return run.checkpoints / "epoch-0012.pt"


def evaluated(capsys, *words):
    status = main(["evaluate", *map(str, words), "--quiet", "--device", "cpu"])
    return status, capsys.readouterr()


def test_the_suite_is_stronger_than_pgd_and_its_record_says_what_broke_what(run, last, tmp_path, capsys):
    pytest.importorskip("torchattacks", reason="needs the extra `attacks`")
    words = [last, "--out", tmp_path, "--attack-steps", "20", "--queries", "50", "--attacks", "autoattack"]
    before = torch.random.get_rng_state()
    status, said = evaluated(capsys, *words)
    assert status == 0 and torch.equal(torch.random.get_rng_state(), before)
    (record,) = read_records(tmp_path, [RobustAccuracy])
    assert isinstance(record, RobustAccuracy) and record.robustness.attacks == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert record.images == "digits test" and len(record.first_failure) == 60 and record.iteration == 120
    item = load_checkpoint(last)
    data = load_data(SETTING.data)
    plain = evaluate(item.model, data.test, SETTING.evaluation.attack, seed=0)
    assert record.accuracy(0) == pytest.approx(plain.clean_accuracy) and record.accuracy(0) > 0.5
    accuracies = [record.accuracy(attacks) for attacks in range(5)]
    assert accuracies == sorted(accuracies, reverse=True) and 0 < accuracies[-1] < accuracies[0]
    assert record.accuracy(2) <= plain.robust_accuracy  # of three steps; the suite makes twenty
    # The interval, by inverting the binomial tests that it is made of.
    low, high = interval(record, 4)
    hits = record.correct(4)
    assert stats.binom.sf(hits - 1, 60, low) == pytest.approx(0.025, rel=1e-6)
    assert stats.binom.cdf(hits, 60, high) == pytest.approx(0.025, rel=1e-6)
    assert f"square {accuracies[-1]:.2%} [{low:.2%}, {high:.2%}] of 60 images" in said.out
    # Measured once: the same command reads its evidence.
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    status, again = evaluated(capsys, *words)
    assert status == 0 and again.out == said.out
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}


def test_what_the_package_returns_is_projected_and_classified_again(last, tmp_path, capsys, monkeypatch):
    """A package that leaves the ball, or returns no numbers, breaks nothing that a ball of ε does not hold."""
    item = load_checkpoint(last)
    data = load_data(SETTING.data)

    class Wild:
        def __init__(self, model, **options):
            assert options["steps"] == 7 and options["eps"] == 1e-6 and options["norm"] == "Linf"

        def __call__(self, x, y):
            return torch.where(torch.arange(len(x))[:, None, None, None] % 2 == 0, 1e3, float("nan")).expand_as(x)

    monkeypatch.setitem(sys.modules, "torchattacks", SimpleNamespace(APGD=Wild))
    words = [last, "--out", tmp_path, "--attacks", "apgd-ce", "--attack-steps", "7", "--epsilon", "1e-6"]
    status, _ = evaluated(capsys, *words)
    (record,) = read_records(tmp_path, [RobustAccuracy])
    assert status == 0 and isinstance(record, RobustAccuracy)
    ours = evaluate(item.model, data.test, SETTING.evaluation.attack, seed=0)
    assert record.accuracy(0) == pytest.approx(ours.clean_accuracy)
    assert record.accuracy(1) >= record.accuracy(0) - 1 / 60  # an image on the boundary may fall
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    status, said = evaluated(capsys, last, "--out", tmp_path / "other")
    assert status == 2 and "install the extra `attacks`" in said.err


def test_a_radius_of_0_is_the_clean_accuracy_and_targets_follow_the_standard(last, monkeypatch):
    from empirical.training import strong_attacks

    item, data = load_checkpoint(last), load_data(SETTING.data)
    none = strong_attacks.first_failures(item.model, data.test, Robustness(epsilon=0.0), seed=0, num_classes=10)
    assert set(none) <= {0, 3}
    asked = []
    monkeypatch.setattr(strong_attacks, "_set_targets", lambda attack, targets: asked.append(targets))
    monkeypatch.setattr(strong_attacks, "_attack", lambda *a, **k: lambda x, y: x)
    for classes in (10, 100):
        strong_attacks.first_failures(item.model, data.test, Robustness(epsilon=0.1), seed=0, num_classes=classes)
    assert set(asked) == {9}
    with pytest.raises(ValueError, match="num_classes"):
        strong_attacks.first_failures(item.model, data.test, Robustness(epsilon=0.1), seed=0, num_classes=3)


def test_the_best_checkpoint_is_of_the_epoch_of_the_largest_validation_accuracy(run, last):
    lines = read_metrics(run.metrics, "epoch")
    values = [line["validation_robust_accuracy"] for line in lines]
    best = load_checkpoint(run.checkpoints / "best.pt")
    assert best.epoch == lines[values.index(max(values))]["epoch"]
    found = evaluate(best.model, load_data(SETTING.data).validation, SETTING.evaluation.attack, seed=0, batch_size=500)
    assert found.robust_accuracy == pytest.approx(max(values))


def test_an_interrupted_run_keeps_the_same_best_checkpoint(run, tmp_path, monkeypatch):
    from empirical.training import run as run_module

    keep = run_module._Run._keep
    kept = []

    def interrupted(self, name):
        keep(self, name)
        kept.append(name)
        if name == "last.pt" and self.trainer.iteration:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run_module._Run, "_keep", interrupted)
    for _ in range(20):
        try:
            again = train(SETTING, seed=0, out=tmp_path, resume=True)
            break
        except KeyboardInterrupt:
            continue
    assert kept.count("last.pt") >= 3
    assert (again.checkpoints / "best.pt").read_bytes() == (run.checkpoints / "best.pt").read_bytes()
    assert (again.checkpoints / "epoch-0012.pt").read_bytes() == (run.checkpoints / "epoch-0012.pt").read_bytes()


def test_the_mean_of_weights_over_epochs_and_its_statistics(run, last, tmp_path, capsys):
    """Against the plain mean over the checkpoints of the epochs, and statistics by one pass written out."""
    item = load_checkpoint(last)
    assert item.swa is not None
    models = [load_checkpoint(run.checkpoints / f"epoch-00{epoch}.pt").model for epoch in (10, 11, 12)]
    for name, value in item.swa.items():
        mean = torch.stack([dict(model.named_parameters())[name].detach().double() for model in models]).mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-7)
    data = load_data(SETTING.data)
    take_swa(item.model, item.swa, data.train, 20)
    inputs = []
    first = next(module for module in item.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    handle = first.register_forward_pre_hook(lambda module, given: inputs.append(given[0].detach()))
    with torch.no_grad():
        for x, _ in data.train.batches(20):
            item.model(x)
    handle.remove()
    means = torch.stack([batch.mean((0, 2, 3)) for batch in inputs]).mean(0)
    torch.testing.assert_close(first.running_mean, means, rtol=1e-4, atol=1e-6)
    assert not item.model.training
    pytest.importorskip("torchattacks", reason="needs the extra `attacks`")
    words = [last, "--out", tmp_path, "--attacks", "apgd-ce", "--attack-steps", "2"]
    for which in ("swa", "average"):
        assert evaluated(capsys, *words, "--weights", which)[0] == 0
    found = {record.robustness.weights: record for record in read_records(tmp_path, [RobustAccuracy])}
    averaged = evaluate(item.model, data.test, SETTING.evaluation.attack, seed=0)
    assert set(found) == {"swa", "average"} and found["swa"].accuracy(0) == pytest.approx(averaged.clean_accuracy)
    plain = train(
        make_training(
            "smoke", "at", {"train_size": 20, "test_size": 20, "batch_size": 20, "epochs": 1, "milestones": ()}
        ),
        seed=0,
        out=tmp_path / "plain",
    )
    status, said = evaluated(capsys, plain.checkpoints / "epoch-0001.pt", "--weights", "swa")
    assert status == 2 and "--swa-start" in said.err
    with pytest.raises(ValueError, match="swa_start"):
        make_training("smoke", "at", {"epochs": 4, "swa_start": 5})


# -- other people's images --------------------------------------------------------------------------------------------


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_cifar_10_1_and_corrupted_sets_are_read_from_a_folder(tmp_path, monkeypatch):
    setting = DataSetting(name="cifar10")
    np.save(tmp_path / "cifar10.1_v6_data.npy", images(7))
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(7, dtype=np.int32))
    ((name, found),) = read_image_folder(tmp_path, setting)
    assert name == "cifar10.1_v6" and found.labels.tolist() == list(range(7))
    assert np.array_equal(found.images, images(7).transpose(0, 3, 1, 2))
    from empirical.data import image_folders

    monkeypatch.setattr(type(setting.facts), "test_size", 4, raising=False)
    small = SimpleNamespace(facts=SimpleNamespace(image_shape=(3, 32, 32), num_classes=10, test_size=4))
    corrupted = tmp_path / "C"
    corrupted.mkdir()
    np.save(corrupted / "fog.npy", images(20))
    np.save(corrupted / "blur.npy", images(20, 1))
    np.save(corrupted / "labels.npy", np.tile(np.arange(4), 5).astype(np.uint8))
    sets = dict(image_folders.read_image_folder(corrupted, small))
    assert list(sets) == [f"{kind}-{severity}" for kind in ("blur", "fog") for severity in range(1, 6)]
    assert np.array_equal(sets["fog-2"].images, images(20)[4:8].transpose(0, 3, 1, 2))
    assert sets["fog-5"].labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "must hold images and labels"),
        ({"fog": images(2)}, "must hold images and labels"),
        ({"fog": images(2), "labels": np.array([0, 10])}, r"labels in \[0, 10\)"),
        ({"fog": images(2), "labels": np.array([0])}, "a whole number for each of 2"),
        ({"fog": images(2)[:, :16], "labels": np.array([0, 1])}, r"got uint8 of shape \(2, 16, 32, 3\)"),
        ({"fog": images(2) / 255.0, "labels": np.array([0, 1])}, "must hold bytes"),
        ({"fog": images(2), "labels": np.array([0, "1"], dtype=object)}, "could not read labels.npy"),
    ],
)
def test_a_folder_that_is_no_set_of_images_is_one_line(tmp_path, files, named):
    for name, content in files.items():
        np.save(tmp_path / f"{name}.npy", content, allow_pickle=True)
    with pytest.raises(ValueError, match=named):
        list(read_image_folder(tmp_path, DataSetting(name="cifar10")))


# -- other people's weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_go_out_and_come_back_to_the_bit(last, tmp_path, capsys, layout):
    target = tmp_path / "weights.pt"
    assert main(["export", str(last), "--to", str(target), "--layout", layout]) == 0
    stored = torch.load(target, weights_only=True)
    names = set(stored.get("state_dict", stored))
    assert ("mu" in names) is (layout == "robustbench")
    assert all(name.startswith("module.") for name in names) is (layout == "data-parallel")
    fresh = build_network(SETTING.network, seed=1)
    load_public_weights(fresh, target)
    ours = load_checkpoint(last).model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in fresh.state_dict().items())
    assert main(["export", str(last), "--to", str(target)]) == 2 and "--to" in capsys.readouterr().err


def test_the_names_of_preactresnet18_are_the_public_ones():
    """As in the files of Rice et al. and of Wu et al., and in RobustBench's class for them."""
    setting = NetworkSetting(
        name="preactresnet18", num_classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    with torch.device("meta"):
        found = {name: tuple(value.shape) for name, value in build_network(setting, seed=0).state_dict().items()}
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn.{part}" for part in norms)}
    for stage in range(1, 5):
        for block in range(2):
            place = f"layer{stage}.{block}"
            expected |= {f"{place}.conv1.weight", f"{place}.conv2.weight"}
            expected |= {f"{place}.bn{number}.{part}" for number in (1, 2) for part in norms}
            if block == 0 and stage > 1:
                expected.add(f"{place}.shortcut.0.weight")
    assert set(found) == expected
    assert found["layer2.0.shortcut.0.weight"] == (128, 64, 1, 1) and found["linear.weight"] == (10, 512)


def test_the_names_of_wrn_34_10_are_the_public_ones_and_its_forward_is_the_plain_one(tmp_path):
    """As in TRADES' files and RobustBench's class, whose unused group "sub_block1" is passed over."""
    setting = NetworkSetting(
        name="wideresnet34-10", num_classes=10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    with torch.device("meta"):
        whole = build_network(setting, seed=0)
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{part}" for part in norms)}
    for group in (1, 2, 3):
        for index in range(5):
            place = f"block{group}.layer.{index}"
            expected |= {f"{place}.conv1.weight", f"{place}.conv2.weight"}
            expected |= {f"{place}.bn{number}.{part}" for number in (1, 2) for part in norms}
        expected.add(f"block{group}.layer.0.convShortcut.weight")
    assert set(whole.state_dict()) == expected
    assert sum(value.numel() for value in whole.parameters()) == 46_160_474
    small = WideResNet(
        10, mean=(0.5,) * 3, std=(0.25,) * 3, normalization="batch", activation="relu", depth=16, widen=1
    ).eval()
    weights = {name: torch.randn_like(value) * 0.1 for name, value in small.state_dict().items() if value.ndim}
    weights |= {name: value.abs() + 0.5 for name, value in weights.items() if "running_var" in name}
    unused = {f"module.sub_block1.{name}": value for name, value in weights.items() if name.startswith("conv1")}
    torch.save({f"module.{name}": value for name, value in weights.items()} | unused, tmp_path / "theirs.pt")
    load_public_weights(small, tmp_path / "theirs.pt")

    def norm(x, place):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(weights[f"{place}.{part}"] for part in names)))

    x = torch.rand(2, 3, 32, 32)
    out = F.conv2d((x - 0.5) / 0.25, weights["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for index in range(2):
            place, stride = f"block{group}.layer.{index}", 2 if group > 1 and index == 0 else 1
            active = norm(out, f"{place}.bn1")
            inner = F.conv2d(active, weights[f"{place}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(norm(inner, f"{place}.bn2"), weights[f"{place}.conv2.weight"], padding=1)
            projection = weights.get(f"{place}.convShortcut.weight")
            out = inner + (out if projection is None else F.conv2d(active, projection, stride=stride))
    logits = F.linear(norm(out, "bn1").mean((2, 3)), weights["fc.weight"], weights["fc.bias"])
    with torch.no_grad():
        torch.testing.assert_close(small(x), logits)


# -- curves elsewhere -------------------------------------------------------------------------------------------------


def test_weights_and_biases_is_told_the_curves_of_the_log(tmp_path, monkeypatch):
    told, opened, closed = [], [], []
    stub = ModuleType("wandb")

    def init(**options):
        opened.append(options)
        return SimpleNamespace(
            log=lambda numbers, step: told.append((step, numbers)), finish=lambda: closed.append(True)
        )

    stub.init = init
    monkeypatch.setitem(sys.modules, "wandb", stub)
    setting = make_training(
        "smoke", "at", {"train_size": 20, "test_size": 20, "batch_size": 20, "epochs": 2, "milestones": (1,)}
    )
    folder = train(setting, seed=0, out=tmp_path, wandb="robustness")
    (options,) = opened
    assert options["project"] == "robustness" and options["id"] == folder.run_id and closed == [True]
    assert options["config"] == setting.to_dict()
    lines = read_metrics(folder.metrics, "epoch")
    assert [step for step, _ in told] == [line["iteration"] for line in lines]
    assert [numbers["test_robust_loss"] for _, numbers in told] == [line["test_robust_loss"] for line in lines]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="needs the package wandb"):
        train(setting, seed=1, out=tmp_path, wandb="robustness")
