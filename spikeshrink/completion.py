"""A static completion script: programs, commands, options, and the names that options take.

Everything is read off the usage lines that argparse prints, when the script is made; completing a word then starts no
Python.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence

from theory.judge.front import Command

__all__ = ["script"]

SHELLS = ("bash", "zsh")
_FLAG = re.compile(r"--[a-z0-9][a-z0-9-]*")
_CHOICES = re.compile(r"(--[a-z0-9][a-z0-9-]*) \{([^{}]*)\}")


def script(words: Sequence[str]) -> str:
    """The text of ``spikeshrink completion SHELL``.

    Raises:
        ValueError: if the shell is not one of `SHELLS`.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        raise ValueError(f"`completion` must be followed by one of {', '.join(SHELLS)}; got {' '.join(words)!r}.")
    # Zsh runs bash's completion functions.
    opening = "autoload -U +X bashcompinit && bashcompinit\n" if words[0] == "zsh" else ""
    return opening + _bash()


def _bash() -> str:
    from spikeshrink import PROGRAMS

    commands: dict[str, str] = {}
    flags: dict[str, str] = {}
    values: dict[str, str] = {}
    for program, (module, _) in PROGRAMS.items():
        found = importlib.import_module(module)
        commands[program] = " ".join([*(command.name for command in found.COMMANDS), "--help"])
        for command in found.COMMANDS:
            usage = _usage(command)
            known = sorted({*_FLAG.findall(usage), "--help"})
            flags[f"{program} {command.name}"] = " ".join(known)
            for flag, names in _CHOICES.findall(usage):
                values[f"{program} {command.name} {flag}"] = names.replace(",", " ")
    values["theory verify --claims"] = _claims()
    return _TEMPLATE.format(
        programs=" ".join([*PROGRAMS, "completion", "--help", "--version"]),
        shells=" ".join(SHELLS),
        commands=_cases(commands),
        flags=_cases(flags),
        values=_cases(values),
    )


def _usage(command: Command) -> str:
    import argparse

    parser = argparse.ArgumentParser(prog="x")
    command.fill(parser)
    return " ".join(parser.format_usage().split())


def _claims() -> str:
    from theory.claims import CLAIMS

    return " ".join(claim.name for claim in CLAIMS)


def _cases(words: dict[str, str]) -> str:
    return "\n".join(f'      "{key}") words="{value}" ;;' for key, value in words.items())


_TEMPLATE = """_spikeshrink() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{programs}"
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case "${{COMP_WORDS[1]}}" in
      "completion") words="{shells}" ;;
{commands}
    esac
  else
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}} $before" in
{values}
    esac
    if [ -z "$words" ]; then
      case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{flags}
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _spikeshrink spikeshrink
"""
