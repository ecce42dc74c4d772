"""Selections hold what they say, joined sets keep their labels, and the fingerprint follows both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import InputError
from data_pipelines.concat import concat
from data_pipelines.index import Index

CLASSES = ("cat", "dog", "eel")
LABELS = [0, 1, 2] * 6 + [1] * 4 + [2] * 2
NAN = np.nan


@pytest.fixture(scope="module")
def load(write_set: Callable[..., Path]) -> Callable[..., Index]:
    def write_and_load(labels: Sequence[Any], classes: Sequence[str] = CLASSES, **options: Any) -> Index:
        return Index.load(write_set(labels, classes, **options), "train")

    return write_and_load


@pytest.fixture(scope="module")
def animals(load: Callable[..., Index]) -> Index:
    """6 cats, 10 dogs and 8 eels."""
    return load(LABELS, shard_images=5)


def contents(index: Index) -> list[tuple[bytes, str]]:
    return [(index.encoded(row).tobytes(), index.classes[index.labels[row]]) for row in range(len(index))]


def keys(index: Index) -> list[str]:
    return index.keys(np.arange(len(index)))


def test_take_keeps_order_and_repeats(animals: Index) -> None:
    rows = np.array([20, 3, 3, 0])
    taken = animals.take(rows)
    assert contents(taken) == [contents(animals)[row] for row in rows]
    assert taken.width.tolist() == animals.width[rows].tolist()


@pytest.mark.parametrize("shots", [1, 2, 5, 6])
def test_few_shot_is_balanced_nested_and_drawn_by_seed(animals: Index, shots: int) -> None:
    few = animals.few_shot(shots, seed=3)
    assert np.bincount(few.labels).tolist() == [shots] * 3
    assert len(set(keys(few))) == 3 * shots
    assert set(contents(few)) <= set(contents(animals))
    assert keys(few) == keys(animals.few_shot(shots, seed=3))
    assert set(keys(animals.few_shot(max(shots - 1, 1), seed=3))) <= set(keys(few))
    assert len({tuple(keys(animals.few_shot(shots, seed))) for seed in range(12)}) > 6


def test_few_shot_draws_every_image_about_as_often(animals: Index) -> None:
    drawn = [key for seed in range(600) for key in keys(animals.few_shot(1, seed))]
    counts = np.array([drawn.count(key) for key in keys(animals)])
    assert np.abs(counts * np.bincount(LABELS)[LABELS] / 600 - 1).max() < 0.6


def test_few_shot_refuses_small_classes_or_takes_what_there_is(animals: Index) -> None:
    with pytest.raises(InputError, match=r"7 shots .*: cat \(6\); .*--shots-at-most"):
        animals.few_shot(7, seed=0)
    assert np.bincount(animals.few_shot(9, seed=0, at_most=True).labels).tolist() == [6, 9, 8]


def test_take_classes_renumbers_in_the_given_order(animals: Index) -> None:
    taken = animals.take_classes(["eel", "cat"])
    assert taken.classes == ("eel", "cat")
    assert taken.labels.dtype == np.int64
    assert contents(taken) == [pair for pair in contents(animals) if pair[1] != "dog"]
    assert np.bincount(taken.few_shot(2, seed=0).labels).tolist() == [2, 2]
    with pytest.raises(InputError, match="unknown class 'dgo'; did you mean 'dog'"):
        animals.take_classes(["cat", "dgo"])


def test_joined_multi_label_sets_are_aligned_by_name(load: Callable[..., Index]) -> None:
    one = load([[0, 1, NAN], [NAN, 1, 1]], ("edema", "mass", "hernia"), shard_images=1)
    other = load([[NAN, 1, 0, 1], [1, NAN, 0, 0]], ("hernia", "edema", "nodule", "mass"))
    joined = concat([one, other])
    assert joined.classes == ("edema", "mass", "hernia")
    np.testing.assert_array_equal(joined.labels, [[0, 1, NAN], [NAN, 1, 1], [1, 1, NAN], [NAN, 0, 1]])
    assert [joined.encoded(row).tobytes() for row in range(4)] == [
        index.encoded(row).tobytes() for index in (one, other) for row in (0, 1)
    ]
    third = load([[1.0, NAN], [0, 1]], ("mass", "fracture"))
    assert concat([other, one, third]).classes == ("mass",)
    np.testing.assert_array_equal(concat([other, one, third]).labels[:, 0], [1, 0, 1, 1, 1, 0])
    taken = concat([one, other]).take(np.array([3, 0]))
    assert taken.encoded(0).tobytes() == other.encoded(1).tobytes()


def test_joined_single_label_sets_are_renumbered(load: Callable[..., Index], animals: Index) -> None:
    other = load([0, 1, 1, 2], ("dog", "eel", "cat"))
    joined = concat([animals, other])
    assert joined.classes == CLASSES
    assert contents(joined) == contents(animals) + contents(other)
    assert joined.labels[-4:].tolist() == [1, 2, 2, 0]
    assert concat([animals]) is animals


def test_joined_sets_are_grey_only_if_all_are(load: Callable[..., Index], photo: Callable, encode: Callable) -> None:
    grey = load([0, 1, 2], images=[encode(photo(number, 5, 6, 1)) for number in range(3)])
    assert grey.channels == 1
    assert concat([grey, grey]).channels == 1
    assert concat([grey, load([0])]).channels == 3


def test_sets_that_do_not_fit_are_refused(load: Callable[..., Index], animals: Index) -> None:
    findings = load([[0, 1]], ("edema", "mass"))
    with pytest.raises(InputError, match=r"cannot be joined.*single_label: cat, dog, eel; multi_label: edema, mass"):
        concat([animals, findings])
    with pytest.raises(InputError, match="no finding in common; they have: edema, mass; fracture"):
        concat([findings, load([[1]], ("fracture",))])
    with pytest.raises(InputError, match="only if they have the same classes"):
        concat([animals, load([0, 1], ("cat", "dog"))])
    with pytest.raises(InputError, match="few-shot selection needs one label per image"):
        findings.few_shot(1, seed=0)
    with pytest.raises(InputError, match="needs one label per image"):
        findings.take_classes(["edema"])


def test_fingerprint_follows_data_and_selection(load: Callable[..., Index], photo: Callable, encode: Callable) -> None:
    pictures = [photo(number, 7, 9) for number in range(6)]
    labels = [0, 1, 2, 0, 1, 2]

    def fresh(changed_labels: Sequence[int] = labels, classes: Sequence[str] = CLASSES, grey: int = 0) -> Index:
        pictures[3][2, 2] = grey
        return load(changed_labels, classes, images=[encode(picture) for picture in pictures])

    index, again = fresh(), fresh()
    rows = np.array([4, 1])
    same = [
        (index, again),
        (index.take(rows), again.take(rows)),
        (index.take(rows), index.take(rows.astype(np.int32))),
        (index.take_classes(["dog", "cat"]), again.take_classes(["dog", "cat"])),
        (index.few_shot(1, seed=2), again.few_shot(1, seed=2)),
        (concat([index, again]), concat([again, index])),
    ]
    for one, other in same:
        assert one.fingerprint == other.fingerprint
    changed = [
        index,
        fresh(grey=1),
        fresh([0, 1, 2, 0, 1, 1]),
        fresh(classes=("cat", "dog", "fox")),
        index.take(rows),
        index.take(rows[::-1]),
        index.take(rows).take(np.array([0])),
        index.take_classes(["cat", "dog"]),
        index.take_classes(["dog", "cat"]),
        index.few_shot(1, seed=2),
        index.few_shot(1, seed=1),
        concat([index, index.take(rows)]),
        concat([index.take(rows), index]),
    ]
    assert len({one.fingerprint for one in changed}) == len(changed)
