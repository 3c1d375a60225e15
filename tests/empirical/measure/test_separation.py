"""What explains the spread of replicas, on models in which the answer is known beforehand."""

import argparse
import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian

from empirical.claims import collect
from empirical.commands import measure
from empirical.commands.verify import judge_all
from empirical.data.resident import load_data
from empirical.measure.landscape import Landscape
from empirical.measure.separation import MeanHessian, continued, measure_separation
from empirical.records import Separation, read_records
from empirical.settings.controls import CONTROLS
from empirical.settings.measuring import Measurement
from empirical.settings.presets import make_training
from empirical.settings.separating import SeparationSetting
from empirical.training.checkpoint import load_checkpoint
from empirical.training.run import train
from empirical.training.trainer import Trainer

RIDGE = next(
    one for one in CONTROLS if (one.preset, one.learning_rate, one.order) == ("control-ridge", 0.02, "replacement")
)
SMALL = SeparationSetting(replicas=3, scouts=3, before=4, after=2, records=2, epochs=1)
FEW = Measurement(eigenpairs=3, resamples=99)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    measure.add_options(parser)
    return parser.parse_args([str(word) for word in arguments])


@pytest.fixture(scope="module")
def unsettled(tmp_path_factory):
    """Ridge regression that has seen its data once, and is then to be judged as if it had settled."""
    out = tmp_path_factory.mktemp("ridge")
    setting = RIDGE.training(epochs=4, checkpoint_epochs=(1, 4), masking_probe=0)
    train(setting, seed=0, out=out)
    return out


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A network without batch norm under attack, two epochs old."""
    out = tmp_path_factory.mktemp("attacked")
    changes = {"epochs": 4, "masking_probe": 0, "train_size": 64, "test_size": 32, "normalization": "none"}
    train(make_training("smoke", "at", changes), seed=0, out=out)
    return load_checkpoint(next(out.glob("runs/*/checkpoints/epoch-0002.pt")))


def test_an_unsettled_quadratic_is_explained_by_its_drift_and_not_by_its_eigenvectors(unsettled):
    """Curvature is the same everywhere, noise falls as the residuals do: the truth is drift alone."""
    words = [unsettled, "--separations", "200", "--replicas", "0", "--checkpoints", "0", "--no-expansions"]
    words += ["--window", "0", "--ensemble-steps", "40", "--ensemble-after", "20", "--k", "6", "--smallest", "0"]
    assert measure.run(parsed(*words, "--dtype", "float64", "--jobs", "1", "--quiet")) == 0
    (item,) = read_records(unsettled, (Separation,))
    assert isinstance(item, Separation) and item.epoch == 1 and item.separation.replicas == 200
    np.testing.assert_allclose(item.moved.curvatures, np.broadcast_to(item.frozen.curvatures, (7, 33, 6)), rtol=1e-9)
    assert (item.moved.slope_variances[2] < 0.8 * item.frozen.slope_variances).all()
    # It moves by several times its spread; after further training it stays.
    assert (item.checkpoint.drift > 5 * item.checkpoint.spread).all()
    assert item.later.drift[-1] < 2 * item.later.spread[-1]
    assert item.later.distance > item.checkpoint.spread.max() > item.checkpoint.distance == 0
    # In a quadratic a slope is the curvature times the distance from the optimum.
    rises = item.moved.slopes - item.moved.slopes[:, -1:]
    distances = item.moved.positions - item.moved.positions[:, -1:]
    np.testing.assert_allclose(rises, item.frozen.curvatures * distances, atol=1e-5)  # Lanczos' residual, 1e-4 of λ₁
    np.testing.assert_allclose(item.moved.fixed_slopes, item.moved.slopes, rtol=1e-9, atol=1e-12)
    found = {verdict.claim: verdict for verdict in judge_all(collect(("separations",)), (item,))}
    outcomes = {name.removeprefix("spread-explained-by-"): found[name].outcome.value for name in found}
    assert outcomes == {
        "drift": "supported",
        "averaging": "supported",
        "held-out-data": "refuted",
        "held-out-position": "refuted",
        "places": "supported",
        "mean-place": "supported",
        "local-modes": "supported",
        "stiffness": "supported",
        "floor": "supported",
        "spread-predicted": "supported",
    }
    assert {kind.kind for kind in found["spread-predicted"].results} == {"stack", "table"}
    assert measure.run(parsed(*words, "--dtype", "float64", "--jobs", "1", "--quiet")) == 0  # nothing is done twice
    assert len(list(unsettled.glob("evidence/separation/*.json"))) == 1


def test_further_training_is_the_runs_own_and_its_mean_forgets_as_stated(attacked):
    data = load_data(attacked.setting.data)
    before = copy.deepcopy(attacked.model.state_dict())
    end, mean = continued(attacked, data, 1)
    trainer = Trainer.from_checkpoint(attacked, data=data)
    steps = attacked.setting.iterations_per_epoch
    assert trainer.rates[trainer.iteration] < attacked.learning_rate  # the run itself would drop here
    trainer.rates = np.full(attacked.iteration + steps, attacked.learning_rate)
    seen = []
    for _ in range(steps):
        trainer.step()
        seen.append((copy.deepcopy(trainer.model.state_dict()), {k: v.clone() for k, v in trainer.momentum().items()}))
    shares = np.exp(-3.0 * np.arange(steps)[::-1] / steps)
    shares /= shares.sum()
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, end.model.state_dict()[name])
        assert torch.equal(trainer.momentum()[name], end.momentum[name])
        weights = sum(share * state[name].double() for share, (state, _) in zip(shares, seen, strict=True))
        buffers = sum(share * state[name].double() for share, (_, state) in zip(shares, seen, strict=True))
        torch.testing.assert_close(mean.model.state_dict()[name].double(), weights, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(mean.momentum[name].double(), buffers, rtol=1e-5, atol=1e-7)
    assert end.iteration == mean.iteration == attacked.iteration + steps
    assert all(torch.equal(value, before[name]) for name, value in attacked.model.state_dict().items())


def test_the_mean_hessian_is_that_of_dense_ones():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 3, (20,))
    landscape = Landscape(model, x, y)
    places = [landscape.at(landscape.weights + 0.3 * torch.randn_like(landscape.weights)) for _ in range(3)]
    places[1].inputs = x + 0.1  # each at its own inputs

    def dense(place):
        def loss(weights):
            outputs = functional_call(model, place.unflatten(weights), (place.inputs,))
            return torch.nn.functional.cross_entropy(outputs, y)

        return hessian(loss)(place.weights)

    vectors = torch.randn(landscape.dimension, 4, dtype=torch.float64)
    expected = sum(dense(place) for place in places) @ vectors / 3
    torch.testing.assert_close(MeanHessian(places).matmat(vectors), expected, rtol=1e-9, atol=1e-10)


def test_scouts_and_replicas_of_an_attacked_network_are_recorded_along_every_basis(attacked):
    data = load_data(attacked.setting.data)
    item = measure_separation(attacked, data, FEW, SMALL)
    again = measure_separation(attacked, data, FEW, SMALL)
    assert item.steps.tolist() == [2, 4, 5, 6] and item.moved.steps.tolist() == [1, 2, 4, 5, 6]
    for name in ("checkpoint", "later", "average"):
        centre, twin = getattr(item, name), getattr(again, name)
        assert np.array_equal(centre.own.positions, twin.own.positions)
        assert centre.own.positions.shape == (4, 3, 3)
        assert (centre.drift > 0).all() and (centre.spread > 0).all()
    for moved in (item.moved, item.local_moved):
        assert moved.curvatures.shape == (5, 4, 3)
        assert not np.allclose(moved.slopes, moved.fixed_slopes, rtol=1e-3)
    read = Separation.from_evidence(item.to_evidence())
    assert read.run_id == item.run_id
    # The scouts' mean curvature at the drop is what the local eigenvectors diagonalise: its largest come first.
    local = item.local_moved.curvatures[2, :-1].mean(axis=0)
    own = item.moved.curvatures[2, :-1].mean(axis=0)
    assert local.sum() >= own.sum() * (1 - 1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 32}, "must be all 64"),
        ({"restarts": 2}, "an attack with restarts"),
    ],
)
def test_what_cannot_be_separated_is_refused_in_one_line(attacked, changes, message):
    checkpoint, measurement = attacked, dataclasses.replace(FEW, samples=changes.get("samples"))
    if "restarts" in changes:
        method = attacked.setting.method
        method = dataclasses.replace(method, attack=dataclasses.replace(method.attack, **changes))
        checkpoint = dataclasses.replace(attacked, setting=dataclasses.replace(attacked.setting, method=method))
    with pytest.raises(ValueError, match=message) as error:
        measure_separation(checkpoint, load_data(attacked.setting.data), measurement, SMALL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"replicas": 1}, "replicas"), ({"scouts": 0}, "scouts"), ({"factor": 0.0}, "factor"), ({"epochs": 0}, "epochs")],
)
def test_a_setting_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SeparationSetting(**changes)
