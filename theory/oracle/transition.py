r"""Transition of the state z = (w, v) as dense matrices: z₊ = F z + G ξ, straight from the recursion's definition.

PyTorch form:  v₊ = μ v + (1−d)(A w + ξ),  w₊ = w − η (k (A w + ξ) + ℓ v₊), with (k, ℓ) = `MomentumSGD.direction`.
Position form: v₊ = μ v − (1−d) η (A w + ξ),  w₊ = w + v₊.   A = H + weight decay. Parameter groups make the decay and η
diagonal matrices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic


def transition(problem: Quadratic, optimizer: MomentumSGD, dtype: Any = np.float64) -> tuple[NDArray, NDArray]:
    """F ``(2m, 2m)`` and G ``(2m, m)`` with z₊ = F z + G ξ.

    Args:
        problem: H.
        optimizer: the recursion.
        dtype: working precision; `np.longdouble` forms ηλ without rounding it to float64, which near an edge moves the
            answer more than any solver's own error.
    """
    m = problem.dimension
    mu, keep = dtype(optimizer.momentum), 1 - dtype(optimizer.dampening if optimizer.momentum else 0)
    one = np.eye(m, dtype=dtype)
    rates, decays = one, one
    if optimizer.groups is not None:
        rates, decays = (np.diag(x.astype(dtype)) for x in (optimizer.groups.rates(), optimizer.groups.decays()))
    eta = dtype(optimizer.learning_rate) * rates
    curvature = problem.dense_hessian().astype(dtype) + dtype(optimizer.weight_decay) * decays
    if optimizer.form == "position":
        v_from_w, v_from_v, v_from_noise = -keep * eta @ curvature, mu * one, -keep * eta
        w_from_w, w_from_v, w_from_noise = one + v_from_w, v_from_v, v_from_noise
    else:
        v_from_w, v_from_v, v_from_noise = keep * curvature, mu * one, keep * one
        on_gradient, on_buffer = (dtype(x) for x in optimizer.direction)
        w_from_w = one - eta @ (on_gradient * curvature + on_buffer * v_from_w)
        w_from_v = -eta @ (on_buffer * v_from_v)
        w_from_noise = -eta @ (on_gradient * one + on_buffer * v_from_noise)
    return np.block([[w_from_w, w_from_v], [v_from_w, v_from_v]]), np.vstack([w_from_noise, v_from_noise])
