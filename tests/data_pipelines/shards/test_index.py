"""An index holds what was prepared; selections, weights and the fingerprint hold what they say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import some_of
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Balance, Index

CLASSES = ("cat", "dog", "eel")
LABELS = [0, 1, 2] * 6 + [1] * 4 + [2] * 2
NAN = np.nan


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
    for cls in range(3):  # from 1 to all of the smallest class, each draw holds the one before and one image more
        drawn = [{k for k, c in zip(keys(one), one.labels, strict=True) if c == cls} for one in draws_of(animals)]
        assert [len(one) for one in drawn] == [1, 2, 3, 4, 5, 6]
        assert all(one < other for one, other in pairwise(drawn))


def test_few_shot_draws_are_those_of_earlier_versions(animals: Index) -> None:
    """A study that goes on would otherwise compare runs on other images."""
    assert animals.labels.tolist() == LABELS
    for shots, seed, rows in (
        (1, 3, [6, 7, 23]),
        (2, 3, [1, 3, 6, 7, 17, 23]),
        (5, 4, [1, 2, 3, 4, 5, 6, 9, 11, 12, 13, 14, 15, 17, 19, 21]),
    ):
        assert keys(animals.few_shot(shots, seed)) == animals.keys(np.array(rows))


def draws_of(index: Index) -> list[Index]:
    return [index.few_shot(shots, seed=3) for shots in range(1, 7)]


def test_five_seeds_are_five_subsets_of_several_images(animals: Index) -> None:
    for shots in (1, 2, 5):
        subsets = [tuple(keys(animals.few_shot(shots, seed))) for seed in range(5)]
        assert len(set(subsets)) == 5
        assert subsets == [tuple(keys(animals.few_shot(shots, seed))) for seed in range(5)]


def test_few_shot_draws_every_image_about_as_often(animals: Index) -> None:
    drawn = [key for seed in range(600) for key in keys(animals.few_shot(1, seed))]
    counts = np.array([drawn.count(key) for key in keys(animals)])
    assert np.abs(counts * np.bincount(LABELS)[LABELS] / 600 - 1).max() < 0.6


def test_one_label(load: Callable[..., Index]) -> None:
    labels = [[1, 0, 0], [0, NAN, 1], [1, 1, 0], [0, 0, 0], [NAN, NAN, NAN], [NAN, 1, NAN], [1, 1, 1], [0, 0, 1]]
    findings = replace(load(labels, ("edema", "mass", "nodule")), patients="apart", weight=np.arange(8) / 7)
    single = findings.one_label()
    assert keys(single) == ["image-000", "image-001", "image-005", "image-007"]
    assert single.labels.tolist() == [0, 2, 1, 2]
    assert single.labels.dtype == np.int64
    assert (single.task, single.metric, single.patients, single.classes) == (
        "single_label",
        "top1",
        "apart",
        findings.classes,
    )
    assert single.weight is not None
    assert single.weight.tolist() == [0, 1 / 7, 5 / 7, 1]
    assert single.fingerprint not in {findings.fingerprint, findings.take(np.array([0, 1, 5, 7])).fingerprint}
    assert np.bincount(single.few_shot(1, seed=0).labels).tolist() == [1, 1, 1]
    assert single.one_label() is single
    with pytest.raises(InputError, match="no image of small has exactly one positive finding"):
        findings.take(np.array([2, 3, 4])).one_label()


def test_classes_below_a_number_of_images(animals: Index) -> None:
    assert animals.below(6) == []
    assert animals.below(7) == ["cat (6)"]
    assert animals.below(9) == ["cat (6)", "eel (8)"]
    assert animals.take(np.flatnonzero(animals.labels == 0)).below(1) == ["dog (0)", "eel (0)"]
    assert some_of(["a"]) == "a"
    assert some_of([str(i) for i in range(20)]).endswith("18, 19")
    assert some_of([str(i) for i in range(21)]).endswith("18, 19 and 1 more")


def test_few_shot_refuses_small_classes_or_takes_what_there_is(animals: Index) -> None:
    with pytest.raises(InputError, match=r"7 shots .*: cat \(6\); .*--data.shots-at-most"):
        animals.few_shot(7, seed=0)
    assert np.bincount(animals.few_shot(9, seed=0, at_most=True).labels).tolist() == [6, 9, 8]


def test_take_classes_renumbers_in_the_given_order(animals: Index) -> None:
    taken = animals.take_classes(["eel", "cat"])
    assert taken.classes == ("eel", "cat")
    assert taken.labels.dtype == np.int64
    assert contents(taken) == [pair for pair in contents(animals) if pair[1] != "dog"]
    assert np.bincount(taken.few_shot(2, seed=0).labels).tolist() == [2, 2]
    with pytest.raises(InputError, match="unknown class 'dog,cat'; separate names by spaces: dog cat"):
        animals.take_classes(["dog,cat"])
    with pytest.raises(InputError, match="unknown class 'dgo'; did you mean 'dog'"):
        animals.take_classes(["cat", "dgo"])


def test_selections_need_one_label_per_image(load: Callable[..., Index]) -> None:
    findings = load([[0, 1]], ("edema", "mass"))
    with pytest.raises(InputError, match=r"few-shot selection needs one label per image.*--data.one-label"):
        findings.few_shot(1, seed=0)
    with pytest.raises(InputError, match="a choice of classes needs one label per image"):
        findings.take_classes(["edema"])
    with pytest.raises(InputError, match="a balance of classes needs one label per image"):
        findings.weights("class")
    with pytest.raises(InputError, match="a class is named twice: cat, cat"):
        load([0, 1, 2]).take_classes(["cat", "cat"])


def test_selections_keep_what_belongs_to_samples_and_set(animals: Index) -> None:
    weight = np.arange(len(animals)) / 7
    index = replace(animals, weight=weight, metric="auc", patients="apart")
    by_key = dict(zip(keys(index), weight, strict=True))
    rows = np.array([5, 2, 2, 20])
    for selected in (index.take(rows), index.few_shot(3, seed=1), index.take_classes(["eel", "cat"])):
        assert selected.weight is not None
        assert selected.weight.tolist() == [by_key[key] for key in keys(selected)]
        assert (selected.metric, selected.patients) == ("auc", "apart")
        assert selected.origins == index.origins
    assert animals.take(rows).weight is None


def test_without_a_balance_weights_are_the_sets_own(animals: Index) -> None:
    assert animals.weights("none") is None
    own = np.linspace(0, 1, len(animals))
    assert replace(animals, weight=own).weights("none") is own


def joined(counts: Sequence[int], load: Callable[..., Index]) -> Index:
    """Sets "set 0", "set 1" ... of so many images, of several shards each."""
    sets = [load([0, 1, 2] * count, shard_images=2).take(np.arange(count)) for count in counts]
    return concat([replace(one, origins=(f"set {i}",) * len(one.shards)) for i, one in enumerate(sets)])


@pytest.mark.parametrize("balance", ["class", "set"])
def test_a_balance_gives_equal_shares_of_an_epoch(balance: Balance, load: Callable[..., Index]) -> None:
    index = joined((2, 7, 4), load)
    assert len(set(index.origins)) == 3
    kind = index.labels if balance == "class" else np.array([int(index.origins[s][-1]) for s in index.shard])
    own = np.linspace(0.2, 1.7, len(index))
    for one, expected_total in ((index, len(index)), (replace(index, weight=own), own.sum())):
        weights = one.weights(balance)
        assert weights is not None
        assert (weights.shape, weights.dtype) == ((len(index),), np.float64)
        assert weights.sum() == pytest.approx(expected_total)
        assert np.bincount(kind, weights=weights) == pytest.approx([expected_total / 3] * 3)
        for k in range(3):  # among its like, a sample keeps its own weight
            ratios = weights[kind == k] / (1 if one.weight is None else own[kind == k])
            assert np.ptp(ratios) == pytest.approx(0)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=50), data=st.data())
def test_classes_without_images_do_not_count(labels: list[int], data: st.DataObject) -> None:
    weight = np.array(data.draw(st.lists(st.floats(0.1, 3), min_size=len(labels), max_size=len(labels))))
    nothing = dict.fromkeys(("shard", "offset", "length", "height", "width", "group"), np.zeros(len(labels), int))
    index = Index(
        task="single_label",
        classes=tuple("abcdefgh"),
        channels=1,
        flip=True,
        fingerprint="",
        metric="top1",
        patients="none",
        shards=(),
        origins=(),
        labels=np.array(labels),
        weight=weight,
        **nothing,
    )
    shares = np.bincount(labels, weights=index.weights("class"))
    present = np.unique(labels)
    assert shares[present] == pytest.approx([weight.sum() / len(present)] * len(present))


def test_sets_without_images_do_not_count(load: Callable[..., Index]) -> None:
    taken = joined((2, 3, 4), load).take(np.array([0, 1, 5, 6, 7]))  # nothing of the second
    assert taken.weights("set") == pytest.approx([5 / 4, 5 / 4, 5 / 6, 5 / 6, 5 / 6])


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
