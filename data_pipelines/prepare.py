"""Prepare a data set: bitscale prepare NAME --root DIR --out DIR

Reads the set as its owner distributes it, decodes every image strictly, and writes shards, index and manifest.
Interrupted, the same command goes on where it was. In an array job each task adds --part K/N (K from 0); the same
command without --part then does what is left and finishes. `--verify DIR` checks a prepared set by its SHA-256 sums.
`--list` says of each set how many images it has, how large its download is, and where to get it.
"""

import data_pipelines  # noqa: F401 - first: it takes the folder of this script off sys.path

# isort: split
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from inspect import signature
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from data_pipelines.common.advice import as_word, quoted
from data_pipelines.common.cli import entry_point
from data_pipelines.common.command_help import filled, first_sentence, grouped_help
from data_pipelines.common.errors import InputError
from data_pipelines.common.flag_parser import asks_for_help, parse_flags
from data_pipelines.common.limits import with_checked_numbers
from data_pipelines.common.message_parts import closest, nearest
from data_pipelines.common.messages import logger
from data_pipelines.common.program import program
from data_pipelines.common.progress import Progress
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.few_in_test import Carving, empty_split, few_in_test, none_in_val, stored_labels
from data_pipelines.datasets.registry import (
    DATASETS,
    FORMAT_READERS,
    PRETRAINING_SETS,
    SETS_AT_HAND,
    TARGET_SETS,
    USER_READERS,
    listed,
)
from data_pipelines.image_files.shrink import size_note
from data_pipelines.preparation.join_parts import set_summary
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.verify import verify

Command = tuple[Output, partial[RawSet]]
_SETS = {
    "your own images": USER_READERS,
    "a format that many sets come in": FORMAT_READERS,
    "to pre-train on": PRETRAINING_SETS,
    "to transfer to": TARGET_SETS,
    "at hand, without a download": SETS_AT_HAND,
}
_GREY = (
    "all pictures are grey; if they are X-rays, prepare them again with --xray-size 512 and --force: file names are "
    "then hashed, and patients kept apart"
)
_LISTED = "Sets that are read: their size, as the owner says, the download where it is\nknown, and where to get them."
_FLAGS = ("--list", "--verify", "--help")
_TITLES = {"output": "what is written", "read": "what is read"}


def _sizes(manifest: dict[str, Any], folder: Path) -> list[npt.NDArray[Any]]:
    """Heights and widths of all images, pixels."""
    splits = [folder / name for name, split in manifest["splits"].items() if split["images"]]
    return [np.concatenate([np.load(split / f"{name}.npy") for split in splits]) for name in ("height", "width")]


def command_of(reader: Callable[..., RawSet]) -> Callable[..., Command]:
    """The command of `prepare` for one reader, of which tyro takes the flags."""

    @wraps(reader)
    def later(*arguments: Any, **options: Any) -> partial[RawSet]:
        return partial(with_checked_numbers(reader), *arguments, **options)

    def command(
        output: Annotated[Output, tyro.conf.arg(name="")],
        read: Annotated[Any, tyro.conf.arg(name="", constructor=later)],
    ) -> Command:
        return output, read

    command.__doc__ = reader.__doc__
    return command


def _warn_of_few(name: str, raw: RawSet, manifest: dict[str, Any], folder: Path, read: partial[RawSet]) -> None:
    """Warn of splits without images, and of classes with too few of them in test, or none in val."""
    owned = {"val": raw.has_own_val, "test": raw.has_own_test}
    asked = {split: read.keywords.get(f"{split}_fraction") for split, is_owned in owned.items() if not is_owned}
    carving = Carving({split: share for split, share in asked.items() if share is not None}, raw.is_user_set)
    splits = stored_labels(folder, manifest)
    found = [few_in_test(raw.classes, splits, carving), none_in_val(raw.classes, splits, carving)]
    if name not in ("csv", "image-folder"):  # which say so before they begin
        found.insert(0, empty_split(splits, carving))
    for message in filter(None, found):
        logger.warning(message)


def _prepare(name: str, output: Output, read: partial[RawSet]) -> None:
    """Prepare a set, and print what there is of it."""
    with Progress("prepare: looking for the images"):
        raw = read()
    can_shrink, can_be_xrays = (each in signature(DATASETS[name]).parameters for each in ("shorter_side", "xray_size"))
    if output.bits is not None and can_be_xrays and raw.xray_size is None:
        raise InputError("--bits is for X-rays; make these images such with --xray-size 256, or leave it out")
    manifest = prepare(raw, output)
    if manifest:
        print(set_summary(manifest, output.out))
        _warn_of_few(name, raw, manifest, output.out.resolve(), read)
        if can_be_xrays and raw.xray_size is None and manifest["channels"] == 1:
            logger.info(f"note: {_GREY}")
        is_open = raw.shorter_side is None and raw.xray_size is None
        if is_open and can_shrink and (note := size_note(*_sizes(manifest, output.out.resolve()))):
            logger.info(f"note: {note}")
    elif output.part:
        print(f"part {output.part[0]} of {output.part[1]} is done; after the last, repeat without --part")


def _require_views(name: str, arguments: Sequence[str]) -> None:
    """Raise InputError for `--views` of a set whose images do not tell their view, with what can be done instead."""
    having = [other for other, reader in DATASETS.items() if "views" in signature(reader).parameters]
    if name in having or not any(word.split("=")[0] == "--views" for word in arguments):
        return
    laterals = "laterals" in signature(DATASETS[name]).parameters
    remedy = "for DICOM files give --laterals drop" if laterals else "leave --views out"
    raise InputError(f"{name} does not say the view of its images; {remedy}. --views is for {', '.join(having)}")


def _require_root_of_embedded(name: str, arguments: Sequence[str]) -> None:
    """Raise InputError for a set at hand whose reader takes files, as it ships prepared, where they are not given."""
    has_root = asks_for_help(arguments) or any(word.split("=")[0] == "--root" for word in arguments)
    if name in SETS_AT_HAND and "root" in signature(SETS_AT_HAND[name]).parameters and not has_root:
        raise InputError(
            f"{name} ships with the package, prepared: use it by its name; to prepare it from the files as "
            "distributed, give their folder by --root"
        )


def _list() -> str:
    groups = {title: listed(sets) for title, sets in _SETS.items()}
    return grouped_help(_LISTED, groups, f"Licence, and how the files have to lie: {program()} NAME --help")


def _help() -> str:
    about = (__doc__ or "").split("\n\n")[1]
    usage = f"usage: {program()} NAME --out DIR [FLAGS]\n\n{filled(about)}"
    groups = {
        title: {name: first_sentence(each.__doc__) for name, each in sets.items()} for title, sets in _SETS.items()
    }
    return grouped_help(usage, groups, f"All flags of a set: {program()} NAME --help")


def _no_set(name: str, arguments: Sequence[str]) -> str:
    """The message on a first word that names no set: a flag, a folder of images, or a misspelt name."""
    if name.startswith("-"):
        if closest(name, _FLAGS):
            return f"unknown flag {name!r}{nearest(name, _FLAGS)}"
        typed = " ".join(map(as_word, arguments))
        return f"no set is named before {name}; for folders of images of your own: {program()} image-folder {typed}"
    if Path(name).is_dir():
        return (
            f"{name!r} is a folder, and the first word names the kind of set; for folders of images of your own: "
            f"{program()} image-folder --root {' '.join([quoted(name), *map(as_word, arguments[1:])])}"
        )
    return f"unknown data set {name!r}{nearest(name, list(DATASETS))}"


@entry_point
def main() -> None:
    """Parse the command line and prepare one set, or verify one."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of folders may hold bytes that are no text
    name, *rest = sys.argv[1:] or ["--help"]
    if asks_for_help([name]):
        print(_help())
        return
    if name == "--list":
        if rest:
            raise InputError(f"--list takes nothing behind it; what a set takes: {program()} NAME --help")
        print(_list())
        return
    if name == "--verify":
        if len(rest) != 1:
            raise InputError("--verify takes one prepared folder")
        print(f"{rest[0]}: all {verify(Path(rest[0]))} files are as they were prepared")
        return
    if name not in DATASETS:
        raise InputError(_no_set(name, sys.argv[1:]))
    _require_views(name, rest)
    _require_root_of_embedded(name, rest)
    output, read = parse_flags(command_of(DATASETS[name]), rest, f"{program()} {name}", titles=_TITLES)
    _prepare(name, output, read)


if __name__ == "__main__":
    main()
