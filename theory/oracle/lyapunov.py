r"""Independent answers to M = F M Fᵀ + G C Gᵀ, the Lyapunov equation of the state (w, v).

The transition is built from the recursion's definition; nothing here knows a closed form. Four algorithms:

method     algorithm                              use when                     how it fails near the edge
direct     Kronecker, dense solve, O(n⁶) (SciPy)  n ≤ 80: a second opinion     digits lost; residual stays 1e-15
bilinear   Cayley + Bartels–Stewart, O(n³) (SciPy)  any size                   indefinite answers without warning
slycot     SLICOT SB03MD, O(n³) (python-control)  a maintained second opinion  as direct; raises on λ_i λ_j = 1
doubling   Smith, O(n³ log 1/(1−ρ)), np.longdouble  n ≤ 600: the default       3–4 digits better than the others

Every solver answers an unstable F with an indefinite matrix and no word, so the spectral radius is computed first and
an unstable F is reported as such. A small residual proves nothing near an edge. M ↦ M − F M Fᵀ has a positive
inverse, whose norm is attained at the identity: ‖X‖ with X = F X Fᵀ + I. The forward error is at most that times a
backward error of 2 n u (1 + ‖F‖²), with u that of the working precision: `error_bound`, pessimistic by one or two
digits. (1 − ρ alone is no guide: at ηλ near 2(1+μ) the error is larger than u/(1−ρ) by 1/(1−μ).)

Source      Barraud 1977 (SB03MD); Smith 1968 (doubling); SciPy's and python-control's documentation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.setting import require_type
from theory.oracle.transition import transition
from theory.solution import Rest, Solution, Status

Method = Literal["direct", "bilinear", "slycot", "doubling"]
METHODS: tuple[Method, ...] = get_args(Method)

#: Largest forward error bound that still counts as an answer.
ERROR_TOLERANCE = 1e-3
#: Largest relative residual that still counts as an answer.
RESIDUAL_TOLERANCE = 1e-8
#: State sizes n = 2m beyond which a method is refused: it would take minutes or all memory.
SIZE_LIMITS: dict[str, int] = {"direct": 80, "doubling": 600}


def lyapunov_covariance(problem: Quadratic, optimizer: MomentumSGD, method: Method = "doubling") -> Solution:
    """Stationary covariance of (w, v) by a general-purpose discrete Lyapunov solver.

    Args:
        problem: H and C, dimension m.
        optimizer: the recursion.
        method: ``"direct"``, ``"bilinear"``, ``"slycot"`` or ``"doubling"``; the module's table says which and why.

    Returns:
        `Solution` with a Status on every path: unstable and inaccurate answers are reported, not raised.

    Raises:
        ValueError: if the method is unknown, not installed, or too slow for this size.
    """
    require_type(problem, Quadratic, "lyapunov_covariance(problem=...)")
    require_type(optimizer, MomentumSGD, "lyapunov_covariance(optimizer=...)")
    if method not in METHODS:
        raise ValueError(f"`lyapunov_covariance(method=...)` must be one of {METHODS}; got {method!r}.")
    size = 2 * problem.dimension
    if size > SIZE_LIMITS.get(method, size):
        raise ValueError(
            f"`lyapunov_covariance(method={method!r})` takes states up to {SIZE_LIMITS[method]}; got {size}."
        )
    dtype = np.longdouble if method == "doubling" else np.float64
    step, inflow = transition(problem, optimizer, dtype)
    noise = problem.dense_noise_cov().astype(dtype)
    forcing = inflow @ noise @ inflow.T
    forcing = (forcing + forcing.T) / 2  # SLICOT's wrapper refuses an asymmetry of one rounding
    radius = float(np.abs(np.linalg.eigvals(step.astype(np.float64))).max())
    if not radius < 1:
        return Solution(value=None, status=Status.UNSTABLE, method=method, spectral_radius=radius)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state = _SOLVERS[method](step, forcing)
    except ImportError as error:
        raise ValueError(f"`lyapunov_covariance(method={method!r})` needs an extra package: {error}.") from None
    except Exception as error:  # each library raises its own types; what matters is that none passes silently
        return Solution(value=None, status=Status.FAILED, method=method, spectral_radius=radius, message=str(error))
    message = "; ".join(str(warning.message) for warning in caught)
    if not np.isfinite(state).all():
        return Solution(value=None, status=Status.FAILED, method=method, spectral_radius=radius, message=message)
    scale = float(np.linalg.norm(state.astype(np.float64)))
    gap = step @ state @ step.T - state + forcing
    residual = float(np.linalg.norm(gap.astype(np.float64))) / scale if scale else 0.0
    bound = _error_bound(step.astype(np.float64), float(np.finfo(dtype).eps) / 2)
    good = residual <= RESIDUAL_TOLERANCE and bound <= ERROR_TOLERANCE
    m = problem.dimension
    state = state.astype(np.float64)
    return Solution(
        value=0.5 * (state[:m, :m] + state[:m, :m].T),
        status=Status.OK if good else Status.INACCURATE,
        method=method,
        rest=Rest(
            velocity=0.5 * (state[m:, m:] + state[m:, m:].T),
            cross=0.5 * (state[:m, m:] + state[m:, :m].T),
            relative_residual=residual,
        ),
        spectral_radius=radius,
        error_bound=bound,
        message=message,
    )


def _error_bound(step: NDArray[np.float64], roundoff: float) -> float:
    """First-order bound on the relative forward error of a backward stable solver."""
    size = len(step)
    try:
        inverse_norm = float(np.linalg.norm(_doubling(step, np.eye(size)), 2))
    except ArithmeticError:
        return float("inf")
    return 2.0 * size * roundoff * (1.0 + float(np.linalg.norm(step, 2)) ** 2) * inverse_norm


def _direct(step: NDArray, forcing: NDArray) -> NDArray:
    return scipy.linalg.solve_discrete_lyapunov(step, forcing, method="direct")


def _bilinear(step: NDArray, forcing: NDArray) -> NDArray:
    return scipy.linalg.solve_discrete_lyapunov(step, forcing, method="bilinear")


def _slycot(step: NDArray, forcing: NDArray) -> NDArray:
    import control
    import slycot  # noqa: F401  (absent, python-control would say so in its own way)

    return np.asarray(control.dlyap(step, forcing, method="slycot"))


def _doubling(step: NDArray, forcing: NDArray) -> NDArray:
    """M = Σ_k Fᵏ Q Fᵏᵀ by squaring: after k rounds the sum holds 2ᵏ terms."""
    total, power = forcing, step
    for _ in range(200):
        addition = power @ total @ power.T
        total = total + addition
        if float(np.abs(addition).max()) <= float(np.finfo(total.dtype).eps) / 4 * float(np.abs(total).max()):
            return total
        power = power @ power
    raise ArithmeticError("doubling did not converge in 200 rounds")


_SOLVERS: dict[str, Callable[[NDArray, NDArray], NDArray]] = {
    "direct": _direct,
    "bilinear": _bilinear,
    "slycot": _slycot,
    "doubling": _doubling,
}
