"""The sequential mode: what it judges, its stopping rule, and decoys that it cannot drop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from theory import until_decided
from theory.__main__ import main
from theory.claims import CLAIMS, EXPERIMENTS
from theory.claims.stationary import state_covariance
from theory.closed_form.eigenbasis import eigenbasis
from theory.judge.evidence import read_evidence
from theory.judge.verdict import Outcome, exit_status, read_verdicts
from theory.until_decided import Course, batch_seed, decide, plan, verify_until_decided

REGISTER = {claim.name: claim for claim in CLAIMS}


@pytest.fixture
def small(monkeypatch):
    """Batches of 4,096 replicas: enough for errors of a tenth."""
    monkeypatch.setattr(until_decided, "BATCH", 2**12)


def run(claim, out, seed=3, most_batches=40, **changes):
    changed = replace(claim, detects=0.2, **changes)
    (verdict,) = verify_until_decided(
        [changed], EXPERIMENTS, out, seed=seed, named=True, most_batches=most_batches, show=False
    )
    return verdict


def off_diagonal_momentum_times_five(simulation):
    """(S2) with 5 μ (aᵢ − aⱼ)² in Dᵢⱼ, in the weights of heavy ball; the diagonal is untouched."""
    law = state_covariance(simulation)
    optimizer, frame = simulation.segments[0].optimizer, eigenbasis(simulation.problem)
    mu, a = optimizer.momentum, optimizer.learning_rate * frame.curvatures
    shared = 0.5 * (1 - mu) ** 2 * (np.multiply.outer(a, 2 * (1 + mu) - a) + np.multiply.outer(2 * (1 + mu) - a, a))
    apart = mu * np.subtract.outer(a, a) ** 2
    m = simulation.problem.dimension
    inside = frame.basis.T @ law[:m, :m] @ frame.basis
    wrong = law.copy()
    wrong[:m, :m] = frame.basis @ (inside * (shared + apart) / (shared + 5 * apart)) @ frame.basis.T
    return wrong


def test_a_wrong_entry_off_the_diagonal_is_refuted(tmp_path, monkeypatch):
    monkeypatch.setattr(until_decided, "BATCH", 2**16)
    claim = REGISTER["stationary-general"]
    simulation = plan(claim).simulations[0]
    basis, m = eigenbasis(simulation.problem).basis, simulation.problem.dimension
    right, wrong = state_covariance(simulation)[:m, :m], off_diagonal_momentum_times_five(simulation)[:m, :m]
    assert np.allclose(np.diag(basis.T @ right @ basis), np.diag(basis.T @ wrong @ basis)), "no variance gives it away"

    def one_problem_wrong(asked):
        return off_diagonal_momentum_times_five(asked) if asked == simulation else state_covariance(asked)

    verdict = run(claim, tmp_path, most_batches=6, predict=one_problem_wrong)
    assert verdict.outcome is Outcome.REFUTED and exit_status([verdict]) == 1


def test_the_right_formula_is_supported_with_every_decoy_refuted(tmp_path, small):
    claim = REGISTER["stationary-general"]
    decoys = {name: rule for name, rule in claim.decoys.items() if "1 %" not in name}  # needs 2 million replicas
    verdict = run(claim, tmp_path, decoys=decoys)
    assert verdict.outcome is Outcome.SUPPORTED
    assert {decoy.name: decoy.outcome for decoy in verdict.decoys} == dict.fromkeys(decoys, Outcome.REFUTED)
    assert "H and C commute" in decoys, "the decoy that leaves every variance as it is"
    assert verdict.num_tests == 4 * (12 + 12 * 11) <= claim.num_tests
    assert "every entry of the covariance of weights and velocity" in verdict.note and verdict.subject
    # Recorded batches are read back: the same verdict without a new run.
    files = sorted((tmp_path / "evidence").rglob("*.json"))
    again = run(claim, tmp_path, decoys=decoys)
    assert again == verdict and sorted((tmp_path / "evidence").rglob("*.json")) == files


def test_a_decoy_that_cannot_be_told_from_the_claim_never_leaves_it_supported(tmp_path, small):
    claim = REGISTER["stationary-diagonal"]
    decoys = {"eigenvalues of C paired in order": claim.decoys["eigenvalues of C paired in order"]}
    assert run(claim, tmp_path / "a", decoys=decoys).outcome is Outcome.SUPPORTED
    # Same diagonal, other entries off it: nothing that this claim's mode looks along.
    verdict = run(claim, tmp_path / "b", decoys={**decoys, "off the diagonal": state_covariance})
    assert verdict.outcome is Outcome.INCONCLUSIVE and exit_status([verdict]) == 3
    assert "nothing judged here tells the claim from the decoy off the diagonal" in verdict.note
    assert [decoy.name for decoy in verdict.decoys] == [*decoys, "off the diagonal"]
    assert verdict.reached < 40 * 2**12, "it does not wait for what cannot be decided"


def test_batches_of_neighbouring_root_seeds_share_nothing(tmp_path, small):
    seeds = [{batch_seed(s, batch, problem) for batch in range(400) for problem in range(4)} for s in (3, 4)]
    assert all(len(one) == 1600 and max(one) < 2**63 for one in seeds) and not seeds[0] & seeds[1]
    moments = {}
    for seed in (3, 4):
        claim = REGISTER["stationary-diagonal"]
        run(claim, tmp_path / str(seed), seed=seed, most_batches=3)
        for evidence in read_evidence(tmp_path / str(seed)):
            moments[seed, evidence.run_id] = evidence.arrays["second"].tobytes()
    assert len(moments) == 6 == len(set(moments.values()))


def test_verdicts_of_the_mode_stand_beside_those_of_the_register(tmp_path, small, monkeypatch, capsys):
    monkeypatch.setattr(until_decided, "MOST_BATCHES", 2)
    out = str(tmp_path / "out")
    assert main(["verify", "--claims", "impulse-response", "--out", out]) == 0
    monkeypatch.setattr(verify_until_decided, "__kwdefaults__", {"most_batches": 2, "show": True})
    assert main(["verify", "--claims", "stationary-diagonal", "--until-decided", "--out", out]) == 3
    shown = capsys.readouterr()
    assert "stationary-diagonal" in shown.out and "weight variances" in shown.out
    kept = read_verdicts(tmp_path / "out" / "verdicts.json")
    assert [(one.claim, one.outcome.value) for one in kept] == [
        ("impulse-response", "supported"),
        ("stationary-diagonal", "inconclusive"),
    ]


# The rule itself, on χ² draws.


def follow(rng, truth, looks=120, batch=500, detects=0.2, alpha=0.02):
    """A course on draws whose true over predicted variances are `truth`; outcome and replicas used."""
    course, total = Course(np.ones(len(truth)), detects, alpha), np.zeros(len(truth))
    for look in range(1, looks + 1):
        total += truth * rng.chisquare(batch, len(truth))
        course.look(total / (look * batch), look * batch)
        if course.outcome is not None:
            return course.outcome, look * batch
    return None, looks * batch


def test_every_direction_must_be_confirmed_and_one_contradiction_is_enough():
    count = 4000
    low, high = until_decided._reach(count, 0.02)
    course = Course(np.ones(2), 0.2, 0.02)
    across = 0.999 / low  # holds 1, and reaches beyond 1.2
    assert 1 / 1.2 < low and high < 1.2 < across * high
    course.look(np.array([1.0, across]), count)
    assert course.outcome is None, "one direction is confirmed, the other is not"
    course.look(np.array([1.0, 1.01 / low]), count)
    assert course.outcome is Outcome.REFUTED
    course.look(np.ones(2), 10 * count)
    assert course.outcome is Outcome.REFUTED, "a decision is final"
    impossible = Course(np.array([1.0, -1.0]), 0.2, 0.02)
    impossible.look(np.ones(2), count)
    assert impossible.outcome is Outcome.REFUTED


def test_the_rule_keeps_its_level_and_has_its_power():
    rng = np.random.default_rng(5)
    runs, directions, alpha = 600, 3, 0.02
    most_wrong = stats.binom.ppf(1 - 1e-6, runs, directions * alpha)
    right = [follow(rng, np.ones(directions))[0] for _ in range(runs)]
    assert right.count(Outcome.REFUTED) <= most_wrong
    assert right.count(Outcome.SUPPORTED) == runs - right.count(Outcome.REFUTED), "a true prediction ends supported"
    for error in (1.2, 1 / 1.2):  # the error that the claim detects, in one direction of three
        wrong = [follow(rng, np.array([1.0, error, 1.0])) for _ in range(runs)]
        outcomes = [outcome for outcome, _ in wrong]
        assert outcomes.count(Outcome.SUPPORTED) <= stats.binom.ppf(1 - 1e-6, runs, alpha)
        assert outcomes.count(Outcome.REFUTED) == runs - outcomes.count(Outcome.SUPPORTED), "a false one ends refuted"
    early = np.mean([count for _, count in [follow(rng, np.array([1.0, 1.5, 1.0])) for _ in range(100)]])
    late = np.mean([count for _, count in wrong])
    assert early < late / 2, "a larger error takes fewer replicas"


def test_only_what_can_be_decided_is_taken(tmp_path):
    with pytest.raises(ValueError, match=r"takes stationary-commuting, .*; got lag-one"):
        verify_until_decided([REGISTER["lag-one"]], EXPERIMENTS, tmp_path / "o", seed=1, named=True)
    assert not (tmp_path / "o").exists()
    claim = REGISTER["stationary-diagonal"]
    other = plan(REGISTER["stationary-commuting"])
    with pytest.raises(ValueError, match="another setting"):
        decide(claim, plan(claim), [[fake(other)]])


def fake(planned):
    from theory.judge.evidence import Evidence

    return Evidence(experiment="x", setting=planned.simulations[0].to_dict(), seed=0, measured={})
