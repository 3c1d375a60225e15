r"""Exact claims about paths: after a change, along schedules, under noise that remembers; the numbers of the two forms.

Every oracle runs the dense recursion step by step in extended precision, from a start that it has settled itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims.exact import Answers, each, exact_claim, exact_experiment
from theory.claims.exact_stationary import ASSUMED, OWN, PROBLEM, SPIKED
from theory.closed_form.correlated import correlated_transient
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.interpolation import interpolated_variance, settling_time
from theory.closed_form.propagate import Propagation, propagate
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.closed_form.transient import mean_path, transient_covariance
from theory.judge.claim import Claim, Experiment
from theory.model.optimizer import MomentumSGD, ParameterGroups
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.model.setting import Setting, keyword_setting
from theory.oracle.dense import settled
from theory.oracle.transition import transition

# ---------------------------------------------------------------------------------------------------------------------
# After a change


@keyword_setting
class Change(Setting):
    """A change of problem and optimizer at step 0.

    Args:
        problem: before.
        problem_after: after.
        optimizers: before; after it the rate is divided by five, and momentum and weight decay change a little.
        steps: numbers of updates after the change.
        autocorrelation: φ of the noise that remembers.
    """

    problem: Quadratic
    problem_after: Quadratic
    optimizers: tuple[MomentumSGD, ...]
    steps: tuple[int, ...]
    autocorrelation: float = 0.0


OPTIMIZERS = (
    MomentumSGD(0.2, 0.9),
    MomentumSGD(0.4),
    MomentumSGD(0.3, 0.8, dampening=0.4, weight_decay=0.2),
    MomentumSGD(0.3, 0.8, dampening=0.4, weight_decay=0.2, form="position"),
    MomentumSGD(0.1, 0.9, nesterov=True, weight_decay=0.3),
    MomentumSGD(0.5, 0.9, dampening=0.9, discount=0.7, weight_decay=0.1),
    MomentumSGD(
        0.1,
        0.8,
        weight_decay=0.2,
        groups=ParameterGroups(rate_factors=np.array([1.0, 0.5, 2.0]), decay_factors=np.array([1.0, 0.0, 3.0])),
    ),
)
MOVED = replace(SPIKED, optimum=PROBLEM.optimum)
CHANGE = Change(problem=PROBLEM, problem_after=MOVED, optimizers=OPTIMIZERS, steps=(0, 1, 2, 7, 60))
START = np.array([0.7, -1.1, 0.3])


def _after(optimizer: MomentumSGD) -> MomentumSGD:
    return replace(
        optimizer,
        learning_rate=0.2 * optimizer.learning_rate,
        momentum=0.9 * optimizer.momentum,
        weight_decay=0.7 * optimizer.weight_decay,
    )


def _dense(problem: Quadratic, optimizer: MomentumSGD) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """F, G, G C Gᵀ, and the push G δw* that weight decay gives, in extended precision."""
    step, inflow = transition(problem, optimizer, np.longdouble)
    decays = np.ones(problem.dimension) if optimizer.groups is None else optimizer.groups.decays()
    pull = np.longdouble(optimizer.weight_decay) * decays * problem.optimum
    return step, inflow, inflow @ problem.dense_noise_cov() @ inflow.T, inflow @ pull


def _flipping(problem: Quadratic, optimizer: MomentumSGD) -> MomentumSGD | None:
    """The same recursion at a rate where the sharpest direction changes sign at every step; heavy ball alone."""
    if optimizer.direction[0] or optimizer.groups is not None:
        return None
    sharpest = float(np.linalg.eigvalsh(problem.dense_hessian())[-1]) + optimizer.weight_decay
    return replace(optimizer, learning_rate=1.7 * (1 + optimizer.momentum) / (optimizer.gradient_share * sharpest))


def _settled(problem: Quadratic, optimizer: MomentumSGD) -> NDArray:
    step, _, forcing, _ = _dense(problem, optimizer)
    return settled(step, forcing)


def _at(wanted: tuple[int, ...], start: Any, advance: Callable[[int, Any], Any]) -> NDArray:
    """What `advance(t, ·)` makes of a start, at the steps wanted."""
    found, now = [], start
    for step in range(wanted[-1] + 1):
        if step in wanted:
            found.append(now)
        now = advance(step, now)
    return np.array(found)


def _change_oracle(setting: Change, optimizer: MomentumSGD) -> Answers:
    problem, after = setting.problem_after, _after(optimizer)
    m = problem.dimension
    step, _, forcing, push = _dense(problem, after)
    answers = {
        "state": _at(setting.steps, _settled(setting.problem, optimizer), lambda t, now: step @ now @ step.T + forcing),
        "radius": np.array([np.abs(np.linalg.eigvals(step.astype(np.float64))).max()]),
    }
    place = np.concatenate([problem.optimum, np.zeros(m)])
    away = np.concatenate([START, np.zeros(m)]).astype(np.longdouble) - place
    answers["mean"] = place + _at(setting.steps, away, lambda t, now: step @ now + push)
    sharp = _flipping(problem, after)
    if sharp is not None:
        move, _, _, thrown = _dense(problem, sharp)
        answers["mean, flipping,"] = place + _at(setting.steps, away, lambda t, now: move @ now + thrown)
    if optimizer.form == "pytorch" and optimizer.momentum:
        first = _dense(problem, replace(after, dampening=0.0))
        answers["mean, torch's first step,"] = place + _at(
            setting.steps, away, lambda t, now: first[0] @ now + first[3] if t == 0 else step @ now + push
        )
        spread = np.zeros((2 * m, 2 * m), dtype=np.longdouble)
        spread[:m, :m] = np.eye(m)
        answers["state, torch's first step,"] = _at(
            setting.steps,
            spread,
            lambda t, now: first[0] @ now @ first[0].T + first[2] if t == 0 else step @ now @ step.T + forcing,
        )
    return answers


def _change(setting: Change, optimizer: MomentumSGD) -> Answers:
    problem, after = setting.problem_after, _after(optimizer)
    moved = transient_covariance(setting.problem, optimizer, after, setting.steps, problem_after=problem)
    answers: dict[str, Any] = {
        "state": moved.state(),
        "radius": np.array([moved.spectral_radius]),
        "mean": mean_path(problem, after, START, setting.steps),
    }
    sharp = _flipping(problem, after)
    if sharp is not None:
        answers["mean, flipping,"] = mean_path(problem, sharp, START, setting.steps)
    if optimizer.form == "pytorch" and optimizer.momentum:
        answers["mean, torch's first step,"] = mean_path(
            problem, after, START, setting.steps, undampened_first_step=True
        )
        answers["state, torch's first step,"] = transient_covariance(
            problem, None, after, setting.steps, np.eye(problem.dimension), undampened_first_step=True
        ).state()
    return answers


def _change_as_if(change: Callable[[Change, MomentumSGD], tuple[Change, MomentumSGD]]) -> Callable[[Change], Answers]:
    def wrong(setting: Change, optimizer: MomentumSGD) -> Answers:
        found = _change(*change(setting, optimizer))
        return {key: found[key] for key in ("state", "radius", "mean")}

    return each(wrong)


def _radius_of_decay(setting: Change, optimizer: MomentumSGD) -> Answers:
    """μ for √μ."""
    return {"radius": _change(setting, optimizer)["radius"] ** 2}


def _dampened_first(setting: Change, optimizer: MomentumSGD) -> Answers:
    """torch's first step dampened as all others."""
    if optimizer.form != "pytorch" or not optimizer.momentum:
        return {}
    return {"mean, torch's first step,": _change(setting, optimizer)["mean"]}


# ---------------------------------------------------------------------------------------------------------------------
# The numbers of the two forms


def _drop(form: str) -> tuple[MomentumSGD, MomentumSGD]:
    before = MomentumSGD(0.1, 0.9, form=form)  # pyright: ignore[reportArgumentType]
    return before, replace(before, learning_rate=0.01)


@keyword_setting
class Drop(Setting):
    """μ = .9, η .1 → .01, λ = γ = 1, and the number of steps after which the forms are compared."""

    problem: Quadratic
    steps: int = 10


DROP = Drop(problem=Quadratic(np.ones(1), np.ones(1)))
#: The variance ten steps after the drop over the one before it, as the documentation prints it.
PRINTED = {"position": 3.28, "pytorch": 0.48}


def _gap_oracle(setting: Drop) -> Answers:
    """The written update: position form keeps the displacement, torch's the buffer."""
    answers = {}
    for form in PRINTED:
        before, after = _drop(form)
        start = _settled(setting.problem, before)
        step, _, forcing, _ = _dense(setting.problem, after)
        end = _at((setting.steps,), start, lambda t, now, step=step, forcing=forcing: step @ now @ step.T + forcing)
        answers[form] = end[0, :1, 0] / start[0, 0]
        answers[f"{form}, printed"] = np.round(answers[form].astype(np.float64), 2)
    return answers


def _gap(setting: Drop) -> Answers:
    answers = {}
    for form, printed in PRINTED.items():
        before, after = _drop(form)
        moved = transient_covariance(setting.problem, before, after, (0, setting.steps)).require()[:, 0, 0]
        answers[form] = moved[1:] / moved[0]
        answers[f"{form}, printed"] = np.array([printed])
    return answers


def _gap_swapped(setting: Drop) -> Answers:
    found, names = _gap(setting), {"position": "pytorch", "pytorch": "position"}
    return {form: found[other] for form, other in names.items()}


def _gap_settled(setting: Drop) -> Answers:
    """The new stationary law at once."""
    return {
        form: stationary_variance(setting.problem, _drop(form)[1])
        / stationary_variance(setting.problem, _drop(form)[0])
        for form in PRINTED
    }


# ---------------------------------------------------------------------------------------------------------------------
# Schedules


@keyword_setting
class Scheduled(Setting):
    """A path on which everything moves at once.

    Args:
        problem: H, C and w* of the start.
        problem_later: those from iteration `turn` on.
        optimizers: settings before the path; their law is the start.
        rates: η_t, shape ``(n,)``; the other paths are of the same length.
        momenta: μ_t.
        decays: δ_t.
        noise_factors: c_t.
        curvature_factors: h_t.
        turn: iteration of the change of problem.
        steps: where the law is recorded.
    """

    problem: Quadratic
    problem_later: Quadratic
    optimizers: tuple[MomentumSGD, ...]
    rates: NDArray[np.float64]
    momenta: NDArray[np.float64]
    decays: NDArray[np.float64]
    noise_factors: NDArray[np.float64]
    curvature_factors: NDArray[np.float64]
    turn: int
    steps: tuple[int, ...]


_TIME = np.arange(48)
SCHEDULED = Scheduled(
    problem=PROBLEM,
    problem_later=replace(SPIKED, optimum=np.array([0.2, 0.5, -0.3])),
    optimizers=(
        MomentumSGD(0.1, 0.85),
        MomentumSGD(0.1, 0.85, dampening=0.4, weight_decay=0.05, form="position"),
        MomentumSGD(0.1, 0.85, nesterov=True, weight_decay=0.05),
        MomentumSGD(0.1, 0.85, weight_decay=0.1, groups=ParameterGroups(decay_factors=np.array([1.0, 0.0, 2.0]))),
    ),
    rates=0.02 + 0.15 * np.cos(0.5 * np.pi * _TIME / 60) ** 2,
    momenta=0.85 - 0.1 * np.sin(np.pi * _TIME / 48) ** 2,
    decays=0.05 * (1.0 + _TIME / 48),
    noise_factors=1.0 + 0.6 * np.sin(0.2 * _TIME + 0.5),
    curvature_factors=1.0 + 0.5 * np.sin(0.13 * _TIME + 1.0),
    turn=20,
    steps=(0, 1, 13, 20, 21, 48),
)


def _instant(setting: Scheduled, optimizer: MomentumSGD, t: int) -> tuple[Quadratic, MomentumSGD]:
    """Problem and optimizer of iteration t."""
    held = setting.problem if t < setting.turn else setting.problem_later
    problem = Quadratic(
        setting.curvature_factors[t] * held.dense_hessian(),
        setting.noise_factors[t] * held.dense_noise_cov(),
        held.optimum,
    )
    return problem, replace(
        optimizer,
        learning_rate=float(setting.rates[t]),
        momentum=float(setting.momenta[t]),
        weight_decay=float(setting.decays[t]),
    )


def _scheduled_oracle(setting: Scheduled, optimizer: MomentumSGD) -> Answers:
    m = setting.problem.dimension
    state = _settled(setting.problem, optimizer)
    mean = np.concatenate([START, np.zeros(m)]).astype(np.longdouble)
    states: list[NDArray] = [state]
    means: list[NDArray] = [mean]
    quasi = [state[:m, :m]]
    for t in range(setting.steps[-1]):
        problem, now = _instant(setting, optimizer, t)
        step, _, forcing, push = _dense(problem, now)
        place = np.concatenate([problem.optimum, np.zeros(m)])
        state, mean = step @ state @ step.T + forcing, place + step @ (mean - place) + push
        if t + 1 in setting.steps:
            states.append(state)
            means.append(mean)
            quasi.append(settled(step, forcing)[:m, :m])
    gaps = [np.linalg.norm((q - s[:m, :m]).astype(np.float64)) for q, s in zip(quasi, states, strict=True)]
    sizes = [np.linalg.norm(s[:m, :m].astype(np.float64)) for s in states]
    return {
        "state": np.array(states),
        "mean": np.array(means),
        "quasi-stationary": np.array(quasi),
        "quasi-stationary error": np.array(gaps[1:]) / sizes[1:],
    }


def _propagated(setting: Scheduled, optimizer: MomentumSGD, **late: int) -> Propagation:
    """The path as the setting has it, with the paths named in `late` so many steps late."""

    def path(name: str) -> NDArray[np.float64]:
        values = getattr(setting, name)
        shift = late.get(name, 0)
        return values if not shift else np.concatenate([values[:shift], values[:-shift]])

    return propagate(
        setting.problem,
        optimizer,
        Schedule.table(path("rates")),
        setting.steps,
        initial_mean=START,
        momentum=path("momenta"),
        weight_decay=path("decays"),
        noise_factors=path("noise_factors"),
        curvature_factors=path("curvature_factors"),
        changes={setting.turn + late.get("turn", 0): setting.problem_later},
    )


def _scheduled(setting: Scheduled, optimizer: MomentumSGD, **late: int) -> Answers:
    found = _propagated(setting, optimizer, **late)
    return {
        "state": found.state(),
        "mean": found.mean,
        "quasi-stationary": found.quasi_stationary,
        "quasi-stationary error": found.quasi_stationary_error[1:],
    }


def _late(name: str) -> Callable[[Scheduled], Answers]:
    """One of the paths one step late: the state alone."""

    def wrong(setting: Scheduled, optimizer: MomentumSGD) -> Answers:
        return {"state": _scheduled(setting, optimizer, **{name: 1})["state"]}

    return each(wrong)


def _quasi_at_the_next(setting: Scheduled, optimizer: MomentumSGD) -> Answers:
    """The quasi-stationary law at the rate of the step to come."""
    ahead = replace(setting, rates=np.append(setting.rates[1:], setting.rates[-1]))
    return {"quasi-stationary": _scheduled(ahead, optimizer)["quasi-stationary"]}


def _quasi_for_exact(setting: Scheduled, optimizer: MomentumSGD) -> Answers:
    """Stationary at every moment."""
    m = setting.problem.dimension
    found = _scheduled(setting, optimizer)
    state = np.array(found["state"])
    state[:, :m, :m] = found["quasi-stationary"]
    return {"state": state}


# ---------------------------------------------------------------------------------------------------------------------
# Noise that remembers

REMEMBERED = Change(
    problem=PROBLEM,
    problem_after=PROBLEM,
    optimizers=tuple(one for one in OPTIMIZERS if one.groups is None),
    steps=(0, 1, 5, 40),
    autocorrelation=-0.4,
)


def _remembered_oracle(setting: Change, optimizer: MomentumSGD) -> Answers:
    problem, phi = setting.problem, np.longdouble(setting.autocorrelation)
    m = problem.dimension
    noise = problem.dense_noise_cov().astype(np.longdouble)

    def joint(one: MomentumSGD) -> tuple[NDArray, NDArray]:
        step, inflow, _, _ = _dense(problem, one)
        eye = np.eye(m, dtype=np.longdouble)
        whole = np.block([[step, phi * inflow], [np.zeros((m, 2 * m)), phi * eye]])
        thrown = np.vstack([inflow, eye])
        return whole, (1 - phi * phi) * (thrown @ noise @ thrown.T)

    step, forcing = joint(_after(optimizer))
    start = settled(*joint(optimizer))
    return {"state": _at(setting.steps, start, lambda t, now: step @ now @ step.T + forcing)}


def _remembered(setting: Change, optimizer: MomentumSGD) -> Answers:
    return {
        "state": correlated_transient(
            setting.problem, optimizer, _after(optimizer), setting.steps, setting.autocorrelation
        ).augmented
    }


def _forgetful(setting: Change, optimizer: MomentumSGD) -> Answers:
    return _remembered(replace(setting, autocorrelation=0.0), optimizer)


def _opposite(setting: Change, optimizer: MomentumSGD) -> Answers:
    return _remembered(replace(setting, autocorrelation=-setting.autocorrelation), optimizer)


# ---------------------------------------------------------------------------------------------------------------------
# The interpolation

INTERPOLATED = Change(
    problem=PROBLEM,
    problem_after=PROBLEM,
    optimizers=(MomentumSGD(0.2, 0.9), MomentumSGD(0.4), MomentumSGD(0.02, 0.6)),
    steps=(0, 1, 6, 50),
)


def _interpolation_oracle(setting: Change, optimizer: MomentumSGD) -> Answers:
    """(T2) as it is written, from the roots of each mode and the settled variances."""
    values, basis = np.linalg.eigh(setting.problem.dense_hessian())
    gamma = np.diag(basis.T @ setting.problem.dense_noise_cov() @ basis)
    after = replace(optimizer, learning_rate=0.2 * optimizer.learning_rate)
    modes = [Quadratic(np.array([x]), np.array([y])) for x, y in zip(values, gamma, strict=True)]
    old, new = (np.array([_settled(mode, one)[0, 0] for mode in modes]) for one in (optimizer, after))
    radius = np.array([
        np.abs(np.linalg.eigvals(_dense(mode, after)[0].astype(np.float64))).max() for mode in modes
    ])  # fmt: skip
    rate = 1 - np.longdouble(after.learning_rate) * values / (1 - np.longdouble(after.momentum))
    k = 2 * np.array(setting.steps)[:, None]
    return {
        "spectral radius": radius**k * old + (1 - radius**k) * new,
        "effective rate": np.abs(rate) ** k * old + (1 - np.abs(rate) ** k) * new,
        "settling": 1 / (1 - radius**2),
    }


def _interpolation(setting: Change, optimizer: MomentumSGD) -> Answers:
    problem, after = setting.problem, replace(optimizer, learning_rate=0.2 * optimizer.learning_rate)
    return {
        "spectral radius": interpolated_variance(problem, optimizer, after, setting.steps),
        "effective rate": interpolated_variance(problem, optimizer, after, setting.steps, "effective-rate"),
        "settling": settling_time(eigenbasis(problem).curvatures, after),
    }


def _readings_swapped(setting: Change, optimizer: MomentumSGD) -> Answers:
    found = _interpolation(setting, optimizer)
    return {"spectral radius": found["effective rate"], "effective rate": found["spectral radius"]}


def _truth(setting: Change, optimizer: MomentumSGD) -> Answers:
    """(T1), which (T2) is not with momentum."""
    after = replace(optimizer, learning_rate=0.2 * optimizer.learning_rate)
    basis = eigenbasis(setting.problem)
    moved = transient_covariance(setting.problem, optimizer, after, setting.steps).require()
    return {"spectral radius": np.array([np.diag(basis.inward(one)) for one in moved])}


# ---------------------------------------------------------------------------------------------------------------------
# Register

CHANGED = exact_experiment(
    "change-dense", "the dense recursion run on after a change of everything", CHANGE, each(_change_oracle)
)
FORMS = exact_experiment("drop-dense", "the drop of the two forms, step by step", DROP, _gap_oracle)
PATHS = exact_experiment(
    "schedule-dense", "rate, momentum, decay, noise and curvature moving at once, step by step", SCHEDULED,
    each(_scheduled_oracle),
)  # fmt: skip
MEMORY = exact_experiment(
    "memory-dense", "weights, buffer and noise carried together", REMEMBERED, each(_remembered_oracle)
)
WRITTEN = exact_experiment("interpolation-written", "(T2) as it is written", INTERPOLATED, each(_interpolation_oracle))
EXPERIMENTS: tuple[Experiment, ...] = (CHANGED, FORMS, PATHS, MEMORY, WRITTEN)

LATE: Mapping[str, str] = {
    "curvature factors one step late": "curvature_factors",
    "noise factors one step late": "noise_factors",
    "rates one step late": "rates",
    "momenta one step late": "momenta",
    "weight decays one step late": "decays",
    "the problem one step late": "turn",
}

CLAIMS: tuple[Claim, ...] = (
    exact_claim(
        name="change-exact",
        statement="M_k = Fᵏ M₀ Fᵏᵀ + Σ_l Fˡ Q Fˡᵀ and m_k after a change of everything, in every convention, torch's "
        "first step and parameter groups among them; ρ = max |eig F|, eq. (T1).",
        source=OWN,
        experiment=CHANGED,
        predict=each(_change),
        decoys={
            "settled at once": each(
                lambda setting, optimizer: {
                    "state": np.array([stationary_covariance(setting.problem_after, _after(optimizer)).state()] * 5)
                }
            ),
            "curvature as before": _change_as_if(lambda s, one: (replace(s, problem_after=s.problem), one)),
            "weight decay forgotten": _change_as_if(lambda s, one: (s, replace(one, weight_decay=0.0))),
            "dampening forgotten": _change_as_if(lambda s, one: (s, replace(one, dampening=0.0))),
            "μ for √μ": each(_radius_of_decay),
            "torch's first step dampened": each(_dampened_first),
        },
        assumptions=ASSUMED,
        num_tests=3 * len(OPTIMIZERS) + 2 * 5 + 4,
    ),
    exact_claim(
        name="convention-numbers",
        statement="μ=.9, η .1→.01, λ=1, ten steps after the drop: the variance is 3.28 × its old value in position "
        "form and 0.48 × in PyTorch form.",
        source=OWN,
        experiment=FORMS,
        predict=_gap,
        decoys={"conventions swapped": _gap_swapped, "settled at once": _gap_settled},
        assumptions=ASSUMED,
        num_tests=4,
    ),
    exact_claim(
        name="schedule-exact",
        statement="M_end = Φ M_start Φᵀ + C̃ ∘ Σ_s c_s ψ_s ψ_sᵀ along any path of rate, momentum, weight decay, "
        "curvature and noise; beside it the law at the settings of the last step, eq. (T3).",
        source=OWN,
        experiment=PATHS,
        predict=each(_scheduled),
        decoys={
            **{name: _late(path) for name, path in LATE.items()},
            "quasi-stationary at the rate to come": each(_quasi_at_the_next),
            "quasi-stationary for exact": each(_quasi_for_exact),
        },
        assumptions=ASSUMED,
        num_tests=4 * len(SCHEDULED.optimizers),
    ),
    exact_claim(
        name="memory-exact",
        statement="ξ_t = φ ξ_{t−1} + √(1−φ²) ε_t: the law of (w, v, ξ) before, through and after a change.",
        source="own derivation; state augmentation: Anderson and Moore 1979, §11.2",
        experiment=MEMORY,
        predict=each(_remembered),
        decoys={"independent over time": each(_forgetful), "−φ for φ": each(_opposite)},
        assumptions=("quadratic loss", "AR(1) noise of covariance C"),
        num_tests=len(REMEMBERED.optimizers),
    ),
    exact_claim(
        name="interpolation-exact",
        statement="What is called (T2) is (T2): ρ²ᵏσ₁² + (1−ρ²ᵏ)σ₂² with ρ the larger root or |1 − η₂λ/(1−μ)|, and "
        "1/(1−ρ²) the time it takes.",
        source="Xu and Zhang (arXiv 2410.07719), Theorem 4.7 and Eq. (14); the readings of ρ are ours",
        experiment=WRITTEN,
        predict=each(_interpolation),
        decoys={"readings swapped": each(_readings_swapped), "the exact transient": each(_truth)},
        assumptions=ASSUMED,
        num_tests=3 * len(INTERPOLATED.optimizers),
    ),
)
