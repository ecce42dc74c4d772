"""Parquet files: images and labels as stored, splits by name, and what is refused."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.parquet import parquet


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(
    path: Path, labels: Sequence[Any], names: Sequence[str] = (), images: Sequence[Any] | None = None, **options: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = images or [{"bytes": picture(number), "path": f"{number}.jpg"} for number in range(len(labels))]
    table = pa.table({"image": rows, "label": list(labels)})
    if names:
        stored = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(stored)})
    pq.write_table(table, path, **options)


def test_images_and_labels_are_those_of_the_rows(tmp_path: Path) -> None:
    labels = [number % 3 for number in range(200)]  # more rows than are read at once, in several row groups
    write(tmp_path / "data" / "train-00000-of-00001.parquet", labels, ("cat", "dog", "eel"), row_group_size=70)
    raw = parquet(tmp_path, val_fraction=0.2, test_fraction=0)
    images = list(raw.images)
    assert raw.classes == ("cat", "dog", "eel")
    assert [image.label for image in images] == labels
    assert [image.read() for image in images] == [picture(number) for number in range(200)]
    assert {image.split for image in images} == {"train", "val"}
    assert len({image.key for image in images}) == raw.num_images == 200


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet"),
        ("default/partial-train/0000.parquet", "default/validation/0000.parquet"),
    ],
)
def test_splits_are_those_of_hubs(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        write(tmp_path / name, [0, 1] * 20)
    raw = parquet(tmp_path, test_fraction=0)
    assert [image.split for image in raw.images] == ["train"] * 40 + ["val"] * 40


def test_a_secret_test_split_is_left_out(tmp_path: Path) -> None:
    """ImageNet-1k's has the label -1 in every row; a test split is then carved out of train."""
    write(tmp_path / "train.parquet", [0, 1] * 200)
    write(tmp_path / "test.parquet", [-1] * 7)
    raw = parquet(tmp_path, test_fraction=0.1)
    images = list(raw.images)
    assert len(images) == raw.num_images == 400
    assert {image.split for image in images} == {"train", "val", "test"}
    assert raw.left_out == {"images whose label is -1": 7}


def test_rows_without_a_label_keep_the_places_of_others(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [0, -1, 1, -1, 0])
    assert [image.key[-7:] for image in parquet(tmp_path).images] == ["0000000", "0000002", "0000004"]


def test_classes_are_names_numbers_or_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.parquet", ["dog", "cat", "dog"])
    named = parquet(tmp_path / "a")
    assert (named.classes, [image.label for image in named.images]) == (("cat", "dog"), [1, 0, 1])
    write(tmp_path / "b" / "x.parquet", [0, 3])
    assert parquet(tmp_path / "b").classes == ("0", "1", "2", "3")
    (tmp_path / "names").write_text("one\ntwo\nthree\nfour\n")
    assert parquet(tmp_path / "b", classes_file=tmp_path / "names").classes == ("one", "two", "three", "four")
    (tmp_path / "names").write_text("one\ntwo\nthree\n")
    with pytest.raises(InputError, match=r"x\.parquet, row 1: its label 3 is none of the 3 classes"):
        list(parquet(tmp_path / "b", classes_file=tmp_path / "names").images)


def test_stored_names_that_are_not_unique_are_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [0, 1], ("crane", "crane"))
    assert parquet(tmp_path).classes == ("0", "1")


@pytest.mark.parametrize("stored", ["{", "[]", pytest.param("[" * 20_000, id="too deep")])
def test_what_does_not_store_names_is_not_taken(stored: str, tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": picture(0)}, {"bytes": picture(1)}], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": stored}), tmp_path / "x.parquet")
    assert parquet(tmp_path).classes == ("0", "1")


def test_other_columns_can_be_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": [picture(1)], "cls": [0]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"no column 'image'; name one of these with --image-column: jpg \(binary\)"):
        parquet(tmp_path)
    assert [image.read() for image in parquet(tmp_path, "jpg", "cls").images] == [picture(1)]


@pytest.mark.parametrize(
    ("labels", "images", "message"),
    [
        ([0], ["https://example.org/0.jpg"], "holds string, not encoded images; if these are addresses"),
        ([0], [{"bytes": None, "path": "0.jpg"}, {"bytes": b"", "path": ""}][:1], "holds null, not encoded images"),
        ([0.5], None, "holds double, and must hold one class number or name"),
        ([[0, 1]], None, "holds list<"),
        ([0, None], None, "row 1: its label is missing"),
        ([-2], None, "label -2; class numbers count from 0"),
        ([-1, -1], None, "holds no image with a label"),
    ],
)
def test_other_contents_are_refused(labels: list[Any], images: list[Any] | None, message: str, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", labels, images=images)
    with pytest.raises(InputError, match=message):
        list(parquet(tmp_path).images)


def test_a_name_without_its_image_is_refused(tmp_path: Path) -> None:
    rows = [{"bytes": picture(0), "path": "0.jpg"}, {"bytes": None, "path": "1.jpg"}]
    write(tmp_path / "x.parquet", [0, 1], images=rows)
    with pytest.raises(InputError, match=r"row 1 holds no image, only the name '1\.jpg'"):
        list(parquet(tmp_path).images)


def test_numbers_and_names_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [0])
    write(tmp_path / "b.parquet", ["dog"])
    with pytest.raises(InputError, match="labels are numbers in some files, names in others"):
        parquet(tmp_path)


@pytest.mark.parametrize("kept", [-20, 100, 0])
def test_a_file_cut_off_is_named(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, [0, 1] * 50)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"x\.parquet is cut off, damaged, or no Parquet file"):
        parquet(tmp_path)


def test_parts_are_files(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.parquet", [0, 1] * 5)
    raw = parquet(tmp_path)
    assert raw.part is not None
    parts = [[image.key for image in raw.part(number, 2)] for number in range(2)]
    assert list(map(len, parts)) == [20, 10]
    assert sorted(parts[0] + parts[1]) == sorted(image.key for image in raw.images)


def test_a_label_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, ["abcdefgh", "abcdefgi"], compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcd\xff\xfegh"))
    with pytest.raises(InputError, match=r"x\.parquet is cut off, damaged, or no Parquet file"):
        parquet(tmp_path)
