"""Joined sets keep each image's labels, by the names of the classes, and what was known of either set."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import Patients
from data_pipelines.common.tasks import Metric
from data_pipelines.shards.concat import concat
from data_pipelines.shards.index import Index

ANIMALS = ("cat", "dog", "eel")
FINDINGS = ("edema", "mass", "hernia", "nodule", "fracture")
NAN = np.nan


@pytest.fixture(scope="module")
def one(load: Callable[..., Index]) -> Index:
    return load([[0, 1, NAN], [NAN, 1, 1]], ("edema", "mass", "hernia"), shard_images=1)


@pytest.fixture(scope="module")
def other(load: Callable[..., Index]) -> Index:
    return load([[NAN, 1, 0, 1], [1, NAN, 0, 0]], ("hernia", "edema", "nodule", "mass"))


def images(index: Index) -> list[bytes]:
    return [index.encoded(row).tobytes() for row in range(len(index))]


def test_the_findings_that_all_sets_have(one: Index, other: Index, load: Callable[..., Index]) -> None:
    joined = concat([one, other])
    assert joined.classes == ("edema", "mass", "hernia")
    np.testing.assert_array_equal(joined.labels, [[0, 1, NAN], [NAN, 1, 1], [1, 1, NAN], [NAN, 0, 1]])
    assert images(joined) == images(one) + images(other)
    third = load([[1.0, NAN], [0, 1]], ("mass", "fracture"))
    assert concat([other, one, third]).classes == ("mass",)
    np.testing.assert_array_equal(concat([other, one, third]).labels[:, 0], [1, 0, 1, 1, 1, 0])
    taken = joined.take(np.array([3, 0]))
    assert images(taken) == [images(other)[1], images(one)[0]]


def test_the_findings_that_any_set_has(one: Index, other: Index) -> None:
    joined = concat([one, other], "union")
    assert joined.classes == ("edema", "mass", "hernia", "nodule")
    assert joined.labels.dtype == np.float32
    expected = [[0, 1, NAN, NAN], [NAN, 1, 1, NAN], [1, 1, NAN, 0], [NAN, 0, 1, 0]]
    np.testing.assert_array_equal(joined.labels, expected)
    assert images(joined) == images(one) + images(other)


def test_findings_by_name(one: Index, other: Index) -> None:
    joined = concat([one, other], ("nodule", "edema"))
    assert joined.classes == ("nodule", "edema")
    np.testing.assert_array_equal(joined.labels, [[NAN, 0], [NAN, NAN], [0, 1], [0, NAN]])
    with pytest.raises(InputError, match="no set has a finding 'nodul'; did you mean 'nodule'"):
        concat([one, other], ("edema", "nodul"))
    with pytest.raises(InputError, match="no set has a finding 'x'; known: edema, hernia, mass, nodule"):
        concat([one, other], ("x",))


def test_findings_of_one_set_by_name(one: Index) -> None:
    chosen = concat([one], ("hernia", "edema"))
    assert chosen.classes == ("hernia", "edema")
    np.testing.assert_array_equal(chosen.labels, [[NAN, 0], [1, NAN]])
    assert images(chosen) == images(one)
    assert chosen.fingerprint != one.fingerprint
    for classes in ("intersection", "union", one.classes):
        assert concat([one], classes) is one


def test_heads_keep_the_findings_of_each_set_apart(one: Index, other: Index) -> None:
    sets = [replace(one, origins=("a",) * len(one.origins)), replace(other, origins=("b",) * len(other.origins))]
    joined = concat(sets, "heads")
    assert joined.classes == ("a: edema", "a: mass", "a: hernia", "b: hernia", "b: edema", "b: nodule", "b: mass")
    none_of_b, none_of_a = [NAN] * 4, [NAN] * 3
    expected = [
        [0, 1, NAN, *none_of_b],
        [NAN, 1, 1, *none_of_b],
        [*none_of_a, NAN, 1, 0, 1],
        [*none_of_a, 1, NAN, 0, 0],
    ]
    np.testing.assert_array_equal(joined.labels, expected)
    assert images(joined) == images(one) + images(other)
    assert joined.fingerprint not in (concat(sets, "union").fingerprint, concat(sets).fingerprint)
    for head, of_set in zip(joined.heads, sets, strict=True):
        own = joined.of_head(head)
        assert (own.classes, own.heads, images(own)) == (of_set.classes, (), images(of_set))
        np.testing.assert_array_equal(own.labels, of_set.labels)


def test_sets_of_one_name_have_heads_of_their_own(one: Index) -> None:
    joined = concat([one, one], "heads")
    name = one.origins[0]
    assert [head.name for head in joined.heads] == [name, f"{name} (2)"]
    assert joined.of_head(joined.heads[1]).keys([0, 1]) == one.keys([0, 1])
    assert concat([one, one], "union").heads == ()


def test_heads_that_make_no_sense_are_refused(one: Index, load: Callable[..., Index]) -> None:
    with pytest.raises(InputError, match="there is one set; leave out"):
        concat([one], "heads")
    animals = replace(load([0, 1, 2], ANIMALS), origins=("pets",))
    with pytest.raises(InputError, match=r"images of pets have one class each; name .* leave out --data.join heads"):
        concat([one, animals], "heads")
    apart = [
        replace(one, origins=(name,), classes=(finding, "x", "y")) for name, finding in (("a", "b: c"), ("a: b", "c"))
    ]
    with pytest.raises(InputError, match="names that are alike"):
        concat(apart, "heads")


@settings(max_examples=40, deadline=None)
@given(
    sets=st.lists(st.lists(st.sampled_from(FINDINGS), unique=True, min_size=1), min_size=1, max_size=4),
    how=st.sampled_from(["intersection", "union", "names"]),
    data=st.data(),
)
def test_every_label_stays_with_its_image_and_its_name(
    sets: list[list[str]], how: str, data: st.DataObject, one: Index
) -> None:
    indexes, known = [], []
    for number, names in enumerate(sets):
        values = np.array([[10 * number + FINDINGS.index(name) for name in names]] * 2, dtype=np.float32)
        indexes.append(replace(one, classes=tuple(names), labels=values))
        known += [{name: 10 * number + FINDINGS.index(name) for name in names}] * 2
    every = list(dict.fromkeys(name for names in sets for name in names))
    wanted: Any = how if how != "names" else data.draw(st.lists(st.sampled_from(every), unique=True, min_size=1))
    expected = {
        "union": every,
        "intersection": [name for name in every if all(name in names for names in sets)],
        "names": wanted,
    }[how]
    if not expected:
        with pytest.raises(InputError, match="no finding in common"):
            concat(indexes, wanted)
        return
    joined = concat(indexes, wanted)
    assert joined.classes == tuple(expected)
    for labels, of_image in zip(joined.labels, known, strict=True):
        np.testing.assert_array_equal(labels, [of_image.get(name, NAN) for name in expected])


def test_single_label_sets_are_renumbered(load: Callable[..., Index]) -> None:
    one = load([0, 1, 2, 1], ANIMALS, shard_images=3)
    other = load([0, 1, 1, 2], ("dog", "eel", "cat"))
    joined = concat([one, other])
    assert joined.classes == ANIMALS
    assert joined.labels.tolist() == [0, 1, 2, 1, 1, 2, 2, 0]
    assert joined.labels.dtype == np.int64
    assert images(joined) == images(one) + images(other)
    assert joined.keys([1, 5]) == [*one.keys(1), *other.keys(1)]
    assert concat([one]) is one


def test_joined_sets_are_grey_or_mirrored_only_if_all_are(
    load: Callable[..., Index], photo: Callable, encode: Callable
) -> None:
    grey = load([0, 1, 2], ANIMALS, images=[encode(photo(number, 5, 6, 1)) for number in range(3)])
    coloured = load([0], ANIMALS)
    assert grey.channels == 1
    assert concat([grey, grey]).channels == 1
    assert concat([grey, coloured]).channels == 3
    assert concat([grey, coloured]).flip
    assert not concat([grey, replace(coloured, flip=False)]).flip


@pytest.mark.parametrize(
    ("one_has", "other_has", "joined_has"),
    [
        (None, None, None),
        ([0.5, 0.5], None, [0.5, 0.5, 1, 1]),
        (None, [2, 3], [1, 1, 2, 3]),
        ([1, 0], [2, 3], [1, 0, 2, 3]),
    ],
)
def test_weights_are_joined(
    one_has: list[float] | None, other_has: list[float] | None, joined_has: list[float] | None, one: Index, other: Index
) -> None:
    weights = [None if weight is None else np.array(weight, dtype=np.float64) for weight in (one_has, other_has)]
    joined = concat([replace(one, weight=weights[0]), replace(other, weight=weights[1])], "union")
    assert (None if joined.weight is None else joined.weight.tolist()) == joined_has


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (("none", "none"), "none"),
        (("none", "apart"), "apart"),
        (("apart", "may leak"), "may leak"),
        (("may leak", "none"), "may leak"),
    ],
)
def test_the_worst_that_is_known_of_patients_holds(
    states: tuple[Patients, Patients], worst: str, one: Index, other: Index
) -> None:
    for pair in (states, states[::-1]):
        assert concat([replace(one, patients=pair[0]), replace(other, patients=pair[1])]).patients == worst


@pytest.mark.parametrize(
    ("metrics", "joined_has"),
    [(("auc", "auc"), "auc"), (("top1", "top1"), "top1"), (("auc", "top1"), "top1"), (("top1", "auc"), "top1")],
)
def test_sets_that_report_otherwise_report_what_the_task_does(
    metrics: tuple[Metric, Metric], joined_has: str, load: Callable[..., Index]
) -> None:
    index = load([0, 1, 2], ANIMALS)
    assert concat([replace(index, metric=metric) for metric in metrics]).metric == joined_has


def test_columns_origins_and_groups_of_either_set(load: Callable[..., Index]) -> None:
    sets = [load([[1]] * 3, ("mass",), groups=[i, i + 1, -1], shard_images=2 - i) for i in (0, 1)]
    one, other = (replace(index, origins=(name,) * len(index.shards)) for index, name in zip(sets, "ab", strict=True))
    joined = concat([one, other])
    assert joined.origins == ("a", "a", "b", "b", "b")
    assert joined.shards == one.shards + other.shards
    assert [joined.origins[shard] for shard in joined.shard] == ["a"] * 3 + ["b"] * 3
    for name in ("group", "height", "width", "length", "offset"):
        assert getattr(joined, name).tolist() == [*getattr(one, name), *getattr(other, name)]


def test_sets_of_different_tasks_are_refused(one: Index, load: Callable[..., Index]) -> None:
    animals = load([0, 1, 2], ANIMALS)
    with pytest.raises(InputError, match=r"cannot be joined.*single_label: cat, dog, eel; multi_label: edema, hernia"):
        concat([animals, one])
    with pytest.raises(InputError, match="no finding in common; they have: edema, hernia, mass; fracture"):
        concat([one, load([[1]], ("fracture",))])


@pytest.mark.parametrize("classes", ["intersection", "union", ("cat",)])
def test_an_image_with_one_label_keeps_it(classes: Any, load: Callable[..., Index]) -> None:
    with pytest.raises(InputError, match="only if they have the same classes; not all have dog, eel"):
        concat([load([0, 1, 2], ANIMALS), load([0], ("cat",))], classes)


def test_names_twice_are_refused_and_classes_of_images_chosen(one: Index, load: Callable[..., Index]) -> None:
    with pytest.raises(InputError, match="named twice"):
        concat([one], [one.classes[0]] * 2)
    animals = load([0, 1, 2, 1], ("cat", "dog", "eel"))
    assert concat([animals, animals], ("eel", "cat")).labels.tolist() == [1, 0, 1, 0]
