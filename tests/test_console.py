"""The command `spikeshrink` as it is installed: what it starts, what it must not see, and how every end is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from theory.judge import front
from theory.judge.front import DISK_FAILED, FAULT, RUN_FAILED, ClashError, Command, guarded, require_own_packages

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "import sys\nfrom spikeshrink import main\nsys.exit(main())\n"
TRAP = "from pathlib import Path\nPath({marker!r}).write_text('somebody else ran')\n"


@pytest.fixture
def spikeshrink(tmp_path):
    """The console script in a folder of its own; the packages are found as if installed, the working folder is not."""
    script = tmp_path / "bin" / "spikeshrink"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    work = tmp_path / "work"
    work.mkdir()

    def run(*words, command=(str(script),), **changes):
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(work)}
        return subprocess.run(
            [sys.executable, *command, *map(str, words)],
            cwd=work,
            env=environment | changes.pop("env", {}),
            capture_output=True,
            text=True,
            timeout=240,
            **changes,
        )

    run.work = work
    return run


def trap(folder: Path, name: str) -> Path:
    """A module of the user's under our name, which leaves a file if it ever runs."""
    marker = folder / "ran"
    path = folder / (f"{name}.py" if name != "theory/" else "theory/__init__.py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(TRAP.format(marker=str(marker)))
    return marker


def test_the_installed_script_is_this_function():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["spikeshrink"].partition(":")
    assert callable(getattr(__import__(module), name))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(front.PACKAGES)


def test_the_front_door_tells_its_version_and_its_programs_without_importing_anything_heavy(spikeshrink):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = spikeshrink("--version")
    assert done.returncode == 0 and done.stdout.startswith(f"spikeshrink {version}")
    assert "report" in spikeshrink("--help").stdout
    for words in ([], ["nonsense"]):
        wrong = spikeshrink(*words)
        assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "theory, empirical, report" in wrong.stderr
    for words in (["--version"], ["theory", "--help"], ["empirical", "--help"], ["report", "build", "--help"]):
        code = (
            "import sys\nfrom spikeshrink import main\n"
            f"try: main({words!r})\nexcept SystemExit: pass\n"
            "print([m for m in ('numpy', 'scipy', 'torch', 'matplotlib') if m in sys.modules], file=sys.stderr)"
        )
        assert spikeshrink(command=("-c", code)).stderr.strip() == "[]", words


def test_a_module_of_the_users_in_the_working_folder_is_not_seen(spikeshrink):
    markers = [trap(spikeshrink.work, name) for name in ("reports", "theory/", "empirical", "spikeshrink")]
    for words in (["report", "build", "--help"], ["theory", "claims"], ["empirical", "train", "--help"]):
        done = spikeshrink(*words)
        assert done.returncode == 0, done.stderr
    assert not any(marker.exists() for marker in markers)


@pytest.mark.parametrize(
    ("module", "hidden"),
    [
        ("empirical", "reports"),
        ("empirical", "theory/"),
        ("reports", "theory"),
        ("reports", "empirical"),
        ("theory", "reports"),
        ("theory", "spikeshrink"),
    ],
)
def test_python_m_refuses_a_clash_before_anything_of_the_users_runs(spikeshrink, module, hidden):
    marker = trap(spikeshrink.work, hidden)
    done = spikeshrink({"empirical": "run", "reports": "build", "theory": "claims"}[module], command=("-m", module))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"`{hidden.strip('/')}` would be imported from" in done.stderr and str(spikeshrink.work) in done.stderr
    assert not marker.exists()


def test_python_m_of_a_name_that_the_user_has_is_the_users_as_the_readme_says(spikeshrink):
    """Python finds it before anything of ours can look; the console script is the way around."""
    marker = trap(spikeshrink.work, "reports")
    spikeshrink("build", "results", command=("-m", "reports"))
    assert marker.exists()
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "`python -m reports` is then your file" in readme
    assert "stops with ``…: `reports` would be imported from …`` and status 2" in readme


def test_the_report_stage_of_a_run_is_our_report(spikeshrink):
    """`empirical run` once started `python -m reports`: a `reports.py` of the user's, called a success."""
    done = spikeshrink("theory", "verify", "--claims", "stability-boundary", "--out", "results")
    assert done.returncode == 0, done.stderr
    marker = trap(spikeshrink.work, "reports")
    done = spikeshrink("empirical", "run", "--stages", "report", "--out", "results")
    assert done.returncode == 0, done.stderr
    assert (spikeshrink.work / "results" / "report.md").is_file() and not marker.exists()
    nothing = spikeshrink("empirical", "run", "--stages", "report", "--out", "nowhere")
    assert nothing.returncode == 2 and "nowhere" in nothing.stderr and "Traceback" not in nothing.stderr


BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r} or name.startswith({name!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from spikeshrink import main
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["empirical.commands.train", "empirical.settings.presets", "theory.regress"])
def test_a_missing_module_of_ours_is_a_fault_and_not_a_smaller_program(spikeshrink, name):
    words = ["theory", "regress", "--help"] if name.startswith("theory") else ["empirical", "train", "--help"]
    done = spikeshrink(*words, command=("-c", BLOCK.format(name=name)))
    assert done.returncode == FAULT and name in done.stderr and "Please report it" in done.stderr, done.stderr
    listed = spikeshrink(words[0], "--help", command=("-c", BLOCK.format(name=name)))
    assert listed.returncode == 0 and words[1] in listed.stdout, "the command is still listed"


def test_a_missing_claim_module_of_ours_is_a_fault(monkeypatch):
    from empirical import claims

    monkeypatch.setattr(claims, "MODULES", (*claims.MODULES, "nothing_of_the_kind"))
    with pytest.raises(ModuleNotFoundError, match="nothing_of_the_kind"):
        claims.collect(claims.MODULES)


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("torch", "empirical", ["empirical", "train", "--preset", "smoke"]),
        ("numpy", "", ["theory", "claims"]),
        ("matplotlib", "report", ["report", "build", "results"]),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(spikeshrink, package, extra, words):
    if package == "matplotlib":
        assert spikeshrink("theory", "verify", "--claims", "stability-boundary", "--out", "results").returncode == 0
    done = spikeshrink(*words, command=("-c", BLOCK.format(name=package)))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    wanted = f"spikeshrink[{extra}]" if extra else "'spikeshrink'"
    assert package in done.stderr and wanted in done.stderr


# -- exceptions as exit statuses ---------------------------------------------------------------------------------------


class Foreseen(RuntimeError):
    exit_status = 2


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("`f(x=...)` must be > 0;\n got -1."), 2, "prog: `f(x=...)` must be > 0; got -1.\n"),
        (FileNotFoundError(2, "No such file or directory", "a.npy"), 2, "prog: a.npy: No such file or directory\n"),
        (Foreseen("the solver gave up"), 2, "prog: the solver gave up\n"),
        (MemoryError(), RUN_FAILED, "prog: out of memory\n"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            RUN_FAILED,
            "prog: DefaultCPUAllocator: can't alloc",
        ),
        (
            OSError(28, "No space left on device", "a.npz"),
            DISK_FAILED,
            "prog: a.npz: No space left on device; what was",
        ),
        (KeyboardInterrupt(), 130, "prog: interrupted; what was written is kept.\n"),
        (ClashError("`reports` is somebody else's"), 2, "prog: `reports` is somebody else's\n"),
    ],
)
def test_what_is_foreseen_is_one_line(capsys, error, status, said):
    assert guarded("prog", failing(error)) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(said) and err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [TypeError("None + 1"), KeyError("gamma"), ZeroDivisionError(), RecursionError("too deep"), AssertionError()],
)
def test_what_is_unforeseen_is_a_fault_with_the_traceback_in_a_file(capsys, tmp_path, monkeypatch, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SPIKESHRINK_DEBUG", raising=False)
    assert guarded("prog", failing(error)) == FAULT
    said = capsys.readouterr().err
    (path,) = tmp_path.iterdir()
    assert said.count("\n") == 1 and type(error).__name__ in said and str(path) in said and "Traceback" not in said
    text = path.read_text(encoding="utf-8")
    assert text.startswith("prog\n") and "Traceback" in text and "in work" in text
    monkeypatch.setenv("SPIKESHRINK_DEBUG", "1")
    assert guarded("prog", failing(error)) == FAULT
    assert "Traceback" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


def test_a_status_is_passed_on_and_a_refutation_stays_1():
    assert [guarded("prog", lambda status=status: status) for status in (0, 1, 2, 3)] == [0, 1, 2, 3]


def test_a_reader_that_leaves_is_no_error(spikeshrink):
    """As `spikeshrink theory claims | head -1` does, with the pipe closed before the first word."""
    read, write = os.pipe()
    os.close(read)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "theory", "claims"],
        cwd=spikeshrink.work, env=environment, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    _, said = process.communicate(timeout=120)
    assert said == "" and process.returncode == 141


def test_a_message_that_the_terminal_cannot_show_is_replaced(spikeshrink):
    done = spikeshrink("theory", "claims", env={"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout and "σ" in spikeshrink("theory", "claims", env={"PYTHONIOENCODING": "utf-8"}).stdout


def test_packages_of_one_installation_are_no_clash_and_a_bare_folder_is_none(tmp_path):
    require_own_packages([str(ROOT)])
    (tmp_path / "reports").mkdir()  # data of the user's: a regular package later on the path outranks it
    require_own_packages([str(tmp_path), str(ROOT)])
    (tmp_path / "reports" / "__init__.py").write_text("")
    with pytest.raises(ClashError, match=r"`reports` would be imported from .*rename it"):
        require_own_packages([str(tmp_path), str(ROOT)])
    require_own_packages([str(ROOT), str(tmp_path)])


def test_only_the_chosen_commands_module_is_imported(monkeypatch, capsys):
    absent = Command(name="absent", help="h", module="no.such.module")
    here = Command(name="here", help="h", module="theory.gate_command")
    assert front.run("prog", "d", [absent, here], ["here", "nowhere", "--require", "x"]) == 2
    assert "nowhere" in capsys.readouterr().err


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_names_are_completed_by_the_printed_script(spikeshrink):
    done = spikeshrink("completion", "bash")
    assert done.returncode == 0, done.stderr
    (spikeshrink.work / "complete.bash").write_text(done.stdout)

    def completed(*words):
        given = " ".join(f"'{word}'" for word in ("spikeshrink", *words))
        text = (
            f"source complete.bash; COMP_WORDS=({given}); COMP_CWORD={len(words)}; _spikeshrink; echo ${{COMPREPLY[@]}}"
        )
        return subprocess.run(
            ["bash", "-c", text], cwd=spikeshrink.work, capture_output=True, text=True, check=True
        ).stdout.split()

    assert completed("the") == ["theory"] and "import" in completed("empirical", "")
    assert completed("empirical", "train", "--preset", "dig") == ["digits-cpu"]
    assert completed("empirical", "train", "--method", "tr") == ["trades", "trades-awp"]
    assert "stability-boundary" in completed("theory", "verify", "--claims", "")
    assert completed("empirical", "measure", "--ensemble-s") == ["--ensemble-steps"]
    wrong = spikeshrink("completion", "tcsh")
    assert wrong.returncode == 2 and "bash, zsh" in wrong.stderr
