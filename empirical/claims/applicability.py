r"""May a law with frozen curvature and noise be judged on an ensemble at all? Measured on its replicas, not assumed.

Conditions, fixed beforehand; what is not met makes a verdict *not applicable, because …*:
          replicas   more of them than directions are tracked: fewer do not span what they are to describe.
          window     replicas spread, before the drop, over at least `RELAXATIONS` relaxation times τ = −1/ln ρ of the
                     slowest judged mode, ρ the modulus of its larger root (19 steps for every underdamped mode at
                     μ = .9), and, where an epoch is shuffled, over at least an epoch.
          phases     a judged record lies inside an epoch: at the end of a shuffled one the noise has cancelled.
          drift      over the second half of the steps before the drop, and over all after it, the replicas' mean moves
                     by at most `DRIFT` standard deviations of their spread: what a straight line in time makes of it,
                     root mean square over directions, the replicas' sampling error taken out.
          places     in every judged direction uᵀHu and γ at the replicas' positions, their own adversarial inputs found
                     anew there, are within `MOVED` of what they were at the checkpoint.
          inputs     along the judged directions the curvature with the attack run again, over ± σ, is within `MOVED` of
                     the one at fixed inputs (mean over directions of the ratio).
Use       A law of finite time, or a rung between two dynamics, needs `FINITE`: it says itself how means, curvature and
          noise move. A stationary law, and (P1), whose λ and γ are frozen, need `LAW`; at fixed inputs, `FIXED`.
Source    Own choice, made before any ensemble with rungs of seeds above 5 was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from empirical.records import Ensemble
from theory.closed_form.stability import modes
from theory.judge.claim import NotApplicableError
from theory.judge.results import CONDITIONS, Table

__all__ = [
    "FINITE",
    "FIXED",
    "LAW",
    "Condition",
    "all_records",
    "assumed",
    "judged_directions",
    "require_applicable",
]

Condition: TypeAlias = Literal["replicas", "window", "phases", "drift", "places", "inputs"]
#: What each kind of statement needs.
FINITE: tuple[Condition, ...] = ("replicas", "window", "phases")
LAW: tuple[Condition, ...] = (*FINITE, "drift", "places")
FIXED: tuple[Condition, ...] = get_args(Condition)
#: Relaxation times of the slowest judged mode that replicas spread for.
RELAXATIONS = 3
#: Standard deviations of the spread by which the mean may move.
DRIFT = 0.5
#: Share by which curvature and noise may differ from those at the checkpoint.
MOVED = 0.25
_MOVED = f"{100 * MOVED:g} %"

_ASSUMED: Mapping[Condition, str] = {
    "replicas": "more replicas than tracked directions",
    "window": f"replicas spread for at least {RELAXATIONS} relaxation times of the slowest judged mode, and an epoch",
    "phases": "records inside the epoch, not at its ends alone",
    "drift": f"the replicas' mean moves by less than {DRIFT:g} standard deviations over the window",
    "places": f"λ and γ at the replicas' positions within {_MOVED} of those at the checkpoint, in every direction",
    "inputs": f"with the attack run again the curvature is within {_MOVED} of that at fixed inputs",
}

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One condition on one ensemble.

    Args:
        measured: what was found.
        limit: what it is held against.
        reason: why it is not met; empty where it is.
    """

    measured: str
    limit: str
    reason: str = ""


def require_applicable(item: Ensemble, judged: NDArray[np.intp], needs: tuple[Condition, ...]) -> Table:
    """What was found of every condition, whether it is needed or not.

    Args:
        item: the ensemble.
        judged: which of its records are judged.
        needs: the conditions.

    Raises:
        NotApplicableError: if one that is needed is not met, naming each and its numbers; the table comes with it.
    """
    found = {name: _FINDERS[name](item, judged) for name in FIXED}
    table = Table(
        title=CONDITIONS,
        columns=("condition", "measured", "limit", "met", "needed here"),
        rows=tuple(
            (name, f.measured, f.limit, "no" if f.reason else "yes", "yes" if name in needs else "no")
            for name, f in found.items()
        ),
        caption="Conditions fixed beforehand; one that is needed and not met makes the verdict not applicable.",
    )
    reasons = [found[name].reason for name in needs if found[name].reason]
    if reasons:
        raise NotApplicableError("; ".join(reasons), table)
    return table


def assumed(needs: tuple[Condition, ...]) -> tuple[str, ...]:
    """The conditions as a claim's assumptions state them."""
    return tuple(f"{_ASSUMED[name]} (measured)" for name in needs)


def all_records(item: Ensemble) -> NDArray[np.intp]:
    """Every record, before the drop and after it."""
    return np.arange(len(item.steps))


def judged_directions(item: Ensemble) -> NDArray[np.bool_]:
    """Tracked directions with positive curvature.

    Raises:
        NotApplicableError: if there is none.
    """
    keep = item.frozen.curvatures > 0
    if not keep.any():
        raise NotApplicableError("no tracked direction has positive curvature at the branching checkpoint")
    return keep


def _replicas(item: Ensemble, judged: NDArray[np.intp]) -> Finding:
    count, directions = item.positions.shape[1:]
    return Finding(
        measured=f"{count} replicas",
        limit=f"more than {directions}",
        reason="" if count > directions else f"{count} replicas for {directions} directions: more are needed",
    )


def _window(item: Ensemble, judged: NDArray[np.intp]) -> Finding:
    radius = modes(item.frozen.curvatures[judged_directions(item)], item.optimizer).spectral_radius.max()
    slowest = -1 / math.log(radius) if 0 < radius < 1 else 0.0 if radius <= 0 else math.inf
    epoch = len(item.batch_sizes) if item.sampling == "shuffle" else 1
    reasons = []
    if not item.drop >= RELAXATIONS * slowest:
        reasons.append(
            f"{item.drop} steps before the drop are {item.drop / slowest:.1f} relaxation times of the slowest judged "
            f"mode ({slowest:.0f} steps), {RELAXATIONS} are needed"
        )
    if item.drop < epoch:
        reasons.append(f"{item.drop} steps before the drop are less than the epoch of {epoch} that is shuffled")
    return Finding(
        measured=f"{item.drop} steps; relaxation time {slowest:.1f}, epoch {epoch}",
        limit=f"{RELAXATIONS} relaxation times and an epoch",
        reason="; ".join(reasons),
    )


def _phases(item: Ensemble, judged: NDArray[np.intp]) -> Finding:
    epoch = len(item.batch_sizes)
    inside = int(np.count_nonzero((item.start_position + item.steps[judged]) % epoch))
    bad = item.sampling == "shuffle" and epoch > 1 and not inside
    return Finding(
        measured=f"{inside} of {len(judged)} judged records inside an epoch",
        limit="1" if item.sampling == "shuffle" else "any: batches are drawn with replacement",
        reason=f"all {len(judged)} judged records are at ends of epochs, where the noise of a shuffled epoch has "
        "cancelled"
        if bad
        else "",
    )


def _drift(item: Ensemble, judged: NDArray[np.intp]) -> Finding:
    steps = item.steps
    windows = {"before": np.flatnonzero((steps > item.drop // 2) & (steps <= item.drop))}
    if _reaches_beyond_the_drop(item, judged):
        windows["after"] = np.flatnonzero(steps > item.drop)
    found: dict[str, float] = {}
    for name, records in windows.items():
        if len(records) < 2:
            return Finding(
                measured=f"{len(records)} records {name} the drop",
                limit="2",
                reason=f"drift is not measured: {len(records)} records in the window {name} the drop, 2 are needed",
            )
        chosen = item.positions[records][:, :, judged_directions(item)].astype(np.float64)
        found[name] = _mean_motion(steps[records], chosen)
    said = ", ".join(f"{value:.2f} {name}" for name, value in found.items())
    return Finding(
        measured=f"{said} the drop",
        limit=f"at most {DRIFT:g}",
        reason=""
        if max(found.values()) <= DRIFT
        else f"the checkpoint is not stationary: the replicas' mean moves by {said} the drop, in standard deviations "
        f"of their spread (at most {DRIFT:g} is needed)",
    )


def _mean_motion(steps: NDArray[np.int64], positions: Array) -> float:
    """How far a line through the replicas' means goes over the window, in standard deviations of the spread."""
    time = steps - steps.mean()
    slopes = np.einsum("t,trk->rk", time, positions) / float(time @ time)  # of each replica
    moved = slopes * float(steps[-1] - steps[0])
    square = moved.mean(axis=0) ** 2 - moved.var(axis=0, ddof=1) / len(moved)
    spread = positions.var(axis=1, ddof=1).mean(axis=0)
    return math.sqrt(max(float((square / spread).mean()), 0.0))


def _places(item: Ensemble, judged: NDArray[np.intp]) -> Finding:
    limit = f"within {_MOVED}, in every direction"
    if item.rungs is None:
        return Finding(
            measured="no",
            limit=limit,
            reason="λ and γ were not measured at the replicas' positions: not vectorised, or a subset measured",
        )
    places, frozen, keep = item.rungs.places, item.frozen, judged_directions(item)
    moments = range(len(places.steps) if _reaches_beyond_the_drop(item, judged) else 1)
    said, worst = [], 0.0
    for moment in moments:
        ratios = {
            "λ": places.attacked_curvatures[moment, :-1].mean(axis=0)[keep] / frozen.curvatures[keep],
            "γ": places.attacked_slope_variances[moment, :-1].mean(axis=0)[keep] / frozen.slope_variances[keep],
        }
        worst = max(worst, *(float(np.abs(ratio - 1).max()) for ratio in ratios.values()))
        ends = " and ".join(f"{name} {ratio.min():.2f} to {ratio.max():.2f} ×" for name, ratio in ratios.items())
        said.append(f"{ends} at step {int(places.steps[moment])}")
    return Finding(
        measured="; ".join(said),
        limit=limit,
        reason=""
        if worst <= MOVED
        else "where the replicas are, λ and γ are not those of the checkpoint: "
        f"{', '.join(said)} (within {_MOVED} is needed in every direction)",
    )


def _inputs(item: Ensemble, judged: NDArray[np.intp]) -> Finding:
    limit = f"within {_MOVED}"
    if item.training.method.attack is None:
        return Finding(measured="no attack", limit=limit)
    if item.curvature is None:
        reason = "the curvature with the attack run again was not measured (no mode was stable)"
        return Finding(measured="no", limit=limit, reason=reason)
    keep = judged_directions(item)
    ratio = float((item.curvature.robust.mean(axis=0)[keep] / item.frozen.curvatures[keep]).mean())
    said = f"{ratio:.2f} ×"
    return Finding(
        measured=said,
        limit=limit,
        reason=""
        if abs(ratio - 1) <= MOVED
        else f"inputs do not stay fixed: with the attack run again the curvature is {said} the one at fixed inputs "
        f"(within {_MOVED} is needed)",
    )


def _reaches_beyond_the_drop(item: Ensemble, judged: NDArray[np.intp]) -> bool:
    return bool((item.steps[judged] > item.drop).any())


_FINDERS: Mapping[Condition, Callable[[Ensemble, NDArray[np.intp]], Finding]] = {
    "replicas": _replicas,
    "window": _window,
    "phases": _phases,
    "drift": _drift,
    "places": _places,
    "inputs": _inputs,
}
