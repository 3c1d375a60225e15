r"""How much more H and C commute than a random rotation of C, whole and with the top deflated: matrix-free.

Model     χ = tr(HCHC)/tr(H²C²), 1 exactly where H and C commute. Under a Haar rotation of C numerator and denominator
          have exact means that only tr H, tr H², tr C, tr C² and the dimension enter, and
              excess = (χ − χ₀)/(1 − χ₀),   χ₀ the ratio of those means:
          0 for randomly rotated noise, 1 for commuting noise, whatever the spectra. *Deflated*: the same of QHQ and QCQ
          with Q off the computed eigenvectors of H, since one aligned outlier alone makes χ ≈ 1.
Estimator Exact over the computed eigenvectors U, Rademacher probes z off them: H, C, HC and CH of each column. The
          deflated pair costs nothing more, since QHQ z = Hz, QCHQ z = QCHz and HQCz = HCz − UΛUᵀCz.
Samples   C of N samples is C plus noise that commutes with nothing, and lowers χ of a commuting pair. With covariances
          from disjoint halves of the samples, C_a and C_b, tr(HC_aHC_b) and tr(H²C_aC_b) have no such bias.
Error     Delete-one jackknife over the probes, at fixed data; Student's t. None where no probe is needed.
Limits    Flat spectra commute with everything, χ₀ → 1: above `FLAT` there is nothing to tell.
Oracle    Tests: dense matrices; dense random rotations.
Source    `theory.closed_form.alignment.haar_expectations`; the measure is in `empirical.measure.alignment`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from empirical.measure.lanczos import Eigenpairs
from empirical.measure.operators import SymmetricOperator
from theory.assumptions import FLAT

__all__ = ["Excess", "commutation_excess"]


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
    hessian: SymmetricOperator,
    covariances: Sequence[SymmetricOperator],
    pairs: Eigenpairs,
    *,
    probes: int = 8,
    seed: int = 0,
) -> tuple[Excess, Excess | None]:
    """Of the whole pair and of the deflated one (None where at most one direction is left).

    Args:
        hessian: H without weight decay.
        covariances: C once, or twice from disjoint halves of the samples.
        pairs: eigenpairs of H.
        probes: Rademacher probes; not used where the eigenpairs are complete.
        seed: of the probes.

    Raises:
        ValueError: if the operators differ in size or there are fewer than 4 probes.
    """
    size = hessian.dimension
    sizes = [covariance.dimension for covariance in covariances]
    if len(sizes) not in (1, 2) or set(sizes) != {size}:
        raise ValueError(f"`commutation_excess(covariances=...)` must be one or two of size {size}; got {sizes}.")
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
    c_u = [covariance.matmat(basis) for covariance in covariances]
    inside = _sums(basis, basis * values, c_u, [hessian.matmat(c) for c in c_u], [c * values for c in c_u])
    whole: list[NDArray[np.float64]] = []
    rest: list[NDArray[np.float64]] = []
    if left:
        h_z, c_z = hessian.matmat(outside), [covariance.matmat(outside) for covariance in covariances]
        h_c_z, c_h_z = [hessian.matmat(c) for c in c_z], [covariance.matmat(h_z) for covariance in covariances]
        whole = list(_sums(outside, h_z, c_z, h_c_z, c_h_z).T)
        bulk = [hc - basis @ (values[:, None] * (basis.T @ c)) for hc, c in zip(h_c_z, c_z, strict=True)]
        deflated = ([_off(basis, item) for item in items] for items in (c_z, bulk, c_h_z))
        rest = list(_sums(outside, _off(basis, h_z), *deflated).T)
    # Probes estimate a trace each; an orthonormal basis adds up to it.
    found = _excess(inside.sum(axis=1), whole, size, random)
    return found, _excess(np.zeros(len(inside)), rest, left, random) if left >= 2 else None


def _off(basis: Tensor, vectors: Tensor) -> Tensor:
    return vectors - basis @ (basis.T @ vectors)


def _sums(z: Tensor, h: Tensor, c: list[Tensor], hc: list[Tensor], ch: list[Tensor]) -> NDArray[np.float64]:
    """zᵀCHCHz, zᵀH²C²z in both orders and halved, |Hz|², |Cz|², zᵀHz, zᵀCz by column, shape ``(6, columns)``."""

    def dot(left: Tensor, right: Tensor) -> NDArray[np.float64]:
        return (left.double() * right.double()).sum(dim=0).cpu().numpy()

    a, b = 0, len(c) - 1
    return np.stack(
        [
            0.5 * (dot(hc[a], ch[b]) + dot(hc[b], ch[a])),
            0.5 * (dot(hc[a], hc[b]) + dot(ch[a], ch[b])),
            dot(h, h),
            dot(c[a], c[b]),
            dot(z, h),
            0.5 * (dot(z, c[a]) + dot(z, c[b])),
        ]
    )


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
