"""``spikeshrink gate`` of somebody's model, from a folder of theirs: statuses, files, one line for what is wrong."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from spikeshrink import main

USER = """
import torch
from torch import nn

torch.set_num_threads(1)


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(240, 6, generator=generator)
    y = (x @ torch.randn(6, 3, generator=generator) + torch.randn(240, 3, generator=generator)).argmax(dim=1)
    return x, y


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=40)


def sorted_loader():
    x, y = data()
    order = y.argsort()
    return [(x[part], y[part]) for part in order.split(40)]


def model():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = data()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval()


def wide(width):
    return nn.Linear(width, 1)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def bare():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


def broken():
    raise KeyError("a file of weights")
"""
SPEC = """
from torch import nn
from mine import loader, model


def spec():
    return {"model": model(), "loss": nn.CrossEntropyLoss(reduction="none"), "batches": loader(),
            "learning_rate": 0.02, "momentum": 0.9, "top_k": 3}
"""


MODEL = ["--model", "mine:model", "--data", "mine:loader", "--k", "3", "--momentum", "0.9"]
WHOLE = [*MODEL, "--loss", "mine:loss"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(USER)
    (tmp_path / "gate.py").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


def gate(*arguments):
    return main(["gate", *map(str, arguments)])


def test_the_console_command_gates_a_model_of_the_working_folder(folder, request):
    done = subprocess.run(
        [sys.executable, "-m", "spikeshrink", "gate", *WHOLE, "--learning-rate", "0.02", "--require", "stability<1"],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "PYTHONPATH": str(request.config.rootpath)},
    )
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout and "stability" in done.stdout


def test_demands_files_and_a_rate_beyond_the_edge(folder, capsys):
    demands = ["--require", "stability<1", "--require", "price<=0.1", "--require", "drift<10"]
    files = ["--junit", "out/gate.xml", "--summary", "gate.md"]
    status = gate(*MODEL, "--loss", "cross_entropy", "--learning-rate", 0.02, *demands, *files)
    assert status == 0, capsys.readouterr()
    root = ElementTree.parse(folder / "out" / "gate.xml").getroot()
    assert root.attrib["tests"] == "3" and root.attrib["failures"] == "0"
    assert (folder / "gate.md").read_text().startswith("### Spikeshrink gate: passed")
    assert gate(*WHOLE, "--learning-rate", 900, "--junit", "unstable.xml") == 1
    cases = ElementTree.parse(folder / "unstable.xml").getroot().findall(".//testcase")
    failed = {case.attrib["name"].split()[0] for case in cases if case.find("failure") is not None}
    assert "stability" in failed


def test_a_table_of_pyproject_a_checkpoint_and_a_spec_file(folder, capsys):
    sys.path.append(str(folder))
    import mine
    import torch

    torch.save({"state_dict": mine.model().state_dict()}, "weights.pt")
    (folder / "pyproject.toml").write_text(
        '[tool.spikeshrink.gate]\nmodel = "mine:bare"\ncheckpoint = "weights.pt"\ndata = "mine:sorted_loader"\n'
        'loss = "cross_entropy"\nlearning_rate = 0.02\nmomentum = 0.9\ntop_k = 3\nrequire = ["stability<1"]\n'
    )
    assert gate() == 0
    assert gate("--require", "optimum<1000", "--max", "whiteness=0.01") == 1
    shown = capsys.readouterr().out
    assert "fail" in shown and "whiteness" in shown
    assert gate("gate.py", "--require", "stability<1") == 0
    (folder / "pyproject.toml").write_text('[tool.spikeshrink.gate]\nmodel = "mine:bare"\nlearning_rate = "fast"\n')
    assert gate() == 2 and "float under learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --model"),
        (["--model", "mine:model"], "needs --data"),
        (["--model", "mine:model", "--data", "mine:loader"], "needs --loss"),
        (["--model", "minee:model", "--data", "mine:loader", "--loss", "mse"], "minee could not be imported"),
        (["--model", "mine:modle", "--data", "mine:loader", "--loss", "mse"], "mine has no modle"),
        (["--model", "mine.model", "--data", "mine:loader", "--loss", "mse"], "must be MODULE:NAME"),
        (["--model", "mine:wide", "--data", "mine:loader", "--loss", "mse"], "it needs width"),
        (["--model", "mine:broken", "--data", "mine:loader", "--loss", "mse"], "KeyError"),
        (WHOLE, "learning_rate=...)` is needed"),
        ([*WHOLE, "--learning-rate", "0.1", "--checkpoint", "nowhere.pt"], "must be an existing file"),
        ([*WHOLE, "--learning-rate", "0.1", "--require", "stability<<1"], "must be a claim, NAME<NUMBER"),
        ([*WHOLE, "--learning-rate", "0.1", "--require", "stability<one"], "compare stability with a number"),
        ([*WHOLE, "--learning-rate", "0.1", "--budget", "soon"], "seconds > 0"),
        ([*WHOLE, "--learning-rate", "0.02", "--k", "2", "--max", "stabilty=1"], "no 'stabilty'"),
        (["nowhere", "--require", "stability<1"], "that exist"),
        (["gate.py", "--model", "mine:model"], "got both"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(folder, capsys, arguments, message):
    assert gate(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
