"""Folders of splits and classes, whatever they are called: nothing is dropped or guessed without a word."""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tyro

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.reading import split_of, splits_in
from data_pipelines.datasets.user_images import csv_table, image_folder

Touch = Callable[..., Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """A function that creates empty files, which count as pictures by their suffixes, and returns the root."""

    def create(*names: str) -> Path:
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "root"

    return create


def splits_of(raw: RawSet) -> Counter[tuple[str, str]]:
    """How many images of each class each split has."""
    return Counter((image.split, raw.classes[int(image.label)]) for image in raw.images)


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as error:
        image_folder(root)
    return str(error.value)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("Train", "Val", "Test"), ("train", "val", "test")),
        (("train", "Val", "TEST"), ("train", "val", "test")),
        (("training", "validation", "testing"), ("train", "val", "test")),
        (("TRAIN", "dev"), ("train", "val")),
        (("train_set", "Test Set"), ("train", "test")),
        (("train-images", "validdata"), ("train", "val")),
    ],
)
def test_split_folders_have_many_names(touch: Touch, names: Sequence[str], splits: Sequence[str]) -> None:
    root = touch(*(f"{name}/{label}/{number}.jpg" for name in names for label in ("cat", "dog") for number in range(2)))
    raw = image_folder(root, 0, 0)
    assert raw.classes == ("cat", "dog")
    assert splits_of(raw) == {(split, label): 2 for split in splits for label in raw.classes}
    assert [image.split for image in raw.images] == [split for split in splits for _ in range(4)]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), (" Valid ", "val"), ("testset", "test"), ("eval", None), ("trainer", None), ("", None)],
)
def test_names_of_splits(name: str, split: str | None, touch: Touch, tmp_path: Path) -> None:
    assert split_of(name) == split
    table = tmp_path / "t.csv"
    root = touch("a.jpg", "b.jpg")
    table.write_text(f"path,label,part\na.jpg,x,train\nb.jpg,x,{name}\n")
    if split is None:
        with pytest.raises(InputError, match=r"line 3: 'part' is .* must be one of train, training"):
            csv_table(root, table, label_column="label", split_column="part")
    else:
        raw = csv_table(root, table, label_column="label", split_column="part", val_fraction=0, test_fraction=0)
        assert [image.split for image in raw.images] == ["train", split]


def test_words_in_names_are_of_splits() -> None:
    assert splits_in("IMAGES-Train-000") == splits_in("train2017") == splits_in("trainset-1") == {"train"}
    assert splits_in("a_test_images_0") == {"test"}
    assert splits_in("latest-trainval-contest") == set()
    assert splits_in("train-dev") == {"train", "val"}


def test_classes_called_like_splits(touch: Touch) -> None:
    root = touch("bus/0.jpg", "train/0.jpg")
    message = refusal(root)
    assert "folders named like splits (train) beside others (bus)" in message
    assert "if all are classes, give --no-split-folders; if the former are splits, move the others out of" in message
    (flag,) = re.findall(r"--no-\S+(?=;)", message)
    raw = tyro.cli(image_folder, args=["--root", str(root), "--val-fraction", "0", "--test-fraction", "0", flag])
    assert splits_of(raw) == {("train", "bus"): 1, ("train", "train"): 1}
    inner = image_folder(touch("train/Train/1.jpg", "train/bus/1.jpg"), 0, 0, split_folders=False)
    assert inner.classes == ("bus", "train")


@pytest.mark.parametrize("names", [("train", "unlabelled"), ("Train", "Val", "extra"), ("test", "cat")])
def test_folders_beside_splits_are_refused(touch: Touch, names: Sequence[str]) -> None:
    *splits, other = names
    root = touch(*(f"{name}/cat/0.jpg" for name in names))
    assert f"folders named like splits ({', '.join(splits)}) beside others ({other})" in refusal(root)


def test_hidden_folders_beside_splits_are_none(touch: Touch) -> None:
    raw = image_folder(touch("train/cat/0.jpg", ".cache/x/0.jpg", "#snapshot/train/cat/0.jpg"))
    assert (raw.classes, raw.num_images, raw.left_out) == (("cat",), 1, {"hidden folders": 2})


@pytest.mark.parametrize("names", [("Train", "train"), ("dev", "valid"), ("Test", "test_set")])
def test_a_split_comes_from_one_folder_in_any_letters(touch: Touch, names: Sequence[str]) -> None:
    root = touch("train/cat/0.jpg", *(f"{name}/cat/0.jpg" for name in names))
    assert re.search(r"are both the (train|val|test) split; keep one", refusal(root))


def test_pictures_beside_class_folders_are_counted_and_named(touch: Touch) -> None:
    root = touch("a.jpg", "cat/0.jpg", *(f"{number}.png" for number in range(6)), "readme.txt")
    raw = image_folder(root)
    assert raw.left_out == {"pictures beside the class folders": 7, ".txt": 1}
    assert (
        "7 pictures lie beside the class folders, belong to no class and are left out: 0.png, 1.png, 2.png, 3.png, "
        "4.png and 2 more"
    ) in raw.notes
    for name in ("a.jpg", "cat"):
        (root / name).rename(touch("train/cat/1.jpg") / "train" / name.replace("cat", "dog"))
    raw = image_folder(root)
    assert raw.left_out == {"pictures beside the class folders": 7, ".txt": 1}
    assert any("left out: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more" in note for note in raw.notes)
    assert raw.num_images == 2


def test_notes_name_no_file_of_xrays(touch: Touch) -> None:
    root = touch("Jane Doe.png", "cat/0.png")
    note = "1 pictures lie beside the class folders, belong to no class and are left out"
    assert f"{note}: Jane Doe.png" in image_folder(root).notes
    assert note in image_folder(root, xray_size=32, split_by="image").notes
    (root / "cat" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    assert note in image_folder(root, split_by="image").notes


def test_classes_without_images_say_what_they_have(touch: Touch) -> None:
    root = touch("cat/0.jpg", "dog/a.mov", "dog/b.mov", "dog/.c.jpg", "dog/sub/d.txt")
    assert "dog holds no image, but others: .mov (2), .txt (1), hidden files (1); remove or fill it" in refusal(root)
    (root / "cow").mkdir()
    assert "cow holds no image; remove or fill it" in refusal(root)
    assert "has no class folders, but 2 pictures: expected" in refusal(touch("cat/1.jpg") / "cat")


def test_a_test_folder_without_classes(touch: Touch) -> None:
    root = touch("train/cat/0.jpg", "test/0.jpg", "test/1.jpg")
    message = refusal(root)
    assert "test has no class folders, but 2 pictures: expected" in message
    assert f"else move it out of {root}, and a test split is carved out of train" in message


def test_a_root_one_folder_too_high(touch: Touch) -> None:
    root = touch("my films/train/cat/0.jpg", "my films/test/cat/0.jpg")
    message = refusal(root)
    assert "has the one folder my films, and this has folders of splits" in message
    options = shlex.split(message[message.index("--root") : message.index(", or --no-split-folders")])
    assert image_folder(Path(options[1]), 0, 0).classes == ("cat",)
    assert image_folder(root, 0, 0, split_folders=False).classes == ("my films",)


@pytest.mark.parametrize(
    "names", [("seg_train", "seg_test"), ("1-train", "2-val"), ("cifar_train", "cifar_eval", "cifar_test")]
)
def test_folders_that_may_be_splits_are_not_taken_for_classes(touch: Touch, names: Sequence[str]) -> None:
    root = touch(*(f"{name}/{label}/0.jpg" for name in names for label in ("cat", "dog")))
    message = refusal(root)
    assert "which hold folders and may be splits; if they are, name them train, val and test" in message
    assert image_folder(root, split_folders=False).classes == tuple(sorted(names))


def test_classes_with_words_of_splits_are_classes(touch: Touch) -> None:
    for names in (("train station/0.jpg", "test tube/0.jpg"), ("train station/a/0.jpg", "bus stop/a/0.jpg")):
        assert len(image_folder(touch(*names), 0, 0).classes) >= 2


def test_leftovers_are_no_classes(touch: Touch) -> None:
    root = touch(
        "cat/0.jpg", "cat/._0.jpg", "cat/.ipynb_checkpoints/0-checkpoint.jpg", "__MACOSX/cat/._0.jpg",
        "cat/@eaDir/0.jpg/THUMB.jpg", "lost+found/1.jpg", "Thumbs.db",
    )  # fmt: skip
    raw = image_folder(root, 0, 0)
    assert raw.classes == ("cat",)
    assert [image.image.name for image in raw.images] == ["0.jpg"]
    assert raw.left_out == {"hidden files": 2, "hidden folders": 4}
    assert (raw.is_user_set, raw.upright) == (True, True)


def test_classes_that_may_be_one_are_noted(touch: Touch) -> None:
    composed, parted = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))
    raw = image_folder(
        touch(f"{composed}/0.jpg", f"{parted}/0.jpg", "Cat/0.jpg", "cat/0.jpg", "nan/0.jpg", "dog/0.jpg")
    )
    assert len(raw.classes) == 6
    assert "classes that differ only in capital and small letters: 'Cat', 'cat'; are they one?" in raw.notes
    assert f"classes that differ only in Unicode form: {parted!r}, {composed!r}; are they one?" in raw.notes
    assert "the folder 'nan' is taken for a class of that name" in raw.notes


def test_splits_within_classes_are_not_mixed_without_a_word(touch: Touch) -> None:
    root = touch(
        *(f"{part}/{name}/good/{n}.jpg" for part in ("cable", "nut") for name in ("train", "Test") for n in "12")
    )
    message = refusal(root)
    assert "folders named like splits (cable/Test, cable/train, nut/Test, nut/train)" in message
    assert f"put the classes into them, as in {root}/Test/cable" in message
    assert image_folder(root, 0, 0, split_folders=False).num_images == 8
    (root / "nut").rename(root.parent / "nut")
    (root / "plug").mkdir()
    (root / "plug" / "0.jpg").touch()
    assert image_folder(root, 0, 0).classes == ("cable", "plug")


def test_one_folder_around_the_classes_is_named(touch: Touch) -> None:
    root = touch("Pet Images/cat/1.jpg", "Pet Images/dog/1.jpg")
    note = "the one folder Pet Images holds cat, dog; if those are the classes, give it as --root"
    assert note in image_folder(root, 0, 0).notes
    assert image_folder(root / "Pet Images", 0, 0).classes == ("cat", "dog")
    touch("Pet Images/3.jpg")
    assert not any("holds cat, dog" in note for note in image_folder(root, 0, 0).notes)


def test_a_split_without_classes_may_be_for_predict(touch: Touch) -> None:
    assert "pictures without a class are for predict" in refusal(touch("train/cat/1.jpg", "test/1.jpg"))
