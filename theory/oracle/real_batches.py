r"""SGD on batches of real rows, worked out row by row: no closed form, no constant noise.

Model     least squares on rows (xₙ, yₙ) with residuals rₙ at the optimum; w is the displacement from it, and a batch of
          S rows is drawn with replacement: w ← w − P g_B(w), g_B = (1/S) Σ xₙ (xₙᵀw − rₙ).
Result    H = XᵀX/N, V = Σ rₙ² xₙ xₙᵀ/N; Cov g_B at Cov w = Q is (Σ (rₙ² + xₙᵀQxₙ) xₙ xₙᵀ/N − HQH)/S; the law of w is
          the fixed point of Q ← (I − PH) Q (I − PH)ᵀ + P Cov(g_B) Pᵀ, found by iterating.
Source    H⁻¹VH⁻¹/N is the sandwich covariance of a misspecified regression (White 1980).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def batch_noise(inputs: Matrix, residuals: Matrix, law: Matrix, size: int) -> Matrix:
    """Covariance of a batch's gradient around weights of covariance `law`: every row's own curvature counts."""
    hessian = inputs.T @ inputs / len(inputs)
    strength = residuals**2 + np.einsum("ni,ij,nj->n", inputs, law, inputs)
    return ((inputs * strength[:, None]).T @ inputs / len(inputs) - hessian @ law @ hessian) / size


def law_of_batches(inputs: Matrix, residuals: Matrix, size: int, matrix: Matrix) -> Matrix:
    """Second moments of w ← w − P g_B(w) with P = `matrix`, iterated until they stay; not finite if they never do."""
    hessian = inputs.T @ inputs / len(inputs)
    keep = np.eye(len(hessian)) - matrix @ hessian
    law = np.zeros_like(hessian)
    for _ in range(100_000):
        again = keep @ law @ keep.T + matrix @ batch_noise(inputs, residuals, law, size) @ matrix.T
        stays = np.abs(again - law).max() <= 1e-15 * np.abs(again).max()
        law = again
        if stays or not np.isfinite(again).all():
            break
    return law


def sandwich(inputs: Matrix, residuals: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """H, the mean outer product V of the rows' gradients, and H⁻¹VH⁻¹/N."""
    hessian = inputs.T @ inputs / len(inputs)
    outer = (inputs * (residuals**2)[:, None]).T @ inputs / len(inputs)
    inverse = np.linalg.inv(hessian)
    return hessian, outer, inverse @ outer @ inverse / len(inputs)
