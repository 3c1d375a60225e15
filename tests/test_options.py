"""Every command explains itself: what each option is, its unit, its default; and an example that parses."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from spikeshrink import PROGRAMS
from theory.judge.front import Command, command_line

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    (program, command)
    for program, (module, _) in PROGRAMS.items()
    for command in importlib.import_module(module).COMMANDS
]
IDS = [f"{program}-{command.name}" for program, command in COMMANDS]


def filled(program: str, command: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"spikeshrink {program} {command.name}")
    command.fill(parser)
    return parser


@pytest.mark.parametrize(("program", "command"), COMMANDS, ids=IDS)
def test_every_option_says_what_it_is_and_what_it_is_without_being_given(program, command):
    for action in filled(program, command)._actions:
        told = action.help or ""
        name = "/".join(action.option_strings) or action.dest
        assert len(told) >= 8, f"{name} is bare"
        if not action.option_strings or action.nargs == 0 or action.required:
            continue
        listed = isinstance(action, argparse._AppendAction) or isinstance(action.default, (list, tuple))
        if action.default not in (None, "", argparse.SUPPRESS) and not listed:
            assert "default" in told, f"{name} does not tell its default, {action.default!r}"
        if action.type in (int, float):
            assert action.metavar, f"{name} is a number without a short name for it"


@pytest.mark.parametrize(("program", "command"), COMMANDS, ids=IDS)
def test_every_command_ends_its_help_with_an_example_that_parses(program, command):
    parser = filled(program, command)
    assert command.example and parser.epilog is not None
    assert parser.epilog.endswith(f"example: spikeshrink {program} {command.name} {command.example}".replace("%", "%%"))
    commands = importlib.import_module(PROGRAMS[program][0]).COMMANDS
    chosen = command_line("x", "", commands, chosen=command.name)
    chosen.parse_args([command.name, *shlex.split(command.example)])
    text = parser.format_help()
    assert "example: spikeshrink" in text and not re.search(r"%\(\w+\)", text)


def test_a_reader_that_goes_away_ends_a_command_quietly():
    """`spikeshrink theory claims | head -1`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = "import sys; from spikeshrink import main; sys.exit(main(['theory', 'claims', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        assert started.stdout is not None and started.stderr is not None
        assert started.stdout.readline().startswith("[")
        started.stdout.close()
        said = started.stderr.read()
        assert started.wait(timeout=300) in (0, 141) and said == ""
