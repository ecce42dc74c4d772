"""Flowers and pets: which file has which label and split, and what is said of tables that do not fit."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from data_pipelines import prepare
from data_pipelines.common.errors import InputError
from data_pipelines.datasets import oxford
from data_pipelines.datasets.oxford import flowers102, pets

FLOWER_LABELS = [3, 1, 2, 1, 3, 2, 1, 2, 3, 3]
FLOWER_SPLITS = {"trnid": [10, 2, 3], "valid": [1, 4, 6], "tstid": [5, 7, 8, 9]}
BREEDS = ("Abyssinian", "american_bulldog", "Egyptian_Mau")


def write_tables(root: Path, labels: list[int], **splits: list[int]) -> None:
    scipy.io.savemat(root / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    scipy.io.savemat(root / "setid.mat", {name: np.array([ids], dtype=np.uint16) for name, ids in splits.items()})


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    (tmp_path / "jpg").mkdir()
    for number in range(1, 11):
        (tmp_path / "jpg" / f"image_{number:05d}.jpg").write_bytes(b"flower %d" % number)
    write_tables(tmp_path, FLOWER_LABELS, **FLOWER_SPLITS)
    return tmp_path


def test_flowers_are_split_as_their_owner_says(flowers: Path) -> None:
    raw = flowers102(flowers)
    assert raw.classes == ("1", "2", "3")
    assert (raw.num_images, raw.expected_images) == (10, 8189)
    splits = {"trnid": "train", "valid": "val", "tstid": "test"}
    expected = {
        f"image_{number:05d}_jpg": (splits[name], FLOWER_LABELS[number - 1] - 1, b"flower %d" % number)
        for name, numbers in FLOWER_SPLITS.items()
        for number in numbers
    }
    assert {image.key: (image.split, image.label, image.read()) for image in raw.images} == expected


def test_flowers_of_the_papers_authors(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They train on the list that its owner tests on, and test on the other two."""
    monkeypatch.setattr(oxford, "FLOWER_LISTS", {"trnid": 3, "valid": 3, "tstid": 4})
    raw = flowers102(flowers, split="authors")
    places = {image.key: image.split for image in raw.images}
    tested = {f"image_{number:05d}_jpg" for number in FLOWER_SPLITS["trnid"] + FLOWER_SPLITS["valid"]}
    assert {key for key, split in places.items() if split == "test"} == tested
    assert {key for key, split in places.items() if split == "train"} == places.keys() - tested
    assert len(places) == 10
    assert raw.split == "authors"
    assert "official test list" in raw.notes[0]
    official = flowers102(flowers)
    assert (official.split, official.notes) == (None, ())
    assert {image.key: image.label for image in raw.images} == {image.key: image.label for image in official.images}


def test_the_authors_split_is_of_oxfords_lists(flowers: Path) -> None:
    message = (
        r"setid.mat has other lists than Oxford's \(trnid 3, valid 3, tstid 4; Oxford's: trnid 1,020, valid 1,020, "
    )
    with pytest.raises(InputError, match=f"{message}tstid 6,149.*or take --split official"):
        flowers102(flowers, split="authors")


def test_the_split_stands_in_the_manifest(
    flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(oxford, "FLOWER_LISTS", {"trnid": 3, "valid": 3, "tstid": 4})
    for path in (flowers / "jpg").glob("*.jpg"):
        Image.fromarray(np.full((8, 8, 3), int(path.stem[-2:]), np.uint8)).save(path)
    for arguments, counts in (((), (3, 3, 4)), (("--split", "authors"), (4, 0, 6))):
        out = tmp_path / f"out{len(arguments)}"
        monkeypatch.setattr(
            sys, "argv", ["prepare", "flowers102", "--root", str(flowers), "--out", str(out), *arguments]
        )
        prepare.main()
        manifest = json.loads((out / "manifest.json").read_text())
        assert tuple(manifest["splits"][split]["images"] for split in ("train", "val", "test")) == counts
        assert manifest.get("split") == (arguments[1] if arguments else None)
        assert any("official test list" in note for note in manifest["notes"]) == bool(arguments)
    assert "note: trained on the official test list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "splits", "message"),
    [
        (FLOWER_LABELS[:-1], {}, r"setid.mat has 10 image numbers, imagelabels.mat 9 labels"),
        ([*FLOWER_LABELS, 1], {}, r"setid.mat has 10 image numbers, imagelabels.mat 11 labels"),
        (FLOWER_LABELS, {"valid": [1, 4, 10]}, r"each image must be in one split and have a label"),
        ([0, *FLOWER_LABELS[1:]], {}, r"imagelabels.mat has the label 0; they count from 1"),
    ],
)
def test_flower_tables_must_fit(flowers: Path, labels: list[int], splits: dict[str, list[int]], message: str) -> None:
    write_tables(flowers, labels, **FLOWER_SPLITS | splits)
    with pytest.raises(InputError, match=message):
        flowers102(flowers)


def test_missing_flower_files_are_named(flowers: Path) -> None:
    (flowers / "jpg" / "image_00004.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 10 images are missing, the first is .*jpg/image_00004.jpg; see https"):
        flowers102(flowers)
    scipy.io.savemat(flowers / "imagelabels.mat", {"other": [1]})
    with pytest.raises(InputError, match=r"imagelabels.mat is no MATLAB file with a variable 'labels'"):
        flowers102(flowers)
    (flowers / "imagelabels.mat").write_bytes(b"no mat")
    with pytest.raises(InputError, match=r"imagelabels.mat is no MATLAB file"):
        flowers102(flowers)
    scipy.io.savemat(flowers / "imagelabels.mat", {"labels": "text"})
    with pytest.raises(InputError, match=r"imagelabels.mat has no row of numbers under 'labels'"):
        flowers102(flowers)
    (flowers / "imagelabels.mat").unlink()
    with pytest.raises(InputError, match=r"imagelabels.mat is missing: --root must hold jpg"):
        flowers102(flowers)
    (flowers / "jpg").rename(flowers / "other")
    (flowers / "102flowers.tgz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match=r"102flowers.tgz is still packed: tar -xzf 102flowers.tgz, in"):
        flowers102(flowers)


def pet_lines(first: int, last: int) -> list[str]:
    return [f"{breed}_{n} {c} {1 + c % 2} {c}" for c, breed in enumerate(BREEDS, 1) for n in range(first, last)]


@pytest.fixture
def pet_root(tmp_path: Path) -> Path:
    for folder in ("images", "annotations/trimaps"):
        (tmp_path / folder).mkdir(parents=True)
    tables = {"trainval": pet_lines(1, 60), "test": pet_lines(60, 80), "list": ["#Image CLASS-ID SPECIES BREED ID"]}
    for name, lines in tables.items():
        (tmp_path / "annotations" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    for line in tables["trainval"] + tables["test"]:
        stem = line.split()[0]
        (tmp_path / "images" / f"{stem}.jpg").write_bytes(stem.encode())
    for name in ("Abyssinian_1.mat", "._Abyssinian_1.jpg", "Abyssinian_999.jpg"):  # strangers in no table
        (tmp_path / "images" / name).write_bytes(b"stranger")
    return tmp_path


def test_pets_of_the_tables(pet_root: Path) -> None:
    raw = pets(pet_root, val_fraction=0.3)
    assert raw.classes == BREEDS
    assert (raw.num_images, raw.expected_images) == (237, 7349)
    counts = Counter(image.split for image in raw.images)
    assert counts["test"] == 60
    assert 25 < counts["val"] < 85
    for image in raw.images:
        stem = image.read().decode()
        breed, _, number = stem.rpartition("_")
        assert image.key == f"{stem}_jpg"
        assert raw.classes[image.label] == breed
        assert (image.split == "test") == (int(number) >= 60)
    assert {image.split for image in pets(pet_root, val_fraction=0).images} == {"train", "test"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("trainval", "Egyptian_Mau_5 3", "Egyptian_Mau_5 2", r"trainval.txt: the class numbers are not 1, 2, 3"),
        ("trainval", " 3 ", " 4 ", r"trainval.txt: the class numbers are not 1, 2, 3"),
        ("trainval", "Abyssinian_7 1 2 1", "Abyssinian_7", r"trainval.txt: 'Abyssinian_7' is not a line of name"),
        ("trainval", "Abyssinian_7 1", "../secret_7 1", r"trainval.txt: '../secret_7 1 2 1' is not a line of name"),
        ("test", "Abyssinian_70 1", "Abyssinian_70 4", r"test.txt: Abyssinian_70 is of class 4, which trainval.txt"),
        ("test", "Abyssinian_70 1", "Abyssinian_70 2", r"test.txt: Abyssinian_70 is of class 2, which trainval.txt"),
        ("test", "Abyssinian_70 1", "Sphynx_70 1", r"test.txt: Sphynx_70 is of class 1, which trainval.txt"),
    ],
)
def test_pet_tables_must_fit(pet_root: Path, table: str, old: str, new: str, message: str) -> None:
    edit(pet_root / "annotations" / f"{table}.txt", old, new)
    with pytest.raises(InputError, match=message):
        pets(pet_root)


def test_missing_pet_files_are_named(pet_root: Path) -> None:
    few, many = ([pet_root / "images" / f"Abyssinian_{number}.jpg" for number in ids] for ids in ((5,), range(6, 20)))
    remove: Callable[[list[Path]], None] = lambda paths: [path.unlink() for path in paths]  # noqa: E731
    remove(few)
    assert pets(pet_root).num_images == 237  # `prepare` says which
    remove(many)
    with pytest.raises(InputError, match=r"15 of 237 images are missing, the first is .*images/Abyssinian_5.jpg"):
        pets(pet_root)
    (pet_root / "annotations" / "test.txt").unlink()
    with pytest.raises(InputError, match=r"annotations/test.txt is missing: unpack images.tar.gz and annotations"):
        pets(pet_root)
    with pytest.raises(InputError, match=r"--val-fraction is 2"):
        pets(pet_root, val_fraction=2)
