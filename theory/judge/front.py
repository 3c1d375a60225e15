"""The front of every command line: commands by name, imported when they are chosen, and exceptions as exit statuses.

Exit status  0 all right
             1 the answer is no: an identity refuted, a gate failed, results that differ; never a crash or a failed run
             2 wrong usage, unreadable input, a package that is not installed, or a clash of names
             3 undecided
             70 a fault of ours (EX_SOFTWARE): anything unforeseen, a missing module of ours included
             74 the disk failed (EX_IOERR): full, over quota, or broken; what was written before is whole
             75 a run or a measurement failed (EX_TEMPFAIL): it diverged or did not converge, memory ran out, or its
             process was killed; the others were finished, and the same command resumes
             130 interrupted; 143 terminated; 138 stopped by SIGUSR1, to be queued again; 141 the reader of a pipe has
             gone
One place    Commands raise. `status_of` knows the status of every exception: `ValueError` and `OSError` name what is
             wrong with the input, another exception that is foreseen says so by an attribute ``exit_status``. Each is
             one line on standard error, `sentence_of`.
Clash        ``python -m`` puts the working folder on the import path, where a ``reports.py`` or ``theory/`` of the
             user's hides ours. `require_own_packages` refuses to go on with packages that are not of one installation.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.metadata
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = [
    "DISK_FAILED",
    "FAULT",
    "PACKAGES",
    "RUN_FAILED",
    "UNUSABLE",
    "ClashError",
    "Command",
    "command_line",
    "guarded",
    "out_of_memory",
    "require_own_packages",
    "run",
    "sentence_of",
    "status_of",
    "worst",
]

#: Exit statuses of what is raised; 70, 74 and 75 are EX_SOFTWARE, EX_IOERR and EX_TEMPFAIL of sysexits.h.
UNUSABLE, FAULT, DISK_FAILED, RUN_FAILED = 2, 70, 74, 75
#: Errors of the system that no other argument would have avoided.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
#: Our top-level packages.
PACKAGES = ("theory", "empirical", "reports", "spikeshrink")
ROOT = Path(__file__).resolve().parents[2]
#: Packages of others, and the extra of ours that installs them.
EXTRAS: Mapping[str, str] = {
    "numba": "fast",
    "threadpoolctl": "fast",
    "control": "oracles",
    "slycot": "oracles",
    "sklearn": "data",
    "matplotlib": "report",
    "latex2mathml": "report",
    "ruptures": "logs",
    "torch": "empirical",
    "torchvision": "empirical",
    "tensorboard": "empirical",
    "joblib": "empirical",
    "distributed": "cluster",
    "torchattacks": "attacks",
}
#: Packages of others that every installation has.
DEPENDENCIES = ("numpy", "scipy")


class ClashError(ValueError):
    """A module of someone else's has the name of one of our packages and is found first."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a program: its module is imported when it is chosen.

    Args:
        name: as it is typed.
        help: one line of the program's ``--help``.
        module: has ``add_options(parser)`` and, unless `run` names another, ``run(options) -> int``.
        options: name of the function in `module` that fills the parser.
        run: name of the function in `module` that runs the command.
        runner: module of `run`, where it is not `module`.
        example: one that can be typed, without the program's name; shown at the end of the command's ``--help``.
    """

    name: str
    help: str
    module: str
    options: str = "add_options"
    run: str = "run"
    runner: str = ""
    example: str = ""

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Give the command's parser its options."""
        module = importlib.import_module(self.module)
        parser.description = getattr(module, "DESCRIPTION", self.help)
        getattr(module, self.options)(parser)
        program = parser.prog.removesuffix(self.name).strip()
        told = f"example: {program} {self.name} {self.example}".replace("%", "%%") if self.example else ""
        parser.epilog = ". ".join(part for part in (parser.epilog, told) if part) or None

    def execute(self, options: argparse.Namespace) -> int:
        """Run the command on parsed options."""
        return getattr(importlib.import_module(self.runner or self.module), self.run)(options)


def command_line(
    prog: str, description: str, commands: Sequence[Command], *, chosen: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a program: of all its commands, or with the options of the chosen one alone."""
    top = argparse.ArgumentParser(prog=prog, description=description)
    found = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        parser = found.add_parser(command.name, help=command.help)
        if chosen is None or command.name == chosen:
            command.fill(parser)
    return top


def run(prog: str, description: str, commands: Sequence[Command], arguments: Sequence[str] | None = None) -> int:
    """Parse, run the command, and turn whatever is raised into an exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in words if not word.startswith("-")), "")

    def work() -> int:
        require_own_packages()
        parser = command_line(prog, description, commands, chosen=name)
        for word in words:
            if word.startswith("--") and word.endswith("=--"):  # argparse would read an empty list
                parser.error(f"argument {word[:-3]}: must be given a value; got '--'")
        options = parser.parse_args(words)
        return next(command for command in commands if command.name == options.command).execute(options)

    return guarded(f"{prog} {name}".strip(), work)


def guarded(where: str, work: Callable[[], int]) -> int:
    """The exit status of `work`, or of what it raises; see the module."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal's encoding cannot show is no error
    try:
        status = work()
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:
        status = status_of(error)
        if isinstance(error, BrokenPipeError):
            # What is still buffered has no reader: let the interpreter's last flush go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            print(f"{where}: {sentence_of(error, where)}", file=sys.stderr, flush=True)
        return status


def status_of(error: BaseException) -> int:
    """The exit status that an exception stands for; see the module."""
    stated = getattr(error, "exit_status", None)
    if isinstance(stated, int):
        return stated
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, BrokenPipeError):
        return 141
    if isinstance(error, ModuleNotFoundError):
        return UNUSABLE if _package(error) else FAULT  # what is missing is one of ours above all
    if out_of_memory(error):
        return RUN_FAILED
    if isinstance(error, OSError) and error.errno in _DISK:
        return DISK_FAILED
    return UNUSABLE if isinstance(error, (OSError, ValueError)) else FAULT


def sentence_of(error: BaseException, where: str) -> str:
    """What is said of an exception, on one line; of a fault of ours, with the file its traceback went to.

    Args:
        error: what was raised.
        where: the command, or the run.
    """
    status = status_of(error)
    if status == FAULT:
        return _fault(error, where)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what was written is kept."
    text = str(error)
    if isinstance(error, ModuleNotFoundError):
        name = _package(error)
        extra = f"[{EXTRAS[name]}]" if name in EXTRAS else ""
        text = f"the package {name} is not installed: pip install 'spikeshrink{extra}'."
    elif isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename  # of a rename the target: the other is a temporary name of ours
        text = f"{name}: {error.strerror}" if name else error.strerror
    elif out_of_memory(error):
        text = text or "out of memory"
    if status == DISK_FAILED:
        text += "; what was written before is whole, and the same command resumes."
    return " ".join(text.split()) or type(error).__name__


def worst(statuses: Iterable[int]) -> int:
    """The status of several runs together: of a fault if there is one, else the largest; 0 for none."""
    found = set(statuses)
    return FAULT if FAULT in found else max(found, default=0)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python says so, or PyTorch, whose allocator on the CPU has no class of its own."""
    said = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _package(error: ModuleNotFoundError) -> str:
    """The package of others that is not installed; "" where what is missing is ours."""
    name = (error.name or "").split(".")[0]
    return name if name in EXTRAS or name in DEPENDENCIES else ""


def require_own_packages(path: Sequence[str] | None = None) -> None:
    """Refuse to go on where an import of one of our packages would find somebody else's.

    Args:
        path: where imports look; ``sys.path`` by default.

    Raises:
        ClashError: naming the file that is in the way.
    """
    for name in PACKAGES:
        spec = PathFinder.find_spec(name, list(sys.path if path is None else path))
        if spec is None or spec.origin is None:  # not on the path, or a bare folder, which a package of ours outranks
            continue
        if Path(spec.origin).resolve().parent != ROOT / name:
            raise ClashError(
                f"`{name}` would be imported from {spec.origin}, which hides the package of Spikeshrink in {ROOT}; "
                "rename it, work in another folder, or use the command `spikeshrink`, which does not look there."
            )


def _fault(error: BaseException, where: str) -> str:
    text = "".join(traceback.format_exception(error))
    summary = f"a fault of Spikeshrink: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
    if os.environ.get("SPIKESHRINK_DEBUG"):
        sys.stderr.write(text)
        return f"{summary}. Please report it {_tracker()}."
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="spikeshrink-fault-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write(f"{where}\nPython {sys.version}\n{text}")
    except OSError:  # the disk may be what is at fault
        sys.stderr.write(text)
        return f"{summary}. Please report it {_tracker()}."
    return f"{summary}. Please report it {_tracker()}, with {stream.name}."


def _tracker() -> str:
    """Where faults are reported: what the installation says, or what the repository's page says."""
    try:
        urls = importlib.metadata.metadata("spikeshrink").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        urls = []
    found = [url.partition(",")[2].strip() for url in urls if url.lower().startswith("issues,")]
    return f"at {found[0]}" if found else "to the project (CONTRIBUTING.md, Faults)"
