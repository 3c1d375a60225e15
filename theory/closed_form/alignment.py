r"""Do H and C commute, how would one know, and what does it cost if they don't.

Model     H with eigenvalues λ and C with eigenvalues c, both m × m; C̃ = UᵀCU in H's eigenbasis, γ_i = C̃_ii.
Price     The posterior covariance Σ of any H and C has the diagonal of (S1) in H's eigenbasis; non-commutativity adds
          off-diagonals and nothing else. Against an isotropic prior, with R the correlation matrix of Σ there,
              KL(exact) − KL(diagonal) = −½ ln det R = ½ Σ_k φ(e_k) ≥ 0,  φ(t) = t − ln(1+t),  e = eig(R − I).   (S3)
          The second form holds because tr(R − I) = 0, and keeps its digits when H and C nearly commute.
Measures  With S_ij = C̃_ij², every trace is a sum over S: tr HCHC = Σ λ_i λ_j S_ij, ‖HC‖² = Σ λ_i² S_ij,
          ‖[H,C]‖² = Σ (λ_i − λ_j)² S_ij.
              chi                    1 − ‖[H,C]‖²/(2‖HC‖²) = tr(HCHC)/tr(H²C²); 1 exactly when they commute
              chi_deflated           chi without H's top k directions: one aligned outlier alone makes chi ≈ 1
              omega                  ‖HC‖/(‖H‖‖C‖), the guard: chi is 0/0 where HC = 0
              normalized_commutator  ‖[H,C]‖/(2‖H‖‖C‖), report only: random pairs score ~ m^(−1/2)
              commutator_ratio       ‖[H,C]‖/(2‖HC‖) = √((1 − chi)/2)
              frobenius_cosine       tr(HC)/(‖H‖‖C‖): proportionality, not commutation
              mean_direction_cosine  mean of c_i = γ_i/‖C u_i‖; 1 iff every u_i is an eigenvector of C
              subspace_overlap       ‖U_kᵀV_k‖²/k at the largest gap of H's spectrum: the top eigenspaces agree
              off_diagonal_mass      1 − Σ γ_i²/‖C‖²; 0 when they commute
              log_log_slope          of ln γ on ln λ, the coupling of noise to curvature
Null      Each measure's law when C's eigenvectors are a random (Haar) rotation: simulated, because the ratio of the
          exact moments (`haar_expectations`) can exceed 1 on flat spectra. Sampling error: delete-a-group jackknife.
Caution   chi rises toward 1 for any pair when a multiple of the identity (weight decay) is added to H. Pass the data
          Hessian. And chi weighs directions by λ²γ²: what a gate should read is the price in nats, and c_i.
Source    Own derivation; Haar moments by Weingarten calculus (Collins and Śniady 2006); Efron 1982 for the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.divergence import log_excess
from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.stationary import stationary_covariance, stationary_variance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

#: Curvatures within this share of each other count as one eigenspace. Inside it, directions that an observer could not
#: tell apart are chosen to diagonalise C; (S1) is then off by at most about this share.
NEARLY_DEGENERATE = 1e-3

#: Value of each measure when H and C commute (None: commuting fixes no value).
COMMUTING: Mapping[str, float | None] = {
    "chi": 1.0,
    "chi_deflated": 1.0,
    "omega": None,
    "normalized_commutator": 0.0,
    "commutator_ratio": 0.0,
    "frobenius_cosine": None,
    "mean_direction_cosine": 1.0,
    "subspace_overlap": None,  # commuting pairs may order their directions differently
    "off_diagonal_mass": 0.0,
    "log_log_slope": None,
}


# ---------------------------------------------------------------------------------------------------- the price


@dataclass(frozen=True, kw_only=True)
class CommutativityPrice:
    """What ignoring that H and C don't commute costs the KL term, equation (S3).

    Args:
        nats: −½ ln det R ≥ 0, in a basis that diagonalises C inside every cluster of curvatures within the degeneracy
            tolerance of each other.
        strict_nats: the same in H's eigenbasis itself, where exact ties alone are joined: (S3) to the letter. Far above
            `nats` where curvatures are close: directions that nobody could tell apart, billed as if one could.
        correlation: R, shape ``(m, m)``, of the stationary weights in the basis used.
        curvatures: uᵢᵀHuᵢ, shape ``(m,)``.
        basis: U, shape ``(m, m)``, in the problem's coordinates.
        variance_error: largest relative error of (S1) on the diagonal in that basis: rounding, or up to the
            degeneracy tolerance where nearly equal curvatures were treated as one eigenspace.
    """

    nats: float
    strict_nats: float
    correlation: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    basis: NDArray[np.float64]
    variance_error: float

    @property
    def nats_per_direction(self) -> float:
        """nats/m."""
        return self.nats / len(self.curvatures)


def commutativity_price(
    problem: Quadratic, optimizer: MomentumSGD, *, degeneracy: float = NEARLY_DEGENERATE
) -> CommutativityPrice:
    """KL(exact) − KL(diagonal) of the stationary posterior against any isotropic prior, in nats.

    Two answers: (S3) in H's own eigenbasis (`strict_nats`), and after the choice of basis inside nearly degenerate
    eigenspaces that a measurement could not contradict (`nats`).

    Args:
        problem: H and C.
        optimizer: η, μ and the convention; its weight decay counts as curvature.
        degeneracy: relative spread within which curvatures count as one eigenspace in `nats`; 0 for exact ties alone.

    Raises:
        UnstableError: if there is no stationary law.
        ValueError: if the stationary covariance is not positive definite (a direction without noise).
    """
    if problem.is_diagonal:
        _positive_definite(stationary_variance(problem, optimizer), "commutativity_price(problem=...)")
        identity = np.eye(problem.dimension)
        return CommutativityPrice(
            nats=0.0,
            strict_nats=0.0,
            correlation=identity,
            curvatures=problem.hessian,
            basis=identity,
            variance_error=0.0,
        )
    frame = eigenbasis(problem)
    inside = Quadratic(frame.curvatures, frame.noise)
    covariance = stationary_covariance(inside, optimizer).require()
    turned = _resolve(frame, degeneracy)
    strictly = _resolve(frame, 0.0).basis
    strict = covariance if strictly is None else strictly.T @ covariance @ strictly
    turn = np.eye(problem.dimension) if turned.basis is None else turned.basis
    covariance = turn.T @ covariance @ turn
    variances = np.diag(covariance)
    _positive_definite(variances, "commutativity_price(problem=...)")
    # The problem whose H is diagonal in this basis: (S1) with γ = uᵀCu and λ = uᵀHu.
    nearest = Quadratic(turned.curvatures, np.diag(turned.noise).copy())
    predicted = stationary_variance(nearest, optimizer)
    correlation = _correlation(covariance)
    return CommutativityPrice(
        nats=total_correlation(covariance),
        strict_nats=total_correlation(strict),
        correlation=correlation,
        curvatures=turned.curvatures,
        basis=turn if frame.basis is None else frame.basis @ turn,
        variance_error=float(np.abs(predicted / variances - 1.0).max()),
    )


def total_correlation(covariance: ArrayLike) -> float:
    """Total correlation of a Gaussian (Watanabe 1960): −½ ln det R, R the correlations of `covariance` ``(m, m)``.

    In nats, without cancellation near R = I.

    Raises:
        ValueError: if the covariance is not positive definite.
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    _positive_definite(np.diag(covariance), "total_correlation(covariance=...)")
    excess = np.linalg.eigvalsh(_correlation(covariance) - np.eye(len(covariance)))
    if excess[0] <= -1.0 + len(covariance) * np.finfo(np.float64).eps:
        raise ValueError(
            "`total_correlation(covariance=...)` must be positive definite; "
            f"got a smallest eigenvalue of the correlation matrix of {1 + excess[0]:.3g}."
        )
    return 0.5 * float(np.sum(log_excess(excess)))


def resolved_basis(problem: Quadratic, degeneracy: float = NEARLY_DEGENERATE) -> Eigenbasis:
    """H's eigenbasis, with C diagonal inside clusters of curvatures within a relative spread of `degeneracy`.

    Unlike `eigenbasis`, whose tolerance is rounding, this also joins curvatures that nobody could tell apart; its
    `curvatures` are uᵢᵀHuᵢ. A cluster is never wider than the tolerance, however dense the spectrum.
    """
    frame = eigenbasis(problem)
    turned = _resolve(frame, degeneracy)
    if turned.basis is None:
        return frame
    basis = turned.basis if frame.basis is None else frame.basis @ turned.basis
    return Eigenbasis(turned.curvatures, basis, turned.noise)


def _resolve(frame: Eigenbasis, degeneracy: float) -> Eigenbasis:
    """`frame` turned inside its clusters, expressed in `frame`: basis None if nothing was turned."""
    order = np.argsort(frame.curvatures, kind="stable")
    ascending = frame.curvatures[order]
    clusters = _narrow_clusters(ascending, degeneracy)
    if not clusters:
        return Eigenbasis(frame.curvatures, None, frame.noise)
    size = len(order)
    turn = np.eye(size)
    for start, stop in clusters:
        members = order[start:stop]
        block = np.ix_(members, members)
        _, inner = np.linalg.eigh(frame.noise[block])
        turn[block] = inner
    noise = turn.T @ frame.noise @ turn
    curvatures = np.einsum("ki,k,ki->i", turn, frame.curvatures, turn)
    return Eigenbasis(curvatures, turn, 0.5 * (noise + noise.T))


def _narrow_clusters(ascending: NDArray[np.float64], degeneracy: float) -> list[tuple[int, int]]:
    """Runs of at least two values within a factor 1 + degeneracy of the run's first."""
    clusters, start = [], 0
    for stop in range(1, len(ascending) + 1):
        if stop == len(ascending) or ascending[stop] > ascending[start] * (1.0 + degeneracy):
            if stop - start > 1:
                clusters.append((start, stop))
            start = stop
    return clusters


def _correlation(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / scale[:, None] / scale
    correlation = 0.5 * (correlation + correlation.T)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _positive_definite(variances: NDArray[np.float64], where: str) -> None:
    if not (variances > 0).all():
        worst = int(np.argmin(variances))
        raise ValueError(
            f"`{where}` must give a positive definite covariance; "
            f"direction {worst} has variance {variances[worst]:.6g}."
        )


# ---------------------------------------------------------------------------------------------------- the measures


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One commutativity measure beside its law under random rotation.

    Args:
        value: of this pair.
        commuting_value: of commuting pairs; None if commuting fixes none.
        null_mean: mean under random rotation.
        null_low: lower quantile under random rotation.
        null_high: upper quantile.
        null_p_value: (1 + number of rotations at least as near the commuting value) / (1 + rotations); None where
            there is no commuting value.
        standard_error: of the value, where H or C were estimated from samples; None where they are exact.
    """

    value: float
    commuting_value: float | None
    null_mean: float
    null_low: float
    null_high: float
    null_p_value: float | None
    standard_error: float | None = None

    @property
    def beyond_null(self) -> bool:
        """Whether the value lies outside the null's quantiles."""
        return not self.null_low <= self.value <= self.null_high


@dataclass(frozen=True, kw_only=True)
class Commutativity:
    """All measures of one pair.

    Args:
        measures: by name, see the module's table.
        undefined: name to reason, for those that this pair does not determine.
        curvatures: λ descending, shape ``(m,)``.
        noise_variances: γ_i = uᵢᵀCuᵢ, shape ``(m,)``.
        direction_cosines: c_i, shape ``(m,)``.
        direction_null_high: upper quantile of each c_i under random rotation, shape ``(m,)``.
        direction_standard_errors: of c_i, shape ``(m,)``; None where C is exact.
        noise_standard_errors: of γ_i, shape ``(m,)``; None where C is exact.
        top: k of the subspace overlap: where H's spectrum has its largest gap.
        deflated: number of top directions left out of `chi_deflated`.
        num_null: random rotations behind each null.
        level: coverage of the null's quantiles.
    """

    measures: Mapping[str, Measure]
    undefined: Mapping[str, str]
    curvatures: NDArray[np.float64]
    noise_variances: NDArray[np.float64]
    direction_cosines: NDArray[np.float64]
    direction_null_high: NDArray[np.float64]
    direction_standard_errors: NDArray[np.float64] | None
    noise_standard_errors: NDArray[np.float64] | None
    top: int
    deflated: int
    num_null: int
    level: float

    def __getitem__(self, name: str) -> Measure:
        if name in self.undefined:
            raise KeyError(f"{name!r} is undefined here: {self.undefined[name]}")
        return self.measures[name]


def commutativity(
    problem: Quadratic,
    *,
    deflated: int | None = None,
    num_null: int = 200,
    level: float = 0.99,
    degeneracy: float = NEARLY_DEGENERATE,
    rng: np.random.Generator | None = None,
) -> Commutativity:
    """Every commutativity measure of H and C, each with its simulated null.

    Args:
        problem: the data Hessian, without weight decay, and C.
        deflated: how many of H's top directions `chi_deflated` leaves out; None for those above its largest gap.
        num_null: random rotations, ≥ 20.
        level: coverage of the null's two-sided quantiles, in (0, 1).
        degeneracy: as in `commutativity_price`.
        rng: of the rotations; None for a fixed stream, so that a second call answers the same.

    Raises:
        ValueError: if m < 2, or an argument is out of range.
    """
    frame = resolved_basis(problem, degeneracy)
    return _study(frame, deflated, num_null, level, degeneracy, rng)


def commutativity_measures(
    problem: Quadratic, *, deflated: int | None = None, degeneracy: float = NEARLY_DEGENERATE
) -> dict[str, float]:
    """The scalar measures alone, without nulls: what a study over many pairs of one spectrum needs.

    Args:
        problem: as in `commutativity`.
        deflated: as in `commutativity`.
        degeneracy: as in `commutativity`.
    """
    frame = _descending(resolved_basis(problem, degeneracy))
    top = _top_at_gap(frame.curvatures, degeneracy)
    return _measure(frame.curvatures, frame.noise, top, top if deflated is None else deflated, degeneracy)[0]


def commutativity_from_gradients(
    hessian: ArrayLike,
    gradients: ArrayLike,
    *,
    num_groups: int = 20,
    deflated: int | None = None,
    num_null: int = 200,
    level: float = 0.99,
    degeneracy: float = NEARLY_DEGENERATE,
    rng: np.random.Generator | None = None,
) -> Commutativity:
    """As `commutativity`, with C the covariance of per-sample gradients and the standard error that this costs.

    The standard errors are delete-a-group jackknife: the N samples, in their order, form G groups; each measure is
    taken again without each group, and SE² = (G−1)/G Σ (θ_(g) − mean θ)². Measures don't depend on the scale of C, so
    that the batch size does not enter; γ are per sample.

    Args:
        hessian: H, shape ``(m, m)`` or ``(m,)`` if exact; ``(G, m, m)``, the mean Hessian of each group, if it was
            estimated on the same samples.
        gradients: one row a sample, shape ``(N, m)``; they are centred here.
        num_groups: G ≥ 5.
        deflated: as in `commutativity`.
        num_null: as in `commutativity`.
        level: as in `commutativity`.
        degeneracy: as in `commutativity`.
        rng: as in `commutativity`.

    Raises:
        ValueError: if shapes disagree, or there are fewer than two samples a group.
    """
    where = "commutativity_from_gradients"
    samples = np.asarray(gradients, dtype=np.float64)
    if samples.ndim != 2 or not np.isfinite(samples).all():
        raise ValueError(f"`{where}(gradients=...)` must be finite, of shape (N, m); got shape {samples.shape}.")
    if num_groups < 5 or len(samples) < 2 * num_groups:
        raise ValueError(
            f"`{where}(num_groups=...)` must be >= 5 with two samples a group; got {num_groups} for {len(samples)}."
        )
    curvature = np.asarray(hessian, dtype=np.float64)
    grouped = curvature.ndim == 3
    if grouped and len(curvature) != num_groups:
        raise ValueError(f"`{where}(hessian=...)` must have one Hessian a group, {num_groups}; got {len(curvature)}.")
    samples = samples - samples.mean(axis=0)
    groups = np.array_split(samples, num_groups)
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    sums = np.stack([group.sum(axis=0) for group in groups])
    squares = np.stack([group.T @ group for group in groups])
    total, total_sum, total_square = sizes.sum(), sums.sum(axis=0), squares.sum(axis=0)

    def pair(left_out: int | None) -> Quadratic:
        count, first, second = total, total_sum, total_square
        whole = np.tensordot(sizes, curvature, 1) if grouped else curvature
        if left_out is not None:
            count, first, second = count - sizes[left_out], first - sums[left_out], second - squares[left_out]
            whole = whole - sizes[left_out] * curvature[left_out] if grouped else whole
        if grouped:
            whole = whole / count
        return Quadratic(whole, (second - np.outer(first, first) / count) / (count - 1.0))

    full = resolved_basis(pair(None), degeneracy)
    study = _study(full, deflated, num_null, level, degeneracy, rng)
    names = list(study.measures)
    rows = []
    for left_out in range(num_groups):
        frame = _descending(resolved_basis(pair(left_out), degeneracy))
        found, _ = _measure(frame.curvatures, frame.noise, study.top, study.deflated, degeneracy)
        cosines = _direction_cosines(frame.noise)
        rows.append(np.concatenate([[found.get(name, np.nan) for name in names], cosines, np.diag(frame.noise)]))
    table = np.array(rows)
    errors = np.sqrt((num_groups - 1) / num_groups * np.sum((table - table.mean(axis=0)) ** 2, axis=0))
    size, count = len(full.curvatures), len(names)
    measures = {
        # A measure that some group's absence leaves undefined has no jackknife error.
        name: replace(study.measures[name], standard_error=float(error) if np.isfinite(error) else None)
        for name, error in zip(names, errors[:count], strict=True)
    }
    return replace(
        study,
        measures=measures,
        direction_standard_errors=errors[count : count + size],
        noise_standard_errors=errors[count + size :],
    )


def haar_expectations(curvatures: ArrayLike, noise_variances: ArrayLike) -> dict[str, float]:
    """Exact means over random rotations of C: tr HCHC, tr H²C², tr HC, and the ratio of the first two (chi's scale).

    With n = m, a = [(n+1) tr(C)² − 2 tr(C²)]/(n(n−1)(n+2)) and b = [n tr(C²) − tr(C)²]/(n(n−1)(n+2)),
    E tr(HCHC) = (a + b) tr(H²) + b tr(H)²; E tr(H²C²) = tr(H²) tr(C²)/n; E tr(HC) = tr H tr C/n.

    Args:
        curvatures: eigenvalues of H, shape ``(m,)``, m ≥ 2.
        noise_variances: eigenvalues of C, shape ``(m,)``.
    """
    h, c = np.asarray(curvatures, dtype=np.float64), np.asarray(noise_variances, dtype=np.float64)
    n = len(h)
    trace, square = float(c.sum()), float(c @ c)
    common = n * (n - 1) * (n + 2)
    a, b = ((n + 1) * trace**2 - 2 * square) / common, (n * square - trace**2) / common
    fourth = (a + b) * float(h @ h) + b * float(h.sum()) ** 2
    mixed = float(h @ h) * square / n
    return {
        "tr_hchc": fourth,
        "tr_h2c2": mixed,
        "tr_hc": float(h.sum()) * trace / n,
        "chi": fourth / mixed,
    }


def haar_rotation(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random orthogonal matrix, uniform over the group (Mezzadri 2007: QR with the signs of R's diagonal)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))


def _study(
    frame: Eigenbasis,
    deflated: int | None,
    num_null: int,
    level: float,
    degeneracy: float,
    rng: np.random.Generator | None,
) -> Commutativity:
    size = len(frame.curvatures)
    where = "commutativity"
    if size < 2:
        raise ValueError(f"`{where}(problem=...)` must have at least 2 directions; got {size}.")
    if num_null < 20:
        raise ValueError(f"`{where}(num_null=...)` must be >= 20; got {num_null}.")
    if not 0 < level < 1:
        raise ValueError(f"`{where}(level=...)` must be in (0, 1); got {level}.")
    frame = _descending(frame)
    top = _top_at_gap(frame.curvatures, degeneracy)
    deflated = top if deflated is None else deflated
    if not 0 <= deflated < size:
        raise ValueError(f"`{where}(deflated=...)` must be in [0, {size}); got {deflated}.")
    found, undefined = _measure(frame.curvatures, frame.noise, top, deflated, degeneracy)
    rng = np.random.default_rng(20241007) if rng is None else rng
    draws: dict[str, list[float]] = {name: [] for name in found}
    cosines = []
    whole = np.asarray(np.linalg.eigvalsh(frame.noise), dtype=np.float64)
    rest = np.asarray(np.linalg.eigvalsh(frame.noise[deflated:, deflated:]), dtype=np.float64)
    for _ in range(num_null):
        noise = _rotated(whole, frame.curvatures, degeneracy, rng)
        one, _ = _measure(frame.curvatures, noise, top, 0, degeneracy)
        if "chi_deflated" in found:
            bulk = _rotated(rest, frame.curvatures[deflated:], degeneracy, rng)
            one["chi_deflated"] = _chi(frame.curvatures[deflated:], bulk * bulk)
        for name, kept in draws.items():
            kept.append(one[name])
        cosines.append(_direction_cosines(noise))
    tail = 0.5 * (1.0 - level)
    measures = {}
    for name, value in found.items():
        null = np.array(draws[name])
        target = COMMUTING[name]
        p_value = None
        if target is not None:
            p_value = (1 + int(np.sum(np.abs(null - target) <= abs(value - target)))) / (1 + num_null)
        low, high = np.quantile(null, [tail, 1.0 - tail])
        measures[name] = Measure(
            value=value,
            commuting_value=target,
            null_mean=float(null.mean()),
            null_low=float(low),
            null_high=float(high),
            null_p_value=p_value,
        )
    return Commutativity(
        measures=measures,
        undefined=undefined,
        curvatures=frame.curvatures,
        noise_variances=np.diag(frame.noise).copy(),
        direction_cosines=_direction_cosines(frame.noise),
        direction_null_high=np.quantile(np.array(cosines), 1.0 - tail, axis=0),
        direction_standard_errors=None,
        noise_standard_errors=None,
        top=top,
        deflated=deflated,
        num_null=num_null,
        level=level,
    )


def _descending(frame: Eigenbasis) -> Eigenbasis:
    order = np.argsort(-frame.curvatures, kind="stable")
    basis = None if frame.basis is None else frame.basis[:, order]
    return Eigenbasis(frame.curvatures[order], basis, frame.noise[np.ix_(order, order)])


def _top_at_gap(descending: NDArray[np.float64], degeneracy: float) -> int:
    """The first k ≤ m/2 with the largest λ_k/λ_{k+1}; 0 if no gap exceeds the degeneracy tolerance."""
    half = max(len(descending) // 2, 1)
    ratios = descending[:half] / descending[1 : half + 1]
    best = int(np.argmax(ratios >= (1.0 - 1e-9) * ratios.max()))  # rounding must not choose between equal gaps
    return best + 1 if ratios[best] > 1.0 + degeneracy else 0


def _rotated(
    spectrum: NDArray[np.float64], curvatures: NDArray[np.float64], degeneracy: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """C with random eigenvectors, in H's eigenbasis as an observer would resolve it."""
    rotation = haar_rotation(len(spectrum), rng)
    noise = (rotation * spectrum) @ rotation.T
    return _resolve(Eigenbasis(curvatures, None, 0.5 * (noise + noise.T)), degeneracy).noise


def _measure(
    curvatures: NDArray[np.float64], noise: NDArray[np.float64], top: int, deflated: int, degeneracy: float
) -> tuple[dict[str, float], dict[str, str]]:
    """All scalar measures of (λ descending, C̃), and the reasons for those left out."""
    size = len(curvatures)
    squares = noise * noise
    whole = float(squares.sum())
    found: dict[str, float] = {}
    undefined: dict[str, str] = {}
    if whole == 0.0:
        raise ValueError("`commutativity(problem=...)` must have noise; got C = 0.")
    h_norm, c_norm = float(np.linalg.norm(curvatures)), math.sqrt(whole)
    product = float(np.square(curvatures) @ squares.sum(axis=1))  # ‖HC‖²
    commutator = float(np.sum(np.square(np.subtract.outer(curvatures, curvatures)) * squares))  # ‖[H,C]‖²
    found["chi"] = 1.0 - commutator / (2.0 * product)
    if size - deflated >= 2 and float(squares[deflated:, deflated:].sum()) > 0:
        found["chi_deflated"] = _chi(curvatures[deflated:], squares[deflated:, deflated:])
    else:
        undefined["chi_deflated"] = f"fewer than 2 noisy directions are left below the top {deflated}"
    found["omega"] = math.sqrt(product) / (h_norm * c_norm)
    found["normalized_commutator"] = math.sqrt(commutator) / (2.0 * h_norm * c_norm)
    found["commutator_ratio"] = math.sqrt(commutator / (4.0 * product))
    found["frobenius_cosine"] = float(curvatures @ np.diag(noise)) / (h_norm * c_norm)
    found["mean_direction_cosine"] = float(np.mean(_direction_cosines(noise)))
    if top:
        _, vectors = np.linalg.eigh(noise)
        found["subspace_overlap"] = float(np.sum(vectors[:top, -top:] ** 2)) / top
    else:
        undefined["subspace_overlap"] = "H's spectrum has no gap"
    found["off_diagonal_mass"] = float(np.sum(squares[~np.eye(size, dtype=bool)])) / whole
    gamma = np.diag(noise)
    seen = gamma > 0
    spread = np.log(curvatures[seen]) - np.log(curvatures[seen]).mean() if seen.sum() > 1 else np.zeros(1)
    if float(np.abs(spread).max()) > degeneracy:
        found["log_log_slope"] = float(spread @ np.log(gamma[seen]) / (spread @ spread))
    else:
        undefined["log_log_slope"] = "fewer than 2 distinct curvatures carry noise"
    return found, undefined


def _chi(curvatures: NDArray[np.float64], squares: NDArray[np.float64]) -> float:
    commutator = np.sum(np.square(np.subtract.outer(curvatures, curvatures)) * squares)
    return 1.0 - float(commutator / (2.0 * (np.square(curvatures) @ squares.sum(axis=1))))


def _direction_cosines(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """c_i = γ_i/‖C u_i‖; 0 where C u_i = 0 (such a direction is an eigenvector, but carries no evidence of it)."""
    lengths = np.linalg.norm(noise, axis=0)
    return np.divide(np.diag(noise), lengths, out=np.zeros(len(noise)), where=lengths > 0)
