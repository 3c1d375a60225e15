r"""Hessian, gradient-noise covariance and their projections, matrix-free over a `Landscape`.

Model     g_n = ∇ℓ_n(w), ḡ = (1/N) Σ g_n over the N units (samples, or mini-batches in train-mode batch norm).
Hessian   H v = ∇(∇L · v) by one of two exact routes: a second backward pass through a kept graph, or a forward
          derivative of the gradient. Weight decay is an explicit term of the *optimizer's* curvature H + βI and is
          left out by default: commutativity is judged on the data Hessian (βI commutes with everything).
Noise     C v = 1/(N−1) Σ (g_n − ḡ)((g_n − ḡ)·v): one forward derivative gives all d_n = g_n·v, one backward pass
          weighted by d_n gives Σ d_n g_n. Centering matters: uncentered, the top eigenvalue was 5 × too large on a
          network whose gradient had not vanished.
Limits    ReLU kinks carry no second derivative in automatic differentiation: a finite difference disagrees by 4-27 % on
          such a network, which is a property of the loss and not an error of either. Forward differences of losses
          are off by up to 2e-2, so they appear here only in `finite_curvatures`, where nothing else exists.
Oracle    Tests: dense H (`torch.func.hessian`) and dense C in float64, curvlinops where installed.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from empirical.measure.landscape import Landscape
from empirical.measure.precision import full_precision, inner_products
from theory.judge.front import RUN_FAILED

with warnings.catch_warnings():
    # torch loads this table at the first forward derivative, by way of a decorator of its own that it has deprecated:
    # loaded here, once, so that nobody's warnings-as-errors strike in the middle of a product.
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp

#: Columns that share one batched backward pass; more would multiply the activations' memory without gaining speed.
COLUMNS_AT_ONCE = 16

HessianMethod = Literal["auto", "double-backward", "jvp-of-gradient"]
ProjectionMethod = Literal["auto", "per-sample-gradients", "jvp"]


class NonFiniteProductError(RuntimeError):
    """A product of the Hessian or of the covariance came out infinite or NaN."""

    exit_status = RUN_FAILED


class SymmetricOperator(Protocol):
    """What Lanczos, the trace estimators and the commutativity measures need of a matrix."""

    dimension: int
    dtype: torch.dtype
    device: torch.device

    def matmat(self, vectors: Tensor) -> Tensor:
        """The matrix times the columns of ``vectors`` ``(P, k)``."""
        ...


class HessianOperator:
    """Hessian of a landscape's mean loss plus ``weight_decay`` times the identity.

    Args:
        landscape: the loss.
        weight_decay: β ≥ 0 of the optimizer's curvature H + βI; 0 is the data Hessian.
        method: how products are formed; ``"auto"`` times both on the first chunk and takes the faster.
        kept_chunks: how many chunks may keep their gradient graph between products (a kept graph saves the
            forward and first backward pass of every product and costs that chunk's activations in memory).

    Raises:
        ValueError: if ``weight_decay`` is negative.
        NonFiniteProductError: by products, if one is not finite.
    """

    def __init__(
        self,
        landscape: Landscape,
        *,
        weight_decay: float = 0.0,
        method: HessianMethod = "auto",
        kept_chunks: int = 1,
    ):
        if not weight_decay >= 0:
            raise ValueError(f"`HessianOperator(weight_decay=...)` must be >= 0; got {weight_decay}.")
        if method not in ("auto", "double-backward", "jvp-of-gradient"):
            raise ValueError(
                f"`HessianOperator(method=...)` must be auto, double-backward or jvp-of-gradient; got {method!r}."
            )
        self.landscape = landscape
        self.weight_decay = weight_decay
        self.kept_chunks = kept_chunks
        self.dimension = landscape.dimension
        self.dtype = landscape.dtype
        self.device = landscape.device
        self.num_products = 0
        self._graphs: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        self.timings: dict[str, float] = {}
        self.method = self._faster_method() if method == "auto" else method

    def matmat(self, vectors: Tensor) -> Tensor:
        """H V + βV for the columns of ``vectors`` ``(P, k)``, accumulated in float64, returned in their dtype."""
        vectors = _columns(vectors, self.dimension)
        product = self._double_backward if self.method == "double-backward" else self._jvp_of_gradient
        columns = vectors.to(self.dtype)
        sweep = self.landscape.chunks("product", vectors.shape[1])
        parts = (product(number, units, columns) for number, units in enumerate(sweep))
        with full_precision(self.device):
            total = _sum_in_double(parts)
        self.num_products += vectors.shape[1]
        total /= self.landscape.num_units
        if self.weight_decay:
            total.add_(vectors, alpha=self.weight_decay)
        return _finite(total, "Hessian").to(vectors.dtype)

    def matvec(self, vector: Tensor) -> Tensor:
        """H v + βv for one vector ``(P,)``."""
        return self.matmat(vector[:, None])[:, 0]

    def _double_backward(self, number: int, units: Tensor, vectors: Tensor) -> Tensor:
        leaves, gradients = self._graphs.get(number) or self._graph(number, units)
        rows = vectors.T.contiguous()
        out = torch.empty_like(rows)
        for block, target in zip(rows.split(COLUMNS_AT_ONCE), out.split(COLUMNS_AT_ONCE), strict=True):
            batched = len(block) > 1
            seeds = self.landscape.unflatten(block) if batched else self.landscape.unflatten(block[0])
            moving = [name for name, gradient in gradients.items() if gradient.requires_grad]
            products = torch.autograd.grad(
                [gradients[name] for name in moving],
                list(leaves.values()),
                [seeds[name] for name in moving],
                retain_graph=True,
                is_grads_batched=batched,
                allow_unused=True,
                materialize_grads=True,
            )
            torch.cat([product.reshape(len(block), -1) for product in products], dim=1, out=target)
        return out.T

    def _graph(self, number: int, units: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # One leaf a parameter: slicing a flat leaf would add a copy of all the weights to every product.
        pieces = self.landscape.unflatten(self.landscape.weights)
        leaves = {name: piece.clone().requires_grad_() for name, piece in pieces.items()}
        loss = self.landscape.unit_losses(leaves, units).sum()
        found = torch.autograd.grad(
            loss, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients = dict(zip(leaves, found, strict=True))
        if len(self._graphs) < self.kept_chunks:
            self._graphs[number] = (leaves, gradients)
        return leaves, gradients

    def _jvp_of_gradient(self, _number: int, units: Tensor, vectors: Tensor) -> Tensor:
        def loss(weights: Tensor) -> Tensor:
            return self.landscape.unit_losses(self.landscape.unflatten(weights), units).sum()

        columns = [jvp(grad(loss), (self.landscape.weights,), (v,))[1] for v in vectors.unbind(dim=1)]
        return torch.stack(columns, dim=1)

    def _faster_method(self) -> HessianMethod:
        units = next(self.landscape.chunks())
        probe = torch.ones(self.dimension, 2, dtype=self.dtype, device=self.device)
        with full_precision(self.device):
            for name, product in (
                ("double-backward", self._double_backward),
                ("jvp-of-gradient", self._jvp_of_gradient),
            ):
                product(0, units, probe[:, :1])  # the first call pays for the kept graph and for lazy initialization
                self.timings[name] = _seconds(lambda product=product: product(0, units, probe), self.device) / 2
        return (
            "double-backward"
            if self.timings["double-backward"] <= self.timings["jvp-of-gradient"]
            else ("jvp-of-gradient")
        )

    def release(self) -> None:
        """Forget the kept graphs and the memory they hold."""
        self._graphs.clear()


class GradientCovarianceOperator:
    """Centered covariance C = 1/(N−1) Σ (g_n − ḡ)(g_n − ḡ)ᵀ of the units' gradients.

    The mini-batch covariance of the theory is C times `noise_factor`. With batch norm in train mode the units are
    mini-batches already and that factor is 1.

    Args:
        landscape: the loss.
        stored_bytes: keep the N × P per-unit gradients when they fit in this many bytes (then a product is two
            matrix multiplications); 0 always streams.

    Raises:
        ValueError: if the landscape has fewer than two units.
        NonFiniteProductError: by products, if one is not finite.
    """

    def __init__(self, landscape: Landscape, *, stored_bytes: int = 512 * 2**20):
        if landscape.num_units < 2:
            raise ValueError(
                f"`GradientCovarianceOperator(landscape=...)` must have at least 2 units; got {landscape.num_units}."
            )
        self.landscape = landscape
        self.dimension = landscape.dimension
        self.dtype = landscape.dtype
        self.device = landscape.device
        self.num_products = 0
        size = landscape.num_units * landscape.dimension * torch.finfo(landscape.dtype).bits // 8
        self._stored: Tensor | None = None
        if size <= stored_bytes:
            stored = torch.cat([unit_gradients(landscape, units) for units in landscape.chunks()])
            self.mean_gradient = stored.double().mean(dim=0)
            self._stored = stored.sub_(self.mean_gradient.to(self.dtype))
        else:
            self.mean_gradient = landscape.gradient()

    def matmat(self, vectors: Tensor) -> Tensor:
        """C V for the columns of ``vectors`` ``(P, k)``, accumulated in float64, returned in their dtype."""
        vectors = _columns(vectors, self.dimension)
        if self._stored is not None:
            slopes = inner_products(self._stored, vectors.to(self.dtype))
            total = (self._stored.T @ slopes.to(self.dtype)).double()
        else:
            total = torch.stack([self._streamed(v) for v in vectors.to(self.dtype).unbind(dim=1)], dim=1)
        self.num_products += vectors.shape[1]
        return _finite(total / (self.landscape.num_units - 1), "gradient covariance").to(vectors.dtype)

    def matvec(self, vector: Tensor) -> Tensor:
        """C v for one vector ``(P,)``."""
        return self.matmat(vector[:, None])[:, 0]

    def _streamed(self, vector: Tensor) -> Tensor:
        # One pass: forward-mode tangents and the weighted backward pass share the forward pass, and the mean of
        # the d_n is known beforehand (ḡ·v), so no second sweep is needed to center them.
        center = torch.dot(self.mean_gradient, vector.double()).to(self.dtype)
        total = torch.zeros(self.dimension, dtype=torch.float64, device=self.device)
        excess = torch.zeros((), dtype=torch.float64, device=self.device)
        with full_precision(self.device):
            for units in self.landscape.chunks("covariance"):
                leaf = self.landscape.weights.clone().requires_grad_()
                with forward_ad.dual_level():
                    dual = forward_ad.make_dual(leaf, vector)
                    losses = self.landscape.unit_losses(self.landscape.unflatten(dual), units)
                    primal, tangent = forward_ad.unpack_dual(losses)
                    assert tangent is not None, "losses do not depend on the parameters"
                    weights = tangent.detach() - center
                total += torch.autograd.grad(primal, leaf, weights)[0].double()
                excess += weights.double().sum()
        return total - excess * self.mean_gradient

    def noise_factor(self, batch_size: int, *, with_replacement: bool = False) -> float:
        """Factor f with Cov(mini-batch gradient) = f C, the finite-population correction included.

        Sampling ``batch_size`` of N samples gives (1 − 1/N)/B with replacement and 1/B − 1/N without.
        """
        if self.landscape.units_are_batches:
            return 1.0
        return noise_factor(self.landscape.num_units, batch_size, with_replacement=with_replacement)


def noise_factor(num_samples: int, batch_size: int, *, with_replacement: bool = False) -> float:
    """Covariance of the mean of a batch relative to the per-sample covariance with divisor N − 1, the one convention.

    `variance_estimates`, `NoiseInDirections.covariance`, `GradientCovarianceOperator` and equation (P1) all have that
    divisor, so that (P1)'s S²(δ_st/B − 1/N) is this factor at s = t.

    Raises:
        ValueError: if the batch size is out of range.
    """
    if not 1 <= batch_size <= num_samples:
        raise ValueError(f"`noise_factor(batch_size=...)` must lie in [1, {num_samples}]; got {batch_size}.")
    if with_replacement:
        return (1.0 - 1.0 / num_samples) / batch_size
    return 1.0 / batch_size - 1.0 / num_samples


def unit_gradients(landscape: Landscape, units: Tensor) -> Tensor:
    """Gradients g_n of the given units, shape ``(len(units), P)``, in the landscape's dtype."""
    with full_precision(landscape.device):
        if landscape.units_are_batches:
            rows = []
            for unit in units:
                leaf = landscape.weights.clone().requires_grad_()
                loss = landscape.unit_losses(landscape.unflatten(leaf), unit[None]).sum()
                rows.append(torch.autograd.grad(loss, leaf)[0])
            return torch.stack(rows)
        found = _sample_gradients(landscape, units)
        return torch.cat([gradient.reshape(len(units), -1) for gradient in found.values()], dim=1)


def _sample_gradients(landscape: Landscape, units: Tensor) -> dict[str, Tensor]:
    """Gradients of single samples by parameter, each ``(len(units), …)``."""

    def loss_of(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return landscape.sample_loss(parameters, x, y)

    weights = landscape.unflatten(landscape.weights)
    gradient = grad(loss_of)
    return _over_samples(landscape, lambda x, y: gradient(weights, x, y))(
        landscape.inputs[units], landscape.targets[units]
    )


def _over_samples(landscape: Landscape, function: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """`function` of one sample as a function of many: batched by torch, or a sample after another."""
    if landscape.vectorized:
        return vmap(function)

    def one_by_one(*arguments: Any) -> dict[str, Tensor]:
        rows = [function(*(_row(argument, i) for argument in arguments)) for i in range(len(arguments[-1]))]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    return one_by_one


def _row(argument: Tensor | dict[str, Tensor], index: int) -> Tensor | dict[str, Tensor]:
    if isinstance(argument, dict):
        return {name: value[index] for name, value in argument.items()}
    return argument[index]


def directional_derivatives(landscape: Landscape, vectors: Tensor, units: Tensor) -> Tensor:
    """d_nj = g_n · v_j by one forward derivative a direction, shape ``(len(units), k)``."""

    def losses(weights: Tensor) -> Tensor:
        return landscape.unit_losses(landscape.unflatten(weights), units)

    with full_precision(landscape.device), torch.no_grad():
        columns = [jvp(losses, (landscape.weights,), (v,))[1] for v in vectors.to(landscape.dtype).unbind(dim=1)]
    return torch.stack(columns, dim=1)


def bilinear_curvatures(landscape: Landscape, left: Tensor, right: Tensor) -> Tensor:
    """Second derivatives of every unit's loss, Σⱼ leftⱼᵀ ∇²ℓ_n rightⱼ for each column j: shape ``(N, k)``, float64.

    Twice forward, which keeps no sample's gradient. An activation that has no second forward derivative in torch (SiLU)
    is differentiated once backward instead, where the units are samples.
    """
    try:
        return _twice_forward(landscape, left, right)
    except NotImplementedError:
        if landscape.units_are_batches:
            raise
        columns = [
            projected_curvatures(landscape, u[:, None], v[:, None])[:, 0, 0]
            for u, v in zip(left.T, right.T, strict=True)
        ]
        return torch.stack(columns, dim=1)


def _twice_forward(landscape: Landscape, left: Tensor, right: Tensor) -> Tensor:
    rows = []
    with full_precision(landscape.device), torch.no_grad():
        for units in landscape.chunks():

            def losses(weights: Tensor, units: Tensor = units) -> Tensor:
                return landscape.unit_losses(landscape.unflatten(weights), units)

            columns = []
            for u, v in zip(left.to(landscape.dtype).unbind(1), right.to(landscape.dtype).unbind(1), strict=True):

                def slope(weights: Tensor, u: Tensor = u) -> Tensor:
                    return jvp(losses, (weights,), (u,))[1]

                columns.append(jvp(slope, (landscape.weights,), (v,))[1].double())
            rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows)


def projected_curvatures(landscape: Landscape, directions: Tensor, along: Tensor | None = None) -> Tensor:
    """Every sample's Hessian between two sets of directions, Uᵀ∇²ℓ_n V: shape ``(N, k, m)``, float64.

    One forward derivative of the per-sample gradients a column of V; products are projected parameter by parameter, so
    what is held is one chunk of per-sample products and never the N Hessians.

    Args:
        landscape: the loss; its units must be samples.
        directions: U, shape ``(P, k)``.
        along: V, shape ``(P, m)``; None: U itself, and the result is symmetric.

    Raises:
        ValueError: if the units are mini-batches, or the directions are of another architecture.
        NonFiniteProductError: if a product is not finite.
    """
    _needs_samples(landscape, "projected_curvatures")
    directions = _columns(directions, landscape.dimension).to(landscape.dtype)
    moves = directions if along is None else _columns(along, landscape.dimension).to(landscape.dtype)
    columns = []
    with full_precision(landscape.device), torch.no_grad():
        for move in moves.unbind(dim=1):
            tangent = landscape.unflatten(move)
            rows = [_sample_products(landscape, units, tangent, directions) for units in landscape.gradient_chunks()]
            columns.append(torch.cat(rows))
    found = _finite(torch.stack(columns, dim=2), "per-sample curvature")
    return (found + found.transpose(1, 2)) / 2 if along is None else found


def own_couplings(landscape: Landscape, directions: Tensor) -> Tensor:
    """Every sample's Hessian along its own gradient outside U: Uᵀ∇²ℓ_n (I − UUᵀ)(g_n − ḡ), shape ``(N, k)``, float64.

    Args:
        landscape: the loss; its units must be samples.
        directions: U with orthonormal columns, shape ``(P, k)``.

    Raises:
        ValueError: as `projected_curvatures`.
        NonFiniteProductError: if a product is not finite.
    """
    _needs_samples(landscape, "own_couplings")
    directions = _columns(directions, landscape.dimension).to(landscape.dtype)
    mean = landscape.gradient().to(landscape.dtype)
    rows = []
    with full_precision(landscape.device), torch.no_grad():
        for units in landscape.gradient_chunks():
            own = unit_gradients(landscape, units) - mean
            own -= (own @ directions) @ directions.T
            rows.append(_sample_products(landscape, units, landscape.unflatten(own), directions, own_tangents=True))
    return _finite(torch.cat(rows), "per-sample curvature")


def _needs_samples(landscape: Landscape, where: str) -> None:
    if landscape.units_are_batches:
        raise ValueError(
            f"`{where}(landscape=...)` needs samples as units; got mini-batches (batch norm in train mode)."
        )


def _sample_products(
    landscape: Landscape, units: Tensor, tangent: dict[str, Tensor], directions: Tensor, *, own_tangents: bool = False
) -> Tensor:
    """Uᵀ∇²ℓ_n v of the given samples for a shared v, or one v a sample: shape ``(len(units), k)``."""
    gradient = grad(landscape.sample_loss)
    weights = landscape.unflatten(landscape.weights)

    def product(move: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return jvp(lambda at: gradient(at, x, y), (weights,), (move,))[1]

    samples = landscape.inputs[units], landscape.targets[units]
    if own_tangents:
        found = _over_samples(landscape, product)(tangent, *samples)
    else:
        found = _over_samples(landscape, lambda x, y: product(tangent, x, y))(*samples)
    return _projected(found, directions)


def _projected(pieces: dict[str, Tensor], directions: Tensor) -> Tensor:
    # Parameter by parameter: laying the per-sample tensors side by side would copy all of them once more.
    rows = [piece.reshape(len(piece), -1) for piece in pieces.values()]
    total, start = torch.zeros(len(rows[0]), directions.shape[1], dtype=torch.float64, device=directions.device), 0
    for flat in rows:
        total += inner_products(flat, directions[start : start + flat.shape[1]])
        start += flat.shape[1]
    return total


@dataclass(frozen=True, kw_only=True)
class Projections:
    """Per-unit gradients seen in a few directions.

    Attributes:
        values: P = G U, shape ``(N, k)``, float64, not centered.
        method: how they were computed.
        seconds: time of the timed trial of each method, empty unless the method was chosen by trial.
    """

    values: Tensor
    method: str
    seconds: dict[str, float]


def project_gradients(landscape: Landscape, directions: Tensor, *, method: ProjectionMethod = "auto") -> Projections:
    """Per-unit projections P = G U onto the columns of ``directions`` ``(P, k)``; G itself is never stored.

    Args:
        landscape: the loss.
        directions: k directions, shape ``(P, k)``.
        method: per-sample gradients, a few at a time (cost about 2-3 gradients whatever k), or k forward
            derivatives (about one gradient each, no memory per sample); ``"auto"`` times both on a small chunk.
    """
    directions = _columns(directions, landscape.dimension).to(landscape.dtype)
    trial: dict[str, float] = {}
    if method == "auto":
        units = next(landscape.chunks())[:16]
        for name in ("per-sample-gradients", "jvp"):
            _project(landscape, directions, units, name)
            trial[name] = _seconds(lambda name=name: _project(landscape, directions, units, name), landscape.device)
        method = "jvp" if trial["jvp"] < trial["per-sample-gradients"] else "per-sample-gradients"
    if method not in ("per-sample-gradients", "jvp"):
        raise ValueError(f"`project_gradients(method=...)` must be auto, per-sample-gradients or jvp; got {method!r}.")
    sweep = landscape.chunks() if method == "jvp" else landscape.gradient_chunks()
    values = torch.cat([_project(landscape, directions, units, method) for units in sweep])
    return Projections(values=_finite(values, "gradient projection"), method=method, seconds=trial)


def _project(landscape: Landscape, directions: Tensor, units: Tensor, method: str) -> Tensor:
    if method == "jvp":
        return directional_derivatives(landscape, directions, units).double()
    if landscape.units_are_batches:
        return inner_products(unit_gradients(landscape, units), directions)

    with full_precision(landscape.device):
        return _projected(_sample_gradients(landscape, units), directions)


def probe_determinism(operator: SymmetricOperator, *, tolerance: float | None = None) -> None:
    """Raise unless two products with the same vector agree: dropout, augmentation or an attack would disturb them.

    Raises:
        ValueError: naming the relative difference found.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(operator.dimension, 1, generator=generator, dtype=torch.float64)
    vector = vector.to(device=operator.device, dtype=operator.dtype)
    first, second = operator.matmat(vector), operator.matmat(vector)
    scale = float(torch.linalg.vector_norm(first)) or 1.0
    difference = float(torch.linalg.vector_norm(first - second)) / scale
    allowed = 100 * torch.finfo(operator.dtype).eps if tolerance is None else tolerance
    if difference > allowed:
        raise ValueError(
            f"`probe_determinism(operator=...)` must give equal products twice (freeze dropout, augmentation and "
            f"attack starts); they differ by {difference:.1e} relative."
        )


def finite_curvatures(
    landscape: Landscape,
    directions: Tensor,
    attack: Callable[[Tensor], Tensor] | None = None,
    *,
    step: float,
) -> Tensor:
    """Each unit's share of the curvature uⱼᵀ(∂g/∂w)uⱼ over a finite step, shape ``(N, k)``, float64.

    (uⱼ·g_n(w + s uⱼ) − uⱼ·g_n(w − s uⱼ)) / 2s, whose mean over n is the curvature along uⱼ and whose spread gives its
    standard error. With an attack, run again on both sides, it is that of the *robust* loss: a sign-gradient attack has
    zero derivative almost everywhere, so differentiating through it gives back the fixed-input Hessian, and the
    envelope's curvature shows only over a finite step. Without an attack the inputs stay as they are: what the finite
    step alone (kinks, third and higher derivatives) makes of the Hessian's uⱼᵀHuⱼ.

    Raises:
        ValueError: if ``step`` is not positive.
    """
    columns = []
    for direction in directions.to(landscape.dtype).unbind(dim=1):
        ahead, behind = (
            project_gradients(side, direction[:, None], method="jvp").values[:, 0]
            for side in _both_sides(landscape, direction, attack, step)
        )
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, dim=1)


def _both_sides(
    landscape: Landscape, direction: Tensor, attack: Callable[[Tensor], Tensor] | None, step: float
) -> Iterator[Landscape]:
    """The landscape at w + s u and at w − s u, its inputs attacked there."""
    if not step > 0:
        raise ValueError(f"`finite_curvatures(step=...)` must be > 0; got {step}.")
    for sign in (1.0, -1.0):
        moved = landscape.at(landscape.weights + sign * step * direction)
        if attack is not None:
            moved.inputs = attack(moved.weights).to(landscape.dtype)
        yield moved


def _columns(vectors: Tensor, dimension: int) -> Tensor:
    if vectors.ndim != 2 or vectors.shape[0] != dimension:
        raise ValueError(
            f"`matmat(vectors=...)` must have shape ({dimension}, k), the landscape's weights (a basis of another "
            f"architecture?); got {tuple(vectors.shape)}."
        )
    return vectors


def _sum_in_double(parts: Iterable[Tensor]) -> Tensor:
    """Sum over chunks, accumulated in float64; a single chunk has nothing to accumulate and stays as it is."""
    total: Tensor | None = None
    for part in parts:
        if total is None:
            total = part
        else:
            total = total.double().add_(part) if total.dtype != torch.float64 else total.add_(part)
    assert total is not None, "a landscape has at least one unit"
    return total


def _finite(product: Tensor, what: str) -> Tensor:
    # One fused pass, NaN included: `isfinite` costs four passes over a vector as long as the weights.
    if not math.isfinite(float(torch.linalg.vector_norm(product, ord=math.inf))):
        raise NonFiniteProductError(
            f"a {what} product is not finite: the weights, the inputs or the loss overflow at this checkpoint."
        )
    return product


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
