r"""Anybody's model, loss and batches as a `Landscape`: what `check_assumptions` differentiates.

Samples   The batches are read once, in the loader's order, and kept; a sample is an index into them, so that every
          operator of this package works on nested batches as it does on one tensor.
Loss      ``loss(model, batch)`` with one loss a sample, shape ``(B,)``; or ``loss(outputs, targets)`` of a batch
          that is a pair, or that ``forward(model, batch)`` turns into one.
Untouched The model is copied; its mode, buffers and ``.grad``, the generators of random numbers and the switches of
          torch's backends are as they were when `subject` and `quiet` are left, by an error as well.
Kernels   Fused attention and oneDNN's recurrent layers have no second derivative: `quiet` switches to the plain ones.
Batching  A forward pass that `torch.func.vmap` cannot batch (a recurrent layer, ``.item()``, a buffer that is written)
          is differentiated a sample at a time.
"""

from __future__ import annotations

import copy
import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from empirical.measure.landscape import Landscape
from empirical.measure.operators import unit_gradients
from empirical.settings.measuring import BatchNorm

__all__ = [
    "Loss",
    "Stochastic",
    "Store",
    "Subject",
    "UserLandscape",
    "attacked",
    "quiet",
    "stochastic_layers",
    "subject",
]

Loss = Callable[..., Tensor]
Stochastic = Literal["refuse", "freeze", "measure"]
#: Weights up to which float64 is the default arithmetic.
DOUBLE_UP_TO = 1_000_000
#: Bytes that the samples differentiated at once may take.
MEMORY = 2**28
_WHERE = "check_assumptions"
_MODEL_WORDS = {"model", "net", "network", "module"}
_OUTPUT_WORDS = {"input", "inputs", "output", "outputs", "logits", "pred", "preds", "prediction", "predictions"}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        landscape: the mean loss over the samples kept; its chunk is bounded by their activations.
        gradient_chunk: samples whose gradients, each as long as the weights, may be held at once.
        batch_sizes: of the batches read, in order; the last may have been cut.
        num_batches: batches of a whole pass, where the iterable says so.
        model: the copy that is differentiated (its parameters do not require gradients).
        drawing: its modules that draw at random in train mode, switched off.
        store: the samples, as the attack left them.
        clean: the samples as they came.
    """

    landscape: UserLandscape
    gradient_chunk: int
    batch_sizes: tuple[int, ...]
    num_batches: int | None
    model: nn.Module
    drawing: tuple[nn.Module, ...]
    store: Store
    clean: Store


class Store:
    """The samples' batches, laid end to end; shared by copies of whatever holds it."""

    def __init__(self, rows: Any, size: int):
        self.rows = rows
        self.size = size

    def __deepcopy__(self, memo: dict) -> Store:
        return self

    def batch(self, index: Tensor) -> Any:
        """The samples of the given indices, as a batch."""
        return _mapped(lambda leaf: leaf[index], self.rows)

    def beside(self, rows: Any) -> Tensor:
        """Keep other samples of the same kind after the first ones, in place of earlier others; their indices."""
        first = _mapped(lambda leaf: leaf[: self.size], self.rows)
        self.rows = _mapped(lambda old, new: torch.cat([old, new.detach().to(old)]), first, rows)
        return torch.arange(self.size, self.size + _size(rows))


class _Measured(nn.Module):
    """The model seen as a map from samples' indices to their losses."""

    def __init__(self, model: nn.Module, store: Store, losses: Callable[[nn.Module, Any], Tensor]):
        super().__init__()
        self.model = model
        self.store = store
        self.__dict__["losses"] = losses

    def forward(self, index: Tensor) -> Tensor:
        return self.__dict__["losses"](self.model, self.store.batch(index))

    def __deepcopy__(self, memo: dict) -> _Measured:
        return _Measured(copy.deepcopy(self.model, memo), self.store, self.__dict__["losses"])


class UserLandscape(Landscape):
    """A `Landscape` over indices of samples; buffers that a forward pass writes are written to a copy.

    With `scale` s the variables are u in w = w₀ + s (u − w₀): parameter groups and frozen preconditioners, P = s².
    """

    scale: dict[str, Tensor] | None = None
    decay: dict[str, float] | None = None
    home: Tensor

    def actual(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's parameters w at coordinates u."""
        if self.scale is None:
            return parameters
        home = self.unflatten(self.home)
        return {n: home[n] + self.scale[n] * (p - home[n]) for n, p in parameters.items()}

    def unit_losses(self, parameters: dict[str, Tensor], units: Tensor) -> Tensor:
        """As in `Landscape`."""
        if self.units_are_batches:
            return super().unit_losses(parameters, units)
        return self._losses(parameters, self.inputs[units])

    def sample_loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """As in `Landscape`."""
        return self._losses(parameters, x[None])[0]

    def _losses(self, parameters: dict[str, Tensor], index: Tensor) -> Tensor:
        parameters = {**self._constants, **self.actual(parameters)}
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        losses = functional_call(self.model, {**buffers, **parameters}, (index,))
        for name, share in (self.decay or {}).items():
            if share:
                losses = losses + 0.5 * share * (parameters[name] ** 2).sum()
        return losses


@contextmanager
def quiet(model: nn.Module | None = None) -> Iterator[None]:
    """Plain kernels inside the block; generators of random numbers and switches restored after it."""
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    fast = torch.backends.mha.get_fastpath_enabled()
    recurrent = model is not None and any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        with ExitStack() as stack:
            torch.backends.mha.set_fastpath_enabled(False)
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
            stack.enter_context(torch.enable_grad())
            if recurrent:
                flags: Any = torch.backends.mkldnn.flags  # its stub does not know that None leaves TF32 alone
                stack.enter_context(flags(enabled=False, allow_tf32=None))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


def stochastic_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules in train mode that draw at random (dropout of any kind), by name."""
    found = {}
    for name, module in model.named_modules():
        rate = getattr(module, "p", 0.0) if "Drop" in type(module).__name__ else getattr(module, "dropout", 0.0)
        if isinstance(module, nn.RNNBase) and module.num_layers < 2:
            continue
        if module.training and isinstance(rate, (int, float)) and rate > 0:
            found[name or type(module).__name__] = module
    return found


def subject(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], tuple[Any, Any]] | None = None,
    params: Sequence[str] | Sequence[nn.Parameter] | None = None,
    attack: Callable[[nn.Module, Any], Any] | None = None,
    stochastic: Stochastic = "refuse",
    batch_norm: BatchNorm = "eval",
    batch_size: int | None = None,
    samples: int = 4096,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
) -> Subject:
    """A landscape of the model's loss over the first samples of the batches.

    Args:
        model: any module; copied.
        loss: ``loss(model, batch)`` or ``loss(outputs, targets)``, one loss a sample.
        batches: any iterable of batches, read once, until `samples` samples are there.
        forward: ``forward(model, batch)`` gives the outputs and targets of a batch that is no pair.
        params: names, or the parameters themselves; None: those that require gradients.
        attack: ``attack(model, batch)`` gives the batch to train on; run once here.
        stochastic: what to do about dropout in train mode: refuse, or treat it as off ("freeze", "measure").
        batch_norm: as in `Landscape`.
        batch_size: samples a unit has with batch_norm="train".
        samples: most samples kept.
        dtype: float32 or float64; None: float64 up to a million weights, the model's own above.
        chunk: samples differentiated at once; None: as many as `MEMORY` holds of their gradients, at least 16, and of
            their activations where no sample's gradient is kept.

    Raises:
        ValueError: one line naming the argument, the rule and what was found.
        TypeError: if an argument is of a wrong kind.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{_WHERE}(model=...)` must be a torch.nn.Module; got {type(model).__name__}.")
    if not callable(loss):
        raise TypeError(f"`{_WHERE}(loss=...)` must be callable; got {type(loss).__name__}.")
    if stochastic not in ("refuse", "freeze", "measure"):
        raise ValueError(f"`{_WHERE}(stochastic=...)` must be refuse, freeze or measure; got {stochastic!r}.")
    model = getattr(model, "_orig_mod", model)  # torch.compile's shell has no derivatives of its own
    names = _chosen(model, params)
    kind = next(p.dtype for n, p in model.named_parameters() if n in names)
    if kind not in (torch.float32, torch.float64):
        raise ValueError(
            f"`{_WHERE}(model=...)` must have float32 or float64 weights: in {str(kind)[6:]} a curvature is off by "
            f"12 %; give `model.float()`."
        )
    drawing = stochastic_layers(model)
    if drawing and stochastic == "refuse":
        shown = ", ".join(f"{name} ({type(m).__name__})" for name, m in list(drawing.items())[:3])
        raise ValueError(
            f"`{_WHERE}(model=...)` draws at random in train mode: {shown}{', …' if len(drawing) > 3 else ''}; call "
            f"model.eval(), or give stochastic='freeze' (off) or 'measure' (as noise)."
        )
    rows, sizes = _collected(batches, samples)
    number = len(batches) if hasattr(batches, "__len__") else None  # pyright: ignore[reportArgumentType]
    weights = sum(p.numel() for n, p in model.named_parameters() if n in names)
    dtype = dtype or (torch.float64 if weights <= DOUBLE_UP_TO else kind)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"`{_WHERE}(dtype=...)` must be torch.float32 or torch.float64; got {dtype}.")
    narrow = chunk or max(16, min(1024, MEMORY // (weights * dtype.itemsize)))
    device = next(model.parameters()).device
    try:
        twin = copy.deepcopy(model)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"`{_WHERE}(model=...)` must be copyable (copy.deepcopy); {_line(error)}.") from None
    for name, parameter in twin.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(name in names)
    twin = twin.to(dtype=dtype).eval()
    rows = _mapped(
        lambda leaf: leaf.detach().to(device=device, dtype=dtype if leaf.is_floating_point() else leaf.dtype), rows
    )
    clean = Store(rows, sum(sizes))
    if attack is not None:
        rows = attacked(attack, twin, rows, narrow)
    store = Store(rows, sum(sizes))
    losses = _loss_of(loss, forward, twin, store)
    index = torch.arange(store.size, device=device)
    landscape = UserLandscape(
        _Measured(twin, store, losses),
        index,
        index,
        per_sample_loss=lambda outputs, _targets: outputs,
        batch_norm=batch_norm,
        batch_size=batch_size,
        parameters=[f"model.{name}" for name in names],
        dtype=dtype,
        chunk=narrow,
    )
    landscape.home = landscape.weights
    _probe(landscape)
    if chunk is None and not landscape.units_are_batches:
        landscape.chunk = max(narrow, min(1024, MEMORY // _activations(landscape)))
    copied = landscape.model.get_submodule("model")
    return Subject(
        landscape=landscape,
        gradient_chunk=narrow,
        batch_sizes=sizes,
        num_batches=number,
        model=copied,
        drawing=tuple(module for name, module in copied.named_modules() if (name or type(module).__name__) in drawing),
        store=store,
        clean=clean,
    )


def _activations(landscape: UserLandscape) -> int:
    """Bytes that a Hessian product keeps a sample: what a forward pass saves, and as much in each of three others."""
    index = torch.arange(min(2, landscape.num_units), device=landscape.device)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves = {n: p.requires_grad_() for n, p in landscape.unflatten(landscape.weights.clone()).items()}
    weights = {leaf.untyped_storage().data_ptr() for leaf in leaves.values()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = landscape.unit_losses(leaves, index)
    del losses
    return max(4 * sum(size for place, size in kept.items() if place not in weights) // len(index), 1)


def _chosen(model: nn.Module, params: Sequence[Any] | None) -> list[str]:
    named = dict(model.named_parameters())
    if not named:
        raise ValueError(f"`{_WHERE}(model=...)` must have parameters; {type(model).__name__} has none.")
    if params is None:
        names = [name for name, parameter in named.items() if parameter.requires_grad]
        if not names:
            raise ValueError(
                f"`{_WHERE}(model=...)` must have parameters that require gradients; all {len(named)} are frozen "
                f"(name some with params=)."
            )
        return names
    params = list(params)
    if not params:
        raise ValueError(f"`{_WHERE}(params=...)` must name at least one parameter; got none.")
    by_id = {id(parameter): name for name, parameter in named.items()}
    names = [item if isinstance(item, str) else by_id.get(id(item), "") for item in params]
    unknown = [str(item)[:40] for item, name in zip(params, names, strict=True) if name not in named]
    if unknown:
        raise ValueError(f"`{_WHERE}(params=...)` must name parameters of the model; got {unknown[:3]}.")
    return [name for name in named if name in set(names)]


def _mapped(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """A nest of tensors from nests of tensors, leaf by leaf."""
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, Mapping):
        return {key: _mapped(function, first[key], *(other[key] for other in others)) for key in first}
    if isinstance(first, (tuple, list)):
        parts = [_mapped(function, *items) for items in zip(first, *others, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first  # None


def _leaves(batch: Any, path: str = "batch") -> Iterator[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _leaves(value, f"{path}[{key!r}]")
    elif isinstance(batch, (tuple, list)):
        for number, value in enumerate(batch):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, batch


def _size(batch: Any) -> int:
    return next(len(leaf) for _, leaf in _leaves(batch) if isinstance(leaf, Tensor))


def _collected(batches: Iterable[Any], samples: int) -> tuple[Any, tuple[int, ...]]:
    """The first samples, laid end to end, and the batches' sizes."""
    where = f"`{_WHERE}(batches=...)`"
    if isinstance(batches, (Tensor, np.ndarray, Mapping, str)):
        raise TypeError(
            f"{where} must be an iterable of batches, such as a DataLoader or [(inputs, targets)]; "
            f"got one {type(batches).__name__}."
        )
    if not isinstance(batches, Iterable):
        raise TypeError(f"{where} must be an iterable of batches; got {type(batches).__name__}.")
    kept: list[Any] = []
    sizes: list[int] = []
    shape: list[tuple[str, Any]] = []
    for number, batch in enumerate(batches):
        found = []
        for path, leaf in _leaves(batch):
            if isinstance(leaf, np.ndarray):
                raise TypeError(f"{where} must hold tensors; {path} is a numpy array: give torch.from_numpy of it.")
            if leaf is None:
                continue
            if not isinstance(leaf, Tensor):
                raise TypeError(f"{where} must hold tensors; {path} is a {type(leaf).__name__}.")
            if leaf.ndim == 0:
                raise ValueError(f"{where} must hold tensors with a sample axis first; {path} is a scalar.")
            found.append((path, tuple(leaf.shape[1:]), len(leaf)))
        if not found:
            raise ValueError(f"{where} must hold tensors; batch {number} has none.")
        uneven = [f"{path} has {count}" for path, _, count in found if count != found[0][2]]
        if uneven:
            raise ValueError(f"{where} must hold as many of everything; {found[0][0]} has {found[0][2]}, {uneven[0]}.")
        shape = shape or [(path, rest) for path, rest, _ in found]
        for (path, rest), (other, now, _) in zip(shape, found, strict=False):
            if path != other or rest != now:
                raise ValueError(
                    f"{where} must hold batches alike; {path} was {rest}, in batch {number} {other} is {now} a sample."
                )
        if len(shape) != len(found):
            raise ValueError(f"{where} must hold batches alike; batch {number} has {len(found)} tensors.")
        count = found[0][2]
        if count == 0:
            raise ValueError(f"{where} must hold samples; batch {number} is empty.")
        room = samples - sum(sizes)
        kept.append(_mapped(lambda leaf, room=room: leaf[:room], batch))
        sizes.append(min(count, room))
        if sum(sizes) >= samples:
            break
    if not kept:
        raise ValueError(f"{where} must hold at least one batch; it is empty (or a generator that was used up).")
    rows = kept[0] if len(kept) == 1 else _mapped(lambda *leaves: torch.cat(leaves), *kept)
    return rows, tuple(sizes)


def attacked(attack: Callable[[nn.Module, Any], Any], model: nn.Module, rows: Any, chunk: int) -> Any:
    """All samples after the attack, `chunk` at a time.

    Raises:
        ValueError: if the attack returns a batch of another kind.
    """
    parts = []
    for start in range(0, _size(rows), chunk):
        piece = _mapped(lambda leaf, start=start: leaf[start : start + chunk], rows)
        moved = attack(model, piece)
        found = [(path, tuple(leaf.shape)) for path, leaf in _leaves(moved) if isinstance(leaf, Tensor)]
        wanted = [(path, tuple(leaf.shape)) for path, leaf in _leaves(piece) if isinstance(leaf, Tensor)]
        if found != wanted:
            raise ValueError(
                f"`{_WHERE}(attack=...)` must return a batch like the one it got; got {found} not {wanted}."
            )
        parts.append(_mapped(lambda leaf: leaf.detach(), moved))
    return parts[0] if len(parts) == 1 else _mapped(lambda *leaves: torch.cat(leaves), *parts)


def _loss_of(
    loss: Loss, forward: Callable[[nn.Module, Any], tuple[Any, Any]] | None, model: nn.Module, store: Store
) -> Callable[[nn.Module, Any], Tensor]:
    """``loss`` as a map of (model, batch), tried on two samples."""
    where = f"`{_WHERE}(loss=...)`"
    reduction = getattr(loss, "reduction", None)
    if reduction in ("mean", "sum"):
        raise ValueError(
            f"{where} must give one loss a sample; this one is reduced to its {reduction}: reduction='none'."
        )

    def of_outputs(network: nn.Module, batch: Any) -> Tensor:
        if forward is not None:
            outputs, targets = forward(network, batch)
        else:
            inputs, targets = batch
            outputs = network(inputs)
        return loss(outputs, targets)

    form = of_outputs if forward is not None or isinstance(loss, nn.Module) else _form(loss)
    count = min(store.size, 3)
    probe = store.batch(torch.arange(count, device=next(model.parameters()).device))
    pair = forward is not None or (isinstance(probe, (tuple, list)) and len(probe) == 2)
    attempts = [form] if form is not None else [loss, *([of_outputs] if pair else [])]
    if form == "outputs":
        attempts = [of_outputs]
    if attempts[0] is of_outputs and not pair:
        raise ValueError(
            f"{where} of (outputs, targets) needs batches that are pairs (inputs, targets); write loss(model, batch) "
            f"or give forward=."
        )
    problem: Exception | None = None
    for attempt in attempts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a broadcast, which is refused below
                found = attempt(model, probe)
        except Exception as error:  # whatever the user's code raises is theirs to read, in one line
            problem = problem or error
            continue
        _checked_losses(found, count, model, probe, where)
        return attempt
    raise ValueError(f"{where} could not be computed on {count} samples: {_line(problem)}.") from problem


def _form(loss: Loss) -> Any:
    """Which of the two calls a function wants, by its first argument's name; None where that does not say."""
    try:
        first = next(iter(inspect.signature(loss).parameters), "")
    except (TypeError, ValueError):
        return None
    return loss if first in _MODEL_WORDS else "outputs" if first in _OUTPUT_WORDS else None


def _checked_losses(found: Any, count: int, model: nn.Module, probe: Any, where: str) -> None:
    if not isinstance(found, Tensor):
        raise ValueError(f"{where} must return a tensor of losses, shape (B,); got {type(found).__name__}.")
    if found.ndim == 0 or (found.numel() == 1 and count > 1):
        raise ValueError(
            f"{where} must give one loss a sample, shape ({count},); got one number: it is reduced (reduction='none')."
        )
    if found.shape != (count,):
        hint = ""
        if found.shape == (count, count):
            hint = "; outputs (B, 1) against targets (B,) were broadcast: squeeze the outputs"
        elif found.shape == (count, 1):
            hint = "; squeeze the last axis"
        elif found.ndim > 1 and len(found) == count:
            hint = "; average the other axes"
        raise ValueError(f"{where} must give one loss a sample, shape ({count},); got {tuple(found.shape)}{hint}.")
    if not found.is_floating_point():
        raise ValueError(f"{where} must give real losses; got {found.dtype}.")
    if not found.requires_grad:
        raise ValueError(f"{where} must depend on the parameters; its losses carry no gradient (detached?).")


def _probe(landscape: UserLandscape) -> None:
    """Finite losses, derivatives that exist, and whether samples can be batched."""
    losses = landscape.losses()
    bad = int((~torch.isfinite(losses)).sum())
    if bad:
        raise ValueError(f"`{_WHERE}(loss=...)` must be finite; {bad} of {len(losses)} losses are not.")
    again = landscape.losses()
    if not torch.equal(losses, again):
        off = float((losses - again).abs().max() / losses.abs().max().clamp_min(1e-300))
        if off > 100 * torch.finfo(landscape.dtype).eps:
            raise ValueError(
                f"`{_WHERE}(model=...)` must give the same losses twice; they differ by {off:.1e} relative: the "
                f"forward pass draws at random or keeps a state."
            )
    if landscape.units_are_batches:
        return
    pair = torch.arange(min(2, landscape.num_units), device=landscape.device)
    try:
        unit_gradients(landscape, pair)
    except (RuntimeError, ValueError, NotImplementedError, TypeError):
        landscape.vectorized = False
        try:
            unit_gradients(landscape, pair)
        except Exception as error:
            raise ValueError(
                f"`{_WHERE}(model=...)` must be differentiable a sample at a time: {_line(error)}."
            ) from error


def _line(error: BaseException | None) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}".rstrip(". ")
