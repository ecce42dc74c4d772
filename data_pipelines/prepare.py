"""Prepare a data set: python -m data_pipelines.prepare NAME --root DIR --out DIR

Reads the set as its owner distributes it, decodes every image strictly, and writes shards, index and manifest.
Interrupted, the same command goes on where it was. In an array job each task adds --part K/N (K from 0); the same
command without --part then does what is left and finishes. `--verify DIR` checks a prepared set by its SHA-256 sums.
"""

import os
import sys

if not __package__:  # run as a script: this folder on sys.path would shadow other people's modules
    sys.path = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]

import csv
import errno
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from data_pipelines.datasets import DATASETS
from data_pipelines.datasets.raw import RawImage, RawSet
from data_pipelines.depth import LEAST_BITS, MOST_BITS, depth_of
from data_pipelines.depth_of_set import depth_note
from data_pipelines.entry import entry_point
from data_pipelines.errors import InputError
from data_pipelines.index import nearest
from data_pipelines.limits import with_sound_numbers
from data_pipelines.part import ROWS, Bad, finished_shards, progress_bar, write_part
from data_pipelines.plan import SET, agree_on_plan, removal, ways
from data_pipelines.pseudonyms import hides, name_of, pseudonymous, salt, write_keymap
from data_pipelines.shard_writer import join_shards
from data_pipelines.shards import MANIFEST, read_manifest, write_manifest
from data_pipelines.shrink import JPEG_QUALITY, shrunk_note, size_note
from data_pipelines.verify import verify

SPLITS = ("train", "val", "test")
_QUARANTINE = "quarantine.csv"
_TAR_BYTES_PER_IMAGE = 2048  # headers, the label's file, padding
_SAMPLED_FILES = 256


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
    """Replace an existing prepared set, once the new one is whole."""
    max_bad: Annotated[float, _from_text(_share, "SHARE", str)] = 0.001
    """Fail when more than this share of the images cannot be decoded: 0.1% or 0.001."""
    part: Annotated[tuple[int, int] | None, _from_text(_part, "K/N", "{0[0]}/{0[1]}".format)] = None
    """Do the K-th of N parts only (K from 0), as one task of an array job."""
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
    set to be, the plan, and the rows of finished shards), and the next call goes on there. Unreadable images go to
    `quarantine.csv`. Of patients neither names nor paths go into the set; `NAME.keymap.csv` beside it leads back.
    Raises InputError when the folder exists or cannot be written, too many images are bad, two share a key, or the set
    is not the one whose preparation was interrupted.
    """
    if output.bits is not None:
        if not raw.xray_size:
            raise InputError(f"--bits is for sets that are stored as X-rays, and {raw.name} is none; leave it out")
        raw = replace(raw, bits=output.bits, bits_given=True)
    secret, open_raw = (salt(), raw) if hides(raw) else (None, raw)
    if secret is not None:
        raw = pseudonymous(raw, secret)
    out = output.out.resolve()
    partial = _partial(out)
    folder = partial / SET
    try:
        if not output.force and _was_put_in_place(raw, folder, out):
            _tidy(partial, out)
            return read_manifest(out)
        _require_free(out, output.force)
        parts, found = agree_on_plan(raw, partial, output.part)
        raw = raw if found is None else replace(raw, bits=found, bits_found=True)
        if not (folder / MANIFEST).is_file():
            _require_space(raw, partial)
            _write_parts(raw, folder, output, parts)
            if output.part:
                return None
            _join(raw, folder, parts, output, {} if secret is None else {"salt": name_of(secret)})
        if secret is not None:
            write_keymap(open_raw, secret, out.with_name(f"{out.name}.keymap.csv"))
        for unfinished in folder.rglob(".*.tmp"):  # of a process that was killed
            unfinished.unlink()
        _require_free(out, output.force)  # again: another process may have come first
        _put_in_place(folder, out)
        _tidy(partial, out)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise InputError(
            f"{out} cannot be written ({error}); {remedy} and repeat the command, which goes on where it was, or "
            "choose another --out"
        ) from error
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on where it was (in {partial})", file=sys.stderr)
        raise
    return read_manifest(out)


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _require_free(out: Path, force: bool) -> None:
    """Raise InputError unless `out` is absent, empty, or a prepared set that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise InputError(
            f"{out} is something else than a prepared set; --force does not delete it, choose another --out"
        )
    if not force:
        raise InputError(f"{out} exists; choose another --out, or replace it with --force")


def _put_in_place(folder: Path, out: Path) -> None:
    """Give a finished set its name. Whenever this is stopped, the set is whole somewhere, and the next call ends it."""
    former = _former(out)
    if out.exists():
        shutil.rmtree(former, ignore_errors=True)
        out.rename(former)
    folder.rename(out)


def _former(out: Path) -> Path:
    return out.with_name(f".{out.name}.replaced")


def _was_put_in_place(raw: RawSet, folder: Path, out: Path) -> bool:
    """Whether a call was killed after the set had got its name: the work lies there, but no longer the set in it."""
    if not folder.parent.is_dir() or folder.is_dir() or not (out / MANIFEST).is_file():
        return False
    manifest = read_manifest(out)
    wanted = {"name": raw.name, "task": raw.task, "classes": list(raw.classes), **ways(raw)}
    depth = depth_of(manifest)
    is_as_deep = raw.bits in (None, depth.bits) and raw.bits_given == depth.is_given
    return is_as_deep and all(manifest.get(name) == value for name, value in wanted.items())


def _tidy(partial: Path, out: Path) -> None:
    for folder in (_former(out), partial):
        if folder.exists():
            shutil.rmtree(folder)


def _require_space(raw: RawSet, partial: Path) -> None:
    """Raise InputError if the file system cannot hold what is still to be written."""
    num_images, num_bytes = raw.num_images, raw.num_bytes
    if raw.xray_size and num_images:
        num_bytes = num_images * raw.xray_size**2  # a PNG of grey pixels is hardly larger than they are
        num_bytes = num_bytes * 5 // 4 if raw.xray_cut == "whole" else num_bytes  # films are 4:5
    elif num_bytes is None and isinstance(raw.images, Sequence):
        num_bytes = _estimated_bytes(raw.images)
    if num_bytes is None:
        return
    if raw.shorter_side and num_images:  # a photograph of 4:3 as JPEG, at most about a byte for each pixel
        num_bytes = min(num_bytes, num_images * raw.shorter_side**2 * 4 // 3)
    num_bytes += (num_images or 0) * _TAR_BYTES_PER_IMAGE
    missing = num_bytes - sum(path.stat().st_size for path in partial.rglob("*.tar"))
    free = shutil.disk_usage(partial).free
    if missing > free:
        raise InputError(
            f"{partial.parent} has {free / 1e9:.1f} GB free, the prepared set needs about {missing / 1e9:.1f} GB more; "
            "free some space, or choose another --out"
        )


def _estimated_bytes(images: Sequence[RawImage]) -> int | None:
    """Bytes of all files, by the mean over some of them."""
    sizes = []
    for image in images[:: max(1, len(images) // _SAMPLED_FILES)]:
        try:
            sizes.append(image.num_bytes())
        except OSError:
            continue  # a missing file has its row in the quarantine to come
    return sum(sizes) * len(images) // len(sizes) if sizes else None


def _write_parts(raw: RawSet, folder: Path, output: Output, parts: int) -> None:
    if isinstance(raw.images, Sequence):
        _require_distinct_keys(raw.images)
        if not raw.images:
            raise InputError(f"{raw.name} has no images")
    for note in raw.notes:
        print(f"note: {note}", file=sys.stderr)
    chosen = range(parts) if output.part is None else [output.part[0]]
    total = None if raw.num_images is None else raw.num_images * len(chosen) // parts
    most_bad = None if raw.num_images is None else int(output.max_bad * raw.num_images)
    with progress_bar(desc=raw.name, total=total, unit="image") as bar:
        for part in chosen:
            bad = write_part(raw, folder, part, parts, bar, most_bad)
            if most_bad is not None and len(bad) > most_bad:
                _refuse(bad, raw.num_images or 0, output)


def _require_distinct_keys(images: Sequence[RawImage]) -> None:
    seen: set[str] = set()
    for image in images:
        if image.key in seen:
            raise InputError(f"two images have the key {image.key!r}; rename one of the files")
        seen.add(image.key)


def _join(raw: RawSet, folder: Path, parts: int, output: Output, about: dict[str, str]) -> None:
    """Columns, quarantine and, last, the manifest of a set whose parts are all written."""
    shards = {split: [finished_shards(folder, split, part, parts) for part in range(parts)] for split in SPLITS}
    flat = [shard for split in SPLITS for of_part in shards[split] for shard in of_part]
    bad: list[Bad] = [(file, reason) for shard in flat for file, reason in shard["bad"]]
    num_seen = sum(shard["seen"] for shard in flat)
    if not num_seen:
        raise InputError(f"{raw.name} has no images")
    if len(bad) > output.max_bad * num_seen:
        _refuse(bad, num_seen, output)
    notes = list(raw.notes)
    if raw.expected_images not in (None, num_seen):
        notes.append(f"{num_seen:,} images were found where the set has {raw.expected_images:,}")
        print(f"warning: {notes[-1]}", file=sys.stderr)
    if raw.shorter_side:
        shrunk = sum(shard["shrunk"] for shard in flat)
        notes.append(shrunk_note(raw.shorter_side, shrunk, sum(shard["images"] for shard in flat)))
        print(f"note: {notes[-1]}", file=sys.stderr)
    if raw.bits_found:
        assert raw.bits is not None
        notes.append(depth_note(raw.bits))
        print(f"note: {notes[-1]}", file=sys.stderr)
    (folder / _QUARANTINE).unlink(missing_ok=True)
    if bad:
        _list_bad(bad, folder / _QUARANTINE)
    for split in SPLITS:
        names = {shard["file"] for of_part in shards[split] for shard in of_part}
        for stray in (path for path in (folder / split).glob("*.tar") if path.name not in names):
            stray.unlink()
    splits = {
        split: join_shards(folder / split, folder.parent / ROWS / split, shards[split], raw.equal_images)
        for split in SPLITS
    }
    manifest = {
        "name": raw.name,
        "task": raw.task,
        "classes": list(raw.classes),
        "channels": max((shard["channels"] for shard in flat), default=1),
        "horizontal_flip": raw.horizontal_flip,
        "synthetic": raw.synthetic,
        "patients": raw.patients,
        **({"metric": raw.metric} if raw.metric else {}),
        **{name: value for name, value in ways(raw).items() if value is not None},
        **({"jpeg_quality": JPEG_QUALITY} if raw.shorter_side else {}),
        **({"bits": raw.bits, "bits_found": raw.bits_found} if raw.bits else {}),
        **({"bits_given": True} if raw.bits_given else {}),
        "source": raw.source,
        "notes": notes,
        "quarantined": len(bad),
        **about,
        "splits": splits,
    }
    write_manifest(folder, manifest)


def _refuse(bad: list[Bad], num_images: int, output: Output) -> None:
    out = output.out.resolve()
    listed = out.with_name(f"{out.name}.quarantine.csv")
    _list_bad(bad, listed)
    examples = "; ".join(f"{file}: {reason}" for file, reason in bad[:3])
    raise InputError(
        f"{len(bad)} of {num_images} images cannot be used, more than --max-bad {output.max_bad} allows: {examples}; "
        "the same command goes on where it was, also with another --max-bad; before one with other options, such as "
        f"--bits, remove what is done: {removal(_partial(out))}; all that were found are listed in {listed}"
    )


def _list_bad(bad: Iterable[Bad], path: Path) -> None:
    # File names may hold bytes that are no text.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([("file", "reason"), *bad])


def summary(manifest: dict[str, Any], folder: Path) -> str:
    """What was written, in one paragraph."""
    splits = ", ".join(f"{name} {split['images']}" for name, split in manifest["splits"].items())
    synthetic = " (synthetic)" if manifest["synthetic"] else ""
    return (
        f"{folder}: {manifest['name']}{synthetic}, {manifest['task']}, {len(manifest['classes'])} classes, images: "
        f"{splits}; {manifest['quarantined']} quarantined"
    )


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
            if is_open and can_shrink and (note := size_note(*_sizes(manifest, output.out))):
                print(f"note: {note}", file=sys.stderr)
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
