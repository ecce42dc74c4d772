"""Reader of MedMNIST: small medical images in NumPy files."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from data_pipelines.common.errors import InputError
from data_pipelines.common.message_parts import nearest
from data_pipelines.common.raw_set import RawImage, RawSet, Repeatable
from data_pipelines.common.splits import Split
from data_pipelines.common.tasks import Task
from data_pipelines.image_files.png import encode_png

_OWNER = "https://medmnist.com"
_AGAIN = f"fetch it again from {_OWNER}"
# What zipfile raises of files that it cannot read; RuntimeError of encrypted ones.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class _Facts:
    """What the files do not say. images: of all splits; None where releases differ."""

    classes: tuple[str, ...]
    images: int | None = None
    task: Task = "single_label"
    licence: str = "CC BY 4.0"
    flip: bool = True


_ORGANS = _Facts(
    (
        "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
        "lung-right", "pancreas", "spleen",
    ),
    flip=False,  # a mirrored left kidney is a right one
)  # fmt: skip
_FINDINGS = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
)  # fmt: skip
_TISSUES = (
    "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
    "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
)  # fmt: skip
_LESIONS = (
    "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
    "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
)  # fmt: skip
_BLOOD_CELLS = (
    "basophil", "eosinophil", "erythroblast",
    "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)", "lymphocyte", "monocyte", "neutrophil",
    "platelet",
)  # fmt: skip
_KIDNEY_CELLS = (
    "Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
    "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb",
)  # fmt: skip
SETS = {
    "pathmnist": _Facts(_TISSUES, 107_180),
    "chestmnist": _Facts(_FINDINGS, 112_120, "multi_label"),
    "dermamnist": _Facts(_LESIONS, 10_015, licence="CC BY-NC 4.0"),
    "octmnist": _Facts(("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"), 109_309),
    "pneumoniamnist": _Facts(("normal", "pneumonia"), 5_856),
    "retinamnist": _Facts(("0", "1", "2", "3", "4"), 1_600),
    "breastmnist": _Facts(("malignant", "normal, benign"), 780),
    "bloodmnist": _Facts(_BLOOD_CELLS, 17_092),
    "tissuemnist": _Facts(_KIDNEY_CELLS, 236_386),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}


@dataclass(frozen=True)
class _Part:
    """One split of a file. labels: int64 [N], or float32 [N, C] with several findings for each image."""

    split: Split
    shape: tuple[int, ...]  # of the images: [N, H, W] or [N, H, W, 3]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]


def medmnist(root: Path) -> RawSet:
    """MedMNIST: one of its twelve sets of small medical images, from its .npz file.

    ROOT is the file as downloaded, such as pneumoniamnist.npz or pneumoniamnist_224.npz, or a folder with one. The set
    is called as the file. Splits are the official ones; that no patient is in two of them is not known. ChestMNIST has
    several findings for each image, the others one class; volumes (organmnist3d and the like) are refused.

    To be had at https://medmnist.com; CC BY 4.0, DermaMNIST CC BY-NC 4.0.
    Source: Yang et al., "MedMNIST v2", Scientific Data 10:41, 2023.
    """
    path = _file(root)
    name, facts = _set_of(path)
    with _opened(path) as archive:
        parts = tuple(_part(archive, split, facts, path) for split in _SPLITS)

    def images() -> Iterator[RawImage]:
        for part in parts:
            for row, pixels in enumerate(_pictures(path, part)):
                yield RawImage(f"{part.split}/{row:06d}", part.split, encode_png(pixels), _label(part.labels[row]))

    return RawSet(
        name=name,
        task=facts.task,
        classes=facts.classes,
        images=Repeatable(images),
        num_images=sum(part.shape[0] for part in parts),
        source=f"{name} of MedMNIST, Yang et al. 2023, {_OWNER}, {facts.licence}",
        num_bytes=path.stat().st_size,
        horizontal_flip=facts.flip,
        patients="may leak",
        expected_images=facts.images,
    )


def _label(label: np.int64 | npt.NDArray[np.float32]) -> int | npt.NDArray[np.float32]:
    return label if isinstance(label, np.ndarray) else int(label)


def _file(root: Path) -> Path:
    """The .npz that is meant."""
    if root.is_file():
        return root
    if not root.is_dir():
        raise InputError(f"--root {root} is neither a file nor a folder; files are to be had at {_OWNER}")
    found = sorted(root.glob("*.npz"))
    if not found:
        raise InputError(f"{root} holds no .npz file; files are to be had at {_OWNER}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise InputError(f"{root} holds several .npz files ({names}); name one, such as --root {found[0]}")
    return found[0]


def _set_of(path: Path) -> tuple[str, _Facts]:
    stem = path.stem.lower()
    name = stem.partition("_")[0]
    if name.endswith("3d"):
        raise InputError(f"{path} holds volumes; only the sets of pictures can be read: {', '.join(SETS)}")
    if name not in SETS:
        raise InputError(
            f"{path} is called like none of MedMNIST's files{nearest(name, list(SETS))}; name it as it was when "
            "downloaded, such as pneumoniamnist.npz or pneumoniamnist_224.npz: its classes are known by that name"
        )
    return name, SETS[name]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file. Whatever is wrong with it while it is open is an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged, or no .npz file ({error}); {_AGAIN}") from error


def _shape(file: IO[bytes], where: str) -> tuple[int, ...]:
    """Reads the header of an array of bytes in C order; its shape."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype != np.uint8 or (is_fortran and len(shape) > 1):
        raise InputError(f"{where} is not an array of uint8 in C order, as MedMNIST's are; {_AGAIN}")
    return shape


def _part(archive: zipfile.ZipFile, split: Split, facts: _Facts, path: Path) -> _Part:
    names = f"{split}_images", f"{split}_labels"
    if missing := [name for name in names if f"{name}.npy" not in archive.namelist()]:
        raise InputError(f"{path} has no array {missing[0]}; {_AGAIN}")
    where = f"{path}: {names[0]}"
    with archive.open(f"{names[0]}.npy") as file:
        shape = _shape(file, where)
    if len(shape) not in (3, 4) or shape[3:] not in ((), (3,)) or 0 in shape[1:]:
        raise InputError(f"{where} has the shape {shape}, and must have [N, H, W] or [N, H, W, 3]")
    with archive.open(f"{names[1]}.npy") as file:
        labels = np.lib.format.read_array(file, allow_pickle=False)
    return _Part(split, shape, _checked(labels, shape[0], facts, f"{path}: {names[1]}"))


def _checked(
    labels: npt.NDArray[np.generic], num_images: int, facts: _Facts, where: str
) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    columns = len(facts.classes) if facts.task == "multi_label" else 1
    if labels.dtype.kind not in "iu" or labels.size != num_images * columns or labels.shape[:1] != (num_images,):
        raise InputError(
            f"{where} has the shape {labels.shape} and type {labels.dtype}, and must have {columns} whole "
            f"numbers for each of {num_images} images; {_AGAIN}"
        )
    most = 1 if facts.task == "multi_label" else len(facts.classes) - 1
    wrong = labels[(labels < 0) | (labels > most)]  # type: ignore[operator]
    if wrong.size:
        raise InputError(f"{where} has the label {wrong[0]}, and must have 0 to {most}; {_AGAIN}")
    if facts.task == "multi_label":
        return labels.astype(np.float32)
    return labels.reshape(-1).astype(np.int64)


def _pictures(path: Path, part: _Part) -> Iterator[npt.NDArray[np.uint8]]:
    """The images of a split one by one, uint8 [H, W] or [H, W, 3]: files of 224 pixels hold gigabytes."""
    num_images, *shape = part.shape
    with _opened(path) as archive, archive.open(f"{part.split}_images.npy") as file:
        _shape(file, str(path))
        for row in range(num_images):
            pixels = file.read(prod(shape))
            if len(pixels) < prod(shape):
                raise InputError(f"{path}: {part.split}_images ends at image {row} of {num_images}; {_AGAIN}")
            yield np.frombuffer(pixels, np.uint8).reshape(shape)
