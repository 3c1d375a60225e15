"""What the benchmarks' harness promises: intervals that hold, no time for a wrong answer, counts that tell."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

pytest.importorskip("threadpoolctl")

from tests.benchmarks.instructions import compared
from tests.benchmarks.race import Contender, Curve, Race, median_interval, run_curve, run_race


@pytest.mark.parametrize("count", [6, 7, 9, 15, 25])
def test_the_interval_of_a_median_is_the_tightest_pair_of_order_statistics_that_holds_it(count):
    found = median_interval(list(range(1, count + 1)))
    rank = found["low"]
    assert found["high"] == count + 1 - rank
    assert 2 * scipy.stats.binom.cdf(rank - 1, count, 0.5) <= 0.05
    assert 2 * scipy.stats.binom.cdf(rank, count, 0.5) > 0.05  # one further in would not


def test_too_few_turns_have_no_interval():
    with pytest.raises(ValueError, match="at least 6 for 95 %; got 5"):
        median_interval([1.0] * 5)


def five():
    for _ in range(5):
        total = sum(range(20_000))
    return total


def race(error):
    return Race(
        title="sums",
        contenders={
            "one": Contender(run=lambda: sum(range(20_000)), role="ours"),
            "five": Contender(run=five),
            "a fifth": Contender(run=lambda: sum(range(4_000)), work=0.2),
        },
        errors=lambda answers: {"five": abs(answers["five"] - answers["one"]) + error},
        reference="one",
        tolerance=1e-9,
        turns=15,
    )


def test_ratios_are_of_times_and_scaled_to_the_whole_work():
    record = run_race("sums", race(0.0))
    assert 3 < record["ratios"]["five"]["median"] < 8  # five sums and a list, whatever the machine does
    assert 0.5 < record["ratios"]["a fifth"]["median"] < 2
    assert all(len(turns) == 15 for turns in record["seconds"].values()) and record["errors"] == {"five": 0.0}


def test_a_wrong_answer_is_not_timed():
    with pytest.raises(AssertionError, match="five"):
        run_race("sums", race(1.0))


def test_the_exponent_of_a_curve_is_that_of_its_work():
    curve = Curve(
        title="squares",
        variable="n",
        sizes=(50, 100, 200, 400),
        prepare=lambda size: lambda: [i * j for i in range(size) for j in range(size)],
        expected=2.0,
        fitted=(50, 100, 200, 400),
        bend="none",
        repeats=3,
    )
    record = run_curve("squares", curve)
    assert 1.5 < record["exponent"]["median"] < 2.5 and len(record["seconds"]) == 4
    assert np.all(np.diff([item["median"] for item in record["seconds"]]) > 0)


def test_a_kernel_that_takes_four_percent_more_fails_and_one_that_takes_less_is_to_be_stored():
    stored = {"a": 1_000_000, "b": 2_000_000}
    assert compared({"a": 1_020_000, "b": 1_990_000}, stored)[1] == 0
    table, status = compared({"a": 1_040_000, "b": 1_000_000}, stored)
    assert status == 1 and "+4.00 %" in table
    assert compared({"a": 1_000_000, "b": 1_900_000}, stored)[1] == 2
    with pytest.raises(ValueError, match=r"must be of \['a', 'b'\]; got \['a'\]"):
        compared({"a": 1}, stored)
