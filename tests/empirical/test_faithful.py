"""The books of the published scripts, against their loops written out: what each forwards, in which order and mode."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from empirical.data import epoch_order, generator, load_data
from empirical.data.resident import Split
from empirical.data.streams import derived_seed
from empirical.network.build import build_network
from empirical.records import TrainingRun
from empirical.settings import Training, make_training
from empirical.training.attack import draw_starts
from empirical.training.checkpoint import load_checkpoint
from empirical.training.metrics import read_metrics
from empirical.training.run import train
from empirical.training.trainer import Trainer
from theory.judge.evidence import Evidence

torch.set_num_threads(1)

STEPS = 24  # eight epochs of three full batches
CHANGES = {
    "network": "convnet",
    "widths": (4, 8),
    "train_size": 48,
    "test_size": 16,
    "batch_size": 16,
    "epochs": 8,
    "milestones": (4,),
    "augmentation": "none",
    "awp_warmup": 0,
    "learning_rate": 0.05,
}
METHODS = ("at", "awp", "trades", "trades-awp")


def setting_of(method: str, **changes) -> Training:
    return make_training("cifar10", method, CHANGES | {"faithful": True} | changes)


@pytest.fixture(scope="module")
def data():
    """Generated images in the place of CIFAR-10's: the scripts differ by data set, and AWP's on CIFAR-10 has a habit.

    No pixel is black or white: the scripts of TRADES may start their attack outside [0, 1], and here it is not.
    """
    generated = make_training(
        "cifar10", "at", CHANGES | {"dataset": "generated", "train_size": 48, "test_size": 16, "augmentation": "none"}
    )
    found = load_data(generated.data)
    train = dataclasses.replace(found.train, images=found.train.images.clamp(8, 247))
    return dataclasses.replace(found, train=train)


class Script:
    """A published script: its network, its optimizer, and what it logs of every step."""

    def __init__(self, setting: Training, data):
        self.setting, self.data = setting, data
        self.model = build_network(setting.network, seed=derived_seed(0, "initialization")).double()
        optimizer = setting.optimizer
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.9, weight_decay=optimizer.weight_decay)
        self.logged = []

    def batch(self, step):
        epoch, position = divmod(step, 3)
        order = epoch_order(48, "shuffle", seed=0, epoch=epoch)[16 * position : 16 * (position + 1)]
        return self.data.train.images[order].double() / 255, self.data.train.labels[order]

    def starts(self, step, shape):
        source = generator(0, "attack", step, 0)
        return draw_starts(shape, self.setting.method.attack, generator=source, dtype=torch.float64)[0]

    def rate(self, step):
        for group in self.sgd.param_groups:
            group["lr"] = float(self.setting.rates()[step])

    def pgd(self, step, x, y):
        """Madry's attack as Rice et al. wrote it, with the forward by which it ranks its one restart."""
        attack = self.setting.method.attack
        delta = self.starts(step, x.shape).clamp(0 - x, 1 - x).requires_grad_()
        for _ in range(attack.steps):
            loss = F.cross_entropy(self.model(x + delta), y)
            loss.backward()
            with torch.no_grad():
                moved = (delta + attack.step_size * delta.grad.sign()).clamp(-attack.epsilon, attack.epsilon)
                delta.data = moved.clamp(0 - x, 1 - x)
            delta.grad.zero_()
        F.cross_entropy(self.model(x + delta), y, reduction="none")
        return (x + delta).detach().clamp(0, 1)

    def kl_attack(self, step, x):
        attack = self.setting.method.attack
        self.model.eval()
        moved = x + self.starts(step, x.shape)
        for _ in range(attack.steps):
            moved.requires_grad_()
            loss = divergence(self.model(moved), self.model(x))
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = moved.detach() + attack.step_size * gradient.sign()
            moved = torch.minimum(torch.maximum(moved, x - attack.epsilon), x + attack.epsilon).clamp(0, 1)
        self.model.train()
        return moved

    def perturbation(self, loss_of, rate):
        """AWP's, from a copy of the network after one plain step uphill."""
        proxy = copy.deepcopy(self.model).train()
        uphill = torch.optim.SGD(proxy.parameters(), lr=rate)
        uphill.zero_grad()
        (-loss_of(proxy)).backward()
        uphill.step()
        found = {}
        for (name, old), new in zip(self.model.named_parameters(), proxy.parameters(), strict=True):
            if old.ndim > 1:
                step = new.detach() - old.detach()
                found[name] = self.setting.method.awp.gamma * old.detach().norm() / (step.norm() + 1e-20) * step
        return found

    def move(self, perturbation, sign):
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in perturbation:
                    parameter.add_(sign * perturbation[name])

    def step(self, step):
        method, (x, y) = self.setting.method.name, self.batch(step)
        self.rate(step)
        if method in ("at", "awp"):
            if method == "at" or not (step % 3 == 0 and step > 0):
                self.model.train()
            else:
                self.model.eval()  # as the test pass after an epoch left it
            adversarial = self.pgd(step, x, y)
            self.model.train()
            moved = {}
            if method == "awp":
                moved = self.perturbation(lambda network: F.cross_entropy(network(adversarial), y), 0.01)
                self.move(moved, 1)
            loss = F.cross_entropy(self.model(adversarial), y)
            self.sgd.zero_grad()
            loss.backward()
            self.sgd.step()
            self.move(moved, -1)
            clean = self.model(x)
            hits = (clean.argmax(1) == y).double().mean()
            self.logged.append((loss.item(), F.cross_entropy(clean, y).item(), hits.item()))
            return
        adversarial = self.kl_attack(step, x)
        beta, moved = self.setting.method.beta, {}
        if method == "trades":
            natural = self.model(x)
            robust = divergence(self.model(adversarial), self.model(x)) / len(x)
        else:

            def whole(network):
                clean = network(x)
                return F.cross_entropy(clean, y) + beta * divergence(network(adversarial), clean) / len(x)

            moved = self.perturbation(whole, 0.1)
            self.move(moved, 1)
            robust = divergence(self.model(adversarial), self.model(x)) / len(x)
            natural = self.model(x)
        loss = F.cross_entropy(natural, y) + beta * robust
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        self.move(moved, -1)
        self.logged.append((loss.item(), None, None))


def divergence(logits, clean):
    return F.kl_div(F.log_softmax(logits, dim=1), F.softmax(clean, dim=1), reduction="sum")


def counts(model: nn.Module) -> set[int]:
    return {int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("method", METHODS)
def test_twenty_four_steps_keep_the_books_of_the_script(method, data, monkeypatch):
    """In float64: where a gradient is near 0, a rounding of float32 flips the sign that an attack steps by."""
    monkeypatch.setattr(Split, "pixels", lambda self, images: images.double() / self.scale)
    setting = setting_of(method)

    def trainer(setting):
        made = Trainer(setting, seed=0, data=data)
        made.model.double()
        return made

    script, ours = Script(setting, data), trainer(setting)
    for step in range(STEPS):
        script.step(step)
        made = ours.step()
        loss, clean_loss, clean_accuracy = script.logged[-1]
        assert float(made.loss) == pytest.approx(loss, rel=1e-7), step
        if clean_loss is None:
            assert made.clean_loss is None
        else:
            assert float(made.clean_loss) == pytest.approx(clean_loss, rel=1e-7), step
            assert float(made.clean_accuracy) == pytest.approx(clean_accuracy)
    # AT: ten attack steps, the ranking, the step, the books; AWP attacks seven first batches in eval mode.
    expected = {"at": 13 * STEPS, "awp": 13 * STEPS - 11 * 7, "trades": 3 * STEPS, "trades-awp": 3 * STEPS}[method]
    assert counts(ours.model) == counts(script.model) == {expected}
    for (name, theirs), mine in zip(script.model.state_dict().items(), ours.model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9, msg=name)
    plain = trainer(dataclasses.replace(setting, faithful=False))
    steps = [plain.step() for _ in range(STEPS)]
    assert counts(plain.model) == {(11 if method in ("at", "awp") else 2) * STEPS} and steps[-1].clean_loss is None
    apart = [
        float((mine - theirs).abs().max())
        for (name, mine), theirs in zip(
            plain.model.state_dict().items(), script.model.state_dict().values(), strict=True
        )
        if "running" in name
    ]
    assert max(apart) > 1e-4, "the books leave their mark on the running statistics"


@pytest.mark.parametrize("method", ["trades", "trades-awp"])
def test_trades_sees_the_images_of_its_paper(method):
    ours, faithful = (make_training("cifar10", method, {"faithful": flag}) for flag in (False, True))
    assert (
        (faithful.network.mean, faithful.network.std)
        == ((0.0,) * 3, (1.0,) * 3)
        != (ours.network.mean, ours.network.std)
    )
    assert (ours.data.augmentation, faithful.data.augmentation) == ("reflect-crop-flip", "zero-crop-flip")
    rice = make_training("cifar10", "at", {"faithful": True})
    assert (rice.network, rice.data) == (ours.network, ours.data)


def test_runs_of_before_keep_their_names_and_standard_training_has_no_script():
    plain = make_training("cifar10", "at", {"faithful": False})
    assert "faithful" not in plain.to_dict() and plain == make_training("cifar10", "at")
    assert (
        Training.from_dict(setting_of("at").to_dict())
        == setting_of("at")
        != dataclasses.replace(setting_of("at"), faithful=False)
    )
    with pytest.raises(ValueError, match="faithful"):
        make_training("smoke", "standard", {"faithful": True})


def test_the_clean_books_are_logged_kept_in_evidence_and_resumed_to_the_bit(tmp_path, monkeypatch):
    from empirical.training import run as run_module

    small = {"train_size": 32, "test_size": 16, "batch_size": 16, "epochs": 3, "milestones": (2,), "masking_probe": 0}
    setting = make_training("smoke", "awp", small | {"faithful": True, "log_window": 1})
    whole = train(setting, seed=0, out=tmp_path / "whole")
    lines = read_metrics(whole.metrics, "epoch")
    assert all(0 <= line["running_clean_accuracy"] <= 1 and line["running_clean_loss"] > 0 for line in lines[1:])
    assert all("clean_loss" in line and "clean_accuracy" in line for line in read_metrics(whole.metrics, "iteration"))
    record = TrainingRun.from_evidence(Evidence.read(whole.evidence))
    assert record.epochs.running_clean_loss is not None
    assert record.epochs.running_clean_loss[1:].tolist() == [line["running_clean_loss"] for line in lines[1:]]

    class Stop(Exception):
        pass

    look = run_module._Run._look

    def stopped(self):
        look(self)
        if self.trainer.iteration == 3:  # in the middle of the second epoch
            self._save(None)
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module._Run, "_look", stopped)
        with pytest.raises(Stop):
            train(setting, seed=0, out=tmp_path / "part")
    assert len(load_checkpoint(next((tmp_path / "part").glob("runs/*/checkpoints/last.pt"))).running) == 5
    again = train(setting, seed=0, out=tmp_path / "part", resume=True)

    def timeless(folder):
        return [
            {key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(folder.metrics)
        ]

    assert timeless(again) == timeless(whole)
    plain = train(dataclasses.replace(setting, faithful=False), seed=0, out=tmp_path / "plain")
    kept = TrainingRun.from_evidence(Evidence.read(plain.evidence))
    assert (
        kept.epochs.running_clean_loss is None
        and "epochs.running_clean_loss" not in Evidence.read(plain.evidence).arrays
    )


def test_the_options_that_the_table_of_departures_names_give_trades_awp_its_scripts_epochs():
    """Its loop counts 1 … 200, perturbs from 10 on, and has a tenth of the rate from 100 on and from 150 on."""
    from tests.test_documentation import ROOT

    named = "`--awp-warmup 9 --milestones 99,149 --no-published-offset`"
    assert named in (ROOT / "docs" / "tutorials" / "gpu.md").read_text(encoding="utf-8")
    changes = {"awp_warmup": 9, "milestones": (99.0, 149.0), "published_offset": False}
    ours, default = make_training("cifar10", "trades-awp", changes), make_training("cifar10", "trades-awp")
    length = ours.iterations_per_epoch
    path, awp = ours.rates(), ours.method.awp
    assert awp is not None and default.method.awp is not None and default.method.awp.warmup_epochs == 10
    for epoch in range(200):
        counted = epoch + 1
        rate = 0.1 if counted < 100 else 0.01 if counted < 150 else 0.001
        assert path[[epoch * length, (epoch + 1) * length - 1]] == pytest.approx(rate)
        assert (epoch >= awp.warmup_epochs) == (counted >= 10)
