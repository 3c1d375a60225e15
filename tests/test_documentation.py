"""What README and documentation show is what happens: every snippet runs, every command parses, every label resolves.

A page is one session in a folder of its own: its blocks run in their order, Python in one namespace, commands in bash.
A comment above a block says what else there is to know:

    <!-- file: NAME -->       the block is written to NAME first (and, if it is Python, run as well)
    <!-- exit: N -->          its last command ends with that status
    <!-- not run: WHY -->     too dear or of another machine; its commands are still held against the parsers
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from reports.equations import EQUATIONS, cited

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
#: Pages whose snippets need what only their own test gives.
ELSEWHERE = {"docs/tutorials/gate.md": "tests/empirical/test_gate_pages.py"}
SHOWN_ONLY = ("text", "toml", "yaml", "json", "csv", "")
BLOCK = re.compile(
    r"(?P<marks>(?:^[ ]*<!--[^>]*-->\n)*)^(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
SHIM = "#!/bin/sh\nexec {python} -c 'import sys; from spikeshrink import main; sys.exit(main())' \"$@\"\n"


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    file: str
    status: int
    not_run: str


def blocks(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        marks = dict(re.findall(r"<!-- (file|exit|not run): (.*?) -->", match["marks"]))
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        found.append(
            Block(match["language"], text, marks.get("file", ""), int(marks.get("exit", 0)), marks.get("not run", ""))
        )
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runnable(page: Path) -> bool:
    alive = any(block.language in ("bash", "python", "pycon") and not block.not_run for block in blocks(page))
    return alive and name(page) not in ELSEWHERE


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
def test_every_snippet_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    shim = tmp_path / "bin" / "spikeshrink"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(python=shlex.quote(sys.executable)))
    shim.chmod(0o755)
    python = shim.with_name("python")
    python.symlink_to(sys.executable)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    environment = {
        **os.environ,
        "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    names: dict = {"__name__": "__main__", "CHECKOUT": ROOT}
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.not_run or block.language in SHOWN_ONLY:
            continue
        if block.language == "python":
            exec(compile(block.text, name(page), "exec"), names)
        elif block.language == "pycon":
            told = io.StringIO()
            case = doctest.DocTestParser().get_doctest(block.text, names, name(page), None, 0)
            with contextlib.redirect_stdout(told):
                failures = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(case, clear_globs=False).failed
            assert failures == 0, told.getvalue()
            names.update(case.globs)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=work,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == block.status, f"{block.text}\n{done.stdout}\n{done.stderr}"
        else:
            pytest.fail(f"{name(page)}: nothing runs a block of {block.language!r}; say `text` if it is only shown")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_every_notebook_runs_and_is_kept_without_outputs(notebook, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="notebooks run with nbclient: install the group `tests`")
    nbclient = pytest.importorskip("nbclient", reason="notebooks run with nbclient: install the group `tests`")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 50_000 and not any(cell.get("outputs") for cell in json.loads(text)["cells"])
    nbclient.NotebookClient(
        nbformat.reads(text, as_version=4), timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


# -- commands that are not run, and commands in running text -----------------------------------------------------------


def command_lines(page: Path) -> list[list[str]]:
    """Every `spikeshrink`, `python -m` and `nox` command of a page, as words."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.text.splitlines()]
    lines += re.findall(r"`((?:spikeshrink|nox|python -m (?:theory|empirical|reports)) [^`]*)`", text)
    found = []
    for line in lines:
        for part in re.split(r"&&|\|\||[|;]", line.partition(" #")[0]):
            words = shlex.split(part)
            while words and (words[0] == "srun" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
                words = words[1:]
            if words[:1] in (["spikeshrink"], ["nox"]) or words[:2] == ["python", "-m"]:
                found.append(words)
    return found


def parsed(words: list[str]) -> None:
    """Raise if the words are not a command's."""
    from spikeshrink import PROGRAMS
    from theory.judge.front import command_line

    modules = {"theory": "theory", "empirical": "empirical", "report": "reports", "reports": "reports"}
    rest = words[1:] if words[0] == "spikeshrink" else words[2:]
    if rest[:1] in (["completion"], ["--version"]) or any(word in ("…", "...", "--help") for word in rest):
        return
    if rest[0] == "tests.benchmarks":
        importlib.import_module("tests.benchmarks.__main__").parser().parse_args(rest[1:])
        return
    if rest[0] in ("gate", "doctor"):
        rest = ["empirical", *rest]
    program = importlib.import_module(f"{modules[rest[0]]}.__main__")
    assert rest[0] in (*PROGRAMS, "reports")
    if len(rest) > 1 and not any(word.isupper() and word.isalpha() for word in rest):  # FOLDER stands for one
        command_line("x", "", program.COMMANDS, chosen=rest[1]).parse_args(rest[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_on_a_page_is_one_that_its_program_takes(page):
    sessions = set(re.findall(r"^@nox\.session[^\n]*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    for words in command_lines(page):
        if words[0] == "nox":
            named = words[words.index("-s") + 1 :] if "-s" in words else []
            named = named[: named.index("--")] if "--" in named else named
            assert set(named) <= sessions, words
            continue
        try:
            parsed(words)
        except SystemExit:
            pytest.fail(f"{name(page)}: {shlex.join(words)} is refused by its own parser")


def test_what_is_not_run_says_why_and_is_little():
    skipped = {name(page): [block for block in blocks(page) if block.not_run] for page in PAGES}
    assert all(len(block.not_run) > 10 for members in skipped.values() for block in members)
    tutorials = {f"docs/tutorials/{page}.md" for page in ("cluster", "gpu", "gate")}
    allowed = {"README.md", "CONTRIBUTING.md"} | tutorials
    assert {page for page, members in skipped.items() if members} <= allowed


def test_the_readmes_test_command_is_what_ci_runs():
    commands = [" ".join(words) for words in command_lines(ROOT / "README.md") if words[0] == "nox"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert {"nox -s theory", "nox -s tests"} <= set(commands)
    assert all(f"\n{command}\n" in f"{ci}\n" for command in ("nox -s theory", "nox -s tests", "nox -s docs"))


def test_the_readme_is_a_page_and_says_what_its_words_mean():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not [word for word in ("χ", "cᵢ", "slots") if word in prose]
    assert "nats" not in prose or "nats, the unit of cross-entropy" in prose
    assert all(f"({label}) {EQUATIONS[label].title}" in prose for label in cited(prose))


# -- labels, links, names ----------------------------------------------------------------------------------------------


def strings(path: Path) -> list[str]:
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_every_label_that_code_cites_is_derived_on_the_page_and_back():
    page = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\$\$\n(.*) \\tag\{(\w+)\}\n\$\$$", page, re.MULTILINE))
    assert {label: latex for latex, label in shown.items()} == {
        label: equation.latex for label, equation in EQUATIONS.items()
    }
    assert page.count(r"\tag{") == len(EQUATIONS)
    code = [path for room in ("theory", "empirical", "reports") for path in (ROOT / room).rglob("*.py")]
    used = {
        label: path for path in code if path.name != "equations.py" for text in strings(path) for label in cited(text)
    }
    assert {label: name(path) for label, path in used.items() if label not in EQUATIONS} == {}
    assert set(EQUATIONS) - set(used) == set(), "an equation that nothing cites"


def test_a_module_that_cites_its_own_number_has_it():
    for path in (ROOT / "theory" / "closed_form").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = set(re.findall(r"\((\d)\)", ast.get_docstring(tree) or ""))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                said = {
                    n
                    for part in re.findall(r"equations? ((?:\(\d\)(?:,? (?:and )?)?)+)", text)
                    for n in part
                    if n.isdigit()
                }
                assert said <= own, f"{name(path)}: {node.name} cites {said - own}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_inside_the_repository_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    generated = {DOCS / "commands.md", DOCS / "reports" / "index.html", DOCS / "tutorials" / "gate.md"}
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            path = (page.parent / target).resolve()
            built = path.name == "index.html" and path.with_name("verdicts.json").exists()
            if target.startswith("../../actions/"):  # of the repository's site
                continue
            assert path.exists() or path in generated or built or path == ROOT / "reports/published/index.html", target


def test_every_public_name_stands_in_the_reference():
    import empirical
    import theory

    listed = set(
        re.findall(r"^        - (\w+)$", "".join(p.read_text() for p in DOCS.glob("reference/*.md")), re.MULTILINE)
    )
    assert listed == {*theory.__all__, *empirical.__all__}
    for page in DOCS.glob("reference/*.md"):
        for module, members in re.findall(
            r"^::: ([\w.]+)\n    options:\n      members:\n((?:        - \w+\n?)+)", page.read_text(), re.MULTILINE
        ):
            home = importlib.import_module(module)
            assert all(hasattr(home, member) for member in re.findall(r"- (\w+)", members)), module


def test_the_modules_that_pages_name_exist():
    for page in PAGES:
        for dotted in re.findall(r"`((?:theory|empirical|reports)(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
            path = ROOT.joinpath(*dotted.split("."))
            parent, _, member = dotted.rpartition(".")
            known = path.is_dir() or path.with_suffix(".py").is_file() or dotted.endswith(".py")
            assert known or hasattr(importlib.import_module(parent), member), f"{name(page)}: {dotted}"


@pytest.mark.parametrize("module", ["theory", "empirical", "reports"])
def test_examples_in_docstrings_are_true(module):
    for path in (ROOT / module).rglob("*.py"):
        if ">>>" in path.read_text(encoding="utf-8"):
            found = importlib.import_module(
                ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            )
            assert doctest.testmod(found).failed == 0, path
