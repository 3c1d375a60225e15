"""The gate: three results from whole intervals, exit statuses, files, and `check_assumptions` on a user's model."""

import dataclasses
import math
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from theory.judge.gate import Quantity, Result, Thresholds, decide, read_gate
from theory.judge.verdict import About, Kind, Outcome, Verdict, write_verdicts


def verdict(outcome=Outcome.SUPPORTED, claim="posterior-ensemble", **changes):
    made = Verdict(
        claim=claim,
        statement="s",
        source="s",
        kind=Kind.HYPOTHESIS,
        outcome=outcome,
        estimate=0.5,
        interval=(0.4, 0.6),
        tolerance=None,
        alpha=0.05,
        power=None,
        p_value=None,
        num_tests=1,
        reached=None,
        required=None,
        decoys=(),
        assumptions=(),
        evidence=(),
        note="a note | with a bar",
    )
    return dataclasses.replace(made, **changes)


def quantity(low, high, name="price"):
    return Quantity(name=name, estimate=(low + high) / 2, interval=(low, high))


@pytest.mark.parametrize(
    ("interval", "maximum", "minimum"),
    [
        ((0.01, 0.05), Result.PASS, Result.FAIL),
        ((0.2, 0.3), Result.FAIL, Result.PASS),
        ((0.05, 0.2), Result.INCONCLUSIVE, Result.INCONCLUSIVE),
        ((0.1, 0.1), Result.PASS, Result.PASS),
    ],
)
def test_only_a_whole_interval_decides(interval, maximum, minimum):
    found = [quantity(*interval)]
    name = "price"
    assert decide(Thresholds(maximum={name: 0.1}), quantities=found).checks[0].result is maximum
    assert decide(Thresholds(minimum={name: 0.1}), quantities=found).checks[0].result is minimum


@pytest.mark.parametrize("interval", [None, (0.0, math.inf), (math.nan, 0.0)])
def test_a_number_without_an_uncertainty_cannot_pass(interval):
    found = [Quantity(name="q", estimate=0.0, interval=interval)]
    report = decide(Thresholds(maximum={"q": 1.0}), quantities=found)
    assert report.status == 3
    assert "without an uncertainty" in report.checks[0].reason


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.SUPPORTED, 0), (Outcome.REFUTED, 1), (Outcome.INCONCLUSIVE, 3), (Outcome.NOT_APPLICABLE, 3)],
)
def test_a_required_claim_must_be_supported(outcome, status):
    thresholds = Thresholds(require=("posterior-ensemble",))
    assert decide(thresholds, verdicts=[verdict(outcome)]).status == status


def test_a_claim_is_checked_on_every_subject_and_one_failure_wins():
    thresholds = Thresholds(require=("posterior-ensemble",))
    report = decide(
        thresholds,
        verdicts=[
            verdict(about=About(name="run 1")),
            verdict(Outcome.INCONCLUSIVE, about=About(name="run 2")),
            verdict(Outcome.REFUTED, about=About(name="run 3")),
        ],
    )
    assert [check.result for check in report.checks] == [Result.PASS, Result.INCONCLUSIVE, Result.FAIL]
    assert report.status == 1 and not report.passed


def test_what_nothing_speaks_to_is_inconclusive():
    report = decide(Thresholds(require=("a",), maximum={"b": 1.0}), verdicts=[verdict()])
    assert report.status == 3
    assert [check.reason for check in report.checks] == [
        "no verdict on this claim",
        "nothing of this name was measured",
    ]


def test_thresholds_come_from_pyproject_and_the_command_line_wins(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[tool.spikeshrink.gate]\nrequire = ["alignment"]\n[tool.spikeshrink.gate.max]\nprice = 0.1\nexpansion = 0.2\n'
    )
    found, _ = read_gate(file, require=["commutativity"], maximum=["expansion=0.5"], minimum=["c=0.1"])
    assert found is not None and found.require == ("alignment", "commutativity")
    assert dict(found.maximum) == {"price": 0.1, "expansion": 0.5}
    assert dict(found.minimum) == {"c": 0.1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not toml [", "must be TOML"),
        ("[tool.spikeshrink.gate]\nmaximum = 3\n", "may hold require, max and min"),
        ("[tool.spikeshrink.gate]\nrequire = 'x'\n", "list `require`"),
        ("[tool.spikeshrink.gate.max]\nq = 'big'\n", "finite number"),
        ("[tool.spikeshrink.gate.max]\nq = inf\n", "finite number"),
        ("[tool.other]\n", "must demand something"),
    ],
)
def test_unusable_thresholds_are_one_line(tmp_path, content, message):
    file = tmp_path / "pyproject.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_gate(file)[0] or Thresholds()
    assert "\n" not in str(raised.value).strip()


def test_junit_counts_failures_and_errors_and_stays_well_formed(tmp_path):
    report = decide(
        Thresholds(require=("posterior-ensemble", "missing"), maximum={"q": 1.0}),
        verdicts=[verdict(Outcome.REFUTED, note="<&> \x07 control")],
        quantities=[quantity(0, 0.5, "q")],
    )
    report.write(junit=tmp_path / "deep" / "gate.xml", summary=tmp_path / "summary.md")
    root = ElementTree.parse(tmp_path / "deep" / "gate.xml").getroot()
    assert {key: root.attrib[key] for key in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    assert len(root.findall(".//failure")) == 1 and len(root.findall(".//error")) == 1
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("### Spikeshrink gate: failed")
    assert summary.count("\n| ") == 4  # a head and three rows


def test_the_summary_is_appended_where_ci_asks_for_it(tmp_path, monkeypatch):
    target = tmp_path / "step.md"
    target.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    decide(Thresholds(maximum={"q": 1.0}), quantities=[quantity(0, 0.5, "q")]).write()
    assert target.read_text().startswith("before\n### Spikeshrink gate: passed")


def test_a_bar_in_a_note_does_not_break_the_markdown_table():
    text = decide(Thresholds(require=("posterior-ensemble",)), verdicts=[verdict()]).markdown()
    row = text.splitlines()[-1]
    assert row.replace("\\|", "").count("|") == 6


def gate(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "empirical", "gate", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


def test_the_command_turns_verdicts_into_an_exit_status(tmp_path, pytestconfig):
    root = pytestconfig.rootpath
    config = tmp_path / "pyproject.toml"  # not this project's own thresholds
    config.write_text("")
    write_verdicts([verdict()], tmp_path)
    demand = (tmp_path, "--config", config, "--require")
    passed = gate(*demand, "posterior-ensemble", "--junit", tmp_path / "gate.xml", cwd=root)
    assert passed.returncode == 0, passed.stderr
    assert "pass" in passed.stdout and (tmp_path / "gate.xml").exists()
    assert gate(*demand, "alignment", cwd=root).returncode == 3
    write_verdicts([verdict(Outcome.REFUTED)], tmp_path)
    assert gate(*demand, "posterior-ensemble", cwd=root).returncode == 1


def test_wrong_usage_is_status_2_and_one_line(tmp_path, pytestconfig):
    root = pytestconfig.rootpath
    for arguments, message in (
        ((tmp_path / "nowhere", "--require", "x"), "that exist"),
        ((tmp_path, "--require", "x"), "neither verdicts.json"),
        ((tmp_path, "--max", "price"), "NAME=NUMBER"),
    ):
        found = gate(*arguments, cwd=root)
        assert found.returncode == 2
        assert message in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1
