"""Which samples each rank sees at each step, and in which micro-batches: a pure function of seed, step, rank and sizes.

There is one endless stream of positions. Step s owns the positions [s * G, (s + 1) * G) for a global batch of G;
position p lies in epoch p // N and shows sample permutation(seed, epoch)[p % N] of N. Ranks take contiguous shares of
a step and cut them into micro-batches; a rank with fewer of them than others adds one as padding. So the samples of a
step do not depend on the number of ranks, a batch may cross epochs, a set may be smaller than a batch, and resuming
needs the step alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.common.counter_rng import hash64, integers, uniform

Int64s = npt.NDArray[np.int64]
Shuffle = Literal["full", "blocks"]

_FEISTEL_ROUNDS = 12  # six leave sets of fewer than twenty samples visibly uneven
# What a draw is for. Far from the numbers of augmentation, which hashes the same seed.
_ORDER = 1 << 32
_WINDOW, _ROTATION, _WEIGHTED, _REPLACEMENT = range(_ORDER + 1000, _ORDER + 1004)
_SUM_CHUNK = 4096
_INTEGER_TOLERANCE = 1e-5
BLOCK = 128  # neighbouring samples that `shuffle="blocks"` reads together
WINDOW = 64 * BLOCK  # samples that it mixes


def permute(positions: Int64s, num_samples: int, seed: int, epochs: Int64s) -> Int64s:
    """permutation(seed, epoch)[position] for each pair, int64, without ever holding the permutation.

    `positions` lie in [0, num_samples). A Feistel network over a grid of rows x columns >= num_samples is a bijection
    of the grid; points outside the samples are permuted again until they land inside (cycle-walking,
    Black and Rogaway, 2002).
    """
    rows = isqrt(num_samples - 1) + 1
    columns = -(-num_samples // rows)
    result = np.array(positions, dtype=np.int64)
    outside = np.arange(result.size)
    while outside.size:
        row, column = np.divmod(result[outside], columns)
        for feistel_round in range(0, _FEISTEL_ROUNDS, 2):
            row = (row + _round(seed, epochs[outside], feistel_round, column, rows)) % rows
            column = (column + _round(seed, epochs[outside], feistel_round + 1, row, columns)) % columns
        result[outside] = row * columns + column
        outside = outside[result[outside] >= num_samples]
    return result


def permute_blocks(positions: Int64s, num_samples: int, seed: int, epochs: Int64s) -> Int64s:
    """Like `permute`, but neighbouring samples are shown at about the same time.

    Blocks of neighbouring samples come in random order, and samples are shuffled inside a window of blocks. So a window
    reads a few long runs of the shards, for file systems with slow random reads.
    """
    window, inside = np.divmod(positions, WINDOW)
    last = num_samples // WINDOW
    shuffled = np.empty_like(positions)
    for chosen, length in ((window < last, WINDOW), (window == last, num_samples - last * WINDOW)):
        if not chosen.any():  # permute takes no empty range
            continue
        # A window has an order of its own in each epoch.
        counter = epochs[chosen] * (last + 1) + window[chosen]
        within = permute(inside[chosen], length, _subseed(seed, _WINDOW), counter)
        shuffled[chosen] = window[chosen] * WINDOW + within
    block, offset = np.divmod(shuffled, BLOCK)
    whole = num_samples // BLOCK
    is_whole = block < whole  # the samples after the last whole block keep their place
    block[is_whole] = permute(block[is_whole], whole, seed, epochs[is_whole]) if whole else 0
    # Rotated by another offset in each epoch, so that other samples are left over and blocks begin elsewhere.
    return (block * BLOCK + offset + integers(num_samples, seed, _ROTATION, epochs)) % num_samples


def _subseed(seed: int, purpose: int) -> int:
    return int(hash64(seed, purpose)[0])


_SHUFFLES: dict[Shuffle, Callable[[Int64s, int, int, Int64s], Int64s]] = {"full": permute, "blocks": permute_blocks}


def _round(seed: int, epochs: Int64s, feistel_round: int, half: Int64s, modulus: int) -> Int64s:
    bits = hash64(seed, _ORDER + feistel_round, epochs, half)
    reduced: Int64s = (bits % np.uint64(modulus)).astype(np.int64)
    return reduced


def share(total: int, parts: int, part: int, group_size: int = 1) -> range:
    """The contiguous range of [0, total) for `part`. Sizes differ by at most one group; the last part also gets the
    remainder, which is smaller than a group."""
    groups = total // group_size
    start, stop = groups * part // parts, groups * (part + 1) // parts
    return range(start * group_size, total if part == parts - 1 else stop * group_size)


@dataclass(frozen=True)
class BatchRequest:
    """Samples to load together: `samples` are rows of the index, `positions` decide their augmentation; int64 [B].

    is_padding: each sample is in another micro-batch of the same step as well and counts there alone.
    """

    samples: Int64s
    positions: Int64s
    is_padding: bool = False

    def split(self, size: int) -> list["BatchRequest"]:
        """Consecutive parts of at most `size` samples."""
        starts = range(0, len(self.samples), size)
        return [BatchRequest(self.samples[i : i + size], self.positions[i : i + size]) for i in starts]

    def as_padding(self, count: int) -> "BatchRequest":
        """Padding: the first `count` samples once more, not to be counted."""
        return BatchRequest(self.samples[:count], self.positions[:count], is_padding=True)


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """The training stream over `num_samples` samples in steps of `global_batch_size`.

    `group_size` = 2 keeps the positions 2k and 2k + 1 on one rank and in one micro-batch, as MixUp needs.
    `shuffle` = "blocks" shows neighbours at about the same time, see `permute_blocks`.
    `weights`, [num_samples], is how often each sample is shown in an epoch on average. Of adjacent samples whose
    weights sum to 1, beginning at an integer cumulative sum, exactly one is shown in each epoch.
    """

    num_samples: int
    global_batch_size: int
    seed: int
    group_size: int = 1
    shuffle: Shuffle = "full"
    weights: npt.NDArray[np.floating[Any]] | None = None
    epoch_size: int = field(init=False)
    """Images of an epoch."""
    _cumulative: npt.NDArray[np.float64] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        size = self.num_samples
        if self.weights is not None:
            cumulative = _cumulative(self.weights)
            size = max(1, round(cumulative[-1]))
            is_last = cumulative == cumulative[-1]  # zero-weight samples may follow; searchsorted must not reach them
            cumulative *= size / cumulative[-1]
            cumulative[is_last] = size
            object.__setattr__(self, "_cumulative", cumulative)
        object.__setattr__(self, "epoch_size", size)

    def request(self, step: int, rank: int = 0, world_size: int = 1) -> BatchRequest:
        """The rank's share of a step, in order."""
        mine = share(self.global_batch_size, world_size, rank, self.group_size)
        positions = step * self.global_batch_size + np.arange(mine.start, mine.stop, dtype=np.int64)
        epochs, within = np.divmod(positions, self.epoch_size)
        slots = _SHUFFLES[self.shuffle](within, self.epoch_size, self.seed, epochs)
        return BatchRequest(self._weighted(slots, epochs), positions)

    def replacement(self, position: int, attempt: int) -> int:
        """The sample that replaces an unreadable one: drawn from the same epoch by a hash of (position, attempt)."""
        epochs = np.array([position // self.epoch_size], dtype=np.int64)
        slots = integers(self.epoch_size, self.seed, _REPLACEMENT, position, attempt)
        return int(self._weighted(slots, epochs)[0])

    def _weighted(self, slots: Int64s, epochs: Int64s) -> Int64s:
        """The sample of each slot of an epoch: stratified sampling, slot s draws from [s, s + 1) of all weights."""
        if self._cumulative is None:
            return slots
        points = slots + uniform(self.seed, _WEIGHTED, epochs, slots)
        points = np.minimum(points, np.nextafter(slots + 1.0, 0.0))  # the sum may have been rounded up to the next slot
        found: Int64s = np.searchsorted(self._cumulative, points, side="right")
        return found

    def micro_batches(
        self, first_step: int, rank: int, world_size: int, micro_batch_size: int
    ) -> Iterator[BatchRequest]:
        """Endless micro-batches of one rank from `first_step` on; every step has `num_micro_batches` of them.

        A rank whose share makes fewer shows its first group of the step again, as padding: engines exchange gradients
        by micro-batch, and a rank with fewer than the others would never come to the exchange that they wait in.
        """
        assert share(self.global_batch_size, world_size, rank, self.group_size), "a rank without samples"
        number, step = self.num_micro_batches(world_size, micro_batch_size), first_step
        while True:
            mine = self.request(step, rank, world_size)
            parts = mine.split(micro_batch_size)
            yield from parts
            yield from [mine.as_padding(self.group_size)] * (number - len(parts))
            step += 1

    def largest_share(self, world_size: int) -> int:
        """Images of a step on the rank with the most."""
        return max(len(share(self.global_batch_size, world_size, rank, self.group_size)) for rank in range(world_size))

    def num_micro_batches(self, world_size: int, micro_batch_size: int) -> int:
        """Micro-batches per step: the same in every step, and on every rank."""
        return -(-self.largest_share(world_size) // micro_batch_size)


def _cumulative(weights: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Cumulative sums [N]; those that are whole but for rounding are made whole. Millions of thirds, added one by one,
    drift so far that a slot's edge would fall between other samples than the weights say."""
    sums = np.array(weights, dtype=np.float64)
    start = 0.0
    for first in range(0, len(sums), _SUM_CHUNK):
        block = sums[first : first + _SUM_CHUNK]
        np.cumsum(block, out=block)
        block += start
        start = float(block[-1])
        whole = np.rint(block)
        near = np.abs(block - whole) < _INTEGER_TOLERANCE
        block[near] = whole[near]
    return sums


def evaluation_order(num_samples: int, rank: int, world_size: int, batch_size: int) -> list[BatchRequest]:
    """The rank's share of one pass over all samples, each exactly once over the ranks, in index order."""
    mine = share(num_samples, world_size, rank)
    samples = np.arange(mine.start, mine.stop, dtype=np.int64)
    return BatchRequest(samples, samples).split(batch_size)
