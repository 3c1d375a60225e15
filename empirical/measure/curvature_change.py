r"""What moved a curvature between two checkpoints: the exact split of Δ ln λ into its causes.

Model     The Hessian of a mean loss ℓ(z(w)) of outputs z, along a direction u, a_n = J_n u the outputs' derivative,
              uᵀHu = (1/N) Σ_n a_nᵀ S_n a_n + uᵀRu,   S_n = ∂²ℓ/∂z² (softmax: diag(p) − ppᵀ)                       (K)
          the Gauss–Newton part, and the residual part R = (1/N) Σ_n Σ_c ∂ℓ/∂z_c ∇²z_c.
Norms     A tensor of weights w_l that a normalization follows is scale invariant, z(αw_l) = z(w_l): its derivatives go
          as 1/‖w_l‖. With u = Σ_l u_l over those tensors and the rest (norm taken as 1), b_nl = ‖w_l‖ J_n u_l,
              uᵀHu = Σ_{l,l'} (‖w_l‖‖w_l'‖)⁻¹ [(1/N) Σ_n b_nlᵀ S_n b_nl' + r_ll'],   r_ll' = ‖w_l‖‖w_l'‖ u_lᵀ R u_l'.
Split     Four factors: S, b, r, norms. Each is swapped from its value before to its value after while the others stand
          at either; the average over all orders of swapping (Shapley 1953) adds up to Δ(uᵀHu) without remainder, and
          so, divided by the logarithmic mean of the two, to Δ ln λ (Montgomery 1929, Vartia 1976).
Pairs     Each top direction before with the one after that overlaps it most, one to one. b moves with the direction and
          with the inputs that the attack finds, r likewise.
Remainder  Δ ln λ of the eigenvalues as Lanczos has them, less the sum of the parts: its error, no more.
Limits    Without normalization no tensor is scale invariant and the norm's part is 0. In eval mode batch norm divides
          by running statistics, which do not follow the weights: nothing is invariant there either.
Oracle    Tests: dense H, J, S in float64; a network whose weights are rescaled.
Source    Gauss–Newton split: Schraudolph 2002; Papyan 2019. Scale invariance: van Laarhoven 2017.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.func import hessian, jvp, vmap

from empirical.data.resident import Data
from empirical.measure.lanczos import top_eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.objective import training_landscape
from empirical.measure.operators import HessianOperator, probe_determinism
from empirical.measure.precision import full_precision
from empirical.records.curvature_change import FACTORS, CurvatureAttribution
from empirical.settings.measuring import Measurement
from empirical.training.checkpoint import Checkpoint

#: Largest change of the outputs, relative to their largest, at which a doubled tensor counts as scale invariant.
INVARIANT = 1e-3


@dataclass(frozen=True, kw_only=True)
class CurvatureState:
    """The factors of (K) at one checkpoint.

    Args:
        targets: of the samples, in their order.
        directions: uᵢ, shape ``(P, k)``.
        groups: names of the scale-invariant tensors, then ``"rest"``.
        outputs: S_n, shape ``(N, C, C)``.
        tangents: b_nl, shape ``(N, k, L, C)``.
        residual: r_ll', shape ``(k, L, L)``.
        norms: ‖w_l‖, 1 for the rest, shape ``(L,)``.
        eigenvalues: of the directions, as a search had them, shape ``(k,)``; None where they are no eigenvectors.
    """

    targets: Tensor
    directions: Tensor
    groups: tuple[str, ...]
    outputs: NDArray[np.float64]
    tangents: NDArray[np.float64]
    residual: NDArray[np.float64]
    norms: NDArray[np.float64]
    eigenvalues: NDArray[np.float64] | None = None

    @property
    def curvature(self) -> NDArray[np.float64]:
        """UᵀHU's diagonal, shape ``(k,)``."""
        return _value(gauss_newton(self.outputs, self.tangents), self.residual, self.norms)

    @property
    def gauss_newton(self) -> NDArray[np.float64]:
        """Its Gauss–Newton part, shape ``(k,)``."""
        return _value(gauss_newton(self.outputs, self.tangents), 0.0 * self.residual, self.norms)


@dataclass(frozen=True, kw_only=True)
class CurvatureChange:
    """Additive parts of Δ ln λᵢ.

    Args:
        parts: by factor (`FACTORS`), shape ``(k, 4)``.
        curvatures: uᵀHu before and after, shape ``(2, k)``.
        gauss_newton: likewise its Gauss–Newton part.
        overlaps: (uᵢᵀu'ᵢ)² of each pair, shape ``(k,)``.
        pairs: for each direction before the index of the one after, shape ``(k,)``.
    """

    parts: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    gauss_newton: NDArray[np.float64]
    overlaps: NDArray[np.float64]
    pairs: NDArray[np.int64]


def checkpoint_state(
    checkpoint: Checkpoint, data: Data, measurement: Measurement, *, groups: Sequence[str] | None = None
) -> CurvatureState:
    """The factors of the curvature along the top eigenvectors of a run's loss at a checkpoint.

    Args:
        checkpoint: whose inputs its own attack finds.
        data: of the run.
        measurement: how; its `eigenpairs` directions.
        groups: scale-invariant tensors, as at the checkpoint that this one is held against; None: found here.

    Raises:
        ValueError: if the data are others, or there are fewer weights than directions.
        NotConvergedError: if the eigenvalue search does not converge.
        NonFiniteProductError: if a product overflows.
    """
    if data.digest != checkpoint.data_digest:
        raise ValueError(
            f"`checkpoint_state(data=...)` must be the data of the checkpoint ({checkpoint.data_digest}); "
            f"got {data.digest}."
        )
    landscape = training_landscape(checkpoint, data, measurement)
    k = measurement.eigenpairs
    if k > landscape.dimension:
        raise ValueError(f"`Measurement(eigenpairs=...)` must be at most {landscape.dimension}, the weights; got {k}.")
    hessian_operator = HessianOperator(landscape)
    probe_determinism(hessian_operator)
    pairs = top_eigenpairs(
        hessian_operator, k, tolerance=measurement.tolerance, max_products=60 + 40 * k, seed=measurement.seed
    ).require()
    hessian_operator.release()
    invariant = scale_invariant(landscape) if groups is None else groups
    state = curvature_state(landscape, pairs.basis, invariant)
    return replace(state, eigenvalues=pairs.values.cpu().numpy())


def attribution_record(
    first: Checkpoint, second: Checkpoint, states: tuple[CurvatureState, CurvatureState], measurement: Measurement
) -> CurvatureAttribution:
    """The record of the change between two checkpoints, given the states at both, without provenance."""
    before, after = states
    assert before.eigenvalues is not None and after.eigenvalues is not None, "states of `checkpoint_state`"
    found = curvature_change(before, after)
    return CurvatureAttribution(
        training=first.setting,
        measurement=measurement,
        seed=first.seed,
        before=first.iteration,
        after=second.iteration,
        data_digest=first.data_digest,
        eigenvalues=np.stack([before.eigenvalues, after.eigenvalues[found.pairs]]),
        curvatures=found.curvatures,
        gauss_newton=found.gauss_newton,
        overlaps=found.overlaps,
        parts=found.parts,
        saturation=np.array([np.trace(state.outputs, axis1=1, axis2=2).mean() for state in states]),
        groups=before.groups[:-1],
        norms=np.stack([state.norms[:-1] for state in states]),
    )


def scale_invariant(landscape: Landscape) -> tuple[str, ...]:
    """Names of the tensors of weights whose doubling leaves the outputs as they are.

    Tensors of one axis (biases, gains) are left out: a normalization divides out none of them.
    """
    _needs_samples(landscape)
    units = next(landscape.chunks())
    weights = landscape.unflatten(landscape.weights)
    with torch.no_grad():
        plain = landscape.outputs(weights, units)
        reach = INVARIANT * float(plain.abs().max())
        return tuple(
            name
            for name, value in weights.items()
            if value.ndim > 1
            and float((landscape.outputs({**weights, name: 2 * value}, units) - plain).abs().max()) <= reach
        )


def curvature_state(landscape: Landscape, directions: Tensor, invariant: Sequence[str] = ()) -> CurvatureState:
    """The factors of the curvature along some directions.

    Args:
        landscape: the loss; its units must be samples.
        directions: U with orthonormal columns, shape ``(P, k)``.
        invariant: scale-invariant tensors.

    Raises:
        ValueError: if units are mini-batches, or an invariant tensor is none of the weights or is zero.
    """
    _needs_samples(landscape)
    weights = landscape.unflatten(landscape.weights)
    unknown = sorted(set(invariant) - set(weights))
    if unknown:
        raise ValueError(f"`curvature_state(invariant=...)` must name weights of the landscape; got {unknown}.")
    norms = np.array([*(float(weights[name].double().norm()) for name in invariant), 1.0])
    if not (norms > 0).all():
        raise ValueError("`curvature_state(invariant=...)` must name tensors that are not zero.")
    directions = directions.to(landscape.dtype)
    # (P, k, L): each direction cut into what it moves of each group.
    rest = [name for name in weights if name not in set(invariant)]
    masks = torch.stack([_mask(landscape, names) for names in (*([name] for name in invariant), rest)])
    cut = directions[:, :, None] * masks.T[:, None, :]
    k, groups = directions.shape[1], len(norms)
    outputs = _output_curvature(landscape)
    tangents = np.stack([_tangents(landscape, cut[:, i, place]) for i in range(k) for place in range(groups)], axis=1)
    tangents = tangents.reshape(len(tangents), k, groups, -1) * norms[:, None]
    operator = HessianOperator(landscape)
    product = operator.matmat(cut.reshape(len(cut), -1).double()).reshape(cut.shape)
    operator.release()
    whole = torch.einsum("pkl,pkm->klm", cut.double(), product).cpu().numpy()
    whole = (whole + whole.transpose(0, 2, 1)) / 2 * norms[:, None] * norms
    return CurvatureState(
        targets=landscape.targets,
        directions=directions,
        groups=(*invariant, "rest"),
        outputs=outputs,
        tangents=tangents,
        residual=whole - gauss_newton(outputs, tangents),
        norms=norms,
    )


def gauss_newton(outputs: NDArray[np.float64], tangents: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1/N) Σ_n b_nlᵀ S_n b_nl', shape ``(k, L, L)``."""
    weighed = np.einsum("ncd,nkld->nklc", outputs, tangents)
    return np.einsum("nklc,nkmc->klm", tangents, weighed, optimize=True) / len(outputs)


def curvature_change(before: CurvatureState, after: CurvatureState) -> CurvatureChange:
    """The split of Δ ln λ, direction by direction.

    Raises:
        ValueError: if the states are of other samples, architectures or groups, or a curvature is not positive.
    """
    if before.directions.shape != after.directions.shape or before.groups != after.groups:
        raise ValueError("`curvature_change` needs two states of one architecture, along as many directions.")
    if not torch.equal(before.targets, after.targets):
        raise ValueError("`curvature_change` needs two states of the same samples.")
    overlaps = (before.directions.double().T @ after.directions.double()).square().cpu().numpy()
    rows, pairs = linear_sum_assignment(-overlaps)
    tangents, residual = (before.tangents, after.tangents[:, pairs]), (before.residual, after.residual[pairs])
    outputs, norms = (before.outputs, after.outputs), (before.norms, after.norms)
    inner = {(s, j): gauss_newton(outputs[s], tangents[j]) for s in (0, 1) for j in (0, 1)}

    def value(state: tuple[int, ...]) -> NDArray[np.float64]:
        s, j, r, n = state
        return _value(inner[s, j], residual[r], norms[n])

    curvatures = np.stack([value((0, 0, 0, 0)), value((1, 1, 1, 1))])
    if not (curvatures > 0).all():
        worst = int(np.argmin(curvatures.min(axis=0)))
        raise ValueError(
            f"`curvature_change` needs positive curvatures; direction {worst + 1} has {curvatures[0, worst]:.3g} "
            f"before and {curvatures[1, worst]:.3g} after: follow fewer directions."
        )
    shares = shapley(value, len(FACTORS)) / logarithmic_mean(curvatures[0], curvatures[1])
    return CurvatureChange(
        parts=shares.T,
        curvatures=curvatures,
        gauss_newton=np.stack([before.gauss_newton, after.gauss_newton[pairs]]),
        overlaps=overlaps[rows, pairs],
        pairs=pairs,
    )


def shapley(value: Callable[[tuple[int, ...]], NDArray[np.float64]], players: int) -> NDArray[np.float64]:
    """Each factor's part of value(1, …, 1) − value(0, …, 0), averaged over all orders in which they are swapped.

    Args:
        value: of a state, a 0 or 1 for each factor.
        players: number of factors.

    Returns:
        Parts, the factors along the first axis.
    """
    found = {state: value(state) for state in itertools.product((0, 1), repeat=players)}
    parts = []
    for player in range(players):
        total = np.zeros_like(found[(0,) * players])
        for state, before in found.items():
            if state[player]:
                continue
            others = sum(state)
            weight = math.factorial(others) * math.factorial(players - 1 - others) / math.factorial(players)
            total = total + weight * (found[(*state[:player], 1, *state[player + 1 :])] - before)
        parts.append(total)
    return np.stack(parts)


def logarithmic_mean(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(y − x)/(ln y − ln x) of positive numbers, x where they are equal: Δx over it is Δ ln x."""
    ratio = second / first
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = first * np.expm1(np.log(ratio)) / np.log(ratio)
    return np.where(ratio == 1, first, mean)


def _value(inner: NDArray[np.float64], residual: NDArray[np.float64], norms: NDArray[np.float64]):
    return np.einsum("klm,l,m->k", inner + residual, 1 / norms, 1 / norms)


def _needs_samples(landscape: Landscape) -> None:
    if landscape.units_are_batches:
        raise ValueError(
            "a split of curvature needs samples as units; got mini-batches (batch norm in train mode): measure with "
            "running or with frozen statistics."
        )


def _mask(landscape: Landscape, names: Sequence[str]) -> Tensor:
    mask = torch.zeros(landscape.dimension, dtype=landscape.dtype, device=landscape.device)
    if names:
        mask[landscape.block(names)] = 1
    return mask


def _output_curvature(landscape: Landscape) -> NDArray[np.float64]:
    """∂²ℓ/∂z² of every sample over its flattened outputs, shape ``(N, C, C)``."""
    weights = landscape.unflatten(landscape.weights)

    def of_one(output: Tensor, target: Tensor) -> Tensor:
        return landscape.per_sample_loss(output[None], target[None])[0]

    rows = []
    with torch.no_grad(), full_precision(landscape.device):
        for units in landscape.chunks():
            outputs = landscape.outputs(weights, units)
            size = outputs[0].numel()
            found = vmap(hessian(of_one))(outputs, landscape.targets[units])
            rows.append(found.reshape(len(units), size, size).double().cpu().numpy())
    return np.concatenate(rows)


def _tangents(landscape: Landscape, direction: Tensor) -> NDArray[np.float64]:
    """J_n v of every sample, its outputs flattened, shape ``(N, C)``."""
    rows = []
    with torch.no_grad(), full_precision(landscape.device):
        for units in landscape.chunks():

            def outputs(weights: Tensor, units: Tensor = units) -> Tensor:
                return landscape.outputs(landscape.unflatten(weights), units)

            moved = jvp(outputs, (landscape.weights,), (direction.contiguous(),))[1]
            rows.append(moved.reshape(len(units), -1).double().cpu().numpy())
    return np.concatenate(rows)
