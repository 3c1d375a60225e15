"""Commands of the theory: ``python -m theory verify | claims | solve | simulate | attribute | regress | gate``.

Exit status: 0 all right, 1 an identity is refuted, 2 wrong usage or unreadable input, 3 an identity is undecided,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_SEED = 20241010
DEFAULT_OUT = Path("reports/local/theory")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m theory", description=(__doc__ or "").split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    verify = commands.add_parser("verify", help="run the experiments, judge the claims, print the verdict table")
    verify.add_argument("--claims", type=_names, metavar="ID,ID", help="judge these alone (the family stays whole)")
    verify.add_argument("--out", type=Path, default=DEFAULT_OUT, help="results folder (default: %(default)s)")
    verify.add_argument("--seed", type=int, default=DEFAULT_SEED, help="root seed (default: %(default)s)")
    verify.add_argument("--budget", default="default", help="default, or full: longer runs that detect smaller errors")
    verify.add_argument(
        "--until-decided",
        action="store_true",
        help="variance claims alone, by a confidence sequence: draw replicas until every claim and decoy is decided",
    )
    verify.add_argument("--json", action="store_true", help="print the verdicts as JSON")

    claims = commands.add_parser("claims", help="the register: every claim with its source, decoys and evidence")
    claims.add_argument("--json", action="store_true", help="print the register as JSON")

    solve = commands.add_parser("solve", help="stationary law of your own H and C, all oracles compared")
    _add_problem(solve)
    solve.add_argument("--out", type=Path, help="write the covariances to this .npz file (must not exist)")

    simulate = commands.add_parser("simulate", help="Monte Carlo of your own H and C, beside the closed form")
    _add_problem(simulate)
    simulate.add_argument("--noise-law", choices=("gaussian", "rademacher", "uniform", "student"), default="gaussian")
    simulate.add_argument("--replicas", type=int, default=4096, help="independent runs (default: %(default)s)")
    simulate.add_argument(
        "--burn-in", type=int, help="steps before the first record (default: until 1e-6 is forgotten)"
    )
    simulate.add_argument("--steps", type=int, default=1000, help="recorded steps (default: %(default)s)")
    simulate.add_argument("--seed", type=int, default=DEFAULT_SEED, help="root seed (default: %(default)s)")
    simulate.add_argument("--out", type=Path, default=Path("reports/local/simulate"), help="results folder")

    for name in _COMMAND_MODULES:
        module = _COMMAND_MODULES[name]
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).add_parser(commands)
    return top


#: Commands that live in a module of their own, which adds its parser and runs itself.
_COMMAND_MODULES = {"attribute": "theory.attribute", "regress": "theory.regress", "gate": "theory.gate_command"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every foreseen error is one line on standard error and exit status 2."""
    options = parser().parse_args(arguments)
    from theory import commands
    from theory.solution import NumericalError

    try:
        if options.command in _COMMAND_MODULES:
            return importlib.import_module(_COMMAND_MODULES[options.command]).run(options)
        return getattr(commands, options.command)(options)
    except (ValueError, OSError, NumericalError) as error:
        print(f"python -m theory {options.command}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"python -m theory {options.command}: interrupted; what was measured is kept.", file=sys.stderr)
        return 130


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _add_problem(command: argparse.ArgumentParser) -> None:
    command.add_argument("--hessian", required=True, help="H: .npy or .npz, (m, m) or its diagonal (m,)")
    command.add_argument("--noise", required=True, help="C of the mini-batch gradient: .npy or .npz")
    command.add_argument("--learning-rate", type=float, required=True)
    command.add_argument("--momentum", type=float, default=0.0)
    command.add_argument("--dampening", type=float, default=0.0)
    command.add_argument("--nesterov", action="store_true")
    command.add_argument("--discount", type=float, default=1.0, help="share of the buffer in a step (QHM)")
    command.add_argument("--weight-decay", type=float, default=0.0)
    command.add_argument("--form", choices=("pytorch", "position"), default="pytorch")
    command.add_argument("--json", action="store_true", help="print JSON")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
