"""Commands of the empirical half: ``python -m empirical run | train | measure | verify | sweep | import | …``.

Exit status: 0 all right (a refuted hypothesis is a finding), 1 a gate failed, 2 wrong usage or unreadable input,
3 inconclusive, 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

#: Subcommand -> module under `empirical.commands` with `add_options(parser)` and `run(args) -> int`.
COMMANDS = {
    "run": "run",
    "train": "train",
    "sweep": "sweep",
    "measure": "measure",
    "verify": "verify",
    "import": "importing",
    "reproduce": "reproduce",
    "validate": "validate",
    "gate": "gate",
}


def parser() -> argparse.ArgumentParser:
    """The command line; building it imports no torch."""
    top = argparse.ArgumentParser(prog="python -m empirical", description=(__doc__ or "").split("\n")[0])
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in dict.fromkeys(COMMANDS.values()):
        if importlib.util.find_spec(f"empirical.commands.{module}") is not None:
            command = importlib.import_module(f"empirical.commands.{module}")
            command.add_options(subparsers.add_parser(command.NAME, help=command.HELP, description=command.DESCRIPTION))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every foreseen error is one line on standard error and exit status 2."""
    options = parser().parse_args(arguments)
    try:
        return importlib.import_module(f"empirical.commands.{COMMANDS[options.command]}").run(options)
    except (ValueError, OSError) as error:
        where = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        print(f"python -m empirical {options.command}: {' '.join(where.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"python -m empirical {options.command}: interrupted; what was written is kept.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
