"""The assumption report on anybody's model: what holds passes, what is broken fails for its own reason."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import empirical
from empirical.measure.assumptions import check_assumptions
from empirical.measure.landscape import Landscape
from empirical.measure.sharpness import attacked_batch_sharpness, network_batch_sharpness
from tests.empirical.measure.conftest import smooth_network, toy_data, trained
from theory.assumptions import RULES
from theory.closed_form.alignment import haar_rotation
from theory.judge.gate import Result, Thresholds
from theory.model.optimizer import MomentumSGD

CE = nn.CrossEntropyLoss(reduction="none")


class Quadratic(nn.Module):
    """½ wᵀHw + w·ξ_n: curvature H, per-sample noise ξ."""

    def __init__(self, hessian):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(hessian), dtype=torch.float64))
        self.register_buffer("hessian", torch.as_tensor(hessian))

    def forward(self, noise):
        return 0.5 * self.weight @ self.hessian @ self.weight + noise @ self.weight


def quadratic_loss(model, batch):
    return model(batch[0])


def quadratic(rng, *, rotated, size=20, count=500):
    """P = 20, two decades, C with H's eigenvectors or with random ones."""
    q = haar_rotation(size, rng)
    p = haar_rotation(size, rng) if rotated else q
    spectrum = np.geomspace(1, 0.01, size)
    noise = (rng.standard_normal((count, size)) * np.sqrt(spectrum)) @ p.T
    noise -= noise.mean(axis=0)
    return Quadratic((q * spectrum) @ q.T), [(torch.as_tensor(part),) for part in np.split(noise, 10)]


def network():
    x, y = toy_data(320)
    model = trained(smooth_network(), x, y, steps=500)
    return model, [(x[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32)]


@pytest.fixture(scope="module")
def good():
    model, batches = network()
    return check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=4)


def test_a_trained_network_keeps_what_it_should(good):
    assert empirical.check_assumptions is check_assumptions
    for name in ("stability", "commutativity", "price", "expansion", "optimum", "drift", "whiteness"):
        assert good.checks[name].supported, good
    assert good.outcome in ("pass", "inconclusive") and good.stability.supported
    for check in good.checks.values():
        if check.interval is not None:
            assert check.interval[0] <= check.estimate <= check.interval[1], check
    text = str(good)
    assert all(name in text for name in good.checks) and text.startswith(f"assumptions: {good.outcome}")
    assert (good.shuffled_variances < good.variances).all()
    with pytest.raises(AttributeError, match="its checks: stability"):
        _ = good.comutativity


def test_rotated_noise_fails_and_commuting_noise_does_not():
    rng, failed = np.random.default_rng(0), {True: 0, False: 0}
    names = ("commutativity", "commutativity_top")
    for number in range(8):
        rotated = number % 2 == 0
        model, batches = quadratic(rng, rotated=rotated)
        found = check_assumptions(model, quadratic_loss, batches, learning_rate=0.1, momentum=0.9, top_k=20)
        failed[rotated] += any(found.checks[name].result is Result.FAIL for name in names)
        assert rotated or (found.price.supported and found.alignment.supported), found
    assert failed == {True: 4, False: 0}


def test_a_rate_beyond_the_edge_fails_with_a_report(good):
    model, batches = network()
    found = check_assumptions(model, CE, batches, learning_rate=500 / good.curvatures[0], momentum=0.5, top_k=2)
    assert found.outcome == "fail" and found.stability.result is Result.FAIL
    assert found.stability.estimate == pytest.approx(500 / 3, rel=1e-4)
    assert found.price.rule == "not judged" and not len(found.variances)
    rate, edge = 2.0 / good.curvatures[0], {}
    for nesterov in (False, True):  # Nesterov has its own edge
        one = check_assumptions(model, CE, batches, learning_rate=rate, momentum=0.9, nesterov=nesterov, top_k=2)
        edge[nesterov] = one.stability.estimate
    assert edge[False] == pytest.approx(2 / 3.8, rel=1e-4) and edge[True] == pytest.approx(2 * 2.8 / 3.8, rel=1e-4)


def test_a_sorted_loader_fails_on_drift():
    _, batches = network()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = y.argsort()
    parts = [(x[i], y[i]) for i in order.split(32)]
    found = check_assumptions(smooth_network(), CE, parts, learning_rate=0.01, momentum=0.9, top_k=3)
    assert found.drift.result is Result.FAIL and found.whiteness.result is Result.FAIL
    assert found.stability.supported
    mixed = check_assumptions(smooth_network(), CE, batches, learning_rate=0.01, momentum=0.9, top_k=3)
    assert mixed.drift.supported and mixed.whiteness.supported
    # An untrained network is far from its optimum, whatever the loader.
    assert mixed.optimum.result is Result.FAIL and mixed.outcome == "fail"


def test_demands_of_ones_own_replace_the_rules():
    model, batches = network()
    demands = Thresholds(maximum={"stability": 1.0, "price": 1e-9})
    found = check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=3, thresholds=demands)
    assert [check.name for check in found.gate.checks] == ["stability", "price"]
    assert found.against(Thresholds(maximum={"stability": 1.0})).status == 0
    assert found.against(Thresholds(maximum={"stability": 1e-9})).status == 1


def test_dropout_is_refused_by_name_or_measured_as_noise():
    x, y = toy_data(200)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 3)).double()
    batches = [(x[:100], y[:100]), (x[100:], y[100:])]
    options = {"learning_rate": 0.05, "momentum": 0.9, "top_k": 2}
    with pytest.raises(ValueError, match=r"2 \(Dropout\)"):
        check_assumptions(model, CE, batches, **options)
    off = check_assumptions(model, CE, batches, stochastic="freeze", **options)
    noisy = check_assumptions(model, CE, batches, stochastic="measure", **options)
    assert noisy.curvatures == pytest.approx(off.curvatures, rel=1e-6)
    assert noisy.noise_variances.sum() > 1.02 * off.noise_variances.sum()
    assert model.training and model[2].training


def test_parameter_groups_and_adamw_change_the_coordinates():
    model, batches = network()
    hand = check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=3)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    same = check_assumptions(model, CE, batches, from_optimizer=sgd, top_k=3)
    assert same.curvatures == pytest.approx(hand.curvatures, rel=1e-9)
    # One quarter of the rate in all groups is half the scale: curvatures a quarter, at the same reference rate.
    groups = [{"params": model[0].parameters(), "lr": 0.0125}, {"params": model[2].parameters(), "lr": 0.05}]
    mixed = check_assumptions(model, CE, batches, from_optimizer=torch.optim.SGD(groups, lr=0.05), top_k=3)
    from tests.empirical.measure.conftest import dense

    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    h, _ = dense(Landscape(model, x, y))
    sizes = [p.numel() for p in model.parameters()]
    s = torch.cat([torch.full((n,), 0.5 if i < 2 else 1.0, dtype=torch.float64) for i, n in enumerate(sizes)])
    expected = torch.linalg.eigvalsh(s[:, None] * h * s).flip(0)[:3].numpy()
    assert mixed.curvatures == pytest.approx(expected, rel=1e-4)
    # Decay of one group is curvature there.
    groups = [{"params": model[0].parameters(), "weight_decay": 0.3}, {"params": model[2].parameters()}]
    decayed = check_assumptions(model, CE, batches, from_optimizer=torch.optim.SGD(groups, lr=0.05), top_k=3)
    ridge = torch.cat([torch.full((n,), 0.3 if i < 2 else 0.0, dtype=torch.float64) for i, n in enumerate(sizes)])
    expected = torch.linalg.eigvalsh(h + torch.diag(ridge)).flip(0)[:3].numpy()
    assert decayed.curvatures == pytest.approx(expected, rel=1e-4)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    with pytest.raises(ValueError, match="must have taken steps"):
        check_assumptions(model, CE, batches, from_optimizer=adam, top_k=3)
    CE(model(x), y).mean().backward()
    adam.step()
    v = torch.cat([adam.state[p]["exp_avg_sq"].reshape(-1) / 0.001 for p in model.parameters()])
    p = 1 / (v.sqrt() + 1e-8)
    found = check_assumptions(model, CE, batches, from_optimizer=adam, top_k=2)
    h, _ = dense(Landscape(model, x, y))
    expected = torch.linalg.eigvalsh(p.sqrt()[:, None] * h * p.sqrt()).flip(0)[:2].numpy()
    keep = found.curvatures
    assert len(keep) == 0 or keep == pytest.approx(expected, rel=1e-3)
    edge = 2 * (1 + 0.9) / (0.1 * 1e-3)
    assert found.stability.estimate == pytest.approx(expected[0] / edge, rel=1e-3)
    assert any("frozen preconditioner" in note for note in found.notes)


def test_an_attack_is_run_again_where_the_loss_is_expanded():
    model, batches = network()
    seen = []

    def attack(network, batch):
        x, y = batch
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(CE(network(x), y).sum(), x)
        seen.append([p.detach().clone() for p in network.parameters()])
        return x.detach() + 0.1 * gradient.sign(), y

    found = check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=2, attack=attack)
    assert "attack run again" in found.expansion.reason
    first = seen[0]
    moved = [any(not torch.equal(a, b) for a, b in zip(first, weights, strict=True)) for weights in seen]
    drawn = int(found.checks["batch_sharpness_attacked"].reason.split()[-3])
    assert sum(moved) == 2 * len(found.curvatures) + 3 + 2 * drawn and not moved[0]
    assert "attack run again" in found.expansion_path.reason
    plain = check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=2)
    assert plain.curvatures[0] != pytest.approx(found.curvatures[0], rel=1e-2)


def test_batch_sharpness_is_reported_with_the_attack_run_again():
    model, batches = network()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def ahead(network, inputs, targets):
        """One gradient step: smooth in the weights, so that its inputs move with them."""
        inputs = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(CE(network(inputs), targets).sum(), inputs)
        return inputs.detach() + 0.5 * gradient

    found = check_assumptions(
        model,
        CE,
        batches,
        learning_rate=0.05,
        momentum=0.9,
        top_k=2,
        attack=lambda network, batch: (ahead(network, *batch), batch[1]),
    )
    check, fixed = found.checks["batch_sharpness_attacked"], found.checks["batch_sharpness"]
    assert check.result is Result.REPORTED and check.interval[0] < check.estimate < check.interval[1]
    count = int(check.reason.split()[-3])
    optimizer, probe = MomentumSGD(0.05, 0.9), copy.deepcopy(model)
    landscape = Landscape(model, ahead(model, x, y), y)

    def again(weights, samples, number):
        torch.nn.utils.vector_to_parameters(weights, probe.parameters())
        return ahead(probe, x[samples], y[samples])

    direct = attacked_batch_sharpness(
        landscape, optimizer, 32, again, step=1e-3 * float(landscape.weights.norm()), batches=count
    )
    edge = 2 * 1.9 / 0.05
    assert check.estimate == pytest.approx(direct.value / edge, rel=1e-6)
    assert fixed.estimate != pytest.approx(check.estimate, rel=0.02)
    report = found.against(Thresholds(maximum={"batch_sharpness_attacked": -1.0}))
    assert report.status == 1
    plain = check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=2)
    assert not {"batch_sharpness_attacked", "batch_sharpness_train"} & set(plain.checks)


def test_batch_sharpness_is_reported_as_batch_norm_trains():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = toy_data(320)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32)]
    model.eval()
    found = check_assumptions(model, CE, batches, learning_rate=0.05, momentum=0.9, top_k=2)
    check = found.checks["batch_sharpness_train"]
    assert check.result is Result.REPORTED and check.interval[0] < check.estimate < check.interval[1]
    count = int(check.reason.split()[-3])
    landscape = Landscape(model, x, y, batch_norm="train", batch_size=32)
    direct = network_batch_sharpness(landscape, MomentumSGD(0.05, 0.9), 32, batches=count)
    assert check.estimate == pytest.approx(direct.value * 0.05 / 3.8, rel=1e-9)
    assert found.checks["batch_sharpness"].estimate != pytest.approx(check.estimate, rel=0.02)
    assert model[1].track_running_stats and not model.training  # the caller's model is as it was


def test_the_expansion_along_the_optimizers_own_steps_is_that_by_hand():
    model, batches = network()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    options = {"learning_rate": 0.5, "momentum": 0.9, "weight_decay": 0.01, "top_k": 2, "batch_size": 320}
    with torch.no_grad():
        model[0].weight += 0.5
    found = check_assumptions(model, CE, batches, **options)
    # Full batches leave nothing to chance: torch's own optimizer on a copy, and differences of the gradient for dᵀHd.
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    start = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()

    def at(flat):
        nn.utils.vector_to_parameters(flat, twin.parameters())
        loss = CE(twin(x), y).mean()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.parameters()))])
        return float(loss.detach()), gradient

    errors, here = [], {}
    for step in range(17):
        here[step] = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
        optimizer.zero_grad()
        CE(twin(x), y).mean().backward()
        optimizer.step()
    for step in (4, 8, 16):
        d = here[step] - start
        bend = float(d @ (at(start + 1e-5 * d)[1] - at(start - 1e-5 * d)[1])) / 2e-5
        loss, gradient = at(start)
        curved = at(start + d)[0] - loss - float(gradient @ d)
        errors.append((curved - bend / 2) / (abs(bend) / 2))
    assert found.expansion_path.estimate == pytest.approx(abs(np.mean(errors)), rel=1e-5)
    assert abs(np.mean(errors)) > 0.25 and not found.expansion_path.supported
    # Shorter steps stay where the loss is quadratic.
    near = check_assumptions(model, CE, batches, **{**options, "learning_rate": 0.005})
    assert near.expansion_path.estimate < found.expansion_path.estimate


def test_full_batches_are_named_and_one_batch_asks_for_its_size():
    model, batches = network()
    whole = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    with pytest.raises(ValueError, match=r"batch_size=...\)` is needed where batches= holds one batch.*320"):
        check_assumptions(model, CE, whole, learning_rate=0.1)
    with pytest.raises(ValueError, match="is needed"):
        check_assumptions(model, CE, iter(whole), learning_rate=0.1)
    found = check_assumptions(model, CE, whole, learning_rate=0.1, batch_size=320, top_k=2)
    assert found.stability.supported and "full batches have no gradient noise" in found.price.reason
    assert any("batch_size=320 is all the data" in note for note in found.notes)


def test_a_budget_is_kept_by_measuring_less():
    x, y = toy_data(3000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 300), nn.Tanh(), nn.Linear(300, 3)).double()
    found = check_assumptions(model, CE, [(x, y)], learning_rate=0.05, top_k=2, batch_size=64, budget="0.1 s")
    assert found.samples < 3000 and any("for the budget" in note for note in found.notes)
    assert found.outcome in ("pass", "fail", "inconclusive")


class Clock:
    """Time that passes in forward passes alone, `pace` seconds a sample; later ones may take longer."""

    def __init__(self, pace, later):
        self.now, self.seen, self.pace, self.later = 0.0, 0, pace, later

    def passed(self, samples):
        self.seen += samples
        self.now += samples * self.pace * (self.later if self.seen > 3000 else 1.0)

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def __deepcopy__(self, _):
        return self  # a copied network lives by the same clock


class Slow(nn.Module):
    """A network whose forward passes tell a clock."""

    def __init__(self, clock):
        super().__init__()
        self.body, self.clock = smooth_network(), clock

    def forward(self, x):
        self.clock.passed(x.shape[0] if x.ndim > 1 else 1)
        return self.body(x)


@pytest.mark.parametrize("later", [1.0, 4.0])
@pytest.mark.parametrize("budget", [6.0, 20.0, 60.0])
def test_a_budget_is_kept_on_a_machine_that_slows_down(monkeypatch, later, budget):
    """The first products promise too much; the plan goes by what the later ones took."""
    clock = Clock(1e-3, later)
    monkeypatch.setattr("empirical.measure.assumptions.time", clock)
    _, batches = network()
    found = check_assumptions(
        Slow(clock), CE, batches, learning_rate=0.05, momentum=0.9, top_k=6, budget=budget, chunk=16
    )
    assert 0.05 * budget < clock.now <= 1.1 * budget, (clock.now, found)
    assert found.stability.estimate is not None


def test_more_directions_than_the_data_tell_apart_are_not_tracked():
    model, batches = network()
    options = {"learning_rate": 0.05, "momentum": 0.9}
    seen = {k: check_assumptions(model, CE, batches, top_k=k, **options) for k in (8, 10, 30, 100)}
    tracked = {k: len(found.curvatures) for k, found in seen.items()}
    assert tracked[30] == tracked[100] <= 1 + 320 // 25 and tracked[8] == 8 and tracked[10] == 10
    assert any("25 of them for every direction but one" in note for note in seen[30].notes) and not seen[10].notes
    for name in seen[8].checks:
        results = {found.checks[name].result for found in seen.values()}
        assert results != {Result.PASS, Result.FAIL} and (len(results) == 1 or name in ("price", "commutativity_top"))
    for found in seen.values():  # flatter directions cost more: the price says so, direction by direction
        low, high = found.price.interval
        assert (found.price.result is Result.INCONCLUSIVE) == (low <= 0.1 < high)
        assert "(2: " in found.price.reason and ", 5: " in found.price.reason


def test_steps_of_a_run_at_rest_balance_and_of_a_travelling_one_do_not():
    rng = np.random.default_rng(2)
    model, batches = quadratic(rng, rotated=False, size=3)
    at_rest = check_assumptions(
        model, quadratic_loss, batches, learning_rate=1.0, top_k=3, steps=2000, sampling="replacement", batch_size=5
    )
    assert at_rest.stationarity.result is not Result.FAIL, at_rest
    with torch.no_grad():
        model.weight += 30.0
    off = check_assumptions(
        model, quadratic_loss, batches, learning_rate=1.0, top_k=3, steps=400, sampling="replacement", batch_size=5
    )
    assert off.stationarity.result is not Result.PASS and off.optimum.result is Result.FAIL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0}, "learning_rate=...)` must be > 0"),
        ({"learning_rate": -0.1}, "must be > 0"),
        ({"learning_rate": [0.1]}, "must be a finite number"),
        ({"learning_rate": math.nan}, "must be a finite number"),
        ({"learning_rate": None}, "learning_rate=...)` is needed"),
        ({"momentum": 1.0}, "momentum"),
        ({"batch_size": 1000}, "must not exceed the data, 320 samples"),
        ({"batch_size": 0}, "integer >= 1"),
        ({"top_k": 0}, "integer >= 1"),
        ({"sampling": "random"}, "shuffled or replacement"),
        ({"batch_norm": "train"}, "eval or frozen-batch"),
        ({"budget": "soon"}, "seconds > 0"),
        ({"budget": 0}, "seconds > 0"),
        ({"from_optimizer": 3}, "must not be given beside|torch.optim.SGD or AdamW"),
    ],
)
def test_settings_out_of_range_are_one_line(changes, message):
    model, batches = network()
    import re

    pattern = message if "|" in message else re.escape(message)
    with pytest.raises((ValueError, TypeError), match=pattern) as raised:
        check_assumptions(model, CE, batches, **{"learning_rate": 0.1, "momentum": 0.9, **changes})
    assert "\n" not in str(raised.value)


def test_optimizers_outside_the_theory_are_named():
    model, batches = network()
    for optimizer, message in (
        (torch.optim.RMSprop(model.parameters()), "no law for RMSprop"),
        (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "must hold the model's parameters"),
        (torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), "must minimize"),
    ):
        with pytest.raises(ValueError, match=message):
            check_assumptions(model, CE, batches, from_optimizer=optimizer)


def test_every_check_has_a_rule_and_a_cost(good):
    assert set(good.checks) <= set(RULES)
    for name, rule in RULES.items():
        reported = ("shuffling", "underdamped", "relaxation", "batch_sharpness_attacked", "batch_sharpness_train")
        assert rule.cost or name in reported
