"""One run, one folder: train, evaluate, log, checkpoint, stop cleanly, resume to the bit, leave evidence.

    <out>/runs/<method>-seed<seed>-<run-id>/setting.json        the Setting and the seed
                                            metrics.jsonl       per iteration around decays, per epoch elsewhere
                                            checkpoints/epoch-0060.pt, …, last.pt
                                            checkpoints/best.pt where there is a validation split: of the epoch of the
                                                                largest validation robust accuracy, the early stopping
                                                                of Rice, Wong & Kolter 2020
                                            events.out.*        TensorBoard, where asked for
    <out>/evidence/training/<run-id>.json, .npz                 for the judge, when the run is complete

A kill at any moment costs the iterations since the last checkpoint and nothing else: files appear whole, and what the
log holds beyond that checkpoint is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from empirical.claims import registered
from empirical.data.resident import Data, Split, load_data
from empirical.network.build import build_network, parameter_count
from empirical.records.parts import SplitMetrics
from empirical.records.training import (
    EpochColumns,
    EpochLine,
    IterationColumns,
    MaskingReport,
    StoredCheckpoint,
    TrainingRun,
)
from empirical.settings.training import EXPERIMENT, Training
from empirical.training.boards import Board, open_boards
from empirical.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from empirical.training.distributed import SINGLE, World
from empirical.training.evaluate import evaluate
from empirical.training.masking import check_masking, svhn_trap
from empirical.training.metrics import MetricsLog, logged_iterations, read_metrics
from empirical.training.numerics import numerics
from empirical.training.trainer import Step, Trainer
from theory.judge.evidence import provenance
from theory.judge.files import atomic_write, hold, remove_partials, remove_stale_lock
from theory.judge.front import RUN_FAILED, out_of_memory
from theory.judge.reading import read_json

__all__ = ["STOPPING", "DivergedError", "Interrupted", "Progress", "RunFolder", "run_folder", "train"]

#: Signals after which the iteration is finished and a checkpoint written. Batch systems warn of a time limit by
#: SIGUSR1, where there is such a signal, and the job is to be queued again.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
#: Seconds between saves of `last.pt`: at most this much work is lost to a kill.
SAVE_EVERY = 15.0
#: Iterations between looks at the losses on a GPU, where each look waits for the device.
LOOK_EVERY = 50


class DivergedError(RuntimeError):
    """The loss is not finite: the run was stopped, its last checkpoint is good."""

    exit_status = RUN_FAILED


class Interrupted(Exception):
    """A signal that stops arrived: the iteration was finished and a checkpoint written."""

    def __init__(self, number: int, iteration: int | None) -> None:
        self.number, self.iteration = number, iteration
        when = "every run wrote its checkpoint" if iteration is None else f"after iteration {iteration}"
        super().__init__(f"stopped by {signal.Signals(number).name}, {when}; resume with --resume.")

    @property
    def exit_status(self) -> int:
        """128 + signal number, as shells have it: 130 for SIGINT, 138 for SIGUSR1 (on Linux), 143 for SIGTERM."""
        return 128 + self.number


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a person wants to see while it runs."""

    iteration: int
    num_iterations: int
    epoch: int
    epochs: int
    learning_rate: float
    loss: float
    train_accuracy: float
    robust_accuracy: float | None  # of the last evaluation, on validation images where there are some, else test
    seconds_left: float
    place: str  # device and precision


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run lives."""

    out: Path
    path: Path
    run_id: str

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.path / "metrics.jsonl"

    @property
    def evidence(self) -> Path:
        """The evidence of the completed run."""
        return self.out / "evidence" / EXPERIMENT / f"{self.run_id}.json"

    @property
    def complete(self) -> bool:
        """Whether the run left its evidence, which it does last."""
        return self.evidence.exists()

    def require_resume(self, resume: bool) -> None:
        """Refuse to go on with a run that is not finished unless that is what was asked for.

        Raises:
            ValueError: if there is one and `resume` is False.
        """
        if not resume and not self.complete and self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"`train(out=...)` holds an unfinished run at {self.path}; pass --resume or another folder."
            )

    def require_free(self) -> None:
        """Refuse to touch a run that another process is writing.

        Raises:
            FolderInUseError: naming the process.
        """
        if not self.complete and self.path.is_dir():
            with hold(self.path):
                pass

    def tidy(self) -> None:
        """Remove the temporary files of a writer of this run that was killed; for the run's one writer."""
        for place in (self.path, self.checkpoints):
            remove_partials(place)
        remove_partials(self.evidence.parent, self.run_id)


def run_folder(setting: Training, seed: int, out: str | Path) -> RunFolder:
    """The folder of this Setting and seed under `out`."""
    path = Path(out) / "runs" / setting.run_name(seed)
    return RunFolder(out=Path(out), path=path, run_id=setting.run_id(seed))


def train(
    setting: Training,
    *,
    seed: int,
    out: str | Path,
    device: torch.device | str = "cpu",
    data_root: str | Path = "data",
    download: bool = True,
    resume: bool = False,
    world: World = SINGLE,
    tensorboard: bool = False,
    wandb: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> RunFolder:
    """Train from the start, or from the newest checkpoint; a completed run is left as it is.

    Args:
        setting: what is trained.
        seed: root seed.
        out: folder of runs and evidence.
        device: "cpu", "cuda", "cuda:1".
        data_root: folder of downloaded archives.
        download: fetch missing archives.
        resume: continue an existing folder.
        world: this process among several; the first one writes.
        tensorboard: write TensorBoard events too.
        wandb: project of Weights & Biases to show the curves in too.
        progress: called after an iteration, at most every half second.
        note: called with sentences that a person should read.

    Raises:
        ValueError: if the folder holds a run that is not finished and `resume` is False, if another process writes it
            (`FolderInUseError`), or if the data is not there.
        DivergedError: if the loss is not finite.
        Interrupted: after SIGINT, SIGTERM or SIGUSR1.
        MemoryError: if memory runs out, naming the settings to lower.
        OSError: if the disk is full; the newest checkpoint is whole.
    """
    folder = run_folder(setting, seed, out)
    say = note or (lambda sentence: None)
    if folder.complete:
        if world.rank == 0:
            folder.tidy()  # its writer may have been killed after the evidence
            remove_stale_lock(folder.path)
        say(f"{folder.path.name} is complete.")
        return folder
    folder.require_resume(resume)
    world.require_share(setting)
    data = world.first_then_all(
        lambda first: load_data(setting.data, root=data_root, download=download and first, device=device)
    )
    try:
        with contextlib.ExitStack() as stack:
            if world.rank == 0:
                folder.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold(folder.path))
                folder.tidy()
            stack.enter_context(numerics(setting.precision))
            boards: list[Board] = []
            if world.rank == 0:
                boards = open_boards(folder.path, setting, run_id=folder.run_id, tensorboard=tensorboard, wandb=wandb)
            _Run(setting, seed, folder, data, torch.device(device), world, boards, progress, say).go()
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise MemoryError(_memory_advice(setting)) from None
        raise
    return folder


def _memory_advice(setting: Training) -> str:
    return (
        f"out of memory: lower --batch-size (now {setting.batch_size}) or --evaluation-batch-size "
        f"(now {setting.evaluation.batch_size}), or use --autocast bfloat16."
    )


class _Run:
    """The loop around a `Trainer`."""

    def __init__(
        self,
        setting: Training,
        seed: int,
        folder: RunFolder,
        data: Data,
        device: torch.device,
        world: World,
        boards: list[Board],
        progress: Callable[[Progress], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self.setting, self.seed, self.folder, self.data, self.world, self.say = setting, seed, folder, data, world, say
        self.started = time.time()
        self.claims: Mapping[str, str] = {}
        self.progress = progress if world.rank == 0 else None
        self.leads = world.rank == 0
        if self.leads:
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
            self.claims = _claims_at_first_start(folder.path / "setting.json")
            identity = {
                "run_id": folder.run_id,
                "seed": seed,
                "setting": setting.to_dict(),
                "claims": self.claims,
            }
            text = json.dumps(identity, indent=1, ensure_ascii=False) + "\n"
            atomic_write(folder.path / "setting.json", text.encode(), overwrite=True)
        world.wait()
        # Of loss and accuracy over the steps of the epoch under way, their number, and the sums of the clean ones.
        self.sums = np.zeros(5)
        self.decays = tuple(iteration for iteration, _, _ in setting.decays)
        self.trainer = self._start(device)
        self.first_iteration = self.trainer.iteration
        self.log: MetricsLog | None = None
        if self.leads:
            # At iteration 0 the initial network is evaluated and logged again, whatever was logged before.
            self.log = MetricsLog(folder.metrics, iteration=self.trainer.iteration or -1)
        self.boards = boards
        self.best = _largest_validation(folder.metrics) if self.leads else -math.inf
        self.pending: list[Step] = []
        self.last_progress = self.last_save = time.monotonic()
        self.shown: float | None = None
        if statistics := world.statistics(setting):
            self.say(f"batch-norm statistics in training: {statistics}.")
        for sentence in svhn_trap(setting.data.name, setting.method.attack, setting.evaluation.attack):
            self.say(f"warning: {sentence}")

    def _start(self, device: torch.device) -> Trainer:
        checkpoint, newest = self._newest()
        if checkpoint is None:
            return Trainer(self.setting, seed=self.seed, data=self.data, device=device, world=self.world)
        if checkpoint.setting != self.setting or checkpoint.seed != self.seed:
            raise ValueError(f"`train(resume=True)` found a checkpoint of another run at {newest}.")
        if checkpoint.world_size != self.world.size:
            self.say(
                f"warning: trained with {checkpoint.world_size} processes so far, continued with {self.world.size}; "
                "not the same to the bit."
            )
        self.say(f"resuming {self.folder.path.name} at iteration {checkpoint.iteration}.")
        self.sums[: len(checkpoint.running)] = checkpoint.running
        return Trainer.from_checkpoint(checkpoint, data=self.data, device=device, world=self.world)

    def _newest(self) -> tuple[Checkpoint | None, Path]:
        """The checkpoint of the latest iteration that can be read and that the log reaches; later ones are named.

        Files of an epoch say their iteration; they are read from the latest on, until none can be later.
        """
        logged = logged_iterations(self.folder.metrics)
        length = self.setting.iterations_per_epoch
        files = [(self._epoch_of(path) * length, path) for path in self.folder.checkpoints.glob("epoch-*.pt")]
        best, where = None, self.folder.checkpoints
        last = [(self.setting.num_iterations + 1, path) for path in self.folder.checkpoints.glob("last.pt")]
        for iteration, path in last + sorted(files, reverse=True):
            if best is not None and iteration < best.iteration:
                break
            try:
                found = load_checkpoint(path)
            except ValueError as error:
                self.say(f"warning: passing over {path.name}: {error}")
                continue
            if not self._expected_lines(found.iteration) <= logged:
                self.say(f"warning: passing over {path.name}: the log has lost lines from before it.")
                continue
            if best is None or found.iteration >= best.iteration:
                best, where = found, path
        return best, where

    @staticmethod
    def _epoch_of(path: Path) -> int:
        digits = path.stem.removeprefix("epoch-")
        return int(digits) if digits.isdecimal() else 0

    def _expected_lines(self, iteration: int) -> set[tuple[str, int]]:
        """Kind and iteration of every line that the log of a run holds after `iteration` iterations."""
        epoch = self.setting.iterations_per_epoch
        return {("epoch", at) for at in range(0, iteration + 1, epoch)} | {
            ("iteration", at + 1) for at in range(iteration) if self._near_decay(at)
        }

    def go(self) -> None:
        """Train to the end and leave the evidence."""
        setting, trainer = self.setting, self.trainer
        try:
            with _signals() as received:
                if trainer.iteration == 0:
                    self._write_epoch(self._evaluated())
                    self._save(0)
                look_every = _look_every(trainer.device)
                while trainer.iteration < setting.num_iterations:
                    self.pending.append(trainer.step())
                    boundary = trainer.iteration % setting.iterations_per_epoch == 0
                    # Several processes look, and ask each other for signals, at the same iterations.
                    due = len(self.pending) >= look_every or boundary or bool(received and self.world.size == 1)
                    if not due:
                        continue
                    self._look()
                    if boundary:
                        self._close_epoch()
                    stop = self.world.agree(received[0] if received else 0)
                    if stop:
                        self._save(None)
                        raise Interrupted(stop, trainer.iteration)
            if self.leads:
                self._leave_evidence()
            self.world.wait()
        finally:
            if self.log is not None:
                self.log.close()
            for board in self.boards:
                board.close()

    def _look(self) -> None:
        """Fetch the losses of the last steps from the device, log them, and stop if one is not finite."""
        if not self.pending:
            return
        steps, self.pending = self.pending, []
        values = torch.stack([_books(step) for step in steps]).cpu().numpy()
        for step, (loss, accuracy, *clean) in zip(steps, values, strict=True):
            if not np.isfinite(loss):
                if self.log is not None:
                    self.log.sync()
                raise DivergedError(
                    f"the loss is not finite at iteration {step.iteration} (epoch {step.epoch}, learning rate "
                    f"{step.learning_rate:g}); the last checkpoint in {self.folder.checkpoints} is good. "
                    "Lower --learning-rate, or look at the data."
                )
            self.sums += (loss, accuracy, 1, *(clean or (0, 0)))
            if self._near_decay(step.iteration):
                self._write(
                    kind="iteration",
                    iteration=step.iteration + 1,
                    epoch=step.epoch,
                    learning_rate=step.learning_rate,
                    loss=float(loss),
                    accuracy=float(accuracy),
                    **({"clean_loss": float(clean[0]), "clean_accuracy": float(clean[1])} if clean else {}),
                )
        self._report(steps[-1], *values[-1][:2])

    @property
    def _keeps_clean_books(self) -> bool:
        return self.setting.faithful and self.setting.method.objective == "at"

    def _near_decay(self, iteration: int) -> bool:
        window = self.setting.log_window
        return any(decay - window <= iteration < decay + window for decay in self.decays)

    def _report(self, step: Step, loss: float, accuracy: float) -> None:
        now = time.monotonic()
        if self.progress is None or (
            now - self.last_progress < 0.5 and self.trainer.iteration < len(self.trainer.rates)
        ):
            return
        self.last_progress = now
        done = self.trainer.iteration - self.first_iteration
        seconds = time.time() - self.started
        self.progress(
            Progress(
                iteration=self.trainer.iteration,
                num_iterations=self.setting.num_iterations,
                epoch=step.epoch,
                epochs=self.setting.epochs,
                learning_rate=step.learning_rate,
                loss=float(loss),
                train_accuracy=float(accuracy),
                robust_accuracy=self.shown,
                seconds_left=seconds / max(done, 1) * (self.setting.num_iterations - self.trainer.iteration),
                place=f"{_device_name(self.trainer.device)} {self.setting.precision.summary}",
            )
        )

    def _close_epoch(self) -> None:
        """Write the epoch's line, with an evaluation where one is due, then the checkpoint."""
        epoch = self.trainer.epoch
        self._write_epoch(self._evaluated() if self.setting.evaluates_after(epoch) else {})
        self.sums[:] = 0
        self._save(epoch)

    def _write_epoch(self, evaluated: Mapping[str, Any]) -> None:
        trainer = self.trainer
        loss, accuracy, steps, *clean = self.sums
        norms = _weight_norms(trainer.model)
        running = {"running_loss": loss / steps, "running_accuracy": accuracy / steps} if steps else {}
        if steps and self._keeps_clean_books:
            running |= {"running_clean_loss": clean[0] / steps, "running_clean_accuracy": clean[1] / steps}
        line: dict[str, Any] = {
            "kind": "epoch",
            "iteration": trainer.iteration,
            "epoch": trainer.epoch,
            "learning_rate": float(trainer.rates[max(trainer.iteration - 1, 0)]),
            **running,
            **evaluated,
            "weight_norm": float(np.sqrt(sum(norm**2 for norm in norms.values()))),
            "layer_norms": norms,
            "seconds": round(time.time() - self.started, 3),
        }
        self._write(**line)
        for board in self.boards:
            board.show(line, trainer.iteration)
        if self.leads and evaluated.get("validation_robust_accuracy", -math.inf) > self.best:
            self.best = evaluated["validation_robust_accuracy"]
            self._keep("best.pt")

    def _evaluated(self) -> dict[str, float]:
        """Clean and robust loss and accuracy of every split, as ``<split>_<quantity>``."""
        trainer, evaluation = self.trainer, self.setting.evaluation
        self.world.share_buffers(trainer.model)
        probes: dict[str, Split] = {
            "train": self.data.train.first(evaluation.train_probe or len(self.data.test)),
            "validation": self.data.validation,
            "test": self.data.test,
        }
        found: dict[str, SplitMetrics] = {
            name: evaluate(
                trainer.model,
                split,
                evaluation.attack,
                seed=self.seed,
                batch_size=evaluation.batch_size,
                loss=self.setting.method.loss,
                world=self.world,
                attacked=trainer.evaluation_attack,
            )
            for name, split in probes.items()
            if len(split)
        }
        self.shown = (found.get("validation") or found["test"]).robust_accuracy
        return {
            f"{name}_{key}": value
            for name, metrics in found.items()
            for key, value in asdict(metrics).items()
            if key != "count"
        }

    def _write(self, **line: Any) -> None:
        if self.log is not None:
            self.log.write(**line)

    def _save(self, epoch: int | None) -> None:
        """Keep the checkpoint of a listed epoch; refresh `last.pt` when it is old, or (None) in any case."""
        if self.log is None:
            return
        kept = epoch is not None and epoch in self.setting.checkpoint_epochs
        overdue = epoch is None or time.monotonic() - self.last_save > SAVE_EVERY
        if not (kept or overdue):
            return
        self.log.sync()  # the log must reach as far as the checkpoint does
        for name in ([f"epoch-{epoch:04d}.pt"] if kept else []) + (["last.pt"] if overdue else []):
            self._keep(name)
        self.last_save = time.monotonic()

    def _keep(self, name: str) -> None:
        """Write the checkpoint of this moment under a name."""
        trainer = self.trainer
        save_checkpoint(
            self.folder.checkpoints / name,
            setting=self.setting,
            seed=self.seed,
            iteration=trainer.iteration,
            model=trainer.model,
            momentum=trainer.momentum(),
            average=trainer.average,
            swa=trainer.swa,
            data_digest=self.data.digest,
            running=tuple(self.sums.tolist()[: 5 if self._keeps_clean_books else 3]),
            world_size=self.world.size,
        )

    def _leave_evidence(self) -> None:
        assert self.log is not None
        setting, trainer, data = self.setting, self.trainer, self.data
        if setting.epochs in setting.checkpoint_epochs:
            (self.folder.checkpoints / "last.pt").unlink(missing_ok=True)  # of some moment on the way: superseded
        else:
            self._save(None)
        self.log.sync()
        epochs = read_metrics(self.folder.metrics, "epoch")
        iterations = read_metrics(self.folder.metrics, "iteration")
        record = TrainingRun(
            training=setting,
            seed=self.seed,
            data_digest=data.digest,
            num_parameters=parameter_count(trainer.model),
            num_train=len(data.train),
            num_validation=len(data.validation),
            num_test=len(data.test),
            epochs=EpochColumns.of(epochs),
            iterations=IterationColumns.of(iterations),
            final=EpochLine.of(epochs[-1]),
            best=_best(epochs),
            average=self._evaluate_average(),
            masking=self._masking(),
            checkpoints=tuple(self._describe(path) for path in sorted(self.folder.checkpoints.glob("epoch-*.pt"))),
            run_folder=str(self.folder.path.relative_to(self.folder.out)),
            provenance=provenance(
                self.started,
                device=_device_name(trainer.device),
                processes=self.world.size,
                **({"batch_norm_statistics": statistics} if (statistics := self.world.statistics(setting)) else {}),
                threads=torch.get_num_threads(),
                resumed_at=self.first_iteration,
                claims=self.claims,
            ),
        )
        record.to_evidence().write(self.folder.out)

    def _evaluate_average(self) -> SplitMetrics | None:
        """The averaged weights on the test images, where there is an average."""
        trainer, evaluation = self.trainer, self.setting.evaluation
        if trainer.average is None:
            return None
        model = build_network(self.setting.network, seed=0).to(trainer.device)
        model.load_state_dict(trainer.average)
        return evaluate(
            model,
            self.data.test,
            evaluation.attack,
            seed=self.seed,
            batch_size=evaluation.batch_size,
            loss=self.setting.method.loss,
        )

    def _masking(self) -> MaskingReport | None:
        """The guard on the first test images; the earliest trained checkpoint plays the black box."""
        probe = self.data.test.first(self.setting.evaluation.masking_probe)
        if len(probe) == 0:
            return None
        earlier = [path for path in sorted(self.folder.checkpoints.glob("epoch-*.pt")) if path.stem != "epoch-0000"]
        other = load_checkpoint(earlier[0], device=self.trainer.device).model if len(earlier) > 1 else None
        x, y = next(probe.batches(len(probe)))
        return check_masking(self.trainer.model, x, y, self.setting.evaluation.attack, seed=self.seed, other=other)

    def _describe(self, path: Path) -> StoredCheckpoint:
        epoch = self._epoch_of(path)
        return StoredCheckpoint(
            file=str(path.relative_to(self.folder.out)),
            epoch=epoch,
            iteration=epoch * self.setting.iterations_per_epoch,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )


def _books(step: Step) -> torch.Tensor:
    """Loss and accuracy of a step, and those of the clean batch where it has them, in one place of the device."""
    clean = [value for value in (step.clean_loss, step.clean_accuracy) if value is not None]
    return torch.stack([step.loss, step.accuracy.to(step.loss), *(value.to(step.loss) for value in clean)])


def _weight_norms(model: torch.nn.Module) -> dict[str, float]:
    """‖w_l‖ of every tensor with more than one axis: with batch norm, curvature scales as 1/‖w_l‖²."""
    return {name: value.detach().double().norm().item() for name, value in model.named_parameters() if value.ndim > 1}


def _best(epochs: list[dict[str, Any]]) -> EpochLine | None:
    """The epoch of the largest *validation* robust accuracy; None without a validation split, never by the test set."""
    judged = [line for line in epochs if "validation_robust_accuracy" in line]
    return EpochLine.of(max(judged, key=lambda line: line["validation_robust_accuracy"])) if judged else None


def _claims_at_first_start(path: Path) -> Mapping[str, str]:
    """Digests of the claims when the run began: a claim changed while it was interrupted has seen part of it."""
    if not path.exists():
        return registered()
    with contextlib.suppress(ValueError):
        stored = read_json(path, str(path))
        known = stored.get("claims") if isinstance(stored, dict) else None
        if isinstance(known, dict):
            return {str(name): str(digest) for name, digest in known.items()}
    return {}  # nobody knows what was claimed then


def _look_every(device: torch.device) -> int:
    return 1 if device.type == "cpu" else LOOK_EVERY


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _largest_validation(log: Path) -> float:
    """Of the epochs that a log holds; −∞ where none was judged on validation images."""
    lines = read_metrics(log, "epoch") if log.exists() else []
    return max((line.get("validation_robust_accuracy", -math.inf) for line in lines), default=-math.inf)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Within: the signals that stop are noted, not raised, so that an iteration is never cut in half."""
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        received.append(number)

    before = {}
    # Only the main thread may install handlers; elsewhere signals go to the main thread anyway.
    with contextlib.suppress(ValueError):
        for number in STOPPING:
            before[number] = signal.signal(number, handler)
    try:
        yield received
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
