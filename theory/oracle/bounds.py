r"""PAC-Bayes bounds from their proofs, in decimal arithmetic: moments are summed, inequalities inverted by bisection.

Every bound is the change of measure: with M ≥ E exp φ(r̂, R) at the worst law of one loss, with probability 1 − δ
φ(r, R) ≤ KL + ln(M/δ) for the posterior's r and R, and what the bound prints is the largest such R.
    Seeger       φ = n kl(r ‖ R), M the binomial sum at its largest over R (losses in [0, 1])
    McAllester   Pinsker's 2n (R − r)² ≤ n kl, same M; sub-Gaussian: φ = λ(R − r)², λ = (n−1)/2s², M at the Gaussian law
    Catoni       φ = n C (−ln E exp(−C r̂)/n C − r), so that M = 1; sub-Gaussian: φ = λ(R − r), M at the Gaussian law
No formula of `theory.closed_form` is used; sizes up to a few hundred samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal, localcontext

#: Digits carried.
DIGITS = 40
#: Halvings of a bisection: 2⁻¹²⁰ of the interval.
_HALVINGS = 120
#: Half-width and step of the sum that integrates over a Gaussian; the error of either is below 1e-30.
_REACH, _STEP = 12.5, 0.125


def largest(holds: Callable[[Decimal], bool], low: Decimal, high: Decimal) -> Decimal:
    """The largest x in [low, high] at which `holds`, true at `low` and false from some point on."""
    if holds(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def binary_kl(risk: Decimal, other: Decimal) -> Decimal:
    """r ln(r/R) + (1−r) ln((1−r)/(1−R)) as it is written."""
    total = Decimal(0)
    for share, whole in ((risk, other), (1 - risk, 1 - other)):
        if share > 0:
            total += share * (share / whole).ln()
    return total


def kl_inverse(risk: Decimal, complexity: Decimal) -> Decimal:
    """max {R : kl(r ‖ R) ≤ c}."""
    top = Decimal(1) - Decimal(10) ** -(DIGITS - 5)
    return largest(lambda other: binary_kl(risk, other) <= complexity, max(risk, Decimal(10) ** -DIGITS), top)


@functools.cache
def binomial_moment(count: int) -> Decimal:
    """E exp(n kl(r̂ ‖ R)) for r̂ the mean of n Bernoulli(R): the same for every R inside (0, 1), summed at R = 1/2."""
    total, half = Decimal(0), Decimal(1) / 2
    for k in range(count + 1):
        chance = Decimal(math.comb(count, k)) * half**count
        total += chance * (count * binary_kl(Decimal(k) / count, half)).exp()
    return total


def gaussian_moment(exponent: Callable[[Decimal], Decimal]) -> Decimal:
    """E exp(f(Z)), Z standard normal, by the trapezoidal rule, f of at most quadratic growth below Z²/2."""
    step, total = Decimal(_STEP), Decimal(0)
    # The integrand decays like exp(−(½ − q)Z²): widen the grid until what is left out is nothing.
    scale = Decimal(1)
    while exponent(scale * Decimal(_REACH)) - (scale * Decimal(_REACH)) ** 2 / 2 > -76:
        scale *= 2
    turns = int(_REACH * float(scale) / _STEP)
    for k in range(-turns, turns + 1):
        z = k * step
        total += (exponent(z) - z * z / 2).exp()
    return total * step / (2 * _pi()).sqrt()


def seeger(risk: Decimal, paid: Decimal, count: int, delta: Decimal) -> Decimal:
    """Losses in [0, 1]."""
    return kl_inverse(risk, (paid + (binomial_moment(count) / delta).ln()) / count)


def mcallester(risk: Decimal, paid: Decimal, count: int, delta: Decimal) -> Decimal:
    """Losses in [0, 1], not cut off at 1."""
    allowed = paid + (binomial_moment(count) / delta).ln()
    return largest(lambda R: 2 * count * (R - risk) ** 2 <= allowed, risk, Decimal(10**6))


def mcallester_sub_gaussian(risk: Decimal, paid: Decimal, count: int, delta: Decimal, constant: Decimal) -> Decimal:
    """The loss of one sample sub-Gaussian with s: at worst R − r̂ is s/√n Z."""
    multiplier = (count - 1) / (2 * constant**2)
    moment = gaussian_moment(lambda z: multiplier * constant**2 / count * z * z)
    allowed = paid + (moment / delta).ln()
    return largest(lambda R: multiplier * (R - risk) ** 2 <= allowed, risk, Decimal(10**6))


def catoni(risk: Decimal, paid: Decimal, count: int, delta: Decimal, C: Decimal) -> Decimal:
    """Losses in [0, 1], bounds below 1: ln E exp(−n C r̂) for n Bernoulli losses bounds every other law's."""
    decay = (-C).exp()

    def slack(R: Decimal) -> Decimal:  # −ln E exp(−n C r̂) − n C r
        total = Decimal(0)
        for k in range(count + 1):
            total += math.comb(count, k) * R**k * (1 - R) ** (count - k) * decay**k
        return -total.ln() - count * C * risk

    allowed = paid + (1 / delta).ln()
    nearly = Decimal(10) ** -30  # decimal arithmetic has no 0⁰
    return largest(lambda R: slack(R) <= allowed, max(risk, nearly), 1 - nearly)


def catoni_sub_gaussian(
    risk: Decimal, paid: Decimal, count: int, delta: Decimal, C: Decimal, constant: Decimal
) -> Decimal:
    """The loss of one sample sub-Gaussian with s, at the multiplier λ = n C/2s."""
    multiplier = count * C / (2 * constant)
    moment = gaussian_moment(lambda z: multiplier * constant / Decimal(count).sqrt() * z)
    return risk + (paid + (moment / delta).ln()) / multiplier


def slope(value: Callable[[Decimal], Decimal], at: Decimal) -> Decimal:
    """Derivative by a central difference; half the digits are left."""
    h = Decimal(10) ** -12
    return (value(at + h) - value(at - h)) / (2 * h)


def in_decimal(answer: Callable[[], dict[str, list[Decimal]]]) -> dict[str, list[float]]:
    """Run `answer` at `DIGITS` digits and round what it says."""
    with localcontext() as context:
        context.prec = DIGITS
        return {key: [float(value) for value in values] for key, values in answer().items()}


def _pi() -> Decimal:
    """π by Machin's formula."""

    def arctan_of_inverse(n: int) -> Decimal:
        power, total, k = Decimal(1) / n, Decimal(0), 0
        while abs(power) > Decimal(10) ** -(DIGITS + 5):
            total += power / (2 * k + 1) * (-1) ** k
            power, k = power / (n * n), k + 1
        return total

    return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))
