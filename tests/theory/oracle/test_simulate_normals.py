"""The compiled generator: the same words in Python integers and 40-digit arithmetic, then moments, tails, independence.

The statistical tests have fixed seeds and exact nulls; each is allowed to fail by chance once in 10⁴ seeds.
"""

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from theory.model.noise import Gaussian, Rademacher, StudentT, Uniform

compiled = pytest.importorskip("theory.oracle.compiled", reason="numba is not installed: no compiled engine to test")

ALPHA = 1e-4
LAWS = [Gaussian(), Rademacher(), Uniform(), StudentT(degrees_of_freedom=9.0)]
MASK = (1 << 64) - 1
SHAPE = (64, 256)


def draws(law, number, seed=20261122, shape=SHAPE):
    noise = compiled.Noise(np.random.SeedSequence(seed), law, shape)
    return np.stack([noise.next().copy() for _ in range(number)])


def reference_words(seed, number):
    """xoshiro256++ as its authors publish it, one lane after the other, in Python integers."""
    state = np.random.SeedSequence(seed).generate_state(4 * compiled.LANES, np.uint64).reshape(4, compiled.LANES)
    words = []
    for lane in range(compiled.LANES):
        s = [int(x) for x in state[:, lane]]
        row = []
        for _ in range(number):
            total = (s[0] + s[3]) & MASK
            row.append((((total << 23 | total >> 41) & MASK) + s[0]) & MASK)
            shifted = (s[1] << 17) & MASK
            s[2] ^= s[0]
            s[3] ^= s[1]
            s[1] ^= s[2]
            s[0] ^= s[3]
            s[2] ^= shifted
            s[3] = (s[3] << 45 | s[3] >> 19) & MASK
        words.append(row)
    return words


def reference_uniform(word):
    return (mpmath.mpf(word >> 12) + mpmath.mpf("0.5")) / 2**52


def reference_cosine_and_sine(word):
    angle = mpmath.pi / 2 * (2 * mpmath.mpf(word >> 12) / 2**52 - 1)
    return (-1 if word & 1 else 1) * mpmath.cos(angle), mpmath.sin(angle)


def test_normals_are_box_muller_of_xoshiro_words():
    lanes, rounds = compiled.LANES, 8
    values = draws(Gaussian(), 1, seed=3).ravel()[: 2 * lanes * rounds].reshape(rounds, 2, lanes)
    with mpmath.workdps(40):
        for lane, words in enumerate(reference_words(3, 2 * rounds)):
            for k in range(rounds):
                radius = mpmath.sqrt(-2 * mpmath.log(reference_uniform(words[2 * k])))
                cosine, sine = reference_cosine_and_sine(words[2 * k + 1])
                # four roundings of numbers up to the radius
                assert values[k, 0, lane] == pytest.approx(float(radius * cosine), rel=0, abs=1e-15 * float(radius))
                assert values[k, 1, lane] == pytest.approx(float(radius * sine), rel=0, abs=1e-15 * float(radius))


def test_students_are_baileys_formula_of_xoshiro_words():
    lanes, rounds, degrees = compiled.LANES, 8, 4.5
    values = draws(StudentT(degrees_of_freedom=degrees), 1, seed=4).ravel()[: lanes * rounds].reshape(rounds, lanes)
    with mpmath.workdps(40):
        for lane, words in enumerate(reference_words(4, 2 * rounds)):
            for k in range(rounds):
                u = reference_uniform(words[2 * k])
                radius = mpmath.sqrt((degrees - 2) * (u ** (mpmath.mpf(-2) / degrees) - 1))
                expected = float(radius * reference_cosine_and_sine(words[2 * k + 1])[0])
                assert values[k, lane] == pytest.approx(expected, rel=1e-13, abs=1e-14)


def test_signs_and_uniforms_are_the_bits_of_xoshiro_words():
    lanes = compiled.LANES
    words = reference_words(5, 1)
    signs = draws(Rademacher(), 1, seed=5).ravel()[: 64 * lanes].reshape(64, lanes)
    uniforms = draws(Uniform(), 1, seed=5).ravel()[:lanes]
    for lane in range(lanes):
        word = words[lane][0]
        assert [-1.0 if word >> (63 - bit) & 1 else 1.0 for bit in range(64)] == signs[:, lane].tolist()
        expected = float((reference_uniform(word) - mpmath.mpf("0.5")) * 2 * mpmath.sqrt(3))
        assert uniforms[lane] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("word", [0, 1, 1 << 12, MASK, MASK - (1 << 12), 1 << 63, (1 << 63) - 1, 0xB504F333F9DE6484])
def test_the_logarithm_is_right_at_the_ends_and_at_the_seams(word):
    with mpmath.workdps(40):
        expected = float(mpmath.log(reference_uniform(word)))
    got = compiled._log_uniform(np.uint64(word))
    assert got == pytest.approx(expected, rel=1e-15, abs=0)
    assert got < 0


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_moments_and_law(law):
    x = draws(law, 256).ravel()
    n = x.size
    p_values = []
    if isinstance(law, Rademacher):
        assert set(np.unique(x)) == {-1.0, 1.0}
        p_values.append(stats.binomtest(int((x > 0).sum()), n).pvalue)
    else:
        degrees = getattr(law, "degrees_of_freedom", 0.0)
        frozen = {
            Gaussian: lambda: stats.norm(),
            Uniform: lambda: stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
            StudentT: lambda: stats.t(degrees, scale=math.sqrt((degrees - 2) / degrees)),
        }[type(law)]()
        p_values.append(stats.kstest(x[:: max(1, n // 10**6)], frozen.cdf).pvalue)
        # The average of t⁴ is far from normal at 9 degrees: there the tails are judged instead.
        for power in (1, 2, 3, 4) if not isinstance(law, StudentT) else (1, 2):
            mean = frozen.expect(lambda t, k=power: t**k) if power % 2 == 0 else 0.0
            square = frozen.expect(lambda t, k=power: t ** (2 * k))
            z = (np.mean(x**power) - mean) / math.sqrt((square - mean**2) / n)
            p_values.append(2 * stats.norm.sf(abs(z)))
        for edge in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 4.8):
            chance = 2 * frozen.sf(edge)
            if chance > 0:
                p_values.append(stats.binomtest(int((np.abs(x) > edge).sum()), n, chance).pvalue)
            assert chance > 0 or np.abs(x).max() <= math.sqrt(3)
    assert min(p_values) > ALPHA / len(p_values), p_values


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_values_do_not_depend_on_each_other(law):
    x = draws(law, 128).ravel()
    y = x**2 - 1 if not isinstance(law, Rademacher) else None
    degrees = 2 + law.excess_kurtosis
    p_values = []
    # the partner of a pair, the neighbour lane, the next word of a lane, the same bit of the next word, the next step
    for lag in (1, 2, 31, 32, 33, 64, 128, 2047, 2048, 4096, SHAPE[0] * SHAPE[1], 3 * SHAPE[0] * SHAPE[1] + 32):
        z = np.dot(x[:-lag], x[lag:]) / math.sqrt(x.size - lag)
        p_values.append(2 * stats.norm.sf(abs(z)))
        if y is not None:
            z = np.dot(y[:-lag], y[lag:]) / degrees / math.sqrt(x.size - lag)
            p_values.append(2 * stats.norm.sf(abs(z)))
            z = np.dot(x[:-lag], y[lag:]) / math.sqrt(degrees * (x.size - lag))
            p_values.append(2 * stats.norm.sf(abs(z)))
    assert min(p_values) > ALPHA / len(p_values), p_values


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_streams_of_different_blocks_do_not_depend_on_each_other(law):
    children = np.random.SeedSequence(11).spawn(24)
    x = np.stack([compiled.Noise(child, law, (64, 256)).next().ravel().copy() for child in children])
    scores = (x @ x.T / math.sqrt(x.shape[1]))[np.triu_indices(len(x), 1)]
    assert stats.chi2.sf(np.sum(scores**2), len(scores)) > ALPHA / 2
    assert 2 * stats.norm.sf(np.abs(scores).max()) * len(scores) > ALPHA / 2


def test_pairs_are_spread_evenly_over_the_circle_and_the_radius():
    lanes = compiled.LANES
    pairs = draws(Gaussian(), 64).reshape(-1, 2, lanes)
    a, b = pairs[:, 0].ravel(), pairs[:, 1].ravel()
    angle = np.floor((np.arctan2(b, a) / (2 * np.pi) % 1.0) * 32).astype(int).clip(0, 31)
    radius = np.floor(np.exp(-0.5 * (a * a + b * b)) * 32).astype(int).clip(0, 31)
    counts = np.bincount(angle * 32 + radius, minlength=1024)
    assert stats.chisquare(counts).pvalue > ALPHA


def test_the_self_test_would_see_a_variance_wrong_by_five_in_a_thousand():
    x = draws(Gaussian(), 256).ravel() * math.sqrt(1.005)  # 7.2 standard errors
    z = (np.mean(x**2) - 1) / math.sqrt(2 / x.size)
    assert 2 * stats.norm.sf(abs(z)) < ALPHA / 100
