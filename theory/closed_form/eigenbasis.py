r"""H's eigenbasis: curvatures λ, orthonormal directions U, and the noise C̃ = Uᵀ C U seen in them.

Inside a degenerate eigenspace of H the directions are not determined by H. There the basis that diagonalises C is
chosen, without which H = I would show correlations (and a price of non-commutativity) that no one can observe.
Given spectra, nothing is decomposed and no digit is lost.

Parameter groups, rates η D and weight decays δ G with D and G diagonal, are the same optimizer in other coordinates.
With w = D^{1/2} u the recursion of u has one rate η, the curvature D^{1/2} (H + δG) D^{1/2}, noise D^{1/2} C D^{1/2}
and no weight decay; the PyTorch buffer is v = D^{−1/2} ṽ, the displacement of the position form v = D^{1/2} ṽ. A
`Frame` holds the way there and back, and every formula that is given one sees plain momentum SGD mode by mode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyr2k, dtrmm  # pyright: ignore[reportAttributeAccessIssue]  (made at import)

from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

#: Width of the blocks in which a triangle is mirrored.
_MIRRORED = 128


@dataclass(frozen=True)
class Eigenbasis:
    """Curvatures λ ``(m,)``, basis U ``(m, m)`` (None: the identity), noise C̃ = UᵀCU ``(m, m)``."""

    curvatures: NDArray[np.float64]
    basis: NDArray[np.float64] | None
    noise: NDArray[np.float64]

    def outward(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """U M Uᵀ: from this basis to the original coordinates."""
        return matrix if self.basis is None else self.basis @ matrix @ self.basis.T

    def outward_symmetric(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """U M Uᵀ of a symmetric M, exactly symmetric, for three quarters of the work."""
        return matrix if self.basis is None else congruence(self.basis, matrix)

    def inward(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Uᵀ M U: from the original coordinates to this basis."""
        return matrix if self.basis is None else self.basis.T @ matrix @ self.basis


def eigenbasis(problem: Quadratic, degeneracy: float | None = None) -> Eigenbasis:
    """Eigenbasis of the Hessian, resolved by the noise inside clusters of equal curvature.

    Args:
        problem: H and C.
        degeneracy: neighbouring curvatures closer than this share of the largest one count as equal. By default it is
            what rounding leaves of a repeated eigenvalue: 4 √m units of 2.2e-16 for a matrix, 0 for a spectrum. A
            larger one treats nearly equal curvatures as one eigenspace, and changes H by as much.

    Returns:
        `Eigenbasis`; curvatures ascend unless both matrices are diagonal, which are left as they are.
    """
    if problem.is_diagonal:
        return Eigenbasis(problem.hessian, None, np.diag(problem.noise_cov))
    if problem.hessian.ndim == 1:
        order = np.argsort(problem.hessian, kind="stable")
        curvatures, basis = problem.hessian[order], np.eye(problem.dimension)[:, order]
        rounding = 0.0
    else:
        curvatures, basis = np.linalg.eigh(problem.hessian)
        rounding = 4.0 * problem.dimension**0.5 * float(np.finfo(np.float64).eps)
    clusters = _clusters(curvatures, (rounding if degeneracy is None else degeneracy) * float(np.abs(curvatures).max()))
    if clusters:
        noise_cov = problem.dense_noise_cov()
        basis = basis.copy()
        for cluster in clusters:
            inside = basis[:, cluster]
            _, turn = np.linalg.eigh(inside.T @ noise_cov @ inside)
            basis[:, cluster] = inside @ turn
    if problem.hessian.ndim == 1 and not clusters:
        return Eigenbasis(problem.hessian, None, problem.dense_noise_cov())
    if problem.noise_cov.ndim == 1:
        noise = (basis.T * problem.noise_cov) @ basis
        noise = 0.5 * (noise + noise.T)
    else:
        noise = congruence(basis.T, problem.noise_cov)
    return Eigenbasis(curvatures, basis, noise)


def congruence(basis: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """B M Bᵀ of a symmetric M (of which the lower triangle is read), exactly symmetric.

    With M = L + Lᵀ, L lower triangular, it is (B L) Bᵀ + B (B L)ᵀ: a triangular product and a symmetric update of rank
    2m, 3 m³ operations where two full products take 4 m³.
    """
    half = np.array(matrix)
    half[np.diag_indices_from(half)] *= 0.5
    if basis.flags.f_contiguous:
        moved = dtrmm(1.0, half.T, basis, side=1, lower=0, trans_a=1)
        result = dsyr2k(1.0, basis, moved, lower=1)
    else:  # the same of Bᵀ, which BLAS then takes as it lies
        moved = dtrmm(1.0, half.T, basis.T, side=0, lower=0)
        result = dsyr2k(1.0, basis.T, moved, lower=1, trans=1)
    for start in range(0, len(result), _MIRRORED):
        stop = start + _MIRRORED
        result[start:stop, stop:] = result[stop:, start:stop].T
        inside = result[start:stop, start:stop]
        inside += np.tril(inside, -1).T
    return result.T


@dataclass(frozen=True)
class Frame:
    """Coordinates in which the optimizer is plain momentum SGD on independent modes.

    Args:
        modes: curvatures, basis and noise there.
        optimizer: what acts on them: without parameter groups, and without weight decay if those absorbed it.
        optimum: the modes' optimum, shape ``(m,)``.
        scale: D^{1/2} of the parameter groups, shape ``(m,)``; None without groups.
    """

    modes: Eigenbasis
    optimizer: MomentumSGD
    optimum: NDArray[np.float64]
    scale: NDArray[np.float64] | None

    @property
    def curvatures(self) -> NDArray[np.float64]:
        """λ of the modes, shape ``(m,)``."""
        return self.modes.curvatures

    @property
    def noise(self) -> NDArray[np.float64]:
        """C̃, shape ``(m, m)``."""
        return self.modes.noise

    def _scales(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        assert self.scale is not None
        return self.scale, self.scale if self.optimizer.form == "position" else 1.0 / self.scale

    def block(self, matrix: NDArray[np.float64], row: int = 0, column: int = 0) -> NDArray[np.float64]:
        """A block of the state's covariance, (0: w, 1: v), from the modes to the problem's coordinates."""
        outward = self.modes.outward(matrix)
        if self.scale is None:
            return outward
        scales = self._scales()
        return scales[row][:, None] * outward * scales[column]

    def block_of_symmetric(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cov(w) from the modes to the problem's coordinates, exactly symmetric."""
        outward = self.modes.outward_symmetric(matrix)
        if self.scale is None:
            return outward
        outward = scaled(outward, self.scale)
        return 0.5 * (outward + outward.T)

    def inward(self, blocks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blocks ``(2, 2, m, m)`` of the state's covariance from the problem's coordinates to the modes."""
        rows = []
        for p in (0, 1):
            row = []
            for r in (0, 1):
                block = blocks[p, r]
                if self.scale is not None:
                    scales = self._scales()
                    block = block / scales[p][:, None] / scales[r]
                row.append(self.modes.inward(block))
            rows.append(row)
        return np.array(rows)

    def outward(self, blocks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Blocks ``(2, 2, m, m)`` from the modes to the problem's coordinates."""
        return np.array([[self.block(blocks[p, r], p, r) for r in (0, 1)] for p in (0, 1)])

    def inward_mean(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means (w, v), ``(2, m)``, from the problem's coordinates to the modes."""
        if self.scale is not None:
            rows = rows / np.stack(self._scales())
        return rows if self.modes.basis is None else rows @ self.modes.basis

    def outward_mean(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means (w, v), ``(2, m)``, from the modes to the problem's coordinates."""
        rows = rows if self.modes.basis is None else rows @ self.modes.basis.T
        return rows if self.scale is None else rows * np.stack(self._scales())


def frame(problem: Quadratic, optimizer: MomentumSGD) -> Frame:
    """The modes that an optimizer has on a problem.

    Raises:
        ValueError: if parameter groups are of another dimension than the problem, or pull against a curvature of their
            own size, so that no optimum exists.
    """
    groups = optimizer.groups
    if groups is None:
        basis = eigenbasis(problem)
        return Frame(basis, optimizer, problem.optimum if basis.basis is None else problem.optimum @ basis.basis, None)
    if groups.dimension != problem.dimension:
        raise ValueError(
            f"`ParameterGroups(...)` must have one factor a coordinate, {problem.dimension}; got {groups.dimension}."
        )
    scale, decay = np.sqrt(groups.rates()), optimizer.weight_decay * groups.decays()
    hessian = problem.hessian + (decay if problem.hessian.ndim == 1 else np.diag(decay))
    place = problem.optimum
    if decay.any() and place.any():
        place = _pulled(problem, hessian)
        if not np.isfinite(place).all():
            raise ValueError("`ParameterGroups(decay_factors=...)` must leave H + decay invertible; it is singular.")
    plain = replace(optimizer, groups=None, weight_decay=0.0)
    seen = Quadratic(scaled(hessian, scale), scaled(problem.noise_cov, scale), place / scale)
    basis = eigenbasis(seen)
    return Frame(basis, plain, seen.optimum if basis.basis is None else seen.optimum @ basis.basis, scale)


def scaled(matrix: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """S M S with S = diag(scale), M a matrix or a diagonal."""
    return matrix * scale * scale if matrix.ndim == 1 else scale[:, None] * matrix * scale


def _pulled(problem: Quadratic, hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    """The optimum of H + decay; NaN where there is none."""
    if hessian.ndim == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(problem.hessian == hessian, 1.0, problem.hessian / hessian) * problem.optimum
    try:
        return np.asarray(np.linalg.solve(hessian, problem.hessian @ problem.optimum), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.full(len(hessian), np.nan)


def _clusters(ascending: NDArray[np.float64], gap: float) -> list[slice]:
    """Maximal runs of at least two values whose neighbours are at most `gap` apart."""
    edges = np.flatnonzero(np.diff(ascending) > gap) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(ascending)]])
    return [slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > 1]
