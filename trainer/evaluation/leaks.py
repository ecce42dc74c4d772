"""Overlap of a test set with what the run was trained on, or chose by: the same set, images or patients."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from data_pipelines.common.errors import InputError, ShardError
from data_pipelines.common.manifest import content_digest, read_manifest
from data_pipelines.common.splits import Split
from data_pipelines.datasets.overlap import is_namesake
from data_pipelines.shards.columns import Array
from data_pipelines.shards.index import Index
from trainer.evaluation.runs import Run, own_data

How = Literal["content", "name", "prepared otherwise", "namesake", "no"]
MOST_READ_BYTES = 2 << 30  # to compare images: at most minutes
_MOST_KEYS = 500_000
SAMPLED = 1000  # images of a set that is too large to be compared as a whole
_FACTORS = np.array([1 << 40, 1 << 20, 1], dtype=np.uint64)


def how_trained_on(run: Run, manifest: Mapping[str, Any], with_sources: bool = True) -> How:
    """Whether a run, or with_sources the weights it began with, was trained on a set, and how that is known: by its
    "content", or by its "name" alone where the content of one of that name is not known; "prepared otherwise" is a
    published set of other content. A "namesake" is another set, and only called so."""
    known = run.sets() + (run.source_sets() if with_sources else [])
    name, digest = manifest["name"], content_digest(dict(manifest))
    if any(digest == other for _, other in known):
        return "content"
    alike = [other for called, other in known if called == name]
    if not alike:
        return "no"
    if not all(alike):
        return "name"
    return "namesake" if all(is_namesake(name, digest, name, other) for other in alike) else "prepared otherwise"


def leaks(run: Run, manifest: Mapping[str, Any], splits: Sequence[Split], indexes: Sequence[Index]) -> list[str]:
    """Warnings about what the run has seen of these images of a set."""
    how = how_trained_on(run, manifest)
    found = _of_the_set(run, manifest["name"], how, splits)
    indexes = [index for index in indexes if len(index)]
    try:
        own, folders = own_data(run, "train")
    except InputError:
        return [*found, "The training set is not at hand: whether it has the same patients was not looked at."]
    if not indexes:
        return found
    if how != "content":
        found += _equal_images(own, indexes)
    if how == "namesake":
        found += _equal_keys(own, indexes)
    every = {path.parent.parent for index in indexes for path in index.shards} | set(folders)
    if unknown := _of_unknown_patients(own, indexes):
        is_of_patients = any(read_manifest(folder).get("patients", "none") != "none" for folder in every)
        return [*found, unknown] if is_of_patients else found
    if len({read_manifest(folder).get("salt") for folder in every}) > 1:
        salts = "Patients of the two sets are hashed with different salts: whether they share some cannot be told."
        return [*found, salts]
    shared = np.intersect1d(own.group, np.concatenate([index.group for index in indexes]))
    count = int((shared >= 0).sum())
    return found + ([f"PATIENTS LEAK: {count:,} patients of these images were trained on."] if count else [])


def chosen_on(run: Run, manifest: Mapping[str, Any], splits: Sequence[Split], indexes: Sequence[Index]) -> list[str]:
    """Warnings about what of these images of a set, or whether any of them, the run chose its checkpoint, thresholds
    and temperature on."""
    if run.trained_on == "train+val":
        return []
    try:
        own, _ = own_data(run, "val")
    except InputError:
        unknown = "Its val is not at hand: whether the run chose its thresholds on some of these images is not known."
        return [unknown] if run.points().images else []
    how = how_trained_on(run, manifest, with_sources=False)
    if how in ("content", "name", "prepared otherwise"):
        words = "Its val is among these images: the checkpoint, the thresholds and the temperature were chosen on it."
        return [words] if "val" in splits else []
    indexes = [index for index in indexes if len(index)]
    return (
        _equal_images(own, indexes, "those of its val, on which its checkpoint and thresholds were chosen")
        if indexes
        else []
    )


def _of_unknown_patients(own: Index, indexes: Sequence[Index]) -> str:
    """What to say where no patient of one side is known; else ""."""
    for whose, groups in (("the training set", [own.group]), ("these images", [index.group for index in indexes])):
        if not any((np.asarray(group) >= 0).any() for group in groups):
            return f"The patients of {whose} are not known: whether the two sets share some cannot be told."
    return ""


def _of_the_set(run: Run, name: str, how: How, splits: Sequence[Split]) -> list[str]:
    if how == "no":
        return []
    if how == "namesake":
        return [
            f"The run was trained on another set that is called {name}, too: by its content this one is external, "
            "unless it is the same images, prepared in another way."
        ]
    wording = {
        "content": f"this set, {name}",
        "name": f"a set called {name}, by which name alone it is known",
        "prepared otherwise": f"{name}, prepared in another way",
    }
    is_among = set(run.trained_on.split("+")) & set(splits)
    what = "its training images are among these" if is_among else "this is not an external validation"
    return [f"The run was trained on {wording[how]}: {what}."]


def _equal_images(own: Index, indexes: Sequence[Index], among: str = "those trained on") -> list[str]:
    """Number of the images, or of a sample of them if there are too many, that are byte-identical to one of the run's
    own. among: what these are."""
    for most in (max(map(len, indexes)), SAMPLED):
        looked_at = [index.take(np.unique(np.linspace(0, len(index) - 1, most, dtype=np.int64))) for index in indexes]
        own_rows, rows = _of_equal_size(own, looked_at)
        read = [(own, own_rows), *zip(looked_at, rows, strict=True)]
        if sum(int(index.length[of].sum()) for index, of in read) <= MOST_READ_BYTES:
            break
    else:
        return [f"Whether images are among {among} was not looked at: too many would have to be read."]
    try:
        seen = set(digests_of(own, own_rows))
        count = sum(digest in seen for index, of in read[1:] for digest in digests_of(index, of))
    except ShardError as error:
        return [f"Whether images are among {among} was not looked at: {error}."]
    total = sum(map(len, looked_at))
    return [f"IMAGES LEAK: {count:,} of {total:,} images are byte for byte among {among}."] * (count > 0)


def _of_equal_size(own: Index, others: Sequence[Index]) -> tuple[Array, list[Array]]:
    """Rows that may be equal images: same number of bytes, same height and width."""
    of_own, of_others = sizes_of(own), [sizes_of(index) for index in others]
    common = np.intersect1d(of_own, np.concatenate(of_others))
    return np.flatnonzero(np.isin(of_own, common)), [np.flatnonzero(np.isin(found, common)) for found in of_others]


def sizes_of(images: Index | tuple[int, int, int]) -> Array:
    """A number for each image of an index, or of one image, that is the same where bytes, height and width are."""
    sizes = (images.length, images.height, images.width) if isinstance(images, Index) else images
    columns = (np.asarray(column, dtype=np.uint64) for column in sizes)
    return np.asarray(sum(column * factor for column, factor in zip(columns, _FACTORS, strict=True)))


def digests_of(index: Index, rows: Array) -> Iterator[bytes]:
    """SHA-256 of some encoded images. Raises ShardError where they cannot be read."""
    return (hashlib.sha256(index.encoded(int(row)).tobytes()).digest() for row in rows)


def _equal_keys(own: Index, indexes: Sequence[Index]) -> list[str]:
    if len(own) + sum(map(len, indexes)) > _MOST_KEYS:
        return []
    try:
        seen = set(own.keys(np.arange(len(own))))
        count = sum(key in seen for index in indexes for key in index.keys(np.arange(len(index))))
    except ShardError:
        return []
    total = sum(map(len, indexes))
    return [f"{count:,} of these {total:,} images have the names of images that were trained on."] * (count > 0)
