"""The sets of the study as class folders, written from the embedded images and from a folder of real ones."""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.common.splits import SPLITS, hash_split
from data_pipelines.datasets.catalog import find
from data_pipelines.image_files.png import encode_png
from data_pipelines.shards.index import Index

# Every second class of tops, of shoes and of the rest, as in the quickstart; the other four are a target.
CLOTHES_A = ("T-shirt", "Dress", "Shirt", "Sandal", "Ankle boot", "Trouser")
_NIH_NAME = re.compile(r"(\d{8})_\d{3}\.")  # patient, follow-up
_WNID = re.compile(r"n(\d{8})_")
_FIRST_THING, _FIRST_OTHER = 2_666_000, 5_000_000  # of WordNet's numbers: animals end, artefacts end
TABLE = "table.csv"
File = tuple[str, bytes]


@dataclass(frozen=True)
class StudySet:
    """A set of the study. needs: file below the folder of real images, a zip or the folder of its name without ".zip";
    None for what ships with the package. write: writes the raw set into a folder; None for what `prepare` makes by
    itself. flags: of `prepare`; "{raw}" stands for the raw set."""

    name: str
    needs: str | None
    write: Callable[[Path, Path], None] | None
    flags: tuple[str, ...]

    def found(self, real: Path | None) -> Path | None:
        """What the set is made of: the file or folder; None where it is not there."""
        if self.needs is None:
            return Path()
        if real is None:
            return None
        places = (real / self.needs, real / self.needs.removesuffix(".zip"))
        return next((place for place in places if place.exists()), None)


def write_files(folder: Path, files: Iterable[File]) -> None:
    """Write files by their names below a folder."""
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read_files(place: Path) -> Iterator[File]:
    """Names and contents of all files of a zip or of a folder, in the order of their names."""
    if place.is_dir():
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            yield path.relative_to(place).as_posix(), path.read_bytes()
        return
    with zipfile.ZipFile(place) as archive:
        for name in sorted(name for name in archive.namelist() if not name.endswith("/")):
            yield name, archive.read(name)


def _clothes(seen: bool) -> Callable[[Path, Path], None]:
    def write(_: Path, folder: Path) -> None:
        write_files(folder, clothes_files(seen))

    return write


def clothes_files(seen: bool) -> Iterator[File]:
    """The embedded clothes of the classes to pre-train on (seen), or of the others, with their split and class."""
    place = find("fashion_mnist")
    for split in SPLITS:
        index = Index.load(place, split)
        for row, label in enumerate(index.labels):
            name = index.classes[label]
            if (name in CLOTHES_A) == seen:
                yield f"{split}/{name}/{row:05d}.png", index.encoded(row).tobytes()


def _copy(place: Path, folder: Path) -> None:
    write_files(folder, read_files(place))


def _pneumonia(place: Path, folder: Path) -> None:
    with np.load(place) as arrays:
        for split in SPLITS:
            pictures, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel()
            write_files(
                folder,
                (
                    (f"{split}/{('normal', 'pneumonia')[label]}/{row:05d}.png", encode_png(pictures[row]))
                    for row, label in enumerate(labels)
                ),
            )


def patient_of(name: str) -> str | None:
    """The patient whom the name of a file of NIH ChestX-ray14 tells; None of other names."""
    match = _NIH_NAME.match(Path(name).name)
    return match[1] if match else None


def in_half_b(patient: str) -> bool:
    """Whether a patient belongs to the half that is a target."""
    return hash_split(patient, 0.0, 0.5) == "test"


def _xrays_a(place: Path, folder: Path) -> None:
    """Half of the patients, and all images whose patients nobody knows."""

    def wanted(name: str) -> bool:
        patient = patient_of(name)
        return patient is None or not in_half_b(patient)

    write_files(folder, ((name, content) for name, content in read_files(place) if wanted(name)))


def _xrays_b(place: Path, folder: Path) -> None:
    """The other half of the patients, with a table of their images: a third of them for the test."""
    rows = ["path,class,patient,split"]
    for name, content in read_files(place):
        patient = patient_of(name)
        if patient is not None and in_half_b(patient):
            write_files(folder, [(name, content)])
            rows.append(f"{name},{Path(name).parent.name},{patient},{hash_split(f'test of {patient}', 0.0, 0.35)}")
    (folder / TABLE).write_text("\n".join(rows) + "\n", encoding="utf-8")


def _animals(place: Path, folder: Path) -> None:
    """Photographs of ImageNet classes as two classes, animals and things, by WordNet's numbers. Every photograph shows
    another class of ImageNet, so no species or kind of thing is in two splits."""
    for name, content in read_files(place):
        match = _WNID.match(Path(name).name)
        if match and int(match[1]) < _FIRST_OTHER:
            group = "animal" if int(match[1]) < _FIRST_THING else "thing"
            split = hash_split(Path(name).name, 0.0, 0.4)
            write_files(folder, [(f"{split}/{group}/{Path(name).name}", content)])


_FOLDERS = ("image-folder", "--root", "{raw}")
_XRAY = ("--xray-size", "48")
_XRAYS = "covid-cxr.zip"
SOURCES = (
    StudySet("clothes_a", None, _clothes(True), _FOLDERS),
    StudySet("phantoms", None, None, ("phantom", "--images", "6000", "--size", "48")),
    StudySet("cifar10", "cifar10-jpeg.zip", _copy, _FOLDERS),
    StudySet("xrays_a", _XRAYS, _xrays_a, (*_FOLDERS, *_XRAY, "--split-by", "image")),
)
TARGETS = (
    StudySet("digits", None, None, ("digits",)),
    StudySet("clothes_b", None, _clothes(False), _FOLDERS),
    StudySet("pneumoniamnist", "pneumoniamnist.npz", _pneumonia, _FOLDERS),
    StudySet(
        "xrays_b",
        _XRAYS,
        _xrays_b,
        (
            *("csv", "--root", "{raw}", "--table", f"{{raw}}/{TABLE}", "--label-column", "class", *_XRAY),
            *("--patient-column", "patient", "--split-column", "split", "--val-fraction", "0"),
        ),
    ),
    StudySet(
        "animals",
        "imagenet-samples.zip",
        _animals,
        (*_FOLDERS, "--val-fraction", "0", "--shorter-side", "64"),
    ),
)
