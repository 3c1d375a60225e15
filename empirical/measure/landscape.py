r"""The loss as a function of the weights alone, at fixed inputs: what every operator of this package differentiates.

Model     L(w) = (1/N) Σₙ ℓₙ(w) over N *units*. With batch norm in ``"eval"`` or ``"frozen-batch"`` mode (or without
          batch norm) a unit is a sample. In ``"train"`` mode samples share batch statistics, no per-sample gradient
          exists, and a unit is one mini-batch of ``batch_size`` samples; running statistics are never touched.
Inputs    Adversarial inputs are made beforehand and held fixed, so H is the Danskin-type Hessian: it omits
          ∂x*/∂w. `operators.finite_curvatures` measures the curvature with the attack run again.
Limits    Units weigh equally and sums run over units, so uneven chunks carry no error (averaging the means of
          uneven batches does: 2.8e-3 at 128 against 104 samples).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from empirical.measure.precision import full_precision
from empirical.settings.measuring import BATCH_NORMS, BatchNorm
from empirical.training.attack import batch_norm_layers
from empirical.training.loss import PerSampleLoss, cross_entropy

#: What is counted in samples: a step of the attack, a gradient, a product of H or of C with one vector.
Work = Literal["attack", "gradient", "product", "covariance"]
#: Memory for vectors as long as the weights, one a unit, wherever such vectors are formed.
GRADIENT_BYTES = 512 * 2**20


class Landscape:
    """A network's mean loss over fixed inputs as a function of (a subset of) its weights.

    Args:
        model: any torch module; copied, so the caller's mode, weights, buffers and ``.grad`` stay as they are.
        inputs: inputs, shape ``(N, …)``, adversarial if the adversarial loss is meant.
        targets: one target a sample, shape ``(N, …)``.
        per_sample_loss: maps ``(outputs, targets)`` to one differentiable loss a sample, shape ``(B,)``.
        batch_norm: ``"eval"`` (running statistics), ``"train"`` (statistics of each mini-batch) or ``"frozen-batch"``
            (statistics of ``reference_inputs`` at these weights, then held fixed).
        batch_size: samples in a unit of ``"train"`` mode; ignored otherwise.
        num_batches: units in ``"train"`` mode, drawn epoch by epoch without replacement; default: one epoch.
        reference_inputs: the batch whose statistics ``"frozen-batch"`` freezes; default: all of ``inputs``.
        parameters: names of the parameters to vary (None: all); the others are constants.
        dtype: arithmetic of the forward and backward passes; sums over chunks are float64 in either case.
        chunk: samples differentiated at once, at least one unit: it bounds the memory.
        seed: seed of the mini-batch draw of ``"train"`` mode.

    Raises:
        ValueError: if the data are empty or uneven, smaller than one batch, or a parameter name is unknown.
    """

    #: Told what was computed and over how many samples, such as ("product", 1024), as it goes; see `cost.Watch`.
    tick: Callable[[Work, float], None] | None = None
    #: Whether torch can batch samples of this model (`torch.func.vmap`); False differentiates them one after another.
    vectorized: bool = True

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        per_sample_loss: PerSampleLoss = cross_entropy,
        batch_norm: BatchNorm = "eval",
        batch_size: int | None = None,
        num_batches: int | None = None,
        reference_inputs: Tensor | None = None,
        parameters: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
        chunk: int = 1024,
        seed: int = 0,
    ):
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise ValueError(
                f"`Landscape(inputs=..., targets=...)` must hold equally many samples, at least one; "
                f"got {len(inputs)} and {len(targets)}."
            )
        if batch_norm not in BATCH_NORMS:
            raise ValueError(f"`Landscape(batch_norm=...)` must be one of {BATCH_NORMS}; got {batch_norm!r}.")
        if chunk < 1:
            raise ValueError(f"`Landscape(chunk=...)` must be >= 1; got {chunk}.")
        device = next(model.parameters()).device
        self.model = copy.deepcopy(model).to(dtype=dtype).eval().requires_grad_(False)
        self.inputs = inputs.detach().to(device=device, dtype=dtype if inputs.is_floating_point() else inputs.dtype)
        self.targets = targets.detach().to(device)
        self.per_sample_loss = per_sample_loss
        self.batch_norm: BatchNorm = batch_norm
        self.dtype = dtype
        self.device = device
        self.chunk = chunk
        self._batches: Tensor | None = None
        if batch_norm == "train":
            if batch_size is None:
                raise ValueError("`Landscape(batch_size=...)` is needed with batch_norm='train'; got None.")
            self._batches = _draw_batches(len(inputs), batch_size, num_batches, seed).to(device)
            _use_batch_statistics(self.model)
        elif batch_norm == "frozen-batch":
            reference = self.inputs if reference_inputs is None else reference_inputs.to(device=device, dtype=dtype)
            _freeze_statistics(self.model, reference)
        named = dict(self.model.named_parameters())
        unknown = sorted(set(parameters or ()) - set(named))
        if unknown:
            raise ValueError(f"`Landscape(parameters=...)` must name parameters of the model; got {unknown}.")
        if parameters is not None and not parameters:
            raise ValueError("`Landscape(parameters=...)` must name at least one parameter; got none.")
        self.names = [name for name in named if parameters is None or name in set(parameters)]
        self._shapes = [named[name].shape for name in self.names]
        self._sizes = [named[name].numel() for name in self.names]
        self.weights = torch.cat([named[name].detach().reshape(-1) for name in self.names])
        self._constants: dict[str, Tensor] = {}

    @property
    def dimension(self) -> int:
        """Number of weights that vary, P."""
        return int(self.weights.numel())

    @property
    def num_units(self) -> int:
        """Number of equally weighted units N: samples, or mini-batches in ``"train"`` mode."""
        return len(self.inputs) if self._batches is None else len(self._batches)

    @property
    def units_are_batches(self) -> bool:
        """Whether a unit is a mini-batch (batch norm in ``"train"`` mode) rather than a sample."""
        return self._batches is not None

    def restrict(self, parameters: Sequence[str]) -> Landscape:
        """The same loss seen as a function of the named parameters alone (a layer's block)."""
        restricted = copy.copy(self)
        current = self.unflatten(self.weights)
        unknown = sorted(set(parameters) - set(current))
        if unknown or not parameters:
            raise ValueError(f"`restrict(parameters=...)` must name parameters that vary; got {list(parameters)}.")
        restricted.names = [name for name in self.names if name in set(parameters)]
        restricted._shapes = [current[name].shape for name in restricted.names]
        restricted._sizes = [current[name].numel() for name in restricted.names]
        restricted.weights = torch.cat([current[name].reshape(-1) for name in restricted.names])
        held = {name: value for name, value in current.items() if name not in set(parameters)}
        restricted._constants = {**self._constants, **held}
        return restricted

    def layers(self) -> dict[str, list[str]]:
        """Parameter names grouped by the module that owns them: the blocks of a per-layer measurement."""
        groups: dict[str, list[str]] = {}
        for name in self.names:
            groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return groups

    def block(self, parameters: Sequence[str]) -> Tensor:
        """Positions of the named parameters inside the flat weight vector, int64."""
        wanted, positions, start = set(parameters), [], 0
        for name, size in zip(self.names, self._sizes, strict=True):
            if name in wanted:
                positions.append(torch.arange(start, start + size, device=self.device))
            start += size
        if not positions:
            raise ValueError(f"`block(parameters=...)` must name parameters that vary; got {list(parameters)}.")
        return torch.cat(positions)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of flat vectors ``(…, P)`` under the parameters' names and shapes (leading axes kept)."""
        pieces = vector.split(self._sizes, dim=-1)
        lead = vector.shape[:-1]
        return {n: p.view(*lead, *s) for n, p, s in zip(self.names, pieces, self._shapes, strict=True)}

    def flatten(self, tensors: Sequence[Tensor] | dict[str, Tensor]) -> Tensor:
        """The flat vector of tensors in the order of ``names`` (or under those names)."""
        values = [tensors[name] for name in self.names] if isinstance(tensors, dict) else tensors
        return torch.cat([value.reshape(-1) for value in values])

    def chunks(self, doing: Work | None = None, times: int = 1) -> Iterator[Tensor]:
        """Indices of the units, as many at a time as hold ``chunk`` samples; `tick` hears what was done with them."""
        for units in torch.arange(self.num_units, device=self.device).split(max(1, self.chunk // self._unit_samples)):
            yield units
            if doing and self.tick is not None:
                self.tick(doing, times * len(units) * self._unit_samples)

    def gradient_chunks(self) -> Iterator[Tensor]:
        """Indices of the units, so few at a time that a vector of weights for each fits `GRADIENT_BYTES`."""
        held = max(1, GRADIENT_BYTES // (self.dimension * self.dtype.itemsize))
        for units in self.chunks():
            yield from units.split(held)

    @property
    def _unit_samples(self) -> int:
        return 1 if self._batches is None else self._batches.shape[1]

    def unit_losses(self, parameters: dict[str, Tensor], units: Tensor) -> Tensor:
        """Losses ℓₙ of the given units at the given parameters, shape ``(len(units),)``."""
        if self._batches is None:
            return self.per_sample_loss(self.outputs(parameters, units), self.targets[units])
        parameters = {**self._constants, **parameters}
        losses = []
        for batch in self._batches[units]:
            outputs = functional_call(self.model, parameters, (self.inputs[batch],))
            losses.append(self.per_sample_loss(outputs, self.targets[batch]).mean())
        return torch.stack(losses)

    def outputs(self, parameters: dict[str, Tensor], units: Tensor) -> Tensor:
        """The network's outputs on the given samples, shape ``(len(units), …)``; units must be samples."""
        return functional_call(self.model, {**self._constants, **parameters}, (self.inputs[units],))

    def under_batch_statistics(self) -> Landscape:
        """The same samples, batch norm taking the statistics of whatever batch goes through the network at once.

        A `batch_loss` is then that of train mode; no sample has a loss of its own.
        """
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        _use_batch_statistics(other.model)
        return other

    def batch_loss(self, parameters: dict[str, Tensor], samples: Tensor) -> Tensor:
        """Mean loss of a mini-batch of samples; in ``"train"`` mode under that batch's own statistics."""
        if not self.units_are_batches:
            return self.unit_losses(parameters, samples).mean()
        alone = copy.copy(self)
        alone._batches = samples[None]
        return alone.unit_losses(parameters, torch.zeros(1, dtype=torch.int64, device=self.device))[0]

    def sample_loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Loss of a single sample (no batch axis), for per-sample differentiation under ``vmap``."""
        outputs = functional_call(self.model, {**self._constants, **parameters}, (x[None],))
        return self.per_sample_loss(outputs, y[None])[0]

    def losses(self, weights: Tensor | None = None) -> Tensor:
        """Loss of each unit at flat ``weights`` (default: the network's own), shape ``(N,)``, float64."""
        parameters = self.unflatten(self.weights if weights is None else weights.to(self.dtype))
        with torch.no_grad(), full_precision(self.device):
            return torch.cat([self.unit_losses(parameters, units).double() for units in self.chunks()])

    def gradient(self, weights: Tensor | None = None) -> Tensor:
        """Gradient of the mean loss at flat ``weights``, shape ``(P,)``, accumulated in float64."""
        total = torch.zeros(self.dimension, dtype=torch.float64, device=self.device)
        with full_precision(self.device):
            for units in self.chunks():
                leaf = (self.weights if weights is None else weights.to(self.dtype)).detach().requires_grad_()
                loss = self.unit_losses(self.unflatten(leaf), units).sum()
                total += torch.autograd.grad(loss, leaf)[0].double()
        return total / self.num_units

    def subset(self, units: Tensor) -> Landscape:
        """The same loss over some of the units: samples, or mini-batches in ``"train"`` mode."""
        if len(units) == 0:
            raise ValueError("`subset(units=...)` must name at least one unit; got none.")
        smaller = copy.copy(self)
        if self._batches is None:
            smaller.inputs, smaller.targets = self.inputs[units], self.targets[units]
        else:
            smaller._batches = self._batches[units]
        return smaller

    def in_chunks(self, size: int) -> Landscape:
        """The same landscape, `size` samples differentiated at once."""
        other = copy.copy(self)
        other.chunk = size
        return other

    def at(self, weights: Tensor) -> Landscape:
        """The same landscape expanded at other flat weights ``(P,)``; data and batch-norm statistics are shared."""
        if weights.shape != self.weights.shape:
            raise ValueError(
                f"`at(weights=...)` must have shape {tuple(self.weights.shape)}; got {tuple(weights.shape)}."
            )
        moved = copy.copy(self)
        moved.weights = weights.detach().to(device=self.device, dtype=self.dtype)
        return moved


def _draw_batches(num_samples: int, batch_size: int, num_batches: int | None, seed: int) -> Tensor:
    if not 1 <= batch_size <= num_samples:
        raise ValueError(
            f"`Landscape(batch_size=...)` must lie in [1, {num_samples}] (the data hold {num_samples} samples, less "
            f"than one batch otherwise); got {batch_size}."
        )
    per_epoch = num_samples // batch_size
    wanted = per_epoch if num_batches is None else num_batches
    if wanted < 1:
        raise ValueError(f"`Landscape(num_batches=...)` must be >= 1; got {wanted}.")
    generator = torch.Generator().manual_seed(seed)
    epochs = [
        torch.randperm(num_samples, generator=generator)[: per_epoch * batch_size].view(per_epoch, batch_size)
        for _ in range(-(-wanted // per_epoch))
    ]
    return torch.cat(epochs)[:wanted]


def _use_batch_statistics(model: nn.Module) -> None:
    # Without running statistics a batch-norm layer normalizes by the batch even in eval mode, and has no buffer
    # left that a functional transform could refuse to mutate, or a plain double backward mutate silently.
    for module in batch_norm_layers(model):
        module.track_running_stats = False
        module.running_mean = module.running_var = module.num_batches_tracked = None


def _freeze_statistics(model: nn.Module, reference: Tensor) -> None:
    probe = copy.deepcopy(model)
    _use_batch_statistics(probe)
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].transpose(0, 1).flatten(1)
        seen[module] = (x.mean(dim=1), x.var(dim=1, unbiased=False))  # normalization uses the biased variance

    handles = [module.register_forward_pre_hook(record) for module in batch_norm_layers(probe)]
    with torch.no_grad():
        probe(reference)
    for handle in handles:
        handle.remove()
    for module, probed in zip(batch_norm_layers(model), batch_norm_layers(probe), strict=True):
        module.running_mean, module.running_var = seen[probed]
        module.track_running_stats = True


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model holds a batch-norm layer, so that the batch-norm mode changes its Hessian."""
    return bool(batch_norm_layers(model))
