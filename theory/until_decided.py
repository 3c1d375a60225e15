r"""`verify --until-decided`: draw replicas until every variance claim, and every decoy, is decided.

Rule      One recorded time a replica, Gaussian noise: along each eigenvector of H, z²/σ² is then σ²_true/σ² times a
          χ²₁, exactly and independently. `confidence_sequence` holds at all sample sizes at once, so the run may look
          after every batch without paying for it. A direction is *confirmed* once its sequence lies inside
          (1/(1+r), 1+r), and *contradicted* once its sequence excludes 1: a true claim ends, and so does a false one.
Level     Each direction has one slot of the family (`TEST_ALPHA`), for all time.
Evidence  A batch is a run of its own: seed = root seed + batch number. A stopped run goes on from the batches recorded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from theory.claims import stationary
from theory.claims.moments import measured_state, simulation_experiment, simulation_of
from theory.closed_form.eigenbasis import eigenbasis
from theory.judge.claim import TEST_ALPHA, Claim
from theory.judge.evidence import Evidence
from theory.judge.files import results_folder
from theory.judge.statistics import confidence_sequence
from theory.judge.verdict import DecoyVerdict, Outcome, Verdict
from theory.oracle.simulate import Segment, Simulation
from theory.progress import Progress
from theory.verification import gather, record, recorded

#: Claims whose prediction is a variance along every eigenvector of H.
DECIDABLE = ("stationary-commuting", "stationary-general", "stationary-diagonal")
#: Batches after which the run gives up: a hundred times what a 1 % error needs.
MOST_BATCHES = 400
BATCH = 2**18


def _setting(source: str) -> Callable[[str], Simulation]:
    """One recorded time a replica, of the problem of a registered experiment, thinned to eight weights."""
    experiment = next(item for item in stationary.EXPERIMENTS if item.name == source)

    def setting(budget: str) -> Simulation:
        registered = experiment.setting(budget)
        optimizer = registered.segments[0].optimizer
        problem = registered.problem
        if problem.is_diagonal:
            kept = np.linspace(0, problem.dimension - 1, 8).round().astype(int)
            problem = type(problem)(problem.hessian[kept], problem.noise_cov[kept])
        else:
            problem = stationary.dense_problem(8, 0.1, 3.4)
        steps = registered.record_times[0]
        return Simulation(
            problem=problem,
            segments=(Segment(optimizer=optimizer, steps=steps),),
            replicas=BATCH,
            record_times=(steps,),
            pool=True,
            moments="diagonal" if problem.is_diagonal else "full",
        )

    return setting


SOURCES = {
    "stationary-commuting": "stationary-commuting",
    "stationary-general": "stationary-general",
    "stationary-diagonal": "stationary-general",
}


@dataclass
class _Course:
    """One prediction on its way to a decision."""

    predicted: NDArray[np.float64]
    outcome: Outcome | None = None
    low: float = 0.0
    high: float = math.inf
    ratio: float = 1.0

    def look(self, sums: NDArray[np.float64], count: int, detects: float) -> None:
        """Decide if the sequences of all directions allow it; a decision is final."""
        if self.outcome is not None:
            return
        ratios = sums / count / self.predicted
        ends = [confidence_sequence(float(r) * count, count, TEST_ALPHA) for r in ratios]
        worst = int(np.argmax(np.abs(np.log(ratios))))
        self.ratio, (self.low, self.high) = float(ratios[worst]), ends[worst]
        if any(low > 1 or high < 1 for low, high in ends):
            self.outcome = Outcome.REFUTED
        elif all(low > 1 / (1 + detects) and high < 1 + detects for low, high in ends):
            self.outcome = Outcome.SUPPORTED


def verify_until_decided(
    claims: Sequence[Claim], out: Path, *, seed: int, named: bool, most_batches: int = MOST_BATCHES, show: bool = True
) -> tuple[Verdict, ...]:
    """Judge the variance claims among `claims` sequentially, and write ``verdicts.json``.

    Args:
        claims: what was selected; without names, the decidable ones of the register are taken.
        out: results folder.
        seed: root seed.
        named: whether the user named the claims.
        most_batches: batches after which an undecided claim stays inconclusive.
        show: print a line a batch on standard error.

    Raises:
        ValueError: if a claim was named that is not a variance claim.
    """
    foreign = [claim.name for claim in claims if claim.name not in DECIDABLE]
    if named and foreign:
        raise ValueError(f"`--until-decided` takes {', '.join(DECIDABLE)}; got {', '.join(foreign)}.")
    chosen = [claim for claim in claims if claim.name in DECIDABLE]
    with results_folder(out):
        kept = recorded(out)
        verdicts = tuple(_decide(claim, out, seed, most_batches, show) for claim in chosen)
        record(verdicts, kept, out, ())
    return verdicts


def _decide(claim: Claim, out: Path, seed: int, most_batches: int, show: bool) -> Verdict:
    source = SOURCES[claim.name]
    setting = _setting(source)
    experiment = simulation_experiment(f"until-decided-{source}", f"{source}, one time a replica", setting)
    simulation = setting("default")
    basis = eigenbasis(simulation.problem).basis
    m = simulation.problem.dimension
    turn = np.eye(m) if basis is None else basis.T

    def along(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.diag(turn @ covariance[:m, :m] @ turn.T)

    detects = claim.detects or stationary.DETECTS
    main = _Course(along(claim.rule(simulation)))
    decoys = {name: _Course(along(predict(simulation))) for name, predict in claim.decoys.items()}
    # A decoy that leaves every variance as it is speaks of other entries, and cannot be decided here.
    decoys = {name: course for name, course in decoys.items() if not np.allclose(course.predicted, main.predicted)}
    sums, count, used = np.zeros(m), 0, []
    for batch in range(most_batches):
        evidence: Evidence = gather(
            [experiment], out, seed=seed + batch, budget="default", progress=Progress if show else None
        )[experiment.name]
        assert simulation_of(evidence) == simulation
        second, _ = measured_state(evidence)
        sums = sums + along(second) * simulation.replicas
        count += simulation.replicas
        used.append(evidence.run_id)
        courses = [main, *decoys.values()]
        for course in courses:
            course.look(sums, count, detects)
        if show:
            undecided = sum(course.outcome is None for course in courses)
            print(
                f"{claim.name}: {count:.3g} replicas, {undecided} of {len(courses)} open", file=sys.stderr, flush=True
            )
        if all(course.outcome is not None for course in courses):
            break
    found = tuple(
        DecoyVerdict(
            name=name,
            outcome=course.outcome or Outcome.INCONCLUSIVE,
            estimate=course.ratio - 1,
            interval=(course.low - 1, course.high - 1),
            p_value=None,
        )
        for name, course in decoys.items()
    )
    outcome = main.outcome or Outcome.INCONCLUSIVE
    escaped = [decoy.name for decoy in found if decoy.outcome is not Outcome.REFUTED]
    if outcome is Outcome.SUPPORTED and escaped:
        outcome = Outcome.INCONCLUSIVE
    return Verdict(
        claim=claim.name,
        statement=claim.statement,
        source=claim.source,
        kind=claim.kind,
        outcome=outcome,
        estimate=main.ratio - 1,
        interval=(main.low - 1, main.high - 1),
        tolerance=detects,
        alpha=TEST_ALPHA,
        power=None,
        p_value=None,
        num_tests=m,
        reached=float(count),
        required=None,
        decoys=found,
        assumptions=(*claim.assumptions, "Gaussian noise", "one recorded time a replica"),
        evidence=tuple(used),
        note=f"sequential: {count} replicas of {m} directions, error confirmed within ±{detects:g} at all sample sizes",
    )
