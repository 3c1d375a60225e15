r"""What lies outside the tracked directions, and what its motion does inside through per-sample couplings.

Model     Sample n couples the k tracked directions to the rest by Q_n (k × outside), whose mean is 0 where the tracked
          directions are eigenvectors of the mean Hessian. The rest moves as momentum SGD of one effective curvature λ_o
          (a set of untracked directions) driven by its own slopes alone, and adds Q_B δ_out to the tracked gradient.
Result    With r_t(s) the rest's response at step t to the gradient of step s and c_tu = δ_tu/b_t − 1/N (without the 1/N
          where batches are independent), R_tu = Σ_{s,s'} r_t(s) r_u(s') c_ss' is its covariance per unit of slope
          covariance, and the tracked gradient receives the covariance
              K c_tu R_tu within an epoch,   K = Cov_n-contraction (1/(N−1)) Σ_n Q̃_n S²_out Q̃_nᵀ,             (1)
          plus, under shuffled epochs, the term of `minibatch_moments` (2) with A_n s_n replaced by Q_n s_n,out.
Neglected that the rest's noise grows with its own and with the tracked variance: of second order in the deviations
          of curvature, but summed over epochs by slow directions. Track more directions to see its size.
Measuring K needs no matrix: along a random sign combination p = Σ_m ±g̃_m/√(N−1) of the samples' slopes projected off
          the tracked space, E p pᵀ = S²_out: the couplings q_n = UᵀH_n p of a few such probes give K (`from_probes`).
Oracle    Dense simulation of all directions.
Source    Own derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.mode_response import ModeResponse, mode_response
from theory.model.optimizer import MomentumSGD
from theory.model.regression import Sampling
from theory.solution import UnstableError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A set of untracked directions of about one curvature, as the tracked ones feel it.

    Args:
        curvature: λ_o, the mean curvature there without weight decay.
        coupling: K of equation (1), shape ``(k, k)``, in units of gradient² × curvature².
        own: Σ_n s̃_na (Q̃_n s̃_n,out)_b / N, sample by sample, shape ``(k, k)``; by default 0.

    Raises:
        ValueError: if a shape disagrees or a value is not finite.
    """

    curvature: float
    coupling: Array
    own: Array | None = None

    def __post_init__(self) -> None:
        coupling = np.asarray(self.coupling, dtype=np.float64)
        own = np.zeros_like(coupling) if self.own is None else np.asarray(self.own, dtype=np.float64)
        if coupling.ndim != 2 or coupling.shape[0] != coupling.shape[1] or own.shape != coupling.shape:
            raise ValueError(f"`Outside(coupling, own)` must both be (k, k); got {coupling.shape}, {own.shape}.")
        if not (np.isfinite(self.curvature) and np.isfinite(coupling).all() and np.isfinite(own).all()):
            raise ValueError("`Outside(...)` must hold finite numbers; some are not.")
        object.__setattr__(self, "curvature", float(self.curvature))
        object.__setattr__(self, "coupling", coupling)
        object.__setattr__(self, "own", own)

    @classmethod
    def from_probes(cls, couplings: ArrayLike, curvature: float, own: ArrayLike | None = None) -> Outside:
        """From the couplings to P random sign combinations of the untracked slopes (see *Measuring*).

        Args:
            couplings: q_n along every probe, shape ``(N, k, P)``.
            curvature: λ_o, for instance the mean of pᵀHp/pᵀp over the probes.
            own: as in the class, from each sample's own untracked slope.
        """
        q = _centred(couplings)
        coupling = np.einsum("nip,njp->ij", q, q, optimize=True) / ((len(q) - 1) * q.shape[2])
        return cls(curvature=curvature, coupling=coupling, own=None if own is None else np.asarray(own))

    def turned(self, basis: Array) -> Outside:
        """The same in another basis of the tracked space, its vectors in columns."""
        assert self.own is not None
        return Outside(
            curvature=self.curvature,
            coupling=basis.T @ self.coupling @ basis,
            own=basis.T @ self.own @ basis,
        )


@dataclass
class OutsidePath:
    """The rest on its way: its covariance per unit of slope covariance, and its memory of the current epoch."""

    part: Outside
    now: Array  # (2, 2), of (δ_out, v_out)
    _start: Array = field(default_factory=lambda: np.zeros((2, 2)))
    _epoch: _Epoch | None = None

    @classmethod
    def still(cls, part: Outside) -> OutsidePath:
        """At rest, as replicas of one checkpoint are."""
        return cls(part, np.zeros((2, 2)))

    @classmethod
    def settled(
        cls, part: Outside, optimizer: MomentumSGD, sizes: Sequence[int], count: int, sampling: Sampling
    ) -> OutsidePath:
        """At the start of an epoch, after many.

        Raises:
            UnstableError: if the untracked curvature has no stationary law.
        """
        flow, push = _bath(part, optimizer)
        radius = float(np.abs(np.linalg.eigvals(flow)).max())
        if not radius < 1.0:
            raise UnstableError(f"`Outside(curvature=...)` must be stable, radius < 1; got {radius:.6g}.")
        responses = [push]
        for _ in sizes[1:]:
            responses.append(flow @ responses[-1])
        rows = np.array(responses[::-1])
        forcing = (rows * np.array([[white_scale(size, count, sampling)] for size in sizes])).T @ rows
        if sampling is Sampling.SHUFFLED_EPOCHS:
            forcing -= np.multiply.outer(rows.sum(axis=0), rows.sum(axis=0)) / count
        whole = np.linalg.matrix_power(flow, len(sizes))
        flat = np.linalg.solve(np.eye(4) - np.kron(whole, whole), forcing.ravel())
        return cls(part, np.asarray(flat.reshape(2, 2), dtype=np.float64))

    def begin(self, width: int, places: int) -> None:
        """A new epoch."""
        self._start = self.now
        self._epoch = _Epoch(width, places)

    def advance(
        self,
        response: ModeResponse,
        optimizer: MomentumSGD,
        *,
        sizes: Sequence[int],
        position: int,
        num_samples: int,
        sampling: Sampling,
    ) -> Array:
        """What this step adds to the second moment of the tracked state, ``(2k, 2k)``; then one step on."""
        assert self._epoch is not None and self.part.own is not None
        epoch, size, coupling = self._epoch, sizes[position % len(sizes)], self.part.coupling
        move, push = response.transition, response.noise_input
        flow, inflow = _bath(self.part, optimizer)
        k = len(push)
        if sampling is not Sampling.SHUFFLED_EPOCHS:
            scale = white_scale(size, num_samples, sampling)
            added = np.einsum("ia,jb,ij->aibj", push, push, coupling * scale * self.now[0, 0])
            self.now = flow @ self.now @ flow.T + scale * np.multiply.outer(inflow, inflow)
            return added.reshape(2 * k, 2 * k)
        # Covariances of the rest between this step and every step of the epoch so far, itself last.
        epoch.notice()
        between = epoch.covariances(self._start, num_samples)
        added = np.einsum("ia,jb,ij->aibj", push, push, coupling * between[-1] * (1.0 / size - 1.0 / num_samples))
        carried = np.einsum("iab,tib->tia", move, epoch.reach)
        cross = np.tensordot(-between[:-1] / num_samples, carried, axes=(0, 0))
        cross = np.einsum("ia,jb,ij->aibj", cross, push, coupling)
        added = (added + cross + cross.transpose(2, 3, 0, 1)).reshape(2 * k, 2 * k)
        added = added + epoch.own_kick(self.part.own, move, push, flow, inflow, position, sizes, num_samples)
        epoch.reach = np.concatenate([carried, push[None]])
        epoch.rows = np.concatenate([epoch.rows @ flow.T, inflow[None]])
        epoch.sizes = np.append(epoch.sizes, size)
        epoch.flow = flow @ epoch.flow
        total = epoch.rows.sum(axis=0)
        self.now = epoch.flow @ self._start @ epoch.flow.T + (epoch.rows / epoch.sizes[:, None]).T @ epoch.rows
        self.now = self.now - np.multiply.outer(total, total) / num_samples
        return added


class _Epoch:
    """Responses since the epoch began."""

    def __init__(self, width: int, places: int) -> None:
        self.flow = np.eye(2)
        self.rows = np.zeros((0, 2))  # of the rest to each step's unit gradient
        self.sizes = np.zeros(0)
        self.reach = np.zeros((0, width, 2))  # of the tracked directions likewise
        self.seen: list[tuple[Array, Array]] = []
        # By step τ at which a sample is drawn; the last row is a sample that the epoch leaves out.
        self.first = np.zeros((places + 1, width, 2))
        self.rest = np.zeros((places + 1, 2))
        self.second = np.zeros((places + 1, width, 2))
        self.held = np.zeros((2 * width, 2 * width))

    def notice(self) -> None:
        self.seen.append((self.flow[0].copy(), self.rows[:, 0].copy()))

    def covariances(self, start: Array, count: int) -> Array:
        flow, rows = self.seen[-1]
        return np.array(
            [
                then @ start @ flow + (past * rows[: len(past)] / self.sizes[: len(past)]).sum()
                - past.sum() * rows.sum() / count
                for then, past in self.seen
            ]
        )  # fmt: skip

    def own_kick(
        self,
        own: Array,
        move: Array,
        push: Array,
        flow: Array,
        inflow: Array,
        position: int,
        sizes: Sequence[int],
        count: int,
    ) -> Array:
        places, k = len(self.first), len(push)
        chance = np.asarray(sizes, dtype=np.float64) / count
        weight = np.append(chance, 1.0 - chance.sum())
        size = sizes[position % len(sizes)]
        share = ((np.arange(places) == position) - size / count) / size
        self.second = np.einsum("iab,tib->tia", move, self.second) + push * (share * self.rest[:, 0])[:, None, None]
        self.rest = self.rest @ flow.T + inflow * share[:, None]
        self.first = np.einsum("iab,tib->tia", move, self.first) + push * share[:, None, None]
        both = np.tensordot(self.first * weight[:, None, None], self.second, axes=(0, 0))  # (k, 2, k, 2)
        held = np.einsum("iajb,ij->aibj", both, own).reshape(2 * k, 2 * k) * count**3 / ((count - 1.0) * (count - 2.0))
        held = held + held.T
        step = np.block([[np.diag(move[:, row, column]) for column in (0, 1)] for row in (0, 1)])
        added, self.held = held - step @ self.held @ step.T, held
        return added


def white_scale(size: int, num_samples: int, sampling: Sampling) -> float:
    """Covariance of a batch mean in units of S² (divisor N − 1); under shuffled epochs without the common −1/N."""
    if sampling is Sampling.WITH_REPLACEMENT:
        return (1.0 - 1.0 / num_samples) / size
    return 1.0 / size - (0.0 if sampling is Sampling.SHUFFLED_EPOCHS else 1.0 / num_samples)


def _bath(part: Outside, optimizer: MomentumSGD) -> tuple[Array, Array]:
    response = mode_response([part.curvature], optimizer)
    return response.transition[0], response.noise_input[0]


def _centred(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array - array.mean(axis=0)
