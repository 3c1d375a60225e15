"""The gate of exact matrices: answers known by hand or by dense algebra, then the command a user types."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.gate_calibration import CLAIMS, EXPERIMENT, OUTCOMES, REASONS, GateCalibration, case, run
from theory.__main__ import main
from theory.assumptions import MATRICES, RULES, check_matrices
from theory.closed_form.alignment import haar_rotation
from theory.closed_form.rotated_noise import Commuting
from theory.judge.evidence import read_evidence
from theory.judge.gate import Result
from theory.judge.verdict import read_folder
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.lyapunov import lyapunov_covariance

PUBLISHED = Path(__file__).resolve().parents[2] / "reports" / "published" / "gate_calibration"
HEAVY_BALL = MomentumSGD(0.1, 0.9)


def pair(*, rotated, size=20, seed=0):
    """Two decades each; C with H's eigenvectors, in another order, or with random ones."""
    rng = np.random.default_rng(seed)
    basis = haar_rotation(size, rng)
    spectrum = np.geomspace(1.0, 0.01, size)
    other = haar_rotation(size, rng) if rotated else basis
    noise = (other * spectrum[::-1] if rotated else other * np.roll(spectrum, 3)) @ other.T
    hessian = (basis * spectrum) @ basis.T
    return 0.5 * (hessian + hessian.T), 0.5 * (noise + noise.T)


def checks(hessian, noise, optimizer=HEAVY_BALL, **options):
    return {check.name: check for check in check_matrices(Quadratic(hessian, noise), optimizer, **options).checks}


def test_commuting_matrices_pass_and_rotated_ones_fail():
    found = checks(*pair(rotated=False), top_k=20)
    assert all(found[name].result in (Result.PASS, Result.REPORTED) for name in MATRICES), found
    assert found["commutativity"].estimate == pytest.approx(1.0)
    assert found["price"].estimate == pytest.approx(0.0, abs=1e-9) and found["alignment"].estimate == pytest.approx(1.0)
    failed = 0
    for seed in range(20):
        found = checks(*pair(rotated=True, seed=seed), top_k=20)
        failed += found["commutativity_top"].result is Result.FAIL and found["commutativity"].result is Result.FAIL
    assert failed == 20


def test_price_and_excess_are_those_of_dense_algebra():
    hessian, noise = pair(rotated=True, size=6, seed=3)
    found = checks(hessian, noise, top_k=6)
    _, basis = np.linalg.eigh(hessian)
    covariance = basis.T @ lyapunov_covariance(Quadratic(hessian, noise), HEAVY_BALL).require() @ basis
    scale = np.sqrt(np.diag(covariance))
    nats = -0.5 * np.linalg.slogdet(covariance / np.outer(scale, scale))[1] / 6
    assert found["price"].estimate == pytest.approx(nats, rel=1e-8)
    rng = np.random.default_rng(5)
    turned = []
    for _ in range(20000):
        q = haar_rotation(6, rng)
        c = q @ noise @ q.T
        turned.append((np.trace(hessian @ c @ hessian @ c), np.trace(hessian @ hessian @ c @ c)))
    above, below = np.mean(turned, axis=0)
    chi = np.trace(hessian @ noise @ hessian @ noise) / np.trace(hessian @ hessian @ noise @ noise)
    expected = (chi - above / below) / (1 - above / below)
    assert found["commutativity"].estimate == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_edge_is_the_optimizers_own(nesterov):
    hessian, noise = pair(rotated=False)
    limit = 2 * 1.9 / (2.8 if nesterov else 1.0)
    for rate, result in ((0.99 * limit, Result.PASS), (1.01 * limit, Result.FAIL)):
        found = checks(hessian, noise, MomentumSGD(rate, 0.9, nesterov=nesterov))
        assert found["stability"].result is result, found
        assert found["stability"].estimate == pytest.approx(rate / limit)


def test_saddles_singular_noise_and_flat_spectra_are_said():
    saddle = checks(np.array([1.0, 0.5, -0.3]), np.ones(3))
    assert saddle["positive_curvature"].result is Result.FAIL
    assert saddle["positive_curvature"].estimate == pytest.approx(0.3)
    assert "flat" in saddle["commutativity"].reason or saddle["commutativity"].result is Result.PASS
    quiet = checks(np.array([1.0, 0.5, 0.2]), np.zeros(3))
    assert quiet["price"].rule == "not judged" and quiet["commutativity"].reason == "HC vanishes"
    basis = haar_rotation(4, np.random.default_rng(0))[:, :2]
    singular = checks(np.diag([4.0, 3.0, 2.0, 1.0]), basis @ basis.T)
    assert "singular" in singular["price"].reason
    assert set(MATRICES) <= set(RULES)


def test_every_demand_has_a_published_reason():
    assert set(REASONS) == {name for name, rule in RULES.items() if rule.cost}
    shown = (PUBLISHED / "report.md").read_text(encoding="utf-8")
    assert all(f"| {name.replace('_', chr(92) + '_')} |" in shown for name in REASONS)


def test_published_calibration_is_of_two_thousand_cases_each_and_says_what_is_left_out():
    verdicts = {verdict.claim: verdict for verdict in read_folder(PUBLISHED)}
    assert set(verdicts) == {claim.name for claim in CLAIMS}
    for verdict in verdicts.values():
        assert verdict.outcome.value == "supported" and verdict.interval[1] <= 0.05
        assert "of 2000" in verdict.note
        assert "Tops flatter than a decade are left out" in str(verdict.results)
    again = CLAIMS[0].judge({EXPERIMENT: read_evidence(PUBLISHED)[0]})
    assert again.estimate == verdicts[CLAIMS[0].name].estimate


def test_a_case_of_the_calibration_is_a_function_of_its_number():
    setting = GateCalibration(cases=6, draws=99)
    measured, arrays = run(setting, 3, lambda share: None)
    assert measured == {"cases": 6}
    assert arrays["rotated_price"][4] == case("rotated", 4, 3, 99)["price"]
    assert (arrays["rotated_top"] == OUTCOMES.index(Commuting.ROTATED)).mean() > 0.5
    assert (arrays["commuting_top"] == OUTCOMES.index(Commuting.ROTATED)).sum() == 0


@pytest.fixture
def files(tmp_path):
    for name, rotated in (("good", False), ("bad", True)):
        hessian, noise = pair(rotated=rotated)
        np.save(tmp_path / f"h_{name}.npy", hessian)
        np.save(tmp_path / f"c_{name}.npy", noise)
    return tmp_path


def arguments(folder, name, *more):
    return [
        "gate",
        "--hessian",
        f"{folder}/h_{name}.npy",
        "--noise",
        f"{folder}/c_{name}.npy",
        "--momentum",
        "0.9",
        *more,
    ]


def test_the_command_gates_files_with_junit_and_exit_statuses(files, capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    junit = files / "gate.xml"
    rate = ("--learning-rate", "0.1", "--junit", str(junit), "--summary", str(files / "gate.md"))
    assert main(arguments(files, "good", *rate)) == 0
    assert "stability" in capsys.readouterr().out
    assert main(arguments(files, "bad", *rate)) == 1
    cases = ElementTree.parse(junit).getroot().findall(".//testcase")
    failed = {case.attrib["name"].split()[0] for case in cases if case.find("failure") is not None}
    assert failed == {"commutativity", "commutativity_deflated", "commutativity_top", "alignment"}
    assert (files / "gate.md").read_text().count("### Spikeshrink gate") == 2
    assert main(arguments(files, "good", "--learning-rate", "100")) == 1
    assert main(arguments(files, "bad", "--learning-rate", "0.1", "--require", "stability<1")) == 0
    assert main(arguments(files, "good", "--learning-rate", "0.1", "--require", "commutativity>=1.5")) == 1
    quiet = files / "c_quiet.npy"
    np.save(quiet, np.zeros(20))
    noiseless = ["gate", "--hessian", f"{files}/h_good.npy", "--noise", str(quiet), "--learning-rate", "0.1"]
    assert main([*noiseless, "--require", "price<=0.1"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--learning-rate", "0.1", "--require", "prise<=0.1"], "compares stability"),
        (["--learning-rate", "0.1", "--require", "lag-one"], "compares stability"),
        (["--learning-rate", "0.1", "--require", "price<=cheap"], "with a number"),
        (["--learning-rate", "0.1", "--k", "1"], "integer >= 2"),
        (["--learning-rate", "-1"], "learning_rate"),
        ([], "needs --learning-rate"),
        (["--learning-rate", "0.1", "OUT"], "got both"),
    ],
)
def test_what_is_wrong_is_one_line(files, capsys, change, message):
    assert main(arguments(files, "good", *change)) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1


def test_files_that_are_no_problem_are_one_line(files, capsys):
    (files / "text.npy").write_text(json.dumps([1, 2]))
    np.save(files / "asymmetric.npy", np.triu(np.ones((20, 20))))
    for hessian, message in (("nowhere.npy", "nowhere.npy"), ("text.npy", "text.npy"), ("asymmetric.npy", "symmetric")):
        words = ["gate", "--hessian", str(files / hessian), "--noise", f"{files}/c_good.npy", "--learning-rate", "0.1"]
        assert main(words) == 2
        said = capsys.readouterr().err.strip()
        assert message in said and len(said.splitlines()) == 1
    assert main(["gate"]) == 2 and "got neither" in capsys.readouterr().err
