"""Transients in hundreds of bits, mode pair by mode pair, from the documented recursion alone."""

from __future__ import annotations

import mpmath
import numpy as np

from tests.oracles import transition_mp

#: ρ^(2k) at k = 1e9 needs the root itself in many digits.
DIGITS = 80


def transient_mp(curvatures, noise, optimizer, initial, steps):
    """Covariance of (w, v) after `steps`, an mpmath matrix: powers by repeated squaring, sums by doubling."""
    m = len(curvatures)
    with mpmath.workdps(DIGITS):
        maps = [transition_mp(curvature, optimizer) for curvature in curvatures]
        result = mpmath.matrix(2 * m, 2 * m)
        for i in range(m):
            for j in range(m):
                (f1, g1), (f2, g2) = maps[i], maps[j]
                forcing = g1 * g2.T * mpmath.mpf(float(noise[i, j]))
                total, left, right = mpmath.zeros(2), mpmath.eye(2), mpmath.eye(2)
                for bit in bin(steps)[2:]:
                    total = total + left * total * right.T
                    left, right = left * left, right * right
                    if bit == "1":
                        total = forcing + f1 * total * f2.T
                        left, right = left * f1, right * f2
                start = mpmath.matrix([[initial[i, j], initial[i, m + j]], [initial[m + i, j], initial[m + i, m + j]]])
                total = total + left * start * right.T
                for a in range(2):
                    for b in range(2):
                        result[a * m + i, b * m + j] = total[a, b]
        return result


def unrolled_mp(curvature, optimizer, initial, steps, digits=40):
    """The same for one mode of unit noise, one multiplication a step."""
    with mpmath.workdps(digits):
        move, kick = transition_mp(curvature, optimizer)
        forcing, state = kick * kick.T, mpmath.matrix(initial.tolist())
        for _ in range(steps):
            state = move * state * move.T + forcing
        return state


def mean_mp(curvature, optimizer, initial, steps):
    """Mean of one mode's (w, v) after `steps`."""
    with mpmath.workdps(DIGITS):
        move, _ = transition_mp(curvature, optimizer)
        power = mpmath.eye(2)
        for bit in bin(steps)[2:]:
            power = power * power
            if bit == "1":
                power = power * move
        return power * mpmath.matrix(list(initial))


def block_errors(found, expected):
    """Normwise relative error of Cov(w) and of Cov(v), and entrywise relative to the standard deviations."""
    size = len(found)
    m = size // 2
    with mpmath.workdps(DIGITS):
        difference = mpmath.matrix(found.tolist()) - expected
        errors = []
        for block in (slice(0, m), slice(m, size)):
            rows = range(size)[block]
            norm = mpmath.sqrt(sum(expected[a, b] ** 2 for a in rows for b in rows))
            gap = mpmath.sqrt(sum(difference[a, b] ** 2 for a in rows for b in rows))
            errors.append(float(gap / norm) if norm else float(gap))
        spread = [mpmath.sqrt(expected[a, a]) for a in range(size)]
        entry = max(
            abs(difference[a, b]) / (spread[a] * spread[b])
            for a in range(size)
            for b in range(size)
            if spread[a] and spread[b]
        )
        return max(errors), float(entry)


def random_covariance(m, seed):
    """A full-rank covariance of m directions."""
    matrix = np.random.default_rng(seed).standard_normal((m, m))
    return matrix @ matrix.T
