r"""The edge of mean-square stability: the learning rate above which mini-batch noise blows up, by batch size.

Model     g_B(δ) = s_B + A_B δ on independent batches. The mean recursion is stable for ηλ₁ < 2(1+μ); the second moment
          also feeds on itself, through the curvature's variance over batches, and diverges before.
Result    With H the mean curvature (weight decay included), G_ij(η) the stationary covariance (S2) answers a unit of
          noise with, and T(X) = f [(1/N) Σ_n A_n X A_n − Ā X Ā], f = 1/B with replacement and (N−B)/(B(N−1)) without,
              a stationary second moment exists  ⇔  mean stable and ρ(X ↦ G(η) ∘ T(X)) < 1,                     (1)
          a map of k×k matrices that keeps covariances covariances; its radius rises with η, and the edge is where it
          is 1, found by bisection. Radius: dense up to m = `DENSE`, Arnoldi on products above.
Isotropic Ā = λI and T(I) = f v I (samples that differ by a factor, orthogonal samples, any law that no rotation
          changes): I is the leading eigenvector, so the edge solves
              η (1+μ) f v = λ(1−μ)(2(1+μ) − ηλ)   ⇔   η* = 2(1−μ²) λ / ((1−μ)λ² + (1+μ) f v).                   (2)
Rank one  A_n = L_n q_n q_nᵀ with q_n orthonormal, N of them: directions decouple, λ = L/N and v = L²(1/N − 1/N²) with
          L the largest. In terms of the batch sharpness L/B and β = B/N, without replacement
              η* L/B = 2(1−μ²) / (1 + μ − 2μβ):   2(1−μ) at β → 0, 2(1+μ) at β = 1.                             (3)
Ends      f v ≪ λ²: the deterministic 2(1+μ)/λ. f v ≫ λ²: 2(1−μ) λ/(f v): at B = 1, the sharpness that counts is
          E h²/E h of a sample, not E h.
Crossover `crossover_batch_size`: the B from which on the edge is at least half of the full batch's. (2) has its terms
          equal there, f v/λ² = (1−μ)/(1+μ). For (3) that is B = N(1+μ)/2 … N:
          independent batches leave the small-batch limit only where nearly all samples are in each batch.
Shuffled  For (3) under shuffled epochs of M batches a direction is hit once an epoch, at a step τ of M alike likely:
          the edge is where ρ(E_τ P_τ ⊗ P_τ) = 1, P_τ the epoch's product; M = 1 is full batch. At μ = .9 it stands at
          1.5 × the small-batch limit for M = 10 ≈ 1/(1−μ), at 3.3 × for M = 2, and jumps to 19 × for M = 1.
Sharpness `batch_sharpness`: E_B[g_Bᵀ H_B g_B]/E_B|g_B|².
Oracle    `theory.oracle.second_moment`, `theory.oracle.affine_batches`: brute recursions, simulated divergence.
Source    Limits and batch sharpness: Andreyev & Beneventano, arXiv:2412.20553; Andreyev, Ananthkumar, Walden, Poggio &
          Beneventano, arXiv:2604.14108. (1)–(3), crossover and shuffled edge: derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

from theory.closed_form.stability import largest_stable_learning_rate, one_group
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.regression import Sampling
from theory.solution import NumericalError

Array = NDArray[np.float64]

#: Directions up to which T is kept as one matrix of pairs; above, products with the samples' factors.
DENSE = 50
#: Directions up to which the map's whole spectrum is computed.
_WHOLE = 12
#: Curvatures below this share of the largest are flat: noise neither enters nor stays there.
_FLAT = 1e-10


@dataclass(frozen=True, kw_only=True)
class StabilityEdge:
    """Where the second moment of mini-batch SGD stops being stable.

    Args:
        learning_rate: η*, the smallest rate without a stationary second moment.
        mean_limit: the rate at which the mean diverges, 2(1+μ)/λ₁ for heavy ball; never below `learning_rate`.
        curvature: λ₁ of the mean, weight decay included.
        direction: the covariance that grows fastest at the edge, trace 1, shape ``(m, m)``.
    """

    learning_rate: float
    mean_limit: float
    curvature: float
    direction: Array


def mean_square_edge(
    curvatures: ArrayLike,
    batch_size: int,
    optimizer: MomentumSGD,
    *,
    sampling: Sampling | str = Sampling.WITHOUT_REPLACEMENT,
) -> StabilityEdge:
    """Largest stable learning rate under mini-batch noise, equation (1), exact for independent batches.

    Args:
        curvatures: per-sample Hessians A_n, shape ``(N, m, m)``; or factors of A_n = V_n V_nᵀ, shape ``(N, m)`` or
            ``(N, m, r)`` with r < m (above `DENSE` directions the only affordable form).
        batch_size: B in 1 … N.
        optimizer: momentum, Nesterov, dampening, weight decay, form; its learning rate is not used.
        sampling: with or without replacement. Shuffled epochs have no exact edge but that of (3).

    Raises:
        ValueError: if a shape is wrong, B is out of range, epochs are shuffled, or some direction has negative mean
            curvature or, flat in the mean, varies between samples: no learning rate is stable then.
        NumericalError: if the growth did not converge.
    """
    where = "mean_square_edge"
    one_group(optimizer)
    share = _noise_factor(_count(curvatures, where), batch_size, sampling, where)
    feed = _Feedback.of(curvatures, share, optimizer, where)
    steepest = float(feed.curvatures.max())
    limit = largest_stable_learning_rate(steepest, replace(optimizer, weight_decay=0.0))
    if share == 0.0 or not feed.varies:
        _, vectors = np.linalg.eigh(np.diag(feed.curvatures))
        growing = np.multiply.outer(feed.basis @ vectors[:, -1], feed.basis @ vectors[:, -1])
        return StabilityEdge(learning_rate=limit, mean_limit=limit, curvature=steepest, direction=growing)

    def excess(log_rate: float) -> float:
        return math.log(max(feed.growth(math.exp(log_rate)), 1e-300))

    # G grows without bound on the way to the mean's limit where that direction is fed; if it is not, the mean decides.
    top = math.log(limit) + math.log1p(-1e-9)
    if excess(top) <= 0.0:
        rate = limit
    else:
        low = top - 1.0
        while excess(low) > 0.0:
            low -= 2.0
        rate = math.exp(brentq(excess, low, top, xtol=1e-13, rtol=1e-13))  # pyright: ignore[reportArgumentType]
    growing = feed.basis @ feed.growing(min(rate, math.exp(top))) @ feed.basis.T
    return StabilityEdge(learning_rate=rate, mean_limit=limit, curvature=steepest, direction=growing)


def crossover_batch_size(
    curvatures: ArrayLike,
    optimizer: MomentumSGD,
    *,
    sampling: Sampling | str = Sampling.WITHOUT_REPLACEMENT,
) -> int | None:
    """Smallest batch whose edge is half of the full batch's or more: below, the noise of batches sets the edge.

    Args:
        curvatures: as in `mean_square_edge`.
        optimizer: likewise.
        sampling: likewise.

    Returns:
        B in 1 … N, by bisection: the edge rises with B. None if not even N independent samples reach it.

    Raises:
        ValueError: as `mean_square_edge`.
        NumericalError: likewise.
    """

    def reaches(batch_size: int) -> bool:
        found = mean_square_edge(curvatures, batch_size, optimizer, sampling=sampling)
        return found.learning_rate >= 0.5 * found.mean_limit

    low, high = 0, _count(curvatures, "crossover_batch_size")
    if not reaches(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def isotropic_edge(
    curvature: float,
    curvature_variance: float,
    num_samples: int | None,
    batch_size: int,
    momentum: float,
    *,
    sampling: Sampling | str = Sampling.WITHOUT_REPLACEMENT,
) -> float:
    """Edge of samples among which no direction is special, heavy ball, equation (2).

    Args:
        curvature: λ > 0 of the mean.
        curvature_variance: v ≥ 0 with (1/N) Σ A_n² − λ²I = v I (for one direction, the variance of h_n, divisor N).
        num_samples: N; None for infinitely many.
        batch_size: B.
        momentum: μ in [0, 1).
        sampling: with or without replacement; the same where N is None.

    Raises:
        ValueError: if an argument is out of range.
    """
    where = "isotropic_edge"
    if not 0 <= momentum < 1:
        raise ValueError(f"`{where}(momentum=...)` must be in [0, 1); got {momentum}.")
    if not (curvature > 0 and math.isfinite(curvature) and curvature_variance >= 0):
        raise ValueError(f"`{where}(curvature, variance)` must be > 0 and >= 0; got {curvature}, {curvature_variance}.")
    share = 1.0 / batch_size if num_samples is None else _noise_factor(num_samples, batch_size, sampling, where)
    fed = share * curvature_variance
    return 2.0 * (1.0 - momentum**2) * curvature / ((1.0 - momentum) * curvature**2 + (1.0 + momentum) * fed)


@dataclass(frozen=True, kw_only=True)
class BatchSharpness:
    """E_B[g_Bᵀ H_B g_B]/E_B|g_B|².

    Args:
        value: the ratio, in units of curvature.
        standard_error: of the value; 0 where every batch was accounted for.
        curvature: E_B[g_Bᵀ H_B g_B].
        square: E_B|g_B|².
    """

    value: float
    standard_error: float
    curvature: float
    square: float


def batch_sharpness(
    gradients: ArrayLike,
    curvatures: ArrayLike,
    batch_size: int,
    *,
    sampling: Sampling | str = Sampling.WITHOUT_REPLACEMENT,
) -> BatchSharpness:
    """Batch sharpness over all batches, from every sample's gradient and Hessian: exact, no batch is drawn.

    The ratio has the moments of a batch mean up to the third, which a finite population gives: with g̃, H̃ deviations,
        E gᵀHg = ḡᵀH̄ḡ + f₂ (tr(H̄ S) + 2 ḡᵀ⟨H̃g̃⟩) + f₃ ⟨g̃ᵀH̃g̃⟩,   E|g|² = |ḡ|² + f₂ tr S,
    ⟨⟩ and S means over samples, f₂ and f₃ the factors 1/B, 1/B² with replacement, (N−B)/(B(N−1)) and
    (N−B)(N−2B)/(B²(N−1)(N−2)) without. Each batch of a shuffled epoch is drawn without replacement.

    Args:
        gradients: g_n, shape ``(N, m)``, N ≥ 3.
        curvatures: H_n, shape ``(N, m, m)``, or factors as in `mean_square_edge`.
        batch_size: B in 1 … N.
        sampling: how a batch is drawn.

    Raises:
        ValueError: if a shape or size is wrong, or all gradients vanish.
    """
    where = "batch_sharpness"
    g = np.asarray(gradients, dtype=np.float64)
    a = np.asarray(curvatures, dtype=np.float64)
    count = _count(a, where)
    if g.ndim != 2 or len(g) != count or a.shape[1] != g.shape[1] or count < 3:
        raise ValueError(f"`{where}(gradients, curvatures)` must agree, N >= 3; got {g.shape} and {a.shape}.")
    without = Sampling(sampling) is not Sampling.WITH_REPLACEMENT
    second = _noise_factor(
        count, batch_size, Sampling.WITHOUT_REPLACEMENT if without else Sampling.WITH_REPLACEMENT, where
    )
    third = 1.0 / batch_size**2
    if without:
        third *= (count - batch_size) * (count - 2.0 * batch_size) / ((count - 1.0) * (count - 2.0))
    centre = g.mean(axis=0)
    apart = g - centre
    on_centre, on_apart = _products(a, np.broadcast_to(centre, g.shape)), _products(a, apart)
    mean_on_apart = _mean_products(a, apart)  # H̄ g̃_n
    pulled = on_centre.mean(axis=0)  # H̄ ḡ
    cross = on_apart.mean(axis=0)  # ⟨H g̃⟩ = ⟨H̃ g̃⟩
    spread = float(np.mean(np.sum(apart * mean_on_apart, axis=1)))  # tr(H̄ S)
    triple = float(np.mean(np.sum(apart * (on_apart - mean_on_apart), axis=1)))
    curvature = float(centre @ pulled) + second * (spread + 2.0 * float(centre @ cross)) + third * triple
    square = float(centre @ centre) + second * float(np.mean(np.sum(apart**2, axis=1)))
    if not square > 0:
        raise ValueError(f"`{where}(gradients=...)` must not vanish for every batch; they do.")
    return BatchSharpness(value=curvature / square, standard_error=0.0, curvature=curvature, square=square)


def sharpness_limits(optimizer: MomentumSGD) -> tuple[float, float]:
    """Batch sharpness at the edge of small batches and of full batches: 2(1−μ)/η and 2(1+μ)/η for heavy ball.

    A small batch strikes a direction once, and before the next strike its kick ηLδ has gone on to ηLδ K,
    K = 1 − ν + ν(1−d)/(1−μ) with discount ν and dampening d, 1/(1−μ) with and without Nesterov's look-ahead: stable
    iff ηLK < 2. The full batch has the mean's limit.

    Args:
        optimizer: weight decay is left to the sharpness, which has it in H.
    """
    one_group(optimizer)
    bare = replace(optimizer, weight_decay=0.0)
    dampening = bare.dampening if bare.momentum > 0 else 0.0
    kick = 1.0 - bare.discount + bare.discount * (1.0 - dampening) / (1.0 - bare.momentum)
    return 2.0 / (bare.learning_rate * kick), largest_stable_learning_rate(1.0, bare) / bare.learning_rate


def sampled_batch_sharpness(curvatures: ArrayLike, squares: ArrayLike) -> BatchSharpness:
    """Batch sharpness from drawn batches: ratio of means, its standard error by the delta method, bias 1/n removed.

    Args:
        curvatures: g_Bᵀ H_B g_B of n independent batches, shape ``(n,)``, n ≥ 8.
        squares: |g_B|² of the same, shape ``(n,)``, > 0.

    Raises:
        ValueError: if lengths differ, there are too few, or a square is not positive.
    """
    x, y = np.asarray(curvatures, dtype=np.float64), np.asarray(squares, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 8:
        raise ValueError(f"`sampled_batch_sharpness(...)` must get two vectors of n >= 8; got {x.shape}, {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (y > 0).all()):
        raise ValueError("`sampled_batch_sharpness(squares=...)` must be finite and > 0; some are not.")
    count, ratio = len(x), float(x.mean() / y.mean())
    influence = (x - ratio * y) / y.mean()
    # E[x̄/ȳ] − X/Y ≈ −Cov(x − Ry, y)/(n Y²)
    bias = -float(np.mean(influence * (y / y.mean() - 1.0))) / (count - 1)
    error = float(influence.std(ddof=1)) / math.sqrt(count)
    return BatchSharpness(value=ratio - bias, standard_error=error, curvature=float(x.mean()), square=float(y.mean()))


@dataclass(frozen=True)
class _Feedback:
    """X ↦ G(η) ∘ T(X) in the eigenbasis of the mean curvature, flat directions left out."""

    basis: Array  # (m, kept)
    curvatures: Array  # of the mean, weight decay included, (kept,)
    feed: Callable[[Array], Array]  # T
    varies: bool
    optimizer: MomentumSGD

    @classmethod
    def of(cls, curvatures: ArrayLike, share: float, optimizer: MomentumSGD, where: str) -> _Feedback:
        a = np.asarray(curvatures, dtype=np.float64)
        mean = _mean(a)
        values, basis = np.linalg.eigh(mean)
        scale = max(float(np.abs(values).max()), 1e-300)
        decayed = values + optimizer.weight_decay
        if decayed.min() < -_FLAT * scale:
            raise ValueError(
                f"`{where}(curvatures=...)` must have no negative mean curvature; got {decayed.min():.6g}."
            )
        kept = decayed > _FLAT * scale
        # Factors are positive semi-definite: what is flat in their mean is flat in each.
        if a.ndim == 3 and a.shape[1] == a.shape[2] and np.abs(a @ basis[:, ~kept]).max(initial=0.0) > 1e-6 * scale:
            raise ValueError(f"`{where}(curvatures=...)` must not vary along a direction that is flat in the mean.")
        basis, inner = basis[:, kept], values[kept]
        if a.ndim == 2:
            a = a[:, :, None]
        factors = a.shape[1] != a.shape[2]
        a = (
            np.einsum("nir,ia->nar", a, basis)
            if factors
            else np.einsum("ia,nij,jb->nab", basis, a, basis, optimize=True)
        )
        size, count = len(inner), len(a)
        if size <= DENSE:
            if factors:
                a = a @ a.transpose(0, 2, 1)
            deviation = (a - a.mean(axis=0)).reshape(count, -1)
            pairs = (deviation.T @ deviation * (share / count)).reshape((size,) * 4).transpose(0, 2, 1, 3)
            pairs = np.ascontiguousarray(pairs.reshape(size * size, size * size))
            varies = bool(np.abs(deviation).max() > 1e-13 * scale)
            return cls(basis, decayed[kept], lambda x: (pairs @ x.ravel()).reshape(size, size), varies, optimizer)

        def feed(x: Array) -> Array:
            if factors:
                inside = np.einsum("nar,ab,nbs->nrs", a, x, a, optimize=True)
                total = np.einsum("nar,nrs,nbs->ab", a, inside, a, optimize=True) / count
            else:
                total = np.einsum("nab,bc,ncd->ad", a, x, a, optimize=True) / count
            return share * (total - inner[:, None] * x * inner)

        return cls(basis, decayed[kept], feed, True, optimizer)

    def gain(self, learning_rate: float) -> Array:
        """G(η)."""
        optimizer = replace(self.optimizer, learning_rate=learning_rate, weight_decay=0.0)
        return stationary_covariance(
            Quadratic(self.curvatures, np.ones((len(self.curvatures),) * 2)), optimizer
        ).require()

    def growing(self, learning_rate: float) -> Array:
        """The covariance that grows fastest, trace 1, by powers of the map on the identity."""
        gain, x = self.gain(learning_rate), np.eye(len(self.curvatures))
        for _ in range(1000):
            before, x = x, gain * self.feed(x)
            x = x / np.trace(x)
            if np.abs(x - before).max() <= 1e-12:
                break
        return x

    def growth(self, learning_rate: float) -> float:
        """Spectral radius of the map."""
        size, gain = len(self.curvatures), self.gain(learning_rate)

        def apply(flat: Array) -> Array:
            x = flat.reshape(size, size)
            return (gain * self.feed(0.5 * (x + x.T))).ravel()

        if size <= _WHOLE:
            values = np.linalg.eigvals(np.array([apply(unit) for unit in np.eye(size * size)]))
            return float(values.real.max())
        else:
            start = (np.sqrt(np.outer(np.diag(gain), np.diag(gain))) * np.eye(size)).ravel()
            linear = LinearOperator((size**2, size**2), matvec=apply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
            try:
                found = eigs(linear, k=1, which="LR", v0=start, maxiter=2000, return_eigenvectors=False)
            except ArpackNoConvergence as error:
                raise NumericalError(f"`mean_square_edge`: the growth was not found: {error}.") from None
            return float(np.real(found[0]))


def _count(curvatures: ArrayLike, where: str) -> int:
    a = np.asarray(curvatures)
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] > a.shape[1]) or len(a) < 2:
        raise ValueError(f"`{where}(curvatures=...)` must be (N >= 2, m, m), (N, m) or (N, m, r < m); got {a.shape}.")
    if not np.isfinite(np.asarray(a, dtype=np.float64)).all():
        raise ValueError(f"`{where}(curvatures=...)` must be finite; some are not.")
    return len(a)


def _mean(a: Array) -> Array:
    if a.ndim == 2:
        return a.T @ a / len(a)
    if a.shape[1] == a.shape[2]:
        return a.mean(axis=0)
    return np.einsum("nir,njr->ij", a, a, optimize=True) / len(a)


def _products(a: Array, vectors: Array) -> Array:
    """H_n v_n for every sample."""
    if a.ndim == 2:
        return a * np.sum(a * vectors, axis=1, keepdims=True)
    if a.shape[1] == a.shape[2]:
        return np.matmul(a, vectors[:, :, None])[:, :, 0]
    return np.matmul(a, np.matmul(a.transpose(0, 2, 1), vectors[:, :, None]))[:, :, 0]


def _mean_products(a: Array, vectors: Array) -> Array:
    return vectors @ _mean(a)


def _noise_factor(count: int, batch_size: int, sampling: Sampling | str, where: str) -> float:
    """Covariance of a batch mean over the population's (divisor N)."""
    scheme = Sampling(sampling)
    if isinstance(batch_size, bool) or int(batch_size) != batch_size or not 1 <= batch_size <= count:
        raise ValueError(f"`{where}(batch_size=...)` must be an integer in [1, {count}]; got {batch_size!r}.")
    if scheme is Sampling.SHUFFLED_EPOCHS:
        raise ValueError(f"`{where}(sampling=...)` must be with or without replacement; got {scheme.value!r}.")
    if scheme is Sampling.WITH_REPLACEMENT:
        return 1.0 / batch_size
    return (count - batch_size) / (batch_size * (count - 1.0))
