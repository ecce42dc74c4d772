"""PadChest's table of labels, shared by its source and its target set."""

from pathlib import Path

import pandas as pd

from data_pipelines.datasets.xray_tables import Labels, find_table, label_rows, locate, of_views, read_xray_table
from data_pipelines.datasets.xray_views import ViewNames

PADCHEST_HOME = "https://bimcv.cipf.es/bimcv-projects/padchest/"
# 16-bit PNG, which arXiv:2106.00116's program and torchxrayvision divide by 65,535.
PADCHEST_BITS = 16
_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"

# Each finding with what it is called in PadChest's labels; part of a label is enough. torchxrayvision has a 28th, Tube.
_WORDS = {
    "Air Trapping": ("air trapping",),
    "Aortic Atheromatosis": ("aortic atheromatosis",),
    "Aortic Elongation": ("aortic elongation",),
    "Atelectasis": ("atelectasis",),
    "Bronchiectasis": ("bronchiectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Consolidation": ("consolidation", "air bronchogram"),
    "Costophrenic Angle Blunting": ("costophrenic angle blunting",),
    "Edema": ("edema",),
    "Effusion": ("effusion",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("fibrosis",),
    "Flattened Diaphragm": ("flattened diaphragm",),
    "Fracture": ("fracture",),
    "Granuloma": ("granuloma",),
    "Hemidiaphragm Elevation": ("hemidiaphragm elevation",),
    "Hernia": ("hernia",),
    "Hilar Enlargement": ("hilar enlargement", "adenopathy", "pulmonary artery enlargement"),
    "Infiltration": (
        "infiltration",
        "infiltrates",
        "interstitial pattern",
        "ground glass pattern",
        "alveolar pattern",
        "consolidation",
        "air bronchogram",
    ),
    "Mass": ("mass",),
    "Nodule": ("nodule",),
    "Pleural_Thickening": ("pleural thickening",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Scoliosis": ("scoliosis",),
    "Support Devices": ("device", "pacemaker"),
    "Tuberculosis": ("tuberculosis",),
}
PADCHEST_FINDINGS = tuple(_WORDS)
_ADULT_BORN_BEFORE = 2009  # torchxrayvision leaves out who turned ten or less in 2019

# Files that torchxrayvision leaves out because they are absent, truncated or broken.
_UNREADABLE = {
    "216840111366964012283393834152009033102258826_00-059-087.png",
    "216840111366964012339356563862009072111404053_00-043-192.png",
    "216840111366964012373310883942009117084022290_00-064-025.png",
    "216840111366964012373310883942009152114636712_00-102-045.png",
    "216840111366964012373310883942009170084120009_00-097-074.png",
    "216840111366964012487858717522009280135853083_00-075-001.png",
    "216840111366964012558082906712009327122220177_00-102-064.png",
    "216840111366964012819207061112010281134410801_00-129-131.png",
    "216840111366964012819207061112010306085429121_04-020-102.png",
    "216840111366964012819207061112010307142602253_04-014-084.png",
    "216840111366964012819207061112010315104455352_04-024-184.png",
    "216840111366964012959786098432011033083840143_00-176-115.png",
    "216840111366964012989926673512011074122523403_00-163-058.png",
    "216840111366964012989926673512011083134050913_00-168-009.png",
    "216840111366964012989926673512011151082430686_00-157-045.png",
    "216840111366964013076187734852011291090445391_00-196-188.png",
    "216840111366964013590140476722013043111952381_02-065-198.png",
    "216840111366964013590140476722013058110301622_02-056-111.png",
    "216840111366964013686042548532013208193054515_02-026-007.png",
    "216840111366964013829543166512013353113303615_02-092-190.png",
    "216840111366964013962490064942014134093945580_01-178-104.png",
}

# Nine more that the published code of arXiv:2106.00116 leaves out, so that its random split can be drawn again.
UNREADABLE_IN_PAPER = _UNREADABLE | {
    "216840111366964012283393834152009027091819347_00-007-136.png",
    "216840111366964012283393834152009033140208626_00-059-118.png",
    "216840111366964012373310883942009077082646386_00-047-124.png",
    "216840111366964012373310883942009180082307973_00-097-011.png",
    "216840111366964012904401302362010336141343749_03-198-010.png",
    "216840111366964012904401302362010337093236130_03-198-079.png",
    "216840111366964013590140476722013049100117076_02-063-097.png",
    "216840111366964013649110343042013092101343018_02-075-146.png",
    "269300710246070740096540277379121868595_e7zsan.png",
}


def read_padchest(root: Path, views: ViewNames) -> tuple[Path, pd.DataFrame, list[str]]:
    """The table and its rows of these views that have labels, in its order: name, folder, patient, born, text."""
    path, notes = find_table(root, [_TABLE], PADCHEST_HOME, shipped=f"{_TABLE}.gz")
    texts = {"ImageID": "name", "ImageDir": "folder", "PatientID": "patient", "Projection": "view", "Labels": "text"}
    table, repeats = read_xray_table(path, texts, ["PatientBirth"])
    table["view"] = table["view"].replace({"AP_horizontal": "AP Supine"})
    table, left_out = of_views(table, views)
    has_labels = table["text"].notna()
    notes = [*notes, *repeats, *left_out]
    if not has_labels.all():
        notes.append(f"{int((~has_labels).sum()):,} images without labels left out")
    return path, table[has_labels].rename(columns={"PatientBirth": "born"}).reset_index(drop=True), notes


def readable_adults(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows that torchxrayvision keeps, with notes of how many it does not."""
    is_adult, is_unreadable = table["born"] < _ADULT_BORN_BEFORE, table["name"].isin(_UNREADABLE)
    left_out = {
        "images of children or without year of birth": int((~is_adult & ~is_unreadable).sum()),
        "images that cannot be read": int(is_unreadable.sum()),
    }
    notes = [f"{count:,} {what} left out" for what, count in left_out.items() if count]
    return table[is_adult & ~is_unreadable].reset_index(drop=True), notes


def padchest_labels(table: pd.DataFrame) -> Labels:
    """float32 [N, 27] of 0 and 1."""
    return label_rows(table["text"], lambda text: [any(word in text for word in words) for words in _WORDS.values()])


def find_padchest(root: Path, table: pd.DataFrame, path: Path) -> list[str]:
    """Where the images lie, relative to `root`."""
    folders = sorted(table["folder"].dropna().unique())
    return locate(root, table["name"], ["images", ".", *folders], path, PADCHEST_HOME)
