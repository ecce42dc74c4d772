"""Names of files: hidden ones, suffixes, names that are no text, and counts of them in words."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.common.manifest import MANIFEST
from data_pipelines.common.message_parts import counted
from data_pipelines.common.path_text import path_of, text_of
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.image_files.folder_scan import is_hidden, scan, suffix_of
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare


@pytest.mark.parametrize(
    "name", ["a.jpg", "_none", "#1", "#", "@home", "a~b", "icon", "thumbs", "recycled", "a/./b", ""]
)
def test_ordinary_names_are_not_hidden(name: str) -> None:
    assert not is_hidden(name)


def test_names_are_text_and_lead_back() -> None:
    for encoded in (b"a/b.jpg", "é日本.jpg".encode(), b"\xff\xfe.jpg"):
        text = text_of(os.fsdecode(encoded))
        assert text == encoded.decode(errors="surrogateescape")
        assert os.fsencode(path_of(text)) == encoded


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a/b.JPG", ".jpg"),
        ("a.b/c", ""),
        (".jpg", ""),
        ("1.2.840.78", ""),
        ("a.mp4", ".mp4"),
        ("a.", ""),
        ("v1. b", ""),
    ],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


def test_counts_in_words() -> None:
    assert counted({".mov": 2, "dead links": 2, ".txt": 1200}) == ".txt (1,200), .mov (2), dead links (2)"


def test_prepared_sets_are_passed_over_where_no_tars_are_read(class_folders: Callable[..., Path]) -> None:
    root = class_folders()
    for out in (root / "prepared", root / "cat" / "prepared"):
        prepare(image_folder(root, 0, 0), Output(out))
        shutil.copy(root / "cat" / "0.png", out / "example.png")
    (root / "dog" / MANIFEST).write_text('{"name": "of another program"}')
    found = scan(root)
    assert [file.name for file in found.files] == [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(6)]
    assert found.folders == ["cat", "dog"]
    assert found.left_out_below() == {"prepared sets": 2, ".json": 1}
    assert not any("prepared/" in file.name for file in scan(root, also=(".tar",)).files)
    assert any("prepared/" in file.name for file in scan(root, also=(".tar",), takes_sets=True).files)
