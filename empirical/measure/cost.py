r"""What measuring will cost before it starts, and how long is left while it runs.

Work      Counted in samples passed: a step of the attack (forward, backward to the inputs), a gradient (forward,
          backward), a product of H with one vector, a product of C. `stages` lists them for a checkpoint, as the
          algorithms make them: Lanczos takes about `PRODUCTS_A_PAIR` products a wanted pair (published runs of the
          digits network: 2.2 to 4.8); commutation two of each for every eigenvector and probe, its interval 2 (J + 1)
          passes more; the ensemble and trajectories are steps of training.
Seconds   Each kind is timed here, on this device and network, on few generated images (`rates`).
Memory    Vectors as long as the weights, and s (2 + c) bytes an image differentiated at once, s what a forward saves
          and c the columns of a batched product (measured on PreActResNet-18: 8.5, 26 and 77 MiB for c = 1, 4 and 16,
          s = 4.3 MiB). Neither grows with the images measured.
Left      `Watch` multiplies what is planned of a stage by what stages of that name took so far for what was planned of
          them; within a stage by the share of it that is done.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from empirical.measure.landscape import GRADIENT_BYTES, Landscape, Work
from empirical.measure.objective import PIECE, landscape_of
from empirical.measure.operators import COLUMNS_AT_ONCE, GradientCovarianceOperator, HessianOperator
from empirical.network.build import parameter_count
from empirical.settings.measuring import EnsembleSetting, Measurement
from empirical.settings.training import Training
from empirical.training.attack import draw_starts, pgd_from
from empirical.training.checkpoint import Checkpoint
from empirical.training.cost import step_passes

__all__ = ["Rates", "Stage", "Watch", "duration", "dynamics_stages", "peak_bytes", "rates", "stages"]

#: Products of Lanczos for each wanted pair, as a rule.
PRODUCTS_A_PAIR = 4
#: A trial's images are doubled until it takes so many seconds, up to `chunk`.
TRIAL_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds a sample, of each kind of work, and what was held a sample differentiated at once.

    Attributes:
        seconds: by kind.
        images: of the longest trial.
        saved_bytes: what a forward pass saves for its backward pass, a sample.
        weights: number of parameters, P.
    """

    seconds: Mapping[Work, float]
    images: int
    saved_bytes: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a measurement: how many samples pass in each kind of work."""

    name: str
    samples: Mapping[Work, float]

    def seconds(self, here: Rates) -> float:
        """As long as it takes at those rates."""
        return sum(count * here.seconds[kind] for kind, count in self.samples.items())


def rates(checkpoint: Checkpoint, measurement: Measurement) -> Rates:
    """Time each kind of work on generated images: this network, device and arithmetic, batch norm as in eval mode."""
    setting, device = checkpoint.setting, next(checkpoint.model.parameters()).device
    how = dataclasses.replace(measurement, batch_norm="eval")

    def inputs(count: int) -> tuple[Tensor, Tensor]:
        x = torch.full((count, *setting.data.image_shape), 0.5, device=device)
        return x, torch.arange(count, device=device) % setting.network.num_classes

    def landscape(count: int) -> Landscape:
        x, y = inputs(count)
        return landscape_of(
            checkpoint, how, torch.stack([x, x], dim=1) if setting.method.objective == "trades" else x, y
        )

    def trials(count: int) -> dict[Work, Callable[[], object]]:
        at = landscape(count)
        hessian = HessianOperator(at, method="double-backward", kept_chunks=0)
        covariance = GradientCovarianceOperator(at, stored_bytes=0)
        vector = torch.ones(at.dimension, 1, dtype=at.dtype, device=device)
        found: dict[Work, Callable[[], object]] = {
            "gradient": at.gradient,
            "product": lambda: hessian.matmat(vector),
            "covariance": lambda: covariance.matmat(vector),
        }
        attack = setting.method.attack or setting.evaluation.attack
        one = dataclasses.replace(attack, steps=1, restarts=1, batch_norm="eval", random_start="none")
        x, y = inputs(count)
        starts = draw_starts(x.shape, one, generator=None, device=x.device, dtype=x.dtype)
        found["attack"] = lambda: pgd_from(checkpoint.model, x, y, one, starts)
        return found

    count, seconds = max(2, min(8, measurement.chunk)), dict[Work, float]()
    while True:
        calls = trials(count)
        for kind, call in calls.items():
            call()  # warms up what the first call of a shape pays for
            seconds[kind] = _seconds(call, device) / count
        if max(seconds.values()) * count >= TRIAL_SECONDS or 2 * count > measurement.chunk:
            break
        count *= 2
    return Rates(
        seconds=seconds,
        images=count,
        saved_bytes=_saved_bytes(landscape(2)),
        weights=parameter_count(checkpoint.model),
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    before = wait()
    call()
    return wait() - before


def _saved_bytes(landscape: Landscape) -> int:
    """What a forward saves for its backward, a sample: the weights left out."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves = {name: piece.clone().requires_grad_() for name, piece in landscape.unflatten(landscape.weights).items()}
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves.values()}
    units = torch.arange(landscape.num_units, device=landscape.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = landscape.unit_losses(leaves, units)
    del losses
    return sum(size for place, size in kept.items() if place not in own) // len(units)


def stages(
    training: Training, measurement: Measurement, *, images: int, tests: int, averaged: bool, interval: bool
) -> tuple[Stage, ...]:
    """The parts of measuring one checkpoint, in order.

    Args:
        training: of the run.
        measurement: how; its batch-norm mode decides whether units are samples.
        images: training samples measured.
        tests: test images of the robust gap.
        averaged: whether the checkpoint holds an average of the weights.
        interval: whether χ gets its interval here.
    """
    k, wanted = measurement.eigenpairs, measurement.eigenpairs + measurement.smallest
    columns = wanted + measurement.probes
    attack = training.method.attack
    steps = 0 if attack is None else attack.steps * attack.restarts
    of_samples = measurement.batch_norm != "train"
    n: float = images
    if not of_samples:
        n = measurement.batches * min(training.batch_size, images)
    passes = 2 * columns * (measurement.groups + 1) / 2 if interval and measurement.groups else 0
    whole = {"attack": float(steps * images)}
    sharp = (2 if attack is None else 5) * (1 + steps * 2 / 3) * images
    found: list[tuple[str, Mapping[Work, float]]] = [
        ("inputs", {"attack": whole["attack"]}),
        ("curvature", {"product": (2 + PRODUCTS_A_PAIR * wanted) * n}),
        ("noise", {"gradient": n, "covariance": PRODUCTS_A_PAIR * k * n}),
        # Forward derivatives are about a gradient each; second ones two.
        ("directions", {"gradient": 3 * k * n}),
        (
            "commutation",
            {
                "product": (2 * columns + passes) * n,
                "covariance": (2 * columns + passes) * n,
                "gradient": 2 * wanted * n,
            },
        ),
        ("sharpness", {"gradient": sharp / 2, "product": sharp / 8}),
        ("gap", {"attack": training.evaluation.attack.steps * training.evaluation.attack.restarts * 2.0 * tests}),
    ]
    if of_samples:
        draws = measurement.redraws - (training.data.augmentation == "none")
        if steps or training.data.augmentation != "none":
            found.append(("repeats", {"attack": whole["attack"] * draws, "gradient": float(k * n * draws)}))
        found.append(("cross-fit", {"product": PRODUCTS_A_PAIR * k * n / 2, "gradient": k * n / 2}))
    if averaged:
        found.append(("average", {"attack": whole["attack"], "product": 8 * n}))
    if measurement.layers:
        # A block's products pass through the whole network: three pairs, and alignment, for each of about 40 layers.
        per_layer = (PRODUCTS_A_PAIR + 2) * 3 + 2 * measurement.probes
        found.append(("layers", {"product": 40 * per_layer * n, "covariance": 40 * per_layer * n}))
    if measurement.density:
        found.append(("densities", {"product": 4 * measurement.density * n, "covariance": 4 * measurement.density * n}))
    return tuple(Stage(name=name, samples=samples) for name, samples in found)


def dynamics_stages(
    training: Training, *, ensemble: EnsembleSetting | None, separations: int, window: int, decays: int, expansion: bool
) -> tuple[Stage, ...]:
    """Steps of training that ensembles and trajectories take: the least that they cost."""
    step = step_passes(training) * training.batch_size / 3  # gradients
    found = []
    if expansion:
        found.append(Stage(name="expansion", samples={"gradient": 200.0 * training.batch_size}))
    if window:
        found.append(Stage(name="trajectories", samples={"gradient": step * window * decays}))
    length = 0 if ensemble is None else ensemble.before + ensemble.after
    if ensemble is not None:
        found.append(Stage(name="ensemble", samples={"gradient": step * length * ensemble.replicas}))
    if separations:
        found.append(Stage(name="separation", samples={"gradient": step * (length or 100) * separations}))
    return tuple(found)


def peak_bytes(training: Training, measurement: Measurement, images: int, here: Rates) -> tuple[int, int]:
    """What a measurement holds at its fullest, about: bytes of vectors as long as the weights, bytes of activations."""
    item = 4 if measurement.dtype == "float32" else 8
    wanted = measurement.eigenpairs + measurement.smallest
    columns = wanted + measurement.probes
    together = min(COLUMNS_AT_ONCE, columns)
    basis = max(3 * wanted + 10, 20) + wanted
    # Eigenvectors of both, then columns and their products, one of them in float64, and the batched pass.
    aligning = wanted + measurement.eigenpairs + 5 * columns + columns * 8 // item + 4 * together + 3
    interval = 2 * measurement.groups**2 + 2 * measurement.groups if measurement.groups else 0
    batch = min(training.batch_size, images)
    at_once = min(measurement.chunk, images)
    if measurement.batch_norm == "train":
        at_once = max(measurement.chunk // batch, 1) * batch
    attacked = 0
    if training.method.attack is not None:
        attacked = min(PIECE if measurement.batch_norm != "eval" else min(measurement.chunk, PIECE), images)
    vectors = here.weights * item * max(basis, aligning + interval)
    vectors += min(GRADIENT_BYTES, here.weights * item * images)
    return vectors, here.saved_bytes * max((2 + together) * at_once, 2 * attacked)


def duration(seconds: float) -> str:
    """``42 s``, ``3:05`` minutes, or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(frozen=True)
class _Expected:
    """A stage and the seconds that it was planned to take."""

    name: str
    seconds: float


class Watch:
    """How long planned work still takes, corrected by how long the work done took.

    Args:
        planned: each task to come, in order: seconds of each kind of work for its network, and its stages.
        note: called with a line of progress, at most every `every` seconds.
        every: seconds between lines.
        clock: seconds that pass.
    """

    def __init__(
        self,
        planned: Sequence[tuple[Rates, Sequence[Stage]]],
        *,
        note: Callable[[str], None] = lambda line: None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waiting = [[_Expected(stage.name, stage.seconds(here)) for stage in made] for here, made in planned]
        self.rates = [here for here, _ in planned]
        self.note, self.every, self.clock = note, every, clock
        self.tasks, self.number = len(self.waiting), 0
        self.label = ""
        self.running: _Expected | None = None
        self.rest: list[_Expected] = []
        self.began = self.last = clock()
        self.done = 0.0
        self.spent: dict[str, float] = defaultdict(float)
        self.expected: dict[str, float] = defaultdict(float)

    def task(self, label: str) -> None:
        """The next task begins."""
        self.finish()
        self.number += 1
        self.label = label
        self.rest = self.waiting.pop(0) if self.waiting else []

    def stage(self, name: str) -> None:
        """A stage of the task begins, and the one before it is over; stages that were passed over are left out."""
        self._settle()
        places = [index for index, stage in enumerate(self.rest) if stage.name == name]
        if places:
            self.running, self.rest = self.rest[places[0]], self.rest[places[0] + 1 :]
        else:
            self.running = _Expected(name, 0.0)
        self.tell()

    def finish(self) -> None:
        """The task is over; one that failed leaves out the rest of its stages."""
        self._settle()
        self.rest = []

    def tick(self, kind: Work, samples: float) -> None:
        """So many samples passed in some work of the current stage."""
        self.done += samples * self.rates[min(self.number, self.tasks) - 1].seconds[kind]
        self.tell()

    def _settle(self) -> None:
        now = self.clock()
        if self.running is not None:
            self.spent[self.running.name] += now - self.began
            self.expected[self.running.name] += self.running.seconds
        self.running, self.began, self.done = None, now, 0.0

    def _corrected(self, stage: _Expected) -> float:
        known = self.expected[stage.name]
        if known:
            return stage.seconds * self.spent[stage.name] / known
        total = sum(self.expected.values())
        return stage.seconds * (sum(self.spent.values()) / total if total else 1.0)

    @property
    def left(self) -> float:
        """Seconds."""
        total = sum(self._corrected(stage) for task in [self.rest, *self.waiting] for stage in task)
        if self.running is not None:
            planned, spent = self._corrected(self.running), self.clock() - self.began
            share = self.done / max(self.running.seconds, 1e-12)
            if share > 0.05:  # the pace of this very stage; one that takes more than planned is never quite done
                share = min(share, 0.95)
                total += spent * (1 - share) / share
            else:
                total += max(planned - spent, 0.0)
        return total

    def tell(self) -> None:
        """A line of progress, unless the last one is too recent."""
        if self.running is None or self.clock() - self.last < self.every:
            return
        self.last = self.clock()
        self.note(f"{self.label}: {self.running.name}, {self.number} of {self.tasks}, about {duration(self.left)} left")
