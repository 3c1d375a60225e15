"""The table of mutants is in step with the sources: every passage is there, once, and what must see it exists."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mutants
from simulator_mutants import MUTANTS as SIMULATOR

FORMULAS = [mutant for mutant in mutants.MUTANTS if mutant.file.startswith("theory/closed_form/")]


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in mutants.MUTANTS}))
def test_every_passage_stands_in_its_file_exactly_once(file):
    text = (mutants.ROOT / file).read_text(encoding="utf-8")
    for mutant in mutants.MUTANTS:
        if mutant.file == file:
            assert text.count(mutant.old) == 1, mutant.old
            assert mutant.new != mutant.old


def test_every_mutant_changes_something_else():
    changes = [(mutant.file, mutant.old, mutant.new) for mutant in mutants.MUTANTS]
    assert len(set(changes)) == len(changes) >= 150


def test_the_tests_that_must_notice_exist():
    for named in {named for mutant in mutants.MUTANTS for named in mutant.tests.split()}:
        path, _, test = named.partition("::")
        assert (mutants.ROOT / path).is_file(), path
        assert f"def {test}" in (mutants.ROOT / path).read_text(encoding="utf-8"), named


#: Sources whose mutants the tests alone must see, by the start of their path, and why.
TESTS_ALONE = {
    "theory/claims/": "what is claimed, and what compares: a verdict cannot be its own witness",
    "theory/judge/": "decides, and computes no result",
    "theory/model/": "refuses wrong settings",
    "theory/register": "reads claims",
    "theory/until_decided": "a second judge",
    "theory/verification": "runs the judge",
    "theory/closed_form/outside": "what untracked directions add to tracked ones, to first order: no exact claim",
}


#: Passages elsewhere that the tests alone must see, and why.
NO_CLAIM = {
    "slopes = law.slopes + law.curvatures @ mean": "beyond the order that is claimed",
    "    if not radius < 1:": "refuses unstable input, for which no claim asks",
    **{
        old: "draws, threads and starts of the simulator, which no claim sees"
        for _, old, _, claims in SIMULATOR
        if not claims
    },
}


def test_what_changes_a_public_result_is_put_before_claims_and_the_rest_says_why_not():
    from theory.claims import CLAIMS
    from theory.judge.verdict import Kind

    names = {claim.name for claim in CLAIMS if claim.kind is not Kind.HYPOTHESIS}
    for mutant in mutants.MUTANTS:
        claims = set(mutants.claims_on(mutant).split(",")) - {""}
        assert claims <= names, mutant.file
        alone = mutant.file.startswith(tuple(TESTS_ALONE)) or mutant.old in NO_CLAIM
        assert (mutant.by == "tests") == alone == (not claims), (mutant.file, mutant.old)


def test_the_formulas_are_judged_by_exact_claims_each():
    from theory.claims import CLAIMS
    from theory.judge.verdict import Kind

    exact = {claim.name for claim in CLAIMS if claim.kind is Kind.IDENTITY and claim.detects is None}
    for mutant in FORMULAS:
        if mutant.by == "both":
            assert set(mutants.claims_on(mutant).split(",")) <= exact, mutant.file


@pytest.mark.parametrize(
    ("codes", "status", "said"),
    [
        ({"pytest": 1, "broken": 1}, 0, "tests killed, claims killed"),
        ({"pytest": 1, "broken": 3}, 0, "tests killed, claims killed"),
        ({"pytest": 1, "broken": 0}, 1, "tests killed, claims survived"),
        ({"pytest": 0, "broken": 1}, 1, "tests survived, claims killed"),
        ({"pytest": 2, "broken": 1}, 2, "tests not run"),
        ({"pytest": 1, "sound": 1, "broken": 1}, 2, "claims not run"),
    ],
)
def test_both_must_see_a_mutant_of_a_formula(codes, status, said, monkeypatch, capsys, tmp_path):
    mutant = next(one for one in FORMULAS if mutants.claims_on(one))

    def ended(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
        broken = mutant.old not in (copy / mutant.file).read_text(encoding="utf-8")
        key = "pytest" if command[0] == "pytest" else "broken" if broken else "sound"
        return subprocess.CompletedProcess(command, codes.get(key, 0), stdout="", stderr="")

    def one_file(folder: str) -> Path:
        target = Path(folder) / mutant.file
        target.parent.mkdir(parents=True)
        shutil.copy(mutants.ROOT / mutant.file, target)
        return Path(folder)

    mutants.support.cache_clear()
    monkeypatch.setattr(mutants, "ended", ended)
    monkeypatch.setattr(mutants, "scratch_copy", one_file)
    monkeypatch.setattr(mutants, "MUTANTS", (mutant,))
    kept = tmp_path / "kept.json"
    monkeypatch.setattr(sys, "argv", ["mutants.py", "--jobs", "1", "--record", str(kept)])
    assert mutants.main() == status
    assert said in capsys.readouterr().out
    if status == 2:  # nobody knows who would have seen it
        assert not kept.exists()
        return
    (item,) = mutants.recorded(kept).values()
    saw = {who: f"{who} killed" in said for who in ("tests", "claims")}
    assert (item["seen_by_tests"], item["seen_by_verify"]) == (saw["tests"], saw["claims"])
    again = mutants.main()  # what was seen is asked no more
    assert (again, bool(capsys.readouterr().out)) == ((0, False) if status == 0 else (status, True))
    mutants.support.cache_clear()


#: Outcomes of the table, as `nox -s mutants -- --record FILE` keeps them.
STORED = mutants.ROOT / "reports" / "published" / "mutants" / "outcomes.json"


def test_stored_outcomes_are_of_the_table_and_all_were_seen():
    """Whoever was asked saw it: tests, and verify where a public result changes. Rows without an outcome are due."""
    table = {mutants.digest(mutants.asked(mutant)): mutant for mutant in mutants.MUTANTS}
    stored = mutants.recorded(STORED)
    for name, item in stored.items():
        words = {key: item[key] for key in mutants.asked(next(iter(mutants.MUTANTS)))}
        assert name == mutants.digest(words) and name in table, (item["file"], item["old"])
        assert item["seen_by_tests"] is True, (item["file"], item["new"])
        assert item["seen_by_verify"] is (True if item["by"] == "both" else None), (item["file"], item["new"])
        assert item["seconds"] > 0 and len(item["commit"]) == 40 and item["environment"]["numpy"]
    assert len(stored) >= 100
