r"""Every mode as a two-step recursion, and the one rule that says whether it is stable.

Model     Along an eigenvector of H with curvature λ and weight decay δ, momentum SGD is a two-step recursion with
          characteristic polynomial z² − s z + q. Write
              e = 1 − q,   u = 1 − s + q (its value at z = 1),   w = 1 + s + q (its value at z = −1).
          With the step w ← w − η (k g + ℓ v) and v ← μ v + (1−d) g, put
              K = k(1−μ) + ℓ(1−d),   φ = kμ/K,   a = K η (λ+δ);   then
              q = μ − φa,   e = 1 − μ + φa,   u = a,   w = 2(1+μ) − (1+2φ)a.
          Heavy ball: K = 1−d, φ = 0.   Nesterov: K = 1, φ = μ.   Quasi-hyperbolic (d = μ): K = 1−μ, φ = (1−ν)μ/(1−μ),
          where ν = 0 is plain SGD: a root and a zero at μ cancel.
Rule      Stable iff u > 0, w > 0 and 0 < e < 2 (Jury), that is 0 < a < 2(1+μ)/(1+2φ). `Stability.ratio` is a over that
          limit: a stationary law exists for 0 < ratio < 1. At a ratio of 0 or below nothing pulls back (curvature +
          weight decay ≤ 0), whatever the rate; at 1 or above the step is too long.
Accuracy  a, u, w and e are formed in pairs of doubles: a margin such as 2(1+μ) − a is right to the last bit.
Oracle    The roots themselves, `numpy.linalg.eigvals` of the transition.
Source    Jury's conditions (Jury 1964); Polyak 1964 for heavy ball; Gitman, Lang, Zhang and Xiao (NeurIPS 2019, arXiv
          1910.13962) for quasi-hyperbolic momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form import compensated as dd
from theory.closed_form.compensated import Pair
from theory.closed_form.eigenbasis import frame
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import require_type
from theory.solution import UnstableError


class Margins(NamedTuple):
    """K and φ, and a, s, q, e and w of every mode as pairs of doubles (u is a)."""

    gain: float
    ahead: float
    rate: Pair
    total: Pair
    product: Pair
    contraction: Pair
    at_minus_one: Pair


@dataclass(frozen=True)
class Modes:
    """The two-step recursions of all modes: μ, K, φ, a, e, u, w of the module's docstring."""

    momentum: float
    gain: float  # K
    ahead: float  # φ
    effective_rate: NDArray[np.float64]  # a = K η (λ + weight decay)
    rate_low: NDArray[np.float64]  # what a lost when it was rounded
    contraction: NDArray[np.float64]  # e = 1 − q
    at_plus_one: NDArray[np.float64]  # u = characteristic polynomial at z = 1
    at_minus_one: NDArray[np.float64]  # w = characteristic polynomial at z = −1

    @property
    def product(self) -> NDArray[np.float64]:
        """q, the product of the two roots."""
        return 1.0 - self.contraction

    @property
    def total(self) -> NDArray[np.float64]:
        """s, the sum of the two roots."""
        return 2.0 - self.contraction - self.at_plus_one

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Which modes forget their past."""
        return (self.at_plus_one > 0) & (self.at_minus_one > 0) & (self.contraction > 0) & (self.contraction < 2)

    @property
    def spectral_radius(self) -> NDArray[np.float64]:
        """Modulus of the larger root, mode by mode."""
        s, q = self.total, self.product
        discriminant = s * s - 4 * q
        real = 0.5 * (np.abs(s) + np.sqrt(np.maximum(discriminant, 0.0)))
        return np.where(discriminant < 0, np.sqrt(np.maximum(q, 0.0)), real)


def margins(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> Margins:
    """The coefficients of each mode's recursion to 32 digits, the settings taken as exact.

    Raises:
        ValueError: if the optimizer has parameter groups, whose modes only a `frame` knows.
    """
    one_group(optimizer)
    lam = np.asarray(curvatures, dtype=np.float64)
    mu = optimizer.momentum
    on_gradient, on_buffer = (dd.pair(x) for x in optimizer.direction)
    keep = dd.exact_sum(1.0, -optimizer.dampening if mu else 0.0)
    gain = dd.add(dd.multiply(on_gradient, dd.exact_sum(1.0, -mu)), dd.multiply(on_buffer, keep))
    ahead = dd.divide(dd.multiply(on_gradient, dd.pair(mu)), gain)
    shifted = dd.exact_sum(lam, np.full_like(lam, optimizer.weight_decay))
    a = dd.multiply(dd.multiply(gain, dd.pair(optimizer.learning_rate)), shifted)
    one, two, product = (dd.pair(np.full_like(lam, number)) for number in (1.0, 2.0, mu))
    contraction, full = dd.exact_sum(one[0], -product[0]), dd.exact_sum(one[0], product[0])
    total, at_minus_one = dd.subtract(full, a), dd.subtract(dd.multiply(two, full), a)
    if ahead[0] != 0:
        early = dd.multiply(ahead, a)
        product, total = dd.subtract(product, early), dd.subtract(total, early)
        contraction = dd.add(contraction, early)
        at_minus_one = dd.subtract(at_minus_one, dd.multiply(two, early))
    return Margins(float(gain[0]), float(ahead[0]), a, total, product, contraction, at_minus_one)


def one_group(optimizer: MomentumSGD) -> None:
    """Refuse parameter groups where a formula is about H's eigenvectors.

    Raises:
        ValueError: if the optimizer has them.
    """
    if optimizer.groups is not None:
        raise ValueError(
            "`MomentumSGD(groups=...)` has no modes along H's eigenvectors, which this formula is about; "
            "covariances, paths and `stability` of a Quadratic take parameter groups."
        )


def modes(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> Modes:
    """The recursion of each mode with curvature λ, shape ``(m,)``; stability is not checked."""
    return as_modes(margins(curvatures, optimizer), optimizer)


def as_modes(found: Margins, optimizer: MomentumSGD) -> Modes:
    """Margins rounded to doubles."""
    return Modes(
        momentum=optimizer.momentum,
        gain=found.gain,
        ahead=found.ahead,
        effective_rate=found.rate[0],
        rate_low=found.rate[1],
        contraction=found.contraction[0],
        at_plus_one=found.rate[0],
        at_minus_one=found.at_minus_one[0],
    )


def stable_modes(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> Modes:
    """`modes`, where a stationary law is asked for.

    Raises:
        UnstableError: naming the worst mode, and the largest stable learning rate where there is one.
    """
    mode = modes(curvatures, optimizer)
    if mode.stable.all():
        return mode
    stable_pull(curvatures, optimizer)
    worst = int(np.argmax(np.where(mode.stable, -np.inf, mode.effective_rate)))
    limit = largest_stable_learning_rate(float(curvatures.max()), optimizer)
    raise UnstableError(
        f"`MomentumSGD(learning_rate=...)` must be < {limit:.6g} for this Hessian; got {optimizer.learning_rate:.6g}, "
        f"at which mode {worst} (curvature {curvatures[worst]:.6g}) has spectral radius "
        f"{float(mode.spectral_radius[worst]):.6g}."
    )


def stable_pull(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> None:
    """Refuse curvatures at which nothing pulls back, so that no learning rate is stable.

    Raises:
        UnstableError: naming the worst mode and the weight decay that would hold it.
    """
    one_group(optimizer)
    slack = int(np.argmin(curvatures))
    if not curvatures[slack] + optimizer.weight_decay > 0:
        raise UnstableError(
            f"`MomentumSGD(weight_decay=...)` must exceed {-float(curvatures[slack]):.6g} for a stationary law: mode "
            f"{slack} (curvature {curvatures[slack]:.6g}) is not pulled back; got {optimizer.weight_decay:.6g}."
        )


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Mode by mode, how far an optimizer is from the edge of stability.

    Args:
        curvatures: λ, shape ``(m,)``; with parameter groups those of D^{1/2} (H + decay) D^{1/2}.
        ratio: a over its largest stable value, shape ``(m,)``; a stationary law exists for 0 < ratio < 1.
        spectral_radius: modulus of the larger root, shape ``(m,)``.
        largest_stable_learning_rate: supremum of the rates at which every mode is stable; 0 if there is none.
    """

    curvatures: NDArray[np.float64]
    ratio: NDArray[np.float64]
    spectral_radius: NDArray[np.float64]
    largest_stable_learning_rate: float

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Which modes have a stationary law, shape ``(m,)``."""
        return (self.ratio > 0) & (self.ratio < 1)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Mode by mode: ``"stable"``, ``"not pulled back"`` (λ + decay ≤ 0) or ``"step too long"``."""
        return tuple(
            "stable" if good else "not pulled back" if ratio <= 0 else "step too long"
            for good, ratio in zip(self.stable, self.ratio, strict=True)
        )

    def __repr__(self) -> str:
        """One line: how many modes are stable, and the worst."""
        return (
            f"Stability({int(self.stable.sum())} of {len(self.ratio)} modes stable, ratio {self.ratio.min():.6g} to "
            f"{self.ratio.max():.6g}, largest stable learning rate {self.largest_stable_learning_rate:.6g})"
        )


def stability(problem: Quadratic | ArrayLike, optimizer: MomentumSGD) -> Stability:
    """How far each mode is from the edge of stability; unstable modes are part of the answer, not an error.

    Args:
        problem: a Quadratic, whose eigenvalues are taken, or curvatures λ, shape ``(m,)``.
        optimizer: η, μ, dampening, Nesterov or discount, weight decay, and parameter groups for a Quadratic.

    Raises:
        ValueError: if the curvatures are not finite numbers of shape (m,), or have parameter groups.
        TypeError: if the optimizer is not a MomentumSGD.
    """
    require_type(optimizer, MomentumSGD, "stability(optimizer=...)")
    if isinstance(problem, Quadratic):
        seen = frame(problem, optimizer)
        curvatures, optimizer = seen.curvatures, seen.optimizer
    else:
        curvatures = np.atleast_1d(np.asarray(problem, dtype=np.float64))
        if curvatures.ndim != 1 or curvatures.size == 0 or not np.isfinite(curvatures).all():
            raise ValueError(
                f"`stability(problem=...)` must be a Quadratic or finite curvatures, shape (m,); "
                f"got shape {curvatures.shape}."
            )
    mode = modes(curvatures, optimizer)
    pulled = bool((mode.at_plus_one > 0).all())
    return Stability(
        curvatures=curvatures,
        ratio=stability_ratio(curvatures + optimizer.weight_decay, optimizer.learning_rate, optimizer),
        spectral_radius=mode.spectral_radius,
        largest_stable_learning_rate=largest_stable_learning_rate(float(curvatures.max()), optimizer)
        if pulled
        else 0.0,
    )


def stability_ratio(
    pull: ArrayLike, learning_rate: ArrayLike, optimizer: MomentumSGD, momentum: ArrayLike | None = None
) -> NDArray[np.float64]:
    """η(λ+δ) over its largest stable value, broadcast over curvatures, rates and momenta.

    Args:
        pull: λ + δ.
        learning_rate: η in place of the optimizer's.
        optimizer: its dampening, Nesterov and discount.
        momentum: μ in place of the optimizer's.
    """
    mu = np.asarray(optimizer.momentum if momentum is None else momentum, dtype=np.float64)
    keep = np.where(mu > 0, 1.0 - optimizer.dampening, 1.0)
    on_gradient, on_buffer = (1.0, mu) if optimizer.nesterov else optimizer.direction
    reach = on_gradient * (1.0 + mu) + on_buffer * keep  # (1+2φ)K
    return np.asarray(learning_rate) * (reach * np.asarray(pull)) / (2.0 * (1.0 + mu))


def largest_stable_learning_rate(largest_curvature: float, optimizer: MomentumSGD) -> float:
    """Supremum of the learning rates that keep a mode of that curvature stable; 0 if nothing pulls it back.

    2(1+μ) / ((1+2φ)K(λ+δ)), δ the weight decay: heavy ball (1+2φ)K = 1−d, Nesterov 1+2μ, quasi-hyperbolic with d = μ
    1 + μ − 2νμ.
    """
    per_rate = float(stability_ratio(largest_curvature + optimizer.weight_decay, 1.0, optimizer))
    return 1.0 / per_rate if per_rate > 0 else 0.0
