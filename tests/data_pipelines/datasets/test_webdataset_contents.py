"""Members of tars by their contents, what is left out of them, and where tars lie."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dicom_files import dicom_bytes
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.webdataset import webdataset
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare

WriteTar = Callable[..., Path]


def picture(file_format: str, frames: int = 1) -> bytes:
    images = [Image.new("RGB", (8, 8), (60 * number, 20, 30)) for number in range(frames)]
    more: dict[str, Any] = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    buffer = io.BytesIO()
    images[0].save(buffer, file_format, **more)
    return buffer.getvalue()


def names_of(raw: RawSet) -> list[str]:
    return [image.key for image in raw.images]


PICTURES = {
    "bmp": picture("BMP"),
    "tif": picture("TIFF"),
    "jfif": picture("JPEG"),
    "gif": picture("GIF"),
    "jp2": picture("JPEG2000"),
    "avif": picture("AVIF"),
    "webp": picture("WEBP"),
    "img": picture("PNG"),
}


def test_members_are_taken_by_their_contents(tmp_path: Path, write_tar: WriteTar) -> None:
    files = {
        f"{name}.{end}": content for name, image in PICTURES.items() for end, content in ((name, image), ("cls", b"1"))
    }
    write_tar("root/a.tar", files)
    raw = webdataset(tmp_path / "root", val_fraction=0, test_fraction=0)
    assert names_of(raw) == [f"a/{name}" for name in PICTURES]
    assert [image.read() for image in raw.images] == list(PICTURES.values())
    assert (dict(raw.left_out), raw.is_user_set, raw.upright) == ({}, True, True)


def test_samples_without_an_image_are_counted_by_what_they_have(tmp_path: Path, write_tar: WriteTar) -> None:
    files = {
        "a.jpg": b"", "a.cls": b"0", "a.txt": b"a caption, which belongs to an image", "a.gif": picture("GIF"),
        "b.mov": b"\0\0\0\x14ftypqt  ", "b.cls": b"0",
        "c.gif": picture("GIF", 3), "c.cls": b"0",
        "d.txt": b"text", "d.json": b"{}",
        "e.cls": b"0",
        "f.dcm": dicom_bytes(), "f.cls": b"0",
        "g.film": dicom_bytes(), "g.cls": b"0",
        "._a.jpg": b"AppleDouble", "__MACOSX/._a.jpg": b"", ".DS_Store": b"",
        "h": picture("JPEG"),
        "./i/._j.jpg": b"", "./i/j.jpg": b"", "./i/j.cls": b"0",
    }  # fmt: skip
    write_tar("root/a.tar", files)
    (tmp_path / "root" / "names.txt").write_text("cat\n")
    expected = {
        "hidden files": 4, ".mov": 1, "GIFs of several frames": 1, ".txt": 2, ".cls": 1, ".dcm": 1, "DICOM files": 1,
        "files without a suffix": 1,
    }  # fmt: skip
    raw = webdataset(tmp_path / "root")
    assert len(names_of(raw)) == 2
    assert raw.left_out == expected
    assert len(names_of(raw)) == 2
    assert raw.left_out == expected
    later = webdataset(tmp_path / "root", classes_file=tmp_path / "root" / "names.txt")
    assert later.left_out == {".txt": 1}
    manifest = prepare(later, Output(tmp_path / "out", max_bad=1))
    assert manifest is not None
    assert later.left_out == expected


def test_a_second_picture_by_content_is_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar("a.tar", {"0.gif": picture("GIF"), "0.bmp": picture("BMP"), "0.cls": b"0"})
    with pytest.raises(InputError, match=r"0\.bmp is the second image of its sample"):
        webdataset(tmp_path)


@pytest.mark.parametrize("word", ["nan", "None", "NA", "-"])
def test_labels_for_nothing_are_refused(tmp_path: Path, write_tar: WriteTar, word: str) -> None:
    for name, label in (("0.cls", word.encode()), ("0.json", f'{{"label": "{word}"}}'.encode())):
        write_tar("root/a.tar", {"0.jpg": b"", name: label})
        with pytest.raises(InputError, match=r"a.tar:0.jpg: its label is .*leave the sample out, or .*--literal-nan"):
            webdataset(tmp_path / "root")
        assert webdataset(tmp_path / "root", literal_nan=True).classes == (word,)
        (tmp_path / "names").write_text(f"cat\n{word}\n")
        raw = webdataset(tmp_path / "root", classes_file=tmp_path / "names")
        assert [image.label for image in raw.images] == [1]


@pytest.mark.parametrize("label", [b"null", b"NaN"])
def test_labels_of_json_for_nothing_are_refused(tmp_path: Path, write_tar: WriteTar, label: bytes) -> None:
    write_tar("a.tar", {"0.jpg": b"", "0.json": b'{"label": %b}' % label})
    with pytest.raises(InputError, match="is neither a whole number nor a name"):
        webdataset(tmp_path, literal_nan=True)


def test_whole_numbers_may_have_a_point(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(
        "a.tar",
        {"0.jpg": b"", "0.cls": b"10.0", "1.jpg": b"", "1.json": b'{"label": 2.0}', "2.jpg": b"", "2.cls": b"2"},
    )
    assert [image.label for image in webdataset(tmp_path).images] == [10, 2, 2]


def test_names_of_classes_that_are_no_text_stay_apart(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar(
        "a.tar", {"0.jpg": b"", "0.cls": b"K\xfc", "1.jpg": b"", "1.cls": b"K\xf6", "2.jpg": b"", "2.cls": b"k\xf6"}
    )
    raw = webdataset(tmp_path)
    assert raw.classes == ("K\udcf6", "K\udcfc", "k\udcf6")
    assert raw.notes == (
        "classes that differ only in capital and small letters: 'K\\udcf6', 'k\\udcf6'; are they one?",
    )


@pytest.mark.parametrize(
    ("place", "split"),
    [
        ("Train/0.tar", "train"), ("VALID/0.tar", "val"), ("dev/part/0.tar", "val"), ("train_set/test-0.tar", "train"),
        ("x/Testing-0.TAR", "test"), ("trainset.tar", "train"), ("other/training.0.tar", "train"),
    ],
)  # fmt: skip
def test_splits_by_any_common_name(tmp_path: Path, write_tar: WriteTar, place: str, split: str) -> None:
    write_tar("root/train-0.tar", {"first.jpg": b"", "first.cls": b"0"})
    write_tar(f"root/{place}", {"second.jpg": b"", "second.cls": b"0"})
    images = list(webdataset(tmp_path / "root", val_fraction=0, test_fraction=0).images)
    assert [(image.key, image.split) for image in images] == [
        ("train-0/first", "train"),
        (f"{place[:-4].replace('.', '_')}/second", split),
    ]


def test_tars_that_would_be_dropped_are_refused(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar("train/0.tar", {"0.jpg": b"", "0.cls": b"0"})
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "1.tar").touch()
    write_tar("extra/0.tar", {"0.jpg": b"", "0.cls": b"0"})
    with pytest.raises(InputError, match=r"extra/0\.tar names no split, others do"):
        webdataset(tmp_path)
    (tmp_path / "extra" / "0.tar").rename(tmp_path / "extra" / "0.tar.gz")
    with pytest.raises(InputError, match=r"extra/0\.tar\.gz is compressed.*unpack it with gunzip"):
        webdataset(tmp_path)
    (tmp_path / "extra" / "0.tar.gz").rename(tmp_path / "extra" / "0.gz")
    (tmp_path / "a.jpg").touch()
    assert webdataset(tmp_path).left_out == {"hidden folders": 1, ".gz": 1, ".jpg": 1}
