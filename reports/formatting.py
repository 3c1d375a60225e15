"""Numbers as a reader wants them: as many digits as the interval supports, powers of ten written out.

None, which stands for a number that JSON cannot hold, is an en dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

DASH = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Neither space breaks, so that a number and an interval stay on one line.
_NARROW_SPACE = "\u202f"
_SPACE = "\u00a0"


def power_of_ten(exponent: int) -> str:
    """``10⁻⁶``."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def number(value: float | int | None, digits: int = 4) -> str:
    """`value` with at most `digits` significant digits: ``0.0123``, ``1.5 × 10⁻⁷``, ``20 000``."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == int(value) and abs(value) < 1e7:
        return _signed(_grouped(int(value)))
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    if exponent:
        return _signed(f"{mantissa}{_NARROW_SPACE}×{_NARROW_SPACE}{power_of_ten(int(exponent))}")
    return _signed(mantissa)


def count(value: float | None) -> str:
    """A count or a number of degrees of freedom, rounded to a whole number below ten million."""
    if value is None or not math.isfinite(value):
        return DASH
    return number(round(value)) if abs(value) < 1e7 else number(value, 3)


def probability(value: float | None) -> str:
    """A p-value, to two digits; one that is too small for a double is told apart from 0."""
    return f"<{_SPACE}{power_of_ten(-300)}" if value is not None and value < 1e-300 else number(value, 2)


def percent(value: float | None) -> str:
    """``1 %``."""
    return DASH if value is None else f"{number(100 * value, 3)}{_NARROW_SPACE}%"


def estimate_with_interval(estimate: float | None, interval: tuple[float | None, float | None]) -> tuple[str, str]:
    """An estimate and its interval, rounded alike: to a hundredth of the interval's width, one power of ten for all.

    Returns:
        Both texts; an end that is not a number is an en dash, and so is an interval without ends.
    """
    low, high = interval
    given = [value for value in (estimate, low, high) if value is not None]
    if not given:
        return DASH, DASH
    largest = max(abs(value) for value in given)
    if largest == 0:
        return ("0" if estimate is not None else DASH), ("[0, 0]" if low is not None else DASH)
    scale = math.floor(math.log10(largest))
    factor = 0 if -3 <= scale < 6 else scale
    width = high - low if low is not None and high is not None else 0.0
    decimals = 2 - scale + factor  # three significant digits where there is no width to go by
    if width > 1e-6 * largest:
        # A hundredth of the width, yet never so coarse that a nonzero estimate reads as zero.
        finest = width if not estimate else min(width, 10 * abs(estimate))
        decimals = min(1 - math.floor(math.log10(finest / 3 * (1 + 1e-9))), 4 - scale) + factor
    decimals = max(decimals, 0)

    def text(value: float | None) -> str:
        if value is None:
            return DASH
        rounded = f"{value / 10.0**factor:.{decimals}f}"
        return _signed(rounded if float(rounded) else rounded.lstrip("-"))

    suffix = f"{_NARROW_SPACE}×{_NARROW_SPACE}{power_of_ten(factor)}" if factor else ""
    shown = DASH if estimate is None else text(estimate) + suffix
    ends = DASH if low is None and high is None else f"[{text(low)},{_SPACE}{text(high)}]{suffix}"
    return shown, ends


def cell(value: Any) -> str:
    """One cell of a table: numbers by `number`, truth values as yes and no, everything else as it stands."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    return str(value)


def is_number(value: Any) -> bool:
    """Whether a cell is set flush right."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _grouped(value: int) -> str:
    return f"{value:,}".replace(",", _NARROW_SPACE) if abs(value) >= 10_000 else str(value)


def _signed(text: str) -> str:
    return text.replace("-", "−")
