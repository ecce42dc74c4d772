"""Every sample comes once per epoch, on any number of ranks, from any step on."""

import math
import tracemalloc
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, spearmanr

from data_pipelines.loading.sampler import (
    BLOCK,
    WINDOW,
    BatchRequest,
    BatchSampler,
    evaluation_order,
    permute,
    permute_blocks,
    share,
)

WORLDS = [1, 2, 3, 4, 7, 64, 1024]
few = settings(max_examples=60, deadline=None)


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


def samples_of(requests: list[BatchRequest]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *(request.samples for request in requests)])


def positions_of(requests: list[BatchRequest]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *(request.positions for request in requests)])


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


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize(
    ("num_samples", "global_batch_size"),
    [(1, 8), (3, 8), (3, 64), (7, 8), (7, 64), (997, 8), (997, 64), (997, 2048), (1, 2048)],
)
def test_every_sample_once_per_epoch_on_any_number_of_ranks(
    num_samples: int, global_batch_size: int, world_size: int
) -> None:
    order = BatchSampler(num_samples, global_batch_size, seed=3)
    # On many ranks the longer cases would take seconds: there, their first steps.
    num_steps = min(num_samples // global_batch_size + 1, 16)
    if world_size < 64:
        num_steps = 2 * num_samples // global_batch_size + 1
    stream = []
    for step in range(num_steps):
        shares = [order.request(step, rank, world_size) for rank in range(world_size)]
        assert np.ptp([len(request.samples) for request in shares]) <= 1
        assert np.array_equal(samples_of(shares), order.request(step).samples)
        assert np.array_equal(positions_of(shares), step * global_batch_size + np.arange(global_batch_size))
        stream.append(samples_of(shares))
    num_epochs, rest = divmod(num_steps * global_batch_size, num_samples)
    assert num_epochs > 0 or (num_samples, global_batch_size, world_size) in ((997, 8, 64), (997, 8, 1024))
    epochs = np.concatenate(stream)[: num_epochs * num_samples].reshape(num_epochs, num_samples)
    assert (np.sort(epochs, axis=1) == np.arange(num_samples)).all()
    assert len(np.unique(np.concatenate(stream)[num_epochs * num_samples :])) == rest


@few
@given(
    num_samples=st.integers(1, 300),
    global_batch_size=st.integers(1, 80),
    world_size=st.integers(1, 9),
    step=st.integers(0, 2**40),
    shuffle=st.sampled_from(["full", "blocks"]),
    weighted=st.booleans(),
)
def test_shares_of_every_kind_of_order_are_those_of_one_rank(
    num_samples: int, global_batch_size: int, world_size: int, step: int, shuffle: Any, weighted: bool
) -> None:
    weights = np.linspace(0.1, 3, num_samples) if weighted else None
    order = BatchSampler(num_samples, global_batch_size, seed=6, shuffle=shuffle, weights=weights)
    whole = order.request(step)
    shares = [order.request(step, rank, world_size) for rank in range(world_size)]
    assert np.array_equal(samples_of(shares), whole.samples)
    assert np.array_equal(positions_of(shares), whole.positions)
    other_batches = BatchSampler(num_samples, 1, seed=6, shuffle=shuffle, weights=weights)
    last = other_batches.request((step + 1) * global_batch_size - 1)
    assert last.samples.tolist() == whole.samples[-1:].tolist()
    assert whole.samples.dtype == np.int64
    assert 0 <= whole.samples.min() <= whole.samples.max() < num_samples


@pytest.mark.parametrize("num_samples", [1, 127, 128, 129, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 300])
def test_blocks_show_every_sample_once_per_epoch(num_samples: int) -> None:
    order = BatchSampler(num_samples, 3 * num_samples, seed=8, shuffle="blocks")
    epochs = order.request(0).samples.reshape(3, num_samples)
    assert (np.sort(epochs, axis=1) == np.arange(num_samples)).all()


@few
@given(
    pairs=st.integers(1, 90),
    world_size=st.integers(1, 24),
    half_micro_batch=st.integers(1, 9),
    num_samples=st.integers(1, 200),
    step=st.integers(0, 50),
)
def test_unit_keeps_partners_together(
    pairs: int, world_size: int, half_micro_batch: int, num_samples: int, step: int
) -> None:
    order = BatchSampler(num_samples, 2 * pairs, seed=1, group_size=2)
    shares = [order.request(step, rank, world_size) for rank in range(world_size)]
    assert np.array_equal(samples_of(shares), order.request(step).samples)
    assert np.ptp([len(request.samples) for request in shares]) in (0, 2)
    for request in shares:
        micro_batches = request.split(2 * half_micro_batch)
        assert np.array_equal(positions_of(micro_batches), request.positions)
        for micro_batch in micro_batches:
            assert set(micro_batch.positions) == set(micro_batch.positions ^ 1)


@few
@given(total=st.integers(0, 500), parts=st.integers(1, 70), unit=st.sampled_from([1, 2, 3]))
def test_shares_are_contiguous_and_even(total: int, parts: int, unit: int) -> None:
    shares = [share(total, parts, part, unit) for part in range(parts)]
    assert [i for mine in shares for i in mine] == list(range(total))
    if total % unit == 0:
        assert max(map(len, shares)) - min(map(len, shares)) <= unit


@pytest.mark.parametrize(("global_batch_size", "world_size", "micro_batch_size"), [(20, 1, 20), (20, 3, 4), (37, 4, 3)])
def test_micro_batches_make_up_the_step_and_can_start_anywhere(
    global_batch_size: int, world_size: int, micro_batch_size: int
) -> None:
    order = BatchSampler(101, global_batch_size, seed=9)
    for rank in range(world_size):
        each = order.num_micro_batches(world_size, micro_batch_size)
        stream = list(islice(order.micro_batches(0, rank, world_size, micro_batch_size), 8 * each))
        assert all(0 < len(request.samples) <= micro_batch_size for request in stream)
        for step in range(8):
            of_step, whole = counted(stream[step * each : (step + 1) * each]), order.request(step, rank, world_size)
            assert np.array_equal(samples_of(of_step), whole.samples)
            assert np.array_equal(positions_of(of_step), whole.positions)
        resumed = list(islice(order.micro_batches(5, rank, world_size, micro_batch_size), 3 * each))
        for one, other in zip(stream[5 * each :], resumed, strict=True):
            assert np.array_equal(one.samples, other.samples)
            assert np.array_equal(one.positions, other.positions)


def counted(requests: list[BatchRequest]) -> list[BatchRequest]:
    return [request for request in requests if not request.is_padding]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    world_size=st.integers(1, 64),
    more_units=st.integers(0, 200),
    units_per_micro_batch=st.integers(1, 40),
    unit=st.sampled_from([1, 2]),
    step=st.integers(0, 30),
)
def test_every_rank_makes_the_same_number_of_micro_batches(
    world_size: int, more_units: int, units_per_micro_batch: int, unit: int, step: int
) -> None:
    """Every position counts exactly once; what a rank repeats is of its own share, and pairs stay together."""
    order = BatchSampler(53, unit * (world_size + more_units), seed=2, group_size=unit)
    micro_batch_size = unit * units_per_micro_batch
    each = order.num_micro_batches(world_size, micro_batch_size)
    positions: list[np.ndarray] = []
    for rank in range(world_size):
        stream = order.micro_batches(step, rank, world_size, micro_batch_size)
        mine, following = list(islice(stream, each)), next(stream)
        whole = order.request(step, rank, world_size)
        split = whole.split(micro_batch_size)
        for found, expected in zip(mine, split, strict=False):
            assert np.array_equal(found.positions, expected.positions)
            assert np.array_equal(found.samples, expected.samples)
        assert [request.is_padding for request in mine] == [False] * len(split) + [True] * (each - len(split))
        assert all(request.positions.tolist() == whole.positions[:unit].tolist() for request in mine[len(split) :])
        assert all(request.samples.tolist() == whole.samples[:unit].tolist() for request in mine[len(split) :])
        assert following.positions[0] == order.request(step + 1, rank, world_size).positions[0]
        assert not following.is_padding
        for request in mine if unit == 2 else ():
            assert set(request.positions) == set(request.positions ^ 1)
        assert each - len(split) <= 1
        positions += [request.positions for request in counted(mine)]
    assert np.array_equal(np.concatenate(positions), order.request(step).positions)


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("num_samples", [1, 7, 997])
def test_evaluation_covers_each_sample_exactly_once(num_samples: int, world_size: int) -> None:
    requests = [evaluation_order(num_samples, rank, world_size, 16) for rank in range(world_size)]
    assert np.array_equal(np.concatenate([samples_of(mine) for mine in requests]), np.arange(num_samples))
    assert all(0 < len(request.samples) <= 16 for mine in requests for request in mine)
    assert np.ptp([len(samples_of(mine)) for mine in requests]) <= 1


def test_large_sets_take_little_memory() -> None:
    order = BatchSampler(14_000_000, 4096, seed=2)
    tracemalloc.start()
    steps = [order.request(step).samples for step in (0, 3417, 10**9)]  # the second crosses into the next epoch
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    for samples in steps:
        assert samples.min() >= 0
        assert samples.max() < 14_000_000
        assert len(np.unique(samples)) > 4090
        assert abs(samples.mean() / 14e6 - 0.5) < 0.03
