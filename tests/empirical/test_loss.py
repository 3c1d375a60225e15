"""The squared loss: its value by hand, its Hessian from the inputs alone, a run that lands on the ridge solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical.data import load_data
from empirical.measure.ensemble import branch, why_not_vectorized
from empirical.measure.objective import training_landscape
from empirical.measure.operators import HessianOperator
from empirical.settings import Measurement, make_training
from empirical.training.checkpoint import load_checkpoint
from empirical.training.evaluate import evaluate
from empirical.training.loss import cross_entropy, per_sample_loss, squared, summed_loss
from empirical.training.run import train
from empirical.training.trainer import Trainer
from theory.judge.evidence import Evidence

torch.set_num_threads(1)

RIDGE = {
    "network": "linear",
    "loss": "squared",
    "train_size": 60,
    "test_size": 40,
    "batch_size": 20,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "masking_probe": 0,
    "epochs": 2,
    "milestones": (1.0,),
    "checkpoint_epochs": (0, 1, 2),
}


def design(setting, data):
    """Standardised pixels with a column of ones, and one-hot labels, in float64, by NumPy alone."""
    x = data.train.images.numpy().astype(np.float64).reshape(len(data.train), -1) / data.train.scale
    x = (x - setting.network.mean[0]) / setting.network.std[0]
    return np.hstack([x, np.ones((len(x), 1))]), np.eye(10)[data.train.labels.numpy()]


def test_losses_by_hand():
    outputs, targets = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    assert squared(outputs, targets).tolist() == [0.5 * (1 + 1 + 0.25), 0.5]
    expected = [np.log(np.exp([1, 2, 0.5]).sum()) - 2, np.log(3)]
    assert cross_entropy(outputs, targets).tolist() == pytest.approx(expected, rel=1e-6)
    for name in ("squared", "cross-entropy"):
        total = summed_loss(name, outputs, targets)
        torch.testing.assert_close(total, per_sample_loss(name)(outputs, targets).sum())


@pytest.fixture(scope="module")
def ridge(tmp_path_factory):
    setting = make_training("smoke", "standard", RIDGE)
    folder = train(setting, seed=0, out=tmp_path_factory.mktemp("ridge"))
    return setting, folder, load_data(setting.data)


def test_the_hessian_of_the_ridge_control_is_the_inputs_second_moment(ridge):
    setting, folder, data = ridge
    x, _ = design(setting, data)
    moment = x.T @ x / len(x)
    for epoch in (0, 2):  # whatever the weights
        checkpoint = load_checkpoint(folder.checkpoints / f"epoch-{epoch:04d}.pt")
        landscape = training_landscape(checkpoint, data, Measurement())
        operator = HessianOperator(landscape)
        rng = np.random.default_rng(epoch)
        weight, bias = rng.standard_normal((10, 64)), rng.standard_normal(10)
        direction = torch.from_numpy(np.concatenate([weight.ravel(), bias]))
        found = operator.matmat(direction[:, None])[:, 0].numpy()
        expected = np.hstack([weight, bias[:, None]]) @ moment
        # the network standardises by float32 constants
        np.testing.assert_allclose(found[:640].reshape(10, 64), expected[:, :64], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[640:], expected[:, 64], rtol=1e-5, atol=1e-5)


def test_gradient_descent_on_the_ridge_control_reaches_the_normal_equations():
    """Full batches at a fixed rate: the weights that (XᵀX/n + δI) W = XᵀY/n has, bias decayed as every parameter is."""
    changes = RIDGE | {"batch_size": 60, "momentum": 0.9, "weight_decay": 0.3, "epochs": 3000, "milestones": ()}
    setting = make_training("smoke", "standard", changes | {"checkpoint_epochs": (), "learning_rate": 0.05})
    data = load_data(setting.data)
    trainer = Trainer(setting, seed=0, data=data)
    for _ in range(1500):
        trainer.step()
    x, y = design(setting, data)
    solution = np.linalg.solve(x.T @ x / len(x) + 0.3 * np.eye(65), x.T @ y / len(x))
    found = np.hstack(
        [trainer.model.linear.weight.detach().numpy(), trainer.model.linear.bias.detach().numpy()[:, None]]
    )
    np.testing.assert_allclose(found, solution.T, atol=2e-5)


def test_evaluation_and_evidence_state_the_loss_that_was_trained(ridge):
    setting, folder, data = ridge
    model = load_checkpoint(folder.checkpoints / "epoch-0002.pt").model
    found = evaluate(model, data.test, setting.evaluation.attack, seed=0, loss="squared")
    with torch.no_grad():
        outputs = model(data.test.pixels(data.test.images)).double().numpy()
    by_hand = 0.5 * ((outputs - np.eye(10)[data.test.labels.numpy()]) ** 2).sum(axis=1).mean()
    assert found.clean_loss == pytest.approx(by_hand, rel=1e-9)
    item = Evidence.read(folder.evidence)
    assert item.measured["final"]["test_clean_loss"] == pytest.approx(by_hand, rel=1e-9)


def test_a_vectorised_replica_of_the_ridge_control_is_the_trainer_itself(ridge):
    _, folder, data = ridge
    checkpoint = load_checkpoint(folder.checkpoints / "epoch-0001.pt")
    assert why_not_vectorized(checkpoint) == ""
    basis = torch.eye(650, dtype=torch.float64)[:, :50]
    rates = np.full(2, 0.01)
    found = branch(checkpoint, data, basis, seeds=[7, 8], learning_rates=rates, record=[2], method="vectorized")
    trainer = Trainer.from_checkpoint(checkpoint, data=data, seed=7)
    trainer.rates = np.full(10, 0.01)
    losses = [trainer.step().loss for _ in range(2)]
    start = torch.cat([value.detach().reshape(-1) for value in checkpoint.model.parameters()])
    moved = torch.cat([value.detach().reshape(-1) for value in trainer.model.parameters()]) - start
    np.testing.assert_allclose(found.weights[0, 0], moved.double()[:50].numpy(), rtol=1e-4, atol=1e-7)
    assert found.losses[0, 0] == pytest.approx(float(losses[-1]), rel=1e-5)
