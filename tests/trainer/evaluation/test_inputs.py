"""What is to be predicted: the files that `prepare` would take, and what is left out, counted."""

import io
import os
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.user_images import image_folder
from trainer.evaluation.predicting.inputs import Inputs, inputs_of


def picture(file_format: str = "PNG", frames: int = 1) -> bytes:
    images = [Image.new("RGB", (8, 8), (60 * number, 20, 30)) for number in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, file_format, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
    return buffer.getvalue()


FILES = {
    "a.JPG": b"damaged",
    "b.gif": picture("GIF"),
    "c.jfif": picture("JPEG"),
    "d": picture("JPEG"),
    "e.gif": picture("GIF", 2),
    "f.mov": b"\0\0\0\x14ftypqt  ",
    "g.nef": b"II*\0",
    "IM0001": bytes(128) + b"DICM",
    "._a.jpg": b"AppleDouble",
    "notes": b"text",
}
TAKEN = ["IM0001", "a.JPG", "b.gif", "c.jfif", "d"]
LEFT_OUT = {
    "GIFs of several frames": 1, ".mov": 1, ".nef": 1, "hidden files": 1,
    "files without a suffix that are not pictures": 1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all kinds in the folder of a class."""
    for name, content in FILES.items():
        path = tmp_path / "root" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "root"


def names_of(inputs: Inputs) -> list[str]:
    return [item.name for item in inputs.each]


def test_a_folder_gives_what_prepare_takes(folder: Path) -> None:
    (folder / "cat" / "@eaDir").mkdir()
    (folder / "cat" / "loop").symlink_to(folder)
    raw = image_folder(folder, split_by="image")
    inputs = inputs_of(folder)
    assert names_of(inputs) == [f"cat/{name}" for name in TAKEN]
    assert [image.image.relative_to(folder).as_posix() for image in raw.images] == [f"cat/{name}" for name in TAKEN]
    assert inputs.left_out == raw.left_out == LEFT_OUT | {"hidden folders": 1, "links to a folder above them": 1}


@pytest.mark.parametrize("suffix", [".tar", ".TAR"])
def test_members_of_tars_are_taken_by_their_contents(folder: Path, tmp_path: Path, suffix: str) -> None:
    tar = tmp_path / "shards" / f"0{suffix}"
    tar.parent.mkdir()
    with tarfile.open(tar, "w") as file:
        for name in sorted(FILES):
            file.add(folder / "cat" / name, f"./ü/{name}")
        for name in ("a.json", "a.cls", "a.txt"):
            file.addfile(tarfile.TarInfo(name))
    for source in (tar, tar.parent):
        inputs = inputs_of(source)
        items = list(inputs.each)
        assert [item.name for item in items] == [f"{tar.name}:./ü/{name}" for name in TAKEN]
        assert [item.read() for item in items] == [FILES[name] for name in TAKEN]
        assert inputs.left_out == LEFT_OUT


def test_a_table_of_any_program_gives_a_row_for_each(folder: Path) -> None:
    composed, parted = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    (folder / parted).write_bytes(b"parted")
    names = ["cat\\a.jpg", str(folder / "cat" / "d"), composed, "", "nan", "absent, or so.jpg", "../root/cat/d"]
    table = folder / "t.csv"
    table.write_bytes("\n".join(["Datei ;x", *(f" {name};1" for name in names), ";", ""]).encode("utf-16"))
    inputs = inputs_of(table, "Datei")
    items = list(inputs.each)
    assert [item.name for item in items] == names
    assert [items[number].read() for number in (0, 1, 2, 6)] == [b"damaged", FILES["d"], b"parted", FILES["d"]]
    assert len(inputs.notes) == 3
    with pytest.raises(ValueError, match="line 5 of the table names no file"):
        items[3].read()
    for number in (4, 5):
        with pytest.raises(FileNotFoundError):
            items[number].read()


def test_a_list_of_files_is_a_table_of_one_column(tmp_path: Path) -> None:
    names = ["cat, small; or so.jpg", "dog.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "t.tsv").write_text("\n".join(["path", *names]))
    assert [item.read() for item in inputs_of(tmp_path / "t.tsv").each] == [name.encode() for name in names]


def test_mistakes_in_tables_are_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    (tmp_path / "a.jpg").touch()
    for content, message in (
        (b"PK\3\4", "is an Excel or LibreOffice workbook"),
        (b"file\na.jpg\n", "has no column 'path'; known: file; name it with --path-column"),
        (b"path,\xe4\na.jpg,\n", None),
        (b"\n", "is empty"),
    ):
        table.write_bytes(content)
        if message is None:
            assert names_of(inputs_of(table)) == ["a.jpg"]
        else:
            with pytest.raises(InputError, match=message):
                inputs_of(table)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xfc.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert names_of(inputs_of(tmp_path)) == ["\udcfc.jpg"]
    assert names_of(inputs_of(tmp_path / os.fsdecode(b"\xfc.jpg"))) == ["\udcfc.jpg"]
