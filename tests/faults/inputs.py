"""Hostile inputs: files and words that no command may take for good, and none may answer with a traceback.

Every case is wrong by construction, so that an exit status of 0 is a silent acceptance. The answer asked for is status
2, a few lines on standard error, and nothing written where results go. Cases run in this process, through the entry
points that the shell calls; memory is capped, and a case that takes longer than `PATIENCE` counts as accepted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.empirical.log_writing import json_lines, table, text_log, training_run

PATIENCE = 60
MEMORY = 16 * 2**30
#: More of standard error than a reader takes in; argparse's usage and the lines of a log's faults come before that.
MANY_LINES = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A command line and the files it names.

    Args:
        name: for the table, ``command/what is wrong``.
        words: the command line, program first; IN and OUT stand for the folders of inputs and of results.
        prepare: writes the files, given the folder that holds IN and OUT.
        statuses: exit statuses that are right.
        keeps: whether OUT exists beforehand and must stay as it is, to the byte; otherwise it must not come to be.
    """

    name: str
    words: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda place: None
    statuses: tuple[int, ...] = (2,)
    keeps: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command said to a case. `fault` is empty if that was right."""

    case: str
    status: int | None
    fault: str
    text: str
    seconds: float


class _TooLongError(BaseException):
    pass


def answer(case: Case, place: Path) -> Answer:
    """Run one case in the empty folder `place`."""
    (place / "IN").mkdir(parents=True)
    case.prepare(place)
    before = _tree(place / "OUT")
    words = [word.replace("OUT", str(place / "OUT")).replace("IN/", f"{place / 'IN'}/") for word in case.words]
    began = time.monotonic()
    status, text = run_words(words)
    seconds = time.monotonic() - began
    after = _tree(place / "OUT")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("usage:", " "))]
    fault = ""
    if status is None:
        fault = "no answer"
    elif "Traceback" in text or status == 70:
        fault = "traceback"
    elif status not in case.statuses:
        fault = f"status {status}"
    elif not lines or len(lines) > MANY_LINES or max(map(len, lines)) > 4000:
        fault = f"{len(lines)} lines of error"
    elif after != before:
        fault = f"wrote {sorted(set(after) - set(before))[:3]}"
    return Answer(case=case.name, status=status, fault=fault, text=text[-2000:], seconds=seconds)


def run_words(words: list[str]) -> tuple[int | None, str]:
    """Exit status (None after too long) and standard error of a command, run in this process."""
    program, *arguments = words
    errors = io.StringIO()

    def give_up(number: int, frame: Any) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(errors),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            status: int | None = _main(program)(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except _TooLongError:
        status = None
    except BaseException:  # what the interpreter would print and end with status 1 for
        errors.write(traceback.format_exc())
        status = 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return status, errors.getvalue()


def _main(program: str) -> Callable[[list[str]], int]:
    import importlib

    return importlib.import_module(f"{program}.__main__").main


@contextlib.contextmanager
def capped_memory(limit: int = MEMORY) -> Iterator[None]:
    """Within: asking for more address space than `limit` bytes fails at once, as it does on a small machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _tree(folder: Path) -> Mapping[str, bytes]:
    if folder.is_symlink() or not folder.is_dir():
        return {"itself": b"a file"} if folder.is_symlink() or folder.exists() else {}
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {"itself": b"a folder", **found}


# -- words ------------------------------------------------------------------------------------------------------------

TINY = (
    "--preset smoke --train-size 32 --test-size 16 --batch-size 16 --epochs 1 --widths 2 --masking-probe 0 --method trades-awp "
    "--quiet --jobs 1 --no-download"
).split()
LONG = "9" * 400
NUMBERS = ("abc", "", " ", "nan", "1/0", "-inf", "1e400", "0x10", "1,2;3", "\u0663\u0664x", "--", "-1e30", LONG + "x")
WHOLE = ("1.5", "1e3", "-1000000", "9" * 30, "9999999999999")
#: Whole-number options that may be as large as one likes: they cost nothing, or they are seeds.
ENDLESS = {
    "split_seed",
    "awp_warmup_epochs",
    "seed",
    "log_window",
    "awp_warmup",
    "evaluation_every",
    "masking_probe",
    "train_probe",
    "evaluation_batch_size",
    "samples",
    "evaluated",
    "chunk",
    "checkpoints",
    "groups",
}


def words_of_training() -> Iterator[Case]:
    """Every option of train with values that it cannot have."""
    from empirical.settings.presets import OVERRIDES

    for name, option in OVERRIDES.items():
        if option.type is bool:
            continue
        values: list[str] = []
        if option.choices:
            values += ["", "no-such", "AT"]
        else:
            values += [value for value in NUMBERS if not (value == "-inf" and name == "none")]
            if option.type in (int, tuple[int, ...]):
                values += [value for value in WHOLE if name not in ENDLESS or not value.isdigit()]
        for value in values:
            yield Case(
                name=f"train/{option.flag}={value[:20]!r}",
                words=("empirical", "train", *TINY, f"{option.flag}={value}", "--out", "OUT"),
            )
    for option, values in {
        "--seed": ("-1", "abc", "1.5", LONG + "x", "", str(2**70)),
        "--seeds": ("0", "-3", "x", "9999999999999"),
        "--jobs": ("-1", "x"),
        "--threads": ("-2", "x"),
        "--device": ("gpu", "", "cuda:99", "mps:x"),
        "--preset": ("cifar", ""),
        "--method": ("pgd", ""),
    }.items():
        for value in values:
            yield Case(
                name=f"train/{option}={value[:20]!r}",
                words=("empirical", "train", *TINY, f"{option}={value}", "--out", "OUT"),
            )
    for grid in (
        "",
        "=",
        "epsilon",
        "epsilon=",
        "epsilon=a",
        "nothing=1",
        "epsilon=1,,x",
        "epsilon=-1",
        "steps=1.5",
        "nesterov=perhaps",
        "epochs=0",
        "seed=1",
        "=3",
        "epsilon=0.1 0.2",
        "batch-size=99999",
    ):
        yield Case(name=f"sweep/--grid={grid!r}", words=("empirical", "sweep", *TINY, f"--grid={grid}", "--out", "OUT"))
    for stages in ("", ",", "trian", "train;measure", "verify,x"):
        yield Case(
            name=f"run/--stages={stages!r}", words=("empirical", "run", *TINY, f"--stages={stages}", "--out", "OUT")
        )
    for option, values in {
        "--seed": ("-1", "abc", "1.5", LONG + "x", ""),
        "--sabotage": ("", "yes", "NOISE"),
        "--jobs": ("-1", "x"),
        "--threads": ("-2", "x"),
        "--device": ("gpu", "cuda:99"),
    }.items():
        for value in values:
            yield Case(
                name=f"controls/{option}={value[:20]!r}",
                words=("empirical", "controls", "--smoke", "--quiet", f"{option}={value}", "--out", "OUT"),
            )
    for text in ("--k 0", "--k", "--no-such", "'", "--replicas -1", "--window 10", "--out elsewhere", "--dtype half"):
        yield Case(
            name=f"run/--measure-options={text!r}",
            words=("empirical", "run", *TINY, f"--measure-options={text}", "--out", "OUT"),
        )


def words_of_measuring(run: Path) -> Iterator[Case]:
    """Every option of measure with values that it cannot have, on a run that could be measured."""
    from empirical.settings.options import MEASURING, options_of

    def prepare(place: Path) -> None:
        shutil.copytree(run, place / "OUT")

    for name, option in options_of(MEASURING).items():
        if option.type is bool:
            continue
        values = ["", "no-such"] if option.choices else [*NUMBERS]
        if option.type is int:
            values += [value for value in WHOLE if name not in ENDLESS or not value.isdigit()]
        for value in values:
            yield Case(
                name=f"measure/{option.flag}={value[:20]!r}",
                words=("empirical", "measure", "OUT", f"{option.flag}={value}", "--jobs=1", "--quiet"),
                prepare=prepare,
            )
    for words in (("--window", "10"), ("--window", "1"), ("--jobs", "-1"), ("--device", "gpu"), ("--k", "100000")):
        yield Case(
            name=f"measure/{'='.join(words)}",
            words=("empirical", "measure", "OUT", *words, "--quiet"),
            prepare=prepare,
        )


# -- places -----------------------------------------------------------------------------------------------------------


def _as_file(place: Path) -> None:
    (place / "OUT").write_text("mine")


def _as_loop(place: Path) -> None:
    (place / "OUT").symlink_to("OUT")


def _as_dangling(place: Path) -> None:
    (place / "OUT").symlink_to("nowhere/at/all")


#: What `theory attribute` reads.
STATE = {"learning_rate": 0.1, "momentum": 0.9, "curvatures": [1.0, 0.3], "noise_variances": [0.2, 0.1]}


def places(run: Path, log: str) -> Iterator[Case]:
    """Results folders that cannot be, for every command that has one."""
    words = {
        "train": ("empirical", "train", *TINY, "--out"),
        "run": ("empirical", "run", *TINY, "--out"),
        "sweep": ("empirical", "sweep", *TINY, "--grid=epsilon=0.1", "--out"),
        "measure": ("empirical", "measure", "IN/run", "--k", "2", "--probes", "2", "--quiet", "--jobs", "1", "--out"),
        "controls": ("empirical", "controls", "--smoke", "--quiet", "--jobs", "1", "--out"),
        "import": ("empirical", "import", "IN/at.log", "--out"),
        "verify": ("empirical", "verify"),
        "rejudge": ("empirical", "rejudge"),
        "validate": ("empirical", "validate"),
        "gate": ("empirical", "gate"),
        "reports build": ("reports", "build"),
        "reports index": ("reports", "index"),
        "reports compare": ("reports", "compare", "IN/run"),
        "theory verify": ("theory", "verify", "--claims", "impulse-response", "--out"),
        "theory rejudge": ("theory", "rejudge"),
        "theory attribute": ("theory", "attribute", "IN/state.json"),
    }

    def filled(prepare: Callable[[Path], None]) -> Callable[[Path], None]:
        def prepared(place: Path) -> None:
            shutil.copytree(run, place / "IN" / "run")
            (place / "IN" / "at.log").write_text(log)
            (place / "IN" / "state.json").write_text(json.dumps(STATE))
            prepare(place)

        return prepared

    for command, beginning in words.items():
        for what, target, prepare in (
            ("a file", "OUT", _as_file),
            ("below a file", "OUT/below", _as_file),
            ("a link to itself", "OUT", _as_loop),
            ("a link to nowhere", "OUT", _as_dangling),
            ("a device", "/dev/null", lambda place: None),
            ("below a device", "/dev/null/x", lambda place: None),
            ("of the kernel", "/proc/nothing/here", lambda place: None),
            ("a name too long", "OUT/" + "x" * 300, lambda place: (place / "OUT").mkdir()),
            ("a NUL in it", "OUT\0x", lambda place: None),
        ):
            yield Case(name=f"{command}/out is {what}", words=(*beginning, target), prepare=filled(prepare), keeps=True)


# -- logs -------------------------------------------------------------------------------------------------------------

CELLS = (
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1",
    "1e999",
    "",
    "abc",
    LONG,
    "0x1F",
    "1,5",
    "null",
    "[]",
    "\u221e",
    "1e-400x",
)


def logs(rng: np.random.Generator) -> Iterator[Case]:
    """Training logs in every format, each spoilt in one place."""
    columns = training_run(epochs=12, decays=(6,), seed=3)
    work = Path("/nonexistent")  # replaced below: the writers of tables want a path
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        table(columns, work / "t.csv")
        table(columns, work / "t.tsv", delimiter="\t")
        json_lines(columns, work / "t.jsonl")
        texts = {
            "log": text_log(columns),
            **{ending: (work / f"t.{ending}").read_text() for ending in ("csv", "tsv", "jsonl")},
        }

    def case(name: str, ending: str, content: bytes) -> Case:
        def prepare(place: Path) -> None:
            (place / "IN" / f"at.{ending}").write_bytes(content)

        return Case(
            name=f"import/{ending}: {name}",
            words=("empirical", "import", f"IN/at.{ending}", "--out", "OUT"),
            prepare=prepare,
        )

    for ending, text in texts.items():
        lines = text.splitlines()
        last = len(lines) - 1
        mark = {"csv": ",", "tsv": "\t"}.get(ending)
        if mark is not None:
            for cell in CELLS:
                row = int(rng.integers(2, last))
                column = int(rng.choice([0, 3, 8, 10]))  # epoch, learning rate, a loss, another one
                cells = lines[row].split(mark)
                cells[column] = cell
                yield case(
                    f"`{cell[:12]}` in column {column} of line {row + 1}",
                    ending,
                    "\n".join([*lines[:row], mark.join(cells), *lines[row + 1 :]]).encode(),
                )
            for count in (1, 2, 11):
                row = int(rng.integers(2, last))
                cut = mark.join(lines[row].split(mark)[:-count])
                yield case(f"{count} cells lost", ending, "\n".join([*lines[:row], cut, *lines[row + 1 :]]).encode())
                more = lines[row] + mark + mark.join(["1"] * count)
                yield case(f"{count} cells more", ending, "\n".join([*lines[:row], more, *lines[row + 1 :]]).encode())
            yield case("no header", ending, "\n".join(lines[1:]).encode())
            yield case("a header alone", ending, lines[0].encode())
            yield case("one name twice", ending, text.replace("test_loss", "train_loss").encode())
        if ending == "jsonl":
            for value in (
                "NaN",
                "Infinity",
                "-Infinity",
                LONG,
                "-" + LONG,
                "1e300",
                "1e400",
                '"0.1"',
                "null",
                "[1]",
                "{}",
                "true",
                "9" * 5000,
            ):
                for key in ("epoch", "lr", "robust_loss"):
                    row = int(rng.integers(2, last))
                    item = json.loads(lines[row])
                    spoilt = (
                        json.dumps(item | {key: "@"})
                        if key != "robust_loss"
                        else json.dumps(item | {"test": item["test"] | {key: "@"}})
                    )
                    yield case(
                        f"{key} {value[:12]}",
                        ending,
                        "\n".join([*lines[:row], spoilt.replace('"@"', value), *lines[row + 1 :]]).encode(),
                    )
            for depth in (200, 2_000, 100_000):
                for opening, closing in (("[", "]"), ('{"a":', "}")):
                    deep = opening * depth + "1" + closing * depth
                    yield case(
                        f"{depth} deep {opening}",
                        ending,
                        "\n".join([*lines[:3], '{"epoch": 2, "x": ' + deep + "}", *lines[3:]]).encode(),
                    )
                    yield case(f"{depth} deep {opening} alone", ending, (deep + "\n").encode())
            yield case("a list", ending, b"[1, 2, 3]\n")
            yield case("half a line", ending, text[: len(text) // 2].encode())
        for _ in range(3):
            place = int(rng.integers(1, len(text) - 1))
            yield case(f"a NUL at byte {place}", ending, text[:place].encode() + b"\0" + text[place:].encode())
            yield case(
                f"not UTF-8 at byte {place}", ending, text[:place].encode() + b"\xff\xfe" + text[place:].encode()
            )
        first = last - 5
        yield case("an epoch lost", ending, "\n".join([*lines[:first], *lines[first + 1 :]]).encode())
        yield case(
            "an epoch twice",
            ending,
            "\n".join([*lines[: first + 1], _again(lines[first], ending), *lines[first + 1 :]]).encode(),
        )
        yield case(
            "epochs backwards",
            ending,
            "\n".join([*lines[: 2 + (ending == "log")], *reversed(lines[2 + (ending == "log") :])]).encode(),
        )
        yield case("empty", ending, b"")
        yield case("blank", ending, b" \n\n \t\n")
        yield case("a byte-order mark alone", ending, b"\xef\xbb\xbf")
        yield case("UTF-16", ending, text.encode("utf-16"))
        yield case("random bytes", ending, rng.bytes(4096))
        yield case("a poem", ending, b"roses are red\nviolets are blue\n" * 20)
        yield case("one line of a million letters", ending, b"x" * 1_000_000)
    for count in (0, 1, 11, 12, 40):
        yield case(f"{count} random bytes", "tfevents", rng.bytes(count))
    for name, words in {
        "no such file": ("IN/none.log",),
        "a folder without logs": ("IN",),
        "a NUL in the name": ("IN/a\0b.log",),
        "a name too long": ("IN/" + "x" * 300,),
        "a device": ("/dev/zero",),
        "--column without a name": ("IN/at.csv", "--column", "=x"),
        "--column unknown": ("IN/at.csv", "--column", "wrong=x"),
        "--column absent": ("IN/at.csv", "--column", "test_loss=absent"),
        "--set without a value": ("IN/at.csv", "--set", "seed="),
        "--iterations-per-epoch 0": ("IN/at.csv", "--iterations-per-epoch", "0"),
        "--iterations-per-epoch x": ("IN/at.csv", "--iterations-per-epoch", "x"),
    }.items():

        def prepare(place: Path) -> None:
            (place / "IN" / "at.csv").write_text(texts["csv"])

        yield Case(
            name=f"import/{name}",
            words=("empirical", "import", *(word if word != "IN" else "IN/empty" for word in words), "--out", "OUT"),
            prepare=(lambda place: (place / "IN" / "empty").mkdir()) if words == ("IN",) else prepare,
        )


def _again(line: str, ending: str) -> str:
    """The line with another value at its end, so that it is no repetition that loses nothing."""
    return line.replace("}", ', "more": 1}', 1).replace('loss": ', 'loss": 9') if ending == "jsonl" else line


# -- records ----------------------------------------------------------------------------------------------------------


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every value inside JSON."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from paths_of(item, (*path, index))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with the value at `path` replaced; `...` removes it."""
    if not path:
        return new
    head, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and new is ...:
        del copy[head]
    else:
        copy[head] = replaced(copy[head], tuple(rest), new)
    return copy


WRONG: tuple[Any, ...] = (..., None, "text", -1, [], {}, [[1, "a"]], True, 1e308, "9" * 50)


def evidence(results: Path, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """A folder of evidence with one file damaged, to every command that reads it."""
    readers = {
        "verify": ("empirical", "verify", "OUT"),
        "build": ("reports", "build", "OUT", "--markdown"),
        "gate": ("empirical", "gate", "OUT", "--require", "decay-dip-beyond-placebo"),
        "rejudge": ("empirical", "rejudge", "OUT"),
    }
    # What only a typed record says: fields that no other reader knows.
    typed = ("verify", "gate", "rejudge")
    files = sorted(path.relative_to(results) for path in (results / "evidence").glob("*/*.json"))
    top = ("schema", "run_id", "experiment", "seed", "setting", "measured", "arrays", "provenance")

    def case(reader: str, file: Path, what: str, spoil: Callable[[Path], None]) -> Case:
        def prepare(place: Path) -> None:
            shutil.copytree(results, place / "OUT")
            spoil(place / "OUT" / file)

        return Case(name=f"{reader}/{file.parent.name}: {what}", words=readers[reader], prepare=prepare, keeps=True)

    for number in range(count):
        reader = list(readers)[number % len(readers)]
        file = files[int(rng.integers(len(files)))]
        record = json.loads((results / file).read_text())
        field = top[number // len(readers) % len(top)]
        wrong = WRONG[int(rng.integers(len(WRONG)))]
        if _harmless(record, field, wrong):
            wrong = ...

        def spoil(path: Path, field: str = field, wrong: Any = wrong, record: Any = record) -> None:
            path.write_text(json.dumps(replaced(record, (field,), wrong)))

        yield case(reader, file, f"`{field}` {'lost' if wrong is ... else repr(wrong)[:20]}", spoil)
    for reader in readers:
        file = files[0]
        contents: dict[str, bytes] = {
            "empty": b"",
            "no JSON": b"{",
            "a list": b"[null]",
            "null": b"null",
            "NaN": b"NaN",
            "deep": b"[" * 100_000,
            "not UTF-8": b"\xff\xfe{}",
            "a long number": b'{"schema": ' + b"9" * 5000 + b"}",
        }
        for what, content in contents.items():
            yield case(reader, file, what, lambda path, content=content: path.write_bytes(content))
        for what, spoil in {
            "arrays that it does not name": lambda path: path.write_text(
                json.dumps(json.loads(path.read_text()) | {"arrays": {}})
            ),
            "arrays that are gone": lambda path: path.with_suffix(".npz").unlink(),
            "arrays of another run": lambda path: np.savez(path.with_suffix(".npz"), other=np.ones(3)),
            "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
        }.items():
            yield case(reader, file, what, spoil)
    record = json.loads((results / files[0]).read_text())
    inside = [way for way in paths_of(record["measured"]) if way and not set(way[:-1]) & set(OPEN)]
    for number in range(count):
        reader = typed[number % len(typed)]
        way = inside[int(rng.integers(len(inside)))]
        value = record["measured"]
        for key in way:
            value = value[key]
        others = (7, "x", [7], {"x": 7}) if isinstance(value, (dict, list)) else ([7], {"x": 7}, {})
        choices = [wrong for wrong in others if type(wrong) is not type(value)]
        if not isinstance(way[-1], int):  # one entry less of a list is no fault
            choices.append(...)
        wrong = choices[int(rng.integers(len(choices)))]

        def spoil(path: Path, way: tuple[Any, ...] = way, wrong: Any = wrong) -> None:
            path.write_text(json.dumps(replaced(record, ("measured", *way), wrong)))

        yield case(reader, files[0], f"`{'.'.join(map(str, way))}` {'lost' if wrong is ... else repr(wrong)}", spoil)


#: Fields of a record that are mappings of any names.
OPEN = ("arguments", "inferred")


def _harmless(record: Any, field: str, wrong: Any) -> bool:
    """Whether a wrong value is one that the field could have had, in a file that was not edited."""
    return field == "provenance" and isinstance(wrong, dict)


def verdicts(results: Path, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """``verdicts.json`` with one value lost or wrong."""
    readers = {
        "build": ("reports", "build", "OUT", "--markdown"),
        "compare": ("reports", "compare", "OUT", "OUT"),
        "rejudge": ("empirical", "rejudge", "OUT"),
        "index": ("reports", "index", "IN/all"),
        "gate": ("empirical", "gate", "OUT", "--require", "decay-dip-beyond-placebo"),
        "theory gate": ("theory", "gate", "OUT", "--require", "decay-dip-beyond-placebo"),
    }
    stored = json.loads((results / "verdicts.json").read_text())

    def case(reader: str, what: str, content: bytes) -> Case:
        def prepare(place: Path) -> None:
            shutil.copytree(results, place / "OUT")
            (place / "OUT" / "verdicts.json").write_bytes(content)
            shutil.copytree(place / "OUT", place / "IN" / "all" / "one")

        return Case(name=f"{reader}/verdicts: {what}", words=readers[reader], prepare=prepare, keeps=True)

    for reader in readers:
        for what, content in {
            "[null]": b"[null]",
            "empty": b"",
            "null": b"null",
            "a number": b"3",
            "half": json.dumps(stored).encode()[: len(json.dumps(stored)) // 2],
            "deep": b"[" * 100_000,
            "not UTF-8": b"\xff\xfe[]",
            "numbers": b"[1, 2]",
            "an empty object": b"[{}]",
        }.items():
            yield case(reader, what, content)
    names = list(readers)
    required = ("claim", "outcome", "kind", "estimate", "interval", "alpha", "evidence", "decoys", "note", "subject")
    listed = stored if isinstance(stored, list) else stored["verdicts"]
    for number in range(count):
        index = int(rng.integers(len(listed)))
        field = required[number % len(required)]
        wrong = (..., 3.5, {"a": 1}, [None, "x"])[int(rng.integers(4))]
        if field not in listed[index] or (field == "estimate" and wrong == 3.5):
            wrong, field = ..., "claim"
        edited = list(listed)
        edited[index] = replaced(edited[index], (field,), wrong)
        content = json.dumps(edited if isinstance(stored, list) else stored | {"verdicts": edited}).encode()
        yield case(names[number % len(names)], f"`{field}` {'lost' if wrong is ... else repr(wrong)[:20]}", content)


def checkpoints(run: Path, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Checkpoints that are damaged, foreign or no checkpoint, to measure and to gate."""
    (whole, *_) = sorted(run.glob("runs/*/checkpoints/*.pt"))
    content = whole.read_bytes()
    commands = {
        "measure": ("empirical", "measure", "IN/c.pt", "--out", "OUT", "--k", "2", "--quiet", "--jobs", "1"),
        "gate": ("empirical", "gate", "IN/c.pt", "--k", "2"),
    }

    def case(command: str, what: str, spoilt: bytes) -> Case:
        return Case(
            name=f"{command}/checkpoint: {what}",
            words=commands[command],
            prepare=lambda place: (place / "IN" / "c.pt").write_bytes(spoilt) and None,
        )

    for command in commands:
        for what, spoilt in {
            "empty": b"",
            "text": b"hello",
            "random": rng.bytes(5000),
            "without its end": content[:-500],
            "without its beginning": content[500:],
            "a zip of nothing": b"PK\x05\x06" + b"\0" * 18,
        }.items():
            yield case(command, what, spoilt)
        for _ in range(count):
            position = int(rng.integers(8 * len(content)))
            flipped = bytearray(content)
            flipped[position // 8] ^= 1 << position % 8
            yield case(command, f"bit {position} flipped", bytes(flipped))


# -- theory -----------------------------------------------------------------------------------------------------------


def theory(rng: np.random.Generator) -> Iterator[Case]:
    """Matrices that are none, settings out of range, sizes beyond any machine."""
    good = np.diag([1.0, 0.3])
    bad: dict[str, Any] = {
        "NaN": np.array([[1.0, np.nan], [np.nan, 1.0]]),
        "infinite": np.array([np.inf, 1.0]),
        "not symmetric": np.array([[1.0, 5.0], [0.0, 1.0]]),
        "indefinite": np.diag([1.0, -1.0]),
        "of three axes": np.ones((2, 2, 2)),
        "not square": np.ones((2, 3)),
        "empty": np.zeros((0, 0)),
        "a number": np.array(3.0),
        "text": np.array(["a", "b"]),
        "complex": np.array([1j, 2.0]),
        "of objects": None,
        "another size": np.diag([1.0, 2.0, 3.0]),
    }
    for command in ("solve", "simulate"):
        out = ("--out", "OUT" if command == "simulate" else "OUT/x.npz")
        for side in ("hessian", "noise"):
            for what, matrix in bad.items():

                def prepare(place: Path, side: str = side, matrix: Any = matrix) -> None:
                    for name in ("hessian", "noise"):
                        np.save(place / "IN" / f"{name}.npy", good)
                    if matrix is None:
                        np.save(place / "IN" / f"{side}.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
                    else:
                        np.save(place / "IN" / f"{side}.npy", matrix)

                yield Case(
                    name=f"theory {command}/{side} {what}",
                    words=(
                        "theory",
                        command,
                        "--hessian",
                        "IN/hessian.npy",
                        "--noise",
                        "IN/noise.npy",
                        "--learning-rate",
                        "0.1",
                        *out,
                    ),
                    prepare=prepare,
                )
            whole = io.BytesIO()
            np.save(whole, good)
            for what, content in {
                "no file": None,
                "empty": b"",
                "text": b"1 2 3",
                "half": whole.getvalue()[:-8],
                "a zip": b"PK\x03\x04" + rng.bytes(60),
                "random": rng.bytes(200),
            }.items():

                def prepare(place: Path, side: str = side, content: bytes | None = content) -> None:
                    for name in ("hessian", "noise"):
                        np.save(place / "IN" / f"{name}.npy", good)
                    path = place / "IN" / f"{side}.npy"
                    path.unlink()
                    if content is not None:
                        path.write_bytes(content)

                yield Case(
                    name=f"theory {command}/{side} file: {what}",
                    words=(
                        "theory",
                        command,
                        "--hessian",
                        "IN/hessian.npy",
                        "--noise",
                        "IN/noise.npy",
                        "--learning-rate",
                        "0.1",
                        *out,
                    ),
                    prepare=prepare,
                )

        def prepare(place: Path) -> None:
            for name in ("hessian", "noise"):
                np.save(place / "IN" / f"{name}.npy", good)

        options = {
            "--learning-rate": ("0", "-1", "nan", "inf", "abc", "1e300", ""),
            "--momentum": ("1", "-1.5", "nan", "x", "2"),
            "--weight-decay": ("-1", "nan", "x"),
            "--dampening": ("2", "nan", "x"),
        }
        if command == "simulate":
            options |= {
                "--steps": ("0", "-1", "x", "1.5", "9999999999999"),
                "--replicas": ("0", "1", "-1", "x", "9999999999999"),
                "--burn-in": ("-1", "x", "9999999999999"),
                "--seed": ("-1", "x"),
                "--noise-law": ("cauchy", ""),
            }
        for option, values in options.items():
            for value in values:
                rate = () if option == "--learning-rate" else ("--learning-rate", "0.1")
                yield Case(
                    name=f"theory {command}/{option}={value}",
                    words=(
                        "theory",
                        command,
                        "--hessian",
                        "IN/hessian.npy",
                        "--noise",
                        "IN/noise.npy",
                        *rate,
                        f"{option}={value}",
                        *out,
                    ),
                    prepare=prepare,
                )
    for number in range(40):
        field = list(STATE)[number % len(STATE)]
        wrong = (..., None, "text", -1, [], {}, [[1, "a"]], True, [1.0], 1e308)[int(rng.integers(10))]
        if field == "momentum" and wrong is ...:
            wrong = 1.0
        if field == "learning_rate" and wrong == 1e308:
            wrong = "9" * 50

        def prepare(place: Path, field: str = field, wrong: Any = wrong) -> None:
            (place / "IN" / "a.json").write_text(json.dumps(STATE))
            (place / "IN" / "b.json").write_text(json.dumps(replaced(STATE, (field,), wrong)))

        files = ("IN/a.json", "IN/b.json") if number % 2 else ("IN/b.json", "IN/a.json")
        yield Case(
            name=f"theory attribute/`{field}` {'lost' if wrong is ... else repr(wrong)[:20]}",
            words=("theory", "attribute", *files),
            prepare=prepare,
        )
    for words in (("--claims", "none"), ("--claims", ""), ("--seed", "-1"), ("--seed", "x"), ("--budget", "huge")):
        yield Case(name=f"theory verify/{'='.join(words)}", words=("theory", "verify", *words, "--out", "OUT"))
    for words in (
        ("--sampling", ""),
        ("--sampling", "no"),
        ("--data", "none"),
        ("--seed", "-1"),
        ("--momentum", "0.9999999999"),
    ):
        yield Case(name=f"theory regress/{'='.join(words)}", words=("theory", "regress", *words, "--out", "OUT"))


def every_case(run: Path, judged: Path, *, seed: int = 12) -> Iterator[Case]:
    """All of them.

    Args:
        run: results folder of a small finished run.
        judged: results folder with imported evidence and verdicts.
        seed: of what is drawn.
    """
    children = iter(np.random.default_rng(seed).spawn(6))
    yield from words_of_training()
    yield from words_of_measuring(run)
    yield from places(judged, text_log(training_run(epochs=12, decays=(6,), seed=3)))
    yield from logs(next(children))
    yield from evidence(judged, next(children), 80)
    yield from verdicts(judged, next(children), 60)
    yield from checkpoints(run, next(children), 30)
    yield from theory(next(children))
