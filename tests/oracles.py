"""Reference answers for tests: slow, plain, in many digits, and written without the code they check."""

from __future__ import annotations

import mpmath
import numpy as np
from scipy import stats


def transition_mp(curvature, optimizer):
    """F (2×2) and G (2×1) of one mode, in mpmath numbers, read off the optimizer's documentation."""
    number = mpmath.mpf
    eta, mu, d = number(optimizer.learning_rate), number(optimizer.momentum), number(optimizer.dampening)
    d = d if mu else number(0)  # torch keeps no buffer then, and nothing to dampen
    h = number(curvature) + number(optimizer.weight_decay)
    if optimizer.form == "position":
        row_v, kick_v = (-(1 - d) * eta * h, mu), -(1 - d) * eta
        return mpmath.matrix([[1 + row_v[0], row_v[1]], row_v]), mpmath.matrix([kick_v, kick_v])
    row_v, kick_v = ((1 - d) * h, mu), 1 - d
    share = number(optimizer.discount)
    k, l = (1, mu) if optimizer.nesterov else (1 - share, share)  # noqa: E741  (w moves by −η (k g + l v))
    row_w = (1 - eta * (k * h + l * row_v[0]), -eta * l * row_v[1])
    kick_w = -eta * (k + l * kick_v)
    return mpmath.matrix([row_w, row_v]), mpmath.matrix([kick_w, kick_v])


def stationary_pair_mp(curvatures, noise, optimizer, digits=50):
    """E zᵢ zⱼᵀ (2×2) of two modes driven by noises of covariance `noise`: a 4×4 Kronecker system in many digits."""
    with mpmath.workdps(digits + 20):
        (f1, g1), (f2, g2) = (transition_mp(curvature, optimizer) for curvature in curvatures)
        system, right = mpmath.matrix(4, 4), mpmath.matrix(4, 1)
        for a in range(2):
            for b in range(2):
                for c in range(2):
                    for d in range(2):
                        system[2 * a + b, 2 * c + d] = (a == c and b == d) - f1[a, c] * f2[b, d]
                right[2 * a + b] = g1[a] * g2[b] * mpmath.mpf(noise)
        solved = mpmath.lu_solve(system, right)
        return mpmath.matrix([[solved[0], solved[1]], [solved[2], solved[3]]])


def unrolled_covariance(transition, forcing, steps):
    """M after `steps` of M ← F M Fᵀ + Q from M = 0, in extended precision."""
    step, forcing = transition.astype(np.longdouble), forcing.astype(np.longdouble)
    covariance = np.zeros_like(forcing)
    for _ in range(steps):
        covariance = step @ covariance @ step.T + forcing
    return covariance


def relative(found, expected):
    """‖found − expected‖_F / ‖expected‖_F."""
    return float(np.linalg.norm(np.asarray(found, float) - np.asarray(expected, float)) / np.linalg.norm(expected))


def uniformity_p_value(p_values):
    """Kolmogorov–Smirnov p-value of the hypothesis that `p_values` are uniform on (0, 1)."""
    return float(stats.kstest(np.asarray(p_values, dtype=np.float64), "uniform").pvalue)
