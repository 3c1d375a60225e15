r"""H's eigenbasis: curvatures λ, orthonormal directions U, and the noise C̃ = Uᵀ C U seen in them.

Inside a degenerate eigenspace of H the directions are not determined by H. There the basis that diagonalises C is
chosen, without which H = I would show correlations (and a price of non-commutativity) that no one can observe.
Given spectra, nothing is decomposed and no digit is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.model.quadratic import Quadratic


@dataclass(frozen=True)
class Eigenbasis:
    """Curvatures λ ``(m,)``, basis U ``(m, m)`` (None: the identity), noise C̃ = UᵀCU ``(m, m)``."""

    curvatures: NDArray[np.float64]
    basis: NDArray[np.float64] | None
    noise: NDArray[np.float64]

    def outward(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """U M Uᵀ: from this basis to the original coordinates."""
        return matrix if self.basis is None else self.basis @ matrix @ self.basis.T

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
    clusters = _clusters(curvatures, (rounding if degeneracy is None else degeneracy) * float(curvatures[-1]))
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
    else:
        noise = basis.T @ problem.noise_cov @ basis
    return Eigenbasis(curvatures, basis, 0.5 * (noise + noise.T))


def _clusters(ascending: NDArray[np.float64], gap: float) -> list[slice]:
    """Maximal runs of at least two values whose neighbours are at most `gap` apart."""
    edges = np.flatnonzero(np.diff(ascending) > gap) + 1
    starts, stops = np.concatenate([[0], edges]), np.concatenate([edges, [len(ascending)]])
    return [slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > 1]
