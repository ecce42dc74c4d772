"""`prepare` keeps what it can decode, says what it cannot, and never leaves half a set under the set's name."""

import csv
import errno
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines.datasets import DATASETS
from data_pipelines.datasets.own import image_folder
from data_pipelines.datasets.phantom import phantom
from data_pipelines.datasets.raw import RawImage
from data_pipelines.errors import InputError
from data_pipelines.index import Index, Split
from data_pipelines.prepare import Output, prepare
from data_pipelines.shard_writer import ShardWriter
from data_pipelines.shards import read_manifest

REPOSITORY = Path(data_pipelines.__file__).parents[1]


def run_command(*arguments: Any, entry: tuple[str, ...] = ("-m", "data_pipelines.prepare")) -> tuple[int, str]:
    """The real command: its exit code, and all that it printed."""
    command = [sys.executable, *entry, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def prepare_folder(root: Path, out: Path, **options: Any) -> dict[str, Any]:
    return prepare(image_folder(root, 0, 0), Output(out, **options))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decoded(index: Index, key: str) -> np.ndarray:
    row = index.keys(np.arange(len(index))).index(key)
    with Image.open(io.BytesIO(index.encoded(row))) as image:
        return np.asarray(image)


def test_images_are_kept_byte_for_byte(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    manifest = prepare_folder(root, tmp_path / "below" / "out")
    assert manifest["name"] == "raw"
    assert manifest["quarantined"] == 0
    assert not (tmp_path / "below" / "out" / "quarantine.csv").exists()
    index = Index.load(tmp_path / "below" / "out", "train")
    assert index.classes == ("cat", "dog")
    assert np.bincount(index.labels).tolist() == [6, 6]
    for row, key in enumerate(index.keys(np.arange(12))):
        path = root / re.sub("_png$", ".png", key)
        assert index.encoded(row).tobytes() == path.read_bytes()
        assert index.classes[index.labels[row]] == path.parent.name
        with Image.open(path) as image:
            assert (index.width[row], index.height[row]) == image.size


def deep_colour_png() -> bytes:
    """4 x 4 pixels of 16 bits a channel, which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(range(24)) for _ in range(4)))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_unreadable_files_are_quarantined_with_a_reason(
    class_folders: Callable[..., Path], photo: Callable, encode: Callable, tmp_path: Path
) -> None:
    root, picture = class_folders(), photo(0, 60, 70)
    jpeg, png = encode(picture, "JPEG"), encode(picture)
    deep = encode(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    damaged = bytearray(png)
    damaged[png.index(b"IDAT") + 100] ^= 0xFF
    bad = {
        "cut.jpg": (jpeg[: len(jpeg) * 2 // 3], "Premature end"),
        "no_end.jpg": (jpeg[:-2], "Premature end"),
        "cut.png": (png[: len(png) * 2 // 3], "truncated"),
        "damaged.png": (bytes(damaged), "data stream"),
        "empty.jpg": (b"", "no image format that is known"),
        "text.jpg": (b"404 not found", "no image format that is known"),
        "deep.png": (deep, "more than 8 bits"),
        "deep_colour.png": (deep_colour_png(), "more than 8 bits"),
        "float.tif": (encode(np.ones((4, 4), np.float32), "TIFF"), "more than 8 bits"),
    }
    for name, (content, _) in bad.items():
        (root / "dog" / name).write_bytes(content)
    manifest = prepare_folder(root, tmp_path / "out", max_bad=0.5)
    assert manifest["quarantined"] == len(bad)
    assert manifest["splits"]["train"]["images"] == 12
    with (tmp_path / "out" / "quarantine.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "reason"]
    assert [file for file, _ in rows] == sorted(str(root / "dog" / name) for name in bad)
    for file, reason in rows:
        assert bad[Path(file).name][1] in reason
        assert "BytesIO" not in reason
    assert not any("dog/" + name.split(".")[0] + "_" in key for key in all_keys(tmp_path / "out") for name in bad)


def all_keys(folder: Path) -> list[str]:
    index = Index.load(folder, "train")
    return index.keys(np.arange(len(index)))


CONVERTED: dict[str, tuple[str, str | None, dict[str, Any], bool]] = {
    "palette.png": ("PNG", "P", {}, True),
    "alpha.png": ("PNG", "RGBA", {}, True),
    "grey_alpha.png": ("PNG", "LA", {}, True),
    "cmyk.jpg": ("JPEG", "CMYK", {"quality": 95}, False),
    "plain.bmp": ("BMP", None, {}, True),
    "plain.tiff": ("TIFF", None, {}, True),
    "lossless.webp": ("WEBP", None, {"lossless": True}, True),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_other_kinds_become_rgb_png(
    name: str, class_folders: Callable[..., Path], photo: Callable, encode: Callable, tmp_path: Path
) -> None:
    file_format, mode, options, lossless = CONVERTED[name]
    root, picture = class_folders(count=1), photo(3, 40, 30)
    (root / "cat" / name).write_bytes(encode(picture, file_format, mode, **options))
    assert prepare_folder(root, tmp_path / "out")["quarantined"] == 0
    stored = decoded(Index.load(tmp_path / "out", "train"), f"cat/{name.replace('.', '_')}")
    expected = np.asarray(Image.fromarray(picture).convert(mode or "RGB").convert("RGB"))
    assert stored.shape == (40, 30, 3)
    assert np.abs(stored.astype(int) - expected).mean() < (1e-9 if lossless else 6)


@pytest.mark.parametrize(("colours", "channels"), [([1, 1], 1), ([1, 3], 3), ([3, 1], 3)])
def test_channels_are_those_of_the_richest_image(
    colours: list[int], channels: int, class_folders: Callable[..., Path], encode: Callable, tmp_path: Path
) -> None:
    root = tmp_path / "raw"
    for name, colour in zip(("cat", "dog"), colours, strict=True):
        class_folders(classes=[name], channels=colour)
        pixels = np.zeros((9, 9) if colour == 1 else (9, 9, 3), np.uint8)
        (root / name / "jpeg.jpeg").write_bytes(encode(pixels, "JPEG"))
    assert prepare_folder(root, tmp_path / "out")["channels"] == channels
    assert Index.load(tmp_path / "out", "train").channels == channels


def test_too_many_bad_files_leave_no_set(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    (root / "cat" / "bad.jpg").write_bytes(b"")
    code, printed = run_command("image-folder", "--root", root, "--out", tmp_path / "out", "--max-bad", 0.05)
    assert code == 2
    assert "error: 1 of 13 images cannot be used, more than --max-bad 0.05 allows" in printed
    assert f"{root / 'cat' / 'bad.jpg'}: no image format that is known" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()
    assert Path(re.search(r"listed in (\S+)", printed)[1]).is_file()
    assert prepare_folder(root, tmp_path / "out", max_bad=0.08)["quarantined"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.quarantine.csv", "raw"]


def test_existing_output_is_replaced_only_if_asked(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    out, old, new = tmp_path / "out", class_folders("old", count=2), class_folders("new", count=3)
    prepare_folder(old, out)
    before = files_of(out)
    with pytest.raises(InputError, match=r"out exists; .*--force"):
        prepare_folder(new, out)
    (new / "cat" / "bad.png").write_bytes(b"")
    with pytest.raises(InputError, match="--max-bad"):
        prepare_folder(new, out, force=True)
    assert files_of(out) == before
    (new / "cat" / "bad.png").unlink()
    prepare_folder(new, out, force=True)
    assert len(Index.load(out, "train")) == 6
    (tmp_path / "empty").mkdir()
    prepare_folder(new, tmp_path / "empty", force=True)
    assert len(Index.load(tmp_path / "empty", "train")) == 6
    others = tmp_path / "others"
    others.mkdir()
    (others / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="others is something else than a prepared set; --force does not delete it"):
        prepare_folder(new, others, force=True)
    assert (others / "thesis.tex").read_text() == "years of work"


def test_output_that_is_a_link_keeps_the_link(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    old, new, link = class_folders("old", count=2), class_folders("new", count=3), tmp_path / "link"
    prepare_folder(old, tmp_path / "disk" / "out")
    link.symlink_to(tmp_path / "disk" / "out")
    with pytest.raises(InputError, match=r"out exists; .*--force"):
        prepare_folder(new, link)
    prepare_folder(new, link, force=True)
    assert link.is_symlink()
    assert len(Index.load(link, "train")) == len(Index.load(tmp_path / "disk" / "out", "train")) == 6
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_set_is_never_deleted(
    class_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    root = class_folders()
    (tmp_path / "notes").write_text("years of work")
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    # The last three are the folder that holds all this; there is no `new` in it.
    for out in (tmp_path / "notes", root, Path("."), Path("raw/.."), Path("new/..")):
        with pytest.raises(InputError, match="something else than a prepared set; --force does not delete it"):
            prepare_folder(root, out, force=force)
        assert files_of(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "raw"]


@pytest.mark.parametrize(
    ("force", "message"), [(False, "out exists; choose another"), (True, "out is something else than a prepared set")]
)
def test_output_that_comes_up_meanwhile_is_left_alone(
    class_folders: Callable[..., Path], tmp_path: Path, force: bool, message: str
) -> None:
    raw, out = image_folder(class_folders(), 0, 0), tmp_path / "out"
    prepare(raw, Output(tmp_path / "other"))

    def images() -> Iterator[RawImage]:
        yield from raw.images
        if force:
            out.mkdir()
            (out / "thesis.tex").write_text("years of work")
        else:
            (tmp_path / "other").rename(out)

    with pytest.raises(InputError, match=message):
        prepare(replace(raw, images=images()), Output(out, force=force))
    assert (out / ("thesis.tex" if force else "manifest.json")).is_file()


def test_full_disk_and_equal_keys_leave_no_set(
    class_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = class_folders(), tmp_path / "out"
    picture = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "x.y.png").write_bytes(picture)
    (root / "cat" / "x_y.png").write_bytes(picture)
    with pytest.raises(InputError, match="two images have the key 'cat/x_y_png'; rename"):
        prepare_folder(root, out)
    (root / "cat" / "x_y.png").unlink()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "add", full)
        with pytest.raises(InputError, match=r"out cannot be written \(.*No space left.*free some space"):
            prepare_folder(root, out)
    assert not out.exists()
    assert prepare_folder(root, out)["splits"]["train"]["images"] == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_same_images_give_the_same_bytes(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    (root / "cat" / "bad.jpg").write_bytes(b"no image, but jpg in name")
    for name in ("one", "two"):
        prepare(image_folder(root, 0.2, 0.2), Output(tmp_path / name, max_bad=0.1))
        (tmp_path / name / "quarantine.csv").unlink()
        for path in root.rglob("*.png"):
            path.touch()
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert len(files_of(tmp_path / "one")) > 10


def test_split_folders_by_command(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        class_folders(f"raw/{split}", count=count)
    code, printed = run_command("image-folder", "--root", tmp_path / "raw", "--out", tmp_path / "out")
    assert code == 0
    assert "raw, single_label, 2 classes, images: train 10, val 4, test 6; 0 quarantined" in printed
    counts: dict[Split, int] = {"train": 5, "val": 2, "test": 3}
    for split, count in counts.items():
        index = Index.load(tmp_path / "out", split)
        assert np.bincount(index.labels).tolist() == [count, count]
        assert all(key.startswith(f"{split}/") for key in index.keys(np.arange(len(index))))
    code, printed = run_command("image-folder", "--root", tmp_path / "raw", "--out", tmp_path / "out")
    assert code == 2
    assert "exists; choose another --out, or replace it with --force" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image-foldr", "--out", "x"], "error: unknown data set 'image-foldr'; did you mean 'image-folder'?"),
        (["image-folder", "--root", "/nowhere", "--out", "x"], "error: --root /nowhere is no folder"),
    ],
)
def test_wrong_commands_end_with_a_message(arguments: list[str], message: str) -> None:
    code, printed = run_command(*arguments)
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed


def test_help_lists_the_sets() -> None:
    code, printed = run_command("--help")
    assert code == 0
    assert all(name in printed for name in DATASETS)


def test_digits_by_script(tmp_path: Path) -> None:
    script = str(REPOSITORY / "data_pipelines" / "prepare.py")
    code, printed = run_command("digits", "--out", tmp_path / "digits", entry=(script,))
    assert code == 0, printed
    assert "images: train 1100, val 200, test 497" in printed
    for split, per_class in (("train", 110), ("val", 20)):
        index = Index.load(tmp_path / "digits", split)
        assert np.bincount(index.labels).tolist() == [per_class] * 10
        assert (index.channels, index.flip, index.classes) == (1, False, tuple("0123456789"))
    assert set(index.height) == set(index.width) == {8}
    assert np.asarray(decoded(index, index.keys(0)[0])).max() == 255


def test_phantom(tmp_path: Path) -> None:
    manifest = prepare(phantom(images=90, size=32, seed=1), Output(tmp_path / "phantom"))
    assert manifest["synthetic"]
    splits = [Index.load(tmp_path / "phantom", split) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == 90
    raw = {image.key: image for image in phantom(images=90, size=32, seed=1).images}
    for index in splits:
        assert (index.task, index.channels, index.labels.shape[1]) == ("multi_label", 1, index.num_classes)
        for row, key in enumerate(index.keys(np.arange(len(index)))):
            assert index.encoded(row).tobytes() == raw[key].image
            assert index.group[row] == raw[key].group
            np.testing.assert_array_equal(index.labels[row], raw[key].label)
    groups = [set(index.group) for index in splits]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert read_manifest(tmp_path / "phantom")["source"].startswith("Generated by")
