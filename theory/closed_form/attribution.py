r"""What moved a posterior variance: the exact split of Δ ln σᵢ² into its causes.

Model     Two stationary states, (η, μ, λᵢ, γᵢ) before and after, with γᵢ = uᵢᵀCuᵢ along H's eigenvectors (S1, S3).
Result    σᵢ² = [Kη γᵢ / (2 λᵢ (1−μ))] · κᵢ,   κᵢ = 1/(1 − aᵢ/(2(1+μ))) for heavy ball, so that  (B2)
              Δ ln σᵢ² = Δ ln Kη + Δ ln γᵢ − Δ ln λᵢ − Δ ln(1−μ) + Δ ln κᵢ
          without remainder: the learning rate's part, the noise's, the curvature's, the momentum's (0 unless μ changes)
          and the step size's, which is what a finite ηλ adds to the small-step law. The rate is Kη (K = 1−d for
          heavy ball), a = Kηλ, weight decay adds to λ; with φ of `stationary` (Nesterov: μ)
              κ = (1 + aφ(1+2φ)/(1+μ)) / ((1 + aφ/(1−μ)) (1 − a(1+2φ)/(2(1+μ)))).
Pairs     A direction before is compared with the direction after that overlaps it most: the one-to-one assignment that
          maximises Σ (uᵢᵀu'ⱼ)², not the rank of the curvature, which changes exactly when something spikes.
Reading   If γ and λ rise by the same factor, their parts cancel and σ² falls by what the learning rate took.
Limits    η → 0: the step size's part vanishes.
Oracle    Differences of ln σ² from a Lyapunov solver, and from simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from theory.closed_form.eigenbasis import Eigenbasis, eigenbasis
from theory.closed_form.stability import stable_modes
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import require_type

#: The causes, in the order they are printed.
PARTS = ("learning_rate", "noise", "curvature", "step_size", "momentum")


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Additive parts of Δ ln σᵢ², each of shape ``(m,)``, modes in rising order of curvature before.

    Args:
        learning_rate: Δ ln(Kη), the same for all modes.
        noise: Δ ln γᵢ.
        curvature: −Δ ln(λᵢ + weight decay).
        step_size: Δ ln κᵢ.
        momentum: −Δ ln(1 − μ), the same for all modes.
        total: Δ ln σᵢ² of the two stationary laws, computed on its own.
        curvatures: λᵢ before and after, shape ``(2, m)``.
        variances: σᵢ² before and after, shape ``(2, m)``.
        match: (uᵢᵀu'ⱼ)² of each mode with the one it was paired with, shape ``(m,)``: 1 where the direction stayed;
            near ½ or below the pair is not one direction, and its split says little.
        unsettled: Δ ln of measured variances minus `total`, where variances were measured: what had not settled, or is
            not explained by the theory.
    """

    learning_rate: NDArray[np.float64]
    noise: NDArray[np.float64]
    curvature: NDArray[np.float64]
    step_size: NDArray[np.float64]
    momentum: NDArray[np.float64]
    total: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    variances: NDArray[np.float64]
    match: NDArray[np.float64]
    unsettled: NDArray[np.float64] | None = None

    def parts(self) -> dict[str, NDArray[np.float64]]:
        """The parts by name."""
        return {name: getattr(self, name) for name in PARTS}

    def main_cause(self) -> tuple[str, ...]:
        """For each mode the part that pushed hardest in the direction σ² went."""
        stacked = np.stack([getattr(self, name) for name in PARTS]) * np.where(self.total < 0, -1.0, 1.0)
        return tuple(PARTS[index] for index in np.argmax(stacked, axis=0))

    def to_text(self) -> str:
        """A table for the terminal: one line a mode, one column a part, in units of ln σ²."""
        shown = [name for name in PARTS if name != "momentum" or np.any(self.momentum != 0)]
        heads = ["mode", "curvature", *(name.replace("_", " ") for name in shown), "total"]
        columns = [getattr(self, name) for name in shown] + [self.total]
        if np.any(self.match < 0.995):
            heads, columns = [*heads, "match"], [*columns, self.match]
        if self.unsettled is not None:
            heads, columns = [*heads, "unsettled"], [*columns, self.unsettled]
        lines = ["  ".join(f"{head:>13}" for head in [*heads, "main cause"])]
        for mode, cause in enumerate(self.main_cause()):
            cells = [
                f"{mode:>13}",
                f"{self.curvatures[0, mode]:>13.6g}",
                *(f"{column[mode]:>+13.6f}" for column in columns),
            ]
            lines.append("  ".join([*cells, f"{cause.replace('_', ' '):>13}"]))
        return "\n".join(lines)


def attribution(
    problem: Quadratic,
    before: MomentumSGD,
    after: MomentumSGD,
    *,
    problem_after: Quadratic | None = None,
    measured: tuple[ArrayLike, ArrayLike] | None = None,
    overlaps: ArrayLike | None = None,
) -> Attribution:
    """Exact additive split of Δ ln σᵢ² between two stationary laws, equation (B2).

    Args:
        problem: H and C before.
        before: optimizer before.
        after: optimizer after; both heavy ball or both Nesterov.
        problem_after: H and C after; None if they stayed.
        measured: variances along the modes as measured before and after, each ``(m,)`` > 0, in the order of each
            state's `eigenbasis` (as given, for spectra); their disagreement with the two laws is reported apart.
        overlaps: uᵢᵀu'ⱼ of the modes before with those after, ``(m, m)``, in the same orders, where the problems are
            given in modes of their own; by default from the eigenvectors of the two problems.

    Raises:
        UnstableError: if one of the two has no stationary law.
        ValueError: if dimensions or kinds of momentum differ, a mode has no noise, a measured variance is not > 0, or
            overlaps are not cosines.
        TypeError: if an argument is of another type.
    """
    for name, value, kind in (
        ("problem", problem, Quadratic),
        ("before", before, MomentumSGD),
        ("after", after, MomentumSGD),
    ):
        require_type(value, kind, f"attribution({name}=...)")
    changed = problem if problem_after is None else problem_after
    if changed.dimension != problem.dimension:
        raise ValueError(
            "`attribution(problem_after=...)` must have the dimension of `problem`; "
            f"got {changed.dimension} against {problem.dimension}."
        )
    if before.nesterov != after.nesterov:
        raise ValueError(
            f"`attribution(after=...)` must use Nesterov as `before` does; got {after.nesterov} and {before.nesterov}."
        )
    bases = [eigenbasis(state) for state in (problem, changed)]
    order = np.argsort(bases[0].curvatures, kind="stable")
    partner, match = _matched(bases[0].basis, bases[1].basis, problem.dimension, overlaps)
    one = _factors(bases[0], before, "before", order)
    two = _factors(bases[1], after, "after", partner[order])
    change = {name: np.log(two[name] / one[name]) for name in ("learning_rate", "noise", "curvature", "momentum")}
    total = np.log(two["variance"] / one["variance"])
    return Attribution(
        learning_rate=change["learning_rate"],
        noise=change["noise"],
        curvature=-change["curvature"],
        step_size=two["log_step"] - one["log_step"],
        momentum=-change["momentum"],
        total=total,
        curvatures=np.stack([one["plain_curvature"], two["plain_curvature"]]),
        variances=np.stack([one["variance"], two["variance"]]),
        match=match[order],
        unsettled=None if measured is None else _measured_change(measured, (order, partner[order])) - total,
    )


def _matched(
    before: NDArray[np.float64] | None, after: NDArray[np.float64] | None, dimension: int, overlaps: ArrayLike | None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each mode before: the mode after that it is paired with, and (uᵢᵀu'ⱼ)² of the pair."""
    if overlaps is not None:
        cosines = np.asarray(overlaps, dtype=np.float64)
        if cosines.shape != (dimension, dimension) or not (np.abs(cosines) <= 1 + 1e-6).all():
            raise ValueError(
                f"`attribution(overlaps=...)` must be cosines, shape {(dimension, dimension)}; got {cosines.shape}."
            )
    elif before is None and after is None:
        return np.arange(dimension), np.ones(dimension)
    else:
        axes = np.eye(dimension)
        cosines = (axes if before is None else before).T @ (axes if after is None else after)
    shares = np.minimum(cosines * cosines, 1.0)
    _, partner = linear_sum_assignment(shares, maximize=True)
    return partner, shares[np.arange(dimension), partner]


def _factors(
    basis: Eigenbasis, optimizer: MomentumSGD, which: str, order: NDArray[np.intp]
) -> dict[str, NDArray[np.float64]]:
    plain_curvature, gamma = basis.curvatures[order], np.diag(basis.noise)[order]
    if not (gamma > 0).all():
        raise ValueError(
            f"`attribution({which}=...)` needs noise in every mode, uᵀCu > 0; got {gamma.min():.6g} in mode "
            f"{int(np.argmin(gamma))}."
        )
    mode = stable_modes(basis.curvatures, optimizer)
    a, mu, ahead = mode.effective_rate[order], optimizer.momentum, mode.ahead
    e, u, w = mode.contraction[order], mode.at_plus_one[order], mode.at_minus_one[order]
    rate = mode.gain * optimizer.learning_rate
    reach = a * (1.0 + 2.0 * ahead) / (1.0 + mu)
    log_step = np.log1p(ahead * reach) - np.log1p(a * ahead / (1.0 - mu)) - np.log1p(-0.5 * reach)
    lift = (1.0 + mu) * (1.0 + ahead * reach)
    return {
        "learning_rate": np.full_like(a, rate),
        "noise": gamma,
        "curvature": plain_curvature + optimizer.weight_decay,
        "momentum": np.full_like(a, 1.0 - mu),
        "log_step": log_step,
        "plain_curvature": plain_curvature,
        # From the roots' side (S1), not from the parts: their sum is a check.
        "variance": rate**2 * gamma * lift / (e * u * w),
    }


def _measured_change(
    measured: tuple[ArrayLike, ArrayLike], orders: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> NDArray[np.float64]:
    first, second = (np.asarray(values, dtype=np.float64) for values in measured)
    for values in (first, second):
        if values.shape != orders[0].shape or not (values > 0).all() or not math.isfinite(float(values.sum())):
            raise ValueError(
                f"`attribution(measured=...)` must be two lists of {len(orders[0])} variances > 0; "
                f"got shape {values.shape}."
            )
    return np.log(second[orders[1]] / first[orders[0]])
