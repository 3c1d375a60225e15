"""`spikeshrink doctor`: fit here, and not fit once something computes wrong."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch

from empirical.commands import options
from empirical.commands.options import fast_path
from empirical.settings.precision import FAST, Precision
from empirical.training import doctor
from spikeshrink import main


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(doctor, "STEPS", 5)
    monkeypatch.setattr(doctor, "seconds_of_a_pass", lambda setting, device: 1e-3)


def examined(*words: str) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(["doctor", *words])
    return status, printed.getvalue()


def test_this_machine_is_fit(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    status, text = examined("--device", "cpu")
    assert status == 0, text
    for name in ("standard", "at", "awp", "trades", "trades-awp", "channels-last", "compiled", "bfloat16", "resume"):
        assert f"ok      {name}" in text
    assert "PyTorch" in text and "minutes for the published 200 epochs" in text
    assert text.endswith("doctor: fit\n")


class Wrong(torch.nn.Module):
    """A compiler's network that computes something else: logits off by a fifth."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return 1.2 * self.model(x)


def test_a_compiler_that_computes_wrong_fails(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: Wrong(model))
    status, text = examined("--device", "cpu")
    assert status == 1
    assert "FAILED  compiled" in text and text.endswith("doctor: failed: compiled\n")


def test_a_compiler_that_is_not_there_fails_with_its_reason(monkeypatch):
    def broken(model, **options):
        raise RuntimeError("no C++ compiler\nfound")

    monkeypatch.setattr(torch, "compile", broken)
    status, text = examined("--device", "cpu")
    assert status == 1
    assert "FAILED  compiled      cannot be used here: RuntimeError: no C++ compiler found" in text


def test_losses_that_are_not_finite_and_checkpoints_that_lose_momentum_fail(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    plain = doctor.Trainer.step

    def step(self):
        found = plain(self)
        if self.setting.method.name == "trades":
            found.loss.fill_(float("nan"))
        return found

    monkeypatch.setattr(doctor.Trainer, "step", step)
    monkeypatch.setattr(doctor.Trainer, "momentum", lambda self: {})
    status, text = examined("--device", "cpu")
    assert status == 1
    assert text.endswith("doctor: failed: trades, resume\n")


def test_a_device_that_is_not_there_is_a_line(capsys):
    assert main(["doctor", "--device", "mars"]) == 2
    assert "`--device` must be auto, cpu or cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "words", "expected"),
    [
        ("cuda", [], Precision(**FAST)),
        ("cuda", ["--exact"], Precision()),
        ("cuda", ["--no-compile", "--autocast", "none"], Precision(**{**FAST, "compile": False, "autocast": "none"})),
        ("cuda", ["--sync-batch-norm"], Precision(**{**FAST, "cuda_graph": False})),
        ("cpu", [], Precision()),
    ],
)
def test_training_on_cuda_is_fast_unless_told_otherwise(device, words, expected, monkeypatch):
    import argparse

    from empirical.commands import train

    monkeypatch.setattr(options, "device_name", lambda asked: device)
    monkeypatch.setattr(train, "device_name", lambda asked: device)
    parser = argparse.ArgumentParser()
    train.add_options(parser)
    args = parser.parse_args(["--preset", "cifar10", "--method", "at", *words])
    (job,) = train.planned(args)
    assert job.setting.precision == expected
    kept = {**FAST, "cuda_graph": "--sync-batch-norm" not in words}
    assert dict(fast_path(args)) == (kept if device == "cuda" and "--exact" not in words else {})
