"""The import rule of the house, read off the source, and proved by importing with torch forbidden."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Room -> packages of ours that it may import.
ALLOWED = {
    "theory/model": {"theory.model"},
    "theory/judge": {"theory.judge"},
    "theory/closed_form": {"theory.model", "theory.closed_form", "theory.solution"},
    "theory/oracle": {"theory.model", "theory.oracle", "theory.solution"},
    "theory": {"theory"},
    "empirical/settings": {"empirical.settings", "theory.model", "theory.judge"},
    "empirical/records": {"empirical.records", "empirical.settings", "theory.model", "theory.judge"},
    "empirical": {"empirical", "theory"},
    "empirical/commands": {"empirical", "theory", "reports"},
    "spikeshrink": {"spikeshrink", "theory", "empirical", "reports"},
    "reports": {"reports", "theory.judge", "empirical.records"},
}


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return names


def ours(name: str) -> bool:
    return name.split(".")[0] in {"theory", "empirical", "reports", "spikeshrink"}


@pytest.mark.parametrize("room", [room for room in ALLOWED if (ROOT / room).is_dir()])
def test_a_room_imports_only_what_it_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room} is empty"
    for path in files:
        deepest = max((r for r in ALLOWED if path.is_relative_to(ROOT / r)), key=len)
        if deepest != room:
            continue
        allowed = ALLOWED[room]
        for name in filter(ours, imported(path)):
            inside = any(name == one or name.startswith(f"{one}.") for one in allowed)
            parent = any(one.startswith(f"{name}.") for one in allowed)  # "from theory import model"
            assert inside or parent, f"{path.relative_to(ROOT)} imports {name}; {room} may import {sorted(allowed)}"


def test_closed_forms_and_oracles_do_not_see_each_other():
    for room, other in (("closed_form", "oracle"), ("oracle", "closed_form")):
        for path in (ROOT / "theory" / room).rglob("*.py"):
            seen = [name for name in imported(path) if name.startswith(f"theory.{other}")]
            assert not seen, f"{path.name} imports {seen}"


def test_theory_and_reports_never_name_torch():
    for package in ("theory", "reports"):
        for path in (ROOT / package).rglob("*.py"):
            heavy = {name for name in imported(path) if name.split(".")[0] in {"torch", "torchvision"}}
            assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}"


BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision"}:
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
import importlib
for module in %r:
    importlib.import_module(module)
"""


def run_without_torch(*modules):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED % (modules,)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_every_module_of_theory_imports_without_torch():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "theory").rglob("*.py"))
        if path.name not in {"__init__.py", "__main__.py"}
    ]
    if importlib.util.find_spec("numba") is None:
        names.remove("theory.oracle.compiled")
    done = run_without_torch(*names, "theory")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["settings", "records"])
def test_settings_and_records_leave_torch_out(room):
    folder = ROOT / "empirical" / room
    if room == "records" and not folder.is_dir():
        pytest.skip("there are no records")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(folder.rglob("*.py"))]
    names = [name.removesuffix(".__init__") for name in names]
    assert names
    code = f"import importlib, sys; [importlib.import_module(m) for m in {names}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_importing_empirical_imports_nothing_heavy():
    code = "import sys, empirical; print([m for m in ('torch', 'torchvision', 'sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_product_code_uses_private_members_of_argparse():
    for package in ("theory", "empirical", "reports", "spikeshrink"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                private = isinstance(node, ast.Attribute) and node.attr in {"_SubParsersAction", "_actions", "_Action"}
                assert not private, f"{path.relative_to(ROOT)}:{node.lineno} uses argparse's {node.attr}"


def test_no_stage_is_started_as_a_program_by_its_name():
    """A name is looked up in the working folder first: our code calls functions. Git is asked for the commit."""
    starters = [
        str(path.relative_to(ROOT))
        for package in ("theory", "empirical", "reports", "spikeshrink")
        for path in sorted((ROOT / package).rglob("*.py"))
        if {"subprocess", "runpy"} & {name.split(".")[0] for name in imported(path)}
    ]
    assert starters == ["theory/judge/evidence.py"]


@pytest.mark.parametrize("room", ["theory", "empirical", "reports", "spikeshrink"])
def test_a_package_says_that_it_is_typed(room):
    assert (ROOT / room / "py.typed").is_file()  # PEP 561; the wheel holds every tracked file of a package


@pytest.mark.parametrize("room", ["theory", "empirical", "reports", "spikeshrink"])
def test_no_private_member_of_a_library_is_used(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        libraries = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                libraries |= {alias.asname or alias.name.split(".")[0] for alias in node.names if not ours(alias.name)}
            elif isinstance(node, ast.ImportFrom) and not ours(node.module or ""):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path.relative_to(ROOT)}:{node.lineno} imports {private} of {node.module}"
                libraries |= {alias.asname or alias.name for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                root = node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                used = isinstance(root, ast.Name) and root.id in libraries
                assert not used, f"{path.relative_to(ROOT)}:{node.lineno} uses {ast.unparse(node)}"
