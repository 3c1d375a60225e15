r"""Does a training run meet the theory's assumptions? For anybody's torch model: numbers, intervals, nulls, verdicts.

Checks (each has its rule; `RULES` says what a failure costs)
    stability               η(λ₁+β) over its largest stable value; below 1
    mean_square_stability   η over the edge of the second moment under mini-batch noise (E1), steepest modes; below 1
    batch_sharpness         η E_B[g_BᵀH_Bg_B]/E_B|g_B|² over the deterministic edge; below 1
    batch_sharpness_attacked, batch_sharpness_train
                            the same with the attack run again on both sides of a step, and under the batches' own
                            statistics of batch norm; reported
    commutativity           excess of χ over random rotation of C, whole space; above a half (`commuting`)
    commutativity_deflated  the same off the tracked directions
    commutativity_top       price in the tracked directions against two nulls (`theory.closed_form.rotated_noise`)
    price                   nats per tracked direction; at most 0.1
    alignment               mean cosine cᵢ within them, against the same nulls
    expansion               error of the quadratic expansion at radius σ; at most a quarter
    expansion_path          error of ½dᵀHd along the optimizer's own steps, slope taken off; at most a quarter
    optimum                 mean of (Δᵢ/σᵢ)², Δ the Newton step to where the gradient vanishes; χ²_k/k where stationary
    drift                   variance between contiguous parts of the data over what exchangeable samples give
    whiteness               correlation of neighbouring parts' mean slopes; as of exchangeable samples
    positive_curvature      most negative curvature over the largest; at most a tenth
    stationarity            first fluctuation–dissipation relation along a run of steps, where steps are asked for
    shuffling, underdamped, relaxation   reported
Data      The samples are taken as a draw from the training distribution: intervals are over samples, at fixed
          eigenvectors; those of the excess over probes. γ and the price are measured along directions that the sample
          had no part in finding (`crossed`). The price meant is that of the distribution in its own steepest
          directions. Coverage at 256 samples is counted in `tests.gate_coverage`: the intervals of γ are too short
          where a norm over two features divides by nearly nothing, those of the price are too short there and under
          layer and group norm, whose steep directions lie close together under heavy tails.
Top k     As many as asked for, at most 1 + N/25, and of these the ones with positive curvature, noise and a stationary
          law. From N samples noise that commutes comes out at (k − 1)/4N nats a direction (Bartlett's expectation of
          ln det R): at 25 samples a direction a tenth of the price's limit, and more directions would measure the
          sample. No verdict of commutation is relative to k: its nulls have the same k. The note on the price gives it
          for fewer directions too.
Outcome   fail if a check fails, inconclusive if none fails and one is, else pass. A rate beyond the edge is a fail with
          a report, and what needs a stationary law is then not judged.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from empirical.measure.commuting import Excess, commutation_excess
from empirical.measure.crossed import crossed_directions, halves
from empirical.measure.expansion import expansion_error
from empirical.measure.intervals import variance_estimates
from empirical.measure.lanczos import Eigenpairs, top_eigenpairs
from empirical.measure.landscape import Landscape, has_batch_norm
from empirical.measure.operators import (
    GradientCovarianceOperator,
    HessianOperator,
    bilinear_curvatures,
    directional_derivatives,
    noise_factor,
    project_gradients,
)
from empirical.measure.optimizers import Optimizing, read_optimizer
from empirical.measure.posterior import price_interval
from empirical.measure.quantities import of_expansion, stability
from empirical.measure.sharpness import STEP, BatchAttack, attacked_batch_sharpness, network_batch_sharpness
from empirical.measure.subject import Loss, Stochastic, Subject, UserLandscape, attacked, quiet, subject
from empirical.records.spectrum import BatchSharpness
from empirical.settings.measuring import BatchNorm
from theory.assumptions import RULES, commutation_checks, judged, limited, unjudged
from theory.closed_form.edge import crossover_batch_size, mean_square_edge
from theory.closed_form.rotated_noise import commutation_test, prices
from theory.closed_form.shuffling import epoch_shuffling_factor
from theory.closed_form.stability import modes, stability_ratio
from theory.closed_form.stationary import stationary_variance
from theory.judge.fluctuation import FluctuationStatus, first_fluctuation_dissipation
from theory.judge.gate import Check, GateReport, Quantity, Result, Thresholds, decide
from theory.judge.intervals import from_influences
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import Sampling

__all__ = ["RULES", "AssumptionReport", "check_assumptions"]

Array = NDArray[np.float64]
#: Of what is left of the budget, for the eigenvectors; the other half is for what is measured along them, and of that
#: half again at most for any one thing that can be cut short.
SHARE = 0.5
#: Samples for every tracked direction but one; see the module's *Top k*.
SAMPLES_A_DIRECTION = 25
#: Residual of the most negative pair over the largest curvature: a tenth of what the rule allows that curvature.
LOWER_END = 0.01


@dataclass(frozen=True, kw_only=True)
class AssumptionReport:
    """What was found, by name; also as attributes: ``report.commutativity.supported``.

    Attributes:
        gate: all checks under the rules or under the thresholds given, as the gate's files and exit status.
        checks: name to estimate, interval, null, result and reason.
        curvatures: λ of the tracked directions, shape ``(k,)``, without weight decay.
        curvature_intervals: of λ, shape ``(k, 2)``, 95 % each, over samples at fixed directions.
        noise_variances: γ of the mini-batch gradient in them, shape ``(k,)``.
        noise_intervals: of γ, shape ``(k, 2)``, likewise.
        variances: σ² of (S1) for white noise, shape ``(k,)``.
        shuffled_variances: the same under shuffled epochs, averaged over an epoch; None with replacement.
        samples: measured.
        notes: what was left out, cut or assumed.
        seconds: taken.
    """

    gate: GateReport
    checks: Mapping[str, Check]
    curvatures: Array
    curvature_intervals: Array
    noise_variances: Array
    noise_intervals: Array
    variances: Array
    shuffled_variances: Array | None
    samples: int
    notes: tuple[str, ...]
    seconds: float

    @property
    def outcome(self) -> str:
        """``"pass"``, ``"fail"`` or ``"inconclusive"``."""
        return {0: "pass", 1: "fail", 3: "inconclusive"}[self.gate.status]

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Whatever thresholds may be put on."""
        return tuple(
            Quantity(name=check.name, estimate=check.estimate, interval=check.interval, note="")
            for check in self.checks.values()
            if check.estimate is not None
        )

    def against(self, thresholds: Thresholds) -> GateReport:
        """A gate of these demands alone."""
        return decide(thresholds, quantities=self.quantities)

    def __getattr__(self, name: str) -> Check:
        checks = self.__dict__.get("checks", {})
        if name in checks:
            return checks[name]
        raise AttributeError(f"a report has no {name!r}; its checks: {', '.join(checks)}")

    def __str__(self) -> str:
        lines = [f"assumptions: {self.outcome} ({self.samples} samples, {self.seconds:.1f} s)", self.gate.table()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def check_assumptions(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    learning_rate: float | None = None,
    momentum: float = 0.0,
    batch_size: int | None = None,
    sampling: str = "shuffled",
    weight_decay: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    from_optimizer: torch.optim.Optimizer | None = None,
    forward: Callable[[nn.Module, Any], tuple[Any, Any]] | None = None,
    params: Sequence[str] | Sequence[nn.Parameter] | None = None,
    top_k: int = 10,
    attack: Callable[[nn.Module, Any], Any] | None = None,
    stochastic: Stochastic = "refuse",
    batch_norm: BatchNorm = "eval",
    budget: float | str = "2 min",
    samples: int = 4096,
    steps: int = 0,
    thresholds: Thresholds | None = None,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> AssumptionReport:
    """Measure the assumptions of the stationary law on anybody's model, and judge them.

    Args:
        model: the network at the weights to be judged; left exactly as it is, also by an error.
        loss: ``loss(model, batch)`` or ``loss(outputs, targets)``, one loss a sample.
        batches: any iterable of batches, in the order of training.
        learning_rate: η of the run.
        momentum: μ of torch's SGD.
        batch_size: of the run; default: the first batch's, where there are several.
        sampling: "shuffled" (epochs) or "replacement".
        weight_decay: β.
        dampening: d.
        nesterov: whether torch's SGD looks ahead.
        from_optimizer: a torch.optim.SGD or AdamW instead of the five above, parameter groups and all.
        forward: ``forward(model, batch)`` gives (outputs, targets) of a batch that is no pair.
        params: the parameters to vary; default: those that require gradients.
        top_k: directions tracked, at most; 25 samples are needed for every one but the first.
        attack: ``attack(model, batch)`` gives the batch to train on; run again wherever the loss is expanded.
        stochastic: of dropout in train mode: "refuse", "freeze" (off) or "measure" (as noise).
        batch_norm: "eval" or "frozen-batch"; "train" has no gradients of single samples.
        budget: seconds, or "90 s", "2 min", "1 h": fewer samples and no optional checks where time is short.
        samples: most samples measured.
        steps: training steps of a copy behind the stationarity check; 0: none.
        thresholds: demands in place of the rules.
        dtype: torch.float32 or float64; default: float64 up to a million weights.
        chunk: samples differentiated at once.
        progress: show it on standard error; default: on a terminal.
        seed: of start vectors, probes and nulls.

    Raises:
        ValueError: one line naming the argument, the rule and what was found.
        TypeError: if an argument is of a wrong kind.
    """
    started = time.monotonic()
    where = "check_assumptions"
    if batch_norm == "train":
        raise ValueError(
            f"`{where}(batch_norm=...)` must be eval or frozen-batch: per-sample gradients don't exist in train mode; "
            f"got 'train'."
        )
    if sampling not in ("shuffled", "replacement"):
        raise ValueError(f"`{where}(sampling=...)` must be shuffled or replacement; got {sampling!r}.")
    for name, value, least in (("top_k", top_k, 1), ("samples", samples, 8), ("steps", steps, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{where}({name}=...)` must be an integer >= {least}; got {value!r}.")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"`{where}(batch_size=...)` must be an integer >= 1; got {batch_size!r}.")
    allowed = _seconds(budget)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{where}(model=...)` must be a torch.nn.Module; got {type(model).__name__}.")
    optimizing = _optimizing(model, from_optimizer, learning_rate, momentum, dampening, nesterov, weight_decay)
    with quiet(model):
        item = subject(
            model,
            loss,
            batches,
            forward=forward,
            params=params,
            attack=attack,
            stochastic=stochastic,
            batch_norm=batch_norm,
            samples=samples,
            dtype=dtype,
            chunk=chunk,
        )
        optimizing.dress(item.landscape)
        if batch_size is None and len(item.batch_sizes) == 1 and (item.num_batches or 1) == 1:
            raise ValueError(
                f"`{where}(batch_size=...)` is needed where batches= holds one batch: these are all "
                f"{item.batch_sizes[0]} samples, and not how many a step of the run takes."
            )
        size = item.batch_sizes[0] if batch_size is None else batch_size
        total = max(sum(item.batch_sizes), (item.num_batches or 0) * item.batch_sizes[0])
        if size > total:
            raise ValueError(f"`{where}(batch_size=...)` must not exceed the data, {total} samples; got {size}.")
        run = _Run(
            item=item,
            optimizing=optimizing,
            optimizer=optimizing.optimizer,
            batch_size=size,
            population=total,
            shuffled=sampling == "shuffled",
            top_k=top_k,
            attack=attack,
            stochastic=stochastic,
            steps=steps,
            deadline=started + allowed,
            seed=seed,
            progress=sys.stderr.isatty() if progress is None else progress,
        )
        measured = run.measure()
    gate = GateReport(checks=tuple(measured["checks"].values()))
    if thresholds is not None:
        gate = decide(thresholds, quantities=_quantities_of(measured["checks"]))
    return AssumptionReport(gate=gate, seconds=time.monotonic() - started, **measured)


def _quantities_of(checks: Mapping[str, Check]) -> tuple[Quantity, ...]:
    return tuple(
        Quantity(name=check.name, estimate=check.estimate, interval=check.interval)
        for check in checks.values()
        if check.estimate is not None
    )


def _optimizing(
    model: nn.Module,
    given: torch.optim.Optimizer | None,
    learning_rate: Any,
    momentum: Any,
    dampening: Any,
    nesterov: bool,
    weight_decay: Any,
) -> Optimizing:
    where = "check_assumptions"
    if given is not None:
        if learning_rate is not None:
            raise ValueError(f"`{where}(learning_rate=...)` must not be given beside from_optimizer; got both.")
        return read_optimizer(given, model)
    if learning_rate is None:
        raise ValueError(f"`{where}(learning_rate=...)` is needed (or from_optimizer=); got None.")
    for name, value in (
        ("learning_rate", learning_rate),
        ("momentum", momentum),
        ("dampening", dampening),
        ("weight_decay", weight_decay),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"`{where}({name}=...)` must be a finite number; got {str(value)[:40]}.")
    if not learning_rate > 0:
        raise ValueError(f"`{where}(learning_rate=...)` must be > 0; got {learning_rate}.")
    return Optimizing(optimizer=MomentumSGD(learning_rate, momentum, dampening, nesterov, weight_decay))


def _seconds(budget: float | str) -> float:
    units = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "": 1.0}
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([a-z]*)\s*", str(budget))
    try:
        value = float(found[1]) * units[found[2]] if found else math.nan
    except (KeyError, ValueError):
        value = math.nan
    if isinstance(budget, bool) or not value > 0:
        raise ValueError(f"`check_assumptions(budget=...)` must be seconds > 0, or such as '2 min'; got {budget!r}.")
    return value


@dataclass(kw_only=True)
class _Run:
    """One measurement under a deadline."""

    item: Subject
    optimizing: Optimizing
    optimizer: MomentumSGD
    batch_size: int
    population: int
    shuffled: bool
    top_k: int
    attack: Callable[[nn.Module, Any], Any] | None
    stochastic: str
    steps: int
    deadline: float
    seed: int
    progress: bool
    # Seconds as last seen, with all samples: of a Hessian product, of their curvatures along a direction, of a loss.
    seconds: float = 0.0
    bend: float = 0.0
    loss: float = 0.0
    notes: list[str] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)

    def measure(self) -> dict[str, Any]:
        landscape = self.item.landscape
        self.seconds, landscape = self._affordable(landscape)
        count = landscape.num_units
        if count < 8:
            raise ValueError(f"`check_assumptions(batches=...)` must hold at least 8 samples; got {count}.")
        k = min(self.top_k, landscape.dimension, 1 + count // SAMPLES_A_DIRECTION)
        if k < self.top_k:
            self.notes.append(
                f"{k} directions tracked: {landscape.dimension} weights, {count} samples, "
                f"{SAMPLES_A_DIRECTION} of them for every direction but one"
            )
        self._say("curvature")
        hessian = HessianOperator(landscape, method="double-backward")
        pairs = self._pairs(hessian, k)
        lam, basis = pairs.largest.double().cpu().numpy(), pairs.basis
        self._say("noise")
        sampled = self._bent(landscape, basis)
        k = sampled.shape[1]
        lam, basis = lam[:k], basis[:, :k]
        slopes = self._slopes(landscape, basis)
        factor = self._factor(count)
        steepest = stability(sampled[:, 0], float(lam[0]), self.optimizer)
        self._limit(steepest)
        self._saddle(pairs, float(lam[0]))
        crossed = self._crossed(landscape, basis, slopes)
        self._slowed(landscape)
        gamma = crossed.var(axis=0, ddof=1) * factor
        usable = (lam > 0) & modes(lam, self.optimizer).stable & (gamma > 1e-14 * gamma.max(initial=0.0))
        self._parts(slopes)
        self._batches(landscape)
        self._whole(landscape, hessian, pairs)
        lam, gamma, slopes, crossed = lam[usable], gamma[usable], slopes[:, usable], crossed[:, usable]
        variances, shuffled = np.empty(0), None
        if not usable.any():
            full = factor == 0.0
            if full:
                self.notes.append(
                    f"batch_size={self.batch_size} is all the data: steps without noise have no stationary law to judge"
                )
            for name in ("mean_square_stability", "commutativity_top", "price", "alignment", "expansion", "optimum"):
                self._none(
                    name, "full batches have no gradient noise" if full else "no tracked direction has a stationary law"
                )
        else:
            variances = stationary_variance(Quadratic(lam, gamma), self.optimizer)
            chosen = torch.as_tensor(np.flatnonzero(usable), device=landscape.device)
            basis = basis[:, chosen]
            bends = sampled[:, usable]
            self._mean_square(landscape, basis, bends)
            self._top(slopes, crossed, lam, factor)
            self._say("expansion")
            self._slowed(landscape)
            self._expansion(landscape, basis, variances, bends)
            self._optimum(landscape, basis, slopes, lam, variances)
            shuffled = self._modes(lam, variances, bends)
        self._path(landscape)
        self._stationarity(landscape)
        self._say("")
        return {
            "checks": {name: self.checks[name] for name in RULES if name in self.checks},
            "curvatures": lam,
            "curvature_intervals": _curvature_intervals(lam, sampled[:, usable]),
            "noise_variances": gamma,
            "noise_intervals": _noise_intervals(crossed, factor, self.seed),
            "variances": variances,
            "shuffled_variances": shuffled,
            "samples": count,
            "notes": (*self.notes, *self.optimizing.notes),
        }

    # ------------------------------------------------------------------------------------------------ what is measured

    def _affordable(self, landscape: Landscape) -> tuple[float, Landscape]:
        """Seconds of a Hessian product, and as many samples as the budget carries."""
        count = landscape.num_units
        sizes = sorted({min(8, count), min(landscape.chunk, count, 64)})
        taken = []
        for size in sizes:
            few = landscape.subset(torch.arange(size, device=landscape.device))
            vector = torch.ones(landscape.dimension, 1, dtype=landscape.dtype, device=landscape.device)
            operator = HessianOperator(few, method="double-backward")
            operator.matmat(vector)  # the first one builds the graph, and whatever torch builds once
            if count > landscape.chunk:  # one chunk's graph is kept, all others are built for every product
                operator = HessianOperator(few, method="double-backward")
            start = time.perf_counter()
            operator.matmat(vector)
            taken.append(time.perf_counter() - start)
        # Vectors as long as the weights cost the same for any number of samples.
        each = max((taken[-1] - taken[0]) / max(sizes[-1] - sizes[0], 1), 0.02 * taken[-1] / sizes[-1], 1e-12)
        fixed = max(taken[0] - each * sizes[0], 0.0)
        products = 55 + 17 * min(self.top_k, 1 + count // SAMPLES_A_DIRECTION)
        left = 0.8 * (self.deadline - time.monotonic())
        fits = int((left / products - fixed) / each)
        if fits < count:
            kept = max(fits, min(count, 64), 8)
            generator = torch.Generator().manual_seed(self.seed)
            index = torch.randperm(count, generator=generator)[:kept].sort().values
            self.notes.append(f"{kept} of {count} samples measured, for the budget")
            landscape = landscape.subset(index.to(landscape.device))
        return fixed + each * landscape.num_units, landscape

    def _time_for(self, seconds: float) -> bool:
        return time.monotonic() + seconds <= self.deadline

    def _slowed(self, landscape: Landscape) -> None:
        """Time a loss again: on a machine with other work all that was timed before may take longer by now."""
        began = time.monotonic()
        landscape.losses()
        taken = time.monotonic() - began
        slower = max(taken / self.loss, 1.0) if self.loss > 0 else 1.0
        self.seconds, self.bend, self.loss = slower * self.seconds, slower * self.bend, max(taken, self.loss)

    def _pairs(self, hessian: HessianOperator, k: int) -> Eigenpairs:
        """As many of the steepest directions as converge in their share of the budget, and the lower end.

        Without the steepest there is no report: it is waited for, until the budget is spent twice.
        """
        lowest = 1 if k < hessian.dimension else 0
        left = max(self.deadline - time.monotonic(), 0.0)
        began = time.monotonic()
        until, last = began + SHARE * left, began + 2 * left + 1.0

        def stop(converged: Tensor) -> bool:
            now = time.monotonic()
            return now > last or (now > until and bool(converged[-1]))

        found = top_eigenpairs(
            hessian,
            k,
            num_smallest=lowest,
            tolerance=1e-4,
            smallest_tolerance=LOWER_END,
            max_products=60 + 40 * (k + lowest),
            seed=self.seed,
            stop=stop,
        )
        self.seconds = (time.monotonic() - began) / max(found.num_products, 1)
        done = int(found.converged[: found.num_largest].long().cumprod(0).sum())
        end = lowest if bool(found.converged[found.num_largest :].all()) else 0
        if done == k and end == lowest:
            return found
        why = "in the budget" if time.monotonic() > until else f"in {found.num_products} Hessian products"
        if end < lowest:
            self.notes.append(f"the most negative curvature did not converge {why}: not judged")
        if not done:
            raise ValueError(
                f"`check_assumptions(budget=...)` must leave time for one direction; none converged {why}."
            )
        if done < k:
            self.notes.append(f"{done} of {k} directions converged {why}")
        chosen = torch.tensor([*range(done), *range(k, k + end)])
        return replace(
            found,
            values=found.values[chosen],
            vectors=found.vectors[:, chosen.to(found.vectors.device)],
            residuals=found.residuals[chosen],
            error_bounds=found.error_bounds[chosen],
            converged=found.converged[chosen],
            num_largest=done,
        )

    def _bent(self, landscape: Landscape, basis: Tensor) -> Array:
        """Every sample's curvature along as many directions as are affordable."""
        began = time.monotonic()
        landscape.losses()
        self.loss = time.monotonic() - began
        first = bilinear_curvatures(landscape, basis[:, :1], basis[:, :1])
        self.bend = time.monotonic() - began - self.loss
        k = basis.shape[1]
        room = int(SHARE * max(self.deadline - time.monotonic(), 0.0) / max(self.bend, 1e-9))
        if room < k - 1:
            self.notes.append(f"{1 + room} of {k} directions measured, for the budget")
        more = basis[:, 1 : 1 + min(room, k - 1)]
        found = torch.cat([first, bilinear_curvatures(landscape, more, more)], dim=1) if more.shape[1] else first
        return found.cpu().numpy()

    def _slopes(self, landscape: Landscape, basis: Tensor) -> Array:
        large = landscape.dimension > 1_000_000 and basis.shape[1] <= 5
        if self.stochastic == "measure" and self.item.drawing:
            note = "noise measured with dropout drawn anew, curvature with dropout off"
            self.notes += [note] if note not in self.notes else []
            for module in self.item.drawing:
                module.train()
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(self.seed)
                    rows = [directional_derivatives(landscape, basis, units) for units in landscape.chunks()]
            finally:
                for module in self.item.drawing:
                    module.eval()
            return torch.cat(rows).double().cpu().numpy()
        method = "jvp" if large else "per-sample-gradients"
        narrow = landscape if large else landscape.in_chunks(self.item.gradient_chunk)
        return project_gradients(narrow, basis, method=method).values.cpu().numpy()

    def _crossed(self, landscape: Landscape, basis: Tensor, slopes: Array) -> Array:
        """Slopes of either half of the samples along the other half's directions, about their own half's mean."""
        count, k = slopes.shape
        if not self._time_for((3 * k + 10) * self.seconds):
            self.notes.append("noise measured along directions found in the same samples: its intervals are too short")
            return slopes
        self._say("noise")
        rows = np.empty_like(slopes)
        until = time.monotonic() + SHARE * max(self.deadline - time.monotonic(), 0.0)
        for part, directions in crossed_directions(
            landscape, basis, seed=self.seed, stop=lambda: time.monotonic() > until
        ):
            found = self._slopes(landscape.subset(part), directions)
            rows[part.cpu().numpy()] = found - found.mean(axis=0)
        return rows * math.sqrt((count - 1) / (count - 2))  # two means were taken off, not one

    def _factor(self, count: int) -> float:
        if not self.shuffled:
            return noise_factor(max(self.population, self.batch_size), self.batch_size, with_replacement=True)
        return noise_factor(self.population, self.batch_size)

    # ---------------------------------------------------------------------------------------------------------- checks

    def _add(self, name: str, result: Result, reason: str, **more: Any) -> None:
        self.checks[name] = judged(name, result, reason, **more)

    def _none(self, name: str, reason: str) -> None:
        self.checks[name] = unjudged(name, reason)

    def _limit(self, quantity: Quantity, *, null: str = "", note: str = "") -> None:
        self.checks[quantity.name] = limited(quantity, null=null, note=note)

    def _saddle(self, pairs: Eigenpairs, steepest: float) -> None:
        lowest = float(pairs.values[-1])
        if len(pairs.values) == pairs.num_largest and pairs.num_largest < pairs.vectors.shape[0]:
            self._none("positive_curvature", "the lower end of the spectrum was not found")
            return
        if not steepest > 0:
            self._add("positive_curvature", Result.FAIL, "no curvature is positive", estimate=1.0, interval=(1.0, 1.0))
            return
        bound = float(pairs.error_bounds[-1])
        ends = tuple(max(-(lowest + sign * bound), 0.0) / steepest for sign in (1.0, -1.0))
        self._limit(
            Quantity(name="positive_curvature", estimate=max(-lowest, 0.0) / steepest, interval=(ends[0], ends[1])),
            note=f"{int((pairs.largest <= 0).sum())} of {pairs.num_largest} tracked are not positive",
        )

    def _parts(self, slopes: Array) -> None:
        """Drift between contiguous parts, and correlation of neighbours, against permutations of the samples."""
        count = len(slopes)
        parts = min(16, count // 4)
        rng = np.random.default_rng(self.seed)
        scaled = slopes - slopes.mean(axis=0)
        scale = scaled.std(axis=0)
        scaled = scaled[:, scale > 0] / scale[scale > 0]
        if parts < 4 or not scaled.size:
            for name in ("drift", "whiteness"):
                self._none(name, f"{count} samples are too few")
            return
        size = count // parts

        def both(order: NDArray[np.int64]) -> tuple[float, float]:
            means = scaled[order[: parts * size]].reshape(parts, size, -1).mean(axis=1)
            means = means - means.mean(axis=0)
            power = float((means**2).sum())
            return power * size / (parts * scaled.shape[1]), float((means[1:] * means[:-1]).sum()) / max(power, 1e-300)

        seen = both(np.arange(count))
        null = np.array([both(rng.permutation(count)) for _ in range(499)])
        for column, name, two_sided in ((0, "drift", False), (1, "whiteness", True)):
            draws, value = null[:, column], seen[column]
            low, high = np.quantile(draws, [0.025, 0.975])
            extreme = np.sum(draws >= value)
            if two_sided:
                extreme = 2 * min(extreme, np.sum(draws <= value))
            p = min(float(1 + extreme) / 500, 1.0)
            half = 0.5 * float(high - low)
            self._add(
                name,
                Result.FAIL if p <= 0.005 else Result.PASS,
                f"p = {p:.3g} against permutations of the samples, {parts} parts in the loader's order",
                rule="p > 0.005",
                estimate=value,
                interval=(value - half, value + half),
                null=f"[{low:.3g}, {high:.3g}]",
            )

    def _batches(self, landscape: Landscape) -> None:
        """Batch sharpness, from drawn batches: as the samples lie, attacked again, and as batch norm trains."""
        name, size = "batch_sharpness", min(self.batch_size, landscape.num_units)
        # A batch costs its gradient and a product of its Hessian, whose graph is built for it alone.
        each = 2.5 * self.seconds * size / landscape.num_units
        how: dict[str, Any] = {"with_replacement": not self.shuffled, "seed": self.seed}
        self._sharpness(
            name, each, lambda most: network_batch_sharpness(landscape, self.optimizer, size, batches=most, **how)
        )
        attack = self._again_in_batch(landscape)
        if attack is not None:
            step = STEP * float(landscape.weights.double().norm())
            began = time.monotonic()
            attack(landscape.weights, torch.arange(size, device=landscape.device), 0)
            both = each + 2 * (time.monotonic() - began)
            self._sharpness(
                f"{name}_attacked",
                both,
                lambda most: attacked_batch_sharpness(
                    landscape, self.optimizer, size, attack, step=step, batches=most, **how
                ),
            )
        if has_batch_norm(landscape.model):
            training = landscape.under_batch_statistics()
            self._sharpness(
                f"{name}_train",
                each,
                lambda most: network_batch_sharpness(training, self.optimizer, size, batches=most, **how),
            )

    def _sharpness(self, name: str, each: float, draw: Callable[[int], BatchSharpness]) -> None:
        """Judge or report what `draw` finds with at most so many batches, of `each` seconds."""
        most = min(int(0.25 * max(self.deadline - time.monotonic(), 0.0) / max(each, 1e-9)), 256)
        if most < 16:
            self._none(name, "no time left in the budget")
            return
        try:
            found = draw(most)
        except ValueError:
            self._none(name, "every batch's gradient vanishes")
            return
        scale = float(stability_ratio(1.0, self.optimizer.learning_rate, self.optimizer))
        small = found.small_batch_limit / found.large_batch_limit
        note = f"small batches settle at {small:.3g}, full batches at 1; {len(found.squares)} batches drawn"
        ends = (scale * found.low, scale * found.high)
        if RULES[name].largest is None:
            self._add(name, Result.REPORTED, note, estimate=scale * found.value, interval=ends)
        else:
            self._limit(Quantity(name=name, estimate=scale * found.value, interval=ends), note=note)

    def _again_in_batch(self, landscape: Landscape) -> BatchAttack | None:
        """Weights, samples and the batch's number to those samples as the attack leaves them at these weights."""
        if self.attack is None:
            return None
        attack, item = self.attack, self.item
        assert isinstance(landscape, UserLandscape)
        put = self._put(landscape)

        def moved(weights: Tensor, samples: Tensor, number: int) -> Tensor:
            put(weights)
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(self.seed + number)  # equal starts on both sides of a step
                    rows = attacked(attack, item.model, item.clean.batch(landscape.inputs[samples]), landscape.chunk)
            finally:
                put(landscape.weights)
            return item.store.beside(rows).to(samples.device)

        return moved

    def _put(self, landscape: UserLandscape) -> Callable[[Tensor], None]:
        """Sets the model that the attack sees to flat weights."""
        named = dict(landscape.model.named_parameters())

        def put(weights: Tensor) -> None:
            with torch.no_grad():
                for name, piece in landscape.actual(landscape.unflatten(weights)).items():
                    named[name].copy_(piece)

        return put

    def _whole(self, landscape: Landscape, hessian: HessianOperator, pairs: Eigenpairs) -> None:
        names = ("commutativity", "commutativity_deflated")
        k = pairs.vectors.shape[1]
        if not self._time_for(6 * (k + 2 * 8) * self.seconds):
            for name in names:
                self._none(name, "no time left in the budget")
            return
        self._say("commutation")
        try:
            narrow = landscape.in_chunks(self.item.gradient_chunk)
            parts = [part.to(landscape.device) for part in halves(landscape.num_units, self.seed)]
            covariances = [GradientCovarianceOperator(narrow.subset(part)) for part in parts]
            found = commutation_excess(hessian, covariances, pairs, seed=self.seed)
        except (NotImplementedError, RuntimeError) as error:
            for name in names:
                self._none(name, f"the noise has no matrix products here ({' '.join(str(error).split())[:60]})")
            return
        for name, item in zip(names, found, strict=True):
            self._excess(name, item)

    def _excess(self, name: str, found: Excess | None) -> None:
        if found is None:
            self._none(name, "at most one direction is left")
        elif found.value is None:
            self._none(name, f"χ₀ = {found.null:.2f}: spectra this flat commute with everything")
        else:
            quantity = Quantity(name=name, estimate=found.value, interval=found.interval)
            self._limit(quantity, null="0 rotated, 1 commuting", note=f"χ = {found.chi:.3f}, χ₀ = {found.null:.3f}")

    def _mean_square(self, landscape: Landscape, basis: Tensor, bends: Array) -> None:
        """At the steepest directions, three at most; `bends` are the samples' curvatures along them."""
        name = "mean_square_stability"
        k = min(basis.shape[1], 3)
        while k > 1 and not self._time_for(0.5 * k * (k - 1) * self.bend):
            k -= 1
        rows, columns = np.triu_indices(k, 1)
        found = np.empty((len(bends), k, k))
        found[:, range(k), range(k)] = bends[:, :k]
        if k > 1:
            mixed = bilinear_curvatures(landscape, basis[:, rows], basis[:, columns]).cpu().numpy()
            found[:, rows, columns] = found[:, columns, rows] = mixed
        size = min(self.batch_size, len(found))
        sampling = Sampling.WITHOUT_REPLACEMENT if self.shuffled else Sampling.WITH_REPLACEMENT

        def ratio(part: Array) -> float:
            edge = mean_square_edge(part, min(size, len(part)), self.optimizer, sampling=sampling)
            return self.optimizer.learning_rate / edge.learning_rate

        try:
            value = ratio(found)
            groups = np.array_split(np.random.default_rng(self.seed).permutation(len(found)), 8)
            logs = np.log([ratio(np.delete(found, group, axis=0)) for group in groups])
        except (ValueError, RuntimeError) as error:
            self._none(name, " ".join(str(error).split())[:120])
            return
        error = math.sqrt(7 / 8 * float(((logs - logs.mean()) ** 2).sum()))
        reach = float(stats.t.ppf(0.975, 7)) * error
        ends = (value * math.exp(-reach), value * math.exp(reach))
        crossover = crossover_batch_size(found, self.optimizer, sampling=sampling)
        until = "at every B" if crossover is None else f"below B = {crossover}"
        note = f"{k} steepest directions, B = {size}; of {len(found)} samples, noise halves the edge {until}"
        self._limit(Quantity(name=name, estimate=value, interval=ends), note=note)

    def _top(self, slopes: Array, crossed: Array, lam: Array, factor: float) -> None:
        k = len(lam)
        if k < 2 or len(slopes) <= 2 * k:
            for name in ("commutativity_top", "price", "alignment"):
                self._none(name, f"{k} directions with a stationary law, {len(slopes)} samples")
            return
        rng = np.random.default_rng(self.seed)
        test = commutation_test(slopes, lam, self.optimizer, noise_factor=max(factor, 1e-300), rng=rng)
        value, low, high = price_interval(crossed, lam, max(factor, 1e-300), self.optimizer)
        shown = ", ".join(
            f"{m}: {float(prices(test.noise[:m, :m], lam[:m], self.optimizer)):.3g}" for m in (2, 5, 10, 20) if m < k
        )
        note = f"nats a direction, k = {k}{f' ({shown})' if shown else ''}"
        ends = _jackknife(slopes, test.cosine.value)
        for check in commutation_checks(test, (value, low, high), ends, note):
            self.checks[check.name] = check

    def _expansion(self, landscape: Landscape, basis: Tensor, variances: Array, bends: Array) -> None:
        k = basis.shape[1]
        while k and not self._time_for((2 * k + 1) * self.loss):
            k -= 1
        if not k:
            self._none("expansion", "no time left in the budget")
            return
        radii = torch.as_tensor(np.sqrt(variances[:k]), dtype=basis.dtype, device=basis.device)
        study = expansion_error(
            landscape,
            basis[:, :k] * radii,
            part="even",
            attack=self._again(landscape),
            curvatures=bends[:, :k] * variances[:k],
            seed=self.seed,
        )
        self._limit(of_expansion(study), note="attack run again" if self.attack else f"radius σ, {k} directions")

    def _again(self, landscape: Landscape) -> Callable[[Tensor], Tensor] | None:
        """Flat weights to the indices of the samples as the attack leaves them there."""
        if self.attack is None:
            return None
        attack, item = self.attack, self.item
        assert isinstance(landscape, UserLandscape)
        put, index = self._put(landscape), landscape.inputs

        def moved(weights: Tensor) -> Tensor:
            put(weights)
            try:
                rows = attacked(attack, item.model, item.clean.batch(index), landscape.chunk)
            finally:
                put(landscape.weights)
            return item.store.beside(rows).to(index.device)

        return moved

    def _optimum(self, landscape: Landscape, basis: Tensor, slopes: Array, lam: Array, variances: Array) -> None:
        decay = self.optimizer.weight_decay
        pull = decay * (basis.T.double() @ self.optimizing.position(landscape)).cpu().numpy()
        k, count = len(lam), len(slopes)
        # A part of the data has a gradient of its own: its share of the step is no distance from the optimum.
        unseen = max(1.0 / count - 1.0 / self.population, 0.0)
        width = variances + slopes.var(axis=0, ddof=1) * unseen / (lam + decay) ** 2

        def distance(mean: Array) -> Array:
            return np.mean(((mean + pull) / (lam + decay)) ** 2 / width, axis=-1)

        value = float(distance(slopes.mean(axis=0)))
        rng = np.random.default_rng(self.seed)
        draws = distance(np.stack([slopes[rng.integers(0, count, count)].mean(axis=0) for _ in range(200)]))
        low, high = np.quantile(draws, [0.025, 0.975])
        limit = float(stats.chi2.ppf(0.99, k)) / k
        self._add(
            "optimum",
            Result.PASS if value <= limit else Result.FAIL,
            "a stationary run is within" if value <= limit else "further out than a stationary run",
            rule=f"at most {limit:.3g}",
            estimate=value,
            interval=(min(float(low), value), max(float(high), value)),
            null=f"χ²/k, 99 % below {limit:.3g}",
        )

    def _modes(self, lam: Array, variances: Array, sampled: Array) -> Array | None:
        optimizer = self.optimizer
        total = lam + optimizer.weight_decay
        found = modes(lam, optimizer)
        share = float(np.mean(found.total**2 < 4 * found.product))
        self._add("underdamped", Result.REPORTED, "share of tracked modes that oscillate", estimate=share)
        slow = (1 - optimizer.momentum) / (optimizer.learning_rate * float(total[-1]))
        self._add("relaxation", Result.REPORTED, "steps of the slowest tracked mode", estimate=slow)
        batches = self.population // self.batch_size
        plain = not (optimizer.nesterov or optimizer.dampening)
        if not self.shuffled or batches < 2 or not plain:
            reason = (
                "batches are drawn independently" if not self.shuffled else "one batch" if plain else "heavy ball only"
            )
            self._none("shuffling", reason)
            return None
        factors = epoch_shuffling_factor(optimizer.learning_rate, optimizer.momentum, total, batches, "mean")
        ends = (float(factors.min()), float(factors.max()))
        self._add(
            "shuffling",
            Result.REPORTED,
            f"σ² under shuffled epochs over white noise, {batches} batches; {ends[0]:.3g} to {ends[1]:.3g}",
            estimate=float(np.exp(np.log(factors).mean())),
            interval=ends,
        )
        return variances * factors

    def _walk(self, landscape: Landscape, steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Training steps of a copy from rest, samples as they lie: weights before each, its gradient, its buffer."""
        optimizer, count = self.optimizer, landscape.num_units
        rng = np.random.default_rng(self.seed)
        size = min(self.batch_size, count)
        kept = 1 - optimizer.dampening if optimizer.momentum else 1.0
        weights, buffer, order = landscape.weights.clone(), None, []
        for _ in range(steps):
            if len(order) < size:
                order = rng.permutation(count).tolist()
            index = order[:size] if self.shuffled else rng.integers(0, count, size).tolist()
            order = order[size:]
            batch = landscape.subset(torch.tensor(index, device=landscape.device))
            gradient = batch.gradient(weights) + optimizer.weight_decay * weights.double()
            buffer = gradient if buffer is None else optimizer.momentum * buffer + kept * gradient
            yield weights, gradient, buffer
            ahead = gradient + optimizer.momentum * buffer if optimizer.nesterov else buffer
            weights = weights - (optimizer.learning_rate * ahead).to(weights)

    def _path(self, landscape: Landscape) -> None:
        """The loss along the optimizer's own steps against its expansion, after 4, 8 and 16 of them."""
        name, wanted = "expansion_path", (4, 8, 16)
        share = min(self.batch_size, landscape.num_units) / landscape.num_units
        if not self._time_for(share * wanted[-1] * self.seconds + 4.5 * self.bend + 4 * self.loss):
            self._none(name, "no time left in the budget")
            return
        self._say("path")
        walked = self._walk(landscape, wanted[-1] + 1)
        moves = [weights - landscape.weights for step, (weights, _, _) in enumerate(walked) if step in wanted]
        path = torch.stack(moves, dim=1)
        if not bool(torch.isfinite(path).all()):
            self._add(name, Result.FAIL, f"the run diverged within {wanted[-1]} steps")
            return
        if not bool((torch.linalg.vector_norm(path, dim=0) > 0).all()):
            self._none(name, "the run stands still: no gradient moves it")
            return
        study = expansion_error(landscape, path, part="curved", attack=self._again(landscape), seed=self.seed)
        if not np.isfinite([study.pooled, study.pooled_low, study.pooled_high]).all():
            self._none(name, "the loss is not finite along the path")
            return
        fresh = "; attack run again where the loss is taken" if self.attack else ""
        self._limit(of_expansion(study, name=name), note=f"after 4, 8 and 16 steps{fresh}")

    def _stationarity(self, landscape: Landscape) -> None:
        name = "stationarity"
        if not self.steps:
            self._none(name, "no steps asked for (steps=)")
            return
        per_step = 0.5 * self.seconds * min(self.batch_size, landscape.num_units) / landscape.num_units
        steps = min(self.steps, int(max(self.deadline - time.monotonic(), 0.0) / max(per_step, 1e-9)))
        optimizer = self.optimizer
        burn = min(steps // 4, math.ceil(5 / (1 - optimizer.momentum)))
        if steps - burn < 64 or optimizer.nesterov:
            self._none(name, "needs 64 steps of heavy ball" if not optimizer.nesterov else "heavy ball only")
            return
        self._say("stationarity")
        home = landscape.weights.double()
        overlap, squared = [], []
        for step, (weights, gradient, buffer) in enumerate(self._walk(landscape, steps)):
            if not bool(torch.isfinite(weights).all()):
                self._add(name, Result.FAIL, f"the run diverged after {step} steps", rule="p > 0.005")
                return
            if step >= burn:
                overlap.append(float((weights.double() - home) @ gradient))
                squared.append(float(buffer @ buffer))
        found = first_fluctuation_dissipation(
            overlap, squared, optimizer.learning_rate, momentum=optimizer.momentum, dampening=optimizer.dampening
        )
        short = found.status is FluctuationStatus.SHORT
        reach = 1.96 * found.standard_error
        self._add(
            name,
            Result.INCONCLUSIVE if short else Result.FAIL if found.p_value <= 0.005 else Result.PASS,
            f"p = {found.p_value:.3g} over {len(overlap)} steps; {found.status.value}",
            rule="p > 0.005",
            estimate=found.ratio,
            interval=(found.ratio - reach, found.ratio + reach),
            null="1",
        )

    def _say(self, stage: str) -> None:
        if self.progress:
            left = max(self.deadline - time.monotonic(), 0.0)
            text = f"assumptions: {stage}, {left:.0f} s of the budget left" if stage else ""
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def _curvature_intervals(curvatures: Array, samples: Array) -> Array:
    """λ ± t SE from its terms, sample by sample."""
    ends = [from_influences(float(c), samples[:, i]).interval(0.05) for i, c in enumerate(curvatures)]
    return np.array(ends).reshape(-1, 2)


def _noise_intervals(slopes: Array, factor: float, seed: int) -> Array:
    """Of γ, by the bootstrap-t for variances of heavy-tailed slopes."""
    if not slopes.shape[1]:
        return np.empty((0, 2))
    found = variance_estimates(slopes, rng=np.random.default_rng(seed))
    return factor * np.stack([found.low, found.high], axis=1)


def _jackknife(slopes: Array, value: float) -> tuple[float, float]:
    """Interval of the mean cosine, over groups of samples left out."""
    count = len(slopes)
    groups = min(20, count // 4)
    found = []
    for part in np.array_split(np.random.default_rng(0).permutation(count), groups):
        noise = np.cov(np.delete(slopes, part, axis=0), rowvar=False)
        found.append(float(np.mean(np.diag(noise) / np.linalg.norm(noise, axis=0))))
    leaves = np.array(found)
    error = math.sqrt((groups - 1) / groups * float(((leaves - leaves.mean()) ** 2).sum()))
    reach = float(stats.t.ppf(0.975, groups - 1)) * error
    return value - reach, min(value + reach, 1.0)
