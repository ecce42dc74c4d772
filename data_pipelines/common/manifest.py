"""`manifest.json` of a prepared set: written last, so a folder without it is not a prepared set."""

import json
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.files import atomic_file
from data_pipelines.common.hashes import digest_of
from data_pipelines.common.xray_storage import LEAST_BITS, MOST_BITS

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MANIFEST_KEYS = {"name", "task", "classes", "channels", "horizontal_flip", "splits"}
_NAME_CHARACTERS = 200


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json` so that it is either absent or whole."""
    with atomic_file(folder / MANIFEST) as file:
        file.write(json.dumps({"format_version": FORMAT_VERSION, **manifest}, indent=1).encode())


def read_manifest(folder: Path, check_shards: bool = True) -> dict[str, Any]:
    """The manifest of a prepared folder; checks that its shards exist with the right size, unless told not to. Raises
    InputError naming the file and the remedy."""
    path = folder / MANIFEST
    prepare_again = "prepare the set again: bitscale prepare --help"
    if not path.is_file():
        raise InputError(
            f"{folder} is not a prepared data set: {path} is missing or was never finished; {prepare_again}"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}; {prepare_again}"
            )
        missing = _MANIFEST_KEYS - manifest.keys()
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}; {prepare_again}")
        shards = []
        for split, content in manifest["splits"].items():
            _require_split(split, content)
            shards += [(folder / split / shard["file"], shard["bytes"]) for shard in content["shards"]]
        _require_description(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); {prepare_again}") from error
    for file, size_bytes in shards if check_shards else ():
        size = file.stat().st_size if file.is_file() else None
        if size != size_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise InputError(f"{file} {found}, its manifest says {size_bytes} bytes; {prepare_again}")
    return manifest


def _require_split(split: str, content: dict[str, Any]) -> None:
    """Raise ValueError for an invalid split; file names must not lead to other folders."""
    if split not in ("train", "val", "test"):
        raise ValueError(f"a split {split!r}")
    if not isinstance(content["images"], int) or isinstance(content["images"], bool) or content["images"] < 0:
        raise ValueError(f"{split} has {content['images']!r} images")
    if content["images"] and not content["shards"]:
        raise ValueError(f"{split} has images but no shards")
    columns = content.get("columns", {})
    if not isinstance(columns, dict) or not all(name.isidentifier() for name in columns):
        raise ValueError(f"the columns of {split} have other names")
    sums = [*columns.values(), *(shard.get("sha256", "") for shard in content["shards"])]
    if not all(isinstance(one, str) for one in sums):
        raise ValueError(f"the sums of {split} are not texts")
    for shard in content["shards"]:
        file = shard["file"]
        if Path(file).name != file or file in ("", ".", "..") or "\0" in file or len(file) > _NAME_CHARACTERS:
            raise ValueError(f"{split} has a shard {file!r}, which is not the name of a file beside it")


def _require_description(manifest: dict[str, Any]) -> None:
    """Raise ValueError for an invalid description of a set."""
    classes = manifest["classes"]
    if manifest["task"] not in ("single_label", "multi_label") or not isinstance(classes, list):
        raise ValueError("no known task, or no list of classes")
    if not all(isinstance(name, str) for name in (*classes, manifest["name"])):
        raise ValueError("a name that is not a text")
    channels = manifest["channels"]
    if type(channels) is not int or channels not in (1, 3) or not isinstance(manifest["horizontal_flip"], bool):
        raise ValueError("images have 1 or 3 channels, and may be flipped or not")
    if manifest.get("patients", "none") not in ("none", "apart", "may leak"):
        raise ValueError("what it says of patients is not known")
    if manifest.get("metric", "top1") not in ("top1", "auc"):
        raise ValueError("its metric is not known")
    if type(side := manifest.get("shorter_side", 1)) is not int or side < 1:
        raise ValueError("the shorter side of its images is not a number of pixels")
    bits, sources = manifest.get("bits", MOST_BITS), (manifest.get(f"bits_{by}", False) for by in ("found", "given"))
    if type(bits) is not int or not LEAST_BITS <= bits <= MOST_BITS or any(type(one) is not bool for one in sources):
        raise ValueError("the bits of its pixels are not known")
    if manifest.get("xray_cut", "square") not in ("square", "whole"):
        raise ValueError("what was kept of its X-rays is not known")
    if not isinstance(manifest.get("upright", False), bool):
        raise ValueError("whether its images were turned is not known")
    if manifest.get("split_by", "patient") not in ("patient", "image"):
        raise ValueError("by what it was split is not known")


def splits_of(manifest: dict[str, Any]) -> list[str]:
    """The splits that have images."""
    return [name for name, split in manifest["splits"].items() if split["images"]]


def content_digest(manifest: dict[str, Any]) -> str:
    """Identifies a prepared set by content, independent of its name and location: images, labels and classes as
    prepared. The same images at another size, or in other shards, have another digest."""
    splits = {split: _contents(manifest["splits"][split]) for split in splits_of(manifest)}
    return digest_of(manifest["task"], list(manifest["classes"]), splits)


def _contents(split: dict[str, Any]) -> list[Any]:
    """What identifies the samples of a split, in manifests of every version: keys, labels and facts are in the
    shards."""
    shards = [shard.get("sha256") or [shard["images"], shard["bytes"], shard["file"]] for shard in split["shards"]]
    is_merged = split["images"] != sum(shard["images"] for shard in split["shards"])
    # An image that stands for several labels has one of them in its shard.
    return [shards, split.get("columns", {}).get("labels")] if is_merged else [shards]
