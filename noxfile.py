"""Sessions of Spikeshrink. `nox -l` lists them; `nox -s theory` runs the main job.

Every session makes its own environment, with uv where it is installed and with virtualenv elsewhere.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox
import nox.command

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["theory", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
THEORY = "-e.[fast,oracles,data,report]"  # no torch: proves the import rule
EVERYTHING = "-e.[fast,oracles,data,report,empirical,cluster,attacks]"
LOCAL = Path("reports/local")
PUBLISHED = Path("reports/published")
#: Published folders that a register of their own judges.
REGISTERS = {"gate_calibration": "tests.gate_calibration", "calibration": "tests.calibration"}
SHOTS = LOCAL.resolve() / "screenshots"


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def theory(session: nox.Session) -> None:
    """Simulate, judge every claim about quadratics, print the verdict table, build the report. CPU, no torch."""
    session.install(THEORY)
    out = LOCAL / "theory"
    shutil.rmtree(out, ignore_errors=True)  # a session measures afresh; `spikeshrink theory verify` resumes
    try:
        session.run("spikeshrink", "theory", "verify", "--out", str(out), *session.posargs)
    finally:
        if (out / "verdicts.json").exists():  # refuted or undecided verdicts are reported as well
            session.run("spikeshrink", "report", "build", "--figures", str(out))


@nox.session
def compare(session: nox.Session) -> None:
    """A fresh theory run (`nox -s theory` before) against the published verdicts: same outcomes."""
    session.install("-e.")
    session.run("spikeshrink", "report", "compare", "reports/published/theory", str(LOCAL / "theory"))


@nox.session
def rejudge(session: nox.Session) -> None:
    """All published evidence judged with today's claims: the same verdicts as published (or `-- FOLDER`)."""
    folders = [Path(name) for name in session.posargs] or [
        path.parent for path in sorted(PUBLISHED.glob("*/verdicts.json")) if (path.parent / "evidence").is_dir()
    ]
    networks = [folder for folder in folders if folder.name not in ("theory", *REGISTERS)]
    session.install(EVERYTHING if networks else "-e.[data]")
    failed = []
    for folder in folders:
        half = "empirical" if folder in networks else "theory"
        words = ["--register", REGISTERS[folder.name]] if folder.name in REGISTERS else []
        try:
            session.run("python", "-m", half, "rejudge", str(folder), *words)
        except nox.command.CommandFailed:
            failed.append(str(folder))  # the others are judged all the same
    if failed:
        session.error(f"not as stored: {', '.join(failed)}")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, with the peers that check us: what is skipped needs a GPU or downloaded data."""
    session.install(EVERYTHING, *group("tests"), *group("peers"))
    session.run("pytest", "-n", "logical", *session.posargs)


@nox.session
def empirical(session: nox.Session) -> None:
    """Adversarial training and AWP, measured and judged; digits on a CPU, `-- --dataset cifar10` on a GPU machine."""
    session.install(EVERYTHING)
    out = LOCAL / "empirical"
    try:
        session.run("spikeshrink", "empirical", "run", "--out", str(out), *session.posargs)
    finally:
        if (out / "verdicts.json").exists():
            session.run("spikeshrink", "report", "build", str(out))


@nox.session
def controls(session: nox.Session) -> None:
    """Positive controls: convex models on which the laws must hold (exit 0), and must fail once sabotaged (exit 1)."""
    session.install(EVERYTHING)
    words = [
        "spikeshrink",
        "empirical",
        "controls",
        "--out",
        str(LOCAL / "controls"),
        *(session.posargs or ["--smoke"]),
    ]
    session.run(*words)
    session.run(*words, "--sabotage", "noise", success_codes=[1])


@nox.session
def gate(session: nox.Session) -> None:
    """Our own gates: a control passes, sabotaged it fails, the smoke run; or `-- FOLDER|CHECKPOINT`, one of yours."""
    session.install(EVERYTHING)
    if session.posargs:
        session.run("spikeshrink", "gate", *session.posargs)
    else:
        session.run("python", "-m", "tests.gates", "--out", str(LOCAL / "gate"))


@nox.session
def report(session: nox.Session) -> None:
    """Build the pages of everything published, and their front page; `-- FOLDER` builds those of one results folder."""
    session.install("-e.[report]")
    if session.posargs:
        session.run("spikeshrink", "report", "build", *session.posargs)
        return
    session.run("spikeshrink", "report", "index", str(PUBLISHED))
    for path in sorted(PUBLISHED.glob("*/verdicts.json")):
        session.run("spikeshrink", "report", "build", str(path.parent))


@nox.session
def pages(session: nox.Session) -> None:
    """Pages in the Chromium that is installed, at three widths: axe, nothing off the screen; reports/local/screenshots.

    Without one the tests are skipped, and say so: `playwright install --with-deps chromium`.
    """
    session.install(EVERYTHING, *group("tests"), *group("browser"))
    session.run(
        "pytest", "tests/reports/test_browser.py", *session.posargs, env={"SPIKESHRINK_SCREENSHOTS": str(SHOTS)}
    )


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation with the reports in it, warnings as errors: reports/local/site. Runs its notebooks."""
    session.install("-e.[fast,data,report]", *group("docs"))
    session.run("spikeshrink", "report", "index", str(PUBLISHED))
    for path in sorted(PUBLISHED.glob("*/verdicts.json")):
        session.run("spikeshrink", "report", "build", str(path.parent))
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's rules and format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types: pyright, strict where data enters and settings are made; zero errors."""
    session.install(EVERYTHING, *group("types"), "nox")
    session.run("pyright")


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks beside their peers, curves, instruction counts: reports/published/benchmarks, and their page."""
    session.install(EVERYTHING, *group("tests"), *group("peers"))
    session.run("pytest", "tests/benchmarks", "--benchmark-only", *session.posargs, env={"OMP_NUM_THREADS": "1"})
    session.run("spikeshrink", "report", "performance", "--readme", "README.md")


@nox.session
def instructions(session: nox.Session) -> None:
    """Instructions of six core kernels under callgrind, within 3 % of the stored baseline; `-- --store` a new one."""
    session.install("-e.[fast]")
    session.run("python", "-m", "tests.benchmarks.instructions", *session.posargs)


@nox.session
def speed(session: nox.Session) -> None:
    """Seconds of a PGD-10 iteration beside the textbook loop; on a GPU the fast settings. No download."""
    session.install(EVERYTHING)
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """On a first GPU: doctor, AT and AWP on Fashion-MNIST with spectra, speeds; `-- --minutes 9` and again: goes on."""
    session.install(EVERYTHING)
    session.run("python", "-m", "tests.gpu_evidence", *session.posargs)


@nox.session
def calibration(session: nox.Session) -> None:
    """How often the judge errs: ≥ 10,000 true claims and ≥ 1,000 false ones through the real simulator."""
    session.install(THEORY)
    session.run("python", "-m", "tests.calibration", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Hostile inputs to every command, kills at file operations, flipped bits: one table, all faults zero."""
    session.install(EVERYTHING, *group("tests"))
    session.run("python", "-m", "tests.faults", "--out", "reports/published/faults", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Break the code on purpose, one place at a time: tests must turn red, and claims too (`-- --record FILE`)."""
    session.install(THEORY, *group("tests"))
    session.run("python", "tests/mutants.py", *session.posargs)
