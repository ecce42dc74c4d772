"""Parsers of what becomes a set: prepared files, the readers' tables and archives, DICOM and images."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dicom_files import dicom_bytes
from dicom_roots import brax_root, rsna_root, vindr_root
from fuzz_parser import Parser
from PIL import Image
from tiny_sets import tiny_set
from xray_roots import chexpert_root, mimic_root, nih_root, padchest_root

from data_pipelines.common.errors import InputError
from data_pipelines.common.path_text import path_of, text_of
from data_pipelines.datasets.registry import DATASETS
from data_pipelines.image_files.dicom import dicom_facts
from data_pipelines.image_files.image_verification import verify_image, verify_xray
from data_pipelines.image_files.png import encode_png
from data_pipelines.loading import torch_loader
from data_pipelines.loading.sampler import evaluation_order
from data_pipelines.loading.unreadable import blank
from data_pipelines.loading.views import Augmentation
from data_pipelines.preparation.output import Output
from data_pipelines.preparation.part_writer import verified_or_reason
from data_pipelines.preparation.prepare_set import prepare
from data_pipelines.preparation.pseudonymize import salt
from data_pipelines.shards.index import Index
from data_pipelines.shards.verify import verify
from trainer.evaluation.predicting.inputs import inputs_of


def _small_set(folder: Path) -> Path:
    return tiny_set(folder / "set", [i % 3 for i in range(6)], ["a", "b", "c"], splits=("train", "test"), side=32)


def _use_set(folder: Path) -> None:
    """All that a run does with a set."""
    index = Index.load(folder, "train")
    index.keys(np.arange(len(index)))
    index.facts()
    index.read_ahead(np.arange(len(index)))
    augmentation = Augmentation("squash", 32, 32, flip=False)
    requests = evaluation_order(len(index), 0, 1, 4)
    list(torch_loader.batches(index, requests, augmentation, torch.device("cpu"), 1, replacement=blank))


def index_columns(folder: Path) -> Parser:
    data = _small_set(folder)
    return Parser(folder, sorted((data / "train").glob("*.npy")), lambda _: _use_set(data))


def manifest(folder: Path) -> Parser:
    data = _small_set(folder)

    def read(_: Path) -> None:
        _use_set(data)
        verify(data)

    return Parser(folder, [data / "manifest.json"], read)


def shard_tar(folder: Path) -> Parser:
    """Of its right size, or it would be refused at once."""
    data = _small_set(folder)
    (tar,) = (data / "train").glob("*.tar")
    size = tar.stat().st_size

    def read(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[:size].ljust(size, b"\0"))
        _use_set(data)

    return Parser(folder, [tar], read)


def webdataset_tar(folder: Path) -> Parser:
    """Foreign tars, prepared."""
    data = _small_set(folder)
    root = folder / "raw"
    root.mkdir()
    (tar,) = (data / "train").glob("*.tar")
    shutil.copy(tar, root / "train-0.tar")
    return _prepared(folder, "webdataset", root / "train-0.tar", val_fraction=0.0, test_fraction=0.0)


def _prepared(folder: Path, reader: str, path: Path, **options: Any) -> Parser:
    """A file that a reader takes, prepared."""

    def read(_: Path) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.rmtree(folder / ".out.partial", ignore_errors=True)
        prepare(DATASETS[reader](root=path.parent, **options), Output(folder / "out", max_bad=1.0))

    return Parser(folder, [path], read)


def medmnist_npz(folder: Path) -> Parser:
    path = folder / "raw" / "breastmnist.npz"
    path.parent.mkdir()
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28)
        arrays[f"{split}_labels"] = np.array([[0], [1], [0], [1]], np.uint8)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    salt()  # of the account: the first preparation of patients' images would make it
    return _prepared(folder, "medmnist", path)


def parquet_file(folder: Path) -> Parser:
    path = folder / "raw" / "train.parquet"
    path.parent.mkdir()
    pictures = [encode_png(np.full((8, 8, 3), shade, np.uint8)) for shade in (10, 90, 180, 250)]
    table = pa.table({"image": [{"bytes": one, "path": "a.png"} for one in pictures], "label": [0, 1, 0, 1]})
    names = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), path)
    return _prepared(folder, "parquet", path, val_fraction=0.0, test_fraction=0.0)


def _xray_csv(name: str, make: Callable[[Path], Path], **options: Any) -> Callable[[Path], Parser]:
    def parser(folder: Path) -> Parser:
        root = folder / "raw"
        root.mkdir()
        make(root)
        files = [path for path in sorted(root.rglob("*")) if path.suffix in (".csv", ".txt", ".gz", ".json")]

        def read(_: Path) -> None:
            raw = DATASETS[name](root=root, **options)
            for image in raw.images:
                assert len(image.key) < 100

        return Parser(folder, files, read)

    return parser


def own_csv(folder: Path) -> Parser:
    names = [f"films/{number}.png" for number in range(12)]
    (folder / "films").mkdir()
    for name in names:
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / name)
    text = io.StringIO()
    rows = [(name, number % 2, "" if number % 3 else 1, f"p{number // 2}") for number, name in enumerate(names)]
    csv.writer(text).writerows([("path", "edema", "mass", "patient"), *rows])
    (folder / "films.csv").write_text(text.getvalue())
    labels: dict[str, Any] = {"label_columns": ("edema", "mass"), "patient_column": "patient", "xray_size": 32}

    def read(path: Path) -> None:
        for image in DATASETS["csv"](root=folder, table=path, **labels).images:
            assert isinstance(image.image, Path)
            assert folder in image.image.resolve().parents, "a path out of the root"

    return Parser(folder, [folder / "films.csv"], read)


def own_folder(folder: Path) -> Parser:
    """Pictures whose contents tell what they are."""
    files = {f"cat/{number}": kind for number, kind in enumerate(("GIF", "WEBP", "TIFF", "AVIF"))}
    (folder / "root" / "cat").mkdir(parents=True)
    frames = [Image.new("RGB", (8, 8), (90 * number, 20, 30)) for number in range(2)]
    for name, kind in files.items():
        frames[0].save(folder / "root" / name, kind, save_all=True, append_images=frames[1:])
    (folder / "root" / "cat" / "still.png").touch()

    def read(path: Path) -> None:
        raw = DATASETS["image-folder"](root=folder / "root")
        assert raw.num_images + sum(raw.left_out.values()) == 5
        assert [item.name for item in inputs_of(folder / "root").each] == [
            str(image.image.relative_to(folder / "root")) for image in raw.images
        ]

    return Parser(folder, [folder / "root" / name for name in files], read)


def file_names(folder: Path) -> Parser:
    """Names of files, one in a line."""
    names = ["Train/cat/é.jpg", "Train/cat/a.b.png", "Train/cat/._c.jpg", "Train/nan/d", "val/cat/e", "notes"]
    (folder / "names").write_text("\n".join(names))

    def read(path: Path) -> None:
        root = folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name in path.read_bytes().split(b"\n"):
            parts = [part[:60] for part in name.split(b"\0")[0].split(b"/")[:4] if part not in (b"", b".", b"..")]
            if parts:
                place = Path(os.fsdecode(os.path.join(os.fsencode(root), *parts)))
                with suppress(OSError):  # a folder of that name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(b"GIF89a")
        for image in DATASETS["image-folder"](root=root).images:
            assert path_of(text_of(image.image)) == image.image
            assert image.key.isprintable()

    return Parser(folder, [folder / "names"], read)


def dicom(folder: Path) -> Parser:
    (folder / "film.dcm").write_bytes(dicom_bytes())

    def read(path: Path) -> None:
        with suppress(ValueError, OSError):  # which for its caller is a row of the quarantine
            dicom_facts(path)
        _into_quarantine(path, lambda encoded: verify_xray(encoded, 16))

    return Parser(folder, [folder / "film.dcm"], read)


def image_files(folder: Path) -> Parser:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    files = [folder / f"image.{kind}" for kind in ("png", "jpg", "bmp", "tif", "webp")]
    for path in files:
        Image.fromarray(pixels).save(path)

    def read(path: Path) -> None:
        for side in (None, 8):
            _into_quarantine(path, partial(verify_image, shorter_side=side))

    return Parser(folder, files, read)


def _into_quarantine(path: Path, check: Callable[[bytes], Any]) -> None:
    """As `prepare` does: whatever a decoder throws is a reason, in one line."""
    found = verified_or_reason(path.read_bytes, check)
    if isinstance(found, str):
        if "\n" in found or not found or found.startswith(("MemoryError", "AssertionError")):
            raise RuntimeError(f"no reason for people: {found!r}")
        raise InputError(found)


SET_PARSERS: dict[str, Callable[[Path], Parser]] = {
    "index": index_columns,
    "manifest": manifest,
    "shard": shard_tar,
    "webdataset tar": webdataset_tar,
    "medmnist .npz": medmnist_npz,
    "parquet": parquet_file,
    "own csv": own_csv,
    "own folder": own_folder,
    "file names": file_names,
    "chexpert csv": _xray_csv("chexpert", lambda root: chexpert_root(root, 4), test_fraction=0.2),
    "mimic csv": _xray_csv("mimic_cxr", lambda root: mimic_root(root, 6)),
    "nih csv": _xray_csv("nih_cxr14", lambda root: nih_root(root, 4), val_fraction=0.2),
    "padchest csv": _xray_csv("padchest", padchest_root, val_fraction=0.2, test_fraction=0.2),
    "brax csv": _xray_csv("brax", lambda root: brax_root(root, 6), val_fraction=0.2, test_fraction=0.2),
    "rsna csv": _xray_csv("rsna_pneumonia", lambda root: rsna_root(root, 8), detailed=True, val_fraction=0.2),
    "vindr csv": _xray_csv("vindr_cxr", lambda root: vindr_root(root, 4, 2), val_fraction=0.2),
    "dicom": dicom,
    "images": image_files,
}
