r"""One mode of momentum SGD as a 2×2 linear map: what a unit of gradient noise does to it.

Model     In H's eigenbasis the state z = (w, v) of a mode with curvature λ (weight decay included) follows
              z₊ = (I + D) z + G ξ,      ξ the gradient noise along the eigenvector.
          PyTorch form    D = [[−ηgλ, −ηℓμ], [dλ, μ−1]],       G = (−ηg, d),         d = 1 − dampening, g = k + ℓd,
                          w ← w − η (k g + ℓ v): (k, ℓ) = (0, 1) heavy ball, (1, μ) Nesterov, (1−ν, ν) quasi-hyperbolic
          position form   D = [[−dηλ, μ], [−dηλ, μ−1]],        G = (−dη, −dη)
Precision The drift D = F − I is kept instead of F: at ηλ = 1e-12 the digits of 1 − ηλ are gone, those of ηλ are not.
Oracle    `theory.oracle` simulates the same updates without this map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.closed_form.stability import one_group
from theory.model.optimizer import MomentumSGD


class ModeResponse(NamedTuple):
    """Drift D of shape (m, 2, 2) and noise input G of shape (m, 2): z₊ = (I + D) z + G ξ for each mode."""

    drift: NDArray[np.float64]
    noise_input: NDArray[np.float64]

    @property
    def transition(self) -> NDArray[np.float64]:
        """F = I + D, shape (m, 2, 2)."""
        return np.eye(2) + self.drift


def mode_response(curvatures: ArrayLike, optimizer: MomentumSGD) -> ModeResponse:
    """The drift and noise input of every mode, state (w, v).

    Args:
        curvatures: eigenvalues λ of H without weight decay, shape ``(m,)``; the optimizer's decay is added here.
        optimizer: η, μ and the convention of the recursion.
    """
    one_group(optimizer)
    curvature = np.atleast_1d(np.asarray(curvatures, dtype=np.float64)) + optimizer.weight_decay
    eta, mu, share = optimizer.learning_rate, optimizer.momentum, optimizer.gradient_share
    drift = np.empty((len(curvature), 2, 2))
    noise_input = np.empty((len(curvature), 2))
    drift[:, 1, 1] = mu - 1.0
    if optimizer.form == "position":
        drift[:, 0, 0] = drift[:, 1, 0] = -share * eta * curvature
        drift[:, 0, 1] = mu
        noise_input[:] = -share * eta
    else:
        on_gradient, on_buffer = optimizer.direction
        gain = on_gradient + on_buffer * share
        drift[:, 0, 0] = -eta * gain * curvature
        drift[:, 0, 1] = -eta * on_buffer * mu
        drift[:, 1, 0] = share * curvature
        noise_input[:] = -eta * gain, share
    return ModeResponse(drift, noise_input)
