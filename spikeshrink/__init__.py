"""The command ``spikeshrink``: the programs of the theory, of the network half and of the reports under one name.

Installed as a console script it does not put the working folder on the import path. This package is the front door and
nothing else; the import names are `theory`, `empirical` and `reports`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PROGRAMS", "main"]

#: Program -> (module with ``main`` and ``COMMANDS``, what it is).
PROGRAMS = {
    "theory": ("theory.__main__", "closed forms, solvers, simulation, and the claims about them"),
    "empirical": ("empirical.__main__", "adversarial training, measured and judged"),
    "report": ("reports.__main__", "pages of results, and comparisons of two of them"),
}
USAGE = """usage: spikeshrink [--version] PROGRAM COMMAND …

programs (each has --help):
{programs}
  gate                  does a model's training meet the assumptions? an exit status for CI
  doctor                is this machine fit to train on, and how long does a run take?
  completion bash|zsh   completion of names, for `eval "$(spikeshrink completion bash)"`
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``spikeshrink …`` and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Whatever the environment puts on the path, this one import must find our own theory.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from theory.judge.front import guarded, require_own_packages

    del sys.path[0]

    def work() -> int:
        require_own_packages()
        return _dispatch(words)

    return guarded("spikeshrink", work)


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"spikeshrink {_version()}")
        return 0
    if words[:1] and words[0] in PROGRAMS:
        import importlib

        program = importlib.import_module(PROGRAMS[words[0]][0])
        return program.main(words[1:], prog=f"spikeshrink {words[0]}")
    if words[:1] in (["gate"], ["doctor"]):
        from empirical.__main__ import main as empirical

        return empirical(words, prog="spikeshrink")
    if words[:1] == ["completion"]:
        from spikeshrink.completion import script

        print(script(words[1:]), end="")
        return 0
    usage = USAGE.format(programs="\n".join(f"  {name:22s}{text}" for name, (_, text) in PROGRAMS.items()))
    if words[:1] in (["-h"], ["--help"]):
        print(usage, end="")
        return 0
    wrong = f"unknown program {words[0]!r}" if words else "a program is needed"
    names = ", ".join([*PROGRAMS, "gate", "doctor", "completion"])
    raise ValueError(f"{wrong}: it must be one of {names}; see `spikeshrink --help`.")


def _version() -> str:
    """Of the installation, or of the checkout that was not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("spikeshrink")
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        with (Path(__file__).resolve().parent.parent / "pyproject.toml").open("rb") as stream:
            return f"{tomllib.load(stream)['project']['version']} (a checkout)"
