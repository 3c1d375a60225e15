"""The sampler draws what it says: whole populations, distinct rows, permutations; its updates are the optimizer's."""

import numpy as np
import pytest

from theory.model.optimizer import MomentumSGD
from theory.model.regression import FiniteSum, GaussianRegression, RidgeRegression, Sampling
from theory.oracle import sampling
from theory.oracle.sampling import SamplingRun, simulate_sampling
from theory.oracle.update import momentum_update


def _regression(scheme: Sampling, batch: int = 3) -> RidgeRegression:
    rng = np.random.default_rng(0)
    return RidgeRegression(
        inputs=rng.normal(size=(12, 3)), targets=rng.normal(size=12), ridge=0.2, batch_size=batch, sampling=scheme
    )


def _drawn(run: SamplingRun, size: int, monkeypatch) -> list[np.ndarray]:
    """The rows of every batch, step by step."""
    seen = []

    def record(problem, rng, rows):
        seen.append(np.array(rows))
        return lambda weights: np.zeros_like(weights)

    monkeypatch.setattr(sampling, "_of_rows", record)
    for _ in sampling._gradients(run, size, np.random.default_rng(1)):
        pass
    return seen


def test_an_epoch_shows_every_row_once(monkeypatch):
    run = SamplingRun(
        problem=_regression(Sampling.SHUFFLED_EPOCHS), optimizer=MomentumSGD(0.1), replicas=5, burn_in=2, records=3,
        phases=(4,),
    )  # fmt: skip
    seen = _drawn(run, 5, monkeypatch)
    assert len(seen) == 5 * 4
    for epoch in range(5):
        rows = np.concatenate(seen[4 * epoch : 4 * (epoch + 1)], axis=1)
        np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(12), (5, 1)))
    assert not np.array_equal(seen[0], seen[4])


@pytest.mark.parametrize("batch", [1, 3, 8, 12])
def test_rows_without_replacement_differ_and_are_uniform(batch):
    rows = sampling._distinct(12, 20_000, batch, np.random.default_rng(2))
    ordered = np.sort(rows, axis=1)
    assert (np.diff(ordered, axis=1) > 0).all() if batch > 1 else True
    counts = np.bincount(rows.ravel(), minlength=12)
    expected = 20_000 * batch / 12
    assert np.abs(counts - expected).max() <= 6 * np.sqrt(expected * (1 - batch / 12) + 1e-9) + 1e-9


def test_noise_of_shuffled_batches_has_the_lag_correlation():
    """Averaged over the epoch; the sampler against −(M−h)/(M(M−1))."""
    rng = np.random.default_rng(5)
    offsets = rng.exponential(size=(12, 1))
    offsets -= offsets.mean(axis=0)
    problem = FiniteSum(curvatures=np.ones(1), offsets=offsets - offsets.mean(axis=0), batch_size=3)
    run = SamplingRun(problem=problem, optimizer=MomentumSGD(0.1), replicas=2, burn_in=0, records=40, phases=(4,))
    noise = [
        gradient(np.zeros((4000, 1)))[:, 0] for _, gradient in sampling._gradients(run, 4000, np.random.default_rng(6))
    ]
    noise = np.array(noise)
    variance = np.mean(noise**2)
    for lag in (1, 2, 3, 4, 5):
        measured = np.mean(noise[:-lag] * noise[lag:]) / variance
        assert measured == pytest.approx(-max(4 - lag, 0) / (4 * 3), abs=0.02)


def test_a_run_is_the_optimizers_recursion_on_the_drawn_rows(monkeypatch):
    """Two replicas by hand, from the batches the sampler hands out."""
    problem = _regression(Sampling.WITH_REPLACEMENT)
    optimizer = MomentumSGD(0.1, 0.6, nesterov=True, weight_decay=0.05)
    run = SamplingRun(problem=problem, optimizer=optimizer, replicas=2, burn_in=4, records=1, start=np.ones(3))
    seen, original = [], sampling._of_rows

    def record(problem, rng, rows):
        seen.append(np.array(rows))
        return original(problem, rng, rows)

    monkeypatch.setattr(sampling, "_of_rows", record)
    moments = simulate_sampling(run, seed=3, threads=1)
    assert len(seen) == 5
    for replica in range(2):
        w, v = np.ones(3), np.zeros(3)
        for rows in seen:
            x, y = problem.inputs[rows[replica]], problem.targets[rows[replica]]
            g = x.T @ (x @ w - y) / 3 + (0.2 + 0.05) * w
            v = 0.6 * v + g
            w = w - 0.1 * (g + 0.6 * v)
        np.testing.assert_allclose(moments.mean[0, replica], w - 1, rtol=1e-10)
        np.testing.assert_allclose(moments.square[0, replica], (w - 1) ** 2, rtol=1e-10)


def test_compiled_and_portable_gradients_agree(monkeypatch):
    pytest.importorskip("numba")
    run = SamplingRun(
        problem=_regression(Sampling.WITHOUT_REPLACEMENT), optimizer=MomentumSGD(0.1, 0.9), replicas=40, burn_in=30,
        records=20,
    )  # fmt: skip
    compiled = simulate_sampling(run, seed=7)
    monkeypatch.setattr(sampling, "least_squares_gradient", None)
    portable = simulate_sampling(run, seed=7)
    np.testing.assert_allclose(compiled.square, portable.square, rtol=1e-9)
    np.testing.assert_allclose(compiled.second, portable.second, rtol=1e-9)


def test_answers_depend_on_the_seed_alone():
    problem = GaussianRegression(input_cov=np.array([0.5, 1.0]), label_noise_variance=0.3, batch_size=2)
    run = SamplingRun(problem=problem, optimizer=MomentumSGD(0.1), replicas=600, burn_in=5, records=3)
    one, two = simulate_sampling(run, seed=1, threads=1), simulate_sampling(run, seed=1, threads=3)
    np.testing.assert_array_equal(one.square, two.square)
    assert not np.array_equal(one.square, simulate_sampling(run, seed=2).square)


def test_directions_turn_what_is_recorded():
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    plain = SamplingRun(
        problem=_regression(Sampling.WITH_REPLACEMENT), optimizer=MomentumSGD(0.1), replicas=8, burn_in=3, records=4
    )
    turned = SamplingRun(**{**plain.__dict__, "directions": turn})
    a, b = simulate_sampling(plain, seed=1), simulate_sampling(turned, seed=1)
    np.testing.assert_allclose(b.mean, a.mean @ turn, atol=1e-14)
    np.testing.assert_allclose(b.second[0], turn.T @ a.second[0] @ turn, atol=1e-14)


def test_gaussian_inputs_have_the_covariance_and_the_label_noise():
    root = np.random.default_rng(9).normal(size=(2, 2))
    cov = root @ root.T + 0.2 * np.eye(2)
    problem = GaussianRegression(input_cov=cov, label_noise_variance=0.5, batch_size=1, truth=np.array([1.0, -1.0]))
    run = SamplingRun(problem=problem, optimizer=MomentumSGD(0.1), replicas=2, burn_in=0, records=1)
    _, gradient = next(iter(sampling._gradients(run, 400_000, np.random.default_rng(4))))
    at_truth = gradient(np.tile([1.0, -1.0], (400_000, 1)))
    np.testing.assert_allclose(at_truth.T @ at_truth / len(at_truth), 0.5 * cov, rtol=0.03, atol=0.01)
    np.testing.assert_allclose(gradient(np.zeros((400_000, 2))).mean(axis=0), -cov @ [1.0, -1.0], atol=0.03)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"replicas": 1}, "replicas"),
        ({"records": 0}, "records"),
        ({"burn_in": -1}, "burn_in"),
        ({"phases": (1,)}, "phases"),
        ({"start": np.ones(2)}, "start"),
        ({"directions": np.ones((2, 2))}, "directions"),
        ({"problem": _regression(Sampling.SHUFFLED_EPOCHS)}, "phases"),
        ({"problem": _regression(Sampling.SHUFFLED_EPOCHS), "phases": (5,)}, "phases"),
        ({"problem": _regression(Sampling.SHUFFLED_EPOCHS), "phases": (4,), "stride": 2}, "stride"),
    ],
)
def test_bad_runs_are_named(fields, word):
    good = {
        "problem": _regression(Sampling.WITH_REPLACEMENT),
        "optimizer": MomentumSGD(0.1),
        "replicas": 4,
        "burn_in": 1,
        "records": 1,
    }
    with pytest.raises(ValueError, match=word):
        SamplingRun(**{**good, **fields})


@pytest.mark.parametrize("fields", [{"curvatures": -np.ones(2)}, {"offsets": np.ones((5, 2))}, {"batch_size": 4}])
def test_bad_finite_sums_are_named(fields):
    offsets = np.array([[1.0, 2.0], [-1.0, 0.0], [0.0, -2.0], [1.0, 1.0], [-1.0, -1.0]])
    good = {"curvatures": np.ones(2), "offsets": offsets, "batch_size": 2}
    FiniteSum(**good)
    with pytest.raises(ValueError, match="FiniteSum"):
        FiniteSum(**{**good, **fields})


def test_the_update_is_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(6, 4))
    for optimizer in (
        MomentumSGD(0.1, 0.9, weight_decay=0.1),
        MomentumSGD(0.1, 0.9, nesterov=True),
        MomentumSGD(0.1),
    ):
        w = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
        peer = torch.optim.SGD(
            [w], lr=0.1, momentum=optimizer.momentum, nesterov=optimizer.nesterov, weight_decay=optimizer.weight_decay
        )
        weights, buffer = np.ones(4), np.zeros(4)
        for gradient in gradients:
            w.grad = torch.tensor(gradient)
            peer.step()
            weights, buffer = momentum_update(optimizer, weights, buffer, gradient)
        np.testing.assert_allclose(weights, w.detach().numpy(), rtol=1e-12)
