"""Claims of one's own: the page that says how, entry points, modules, files, and what cannot be registered."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import theory.register
from theory.__main__ import main
from theory.claims import CLAIMS
from theory.judge.verdict import Outcome, read_verdicts
from theory.register import GROUP, register

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add_a_claim.md").read_text(encoding="utf-8")


def example():
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture
def file(tmp_path):
    yield write(tmp_path / "short_walk.py", example())
    for name in [name for name in sys.modules if name.startswith("spikeshrink_register_")]:
        del sys.modules[name]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_pages_example_runs_as_the_page_says(file, tmp_path):
    code = [line for line in example().splitlines() if line.strip()]
    assert len(code) <= int(re.search(r"in (\d+) lines", PAGE).group(1))
    command = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL).group(1).split()
    assert command[:3] == ["python", "-m", "theory"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    shown = re.search(r"^short-walk +supported .* 2/2$", done.stdout, re.MULTILINE)
    assert shown, done.stdout
    (verdict,) = read_verdicts(tmp_path / "short-walk" / "verdicts.json")
    assert verdict.outcome is Outcome.SUPPORTED and verdict.required == pytest.approx(106_000, rel=0.01)
    again = re.search(r"`(python -m theory rejudge [^`]*)`", PAGE).group(1).split()
    done = subprocess.run(
        [sys.executable, *again[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "1 the same" in done.stdout and "other code" not in done.stdout, done.stdout


def test_a_wrong_formula_of_ones_own_is_refuted(file, tmp_path, capsys):
    text = example().replace("setting.rate**2 * setting.noise * (1", "1.05 * setting.rate**2 * setting.noise * (1")
    wrong = write(tmp_path / "wrong_walk.py", text)
    out = tmp_path / "out"
    assert main(["verify", "--register", str(wrong), "--claims", "short-walk", "--out", str(out)]) == 1
    assert "refuted" in capsys.readouterr().out


def test_a_file_is_loaded_from_where_it_is_and_replaces_nothing(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "numpy.py", "raise SystemExit('the working folder was imported')")
    before = list(sys.path)
    found = register([str(file), str(file)])
    assert found.claims[-1].name == "short-walk" and len(found.claims) == len(CLAIMS) + 1 and sys.path == before
    other = write(tmp_path / "json.py", example().replace("short-walk", "other-walk"))
    assert register([str(file), str(other)]).claims[-1].name == "other-walk"
    assert json.__file__ != str(other) and sys.modules["json"] is json
    assert main(["claims", "--register", str(file), "--json"]) == 0
    assert "short-walk" in [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_a_module_is_imported_as_python_imports_it(file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`--register short_walk_module` cannot be loaded: ModuleNotFoundError"):
        register(["short_walk_module"])
    write(tmp_path / "short_walk_module.py", example())
    monkeypatch.syspath_prepend(tmp_path)
    assert register(["short_walk_module"]).claims[-1].name == "short-walk"
    sys.modules.pop("short_walk_module")


class Point:
    """An entry point that a package might have."""

    def __init__(self, loaded, name="walks"):
        self.name, self.value, self._loaded = name, f"{name}:value", loaded

    def load(self):
        if isinstance(self._loaded, BaseException):
            raise self._loaded
        return self._loaded


def test_installed_packages_register_through_entry_points(file, monkeypatch, capsys):
    module = theory.register._load(str(file))
    points = [Point(module)]

    def entry_points(*, group):
        assert group == GROUP
        return points

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert register().claims[-1].name == "short-walk"
    points[:] = [Point(RuntimeError("broken\npackage"))]
    assert main(["claims"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and f"entry point 'walks' of {GROUP} cannot be loaded: RuntimeError: broken" in shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("", ""), "must name each claim once"),  # the same file under another name
        (("CLAIMS = (", "OTHERS = ("), "must export CLAIMS, a tuple of Claim; got NoneType"),
        (("EXPERIMENTS = (", "EXPERIMENTS = (3,) + ("), "must export EXPERIMENTS, a tuple of Experiment; got tuple"),
        (('name="short-walk",\n    statement', 'name="lag-one",\n    statement'), "twice: ['lag-one']"),
        (('Experiment(name="short-walk"', 'Experiment(name="stationary-general"'), "must name each experiment once"),
        (('experiments=("short-walk",)', 'experiments=("long-walk",)'), "unknown: ['long-walk']"),
        (("detects=0.05", "detects=0.05, num_tests=9999"), "room for 10000 tests"),
        ((" detects=0.05,", ""), "detects=...)` must be declared"),
        (('Experiment(name="short-walk"', 'Experiment(name="../walk"'), "must be a folder name"),
        (("import numpy as np", "import numpyy as np"), "ModuleNotFoundError"),
        (("import numpy as np", "import numpy as np; 1 / 0"), "ZeroDivisionError"),
        (("import numpy as np", "import numpy as np ("), "SyntaxError"),
    ],
)
def test_what_cannot_be_registered_is_said_in_one_line(file, tmp_path, capsys, change, words):
    bad = write(tmp_path / "bad_walk.py", example().replace(*change) if change[0] else example())
    named = ["--register", str(bad)] if change[0] else ["--register", str(file), "--register", str(bad)]
    assert main(["verify", *named, "--claims", "short-walk", "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "--register" in shown.err
    assert words in shown.err
    assert not (tmp_path / "out").exists()


def test_files_that_are_none_are_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo.py")
    for name in ("none.py", "fifo.py"):
        assert main(["claims", "--register", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
