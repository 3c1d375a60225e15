"""Noise laws: ξ = L x with C = L Lᵀ and the entries of x independent, of mean 0 and variance 1.

The covariance formulas need second moments alone, so every law here must give the same Σ. What a law changes is how
fast an estimate of Σ settles: through the excess kurtosis κ = E x⁴ − 3 of the entries.
"""

from __future__ import annotations

import math

from theory.model.setting import Setting, setting


class NoiseLaw(Setting):
    """A law with mean 0 and variance 1; `excess_kurtosis` is E x⁴ − 3."""

    @property
    def excess_kurtosis(self) -> float:
        """E x⁴ − 3."""
        raise NotImplementedError


@setting
class Gaussian(NoiseLaw):
    """Standard normal."""

    @property
    def excess_kurtosis(self) -> float:
        """0."""
        return 0.0


@setting
class Rademacher(NoiseLaw):
    """±1 with equal chances: the lightest tails a law of variance 1 can have."""

    @property
    def excess_kurtosis(self) -> float:
        """−2."""
        return -2.0


@setting
class Uniform(NoiseLaw):
    """Uniform on (−√3, √3)."""

    @property
    def excess_kurtosis(self) -> float:
        """−6/5."""
        return -1.2


@setting
class StudentT(NoiseLaw):
    """Student's t with ν > 4 degrees of freedom, scaled to variance 1; excess kurtosis 6/(ν − 4).

    Raises:
        ValueError: if ν ≤ 4, where the fourth moment (and with it the error of a variance) does not exist.
    """

    degrees_of_freedom: float = 9.0

    def __post_init__(self) -> None:
        if not (self.degrees_of_freedom > 4 and math.isfinite(self.degrees_of_freedom)):
            raise ValueError(
                f"`StudentT(degrees_of_freedom=...)` must be > 4 and finite; got {self.degrees_of_freedom}."
            )

    @property
    def excess_kurtosis(self) -> float:
        """6/(ν − 4)."""
        return 6.0 / (self.degrees_of_freedom - 4.0)
