r"""How often the gate's checks of commutation err, counted over spectra × μ × N × k: a register of three claims.

Cases     H and C with spectra of their own, 1 to 3 decades over the top k and a bulk below, P = 24 or 96; C has H's
          eigenvectors (half of the time its top ones in another order), or Haar-random ones (*rotated*), or is rotated
          inside H's top k alone (*top*). N samples, Gaussian or with a heavy-tailed scale that all directions share,
          ηλ₁ log-uniform in [.02, 1.5]. A case depends on the seed, its kind and its number alone.
Left out  Tops flatter than a decade. There χ₀ → 1: randomly rotated noise nearly commutes with H, its price is a
          thousandth of a nat, and no number of samples tells the two apart; the gate says undecided (exit 3), which is
          neither a false alarm nor a detection.
Counted   What `commutativity_top`, `commutativity` and `commutativity_deflated` say by the rules of the gate. A pair is
          caught if one of them fails.
Limits    Level .02 of both nulls: the errors of one test are then 2 % and 2 % by construction, and what is counted here
          is what is left of that under finite N, two statistics and the undecided. Excess ½: midway between commuting
          noise, 1, and random noise, 0, both of which it estimates without bias; drift, whiteness and stationarity
          reject at .005 a null that is exact. Price .1, expansion .25 and negative curvature .1 are no quantiles: they
          say how much of the bound a user is ready to lose.

``spikeshrink theory verify --register tests.gate_calibration --claims gate-rotated,gate-rotated-top,gate-commuting``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.assumptions import FLAT, RULES
from theory.closed_form.alignment import haar_rotation
from theory.closed_form.rotated_noise import DRAWS, Commuting, commutation_test
from theory.judge.claim import Claim, Comparison, Experiment
from theory.judge.evidence import Evidence
from theory.judge.results import Axis, Band, Estimate, Forest, Sample, Table
from theory.judge.statistics import binomial_interval
from theory.judge.verdict import Kind
from theory.model.optimizer import MomentumSGD
from theory.model.setting import Setting, keyword_setting

EXPERIMENT = "gate-calibration"
KINDS = ("commuting", "rotated", "top")
MOMENTA = (0.0, 0.5, 0.9, 0.99)
SAMPLES = (200, 500, 1500)
DIRECTIONS = (4, 8, 16)
SIZES = (24, 96)
#: What a rule of the gate may say of a case.
OUTCOMES = tuple(Commuting)
#: Default limits of the gate before it had nulls.
FIXED_PRICE, FIXED_COSINE = 0.1, 0.5
#: A limit that looks strict.
SMALL_PRICE = 0.01
#: Errors allowed, either way.
MARGIN = 0.05

_EXACT_LEVEL = "level .005 of a null that is exact by construction: two of these in a hundred reports, all being well"
#: Why each demand of `theory.assumptions` is what it is.
REASONS: Mapping[str, str] = {
    "stability": "exact: beyond it (S1) has no solution",
    "mean_square_stability": "exact for the tracked directions: beyond it the second moment has no limit",
    "batch_sharpness": "the edge of full batches, which those of smaller ones lie below",
    "commutativity": "midway between random noise, 0, and commuting noise, 1; counted in the published calibration",
    "commutativity_deflated": "as `commutativity`",
    "commutativity_top": "level .02 of each null: 2 % of random pairs pass, 2 % of commuting ones are doubted",
    "price": "no quantile: a tenth of a nat a direction of the bound's KL term is what a user may lose unasked",
    "alignment": "as `commutativity_top`",
    "expansion": "no quantile: a quarter of the loss's change, the margin of the register's claim on it",
    "expansion_path": "as `expansion`",
    "optimum": "99 % quantile of χ²_k/k, the law of a stationary run",
    "drift": _EXACT_LEVEL,
    "whiteness": _EXACT_LEVEL,
    "stationarity": _EXACT_LEVEL,
    "positive_curvature": "no quantile: negative curvature a tenth as steep as the positive",
}


@keyword_setting
class GateCalibration(Setting):
    """The study.

    Args:
        cases: of each kind.
        draws: from each null.
    """

    cases: int = 2000
    draws: int = DRAWS


def spectrum(size: int, k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Falling, largest 1: a decade to three over the first k, or outliers among them, and a bulk below."""
    last = 10.0 ** -rng.uniform(1, 3)
    if rng.random() < 0.5:
        top = np.geomspace(1.0, last, k)
    else:
        outliers = int(rng.integers(2, k + 1))
        top = np.concatenate([np.geomspace(1.0, 2 * last, outliers), last * np.geomspace(1.0, 0.5, k - outliers)])
    return np.concatenate([top, 0.5 * last * np.geomspace(1.0, 0.1, size - k)])


def grid(number: int) -> tuple[int, int, float, int]:
    """P, k, μ and N of a case: the grid in turn."""
    return SIZES[number % 2], DIRECTIONS[number // 2 % 3], MOMENTA[number // 6 % 4], SAMPLES[number // 24 % 3]


def case(kind: str, number: int, seed: int, draws: int) -> dict[str, float]:
    """What the gate's checks say of one case."""
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    size, k, momentum, count = grid(number)
    h, c = spectrum(size, k, rng), spectrum(size, k, rng)
    if kind == "commuting" and rng.random() < 0.5:
        c[:k] = c[rng.permutation(k)]
    turn = np.eye(size)
    if kind == "rotated":
        turn = haar_rotation(size, rng)
    elif kind == "top":
        turn[:k, :k] = haar_rotation(k, rng)
    x = rng.standard_normal((count, size))
    if rng.random() < 0.5:
        x *= np.exp(0.5 * rng.standard_normal((count, 1)))
    x = (x * np.sqrt(c)) @ turn.T
    rate = float(np.exp(rng.uniform(np.log(0.02), np.log(1.5))))
    test = commutation_test(x[:, :k], h[:k], MomentumSGD(rate, momentum), draws=draws, rng=rng)
    one, two = (np.cov(half, rowvar=False) for half in (x[: count // 2], x[count // 2 :]))
    limit = RULES["commutativity"].smallest or 0.0
    below = slice(k, None)
    parts = [(h, one, two), (h[below], one[below, below], two[below, below])]
    return {
        "top": OUTCOMES.index(test.outcome()),
        "price": test.price.value,
        "cosine": test.cosine.value,
        "whole": float(any(_excess(*part) < limit for part in parts)),
    }


def _excess(h: NDArray[np.float64], one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """What `commutation_excess` estimates, from dense halves; 1 where nothing is judged."""
    first, second = h[:, None] * one, h[:, None] * two
    chi_above = float(np.sum(first * second.T))
    chi_below = 0.5 * float(np.sum(first * second) + np.sum((one * h) * (two * h)))
    size, trace, square = len(h), 0.5 * float(np.trace(one) + np.trace(two)), float(np.sum(one * two))
    common = size * (size - 1) * (size + 2)
    a, b = ((size + 1) * trace**2 - 2 * square) / common, (size * square - trace**2) / common
    null = ((a + b) * float(h @ h) + b * float(h.sum()) ** 2) / (float(h @ h) * square / size)
    if not (chi_below > 0 and square > 0 and null < FLAT):
        return 1.0
    return (chi_above / chi_below - null) / (1 - null)


def run(
    setting: GateCalibration, seed: int, progress: Callable[[float], None]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """All cases, one array an answer and kind."""
    arrays: dict[str, NDArray[np.float64]] = {}
    for place, kind in enumerate(KINDS):
        found = []
        for number in range(setting.cases):
            found.append(case(kind, number, seed, setting.draws))
            progress((place + (number + 1) / setting.cases) / len(KINDS))
        arrays |= {f"{kind}_{name}": np.array([item[name] for item in found]) for name in found[0]}
    return {"cases": setting.cases}, arrays


#: A rule of failing: the arrays of one kind to whether each case fails.
FailingRule = Callable[[Mapping[str, NDArray[np.float64]]], NDArray[np.bool_]]


def in_top(found: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """`commutativity_top` fails."""
    return found["top"] == OUTCOMES.index(Commuting.ROTATED)


def anywhere(found: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """It fails, or the excess does, whole or deflated."""
    return in_top(found) | (found["whole"] > 0)


def fixed_limits(found: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """The price above a tenth of a nat or the mean cosine below a half: no nulls."""
    return (found["price"] > FIXED_PRICE) | (found["cosine"] < FIXED_COSINE)


def small_price(found: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """The price above a hundredth of a nat, which sampling error alone exceeds."""
    return found["price"] > SMALL_PRICE


def _compare(kind: str, wrong: bool) -> Callable[[Mapping[str, Evidence], FailingRule], Comparison]:
    """The share of cases that fail although they must not (`wrong`), or that do not although they must."""

    def compare(evidence: Mapping[str, Evidence], rule: FailingRule) -> Comparison:
        item = evidence[EXPERIMENT]
        found = {name[len(kind) + 1 :]: array for name, array in item.arrays.items() if name.startswith(f"{kind}_")}
        errors = rule(found) == wrong
        count, total = int(errors.sum()), len(errors)
        # The family's level, and beside it the interval that a reader expects.
        low, high = binomial_interval(count, total, 1e-10)
        usual = binomial_interval(count, total)
        undecided = int(np.sum(found["top"] == OUTCOMES.index(Commuting.UNDECIDED)))
        word = "fail" if wrong else "escape"
        return Comparison(
            estimate=count / total,
            interval=(low, high),
            note=(
                f"{count} of {total} {word}, {100 * count / total:.2f} % "
                f"(95 %: {100 * usual[0]:.2f} to {100 * usual[1]:.2f}); {undecided} undecided in the top space"
            ),
            results=(*_results(kind, errors, found["top"], word), *((_reasons(),) if wrong else ())),
        )

    return compare


def _results(kind: str, errors: NDArray[np.bool_], top: NDArray[np.float64], word: str) -> tuple[Forest, Table]:
    settings = np.array([grid(number) for number in range(len(errors))])
    estimates, rows = [], []
    for column, symbol in ((3, "N"), (1, "k"), (2, "μ"), (0, "P")):
        for value in sorted(set(settings[:, column])):
            chosen = settings[:, column] == value
            count, total = int(errors[chosen].sum()), int(chosen.sum())
            low, high = binomial_interval(count, total)
            estimates.append(
                Estimate(category=f"{symbol} = {value:g}", value=count / total, low=low, high=high, band=Band.INTERVAL)
            )
    for place, outcome in enumerate(OUTCOMES):
        count = int(np.sum(top == place))
        rows.append((outcome.value, count, round(count / len(top), 4)))
    sample = Sample(len(errors), "pairs")
    return (
        Forest(
            title=f"{kind}: share that {word}s",
            sample=sample,
            caption="Clopper–Pearson intervals at 95 %, margin by margin of the grid. Tops flatter than a decade are "
            "left out: there random noise nearly commutes, and the gate says undecided.",
            x=Axis("share"),
            estimates=tuple(estimates),
            margins=(MARGIN,),
        ),
        Table(
            title=f"{kind}: what the check of the top space says",
            sample=sample,
            columns=("said", "pairs", "share"),
            rows=tuple(rows),
        ),
    )


def _reasons() -> Table:
    rows = tuple((name, str(RULES[name]), why, RULES[name].cost) for name, why in REASONS.items())
    return Table(
        title="default demands and why",
        columns=("check", "limit", "reason", "what a failure costs"),
        rows=rows,
        caption="Checks without a limit here are tests: reported is the p-value of their null.",
    )


def _claim(name: str, statement: str, kind: str, rule: FailingRule, wrong: bool, decoy: tuple[str, FailingRule]) -> Any:
    return Claim(
        name=name,
        statement=statement,
        source="counted; level .02 of both nulls (theory.closed_form.rotated_noise), excess below a half",
        kind=Kind.APPROXIMATION,
        experiments=(EXPERIMENT,),
        assumptions=("the top k curvatures span a decade or more", "200 to 1500 samples", "k from 4 to 16"),
        predict=rule,
        compare=_compare(kind, wrong),
        decoys=dict([decoy]),
        margin=MARGIN,
    )


EXPERIMENTS = (
    Experiment(
        name=EXPERIMENT,
        title="the gate's checks of commutation on pairs of known kind",
        setting=lambda budget: GateCalibration(),
        run=run,
    ),
)
CLAIMS = (
    _claim(
        "gate-rotated",
        "Noise whose eigenvectors are random fails a check of commutation in at least 95 % of pairs",
        "rotated",
        anywhere,
        False,
        ("limits without nulls: price .1, cosine .5", fixed_limits),
    ),
    _claim(
        "gate-rotated-top",
        "Noise rotated inside the tracked directions alone fails the check of the top space in at least 95 % of pairs",
        "top",
        in_top,
        False,
        ("limits without nulls: price .1, cosine .5", fixed_limits),
    ),
    _claim(
        "gate-commuting",
        "Commuting noise fails a check of commutation in at most 5 % of pairs",
        "commuting",
        anywhere,
        True,
        ("a price of .01 nats without a null", small_price),
    ),
)
