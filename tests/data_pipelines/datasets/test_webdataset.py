"""Tars of samples, whoever wrote them: keys, labels, splits, and what is said of those that are none."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member, RawSet
from data_pipelines.datasets.webdataset import webdataset

WriteTar = Callable[..., Path]


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def by_cls(first: int, count: int, classes: int = 3) -> dict[str, bytes]:
    files = {}
    for number in range(first, first + count):
        files[f"{number:05d}.jpg"] = b"image %d" % number
        files[f"{number:05d}.cls"] = b"%d" % (number % classes)
    return files


def labels_of(raw: RawSet) -> dict[str, str]:
    return {image.key: raw.classes[int(image.label)] for image in raw.images}


def test_samples_are_members_that_share_a_name(tmp_path: Path, write_tar: WriteTar) -> None:
    files = {
        "__meta__/icon.png": b"no sample",
        "__meta__/icon.cls": b"9",
        "folder.1": None,
        "folder.1/a.jpg": b"image a",
        "folder.1/a.json": as_json(label=2),
        "folder.1/a.txt": b"a caption",
        "b.cls": b"0\n",
        "b.seg.PNG": b"image b",
        "no_extension": b"",
        "c.WebP": b"image c",
        "c.Cls": b" 1 ",
        "text_only.txt": b"no image, no label",
    }
    write_tar("root/shard.0.tar", files)
    raw = webdataset(tmp_path / "root")
    assert raw.name == "root"
    assert raw.classes == ("0", "1", "2")
    assert (raw.num_images, raw.num_bytes) == (3, (tmp_path / "root" / "shard.0.tar").stat().st_size)
    assert [(image.key, image.label, image.read()) for image in raw.images] == [
        ("shard_0/folder_1/a", 2, b"image a"),
        ("shard_0/b", 0, b"image b"),
        ("shard_0/c", 1, b"image c"),
    ]
    assert all(isinstance(image.image, Member) for image in raw.images)


def test_tars_that_prepare_wrote(write_set: Callable[..., Path]) -> None:
    root = write_set([2, 0, 1, 2, 0], ("dog", "ape", "cat"), shard_images=2)
    raw = webdataset(root, label_field="class")
    assert raw.classes == ("ape", "cat", "dog")
    assert labels_of(raw) == {
        "train/000000/image-000": "cat",
        "train/000000/image-001": "dog",
        "train/000001/image-002": "ape",
        "train/000001/image-003": "cat",
        "train/000002/image-004": "dog",
    }
    assert list(labels_of(webdataset(root)).values()) == ["2", "0", "1", "2", "0"]


def test_tars_that_webdataset_wrote(tmp_path: Path, encode: Callable[..., bytes], photo: Callable[..., Any]) -> None:
    images = [encode(photo(number, 6, 7), "JPEG") for number in range(4)]
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number, image in enumerate(images):
            writer.write(
                {"__key__": f"sample{number}", "jpg": image, "cls": number % 2, "json": {"name": f"n{number}"}}
            )
    raw = webdataset(tmp_path)
    assert labels_of(raw) == {"a/sample0": "0", "a/sample1": "1", "a/sample2": "0", "a/sample3": "1"}
    assert [image.read() for image in raw.images] == images
    assert webdataset(tmp_path, label_field="name").classes == ("n0", "n1", "n2", "n3")


def test_the_label_is_that_of_cls_unless_a_field_is_named(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar("a.tar", {"0.jpg": b"", "0.cls": b"1", "0.json": as_json(label=0, number=2)})
    assert labels_of(webdataset(tmp_path)) == {"a/0": "1"}
    assert labels_of(webdataset(tmp_path, label_field="label")) == {"a/0": "0"}
    assert labels_of(webdataset(tmp_path, label_field="number")) == {"a/0": "2"}


def test_classes_file_names_numbers_and_is_looked_up_by_name(tmp_path: Path, write_tar: WriteTar) -> None:
    files = {"0.jpg": b"", "0.cls": b"2", "1.jpg": b"", "1.cls": b"dog", "2.jpg": b"", "2.json": as_json(label=0)}
    write_tar("a.tar", files)
    (tmp_path / "names").write_text("dog\r\nape\r\nKing Charles\r\n")
    raw = webdataset(tmp_path, classes_file=tmp_path / "names")
    assert raw.classes == ("dog", "ape", "King Charles")
    assert raw.num_images is None  # the tars were not looked through
    assert labels_of(raw) == {"a/0": "King Charles", "a/1": "dog", "a/2": "dog"}
    (tmp_path / "names").write_text("cat\nape")
    for number, label in ((0, "2"), (1, "'dog'")):
        write_tar("a.tar", {f"{number}.jpg": b"", f"{number}.cls": files[f"{number}.cls"]})
        raw = webdataset(tmp_path, classes_file=tmp_path / "names")
        with pytest.raises(
            InputError, match=rf"a.tar:{number}.jpg has the label {label}, which is none of the 2 classes"
        ):
            list(raw.images)


def test_numbers_without_images_are_mentioned(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar("a.tar", {"0.jpg": b"", "0.cls": b"1", "1.jpg": b"", "1.cls": b"3"})
    raw = webdataset(tmp_path)
    assert raw.classes == ("0", "1", "2", "3")
    assert raw.notes == ("2 of the 4 class numbers have no image",)


@pytest.mark.parametrize("place", ["{}/0.tar", "set-{}-0.tar", "{}_0.tar", "IMAGES.{}.0.tar", "{}0.tar"])
def test_splits_are_folders_or_words_in_names(tmp_path: Path, write_tar: WriteTar, place: str) -> None:
    for number, word in enumerate(("train", "validation", "test")):
        write_tar(place.format(word), by_cls(100 * number, 5))
    raw = webdataset(tmp_path)
    expected = [("train", "0"), ("val", "1"), ("test", "2")]
    found = {(image.split, image.key.rpartition("/")[2][2]) for image in raw.images}
    assert found == set(expected)
    assert len({image.key for image in raw.images}) == 15


def test_only_missing_splits_are_carved(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar("train-0.tar", by_cls(0, 300))
    write_tar("val-0.tar", by_cls(300, 30))
    counts = Counter((image.key[0], image.split) for image in webdataset(tmp_path, test_fraction=0.2).images)
    assert counts[("v", "val")] == 30
    assert 30 < counts[("t", "test")] < 90
    assert set(counts) == {("v", "val"), ("t", "test"), ("t", "train")}


def test_all_is_carved_where_no_split_is_named(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar("trainval.tar", by_cls(0, 300))
    write_tar("latest.tar", by_cls(300, 300))
    counts = Counter(image.split for image in webdataset(tmp_path, val_fraction=0.2, test_fraction=0.1).images)
    assert 80 < counts["val"] < 160
    assert 30 < counts["test"] < 90
    hash_split = {image.split for image in webdataset(tmp_path, val_fraction=0, test_fraction=0).images}
    assert hash_split == {"train"}


@pytest.mark.parametrize("num_tars", [1, 5])
def test_parts_are_a_partition(tmp_path: Path, write_tar: WriteTar, num_tars: int) -> None:
    for number in range(num_tars):
        write_tar(f"{number}.tar", by_cls(10 * number, 10))
    raw = webdataset(tmp_path)
    assert list(raw.images) == list(raw.images)
    assert raw.part is not None
    parts = [[image.key for image in raw.part(part, 3)] for part in range(3)]
    assert sum(map(len, parts)) == 10 * num_tars
    assert sorted(key for part in parts for key in part) == sorted(image.key for image in raw.images)
    assert min(map(len, parts)) >= 3
    if num_tars == 5:
        assert {key[0] for key in parts[1]} == {"1", "4"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.jpg": b""}, r"0.jpg has no label: its sample has neither .cls nor .json, only .jpg"),
        ({"0.jpg": b"", "0.json": b"{"}, r"0.json is not JSON"),
        ({"0.jpg": b"", "0.json": b"\xff"}, r"0.json is not JSON"),
        ({"0.jpg": b"", "0.json": b"[" * 20_000}, r"0.json is not JSON"),
        ({"0.jpg": b"", "0.json": b"[1]"}, r"0.json has no field 'label' \(it has: none\)"),
        ({"0.jpg": b"", "0.json": as_json(labels={"dog": 1})}, r"no field 'label' \(it has: labels\); .*--label-field"),
        ({"0.jpg": b"", "0.json": as_json(label=True)}, r"its label True is neither a whole number nor a name"),
        ({"0.jpg": b"", "0.json": as_json(label=1.5)}, r"its label 1.5 is neither"),
        ({"0.jpg": b"", "0.json": as_json(label=[1, 2])}, r"its label \[1, 2\] is neither"),
        ({"0.jpg": b"", "0.cls": b" \n"}, r"its label '' is neither"),
        ({"0.jpg": b"", "0.cls": b"-1"}, r"labels run from -1 to -1"),
        ({"0.jpg": b"", "0.cls": b"2000000"}, r"labels run from 2000000 to 2000000: class numbers count from 0"),
        (
            {"0.jpg": b"", "0.cls": b"1", "1.jpg": b"", "1.cls": b"dog"},
            r"1.jpg has the label 'dog': labels must be all",
        ),
        ({"0.jpg": b"", "0.png": b"", "0.cls": b"1"}, r"0.png is the second image of its sample"),
        ({"0.jpg": b"", "0.JPG": b"", "0.cls": b"1"}, r"0.JPG: the sample has two files .jpg"),
        ({"0.txt": b"text"}, r"a.tar and the tars beside it hold no sample with an image"),
        ({"../0.jpg": b"", "0.cls": b"1"}, r"a.tar has the member '../0.jpg', a name that leads out of the tar"),
    ],
)
def test_samples_that_are_none_are_named(
    tmp_path: Path, write_tar: WriteTar, files: dict[str, bytes], message: str
) -> None:
    write_tar("a.tar", files)
    with pytest.raises(InputError, match=message):
        webdataset(tmp_path)


def test_mistakes_are_named(tmp_path: Path, write_tar: WriteTar) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        webdataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no \*.tar, in itself or in folders"):
        webdataset(tmp_path)
    write_tar("train-val-0.tar", by_cls(0, 3))
    with pytest.raises(InputError, match=r"train-val-0.tar names several splits; put it into a folder"):
        webdataset(tmp_path)
    tar = (tmp_path / "train-val-0.tar").rename(tmp_path / "val-0.tar")
    with pytest.raises(InputError, match=r"has tars of val or test, but none of train beside them"):
        webdataset(tmp_path)
    write_tar("other.tar", by_cls(3, 3))
    with pytest.raises(InputError, match=r"other.tar names no split, others do"):
        webdataset(tmp_path)
    tar.write_bytes(tar.read_bytes()[:2000])
    (tmp_path / "other.tar").rename(tmp_path / "train.tar")
    with pytest.raises(InputError, match=r"val-0.tar is incomplete"):
        webdataset(tmp_path)
    for text, message in (("a\n\nb", "must name one class on each line"), ("a\na", "each once"), ("", "must name")):
        (tmp_path / "names").write_text(text)
        with pytest.raises(InputError, match=message):
            webdataset(tmp_path, classes_file=tmp_path / "names")
    with pytest.raises(InputError, match=r"--classes-file .*nowhere cannot be read"):
        webdataset(tmp_path, classes_file=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"--val-fraction is 0.5"):
        webdataset(tmp_path, val_fraction=0.5)


def test_a_set_that_is_written_beside_the_tars_is_not_read(
    tmp_path: Path, write_tar: WriteTar, write_set: Callable[..., Path]
) -> None:
    write_tar("root/a.tar", by_cls(0, 3))
    write_tar("root/.set.partial/set/train/000000.tar", by_cls(3, 3))
    write_set([0, 1], ("ape", "cat")).rename(tmp_path / "root" / "set")
    raw = webdataset(tmp_path / "root", val_fraction=0, test_fraction=0)
    assert raw.num_images == 3
    assert raw.left_out == {"prepared sets": 2}
