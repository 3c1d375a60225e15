r"""Do curvature and gradient noise commute, and are they aligned? Matrix-free, each number with its null and error.

Model     χ = tr(HCHC)/tr(H²C²) = 1 − 2δ², δ = ‖HC − CH‖/(2‖HC‖): 1 exactly when H and C commute, near (r_H + r_C)/P for
          a randomly rotated C, r(A) = tr(A)²/‖A‖². (The textbook ‖HC − CH‖/(2‖H‖‖C‖) is reported as ``kappa`` and never
          judged on: among 11 million dimensions random matrices almost commute.)
Estimator tr(X) = Σ uᵢᵀXuᵢ over the computed eigenvectors U of H, exactly, plus Rademacher probes z projected off U.
          With a = H(Cz), b = C(Hz): E a·b = tr(HCHC), E ½(|a|² + |b|²) = tr(H²C²). 2 + 2 products a probe.
Errors    *probe*: delete-one jackknife over probes, at fixed data. *sampling*: `chi_interval`, on request. The two are
          kept apart.
Null      C rotated at random. `rotation_null` draws it exactly for spectra made of k outliers and a flat bulk, and
          returns the mean and an upper quantile (the mean formula exceeds 1 on flat spectra).
Limits    HC = 0 makes χ 0/0: ω = ‖HC‖/(‖H‖‖C‖) is the guard. One aligned outlier alone gives χ ≈ 1, so χ is given for
          the bulk (top k deflated) as well; weight decay pushes any pair toward 1, so H is the data Hessian.
Oracle    Tests: dense traces; dense random rotations.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from empirical.measure.chi_interval import chi_over_data
from empirical.measure.lanczos import Eigenpairs
from empirical.measure.landscape import Landscape
from empirical.measure.operators import (
    GradientCovarianceOperator,
    HessianOperator,
    SymmetricOperator,
    project_gradients,
)
from empirical.records.parts import Estimate
from empirical.records.spectrum import Alignment


def alignment(
    hessian: SymmetricOperator,
    covariance: SymmetricOperator,
    eigenpairs: Eigenpairs | None = None,
    *,
    covariance_pairs: Eigenpairs | None = None,
    num_probes: int = 16,
    landscape: Landscape | None = None,
    groups: int = 20,
    seed: int = 0,
    level: float = 0.95,
) -> Alignment:
    """Commutativity and alignment of two symmetric operators.

    Args:
        hessian: H, the data Hessian (without weight decay).
        covariance: C.
        eigenpairs: eigenpairs of H to treat exactly (deflation); None uses probes alone.
        covariance_pairs: eigenpairs of C, for the null and the subspace overlap.
        num_probes: Rademacher probes, ≥ 2 unless the deflation spans everything.
        landscape: where H and C come from; gives sampling errors and the interval of χ.
        groups: groups of samples behind that interval, ≥ 6 (costs twice as many evaluations of χ).
        seed: of the probes and of the groups.
        level: coverage of the interval of χ.

    Raises:
        ValueError: if the operators differ in size or there are too few probes.
    """
    size = hessian.dimension
    if covariance.dimension != size:
        raise ValueError(
            f"`alignment(covariance=...)` must have the Hessian's size {size}; got {covariance.dimension}."
        )
    exact = eigenpairs.vectors if eigenpairs is not None else torch.zeros(size, 0, dtype=hessian.dtype)
    exact = exact.to(hessian.device)
    num_exact = exact.shape[1]
    complete = num_exact == size
    if not complete and num_probes < 2:
        raise ValueError(f"`alignment(num_probes=...)` must be >= 2; got {num_probes}.")
    probes = _probes(hessian, exact, 0 if complete else num_probes, seed)
    columns = torch.cat([exact, probes], dim=1)
    h_z, c_z = hessian.matmat(columns), covariance.matmat(columns)
    a, b = hessian.matmat(c_z), covariance.matmat(h_z)
    dots = {
        "hchc": _dot(a, b),
        "hhcc": 0.5 * (_dot(a, a) + _dot(b, b)),
        "hh": _dot(h_z, h_z),
        "cc": _dot(c_z, c_z),
        "hc": _dot(h_z, c_z),
        "h": _dot(columns, h_z),
        "c": _dot(columns, c_z),
    }
    traces = _Traces(dots, num_exact)
    chi, chi_error = traces.statistic(lambda t: t["hchc"] / t["hhcc"])
    omega, omega_error = traces.statistic(lambda t: math.sqrt(t["hhcc"] / (t["hh"] * t["cc"])))
    cosine, cosine_error = traces.statistic(lambda t: t["hc"] / math.sqrt(t["hh"] * t["cc"]))
    total = traces.total()
    rank_h, rank_c = total["h"] ** 2 / total["hh"], total["c"] ** 2 / total["cc"]
    bulk = None
    if num_exact and not complete and eigenpairs is not None:
        bulk = _bulk_chi(exact, eigenpairs.values.to(exact), c_z[:, num_exact:], a[:, num_exact:], b[:, num_exact:])
    sampling = None
    if landscape is not None:
        sampling = chi_over_data(landscape, columns, num_exact, groups=groups, level=level, seed=seed)
    null_mean, null_quantile = rotation_null(
        _outliers(eigenpairs), _outliers(covariance_pairs), total["h"], total["c"], size, seed=seed
    )
    k_matrix = (exact.T @ c_z[:, :num_exact]).double().cpu().numpy()
    norms = torch.linalg.vector_norm(c_z[:, :num_exact].double(), dim=0).cpu().numpy()
    gammas = np.diag(k_matrix)
    direction_errors, influences = np.zeros(num_exact), None
    source = getattr(covariance, "landscape", None)
    if isinstance(source, Landscape) and num_exact:
        influences = _direction_influences(source, exact, c_z[:, :num_exact], gammas, norms)
        direction_errors = influences.std(axis=0, ddof=1) / math.sqrt(len(influences))
    overlap, overlap_size = _overlap(eigenpairs, covariance_pairs)
    slope, slope_error = _slope(eigenpairs, gammas)
    return Alignment(
        chi=Estimate(value=chi, probe_error=chi_error)
        if sampling is None
        else replace(sampling, probe_error=chi_error),
        chi_bulk=bulk,
        chi_null=null_mean,
        chi_null_quantile=null_quantile,
        omega=Estimate(value=omega, probe_error=omega_error),
        omega_null=1 / math.sqrt(size),
        cosine=Estimate(value=cosine, probe_error=cosine_error),
        cosine_null=math.copysign(math.sqrt(rank_h * rank_c) / size, total["h"] * total["c"]),
        kappa=math.sqrt(max(2 * (total["hhcc"] - total["hchc"]), 0.0)) / (2 * math.sqrt(total["hh"] * total["cc"])),
        trace_hessian=total["h"],
        trace_covariance=total["c"],
        norm_hessian=math.sqrt(total["hh"]),
        norm_covariance=math.sqrt(total["cc"]),
        direction_cosines=_ratio(gammas, norms),
        direction_errors=direction_errors,
        direction_influences=influences,
        direction_null=math.sqrt(min(rank_c / size, 1.0)),
        leak=float(1 - (k_matrix**2).sum() / max((norms**2).sum(), 1e-300)) if num_exact else 0.0,
        leak_null=max(0.0, 1 - (rank_c + num_exact + 1) / size),
        overlap=overlap,
        overlap_size=overlap_size,
        slope=slope,
        slope_error=slope_error,
        covariance=k_matrix,
        num_probes=0 if complete else num_probes,
    )


class _Traces:
    """Traces as an exact part over the eigenvectors plus a mean over probes, with a jackknife over the probes."""

    def __init__(self, dots: dict[str, NDArray[np.float64]], num_exact: int):
        self.exact = {name: float(values[:num_exact].sum()) for name, values in dots.items()}
        self.probes = {name: values[num_exact:] for name, values in dots.items()}
        self.count = len(next(iter(self.probes.values())))

    def total(self, without: int | None = None) -> dict[str, float]:
        out = {}
        for name, exact in self.exact.items():
            values = self.probes[name]
            if without is not None:
                values = np.delete(values, without)
            out[name] = exact + (float(values.mean()) if len(values) else 0.0)
        return out

    def statistic(self, function) -> tuple[float, float]:
        value = function(self.total())
        if self.count < 2:
            return value, 0.0
        leaves = np.array([function(self.total(j)) for j in range(self.count)])
        return value, math.sqrt((self.count - 1) / self.count * float(((leaves - leaves.mean()) ** 2).sum()))


def _probes(operator: SymmetricOperator, exact: Tensor, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (operator.dimension, count), generator=generator, dtype=torch.int8)
    probes = (2 * signs - 1).to(device=operator.device, dtype=operator.dtype)
    return probes - exact @ (exact.T @ probes)


def _dot(left: Tensor, right: Tensor) -> NDArray[np.float64]:
    return (left.double() * right.double()).sum(dim=0).cpu().numpy()


def _bulk_chi(exact: Tensor, values: Tensor, c_z: Tensor, a: Tensor, b: Tensor) -> Estimate | None:
    # For exact eigenvectors the products of the deflated pair QHQ, QCQ follow from those of the whole one:
    # H Q C z = H C z − U Λ Uᵀ C z, and H z stays off U, so that Q C Q H z = Q C H z.
    a = a - exact @ (values[:, None] * (exact.T @ c_z))
    a = a - exact @ (exact.T @ a)
    b = b - exact @ (exact.T @ b)
    traces = _Traces({"hchc": _dot(a, b), "hhcc": 0.5 * (_dot(a, a) + _dot(b, b))}, 0)
    if traces.total()["hhcc"] <= 0:
        return None
    value, error = traces.statistic(lambda t: t["hchc"] / t["hhcc"])
    return Estimate(value=value, probe_error=error)


def _direction_influences(
    landscape: Landscape, exact: Tensor, images: Tensor, gammas: NDArray[np.float64], norms: NDArray[np.float64]
) -> NDArray[np.float64]:
    method = "auto" if landscape.num_units > 256 else "per-sample-gradients"
    both = project_gradients(landscape, torch.cat([exact, images], dim=1), method=method).values.cpu().numpy()
    both = both - both.mean(axis=0)
    along, image = np.split(both, 2, axis=1)
    norms = np.maximum(norms, 1e-300)
    return (along**2 - gammas) / norms - gammas / norms**3 * (along * image - norms**2)


def _ratio(gammas: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    # Where C does not act at all γ/‖Cu‖ would be rounding over rounding; 0 says that nothing is aligned there.
    acts = norms > 1e-12 * norms.max(initial=0.0)
    return np.where(acts, gammas / np.where(acts, norms, 1.0), 0.0)


def _outliers(pairs: Eigenpairs | None) -> NDArray[np.float64]:
    return np.zeros(0) if pairs is None else pairs.values.double().cpu().numpy()


def _overlap(hessian: Eigenpairs | None, covariance: Eigenpairs | None) -> tuple[float | None, int]:
    if hessian is None or covariance is None:
        return None, 0
    available = min(hessian.num_largest, covariance.num_largest)
    if available < 2:
        return None, available
    size = gap_size(hessian.values[:available].double().cpu().numpy())
    cosines = hessian.vectors[:, :size].T.double() @ covariance.vectors[:, :size].double()
    return float((cosines**2).sum() / size), size


def gap_size(values: NDArray[np.float64]) -> int:
    """Number of leading eigenvalues before the largest relative gap: eigenspaces are comparable only there."""
    values = np.abs(np.asarray(values, dtype=np.float64))
    if len(values) < 2:
        return len(values)
    return int(np.argmax(values[:-1] / np.maximum(values[1:], 1e-300))) + 1


def _slope(pairs: Eigenpairs | None, gammas: NDArray[np.float64]) -> tuple[float | None, float | None]:
    if pairs is None:
        return None, None
    values = pairs.values.double().cpu().numpy()
    keep = (values > 0) & (gammas > 0)
    if keep.sum() < 3:
        return None, None
    fit = stats.linregress(np.log(values[keep]), np.log(gammas[keep]))
    return float(fit.slope), float(fit.stderr)  # pyright: ignore[reportAttributeAccessIssue]


def rotation_null(
    hessian_outliers: NDArray[np.float64],
    covariance_outliers: NDArray[np.float64],
    trace_hessian: float,
    trace_covariance: float,
    dimension: int,
    *,
    draws: int = 400,
    quantile: float = 0.975,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and upper quantile of χ when C is rotated by a Haar-random orthogonal matrix.

    Each spectrum is its outliers and a flat bulk that carries the rest of the trace. Only the overlap of the two
    outlier spaces is random then, and the k × k corner of a Haar matrix is drawn exactly (Gaussian block and a
    Wishart remainder), so that a draw costs O(k³) whatever the dimension.
    """
    j, k = len(hessian_outliers), len(covariance_outliers)
    if j + k >= dimension:
        j, k = min(j, dimension // 2 - 1), min(k, dimension // 2 - 1)
        hessian_outliers, covariance_outliers = hessian_outliers[:j], covariance_outliers[:k]
    flat_h = (trace_hessian - float(hessian_outliers.sum())) / (dimension - j)
    flat_c = (trace_covariance - float(covariance_outliers.sum())) / (dimension - k)
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        corner = _haar_frame(rng, j, k, dimension)
        h = np.diag(np.concatenate([hessian_outliers, np.full(k, flat_h)]))
        c = flat_c * np.eye(j + k) + corner @ np.diag(covariance_outliers - flat_c) @ corner.T
        rest = dimension - j - k
        product = h @ c
        hchc = float((product * product.T).sum()) + rest * (flat_h * flat_c) ** 2
        hhcc = float((product**2).sum()) + rest * (flat_h * flat_c) ** 2
        values[draw] = hchc / hhcc if hhcc > 0 else 0.0
    return float(values.mean()), float(np.quantile(values, quantile))


def _haar_frame(rng: np.random.Generator, j: int, k: int, dimension: int) -> NDArray[np.float64]:
    """K random orthonormal vectors of a ``dimension``-space, in coordinates (first j axes, then their own k)."""
    if k == 0:
        return np.zeros((j, 0))
    top = rng.standard_normal((j, k))
    # Bartlett: the Gram matrix of the other dimension − j Gaussian rows.
    lower = np.tril(rng.standard_normal((k, k)), -1)
    lower[np.diag_indices(k)] = np.sqrt(rng.chisquare(dimension - j - np.arange(k)))
    gram = top.T @ top + lower @ lower.T
    inverse_root = np.linalg.inv(np.linalg.cholesky(gram)).T
    return np.concatenate([top, lower.T]) @ inverse_root


def layer_alignment(
    landscape: Landscape, eigen_count: int, *, num_probes: int = 8, seed: int = 0
) -> dict[str, Alignment]:
    """`alignment` of every layer's diagonal block, by layer; one smaller than ``eigen_count + 2`` is skipped."""
    from empirical.measure.lanczos import top_eigenpairs

    found = {}
    for layer, names in landscape.layers().items():
        block = landscape.restrict(names)
        if block.dimension < eigen_count + 2:
            continue
        hessian, covariance = HessianOperator(block), GradientCovarianceOperator(block)
        pairs = top_eigenpairs(hessian, eigen_count, tolerance=1e-3, seed=seed)
        noise_pairs = top_eigenpairs(covariance, eigen_count, tolerance=1e-3, seed=seed)
        whole = alignment(hessian, covariance, pairs, covariance_pairs=noise_pairs, num_probes=num_probes, seed=seed)
        found[layer] = replace(whole, direction_influences=None)
    return found
