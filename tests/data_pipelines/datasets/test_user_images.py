"""Images of a user in class folders: classes, keys, and splits that stay as files are added."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.common.errors import InputError
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.user_images import image_folder


def splits(root: Path, **fractions: float) -> dict[str, str]:
    return {image.key: image.split for image in image_folder(root, **fractions).images}


@pytest.mark.slow
def test_hashed_split_has_its_size_and_stays_as_files_are_added(touch: Callable[..., Path]) -> None:
    root = touch("cat", [f"{number}.jpg" for number in range(1500)])
    touch("dog", [f"{number}.png" for number in range(1500)])
    before = splits(root, val_fraction=0.1, test_fraction=0.2)
    for name in ("cat", "dog"):
        counts = Counter(split for key, split in before.items() if key.startswith(name))
        assert abs(counts["val"] - 150) < 45
        assert abs(counts["test"] - 300) < 60
        assert counts.total() == 1500
    touch("cat", [f"new-{number}.jpg" for number in range(100)])
    touch("ape")
    after = splits(root, val_fraction=0.1, test_fraction=0.2)
    assert len(after) == 3101
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("left_out", ["val", "test"])
def test_fraction_of_nothing_leaves_a_split_out(touch: Callable[..., Path], left_out: str) -> None:
    root = touch("cat", [f"{number}.jpg" for number in range(200)])
    other = {"val": "test", "test": "val"}[left_out]
    counts = Counter(splits(root, **{f"{left_out}_fraction": 0, f"{other}_fraction": 0.3}).values())
    assert counts[left_out] == 0
    assert 30 < counts[other] < 90
    assert set(splits(root, val_fraction=0, test_fraction=0).values()) == {"train"}


def test_split_folders_are_kept_and_only_the_missing_is_carved(touch: Callable[..., Path]) -> None:
    root = touch("train/cat", [f"{number}.jpg" for number in range(200)])
    touch("valid/cat", [f"{number}.jpg" for number in range(20)])
    counts = Counter((key.split("/")[0], split) for key, split in splits(root).items())
    assert counts[("valid", "val")] == 20
    assert counts[("train", "val")] == 0
    assert 5 < counts[("train", "test")] < 40
    assert set(counts) == {("valid", "val"), ("train", "train"), ("train", "test")}


def test_classes_are_folders_and_files_are_found_below_them(touch: Callable[..., Path]) -> None:
    root = touch("dog/young", ["A.JPG", "notes.txt", "b.webp"])
    touch("cat", ["c.tiff"])
    touch(".cache", ["d.jpg"])
    raw = image_folder(root, 0, 0)
    assert raw.classes == ("cat", "dog")
    assert [(image.key, image.label) for image in raw.images] == [
        ("cat/c_tiff", 0),
        ("dog/young/A_JPG", 1),
        ("dog/young/b_webp", 1),
    ]
    assert raw.num_images == 3
    assert raw.task == "single_label"


def test_keys_fit_a_tar_header_and_have_no_dot(touch: Callable[..., Path]) -> None:
    names = ["a.b.jpg", "é" * 60 + ".jpg", "x" * 120 + ".jpg", "x" * 120 + "1.jpg"]
    keys = [image.key for image in image_folder(touch("cat", names), 0, 0).images]
    assert len(set(keys)) == 4
    assert all(len(key.encode()) <= 90 and "." not in key for key in keys)


def test_names_that_are_no_text_get_a_key_of_their_own(touch: Callable[..., Path]) -> None:
    names = [os.fsdecode(b"\xff.jpg"), os.fsdecode(b"\xfe.jpg"), "two\nlines.jpg", "plain.jpg"]
    try:
        root = touch("cat", names)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    images = image_folder(root, val_fraction=0.2, test_fraction=0.2).images
    keys = {image.key for image in images}
    assert {image.image.name for image in images} == set(names)
    assert len(keys) == 4
    assert "cat/plain_jpg" in keys
    assert all(key.isprintable() and len(key.encode()) <= 90 and "." not in key for key in keys)


@pytest.mark.parametrize("names", [("val", "valid"), ("valid", "validation"), ("val", "validation")])
def test_a_split_comes_from_one_folder(touch: Callable[..., Path], names: tuple[str, str]) -> None:
    for folder in ("train", *names):
        root = touch(f"{folder}/cat")
    with pytest.raises(InputError, match=rf"/{names[0]} and .*/{names[1]} are both the val split; keep one"):
        image_folder(root)


@pytest.mark.parametrize("names", [("val",), ("test",), ("valid", "test")])
def test_a_split_needs_train_beside_it(touch: Callable[..., Path], names: tuple[str, ...]) -> None:
    for folder in names:
        root = touch(f"{folder}/cat")
    with pytest.raises(InputError, match=rf"has {', '.join(names)}, but no folder train beside it"):
        image_folder(root)


def test_mistakes_are_named(touch: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no class folders: expected .*/<class>/"):
        image_folder(tmp_path)
    root = touch("train/cat")
    touch("test/cat")
    touch("test/dog")
    with pytest.raises(InputError, match=r"test/dog: the train split has no class 'dog'"):
        image_folder(root)
    touch("train/dog", ["readme.txt"])
    with pytest.raises(InputError, match=r"train/dog holds no image, but others: \.txt \(1\); remove or fill it"):
        image_folder(root)
    for name in ("val", "test"):
        with pytest.raises(InputError, match=f"--{name}-fraction is 0.5; it must lie in"):
            image_folder(root, **{f"{name}_fraction": 0.5})


def test_photographs_are_carved_by_key_and_have_no_patients(touch: Callable[..., Path]) -> None:
    root = touch("cat", [f"{number}.jpg" for number in range(300)])
    raw = image_folder(root, 0.1, 0.2)
    assert [image.split for image in raw.images] == [hash_split(image.key, 0.1, 0.2) for image in raw.images]
    assert {image.group for image in raw.images} == {-1}
    assert (raw.patients, raw.xray_size, raw.horizontal_flip, raw.source) == (
        "none",
        None,
        True,
        f"class folders under {root.name}; licence as of the original",
    )
    # Pinned: another split of the same files would make results of before and after incomparable.
    splits_of = {image.key: image.split for image in raw.images}
    first = [[key for key in sorted(splits_of) if splits_of[key] == split][:3] for split in ("val", "test")]
    assert first == [["cat/0_jpg", "cat/112_jpg", "cat/120_jpg"], ["cat/101_jpg", "cat/102_jpg", "cat/107_jpg"]]
    assert not image_folder(root, horizontal_flip=False).horizontal_flip
