"""Joins several prepared sets into one index."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any, Literal

import numpy as np

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import digest_of
from data_pipelines.common.message_parts import nearest_of_several, some_of
from data_pipelines.common.patients import Patients
from data_pipelines.common.tasks import METRIC
from data_pipelines.common.xray_storage import AS_DECLARED, Depth, XrayCut
from data_pipelines.shards.columns import COLUMNS, Array
from data_pipelines.shards.heads import heads_of
from data_pipelines.shards.index import Index, require_distinct

Classes = Literal["intersection", "union", "heads"] | Sequence[str]
_WORST_PATIENTS: tuple[Patients, ...] = ("may leak", "apart", "none")
_ALIKE, _MOST_COMPARED, _MOST_NAMED = 0.6, 200, 10


def concat(indexes: Sequence[Index], classes: Classes = "intersection") -> Index:
    """All samples of several sets, aligned by the names of their classes.

    classes: those that every set has; those that any has, with NaN where a set knows no such finding; "heads": those of
    each set for itself, with NaN in the samples of others, even where two sets name one alike; or these, in this order.
    Only multi-label sets can be joined over classes that not all of them have: an image with one label must keep
    it. Naming classes of single-label sets takes the images of these classes.
    Raises InputError for sets of different tasks, for X-rays that are cut in two ways, for no class in common, and for
    names that no set has, with the names that nearly fit; and for heads of fewer than two sets, or single-label ones.
    """
    if classes == "heads":
        return _with_heads(indexes)
    if indexes[0].task == "single_label" and not isinstance(classes, str):
        return concat(indexes).take_classes(classes)
    names = _joined_classes(indexes, classes)
    _require_one_cut(indexes)
    if len(indexes) == 1 and names == indexes[0].classes:
        return indexes[0]
    first = indexes[0]
    starts = np.cumsum([0, *(len(index.shards) for index in indexes[:-1])])
    joined = [name for name in (*COLUMNS, "group") if name != "shard"]
    columns: dict[str, Any] = {name: np.concatenate([getattr(index, name) for index in indexes]) for name in joined}
    if any(index.weight is not None for index in indexes):
        weights = [np.ones(len(index)) if index.weight is None else index.weight for index in indexes]
        columns["weight"] = np.concatenate(weights)
    patients = {index.patients for index in indexes}
    return Index(
        task=first.task,
        classes=names,
        channels=max(index.channels for index in indexes),
        flip=all(index.flip for index in indexes),
        fingerprint=digest_of(*(index.fingerprint for index in indexes), list(names)),
        metric=first.metric if len({index.metric for index in indexes}) == 1 else METRIC[first.task],
        patients=next(state for state in _WORST_PATIENTS if state in patients),
        shorter_side=first.shorter_side if len({index.shorter_side for index in indexes}) == 1 else None,
        depth=_depth(indexes),
        xray_cut=first.xray_cut if len({index.xray_cut for index in indexes}) == 1 else None,
        upright=first.upright if len({index.upright for index in indexes}) == 1 else None,
        shards=tuple(path for index in indexes for path in index.shards),
        origins=_origins(indexes),
        shard=np.concatenate([index.shard + start for index, start in zip(indexes, starts, strict=True)]),
        labels=np.concatenate([_aligned_labels(index, names) for index in indexes]),
        **columns,
    )


def _with_heads(indexes: Sequence[Index]) -> Index:
    """The union of the sets, in which every finding has a name of its own set's."""
    _require_heads(indexes)
    names = distinct_names([index.origins[0] for index in indexes])
    heads = heads_of({name: index.classes for name, index in zip(names, indexes, strict=True)})
    outputs = [output for head in heads for output in head.outputs]
    if len(set(outputs)) < len(outputs):
        raise InputError(f"sets and findings together have names that are alike: {_some(outputs)}; rename a set")
    apart = [replace(index, classes=head.outputs) for index, head in zip(indexes, heads, strict=True)]
    return replace(concat(apart, "union"), heads=heads)


def _require_heads(indexes: Sequence[Index]) -> None:
    without = f"leave out {flag('--data.join')} heads"
    if len(indexes) < 2:
        raise InputError(f"a head for each of several sets was asked for, and there is one set; {without}")
    if single := [index.origins[0] for index in indexes if index.task == "single_label"]:
        raise InputError(
            f"a head for each set is for sets of findings, and images of {_some(single)} have one class each; name "
            f"sets of findings alone, or {without}: sets with the same classes are joined without it"
        )


def _depth(indexes: Sequence[Index]) -> Depth:
    """That of those sets that have one: others had no picture of more than 8 bits whose file did not say it. What the
    user said of some of the sets is for no file of the others that says its depth."""
    bits = {index.depth.bits for index in indexes if index.depth.bits is not None}
    return Depth(bits.pop(), all(index.depth.is_given for index in indexes)) if len(bits) == 1 else AS_DECLARED


def _require_one_cut(indexes: Sequence[Index]) -> None:
    """Raise InputError for X-rays that are whole in some sets and squares in others: new images could only be cropped
    like one of them."""
    cuts: dict[XrayCut, list[str]] = {}
    for index in indexes:
        if index.xray_side is not None and index.xray_cut is not None:
            cuts.setdefault(index.xray_cut, []).append(str(index.shards[0].parents[1]))
    if len(cuts) > 1:
        raise InputError(
            f"X-rays of {_some(cuts['whole'])} are whole, those of {_some(cuts['square'])} are central squares: "
            "predictions of new images need one way to prepare them; prepare these sets again so that all are alike: "
            "covidx and tuberculosis keep X-rays whole, other readers, such as csv, keep the square"
        )


def with_val(train: Index, val: Index) -> Index:
    """The training and validation samples of one prepared set, as one set."""
    return replace(concat([train, val]), origins=train.origins + val.origins)


def _joined_classes(indexes: Sequence[Index], classes: Classes) -> tuple[str, ...]:
    """Class names of the joined sets."""
    every = tuple(dict.fromkeys(name for index in indexes for name in index.classes))
    common = tuple(name for name in every if all(name in index.classes for index in indexes))
    others = [name for name in every if name not in common]
    if len({index.task for index in indexes}) > 1:
        tasks = "; ".join(f"{index.task}: {_some(index.classes)}" for index in indexes)
        raise InputError(f"sets of different tasks cannot be joined: {tasks}")
    if indexes[0].task == "single_label":
        if common != every:
            raise InputError(
                "single-label sets can be joined only if they have the same classes; not all have "
                f"{_some(others)}{_hint(indexes)}"
            )
        return common
    if classes == "intersection":
        if not common:
            raise InputError(f"these sets have no finding in common{_hint(indexes)}")
        return common
    if classes == "union":
        return every
    require_distinct(classes)
    for name in classes:
        if name not in every:
            raise InputError(f"no set has a finding {name!r}{nearest_of_several(name, every)}")
    return tuple(classes)


def near_misses(indexes: Sequence[Index]) -> list[str]:
    """Pairs of names from different sets that look alike but are not equal: "'Effusion' and 'Pleural Effusion'"."""
    every = dict.fromkeys(name for index in indexes for name in index.classes[:_MOST_COMPARED])
    others = [name for name in every if not all(name in index.classes for index in indexes)]
    pairs = [
        f"{one!r} and {other!r}"
        for one, other in combinations(others, 2)
        if not any(one in index.classes and other in index.classes for index in indexes)
        and SequenceMatcher(None, one.casefold(), other.casefold()).ratio() >= _ALIKE
    ]
    return pairs[:_MOST_NAMED]


def _hint(indexes: Sequence[Index]) -> str:
    """The end of an error message: names that nearly match, or else all of them."""
    if alike := near_misses(indexes):
        return f"; these may mean the same and need the same name: {', '.join(alike)}"
    return "; they have: " + "; ".join(_some(index.classes) for index in indexes)


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of joined sets, with numbers appended to repeated ones: films, films (2)."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        free, at = name, number
        while free in found:
            free, at = f"{name} ({at})", at + 1
        found.append(free)
    return found


def _origins(indexes: Sequence[Index]) -> tuple[str, ...]:
    """The set name of each shard, made distinct between sets."""
    names = [name for index in indexes for name in dict.fromkeys(index.origins)]
    apart = iter(distinct_names(names))
    found: list[str] = []
    for index in indexes:
        of_index = {name: next(apart) for name in dict.fromkeys(index.origins)}
        found += [of_index[name] for name in index.origins]
    return tuple(found)


def _some(names: Iterable[str]) -> str:
    return some_of(sorted(names), _MOST_NAMED)


def _aligned_labels(index: Index, classes: tuple[str, ...]) -> Array:
    if index.task == "multi_label":
        labels = np.full((len(index), len(classes)), np.nan, dtype=np.float32)
        for column, name in enumerate(classes):
            if name in index.classes:
                labels[:, column] = index.labels[:, index.classes.index(name)]
        return labels
    columns = [index.classes.index(name) for name in classes]
    renumber = np.empty(len(classes), dtype=np.int64)
    renumber[columns] = np.arange(len(classes))
    return renumber[index.labels]
