"""Prepare a data set: python -m data_pipelines.prepare NAME --root DIR --out DIR

Reads the set as its owner distributes it, decodes every image strictly, and writes shards, index and manifest.
"""

import os
import sys

if not __package__:  # run as a script: this folder on sys.path would shadow other people's modules
    sys.path = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]

import csv
import errno
import io
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import simplejpeg
import tyro
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from data_pipelines.datasets import DATASETS
from data_pipelines.datasets.raw import RawImage, RawSet
from data_pipelines.entry import entry_point
from data_pipelines.errors import InputError
from data_pipelines.index import nearest
from data_pipelines.shards import MANIFEST, EncodedImage, SplitWriter, write_manifest

Bad = tuple[str, str]  # file, reason
_CHUNK = 1024  # images in flight: bounds the memory


@dataclass(frozen=True)
class Output:
    """Where the prepared set goes."""

    out: Path
    """Folder to write; it must not exist."""
    force: bool = False
    """Replace an existing prepared set."""
    max_bad: float = 0.001
    """Fail when more than this share of the images cannot be decoded."""


def prepare(raw: RawSet, output: Output) -> dict[str, Any]:
    """Write a prepared set; returns its manifest.

    The folder appears under its name only when it is whole. Unreadable images go to `quarantine.csv` in it.
    Raises InputError when the folder exists or cannot be written, too many images are bad, or two share a key.
    """
    out = output.out.resolve()
    _require_free(out, output.force)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        manifest, bad = _write(raw, partial)
        _require_few(bad, raw.num_images, output.max_bad, out)
        if bad:
            _list_bad(bad, partial / "quarantine.csv")
        write_manifest(partial, manifest)
        _require_free(out, output.force)  # again: another process may have come first
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        raise InputError(f"{out} cannot be written ({error}); {remedy}, or choose another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


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


def _write(raw: RawSet, folder: Path) -> tuple[dict[str, Any], list[Bad]]:
    """Write the shards and columns of all splits; returns the manifest, not yet written, and the bad images."""
    writers = {split: SplitWriter(folder / split, raw.classes, raw.task) for split in ("train", "val", "test")}
    keys: set[str] = set()
    bad: list[Bad] = []
    channels = 1
    for image, verified in tqdm(_verified(raw.images), total=raw.num_images, desc=raw.name, unit="image", disable=None):
        if image.key in keys:
            raise InputError(f"two images have the key {image.key!r}; rename one of the files")
        keys.add(image.key)
        if isinstance(verified, str):
            bad.append((str(image.image) if isinstance(image.image, Path) else image.key, verified))
            continue
        channels = max(channels, verified.channels)
        writers[image.split].add(image.key, verified, image.label, image.group)
    manifest = {
        "name": raw.name,
        "task": raw.task,
        "classes": list(raw.classes),
        "channels": channels,
        "horizontal_flip": raw.horizontal_flip,
        "synthetic": raw.synthetic,
        "source": raw.source,
        "quarantined": len(bad),
        "splits": {split: writer.close() for split, writer in writers.items()},
    }
    return manifest, bad


def _require_few(bad: list[Bad], num_images: int, max_bad: float, out: Path) -> None:
    if len(bad) <= max_bad * num_images:
        return
    listed = out.with_name(f"{out.name}.quarantine.csv")
    _list_bad(bad, listed)
    examples = "; ".join(f"{file}: {reason}" for file, reason in bad[:3])
    raise InputError(
        f"{len(bad)} of {num_images} images cannot be used, more than --max-bad {max_bad} allows: {examples}; "
        f"all are listed in {listed}"
    )


def _list_bad(bad: list[Bad], path: Path) -> None:
    # File names may hold bytes that are no text.
    with path.open("w", newline="", errors="backslashreplace") as file:
        csv.writer(file).writerows([("file", "reason"), *bad])


def _verified(images: Any) -> Iterator[tuple[RawImage, EncodedImage | str]]:
    """Each image with what goes into the shard, or with the reason why it cannot; in order, decoded in parallel."""
    stream = iter(images)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        while chunk := list(islice(stream, _CHUNK)):
            yield from zip(chunk, pool.map(_verify, chunk), strict=True)


def _verify(raw: RawImage) -> EncodedImage | str:
    try:
        encoded = raw.image.read_bytes() if isinstance(raw.image, Path) else raw.image
        return verify_image(encoded)
    except UnidentifiedImageError:
        return "no image format that is known"
    except Exception as error:  # whatever a decoder throws at a broken file is a reason for the quarantine
        return f"{type(error).__name__}: {error}".splitlines()[0]


def verify_image(encoded: bytes) -> EncodedImage:
    """Decode an image to its last byte. 8-bit grey and RGB JPEG and PNG are kept as they are, the rest becomes RGB PNG.

    Raises whatever the decoder raises for a damaged file, and ValueError for pictures of more than 8 bits.
    """
    if encoded[:2] == b"\xff\xd8":
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=True)
        simplejpeg.decode_jpeg(encoded, strict=True)
        if colours in ("Gray", "YCbCr", "RGB"):
            return EncodedImage(encoded, "jpg", height, width, 1 if colours == "Gray" else 3)
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        # Pillow reads 16-bit colour as 8-bit without a word: the bit depth stands in byte 24 of a PNG.
        if image.mode.startswith(("I", "F")) or (image.format == "PNG" and encoded[24] > 8):
            raise ValueError("pixels of more than 8 bits")
        if image.format == "PNG" and image.mode in ("L", "RGB"):
            return EncodedImage(encoded, "png", image.height, image.width, len(image.getbands()))
        converted = image.convert("RGB")
    buffer = io.BytesIO()
    converted.save(buffer, format="PNG")
    return EncodedImage(buffer.getvalue(), "png", converted.height, converted.width, 3)


def summary(manifest: dict[str, Any], folder: Path) -> str:
    """What was written, in one paragraph."""
    splits = ", ".join(f"{name} {split['images']}" for name, split in manifest["splits"].items())
    synthetic = " (synthetic)" if manifest["synthetic"] else ""
    return (
        f"{folder}: {manifest['name']}{synthetic}, {manifest['task']}, {len(manifest['classes'])} classes, images: "
        f"{splits}; {manifest['quarantined']} quarantined"
    )


def _command(reader: Callable[..., RawSet]) -> Callable[..., None]:
    def run(
        output: Annotated[Output, tyro.conf.arg(name="")],
        raw: Annotated[RawSet, tyro.conf.arg(name="", constructor=reader)],
    ) -> None:
        print(summary(prepare(raw, output), output.out))

    run.__doc__ = reader.__doc__
    return run


@entry_point
def main() -> None:
    """Parse the command line and prepare one set."""
    arguments = sys.argv[1:] or ["--help"]
    name, *rest = arguments
    if name in ("-h", "--help"):
        commands = {name: _command(reader) for name, reader in DATASETS.items()}
        tyro.extras.subcommand_cli_from_dict(commands, args=["--help"], description=__doc__)
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}{nearest(name, list(DATASETS))}")
    tyro.cli(_command(DATASETS[name]), args=rest, prog=f"prepare {name}")


if __name__ == "__main__":
    main()
