"""The three sentences follow the verdicts: other outcomes, other sentences; what was not judged is not said."""

import dataclasses

import pytest

from reports.build import MARKS, published_verdicts
from reports.findings import markdown
from reports.short import RUNGS, explanations, in_short
from tests.reports.samples import decoy, verdict
from tests.test_readme_map import ROOT
from theory.judge.results import CONDITIONS, Table
from theory.judge.verdict import About, Kind, Outcome, Standing

RUNS = ("a", "b", "c")


def judged(claim, *outcomes, **changes):
    """A verdict on each of the runs."""
    fields = {"kind": Kind.HYPOTHESIS, "estimate": -0.05, "interval": (-0.1, 0.0), "tolerance": -0.2, "p_value": None}
    fields["standing"] = Standing.CONFIRMATORY
    return [
        verdict(claim, (), about=About(name=name), outcome=outcome, **{**fields, **changes})
        for name, outcome in zip(RUNS, outcomes, strict=False)
    ]


def said(*verdicts):
    return in_short({"networks": [one for some in verdicts for one in some]})


YES, NO, OPEN, NEVER = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE


def test_nothing_judged_is_nothing_said():
    assert in_short({}) == "" and said(judged("curvature-spike", YES, NO)) == ""
    assert markdown({}).startswith("Of ")


def test_what_holds_counts_controls_and_sabotage():
    held = judged("control", YES, NO, decoys=(decoy("late"), decoy("noise", OPEN)))
    text = said(held, judged("control-mean-path", YES, decoys=()))
    assert "2 supported and 1 refuted of 3 statements" in text and "2 of 4 laws sabotaged" in text
    assert "apart by at most × 1.05" in text and "Where it stops" not in text


def test_the_rung_is_the_first_that_is_refuted_on_each_ensemble():
    rungs = list(RUNGS)
    text = said(
        judged("ladder", NO, NO, YES),
        judged(rungs[0], YES, NO, YES),
        judged(rungs[1], OPEN, NO, YES),
        judged(rungs[2], NO, NO, OPEN),
    )
    assert "1 of 3 ensembles" in text
    assert f"(`{rungs[0]}`) in 1, a quadratic loss (`{rungs[2]}`) in 1 and none for certain in 1" in text
    assert rungs[1] not in text


@pytest.mark.parametrize(("outcomes", "there"), [((YES, YES, NO), True), ((YES, NO, NO), False), ((NEVER, YES), False)])
def test_a_reason_is_given_only_if_more_than_half_of_the_cases_say_so(outcomes, there):
    text = said(judged("saddle-growth", *outcomes), judged("ladder-quadratic-loss", NO, NO, NO))
    assert ("a saddle, no minimum" in text) is there
    assert ("no quadratic over the spread (in 3 of 3)" in text) is there


def test_a_statement_formed_after_the_evidence_is_called_exploratory():
    found = judged("saddle-growth", YES, YES)
    assert "`saddle-growth`, in 2 of 2" in said(
        [dataclasses.replace(one, standing=Standing.CONFIRMATORY) for one in found]
    )
    late = [dataclasses.replace(one, standing=Standing.EXPLORATORY) for one in found]
    assert "`saddle-growth`, exploratory, in 2 of 2" in said(late)


@pytest.mark.parametrize(("condition", "there"), [("places", True), ("drift", False)])
def test_curvature_that_moved_is_a_reason_if_that_is_why_the_law_does_not_apply(condition, there):
    rows = tuple((name, "x", "y", "no" if name == condition else "yes", "yes") for name in ("drift", "places"))
    table = Table(title=CONDITIONS, columns=("condition", "measured", "limit", "met", "needed here"), rows=rows)
    text = said(judged("posterior-ensemble", NEVER, NEVER, results=(table,)))
    assert ("curvature and noise are no longer the checkpoint's (in 2 of 2)" in text) is there


def test_what_each_explanation_leaves_is_told_the_least_first_beside_what_there_was_to_explain():
    nothing = dataclasses.replace(decoy("nothing moved"), estimate=-0.9)
    drift = judged("spread-explained-by-drift", NO, NO, estimate=-0.85, decoys=(nothing,))
    places = judged("spread-explained-by-mean-place", NO, NO, estimate=-0.4, decoys=(nothing, decoy("twice the noise")))
    assert explanations({}) == "" and explanations({"networks": judged("ladder", NO)}) == ""
    text = explanations({"networks": [*drift, *places]})
    assert "of the 0.9 ln units" in text and "2 ensembles" in text
    assert "each explanation alone leaves: mean place 0.4 and drift 0.85." in text and "Predicted" not in text
    predicted = judged("spread-predicted", YES, NO, estimate=-0.2)
    assert "supported in 1 of 2): off by 0.2." in explanations({"networks": [*drift, *places, *predicted]})


def test_the_readme_opens_its_findings_with_the_three_sentences_of_the_published_verdicts():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    short = in_short(published_verdicts(ROOT / "reports" / "published"))
    assert text.split(MARKS[0])[1].lstrip("\n").startswith(short + "\n")
    assert all(opening in short for opening in ("What holds: ", " Where it stops: ", " Why: "))
    assert short.count("`saddle-growth`") == 1
