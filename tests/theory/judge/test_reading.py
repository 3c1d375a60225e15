"""Whatever is wrong with a file of evidence, of verdicts, of thresholds is one line that names it, and status 2."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from reports.__main__ import main as reports
from theory.__main__ import main as theory
from theory.judge import reading
from theory.judge.evidence import Evidence, may_be_nan
from theory.judge.reading import read_archive, read_array, read_json

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def recorded(tmp_path):
    """A results folder with one verdict on one run that has arrays; `damage` its files, then ask every command."""
    out = tmp_path / "results"
    assert theory(["verify", "--claims", "impulse-response", "--out", str(out)]) == 0
    return out


def said(arguments, capsys, run=theory):
    capsys.readouterr()
    assert run(arguments) == 2, arguments
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "Traceback" not in shown.err, shown.err
    return shown.err


def edit(change):
    """A damage that changes the JSON record."""

    def damage(path: Path) -> None:
        record = json.loads(path.read_text(encoding="utf-8"))
        change(record)
        path.write_text(json.dumps(record), encoding="utf-8")

    return damage


def text(old, new):
    def damage(path: Path) -> None:
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new, 1), encoding="utf-8")

    return damage


def arrays(change, dump=np.savez):
    """A damage that changes the arrays beside the record."""

    def damage(path: Path) -> None:
        beside = path.with_suffix(".npz")
        with np.load(beside) as stored:
            found = {name: stored[name] for name in stored.files}
        found = change(found) or found
        with beside.open("wb") as stream:
            dump(stream, **found)

    return damage


def raw(change):
    def damage(path: Path) -> None:
        beside = path.with_suffix(".npz")
        beside.write_bytes(change(beside.read_bytes()))

    return damage


def encrypted(content: bytes) -> bytes:
    """The flag of encryption set in both headers of the first member."""
    changed = bytearray(content)
    changed[6] |= 1
    changed[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def compressed_with(method):
    def change(path: Path) -> None:
        beside = path.with_suffix(".npz")
        with zipfile.ZipFile(beside) as source:
            members = {name: source.read(name) for name in source.namelist()}
        with zipfile.ZipFile(beside, "w", method) as target:
            for name, content in members.items():
                target.writestr(name, content)

    return change


def member(name, content):
    def change(path: Path) -> None:
        with zipfile.ZipFile(path.with_suffix(".npz"), "a") as archive:
            archive.writestr(name, content)

    return change


def first(found):
    return next(iter(found))


def with_value(value):
    def change(found):
        found[first(found)] = found[first(found)].copy()
        found[first(found)].flat[0] = value

    return change


DAMAGES = {
    "no field measured": edit(lambda record: record.pop("measured")),
    "measured is null": edit(lambda record: record.update(measured=None)),
    "setting is a list": edit(lambda record: record.update(setting=[])),
    "seed is true": edit(lambda record: record.update(seed=True)),
    "seed is text": edit(lambda record: record.update(seed="3")),
    "experiment is null": edit(lambda record: record.update(experiment=None)),
    "an unknown field": edit(lambda record: record.update(extra=1)),
    "arrays are a list": edit(lambda record: record.update(arrays=sorted(record["arrays"]))),
    "arrays beside it that it does not name": edit(lambda record: record.update(arrays={})),
    "an array undescribed": edit(lambda record: record["arrays"].update({first(record["arrays"]): None})),
    "an array without a digest": edit(lambda record: record["arrays"][first(record["arrays"])].pop("sha256")),
    "an array too many in the record": edit(
        lambda record: record["arrays"].update(more=record["arrays"][first(record["arrays"])])
    ),
    "another shape in the record": edit(lambda record: record["arrays"][first(record["arrays"])].update(shape=[1])),
    "schema of the past": edit(lambda record: record.update(schema=1)),
    "no object": lambda path: path.write_text("[]"),
    "NaN": text('"seed": ', '"odd": NaN, "seed": '),
    "infinity": text('"seed": ', '"odd": 1e999, "seed": '),
    "a key twice": text('"seed": ', '"seed": 1, "seed": '),
    "an integer of 400 digits": text('"seed": ', f'"odd": {"9" * 400}, "seed": '),
    "deep nesting": lambda path: path.write_text(DEEP),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()),
    "empty": lambda path: path.write_bytes(b""),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "arrays: gone": lambda path: path.with_suffix(".npz").unlink(),
    "arrays: a FIFO": lambda path: (path.with_suffix(".npz").unlink(), os.mkfifo(path.with_suffix(".npz"))),
    "arrays: another number": arrays(with_value(7.0)),
    "arrays: NaN": arrays(with_value(np.nan)),
    "arrays: another shape": arrays(lambda found: found.update({first(found): found[first(found)].ravel()})),
    "arrays: another dtype": arrays(lambda found: found.update({first(found): found[first(found)].astype("f4")})),
    "arrays: one less": arrays(lambda found: found.popitem() and None),
    "arrays: text": arrays(lambda found: found.update({first(found): np.array(["a"])})),
    "arrays: objects": arrays(lambda found: found.update({first(found): np.array([{}], dtype=object)})),
    "arrays: a record dtype": arrays(lambda found: found.update({first(found): np.zeros(2, "f8,i4")})),
    "arrays: dates": arrays(lambda found: found.update({first(found): np.zeros(2, "M8[s]")})),
    "arrays: an odd member": member("readme.txt", b"hello"),
    "arrays: a member twice": member("transition_0.npy", b"\x93NUMPY"),
    "arrays: a member that is no array": member("odd.npy", b"hello"),
    "arrays: encrypted": raw(encrypted),
    "arrays: bzip2": compressed_with(zipfile.ZIP_BZIP2),
    "arrays: lzma": compressed_with(zipfile.ZIP_LZMA),
    "arrays: cut": raw(lambda content: content[: len(content) // 2]),
    "arrays: a flipped bit": raw(lambda content: content[:200] + bytes([content[200] ^ 4]) + content[201:]),
    "arrays: no archive": raw(lambda content: b"\x93NUMPY" + content[:64]),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_evidence_is_refused_by_every_command(recorded, capsys, name):
    (path,) = (recorded / "evidence" / "impulse-response").glob("*.json")
    DAMAGES[name](path)
    if path.exists():  # where nothing is recorded any more, it is measured again
        assert path.stem in said(["verify", "--claims", "impulse-response", "--out", str(recorded)], capsys)
    assert path.stem in said(["build", str(recorded), "--markdown"], capsys, reports)
    assert path.stem in said(["gate", str(recorded), "--require", "impulse-response"], capsys)
    assert path.stem in said(["rejudge", str(recorded)], capsys)
    assert path.stem in said(["compare", str(recorded), str(recorded)], capsys, reports)
    assert not (recorded / "report.md").exists()


def test_a_record_under_another_name_is_refused(recorded, capsys):
    (path,) = (recorded / "evidence" / "impulse-response").glob("*.json")
    for name in ("0123456789abcdef", path.stem):
        folder = path.parent if name != path.stem else path.parent.with_name("another")
        folder.mkdir(exist_ok=True)
        for ending in (".json", ".npz"):
            (folder / (name + ending)).write_bytes(path.with_suffix(ending).read_bytes())
        with pytest.raises(ValueError, match="was renamed"):
            Evidence.read(folder / f"{name}.json")


VERDICTS = {
    "a list of null": lambda path: path.write_text("[null]"),
    "null among verdicts": edit(lambda record: record.update(verdicts=[None])),
    "a number for a verdict": edit(lambda record: record.update(verdicts=[3])),
    "no claim": edit(lambda record: record["verdicts"][0].pop("claim")),
    "estimate as text": edit(lambda record: record["verdicts"][0].update(estimate="0.1")),
    "note is null": edit(lambda record: record["verdicts"][0].update(note=None)),
    "an unknown outcome": edit(lambda record: record["verdicts"][0].update(outcome="fine")),
    "an interval of three": edit(lambda record: record["verdicts"][0].update(interval=[1, 2, 3])),
    "an interval of text": edit(lambda record: record["verdicts"][0].update(interval=["a", "b"])),
    "decoys are an object": edit(lambda record: record["verdicts"][0].update(decoy={})),
    "a level of 3.5": edit(lambda record: record["verdicts"][0].update(alpha=3.5)),
    "a p-value below 0": edit(lambda record: record["verdicts"][0].update(p_value=-0.1)),
    "a decoy of null": edit(lambda record: record["verdicts"][0].update(decoy=[None])),
    "evidence of numbers": edit(lambda record: record["verdicts"][0].update(evidence=[1])),
    "an unknown field": edit(lambda record: record["verdicts"][0].update(extra=1)),
    "NaN": text('"schema"', '"odd": NaN, "schema"'),
    "deep nesting": lambda path: path.write_text(DEEP),
    "an integer of 400 digits": lambda path: path.write_text("9" * 400),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "no UTF-8": lambda path: path.write_bytes(b"\xff"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_damaged_verdicts_are_refused_by_every_command(recorded, capsys, name):
    path = recorded / "verdicts.json"
    VERDICTS[name](path)
    assert "verdicts.json" in said(["gate", str(recorded), "--require", "impulse-response"], capsys)
    assert "verdicts.json" in said(["verify", "--claims", "impulse-response", "--out", str(recorded)], capsys)
    assert "verdicts.json" in said(["build", str(recorded), "--markdown"], capsys, reports)
    assert "verdicts.json" in said(["compare", str(recorded), str(recorded)], capsys, reports)


@pytest.mark.parametrize(
    "content",
    [
        "tool = 3", "[tool]\nspikeshrink = 3", "[tool.spikeshrink]\ngate = 3", "[tool.spikeshrink.gate]\nrequire = 3",
        "[tool.spikeshrink.gate]\nrequire = [3]", "[tool.spikeshrink.gate]\nmax = 3", "x = ", "\x00",
        "[tool.spikeshrink.gate.max]\na = 'b'", f"[tool.spikeshrink.gate.max]\na = {'9' * 400}",
        "[tool.spikeshrink.gate.max]\na = nan", "[tool.spikeshrink.gate.max]\na = true",
        "x = " + "[" * 9000 + "]" * 9000,
    ],
)  # fmt: skip
def test_thresholds_that_are_none_are_refused(recorded, tmp_path, capsys, content):
    path = tmp_path / "pyproject.toml"
    path.write_text(content)
    assert said(["gate", str(recorded), "--config", str(path), "--require", "x"], capsys)
    path.unlink()
    os.mkfifo(path)
    assert "regular file" in said(["gate", str(recorded), "--config", str(path)], capsys)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST_ARRAY", 2**20)

    def header(shape):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
        return stream.getvalue()

    bombs = {
        "says its size": header((2**22,)) + bytes(2**25),
        "hides it behind a small header": header((2,)) + bytes(2**25),
        "promises more than it has": header((2**40,)) + bytes(16),
    }
    opened = []
    monkeypatch.setattr(zlib, "decompressobj", lambda *given: opened.append(given) or pytest.fail("unpacked"))
    for name, content in bombs.items():
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if len(content) < 1000 else zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", content)
        assert path.stat().st_size < 2**17
        with pytest.raises(ValueError, match=r"X, member 'a.npy', must be (at most|whole)") as caught:
            read_archive(path, "X")
        assert "\n" not in str(caught.value), name
    (tmp_path / "bomb.npy").write_bytes(bombs["promises more than it has"])
    with pytest.raises(ValueError, match="X must be at most"):
        read_array(tmp_path / "bomb.npy", "X")
    # A size that lies: what follows the promised bytes is an error, not more memory.
    small = tmp_path / "lies.npz"
    with zipfile.ZipFile(small, "w") as archive:
        archive.writestr("a.npy", header((2,)) + bytes(16))
    content = bytearray(small.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 2**19)
    small.write_bytes(content)
    with pytest.raises(ValueError, match=r"X, member 'a.npy', must be whole"):
        read_archive(small, "X")


def test_arrays_and_json_that_are_well_come_back(tmp_path):
    rng = np.random.default_rng(0)
    stored = {"a": rng.standard_normal((3, 2)), "b": np.asfortranarray(rng.standard_normal((2, 3))), "c": np.array(5)}
    for dump in (np.savez, np.savez_compressed):
        dump(tmp_path / "x.npz", **stored)
        back = read_archive(tmp_path / "x.npz", "X")
        assert all(np.array_equal(back[name], stored[name]) and back[name].flags.writeable for name in stored)
    np.save(tmp_path / "y.npy", stored["b"])
    assert np.array_equal(read_array(tmp_path / "y.npy", "X"), stored["b"])
    (tmp_path / "z.json").write_text('{"a": [1, -2.5e3, 9223372036854775807, "é", null, true]}')
    assert read_json(tmp_path / "z.json", "X") == {"a": [1, -2500.0, 2**63 - 1, "é", None, True]}


def test_nan_is_kept_where_it_has_a_meaning_and_refused_elsewhere(tmp_path):
    arrays = {"seen": np.ones(2), "loss": np.array([1.0, np.nan])}
    fields = dict(experiment="x", setting={}, seed=0, measured={}, arrays=arrays)
    with pytest.raises(ValueError, match="'loss' has 1 NaN"):
        Evidence(**fields).write(tmp_path)
    with pytest.raises(ValueError, match="infinite"):
        Evidence(**{**fields, "arrays": {"a": np.array([np.inf])}, "nan": frozenset("a")}).write(tmp_path)
    with pytest.raises(ValueError, match="real numbers"):
        Evidence(**{**fields, "arrays": {"a": np.array(["x"])}}).write(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing half-written"
    assert may_be_nan(arrays) == {"loss"}
    back = Evidence.read(Evidence(**fields, nan=may_be_nan(arrays)).write(tmp_path))
    assert back.nan == {"loss"} and np.array_equal(back.arrays["loss"], arrays["loss"], equal_nan=True)
