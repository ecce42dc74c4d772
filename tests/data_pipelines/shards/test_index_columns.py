"""What an index reads of a prepared set: optional columns, weights, few rows, none outside the shards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_index import CLASSES

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import MANIFEST
from data_pipelines.shards.index import Index
from data_pipelines.shards.shard_reader import ShardReader


def rewrite(folder: Path, weight: np.ndarray | None = None, **changes: Any) -> Path:
    """Change the manifest of a prepared set, and give its train split a weight column."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    if weight is not None:
        np.save(folder / "train" / "weight.npy", weight)
        manifest["splits"]["train"]["columns"]["weight"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_optional_parts_of_a_set(write_set: Callable[..., Path]) -> None:
    plain = Index.load(write_set([0, 1, 2], CLASSES, shard_images=2), "train")
    assert (plain.metric, plain.patients, plain.origins) == ("top1", "none", ("small",) * 2)
    assert plain.weight is None
    assert Index.load(write_set([[0.0]], ("mass",)), "train").metric == "auc"

    folder = rewrite(
        write_set([0, 1, 2], CLASSES), np.array([0.5, 0.5, 1]), metric="auc", patients="may leak", name="lungs"
    )
    index = Index.load(folder, "train")
    assert (index.metric, index.patients, index.origins) == ("auc", "may leak", ("lungs",))
    assert index.weight is not None
    assert index.weight.tolist() == [0.5, 0.5, 1]
    assert isinstance(index.weight, np.memmap)


@pytest.mark.parametrize("weight", [np.ones(2), np.ones(3, dtype=np.int64), np.ones((3, 1))])
def test_weights_that_do_not_fit_are_refused(weight: np.ndarray, write_set: Callable[..., Path]) -> None:
    folder = rewrite(write_set([0, 1, 2], CLASSES), weight)
    with pytest.raises(InputError, match=r"weight.npy is not the column of 3 rows"):
        Index.load(folder, "train")


def test_weights_that_are_not_in_the_manifest_are_no_weights(write_set: Callable[..., Path]) -> None:
    folder = write_set([0, 1, 2], CLASSES)
    np.save(folder / "train" / "weight.npy", np.ones(3))
    assert Index.load(folder, "train").weight is None


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 90])
def test_loading_looks_at_few_rows(count: int, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set([0] * count, ("cat",), shard_images=7)
    looked_at: list[tuple[int, int]] = []
    check_row = ShardReader.check_row

    def counted(reader: ShardReader, shard: int, offset: int, length: int) -> None:
        looked_at.append((int(shard), offset))
        check_row(reader, shard, offset, length)

    monkeypatch.setattr(ShardReader, "check_row", counted)
    index = Index.load(folder, "train")
    places = list(zip(index.shard.tolist(), index.offset.tolist(), strict=True))
    assert len(looked_at) == len(set(looked_at)) == min(count, 16)
    assert {places[0], places[-1]} <= set(looked_at) <= set(places)
    assert max(np.diff([places.index(place) for place in looked_at]), default=1) <= count / 16 + 1


def test_rows_outside_the_shards_are_refused(write_set: Callable[..., Path]) -> None:
    for row, shard in ((0, -1), (2, 1)):
        folder = write_set([0, 1, 2], CLASSES)
        column = np.load(folder / "train" / "shard.npy")
        column[row] = shard
        np.save(folder / "train" / "shard.npy", column)
        with pytest.raises(InputError, match="names shards that are not there; prepare the set again"):
            Index.load(folder, "train")
