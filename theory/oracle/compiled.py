r"""Compiled engine of the simulator: a vectorised random generator and the fused step (numba, extra `fast`).

Generator  LANES independent xoshiro256++ streams (Blackman and Vigna 2021) advance side by side, so that every line
           below is one vector instruction. Two words make two normals by Box–Muller: ln u through atanh of
           (m − 1)/(m + 1), sine and cosine through the half angle, all by minimax polynomials of error below 4e-18.
           u has 53 bits, so |x| ≤ 8.57; the chance of a normal beyond that is 1e-17.
Students   Bailey's exact polar formula, t = cos θ √(ν (u^{−2/ν} − 1)) (Bailey 1994), one t for two words.
Step       v ← μ v + α g, w ← w + β v + δ g with a row (μ, α, β, δ) of coefficients for every step: all three forms of
           momentum SGD are that (`theory.oracle.simulate` writes the rows).
Choice     Measured on one core with 512-bit vectors, ns a float64 normal: NumPy PCG64 9.4, SFC64 8.2, torch 18, Intel's
           mkl_random 2.8 (inverse cdf, SFMT; a gigabyte of libraries, x86 alone), this generator 1.1.
Limits     Flags: `reassoc` is left out wherever bits are handled as numbers; with it the compiler folds the offset of
           the exponent away and the variance comes out wrong. Row sums use it on purpose.
           Everything compiled sits in this one file, because numba's cache follows one file's date.
Oracle     `tests/theory/oracle/test_simulate_normals.py`: the same words in Python integers and 40-digit arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from theory.model.noise import Gaussian, NoiseLaw, Rademacher, StudentT, Uniform

NAME = "numba"
#: Streams that advance together: four registers of eight doubles, or eight of four.
LANES = 32
#: Every refill makes a multiple of this many values (64 signs from a word in each lane).
UNIT = 64 * LANES

_GAUSSIAN, _RADEMACHER, _UNIFORM, _STUDENT = range(4)
_CODES = {Gaussian: _GAUSSIAN, Rademacher: _RADEMACHER, Uniform: _UNIFORM, StudentT: _STUDENT}

_SAFE = {"contract", "nnan", "ninf", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _compile(function: Callable[..., Any], flags: set[str] = _SAFE) -> Any:
    try:
        return njit(fastmath=flags, cache=True, **_OPTIONS)(function)
    except RuntimeError:  # nowhere to write a cache: compile anew in every process, six seconds
        return njit(fastmath=flags, **_OPTIONS)(function)


def _compile_sums(function: Callable[..., Any]) -> Any:
    return _compile(function, _SAFE | {"reassoc"})


def _intrinsic(function: Callable[..., Any]) -> Any:
    return intrinsic(function)


_ONE = np.uint64(0x3FF0000000000000)  # the bits of 1.0
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_SIGN = np.uint64(1 << 63)
_ROOT_HALF = np.uint64(0x3FE6A09E667F3BCD)  # the bits of √½: mantissas are taken from [√½, √2)
_S12, _S17, _S19 = np.uint64(12), np.uint64(17), np.uint64(19)
_S23, _S41, _S45, _S52, _S63 = np.uint64(23), np.uint64(41), np.uint64(45), np.uint64(52), np.uint64(63)
_LN2 = math.log(2.0)
_LOG2_E = 1.0 / _LN2
_ROOT_3 = math.sqrt(3.0)

# 2 atanh(s)/s in s² on [0, (√2−1)²/(√2+1)²], sin(πx/4)/x and cos(πx/4) in x² on [0, 1], exp(x) on [−½ ln 2, ½ ln 2]:
# minimax to 2.4e-18, 2.5e-18, 3.1e-20 and 6e-18 (mpmath.chebyfit at 40 digits).
_L0, _L1, _L2, _L3 = 2.0, 0.6666666666666765, 0.3999999999930234, 0.2857142876064168
_L4, _L5, _L6, _L7 = 0.22222197056726048, 0.18183631680229329, 0.1531252814836419, 0.1480971036065528
_N0, _N1, _N2, _N3 = 0.7853981633974483, -0.08074551218828054, 0.002490394570188844, -3.657620415891387e-05
_N4, _N5, _N6 = 3.133616225433416e-07, -1.7571500746983935e-09, 6.877360573166326e-12
_C0, _C1, _C2, _C3 = 1.0, -0.30842513753404244, 0.01585434424381542, -0.00032599188692673765
_C4, _C5, _C6, _C7 = 3.590860446027952e-06, -2.4611364033652597e-08, 1.1500512028217341e-10, -3.8581890073416675e-13
_E0, _E1, _E2, _E3 = 1.0, 1.0, 0.5000000000000019, 0.1666666666666668
_E4, _E5, _E6, _E7 = 0.04166666666648795, 0.008333333333319589, 0.0013888888952352863, 0.00019841269890076403
_E8, _E9, _E10, _E11 = 2.4801485441561313e-05, 2.755724088722987e-06, 2.763265472252779e-07, 2.5110049204818658e-08


@_intrinsic
def _as_double(typing_context, word):
    """The double with the given 64 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), generate


@_intrinsic
def _as_bits(typing_context, number):
    """The 64 bits of a double."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.uint64(types.float64), generate


@_compile
def _draw(s0, s1, s2, s3):
    """One word of xoshiro256++ and the state that follows."""
    total = s0 + s3
    word = ((total << _S23) | (total >> _S41)) + s0
    shifted = s1 << _S17
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    return word, s0, s1, s2, (s3 << _S45) | (s3 >> _S19)


@_compile
def _log_uniform(word):
    """Ln u for u uniform on the odd multiples of 2⁻⁵³ in (0, 1)."""
    shifted = _as_bits(_as_double((word >> _S12) | _ONE) - (1.0 - 2.0**-53)) - _ROOT_HALF
    exponent = np.float64(np.int32(np.int64(shifted) >> 52))
    mantissa = _as_double((shifted & _MANTISSA) + _ROOT_HALF)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    p = ((((((_L7 * q + _L6) * q + _L5) * q + _L4) * q + _L3) * q + _L2) * q + _L1) * q + _L0
    return p * s + exponent * _LN2


@_compile
def _half_sine(x):
    """Sin(πx/4) for x in [−1, 1)."""
    q = x * x
    return ((((((_N6 * q + _N5) * q + _N4) * q + _N3) * q + _N2) * q + _N1) * q + _N0) * x


@_compile
def _half_cosine(x):
    """Cos(πx/4) for x in [−1, 1)."""
    q = x * x
    return ((((((_C7 * q + _C6) * q + _C5) * q + _C4) * q + _C3) * q + _C2) * q + _C1) * q + _C0


@_compile
def _normals(a, b, c, d, values):
    for start in range(0, values.size, 2 * LANES):
        first, second = values[start : start + LANES], values[start + LANES : start + 2 * LANES]
        for lane in range(LANES):
            size, s0, s1, s2, s3 = _draw(a[lane], b[lane], c[lane], d[lane])
            angle, a[lane], b[lane], c[lane], d[lane] = _draw(s0, s1, s2, s3)
            radius = math.sqrt(-2.0 * _log_uniform(size))
            x = _as_double((angle >> _S12) | _ONE) * 2.0 - 3.0
            sine = _half_sine(x)
            # The angle πx/2 covers the right half plane; a spare bit of the word mirrors it to the left.
            first[lane] = _as_double(_as_bits(radius * (1.0 - 2.0 * sine * sine)) ^ (angle << _S63))
            second[lane] = 2.0 * radius * sine * _half_cosine(x)


@_compile
def _signs(a, b, c, d, words, values):
    for start in range(0, values.size, UNIT):
        for lane in range(LANES):
            words[lane], a[lane], b[lane], c[lane], d[lane] = _draw(a[lane], b[lane], c[lane], d[lane])
        for row in range(64):
            part = values[start + row * LANES : start + (row + 1) * LANES]
            shift = np.uint64(row)
            for lane in range(LANES):
                part[lane] = _as_double(((words[lane] << shift) & _SIGN) | _ONE)


@_compile
def _uniforms(a, b, c, d, values):
    for start in range(0, values.size, LANES):
        part = values[start : start + LANES]
        for lane in range(LANES):
            word, a[lane], b[lane], c[lane], d[lane] = _draw(a[lane], b[lane], c[lane], d[lane])
            part[lane] = ((_as_double((word >> _S12) | _ONE) - 1.5) + 2.0**-53) * (2.0 * _ROOT_3)


@_compile
def _students(a, b, c, d, degrees, values):
    slope = -2.0 / degrees
    for start in range(0, values.size, LANES):
        part = values[start : start + LANES]
        for lane in range(LANES):
            size, s0, s1, s2, s3 = _draw(a[lane], b[lane], c[lane], d[lane])
            angle, a[lane], b[lane], c[lane], d[lane] = _draw(s0, s1, s2, s3)
            y = slope * _log_uniform(size)
            sine = _half_sine(_as_double((angle >> _S12) | _ONE) * 2.0 - 3.0)
            cosine = _as_double(_as_bits(1.0 - 2.0 * sine * sine) ^ (angle << _S63))
            # exp(y) = 2^k exp(r), 0 ≤ y < 19
            k = np.int32(y * _LOG2_E + 0.5)
            r = y - k * _LN2
            p = ((((_E11 * r + _E10) * r + _E9) * r + _E8) * r + _E7) * r + _E6
            p = (((((p * r + _E5) * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _E0
            power = p * _as_double(np.uint64(np.int64(k) + 1023) << _S52)
            part[lane] = cosine * math.sqrt((degrees - 2.0) * max(power - 1.0, 0.0))


@_compile
def _refill(state, words, values, law, degrees):
    a, b, c, d = state[0], state[1], state[2], state[3]
    if law == _GAUSSIAN:
        _normals(a, b, c, d, values)
    elif law == _RADEMACHER:
        _signs(a, b, c, d, words, values)
    elif law == _UNIFORM:
        _uniforms(a, b, c, d, values)
    else:
        _students(a, b, c, d, degrees, values)


@_compile
def _remember(memory, fresh, correlation, innovation):
    for k in range(memory.size):
        memory[k] = correlation * memory[k] + innovation * fresh[k]


@_compile
def _next(state, words, values, position, law, degrees, memory, correlation, innovation, size):
    """Offset in `values` of the noise of this step; with memory, the noise lies in `memory` instead."""
    if position[0] + size > position[1]:
        _refill(state, words, values, law, degrees)
        position[0] = 0
    start = position[0]
    position[0] += size
    if memory.size > 0:
        _remember(memory, values[start : start + size], correlation, innovation)
    return start


@_compile
def _diagonal_row(w, v, x, curvature, scale, constant, mu, alpha, beta, delta):
    for r in range(w.size):
        gradient = curvature * w[r] + scale * x[r] + constant
        velocity = mu * v[r] + alpha * gradient
        v[r] = velocity
        w[r] = w[r] + beta * velocity + delta * gradient


@_compile
def _dense_row(w, v, x, slope, scale, constant, mu, alpha, beta, delta):
    for r in range(w.size):
        gradient = slope[r] + scale * x[r] + constant
        velocity = mu * v[r] + alpha * gradient
        v[r] = velocity
        w[r] = w[r] + beta * velocity + delta * gradient


@_compile_sums
def _row_sums(w, v, before, sums, i):
    s0 = s1 = s2 = s3 = s4 = s5 = 0.0
    for r in range(w.size):
        s0 += w[r]
        s1 += v[r]
        s2 += w[r] * w[r]
        s3 += v[r] * v[r]
        s4 += w[r] * v[r]
        s5 += w[r] * before[r]
    sums[0, i] += s0
    sums[1, i] += s1
    sums[2, i] += s2
    sums[3, i] += s3
    sums[4, i] += s4
    sums[5, i] += s5


@_compile
def _advance_diagonal(
    z, before, state, words, values, position, law, degrees, memory, correlation, innovation,
    curvature, scale, rows, table, slots, sums,
):  # fmt: skip
    m, width = before.shape
    last = len(table) - 1
    for step in range(len(table)):
        start = _next(state, words, values, position, law, degrees, memory, correlation, innovation, before.size)
        noise = memory if memory.size > 0 else values[start : start + before.size]
        slot = slots[step]
        mu, alpha, beta, delta = table[step, 0], table[step, 1], table[step, 2], table[step, 3]
        for i in range(m):
            w, v = z[i], z[m + i]
            if slot >= 0 or step == last:
                before[i, :] = w
            x = noise[i * width : (i + 1) * width]
            kick, move, jump = alpha * rows[i, 1], beta * rows[i, 2], delta * rows[i, 2]
            _diagonal_row(w, v, x, curvature[i], scale[i], rows[i, 0], mu, kick, move, jump)
            if slot >= 0:
                _row_sums(w, v, before[i], sums[slot], i)


@_compile
def _apply_gradient(z, slope, noise, scale, rows, coefficients):
    m = len(slope)
    mu, alpha, beta, delta = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    for i in range(m):
        kick, move, jump = alpha * rows[i, 1], beta * rows[i, 2], delta * rows[i, 2]
        _dense_row(z[i], z[m + i], noise[i], slope[i], scale[i], rows[i, 0], mu, kick, move, jump)


class Noise:
    """Standardised noise x of one block, shape ``(m, width)`` a step, from a stream of its own.

    Args:
        seed: the block's seed sequence; fills the 256-bit states of all lanes.
        law: law of the entries of x.
        shape: ``(m, width)``.
        correlation: φ of x_t = φ x_{t−1} + √(1−φ²) e_t; the process starts in its stationary law if that is Gaussian,
            and always with variance 1.
        given: values to hand out instead of random ones (impulse tests), shape ``(m, width)``.
    """

    def __init__(
        self,
        seed: np.random.SeedSequence,
        law: NoiseLaw,
        shape: tuple[int, int],
        correlation: float = 0.0,
        given: NDArray[np.float64] | None = None,
    ) -> None:
        self.shape = shape
        size = shape[0] * shape[1]
        self.state = seed.generate_state(4 * LANES, np.uint64).reshape(4, LANES)
        self.words = np.empty(LANES, dtype=np.uint64)
        if type(law) not in _CODES:
            raise ValueError(
                f"`Simulation(noise=...)` must be a law this simulator can draw; got {type(law).__name__}."
            )
        self.law = _CODES[type(law)]
        self.degrees = float(law.degrees_of_freedom) if isinstance(law, StudentT) else 0.0
        # Small problems draw the noise of several steps at a time; what is left over after the last is not used.
        steps = max(1, 4 * UNIT // size)
        used = steps * size
        self.values = np.zeros(-(-used // UNIT) * UNIT)
        self.position = np.array([used, used])
        self.correlation, self.innovation = correlation, math.sqrt(1.0 - correlation * correlation)
        self.memory = np.empty(0)
        if given is not None:
            self.values[:size] = given.ravel()
            self.position[:] = 0, size
        elif correlation:
            self.memory = self.next().ravel().copy()

    def next(self) -> NDArray[np.float64]:
        """The noise of the next step, shape ``(m, width)``; valid until the following call."""
        size = self.shape[0] * self.shape[1]
        start = _next(*self.arguments(), size)
        return (self.memory if self.memory.size else self.values[start : start + size]).reshape(self.shape)

    def arguments(self) -> tuple:
        """What the kernels need of it."""
        return (
            self.state, self.words, self.values, self.position, self.law, self.degrees,
            self.memory, self.correlation, self.innovation,
        )  # fmt: skip


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
    """Take ``len(table)`` steps in place, mode by mode.

    Args:
        z: state (w, v), shape ``(2m, width)``.
        before: on return, the weights before the last step, shape ``(m, width)``.
        noise: source of x.
        curvature: λ of g = λ w + s x + c, shape ``(m,)``.
        scale: s, shape ``(m,)``.
        rows: c, the factor of α, and that of β and δ, shape ``(m, 3)``.
        table: rows (μ, α, β, δ), shape ``(n, 4)``.
        slots: row of `sums` that a step's sums are added to, or −1, shape ``(n,)``.
        sums: sums over replicas of w, v, w², v², w v and w w₋, shape ``(S, 6, m)``, added to.
    """
    _advance_diagonal(z, before, *noise.arguments(), curvature, scale, rows, table, slots, sums)


def apply_gradient(
    z: NDArray[np.float64],
    slope: NDArray[np.float64],
    noise: NDArray[np.float64],
    scale: NDArray[np.float64],
    rows: NDArray[np.float64],
    coefficients: NDArray[np.float64],
) -> None:
    """Take one step in place with the gradient g = slope + constant + scale · noise.

    Args:
        z: state (w, v), shape ``(2m, width)``.
        slope: H w, shape ``(m, width)``.
        noise: shape ``(m, width)``.
        scale: factor of each noise row, shape ``(m,)``.
        rows: the constant, the factor of α, and that of β and δ, shape ``(m, 3)``.
        coefficients: μ, α, β, δ.
    """
    _apply_gradient(z, slope, noise, scale, rows, coefficients)
