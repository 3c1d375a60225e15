"""The chain of commands for a first GPU, made small on a CPU: in order, killed and gone on with, and not made twice."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from empirical.records import Spectrum, TrainingRun, read_records
from empirical.settings.presets import make_training
from empirical.training import doctor
from spikeshrink import main as spikeshrink
from tests import gpu_evidence
from tests.benchmarks.iterations import cifar_shaped, published_minutes
from tests.benchmarks.trace import trace_step
from tests.test_documentation import command_lines, parsed
from theory.judge.front import RUN_FAILED

TRAIN = "--preset smoke --method at awp --train-size 32 --test-size 16 --batch-size 16 --epochs 2 --masking-probe 0"
TRAIN += " --network convnet --widths 4,8 --steps 1 --evaluation-steps 1 --quiet --jobs 1"
#: The options that the chain has for a GPU, with smaller numbers.
SMALL = {"--k": "2", "--checkpoints": "2", "--samples": "32", "--chunk": "16", "--groups": "0"}
SPEED = {"runs": {}, "traces": {}}


def small(text):
    words = shlex.split(text)
    for option, value in SMALL.items():
        words[words.index(option) + 1] = value
    return shlex.join([*words, "--probes", "2", "--batches", "8", "--resamples", "99", "--jobs", "1", "--quiet"])


@pytest.fixture
def chain(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "STEPS", 5)
    monkeypatch.setattr(doctor, "seconds_of_a_pass", lambda setting, device: 1e-3)
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    seen = []

    def run(words, seconds, prints):
        """In this process, the table of speeds apart, which minutes of another test make."""
        seen.append(words)
        if words[0] == "python":
            (tmp_path / "speed.json").write_text(json.dumps(SPEED))
            return 0
        status = spikeshrink(list(words[1:]))
        if prints and status == 0:
            prints.write_text("doctor: fit\n")
        return status

    words = ["--out", tmp_path, "--device", "cpu", "--train-options", TRAIN]
    words += ["--measure-options", small(gpu_evidence.SPECTRA), "--scale-options", small(gpu_evidence.AT_SCALE)]
    return [str(word) for word in words], run, seen


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_chain_makes_everything_once_and_in_order(chain, tmp_path, capsys):
    words, run, seen = chain
    assert gpu_evidence.main(words, run) == 0, capsys.readouterr().err
    assert [command[1] if command[1] != "empirical" else command[2] for command in seen] == [
        *("doctor", "train", "measure", "measure", "verify", "report", "-m")
    ]
    runs = read_records(tmp_path / "fashion")
    assert sum(isinstance(item, TrainingRun) for item in runs) == 2
    spectra = [item for item in runs if isinstance(item, Spectrum)]
    assert {item.measurement.batch_norm for item in spectra} == {"eval", "train"} and len(spectra) == 8
    assert len([item for item in read_records(tmp_path / "scale") if isinstance(item, Spectrum)]) == 4
    assert (tmp_path / "fashion" / "verdicts.json").exists() and (tmp_path / "fashion" / "index.html").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("evidence/*/*")}
    assert gpu_evidence.main(words, run) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("evidence/*/*")}
    said = capsys.readouterr().err
    assert "== doctor: there" in said and "== speed: there" in said and "gpu: all of it is there" in said


def test_a_part_that_fails_stops_the_chain_and_time_that_is_over_ends_it_with_75(tmp_path, capsys):
    calls = []

    def run(words, seconds, prints):
        calls.append((words[1], seconds))
        return 2 if len(calls) == 2 else 0

    assert gpu_evidence.main(["--out", str(tmp_path)], run) == 2
    assert "train ended with status 2; call again to go on" in capsys.readouterr().err
    assert [name for name, _ in calls] == ["doctor", "empirical"]
    assert gpu_evidence.main(["--out", str(tmp_path), "--minutes", "0"], run) == RUN_FAILED == 75
    assert "time is over before doctor" in capsys.readouterr().err and len(calls) == 2


def test_a_command_whose_time_is_over_is_stopped_and_one_that_fails_prints_into_no_file(tmp_path):
    assert gpu_evidence.carried_out(["python", "-c", "import time; time.sleep(60)"], 0.5, None) == RUN_FAILED
    made = tmp_path / "said.txt"
    assert gpu_evidence.carried_out(["python", "-c", "print(1); raise SystemExit(3)"], None, made) == 3
    assert not made.exists()
    assert gpu_evidence.carried_out(["python", "-c", "print(1)"], None, made) == 0
    assert made.read_text() == "1\n" and sys.executable


def test_the_commands_for_a_gpu_are_ones_that_their_programs_take(tmp_path):
    made = gpu_evidence.parts(gpu_evidence.parser().parse_args(["--out", str(tmp_path)]))
    for part in made:
        parsed(list(part.words))
    scale = next(part for part in made if part.name == "at scale").words
    assert int(scale[scale.index("--samples") + 1]) >= 4096 and int(scale[scale.index("--k") + 1]) == 10
    spectra = next(part for part in made if part.name == "spectra").words
    assert int(spectra[spectra.index("--checkpoints") + 1]) >= 12


@pytest.mark.parametrize("method", ["at", "awp"])
def test_a_step_makes_the_host_wait_for_nothing(method):
    """On a CPU nothing waits, but what would read a number back from a device is an operation of its own there too."""
    changes = {"network": "convnet", "widths": (4, 8), "steps": 2, "awp_warmup": 0}
    setting = cifar_shaped(
        method, batch_size=4, **{k: v for k, v in changes.items() if method == "awp" or k[:3] != "awp"}
    )
    found = trace_step(setting, device="cpu")
    assert found["waits"] == {} and found["events"] > 50 and found["longest_microseconds"]


def test_a_step_that_reads_a_number_back_is_seen(monkeypatch):
    from empirical.training.trainer import Trainer

    plain = Trainer.step

    def step(self):
        found = plain(self)
        float(found.loss)
        return found

    monkeypatch.setattr(Trainer, "step", step)
    setting = cifar_shaped("at", batch_size=4, network="convnet", widths=(4, 8), steps=2)
    assert trace_step(setting, device="cpu")["waits"]["aten::_local_scalar_dense"] >= 1


@pytest.mark.slow
def test_the_measurement_at_scale_of_the_tutorial_is_a_command_that_runs_small(tmp_path, capsys):
    page = Path(__file__).parents[1] / "docs" / "tutorials" / "gpu.md"
    lines = [words for words in command_lines(page) if words[:3] == ["spikeshrink", "empirical", "measure"]]
    assert len(lines) == 2 and sum("--dry-run" in words for words in lines) == 1
    runs = tmp_path / "runs"
    assert spikeshrink(["empirical", "train", *shlex.split(TRAIN), "--out", str(runs)]) == 0
    for words in lines:
        assert int(words[words.index("--samples") + 1]) >= 4096
        changed = shlex.split(small(shlex.join(words[4:])))
        changed[changed.index("--device") + 1] = "cpu"
        if "--out" in changed:
            changed[changed.index("--out") + 1] = str(tmp_path / "scale")
        if "--dry-run" in changed:
            changed.remove("--quiet")
        capsys.readouterr()
        assert spikeshrink(["empirical", "measure", str(runs), *changed]) == 0
        assert ("plan: " in capsys.readouterr().out) == ("--dry-run" in changed)
    spectra = [item for item in read_records(tmp_path / "scale") if isinstance(item, Spectrum)]
    assert len(spectra) == 4 and all(item.sharpness.value and item.alignment.chi.value for item in spectra)


def test_the_minutes_of_a_published_run_are_those_of_training_and_evaluation():
    """Of AT by hand: 200 epochs of 50,000 images, 23 passes each; 201 evaluations by PGD-20, 42 passes an image."""
    published = make_training("cifar10", "at")
    evaluated = 10_000 + (published.evaluation.train_probe or 10_000) + published.data.validation_size
    passes = 200 * 50_000 * 23 + 201 * evaluated * (2 * 20 + 2)
    assert published.evaluation.every == 1 and published.evaluation.attack.steps == 20
    assert published_minutes("at", 23 * 60.0) == pytest.approx(passes)
