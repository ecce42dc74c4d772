"""Joins the finished parts of a set: columns, quarantine, manifest (last), and a summary for the user."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import write_manifest
from data_pipelines.common.message_parts import counted, number
from data_pipelines.common.messages import logger
from data_pipelines.common.raw_set import RawSet
from data_pipelines.common.splits import SPLITS, Split
from data_pipelines.image_files.image_verification import FLAT
from data_pipelines.image_files.shrink import JPEG_QUALITY, shrunk_note
from data_pipelines.preparation.bit_depth_of_set import depth_note
from data_pipelines.preparation.duplicates import count_equal_images, notes_on
from data_pipelines.preparation.plan import preparation_options
from data_pipelines.preparation.pseudonymize import has_real_patients
from data_pipelines.preparation.quarantine import QUARANTINE, Bad, TooManyBadError, list_bad, most_bad, warn
from data_pipelines.preparation.set_folder import keymap_of
from data_pipelines.preparation.shard_records import ROWS, digest_of_images, finished_shards, settings_of
from data_pipelines.shards.writer import join_shards

_REMARKS = 20  # kinds that are told apart
_OTHERS = "others"

Shard = dict[str, Any]


def join_parts(raw: RawSet, folder: Path, parts: int, max_bad: float, out: Path, metadata: dict[str, str]) -> None:
    """Write everything of a set besides its parts; `out` is its final folder, `metadata` goes into the manifest.

    Raises TooManyBadError, and InputError for a set without images, for two images of one key, and for parts of another
    set.
    """
    shards = {split: [finished_shards(folder, split, part, parts) for part in range(parts)] for split in SPLITS}
    flat = [shard for split in SPLITS for of_part in shards[split] for shard in of_part]
    num_seen = sum(shard["seen"] for shard in flat)
    _require_asked_for(raw, flat, num_seen, folder)
    bad = _bad(flat, num_seen, max_bad, folder)
    if bad:
        warn(bad, num_seen, out / QUARANTINE, keymap_of(out) if has_real_patients(raw) else None)
    notes = [
        *raw.notes,
        *_told(_warnings(raw, num_seen, _remarks(flat)), logging.WARNING),
        *_told(_notes(raw, flat), logging.INFO, "note: "),
    ]
    _remove_strays(folder, shards)
    splits = {
        split: join_shards(folder / split, folder.parent / ROWS / split, shards[split], raw.equal_images)
        for split in SPLITS
    }
    notes += _notes_on_equal(raw, folder, shards)
    manifest = {
        **_description(raw, flat),
        "notes": notes,
        "quarantined": len(bad),
        **({"left_out": dict(raw.left_out)} if raw.left_out else {}),
        **metadata,
        "splits": splits,
    }
    write_manifest(folder, manifest)


def _description(raw: RawSet, shards: Sequence[Shard]) -> dict[str, Any]:
    """What the manifest says of the images: what they are, and how they are stored."""
    turned, remarks = sum(shard["turned"] for shard in shards), _remarks(shards)
    return {
        "name": raw.name,
        "task": raw.task,
        "classes": list(raw.classes),
        "channels": max((shard["channels"] for shard in shards), default=1),
        "horizontal_flip": raw.horizontal_flip,
        "synthetic": raw.synthetic,
        "patients": raw.patients,
        **({"metric": raw.metric} if raw.metric else {}),
        **{name: value for name, value in preparation_options(raw).items() if value is not None},
        **({"jpeg_quality": JPEG_QUALITY} if raw.shorter_side else {}),
        **({"bits": raw.bits, "bits_found": raw.bits_found} if raw.bits else {}),
        **({"bits_given": True} if raw.bits_given else {}),
        **({"turned": turned} if turned else {}),
        **({"remarks": remarks} if remarks else {}),
        "source": raw.source,
    }


def set_summary(manifest: Mapping[str, Any], folder: Path) -> str:
    """A paragraph on what was written."""
    splits = ", ".join(f"{name} {split['images']}" for name, split in manifest["splits"].items())
    synthetic = " (synthetic)" if manifest["synthetic"] else ""
    left_out = manifest.get("left_out")
    return (
        f"{folder}: {manifest['name']}{synthetic}, {manifest['task']}, "
        f"{number(len(manifest['classes']), 'class', 'classes')}, images: "
        f"{splits}; {manifest['quarantined']} quarantined{f'; left out: {counted(left_out)}' if left_out else ''}"
    )


def left_out_note(raw: RawSet) -> str:
    """Note on files that are left out."""
    beside = "" if raw.num_images is None else f", beside {raw.num_images:,} images"
    return f"left out{beside}: {counted(raw.left_out)}"


def _require_asked_for(raw: RawSet, shards: Iterable[Shard], num_seen: int, folder: Path) -> None:
    if not num_seen:
        raise InputError(f"{raw.name} has no images")
    settings = digest_of_images([], settings_of(raw))
    # Shards of earlier versions do not say their settings; whether they are still right was asked before.
    if any(shard.get("settings", settings) != settings for shard in shards):
        fact = "shards of other settings were found"
    elif raw.num_images not in (None, num_seen):
        fact = f"{num_seen:,} images were prepared where the set has {raw.num_images:,}"
    else:
        return
    raise InputError(
        f"{fact} in {folder.parent}: another process wrote there, or the images changed, meanwhile; repeat the command "
        "once nothing else prepares this set"
    )


def _bad(shards: Iterable[Shard], num_seen: int, max_bad: float, folder: Path) -> list[Bad]:
    """The unusable images, which the quarantine of the set lists."""
    bad: list[Bad] = [(file, reason) for shard in shards for file, reason in shard["bad"]]
    if len(bad) > most_bad(max_bad, num_seen):
        raise TooManyBadError(bad, num_seen)
    (folder / QUARANTINE).unlink(missing_ok=True)
    if bad:
        list_bad(bad, folder / QUARANTINE)
    return bad


def _told(notes: Iterable[str], level: int, kind: str = "") -> list[str]:
    notes = list(notes)
    for note in notes:
        logger.log(level, f"{kind}{note}")
    return notes


def _warnings(raw: RawSet, num_seen: int, remarks: Mapping[str, int]) -> list[str]:
    found = []
    if raw.expected_images not in (None, num_seen):
        found.append(
            f"{num_seen:,} images were found where the set has {raw.expected_images:,}; unless this is another release "
            "or a part of it on purpose, fetch it again from where it came, and prepare it again with --force"
        )
    if flat := sum(count for remark, count in remarks.items() if FLAT in remark):
        found.append(f"{flat:,} of {num_seen:,} images are nearly black or white: {FLAT}. {raw.depth.why_flat()}")
    return found


def _notes(raw: RawSet, shards: list[Shard]) -> list[str]:
    notes, num_images = [], sum(shard["images"] for shard in shards)
    if raw.shorter_side:
        notes.append(shrunk_note(raw.shorter_side, sum(shard["shrunk"] for shard in shards), num_images))
    if raw.bits_found:
        assert raw.bits is not None
        notes.append(depth_note(raw.bits))
    if turned := sum(shard["turned"] for shard in shards):
        were = "was" if turned == 1 else "were"
        notes.append(f"{turned:,} of {num_images:,} pictures {were} turned upright, as their files say")
    if remarks := _remarks(shards):
        notes.append(f"remarks on images that were taken all the same: {counted(remarks)}")
    return notes


def _remarks(shards: Iterable[Shard]) -> dict[str, int]:
    """Number of images with each remark, for the most common ones."""
    counts: Counter[str] = sum((Counter(shard["remarks"]) for shard in shards), Counter())
    common = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    others = sum(count for _, count in common[_REMARKS:])
    return dict(common[:_REMARKS]) | ({_OTHERS: others} if others else {})


def _notes_on_equal(raw: RawSet, folder: Path, shards: Mapping[Split, list[list[Shard]]]) -> list[str]:
    """Notes on equal images, for the user of any set; manifests of published sets stay unchanged."""
    names = {split: [Path(shard["file"]).stem for part in shards[split] for shard in part] for split in SPLITS}
    merges = raw.equal_images != "stored each"
    notes = notes_on(count_equal_images(folder.parent / ROWS, names, merges), raw)
    _told((for_people for for_people, _ in notes), logging.WARNING)
    return [for_manifest for _, for_manifest in notes] if raw.is_user_set else []


def _remove_strays(folder: Path, shards: Mapping[Split, list[list[Shard]]]) -> None:
    for split in SPLITS:
        names = {shard["file"] for of_part in shards[split] for shard in of_part}
        for stray in (path for path in (folder / split).glob("*.tar") if path.name not in names):
            stray.unlink()
