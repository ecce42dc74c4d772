"""Files as the owners of data sets distribute them."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tar_files import tar_writer
from user_films import VIEWS, Films, Rows, write_dicom


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a tar of some files, by name, and returns its path; None makes a folder."""
    return tar_writer(tmp_path)


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """A function that creates empty files (readers do not open them) and returns the root."""

    def create(folder: str, names: Sequence[str] = ("0.jpg",)) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (tmp_path / folder / name).touch()
        return tmp_path

    return create


@pytest.fixture
def films(tmp_path: Path) -> Films:
    """90 films of 40 patients, of two classes; of each five films two are lateral, and one does not say."""
    patients = {}
    for number in range(90):
        name = f"{('sick', 'well')[number % 2]}/{number:03d}.{('dcm', 'DICOM')[number % 3 == 0]}"
        patients[name] = f"patient {number * 7 % 40}"
        write_dicom(tmp_path / "films" / name, PatientID=patients[name], ViewPosition=VIEWS[number % 5])
    return Films(tmp_path / "films", patients)


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A function that writes a table and an empty file for each path in its first column; returns root and table."""

    def write(rows: Rows, missing: Sequence[str] = ()) -> tuple[Path, Path]:
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for name, *_ in rows[1:]:
            if name and name not in missing and not name.startswith(("/", "..")):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return root, tmp_path / "labels.csv"

    return write
