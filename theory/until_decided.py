r"""`verify --until-decided`: draw replicas until a claim about a covariance, and every decoy of it, is decided.

Judged    Directions fixed beforehand, in coordinates of H's eigenbasis scaled to predicted variance 1: the axes e_i,
          and for a claim about every entry also e_i ± e_j. A covariance is as predicted iff the variance along each of
          these is, so off-diagonal entries are judged like the others.
Rule      One recorded time a replica, Gaussian noise: along a direction, z²/σ² is then σ²_true/σ² times a χ²₁, exactly
          and independently. `confidence_sequence` holds at all sample sizes at once, so the run may look after every
          batch without paying for it. A prediction is *supported* once the sequence of every direction lies inside
          (1/(1+r), 1+r), and *refuted* once that of one direction excludes 1.
Level     Each direction has one slot of the family (`TEST_ALPHA`), for all time.
Decoys    All of them. One that is the claim's equal along every direction judged can never be refuted, and keeps the
          claim inconclusive.
Evidence  A batch is a run of its own, its seed a child of the root seed: batches of two root seeds share nothing. A
          stopped run goes on from the batches recorded.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from theory.claims import stationary
from theory.claims.moments import measured_state, simulation_experiment, simulation_of, state_frame
from theory.closed_form.eigenbasis import eigenbasis
from theory.judge.claim import TEST_ALPHA, Claim, Experiment, Predictor
from theory.judge.evidence import Evidence
from theory.judge.files import results_folder
from theory.judge.statistics import confidence_sequence
from theory.judge.verdict import About, DecoyVerdict, Outcome, Verdict
from theory.model.quadratic import Quadratic
from theory.oracle.simulate import Segment, Simulation
from theory.progress import Progress
from theory.verification import gather, record, recorded

#: Claims that can be decided: whether each is about the weights' variances alone, or about every entry of the state's.
DECIDABLE = {"stationary-commuting": False, "stationary-general": True, "stationary-diagonal": False}
#: Subject of these verdicts, which stand beside those on the register's own evidence.
SUBJECT = "until decided"
#: Batches after which the run gives up: a hundred times what a 1 % error needs.
MOST_BATCHES = 400
BATCH = 2**18
#: Weights kept of a larger problem.
MOST_WEIGHTS = {True: 6, False: 8}


def _setting(source: str, whole_state: bool) -> Callable[[str], Simulation]:
    """One recorded time a replica, of the problem of a registered experiment, thinned to a few weights."""
    experiment = next(item for item in stationary.EXPERIMENTS if item.name == source)

    def setting(budget: str) -> Simulation:
        registered = experiment.setting(budget)
        problem, most = registered.problem, MOST_WEIGHTS[whole_state]
        if problem.is_diagonal and problem.dimension > most:
            kept = np.linspace(0, problem.dimension - 1, most).round().astype(int)
            problem = Quadratic(problem.hessian[kept], problem.noise_cov[kept])
        elif problem.dimension > most:
            problem = stationary.dense_problem(most, 0.1, 3.4)
        steps = registered.record_times[0]
        return Simulation(
            problem=problem,
            segments=(Segment(optimizer=registered.segments[0].optimizer, steps=steps),),
            replicas=BATCH,
            record_times=(steps,),
            pool=True,
            moments="diagonal" if problem.is_diagonal else "full",
        )

    return setting


@dataclass(frozen=True)
class Plan:
    """What a claim is judged on: experiments with their settings, and the directions looked along in each.

    Args:
        experiments: one a problem.
        simulations: their settings.
        directions: rows, ``(n, 2m)``, an array an experiment.
        part: what of the claim is judged, in words.
    """

    experiments: tuple[Experiment, ...]
    simulations: tuple[Simulation, ...]
    directions: tuple[NDArray[np.float64], ...]
    part: str

    def predicted(self, predict: Predictor) -> NDArray[np.float64]:
        """Variances that a predictor gives along every direction, one after another."""
        laws = [predict(simulation) for simulation in self.simulations]
        return np.concatenate([_along(law, rows) for law, rows in zip(laws, self.directions, strict=True)])

    def measured(self, batch: Sequence[Evidence]) -> NDArray[np.float64]:
        """Those that a batch measured."""
        for evidence, simulation in zip(batch, self.simulations, strict=True):
            if simulation_of(evidence) != simulation:
                raise ValueError(f"evidence {evidence.run_id} was measured under another setting than is judged.")
        laws = [measured_state(evidence)[0] for evidence in batch]
        return np.concatenate([_along(law, rows) for law, rows in zip(laws, self.directions, strict=True)])


def plan(claim: Claim) -> Plan:
    """How `claim`, one of `DECIDABLE`, is judged."""
    whole_state = DECIDABLE[claim.name]
    experiments = tuple(
        simulation_experiment(
            f"until-decided-{name}{'-state' if whole_state else ''}",
            f"{name}, one time a replica",
            _setting(name, whole_state),
        )
        for name in claim.experiments
    )
    simulations = tuple(experiment.setting("default") for experiment in experiments)
    assert claim.predict is not None  # those decidable predict
    directions = tuple(_directions(one, claim.predict(one), whole_state) for one in simulations)
    sizes = " and ".join(dict.fromkeys(str(one.problem.dimension) for one in simulations))
    entries = "every entry of the covariance of weights and velocity" if whole_state else "weight variances"
    return Plan(experiments, simulations, directions, f"{entries} in H's eigenbasis, problems of {sizes} weights")


def _directions(simulation: Simulation, law: NDArray[np.float64], whole_state: bool) -> NDArray[np.float64]:
    m = simulation.problem.dimension
    frame = state_frame(eigenbasis(simulation.problem).basis, m)[: 2 * m if whole_state else m]
    axes = frame / np.sqrt(_along(law, frame))[:, None]
    if not whole_state:
        return axes
    i, j = np.triu_indices(len(axes), 1)
    return np.concatenate([axes, axes[i] + axes[j], axes[i] - axes[j]])


def _along(covariance: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.einsum("ni,ij,nj->n", rows, covariance, rows)


@functools.lru_cache(maxsize=4096)
def _reach(count: int, alpha: float) -> tuple[float, float]:
    """The sequence for measured/predicted = 1; for another ratio it is that many times as large."""
    return confidence_sequence(float(count), float(count), alpha)


class Course:
    """One prediction on its way to a decision, along every direction at once.

    Args:
        predicted: variances, shape ``(n,)``.
        detects: r.
        alpha: level of one direction, for all time.
    """

    def __init__(self, predicted: NDArray[np.float64], detects: float, alpha: float = TEST_ALPHA) -> None:
        self.predicted, self.detects, self.alpha = predicted, detects, alpha
        self.outcome: Outcome | None = None
        self.ratio, self.low, self.high = 1.0, 0.0, math.inf

    def look(self, measured: NDArray[np.float64], count: int) -> None:
        """Decide if the sequences allow it, given mean squares over `count` replicas; a decision is final."""
        if self.outcome is not None:
            return
        if not (self.predicted > 0).all():  # no variance at all
            self.outcome = Outcome.REFUTED
            return
        ratios = measured / self.predicted
        low, high = (end * ratios for end in _reach(count, self.alpha))
        worst = int(np.argmax(np.abs(np.log(ratios))))
        self.ratio, self.low, self.high = float(ratios[worst]), float(low[worst]), float(high[worst])
        if ((low > 1) | (high < 1)).any():
            self.outcome = Outcome.REFUTED
        elif ((low > 1 / (1 + self.detects)) & (high < 1 + self.detects)).all():
            self.outcome = Outcome.SUPPORTED


def verify_until_decided(
    claims: Sequence[Claim],
    experiments: Sequence[Experiment],
    out: Path,
    *,
    seed: int,
    named: bool,
    most_batches: int = MOST_BATCHES,
    show: bool = True,
) -> tuple[Verdict, ...]:
    """Judge the decidable among `claims` sequentially, and record the verdicts beside the folder's others.

    Args:
        claims: what was selected; without names, the decidable ones of the register are taken.
        experiments: the register's, by which the folder's other verdicts are known to be up to date.
        out: results folder.
        seed: root seed.
        named: whether the user named the claims.
        most_batches: batches after which an undecided claim stays inconclusive.
        show: print a line a batch on standard error.

    Raises:
        ValueError: if a claim was named that cannot be decided this way.
    """
    foreign = [claim.name for claim in claims if claim.name not in DECIDABLE]
    if named and foreign:
        raise ValueError(f"`--until-decided` takes {', '.join(DECIDABLE)}; got {', '.join(foreign)}.")
    with results_folder(out):
        kept, verdicts = recorded(out), []
        for claim in claims:
            if claim.name in DECIDABLE:
                planned = plan(claim)
                batches = _batches(planned, out, seed, most_batches, show)
                verdicts.append(decide(claim, planned, batches, show=show))
        record(verdicts, kept, out, experiments)
    return tuple(verdicts)


def batch_seed(seed: int, batch: int, problem: int) -> int:
    """Seed of a batch of a problem: the child (batch, problem) of the root seed, as 63 bits."""
    child = np.random.SeedSequence(seed, spawn_key=(batch, problem))
    return int(child.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _batches(planned: Plan, out: Path, seed: int, most: int, show: bool) -> Iterator[tuple[Evidence, ...]]:
    """Batch after batch, recorded or measured now."""
    progress = Progress if show else None
    for batch in range(most):
        found = []
        for place, experiment in enumerate(planned.experiments):
            gathered = gather(
                [experiment], out, seed=batch_seed(seed, batch, place), budget="default", progress=progress
            )
            found.append(gathered[experiment.name])
        yield tuple(found)


def decide(claim: Claim, planned: Plan, batches: Iterable[Sequence[Evidence]], *, show: bool = False) -> Verdict:
    """Look after every batch until claim and decoys are decided, or the batches end."""
    assert claim.predict is not None
    detects = claim.detects or stationary.DETECTS
    main = Course(planned.predicted(claim.predict), detects)
    decoys = {name: Course(planned.predicted(predict), detects) for name, predict in claim.decoys.items()}
    equal = [name for name, course in decoys.items() if np.allclose(course.predicted, main.predicted, rtol=1e-9)]
    waiting = [main, *(course for name, course in decoys.items() if name not in equal)]
    total, count = np.zeros_like(main.predicted), 0
    used: list[Evidence] = []
    for batch in batches:
        total = total + planned.measured(batch) * BATCH
        count += BATCH
        used += batch
        for course in waiting:
            course.look(total / count, count)
        undecided = sum(course.outcome is None for course in waiting)
        if show:
            print(
                f"{claim.name}: {count:.3g} replicas, {undecided} of {len(waiting)} open", file=sys.stderr, flush=True
            )
        if not undecided:
            break
    found = tuple(
        DecoyVerdict(
            name=name,
            outcome=course.outcome or Outcome.INCONCLUSIVE,
            estimate=course.ratio - 1,
            interval=(course.low - 1, course.high - 1 if math.isfinite(course.high) else None),
            p_value=None,
        )
        for name, course in decoys.items()
    )
    notes = [f"judged sequentially: {planned.part}; {count} replicas each, {len(total)} directions, ±{detects:g}"]
    if equal:
        notes.append(f"nothing judged here tells the claim from the decoy {', '.join(equal)}")
    outcome = main.outcome or Outcome.INCONCLUSIVE
    escaped = [decoy.name for decoy in found if decoy.outcome is not Outcome.REFUTED]
    if outcome is Outcome.SUPPORTED and escaped:
        outcome = Outcome.INCONCLUSIVE
        notes.append(f"the evidence has no power against the decoy {', '.join(escaped)}")
    return Verdict(
        claim=claim.name,
        statement=claim.statement,
        source=claim.source,
        kind=claim.kind,
        outcome=outcome,
        estimate=main.ratio - 1,
        interval=(main.low - 1, main.high - 1 if math.isfinite(main.high) else None),
        tolerance=detects,
        alpha=TEST_ALPHA,
        power=None,
        p_value=None,
        num_tests=len(total),
        reached=float(count),
        required=None,
        decoys=found,
        assumptions=(*claim.assumptions, "Gaussian noise", "one recorded time a replica"),
        evidence=tuple(evidence.run_id for evidence in used),
        note="; ".join(notes),
        about=About(name=SUBJECT),
        definition=claim.digest,
        standing=claim.standing(used),
    )
