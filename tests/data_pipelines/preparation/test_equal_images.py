"""Equal images are stored once, or each, as asked; where splits share one, both have it."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from made_sets import MakeSet, StopAt, samples_of, stored_in

from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index

pytestmark = pytest.mark.usefixtures("three_images_to_a_shard")


# Picture 0 is there as cat, cat, dog and dog, picture 1 as dog and dog.
EQUAL, EQUAL_LABELS = [0, 1, 2, 0, 3, 4, 1, 0, 5, 0], [0, 1, 0, 0, 1, 0, 1, 1, 0, 1]
PAIRS = [(0, 0), (0, 1), (1, 1), (2, 0), (3, 1), (4, 0), (5, 0)]


@pytest.mark.parametrize("equal_images", ["pairs", "uniform"])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_equal_images_are_stored_once_with_each_label(
    make_set: MakeSet,
    tmp_path: Path,
    stop_at: StopAt,
    pictures: list[bytes],
    parts: int,
    equal_images: str,
) -> None:
    raw, output = make_set(EQUAL, EQUAL_LABELS, equal_images=equal_images), Output(tmp_path / "out")
    for part in range(parts):
        # After the interruption come images that lie in shards from before it.
        *_, last = islice(raw.images, part, None, parts)
        assert stop_at(raw, replace(output, part=(part, parts) if parts > 1 else None), key=last.key)
    prepare(raw, output)
    rows = samples_of(tmp_path / "out")
    assert sorted((pictures.index(encoded), label) for _, label, encoded in rows) == PAIRS
    index = Index.load(tmp_path / "out", "train")
    places = [*zip(index.shard.tolist(), index.offset.tolist(), strict=True)]
    assert len(set(places)) == 6
    assert sorted(places, key=places.index) == places  # rows of one image are neighbours
    if parts == 1:
        assert sorted(pictures.index(encoded) for _, encoded in stored_in(tmp_path / "out")) == [0, 1, 2, 3, 4, 5]
    if equal_images == "pairs":
        assert index.weight is None
    else:
        assert index.weight is not None
        assert {place: float(index.weight[np.equal(places, place).all(1)].sum()) for place in places} == dict.fromkeys(
            places, 1.0
        )
        assert sorted(index.weight.tolist()) == [0.5, 0.5, 1, 1, 1, 1, 1]


def test_equal_images_may_be_stored_each(make_set: MakeSet, tmp_path: Path) -> None:
    raw = make_set(EQUAL, EQUAL_LABELS, equal_images="stored each")
    prepare(raw, Output(tmp_path / "out"))
    assert [(key, encoded) for key, _, encoded in samples_of(tmp_path / "out")] == stored_in(tmp_path / "out")
    assert stored_in(tmp_path / "out") == [(image.key, image.read()) for image in raw.images]
    assert Index.load(tmp_path / "out", "train").weight is None


def test_equal_images_of_two_splits_are_stored_in_both(make_set: MakeSet, tmp_path: Path) -> None:
    prepare(make_set([0, 1, 2, 1, 0], num_val=2, equal_images="pairs"), Output(tmp_path / "out"))
    train, val = (samples_of(tmp_path / "out", split) for split in ("train", "val"))
    assert [(key, label) for key, label, _ in train] == [
        ("00-0", 0),
        ("00-0", 1),
        ("01-1", 0),
        ("01-1", 1),
        ("02-2", 1),
    ]
    assert [(key, label) for key, label, _ in val] == [("val-0", 0), ("val-1", 1)]


@pytest.mark.parametrize("equal_images", ["stored each", "pairs"])
def test_a_split_may_lose_all_of_its_images(make_set: MakeSet, tmp_path: Path, equal_images: str) -> None:
    raw = make_set(range(4), num_val=1, equal_images=equal_images)
    images = [replace(image, image=b"") if image.split == "val" else image for image in raw.images]
    manifest = prepare(replace(raw, images=images), Output(tmp_path / "out", max_bad=0.3))
    assert manifest
    assert (manifest["quarantined"], manifest["splits"]["val"]["images"]) == (1, 0)
    assert len(Index.load(tmp_path / "out", "train")) == 4
