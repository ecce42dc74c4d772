"""Tables as spreadsheets and scripts write them: read right, or refused with what mends it."""

import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.path_text import path_of
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.user_images import csv_table

UNCARVED = {"val_fraction": 0, "test_fraction": 0}
Write = Callable[..., tuple[Path, Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a table, and an empty file for each name given; returns root and table."""

    def create(content: str | bytes, names: Sequence[str] = ("a.jpg", "b.jpg")) -> tuple[Path, Path]:
        for name in names:
            path = tmp_path / "root" / path_of(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        table = tmp_path / "my table.csv"
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "root", table

    return create


def read(root: Path, table: Path, **options: Any) -> RawSet:
    return csv_table(root, table, **({"label_column": "label"} | UNCARVED | options))


def labels_of(raw: RawSet) -> list[tuple[str, str]]:
    return [(image.key, raw.classes[int(image.label)]) for image in raw.images]


TABLES: dict[str, str | bytes] = {
    "commas": "path,label\na.jpg,ä\nb.jpg,dog\n",
    "semicolons": "path;label\na.jpg;ä\nb.jpg;dog\n",
    "tabs": "path\tlabel\na.jpg\tä\nb.jpg\tdog\n",
    "bars": "path|label\na.jpg|ä\nb.jpg|dog\n",
    "mark": "\ufeffpath,label\r\na.jpg,ä\r\nb.jpg,dog\r\n",
    "utf-16": "path\tlabel\r\na.jpg\tä\r\nb.jpg\tdog\r\n".encode("utf-16"),
    "utf-16 of a Mac": b"\xfe\xff" + "path;label\na.jpg;ä\nb.jpg;dog\n".encode("utf-16-be"),
    "carriage returns": "path,label\ra.jpg,ä\rb.jpg,dog\r",
    "said separator": "sep=;\r\npath;label\r\na.jpg;ä\r\nb.jpg;dog\r\n",
    "rare separator": "sep=#\npath#label\na.jpg#ä\nb.jpg#dog\n",
    "empty rows": "\n;;\npath;label;\n;;\na.jpg;ä;\n;;;;\nb.jpg;dog;\n;;\n",
    "empty columns": "path,label,,\na.jpg,ä,,\nb.jpg,dog,,,,\n",
    "index of pandas": ",path,label\n0,a.jpg,ä\n1,b.jpg,dog\n",
    "quotes": '"path","label"\n"a.jpg","ä"\n"b.jpg","dog"\n',
    "spaces": "path , label\n a.jpg, ä \nb.jpg ,dog\n",
    "other columns twice": "x,path,label,x\n1,a.jpg,ä,2\n1,b.jpg,dog,2\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_all_programs(name: str, write: Write) -> None:
    raw = read(*write(TABLES[name]))
    assert labels_of(raw) == [("a_jpg", "ä"), ("b_jpg", "dog")]
    assert raw.notes == ()
    assert (raw.is_user_set, raw.upright) == (True, True)


def test_lines_are_those_of_the_file(write: Write) -> None:
    for content in (
        "path,label\n\na.jpg,x\nb.jpg,\n",
        "sep=,\npath,label\na.jpg,x\nb.jpg,\n",
        "\n,\npath,label\nb.jpg,\n",
    ):
        with pytest.raises(InputError, match="line 4 has no 'label'"):
            read(*write(content))


def test_a_separator_within_cells(write: Write) -> None:
    raw = read(*write("path;label\na.jpg;cat, big\nb.jpg;cat, small\n"))
    assert raw.classes == ("cat, big", "cat, small")


NO_TABLES = {
    b"PK\3\4\x14\0": "is an Excel or LibreOffice workbook; save it as CSV",
    b"\xd0\xcf\x11\xe0\xa1\xb1": "is an Excel workbook; save it as CSV",
    b"\x1f\x8b\x08": "is compressed",
    b"\n\n": "is empty; its first row must name the columns",
    b"path,label\na.jpg\n": r"line 2 has 1 cells, the first has 2",
    b"path,label\na.jpg,x,y\n": r"line 2 has 3 cells, the first has 2",
    b"path;lable\na.jpg;x\n": "has no column 'label'; did you mean 'lable'",  # codespell:ignore lable
}


@pytest.mark.parametrize("content", NO_TABLES)
def test_what_is_no_table_is_named(content: bytes, write: Write) -> None:
    with pytest.raises(InputError, match=NO_TABLES[content]):
        read(*write(content))


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("path,label\na.jpg,ä\nb.jpg,dog\n", "cp1252"),
        ("path,label,größe\na.jpg,ä,1\nb.jpg,dog,2\n", "latin-1"),
        ("path,label\na.jpg,ä\nb.jpg,dog\n", "utf-16-le"),
        ("path,label\na.jpg,ä\nb.jpg,dog\n", "utf-16-be"),
    ],
)
def test_other_encodings_are_refused_with_a_mending_command(write: Write, content: str, encoding: str) -> None:
    root, table = write(content.encode(encoding))
    with pytest.raises(InputError, match=r"save it with the encoding UTF-8 .*or convert it: iconv -f") as error:
        read(root, table)
    subprocess.run(["bash", "-c", str(error.value).partition("convert it: ")[2]], check=True)
    assert labels_of(read(root, table.with_name("my table-utf8.csv"))) == [("a_jpg", "ä"), ("b_jpg", "dog")]


def test_a_column_that_is_no_text_is_refused_for_its_encoding(write: Write) -> None:
    root, table = write("path,größe\na.jpg,x\nb.jpg,y\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text; save it"):
        read(root, table, label_column="größe")


MISSING = [
    "nan", "NaN", "-nan", "None", "NONE", "null", "NA", "n/a", "#N/A", "<NA>", "-", "--", "NaT", "\\N", "nil", "#REF!",
    "#DIV/0!", ".",
]  # fmt: skip


@pytest.mark.parametrize("word", MISSING)
def test_words_for_nothing_are_refused_in_all_columns_alike(word: str, write: Write) -> None:
    row = {"path": "b.jpg", "label": "dog", "patient": "q", "site": "north"}
    options = {"patient_column": "patient", "fact_columns": ("site",)}
    for column in ("label", "patient", "site"):
        cells = ",".join((row | {column: word}).values())
        root, table = write(f"path,label,patient,site\na.jpg,cat,p,\n{cells}\n")
        with pytest.raises(InputError, match=rf"line 3: '{column}' is .*; (fill|leave) it.*with --literal-nan"):
            read(root, table, **options)
        raw = read(root, table, literal_nan=True, **options)
        assert raw.num_images == 2
        assert word in {"label": raw.classes, "patient": [word], "site": raw.images[1].facts.values()}[column]
    root, table = write(f"path,label,split\na.jpg,cat,train\nb.jpg,dog,{word}\n")
    with pytest.raises(InputError, match="line 3: 'split' is"):
        read(root, table, split_column="split")
    root, table = write(f"path,A\na.jpg,1\nb.jpg,{word}\n")
    with pytest.raises(InputError, match=r"line 3: 'A' is .*must be 1, 0, or blank or -1"):
        read(root, table, label_column=None, label_columns=("A",))


def test_blanks_mean_what_they_meant(write: Write) -> None:
    root, table = write("path,label,patient,site\na.jpg,cat,p,\nb.jpg,dog,,x\n")
    raw = read(root, table, patient_column="patient", fact_columns=("site",), split_by="image")
    assert [dict(image.facts) for image in raw.images] == [{}, {"site": "x"}]
    assert raw.images[1].group == -1
    root, table = write("path,label\na.jpg,cat\nb.jpg,\n")
    for literal in (False, True):
        with pytest.raises(InputError, match="line 3 has no 'label'; fill it, or leave the image out"):
            read(root, table, literal_nan=literal)


@pytest.mark.parametrize("column", ["label", "patient"])
def test_a_number_written_in_two_ways_is_refused(column: str, write: Write) -> None:
    first, second = {"label": ("1,p", "1.0,q"), "patient": ("x,17", "y,17.0")}[column]
    root, table = write(f"path,label,patient\na.jpg,{first}\nb.jpg,{second}\n")
    with pytest.raises(InputError, match=f"line 3: '{column}' is a number with a point that line 2 has without one"):
        read(root, table, patient_column="patient")
    root, table = write("path,label,patient\na.jpg,1.0,p\nb.jpg,2.0,q\n")
    assert read(root, table, patient_column="patient").classes == ("1.0", "2.0")


def test_paths_as_tables_of_other_machines_have_them(write: Write) -> None:
    composed, parted = (unicodedata.normalize(form, "Ärzte/é") for form in ("NFC", "NFD"))
    names = [f"{parted}1.jpg", f"x{composed}2.jpg", "cat/a.JPG", "cat/b.jpg", "dog/c.jpg", "cat\\d.jpg"]
    cells = [f"{composed}1.jpg", f"x{parted}2.jpg", "cat/a.jpg", "cat\\b.jpg", "{root}/dog/c.jpg", "cat\\d.jpg"]
    keys = [f"{composed}1_jpg", f"x{parted}2_jpg", "cat/a_jpg", "cat/b_jpg", "dog/c_jpg", "cat\\d_jpg"]
    root, table = write("", names)
    write("path,label\n" + "".join(f"{cell},x\n" for cell in cells).format(root=root))
    raw = read(root, table)
    assert [image.image for image in raw.images] == [root / name for name in names]
    assert [image.key for image in raw.images] == keys
    assert raw.notes[1:] == (
        "files that my table.csv names with \\ for /, and that were found: 1",
        "files that my table.csv names in another Unicode form than they have, and that were found: 2",
        "files that my table.csv names with a suffix in other letters, such as .JPG for .jpg, and that were found: 1",
    )


def test_absolute_paths_below_a_link_to_the_root(write: Write, tmp_path: Path) -> None:
    root, table = write("", ["a.jpg", "b.jpg"])
    link = tmp_path / "link"
    link.symlink_to(root)
    write(f"path,label\n{root}/a.jpg,x\n{link}/b.jpg,x\n")
    raw = read(link, table)
    assert [image.key for image in raw.images] == ["a_jpg", "b_jpg"]


@pytest.mark.parametrize("cell", ["/elsewhere/a.jpg", "C:\\films\\a.jpg", "\\\\server\\films\\a.jpg", "..\\a.jpg"])
def test_paths_of_other_places_are_refused(cell: str, write: Write) -> None:
    with pytest.raises(InputError, match=r"line 2: .* is not a path below --root; make it relative to that folder"):
        read(*write(f"path,label\n{cell},x\n"))


def test_one_file_by_two_names_is_refused(write: Write) -> None:
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    root, table = write("".join(["path,label\n", *(f"{name},x\n" for name in names)]), names[:1])
    with pytest.raises(InputError, match=r"line 3 names .* again, after line 2"):
        read(root, table)
    root, table = write("".join(["path,label\n", *(f"{name},x\n" for name in names)]), names)
    assert read(root, table).num_images == 2


def test_names_that_are_ambiguous_are_missing(write: Write) -> None:
    root, table = write("path,label\na.Jpg,x\n", ["a.jpg", "a.JPG"])
    with pytest.raises(InputError, match="1 of 1 images are missing"):
        read(root, table)


@pytest.mark.parametrize("cell", [b"K\xfc/a.jpg", "Kü/a.jpg".encode()])
def test_files_whose_names_are_no_text(cell: bytes, write: Write) -> None:
    """By their bytes, as `ls` writes them, or converted to UTF-8."""
    try:
        root, table = write(b"path,label\n" + cell + b",x\n", ["K\udcfc/a.jpg"])
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    raw = read(root, table)
    assert raw.images[0].image == root / path_of("K\udcfc/a.jpg")
    with pytest.raises(InputError, match="line 2: 'path' is not UTF-8 text; save it"):
        read(*write(b"path,label\nK\xfc/b.jpg,x\n"))


def test_classes_that_may_be_one_are_noted(write: Write) -> None:
    raw = read(*write("path,label\na.jpg,Cat\nb.jpg,cat\n"))
    assert "classes that differ only in capital and small letters: 'Cat', 'cat'; are they one?" in raw.notes


def test_names_without_their_suffix_are_explained(write: Write) -> None:
    with pytest.raises(InputError, match=r"must end as its file does: is 'x/a\.b\.jpg' meant\?"):
        read(*write("path,label\nx/a.b,cat\n", names=("x/a.b.jpg",)))
