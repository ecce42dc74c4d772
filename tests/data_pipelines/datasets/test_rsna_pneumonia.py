"""RSNA Pneumonia Detection Challenge: its two and three classes, and whose images they are."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dicom_roots import MAPPING, rsna_root
from xray_roots import assert_patients_apart, edit, nih_root

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import NO_GROUP
from data_pipelines.datasets.chest_xray import nih_cxr14
from data_pipelines.datasets.overlap import shares_images
from data_pipelines.datasets.rsna_pneumonia import rsna_pneumonia

LABELS, DETAILS = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"


def test_an_image_with_several_boxes_counts_once(tmp_path: Path) -> None:
    raw = rsna_pneumonia(rsna_root(tmp_path))
    assert (raw.num_images, raw.expected_images) == (60, 26_684)
    assert [image.label for image in raw.images] == [0, 0, 1] * 20
    assert (raw.classes, raw.metric) == (("no pneumonia", "pneumonia"), "auc")
    assert all(image.image.is_file() for image in raw.images)
    assert len({image.key for image in raw.images}) == 60


def test_details_tell_normal_from_not_normal(tmp_path: Path) -> None:
    raw = rsna_pneumonia(rsna_root(tmp_path), detailed=True)
    assert [image.label for image in raw.images] == [0, 1, 2] * 20
    assert raw.classes == ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")


def test_patients_are_those_of_nih(tmp_path: Path) -> None:
    raw = rsna_pneumonia(rsna_root(tmp_path / "rsna", 200), val_fraction=0.2, test_fraction=0.2)
    assert_patients_apart(raw, 5)
    theirs = nih_cxr14(nih_root(tmp_path / "nih", 100))
    assert set(raw.images.groups.tolist()) == set(theirs.images.groups.tolist())
    assert raw.images[0].group == raw.images[1].group != raw.images[2].group


def test_without_the_mapping_patients_are_refused_or_not_known(tmp_path: Path) -> None:
    root = rsna_root(tmp_path, mapping=False)
    with pytest.raises(InputError, match=rf"no {MAPPING}, without which .*https://www.rsna.org.* --split-by image"):
        rsna_pneumonia(root)
    raw = rsna_pneumonia(root, split_by="image", val_fraction=0.2, test_fraction=0.2)
    assert {image.group for image in raw.images} == {NO_GROUP}
    assert (raw.patients, raw.split_by) == ("may leak", "image")
    assert any("no patient is named" in note for note in raw.notes)
    splits = [image.split for image in raw.images]
    assert set(splits) == {"train", "val", "test"}
    rsna_root(tmp_path)
    known = rsna_pneumonia(root, split_by="image", val_fraction=0.2, test_fraction=0.2)
    assert [image.split for image in known.images] == splits
    assert min(image.group for image in known.images) >= 0
    assert known.patients == "may leak"


WRONG: list[Any] = [
    (LABELS, {"Target": "2"}, f"{LABELS}: the Target '2' is neither 0 nor 1; copy it again"),
    (LABELS, {"Target": ""}, f"{LABELS}: the Target nan is neither 0 nor 1"),
    (DETAILS, {"class": "Normal?"}, f"{DETAILS}: a class is none of 'Normal', 'No Lung"),
    (DETAILS, {"class": ""}, f"{DETAILS} has no row of 00000000-26dd"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_wrong_tables_are_refused(name: str, change: dict[str, str], message: str, tmp_path: Path) -> None:
    root = rsna_root(tmp_path)
    edit(root / name, lambda table: table.assign(**change))
    with pytest.raises(InputError) as refused:
        rsna_pneumonia(root, detailed=name == DETAILS)
    assert message in str(refused.value)


def test_contradicting_boxes_are_refused(tmp_path: Path) -> None:
    root = rsna_root(tmp_path)
    edit(root / LABELS, lambda table: pd.concat([table, table[:1].assign(Target="1")]))
    with pytest.raises(InputError, match=rf"{LABELS} has 00000000-26dd.* twice, with different entries"):
        rsna_pneumonia(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not RSNA's list of images"),
        pytest.param("[" * 20_000, "is not RSNA's list of images", id="too deep"),
        ("[1]", "is not RSNA's list of images"),
        ('{"a": 1}', "is not RSNA's list of images"),
        ('[{"img_id": null, "subset_img_id": "x"}]', "is not RSNA's list of images"),
        ('[{"img_id": "1.png", "subset_img_id": "00000000-26dd"}]', "does not say whose image 00000000-26dd"),
        ("[]", "does not say whose image 00000000-26dd"),
    ],
)
def test_wrong_mappings_are_refused(content: str, message: str, tmp_path: Path) -> None:
    root = rsna_root(tmp_path)
    (root / MAPPING).write_text(content)
    with pytest.raises(InputError, match=rf"{MAPPING} {message}.*; get it again at https://www.rsna.org"):
        rsna_pneumonia(root)


def test_an_image_that_the_mapping_lacks_is_named(tmp_path: Path) -> None:
    root = rsna_root(tmp_path)
    rows = json.loads((root / MAPPING).read_text())
    (root / MAPPING).write_text(json.dumps(rows[:7] + rows[8:]))
    with pytest.raises(InputError, match="does not say whose image 00000007-26dd"):
        rsna_pneumonia(root)


def test_sets_made_of_nihs_images_share_them() -> None:
    names = ["nih_cxr14", "rsna_pneumonia", "covidx", "chestmnist"]
    shared = [shares_images([one], other) for one in names for other in names if one != other]
    assert all(reason and "shares images" in reason for reason in shared)
    assert shares_images(["chexpert"], "rsna_pneumonia") is None
