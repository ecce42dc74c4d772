"""The steps of a preparation: plan, write parts, join, rename to the final name."""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import InputError
from data_pipelines.common.manifest import MANIFEST, read_manifest
from data_pipelines.common.message_parts import number
from data_pipelines.common.messages import logger
from data_pipelines.common.progress import Progress
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.preparation.disk_space import require_space
from data_pipelines.preparation.duplicates import without_duplicates
from data_pipelines.preparation.join_parts import join_parts, left_out_note
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.part_writer import write_part
from data_pipelines.preparation.plan import (
    SET,
    agree_on_plan,
    forget_other,
    is_other,
    preparation_options,
    read_plan,
    removal,
    was_begun_anew,
    with_bits,
)
from data_pipelines.preparation.pseudonymize import has_real_patients, name_of, pseudonymous, salt, write_keymap
from data_pipelines.preparation.quarantine import TooManyBadError, most_bad, refusal
from data_pipelines.preparation.set_folder import held, keymap_of, partial_of, put_in_place, require_free, tidy
from data_pipelines.preparation.shard_records import is_made_of, num_unknown

WriteKeymap = Callable[[Path], None] | None


def prepare(raw: RawSet, output: Output) -> dict[str, Any] | None:
    """Write a prepared set; returns its manifest, or None where only a part was asked for.

    The folder appears under its name only when it is complete; until then the work lies in `.NAME.partial` beside it
    (the unfinished set, the plan, records of finished shards), and the next call resumes there, with the images as they
    are by then. Unreadable images go to `quarantine.csv`. Neither names nor paths of patients go into the set;
    `NAME.keymap.csv` beside it maps back. A user's own set is named after its folder. Raises InputError when the folder
    exists or cannot be written, too many images are bad, two share a key, or the set is not the one whose preparation
    was interrupted.
    """
    out = output.out.resolve()
    with suppress(OSError):  # which the steps below report
        if not read_plan(partial_of(out)):  # else an identical call may have been killed when the set had got its name
            require_free(out, output.force)
    count = "images that it counts as it reads" if raw.num_images is None else number(raw.num_images, "image")
    part = "" if output.part is None else f", part {output.part[0]} of {output.part[1]}"
    logger.info(f"prepare {raw.name}: {count}{part}, to {out}")
    raw, keymap, metadata = _as_asked(raw, output, out)
    try:
        if output.part and is_other(raw, partial_of(out), output.part, output.drop_duplicates):
            with held(out, is_shared=False):
                forget_other(raw, partial_of(out), output.part, output.drop_duplicates)
        with held(out, is_shared=output.part is not None):
            return _make(raw, output, out, metadata, keymap)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "fix that"
        raise InputError(
            f"{out} cannot be written ({error}); {remedy} and repeat the command, which goes on where it was, or "
            "choose another --out"
        ) from error
    except KeyboardInterrupt as stop:
        stop.args = (f"interrupted; the same command goes on where it was (in {partial_of(out)})",)
        raise


def _make(
    raw: RawSet, output: Output, out: Path, metadata: dict[str, str], keymap: WriteKeymap
) -> dict[str, Any] | None:
    """Write what is missing, and move the set to its name; returns its manifest, or None for a part."""
    if _was_put_in_place(raw, output, out):
        tidy(out)
        return read_manifest(out)
    require_free(out, output.force)
    try:
        if not _write(raw, output, out, metadata):
            return None
    except TooManyBadError as found:
        by_hand = removal(partial_of(out)) if output.part else None
        raise refusal(found, out, output.max_bad, by_hand, keymap, output.part) from None
    if keymap is not None:
        keymap(keymap_of(out))
    require_free(out, output.force)  # again: another process may have come first
    put_in_place(partial_of(out) / SET, out)
    tidy(out)
    return read_manifest(out)


def _as_asked(raw: RawSet, output: Output, out: Path) -> tuple[RawSet, WriteKeymap, dict[str, str]]:
    """The set as it will be written; for patients, a function that writes the keymap to a file, and the salt's name for
    the manifest."""
    if output.bits is not None:
        if not raw.xray_size:
            raise InputError(f"--bits is for sets that are stored as X-rays, and {raw.name} is none; leave it out")
        raw = replace(raw, bits=output.bits, bits_given=True)
    if raw.is_user_set:
        raw = replace(raw, name=Path(os.path.abspath(output.out)).name)
    if isinstance(raw.images, Sequence):
        _require_distinct_keys(raw.images)
        if not raw.images:
            raise InputError(f"{raw.name} has no images")
    if not has_real_patients(raw):
        return raw, None, {}
    secret = salt()
    return pseudonymous(raw, secret), partial(write_keymap, raw, secret), {"salt": name_of(secret)}


def _was_put_in_place(raw: RawSet, output: Output, out: Path) -> bool:
    """Whether an identical call was killed after the set had got its name: the records of its sources are still there,
    but the set is no longer beside them."""
    unfinished = partial_of(out)
    plan = read_plan(unfinished)
    if not plan or (unfinished / SET).is_dir() or not (out / MANIFEST).is_file():
        return False
    if output.force and not was_begun_anew(unfinished):
        return False
    manifest = read_manifest(out)
    wanted = {"name": raw.name, **preparation_options(raw)}
    if any(manifest.get(name) != value for name, value in wanted.items()):
        return False
    if is_other(raw, unfinished, output.part, output.drop_duplicates):
        return False
    if raw.bits is None:
        raw = with_bits(raw, plan)
    if output.drop_duplicates:
        raw = without_duplicates(raw, unfinished)
    return is_made_of(raw, unfinished / SET, plan["parts"])


def _write(raw: RawSet, output: Output, out: Path, metadata: dict[str, str]) -> bool:
    """Write the set in its temporary folder; returns whether it is complete, not only a part."""
    unfinished = partial_of(out)
    plan = agree_on_plan(raw, unfinished, output.part, output.force, output.drop_duplicates)
    raw = with_bits(raw, plan)
    if output.drop_duplicates:
        raw = without_duplicates(raw, unfinished)
    if not (unfinished / SET / MANIFEST).is_file():
        require_space(raw, unfinished)
    _write_parts(raw, unfinished / SET, output, plan["parts"])
    if output.part:
        return False
    join_parts(raw, unfinished / SET, plan["parts"], output.max_bad, out, metadata)
    for left in (unfinished / SET).rglob(".*.tmp"):  # of a process that was killed
        left.unlink()
    return True


def _write_parts(raw: RawSet, folder: Path, output: Output, parts: int) -> None:
    """Write what is missing. Raises TooManyBadError as soon as there are more bad images than allowed."""
    for note in [*raw.notes, *([left_out_note(raw)] if raw.left_out else [])]:
        logger.info(f"note: {note}")
    chosen = range(parts) if output.part is None else [output.part[0]]
    if of_earlier := num_unknown(folder, chosen, parts):
        logger.info(
            f"note: {of_earlier:,} finished shards of an earlier version are made again, as it did not keep what they "
            "were made of"
        )
    total = None if raw.num_images is None else raw.num_images * len(chosen) // parts
    allowed = None if raw.num_images is None else most_bad(output.max_bad, raw.num_images)
    with Progress(raw.name, total, "image") as bar:
        for part in chosen:
            bad = write_part(raw, folder, part, parts, bar, allowed)
            if allowed is not None and len(bad) > allowed:
                raise TooManyBadError(bad, raw.num_images or 0)


def _require_distinct_keys(images: Sequence[RawImage]) -> None:
    seen: set[str] = set()
    for image in images:
        if image.key in seen:
            raise InputError(f"two images have the key {image.key!r}; rename one of the files")
        seen.add(image.key)
