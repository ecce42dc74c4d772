"""CheXpert's findings, and its labels in tables: of CheXpert itself, and of the sets that its labeller was run on."""

from pathlib import Path

import numpy as np
import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.datasets.xray_tables import Labels

CHEXPERT_COLUMNS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
# Other sets say Effusion, and findings are joined by name.
CHEXPERT_FINDINGS = tuple("Effusion" if column == "Pleural Effusion" else column for column in CHEXPERT_COLUMNS)


def chexpert_labels(table: pd.DataFrame, path: Path) -> Labels:
    """float32 [N, 13]: uncertain (-1) and blank are NaN, but where there is no finding all are 0 but support devices.

    torchxrayvision 1.5.7 does the same for CheXpert; for MIMIC it also zeroes Support Devices, pacemakers and all.
    path: the file that a label of another kind is looked for in. Raises InputError for one.
    """
    labels: Labels = table[list(CHEXPERT_COLUMNS)].to_numpy(dtype=np.float32, copy=True)
    if (strange := ~(np.isnan(labels) | np.isin(labels, (-1, 0, 1)))).any():
        raise InputError(f"{path}: {labels[strange][0]:g} is not a label; expected 1, 0, -1 or blank")
    findings = np.array(CHEXPERT_COLUMNS) != "Support Devices"
    labels[np.ix_((table["No Finding"] == 1).to_numpy(), findings)] = 0
    labels[labels == -1] = np.nan
    return labels
