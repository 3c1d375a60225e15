r"""The edge of stochastic stability at a decay: when curvature rises, what sets it, and which account predicts it.

Evidence  ``regime`` records: the runs of `empirical.settings.design`, two sets of real images, several seeds a regime.
Edge      Batch sharpness S settles at 2(1−μ)/η for small batches (Andreyev et al., arXiv 2604.14108). A decay of η by
          the factor f lifts that ceiling by 1/f: curvature has room to rise, and something that raises it only while
          there is loss left to reduce.
Rise      r = Δ mean ln λ over the tracked directions, a difference in differences against the placebo decay of the same
          run (`series.windows_at`), early and late. A regime's rise is the mean over its seeds; its error is the spread
          of seeds pooled over the regimes of a data set, with as many degrees as that has.
Rivals    Saturation: λ follows the outputs' curvature 1 − Σp². Scale: under normalisation λ goes as ‖w‖⁻². Valley: at
          the decay the iterate falls to where the running average of its weights stood. Each predicts a run's rise from
          a number of its own, through a straight line fitted on other runs; all are held to the same runs.
Collapse  A run is left out, named and counted if its robust training accuracy before the decay is below 1.5 times that
          of a constant prediction, or if it was not measured to its end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from empirical.claims import EmpiricalClaim, Subject
from empirical.claims.series import CONTRASTS, DECLARED, FIXED_INPUTS, SPIKE, TOP_K, TREND, windows_at
from empirical.measure.bound import formula, subspace_terms
from empirical.records import Record, RegimeRun
from theory.closed_form.edge import sharpness_limits
from theory.closed_form.pac_bayes import PacBayesTerms
from theory.judge.claim import HYPOTHESIS_ALPHA, POWER, Claim, Compare, Comparison, NotApplicableError
from theory.judge.intervals import Contrast, combined, mean_of, rank_correlation_interval
from theory.judge.results import Axis, Band, Curve, Profile, Result, Role, Sample, Table
from theory.judge.verdict import About, Kind
from theory.model.optimizer import MomentumSGD

EDGE = "Andreyev, Ananthkumar, Walden, Poggio and Beneventano, arXiv 2604.14108"
NOISE = "arXiv 2602.05600"
PAPER = "Xu and Zhang, arXiv 2410.07719, section 6"
#: Batch sharpness over the small-batch limit of a run at the edge.
BAND = (0.4, 1.25)
#: From this share of the limit on a run counts as at the edge.
AT_EDGE = 0.5
#: Robust training loss, in nats, from which on a run is not yet interpolating.
LEFT = 0.3
#: A run whose robust training accuracy is below this many times that of a constant prediction has collapsed.
COLLAPSED = 1.5
#: Fewest regimes behind a statement about regimes, and on either side of a comparison of two kinds of them.
REGIMES, EITHER = 6, 3
#: Resamples of regimes behind the interval of a difference of rank correlations.
RESAMPLES = 999

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What one run says about one contrast, early or late.

    Args:
        rise: difference in differences of mean ln λ.
        noise: of mean ln γ.
        saturation: of the logarithm of the outputs' curvature.
        scale: −2 times that of the mean logarithm of the convolutions' norms.
    """

    rise: float
    noise: float
    saturation: float
    scale: float


@dataclass(frozen=True, eq=False)
class Run:
    """A run of the map, reduced to what claims read."""

    item: RegimeRun

    @cached_property
    def windows(self):
        """The windows around its decay; raises `NotApplicableError` where it has none."""
        training, at = self.item.training, self.item.iterations
        (decay, _, _), *_ = training.decays
        return windows_at(at, (0, decay, training.num_iterations), training.iterations_per_epoch, self.item.run)

    def mean(self, values: Numbers, window: Sequence[int]) -> float:
        """Mean over the checkpoints of a window."""
        return float(values[list(window)].mean())

    @cached_property
    def log_curvature(self) -> Numbers:
        """Mean of ln λ over the tracked positive directions, at every checkpoint."""
        return _mean_log(self.item.curvatures)

    @cached_property
    def log_noise(self) -> Numbers:
        """Mean of ln γ over the tracked directions, at every checkpoint."""
        return _mean_log(self.item.noise)

    @property
    def limits(self) -> tuple[float, float]:
        """Limits of batch sharpness before the decay, of small and of large batches."""
        return sharpness_limits(self.item.training.optimizer)

    def share(self, limit: float) -> float:
        """Geometric mean before the decay of batch sharpness over a limit."""
        sharpness = self.item.sharpness[list(self.windows.before)]
        return float(np.exp(np.log(np.maximum(sharpness, 1e-12)).mean())) / limit

    @cached_property
    def at_edge(self) -> float:
        """Batch sharpness before the decay over the small-batch limit."""
        return self.share(self.limits[0])

    @cached_property
    def loss(self) -> float:
        """Robust training loss before the decay."""
        return self.mean(self.item.train_loss, self.windows.before)

    @cached_property
    def room(self) -> float:
        """ln of the ratio of the limits after and before the decay."""
        (_, before, after), *_ = self.item.training.decays
        return math.log(before / after)

    @cached_property
    def valley(self) -> float:
        """ln λ at the running average less ln λ at the weights, at the decay; 0 where there is no average."""
        at = self.windows.before[-1]
        averages = self.item.average_curvatures[at : at + 1]
        if np.isnan(averages).any():
            return 0.0
        return float(_mean_log(averages)[0] - self.log_curvature[at])

    def moment(self, when: str) -> Moment:
        """Differences in differences, early or late."""
        weights = CONTRASTS[when](self.item.iterations, self.windows)
        return Moment(
            rise=float(weights @ self.log_curvature),
            noise=float(weights @ self.log_noise),
            saturation=float(weights @ np.log(np.maximum(self.item.output_curvature, 1e-12))),
            scale=float(-2 * weights @ self.item.log_weight_norm),
        )

    @cached_property
    def collapsed(self) -> bool:
        """Whether the rule fixed beforehand leaves it out."""
        planned = self.item.training.checkpoint_epochs
        if len(self.item.iterations) < len(planned):
            return True
        constant = COLLAPSED / self.item.training.network.num_classes
        return self.mean(self.item.train_accuracy, self.windows.before) < constant

    @cached_property
    def end(self) -> Mapping[str, float]:
        """What the end of the run says: test loss, and each account of it."""
        late = list(self.windows.late)
        item = self.item
        return {
            "loss": float(item.test_loss[late].mean()),
            "bound": float(np.mean([_complexity(item, place) for place in late])),
            "λ₁": float(item.curvatures[late, 0].mean()),
            "trace": float(item.trace[late].mean()),
            "batch sharpness": float(item.sharpness[late].mean()),
        }


def _mean_log(values: Numbers) -> Numbers:
    return np.array([np.log(row[row > 0]).mean() for row in values])


def _terms(item: RegimeRun, place: int) -> PacBayesTerms:
    """PAC-Bayes terms of a checkpoint over its tracked directions, at the rate after the decay."""
    try:
        return subspace_terms(
            item.curvatures[place],
            item.noise[place] * item.noise_factor,
            _after(item),
            prior_variance=item.prior_variance,
            displacement=item.displacements[place],
            loss=float(item.train_loss[place]),
        )
    except ValueError:
        raise NotApplicableError(f"{item.run} has no direction with a stationary law at its end") from None


def _complexity(item: RegimeRun, place: int) -> float:
    return formula(_terms(item, place), item.num_train) - float(item.train_loss[place])


def _after(item: RegimeRun) -> MomentumSGD:
    (_, _, after), *_ = item.training.decays
    return dataclasses.replace(item.training.optimizer, learning_rate=after)


@dataclass(frozen=True, eq=False)
class Regime:
    """The runs of one regime, in order of their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.runs[0].item.dataset

    @cached_property
    def at_edge(self) -> float:
        """Geometric mean over seeds of the share of the small-batch limit."""
        return float(np.exp(np.mean([math.log(run.at_edge) for run in self.runs])))

    @cached_property
    def loss(self) -> float:
        """Mean robust training loss before the decay."""
        return float(np.mean([run.loss for run in self.runs]))

    def mean(self, of: Callable[[Run], float]) -> float:
        """Mean over seeds."""
        return float(np.mean([of(run) for run in self.runs]))


@dataclass(frozen=True, eq=False)
class Map:
    """Every regime that did not collapse, and the names of the runs that did."""

    regimes: tuple[Regime, ...]
    collapsed: tuple[str, ...]

    @classmethod
    def of(cls, items: Iterable[RegimeRun]) -> Map:
        """Group runs by regime."""
        groups: dict[str, list[Run]] = {}
        collapsed: list[str] = []
        for item in sorted(items, key=lambda item: (item.regime, item.seed)):
            run = Run(item)
            if run.collapsed:
                collapsed.append(f"{item.regime} seed {item.seed}")
            else:
                groups.setdefault(item.regime, []).append(run)
        return cls(tuple(Regime(name, tuple(runs)) for name, runs in groups.items()), tuple(collapsed))

    def require(self, least: int = REGIMES) -> tuple[Regime, ...]:
        """The regimes, if there are enough of them."""
        if len(self.regimes) < least:
            raise NotApplicableError(f"a map needs {least} regimes; here are {len(self.regimes)}{self.left_out}")
        return self.regimes

    @property
    def left_out(self) -> str:
        """Words on the runs that collapsed."""
        count = len(self.collapsed)
        return f"; left out by the rule for collapse: {count} ({', '.join(self.collapsed)})" if count else ""

    def rises(self, when: str) -> tuple[Contrast, ...]:
        """The rise of every regime: mean over seeds, its error from the spread of seeds pooled over its data set."""
        values = [[run.moment(when).rise for run in regime.runs] for regime in self.regimes]
        pooled = {name: self.spread(when, name) for name in {regime.dataset for regime in self.regimes}}
        return tuple(
            Contrast(
                estimate=float(np.mean(rises)),
                standard_error=pooled[regime.dataset][0] / math.sqrt(len(rises)),
                degrees=pooled[regime.dataset][1],
            )
            for regime, rises in zip(self.regimes, values, strict=True)
        )

    def spread(self, when: str, dataset: str) -> tuple[float, float]:
        """Standard deviation of a run's rise over seeds, pooled over the regimes of a data set, and its degrees."""
        squares, degrees = 0.0, 0
        for regime in self.regimes:
            if regime.dataset == dataset:
                values = np.array([run.moment(when).rise for run in regime.runs])
                squares += float(((values - values.mean()) ** 2).sum())
                degrees += len(values) - 1
        if degrees < 2 or squares == 0:
            raise NotApplicableError(f"the regimes on {dataset} have too few seeds to tell a rise from their spread")
        return math.sqrt(squares / degrees), float(degrees)

    def found(self, when: str, seeds: int = 3) -> dict[str, float]:
        """Data set to the smallest rise in ln λ that a regime of so many seeds has a chance `POWER` to show."""
        smallest = {}
        for dataset in sorted({regime.dataset for regime in self.regimes}):
            spread, degrees = self.spread(when, dataset)
            law: Any = cast(Any, stats).t
            reach = float(law.ppf(1 - HYPOTHESIS_ALPHA / 2, degrees) + law.ppf(POWER, degrees))
            smallest[dataset] = reach * spread / math.sqrt(seeds)
        return smallest


# --- (a) the band before the decay ------------------------------------------------------------------------------------

Limit = Callable[[Run], float]


def _small(run: Run) -> float:
    return run.limits[0]


def _large(run: Run) -> float:
    """The limit of full batches taken for that of small ones."""
    return run.limits[1]


def _compare_band(seen: Map, limit: Limit) -> Comparison:
    regimes = [regime for regime in seen.require() if regime.loss >= LEFT]
    if len(regimes) < REGIMES:
        raise NotApplicableError(
            f"a statement needs {REGIMES} regimes with a loss of {LEFT:g}; here are {len(regimes)}"
        )
    shares = [math.exp(regime.mean(lambda run: math.log(run.share(limit(run))))) for regime in regimes]
    inside = sum(BAND[0] <= share <= BAND[1] for share in shares)
    exact = cast(Any, stats).binomtest(inside, len(regimes)).proportion_ci(1 - HYPOTHESIS_ALPHA, method="exact")
    rows = tuple((regime.name, regime.loss, share) for regime, share in zip(regimes, shares, strict=True))
    return Comparison(
        estimate=inside / len(regimes),
        interval=(float(exact.low), float(exact.high)),
        note=f"{inside} of {len(regimes)} regimes inside {BAND[0]:g} to {BAND[1]:g}{seen.left_out}",
        results=(
            Table(
                title="Batch sharpness before the decay, over the limit",
                columns=("regime", "robust loss", "share of the limit"),
                rows=rows,
                caption="Geometric mean over checkpoints and seeds.",
            ),
        ),
    )


# --- (b) where curvature rises ----------------------------------------------------------------------------------------

Where = Callable[[Regime], bool]


def _named(regime: Regime) -> bool:
    """At the edge, and robust loss far from zero."""
    return regime.at_edge >= AT_EDGE and regime.loss >= LEFT


def _others(regime: Regime) -> bool:
    return not _named(regime)


def _compare_where(when: str) -> Compare[Map, Where]:
    def compare(seen: Map, where: Where) -> Comparison:
        regimes, rises = seen.require(), seen.rises(when)
        results = _charted(seen, when)
        inside = [rise.estimate for regime, rise in zip(regimes, rises, strict=True) if where(regime)]
        outside = [rise.estimate for regime, rise in zip(regimes, rises, strict=True) if not where(regime)]
        _both(inside, outside, results)
        first, second = mean_of(inside), mean_of(outside)
        found = combined(
            first.estimate - second.estimate,
            [(part.standard_error**2, part.degrees) for part in (first, second)],
        )
        return Comparison(
            estimate=found.estimate,
            interval=found.interval(HYPOTHESIS_ALPHA),
            note=f"λ × {math.exp(first.estimate):.2f} in {len(inside)} regimes, × {math.exp(second.estimate):.2f} in "
            f"the {len(outside)} others; {_spikes(seen, when)}{seen.left_out}",
            results=results,
        )

    return compare


def _compare_still(when: str) -> Compare[Map, Where]:
    def compare(seen: Map, where: Where) -> Comparison:
        regimes, rises = seen.require(), seen.rises(when)
        chosen = [rise.estimate for regime, rise in zip(regimes, rises, strict=True) if where(regime)]
        _both(chosen, chosen, ())
        found = mean_of([-rise for rise in chosen])
        return Comparison(
            estimate=found.estimate,
            interval=found.interval(HYPOTHESIS_ALPHA),
            note=f"mean rise × {math.exp(-found.estimate):.2f} in {len(chosen)} regimes{seen.left_out}",
        )

    return compare


def _both(inside: Sequence[float], outside: Sequence[float], results: tuple[Result, ...]) -> None:
    if len(inside) < EITHER or len(outside) < EITHER:
        reason = f"a comparison needs {EITHER} regimes of either kind; here are {len(inside)} and {len(outside)}"
        raise NotApplicableError(reason, *results)


def _spikes(seen: Map, when: str) -> str:
    """How many regimes rise by more than the margin, at the level of all of them together; and what would be found."""
    rises = seen.rises(when)
    level = HYPOTHESIS_ALPHA / len(rises)
    above = sum(rise.interval(level)[0] > SPIKE for rise in rises)
    power = ", ".join(f"× {math.exp(value):.2f} on {name}" for name, value in seen.found(when).items())
    counts = [len(regime.runs) for regime in seen.regimes]
    here = "" if set(counts) == {3} else f" (regimes here have {min(counts)} to {max(counts)})"
    power += f" with chance {POWER:g}{here}"
    top = max(range(len(rises)), key=lambda place: rises[place].estimate)
    low, high = (math.exp(end) for end in rises[top].interval(HYPOTHESIS_ALPHA))
    largest = f"{seen.regimes[top].name}: × {math.exp(rises[top].estimate):.2f} [{low:.2f}, {high:.2f}] by itself"
    return (
        f"a rise of λ by more than × 1.25 is shown in {above} of {len(rises)} regimes, all of them together at level "
        f"{HYPOTHESIS_ALPHA:g} (largest: {largest}); three seeds find {power}"
    )


def _charted(seen: Map, when: str) -> tuple[Result, ...]:
    """The map: rise of λ over the share of the edge, by what is left to fit; and regime by regime."""
    rises = seen.rises(when)
    curves = []
    for words, keep in ((f"robust loss ≥ {LEFT:g}", True), (f"robust loss < {LEFT:g}", False)):
        chosen = [
            (regime.at_edge, rise)
            for regime, rise in zip(seen.regimes, rises, strict=True)
            if (regime.loss >= LEFT) is keep
        ]
        chosen.sort(key=lambda pair: pair[0])
        if chosen:
            ends = [rise.interval(HYPOTHESIS_ALPHA) for _, rise in chosen]
            curves.append(
                Curve(
                    role=Role.MEASURED,
                    subject=words,
                    x=[share for share, _ in chosen],
                    y=[math.exp(rise.estimate) for _, rise in chosen],
                    low=[math.exp(low) for low, _ in ends],
                    high=[math.exp(high) for _, high in ends],
                    band=Band.INTERVAL,
                )
            )
    words = "5 epochs after the decay" if when == "early" else "by the stage's end"
    count = sum(len(regime.runs) for regime in seen.regimes)
    profile = Profile(
        title=f"Rise of curvature, {words}",
        sample=Sample(count, "runs"),
        caption="Each point is a regime: λ after the decay over before, beyond the trend, mean over seeds.",
        x=Axis("batch sharpness before the decay over 2(1−μ)/η"),
        y=Axis("λ ×"),
        curves=tuple(curves),
    )
    rows = sorted(
        (
            regime.name,
            len(regime.runs),
            regime.at_edge,
            regime.loss,
            math.exp(rise.estimate),
            math.exp(rise.interval(HYPOTHESIS_ALPHA)[0]),
            math.exp(rise.interval(HYPOTHESIS_ALPHA)[1]),
            math.exp(regime.mean(lambda run: run.moment(when).noise)),
        )
        for regime, rise in zip(seen.regimes, rises, strict=True)
    )
    table = Table(
        title="Regimes",
        columns=("regime", "seeds", "share of the edge", "robust loss", "λ ×", "low", "high", "γ ×"),
        rows=tuple(rows),
        caption=f"Beyond the trend, {words}; 95 % intervals from seeds pooled over the data set.",
    )
    return profile, table


# --- (c) the room that the decay makes --------------------------------------------------------------------------------

Bound = Callable[[Regime], float]


def _room(regime: Regime) -> float:
    return regime.mean(lambda run: run.room)


def _no_room(regime: Regime) -> float:
    """As if the decay made no room at all."""
    return 0.0


def _compare_room(when: str) -> Compare[Map, Bound]:
    def compare(seen: Map, bound: Bound) -> Comparison:
        regimes, rises = seen.require(), seen.rises(when)
        left = [
            Contrast(estimate=bound(regime) - rise.estimate, standard_error=rise.standard_error, degrees=rise.degrees)
            for regime, rise in zip(regimes, rises, strict=True)
        ]
        ends = [one.interval(HYPOTHESIS_ALPHA / len(left)) for one in left]
        closest = min(range(len(left)), key=lambda place: left[place].estimate)
        return Comparison(
            estimate=left[closest].estimate,
            interval=(min(low for low, _ in ends), min(high for _, high in ends)),
            note=f"closest: {regimes[closest].name}, λ × {math.exp(rises[closest].estimate):.2f} of at most "
            f"× {math.exp(bound(regimes[closest])):.3g}{seen.left_out}",
        )

    return compare


# --- (d) noise follows curvature --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """A slope of ln γ that a rule puts between two values.

    Args:
        on: regressor: "λ", "λ²" or "h²", the mean over samples of (uᵢᵀH_n uᵢ)².
        low: smallest slope.
        high: largest slope.
    """

    on: str
    low: float
    high: float


def _regressor(item: RegimeRun, on: str) -> Numbers:
    return {"λ": item.curvatures, "λ²": np.square(item.curvatures), "h²": item.squared_curvatures}[on]


def _slope(x: Numbers, y: Numbers) -> float:
    keep = (x > 0) & (y > 0)
    if keep.sum() < 3:
        return math.nan
    first = np.log(x[keep]) - np.log(x[keep]).mean()
    return float(first @ np.log(y[keep]) / (first @ first)) if first @ first > 0 else math.nan


def _compare_directions(seen: Map, rule: Exponent) -> Comparison:
    """The slope across directions, in the window in which it is farthest from the middle of the rule's."""
    regimes = seen.require()
    found: dict[str, Contrast] = {}
    for window in ("before", "early", "late"):
        slopes = [
            regime.mean(
                lambda run, window=window: float(
                    np.nanmean(
                        [
                            _slope(_regressor(run.item, rule.on)[place], run.item.noise[place])
                            for place in getattr(run.windows, window)
                        ]
                    )
                )
            )
            for regime in regimes
        ]
        found[window] = mean_of(slopes)
    return _within(found, rule, seen)


def _compare_time(seen: Map, rule: Exponent) -> Comparison:
    """The slope of mean ln γ on mean ln λ over the checkpoints of a run."""
    slopes = [
        regime.mean(lambda run: _slope(np.exp(run.log_curvature), np.exp(run.log_noise))) for regime in seen.require()
    ]
    return _within({"over the run": mean_of(slopes)}, rule, seen)


def _within(found: Mapping[str, Contrast], rule: Exponent, seen: Map) -> Comparison:
    middle, half = (rule.low + rule.high) / 2, (rule.high - rule.low) / 2
    level = HYPOTHESIS_ALPHA / len(found)
    lows, highs, estimates = [], [], []
    for slope in found.values():
        low, high = slope.interval(level)
        distances = sorted((abs(low - middle), abs(high - middle)))
        estimates.append(half - abs(slope.estimate - middle))
        lows.append(half - distances[1])
        highs.append(half if low <= middle <= high else half - distances[0])
    said = ", ".join(f"{name} {slope.estimate:.2f}" for name, slope in found.items())
    return Comparison(
        estimate=min(estimates),
        interval=(min(lows), min(highs)),
        note=f"slope of ln γ on ln {rule.on}: {said}{seen.left_out}",
    )


# --- (e) what is left of the shrink -----------------------------------------------------------------------------------


def _compare_residual(when: str) -> Compare[Map, float]:
    def compare(seen: Map, sign: float) -> Comparison:
        regimes = [regime for regime in seen.require() if len(regime.runs) > 1]
        if len(regimes) < REGIMES:
            raise NotApplicableError(f"a statement needs {REGIMES} regimes of two seeds; here are {len(regimes)}")
        # Rise and rest come from different seeds: the error that both contain would otherwise correlate them.
        rises = [np.mean([run.moment(when).rise for run in regime.runs[::2]]) for regime in regimes]
        rests = [
            np.mean([run.moment(when).noise - run.moment(when).rise for run in regime.runs[1::2]]) for regime in regimes
        ]
        value = sign * _rank_correlation(np.array(rises, np.float64), np.array(rests, np.float64))
        return Comparison(
            estimate=value,
            interval=rank_correlation_interval(value, len(regimes), HYPOTHESIS_ALPHA),
            note=f"{len(regimes)} regimes; γ/λ × {math.exp(min(rests)):.2f} to × {math.exp(max(rests)):.2f}"
            f"{seen.left_out}",
        )

    return compare


def _rank_correlation(x: Numbers, y: Numbers) -> float:
    value = float(cast(Any, stats).spearmanr(x, y).statistic)
    return value if math.isfinite(value) else 0.0


# --- which account predicts -------------------------------------------------------------------------------------------

Account = str


def _predictor(account: Account, run: Run, when: str) -> float:
    if account == "edge":
        return min(run.at_edge, 1.0) * min(run.loss, 1.0) * run.room
    if account == "valley":
        return run.valley
    moment = run.moment(when)
    return moment.saturation if account == "saturation" else moment.scale


ACCOUNTS: Mapping[Account, str] = {
    "edge": "share of the edge times robust loss, each at most 1, times the logarithm of the room",
    "saturation": "change of the outputs' curvature",
    "scale": "change of the convolutions' norms",
    "valley": "position against the running average of the weights",
}


def _line(x: Numbers, y: Numbers) -> Callable[[Numbers], Numbers]:
    """Least squares with an intercept; the mean where x does not vary."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square if square > 1e-12 else 0.0
    return lambda new: y.mean() + slope * (new - x.mean())


def _errors_over_regimes(seen: Map, when: str, account: Account | None) -> Numbers:
    """Squared error of each regime's rise, predicted from all other regimes."""
    regimes = seen.require()

    def predictor(run: Run) -> float:
        return 0.0 if account is None else _predictor(account, run, when)

    x = np.array([regime.mean(predictor) for regime in regimes])
    y = np.array([regime.mean(lambda run: run.moment(when).rise) for regime in regimes])
    errors = []
    for place in range(len(regimes)):
        rest = np.arange(len(regimes)) != place
        errors.append((_line(x[rest], y[rest])(x[place : place + 1])[0] - y[place]) ** 2)
    return np.array(errors)


def _errors_over_seeds(seen: Map, when: str, account: Account | None) -> Numbers:
    """Mean squared error of each regime's runs, each predicted from the runs of all other seeds."""
    runs = [(place, run) for place, regime in enumerate(seen.require()) for run in regime.runs]
    seeds = np.array([run.item.seed for _, run in runs])
    if len(set(seeds.tolist())) < 2:
        raise NotApplicableError("a seed can be held out only where there are two")
    x = np.array([0.0 if account is None else _predictor(account, run, when) for _, run in runs])
    y = np.array([run.moment(when).rise for _, run in runs])
    errors = np.zeros(len(runs))
    for seed in set(seeds.tolist()):
        out = seeds == seed
        errors[out] = (_line(x[~out], y[~out])(x[out]) - y[out]) ** 2
    places = np.array([place for place, _ in runs])
    return np.array([errors[places == place].mean() for place in range(len(seen.regimes))])


def _compare_accounts(when: str, errors_of: Callable[[Map, str, Account | None], Numbers]) -> Compare[Map, Account]:
    def compare(seen: Map, account: Account) -> Comparison:
        errors = {name: errors_of(seen, when, name) for name in ACCOUNTS}
        constant = errors_of(seen, when, None)
        rival = min((name for name in ACCOUNTS if name != account), key=lambda name: float(errors[name].mean()))
        found = mean_of(errors[rival] - errors[account])
        said = ", ".join(f"{name} {math.sqrt(float(value.mean())):.3f}" for name, value in errors.items())
        return Comparison(
            estimate=found.estimate,
            interval=found.interval(HYPOTHESIS_ALPHA),
            note=f"root mean squared error in ln λ out of sample: {said}, the mean alone "
            f"{math.sqrt(float(constant.mean())):.3f}; best rival: {rival}{seen.left_out}",
        )

    return compare


# --- what orders the test loss ----------------------------------------------------------------------------------------

ORDERS = ("bound", "λ₁", "trace", "batch sharpness")


def _compare_orders(seen: Map, score: str) -> Comparison:
    """Rank correlation with the robust test loss within each data set and ε, less that of the best other score."""
    rows = [
        (regime.name, (run.item.dataset, attack.epsilon), run.end)
        for regime in seen.require()
        for run in regime.runs
        if (attack := run.item.training.method.attack) is not None
    ]
    if len(rows) < 20:
        raise NotApplicableError(f"an order needs 20 runs under attack; here are {len(rows)}")
    names = sorted({name for name, *_ in rows})

    def correlations(chosen: Sequence[int]) -> dict[str, float]:
        """Of ranks centred within groups, so that ε and the data set order nothing."""
        groups: dict[Any, list[int]] = {}
        for place in chosen:
            groups.setdefault(rows[place][1], []).append(place)
        parts: dict[str, list[float]] = {key: [] for key in ("loss", *ORDERS)}
        for places in groups.values():
            for key in parts:
                ranks = cast(Any, stats).rankdata([rows[place][2][key] for place in places])
                parts[key].extend((ranks - ranks.mean()) / len(places))
        loss = np.array(parts["loss"])
        found = {}
        for key in ORDERS:
            other = np.array(parts[key])
            norm = math.sqrt(float(loss @ loss) * float(other @ other))
            found[key] = float(loss @ other) / norm if norm > 0 else 0.0
        return found

    def lead(found: Mapping[str, float]) -> float:
        return found[score] - max(value for key, value in found.items() if key != score)

    all_of_them = correlations(range(len(rows)))
    by_regime = {name: [place for place, row in enumerate(rows) if row[0] == name] for name in names}
    rng = np.random.default_rng(0)
    draws = [
        lead(correlations([place for name in rng.choice(names, len(names)) for place in by_regime[name]]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(draws, [HYPOTHESIS_ALPHA / 2, 1 - HYPOTHESIS_ALPHA / 2])
    return Comparison(
        estimate=lead(all_of_them),
        interval=(float(low), float(high)),
        note=f"{len(rows)} runs of {len(names)} regimes; rank correlation with the robust test loss: "
        + ", ".join(f"{key} {value:.2f}" for key, value in all_of_them.items())
        + seen.left_out,
        results=(_awp_table(seen),),
    )


def _awp_table(seen: Map) -> Table:
    """Over AWP's γ: the bound's terms and the losses at the end of the run."""
    rows: list[tuple[Any, ...]] = []
    for regime in seen.regimes:
        first = regime.runs[0].item.training
        if regime.name.endswith("base") or first.method.awp is not None:
            late = [(run, list(run.windows.late)) for run in regime.runs]
            terms = [[_terms(run.item, place) for place in places] for run, places in late]
            flat = [one for several in terms for one in several]
            rows.append(
                (
                    regime.dataset,
                    0.0 if first.method.awp is None else first.method.awp.gamma,
                    float(np.mean([one.curvature_times_variance.sum() for one in flat])),
                    float(np.mean([one.negative_log_variance.sum() for one in flat])),
                    regime.mean(lambda run: run.end["bound"]),
                    regime.mean(lambda run: run.end["λ₁"]),
                    regime.mean(lambda run: run.end["loss"]),
                )
            )
    return Table(
        title="AWP: the bound's terms over γ",
        columns=("data set", "γ", "Σ λσ²", "−Σ ln σ²", "complexity", "λ₁", "robust test loss"),
        rows=tuple(sorted(rows)),
        caption="Means over seeds and the last 5 epochs; sums over the tracked directions.",
    )


# --- the register -----------------------------------------------------------------------------------------------------


def _whole_map(records: Sequence[Record]) -> Iterable[Subject[Map]]:
    items = [item for item in records if isinstance(item, RegimeRun)]
    if items:
        yield Subject(
            about=About(
                name="map of regimes",
                seeds=tuple(sorted({item.seed for item in items})),
            ),
            seen=Map.of(items),
            records=tuple(items),
            scope="small convolutional nets on digits and Fashion-MNIST",
        )


def _claim(
    name: str,
    statement: str,
    source: str,
    compare: Compare[Map, Any],
    rule: Any,
    decoys: Mapping[str, Any],
    *,
    margin: float = 0.0,
    when: str = "",
    assumptions: tuple[str, ...] = (),
) -> EmpiricalClaim[Map, Any]:
    claim: Claim[Map, Any] = Claim(
        name=name,
        statement=statement,
        source=source,
        kind=Kind.HYPOTHESIS,
        experiments=(RegimeRun.experiment,),
        assumptions=(FIXED_INPUTS, TOP_K, *assumptions),
        predict=rule,
        decoys=decoys,
        compare=compare,
        margin=margin,
        windows=DECLARED[when] if when else (),
        tags=("map",),
    )
    return EmpiricalClaim(claim=claim, subjects=_whole_map)


WORDS = {"early": "within 5 epochs after the decay", "late": "by the end of the stage after the decay"}
_LAMBDA = Exponent(on="λ", low=1.0, high=2.0)
_BELOW, _ABOVE = Exponent(on="λ", low=0.0, high=1.0), Exponent(on="λ", low=2.0, high=3.0)


def _over_stage(when: str) -> tuple[EmpiricalClaim[Map, Any], ...]:
    words = WORDS[when]
    rivals = {name: name for name in ACCOUNTS if name != "edge"}
    said = "; ".join(f"{name}: {what}" for name, what in ACCOUNTS.items())
    return (
        _claim(
            f"edge-rise-{when}",
            f"Curvature rises at a decay where the run was at the edge (batch sharpness at least {AT_EDGE:g} of "
            f"2(1−μ)/η) and its robust loss still far from zero (at least {LEFT:g} nats): {words}, the mean rise of "
            f"ln λ beyond the trend exceeds that of the other regimes by more than ln 1.25.",
            f"{PAPER}; {EDGE}",
            _compare_where(when),
            _named,
            {"the rule turned round": _others},
            margin=SPIKE,
            when=when,
            assumptions=(TREND,),
        ),
        _claim(
            f"edge-still-{when}",
            f"Elsewhere curvature does not spike at a decay: {words}, the mean rise of ln λ in the regimes below the "
            "edge or without loss left is below ln 1.25.",
            f"{PAPER}; {EDGE}",
            _compare_still(when),
            _others,
            {"the regimes at the edge with loss left taken for them": _named},
            margin=-SPIKE,
            when=when,
            assumptions=(TREND,),
        ),
        _claim(
            f"edge-room-{when}",
            f"The rise is bounded by the room that the decay makes: {words}, in no regime does ln λ rise by more than "
            "ln(η before/η after), the ratio of the limits.",
            EDGE,
            _compare_room(when),
            _room,
            {"a decay makes no room": _no_room},
            when=when,
            assumptions=(TREND,),
        ),
        _claim(
            f"shrink-rest-{when}",
            "The predicted variance falls by less than the rate says exactly where curvature and noise rise: "
            f"{words}, Δ ln γ − Δ ln λ grows over regimes with the rise of ln λ (rank correlation above 0; rise and "
            "rest from different seeds).",
            PAPER,
            _compare_residual(when),
            1.0,
            {"it falls by more": -1.0},
            when=when,
            assumptions=(TREND,),
        ),
        *(
            _claim(
                f"edge-account-{held}-{when}",
                f"Of four accounts of the rise ({said}), each a straight line fitted on other {held}, the edge "
                f"predicts held-out {held} best: {words}, its mean squared error is below that of the best rival.",
                f"{PAPER}; {EDGE}",
                _compare_accounts(when, errors),
                "edge",
                rivals,
                when=when,
                assumptions=(TREND,),
            )
            for held, errors in (("regimes", _errors_over_regimes), ("seeds", _errors_over_seeds))
        ),
    )


CLAIMS: tuple[EmpiricalClaim[Map, Any], ...] = (
    _claim(
        "edge-band",
        f"Before the decay a run that is not yet interpolating (robust training loss at least {LEFT:g} nats) is at the "
        f"edge: batch sharpness over the small-batch limit 2(1−μ)/η lies between {BAND[0]:g} and {BAND[1]:g} in more "
        "than half of the regimes.",
        EDGE,
        _compare_band,
        _small,
        {"the limit 2(1+μ)/η of full batches": _large},
        margin=0.5,
    ),
    *_over_stage("early"),
    *_over_stage("late"),
    _claim(
        "noise-exponent-directions",
        "Across directions noise goes as curvature to a power between 1 and 2: the slope of ln γ on ln λ, before the "
        "decay, within 5 epochs after it and at the stage's end, averaged over regimes.",
        NOISE,
        _compare_directions,
        _LAMBDA,
        {"a power below 1": _BELOW, "a power above 2": _ABOVE},
    ),
    _claim(
        "noise-exponent-time",
        "Over a run noise follows curvature with a power between 1 and 2: the slope of mean ln γ on mean ln λ over its "
        "checkpoints, averaged over regimes.",
        NOISE,
        _compare_time,
        _LAMBDA,
        {"a power below 1": _BELOW, "a power above 2": _ABOVE},
    ),
    _claim(
        "noise-square",
        "Noise is proportional to the mean square of the samples' curvatures: across directions the slope of ln γ on "
        "ln E_p[(uᵀH_p u)²] is 1 within 0.25, before the decay, within 5 epochs after it and at the stage's end.",
        NOISE,
        _compare_directions,
        Exponent(on="h²", low=0.75, high=1.25),
        {"the square of the mean curvature": Exponent(on="λ²", low=0.75, high=1.25)},
    ),
    _claim(
        "bound-orders-test-loss",
        "Over adversarially trained runs, with AWP and without, the complexity of the PAC-Bayes bound orders the "
        "robust test loss at the end better than λ₁, the trace and batch sharpness do: rank correlation within data "
        "set and ε above that of the best of them.",
        f"{PAPER}; the comparison is this project's",
        _compare_orders,
        "bound",
        {name: name for name in ORDERS if name != "bound"},
    ),
)
