"""A capped union has so many images, shared out as was asked, and the same ones for a seed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.shards.concat import concat
from data_pipelines.shards.image_cap import cap_images, images_of_sets
from data_pipelines.shards.index import Index


@pytest.fixture(scope="module")
def sets(write_set: Callable[..., Path]) -> list[Index]:
    """Of 4, 8 and 12 images."""
    indexes = [Index.load(write_set([[1.0]] * count, ("mass",), shard_images=3), "train") for count in (4, 8, 12)]
    return [replace(index, origins=(name,) * len(index.shards)) for name, index in zip("abc", indexes, strict=True)]


def rows_of(index: Index) -> set[tuple[str, int, int]]:
    return {(index.origins[shard], int(shard), int(at)) for shard, at in zip(index.shard, index.offset, strict=True)}


@pytest.mark.parametrize(
    ("images", "per_set", "counts"),
    [
        (12, "even", (4, 4, 4)),
        (8, "even", (3, 3, 2)),
        (12, "proportional", (2, 4, 6)),
        (7, "proportional", (1, 2, 4)),  # of 7/6, 14/6 and 21/6
        (24, "proportional", (4, 8, 12)),
    ],
)
def test_the_sets_share_the_images(images: int, per_set: str, counts: tuple[int, ...], sets: list[Index]) -> None:
    capped = cap_images(concat(sets, "heads"), images, per_set, seed=0)
    assert images_of_sets(capped) == dict(zip("abc", counts, strict=True))
    assert len(rows_of(capped)) == len(capped) == images
    assert [head.name for head in capped.heads] == ["a", "b", "c"]


def test_the_seed_decides_which_and_fewer_are_part_of_more(sets: list[Index]) -> None:
    joined = concat(sets)
    drawn = [cap_images(joined, images, "even", seed) for images, seed in ((9, 0), (9, 0), (9, 1), (6, 0))]
    assert rows_of(drawn[0]) == rows_of(drawn[1]) != rows_of(drawn[2])
    assert rows_of(drawn[3]) < rows_of(drawn[0])
    assert drawn[0].fingerprint == drawn[1].fingerprint
    assert len({index.fingerprint for index in (joined, drawn[0], drawn[2], drawn[3])}) == 4
    assert (np.diff(drawn[0].shard) >= 0).all()


def test_the_draw_from_a_set_does_not_depend_on_others(sets: list[Index]) -> None:
    alone = cap_images(sets[2], 3, "even", seed=0)
    joined = cap_images(concat(sets), 9, "even", seed=0)
    assert {at for name, _, at in rows_of(joined) if name == "c"} == {at for _, _, at in rows_of(alone)}


@pytest.mark.parametrize(
    ("images", "per_set", "message"),
    [
        (25, "proportional", "--data.images is 25, and there are 24 training images; give at most 24"),
        (15, "even", "needs 5 images of each set, and a has 4 .* give at most 12, or --data.images-per-set propor"),
        (2, "even", "--data.images 2 leaves no image of c; give at least 3"),
        (2, "proportional", "--data.images 2 leaves no image of a; give at least 6"),
    ],
)
def test_too_many_and_too_few_are_refused(images: int, per_set: str, message: str, sets: list[Index]) -> None:
    with pytest.raises(InputError, match=message):
        cap_images(concat(sets), images, per_set, seed=0)
