"""``python -m empirical import FILE|FOLDER… --out …``: training logs become evidence."""

from __future__ import annotations

import argparse
import ast
import sys
from typing import Any

from empirical.logs.columns import COLUMNS
from empirical.records import LoggedRun
from theory.judge.front import UNUSABLE

NAME = "import"
DESCRIPTION = "Reads per-epoch training logs, checks every line, and writes them as evidence for `verify`."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.epilog = f"columns: {', '.join(COLUMNS)}"
    parser.add_argument("paths", nargs="+", metavar="FILE|FOLDER", help="logs, or folders that hold logs")
    parser.add_argument("--out", required=True, help="evidence goes to OUT/evidence/training-log")
    parser.add_argument("--keep-going", action="store_true", help="import the other files although one cannot be read")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="which column of the file NAME is; end SOURCE in %% where it holds per cent",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a fact about the runs their logs do not state: dataset, method (at, awp, …), seed, batch_size, …",
    )
    parser.add_argument("--iterations-per-epoch", type=int, metavar="N", help="turns TensorBoard steps into epochs")


def run(args: argparse.Namespace) -> int:
    """Import, and say what was read; 0, or 2 if any file was refused."""
    from empirical.logs.detect import Reading
    from empirical.published import import_logs

    columns = dict(_pair("--column", item) for item in args.column)
    given = {key: _value(text) for key, text in (_pair("--set", item) for item in args.set)}
    if args.iterations_per_epoch is not None and args.iterations_per_epoch < 1:
        raise ValueError(f"`--iterations-per-epoch` must be >= 1; got {args.iterations_per_epoch}.")
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise ValueError(f"`--column` must name columns of a training log; got {unknown}; see `import --help`.")
    reading = Reading(columns=columns, iterations_per_epoch=args.iterations_per_epoch)
    done = import_logs(args.paths, args.out, keep_going=args.keep_going, given=given, reading=reading)
    known = {item.run_id for item in done.known}
    stopped = bool(done.refused) and not args.keep_going
    for item in done.records:
        print(_line(item, "read" if stopped else "known" if item.run_id in known else "written"))
        for remark in item.remarks:
            print(f"  {item.log.label}:{remark.line}: no row: {remark.text}", file=sys.stderr)
        if item.superseded_lines:
            lines = ", ".join(str(line) for line in item.superseded_lines)
            print(f"  {item.log.label}: lines replaced by a restart: {lines}", file=sys.stderr)
    for message in done.refused:
        print(message, file=sys.stderr)
    for path in done.others:
        print(f"  not a log by its name: {path}", file=sys.stderr)
    if stopped:
        print("import: nothing was written; --keep-going imports the other files", file=sys.stderr)
    print(f"{len(done.written)} runs written, {len(done.known)} known already, {len(done.refused)} refused")
    return UNUSABLE if done.refused else 0


def _line(item: LoggedRun, state: str) -> str:
    from empirical.logs.decays import find_decays

    log = item.log
    found = find_decays(log.columns.epoch, log.columns.learning_rate)
    decays = ", ".join(f"{decay.epoch} (x{decay.ratio:.3g})" for decay in found) or "none"
    return (
        f"{state:8s}{item.run_id}  {log.label}  {item.format}, {len(log.columns.epoch)} epochs, "
        f"{log.dataset or 'data set unknown'}, {log.method or 'method unknown'}, decays: {decays}"
        f"{'' if log.diverged is None else f', diverged in epoch {log.diverged}'}"
    )


def _pair(option: str, item: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator or not key.strip() or not value.strip():
        raise ValueError(f"`{option}` must be NAME=VALUE; got {item!r}.")
    return key.strip(), value.strip()


def _value(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (bool, int, float, str)) else text
