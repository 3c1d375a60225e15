"""The commands that are killed, each small enough to be run hundreds of times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.empirical.log_writing import text_log, training_run
from tests.faults.killing import Scenario

#: A run of five seconds of which three are PyTorch's own start.
TRAINING = (
    "--preset smoke --train-size 32 --test-size 16 --batch-size 16 --epochs 3 --milestones 2 --widths 2 --steps 1 "
    "--evaluation-steps 1 --masking-probe 8 --normalization group --log-window 1 --ema 0.9 --quiet --jobs 1 --threads 1"
).split()
MEASURING = (
    "--k 2 --probes 2 --groups 0 --replicas 4 --ensemble-steps 2 --ensemble-after 2 --window 24 --samples 32 --evaluated 8 --checkpoints 3"
).split()
CLAIM = "impulse-response"


def empirical(*words: str) -> Callable[[Path], int]:
    """The command with ``OUT`` standing for the results folder."""

    def run(out: Path) -> int:
        from empirical.__main__ import main

        return main([word.replace("OUT", str(out)) for word in words])

    return run


def theory(*words: str) -> Callable[[Path], int]:
    def run(out: Path) -> int:
        from theory.__main__ import main

        return main([word.replace("OUT", str(out)) for word in words])

    return run


def reports(*words: str) -> Callable[[Path], int]:
    def run(out: Path) -> int:
        from reports.__main__ import main

        return main([word.replace("OUT", str(out)) for word in words])

    return run


def logs(out: Path) -> None:
    folder = out.parent / "logs"
    if not folder.exists():
        folder.mkdir()
        for seed in range(3):
            text = text_log(training_run(epochs=30, decays=(15, 22), seed=seed))
            (folder / f"at-{seed}.log").write_text(text)


def trained(out: Path) -> None:
    empirical("train", *TRAINING, "--method", "at", "--out", "OUT")(out)


def judged(out: Path) -> None:
    logs(out)
    empirical("import", "OUT/../logs", "--out", "OUT")(out)
    empirical("verify", "OUT")(out)


def scenarios() -> tuple[Scenario, ...]:
    """Every command that writes a results folder."""
    train = ("train", *TRAINING, "--method", "at", "--out", "OUT")
    return (
        Scenario(name="train", run=empirical(*train), again=empirical(*train, "--resume")),
        Scenario(
            name="measure",
            run=empirical("measure", "OUT", *MEASURING, "--jobs", "1", "--quiet"),
            prepare=trained,
        ),
        Scenario(
            name="sweep",
            run=empirical("sweep", *TRAINING, "--method", "at", "--grid", "epsilon=0,0.1", "--out", "OUT"),
        ),
        Scenario(
            name="run",
            run=empirical(
                "run",
                "--stages",
                "train,measure,verify",  # the controls are eight runs of minutes; pages show how long things took
                *TRAINING,
                "--method",
                "at",
                "--out",
                "OUT",
                "--measure-options",
                " ".join([*MEASURING, "--replicas", "0", "--window", "0"]),
            ),
        ),
        Scenario(name="import", run=empirical("import", "OUT/../logs", "--out", "OUT"), prepare=logs),
        Scenario(name="verify", run=empirical("verify", "OUT"), prepare=judged),
        Scenario(name="reports build", run=reports("build", "OUT", "--figures"), prepare=judged),
        Scenario(name="theory verify", run=theory("verify", "--claims", CLAIM, "--out", "OUT")),
    )
