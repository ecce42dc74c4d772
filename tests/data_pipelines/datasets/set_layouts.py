"""A small set in the layout of its owner, for every reader of DATASETS."""

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import webdataset as wds
from dicom_files import dicom_bytes
from dicom_roots import brax_root, rsna_root, vindr_root
from empty_files import touch
from PIL import Image
from test_chest_xray_targets import tuberculosis_root
from test_covidx import TEST, TRAIN, covidx_root
from xray_roots import chexpert_root, mimic_root, nih_root, padchest_root

from data_pipelines.image_files.dicom import DICOM_SUFFIXES

SUFFIXES = {".jpg", ".png", ".jpeg"} | DICOM_SUFFIXES
WNIDS = ("n01440764", "n01443537")
WriteTar = Callable[..., Path]


def picture(number: int, suffix: str = ".jpg", channels: int = 3) -> bytes:
    """A small image file, another one for each number; PNG of one channel has 16 bits, as X-rays do; each second DICOM
    is white on black."""
    shape = (40, 36, 3) if channels == 3 else (40, 36)
    pixels = np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)
    if suffix in DICOM_SUFFIXES:
        return dicom_bytes(pixels, PhotometricInterpretation=f"MONOCHROME{1 + number % 2}")
    if channels == 1 and suffix == ".png":
        pixels = pixels.astype(np.uint16) * 257
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if suffix == ".png" else "JPEG")
    return buffer.getvalue()


def fill(root: Path, channels: int = 3) -> Path:
    """Put a picture into every empty file of an image."""
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES]
    for number, path in enumerate(files):
        path.write_bytes(picture(number, path.suffix.lower(), channels))
    return root


def class_folders(root: Path, _: WriteTar) -> dict[str, Any]:
    touch(root, (f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(20)))
    return {"root": fill(root)}


def table(root: Path, _: WriteTar) -> dict[str, Any]:
    names = [f"films/{number}.png" for number in range(40)]
    touch(root, names)
    rows = [f"{name},{number % 2},{'' if number % 3 else 1},p{number // 2}" for number, name in enumerate(names)]
    (root / "films.csv").write_text("\n".join(["path,edema,mass,patient", *rows]))
    labels = {"label_columns": ("edema", "mass"), "patient_column": "patient", "xray_size": 32}
    return {"root": fill(root, 1), "table": root / "films.csv", **labels}


def tars(root: Path, _: WriteTar) -> dict[str, Any]:
    for split in ("train", "val", "test"):
        with wds.TarWriter(str(root / f"{split}-0.tar")) as writer:
            for number in range(6):
                writer.write({"__key__": f"{number:03d}", "jpg": picture(number), "cls": number % 3})
    return {"root": root}


def imagenet1k(root: Path, _: WriteTar) -> dict[str, Any]:
    for wnid in WNIDS:
        touch(root, (f"train/{wnid}/{wnid}_{number}.JPEG" for number in range(30)))
        touch(root, (f"val/{wnid}/ILSVRC2012_val_{number}{wnid}.JPEG" for number in range(3)))
    return {"root": fill(root), "val_fraction": 0.2}


def imagenet21k(root: Path, write_tar: WriteTar) -> dict[str, Any]:
    for place, wnid in enumerate(WNIDS):  # five pictures are in both classes
        numbers = range(25 * place, 25 * place + 30)
        write_tar(f"{root.name}/{wnid}.tar", {f"{wnid}_{number}.JPEG": picture(number) for number in numbers})
    return {"root": root, "val_fraction": 0.1, "test_fraction": 0.1}


def cifar(root: Path, folder: str, names: str, labels: str, meta: str, batches: tuple[str, ...]) -> dict[str, Any]:
    (root / folder).mkdir()
    for seed, batch in enumerate(batches):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 3072), dtype=np.uint8)
        content = {b"data": pixels, labels.encode(): [number % 3 for number in range(12)]}
        (root / folder / batch).write_bytes(pickle.dumps(content, protocol=2))
    (root / folder / meta).write_bytes(pickle.dumps({names.encode(): [b"cat", b"dog", b"eel"]}, protocol=2))
    return {"root": root, "val_fraction": 0.2}


def cifar10(root: Path, _: WriteTar) -> dict[str, Any]:
    batches = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    return cifar(root, "cifar-10-batches-py", "label_names", "labels", "batches.meta", batches)


def cifar100(root: Path, _: WriteTar) -> dict[str, Any]:
    return cifar(root, "cifar-100-python", "fine_label_names", "fine_labels", "meta", ("train", "test"))


def flowers102(root: Path, _: WriteTar) -> dict[str, Any]:
    touch(root, (f"jpg/image_{number:05d}.jpg" for number in range(1, 31)))
    scipy.io.savemat(root / "imagelabels.mat", {"labels": [[1 + number % 3 for number in range(30)]]})
    splits = {"trnid": range(1, 19), "valid": range(19, 25), "tstid": range(25, 31)}
    scipy.io.savemat(root / "setid.mat", {name: [list(ids)] for name, ids in splits.items()})
    return {"root": fill(root)}


def pets(root: Path, _: WriteTar) -> dict[str, Any]:
    (root / "annotations").mkdir()
    for name, numbers in (("trainval", range(30)), ("test", range(30, 36))):
        breeds = (("Abyssinian", "1 1 1"), ("beagle", "2 2 1"))
        lines = [f"{breed}_{number} {ids}" for breed, ids in breeds for number in numbers]
        (root / "annotations" / f"{name}.txt").write_text("\n".join(lines))
        touch(root, (f"images/{line.split()[0]}.jpg" for line in lines))
    return {"root": fill(root), "val_fraction": 0.2}


def medmnist(root: Path, _: WriteTar) -> dict[str, Any]:
    numbers = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    np.savez_compressed(root / "pneumoniamnist.npz", **arrays)  # type: ignore[arg-type]
    return {"root": root}


def parquet_files(root: Path, _: WriteTar) -> dict[str, Any]:
    for split, start in (("train", 0), ("validation", 20), ("test", 30)):
        rows = range(start, start + 10)
        images = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in rows]
        table = pa.table({"image": images, "label": [number % 2 for number in rows]})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return {"root": root}


def fashion_mnist(root: Path, _: WriteTar) -> dict[str, Any]:
    """Two classes of small images: val is what a class has beyond 900."""
    for part, count in (("train", 2 * 910), ("t10k", 12)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 2
        for name, data in ((f"{part}-images-idx3", pixels), (f"{part}-labels-idx1", labels)):
            header = np.array([0x0800 + data.ndim, *data.shape], dtype=">i4")
            (root / f"{name}-ubyte.gz").write_bytes(gzip.compress(header.tobytes() + data.tobytes()))
    return {"root": root}


TREES: dict[str, Callable[[Path, WriteTar], dict[str, Any]]] = {
    "image-folder": class_folders,
    "csv": table,
    "webdataset": tars,
    "medmnist": medmnist,
    "parquet": parquet_files,
    "imagenet1k": imagenet1k,
    "imagenet21k": imagenet21k,
    "chexpert": lambda root, _: {"root": fill(chexpert_root(root, 40)), "test_fraction": 0.2},
    "mimic_cxr": lambda root, _: {"root": fill(mimic_root(root, 40))},
    "nih_cxr14": lambda root, _: {"root": fill(nih_root(root, 40), 1), "val_fraction": 0.2},
    "padchest": lambda root, _: {"root": fill(padchest_root(root), 1), "val_fraction": 0.2, "test_fraction": 0.2},
    "brax": lambda root, _: {"root": fill(brax_root(root), 1), "val_fraction": 0.2, "test_fraction": 0.2},
    "cifar10": cifar10,
    "cifar100": cifar100,
    "flowers102": flowers102,
    "pets": pets,
    "padchest_cl": lambda root, _: {
        "root": fill(padchest_root(root), 1),
        "val_fraction": 0.2,
        "test_fraction": 0.2,
    },
    "covidx": lambda root, _: {"root": fill(covidx_root(root, TRAIN[:60], TEST[:10])), "val_fraction": 0.2},
    "tuberculosis": lambda root, _: {"root": fill(tuberculosis_root(root), 1)},
    "rsna_pneumonia": lambda root, _: {
        "root": fill(rsna_root(root), 1),
        "val_fraction": 0.2,
        "test_fraction": 0.2,
    },
    "vindr_cxr": lambda root, _: {"root": fill(vindr_root(root), 1), "val_fraction": 0.2},
    "fashion_mnist": fashion_mnist,
    "phantom": lambda root, _: {"images": 60, "size": 32},
    "digits": lambda root, _: {},
}


def layout(name: str, root: Path, write_tar: WriteTar) -> dict[str, Any]:
    """Writes a small set in its owner's layout; the arguments of its reader."""
    assert name in TREES, f"no layout in TREES for {name}: write a small one as its owner distributes it"
    root.mkdir(exist_ok=True)
    return TREES[name](root, write_tar)
