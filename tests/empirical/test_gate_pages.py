"""The tutorial's snippets and commands in the order of reading, and the notebook, run as they are written."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from spikeshrink import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorials" / "gate.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples" / "gate.ipynb"


def test_the_tutorial_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    blocks = re.findall(r"```(python|bash|toml)\n(.*?)```", PAGE, re.DOTALL)
    names, commands, waiting = {}, 0, []

    def run(command):
        words = command.strip().replace("\\\n", " ")
        assert main(shlex.split(words)[1:]) == 0, f"{command}\n{capsys.readouterr()}"

    for number, (language, text) in enumerate(blocks):
        if number == 1:
            assert "Write this to `mine.py`" in PAGE[: PAGE.index(text)]
            (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"gate.md, block {number}", "exec"), names)
            while waiting:  # commands whose weights this block has written
                run(waiting.pop())
        elif language == "toml":
            (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        elif text.startswith("spikeshrink"):
            commands += 1
            if "torch.save" in PAGE[PAGE.index(text) :] and not (tmp_path / "weights.pt").exists():
                waiting.append(text)
            else:
                run(text)
    assert commands == 2 and not waiting
    assert (tmp_path / "gate.xml").exists() and (tmp_path / "gate.md").exists()
    assert names["report"].stability.supported and names["stopped"] == [False, False]


def test_every_check_is_in_the_tutorials_table():
    from theory.assumptions import RULES

    shown = set(re.findall(r"`([a-z_]+)`", "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))))
    reported = {"shuffling", "underdamped", "relaxation", "batch_sharpness_attacked", "batch_sharpness_train"}
    assert set(RULES) - reported == shown


@pytest.mark.slow
def test_the_notebook_runs_as_written(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert all(not cell.get("outputs") for cell in book.cells), "outputs are made, not kept"
    done = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    printed = "".join(out.get("text", "") for cell in done.cells for out in cell.get("outputs", []))
    assert printed.startswith("assumptions: ") and "stability" in printed and "permutations" in printed


def test_the_workflow_to_copy_has_summary_and_upload():
    yaml = pytest.importorskip("yaml")
    flow = yaml.safe_load((ROOT / "examples" / "gate.yml").read_text())
    steps = flow["jobs"]["gate"]["steps"]
    command = next(step["run"] for step in steps if "spikeshrink gate" in step.get("run", ""))
    upload = next(step for step in steps if step.get("uses", "").startswith("actions/upload-artifact"))
    # The command appends its table to $GITHUB_STEP_SUMMARY by itself: `test_the_summary_is_appended_where_ci_asks`.
    assert "--junit gate.xml" in command and upload["with"]["path"] == "gate.xml" and upload["if"] == "always()"
