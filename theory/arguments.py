"""The options of the commands of the theory that `theory.commands` runs; importing it imports no NumPy."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_SEED = 20241010
DEFAULT_OUT = Path("reports/local/theory")


def verify(parser: argparse.ArgumentParser) -> None:
    """Which claims, where to, how long."""
    parser.add_argument(
        "--claims", type=_names, metavar="ID,ID", help="judge these alone, the family stays whole (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER", help="results folder (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=_seed, default=DEFAULT_SEED, metavar="N", help="root seed (default: %(default)s)"
    )
    parser.add_argument(
        "--budget",
        default="default",
        metavar="NAME",
        help="default, or full: longer runs that detect smaller errors (default: %(default)s)",
    )
    parser.add_argument(
        "--until-decided",
        action="store_true",
        help="variance claims alone, by a confidence sequence: draw replicas until every claim and decoy is decided",
    )
    add_register_option(parser)
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="also print a line on each verdict, with its note")


def claims(parser: argparse.ArgumentParser) -> None:
    """Of what, and how to print."""
    add_register_option(parser)
    parser.add_argument("--json", action="store_true", help="print the register as JSON")


def solve(parser: argparse.ArgumentParser) -> None:
    """Which problem."""
    _add_problem(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the covariances to this .npz file, which must not exist"
    )
    parser.add_argument(
        "--slicot",
        action="store_true",
        help="ask SLICOT too, beside the other oracles: importing python-control takes longer than they do",
    )


def simulate(parser: argparse.ArgumentParser) -> None:
    """Which problem, and how it is simulated."""
    _add_problem(parser)
    parser.add_argument(
        "--noise-law",
        choices=("gaussian", "rademacher", "uniform", "student"),
        default="gaussian",
        help="law of the noise of covariance C (default: %(default)s)",
    )
    parser.add_argument(
        "--replicas", type=int, default=4096, metavar="N", help="independent runs (default: %(default)s)"
    )
    parser.add_argument(
        "--burn-in", type=int, metavar="N", help="steps before the first record (default: until 1e-6 is forgotten)"
    )
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="recorded steps (default: %(default)s)")
    parser.add_argument(
        "--seed", type=_seed, default=DEFAULT_SEED, metavar="N", help="root seed (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/local/simulate"),
        metavar="FOLDER",
        help="results folder (default: %(default)s)",
    )


def add_register_option(parser: argparse.ArgumentParser) -> None:
    """Claims beside those of the theory and of installed packages."""
    parser.add_argument(
        "--register", action="append", default=[], metavar="MODULE", help="claims of your own: a module, or a .py file"
    )


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**64:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^64 - 1; got {text[:40]}")
    return seed


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def add_optimizer_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Momentum SGD as torch counts it."""
    parser.add_argument(
        "--learning-rate",
        type=float,
        required=required,
        metavar="ETA",
        help="η > 0, a step's length per unit of gradient",
    )
    parser.add_argument(
        "--momentum",
        type=float,
        default=0.0,
        metavar="MU",
        help="μ in [0, 1), kept of the buffer (default: %(default)g)",
    )
    parser.add_argument(
        "--dampening",
        type=float,
        default=0.0,
        metavar="D",
        help="share in [0, 1) of the gradient kept out of the buffer (default: %(default)g)",
    )
    parser.add_argument("--nesterov", action="store_true", help="Nesterov's look-ahead step (default: heavy ball)")
    parser.add_argument(
        "--weight-decay",
        type=float,
        default=0.0,
        metavar="DELTA",
        help="coefficient ≥ 0 added to every eigenvalue of H (default: %(default)g)",
    )


def _add_problem(command: argparse.ArgumentParser) -> None:
    command.add_argument("--hessian", required=True, metavar="H", help="H: .npy or .npz, (m, m) or its diagonal (m,)")
    command.add_argument(
        "--noise", required=True, metavar="C", help="C of the mini-batch gradient: .npy or .npz, (m, m) or its diagonal"
    )
    add_optimizer_options(command, required=True)
    command.add_argument(
        "--discount",
        type=float,
        default=1.0,
        metavar="NU",
        help="share in [0, 1] of the buffer in a step, quasi-hyperbolic momentum (default: %(default)g, heavy ball)",
    )
    command.add_argument(
        "--form",
        choices=("pytorch", "position"),
        default="pytorch",
        help="what a change of the rate does to the buffer: rescales its displacement, or not (default: %(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
