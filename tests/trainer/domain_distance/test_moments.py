"""Frechet distance and shrunk covariance, against scikit-learn, SciPy and known truth."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.covariance import ledoit_wolf

from trainer.domain_distance.moments import Features, Moments, frechet_distance


def drawn(count: int, width: int, shift: float = 0.0, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, width)) @ np.random.default_rng(99).normal(size=(width, width))
    return (mixed + shift).astype(np.float32)


def plain_frechet(one: Features, other: Features) -> float:
    """As the formula is printed."""
    first, second = (np.cov(each.astype(np.float64), rowvar=False) for each in (one, other))
    apart = one.mean(axis=0, dtype=np.float64) - other.mean(axis=0, dtype=np.float64)
    return float(apart @ apart + np.trace(first + second - 2 * sqrtm(first @ second).real))


@pytest.mark.parametrize("count", [12, 50, 4200])  # of 20 features; the last is more than one block
def test_shrunk_covariance_is_that_of_scikit_learn(count: int) -> None:
    features = drawn(count, 20)
    shrunk, weight = ledoit_wolf(features.astype(np.float64))
    moments = Moments.of(features)
    assert moments.shrinkage == pytest.approx(weight, abs=1e-9)
    np.testing.assert_allclose(moments.shrunk(), shrunk, rtol=1e-6, atol=1e-6)


def test_frechet_distance_is_the_printed_formula() -> None:
    one, other = drawn(5000, 8), drawn(300, 8, shift=0.7, seed=1)
    assert frechet_distance(Moments.of(one), Moments.of(other)) == pytest.approx(plain_frechet(one, other), rel=1e-6)


def test_frechet_distance_of_two_gaussians_is_the_known_one() -> None:
    rng, spread = np.random.default_rng(3), np.array([1.0, 2.0, 0.5])
    one = rng.normal(size=(40_000, 3)).astype(np.float32)
    other = (rng.normal(size=(40_000, 3)) * spread + [1, 0, 0]).astype(np.float32)
    truth = 1 + np.square(spread - 1).sum()
    assert frechet_distance(Moments.of(one), Moments.of(other)) == pytest.approx(truth, rel=0.02)


def test_frechet_distance_of_few_images_is_finite_and_ordered() -> None:
    few, near, far = (Moments.of(drawn(15, 40, shift, seed)) for seed, shift in enumerate((0.0, 0.5, 4.0)))
    assert few.is_short
    assert 0 < frechet_distance(few, near) < frechet_distance(few, far) < np.inf


def test_frechet_distance_is_symmetric_and_zero_to_itself() -> None:
    one, other = Moments.of(drawn(60, 6)), Moments.of(drawn(50, 6, 1.0, 1))
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-8)


def test_constant_features_have_a_frechet_distance() -> None:
    one, other = drawn(60, 6), drawn(50, 6, 1.0, 1)
    with_constant = [Moments.of(np.insert(each, 3, 2.0, axis=1)) for each in (one, other)]
    without = frechet_distance(Moments.of(one), Moments.of(other))
    assert frechet_distance(*with_constant) == pytest.approx(without, rel=1e-5)
