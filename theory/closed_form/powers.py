r"""Powers of the 2×2 transition of every mode, in closed form: any number of steps k at the same cost.

Model     Along an eigenvector of H the optimizer is a two-step recursion x₊ = T x − D x₋ + e. With s = sign T put
          x̃_t = sᵗ x_t and y = x − s x₋ (the increment of x̃). In (x, y) one step is s·G, and e enters both alike:
              G = [[1−p, D], [−p, D]],   p = 1 − |T| + D,   δ = 1 − D.
          p is the characteristic polynomial at z = s, so the slow direction is always x̃ near 1, its increment is
          small, and what happens near the root −1 is what happens near +1.
          The coefficients are those of `stability` (T = s, D = q there), and w = x + φ (x − x₋).
Result    With R = 1 − ε ≥ |R'| = |1 − ε'| the roots of G, ε ε' = p, ε + ε' = δ + p, and S = (Rᵏ − R'ᵏ)/(R − R'),
              Gᵏ = [[Rᵏ + S ε R', D S], [−p S, R'ᵏ − S R' ε]].
          Each entry is a sum of like signs as long as there is a slow mode: nothing cancels.
          Slow root   ε = 2p / (δ + p + √disc),   disc = (δ + p)² − 4p.
          Two roots, real   S = Rᵏ⁻¹ expm1(−k h)/expm1(−h),   h = 2 artanh(√disc/|T|): k Rᵏ⁻¹ where they coincide.
          Two roots, complex   S = D^{(k−1)/2} sin kθ / sin θ,   tan θ = √−disc/|T|.
Accuracy  δ, p, disc and θ are formed in pairs of doubles (`compensated`), so that the phase kθ is right to 1e-15 at
          k = 10⁹ and a coincident pair of roots at μ = 1 − 2·10⁻⁶ is no special case.
Source    Chebyshev polynomials of the second kind, U_{k−1}(cos θ) = sin kθ / sin θ, in damped form; own rearrangement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.closed_form import compensated as dd
from theory.closed_form.compensated import Pair
from theory.closed_form.stability import Modes, as_modes, margins
from theory.model.optimizer import MomentumSGD

#: Number of angles in a full turn of the table below.
_TURN = 512
_SIN_STEP = (float.fromhex("0x1.921d1fcdec784p-7"), float.fromhex("0x1.9878ebe836d9dp-61"))  # sin(π/256)
_COS_STEP = (float.fromhex("0x1.fff62169b92dbp-1"), float.fromhex("0x1.5dda3c81fbd0dp-55"))  # cos(π/256)
_TWO_PI = (float.fromhex("0x1.921fb54442d18p+2"), float.fromhex("0x1.1a62633145c07p-52"))


@dataclass(frozen=True)
class Companion:
    """The recursions of m modes in the coordinates (x, y); every array has shape ``(m,)``.

    `inward` maps (w, v) to (x, y), `outward` back, both ``(2, 2, m)``; `kick` is the factor of ξ in e.
    """

    modes: Modes
    sign: NDArray[np.float64]  # s
    product: NDArray[np.float64]  # D
    contraction: NDArray[np.float64]  # δ = 1 − D
    gap: NDArray[np.float64]  # p
    total: NDArray[np.float64]  # |T|
    discriminant: NDArray[np.float64]
    root: NDArray[np.float64]  # √|disc|
    imbalance: NDArray[np.float64]  # (δ − p)/2
    slow: NDArray[np.float64]  # ε, where the roots are real
    fast: NDArray[np.float64]  # R' = 1 − ε', where the roots are real
    angle: tuple[NDArray[np.int64], Pair]  # θ = j π/256 + φ, where the roots are complex
    inward: NDArray[np.float64]
    outward: NDArray[np.float64]
    kick: float

    @property
    def stable(self) -> NDArray[np.bool_]:
        """Which modes forget their past: both roots inside the unit circle."""
        return (self.gap > 0) & (self.contraction > 0)

    @property
    def spectral_radius(self) -> NDArray[np.float64]:
        """Modulus of the larger root."""
        return np.where(self.discriminant < 0, np.sqrt(np.maximum(self.product, 0.0)), 1.0 - self.slow)


@dataclass(frozen=True)
class Power:
    """Gᵏ of every mode, ``(2, 2, m)``; `less_one` is Gᵏ − 1, formed without cancellation at (x, x); `flip` is sᵏ."""

    matrix: NDArray[np.float64]
    less_one: NDArray[np.float64]
    flip: NDArray[np.float64]


def companion(curvatures: NDArray[np.float64], optimizer: MomentumSGD) -> Companion:
    """The recursion of each mode with curvature λ, shape ``(m,)``; stability is not checked.

    Args:
        curvatures: eigenvalues of H, taken as exact.
        optimizer: η, μ, dampening, Nesterov or discount, weight decay, form.
    """
    eta = optimizer.learning_rate
    found = margins(curvatures, optimizer)
    a, trace, product, delta, at_minus_one = (
        found.rate,
        found.total,
        found.product,
        found.contraction,
        found.at_minus_one,
    )
    upright = trace[0] >= 0
    total = dd.choose(upright, trace, (-trace[0], -trace[1]))
    p = dd.choose(upright, a, at_minus_one)
    both = dd.add(delta, p)  # ε + ε' = 2 − |T|
    near, far = (dd.subtract(dd.multiply(x, x), dd.multiply(dd.pair(4.0), y)) for x, y in ((both, p), (total, product)))
    disc = dd.choose(total[0] > 1.0, near, far)
    complex_roots = disc[0] < 0
    root = dd.square_root((np.abs(disc[0]), np.where(complex_roots, -disc[1], disc[1])))
    # The slow root's distance from 1; below 0 (unstable) the other form is the one without cancellation.
    with np.errstate(divide="ignore", invalid="ignore"):
        slow = np.where(both[0] > 0, 2.0 * p[0] / (both[0] + root[0]), 0.5 * (both[0] - root[0]))
        fast = np.where(product[0] != 0, product[0] / (0.5 * (total[0] + root[0])), 0.0)
    slow, fast = np.where(complex_roots, 0.0, slow), np.where(complex_roots, 0.0, fast)
    # The displacement of x is u = s_v v.
    s_v = 1.0 if optimizer.form == "position" else -eta * found.gain / optimizer.gradient_share
    sign = np.where(upright, 1.0, -1.0)
    inward, outward = _coordinates(sign, s_v, found.ahead)
    return Companion(
        modes=as_modes(found, optimizer),
        sign=sign,
        product=product[0],
        contraction=delta[0],
        gap=p[0],
        total=total[0],
        discriminant=disc[0],
        root=root[0],
        imbalance=0.5 * dd.subtract(delta, p)[0],
        slow=slow,
        fast=fast,
        angle=_angle(total, root, complex_roots),
        inward=inward,
        outward=outward,
        kick=-eta * found.gain,
    )


def power(mode: Companion, steps: int) -> Power:
    """Gᵏ of every mode for k = `steps` ≥ 1, at a cost that does not depend on k.

    Entries that leave the float range (an unstable mode, run for long) come out infinite or NaN; callers check.
    """
    k = float(steps)
    complex_roots = mode.discriminant < 0
    with np.errstate(all="ignore"):
        # Real roots. R' may be negative (Nesterov beyond a = 1) or 0 (no momentum).
        log_slow = np.where(mode.slow < 0.5, np.log1p(-mode.slow), np.log(0.5 * (mode.total + mode.root)))
        slow_power = np.exp(k * log_slow)
        separation = 2.0 * np.arctanh(np.minimum(mode.root / mode.total, 1.0))
        quotient = np.where(separation > 0, np.expm1(-k * separation) / np.expm1(-separation), k)
        fast_power = np.where(mode.fast > 0, slow_power * np.exp(-k * separation), mode.fast**k)
        apart = np.where(mode.root > 0, (slow_power - fast_power) / mode.root, 1.0 if steps == 1 else 0.0)
        ratio = np.where(mode.fast > 0, np.exp((k - 1.0) * log_slow) * quotient, apart)
        shrink = ratio * mode.slow * mode.fast
        xx, yy = slow_power + shrink, fast_power - shrink
        xx_less_one = np.expm1(k * log_slow) + shrink
        if complex_roots.any():
            log_product = np.where(mode.contraction < 0.5, np.log1p(-mode.contraction), np.log(mode.product))
            envelope = np.exp(0.5 * k * log_product)
            phase = _phase(mode.angle, steps)
            wave = envelope * np.cos(phase)
            oscillation = envelope * np.sin(phase) * 2.0 / mode.root
            tilt = oscillation * mode.imbalance
            ratio = np.where(complex_roots, oscillation, ratio)
            xx = np.where(complex_roots, wave + tilt, xx)
            yy = np.where(complex_roots, wave - tilt, yy)
            xx_less_one = np.where(complex_roots, wave + tilt - 1.0, xx_less_one)
        xy, yx = mode.product * ratio, -mode.gap * ratio
    matrix = np.array([[xx, xy], [yx, yy]])
    less_one = np.array([[xx_less_one, xy], [yx, yy - 1.0]])
    return Power(matrix, less_one, mode.sign if steps % 2 else np.ones_like(mode.sign))


def sandwich(left: NDArray[np.float64], state: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """A_i M_ij B_jᵀ for all pairs of modes: `left`, `right` ``(2, 2, m)``, `state` ``(2, 2, m, m)``."""
    return from_right(from_left(left, state), right)


def from_left(left: NDArray[np.float64], state: NDArray[np.float64]) -> NDArray[np.float64]:
    """A_i M_ij for all pairs of modes."""
    return np.array(
        [[left[p, 0][:, None] * state[0, r] + left[p, 1][:, None] * state[1, r] for r in (0, 1)] for p in (0, 1)]
    )


def from_right(state: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """M_ij B_jᵀ for all pairs of modes."""
    return np.array([[state[p, 0] * right[r, 0] + state[p, 1] * right[r, 1] for r in (0, 1)] for p in (0, 1)])


def _coordinates(sign: NDArray, s_v: float, ahead: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(w, v) → (x, y) and back, each ``(2, 2, m)``: u = s_v v, x = w − ahead·u, y = u if s = 1 else 2x − u."""
    one, up = np.ones_like(sign), sign > 0
    inward = np.array(
        [[one, -ahead * s_v * one], [np.where(up, 0.0, 2.0), np.where(up, s_v, -(1.0 + 2.0 * ahead) * s_v)]]
    )
    outward = np.array(
        [
            [np.where(up, 1.0, 1.0 + 2.0 * ahead), np.where(up, ahead, -ahead)],
            [np.where(up, 0.0, 2.0 / s_v), np.where(up, 1.0, -1.0) / s_v],
        ]
    )
    return inward, outward


def _angle(total: Pair, root: Pair, complex_roots: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Pair]:
    """θ = atan2(root, total) in [0, π/2] as j π/256 + φ with φ a pair, |φ| ≤ π/512 and a little."""
    if not complex_roots.any():
        return np.zeros(total[0].shape, dtype=np.int64), dd.pair(np.zeros_like(total[0]))
    radius = dd.square_root(dd.add(dd.multiply(total, total), dd.multiply(root, root)))
    radius = dd.choose(complex_roots, radius, dd.pair(np.ones_like(total[0])))
    sine, cosine = dd.divide(root, radius), dd.divide(total, radius)
    nearest = np.rint(np.arctan2(root[0], total[0]) * (_TURN / (2 * math.pi)))
    nearest = np.where(complex_roots, nearest, 0).astype(np.int64)
    table_sine, table_cosine = (_SINES[0][nearest], _SINES[1][nearest]), (_COSINES[0][nearest], _COSINES[1][nearest])
    x = dd.subtract(dd.multiply(sine, table_cosine), dd.multiply(cosine, table_sine))  # sin φ
    square = dd.multiply(x, x)
    cubic = dd.divide(dd.multiply(x, square), dd.pair(6.0))
    q = square[0]
    tail = x[0] * q * q * (3 / 40 + q * (5 / 112 + q * (35 / 1152 + q * 63 / 2816)))  # arcsin beyond x³/6
    phi = dd.add(dd.add(x, cubic), dd.pair(tail))
    return nearest, dd.choose(complex_roots, phi, dd.pair(np.zeros_like(q)))


def _phase(angle: tuple[NDArray[np.int64], Pair], steps: int) -> NDArray[np.float64]:
    """kθ modulo 2π: the table part in integers, the rest in pairs."""
    nearest, phi = angle
    coarse = (nearest * steps) % _TURN
    fine = dd.multiply(phi, dd.pair(float(steps)))
    turns = np.rint(fine[0] / _TWO_PI[0])
    fine = dd.subtract(fine, dd.multiply(dd.pair(turns), (np.asarray(_TWO_PI[0]), np.asarray(_TWO_PI[1]))))
    return fine[0] + coarse * (_TWO_PI[0] / _TURN)


def _table() -> tuple[Pair, Pair]:
    """Sine and cosine of jπ/256, j = 0 … 128, by turning through one exact step at a time."""
    step_sine, step_cosine = ((np.asarray(h), np.asarray(low)) for h, low in (_SIN_STEP, _COS_STEP))
    sine, cosine = dd.pair(0.0), dd.pair(1.0)
    sines, cosines = [sine], [cosine]
    for _ in range(_TURN // 4):
        sine, cosine = (
            dd.add(dd.multiply(sine, step_cosine), dd.multiply(cosine, step_sine)),
            dd.subtract(dd.multiply(cosine, step_cosine), dd.multiply(sine, step_sine)),
        )
        sines.append(sine)
        cosines.append(cosine)
    stacked = [(np.array([a for a, _ in part]), np.array([b for _, b in part])) for part in (sines, cosines)]
    return stacked[0], stacked[1]


_SINES, _COSINES = _table()
