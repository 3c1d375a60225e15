"""Runs to evidence: every checkpoint of every run, and the dynamics at one decay, skipping what is already written.

Work is cut into chains: the checkpoints of one run in order (each warm-starts the next and sees how its eigenspace
turned), and one chain a run for ensemble, trajectory and expansion. Chains run in processes of their own; each
checkpoint's evidence is on disk before the next begins, so whatever stops the pipeline costs one checkpoint. What warms
the next start lies under ``<out>/measuring`` until it is used: a resumed chain measures what an uninterrupted one does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empirical.claims import registered
from empirical.records import Ensemble, Expansion, Record, Separation, Spectrum, Trajectory
from empirical.settings.measuring import EnsembleSetting, Measurement
from empirical.settings.separating import SeparationSetting
from theory.judge.evidence import Evidence, provenance
from theory.judge.files import atomic_write
from theory.judge.front import FAULT, RUN_FAILED, out_of_memory, sentence_of, status_of
from theory.judge.workers import end_with_parent

if TYPE_CHECKING:
    from empirical.data.resident import Data
    from empirical.measure.cost import Rates, Stage, Watch
    from empirical.settings.training import Training
    from empirical.training.checkpoint import Checkpoint

Note = Callable[[str], None]
#: What could not be measured, and the exit status that it stands for.
Failure = tuple[int, str]
#: In a worker: the queue that its notes go to.
_lines: list[Any] = []


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Work for one process.

    Args:
        kind: "checkpoints" or "dynamics".
        paths: checkpoints in order of iteration; for "dynamics" the last of each
            stage, the first of which is where replicas branch.
        measurements: what is made at each checkpoint.
        ensemble: of "dynamics"; None for none.
        separation: of "dynamics", what explains the replicas' spread; None for none.
        expansion: whether "dynamics" studies how quadratic the loss is.
        window: steps of the trajectories of "dynamics"; 0 for none.
        options: of `run_chain`: out, device, data_root, download, threads.
        rates: seconds of each kind of work here; None: no time left is told.
    """

    kind: str
    paths: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    ensemble: EnsembleSetting | None = None
    separation: SeparationSetting | None = None
    expansion: bool = True
    window: int = 0
    options: Mapping[str, Any]
    rates: Rates | None = None

    @property
    def label(self) -> str:
        """What a person calls it."""
        folder = Path(self.paths[0]).parent
        run = folder.parent.name if folder.name == "checkpoints" else folder.name
        return f"{run} {self.kind}"


def find_checkpoints(paths: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Checkpoint files by run, from files, run folders, or result folders that hold runs.

    Raises:
        ValueError: if a path is missing or holds no checkpoint.
    """
    found: dict[str, list[Path]] = {}
    for item in map(Path, paths):
        if item.is_file():
            files = [item]
        elif item.is_dir():
            # The best one is of an epoch: a copy, where that epoch is kept.
            files = sorted(path for path in item.glob("*.pt") if path.name != "best.pt")
            files = files or sorted(item.glob("checkpoints/epoch-*.pt"))
            files = files or sorted(item.glob("runs/*/checkpoints/epoch-*.pt"))
        else:
            raise ValueError(f"`measure` needs checkpoints, runs or result folders that exist; got {str(item)!r}.")
        if not files:
            raise ValueError(f"`measure` finds no checkpoint (*.pt) under {str(item)!r}.")
        for file in files:
            found.setdefault(str(file.parent), []).append(file)
    return {folder: sorted(dict.fromkeys(files)) for folder, files in found.items()}


def thinned(files: Sequence[Path], limit: int | None) -> list[Path]:
    """At most ``limit`` of the files, the first and last kept, evenly between."""
    if limit is None or len(files) <= limit:
        return list(files)
    if limit < 2:
        return [files[-1]]
    chosen = {round(i * (len(files) - 1) / (limit - 1)) for i in range(limit)}
    return [file for index, file in enumerate(files) if index in chosen]


def run_chains(chains: Sequence[Chain], *, workers: int, note: Note) -> list[Failure]:
    """Run the chains, ``workers`` at once; what failed comes back, the others' evidence is kept."""
    failures: list[Failure] = []
    if workers <= 1 or len(chains) <= 1:
        watch = _watch(chains, note)
        for chain in chains:
            failures.extend(run_chain(chain, note, watch))
        return failures
    context = multiprocessing.get_context("spawn")
    lines: Any = context.SimpleQueue()
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=workers, mp_context=context, initializer=_begin, initargs=(os.getpid(), lines)
    ) as pool:
        futures = [pool.submit(_in_process, chain) for chain in chains]
        pending = set(futures)
        while pending:
            _done, pending = concurrent.futures.wait(pending, timeout=0.5)
            while not lines.empty():
                note(lines.get())
    for chain, future in zip(chains, futures, strict=True):
        try:
            failures.extend(future.result())
        except concurrent.futures.process.BrokenProcessPool as error:
            failures.append((RUN_FAILED, f"{chain.label}: the process died: {error}"))
    return failures


def _begin(parent: int, lines: Any) -> None:
    """Of a worker: where its notes go, before its first chain."""
    end_with_parent(parent)
    _lines.append(lines)


def _in_process(chain: Chain) -> list[Failure]:
    return run_chain(chain, _lines[0].put, _watch([chain], _lines[0].put))


def run_chain(chain: Chain, note: Note, watch: Watch | None = None) -> list[Failure]:
    """Do the work of one chain; foreseen failures come back, the unforeseen are raised."""
    import torch

    torch.set_num_threads(chain.options.get("threads", 1))
    registered()  # the claims as they are before anything is measured
    work = _checkpoints if chain.kind == "checkpoints" else _dynamics
    try:
        return work(chain, note, watch)
    except Exception as error:
        status = status_of(error)
        if status == FAULT:
            raise
        advice = ": lower --chunk or --samples, or use --dtype float32" if out_of_memory(error) else ""
        return [(status, f"{chain.label}: {sentence_of(error, 'measure')}{advice}")]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A checkpoint to be measured in one mode, or the dynamics at a decay: its label and what it is made of."""

    label: str
    measurement: Measurement
    stages: tuple[Stage, ...]


def tasks(chain: Chain) -> list[Task]:
    """What is still to be measured of a chain, in order; nothing of one that cannot be read: measuring says so."""
    try:
        return _tasks(chain)
    except Exception as error:
        if status_of(error) == FAULT:
            raise
        return []


def _tasks(chain: Chain) -> list[Task]:
    from empirical.measure.cost import dynamics_stages, stages

    if chain.kind == "dynamics":
        first = _load(chain.paths[0], chain)
        made = dynamics_stages(
            first.setting,
            ensemble=chain.ensemble,
            separations=0 if chain.separation is None else chain.separation.replicas,
            window=chain.window,
            decays=len(chain.paths),
            expansion=chain.expansion,
        )
        return [Task(label=chain.label, measurement=chain.measurements[0], stages=made)]
    found = []
    items = [(item.iteration, item.epoch, item) for item in (_load(path, chain) for path in chain.paths)]
    items.sort(key=lambda entry: entry[0])
    for measurement in chain.measurements:
        for number, (_, epoch, item) in enumerate(items):
            last = number == len(items) - 1
            this = _at(measurement, last=last)
            if _path(chain, Spectrum, _spectrum_id(item, this)).exists():
                continue
            setting = item.setting
            tests = setting.data.test_size or setting.data.facts.test_size
            made = stages(
                setting,
                this,
                images=images_measured(setting, measurement),
                tests=min(measurement.evaluated or tests, tests),
                averaged=item.average is not None,
                interval=last,
            )
            found.append(
                Task(label=f"{chain.label} epoch {epoch} {measurement.batch_norm}", measurement=this, stages=made)
            )
    return found


def images_measured(training: Training, measurement: Measurement) -> int:
    """Training samples that a measurement of a run uses."""
    from empirical.measure.objective import LARGEST

    return min(measurement.samples or LARGEST, training.data.num_train)


def _watch(chains: Sequence[Chain], note: Note) -> Watch | None:
    """Of the checkpoints of the chains; None where nobody timed the device."""
    from empirical.measure.cost import Watch

    timed = [(chain, chain.rates) for chain in chains if chain.rates is not None]
    if not timed:
        return None
    return Watch([(here, task.stages) for chain, here in timed for task in tasks(chain)], note=note)


def _at(measurement: Measurement, *, last: bool) -> Measurement:
    """The measurement of a checkpoint: the jackknife over the data costs many evaluations of χ, so the last has it."""
    import dataclasses

    return measurement if last else dataclasses.replace(measurement, groups=0)


def _checkpoints(chain: Chain, note: Note, watch: Watch | None) -> list[Failure]:
    from empirical.measure import checkpoint as at
    from empirical.measure.lanczos import NotConvergedError
    from empirical.measure.operators import NonFiniteProductError

    loaded = [_load(path, chain) for path in chain.paths]
    loaded.sort(key=lambda item: item.iteration)
    data = _data(loaded[0], chain)
    start = _initial_weights(chain.paths, chain)
    failures: list[Failure] = []
    for measurement in chain.measurements:
        starts = _Starts(Path(chain.options["out"]), chain.options.get("device", "cpu"))
        previous = None
        for number, item in enumerate(loaded):
            last = number == len(loaded) - 1
            this = _at(measurement, last=last)
            name = _spectrum_id(item, this)
            if _path(chain, Spectrum, name).exists():
                note(f"{chain.label} epoch {item.epoch} {this.batch_norm}: already measured")
                previous = starts.load(name)
                continue
            began = time.time()
            if watch is not None:
                watch.task(f"{chain.label} epoch {item.epoch} {this.batch_norm}")
            try:
                found = at.measure_checkpoint(
                    item, data, this, previous=previous, initial_weights=start, note=note, watch=watch
                )
            except (NotConvergedError, NonFiniteProductError) as error:
                failures.append((RUN_FAILED, f"{chain.label} epoch {item.epoch}: {error}"))
                previous = None
                continue
            previous = found.directions
            if not last:
                starts.save(name, previous)  # before the evidence, which says that the next can begin
            _write(chain, found.record, began)
            starts.keep_only(name)
            note(
                f"{chain.label} epoch {item.epoch} {this.batch_norm}: λ₁ {found.record.eigenvalues[0]:.3g}, "
                f"γ₁ {found.record.gamma.values[0]:.3g}, "
                f"χ {found.record.alignment.chi.value:.3f} ({time.time() - began:.0f} s)"
            )
        starts.clear()
        _bound(chain, loaded, measurement)
    return failures


class _Starts:
    """Eigenvectors that one chain's next measurement starts from, on disk for as long as they are of use."""

    def __init__(self, out: Path, device: str) -> None:
        self.folder, self.device = out / "measuring", device
        self.names: set[str] = set()

    def save(self, name: str, directions: Any) -> None:
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        self.names.add(name)
        buffer = io.BytesIO()
        torch.save({"hessian": directions.hessian.cpu(), "noise": directions.noise.cpu()}, buffer)
        atomic_write(self._path(name), buffer.getvalue(), overwrite=True)

    def load(self, name: str) -> Any:
        """The eigenvectors saved under `name`; None where there are none that can be read: a cold start then."""
        from empirical.measure.checkpoint import Directions
        from empirical.network.files import load_tensors, read_bytes

        self.names.add(name)
        if not self._path(name).exists():
            return None
        try:
            found = load_tensors("the warm start", read_bytes("the warm start", self._path(name)))
            return Directions(hessian=found["hessian"].to(self.device), noise=found["noise"].to(self.device))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def keep_only(self, name: str) -> None:
        for other in self.names - {name}:
            self._path(other).unlink(missing_ok=True)
        self.names &= {name}

    def clear(self) -> None:
        self.keep_only("")
        with contextlib.suppress(OSError):  # not there, or other chains have theirs in it
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"


def _bound(chain: Chain, loaded: Sequence[Checkpoint], measurement: Measurement) -> None:
    """The bound beside the gap over the run, from the evidence of its checkpoints."""
    from empirical.measure.bound import bound_over_training

    items = []
    for number, item in enumerate(loaded):
        this = _at(measurement, last=number == len(loaded) - 1)
        path = _path(chain, Spectrum, _spectrum_id(item, this))
        if path.exists():
            items.append(Spectrum.from_evidence(Evidence.read(path)))
    if len(items) < 2:
        return
    began = time.time()
    found = bound_over_training(items, measurement)
    if found is not None and not _path(chain, type(found), found.run_id).exists():
        _write(chain, found, began)


def _dynamics(chain: Chain, note: Note, watch: Watch | None) -> list[Failure]:
    from empirical.measure import dynamics, separation

    if watch is not None:
        watch.task(chain.label)

    stages = [_load(path, chain) for path in chain.paths]
    item = stages[0]
    data = _data(item, chain)
    measurement = chain.measurements[0]
    ensemble, causes, window = chain.ensemble, chain.separation, chain.window
    base = {"measurement": measurement}
    jobs: list[tuple[Checkpoint, type[Record], dict[str, Any], Callable[[], Record]]] = []
    if chain.expansion:
        jobs.append((item, Expansion, base, lambda: dynamics.measure_expansion(item, data, measurement)))
    if window:
        jobs.extend(
            (
                stage,
                Trajectory,
                base | {"window": window},
                lambda stage=stage: dynamics.measure_trajectory(stage, data, measurement, window=window),
            )
            for stage in stages
        )
    if ensemble is not None:
        ticks = [time.monotonic()]

        def progress(done: int, total: int) -> None:
            if time.monotonic() - ticks[0] > 10:
                ticks[0] = time.monotonic()
                note(f"{chain.label} ensemble: {done} of {total}")

        jobs.append(
            (
                item,
                Ensemble,
                base | {"ensemble": ensemble},
                lambda: dynamics.measure_ensemble(item, data, measurement, ensemble, progress=progress),
            )
        )
    if causes is not None:
        jobs.append(
            (
                item,
                Separation,
                base | {"separation": causes},
                lambda: separation.measure_separation(
                    item, data, measurement, causes, note=lambda line: note(f"{chain.label} separation: {line}")
                ),
            )
        )
    for stage, kind, identity, work in jobs:
        name = kind.run_id_of(seed=stage.seed, training=stage.setting, iteration=stage.iteration, **identity)
        if _path(chain, kind, name).exists():
            note(f"{chain.label} {kind.experiment} at epoch {stage.epoch}: already measured")
            continue
        began = time.time()
        if watch is not None:
            watch.stage("trajectories" if kind is Trajectory else kind.experiment)
        _write(chain, work(), began)
        note(f"{chain.label} {kind.experiment} at epoch {stage.epoch} ({time.time() - began:.0f} s)")
    return []


def _load(path: str, chain: Chain) -> Checkpoint:
    from empirical.training.checkpoint import load_checkpoint

    return load_checkpoint(path, device=chain.options.get("device", "cpu"))


def _data(item: Checkpoint, chain: Chain) -> Data:
    from empirical.data.resident import load_data

    return load_data(
        item.setting.data,
        root=chain.options.get("data_root", "data"),
        download=chain.options.get("download", True),
        device=chain.options.get("device", "cpu"),
    )


def _initial_weights(paths: Sequence[str], chain: Chain) -> Any:
    import torch

    start = Path(paths[0]).parent / "epoch-0000.pt"
    if not start.exists():
        return None
    model = _load(str(start), chain).model
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()])


def _spectrum_id(item: Checkpoint, measurement: Measurement) -> str:
    return Spectrum.run_id_of(seed=item.seed, training=item.setting, measurement=measurement, iteration=item.iteration)


def _path(chain: Chain, kind: type[Record], name: str) -> Path:
    return Path(chain.options["out"]) / "evidence" / kind.experiment / f"{name}.json"


def _write(chain: Chain, record: Record, began: float) -> None:
    import dataclasses

    import torch

    device = str(chain.options.get("device", "cpu"))
    made = provenance(began, device=device, threads=torch.get_num_threads(), claims=registered())
    dataclasses.replace(record, provenance=made).to_evidence().write(chain.options["out"])
