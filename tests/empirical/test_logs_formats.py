"""Logs of every format are read to the last digit, and what cannot be read is named by file and line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.logs.columns import COLUMNS, canonical_name
from empirical.logs.detect import Reading, Source, find_sources, read_log
from empirical.logs.events import masked_crc
from empirical.logs.table import LogError, TrainingLog
from tests.empirical import log_writing as writing

COLUMN_CASES = [
    ("Train Robust Acc", "train_robust_accuracy"),
    ("Test Time", "test_seconds"),
    ("LR", "learning_rate"),
    ("lr", "learning_rate"),
    ("learningRate", "learning_rate"),
    ("test/adv_loss", "test_robust_loss"),
    ("val_pgd_acc (%)", "validation_robust_accuracy"),
    ("eval/clean_loss", "test_loss"),
    ("Loss/train", "train_loss"),
    ("train_robust_loss", "train_robust_loss"),
    ("loss", None),
    ("test", None),
    ("train test loss", None),
    ("clean robust test loss", None),
    ("test_loss_ema", None),
]


def read(path: Path, **columns: str) -> TrainingLog:
    sources, _ = find_sources(path)
    (source,) = sources
    return read_log(source, tuple(item.read_bytes() for item in source.paths), Reading(columns=columns))


def faults(path: Path, **columns: str) -> str:
    with pytest.raises(LogError) as caught:
        read(path, **columns)
    return str(caught.value)


@pytest.mark.parametrize(("name", "expected"), COLUMN_CASES)
def test_a_columns_name_is_read_by_its_words(name, expected):
    assert canonical_name(name) == expected


def test_every_canonical_name_means_itself():
    assert [canonical_name(name) for name in COLUMNS] == list(COLUMNS)


def same(log: TrainingLog, columns: dict[str, np.ndarray], digits: int) -> None:
    for name in writing.CANONICAL[3:]:
        np.testing.assert_allclose(log.columns[name], columns[name], rtol=0, atol=0.51 * 10.0**-digits)


def test_a_text_log_is_read_with_its_arguments(tmp_path):
    columns = writing.training_run()
    (tmp_path / "output.log").write_text(writing.text_log(columns))
    log = read(tmp_path / "output.log")
    assert log.format == "text" and not log.remarks
    assert log.arguments["attack"] == "pgd" and log.arguments["awp_size"] == 0 and log.arguments["seed"] == 0
    same(log, columns, 4)


def test_notices_warnings_and_validation_lines_are_kept_apart(tmp_path):
    columns = writing.training_run(epochs=20, decays=(), fall=(), rise=(), train_fall=())
    lines = writing.text_log(columns).splitlines()
    lines.insert(4, "UserWarning: something the library said")
    for row in range(20):
        at = next(i for i, line in enumerate(lines) if f" - {row} \t" in line)
        lines.insert(at + 1, f"[2024/05/06 07:08:09] - validation {0.5 + row / 100:.4f} \t 0.8000 \t 1.2000 \t 0.5000")
    path = tmp_path / "output.log"
    path.write_text("\n".join(lines) + "\n")
    log = read(path)
    assert [(remark.line, remark.text) for remark in log.remarks] == [(7, "UserWarning: something the library said")]
    np.testing.assert_allclose(log.columns["validation_loss"], 0.5 + np.arange(20) / 100)
    np.testing.assert_allclose(log.columns["validation_robust_accuracy"], 0.5)


def test_a_restart_replaces_the_epochs_it_trained_again(tmp_path):
    first, again = writing.training_run(seed=1), writing.training_run(seed=2)
    text = writing.text_log(first, rows=range(80))
    text += "[2024/05/06 09:00:00] - Resuming at epoch 70\n" + writing.text_log(again, rows=range(70, 120))
    path = tmp_path / "output.log"
    path.write_text(text)
    log = read(path)
    assert log.restarts == (70,)
    assert log.superseded == tuple(range(73, 83))  # two lines of head, then epoch e on line e + 3
    expected = np.r_[first["test_robust_loss"][:70], again["test_robust_loss"][70:]]
    np.testing.assert_allclose(log.columns["test_robust_loss"], expected, atol=5.1e-5)
    assert [remark.text for remark in log.remarks] == ["Resuming at epoch 70"]


@pytest.mark.parametrize(("delimiter", "name"), [(",", "csv"), (";", "csv"), ("\t", "tsv")])
def test_a_table_is_read_whatever_separates_it(tmp_path, delimiter, name):
    columns = writing.training_run(seed=4)
    log = read(writing.table(columns, tmp_path / f"run.{name}", delimiter=delimiter))
    assert log.format == name
    same(log, columns, 5)


def test_a_mapping_names_columns_and_per_cent(tmp_path):
    columns = writing.training_run(seed=4)
    names = list(writing.CANONICAL)
    names[names.index("test_robust_accuracy")] = "PGD-20"
    names[names.index("test_robust_loss")] = "J"
    shown = dict(columns, test_robust_accuracy=100 * columns["test_robust_accuracy"])
    path = writing.table(shown, tmp_path / "run.csv", names=names)
    log = read(path, test_robust_accuracy="PGD-20%", test_robust_loss="J")
    np.testing.assert_allclose(log.columns["test_robust_accuracy"], columns["test_robust_accuracy"], atol=1e-6)
    np.testing.assert_allclose(log.columns["test_robust_loss"], columns["test_robust_loss"], atol=1e-5)
    assert read(path).unread_columns == ("J", "PGD-20")
    assert "must name a column of the file; got 'absent'" in faults(path, test_loss="absent")


def test_json_lines_are_flattened_and_their_iterations_passed_over(tmp_path):
    columns = writing.training_run(seed=5)
    path = writing.json_lines(columns, tmp_path / "metrics.jsonl")
    lines = path.read_text().splitlines()
    extra = [f'{{"kind": "iteration", "epoch": 60, "iteration": {i}, "loss": 1.0}}' for i in range(7)]
    path.write_text("\n".join([*lines[:62], *extra, *lines[62:]]) + "\n")
    log = read(path)
    assert log.arguments == {"dataset": "cifar10", "method": "at", "seed": 3, "batch_size": 128}
    assert [remark.text for remark in log.remarks] == ["7 lines of single iterations passed over"]
    np.testing.assert_array_equal(log.columns["test_robust_loss"], columns["test_robust_loss"])


def test_lines_of_one_epoch_are_joined_unless_they_disagree(tmp_path):
    path = tmp_path / "metrics.jsonl"
    halves = [f'{{"epoch": {e}, "lr": 0.1, "train_loss": 1.5}}\n{{"epoch": {e}, "test_loss": 2.5}}' for e in range(12)]
    path.write_text("\n".join(halves) + "\n")
    assert read(path).columns["test_loss"].tolist() == [2.5] * 12
    path.write_text("\n".join([*halves, '{"epoch": 3, "test_loss": 2.6}']) + "\n")
    assert f"{path}:25: epoch 3 comes twice (first on line 7) with another `test_loss`" in faults(path)


def test_the_record_checksum_is_the_published_one():
    # CRC-32C of "123456789" is 0xE3069283 (Koopman 2002; RFC 3720, B.4); a record stores it rotated and offset.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc(b"") == 0xA282EAD8


@pytest.mark.filterwarnings("ignore")
def test_event_files_of_tensorboards_own_writer_are_read(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    columns = writing.training_run(seed=6)
    start = [0, 70]
    for part in range(2):
        writer = EventFileWriter(str(tmp_path / "run"), filename_suffix=f".{part}")
        for epoch in range(start[part], 120 if part else 80):
            wrong = 0.01 if not part and epoch >= 70 else 0.0  # what the restart replaces must not come through
            scalars = {name: float(columns[name][epoch]) + wrong for name in writing.CANONICAL[3:]}
            values = [
                Summary.Value(tag=name.replace("_", "/", 1), simple_value=value) for name, value in scalars.items()
            ]
            tensor = TensorProto(dtype=2, double_val=[scalars["test_loss"]])
            values.append(Summary.Value(tag="val/loss", tensor=tensor))
            values.append(Summary.Value(tag="images", image=Summary.Image(height=1, width=1)))
            writer.add_event(Event(wall_time=1e9 + 1e4 * part + epoch, step=epoch, summary=Summary(value=values)))
        writer.close()
    log = read(tmp_path)
    assert log.format == "tensorboard" and log.restarts == (70,)
    np.testing.assert_allclose(log.columns["test_robust_loss"], columns["test_robust_loss"], rtol=1.2e-7)  # 1 ulp
    np.testing.assert_array_equal(log.columns["validation_loss"], columns["test_loss"])
    assert log.columns["learning_rate"][0] == 0.1  # not the single-precision 0.10000000149


def scalar_event(step: int, tag: str, value: float) -> bytes:
    """An Event with one scalar, written by hand from the field numbers."""
    name = tag.encode()
    inner = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(inner)]) + inner
    varint = bytes([step & 0x7F | 0x80, step >> 7]) if step > 127 else bytes([step])
    return b"\x09" + struct.pack("<d", 1.0 + step) + b"\x10" + varint + b"\x2a" + bytes([len(summary)]) + summary


def event_file(path: Path, steps: range, *, epoch_tag: bool = False) -> Path:
    content = b""
    for index, step in enumerate(steps):
        scalars = {"lr": 0.1, "test/loss": 2.0 - 0.01 * index} | ({"epoch": float(index)} if epoch_tag else {})
        for tag, value in scalars.items():
            content += writing.event_record(scalar_event(step, tag, value), masked_crc)
    path.write_bytes(content)
    return path


def test_steps_become_epochs_only_when_told_how(tmp_path):
    path = event_file(tmp_path / "events.out.tfevents.1", range(0, 2000, 100))
    assert "steps rise by 100 and no epoch is logged: give --iterations-per-epoch" in faults(path)
    source = Source(paths=(path,), label="run")
    log = read_log(source, (path.read_bytes(),), Reading(columns={}, iterations_per_epoch=100))
    assert log.epochs.tolist() == list(range(20))
    assert read(event_file(tmp_path / "events.out.tfevents.1", range(0, 2000, 100), epoch_tag=True)).epochs[-1] == 19


def test_damaged_event_files_are_named_by_record(tmp_path):
    path = event_file(tmp_path / "events.out.tfevents.1", range(20))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert f"{path}:40: the file ends in mid-record" in faults(path)
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert "checksum: the file is damaged" in faults(path)


# --- bad input ---------------------------------------------------------------------------------------------------


def broken(change) -> str:
    lines = writing.text_log(writing.training_run(epochs=30, decays=(), fall=(), rise=(), train_fall=())).splitlines()
    return "\n".join(change(lines)) + "\n"


def edit(lines: list[str], number: int, old: str, new: str) -> list[str]:
    assert old in lines[number - 1]
    return [line.replace(old, new, 1) if i == number - 1 else line for i, line in enumerate(lines)]


def last_cell(lines: list[str], number: int, new: str) -> list[str]:
    head, _, _ = lines[number - 1].rpartition(" ")
    return [*lines[: number - 1], f"{head} {new}", *lines[number:]]


BAD_TEXT = [
    ("nan", lambda lines: last_cell(lines, 10, "nan"), ":10: `test_robust_accuracy` must be finite; got nan"),
    (
        "accuracy",
        lambda lines: last_cell(lines, 11, "45.2"),
        ":11: `test_robust_accuracy` must be a fraction in [0, 1]",
    ),
    ("word", lambda lines: last_cell(lines, 12, "best!"), ":12: `test_robust_accuracy` must be a number; got 'best!'"),
    (
        "short",
        lambda lines: [*lines[:12], lines[12][:60], *lines[13:]],
        ":13: a row must have the header's 12 fields; got",
    ),
    ("twice", lambda lines: [*lines[:9], lines[8], *lines[9:]], ":10: epoch 6 comes twice (first on line 9)"),
    ("missing", lambda lines: lines[:8] + lines[10:], ":9: epochs 6 to 7 are missing before epoch 8"),
    ("start", lambda lines: lines[:2] + lines[7:], ":3: epochs 0 to 4 are missing: the log starts at 5"),
    (
        "negative",
        lambda lines: edit(lines, 9, " 0.1000", " -0.100"),
        ":9: `learning_rate` must be at least 0; got -0.1",
    ),
    ("head", lambda lines: [lines[0], *lines[2:]], ":2: a row stands before any header"),
    ("namespace", lambda lines: [lines[0][:60], *lines[1:]], ":1: the namespace line cannot be read: is it cut?"),
    (
        "two columns of one meaning",
        lambda lines: edit(lines, 2, "Test Robust Loss", "Test Loss"),
        ":2: `test_loss` must be one column; the names ['Test Loss', 'Test Loss'] all mean it",
    ),
    ("header alone", lambda lines: lines[:2], ": holds no epoch"),
]


@pytest.mark.parametrize(("name", "change", "expected"), BAD_TEXT, ids=[case[0] for case in BAD_TEXT])
def test_a_bad_line_is_named_with_its_rule_and_value(tmp_path, name, change, expected):
    path = tmp_path / "output.log"
    path.write_text(broken(change))
    assert f"{path}{expected}" in faults(path)


def test_a_log_cut_in_mid_line_is_named_wherever_it_is_cut(tmp_path):
    text = writing.text_log(writing.training_run(epochs=30, decays=(), fall=(), rise=(), train_fall=()))
    path = tmp_path / "output.log"
    start = text.rindex("\n", 0, len(text) - 1) + 1
    for end in range(start + 25, len(text)):  # from the middle of the last line's stamp to just short of its newline
        path.write_text(text[:end])
        assert f"{path}:32: " in faults(path)


def test_a_table_cut_in_its_last_number_is_noticed(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("epoch,lr,test_loss\n" + "".join(f"{e},0.1000,1.{e:04d}\n" for e in range(30)))
    whole = path.read_text()
    path.write_text(whole[:-3])
    assert f"{path}:31: the file ends in mid-line: '1.00' has fewer digits" in faults(path)
    path.write_text(whole[:-1])  # only the newline is missing: all digits are there
    assert len(read(path).epochs) == 30


BAD_FILES = [
    ("empty", b"", ": the file is empty"),
    ("blank", b"\n  \n", ": the file holds only blanks"),
    ("binary", b"PK\x03\x04\x00\x00rest", ":1: a binary file: byte 4 is no text"),
    ("latin", b"epoch,lr\n0,0.1\n\xff\xfe\n", ":3: a binary file: byte 15 is no text"),
    ("prose", b"This is a README.\nIt tells a story.\n", ":1: unknown format"),
    (
        "no rate",
        b"epoch,test_loss\n0,1.5\n1,1.4\n",
        ":2: a log must have a learning-rate column; got the columns epoch",
    ),
    ("no loss", b"epoch,lr\n0,0.1\n1,0.1\n", ":2: a log must have a loss column"),
    ("no epoch", b"lr,test_loss\n0.1,1.5\n", ":1: a table must have an epoch column"),
    ("hole", b"epoch,lr,test_loss\n0,0.1,1.5\n1,0.1,\n", ":3: `test_loss` must be a number; got ''"),
    ("two", b"epoch,lr,test_loss,eval loss\n0,0.1,1.5,1\n", ":1: `test_loss` must be one column"),
    ("swapped", b"epoch,lr,test_loss,test_acc\n0,0.1,0.4,1.51\n", ":2: `test_accuracy` must be a fraction"),
    (
        "json",
        b'{"epoch": 0, "lr": 0.1, "test_loss": 1}\n{"epoch": 1, "lr": 0.1, "test_',
        ":2: the file ends in mid-line",
    ),
    (
        "json twice",
        b'{"epoch": 0, "lr": 0.1, "test_loss": 1, "test": {"loss": 2}}\n',
        ":1: `test_loss` must be one column; the names ['test_loss', 'test/loss'] all mean it",
    ),
    ("json 1e300", b'{"epoch": 0, "lr": 0.1, "test_loss": 1e300}\n', ":1: `test_loss` must be at most 3.4e+38"),
    ("json epoch 1e300", b'{"epoch": 1e300, "lr": 0.1, "test_loss": 1.0}\n', ":1: `epoch` must be at most 3.4e+38"),
    (
        "json 400 digits",
        b'{"epoch": 0, "lr": 0.1, "test_loss": ' + b"9" * 400 + b"}\n",
        ":1: `test_loss` must be a number",
    ),
    ("json empty object", b'{"epoch": 0, "lr": 0.1, "test_loss": {}}\n', ":1: `test_loss` must be a number; got {}"),
    ("json deep list", b'{"epoch": 0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", ":1: not JSON: nested deeper"),
    ("json deep object", b'{"a": ' * 40 + b"1" + b"}" * 40 + b"\n", ":1: not JSON: nested deeper than 32 levels"),
    ("json nan", b'{"epoch": 0, "lr": NaN, "test_loss": 0.1}\n', ":1: `learning_rate` must be finite; got nan"),
    ("json null", b'{"epoch": 0, "lr": 0.1, "test_loss": null}\n', ":1: `test_loss` must be a number; got null"),
    ("json list", b'{"epoch": 0, "lr": 0.1, "test_loss": 1}\n[1]\n', ":2: must be a JSON object; got list"),
]


@pytest.mark.parametrize(("name", "content", "expected"), BAD_FILES, ids=[case[0] for case in BAD_FILES])
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, expected):
    path = tmp_path / "run.log"
    path.write_bytes(content)
    assert f"{path}{expected}" in faults(path)


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        (["1,1", "nan,nan", "nan,inf"], 1),  # for good
        (["1,1", "1,-nan", "1,nan"], 1),  # of one column alone: batch norm's averages are lost, the batches are not
        (["nan,nan", "nan,nan"], 0),  # from the start
        (["1,1", "nan,nan", "1,1"], None),  # finite again: the weights never were lost
        (["nan,1", "nan,1"], None),  # a column that was never filled
    ],
)
def test_a_run_diverged_if_a_loss_is_lost_for_good(tmp_path, losses, diverged):
    path = tmp_path / "run.csv"
    path.write_text("epoch,lr,test_loss,train_loss\n" + "".join(f"{e},0.1,{row}\n" for e, row in enumerate(losses)))
    if diverged is None:
        assert "`test_loss` must be finite; got nan" in faults(path)
    else:
        log = read(path)
        assert log.diverged == diverged
        assert np.isnan(log.columns["train_loss"][diverged:]).all()


def test_many_faults_are_counted_and_their_lines_listed(tmp_path):
    lines = ["epoch,lr,test_loss", *(f"{e},0.1,{'nan' if e % 2 else 1.0}" for e in range(41))]
    path = tmp_path / "run.csv"
    path.write_text("\n".join(lines) + "\n")
    message = faults(path)
    assert len(message.splitlines()) == 6
    assert message.endswith("and 15 more, on lines 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41")


def test_evaluation_every_few_epochs_is_a_stride_and_no_gap(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("epoch,lr,test_loss\n" + "".join(f"{e},0.1,1.5\n" for e in range(5, 101, 5)))
    assert len(read(path).epochs) == 20
    path.write_text(path.read_text().replace("50,0.1,1.5\n", ""))
    assert "epochs 46 to 54 are missing before epoch 55" in faults(path)


# --- whatever the bytes ------------------------------------------------------------------------------------------

WHOLE = {
    "text": writing.text_log(
        writing.training_run(epochs=24, decays=(12,), fall=(0.2,), rise=(0.0,), train_fall=(0.2,))
    ),
    "csv": "epoch,lr,test_loss,test_acc\n" + "".join(f"{e},0.1,{2 - e / 50:.3f},0.4\n" for e in range(24)),
    "json": "".join(f'{{"epoch": {e}, "lr": 0.1, "test": {{"loss": {2 - e / 50}}}}}\n' for e in range(24)),
    "events": b"".join(
        writing.event_record(scalar_event(e, tag, 2.0), masked_crc) for e in range(24) for tag in ("lr", "test/loss")
    ),
}


@pytest.mark.parametrize("kind", list(WHOLE))
@given(
    cuts=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
    inserted=st.one_of(
        st.binary(max_size=20), st.sampled_from([b"nan", b"-", b"\n", b"\t", b"1e999", b'"', b"{", b"0"])
    ),
)
@settings(max_examples=80, deadline=None)
def test_damaged_files_are_read_or_refused_but_never_crash(kind, cuts, inserted):
    whole = WHOLE[kind]
    content = whole if isinstance(whole, bytes) else whole.encode()
    start, stop = sorted(cut % (len(content) + 1) for cut in cuts)
    path = Path("run.log" if kind != "events" else "events.out.tfevents.1")
    source = Source(paths=(path,), label="run")
    try:
        log = read_log(source, (content[:start] + inserted + content[stop:],), Reading(columns={}))
    except LogError as refused:
        assert str(refused).startswith(f"{path}:")
        return
    # What is let through keeps every promise: epochs in step, numbers in range.
    assert np.all(np.diff(log.epochs) > 0) and np.isfinite(log.columns["learning_rate"]).all()
    for name, values in log.columns.items():
        seen = values[~np.isnan(values)]
        assert np.isfinite(seen).all()
        if name.endswith("accuracy"):
            assert ((seen >= 0) & (seen <= 1)).all()
