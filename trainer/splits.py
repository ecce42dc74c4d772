"""Opens the splits of the data sets that a configuration names."""

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.common.advice import flag
from data_pipelines.common.errors import ImpossibleError, InputError
from data_pipelines.common.manifest import content_digest, read_manifest, splits_of
from data_pipelines.common.message_parts import some_of
from data_pipelines.common.splits import Split
from data_pipelines.datasets import catalog
from data_pipelines.shards.concat import concat, distinct_names, with_val
from data_pipelines.shards.image_cap import cap_images
from data_pipelines.shards.index import Index
from data_pipelines.shards.node_cache import stage
from trainer.config import DataConfig, RuntimeConfig, TrainOn

_FEW_TEST_IMAGES = 30
_NORMAL_97_5 = 1.96  # quantile of the standard normal distribution


def folders_of(data: DataConfig, runtime: RuntimeConfig) -> list[Path]:
    """The folders of the sets that a configuration names, staged to node-local storage if it says so."""
    folders = _prepared(data)
    return [stage(folder, Path(runtime.cache_dir)) for folder in folders] if runtime.cache_dir else folders


def _prepared(data: DataConfig) -> list[Path]:
    return [catalog.find(name, is_listed=True) for name in data.sets]


def set_digests(folders: Sequence[Path]) -> dict[str, str]:
    """Content digests of a run's sets, under the names in its joined index."""
    manifests = [read_manifest(folder, check_shards=False) for folder in folders]
    names = distinct_names([manifest["name"] for manifest in manifests])
    return dict(zip(names, map(content_digest, manifests), strict=True))


def open_split(data: DataConfig, folders: Sequence[Path], split: Split, seed: int) -> Index | None:
    """One split of the joined sets, restricted to the chosen classes and, for train, to so many images or shots; None
    if no set has it, and for val if that is trained on. Raises InputError if only some have it: a metric over part of
    the sets would pass for one over all; and ImpossibleError for classes with too few training images, unless
    shots_at_most."""
    strict = data.on_bad_shard == "stop"
    having = [folder for folder in folders if split in splits_of(read_manifest(folder, strict))]
    if not having or (split == "val" and data.train_on == "train+val"):
        return None
    if len(having) < len(folders):
        lacking = ", ".join(str(folder) for folder in folders if folder not in having)
        raise InputError(f"{lacking} has no {split} split, the other sets have one; prepare it again with one")
    indexes = [_load(data, folder, split, strict) for folder in folders]
    if data.one_label:  # over all findings: those that are not chosen count as well
        index = concat(indexes, data.join).one_label()
        index = index.take_classes(data.classes) if data.classes else index
    else:
        index = concat(indexes, data.classes or data.join)
    if split != "train":
        return index
    if data.images is not None:
        index = cap_images(index, data.images, data.images_per_set, seed)
    if data.shots is not None:
        return index.few_shot(data.shots, seed, data.shots_at_most)
    if index.task == "single_label" and not data.shots_at_most and (missing := index.below(1)):
        raise ImpossibleError(
            f"some classes have no training image: {some_of(missing)}; choose the others with "
            f"{flag('--data.classes')}, or train without images of these with {flag('--data.shots-at-most')}"
        )
    return index


def _load(data: DataConfig, folder: Path, split: Split, strict: bool) -> Index:
    """One split of a set as used in this run, where val may be part of train."""
    index = Index.load(folder, split, strict)
    if split == "train" and trained_on(data, [folder]) == "train+val":
        return with_val(index, Index.load(folder, "val", strict))
    return index


def trained_on(data: DataConfig, folders: Sequence[Path]) -> TrainOn:
    """The splits that are trained on: "train+val" only if a set has val."""
    has_val = any("val" in splits_of(read_manifest(folder, check_shards=False)) for folder in folders)
    return "train+val" if has_val and data.train_on == "train+val" else "train"


def require_several_classes(data: DataConfig) -> None:
    """Raise InputError for sets with one class per image that name a single class: every answer would be right."""
    manifests = [read_manifest(folder, check_shards=False) for folder in _prepared(data)]
    known = {name for manifest in manifests for name in manifest["classes"]}
    classes = data.classes or tuple(known)
    if len(classes) != 1 or classes[0] not in known or data.one_label or manifests[0]["task"] != "single_label":
        return
    raise InputError(
        f"{', '.join(data.sets)}: there is one class only, {classes[0]!r}, and nothing to tell apart; "
        + (f"name more with {flag('--data.classes')}" if data.classes else "prepare a set with at least two classes")
    )


def few_test_images(data: DataConfig) -> list[str]:
    """Message for a test split so small that its accuracy says little: how wide its 95% interval may be."""
    manifests = [read_manifest(folder, check_shards=False) for folder in _prepared(data)]
    count = sum(manifest["splits"].get("test", {"images": 0})["images"] for manifest in manifests)
    total = sum(split["images"] for manifest in manifests for split in manifest["splits"].values())
    if not 0 < count < _FEW_TEST_IMAGES:
        return []
    z2 = _NORMAL_97_5**2  # half the width of Wilson's interval where half of the answers are right
    points = 100 * (z2 / (4 * count) + z2**2 / (4 * count**2)) ** 0.5 / (1 + z2 / count)
    has_share = count >= 0.8 * 0.3 * total  # much like what would be advised
    remedy = "add images" if has_share else "prepare the set again with more in it, such as --test-fraction 0.3"
    return [
        f"the test split has {count} image{'s' * (count != 1)}: the 95% interval of an accuracy on it reaches up to "
        f"{points:.0f} points to each side; {remedy}"
    ]


def lacks_val(data: DataConfig) -> list[str]:
    """Message for train+val when no set has val."""
    if data.train_on != "train+val" or trained_on(data, _prepared(data)) == "train+val":
        return []
    return [f"train+val was asked for, but {', '.join(data.sets)} has no val split: only train is trained on"]
