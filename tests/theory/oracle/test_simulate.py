"""The simulator: its paths, engines and threads agree, and its noise has the law it was asked for.

Statistical tests have fixed seeds and known nulls; each is allowed to fail by chance once in 10⁵ seeds.
"""

import dataclasses
import json
import sys

import numpy as np
import pytest
from scipy import stats

from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.oracle.simulate import Segment, Simulation, impulse_response, noise_factor, simulate, trajectory
from theory.oracle.transition import transition

ALPHA = 1e-5
OPTIMIZERS = {
    "heavy-ball": MomentumSGD(learning_rate=0.1, momentum=0.9),
    "plain": MomentumSGD(learning_rate=0.3),
    "position": MomentumSGD(learning_rate=0.1, momentum=0.8, form="position"),
    "position-dampened": MomentumSGD(learning_rate=0.1, momentum=0.8, form="position", dampening=0.3, weight_decay=0.2),
    "nesterov": MomentumSGD(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "dampened": MomentumSGD(learning_rate=0.2, momentum=0.7, dampening=0.4, weight_decay=0.3),
}
LAWS = [Gaussian(), Rademacher(), Uniform(), StudentT(degrees_of_freedom=9.0)]
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
laws = pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)


@pytest.fixture(params=["numba", "numpy"])
def engine(request):
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed: the compiled engine is not tested")
    return request.param


def rotation(m, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((m, m)))[0]


def dense_problem(m=3, seed=0):
    u, r = rotation(m, seed), rotation(m, seed + 1)
    return Quadratic((u * np.linspace(0.3, 2.0, m)) @ u.T, (r * np.linspace(0.2, 3.0, m)) @ r.T)


DIAGONAL = Quadratic(np.array([0.3, 1.0, 2.5]), np.array([0.5, 0.0, 2.0]))


def run_of(optimizer, problem=DIAGONAL, steps=40, **changes):
    fields = {
        "problem": problem,
        "segments": (Segment(optimizer=optimizer, steps=steps),),
        "replicas": 100,
        "record_times": (steps,),
    }
    return Simulation(**{**fields, **changes})


def two_segments(optimizer, problem=DIAGONAL, other=None):
    later = dataclasses.replace(optimizer, learning_rate=optimizer.learning_rate / 5, weight_decay=0.05)
    rates = optimizer.learning_rate * (1 + np.cos(np.arange(15) / 5)) / 2 + 1e-3
    return (
        Segment(optimizer=optimizer, steps=20),
        Segment(optimizer=later, steps=15, problem=other, learning_rates=rates),
        Segment(optimizer=later, steps=10),
    )


# One step of the very code, without noise.


@optimizers
@pytest.mark.parametrize("path", ["diagonal", "dense"])
def test_impulses_give_the_transition_of_the_recursion(optimizer, path, engine):
    response = impulse_response(run_of(optimizer), engine=engine, path=path)
    expected, from_gradient_noise = transition(DIAGONAL, optimizer)
    # a handful of roundings of numbers of order 1
    np.testing.assert_allclose(response.transition, expected, rtol=1e-14, atol=1e-15)
    factor = np.diag(np.sqrt(DIAGONAL.noise_cov))
    np.testing.assert_allclose(response.noise_input, from_gradient_noise @ factor, rtol=1e-14, atol=1e-15)


@optimizers
def test_impulses_see_the_matrices_rates_and_problems_of_every_segment(optimizer, engine):
    problem, other = dense_problem(3, 0), dense_problem(3, 5)
    segments = two_segments(optimizer, problem, other)
    setting = run_of(optimizer, problem, segments=segments, record_times=(45,))
    first, second, third = (segments[0], problem), (segments[1], other), (segments[2], other)
    for step, where in {0: first, 19: first, 27: second, 34: second, 35: third, 44: third}.items():
        segment, at = where
        used = segment.optimizer
        if segment.learning_rates is not None:
            used = dataclasses.replace(used, learning_rate=float(segment.learning_rates[step - 20]))
        expected, from_gradient_noise = transition(at, used)
        response = impulse_response(setting, step=step, engine=engine)
        np.testing.assert_allclose(response.transition, expected, rtol=1e-13, atol=1e-15)
        covariance = from_gradient_noise @ at.dense_noise_cov() @ from_gradient_noise.T
        np.testing.assert_allclose(response.noise_input @ response.noise_input.T, covariance, rtol=1e-12, atol=1e-14)


def test_only_the_very_first_step_can_be_undampened(engine):
    optimizer = OPTIMIZERS["dampened"]
    setting = run_of(optimizer, segments=(Segment(optimizer=optimizer, steps=5),) * 2, record_times=(10,))
    setting = dataclasses.replace(setting, undampened_first_step=True)
    free = transition(DIAGONAL, dataclasses.replace(optimizer, dampening=0.0))[0]
    dampened = transition(DIAGONAL, optimizer)[0]
    for step in (0, 1, 4, 5, 9):
        response = impulse_response(setting, step=step, engine=engine)
        np.testing.assert_allclose(response.transition, dampened if step else free, rtol=1e-14, atol=1e-15)


@optimizers
def test_the_noise_free_path_is_the_product_of_the_transitions(optimizer, engine):
    quiet = Quadratic(dense_problem().hessian, np.zeros((3, 3)))
    start = np.array([1.0, -2.0, 0.5])
    setting = run_of(optimizer, quiet, initial_weights=start, replicas=20)
    path = trajectory(setting, seed=0, engine=engine)
    matrix = transition(quiet, optimizer)[0]
    state = np.concatenate([start, np.zeros(3)])
    for weights in path.weights:
        np.testing.assert_allclose(weights, np.broadcast_to(state[:3], (20, 3)), rtol=0, atol=1e-13)
        state = matrix @ state


@pytest.mark.parametrize(
    "optimizer",
    [
        MomentumSGD(learning_rate=0.1, momentum=0.9, dampening=0.5, weight_decay=0.2),
        MomentumSGD(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
        MomentumSGD(learning_rate=0.3),
    ],
    ids=["dampened", "nesterov", "plain"],
)
def test_torch_takes_the_same_steps(optimizer, engine):
    torch = pytest.importorskip("torch", reason="torch is not installed: its optimizer is not compared")
    problem = dense_problem()
    start = np.array([1.0, -2.0, 0.5])
    segments = (
        Segment(optimizer=optimizer, steps=10),
        Segment(optimizer=dataclasses.replace(optimizer, learning_rate=0.02), steps=10),
    )
    setting = run_of(
        optimizer,
        Quadratic(problem.hessian, np.zeros(3)),
        segments=segments,
        record_times=(20,),
        replicas=1,
        initial_weights=start,
        undampened_first_step=True,
    )
    ours = trajectory(setting, seed=0, engine=engine).weights[:, 0]
    w = torch.tensor(start.copy(), requires_grad=True)
    hessian = torch.tensor(problem.hessian.copy())
    torch_sgd = torch.optim.SGD(
        [w],
        lr=optimizer.learning_rate,
        momentum=optimizer.momentum,
        dampening=optimizer.dampening,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
    )
    for step in range(20):
        if step == 10:
            torch_sgd.param_groups[0]["lr"] = 0.02
        torch_sgd.zero_grad()
        (0.5 * w @ hessian @ w).backward()
        torch_sgd.step()
        np.testing.assert_allclose(ours[step + 1], w.detach().numpy(), rtol=0, atol=1e-13)


# Same noise, other code.


@optimizers
@laws
def test_the_diagonal_path_equals_the_dense_path(optimizer, law, engine):
    setting = run_of(
        optimizer,
        segments=two_segments(optimizer, other=Quadratic(np.array([0.5, 0.4, 3.0]), np.array([1.0, 2.0, 0.1]))),
        record_times=(45,),
        noise=law,
        noise_autocorrelation=0.4 if optimizer.nesterov else 0.0,
        initial_weights=np.array([1.0, 0.0, -1.0]),
    )
    fast = trajectory(setting, seed=7, engine=engine, path="diagonal")
    real = trajectory(setting, seed=7, engine=engine, path="dense")
    scale = np.abs(real.weights).max()
    assert scale > 0.5
    np.testing.assert_allclose(fast.weights, real.weights, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("times,pool", [((0, 1, 17, 45), False), ((0, 3, 4, 5, 20, 21, 44), True)])
@optimizers
def test_moments_are_those_of_the_trajectories(optimizer, times, pool, engine):
    problem = dense_problem()
    setting = run_of(
        optimizer, problem, segments=two_segments(optimizer), record_times=times, pool=pool, replicas=300,
        initial_weights=np.array([0.1, 0.2, 0.3]),
    )  # fmt: skip
    moments = simulate(setting, seed=3, engine=engine, threads=1)
    w = trajectory(setting, seed=3, engine=engine).weights  # (46, 300, 3)
    before = np.concatenate([w[:1], w[:-1]])
    now = np.asarray(times)
    mean = w[now].mean(axis=1)
    second = np.einsum("tri,trj->tij", w[now], w[now]) / 300
    lag = np.einsum("tri,trj->tij", w[now], before[now]) / 300
    if pool:
        mean, second, lag = (x.mean(axis=0, keepdims=True) for x in (mean, second, lag))
    for got, expected in ((moments.mean[:, :3], mean), (moments.second[:, :3, :3], second), (moments.lag, lag)):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * max(1.0, np.abs(expected).max()))
    assert moments.count.tolist() == ([300 * len(times)] if pool else [300] * len(times))
    if optimizer.form == "position":  # there, v is the displacement, so that w v = w w − w w₋
        expected = second - lag
        np.testing.assert_allclose(moments.cross, expected, rtol=0, atol=1e-13 * np.abs(second).max())


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("path", ["diagonal", "dense"])
def test_diagonal_moments_are_the_diagonal_of_the_full_ones(pool, path, engine):
    optimizer = OPTIMIZERS["heavy-ball"]
    full = run_of(optimizer, segments=two_segments(optimizer), record_times=(0, 2, 19, 20, 21, 45), pool=pool,
                  replicas=333, initial_weights=np.array([0.1, 0.2, 0.3]))  # fmt: skip
    a = simulate(full, seed=5, engine=engine, path=path, threads=1)
    b = simulate(dataclasses.replace(full, moments="diagonal"), seed=5, engine=engine, path=path, threads=1)
    for name in ("second", "cross", "lag"):
        for suffix in ("", "_error"):
            matrix, vector = getattr(a, name + suffix), getattr(b, name + suffix)
            # a standard error is the root of a difference of squares: half the digits
            rtol, atol = (1e-12, 1e-13) if suffix == "" else (1e-6, 1e-9)
            np.testing.assert_allclose(np.einsum("tii->ti", matrix), vector, rtol=rtol, atol=atol)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-14)
    assert a.path == b.path == path
    assert a.engine == b.engine == engine


# Seeds and threads.


@pytest.mark.parametrize("moments", ["full", "diagonal"])
@pytest.mark.parametrize("problem", [DIAGONAL, dense_problem()], ids=["diagonal", "dense"])
def test_threads_do_not_change_a_bit(problem, moments, engine):
    setting = run_of(OPTIMIZERS["heavy-ball"], problem, replicas=1000, record_times=(1, 20, 40), moments=moments)
    one, two, five = (simulate(setting, seed=9, threads=threads, engine=engine) for threads in (1, 2, 5))
    assert one.blocks > 5
    for name, value in one.to_arrays().items():
        assert value.tobytes() == two.to_arrays()[name].tobytes() == five.to_arrays()[name].tobytes(), name


def test_a_seed_repeats_and_another_differs(engine):
    setting = run_of(OPTIMIZERS["heavy-ball"])
    first, again, other = (simulate(setting, seed=seed, engine=engine) for seed in (1, 1, 2))
    assert (first.second == again.second).all()
    assert first.second[0, 0, 0] != other.second[0, 0, 0]


def test_a_setting_survives_json():
    setting = run_of(
        OPTIMIZERS["position"],
        dense_problem(),
        segments=two_segments(OPTIMIZERS["position"], other=dense_problem(3, 9)),
        record_times=range(3, 45),
        noise=StudentT(degrees_of_freedom=5.5),
        initial_weights=[1.0, 2.0, 1 / 3],
    )
    assert type(setting).from_dict(json.loads(json.dumps(setting.to_dict()))) == setting


def test_the_seed_is_the_root_of_every_block_and_blocks_do_not_repeat(engine):
    setting = run_of(OPTIMIZERS["plain"], replicas=600, record_times=(1,), steps=1)
    weights = trajectory(setting, seed=1, engine=engine).weights[1]
    assert len(np.unique(weights[:, 0])) == 600


# The law of the noise: at η = 1 and H = 10⁻¹² the steps of plain SGD are the noise itself.

ETA_ONE = MomentumSGD(learning_rate=1.0)


def noise_covariance(m=3):
    r = rotation(m, 3)
    return (r * np.linspace(0.2, 3.0, m)) @ r.T


@laws
def test_one_step_has_the_covariance_asked_for(law, engine):
    replicas = 200_000
    covariance = noise_covariance()
    problem = Quadratic(np.full(3, 1e-12), covariance)
    setting = run_of(ETA_ONE, problem, steps=1, record_times=(1,), replicas=replicas, noise=law)
    moments = simulate(setting, seed=12, engine=engine)
    factor = noise_factor(problem)
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-13, atol=1e-15)
    assert (factor == factor.T).all() or np.abs(factor - factor.T).max() < 1e-15
    squares = factor**2
    variance = np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2
    variance += law.excess_kurtosis * squares @ squares.T
    z = (moments.second[0, :3, :3] - covariance) / np.sqrt(variance / replicas)
    z_mean = moments.mean[0, :3] / np.sqrt(np.diag(covariance) / replicas)
    scores = np.concatenate([z[np.triu_indices(3)], z_mean])
    assert 2 * stats.norm.sf(np.abs(scores).max()) * len(scores) > ALPHA


@laws
def test_noise_in_time_is_white(law, engine):
    problem = Quadratic(np.full(2, 1e-12), np.array([1.0, 2.0]))
    setting = run_of(ETA_ONE, problem, steps=50, replicas=2000, noise=law)
    steps = np.diff(trajectory(setting, seed=13, engine=engine).weights, axis=0) / np.sqrt([1.0, 2.0])
    scores = []
    for lag in (1, 2, 3, 16, 33):
        for a in (0, 1):
            for b in (0, 1):
                products = steps[:-lag, :, a] * steps[lag:, :, b]
                scores.append(products.sum() / np.sqrt(products.size))
    assert 2 * stats.norm.sf(np.abs(scores).max()) * len(scores) > ALPHA


@pytest.mark.parametrize("correlation", [0.6, -0.5])
@pytest.mark.parametrize("path", ["diagonal", "dense"])
def test_correlated_noise_has_its_autocovariance_from_the_first_step_on(correlation, path, engine):
    replicas, gamma = 40_000, 2.0
    problem = Quadratic(np.full(2, 1e-12), np.array([1.0, gamma]))
    setting = run_of(ETA_ONE, problem, steps=6, replicas=replicas, noise_autocorrelation=correlation)
    noise = -np.diff(trajectory(setting, seed=14, engine=engine, path=path).weights, axis=0)
    scores = []
    for early in range(6):
        for late in range(early, 6):
            rho = correlation ** (late - early)
            measured = np.mean(noise[early, :, 1] * noise[late, :, 1]) / gamma
            scores.append((measured - rho) / np.sqrt((1 + rho**2) / replicas))
            crossed = np.mean(noise[early, :, 0] * noise[late, :, 1]) / np.sqrt(gamma)
            scores.append(crossed * np.sqrt(replicas))
    assert 2 * stats.norm.sf(np.abs(scores).max()) * len(scores) > ALPHA


def test_standard_errors_are_those_of_the_spread():
    """At one time, Gaussian: R Var(second)/2σ⁴ → the squared errors are χ² with blocks − 1 degrees, up to 1/256."""
    m = 64
    problem = Quadratic(np.full(m, 1e-12), np.ones(m))
    setting = run_of(ETA_ONE, problem, steps=1, record_times=(1,), replicas=256 * 40, moments="diagonal")
    moments = simulate(setting, seed=15)
    assert moments.blocks == 40
    ratio = moments.second_error[0, :m] ** 2 / (2.0 / setting.replicas)
    # Var of a sample variance: (2 + κ)/(n − 1) with κ = 12/256 for averages of 256 squares
    z = np.sum(ratio - 1) / np.sqrt(m * (2 + 12 / 256) / 39)
    assert 2 * stats.norm.sf(abs(z)) > ALPHA
    z = np.sum(moments.mean_error[0, :m] ** 2 * setting.replicas - 1) / np.sqrt(m * 2 / 39)
    assert 2 * stats.norm.sf(abs(z)) > ALPHA


def test_a_single_block_has_no_standard_error():
    moments = simulate(run_of(OPTIMIZERS["plain"], replicas=1), seed=0)
    assert moments.blocks == 1
    assert moments.second_error is None
    assert "second_error" not in moments.to_arrays()


def test_a_rotated_problem_is_the_rotated_simulation(engine):
    """Without commuting tricks: H = U D Uᵀ, no noise, a start in a general direction."""
    u = rotation(3, 8)
    start = np.array([1.0, 0.5, -0.25])
    spectrum = np.array([0.3, 1.0, 2.5])
    plain = run_of(OPTIMIZERS["nesterov"], Quadratic(spectrum, np.zeros(3)), initial_weights=start, replicas=1)
    turned = run_of(
        OPTIMIZERS["nesterov"], Quadratic((u * spectrum) @ u.T, np.zeros(3)), initial_weights=u @ start, replicas=1
    )
    a, b = (trajectory(setting, seed=0, engine=engine).weights[:, 0] for setting in (plain, turned))
    np.testing.assert_allclose(b, a @ u.T, rtol=0, atol=1e-13)


# The front door.


def test_without_numba_the_numpy_engine_answers(monkeypatch):
    monkeypatch.setitem(sys.modules, "theory.oracle.compiled", None)
    monkeypatch.delattr("theory.oracle.compiled", raising=False)
    moments = simulate(run_of(OPTIMIZERS["plain"]), seed=0)
    assert moments.engine == "numpy"
    with pytest.raises(ValueError, match=r"`simulate\(engine='numba'\)` needs numba"):
        simulate(run_of(OPTIMIZERS["plain"]), seed=0, engine="numba")


def test_a_law_that_cannot_be_drawn_is_refused(engine):
    class Cauchy(NoiseLaw):
        pass

    with pytest.raises(ValueError, match="must be a law this simulator can draw; got Cauchy"):
        simulate(run_of(OPTIMIZERS["plain"], noise=Cauchy()), seed=0, engine=engine)


def test_progress_reaches_one():
    seen = []
    simulate(run_of(OPTIMIZERS["plain"]), seed=0, progress=seen.append, threads=2)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_an_unstable_recursion_is_reported(engine):
    setting = run_of(MomentumSGD(learning_rate=5.0, momentum=0.9), steps=4000)
    with pytest.raises(RuntimeError, match="must stay finite"):
        simulate(setting, seed=0, engine=engine)


PLAIN = OPTIMIZERS["plain"]
BAD_SIMULATIONS = {
    "replicas": ({"replicas": 0}, "replicas=...\\)` must be >= 1; got 0"),
    "fraction of a replica": ({"replicas": 1.5}, "must be an integer; got 1.5"),
    "no times": ({"record_times": ()}, "strictly rising and not empty"),
    "times twice": ({"record_times": (1, 1)}, "strictly rising"),
    "time beyond the end": ({"record_times": (41,)}, "must not exceed the 40 steps of the segments; got 41"),
    "negative time": ({"record_times": (-1,)}, "must be >= 0; got -1"),
    "no segment": ({"segments": ()}, "at least one Segment"),
    "correlation": ({"noise_autocorrelation": 1.0}, "must be in \\(−1, 1\\); got 1.0"),
    "law": ({"noise": "gaussian"}, "must be a NoiseLaw; got 'gaussian'"),
    "moments": ({"moments": "all"}, "must be 'full' or 'diagonal'; got 'all'"),
    "weights": ({"initial_weights": np.zeros(2)}, "must be 3 finite numbers"),
    "nan weights": ({"initial_weights": np.array([0, np.nan, 0])}, "must be 3 finite numbers"),
    "dimension": (
        {"segments": (Segment(optimizer=PLAIN, steps=40, problem=Quadratic(np.ones(2), np.ones(2))),)},
        "must have the dimension 3 of the first problem; got 2",
    ),
    "forms": (
        {"segments": (Segment(optimizer=PLAIN, steps=20), Segment(optimizer=OPTIMIZERS["position"], steps=20))},
        "must keep to one form",
    ),
    "first step": (
        {"segments": (Segment(optimizer=OPTIMIZERS["position"], steps=40),), "undampened_first_step": True},
        "needs form='pytorch'; got 'position'",
    ),
}


@pytest.mark.parametrize("changes,message", BAD_SIMULATIONS.values(), ids=BAD_SIMULATIONS)
def test_a_bad_setting_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        run_of(PLAIN, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"steps": 0}, "must be >= 1; got 0"),
        ({"learning_rates": np.ones(3)}, "must have shape \\(steps,\\) = \\(4,\\); got \\(3,\\)"),
        ({"learning_rates": np.array([1, 1, 0, 1.0])}, "must be > 0 and finite; got 0.0"),
    ],
)
def test_a_bad_segment_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Segment(**{"optimizer": PLAIN, "steps": 4, **changes})


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda s: simulate(s, seed=-1), "seed=...\\)` must be >= 0; got -1"),
        (lambda s: simulate(s, seed=0, threads=0), "threads=...\\)` must be >= 1; got 0"),
        (lambda s: simulate(s, seed=0, engine="cuda"), "must be 'auto', 'numba' or 'numpy'; got 'cuda'"),
        (lambda s: simulate(s, seed=0, path="fast"), "must be 'auto', 'diagonal' or 'dense'; got 'fast'"),
        (lambda s: simulate(s, seed=0, path="diagonal"), "needs H and C given as diagonals"),
        (lambda s: trajectory(s, seed=0, stride=0), "stride=...\\)` must be >= 1; got 0"),
        (lambda s: impulse_response(s, step=40), "must be < 40"),
    ],
)
def test_a_bad_call_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(run_of(PLAIN, dense_problem()))
