"""The split of a change of curvature against dense Jacobians and Hessians, and from the command to the figure."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from empirical.__main__ import main
from empirical.claims import attributions as claims
from empirical.measure.curvature_change import (
    curvature_change,
    curvature_state,
    logarithmic_mean,
    scale_invariant,
    shapley,
)
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.operators import HessianOperator
from empirical.records import CurvatureAttribution, read_records
from empirical.records.curvature_change import FACTORS
from empirical.settings.presets import make_training
from empirical.training.loss import squared
from empirical.training.run import train
from tests.empirical.measure.conftest import dense, smooth_network, toy_data, trained
from tests.empirical.record_making import curvature_attribution
from theory.judge.results import Stack
from theory.judge.verdict import Outcome, read_verdicts


class Normed(nn.Module):
    """A layer whose weights a normalization divides out, and a linear one."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(8, 6, bias=False)
            self.norm = nn.GroupNorm(2, 6, eps=1e-12)
            self.last = nn.Linear(6, 3)
        self.double()

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


def landscape(network: nn.Module, *, count: int = 60, seed: int = 0, shift: float = 0.0, **how) -> Landscape:
    x, y = toy_data(count, seed=seed)
    return Landscape(network, x + shift, y, chunk=32, **how)


def jacobian(at: Landscape) -> np.ndarray:
    """J_n of every sample, ``(N, C, P)``."""

    def outputs(flat):
        return functional_call(at.model, at.unflatten(flat), (at.inputs,))

    return jacrev(outputs)(at.weights).numpy()


def softmax_curvature(at: Landscape) -> np.ndarray:
    with torch.no_grad():
        p = torch.softmax(at.model(at.inputs), dim=1).numpy()
    return np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - np.einsum("nc,nd->ncd", p, p)


def directions(at: Landscape, k: int = 3) -> torch.Tensor:
    return top_eigenpairs(HessianOperator(at), k, tolerance=1e-9, max_products=2000).require().basis


def state(at: Landscape, k: int = 3, invariant=()):
    return curvature_state(at, directions(at, k), invariant)


# --- the factors -------------------------------------------------------------------------------------------------


def test_the_factors_are_those_of_dense_matrices():
    x, y = toy_data(60)
    at = Landscape(trained(smooth_network(), x, y, steps=20), x, y, chunk=32)
    h, _ = dense(at)
    u = directions(at).double().numpy()
    found = state(at)
    np.testing.assert_allclose(found.outputs, softmax_curvature(at), atol=1e-12)
    moved = np.einsum("ncp,pk->nkc", jacobian(at), u)
    np.testing.assert_allclose(found.tangents[:, :, 0], moved, atol=1e-11)
    g = np.einsum("nkc,ncd,nkd->k", moved, softmax_curvature(at), moved) / 60
    whole = np.einsum("pk,pq,qk->k", u, h.numpy(), u)
    np.testing.assert_allclose(found.gauss_newton, g, rtol=1e-10)
    np.testing.assert_allclose(found.curvature, whole, rtol=1e-10)
    np.testing.assert_allclose(found.residual[:, 0, 0], whole - g, atol=1e-10)
    assert np.abs(whole - g).max() > 0.01  # there is a residual part to tell


def test_scale_invariant_tensors_are_found_and_no_others():
    assert scale_invariant(landscape(Normed())) == ("first.weight",)
    assert scale_invariant(landscape(smooth_network())) == ()


def test_with_norms_the_curvature_is_still_that_of_the_hessian():
    at = landscape(Normed())
    h, _ = dense(at)
    u = directions(at).double().numpy()
    found = state(at, invariant=("first.weight",))
    assert found.groups == ("first.weight", "rest")
    np.testing.assert_allclose(found.curvature, np.einsum("pk,pq,qk->k", u, h.numpy(), u), rtol=1e-9)
    np.testing.assert_allclose(found.gauss_newton, state(at).gauss_newton, rtol=1e-9)


# --- the split ---------------------------------------------------------------------------------------------------


def moved(network: nn.Module, seed: int = 5, size: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value += size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return network


def by_hand(before: Landscape, after: Landscape, pairs: np.ndarray) -> np.ndarray:
    """The parts from dense matrices: every order of swapping the factors, averaged; parts of Δ(uᵀHu), ``(k, 4)``."""
    names = [name for name in before.names if name == "first.weight"]
    sides = []
    for at, order in ((before, np.arange(len(pairs))), (after, pairs)):
        u = directions(at).double().numpy()[:, order]
        norm = np.ones(at.dimension)
        norm[at.block(names).numpy()] = float(at.unflatten(at.weights)["first.weight"].norm())
        s, j, h = softmax_curvature(at), jacobian(at), dense(at)[0].numpy()
        r = h - np.einsum("ncp,ncd,ndq->pq", j, s, j, optimize=True) / len(j)
        sides.append((s, j * norm, r * norm[:, None] * norm, 1 / norm, u))

    def value(state):
        (s, j, r, n) = state
        total = []
        for k in range(len(pairs)):
            ends = [sides[j][4][:, k], sides[r][4][:, k]]
            a = sides[j][1] @ (sides[n][3] * ends[0])
            total.append(
                np.einsum("nc,ncd,nd->", a, sides[s][0], a) / len(a)
                + (sides[n][3] * ends[1]) @ sides[r][2] @ (sides[n][3] * ends[1])
            )
        return np.array(total)

    parts = np.zeros((4, len(pairs)))
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        at = [0, 0, 0, 0]
        for factor in order:
            old = value(tuple(at))
            at[factor] = 1
            parts[factor] += (value(tuple(at)) - old) / len(orders)
    return parts.T


def test_the_parts_are_those_of_every_order_of_swapping_and_leave_no_remainder():
    before, after = landscape(Normed()), landscape(moved(Normed()), shift=0.1)
    invariant = ("first.weight",)
    found = curvature_change(state(before, invariant=invariant), state(after, invariant=invariant))
    change = np.log(found.curvatures[1] / found.curvatures[0])
    np.testing.assert_allclose(found.parts.sum(axis=1), change, rtol=1e-9)
    scale = (found.curvatures[1] - found.curvatures[0]) / change
    np.testing.assert_allclose(found.parts * scale[:, None], by_hand(before, after, found.pairs), atol=1e-8)
    assert (np.abs(found.parts).max(axis=0) > 1e-3).all()  # every factor moved


def test_rescaled_weights_move_the_norms_part_alone():
    network, larger = Normed(), Normed()
    with torch.no_grad():
        larger.first.weight *= 1.7
    before, after = landscape(network), landscape(larger)
    block = before.block(["first.weight"])
    u = torch.zeros(before.dimension, 2, dtype=torch.float64)
    h, _ = dense(before)
    values, vectors = torch.linalg.eigh(h[block][:, block])
    u[block] = vectors[:, -2:]
    assert (values[-2:] > 0).all()
    found = curvature_change(*(curvature_state(at, u, ("first.weight",)) for at in (before, after)))
    np.testing.assert_allclose(found.parts[:, FACTORS.index("norms")], -2 * math.log(1.7), rtol=1e-6)
    np.testing.assert_allclose(np.delete(found.parts, FACTORS.index("norms"), axis=1), 0, atol=1e-6)


def test_a_model_linear_in_its_weights_moves_by_its_outputs_alone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Linear(8, 3).double()
    before = landscape(network)
    u = directions(before)
    after = landscape(moved(network))
    found = curvature_change(curvature_state(before, u), curvature_state(after, u))
    np.testing.assert_allclose(found.parts[:, 1:], 0, atol=1e-10)
    assert (np.abs(found.parts[:, 0]) > 0.01).all()


def test_a_quadratic_loss_of_the_outputs_never_saturates():
    before = landscape(smooth_network(), per_sample_loss=squared)
    after = landscape(moved(smooth_network()), per_sample_loss=squared)
    found = curvature_change(state(before), state(after))
    np.testing.assert_allclose(found.parts[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(found.parts.sum(axis=1), np.log(found.curvatures[1] / found.curvatures[0]), rtol=1e-9)


def test_directions_are_paired_by_overlap():
    at = landscape(smooth_network())
    u = directions(at)
    found = curvature_change(curvature_state(at, u), curvature_state(at, u[:, [2, 0, 1]]))
    assert found.pairs.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.parts, 0, atol=1e-12)
    np.testing.assert_allclose(found.overlaps, 1, rtol=1e-9)


def test_shapley_parts_and_the_logarithmic_mean():
    found = shapley(lambda state: np.array([2.0 * state[0] + 3.0 * state[1] * state[2]]), 3)
    np.testing.assert_allclose(found[:, 0], [2.0, 1.5, 1.5])
    np.testing.assert_allclose(
        logarithmic_mean(np.array([1.0, 2.0, 1.0]), np.array([math.e, 2.0, 1 + 1e-9])), [math.e - 1, 2.0, 1.0]
    )


def test_what_cannot_be_split_is_refused():
    at = landscape(smooth_network())
    other = landscape(smooth_network(), seed=1)
    with pytest.raises(ValueError, match="same samples"):
        curvature_change(state(at), state(other))
    with pytest.raises(ValueError, match="one architecture"):
        curvature_change(state(at), state(at, k=2))
    with pytest.raises(ValueError, match="must name weights of the landscape; got \\['nothing'\\]"):
        curvature_state(at, directions(at), ("nothing",))
    h, _ = dense(at)
    downhill = torch.linalg.eigh(h)[1][:, :1]
    with pytest.raises(ValueError, match="positive curvatures; direction 1"):
        curvature_change(curvature_state(at, downhill), curvature_state(at, downhill))
    with_norm = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    batches = landscape(with_norm, batch_norm="train", batch_size=16)
    with pytest.raises(ValueError, match="needs samples as units"):
        curvature_state(batches, torch.eye(batches.dimension, 1, dtype=torch.float64))


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    changes = {"epochs": 6, "masking_probe": 0, "train_size": 64, "test_size": 32, "normalization": "group"}
    for seed in range(3):
        train(make_training("smoke", "at", changes), seed=seed, out=folder)
    return folder


def files(out, seed: int = 0) -> list[str]:
    return sorted(map(str, out.glob(f"runs/at-seed{seed}-*/checkpoints/epoch-*.pt")))


def test_the_command_splits_prints_writes_and_resumes(out, capsys):
    first, last = files(out)[0], files(out)[-1]
    assert main(["attribute-curvature", first, last, "--k", "3"]) == 0
    said = capsys.readouterr().out
    assert "Δ ln λ" in said and "scale-invariant tensors" in said and "epoch 0" in said
    (record,) = (item for item in read_records(out) if isinstance(item, CurvatureAttribution))
    assert record.parts.shape == (3, 4) and record.epochs[0] == 0 and record.groups
    np.testing.assert_allclose(record.remainder, 0, atol=1e-6)
    np.testing.assert_allclose(record.curvatures, record.eigenvalues, rtol=1e-6)
    assert record.change[0] == pytest.approx(record.parts[0].sum(), abs=1e-6)
    (written,) = (out / "evidence/curvature-attribution").glob("*.json")
    made = written.read_bytes()
    assert main(["attribute-curvature", first, last, "--k", "3"]) == 0
    assert capsys.readouterr().out == said and written.read_bytes() == made


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (lambda out: [files(out)[0], files(out)[0]], "must be another checkpoint"),
        (lambda out: [files(out)[0], files(out, 1)[1]], "of another run"),
        (lambda out: [files(out)[0], files(out)[1], "--k", "100000"], "must be at most"),
        (lambda out: [files(out)[0], str(out / "nothing.pt")], "nothing.pt"),
        (lambda out: [files(out)[0], files(out)[1], "--samples", "1000"], "must be at most 64"),
    ],
)
def test_wrong_usage_is_one_line(out, tmp_path, capsys, arguments, complaint):
    assert main(["attribute-curvature", *arguments(out), "--out", str(tmp_path / "X")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and complaint in said


# --- the claims --------------------------------------------------------------------------------------------------


def judged(entry, *items):
    return {str(subject.about): entry.judge(subject) for subject in entry.subjects(items)}


FLATTEN, SHARPEN = claims.CLAIMS


@pytest.mark.parametrize(("outputs", "outcome"), [(-0.25, Outcome.SUPPORTED), (-0.02, Outcome.REFUTED)])
def test_flattening_outputs_are_told_from_still_ones(outputs, outcome):
    items = [curvature_attribution(seed, (outputs - 0.01 * seed, -0.03, 0.0, 0.01)) for seed in range(3)]
    (verdict,) = judged(FLATTEN, *items).values()
    assert verdict.outcome is outcome and "outputs' curvature" in verdict.note
    assert [decoy.outcome for decoy in verdict.decoys] == [Outcome.REFUTED]
    (stack,) = verdict.results
    assert isinstance(stack, Stack) and len(stack.estimates) == 12


def test_windows_are_kept_apart_and_the_last_of_each_counts():
    items = [curvature_attribution(seed, (-0.2, 0.0, 0.0, 0.0), after=490) for seed in range(3)]
    items += [curvature_attribution(seed, (-0.3, 0.0, 0.0, 0.0), after=530) for seed in range(3)]
    items += [curvature_attribution(seed, (-0.4, 0.5 + 0.01 * seed, 0.0, 0.1), after=840) for seed in range(3)]
    (early,) = judged(FLATTEN, *items).values()
    assert early.estimate == pytest.approx(0.3)
    (late,) = judged(SHARPEN, *items).values()
    assert late.estimate == pytest.approx(0.51) and late.outcome is Outcome.SUPPORTED
    elsewhere = dataclasses.replace(items[0], before=400)
    assert judged(FLATTEN, elsewhere) == {}


def test_a_method_needs_three_seeds():
    (verdict,) = judged(FLATTEN, curvature_attribution(0, (-0.2, 0.0, 0.0, 0.0))).values()
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "needs 3 seeds; here are 1" in verdict.note
    assert verdict.results


def test_the_evidence_of_the_command_is_judged_and_drawn(out, capsys):
    for seed in range(3):
        decay, *later = (item for item in files(out, seed) if _epoch(item) >= _decay(out))
        assert main(["attribute-curvature", decay, *later, "--k", "2"]) == 0
    assert main(["verify", str(out)]) == 0
    names = {entry.claim.name for entry in claims.CLAIMS}
    found = [item for item in read_verdicts(out / "verdicts.json") if item.claim in names]
    assert found and any(isinstance(result, Stack) for item in found for result in item.results)


def _epoch(path: str) -> int:
    return int(path.rpartition("epoch-")[2].removesuffix(".pt"))


def _decay(out) -> int:
    run = make_training(
        "smoke", "at", {"epochs": 6, "masking_probe": 0, "train_size": 64, "test_size": 32, "normalization": "group"}
    )
    return run.decays[0][0] // run.iterations_per_epoch
