"""The order of an epoch is a permutation, of all samples or of blocks of them, by seed and epoch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, spearmanr
from test_sampler import few

from data_pipelines.loading.sampler import (
    BLOCK,
    WINDOW,
    BatchSampler,
    permute,
    permute_blocks,
)


def permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return permute(np.arange(num_samples), num_samples, seed, np.full(num_samples, epoch))


def permutation_by_blocks(num_samples: int, seed: int, epoch: int, block: int = 8, window: int = 64) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipelines.loading.sampler.BLOCK", block)
        patch.setattr("data_pipelines.loading.sampler.WINDOW", window)
        return permute_blocks(np.arange(num_samples), num_samples, seed, np.full(num_samples, epoch))


def runs(samples: np.ndarray, num_samples: int) -> int:
    """Stretches of neighbours that make up some samples; the last sample and the first are neighbours."""
    return int(np.sum(np.diff(np.sort(samples), append=samples.min() + num_samples) > 1))


def test_known_values() -> None:
    """A run that goes on from an old checkpoint relies on them."""
    assert permutation(10, 0, 0).tolist() == [1, 2, 4, 5, 7, 6, 3, 9, 8, 0]
    assert permutation(10, 0, 1).tolist() == [5, 0, 1, 2, 7, 3, 9, 4, 8, 6]
    assert permutation(10, 7, 0).tolist() == [6, 0, 3, 7, 1, 9, 4, 5, 8, 2]
    assert BatchSampler(1000, 6, seed=5).request(10**6).samples.tolist() == [854, 207, 825, 748, 813, 50]
    assert BatchSampler(9000, 4, seed=5, shuffle="blocks").request(2250).samples.tolist() == [5648, 4409, 5244, 7513]
    assert BatchSampler(5, 6, seed=5, weights=np.array([0.5, 1, 2, 0, 0.5])).request(7).samples.tolist() == [
        1,
        2,
        4,
        1,
        1,
        2,
    ]
    order = BatchSampler(1000, 6, seed=5)
    assert [order.replacement(6_000_003, attempt) for attempt in range(4)] == [755, 138, 408, 20]


@few
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
def test_permute_is_a_bijection_that_depends_on_seed_and_epoch(n: int, seed: int, epoch: int) -> None:
    drawn = permutation(n, seed, epoch)
    assert drawn.dtype == np.int64
    assert np.array_equal(np.sort(drawn), np.arange(n))
    if n >= 30:
        assert not np.array_equal(drawn, permutation(n, seed, epoch + 1))
        assert not np.array_equal(drawn, permutation(n, seed + 1, epoch))
        assert np.mean(drawn == np.arange(n)) < 0.3


@few
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
def test_permute_blocks_is_a_bijection(data: st.DataObject, seed: int, epoch: int) -> None:
    block, blocks = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 8))
    whole = st.sampled_from([block, block * blocks]).flatmap(lambda unit: st.integers(1, 9).map(lambda n: n * unit))
    edges = st.tuples(whole, st.sampled_from([-1, 0, 1])).map(lambda pair: max(1, sum(pair)))
    n = data.draw(st.integers(1, 1200) | edges)
    drawn = permutation_by_blocks(n, seed, epoch, block, block * blocks)
    assert drawn.dtype == np.int64
    assert np.array_equal(np.sort(drawn), np.arange(n))


@few
@given(n=st.integers(40, 600), seed=st.integers(0, 2**62), epoch=st.integers(0, 2**40))
def test_permute_blocks_depends_on_seed_and_epoch(n: int, seed: int, epoch: int) -> None:
    drawn = permutation_by_blocks(n, seed, epoch)
    for other in (permutation_by_blocks(n, seed, epoch + 1), permutation_by_blocks(n, seed + 1, epoch)):
        assert np.mean(drawn == other) < 0.3
        same_but_shifted = np.bincount((drawn - other) % n).max() / n
        assert same_but_shifted < 0.5


@pytest.mark.parametrize("num_samples", [6 * WINDOW, 6 * WINDOW + 5 * BLOCK + 1])
def test_a_window_is_read_in_few_runs_and_well_mixed(num_samples: int) -> None:
    blocks_of_window = WINDOW // BLOCK
    for seed in range(3):
        epoch = permute_blocks(np.arange(num_samples), num_samples, seed, np.full(num_samples, 1))
        windows = [epoch[start : start + WINDOW] for start in range(0, num_samples, WINDOW)]
        assert max(runs(window, num_samples) for window in windows) <= blocks_of_window
        for window in windows[:6]:
            assert abs(spearmanr(np.arange(WINDOW), window).statistic) < 0.05
            assert runs(window[:BLOCK], num_samples) > BLOCK * 0.9
        assert abs(spearmanr(np.arange(num_samples), epoch).statistic) < 0.2
        # Neither two windows nor two epochs share an order inside; whole blocks alone keep a sample's place in them.
        orders = {tuple((window - window[0]) % BLOCK) for window in windows[:6]}
        assert num_samples % BLOCK or len(orders) == 6


@pytest.mark.parametrize("first", [0, 17 * WINDOW, 17 * WINDOW + 1, 31 * WINDOW + WINDOW // 2, 100 * WINDOW - 5])
def test_consecutive_positions_touch_few_blocks(first: int) -> None:
    num_samples = 100 * WINDOW + 777
    epochs, positions = np.divmod(np.arange(first, first + WINDOW), num_samples)
    touched = len(np.unique(permute_blocks(positions, num_samples, 0, epochs) // BLOCK))
    # The blocks of two windows, each laid over two by the rotation, and what is left over at the end.
    assert touched <= 2 * 2 * (WINDOW // BLOCK) + 2
    assert len(np.unique(permute(positions, num_samples, 0, epochs) // BLOCK)) > 10 * touched


@pytest.mark.parametrize("num_samples", [5, 64, 100])
def test_blocks_show_each_sample_at_every_place_of_an_epoch(num_samples: int) -> None:
    epochs = 6000
    positions, counters = np.tile(np.arange(num_samples), epochs), np.repeat(np.arange(epochs), num_samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipelines.loading.sampler.BLOCK", 8)
        patch.setattr("data_pipelines.loading.sampler.WINDOW", 32)
        drawn = permute_blocks(positions, num_samples, 1, counters).reshape(epochs, num_samples)
    places = np.argsort(drawn, axis=1)
    for sample in (0, 1, num_samples // 2, num_samples - 1):
        assert chisquare(np.bincount(places[:, sample], minlength=num_samples)).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [2, 3, 5, 8, 13, 26, 101])
def test_first_positions_are_spread_evenly_over_the_samples(num_samples: int) -> None:
    epochs = np.arange(40_000)
    first, second = (permute(np.full_like(epochs, place), num_samples, 0, epochs) for place in (0, 1))
    by_seed = [permute(np.zeros(1, np.int64), num_samples, seed, np.zeros(1, np.int64))[0] for seed in range(2000)]
    assert chisquare(np.bincount(first, minlength=num_samples)).pvalue > 1e-3
    assert chisquare(np.bincount(by_seed, minlength=num_samples)).pvalue > 1e-3
    pairs = np.bincount(first * num_samples + second, minlength=num_samples**2).reshape(num_samples, -1)
    assert not pairs.diagonal().any()
    assert chisquare(pairs[~np.eye(num_samples, dtype=bool)]).pvalue > 1e-3


@pytest.mark.parametrize("num_samples", [3, 4, 5])
def test_every_order_of_a_few_samples_is_as_likely(num_samples: int) -> None:
    epochs = np.arange(40_000)
    places = [permute(np.full_like(epochs, place), num_samples, 0, epochs) for place in range(num_samples)]
    counts = np.unique(np.stack(places, axis=1), axis=0, return_counts=True)[1]
    assert len(counts) == math.factorial(num_samples)
    assert chisquare(counts).pvalue > 1e-3
