"""A network's verdict is verified only beside controls that hold: the rule, on fabricated verdicts."""

import dataclasses

import pytest

from empirical.claims import CONTROL, held_against_controls
from tests.empirical.record_making import logged_run, spectrum, training_run
from tests.reports.samples import verdict
from theory.judge.verdict import Outcome, Standing, read_verdicts, write_verdicts

MEASURED, LOG, RUN, OF_CONTROL = spectrum(48), logged_run(), training_run(), spectrum(48, seed=7)
RECORDS = (MEASURED, LOG, RUN, OF_CONTROL)


def found(*outcomes):
    """A verdict on a measurement, one on an imported log, one on a run of ours; and controls that came out so."""
    controls = [verdict(CONTROL, (OF_CONTROL,), outcome=outcome) for outcome in outcomes]
    others = [verdict(name, (item,)) for name, item in (("alignment", MEASURED), ("decay-dip", LOG), ("dip", RUN))]
    return {one.claim: one.verified for one in held_against_controls((*controls, *others), RECORDS)}


@pytest.mark.parametrize(
    ("outcomes", "verified"),
    [
        ((), False),
        ((Outcome.SUPPORTED,), True),
        ((Outcome.SUPPORTED, Outcome.SUPPORTED), True),
        ((Outcome.SUPPORTED, Outcome.REFUTED), False),
        ((Outcome.SUPPORTED, Outcome.INCONCLUSIVE), False),
        ((Outcome.NOT_APPLICABLE,), False),
    ],
)
def test_what_was_measured_is_verified_only_if_there_are_controls_and_all_of_them_hold(outcomes, verified):
    given = found(*outcomes)
    assert given.pop("alignment") is verified
    assert set(given.values()) == {None}, "controls do not concern themselves, nor the losses that a log holds"


def test_a_limit_that_is_found_is_no_control_that_holds():
    limit = verdict("control-limit", (OF_CONTROL,), outcome=Outcome.SUPPORTED)
    network = verdict("alignment", (MEASURED,))
    assert held_against_controls((limit, network), RECORDS)[1].verified is False


def test_an_unverified_verdict_says_so_wherever_it_is_shown(tmp_path):
    (one,) = held_against_controls([verdict("alignment", (MEASURED,))], RECORDS)
    assert one.qualification == "exploratory, unverified"
    write_verdicts([one], tmp_path)
    assert read_verdicts(tmp_path / "verdicts.json") == (one,)
    known = dataclasses.replace(one, verified=True, standing=Standing.CONFIRMATORY)
    assert known.qualification == "confirmatory"
