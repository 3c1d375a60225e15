"""The digest of the measuring code changes with all that measures, and with nothing else."""

from __future__ import annotations

import functools
import importlib
import sys

import pytest

from theory.claims import EXPERIMENTS
from theory.judge import sources
from theory.judge.sources import measuring_code

MODULE = '''
"""An experiment beside its prediction."""
import functools
from helper import draw as take
from theory import Quadratic

SIDES = 6


def predict(setting):
    return 3.5


def middle(values):
    return sum(values) / len(values)


class Setting:
    scale = SIDES


def run(setting, seed, progress):
    import deeper
    return {"mean": middle(take(Setting.scale))}, {}


def outer(shift):
    def run(setting, seed, progress):
        return {"mean": middle([shift])}, {}
    return run


class Runner:
    def __call__(self, setting, seed, progress):
        return run(setting, seed, progress)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module of a user's own with two helpers; `edit` changes one file and gives the digest of a run in it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text("def draw(n):\n    return [n]\n\n\ndef throw(n):\n    return [n]\n")
    for name in ("mine", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    mine = importlib.import_module("mine")

    def edit(name, old, new, run=None):
        path = tmp_path / name
        if old:
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))
        forget()
        return measuring_code(run or mine.run)

    yield edit, mine
    forget()
    for name in ("mine", "helper"):
        sys.modules.pop(name, None)


def forget():
    sources._module.cache_clear()
    measuring_code.cache_clear()


def test_the_runs_own_code_counts_and_predictions_beside_it_do_not(package):
    edit, _ = package
    base = edit("mine.py", "", "")
    assert edit("mine.py", "return 3.5", "return 3.6") == base, "a prediction does not measure"
    assert edit("mine.py", "", "") == base
    seen = {base}
    for old, new in (
        ("/ len(values)", "/ (1 + len(values))"),  # a helper
        ("SIDES = 6", "SIDES = 8"),  # a constant, through a class
        ("scale = SIDES", "scale = SIDES + 1"),
        ("import deeper", "import deeper2"),
        ("draw as take", "throw as take"),  # the same local name for another function
    ):
        found = edit("mine.py", old, new)
        assert found not in seen, f"{old} -> {new}"
        seen.add(found)


def test_all_kinds_of_callables_are_followed(package):
    edit, mine = package
    kinds = [mine.run, mine.outer(2.0), functools.partial(mine.run, progress=None), mine.Runner()]
    kinds.append(functools.partial(mine.outer, mine.run))
    before = [measuring_code(kind) for kind in kinds]
    edit("mine.py", "/ len(values)", "/ (1 + len(values))")
    assert all(measuring_code(kind) != old for kind, old in zip(kinds, before, strict=True))
    with pytest.raises(ValueError, match="must stand in a source file"):
        measuring_code(len)


def walked(run):
    walk = sources._Walk()
    for function in sources._functions(run):
        walk.start(function)
    return walk.found


def test_a_users_run_is_followed_into_the_library(package):
    _, mine = package
    assert "theory.model.quadratic" not in walked(mine.run), "imported, and not used by the run"
    found = walked(next(one.run for one in EXPERIMENTS if one.name == "stationary-general"))
    assert {"theory.oracle.simulate", "theory.oracle.portable", "theory.model.noise"} <= set(found)
    assert "theory.claims.moments:_run_simulation:0" in found


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_what_the_registers_experiments_reach_measures_and_does_not_predict(experiment):
    found = walked(experiment.run)
    modules = {name for name in found if ":" not in name}
    assert any(name.startswith("theory.oracle.") for name in modules), "nothing measures"
    predicting = {
        name for name in modules if name.startswith(("theory.closed_form", "theory.claims", "theory.judge.c"))
    }
    assert not predicting
    assert not [name for name in found if ":compare" in name or ":_compare" in name or ":CLAIMS" in name]
