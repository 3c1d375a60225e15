r"""Claims about the stationary law: (S1), (S2), (S3), the edge of stability, lag one, fluctuation–dissipation.

Evidence is shared: six simulations and one look for the edge feed all of them. Simulations start at w₀ = v₀ = 0, and
record only after the start is forgotten to 1e-6 of the variance (`burn_in`), a thousandth of what is tested.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.claims import shown
from theory.claims.moments import (
    Law,
    Tests,
    error_profile,
    measured_state,
    moment_tests,
    scaled_noise,
    scatter,
    simulation_experiment,
    simulation_of,
    state_frame,
    to_comparison,
    with_problem,
)
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.stability import largest_stable_learning_rate
from theory.closed_form.stationary import (
    fluctuation_dissipation_constant,
    lag_one_covariance,
    stationary_covariance,
    stationary_variance,
)
from theory.judge.claim import TEST_ALPHA, Claim, Comparison, Experiment, Predictor, Progress
from theory.judge.evidence import Evidence
from theory.judge.results import Agreement, Axis, Band, Curve, Estimate, Forest, Profile, Role, Sample
from theory.judge.statistics import normal_p_value, normal_quantile, pooled_moment_covariance
from theory.judge.verdict import Kind
from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting
from theory.oracle.simulate import Segment, Simulation, impulse_response, simulate

#: Relative error of a variance that the default and the full budget find, with a miss chance of at most 1e-6.
DETECTS = 0.01
OWN = "own derivation from the two-step recursion"
ASSUMED = ("quadratic loss", "noise independent over time, of constant covariance C", "start forgotten to 1e-6")

# ---------------------------------------------------------------------------------------------------------------------
# Experiments


def burn_in(spectral_radius: float, remainder: float = 1e-6) -> int:
    """Steps after which ρ^(2t), with room for the t² of a double root, is below `remainder`."""
    rate = -math.log(spectral_radius)
    steps = -math.log(remainder) / (2 * rate)
    return math.ceil(steps + math.log1p(steps * rate * 4) / rate)


def _spectrum(count: int, low: float, high: float, learning_rate: float) -> NDArray[np.float64]:
    return np.geomspace(low, high, count) / learning_rate


def _noise_spectrum(count: int) -> NDArray[np.float64]:
    """Noise variances over two decades in an order unrelated to the curvatures'."""
    return np.geomspace(0.1, 10.0, count)[np.argsort(np.sin(1.0 + 7.0 * np.arange(count)))]


def _rotation(count: int) -> NDArray[np.float64]:
    """A fixed orthogonal matrix without structure."""
    matrix, upper = np.linalg.qr(np.random.default_rng(7).standard_normal((count, count)))
    return matrix * np.sign(np.diag(upper))


def _stationary(
    problem: Quadratic,
    optimizer: MomentumSGD,
    *,
    replicas: int,
    steps: int,
    start: int,
    stride: int = 1,
    noise: NoiseLaw | None = None,
    moments: str = "full",
) -> Simulation:
    total = start + steps
    return Simulation(
        problem=problem,
        segments=(Segment(optimizer=optimizer, steps=total),),
        replicas=replicas,
        record_times=tuple(range(start + stride, total + 1, stride)),
        pool=True,
        noise=Gaussian() if noise is None else noise,
        moments=moments,  # pyright: ignore[reportArgumentType]
    )


def _commuting(budget: str) -> Simulation:
    """64 modes from a = 0.02 to 3.6 at μ = 0.9: underdamped, up to 95 % of the edge."""
    problem = Quadratic(_spectrum(64, 0.02, 3.6, 0.1), _noise_spectrum(64))
    return _stationary(
        problem, MomentumSGD(0.1, 0.9), replicas=20480 * _times(budget), steps=1900, start=200, moments="diagonal"
    )


def _commuting_slow(budget: str) -> Simulation:
    """Eight flat modes from a = 0.0015 to 0.02, through critical damping at 0.00263."""
    problem = Quadratic(_spectrum(8, 0.0015, 0.02, 0.1), _noise_spectrum(8))
    return _stationary(
        problem, MomentumSGD(0.1, 0.9), replicas=20480 * _times(budget), steps=10000, start=700, moments="diagonal"
    )


def _general(budget: str) -> Simulation:
    """16 weights, H dense, C in an unrelated basis."""
    return _stationary(
        dense_problem(16, 0.05, 3.4), MomentumSGD(0.1, 0.9), replicas=20480 * _times(budget), steps=2400, start=200,
        stride=4,
    )  # fmt: skip


def dense_problem(count: int, low: float, high: float) -> Quadratic:
    """H and C dense, in unrelated eigenbases; at a rate of 0.1 the step sizes a run from `low` to `high`."""
    turn = _rotation(count)
    hessian = (turn * _spectrum(count, low, high, 0.1)) @ turn.T
    other = _rotation(count + 1)[:count, :count]
    basis, _ = np.linalg.qr(other)
    noise_cov = (basis * _noise_spectrum(count)) @ basis.T
    return Quadratic(0.5 * (hessian + hessian.T), 0.5 * (noise_cov + noise_cov.T))


def _variant(optimizer: MomentumSGD, high: float, steps: int) -> Callable[[str], Simulation]:
    def setting(budget: str) -> Simulation:
        return _stationary(
            dense_problem(6, 0.2, high), optimizer, replicas=20480 * _times(budget), steps=steps, start=200, stride=4
        )

    return setting


def _with_law(noise: NoiseLaw) -> Callable[[str], Simulation]:
    def setting(budget: str) -> Simulation:
        return _stationary(
            dense_problem(8, 0.1, 3.4), MomentumSGD(0.1, 0.9), replicas=20480 * _times(budget), steps=1800, start=200,
            stride=4, noise=noise,
        )  # fmt: skip

    return setting


def _times(budget: str) -> int:
    return 4 if budget == "full" else 1


@keyword_setting
class StabilitySearch(Setting):
    """Where the simulated recursion, without noise, turns from decay to growth.

    Args:
        optimizers: one search each; their learning rates are 1, so that a curvature is a step size a.
        steps: length of a run; growth is read between its middle and its end.
        rounds: each narrows the bracket to one cell of a grid.
        grid: number of curvatures tried a round.
        low: smallest curvature of the first round.
        high: largest one.
    """

    optimizers: tuple[MomentumSGD, ...]
    steps: int = 600
    rounds: int = 3
    grid: int = 128
    low: float = 0.1
    high: float = 9.0


def _search_setting(budget: str) -> StabilitySearch:
    del budget
    return StabilitySearch(
        optimizers=(
            MomentumSGD(1.0, 0.0),
            MomentumSGD(1.0, 0.5),
            MomentumSGD(1.0, 0.9),
            MomentumSGD(1.0, 0.9, form="position"),
            MomentumSGD(1.0, 0.9, dampening=0.5),
            MomentumSGD(1.0, 0.9, weight_decay=0.7),
            MomentumSGD(1.0, 0.5, nesterov=True),
            MomentumSGD(1.0, 0.9, nesterov=True),
        )
    )


def _run_search(setting: StabilitySearch, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    lows, highs = [], []
    for index, optimizer in enumerate(setting.optimizers):
        low, high = setting.low, setting.high
        for turn in range(setting.rounds):
            # The first round spans rates that multiply a weight by 20 a step: keep its squares below overflow.
            steps = 120 if turn == 0 else setting.steps
            curvatures = np.linspace(low, high, setting.grid)
            moments = simulate(
                Simulation(
                    problem=Quadratic(curvatures, np.zeros(setting.grid)),
                    segments=(Segment(optimizer=optimizer, steps=steps),),
                    replicas=1,
                    record_times=(steps // 2 - 1, steps // 2, steps - 1, steps),
                    initial_weights=np.ones(setting.grid),
                    moments="diagonal",
                ),
                seed=seed,
                threads=1,
            )
            size = moments.second[:, : setting.grid]
            grows = size[2:].sum(axis=0) > size[:2].sum(axis=0)
            first = int(np.argmax(grows)) if grows.any() else setting.grid - 1
            low, high = float(curvatures[max(first - 1, 0)]), float(curvatures[first])
        lows.append(low)
        highs.append(high)
        progress((index + 1) / len(setting.optimizers))
    return {"largest_decaying": lows, "smallest_growing": highs}, {}


@keyword_setting
class ImpulseSetting(Setting):
    """Simulations whose single step is read off its responses to unit impulses."""

    simulations: tuple[Simulation, ...]


def _impulse_setting(budget: str) -> ImpulseSetting:
    del budget
    optimizers = (
        MomentumSGD(0.1, 0.9),
        MomentumSGD(0.1, 0.0),
        MomentumSGD(0.1, 0.9, form="position"),
        MomentumSGD(0.1, 0.9, nesterov=True),
        MomentumSGD(0.1, 0.9, dampening=0.9, discount=0.7),
        MomentumSGD(0.1, 0.9, dampening=0.3, weight_decay=0.05),
        MomentumSGD(0.1, 0.9, dampening=0.3, weight_decay=0.05, form="position"),
    )
    return ImpulseSetting(
        simulations=tuple(
            _stationary(dense_problem(10, 0.05, 1.0), optimizer, replicas=1, steps=1, start=0)
            for optimizer in optimizers
        )
    )


def _run_impulse(setting: ImpulseSetting, seed: int, progress: Progress) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    del seed
    arrays: dict[str, NDArray] = {}
    for index, simulation in enumerate(setting.simulations):
        response = impulse_response(simulation)
        arrays[f"transition_{index}"] = response.transition
        arrays[f"noise_input_{index}"] = response.noise_input
        progress((index + 1) / len(setting.simulations))
    return {"num_simulations": len(setting.simulations)}, arrays


VARIANTS = {
    "stationary-nesterov": (MomentumSGD(0.1, 0.9, nesterov=True), 1.2, 800),
    "stationary-position": (MomentumSGD(0.1, 0.9, form="position"), 3.4, 2400),
    "stationary-dampened-decayed": (MomentumSGD(0.1, 0.9, dampening=0.3, weight_decay=0.5), 3.4, 2000),
}
LAWS: dict[str, NoiseLaw] = {
    "noise-rademacher": Rademacher(),
    "noise-uniform": Uniform(),
    "noise-student": StudentT(degrees_of_freedom=9.0),
}

EXPERIMENTS: tuple[Experiment, ...] = (
    simulation_experiment("stationary-commuting", "64 commuting modes, a from 0.02 to 3.6", _commuting),
    simulation_experiment("stationary-slow", "8 commuting flat modes, a from 0.0015 to 0.02", _commuting_slow),
    simulation_experiment("stationary-general", "16 weights, H and C in unrelated bases", _general),
    *(
        simulation_experiment(name, f"6 weights, unrelated bases, {name.removeprefix('stationary-')}", _variant(*of))
        for name, of in VARIANTS.items()
    ),
    *(
        simulation_experiment(name, f"8 weights, unrelated bases, {name.removeprefix('noise-')} noise", _with_law(law))
        for name, law in LAWS.items()
    ),
    Experiment(
        name="stability-search",
        title="where the recursion without noise turns from decay to growth",
        setting=_search_setting,
        run=_run_search,
    ),
    Experiment(
        name="impulse-response",
        title="one step of the simulator, read off unit impulses",
        setting=_impulse_setting,
        run=_run_impulse,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Predictors: Simulation -> covariance of z = (w, v), (2m, 2m)


def state_covariance(simulation: Simulation) -> NDArray[np.float64]:
    """(S2): the prediction."""
    return stationary_covariance(simulation.problem, simulation.segments[0].optimizer).state()


def _noise_one_percent_larger(simulation: Simulation) -> NDArray[np.float64]:
    return state_covariance(scaled_noise(simulation, 1.01))


def _scaled_weights(simulation: Simulation, factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rescale the exact state covariance of commuting modes by a factor a mode."""
    root = np.sqrt(np.concatenate([factor, factor]))
    return state_covariance(simulation) * np.multiply.outer(root, root)


def _continuous_time(simulation: Simulation) -> NDArray[np.float64]:
    """ηγ/(2λ(1−μ)), the Ornstein–Uhlenbeck variance."""
    optimizer, curvatures = simulation.segments[0].optimizer, _curvatures(simulation)
    variance = optimizer.learning_rate * _gamma(simulation) / (2 * curvatures * (1 - optimizer.momentum))
    return _scaled_weights(simulation, variance / _exact(simulation))


def _without_one_plus_momentum(simulation: Simulation) -> NDArray[np.float64]:
    """The factor (1+μ) of the numerator dropped."""
    return _scaled_weights(simulation, np.full(simulation.problem.dimension, 1 / (1 + _momentum(simulation))))


def _effective_rate(simulation: Simulation) -> NDArray[np.float64]:
    """Plain SGD at the rate η/(1−μ): η'γ/(λ(2 − η'λ)), with η'λ kept below 1.9 where plain SGD would diverge."""
    optimizer, curvatures = simulation.segments[0].optimizer, _curvatures(simulation)
    rate = optimizer.learning_rate / (1 - optimizer.momentum)
    variance = rate * _gamma(simulation) / (curvatures * (2 - np.minimum(rate * curvatures, 1.9)))
    return _scaled_weights(simulation, variance / _exact(simulation))


def _commuting_formula(simulation: Simulation) -> NDArray[np.float64]:
    """(S1) mode by mode and nothing off the diagonal: what commutation would give."""
    return _masked(simulation, eigenbasis(simulation.problem).basis)


def _noise_eigenbasis(simulation: Simulation) -> NDArray[np.float64]:
    """H's eigenvalues with C's eigenvectors: the alignment assumption."""
    problem = simulation.problem
    _, basis = np.linalg.eigh(problem.dense_noise_cov())
    aligned = (basis * eigenbasis(problem).curvatures) @ basis.T
    return state_covariance(with_problem(simulation, Quadratic(aligned, problem.noise_cov)))


def _paired_spectra(simulation: Simulation) -> NDArray[np.float64]:
    """The eigenvalues of C in place of uᵢᵀCuᵢ, paired in order."""
    problem = simulation.problem
    frame = eigenbasis(problem)
    spectrum = np.asarray(np.linalg.eigvalsh(problem.dense_noise_cov()), dtype=np.float64)
    return state_covariance(with_problem(simulation, Quadratic(problem.hessian, frame.outward(np.diag(spectrum)))))


def _other_form(simulation: Simulation) -> NDArray[np.float64]:
    """The other convention of v: buffer for displacement."""
    segment = simulation.segments[0]
    form = "pytorch" if segment.optimizer.form == "position" else "position"
    if segment.optimizer.direction[0]:
        return _plain_heavy_ball(simulation)
    other = replace(segment, optimizer=replace(segment.optimizer, form=form))
    return state_covariance(replace(simulation, segments=(other,)))


def _plain_heavy_ball(simulation: Simulation) -> NDArray[np.float64]:
    """The optimizer's look-ahead, dampening and weight decay forgotten."""
    segment = simulation.segments[0]
    optimizer = MomentumSGD(segment.optimizer.learning_rate, segment.optimizer.momentum)
    return state_covariance(replace(simulation, segments=(replace(segment, optimizer=optimizer),)))


def _masked(simulation: Simulation, basis: NDArray[np.float64] | None) -> NDArray[np.float64]:
    frame = state_frame(basis, simulation.problem.dimension)
    inside = frame @ state_covariance(simulation) @ frame.T
    m = simulation.problem.dimension
    mask = np.kron(np.ones((2, 2)), np.eye(m))
    return frame.T @ (inside * mask) @ frame


def _curvatures(simulation: Simulation) -> NDArray[np.float64]:
    return eigenbasis(simulation.problem).curvatures


def _gamma(simulation: Simulation) -> NDArray[np.float64]:
    return np.diag(eigenbasis(simulation.problem).noise)


def _exact(simulation: Simulation) -> NDArray[np.float64]:
    return stationary_variance(simulation.problem, simulation.segments[0].optimizer)


def _momentum(simulation: Simulation) -> float:
    return simulation.segments[0].optimizer.momentum


# ---------------------------------------------------------------------------------------------------------------------
# Comparisons


def _rates(simulation: Simulation) -> NDArray[np.float64]:
    optimizer = simulation.segments[0].optimizer
    return optimizer.learning_rate * (_curvatures(simulation) + optimizer.weight_decay)


def _weight_frame(simulation: Simulation) -> NDArray[np.float64]:
    """Rows pick the weights along H's eigenvectors out of z, ``(m, 2m)``."""
    return state_frame(eigenbasis(simulation.problem).basis, simulation.problem.dimension)[
        : simulation.problem.dimension
    ]


def _tested(evidence: Evidence, predict: Law, frame: NDArray[np.float64], **kinds: bool) -> Tests:
    return moment_tests(evidence, predict(simulation_of(evidence)), frame, **kinds)


def compare_variances(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Variance and mean along each eigenvector of H."""
    parts, tests = {}, []
    for name, item in evidence.items():
        simulation = simulation_of(item)
        found = _tested(item, predict, _weight_frame(simulation), off_diagonal=False)
        parts[name] = (_rates(simulation), found)
        tests.append(found)
    profile = error_profile(
        "Stationary variance along H's eigenvectors",
        parts,
        evidence.values(),
        "Every point is one direction. Where an interval misses the line, the formula is wrong.",
    )
    return to_comparison(Tests.join(tests), results=(profile,))


def compare_states(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Every entry of the state's covariance in H's eigenbasis: weights, velocity, cross; and the means."""
    parts, tests = {}, []
    for name, item in evidence.items():
        simulation = simulation_of(item)
        m = simulation.problem.dimension
        found = _tested(item, predict, state_frame(eigenbasis(simulation.problem).basis, m))
        weights = Tests(found.p_values[:m], found.ratio[:m], found.degrees[:m])
        parts[name] = (_rates(simulation), weights)
        tests.append(found)
    first = next(iter(evidence.values()))
    results = (
        error_profile(
            "Stationary variance without commutation",
            parts,
            evidence.values(),
            "Weight variances along H's eigenvectors. The verdict also rests on every off-diagonal entry and on the "
            "velocity and cross blocks.",
        ),
        _correlations(first, predict),
    )
    return to_comparison(Tests.join(tests), results=results)


def _correlations(evidence: Evidence, predict: Law) -> Agreement:
    """Off-diagonal correlations, measured against predicted."""
    simulation = simulation_of(evidence)
    frame = _weight_frame(simulation)
    expected = frame @ predict(simulation) @ frame.T
    second = frame @ measured_state(evidence)[0] @ frame.T
    spread = np.sqrt(scatter(evidence).variance(frame))
    scale = np.sqrt(np.multiply.outer(np.diag(expected), np.diag(expected)))
    upper = np.triu_indices(len(second), 1)
    x, y = (expected / scale)[upper], (second / scale)[upper]
    return Agreement(
        title="Correlations that non-commutativity puts off the diagonal",
        sample=shown.replicas((evidence,), ", pooled over time"),
        quantity=Axis("Σᵢⱼ / (σᵢσⱼ)"),
        curves=(
            shown.measured(x, y, normal_quantile(TEST_ALPHA) * (spread / scale)[upper]),
            shown.decoy((x.min(), x.max()), (0.0, 0.0), "as if H and C commuted"),
        ),
        caption="One point a pair of H's eigenvectors.",
    )


def compare_noise_laws(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Every entry of the weight covariance under noise that is not Gaussian, errors adjusted for its kurtosis."""
    parts, tests = {}, []
    for name, item in evidence.items():
        simulation = simulation_of(item)
        m = simulation.problem.dimension
        found = _tested(item, predict, _weight_frame(simulation), means=False)
        parts[name.removeprefix("noise-")] = (_rates(simulation), Tests(found.p_values[:m], found.ratio, found.degrees))
        tests.append(found)
    profile = error_profile(
        "Stationary variance under three noise laws",
        parts,
        evidence.values(),
        "The covariance needs second moments alone: Rademacher, uniform and Student-t noise give the same variance. "
        "What differs is how fast an estimate settles.",
    )
    return to_comparison(Tests.join(tests), results=(profile,))


def compare_lag_one(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """E w_t w_{t−1}ᵀ in H's eigenbasis, entry by entry. `predict` maps a Simulation to that matrix."""
    p_values, curves, rates = [], [], []
    worst, best, reached = None, 0.0, math.inf
    for name, item in evidence.items():
        simulation = simulation_of(item)
        optimizer, m = simulation.segments[0].optimizer, simulation.problem.dimension
        basis = eigenbasis(simulation.problem).basis
        turn = np.eye(m) if basis is None else basis.T
        # (w_t, w_{t−1}) is linear in the state: w_{t−1} = w_t + η v_t.
        both = np.block([[turn, np.zeros((m, m))], [turn, optimizer.learning_rate * turn]])
        variance = scatter(item).variance(both)[:m, m:]
        lag = item.arrays["lag"][0]
        diagonal_only = lag.ndim == 1
        found = np.diag(lag) if diagonal_only else turn @ lag @ turn.T
        expected = turn @ predict(simulation) @ turn.T
        scale = np.diag(both @ measured_state(item)[0] @ both.T)[:m]
        z = (found - expected) / np.sqrt(variance)
        chosen = np.diag(z) if diagonal_only else z.ravel()
        p_values.append(normal_p_value(chosen))
        sizes = 2 * scale**2 / np.diag(variance)  # ν of an error stated against the variance
        reached = min(reached, float(sizes.min()))
        error, spread = np.diag(found - expected) / scale, np.sqrt(np.diag(variance)) / scale
        index = int(np.argmax(np.abs(np.diag(z))))
        if worst is None or abs(np.diag(z)[index]) > best:
            best = float(abs(np.diag(z)[index]))
            worst = (float(error[index]), float(spread[index]))
        rates.append(_rates(simulation))
        curves.append(shown.measured(rates[-1], np.diag(found) / scale, normal_quantile(TEST_ALPHA) * spread, name))
    assert worst is not None
    half = normal_quantile(TEST_ALPHA) * worst[1]
    p = np.concatenate(p_values)
    return Comparison(
        estimate=worst[0],
        interval=(worst[0] - half, worst[0] + half),
        p_value=float(p.min()),
        num_tests=len(p),
        reached=reached,
        note="errors are stated against the variance, so that a correlation near zero does not blow them up",
        results=(
            Profile(
                title="Lag-one correlation",
                sample=shown.replicas(evidence.values(), ", pooled over time"),
                x=shown.RATE,
                y=Axis("lag-one correlation"),
                curves=(_fine_lag(next(iter(evidence.values())), np.concatenate(rates), predict), *curves),
                caption="Falls from 1 through 0 at ηλ = 1+μ to −1 at the edge of stability.",
            ),
        ),
    )


def _fine_lag(evidence: Evidence, rates: NDArray[np.float64], predict: Law) -> Curve:
    """The predicted correlation over the range of `rates`, mode by mode of a fine spectrum."""
    simulation = simulation_of(evidence)
    fine = np.linspace(rates.min(), rates.max(), 200)
    curvatures = fine / simulation.segments[0].optimizer.learning_rate
    modes = with_problem(simulation, Quadratic(curvatures, np.ones(len(fine))))
    return shown.predicted(fine, np.diag(predict(modes)) / _exact(modes))


def lag_one(simulation: Simulation) -> NDArray[np.float64]:
    """The prediction: σᵢ² (1+μ−aᵢ)/(1+μ) on the diagonal."""
    return lag_one_covariance(simulation.problem, simulation.segments[0].optimizer)


def _lag_from_ratio(simulation: Simulation, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    problem = simulation.problem
    frame = eigenbasis(problem)
    scaled = lag_one_covariance(problem, simulation.segments[0].optimizer)
    inside = frame.inward(scaled).copy()
    inside[np.diag_indices_from(inside)] = _exact(simulation) * ratio
    return frame.outward(inside)


def _lag_without_momentum(simulation: Simulation) -> NDArray[np.float64]:
    """1 − a: the lag-one correlation of plain SGD."""
    return _lag_from_ratio(simulation, 1 - _rates(simulation))


def _lag_continuous(simulation: Simulation) -> NDArray[np.float64]:
    """exp(−a/(1−μ)): the Ornstein–Uhlenbeck correlation."""
    return _lag_from_ratio(simulation, np.exp(-_rates(simulation) / (1 - _momentum(simulation))))


def _lag_curvature_off(simulation: Simulation) -> NDArray[np.float64]:
    """(1+μ−1.01a)/(1+μ): the curvature 1 % too large."""
    mu = _momentum(simulation)
    return _lag_from_ratio(simulation, (1 + mu - 1.01 * _rates(simulation)) / (1 + mu))


def compare_dissipation(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """η(HΣ+ΣH) − k ∘ Cov(Δw) on measured moments; C is not used. `predict` maps a Simulation to k, ``(m, m)``."""
    p_values, degrees, ratios, labels = [], [], [], []
    for name, item in evidence.items():
        simulation = simulation_of(item)
        optimizer, m = simulation.segments[0].optimizer, simulation.problem.dimension
        frame = state_frame(eigenbasis(simulation.problem).basis, m)
        moments = frame @ measured_state(item)[0] @ frame.T
        seen = scatter(item)
        lagged = seen.seen(frame)
        entries = np.diag_indices(m) if item.arrays["second"][0].ndim == 1 else np.triu_indices(m)
        i, j = entries
        a = _rates(simulation)
        level = (a[i] + a[j]) * moments[i, j]
        flow = predict(simulation)[i, j] * optimizer.learning_rate**2 * moments[m + i, m + j]  # Δw = −η v
        level_scale = a[i] + a[j]
        flow_scale = predict(simulation)[i, j] * optimizer.learning_rate**2
        ww, vv = (i, j), (m + i, m + j)

        spread = functools.partial(pooled_moment_covariance, lagged, len(seen.times), seen.replicas)
        variance = (
            level_scale**2 * spread(ww, ww)
            - 2 * level_scale * flow_scale * spread(ww, vv)
            + flow_scale**2 * spread(vv, vv)
        )
        z = (level - flow) / np.sqrt(variance)
        p_values.append(normal_p_value(z))
        diagonal = i == j
        expected = level[diagonal]
        degrees.append(2 * expected**2 / variance[diagonal])
        ratios.append((level / flow)[diagonal])
        labels.append((name, a))
    p, nu, ratio = np.concatenate(p_values), np.concatenate(degrees), np.concatenate(ratios)
    half = normal_quantile(TEST_ALPHA) * np.sqrt(2 / nu)
    worst = int(np.argmax(np.abs(ratio - 1) / half))
    rates = np.concatenate([a for _, a in labels])
    curves, start = [shown.level(0.0, rates, "prediction")], 0
    for name, a in labels:
        part = slice(start, start + len(a))
        curves.append(shown.measured(a, ratio[part] - 1, half[part], name))
        start += len(a)
    return Comparison(
        estimate=float(ratio[worst] - 1),
        interval=(float(ratio[worst] - 1 - half[worst]), float(ratio[worst] - 1 + half[worst])),
        p_value=float(p.min()),
        num_tests=len(p),
        reached=float(nu.min()),
        note="both sides are measured; C enters neither",
        results=(
            Profile(
                title="Fluctuation–dissipation",
                sample=shown.replicas(evidence.values(), ", pooled over time"),
                x=shown.RATE,
                y=Axis("η(HΣ+ΣH) / ((1+μ) Cov Δw) − 1"),
                curves=tuple(curves),
                caption="What curvature takes out of the fluctuations against what steps put in, by direction.",
            ),
        ),
    )


def dissipation_constant(simulation: Simulation) -> NDArray[np.float64]:
    """k = 1 + μ for heavy ball; the prediction."""
    return fluctuation_dissipation_constant(_curvatures(simulation), simulation.segments[0].optimizer)


def _constant(value: Callable[[float], float]) -> Law:
    def predict(simulation: Simulation) -> NDArray[np.float64]:
        return np.full((simulation.problem.dimension,) * 2, value(_momentum(simulation)))

    return predict


def compare_boundary(evidence: Mapping[str, Evidence], predict: Predictor[[MomentumSGD], float]) -> Comparison:
    """The bracket found by simulation against the predicted limit. `predict` maps an optimizer to the limit of ηλ."""
    item = evidence["stability-search"]
    setting = StabilitySearch.from_dict(item.setting)
    limits = np.array([predict(optimizer) for optimizer in setting.optimizers])
    low = np.array(item.measured["largest_decaying"]) / limits - 1
    high = np.array(item.measured["smallest_growing"]) / limits - 1
    middle = 0.5 * (low + high)
    worst = int(np.argmax(np.abs(middle)))
    estimates = []
    for optimizer, limit, below, above in zip(setting.optimizers, limits, low, high, strict=True):
        ends = ((below + 1) * limit, (above + 1) * limit)
        name = _describe(optimizer)
        estimates.append(
            Estimate(category=name, value=sum(ends) / 2, low=ends[0], high=ends[1], band=Band.BRACKET)
        )  # fmt: skip
        estimates.append(Estimate(category=name, value=limit, role=Role.PREDICTED))
    return Comparison(
        estimate=float(middle[worst]),
        interval=(float(low[worst]), float(high[worst])),
        num_tests=len(limits),
        note=f"bracket of {len(limits)} recursions, worst: {_describe(setting.optimizers[worst])}",
        results=(
            Forest(
                title="Edge of stability, found by simulation",
                sample=Sample(None, "recursion without noise"),
                x=Axis("largest stable ηλ"),
                estimates=tuple(estimates),
                caption="Between the ends of a bracket the recursion turns from decay to growth.",
            ),
        ),
    )


def _describe(optimizer: MomentumSGD) -> str:
    extras = [f"μ={optimizer.momentum:g}"]
    extras += ["Nesterov"] if optimizer.nesterov else []
    extras += [f"dampening {optimizer.dampening:g}"] if optimizer.dampening else []
    extras += [f"weight decay {optimizer.weight_decay:g}"] if optimizer.weight_decay else []
    extras += ["position form"] if optimizer.form == "position" else []
    return " ".join(extras if len(extras) > 1 else ["heavy ball", *extras])


def largest_stable_curvature(optimizer: MomentumSGD) -> float:
    """The prediction: the curvature λ at which η(λ) = 1 stops being stable, weight decay taken off."""
    return largest_stable_learning_rate(1.0, replace(optimizer, weight_decay=0.0)) - optimizer.weight_decay


def _boundary_without_momentum(optimizer: MomentumSGD) -> float:
    """2: the limit of plain gradient descent."""
    return largest_stable_curvature(replace(optimizer, momentum=0.0, nesterov=False))


def _boundary_heavy_ball_for_all(optimizer: MomentumSGD) -> float:
    """2(1+μ) for Nesterov too."""
    return largest_stable_curvature(replace(optimizer, nesterov=False))


def _boundary_undampened(optimizer: MomentumSGD) -> float:
    """Dampening forgotten."""
    return largest_stable_curvature(replace(optimizer, dampening=0.0))


def compare_impulse(evidence: Mapping[str, Evidence], predict: Law) -> Comparison:
    """Σ_k Fᵏ GGᵀ Fᵏᵀ of the measured F and G, summed in extended precision, against the predicted covariance."""
    item = evidence["impulse-response"]
    setting = ImpulseSetting.from_dict(item.setting)
    errors = []
    for index, simulation in enumerate(setting.simulations):
        step = item.arrays[f"transition_{index}"].astype(np.longdouble)
        inflow = item.arrays[f"noise_input_{index}"].astype(np.longdouble)
        total = inflow @ inflow.T
        while True:  # Smith's doubling: squaring the step doubles the number of terms
            addition = step @ total @ step.T
            total, step = total + addition, step @ step
            if np.abs(addition).max() <= np.finfo(np.longdouble).eps * np.abs(total).max():
                break
        expected = predict(simulation)
        errors.append(float(np.linalg.norm((total - expected).astype(float)) / np.linalg.norm(expected)))
    # Every recursion must agree; a decoy is caught by the one that it gets most wrong.
    worst = max(errors)
    return Comparison(estimate=worst, interval=(worst, worst), num_tests=len(errors), note="no statistics involved")


# ---------------------------------------------------------------------------------------------------------------------
# Register

_NOISE_DECOY = {"C larger by 1 %": _noise_one_percent_larger}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="impulse-response",
        statement="Σ_k Fᵏ G Gᵀ Fᵏᵀ over the simulator's own impulse responses is the state covariance of (S2).",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("impulse-response",),
        assumptions=("none beyond the recursion; checks the simulator and (S2) without statistics",),
        predict=state_covariance,
        decoys={
            "v in the other convention": _other_form,
            "heavy ball without its extras": _plain_heavy_ball,
            "H and C commute": _commuting_formula,
            **_NOISE_DECOY,
        },
        compare=compare_impulse,
        num_tests=7,
        margin=1e-11,
    ),
    Claim(
        name="stationary-commuting",
        statement="H C = C H: σᵢ² = η γᵢ (1+μ) / (λᵢ (1−μ) (2(1+μ) − ηλᵢ)), eq. (S1).",
        source="Xu and Zhang (arXiv 2410.07719), stationary theorem; Liu, Ziyin and Ueda (ICML 2021)",
        kind=Kind.IDENTITY,
        experiments=("stationary-commuting", "stationary-slow"),
        assumptions=("H and C commute", *ASSUMED),
        predict=state_covariance,
        decoys={
            "continuous time, ηγ/(2λ(1−μ))": _continuous_time,
            "factor 1+μ dropped": _without_one_plus_momentum,
            "plain SGD at η/(1−μ)": _effective_rate,
            **_NOISE_DECOY,
        },
        compare=compare_variances,
        num_tests=144,
        detects=DETECTS,
    ),
    Claim(
        name="stationary-general",
        statement="Any H, C: Σᵢⱼ = η² C̃ᵢⱼ (1−μ)(1+μ)/Dᵢⱼ in H's eigenbasis, with velocity and cross blocks; Nesterov, "
        "dampening, weight decay, both forms, eq. (S2).",
        source=f"{OWN}; expanded form in Liu, Ziyin and Ueda (ICML 2021)",
        kind=Kind.IDENTITY,
        experiments=("stationary-general", *VARIANTS),
        assumptions=ASSUMED,
        predict=state_covariance,
        decoys={
            "H and C commute": _commuting_formula,
            "C's eigenbasis for H's": _noise_eigenbasis,
            "heavy ball without its extras": _plain_heavy_ball,
            "v in the other convention": _other_form,
            **_NOISE_DECOY,
        },
        compare=compare_states,
        num_tests=560 + 3 * 90,
        detects=DETECTS,
    ),
    Claim(
        name="stationary-diagonal",
        statement="Without commutation the variance along H's eigenvector uᵢ is (S1) with γᵢ = uᵢᵀCuᵢ, eq. (S3).",
        source=OWN,
        kind=Kind.IDENTITY,
        experiments=("stationary-general",),
        assumptions=ASSUMED,
        predict=lambda simulation: _masked(simulation, eigenbasis(simulation.problem).basis),
        decoys={"eigenvalues of C paired in order": _paired_spectra, **_NOISE_DECOY},
        compare=compare_variances,
        num_tests=32,
        detects=DETECTS,
    ),
    Claim(
        name="stability-boundary",
        statement="Stable iff |μ| < 1 and 0 < ηλ < 2(1+μ); Nesterov ηλ < 2(1+μ)/(1+2μ); dampening d scales η by 1−d.",
        source="characteristic polynomial of the two-step recursion (Jury's conditions)",
        kind=Kind.IDENTITY,
        experiments=("stability-search",),
        assumptions=("quadratic loss",),
        predict=largest_stable_curvature,
        decoys={
            "plain gradient descent, ηλ < 2": _boundary_without_momentum,
            "heavy ball's limit for Nesterov": _boundary_heavy_ball_for_all,
            "dampening forgotten": _boundary_undampened,
        },
        compare=compare_boundary,
        num_tests=8,
        margin=2e-3,
    ),
    Claim(
        name="lag-one",
        statement="Cov(w_t, w_{t−1})ᵢ = σᵢ² (1+μ−ηλᵢ)/(1+μ), and its matrix form without commutation.",
        source="Yule–Walker equations of the two-step recursion (Hamilton 1994, §3.4)",
        kind=Kind.IDENTITY,
        experiments=("stationary-commuting", "stationary-general"),
        assumptions=ASSUMED,
        predict=lag_one,
        decoys={
            "plain SGD, 1 − ηλ": _lag_without_momentum,
            "continuous time, exp(−ηλ/(1−μ))": _lag_continuous,
            "curvature larger by 1 %": _lag_curvature_off,
        },
        compare=compare_lag_one,
        num_tests=64 + 256,
        detects=DETECTS,
    ),
    Claim(
        name="fluctuation-dissipation",
        statement="η(HΣ + ΣH) = (1+μ) Cov(w_t − w_{t−1}), whatever C.",
        source="Yaida (ICLR 2019); matrix form derived here",
        kind=Kind.IDENTITY,
        experiments=("stationary-commuting", "stationary-general"),
        assumptions=("stationary", "quadratic loss", "noise of mean 0, independent over time"),
        predict=dissipation_constant,
        decoys={
            "1 in place of 1+μ": _constant(lambda mu: 1.0),
            "1/(1−μ) in place of 1+μ": _constant(lambda mu: 1 / (1 - mu)),
            "constant larger by 1 %": _constant(lambda mu: 1.01 * (1 + mu)),
        },
        compare=compare_dissipation,
        num_tests=64 + 136,
        detects=DETECTS,
    ),
    Claim(
        name="noise-law-free",
        statement="Σ depends on the noise through C alone: Rademacher, uniform and Student-t noise give (S2).",
        source=f"{OWN}: the recursion of second moments is closed",
        kind=Kind.IDENTITY,
        experiments=tuple(LAWS),
        assumptions=ASSUMED,
        predict=state_covariance,
        decoys={
            "H and C commute": _commuting_formula,
            "variance shrunk by a fiftieth of the kurtosis": lambda simulation: state_covariance(
                scaled_noise(simulation, 1 + simulation.noise.excess_kurtosis / 50)
            ),
            **_NOISE_DECOY,
        },
        compare=compare_noise_laws,
        num_tests=3 * 36,
        detects=DETECTS,
    ),
)
