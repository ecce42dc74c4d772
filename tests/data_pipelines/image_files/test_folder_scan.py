"""People's folders: what is hidden, where links lead, which files are pictures, and that the rest is counted."""

import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dicom_files import dicom_bytes
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.common.path_text import path_of
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.image_files import folder_scan as scanning
from data_pipelines.image_files.folder_scan import is_hidden, scan

NO_SUFFIX = "files without a suffix that are not pictures"


def picture(file_format: str = "PNG", frames: int = 1, **options: Any) -> bytes:
    """A small picture; its frames differ, or encoders would join them."""
    images = [Image.new("RGB", (8, 8), (60 * number, 20, 30)) for number in range(frames)]
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    buffer = io.BytesIO()
    images[0].save(buffer, file_format, **more, **options)
    return buffer.getvalue()


def tiff(*pages: dict[int, int], behind_header: bytes = b"") -> bytes:
    """A TIFF of grey 2 x 2 pages with further tags, each a number of 32 bits."""
    start = 8 + len(behind_header)
    encoded = struct.pack("<2sHI", b"II", 42, start) + behind_header
    for number, page in enumerate(pages):
        tags = sorted(({256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: 4} | page).items())
        following = start + 2 + 12 * len(tags) + 4
        encoded += struct.pack("<H", len(tags)) + b"".join(
            struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
        )
        encoded += struct.pack("<I", following if number + 1 < len(pages) else 0)
        start = following
    return encoded


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes files by name and returns their folder."""

    def write_all(contents: dict[str, bytes]) -> Path:
        for name, content in contents.items():
            path = tmp_path / "root" / path_of(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "root"

    return write_all


@pytest.mark.parametrize(
    "name",
    [
        "._a.jpg", ".DS_Store", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "#recycle", "#snapshot", "@Recycle",
        "lost+found", "System Volume Information", "$RECYCLE.BIN", "Thumbs.db", "THUMBS.DB", "desktop.ini", "Icon\r",
        ".Trash-1000", "a.jpg~", "~$labels.xlsx", "#a.jpg#", "DICOMDIR", "__pycache__",
    ],
)  # fmt: skip
def test_hidden_files_and_leftovers_are_nothing_to_anybody(name: str, write: Callable[..., Path]) -> None:
    assert is_hidden(name)
    assert is_hidden(f"./set/{name}/x.jpg")
    root = write({f"cat/{name}": picture(), f"{name}x/a/{name}/b.jpg": picture(), "a.jpg": picture()})
    found = scan(root)
    assert "a.jpg" in [file.name for file in found.files]
    assert not [file.name for file in found.files if is_hidden(file.name)]
    assert found.left_out["cat"] == {"hidden files": 1}
    assert found.left_out_below()["hidden folders"] == 1


def test_links_are_followed_and_loops_cut(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write({"cat/a.jpg": b"", "dog/b.jpg": b""})
    store = tmp_path / "store"
    (store / "inner").mkdir(parents=True)
    (store / "inner" / "c.jpg").touch()
    (store / "back").symlink_to(store)
    (root / "dog" / "more").symlink_to(store)
    (root / "dog" / "again").symlink_to(store)
    (root / "dog" / "up").symlink_to(root)
    (root / "dog" / "d.jpg").symlink_to(root / "cat" / "a.jpg")
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (root / "dog" / "self.jpg").symlink_to(root / "dog" / "self.jpg")
    found = scan(root)
    assert [file.name for file in found.files] == [
        "cat/a.jpg", "dog/again/inner/c.jpg", "dog/b.jpg", "dog/d.jpg",
    ]  # fmt: skip
    above, before = "links to a folder above them", "folders that were met before"
    assert found.left_out_below() == {above: 2, before: 1, "dead links": 2}
    assert found.left_out_below("dog/again") == {above: 1}


def test_links_above_the_root_are_not_followed(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write({"cat/a.jpg": b"", "dog/b.jpg": b""})
    (tmp_path / "links").mkdir()
    named = tmp_path / "links" / "root"
    named.symlink_to(root)
    targets: list[str | Path] = [root, tmp_path, "/", "..", named, tmp_path / "links"]
    for number, target in enumerate(targets):
        (root / f"link {number}").symlink_to(target)
    (root / "link 5").unlink()
    found = scan(root)
    assert found.folders == ["cat", "dog"]
    assert found.left_out_below() == {"links to a folder above them": 5}
    (root / "link 5").symlink_to(tmp_path / "links")
    assert scan(named).folders == ["cat", "dog"]


def test_a_root_that_is_a_link_lies_where_that_leads_to(write: Callable[..., Path], tmp_path: Path) -> None:
    store = write({"set/cat/a.jpg": b"", "other/b.jpg": b""})
    (store / "set" / "up").symlink_to(store)
    (tmp_path / "root of the set").symlink_to(store / "set")
    found = scan(tmp_path / "root of the set")
    assert found.folders == ["cat"]
    assert found.left_out_below() == {"links to a folder above them": 1}


def test_folders_that_link_to_each_other_are_walked_once_a_class(write: Callable[..., Path]) -> None:
    names = [f"folder {number}" for number in range(7)]
    root = write({f"{name}/a.jpg": b"" for name in names})
    for name in names:
        for other in set(names) - {name}:
            (root / name / other).symlink_to(root / other)
    found = scan(root)
    assert [file.name for file in found.files] == [f"{name}/a.jpg" for name in names]
    assert found.left_out_below() == {"folders that were met before": 42}
    raw = image_folder(root, val_fraction=0, test_fraction=0)
    assert raw.num_images == 49  # each class with a link to each other folder has the pictures of it


def test_a_folder_may_be_of_several_classes_and_splits(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write({f"{split}/{name}/a.jpg": b"" for split in ("train", "test") for name in ("cat", "dog")})
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jpg").touch()
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for link in ("x", "y"):
                (root / split / name / link).symlink_to(tmp_path / "more")
    raw = image_folder(root, val_fraction=0)
    assert raw.num_images == 8
    assert raw.left_out == {"folders that were met before": 4}


def test_files_are_looked_at_in_blocks(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({f"{number:02}": picture() for number in range(10)} | {"99": b""})
    monkeypatch.setattr(scanning, "BLOCK", 3)
    asked = []
    submitted = ThreadPoolExecutor.map

    def counting(pool: ThreadPoolExecutor, function: Any, files: Any) -> Any:
        asked.append(len(files))
        return submitted(pool, function, files)

    monkeypatch.setattr(ThreadPoolExecutor, "map", counting)
    assert [file.format for file in scan(root).files] == ["png"] * 10
    assert asked == [3, 3, 3, 2]


def test_pipes_are_not_opened(write: Callable[..., Path]) -> None:
    root = write({"a.jpg": b""})
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(root / name)
    assert scan(root).left_out_below() == {"pipes, sockets and devices": 2}


def test_usual_suffixes_are_taken_without_being_opened(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a.JPG", "b.jpeg", "c.png", "d.dcm", "e.Dicom"]
    root = write(dict.fromkeys(names, b"anything") | {"f.txt": b"BMI,age", "g.nef": tiff({254: 1})})
    monkeypatch.setattr(scanning, "look", None)
    found = scan(root)
    assert [(file.name, file.format) for file in found.files] == [(name, None) for name in names]
    assert found.left_out_below() == {".txt": 1, ".nef": 1}


PICTURES = {
    "a": (picture("JPEG"), "jpeg"),
    "b.jfif": (picture("JPEG"), "jpeg"),
    "c.gif": (picture("GIF"), "gif"),
    "d.avif": (picture("AVIF"), "avif"),
    "e.jp2": (picture("JPEG2000"), "jp2"),
    "f.bmp": (picture("BMP"), "bmp"),
    "g.webp": (picture("WEBP"), "webp"),
    "h.TIF": (picture("TIFF"), "tiff"),
    "i.ppm": (picture("PPM"), "ppm"),
    "j.dat": (picture("PNG"), "png"),
    "IM0001": (dicom_bytes(PatientID="p"), "dicom"),
    "1.2.840.10008": (dicom_bytes(PatientID="p"), "dicom"),
    "k.ima": (dicom_bytes(PatientID="p"), "dicom"),
    "l.webp": (picture("PNG"), "png"),
    "thumbnail behind.tif": (tiff({}, {254: 1}, {255: 2}, {254: 4}), "tiff"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_contents_tell_what_is_a_picture(name: str, write: Callable[..., Path]) -> None:
    content, file_format = PICTURES[name]
    found = scan(write({name: content}))
    assert [(file.name, file.format) for file in found.files] == [(name, file_format)]
    assert not found.left_out


OTHERS = {
    "notes": (b"a text", NO_SUFFIX),
    "2024.11.03": (b"a text", NO_SUFFIX),
    "a.MOV": (b"\0\0\0\x14ftypqt  ", ".mov"),
    "a.jpg.bak": (picture("JPEG"), ".bak"),
    "a.crdownload": (picture("JPEG")[:90], ".crdownload"),
    "a.gif": (picture("GIF", 3), "GIFs of several frames"),
    "b": (picture("GIF", 2), "GIFs of several frames"),
    "a.webp": (picture("WEBP", 2), "WebPs of several frames"),
    "a.avif": (picture("AVIF", 2), "AVIFs of several frames"),
    "a.tif": (picture("TIFF", 2), "TIFFs of several pages"),
    "b.tif": (tiff({}, {254: 1}, {}), "TIFFs of several pages"),
    "c.tif": (tiff({254: 1}, {}), "TIFFs whose first picture is a thumbnail"),
    "d.tif": (tiff({50706: 1}), "raw files of cameras"),
    "e.tif": (tiff({}, behind_header=b"CR\2\0"), "raw files of cameras"),
    "befund.Mueller_Hans": (b"a text", "other files"),
    "befund.mueller": (b"a text", "other files"),
    "a.CR2": (tiff({}, behind_header=b"CR\2\0"), ".cr2"),
    "a.dng": (tiff({50706: 1}), ".dng"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_rest_is_counted_by_what_it_is(name: str, write: Callable[..., Path]) -> None:
    content, words = OTHERS[name]
    found = scan(write({f"folder/{name}": content}))
    assert found.files == []
    assert found.left_out == {"folder": {words: 1}}


@pytest.mark.parametrize("name", ["a.gif", "b.webp", "c.tif", "d.jfif", "e.heic"])
def test_damaged_pictures_are_left_to_their_decoder(name: str, write: Callable[..., Path]) -> None:
    for content in (b"", b"<html>", picture("GIF", 2)[:20], tiff({}, {})[:30]):
        assert [file.name for file in scan(write({name: content})).files] == [name]


def test_still_pictures_with_metadata_are_no_animations(write: Callable[..., Path]) -> None:
    still = bytearray(picture("WEBP", exif=b"Exif\0\0II*\0"))
    assert still[12:16] == b"VP8X"
    flagged = bytes(still[:20]) + bytes([still[20] | 2]) + bytes(still[21:])
    assert len(scan(write({"a.webp": bytes(still), "b.webp": flagged})).files) == 2


def test_heic_is_read_where_its_decoder_is(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"a.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "b": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"})
    monkeypatch.setattr(scanning, "find_spec", lambda name: None)
    assert scan(root).left_out_below() == {"HEIC pictures (pip install pillow-heif, and they are read)": 2}
    monkeypatch.setattr(scanning, "find_spec", lambda name: object())
    assert [(file.name, file.format) for file in scan(root).files] == [("a.heic", "heic"), ("b", "heic")]


def test_names_come_in_an_order_and_with_folders_that_are_empty(write: Callable[..., Path]) -> None:
    root = write({"b/a.jpg": b"", "b.jpg": b"", "a-b/c.jpg": b"", "a/z.jpg": b"", "a/é/1.jpg": b""})
    (root / "empty" / "inner").mkdir(parents=True)
    found = scan(root, also=[".csv"])
    assert [file.name for file in found.files] == ["a/z.jpg", "a/é/1.jpg", "a-b/c.jpg", "b/a.jpg", "b.jpg"]
    assert found.folders == ["a", "a/é", "a-b", "b", "empty", "empty/inner"]
    (root / "t.CSV").touch()
    assert scan(root, also=[".csv"]).files[-1].path == root / "t.CSV"


def test_a_folder_that_cannot_be_read_is_named(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"cat/a.jpg": b""})
    listed = os.scandir

    def refuse(folder: Path) -> Any:
        if folder.name == "cat":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    with monkeypatch.context() as patched:  # not while pytest removes the folder
        patched.setattr(os, "scandir", refuse)
        with pytest.raises(InputError, match=r"root/cat cannot be read \(Permission denied\); fix that, or move it"):
            scan(root)


def test_unfinished_sets_are_counted_with_the_prepared_ones(write: Callable[..., Path]) -> None:
    root = write({"cat/a.jpg": b"", ".out.partial/set/train/a.tar": b"", ".out.replaced/a.jpg": b"", ".git/a.jpg": b""})
    assert scan(root).left_out_below() == {"prepared sets": 2, "hidden folders": 1}
