"""The calibration study: a quick one passes, a broken judge or formula fails it, and its command behaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import calibration
from theory.judge.evidence import Evidence, read_evidence
from theory.judge.verdict import Outcome, read_folder

PUBLISHED = Path(__file__).resolve().parents[2] / "reports" / "published" / "calibration"

SMALL = calibration.Study(
    true=(
        calibration.TrueStatements(kind="variance", replicas=200, num_times=1, runs=20, modes=32),
        calibration.TrueStatements(kind="covariance", runs=4, rotated=True),
        calibration.TrueStatements(kind="mean", runs=4),
        calibration.TrueStatements(kind="velocity", runs=4, optimizer=calibration.HEAVY_BALL),
    ),
    false=(
        calibration.FalseClaims(
            optimizer=calibration.MomentumSGD(learning_rate=0.1), low=0.5, high=1.5, num_times=400, runs=1, modes=3
        ),
    ),
)


def run(setting, seed=1):
    return calibration.run_study(setting, seed, lambda fraction: None)


def test_a_true_theory_passes_and_every_error_of_one_percent_is_found():
    measured, arrays = run(SMALL)
    assert measured["calibrated"]
    assert measured["powerful"]
    assert measured["supported"] == measured["claims"] == 3
    assert measured["decoys_refuted"] == measured["decoys"] == 6
    counts = [one["number"] for one in measured["true_statements"]]
    assert counts == [640, 32, 64, 64] == [len(arrays[f"p_values_{k}"]) for k in range(4)]
    assert measured["all_true_statements"]["number"] == sum(counts)
    for one, p_values in zip(measured["true_statements"], arrays.values(), strict=True):
        assert sum(one["histogram"]) == one["number"]
        assert [rate["rejected"] for rate in one["rates"]] == [int((p_values <= a).sum()) for a in calibration.ALPHAS]


def test_p_values_repeat_with_the_seed_and_change_without():
    only = calibration.Study(true=SMALL.true[1:2], false=SMALL.false)
    first, again, other = (run(only, seed)[1]["p_values_0"] for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).all()


@pytest.mark.parametrize("factor", [1.2, 1 / 1.2])
def test_a_wrong_formula_is_not_calibrated(monkeypatch, factor):
    right = calibration._state
    monkeypatch.setattr(calibration, "_state", lambda simulation: factor * right(simulation))
    measured, _ = run(SMALL)
    assert not measured["calibrated"]
    assert not measured["powerful"]


def test_a_test_with_the_wrong_degrees_is_not_calibrated(monkeypatch):
    """A judge that takes correlated times for independent ones rejects too often."""
    right = calibration.moment_tests

    def overconfident(*arguments, **options):
        tests = right(*arguments, **options)
        z = 1.3 * calibration_z(tests.p_values)
        return type(tests)(2 * norm_sf(z), tests.ratio, tests.degrees)

    from scipy import stats

    def calibration_z(p_values):
        return stats.norm.isf(p_values / 2)

    norm_sf = stats.norm.sf
    monkeypatch.setattr(calibration, "moment_tests", overconfident)
    measured, _ = run(SMALL)
    assert not measured["all_true_statements"]["passes"]


def test_the_command_writes_evidence_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "study", lambda quick: SMALL)
    arguments = ["--out", str(tmp_path / "out"), "--seed", "1"]
    assert calibration.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "variance, one time" in printed
    assert "6 of 6 decoys wrong by 1 % refuted" in printed
    (path,) = (tmp_path / "out" / "evidence" / "calibration").glob("*.json")
    evidence = Evidence.read(path)
    assert evidence.measured["calibrated"] is True
    assert len(evidence.arrays["p_values_0"]) == 640
    assert json.loads(path.read_text())["provenance"]["seconds"] >= 0
    assert calibration.main(arguments) == 2
    assert "evidence is written once" in capsys.readouterr().err


def test_bad_usage_is_one_line(tmp_path, capsys):
    assert calibration.main(["--seed", "-1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "`--seed` must be >= 0; got -1.\n"
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert calibration.main(["--quick", "--out", str(blocked / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_published_study_is_large_enough():
    setting = calibration.study()
    number = sum(one.runs * one.modes // (2 if one.kind == "covariance" else 1) for one in setting.true)
    assert number >= 10_000
    assert sum(one.runs * one.modes for one in setting.false) >= 1_000
    assert {one.kind for one in setting.true} == {"variance", "velocity", "covariance", "mean"}


def test_every_simulation_of_the_study_has_forgotten_its_start():
    """|root|^(2t) at the first recorded time, from the eigenvalues of the transition itself."""
    from theory.oracle.transition import transition

    setting = calibration.study()
    for simulation in [*(one.simulation()[0] for one in setting.true), *(one.simulation() for one in setting.false)]:
        roots = np.linalg.eigvals(transition(simulation.problem, simulation.segments[0].optimizer)[0])
        assert np.abs(roots).max() ** (2 * simulation.record_times[0]) < 1e-6


def test_the_published_counts_are_judged_as_stored_and_rest_on_all_of_them():
    stored = {verdict.claim: verdict for verdict in read_folder(PUBLISHED)}
    (item,) = read_evidence(PUBLISHED)
    assert item.measured["calibrated"] and item.measured["powerful"]
    assert set(stored) == {claim.name for claim in calibration.CLAIMS}
    for claim in calibration.CLAIMS:
        again = claim.judge({calibration.EXPERIMENT: item})
        assert (again.outcome, again.estimate, again.interval) == (
            Outcome.SUPPORTED,
            stored[claim.name].estimate,
            stored[claim.name].interval,
        )
        assert all(decoy.outcome is Outcome.REFUTED for decoy in again.decoys)
    alarms, misses = (stored[claim.name] for claim in calibration.CLAIMS)
    counted = item.measured["all_true_statements"]["rates"][0]
    assert alarms.estimate == pytest.approx(counted["rate"] - 0.05)
    assert f"of {item.measured['decoys']} errors of 1 % missed" in misses.note


def test_a_judge_that_misses_errors_is_refuted_by_the_register():
    groups = [{"setting": {"optimizer": {"momentum": 0.9, "nesterov": False}}, "claims": 500, "supported": 400}]
    groups[0]["decoys_refuted"] = 800
    item = Evidence(experiment="calibration", setting={}, seed=0, measured={"false_claims": groups})
    verdict = calibration.CLAIMS[1].judge({"calibration": item})
    assert (verdict.outcome, verdict.estimate) == (Outcome.REFUTED, 0.2)
