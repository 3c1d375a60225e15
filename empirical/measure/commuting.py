r"""How much more H and C commute than a random rotation of C, whole and with the top deflated: matrix-free.

Model     χ = tr(HCHC)/tr(H²C²), 1 exactly where H and C commute. Under a Haar rotation of C numerator and denominator
          have exact means that only tr H, tr H², tr C, tr C² and the dimension enter, and
              excess = (χ − χ₀)/(1 − χ₀),   χ₀ the ratio of those means:
          0 for randomly rotated noise, 1 for commuting noise, whatever the spectra. *Deflated*: the same of QHQ and QCQ
          with Q off the computed eigenvectors of H, since one aligned outlier alone makes χ ≈ 1.
Estimator Exact over the computed eigenvectors U, Rademacher probes z off them: H, C, HC and CH of each column. The
          deflated pair costs nothing more, since QHQ z = Hz, QCHQ z = QCHz and HQCz = HCz − UΛUᵀCz.
Error     Delete-one jackknife over the probes, at fixed data; Student's t. None where no probe is needed.
Limits    Flat spectra commute with everything, χ₀ → 1: above `FLAT` there is nothing to tell.
Oracle    Tests: dense matrices; dense random rotations.
Source    `theory.closed_form.alignment.haar_expectations`; the measure is in `empirical.measure.alignment`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from empirical.measure.lanczos import Eigenpairs
from empirical.measure.operators import SymmetricOperator

__all__ = ["FLAT", "Excess", "commutation_excess"]

#: χ₀ above which random noise commutes too well to be told from commuting noise.
FLAT = 0.9


@dataclass(frozen=True, kw_only=True)
class Excess:
    """One pair against the rotated null.

    Attributes:
        value: (χ − χ₀)/(1 − χ₀); None where χ₀ exceeds `FLAT` or HC vanishes.
        interval: of the value at 95 %, over probes; None likewise.
        chi: χ.
        null: χ₀.
    """

    value: float | None
    interval: tuple[float, float] | None
    chi: float
    null: float


def commutation_excess(
    hessian: SymmetricOperator, covariance: SymmetricOperator, pairs: Eigenpairs, *, probes: int = 8, seed: int = 0
) -> tuple[Excess, Excess | None]:
    """Of the whole pair and of the deflated one (None where at most one direction is left).

    Args:
        hessian: H without weight decay.
        covariance: C.
        pairs: eigenpairs of H.
        probes: Rademacher probes; not used where the eigenpairs are complete.
        seed: of the probes.

    Raises:
        ValueError: if the operators differ in size or there are fewer than 4 probes.
    """
    size = hessian.dimension
    if covariance.dimension != size:
        raise ValueError(f"`commutation_excess(covariance=...)` must have size {size}; got {covariance.dimension}.")
    if probes < 4:
        raise ValueError(f"`commutation_excess(probes=...)` must be >= 4; got {probes}.")
    basis, values = pairs.vectors, pairs.values.to(pairs.vectors)
    exact = basis.shape[1]
    left = size - exact
    generator = torch.Generator().manual_seed(seed)
    if left <= probes:  # an orthonormal basis of what is left is as cheap, and exact
        outside = torch.randn(size, left, generator=generator, dtype=torch.float64).to(basis)
        outside = torch.linalg.qr(_off(basis, _off(basis, outside)))[0]
        random = False
    else:
        signs = torch.randint(0, 2, (size, probes), generator=generator, dtype=torch.int8)
        outside, random = _off(basis, (2 * signs - 1).to(basis)), True
    c_u = covariance.matmat(basis)
    h_c_u, c_h_u = hessian.matmat(c_u), c_u * values
    inside = _sums(basis, basis * values, c_u, h_c_u, c_h_u)
    whole: list[NDArray[np.float64]] = []
    rest: list[NDArray[np.float64]] = []
    if left:
        h_z, c_z = hessian.matmat(outside), covariance.matmat(outside)
        h_c_z, c_h_z = hessian.matmat(c_z), covariance.matmat(h_z)
        whole = list(_sums(outside, h_z, c_z, h_c_z, c_h_z).T)
        bulk = h_c_z - basis @ (values[:, None] * (basis.T @ c_z))
        rest = list(_sums(outside, _off(basis, h_z), _off(basis, c_z), _off(basis, bulk), _off(basis, c_h_z)).T)
    # Probes estimate a trace each; an orthonormal basis adds up to it.
    found = _excess(inside.sum(axis=1), whole, size, random)
    deflated = _excess(np.zeros(len(inside)), rest, left, random) if left >= 2 else None
    return found, deflated


def _off(basis: Tensor, vectors: Tensor) -> Tensor:
    return vectors - basis @ (basis.T @ vectors)


def _sums(z: Tensor, h: Tensor, c: Tensor, hc: Tensor, ch: Tensor) -> NDArray[np.float64]:
    """zᵀHCHCz, |HCz|² and |CHz|² halved, |Hz|², |Cz|², zᵀHz, zᵀCz by column, shape ``(6, columns)``."""

    def dot(left: Tensor, right: Tensor) -> NDArray[np.float64]:
        return (left.double() * right.double()).sum(dim=0).cpu().numpy()

    return np.stack([dot(hc, ch), 0.5 * (dot(hc, hc) + dot(ch, ch)), dot(h, h), dot(c, c), dot(z, h), dot(z, c)])


def _excess(inside: NDArray[np.float64], columns: list[NDArray[np.float64]], size: int, random: bool) -> Excess:
    def of(used: list[NDArray[np.float64]]) -> tuple[float, float]:
        total = inside + (np.zeros(6) if not used else np.mean(used, axis=0) if random else np.sum(used, axis=0))
        hchc, hhcc, hh, cc, h, c = total
        if hhcc <= 0 or hh <= 0 or cc <= 0:
            return math.nan, math.nan
        common = size * (size - 1) * (size + 2)
        a, b = ((size + 1) * c**2 - 2 * cc) / common, (size * cc - c**2) / common
        return hchc / hhcc, ((a + b) * hh + b * h**2) / (hh * cc / size)

    def value(pair: tuple[float, float]) -> float:
        return (pair[0] - pair[1]) / (1 - pair[1])

    chi, null = of(columns)
    if not (math.isfinite(chi) and null < FLAT):
        return Excess(value=None, interval=None, chi=chi if math.isfinite(chi) else 0.0, null=min(null, 1.0))
    middle = value((chi, null))
    if not random or len(columns) < 2:
        return Excess(value=middle, interval=(middle, middle), chi=chi, null=null)
    count = len(columns)
    leaves = np.array([value(of(columns[:i] + columns[i + 1 :])) for i in range(count)])
    error = math.sqrt((count - 1) / count * float(((leaves - leaves.mean()) ** 2).sum()))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Excess(value=middle, interval=(middle - reach, middle + reach), chi=chi, null=null)
