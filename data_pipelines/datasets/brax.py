"""Reader of BRAX: chest X-rays from Brazil, with CheXpert's findings."""

from pathlib import Path

from data_pipelines.common.raw_set import RawSet
from data_pipelines.datasets.chexpert_labels import CHEXPERT_COLUMNS, CHEXPERT_FINDINGS, chexpert_labels
from data_pipelines.datasets.xray_tables import (
    find_table,
    of_views,
    read_xray_table,
    require_options,
    require_some,
    split_patients,
    xray_set,
)
from data_pipelines.datasets.xray_views import ViewNames

BRAX_HOME = "https://physionet.org/content/brax/"

_TABLES = ("master_spreadsheet_update.csv", "master_spreadsheet.csv")  # of 1.1.0, and of 1.0.0
_LATERAL = ("LL", "RL", "LATERAL")  # beside L


def brax(
    root: Path,
    val_fraction: float = 0.05,
    test_fraction: float = 0.1,
    views: ViewNames = ("all",),
    size: int = 256,
) -> RawSet:
    """BRAX: 13 findings, 40,967 X-rays of all views from Brazil (Reis et al. 2022).

    ROOT holds master_spreadsheet_update.csv (1.1.0; or master_spreadsheet.csv of 1.0.0) and what it names: images/ with
    PNG files or, where that is not there, Anonymized_DICOMs/. Labels are of CheXpert's labeller on reports in
    Portuguese, and read as the chexpert command reads them. LL and RL count as L; images of decubitus and oblique views
    or of none are left out. val and test are drawn by patient. PhysioNet's credentialed health data licence and data
    use agreement: named users only, not to be shared.
    """
    require_options(root, size, val=val_fraction, test=test_fraction)
    path, _ = find_table(root, _TABLES, BRAX_HOME)
    column = "PngPath" if (root / "images").is_dir() else "DicomPath"
    texts = {column: "file", "PatientID": "patient", "ViewPosition": "view", "PatientSex": "sex", "PatientAge": "age"}
    table, notes = read_xray_table(path, texts, ("No Finding", *CHEXPERT_COLUMNS))
    table["view"] = table["view"].replace(dict.fromkeys(_LATERAL, "L"))
    table["age"] = table["age"].str.extract(r"^(\d+)", expand=False)  # the oldest are "85 or more"
    table, left_out = of_views(table, views)
    table["split"] = split_patients(table["patient"], "brax", val_fraction, test_fraction)
    require_some(root, table["file"].tolist(), path, BRAX_HOME)
    return xray_set(
        root,
        table.assign(name=table["file"]),
        chexpert_labels(table, path),
        "brax",
        [*notes, *left_out],
        name="brax",
        task="multi_label",
        classes=CHEXPERT_FINDINGS,
        source=f"BRAX (Reis et al. 2022), {BRAX_HOME}; PhysioNet credentialed health data licence",
        xray_size=size,
    )
