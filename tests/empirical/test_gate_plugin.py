"""The pytest plugin, the monitor of a training loop, and the examples as people copy them."""

import importlib.metadata
import runpy
import shlex
from pathlib import Path

import pytest
import torch
import torch._dynamo  # likewise: torch loads it on first use
from torch import nn

import empirical.measure.assumptions  # noqa: F401 (pytester forgets imports of a run inside it; numpy loads once)
from empirical.commands import gate
from empirical.monitor import AssumptionMonitor
from tests.empirical.measure.conftest import smooth_network, toy_data

pytest_plugins = ["pytester"]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: Where the package is installed its entry point brings the plugin; in a bare checkout it is named.
INSTALLED = any(point.value == "empirical.plugin" for point in importlib.metadata.entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "empirical.plugin")


def test_the_example_of_a_test_file_passes_with_a_summary(pytester):
    pytester.makepyfile(test_assumptions=(EXAMPLES / "test_assumptions.py").read_text())
    done = pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", "--strict-markers")
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*= assumptions =*", "*test_noise_commutes  *"])


def test_a_failing_assertion_prints_the_table(pytester):
    text = (EXAMPLES / "test_assumptions.py").read_text().replace("learning_rate=0.1", "learning_rate=100.0")
    pytester.makepyfile(test_broken=text)
    done = pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*assumptions: fail*", "*fail*stability*", "*test_noise_commutes  fail: *stability*"])


def test_the_script_prints_its_report(capsys):
    found = runpy.run_path(str(EXAMPLES / "gate_a_model.py"))
    shown = capsys.readouterr().out
    assert shown.startswith("assumptions: ") and found["report"].stability.supported


def test_the_workflow_calls_the_command_with_options_that_exist():
    import argparse

    text = (EXAMPLES / "gate.yml").read_text()
    start = text.index("spikeshrink gate")
    words = shlex.split(text[start : text.index("- uses: actions/upload-artifact")])
    parser = argparse.ArgumentParser(exit_on_error=False)
    gate.add_options(parser)
    options = parser.parse_args(words[2:])
    assert options.require == ["stability<1", "price<=0.1"] and options.junit == "gate.xml"


class Written:
    def __init__(self):
        self.rows = []

    def add_scalar(self, tag, value, step):
        self.rows.append((tag, value, step))


def test_a_monitor_measures_logs_and_stops_at_an_edge():
    x, y = toy_data(160)
    model, writer = smooth_network(), Written()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = nn.CrossEntropyLoss(reduction="none")
    monitor = AssumptionMonitor(
        model,
        loss,
        [(x, y)],
        optimizer,
        every=2,
        writer=writer,
        stop={"stability": 1.0},
        settings={"top_k": 2, "batch_size": 40},
    )
    before = [p.clone() for p in model.parameters()]
    assert [monitor(epoch) for epoch in range(3)] == [False, False, False]
    assert sorted(monitor.reports) == [0, 2]
    assert {("spikeshrink/stability", 0), ("spikeshrink/stability", 2)} <= {(tag, step) for tag, _, step in writer.rows}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.param_groups[0]["lr"] = 1000.0
    assert monitor(4) is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "integer >= 1"),
        ({"stop": {"stabilty": 1.0}}, "must name one of"),
        ({"stop": {"stability": "one"}}, "finite limits"),
    ],
)
def test_a_monitor_refuses_what_it_cannot_watch(options, message):
    with pytest.raises(ValueError, match=message):
        AssumptionMonitor(nn.Linear(1, 1), nn.MSELoss(), [], None, **options)


def test_the_entry_point_names_the_plugin():
    import tomllib

    with (EXAMPLES.parent / "pyproject.toml").open("rb") as stream:
        points = tomllib.load(stream)["project"]["entry-points"]["pytest11"]
    module = importlib.import_module(points["spikeshrink"])
    assert callable(module.pytest_configure) and "assumptions" in vars(module)
