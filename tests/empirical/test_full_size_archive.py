"""From an archive of full size to a report: few of its images, killed on the way, by the path that a GPU takes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from empirical.records import RobustAccuracy, Spectrum, TrainingRun, read_records

ROOT = Path(__file__).parents[2]

#: A command of ours where torchvision knows the archive's checksums, the compiler leaves networks alone, and a graph's
#: static output is overwritten by the next replay, as a CUDA graph's is.
COMMAND = """
import json, sys
import torch
torch.set_num_threads(1)
from torchvision.datasets import CIFAR10
digests = json.load(open(sys.argv[1]))
CIFAR10.train_list = [[name, digests[name]] for name in sorted(digests) if name.startswith("data_batch")]
CIFAR10.test_list = [["test_batch", digests["test_batch"]]]
CIFAR10.meta = {"filename": "batches.meta", "key": "label_names", "md5": digests["batches.meta"]}
import empirical.training.graph as graph
import empirical.training.trainer as trainer
from tests.empirical.test_training import replayed_on_the_cpu
graph.capture = replayed_on_the_cpu
trainer._compiled = lambda model: model
from empirical.__main__ import main
sys.exit(main(sys.argv[2:]))
"""

FAST = "--autocast bfloat16 --channels-last --compile --cuda-graph --no-deterministic".split()
SMALL = "--network convnet --widths 4,8 --train-size 64 --validation-size 32 --test-size 32 --batch-size 32 --steps 2"
SMALL += " --epochs 6 --milestones 3 --checkpoint-epochs 0,2,3,4,6 --evaluation-steps 2 --train-probe 32"
SMALL += " --masking-probe 0 --log-window 2"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """50,000 + 10,000 images in torchvision's six pickles: a class's images around a pattern of its own."""
    pytest.importorskip("torchvision")
    root = tmp_path_factory.mktemp("data")
    base = root / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (10, 3072), dtype=np.uint8)
    digests = {}
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        labels = rng.integers(0, 10, 10_000)
        images = rng.integers(0, 128, (10_000, 3072), dtype=np.uint8) + patterns[labels]
        content = pickle.dumps({"data": images, "labels": labels.tolist()})
        (base / name).write_bytes(content)
        digests[name] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({"label_names": [str(number) for number in range(10)]})
    (base / "batches.meta").write_bytes(content)
    digests["batches.meta"] = hashlib.md5(content).hexdigest()
    assert sum(path.stat().st_size for path in base.iterdir()) > 60_000 * 3072
    (root / "digests.json").write_text(json.dumps(digests))
    yield root
    for path in base.iterdir():  # 180 MB
        path.unlink()


def started(archive, *words):
    (archive / "command.py").write_text(COMMAND)
    return subprocess.Popen(
        [sys.executable, str(archive / "command.py"), str(archive / "digests.json"), *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(archive, *words):
    process = started(archive, *words)
    out, error = process.communicate(timeout=400)
    return process.returncode, out, error


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_train_kill_resume_evaluate_measure_verify_report(archive, tmp_path):
    out = tmp_path / "out"
    place = ["--data-root", archive, "--no-download", "--device", "cpu", "--quiet"]
    words = [
        "train",
        "--preset",
        "cifar10",
        "--method",
        "at",
        *SMALL.split(),
        *FAST,
        *place,
        "--jobs",
        "1",
        "--out",
        out,
    ]
    process = started(archive, *words)
    while process.poll() is None and not list(out.glob("runs/*/checkpoints/epoch-0002.pt")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL or list(
        out.glob("evidence/training/*.json")
    )  # or too fast to be killed
    status, _, error = done(archive, *words, "--resume")
    assert status == 0, error
    (run,) = read_records(out, [TrainingRun])
    assert isinstance(run, TrainingRun) and run.training.precision.cuda_graph and run.training.precision.compile
    assert (run.num_train, run.num_validation, run.num_test) == (64, 32, 32) and run.best is not None
    (folder,) = out.glob("runs/*")
    assert (folder / "checkpoints" / "best.pt").exists()

    strong = ["--attacks", "apgd-ce", "--attack-steps", "3"]
    status, said, error = done(archive, "evaluate", folder / "checkpoints" / "best.pt", *strong, *place)
    assert status == 0 and "[cifar10 test]" in said, error
    (robust,) = read_records(out, [RobustAccuracy])
    assert isinstance(robust, RobustAccuracy) and len(robust.first_failure) == 32
    assert robust.training == run.training

    few = "--k 2 --smallest 0 --replicas 0 --window 0 --checkpoints 2 --batch-norm eval --jobs 1".split()
    status, _, error = done(archive, "measure", out, *few, *place)
    assert status == 0, error
    assert len(read_records(out, [Spectrum])) == 2
    status, _, error = done(archive, "verify", out)
    assert status in (0, 3), error
    assert (out / "verdicts.json").exists()
    report = subprocess.run(
        [sys.executable, "-m", "reports", "build", str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert report.returncode == 0 and (out / "index.html").exists(), report.stderr
