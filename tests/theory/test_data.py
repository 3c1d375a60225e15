"""Tables: what is read is what the file says; what cannot be used is refused with its place and rule."""

import builtins
import csv
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.__main__ import main
from theory.data import MissingPackageError, load_problem, load_table, read_csv


def _file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return path


GOOD = "a,b,y\n1,2,3\n4,5.5,6e-1\n-7,8,9\n"


def test_a_good_file_is_read_to_the_last_bit(tmp_path):
    table = read_csv(_file(tmp_path, GOOD), "y")
    assert table.columns == ("a", "b") and table.target == "y" and table.notes == ()
    np.testing.assert_array_equal(table.inputs, [[1, 2], [4, 5.5], [-7, 8]])
    np.testing.assert_array_equal(table.targets, [3, 0.6, 9])


@given(
    rows=st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False, width=64)] * 3), min_size=3, max_size=12)
)
@settings(max_examples=40, deadline=None)
def test_every_finite_double_survives_the_file(tmp_path_factory, rows):
    array = np.array(rows)
    if any((array[:, column] == array[0, column]).all() for column in range(3)):
        return
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["y", "a", "b"])
        writer.writerows([[repr(value) for value in row] for row in rows])
    table = read_csv(path, "y")
    np.testing.assert_array_equal(table.targets, array[:, 0])
    np.testing.assert_array_equal(table.inputs, array[:, 1:])


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("\ufeff" + GOOD, {}),
        (GOOD.replace("\n", "\r\n"), {}),
        (GOOD.replace(",", ";"), {"delimiter": ";"}),
        (GOOD + "\n\n", {}),
        ('"a"," b","y"\n' + GOOD.split("\n", 1)[1], {}),
        ("a,b,y,name\n1,2,3,x\n4,5.5,6e-1,y\n-7,8,9,z\n", {"ignore": ("name",)}),
        ("a,b,y,one\n1,2,3,1\n4,5.5,6e-1,1\n-7,8,9,1\n", {"drop_constant": True}),
    ],
)
def test_dialects_and_asked_for_omissions(tmp_path, text, options):
    table = read_csv(_file(tmp_path, text), "y", **options)
    np.testing.assert_array_equal(table.inputs, [[1, 2], [4, 5.5], [-7, 8]])
    if "drop_constant" in options:
        assert "constant" in table.notes[0] and "'one'" in table.notes[0]


def test_other_encodings_are_read_when_named(tmp_path):
    path = _file(tmp_path, GOOD.replace("a,b", "größe,b"), "latin-1")
    assert read_csv(path, "y", encoding="latin-1").columns == ("größe", "b")
    with pytest.raises(ValueError, match=r"line 1: must be utf-8; byte 0xf6 is not.*--encoding"):
        read_csv(path, "y")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GOOD.replace("5.5", ""), r"line 3, column 'b': .*missing"),
        (GOOD.replace("5.5", " NA "), r"line 3, column 'b': .*missing"),
        (GOOD.replace("5.5", "nan"), r"line 3, column 'b': .*missing"),
        (GOOD.replace("5.5", "?"), r"line 3, column 'b': .*missing"),
        (GOOD.replace("5.5", "red"), r"line 3, column 'b': .*'red'.*--ignore b"),
        (GOOD.replace("5.5", "1_000"), r"line 3, column 'b'"),
        (GOOD.replace("5.5", "inf"), r"line 3, column 'b': must be finite"),
        (GOOD.replace("4,5.5", "4"), r"line 3: must have 3 cells"),
        (GOOD.replace("2,3", "5.5,3").replace("8,9", "5.5,9"), r"constant: 'b'.*--drop-constant"),
        (GOOD.replace("6e-1", "3").replace("8,9", "8,3"), r"target 'y' must vary"),
        (GOOD.replace("a,b,y", "a,a,y"), r"twice: 'a'"),
        (GOOD.replace("a,b,y", "a,,y"), r"column 2 has none"),
        (GOOD.replace("a,b,y\n", ""), r"must name the columns"),
        (GOOD.replace(",", "\t"), r"--delimiter"),
        ("", r"is empty"),
        ("\n\n", r"is empty"),
        ("a,b,y\n", r"at least 2 rows"),
        ("a,b,y\n1,2,3\n", r"at least 2 rows"),
        ('a,b,y\n1,"2,3\n4,5,6\n', r"must be CSV"),
        ("y,a\n1,1\n2,1\n", r"constant: 'a'"),
    ],
)
def test_bad_tables_name_the_place_and_the_rule(tmp_path, text, match):
    with pytest.raises(ValueError, match=match) as error:
        read_csv(_file(tmp_path, text), "y")
    assert "\n" not in str(error.value)


def test_wrong_names_are_refused_with_the_right_ones(tmp_path):
    path = _file(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"'Y'. It has: 'a', 'b', 'y'"):
        read_csv(path, "Y")
    with pytest.raises(ValueError, match="unknown: 'z'"):
        read_csv(path, "y", ignore=("z",))
    with pytest.raises(ValueError, match="must not be ignored"):
        read_csv(path, "y", ignore=("y",))
    with pytest.raises(ValueError, match="at least one input"):
        read_csv(path, "y", ignore=("a", "b"))
    with pytest.raises(ValueError, match="--target"):
        load_table(str(path))
    with pytest.raises(ValueError, match="existing CSV file"):
        load_table(str(tmp_path / "none.csv"), "y")
    with pytest.raises(ValueError, match="known encoding"):
        read_csv(path, "y", encoding="utf-99")
    with pytest.raises(ValueError, match="one character"):
        read_csv(path, "y", delimiter="::")
    with pytest.raises(ValueError, match="regular file; it is a folder"):
        load_table(str(tmp_path), "y")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(ValueError, match="must be utf-8"):
        read_csv(path, "y")
    path.write_bytes(b"a,b,y\n1,\x00,3\n1,2,4\n")
    with pytest.raises(ValueError, match="NUL"):
        read_csv(path, "y")


@pytest.mark.parametrize("value", ["1e308", "1.5e-323"])
def test_numbers_without_a_variance_are_named(tmp_path, value):
    table = read_csv(_file(tmp_path, f"a,b,y\n{value},1,2\n-{value},2,3\n{value},5,1\n"), "y")
    with pytest.raises(ValueError, match="column 'a': must have a variance"):
        table.standardized()


def test_bundled_tables():
    pytest.importorskip("sklearn")
    table = load_table("diabetes")
    assert table.inputs.shape == (442, 10) and table.targets[0] == 151.0
    inputs, targets = table.standardized()
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((inputs**2).mean(axis=0), 1)
    np.testing.assert_allclose([targets.mean(), targets.std()], [0, 1], atol=1e-12)
    digits = load_table("digits")
    assert digits.inputs.shape == (1797, 61) and "3 constant inputs" in digits.notes[0]
    assert digits.digest != table.digest == load_table("diabetes").digest
    with pytest.raises(ValueError, match="--target"):
        load_table("diabetes", "bmi")
    with pytest.raises(ValueError, match="--ignore"):
        load_table("diabetes", ignore=("bmi",))


def test_bundled_tables_say_what_is_missing(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"spikeshrink\[data\]"):
        load_table("diabetes")


EYE = np.eye(2)


def explode():
    raise AssertionError("it was unpickled")


class Explosive:
    def __reduce__(self):
        return explode, ()


def test_matrices_are_read_from_files(tmp_path):
    np.save(tmp_path / "H.npy", np.diag([1.0, 2.0]))
    np.savez(tmp_path / "both.npz", hessian=np.diag([3.0, 4.0]), noise_cov=EYE)
    np.savez_compressed(tmp_path / "one.npz", whatever=EYE)
    problem = load_problem(tmp_path / "H.npy", tmp_path / "one.npz")
    assert np.array_equal(problem.hessian, np.diag([1.0, 2.0]))
    both = load_problem(tmp_path / "both.npz", tmp_path / "both.npz")
    assert np.array_equal(both.hessian, np.diag([3.0, 4.0])) and np.array_equal(both.noise_cov, EYE)
    np.save(tmp_path / "whole.npy", np.diag([1, 2]))
    assert load_problem(tmp_path / "whole.npy", tmp_path / "whole.npy").dimension == 2, "whole numbers are numbers"


def saved(value):
    def write(path):
        with path.open("wb") as stream:  # np.save adds an ending to a name
            np.save(stream, value)

    return write


def archived(**values):
    def write(path):
        with path.open("wb") as stream:
            np.savez(stream, **values)

    return write


def encrypted(path):
    archived(a=EYE)(path)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def bzipped(path):
    buffer = io.BytesIO()
    np.save(buffer, EYE)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", buffer.getvalue())


def promising(shape):
    def write(path):
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
            stream.write(bytes(64))

    return write


def half(path):
    archived(a=EYE, b=EYE)(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def odd_member(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("H.txt", "1 0")


HOSTILE = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("1 0\n0 1\n"),
    "truncated": lambda path: (saved(EYE)(path), path.write_bytes(path.read_bytes()[:-8])),
    "longer": lambda path: (saved(EYE)(path), path.write_bytes(path.read_bytes() + bytes(8))),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"H": 1})),
    "objects": saved(np.array([Explosive(), {}], dtype=object)),
    "strings": saved(np.array(["1", "2"])),
    "bytes": saved(np.array([b"1", b"2"])),
    "booleans": saved(np.array([True, True])),
    "dates": saved(np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]")),
    "durations": saved(np.array([1, 2], dtype="m8[s]")),
    "records": saved(np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])),
    "complex": saved(np.eye(2) * 1j),
    "NaN": saved(np.array([[1.0, np.nan], [np.nan, 1.0]])),
    "infinity": saved(np.array([np.inf, 1.0])),
    "beyond float64": saved(np.array([np.longdouble("1e400"), 1])),
    "1e308": saved(np.array([1e308, 1.0])),
    "1e308, dense": saved(np.array([[1e308, 0.0], [0.0, 1.0]])),
    "denormals": saved(np.array([5e-324, 5e-324])),
    "a denormal curvature": saved(np.array([1.0, 5e-324])),
    "three axes": saved(np.ones((2, 2, 2))),
    "no axis": saved(np.array(1.0)),
    "no entries": saved(np.ones(0)),
    "not square": saved(np.ones((2, 3))),
    "not symmetric": saved(np.array([[1.0, 0.5], [0.0, 1.0]])),
    "terabytes promised": promising((10**6, 10**6)),
    "a negative shape": promising((-1, 2)),
    "two arrays": archived(a=EYE, b=EYE),
    "an archive of objects": archived(hessian=np.array([{}], dtype=object)),
    "an archive of nothing": archived(),
    "an encrypted archive": encrypted,
    "an archive packed otherwise": bzipped,
    "half an archive": half,
    "an archive of other files": odd_member,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_matrices_that_are_none_are_refused_in_one_line(tmp_path, capsys, name):
    path, good = tmp_path / "hostile.npy", tmp_path / "good.npy"
    np.save(good, np.eye(2))
    HOSTILE[name](path)
    rate = ["--learning-rate", "0.1", "--momentum", "0.9"]
    for arguments in (
        ["solve", "--hessian", str(path), "--noise", str(good), *rate],
        ["simulate", "--hessian", str(path), "--noise", str(good), *rate, "--out", str(tmp_path / "out")],
    ):
        assert main(arguments) == 2, capsys.readouterr().out
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1 and "hessian" in shown.err.lower(), shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        "[1]", "null", "{", "{'a': 1}", "[" * 100_000, '{"learning_rate": NaN}', "\x00",
        '{"learning_rate": "0.1", "curvatures": [1], "noise_variances": [1]}',
        '{"learning_rate": true, "curvatures": [1], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "momentum": null, "curvatures": [1], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "nesterov": 1, "curvatures": [1], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": ["1"], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": [true], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": [null], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": [], "noise_variances": []}',
        '{"learning_rate": 0.1, "curvatures": {"a": 1}, "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": [1e999], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": [' + "9" * 400 + '], "noise_variances": [1]}',
        '{"learning_rate": 0.1, "curvatures": [[1]], "noise_variances": [1]}',
    ],
)  # fmt: skip
def test_states_that_are_none_are_refused_in_one_line(tmp_path, capsys, content):
    (tmp_path / "after.json").write_text('{"learning_rate": 0.1, "curvatures": [1], "noise_variances": [1]}')
    (tmp_path / "before.json").write_text(content)
    os.mkfifo(tmp_path / "fifo")
    for before in ("before.json", "fifo", "none.json", "."):
        assert main(["attribute", str(tmp_path / before), str(tmp_path / "after.json")]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1, shown.err


def test_a_table_that_is_a_fifo_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "t.csv")
    assert main(["regress", "--data", str(tmp_path / "t.csv"), "--target", "y", "--out", str(tmp_path / "o")]) == 2
    assert "regular file" in capsys.readouterr().err
