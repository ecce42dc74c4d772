"""Shared by the chest X-ray readers: label tables, image files, and splits by patient."""

import importlib.util
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_pipelines.common.errors import InputError
from data_pipelines.common.patients import NO_GROUP, Patients, group_of
from data_pipelines.common.raw_set import RawImage, RawSet, key_of
from data_pipelines.common.splits import hash_split
from data_pipelines.datasets.reading import require_fractions
from data_pipelines.datasets.xray_views import VIEWS, ViewNames, views_named

Labels = npt.NDArray[np.float32]

_FACTS = ("view", "sex", "age")
_SAMPLED_FILES = 20
_MOST_MISSING = 0.05


@dataclass(frozen=True, eq=False)
class XrayImages(Sequence[RawImage]):
    """The rows of a table as images, each made when it is asked for: 377,000 paths at once take hundreds of MB.

    names: of which the keys are made. files: relative to `root`. labels: int64 [N], or float32 [N, C]. facts: by name,
    such as "view", a text for each image.
    """

    root: Path
    names: Sequence[str]
    files: Sequence[str]
    splits: Sequence[Any]
    labels: npt.NDArray[Any]
    groups: npt.NDArray[np.int64]
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> RawImage: ...
    @overload
    def __getitem__(self, row: slice) -> list[RawImage]: ...
    def __getitem__(self, row: int | slice) -> RawImage | list[RawImage]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        label = int(self.labels[row]) if self.labels.ndim == 1 else self.labels[row]
        path = self.root / self.files[row]
        facts = {name: values[row] for name, values in self.facts.items() if values[row]}
        return RawImage(key_of(self.names[row]), self.splits[row], path, label, int(self.groups[row]), facts)


def xray_set(
    root: Path,
    table: pd.DataFrame,
    labels: npt.NDArray[Any],
    patients_of: str | None,
    notes: Sequence[str],
    **fields: Any,
) -> RawSet:
    """The RawSet of a table with the columns name, file and split, and a row of `labels` for each row of it.

    patients_of: the set that the patients in the column patient are of, for their groups; whether they lie apart is
    counted, not assumed. None where nothing names the patients.
    """
    groups, patients, about_patients = _groups(table, patients_of)
    views = tuple(view for view in VIEWS if "view" in table and (table["view"] == view).any())
    images = XrayImages(
        root,
        table["name"].tolist(),
        table["file"].tolist(),
        table["split"].tolist(),
        labels,
        groups,
        {name: table[name].fillna("").astype(str).tolist() for name in _FACTS if name in table},
    )
    return RawSet(
        images=images,
        num_images=len(images),
        patients=patients,
        horizontal_flip=True,  # as the paper does, although it puts the heart on the wrong side
        notes=(*([f"views: {', '.join(views)}"] if views else []), *notes, *about_patients),
        views=views,
        **fields,
    )


def _groups(table: pd.DataFrame, of: str | None) -> tuple[npt.NDArray[np.int64], Patients, list[str]]:
    """The group of each row, whether its patients lie apart, and a note where they do not."""
    if of is None:
        note = "no patient is named: one may have images in several splits, and intervals take each image for a patient"
        return np.full(len(table), NO_GROUP, dtype=np.int64), "may leak", [note]
    if (nobody := table["patient"].isna()).any():
        raise InputError(f"{table.loc[nobody, 'name'].iloc[0]} and {int(nobody.sum()) - 1} more images have no patient")
    groups = table["patient"].map({one: group_of(f"{of}:{one}") for one in table["patient"].unique()})
    parted = int((table.groupby("patient")["split"].nunique() > 1).sum())
    notes = [f"patients with images in more than one split: {parted:,}"] if parted else []
    return groups.to_numpy(dtype=np.int64), "may leak" if parted else "apart", notes


def require_options(root: Path, size: int, **fractions: float) -> None:
    """Raise InputError for a root that is not a folder, pictures too small to show anything, or impossible splits."""
    if not root.is_dir():
        raise InputError(f"--root {root} is not a folder")
    if size < 32:
        raise InputError(f"--size is {size}; it must be 32 pixels or more")
    require_fractions(**fractions)


def find_table(root: Path, names: Sequence[str], home: str, shipped: str | None = None) -> tuple[Path, list[str]]:
    """The first of some tables that lies in `root`, packed or not, else the copy that torchxrayvision has; with a note
    where it is that. Raises InputError, which says where the set is to be had."""
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path, []
    # Found without importing it, which would take seconds.
    package = importlib.util.find_spec("torchxrayvision") if shipped else None
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "data" / str(shipped)
        if path.is_file():
            return path, [f"{names[0]} was not in the folder; the labels are from the copy in torchxrayvision"]
    raise InputError(f"{root} has no {' or '.join(names)}; the set is to be had at {home}")


def read_xray_table(
    path: Path, texts: Mapping[str, str], numbers: Sequence[str] = (), key: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of a CSV file: `texts` as strings under the names that they are given, `numbers` as float32, NaN where
    blank. Rows that are equal in all of them are taken once, with a note of how many.

    key: those of `texts` that tell a row from all others, of which none is blank; () is the first, which names the
    image. Raises InputError for a file that cannot be read, has no rows, or lacks a column, and for rows that only
    differ in other columns than `key`.
    """
    try:
        header = pd.read_csv(path, nrows=0).columns
        if missing := [column for column in (*texts, *numbers) if column not in header]:
            raise InputError(f"{path} has no column {', '.join(map(repr, missing))}; is it the table of another set?")
        types = {**dict.fromkeys(texts, str), **dict.fromkeys(numbers, np.float32)}
        table = pd.read_csv(path, usecols=list(types), dtype=types)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table ({error}); copy it again from where it came") from error
    names = list(key or [next(iter(texts))])
    blank = [name for name in names if table[name].isna().any()]
    if table.empty or blank:
        raise InputError(f"{path} has {f'blanks in its column {blank[0]!r}' if blank else 'no rows'}; copy it again")
    once = table.drop_duplicates(ignore_index=True)
    if (twice := once.duplicated(names)).any():
        raise InputError(
            f"{path} has {once.loc[twice, names[0]].iloc[0]} twice, with different entries; remove the wrong one"
        )
    repeated = len(table) - len(once)
    notes = [f"{path.name}: {repeated:,} rows that repeat another left out"] if repeated else []
    return once.rename(columns=dict(texts)), notes


def of_views(table: pd.DataFrame, views: ViewNames) -> tuple[pd.DataFrame, list[str]]:
    """The rows of these views, with a note of how many are not. Raises InputError for none."""
    named = views_named(views)
    chosen = table["view"].isin(named)
    if not chosen.any():
        raise InputError(f"no image has one of the --views {' '.join(views)}; the set has {_some(table['view'])}")
    left_out = int((~chosen).sum())
    notes = [f"{left_out:,} images of other views than {', '.join(named)} left out"] if left_out else []
    return table[chosen].reset_index(drop=True), notes


def _some(values: "pd.Series[Any]") -> str:
    return ", ".join(map(str, values.dropna().unique()[:8]))


def label_rows(texts: "pd.Series[Any]", row: Callable[[str], Sequence[bool]]) -> Labels:
    """The labels of each text; most texts stand in thousands of rows and are read once."""
    number, different = pd.factorize(texts)
    labels: Labels = np.array([row(text) for text in different], dtype=np.float32)[number]
    return labels


def split_patients(patients: "pd.Series[Any]", of: str, val_fraction: float, test_fraction: float) -> "pd.Series[Any]":
    """The split of each row, by a hash of its patient."""
    return patients.map({one: hash_split(f"{of}:{one}", val_fraction, test_fraction) for one in patients.unique()})


def locate(
    root: Path, names: Iterable[str], folders: Sequence[str], table: Path, home: str, what: str = "images"
) -> list[str]:
    """Where images, or `what` else, lie, relative to `root`: in the first of some folders that has them. Each folder is
    listed once, since asking for every file by itself takes minutes on a parallel file system.

    What is nowhere gets the place where it was expected first. Raises InputError if that holds for more than
    one of twenty.
    """
    found: dict[str, str] = {}
    for folder in folders:
        if (root / folder).is_dir():
            for name in os.listdir(root / folder):
                found.setdefault(name, folder)
    names = list(names)
    missing = [name for name in names if name not in found]
    if len(missing) > _MOST_MISSING * len(names):
        raise InputError(
            f"{len(missing):,} of the {len(names):,} {what} that {table} names are not below {root}, the first is "
            f"{missing[0]}; unpack all of them there, the set is to be had at {home}"
        )
    return [f"{found.get(name, folders[0])}/{name}" for name in names]


def require_some(root: Path, files: Sequence[str], table: Path, home: str) -> None:
    """Raise InputError if most of a few files, evenly spaced, do not exist; a tree of 377,000 files is not walked."""
    sample = [files[row] for row in np.linspace(0, len(files) - 1, min(_SAMPLED_FILES, len(files))).astype(int)]
    missing = [file for file in sample if not os.path.isfile(root / file)]
    if 2 * len(missing) > len(sample):
        raise InputError(
            f"{len(missing)} of {len(sample)} images that {table} names and that were looked for are not below {root}, "
            f"the first is {missing[0]}; unpack all of them there, the set is to be had at {home}"
        )


def paper_test_rows(count: int, train_share: float) -> npt.NDArray[np.bool_]:
    """Which of `count` rows the paper tests on: those after the first `train_share` of the rows, as NumPy's
    RandomState(42) shuffles them. Source: the code that Cherti & Jitsev published with arXiv:2106.00116."""
    order = np.arange(count)
    np.random.RandomState(42).shuffle(order)
    is_test = np.zeros(count, dtype=np.bool_)
    is_test[order[int(count * train_share) :]] = True
    return is_test
