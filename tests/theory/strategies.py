"""What Hypothesis draws: optimizers, spectra, rotations and problems, up to the edge of stability."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic


def rotation(dimension, seed):
    """A Haar-random orthogonal matrix."""
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))
    return matrix * np.sign(np.diag(upper))


def edge(optimizer):
    """Largest stable a = η(λ + decay), from Jury's conditions on the characteristic polynomial."""
    mu = optimizer.momentum
    if optimizer.nesterov:
        return 2 * (1 + mu) / (1 + 2 * mu)
    kept = 1 - optimizer.dampening if mu else 1  # without momentum torch ignores dampening
    return 2 * (1 + mu) / ((1 - optimizer.discount) * (1 + mu) + optimizer.discount * kept)


@st.composite
def optimizers(draw, largest_momentum=0.99, weight_decay=True):
    """Any of the recursions, at learning rate 1: the curvature then is the step size."""
    kind = draw(st.sampled_from(["heavy ball", "position", "nesterov", "dampened", "quasi-hyperbolic"]))
    momentum = draw(st.one_of(st.just(0.0), st.floats(0.0, largest_momentum)))
    decay = draw(st.sampled_from([0.0, 1e-3])) if weight_decay else 0.0
    if kind == "nesterov":
        return MomentumSGD(1.0, max(momentum, 0.05), nesterov=True, weight_decay=decay)
    if kind == "quasi-hyperbolic":
        discount, dampening = draw(st.floats(0.0, 1.0)), draw(st.one_of(st.just(momentum), st.floats(0.0, 0.9)))
        return MomentumSGD(1.0, momentum, dampening=dampening, discount=discount, weight_decay=decay)
    if kind == "dampened":
        form = draw(st.sampled_from(["pytorch", "position"]))
        return MomentumSGD(1.0, momentum, dampening=draw(st.floats(0.0, 0.9)), weight_decay=decay, form=form)
    return MomentumSGD(1.0, momentum, weight_decay=decay, form="position" if kind == "position" else "pytorch")


@st.composite
def problems(draw, optimizer, max_dimension=6, max_condition=1e4, closest=0.05, dense=True):
    """H and C with all modes stable: step sizes from the edge (relative gap `closest`) down by `max_condition`.

    Repeated and clustered curvatures are among the draws, and noise without full rank.
    """
    dimension = draw(st.integers(1, max_dimension))
    top = edge(optimizer) * (1 - draw(st.floats(closest, 0.99))) - optimizer.weight_decay
    shares = draw(st.lists(st.floats(0.0, 1.0), min_size=dimension, max_size=dimension))
    curvatures = top * max_condition ** -np.array(shares)
    pattern = draw(st.sampled_from(["free", "repeated", "clustered"]))
    if dimension > 1 and pattern != "free":
        curvatures[1] = curvatures[0] * (1 if pattern == "repeated" else 1 + 1e-9)
        if pattern == "clustered" and curvatures[1] >= top:
            curvatures[1] = curvatures[0] * (1 - 1e-9)
    noise = np.array(draw(st.lists(st.sampled_from([0.0, 0.01, 1.0, 30.0]), min_size=dimension, max_size=dimension)))
    noise[0] = noise[0] or 1.0
    seed = draw(st.integers(0, 2**20))
    turn = rotation(dimension, seed)
    noise_cov = (turn * noise) @ turn.T
    noise_cov = 0.5 * (noise_cov + noise_cov.T)
    if not dense:
        return Quadratic(curvatures, noise_cov)
    other = rotation(dimension, seed + 1)
    hessian = (other * curvatures) @ other.T
    return Quadratic(0.5 * (hessian + hessian.T), noise_cov)
