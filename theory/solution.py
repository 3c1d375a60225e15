"""The noun *Solution*: a numerical answer with the diagnostics that say whether to believe it.

The answer is always a covariance of the weights, one or one for each of K steps: `value`, as every Solution calls what
it answers, and `covariance`, the same array under its own name. What belongs to the rest of the state (velocity and
cross blocks, and the residual that needs them) may cost as much again, and is made when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class UnstableError(ValueError):
    """No stationary law exists: some mode's spectral radius is at least 1."""


class NumericalError(RuntimeError):
    """A solver did not reach an answer worth using."""

    exit_status = 2


class Status(StrEnum):
    """How a solve ended; every word is literally true."""

    OK = "residual and forward error bound within tolerance"
    UNSETTLED = "exact at the steps asked for; some direction has no stationary law along the way"
    UNSTABLE = "spectral radius >= 1: no stationary covariance exists"
    INACCURATE = "residual or forward error bound above tolerance: the transition is too close to instability"
    FAILED = "the solver raised an error"


@dataclass(frozen=True, kw_only=True)
class Rest:
    """The blocks of a state covariance beside Cov(w), and the residual of its equation where there is one."""

    velocity: NDArray[np.float64]
    cross: NDArray[np.float64]
    relative_residual: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Solution:
    """Covariance of the state (w, v), or the reason why there is none.

    Args:
        value: Cov(w), shape ``(m, m)``, or ``(K, m, m)`` at K steps, in units of w²; None unless there is an answer.
        status: how the solve ended.
        method: which algorithm answered.
        spectral_radius: ρ = max |eig F| of the transition (the latest one, where it changes).
        error_bound: bound on the relative forward error, first order in the unit roundoff.
        message: the solver's own words where it failed or warned.
        rest: the other blocks, or what makes them when they are first asked for.
    """

    value: NDArray[np.float64] | None
    status: Status
    method: str
    spectral_radius: float
    error_bound: float | None = None
    message: str = ""
    rest: Rest | Callable[[], Rest] | None = field(default=None)

    @property
    def covariance(self) -> NDArray[np.float64] | None:
        """Cov(w): `value` under its own name."""
        return self.value

    @cached_property
    def _rest(self) -> Rest | None:
        return self.rest() if callable(self.rest) else self.rest

    @property
    def velocity(self) -> NDArray[np.float64] | None:
        """Cov(v), in the shape of `value`.

        v is the momentum buffer in the PyTorch form (units of the gradient) and the displacement w₊ − w in the
        position form.
        """
        return None if self._rest is None else self._rest.velocity

    @property
    def cross(self) -> NDArray[np.float64] | None:
        """Cov(w, v), in the shape of `value`."""
        return None if self._rest is None else self._rest.cross

    @property
    def relative_residual(self) -> float | None:
        """‖F M Fᵀ − M + Q‖_F / ‖M‖_F of the state's Lyapunov equation M = F M Fᵀ + Q."""
        return None if self._rest is None else self._rest.relative_residual

    def require(self) -> NDArray[np.float64]:
        """The weight covariance.

        Raises:
            UnstableError: if there is no stationary law.
            NumericalError: naming the status and the diagnostics, if the answer is not to be trusted.
        """
        if self.status is Status.UNSTABLE:
            raise UnstableError(f"`{self.method}`: {self.status}; got spectral radius {self.spectral_radius:.17g}.")
        if self.status not in (Status.OK, Status.UNSETTLED) or self.value is None:
            raise NumericalError(
                f"`{self.method}`: {self.status}; relative residual {self.relative_residual}, spectral radius "
                f"{self.spectral_radius:.17g}, error bound {self.error_bound}. {self.message}".rstrip()
            )
        return self.value

    def state(self) -> NDArray[np.float64]:
        """Covariance of z = (w, v), shape ``(2m, 2m)`` or ``(K, 2m, 2m)``.

        Raises:
            NumericalError: if a block is missing.
        """
        if self.value is None or self.velocity is None or self.cross is None:
            raise NumericalError(f"`{self.method}`: the state covariance needs an answer; status is: {self.status}.")
        mirrored = self.cross.swapaxes(-1, -2)
        return np.block([[self.value, self.cross], [mirrored, self.velocity]])

    def __repr__(self) -> str:
        """One line: what is held, how it ended, and the two numbers that matter."""
        held = "no covariance" if self.value is None else f"covariance {self.value.shape}"
        bound = "" if self.error_bound is None else f", error bound {self.error_bound:.1e}"
        return (
            f"{type(self).__name__}({held}, {self.status.name}, spectral radius {self.spectral_radius:.6g}{bound}, "
            f"by {self.method})"
        )
