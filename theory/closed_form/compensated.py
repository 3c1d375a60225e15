r"""Twice the precision of a double, where one rounding of the input would show in the answer.

A number is a pair (high, low) of doubles, |low| ≤ ½ ulp(high), worth high + low: about 32 digits. A stability margin
such as 2(1+μ) − ηλ, the discriminant of two nearly equal roots, and the phase kθ after k = 10⁹ turns are small
differences of large numbers; computed in pairs they are right to the last bit of a double, on every platform (the
80-bit `longdouble` is not everywhere).

Source    Dekker, "A floating-point technique for extending the available precision", Numer. Math. 18 (1971);
          Knuth, TAOCP vol. 2, §4.2.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]

_SPLITTER = 134217729.0  # 2²⁷ + 1: cuts 53 bits into 26 + 26 and a sign


def pair(value: ArrayLike) -> Pair:
    """A double as a pair."""
    high = np.asarray(value, dtype=np.float64)
    return high, np.zeros_like(high)


def exact_sum(a: ArrayLike, b: ArrayLike) -> Pair:
    """The sum a + b of two doubles without error."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    high = np.asarray(a + b)
    part = high - a
    return high, np.asarray((a - (high - part)) + (b - part))


def exact_product(a: ArrayLike, b: ArrayLike) -> Pair:
    """The product a · b of two doubles without error (|a|, |b| < 2⁹⁷⁰, and no underflow)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    high = np.asarray(a * b)
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return high, np.asarray(((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low)


def add(a: Pair, b: Pair) -> Pair:
    """The sum a + b of two pairs."""
    high, low = exact_sum(a[0], b[0])
    other, rest = exact_sum(a[1], b[1])
    high, low = _renormalized(high, low + other)
    return _renormalized(high, low + rest)


def subtract(a: Pair, b: Pair) -> Pair:
    """The difference a − b of two pairs."""
    return add(a, (-b[0], -b[1]))


def multiply(a: Pair, b: Pair) -> Pair:
    """The product a · b of two pairs."""
    high, low = exact_product(a[0], b[0])
    return _renormalized(high, low + (a[0] * b[1] + a[1] * b[0]))


def divide(a: Pair, b: Pair) -> Pair:
    """The quotient a / b of two pairs."""
    first = np.asarray(a[0] / b[0])
    remainder = subtract(a, multiply(pair(first), b))
    return _renormalized(first, np.asarray(remainder[0] / b[0]))


def square_root(a: Pair) -> Pair:
    """The root √a of a pair ≥ 0."""
    root = np.sqrt(a[0])
    remainder = subtract(a, exact_product(root, root))
    safe = np.where(root > 0, root, 1.0)
    return _renormalized(root, np.where(root > 0, remainder[0] / (2.0 * safe), 0.0))


def choose(condition: NDArray[np.bool_], a: Pair, b: Pair) -> Pair:
    """Pair a where the condition holds, else b."""
    return np.where(condition, a[0], b[0]), np.where(condition, a[1], b[1])


def _split(a: NDArray[np.float64]) -> Pair:
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def _renormalized(high: NDArray[np.float64], low: NDArray[np.float64]) -> Pair:
    total = np.asarray(high + low)
    return total, np.asarray(low - (total - high))
