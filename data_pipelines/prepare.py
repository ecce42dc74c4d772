"""Prepare a data set: python -m data_pipelines.prepare NAME --root DIR --out DIR

Reads the set as its owner distributes it, decodes every image strictly, and writes shards, index and manifest.
Interrupted, the same command goes on where it was. In an array job each task adds --part K/N (K from 0); the same
command without --part then does what is left and finishes. `--verify DIR` checks a prepared set by its SHA-256 sums.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from data_pipelines.common.cli import entry_point
from data_pipelines.common.errors import InputError
from data_pipelines.common.limits import with_sound_numbers
from data_pipelines.common.messages import logger
from data_pipelines.common.raw_set import RawImage, RawSet
from data_pipelines.datasets.readers import DATASETS
from data_pipelines.image_files.bit_depth import LEAST_BITS, MOST_BITS
from data_pipelines.image_files.shrink import size_note
from data_pipelines.preparation.disk_space import require_space
from data_pipelines.preparation.duplicates import without_duplicates
from data_pipelines.preparation.join_parts import join_parts, left_out_note, summary
from data_pipelines.preparation.part_writer import progress_bar, write_part
from data_pipelines.preparation.plan import (
    SET,
    agree_on_plan,
    forget_other,
    is_other,
    read_plan,
    removal,
    was_begun_anew,
    ways,
    with_bits,
)
from data_pipelines.preparation.pseudonymize import hides, name_of, pseudonymous, salt, write_keymap
from data_pipelines.preparation.quarantine import TooManyBadError, most_bad, refusal
from data_pipelines.preparation.set_folder import held, keymap_of, partial_of, put_in_place, require_free, tidy
from data_pipelines.preparation.shard_records import is_made_of, num_unknown
from data_pipelines.shards.index import nearest
from data_pipelines.shards.tar import MANIFEST, read_manifest
from data_pipelines.shards.verify import verify

WriteKeymap = Callable[[Path], None] | None


def _part(text: str) -> tuple[int, int]:
    """ "3/16" as (3, 16)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"--part {text}: write K/N with K from 0 to N-1, for example --part $SLURM_ARRAY_TASK_ID/16")
    return int(number), int(count)


def _share(text: str) -> float:
    """ "0.1%" or "0.001" as 0.001."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"--max-bad {text}: write a share, such as 0.1% or 0.001")
    return share


def _from_text(parse: Callable[[str], Any], metavar: str, show: Callable[[Any], str]) -> Any:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: value is None or not isinstance(value, str),
        str_from_instance=lambda value: ["none" if value is None else show(value)],
    )


@dataclass(frozen=True)
class Output:
    """Where the prepared set goes."""

    out: Path
    """Folder to write; it must not exist."""
    force: bool = False
    """Replace an existing prepared set, once the new one is whole, and begin anew what was begun without --force."""
    max_bad: Annotated[float, _from_text(_share, "SHARE", str)] = 0.001
    """Fail when more than this share of the images cannot be decoded, and more than one: 0.1% or 0.001; 0 for none."""
    part: Annotated[tuple[int, int] | None, _from_text(_part, "K/N", "{0[0]}/{0[1]}".format)] = None
    """Do the K-th of N parts only (K from 0), as one task of an array job."""
    drop_duplicates: bool = False
    """Keep each picture once, by its bytes: in test if it is there, else in val, else in train."""
    bits: int | None = None
    """Of the pixels of X-rays in files that hold more than 8, such as 12 for 12-bit pixels in 16-bit PNG: 2^bits - 1 is
    white, in DICOM without a window too, whatever BitsStored says. None: as each file says (DICOM always does), else as
    is known of the set; where neither says it, all files are read once before, and the largest value of the set
    decides."""

    def __post_init__(self) -> None:
        if self.bits is not None and not LEAST_BITS <= self.bits <= MOST_BITS:
            raise InputError(f"--bits is {self.bits}; it must lie in {LEAST_BITS} to {MOST_BITS}")


def prepare(raw: RawSet, output: Output) -> dict[str, Any] | None:
    """Write a prepared set; returns its manifest, or None where only a part was asked for.

    The folder appears under its name only when it is whole; until then the work lies in `.NAME.partial` beside it (the
    set to be, the plan, and what is known of finished shards), and the next call goes on there, with what the images
    are by then. Unreadable images go to `quarantine.csv`. Of patients neither names nor paths go into the set;
    `NAME.keymap.csv` beside it leads back. One's own set gets the name of the folder.
    Raises InputError when the folder exists or cannot be written, too many images are bad, two share a key, or the set
    is not the one whose preparation was interrupted.
    """
    out = output.out.resolve()
    raw, keymap, about = _as_asked(raw, output, out)
    try:
        if output.part and is_other(raw, partial_of(out), output.part, output.drop_duplicates):
            with held(out, is_shared=False):
                forget_other(raw, partial_of(out), output.part, output.drop_duplicates)
        with held(out, is_shared=output.part is not None):
            return _make(raw, output, out, about, keymap)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise InputError(
            f"{out} cannot be written ({error}); {remedy} and repeat the command, which goes on where it was, or "
            "choose another --out"
        ) from error
    except KeyboardInterrupt:
        logger.info(f"interrupted; the same command goes on where it was (in {partial_of(out)})")
        raise


def _make(raw: RawSet, output: Output, out: Path, about: dict[str, str], keymap: WriteKeymap) -> dict[str, Any] | None:
    """Write what is not there yet, and give the set its name; returns its manifest, or None for a part."""
    if _was_put_in_place(raw, output, out):
        tidy(out)
        return read_manifest(out)
    require_free(out, output.force)
    try:
        if not _write(raw, output, out, about):
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
    """The set as it is to be written; of patients what writes, to a file, what leads back to them, and the name of the
    salt for the manifest."""
    if output.bits is not None:
        if not raw.xray_size:
            raise InputError(f"--bits is for sets that are stored as X-rays, and {raw.name} is none; leave it out")
        raw = replace(raw, bits=output.bits, bits_given=True)
    if raw.is_own:
        raw = replace(raw, name=Path(os.path.abspath(output.out)).name)
    if isinstance(raw.images, Sequence):
        _require_distinct_keys(raw.images)
        if not raw.images:
            raise InputError(f"{raw.name} has no images")
    if not hides(raw):
        return raw, None, {}
    secret = salt()
    return pseudonymous(raw, secret), partial(write_keymap, raw, secret), {"salt": name_of(secret)}


def _was_put_in_place(raw: RawSet, output: Output, out: Path) -> bool:
    """Whether a call for just this was killed after the set had got its name: what it was made of is still there, but
    no longer the set beside it."""
    unfinished = partial_of(out)
    plan = read_plan(unfinished)
    if not plan or (unfinished / SET).is_dir() or not (out / MANIFEST).is_file():
        return False
    if output.force and not was_begun_anew(unfinished):
        return False
    manifest = read_manifest(out)
    wanted = {"name": raw.name, **ways(raw)}
    if any(manifest.get(name) != value for name, value in wanted.items()):
        return False
    if is_other(raw, unfinished, output.part, output.drop_duplicates):
        return False
    if raw.bits is None:
        raw = with_bits(raw, plan)
    if output.drop_duplicates:
        raw = without_duplicates(raw, unfinished)
    return is_made_of(raw, unfinished / SET, plan["parts"])


def _write(raw: RawSet, output: Output, out: Path, about: dict[str, str]) -> bool:
    """Write the set beside the place where it is to lie; whether it is whole, and not a part only."""
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
    join_parts(raw, unfinished / SET, plan["parts"], output.max_bad, out, about)
    for left in (unfinished / SET).rglob(".*.tmp"):  # of a process that was killed
        left.unlink()
    return True


def _write_parts(raw: RawSet, folder: Path, output: Output, parts: int) -> None:
    """Write what is not there yet. Raises TooManyBadError as soon as there are more than the set may have."""
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
    with progress_bar(desc=raw.name, total=total, unit="image") as bar:
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


def _sizes(manifest: dict[str, Any], folder: Path) -> list[npt.NDArray[Any]]:
    """Heights and widths of all images, pixels."""
    splits = [folder / name for name, split in manifest["splits"].items() if split["images"]]
    return [np.concatenate([np.load(split / f"{name}.npy") for split in splits]) for name in ("height", "width")]


def _command(reader: Callable[..., RawSet]) -> Callable[..., None]:
    can_shrink, can_be_xrays = (name in signature(reader).parameters for name in ("shorter_side", "xray_size"))

    def run(
        output: Annotated[Output, tyro.conf.arg(name="")],
        raw: Annotated[RawSet, tyro.conf.arg(name="", constructor=with_sound_numbers(reader))],
    ) -> None:
        if output.bits is not None and can_be_xrays and raw.xray_size is None:
            raise InputError("--bits is for X-rays; make these images such with --xray-size 256, or leave it out")
        manifest = prepare(raw, output)
        if manifest:
            print(summary(manifest, output.out))
            is_open = raw.shorter_side is None and raw.xray_size is None
            if is_open and can_shrink and (note := size_note(*_sizes(manifest, output.out.resolve()))):
                logger.info(f"note: {note}")
        elif output.part:
            print(f"part {output.part[0]} of {output.part[1]} is done; after the last, repeat without --part")

    run.__doc__ = reader.__doc__
    return run


def _require_views(name: str, arguments: Sequence[str]) -> None:
    """Raise InputError for `--views` of a set whose images do not tell their view, with what can be done instead."""
    having = [other for other, reader in DATASETS.items() if "views" in signature(reader).parameters]
    if name in having or not any(word.split("=")[0] == "--views" for word in arguments):
        return
    laterals = "laterals" in signature(DATASETS[name]).parameters
    remedy = "for DICOM files give --laterals drop" if laterals else "leave --views out"
    raise InputError(f"{name} does not say the view of its images; {remedy}. --views is for {', '.join(having)}")


@entry_point
def main() -> None:
    """Parse the command line and prepare one set, or verify one."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of folders may hold bytes that are no text
    arguments = sys.argv[1:] or ["--help"]
    name, *rest = arguments
    if name in ("-h", "--help"):
        commands = {name: _command(reader) for name, reader in DATASETS.items()}
        tyro.extras.subcommand_cli_from_dict(commands, args=["--help"], description=__doc__)
    if name == "--verify":
        if len(rest) != 1:
            raise InputError("--verify takes one prepared folder")
        print(f"{rest[0]}: all {verify(Path(rest[0]))} files are as they were prepared")
        return
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}{nearest(name, list(DATASETS))}")
    _require_views(name, rest)
    tyro.cli(_command(DATASETS[name]), args=rest, prog=f"prepare {name}")


if __name__ == "__main__":
    main()
