"""Learning-rate paths: formulas written out, properties, round trips through JSON and CSV, and bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.model.schedule import Schedule

EXAMPLES = {
    "constant": Schedule.constant(0.1),
    "step": Schedule.step(0.1, (3, 7), 0.1),
    "linear": Schedule.linear(0.1, 0.01, 9),
    "cosine": Schedule.cosine(0.1, 40, end=0.001),
    "cyclic": Schedule.cyclic(0.01, 0.1, 4, 6),
    "restarts": Schedule.warm_restarts(0.1, 4, 2, end=0.001),
    "table": Schedule.table([0.1, 0.3, 0.2] * 10),
    "by epoch": Schedule.step(0.1, (1, 2), 0.5, hold=4),
}


def test_each_kind_is_its_formula_term_by_term():
    assert EXAMPLES["constant"].rates(3).tolist() == [0.1, 0.1, 0.1]
    np.testing.assert_allclose(EXAMPLES["step"].rates(9), [0.1] * 3 + [0.01] * 4 + [0.001] * 2, rtol=1e-15)
    np.testing.assert_allclose(EXAMPLES["linear"].rates(12), [0.1 - 0.01 * min(t, 9) for t in range(12)], rtol=1e-14)
    expected = [0.001 + 0.5 * 0.099 * (1 + math.cos(math.pi * min(t / 40, 1))) for t in range(45)]
    np.testing.assert_allclose(EXAMPLES["cosine"].rates(45), expected, rtol=1e-13)
    rise = [0.01 + 0.09 * x for x in (0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    np.testing.assert_allclose(EXAMPLES["cyclic"].rates(20), rise + rise, rtol=1e-13)
    ages = [(t, 4) for t in range(4)] + [(t, 8) for t in range(8)] + [(t, 16) for t in range(3)]
    expected = [0.001 + 0.5 * 0.099 * (1 + math.cos(math.pi * age / period)) for age, period in ages]
    np.testing.assert_allclose(EXAMPLES["restarts"].rates(15), expected, rtol=1e-13)
    assert EXAMPLES["table"].rates(4).tolist() == [0.1, 0.3, 0.2, 0.1]
    np.testing.assert_allclose(EXAMPLES["by epoch"].rates(10), [0.1] * 4 + [0.05] * 4 + [0.025] * 2, rtol=1e-15)


@pytest.mark.parametrize("name", EXAMPLES)
@given(steps=st.integers(1, 30))
def test_a_shorter_path_is_the_beginning_of_a_longer_one(name, steps):
    schedule = EXAMPLES[name]
    path = schedule.rates(steps)
    assert path.shape == (steps,) and path.dtype == np.float64 and (path > 0).all()
    assert np.array_equal(path, schedule.rates(30)[:steps])


@pytest.mark.parametrize("name", EXAMPLES)
def test_schedules_survive_json(name):
    schedule = EXAMPLES[name]
    text = json.dumps(schedule.to_dict(), allow_nan=False)
    again = type(schedule).from_dict(json.loads(text))
    assert again == schedule and np.array_equal(again.rates(20), schedule.rates(20))


@given(rates=st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=20))
def test_a_csv_file_gives_back_every_rate_to_the_last_bit(rates, tmp_path_factory):
    path = tmp_path_factory.mktemp("rates") / "log.csv"
    path.write_text("step,lr,loss\n" + "\n".join(f"{i},{rate!r},1.0" for i, rate in enumerate(rates)) + "\n\n")
    assert Schedule.from_csv(path).rates(len(rates)).tolist() == rates
    assert Schedule.from_csv(path, "lr", hold=3).rates(2).tolist() == [rates[0]] * 2


def test_a_table_cannot_be_changed_from_outside():
    rates = np.array([0.1, 0.2])
    schedule = Schedule.table(rates)
    rates[0] = 5.0
    assert schedule.rates(1)[0] == 0.1
    with pytest.raises(ValueError):
        schedule.table[0] = 1.0


def test_the_column_is_found_by_name_or_by_being_the_only_one(tmp_path):
    path = tmp_path / "rates.csv"
    for header, column in (("learning_rate", None), ("eta", None), ("epoch,rate", None), ("a,eta", "eta")):
        path.write_text(f"\ufeff{header}\n" + ("0.5\n" if "," not in header else "9,0.5\n"), encoding="utf-8")
        assert Schedule.from_csv(path, column).rates(1)[0] == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("lr\n", "at least one rate below its header"),
        ("lr\n0.1\nabc\n", "line 3: 'abc'"),
        ("lr\n0.1\n0\n", "line 3: 0"),
        ("lr\n0.1\n\n-0.1\n", "line 4: -0.1"),
        ("lr\nnan\n", "line 2: nan"),
        ("lr\ninf\n", "line 2: inf"),
        ("loss,lr\n1.0\n", "line 2: ''"),
        ("a,b\n1,2\n", r"must have a column named one of .*; got \['a', 'b'\]"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, text, reason):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        Schedule.from_csv(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a readable CSV file; No such file"):
        Schedule.from_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00lr")
    with pytest.raises(ValueError, match="must be a readable CSV file; UnicodeDecodeError"):
        Schedule.from_csv(tmp_path / "binary.csv")
    (tmp_path / "ok.csv").write_text("lr\n0.1\n")
    with pytest.raises(ValueError, match=r"must have a column 'eta'; got \['lr'\]"):
        Schedule.from_csv(tmp_path / "ok.csv", "eta")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Schedule.constant(0.0), r"`ConstantSchedule\(rate=\.\.\.\)` must be > 0 and finite; got 0\.0"),
        (lambda: Schedule.constant(-1), "got -1"),
        (lambda: Schedule.constant(float("nan")), "got nan"),
        (lambda: Schedule.constant("fast"), "must be a number; got 'fast'"),
        (lambda: Schedule.constant(0.1, hold=0), r"`ConstantSchedule\(hold=\.\.\.\)` must be an integer >= 1; got 0"),
        (lambda: Schedule.step(0.1, (5, 3)), r"must rise; got \(5, 3\)"),
        (lambda: Schedule.step(0.1, (1.5,)), "must be integers >= 0; got 1.5"),
        (lambda: Schedule.step(0.1, (5,), 0.0), r"factor=\.\.\.\)` must be > 0"),
        (lambda: Schedule.linear(0.1, -0.1, 5), r"end=\.\.\.\)` must be >= 0"),
        (lambda: Schedule.cosine(0.1, 0), r"steps=\.\.\.\)` must be an integer >= 1; got 0"),
        (lambda: Schedule.cosine(0.1, 2.5), "must be an integer >= 1; got 2.5"),
        (lambda: Schedule.cyclic(0.1, 0.01, 5), "must be >= rate 0.1; got 0.01"),
        (lambda: Schedule.warm_restarts(0.1, 5, 0), r"growth=\.\.\.\)` must be an integer >= 1"),
        (lambda: Schedule.table([]), r"must be a list of numbers, shape \(n,\); got shape \(0,\)"),
        (lambda: Schedule.table([[0.1]]), r"got shape \(1, 1\)"),
        (lambda: Schedule.table(["a"]), "must be a list of numbers"),
        (lambda: Schedule.table([0.1, 0.0, -1.0]), "got 0 at entry 1"),
        (lambda: Schedule.table([0.1, float("nan")]), "got nan at entry 1"),
    ],
)
def test_bad_schedules_are_refused_by_name(make, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 1.0, True, 10**9])
def test_the_length_of_a_path_is_checked(steps):
    with pytest.raises(ValueError, match=r"`Schedule.rates\(steps=\.\.\.\)` must be an integer in \[1, 100000000\]"):
        Schedule.constant(0.1).rates(steps)


def test_a_path_that_ends_at_zero_is_refused_only_where_it_gets_there():
    assert Schedule.cosine(0.1, 10).rates(10)[-1] > 0
    with pytest.raises(ValueError, match=r"`CosineSchedule.rates\(.*got 0 at iteration 10 of 12"):
        Schedule.cosine(0.1, 10).rates(12)
    with pytest.raises(ValueError, match=r"must be > 0 and finite throughout; got 0 at iteration 400"):
        Schedule.step(1e-10, (400,), 1e-320).rates(401)
    with pytest.raises(ValueError, match="at most 6, where the table ends; got more than 6"):
        Schedule.table([0.1, 0.2], hold=3).rates(7)
