"""The verdict table fits a terminal, shows what was refuted first, and counts runs."""

import dataclasses
import io

import pytest

from tests.reports.samples import verdict
from theory.judge.terminal import WIDTH, outcome_of, remarks, verdict_table, wants_color
from theory.judge.verdict import About, Kind, Outcome


def on(name: str, outcome: Outcome, decay: int | None = None, **changes):
    about = About(name=name, decay=decay)
    return verdict("curvature-spike", (), about=about, outcome=outcome, kind=Kind.HYPOTHESIS, **changes)


@pytest.fixture
def verdicts():
    return (
        verdict("a-supported-claim-with-a-name-much-longer-than-a-column-can-be", (), note="a note"),
        verdict("undecided", (), outcome=Outcome.INCONCLUSIVE),
        verdict("outside", (), outcome=Outcome.REFUTED, boundary="η₂λ ≤ 0.1"),
        verdict("refuted", (), outcome=Outcome.REFUTED, estimate=-0.5),
        verdict("idle", (), outcome=Outcome.NOT_APPLICABLE, estimate=None, interval=(None, None), decoys=()),
        *(on(name, Outcome.REFUTED, decay) for name in ("a", "b") for decay in (1, 2)),
        on("c", Outcome.SUPPORTED, 1),
        on("c", Outcome.REFUTED, 2, verified=False),
    )


def test_every_line_fits_and_what_was_refuted_comes_first(verdicts):
    lines = verdict_table(verdicts).splitlines()
    assert max(map(len, lines)) <= WIDTH == 80
    order = [line.split()[0] for line in lines[2:8]]
    assert order[:2] == ["refuted", "curvature-spike"] and order[2] == "undecided"
    assert order[3].startswith("a-supported") and order[4:] == ["outside", "idle"]
    assert "-50.00 %" in lines[2] and "boundary" in lines[6]


def test_runs_are_counted_once_and_the_unverified_are_marked(verdicts):
    table = verdict_table(verdicts)
    line = next(line for line in table.splitlines() if line.startswith("curvature-spike"))
    assert "2 no, 1 ?*" in line and "12/12" in line
    assert (
        "6 claims, 11 verdicts: 1 supported, 3 refuted, 2 inconclusive, 1 not applicable, 1 boundary confirmed"
        in " ".join(table.split())
    )
    assert "* unverified" in table
    assert "* unverified" not in verdict_table(verdicts[:4])


def test_notes_are_for_those_who_ask(verdicts):
    assert "a note" not in verdict_table(verdicts)
    assert "supported (exploratory) 0.000412 [-0.0031, 0.0039]; a note" in remarks(verdicts)
    assert "curvature-spike · c · decay 2: refuted (exploratory, unverified)" in remarks(verdicts)


def test_color_is_for_terminals_whose_readers_want_it(verdicts, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_color(Terminal()) and not wants_color(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(Terminal())
    assert "\x1b[31mrefuted" in verdict_table(verdicts, color=True) and "\x1b" not in verdict_table(verdicts)


def test_verdicts_on_one_case_count_as_they_agree():
    some = [on("a", Outcome.SUPPORTED), on("a", Outcome.NOT_APPLICABLE)]
    assert outcome_of(some) is Outcome.SUPPORTED
    assert outcome_of([*some, on("a", Outcome.REFUTED)]) is Outcome.INCONCLUSIVE
    assert outcome_of([dataclasses.replace(some[0], outcome=Outcome.NOT_APPLICABLE)]) is Outcome.NOT_APPLICABLE
