"""The map of regimes: claims on runs with a known truth, and the command that makes the runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from empirical.__main__ import main
from empirical.claims import collect, edge
from empirical.commands import map as command
from empirical.commands.verify import judge_all
from empirical.records import RegimeRun, read_records
from empirical.settings import design
from empirical.settings.data import DataSetting
from tests.empirical.record_making import regime_run
from theory.judge.verdict import Outcome

torch.set_num_threads(1)
#: (share of the edge, robust loss) of regimes at the edge with loss left, and of others.
NAMED = [(0.6, 0.6), (0.7, 1.2), (0.8, 0.5), (0.9, 0.9), (1.0, 0.7), (1.1, 1.0), (0.75, 1.1), (0.65, 0.8)]
OTHERS = [(0.1, 1.0), (0.9, 0.05), (0.7, 0.02), (0.1, 0.1), (0.15, 0.2), (1.0, 0.01)]


def world(rise=0.6, seeds=(10, 11), **changes):
    """Runs whose curvature rises with the share of the edge times the loss that is left; γ rises faster than λ."""
    records, rng = [], np.random.default_rng(5)
    for place, (share, loss) in enumerate(NAMED + OTHERS):
        height = rise * min(share, 1.0) * min(loss, 1.0)
        others = dict(zip(("saturation", "scale", "valley"), rng.normal(size=3) * 0.3, strict=True))
        for seed in seeds:
            given = {"share": share, "loss": loss, "rise": height, "rest": 0.5, **others}
            records.append(regime_run(f"regime {place}", seed, **(given | changes)))
    return records


def judged(records):
    return {verdict.claim: verdict for verdict in judge_all(collect(("edge",)), records)}


def outcomes(records):
    return {name: verdict.outcome for name, verdict in judged(records).items()}


@pytest.fixture(scope="module")
def truth():
    return judged(world())


def test_every_prediction_is_supported_where_it_is_true_and_each_rival_refuted(truth):
    assert {entry.claim.name for entry in edge.CLAIMS} == set(truth)
    for name, verdict in truth.items():
        if name not in ("bound-orders-test-loss",):
            assert verdict.outcome is Outcome.SUPPORTED, (name, verdict.note, verdict.interval)
            assert {decoy.outcome for decoy in verdict.decoys} == {Outcome.REFUTED}, name


def test_the_map_says_what_it_would_have_found_and_shows_every_regime(truth):
    verdict = truth["edge-rise-early"]
    assert "three seeds find × 1.0" in verdict.note and "of 14 regimes, all of them together" in verdict.note
    assert "(largest: regime 5: × 1." in verdict.note
    chart, table = verdict.results
    assert {curve.subject for curve in chart.curves} == {"robust loss ≥ 0.3", "robust loss < 0.3"}
    assert sum(len(curve.x) for curve in chart.curves) == len(table.rows) == 14


def test_no_rise_anywhere_refutes_the_rise_and_leaves_the_calm_standing():
    found = outcomes(world(rise=0.0))
    for when in ("early", "late"):
        assert found[f"edge-rise-{when}"] is Outcome.REFUTED
        assert found[f"edge-room-{when}"] is not Outcome.SUPPORTED  # its decoy cannot be told from it


def test_a_rise_everywhere_refutes_that_it_is_at_the_edge_alone():
    records = [
        regime_run(f"regime {place}", seed, share=share, loss=loss, rise=0.5)
        for place, (share, loss) in enumerate(NAMED + OTHERS)
        for seed in (10, 11)
    ]
    found = outcomes(records)
    assert found["edge-rise-early"] is found["edge-still-early"] is Outcome.REFUTED


def test_a_rise_beyond_the_room_refutes_the_bound():
    # A factor of 0.5 makes room for ln 2 = 0.69 alone.
    found = outcomes(world(rise=1.5, changes={"factor": 0.5}))
    assert found["edge-room-early"] is Outcome.REFUTED


@pytest.mark.parametrize("rival", ["saturation", "scale", "valley"])
def test_a_world_that_follows_a_rival_is_not_the_edges(rival):
    rng = np.random.default_rng(3)
    records = []
    for place, (share, loss) in enumerate(NAMED + OTHERS):
        height = float(rng.normal() * 0.3)
        for seed in (10, 11):
            given = {"share": share, "loss": loss, "rise": height, rival: height}
            records.append(regime_run(f"regime {place}", seed, **given))
    found = judged(records)
    for held in ("regimes", "seeds"):
        verdict = found[f"edge-account-{held}-late"]
        assert verdict.outcome is Outcome.REFUTED and f"best rival: {rival}" in verdict.note
        assert {decoy.name for decoy in verdict.decoys if decoy.estimate > 0} == {rival}


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"exponent": 0.5, "rest": -0.5}, "noise-exponent-directions"),
        ({"exponent": 2.6}, "noise-exponent-directions"),
        ({"exponent": 0.5, "rest": -0.5}, "noise-exponent-time"),
        ({"square": 2.0}, "noise-square"),
        ({"square": 0.5}, "noise-square"),
        ({"rest": -0.5}, "shrink-rest-late"),
        ({"share": 0.1}, "edge-band"),
        ({"share": 3.0}, "edge-band"),
    ],
)
def test_another_truth_refutes_its_claim(changes, claim):
    assert outcomes(world(**changes))[claim] is Outcome.REFUTED


def test_too_few_regimes_or_seeds_are_not_applicable():
    records = world()
    few = outcomes([item for item in records if item.regime in ("regime 0", "regime 9", "regime 10")])
    assert set(few.values()) == {Outcome.NOT_APPLICABLE}
    one = outcomes([item for item in records if item.seed == 10])
    assert (
        one["edge-rise-early"] is one["shrink-rest-early"] is one["edge-account-seeds-late"] is Outcome.NOT_APPLICABLE
    )
    below = outcomes([item for item in records if item.regime not in {f"regime {place}" for place in range(6)}])
    assert below["edge-rise-late"] is Outcome.NOT_APPLICABLE  # two at the edge are no group


def test_a_run_that_collapsed_or_ended_early_is_left_out_by_name():
    records = world()
    flat = dataclasses.replace(records[0], train_accuracy=np.full(len(records[0].iterations), 0.12))
    arrays = {
        field.name: value[:3]
        for field in dataclasses.fields(RegimeRun)
        if isinstance(value := getattr(records[3], field.name), np.ndarray)
    }
    cut = dataclasses.replace(records[3], **arrays)
    found = judged([flat, *records[1:3], cut, *records[4:]])
    note = found["edge-rise-early"].note
    assert f"left out by the rule for collapse: 2 (regime 0 seed 10, {cut.regime} seed {cut.seed})" in note
    verdict = judged([dataclasses.replace(item, train_accuracy=flat.train_accuracy) for item in records])["edge-band"]
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "28" in verdict.note


def test_the_order_of_the_test_loss_goes_to_the_score_that_has_it():
    """Curvature falls where the test loss grows; the distance to the start, which the bound alone sees, grows."""
    records = []
    for place in range(12):
        for seed in (10, 11):
            item = regime_run(f"regime {place}", seed, rise=-0.05 * place, test_loss=1 + 0.1 * place)
            far = np.full_like(item.curvatures, 0.5 * place)
            records.append(dataclasses.replace(item, displacements=far))
    found = judged(records)["bound-orders-test-loss"]
    assert found.outcome is Outcome.SUPPORTED
    swapped = [dataclasses.replace(item, test_loss=5 - item.test_loss) for item in records]
    assert judged(swapped)["bound-orders-test-loss"].outcome is Outcome.REFUTED
    (table,) = found.results
    assert table.title.startswith("AWP")


# --- the command ------------------------------------------------------------------------------------------------------

SMALL = {
    "train_size": 64,
    "test_size": 40,
    "validation_size": 0,
    "widths": (4, 8),
    "epochs": 30,
    "milestones": (20.0,),
    "steps": 1,
    "evaluation_steps": 1,
}
TINY = (
    design.Regime(name="tiny", preset="digits-cpu", changes=SMALL),
    design.Regime(name="tiny, clean", preset="digits-cpu", method="standard", changes=SMALL),
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(command, "REGIMES", TINY)
    measurement = dataclasses.replace(design.MEASUREMENT, samples=32, evaluated=40, eigenpairs=3)
    monkeypatch.setattr(command, "MEASUREMENT", measurement)


def test_the_map_is_made_run_by_run_and_resumed(tiny, tmp_path, capsys):
    words = ["map", "--out", str(tmp_path), "--seeds", "1"]
    assert main([*words, "--runs", "1"]) == 0
    assert "2 regimes, 1 runs, 0 of them recorded; the others take about" in capsys.readouterr().err
    (first,) = (tmp_path / "evidence" / "regime").glob("*.json")
    content = first.read_bytes()
    assert main(words) == 0
    assert "1 of them recorded" in capsys.readouterr().err and first.read_bytes() == content
    records = read_records(tmp_path)
    assert sorted(item.regime for item in records) == ["tiny", "tiny, clean"]
    for item in records:
        assert item.curvatures.shape == (14, 3) and item.iterations[-1] == item.training.num_iterations
        assert (item.residuals <= 0.03 * item.curvatures[:, :1] + 1e-6).all() and (item.sharpness > 0).all()
        at = item.iterations == item.training.decays[0][0]
        assert np.isfinite(item.average_curvatures[at]).all() and np.isnan(item.average_curvatures[~at]).all()
        windows = edge.Run(item).windows
        assert all(np.isfinite(item.squared_curvatures[window[-1]]).all() for window in (windows.before, windows.late))
    known = json.loads(content)["provenance"]["claims"]
    assert known == {entry.claim.name: entry.claim.digest for entry in edge.CLAIMS}
    assert main(["verify", str(tmp_path)]) in (0, 3)


def test_what_is_measured_is_what_the_slower_pipeline_measures(tiny):
    from empirical.data.resident import load_data
    from empirical.measure.checkpoint import measure_checkpoint
    from empirical.measure.regime import _checkpoint, measure_regime
    from empirical.training.trainer import Trainer

    training = TINY[0].training()
    measurement = command.MEASUREMENT
    data = load_data(training.data)
    found = measure_regime(training, measurement, data, regime="tiny", seed=3)
    (at,) = np.flatnonzero(found.iterations == training.decays[0][0])
    trainer = Trainer(training, seed=3, data=data)
    while trainer.iteration < found.iterations[at]:
        trainer.step()
    exact = dataclasses.replace(measurement, tolerance=1e-5, dtype="float64")
    slow = measure_checkpoint(_checkpoint(trainer, data), data, exact).record
    assert found.curvatures[at] == pytest.approx(slow.curvatures, rel=0.02)
    assert found.noise[at] == pytest.approx(slow.gamma.values, rel=0.15)
    assert found.squared_curvatures[at] == pytest.approx((slow.curvature_samples**2).mean(axis=0), rel=0.15)
    assert found.trace[at] == pytest.approx(slow.alignment.trace_hessian, rel=0.5)
    assert found.train_loss[at] == pytest.approx(slow.losses.mean(), rel=0.05)
    assert found.sharpness[at] == pytest.approx(slow.sharpness.value, rel=0.3)


def test_a_run_that_diverges_ends_where_it_did(tiny):
    from empirical.data.resident import load_data
    from empirical.measure.regime import measure_regime

    changes = {**SMALL, "learning_rate": 1e6, "normalization": "none"}
    training = dataclasses.replace(TINY[0], changes=changes).training()
    said = []
    item = measure_regime(
        training, command.MEASUREMENT, load_data(training.data), regime="wild", seed=0, note=said.append
    )
    assert len(item.iterations) == 0 and "wild seed 0 ends at epoch 6" in said[0]
    assert edge.Run(item).collapsed
    assert RegimeRun.from_evidence(item.to_evidence()).curvatures.shape == (0, 3)


def test_a_design_beyond_its_budget_says_its_cost_and_what_fits(capsys):
    assert main(["map", "--budget", "700"]) == 2
    err = capsys.readouterr().err
    assert "must cover the design, about 1987 s" in err and "`--runs 28` fits (26 regimes)" in err
    assert len(err.strip().splitlines()) == 2
    assert main(["map", "--budget", "1"]) == 2 and "not even its first run fits" in capsys.readouterr().err
    assert main(["map", "--dry-run", "--seeds", "1", "--regime", "no such"]) == 2
    assert main(["map", "--dry-run", "--runs", "0"]) == 2


def test_without_the_images_the_map_says_so_in_a_line(tmp_path, monkeypatch, capsys):
    from empirical.data import idx

    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "none")
    words = ["map", "--out", str(tmp_path / "out"), "--data-root", str(tmp_path), "--no-download", "--seeds", "1"]
    assert main([*words, "--regime", "fashion, base"]) == 2
    assert "fashion-mnist" in capsys.readouterr().err.lower()


def test_the_design_has_both_sets_every_factor_and_a_placebo_in_every_run():
    trainings = [regime.training() for regime in design.REGIMES]
    assert len({regime.name for regime in design.REGIMES}) == len(set(trainings)) == len(trainings) >= 24
    for of in (
        lambda run: run.data.name,
        lambda run: run.optimizer.learning_rate,
        lambda run: run.batch_size,
        lambda run: run.data.train_size,
        lambda run: run.network.widths,
        lambda run: run.network.normalization,
        lambda run: run.optimizer.weight_decay,
        lambda run: run.schedule.factor,
        lambda run: run.schedule.milestones,
        lambda run: run.method.awp and run.method.awp.gamma,
        lambda run: run.method.attack and run.method.attack.epsilon,
    ):
        assert len({of(run) for run in trainings}) > 1
    for run in trainings:
        assert isinstance(run.data, DataSetting) and len(run.placebo_decays) == len(run.decays) == 1
        at = np.array(run.checkpoint_epochs) * run.iterations_per_epoch
        edge.windows_at(at, (0, run.decays[0][0], run.num_iterations), run.iterations_per_epoch, "run")
