"""Excess commutation against dense matrices, and near 0 and 1 at the two ends."""

import numpy as np
import pytest
import torch

from empirical.measure.commuting import commutation_excess
from empirical.measure.lanczos import Eigenpairs, LanczosStatus
from theory.closed_form.alignment import haar_expectations, haar_rotation


class Dense:
    def __init__(self, matrix):
        self.matrix = torch.as_tensor(matrix)
        self.dimension, self.dtype, self.device = len(matrix), torch.float64, torch.device("cpu")

    def matmat(self, vectors):
        return self.matrix @ vectors


def pairs_of(matrix, k):
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = torch.as_tensor(values[::-1][:k].copy()), torch.as_tensor(vectors[:, ::-1][:, :k].copy())
    zeros = torch.zeros(k)
    return Eigenpairs(
        values=values,
        vectors=vectors,
        residuals=zeros,
        error_bounds=zeros,
        converged=zeros == 0,
        num_largest=k,
        num_products=0,
        num_restarts=0,
        status=LanczosStatus.CONVERGED,
    )


def made(size, rng, *, rotated):
    q = haar_rotation(size, rng)
    h = (q * np.geomspace(10, 1e-3, size)) @ q.T
    p = haar_rotation(size, rng) if rotated else q
    return h, (p * np.geomspace(3, 1e-2, size)) @ p.T


def by_hand(h, c):
    chi = np.trace(h @ c @ h @ c) / np.trace(h @ h @ c @ c)
    null = haar_expectations(np.linalg.eigvalsh(h), np.linalg.eigvalsh(c))["chi"]
    return (chi - null) / (1 - null)


@pytest.mark.parametrize("rotated", [True, False])
def test_where_probes_span_what_is_left_both_are_exact(rotated):
    h, c = made(12, np.random.default_rng(0), rotated=rotated)
    pairs = pairs_of(h, 5)
    whole, deflated = commutation_excess(Dense(h), [Dense(c)], pairs)
    assert whole.value == pytest.approx(by_hand(h, c), rel=1e-9, abs=1e-9)
    # What is left, in coordinates of its own: projecting inside the whole space would change the dimension.
    rest = np.linalg.eigh(h)[1][:, :7]
    assert deflated.value == pytest.approx(by_hand(rest.T @ h @ rest, rest.T @ c @ rest), rel=1e-9, abs=1e-9)
    assert whole.interval == (whole.value, whole.value)
    complete, nothing = commutation_excess(Dense(h), [Dense(c)], pairs_of(h, 12))
    assert complete.value == pytest.approx(whole.value, rel=1e-9) and nothing is None


def test_probes_are_right_within_their_errors_at_both_ends():
    rng, gaps = np.random.default_rng(1), []
    for draw in range(24):
        h, c = made(120, rng, rotated=draw % 2 == 0)
        whole, deflated = commutation_excess(Dense(h), [Dense(c)], pairs_of(h, 5), seed=draw)
        gaps.append((whole.value - by_hand(h, c)) / max(whole.interval[1] - whole.value, 1e-9))
        near = 0.0 if draw % 2 == 0 else 1.0
        assert abs(whole.value - near) < 0.25 and abs(deflated.value - near) < 0.25
    # 95 % intervals of 24 pairs: more than 5 misses has a probability below .003.
    assert np.sum(np.abs(gaps) > 1 + 1e-6) <= 5


def test_flat_spectra_cannot_be_told_apart():
    q = haar_rotation(30, np.random.default_rng(2))
    h, c = (q * np.linspace(1, 1.1, 30)) @ q.T, np.diag(np.linspace(1, 1.1, 30))
    whole, _ = commutation_excess(Dense(h), [Dense(c)], pairs_of(h, 3))
    assert whole.value is None and whole.null > 0.9


def test_one_aligned_outlier_fools_the_whole_and_not_the_deflated_pair():
    rng = np.random.default_rng(3)
    h, c = made(60, rng, rotated=True)
    top = np.linalg.eigh(h)[1][:, -1]
    c = c + 300 * np.outer(top, top)
    whole, deflated = commutation_excess(Dense(h), [Dense(c)], pairs_of(h, 3))
    assert whole.value > 0.9 and deflated.value < 0.4


def test_halves_of_the_samples_take_out_what_sampling_adds():
    rng, whole, halves = np.random.default_rng(4), [], []
    h, c = made(40, rng, rotated=False)
    root = np.linalg.cholesky(c)
    for draw in range(30):
        x = rng.standard_normal((120, 40)) @ root.T
        parts = [Dense(np.cov(part, rowvar=False)) for part in (x, x[:60], x[60:])]
        pairs = pairs_of(h, 40)
        whole.append(commutation_excess(Dense(h), parts[:1], pairs, seed=draw)[0].value)
        halves.append(commutation_excess(Dense(h), parts[1:], pairs, seed=draw)[0].value)
    error = np.std(halves, ddof=1) / np.sqrt(30)
    assert abs(np.mean(halves) - 1) < 4 * error < 0.1
    assert np.mean(whole) < 1 - 8 * error


def test_operators_that_do_not_fit_are_named():
    h, c = made(8, np.random.default_rng(5), rotated=False)
    for covariances in ([], [Dense(c[:4, :4])], [Dense(c)] * 3):
        with pytest.raises(ValueError, match="one or two of size 8"):
            commutation_excess(Dense(h), covariances, pairs_of(h, 2))
