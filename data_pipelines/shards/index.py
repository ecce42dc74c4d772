"""Index: location, size and label of each image. Columns are memory-mapped, so ranks of a node share them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_pipelines.common.advice import flag
from data_pipelines.common.counter_rng import hash64
from data_pipelines.common.errors import ImpossibleError, InputError, ShardError
from data_pipelines.common.hashes import digest_of
from data_pipelines.common.manifest import read_manifest, splits_of
from data_pipelines.common.message_parts import nearest_of_several, some_of
from data_pipelines.common.patients import Patients
from data_pipelines.common.splits import Split
from data_pipelines.common.tasks import METRIC, Metric, Task
from data_pipelines.common.xray_storage import AS_DECLARED, Depth, XrayCut, depth_of
from data_pipelines.shards.columns import COLUMNS, Array, load_column
from data_pipelines.shards.heads import Head
from data_pipelines.shards.shard_reader import ShardReader

Balance = Literal["none", "class", "set"]

_CHECKED_ROWS = 16


@dataclass(frozen=True, eq=False)
class Index:
    """N samples of one or more prepared sets.

    labels: int64 [N] for a single-label task, float32 [N, C] with NaN = unlabelled for a multi-label one.
    height, width: stored pixels, [N]. group: int64 [N], the patient's hash or -1. channels: 1 (grey) or 3.
    flip: whether a mirrored image still shows the same. fingerprint: hash of the manifests and of what was taken.
    metric: what is reported. patients: "apart" if no patient is in two splits, "may leak" if that is not known, "none"
    where there are none. origins: for each shard, the name of its set. weight: float [N], how often a sample is to be
    shown in an epoch, or None for once. shorter_side: to which `prepare` shrank larger photographs, pixels; None where
    it did not, or joined sets differ in it. xray_cut: what `prepare` kept of X-rays, the central square or the whole;
    None where joined sets differ in it. depth: of pictures of more than 8 bits, as `prepare` took them; where joined
    sets differ in it, as each file says. upright: whether `prepare` turned pictures as they are to be shown; None where
    joined sets differ in it. heads: of sets joined with a head each, whose findings `classes` then lists one after
    another; else empty.
    """

    task: Task
    classes: tuple[str, ...]
    channels: int
    flip: bool
    fingerprint: str
    metric: Metric
    patients: Patients
    shards: tuple[Path, ...]
    origins: tuple[str, ...]
    shard: Array
    offset: Array
    length: Array
    height: Array
    width: Array
    group: Array
    labels: Array
    weight: Array | None = None
    shorter_side: int | None = None
    depth: Depth = AS_DECLARED
    xray_cut: XrayCut | None = "square"
    upright: bool | None = False
    heads: tuple[Head, ...] = ()
    _reader: ShardReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reader", ShardReader(self.shards))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Classes of a single-label task, findings of a multi-label one."""
        return len(self.classes)

    @staticmethod
    def load(folder: Path, split: Split, check_shards: bool = True) -> "Index":
        """The index of one split of a prepared folder.

        Raises InputError for a missing or unfinished set, a split it does not have, or columns that do not fit it; and
        for shards that are not as they were prepared, unless those are not checked.
        """
        manifest = read_manifest(folder, check_shards)
        if split not in splits_of(manifest):
            raise InputError(f"{folder} has no {split} split (it has: {', '.join(splits_of(manifest))})")
        content = manifest["splits"][split]
        rows = content["images"]
        columns: dict[str, Any] = {
            name: load_column(folder / split / f"{name}.npy", rows, "i", 1) for name in (*COLUMNS, "group")
        }
        labels = ("i", 1) if manifest["task"] == "single_label" else ("f", 2)
        columns["labels"] = load_column(folder / split / "labels.npy", rows, *labels)
        if "weight" in content.get("columns", ()):
            columns["weight"] = load_column(folder / split / "weight.npy", rows, "f", 1)
        index = Index(
            task=manifest["task"],
            classes=tuple(manifest["classes"]),
            channels=manifest["channels"],
            flip=manifest["horizontal_flip"],
            fingerprint=digest_of(manifest | {"splits": {split: content}}),
            metric=manifest.get("metric", METRIC[manifest["task"]]),
            patients=manifest.get("patients", "none"),
            shorter_side=manifest.get("shorter_side"),
            depth=depth_of(manifest),
            xray_cut=manifest.get("xray_cut", "square"),
            upright=bool(manifest.get("upright", False)),
            origins=(manifest["name"],) * len(content["shards"]),
            shards=tuple(folder / split / shard["file"] for shard in content["shards"]),
            **columns,
        )
        index._check_shards(check_shards)
        return index

    def _check_shards(self, refuse: bool) -> None:
        """Check that some rows, spread evenly, are members of their tars: cheap for any number of rows, and catches a
        mixed-up folder. `bitscale prepare --verify` checks everything."""
        for row in np.linspace(0, len(self) - 1, min(len(self), _CHECKED_ROWS), dtype=np.int64):
            if not 0 <= self.shard[row] < len(self.shards):
                raise InputError(
                    f"the index beside {self.shards[0]} names shards that are not there; prepare the set again"
                )
            try:
                self._reader.check_row(self.shard[row], int(self.offset[row]), int(self.length[row]))
            except ShardError:
                if refuse:
                    raise

    def encoded(self, row: int) -> npt.NDArray[np.uint8]:
        """The encoded bytes of one image, uint8. Raises ShardError where its shard cannot be read."""
        return self._reader.encoded(self.shard[row], int(self.offset[row]), int(self.length[row]))

    def keys(self, rows: npt.ArrayLike) -> list[str]:
        """The keys of some samples, as stored in the shards."""
        return [self._reader.key(self.shard[row], int(self.offset[row])) for row in np.atleast_1d(rows)]

    def facts(self) -> list[dict[str, str]]:
        """Facts of each sample besides its labels, such as sex, age or view: {} if there are none. Reads the member
        behind each image."""
        rows = zip(self.shard, self.offset, self.length, strict=True)
        return [self._reader.description(*map(int, row)).get("facts", {}) for row in rows]

    @property
    def xray_side(self) -> int | None:
        """The shorter side, pixels, of grey images of patients that have all the same, and are squares unless X-rays
        were kept whole: X-rays that `prepare` resized. None for others, and where joined sets differ in what was kept.
        """
        if not len(self) or self.patients == "none" or self.channels != 1 or self.xray_cut is None:
            return None
        shorter = np.minimum(self.height, self.width)
        sides = shorter if self.xray_cut == "whole" else np.maximum(self.height, self.width)
        side = int(shorter[0])
        return side if (shorter == side).all() and (sides == side).all() else None

    def read_ahead(self, rows: Array) -> None:
        """Ask the system to fetch the bytes of some samples, without waiting for them."""
        for shard, offset, length in zip(self.shard[rows], self.offset[rows], self.length[rows], strict=True):
            self._reader.read_ahead(int(shard), int(offset), int(length))

    def weights(self, balance: Balance) -> Array | None:
        """How often each sample is shown in an epoch, float64 [N]; None for once each.

        "class" gives every class, "set" every joined set, the same share of an epoch. Raises InputError for a balance
        of classes in a multi-label set.
        """
        if balance == "none":
            return self.weight
        if balance == "class":
            self._require_single_label("a balance of classes")
            kind = np.asarray(self.labels)
        else:
            kind = np.unique(self.origins, return_inverse=True)[1][self.shard]
        own = np.ones(len(self)) if self.weight is None else np.asarray(self.weight, dtype=np.float64)
        total = np.bincount(kind, weights=own)
        share = own.sum() / np.count_nonzero(total)
        weights: Array = np.divide(own * share, total[kind], out=np.zeros(len(self)), where=total[kind] > 0)
        return weights

    def take(self, rows: Array) -> "Index":
        """The samples of these rows, in this order; a row may be taken several times."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*COLUMNS, "group", "labels")}
        columns["weight"] = None if self.weight is None else self.weight[rows]
        return replace(
            self, fingerprint=digest_of(self.fingerprint, np.asarray(rows, dtype=np.int64).tobytes()), **columns
        )

    def rows_of(self, head: Head) -> Array:
        """The rows of the set that one of `heads` is for."""
        return np.flatnonzero(np.array(self.origins)[self.shard] == head.name)

    def of_head(self, head: Head) -> "Index":
        """The samples of the set that one of `heads` is for, labelled with its findings alone, by their own names."""
        taken = self.take(self.rows_of(head))
        return replace(
            taken,
            classes=head.classes,
            heads=(),
            fingerprint=digest_of(taken.fingerprint, head.name),
            labels=taken.labels[:, head.columns],
        )

    def take_classes(self, classes: Sequence[str]) -> "Index":
        """The samples of some classes of a single-label set, renumbered in the given order. Raises InputError for an
        unknown class, naming the nearest."""
        self._require_single_label("a choice of classes")
        require_distinct(classes)
        for name in classes:
            if name not in self.classes:
                raise InputError(f"unknown class {name!r}{nearest_of_several(name, self.classes)}")
        renumber = np.full(self.num_classes, -1)
        renumber[[self.classes.index(name) for name in classes]] = np.arange(len(classes))
        taken = self.take(np.flatnonzero(renumber[self.labels] >= 0))
        fingerprint = digest_of(taken.fingerprint, list(classes))
        return replace(taken, fingerprint=fingerprint, classes=tuple(classes), labels=renumber[taken.labels])

    def one_label(self) -> "Index":
        """The samples of a multi-label set with exactly one positive finding, labelled with it; unlabelled findings are
        not held against a sample. A single-label set is returned as it is. Raises InputError if no sample is left."""
        if self.task == "single_label":
            return self
        positive = np.asarray(self.labels) == 1
        rows = np.flatnonzero(positive.sum(axis=1) == 1)
        if len(rows) == 0:
            raise InputError(f"no image of {', '.join(sorted(set(self.origins)))} has exactly one positive finding")
        taken = self.take(rows)
        return replace(
            taken,
            task="single_label",
            metric=METRIC["single_label"],
            fingerprint=digest_of(taken.fingerprint, "one label"),
            labels=positive[rows].argmax(axis=1),
        )

    def below(self, count: int) -> list[str]:
        """Classes of a single-label set with fewer samples than that, with their counts: "cat (3)"."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        return [f"{name} ({found})" for name, found in zip(self.classes, counts, strict=True) if found < count]

    def few_shot(self, shots: int, seed: int, at_most: bool = False) -> "Index":
        """`shots` samples of each class, drawn by `seed`; the draw for fewer shots is part of the draw for more.

        Raises ImpossibleError when a class has fewer, unless `at_most` takes what there is, and for a multi-label set.
        """
        self._require_single_label("few-shot selection")
        short = self.below(shots)
        if short and not at_most:
            raise ImpossibleError(
                f"{shots} shots asked for, but some classes have fewer training images: {some_of(short)}; "
                f"ask for fewer shots, or take what there is with {flag('--data.shots-at-most')}"
            )
        counts = np.bincount(self.labels, minlength=self.num_classes)
        by_class = np.lexsort([hash64(seed, np.arange(len(self))), self.labels])
        first_of_class = np.cumsum(counts) - counts
        rank_in_class = np.arange(len(self)) - np.repeat(first_of_class, counts)
        return self.take(np.sort(by_class[rank_in_class < shots]))

    def _require_single_label(self, what: str) -> None:
        if self.task != "single_label":
            raise ImpossibleError(
                f"{what} needs one label per image; this set is multi-label ({flag('--data.one-label')} takes the "
                "images with exactly one positive finding)"
            )


def require_distinct(classes: Sequence[str]) -> None:
    """Raise InputError for a class that is named twice."""
    if len(set(classes)) < len(classes):
        raise InputError(f"a class is named twice: {', '.join(classes)}")
