"""The noun *Solution*: a numerical answer with the diagnostics that say whether to believe it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class UnstableError(ValueError):
    """No stationary law exists: some mode's spectral radius is at least 1."""


class NumericalError(RuntimeError):
    """A solver did not reach an answer worth using."""


class Status(StrEnum):
    """How a solve ended; every word is literally true."""

    OK = "residual and forward error bound within tolerance"
    UNSTABLE = "spectral radius >= 1: no stationary covariance exists"
    INACCURATE = "residual or forward error bound above tolerance: the transition is too close to instability"
    FAILED = "the solver raised an error"


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Covariance of the state (w, v) under the stationary law, or the reason why there is none.

    Args:
        value: Cov(w), shape ``(m, m)``, in units of w²; None unless there is an answer.
        velocity: Cov(v), shape ``(m, m)``; v is the momentum buffer in the PyTorch form (units of the gradient) and the
            displacement w₊ − w in the position form.
        cross: Cov(w, v) = E w vᵀ, shape ``(m, m)``.
        status: how the solve ended.
        method: which algorithm answered.
        relative_residual: ‖F M Fᵀ − M + Q‖_F / ‖M‖_F of the state's Lyapunov equation M = F M Fᵀ + Q.
        spectral_radius: ρ = max |eig F|.
        error_bound: bound on the relative forward error, first order in the unit roundoff.
        message: the solver's own words where it failed or warned.
    """

    value: NDArray[np.float64] | None
    velocity: NDArray[np.float64] | None = None
    cross: NDArray[np.float64] | None = None
    status: Status
    method: str
    relative_residual: float | None = None
    spectral_radius: float
    error_bound: float | None = None
    message: str = ""

    def require(self) -> NDArray[np.float64]:
        """The weight covariance.

        Raises:
            UnstableError: if there is no stationary law.
            NumericalError: naming the status and the diagnostics, if the answer is not to be trusted.
        """
        if self.status is Status.UNSTABLE:
            raise UnstableError(f"`{self.method}`: {self.status}; got spectral radius {self.spectral_radius:.17g}.")
        if self.status is not Status.OK or self.value is None:
            raise NumericalError(
                f"`{self.method}`: {self.status}; relative residual {self.relative_residual}, spectral radius "
                f"{self.spectral_radius:.17g}, error bound {self.error_bound}. {self.message}".rstrip()
            )
        return self.value

    def state(self) -> NDArray[np.float64]:
        """Covariance of z = (w, v), shape ``(2m, 2m)``.

        Raises:
            NumericalError: if a block is missing.
        """
        if self.value is None or self.velocity is None or self.cross is None:
            raise NumericalError(f"`{self.method}`: the state covariance needs an answer; status is: {self.status}.")
        m = len(self.value)
        state = np.empty((2 * m, 2 * m))
        state[:m, :m], state[:m, m:] = self.value, self.cross
        state[m:, :m], state[m:, m:] = self.cross.T, self.velocity
        return state
