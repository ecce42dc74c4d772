"""ImageNet-1k's tars and folders give the same images, classes and splits, and broken ones are refused."""

import io
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from imagenet_files import WNIDS, Files, content, jpeg, tar_bytes, train_files, write_files

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import Member
from data_pipelines.datasets.imagenet import imagenet1k

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt"


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


VAL_CLASSES = [WNIDS[1], WNIDS[0], WNIDS[0], WNIDS[1], WNIDS[1]]
VAL_FILES = {val_name(number): jpeg(f"val {number}") for number in range(1, 6)}


def devkit_files() -> Files:
    synsets = np.array(
        [(2, WNIDS[1], "goldfish", 0), (1, WNIDS[0], "tench", 0), (3, WNIDS[2], "dog", 2)],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")],
    )
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets[:, None]})
    numbers = [WNIDS.index(wnid) + 1 for wnid in VAL_CLASSES]
    return {
        f"{DEVKIT}/data/meta.mat": meta.getvalue(),
        TRUTH: "".join(f"{number}\n" for number in numbers).encode(),
        f"{DEVKIT}/readme.txt": b"read me",
    }


def pack_devkit(root: Path, files: Files) -> None:
    with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def packed(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """ImageNet-1k as distributed, classes in another order."""
    classes = {f"{wnid}.tar": tar_bytes(train_files(wnid)) for wnid in reversed(WNIDS[:2])}
    write_tar("packed/ILSVRC2012_img_train.tar", classes)
    write_tar("packed/ILSVRC2012_img_val.tar", dict(reversed(VAL_FILES.items())))
    pack_devkit(tmp_path / "packed", devkit_files())
    return tmp_path / "packed"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    root = tmp_path / "unpacked"
    for wnid in WNIDS[:2]:
        write_files(root / "train" / wnid, train_files(wnid))
    for wnid, (name, data) in zip(VAL_CLASSES, VAL_FILES.items(), strict=True):
        write_files(root / "val" / wnid, {name: data})
    (root / "train" / ".cache").mkdir()
    write_files(root / "train" / WNIDS[0], {"._n01440764_1.JPEG": b"resource fork", "list.txt": b"text"})
    return root


@pytest.fixture
def kaggle(tmp_path: Path, unpacked: Path) -> Path:
    data = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(unpacked / "train", data / "train")
    write_files(data / "val", VAL_FILES)
    write_files(data / "test", {"ILSVRC2012_test_00000001.JPEG": b"no label"})
    labelled = zip(VAL_FILES, VAL_CLASSES, strict=True)
    rows = [f"{Path(name).stem},{wnid} 85 1 499 272 {wnid} 1 2 3 4" for name, wnid in labelled]
    table = "\n".join(["ImageId,PredictionString", *reversed(rows), ""])
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text(table)
    return tmp_path / "kaggle"


def test_tars_are_read_without_unpacking(packed: Path) -> None:
    raw = imagenet1k(packed)
    assert raw.classes == WNIDS[:2]
    assert raw.expected_images == 1_331_167
    assert all(isinstance(image.image, Member) for image in raw.images)
    found = {key: (label, split, data) for key, label, split, data in content(raw)}
    assert len(found) == 45
    for label, wnid in enumerate(WNIDS[:2]):
        for name, data in train_files(wnid).items():
            assert found[f"train/{wnid}/{name.replace('.', '_')}"][::2] == (label, data)
    for wnid, (name, data) in zip(VAL_CLASSES, VAL_FILES.items(), strict=True):
        assert found[f"val/{name.replace('.', '_')}"] == (WNIDS.index(wnid), "test", data)
    assert raw.num_images is None
    assert raw.num_bytes is not None
    size = sum(path.stat().st_size for path in packed.glob("*.tar"))
    assert sum(len(data) for _, _, data in found.values()) < raw.num_bytes <= size


def test_every_layout_gives_the_same_images_and_splits(packed: Path, unpacked: Path, kaggle: Path) -> None:
    expected = content(imagenet1k(packed, val_fraction=0.3))
    counts = Counter(split for _, _, split, _ in expected)
    assert counts["test"] == 5
    assert 4 <= counts["val"] <= 22
    for root in (unpacked, kaggle):
        raw = imagenet1k(root, val_fraction=0.3)
        assert content(raw) == expected
        assert raw.num_images == 45
        assert raw.num_bytes is None


def test_half_unpacked_layouts_are_read_too(packed: Path, unpacked: Path) -> None:
    expected = content(imagenet1k(packed))
    shutil.rmtree(unpacked / "val")
    write_files(unpacked / "val", VAL_FILES)
    write_files(unpacked, devkit_files())
    assert content(imagenet1k(unpacked)) == expected
    shutil.rmtree(unpacked / "train" / WNIDS[0])
    (unpacked / "train" / f"{WNIDS[0]}.tar").write_bytes(tar_bytes(train_files(WNIDS[0])))
    raw = imagenet1k(unpacked)
    assert content(raw) == expected
    assert (raw.num_images, raw.num_bytes) == (None, None)


@pytest.mark.parametrize("layout", ["packed", "unpacked"])
def test_parts_of_imagenet1k_are_a_partition(layout: str, request: pytest.FixtureRequest) -> None:
    raw = imagenet1k(request.getfixturevalue(layout))
    assert raw.part is not None
    parts = [content(list(raw.part(part, 3))) for part in range(3)]
    assert sorted(chain.from_iterable(parts)) == content(raw)
    assert [sum(split == "test" for _, _, split, _ in part) for part in parts] == [2, 2, 1]
    assert list(raw.part(1, 3)) == list(raw.part(1, 3))
    assert list(raw.images) == list(raw.images)


def test_fractions_of_imagenet1k(packed: Path) -> None:
    assert {split for _, _, split, _ in content(imagenet1k(packed, val_fraction=0))} == {"train", "test"}
    with pytest.raises(InputError, match=r"--val-fraction is 0.7; it must lie in"):
        imagenet1k(packed, val_fraction=0.7)


def test_missing_files_of_imagenet1k_are_named(tmp_path: Path, packed: Path, unpacked: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/train is missing.*https://image-net.org"):
        imagenet1k(tmp_path / "nowhere")
    (packed / f"{DEVKIT}.tar.gz").rename(packed / "kit.tar.gz")
    with pytest.raises(InputError, match=rf"{DEVKIT}.tar.gz is missing \(or LOC_val_solution.csv from Kaggle\)"):
        imagenet1k(packed)
    (packed / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(InputError, match=r"ILSVRC2012_img_val.tar is missing, and so is the folder .*packed/val"):
        imagenet1k(packed)
    shutil.move(unpacked / "train" / WNIDS[0], unpacked / "train" / "tench")
    shutil.move(unpacked / "train" / WNIDS[1], unpacked / "train" / "goldfish")
    with pytest.raises(InputError, match=r"unpacked/train holds no class, named as n01440764 is"):
        imagenet1k(unpacked)


def test_classes_that_do_not_fit_are_named(unpacked: Path) -> None:
    write_files(unpacked / "val" / WNIDS[2], {val_name(6): b"dog"})
    with pytest.raises(InputError, match=rf"{val_name(6)} is of class {WNIDS[2]}, which train does not have"):
        imagenet1k(unpacked)
    (unpacked / "train" / WNIDS[2]).mkdir()
    write_files(unpacked / "train" / WNIDS[2], {"readme.txt": b"text"})
    with pytest.raises(InputError, match=rf"train/{WNIDS[2]} holds no image .*; fill or remove it"):
        imagenet1k(unpacked)
    (unpacked / "train" / f"{WNIDS[2]}.tar").write_bytes(tar_bytes(train_files(WNIDS[2])))
    with pytest.raises(InputError, match=rf"has both {WNIDS[2]} and {WNIDS[2]}.tar; keep the one that is whole"):
        imagenet1k(unpacked)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (b"2\n1\n1\n2\n", r"has labels for 4 images, .*val.tar holds 5, 1 of them without a label"),
        (b"2\n1\n1\n2\n2\n1\n", r"has labels for 6 images, .*val.tar holds 5, 0 of them without a label"),
        (b"2\n1\n1\n2\n9\n", r"do not fit \(KeyError\(9\)\)"),
        (b"2\n1\n1\n2\nx\n", r"do not fit \(ValueError"),
        (b"2\n1\n1\n2\n3\n", rf"{val_name(5)} is of class {WNIDS[2]}, which train does not have"),
    ],
)
def test_tables_that_do_not_fit_the_images_are_refused(packed: Path, truth: bytes, message: str) -> None:
    pack_devkit(packed, devkit_files() | {TRUTH: truth})
    with pytest.raises(InputError, match=message):
        imagenet1k(packed)


def test_damaged_tables_are_refused(packed: Path, kaggle: Path) -> None:
    pack_devkit(packed, devkit_files() | {f"{DEVKIT}/data/meta.mat": b"no mat"})
    with pytest.raises(InputError, match=rf"{DEVKIT}: meta.mat is no MATLAB file with a variable 'synsets'"):
        imagenet1k(packed)
    pack_devkit(packed, {TRUTH: b"1\n"})
    with pytest.raises(InputError, match=rf"{DEVKIT}.tar.gz holds no {DEVKIT}/data/meta.mat that can be read"):
        imagenet1k(packed)
    (packed / f"{DEVKIT}.tar.gz").write_bytes((packed / f"{DEVKIT}.tar.gz").read_bytes()[:40])
    with pytest.raises(InputError, match=rf"{DEVKIT}.tar.gz holds no {DEVKIT}/data/meta.mat that can be read"):
        imagenet1k(packed)
    table = kaggle / "LOC_val_solution.csv"
    table.write_text(table.read_text().replace("PredictionString", "Prediction"))
    with pytest.raises(InputError, match=r"LOC_val_solution.csv lacks ImageId or PredictionString"):
        imagenet1k(kaggle)


@pytest.mark.parametrize("lost", [1, 5000])
def test_cut_tars_of_imagenet1k_are_refused_at_once(packed: Path, lost: int) -> None:
    tar = packed / "ILSVRC2012_img_train.tar"
    tar.write_bytes(tar.read_bytes().rstrip(b"\0")[:-lost])
    with pytest.raises(InputError, match=r"ILSVRC2012_img_train.tar is incomplete"):
        imagenet1k(packed)
