"""What measuring costs: said beforehand, honest while it runs, and its memory bounded by the chunk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from empirical.__main__ import main
from empirical.measure.cost import Rates, Stage, Watch, duration
from empirical.measure.landscape import GRADIENT_BYTES, Landscape
from empirical.measure.operators import HessianOperator, project_gradients
from empirical.settings.presets import make_training
from empirical.training.run import train

ROOT = Path(__file__).parents[3]
RATES = Rates(
    seconds={"attack": 0.1, "gradient": 0.1, "product": 0.1, "covariance": 0.1}, images=8, saved_bytes=100, weights=10
)
SPECTRUM = ["--k", "2", "--smallest", "0", "--probes", "2", "--groups", "0", "--jobs", "1"]
SPECTRUM += ["--replicas", "0", "--window", "0", "--no-expansions", "--dtype", "float32"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_time_left_is_corrected_by_the_time_taken():
    """Three equal tasks of two stages; work takes three times, and five times, what a short trial promised."""
    stages = (Stage(name="curvature", samples={"product": 100}), Stage(name="noise", samples={"covariance": 50}))
    clock, lines = Clock(), []
    watch = Watch([(RATES, stages)] * 3, note=lines.append, every=10.0, clock=clock)
    assert watch.left == pytest.approx(3 * 15)
    for number in range(3):
        watch.task(f"epoch {number}")
        for stage, slower in zip(stages, (3, 5), strict=True):
            watch.stage(stage.name)
            (kind,) = stage.samples
            for _ in range(10):
                clock.now += slower * stage.seconds(RATES) / 10
                watch.tick(kind, stage.samples[kind] / 10)
                truth = 3 * (3 * 10 + 5 * 5) - clock.now
                if number > 0:  # both stages are known; the last tenth of one is never given up
                    assert watch.left == pytest.approx(truth, rel=0.02, abs=0.06 * slower * stage.seconds(RATES))
    watch.finish()
    assert watch.left == 0
    assert len(lines) >= 5 and all(re.fullmatch(r"epoch \d: \w+, \d of 3, about .* left", line) for line in lines)


def test_a_stage_that_takes_more_than_planned_is_not_said_to_be_over():
    clock = Clock()
    watch = Watch([(RATES, (Stage(name="curvature", samples={"product": 10}),))], clock=clock)
    watch.task("one")
    watch.stage("curvature")
    for _ in range(100):
        clock.now += 1
        watch.tick("product", 1)
        assert watch.left > 0


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3:05 min"), (7830, "2 h 10 min")])
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    changes = {"epochs": 2, "masking_probe": 0, "train_size": 64, "test_size": 32}
    train(make_training("smoke", "at", changes), seed=0, out=folder)
    return folder


def test_a_plan_states_work_seconds_and_memory_and_writes_nothing(out, tmp_path, capsys):
    assert main(["measure", str(out), *SPECTRUM, "--out", str(tmp_path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "plan: 6 spectra (checkpoints × batch-norm modes eval, train)" in text
    assert re.search(r"64 images: \d+ products with H, \d+ with C, \d+ gradients, \d+ attack steps: about \d+ s", text)
    assert "GiB at --chunk 1024" in text and re.search(r"plan: about .* in all", text)
    assert not list(tmp_path.iterdir())


def test_what_was_planned_is_what_is_done(out, tmp_path, capsys, monkeypatch):
    """Every stage that is planned is come to, in that order, and its work is counted; then nothing is left to plan."""
    seen = []
    stage, settle = Watch.stage, Watch._settle

    def told(self, name):
        stage(self, name)
        seen.append((name, self.running.seconds))

    def settled(self):
        if self.running is not None and self.running.name in ("curvature", "commutation"):
            assert self.done > 0
        settle(self)

    monkeypatch.setattr(Watch, "stage", told)
    monkeypatch.setattr(Watch, "_settle", settled)
    monkeypatch.setitem(Watch.__init__.__kwdefaults__, "every", 0.0)
    words = ["measure", str(out), *SPECTRUM, "--out", str(tmp_path), "--batch-norm", "eval"]
    assert main(words) == 0
    planned = [name for name, seconds in seen if seconds > 0]
    stages = "inputs curvature noise directions commutation sharpness gap repeats cross-fit average".split()
    assert [name for name in planned if name != "average"] == 3 * stages[:-1] and set(planned) <= set(stages)
    error = capsys.readouterr().err
    assert error.startswith("plan: 3 spectra")
    assert re.search(r"epoch \d eval: curvature, 2 of 3, about \d+ s left", error)
    assert main(words) == 0
    assert "plan: all of it is measured already" in capsys.readouterr().err


def test_a_chunk_counts_samples_where_units_are_batches_too():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 3, generator=generator), torch.arange(64) % 2
    whole = Landscape(model, x, y, batch_norm="train", batch_size=8)
    narrow = Landscape(model, x, y, batch_norm="train", batch_size=8, chunk=20)
    assert [len(units) for units in whole.chunks()] == [8]
    assert [len(units) for units in narrow.chunks()] == [2, 2, 2, 2]
    assert [len(units) for units in narrow.in_chunks(3).chunks()] == [1] * 8  # a batch is never cut
    identity = torch.eye(whole.dimension, dtype=torch.float64)
    found = HessianOperator(narrow).matmat(identity)
    torch.testing.assert_close(found, HessianOperator(whole).matmat(identity), rtol=1e-10, atol=1e-12)


def test_vectors_of_single_samples_are_never_held_by_the_chunk(monkeypatch):
    """A chunk of 1,024 gradients of 11 million weights would be 46 GB."""
    model = torch.nn.Linear(300, 10)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 300, generator=generator), torch.arange(40) % 10
    landscape = Landscape(model, x, y, dtype=torch.float32)
    directions = torch.randn(landscape.dimension, 3, generator=generator)
    plain = project_gradients(landscape, directions, method="per-sample-gradients").values
    monkeypatch.setattr("empirical.measure.landscape.GRADIENT_BYTES", 5 * 4 * landscape.dimension)
    held = [len(units) for units in landscape.gradient_chunks()]
    assert held == [5] * 8
    again = project_gradients(landscape, directions, method="per-sample-gradients").values
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)
    eleven_million = 11_173_962 * 4
    assert GRADIENT_BYTES // eleven_million >= 1


#: A command in a process of its own, and the largest memory that it held.
PEAK = """
import resource, sys
import torch
torch.set_num_threads(1)
from empirical.__main__ import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_memory_is_bounded_by_the_chunk_and_not_by_the_images(tmp_path, mode):
    """Four times the images, or batches of them, in the same memory; twice the chunk takes more."""
    changes = {"network": "convnet", "widths": (16, 32), "train_size": 256, "test_size": 8, "batch_size": 8}
    changes |= {"epochs": 1, "masking_probe": 0, "train_probe": 8, "steps": 1, "evaluation_steps": 1}
    train(make_training("cifar10", "at", {"dataset": "generated", **changes, "milestones": ()}), seed=0, out=tmp_path)
    peaks = {}
    for images, chunk in ((64, 32), (256, 32), (256, 128)):
        words = [
            "measure",
            str(tmp_path),
            *SPECTRUM,
            "--checkpoints",
            "1",
            "--batch-norm",
            mode,
            "--samples",
            str(images),
        ]
        words += ["--chunk", str(chunk), "--batches", str(images // 8), "--resamples", "99", "--tolerance", "0.05"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words, "--out", str(tmp_path / f"{images}-{chunk}"), "--quiet"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        peaks[images, chunk] = int(done.stdout.split()[-1]) / 1024  # MiB
    assert peaks[256, 32] < peaks[64, 32] + 64, peaks
    assert peaks[256, 128] > peaks[256, 32] + 64, peaks


def test_a_sweep_that_measures_says_what_it_costs_and_reads_its_own_data_folder(tmp_path, capfd, monkeypatch):
    """In a worker, as the sweep makes it: what `measure` says of a run, and the folder that its training read."""
    from empirical.commands import sweep
    from empirical.settings.measuring import Measurement, Measuring
    from empirical.training.jobs import Job

    changes = {"epochs": 1, "masking_probe": 0, "train_size": 32, "test_size": 16, "milestones": ()}
    options = {"out": str(tmp_path), "device": "cpu", "data_root": str(tmp_path / "images"), "download": False}
    job = Job(setting=make_training("smoke", "at", changes), seed=0, options=options)
    small = Measurement(eigenpairs=2, smallest=0, probes=2, resamples=99, dtype="float32", tolerance=1e-2)
    what = Measuring(measurement=small, modes=("eval",), checkpoints=1, replicas=0, window=0, expansions=False)
    places = []
    plain = sweep.measure.measure
    monkeypatch.setattr(
        sweep.measure,
        "measure",
        lambda paths, what, place, **how: places.append(place) or plain(paths, what, place, **how),
    )
    name, status, trouble = sweep._one(job, 1, what, None)
    assert (status, trouble) == (0, "")
    assert places[0].data_root == str(tmp_path / "images") and not places[0].download
    said = capfd.readouterr().err
    assert "plan: 1 spectra" in said and f"{name} checkpoints" in said
