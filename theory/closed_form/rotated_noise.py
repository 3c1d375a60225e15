r"""Does the noise commute with the curvature? Two nulls beside a price, in k eigenvectors of H.

Model     X holds per-sample slopes uᵢ·g_n, shape (N, k), K = f Cov(X) the mini-batch noise in those k directions, λ
          their curvatures. Two statistics, blind to the scale of K:
              price   −½ ln det R / k nats, R the correlation matrix of the stationary law (S2); 0 where K commutes;
              cosine  mean of K_ii/‖K eᵢ‖; 1 where K commutes.
Rotated   H0: K's eigenvectors are Haar-random. If C is randomly rotated in the whole space, K = UᵀCU has a law that no
          rotation of the k directions changes, so that Q K Qᵀ with the spectrum held is its exact null: a rotated C
          looks more commuting than the α quantile with probability α, whatever the spectra, μ and N.
Commuting H0: K is diagonal. Every slope gets a random sign of its own, x_ni s_ni: the off-diagonals lose their mean and
          keep their sampling variance E x_i² x_j²/N, heavy tails that directions share included. Plug-in bias of the
          price is the same under this null as in the data.
Rule      not rotated and not distinguishable from commuting: pass. Commuting rejected and rotated not: fail. Both
          rejected (a real network with many samples): better than chance and not exact; what it costs decides, the
          price against a limit. Neither: the samples cannot tell.
Cluster   Curvatures within a relative spread of `NEARLY_DEGENERATE` are one eigenspace: only the correlations between
          clusters count, ½ [Σ_c ln det Σ_cc − ln det Σ] ≥ 0 (Fischer's inequality).
Oracle    `alignment.commutativity_price`, one matrix at a time; Monte Carlo of both nulls.
Source    Derived here. Sign flips: Rademacher multipliers (van der Vaart & Wellner 1996, §2.9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.alignment import NEARLY_DEGENERATE
from theory.closed_form.stationary import stationary_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic

Array = NDArray[np.float64]

#: Level at which each null is rejected; a rotated pair is missed, and a commuting one doubted, this often.
ALPHA = 0.02
#: Draws from each null: p-values down to 1/400.
DRAWS = 399


class Commuting(StrEnum):
    """What the two nulls say together."""

    COMMUTING = "unlike random noise, and no different from commuting"
    BETTER_THAN_CHANCE = "unlike random noise, and measurably not commuting"
    ROTATED = "measurably not commuting, and no better than random noise"
    UNDECIDED = "too few samples to tell commuting from random noise"


@dataclass(frozen=True, kw_only=True)
class NullTest:
    """A statistic against both nulls.

    Args:
        value: the statistic.
        rotated: its central 95 % under random rotation.
        rotated_p: chance that a rotated K looks as commuting as this.
        commuting: its central 95 % under commuting noise with this many samples.
        commuting_p: chance that commuting noise looks as little commuting as this.
    """

    value: float
    rotated: tuple[float, float]
    rotated_p: float
    commuting: tuple[float, float]
    commuting_p: float

    def outcome(self, alpha: float = ALPHA) -> Commuting:
        """See the module's *Rule*."""
        not_rotated, not_commuting = self.rotated_p <= alpha, self.commuting_p <= alpha
        if not_rotated:
            return Commuting.BETTER_THAN_CHANCE if not_commuting else Commuting.COMMUTING
        return Commuting.ROTATED if not_commuting else Commuting.UNDECIDED


@dataclass(frozen=True, kw_only=True)
class CommutationTest:
    """Both statistics.

    Args:
        price: nats per direction.
        cosine: mean of cᵢ within the k directions.
        noise: K, shape ``(k, k)``.
    """

    price: NullTest
    cosine: NullTest
    noise: Array

    def outcome(self, alpha: float = ALPHA) -> Commuting:
        """By the price, and commuting also doubted where the cosine doubts it: each at half the level."""
        doubt = 2.0 * min(self.price.commuting_p, self.cosine.commuting_p)
        return replace(self.price, commuting_p=min(doubt, 1.0)).outcome(alpha)


def commutation_test(
    slopes: ArrayLike,
    curvatures: ArrayLike,
    optimizer: MomentumSGD,
    *,
    noise_factor: float = 1.0,
    draws: int = DRAWS,
    rng: np.random.Generator | None = None,
) -> CommutationTest:
    """Price and cosine of sampled noise in k directions against both nulls.

    Args:
        slopes: X, per-sample slopes along eigenvectors of H, shape ``(N, k)``, N > 2k, k ≥ 2.
        curvatures: λ of those eigenvectors, shape ``(k,)``, each with a stationary law.
        optimizer: η, μ and the convention; its decay counts as curvature.
        noise_factor: f, of a mini-batch's covariance over a sample's.
        draws: from each null, ≥ 99.
        rng: source of the draws; default a fixed one.

    Raises:
        ValueError: if a shape or size is wrong, or a slope is not finite or never varies.
        UnstableError: if a curvature has no stationary law.
    """
    where = "commutation_test"
    x = np.asarray(slopes, dtype=np.float64)
    lam = np.asarray(curvatures, dtype=np.float64)
    if x.ndim != 2 or lam.shape != x.shape[1:] or len(lam) < 2 or len(x) <= 2 * len(lam):
        raise ValueError(
            f"`{where}(slopes, curvatures)` must have shapes (N > 2k, k) and (k >= 2,); got {x.shape}, {lam.shape}."
        )
    if draws < 99:
        raise ValueError(f"`{where}(draws=...)` must be >= 99; got {draws}.")
    if not (np.isfinite(x).all() and (x.std(axis=0) > 0).all()):
        raise ValueError(f"`{where}(slopes=...)` must be finite and vary in every direction; some are not or do not.")
    rng = np.random.default_rng(20241007) if rng is None else rng
    x = x - x.mean(axis=0)
    noise = noise_factor * (x.T @ x) / (len(x) - 1)
    flipped = np.stack([noise_factor * _flipped(x, rng) for _ in range(draws)])
    statistics = _Statistics(lam, optimizer)
    return _tested(statistics, noise, flipped, draws, rng)


def commutation_of(
    noise: ArrayLike,
    curvatures: ArrayLike,
    optimizer: MomentumSGD,
    *,
    draws: int = DRAWS,
    rng: np.random.Generator | None = None,
) -> CommutationTest:
    """The same for a K that is known exactly, shape ``(k, k)``: commuting noise then has a price of 0 and cosine 1.

    Raises:
        ValueError: if the shapes do not agree, or K is not positive definite.
        UnstableError: if a curvature has no stationary law.
    """
    k = np.asarray(noise, dtype=np.float64)
    lam = np.asarray(curvatures, dtype=np.float64)
    if k.ndim != 2 or k.shape != (len(lam), len(lam)) or len(lam) < 2:
        raise ValueError(
            f"`commutation_of(noise, curvatures)` must have shapes (k, k), (k >= 2,); got {k.shape}, {lam.shape}."
        )
    if not np.linalg.eigvalsh(k)[0] > 0:
        raise ValueError("`commutation_of(noise=...)` must be positive definite; it is not.")
    rng = np.random.default_rng(20241007) if rng is None else rng
    diagonal = np.broadcast_to(np.diag(np.diag(k)), (draws, *k.shape))
    return _tested(_Statistics(lam, optimizer), k, diagonal, draws, rng)


def prices(noises: ArrayLike, curvatures: ArrayLike, optimizer: MomentumSGD) -> Array:
    """Nats per direction of many K at once, shape ``(…, k, k)`` to ``(…,)``; H diagonal with `curvatures`."""
    return _Statistics(np.asarray(curvatures, dtype=np.float64), optimizer).price(np.asarray(noises, dtype=np.float64))


class _Statistics:
    """Price and cosine of stacks of K."""

    def __init__(self, curvatures: Array, optimizer: MomentumSGD):
        size = len(curvatures)
        # (S2) is linear in K entry by entry in H's eigenbasis: its answer to ones is the gain of every entry.
        ones = Quadratic(np.diag(curvatures), np.ones((size, size)))
        self.gain = stationary_covariance(ones, optimizer).require()
        order = np.argsort(curvatures, kind="stable")
        ascending = curvatures[order]
        self.clusters: list[NDArray[np.intp]] = []
        start = 0
        for stop in range(1, size + 1):
            if stop == size or ascending[stop] > ascending[start] * (1.0 + NEARLY_DEGENERATE):
                self.clusters.append(order[start:stop])
                start = stop

    def price(self, noises: Array) -> Array:
        covariance = self.gain * noises
        scale = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
        correlation = covariance / scale[..., :, None] / scale[..., None, :]
        nats = -0.5 * np.linalg.slogdet(correlation)[1]
        for cluster in self.clusters:
            if len(cluster) > 1:
                nats += 0.5 * np.linalg.slogdet(correlation[..., cluster[:, None], cluster])[1]
        return np.maximum(nats, 0.0) / noises.shape[-1]

    @staticmethod
    def cosine(noises: Array) -> Array:
        return np.mean(np.diagonal(noises, axis1=-2, axis2=-1) / np.linalg.norm(noises, axis=-1), axis=-1)


def _flipped(x: Array, rng: np.random.Generator) -> Array:
    signed = x * (2.0 * rng.integers(0, 2, size=x.shape, dtype=np.int8) - 1.0)
    return signed.T @ signed / (len(x) - 1)


def _tested(
    statistics: _Statistics, noise: Array, commuting: Array, draws: int, rng: np.random.Generator
) -> CommutationTest:
    size = len(noise)
    spectrum = np.linalg.eigvalsh(noise)
    q, r = np.linalg.qr(rng.standard_normal((draws, size, size)))
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    rotated = (q * spectrum) @ np.swapaxes(q, 1, 2)

    def against(function, better: float) -> NullTest:
        # `better` is the sign in which the statistic becomes more commuting.
        value = float(function(noise[None])[0])
        chance, exact = function(rotated), function(commuting)
        slack = 1e-12 * max(abs(value), 1.0)  # a diagonal K is no less commuting than itself
        return NullTest(
            value=value,
            rotated=_ends(chance),
            rotated_p=float(1 + np.sum(better * chance >= better * value)) / (1 + draws),
            commuting=_ends(exact),
            commuting_p=float(1 + np.sum(better * exact <= better * value + slack)) / (1 + draws),
        )

    return CommutationTest(price=against(statistics.price, -1.0), cosine=against(statistics.cosine, 1.0), noise=noise)


def _ends(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
