"""Draws never change, look like independent uniform numbers, and broadcast."""

import warnings

import numpy as np
import pytest
from scipy.stats import chisquare

from data_pipelines.common.counter_rng import hash64, integers, uniform

MANY = np.arange(200_000)
LARGEST = 2**63 - 1


def test_known_values() -> None:
    """Checkpoints and prepared sets rely on them."""
    # Without counters: the first outputs that other implementations of SplitMix64 give for these seeds.
    assert hash64(0).tolist() == [0xE220A8397B1DCDAF]
    assert hash64(1234567).tolist() == [6457827717110365317]
    assert hash64(3, 5, 7).tolist() == [0x31638A0AD6DDF72E]
    assert hash64(LARGEST, LARGEST).tolist() == [0x69369C738112C42B]
    assert uniform(0, np.arange(3), 4).tolist() == [0.16986032842664633, 0.2913032183629387, 0.6450149134781329]
    assert integers(10, 2, np.arange(8)).tolist() == [7, 0, 1, 6, 9, 0, 6, 6]


@pytest.mark.parametrize(
    "counters",
    [(MANY,), (MANY, 3), (7, MANY), (MANY + 2**40,), (MANY * 2**20,)],
    ids=["1", "1st", "2nd", "far", "wide"],
)
@pytest.mark.parametrize("seed", [0, 1, LARGEST])
def test_draws_are_uniform_and_uncorrelated(seed: int, counters: tuple[np.ndarray, ...]) -> None:
    draws = uniform(seed, *counters)
    standard_error = len(MANY) ** -0.5
    assert draws.dtype == np.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 1 / 2) < 4 * standard_error * 12**-0.5
    assert abs(draws.var() - 1 / 12) < 4 * standard_error * 180**-0.5
    assert chisquare(np.bincount((draws * 256).astype(int), minlength=256)).pvalue > 1e-4
    for lag in (1, 2, 7, 64):
        assert abs(np.corrcoef(draws[lag:], draws[:-lag])[0, 1]) < 4 * standard_error
    for other in (uniform(seed - 1 if seed else 1, *counters), uniform(seed, *counters, 0)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 4 * standard_error


def test_counters_broadcast_and_each_tuple_has_its_own_draw() -> None:
    table = hash64(5, np.arange(30), np.arange(40)[:, None])
    assert table.shape == (40, 30)
    assert len(np.unique(table)) == table.size
    assert table[7, 9] == hash64(5, 9, 7)[0]
    assert hash64(5).shape == hash64(5, 1).shape == (1,)
    assert hash64(5, []).shape == (0,)


def test_integers_fill_their_range_and_bounds_broadcast() -> None:
    bounds = np.array([1, 2, 3, 1000])
    drawn = integers(bounds, 0, np.arange(20_000)[:, None], np.arange(4))
    assert drawn.dtype == np.int64
    assert drawn.shape == (20_000, 4)
    assert (drawn.min(0) == 0).all()
    assert (drawn.max(0) == bounds - 1).all()
    for column, bound in zip(drawn.T[1:], bounds[1:], strict=True):
        assert chisquare(np.bincount(column)).pvalue > 1e-4
        assert len(np.bincount(column)) == bound


def test_wrapping_around_is_silent() -> None:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for counters in ((), (LARGEST,), (np.uint64(LARGEST), 2**64 - 1), (np.arange(3), np.int64(LARGEST), 3)):
            hash64(LARGEST, *counters)
            uniform(2**64 - 1, *counters)
