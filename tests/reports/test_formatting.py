"""Numbers carry the digits that their interval supports, and never claim more or less."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.formatting import cell, count, estimate_with_interval, number, probability

SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read(text: str) -> float:
    """The number that a reader sees."""
    plain = re.sub(r"\s", "", text).replace("−", "-")
    mantissa, _, power = plain.partition("×10")
    return float(mantissa) * 10.0 ** int(power.translate(SUPERSCRIPT) or 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (-0.25, "−0.25"),
        (20_000, "20\u202f000"),
        (-1234, "−1234"),
        (0.000123, "0.000123"),
        (1.5e-7, "1.5\u202f×\u202f10⁻⁷"),
        (6.02e23, "6.02\u202f×\u202f10²³"),
    ],
)
def test_a_number_is_written_as_a_journal_would(value, text):
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_a_number_reads_back_to_four_digits(value):
    assert read(number(value)) == pytest.approx(value, rel=6e-4, abs=1e-310)


@given(
    st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-200),
    st.floats(1e-9, 1e3),
)
def test_an_interval_reads_back_to_a_hundredth_of_its_width_or_five_digits(middle, width):
    low, high = middle - width / 2, middle + width / 2
    shown, ends = estimate_with_interval(middle, (low, high))
    body, _, power = ends.partition("]")
    texts = [text + power for text in body.strip("[").split(",\u00a0")]
    unit = max(0.04 * (high - low), 6e-3 * max(abs(low), abs(high)) * (high - low <= 1.1e-6 * max(abs(low), abs(high))))
    unit = max(unit, 6e-5 * max(abs(low), abs(high)))
    assert [read(shown), *map(read, texts)] == pytest.approx([middle, low, high], abs=unit)


def test_estimate_and_interval_share_one_rounding():
    assert estimate_with_interval(0.000412, (-0.0031, 0.0039)) == ("0.0004", "[−0.0031,\u00a00.0039]")
    assert estimate_with_interval(3.2e-15, (-3.2e-15, 3.2e-15)) == (
        "3.2\u202f×\u202f10⁻¹⁵",
        "[−3.2,\u00a03.2]\u202f×\u202f10⁻¹⁵",
    )
    assert estimate_with_interval(None, (None, None)) == ("–", "–")
    assert estimate_with_interval(2.0, (0.5, None)) == ("2.00", "[0.50,\u00a0–]")


def test_a_probability_too_small_for_a_double_is_not_called_zero():
    assert probability(0.0) == "<\u00a010⁻³⁰⁰"
    assert probability(None) == "–"
    assert probability(0.2345) == "0.23"


def test_counts_are_whole_numbers():
    assert count(1_310_000.4) == "1\u202f310\u202f000"
    assert count(3.2e9) == "3.2\u202f×\u202f10⁹"


def test_a_cell_shows_any_json_value():
    assert [cell(value) for value in (True, False, None, "a", [1, 0.5])] == ["yes", "no", "–", "a", "1, 0.5"]
