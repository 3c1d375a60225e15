"""NumPy engine of the simulator: the steps of `theory.oracle.compiled`, blocked and in place, at NumPy's own speed.

Its stream (SFC64 through `numpy.random.Generator`) is another one: equal seeds give equal laws, not equal numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform

NAME = "numpy"


class Noise:
    """Standardised noise x of one block; see `theory.oracle.compiled.Noise`."""

    def __init__(
        self,
        seed: np.random.SeedSequence,
        law: NoiseLaw,
        shape: tuple[int, int],
        correlation: float = 0.0,
        given: NDArray[np.float64] | None = None,
    ) -> None:
        self.shape = shape
        self.generator = np.random.Generator(np.random.SFC64(seed))
        self.law = law
        self.values = np.empty(shape)
        self.given = given
        self.correlation, self.innovation = correlation, math.sqrt(1.0 - correlation * correlation)
        self.memory: NDArray[np.float64] | None = None
        if correlation and given is None:
            self.memory = self.next().copy()

    def next(self) -> NDArray[np.float64]:
        """The noise of the next step, shape ``(m, width)``; valid until the following call."""
        if self.given is not None:
            return self.given
        _draw(self.generator, self.law, self.values)
        if self.memory is None:
            return self.values
        self.memory *= self.correlation
        self.values *= self.innovation
        self.memory += self.values
        return self.memory


def _draw(generator: np.random.Generator, law: NoiseLaw, out: NDArray[np.float64]) -> None:
    if isinstance(law, Gaussian):
        generator.standard_normal(out=out)
    elif isinstance(law, Rademacher):
        words = generator.integers(0, 256, size=-(-out.size // 8), dtype=np.uint8)
        out.ravel()[:] = np.unpackbits(words)[: out.size]
        out *= 2.0
        out -= 1.0
    elif isinstance(law, Uniform):
        generator.random(out=out)
        out -= 0.5
        out *= 2.0 * math.sqrt(3.0)
    elif isinstance(law, StudentT):
        degrees = law.degrees_of_freedom
        out[...] = generator.standard_t(degrees, size=out.shape)
        out *= math.sqrt((degrees - 2.0) / degrees)
    else:
        raise ValueError(f"`Simulation(noise=...)` must be a law this simulator can draw; got {type(law).__name__}.")


def advance_diagonal(
    z: NDArray[np.float64],
    before: NDArray[np.float64],
    noise: Noise,
    curvature: NDArray[np.float64],
    scale: NDArray[np.float64],
    rows: NDArray[np.float64],
    table: NDArray[np.float64],
    slots: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Take ``len(table)`` steps in place, mode by mode; see `theory.oracle.compiled.advance_diagonal`."""
    m = len(curvature)
    w = z[:m]
    slope = np.empty_like(before)
    column = curvature[:, None]
    for step, coefficients in enumerate(table):
        x = noise.next()
        np.multiply(column, w, out=slope)
        if slots[step] >= 0 or step == len(table) - 1:
            before[...] = w
        apply_gradient(z, slope, x, scale, rows, coefficients)
        if slots[step] >= 0:
            sums[slots[step]] += row_sums(z, before)


def apply_gradient(
    z: NDArray[np.float64],
    slope: NDArray[np.float64],
    noise: NDArray[np.float64],
    scale: NDArray[np.float64],
    rows: NDArray[np.float64],
    coefficients: NDArray[np.float64],
) -> None:
    """Take one step in place with g = slope + constant + scale · noise; `slope` is overwritten."""
    m = len(slope)
    w, v = z[:m], z[m:]
    mu, alpha, beta, delta = (float(x) for x in coefficients)
    slope += noise * scale[:, None]
    slope += rows[:, :1]
    v *= mu
    v += (alpha * rows[:, 1:2]) * slope
    w += (beta * rows[:, 2:]) * v
    if delta:
        w += (delta * rows[:, 2:]) * slope


def row_sums(z: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over replicas of w, v, w², v², w v and w w₋, shape ``(6, m)``."""
    m = len(before)
    w, v = z[:m], z[m:]
    products = ((w, w), (v, v), (w, v), (w, before))
    return np.stack([w.sum(axis=1), v.sum(axis=1), *(np.einsum("ir,ir->i", a, b) for a, b in products)])
