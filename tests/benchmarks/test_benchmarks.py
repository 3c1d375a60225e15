"""Every race and every curve, stored under ``reports/published/benchmarks``: ``nox -s bench``.

    python -m pytest tests/benchmarks --benchmark-only [-k WORD]

What is asserted is that answers agree (in `run_race`, before anything is timed); no clock decides a test. The page
*Performance* is made from what is stored, targets beside what was reached: ``python -m reports performance``.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("slycot")
pytest.importorskip("curvlinops")

from tests.benchmarks import network_races, theory_races
from tests.benchmarks.curves import CURVES
from tests.benchmarks.race import run_curve, run_race, store

RACES = theory_races.RACES | network_races.RACES
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("name", RACES)
def test_race(name, benchmark):
    record = benchmark.pedantic(lambda: run_race(name, RACES[name]()), rounds=1)
    benchmark.extra_info.update(record["ratios"])
    store(record)


@pytest.mark.parametrize("name", CURVES)
def test_curve(name, benchmark):
    record = benchmark.pedantic(lambda: run_curve(name, CURVES[name]()), rounds=1)
    benchmark.extra_info.update(record["exponent"])
    store(record)
