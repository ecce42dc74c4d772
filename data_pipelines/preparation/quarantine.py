"""The quarantine: images that cannot be used, their list, and how many a set may have."""

import csv
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_pipelines.common.errors import InputError
from data_pipelines.common.messages import logger
from data_pipelines.common.raw_set import RawImage

QUARANTINE = "quarantine.csv"
Bad = tuple[str, str]  # file, reason

_NAMED = 3


class TooManyBadError(Exception):
    """More images are bad than a set may have."""

    def __init__(self, bad: list[Bad], num_images: int) -> None:
        super().__init__(f"{len(bad)} of {num_images}")
        self.bad, self.num_images = bad, num_images


def image_place(image: RawImage) -> str:
    """Path of an image as text, with undecodable bytes escaped; the key for an image generated on the fly."""
    if isinstance(image.image, bytes):
        return image.key
    return os.fsencode(str(image.image)).decode(errors="backslashreplace")


def called(image: RawImage) -> str:
    """An image's name for the user: its file or, where that is private, its key."""
    return image.key if image.is_hidden else image_place(image)


def bad_row(image: RawImage, reason: str) -> Bad:
    """Row of an image in the quarantine."""
    names_a_file = not isinstance(image.image, bytes) and Path(str(image.image)).name in reason
    return called(image), "it cannot be opened" if image.is_hidden and names_a_file else reason


def most_bad(share: float, num_images: int) -> int:
    """How many images of a set may be bad: a share of them, but at least one in a set of several, unless the share is
    0."""
    return max(int(share * num_images), int(share > 0 and num_images > 1))


def list_bad(bad: Iterable[Bad], path: Path) -> None:
    """Write the quarantine."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([("file", "reason"), *bad])


def warn(bad: list[Bad], num_images: int, listed: Path, keymap: Path | None) -> None:
    """Warn of images that are left out because they cannot be used. keymap: maps keys back to files; None where the
    quarantine names files."""
    leads_back = "" if keymap is None else f"; {keymap} tells the file of each key"
    logger.warning(
        f"{len(bad):,} of {num_images:,} images cannot be used and {'is' if len(bad) == 1 else 'are'} left "
        f"out:{_some(bad, f'listed in {listed}{leads_back}; --max-bad 0 accepts none')}"
    )


def refused_files(out: Path, part: tuple[int, int] | None = None) -> tuple[Path, Path]:
    """Files that a refused preparation, or a refused part, leaves beside the output: the quarantine, and the keymap of
    its keys."""
    name = f"{out.name}.quarantine{f'.{part[0]}of{part[1]}' if part else ''}"
    return out.with_name(f"{name}.csv"), out.with_name(f"{name}.keymap.csv")


def all_refused_files(out: Path) -> Iterator[Path]:
    """Those of the whole set and of all parts."""
    begin = glob.escape(f"{out.name}.quarantine")
    for end in ("", ".keymap"):
        yield from out.parent.glob(f"{begin}{end}.csv")
        yield from out.parent.glob(f"{begin}.[0-9]*of[0-9]*{end}.csv")


def refusal(
    found: TooManyBadError,
    out: Path,
    share: float,
    removal: str | None,
    write_keymap: Callable[[Path], None] | None,
    part: tuple[int, int] | None,
) -> InputError:
    """The error for a set with too many bad images, which it lists in a file beside `out`.

    removal: the command that removes the unfinished set, for use where there is no --force. write_keymap: writes a
    keymap to a file; None where the quarantine names files. part: the part in which they were found.
    """
    listed, keymap = refused_files(out, part)
    list_bad(found.bad, listed)
    leads_back = ""
    if write_keymap is not None:
        write_keymap(keymap)
        leads_back = f"; {keymap}, which you alone can read, tells the file of each key"
    example = ", such as --bits," if any("--bits" in reason for _, reason in found.bad) else ""
    in_part = f" in part {part[0]} of {part[1]}" if part else ""
    anew = "begins anew with --force" if removal is None else f"needs what is done to be removed: {removal}"
    remedy = (
        f"the same command goes on where it was, and may have another --max-bad; with other options{example} it "
        f"{anew}; all of these images{in_part} are listed in {listed}{leads_back}"
    )
    return InputError(
        f"{len(found.bad)} of {found.num_images} images cannot be used, more than --max-bad {share} allows:"
        f"{_some(found.bad, remedy)}"
    )


def _some(bad: list[Bad], remedy: str) -> str:
    """The first bad images, a line each if there are several, and what can be done."""
    named = [f"{file}: {reason}" for file, reason in bad[:_NAMED]]
    if len(bad) == 1:
        return f" {named[0]}; {remedy}"
    more = [f"and {len(bad) - _NAMED:,} more"] if len(bad) > _NAMED else []
    return "\n  ".join(["", *named, *more]) + f"\n{remedy[0].upper()}{remedy[1:]}"
