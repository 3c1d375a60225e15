r"""What a gate demands of a run, check by check, and the checks that need nothing but H and C.

Rules     `RULES`: the largest or smallest value allowed, and what a failure costs the predictions. Limits that are no
          null's quantile are prices in the bound: a tenth of a nat a direction, a quarter of the loss's change, a tenth
          of the curvature; a half is midway between the two ends of the excess.
Matrices  Both are taken as exact, so that an interval is a point; `empirical.check_assumptions` estimates them from a
          model and its data, and judges by the same rules. H without weight decay.
Excess    (χ − χ₀)/(1 − χ₀), χ = tr(HCHC)/tr(H²C²) and χ₀ the ratio of its means under a Haar rotation of C
          (`haar_expectations`): 0 for random noise, 1 for commuting noise. Spectra so flat that χ₀ > `FLAT` commute
          with everything: nothing to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.closed_form.alignment import haar_expectations
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.rotated_noise import ALPHA, CommutationTest, Commuting, NullTest, commutation_of
from theory.closed_form.stability import modes, stability_ratio
from theory.judge.gate import Check, GateReport, Quantity, Result, Thresholds, decide
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

__all__ = ["FLAT", "MATRICES", "RULES", "Rule", "check_matrices", "commutation_checks", "judged", "limited", "unjudged"]

#: χ₀ above which random noise commutes too well to be told from commuting noise.
FLAT = 0.9


@dataclass(frozen=True)
class Rule:
    """What is demanded of a quantity unless told otherwise, and what it costs where it fails."""

    largest: float | None = None
    smallest: float | None = None
    cost: str = ""

    def __str__(self) -> str:
        if self.largest is not None:
            return f"at most {self.largest:g}"
        return f"at least {self.smallest:g}" if self.smallest is not None else "reported"


RULES: Mapping[str, Rule] = {
    "stability": Rule(largest=1.0, cost="no stationary law: the iterates diverge along the steepest direction"),
    "mean_square_stability": Rule(largest=1.0, cost="the second moment diverges: no posterior covariance exists"),
    "batch_sharpness": Rule(largest=1.0, cost="single batches overshoot: steps are beyond every batch's edge"),
    "commutativity": Rule(smallest=0.5, cost="H and C share no eigenbasis: only (S2) holds, no product form"),
    "commutativity_deflated": Rule(
        smallest=0.5, cost="the bulk's noise is as if random: products hold for outliers alone"
    ),
    "commutativity_top": Rule(cost="(S1) is no better than for random noise: correlations between modes are missing"),
    "price": Rule(largest=0.1, cost="nats a direction by which the KL term of the bound is too small"),
    "alignment": Rule(cost="tracked directions are no eigenvectors of the noise"),
    "expansion": Rule(
        largest=0.25, cost="the loss is no quadratic at the posterior's width: tr(HΣ)/2 is off by as much"
    ),
    "expansion_path": Rule(
        largest=0.25, cost="the loss is no quadratic along the optimizer's own steps: its path is not the model's"
    ),
    "optimum": Rule(cost="the run is still travelling: its mean is off the optimum by more than the posterior's width"),
    "drift": Rule(cost="the data's parts pull apart: batches are no draws from one law"),
    "whiteness": Rule(cost="neighbouring batches are correlated: (S1) with white noise is the wrong law"),
    "positive_curvature": Rule(largest=0.1, cost="a saddle: along negative curvature there is no stationary law"),
    "stationarity": Rule(cost="dissipation and fluctuation do not balance: the run is not stationary"),
    "batch_sharpness_attacked": Rule(),
    "batch_sharpness_train": Rule(),
    "shuffling": Rule(),
    "underdamped": Rule(),
    "relaxation": Rule(),
}


#: What `check_matrices` checks.
MATRICES = (
    "stability",
    "commutativity",
    "commutativity_deflated",
    "commutativity_top",
    "price",
    "alignment",
    "positive_curvature",
)


def limited(quantity: Quantity, *, null: str = "", note: str = "") -> Check:
    """A quantity against the limit of its rule."""
    rule, name = RULES[quantity.name], quantity.name
    limits = {"maximum" if rule.largest is not None else "minimum": {name: rule.largest or rule.smallest or 0.0}}
    check = decide(Thresholds(**limits), quantities=(quantity,)).checks[0]  # pyright: ignore[reportArgumentType]
    reason = f"{check.reason}; {note}" if note else check.reason
    return judged(name, check.result, reason, estimate=check.estimate, interval=check.interval, null=null)


def judged(
    name: str,
    result: Result,
    reason: str,
    *,
    rule: str | None = None,
    estimate: float | None = None,
    interval: tuple[float, float] | None = None,
    null: str = "",
) -> Check:
    """A check with the cost that its rule states."""
    return Check(
        name=name,
        rule=str(RULES[name]) if rule is None else rule,
        result=result,
        estimate=estimate,
        interval=interval,
        reason=reason,
        null=null,
        cost=RULES[name].cost,
    )


def unjudged(name: str, reason: str) -> Check:
    """A check that could not be made."""
    return judged(name, Result.REPORTED, reason, rule="not judged")


def commutation_checks(
    test: CommutationTest,
    price: tuple[float, float, float],
    cosine: tuple[float, float],
    note: str = "",
) -> tuple[Check, Check, Check]:
    """`price`, `commutativity_top` and `alignment` of k directions.

    Args:
        test: both statistics against both nulls.
        price: nats a direction, and its interval.
        cosine: interval of the mean cosine.
        note: on the price.
    """
    value, low, high = price
    limit = RULES["price"].largest or 0.0
    dear = limited(
        Quantity(name="price", estimate=value, interval=(low, high)),
        null="[{:.3g}, {:.3g}] rotated".format(*test.price.rotated),
        note=note,
    )
    top = _nulls("commutativity_top", test.price, test.outcome(), value, (low, high), high <= limit, low > limit)
    # Whatever beats chance is aligned: what the rest costs is the price's to say.
    aligned = _nulls("alignment", test.cosine, test.cosine.outcome(), test.cosine.value, cosine, True, False)
    return dear, top, aligned


def _nulls(
    name: str,
    test: NullTest,
    outcome: Commuting,
    value: float,
    interval: tuple[float, float],
    cheap: bool,
    dear: bool,
) -> Check:
    result = {
        Commuting.COMMUTING: Result.PASS,
        Commuting.ROTATED: Result.FAIL,
        Commuting.UNDECIDED: Result.INCONCLUSIVE,
        Commuting.BETTER_THAN_CHANCE: Result.PASS if cheap else Result.FAIL if dear else Result.INCONCLUSIVE,
    }[outcome]
    return judged(
        name,
        result,
        f"{outcome.value} (p = {test.rotated_p:.3g} rotated, {test.commuting_p:.3g} commuting)",
        rule=f"not rotated at {ALPHA:g}",
        estimate=value,
        interval=interval,
        null="[{:.3g}, {:.3g}] rotated, [{:.3g}, {:.3g}] commuting".format(*test.rotated, *test.commuting),
    )


def check_matrices(problem: Quadratic, optimizer: MomentumSGD, *, top_k: int = 10, seed: int = 0) -> GateReport:
    """Stability, positive curvature and commutation of exact H and C under the rules.

    Args:
        problem: H without weight decay, C of the mini-batch gradient.
        optimizer: η, μ, the convention and β.
        top_k: steepest directions in which price and cosine are taken, at most; ≥ 2.
        seed: of the random rotations.

    Raises:
        ValueError: if `top_k` is no integer ≥ 2.
    """
    if isinstance(top_k, bool) or top_k < 2:
        raise ValueError(f"`check_matrices(top_k=...)` must be an integer >= 2; got {top_k!r}.")
    frame = eigenbasis(problem)
    order = np.argsort(-frame.curvatures, kind="stable")
    h, noise = frame.curvatures[order], frame.noise[np.ix_(order, order)]
    steepest = float(h[0])
    ratio = float(stability_ratio(steepest + optimizer.weight_decay, optimizer.learning_rate, optimizer))
    checks = [limited(_exact("stability", ratio))]
    if steepest > 0:
        checks.append(limited(_exact("positive_curvature", max(-float(h[-1]), 0.0) / steepest)))
    else:
        checks.append(judged("positive_curvature", Result.FAIL, "no curvature is positive"))
    tracked = min(top_k, len(h))
    checks.append(_excess("commutativity", h, noise))
    checks.append(_excess("commutativity_deflated", h[tracked:], noise[tracked:, tracked:]))
    gamma = np.diag(noise)[:tracked]
    usable = (h[:tracked] > 0) & modes(h[:tracked], optimizer).stable & (gamma > 1e-14 * gamma.max(initial=0.0))
    keep = np.flatnonzero(usable)
    lam, inside = h[keep], noise[np.ix_(keep, keep)]
    why = f"{len(keep)} of {tracked} directions have noise and a stationary law" if len(keep) < 2 else ""
    if not why:
        scale = 1.0 / np.sqrt(np.diag(inside))
        if not float(np.linalg.eigvalsh(inside * scale[:, None] * scale)[0]) > 1e-12:
            why = f"the noise is singular in the {len(keep)} tracked directions"
    if why:
        checks += [unjudged(name, why) for name in ("price", "commutativity_top", "alignment")]
    else:
        test = commutation_of(inside, lam, optimizer, rng=np.random.default_rng(seed))
        value, cosine = test.price.value, test.cosine.value
        note = f"nats a direction, k = {len(keep)}"
        checks += commutation_checks(test, (value, value, value), (cosine, cosine), note)
    found = {check.name: check for check in checks}
    return GateReport(checks=tuple(found[name] for name in MATRICES))


def _exact(name: str, value: float) -> Quantity:
    return Quantity(name=name, estimate=value, interval=(value, value), note="H and C as given")


def _excess(name: str, h: NDArray[np.float64], noise: NDArray[np.float64]) -> Check:
    if len(h) < 2:
        return unjudged(name, "at most one direction is left")
    squares = noise**2
    mixed = float((h**2) @ squares.sum(axis=1))
    if not (mixed > 0 and np.isfinite(mixed)):
        return unjudged(name, "HC vanishes")
    chi = float(h @ squares @ h) / mixed
    null = haar_expectations(h, np.linalg.eigvalsh(noise))["chi"]
    if not null < FLAT:
        return unjudged(name, f"χ₀ = {null:.2f}: spectra this flat commute with everything")
    value = (chi - null) / (1 - null)
    return limited(_exact(name, value), null="0 rotated, 1 commuting", note=f"χ = {chi:.3f}, χ₀ = {null:.3f}")
