"""Says which classes or findings of a prepared set have too few images in test for an interval, or none in val."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines.common.message_parts import some_of
from data_pipelines.common.patients import NO_GROUP

FEWEST = 10  # images, and patients, below which the evaluation gives no interval
_NAMED = 10  # classes in a message
_SIGNS = {"positive": 1, "negative": 0}
_LARGE_SHARE = {"test": 0.25, "val": 0.15}  # of all images, above which a larger split is not advised
_ADVISED = {"test": 0.3, "val": 0.2}


@dataclass(frozen=True)
class StoredLabels:
    """Of a split. labels: integers [N] of classes, or floats [N, C] of findings, NaN where unlabelled; groups:
    integers [N], of patients."""

    labels: npt.NDArray[Any]
    groups: npt.NDArray[Any]

    def counts(self, num_classes: int, value: int, by_patient: bool) -> list[int]:
        """How many images, or patients with an image, are of each class, or have this value of each finding."""
        if self.labels.ndim == 1:
            images = np.stack([self.labels, self.groups])
            labels = np.unique(images, axis=1)[0] if by_patient else self.labels
            return [int(count) for count in np.bincount(labels, minlength=num_classes)]
        if by_patient:
            return [len(np.unique(self.groups[column])) for column in (self.labels == value).T]
        return [int(count) for count in np.count_nonzero(self.labels == value, axis=0)]


@dataclass(frozen=True)
class Carving:
    """What the command that prepared a set was told of its splits. fractions: asked for, of those that it carves;
    is_user_set: the images are the user's own, who can add some."""

    fractions: Mapping[str, float]
    is_user_set: bool

    def remedy(self, split: str, splits: Mapping[str, StoredLabels], totals: Sequence[int], wanted: int) -> str:
        """What to do about a split that lacks some. totals: of each class that has fewer than `wanted` there, how many
        all splits have; a larger share is advised only where it would give one of them as many."""
        share = len(splits[split].labels) / sum(len(each.labels) for each in splits.values())
        enough = any(total * _ADVISED[split] >= wanted for total in totals)
        carves = self.may_grow(split) and share < _LARGE_SHARE[split]
        if self.is_user_set:
            again = f", or prepare again with {_larger([split])}" if enough else ""
            return f". Add images{again}" if carves else f". Add images to {split}"
        return f". A larger --{split}-fraction, with --force, gives more" if carves and enough else ""

    def may_grow(self, split: str) -> bool:
        """Whether a split is carved by a smaller fraction than can be advised."""
        return split in self.fractions and self.fractions[split] < _ADVISED[split]


def _larger(splits: Sequence[str]) -> str:
    """The flags that make splits larger."""
    return " ".join([*(f"--{split}-fraction {_ADVISED[split]:g}" for split in splits), "--force"])


def stored_labels(folder: Path, manifest: Mapping[str, Any]) -> dict[str, StoredLabels]:
    """Of each split of a prepared set that has images, by its name."""
    names = [name for name, split in manifest["splits"].items() if split["images"]]
    return {
        name: StoredLabels(*(np.load(folder / name / f"{column}.npy", mmap_mode="r") for column in ("labels", "group")))
        for name in names
    }


def few_in_test(classes: Sequence[str], splits: Mapping[str, StoredLabels], carving: Carving) -> str | None:
    """Message on the classes with fewer than ten images in test, or findings with fewer than ten positives or negatives
    there; where patients are known, patients are counted. None where all have enough, and without test."""
    test = splits.get("test")
    if test is None:
        return None
    known = bool((test.groups != NO_GROUP).any())
    if test.labels.ndim == 1:
        wanted = {"patients with an image" if known else "images": 1}
    else:
        wanted = {f"patients with a {sign}" if known else f"{sign}s": value for sign, value in _SIGNS.items()}
    few, totals = [], []
    for what, value in wanted.items():
        counts = test.counts(len(classes), value, known)
        if any(count < FEWEST for count in counts):
            few.append(f"{what}: {_named(classes, counts)}")
            of_all = _totals(splits, len(classes), value, known)
            totals += [total for total, count in zip(of_all, counts, strict=True) if count < FEWEST]
    if not few:
        return None
    remedy = carving.remedy("test", splits, totals, FEWEST)
    return f"test has few {'; few '.join(few)}; an interval needs {FEWEST}{remedy}"


def empty_split(splits: Mapping[str, StoredLabels], carving: Carving) -> str | None:
    """Message on splits that were to be carved and got no image. None where each got one."""
    empty = [name for name, fraction in carving.fractions.items() if fraction > 0 and name not in splits]
    if not empty:
        return None
    remedy = (
        f"prepare it again with {_larger(small)}" if (small := [*filter(carving.may_grow, empty)]) else "add images"
    )
    return f"no image came into {' or '.join(empty)}, as the set is small; {remedy}"


def none_in_val(classes: Sequence[str], splits: Mapping[str, StoredLabels], carving: Carving) -> str | None:
    """Message on the classes without an image in val, or findings without a positive there. None where all have one,
    and without val."""
    val = splits.get("val")
    if val is None:
        return None
    counts = val.counts(len(classes), 1, by_patient=False)
    none = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not none:
        return None
    what = "images" if val.labels.ndim == 1 else "positives"
    of_all = _totals(splits, len(classes), 1, by_patient=False)
    totals = [total for total, count in zip(of_all, counts, strict=True) if not count]
    remedy = carving.remedy("val", splits, totals, 1)
    return f"val has no {what} of: {some_of(none, _NAMED)}; no threshold can be chosen for them{remedy}"


def _totals(splits: Mapping[str, StoredLabels], num_classes: int, value: int, by_patient: bool) -> list[int]:
    """The counts of all splits together; a patient in two of them counts twice."""
    of_splits = [split.counts(num_classes, value, by_patient) for split in splits.values()]
    return [sum(counts) for counts in zip(*of_splits, strict=True)]


def _named(classes: Sequence[str], counts: Sequence[int]) -> str:
    """The classes with too few, with their numbers."""
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < FEWEST]
    return some_of(few, _NAMED)
