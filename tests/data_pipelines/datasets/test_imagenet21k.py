"""ImageNet-21k's tars and folders give the same images, classes and splits, and broken ones are refused."""

import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from imagenet_files import WNIDS, Files, content, jpeg, tar_bytes, train_files, write_files

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member
from data_pipelines.datasets.imagenet import imagenet21k


def big_files(wnid: str, count: int = 400) -> Files:
    return {f"{wnid}_{number}.JPEG": jpeg(f"{wnid} {number} " * 20) for number in range(count)}


SHARED = {f"shared_{number}.JPEG": jpeg(f"shared {number} " * 20) for number in range(200)}


@pytest.fixture
def class_tars(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """ImageNet-21k as class tars; all classes have the same 200 images under other names."""
    for wnid in WNIDS:
        shared = {f"{wnid}_{name}": data for name, data in SHARED.items()}
        write_tar(f"whole/{wnid}.tar", big_files(wnid) | shared)
    (tmp_path / "whole" / "words.txt").write_text("tench")
    return tmp_path / "whole"


@pytest.fixture
def outer_tar(class_tars: Path, write_tar: Callable[..., Path]) -> Path:
    tars = {f"fall11/{wnid}.tar": (class_tars / f"{wnid}.tar").read_bytes() for wnid in reversed(WNIDS)}
    return write_tar("outer/fall11_whole.tar", {"fall11": None, "fall11/words.txt": b"tench", **tars}).parent


@pytest.fixture
def class_folders_21k(class_tars: Path, tmp_path: Path) -> Path:
    for wnid in WNIDS:
        with tarfile.open(class_tars / f"{wnid}.tar") as tar:
            write_files(tmp_path / "folders" / wnid, {info.name: tar.extractfile(info).read() for info in tar})
    return tmp_path / "folders"


def test_class_tars_are_read_without_unpacking(class_tars: Path) -> None:
    raw = imagenet21k(class_tars)
    assert raw.classes == WNIDS
    assert (raw.num_images, raw.expected_images) == (None, None)
    assert raw.num_bytes == sum(path.stat().st_size for path in class_tars.glob("*.tar"))
    images = list(raw.images)
    assert images == list(raw.images)
    assert [image.label for image in images] == [label for label in range(3) for _ in range(600)]
    files = {f"{wnid}/{name}".replace(".", "_"): data for wnid in WNIDS for name, data in big_files(wnid).items()}
    found = {image.key: image.read() for image in images}
    assert files.items() <= found.items()
    assert all(isinstance(image.image, Member) for image in images)


def test_images_of_imagenet21k_are_listed_lazily(class_tars: Path) -> None:
    images = iter(imagenet21k(class_tars).images)
    next(images)
    (class_tars / f"{WNIDS[2]}.tar").unlink()
    with pytest.raises(InputError, match=rf"{WNIDS[2]}.tar cannot be read"):
        list(images)


@pytest.mark.slow
def test_every_layout_of_imagenet21k_gives_the_same(
    class_tars: Path, outer_tar: Path, class_folders_21k: Path, tmp_path: Path
) -> None:
    expected = content(imagenet21k(class_tars, val_fraction=0.1, test_fraction=0.1))
    shutil.copytree(class_tars, tmp_path / "root" / "winter21_whole")
    for root in (outer_tar, class_folders_21k, tmp_path / "root"):
        raw = imagenet21k(root, val_fraction=0.1, test_fraction=0.1)
        assert raw.classes == WNIDS
        assert content(raw) == expected
    assert imagenet21k(class_folders_21k).num_images == 1800


@pytest.mark.parametrize("layout", ["class_tars", "outer_tar"])
def test_parts_of_imagenet21k_are_classes(layout: str, request: pytest.FixtureRequest) -> None:
    raw = imagenet21k(request.getfixturevalue(layout))
    assert raw.part is not None
    assert [{image.label for image in raw.part(part, 2)} for part in range(2)] == [{0, 2}, {1}]
    assert sorted(content(list(raw.part(0, 2))) + content(list(raw.part(1, 2)))) == content(raw)
    assert list(raw.part(0, 2)) == list(raw.part(0, 2))


def test_equal_files_are_in_one_split(class_tars: Path) -> None:
    images = list(imagenet21k(class_tars, val_fraction=0.2, test_fraction=0.2).images)
    splits: dict[bytes, set[str]] = {}
    for image in images:
        splits.setdefault(image.read(), set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    counts = Counter(image.split for image in images if "shared" not in image.key)
    assert abs(counts["val"] - 240) < 60
    assert abs(counts["test"] - 240) < 60
    shared = Counter(image.split for image in images if "shared" in image.key)
    assert shared["train"] > 200 > shared["val"] > 30


def test_options_of_imagenet21k(class_tars: Path) -> None:
    assert imagenet21k(class_tars).equal_images == "pairs"
    assert imagenet21k(class_tars, labels="uniform").equal_images == "uniform"
    raw = imagenet21k(class_tars, val_fraction=0, test_fraction=0)
    assert {image.split for image in raw.images} == {"train"}
    with pytest.raises(InputError, match=r"--test-fraction is -1"):
        imagenet21k(class_tars, test_fraction=-1)


def test_wrong_roots_of_imagenet21k(tmp_path: Path, class_tars: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "winter21_whole.tar.gz").write_bytes(b"\x1f\x8b")
    for root in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds neither class tars <wnid>.tar.*unpack a .tar.gz with tar -xzf"):
            imagenet21k(root)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "fall11_whole.tar").write_bytes(tar_bytes({"words.txt": b"tench"}))
    with pytest.raises(InputError, match=r"fall11_whole.tar holds no class"):
        imagenet21k(tmp_path / "outer")
    twice = {f"{folder}/{WNIDS[0]}.tar": tar_bytes(train_files(WNIDS[0])) for folder in "ab"}
    (tmp_path / "outer" / "fall11_whole.tar").write_bytes(tar_bytes(twice))
    with pytest.raises(InputError, match=rf"fall11_whole.tar holds {WNIDS[0]}.tar twice"):
        imagenet21k(tmp_path / "outer")


def test_bad_class_tars_are_refused_at_once(class_tars: Path, tmp_path: Path) -> None:
    tar = class_tars / f"{WNIDS[1]}.tar"
    whole = tar.read_bytes()
    for damaged, message in (
        (whole[: len(whole) // 2], r"is incomplete"),
        (b"", r"is not a tar file"),
        (tar_bytes({}), r"holds no image .*; fill or remove it"),
        (tar_bytes({"../a.JPEG": b"a"}), r"has the member '../a.JPEG', a name that leads out of the tar"),
        (b"\x1f\x8b" + whole, r"is compressed.* gunzip"),
    ):
        tar.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{WNIDS[1]}.tar {message}"):
            imagenet21k(class_tars)


def test_a_link_inside_a_class_tar_is_refused(class_tars: Path) -> None:
    with tarfile.open(class_tars / f"{WNIDS[1]}.tar", "w") as tar:
        for kind, name in ((tarfile.REGTYPE, "a.JPEG"), (tarfile.SYMTYPE, "b.JPEG")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    raw = imagenet21k(class_tars)
    with pytest.raises(InputError, match=rf"{WNIDS[1]}.tar has the member 'b.JPEG', which is not a plain file"):
        list(raw.images)


def test_an_unreadable_file_is_left_to_prepare(class_folders_21k: Path) -> None:
    path = class_folders_21k / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    path.unlink()
    path.symlink_to("nowhere")
    assert path in {image.image for image in imagenet21k(class_folders_21k).images}
