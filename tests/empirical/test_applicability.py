"""A law is judged where its conditions were measured to hold, and elsewhere the verdict says in one line why not."""

import dataclasses

import numpy as np
import pytest

from empirical.claims import applicability, collect
from empirical.claims.applicability import FINITE, FIXED, LAW, all_records, require_applicable
from empirical.data.resident import load_data
from empirical.measure.dynamics import measure_ensemble
from empirical.records import Ensemble, read_records
from empirical.settings import EnsembleSetting, Measurement, make_training
from empirical.training.checkpoint import load_checkpoint
from empirical.training.run import train
from tests.empirical.record_making import ensemble
from tests.empirical.test_ladder import made, verdicts
from theory.judge.claim import NotApplicableError
from theory.judge.verdict import Outcome

LAWS = {
    "posterior-ensemble": FIXED,
    "transient-ensemble": FIXED,
    "posterior-shrink-measured": FIXED,
    "posterior-robust-curvature": LAW,
    "transient-robust-curvature": LAW,
}
CLAIMS = {entry.claim.name: entry for entry in collect(("posterior", "ladder")).claims}


def judged(name, item):
    (subject,) = CLAIMS[name].subjects_in([item])
    return CLAIMS[name].judge(subject)


#: What is wrong with an ensemble, the condition that it breaks, and a phrase of the reason.
BROKEN = [
    ({"replicas": 3}, "replicas", "3 replicas for 3 directions"),
    (
        {"before": 40},
        "window",
        "40 steps before the drop are 2.1 relaxation times of the slowest judged mode (19 steps)",
    ),
    ({"before": 8}, "window", "8 steps before the drop are less than the epoch of 10 that is shuffled"),
    ({"steps": [10, 40, 50, 60, 70, 80, 100]}, "phases", "at ends of epochs"),
    ({"drift": 0.04}, "drift", "the checkpoint is not stationary: the replicas' mean moves by"),
    ({"steps": [5, 60, 65, 70, 90]}, "drift", "1 records in the window before the drop, 2 are needed"),
    ({"moved": (0.7, 1.0)}, "places", "λ 0.70 to 0.70 × and γ 1.00 to 1.00 × at step 60"),
    ({"moved": (1.0, 1.3)}, "places", "γ 1.30 to 1.30 ×"),
    ({"with_rungs": False}, "places", "were not measured at the replicas' positions"),
    ({"robust": 1.5}, "inputs", "with the attack run again the curvature is 1.50 × the one at fixed inputs"),
    ({"with_curvature": False}, "inputs", "was not measured"),
]


@pytest.mark.parametrize(("changes", "condition", "reason"), BROKEN, ids=[reason for *_, reason in BROKEN])
def test_a_condition_that_is_broken_is_named_with_its_numbers_and_the_evidence_kept(changes, condition, reason):
    item = ensemble(**changes)
    for name, needs in LAWS.items():
        verdict = judged(name, item)
        if condition in needs:
            assert verdict.outcome is Outcome.NOT_APPLICABLE, name
            assert reason in verdict.note and "\n" not in verdict.note
            assert verdict.evidence == (item.run_id,)
            (table,) = (result for result in verdict.results if result.kind == "table")
            assert next(row[3] for row in table.rows if row[0] == condition) == "no"
        elif changes.get("with_curvature", True):
            assert verdict.outcome is not Outcome.NOT_APPLICABLE, verdict.note


def test_where_every_condition_is_met_the_law_is_judged_and_the_conditions_are_shown():
    for name, needs in LAWS.items():
        verdict = judged(name, ensemble())
        assert verdict.outcome is Outcome.SUPPORTED, verdict.note
        table = next(result for result in verdict.results if result.title == "May a law be judged here?")
        assert [row[3] for row in table.rows] == ["yes"] * 6
        assert tuple(row[0] for row in table.rows if row[4] == "yes") == needs


def test_a_drift_within_the_margin_is_let_through_and_sampling_error_is_no_drift():
    require_applicable(ensemble(drift=0.005), all_records(ensemble()), LAW)
    rng = np.random.default_rng(0)
    steps, moved = np.array([32, 40, 50, 60]), []
    for _ in range(300):  # 24 replicas that stand still: a line through their means goes 0.3 of their spread
        positions = rng.standard_normal((4, 24, 3))
        moved.append(applicability._mean_motion(steps, positions))
    assert np.mean(np.array(moved) > applicability.DRIFT) < 0.05 and np.median(moved) < 0.1
    truth = positions + 0.8 * ((steps - 32) / 28)[:, None, None]
    wide = np.repeat(truth - positions, 200, axis=1) + rng.standard_normal((4, 4800, 3))
    assert applicability._mean_motion(steps, wide) == pytest.approx(0.8, rel=0.05)


def test_drawn_with_replacement_there_is_no_epoch_to_be_longer_than():
    item = ensemble(order="replacement", steps=[10, 40, 50, 60, 70, 80, 100])
    require_applicable(item, all_records(item), LAW)


def test_the_window_follows_the_slowest_judged_mode_not_the_momentum_alone():
    item = ensemble(before=200)
    slow = dataclasses.replace(item.frozen, curvatures=np.array([3.0, 1.0, 0.01]))  # (1 − μ)/(ηλ) = 100 steps
    with pytest.raises(NotApplicableError, match=r"2\.\d relaxation times of the slowest judged mode \(8\d steps\)"):
        require_applicable(dataclasses.replace(item, frozen=slow), all_records(item), FINITE)
    away = dataclasses.replace(item.frozen, curvatures=np.array([3.0, 1.0, -0.01]))  # not judged: nothing to wait for
    require_applicable(dataclasses.replace(item, frozen=away), all_records(item), FINITE)


def test_before_the_drop_what_happens_after_it_is_not_asked():
    item = ensemble()
    places = item.rungs.places
    later = dataclasses.replace(
        places, attacked_curvatures=places.attacked_curvatures * np.array([1, 0.5])[:, None, None]
    )
    item = dataclasses.replace(item, rungs=dataclasses.replace(item.rungs, places=later))
    assert judged("posterior-ensemble", item).outcome is Outcome.SUPPORTED
    verdict = judged("transient-ensemble", item)
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "λ 0.50 to 0.50 ×" in verdict.note


def test_the_ladder_is_judged_where_curvature_moves_and_a_control_is_not():
    """Rungs show what moved; a control on which it moved proves nothing."""

    def with_moved(item):
        places = item.rungs.places
        moved = dataclasses.replace(places, attacked_curvatures=0.5 * places.attacked_curvatures)
        return dataclasses.replace(item, rungs=dataclasses.replace(item.rungs, places=moved))

    assert verdicts(with_moved(made("network")))["ladder"].outcome is not Outcome.NOT_APPLICABLE
    verdict = verdicts(with_moved(made("held")))["control"]
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "λ 0.50 to 0.50 ×" in verdict.note
    few = made("network")
    few = dataclasses.replace(few, ensemble=dataclasses.replace(few.ensemble, before=30))
    for name, verdict in verdicts(few).items():
        assert (verdict.outcome is Outcome.NOT_APPLICABLE) == (not name.startswith("mean-path")), name


def test_a_linear_model_under_an_attack_beyond_its_margin_has_no_law_at_fixed_inputs_and_its_evidence_stays(tmp_path):
    """Trained, branched and judged: the images cross the classes' boundaries as the weights move, and the curvature
    with the attack run again is several times that at fixed inputs.
    """
    setting = make_training(
        "control-adversarial",
        "at",
        {
            "epsilon": 0.3,
            "step_size": 0.1,
            "steps": 4,
            "epochs": 8,
            "train_size": 96,
            "validation_size": 0,
            "test_size": 32,
            "evaluation_every": 100,
            "masking_probe": 0,
            "learning_rate": 0.02,
            "weight_decay": 1e-2,
        },
    )
    train(setting, seed=0, out=tmp_path)
    files = (load_checkpoint(file) for file in sorted(tmp_path.glob("runs/*/checkpoints/*.pt")))
    start = max((item for item in files if item.iteration <= setting.decays[0][0]), key=lambda item: item.iteration)
    branched = EnsembleSetting(replicas=12, before=60, after=10, records=7, places=4)
    found = measure_ensemble(start, load_data(setting.data), Measurement(eigenpairs=3, smallest=0), branched)
    path = found.to_evidence().write(tmp_path)
    (item,) = read_records(tmp_path, (Ensemble,))
    assert {1, 2, 4, 60, 70} <= set(item.steps.tolist()), "the first steps, and the last before and after the drop"
    for name in ("posterior-ensemble", "transient-ensemble", "posterior-shrink-measured"):
        verdict = judged(name, item)
        assert verdict.outcome is Outcome.NOT_APPLICABLE and verdict.evidence == (path.stem,)
        assert "inputs do not stay fixed: with the attack run again the curvature is" in verdict.note
        assert "\n" not in verdict.note
    assert judged("robust-curvature", item).outcome is Outcome.REFUTED, "which is the finding"


def test_claims_state_the_conditions_that_they_need():
    for name, needs in (*LAWS.items(), ("ladder", FINITE), ("control", FIXED), ("control-limit", FINITE)):
        claim = CLAIMS[name].claim
        assert set(applicability.assumed(needs)) <= set(claim.assumptions) and claim.windows
