"""Pictures that are equal byte for byte are told of where they may mislead, and dropped where that is asked for."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.hashes import hash_blocks, hash_bytes
from data_pipelines.common.manifest import read_manifest
from data_pipelines.common.raw_set import Member, RawImage, RawSet, Repeatable
from data_pipelines.common.splits import Split
from data_pipelines.datasets.user_images import image_folder
from data_pipelines.preparation.duplicates import without_duplicates
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.shards.index import Index

MakeSet = Callable[..., RawSet]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture(autouse=True)
def three_images_to_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.preparation.shard_records.SHARD_IMAGES", 3)


@pytest.fixture
def make_set(tmp_path: Path, photo: Callable, encode: Callable) -> MakeSet:
    """A function that makes a set of "split number label": a picture of that number. -1 is an empty file."""

    def make(*rows: str, **options: Any) -> RawSet:
        images = []
        for row, words in enumerate(rows):
            split, number, label = words.split()
            path = tmp_path / "raw" / f"{row:02d}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"" if number == "-1" else encode(photo(int(number), 6, 7)))
            images.append(RawImage(f"{row:02d}-{number}", split, path, int(label)))  # type: ignore[arg-type]
        about: dict[str, Any] = {"name": "small", "task": "single_label", "classes": ("cat", "dog"), "source": "drawn"}
        return RawSet(**about | {"images": images, "num_images": len(images), "is_user_set": True} | options)

    return make


def keys_of(folder: Path) -> dict[str, list[str]]:
    """The keys of each split."""
    having = [split for split in SPLITS if read_manifest(folder)["splits"][split]["images"]]
    indexes = {split: Index.load(folder, split) for split in having}
    return {split: index.keys(np.arange(len(index))) for split, index in indexes.items()}


def test_equal_pictures_are_named(make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_set("train 0 0", "train 1 1", "val 2 0", "test 0 0", "val 1 0", "train 3 0", "train 3 1", "train 3 0")
    manifest = prepare(raw, Output(tmp_path / "out"))
    assert manifest
    error = capsys.readouterr().err
    across = "2 pictures are in more than one split, byte for byte, such as "
    differing = "1 picture is in one split with different labels, byte for byte, such as "
    assert sorted(manifest["notes"]) == [f"{differing}05-3 = 06-3", manifest["notes"][0]]
    assert manifest["notes"][0].startswith(across)
    assert {*manifest["notes"][0].removeprefix(across).split(", ")} == {"00-0 = 03-0", "01-1 = 04-1"}
    assert f"{tmp_path / 'raw' / '00.png'} = {tmp_path / 'raw' / '03.png'}" in error
    assert "; --drop-duplicates keeps each once, in test before val before train\n" in error
    assert f"warning: {differing}{tmp_path / 'raw' / '05.png'} = {tmp_path / 'raw' / '06.png'}\n" in error
    assert sum(split["images"] for split in manifest["splits"].values()) == 8


def test_known_sets_keep_their_manifests(make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = prepare(make_set("train 0 0", "test 0 0", is_user_set=False), Output(tmp_path / "out"))
    assert manifest
    assert manifest["notes"] == []
    assert "in more than one split" in capsys.readouterr().err


def test_bad_pictures_and_unlike_ones_are_not_equal(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ("train 0 0", "train -1 1", "test -1 0", "test 1 0", "train 2 0", "train 2 0")
    prepare(make_set(*rows), Output(tmp_path / "out", max_bad=0.5))
    assert "byte for byte" not in capsys.readouterr().err


def test_of_patients_only_keys_are_told(make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_set("train 0 0", "test 0 0", "test 1 0", patients="apart")
    prepare(raw, Output(tmp_path / "out"))
    error = capsys.readouterr().err
    keys = [key for split in keys_of(tmp_path / "out").values() for key in split]
    assert any(f"{keys[0]} = {key}" in error for key in keys)
    assert "raw" not in error


def test_findings_that_are_unknown_to_both_are_the_same(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_set("train 0 0", "train 0 0", "train 1 0", "train 1 0")
    rows = ([1, np.nan], [1, np.nan], [1, np.nan], [1, 0])
    images = [replace(image, label=np.array(row, np.float32)) for image, row in zip(raw.images, rows, strict=True)]
    prepare(replace(raw, images=images, task="multi_label"), Output(tmp_path / "out"))
    assert "1 picture is in one split with different labels" in capsys.readouterr().err


@pytest.mark.parametrize("equal_images", ["pairs", "uniform"])
def test_sets_with_a_rule_of_their_own(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], equal_images: str
) -> None:
    raw = make_set("train 0 0", "train 0 1", "train 1 0", "val 1 0", equal_images=equal_images)
    with pytest.raises(InputError, match="small pairs equal pictures with each of their labels; leave out --drop-dup"):
        prepare(replace(raw, is_user_set=False), Output(tmp_path / "out", drop_duplicates=True))
    prepare(raw, Output(tmp_path / "out", force=True))
    error = capsys.readouterr().err
    assert "1 picture is in more than one split" in error
    assert "different labels" not in error
    assert "--drop-duplicates" not in error


ROWS = ("train 0 0", "val 0 0", "test 0 1", "train 1 0", "val 1 0", "train 2 0", "train 2 0", "train 3 1", "val 4 0")
KEPT = {"test": ["02-0"], "val": ["04-1", "08-4"], "train": ["05-2", "07-3"]}


@pytest.mark.parametrize("order", [*permutations(range(2)), ()])
@pytest.mark.parametrize("listed", [True, False])
def test_each_picture_is_kept_once_in_whatever_parts(
    make_set: MakeSet, tmp_path: Path, order: tuple[int, ...], listed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_set(*ROWS)
    if not listed:
        images = [*raw.images]
        raw = replace(
            raw,
            images=Repeatable(lambda: iter(images)),
            num_images=None,
            part=lambda number, parts: images[number::parts],
        )
    for part in order:
        assert prepare(raw, Output(tmp_path / "out", part=(part, 2), drop_duplicates=True)) is None
    manifest = prepare(raw, Output(tmp_path / "out", drop_duplicates=True))
    assert manifest
    assert {split: sorted(keys) for split, keys in keys_of(tmp_path / "out").items()} == KEPT
    assert manifest["left_out"] == {"duplicates": 4}
    assert manifest["notes"] == [
        "of the pictures that are dropped, 2 had another label than the equal one that is kept"
    ]
    error = capsys.readouterr().err
    assert f"note: left out{', beside 5 images' if listed else ''}: duplicates (4)\n" in error
    assert "byte for byte" not in error


def test_changes_between_two_starts_alone_are_read_again(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: Callable, photo: Callable
) -> None:
    raw, reads = make_set(*ROWS), []
    prepare(raw, Output(tmp_path / "out", part=(0, 2), drop_duplicates=True))
    (tmp_path / "raw" / "02.png").write_bytes(encode(photo(9, 6, 7)))
    blocks = RawImage.blocks
    monkeypatch.setattr(RawImage, "blocks", lambda image: (reads.append(image.key), blocks(image))[1])
    without_duplicates(raw, tmp_path / ".out.partial")
    assert reads == ["02-0"]
    prepare(raw, Output(tmp_path / "out", drop_duplicates=True))
    expected = KEPT | {"val": ["01-0", "04-1", "08-4"]}
    assert {split: sorted(keys) for split, keys in keys_of(tmp_path / "out").items()} == expected


def test_empty_and_missing_files_are_no_pictures_to_be_dropped(make_set: MakeSet, tmp_path: Path) -> None:
    raw = make_set("train 0 0", "train -1 0", "train -1 0", "train 1 0", "train 2 0")
    for name in ("03.png", "04.png"):
        (tmp_path / "raw" / name).unlink()
    manifest = prepare(raw, Output(tmp_path / "out", max_bad=0.9, drop_duplicates=True))
    assert manifest
    assert (manifest["quarantined"], "left_out" in manifest) == (4, False)


def test_the_choice_is_part_of_an_interrupted_preparation(make_set: MakeSet, tmp_path: Path) -> None:
    raw = make_set(*ROWS)
    prepare(raw, Output(tmp_path / "out", part=(0, 2)))
    with pytest.raises(InputError, match="interrupted preparation with other drop duplicates; go on"):
        prepare(raw, Output(tmp_path / "out", drop_duplicates=True))


def test_equal_keys_are_refused_before_anything_is_dropped(make_set: MakeSet, tmp_path: Path) -> None:
    raw = make_set("train 0 0", "train 1 0")
    twice = [replace(image, key="same") for image in raw.images]
    for images in (twice, Repeatable(lambda: iter(twice))):
        with pytest.raises(InputError, match="two images have the key 'same'; rename one of the files"):
            prepare(replace(raw, images=images, num_images=None), Output(tmp_path / "out", drop_duplicates=True))
        shutil.rmtree(tmp_path / ".out.partial", ignore_errors=True)


def test_classes_that_train_loses_are_named(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_set(
        "train 0 0", "train 1 1", "test 1 1", "train 2 2", "val 2 2", "val 3 3", classes=("a", "b", "c", "d")
    )
    lost = "all images of train were dropped, as equal ones are kept in test or val, of: b, c"
    manifest = prepare(raw, Output(tmp_path / "out", drop_duplicates=True))
    assert manifest
    assert lost in manifest["notes"]
    assert f"note: {lost}\n" in capsys.readouterr().err
    findings = [replace(image, label=np.eye(4, dtype=np.float32)[image.label]) for image in raw.images]
    raw = replace(raw, images=findings, task="multi_label")
    (tmp_path / "other").mkdir()
    assert without_duplicates(raw, tmp_path / "other").notes == (lost,)


def test_what_is_known_is_sorted_once(make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, sorts, argsort = make_set(*ROWS), [], np.argsort
    without_duplicates(raw, tmp_path)
    monkeypatch.setattr("data_pipelines.preparation.duplicates.BLOCK", 2)
    monkeypatch.setattr(np, "argsort", lambda *args, **options: (sorts.append(args), argsort(*args, **options))[1])
    without_duplicates(raw, tmp_path)
    assert len(sorts) == 1


def test_files_of_a_named_set_are_not_read_by_another_command(
    make_set: MakeSet,
    tmp_path: Path,
    prepare_untidily: Callable[[RawSet, Output], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = make_set(*ROWS)
    prepare_untidily(raw, Output(tmp_path / "out"))
    monkeypatch.setattr("data_pipelines.preparation.prepare_set.without_duplicates", None)  # it would fail
    with pytest.raises(InputError, match="exists; replace it with --force"):
        prepare(raw, Output(tmp_path / "out", drop_duplicates=True))


def test_files_are_hashed_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.common.raw_set.BLOCK_BYTES", 4)
    (tmp_path / "file").write_bytes(b"0123456789")
    places = (
        tmp_path / "file",
        Member(tmp_path / "file", "inside", 1, 6),
        b"012345",
        Member(tmp_path / "file", "", 8, 9),
    )
    blocks = [[*RawImage("key", "train", place, 0).blocks()] for place in places]
    assert blocks == [[b"0123", b"4567", b"89"], [b"1234", b"56"], [b"012345"], [b"89"]]
    assert hash_blocks(blocks[1]) == hash_bytes(b"123456")


def test_a_folder_by_hand(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    root = class_folders()
    shutil.copy(root / "cat" / "0.png", root / "dog" / "copy.png")
    manifest = prepare(image_folder(root, 0, 0), Output(tmp_path / "out", drop_duplicates=True))
    assert manifest
    assert manifest["left_out"] == {"duplicates": 1}
    assert manifest["splits"]["train"]["images"] == 12
