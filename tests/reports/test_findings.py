"""Sentences about what was found follow the verdicts: each outcome, mixtures, limits, and units that people read."""

import dataclasses
import math

import pytest

from reports.findings import STATEMENTS, Answer, curvature_at_decays, findings, markdown, paragraph
from reports.outline import found_in_words
from reports.quantities import QUANTITIES, Unit, held_against, said, shown
from tests.reports.samples import verdict
from theory.judge.results import CONDITIONS, Table
from theory.judge.verdict import About, DecoyVerdict, Kind, Outcome


def spike(name: str, factor: float, outcome: Outcome, claim: str = "curvature-spike", decay: int | None = None):
    low, high = math.log(factor) - 0.05, math.log(factor) + 0.05
    return verdict(
        claim,
        (),
        about=About(name=name, decay=decay),
        kind=Kind.HYPOTHESIS,
        outcome=outcome,
        estimate=math.log(factor),
        interval=(low, high),
        tolerance=math.log(1.25),
        p_value=None,
        power=None,
        reached=None,
        required=None,
    )


def row(found, name):
    return next(one for one in found if one.statement.name == name)


def test_nothing_tested_names_the_command_for_every_statement():
    found = findings({})
    assert len(found) == len(STATEMENTS)
    assert {one.answer for one in found} == {Answer.UNTESTED}
    assert all(one.statement.command in one.found[0] for one in found)
    assert "0 were tested here" in paragraph(found) and "Not tested here" in paragraph(found)
    assert "greyed" not in markdown({}) and markdown({}).count("\n") == 3


@pytest.mark.parametrize(
    ("outcomes", "answer"),
    [
        ((Outcome.SUPPORTED, Outcome.SUPPORTED), Answer.HOLDS),
        ((Outcome.REFUTED, Outcome.REFUTED), Answer.FAILS),
        ((Outcome.SUPPORTED, Outcome.REFUTED), Answer.PARTLY),
        ((Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE), Answer.UNDECIDED),
        ((Outcome.NOT_APPLICABLE, Outcome.SUPPORTED), Answer.HOLDS),
        ((Outcome.NOT_APPLICABLE, Outcome.NOT_APPLICABLE), Answer.UNTESTED),
        ((Outcome.REFUTED, Outcome.REFUTED, Outcome.INCONCLUSIVE), Answer.FAILS),
    ],
)
def test_the_answer_is_that_of_all_cases_together(outcomes, answer):
    verdicts = [spike(f"run {place}", 1.5, outcome) for place, outcome in enumerate(outcomes)]
    assert row(findings({"digits": verdicts}), "the spike of curvature").answer is answer


def test_runs_are_counted_and_not_their_decays():
    verdicts = [spike(name, 0.8, Outcome.REFUTED, decay=decay) for name in ("a", "b") for decay in (1, 2)]
    found = row(findings({"digits": verdicts}), "the spike of curvature")
    assert found.found == (
        "`curvature-spike`: supported in 0 of 2, refuted in 2 (λ × 0.8 to × 0.8; claimed above × 1.25).",
    )
    mixed = [*verdicts[:3], spike("b", 1.6, Outcome.SUPPORTED, decay=2)]
    found = row(findings({"digits": mixed}), "the spike of curvature")
    assert "refuted in 1, undecided in 1 (λ × 0.8 to × 1.6;" in found.found[0]


def test_where_it_stops_names_the_runs_that_refute_and_the_boundaries():
    verdicts = [spike("calm", 0.8, Outcome.REFUTED), spike("wild", 1.6, Outcome.SUPPORTED)]
    assert row(findings({"digits": verdicts}), "the spike of curvature").stops == "fails on calm"
    edge = verdict(
        "transient-interpolation-outside", (), kind=Kind.APPROXIMATION, outcome=Outcome.REFUTED, boundary="η₂λ ≤ 0.1"
    )
    inside = verdict("transient-interpolation", (), kind=Kind.APPROXIMATION, p_value=None, tolerance=0.05)
    found = row(findings({"theory": [inside, edge]}), "the early transient")
    assert (found.answer, found.stops) == (Answer.PARTLY, "holds up to η₂λ ≤ 0.1")
    assert found_in_words(edge).startswith("As it was meant to be, this is refuted: holds up to η₂λ ≤ 0.1")
    limit = verdict("shuffled-epochs", ())
    law = verdict("stationary-commuting", ())
    assert "shuffled" in row(findings({"theory": [law, limit]}), "the stationary law on quadratics").stops
    refuted = verdict("shuffled-epochs", (), outcome=Outcome.REFUTED)
    assert "shuffled" not in row(findings({"theory": [law, refuted]}), "the stationary law on quadratics").stops


def test_a_claim_about_quadratics_is_not_taken_for_a_variant_of_one_about_networks():
    found = findings({"theory": [verdict("commutativity-price", ())]})
    assert row(found, "commuting and aligned curvature and noise").answer is Answer.UNTESTED
    late = findings({"digits": [spike("a", 1.5, Outcome.SUPPORTED, claim="curvature-spike-late")]})
    assert row(late, "the spike of curvature").answer is Answer.HOLDS


def test_estimates_are_said_in_units_that_people_read():
    one = spike("a", 1.25, Outcome.SUPPORTED)
    assert said(one) == "λ × 1.25 [× 1.19, × 1.31]"
    assert shown(one) == ("× 1.25", "[× 1.19,\u00a0× 1.31]")
    assert held_against(one) == "above × 1.25"
    shrink = spike("a", 10.0, Outcome.SUPPORTED, claim="posterior-shrink")
    assert said(shrink) == "σ² × 0.1 [× 0.0951, × 0.105]" and held_against(shrink) == "below × 0.8"
    misfit = spike("a", 0.5, Outcome.REFUTED, claim="posterior-ensemble")
    assert "apart by × 2 [× 1.9, × 2.1]" in said(misfit)
    assert {quantity.unit for quantity in QUANTITIES.values()} <= set(Unit)
    assert found_in_words(one) == "It holds: λ × 1.25 [× 1.19, × 1.31], claimed above × 1.25."


def test_the_rungs_of_the_ladder_say_where_theory_and_network_part():
    whole = spike("a", 0.4, Outcome.REFUTED, claim="ladder")
    rungs = [
        spike("a", 0.9, Outcome.SUPPORTED, claim="ladder-quadratic-loss"),
        spike("a", 0.5, Outcome.REFUTED, claim="ladder-fixed-inputs"),
    ]
    found = row(findings({"digits": [whole, *rungs]}), "the stationary law in networks")
    assert found.stops == "theory and network part at inputs that stay as they were attacked"
    assert len(found.found) == 1 and "apart by × 2.5" in found.found[0]


def test_conditions_that_were_measured_and_are_not_met_are_an_answer_with_its_reason():
    table = Table(title=CONDITIONS, columns=("condition", "met"), rows=(("places", "no"),))
    note = "this run only: λ is 0.59 to 0.92 × at step 60; inputs do not stay fixed"
    runs = [
        dataclasses.replace(
            spike(run, 0.5, Outcome.NOT_APPLICABLE, claim="transient-ensemble"), note=note, results=(table,)
        )
        for run in ("a", "b")
    ]
    found = findings({"networks": runs})
    one = row(found, "the transient in networks")
    assert one.answer is Answer.UNMET and one.claims == (("networks", "transient-ensemble"),)
    assert one.found == (
        "`transient-ensemble`: not applicable in 2 of 2, in the first because λ is 0.59 to 0.92 × at step 60.",
    )
    assert "Measured where its conditions are not met: the transient in networks." in paragraph(found)
    assert "1 were tested here" in paragraph(found) and "transient-ensemble" in markdown({"networks": runs})
    with_another = [*runs, spike("a", 0.5, Outcome.REFUTED, claim="transient-robust-curvature")]
    both = row(findings({"networks": with_another}), "the transient in networks")
    assert both.answer is Answer.FAILS and len(both.found) == 2 and both.found[1] == one.found[0]
    without = [dataclasses.replace(run, results=()) for run in runs]
    assert row(findings({"networks": without}), "the transient in networks").answer is Answer.UNTESTED


def test_what_stands_beside_no_control_is_said_to_be_unverified():
    alone = dataclasses.replace(spike("a", 1.5, Outcome.SUPPORTED), verified=False)
    assert "exploratory, unverified" in row(findings({"digits": [alone]}), "the spike of curvature").sure


def of_map(claim, outcome, estimate, *, note="nets: done", decoys=()):
    return dataclasses.replace(
        spike("map of regimes", math.exp(estimate), outcome, claim=claim),
        estimate=estimate,
        interval=(estimate - 0.05, estimate + 0.05),
        note=note,
        decoys=decoys,
    )


def rival(name, estimate):
    return DecoyVerdict(
        name=name, outcome=Outcome.REFUTED, estimate=estimate, interval=(estimate - 0.1, estimate + 0.1), p_value=None
    )


def test_when_curvature_spikes_what_sets_it_and_how_sure_is_said_from_the_verdicts_of_the_map():
    note = "nets: λ × 1.5; a rise of λ is shown in 3 of 14 regimes; three seeds find × 1.3 on digits with chance 0.9"
    note += "; left out: 1 (x)"
    members = [
        of_map("edge-rise-early", Outcome.REFUTED, 0.0),
        of_map("edge-rise-late", Outcome.SUPPORTED, 0.5, note=note),
        of_map("edge-still-late", Outcome.SUPPORTED, 0.1),
        of_map("edge-account-regimes-late", Outcome.REFUTED, -0.2, decoys=(rival("valley", 0.2), rival("scale", 0.0))),
    ]
    text = curvature_at_decays({"map": members})
    assert "within 5 epochs, curvature does not rise more in regimes at the edge" in text and "× 1 [" in text
    assert "by the end of the stage that follows, curvature rises in regimes at the edge" in text and "× 1.65" in text
    assert "Elsewhere it does not spike by the end of the stage that follows" in text
    assert (
        "the iterate's position against its running average predicts held-out regimes better than every rival" in text
    )
    assert "One by one, by the end of the stage that follows, a rise of λ is shown in 3 of 14 regimes." in text
    assert "How sure: three seeds find × 1.3 on digits with chance 0.9. Left out: 1 (x)." in text
    assert text in markdown({"map": members}) and curvature_at_decays({"networks": []}) == ""


@pytest.mark.parametrize(
    ("outcome", "words"),
    [(Outcome.INCONCLUSIVE, "is undecided"), (Outcome.NOT_APPLICABLE, "could not be judged: too few seeds")],
)
def test_a_map_that_cannot_tell_says_so(outcome, words):
    member = of_map("edge-rise-late", outcome, 0.2, note="nets: too few seeds; more")
    assert words in curvature_at_decays({"map": [member]})
    account = of_map("edge-account-regimes-late", Outcome.INCONCLUSIVE, 0.01, decoys=(rival("scale", -0.1),))
    assert "best, though its lead may be chance" in curvature_at_decays({"map": [account]})
