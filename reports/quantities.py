"""How the estimate of a claim is said: as a factor, a percentage, in nats, and of what.

Claims about networks estimate logarithms and slacks, which decide well and read badly: a spike of 25 % is 0.2231. The
unit stands here, once a claim; e to the power of an estimate is all that is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reports.formatting import DASH, estimate_with_interval, number, percent
from theory.judge.verdict import DecoyVerdict, Kind, Verdict


class Unit(StrEnum):
    """How the estimate of a claim is said."""

    ERROR = "relative error"
    FACTOR = "ln of a factor"
    INVERSE = "minus ln of a factor"
    MISFIT = "minus |ln ratio|"
    DEVIATION = "minus relative error"
    NOISE = "σ of the epoch noise"
    NATS = "nats"
    PLAIN = "number"


@dataclass(frozen=True)
class Quantity:
    """What a claim estimates: in which unit, and of what, in words that open a phrase."""

    unit: Unit
    of: str


#: Claim, or the stem of several, to what it estimates; claims about quadratics estimate a relative error.
QUANTITIES: Mapping[str, Quantity] = {
    "curvature-spike": Quantity(Unit.FACTOR, "λ"),
    "outputs-flatten-at-decay": Quantity(Unit.FACTOR, "the outputs' curvature lowers λ by"),
    "derivative-sharpens-over-stage": Quantity(Unit.FACTOR, "the outputs' derivative raises λ by"),
    "noise-spike": Quantity(Unit.FACTOR, "γ"),
    "posterior-shrink": Quantity(Unit.INVERSE, "σ²"),
    "posterior-shrink-beyond-rate": Quantity(Unit.INVERSE, "γ/λ"),
    "posterior-shrink-measured": Quantity(Unit.MISFIT, "measured and predicted fall of the spread apart by"),
    "awp-flattens": Quantity(Unit.FACTOR, "λ under AT over AWP"),
    "awp-quiets-noise": Quantity(Unit.FACTOR, "γ under AT over AWP"),
    "awp-tightens-bound": Quantity(Unit.NATS, "robust gap smaller by"),
    "awp-tightens-pac-bayes": Quantity(Unit.PLAIN, "complexity under AT minus AWP"),
    "posterior-ensemble": Quantity(Unit.MISFIT, "spread of replicas and (P1) apart by"),
    "posterior-trajectory": Quantity(Unit.MISFIT, "spread in time and (P1) apart by"),
    "posterior-robust-curvature": Quantity(Unit.MISFIT, "spread of replicas and (P1) apart by"),
    "transient-ensemble": Quantity(Unit.MISFIT, "spread after the drop and (P1) apart by"),
    "transient-robust-curvature": Quantity(Unit.MISFIT, "spread after the drop and (P1) apart by"),
    "ladder": Quantity(Unit.MISFIT, "spread of replicas and (P1) apart by"),
    "spread-explained-by": Quantity(Unit.MISFIT, "spread of replicas and the explained law apart by"),
    "spread-predicted": Quantity(Unit.MISFIT, "spread of replicas and prediction apart by"),
    "control": Quantity(Unit.MISFIT, "spread of replicas and (P2) apart by"),
    "control-limit": Quantity(Unit.FACTOR, "rungs apart by at least"),
    "control-limit-law": Quantity(Unit.MISFIT, "spread of linearised replicas and (P2) apart by"),
    "control-mean-path": Quantity(Unit.PLAIN, "minus the distance of the mean path in spreads"),
    "mean-path": Quantity(Unit.PLAIN, "minus the distance of the mean path in spreads"),
    "saddle-growth": Quantity(Unit.DEVIATION, "rate of growth off by"),
    "robust-curvature": Quantity(Unit.MISFIT, "curvature with the attack run again and at fixed inputs apart by"),
    "quadratic-approximation": Quantity(Unit.DEVIATION, "loss off its expansion by"),
    "commutativity": Quantity(Unit.PLAIN, "slack"),
    "alignment": Quantity(Unit.PLAIN, "slope of ln γ on ln λ"),
    "robust-overfitting": Quantity(Unit.NOISE, "rise of test robust loss, or fall of training's, the smaller"),
    "decay-dip": Quantity(Unit.NOISE, "fall of test robust loss"),
    "dip-time-scale": Quantity(Unit.MISFIT, "curvature that the dip implies off 1/50 of the edge by"),
    "dip-forgets-its-epoch": Quantity(Unit.PLAIN, "minus the size of d ln depth / d ln epoch"),
    "second-dip-smaller": Quantity(Unit.NOISE, "half of the first dip less the second"),
    "awp-slows-the-rise": Quantity(Unit.NATS, "rise in 10 epochs, without AWP less with it"),
    "decay-size": Quantity(Unit.NOISE, "growth for each e-fold of the decay"),
    "bound-tracks-gap": Quantity(Unit.PLAIN, "rank correlation"),
    "spike-regime": Quantity(Unit.PLAIN, "rank correlation"),
    "edge-band": Quantity(Unit.PLAIN, "share of regimes"),
    "edge-rise": Quantity(Unit.FACTOR, "λ at the edge over elsewhere"),
    "edge-still": Quantity(Unit.INVERSE, "λ"),
    "edge-room": Quantity(Unit.FACTOR, "room over the rise at least"),
    "edge-account": Quantity(Unit.PLAIN, "squared error of the best rival minus its own"),
    "shrink-rest": Quantity(Unit.PLAIN, "rank correlation"),
    "noise-exponent": Quantity(Unit.PLAIN, "slope inside its bounds by"),
    "noise-square": Quantity(Unit.PLAIN, "slope inside its bounds by"),
    "bound-orders-test-loss": Quantity(Unit.PLAIN, "rank correlation above the best other by"),
}
_ERROR = Quantity(Unit.ERROR, "error")
#: Units in which a larger estimate is said by a smaller number.
REVERSED = (Unit.INVERSE, Unit.MISFIT, Unit.DEVIATION)


def said(verdict: Verdict) -> str:
    """The estimate of one verdict as a reader would say it, with its interval."""
    if verdict.estimate is None:
        return ""
    quantity = quantity_of(verdict)
    low, high = verdict.interval
    ends = [value_of(quantity.unit, end) for end in (low, high) if end is not None]
    if quantity.unit in REVERSED:
        ends.reverse()
    interval = f" [{ends[0]}, {ends[1]}]" if len(ends) == 2 else ""
    return f"{quantity.of} {value_of(quantity.unit, verdict.estimate)}{interval}"


def held_against(verdict: Verdict) -> str:
    """What the estimate was held against, in the same units."""
    if verdict.tolerance is None:
        return DASH
    unit = quantity_of(verdict).unit
    value = value_of(unit, verdict.tolerance)
    if unit is Unit.ERROR:
        return f"detects {percent(verdict.tolerance)}" if verdict.p_value is not None else f"within ± {value}"
    if unit in (Unit.MISFIT, Unit.DEVIATION, Unit.INVERSE):
        return f"below {value}"
    return f"above {value}"


def quantity_of(verdict: Verdict) -> Quantity:
    """What a claim estimates."""
    if verdict.kind is not Kind.HYPOTHESIS:
        return _ERROR
    stems = [stem for stem in QUANTITIES if belongs(verdict.claim, stem)]
    return QUANTITIES[max(stems, key=len)] if stems else Quantity(Unit.PLAIN, "estimate")


def belongs(claim: str, stem: str) -> bool:
    """Whether a claim is the one named, or one of its variants."""
    return claim == stem or claim.startswith(f"{stem}-")


def shown(verdict: Verdict, of: DecoyVerdict | None = None) -> tuple[str, str]:
    """Estimate and interval of a verdict, or of one of its decoys, for the cells of a table."""
    found = verdict if of is None else of
    unit = quantity_of(verdict).unit
    if unit in (Unit.ERROR, Unit.PLAIN) or found.estimate is None:
        return estimate_with_interval(found.estimate, found.interval)
    low, high = found.interval
    ends = [DASH if end is None else value_of(unit, end) for end in (low, high)]
    if unit in REVERSED:
        ends.reverse()
    return value_of(unit, found.estimate), DASH if low is None and high is None else f"[{ends[0]},\u00a0{ends[1]}]"


def value_of(unit: Unit, value: float) -> str:
    """A number in a unit: ``× 1.25``."""
    match unit:
        case Unit.ERROR | Unit.DEVIATION:
            value = abs(value) if unit is Unit.DEVIATION else value
            return percent(value) if abs(value) >= 1e-4 else number(value, 2)
        case Unit.FACTOR:
            return f"× {number(_exp(value), 3)}"
        case Unit.INVERSE | Unit.MISFIT:
            return f"× {number(_exp(-value), 3)}"
        case Unit.NOISE:
            return f"{number(value, 2)} σ"
        case Unit.NATS:
            return f"{number(value, 3)} nats"
        case Unit.PLAIN:
            return number(value, 3)


def _exp(value: float) -> float:
    return math.exp(min(max(value, -700.0), 700.0))
