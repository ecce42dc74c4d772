"""The study of heads: sets that label the same phantoms in their own ways, and what is averaged over them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.lib.union_heads.report import summary, table, values_of
from benchmarks.lib.union_heads.sets import FOURTH, SHARED, SOURCES, write_set
from benchmarks.lib.union_heads.study import Sizes, areas
from data_pipelines.datasets.phantom import FINDINGS, finding_extent
from data_pipelines.shards.index import Index
from trainer.evaluation.statistics.predictions import Predictions


def labels_of(number: int, folder: Path) -> dict[str, np.ndarray]:
    """Of all images of a source, drawn by one seed, in their order; keys are "name" for the images' numbers."""
    write_set(SOURCES[number], folder, images=40, size=32, seed=5)
    parts = [Index.load(folder, split) for split in ("train", "test")]
    keys = np.concatenate([part.keys(np.arange(len(part))) for part in parts])
    labels = np.concatenate([part.labels for part in parts])[np.argsort(keys)]
    return dict(zip(parts[0].classes, labels.T, strict=True)) | {"number": np.sort(keys)}


@pytest.mark.slow
def test_one_finding_is_graded_and_named_otherwise(tmp_path: Path) -> None:
    north, south, east = (labels_of(number, tmp_path / str(number)) for number in range(3))
    assert set(north) & set(south) & set(east) == {*SHARED, "number"}
    for name in SHARED:
        np.testing.assert_array_equal(north[name], south[name])
    np.testing.assert_array_equal(north["Effusion"], east["Pleural fluid"])
    large = np.array([finding_extent(5, image, "Effusion") >= 0.5 for image in range(40)])
    graded = np.where((north["Effusion"] == 1) & ~large, 0, north["Effusion"])
    np.testing.assert_array_equal(south["Effusion"], graded)
    assert 0 < (south["Effusion"] == 1).sum() < (north["Effusion"] == 1).sum()


def test_the_fourth_set_tests_more_than_it_trains_on(tmp_path: Path) -> None:
    folder = write_set(FOURTH, tmp_path / "west", images=120, size=32, seed=9)
    train, val, test = (Index.load(folder, split) for split in ("train", "val", "test"))
    assert train.classes == tuple(FINDINGS)
    assert len(test) > 40 > len(val) > 0
    assert not set(train.group) & set(test.group)


@pytest.mark.parametrize("trained", ["union", "heads"])
def test_each_set_is_measured_by_its_own_labels(trained: str) -> None:
    """Perfect for every label of a set, except for one that is upside down."""
    names = [f"{one.name}: {name}" if trained == "heads" else name for one in SOURCES for name in one.findings]
    classes = tuple(dict.fromkeys(names))
    labels = np.full((12, len(classes)), np.nan, dtype=np.float32)
    for number, one in enumerate(SOURCES):
        own = [classes.index(f"{one.name}: {name}" if trained == "heads" else name) for name in one.findings]
        labels[4 * number : 4 * number + 4, own] = np.array([0, 1, 1, 0])[:, None]
    logits = np.nan_to_num(labels)
    logits[4:8] *= -1
    of_set = [one.name for one in SOURCES for _ in range(4)]
    predictions = Predictions(classes, tuple("abcdefghijkl"), logits, labels, np.full(12, -1), {"set": of_set})
    found = areas(predictions, trained)
    assert {name: set(values.values()) for name, values in found.items()} == {"north": {1}, "south": {0}, "east": {1}}
    assert [tuple(values) for values in found.values()] == [tuple(one.findings) for one in SOURCES]


def test_differences_are_paired_by_seed() -> None:
    sources = {one.name: dict.fromkeys(one.findings, 0.5) for one in SOURCES}
    rows = [
        {"seed": seed, "trained": way, "sources": sources, "fourth": {"40": 0.1 * seed + gain}}
        for seed in range(2)
        for way, gain in (("intersection", 0.0), ("union", 0.01), ("heads", 0.03))
    ]
    assert values_of(rows)["fourth, 40 images"]["heads"] == pytest.approx({0: 3, 1: 13})
    assert summary(rows)["fourth, 40 images"]["heads less union"] == "+2.00 [+2.00, +2.00]"
    assert "own" not in summary(rows)["alike"]
    assert "| AUC, all findings of each set |  | 50.00 ± 0.00 | 50.00 ± 0.00 |" in table(rows, Sizes())
