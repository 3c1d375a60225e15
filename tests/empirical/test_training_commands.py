"""The commands as typed: exit statuses, one-line errors, grids, resuming, validation of contributed runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from empirical.__main__ import main, parser
from empirical.claims import training as claims
from empirical.commands import options, sweep
from empirical.commands import train as train_command
from empirical.data import sources
from empirical.data.sources import load_raw
from empirical.records import TrainingRun
from empirical.records.training import StoredCheckpoint
from empirical.settings import make_training
from empirical.training import reproduction
from empirical.training.jobs import Job, JobError, require_data, run_jobs
from empirical.training.run import run_folder
from tests.empirical.record_making import training_run
from theory.judge.evidence import Evidence
from theory.judge.files import hold
from theory.judge.front import DISK_FAILED, FAULT, RUN_FAILED, UNUSABLE
from theory.judge.results import Table
from theory.judge.verdict import Outcome

torch.set_num_threads(1)

TINY = "--preset smoke --train-size 32 --test-size 16 --batch-size 16 --epochs 2 --masking-probe 0".split()
TINY += ["--quiet", "--jobs", "1"]


def evidence_files(out: Path) -> list[Path]:
    return sorted((out / "evidence" / "training").glob("*.json"))


def test_help_needs_no_torch():
    root = Path(__file__).parents[2]
    script = "import sys; from empirical.__main__ import parser; parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_train_makes_a_run_for_each_method_and_seed_and_leaves_finished_ones_alone(tmp_path, capsys):
    words = ["train", *TINY, "--out", str(tmp_path), "--method", "at", "awp", "--seeds", "2", "--resume"]
    assert main(words) == 0
    names = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "runs").iterdir())
    assert names == ["at-seed0", "at-seed1", "awp-seed0", "awp-seed1"]
    before = {path: path.stat().st_mtime_ns for path in evidence_files(tmp_path)}
    assert len(before) == 4 and main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in evidence_files(tmp_path)}
    assert "complete" in capsys.readouterr().err


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [["train", "--resume"], ["train", "--resume", "--jobs", "2"], ["run"]])
def test_a_second_writer_of_a_run_is_told_who_holds_it_and_writes_nothing(tmp_path, capsys, command):
    words = [*TINY, "--out", str(tmp_path), "--method", "at", "awp"]
    held = next(job for job in train_command.planned(parser().parse_args(["train", *words])) if job.setting.method.awp)
    folder = run_folder(held.setting, held.seed, tmp_path)
    folder.path.mkdir(parents=True)
    with hold(folder.path):
        before = tree(tmp_path)
        assert main([command[0], *words, *command[1:]]) == 2
        assert tree(tmp_path) == before
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("=="))
    assert f"process {os.getpid()}" in line and str(folder.path) in line


def test_a_second_writer_of_a_results_folder_is_told_who_holds_it_and_writes_nothing(tmp_path, capsys):
    words = [*TINY, "--out", str(tmp_path), "--method", "standard"]
    assert main(["train", *words]) == 0
    log = tmp_path / "at.csv"
    log.write_text("epoch,lr,train_loss,test_loss\n" + "".join(f"{k},0.1,{1 / (k + 1)},1.0\n" for k in range(9)))
    commands = (
        ["verify", str(tmp_path)],
        ["measure", str(tmp_path), "--k", "2", "--probes", "2", "--quiet"],
        ["sweep", *words, "--grid", "epsilon=0.1"],
        ["import", str(log), "--out", str(tmp_path)],
    )
    for command in commands:
        capsys.readouterr()
        with hold(tmp_path):
            before = tree(tmp_path)
            assert main(command) == 2
            assert tree(tmp_path) == before
        error = capsys.readouterr().err
        assert f"process {os.getpid()}" in error and str(tmp_path) in error, command


@pytest.mark.parametrize("word", ["--milestones=", "--widths= ", "--train-size=--", "--seed=--", "--epochs=1e3"])
def test_a_word_that_is_no_value_is_refused_by_the_parser(tmp_path, capsys, word):
    with pytest.raises(SystemExit) as ended:
        main(["train", *TINY, "--out", str(tmp_path / "out"), word])
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert word.split("=")[0] in capsys.readouterr().err.splitlines()[-1]
    assert parser().parse_args(["train", "--milestones", "none"]).milestones == ()


@pytest.mark.slow
def test_runs_in_processes_of_their_own_are_the_same_to_the_bit(tmp_path):
    words = ["train", *TINY[:-2], "--threads", "1", "--method", "at", "awp"]
    assert main([*words, "--jobs", "1", "--out", str(tmp_path / "one")]) == 0
    assert main([*words, "--jobs", "2", "--out", str(tmp_path / "two")]) == 0
    for ours, theirs in zip(evidence_files(tmp_path / "one"), evidence_files(tmp_path / "two"), strict=True):
        assert ours.name == theirs.name
        first, second = Evidence.read(ours), Evidence.read(theirs)
        assert all(np.array_equal(first.arrays[name], second.arrays[name], equal_nan=True) for name in first.arrays)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--epsilon", "9"], "epsilon"),
        (["--batch-size", "0"], "batch_size"),
        (["--seeds", "0"], "--seeds"),
        (["--device", "tpu"], "--device"),
        (["--milestones", "50"], "milestones"),
        (["--epochs", "0"], "--epochs"),
        (["--seed", "-1"], "--seed"),
        (["--steps", "9999999999999"], "steps"),
        (["--epochs", "9999999999999"], "TiB"),
        (["--widths", "9999999999999"], "widths"),
        (["--restarts", "9999999999999"], "restarts"),
        (["--padding", "9999999999999"], "padding"),
        (["--milestones", "1e400"], "finite"),
        (["--dataset", "generated", "--train-size", "90000000"], "GiB"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(tmp_path, capsys, words, named):
    assert main(["train", *TINY, "--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("python -m empirical train: ") and named in error and "\n" not in error


@pytest.mark.parametrize("command", ["train", "run", "sweep"])
def test_a_results_folder_that_cannot_be_is_wrong_usage(tmp_path, capsys, command):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "loop", tmp_path / ("x" * 300)):
        assert main([command, *TINY, "--method", "at", "--out", str(place)]) == 2
        (error,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith(("==", "sweep: 1 p")))
        assert "cannot be written" in error or "can be written" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_data_folder_is_one_line(tmp_path, capsys):
    words = ["train", "--preset", "cifar10", "--no-download", "--data-root", str(tmp_path / "none"), "--jobs", "1"]
    assert main([*words, "--method", "at", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "existing folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_data_that_several_runs_lack_is_one_line_before_any_of_them_starts(tmp_path, capsys, monkeypatch, command):
    reads = []
    monkeypatch.setattr(sources, "load_raw", lambda data, **how: reads.append(data.name) or load_raw(data, **how))
    words = [command, "--preset", "cifar10", "--no-download", "--data-root", str(tmp_path / "none"), "--jobs", "2"]
    words += ["--method", "at", "awp", "--seeds", "2", "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]
    assert main(words) == UNUSABLE
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("sweep: 1 point"))
    assert "existing folder" in line and reads == ["cifar10"]
    assert not list((tmp_path / "out").glob("runs/*"))


def test_finished_runs_and_generated_images_need_no_archive(tmp_path):
    (job,) = train_command.planned(parser().parse_args(["train", *TINY, "--method", "at", "--out", str(tmp_path)]))
    lacking = make_training("cifar10", "at")
    nowhere = {"out": str(tmp_path), "data_root": str(tmp_path / "none"), "download": False}
    generated = make_training("smoke", "at", {"dataset": "generated"})
    require_data([Job(setting=generated, seed=0, options=nowhere), job])
    with pytest.raises(ValueError, match="existing folder"):
        require_data([Job(setting=lacking, seed=0, options=nowhere)])
    evidence = run_folder(lacking, 0, tmp_path).evidence
    evidence.parent.mkdir(parents=True)
    evidence.write_text("{}")
    require_data([Job(setting=lacking, seed=0, options=nowhere)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent_is_said(tmp_path, capsys):
    assert main(["train", *TINY, "--out", str(tmp_path), "--device", "cuda"]) == 2
    assert "sees no CUDA device" in capsys.readouterr().err


def test_a_gpu_that_pytorch_cannot_use_is_not_taken_for_none(tmp_path, capsys, monkeypatch):
    def no_driver():
        raise RuntimeError("The NVIDIA driver on your system is too old\n (found version 11040).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", no_driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(["train", *TINY, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "CUDA_VISIBLE_DEVICES=0,1" in error and "too old (found version 11040)" in error and "--device cpu" in error
    assert not (tmp_path / "out").exists()
    assert main(["train", *TINY, "--out", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "too old" in capsys.readouterr().err
    for hidden in ("", "-1"):  # whoever hides the GPUs means the CPU
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert options.device_name("auto") == "cpu"


def test_a_gpu_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.device_name("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="cuda:0 to cuda:1"):
        options.device_name("cuda:2")


def test_photographs_on_a_cpu_say_first_what_they_cost(tmp_path, capsys):
    words = ["train", "--preset", "cifar10", "--method", "at", "--no-download", "--data-root", str(tmp_path / "none")]
    assert main([*words, "--jobs", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    said = re.search(r"at on cifar10 on this CPU takes about ([\d,.]+) hours a run", capsys.readouterr().err)
    assert float(said.group(1).replace(",", "")) > 24


@pytest.mark.parametrize("method", ["standard", "at", "awp", "trades", "trades-awp"])
@pytest.mark.parametrize(
    "changes", [{}, {"faithful": True}, {"awp_batch": "fresh", "awp_recompute": True, "awp_steps": 2, "restarts": 2}]
)
def test_the_passes_of_a_run_are_those_that_it_makes(method, changes, monkeypatch):
    """Forwards counted at the network, backwards at autograd's two doors."""
    from empirical.data import load_data
    from empirical.settings.presets import make_training
    from empirical.training.cost import run_passes, step_passes
    from empirical.training.trainer import Trainer

    if method == "standard":
        changes = {name: value for name, value in changes.items() if name != "faithful"}
    setting = make_training("smoke", method, {"awp_warmup": 0, "steps": 2} | changes)
    run = Trainer(setting, seed=0, data=load_data(setting.data))
    passes = []
    run.model.register_forward_hook(lambda *_: passes.append(1))
    grad, backward = torch.autograd.grad, torch.Tensor.backward
    forwards = 3  # of a loss with its weight gradients
    if setting.method.objective == "trades":
        forwards = 9 if setting.faithful else 6

    def counted(loss, inputs, *rest, **options):
        passes.append(forwards - forwards // 3 if isinstance(inputs, list) else 1)
        return grad(loss, inputs, *rest, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda loss: (passes.append(forwards - forwards // 3), backward(loss))[1]
    )
    run.step()
    assert sum(passes) == step_passes(setting)
    assert run_passes(setting) > step_passes(setting) * 96 * 8


def test_a_diverging_run_is_a_failed_one_and_names_its_iteration(tmp_path, capsys):
    words = ["train", *TINY, "--out", str(tmp_path), "--method", "at", "--learning-rate", "1e30"]
    assert main([*words, "--normalization", "none"]) == RUN_FAILED
    assert "not finite at iteration" in capsys.readouterr().err


def fails_with(error):
    def train(*_, **__):
        raise error

    return train


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MemoryError("out of memory: lower --batch-size"), RUN_FAILED, "lower --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), RUN_FAILED, "CUDA out of memory"),
        (
            OSError(28, "No space left on device", "metrics.jsonl"),
            DISK_FAILED,
            "metrics.jsonl: No space left on device",
        ),
        (ValueError("`data` must be there"), UNUSABLE, "must be there"),
        (TypeError("None + 1"), FAULT, "Please report it"),
    ],
)
def test_a_failed_run_is_never_status_1_and_has_one_line(tmp_path, capsys, monkeypatch, error, status, said):
    """1 means that an identity is refuted or a gate failed, and nothing else."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("empirical.training.run.train", fails_with(error))
    for command in (["train", "--jobs", "1"], ["sweep", "--jobs", "1", "--grid", "epsilon=0"]):
        assert main([*command, *TINY, "--out", str(tmp_path / "out"), "--method", "at", "--quiet"]) == status
        err = capsys.readouterr().err
        assert said in err and "Traceback" not in err and len(err.splitlines()) == 1 + (command[0] == "sweep")


def test_runs_that_failed_together_have_the_worst_status():
    assert JobError([(UNUSABLE, "a"), (RUN_FAILED, "b")]).exit_status == RUN_FAILED
    assert JobError([(UNUSABLE, "a"), (FAULT, "b"), (RUN_FAILED, "c")]).exit_status == FAULT


def test_ratios_lists_and_switches_are_read():
    args = parser().parse_args(
        "train --epsilon 8/255 --milestones 1,1.5 --widths 4,8 --no-deterministic --published-offset".split()
    )
    found = options.overrides(args)
    assert found["epsilon"] == 8 / 255 and found["milestones"] == (1.0, 1.5) and found["widths"] == (4, 8)
    assert found["deterministic"] is False and found["published_offset"] is True and "nesterov" not in found
    with pytest.raises(SystemExit):
        parser().parse_args(["train", "--epsilon", "eight"])


def test_the_default_is_digits_without_cuda_and_a_data_set_picks_its_preset(monkeypatch):
    args = parser().parse_args(["train"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert options.preset_and_methods(args) == ("digits-cpu", ("at", "awp"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert options.preset_and_methods(args)[0] == "cifar10"
    assert options.preset_and_methods(parser().parse_args(["train", "--dataset", "svhn"]))[0] == "svhn"


# -- sweep --------------------------------------------------------------------------------------------------------


def test_a_grid_crosses_its_axes_and_refuses_what_is_no_option():
    points = list(sweep.grid(["epsilon=0,0.1", "batch-size=8,16", "awp-recompute=true"]))
    assert len(points) == 4 and points[0] == {"epsilon": 0.0, "batch_size": 8, "awp_recompute": True}
    assert list(sweep.grid(["milestones=10+15,20"])) == [{"milestones": (10.0, 15.0)}, {"milestones": (20.0,)}]
    for bad in (["colour=1"], ["epsilon"], ["epsilon="], ["epsilon=a"], ["epsilon=0", "epsilon=1"], ["tf32=maybe"]):
        with pytest.raises(ValueError, match="--grid"):
            list(sweep.grid(bad))


def test_a_sweep_runs_every_point_once_and_resumes(tmp_path, capsys):
    words = ["sweep", *TINY, "--out", str(tmp_path), "--method", "at", "--grid", "epsilon=0,0.1"]
    assert main([*words, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.split()) == 2
    assert main(words) == 0
    files = {path: path.stat().st_mtime_ns for path in evidence_files(tmp_path)}
    epsilons = {Evidence.read(path).setting["method"]["attack"]["epsilon"] for path in files}
    assert epsilons == {0.0, 0.1}
    assert main(words) == 0 and files == {path: path.stat().st_mtime_ns for path in evidence_files(tmp_path)}
    assert main(["sweep", *TINY, "--grid", "epsilon=9"]) == 2


CLUSTER = """
import os, sys
from dask.distributed import LocalCluster
from empirical.__main__ import main
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
        status = main(sys.argv[1:])
        print(len(cluster.scheduler.workers), "workers")
    sys.exit(status)
"""


@pytest.mark.slow
def test_a_sweep_on_a_dask_cluster_of_two_workers_makes_the_runs_of_this_machine(tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    words = ["sweep", *TINY, "--epochs", "1", "--method", "standard", "--grid", "learning-rate=0.1,0.05"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "cluster.py"), *words, "--backend", "dask", "--out", str(tmp_path / "dask")],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "1 hour",  # however loaded the machine
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10 minutes",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 workers" in done.stdout
    assert main([*words, "--out", str(tmp_path / "here")]) == 0
    ours, theirs = evidence_files(tmp_path / "here"), evidence_files(tmp_path / "dask")
    assert [path.name for path in ours] == [path.name for path in theirs] and len(ours) == 2
    for mine, yours in zip(ours, theirs, strict=True):
        first, second = Evidence.read(mine), Evidence.read(yours)
        assert all(np.array_equal(first.arrays[name], second.arrays[name], equal_nan=True) for name in first.arrays)


def test_a_backend_that_is_not_installed_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    assert main(["sweep", *TINY, "--out", str(tmp_path), "--backend", "dask"]) == 2
    assert "needs the package distributed; install the extra `cluster`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sweep", "reproduce"])
def test_every_run_is_in_exactly_one_part(command, capsys, monkeypatch):
    listed = {"sweep": ["--preset", "smoke", "--grid", "epsilon=0,0.1", "--dry-run"], "reproduce": ["--dry-run"]}
    planned = []
    monkeypatch.setattr(train_command, "execute", lambda jobs, args, **_: planned.extend(jobs))

    def runs(*words):
        planned.clear()
        assert main([command, *listed.get(command, ["--preset", "smoke"]), "--seeds", "3", *words]) == 0
        said = capsys.readouterr().out.split("\n")[:-1]
        return said or [job.label for job in planned]

    whole, parts = runs(), [runs("--shard", f"{index}/4") for index in range(1, 5)]
    assert sorted(run for part in parts for run in part) == sorted(whole) and len(set(whole)) == len(whole) >= 6
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 and runs("--shard", "2/4") == parts[1]
    for bad in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4"):
        assert main([command, "--preset", "smoke", f"--shard={bad}"]) == 2
        assert "--shard" in capsys.readouterr().err


def test_the_parts_of_a_sweep_train_side_by_side_in_one_folder(tmp_path):
    words = ["sweep", *TINY, "--epochs", "1", "--method", "standard", "--grid", "learning-rate=0.1,0.05"]
    with hold(tmp_path):  # another part's, or a measurement's
        assert main([*words, "--out", str(tmp_path), "--shard", "1/2"]) == 0
    assert len(evidence_files(tmp_path)) == 1
    assert main([*words, "--out", str(tmp_path), "--shard", "2/2"]) == 0
    assert len(evidence_files(tmp_path)) == 2


def test_a_sweeps_runs_take_a_free_gpu_and_give_it_back(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr("empirical.training.run.train", lambda setting, **options: used.append(options["device"]))
    job = Job(setting=make_training("smoke", "at"), seed=0, options={"out": str(tmp_path), "device": "cuda"})
    with sweep._seats(4) as seats:
        local = sweep._Local(parent=os.getpid(), seats=seats, gpus=2)
        for _ in range(5):
            assert sweep._one(job, 1, None, local)[1] == 0
        taken = [seats.get(timeout=10) for _ in range(3)]
        assert sweep._one(job, 1, None, local)[1] == 0 and seats.get(timeout=10) not in taken
    assert used[:5] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"] and used[5] == "cuda:0"


def test_gpus_are_counted_and_refused_beside_one_device(capsys, monkeypatch, tmp_path):
    words = ["train", *TINY[:-2], "--out", str(tmp_path), "--gpus"]
    assert main([*words, "all", "--device", "cpu"]) == 2 and "--device cpu" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for asked in ("5", "0", "some"):
        assert main([*words, asked]) == 2 and "--gpus" in capsys.readouterr().err
    started = []
    monkeypatch.setattr("empirical.training.jobs.run_jobs", lambda jobs, **how: started.append((len(jobs), how)))
    for asked, more, workers, gpus in (("all", [], 4, 4), ("2", [], 2, 2), ("2", ["--jobs", "4"], 4, 2)):
        assert main([*words, asked, *more, "--seeds", "3"]) == 0
        count, how = started.pop()
        assert (count, how["workers"], how["gpus"]) == (6, workers, gpus)


def test_one_points_failure_does_not_lose_the_others(tmp_path, capsys):
    words = ["sweep", *TINY, "--out", str(tmp_path), "--method", "at", "--normalization", "none"]
    assert main([*words, "--grid", "learning-rate=1e30,0.1"]) == RUN_FAILED
    assert len(evidence_files(tmp_path)) == 1 and "not finite" in capsys.readouterr().err


# -- run ------------------------------------------------------------------------------------------------------------


def test_run_refuses_unknown_stages_and_trains_resumably(tmp_path, capsys):
    assert main(["run", *TINY, "--stages", "train,publish"]) == 2
    assert "publish" in capsys.readouterr().err
    words = ["run", *TINY, "--out", str(tmp_path), "--method", "at", "--stages", "train"]
    assert main(words) == 0 and main(words) == 0
    assert len(evidence_files(tmp_path)) == 1


# -- reproduction ---------------------------------------------------------------------------------------------------


def contributed(
    dataset: str = "cifar10", method: str = "at", shift: float = 0.0, checkpoints=(), **changes
) -> TrainingRun:
    """The record of a run in the published protocol whose curves are the reference's, moved by `shift` points."""
    setting = make_training(dataset, method, reproduction.published_overrides() | changes)
    reference = reproduction.REFERENCE[dataset, method]
    columns = {"epoch": np.arange(201.0)}
    noise = np.random.default_rng(0).normal(0, 1e-3, 201)
    for name, column in (("running_accuracy", 0), ("test_robust_accuracy", 1)):
        values = np.full(201, 0.3)
        for index, (first, last) in enumerate(reproduction.WINDOWS):
            values[first + 1 : last + 2] = (reference[index][column] + shift) / 100
        columns[name] = values + noise
    return training_run(run=setting, columns=columns, checkpoints=checkpoints)


@pytest.mark.parametrize("pair", sorted(reproduction.REFERENCE))
def test_the_register_supports_a_faithful_run_refutes_a_wrong_one_and_its_decoy(pair):
    entry = next(entry for entry in claims.CLAIMS if entry.claim.name == "published-{}-{}".format(*pair))
    (subject,) = entry.subjects([contributed(*pair)])
    verdict = entry.judge(subject)
    assert verdict.outcome is Outcome.SUPPORTED, verdict
    assert [decoy.outcome for decoy in verdict.decoys] == [Outcome.REFUTED]
    (subject,) = entry.subjects([contributed(*pair, shift=2.0)])
    assert entry.judge(subject).outcome is Outcome.REFUTED
    (table,) = (result for result in verdict.results if isinstance(result, Table))
    assert len(table.rows) == 6


def test_until_someone_runs_them_the_claims_stand_as_untested_visibly():
    run = training_run()
    for entry in claims.CLAIMS:
        assert list(entry.subjects([])) == []
        (subject,) = entry.subjects([run])
        verdict = entry.judge(subject)
        assert verdict.outcome is Outcome.NOT_APPLICABLE and "untested on" in verdict.note


def test_a_run_off_the_protocol_is_not_the_published_one():
    other = contributed(batch_size=256)
    (subject,) = claims.CLAIMS[0].subjects([other])
    assert subject.seen is None and not subject.records
    lines = reproduction.protocol_differences(other.training, "cifar10", "at")
    assert lines == ["batch_size: 256, not 128"]
    assert reproduction.protocol_differences(contributed(channels_last=True).training, "cifar10", "at") == []


def test_validate_checks_numbers_protocol_and_digests(tmp_path, capsys):
    contributed().to_evidence().write(tmp_path / "good")
    assert main(["validate", str(tmp_path / "good")]) == 0
    assert "1 of 1 runs pass" in capsys.readouterr().out
    contributed(shift=1.5).to_evidence().write(tmp_path / "off")
    assert main(["validate", str(tmp_path / "off")]) == 1
    assert "OUTSIDE" in capsys.readouterr().out
    contributed(weight_decay=1e-4).to_evidence().write(tmp_path / "other")
    assert main(["validate", str(tmp_path / "other")]) == 1
    assert "protocol: optimizer.weight_decay: 0.0001, not 0.0005" in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "nothing")]) == 2

    path = next((tmp_path / "good" / "evidence" / "training").glob("*.json"))
    record = json.loads(path.read_text())
    record["seed"] = 7
    path.write_text(json.dumps(record))
    assert main(["validate", str(tmp_path / "good")]) == 2
    assert "was edited" in capsys.readouterr().err


def test_validate_notices_a_checkpoint_that_was_replaced(tmp_path, capsys):
    file = tmp_path / "runs" / "r" / "checkpoints" / "epoch-0001.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"other weights")
    entry = StoredCheckpoint(file=str(file.relative_to(tmp_path)), epoch=1, iteration=391, sha256="0" * 64)
    contributed(checkpoints=(entry,)).to_evidence().write(tmp_path)
    assert main(["validate", str(tmp_path)]) == 1
    assert "not the one that was recorded" in capsys.readouterr().out


def test_reproduce_lists_the_matrix(capsys):
    assert main(["reproduce", "--dataset", "cifar10", "svhn", "--seeds", "3", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * 2 * 3


def test_runs_that_share_a_label_keep_to_the_number_of_workers(tmp_path):
    """Two jobs of one method and seed are two runs: at most `workers` at once, and each one waited for."""
    tiny = {"train_size": 32, "test_size": 16, "batch_size": 16, "epochs": 1, "masking_probe": 0}
    jobs = [
        Job(
            setting=make_training("smoke", "standard", tiny | {"learning_rate": rate}),
            seed=0,
            options={"out": str(tmp_path)},
        )
        for rate in (0.1, 0.05, 0.02)
    ]
    assert len({job.label for job in jobs}) == 1
    alive, real = [], multiprocessing.get_context("spawn").Process.start

    def counted(process):
        alive.append(sum(child.is_alive() for child in multiprocessing.active_children()))
        real(process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.get_context("spawn").Process, "start", counted)
        run_jobs(jobs, workers=2, threads=1, show=lambda *_: None)
    assert len(alive) == 3 and max(alive) < 2
    assert len(list(tmp_path.glob("runs/*/checkpoints/epoch-0001.pt"))) == 3
