"""All that a first GPU is asked for, in order: is it fit, real images by the published network, how fast.

``python -m tests.gpu_evidence --out FOLDER`` (``nox -s gpu``) makes, one after another and each in a process of its
own: the examination (`doctor`), AT and AWP of PreActResNet-18 on Fashion-MNIST, spectra of both runs at twelve
checkpoints in both batch-norm modes, the top of H and C at the ends of the runs over 4,096 images, verdicts and pages,
and the table of speeds with a trace of the step. What is there is left alone, so that it can be killed at any time and
called again; ``--minutes 9`` does as much as fits, ends with status 75 if something is left, and the next call goes on.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from theory.judge.files import atomic_write
from theory.judge.front import RUN_FAILED

#: The published run on the images that travel with a command; epochs and images are what a longer lease may raise.
TRAIN = "--preset cifar10 --dataset fashion-mnist --method at awp --validation-size 1000 --train-size 20000"
TRAIN += " --epochs 60 --milestones 30,45"
#: A minute or two a spectrum; the ensembles are another day's work.
SPECTRA = (
    "--k 10 --checkpoints 12 --batch-norm eval train --samples 1024 --chunk 256 --groups 0 --replicas 0 --window 0"
)
#: Top-10 of H, γ, χ and batch sharpness at the end of each run, on all the images a measurement takes.
AT_SCALE = "--k 10 --checkpoints 1 --batch-norm eval --samples 4096 --chunk 256 --groups 0 --replicas 0 --window 0"

#: Words of a command, the seconds it may take (None: any number), a file that gets what it prints: its exit status.
Run = Callable[[Sequence[str], "float | None", "Path | None"], int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One command of the chain.

    Args:
        name: what a reader calls it.
        words: the command.
        made: the file that says that it is done; None where the command itself leaves alone what is there.
        prints: whether that file is what it prints.
        passes: exit statuses that go on.
    """

    name: str
    words: tuple[str, ...]
    made: Path | None = None
    prints: bool = False
    passes: tuple[int, ...] = (0,)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_evidence", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/local/gpu"), help="folder (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop after so many, with status 75 if something is left")
    parser.add_argument("--data-root", default="data", help="folder of the images (default: %(default)s)")
    parser.add_argument("--train-options", default=TRAIN, metavar="TEXT", help="options of `train` (%(default)s)")
    parser.add_argument("--measure-options", default=SPECTRA, metavar="TEXT", help="options of `measure` (%(default)s)")
    parser.add_argument("--scale-options", default=AT_SCALE, metavar="TEXT", help="of the second one (%(default)s)")
    parser.add_argument("--speed-options", default="--trace", metavar="TEXT", help="options of the table of speeds")
    return parser


def parts(args: argparse.Namespace) -> list[Part]:
    """The commands in their order."""
    out, device = args.out, ("--device", args.device)
    place = (*device, "--data-root", args.data_root)
    runs = out / "fashion"

    def ours(*words: object) -> tuple[str, ...]:
        return tuple(str(word) for word in ("spikeshrink", *words))

    train = shlex.split(args.train_options)
    spectra, at_scale = shlex.split(args.measure_options), shlex.split(args.scale_options)
    return [
        Part(name="doctor", words=ours("doctor", *device), made=out / "doctor.txt", prints=True),
        Part(name="train", words=ours("empirical", "train", *train, *place, "--out", runs, "--resume")),
        Part(name="spectra", words=ours("empirical", "measure", runs, *spectra, "--no-expansions", *place)),
        Part(
            name="at scale",
            words=ours("empirical", "measure", runs, *at_scale, "--no-expansions", *place, "--out", out / "scale"),
        ),
        # Verdicts that refute or stay open are results.
        Part(name="verdicts", words=ours("empirical", "verify", runs), passes=(0, 1, 3)),
        Part(name="pages", words=ours("report", "build", runs)),
        Part(
            name="speed",
            words=(
                *("python", "-m", "tests.benchmarks", *device, *shlex.split(args.speed_options)),
                *("--out", str(out / "speed.json")),
            ),
            made=out / "speed.json",
        ),
    ]


def carried_out(words: Sequence[str], seconds: float | None, prints: Path | None) -> int:
    """The command in a process of its own, asked to stop once its time is over (then `RUN_FAILED`)."""
    module = {"spikeshrink": [sys.executable, "-m", "spikeshrink"], "python": [sys.executable]}[words[0]]
    process = subprocess.Popen([*module, *words[1:]], stdout=subprocess.PIPE if prints else None, text=True)
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # a run keeps a checkpoint first
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return RUN_FAILED
    if prints:
        print(printed, end="")
        if process.returncode == 0:
            atomic_write(prints, printed.encode(), overwrite=True)
    return process.returncode


def main(arguments: Sequence[str] | None = None, run: Run = carried_out) -> int:
    """Do what is left; 0, `RUN_FAILED` where time was over, or the status of the part that failed."""
    args = parser().parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    end = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    for part in parts(args):
        if part.made is not None and part.made.exists():
            print(f"== {part.name}: there", file=sys.stderr, flush=True)
            continue
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            print(f"gpu: time is over before {part.name}; call again to go on", file=sys.stderr)
            return RUN_FAILED
        print(f"== {part.name}: {shlex.join(part.words)}", file=sys.stderr, flush=True)
        status = run(part.words, left, part.made if part.prints else None)
        if status not in part.passes:
            print(f"gpu: {part.name} ended with status {status}; call again to go on", file=sys.stderr)
            return status
    print(f"gpu: all of it is there; commit {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
