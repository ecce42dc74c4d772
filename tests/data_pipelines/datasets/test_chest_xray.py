"""CheXpert, MIMIC-CXR, NIH ChestX-ray14 and PadChest: torchxrayvision's labels on every row, the owners' layouts."""

import gzip
import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from empty_files import splits_of, touch

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import group_of
from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets import chest_xray, padchest_table, xray_tables
from data_pipelines.datasets.chest_xray import chexpert, mimic_cxr, nih_cxr14, padchest
from data_pipelines.datasets.xray_views import ViewNames

VIEWS = ["PA", "AP", "AP Supine", "L", "COSTAL"]
FINDINGS = [
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


@pytest.fixture(scope="module")
def xrv() -> Any:
    import torchxrayvision.datasets

    return torchxrayvision.datasets


@pytest.fixture
def images_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every image lay in the first folder where it may: nobody has 500,000 files for a test."""

    def locate(root: Path, names: Iterable[str], folders: Sequence[str], *_: Any, **__: Any) -> list[str]:
        return [f"{folders[0]}/{name}" for name in names]

    for module in (chest_xray, padchest_table):
        monkeypatch.setattr(module, "locate", locate)
    monkeypatch.setattr(chest_xray, "require_some", lambda *_: None)


def labels_of(raw: RawSet) -> np.ndarray:
    return np.stack([image.label for image in raw.images])


def assert_patients_apart(raw: RawSet, least: int = 1) -> None:
    """No patient in two splits, and every split has some."""
    splits = defaultdict(set)
    for group, split in zip(raw.images.groups.tolist(), raw.images.splits, strict=True):
        splits[group].add(split)
    assert all(len(of_one) == 1 for of_one in splits.values())
    counts = Counter(split for of_one in splits.values() for split in of_one)
    assert min(counts[split] for split in ("train", "val", "test")) >= least
    assert raw.patients == "apart"


def assert_about_xrays(raw: RawSet) -> None:
    """What all these sets have in common."""
    assert raw.task == "multi_label"
    assert raw.xray_size == 256
    assert raw.horizontal_flip
    assert "http" in raw.source
    assert len(raw.images) == raw.num_images
    assert all(image.label.dtype == np.float32 and len(image.label) == len(raw.classes) for image in raw.images[:5])
    assert len({image.key for image in raw.images}) == raw.num_images
    assert raw.images[0].image.is_file()


# CheXpert


def chexpert_root(root: Path, patients: int = 60, prefix: str = "CheXpert-v1.0") -> Path:
    """Tables and files as Stanford packs them: a frontal image of each patient, a lateral of every third."""
    for part, numbers in (("train", range(1, patients + 1)), ("valid", range(64541, 64544))):
        rows = []
        for number in numbers:
            labels = [[1.0, -1.0, 0.0, np.nan][(number + column) % 4] for column in range(len(FINDINGS))]
            study = f"{prefix}/{part}/patient{number:05d}/study1"
            none = 1.0 if number % 5 == 0 else np.nan
            rows.append([f"{study}/view1_frontal.jpg", "Female", 60, "Frontal", "AP", none, *labels])
            if number % 3 == 0:
                rows.append([f"{study}/view2_lateral.jpg", "Female", 60, "Lateral", np.nan, none, *labels])
        columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS]
        root.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=columns).to_csv(root / f"{part}.csv", index=False)
        touch(root, [row[0].split("/", 1)[1] for row in rows])
    return root


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Write a table again after a change, every entry as it stood."""
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


@pytest.mark.slow
def test_chexpert_has_the_labels_of_torchxrayvision_on_every_row(
    xrv: Any, tmp_path: Path, images_are_there: None
) -> None:
    valid = chexpert_root(tmp_path / "small") / "valid.csv"
    root = tmp_path / "CheXpert-v1.0-small"
    root.mkdir()
    shutil.copy(valid, root)
    with gzip.open(Path(xrv.datapath) / "chexpert_train.csv.gz") as packed:
        (root / "train.csv").write_bytes(packed.read())
    raw = chexpert(root)
    theirs = xrv.CheX_Dataset("", csvpath=str(root / "train.csv"), views=VIEWS, unique_patients=False)
    assert raw.images.names[: len(theirs)] == [path.split("/", 1)[1] for path in theirs.csv["Path"]]
    assert list(raw.classes) == list(theirs.pathologies)
    assert len(theirs) == 223_397
    np.testing.assert_array_equal(raw.images.labels[: len(theirs)], theirs.labels)
    atelectasis = raw.images.labels[: len(theirs), raw.classes.index("Atelectasis")]
    assert ((atelectasis == 0).sum(), (atelectasis == 1).sum()) == (23_222, 33_374)
    patients = ["patient" + patient for patient in theirs.csv["patientid"]]
    groups = {patient: group_of(f"chexpert:{patient}") for patient in set(patients)}
    assert raw.images.groups[: len(theirs)].tolist() == [groups[patient] for patient in patients]
    assert raw.expected_images == 223_397 + 234
    assert Counter(raw.images.splits)["test"] == pytest.approx(0.02 * 223_397, rel=0.1)
    assert "17 images of other views than PA, AP, AP Supine, L, COSTAL left out" in raw.notes


def test_chexpert_valid_has_the_labels_of_torchxrayvision(xrv: Any, tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "set")
    theirs = xrv.CheX_Dataset("", csvpath=str(root / "valid.csv"), views=VIEWS, unique_patients=False)
    images = [image for image in chexpert(root).images if image.split == "val"]
    np.testing.assert_array_equal(np.stack([image.label for image in images]), theirs.labels)


def test_no_finding_makes_all_zero_but_support_devices(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path)
    edit(root / "train.csv", lambda table: table.assign(**{"Support Devices": ["1.0", "-1.0"] * (len(table) // 2)}))
    raw = chexpert(root)
    healthy = (pd.read_csv(root / "train.csv")["No Finding"] == 1).to_numpy()
    devices = raw.classes.index("Support Devices")
    labels = raw.images.labels[: len(healthy)][healthy]
    assert len(labels) == 16
    assert not np.delete(labels, devices, axis=1).any()
    np.testing.assert_array_equal(
        raw.images.labels[: len(healthy), devices], np.array([1, np.nan] * (len(healthy) // 2), dtype=np.float32)
    )


def test_chexpert_splits(tmp_path: Path) -> None:
    raw = chexpert(chexpert_root(tmp_path / "set", 200), test_fraction=0.2)
    assert_patients_apart(raw, 3)
    splits = splits_of(raw)
    assert {key.split("/")[0] for key, split in splits.items() if split == "val"} == {"valid"}
    assert 20 < len({key.split("/")[1] for key, split in splits.items() if split == "test"}) < 60
    fewer = splits_of(chexpert(chexpert_root(tmp_path / "fewer", 100), test_fraction=0.2))
    assert {key: splits[key] for key in fewer} == fewer
    assert set(splits_of(chexpert(tmp_path / "set", test_fraction=0)).values()) == {"train", "val"}
    assert_about_xrays(raw)


def test_chexpert_lies_in_root_below_it_or_in_batches(tmp_path: Path) -> None:
    plain = chexpert_root(tmp_path / "plain")
    keys = splits_of(chexpert(plain))
    small = chexpert_root(tmp_path / "parent" / "CheXpert-v1.0-small", prefix="CheXpert-v1.0-small")
    assert splits_of(chexpert(small)) == splits_of(chexpert(small.parent)) == keys
    batches = [f"CheXpert-v1.0 batch {name}" for name in ("1 (validate & csv)", "2 (train 1)", "3 (train 2)")]
    root = tmp_path / "batches"
    shutil.copytree(plain, root / batches[0], ignore=shutil.ignore_patterns("train"))
    for patient in sorted((plain / "train").iterdir()):
        batch = batches[1] if patient.name < "patient00031" else batches[2]
        shutil.copytree(patient, root / batch / patient.name)
    raw = chexpert(root)
    assert splits_of(raw) == keys
    assert all(image.image.is_file() for image in raw.images)
    shutil.copytree(small, root / "CheXpert-v1.0")
    with pytest.raises(InputError, match=r"holds 2 sets, .*pass one of them"):
        chexpert(root)


def test_views_are_chosen(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "set")
    assert len(chexpert(root).images) == 60 + 20 + 3 + 1
    assert len(chexpert(root, views=("AP",)).images) == 63
    assert chexpert(root, views=("AP",)).expected_images is None
    edit(root / "train.csv", lambda table: table.replace({"AP/PA": {"AP": "LL"}}))
    assert "60 images of other views than PA, AP, AP Supine, L, COSTAL left out" in chexpert(root).notes
    with pytest.raises(InputError, match="no image has one of the --views COSTAL; the set has LL, L, AP"):
        chexpert(root, views=("COSTAL",))


def test_a_patient_in_both_tables_is_told(tmp_path: Path) -> None:
    root = chexpert_root(tmp_path / "set")
    edit(root / "valid.csv", lambda table: table.replace({"Path": {"patient64541": "patient00007"}}, regex=True))
    touch(root, ["valid/patient00007/study1/view1_frontal.jpg"])
    raw = chexpert(root)
    assert raw.patients == "may leak"
    assert "patients with images in more than one split: 1" in raw.notes


# MIMIC


def mimic_root(root: Path, studies: int = 120, packed: bool = True) -> Path:
    """Tables in the columns of MIMIC-CXR-JPG and the files they name: one to three images a study, two studies a
    patient."""
    rng = np.random.default_rng(0)
    views = ["PA", "AP", "LATERAL", "LL", np.nan, "PA LLD"]
    images, labels, splits = [], [], []
    for study in range(studies):
        subject, number = 10000032 + study // 2, 50414267 + study
        if study % 40 != 39:  # some studies have no labels
            values = rng.choice([1.0, 0.0, -1.0, np.nan], len(FINDINGS))
            labels.append([subject, number, *values, 1.0 if study % 4 == 0 else np.nan])
        for image in range(1 + study % 3):
            dicom = "-".join(
                hashlib.sha256(f"{study} {image}".encode()).hexdigest()[at : at + 8] for at in range(0, 40, 8)
            )
            view = views[(study + image) % len(views)]
            images.append([dicom, subject, number, "CHEST", view, 3056, 2544, 21800506, 213014.5, "x", "y", "z"])
            splits.append([dicom, number, subject, ("train", "train", "train", "validate", "test")[study // 2 % 5]])
    tables = {
        "metadata": [
            *(
                "dicom_id",
                "subject_id",
                "study_id",
                "PerformedProcedureStepDescription",
                "ViewPosition",
                "Rows",
                "Columns",
            ),
            *("StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
            "PatientOrientationCodeSequence_CodeMeaning",
        ],
        "chexpert": ["subject_id", "study_id", *FINDINGS, "No Finding"],
        "split": ["dicom_id", "study_id", "subject_id", "split"],
    }
    root.mkdir(parents=True, exist_ok=True)
    for (name, columns), rows in zip(tables.items(), (images, labels, splits), strict=True):
        pd.DataFrame(rows, columns=columns).to_csv(root / f"mimic-cxr-2.0.0-{name}.csv{'.gz' * packed}", index=False)
    touch(root, [f"files/p{str(row[1])[:2]}/p{row[1]}/s{row[2]}/{row[0]}.jpg" for row in images])
    return root


@pytest.mark.parametrize(
    ("views", "spelled"), [(("PA", "AP"), ["PA", "AP"]), (("all",), ["PA", "AP", "LATERAL", "LL"])]
)
def test_mimic_has_torchxrayvisions_labels_and_support_devices(
    xrv: Any, tmp_path: Path, views: ViewNames, spelled: list[str]
) -> None:
    root = mimic_root(tmp_path)
    tables = [str(root / f"mimic-cxr-2.0.0-{name}.csv.gz") for name in ("chexpert", "metadata")]
    theirs = xrv.MIMIC_Dataset(str(root / "files"), *tables, views=spelled, unique_patients=False)
    raw = mimic_cxr(root, views=views)
    row_of = {image.image.stem: row for row, image in enumerate(raw.images)}
    assert sorted(row_of) == sorted(theirs.csv["dicom_id"])
    ours = labels_of(raw)[[row_of[dicom] for dicom in theirs.csv["dicom_id"]]]
    assert list(raw.classes) == list(theirs.pathologies)
    np.testing.assert_array_equal(ours[:, :-1], theirs.labels[:, :-1])
    written = pd.read_csv(tables[0]).set_index("study_id")["Support Devices"].replace(-1, np.nan)
    np.testing.assert_array_equal(ours[:, -1], written[theirs.csv["study_id"]].to_numpy(dtype=np.float32))
    sick = theirs.csv["No Finding"].isna().to_numpy()
    np.testing.assert_array_equal(ours[sick, -1], theirs.labels[sick, -1])
    assert not np.array_equal(ours[~sick, -1], theirs.labels[~sick, -1], equal_nan=True)


def test_mimic_keeps_the_official_splits_and_patients(tmp_path: Path) -> None:
    raw = mimic_cxr(mimic_root(tmp_path))
    assert_about_xrays(raw)
    assert_patients_apart(raw, 10)
    official = pd.read_csv(tmp_path / "mimic-cxr-2.0.0-split.csv.gz").set_index("dicom_id")["split"]
    for image in raw.images:
        assert image.split == {"train": "train", "validate": "val", "test": "test"}[official[image.image.stem]]
        assert image.group == group_of(f"mimic_cxr:{image.image.parts[-3][1:]}")
        assert image.image.is_file()
        assert image.key.startswith("files/p10/p100000")
    assert "6 images of studies that mimic-cxr-2.0.0-chexpert.csv.gz lacks left out" in raw.notes
    assert splits_of(mimic_cxr(mimic_root(tmp_path / "unpacked", packed=False))) == splits_of(raw)


# NIH


def nih_root(root: Path, patients: int = 80, lists: bool = True, table: str = "Data_Entry_2017_v2020.csv") -> Path:
    """Two images of each patient over two of the folders that NIH's archives unpack to."""
    names = [f"{patient:08d}_{image:03d}.png" for patient in range(1, patients + 1) for image in range(2)]
    findings = ["No Finding", "Cardiomegaly|Emphysema", "Pleural_Thickening", "Mass|Nodule|Pneumothorax"]
    rows = [
        [name, findings[row % 4], row % 2, row // 2 + 1, 57, "M", ("PA", "AP")[row % 2]]
        for row, name in enumerate(names)
    ]
    columns = [
        "Image Index",
        "Finding Labels",
        "Follow-up #",
        "Patient ID",
        "Patient Age",
        "Patient Sex",
        "View Position",
    ]
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(root / table, index=False)
    half = len(names) // 2
    touch(root / "images_001" / "images", names[:half])
    touch(root / "images_002" / "images", names[half:])
    if lists:
        (root / "train_val_list.txt").write_text("\n".join(names[:-20]))
        (root / "test_list.txt").write_text("\r\n".join(names[-20:]) + "\r\n")
    return root


def test_nih_has_the_labels_of_torchxrayvision_on_every_row(xrv: Any, tmp_path: Path, images_are_there: None) -> None:
    """Without a table in the folder, so from the copy that torchxrayvision has."""
    raw = nih_cxr14(tmp_path)
    theirs = xrv.NIH_Dataset(str(tmp_path), views=VIEWS, unique_patients=False)
    assert raw.images.names == theirs.csv["Image Index"].tolist()
    assert list(raw.classes) == theirs.pathologies
    assert len(theirs) == 112_120 == raw.num_images == raw.expected_images
    np.testing.assert_array_equal(raw.images.labels, theirs.labels)
    assert len(set(raw.images.groups.tolist())) == 30_805
    assert raw.patients == "apart"
    shares = {split: count / 112_120 for split, count in Counter(raw.images.splits).items()}
    assert shares == pytest.approx({"train": 0.96, "val": 0.02, "test": 0.02}, abs=0.003)
    assert any("copy in torchxrayvision" in note for note in raw.notes)
    assert any("no official split" in note for note in raw.notes)


def test_nih_tests_on_the_official_list_and_splits_by_patient(tmp_path: Path) -> None:
    raw = nih_cxr14(nih_root(tmp_path), val_fraction=0.2)
    assert_about_xrays(raw)
    assert_patients_apart(raw, 5)
    test = {key for key, split in splits_of(raw).items() if split == "test"}
    assert test == {name.replace(".", "_") for name in (tmp_path / "test_list.txt").read_text().split()}
    assert raw.images[0].group == group_of("nih_cxr14:1")
    assert raw.notes == ("views: PA, AP",)
    assert raw.patients == "apart"
    assert set(splits_of(nih_cxr14(tmp_path, val_fraction=0)).values()) == {"train", "test"}
    listed = [line for line in (tmp_path / "train_val_list.txt").read_text().split() if not line.startswith("00000001")]
    (tmp_path / "train_val_list.txt").write_text("\n".join(listed))
    assert "2 images that are in neither official list left out" in nih_cxr14(tmp_path).notes
    assert len(nih_cxr14(tmp_path).images) == 158


def test_nih_without_lists_draws_by_patient(tmp_path: Path) -> None:
    raw = nih_cxr14(nih_root(tmp_path, lists=False), val_fraction=0.2, test_fraction=0.2)
    assert_patients_apart(raw, 5)
    assert any("drawn by patient" in note for note in raw.notes)


@pytest.mark.parametrize("folder", ["images_001/images", "images_007", "images", "."])
def test_nih_images_lie_in_any_of_the_layouts(tmp_path: Path, folder: str) -> None:
    nih_root(tmp_path, table="Data_Entry_2017.csv")
    names = nih_cxr14(tmp_path).images.names
    for old in ("images_001", "images_002"):
        shutil.rmtree(tmp_path / old)
    touch(tmp_path / folder, names)
    raw = nih_cxr14(tmp_path)
    assert all(image.image.is_file() for image in raw.images)
    assert [image.key for image in raw.images] == [name.replace(".", "_") for name in names]
    touch(tmp_path, ["images/" + names[0], "images_009/" + names[0]])
    assert nih_cxr14(tmp_path).images[0].image == tmp_path / "images" / names[0]


# PadChest


def padchest_rows(count: int = 90) -> pd.DataFrame:
    rows = []
    for row in range(count):
        name = f"2168401113669640128190672070611200931407114{row:04d}_00-007-{row:03d}.png"
        text = ("['normal']", "['mass', 'pneumonia']", "['pleural thickening']")[row % 3]
        projection = ("PA", "L", "AP_horizontal", "COSTAL")[row % 4]
        rows.append([row, name, row % 3, 20140915, 84 * 10**37 + row // 2, 1930.0, "F", projection, text])
    demographics = ["StudyDate_DICOM", "PatientID", "PatientBirth", "PatientSex_DICOM"]
    return pd.DataFrame(rows, columns=["", "ImageID", "ImageDir", *demographics, "Projection", "Labels"])


def padchest_root(root: Path, rows: pd.DataFrame | None = None) -> Path:
    table = padchest_rows() if rows is None else rows
    root.mkdir(parents=True, exist_ok=True)
    table.to_csv(root / f"{PADCHEST}.gz", index=False)
    touch(root, [f"{folder}/{name}" for folder, name in zip(table["ImageDir"], table["ImageID"], strict=True)])
    return root


@pytest.mark.slow
def test_padchest_has_the_labels_of_torchxrayvision_on_every_row(
    xrv: Any, tmp_path: Path, images_are_there: None
) -> None:
    raw = padchest(tmp_path)
    theirs = xrv.PC_Dataset(str(tmp_path), views=VIEWS, unique_patients=False)
    order = np.argsort(raw.images.names)
    assert [raw.images.names[row] for row in order] == theirs.csv["ImageID"].tolist()
    assert set(theirs.pathologies) - set(raw.classes) == {"Tube"}
    columns = [theirs.pathologies.index(name) for name in raw.classes]
    np.testing.assert_array_equal(raw.images.labels[order], theirs.labels[:, columns])
    assert len(theirs) == 158_597 == raw.num_images == raw.expected_images
    assert_patients_apart(raw, 500)
    assert raw.notes[-3:] == (
        "103 images without labels left out",
        "2,121 images of children or without year of birth left out",
        "21 images that cannot be read left out",
    )


def test_padchest_splits_and_layouts(tmp_path: Path) -> None:
    raw = padchest(padchest_root(tmp_path / "dirs"), val_fraction=0.2, test_fraction=0.2)
    assert_about_xrays(raw)
    assert_patients_apart(raw, 3)
    assert raw.images[0].group == group_of(f"padchest:{84 * 10**37}")
    for number, folder in enumerate((".", "images")):
        root = tmp_path / str(number)
        root.mkdir()
        padchest_rows().to_csv(root / PADCHEST, index=False)
        touch(root / folder, padchest_rows()["ImageID"])
        other = padchest(root, val_fraction=0.2, test_fraction=0.2)
        assert splits_of(other) == splits_of(raw)
        assert all(image.image.is_file() for image in other.images)


# All of them


def test_the_four_sets_share_seven_findings(tmp_path: Path) -> None:
    sets = [
        chexpert(chexpert_root(tmp_path / "chexpert")),
        mimic_cxr(mimic_root(tmp_path / "mimic")),
        nih_cxr14(nih_root(tmp_path / "nih")),
        padchest(padchest_root(tmp_path / "padchest")),
    ]
    assert [len(raw.classes) for raw in sets] == [13, 13, 14, 27]
    shared = set.intersection(*(set(raw.classes) for raw in sets))
    also = {"Consolidation", "Edema", "Effusion", "Pneumonia", "Pneumothorax"}
    assert shared == {"Atelectasis", "Cardiomegaly", *also}


ROOTS: dict[Callable[..., RawSet], tuple[Callable[[Path], Path], str, str]] = {
    chexpert: (chexpert_root, "train.csv", "Path"),
    mimic_cxr: (mimic_root, "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id"),
    nih_cxr14: (nih_root, "Data_Entry_2017_v2020.csv", "Image Index"),
    padchest: (padchest_root, f"{PADCHEST}.gz", "ImageID"),
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
    changed = {chexpert: "Edema", mimic_cxr: "ViewPosition", nih_cxr14: "Finding Labels", padchest: "Labels"}[read]
    value = {chexpert: "0.5"}.get(read, "other")
    edit(path, lambda table: pd.concat([table, table[:1].assign(**{changed: value})]))
    with pytest.raises(InputError, match=r"twice, with different entries; remove the wrong one"):
        read(tmp_path)


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


@pytest.mark.parametrize("read", [chexpert, mimic_cxr])
def test_big_trees_are_sampled(read: Callable[..., RawSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ROOTS[read][0](tmp_path)
    asked: list[Path] = []
    is_file = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(Path(path)) or is_file(path))
    read(root)
    assert len([path for path in asked if path.suffix == ".jpg"]) == 20
    images = [image.image for image in read(root).images]
    assert set(images[:: len(images) - 1]) < set(asked)
    for path in images[: int(0.7 * len(images))]:
        path.unlink()
    with pytest.raises(InputError, match=r"1[2-5] of 20 images .*the first is"):
        read(root)


@pytest.mark.parametrize(
    ("read", "options"),
    [(chexpert, ["test"]), (nih_cxr14, ["val", "test"]), (padchest, ["val", "test"])],
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
