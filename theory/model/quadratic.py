r"""The problem: a quadratic loss seen through noisy gradients.

Model     L(w) = ½ (w − w*)ᵀ H (w − w*),  gradient seen by the optimizer g = H (w − w*) + ξ, E ξ = 0, Cov ξ = C.
Meaning   C is the covariance of the *mini-batch* gradient: per-sample covariance over the batch size.
Optimum   w* counts in the coordinates of the weights, whose origin is the point that weight decay pulls towards.
Hessian   Any symmetric matrix: real Hessians have zero, tiny negative and negative eigenvalues. Which directions have a
          stationary law is for the closed forms to say (`theory.stability`), at the optimizer's rate and weight decay.
Storage   A matrix may be given as its diagonal, shape (m,). It then stays a vector: spectral input loses no digit
          to an eigendecomposition, and simulation takes the diagonal path when both are diagonal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.model.setting import Setting, later_field, setting

#: Asymmetry ‖M − Mᵀ‖_F / ‖M‖_F above which a matrix is refused; below it, it is symmetrised.
SYMMETRY_TOLERANCE = 1e-8
#: Most negative eigenvalue, relative to the largest, still read as a rounded zero in a covariance.
SEMIDEFINITE_TOLERANCE = 1e-10


@setting
class Quadratic(Setting):
    """Hessian H and mini-batch gradient-noise covariance C of a quadratic loss.

    Args:
        hessian: H, shape ``(m, m)`` symmetric, or its diagonal, shape ``(m,)``; any eigenvalues.
        noise_cov: C, shape ``(m, m)`` symmetric positive semi-definite, or its diagonal, shape ``(m,)``.
        optimum: w*, shape ``(m,)``; None is the origin. With weight decay, SGD settles around another point
            (`theory.stationary_mean`).

    Raises:
        ValueError: if a matrix is empty, complex, non-finite, not square, not symmetric, of another dimension than the
            other, C has a negative eigenvalue, or the optimum is not m finite numbers.
        TypeError: if a matrix does not hold real numbers.
    """

    hessian: NDArray[np.float64]
    noise_cov: NDArray[np.float64]
    optimum: NDArray[np.float64] = later_field()

    def __post_init__(self) -> None:
        hessian = _checked(self.hessian, "hessian")
        noise_cov = _checked(self.noise_cov, "noise_cov")
        if len(hessian) != len(noise_cov):
            raise ValueError(
                "`Quadratic(noise_cov=...)` must have the dimension of `hessian`; "
                f"got {len(noise_cov)} against {len(hessian)}."
            )
        smallest, scale = _smallest_eigenvalue(noise_cov), float(np.abs(noise_cov).max())
        floor = 0.0 if noise_cov.ndim == 1 else -SEMIDEFINITE_TOLERANCE * scale
        if smallest < floor:
            raise ValueError(
                f"`Quadratic(noise_cov=...)` must be positive semi-definite; got smallest eigenvalue {smallest:.6g}."
            )
        object.__setattr__(self, "hessian", hessian)
        object.__setattr__(self, "noise_cov", noise_cov)
        object.__setattr__(self, "optimum", _checked_optimum(self.optimum, len(hessian)))

    @classmethod
    def from_spectra(
        cls,
        curvatures: ArrayLike,
        noise_variances: ArrayLike,
        rotation: ArrayLike | float | None = None,
        optimum: ArrayLike | None = None,
    ) -> Quadratic:
        """H = diag(λ) and C = R diag(γ) Rᵀ: given spectra, and a chosen angle between the eigenbases.

        Args:
            curvatures: λ, shape ``(m,)``, the eigenvalues of H.
            noise_variances: γ ≥ 0, shape ``(m,)``, the eigenvalues of C.
            rotation: None for commuting matrices; an orthogonal ``(m, m)`` matrix R whose columns are the eigenvectors
                of C; or an angle in radians, by which every pair of neighbouring directions (1, 2), (2, 3), … is
                turned in sequence.
            optimum: w*, shape ``(m,)``; None is the origin.

        Raises:
            ValueError: if R is not orthogonal to 1e-10, or the spectra are not valid.
        """
        noise = np.asarray(noise_variances, dtype=np.float64)
        if rotation is None:
            return cls(np.asarray(curvatures, dtype=np.float64), noise, optimum)  # pyright: ignore[reportArgumentType]
        if np.ndim(rotation) == 0:
            matrix = _chained_rotation(len(noise), float(np.asarray(rotation)))
        else:
            matrix = np.asarray(rotation, dtype=np.float64)
            if matrix.shape != (len(noise), len(noise)):
                raise ValueError(
                    f"`from_spectra(rotation=...)` must have shape {(len(noise), len(noise))}; got {matrix.shape}."
                )
            error = float(np.abs(matrix @ matrix.T - np.eye(len(noise))).max())
            if not error <= 1e-10:
                raise ValueError(f"`from_spectra(rotation=...)` must be orthogonal; got ‖RRᵀ − I‖ = {error:.3g}.")
        rotated = (matrix * noise) @ matrix.T
        rotated = 0.5 * (rotated + rotated.T)
        return cls(np.asarray(curvatures, dtype=np.float64), rotated, optimum)  # pyright: ignore[reportArgumentType]

    @property
    def dimension(self) -> int:
        """Number of weights m."""
        return len(self.hessian)

    @property
    def is_diagonal(self) -> bool:
        """Whether both matrices were given as diagonals, so that every mode is on its own."""
        return self.hessian.ndim == 1 and self.noise_cov.ndim == 1

    def dense_hessian(self) -> NDArray[np.float64]:
        """H as a matrix, shape ``(m, m)``."""
        return np.diag(self.hessian) if self.hessian.ndim == 1 else self.hessian.copy()

    def dense_noise_cov(self) -> NDArray[np.float64]:
        """C as a matrix, shape ``(m, m)``."""
        return np.diag(self.noise_cov) if self.noise_cov.ndim == 1 else self.noise_cov.copy()


def _checked(matrix: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(matrix)
    where = f"`Quadratic({name}=...)`"
    if array.dtype.kind == "c":
        raise ValueError(f"{where} must be real; got dtype {array.dtype}.")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{where} must hold real numbers; got dtype {array.dtype}.")
    if array.size == 0:
        raise ValueError(f"{where} must not be empty; got shape {array.shape}.")
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] != array.shape[1]):
        raise ValueError(f"{where} must have shape (m, m) or (m,); got {array.shape}.")
    array = np.array(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{where} must be finite; got {int((~np.isfinite(array)).sum())} NaN or infinite entries.")
    if array.ndim == 2:
        scale = float(np.linalg.norm(array))
        asymmetry = float(np.linalg.norm(array - array.T)) / scale if scale > 0 else 0.0
        if asymmetry > SYMMETRY_TOLERANCE:
            raise ValueError(
                f"{where} must be symmetric, ‖M − Mᵀ‖ ≤ {SYMMETRY_TOLERANCE:g} ‖M‖; got a ratio of {asymmetry:.3g}."
            )
        array = 0.5 * (array + array.T)
    array.flags.writeable = False
    return array


def _checked_optimum(optimum: ArrayLike | None, dimension: int) -> NDArray[np.float64]:
    place = np.zeros(dimension) if optimum is None else np.array(optimum, dtype=np.float64)
    if place.shape != (dimension,) or not np.isfinite(place).all():
        raise ValueError(
            f"`Quadratic(optimum=...)` must be {dimension} finite numbers, shape {(dimension,)}; "
            f"got shape {place.shape}."
        )
    place.flags.writeable = False
    return place


def _smallest_eigenvalue(matrix: NDArray[np.float64]) -> float:
    return float(matrix.min() if matrix.ndim == 1 else np.linalg.eigvalsh(matrix)[0])


def _chained_rotation(dimension: int, angle: float) -> NDArray[np.float64]:
    if not np.isfinite(angle):
        raise ValueError(f"`from_spectra(rotation=...)` must be a finite angle; got {angle}.")
    rotation = np.eye(dimension)
    cosine, sine = np.cos(angle), np.sin(angle)
    for first in range(dimension - 1):
        columns = rotation[:, first : first + 2].copy()
        rotation[:, first] = cosine * columns[:, 0] + sine * columns[:, 1]
        rotation[:, first + 1] = cosine * columns[:, 1] - sine * columns[:, 0]
    return rotation
