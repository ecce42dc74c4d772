"""What cannot be right in the tables and folders of the chest X-ray sets is refused; what is missing is told."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from dicom_roots import brax_root
from empty_files import splits_of
from xray_roots import PADCHEST, chexpert_root, edit, mimic_root, nih_root, padchest_root, padchest_rows

from data_pipelines.common.errors import InputError
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets import xray_tables
from data_pipelines.datasets.brax import brax
from data_pipelines.datasets.chest_xray import chexpert, mimic_cxr, nih_cxr14, padchest

ROOTS: dict[Callable[..., RawSet], tuple[Callable[[Path], Path], str, str]] = {
    chexpert: (chexpert_root, "train.csv", "Path"),
    mimic_cxr: (mimic_root, "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id"),
    nih_cxr14: (nih_root, "Data_Entry_2017_v2020.csv", "Image Index"),
    padchest: (padchest_root, f"{PADCHEST}.gz", "ImageID"),
    brax: (brax_root, "master_spreadsheet_update.csv", "PngPath"),
}


each_set = pytest.mark.parametrize("read", ROOTS)


@each_set
def test_twice_the_same(read: Callable[..., RawSet], tmp_path: Path) -> None:
    root = ROOTS[read][0](tmp_path / "set")
    first, second = list(read(root).images), list(read(root).images)
    assert [(image.key, image.split, image.group) for image in first] == [
        (image.key, image.split, image.group) for image in second
    ]
    assert [image.key for image in read(root).images[3:9:2]] == [image.key for image in first[3:9:2]]


@each_set
def test_a_table_that_cannot_be_right_is_refused(read: Callable[..., RawSet], tmp_path: Path) -> None:
    build, name, column = ROOTS[read]
    path = build(tmp_path) / name
    whole = path.read_bytes()
    edit(path, lambda table: table.drop(columns=column))
    with pytest.raises(InputError, match=rf"{name}.* has no column '{column}'; is it the table of another set"):
        read(tmp_path)
    path.write_bytes(whole)
    edit(path, lambda table: table[:0])
    with pytest.raises(InputError, match=rf"{name}.* has no rows; copy it again"):
        read(tmp_path)
    path.write_bytes(whole)
    edit(path, lambda table: table.assign(**{column: ["", *table[column][1:]]}))
    with pytest.raises(InputError, match=rf"{name}.* has blanks in its column '{column}'"):
        read(tmp_path)
    path.write_bytes(whole[: len(whole) // 2] if name.endswith("gz") else b"\x00\xff\xfe" * 100)
    with pytest.raises(InputError, match=rf"{name}.* cannot be read as a table|has no column"):
        read(tmp_path)


@each_set
def test_repeated_rows_count_once_and_contradictions_are_refused(read: Callable[..., RawSet], tmp_path: Path) -> None:
    build, name, _ = ROOTS[read]
    path = build(tmp_path) / name
    before = splits_of(read(tmp_path))
    edit(path, lambda table: pd.concat([table, table[:2]]))
    raw = read(tmp_path)
    assert splits_of(raw) == before
    assert len(raw.images) == len(before)
    assert f"{name}: 2 rows that repeat another left out" in raw.notes
    changed = {
        chexpert: "Edema",
        mimic_cxr: "ViewPosition",
        nih_cxr14: "Finding Labels",
        padchest: "Labels",
        brax: "ViewPosition",
    }[read]
    value = {chexpert: "0.5"}.get(read, "other")
    edit(path, lambda table: pd.concat([table, table[:1].assign(**{changed: value})]))
    with pytest.raises(InputError, match=r"twice, with different entries; remove the wrong one"):
        read(tmp_path)


@pytest.mark.slow
@each_set
def test_a_root_without_its_images_is_refused(read: Callable[..., RawSet], tmp_path: Path) -> None:
    ROOTS[read][0](tmp_path / "whole")
    root = tmp_path / "tables only"
    shutil.copytree(tmp_path / "whole", root, ignore=shutil.ignore_patterns("*.jpg", "*.png"))
    with pytest.raises(InputError, match=r"(images|patients) that .* names .*the first is .*unpack all of them.*http"):
        read(root)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="--size is 8; it must be 32"):
        read(tmp_path / "whole", size=8)


@pytest.mark.parametrize("read", [nih_cxr14, padchest])
def test_a_few_missing_images_are_left_to_prepare(read: Callable[..., RawSet], tmp_path: Path) -> None:
    root = ROOTS[read][0](tmp_path)
    whole = read(root)
    gone = whole.images[7].image
    gone.unlink()
    images = list(read(root).images)
    assert [image.key for image in images] == [image.key for image in whole.images]
    assert [image.image.is_file() for image in images].count(False) == 1
    assert images[7].image.name == gone.name
    for image in list(whole.images)[10:25]:
        image.image.unlink()
    with pytest.raises(InputError, match=rf"16 of the .* not below .*the first is {gone.name}"):
        read(root)


@pytest.mark.parametrize("read", [chexpert, mimic_cxr, brax])
def test_big_trees_are_sampled(read: Callable[..., RawSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ROOTS[read][0](tmp_path)
    asked: list[Path] = []
    is_file = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(Path(path)) or is_file(path))
    read(root)
    assert len([path for path in asked if path.suffix in (".jpg", ".png")]) == 20
    images = [image.image for image in read(root).images]
    assert set(images[:: len(images) - 1]) < set(asked)
    for path in images[: int(0.7 * len(images))]:
        path.unlink()
    with pytest.raises(InputError, match=r"1[2-5] of 20 images .*the first is"):
        read(root)


@pytest.mark.parametrize(
    ("read", "options"),
    [(chexpert, ["test"]), (nih_cxr14, ["val", "test"]), (padchest, ["val", "test"]), (brax, ["val", "test"])],
)
def test_fractions_are_checked(read: Callable[..., RawSet], options: list[str], tmp_path: Path) -> None:
    root = ROOTS[read][0](tmp_path)
    for name in options:
        for value in (-0.1, 0.5):
            with pytest.raises(InputError, match=rf"--{name}-fraction is {value}; it must lie in"):
                read(root, **{f"{name}_fraction": value})


def test_missing_tables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xray_tables.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"CheXpert-v1.0\* in it has train.csv; get the set at https://stanford"):
        chexpert(tmp_path)
    with pytest.raises(InputError, match=r"has no mimic-cxr-2.0.0-metadata.csv.gz; .*physionet"):
        mimic_cxr(tmp_path)
    with pytest.raises(InputError, match=r"no Data_Entry_2017_v2020.csv or Data_Entry_2017.csv; .*nih"):
        nih_cxr14(tmp_path)
    with pytest.raises(InputError, match=rf"no {PADCHEST}; .*bimcv"):
        padchest(tmp_path)
    (chexpert_root(tmp_path / "c") / "valid.csv").unlink()
    with pytest.raises(InputError, match=r"has no valid.csv; .*stanford"):
        chexpert(tmp_path / "c")
    (nih_root(tmp_path / "n") / "test_list.txt").unlink()
    with pytest.raises(InputError, match=r"has no test_list.txt beside the other list; get it at"):
        nih_cxr14(tmp_path / "n")


@pytest.mark.slow
def test_what_stands_in_a_table_is_checked(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "c")
    edit(root / "train.csv", lambda table: table.assign(Edema="2.0"))
    with pytest.raises(InputError, match=r"c: 2 is not a label; expected 1, 0, -1 or blank"):
        chexpert(root)
    edit(root / "train.csv", lambda table: table.assign(Edema="yes"))
    with pytest.raises(InputError, match=r"train.csv cannot be read as a table"):
        chexpert(root)
    chexpert_root(root)
    edit(root / "train.csv", lambda table: table.assign(Path=table["Path"].str.replace("train/", "")))
    with pytest.raises(
        InputError, match=r"the path 'CheXpert-v1.0/patient00001/study1/.*' is not CheXpert-v1.0/train/"
    ):
        chexpert(root)
    root = nih_root(tmp_path / "n")
    edit(
        root / "Data_Entry_2017_v2020.csv",
        lambda table: table.replace({"Finding Labels": {"Mass": "Mess"}}, regex=True),
    )
    with pytest.raises(InputError, match=r"Data_Entry_2017_v2020.csv: 'Mess' is not a finding of ChestX-ray14"):
        nih_cxr14(root)
    edit(root / "Data_Entry_2017_v2020.csv", lambda table: table.assign(**{"Finding Labels": ""}))
    with pytest.raises(InputError, match=r"'' is not a finding"):
        nih_cxr14(root)
    (nih_root(tmp_path / "o") / "train_val_list.txt").write_text("a.png")
    (tmp_path / "o" / "test_list.txt").write_text("b.png")
    with pytest.raises(InputError, match=r"name no image of the table"):
        nih_cxr14(tmp_path / "o")
    root = mimic_root(tmp_path / "m")
    edit(root / "mimic-cxr-2.0.0-split.csv.gz", lambda table: table.replace({"split": {"validate": "dev"}}))
    with pytest.raises(InputError, match=r"split 'dev'; expected train, validate or test"):
        mimic_cxr(root)
    edit(root / "mimic-cxr-2.0.0-split.csv.gz", lambda table: table[5:])
    with pytest.raises(InputError, match=r"into split nan"):
        mimic_cxr(root)
    root = padchest_root(tmp_path / "p", padchest_rows().assign(PatientID=""))
    with pytest.raises(InputError, match=r"_00-007-000.png and 89 more images have no patient"):
        padchest(root)
