"""The table of mutants is in step with the sources: every passage is there, once, and what must see it exists."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mutants

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
    for path in {path for mutant in mutants.MUTANTS for path in mutant.tests.split()}:
        assert (mutants.ROOT / path).is_file(), path
