"""Each claim about logs is supported where it was built in, refuted where it was not, and catches its decoys."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from empirical.__main__ import main
from empirical.claims import EmpiricalClaim, Register, Subject, collect, each_record
from empirical.claims import logs as claims
from empirical.commands.verify import judge_all
from empirical.logs import effects
from empirical.logs.prediction import predicted_variance
from empirical.records import BoundOverTraining, LoggedRun, Record, TrainingRun
from tests.empirical.log_writing import training_run
from tests.empirical.record_making import bound, logged_run, training
from tests.empirical.record_making import training_run as own_training_run
from theory.judge.results import Role, Table, TimeCourse
from theory.judge.verdict import About, Outcome, read_verdicts

ROOT = Path(__file__).resolve().parents[2]


def log(
    label="run", *, method="at", order="cifar10, seed 0", dataset="cifar10", train_columns="running", drop=(), **shape
) -> LoggedRun:
    columns = {name: values for name, values in training_run(**shape).items() if name not in drop}
    return logged_run(
        columns,
        label=label,
        dataset=dataset,
        method=method,
        order=order,
        train_columns=train_columns,
        sha256=f"{label} {sorted(shape)}",
    )


def judge(entry: EmpiricalClaim, *items: Record) -> dict:
    return {str(subject.about): entry.judge(subject) for subject in entry.subjects(items)}


def loss(item: LoggedRun) -> np.ndarray:
    assert item.log.columns.test_robust_loss is not None
    return item.log.columns.test_robust_loss


def gap(item: LoggedRun) -> np.ndarray:
    assert item.log.columns.train_robust_loss is not None
    return loss(item) - item.log.columns.train_robust_loss


def table(verdict) -> tuple:
    (found,) = (result for result in verdict.results if isinstance(result, Table))
    return found.rows


OVERFITTING = {"fall": (0.2, -0.1), "rise": (0.004, 0.01)}
NO_OVERFITTING = {"fall": (0.15, 0.05), "rise": (-0.001, -0.0005), "train_fall": (0.1, 0.05)}


# --- robust-overfitting ------------------------------------------------------------------------------------------


def test_overfitting_is_supported_where_it_was_built_in():
    (verdict,) = judge(claims.ROBUST_OVERFITTING, log(**OVERFITTING)).values()
    assert verdict.outcome is Outcome.SUPPORTED and verdict.note.startswith("this run only")
    assert [decoy.outcome for decoy in verdict.decoys] == [Outcome.REFUTED] * 2
    # +0.004 an epoch over 30 and a step of 0.1 to the second stretch, +0.01 an epoch over 25 of its 30.
    assert "+0.4" in verdict.note


def test_a_loss_that_keeps_falling_refutes_overfitting():
    (verdict,) = judge(claims.ROBUST_OVERFITTING, log(**NO_OVERFITTING)).values()
    assert verdict.outcome is Outcome.REFUTED


def test_a_diverging_run_is_no_overfitting():
    # Test and training loss rise together: half of the statement fails.
    shape = {**OVERFITTING, "train_fall": (-0.3, -0.6)}
    (verdict,) = judge(claims.ROBUST_OVERFITTING, log(**shape)).values()
    assert verdict.outcome is Outcome.REFUTED


def test_noise_alone_is_rarely_called_overfitting_although_it_rises_after_its_minimum():
    flat = {"fall": (0.0, 0.0), "rise": (0.0, 0.0)}
    verdicts = []
    for seed in range(40):
        item = log(seed=seed, **flat)
        assert loss(item)[-10:].mean() > loss(item)[40:].min()  # the trap: true of every noisy curve
        verdicts += judge(claims.ROBUST_OVERFITTING, item).values()
    assert all(verdict.outcome is not Outcome.SUPPORTED for verdict in verdicts)
    assert abs(np.mean([verdict.estimate for verdict in verdicts])) < 0.3  # 40 runs, each with an error of 0.55 σ


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"decays": (), "fall": (), "rise": (), "train_fall": ()}, "no step decay"),
        ({"epochs": 105, "decays": (90,), "fall": (0.2,), "rise": (0.0,), "train_fall": (0.2,)}, "windows need 20"),
        ({"drop": ("train_robust_loss",)}, "no column train_robust_loss"),
    ],
)
def test_what_a_log_cannot_say_is_not_applicable_with_the_reason(shape, reason):
    (verdict,) = judge(claims.ROBUST_OVERFITTING, log(**shape)).values()
    assert verdict.outcome is Outcome.NOT_APPLICABLE and reason in verdict.note


def test_a_method_is_judged_over_data_orders_and_not_over_runs():
    runs = [log(f"run {n}", seed=n, order=f"cifar10, seed {n}", **OVERFITTING) for n in range(4)]
    verdict = judge(claims.ROBUST_OVERFITTING, *runs)["cifar10 at (method)"]
    assert verdict.outcome is Outcome.SUPPORTED and "4 data orders" in verdict.note
    effect = [judge(claims.ROBUST_OVERFITTING, run)["run " + str(n)].estimate for n, run in enumerate(runs)]
    assert verdict.estimate == pytest.approx(np.mean(effect), rel=0.01), "each weighs by its own error"
    same = [log(f"run {n}", seed=n, **OVERFITTING) for n in range(4)]
    verdict = judge(claims.ROBUST_OVERFITTING, *same)["cifar10 at (method)"]
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert "needs 3 data orders; the 4 runs here have 1 (cifar10, seed 0)" in verdict.note


# --- decay-dip-beyond-placebo ------------------------------------------------------------------------------------


def test_a_dip_is_judged_decay_by_decay():
    verdicts = judge(claims.DECAY_DIP, log(epochs=150, decays=(60, 110), **OVERFITTING))
    first, second = verdicts["run · decay 1"], verdicts["run · decay 2"]
    assert (first.outcome, second.outcome) == (Outcome.SUPPORTED, Outcome.REFUTED)
    assert "it falls" in first.note and "later it rises" in first.note and "change at epoch 60" in first.note
    assert "it rises at once" in second.note
    assert [decoy.outcome for decoy in first.decoys] == [Outcome.REFUTED]


def test_a_steady_slope_is_no_response_to_a_decay():
    # The loss falls by 0.03 an epoch all along: the windows differ by 15 σ, and so they do at placebo decays.
    shape = {"fall": (0.0,), "rise": (-0.03,), "train_fall": (0.2,), "before": -0.03, "level": 8.0}
    item = log(epochs=120, decays=(60,), **shape)
    (verdict,) = judge(claims.DECAY_DIP, item).values()
    assert abs(verdict.estimate) < 1.5 and verdict.outcome is not Outcome.SUPPORTED
    alone, unit = effects.fall(effects.run_of(item), 0, effects.Starts(at=(60,)))
    assert alone.estimate > 10 * unit


def test_the_dip_is_a_difference_in_differences():
    item = log(epochs=120, decays=(60,), **OVERFITTING)
    run = effects.run_of(item)
    starts = effects.at_the_decay(run, 0)
    values, change = run.test, run.change(0)
    assert run.decays[0].row == 59 and change == 60  # such a log shows the drop one epoch early: it is in no window

    def by_hand(start):
        return values[start - 11 : start - 1].mean() - values[start : start + 5].mean()

    found, _ = effects.fall(run, 0, starts)
    assert starts.at == (change,) and len(starts.against) > 10 and max(starts.against) + 5 <= change
    assert found.estimate == pytest.approx(by_hand(change) - np.mean([by_hand(s) for s in starts.against]), rel=1e-9)


def test_a_dip_needs_every_epoch_around_the_decay_and_around_a_placebo():
    item = log(epochs=120, decays=(60,), **OVERFITTING)

    def seen(keep):
        columns = item.log.columns
        loss = np.where(keep, columns.test_robust_loss, np.nan)
        found = dataclasses.replace(item.log, columns=dataclasses.replace(columns, test_robust_loss=loss))
        (verdict,) = judge(claims.DECAY_DIP, dataclasses.replace(item, log=found)).values()
        return verdict

    epochs = np.arange(120)
    around = (np.abs(epochs - 60) <= 14) | (np.abs(epochs - 30) <= 20)
    found = seen(around | (epochs % 2 == 0))
    assert found.outcome is not Outcome.NOT_APPLICABLE and found.interval[0] > 5, found.note
    for keep, reason in (
        (epochs % 2 == 0, "evaluated one after the other are needed"),
        ((np.abs(epochs - 30) <= 14) | (epochs % 2 == 0), "was not evaluated every epoch between epochs"),
        ((np.abs(epochs - 60) <= 14) | (epochs % 2 == 0), "no placebo decay fits"),
    ):
        verdict = seen(keep)
        assert verdict.outcome is Outcome.NOT_APPLICABLE and reason in verdict.note, verdict.note


def test_a_peak_far_from_any_decay_is_named_as_the_reason():
    shape = {"decays": (90,), "fall": (-0.1,), "rise": (0.01,), "train_fall": (0.2,), "before": 0.01, "level": 1.0}
    (verdict,) = judge(claims.DECAY_DIP, log(epochs=150, **shape)).values()
    assert verdict.outcome is Outcome.REFUTED
    assert "epochs before any decay, and was rising already" in verdict.note


def test_the_rate_of_false_dips_is_what_the_margin_promises():
    supported = 0
    for seed in range(60):
        item = log(seed=seed, epochs=120, decays=(60,), fall=(0.015,), rise=(0.0,), train_fall=(0.2,), rho=0.1)
        (verdict,) = judge(claims.DECAY_DIP, item).values()  # the effect is the margin itself: 1 σ
        supported += verdict.outcome is Outcome.SUPPORTED
    assert supported <= 6  # 2.5 % of 60 is 1.5; P(more than 6) < 0.1 %


# --- decay-size --------------------------------------------------------------------------------------------------


def sized(ratios, jump, slope, **shape) -> list[LoggedRun]:
    return [
        log(
            f"drop {ratio}",
            epochs=140,
            decays=(70,),
            ratio=ratio,
            fall=(jump * -np.log(ratio),),
            rise=(slope * -np.log(ratio),),
            train_fall=(0.2,),
            seed=n,
            **shape,
        )
        for n, ratio in enumerate(ratios)
    ]


def test_the_size_of_the_decay_is_not_applicable_where_it_never_differs():
    (verdict,) = judge(claims.DECAY_SIZE, *sized([0.1] * 4, 0.05, 0.001)).values()
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert "by the same factor, η₂/η₁ = 0.1" in verdict.note


def test_a_response_that_grows_with_the_decay_is_supported_with_its_slopes():
    (verdict,) = judge(claims.DECAY_SIZE, *sized([0.5, 0.3, 0.1, 0.05, 0.02], 0.05, 0.003)).values()
    assert verdict.outcome is Outcome.SUPPORTED, verdict
    # jump 0.05 and rise 0.03 in 10 epochs, for each e-fold, at σ = 0.015: 3.3 and 2; the smaller is the estimate
    assert verdict.estimate == pytest.approx(2.0, abs=0.4)
    assert [row[0] for row in table(verdict)] == [f"drop {r}" for r in (0.02, 0.05, 0.1, 0.3, 0.5)]


def test_a_response_of_one_size_refutes_it():
    runs = [
        log(f"{r}", epochs=140, decays=(70,), ratio=r, fall=(0.2,), rise=(0.003,), train_fall=(0.2,), seed=n)
        for n, r in enumerate([0.5, 0.3, 0.1, 0.05, 0.02, 0.2])
    ]
    (verdict,) = judge(claims.DECAY_SIZE, *runs).values()
    assert verdict.outcome is Outcome.REFUTED


# --- awp-tightens-bound ------------------------------------------------------------------------------------------

LARGE_GAP = {"fall": (0.2, -0.3), "rise": (0.02, 0.03), "train_fall": (0.6, 0.3)}


def test_a_gap_is_compared_within_pairs_against_the_largest_the_other_can_have():
    at, awp = log("at", **LARGE_GAP), log("awp", method="awp", train_columns="perturbed", **NO_OVERFITTING)
    (verdict,) = judge(claims.AWP_TIGHTENS_BOUND, at, awp).values()
    assert verdict.outcome is Outcome.SUPPORTED and verdict.note.startswith("this pair only")
    assert verdict.estimate == pytest.approx(gap(at)[-10:].mean() - loss(awp)[-10:].mean(), rel=1e-9)
    assert [decoy.outcome for decoy in verdict.decoys] == [Outcome.REFUTED]


def test_gaps_at_fixed_weights_are_compared_as_they_are():
    at = log("at", train_columns="fixed", **OVERFITTING)
    awp = log("awp", method="awp", train_columns="fixed", **NO_OVERFITTING)
    (verdict,) = judge(claims.AWP_TIGHTENS_BOUND, at, awp).values()
    assert verdict.estimate == pytest.approx((gap(at) - gap(awp))[-10:].mean(), rel=1e-9)


def test_pairs_over_several_orders_speak_for_the_method():
    runs = []
    for n in range(3):
        order = f"cifar10, seed {n}"
        runs.append(log(f"at {n}", seed=n, order=order, **LARGE_GAP))
        runs.append(log(f"awp {n}", seed=n + 9, order=order, method="awp", **NO_OVERFITTING))
    found = judge(claims.AWP_TIGHTENS_BOUND, *runs)
    pairs = [found[f"awp {n} · against at {n}"].estimate for n in range(3)]
    method = found["cifar10 awp (method) · against at"]
    assert method.estimate == pytest.approx(np.mean(pairs), rel=0.01)
    assert method.outcome is Outcome.SUPPORTED and method.note.startswith("the method")


def test_runs_of_different_protocol_or_order_are_no_pair():
    at, awp = log("at", **LARGE_GAP), log("awp", method="awp", order="cifar10, seed 1", **NO_OVERFITTING)
    assert judge(claims.AWP_TIGHTENS_BOUND, at, awp) == {}
    columns = {field.name: getattr(awp.log.columns, field.name) for field in dataclasses.fields(awp.log.columns)}
    other = logged_run(
        columns,
        label="awp",
        method="awp",
        order="cifar10, seed 0",
        train_columns="perturbed",
        arguments={"batch_size": 128, "epsilon": 4},
    )
    assert judge(claims.AWP_TIGHTENS_BOUND, at, other) == {}


# --- bound-tracks-gap --------------------------------------------------------------------------------------------


def with_bound(values, gap) -> BoundOverTraining:
    return bound(values, gap)


def test_a_bound_that_follows_the_gap_is_told_from_one_that_only_drifts():
    rng = np.random.default_rng(0)
    gap = np.cumsum(rng.normal(size=40)) + np.linspace(0, 30, 40)
    (follows,) = judge(claims.BOUND_TRACKS_GAP, with_bound(100 + 3 * gap + rng.normal(size=40) * 0.5, gap)).values()
    assert follows.outcome is Outcome.SUPPORTED
    drift = np.linspace(0, 90, 40) + rng.normal(size=40)
    (drifts,) = judge(claims.BOUND_TRACKS_GAP, with_bound(drift, gap)).values()
    assert np.corrcoef(drift, gap)[0, 1] > 0.9  # the values correlate because both rise
    assert drifts.outcome is Outcome.REFUTED


def test_without_spectra_the_bound_is_not_applicable():
    (verdict,) = judge(claims.BOUND_TRACKS_GAP, log(**OVERFITTING)).values()
    assert verdict.outcome is Outcome.NOT_APPLICABLE and "no spectra were measured" in verdict.note


# --- our own runs ------------------------------------------------------------------------------------------------


def own_run(method: str, shape: dict, *, every: int = 1) -> TrainingRun:
    columns = {name: values.copy() for name, values in training_run(epochs=150, decays=(60, 110), **shape).items()}
    keep = np.arange(150) % every == 0
    keep |= np.min([np.abs(np.arange(150) - decay) for decay in (60, 110)], axis=0) <= 3
    for name, values in columns.items():
        if name not in ("epoch", "learning_rate"):
            values[~keep] = np.nan
    run = training(method)
    return own_training_run(run=run, columns=columns, run_folder=f"runs/{method}-seed0")


@pytest.mark.parametrize("every", [1, 2])
def test_our_own_runs_are_judged_by_the_same_claims(every):
    runs = [own_run("at", OVERFITTING, every=every), own_run("awp", NO_OVERFITTING, every=every)]
    register = Register(claims=claims.CLAIMS, missing=())
    found = {(verdict.claim, verdict.subject): verdict for verdict in judge_all(register, runs)}
    assert found["robust-overfitting", "at-seed0"].outcome is Outcome.SUPPORTED
    assert found["robust-overfitting", "awp-seed0"].outcome is Outcome.REFUTED
    dip = found["decay-dip-beyond-placebo", "at-seed0 · decay 1"]
    assert dip.outcome is (Outcome.SUPPORTED if every == 1 else Outcome.NOT_APPLICABLE), dip.note
    pair = found["awp-tightens-bound", "awp-seed0 · against at-seed0"]
    assert pair.outcome is Outcome.SUPPORTED and "gap at fixed weights" in pair.note
    assert pair.evidence == tuple(run.run_id for run in runs)


# --- predicted variance ------------------------------------------------------------------------------------------


def test_the_predicted_variance_is_that_of_the_recursion_step_by_step():
    item = log(epochs=40, decays=(20,), fall=(0.2,), rise=(0.0,), train_fall=(0.3,))
    stated = {"batch_size": 128, "iterations_per_epoch": 7, "momentum": 0.5}
    item = dataclasses.replace(item, log=dataclasses.replace(item.log, arguments=stated))
    prediction = predicted_variance(effects.run_of(item))
    assert prediction is not None and "7 iterations an epoch, momentum 0.5." in prediction.caption
    for mode in prediction.modes:
        state, path = None, []
        for epoch in range(40):
            eta = 0.1 if epoch < 20 else 0.01  # the curves change at 20 although the log shows the drop at 19
            step = np.array([[1 - eta * mode.curvature, -eta * 0.5], [mode.curvature, 0.5]])
            kick = np.array([-eta, 1.0])
            noise_term = np.outer(kick, kick)
            if state is None:
                state = np.linalg.solve(np.eye(4) - np.kron(step, step), noise_term.ravel()).reshape(2, 2)
            for _ in range(7):
                state = step @ state @ step.T + noise_term
            path.append(state[0, 0])
        np.testing.assert_allclose(mode.relative_variance, np.array(path) / path[19], rtol=1e-8)
    fast, _, slow = (mode.relative_variance for mode in prediction.modes)
    assert fast[21] < 0.3 < 0.9 < slow[21]


# --- the register and the command --------------------------------------------------------------------------------


def refuse_torch(name: str):
    """An import that finds no torch."""
    raise ModuleNotFoundError(f"No module named 'torch', which {name} needs", name="torch")


def test_the_register_holds_the_claims_and_names_what_is_missing(monkeypatch):
    found = collect(["logs"])
    assert [entry.claim.name for entry in found.claims] == [
        "robust-overfitting",
        "decay-dip-beyond-placebo",
        "dip-time-scale",
        "dip-forgets-its-epoch",
        "second-dip-smaller",
        "decay-size",
        "awp-tightens-bound",
        "awp-slows-the-rise",
        "bound-tracks-gap",
    ]
    assert found.missing == ()
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):  # of ours: a fault, not a smaller register
        collect(["logs", "no_such_module"])
    monkeypatch.setattr("importlib.import_module", refuse_torch)
    assert collect(["training"]).missing == ("claims of empirical.claims.training: needs 'torch'",)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="must name each empirical claim once; twice"):
        collect(["logs", "logs"])


def test_a_selector_yields_each_record_of_its_kind():
    items = [with_bound(np.ones(3), np.ones(3)), log()]
    (subject,) = each_record(BoundOverTraining, lambda item: About(name=item.label))(items)
    assert subject == Subject(about=About(name="at-seed0"), seen=items[0], records=(items[0],))


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and error output of a command in this process."""
    return (main(arguments), *capsys.readouterr())


def without_torch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The same in a process of its own, where importing torch fails."""
    code = (
        "import argparse, sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision'): raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from empirical.commands import importing, verify\n"
        "parser = argparse.ArgumentParser(); commands = parser.add_subparsers(dest='command')\n"
        "[module.add_options(commands.add_parser(module.NAME)) for module in (importing, verify)]\n"
        "args = parser.parse_args()\n"
        "sys.exit({'import': importing, 'verify': verify}[args.command].run(args))\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_folders_are_imported_and_judged_without_torch(tmp_path, monkeypatch, capsys):
    from tests.empirical import log_writing as writing

    logs = tmp_path / "logs"
    (logs / "cifar10_at").mkdir(parents=True)
    (logs / "cifar10_at" / "output.log").write_text(writing.text_log(training_run(**LARGE_GAP)))
    (logs / "cifar10_awp").mkdir()
    awp = "attack='pgd', awp_size=0.01, batch_size=128, fname='experiments/cifar10_linf/awp', seed=0"
    (logs / "cifar10_awp" / "output.log").write_text(writing.text_log(training_run(**NO_OVERFITTING), arguments=awp))
    writing.table(training_run(seed=3), logs / "svhn.csv")
    (logs / "notes.md").write_text("not a log")
    (logs / "broken.csv").write_text("epoch,lr,test_loss\n0,nan,0.1\n")

    monkeypatch.chdir(tmp_path)
    status, _, complaint = command(capsys, "import", "logs", "--out", "X")
    assert status == 2 and not (tmp_path / "X").exists()
    assert "logs/broken.csv:2: `learning_rate` must be finite; got nan" in complaint
    partly = without_torch("import", "logs", "--out", "X", "--keep-going", cwd=tmp_path)
    assert partly.returncode == 2 and "3 runs written, 0 known already, 1 refused" in partly.stdout
    assert "not a log by its name: logs/notes.md" in partly.stderr
    status, said, _ = command(capsys, "import", "logs/svhn.csv", "--out", "X")
    assert status == 0 and "0 runs written, 1 known already, 0 refused" in said

    records = [json.loads(path.read_text()) for path in (tmp_path / "X/evidence/training-log").glob("*.json")]
    logs = {record["measured"]["log"]["label"]: record["measured"]["log"] for record in records}
    inferred = {record["measured"]["log"]["label"]: set(record["measured"]["inferred"]) for record in records}
    assert logs["cifar10_at"]["method"] == "at" and logs["cifar10_awp"]["method"] == "awp"
    assert logs["cifar10_awp"]["train_columns"] == "perturbed"
    assert logs["svhn"]["dataset"] == "svhn" and logs["svhn"]["data_order"] is None
    assert inferred["svhn"] == {"dataset", "method"}

    judged = without_torch("verify", "X", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    verdicts = json.loads((tmp_path / "X/verdicts.json").read_text())["verdicts"]
    found = {(verdict["claim"], verdict["about"]["name"]): verdict for verdict in verdicts}
    assert found["robust-overfitting", "cifar10_at"]["outcome"] == "supported"
    assert found["robust-overfitting", "cifar10_awp"]["outcome"] == "refuted"
    pair = found["awp-tightens-bound", "cifar10_awp"]
    assert pair["outcome"] == "supported" and pair["about"]["against"] == "cifar10_at"
    row = next(line for line in judged.stdout.splitlines() if line.startswith("robust-overfitting"))
    assert "2 yes, 1 no" in row and max(map(len, judged.stdout.splitlines()[:-1])) <= 80

    # Judging one claim keeps what was said of the others; verdicts that cannot be read cannot be kept.
    written = (tmp_path / "X/verdicts.json").read_bytes()
    status, said, _ = command(capsys, "verify", "X", "--claim", "robust-overfitting")
    assert status == 0 and "awp-tightens-bound" not in said.replace("no evidence here for", "")
    assert (tmp_path / "X/verdicts.json").read_bytes() == written
    (tmp_path / "X/verdicts.json").write_text("[null]")
    status, _, complaint = command(capsys, "verify", "X", "--claim", "robust-overfitting")
    assert status == 2 and complaint.count("\n") == 1 and "verdicts.json" in complaint
    assert (tmp_path / "X/verdicts.json").read_text() == "[null]"


def diverging(at: int, *, seed: int = 0, last: float = np.nan) -> dict[str, np.ndarray]:
    """A run whose losses are lost from an epoch on: the accuracies fall to chance."""
    columns = training_run(seed=seed)
    for name, values in columns.items():
        if name.endswith("_loss"):
            values[at:] = last
        elif name.endswith("_accuracy"):
            values[at:] = 0.1
    return columns


def test_a_run_that_diverged_is_imported_named_and_not_applicable(tmp_path, monkeypatch, capsys):
    from tests.empirical import log_writing as writing

    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    say = "attack='pgd', awp_size=0, batch_size=128, fname='experiments/cifar10_linf/base', seed="
    for seed in range(3):
        Path(f"logs/cifar10-{seed}.log").write_text(
            writing.text_log(training_run(seed=seed, **LARGE_GAP), arguments=f"{say}{seed}")
        )
    Path("logs/cifar10-lost.log").write_text(writing.text_log(diverging(75), arguments=f"{say}3"))
    writing.table(diverging(30, last=np.inf), Path("logs/cifar10-inf.csv"))
    writing.json_lines(diverging(100), Path("logs/cifar10-json.jsonl"))
    first = writing.text_log(diverging(50), arguments=f"{say}4", rows=range(70))
    again = writing.text_log(training_run(), arguments=f"{say}4", rows=range(45, 120))
    Path("logs/cifar10-resumed.log").write_text(first + again)

    status, said, _ = command(capsys, "import", "logs", "--out", "X")
    assert status == 0 and "7 runs written, 0 known already, 0 refused" in said
    lines = {line.split()[2]: line for line in said.splitlines() if line.startswith("written")}
    for label, epoch in (("cifar10-lost", 75), ("cifar10-inf", 30), ("cifar10-json", 100)):
        assert lines[label].endswith(f"diverged in epoch {epoch}")
    assert "diverged" not in lines["cifar10-resumed"] + lines["cifar10-0"]

    status, said, complaint = command(capsys, "verify", "X")
    assert status == 0, complaint
    verdicts = read_verdicts(Path("X/verdicts.json"))
    lost = [verdict for verdict in verdicts if verdict.about and verdict.about.name == "cifar10-lost"]
    assert {verdict.outcome for verdict in lost} == {Outcome.NOT_APPLICABLE}
    judged = {verdict.claim for verdict in lost if "the run diverged: from epoch 75 on" in verdict.note}
    assert {"robust-overfitting", "decay-dip-beyond-placebo", "dip-time-scale", "second-dip-smaller"} <= judged
    method = {
        verdict.claim: verdict for verdict in verdicts if verdict.about and verdict.about.name == "cifar10 at (method)"
    }
    pooled = method["robust-overfitting"]
    assert pooled.outcome is Outcome.SUPPORTED and "cifar10-lost" not in pooled.about.runs
    assert "diverged and left out: cifar10-inf, cifar10-json, cifar10-lost" in pooled.note
    assert command(capsys, "rejudge", "X")[0] == 0


def test_pairs_with_a_run_that_diverged_are_named_and_not_pooled():
    runs = []
    for n in range(4):
        order = f"cifar10, seed {n}"
        runs.append(log(f"at {n}", seed=n, order=order, **LARGE_GAP))
        runs.append(log(f"awp {n}", seed=n + 9, order=order, method="awp", **NO_OVERFITTING))
    lost = dataclasses.replace(runs[-1], log=dataclasses.replace(runs[-1].log, diverged=40))
    found = judge(claims.AWP_TIGHTENS_BOUND, *runs[:-1], lost)
    pair = found["awp 3 · against at 3"]
    assert pair.outcome is Outcome.NOT_APPLICABLE and "the run diverged" in pair.note
    method = found["cifar10 awp (method) · against at"]
    assert method.outcome is Outcome.SUPPORTED and "awp 3" not in method.about.runs


def test_wrong_usage_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.csv").write_text("epoch,lr,test_loss\n" + "".join(f"{e},0.1,1.0\n" for e in range(9)))
    assert command(capsys, "import", "run.csv", "--out", "X")[0] == 0
    for arguments, named in (
        (["verify", "nowhere"], "nowhere"),
        (["verify", "X", "--claim", "no-such"], "no-such"),
        (["import", "run.csv", "--out", "Y", "--column", "loss"], "--column"),
        (["import", "run.csv", "--out", "Y", "--column", "nonsense=x"], "nonsense"),
        (["import", "run.csv", "--out", "Y", "--set", "=3"], "--set"),
        (["import", "run.csv", "--out", "Y", "--iterations-per-epoch", "0"], "--iterations-per-epoch"),
        (["import", "run.csv", "--out", "run.csv/inside"], "written"),
    ):
        status, _, complaint = command(capsys, *arguments)
        assert status == 2 and complaint.count("\n") == 1 and named in complaint


def test_runs_of_one_schedule_hand_over_one_prediction(tmp_path, capsys):
    for number in range(3):
        log(f"run {number}", seed=number, **OVERFITTING).to_evidence().write(tmp_path)
    assert command(capsys, "verify", str(tmp_path))[0] == 0
    verdicts = read_verdicts(tmp_path / "verdicts.json")
    results = [result for verdict in verdicts for result in verdict.results]
    assert sum(isinstance(result, TimeCourse) for result in results) == 3 * (
        2 + 2 + 1
    )  # curves, σ², decays, fitted dip
    predicted = {result for result in results if result.title == "Predicted posterior variance"}
    assert len(predicted) == 1  # a report can see that the three are one
    courses = [result for result in results if result.title == "Test robust loss around the decay"]
    assert len(courses) == 6 and all(curve.role is Role.MEASURED for course in courses for curve in course.curves[:1])


def test_a_verdict_says_in_fields_what_it_is_about():
    runs = [log(f"run {n}", seed=n, order=f"cifar10, seed {n}", **OVERFITTING) for n in range(3)]
    verdicts = judge_all(Register(claims=claims.CLAIMS, missing=()), runs)
    dips = [verdict.about for verdict in verdicts if verdict.claim == "decay-dip-beyond-placebo"]
    assert [about.decay for about in dips if about and len(about.runs) == 1] == [1, 2] * 3
    (method,) = (about for about in dips if about and len(about.runs) > 1)
    assert method.runs == ("run 0", "run 1", "run 2") and method.methods == ("at",) * 3 and method.decay == 1
    assert [about.name for about in dips if about][::2] == ["run 0", "run 1", "run 2", method.name]


PUBLISHED = ROOT.parent / "shared" / "data" / "published_logs"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published logs are not beside this repository")
def test_the_published_logs_give_the_verdicts_their_protocols_promise(tmp_path):
    from empirical.published import import_logs

    done = import_logs([PUBLISHED], tmp_path)
    assert not done.refused and len(done.written) == 11
    verdicts = judge_all(Register(claims=claims.CLAIMS, missing=()), done.records)
    found = {(verdict.claim, verdict.subject): verdict.outcome for verdict in verdicts}
    for label in ("rice/cifar10_standard__preactresnet18", "awp/cifar10_linf_standard", "awp/cifar100_linf_standard"):
        assert found["robust-overfitting", label] is Outcome.SUPPORTED
        assert found["decay-dip-beyond-placebo", f"{label} · decay 1"] is Outcome.SUPPORTED
    cifar = [key for key in found if key[0].startswith("decay-dip") and "cifar" in key[1] and "decay 1" in key[1]]
    assert {found[key] for key in cifar if "(method)" not in key[1]} == {Outcome.SUPPORTED} and len(cifar) == 10
    assert found["decay-dip-beyond-placebo", "awp/cifar10_linf_standard · decay 2"] is Outcome.REFUTED
    for label in ("awp/cifar10_linf_awp", "awp/cifar100_linf_awp"):
        assert found["robust-overfitting", label] is Outcome.REFUTED
    svhn = [
        outcome
        for (claim, subject), outcome in found.items()
        if claim == "decay-dip-beyond-placebo" and "svhn_" in subject
    ]
    assert len(svhn) == 6 and set(svhn) == {Outcome.REFUTED, Outcome.INCONCLUSIVE}
    changes = [effects.run_of(item).change(0) for item in done.records]
    assert sorted(changes) == [60, 90, *[100] * 9]
