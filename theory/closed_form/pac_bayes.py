r"""PAC-Bayes bounds of a Gaussian posterior on a quadratic basin: their moving parts, and what makes them bounds.

Model     Posterior Q = N(m, Σ), the law of the weights under the optimizer's randomness given the training sample;
          prior P = N(m_P, σ_P² I). Means count from the optimum w* of the loss. In H's eigenbasis, direction i gives
              expected risk   r  = r₀ + ½ Σ_i λ_i σ_i² + ½ Σ_i λ_i m_i²                                        (B1)
              divergence      KL = ½ Σ_i [σ_i²/σ_P² − 1 − ln(σ_i²/σ_P²)] + ½ Σ_i (m_i − m_P,i)²/σ_P² − ½ ln det R  (B1)
          with σ_i² = Σ_ii there and R the correlation matrix of Σ: both paid for by −ln σ², and by λσ² and σ²/σ_P².
          A prior N(m_P, v P) of any covariance: σ_i²/σ_P² becomes (P⁻¹Σ)_ii/v, the shift Δ_i (P⁻¹Δ)_i/v, and ln σ_P²
          the mean of the eigenvalues' logarithms.
Weight decay moves the posterior's mean, not the loss: SGD settles at (H+δ)⁻¹Hw*, the risk counts from w*.
Bounds    With probability ≥ 1 − δ over the n samples, for all Q at once, the risk is at most
              McAllester–Maurer   r + b √((KL + ln(ξ(n)/δ)) / 2n)              loss in [0, b]
                                  r + s √(2 (KL + ln(√n/δ)) / (n − 1))         sub-Gaussian loss, constant s, n ≥ 2
              Seeger              b kl⁻¹(r/b, (KL + ln(ξ(n)/δ)) / n)           loss in [0, b]
              Catoni              b [1 − exp(−C r/b − (KL + ln(1/δ))/n)] / (1 − e^{−C})      loss in [0, b]
                                  r + 2s [(KL + ln(1/δ))/(nC) + C/8]           sub-Gaussian loss, C fixed beforehand
          Sub-Gaussian McAllester: E exp(tX²) ≤ (1 − 2ts²/n)^{−1/2} at 2ts²/n = 1 − 1/n gives the factor √n.
Not bounds A quadratic loss under a Gaussian posterior is unbounded, and neither range nor sub-Gaussian constant exists.
          The caller says what holds (`BoundedLoss`, `SubGaussianLoss`) and why; otherwise (`UnboundedLoss`, or a prior
          chosen after seeing the data) the same formula is marked "diagnostic, not a bound". One honest way out: clip
          the loss at b. E_Q min(ℓ, b) ≤ E_Q ℓ and every bound rises with r, so (B1) may stand for r while r ≤ b.
Exchange  One nat of KL costs β = (∂B/∂KL)/(∂B/∂r) units of risk: the loss ½λσ² + ½β(σ²/σ_P² − 1 − ln σ²/σ_P²) is least
          at σ² = 1/(1/σ_P² + λ/β). A direction above that variance tightens the bound by shrinking, one below by
          widening: the whole of "when does the bound dip".
Limits    ln ξ(n) ≤ ln 2√n for n ≥ 8. inf over C of Catoni, at equal ln-terms, is Seeger; Seeger ≤ McAllester (Pinsker).
Source    Maurer 2004; Seeger 2002; Catoni 2007; Alquier, Ridgway and Chopin 2016 (sub-Gaussian); McAllester 1999.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.alignment import total_correlation
from theory.closed_form.divergence import (
    binary_kl,
    gaussian_kl,
    kl_inverse,
    log_excess,
    maurer_moment,
)
from theory.closed_form.eigenbasis import eigenbasis
from theory.closed_form.stability import stable_modes
from theory.closed_form.stationary import stationary_mean
from theory.closed_form.transient import mean_path, transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import Setting, keyword_setting, later_field
from theory.solution import UnstableError

__all__ = [
    "BoundedLoss",
    "DataDependentPrior",
    "FixedPrior",
    "PacBayesBound",
    "PacBayesPath",
    "PacBayesTerms",
    "PriorGrid",
    "SubGaussianLoss",
    "UnboundedLoss",
    "VarianceElasticities",
    "binary_kl",
    "gaussian_kl",
    "kl_inverse",
    "log_excess",
    "maurer_moment",
    "optimal_variance",
    "pac_bayes_bound",
    "pac_bayes_path",
    "pac_bayes_terms",
    "variance_elasticities",
    "with_factors",
]

Method = Literal["seeger", "mcallester", "catoni"]
METHODS: tuple[Method, ...] = get_args(Method)


# ---------------------------------------------------------------------------------------------------- hypotheses


def _said(because: str, owner: str) -> None:
    if not (isinstance(because, str) and because.strip()):
        raise ValueError(f"`{owner}(because=...)` must say why the hypothesis holds; got {because!r}.")


def _positive(value: float, owner: str) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{owner}` must be > 0 and finite; got {value}.")


@keyword_setting
class BoundedLoss(Setting):
    """The loss lies in [0, upper] for every weight vector: 0–1 error, or a loss clipped at `upper`.

    Args:
        because: why, in words that travel with the result ("robust 0-1 error", "cross-entropy clipped at 4").
        upper: b > 0, in units of the loss.
    """

    because: str
    upper: float = 1.0

    def __post_init__(self) -> None:
        _said(self.because, "BoundedLoss")
        _positive(self.upper, "BoundedLoss(upper=...)")

    @property
    def hypothesis(self) -> str:
        """The hypothesis in one line."""
        return f"the loss lies in [0, {self.upper:g}]: {self.because}"


@keyword_setting
class SubGaussianLoss(Setting):
    """For every w, E exp(t (R(w) − r(w))) ≤ exp(t² s²/2n): each sample's loss is sub-Gaussian with constant s.

    Args:
        because: why.
        constant: s > 0, in units of the loss.
        trivial_risk: risk of a predictor that learned nothing, against which "vacuous" is said; None if unknown.
    """

    because: str
    constant: float
    trivial_risk: float | None = None

    def __post_init__(self) -> None:
        _said(self.because, "SubGaussianLoss")
        _positive(self.constant, "SubGaussianLoss(constant=...)")

    @property
    def hypothesis(self) -> str:
        """The hypothesis in one line."""
        return f"the loss of one sample is sub-Gaussian with constant {self.constant:g}: {self.because}"


@keyword_setting
class UnboundedLoss(Setting):
    """No hypothesis, as for the quadratic loss itself: what comes out is a diagnostic, not a bound.

    Args:
        scale: what stands in the formula where the range b would, in units of the loss.
        trivial_risk: as in `SubGaussianLoss`.
    """

    scale: float = 1.0
    trivial_risk: float | None = None

    def __post_init__(self) -> None:
        _positive(self.scale, "UnboundedLoss(scale=...)")


@keyword_setting
class FixedPrior(Setting):
    """One prior, chosen without the training sample.

    Args:
        because: how it was chosen ("N(w₀, 0.01 I), w₀ the random initialisation").
    """

    because: str

    def __post_init__(self) -> None:
        _said(self.because, "FixedPrior")


@keyword_setting
class PriorGrid(Setting):
    """Priors N(m_P, v_j P) fixed beforehand, of which the best may be chosen: prior j pays ln(1/π_j).

    Args:
        variances: v_j > 0.
        weights: π_j > 0 with Σ π_j ≤ 1; None for equal weights.
        covariance: P, ``(m, m)`` or a diagonal ``(m,)``; None for the identity.
    """

    variances: tuple[float, ...]
    weights: tuple[float, ...] | None = None
    covariance: NDArray[np.float64] | None = later_field()

    def __post_init__(self) -> None:
        variances = tuple(float(value) for value in self.variances)
        if not variances:
            raise ValueError("`PriorGrid(variances=...)` must not be empty.")
        for value in variances:
            _positive(value, "PriorGrid(variances=...)")
        given = self.weights if self.weights is not None else (1.0 / len(variances),) * len(variances)
        weights = tuple(float(weight) for weight in given)
        if len(weights) != len(variances) or not all(w > 0 for w in weights) or math.fsum(weights) > 1 + 1e-12:
            raise ValueError(
                "`PriorGrid(weights=...)` must be > 0, one a prior, with a sum of at most 1; "
                f"got {len(weights)} for {len(variances)} priors, sum {math.fsum(weights):.6g}."
            )
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "weights", weights)
        if self.covariance is not None:
            covariance = np.array(self.covariance, dtype=np.float64)
            if covariance.ndim not in (1, 2) or not np.isfinite(covariance).all():
                raise ValueError(
                    f"`PriorGrid(covariance=...)` must be finite, shape (m, m) or (m,); got shape {covariance.shape}."
                )
            covariance.flags.writeable = False
            object.__setattr__(self, "covariance", covariance)

    @classmethod
    def geometric(cls, largest: float, *, ratio: float = 2.0, size: int = 20) -> PriorGrid:
        """v_j = largest · ratio^{−j}, π_j = 6/(π²(j+1)²) (Langford and Caruana 2001)."""
        _positive(largest, "PriorGrid.geometric(largest=...)")
        if not (ratio > 1 and size >= 1):
            raise ValueError(f"`PriorGrid.geometric` needs ratio > 1 and size >= 1; got {ratio} and {size}.")
        variances = tuple(largest * ratio**-j for j in range(size))
        return cls(variances=variances, weights=tuple(6.0 / (math.pi * (j + 1)) ** 2 for j in range(size)))

    def divergences(
        self, covariance: ArrayLike, *, mean: ArrayLike | None = None, prior_mean: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """KL to each prior, shape ``(J,)``; see `gaussian_kl`."""
        shape = 1.0 if self.covariance is None else np.asarray(self.covariance, dtype=np.float64)
        return np.array([gaussian_kl(covariance, v * shape, mean=mean, prior_mean=prior_mean) for v in self.variances])


@keyword_setting
class DataDependentPrior(Setting):
    """A prior chosen after seeing the sample, unpaid: the result is a diagnostic, not a bound."""


Loss = BoundedLoss | SubGaussianLoss | UnboundedLoss
Prior = FixedPrior | PriorGrid | DataDependentPrior


# ---------------------------------------------------------------------------------------------------- the terms


@dataclass(frozen=True, kw_only=True)
class FullPrior:
    """What a prior of covariance P, not diagonal along H's eigenvectors, does to the divergence (at v = 1).

    Args:
        variance_ratio: (P⁻¹Σ)_ii, shape ``(m,)``.
        mean_shift: Δ_i (P⁻¹Δ)_i, Δ = m − m_P, shape ``(m,)``.
        kl: the divergence, nats.
    """

    variance_ratio: NDArray[np.float64]
    mean_shift: NDArray[np.float64]
    kl: float


@dataclass(frozen=True, kw_only=True)
class PacBayesTerms:
    """The moving parts of the bound, direction by direction in H's eigenbasis.

    Args:
        curvatures: λ, shape ``(m,)``.
        variances: σ², shape ``(m,)``: the diagonal of the posterior covariance in H's eigenbasis.
        prior_variance: σ_P², a number or shape ``(m,)``; v, a number, where there is a `full_prior`.
        mean: posterior mean minus the optimum, shape ``(m,)``, or None for 0.
        prior_mean: prior mean minus the optimum, shape ``(m,)``, or None for 0.
        total_correlation: −½ ln det R ≥ 0, nats: what the off-diagonal entries add to the KL (S3).
        residual_risk: r₀, the loss at the optimum.
        full_prior: the prior's covariance at work, where it is not diagonal here; None else.
    """

    curvatures: NDArray[np.float64]
    variances: NDArray[np.float64]
    prior_variance: float | NDArray[np.float64]
    mean: NDArray[np.float64] | None = None
    prior_mean: NDArray[np.float64] | None = None
    total_correlation: float = 0.0
    residual_risk: float = 0.0
    full_prior: FullPrior | None = None

    @property
    def curvature_times_variance(self) -> NDArray[np.float64]:
        """λσ², the paper's first dominating term, in units of the loss."""
        return self.curvatures * self.variances

    @property
    def negative_log_variance(self) -> NDArray[np.float64]:
        """−ln σ², the paper's second dominating term."""
        return -np.log(self.variances)

    @property
    def variance_ratio(self) -> NDArray[np.float64]:
        """σ²/σ_P²; (P⁻¹Σ)_ii/v under a full prior."""
        return (self.variances if self.full_prior is None else self.full_prior.variance_ratio) / self.prior_variance

    @property
    def mean_curvature(self) -> NDArray[np.float64]:
        """λ m², what a mean off the optimum adds to (twice) the risk."""
        return np.zeros_like(self.curvatures) if self.mean is None else self.curvatures * np.square(self.mean)

    @property
    def mean_shift(self) -> NDArray[np.float64]:
        """(m − m_P)²/σ_P², what the prior's place adds to (twice) the KL."""
        if self.full_prior is not None:
            return self.full_prior.mean_shift / self.prior_variance
        if self.mean is None and self.prior_mean is None:
            return np.zeros_like(self.curvatures)
        shift = (0.0 if self.mean is None else self.mean) - (0.0 if self.prior_mean is None else self.prior_mean)
        return np.square(shift) / self.prior_variance

    @property
    def expected_risk(self) -> float:
        """The risk r of (B1): exact also where H and C do not commute."""
        return self.residual_risk + 0.5 * float(np.sum(self.curvature_times_variance) + np.sum(self.mean_curvature))

    @property
    def kl_diagonal(self) -> float:
        """KL as if the directions were independent: the price of the correlations left out."""
        if self.full_prior is not None:
            return self.kl - self.total_correlation
        return gaussian_kl(self.variances, self.prior_variance, mean=self.mean, prior_mean=self.prior_mean)

    @property
    def kl(self) -> float:
        """KL of (B1), the price of the correlations included."""
        full = self.full_prior
        if full is not None:
            scale = float(self.prior_variance)
            spread = float(np.sum(full.variance_ratio) + np.sum(full.mean_shift))
            return full.kl + 0.5 * ((1.0 / scale - 1.0) * spread + len(self.variances) * math.log(scale))
        return self.kl_diagonal + self.total_correlation


def pac_bayes_terms(
    problem: Quadratic | ArrayLike,
    covariance: ArrayLike,
    *,
    prior_variance: float | ArrayLike,
    mean: ArrayLike | None = None,
    prior_mean: ArrayLike | None = None,
    residual_risk: float = 0.0,
) -> PacBayesTerms:
    """Per-direction terms of risk and divergence, equations (B1).

    Args:
        problem: the quadratic, or its curvatures λ > 0 alone, shape ``(m,)``, if everything is given in H's eigenbasis.
        covariance: of the posterior: ``(m, m)`` in the coordinates of `problem`, or variances ``(m,)`` (then H must be
            diagonal). With (m,) throughout the cost is O(m) and no matrix is formed.
        prior_variance: σ_P² > 0 of an isotropic prior; its covariance in the coordinates of `problem` as a matrix
            ``(m, m)``, or as a diagonal ``(m,)``.
        mean: posterior mean, in the coordinates of `problem`, shape ``(m,)``; None for its optimum.
        prior_mean: prior mean, likewise; None for the origin.
        residual_risk: loss at the optimum, ≥ 0.

    Raises:
        ValueError: if a shape differs from the problem's, a variance is not positive, a covariance is not positive
            definite, or posterior variances are given as a vector where H is not diagonal.
    """
    where = "pac_bayes_terms"
    optimum: NDArray[np.float64] | None = None
    if isinstance(problem, Quadratic):
        diagonal = problem.hessian.ndim == 1
        curvatures, optimum = problem.hessian, problem.optimum if problem.optimum.any() else None
    else:
        diagonal, curvatures = True, np.asarray(problem, dtype=np.float64)
        if curvatures.ndim != 1 or curvatures.size == 0 or not ((curvatures > 0) & np.isfinite(curvatures)).all():
            raise ValueError(f"`{where}(problem=...)` must be a Quadratic or curvatures > 0 of shape (m,).")
    size = len(curvatures)
    spread = np.asarray(covariance, dtype=np.float64)
    if spread.shape not in ((size,), (size, size)):
        raise ValueError(
            f"`{where}(covariance=...)` must have shape ({size},) or ({size}, {size}); got {spread.shape}."
        )
    if not np.isfinite(spread).all():
        raise ValueError(f"`{where}(covariance=...)` must be finite; got NaN or infinite entries.")
    prior = np.asarray(prior_variance, dtype=np.float64)
    if prior.shape not in ((), (size,), (size, size)):
        raise ValueError(
            f"`{where}(prior_variance=...)` must be a number or have shape ({size},) or ({size}, {size}); "
            f"got {prior.shape}."
        )
    if not np.isfinite(prior).all() or (prior.ndim < 2 and not (prior > 0).all()):
        raise ValueError(f"`{where}(prior_variance=...)` must be > 0 and finite; got {prior.min():.6g}.")
    if not (residual_risk >= 0 and math.isfinite(residual_risk)):
        raise ValueError(f"`{where}(residual_risk=...)` must be >= 0 and finite; got {residual_risk}.")
    if not diagonal and spread.ndim == 1:
        raise ValueError(f"`{where}` needs a diagonal Hessian where variances are given as a vector; H is a matrix.")
    price = 0.0
    places = {"mean": _placed(mean, "mean", size), "prior_mean": _placed(prior_mean, "prior_mean", size)}
    if optimum is not None:
        here, anchor = places["mean"], places["prior_mean"]
        places = {"mean": None if here is None else here - optimum, "prior_mean": -optimum}
        if anchor is not None:
            places["prior_mean"] = anchor - optimum
    if prior.ndim == 2 and spread.ndim == 1:
        spread = np.diag(spread)
    basis = None
    if spread.ndim == 2:
        if isinstance(problem, Quadratic) and not (diagonal and prior.ndim == 1):
            frame = eigenbasis(problem)
            curvatures, spread, basis = frame.curvatures, frame.inward(spread), frame.basis
            if basis is not None:
                places = {name: None if place is None else place @ basis for name, place in places.items()}
        variances = np.diag(spread).copy()
        _check_variances(variances, where)
        price = total_correlation(spread)
    else:
        variances = spread
        _check_variances(variances, where)
    full = None
    if prior.ndim == 2 or (prior.ndim == 1 and basis is not None):
        matrix = np.diag(prior) if prior.ndim == 1 else prior
        full = _full_prior(matrix if basis is None else basis.T @ matrix @ basis, spread, **places)
        prior = np.ones(())
    return PacBayesTerms(
        curvatures=curvatures,
        variances=variances,
        prior_variance=float(prior) if prior.ndim == 0 else prior,
        mean=places["mean"],
        prior_mean=places["prior_mean"],
        total_correlation=price,
        residual_risk=float(residual_risk),
        full_prior=full,
    )


def _full_prior(
    prior: NDArray[np.float64],
    covariance: NDArray[np.float64],
    mean: NDArray[np.float64] | None,
    prior_mean: NDArray[np.float64] | None,
) -> FullPrior:
    prior = 0.5 * (prior + prior.T)
    kl = gaussian_kl(covariance, prior, mean=mean, prior_mean=prior_mean)  # refuses what is not a covariance
    shift = np.zeros(len(prior)) + (0.0 if mean is None else mean) - (0.0 if prior_mean is None else prior_mean)
    factor = scipy.linalg.cho_factor(prior)
    return FullPrior(
        variance_ratio=np.diag(scipy.linalg.cho_solve(factor, covariance)).copy(),
        mean_shift=shift * scipy.linalg.cho_solve(factor, shift),
        kl=kl,
    )


def _check_variances(variances: NDArray[np.float64], where: str) -> None:
    if not (variances > 0).all():
        raise ValueError(
            f"`{where}(covariance=...)` must be positive definite; got a smallest variance of {variances.min():.6g}."
        )


def _placed(value: ArrayLike | None, name: str, size: int) -> NDArray[np.float64] | None:
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"`pac_bayes_terms({name}=...)` must be finite, of shape ({size},); got shape {array.shape}.")
    return array


def optimal_variance(curvatures: ArrayLike, prior_variance: ArrayLike, kl_price: ArrayLike) -> NDArray[np.float64]:
    """σ²* = 1/(1/σ_P² + λ/β): the variance at which a direction's share of the bound is least.

    Args:
        curvatures: λ ≥ 0.
        prior_variance: σ_P² > 0.
        kl_price: β > 0, units of risk a nat (`PacBayesBound.kl_price`).
    """
    return 1.0 / (1.0 / np.asarray(prior_variance, dtype=np.float64) + np.asarray(curvatures) / np.asarray(kl_price))


# ---------------------------------------------------------------------------------------------------- the bound


@dataclass(frozen=True, kw_only=True)
class PacBayesBound:
    """A bound on the risk, or a number that looks like one: `is_bound` says which, `reasons` why not.

    Args:
        value: of the bound, shape of the broadcast inputs (a float for scalars), in units of the loss.
        empirical_risk: r, as given.
        kl: the divergence used, ln(1/π_j) not included.
        kl_price: β = (∂B/∂KL)/(∂B/∂r), units of risk a nat.
        method: ``"seeger"``, ``"mcallester"`` or ``"catoni"``.
        is_bound: whether every hypothesis was asserted.
        hypotheses: what must hold, in words.
        reasons: why it is not a bound; empty if it is.
        vacuous: whether the value reaches the loss's upper end or `trivial_risk`; None if neither is known.
        prior_index: which prior of the grid was chosen; 0 for a single one.
        catoni_constant: C used; None for the other methods.
    """

    value: float | NDArray[np.float64]
    empirical_risk: float | NDArray[np.float64]
    kl: float | NDArray[np.float64]
    kl_price: float | NDArray[np.float64]
    method: Method
    is_bound: bool
    hypotheses: tuple[str, ...]
    reasons: tuple[str, ...]
    vacuous: bool | NDArray[np.bool_] | None
    prior_index: int | NDArray[np.int_]
    catoni_constant: float | NDArray[np.float64] | None = None

    @property
    def slack(self) -> float | NDArray[np.float64]:
        """Bound minus empirical risk: what the sample size and the divergence cost."""
        return self.value - self.empirical_risk

    @property
    def label(self) -> str:
        """``"bound"`` or ``"diagnostic, not a bound"``."""
        return "bound" if self.is_bound else "diagnostic, not a bound"

    def require(self) -> float | NDArray[np.float64]:
        """The value, if it is a bound.

        Raises:
            ValueError: naming what keeps it from being one.
        """
        if not self.is_bound:
            raise ValueError(f"`pac_bayes_bound` gave a diagnostic, not a bound: {'; '.join(self.reasons)}.")
        return self.value

    def __str__(self) -> str:
        value = f"{self.value:.6g}" if isinstance(self.value, float) else f"{np.size(self.value)} values"
        words = [self.label]
        if self.vacuous is not None and np.any(self.vacuous):
            share = np.mean(self.vacuous)
            words.append("vacuous" if share == 1 else f"vacuous in {share:.0%}")
        return f"{value} ({self.method}; {', '.join(words)})"


def pac_bayes_bound(
    empirical_risk: ArrayLike,
    kl: ArrayLike,
    *,
    num_samples: int,
    delta: float,
    loss: Loss,
    prior: Prior,
    method: Method = "seeger",
    catoni_constant: float | Sequence[float] | None = None,
) -> PacBayesBound:
    """Bound on the expected risk of the posterior, with every hypothesis said.

    Args:
        empirical_risk: r = E_Q of the training loss, any shape, in units of the loss.
        kl: KL(Q ‖ P) ≥ 0 in nats, broadcastable; with a `PriorGrid` one more last axis, the priors.
        num_samples: n ≥ 1 independent training samples.
        delta: δ in (0, 1), the chance that the bound fails.
        loss: what is assumed of the loss, and why.
        prior: how the prior was chosen.
        method: ``"seeger"`` needs a `BoundedLoss`.
        catoni_constant: C > 0 for ``"catoni"``: fixed before the data, or a sequence of K of which the best is taken
            at a cost of ln K.

    Raises:
        ValueError: if δ is outside (0, 1), n < 1, a KL is negative, a risk lies outside the loss's range, C is missing
            or given to another method, or the method does not apply to the loss.
    """
    where = "pac_bayes_bound"
    _check_request(num_samples, delta, loss, prior, method)
    risk, divergence = np.asarray(empirical_risk, dtype=np.float64), np.asarray(kl, dtype=np.float64)
    if not ((divergence >= 0) & np.isfinite(divergence)).all():
        raise ValueError(f"`{where}(kl=...)` must be >= 0 and finite; got {divergence.min()}.")
    upper = loss.upper if isinstance(loss, BoundedLoss) else math.inf
    if not ((risk >= 0) & (risk <= upper) & np.isfinite(risk)).all():
        worst = risk.flat[int(np.argmax(~((risk >= 0) & (risk <= upper) & np.isfinite(risk))))]
        raise ValueError(f"`{where}(empirical_risk=...)` must be in [0, {upper:g}] for this loss; got {worst}.")
    cost = np.zeros(1)
    if isinstance(prior, PriorGrid):
        if divergence.ndim == 0 or divergence.shape[-1] != len(prior.variances):
            raise ValueError(
                f"`{where}(kl=...)` must have a last axis of the grid's {len(prior.variances)} priors; "
                f"got shape {divergence.shape}."
            )
        cost = -np.log(np.asarray(prior.weights))
    else:
        divergence = divergence[..., None]
    risk, divergence = np.broadcast_arrays(risk[..., None], divergence)
    index = np.argmin(divergence + cost, axis=-1)  # every bound rises with KL + ln(1/π)
    paid = np.take_along_axis(divergence + cost, index[..., None], -1)[..., 0]
    divergence = np.take_along_axis(divergence, index[..., None], -1)[..., 0]
    risk = risk[..., 0]
    constant: NDArray[np.float64] | None = None
    if method == "catoni":
        constants = _catoni_constants(catoni_constant)
        value, price, constant = _catoni(risk, paid, num_samples, delta, loss, constants)
    elif catoni_constant is not None:
        raise ValueError(f"`{where}(catoni_constant=...)` belongs to method='catoni'; got method={method!r}.")
    elif method == "seeger":
        assert isinstance(loss, BoundedLoss)
        value, price = _seeger(risk / upper, paid, num_samples, delta)
        value, price = value * upper, price * upper
    else:
        value, price = _mcallester(risk, paid, num_samples, delta, loss)
    hypotheses, reasons = _hypotheses(num_samples, delta, loss, prior, method, constant)
    trivial = loss.upper if isinstance(loss, BoundedLoss) else loss.trivial_risk
    vacuous = None if trivial is None else value >= trivial
    return PacBayesBound(
        value=_scalar(value),
        empirical_risk=_scalar(risk),
        kl=_scalar(divergence),
        kl_price=_scalar(price),
        method=method,
        is_bound=not reasons,
        hypotheses=hypotheses,
        reasons=reasons,
        vacuous=vacuous if vacuous is None else (bool(vacuous) if vacuous.ndim == 0 else vacuous),
        prior_index=int(index) if index.ndim == 0 else index,
        catoni_constant=None if constant is None else _scalar(constant),
    )


def _check_request(num_samples: int, delta: float, loss: Loss, prior: Prior, method: str) -> None:
    where = "pac_bayes_bound"
    if not (num_samples >= 1 and num_samples == math.floor(num_samples)):
        raise ValueError(f"`{where}(num_samples=...)` must be a whole number >= 1; got {num_samples}.")
    if not 0 < delta < 1:
        raise ValueError(f"`{where}(delta=...)` must be in (0, 1); got {delta}.")
    if method not in METHODS:
        raise ValueError(f"`{where}(method=...)` must be one of {METHODS}; got {method!r}.")
    if not isinstance(loss, BoundedLoss | SubGaussianLoss | UnboundedLoss):
        raise ValueError(f"`{where}(loss=...)` must say what is assumed of the loss; got {loss!r}.")
    if not isinstance(prior, FixedPrior | PriorGrid | DataDependentPrior):
        raise ValueError(f"`{where}(prior=...)` must say how the prior was chosen; got {prior!r}.")
    if method == "seeger" and not isinstance(loss, BoundedLoss):
        raise ValueError(f"`{where}(method='seeger')` must have a BoundedLoss; got {type(loss).__name__}.")
    if method == "mcallester" and isinstance(loss, SubGaussianLoss) and num_samples < 2:
        raise ValueError(f"`{where}(num_samples=...)` must be >= 2 for a sub-Gaussian loss; got {num_samples}.")


def _seeger(
    risk: NDArray[np.float64], paid: NDArray[np.float64], n: int, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    complexity = (paid + math.log(float(maurer_moment(n)) / delta)) / n
    value = np.asarray(kl_inverse(risk, complexity))
    # kl(r ‖ B) = c: dB/dKL over dB/dr is 1/(n ln[B(1−r)/(r(1−B))]); where B = 1 or r = 0 it is 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        price = 1.0 / (n * (np.log(value) - np.log(risk) + np.log1p(-risk) - np.log1p(-value)))
    return value, np.where(np.isfinite(price), price, 0.0)


def _mcallester(
    risk: NDArray[np.float64], paid: NDArray[np.float64], n: int, delta: float, loss: Loss
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if isinstance(loss, SubGaussianLoss):
        scale, complexity = 2.0 * loss.constant, (paid + 0.5 * math.log(n) - math.log(delta)) / (2.0 * (n - 1))
        per_nat = 1.0 / (2.0 * (n - 1))
    else:
        scale = loss.upper if isinstance(loss, BoundedLoss) else loss.scale
        complexity, per_nat = (paid + math.log(float(maurer_moment(n)) / delta)) / (2.0 * n), 1.0 / (2.0 * n)
    root = np.sqrt(complexity)
    return risk + scale * root, 0.5 * scale * per_nat / root


def _catoni(
    risk: NDArray[np.float64],
    paid: NDArray[np.float64],
    n: int,
    delta: float,
    loss: Loss,
    constants: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    complexity = ((paid + math.log(len(constants) / delta)) / n)[..., None]
    if isinstance(loss, BoundedLoss):
        scale = loss.upper
        value = scale * np.expm1(-constants * (risk[..., None] / scale) - complexity) / np.expm1(-constants)
    else:
        scale = 2.0 * loss.constant if isinstance(loss, SubGaussianLoss) else loss.scale
        value = risk[..., None] + scale * (complexity / constants + constants / 8.0)
    best = np.argmin(value, axis=-1)
    constant = constants[best]
    return np.take_along_axis(value, best[..., None], -1)[..., 0], scale / (n * constant), constant


def _catoni_constants(given: float | Sequence[float] | None) -> NDArray[np.float64]:
    constants = np.atleast_1d(np.asarray([] if given is None else given, dtype=np.float64))
    if constants.ndim != 1 or constants.size == 0 or not ((constants > 0) & np.isfinite(constants)).all():
        raise ValueError(f"`pac_bayes_bound(catoni_constant=...)` must be > 0, one or several; got {given}.")
    return constants


def _hypotheses(
    n: int, delta: float, loss: Loss, prior: Prior, method: Method, constant: NDArray[np.float64] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    hypotheses, reasons = [f"n = {n} independent samples", f"holds with probability >= {1 - delta:g}"], []
    if isinstance(loss, UnboundedLoss):
        reasons.append("the loss is unbounded and no sub-Gaussian constant was given")
    else:
        hypotheses.append(loss.hypothesis)
    if isinstance(prior, FixedPrior):
        hypotheses.append(f"the prior was fixed before the data: {prior.because}")
    elif isinstance(prior, PriorGrid):
        hypotheses.append(f"{len(prior.variances)} priors were fixed before the data, the chosen one pays ln(1/weight)")
    else:
        reasons.append("the prior was chosen after seeing the data, and not paid for")
    if method == "catoni" and constant is not None:
        hypotheses.append("Catoni's constant, or its grid, was fixed before the data")
    return tuple(hypotheses), tuple(reasons)


def _scalar(value: NDArray[np.float64]) -> float | NDArray[np.float64]:
    value = np.asarray(value)
    return float(value) if value.ndim == 0 else value


# ---------------------------------------------------------------------------------------------------- over time


@dataclass(frozen=True, kw_only=True)
class PacBayesPath:
    """Risk and divergence of the posterior at each of K steps after a change of learning rate or landscape.

    Args:
        steps: updates since the change, shape ``(K,)``.
        expected_risk: (B1) under the curvature after the change, shape ``(K,)``.
        kl: (B1), shape ``(K,)``, or ``(K, J)`` for a grid of J priors.
        variances: σ² in the eigenbasis of H after the change, shape ``(K, m)``.
        means: posterior mean in the problem's coordinates, shape ``(K, m)``.
        total_correlation: −½ ln det R at each step, shape ``(K,)``.
    """

    steps: NDArray[np.int64]
    expected_risk: NDArray[np.float64]
    kl: NDArray[np.float64]
    variances: NDArray[np.float64]
    means: NDArray[np.float64]
    total_correlation: NDArray[np.float64]


def pac_bayes_path(
    problem: Quadratic,
    before: MomentumSGD | None,
    after: MomentumSGD,
    steps: int | Sequence[int] | NDArray[np.integer],
    *,
    prior: float | ArrayLike | PriorGrid,
    problem_after: Quadratic | None = None,
    initial: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    prior_mean: ArrayLike | None = None,
    residual_risk: float = 0.0,
    undampened_first_step: bool = False,
) -> PacBayesPath:
    """The bound's two ingredients at any time after a change, from (T1) and the mean path; no commutation needed.

    Q at step k is the marginal law of w_k over everything random in the optimizer since the start, given the training
    sample. Feed `expected_risk` and `kl` to `pac_bayes_bound`.

    Args:
        problem: H and C before the change.
        before: optimizer whose stationary law is the state at step 0; None where `initial` is given.
        after: optimizer from step 1 on.
        steps: rising numbers of updates since the change; 0 is the old law under the new curvature.
        prior: σ_P² of one isotropic prior, its covariance as in `pac_bayes_terms`, or a grid of priors.
        problem_after: H and C after the change (a spike); None if they stay.
        initial: covariance of (w, v) or of w at step 0 instead of the stationary law.
        mean: of (w, v), shape ``(2m,)``, or of w, shape ``(m,)``, at step 0; None for where `before` settles, or
            `after` where there is no `before` (`stationary_mean`): w* unless weight decay moves it.
        prior_mean: shape ``(m,)``; None for the origin.
        residual_risk: loss at the optimum.
        undampened_first_step: torch's start; needs an `initial` and a `mean` of w alone.

    Raises:
        UnstableError: as `transient_covariance`.
        ValueError: as `transient_covariance`, `mean_path` and `pac_bayes_terms`; a posterior without variance (a start
            at one point, step 0) has no divergence.
    """
    changed = problem if problem_after is None else problem_after
    if isinstance(prior, PriorGrid):
        scales, shape = prior.variances, 1.0 if prior.covariance is None else prior.covariance
    elif np.ndim(prior) == 0:
        _positive(float(np.asarray(prior)), "pac_bayes_path(prior=...)")
        scales, shape = (float(np.asarray(prior)),), 1.0
    else:
        scales, shape = (1.0,), prior
    moved = transient_covariance(
        problem, before, after, steps, initial, problem_after=problem_after, undampened_first_step=undampened_first_step
    )
    if mean is None:
        mean = _settled(problem, before) if before is not None and initial is None else _settled(changed, after)
    means = mean_path(changed, after, mean, steps, undampened_first_step=undampened_first_step)[:, : changed.dimension]
    rows = [
        pac_bayes_terms(
            changed,
            covariance,
            prior_variance=shape,
            mean=place,
            prior_mean=prior_mean,
            residual_risk=residual_risk,
        )
        for covariance, place in zip(moved.require(), means, strict=True)
    ]
    divergences = np.array([[_with_scale(row, one).kl for one in scales] for row in rows])
    return PacBayesPath(
        steps=moved.steps,
        expected_risk=np.array([row.expected_risk for row in rows]),
        kl=divergences if isinstance(prior, PriorGrid) else divergences[:, 0],
        variances=np.array([row.variances for row in rows]),
        means=means,
        total_correlation=np.array([row.total_correlation for row in rows]),
    )


def _settled(problem: Quadratic, optimizer: MomentumSGD) -> NDArray[np.float64]:
    """Where the mean rests: the shifted optimum; w* where there is no stationary law to have a mean."""
    try:
        return stationary_mean(problem, optimizer)
    except UnstableError:
        return problem.optimum


def _with_scale(terms: PacBayesTerms, scale: float) -> PacBayesTerms:
    return dataclasses.replace(terms, prior_variance=scale * terms.prior_variance)


# ---------------------------------------------------------------------------------------------------- flatness


@dataclass(frozen=True, kw_only=True)
class VarianceElasticities:
    """Percentage change of a direction's stationary variance for one percent of change of a quantity, shape ``(m,)``.

    Args:
        variances: σ².
        curvature: ∂ ln σ²/∂ ln λ.
        noise: ∂ ln σ²/∂ ln γ, which is 1.
        learning_rate: ∂ ln σ²/∂ ln η.
        curvature_times_variance: ∂ ln(λσ²)/∂ ln λ.
    """

    variances: NDArray[np.float64]
    curvature: NDArray[np.float64]
    noise: NDArray[np.float64]
    learning_rate: NDArray[np.float64]

    @property
    def curvature_times_variance(self) -> NDArray[np.float64]:
        """∂ ln(λσ²)/∂ ln λ."""
        return 1.0 + self.curvature


def variance_elasticities(problem: Quadratic, optimizer: MomentumSGD) -> VarianceElasticities:
    """How σ² of (S1) answers to curvature, noise and learning rate, direction by direction; exact without commutation.

    Heavy ball, no weight decay: ∂ ln σ²/∂ ln λ = −1 + a/(2(1+μ) − a), a = (1−d)ηλ. Flattening widens the posterior
    exactly while a < 1 + μ; at a = 1 + μ it does nothing, and beyond it narrows the posterior. The learning rate's
    elasticity is that plus 2. In general σ² = η²K²γ N/((1−μ+φa) a (2(1+μ) − (1+2φ)a)), N = 1 + μ + φ(1+2φ)a,
    with K, φ of `stationary` (Nesterov: 1, μ). Weight decay δ multiplies the curvature's elasticity by λ/(λ+δ).

    Returns:
        `VarianceElasticities`, in the order of `eigenbasis(problem).curvatures`; O(m) for spectra.

    Raises:
        UnstableError: if some direction has no stationary law.
    """
    if problem.is_diagonal:
        curvatures, gamma = problem.hessian, problem.noise_cov
    else:
        basis = eigenbasis(problem)
        curvatures, gamma = basis.curvatures, np.diag(basis.noise)
    mode = stable_modes(curvatures, optimizer)
    a, ahead = mode.effective_rate, mode.ahead
    reach = 1 + 2 * ahead
    numerator = 1 + mode.momentum + ahead * reach * a
    rise = a * ahead * reach / numerator - ahead * a / mode.contraction + reach * a / mode.at_minus_one
    step = optimizer.learning_rate * mode.gain
    variances = step**2 * gamma * numerator / (mode.contraction * a * mode.at_minus_one)
    in_rate = rise - 1.0
    share = curvatures / (curvatures + optimizer.weight_decay)
    return VarianceElasticities(
        variances=variances,
        curvature=in_rate * share,
        noise=np.ones_like(a),
        learning_rate=in_rate + 2.0,
    )


def with_factors(problem: Quadratic, *, curvature: float = 1.0, noise: float = 1.0) -> Quadratic:
    """The problem (sH, tC): a spike (s, t > 1) or flattening as by adversarial weight perturbation (s, t < 1)."""
    for name, factor in (("curvature", curvature), ("noise", noise)):
        _positive(factor, f"with_factors({name}=...)")
    return dataclasses.replace(problem, hessian=curvature * problem.hessian, noise_cov=noise * problem.noise_cov)
