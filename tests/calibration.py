r"""How often the judge errs, counted: true claims and claims wrong by 1 %, through the real simulator.

Size      At least 10,000 true statements (a variance, a covariance of two directions, a mean), each tested by the code
          that judges the register's claims, at a small ν. Their p-values must be uniform and their rejection rates at
          α = 0.05, 0.01, 0.001 right. Within a kind every statement rests on noise of its own (another mode or another
          seed), so that the p-values are independent and the tests of uniformity are exact.
Power     At least 1,000 claims, one mode each, at the ν that the register requires for 1 %: `Claim.judge` must support
          each and refute its two decoys, γ 1 % too large and γ 1 % too small.
Rule      Fixed beforehand: a kind passes if its Kolmogorov–Smirnov p-value is above 1e-4 over the number of kinds, and
          each nominal α lies in the Clopper–Pearson interval at level 1 − 1e-4 over the number of intervals; power
          passes if every claim is supported and every decoy refuted.

Register  Two claims say on a page what was counted: how often truth is rejected, how often an error is missed.
          Their margins were set after the study had been counted; its own rule was not.

``python -m tests.calibration --out FOLDER`` prints a table, writes one evidence file, exits 0 if all pass, else 1.
``spikeshrink theory rejudge FOLDER --register tests.calibration`` judges what is stored.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tests.oracles import uniformity_p_value
from theory.claims.moments import moment_tests, simulation_of, state_frame, to_comparison
from theory.closed_form.stationary import stationary_covariance
from theory.judge.claim import Claim, Comparison, Experiment, Predictor
from theory.judge.evidence import Evidence, plain, provenance, run_id
from theory.judge.results import Axis, Band, Curve, Estimate, Forest, Profile, Role, Sample, Table
from theory.judge.statistics import binomial_interval
from theory.judge.verdict import Kind, Outcome
from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.simulate import Segment, Simulation, simulate
from theory.progress import Progress

ALPHAS = (0.05, 0.01, 0.001)
#: Chance that the study as a whole calls a calibrated judge uncalibrated, for tests of uniformity and for rates.
STUDY_ALPHA = 1e-4
#: Relative error of the false claims.
ERROR = 0.01
BINS = 40

HEAVY_BALL = MomentumSGD(learning_rate=0.1, momentum=0.9)


@keyword_setting
class TrueStatements(Setting):
    """Many independent statements of one kind.

    Args:
        kind: what is tested: ``"variance"``, ``"velocity"`` (its variance), ``"covariance"`` (of two directions) or
            ``"mean"``.
        optimizer: momentum SGD's settings.
        noise: law of the noise.
        rotated: simulate with dense matrices (H and C share a rotated eigenbasis) instead of diagonal ones.
        replicas: independent replicas a run.
        num_times: times pooled a run.
        runs: number of runs; a run has `modes` statements (half as many covariances).
        modes: dimension.
        low: smallest ηλ.
        high: largest ηλ.
    """

    kind: str
    optimizer: MomentumSGD = HEAVY_BALL
    noise: NoiseLaw = Gaussian()
    rotated: bool = False
    replicas: int = 512
    num_times: int = 100
    runs: int = 96
    modes: int = 16
    low: float = 0.05
    high: float = 3.4

    def simulation(self) -> tuple[Simulation, NDArray[np.float64]]:
        """One run, and the basis whose columns are its directions."""
        curvatures = np.geomspace(self.low, self.high, self.modes) / self.optimizer.learning_rate
        variances = 10.0 ** np.sin(1.0 + 7.0 * np.arange(self.modes))
        basis = np.eye(self.modes)
        problem = Quadratic(curvatures, variances)
        if self.rotated:
            basis, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((self.modes, self.modes)))
            hessian, noise_cov = (basis * curvatures) @ basis.T, (basis * variances) @ basis.T
            problem = Quadratic(0.5 * (hessian + hessian.T), 0.5 * (noise_cov + noise_cov.T))
        start = _forgetting(self.optimizer.momentum, self.low)
        return (
            Simulation(
                problem=problem,
                segments=(Segment(optimizer=self.optimizer, steps=start + self.num_times),),
                replicas=self.replicas,
                record_times=tuple(range(start + 1, start + self.num_times + 1)),
                pool=True,
                noise=self.noise,
                moments="full" if self.rotated or self.kind == "covariance" else "diagonal",
            ),
            basis,
        )


@keyword_setting
class FalseClaims(Setting):
    """One claim a mode, at the register's ν: runs of the same optimizer with seeds of their own."""

    optimizer: MomentumSGD
    low: float
    high: float
    num_times: int
    runs: int
    modes: int = 64
    replicas: int = 20480

    def simulation(self) -> Simulation:
        """One run."""
        start = _forgetting(self.optimizer.momentum, self.low)
        return Simulation(
            problem=Quadratic(
                np.geomspace(self.low, self.high, self.modes) / self.optimizer.learning_rate,
                10.0 ** np.sin(1.0 + 7.0 * np.arange(self.modes)),
            ),
            segments=(Segment(optimizer=self.optimizer, steps=start + self.num_times),),
            replicas=self.replicas,
            record_times=tuple(range(start + 1, start + self.num_times + 1)),
            pool=True,
            moments="diagonal",
        )


@keyword_setting
class Study(Setting):
    """The whole study."""

    true: tuple[TrueStatements, ...]
    false: tuple[FalseClaims, ...]


def study(quick: bool = False) -> Study:
    """The study as published; `quick` keeps a few runs of everything, to see that it works."""
    share = 16 if quick else 1
    runs = 96 // share
    position = MomentumSGD(learning_rate=0.1, momentum=0.8, form="position")
    nesterov = MomentumSGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    true = (
        # One time: χ² with as many degrees as replicas, exactly.
        TrueStatements(kind="variance", replicas=200, num_times=1, runs=runs),
        TrueStatements(kind="variance", runs=runs),
        TrueStatements(kind="variance", runs=runs, optimizer=nesterov, high=1.2),
        TrueStatements(kind="variance", runs=runs, rotated=True),
        TrueStatements(kind="velocity", runs=runs, optimizer=position, high=3.3),
        TrueStatements(kind="covariance", runs=2 * runs, rotated=True),
        TrueStatements(kind="mean", runs=runs),
        TrueStatements(kind="variance", runs=runs, noise=Rademacher()),
        TrueStatements(kind="variance", runs=runs, noise=Uniform()),
        TrueStatements(kind="variance", runs=runs, noise=StudentT(degrees_of_freedom=9.0), replicas=2048),
    )
    false = (
        FalseClaims(optimizer=HEAVY_BALL, low=0.05, high=3.5, num_times=1500, runs=4),
        FalseClaims(optimizer=MomentumSGD(learning_rate=0.1, momentum=0.5), low=0.2, high=2.8, num_times=700, runs=4),
        FalseClaims(optimizer=MomentumSGD(learning_rate=0.1), low=0.2, high=1.8, num_times=700, runs=4),
        FalseClaims(optimizer=nesterov, low=0.05, high=1.2, num_times=1400, runs=4),
    )
    return Study(true=true, false=tuple(_fewer(one) for one in false[2:3]) if quick else false)


def _fewer(claims: FalseClaims) -> FalseClaims:
    return FalseClaims(
        optimizer=claims.optimizer, low=claims.low, high=claims.high, num_times=claims.num_times, runs=1, modes=4
    )


def _forgetting(momentum: float, low: float) -> int:
    """Steps until the start weighs less than 1e-7 of any variance, for the slowest of modes with ηλ ≥ `low`."""
    if (1 - momentum) ** 2 > 0 and low > (1 - momentum**0.5) ** 2:
        rate = momentum**0.5  # underdamped
    else:
        half = 0.5 * (1 + momentum - low)
        rate = half + (half * half - momentum) ** 0.5
    # Room for a double root and for the fast end, whose root is at most as large in every study here.
    return int(np.ceil(np.log(1e-7) / (2 * np.log(max(rate, 0.9))))) + 60


def run_study(
    setting: Study, seed: int, progress: Callable[[float], None]
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Measured rates and counts, and the p-values kind by kind."""
    work = [_work(one.simulation()[0]) * one.runs for one in setting.true]
    work += [_work(one.simulation()) * one.runs for one in setting.false]
    done = np.concatenate([[0.0], np.cumsum(work)]) / sum(work)
    roots = np.random.SeedSequence(seed).spawn(len(work))
    kinds, arrays = [], {}
    for index, statements in enumerate(setting.true):
        share = _part(progress, done[index], done[index + 1])
        p_values = _p_values(statements, roots[index], share)
        arrays[f"p_values_{index}"] = p_values
        kinds.append({"statements": statements.to_dict(), "label": label(statements), **_rates(p_values, setting)})
    everything = np.concatenate(list(arrays.values()))
    power = []
    for index, claims in enumerate(setting.false, start=len(setting.true)):
        power.append(_power(claims, roots[index], _part(progress, done[index], done[index + 1])))
    judged = sum(one["claims"] for one in power)
    refuted = sum(one["decoys_refuted"] for one in power)
    supported = sum(one["supported"] for one in power)
    measured = {
        "true_statements": kinds,
        "all_true_statements": _rates(everything, setting),
        "false_claims": power,
        "claims": judged,
        "supported": supported,
        "supported_interval": binomial_interval(supported, judged),
        "decoys": 2 * judged,
        "decoys_refuted": refuted,
        "decoys_refuted_interval": binomial_interval(refuted, 2 * judged),
    }
    measured["calibrated"] = all(one["passes"] for one in [*kinds, measured["all_true_statements"]])
    measured["powerful"] = supported == judged and refuted == 2 * judged
    return measured, arrays


def label(statements: TrueStatements) -> str:
    """One line for the table."""
    optimizer, law = statements.optimizer, statements.noise
    words = [statements.kind, "one time" if statements.num_times == 1 else "pooled"]
    words += ["Nesterov"] * optimizer.nesterov + ["position form"] * (optimizer.form == "position")
    words += ["dense"] * statements.rotated + [type(law).__name__] * (not isinstance(law, Gaussian))
    return ", ".join(words)


def _work(simulation: Simulation) -> float:
    return simulation.steps * simulation.replicas * simulation.problem.dimension


def _part(progress: Callable[[float], None], start: float, end: float) -> Callable[[float], None]:
    return lambda fraction: progress(start + (end - start) * fraction)


def _evidence(simulation: Simulation, child: np.random.SeedSequence) -> Evidence:
    seed = int(child.generate_state(1, np.uint64)[0] >> 1)
    arrays = simulate(simulation, seed=seed).to_arrays()
    return Evidence(experiment="calibration", setting=simulation.to_dict(), seed=seed, measured={}, arrays=arrays)


def _state(simulation: Simulation) -> NDArray[np.float64]:
    return stationary_covariance(simulation.problem, simulation.segments[0].optimizer).state()


def _p_values(
    statements: TrueStatements, root: np.random.SeedSequence, progress: Callable[[float], None]
) -> NDArray[np.float64]:
    simulation, basis = statements.simulation()
    m = statements.modes
    frame = state_frame(basis, m)
    frame = frame[m:] if statements.kind == "velocity" else frame[:m]
    covariance = _state(simulation)
    first, second = np.triu_indices(m, 1)
    disjoint = (second == first + 1) & (first % 2 == 0)
    found = []
    for run, child in enumerate(root.spawn(statements.runs)):
        p_values = moment_tests(_evidence(simulation, child), covariance, frame).p_values
        variances, covariances, means = np.split(p_values, [m, m + len(first)])
        found.append({"covariance": covariances[disjoint], "mean": means}.get(statements.kind, variances))
        progress((run + 1) / statements.runs)
    return np.concatenate(found)


def _rates(p_values: NDArray[np.float64], setting: Study) -> dict[str, Any]:
    kinds = len(setting.true) + 1
    rates = []
    for alpha in ALPHAS:
        rejected = int((p_values <= alpha).sum())
        low, high = binomial_interval(rejected, len(p_values), STUDY_ALPHA / (kinds * len(ALPHAS)))
        rates.append(
            {
                "alpha": alpha,
                "rejected": rejected,
                "rate": rejected / len(p_values),
                "interval": binomial_interval(rejected, len(p_values)),
                "study_interval": (low, high),
                "passes": low <= alpha <= high,
            }
        )
    uniform = uniformity_p_value(p_values)
    return {
        "number": len(p_values),
        "uniformity_p_value": uniform,
        "rates": rates,
        "histogram": np.histogram(p_values, bins=BINS, range=(0.0, 1.0))[0],
        "passes": uniform > STUDY_ALPHA / kinds and all(rate["passes"] for rate in rates),
    }


def _claim(mode: int) -> Claim:
    """σ² of one mode is (S1); the decoys hold γ to be 1 % larger and 1 % smaller."""

    def compare(evidence: Mapping[str, Evidence], predictor: Predictor) -> Comparison:
        found = evidence["calibration"]
        simulation = simulation_of(found)
        frame = np.eye(2 * simulation.problem.dimension)[[mode]]
        tests = moment_tests(found, predictor(simulation), frame, off_diagonal=False, means=False)
        return to_comparison(tests)

    return Claim(
        name=f"calibration-mode-{mode}",
        statement="Var w of one mode is (S1)",
        source="tests.calibration",
        kind=Kind.IDENTITY,
        experiments=("calibration",),
        assumptions=("quadratic loss", "white Gaussian noise"),
        predict=_state,
        decoys={
            "noise 1 % larger": lambda simulation: (1 + ERROR) * _state(simulation),
            "noise 1 % smaller": lambda simulation: _state(simulation) / (1 + ERROR),
        },
        compare=compare,
        detects=ERROR,
    )


def _power(claims: FalseClaims, root: np.random.SeedSequence, progress: Callable[[float], None]) -> dict[str, Any]:
    simulation = claims.simulation()
    outcomes: dict[str, int] = dict.fromkeys((outcome.name.lower() for outcome in Outcome), 0)
    refuted, reached, required, worst = 0, [], 0.0, 0.0
    for run, child in enumerate(root.spawn(claims.runs)):
        evidence = _evidence(simulation, child)
        for mode in range(claims.modes):
            verdict = _claim(mode).judge({"calibration": evidence})
            outcomes[verdict.outcome.name.lower()] += 1
            refuted += sum(decoy.outcome is Outcome.REFUTED for decoy in verdict.decoys)
            worst = max(worst, *(decoy.p_value or 0.0 for decoy in verdict.decoys))
            reached.append(verdict.reached or 0.0)
            required = verdict.required or 0.0
        progress((run + 1) / claims.runs)
    return {
        "setting": claims.to_dict(),
        "claims": len(reached),
        "outcomes": outcomes,
        "supported": outcomes["supported"],
        "decoys_refuted": refuted,
        "largest_decoy_p_value": worst,
        "smallest_degrees": min(reached),
        "required_degrees": required,
    }


def _table(measured: Mapping[str, Any]) -> str:
    lines = [f"{'true statements':34} {'number':>7} {'KS p':>8}" + "".join(f"   P(p ≤ {a})".ljust(24) for a in ALPHAS)]
    for one in [*measured["true_statements"], {"label": "all", **measured["all_true_statements"]}]:
        rates = "".join(
            f"   {rate['rate']:.4f} [{rate['interval'][0]:.4f}, {rate['interval'][1]:.4f}]" for rate in one["rates"]
        )
        mark = "" if one["passes"] else "   NOT CALIBRATED"
        lines.append(f"{one['label']:34} {one['number']:7d} {one['uniformity_p_value']:8.4f}{rates}{mark}")
    lines.append("")
    for one in measured["false_claims"]:
        optimizer = one["setting"]["optimizer"]
        lines.append(
            f"claims at μ = {optimizer['momentum']}{', Nesterov' * optimizer['nesterov']}: {one['supported']} of "
            f"{one['claims']} supported, {one['decoys_refuted']} of {2 * one['claims']} decoys wrong by 1 % refuted "
            f"(largest p {one['largest_decoy_p_value']:.1e}; ν ≥ {one['smallest_degrees']:.3g}, "
            f"required {one['required_degrees']:.3g})"
        )
    low, high = measured["decoys_refuted_interval"]
    lines.append(
        f"detection {measured['decoys_refuted']} of {measured['decoys']}, 95 % interval [{low:.4f}, {high:.4f}]"
    )
    return "\n".join(lines)


# --- the register ---------------------------------------------------------------------------------------------------

EXPERIMENT = "calibration"
#: By how much the share of true statements rejected at .05 may be off, and the share of errors missed.
OFF, MISSED = 0.02, 0.05
#: Level of one test of the register's family.
FAMILY = 1e-10

Rates = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Missed = Callable[[int, int], int]


def as_they_are(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The judge's own."""
    return p_values


def overconfident(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of a judge whose standard errors are too short by 1.3, as if correlated times were independent."""
    return 2 * stats.norm.sf(1.3 * stats.norm.isf(p_values / 2))


def not_refuted(refuted: int, total: int) -> int:
    """What the judge missed."""
    return total - refuted


def blind(refuted: int, total: int) -> int:
    """What a judge that refutes nothing misses."""
    del refuted
    return total


def _false_alarms(evidence: Mapping[str, Evidence], rule: Rates) -> Comparison:
    item = evidence[EXPERIMENT]
    kinds = [
        (str(one["label"]), rule(item.arrays[f"p_values_{place}"]))
        for place, one in enumerate(item.measured["true_statements"])
    ]
    every = np.concatenate([p_values for _, p_values in kinds])
    rejected, total = int((every <= ALPHAS[0]).sum()), len(every)
    low, high = binomial_interval(rejected, total, FAMILY)
    usual = binomial_interval(rejected, total)
    return Comparison(
        estimate=rejected / total - ALPHAS[0],
        interval=(low - ALPHAS[0], high - ALPHAS[0]),
        note=(
            f"{rejected} of {total} true statements rejected at α = {ALPHAS[0]:g}: {100 * rejected / total:.2f} % "
            f"(95 %: {100 * usual[0]:.2f} to {100 * usual[1]:.2f})"
        ),
        results=(_rejections([*kinds, ("all", every)]), _levels(every), _uniformity([*kinds, ("all", every)])),
    )


def _rejections(kinds: Sequence[tuple[str, NDArray[np.float64]]]) -> Forest:
    estimates = []
    for name, p_values in kinds:
        for alpha in ALPHAS[:2]:
            count = int((p_values <= alpha).sum())
            low, high = binomial_interval(count, len(p_values))
            estimates.append(
                Estimate(
                    category=name,
                    subject=f"α = {alpha:g}",
                    value=count / len(p_values) / alpha,
                    low=low / alpha,
                    high=high / alpha,
                    band=Band.INTERVAL,
                )
            )
    return Forest(
        title="How often truth is rejected, over how often it should be",
        sample=Sample(len(kinds[-1][1]), "true statements"),
        caption="Clopper–Pearson intervals at 95 %: one in twenty misses 1 though the judge is right.",
        x=Axis("share rejected / α"),
        estimates=tuple(estimates),
        null=1.0,
    )


def _levels(p_values: NDArray[np.float64]) -> Profile:
    levels = np.geomspace(1e-3, 1.0, 31)
    counts = [int((p_values <= level).sum()) for level in levels]
    ends = [binomial_interval(count, len(p_values)) for count in counts]
    return Profile(
        title="The distribution of the p-values of true statements, over that of a uniform law",
        sample=Sample(len(p_values), "true statements"),
        caption="1 is exact. Neighbours share most of their statements.",
        x=Axis("level"),
        y=Axis("share of p-values below the level / level"),
        curves=(
            Curve(role=Role.REFERENCE, x=(levels[0], levels[-1]), y=(1.0, 1.0), by="uniform"),
            Curve(
                role=Role.MEASURED,
                x=levels,
                y=np.array(counts) / len(p_values) / levels,
                low=[low / level for (low, _), level in zip(ends, levels, strict=True)],
                high=[high / level for (_, high), level in zip(ends, levels, strict=True)],
                band=Band.INTERVAL,
            ),
        ),
    )


def _uniformity(kinds: Sequence[tuple[str, NDArray[np.float64]]]) -> Table:
    rows = tuple(
        (
            name,
            len(p_values),
            *(f"{100 * float((p_values <= alpha).mean()):.2f} %" for alpha in ALPHAS),
            round(uniformity_p_value(p_values), 4),
        )
        for name, p_values in kinds
    )
    return Table(
        title="True statements rejected, kind by kind",
        columns=("kind", "statements", *(f"at {alpha:g}" for alpha in ALPHAS), "uniform? (Kolmogorov–Smirnov p)"),
        rows=rows,
    )


def _misses(evidence: Mapping[str, Evidence], rule: Missed) -> Comparison:
    groups = evidence[EXPERIMENT].measured["false_claims"]
    refuted, total = (
        sum(count) for count in zip(*((one["decoys_refuted"], 2 * one["claims"]) for one in groups), strict=True)
    )
    missed = rule(refuted, total)
    low, high = binomial_interval(missed, total, FAMILY)
    usual = binomial_interval(missed, total)
    estimates = []
    for one in groups:
        count = 2 * one["claims"]
        lost = rule(one["decoys_refuted"], count)
        ends = binomial_interval(lost, count)
        estimates.append(
            Estimate(category=_optimizer(one), value=lost / count, low=ends[0], high=ends[1], band=Band.INTERVAL)
        )
    rows = tuple(
        (_optimizer(one), one["claims"], one["supported"], 2 * one["claims"], one["decoys_refuted"]) for one in groups
    )
    return Comparison(
        estimate=missed / total,
        interval=(low, high),
        note=(
            f"{missed} of {total} errors of {100 * ERROR:g} % missed (95 %: {100 * usual[0]:.2f} to "
            f"{100 * usual[1]:.2f} %); {sum(one['supported'] for one in groups)} of "
            f"{sum(one['claims'] for one in groups)} true claims supported"
        ),
        results=(
            Forest(
                title=f"Share of errors of {100 * ERROR:g} % that are missed",
                sample=Sample(total, "wrong formulas"),
                caption="Clopper–Pearson intervals at 95 %, at the sample size that the register asks for.",
                x=Axis("share missed"),
                estimates=tuple(estimates),
                margins=(MISSED,),
                null=0.0,
            ),
            Table(
                title="Claims judged at the register's sample size",
                columns=("optimizer", "true claims", "supported", "wrong formulas", "refuted"),
                rows=rows,
            ),
        ),
    )


def _optimizer(group: Mapping[str, Any]) -> str:
    optimizer = group["setting"]["optimizer"]
    return f"μ = {optimizer['momentum']:g}{', Nesterov' * optimizer['nesterov']}"


EXPERIMENTS = (
    Experiment(
        name=EXPERIMENT,
        title="true claims and claims wrong by 1 % through the real simulator",
        setting=lambda budget: study(),
        run=run_study,
    ),
)
CLAIMS: tuple[Claim[Any, Any], ...] = (
    Claim(
        name="judge-false-alarms",
        statement=f"The judge rejects true statements at α = {ALPHAS[0]:g} as often as it says, within {OFF:g} "
        "(the estimate is the share rejected minus α).",
        source="counted; the judge of every claim about quadratics",
        kind=Kind.APPROXIMATION,
        experiments=(EXPERIMENT,),
        assumptions=("statements of one kind rest on noise of their own", "small ν: the hardest case"),
        predict=as_they_are,
        compare=_false_alarms,
        decoys={"a judge whose standard errors are too short by 1.3": overconfident},
        margin=OFF,
    ),
    Claim(
        name="judge-misses",
        statement=f"At the register's sample size the judge misses at most {100 * MISSED:g} % of errors of "
        f"{100 * ERROR:g} % (the estimate is the share missed).",
        source="counted; γ 1 % too large and 1 % too small",
        kind=Kind.APPROXIMATION,
        experiments=(EXPERIMENT,),
        assumptions=("the ν that the register requires for 1 %",),
        predict=not_refuted,
        compare=_misses,
        decoys={"a judge that refutes nothing": blind},
        margin=MISSED,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study, print its table, write its evidence; 0 if calibrated and powerful, 1 if not, 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration", description="How often the judge errs.")
    parser.add_argument("--out", type=Path, default=Path("reports/local/calibration"), help="folder for the evidence")
    parser.add_argument("--seed", type=int, default=20261122, help="root seed (default: that of the published study)")
    parser.add_argument("--quick", action="store_true", help="a few runs of everything: a check that it works")
    options = parser.parse_args(arguments)
    setting = study(options.quick)
    name, described = "calibration", setting.to_dict()
    path = options.out / "evidence" / name / f"{run_id(name, described, max(options.seed, 0))}.json"
    if options.seed < 0:
        print(f"`--seed` must be >= 0; got {options.seed}.", file=sys.stderr)
        return 2
    if path.exists():
        print(f"`--out` must not hold this study already (evidence is written once); found {path}.", file=sys.stderr)
        return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"`--out` must be a folder that can be written; got {options.out}: {error.strerror}.", file=sys.stderr)
        return 2
    started = time.time()
    with Progress("calibration") as progress:
        measured, arrays = run_study(setting, options.seed, progress)
    evidence = Evidence(
        experiment=name,
        setting=described,
        seed=options.seed,
        measured=plain(measured),
        arrays=arrays,
        provenance=provenance(started),
    )
    try:
        evidence.write(options.out)
    except OSError as error:
        print(f"`--out` must be a folder that can be written; got {options.out}: {error.strerror}.", file=sys.stderr)
        return 2
    print(_table(evidence.measured))
    print(f"evidence: {path}")
    return 0 if measured["calibrated"] and measured["powerful"] else 1


if __name__ == "__main__":
    sys.exit(main())
