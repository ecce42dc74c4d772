"""BRAX: its views, its labels, its two kinds of files, and splits by patient."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_roots import brax_root
from empty_files import splits_of
from xray_roots import assert_patients_apart, edit

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.datasets.brax import brax

TABLE = "master_spreadsheet_update.csv"


def test_frontal_and_lateral_views_are_taken(tmp_path: Path) -> None:
    raw = brax(brax_root(tmp_path))
    assert raw.views == ("PA", "AP", "L")
    assert [image.facts["view"] for image in raw.images[:4]] == ["PA", "L", "AP", "L"]
    assert raw.num_images == 60 + 30  # of six kinds of second images, L, RL and LL are laterals
    assert "30 images of other views than PA, AP, AP Supine, L, COSTAL left out" in raw.notes
    assert brax(tmp_path, views=("frontal",)).num_images == 60


def test_patients_lie_apart_with_sex_and_age(tmp_path: Path) -> None:
    raw = brax(brax_root(tmp_path, 100), val_fraction=0.2, test_fraction=0.2)
    assert_patients_apart(raw, 5)
    assert raw.images[0].group == group_of("brax:id_00000000")
    assert [image.facts for image in (raw.images[0], raw.images[2])] == [
        {"view": "PA", "sex": "F", "age": "45"},
        {"view": "AP", "sex": "M", "age": "85"},
    ]


def test_labels_are_read_as_those_of_chexpert(tmp_path: Path) -> None:
    raw = brax(brax_root(tmp_path), views=("frontal",))
    table = pd.read_csv(tmp_path / TABLE)
    rows = table[table["ViewPosition"].isin(["PA", "AP"])]
    column = raw.classes.index("Effusion")
    written = rows["Pleural Effusion"].where(rows["Pleural Effusion"].isin([0, 1])).mask(rows["No Finding"] == 1, 0)
    np.testing.assert_array_equal(raw.images.labels[:, column], written.to_numpy(dtype=np.float32))
    assert "No Finding" not in raw.classes
    edit(tmp_path / TABLE, lambda table: table.assign(Edema="2"))
    with pytest.raises(InputError, match=rf"{TABLE}: 2 is not a label; expected 1, 0, -1 or blank"):
        brax(tmp_path)


def test_dicom_files_are_read_where_there_is_no_png(tmp_path: Path) -> None:
    png, dicom = brax(brax_root(tmp_path / "png")), brax(brax_root(tmp_path / "dicom", png=False))
    assert {image.image.suffix for image in png.images} == {".png"}
    assert {image.image.suffix for image in dicom.images} == {".dcm"}
    assert all(image.image.is_file() for raw in (png, dicom) for image in raw.images)
    assert list(splits_of(png).values()) == list(splits_of(dicom).values())


def test_the_table_of_the_first_version_is_read(tmp_path: Path) -> None:
    first = brax(brax_root(tmp_path / "first", table="master_spreadsheet.csv"))
    assert splits_of(first) == splits_of(brax(brax_root(tmp_path / "update")))
    (tmp_path / "first" / "master_spreadsheet.csv").unlink()
    with pytest.raises(InputError, match=rf"has no {TABLE} or master_spreadsheet.csv; .*physionet.org/content/brax"):
        brax(tmp_path / "first")
