"""Fewer images of joined sets, so that how many there are and how different they are can be told apart."""

from typing import Literal

import numpy as np

from data_pipelines.common.advice import flag
from data_pipelines.common.counter_rng import hash64
from data_pipelines.common.errors import InputError
from data_pipelines.shards.columns import Array
from data_pipelines.shards.index import Index

ImagesPerSet = Literal["proportional", "even"]

_CAP = 0x6361705F  # keeps these draws apart from those for any other purpose


def images_of_sets(index: Index) -> dict[str, int]:
    """The number of samples of each joined set, by its name."""
    of_shard = np.bincount(index.shard, minlength=len(index.shards))
    counts = dict.fromkeys(index.origins, 0)
    for name, count in zip(index.origins, of_shard.tolist(), strict=True):
        counts[name] += count
    return counts


def cap_images(index: Index, images: int, per_set: ImagesPerSet, seed: int) -> Index:
    """`images` of the samples, drawn by `seed`, in the order of the index. even: as many of each set; proportional:
    by its share of the samples. The draw for fewer is part of the draw for more, and which samples of a set are drawn
    does not depend on the others.

    Raises InputError for more samples than there are, or so few that a set has none.
    """
    there = images_of_sets(index)
    wanted = dict(zip(there, _shared(there, images, per_set), strict=True))
    of_shard = np.array([list(there).index(name) for name in index.origins])
    kind = of_shard[index.shard]
    rows = [_drawn(np.flatnonzero(kind == number), count, seed) for number, count in enumerate(wanted.values())]
    return index.take(np.sort(np.concatenate(rows)))


def _drawn(rows: Array, count: int, seed: int) -> Array:
    drawn: Array = rows[np.argsort(hash64(seed, _CAP, np.arange(len(rows))), kind="stable")[:count]]
    return drawn


def _shared(there: dict[str, int], images: int, per_set: ImagesPerSet) -> list[int]:
    """How many of each set."""
    cap, total = flag("--data.images"), sum(there.values())
    if images > total:
        raise InputError(f"{cap} is {images:,}, and there are {total:,} training images; give at most {total}")
    if per_set == "even":
        each, rest = divmod(images, len(there))
        counts = [each + (number < rest) for number in range(len(there))]
        least = len(there)
    else:
        exact = np.array([images * count for count in there.values()])
        largest_rests = np.argsort(-(exact % total), kind="stable")[: images - int((exact // total).sum())]
        counts = [int(count) for count in exact // total + np.isin(np.arange(len(exact)), largest_rests)]
        least = -(-total // max(1, min(there.values())))
    for name, count in zip(there, counts, strict=True):
        if count == 0:
            raise InputError(f"{cap} {images} leaves no image of {name}; give at least {least}")
        if count > there[name]:
            raise InputError(
                f"{cap} {images:,} needs {count:,} images of each set, and {name} has {there[name]:,} for training; "
                f"give at most {len(there) * min(there.values())}, or {flag('--data.images-per-set')} proportional"
            )
    return counts
