r"""How often the gate's tests of commutation err, counted over spectra × μ × N × k.

Cases     H and C with spectra of their own, 1 to 3 decades over the top k and a bulk below, P = 24 or 96; C has H's
          eigenvectors, or Haar-random ones (*rotated*), or is rotated inside H's top k alone (*top*). N samples,
          Gaussian or with a heavy-tailed scale that all directions share, ηλ₁ log-uniform in [.02, 1.5].
Counted   fails, passes and undecided of `commutativity_top`, and whether it or `commutativity`, whole or deflated,
          fails, by the rules of the gate. Tops flatter than a decade are left out: there rotated noise nearly commutes,
          and the gate says undecided.
Rule      Rotated pairs must fail in ≥ 95 %, commuting pairs in ≤ 5 %; Clopper–Pearson intervals beside both.

``python -m tests.gate_calibration --cases 2000 --out FILE`` writes one JSON; a case depends on its number alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from empirical.measure.commuting import FLAT
from theory.closed_form.alignment import haar_rotation
from theory.closed_form.rotated_noise import DRAWS, Commuting, commutation_test
from theory.judge.statistics import binomial_interval
from theory.model.optimizer import MomentumSGD

KINDS = ("commuting", "rotated", "top")
MOMENTA = (0.0, 0.5, 0.9, 0.99)
SAMPLES = (200, 500, 1500)
DIRECTIONS = (4, 8, 16)
STORED = Path(__file__).with_suffix(".json")


def spectrum(size: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Falling, largest 1: a decade to three over the first k, or outliers among them, and a bulk below."""
    last = 10.0 ** -rng.uniform(1, 3)
    if rng.random() < 0.5:
        top = np.geomspace(1.0, last, k)
    else:
        outliers = int(rng.integers(2, k + 1))
        top = np.concatenate([np.geomspace(1.0, 2 * last, outliers), last * np.geomspace(1.0, 0.5, k - outliers)])
    return np.concatenate([top, 0.5 * last * np.geomspace(1.0, 0.1, size - k)])


def case(kind: str, number: int) -> dict:
    """One case: its settings and what the gate's tests make of it."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    size, k = (24, 96)[number % 2], DIRECTIONS[number // 2 % 3]
    momentum, count = MOMENTA[number // 6 % 4], SAMPLES[number // 24 % 3]
    h, c = spectrum(size, k, rng), spectrum(size, k, rng)
    if kind == "commuting" and rng.random() < 0.5:
        c[:k] = c[rng.permutation(k)]
    turn = np.eye(size)
    if kind == "rotated":
        turn = haar_rotation(size, rng)
    elif kind == "top":
        turn[:k, :k] = haar_rotation(k, rng)
    x = rng.standard_normal((count, size))
    heavy = bool(rng.random() < 0.5)
    if heavy:
        x *= np.exp(0.5 * rng.standard_normal((count, 1)))
    x = (x * np.sqrt(c)) @ turn.T
    rate = float(np.exp(rng.uniform(np.log(0.02), np.log(1.5))))
    test = commutation_test(x[:, :k], h[:k], MomentumSGD(rate, momentum), rng=rng)
    one, two = (np.cov(half, rowvar=False) for half in (x[: count // 2], x[count // 2 :]))
    whole = excess(h, one, two)
    below = excess(h[k:], one[k:, k:], two[k:, k:])
    return {
        "size": size,
        "k": k,
        "momentum": momentum,
        "samples": count,
        "heavy": heavy,
        "top": test.outcome().name,
        "excess": whole,
        "deflated": below,
    }


def excess(h: np.ndarray, one: np.ndarray, two: np.ndarray) -> float | None:
    """What `commutation_excess` estimates, from dense halves; None where the spectra are too flat."""
    first, second = h[:, None] * one, h[:, None] * two
    chi_above = float(np.sum(first * second.T))
    chi_below = 0.5 * float(np.sum(first * second) + np.sum((one * h) * (two * h)))
    size, trace, square = len(h), 0.5 * float(np.trace(one) + np.trace(two)), float(np.sum(one * two))
    common = size * (size - 1) * (size + 2)
    a, b = ((size + 1) * trace**2 - 2 * square) / common, (size * square - trace**2) / common
    null = ((a + b) * float(h @ h) + b * float(h.sum()) ** 2) / (float(h @ h) * square / size)
    if not (chi_below > 0 and square > 0 and null < FLAT):
        return None
    return (chi_above / chi_below - null) / (1 - null)


def fails(found: dict, *, whole: bool) -> bool:
    """Whether a check of commutation fails: in the top space, or there and in the whole one."""
    in_top = found["top"] == Commuting.ROTATED.name
    return in_top or (whole and any(found[name] is not None and found[name] < 0.5 for name in ("excess", "deflated")))


def summary(kind: str, found: list[dict]) -> dict:
    """Rates with intervals."""
    rates = {}
    for name, hits in (
        ("top fails", [fails(item, whole=False) for item in found]),
        ("top or whole fails", [fails(item, whole=True) for item in found]),
        ("top passes", [item["top"] == Commuting.COMMUTING.name for item in found]),
        ("top undecided", [item["top"] == Commuting.UNDECIDED.name for item in found]),
    ):
        low, high = binomial_interval(int(sum(hits)), len(hits))
        rates[name] = {"count": int(sum(hits)), "rate": float(np.mean(hits)), "interval": [float(low), float(high)]}
    return {"cases": len(found), "rates": rates}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=STORED)
    options = parser.parse_args(arguments)
    document: dict = {"draws": DRAWS, "summary": {}, "cases": {}}
    for kind in KINDS:
        found = [case(kind, number) for number in range(options.cases)]
        document["summary"][kind] = summary(kind, found)
        document["cases"][kind] = found
        print(kind, json.dumps(document["summary"][kind]["rates"]), flush=True)
    columns = {
        kind: {name: [item[name] for item in found] for name in ("top", "excess", "deflated")}
        for kind, found in document["cases"].items()
    }
    document["cases"] = columns
    options.out.write_text(json.dumps(document, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
